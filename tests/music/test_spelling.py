"""Keys and names of pitches."""

import numpy as np
import pytest

from music.notation import spelling

_SIGNS = {-2: "bb", -1: "b", 0: "", 1: "#", 2: "##"}
_LETTERS = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))


def pitches(text):
    """Read names of a letter, its accidentals and an octave; C4 is 60."""
    names = text.split()
    return np.array([_LETTERS[n[0]] + n.count("#") - n.count("b") + 12 * (int(n[-1]) + 1) for n in names])


def named(midi, fifths):
    steps, alters = spelling.spell(midi, fifths)
    octaves = spelling.octave(midi, alters)
    return " ".join(
        spelling.STEPS[s] + _SIGNS[a] + str(o) for s, a, o in zip(steps.tolist(), alters.tolist(), octaves, strict=True)
    )


@pytest.mark.parametrize(
    ("music", "fifths", "minor"),
    [
        ("C4 E4 G4 C5 G4 E4 D4 F4 B4 D5 C5 G4 E4 C4", 0, False),
        ("A3 C4 E4 A4 G#4 B4 E4 D4 C4 B3 A3 E4 A4", 0, True),
        ("Ab3 C4 Eb4 Ab4 Bb4 Db5 G4 Bb4 Ab4 Eb4 C4 Ab3", -4, False),
        ("C#4 E4 G#4 C#5 B#4 D#5 A4 F#4 G#4 E4 C#4", 4, True),
        ("Bb3 Db4 F4 Bb4 A4 C5 Eb5 F4 Gb4 F4 Db4 Bb3", -5, True),
    ],
)
def test_keys_and_names(music, fifths, minor):
    midi = pitches(music)
    assert spelling.key(midi, np.ones(len(midi))) == (fifths, minor)
    assert named(midi, fifths) == music


def test_the_leading_tone_of_a_minor_key_is_raised():
    assert "C#5" in named(pitches("D4 F4 A4 D5 C#5 E5 A4 G4 F4 E4 D4"), -1).split()


def test_a_chromatic_neighbour_does_not_change_the_rest():
    music = "C4 E4 G4 F#4 G4 E4 C4 D4 F4 B4 C5"
    assert named(pitches(music), 0) == music


def test_the_enharmonic_choice_follows_the_signature():
    scale = pitches("Gb4 Ab4 Bb4 Cb5 Db5 Eb5 F5 Gb5")
    assert named(scale, -6) == "Gb4 Ab4 Bb4 Cb5 Db5 Eb5 F5 Gb5"
    assert named(scale, 6) == "F#4 G#4 A#4 B4 C#5 D#5 E#5 F#5"


def test_the_octave_is_that_of_the_letter():
    assert named(pitches("C#4 D#4 E4 F#4 G#4 A4 B#3 C#4"), 4).split()[-2] == "B#3"


@pytest.mark.parametrize("seed", range(5))
def test_any_notes_have_names_of_two_accidentals_at_most(seed):
    midi = np.random.default_rng(seed).integers(0, 128, 300)
    steps, alters = spelling.spell(midi, seed - 3)
    assert np.abs(alters).max() <= 2
    octaves = spelling.octave(midi, alters)
    natural = np.array([0, 2, 4, 5, 7, 9, 11])[steps]
    assert np.array_equal(12 * (octaves + 1) + natural + alters, midi)
    assert len(spelling.spell(midi[:0], 0)[0]) == 0


@pytest.mark.parametrize(("fifths", "altered"), [(0, ""), (1, "F"), (-2, "BE"), (-6, "BEADGC"), (7, "FCGDAEB")])
def test_signatures(fifths, altered):
    sign = 1 if fifths > 0 else -1
    assert {s for s in spelling.STEPS if spelling.altered(s, fifths) == sign} == set(altered)
    assert {s for s in spelling.STEPS if spelling.altered(s, fifths) == 0} == set(spelling.STEPS) - set(altered)
