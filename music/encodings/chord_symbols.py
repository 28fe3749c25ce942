"""Notes ⇄ rows of chord symbols: groups of notes that begin together, in a vocabulary. An Encoding (note_rows.py).

Octaves, inversions, velocities and overlaps are lost. What is left is what the known chord generators learn from.
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
    """One row per group of notes that begin together: its symbol, and with `duration` the time to the next group.

    A symbol is a note's name or a chord's normal order (chords.py). One that is not in the vocabulary is replaced by
    the nearest that is: a note by a note, then the fewest pitch classes apart, then the nearest in height, then the
    first. So every piece can be expressed and no time is lost.

    Args:
        vocabulary: symbols, sorted; empty until `fit`.
        min_count: a rarer symbol of the training pieces is left out of the vocabulary.
        tolerance: seconds within which notes begin together.
        duration: a Column of that name, in seconds, for the time to the next group; None: that time is not encoded.
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
        if len(set(self._codes.tolist())) != len(self.vocabulary):  # an unknown symbol raises here, too
            raise EncodingError("vocabulary: expected every symbol once")
        if not (self.min_count >= 1 and 0 <= self.tolerance < float("inf") and 0 < self.beat < float("inf")):
            raise EncodingError(f"expected min_count >= 1, tolerance >= 0 and beat > 0, got {self}")
        shortest = self.duration.low if self.duration else self.beat
        if not shortest > self.tolerance:  # else decoded groups would be encoded as one
            raise EncodingError(f"expected groups longer than {self.tolerance} s apart, got {shortest}")
        if self.duration and (self.duration.name != "duration" or self.duration.low <= 0):
            raise EncodingError(f"duration: expected a column of that name that begins above 0, got {self.duration}")

    @property
    def names(self) -> tuple[str, ...]:
        """List the columns' names."""
        return ("symbol", "duration") if self.duration else ("symbol",)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Count the classes of each column, PAD, BEGIN and END included."""
        sizes = [len(self.vocabulary), self.duration.size] if self.duration else [len(self.vocabulary)]
        return tuple(size + FIRST for size in sizes)

    @cached_property
    def _codes(self) -> np.ndarray:
        """Compute the vocabulary's codes, int32 [symbols]."""
        return np.array([chords.code(symbol) for symbol in self.vocabulary], "i4")

    @cached_property
    def _ids(self) -> np.ndarray:
        """Compute the id of every possible code, int32 [CODES]: of its own symbol, or of the nearest one."""
        if not self.vocabulary:
            raise EncodingError("an empty vocabulary: fit the encoding on training pieces first")
        vocabulary, every = (_SymbolFeatures.of(codes) for codes in (self._codes, np.arange(chords.CODES)))
        ids = np.empty(chords.CODES, "i4")
        for code in range(chords.CODES):
            distance = np.bitwise_count(vocabulary.mask ^ every.mask[code]).astype(int) * 1000
            distance += 20_000 * (vocabulary.single != every.single[code])
            ids[code] = np.argmin(distance + np.abs(vocabulary.height - every.height[code])) + FIRST
        return ids

    def fit(self, pieces: Iterable[Notes]) -> "ChordSymbols":
        """Take the vocabulary from these pieces. Raises EncodingError if no symbol is frequent enough."""
        counts = np.zeros(chords.CODES, "i8")
        for notes in pieces:
            supported = self.supported_notes(notes)
            counts += np.bincount(chords.codes(supported, self.events(supported)), minlength=chords.CODES)
        vocabulary = sorted(chords.symbol(code) for code in np.flatnonzero(counts >= self.min_count).tolist())
        if not vocabulary:
            raise EncodingError(
                f"no symbol is there {self.min_count} times; the most frequent one is there {counts.max()} times"
            )
        return replace(self, vocabulary=tuple(vocabulary))

    def supported_notes(self, notes: Notes) -> Notes:
        """Form the groups: their notes begin together and end where the next group begins; drums are left out."""
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
        """Find the groups' bounds in supported notes, where onsets are equal or far apart: int64 [G + 1]."""
        if not len(notes):
            return np.zeros(1, "i8")
        return np.concatenate([[0], np.flatnonzero(np.diff(notes["start"])) + 1, [len(notes)]])

    def clock(self, notes: Notes, before: float) -> float:
        """Give the second at which the last group ends when it is decoded; `before` where there are no notes."""
        if not len(notes):
            return before
        last = notes[-1]
        return float(last["start"] + self._decoded_durations(np.array([last["end"] - last["start"]]))[0])

    def _decoded_durations(self, seconds: np.ndarray) -> np.ndarray:
        """Round durations as encoding and decoding does; without a duration column each is `beat`."""
        if self.duration is None:
            return np.full(len(seconds), self.beat)
        return self.duration.decode(self.duration.encode(seconds))

    def encode(self, notes: Notes, *, begin: bool, end: bool, after: float | None = None) -> Rows:
        """Encode a piece, or a part of one, as int32 [T, F], T = groups + begin + end; `after` has no effect here.

        Raises:
            EncodingError: as `supported_notes` does, or the vocabulary is empty.
        """
        notes = self.supported_notes(notes)
        return columns.framed(self.encode_many(notes, np.array([0, len(notes)]), np.zeros(1)), begin, end)

    def encode_many(self, notes: Notes, bounds: np.ndarray, after: np.ndarray) -> Rows:
        """Encode excerpts of supported notes, each of whole groups: int32 [T, F], without BEGIN and END."""
        parts = [self.events(notes[a:b])[:-1] + a for a, b in pairwise(bounds)]
        events = np.append(np.concatenate([*parts, np.zeros(0, "i8")]), len(notes)).astype("i8")
        columns = [self._ids[chords.codes(notes, events)]]
        if self.duration:
            firsts = notes[events[:-1]]
            columns.append(self.duration.encode(firsts["end"] - firsts["start"]))
        return np.stack(columns, axis=-1).astype("i4")

    def decode(self, rows: Rows, after: float = 0.0) -> Notes:
        """Decode the groups one after the other from `after` on, each to its symbol's pitches (`chords.pitches`)."""
        rows = np.asarray(rows).reshape(-1, len(self.names))
        rows = rows[rows[:, 0] >= FIRST]
        durations = self.duration.decode(rows[:, 1]) if self.duration else np.full(len(rows), self.beat)
        clock = np.cumsum(np.append(after, durations))
        chord_pitches = [chords.pitches(int(code)) for code in self._codes[rows[:, 0] - FIRST]]
        sizes = [len(pitches) for pitches in chord_pitches]
        start, end = np.repeat(clock[:-1], sizes), np.repeat(clock[:-1] + durations, sizes)
        pitch = np.array([pitch for pitches in chord_pitches for pitch in pitches])
        return nt.from_columns(start, end, pitch, np.full(len(pitch), 80), np.zeros(len(pitch)))

    def config(self) -> dict:
        """Describe this encoding as JSON that `from_config` turns back into it."""
        return {"kind": "chord_symbols", **asdict(self), "vocabulary": list(self.vocabulary)}


@dataclass(frozen=True)
class _SymbolFeatures:
    """What distinguishes codes: their pitch classes, whether they are single notes, and their height."""

    mask: np.ndarray
    single: np.ndarray
    height: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray) -> "_SymbolFeatures":
        """Compute the features of codes, int [n]; a chord counts as middle C high."""
        single = codes < 128
        return cls(np.where(single, 1 << codes % 12, codes - 128), single, np.where(single, codes, 60))


def from_config(config: dict) -> ChordSymbols:
    """Make the encoding that a card describes; keys that we do not know are ignored."""
    names = {field.name for field in fields(ChordSymbols)}
    values = {name: value for name, value in config.items() if name in names}
    return ChordSymbols(**{**values, "duration": values["duration"] and columns.from_config(values["duration"])})
