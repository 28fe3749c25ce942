"""Random notes → a dataset folder, to measure with where there is no real one. It is no music to listen to."""

import json
from pathlib import Path

import numpy as np

from music import notes as nt
from music import wire
from music.pieces import DATASET, SCHEMA, SPLITS, Piece, checksum, to_example

_NOTES = 5_800  # a piece, as MAESTRO's have on average


def write(folder: Path, shards: int, pieces: int, notes: int = _NOTES) -> None:
    """Write a train split of so many shards of so many pieces each; validation and test get one piece each."""
    rng = np.random.default_rng(0)
    listed = [_shard(folder, "train", number, pieces, notes, rng) for number in range(shards)]
    listed += [_shard(folder, split, 0, 1, notes, rng) for split in SPLITS[1:]]
    count = {split: sum(shard["records"] for shard in listed if shard["split"] == split) for split in SPLITS}
    facts = {"schema": SCHEMA, "source": "made up", "digest": "", "pieces": count, "shards": listed}
    (folder / DATASET).write_text(json.dumps(facts))


def _shard(folder: Path, split: str, number: int, pieces: int, notes: int, rng: np.random.Generator) -> dict:
    examples = [to_example(Piece(_music(notes, rng), f"{number}-{k}", split=split)) for k in range(pieces)]
    data = wire.write_records(examples)
    path = f"{split}-{number:05d}.tfrecord"
    (folder / path).write_bytes(data)
    described = {"path": path, "split": split, "records": pieces, "notes": pieces * notes, "bytes": len(data)}
    return described | {"crc32c": checksum(data)}


def _music(count: int, rng: np.random.Generator) -> nt.Notes:
    """Draw notes at random: ten a second, often two together, half a second long, loud and soft."""
    start = np.cumsum(rng.exponential(0.1, count) * (rng.random(count) < 0.7))
    pitch = np.clip(rng.normal(64, 12, count), 21, 108).astype(int)
    notes = nt.from_columns(start, start + rng.exponential(0.5, count) + 0.02, pitch, rng.integers(20, 110, count))
    return nt.sort(notes)
