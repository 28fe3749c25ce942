"""Read, write and list bytes at a path, local or `gs://bucket/…`. Knows nothing of what the bytes mean.

Writes are atomic, on a disk and in a bucket alike: a file is there complete or not at all. A bucket has no folders: one
exists while any name begins with it. Paths are plain strings; a local one may also be a Path.
"""

import atexit
import contextlib
import heapq
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

_AT_ONCE = 8  # transfers to or from a bucket
_SPOOL = 16 * 2**20  # bytes; a larger file on its way to a bucket is buffered on disk, not in memory
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://|gs:/")
WILDCARD = re.compile(r"[*?[]")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class File(NamedTuple):
    """A file as a listing shows it."""

    path: str
    size: int


def remote(path: str | os.PathLike) -> bool:
    """Tell whether a path is in a bucket. Raises StorageError for other kinds of URL."""
    text = os.fspath(path)
    if text.startswith("gs://"):
        return True
    if _SCHEME.match(text):
        raise StorageError(f"{text}: expected gs://BUCKET/NAME or a local path")
    return False


def join(folder: str | os.PathLike, *parts: str) -> str:
    """Make a path below a folder."""
    return "/".join([str(folder).rstrip("/"), *parts])


def leads_out(name: object) -> bool:
    """Tell whether a name, which a file or a bucket supplied, is no path below a folder, on Unix or on Windows."""
    if not isinstance(name, str) or not name or "\0" in name or name != name.encode(errors="replace").decode():
        return True
    path = PureWindowsPath(name)  # which accepts both kinds of slashes
    return bool(path.anchor) or ".." in path.parts


@contextlib.contextmanager
def called(copy: str | os.PathLike, path: str) -> Iterator[None]:
    """Let errors inside name `path`, which the user knows, instead of the copy that `local` made of it."""
    try:
        yield
    except MusicError as error:
        error.args = tuple(str(text).replace(str(copy), path.rstrip("/")) for text in error.args)
        raise


def read(path: str | os.PathLike, most: int | None = None) -> bytes:
    """Read the bytes at a path; those of an object that is stored gzip-encoded are unpacked.

    Args:
        most: so many bytes at most. An object of more is fetched nevertheless.

    Raises:
        FileNotFoundError: there is no such file.
        MusicError: it has more bytes than `most`.
    """
    if remote(path):
        data = gcs.read(str(path), most)
    else:
        with open(path, "rb") as file:
            data = file.read(-1 if most is None else most + 1)
    if most is not None and len(data) > most:
        raise MusicError(f"{path}: expected at most {most:,} bytes, got more")
    return data


def open_read(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read parts of it, such as a zip. From a bucket only these parts are fetched, unchecked."""
    return gcs.open_read(str(path)) if remote(path) else open(path, "rb")


def write(path: str | os.PathLike, data: bytes, expected: int | None = None) -> int:
    """Write bytes to a path at once: a reader sees the old ones or all of the new ones, never a part.

    Args:
        expected: the `version` that the file must have now, 0: there is no such file; for files that two might write.

    Returns:
        The file's new version.

    Raises:
        Conflict: the file has another version. (On a disk a writer in the same instant is not noticed.)
    """
    return _put(path, io.BytesIO(data), expected)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to write to; it appears at its path at once when the block ends, and never if the block raises."""
    if remote(path):
        with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
            yield spool  # type: ignore[misc]
            gcs.write(str(path), spool)  # type: ignore[arg-type]
        return
    with atomic.file(Path(path)) as file:
        yield file


def sweep(folder: str | os.PathLike) -> None:
    """Remove what killed writers left unfinished in a folder or below; in a bucket nothing unfinished is visible."""
    if not remote(folder):
        atomic.sweep(Path(folder))


def version(path: str | os.PathLike) -> int:
    """Look up a file's version, a number that changes with every write; 0 where there is no such file."""
    if remote(path):
        return gcs.generation(str(path))
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0
    return status.st_mtime_ns << 64 | status.st_ino  # a rename brings another inode


def exists(path: str | os.PathLike) -> bool:
    """Tell whether there is a file or a folder."""
    if remote(path):
        _, name = gcs.split(str(path).rstrip("/"))
        if not name:
            return is_folder(path)
        return any(each.name.rstrip("/") == name for each in gcs.listed(str(path).rstrip("/"), deep=False))
    return Path(path).exists()


def is_folder(path: str | os.PathLike) -> bool:
    """Tell whether there is a folder; in a bucket, whether anything is in it. The bucket itself is one."""
    if remote(path):
        return any(True for _ in gcs.listed(join(path, ""), deep=False)) or not gcs.split(str(path))[1]
    return Path(path).is_dir()


def entries(folder: str | os.PathLike) -> list[str]:
    """List the names in a folder, sorted; an absent folder has none."""
    if remote(folder):
        _, prefix = gcs.split(join(folder, ""))
        names = (each.name.removeprefix(prefix).rstrip("/") for each in gcs.listed(join(folder, ""), deep=False))
        return sorted({name for name in names if name})  # "" is an object that some tools make for an empty folder
    path = Path(folder)
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def walk(folder: str | os.PathLike) -> list[File]:
    """List all files in a folder and below it, sorted by path. A folder that links lead to is followed once."""
    return sorted(_files_below(str(folder), deep=True))


def glob(pattern: str, pass_over: Callable[[str, str], None] | None = None) -> list[File]:
    """List all files whose paths match, sorted; folders that links lead to are followed as in `walk`.

    Args:
        pattern: `*` stands for any characters but a slash, `**` for any at all, `?` for one, `[abc]` for one of these.
        pass_over: is called with the path of each link that is not followed and each folder that cannot be read, if
            the pattern matches it, and with the reason.
    """
    wildcard = WILDCARD.search(pattern)
    literal = pattern[: wildcard.start()] if wildcard else pattern
    folder = literal.rpartition("/")[0]
    rest = pattern[len(folder) + 1 :]
    matches = _expression(pattern).fullmatch
    folder = folder or ("/" if pattern.startswith("/") else ".")

    def skip(path: str, reason: str) -> None:
        if pass_over and matches(path):
            pass_over(path, reason)

    return sorted(
        file for file in _files_below(folder, deep="/" in rest or "**" in rest, skip=skip) if matches(file.path)
    )


def literally(path: str) -> str:
    """Make the pattern that only this path matches."""
    return WILDCARD.sub(r"[\g<0>]", path)


def remove(path: str | os.PathLike) -> None:
    """Remove a file, or a folder with all in it, if it is there."""
    if remote(path):
        if not gcs.split(str(path))[1].strip("/"):
            raise StorageError(f"{path}: a whole bucket is not removed here")
        below = [file.path for file in _files_below(str(path), deep=True)]
        deque(together(gcs.remove, [*below, str(path).rstrip("/")]), maxlen=0)
        return
    target = Path(path)
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def local(folder: str | os.PathLike) -> Path:
    """Give a local folder: `folder` itself, or a copy of one in a bucket, which is removed when this process ends.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not remote(folder):
        return Path(folder)
    files = walk(folder)
    if not files:
        raise gcs.gcs_errors.absent(str(folder))
    temporary = tempfile.mkdtemp(prefix="cadenza-")
    atexit.register(_remove_copy, temporary, os.getpid())
    home = Path(temporary, str(folder).rstrip("/").rpartition("/")[2])  # a version's folder keeps its number

    def fetch(file: File) -> None:
        name = file.path[len(join(folder, "")) :]
        if leads_out(name):
            raise StorageError(f"{file.path}: a name that leads elsewhere is not copied")
        write(home / name, gcs.read(file.path))

    deque(together(fetch, files), maxlen=0)
    return home


def publish(source: str | os.PathLike, folder: str | os.PathLike, last: str) -> None:
    """Copy a local folder to a new folder: on a disk at once, in a bucket with the file `last` after all others.

    Raises:
        Conflict: there is such a folder, perhaps because somebody else is publishing it right now.
    """
    names = [str(path.relative_to(source)) for path in sorted(Path(source).rglob("*")) if path.is_file()]
    if not remote(folder):
        if exists(folder):
            raise Conflict(f"{folder} is there already; choose another one")
        sweep(Path(folder).parent)
        with atomic.folder(Path(folder)) as unfinished:
            for name in names:
                with open(Path(source, name), "rb") as file:
                    _put(unfinished / name, file, expected=None)
        return
    first, *others = sorted(names, key=lambda name: (name == last, name))

    def put(name: str) -> None:
        with open(Path(source, name), "rb") as file:
            _put(join(folder, name), file, expected=0)

    if exists(folder):
        raise Conflict(f"{folder} is there already; choose another one")
    put(first)  # which claims the folder: if two publish it at the same time, one fails here
    try:
        deque(together(put, [name for name in others if name != last]), maxlen=0)
        if last in others:
            put(last)
    except (Conflict, Unreachable):  # the folder is not ours alone, or cannot be reached
        raise
    except Exception:
        with contextlib.suppress(Exception):  # an incomplete version would be taken for the newest one
            remove(folder)
        raise


def together(call: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield call(item) of each item, in order; 8 calls run at once, as each waits for a distant bucket."""
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


def _files_below(
    folder: str, *, deep: bool, skip: Callable[[str, str], None] = lambda path, reason: None
) -> Iterator[File]:
    """List the files in a folder, and if `deep` also those in its subfolders, in any order.

    `skip` is called with the path of each entry that is not listed, and the reason.
    """
    if remote(folder):
        bucket, _ = gcs.split(folder)
        for each in gcs.listed(join(folder, ""), deep=deep):
            if not each.name.endswith("/"):
                yield File(f"gs://{bucket}/{each.name}", each.size)
        return
    for parent, names in _folders(folder, deep=deep, skip=skip):
        for name in names:
            path = os.path.normpath(os.path.join(parent, name)) if folder == "." else os.path.join(parent, name)
            try:
                yield File(path, os.path.getsize(path))
            except OSError as error:  # a link, unless somebody removes the file meanwhile
                skip(path, f"a link that leads to no file ({error.strerror})")


def _folders(top: str, *, deep: bool, skip: Callable[[str, str], None]) -> Iterator[tuple[str, list[str]]]:
    """List a folder, and if `deep` all below it, each with the names of its files; first what no link leads to."""
    waiting = [top]
    visited = set()
    while waiting:
        start = heapq.heappop(waiting)
        for parent, folders, names in os.walk(start, onerror=lambda error: skip(error.filename, str(error.strerror))):
            real = os.path.realpath(parent)
            if real in visited:
                skip(parent, "a folder that is read under another name already")
                folders.clear()
                continue
            visited.add(real)
            yield parent, names
            if not deep:
                folders.clear()
            for path in (os.path.join(parent, name) for name in folders):
                if os.path.islink(path) and f"{real}/".startswith(os.path.join(os.path.realpath(path), "")):
                    skip(path, "a link back to a folder that it is in, which is not followed")
                elif os.path.islink(path):
                    heapq.heappush(waiting, path)


def _expression(pattern: str) -> re.Pattern:
    kinds = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.findall(r"\*\*|\*|\?|\[[!^]?[^\]]+\]|\[\]\]|.", pattern, re.DOTALL)
    return re.compile("".join(kinds.get(part) or _choice(part) for part in parts), re.DOTALL)


def _choice(part: str) -> str:
    """Write [abc], [a-z] or [!abc] as a regular expression; anything else stands for itself."""
    if len(part) < 3:
        return re.escape(part)
    inside = part[1:-1]
    without = inside[0] in "!^" and len(inside) > 1
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[without:])
    return f"[{'^/' if without else ''}{escaped}]"


def _remove_copy(folder: str, process: int) -> None:
    if os.getpid() == process:  # not when a forked process ends
        shutil.rmtree(folder, ignore_errors=True)
