"""A step compiled by XLA: a row has the same bits alone as among others, and top_p keeps the same classes."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from music.generation import CHUNK, PRIME_BLOCK  # noqa: E402
from music.model_folder import Loaded  # noqa: E402
from trainer.export import signatures  # noqa: E402
from trainer.model import xla  # noqa: E402


def noisy(spec: dict, rows: int) -> dict[str, np.ndarray]:
    """Make inputs of a signature: random numbers as state, one note as row, and all settings."""
    rng = np.random.default_rng(7)
    inputs = {
        name: np.full((rows, *shape), 3, dtype) if dtype == "int32" else rng.random((rows, *shape), dtype)
        for name, (shape, dtype) in spec.items()
    }
    if "count" in inputs:
        inputs["count"] = np.full(rows, CHUNK, "i4")
        inputs["top_p"] = np.where(np.arange(rows) % 2, 0.9, 1.0).astype("f4")
    return inputs


def part(inputs: dict, rows) -> dict:
    return {name: value[rows] for name, value in inputs.items()}


@pytest.mark.slow
def test_a_row_has_the_same_bits_alone_as_among_others(tiny_model, tiny_export):
    model, _ = tiny_model
    inputs = noisy(signatures.specs(model)["generate_xla"], 9)
    loaded = Loaded(str(tiny_export / "performance" / "1"))
    alone = [loaded.call("generate_xla", part(inputs, slice(row, row + 1))).outputs for row in (0, 1, 8)]
    for rows in (2, 9):
        among = loaded.call("generate_xla", part(inputs, slice(9 - rows, None))).outputs
        for name, value in among.items():
            np.testing.assert_array_equal(value[-1:], alone[-1][name], err_msg=f"{name} of {rows} rows")
    for name, value in among.items():
        np.testing.assert_array_equal(value[:2], np.concatenate([each[name] for each in alone[:2]]), err_msg=name)


def test_rows_are_read_as_far_as_they_count(tiny_model, tiny_export):
    model, _ = tiny_model
    loaded = Loaded(str(tiny_export / "performance" / "1"))
    inputs = noisy(signatures.specs(model)["prime"], 3)
    inputs["length"] = np.array([0, 1, PRIME_BLOCK], "i4")
    plain, compiled = (loaded.call(name, inputs).outputs for name in ("prime", "prime_xla"))
    for name, value in compiled.items():
        np.testing.assert_allclose(value, plain[name], rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(value[0], inputs[name][0], err_msg=name)
    for row in range(3):
        for name, value in loaded.call("prime_xla", part(inputs, slice(row, row + 1))).outputs.items():
            np.testing.assert_array_equal(value[0], compiled[name][row], err_msg=f"{name} of row {row} alone")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (512, 256), (700, 300), (1024, 1)])
def test_a_kernel_made_ready_gives_the_same_product(inputs, outputs, alone):
    dense = xla.Dense(outputs, "relu", bias_initializer="normal")
    x = keras.random.normal((2, 3, inputs), seed=1)
    wanted = dense(x)
    model = keras.Sequential([dense])
    with xla.ready(model, alone):
        actual = dense(x)
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(dense(x), wanted)  # and outside, all is as before


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_same_classes_without_sorting(share):
    rng = np.random.default_rng(3)
    p = np.exp(rng.normal(size=(64, 200)) * np.linspace(0.01, 5, 64)[:, None])
    p = (p / p.sum(axis=-1, keepdims=True)).astype("f4")
    p[:, 10:20] = p[:, 30:40]  # pairs as probable as each other
    p[::2] = np.where(p[::2] < 0.05 * p[::2].max(axis=-1, keepdims=True), 0, p[::2])  # min_p has been here
    top_p = np.full(64, share, "f4")
    sorted_, halved = (np.asarray(find(p, top_p)) for find in (xla._sorted, xla._halved))
    by_sorting, by_halving = p >= sorted_[:, None], p >= halved[:, None]
    near = np.abs(p - sorted_[:, None]) <= 1e-6 * p.max(axis=-1, keepdims=True)  # sums differ in their last bits
    assert ((by_sorting == by_halving) | near).all() and (by_sorting == by_halving).mean() > 0.999
