"""The files that instruments' sounds come from. Knows nothing of how they are played."""

import importlib.util
import os
from pathlib import Path

from music.errors import MissingDependency, SoundFontError


def default() -> Path:
    """The TimGM6mb that comes inside pretty_midi. Raises MissingDependency."""
    package = importlib.util.find_spec("pretty_midi")
    font = Path(package.origin if package and package.origin else __file__).with_name("TimGM6mb.sf2")
    if not font.is_file():
        raise MissingDependency(
            f"no default sound font at {font}: `pip install pretty_midi` brings it, or name another"
        )
    return font


def check(font: str | os.PathLike) -> None:
    """See that a file is a sound font and whole: what it cannot read itself FluidSynth gives to a noisier library.

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
            whole = file.tell() == os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SoundFontError(f"{font}: expected a sound font, a .sf2 or .sf3 file: {error.strerror}") from error
    if head[:4] + head[8:] != b"RIFFsfbk":
        raise SoundFontError(f"{font}: no sound font: expected it to begin with RIFF....sfbk, got {head!r}")
    if not whole or chunks != [b"LIST"] * 3:  # facts, samples, presets
        raise SoundFontError(f"{font}: a damaged sound font: it breaks off, or its parts are not in their places")
