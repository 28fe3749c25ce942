"""Notes in seconds → their positions in bars and beats. Knows nothing of pitch names, voices or paper.

A file whose onsets lie on its own ticks keeps its own bars (`on_grid`). For a performance they are estimated
(`estimate`):

- Notes that begin within 45 ms are one event. Each hand has its own events, so that triplets of one hand can stand
  against quavers of the other.
- A beat may begin at any 10 ms frame and have any of some 60 lengths. Its cost says how far its events are from the
  slots of the best of a few patterns (undivided, halves, quarters, eighths, thirds, sixths), and how unlikely that
  pattern is. A beat that begins with an event that stands out (many keys, long, low) costs less.
- Viterbi finds the cheapest chain of beats, where the length changes by a few percent from one to the next: a
  semi-Markov kin of the bar pointer model (Whiteley, Cemgil and Godsill, ISMIR 2006) and of the metrical HMM of
  rhythm transcription (Raphael, ISMIR 2001; Nakamura, Yoshii and Sagayama, TASLP 2017).
- This is done twice, for beats of two and of three parts; the cheaper result decides: simple or compound metre.
- A bar has the 2, 3 or 4 beats whose first ones stand out most, in weight and in change of harmony.

MAESTRO's files claim 120 quarters a minute but hold performed onsets, so all of MAESTRO is estimated.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.midi import Grid
from music.notation import hands, shortest_path
from music.notes import Notes

QUARTER = 480  # ticks; thirds, fifths and 32nds are whole numbers of them
SILENCE = 20.0  # seconds; a longer time without an onset is written as if it were so long
MOST_BARS = 6_000  # the bars of a file that claims more are ignored
_FRAME = 0.01  # seconds
_EARLY = 4  # frames before a beat that belong to it
_SPREAD = 2.2  # frames, the standard deviation of an onset from its slot
_DRIFT = 0.05  # of the logarithm of a beat's length from one to the next
_STEPS = 6  # lengths by which a beat may be longer or shorter than the one before
_LENGTHS = np.unique(np.rint(np.exp(np.arange(np.log(26), np.log(160), 0.03))).astype(int))  # frames of a beat
_USUAL, _HABIT = (62.0, 85.0), 0.5  # frames of a usual beat, simple and compound; the cost of the square of ln(·)/0.5
_SALIENCE = 1.0
_EMPTY = 1.6  # for a hand that begins nothing in a beat
_TOGETHER = 1.0  # for one pattern of both hands' events, as where one hand answers the other
_AGAIN = 2.0  # for a second event on one slot
_FASTEST, _WALTZ = 0.27, 1.2  # seconds of the shortest beat; how much better three fast beats must fit than slow ones
_COMPOUND = 0.785  # a compound metre must be so much cheaper: its beats are longer, so they are fewer


class _Pattern(NamedTuple):
    """Slots of a beat: how likely each is struck, and how likely the pattern is in simple and in compound metre.

    The figures were set by hand after counting beats in the string quartets and chorales of music21's corpus.
    """

    struck: tuple[float, ...]
    weight: tuple[float, float]


_PATTERNS = (
    _Pattern((0.97,), (0.33, 0.20)),
    _Pattern((0.87, 0.98), (0.29, 0.01)),
    _Pattern((0.97,) * 4, (0.09, 0.005)),
    _Pattern((0.9, 0.3, 0.8, 0.7), (0.07, 0.01)),
    _Pattern((0.97,) * 8, (0.008, 0.003)),
    _Pattern((0.9, 0.4, 0.5, 0.4, 0.7, 0.5, 0.5, 0.5), (0.01, 0.003)),
    _Pattern((0.95,) * 3, (0.05, 0.32)),
    _Pattern((0.85, 0.5, 0.6), (0.02, 0.17)),
    _Pattern((0.97,) * 6, (0.02, 0.11)),
    _Pattern((0.9, 0.4, 0.6, 0.5, 0.7, 0.5), (0.006, 0.12)),
)


class Bar(NamedTuple):
    """One bar: where it begins and how long it is, in ticks, and its time signature. An upbeat is shorter than that."""

    start: int
    length: int
    numerator: int
    denominator: int


class Rhythm(NamedTuple):
    """The positions of Notes in a score. A tick is 1/480 of a quarter; tick 0 is the first bar's beginning."""

    onset: np.ndarray  # int64 [n], ticks
    end: np.ndarray  # int64 [n], ticks, behind `onset`
    bars: list[Bar]  # without gaps, to the last note's end
    beat: int  # ticks: 480, and 720 in a compound metre
    tempo: float  # beats a minute
    exact: bool  # the file's own ticks, not estimated
    keys: list[tuple[int, int]]  # (from tick, sharps or minus flats), where the file says them


def on_grid(notes: Notes, grid: Grid) -> Rhythm | None:
    """Place notes by the beats of their own file; None where they are not on its beats, as in a recorded performance.

    They are where nine of ten onsets are within 1/120 of a quarter from a multiple of a 24th of it.
    """
    quarters = np.interp(notes["start"], grid.seconds, grid.quarters)
    fine = quarters * 24
    if np.mean(np.abs(fine - np.rint(fine)) <= 24 / 120 + 1e-6) < 0.9:
        return None
    onset = _snap(quarters * QUARTER)
    end = np.maximum(_snap(np.interp(notes["end"], grid.seconds, grid.quarters) * QUARTER), onset + QUARTER // 16)
    bars = _written_bars(grid, int(onset.min()), int(end.max()))
    if bars is None:
        return None
    zero = bars[0].start
    keys = [(max(round(at * QUARTER) - zero, 0), fifths) for at, fifths in grid.keys]
    first = bars[0]
    compound = first.denominator == 8 and first.numerator % 3 == 0
    beat = QUARTER * 3 // 2 if compound else QUARTER
    at = float(np.interp(zero / QUARTER, grid.quarters, grid.seconds))
    after = float(np.interp(zero / QUARTER + 1, grid.quarters, grid.seconds))
    tempo = 60 / max(after - at, 1e-3) * QUARTER / beat
    bars = [bar._replace(start=bar.start - zero) for bar in bars]
    return Rhythm(onset - zero, end - zero, bars, beat, tempo, True, keys)


def estimate(notes: Notes) -> Rhythm:
    """Estimate beats, bars and positions of at least one note, from onsets, lengths and pitches alone."""
    notes = _without_silence(notes)
    number = hands.chords(notes["start"])
    right = hands.right_hand(notes)
    sizes = np.bincount(number)
    first = notes["start"][0] - 2.0
    times = (np.bincount(number, notes["start"]) / sizes - first) / _FRAME  # [events]
    played = np.zeros((2, len(times)), bool)
    played[right.astype(int), number] = True
    salience = _salience(notes, number, times * _FRAME)
    frames = int(times[-1]) + 2 * int(_LENGTHS[-1])
    costs, patterns = _beat_costs(times, played, salience, frames)
    simple, compound = (_cheapest(cost, times[0], times[-1]) for cost in costs)
    kind = int(compound[2] < _COMPOUND * simple[2])
    begins, lengths, _ = compound if kind else simple
    divided = np.array([[len(_PATTERNS[p].struck) for p in hand[begins, lengths]] for hand in patterns[kind]])
    beat = QUARTER * 3 // 2 if kind else QUARTER

    of = np.clip(np.searchsorted(begins - _EARLY, times, side="right") - 1, 0, len(begins) - 1)
    phase = (times - begins[of]) / _LENGTHS[lengths][of]
    slot = np.clip(np.rint(phase * divided[:, of]), 0, divided[:, of] - 1)
    position = np.rint((of + slot / divided[:, of]) * beat).astype("i8")  # [hands, events]
    event = np.where(played, position, np.iinfo("i8").max).min(0)
    knots = np.append(begins, begins[-1] + _LENGTHS[lengths[-1]]) * _FRAME + first
    seconds = float(np.median(_LENGTHS[lengths])) * _FRAME  # of a beat
    gains = _gains(_pulse(event, beat), salience, notes, knots)
    if not kind and seconds >= 2 * _FASTEST:
        halves = np.interp(np.arange(2 * len(knots) - 1) / 2, np.arange(len(knots)), knots)
        faster = _gains(_pulse(event, beat // 2), salience, notes, halves)
        # two bars of a waltz look like three slow beats
        if faster[3][0] > max(1.05 * faster[2][0], 1.05 * faster[4][0], _WALTZ * gains[3][0]):
            position, knots, gains, seconds = 2 * position, halves, faster, seconds / 2
    onset = position[right.astype(int), number]
    end = _ends(notes["end"], knots, beat)
    numerator, upbeat = _metre(gains, bool(kind))
    zero = (upbeat - numerator if upbeat else 0) * beat
    bar = numerator * beat
    zero += (int(onset.min()) - zero) // bar * bar
    onset, end = onset - zero, np.maximum(end, onset + beat // 8) - zero
    signature = (numerator * 3, 8) if kind else (numerator, 4)
    count = -(-int(end.max()) // bar)
    bars = [Bar(k * bar, bar, *signature) for k in range(count)]
    return _with_upbeat(Rhythm(onset, end, bars, beat, 60 / seconds, False, []))


def _pulse(position: np.ndarray, ticks: int) -> np.ndarray:
    """Give each event's pulse, for pulses of so many ticks; -1 where it is between two."""
    return np.where(position % ticks == 0, position // ticks, -1)


def _without_silence(notes: Notes) -> Notes:
    steps = nt.steps(notes)
    late = np.cumsum(np.maximum(steps - SILENCE, 0))
    moved = notes.copy()
    moved["start"] -= late
    following = np.append(moved["start"][1:], moved["start"][-1])
    moved["end"] = np.minimum(notes["end"] - late, np.maximum(following, moved["start"]) + SILENCE)
    return moved


def _salience(notes: Notes, number: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Compute how far each event stands out among those within 4 s of it, in standard deviations, [events]."""
    longest, lowest = np.zeros(len(at)), np.full(len(at), 127)
    np.maximum.at(longest, number, notes["end"] - notes["start"])
    np.minimum.at(lowest, number, notes["pitch"])
    step = np.append(np.diff(at), 1.0)
    weight = (
        np.log(np.bincount(number))
        + 0.6 * np.log(np.clip(longest, 0.05, 2))
        + 0.5 * np.log(np.clip(step, 0.05, 2))
        - 0.03 * lowest
    )
    total = np.append(0.0, np.cumsum(weight))
    low, high = np.searchsorted(at, at - 4), np.searchsorted(at, at + 4)
    rise = weight - (total[high] - total[low]) / np.maximum(high - low, 1)
    return np.clip(rise / (rise.std() + 1e-3), -2, 2)


def _beat_costs(times, played, salience, frames: int):
    """Compute the cost of a beat, for every frame where it may begin and every length.

    Args:
        times: frames of the events, float64 [events].
        played: whether each hand plays something then, bool [2, events].

    Returns:
        Costs in simple and compound metre, float32 [2, frames, lengths]; and the best pattern of each hand there, uint8
        [2, 2, frames, lengths], the same for both hands where that is cheaper.
    """
    pad = int(_LENGTHS[-1]) + _EARLY + 2
    costs = np.zeros((2, frames, len(_LENGTHS)), "f4")
    patterns = np.zeros((2, 2, frames, len(_LENGTHS)), "u1")
    weights = -np.log([pattern.weight for pattern in _PATTERNS]).T[..., None]  # [2, patterns, 1]
    now = 4 * np.arange(frames, dtype="i8")  # in quarters of a frame, so that sums of squares are exact

    def summed(at, values):
        running = np.zeros(frames + 2 * pad + 1, values.dtype)
        np.add.at(running, np.rint(at).astype("i8") + pad + 1, values)
        return np.cumsum(running)

    def window(sums, low, high):
        return sums[pad + high : pad + high + frames] - sums[pad + low : pad + low + frames]

    for hand in range(3):
        at = times[played[hand]] if hand < 2 else times
        fine = np.rint(4 * at).astype("i8")
        counts, firsts, squares = (summed(at, fine**power) for power in range(3))
        for j, length in enumerate(_LENGTHS.tolist()):
            slots = {}
            for count in {len(pattern.struck) for pattern in _PATTERNS}:
                edges = [-_EARLY, *(max(round((k - 0.5) * length / count), -_EARLY) for k in range(1, count))]
                far, number = np.zeros(frames), []
                for k, (low, high) in enumerate(zip(edges, [*edges[1:], length - _EARLY], strict=True)):
                    struck = window(counts, low, high)
                    centre = now + round(4 * length * k / count)
                    far += window(squares, low, high) - 2 * centre * window(firsts, low, high) + centre**2 * struck
                    number.append(struck)
                slots[count] = far / (2 * (4 * _SPREAD) ** 2), number
            each = np.array([_pattern_cost(pattern.struck, *slots[len(pattern.struck)]) for pattern in _PATTERNS])
            empty = window(counts, -_EARLY, length - _EARLY) == 0
            for kind in range(2):
                candidates = each + weights[kind]
                cost = np.where(empty, _EMPTY * (1 + hand // 2), candidates.min(0)).astype("f4")
                if hand < 2:
                    patterns[kind, hand, :, j] = candidates.argmin(0)
                    costs[kind, :, j] += cost
                else:
                    one = cost + _TOGETHER < costs[kind, :, j]
                    patterns[kind, :, one, j] = candidates.argmin(0)[one, None]
                    costs[kind, :, j] = np.minimum(costs[kind, :, j], cost + _TOGETHER)
    stands_out = window(summed(times, salience), -_EARLY, _EARLY)
    for kind in range(2):
        unusual = _HABIT * (np.log(_LENGTHS / _USUAL[kind]) / 0.5) ** 2
        costs[kind] += unusual[None] - _SALIENCE * stands_out[:, None]
    return costs, patterns


def _pattern_cost(likely: tuple[float, ...], far: np.ndarray, number: list[np.ndarray]) -> np.ndarray:
    cost = far.copy()
    for p, struck in zip(likely, number, strict=True):
        cost += np.where(struck > 0, -np.log(p) + _AGAIN * (struck - 1), -np.log(1 - p))
    return cost


def _cheapest(costs: np.ndarray, first: float, last: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Find the cheapest chain of beats: the frames where they begin, the indices of their lengths, and its cost.

    Args:
        costs: [frames, lengths].
        first: frame of the first event, which the first beat holds.
        last: frame of the last event.
    """
    frames, count = costs.shape
    longest = int(_LENGTHS[-1])
    sources = np.clip(np.arange(count)[:, None] + np.arange(-_STEPS, _STEPS + 1), 0, count - 1)
    change = (np.log(_LENGTHS[sources] / _LENGTHS[:, None])) ** 2 / (2 * _DRIFT**2)  # [lengths, sources]
    begin = max(int(first) - longest, 0), int(first) + _EARLY
    ends = np.arange(int(last) + _EARLY + 1, min(int(last) + _EARLY + 1 + longest, frames))
    return shortest_path.cheapest(costs, change, sources, _LENGTHS, begin, ends)


def _ends(end: np.ndarray, knots: np.ndarray, beat: int) -> np.ndarray:
    """Convert ends to ticks, rounded to a sixth or an eighth of a beat; after the last beat its tempo continues."""
    beats = np.interp(end, knots, np.arange(len(knots)))
    beats += np.maximum(end - knots[-1], 0) / (knots[-1] - knots[-2])
    return _snap(beats * QUARTER) * beat // QUARTER


def _snap(ticks: np.ndarray) -> np.ndarray:
    """Round ticks to the nearest eighth or sixth of a quarter."""
    even, third = np.rint(ticks / 60) * 60, np.rint(ticks / 80) * 80
    return np.where(np.abs(even - ticks) <= np.abs(third - ticks), even, third).astype("i8")


def _metre(gains: dict[int, tuple[float, int]], compound: bool) -> tuple[int, int]:
    """Choose the beats of a bar, three or the usual number; and count the beats before the first complete bar."""
    usual = 2 if compound else 4
    beats = 3 if gains[3][0] > max(gains[2][0], gains[4][0]) else usual
    return beats, gains[beats][1]


def _gains(pulse: np.ndarray, salience: np.ndarray, notes: Notes, knots: np.ndarray) -> dict[int, tuple[float, int]]:
    """Compute for groups of 2, 3 and 4 pulses how much their first ones stand out, and which pulse is the first such.

    Args:
        pulse: each event's pulse, int [events]; below 0 where it falls between two.
        salience: [events].
        knots: seconds where pulses begin, and the last one ends, [pulses + 1].
    """
    count = len(knots) - 1
    weight = np.full(count, -1.0)
    on = (pulse >= 0) & (pulse < count)
    np.maximum.at(weight, pulse[on], salience[on])
    of = np.clip(np.searchsorted(knots - _EARLY * _FRAME, notes["start"], side="right") - 1, 0, count - 1)
    chroma = np.zeros((count, 12))
    np.add.at(chroma, (of, notes["pitch"] % 12), np.minimum(notes["end"] - notes["start"], 1.0) + 0.1)
    chroma /= np.linalg.norm(chroma, axis=1, keepdims=True) + 1e-9
    before = np.vstack([chroma[:1], chroma[:-1]])
    weight = weight + 2.0 * (1 - (chroma * before).sum(1))
    gains = {}
    for size in (2, 3, 4):
        candidates = [(0.0, 0)]
        for phase in range(size):
            first = np.arange(count) % size == phase
            if first.any() and not first.all():
                by = weight[first].mean() - weight[~first].mean()
                candidates.append((float(by * np.sqrt(first.sum() * (~first).sum() / count)), phase))
        gains[size] = max(candidates)
    return gains


def _with_upbeat(rhythm: Rhythm) -> Rhythm:
    """Begin with the first note's beat if it is in the second half of a bar: it is an upbeat."""
    first, silent = rhythm.bars[0], int(rhythm.onset.min()) // rhythm.beat * rhythm.beat
    if 2 * silent < first.length or len(rhythm.bars) == 1:
        return rhythm
    bars = [first._replace(length=first.length - silent)]
    bars += [bar._replace(start=bar.start - silent) for bar in rhythm.bars[1:]]
    return rhythm._replace(onset=rhythm.onset - silent, end=rhythm.end - silent, bars=bars)


def _written_bars(grid: Grid, first: int, last: int) -> list[Bar] | None:
    """List the file's bars from that of tick `first` to that of tick `last`; None if there are more than MOST_BARS."""
    bars: list[Bar] = []
    changes = [*grid.times, (np.inf, 4, 4)]
    for (at, numerator, denominator), (until, *_) in pairwise(changes):
        length = 4 * QUARTER * numerator // denominator
        start, until = round(at * QUARTER), until * QUARTER
        if length == 0 or (min(until, last) - max(start, first)) / length > MOST_BARS:
            return None
        start += max(first - start, 0) // length * length
        while start < min(until, last):
            bars.append(Bar(start, int(min(length, until - start)), numerator, denominator))
            start += length
    return [bar for bar in bars if bar.start + bar.length > first] or None
