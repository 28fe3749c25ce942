"""Notes ⇄ rows: what a model reads and writes. Knows nothing of models, files or MIDI.

A row is one event, int32 [F], one class id per Column. An event is a note (NoteRows) or all the notes that begin
together (ChordSymbols, in chord_symbols.py).

NoteRows rounds all times on one clock, which begins with the music. A step is the difference from the clock as decoded
so far, so every onset is within half a bin of the truth and errors never add up. Ends are rounded on the same clock:
notes that ended together still do. A silence beyond the longest step is shortened.
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

_COUNT = np.arange(32_768)  # 0, 1, 2 …, computed once
_COUNT.flags.writeable = False


class Encoding(Protocol):
    """What a model may read and write. Call `supported_notes` first: all other methods take what it returns."""

    @property
    def unit(self) -> str:
        """Say what a row is: "note" or "symbol"."""

    @property
    def names(self) -> tuple[str, ...]:
        """List the columns' names."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Count the classes of each column, PAD, BEGIN and END included."""

    @property
    def pitches(self) -> tuple[int, int]:
        """Give the lowest and the highest pitch that can be expressed."""

    def fit(self, pieces: Iterable[Notes]) -> "Encoding":
        """Learn from training pieces what the encoding needs, if anything, and return the fitted encoding."""

    def supported_notes(self, notes: Notes) -> Notes:
        """Reduce a piece to what can be expressed; a second call changes nothing.

        Raises:
            EncodingError: there are notes, and none of them can be expressed.
        """

    def events(self, notes: Notes) -> np.ndarray:
        """Assign notes to rows: int64 [T + 1], row i is about notes[events[i]:events[i + 1]]."""

    def encode(self, notes: Notes, *, begin: bool, end: bool, after: float | None = None) -> Rows:
        """Encode a piece, or a part of one, as int32 [T, F]; `begin` and `end` add a BEGIN and an END row."""

    def encode_many(self, notes: Notes, bounds: np.ndarray, after: np.ndarray) -> Rows:
        """Encode excerpts of supported notes, notes[bounds[i]:bounds[i + 1]] each: int32 [T, F], no BEGIN and END."""

    def decode(self, rows: Rows, after: float = 0.0) -> Notes:
        """Decode rows; `after` is the clock as `clock` gives it. Rows decoded in parts give the same notes."""

    def clock(self, notes: Notes, before: float) -> float:
        """Give the second from which the row after these notes counts its time; `before` where there are none."""

    def config(self) -> dict:
        """Describe this encoding as JSON that `from_config` turns back into it."""


@dataclass(frozen=True, init=False)
class NoteRows:
    """One row per note: a tuple of Columns, `pitch` among them, and `step` if there is a `duration`.

    A column that is absent decodes as: step and duration `beat` seconds, velocity 80, program 0.
    """

    columns: tuple[Column, ...]
    beat: float

    unit = "note"

    def __init__(self, *args: Column, columns: tuple[Column, ...] = (), beat: float = 0.25):
        columns = args or columns  # by name for dataclasses.replace
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
        """List the columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Count the classes of each column, PAD, BEGIN and END included."""
        return tuple(column.size + FIRST for column in self.columns)

    def column(self, name: str) -> Column:
        """Find a column by its name."""
        return self.columns[self.names.index(name)]

    @property
    def pitches(self) -> tuple[int, int]:
        """Give the lowest and the highest pitch that can be expressed."""
        return int(self.column("pitch").low), int(self.column("pitch").high)

    def fit(self, pieces: Iterable[Notes]) -> "NoteRows":
        """Return this encoding: it has nothing to learn."""
        return self

    def config(self) -> dict:
        """Describe this encoding as JSON that `from_config` turns back into it."""
        return {"kind": "note_rows", "columns": [asdict(column) for column in self.columns], "beat": self.beat}

    def supported_notes(self, notes: Notes) -> Notes:
        """Leave out the notes whose pitch or program is outside the columns; without a program column, drums, too.

        Raises:
            EncodingError: there are notes, and nothing of them is left.
        """
        if "program" not in self.names and (notes["program"] == nt.DRUMS).any():
            notes = nt.pitched(notes)
        for name in STRICT:
            if name in self.names:
                column = self.column(name)
                inside = column.inside(notes[name])
                if not inside.any():
                    column.check(notes[name])
                notes = notes if inside.all() else notes[inside]
        return notes

    def events(self, notes: Notes) -> np.ndarray:
        """Assign one row to every note: 0 … n, int64 [n + 1]."""
        return _COUNT[: len(notes) + 1] if len(notes) < len(_COUNT) else np.arange(len(notes) + 1)

    def clock(self, notes: Notes, before: float) -> float:
        """Give the last onset, seconds; with no notes, the second at which the first one is to begin."""
        if len(notes):
            return float(notes["start"][-1])
        return before if "step" in self.names else before - self.beat

    def encode(self, notes: Notes, *, begin: bool, end: bool, after: float | None = None) -> Rows:
        """Encode the supported notes of a piece, or of a part of one.

        Args:
            notes: sorted Notes.
            begin, end: whether the piece begins and ends here; adds a BEGIN and an END row.
            after: the clock before the first note, seconds; its step is the gap from there. None: its step is 0.

        Returns:
            int32 [T, F], T = notes + begin + end.

        Raises:
            EncodingError: as `supported_notes` does.
        """
        notes = self.supported_notes(notes)
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
        values = {name: np.ascontiguousarray(notes[name]) for name in {"pitch", *self.names} - set(TIMES)}
        values["end"] = end
        onset = _round_half_up(start / unit)
        order = _order(piece, onset, values["pitch"])
        steps, clock = _steps(step, onset[order], bounds)
        reorder = _order(piece, clock, values["pitch"][order])  # a coarse step can make onsets equal
        order, clock = order[reorder], clock[reorder]
        values = {name: column[order] for name, column in values.items()}
        rows = np.empty((len(notes), len(self.columns)), "i4")
        for k, column in enumerate(self.columns):
            if column is step:
                rows[:, k] = steps
            elif column.name == "duration":  # the end is rounded on the clock, not the difference
                ends = _round_half_up(values["end"] / column.resolution)
                if column.resolution == unit:
                    rows[:, k] = column.encode_whole(ends - clock)
                else:
                    rows[:, k] = column.encode(ends * column.resolution - clock * unit)
            else:
                rows[:, k] = column.encode(values[column.name])
        return rows

    def decode(self, rows: Rows, after: float = 0.0) -> Notes:
        """Decode rows to Notes, in the order of the rows; PAD, BEGIN and END rows are no notes.

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


def _round_half_up(values: np.ndarray) -> np.ndarray:
    """Round halves up, with or without floating-point errors, so that music moved in time is rounded alike."""
    return np.floor(values + (0.5 + 1e-6))


def _own_clocks(notes: Notes, bounds: np.ndarray, after: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Put starts and ends of each excerpt on a clock that begins at its `after`; shorten silences to `longest` s."""
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
    """Find the order that sorts notes by (time, pitch) within each excerpt; notes that agree in both keep theirs.

    Whole times and pitches make one number. Sorting numbers that nearly rise is ten times as fast as `lexsort`.
    """
    size = time.max(initial=0) + 1
    if size * (piece[-1:].sum() + 1) * 128 > 2**53 or time.min(initial=0) < 0 or (time != np.rint(time)).any():
        return np.lexsort((pitch, time, piece))
    return np.argsort((piece * size + time) * 128 + pitch, kind="stable")


def _steps(column: Column, onset: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encode onsets as steps.

    Args:
        onset: in whole units of the column's resolution, rising within each excerpt from the 0 of its own clock.
        bounds: the excerpts, as in `encode_many`.

    Returns:
        Step ids, int32 [n], and the clock as decoded so far, float64 [n] in units, rising within each excerpt.
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
