"""Flags that the commands of `python -m music` share: text → numbers, a path and flags → the Notes of that part.

Knows nothing of what is done with the notes.
"""

import argparse
import math
import sys
from dataclasses import fields

from music import midi, storage
from music import notes as nt
from music.errors import MusicError
from music.generation import MOST_NEW_NOTES, NEW_NOTES, Settings
from music.midi.parser import File
from music.notes import Notes


def count(text: str) -> int:
    """Parse a flag's value as a whole number, 0 or more (an argparse type)."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of notes, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Parse a flag's value as a whole number, 1 or more (an argparse type)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Parse a flag's value as seconds, 0 or more (an argparse type)."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r}")
    return number


def program(text: str) -> int:
    """Parse a flag's value as a General MIDI program, by number or by name (an argparse type)."""
    try:
        return midi.find_program(text)
    except MusicError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def drums(text: str) -> bool:
    """Parse the value of --drums, "auto" or "none": whether a file may have drums (an argparse type)."""
    if text not in ("auto", "none"):
        raise argparse.ArgumentTypeError(f"expected auto or none, got {text!r}")
    return text == "auto"


def add_drums(parser: argparse.ArgumentParser) -> None:
    """Add the flag --drums to a command, as `args.drums`."""
    parser.add_argument(
        "--drums", type=drums, default=True, metavar="auto|none",
        help="auto: channel 10 plays drums, unless the file is MPE; none: it has pitches, as all (default: auto)",
    )  # fmt: skip


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of Settings, which `settings` reads."""
    parser.add_argument(
        "--notes", type=int, metavar="N",
        help=f"number of new notes at most (default: {NEW_NOTES}, or {MOST_NEW_NOTES:,} with --seconds)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=Settings.temperature, metavar="X",
        help="0 or more; 0: the likeliest note each time; below 1: likelier notes more often (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=float, default=Settings.top_p, metavar="X",
        help="above 0, to 1: draw from the likeliest values that together have this probability (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--min-p", type=float, default=Settings.min_p, metavar="X",
        help="0 to below 1: drop values below this share of the likeliest one's probability (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--random-seed", type=int, metavar="N",
        help="whole number; the same one gives the same piece (default: another one each time)",
    )  # fmt: skip
    add_controls(parser)
    parser.add_argument(
        "--seconds", type=float, metavar="S",
        help="let the piece end by itself at about S seconds, the seed included (default: as it comes)",
    )  # fmt: skip


def add_controls(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what can be asked of every piece of a model with controls."""
    parser.add_argument("--style", metavar="NAME", help="a composer that the model knows (default: as it comes)")
    parser.add_argument("--density", type=float, metavar="X", help="notes a second, about (default: as they come)")
    parser.add_argument(
        "--loudness", type=float, metavar="X", help="mean velocity of the notes, about (default: as it comes)"
    )


def settings(args: argparse.Namespace) -> Settings:
    """Read the flags of `add_settings`. Raises SettingError for a value outside its range."""
    return Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is read of a file: --start, --seconds and --drums, as `args.start` and so on."""
    parser.add_argument(
        "--start", type=seconds, default=0.0, metavar="S", help="seconds at which the part begins (default: 0)"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=math.inf,
        metavar="S",
        help="seconds that the part lasts (default: to the end)",
    )
    add_drums(parser)


def read_file(path: str) -> File:
    """Read the events of a MIDI or MusicXML file, unpacked if its name ends in .gz. Raises what `read_part` raises."""
    return midi.parse(midi.unpacked(path, storage.read(path)))


def read_part(
    path: str,
    begin: float = 0.0,
    end: float = math.inf,
    *,
    file: File | None = None,
    pedal: bool = True,
    drums: bool = True,
) -> Notes:
    """Read the notes of a MIDI or MusicXML file that begin in [begin, end), cut at the end, on the file's clock.

    What is damaged in the file, or left out, is printed on stderr, a line each.

    Args:
        path: a file's path or URL.
        begin, end: the part, in seconds; by default all of the file.
        file: its events, where `read_file` has read them already.
        pedal: let notes sound as long as the pedal is down, as in `midi.read`.
        drums: whether channel 10 plays drums, as in `midi.read`.

    Raises:
        MidiError: the file is neither, or has no notes; the message says why.
        MissingDependency: it is MusicXML, and music21 is not installed.
        MusicError: no note begins there; the message says how many notes there are and where the last one ends.
    """
    file = read_file(path) if file is None else file
    notes, warnings = midi.read_with_warnings(file, pedal=pedal, drums=drums)
    if not len(notes):
        raise midi.no_notes(warnings)
    for line in warnings:
        print(f"{path}: {line}", file=sys.stderr)
    part = nt.between(notes, begin, end)
    if not len(part):
        raise MusicError(f"no note begins in that part; it has {len(notes)} and ends at {nt.length(notes):.1f} s")
    return part
