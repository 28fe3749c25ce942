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

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.errors import EncodingError
from music.midi import FAR, Grid
from music.notation import hands, shortest_path
from music.notes import DRUMS, Notes

QUARTER = 10_080  # ticks; its halves down to the 128th, thirds, fifths, sevenths and ninths are whole numbers of them
SILENCE = 20.0  # seconds; where beats are estimated, a longer time without an onset is written as if it were so long
NEAR = QUARTER // 120 + 1  # ticks between an onset and a slot that it is on
RESTS = 8  # bars; where a file's own bars are written, more of them without an onset are written as so many
MOST_SECONDS = 3600.0  # of music whose beats are estimated, long silences shortened; a piece of MAESTRO has 2,625
MOST_BARS = 6_000  # the bars of a file that has more are ignored
_CLAIMED = 200_000  # bars of a file with all its silences, which are listed one by one
_TUPLETS = (5, 7, 9, 10, 11, 13)  # of a beat: where three of four of their onsets are there, all are on the grid
_PASSAGE, _HALF = 24, 0.5  # onsets on the grid without a break, and of all, that show that a file's grid is its own
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
    """The positions of Notes in a score, in ticks, which are parts of a QUARTER, from the first bar's beginning."""

    onset: np.ndarray  # int64 [n], ticks
    end: np.ndarray  # int64 [n], ticks, behind `onset`
    bars: list[Bar]  # without gaps, to the last note's end
    beat: int  # ticks: a quarter, and three eighths in a compound metre
    tempos: list[tuple[int, float]]  # (from tick, quarters a minute), the first from tick 0
    exact: bool  # the file's own ticks, not estimated
    keys: list[tuple[int, int]]  # (from tick, sharps or minus flats), where the file says them
    omitted: list[tuple[int, float]]  # (at tick, seconds before it that are not written, as nothing begins in them)


def on_grid(notes: Notes, grid: Grid, *, exact: bool = False) -> Rhythm | None:
    """Place notes by the beats of their own file; None where they are not on its beats, as in a recorded performance.

    They are where nine of ten onsets are within 1/120 of a quarter from a multiple of a 24th of it, or on a quintuplet,
    septuplet or the like. A passage that is not on the grid leaves the rest alone: half of the onsets are enough if
    some 24 in a row are on the grid, which chance does not do. Bars without an onset are left out from the ninth on.

    Args:
        exact: place them also where they are not on its beats, as what continues a file that is.
    """
    ticks = np.rint(np.interp(notes["start"], grid.seconds, grid.quarters) * QUARTER).astype("i8")
    end = np.rint(np.interp(notes["end"], grid.seconds, grid.quarters) * QUARTER).astype("i8")
    last = max(int(_snap(ticks).max()) + QUARTER // 16, int(_snap(end).max()))
    all_bars = _written_bars(grid, int(_snap(ticks).min()), last)
    if all_bars is None or not (exact or _fits(ticks, all_bars, grid)):
        return None
    bars = _without_empty(all_bars, ticks)
    if len(bars) > MOST_BARS:
        return None
    starts, lengths = np.array([bar[:2] for bar in bars]).T
    written = np.append(0, np.cumsum(lengths)[:-1])  # where each of these bars begins in the score

    def place(tick: np.ndarray) -> np.ndarray:
        k = np.maximum(np.searchsorted(starts, tick, side="right") - 1, 0)
        return written[k] + np.clip(tick - starts[k], 0, lengths[k])

    def seconds(tick: np.ndarray) -> np.ndarray:
        return np.interp(tick / QUARTER, grid.quarters, grid.seconds)

    onset, end = place(ticks), place(end)
    cuts = np.flatnonzero(starts[1:] > starts[:-1] + lengths[:-1]) + 1
    silent = seconds(starts[cuts]) - seconds(starts[cuts - 1] + lengths[cuts - 1])
    keys = place(np.rint(np.array([at for at, _, _ in grid.keys]) * QUARTER).astype("i8"))
    return Rhythm(
        onset=onset,
        end=np.maximum(end, onset + QUARTER // 16),
        bars=[bar._replace(start=start) for bar, start in zip(bars, written.tolist(), strict=True)],
        beat=beat_of(bars[0]),
        tempos=_tempos(grid, place),
        exact=True,
        keys=list(zip(keys.tolist(), [fifths for _, fifths, _ in grid.keys], strict=True)),
        omitted=list(zip(written[cuts].tolist(), silent.tolist(), strict=True)),
    )


def is_on_grid(notes: Notes, grid: Grid | None) -> bool:
    """Tell whether notes, drums apart, lie on the beats of their file; not without a grid, or without such notes."""
    notes = notes[notes["program"] != DRUMS]
    return grid is not None and len(notes) > 0 and on_grid(notes, grid) is not None


def _fits(ticks: np.ndarray, bars: list[Bar], grid: Grid) -> bool:
    """Tell whether onsets are on the grid of their file, as `on_grid` explains it."""
    ticks, struck = np.unique(ticks, return_counts=True)
    on = _is_near(ticks, QUARTER // 24)
    # Music of 150 quarters a minute in a file of 120, as programs write it that know no tempo, makes quintuplets, too.
    own_tempo = not np.allclose(np.diff(grid.seconds), np.diff(grid.quarters) / 2)
    chords = on[struck > 1]
    if own_tempo or (len(chords) and chords.mean() >= 0.9):
        beat, size = find_beats(ticks, bars)
        which = np.unique(beat, return_inverse=True)[1]
        for count in _TUPLETS:
            near = _is_near(ticks - beat, size / count)
            on |= near & (np.bincount(which, near)[which] >= 0.75 * count)
    share = np.average(on, weights=struck)
    breaks = np.flatnonzero(np.concatenate([[True], ~on, [True]]))
    return bool(share >= 0.9 or (share >= _HALF and np.diff(breaks).max() > _PASSAGE))


def _is_near(ticks: np.ndarray, slot: float | np.ndarray) -> np.ndarray:
    """Tell which ticks are near a multiple of `slot` ticks."""
    return np.abs(ticks - np.rint(ticks / slot) * slot) <= NEAR


def beat_of(bar: Bar) -> int:
    """Give the ticks of a beat: three eighths where the time signature is compound, else a quarter."""
    return QUARTER * 3 // 2 if bar.denominator == 8 and bar.numerator % 3 == 0 else QUARTER


def find_beats(ticks: np.ndarray, bars: list[Bar]) -> tuple[np.ndarray, np.ndarray]:
    """Find the beginning and the length of the beat at each tick, int64 [n] each."""
    start, size = np.array([(bar.start, beat_of(bar)) for bar in bars])[_bar_at(ticks, bars)].T
    return start + (ticks - start) // size * size, size


def _bar_at(ticks: np.ndarray, bars: list[Bar]) -> np.ndarray:
    starts = np.array([bar.start for bar in bars])
    return np.maximum(np.searchsorted(starts, ticks, side="right") - 1, 0)


def _without_empty(bars: list[Bar], ticks: np.ndarray) -> list[Bar]:
    """Leave out bars in which nothing begins, from the ninth in a row on."""
    struck = np.unique(_bar_at(ticks + NEAR, bars))
    last = struck[np.searchsorted(struck, np.arange(len(bars)), side="right") - 1]  # the last bar with an onset so far
    return [bar for bar, empty in zip(bars, (np.arange(len(bars)) - last).tolist(), strict=True) if empty <= RESTS]


def _tempos(grid: Grid, place) -> list[tuple[int, float]]:
    """List the changes of tempo of a file; of those at one tick the last one counts."""
    at = place(np.rint(grid.quarters[:-1] * QUARTER).astype("i8")).tolist()
    pace = 60 * np.diff(grid.quarters) / np.maximum(np.diff(grid.seconds), 1e-6)
    tempos = list(dict(zip(at, np.round(pace, 2).tolist(), strict=True)).items())
    return tempos[:1] + [new for old, new in pairwise(tempos) if new[1] != old[1]]


def estimate(notes: Notes, right: np.ndarray | None = None) -> Rhythm:
    """Estimate beats, bars and positions of at least one note, from onsets, lengths and pitches alone.

    Args:
        right: whether the right hand plays each note, bool [n]; None: that is estimated, too.

    Raises:
        EncodingError: there are more than MOST_SECONDS of music.
    """
    pulses = _pulses(notes, right)
    beat, bar = pulses.beat, pulses.numerator * pulses.beat
    onset, end = pulses.onset - pulses.zero, np.maximum(pulses.end, pulses.onset + beat // 8) - pulses.zero
    signature = _signature(pulses.numerator, beat)
    count = -(-int(end.max()) // bar)
    bars = [Bar(k * bar, bar, *signature) for k in range(count)]
    tempo = max(round(60 / pulses.seconds), 1) * beat / QUARTER
    omitted = [(int(onset[k]), float(pulses.silent[k])) for k in np.flatnonzero(pulses.silent)]
    return _with_upbeat(Rhythm(onset, end, bars, beat, [(0, tempo)], False, [], omitted))


def estimated_grid(notes: Notes, grid: Grid | None = None) -> Grid:
    """Estimate beats and bars as `estimate` does, as a tempo map with a knot a beat, from second 0 on.

    Args:
        notes: at least one.
        grid: whose keys, hands and names are kept.

    Raises:
        EncodingError: there are more than MOST_SECONDS of music.
    """
    pulses = _pulses(notes, None)
    late, quarters = np.cumsum(pulses.silent), pulses.beat / QUARTER  # of a beat
    note = np.searchsorted(notes["start"] - late, pulses.knots + _EARLY * _FRAME, side="right") - 1
    seconds = pulses.knots + np.where(note >= 0, late[note], 0.0)
    seconds = _filled(seconds, pulses.seconds, pulses.numerator)
    early = int(np.searchsorted(seconds, -pulses.seconds / 2))  # beats before second 0
    seconds = seconds[early:]
    silent = round(float(seconds[0]) / pulses.seconds)  # beats before the first one
    seconds = np.concatenate([np.linspace(0.0, seconds[0], silent, endpoint=False), seconds])
    seconds[0] = 0.0
    upbeat = (pulses.zero // pulses.beat - early + silent) % pulses.numerator
    positions = quarters * np.arange(len(seconds))
    times = [(upbeat * quarters, *_signature(pulses.numerator, pulses.beat))]
    if upbeat:
        times.insert(0, (0.0, *_signature(upbeat, pulses.beat)))
    estimated = Grid(
        seconds=np.append(seconds, seconds[-1] + FAR),
        quarters=np.append(positions, positions[-1] + FAR / (seconds[-1] - seconds[-2]) * quarters),
        times=times,
        keys=[],
    )
    if grid is None:
        return estimated
    at = np.interp([position for position, *_ in grid.keys], grid.quarters, grid.seconds)
    beat = np.rint(np.interp(at, estimated.seconds, estimated.quarters) / quarters).tolist()
    keys = [(quarters * k, *key) for k, (_, *key) in zip(beat, grid.keys, strict=True)]
    return replace(estimated, keys=keys, hands=grid.hands, ticks_per_quarter=grid.ticks_per_quarter, names=grid.names)


def _signature(beats: int, beat: int) -> tuple[int, int]:
    """Give the time signature of a bar of so many beats: in eighths in a compound metre, else in quarters."""
    return (beats, 4) if beat == QUARTER else (beats * 3, 8)


def _filled(seconds: np.ndarray, usual: float, numerator: int) -> np.ndarray:
    """Put whole bars of beats into the beats that a silence makes long; `usual`: seconds of a beat."""
    bars = np.maximum(np.rint((np.diff(seconds) / usual - 1) / numerator), 0).astype("i8")
    bars[np.diff(seconds) < SILENCE / 2] = 0
    for k in np.flatnonzero(bars)[::-1].tolist():
        inner = np.linspace(seconds[k], seconds[k + 1], int(bars[k]) * numerator + 2)[1:-1]
        seconds = np.concatenate([seconds[: k + 1], inner, seconds[k + 1 :]])
    return seconds


class _Pulses(NamedTuple):
    """What is estimated of Notes: their positions in ticks from the first beat, and the beats and bars."""

    onset: np.ndarray  # int64 [n], ticks
    end: np.ndarray  # int64 [n], ticks
    knots: np.ndarray  # float64 [beats + 1]: seconds where beats begin and the last one ends, long silences shortened
    seconds: float  # of a usual beat
    beat: int  # ticks of a beat
    numerator: int  # beats of a bar
    zero: int  # ticks: where the bar of the first onset begins
    silent: np.ndarray  # float64 [n], seconds left out before each note


def _pulses(notes: Notes, right: np.ndarray | None) -> _Pulses:
    """Estimate the beats of at least one note; arguments and errors as for `estimate`."""
    right = hands.right_hand(notes) if right is None else right
    notes, silent = _without_silence(notes)
    if nt.length(notes) - notes["start"][0] > MOST_SECONDS:
        seconds = nt.length(notes) - float(notes["start"][0])
        raise EncodingError(
            f"expected at most {MOST_SECONDS:,.0f} seconds of music for one score, got {seconds:,.0f}; write a part"
        )
    number = hands.chords(notes["start"])
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
    return _Pulses(onset, end, knots, seconds, beat, numerator, zero, silent)


def _pulse(position: np.ndarray, ticks: int) -> np.ndarray:
    """Give each event's pulse, for pulses of so many ticks; -1 where it is between two."""
    return np.where(position % ticks == 0, position // ticks, -1)


def _without_silence(notes: Notes) -> tuple[Notes, np.ndarray]:
    """Shorten silences to SILENCE; also give the seconds left out before each note, [n]."""
    silent = np.maximum(nt.steps(notes) - SILENCE, 0)
    late = np.cumsum(silent)
    moved = notes.copy()
    moved["start"] -= late
    following = np.append(moved["start"][1:], moved["start"][-1])
    moved["end"] = np.minimum(notes["end"] - late, np.maximum(following, moved["start"]) + SILENCE)
    return moved, silent


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
    even, third = (np.rint(ticks * count / QUARTER) * (QUARTER // count) for count in (8, 6))
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
    omitted = [(at - silent, seconds) for at, seconds in rhythm.omitted]
    return rhythm._replace(onset=rhythm.onset - silent, end=rhythm.end - silent, bars=bars, omitted=omitted)


def _written_bars(grid: Grid, first: int, last: int) -> list[Bar] | None:
    """List the file's bars from that of tick `first` to that of tick `last`; None if there are more than _CLAIMED."""
    bars: list[Bar] = []
    changes = [*grid.times, (np.inf, 4, 4)]
    for (at, numerator, denominator), (until, *_) in pairwise(changes):
        length = 4 * QUARTER * numerator // denominator
        start, stop = round(at * QUARTER), min(until * QUARTER, last)
        start += max(first - start, 0) // length * length
        if len(bars) + (stop - start) / length > _CLAIMED:
            return None
        while start < stop:
            bars.append(Bar(start, int(min(length, until * QUARTER - start)), numerator, denominator))
            start += length
    return [bar for bar in bars if bar.start + bar.length > first] or None
