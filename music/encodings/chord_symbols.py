"""Notes ⇄ rows of chord symbols: groups of notes that begin together, in a vocabulary. An Encoding (note_rows.py).

Octaves, inversions, velocities and overlaps are not kept: what is left is what the known chord generators learn from.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from music import notes as nt
from music.encodings import chords, columns
from music.encodings.columns import FIRST, Column, Rows
from music.errors import EncodingError
from music.notes import Notes


@dataclass(frozen=True)
class ChordSymbols:
    """One row per group of notes that begin together: its symbol, and how long until the next group if `duration`.

    A symbol is a note's name or a chord's normal order (chords.py). One that is not in the vocabulary is taken
    for the nearest that is: a note for a note, then the fewest pitch classes apart, then the nearest in height, then
    the first. So every piece can be expressed and no time is lost.

    Args:
        vocabulary: symbols, sorted; empty until `fit`.
        min_count: a rarer symbol of the training pieces is left out of the vocabulary.
        tolerance: seconds within which notes begin together.
        duration: a Column of that name, in seconds, that the time to the next group is rounded to; None: not told.
        beat: with no `duration`, the seconds that every group lasts when decoded.
    """

    vocabulary: tuple[str, ...] = ()
    min_count: int = 1
    tolerance: float = chords.TOLERANCE
    duration: Column | None = None
    beat: float = 0.5

    unit = "symbol"
    pitches = (0, 127)

    def __post_init__(self):
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        if len(set(self._codes.tolist())) != len(self.vocabulary):  # and an unknown symbol is an error here
            raise EncodingError("vocabulary: expected every symbol once")
        if not (self.min_count >= 1 and 0 <= self.tolerance < float("inf") and 0 < self.beat < float("inf")):
            raise EncodingError(f"expected min_count >= 1, tolerance >= 0 and beat > 0, got {self}")
        shortest = self.duration.low if self.duration else self.beat
        if not shortest > self.tolerance:  # else groups would be one when they are heard again
            raise EncodingError(f"expected groups longer than {self.tolerance} s apart, got {shortest}")
        if self.duration and (self.duration.name != "duration" or self.duration.low <= 0):
            raise EncodingError(f"duration: expected a column of that name that begins above 0, got {self.duration}")

    @property
    def names(self) -> tuple[str, ...]:
        return ("symbol", "duration") if self.duration else ("symbol",)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes per column, PAD, BEGIN and END included."""
        sizes = [len(self.vocabulary), self.duration.size] if self.duration else [len(self.vocabulary)]
        return tuple(size + FIRST for size in sizes)

    @cached_property
    def _codes(self) -> np.ndarray:
        return np.array([chords.code(symbol) for symbol in self.vocabulary], "i4")

    @cached_property
    def _ids(self) -> np.ndarray:
        """The id of every code there is, int32 [CODES]: its own symbol's, or the nearest one's."""
        if not self.vocabulary:
            raise EncodingError("an empty vocabulary: fit the encoding on training pieces first")
        known, every = (_Sound.of(codes) for codes in (self._codes, np.arange(chords.CODES)))
        ids = np.empty(chords.CODES, "i4")
        for code in range(chords.CODES):
            apart = np.bitwise_count(known.mask ^ every.mask[code]).astype(int) * 1000
            apart = apart + 20_000 * (known.single != every.single[code]) + np.abs(known.height - every.height[code])
            ids[code] = np.argmin(apart) + FIRST
        return ids

    def fit(self, pieces: Iterable[Notes]) -> "ChordSymbols":
        """With the vocabulary of these pieces. Raises EncodingError if no symbol is frequent enough."""
        counts = np.zeros(chords.CODES, "i8")
        for notes in pieces:
            heard = self.heard(notes)
            counts += np.bincount(chords.codes(heard, self.events(heard)), minlength=chords.CODES)
        found = sorted(chords.symbol(code) for code in np.flatnonzero(counts >= self.min_count).tolist())
        if not found:
            raise EncodingError(
                f"no symbol is there {self.min_count} times; the most frequent one is there {counts.max()} times"
            )
        return replace(self, vocabulary=tuple(found))

    def heard(self, notes: Notes) -> Notes:
        """The groups: their notes begin together and end where the next group begins; drums are left out."""
        notes = nt.pitched(notes).copy()
        if not len(notes):
            return notes
        bounds = chords.group(notes, self.tolerance)
        size = np.diff(bounds)
        onset = notes["start"][bounds[:-1]]
        notes["start"] = np.repeat(onset, size)
        last = notes["end"][bounds[-2] :].max()
        notes["end"] = np.repeat(np.append(onset[1:], last), size)
        return nt.sort(notes)

    def events(self, notes: Notes) -> np.ndarray:
        """The groups' bounds in what was heard, where onsets are equal or far apart; int64 [G + 1]."""
        if not len(notes):
            return np.zeros(1, "i8")
        return np.concatenate([[0], np.flatnonzero(np.diff(notes["start"])) + 1, [len(notes)]])

    def clock(self, notes: Notes, before: float) -> float:
        """Where the last group ends as it is decoded."""
        if not len(notes):
            return before
        last = notes[-1]
        return float(last["start"] + self._lasts(np.array([last["end"] - last["start"]]))[0])

    def _lasts(self, seconds: np.ndarray) -> np.ndarray:
        if self.duration is None:
            return np.full(len(seconds), self.beat)
        return self.duration.decode(self.duration.encode(seconds))

    def encode(self, notes: Notes, *, begin: bool, end: bool, after: float | None = None) -> Rows:
        """int32 [T, F], T = groups + begin + end; `after` tells nothing here. Raises EncodingError as `heard` does."""
        notes = self.heard(notes)
        return columns.framed(self.encode_many(notes, np.array([0, len(notes)]), np.zeros(1)), begin, end)

    def encode_many(self, notes: Notes, bounds: np.ndarray, after: np.ndarray) -> Rows:
        """Excerpts of what was heard, each of whole groups: int32 [T, F], without BEGIN and END."""
        parts = [self.events(notes[a:b])[:-1] + a for a, b in pairwise(bounds)]
        events = np.append(np.concatenate([*parts, np.zeros(0, "i8")]), len(notes)).astype("i8")
        columns = [self._ids[chords.codes(notes, events)]]
        if self.duration:
            firsts = notes[events[:-1]]
            columns.append(self.duration.encode(firsts["end"] - firsts["start"]))
        return np.stack(columns, axis=-1).astype("i4")

    def decode(self, rows: Rows, after: float = 0.0) -> Notes:
        """The groups one after the other from `after` on, each in its symbol's own pitches (`chords.pitches`)."""
        rows = np.asarray(rows).reshape(-1, len(self.names))
        rows = rows[rows[:, 0] >= FIRST]
        lasts = self.duration.decode(rows[:, 1]) if self.duration else np.full(len(rows), self.beat)
        clock = np.cumsum(np.append(after, lasts))
        played = [chords.pitches(int(code)) for code in self._codes[rows[:, 0] - FIRST]]
        sizes = [len(pitches) for pitches in played]
        start, end = np.repeat(clock[:-1], sizes), np.repeat(clock[:-1] + lasts, sizes)
        pitch = np.array([pitch for pitches in played for pitch in pitches])
        return nt.from_columns(start, end, pitch, np.full(len(pitch), 80), np.zeros(len(pitch)))

    def config(self) -> dict:
        """JSON that `from_config` turns back into this encoding."""
        return {"kind": "chord_symbols", **asdict(self), "vocabulary": list(self.vocabulary)}


@dataclass(frozen=True)
class _Sound:
    """What tells codes apart: their pitch classes, whether they are single notes, and how high they are."""

    mask: np.ndarray
    single: np.ndarray
    height: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray) -> "_Sound":
        single = codes < 128
        return cls(np.where(single, 1 << codes % 12, codes - 128), single, np.where(single, codes, 60))


def from_config(config: dict) -> ChordSymbols:
    """The encoding of a card; keys that we do not know are ignored."""
    known = {field.name for field in fields(ChordSymbols)}
    values = {name: value for name, value in config.items() if name in known}
    return ChordSymbols(**{**values, "duration": values["duration"] and columns.from_config(values["duration"])})
