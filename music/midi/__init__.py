"""MIDI files ⇄ Notes: bytes → events → notes with the pedal folded in, and back."""

from music.midi.files import (
    Summary,
    find_program,
    grid,
    inspect,
    instrument_name,
    no_notes,
    read,
    read_with_warnings,
)
from music.midi.grids import FAR, Grid
from music.midi.names import ENDINGS, is_midi, unpacked
from music.midi.parser import read as parse
from music.midi.writing import write

__all__ = [
    "ENDINGS",
    "FAR",
    "Grid",
    "Summary",
    "find_program",
    "grid",
    "inspect",
    "instrument_name",
    "is_midi",
    "no_notes",
    "parse",
    "read",
    "read_with_warnings",
    "unpacked",
    "write",
]
