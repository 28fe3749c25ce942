"""--input → (id, bytes) of every MIDI and MusicXML file in it. Knows nothing of music and shards.

A source is a folder with its subfolders and the folders that links lead to, a glob, a single file or an archive, on a
disk or in a bucket; archives in it are read, too. The launching machine lists its names before anything is written; the
workers read its bytes, some files at a time. An id is the path below the folder, below the folder before a glob's first
wildcard, or below the single top folder of an archive; so it does not depend on the machine. An archive counts as a
folder. What is passed over, such as hidden files and those of other kinds, is listed with the reason.
"""

import os
import posixpath
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from typing import IO, Any, NamedTuple, TypeAlias

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from music import midi, storage
from music.errors import MissingDependency, MusicError, StorageError
from music.midi import parser
from preprocessing import archives

FAILED = "failed"  # the output that holds (id, reason)
PASSED_OVER = "passed over"  # the output that holds (id, [reason]) of what is no file of music
_TABLE = re.compile(r"maestro-v[^/]*\.csv", re.IGNORECASE)
# Of a file, unpacked; a larger one is no music. A large file in a bucket is fetched nevertheless.
_MOST_BYTES = parser.MOST_BYTES
_MOST_TABLE = 2**26  # bytes of a table; MAESTRO's has 0.3 million
_MOST_ARCHIVE = 2**30  # bytes of an archive in an archive
_SPOOL = 2**24  # bytes of one that stays in memory
_FILES = 16  # files of a group; those in a bucket are read concurrently
_BYTES = 2**20  # bytes of a zip, about, that make a group
_OTHERS = {  # what is said of files that people expect to be read
    ".xml": "an XML file; if it is MusicXML, let its name end in .musicxml",
    **dict.fromkeys((".rar", ".7z", ".gz", ".bz2", ".xz"), "a packed file of this kind is not read; unpack it"),
}


class Entry(NamedTuple):
    """A file of a source."""

    id: str
    path: bytes  # of the file, or of the archive that it is in; bytes, as not all are UTF-8
    inside: tuple[int, ...] = ()  # its number in that archive; of one in an archive's archive two numbers
    offset: int = 0  # where in a zip its bytes begin
    fault: str = ""  # why it cannot be read


Group: TypeAlias = list[Entry]  # files that a worker reads together: all of one archive, or none in one


class Listing(NamedTuple):
    """What is in a source, each list sorted by id."""

    files: list[Entry]  # MIDI and MusicXML by their names, and what cannot be read
    tables: list[Entry]  # maestro-v*.csv
    passed_over: list[tuple[str, str]]  # (id, reason)


@dataclass(frozen=True)
class Source:
    """Files whose paths match a pattern of `storage.glob`, and the files in those of them that are archives."""

    name: str  # of the source, for dataset.json
    folder: str  # a composer where there is no other: the name of the folder `base`, or of the archive; "": unknown
    base: str  # ids are the paths below it
    pattern: str
    tables_pattern: str
    top: str = ""  # what all ids would begin with: an archive's name and the one folder in it, each with a slash

    def listing(self) -> Listing:
        """List the files of music, the tables, and what is neither."""
        files, tables, passed_over = [], [], []
        for entry in self._entries(self.pattern, lambda id, reason: passed_over.append((id, reason))):
            if not _visible(entry.id):
                passed_over.append((entry.id, "hidden: its name or its folder's begins with a dot, or is __MACOSX"))
            elif midi.is_music(entry.id) or archives.is_archive(entry.id):
                files.append(entry)
            elif is_table(entry.id):
                tables.append(entry)
            else:
                ending = posixpath.splitext(entry.id)[1].lower()
                passed_over.append((entry.id, _OTHERS.get(ending, "its name is not that of a MIDI or a MusicXML file")))
        if self.tables_pattern != self.pattern:
            tables = [entry for entry in self._entries(self.tables_pattern) if is_table(entry.id)]
        return Listing(sorted(files), sorted(tables), sorted(passed_over))

    def ids(self) -> list[str]:
        """List the ids of all files of music, sorted."""
        return [entry.id for entry in self.listing().files]

    def groups(self) -> Iterator[Group]:
        """Yield all files of music: some of a folder, neighbours in a zip, or all of another archive at a time."""
        return _groups(self.listing().files)

    @contextmanager
    def reading(self) -> Iterator[Callable[[Group], Iterable]]:
        """Give a function that reads a group: it yields (id, bytes), or (id, reason) under FAILED, for each file."""
        with _Reader() as reader:

            def read(entry: Entry) -> list:
                return list(attempt(entry.id, lambda: (entry.id, reader.read(entry, _MOST_BYTES))))

            def read_group(group: Group) -> Iterable:
                in_turn = storage.together if storage.remote(self.base) and not group[0].inside else map
                return chain.from_iterable(in_turn(read, group))

            yield read_group

    def _entries(self, pattern: str, skip: Callable[[str, str], None] = lambda id, reason: None) -> Iterator[Entry]:
        """Yield all files, those in archives instead of the archives; call `skip` for links that lead nowhere."""
        below = len(storage.join(self.base, ""))
        names: Counter[str] = Counter()
        for file in storage.glob(pattern, lambda path, reason: skip(_printable(path[below:]), reason)):
            whole = Entry(_printable(file.path[below:]), os.fsencode(file.path))
            for entry in _unpacked(whole, partial(_open, file.path)):
                yield entry._replace(id=_unique(entry.id.removeprefix(self.top), names))


def _unpacked(entry: Entry, open_archive: Callable[[], AbstractContextManager[IO[bytes]]]) -> Iterator[Entry]:
    """Yield an entry, or the files in it and in its archives if it is an archive. One that is damaged has a fault."""
    if not archives.is_archive(entry.id) or not _visible(entry.id) or entry.fault:
        yield entry
        return
    if len(entry.inside) > 1:
        yield entry._replace(fault="an archive in an archive's archive, which is not read; unpack it")
        return
    try:
        with open_archive() as file, archives.opened(file, entry.id) as archive:
            for member in archive.members():
                id, inside = f"{entry.id}/{member.name}", (*entry.inside, member.number)
                offset = 0 if entry.inside else member.offset
                each = Entry(id, entry.path, inside, offset, member.fault)
                yield from _unpacked(each, partial(_copied, archive, member.number))
    except StorageError:
        raise
    except (MusicError, *archives.FAULTS) as error:
        yield entry._replace(fault=_printable(str(error)) or type(error).__name__)


def _open(path: str) -> IO[bytes]:
    """Open an archive."""
    _check_file(path)
    return storage.open_read(path)


def _check_file(path: str) -> None:
    """Check that a local path is that of a file: a device or a pipe may have no end. Raises MusicError."""
    if not storage.remote(path) and not os.path.isfile(path):
        raise MusicError(f"{path}: expected a file")


@contextmanager
def _copied(archive: archives.Archive, number: int) -> Iterator[IO[bytes]]:
    """Copy a member that is an archive to memory, or to a temporary file if it is large."""
    with tempfile.SpooledTemporaryFile(_SPOOL) as copy:
        with archive.open(number, _MOST_ARCHIVE) as file:
            shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


def _unique(id: str, names: Counter[str]) -> str:
    """Give a second file of one id, as an archive may have it, another: air.mid, air (2).mid."""
    unique = id
    while unique in names:
        names[id] += 1
        root, ending = posixpath.splitext(id)
        unique = f"{root} ({names[id]}){ending}"
    names[unique] = 1
    return unique


class _Reader:
    """Reads files. The archive that it read last stays open, as the next file is often in the same one."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: tuple[Any, archives.Archive] | None = None  # where it is, and the archive

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def read(self, entry: Entry, most: int) -> bytes:
        """Read a file of at most so many bytes."""
        path = os.fsdecode(entry.path)
        if entry.fault:
            raise MusicError(entry.fault)
        if not entry.inside:
            _check_file(path)
            return storage.read(path, most)
        try:
            return self._read_member(entry, path, most)
        except (zipfile.BadZipFile, zlib.error):
            if not storage.remote(path):
                raise
            self._close()  # a part has no checksum, so the network may have damaged it
            return self._read_member(entry, path, most)

    def _read_member(self, entry: Entry, path: str, most: int) -> bytes:
        *outer, number = entry.inside
        if self._open is None or self._open[0] != (path, outer):
            self._close()
            file = self._stack.enter_context(_open(path))
            archive = self._stack.enter_context(archives.opened(file, path))
            for each in outer:
                inner = self._stack.enter_context(_copied(archive, each))
                archive = self._stack.enter_context(archives.opened(inner))
            self._open = (path, outer), archive
        with self._open[1].open(number, most) as member:
            return member.read()

    def _close(self) -> None:
        self._open = None
        self._stack.close()


def read_tables(tables: list[Entry]) -> list[tuple[str, bytes]]:
    """Read tables of a listing, as (id, content)."""
    with _Reader() as reader:
        return [(entry.id, reader.read(entry, _MOST_TABLE)) for entry in tables]


def _groups(files: list[Entry]) -> Iterator[Group]:
    single = [entry for entry in files if not entry.inside]
    yield from (single[at : at + _FILES] for at in range(0, len(single), _FILES))
    packed = [entry for entry in files if entry.inside]
    packed.sort(key=lambda entry: (entry.path, entry.inside[:-1], entry.offset, entry.inside))
    for _, some in groupby(packed, lambda entry: (entry.path, entry.inside[:-1], entry.offset // _BYTES)):
        yield list(some)


def find(text: str) -> Source:
    """Make the source that --input names.

    Raises:
        MusicError: there is nothing of that name, or an archive is none.
    """
    exists = storage.exists(text)
    path = text.rstrip("/") if storage.remote(text) else os.path.abspath(text)
    name, base, pattern = _printable(os.path.basename(path)), os.path.dirname(path), storage.literally(path)
    if exists and storage.is_folder(path):
        everything = storage.join(pattern, "**")
        return Source(name, name, path, everything, everything)
    if exists and archives.is_archive(path):
        only = _only_folder(path)
        top = f"{name}/{only}/" if only else f"{name}/"
        return Source(name, only or archives.stem(name), base, pattern, pattern, top)
    if exists:
        return Source(name, "", base, pattern, _tables_in(base))
    if wildcard := storage.WILDCARD.search(path):
        base = os.path.dirname(path[: wildcard.start()])
        name = posixpath.join(os.path.basename(base), path[len(storage.join(base, "")) :])
        return Source(_printable(name), _printable(os.path.basename(base)), base, path, _tables_in(base))
    raise MusicError(f"--input {text}: there is no such folder, file, archive or glob")


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


def _only_folder(path: str) -> str:
    """Find the one folder at the top of an archive that holds everything; "": there is none. Raises MusicError."""
    names: list[str] = []
    try:
        with _open(path) as file, archives.opened(file, path) as archive:
            names.extend(member.name for member in archive.members() if _visible(member.name))
    except (MusicError, *archives.FAULTS) as error:
        if not names:  # else the listing has the fault, behind the members that can be read
            raise MusicError(f"--input {path}: {error}") from error
    tops = {name.split("/")[0] for name in names}
    return tops.pop() if len(tops) == 1 and all("/" in name for name in names) else ""


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
    """Read every music file of a source: (id, bytes); (id, reason) under FAILED; (id, [reason]) under PASSED_OVER."""

    def __init__(self, source: Source):
        super().__init__()
        self.source = source

    def expand(self, pipeline):
        listed = (
            pipeline
            | beam.Create([self.source])
            | "List" >> beam.FlatMap(_list).with_outputs(PASSED_OVER, main="groups")
        )
        read = (
            listed.groups
            | "Groups" >> beam.Filter(lambda element: isinstance(element, list))  # as Dask's runner mixes outputs
            | beam.Reshuffle()  # otherwise one worker reads all files of the listing
            | "Read" >> beam.ParDo(_ReadGroup(self.source)).with_outputs(FAILED, main="bytes")
        )
        return read.bytes, read[FAILED], listed[PASSED_OVER]


def _list(source: Source) -> Iterator:
    listing = source.listing()
    yield from _groups(listing.files)
    for id, reason in listing.passed_over:
        yield TaggedOutput(PASSED_OVER, (id, [f"passed over: {reason}"]))


class _ReadGroup(beam.DoFn):
    """Read a group of files; of a zip, the directory is read once for each instance."""

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
