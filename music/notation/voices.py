"""Notes with their positions in ticks → chords in two staves of at most two voices. Knows nothing of names or paper.

A staff has one voice, in which a chord lasts until the next one at most. It has two where a note is held while others
move; the upper voice's stems point up. The pedal lengthens notes too: where more than a third of a staff's notes last
beyond the next two onsets, the pedal is the reason, and the staff has one voice.
"""

from typing import NamedTuple

import numpy as np

from music.notation.beats import QUARTER, Bar, Rhythm

UP, DOWN, ONLY = 1, 2, 0
# Of the time to the next chord: a played chord that lasts so long is written to last until that one, as is one with at
# most a beat until the next: how short a key was held is a matter of touch and pedal.
_FULL = 0.55


class Chord(NamedTuple):
    """Notes of one voice that begin and end together."""

    start: int  # ticks
    end: int
    notes: tuple[int, ...]  # their indices, the lowest first
    voice: int  # UP, DOWN, or ONLY where there is no other voice


def beat_of(bar: Bar) -> int:
    """Give the ticks of a beat: three eighths where the time signature is compound, else a quarter."""
    compound = bar.denominator == 8 and bar.numerator % 3 == 0
    return QUARTER * 3 // 2 if compound else QUARTER


def settle(rhythm: Rhythm, staff: np.ndarray) -> tuple[Rhythm, list[set[int]]]:
    """Make every beat of a staff one of triplets or one of halves, and move the onsets and ends accordingly.

    Args:
        staff: 0 for the upper, 1 for the lower one, int [n].

    Returns:
        The moved rhythm, and the ticks at which beats of triplets begin in each staff.
    """
    onset, end = rhythm.onset.copy(), rhythm.end.copy()
    starts = np.array([bar.start for bar in rhythm.bars])
    beats = np.array([beat_of(bar) for bar in rhythm.bars])
    triple: list[set[int]] = []
    for s in range(2):
        of = staff == s
        bar = np.searchsorted(starts, onset[of], side="right") - 1
        begin = starts[bar] + (onset[of] - starts[bar]) // beats[bar] * beats[bar]
        odd = ((onset[of] - begin) % 60 != 0) & (beats[bar] == QUARTER)
        ends_of = np.array([b.start + b.length for b in rhythm.bars])[bar]
        odd &= begin + QUARTER <= ends_of  # no triplet in a bar's last half beat
        triple.append(set(np.unique(begin[odd]).tolist()))
        onset[of] = _to_grid(onset[of], starts, beats, triple[s])
        end[of] = np.maximum(_to_grid(end[of], starts, beats, triple[s]), onset[of] + 1)
        short = end[of] - onset[of] < 30
        end[of] = np.where(short, _next_slot(onset[of], starts, beats, triple[s]), end[of])
    return rhythm._replace(onset=onset, end=end), triple


def _grid_of(at, starts, beats, triple):
    bar = np.clip(np.searchsorted(starts, at, side="right") - 1, 0, None)
    begin = starts[bar] + (at - starts[bar]) // beats[bar] * beats[bar]
    return begin, np.where(np.isin(begin, list(triple)), 80, np.where(beats[bar] == QUARTER, 60, 30))


def _to_grid(at, starts, beats, triple):
    begin, grid = _grid_of(at, starts, beats, triple)
    return begin + np.rint((at - begin) / grid).astype("i8") * grid


def _next_slot(at, starts, beats, triple):
    return at + _grid_of(at, starts, beats, triple)[1]


def arrange(onset: np.ndarray, end: np.ndarray, pitch: np.ndarray, exact: bool) -> list[Chord]:
    """Divide the notes of one staff into chords and voices, in the order of time.

    Args:
        onset: ticks, int [n].
        end: ticks after the onset, int [n].
        exact: the ends are written ones; played ones are lengthened to what follows soon.
    """
    order = np.lexsort((pitch, onset))
    times, first = np.unique(onset[order], return_index=True)
    groups = np.split(order, first[1:])
    following = np.append(times[1:], np.iinfo("i8").max // 2)
    pedalled = not exact and _pedalled(onset, end, times)
    chords: list[Chord] = []
    hold: Chord | None = None
    for at, until, group in zip(times.tolist(), following.tolist(), groups, strict=True):
        if hold and hold.end <= at:
            hold = None
        if hold:
            free = UP if hold.voice == DOWN else DOWN
            chords.append(_chord(at, until, group, end, free, exact))
            continue
        held = np.zeros(len(group), bool) if pedalled else end[group] - until >= max((until - at) / 2, QUARTER // 4)
        held = _outer(held)
        if not held.any():
            chords.append(_chord(at, until, group, end, ONLY, exact))
            continue
        others = group[~held]
        below = pitch[others].mean() if len(others) else pitch[groups[int(np.searchsorted(times, until))]].mean()
        voice = UP if pitch[group[held]].mean() >= below else DOWN
        last = int(np.median(end[group[held]]))
        if not exact:  # a played end is a matter of touch
            unit = QUARTER if last - at > 2 * QUARTER else QUARTER // 2
            last = max(round(last / unit) * unit, until)
        hold = Chord(at, last, tuple(group[held].tolist()), voice)
        chords.append(hold)
        if len(others):
            chords.append(_chord(at, until, others, end, UP if voice == DOWN else DOWN, exact))
    return chords


def _chord(at: int, until: int, group, end, voice: int, exact: bool) -> Chord:
    last = int(end[group].max() if exact else np.median(end[group]))
    if last >= until or (not exact and (until - at <= QUARTER or last - at >= _FULL * (until - at))):
        last = until
    elif not exact:
        last = min(-(-last // QUARTER) * QUARTER, until)  # a rest begins with a beat
    return Chord(at, last, tuple(group.tolist()), voice)


def _outer(held: np.ndarray) -> np.ndarray:
    """Choose of a chord's held notes those at one side of it; the notes that move are at the other side."""
    if held.all() or not held.any():
        return held
    above, below = int(held[::-1].argmin()), int(held.argmin())
    if above >= below:
        return np.arange(len(held)) >= len(held) - above
    return np.arange(len(held)) < below


def _pedalled(onset, end, times) -> bool:
    later = np.searchsorted(times, onset, side="right") + 1
    has = later < len(times)
    return bool(has.any()) and float(np.mean(end[has] > times[later[has]])) > 0.33
