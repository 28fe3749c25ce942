"""What --input names → (id, bytes) of every MIDI file in it. Knows nothing of music, shards or what becomes of bytes.

A source is a folder (searched to the bottom), a glob, a single file or a .zip. It is asked twice: on the launching
machine for the names, before anything is touched, and in the workers for the bytes, one file at a time. An id is the
path below the folder, below what stands before a glob's first wildcard, or below the single top folder of a zip; so
an id says nothing of the machine. Hidden files, and what a Mac adds to a zip, are not music.
"""

import os
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import TaggedOutput

from music import storage
from music.errors import MusicError

MIDI = (".mid", ".midi")  # in any case
FAILED = "failed"  # the output that holds (id, reason)
_TABLE = re.compile(r"maestro-v[^/]*\.csv", re.IGNORECASE)
_WILDCARD = re.compile(r"[*?[]")
_RAW = {"mime_type": "application/octet-stream", "compression_type": CompressionTypes.UNCOMPRESSED}


@dataclass(frozen=True)
class Files:
    """MIDI files whose paths match a pattern of Beam's."""

    name: str  # what the dataset calls its source
    folder: str  # the name of the folder that `base` is, "" where it says nothing
    base: str  # ids are the paths below it
    pattern: str
    tables_pattern: str

    def ids(self) -> list[str]:
        """The ids of all MIDI files, sorted."""
        return sorted(filter(is_midi, self._paths(self.pattern)))

    def tables(self) -> list[tuple[str, bytes]]:
        """Every maestro-v*.csv, as (id, content), sorted by id."""
        paths = self._paths(self.tables_pattern)
        return [(id, storage.read(paths[id])) for id in sorted(filter(is_table, paths))]

    def reader(self) -> beam.PTransform:
        """A transform from the pipeline to (id, bytes), and to (id, reason) under FAILED."""
        return _ReadFiles(self)

    def id(self, path: str) -> str:
        """A path's id, "" for a path that is not below the base; bytes that are no UTF-8 stand as \\xe9."""
        base = storage.join(self.base, "")
        return os.fsencode(path.removeprefix(base)).decode(errors="backslashreplace") if path.startswith(base) else ""

    def _paths(self, pattern: str) -> dict[str, str]:
        """The path of every file that matches, by id."""
        return {self.id(found.path): found.path for found in FileSystems.match([pattern])[0].metadata_list}


@dataclass(frozen=True)
class Zip:
    """MIDI files in a zip."""

    name: str
    folder: str
    path: str
    top: str  # the one folder that everything stands in, with its slash, or ""

    def ids(self) -> list[str]:
        """The ids of all MIDI files, sorted."""
        return sorted(filter(is_midi, self._ids()))

    def tables(self) -> list[tuple[str, bytes]]:
        """Every maestro-v*.csv, as (id, content), sorted by id."""
        with _open_zip(self.path) as archive:
            return [(id, archive.read(self.top + id)) for id in sorted(filter(is_table, self._ids()))]

    def reader(self) -> beam.PTransform:
        """A transform from the pipeline to (id, bytes), and to (id, reason) under FAILED."""
        return _ReadZip(self)

    def _ids(self) -> set[str]:
        with _open_zip(self.path) as archive:
            return {member.removeprefix(self.top) for member in archive.namelist()}


Source: TypeAlias = Files | Zip


def find(text: str) -> Source:
    """Make the source that --input names.

    Raises:
        MusicError: there is nothing of that name, or it is no zip although it is called one.
    """
    exists = storage.exists(text)
    path = os.path.abspath(text)
    if os.path.isdir(path):
        pattern = storage.join(_literally(path), "**")
        return Files(os.path.basename(path), os.path.basename(path), path, pattern, pattern)
    if exists and path.lower().endswith(".zip"):
        return _find_zip(path)
    if exists:
        base = os.path.dirname(path)
        return Files(os.path.basename(path), "", base, _literally(path), _tables_in(base))
    if wildcard := _WILDCARD.search(path):
        base = os.path.dirname(path[: wildcard.start()])
        name = posixpath.join(os.path.basename(base), os.path.relpath(path, base))
        return Files(name, os.path.basename(base), base, path, _tables_in(base))
    raise MusicError(f"--input {text}: there is no such folder, file, zip or glob")


def is_midi(id: str) -> bool:
    """Whether an id is a MIDI file's, by its name."""
    return id.lower().endswith(MIDI) and _visible(id)


def is_table(id: str) -> bool:
    """Whether an id is that of a table of facts, maestro-v*.csv."""
    return bool(_TABLE.fullmatch(posixpath.basename(id))) and _visible(id)


def _visible(id: str) -> bool:
    return bool(id) and not any(part.startswith(".") or part == "__MACOSX" for part in id.split("/"))


def _literally(path: str) -> str:
    """A pattern for one path; Beam has no way to quote a wildcard, `Files.id` drops what matches besides."""
    return _WILDCARD.sub("?", path)


def _tables_in(folder: str) -> str:
    return storage.join(_literally(folder), "*.csv")


def _find_zip(path: str) -> Zip:
    name = os.path.basename(path)
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
    with FileSystems.open(path, **_RAW) as file, zipfile.ZipFile(file) as archive:
        yield archive


def attempt(id: str, make) -> Iterable:
    """Yield make(), or (id, reason) under FAILED: one bad file must not stop a million good ones."""
    try:
        yield make()
    except Exception as error:  # whatever a damaged file makes of zlib, zipfile, symusic or numpy
        yield TaggedOutput(FAILED, (id, str(error) or type(error).__name__))


class _ReadFiles(beam.PTransform):
    def __init__(self, files: Files):
        super().__init__()
        self.files = files

    def expand(self, pipeline):
        return (
            pipeline
            | fileio.MatchFiles(self.files.pattern)
            | beam.Filter(lambda found, files: is_midi(files.id(found.path)), self.files)
            | beam.Reshuffle()  # else one worker reads all that one match found
            | fileio.ReadMatches()
            | beam.FlatMap(_read_file, self.files).with_outputs(FAILED, main="bytes")
        )


def _read_file(file: fileio.ReadableFile, files: Files) -> Iterable:
    def read():
        with file.open(**_RAW) as stream:
            return files.id(file.metadata.path), stream.read()

    yield from attempt(files.id(file.metadata.path), read)


class _ReadZip(beam.PTransform):
    def __init__(self, zip: Zip):
        super().__init__()
        self.zip = zip

    def expand(self, pipeline):
        return (
            pipeline
            | beam.Create([self.zip])
            | beam.FlatMap(Zip.ids)
            | beam.Reshuffle()
            | beam.ParDo(_ReadMember(self.zip)).with_outputs(FAILED, main="bytes")
        )


class _ReadMember(beam.DoFn):
    """Reads members one at a time; the zip's directory is read once for each instance."""

    def __init__(self, zip: Zip):
        self.zip = zip

    def setup(self):
        self.file = FileSystems.open(self.zip.path, **_RAW)
        self.archive = zipfile.ZipFile(self.file)

    def process(self, id: str):
        yield from attempt(id, lambda: (id, self.archive.read(self.zip.top + id)))

    def teardown(self):
        self.archive.close()
        self.file.close()
