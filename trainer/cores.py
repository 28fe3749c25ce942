"""Cores: what remembers the music so far. Features and a state in, hidden vectors and the new state out.

Knows nothing of what the features mean. keras only.

B batch, T time, D width.
"""

import keras


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
        """Names and shapes of the state."""
        return {f"{part}{k}": (self.units,) for k in range(len(self.lstms)) for part in "hc"}

    def build(self, shape):
        for layer in (*self.norms, *self.lstms, self.last_norm):
            layer.build((*shape[:2], self.units))
        self.built = True

    def call(self, x, state: dict, counts=None, training=False):
        """(B, T, D), state → (B, T, D), state. Where `counts`, bool (B, T), is False nothing advances."""
        after = {}
        for k, (norm, lstm) in enumerate(zip(self.norms, self.lstms, strict=True)):
            before = [state[f"h{k}"], state[f"c{k}"]]
            if x.shape[1] == 1 and counts is None:  # one note: the cell itself, no loop around it
                y, (h, c) = lstm.cell(norm(x)[:, 0], before)
                y = y[:, None]
            else:
                lstm.use_cudnn = "auto" if counts is None else False  # cuDNN refuses a row of which nothing counts
                y, h, c = lstm(norm(x), initial_state=before, mask=counts, training=training)
            after[f"h{k}"], after[f"c{k}"] = h, c
            x = x + self.dropout(y, training=training)
        return self.last_norm(x), after


def build(spec: dict) -> keras.layers.Layer:
    """The core that a card describes."""
    spec = dict(spec)
    return {"lstm": LSTMCore}[spec.pop("kind")](**spec, name="core")
