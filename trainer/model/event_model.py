"""EventModel: inputs (one row) × core (time) × heads (the next row). keras only; knows no files and no server.

`state["row"]` is the pending row: the last event, which the core has not read yet. So a client sends back state only,
never rows. At the start of a piece it is PAD. Training reads PAD, r0 … r(T-2) and predicts r0 … r(T-1), like `prime`.

B batch, T time, F columns, D width.
"""

import keras
from keras import ops

from music import encodings
from music.controls import STATE, Controls
from music.encodings import Encoding
from music.encodings.columns import END, FIRST
from trainer import devices
from trainer.model import cores, heads, held_notes, inputs, repetition, xla
from trainer.model.controls import ControlEmbeddings, follow, is_early, is_over

_CHORD = 3  # cells between the onsets of two notes that are struck together, at most


class EventModel(keras.Model):
    """Inputs, core and heads as one model. `build` makes it; its weights exist at once.

    `precision` is the type of the matrix products in training, but not in the recurrence, and on a GPU not in an LSTM
    layer; all other numbers are float32.
    """

    precision = "float32"

    def __init__(
        self,
        encoding: Encoding,
        inputs: keras.layers.Layer,
        core: keras.layers.Layer,
        head,
        controls: ControlEmbeddings | None = None,
    ):
        super().__init__(name="model")
        self.controls = controls  # None: nothing can be asked
        self.encoding, self.inputs_, self.core, self.heads = encoding, inputs, core, head
        self.tables = head.tables  # None: held notes are not tracked
        self.repetition_notes = getattr(head, "recall", 0)  # last pitches that the repetition pointer searches; 0: none
        self.losses_by_column = [keras.metrics.Mean(name=name) for name in encoding.names]
        inputs.build((None, None, len(encoding.names)))
        if controls:
            controls.build(None)
        core.build((None, None, inputs.width))
        head.build((None, None, core.units))
        self.built = True

    @property
    def state_spec(self) -> dict[str, dict]:
        """List the state's tensors, shapes without the batch: {name: {"shape": […], "dtype": …}}."""
        floats = dict(self.core.spec)
        if self.tables:
            floats = held_notes.spec(self.tables, self.heads.slots) | repetition.spec(self.repetition_notes) | floats
        floats |= self.controls.spec if self.controls else {}
        spec = {"row": {"shape": [len(self.encoding.names)], "dtype": "int32"}}
        return spec | {name: {"shape": list(shape), "dtype": "float32"} for name, shape in floats.items()}

    def initial_state(self, batch) -> dict:
        """Return the state before the first row: zeros."""
        return {name: ops.zeros((batch, *s["shape"]), s["dtype"]) for name, s in self.state_spec.items()}

    def advance(self, rows, state: dict, length=None, training=False, asked=None):
        """Read rows into the state.

        Args:
            rows: int32 (B, T, F).
            state: before the first row; its pending row is that row.
            length: int32 (B,), rows beyond it change nothing; None: all count.
            asked: the controls at each row, float32 (B, T, 4); None: those of the state, counted down.

        Returns:
            hidden (B, T, D), the held notes and the repetition after each row (dict of (B, T, …)), the state after the
            last row, without the pending row.
        """
        held = held_notes.follow(self.tables, rows, state) if self.tables else {}
        cells = self._cells(rows)
        x = self.inputs_(rows, held)
        if self.controls:
            if asked is None:  # what remains in the state counts from the onset of its pending row, the first one here
                asked = follow(state[STATE], ops.concatenate([ops.zeros_like(cells[:, :1]), cells[:, 1:]], axis=1))
            x = x + self.controls(asked)
        counts = None if length is None else _counts(rows, length)
        hidden, after = self.core(x, cells, state, counts=counts, training=training)
        after |= {name: _last(value, length, state[name]) for name, value in held.items()}
        if self.controls:
            after[STATE] = _last(asked, length, state[STATE])
        if self.repetition_notes:
            repeated, past = repetition.follow(self.tables, rows, state["past"], length)
            held, after = held | repeated, after | past
        return hidden, held, after

    def _cells(self, rows):
        """Return the cells from the row before to each row: int32 (B, T, F) → float32 (B, T)."""
        return held_notes.steps(self.tables, rows) if self.tables else ops.zeros_like(rows[:, :, 0], "float32")

    def likelihood(self, rows, state: dict, length=None, training=False):
        """Compute the nats of rows on the evaluation's grid: int32 (B, T, F), state → float32 (B, T, F), state.

        PAD and BEGIN rows have 0 nats. Rows beyond `length` have 0 nats too, and do not change the state.
        """
        hidden, held, after = self._consume(rows, state, length, training)
        nats = self.heads.nll(hidden, rows, held, training)
        if length is not None:
            nats = ops.where(_counts(rows, length)[:, :, None], nats, 0.0)
        return nats, after

    def prime(self, rows, length, state: dict) -> dict:
        """Read rows into the state: int32 (B, T, F), (B,), state → state. The last row becomes the pending row."""
        return self._consume(rows, state, length)[2]

    def _consume(self, rows, state: dict, length=None, training=False, asked=None):
        """Call `advance` with the pending row and all rows but the last one, which becomes the pending row."""
        consumed = ops.concatenate([state["row"][:, None], rows[:, :-1]], axis=1)
        hidden, held, after = self.advance(consumed, state, length, training, asked)
        return hidden, held, self._with_pending(after, _last(rows, length, state["row"]), length)

    def _with_pending(self, after: dict, row, length=None) -> dict:
        """Make a row the pending row, int32 (B, F), unless `length` is 0: what remains counts from its onset."""
        if self.controls:
            cells = self._cells(row[:, None])
            cells = cells if length is None else ops.where(length[:, None] > 0, cells, 0.0)
            after = after | {STATE: follow(after[STATE], cells)[:, 0]}
        return after | {"row": row}

    def step(self, state: dict, noise, temperature, top_p, min_p):
        """Draw the next row: state, float32 (B, F), (B,) each → int32 (B, F), state.

        After END the row is END again, and the state does not change. A piece whose length was asked for ends then.
        """
        hidden, held, after = self.advance(state["row"][:, None], state)
        now = {name: value[:, 0] for name, value in held.items()}
        if self.controls:
            now["too_early"] = is_early(state[STATE])
        row = self.heads.draw(hidden[:, 0], noise, now, temperature, top_p, min_p)
        if self.controls:  # nothing begins after the last onset that was asked for, but the rest of its chord
            later = self._cells(row[:, None])[:, 0] > _CHORD
            row = ops.where((is_over(state[STATE]) & later)[:, None], END, row)
        ended = state["row"][:, 0] == END
        row = ops.where(ended[:, None], END, row)
        after = self._with_pending(after, row)
        after = {name: xla.where_rows(ended, state[name], value) for name, value in after.items()}
        return row, after | {"row": row}

    def call(self, rows, training=False):
        """Compute the nats of windows that start from the empty state: int32 (B, T, F) → float32 (B, T, F).

        Four columns more, as `data.Windows` adds them, are the controls that hold when each row is predicted.
        In training, heads with a loss other than nats append it: (B, T, 2 F).
        """
        columns = len(self.encoding.names)
        asked = ops.cast(rows[:, :, columns:], "float32") if rows.shape[2] > columns else None
        rows = rows[:, :, :columns]
        empty = self.initial_state(ops.shape(rows)[0])
        for name in self.core.rows_state:  # no row came before
            empty[name] = empty[name][:, :0]
        if self.repetition_notes:  # the past is empty, so keep only as much of it as a window can be compared with
            empty["past"] = empty["past"][:, : rows.shape[1] + repetition.LONGEST]
        with xla.precision(self.precision if training else "float32"):
            hidden, held, _ = self._consume(rows, empty, training=training, asked=asked)
            nats = self.heads.nll(hidden, rows, held, training)
            if training and hasattr(self.heads, "loss"):
                return ops.concatenate([nats, self.heads.loss(hidden, rows, held)], axis=-1)
        return nats

    @property
    def metrics(self):
        """List the loss and each column's nats."""
        return [self._loss_tracker, *self.losses_by_column] if self.compiled else []

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Compute the mean over the batch of the nats per note, or of the heads' own loss."""
        notes = ops.maximum(devices.total(_notes(x)), 1.0)  # of the whole batch; `x` may be one device's part
        return ops.sum(y_pred[:, :, -len(self.encoding.names) :]) / notes

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Add the batch's nats and notes to each column's metric; return all metrics."""
        notes = _notes(x)
        for k, metric in enumerate(self.losses_by_column):  # as sums, because one device's part may hold no note
            metric.total.assign(metric.total + ops.sum(y_pred[:, :, k]))
            metric.count.assign(metric.count + notes)
        return self.get_metrics_result()


def _notes(rows):
    """Count the notes in rows: int32 (B, T, F) → float32 ()."""
    return ops.sum(ops.cast(rows[:, :, 0] >= FIRST, "float32"))


def _counts(rows, length):
    """Mark the rows within `length`: (B, T, F), (B,) → bool (B, T)."""
    return ops.arange(rows.shape[1])[None] < length[:, None]


def _last(values, length, before):
    """Take the last value within `length`: (B, T, …) and (B,) → (B, …); `before` where the length is 0."""
    if length is None:
        return values[:, -1]
    at = ops.reshape(ops.maximum(length - 1, 0), (-1, 1, 1))
    last = ops.take_along_axis(values, ops.cast(at, "int32"), axis=1)[:, 0]
    return ops.where(length[:, None] > 0, last, before)


def build(card: dict) -> EventModel:
    """Build the model that a card describes, with new random weights."""
    encoding = encodings.from_config(card["encoding"])
    core, head = cores.build(card["core"]), heads.build(card["heads"], encoding)
    if head.tables:
        layer = inputs.Embedded(encoding, core.units, head.tables, head.slots, card["core"].get("ordered", False))
    else:
        layer = inputs.build(card["core"].get("input", "embedding"), encoding, core.units)
    asked = card.get("controls")
    control = ControlEmbeddings(Controls.from_card(asked), core.units, name="controls") if asked else None
    return EventModel(encoding, layer, core, head, control)
