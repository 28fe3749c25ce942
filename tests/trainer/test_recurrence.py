"""The recurrence for training is keras' own LSTM: outputs and gradients, on both backends."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import waltz
from trainer import model, recipe
from trainer.model import recurrence
from trainer.recipe import LSTM, Chain

# Prints the largest relative difference between keras' layer and ours, of each output and gradient.
PROGRAM = """
import json, sys
import keras, numpy as np
from keras import ops
from trainer.model import xla, recurrence

B, T, K, U = 3, 20, 5, 8
random = np.random.default_rng(0)
layer = keras.layers.LSTM(U, return_sequences=True, return_state=True)
layer.build((None, None, K))
layer.set_weights([random.normal(size=w.shape) / 2 for w in layer.get_weights()])
x, towards = random.normal(size=(B, T, K)).astype("f4"), random.normal(size=(B, T, U)).astype("f4")
h, c = random.normal(size=(2, B, U)).astype("f4")

def plain(x, h, c):
    ys, _, c = layer(x, initial_state=[h, c])
    return ys, c

def scanned(x, h, c):
    with xla.precision(sys.argv[1]):
        return recurrence.lstm(layer.cell, x, h, c)

def loss(path, x, h, c):
    ys, c = path(x, h, c)
    return ops.sum(ys * towards) + ops.sum(ops.sin(c)), ys, c

def gradients(path):
    weights = layer.trainable_variables
    if keras.backend.backend() == "jax":
        import jax
        def of(values, x, h, c):
            with keras.StatelessScope(state_mapping=list(zip(weights, values))):
                total, *outputs = loss(path, x, h, c)
            return total, outputs
        (_, outputs), results = jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2, 3), has_aux=True))(
            [w.value for w in weights], x, h, c)
        return [*outputs, *results[0], *results[1:]]
    import tensorflow as tf
    @tf.function
    def of(x, h, c):
        with tf.GradientTape() as tape:
            tape.watch([x, h, c])
            total, *outputs = loss(path, x, h, c)
        return [*outputs, *tape.gradient(total, [*(w.value for w in weights), x, h, c])]
    return of(*map(tf.constant, (x, h, c)))

pairs = zip(gradients(plain), gradients(scanned), strict=True)
print(json.dumps([float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max()) for a, b in pairs]))
"""
NAMES = ["outputs", "last c", "kernel", "recurrent kernel", "bias", "x", "first h", "first c"]


def differences(backend: str, precision: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, precision], capture_output=True, text=True, timeout=240,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(NAMES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_outputs_and_all_gradients_are_those_of_keras_own_layer(backend):
    results = differences(backend, "float32")
    assert results == {name: pytest.approx(0, abs=1e-5) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_bfloat16_rounds_the_products_and_no_more(backend):
    """Eight bits of a product's operands: some thousandths of the largest value, in everything that follows from z."""
    results = differences(backend, "bfloat16")
    assert all(1e-5 < difference < 0.03 for difference in results.values()), results


def test_a_training_call_takes_this_way_and_agrees_with_the_other(tiny_recipe, monkeypatch):
    still = replace(tiny_recipe, core=LSTM(units=16, layers=2, dropout=0), heads=Chain(hidden=16, slots=4, dropout=0))
    network = model.build({"schema": 1, **recipe.to_card(still)})
    rows = still.encoding.encode(waltz(1), begin=True, end=False)[None, :64]
    calls = []
    monkeypatch.setattr(recurrence, "lstm", lambda *args, lstm=recurrence.lstm: calls.append(1) or lstm(*args))
    inference = np.asarray(network(rows, training=False))
    assert not calls
    np.testing.assert_allclose(np.asarray(network(rows, training=True)), inference, atol=1e-4)
    assert len(calls) == 2
