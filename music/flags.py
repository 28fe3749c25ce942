"""Flags that the commands of `python -m music` share: text → numbers, a path and flags → the Notes of that part.

Knows nothing of what is done with the notes.
"""

import argparse
import math
import sys

from music import midi, storage
from music import notes as nt
from music.errors import MusicError
from music.notes import Notes


def count(text: str) -> int:
    """Parse a flag's value as a whole number, 0 or more (an argparse type)."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of notes, got {text!r}")
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


def read_file(path: str) -> bytes:
    """Read the bytes of a MIDI file, unpacked if its name ends in .gz."""
    return midi.unpacked(path, storage.read(path))


def read_part(
    path: str, start: float = 0.0, seconds: float = math.inf, *, pedal: bool = True, drums: bool = True
) -> Notes:
    """Read the notes of a MIDI file that begin in [start, start + seconds), cut at its end, on the file's own clock.

    What is damaged in the file, or left out, is printed on stderr, a line each.

    Args:
        path: a file's path or URL.
        start, seconds: the part; by default all of the file.
        pedal: let notes sound as long as the pedal is down, as in `midi.read`.
        drums: whether channel 10 plays drums, as in `midi.read`.

    Raises:
        MidiError: the file is no MIDI, or has no notes; the message says why.
        MusicError: no note begins there; the message says how many notes there are and where the last one ends.
    """
    notes, warnings = midi.read_with_warnings(read_file(path), pedal=pedal, drums=drums)
    if not len(notes):
        raise midi.no_notes(warnings)
    for line in warnings:
        print(f"{path}: {line}", file=sys.stderr)
    part = nt.shift(nt.excerpt(notes, start, seconds), start)
    if not len(part):
        raise MusicError(f"no note begins in that part; it has {len(notes)} and ends at {nt.length(notes):.1f} s")
    return part
