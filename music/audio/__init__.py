"""Notes → sound; and sound fonts, whole and for browsers."""

from music.audio.synthesis import FORMATS, RATE, check, format_of, render, write

__all__ = ["FORMATS", "RATE", "check", "format_of", "render", "write"]
