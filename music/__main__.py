"""Look into MIDI and MusicXML files, draw them, play them, write them as scores. Knows nothing of models and datasets.

python -m music inspect song.mid                 # instruments, tempo, pedal, length, and the first 30 notes
python -m music inspect song.mid --csv > song.csv
python -m music plot song.mid song.png --start 60 --seconds 30           # and more kinds: python -m music plot --help
python -m music render song.mid song.mp3 --program violin                # or .wav, .flac, .ogg
python -m music score song.mid song.pdf                                  # or .musicxml, .svg, .png
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import NoReturn, TextIO

from music import audio, flags, midi, storage
from music import notes as nt
from music.command_line import fail
from music.errors import MusicError
from music.midi import Summary
from music.notation import engraving
from music.notation.musicxml import musicxml
from music.notes import Notes
from music.plots import figures

_COLUMNS = ("name", "start", "end", "pitch", "velocity", "step", "duration", "instrument")
_ROWS = 30  # notes in the table by default
_TEMPOS = 6  # tempos in the text at most; a file may have thousands
_PLACES = 6  # decimals of a second: microseconds, as datasets store them


def run(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status. A mistake of the user's is one line on stderr and 2."""
    args = _parser().parse_args(figures.with_kind(sys.argv[1:] if argv is None else argv))
    try:
        args.command(args)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; no mistake
        raise
    except OSError as error:
        return fail(f"music {args.verb}", f"{error.filename}: {error.strerror}")
    except MusicError as error:
        file = f"{args.file}: " if "file" in args else ""  # a command of several files names the one it means
        return fail(f"music {args.verb}", f"{file}{error}")
    except ModuleNotFoundError as error:
        return fail(f"music {args.verb}", f"needs {error.name}, which `pip install '.[plots]'` brings")
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2, as for every other mistake; --help explains the rest."""
        self.exit(2, f"{self.prog}: {message}; --help tells more\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m music", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)

    inspect = verbs.add_parser("inspect", help="say what is in a MIDI or MusicXML file")
    inspect.add_argument("file", metavar="IN", help="MIDI or MusicXML file to read")
    form = inspect.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as one JSON object (default: text)")
    form.add_argument("--csv", action="store_true", help="print all notes as CSV (default: text)")
    inspect.add_argument(
        "--notes", type=flags.count, default=_ROWS, metavar="N", help=f"rows of the table (default: {_ROWS})"
    )
    flags.add_part(inspect)
    inspect.set_defaults(command=_inspect)

    figures.add_to(verbs)

    render = verbs.add_parser("render", help="turn a MIDI or MusicXML file into a sound file")
    render.add_argument("file", metavar="IN", help="MIDI or MusicXML file to read")
    render.add_argument("out", metavar="OUT", help=f"sound file to write; its ending: {', '.join(audio.FORMATS)}")
    flags.add_part(render)
    render.add_argument(
        "--program", type=flags.program, metavar="N",
        help="General MIDI instrument of all notes but drums: 0 to 127, or a name (default: as in the file)",
    )  # fmt: skip
    render.add_argument("--sound-font", metavar="FILE", help="a .sf2 or .sf3 file (default: TimGM6mb)")
    render.set_defaults(command=_render)

    sheet = verbs.add_parser("score", help="write a MIDI or MusicXML file as a piano score")
    sheet.add_argument("file", metavar="IN", help="MIDI or MusicXML file to read")
    sheet.add_argument("out", metavar="OUT", help=f"file to write; its ending: {', '.join(engraving.FORMATS)}")
    flags.add_part(sheet)
    sheet.add_argument("--title", metavar="TEXT", help="printed above the first line (default: the file's name)")
    sheet.set_defaults(command=_score)
    return parser


def _inspect(args: argparse.Namespace) -> None:
    summary = midi.inspect(flags.read_file(args.file), drums=args.drums)
    rows = [row for row in _rows(summary.notes) if args.start <= row["start"] < args.start + args.seconds]
    if args.json:
        json.dump({"file": Path(args.file).name, **_facts(summary), "notes": rows}, sys.stdout, indent=1)
        print()
    elif args.csv:
        table = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    else:
        _print(summary, rows, args.notes, sys.stdout)


def _render(args: argparse.Namespace) -> None:
    format = audio.format_of(args.out)
    notes = nt.shift(flags.read_part(args.file, args.start, args.start + args.seconds, drums=args.drums), -args.start)
    if args.program is not None:
        notes = nt.with_program(notes, args.program)
    with storage.writing(args.out) as file:
        audio.write(notes, file, format, sound_font=args.sound_font)
    print(args.out)


def _score(args: argparse.Namespace) -> None:
    engraving.format_of(args.out)  # before the work
    file, end = flags.read_file(args.file), args.start + args.seconds
    notes = flags.read_part(args.file, args.start, end, file=file, pedal=False, drums=args.drums)
    title = Path(args.file).stem if args.title is None else args.title
    for path in engraving.write(musicxml(notes, midi.grid(file), title), args.out):
        print(path)


def _facts(summary: Summary) -> dict:
    return {
        "seconds": round(summary.seconds, _PLACES),
        "instruments": [{"name": name, "notes": count} for name, count in summary.instruments],
        "tempos": [
            {"second": round(at, _PLACES), "quarters_per_minute": round(tempo, 3)} for at, tempo in summary.tempos
        ],
        "pedal_presses": summary.pedal_presses,
        "ticks_per_quarter": summary.ticks_per_quarter,
        "warnings": summary.warnings,
    }


def _rows(notes: Notes) -> list[dict]:
    """Make one dict a note with the keys _COLUMNS; `step` is the time since the onset before, in seconds."""
    return [
        {
            "name": nt.name(int(note["pitch"])),
            "start": round(float(note["start"]), _PLACES),
            "end": round(float(note["end"]), _PLACES),
            "pitch": int(note["pitch"]),
            "velocity": int(note["velocity"]),
            "step": round(float(step), _PLACES),
            "duration": round(float(note["end"] - note["start"]), _PLACES),
            "instrument": midi.instrument_name(note["program"]),
        }
        for note, step in zip(notes, nt.steps(notes), strict=True)
    ]


def _print(summary: Summary, rows: list[dict], limit: int, out: TextIO) -> None:
    notes, instruments = summary.notes, summary.instruments
    tempos = [f"{tempo:.4g}" + (f" from {at:.1f} s" if at else "") for at, tempo in summary.tempos]
    more = f", and {len(tempos) - _TEMPOS} more" if len(tempos) > _TEMPOS else ""
    names = ", ".join(f"{name} ({_count(n)})" for name, n in instruments)
    print(f"instruments  {len(instruments)}: {names}", file=out)
    print(f"length       {_clock(summary.seconds)}, {_count(len(notes))}", file=out)
    print(f"tempo        {', '.join(tempos[:_TEMPOS])}{more} quarters a minute", file=out)
    print(f"pedal        {summary.pedal_presses:,} presses, folded into the ends of the notes", file=out)
    if drums := dict(instruments).get(midi.instrument_name(nt.DRUMS)):
        print(f"drums        {_count(drums)} of channel 10; --drums none reads them as pitches", file=out)
    for warning in summary.warnings:
        print(f"damaged      {warning}", file=out)
    if len(rows) < len(notes):
        print(f"this part    {_count(len(rows))}", file=out)
    if not rows or not limit:
        return
    print(
        f"\n{'name':5} {'start':>9} {'end':>9} {'pitch':>5} {'velocity':>8} {'step':>7} {'duration':>8}  instrument",
        file=out,
    )
    for row in rows[:limit]:
        print("{name:5} {start:9.3f} {end:9.3f} {pitch:5} {velocity:8} {step:7.3f} {duration:8.3f}  {instrument}"
              .format(**row), file=out)  # fmt: skip
    if len(rows) > limit:
        print(f"… and {len(rows) - limit:,} more; --notes N shows N of them, --csv and --json all", file=out)


def _count(notes: int) -> str:
    return f"{notes:,} note{'' if notes == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)} min {rest:.1f} s" if minutes else f"{rest:.1f} s"


if __name__ == "__main__":
    try:
        sys.exit(run())
    except BrokenPipeError:  # the reader has closed the pipe, so Python must not flush into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
