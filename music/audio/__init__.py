"""Notes → sound; and sound fonts, as files and as samples for browsers."""

from music.audio.synthesis import FORMATS, RATE, check, format_of, render, write

__all__ = ["FORMATS", "RATE", "check", "format_of", "render", "write"]
