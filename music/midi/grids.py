"""Grid: a file's tempo map, metres, keys and names, apart from its notes; and its positions as ticks of a new file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.notes import Notes

FAR = 172_800.0  # seconds; the last tempo of a grid lasts so long
_FINE = 1000  # microseconds that a tick lasts at most
_MOST_PER_QUARTER = 2**15 - 1  # ticks that a file's header can state
_MOST_TICKS = 2**28 - 1  # that a time between two events can have
_SLOWEST = 2**24 - 1  # microseconds a quarter that a tempo can state


@dataclass(frozen=True)
class Grid:
    """What a file says of its own bars and beats; positions are quarters from its beginning."""

    seconds: np.ndarray  # float64 [knots], rising: times whose position is known; between them the tempo is constant
    quarters: np.ndarray  # float64 [knots], rising: those positions; the last one is FAR seconds behind the one before
    times: list[tuple[float, int, int]]  # (position, numerator, denominator), the first at position 0
    keys: list[tuple[float, int, bool]]  # (position, sharps or minus flats, minor); a file need not have any
    hands: tuple[Notes, Notes] | None = None  # of the two tracks with notes on one instrument; None: it has no such two
    ticks_per_quarter: int = 480
    names: Sequence[tuple[int | None, int, bytes]] = ()  # (program or None: the song, kind of meta event, text)

    def shifted(self, seconds: float) -> "Grid":
        """Move the grid later by `seconds`."""
        hands = self.hands and (nt.shift(self.hands[0], seconds), nt.shift(self.hands[1], seconds))
        return replace(self, seconds=self.seconds + seconds, hands=hands)


class Clock(NamedTuple):
    """The tempo map of a file to be written, which begins at second 0."""

    ticks_per_quarter: int
    ticks: np.ndarray  # int64 [tempos], rising, from 0 on
    tempos: np.ndarray  # int64 [tempos]: microseconds a quarter from that tick on
    seconds: np.ndarray  # float64 [tempos]: when that is, by the tempos before
    begin: float  # the position in quarters of second 0

    def to_ticks(self, seconds: np.ndarray) -> np.ndarray:
        """Find the nearest tick to each time, float64 [n]."""
        k = np.maximum(np.searchsorted(self.seconds, seconds, side="right") - 1, 0)
        return self.ticks[k] + np.rint((seconds - self.seconds[k]) * 1e6 / self.tempos[k] * self.ticks_per_quarter)


def clock(grid: Grid, until: float) -> Clock | None:
    """Make the tempo map of a file that lasts `until` this second, on ticks of the grid's file or parts of them.

    Returns:
        The tempo map, with ticks of 1 ms at most where a header can state so many; None where its ticks would be more
        than a file can have.
    """
    begin, end = np.interp([0.0, until], grid.seconds, grid.quarters).tolist()
    first = max(int(np.searchsorted(grid.quarters, begin, side="right")) - 1, 0)
    last = min(max(int(np.searchsorted(grid.quarters, end)), first + 1), len(grid.quarters) - 1)
    knots = slice(first, last + 1)
    tempos = np.rint(1e6 * np.diff(grid.seconds[knots]) / np.diff(grid.quarters[knots]))
    tempos = np.clip(tempos, 1, _SLOWEST).astype("i8")
    own = grid.ticks_per_quarter
    fine = -(-int(tempos.max()) // (_FINE * own))
    parts = min(fine, _MOST_PER_QUARTER // own, int(_MOST_TICKS / own / (end - begin + 1)))
    if parts < 1:
        return None
    ticks = np.rint((np.maximum(grid.quarters[first:last], begin) - begin) * own * parts).astype("i8")
    lasting = np.diff(ticks) * tempos[:-1] / 1e6 / (own * parts)
    return Clock(own * parts, ticks, tempos, np.append(0.0, np.cumsum(lasting)), begin)
