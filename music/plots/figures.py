"""`python -m music plot`: files → pictures, by the kind of picture and of file.

python -m music plot song.mid roll.png --start 60 --seconds 30         # no KIND: by what the files are
python -m music plot seed.mid continued.mid both.svg                   # two in one roll, shared notes drawn once
python -m music plot roll song.mid roll.pdf --notes 100
python -m music plot distributions song.mid pitch-and-time.png
python -m music plot distributions real=data/maestro ours=runs/mine/samples beside.png
python -m music plot composers data/maestro/stats.json composers.png --top 30
python -m music plot chords data/maestro chords.png
python -m music plot losses runs/mine/history.csv loss.png --baseline bigram=12.3

IN is a MIDI or MusicXML file, the stats.json of a dataset, or a folder: a dataset, or such files, which count as one
set. NAME=IN gives an input a name for the legend; inputs of the same name are one set. OUT ends in .png, .svg or .pdf.
"""

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

import numpy as np

from music import flags, midi, storage
from music import notes as nt
from music.analysis import statistics
from music.analysis.statistics import Statistics
from music.errors import MusicError
from music.notes import Notes
from music.plots import charts, style
from music.plots.piano_roll import losses, piano_roll

KINDS = {
    "roll": "piano roll: the notes by time, pitch and velocity",
    "distributions": "distributions of pitch, velocity, step and duration, of one or several sets of music",
    "composers": "how many pieces of each composer a dataset holds",
    "chords": "how often which notes and chords are played",
    "losses": "the learning curves of a run",
}
_SETS = "MIDI or MusicXML file, folder of MIDI files, dataset folder or stats.json, as IN or NAME=IN"
_INPUTS = {
    "roll": "MIDI or MusicXML file or folder of them, as IN or NAME=IN",
    "distributions": _SETS,
    "composers": "dataset folder or its stats.json",
    "chords": _SETS,
    "losses": "a run's folder or its history.csv",
}
_STATISTICS, _HISTORY = "stats.json", "history.csv"
_SAME = 0.005  # seconds between the onsets of one note in two files; their ticks may differ


def add_to(verbs) -> None:
    """Add the command `plot` to the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    plot = verbs.add_parser("plot", help="draw music, a dataset or a run", description=__doc__, formatter_class=raw)
    kinds = plot.add_subparsers(dest="kind", metavar="KIND", required=True)
    commands = {"roll": _roll, "distributions": _distributions, "composers": _composers, "chords": _chords}
    for kind, text in KINDS.items():
        each = kinds.add_parser(kind, help=text, description=text)
        several = kind in ("roll", "distributions", "chords")
        each.add_argument("inputs", metavar="IN", nargs="+" if several else 1, help=_INPUTS[kind])
        each.add_argument("out", metavar="OUT", help=f"picture to write; its ending: {', '.join(style.FORMATS)}")
        each.add_argument("--title", default="", metavar="TEXT", help="title of the picture (default: generated)")
        if several:
            flags.add_part(each)
            each.add_argument(
                "--notes", type=flags.count, metavar="N", help="only the first N notes of that part (default: all)"
            )
        if kind in ("composers", "chords"):
            each.add_argument(
                "--top",
                type=flags.count,
                default=charts.TOP,
                metavar="N",
                help=f"number of bars (default: {charts.TOP})",
            )
        if kind == "losses":
            each.add_argument(
                "--unit", default="nats a note", metavar="TEXT", help="unit of the losses (default: nats a note)"
            )
            each.add_argument(
                "--baseline", type=_baseline, action="append", default=[], metavar="NAME=X",
                help="also draw a line at loss X; may be given several times",
            )  # fmt: skip
        each.set_defaults(command=_check_and_print(commands.get(kind, _losses)))


def with_kind(argv: list[str]) -> list[str]:
    """Insert a missing KIND into `plot IN… OUT`: losses for a .csv, distributions for a .json, else roll."""
    if argv[:1] != ["plot"] or len(argv) < 2 or argv[1] in (*KINDS, "-h", "--help"):
        return argv
    endings = {PurePath(word).suffix.lower() for word in argv[1:]}
    kind = "losses" if ".csv" in endings else "distributions" if ".json" in endings else "roll"
    return ["plot", kind, *argv[1:]]


def _baseline(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, such as bigram=12.3, got {text!r}")
    return name, value


def _check_and_print(command):
    """Wrap a command: check the picture's name before anything is read, and print it at the end."""

    def run(args: argparse.Namespace) -> None:
        style.check(args.out)
        command(args)
        print(args.out)

    return run


def _roll(args: argparse.Namespace) -> None:
    parts: dict[str, Notes] = {}
    everything = nt.empty()
    for name, path in _named(args.inputs):
        notes = _remove_drawn(nt.sort(np.concatenate(_music(path, args))), everything)
        parts[name] = nt.sort(np.concatenate([parts.get(name, nt.empty()), notes]))
        everything = np.concatenate([everything, notes])
    if len(parts) == 1:
        piano_roll(everything, args.out, args.title or next(iter(parts)))
    else:
        piano_roll(parts, args.out, args.title)


def _distributions(args: argparse.Namespace) -> None:
    charts.distributions(_sets(args), args.out, args.title)


def _chords(args: argparse.Namespace) -> None:
    sets = _sets(args)
    if len(sets) > 1:
        raise MusicError(
            f"chords are drawn of one set of music, got {', '.join(sets)}; NAME=IN puts files into one set"
        )
    (music,) = sets.values()
    if music.chords is None:
        raise MusicError(f"{args.inputs[0]}: written before chords were counted; run the preprocessing again")
    with _about(args.inputs[0]):
        charts.chords(music.chords, args.out, args.top, args.title)


def _composers(args: argparse.Namespace) -> None:
    ((_, path),) = _named(args.inputs)
    path = storage.join(path, _STATISTICS) if storage.is_folder(path) else path
    with _about(path):
        charts.composers(statistics.read(path).composers, args.out, args.top, args.title)


def _losses(args: argparse.Namespace) -> None:
    (path,) = args.inputs
    path = storage.join(path, _HISTORY) if storage.is_folder(path) else path
    losses(path, args.out, args.unit, dict(args.baseline), args.title)


def _named(inputs: list[str]) -> list[tuple[str, str]]:
    """Split each input into (name, path): NAME=PATH, or the name of its file or folder; if two agree, the full path."""
    named = []
    for text in inputs:
        name, equals, path = text.partition("=")
        if equals and "/" not in name and not storage.exists(text):
            named.append((name, path))
        else:
            same_name = [other for other in inputs if _name(other) == _name(text)]
            named.append((_name(text) if len(same_name) == 1 else text, text))
    return named


def _name(path: str) -> str:
    full = PurePath(path if storage.remote(path) else os.path.realpath(path))
    return full.parent.name if full.name == _STATISTICS else full.name


def _sets(args: argparse.Namespace) -> dict[str, Statistics]:
    """Read the statistics of each set, by name. Those of a dataset can neither be added to others nor cut."""
    sets: dict[str, Statistics] = {}
    pieces: dict[str, list[Notes]] = {}
    for name, path in _named(args.inputs):
        if storage.is_folder(path) and storage.exists(storage.join(path, _STATISTICS)):
            path = storage.join(path, _STATISTICS)
        if path.lower().endswith(".json"):
            if name in sets or (args.start, args.start + args.seconds, args.notes) != (0.0, math.inf, None):
                raise MusicError(f"{path}: what was counted of a whole dataset is neither cut nor added to others")
            with _about(path):
                sets[name] = statistics.read(path)
        else:
            if name in sets and name not in pieces:
                raise MusicError(f"{path}: what was counted of a whole dataset is neither cut nor added to others")
            pieces.setdefault(name, []).extend(_music(path, args))
            sets[name] = statistics.of(pieces[name])
    return sets


def _music(path: str, args: argparse.Namespace) -> list[Notes]:
    """Read the wanted part of a file of music, or of each one in a folder."""
    files = [path]
    if storage.is_folder(path):
        files = [file.path for file in storage.walk(path) if midi.is_music(file.path)]
        if not files:
            raise MusicError(f"{path}: neither {_STATISTICS} nor a file of music is in it")
    parts = []
    for file in files:
        with _about(file):
            parts.append(flags.read_part(file, args.start, args.start + args.seconds, drums=args.drums)[: args.notes])
    return parts


@contextmanager
def _about(path: str) -> Iterator[None]:
    """Let errors inside name the file."""
    try:
        yield
    except MusicError as error:
        raise type(error)(f"{path}: {error}") from error


def _remove_drawn(notes: Notes, drawn: Notes) -> Notes:
    """Remove the notes that are drawn already: of the same pitch, begun at the same time."""

    def cells(notes: Notes) -> list[tuple[int, int]]:
        return list(zip(notes["pitch"].tolist(), np.rint(notes["start"] / _SAME).astype("i8").tolist(), strict=True))

    taken = {(pitch, cell + beside) for pitch, cell in cells(drawn) for beside in (-1, 0, 1)}
    return notes[np.array([cell not in taken for cell in cells(notes)], bool)]
