"""Cores remember the music so far: features and a state → hidden vectors and the new state.

Knows nothing of what the features mean. keras only.

B batch, T time, D width.
"""

import functools

import keras
from keras import ops

from trainer.model import recurrence, xla
from trainer.model.attention import Blocks


class LSTMCore(keras.layers.Layer):
    """A residual stack of LSTM layers: x + dropout(LSTM(norm(x))), D wide throughout; then blocks of attention.

    Its state is `h<k>` and `c<k>` for each layer, float32 (B, D), and that of the blocks.

    Args:
        attention: how many notes back the blocks see; 0: there is no block.
    """

    def __init__(self, units: int, layers: int, dropout: float, attention: int = 0, blocks: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norms = [keras.layers.LayerNormalization(name=f"norm{k}") for k in range(layers)]
        self.lstms = [
            keras.layers.LSTM(units, return_sequences=True, return_state=True, name=f"lstm{k}") for k in range(layers)
        ]
        self.attention = Blocks(blocks, units, attention, dropout, name="attention") if attention else None
        self.last_norm = keras.layers.LayerNormalization(name="norm")
        self.dropout = keras.layers.Dropout(dropout)

    @property
    def spec(self) -> dict[str, tuple]:
        """List the names and shapes of the state."""
        spec: dict[str, tuple] = {f"{part}{k}": (self.units,) for k in range(len(self.lstms)) for part in "hc"}
        return spec | (self.attention.spec if self.attention else {})

    @property
    def rows_state(self) -> tuple[str, ...]:
        """List the parts of the state that have one entry for each of the last rows; they may be shorter."""
        return tuple(self.attention.spec) if self.attention else ()

    def build(self, shape):
        for layer in (*self.norms, *self.lstms, *([self.attention] if self.attention else []), self.last_norm):
            layer.build((*shape[:2], self.units))
        self.built = True

    def call(self, x, cells, state: dict, counts=None, training=False):
        """Run the layers: (B, T, D), state → (B, T, D), state.

        `cells`: from the row before to each row, float32 (B, T). False in `counts`, bool (B, T): the state stays.
        """
        after = {}
        for k, (norm, lstm) in enumerate(zip(self.norms, self.lstms, strict=True)):
            y, after[f"h{k}"], after[f"c{k}"] = _remember(lstm, norm(x), state, k, counts, training)
            x = x + self.dropout(y, training=training)
        if self.attention:
            x, rows = self.attention(x, cells, state, counts=counts, training=training)
            after |= rows
        return self.last_norm(x), after


class TransformerCore(keras.layers.Layer):
    """Blocks of attention alone; their state is its state."""

    def __init__(self, units: int, layers: int, notes: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = Blocks(layers, units, notes, dropout, name="attention")
        self.last_norm = keras.layers.LayerNormalization(name="norm")

    @property
    def spec(self) -> dict[str, tuple]:
        """List the names and shapes of the state."""
        return self.attention.spec

    @property
    def rows_state(self) -> tuple[str, ...]:
        """List the parts of the state that have one entry for each of the last rows."""
        return tuple(self.spec)

    def build(self, shape):
        for layer in (self.attention, self.last_norm):
            layer.build((*shape[:2], self.units))
        self.built = True

    def call(self, x, cells, state: dict, counts=None, training=False):
        """Run the blocks, as LSTMCore.call."""
        x, after = self.attention(x, cells, state, counts=counts, training=training)
        return self.last_norm(x), after


class StackCore(keras.layers.Layer):
    """LSTM layers of any widths one after the other, dropout behind each, then dense layers.

    Its state is `h<k>` and `c<k>` for each layer, float32 (B, its width); D is the width of the last layer.
    """

    rows_state = ()

    def __init__(self, units, dense, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self._widths = tuple(units)
        self.units = (*units, *dense)[-1]
        self.lstms = [
            keras.layers.LSTM(width, return_sequences=True, return_state=True, name=f"lstm{k}")
            for k, width in enumerate(units)
        ]
        self.dense = [xla.Dense(width, "relu", name=f"dense{k}") for k, width in enumerate(dense)]
        self.dropout = keras.layers.Dropout(dropout)

    @property
    def spec(self) -> dict[str, tuple]:
        """List the names and shapes of the state."""
        return {f"{part}{k}": (width,) for k, width in enumerate(self._widths) for part in "hc"}

    def build(self, shape):
        for layer in (*self.lstms, *self.dense):
            layer.build(shape)
            shape = (*shape[:2], layer.units)
        self.built = True

    def call(self, x, cells, state: dict, counts=None, training=False):
        """Run the layers, as LSTMCore.call."""
        after = {}
        for k, lstm in enumerate(self.lstms):
            x, after[f"h{k}"], after[f"c{k}"] = _remember(lstm, x, state, k, counts, training)
            x = self.dropout(x, training=training)
        for dense in self.dense:
            x = dense(x)
        return x, after


def _remember(lstm: keras.layers.LSTM, x, state: dict, k: int, counts, training):
    """Run layer k of a core, starting at its state: (B, T, ·) → (B, T, units), h, c."""
    h, c = state[f"h{k}"], state[f"c{k}"]
    if x.shape[1] == 1 and counts is None:  # one row needs no loop around the cell
        h, c = _cell(lstm.cell, x[:, 0], h, c)
        return h[:, None], h, c
    if training and counts is None and not recurrence.has_cudnn():
        y, c = recurrence.lstm(lstm.cell, x, h, c)
        return y, y[:, -1], c
    if counts is not None and xla.is_ready():
        return xla.row_by_row(functools.partial(_cell, lstm.cell), (x,), (h, c), counts)
    lstm.use_cudnn = "auto" if counts is None else False  # cuDNN refuses a sequence of which no row counts
    return lstm(x, initial_state=[h, c], mask=counts, training=training)


def _cell(cell: keras.layers.LSTMCell, x, h, c):
    """Compute what Keras' own cell computes: (B, ·), (B, units), (B, units) → h, c."""
    z = xla.product(x, cell.kernel) + xla.product(h, cell.recurrent_kernel) + cell.bias
    i, f, g, o = ops.split(z, 4, axis=-1)  # input gate, forget gate, new value, output gate
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def build(spec: dict) -> keras.layers.Layer:
    """Build the core that a card describes."""
    spec = {name: value for name, value in spec.items() if name not in ("input", "ordered")}  # for inputs.py
    kinds: dict = {"lstm": LSTMCore, "stack": StackCore, "transformer": TransformerCore}
    return kinds[spec.pop("kind")](**spec, name="core")
