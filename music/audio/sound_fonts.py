"""Find and check sound fonts, the files with the instruments' samples. Knows nothing of how they are played."""

import importlib.util
import os
from pathlib import Path

from music.errors import MissingDependency, SoundFontError


def default() -> Path:
    """Find the TimGM6mb that the package pretty_midi contains. Raises MissingDependency."""
    package = importlib.util.find_spec("pretty_midi")
    font = Path(package.origin if package and package.origin else __file__).with_name("TimGM6mb.sf2")
    if not font.is_file():
        raise MissingDependency(
            f"no default sound font at {font}: `pip install pretty_midi` brings it, or name another"
        )
    return font


def check(font: str | os.PathLike) -> None:
    """Check that a file is a complete sound font.

    FluidSynth passes a file that it cannot read to another library, which prints errors.

    Raises:
        SoundFontError: it is not.
    """
    try:
        with open(font, "rb") as file:
            head = file.read(12)
            chunks = []
            while len(chunk := file.read(8)) == 8:
                chunks.append(chunk[:4])
                size = int.from_bytes(chunk[4:], "little")
                file.seek(size + size % 2, os.SEEK_CUR)
            complete = file.tell() == os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SoundFontError(f"{font}: expected a sound font, a .sf2 or .sf3 file: {error.strerror}") from error
    if head[:4] + head[8:] != b"RIFFsfbk":
        raise SoundFontError(f"{font}: no sound font: expected it to begin with RIFF....sfbk, got {head!r}")
    if not complete or chunks != [b"LIST"] * 3:  # facts, samples, presets
        raise SoundFontError(f"{font}: a damaged sound font: it breaks off, or its parts are not in order")
