"""A quantity cut into classes: the columns of a row. Knows nothing of notes, models or files.

In every column ids 0-2 are PAD, BEGIN and END; a column's own values start at FIRST.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from typing import TypeAlias

import numpy as np

from music.errors import EncodingError

PAD, BEGIN, END, FIRST = 0, 1, 2, 3
CELL = 0.01  # seconds; the grid of the "time" spacing and of the likelihood that `evaluate` reports
Rows: TypeAlias = np.ndarray  # int32 [T, F]

TIMES = ("step", "duration")
_MOST = 1_000_000  # values, and the largest value: a card with more is damaged, and would not fit into memory
_TABLE = 100_000  # entries of a lookup table at most
STRICT = ("pitch", "program")  # a value outside low..high is an error; times and velocities are clipped
_NAMES = (*TIMES, "pitch", "velocity", "program")


@dataclass(frozen=True)
class Column:
    """A quantity cut into `size` values between `low` and `high`; encode = nearest value, decode = look it up.

    Args:
        name: pitch | step | duration | velocity | program; step and duration are in seconds.
        low, high: the first and the last value.
        size: how many values, 2 or more.
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
        numbers = (self.low, self.high, self.exact)
        if not all(isinstance(number, Real) and abs(number) <= _MOST for number in numbers):  # nor nan
            raise EncodingError(f"column {self.name}: expected low, high and exact of at most {_MOST:,}, got {numbers}")
        if not (isinstance(self.size, Integral) and self.size <= _MOST):
            raise EncodingError(
                f"column {self.name}: expected a whole size of at most {_MOST:,}, got {self.size!r:.50}"
            )
        if not (self.low < self.high and self.size >= 2):
            raise EncodingError(f"column {self.name}: expected low < high and size >= 2, got {self}")
        if self.spacing not in ("linear", "log", "time") or (self.spacing == "log" and self.low <= 0):
            raise EncodingError(f"column {self.name}: cannot space {self.low}..{self.high} as {self.spacing!r}")
        if self.spacing == "time" and not (0 <= self.low <= self.exact and self.exact >= CELL):
            raise EncodingError(f"column {self.name}: expected 0 <= low <= exact and exact >= {CELL}, got {self}")
        if len(self.values) != self.size:
            raise EncodingError(f"column {self.name}: {self.size} values do not fit, {len(self.values)} do")
        if not (np.diff(self.values) > 0).all():
            raise EncodingError(
                f"column {self.name}: {self.size} values between {self.low} and {self.high} are not apart"
            )

    @property
    def is_time(self) -> bool:
        """Say whether the column counts seconds."""
        return self.name in TIMES

    @cached_property
    def values(self) -> np.ndarray:
        """List the values that ids FIRST, FIRST + 1, … stand for, float64 [size], rising."""
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
        """Compute the middles between neighbouring values, float64 [size - 1]."""
        return (self.values[1:] + self.values[:-1]) / 2

    @cached_property
    def resolution(self) -> float:
        """Find the grid on which times are rounded before they are encoded, seconds; 1 µs if the values lie on none."""
        if self.spacing == "time":
            return CELL
        grid = np.min(np.diff(self.values))
        counts = self.values / grid
        return float(grid) if np.allclose(counts, np.rint(counts), rtol=0, atol=1e-6) else 1e-6

    @cached_property
    def cells(self) -> np.ndarray:
        """Count the cells of the likelihood's grid that are encoded as each value, float64 [size].

        Times are counted in cells of 10 ms, other columns by their own values. A value finer than a cell counts as one.
        """
        if not self.is_time:
            return np.ones(self.size)
        edges = np.concatenate([[self.values[0]], self._borders, [self.values[-1]]]) / CELL
        first, last = np.ceil(edges[:-1] - 1e-9), np.ceil(edges[1:] - 1e-9)
        last[-1] += 1  # the last value's own cell
        return np.maximum(last - first, 1.0)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Find the ids of the nearest values, int32, ids >= FIRST; of two equally near values the upper.

        Raises:
            EncodingError: as `check` does.
        """
        values = np.asarray(values)
        self.check(values)
        if values.dtype.kind == "i" and self.high - self.low < _TABLE:
            table, low = self._of_integers
            return table[np.clip(values, low, low + len(table) - 1) - low]
        return self._search(values.astype("f8", copy=False))

    def encode_whole(self, counts: np.ndarray) -> np.ndarray:
        """Encode whole multiples of `resolution`, float64; by a table, which is ten times as fast as `encode`."""
        if self._of_counts is None:
            return self._search(counts * self.resolution)
        return self._of_counts[np.clip(counts + 0.5, 0, len(self._of_counts) - 1).astype("i8")]

    def nearest_whole(self, count: float) -> int:
        """Encode one whole multiple of `resolution`, without an array around it."""
        if self._of_counts is None:
            return int(self._search(np.array(count * self.resolution)))
        return int(self._of_counts[min(max(int(count + 0.5), 0), len(self._of_counts) - 1)])

    def check(self, values: np.ndarray) -> None:
        """Raise EncodingError where a pitch or a program is outside low..high; other columns clip their values."""
        if self.name not in STRICT or not len(values) or (values.min() >= self.low and values.max() <= self.high):
            return
        outside = ~self.inside(values)
        raise EncodingError(
            f"{int(outside.sum())} of {len(values)} notes have a {self.name} outside "
            f"{self.low:g}-{self.high:g}, the first one {values[outside][0]:g}"
        )

    def inside(self, values: np.ndarray) -> np.ndarray:
        """Say of each value whether it is from low to high: bool [n]."""
        return (values >= self.low) & (values <= self.high)

    def _search(self, values: np.ndarray) -> np.ndarray:
        return (np.searchsorted(self._borders, values + 1e-9, side="right") + FIRST).astype("i4")

    @cached_property
    def _of_integers(self) -> tuple[np.ndarray, int]:
        """Tabulate the ids of all integers from low to high; also give the integer of the first entry."""
        low = int(np.floor(self.low))
        return self._search(np.arange(low, int(np.ceil(self.high)) + 1, dtype="f8")), low

    @cached_property
    def _of_counts(self) -> np.ndarray | None:
        """Tabulate the ids of 0, 1, 2 … times `resolution`, up to the last id; None if the table would be too long."""
        count = int(np.ceil(self.high / self.resolution)) + 2
        return self._search(np.arange(count) * self.resolution) if self.low >= 0 and count < _TABLE else None

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Look up the values of ids >= FIRST, float64; PAD, BEGIN and END decode as the first value."""
        return self.values[np.clip(np.asarray(ids) - FIRST, 0, self.size - 1)]


def from_config(config: dict) -> Column:
    """Make the column that a card describes; keys that we do not know are ignored."""
    names = {field.name for field in fields(Column)}
    return Column(**{name: value for name, value in config.items() if name in names})


def framed(body: Rows, begin: bool, end: bool) -> Rows:
    """Put a BEGIN row before rows and an END row behind them, where `begin` and `end` say so."""
    edge = np.ones((1, body.shape[1]), "i4")
    return np.concatenate([edge * BEGIN] * begin + [body] + [edge * END] * end)
