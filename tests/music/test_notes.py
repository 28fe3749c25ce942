"""Notes as numpy arrays, and the nocturne, a seed of ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import midi
from music import notes as nt
from music.examples import nocturne
from music.examples.writing import read_pitch
from tests.support.strategies import law, notes

TRIAD = nt.from_tuples([(0.0, 1.0, 60), (0.5, 2.0, 64, 90), (1.5, 1.75, 67, 70, 40)])


def test_tuples_have_defaults():
    assert TRIAD.tolist() == [(0, 1, 60, 80, 0), (0.5, 2, 64, 90, 0), (1.5, 1.75, 67, 70, 40)]
    assert TRIAD.dtype == nt.NOTE


def test_notes_are_sorted_by_start_and_then_pitch_and_equal_ones_keep_their_order():
    played = nt.from_tuples([(1, 2, 60), (0, 1, 72, 1), (0, 1, 48), (0, 3, 72, 2)])
    assert played[["pitch", "velocity"]].tolist() == [(48, 80), (72, 1), (72, 2), (60, 80)]


def test_no_music_is_music_too():
    nothing = nt.empty()
    assert nothing.dtype == nt.NOTE and len(nothing) == 0
    assert nt.length(nothing) == 0 and len(nt.steps(nothing)) == 0
    for same in (
        nt.sort(nothing),
        nt.transpose(nothing, 2),
        nt.stretch(nothing, 2),
        nt.excerpt(nothing),
        nt.from_tuples([]),
    ):
        assert same.dtype == nt.NOTE and len(same) == 0


def test_columns_of_one_length_only():
    assert nt.from_columns([0, 1], [1, 2], [60, 62], 80).tolist() == [(0, 1, 60, 80, 0), (1, 2, 62, 80, 0)]
    with pytest.raises(ValueError, match="broadcast"):
        nt.from_columns([0, 1], [1, 2, 3], [60, 62], 80)


def test_transposing_leaves_drums_alone():
    band = nt.from_tuples([(0, 1, 36, 80, nt.DRUMS), (0, 1, 60)])
    assert nt.transpose(band, 5)["pitch"].tolist() == [36, 65]
    assert nt.transpose(band, -12)["pitch"].tolist() == [36, 48]


def test_stretching_and_shifting_move_starts_and_ends():
    assert nt.stretch(TRIAD, 2)[["start", "end"]].tolist() == [(0, 2), (1, 4), (3, 3.5)]
    assert nt.shift(TRIAD, 10)[["start", "end"]].tolist() == [(10, 11), (10.5, 12), (11.5, 11.75)]


def test_an_excerpt_is_what_begins_in_it_cut_at_its_end_on_its_own_clock():
    part = nt.excerpt(TRIAD, 0.5, 1.0)
    assert part[["start", "end", "pitch"]].tolist() == [(0, 1, 64)]
    assert nt.excerpt(TRIAD, 0.25)[["start", "end", "pitch"]].tolist() == [(0.25, 1.75, 64), (1.25, 1.5, 67)]


def test_a_part_is_what_begins_in_it_cut_at_its_end_on_the_same_clock():
    assert nt.between(TRIAD, 0.5, 1.5)[["start", "end", "pitch"]].tolist() == [(0.5, 1.5, 64)]
    at_the_end = nt.from_tuples([(0.3, 1.0, 60), (0.9, 1.5, 62)])  # 0.3 + (0.9 - 0.3) is more than 0.9
    assert nt.between(at_the_end, 0.3, 0.9)[["start", "end"]].tolist() == [(0.3, 0.9)]


def test_steps_are_the_times_between_onsets():
    assert nt.steps(nt.shift(TRIAD, 3)).tolist() == [0, 0.5, 1.0]


def test_length_is_until_the_last_note_ends():
    assert nt.length(TRIAD) == 2.0


@pytest.mark.parametrize(("pitch", "name"), [(60, "C4"), (61, "C#4"), (21, "A0"), (108, "C8"), (0, "C-1"), (127, "G9")])
def test_pitches_have_names(pitch, name):
    assert nt.name(pitch) == name


@law
@given(notes(lowest=30, highest=90), st.integers(-20, 20), st.floats(0.25, 4))
def test_functions_undo_themselves_and_leave_their_argument_alone(music, semitones, factor):
    before = music.copy()
    assert nt.transpose(nt.transpose(music, semitones), -semitones).tolist() == music.tolist()
    assert nt.stretch(nt.stretch(music, factor), 1 / factor)["end"] == pytest.approx(music["end"])
    assert nt.shift(nt.shift(music, factor), -factor)["start"] == pytest.approx(music["start"])
    nt.excerpt(music, factor, 1.0)
    nt.between(music, factor, factor + 1.0)
    nt.sort(music)
    assert music.tolist() == before.tolist()


# --- the nocturne ------------------------------------------------------------------------------------------------

NOCTURNE = nocturne.nocturne()


def test_the_nocturne_is_the_same_every_time():
    assert nocturne.nocturne().tolist() == NOCTURNE.tolist()


def test_every_bar_of_the_nocturne_is_full():
    for bar in nocturne.NOCTURNE:
        assert [len(figure.split()) for figure in bar.left] == [6, 6]
        assert sum(float(chord.split(":")[1]) for chord in bar.right.split()) == 4


def test_the_nocturne_is_half_a_minute_for_two_hands():
    assert 25 <= nt.length(NOCTURNE) <= 40 and len(NOCTURNE) >= 120
    assert NOCTURNE["start"][0] >= 0
    assert NOCTURNE["pitch"].min() < 40 and NOCTURNE["pitch"].max() > 80
    assert len(set(NOCTURNE["pitch"].tolist())) > 25


def test_the_nocturne_is_played_as_people_play():
    """Loud and soft, chords not quite together, a pedal that lets notes end together, and no stuck one."""
    assert NOCTURNE["velocity"].min() >= 35 and NOCTURNE["velocity"].max() <= 95
    assert NOCTURNE["velocity"].std() > 8
    together = nt.steps(NOCTURNE)[1:]
    assert (together > 0).all() and 0.1 < (together < 0.03).mean() < 0.5
    _, endings = np.unique(NOCTURNE["end"].round(3), return_counts=True)
    assert (endings >= 3).sum() >= 12
    durations = NOCTURNE["end"] - NOCTURNE["start"]
    assert durations.min() > 0.1 and durations.max() < 5


def test_no_key_of_the_nocturne_is_struck_while_it_is_held():
    for pitch in set(NOCTURNE["pitch"].tolist()):
        same = NOCTURNE[NOCTURNE["pitch"] == pitch]
        assert (same["start"][1:] >= same["end"][:-1]).all()


def test_the_nocturne_is_written_and_read_within_a_tick():
    read = midi.read(midi.write(NOCTURNE))
    by_key, read_by_key = np.sort(NOCTURNE, order=["pitch", "start"]), np.sort(read, order=["pitch", "start"])
    assert read_by_key[["pitch", "velocity"]].tolist() == by_key[["pitch", "velocity"]].tolist()
    assert np.abs(read_by_key["start"] - by_key["start"]).max() <= 0.0005 + 1e-9
    assert np.abs(read_by_key["end"] - by_key["end"]).max() <= 0.0005 + 1e-9


@pytest.mark.parametrize(("name", "pitch"), [("C4", 60), ("Fb3", 52), ("Ab2", 44), ("Bb5", 82)])
def test_pitches_are_written_with_letters(name, pitch):
    assert read_pitch(name) == pitch
