"""A file or a folder in the making, under a hidden name beside its own; and what writers leave that were killed.

Who makes one holds a lock on it, which the system lets go when a process ends, however it ends. So what nobody holds
can be swept away while others write. Knows nothing of buckets, nor of what is made.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from music.errors import Conflict

try:
    import fcntl
except ImportError:  # not a Unix: nothing is locked there, and nothing swept
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_YOUNG = 2.0  # seconds in which its maker may not hold it yet
_UNNAMED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # of a write: which file, it does not say


@contextlib.contextmanager
def file(target: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes `target` when the block ends, or nothing at all if that raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(target)
    try:
        with _named(beside, target), open(beside, "wb") as made:
            _hold(made.fileno())
            yield made
            made.flush()
            os.fsync(made.fileno())
            if fcntl is None:  # Windows renames no open file; elsewhere it stays held until it is in its place
                made.close()
            os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A new folder to fill that becomes `target` when the block ends, or nothing at all if that raises.

    Raises:
        Conflict: meanwhile something stands there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(target)
    beside.mkdir()
    held = None if fcntl is None else os.open(beside, os.O_RDONLY)  # on Windows no folder can be opened
    try:
        if held is not None:
            _hold(held)
        yield beside
        try:
            os.rename(beside, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise Conflict(f"{target} is there already; choose another one") from error
    finally:
        if held is not None:
            os.close(held)
        shutil.rmtree(beside, ignore_errors=True)


def sweep(where: Path) -> list[str]:
    """Remove from a folder and below it what was left in the making by those that live no more; its names."""
    if fcntl is None:
        return []
    below = os.walk(where)  # which steps over what goes meanwhile, as rglob does not: others take theirs away right now
    found = [Path(at, name) for at, *both in below for names in both for name in names if _NAME.fullmatch(name)]
    return [path.name for path in sorted(found) if _removed(path)]


def _removed(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime < _YOUNG:
            return False
        number = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile, or not ours
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True
    except OSError:  # somebody is still at it, or it is not ours
        return False
    finally:
        os.close(number)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # two containers have the same process id


def _hold(number: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing will be swept
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _named(beside: Path, target: Path) -> Iterator[None]:
    """A full disk, or one that must not be written, is an error of the file that the user knows."""
    try:
        yield
    except OSError as error:
        if str(error.filename) == str(beside) or (error.filename is None and error.errno in _UNNAMED):
            error.filename = str(target)
        raise
