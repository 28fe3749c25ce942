"""How long a run of notes also stands in the training set? Notes → the longest run, by a compact index that ships.

A run is what is left of notes when key, tempo, rhythm, loudness and lengths are taken away: the intervals between notes
in an order that no tempo changes (those that begin together by their pitch). The index knows which runs of 8 and of 16
notes the training set has, as bits of a Bloom filter: no notes, no order, no places. So a run that occurs there is
never missed, and a longer one is taken for whole where all its parts of 16 notes occur, be it in several places. Knows
nothing of models or requests.
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
LENGTHS = (8, 16)  # notes: of shorter runs nearly all occur, and 8 alone would chain what stands in several places
TOGETHER = 0.045  # seconds between onsets: the rarest gap of MAESTRO's between those of chords and of fast passages
HASHES = 5  # bits set for each run
BITS = 8  # of the filter for each run: one of 46 that do not occur is taken for one that does
SCHEMA = 1
_KIND = "cadenza originality"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Run(NamedTuple):
    """A run of notes in some music; no notes: there is none of LENGTHS[0] or more."""

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
        """Which of some runs, as `_hashed` makes them, occur: bool [n]; a few that do not count as well."""
        places = _places(runs, 8 * len(self.bits))
        return (self.bits[places >> 3] >> (places & 7).astype("u1") & 1).all(axis=0)

    def to_bytes(self) -> bytes:
        """A line of JSON, sealed, and the bits behind it."""
        data = self.bits.tobytes()
        head = {"kind": _KIND, "schema": SCHEMA, **self.facts, "bytes": len(data), "crc32c": google_crc32c.value(data)}
        return checksums.seal(head, indent=None) + b"\n" + data


def build(pieces: Iterable[Notes], **facts: str) -> Index:
    """Count the runs of a training set; `facts`, such as source and digest, say which one it is.

    Holds 16 bytes for each note while it does.
    """
    found: dict[int, list[np.ndarray]] = {length: [] for length in LENGTHS}
    count = notes_in_all = 0
    for notes in pieces:
        count, notes_in_all = count + 1, notes_in_all + len(notes)
        intervals = _intervals(ordered(notes))
        for length in LENGTHS:
            found[length].append(_hashed(intervals, length))
    runs = {length: np.unique(np.concatenate([np.empty(0, "u8"), *hashes])) for length, hashes in found.items()}
    size = max(-(-BITS * sum(map(len, runs.values())) // 8), 1)
    bits = np.zeros(8 * size, bool)
    for hashes in runs.values():
        for places in _places(hashes, len(bits)):
            bits[places] = True
    sizes = {str(length): len(hashes) for length, hashes in runs.items()}
    return Index({**facts, "pieces": count, "notes": notes_in_all, "runs": sizes}, np.packbits(bits, bitorder="little"))


def read(path: str | os.PathLike) -> Index:
    """Read an index. Raises RecordError: there is none, or it is damaged or newer than this code."""
    try:
        line, _, data = storage.read(path).partition(b"\n")
        facts = checksums.unseal(line, f"{path}: its first line")
        if facts["kind"] != _KIND:
            raise ValueError(f"its kind is {facts['kind']!r}")
        if facts["schema"] > SCHEMA:
            raise RecordError(f"{path} has schema {facts['schema']}; this version reads up to {SCHEMA}")
        if not data or (facts["bytes"], facts["crc32c"]) != (len(data), google_crc32c.value(data)):
            raise ValueError(f"it is said to have {facts['bytes']} bytes of another checksum, and has {len(data)}")
    except OSError as error:
        raise RecordError(f"no originality index in {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is no whole originality index: {error}") from error
    return Index(facts, np.frombuffer(data, "u1"))


def longest_run(notes: Notes, index: Index) -> Run:
    """The longest run of these notes that the training set has, too; of equally long ones the first."""
    music = ordered(notes)
    intervals = _intervals(music)
    best, first, known = 0, 0, np.ones(len(music), bool)
    for length, limit in zip(LENGTHS, (*LENGTHS[1:], len(music) + 1), strict=True):
        known = index.holds(_hashed(intervals, length)) & _throughout(known, len(music) - length + 1)
        begins, sizes = _stretches(known)
        if not len(sizes):
            break
        best = min(int(sizes.max()) + length - 1, limit - 1)  # were there one of `limit`, the next round would find it
        first = int(begins[sizes.argmax()])
    if not best:
        return NO_RUN
    onsets = music["start"][first : first + best]
    return Run(best, float(onsets.min()), float(onsets.max() - onsets.min()))


def ordered(notes: Notes) -> Notes:
    """Notes without drums in an order that tempo and small unevenness leave alone: those together by pitch."""
    music = notes[notes["program"] != DRUMS]
    music = music[np.argsort(music["start"], kind="stable")]
    together = np.cumsum(np.diff(music["start"], prepend=music["start"][:1]) > TOGETHER)
    return music[np.lexsort((music["pitch"], together))]


def _intervals(music: Notes) -> np.ndarray:
    """Semitones from each note to the next, as uint64 [n - 1] above 0."""
    return (np.diff(music["pitch"].astype("i8")) + 128).astype("u8")


def _hashed(intervals: np.ndarray, length: int) -> np.ndarray:
    """A number for each run of `length` notes, by its intervals alone: uint64 [n - length + 1]."""
    count = max(len(intervals) - length + 2, 0)
    hashes = np.full(count, length, "u8")
    for k in range(length - 1):
        hashes = hashes * _MULTIPLIER + intervals[k : k + count]  # wraps around, as it should
    hashes = (hashes ^ hashes >> np.uint64(31)) * np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ hashes >> np.uint64(29)


def _places(runs: np.ndarray, size: int) -> np.ndarray:
    """Where a filter of `size` bits has its bits for some runs: int64 [HASHES, n]."""
    low, high = runs & np.uint64(0xFFFFFFFF), runs >> np.uint64(32) | np.uint64(1)
    return ((low + np.arange(HASHES, dtype="u8")[:, None] * high) % np.uint64(size)).astype("i8")


def _throughout(known: np.ndarray, count: int) -> np.ndarray:
    """Of the first `count` runs which consist of known shorter ones alone; of those `known` tells for each place."""
    if count <= 0:
        return np.empty(0, bool)
    wide = len(known) - count + 1
    return np.convolve(~known, np.ones(wide, int), "valid") == 0


def _stretches(true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the stretches of true values begin, and how long they are."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype("i1"), [0]])))
    return edges[::2], edges[1::2] - edges[::2]
