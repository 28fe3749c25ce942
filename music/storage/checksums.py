"""Checksums: inside a JSON file, and in a manifest beside the files of an exported version.

They detect damage, not malice: whoever can change a file can change its checksum too. A file without a checksum passes,
as files of older versions have none. Knows nothing of what the files mean.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from music.errors import RecordError

KEY = "sha256"  # the last key of a JSON object: the digest of all the others
MANIFEST = "assets.extra/manifest.json"  # in a version's folder, in a subfolder that TF Serving ignores


def with_checksum(facts: dict, indent: int | None = 1) -> bytes:
    """Write facts as a JSON object with a checksum; in ASCII, as a string may hold what is no UTF-8."""
    return json.dumps({**facts, KEY: digest(facts)}, indent=indent).encode()


def checked(data: str | bytes, name: str) -> dict:
    """Read the facts of a JSON object and compare them with its checksum, if it has one. Spacing does not matter.

    Args:
        name: of the file, for the error.

    Raises:
        RecordError: it is no JSON object, or not the one that was written.
    """
    try:
        facts = json.loads(data)
    except ValueError as error:  # UnicodeDecodeError is one
        raise RecordError(f"{name} is damaged: expected JSON, got {_one_line(error)}") from error
    except RecursionError as error:
        raise RecordError(f"{name} is damaged: expected JSON, got brackets without an end") from error
    if not isinstance(facts, dict):
        raise RecordError(f"{name} is damaged: expected a JSON object, got {type(facts).__name__}")
    expected = facts.pop(KEY, None)
    if expected is not None and expected != (actual := digest(facts)):
        raise RecordError(f"{name} is damaged: expected what has the {KEY} {expected!s:.64}, got {actual}")
    return facts


def digest(facts: dict) -> str:
    """Compute the SHA-256 of facts, in hex; it does not depend on their order."""
    as_read = json.loads(json.dumps(facts))  # as a reader gets them: tuples become lists, and all keys strings
    text = json.dumps(as_read, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(folder: Path, self_checking: Iterable[str] = ()) -> None:
    """Write the manifest of a version's folder: bytes and digest of each file in it.

    Args:
        self_checking: names of files that hold their own checksum and may be replaced; only their names are listed.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: {} if name in self_checking else {"bytes": (folder / name).stat().st_size, KEY: _digest_of(folder / name)}
        for name in names
        if name != MANIFEST
    }
    (folder / MANIFEST).parent.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(with_checksum({"files": files}))


def check_folder(folder: Path) -> None:
    """Compare a version's folder with its manifest, if it has one. Files that it does not list are ignored.

    Raises:
        RecordError: a file is missing or has other bytes, or the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        listed = checked(path.read_bytes(), str(path))["files"].items()
        files = [(name, entry and (entry["bytes"], entry[KEY])) for name, entry in listed]
    except FileNotFoundError:
        return
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is damaged: expected names of files with bytes and {KEY}") from error
    for name, expected in files:
        if not (folder / name).is_file():
            raise RecordError(f"{folder / name} is missing, though {MANIFEST} lists it")
        actual = expected and ((folder / name).stat().st_size, _digest_of(folder / name))
        if actual != expected:
            raise RecordError(
                f"{folder / name} is damaged: expected {expected[0]:,} bytes with the {KEY} {expected[1]}, "
                f"got {actual[0]:,} bytes with {actual[1]}"
            )


def _digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
