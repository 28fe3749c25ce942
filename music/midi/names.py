"""The name of a file → whether it holds music; and a packed file's bytes. Knows nothing of what the bytes mean."""

import gzip
import io
import zlib

from music.errors import MidiError
from music.midi.parser import MOST_BYTES

# In any case, and each of them with .gz behind it. MusicXML's old ending, .xml, is that of too many other files.
ENDINGS = (".mid", ".midi", ".kar", ".rmi", ".smf", ".musicxml", ".mxl")


def is_music(name: str) -> bool:
    """Tell by its ending whether a file is MIDI or MusicXML, perhaps packed by gzip."""
    return name.lower().removesuffix(".gz").endswith(ENDINGS)


def unpacked(name: str, data: bytes) -> bytes:
    """Unpack the content of a file whose name ends in .gz; give any other, and one that is not packed, as it is.

    Raises:
        MidiError: it is damaged, or larger than any MIDI file.
    """
    if not name.lower().endswith(".gz") or data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MidiError(f"a damaged gzip file: {error}") from error
    if len(content) > MOST_BYTES:
        raise MidiError(f"too large for a MIDI file: expected at most {MOST_BYTES:,} bytes, unpacked, got more")
    return content
