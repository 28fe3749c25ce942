"""Notes ⇄ rows: what a model reads and writes. Knows nothing of models, files or MIDI.

A row is one event, int32 [F], one class id per Column. In every column ids 0-2 are PAD, BEGIN and END; a column's
own values start at FIRST. Times are quantised on one clock, which begins where the music does, and then differenced
against the clock as decoded so far, so every onset is within half a bin of the truth and errors never add up. An end
is quantised on that clock too: notes that ended together still do. A silence beyond the longest step is shortened.
"""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TypeAlias

import numpy as np

from music import notes as nt
from music.errors import EncodingError
from music.notes import DRUMS, Notes

PAD, BEGIN, END, FIRST = 0, 1, 2, 3
CELL = 0.01  # seconds; the grid of the "time" spacing and of the likelihood that `evaluate` reports
Rows: TypeAlias = np.ndarray  # int32 [T, F]

_TIMES = ("step", "duration")
_NAMES = (*_TIMES, "pitch", "velocity", "program")
_STRICT = ("pitch", "program")  # outside low..high they are an error; times and velocities clip


@dataclass(frozen=True)
class Column:
    """A quantity cut into `size` values between `low` and `high`; encode = nearest value, decode = look it up.

    Args:
        name: pitch | step | duration | velocity | program; step and duration are in seconds.
        low, high: the first and the last value.
        size: how many values.
        spacing: "linear", "log", or "time": every cell of 10 ms up to `exact`, then logarithmic on whole cells.
        exact: with "time", the seconds up to which no cell is merged with another.

    Raises:
        EncodingError: the name, the spacing or the numbers make no column.
    """

    name: str
    low: float
    high: float
    size: int
    spacing: str = "linear"
    exact: float = 1.0

    def __post_init__(self):
        if self.name not in _NAMES:
            raise EncodingError(f"column {self.name!r}: expected a name among {', '.join(_NAMES)}")
        if not (self.low < self.high and self.size >= 2):
            raise EncodingError(f"column {self.name}: expected low < high and size >= 2, got {self}")
        if self.spacing not in ("linear", "log", "time") or (self.spacing == "log" and self.low <= 0):
            raise EncodingError(f"column {self.name}: cannot space {self.low}..{self.high} as {self.spacing!r}")
        if len(self.values) != self.size:
            raise EncodingError(f"column {self.name}: {self.size} values do not fit, {len(self.values)} do")

    @cached_property
    def values(self) -> np.ndarray:
        """The values that ids FIRST, FIRST + 1, … stand for, float64 [size], rising."""
        if self.spacing == "linear":
            return np.linspace(self.low, self.high, self.size)
        if self.spacing == "log":
            return np.geomspace(self.low, self.high, self.size)
        low, knee, high = (round(seconds / CELL) for seconds in (self.low, self.exact, self.high))
        exact = np.arange(low, min(knee, high) + 1)
        rest = self.size - len(exact)
        if rest < 0 or high - exact[-1] < rest:
            return np.arange(low, high + 1) * CELL
        wide = [float(exact[-1])]
        for left in range(rest, 0, -1):  # grow by a constant factor, but by one cell at least
            wide.append(max(wide[-1] + 1, wide[-1] * (high / wide[-1]) ** (1 / left)))
        return np.concatenate([exact, np.rint(wide[1:])]) * CELL

    @cached_property
    def _borders(self) -> np.ndarray:
        return (self.values[1:] + self.values[:-1]) / 2

    @cached_property
    def resolution(self) -> float:
        """What times are rounded to before they are encoded, seconds: the values' grid, 1 µs where they lie on none."""
        if self.spacing == "time":
            return CELL
        whole = self.values / np.min(np.diff(self.values))
        return float(np.min(np.diff(self.values))) if np.allclose(whole, np.rint(whole), rtol=0, atol=1e-6) else 1e-6

    @cached_property
    def cells(self) -> np.ndarray:
        """How many cells of the likelihood's grid each value stands for, float64 [size]; 1 where it is that fine.

        Times are counted in cells of 10 ms, other columns by their own values.
        """
        if self.name not in _TIMES:
            return np.ones(self.size)
        edges = np.concatenate([[self.values[0]], self._borders, [self.values[-1]]]) / CELL
        first, last = np.ceil(edges[:-1] - 1e-9), np.ceil(edges[1:] - 1e-9)
        last[-1] += 1  # the last value's own cell
        return np.maximum(last - first, 1.0)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Nearest value's id, int32, ids >= FIRST; of two equally near ones the upper."""
        values = np.asarray(values, "f8")
        outside = (values < self.low) | (values > self.high) | ~np.isfinite(values)
        if self.name in _STRICT and outside.any():
            raise EncodingError(
                f"{int(outside.sum())} of {len(values)} notes have a {self.name} outside "
                f"{self.low:g}-{self.high:g}, the first one {values[outside][0]:g}"
            )
        return (np.searchsorted(self._borders, values + 1e-9, side="right") + FIRST).astype("i4")

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The values of ids >= FIRST, float64; PAD, BEGIN and END decode as the first value."""
        return self.values[np.clip(np.asarray(ids) - FIRST, 0, self.size - 1)]


class NoteRows:
    """One row per note: a tuple of Columns, `pitch` and `step` among them.

    A column that is absent decodes as: duration until the next onset (0.5 s for the last note), velocity 80, program 0.
    """

    def __init__(self, *columns: Column):
        self.columns = columns
        names = [column.name for column in columns]
        if len(set(names)) != len(names) or not {"pitch", "step"} <= set(names):
            raise EncodingError(f"expected distinct columns, pitch and step among them, got {names}")

    def __eq__(self, other) -> bool:
        return isinstance(other, NoteRows) and self.columns == other.columns

    def __hash__(self) -> int:
        return hash(self.columns)

    def __repr__(self) -> str:
        return f"NoteRows{self.columns}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes per column, PAD, BEGIN and END included."""
        return tuple(column.size + FIRST for column in self.columns)

    def column(self, name: str) -> Column:
        return self.columns[self.names.index(name)]

    def config(self) -> dict:
        """JSON that `from_config` turns back into this encoding."""
        return {"kind": "note_rows", "columns": [asdict(column) for column in self.columns]}

    def heard(self, notes: Notes) -> Notes:
        """What of a piece this encoding can express: without a program column, drums are left out.

        Raises:
            EncodingError: a pitch or a program outside the columns, or nothing but drums.
        """
        if "program" not in self.names:
            pitched = notes[notes["program"] != DRUMS]
            if len(notes) and not len(pitched):
                raise EncodingError(f"all {len(notes)} notes are drums: expected some that have a pitch")
            notes = pitched
        for name in _STRICT:
            if name in self.names:
                self.column(name).encode(notes[name])
        return notes

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
        body = self.encode_many(notes, np.array([0, len(notes)]), np.array([after]))
        edge = np.ones((1, len(self.columns)), "i4")
        return np.concatenate([edge * BEGIN] * begin + [body] + [edge * END] * end)

    def encode_many(self, notes: Notes, bounds: np.ndarray, after: np.ndarray) -> Rows:
        """Encode many excerpts at once: excerpt i is notes[bounds[i]:bounds[i+1]], its clock starts at after[i].

        Returns:
            int32 [len(notes), F], without BEGIN and END. Raises EncodingError as `encode` does.
        """
        step = self.column("step")
        unit = step.resolution
        piece = np.repeat(np.arange(len(after)), np.diff(bounds))
        notes = _own_clocks(notes, bounds, after, step.values[-1])
        onset = _whole(notes["start"] / unit)
        order = np.lexsort((notes["pitch"], onset, piece))
        notes, onset = notes[order], onset[order]
        steps, clock = _steps(step, onset, bounds)
        notes = notes[np.lexsort((notes["pitch"], clock, piece))]  # a coarse step can make onsets equal
        ids = {"step": steps}
        for name in set(self.names) - {"step"}:
            column = self.column(name)
            if name == "duration":  # quantise the end on the absolute clock, not the difference
                ids[name] = column.encode(_whole(notes["end"] / column.resolution) * column.resolution - clock * unit)
            else:
                ids[name] = column.encode(notes[name])
        return np.stack([ids[name] for name in self.names], axis=-1).astype("i4")

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
        start = np.cumsum(np.append(after, values["step"]))[1:]
        if "duration" not in values:
            values["duration"] = np.append(np.diff(start), 0.5)[: len(start)]
        return nt.from_columns(
            start,
            start + values["duration"],
            np.rint(values["pitch"]),
            np.rint(values.get("velocity", 80)),
            np.rint(values.get("program", 0)),
        )


def _whole(values: np.ndarray) -> np.ndarray:
    """Round halves up, rounding errors or not, so that music moved in time is rounded alike."""
    return np.floor(values + (0.5 + 1e-6))


def _own_clocks(notes: Notes, bounds: np.ndarray, after: np.ndarray, longest: float) -> Notes:
    """Move each excerpt to a clock that begins at its `after`, with no silence of more than `longest` seconds in it."""
    lengths = np.diff(bounds)
    start = notes["start"] - np.repeat(after, lengths)
    gaps = np.diff(start, prepend=0.0)
    firsts = bounds[:-1][lengths > 0]
    gaps[firsts] = start[firsts]
    skipped = np.cumsum(np.append(0.0, np.maximum(gaps - longest, 0.0)))
    skipped = skipped[1:] - np.repeat(skipped[bounds[:-1]], lengths)
    moved = notes.copy()
    moved["start"] = start - skipped
    moved["end"] -= np.repeat(after, lengths) + skipped
    return moved


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
    ids = column.encode(gaps * unit)
    clock = onset.copy()
    values = column.values / unit
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
            ids[i] = column.encode((onset[i] - now) * unit)
            now = clock[i] = now + values[ids[i] - FIRST]
            done = i + 1
            if abs(now - onset[i]) < 1e-6:
                break
    return ids, clock


def from_config(config: dict) -> NoteRows:
    """Make the encoding that a card describes. Raises EncodingError for a kind or numbers we do not know."""
    try:
        if config["kind"] == "note_rows":
            known = {field.name for field in fields(Column)}
            return NoteRows(*(Column(**{k: v for k, v in c.items() if k in known}) for c in config["columns"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise EncodingError(f"an encoding's config is damaged: {error!r} in {config!r:.200}") from error
    raise EncodingError(f"encoding kind {config['kind']!r}: expected 'note_rows'")
