"""Notes with their positions in ticks → chords in two staves of at most two voices. Knows nothing of names or paper.

A staff has one voice, in which a chord lasts until the next one at most. It has two where a note is held while others
move; the upper voice's stems point up. The pedal lengthens notes too: where more than a third of a staff's notes last
beyond the next two onsets, the pedal is the reason, and the staff has one voice.
"""

from typing import NamedTuple

import numpy as np

from music.notation.beats import NEAR, QUARTER, Rhythm, find_beats

UP, DOWN, ONLY = 1, 2, 0
# Of the time to the next chord: a played chord that lasts so long is written to last until that one, as is one with at
# most a beat until the next: how short a key was held is a matter of touch and pedal.
_FULL = 0.55


class Tuplet(NamedTuple):
    """So many notes in the time of others, such as 3 in the time of 2."""

    actual: int
    normal: int
    unit: str  # the type of one note


_SIMPLE, _COMPOUND = QUARTER, QUARTER * 3 // 2  # ticks of a beat
TUPLETS = {  # (ticks of a beat, its slots): how slots are written that are no halves of it, or of its thirds
    (_SIMPLE, 3): Tuplet(3, 2, "eighth"),
    (_SIMPLE, 6): Tuplet(3, 2, "eighth"),
    (_SIMPLE, 12): Tuplet(3, 2, "16th"),
    (_SIMPLE, 5): Tuplet(5, 4, "16th"),
    (_SIMPLE, 10): Tuplet(5, 4, "32nd"),
    (_SIMPLE, 7): Tuplet(7, 4, "16th"),
    (_SIMPLE, 9): Tuplet(9, 8, "32nd"),
    (_COMPOUND, 9): Tuplet(3, 2, "16th"),
    (_COMPOUND, 5): Tuplet(5, 3, "eighth"),
    (_COMPOUND, 10): Tuplet(5, 3, "16th"),
    (_COMPOUND, 7): Tuplet(7, 6, "16th"),
}
# How many slots a beat may have: the first of these that all its onsets are on, or some few that they are near.
_WRITTEN = {_SIMPLE: (8, 6, 5, 16, 12, 7, 10, 9), _COMPOUND: (24, 9, 5, 7, 10)}
_ESTIMATED = {_SIMPLE: (8, 6), _COMPOUND: (24,)}  # the slots of `beats.estimate`
_FEW = {_SIMPLE: (1, 2, 4, 3, 8, 6, 12, 16), _COMPOUND: (1, 3, 6, 12, 24)}
_PER_SLOT = QUARTER // 100  # ticks that onsets must be nearer for each slot that a quarter has more
_PER_LOSS = QUARTER // 10  # ticks for each onset that would share the slot of another one


class Chord(NamedTuple):
    """Notes of one voice that begin and end together."""

    start: int  # ticks
    end: int
    notes: tuple[int, ...]  # their indices, the lowest first
    voice: int  # UP, DOWN, or ONLY where there is no other voice


def settle(rhythm: Rhythm, staff: np.ndarray) -> tuple[Rhythm, list[dict[int, Tuplet]]]:
    """Choose into how many slots each beat of a staff is divided, and move the onsets and ends there.

    Args:
        staff: 0 for the upper, 1 for the lower one, int [n].

    Returns:
        The moved rhythm, and the tuplets of each staff by the tick at which their beat begins.
    """
    onset, end = rhythm.onset.copy(), rhythm.end.copy()
    bar_ends = np.array([bar.start + bar.length for bar in rhythm.bars])
    tuplets: list[dict[int, Tuplet]] = []
    for s in range(2):
        of = np.flatnonzero(staff == s)
        beat, size = find_beats(onset[of], rhythm.bars)
        slots = _divide(onset[of], beat, size, _WRITTEN if rhythm.exact else _ESTIMATED)
        whole = set(beat[beat + size <= bar_ends[np.searchsorted(bar_ends, beat, side="right")]].tolist())
        slots = {at: count for at, count in slots.items() if at in whole}  # no tuplet where a bar ends within the beat
        slot = _slot(beat, size, slots)
        onset[of] = beat + np.rint((onset[of] - beat) / slot).astype("i8") * slot
        onset[of] = np.where(onset[of] < bar_ends[-1], onset[of], onset[of] - slot)
        starts = dict(zip(beat.tolist(), size.tolist(), strict=True))
        tuplets.append({at: TUPLETS[key] for at, count in slots.items() if (key := (starts[at], count)) in TUPLETS})
        fine = {at: count for at, count in slots.items() if at in tuplets[s] or count > 8}  # else ends are on 32nds
        beat, size = find_beats(end[of], rhythm.bars)
        slot = _slot(beat, size, fine)
        end[of] = beat + np.rint((end[of] - beat) / slot).astype("i8") * slot
        short = end[of] - onset[of] < QUARTER // 16
        end[of] = np.where(short, onset[of] + _slot(*find_beats(onset[of], rhythm.bars), fine), end[of])
    return rhythm._replace(onset=onset, end=end), tuplets


def _slot(beat: np.ndarray, size: np.ndarray, slots: dict[int, int]) -> np.ndarray:
    """Give the ticks of a slot of each beat; a beat that is not in `slots` has the usual ones."""
    usual = np.where(size == _SIMPLE, _WRITTEN[_SIMPLE][0], _WRITTEN[_COMPOUND][0]).tolist()
    count = [slots.get(at, plain) for at, plain in zip(beat.tolist(), usual, strict=True)]
    return size // np.array(count, "i8")


def _divide(onset: np.ndarray, beat: np.ndarray, size: np.ndarray, choices: dict[int, tuple]) -> dict[int, int]:
    """Choose the number of slots of each beat in which something begins."""
    slots: dict[int, int] = {}
    for ticks, counts in choices.items():
        some = size == ticks
        if some.any():
            beats, which = np.unique(beat[some], return_inverse=True)
            chosen = _choose(onset[some] - beat[some], which, ticks, counts)
            slots |= dict(zip(beats.tolist(), chosen.tolist(), strict=True))
    return slots


def _choose(into: np.ndarray, which: np.ndarray, ticks: int, counts: tuple[int, ...]) -> np.ndarray:
    """Choose the number of slots of each beat.

    It is the first of `counts` whose slots all onsets of the beat are on. Where there is none, as in a passage that was
    played freely, they are few slots that the onsets are near, as far as each onset has its own.

    Args:
        into: ticks from the beginning of its beat to each onset, [n].
        which: the number of its beat, int [n].
        ticks: of a beat.
    """

    def far(count: int) -> np.ndarray:
        """Compute the ticks from the worst onset of each beat to its slot."""
        worst = np.zeros(which.max() + 1)
        np.maximum.at(worst, which, np.abs(into - np.rint(into * count / ticks) * ticks / count))
        return worst

    def struck(count: float) -> np.ndarray:
        """Count the slots of each beat on which something begins."""
        return np.bincount(np.unique([which, np.rint(into * count / ticks)], axis=1)[0].astype("i8"))

    onsets = struck(24 * ticks / QUARTER)  # a rolled chord is one
    costs = [
        far(few) + few * QUARTER / ticks * _PER_SLOT + np.maximum(onsets - struck(few), 0) * _PER_LOSS
        for few in _FEW[ticks]
    ]
    chosen = np.array(_FEW[ticks])[np.argmin(costs, 0)]
    for count in reversed(counts):
        chosen = np.where(far(count) <= NEAR, count, chosen)
    return chosen


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
