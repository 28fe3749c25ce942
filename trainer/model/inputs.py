"""Inputs: rows → the features of each row for the core. keras only; knows nothing of time or of what is predicted.

B batch, T time, F columns.
"""

import keras
import numpy as np
from keras import ops

from music.encodings import Encoding, NoteRows
from music.encodings.columns import FIRST
from trainer.model import held_notes
from trainer.model.xla import Dense
from trainer.recipe import RecipeError

_SIZE = 64  # of an embedding
_OCTAVES = 4  # frequencies of the sines and cosines of an ordered quantity, each twice the one before


class Embedded(keras.layers.Layer):
    """An embedding of each column, and the held notes where `tables` are given, in a layer of `width` units.

    `ordered`: each column enters also as a quantity from 0 to 1. That part begins at zero, so a trained model to which
    it is added is the same model at first.
    """

    def __init__(
        self,
        encoding: Encoding,
        width: int,
        tables: held_notes.Tables | None = None,
        slots: int = 0,
        ordered: bool = False,
    ):
        super().__init__(name="inputs")
        self.width, self.tables = width, tables
        self.embeddings = [
            keras.layers.Embedding(classes, _SIZE, name=f"{name}_embedding")
            for name, classes in zip(encoding.names, encoding.sizes, strict=True)
        ]
        self.listen = Dense(width, name="listen")
        self._features = _SIZE * len(self.embeddings) + (2 * (slots + 1) + 4 * tables.pitches if tables else 0)
        self._positions = positions(encoding) if ordered else []
        self.order = Dense(width, use_bias=False, kernel_initializer="zeros", name="order") if ordered else None

    def build(self, shape):
        for table in self.embeddings:
            table.build()
        self.listen.build((None, None, self._features))
        if self.order:
            self.order.build((None, None, sum(table.shape[1] for table in self._positions)))
        self.built = True

    def call(self, rows, held: dict):
        """Compute the features: int32 (B, T, F), held notes after each row → float32 (B, T, width)."""
        x = [table(rows[:, :, k]) for k, table in enumerate(self.embeddings)]
        if self.tables:
            x += [held_notes.slot_features(held), held_notes.pitch_features(held)]
        x = self.listen(ops.concatenate(x, axis=-1))
        if self.order:
            ordered = [ops.take(table, rows[:, :, k], axis=0) for k, table in enumerate(self._positions)]
            x = x + self.order(ops.concatenate(ordered, axis=-1))
        return x


def positions(encoding: Encoding) -> list[np.ndarray]:
    """Tabulate each class's position among its column's classes, from 0 to 1, and sines and cosines of it.

    Returns:
        For each column float32 (classes, 1 + 2 _OCTAVES); zeros for PAD, BEGIN and END.
    """
    tables = []
    for classes in encoding.sizes:
        position = np.linspace(0, 1, classes - FIRST)[:, None]
        angles = 2 * np.pi * position * 2.0 ** np.arange(_OCTAVES)
        values = np.concatenate([position, np.sin(angles), np.cos(angles)], axis=1)
        tables.append(np.concatenate([np.zeros((FIRST, values.shape[1])), values]).astype("f4"))
    return tables


class OneHot(keras.layers.Layer):
    """Each column as a one-hot vector, side by side."""

    def __init__(self, encoding: Encoding):
        super().__init__(name="inputs")
        self._sizes = encoding.sizes
        self.width = sum(self._sizes)

    def call(self, rows, held: dict):
        """Compute the vectors: int32 (B, T, F) → float32 (B, T, width)."""
        return ops.concatenate([ops.one_hot(rows[:, :, k], size) for k, size in enumerate(self._sizes)], axis=-1)


class Values(keras.layers.Layer):
    """Each column as one number, times in seconds, other values as a share of the highest; PAD, BEGIN and END are 0."""

    def __init__(self, encoding: NoteRows):
        super().__init__(name="inputs")
        self.width = len(encoding.columns)
        self._tables = [
            np.concatenate([np.zeros(FIRST), c.values / (1 if c.is_time else c.high)]).astype("f4")
            for c in encoding.columns
        ]

    def call(self, rows, held: dict):
        """Look up the numbers: int32 (B, T, F) → float32 (B, T, F)."""
        return ops.stack([ops.take(table, rows[:, :, k]) for k, table in enumerate(self._tables)], axis=-1)


def build(kind: str, encoding: Encoding, width: int) -> keras.layers.Layer:
    """Build the inputs that a card describes, for heads without held notes.

    Raises RecipeError for inputs that need columns of numbers and get symbols.
    """
    if kind == "embedding":
        return Embedded(encoding, width)
    if kind == "one_hot":
        return OneHot(encoding)
    if not isinstance(encoding, NoteRows):
        raise RecipeError(f"input 'values': expected columns that are numbers, got {encoding.names}")
    return Values(encoding)
