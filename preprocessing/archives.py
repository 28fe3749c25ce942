"""A zip or a tar → the names of its members and their bytes. Knows nothing of MIDI, nor of where the archive lies.

A tar is read from its beginning to its end, so read its members in order. Names are told in Unicode, with slashes
between folders, whatever wrote the archive.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, NamedTuple, TypeAlias

from music.errors import MusicError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ENDINGS = (".zip", *_TAR)
# What the libraries raise for a damaged archive, or for one of a kind that they cannot unpack
FAULTS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError,
)  # fmt: skip
_JAPANESE = re.compile(rb"[\x80-\xff]{3}|(?:[\x83\x88-\x9f][\x40-\x7e]){3}")


class Member(NamedTuple):
    """A file in an archive."""

    number: int  # in the archive; it finds the member again, as two may have one name
    name: str
    offset: int  # where its bytes begin in a zip: members near each other are read together; in a tar 0
    fault: str = ""  # why it cannot be read


def is_archive(name: str) -> bool:
    """Tell by its name whether a file is an archive that can be read."""
    return name.lower().endswith(_ENDINGS)


def stem(name: str) -> str:
    """Cut the ending off an archive's name; any other name stays."""
    ending = next((each for each in sorted(_ENDINGS, key=len, reverse=True) if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]


class Zip:
    """A zip file; its members can be read in any order."""

    def __init__(self, file: IO[bytes]):
        self._zip = zipfile.ZipFile(file)
        self._infos = self._zip.infolist()

    def members(self) -> Iterator[Member]:
        """List the files, without the folders."""
        flagged = [info.flag_bits & 0x800 for info in self._infos]  # then the library has decoded it as UTF-8
        raw = [info.filename.encode("cp437") for info, utf8 in zip(self._infos, flagged, strict=True) if not utf8]
        decoded = iter(decode(raw))
        for number, (info, utf8) in enumerate(zip(self._infos, flagged, strict=True)):
            name = (info.filename if utf8 else next(decoded)).replace("\\", "/")
            if not name.endswith("/"):
                yield Member(number, name, info.header_offset)

    def open(self, number: int, most: int) -> IO[bytes]:
        """Open a member of at most so many bytes, unpacked. It gives no more bytes than its size says."""
        info = self._infos[number]
        _check_size(info.filename, info.file_size, most)
        return self._zip.open(info)

    def close(self) -> None:
        """Close the zip, but not its file."""
        self._zip.close()


class Tar:
    """A tar file, perhaps compressed."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._rewind()

    def members(self) -> Iterator[Member]:
        """List the files. Each may be opened while the listing stands at it."""
        self._rewind()
        while info := self._next():
            raw = info.name.encode("utf-8", "surrogateescape")
            fault = "" if info.isreg() else "a link or a device in an archive, which is not followed"
            if not info.isdir():
                yield Member(self._at, decode([raw])[0].replace("\\", "/"), 0, fault)

    def open(self, number: int, most: int) -> IO[bytes]:
        """Open a member of at most so many bytes. One before the last that was opened is found from the beginning."""
        if number < self._at:
            self._rewind()
        while self._at < number:
            if not self._next():
                raise EOFError(f"expected a member {number}, got {self._at}")
        assert self._info
        _check_size(self._info.name, self._info.size, most)
        file = self._tar.extractfile(self._info)
        assert file  # as a member that is no file has a fault
        return file

    def close(self) -> None:
        """Close the tar, but not its file."""
        self._tar.close()

    def _rewind(self) -> None:
        self._file.seek(0)
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=self._file, mode="r:*", encoding="utf-8", errors="surrogateescape"
        )
        self._at = -1
        self._info: tarfile.TarInfo | None = None

    def _next(self) -> tarfile.TarInfo | None:
        self._info = self._tar.next()
        self._tar.members.clear()  # type: ignore[attr-defined]  # else the library stores what it knows of each one
        self._at += 1
        return self._info


Archive: TypeAlias = Zip | Tar


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise MusicError(f"{name}: expected at most {most:,} bytes, unpacked, got {size:,}")


@contextmanager
def opened(file: BinaryIO | IO[bytes], name: str = "") -> Iterator[Archive]:
    """Open an archive: a zip if its name or its first bytes say so, else a tar.

    Raises:
        MusicError: it is damaged, or another kind of file.
    """
    is_zip = name.lower().endswith(".zip") or file.read(2) == b"PK"
    try:
        archive = (Zip if is_zip else Tar)(file)
    except FAULTS as error:
        why = f"zip, got a damaged one or another kind of file ({error})" if is_zip else "tar, got another kind of file"
        raise MusicError(f"expected a {why}") from error
    try:
        yield archive
    finally:
        archive.close()


def decode(names: list[bytes]) -> list[str]:
    """Decode names that one program wrote without saying how: as UTF-8, Shift-JIS, code page 437 or latin-1.

    Three bytes of 128 and more in a row are Japanese in Shift-JIS; a European name has one accented letter or two. So
    are three pairs that begin with one of the bytes of katakana and frequent kanji. Latin-1 has its letters from 192
    on, where code page 437 has lines and mathematical signs.
    """
    joined = b"/".join(names)
    high = [byte for byte in joined if byte >= 0x80]
    encodings = [
        "utf-8",
        *(["cp932"] if _JAPANESE.search(joined) else []),
        "latin-1" if min(high, default=0) >= 0xC0 else "cp437",
    ]
    for encoding in encodings:
        try:
            return [name.decode(encoding) for name in names]
        except UnicodeDecodeError:
            continue
    return [name.decode("latin-1") for name in names]
