"""Notes ⇄ rows of integers, as a model reads them."""

from music.encodings.note_rows import Encoding, NoteRows, from_config

__all__ = ["Encoding", "NoteRows", "from_config"]
