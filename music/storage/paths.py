"""Read, write and list bytes at a path, local or `gs://bucket/…`. Knows nothing of what the bytes mean.

What is written takes its place at once, whole, or not at all, on a disk and in a bucket alike. A bucket has no folders:
one is there while any name begins with it. Paths are plain strings, in a bucket as here; a local one may be a Path.
"""

import atexit
import contextlib
import io
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, NamedTuple, TypeVar

from music.errors import Conflict, MusicError, StorageError, Unreachable
from music.storage import atomic, gcs

_AT_ONCE = 8  # transfers between here and a bucket
_SPOOL = 16 * 2**20  # bytes kept in memory of a file on its way to a bucket
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://|gs:/")
WILDCARD = re.compile(r"[*?[]")
_One = TypeVar("_One")
_Other = TypeVar("_Other")


class File(NamedTuple):
    """What a listing tells of a file."""

    path: str
    size: int


def remote(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket. Raises StorageError for other kinds of URL."""
    text = os.fspath(path)
    if text.startswith("gs://"):
        return True
    if _SCHEME.match(text):
        raise StorageError(f"{text}: expected gs://BUCKET/NAME or a local path")
    return False


def join(folder: str | os.PathLike, *parts: str) -> str:
    """A path below a folder."""
    return "/".join([str(folder).rstrip("/"), *parts])


def leads_out(name: object) -> bool:
    """Whether this, which a file or a bucket says, is no name of a file below a folder, here or on Windows."""
    if not isinstance(name, str) or not name or "\0" in name or name != name.encode(errors="replace").decode():
        return True
    path = PureWindowsPath(name)  # which takes both kinds of slashes
    return bool(path.anchor) or ".." in path.parts


@contextlib.contextmanager
def called(copy: str | os.PathLike, path: str) -> Iterator[None]:
    """Errors in here tell of the path of which `local` made this copy, which the user does not know."""
    try:
        yield
    except MusicError as error:
        error.args = tuple(str(told).replace(str(copy), path.rstrip("/")) for told in error.args)
        raise


def read(path: str | os.PathLike) -> bytes:
    """The bytes at a path. Raises FileNotFoundError."""
    return gcs.read(str(path)) if remote(path) else Path(path).read_bytes()


def open_read(path: str | os.PathLike) -> BinaryIO:
    """A file to read here and there, such as a zip; of one in a bucket only what is read is fetched, unchecked."""
    return gcs.open_read(str(path)) if remote(path) else open(path, "rb")


def write(path: str | os.PathLike, data: bytes, expected: int | None = None) -> int:
    """Put bytes at a path at once: a reader sees the old ones or all of the new ones, never a part.

    Args:
        expected: the `version` that must be there until now, 0: none; for files that two might write.

    Returns:
        The file's new version.

    Raises:
        Conflict: another version is there. (On a disk a writer in the same instant is not noticed.)
    """
    return _put(path, io.BytesIO(data), expected)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write to; what is in it takes its place at once when the block ends, or not at all if that raises."""
    if remote(path):
        with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
            yield spool  # type: ignore[misc]
            gcs.write(str(path), spool)  # type: ignore[arg-type]
        return
    with atomic.file(Path(path)) as file:
        yield file


def sweep(folder: str | os.PathLike) -> None:
    """Remove what writers that were killed left unfinished in a folder or below; a bucket shows nothing unfinished."""
    if not remote(folder):
        atomic.sweep(Path(folder))


def version(path: str | os.PathLike) -> int:
    """A number that is another one after every write of a file; 0 where there is none."""
    if remote(path):
        return gcs.generation(str(path))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0
    return found.st_mtime_ns << 64 | found.st_ino  # a rename brings another inode


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder."""
    if remote(path):
        _, name = gcs.split(str(path).rstrip("/"))
        if not name:
            return is_folder(path)
        return any(each.name.rstrip("/") == name for each in gcs.listed(str(path).rstrip("/"), deep=False))
    return Path(path).exists()


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder; in a bucket, whether anything is in it. The bucket itself is one."""
    if remote(path):
        return any(True for _ in gcs.listed(join(path, ""), deep=False)) or not gcs.split(str(path))[1]
    return Path(path).is_dir()


def entries(folder: str | os.PathLike) -> list[str]:
    """The names in a folder, sorted; an absent folder has none."""
    if remote(folder):
        _, prefix = gcs.split(join(folder, ""))
        names = (each.name.removeprefix(prefix).rstrip("/") for each in gcs.listed(join(folder, ""), deep=False))
        return sorted({name for name in names if name})  # "" is a mark that some tools leave for an empty folder
    path = Path(folder)
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def walk(folder: str | os.PathLike) -> list[File]:
    """All files in a folder and below it, sorted by path."""
    return sorted(_below(str(folder), deep=True))


def glob(pattern: str) -> list[File]:
    """All files whose paths match, sorted. `*` is any letters but a slash, `**` any at all, `?` one,
    `[abc]` a choice."""
    wildcard = WILDCARD.search(pattern)
    known = pattern[: wildcard.start()] if wildcard else pattern
    folder = known.rpartition("/")[0]
    rest = pattern[len(folder) + 1 :]
    matches = _expression(pattern).fullmatch
    folder = folder or ("/" if pattern.startswith("/") else ".")
    return sorted(file for file in _below(folder, deep="/" in rest or "**" in rest) if matches(file.path))


def literally(path: str) -> str:
    """A pattern that only this path matches."""
    return WILDCARD.sub(r"[\g<0>]", path)


def remove(path: str | os.PathLike) -> None:
    """Remove a file, or a folder with all in it; it need not be there."""
    if remote(path):
        if not gcs.split(str(path))[1].strip("/"):
            raise StorageError(f"{path}: a whole bucket is not removed here")
        below = [file.path for file in _below(str(path), deep=True)]
        deque(together(gcs.remove, [*below, str(path).rstrip("/")]), maxlen=0)
        return
    target = Path(path)
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def local(folder: str | os.PathLike) -> Path:
    """A folder as a local one: itself, or a copy of one in a bucket that is gone when this process ends.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not remote(folder):
        return Path(folder)
    there = walk(folder)
    if not there:
        raise gcs.gcs_errors.absent(str(folder))
    beside = tempfile.mkdtemp(prefix="cadenza-")
    atexit.register(_tidy, beside, os.getpid())
    home = Path(beside, str(folder).rstrip("/").rpartition("/")[2])  # a version's folder keeps its number

    def fetch(file: File) -> None:
        name = file.path[len(join(folder, "")) :]
        if leads_out(name):
            raise StorageError(f"{file.path}: a name that leads elsewhere is not copied")
        write(home / name, gcs.read(file.path))

    deque(together(fetch, there), maxlen=0)
    return home


def publish(source: str | os.PathLike, folder: str | os.PathLike, last: str) -> None:
    """Copy a local folder to where nothing is yet: here at once, in a bucket with the file `last` behind all others.

    Raises:
        Conflict: something of that name is there, perhaps because somebody else is publishing it right now.
    """
    names = [str(path.relative_to(source)) for path in sorted(Path(source).rglob("*")) if path.is_file()]
    if not remote(folder):
        if exists(folder):
            raise Conflict(f"{folder} is there already; choose another one")
        sweep(Path(folder).parent)
        with atomic.folder(Path(folder)) as made:
            for name in names:
                with open(Path(source, name), "rb") as file:
                    _put(made / name, file, expected=None)
        return
    first, *others = sorted(names, key=lambda name: (name == last, name))

    def put(name: str) -> None:
        with open(Path(source, name), "rb") as file:
            _put(join(folder, name), file, expected=0)

    if exists(folder):
        raise Conflict(f"{folder} is there already; choose another one")
    put(first)  # which claims the folder: of two that come this far at once, one fails here
    try:
        deque(together(put, [name for name in others if name != last]), maxlen=0)
        if last in others:
            put(last)
    except (Conflict, Unreachable):  # what is there is not ours alone, or out of reach
        raise
    except Exception:
        with contextlib.suppress(Exception):  # what is half there would be taken for the newest
            remove(folder)
        raise


def together(call: Callable[[_One], _Other], items: Iterable[_One]) -> Iterator[_Other]:
    """call(item) of each item, in order; some at once and a little ahead, as a bucket is far away."""
    waiting: deque = deque()
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= _AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _put(path: str | os.PathLike, source: BinaryIO, expected: int | None) -> int:
    if remote(path):
        return gcs.write(str(path), source, expected)
    if expected is not None and version(path) != expected:
        raise Conflict(f"{path}: somebody else has written it meanwhile; only one may write here")
    with writing(path) as file:
        shutil.copyfileobj(source, file)
    return version(path)


def _below(folder: str, *, deep: bool) -> Iterator[File]:
    """The files in a folder, and `deep` ones below its folders too, in any order."""
    if remote(folder):
        bucket, _ = gcs.split(folder)
        for each in gcs.listed(join(folder, ""), deep=deep):
            if not each.name.endswith("/"):
                yield File(f"gs://{bucket}/{each.name}", each.size)
        return
    for where, folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it may go while we look
                path = os.path.normpath(os.path.join(where, name)) if folder == "." else os.path.join(where, name)
                yield File(path, os.path.getsize(path))
        if not deep:
            folders.clear()


def _expression(pattern: str) -> re.Pattern:
    kinds = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.findall(r"\*\*|\*|\?|\[[!^]?[^\]]+\]|\[\]\]|.", pattern, re.DOTALL)
    return re.compile("".join(kinds.get(part) or _choice(part) for part in parts), re.DOTALL)


def _choice(part: str) -> str:
    """[abc], [a-z], [!abc] as an expression; anything else is itself."""
    if len(part) < 3:
        return re.escape(part)
    inside = part[1:-1]
    without = inside[0] in "!^" and len(inside) > 1
    kept = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[without:])
    return f"[{'^/' if without else ''}{kept}]"


def _tidy(folder: str, process: int) -> None:
    if os.getpid() == process:  # not when a fork of it ends
        shutil.rmtree(folder, ignore_errors=True)
