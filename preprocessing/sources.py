"""--input → (id, bytes) of every MIDI file in it. Knows nothing of music and shards.

A source is a folder with its subfolders, a glob, a single file or a .zip, on a disk or in a bucket. The launching
machine lists its names before anything is written; the workers read its bytes, some files at a time. An id is the path
below the folder, below the folder before a glob's first wildcard, or below the single top folder of a zip; so it does
not depend on the machine. Hidden files, and what macOS adds to a zip, are ignored.
"""

import os
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, TypeAlias

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from music import storage
from music.errors import MissingDependency, MusicError, StorageError
from music.midi import parser

MIDI = (".mid", ".midi")  # in any case
FAILED = "failed"  # the output that holds (id, reason)
_TABLE = re.compile(r"maestro-v[^/]*\.csv", re.IGNORECASE)
# Of a file, unpacked; a larger one is no music. A large file in a bucket is fetched nevertheless.
_MOST_BYTES = parser.MOST_BYTES
_MOST_TABLE = 2**26  # bytes of a table; MAESTRO's has 0.3 million
_FILES = 16  # files of a group; those in a bucket are read concurrently
_BYTES = 2**20  # bytes of a zip, about, that make a group

Group: TypeAlias = list[tuple[str, bytes]]  # id and path of some files, which a worker reads together


@dataclass(frozen=True)
class Files:
    """MIDI files whose paths match a pattern of `storage.glob`."""

    name: str  # of the source, for dataset.json
    folder: str  # the name of the folder `base`, a composer where there is no other; "" where it means nothing
    base: str  # ids are the paths below it
    pattern: str
    tables_pattern: str

    def ids(self) -> list[str]:
        """List the ids of all MIDI files, sorted."""
        return sorted(filter(is_midi, self._paths(self.pattern)))

    def tables(self) -> list[tuple[str, bytes]]:
        """Read every maestro-v*.csv, as (id, content), sorted by id."""
        paths = self._paths(self.tables_pattern)
        return [(id, storage.read(paths[id])) for id in sorted(filter(is_table, paths))]

    def groups(self) -> Iterator[Group]:
        """Yield all MIDI files, 16 at a time."""
        files = [(id, os.fsencode(path)) for id, path in self._paths(self.pattern).items() if is_midi(id)]
        return (files[at : at + _FILES] for at in range(0, len(files), _FILES))  # bytes, as not all are UTF-8

    @contextmanager
    def reading(self) -> Iterator[Callable[[Group], Iterable]]:
        """Give a function that reads a group: it yields (id, bytes), or (id, reason) under FAILED, for each file."""
        in_turn = storage.together if storage.remote(self.base) else map

        def read(file: tuple[str, bytes]) -> list:
            id, path = file
            return list(attempt(id, lambda: (id, _read(os.fsdecode(path)))))

        yield lambda group: chain.from_iterable(in_turn(read, group))

    def _paths(self, pattern: str) -> dict[str, str]:
        """List the paths of all files that match, by id."""
        below = len(storage.join(self.base, ""))
        paths = [file.path for file in storage.glob(pattern)]
        return {_printable(path[below:]): path for path in paths}


@dataclass(frozen=True)
class Zip:
    """MIDI files in a zip."""

    name: str
    folder: str
    path: str
    top: str  # the one folder that holds everything, with a slash; or ""

    def ids(self) -> list[str]:
        """List the ids of all MIDI files, sorted."""
        with _open_zip(self.path) as archive:
            return sorted(filter(is_midi, self._members(archive)))

    def tables(self) -> list[tuple[str, bytes]]:
        """Read every maestro-v*.csv, as (id, content), sorted by id."""
        with _open_zip(self.path) as archive:
            return [
                (id, self._read(archive, id, _MOST_TABLE)) for id in sorted(filter(is_table, self._members(archive)))
            ]

    def groups(self) -> Iterator[Group]:
        """Yield all MIDI files, neighbours in the zip together: reading them is one request to a bucket."""
        with _open_zip(self.path) as archive:
            members = [each for each in self._members(archive).items() if is_midi(each[0])]
        members.sort(key=lambda each: each[1].header_offset)
        for _, some in groupby(members, lambda each: each[1].header_offset // _BYTES):
            yield [(id, b"") for id, _ in some]

    @contextmanager
    def reading(self) -> Iterator[Callable[[Group], Iterable]]:
        """Give a function that reads a group: it yields (id, bytes), or (id, reason) under FAILED, for each member."""
        with _open_zip(self.path) as archive:

            def read(member: tuple[str, bytes]) -> Iterable:
                id, _ = member
                return attempt(id, lambda: (id, self._read(archive, id)))

            yield lambda group: chain.from_iterable(map(read, group))

    def _read(self, archive: zipfile.ZipFile, id: str, most: int = _MOST_BYTES) -> bytes:
        size = archive.getinfo(self.top + id).file_size  # zipfile unpacks no more than this
        if size > most:
            raise MusicError(f"{id}: expected at most {most:,} bytes, unpacked, got {size:,}")
        try:
            return archive.read(self.top + id)
        except (zipfile.BadZipFile, zlib.error):
            if not storage.remote(self.path):
                raise
            with _open_zip(self.path) as again:  # a part has no checksum, so the network may have damaged it
                return again.read(self.top + id)

    def _members(self, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        return {member.filename.removeprefix(self.top): member for member in archive.infolist()}


def _read(path: str) -> bytes:
    """Read a regular file that is not too large; a device or a pipe may have no end."""
    if storage.remote(path):
        return storage.read(path)
    if not os.path.isfile(path):
        raise MusicError(f"{path}: expected a file")
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise MusicError(f"{path}: expected at most {_MOST_BYTES:,} bytes, got more")
    return data


Source: TypeAlias = Files | Zip


def find(text: str) -> Source:
    """Make the source that --input names.

    Raises:
        MusicError: there is nothing of that name, or a .zip is no zip.
    """
    exists = storage.exists(text)
    path = text.rstrip("/") if storage.remote(text) else os.path.abspath(text)
    if exists and storage.is_folder(path):
        pattern = storage.join(storage.literally(path), "**")
        name = _printable(os.path.basename(path))
        return Files(name, name, path, pattern, pattern)
    if exists and path.lower().endswith(".zip"):
        return _find_zip(path)
    if exists:
        base = os.path.dirname(path)
        return Files(_printable(os.path.basename(path)), "", base, storage.literally(path), _tables_in(base))
    if wildcard := storage.WILDCARD.search(path):
        base = os.path.dirname(path[: wildcard.start()])
        name = posixpath.join(os.path.basename(base), path[len(storage.join(base, "")) :])
        return Files(_printable(name), _printable(os.path.basename(base)), base, path, _tables_in(base))
    raise MusicError(f"--input {text}: there is no such folder, file, zip or glob")


def is_midi(id: str) -> bool:
    """Tell by its ending whether an id is a MIDI file's."""
    return id.lower().endswith(MIDI) and _visible(id)


def is_table(id: str) -> bool:
    """Tell whether an id is that of a table of facts, maestro-v*.csv."""
    return bool(_TABLE.fullmatch(posixpath.basename(id))) and _visible(id)


def _printable(path: str) -> str:
    """Make a path printable: bytes in it that are no UTF-8 become \\xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _visible(id: str) -> bool:
    return bool(id) and not any(part.startswith(".") or part == "__MACOSX" for part in id.split("/"))


def _tables_in(folder: str) -> str:
    return storage.join(storage.literally(folder), "*.csv")


def _find_zip(path: str) -> Zip:
    name = _printable(os.path.basename(path))
    try:
        with _open_zip(path) as archive:
            members = [member for member in archive.namelist() if _visible(member)]
    except zipfile.BadZipFile as error:
        raise MusicError(
            f"--input {path}: expected a zip, got a damaged one or another kind of file ({error})"
        ) from None
    tops = {member.split("/")[0] for member in members}
    if len(tops) == 1 and all("/" in member for member in members):
        (top,) = tops
        return Zip(name, top, path, top + "/")
    return Zip(name, name[: -len(".zip")], path, "")


@contextmanager
def _open_zip(path: str) -> Iterator[zipfile.ZipFile]:
    with storage.open_read(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def attempt(id: str, make: Callable[[], Any]) -> Iterable:
    """Yield make(), or (id, reason) under FAILED: one bad file must not stop a million good ones. But a bucket that
    does not answer, or a worker that lacks its library, must stop the job."""
    try:
        yield make()
    except (StorageError, MissingDependency):
        raise
    except Exception as error:  # whatever zlib, zipfile or numpy raise for a damaged file
        yield TaggedOutput(FAILED, (id, _printable(str(error)) or type(error).__name__))


class ReadFiles(beam.PTransform):
    """Read every MIDI file of a source: (id, bytes), and (id, reason) under FAILED."""

    def __init__(self, source: Source):
        super().__init__()
        self.source = source

    def expand(self, pipeline):
        return (
            pipeline
            | beam.Create([self.source])
            | "List" >> beam.FlatMap(lambda source: source.groups())
            | beam.Reshuffle()  # otherwise one worker reads all files of the listing
            | "Read" >> beam.ParDo(_ReadGroup(self.source)).with_outputs(FAILED, main="bytes")
        )


class _ReadGroup(beam.DoFn):
    """Read a group of files; a zip's directory is read once for each instance."""

    def __init__(self, source: Source):
        self.source = source

    def __getstate__(self):
        return {"source": self.source}  # Dask's runner pickles an instance after setup(), but not its open file

    def setup(self):
        self.stack = ExitStack()
        self.read = self.stack.enter_context(self.source.reading())

    def process(self, group: Group):
        yield from self.read(group)

    def teardown(self):
        self.stack.close()
