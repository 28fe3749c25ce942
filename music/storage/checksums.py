"""Checksums that travel with what they vouch for: inside a JSON file, and beside the files of an
exported version.

They tell damage, not malice: whoever can change a file can change its seal. What has none, as all that was written
before there were seals, passes. Knows nothing of what it seals.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from music.errors import RecordError

KEY = "sha256"  # the last key of a sealed JSON object: the digest of all the others
MANIFEST = "assets.extra/manifest.json"  # in a version's folder, where TF Serving leaves it alone


def seal(facts: dict, indent: int | None = 1) -> bytes:
    """Facts as JSON that says when it is damaged; in ASCII, as a word may hold what is no UTF-8."""
    return json.dumps({**facts, KEY: digest(facts)}, indent=indent).encode()


def unseal(data: str | bytes, name: str) -> dict:
    """The facts of a sealed JSON object, however it is spaced now, or of one without a seal.

    Args:
        name: of the file, for the error.

    Raises:
        RecordError: it is no JSON object, or not the one that was sealed.
    """
    try:
        facts = json.loads(data)
    except ValueError as error:  # UnicodeDecodeError is one
        raise RecordError(f"{name} is damaged: expected JSON, got {_told(error)}") from error
    except RecursionError as error:
        raise RecordError(f"{name} is damaged: expected JSON, got brackets without an end") from error
    if not isinstance(facts, dict):
        raise RecordError(f"{name} is damaged: expected a JSON object, got {type(facts).__name__}")
    told = facts.pop(KEY, None)
    if told is not None and told != (found := digest(facts)):
        raise RecordError(f"{name} is damaged: expected what has the {KEY} {told!s:.64}, got {found}")
    return facts


def digest(facts: dict) -> str:
    """The same for the same facts, in whatever order and spacing."""
    read = json.loads(json.dumps(facts))  # as it will come back: tuples are lists then, and all keys strings
    text = json.dumps(read, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def seal_folder(folder: Path, themselves: Iterable[str] = ()) -> None:
    """Write the manifest of a version's folder: bytes and digest of each file in it.

    Args:
        themselves: names of files that tell of their own damage, and may be replaced: they must only be there.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: {} if name in themselves else {"bytes": (folder / name).stat().st_size, KEY: _digest_of(folder / name)}
        for name in names
        if name != MANIFEST
    }
    (folder / MANIFEST).parent.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(seal({"files": files}))


def check_folder(folder: Path) -> None:
    """Compare a version's folder with its manifest, if it has one. Files that it does not list are no damage.

    Raises:
        RecordError: a file is missing, or another one; or the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        listed = unseal(path.read_bytes(), str(path))["files"].items()
        files = [(name, told and (told["bytes"], told[KEY])) for name, told in listed]
    except FileNotFoundError:
        return
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is damaged: expected names of files with bytes and {KEY}") from error
    for name, told in files:
        if not (folder / name).is_file():
            raise RecordError(f"{folder / name} is missing, though {MANIFEST} lists it")
        found = told and ((folder / name).stat().st_size, _digest_of(folder / name))
        if found != told:
            raise RecordError(
                f"{folder / name} is damaged: expected {told[0]:,} bytes with the {KEY} {told[1]}, "
                f"got {found[0]:,} bytes with {found[1]}"
            )


def _digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
