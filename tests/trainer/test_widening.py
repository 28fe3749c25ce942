"""A wider model made of a trained one computes the same, and its copied units do not stay copies."""

import numpy as np

from tests.conftest import waltz
from trainer import run_folder
from trainer.fit import warm_start, widening
from trainer.model import event_model


def wider(card: dict, units: int, hidden: int) -> dict:
    return card | {"core": card["core"] | {"units": units}, "heads": card["heads"] | {"hidden": hidden}}


def test_a_wider_model_computes_the_same(tiny_model):
    model, card = tiny_model
    random = np.random.default_rng(0)  # so that biases and scales are not zeros and ones
    weights = {name: array + random.normal(0, 0.05, array.shape) for name, array in run_folder.weights(model).items()}
    start = warm_start.Start("there", {name: array.astype("f4") for name, array in weights.items()}, card)
    rows = model.encoding.encode(waltz(3), begin=True, end=True)[None]
    before = np.asarray(start.model()(rows))
    for units, hidden in ((32, 16), (48, 16), (16, 32), (32, 32)):
        large = event_model.build(wider(card, units, hidden))
        assert start.put(large) == []
        np.testing.assert_allclose(np.asarray(large(rows)), before, atol=2e-4)


def test_copies_of_a_unit_are_read_with_different_weights():
    kernel = np.ones((2, 3), "f4")
    name = "heads/pitch_hear/kernel"
    wide = widening.widen({name: kernel}, {name: (4, 3)}, seed=1)[name]
    np.testing.assert_allclose(wide[:2] + wide[2:], kernel, rtol=1e-6)
    assert len(np.unique(wide)) == wide.size and wide.min() >= 0.3 and wide.max() <= 0.7


def test_the_gates_of_a_cell_stay_apart():
    bias = np.arange(8, dtype="f4")  # four gates of two units
    wide = widening.widen({"core/lstm0/lstm_cell/bias": bias}, {"core/lstm0/lstm_cell/bias": (16,)}, seed=1)
    assert wide["core/lstm0/lstm_cell/bias"].tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7]


def test_what_is_no_multiple_stays_as_it_is():
    array = np.ones((2, 3), "f4")
    assert widening.widen({"a": array}, {"a": (3, 3)}, seed=1)["a"] is array
