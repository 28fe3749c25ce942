"""Notes → which of two hands plays each. Knows nothing of beats, spelling or paper.

A pitch divides the keyboard between the hands and moves with the music: a shortest path over that pitch, one step an
onset. Costs: more than a ninth in one hand, more than a hand reaches within a moment, moving the division, a division
between neighbouring notes, and one far from the middle of the keyboard.
"""

import numpy as np

from music.notation import shortest_path
from music.notes import Notes

CHORD = 0.045  # seconds; notes that begin within this time are struck together
_LOWEST, _HIGHEST = 36, 85  # where the division may lie; it belongs to the right hand
_MIDDLE = 60.5
_SPAN, _REACH = 14, 17  # semitones that one hand plays at once, and within a moment
_MOMENT = 0.35  # seconds before and behind
_APART = 5  # semitones between the mean pitches of two tracks that are two hands


def chords(start: np.ndarray, within: float = CHORD) -> np.ndarray:
    """Number the chords, the notes struck together: int64 [n] from 0, for onsets in rising order.

    A chord holds the notes that begin within `within` seconds of its first one.
    """
    number = np.zeros(len(start), "i8")
    k = 0
    while k < len(start):
        following = int(np.searchsorted(start, start[k] + within, side="right"))
        number[following:] += 1
        k = following
    return number


def right_hand(notes: Notes) -> np.ndarray:
    """Tell for each of the Notes whether the right hand plays it, bool [n]."""
    if not len(notes):
        return np.zeros(0, bool)
    number = chords(notes["start"])
    splits = np.arange(_LOWEST, _HIGHEST + 1)
    cost = np.array([_costs(notes, splits, first, last) for first, last in _bounds(number)])  # [events, splits]
    moves = 0.25 * np.abs(splits[:, None] - splits[None, :])  # [to, from]
    best = splits[shortest_path.cheapest(cost, moves)[1]]
    return notes["pitch"] >= best[number]


def of_file(notes: Notes, tracks: tuple[Notes, Notes]) -> np.ndarray:
    """Tell for each of the Notes whether the right hand plays it, by the two tracks of their file, bool [n].

    Where these are not plainly two hands, or have no such note, it is estimated.
    """
    right = right_hand(notes)
    means = [float(track["pitch"].mean()) for track in tracks]
    if abs(means[0] - means[1]) < _APART or not all(_is_one_hand(track) for track in tracks):
        return right
    upper = means[0] > means[1]
    own = {key: is_upper for track, is_upper in zip(tracks, (upper, not upper), strict=True) for key in _keys(track)}
    return np.array([own.get(key, guess) for key, guess in zip(_keys(notes), right.tolist(), strict=True)], bool)


def _keys(notes: Notes) -> list[tuple[int, int]]:
    """Give what tells a note from others of its file: tenths of a millisecond of its onset, and its pitch."""
    return list(zip(np.rint(notes["start"] * 1e4).astype("i8").tolist(), notes["pitch"].tolist(), strict=True))


def _is_one_hand(notes: Notes) -> bool:
    """Tell whether one hand can play the notes: nineteen of twenty chords have five keys and a tenth or less."""
    bounds = _bounds(chords(notes["start"]))
    pitches = [notes["pitch"][first:last] for first, last in bounds]
    possible = [len(each) <= 5 and int(each.max()) - int(each.min()) <= _REACH for each in pitches]
    return float(np.mean(possible)) >= 0.95


def _bounds(number: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=number[-1] + 1))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _costs(notes: Notes, splits: np.ndarray, first: int, last: int) -> np.ndarray:
    start, pitch = notes["start"], notes["pitch"]
    begin = int(np.searchsorted(start, start[first] - _MOMENT))
    end = int(np.searchsorted(start, start[first] + _MOMENT, side="right"))
    cost = 0.04 * np.abs(splits - _MIDDLE)
    cost = cost + 2.0 * _excess(np.sort(pitch[first:last]), splits, _SPAN)
    around = np.unique(pitch[begin:end])
    cost += 0.5 * _excess(around, splits, _REACH)
    above = np.searchsorted(around, splits)
    inside = (above > 0) & (above < len(around))
    gap = np.where(inside, around[np.minimum(above, len(around) - 1)] - around[np.maximum(above - 1, 0)], 12)
    return cost + 0.15 * np.maximum(7 - gap, 0)


def _excess(pitches: np.ndarray, splits: np.ndarray, span: int) -> np.ndarray:
    """Count the semitones beyond `span`, of both hands together, for every split; `pitches` are sorted."""
    count = np.searchsorted(pitches, splits)  # in the left hand
    low = np.where(count > 0, pitches[np.maximum(count - 1, 0)] - pitches[0], 0)
    high = np.where(count < len(pitches), pitches[-1] - pitches[np.minimum(count, len(pitches) - 1)], 0)
    return np.maximum(low - span, 0) + np.maximum(high - span, 0)
