"""Inputs: rows → what the core hears of each. keras only; knows nothing of time or of what is predicted.

B batch, T time, F columns.
"""

import keras
import numpy as np
from keras import ops

from music.columns import FIRST
from music.encodings import Encoding, NoteRows
from trainer import sounding as sg
from trainer.compiling import Dense
from trainer.recipe import RecipeError


class Embedded(keras.layers.Layer):
    """An embedding of each column, and what sounds if that is followed; `width` of them together."""

    def __init__(self, encoding: Encoding, width: int, tables: sg.Tables | None = None, slots: int = 0, size: int = 64):
        super().__init__(name="inputs")
        self.width, self.tables = width, tables
        self.embeddings = [
            keras.layers.Embedding(classes, size, name=f"{name}_embedding")
            for name, classes in zip(encoding.names, encoding.sizes, strict=True)
        ]
        self.listen = Dense(width, name="listen")
        self._heard = size * len(self.embeddings) + (2 * (slots + 1) + 4 * tables.pitches if tables else 0)

    def build(self, shape):
        for table in self.embeddings:
            table.build()
        self.listen.build((None, None, self._heard))
        self.built = True

    def call(self, rows, sounding: dict):
        """int32 (B, T, F), what sounds after each row → float32 (B, T, width)."""
        x = [table(rows[:, :, k]) for k, table in enumerate(self.embeddings)]
        if self.tables:
            x += [sg.slot_features(sounding), sg.pitch_features(sounding)]
        return self.listen(ops.concatenate(x, axis=-1))


class OneHot(keras.layers.Layer):
    """Each column as a one-hot vector, side by side."""

    def __init__(self, encoding: Encoding):
        super().__init__(name="inputs")
        self._sizes = encoding.sizes
        self.width = sum(self._sizes)

    def call(self, rows, sounding: dict):
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

    def call(self, rows, sounding: dict):
        return ops.stack([ops.take(table, rows[:, :, k]) for k, table in enumerate(self._tables)], axis=-1)


def build(kind: str, encoding: Encoding, width: int) -> keras.layers.Layer:
    """The inputs that a card describes, but for those that follow what sounds."""
    if kind == "embedding":
        return Embedded(encoding, width)
    if kind == "one_hot":
        return OneHot(encoding)
    if not isinstance(encoding, NoteRows):
        raise RecipeError(f"input 'values': expected columns that are numbers, got {encoding.names}")
    return Values(encoding)
