"""What the seeds are written with: names of pitches → MIDI, notes in beats, a hand's unevenness."""

from typing import NamedTuple

import numpy as np

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_GOLDEN = 0.618034  # its multiples modulo 1 are spread evenly: they imitate a hand's unevenness, the same every time


class ScoreNote(NamedTuple):
    """One note of the score."""

    beat: float  # quarters from the beginning
    beats: float  # how long
    pitch: int
    velocity: float
    late: float = 0.0  # seconds behind the beat


def read_pitch(name: str) -> int:
    """Find the MIDI pitch of a name: C4 is 60, C#4 and Db4 are 61."""
    return 12 * (int(name[-1]) + 1) + _LETTERS[name[0]] + name.count("#") - name.count("b")


def unevenness(count: int) -> np.ndarray:
    """Make so many numbers from -0.5 to 0.5 that seem random, the same ones each time."""
    return np.arange(count) * _GOLDEN % 1 - 0.5
