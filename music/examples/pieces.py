"""Seeds to continue, written for this project: voices as text → Notes. Knows nothing of files, models or web pages.

Each stops where something must follow: on its dominant, or nearly so. The longest, the nocturne, is in `nocturne`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.examples.nocturne import nocturne
from music.examples.writing import ScoreNote, read_pitch, unevenness
from music.notes import Notes

_BEGIN = 0.05  # seconds before the first note
_FLOW = (0, 1, 2, 3, 4, 3, 2, 1) * 2  # which note of the prelude's chord each semiquaver plays

# fmt: off
_PRELUDE = (  # D minor; the lowest of each chord is held for a bar
    "D3 A3 D4 F4 A4", "D3 Bb3 D4 F4 Bb4", "D3 G3 Bb3 E4 G4", "C#3 G3 A3 E4 G4",
    "D3 F3 A3 D4 F4", "C3 F3 A3 C4 F4", "Bb2 F3 G3 D4 F4", "A2 E3 G3 C#4 E4",
)
_WALTZ = (  # E minor: bass, the chord of beats two and three, melody
    ("E2", "B3+E4+G4", "B4:1.5 C5:.5 B4:.5 A4:.5"), ("B2", "B3+E4+G4", "G4:2 B4:1"),
    ("A2", "A3+C4+E4", "C5:1.5 D5:.5 C5:.5 B4:.5"), ("B2", "A3+B3+D#4", "A4:2 F#4:1"),
    ("E2", "B3+E4+G4", "B4:1.5 C5:.5 B4:.5 E5:.5"), ("C3", "G3+C4+E4", "G5:2 E5:1"),
    ("A2", "A3+C4+E4", "E5:1 C5:1 A4:1"), ("B2", "A3+B3+D#4", "B4:2 D#5:1"),
    ("G2", "B3+D4+G4", "D5:1.5 E5:.5 D5:.5 B4:.5"), ("D3", "A3+C4+F#4", "C5:2 A4:1"),
    ("C3", "A3+C4+E4", "C5:.5 B4:.5 A4:1 E5:1"), ("B2", "A3+B3+D#4", "D#5:1.5 C5:.5 B4:1"),
)
_CHORALE = (  # G major: soprano, alto, tenor, bass
    "B4:1 A4:1 G4:1 G4:1 A4:1 A4:1 G4:2 B4:1 C5:1 D5:1 C5:1 B4:1 A4:1 G4:2 C5:1 C5:1 B4:1 B4:1 A4:1 A4:3",
    "G4:1 F#4:1 E4:1 E4:1 E4:1 F#4:1 D4:2 G4:2 G4:1 A4:1 F#4:2 E4:2 A4:2 G4:2 E4:1 F#4:3",
    "D4:2 B3:1 C4:2 C4:1 B3:2 D4:1 E4:1 D4:1 E4:1 D#4:2 B3:2 E4:1 D4:2 E4:1 C4:1 D4:3",
    "G3:1 D3:1 E3:1 C3:1 A2:1 D3:1 G2:2 G3:1 C3:1 B2:1 A2:1 B2:2 E3:2 A2:1 F#2:1 G2:1 E3:1 A2:1 D3:3",
)
# fmt: on


class Example(NamedTuple):
    """A seed, as the page lists it."""

    title: str
    about: str
    notes: Callable[[], Notes]


def prelude() -> Notes:
    """Play eight bars of semiquavers over a slow bass, twenty seconds."""
    return _played(_prelude(), pace=0.64)


def waltz() -> Notes:
    """Play twelve bars in E minor, seventeen seconds."""
    return _played(_waltz(), pace=0.47)


def chorale() -> Notes:
    """Play six bars for four voices in G major, twenty seconds."""
    return _played(_chorale(), pace=0.85)


EXAMPLES = {
    "nocturne": Example("Nocturne", "A flat major, melody over broken chords", nocturne),
    "prelude": Example("Prelude", "D minor, flowing semiquavers", prelude),
    "waltz": Example("Waltz", "E minor, in three", waltz),
    "chorale": Example("Chorale", "G major, four voices", chorale),
}


def _prelude() -> Iterator[ScoreNote]:
    """Write the prelude: broken chords over bass notes of a bar each."""
    for bar, chord in enumerate(_PRELUDE):
        pitches = [read_pitch(name) for name in chord.split()]
        yield ScoreNote(4 * bar, 4, pitches[0], 58)
        for k, which in enumerate(_FLOW):
            if which:  # the bass sounds already
                swell = 6 * np.sin(np.pi * (bar + k / len(_FLOW)) / len(_PRELUDE))
                yield ScoreNote(4 * bar + k / 4, 0.5, pitches[which], 46 + 4 * which + swell)


def _waltz() -> Iterator[ScoreNote]:
    """Write the waltz: bass, chords on beats two and three, melody."""
    for bar, (bass, chord, melody) in enumerate(_WALTZ):
        yield ScoreNote(3 * bar, 2.6, read_pitch(bass), 56)
        for beat in (1, 2):
            yield from (ScoreNote(3 * bar + beat, 0.6, read_pitch(name), 42 - 2 * beat) for name in chord.split("+"))
        yield from _line(melody, 3 * bar, velocity=74)


def _chorale() -> Iterator[ScoreNote]:
    """Write the chorale: four voices, the outer ones louder."""
    for voice, velocity in zip(_CHORALE, (70, 56, 56, 62), strict=True):
        yield from _line(voice, 0, velocity)


def _line(text: str, beat: float, velocity: float) -> Iterator[ScoreNote]:
    """Write one voice, legato; it gets louder as it rises."""
    for word in text.split():
        name, length = word.split(":")
        pitch = read_pitch(name)
        yield ScoreNote(beat, 0.97 * float(length), pitch, velocity + 0.5 * (pitch - 67))
        beat += float(length)


def _played(score: Iterator[ScoreNote], pace: float) -> Notes:
    """Turn beats into seconds, `pace` each; slower towards the end, and uneven like a hand."""
    beat, beats, pitch, velocity, _ = np.array(sorted(score)).T
    uneven = unevenness(len(beat))
    length = (beat + beats).max()

    def seconds(beat: np.ndarray) -> np.ndarray:
        late = np.maximum(beat / length - 0.8, 0)  # the last fifth broadens
        return _BEGIN + pace * (beat + 0.5 * length * late**2)

    start = seconds(beat) + 0.014 * (uneven + 0.5)
    return nt.sort(nt.from_columns(start, seconds(beat + beats), pitch, np.rint(velocity + 6 * np.roll(uneven, 5))))
