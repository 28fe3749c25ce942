"""MIDI pitches → key signature and note names. Knows nothing of beats, staves or paper.

The signature is that of the key whose profile fits the durations of the twelve pitch classes best (Krumhansl's method,
with the profiles of Albrecht and Shanahan, Music Perception 31, 2013).
The names are those of ps13 (Meredith, Journal of New Music Research 35, 2006). The ten notes before a note and the
forty-two from it on vote for its letter: each for the letter that the note would have if the voter were the tonic.
Then the piece is moved along the line of fifths to the names that the signature expects.
"""

import numpy as np

STEPS = "CDEFGAB"
_SEMITONES = np.array([0, 2, 4, 5, 7, 9, 11])
_FIFTHS = np.array([0, 2, 4, -1, 1, 3, 5])  # each step's position on the line of fifths, from C
_MAJOR = np.array([0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081])
_MINOR = np.array([0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052])
_BEFORE, _BEHIND = 10, 42  # notes that vote, as Meredith found best
_LETTER = np.array([0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6])  # steps above the tonic of each semitone, in either mode


def key(pitches: np.ndarray, weights: np.ndarray) -> tuple[int, bool]:
    """Estimate the key of notes in the order of their onsets.

    Args:
        pitches: MIDI, int [n].
        weights: how much each counts, such as its duration.

    Returns:
        Sharps (minus: flats) of the signature, -6 to 5, and whether it is a minor key.
    """
    totals = np.bincount(np.asarray(pitches) % 12, weights, 12)
    fits = []
    for tonic in range(12):
        for minor, profile in ((False, _MAJOR), (True, _MINOR)):
            turned = np.roll(profile, tonic)
            fits.append((float(_correlation(totals, turned)), tonic, minor))
    _, tonic, minor = max(fits)
    fifths = (7 * (tonic + (3 if minor else 0)) + 6) % 12 - 6
    return fifths, minor


def spell(pitches: np.ndarray, fifths: int) -> tuple[np.ndarray, np.ndarray]:
    """Name notes in the order of their onsets.

    Args:
        pitches: MIDI, int [n].
        fifths: the signature, sharps or minus flats.

    Returns:
        Steps, 0 for C to 6 for B, and alterations in semitones, both int64 [n]. The octave follows: see `octave`.
    """
    pitches = np.asarray(pitches).astype("i8")
    if not len(pitches):
        return pitches, pitches
    classes = pitches % 12
    present = np.eye(12, dtype="i8")[classes]
    running = np.vstack([np.zeros((1, 12), "i8"), np.cumsum(present, 0)])
    index = np.arange(len(classes))
    votes = running[np.minimum(index + _BEHIND, len(index))] - running[np.maximum(index - _BEFORE, 0)]  # [n, tonics]
    tonics = np.arange(12)
    tonic_letters = -_LETTER[(classes[0] - tonics) % 12]  # with the first note's letter as 0
    letters = (tonic_letters + _LETTER[(classes[:, None] - tonics) % 12]) % 7  # [n, tonics]
    count = np.zeros((len(index), 7), "i8")
    for tonic in range(12):
        np.add.at(count, (index, letters[:, tonic]), votes[:, tonic])
    relative = count.argmax(1)
    return _anchored(pitches, relative, fifths)


def octave(pitches: np.ndarray, alters: np.ndarray) -> np.ndarray:
    """Compute the octave in which each note is written: B sharp 3 sounds as C4."""
    return (np.asarray(pitches) - alters) // 12 - 1


def altered(step: str, fifths: int) -> int:
    """Give the signature's alteration of a step: 1 for F with one sharp, -1 for B with one flat."""
    return int((fifths - _FIFTHS[STEPS.index(step)] + 5) // 7)


def _anchored(pitches: np.ndarray, relative: np.ndarray, fifths: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the letter of the first note such that the names are nearest to the signature on the line of fifths."""
    candidates = []
    for shift in range(7):
        steps = (relative + shift) % 7
        alters = (pitches - _SEMITONES[steps] + 6) % 12 - 6
        line = _FIFTHS[steps] + 7 * alters
        candidates.append((float(np.mean(np.abs(line - (fifths + 2)))), shift, steps, alters))
    _, _, steps, alters = min(candidates, key=lambda row: row[:2])
    for k in np.flatnonzero(np.abs(alters) > 2):  # nobody reads three flats
        choices = (pitches[k] - _SEMITONES + 6) % 12 - 6  # the alteration on each step
        steps[k] = np.abs(_FIFTHS + 7 * choices - (fifths + 2)).argmin()
        alters[k] = choices[steps[k]]
    return steps, alters


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
