"""A nocturne to continue: bars as text → Notes. Knows nothing of files or models.

It was written for this project, so that a demo has a seed of its own. It stops on its dominant, so a continuation has
something to resolve.
"""

from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.examples.writing import ScoreNote, read_pitch, unevenness
from music.notes import Notes

_BEATS = 4  # in a bar
_LIFT = 0.07  # seconds that the pedal lifts after the harmony has changed


class Bar(NamedTuple):
    """One bar of four quarters."""

    left: tuple[str, str]  # six triplet quavers in each half; the pedal changes with them
    right: str  # notes that begin together, joined by "+", the melody last; then ":" and how many quarters
    pace: tuple[float, float]  # seconds a quarter in each half
    touch: tuple[int, int]  # velocity of the melody and of the left hand


# fmt: off
NOCTURNE = (
    Bar(("Ab2 Eb3 C4 Eb4 C4 Eb3", "Ab2 Eb3 Ab3 C4 Ab3 Eb3"),
        "Ab4+Eb5:1.5 Db5:.5 C5:1 Ab4+Eb5:1", (1.02, 0.97), (64, 45)),
    Bar(("F2 C3 Ab3 C4 Ab3 C3", "F2 C3 Ab3 Eb4 Ab3 C3"),
        "C5+Ab5:2 G5:.5 F5:.5 Eb5:.5 C5:.5", (0.95, 0.97), (69, 47)),
    Bar(("Db2 Ab2 F3 Ab3 F3 Ab2", "Db2 Ab2 F3 C4 F3 Ab2"),
        "Ab4+F5:1.5 Eb5:.5 Ab4+Db5:1 C5:.5 Db5:.5", (0.96, 0.97), (68, 48)),
    Bar(("Bb2 F3 Ab3 Db4 Ab3 F3", "Eb2 Bb2 G3 Db4 G3 Bb2"),
        "F4+Db5:1 Bb4:.5 C5:.5 Bb4+F5:1 Eb5:.25 F5:.25 Eb5:.25 Db5:.25", (0.98, 1.06), (62, 45)),
    Bar(("C2 G2 E3 Bb3 E3 G2", "C2 G2 E3 C4 Bb3 G3"),
        "C5:.5 E5:.5 G5:.5 Bb5:.5 C5+E5+Ab5:1 G5:.5 E5:.5", (0.93, 0.90), (72, 51)),
    Bar(("F2 C3 Ab3 C4 Ab3 C3", "Ab2 F3 C4 F4 C4 F3"),
        "Ab4+F5:.5 Ab5:.5 F5+Ab5+C6:1.75 Db6:.25 C6:.25 Bb5:.25 Ab5:.25 G5:.25", (0.92, 0.98), (82, 58)),
    Bar(("Db2 Ab2 F3 Db4 F3 Ab2", "Db2 Ab2 Fb3 Db4 Fb3 Ab2"),
        "Db5+F5+Ab5:1 F5:.5 Eb5:.5 Ab4+Fb5:1 Eb5:.5 Db5:.5", (0.99, 1.05), (72, 50)),
    Bar(("Eb2 Bb2 Ab3 C4 Ab3 Bb2", "Eb2 Bb2 G3 Db4 G3 Bb2"),
        "Ab4+C5:1 Eb5:.5 Ab5:.5 Bb4+Db5+G5:1 F5:.5 Db5:.5", (1.06, 1.24), (60, 43)),
)
# fmt: on


def nocturne() -> Notes:
    """Play eight bars in A flat major, half a minute: a melody over broken chords, the pedal folded in."""
    bars = list(enumerate(NOCTURNE))
    score = sorted(note for number, bar in bars for note in (*_left(number, bar), *_right(number, bar)))
    uneven = unevenness(len(score))
    beat, beats, pitch, velocity, late = np.array(score).T
    start = 0.05 + _seconds(beat) + late + 0.016 * uneven
    velocity = np.rint(velocity + 7 * np.roll(uneven, 5))
    return _pedalled(nt.sort(nt.from_columns(start, _seconds(beat + beats), pitch, velocity)))


def _left(number: int, bar: Bar):
    """Write the left hand of a bar: broken chords, the first note of each half the loudest."""
    for half, figure in enumerate(bar.left):
        for k, name in enumerate(figure.split()):
            accent = 7 if k == 0 else 2 if k == 3 else 0
            yield ScoreNote(_BEATS * number + 2 * half + k / 3, 1 / 3, read_pitch(name), bar.touch[1] + accent, 0.012)


def _right(number: int, bar: Bar):
    """Write the right hand of a bar. The melody is the loudest, louder as it rises, and before the notes below it."""
    beat = float(_BEATS * number)
    for chord in bar.right.split():
        names, length = chord.split(":")
        *below, top = [read_pitch(name) for name in names.split("+")]
        velocity = bar.touch[0] + 0.7 * (top - read_pitch("C5")) - (4 if beat % 1 else 0)
        yield ScoreNote(beat, float(length), top, velocity, 0.0)
        for k, pitch in enumerate(below):
            yield ScoreNote(beat, float(length), pitch, 0.78 * velocity, 0.018 + 0.011 * k)
        beat += float(length)


def _seconds(beat: np.ndarray) -> np.ndarray:
    """Find the second of a beat: each half bar has a pace of its own."""
    paces = np.array([pace for bar in NOCTURNE for pace in bar.pace])
    return np.interp(beat, 2 * np.arange(len(paces) + 1), 2 * np.cumsum(np.append(0.0, paces)))


def _pedalled(notes: Notes) -> Notes:
    """Let every note sound until the pedal lifts after its key does, or its pitch is struck again."""
    lifts = _LIFT + 0.05 + _seconds(2.0 * np.arange(1, 2 * len(NOCTURNE) + 1))
    notes["end"] = lifts[np.searchsorted(lifts, notes["end"])]
    for k, note in enumerate(notes):
        again = notes["start"][k + 1 :][notes["pitch"][k + 1 :] == note["pitch"]]
        notes["end"][k] = min([note["end"], *again])
    return notes
