"""MIDI files ⇄ Notes: bytes → events → notes with the pedal folded in, and back."""

from music.midi.files import (
    Grid,
    Summary,
    find_program,
    grid,
    inspect,
    instrument_name,
    read,
    read_with_warnings,
    write,
)

__all__ = [
    "Grid",
    "Summary",
    "find_program",
    "grid",
    "inspect",
    "instrument_name",
    "read",
    "read_with_warnings",
    "write",
]
