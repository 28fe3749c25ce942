"""The weights of a trained model → those of a wider one that computes the same, to float32's rounding.

Each unit is copied. Whatever reads a unit reads its copies with random shares of the old weight, so the copies learn
different things from the first step on (Net2WiderNet: Chen, Goodfellow and Shlens, arXiv 1511.05641). A layer
normalisation sees the same mean and variance of copies. Knows nothing of files and of training.
"""

from collections.abc import Mapping

import numpy as np

_GATES = 4  # of an LSTM's cell, side by side in its kernels and its bias
_LEAST, _MOST = 0.3, 0.7  # of a weight, that one of two copies gets


def widen(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Widen each weight that is to have a larger shape; return all of them by name.

    Args:
        weights: float32 arrays by path. Outputs are their last axis; the inputs of a matrix are its first one.
        shapes: what shapes the wider model has. An axis may be a whole multiple of the old one.
        seed: of the random shares.
    """
    rng = np.random.default_rng(seed)
    return {name: _widened(name, array, shapes.get(name, array.shape), rng) for name, array in weights.items()}


def _widened(name: str, array: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Copy outputs and share inputs; an array that cannot become `shape` so stays as it is."""
    factors = [after // before for before, after in zip(array.shape, shape, strict=False)]
    if array.shape == shape or tuple(a * f for a, f in zip(array.shape, factors, strict=True)) != shape:
        return array
    gates = _GATES if "/lstm_cell/" in name else 1
    outputs = array.reshape(*array.shape[:-1], gates, -1)
    outputs = np.concatenate([outputs] * factors[-1], axis=-1).reshape(*array.shape[:-1], -1)
    if array.ndim == 1 or name.endswith("embeddings"):
        return outputs
    shares = rng.uniform(_LEAST, _MOST, (factors[0], *outputs.shape))
    shares /= shares.sum(axis=0)
    return np.concatenate(list(shares * outputs)).astype("f4")
