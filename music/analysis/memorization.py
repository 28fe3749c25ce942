"""Notes → the longest run of them that the training set has, too; by a small index that is shipped with a model.

A run is a sequence of intervals between notes, without key, tempo, rhythm, loudness and lengths; notes that begin
together are ordered by pitch. The index is a Bloom filter: it holds which runs of 8 and of 16 notes the training set
has, but no notes, no order and no positions. So it never misses a run that occurs there. A longer run counts as there
where all its parts of 16 notes are, even in different pieces. Knows nothing of models or requests.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import google_crc32c
import numpy as np

from music import storage
from music.errors import RecordError
from music.notes import DRUMS, Notes
from music.storage import checksums

FILE = "originality.index"  # in a version's folder `assets.extra`, which TF Serving leaves alone
LENGTHS = (8, 16)  # notes: nearly all shorter runs occur, and with 8 alone parts from many places would make one run
TOGETHER = 0.045  # seconds between onsets: MAESTRO's rarest gap between those of chords and those of fast passages
HASHES = 5  # bits set for each run
BITS = 8  # of the filter for each run: one of 46 runs that do not occur counts as one that does
SCHEMA = 1
_KIND = "cadenza originality"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Run(NamedTuple):
    """A run of notes in some music; 0 notes: there is no run of LENGTHS[0] notes or more."""

    notes: int
    start: float  # the onset of its first note, seconds
    seconds: float  # from there to the onset of its last one


NO_RUN = Run(0, 0.0, 0.0)


@dataclass(frozen=True)
class Index:
    """Which runs of LENGTHS notes a training set has. `facts` says which set: source, digest, pieces, notes, runs."""

    facts: dict
    bits: np.ndarray  # uint8

    def holds(self, runs: np.ndarray) -> np.ndarray:
        """Look up runs, as `_hashed` makes them: bool [n]; a few runs that do not occur are True, too."""
        positions = _positions(runs, 8 * len(self.bits))
        return (self.bits[positions >> 3] >> (positions & 7).astype("u1") & 1).all(axis=0)

    def to_bytes(self) -> bytes:
        """Write the index as a line of JSON with its checksum, and the bits behind it."""
        data = self.bits.tobytes()
        head = {"kind": _KIND, "schema": SCHEMA, **self.facts, "bytes": len(data), "crc32c": google_crc32c.value(data)}
        return checksums.with_checksum(head, indent=None) + b"\n" + data


def build(pieces: Iterable[Notes], **facts: str) -> Index:
    """Build the index of a training set; `facts`, such as source and digest, say which set it is.

    Needs 16 bytes of memory for each note.
    """
    hashes_of: dict[int, list[np.ndarray]] = {length: [] for length in LENGTHS}
    count = note_count = 0
    for notes in pieces:
        count, note_count = count + 1, note_count + len(notes)
        intervals = _intervals(ordered(notes))
        for length in LENGTHS:
            hashes_of[length].append(_hashed(intervals, length))
    runs = {length: np.unique(np.concatenate([np.empty(0, "u8"), *hashes])) for length, hashes in hashes_of.items()}
    size = max(-(-BITS * sum(map(len, runs.values())) // 8), 1)
    bits = np.zeros(8 * size, bool)
    for hashes in runs.values():
        for positions in _positions(hashes, len(bits)):
            bits[positions] = True
    sizes = {str(length): len(hashes) for length, hashes in runs.items()}
    return Index({**facts, "pieces": count, "notes": note_count, "runs": sizes}, np.packbits(bits, bitorder="little"))


def read(path: str | os.PathLike) -> Index:
    """Read an index. Raises RecordError if there is none, or it is damaged or newer than this code."""
    try:
        line, _, data = storage.read(path).partition(b"\n")
        facts = checksums.checked(line, f"{path}: its first line")
        if facts["kind"] != _KIND:
            raise ValueError(f"its kind is {facts['kind']!r}")
        if facts["schema"] > SCHEMA:
            raise RecordError(f"{path} has schema {facts['schema']}; this version reads up to {SCHEMA}")
        if not data or (facts["bytes"], facts["crc32c"]) != (len(data), google_crc32c.value(data)):
            raise ValueError(f"expected {facts['bytes']} bytes, got {len(data)} bytes, or bytes with another checksum")
    except OSError as error:
        raise RecordError(f"no originality index in {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is a damaged originality index: {error}") from error
    return Index(facts, np.frombuffer(data, "u1"))


def longest_run(notes: Notes, index: Index) -> Run:
    """Find the longest run of these notes that the training set has, too; of equally long ones the first."""
    music = ordered(notes)
    intervals = _intervals(music)
    best, first, occurs = 0, 0, np.ones(len(music), bool)
    for length, limit in zip(LENGTHS, (*LENGTHS[1:], len(music) + 1), strict=True):
        occurs = index.holds(_hashed(intervals, length)) & _all_parts_occur(occurs, len(music) - length + 1)
        begins, sizes = _true_runs(occurs)
        if not len(sizes):
            break
        best = min(int(sizes.max()) + length - 1, limit - 1)  # the next length finds those of `limit` notes and more
        first = int(begins[sizes.argmax()])
    if not best:
        return NO_RUN
    onsets = music["start"][first : first + best]
    return Run(best, float(onsets.min()), float(onsets.max() - onsets.min()))


def ordered(notes: Notes) -> Notes:
    """Order notes so that tempo and small unevenness change nothing: those that begin together by pitch; no drums."""
    music = notes[notes["program"] != DRUMS]
    music = music[np.argsort(music["start"], kind="stable")]
    together = np.cumsum(np.diff(music["start"], prepend=music["start"][:1]) > TOGETHER)
    return music[np.lexsort((music["pitch"], together))]


def _intervals(music: Notes) -> np.ndarray:
    """Compute the semitones from each note to the next plus 128, uint64 [n - 1]."""
    return (np.diff(music["pitch"].astype("i8")) + 128).astype("u8")


def _hashed(intervals: np.ndarray, length: int) -> np.ndarray:
    """Hash the intervals of each run of `length` notes: uint64 [n - length + 1]."""
    count = max(len(intervals) - length + 2, 0)
    hashes = np.full(count, length, "u8")
    for k in range(length - 1):
        hashes = hashes * _MULTIPLIER + intervals[k : k + count]  # overflow is intended
    hashes = (hashes ^ hashes >> np.uint64(31)) * np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ hashes >> np.uint64(29)


def _positions(runs: np.ndarray, size: int) -> np.ndarray:
    """Compute the positions of runs' bits in a filter of `size` bits: int64 [HASHES, n]."""
    low, high = runs & np.uint64(0xFFFFFFFF), runs >> np.uint64(32) | np.uint64(1)
    return ((low + np.arange(HASHES, dtype="u8")[:, None] * high) % np.uint64(size)).astype("i8")


def _all_parts_occur(occurs: np.ndarray, count: int) -> np.ndarray:
    """Say which of `count` longer runs consist of shorter ones that all occur: bool [count].

    Args:
        occurs: whether the shorter run at each position occurs, bool [n].
    """
    if count <= 0:
        return np.empty(0, bool)
    width = len(occurs) - count + 1
    return np.convolve(~occurs, np.ones(width, int), "valid") == 0


def _true_runs(true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where the stretches of true values begin, and how long they are."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype("i1"), [0]])))
    return edges[::2], edges[1::2] - edges[::2]
