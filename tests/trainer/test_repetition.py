"""The repetition pointer: it equals a plain search, in any cut, and the pitch's head uses it."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from music.encodings.columns import FIRST, PAD
from music.generation import CHUNK
from tests.conftest import stepwise, waltz
from trainer import model, recipe
from trainer.export import signatures
from trainer.model import repetition
from trainer.recipe import LSTM, Chain, RecipeError, override

NOTES = 32


@pytest.fixture(scope="module")
def fresh_model(tiny_recipe):
    """Build a model with new weights: (model, card)."""
    keras.utils.set_random_seed(7)
    spec = replace(tiny_recipe, core=LSTM(8, 1, 0.0), heads=Chain(hidden=8, slots=2, recall=NOTES))
    card = json.loads(json.dumps({"schema": 1, **recipe.to_card(spec)}))
    fresh = model.build(card)
    return fresh, card | {"state": fresh.state_spec}


@pytest.fixture(scope="module")
def rows(tiny_recipe) -> np.ndarray:
    """Encode a waltz, and eleven notes that repeat except for every 25th: int32 [2, 64, 4]."""
    rows = np.stack([tiny_recipe.encoding.encode(waltz(1, bars=9), begin=True, end=False)[:64]] * 2)
    rows[1, 1:, 1] = FIRST + np.resize(np.random.default_rng(0).integers(3, size=11), 63)
    rows[1, 25::25, 1] = FIRST + 7
    return rows


def search(pitches: list[int]) -> tuple[int, int]:
    """Search the longest run that equals the end of these, the latest of such: the pitch behind it, and its length."""
    best = (0, 0, 0)
    for end in range(max(len(pitches) - 1 - (NOTES - repetition.LONGEST), 0), len(pitches) - 1):
        run = 0
        while run < repetition.LONGEST and run <= end and pitches[end - run] == pitches[-1 - run] != PAD:
            run += 1
        best = max(best, (run, end, pitches[end + 1]))
    return (best[2], best[0]) if best[0] >= repetition.SHORTEST else (0, 0)


def test_it_is_found_as_by_a_plain_search(fresh_model, rows):
    fresh, _ = fresh_model
    repeated, after = repetition.follow(fresh.tables, rows, np.zeros((2, NOTES), "f4"))
    longest_runs = 0
    for lane, piece in enumerate(rows):
        pitches = [int(row[1]) if row[0] >= FIRST else PAD for row in piece]
        for t in range(64):
            expected = search(pitches[: t + 1])
            assert (int(repeated["next"][lane, t]), int(repeated["run"][lane, t])) == expected
            longest_runs += expected[1] == repetition.LONGEST
        np.testing.assert_array_equal(np.asarray(after["past"])[lane], pitches[-NOTES:])
    assert longest_runs > 3


def test_windows_are_step_by_step(fresh_model, rows):
    """The rows are more than the state holds, so some are forgotten on the way."""
    np.testing.assert_allclose(stepwise(fresh_model[0], rows), np.asarray(fresh_model[0](rows)), atol=1e-5)


@pytest.mark.parametrize("cut", [0, 1, 37])
def test_priming_at_once_is_priming_in_two(fresh_model, rows, cut):
    fresh, _ = fresh_model
    at_once = fresh.prime(rows, np.array([64, 64], "i4"), fresh.initial_state(2))
    parts = np.full((2, 2, 64, 4), 5, "i4")  # what stands beyond the length must not matter
    parts[0, :, :cut], parts[1, :, : 64 - cut] = rows[:, :cut], rows[:, cut:]
    half = fresh.prime(parts[0], np.array([cut] * 2, "i4"), fresh.initial_state(2))
    both = fresh.prime(parts[1], np.array([64 - cut] * 2, "i4"), half)
    assert set(both) == set(fresh.state_spec) and "past" in both
    for name, value in at_once.items():
        np.testing.assert_allclose(np.asarray(both[name]), np.asarray(value), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("cut", [12, 40])
def test_the_probabilities_of_all_pitches_sum_to_one(fresh_model, rows, cut):
    fresh, _ = fresh_model
    state = fresh.prime(rows[1:, :], np.array([cut], "i4"), fresh.initial_state(1))
    candidates = np.repeat(rows[1:, cut : cut + 1], 88, axis=0)
    candidates[:, 0, 1] = np.arange(FIRST, FIRST + 88)
    wide = {name: np.repeat(np.asarray(value), len(candidates), axis=0) for name, value in state.items()}
    p = np.exp(-np.asarray(fresh.likelihood(candidates, wide)[0], "f8")[:, 0, 1])
    assert p.sum() == pytest.approx(1.0, abs=1e-4)
    followed = repetition.follow(fresh.tables, rows[1:, :cut], np.zeros((1, NOTES), "f4"))[0]["next"][0, -1]
    assert p[int(followed) - FIRST] > 0.2  # untrained, its weight is about a half


def test_steps_are_generate(fresh_model, rows):
    fresh, card = fresh_model
    live = signatures.Live(fresh, card)
    state = fresh.prime(rows, np.array([40, 40], "i4"), fresh.initial_state(2))
    state = {signatures.STATE + name: np.asarray(value) for name, value in state.items()}
    how = {name: np.full(2, value, "f4") for name, value in (("temperature", 1), ("top_p", 0.95), ("min_p", 0.01))}
    noise = np.random.default_rng(0).random((2, CHUNK, 4), "f4")
    at_once = live.call("generate", {"noise": noise, "count": np.full(2, 6, "i4"), **how, **state}).outputs
    for number in range(6):
        reply = live.call("step", {"noise": noise[:, number], **how, **state}).outputs
        np.testing.assert_array_equal(reply["row"], at_once["rows"][:, number])
        state = {name: reply[name] for name in state}


def test_too_short_a_memory_is_refused(tiny_recipe):
    with pytest.raises(RecipeError, match="recall"):
        override(tiny_recipe, "heads.recall=8")
