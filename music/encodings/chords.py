"""Notes → groups that begin together → symbols: "C4" for one note, a normal order such as "0.4.7" for a chord.

A symbol has a number, its code: for a single pitch its MIDI number, for a chord 128 + the 12-bit mask of its pitch
classes. So numpy alone counts and looks up a piece's symbols. Knows nothing of vocabularies, models or files.

Source: normal order after Forte 1973, The Structure of Atonal Music; its result is music21's for every set.
"""

from functools import cache

import numpy as np

from music import notes as nt
from music.errors import EncodingError
from music.notes import Notes

TOLERANCE = 0.05  # seconds; groups a note in MAESTRO's validation: 0.96 at 0, 0.58 at 30 ms, 0.53 at 50 ms
CODES = 128 + 4096
_NAMES = {nt.name(pitch): pitch for pitch in range(128)}


def group(notes: Notes, tolerance: float = TOLERANCE) -> np.ndarray:
    """Group sorted notes: a group is all notes that begin within `tolerance` seconds of its first note.

    Times are compared in whole microseconds, as datasets store onsets. So a MIDI file and its shard have the same
    groups, also where notes are exactly as far apart as the tolerance.

    Returns:
        int64 [G + 1]: group g is notes[bounds[g]:bounds[g + 1]].
    """
    start = np.rint(notes["start"] * 1e6)
    tolerance = round(tolerance * 1e6)
    if not len(start):
        return np.zeros(1, "i8")
    begins = np.ones(len(start) + 1, bool)
    begins[1:-1] = np.diff(start) > tolerance
    runs = np.flatnonzero(begins)
    # Most runs are one group. Only inside longer runs, a tenth of MAESTRO's notes, may a group end at any note.
    long = start[runs[1:] - 1] - start[runs[:-1]] > tolerance
    at = np.flatnonzero(np.repeat(long, np.diff(runs)))
    first = -np.inf
    for note, second in zip(at.tolist(), start[at].tolist(), strict=True):
        if second - first > tolerance:
            begins[note], first = True, second
    return np.flatnonzero(begins)


def codes(notes: Notes, bounds: np.ndarray) -> np.ndarray:
    """Compute the code of each group: int64 [G + 1] bounds → int32 [G]. A group of one pitch is a note."""
    if len(bounds) < 2:
        return np.zeros(0, "i4")
    pitch = notes["pitch"].astype("i4")
    low, high = (reduce.reduceat(pitch, bounds[:-1]) for reduce in (np.minimum, np.maximum))
    mask = np.bitwise_or.reduceat(1 << (pitch % 12), bounds[:-1])
    return np.where(low == high, low, 128 + mask).astype("i4")


def normal_order(classes) -> tuple[int, ...]:
    """Find the most compact order of pitch classes: least span, then most packed to the left, then lowest first."""
    members = sorted({int(pitch) % 12 for pitch in classes})
    rotations = []
    for first in members:
        above = sorted((number - first) % 12 for number in members)
        rotations.append((above[-1], above, first))
    _, above, first = min(rotations)
    return tuple((first + interval) % 12 for interval in above)


@cache
def symbol(code: int) -> str:
    """Name a code: "C4" for a note, for a chord its normal order joined with dots."""
    return nt.name(code) if code < 128 else ".".join(map(str, normal_order(classes(code))))


def code(symbol: str) -> int:
    """Find a symbol's code. Raises EncodingError if it is no note's name and no pitch classes joined with dots."""
    if symbol in _NAMES:
        return _NAMES[symbol]
    parts = symbol.split(".")
    if not all(part.isdecimal() and int(part) < 12 for part in parts):
        raise EncodingError(f"symbol {symbol!r}: expected a note such as C4 or pitch classes such as 0.4.7")
    return 128 + sum(1 << number for number in {int(part) for part in parts})


def classes(code: int) -> list[int]:
    """List the pitch classes of a code, rising."""
    mask = 1 << code % 12 if code < 128 else code - 128
    return [number for number in range(12) if mask >> number & 1]


@cache
def pitches(code: int) -> tuple[int, ...]:
    """List the MIDI pitches that a code is played with: a note itself, a chord packed upwards from C4-B4."""
    if code < 128:
        return (code,)
    first, *rest = normal_order(classes(code))
    above = [(number - first) % 12 for number in rest] or [12]  # of a single class an octave
    return (60 + first, *(60 + first + interval for interval in above))
