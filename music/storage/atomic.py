"""Write a file or a folder under a hidden name, then rename it; and remove what killed writers left unfinished.

A writer locks what it writes. The system releases the lock when the process ends, however it ends. So what nobody locks
can be removed while others write. Knows nothing of buckets, nor of what is written.
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
except ImportError:  # not a Unix: nothing is locked there, and nothing is removed
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_YOUNG = 2.0  # seconds in which its writer may not have locked it yet
_UNNAMED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
)  # of a write: these do not name the file


@contextlib.contextmanager
def file(target: Path) -> Iterator[BinaryIO]:
    """Open a file to write to. It becomes `target` when the block ends, and is removed if the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(target)
    try:
        with _name_errors(target, temporary), open(temporary, "wb") as unfinished:
            _lock(unfinished.fileno())
            yield unfinished
            unfinished.flush()
            os.fsync(unfinished.fileno())
            if fcntl is None:  # Windows renames no open file; elsewhere it stays locked until it is renamed
                unfinished.close()
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """Make a folder to fill. It becomes `target` when the block ends, and is removed if the block raises.

    Raises:
        Conflict: somebody else has written `target` meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(target)
    temporary.mkdir()
    descriptor = None if fcntl is None else os.open(temporary, os.O_RDONLY)  # on Windows no folder can be opened
    try:
        if descriptor is not None:
            _lock(descriptor)
        yield temporary
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise Conflict(f"{target} is there already; choose another one") from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> list[str]:
    """Remove from a folder, and below it, what killed writers left unfinished; return its names."""
    if fcntl is None:
        return []
    below = os.walk(folder)  # which, unlike rglob, ignores what other writers remove at the same time
    paths = [Path(at, name) for at, *both in below for names in both for name in names if _NAME.fullmatch(name)]
    return [path.name for path in sorted(paths) if _remove_unlocked(path)]


def _remove_unlocked(path: Path) -> bool:
    """Remove a file or a folder unless it is new or somebody has locked it; tell whether it was removed."""
    try:
        if time.time() - path.stat().st_mtime < _YOUNG:
            return False
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # removed meanwhile, or another user's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True
    except OSError:  # somebody still writes it, or it is another user's
        return False
    finally:
        os.close(descriptor)


def _temporary_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # two containers have the same process id


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing will be removed
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _name_errors(target: Path, temporary: Path) -> Iterator[None]:
    """Let the error of a full or read-only disk name `target`, which the user knows, and not the hidden file."""
    try:
        yield
    except OSError as error:
        if str(error.filename) == str(temporary) or (error.filename is None and error.errno in _UNNAMED):
            error.filename = str(target)
        raise
