"""EventModel: inputs (one row) × core (time) × heads (the next row). keras only; knows no files and no server.

`state["row"]` is the pending row: the last event, not yet consumed, so a client never feeds rows back, only state. At
the very start it is PAD; training sees PAD, r0 … r(T-2) and predicts r0 … r(T-1): the same path as `prime`.

B batch, T time, F columns, D width.
"""

import keras
from keras import ops

from music import encodings
from music.encodings import Encoding
from music.encodings.columns import END, FIRST
from trainer import devices
from trainer.model import cores, heads, held_notes, inputs, repetition, xla


class EventModel(keras.Model):
    """Made by `build`; its weights exist at once. `precision`: of the matrix products in training; all else is exact to
    float32."""

    precision = "float32"

    def __init__(self, encoding: Encoding, inputs: keras.layers.Layer, core: keras.layers.Layer, head):
        super().__init__(name="model")
        self.encoding, self.inputs_, self.core, self.heads = encoding, inputs, core, head
        self.tables = head.tables  # None: what sounds is not followed
        self.recalls = getattr(head, "recall", 0)  # pitches kept to look up what followed; 0: none
        self.losses_by_column = [keras.metrics.Mean(name=name) for name in encoding.names]
        inputs.build((None, None, len(encoding.names)))
        core.build((None, None, inputs.width))
        head.build((None, None, core.units))
        self.built = True

    @property
    def state_spec(self) -> dict[str, dict]:
        """What the state holds besides the batch: {name: {"shape": […], "dtype": …}}."""
        floats = dict(self.core.spec)
        if self.tables:
            floats = held_notes.spec(self.tables, self.heads.slots) | repetition.spec(self.recalls) | floats
        spec = {"row": {"shape": [len(self.encoding.names)], "dtype": "int32"}}
        return spec | {name: {"shape": list(shape), "dtype": "float32"} for name, shape in floats.items()}

    def initial_state(self, batch) -> dict:
        return {name: ops.zeros((batch, *s["shape"]), s["dtype"]) for name, s in self.state_spec.items()}

    def advance(self, rows, state: dict, length=None, training=False):
        """Consume rows.

        Args:
            rows: int32 (B, T, F).
            state: without the pending row, which this function does not look at.
            length: int32 (B,), rows beyond it change nothing; None: all count.

        Returns:
            hidden (B, T, D), what sounds after each row and what is recalled (dict of (B, T, …)), the state after the
            last row.
        """
        sounding = held_notes.follow(self.tables, rows, state) if self.tables else {}
        x = self.inputs_(rows, sounding)
        counts = None if length is None else _counts(rows, length)
        hidden, after = self.core(x, state, counts=counts, training=training)
        after |= {name: _last(value, length, state[name]) for name, value in sounding.items()}
        if self.recalls:
            told, past = repetition.follow(self.tables, rows, state["past"], length)
            sounding, after = sounding | told, after | past
        return hidden, sounding, after

    def likelihood(self, rows, state: dict, length=None, training=False):
        """Nats of given rows on the evaluation's grid: int32 (B, T, F), state → float32 (B, T, F), state.

        PAD and BEGIN rows count 0, rows beyond `length` too and they change nothing.
        """
        hidden, sounding, after = self._hear(rows, state, length, training)
        nats = self.heads.nll(hidden, rows, sounding, training)
        if length is not None:
            nats = ops.where(_counts(rows, length)[:, :, None], nats, 0.0)
        return nats, after

    def prime(self, rows, length, state: dict) -> dict:
        """Hear rows: all but the last are consumed, the last is pending. int32 (B, T, F), (B,), state → state."""
        return self._hear(rows, state, length)[2]

    def _hear(self, rows, state: dict, length=None, training=False):
        """`advance` by the pending row and all rows but the last, which is pending then."""
        consumed = ops.concatenate([state["row"][:, None], rows[:, :-1]], axis=1)
        hidden, sounding, after = self.advance(consumed, state, length, training)
        return hidden, sounding, after | {"row": _last(rows, length, state["row"])}

    def step(self, state: dict, noise, temperature, top_p, min_p):
        """Draw the next row: state, float32 (B, F), (B,) each → int32 (B, F), state. After END all stays as it is."""
        hidden, sounding, after = self.advance(state["row"][:, None], state)
        now = {name: value[:, 0] for name, value in sounding.items()}
        row = self.heads.draw(hidden[:, 0], noise, now, temperature, top_p, min_p)
        ended = state["row"][:, :1] == END
        row = ops.where(ended, END, row)
        return row, {name: ops.where(ended, state[name], value) for name, value in after.items()} | {"row": row}

    def call(self, rows, training=False):
        """Nats of windows that begin from the empty state: int32 (B, T, F) → float32 (B, T, F).

        In training, heads that learn by another loss than nats add it behind: (B, T, 2 F).
        """
        empty = self.initial_state(ops.shape(rows)[0])
        if self.recalls:  # of a past without a note as much as can be compared
            empty["past"] = empty["past"][:, : rows.shape[1] + repetition.LONGEST]
        with xla.precision(self.precision if training else "float32"):
            hidden, sounding, _ = self._hear(rows, empty, training=training)
            nats = self.heads.nll(hidden, rows, sounding, training)
            if training and hasattr(self.heads, "loss"):
                return ops.concatenate([nats, self.heads.loss(hidden, rows, sounding)], axis=-1)
        return nats

    @property
    def metrics(self):
        return [self._loss_tracker, *self.losses_by_column] if self.compiled else []

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Nats per note, or what the heads have instead, the mean over the batch."""
        notes = ops.maximum(devices.total(_notes(x)), 1.0)  # the whole batch's, of which this may be a part
        return ops.sum(y_pred[:, :, -len(self.encoding.names) :]) / notes

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        notes = _notes(x)
        for k, metric in enumerate(self.losses_by_column):  # sums: of several devices' parts one may hold no note
            metric.total.assign(metric.total + ops.sum(y_pred[:, :, k]))
            metric.count.assign(metric.count + notes)
        return self.get_metrics_result()


def _notes(rows):
    """How many notes rows hold: int32 (B, T, F) → float32 ()."""
    return ops.sum(ops.cast(rows[:, :, 0] >= FIRST, "float32"))


def _counts(rows, length):
    """Which rows count: (B, T, F), (B,) → bool (B, T)."""
    return ops.arange(rows.shape[1])[None] < length[:, None]


def _last(values, length, before):
    """The last value that counts: (B, T, …) and (B,) → (B, …); `before` where none does."""
    if length is None:
        return values[:, -1]
    at = ops.reshape(ops.maximum(length - 1, 0), (-1, 1, 1))
    last = ops.take_along_axis(values, ops.cast(at, "int32"), axis=1)[:, 0]
    return ops.where(length[:, None] > 0, last, before)


def build(card: dict) -> EventModel:
    """The model that a card describes, with fresh weights."""
    encoding = encodings.from_config(card["encoding"])
    core, head = cores.build(card["core"]), heads.build(card["heads"], encoding)
    if head.tables:
        heard = inputs.Embedded(encoding, core.units, head.tables, head.slots, card["core"].get("ordered", False))
    else:
        heard = inputs.build(card["core"].get("input", "embedding"), encoding, core.units)
    return EventModel(encoding, heard, core, head)
