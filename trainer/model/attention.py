"""A block of attention over the last notes: (B, T, D) and a state → (B, T, D) and the state. keras only.

Several query heads share one key and one value of a note. Half of the heads see how many notes ago a note was, the
others how many seconds ago, both by rotary positions: music repeats in time, not in notes. The outer kernels begin at
zero, so a trained model to which a block is added is the same model at first. Knows nothing of what the features mean.

Sources: Su et al. 2021 (rotary positions), Shazeer 2019 (one key for all heads), So et al. 2021 (squared ReLU).

B batch, T time, D width, N notes in the state, L = N + T, H heads, S size of a head.
"""

import keras
import numpy as np
from keras import ops

from trainer.model import xla
from trainer.model.xla import Dense, multiplier

HEADS, SIZE = 4, 64  # four queries, each as long as the key
_WIDER = 2  # the inner layer behind the attention, as a multiple of D
_NOTES = (4.0, 4096.0)  # the shortest and the longest period of positions by number, in notes
_CELLS = (10.0, 12_000.0)  # the same by time, in cells of 10 ms
_OUT = -1e9  # the score of a note that is not seen


class Blocks(keras.layers.Layer):
    """Several blocks, one after the other, and their state.

    The state, all float32, 0 where there is no note yet; `k` is the block's number:
        ages        [B, N]     1 + the cells since each of the last N rows, the newest last
        keys<k>     [B, N, S]  the key of each row
        values<k>   [B, N, S]  its value
    """

    def __init__(self, blocks: int, width: int, notes: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.width, self.notes = width, notes
        self.blocks = [Block(width, dropout, name=f"block{k}") for k in range(blocks)]

    @property
    def spec(self) -> dict[str, tuple]:
        """List the names and shapes of the state."""
        parts = [f"{part}{k}" for k in range(len(self.blocks)) for part in ("keys", "values")]
        return {"ages": (self.notes,)} | {name: (self.notes, SIZE) for name in parts}

    def build(self, shape):
        for block in self.blocks:
            block.build(shape)
        self.built = True

    def call(self, x, cells, state: dict, counts=None, training=False):
        """Run the blocks.

        Args:
            x: float32 (B, T, D).
            cells: from the row before to each row, float32 (B, T).
            state: the rows before; fewer than N where the caller knows that there are not as many.
            counts: bool (B, T), the rows that count, which come first; None: all do.

        Returns:
            float32 (B, T, D), and the state after the last row that counts.
        """
        state = {name: state[name] for name in self.spec}
        if counts is not None and xla.is_ready():
            return self._row_by_row(x, cells, state, counts)
        length = None if counts is None else ops.sum(ops.cast(counts, "int32"), axis=1)
        positions = Positions(state["ages"], ops.cumsum(cells, axis=1), self.notes)
        after = {"ages": positions.after(length)}
        for k, block in enumerate(self.blocks):
            x, *lines = block(x, state[f"keys{k}"], state[f"values{k}"], positions=positions, training=training)
            for part, line in zip(("keys", "values"), lines, strict=True):
                after[f"{part}{k}"] = newest(line, state["ages"].shape[1], length)
        return x, after

    def _row_by_row(self, x, cells, state: dict, counts):
        """Run the blocks on one row after the other, so that each gets the bits that a step gives it."""

        def one(x, cells, _, *state):
            y, after = self.call(x[:, None], cells[:, None], dict(zip(names, state, strict=True)))
            return y[:, 0], *(after[name] for name in names)

        names = list(state)
        y, _, *after = xla.row_by_row(one, (x, cells), (ops.zeros_like(x[:, 0]), *state.values()), counts)
        return y, dict(zip(names, after, strict=True))


class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)), with a squared ReLU in the MLP."""

    def __init__(self, width: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.query = Dense(HEADS * SIZE, use_bias=False, name="query")
        self.key_value = Dense(2 * SIZE, use_bias=False, name="key_value")
        self.out = Dense(width, use_bias=False, kernel_initializer="zeros", name="out")
        self.inner_norm = keras.layers.LayerNormalization(name="inner_norm")
        self.inner = Dense(_WIDER * width, name="inner")
        self.outer = Dense(width, kernel_initializer="zeros", name="outer")
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, shape):
        for layer in (self.norm, self.query, self.key_value, self.inner_norm, self.inner):
            layer.build((None, None, self.width))
        self.out.build((None, None, HEADS * SIZE))
        self.outer.build((None, None, _WIDER * self.width))
        self.built = True

    def call(self, x, keys, values, positions, training=False):
        """Run the block.

        Args:
            x: float32 (B, T, D).
            keys: of the rows before, float32 (B, N, S); `values` likewise.
            positions: `Positions` of these rows and of x's.

        Returns:
            float32 (B, T, D), and keys and values of all rows, (B, N + T, S).
        """
        y = self.norm(x)
        key, value = ops.split(self.key_value(y), 2, axis=-1)
        keys, values = ops.concatenate([keys, key], axis=1), ops.concatenate([values, value], axis=1)
        x = x + self.dropout(self.out(self._attend(self.query(y), keys, values, positions)), training=training)
        y = ops.relu(self.inner(self.inner_norm(x)))
        return x + self.dropout(self.outer(y * y), training=training), keys, values

    def _attend(self, queries, keys, values, positions):
        """Compute what each row takes of the rows that it sees: (B, T, H S), (B, L, S) twice → (B, T, H S)."""
        multiply, count = multiplier(), queries.shape[1]
        scores = []
        for part, turn in zip(
            ops.split(queries * SIZE**-0.5, 2, axis=-1), (positions.number, positions.time), strict=True
        ):
            query = ops.reshape(part, (-1, count, HEADS // 2, SIZE))
            query = _rotate(query, *(x[:, -count:, None] for x in turn))
            score = multiply(
                ops.reshape(query, (-1, count * HEADS // 2, SIZE)), ops.transpose(_rotate(keys, *turn), (0, 2, 1))
            )
            scores.append(ops.reshape(score, (-1, count, HEADS // 2, score.shape[-1])))
        weights = ops.softmax(ops.concatenate(scores, axis=2) + positions.mask, axis=-1)  # (B, T, H, L)
        taken = multiply(ops.reshape(weights, (-1, count * HEADS, weights.shape[-1])), values)
        return ops.reshape(taken, (-1, count, HEADS * SIZE))


class Positions:
    """Where the rows lie that blocks see, relative to the newest one; the same for all blocks.

    Relative, so that one row at a time gets the same bits wherever it lies.

    Args:
        ages: of the rows before, float32 (B, N), as in the state.
        clock: cells from the rows before to each new row, float32 (B, T).
        notes: how many rows before it a row sees.
    """

    def __init__(self, ages, clock, notes: int):
        before, count = ages.shape[1], clock.shape[1]
        length = before + count
        self._ages, self._clock = ages, clock
        number = np.arange(1 - length, 1, dtype="f4")[None]  # (1, L)
        time = ops.concatenate([1.0 - ages, clock], axis=1) - clock[:, -1:]  # (B, L)
        self.number = _turns(number, _NOTES)
        self.time = _turns(time, _CELLS)
        back = np.arange(before, length)[:, None] - np.arange(length)  # (T, L)
        mask = np.where((back >= 0) & (back <= notes), 0.0, _OUT).astype("f4")[None, :, None]  # (1, T, 1, L)
        if before:
            there = ops.concatenate([ages > 0, ops.ones_like(clock, dtype="bool")], axis=1)
            mask = ops.where(there[:, None, None], mask, _OUT)
        self.mask = mask

    def after(self, length=None):
        """Return the ages after the last row that counts: int32 (B,) or None, if all do → (B, N)."""
        last = self._clock[:, -1:] if length is None else _at(self._clock, length)
        return newest(
            ops.concatenate(
                [ops.where(self._ages > 0, self._ages + last, 0.0), ops.maximum(1.0 + last - self._clock, 1.0)], axis=1
            ),
            self._ages.shape[1],
            length,
        )


def newest(line, notes: int, length=None):
    """Take the last `notes` rows that count: (B, N + T, …), int32 (B,) or None, if all do → (B, N, …)."""
    if length is None:
        return line[:, line.shape[1] - notes :]
    at = length[:, None] + np.arange(notes, dtype="i4")
    return ops.take_along_axis(line, ops.reshape(at, (*at.shape, *(1 for _ in line.shape[2:]))), axis=1)


def _at(clock, length):
    """Take the clock of the last row that counts; 0 where none does: (B, T), (B,) → (B, 1)."""
    last = ops.take_along_axis(clock, ops.maximum(length - 1, 0)[:, None], axis=1)
    return ops.where(length[:, None] > 0, last, 0.0)


def _turns(position, periods: tuple[float, float]):
    """Compute cosines and sines of positions, in SIZE / 2 periods: (B, L) → (B, L, S / 2) twice."""
    rates = (2 * np.pi / np.geomspace(*periods, SIZE // 2)).astype("f4")
    angles = position[..., None] * rates
    return ops.cos(angles), ops.sin(angles)


def _rotate(x, cos, sin):
    """Turn each pair of numbers by its angle: (…, S), (…, S / 2) twice → (…, S)."""
    a, b = ops.split(x, 2, axis=-1)
    return ops.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
