"""MIDI files ⇄ Notes: bytes → events → notes with the pedal folded in, and back. MusicXML becomes MIDI first."""

from music.midi.files import (
    Summary,
    find_program,
    grid,
    inspect,
    instrument_name,
    no_notes,
    parse,
    read,
    read_with_warnings,
)
from music.midi.grids import FAR, Grid
from music.midi.names import ENDINGS, is_music, unpacked
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
    "is_music",
    "no_notes",
    "parse",
    "read",
    "read_with_warnings",
    "unpacked",
    "write",
]
