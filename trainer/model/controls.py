"""Controls that the state carries → a vector that is added to the core's inputs. keras only.

The tables begin at zero, so a trained model to which controls are added is the same model at first.

B batch, T time, D width.
"""

import keras
import numpy as np
from keras import ops

from music.controls import NAMES, STATE, Controls

_EARLY = 500  # cells before the last onset that was asked for, in which a piece may end
_REMAINING = NAMES.index("remaining")
# Cells at which a class of `remaining` begins: 0.1 s apart at the end of a piece, a tenth apart long before it.
_EDGES = np.unique(np.geomspace(10, 100_000, 90).round()).astype("f4")


class ControlEmbeddings(keras.layers.Layer):
    """One embedding of each control, summed."""

    def __init__(self, controls: Controls, width: int, **kwargs):
        super().__init__(**kwargs)
        sizes = (len(controls.styles), len(controls.density), len(controls.loudness), len(_EDGES) + 1)
        self.tables = [
            keras.layers.Embedding(1 + size, width, embeddings_initializer="zeros", name=name)
            for name, size in zip(NAMES, sizes, strict=True)
        ]

    @property
    def spec(self) -> dict[str, tuple]:
        """List the names and shapes of the state: 0 where nothing is asked, else as music.controls says."""
        return {STATE: (len(NAMES),)}

    def build(self, shape):
        for table in self.tables:
            table.build()
        self.built = True

    def call(self, asked):
        """Look up what is asked: float32 (B, T, 4) → float32 (B, T, D)."""
        left = asked[:, :, _REMAINING]
        beyond = ops.sum(ops.cast(left[..., None] > _EDGES, "int32"), axis=-1)
        ids = ops.cast(asked, "int32")
        total = self.tables[_REMAINING](ops.where(left > 0, 1 + beyond, 0))
        for k, table in enumerate(self.tables[:_REMAINING]):
            total = total + table(ids[:, :, k])
        return total


def is_early(asked):
    """Say whether a length was asked for and _EARLY cells of it or more remain: float32 (B, 4) → bool (B,)."""
    return asked[:, _REMAINING] > _EARLY


def is_over(asked):
    """Say whether a length was asked for and nothing of it remains: float32 (B, 4) → bool (B,)."""
    return asked[:, _REMAINING] == 1


def follow(asked, cells):
    """Count `remaining` down, row by row, to no less than 1: (B, 4), cells from row to row (B, T) → (B, T, 4)."""
    left = asked[:, None, _REMAINING] - ops.cumsum(cells, axis=1)
    left = ops.where(asked[:, None, _REMAINING] > 0, ops.maximum(left, 1.0), 0.0)
    others = ops.repeat(asked[:, None, :_REMAINING], cells.shape[1], axis=1)
    return ops.concatenate([others, left[..., None]], axis=-1)
