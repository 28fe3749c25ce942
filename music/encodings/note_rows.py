"""Notes ⇄ rows: what a model reads and writes. Knows nothing of models, files or MIDI.

A row is one event, int32 [F], one class id per Column. An event is a note (NoteRows) or all the notes that begin
together (ChordSymbols, in chord_symbols.py).

In NoteRows times are quantised on one clock, which begins where the music does, and then differenced against the clock
as decoded so far, so every onset is within half a bin of the truth and errors never add up. An end is quantised on
that clock too: notes that ended together still do. A silence beyond the longest step is shortened.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from music import notes as nt
from music.encodings import chord_symbols, columns
from music.encodings.columns import FIRST, STRICT, TIMES, Column, Rows
from music.errors import EncodingError
from music.notes import Notes

_COUNT = np.arange(32_768)  # 0, 1, 2 …, made once
_COUNT.flags.writeable = False


class Encoding(Protocol):
    """What a model may read and write. `heard` comes first: all other functions take what it returns."""

    @property
    def unit(self) -> str:
        """What a row is: "note" or "symbol"."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes per column, PAD, BEGIN and END included."""

    @property
    def pitches(self) -> tuple[int, int]:
        """The lowest and the highest pitch that can be expressed."""

    def fit(self, pieces: Iterable[Notes]) -> "Encoding":
        """The encoding with what it has to learn from training pieces, if anything."""

    def heard(self, notes: Notes) -> Notes:
        """What of a piece can be expressed; twice is once. Raises EncodingError if nothing can, or not all."""

    def events(self, notes: Notes) -> np.ndarray:
        """int64 [T + 1]: row i is about notes[events[i]:events[i + 1]]."""

    def encode(self, notes: Notes, *, begin: bool, end: bool, after: float | None = None) -> Rows:
        """A piece, or a part of one, as int32 [T, F]; `begin` and `end` add a BEGIN and an END row."""

    def encode_many(self, notes: Notes, bounds: np.ndarray, after: np.ndarray) -> Rows:
        """Excerpts of what was heard, notes[bounds[i]:bounds[i + 1]] each, without BEGIN and END: int32 [T, F]."""

    def decode(self, rows: Rows, after: float = 0.0) -> Notes:
        """Rows back to Notes; `after` is the clock as `clock` tells it. Rows decoded in parts give the same notes."""

    def clock(self, notes: Notes, before: float) -> float:
        """From where the row after these notes counts its time, seconds; `before` where there are none."""

    def config(self) -> dict:
        """JSON that `from_config` turns back into this encoding."""


@dataclass(frozen=True, init=False)
class NoteRows:
    """One row per note: a tuple of Columns, `pitch` among them, and `step` if there is a `duration`.

    A column that is absent decodes as: step and duration `beat` seconds, velocity 80, program 0.
    """

    columns: tuple[Column, ...]
    beat: float

    unit = "note"

    def __init__(self, *given: Column, columns: tuple[Column, ...] = (), beat: float = 0.25):
        columns = given or columns  # by name for dataclasses.replace
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "beat", beat)
        names = [column.name for column in columns]
        if len(set(names)) != len(names) or "pitch" not in names or ("duration" in names and "step" not in names):
            raise EncodingError(
                f"expected distinct columns, pitch among them and no duration without step, got {names}"
            )
        if not 0 < beat < float("inf"):
            raise EncodingError(f"beat: expected seconds above 0, got {beat}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes per column, PAD, BEGIN and END included."""
        return tuple(column.size + FIRST for column in self.columns)

    def column(self, name: str) -> Column:
        return self.columns[self.names.index(name)]

    @property
    def pitches(self) -> tuple[int, int]:
        return int(self.column("pitch").low), int(self.column("pitch").high)

    def fit(self, pieces: Iterable[Notes]) -> "NoteRows":
        return self

    def config(self) -> dict:
        """JSON that `from_config` turns back into this encoding."""
        return {"kind": "note_rows", "columns": [asdict(column) for column in self.columns], "beat": self.beat}

    def heard(self, notes: Notes) -> Notes:
        """What of a piece this encoding can express: without a program column, drums are left out.

        Raises:
            EncodingError: a pitch or a program outside the columns, or nothing but drums.
        """
        if "program" not in self.names and (notes["program"] == nt.DRUMS).any():
            notes = nt.pitched(notes)
        for name in STRICT:
            if name in self.names:
                self.column(name).check(notes[name])
        return notes

    def events(self, notes: Notes) -> np.ndarray:
        """Every note is an event: 0 … n, int64 [n + 1]."""
        return _COUNT[: len(notes) + 1] if len(notes) < len(_COUNT) else np.arange(len(notes) + 1)

    def clock(self, notes: Notes, before: float) -> float:
        """The last onset; before the first note, where that note is to begin."""
        if len(notes):
            return float(notes["start"][-1])
        return before if "step" in self.names else before - self.beat

    def encode(self, notes: Notes, *, begin: bool, end: bool, after: float | None = None) -> Rows:
        """Encode a piece, or a part of one, as far as it can be `heard`.

        Args:
            notes: sorted Notes.
            begin, end: whether the piece begins and ends here; adds a BEGIN and an END row.
            after: the clock before the first note, seconds; its step is the gap from there. None: its step is 0.

        Returns:
            int32 [T, F], T = notes + begin + end.

        Raises:
            EncodingError: as `heard` does.
        """
        notes = self.heard(notes)
        if after is None:
            after = notes["start"][0] if len(notes) else 0.0
        return columns.framed(self.encode_many(notes, np.array([0, len(notes)]), np.array([after])), begin, end)

    def encode_many(self, notes: Notes, bounds: np.ndarray, after: np.ndarray) -> Rows:
        """Encode many excerpts at once: excerpt i is notes[bounds[i]:bounds[i+1]], its clock starts at after[i].

        Returns:
            int32 [len(notes), F], without BEGIN and END. Raises EncodingError as `encode` does.
        """
        if "step" not in self.names:
            return np.stack([column.encode(notes[column.name]) for column in self.columns], axis=-1)
        step = self.column("step")
        unit = step.resolution
        piece = np.repeat(np.arange(len(after)), np.diff(bounds))
        start, end = _own_clocks(notes, bounds, after, step.values[-1])
        given = {name: np.ascontiguousarray(notes[name]) for name in {"pitch", *self.names} - set(TIMES)} | {"end": end}
        onset = _whole(start / unit)
        order = _order(piece, onset, given["pitch"])
        steps, clock = _steps(step, onset[order], bounds)
        again = _order(piece, clock, given["pitch"][order])  # a coarse step can make onsets equal
        order, clock = order[again], clock[again]
        given = {name: values[order] for name, values in given.items()}
        rows = np.empty((len(notes), len(self.columns)), "i4")
        for k, column in enumerate(self.columns):
            if column is step:
                rows[:, k] = steps
            elif column.name == "duration":  # quantise the end on the absolute clock, not the difference
                ends = _whole(given["end"] / column.resolution)
                if column.resolution == unit:
                    rows[:, k] = column.encode_whole(ends - clock)
                else:
                    rows[:, k] = column.encode(ends * column.resolution - clock * unit)
            else:
                rows[:, k] = column.encode(given[column.name])
        return rows

    def decode(self, rows: Rows, after: float = 0.0) -> Notes:
        """Rows back to Notes, in the order of the rows; PAD, BEGIN and END rows are no notes.

        Args:
            rows: int32 [T, F].
            after: the clock at the first row, seconds.
        """
        rows = np.asarray(rows).reshape(-1, len(self.columns))
        rows = rows[rows[:, 0] >= FIRST]
        values = {column.name: column.decode(rows[:, k]) for k, column in enumerate(self.columns)}
        # Added one by one from `after`: rows decoded in parts give the very same floats.
        start = np.cumsum(np.append(after, values.get("step", np.full(len(rows), self.beat))))[1:]
        return nt.from_columns(
            start,
            start + values.get("duration", self.beat),
            np.rint(values["pitch"]),
            np.rint(values.get("velocity", 80)),
            np.rint(values.get("program", 0)),
        )


def _whole(values: np.ndarray) -> np.ndarray:
    """Round halves up, rounding errors or not, so that music moved in time is rounded alike."""
    return np.floor(values + (0.5 + 1e-6))


def _own_clocks(notes: Notes, bounds: np.ndarray, after: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends with each excerpt on a clock that begins at its `after`, no silence in it above `longest` s."""
    lengths = np.diff(bounds)
    after = np.repeat(after, lengths)
    start = notes["start"] - after
    gaps = np.diff(start, prepend=0.0)
    firsts = bounds[:-1][lengths > 0]
    gaps[firsts] = start[firsts]
    if not (gaps > longest).any():
        return start, notes["end"] - after
    skipped = np.cumsum(np.append(0.0, np.maximum(gaps - longest, 0.0)))
    skipped = skipped[1:] - np.repeat(skipped[bounds[:-1]], lengths)
    return start - skipped, notes["end"] - (after + skipped)


def _order(piece: np.ndarray, time: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """What sorts notes by (time, pitch) within each excerpt, where notes that agree in both keep their order.

    Whole times and pitches make one number, and sorting numbers that nearly rise is ten times as fast as `lexsort`.
    """
    size = time.max(initial=0) + 1
    if size * (piece[-1:].sum() + 1) * 128 > 2**53 or time.min(initial=0) < 0 or (time != np.rint(time)).any():
        return np.lexsort((pitch, time, piece))
    return np.argsort((piece * size + time) * 128 + pitch, kind="stable")


def _steps(column: Column, onset: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step ids int32 [n], and the clock as decoded so far, float64 [n] in units, rising within each excerpt.

    Args:
        onset: in whole units of the column's resolution, rising within each excerpt from the 0 of its own clock.
        bounds: the excerpts, as in `encode_many`.
    """
    unit = column.resolution
    firsts = bounds[:-1][np.diff(bounds) > 0]
    gaps = np.diff(onset, prepend=0.0)
    gaps[firsts] = onset[firsts]
    ids = column.encode_whole(gaps)
    clock = onset.copy()
    values = column.values / unit
    values = np.where(np.abs(values - np.rint(values)) < 1e-6, np.rint(values), values)
    # Where a gap is a value, the clock stays exact. Elsewhere walk on until it is exact again.
    first = np.zeros(len(onset), bool)
    first[firsts] = True
    done = 0
    for at in np.flatnonzero(np.abs(values[ids - FIRST] - gaps) > 1e-6):
        if at < done:
            continue
        now = onset[at] - gaps[at]
        for i in range(at, len(onset)):
            if i > at and first[i]:
                done = i
                break
            ids[i] = column.nearest_whole(onset[i] - now)
            now = clock[i] = now + values[ids[i] - FIRST]
            done = i + 1
            if abs(now - onset[i]) < 1e-6:
                break
    return ids, clock


def from_config(config: dict) -> Encoding:
    """Make the encoding that a card describes; keys that we do not know are ignored.

    Raises:
        EncodingError: a kind or numbers that we do not know.
    """
    try:
        if config["kind"] == "note_rows":
            return NoteRows(*map(columns.from_config, config["columns"]), beat=config.get("beat", 0.25))
        if config["kind"] == "chord_symbols":
            return chord_symbols.from_config(config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise EncodingError(f"an encoding's config is damaged: {error!r} in {config!r:.200}") from error
    raise EncodingError(f"encoding kind {config['kind']!r}: expected 'note_rows' or 'chord_symbols'")
