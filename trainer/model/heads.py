"""Heads: a hidden vector → the distribution of one event, as the likelihood of a row or as a draw.

p(row | h) is the product over columns of p(column | h, the columns before it). So a note takes one step of the core and
some small dense layers. Every function works for any leading dimensions: (B, T) in training, (B,) when drawing.

B batch, T time, F columns, D width, C classes of a column, S slots.
"""

import keras
import numpy as np
from keras import ops

from music.encodings import Encoding, NoteRows
from music.encodings.columns import BEGIN, CELL, END, FIRST
from trainer import devices
from trainer.model import held_notes
from trainer.model.repetition import LONGEST
from trainer.model.sampling import choose
from trainer.model.xla import Dense
from trainer.recipe import RecipeError

_OUT = -1e9  # the logit of a class that is impossible


class ChainHeads(keras.layers.Layer):
    """One head for each column, in the encoding's order.

    Columns behind the step see the held notes as they are after it. The duration is a mixture: a softmax over its
    classes, and pointers "ends with that note" to each of the last S notes and to the held note that ends last. With
    `recall` the pitch is a mixture, too: its pointer is the pitch that followed the last time that these pitches
    sounded, up to `recall` notes ago.
    """

    def __init__(self, encoding: NoteRows, hidden: int, slots: int, dropout: float, recall: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.recall = recall
        self.names, self.sizes, self.hidden, self.slots = encoding.names, encoding.sizes, hidden, slots
        self.tables = held_notes.Tables(encoding)
        self.grid = _log_cells(encoding)
        self.projection = {n: Dense(hidden, name=f"{n}_hear") for n in self.names}
        self.context = {n: Dense(hidden, use_bias=False, name=f"{n}_context") for n in self.names}
        self.previous = {
            (n, m): keras.layers.Embedding(self.sizes[j], hidden, name=f"{n}_told_{m}")
            for k, n in enumerate(self.names)
            for j, m in enumerate(self.names[:k])
        }
        self.score = {n: Dense(size, name=f"{n}_score") for n, size in zip(self.names, self.sizes, strict=True)}
        self.point = Dense(slots + 2, name="duration_point")
        self.repeat = Dense(2, name="pitch_repeat") if recall else None
        self.dropout = keras.layers.Dropout(dropout)
        self.masks = [_mask(size, first=k == 0) for k, size in enumerate(self.sizes)]

    def build(self, shape):
        context = 2 * (self.slots + 1)
        sizes = {"pitch": context + 4 * self.tables.pitches, "duration": context + 2}
        for name in self.names:
            self.projection[name].build((None, shape[-1]))
            self.context[name].build((None, sizes.get(name, context)))
            self.score[name].build((None, self.hidden))
        for table in self.previous.values():
            table.build()
        self.point.build((None, self.hidden))
        if self.repeat:
            self.repeat.build((None, self.hidden + LONGEST + 1))
        self.built = True

    def nll(self, h, rows, held, training=False):
        """Compute each column's nats on the evaluation's grid: (…, D), int32 (…, F), held notes → float32 (…, F).

        PAD and BEGIN rows have 0 nats. An END row has nats in its first column only.
        """
        nats = []
        columns = [rows[..., k] for k in range(len(self.names))]
        features = self._features(held)
        for k in range(len(columns)):
            if k == self.tables.step + 1:
                features = self._features(self._after_step(held, columns))
            log_p, pointer = self._column(k, h, columns, features, training)
            target = columns[k]
            at = ops.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
            if pointer is not None:
                gate, ids = pointer
                hit = ops.where(ids == target[..., None], gate[..., 1:], _OUT)
                at = ops.logaddexp(gate[..., 0] + at, ops.logsumexp(hit, axis=-1))
            nats.append(_counted(ops.take(self.grid[k], target) - at, rows, k))
        return ops.stack(nats, axis=-1)

    def draw(self, h, noise, held, temperature, top_p, min_p):
        """Draw one row: (B, D), float32 (B, F) in [0, 1), held notes, (B,) each → int32 (B, F).

        `too_early`, bool (B,) beside the held notes: the piece may not end with this row.
        """
        drawn: list = []
        features = self._features(held)
        for k, size in enumerate(self.sizes):
            if k == self.tables.step + 1:
                features = self._features(self._after_step(held, drawn))
            log_p, pointer = self._column(k, h, drawn, features, False)
            if pointer is not None:
                gate, ids = pointer
                share = ops.one_hot(ids, size) * ops.exp(gate[..., 1:])[..., None]  # (B, P, C)
                log_p = ops.log(ops.exp(gate[..., :1] + log_p) + ops.sum(share, axis=-2) + 1e-30)
                log_p = ops.where(self.masks[k] < 0, _OUT, log_p)
            if not k and "too_early" in held:
                is_end = np.arange(size) == END
                log_p = ops.where(held["too_early"][:, None] & is_end, _OUT, log_p)
            column = choose(log_p, noise[:, k], temperature, top_p, min_p)
            drawn.append(ops.where(drawn[0] == END, END, column) if k else column)
        return ops.stack(drawn, axis=-1)

    def _after_step(self, held, columns):
        """Return the notes that are still held after the row's step."""
        return held_notes.later(held, self.tables.to_cells(columns[self.tables.step], self.tables.step))

    def _features(self, held) -> dict:
        """Compute what the heads read of the held notes; only the row's step changes it."""
        features = {
            "slot_features": held_notes.slot_features(held),
            "pitch_features": held_notes.pitch_features(held),
        }
        return held | features | {"remaining": held_notes.slot_remaining(held)}

    def _column(self, k: int, h, columns, features, training):
        """Compute column k's log probabilities (…, C), and its pointers or None.

        Pointers to P classes are log weights (…, 1 + P), the softmax's own weight first, and ids (…, P). A duration
        points to the ends of S notes and of the held note that ends last; a pitch to the one that followed before.
        """
        name = self.names[k]
        context = [features["slot_features"]]
        if name == "pitch":
            context.append(features["pitch_features"])
        if name == "duration":  # is this pitch held already, and for how long?
            same_pitch = columns[self.tables.pitch][..., None] - FIRST == np.arange(self.tables.pitches, dtype="i4")
            remaining = ops.sum(ops.where(same_pitch, features["ringing"], 0.0), axis=-1, keepdims=True)
            context.append(ops.concatenate([ops.log1p(remaining), ops.cast(remaining > 0, "float32")], axis=-1))
        x = self.projection[name](h) + self.context[name](ops.concatenate(context, axis=-1))
        for j in range(k):
            x = x + self.previous[name, self.names[j]](columns[j])
        x = self.dropout(ops.gelu(x), training=training)
        log_p = ops.log_softmax(self.score[name](x) + self.masks[k], axis=-1)
        if name == "pitch" and self.repeat:
            pitch, run = features["next"][..., None], ops.one_hot(features["run"], LONGEST + 1)
            repeat = self.repeat(ops.concatenate([x, run], axis=-1))
            repeat = ops.concatenate([repeat[..., :1], ops.where(pitch > 0, repeat[..., 1:], _OUT)], axis=-1)
            return log_p, (ops.log_softmax(repeat, axis=-1), pitch)
        if name != "duration":
            return log_p, None
        remaining = features["remaining"]
        point = self.point(x)
        point = ops.concatenate([point[..., :1], ops.where(remaining > 0, point[..., 1:], _OUT)], axis=-1)
        return log_p, (ops.log_softmax(point, axis=-1), self.tables.to_ids(remaining))


class IndependentHeads(keras.layers.Layer):
    """One softmax for each column; no head reads another column."""

    tables = None

    def __init__(self, encoding: Encoding, **kwargs):
        super().__init__(**kwargs)
        self.grid = _log_cells(encoding)
        self.score = [
            Dense(size, name=f"{name}_score") for name, size in zip(encoding.names, encoding.sizes, strict=True)
        ]
        self.masks = [_mask(size, first=k == 0) for k, size in enumerate(encoding.sizes)]

    def build(self, shape):
        for score in self.score:
            score.build(shape)
        self.built = True

    def nll(self, h, rows, held, training=False):
        """Compute each column's nats, as ChainHeads.nll."""
        nats = []
        for k, (score, mask) in enumerate(zip(self.score, self.masks, strict=True)):
            nats.append(_counted(ops.take(self.grid[k], rows[..., k]) - _log_p(score(h) + mask, rows[..., k]), rows, k))
        return ops.stack(nats, axis=-1)

    def draw(self, h, noise, held, temperature, top_p, min_p):
        """Draw one row, as ChainHeads.draw."""
        drawn: list = []
        for k, (score, mask) in enumerate(zip(self.score, self.masks, strict=True)):
            column = choose(score(h) + mask, noise[:, k], temperature, top_p, min_p)
            drawn.append(ops.where(drawn[0] == END, END, column) if k else column)
        return ops.stack(drawn, axis=-1)


class RegressionHeads(keras.layers.Layer):
    """A softmax for the first column, and one number for each other column, fitted by its mean squared error.

    For the likelihood, a number is a normal distribution around the prediction, truncated at 0. Its standard deviation
    is that of the training residuals: `sigma`, a moving estimate that is stored with the weights. The likelihood is the
    distribution's mass over the note's cell of 10 ms. A draw is the prediction itself; temperature changes the softmax
    alone.
    """

    tables = None
    follow = 0.99  # momentum of the moving estimate of the residuals' mean square

    def __init__(self, encoding: NoteRows, weights, pressure: float, **kwargs):
        super().__init__(**kwargs)
        if len(weights) != len(encoding.names):
            raise RecipeError(f"regression.weights: expected one for each of {encoding.names}, got {weights}")
        if any(column.spacing != "linear" or not column.is_time for column in encoding.columns[1:]):
            raise RecipeError(f"regression: expected linear times behind the first column, got {encoding.names}")
        self.columns, self.loss_weights, self.pressure = encoding.columns, np.array(weights, "f4"), pressure
        self.mask = _mask(encoding.sizes[0], first=True)
        self.score = Dense(encoding.sizes[0], name=f"{encoding.names[0]}_score")
        self.value = Dense(len(self.columns) - 1, name="value")

    def build(self, shape):
        self.score.build(shape)
        self.value.build(shape)
        self.sigma = self.add_weight(
            name="sigma", shape=(len(self.columns) - 1,), initializer="ones", trainable=False, dtype="float32"
        )
        self.built = True

    def nll(self, h, rows, held, training=False):
        """Compute each column's nats, as ChainHeads.nll."""
        first = rows[..., 0]
        nats = [_counted(-_log_p(self.score(h) + self.mask, first), rows, 0)]
        predicted = ops.maximum(self.value(h), 0.0)
        for k in range(1, len(self.columns)):
            nats.append(_counted(-log_mass(self._seconds(rows, k), predicted[..., k - 1], self.sigma[k - 1]), rows, k))
        return ops.stack(nats, axis=-1)

    def loss(self, h, rows, held):
        """Compute the weighted loss that training minimises instead of nats: (…, D), int32 (…, F) → float32 (…, F)."""
        first = rows[..., 0]
        losses = [_counted(-_log_p(self.score(h) + self.mask, first), rows, 0)]
        predicted = self.value(h)
        notes = ops.cast(first >= FIRST, "float32")
        for k in range(1, len(self.columns)):
            guess = predicted[..., k - 1]
            below = ops.maximum(-guess, 0.0)
            losses.append(notes * ((guess - self._seconds(rows, k)) ** 2 + self.pressure * below))
        self._update_sigma(predicted, rows, notes)
        return ops.stack(losses, axis=-1) * self.loss_weights

    def draw(self, h, noise, held, temperature, top_p, min_p):
        """Draw one row, as ChainHeads.draw."""
        first = choose(self.score(h) + self.mask, noise[:, 0], temperature, top_p, min_p)
        predicted = self.value(h)
        drawn = [first]
        for k, column in enumerate(self.columns[1:]):
            value = ops.round((predicted[:, k] - column.low) / (column.high - column.low) * (column.size - 1))
            least = 1 if column.name == "duration" and column.low == 0 else 0  # a note needs a length
            ids = ops.cast(ops.clip(value, least, column.size - 1), "int32") + FIRST
            drawn.append(ops.where(first == END, END, ids))
        return ops.stack(drawn, axis=-1)

    def _seconds(self, rows, k: int):
        """Convert column k of rows to seconds; 0 where there is no note."""
        column = self.columns[k]
        return ops.take(np.concatenate([np.zeros(FIRST), column.values]).astype("f4"), rows[..., k])

    def _update_sigma(self, predicted, rows, notes):
        """Move sigma towards this batch's residuals."""
        seconds = ops.stack([self._seconds(rows, k) for k in range(1, len(self.columns))], axis=-1)
        squares = notes[..., None] * (ops.maximum(predicted, 0.0) - seconds) ** 2
        axes = tuple(range(len(squares.shape) - 1))
        mean = devices.total(ops.sum(squares, axis=axes)) / ops.maximum(devices.total(ops.sum(notes)), 1.0)
        self.sigma.assign(ops.sqrt(self.follow * self.sigma**2 + (1 - self.follow) * ops.stop_gradient(mean)))


_NODES, _WEIGHTS = (values.astype("f4") for values in np.polynomial.legendre.leggauss(5))


def log_mass(seconds, mean, sigma):
    """Compute the log of a normal distribution's mass over the 10 ms cell of `seconds`; truncated at 0, mean >= 0.

    Gauss and Legendre's rule on logarithms is exact enough, and finite however far away the cell lies.
    """
    cell = ops.round(seconds / CELL)
    sigma = ops.maximum(sigma, CELL / 2)  # the rule is exact down to this width, and the grid is no finer
    low, high = ops.maximum(cell - 0.5, 0.0) * CELL, (cell + 0.5) * CELL
    at = (low + high)[..., None] / 2 + (high - low)[..., None] / 2 * _NODES
    z = (at - mean[..., None]) / sigma
    log_density = -0.5 * z**2 - ops.log(sigma) - float(np.log(np.sqrt(2 * np.pi)))
    above = 0.5 * (1 + ops.erf(mean / sigma * float(np.sqrt(0.5))))  # the share above 0: a half or more
    log_cell = ops.log((high - low) / 2)
    return ops.logsumexp(log_density + np.log(_WEIGHTS), axis=-1) + log_cell - ops.log(above)


def _log_p(logits, target):
    """Take the log probability of a class: (…, C), int32 (…) → (…)."""
    return ops.take_along_axis(ops.log_softmax(logits, axis=-1), target[..., None], axis=-1)[..., 0]


def _counted(nats, rows, k: int):
    """Set nats to 0 where column k of a row does not count: in PAD and BEGIN, and in END behind the first column."""
    return ops.where(rows[..., k] >= (FIRST if k else END), nats, 0.0)


def _log_cells(encoding: Encoding) -> list[np.ndarray]:
    """Return, for each class of each column, the log of the number of its cells.

    In a bin of n cells each cell has the n-th part of the bin's probability.

    Raises RecipeError for bins finer than the grid: a cell then has several classes, and the likelihood of one class is
    not that of the cell.
    """
    if not isinstance(encoding, NoteRows):
        return [np.zeros(size, "f4") for size in encoding.sizes]
    for column in encoding.columns:
        if column.is_time and np.diff(column.values).min() < 0.999 * CELL:
            raise RecipeError(f"column {column.name}: expected bins of 10 ms or more for a softmax, got finer ones")
    return [np.concatenate([np.zeros(FIRST), np.log(column.cells)]).astype("f4") for column in encoding.columns]


def _mask(size: int, first: bool) -> np.ndarray:
    """Return what is added to logits, so that PAD and BEGIN are never drawn, and END by the first column only."""
    mask = np.zeros(size, "f4")
    mask[: BEGIN + 1 if first else FIRST] = _OUT
    return mask


def build(spec: dict, encoding: Encoding) -> keras.layers.Layer:
    """Build the heads that a card describes. Raises RecipeError for heads of notes with an encoding of symbols."""
    spec = dict(spec)
    if spec["kind"] != "independent" and not isinstance(encoding, NoteRows):
        raise RecipeError(f"heads {spec['kind']}: expected an encoding of notes, got {encoding.names}")
    kinds = {"chain": ChainHeads, "independent": IndependentHeads, "regression": RegressionHeads}
    return kinds[spec.pop("kind")](encoding, **spec, name="heads")
