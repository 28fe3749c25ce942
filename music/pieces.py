"""Piece ⇄ tf.Example bytes, and the dataset folder that preprocessing writes and the trainer reads.

A dataset folder holds TFRecord shards and `dataset.json`, which is written last. Readers open the shards that it lists,
never a glob; a folder without it is not complete. Times are stored as int64 microseconds, as float32 seconds would be
off by 0.1 ms after twenty minutes. Knows nothing of encodings, Beam or TensorFlow.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c
import numpy as np

from music import notes as nt
from music import storage, wire
from music.errors import RecordError
from music.notes import Notes
from music.storage import checksums

SPLITS = ("train", "validation", "test")
SCHEMA = 1
DATASET = "dataset.json"
_MICRO = 1e6
_SHARD = ("path", "split", "records", "bytes", "crc32c")
_FACTS = ("id", "composer", "title", "year", "split")


@dataclass(frozen=True)
class Piece:
    """Notes and their metadata. `year` 0 and empty strings mean unknown; `id` is the path below the input folder."""

    notes: Notes
    id: str
    composer: str = ""
    title: str = ""
    year: int = 0
    split: str = "train"


def to_example(piece: Piece) -> bytes:
    """Write a Piece as a tf.Example: start and end (µs), pitch, velocity, program as int64 [n]; texts as bytes."""
    example = wire.Example()
    feature = example.features.feature
    for fact in _FACTS:
        value = getattr(piece, fact)
        if fact == "year":
            feature[fact].int64_list.value.append(value)
        else:
            feature[fact].bytes_list.value.append(value.encode())
    for name in nt.FIELDS:
        values = piece.notes[name]
        if name in ("start", "end"):
            values = np.rint(values * _MICRO)
        feature[name].int64_list.value.extend(values.astype("i8").tolist())
    return example.SerializeToString(deterministic=True)


def from_example(data: bytes) -> Piece:
    """Read a tf.Example as a Piece. Raises RecordError if the bytes are not what `to_example` writes."""
    example = wire.PackedExample()
    try:
        example.ParseFromString(data)
        feature = example.features.feature
        missing = {*_FACTS, *nt.FIELDS} - set(feature)
        if missing:
            raise RecordError(f"a tf.Example lacks the features {sorted(missing)}; it has {sorted(feature)}")
        columns = {name: wire.unpack(b"".join(feature[name].int64_list.value)) for name in (*nt.FIELDS, "year")}
        if not all(map(len, columns.values())):  # no notes, or another writer did not pack its numbers
            plain = wire.Example.FromString(data).features.feature
            columns = {name: np.array(plain[name].int64_list.value, "i8") for name in columns}
        notes = nt.from_columns(
            columns["start"] / _MICRO, columns["end"] / _MICRO, *(columns[name] for name in nt.FIELDS[2:])
        )
        text = {fact: feature[fact].bytes_list.value[0].decode() for fact in _FACTS if fact != "year"}
        return Piece(notes=notes, year=int(columns["year"][0]), **text)
    except RecordError:
        raise
    except Exception as error:  # protobuf's DecodeError, a short list, columns of unequal length
        raise RecordError(f"a tf.Example is damaged: {error!r}") from error


def checksum(data: bytes) -> str:
    """Compute the crc32c in hexadecimal, as object stores report it."""
    return f"{google_crc32c.value(data):08x}"


@dataclass(frozen=True)
class Dataset:
    """A complete dataset folder, as its `dataset.json` describes it."""

    folder: str
    facts: dict

    @classmethod
    def open(cls, folder: str) -> "Dataset":
        """Read `dataset.json`. Raises RecordError if it is missing (the run did not finish), damaged or too new."""
        path = storage.join(folder, DATASET)
        try:
            facts = checksums.checked(storage.read(path), path)
            if facts["schema"] > SCHEMA:
                raise RecordError(f"{path} has schema {facts['schema']}; this version reads up to {SCHEMA}")
            facts["digest"], facts["pieces"], [[shard[key] for key in _SHARD] for shard in facts["shards"]]
            for shard in facts["shards"]:
                if storage.leads_out(shard["path"]):
                    raise RecordError(f"{path} lists a shard {shard['path']!r}: expected a name inside its own folder")
        except FileNotFoundError:
            raise RecordError(
                f"{folder} is no complete dataset: {DATASET} is missing. Run `python -m preprocessing`"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path} is damaged: {error!r}") from error
        return cls(folder, facts)

    def shards(self, split: str) -> list[dict]:
        """List the shards of one split, dicts as in `dataset.json`. Raises RecordError if none of them has a piece."""
        shards = [shard for shard in self.facts["shards"] if shard["split"] == split and shard["records"]]
        if not shards:
            raise RecordError(f"{self.folder} has no {split} pieces; its shards: {self.facts['pieces']}")
        return shards

    def pieces(self, split: str) -> Iterator[Piece]:
        """Read the pieces of one split, one at a time. Raises RecordError if a shard is missing or damaged."""
        for shard in self.shards(split):
            yield from self.read_shard(shard)

    def read_shard(self, shard: dict) -> Iterator[Piece]:
        """Check a shard's size and checksum, then read its pieces, one at a time. Raises RecordError."""
        path = storage.join(self.folder, shard["path"])
        try:
            data = storage.read(path)
        except FileNotFoundError:
            raise RecordError(f"{path} is missing, though {DATASET} lists it") from None
        if len(data) != shard["bytes"] or checksum(data) != shard["crc32c"]:
            raise RecordError(
                f"{path} is not the shard that {DATASET} lists: expected {shard['bytes']} bytes with crc32c "
                f"{shard['crc32c']}, got {len(data)} bytes with {checksum(data)}"
            )
        for record in wire.read_records(io.BytesIO(data), path):
            yield from_example(record)
