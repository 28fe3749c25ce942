"""Cores remember the music so far: features and a state → hidden vectors and the new state.

Knows nothing of what the features mean. keras only.

B batch, T time, D width.
"""

import keras
from keras import ops

from trainer.model import recurrence, xla


class LSTMCore(keras.layers.Layer):
    """A residual stack of LSTM layers: x + dropout(LSTM(norm(x))), D wide throughout.

    Its state is `h<k>` and `c<k>` for each layer, float32 (B, D).
    """

    def __init__(self, units: int, layers: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norms = [keras.layers.LayerNormalization(name=f"norm{k}") for k in range(layers)]
        self.lstms = [
            keras.layers.LSTM(units, return_sequences=True, return_state=True, name=f"lstm{k}") for k in range(layers)
        ]
        self.last_norm = keras.layers.LayerNormalization(name="norm")
        self.dropout = keras.layers.Dropout(dropout)

    @property
    def spec(self) -> dict[str, tuple]:
        """List the names and shapes of the state."""
        return {f"{part}{k}": (self.units,) for k in range(len(self.lstms)) for part in "hc"}

    def build(self, shape):
        for layer in (*self.norms, *self.lstms, self.last_norm):
            layer.build((*shape[:2], self.units))
        self.built = True

    def call(self, x, state: dict, counts=None, training=False):
        """Run the layers: (B, T, D), state → (B, T, D), state. False in `counts`, bool (B, T): the state stays."""
        after = {}
        for k, (norm, lstm) in enumerate(zip(self.norms, self.lstms, strict=True)):
            y, after[f"h{k}"], after[f"c{k}"] = _remember(lstm, norm(x), state, k, counts, training)
            x = x + self.dropout(y, training=training)
        return self.last_norm(x), after


class StackCore(keras.layers.Layer):
    """LSTM layers of any widths one after the other, dropout behind each, then dense layers.

    Its state is `h<k>` and `c<k>` for each layer, float32 (B, its width); D is the width of the last layer.
    """

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

    def call(self, x, state: dict, counts=None, training=False):
        """Run the layers: (B, T, ·), state → (B, T, D), state. False in `counts`, bool (B, T): the state stays."""
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
        return _masked_lstm(lstm.cell, x, h, c, counts)
    lstm.use_cudnn = "auto" if counts is None else False  # cuDNN refuses a sequence of which no row counts
    return lstm(x, initial_state=[h, c], mask=counts, training=training)


def _masked_lstm(cell: keras.layers.LSTMCell, x, h, c, counts):
    """Compute what Keras' layer computes with a mask, but stop behind the last row that counts.

    Outputs behind that row are 0. A row that does not count has the output of the row before it. For XLA only, because
    of Keras' slice_update.
    """
    last = ops.max(ops.where(counts, ops.arange(1, x.shape[1] + 1), 0))

    def more(t, ys, h, c):
        return t < last

    def one(t, ys, h, c):
        new = _cell(cell, ops.take(x, t, axis=1), h, c)
        here = ops.take(counts, t, axis=1)[:, None]
        h, c = ops.where(here, new[0], h), ops.where(here, new[1], c)
        return t + 1, ops.slice_update(ys, (0, t, 0), h[:, None]), h, c

    ys = ops.zeros((*x.shape[:2], cell.units), x.dtype)
    _, ys, h, c = ops.while_loop(more, one, (ops.cast(0, "int32"), ys, h, c), maximum_iterations=x.shape[1])
    return ys, h, c


def _cell(cell: keras.layers.LSTMCell, x, h, c):
    """Compute what Keras' own cell computes: (B, ·), (B, units), (B, units) → h, c."""
    z = xla.product(x, cell.kernel) + xla.product(h, cell.recurrent_kernel) + cell.bias
    i, f, g, o = ops.split(z, 4, axis=-1)  # input gate, forget gate, new value, output gate
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def build(spec: dict) -> keras.layers.Layer:
    """Build the core that a card describes."""
    spec = {name: value for name, value in spec.items() if name not in ("input", "ordered")}  # for inputs.py
    kinds: dict = {"lstm": LSTMCore, "stack": StackCore}
    return kinds[spec.pop("kind")](**spec, name="core")
