"""`choose`: the laws of drawing by an inverted CDF."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops

from trainer.model.sampling import choose

LOGITS = st.lists(st.floats(-6, 6, width=32), min_size=2, max_size=12)


def draw(logits, u, temperature=1.0, top_p=1.0, min_p=0.0) -> np.ndarray:
    u = np.atleast_1d(np.asarray(u, "f4"))
    rows = np.repeat(np.array([logits], "f4"), len(u), axis=0)
    how = [np.full(len(u), value, "f4") for value in (temperature, top_p, min_p)]
    return ops.convert_to_numpy(choose(rows, u, *how))


def softmax(logits, temperature=1.0) -> np.ndarray:
    p = np.exp((np.array(logits) - np.max(logits)) / temperature)
    return p / p.sum()


@settings(deadline=None, max_examples=40)
@given(LOGITS, st.floats(0.25, 2), st.floats(0.05, 1), st.floats(0, 0.9))
def test_the_drawn_class_never_falls_as_u_grows(logits, temperature, top_p, min_p):
    drawn = draw(logits, np.linspace(0, 0.9999, 50), temperature, top_p, min_p)
    assert (np.diff(drawn) >= 0).all()


@settings(deadline=None, max_examples=40)
@given(LOGITS, st.integers(0, 1008), st.floats(0.05, 0.99))
@example([0.0] * 5 + [0.5792111754417419], 0, 0.5)
def test_the_top_p_of_another_row_changes_nothing(logits, part, top_p):
    """Without top_p nothing is sorted, unless another row has one. No `u` here is a share of 2 to 12 equal classes."""
    u = (part + 0.5) / 1009
    rows, noise, ones = np.array([logits] * 2, "f4"), np.full(2, u, "f4"), np.ones(2, "f4")
    beside = ops.convert_to_numpy(choose(rows, noise, ones, np.array([1, top_p], "f4"), 0 * ones))
    assert beside[0] == draw(logits, u)
    assert beside[1] == draw(logits, u, top_p=top_p)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_match_softmax(temperature):
    logits = [0.0, 1.0, -1.0, 2.0, 0.5]
    drawn = draw(logits, (np.arange(20_000) + 0.5) / 20_000, temperature)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, softmax(logits, temperature), atol=2e-4)


@settings(deadline=None, max_examples=40)
@given(LOGITS, st.floats(0, 0.999))
def test_temperature_zero_is_the_likeliest_and_of_equal_ones_the_lowest_id(logits, u):
    logits = np.array(logits, "f4") + 0.0  # Keras takes -0.0 for less than 0.0
    assert draw(logits, u, temperature=0.0) == np.argmax(logits)


def test_top_p_keeps_the_fewest_classes_that_reach_it():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    u = np.linspace(0, 0.999, 500)
    assert set(draw(logits, u, top_p=0.4)) == {0}
    assert set(draw(logits, u, top_p=0.7)) == {0, 1}
    assert set(draw(logits, u, top_p=0.9)) == {0, 1, 2}
    drawn = draw(logits, (np.arange(8000) + 0.5) / 8000, top_p=0.7)
    np.testing.assert_allclose(np.bincount(drawn) / 8000, [0.625, 0.375], atol=1e-3)


def test_classes_as_probable_as_the_last_one_kept_are_kept():
    logits = np.log([0.4, 0.2, 0.2, 0.2])
    assert set(draw(logits, np.linspace(0, 0.999, 500), top_p=0.5)) == {0, 1, 2, 3}


def test_min_p_is_a_share_of_the_likeliest():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    u = np.linspace(0, 0.999, 500)
    assert set(draw(logits, u, min_p=0.2)) == {0, 1, 2}
    assert set(draw(logits, u, min_p=0.5)) == {0, 1}


def test_min_p_comes_before_top_p():
    logits = np.log([0.4, 0.3, 0.2, 0.1])  # min_p leaves 0.4 0.3 0.2; 0.75 of their 0.9 is reached by two
    assert set(draw(logits, np.linspace(0, 0.999, 500), min_p=0.3, top_p=0.75)) == {0, 1}


def test_what_cannot_be_is_never_drawn():
    assert set(draw([-1e9, 0.0, -1e9, 0.0], np.linspace(0, 0.99999, 1000), temperature=2.0)) == {1, 3}
