"""Distances between real music and other music, on music whose distances are known."""

import numpy as np
import pytest

from music import notes as nt
from music.analysis import similarity
from tests.conftest import waltz


def drone(pitch: int, count: int = 200, step: float = 0.5) -> nt.Notes:
    """Make a piece of one key, struck again and again."""
    return nt.from_tuples([(k * step, k * step + 0.4, pitch, 64) for k in range(count)])


@pytest.fixture(scope="module")
def reference() -> similarity.Reference:
    return similarity.Reference([waltz(seed, bars=60) for seed in range(12)])


def test_music_is_like_other_music_of_its_kind_and_noise_is_not(reference):
    rng = np.random.default_rng(0)
    noise = [drone(60) for _ in range(6)]
    for notes in noise:
        notes["pitch"], notes["velocity"] = rng.integers(21, 109, len(notes)), rng.integers(1, 128, len(notes))
    same = reference.compare([waltz(seed, bars=60) for seed in range(12, 18)])
    other = reference.compare(noise)
    for name in similarity.QUANTITIES:
        assert other[f"together overlap {name}"] < same[f"together overlap {name}"] <= 1, name
        assert other[f"apart overlap {name}"] < same[f"apart overlap {name}"] <= 1, name
        assert other[f"together kl {name}"] > same[f"together kl {name}"] >= 0, name
    assert same["together overlap mean"] > 0.9
    assert other["outside notes a second"] == other["outside distinct pitches"] == 1


def test_what_is_always_the_same_is_right_together_and_wrong_apart():
    """Real pieces stay on one key each, others play all of these keys each: on average there is no difference."""
    rng = np.random.default_rng(1)
    keys = (50, 60, 70, 80)
    real = similarity.Reference([drone(key) for key in keys * 3])
    mixed = [drone(60) for _ in range(8)]
    for notes in mixed:
        notes["pitch"] = rng.permutation(np.repeat(keys, 50))
    figures = real.compare(mixed)
    assert figures["together overlap pitch"] == pytest.approx(1)
    assert figures["apart overlap pitch"] < 0.5


def test_overlap_divergence_and_distance_by_hand():
    p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.5, 0.5]])
    assert similarity.overlap(p, q) == 0.5
    assert similarity.divergence(p, p) == 0 and similarity.divergence(p, q) > 1
    assert similarity.distances(np.array([p]), np.array([p, q])).tolist() == [[0, 1]]  # half of it by two bins
    nothing = np.full_like(p, np.nan)
    assert np.isnan(similarity.distances(np.array([p]), np.array([nothing]))).all()


def test_structure_is_measured_at_every_lag_that_fits():
    """A theme of twenty seconds that returns, in two keys that share nothing: alike at even lags, else not."""
    notes = drone(60, count=100, step=1.0)
    notes["pitch"] += np.where(np.arange(100) // 10 % 2, 6, 0).astype("i2")
    cosines = similarity.features(notes)["structure"] @ np.arange(20)  # the mean bin at lags 10, 20 … 60
    assert (cosines[[1, 3, 5]] == 19).all() and (cosines[[0, 2, 4]] < 6).all()
    short = similarity.features(notes[:40])["structure"]
    np.testing.assert_array_equal(np.isnan(short).any(1), [False, False, False, True, True, True])


def test_polyphony_counts_what_sounds_between_the_first_onset_and_the_last():
    notes = nt.from_tuples([(0, 4, 60), (1, 3, 64), (2, 9, 67), (4, 5, 72)])
    assert similarity.features(notes)["polyphony"][0][:5].tolist() == [0, 0.25, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("pitches", "length"),
    [
        ([60, 62, 64, 65], 0),
        ([60, 60, 62], 2),
        ([50, 60, 62, 64, 60, 62, 64, 60, 62, 70], 8),
        ([60, 62, 64, 60, 62, 70], 0),  # it does not come back whole
        ([60] * 9, 9),
    ],
)
def test_a_loop_is_what_repeats_at_once(pitches, length):
    notes = nt.from_tuples([(k, k + 1, pitch) for k, pitch in enumerate(pitches)])
    assert similarity.loop(notes) == length
