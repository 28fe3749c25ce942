"""The optimisers: what Muon does to a matrix, what it leaves to AdamW, and that a run with it learns and goes on."""

import io
from dataclasses import replace

import keras
import numpy as np
import pytest

from music.pieces import Dataset
from tests.trainer.test_devices import small
from trainer import recipe
from trainer.fit import loop, optimizers
from trainer.recipe import RecipeError, Training


def training(**values) -> Training:
    return Training(**{"optimizer": "muon", "rate": 0.01, "warmup": 0, "floor": 1.0, "decay": 0.0} | values)


def step(optimizer, variables, gradients):
    """Apply one step, and return what it subtracted from each variable."""
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    if keras.backend.backend() == "tensorflow":
        optimizer.apply_gradients([*zip(map(keras.ops.convert_to_tensor, gradients), variables, strict=True)])
    else:
        optimizer.apply(gradients, variables)
    return [b - keras.ops.convert_to_numpy(variable) for b, variable in zip(before, variables, strict=True)]


@pytest.mark.parametrize("shape", [(12, 48), (48, 12), (16, 16)])
def test_a_matrix_moves_as_far_in_all_directions(shape):
    rng = np.random.default_rng(3)
    (u, _, v) = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    gradient = (u * np.geomspace(1, 0.05, len(v))) @ v  # one direction is twenty times as steep as another
    variable = keras.Variable(np.zeros(shape, "f4"), name="kernel")
    (moved,) = step(optimizers.build(training(clip=1e9), 1), [variable], [gradient.astype("f4")])
    sizes = np.linalg.svd(moved, compute_uv=False) / (0.01 * 0.2 * max(shape) ** 0.5)
    assert sizes.min() > 0.6 and sizes.max() < 1.3, sizes
    assert np.sum(moved * (u @ v)) > 0.95 * np.linalg.norm(moved) * np.linalg.norm(u @ v)


def test_scores_and_biases_and_embeddings_are_left_to_adamw():
    rng = np.random.default_rng(3)
    layers = keras.layers.Embedding(6, 5, name="embedding"), keras.layers.Dense(7, name="hidden")
    model = keras.Sequential([*layers, keras.layers.Dense(4, name="pitch_score")])
    model.build((None, 3))
    variables = model.trainable_variables
    gradients = [rng.choice([-1.0, 1.0], variable.shape).astype("f4") for variable in variables]
    moved = step(optimizers.build(training(clip=1e9), 1), variables, gradients)
    by_adam = {
        variable.path.split("/", 1)[-1]: np.allclose(np.abs(m), 0.005, rtol=1e-3)  # as Adam's first step is everywhere
        for variable, m in zip(variables, moved, strict=True)
    }
    assert by_adam == {
        "embedding/embeddings": True, "hidden/kernel": False, "hidden/bias": True,
        "pitch_score/kernel": True, "pitch_score/bias": True,
    }  # fmt: skip


def test_matrices_and_the_rest_decay_alike_at_their_rates():
    variables = [
        keras.Variable(np.ones((8, 8), "f4"), name="kernel"),
        keras.Variable(np.ones((8,), "f4"), name="scale"),
    ]
    moved = step(optimizers.build(training(decay=0.1), 1), variables, [np.zeros(v.shape, "f4") for v in variables])
    np.testing.assert_allclose(moved[0], 0.01 * 0.1, rtol=1e-3)
    np.testing.assert_allclose(moved[1], 0.005 * 0.1, rtol=1e-3)


def test_a_run_with_muon_learns_and_goes_on(tiny_dataset, tmp_path):
    chosen = small("performance", 0.0, "muon")
    chosen = replace(chosen, training=replace(chosen.training, epochs=2, rate=0.01))
    loop.fit(chosen, Dataset.open(tiny_dataset), str(tmp_path), log=io.StringIO())
    longer = replace(chosen, training=replace(chosen.training, epochs=3))
    log = io.StringIO()
    loop.fit(longer, Dataset.open(tiny_dataset), str(tmp_path), log=log)
    losses = [float(line.split(",")[2]) for line in (tmp_path / "history.csv").read_text().splitlines()[1:]]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0]
    assert "epoch 2/3" not in log.getvalue() and "epoch 3/3" in log.getvalue()  # it began after the second


def test_an_unknown_optimizer_is_named():
    with pytest.raises(RecipeError, match=r"training\.optimizer: expected adamw or muon, got 'adam'"):
        recipe.override(recipe.load("performance"), "training.optimizer=adam")
