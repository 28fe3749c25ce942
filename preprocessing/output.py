"""The dataset folder: empty it before the pipeline; after it, count the files and write `dataset.json`.

`dataset.json` is written last, from the files themselves. So an interrupted run, or a runner that loses records, is
never taken for a complete dataset. Knows nothing of Beam.
"""

import hashlib
import io
import re
from collections import Counter
from functools import partial
from typing import NamedTuple

from music import storage, wire
from music.errors import MusicError, RecordError
from music.pieces import DATASET, SCHEMA, SPLITS, checksum
from music.storage import checksums

STATISTICS, ERRORS, DUPLICATES, WARNINGS = "stats.json", "errors.jsonl", "duplicates.jsonl", "warnings.jsonl"
_SHARD = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")
_DATASET_FILES = re.compile(
    rf"\.?(?:{_SHARD.pattern}|{'|'.join(map(re.escape, (STATISTICS, ERRORS, DUPLICATES, WARNINGS, DATASET)))})"
    r"(?:\.\w+\.tmp)?"
)


class Outcome(NamedTuple):
    """How many files became what, and the dataset."""

    dataset: dict  # as in dataset.json
    errors: int
    duplicates: int
    warnings: int  # files that are damaged, but were read; and those that were passed over


def shard_name(split: str, number: int, shards: int) -> str:
    """Make a shard's file name, such as train-00003-of-00016.tfrecord."""
    return f"{split}-{number:05d}-of-{shards:05d}.tfrecord"


def check(folder: str, overwrite: bool) -> None:
    """Check that --output can be used.

    Raises:
        MusicError: the folder is not empty and `overwrite` is not set, or its name is not UTF-8, as Beam needs it.
    """
    if folder != (printable := folder.encode(errors="backslashreplace").decode()):
        raise MusicError(f"--output {printable}: expected a name in UTF-8")
    names = storage.entries(folder)
    if names and not overwrite:
        raise MusicError(f"--output {folder} is not empty, it holds {names[0]}; --overwrite replaces a dataset in it")


def prepare(folder: str) -> None:
    """Make the folder and remove an older dataset from it: `dataset.json` first, then its other files, nothing else.

    Raises:
        OSError: the folder cannot be written.
    """
    storage.remove(storage.join(folder, DATASET))
    paths = [storage.join(folder, name) for name in filter(_DATASET_FILES.fullmatch, storage.entries(folder))]
    for _ in storage.together(storage.remove, paths):
        pass
    storage.write(storage.join(folder, ERRORS), b"")  # better to fail here than after an hour's work


def complete(folder: str, source: str, files: int) -> Outcome:
    """Count what the pipeline wrote and write `dataset.json`.

    Args:
        source: the name of the input, for `dataset.json`.
        files: how many files the input holds; each must have become a piece, an error or a duplicate.

    Raises:
        RecordError: files are missing, a shard is damaged, or there is no piece at all.
    """
    names = storage.entries(folder)
    if DATASET in names:  # a run removes it first: so it is an older one's, or that of a run at the same time
        raise RecordError(f"{folder} holds a complete dataset already ({DATASET}); nothing is left to declare")
    if missing := sorted({STATISTICS, ERRORS, DUPLICATES, WARNINGS} - set(names)):
        raise RecordError(f"{folder} is not complete: {', '.join(missing)} not there; the job is not done, or failed")
    in_turn = storage.together if storage.remote(folder) else map
    shards = list(in_turn(partial(_describe, folder), filter(_SHARD.fullmatch, names)))
    errors, duplicates, warnings = (_lines(storage.join(folder, name)) for name in (ERRORS, DUPLICATES, WARNINGS))
    pieces: Counter[str] = Counter()
    for shard in shards:
        pieces[shard["split"]] += shard["records"]
    if pieces.total() + errors + duplicates != files:
        raise RecordError(
            f"{folder} is not complete: of {files} files there are {pieces.total()} pieces, {errors} errors and "
            f"{duplicates} duplicates; the input changed meanwhile, the job is not done, or the runner lost some"
        )
    if not pieces:
        raise RecordError(f"none of the {files} files holds music; {storage.join(folder, ERRORS)} says why")
    dataset = {
        "schema": SCHEMA,
        "source": source,
        "digest": _digest(shards),
        "pieces": {split: pieces[split] for split in SPLITS},
        "shards": shards,
    }
    storage.write(storage.join(folder, DATASET), checksums.with_checksum(dataset) + b"\n", expected=0)
    return Outcome(dataset, errors, duplicates, warnings)


def _digest(shards: list[dict]) -> str:
    """Compute the SHA-256 of the shards' names and checksums; a shard's name says its split."""
    return hashlib.sha256("\n".join(sorted(f"{each['path']} {each['crc32c']}" for each in shards)).encode()).hexdigest()


def _describe(folder: str, name: str) -> dict:
    data = storage.read(storage.join(folder, name))
    notes = [_count_notes(record) for record in wire.read_records(io.BytesIO(data), name)]
    return {
        "path": name,
        "split": name.partition("-")[0],
        "records": len(notes),
        "notes": sum(notes),
        "bytes": len(data),
        "crc32c": checksum(data),
    }


def _count_notes(record: bytes) -> int:
    return len(wire.Example.FromString(record).features.feature["pitch"].int64_list.value)


def _lines(path: str) -> int:
    return storage.read(path).count(b"\n")
