"""MIDI files ⇄ Notes: bytes → events → notes with their pedal, and back."""

from music.midi.files import Grid, Summary, find_program, grid, inspect, instrument_name, read, read_mended, write

__all__ = ["Grid", "Summary", "find_program", "grid", "inspect", "instrument_name", "read", "read_mended", "write"]
