"""Held notes: rows → how long each note still sounds, exactly, for the core's input and the heads.

With the pedal folded in, notes end together when the pedal lifts. So the ends of the held notes say much about a new
note's end. All times are whole cells of 10 ms as float32, where sums are exact. So a training window and the same notes
one by one give the same bits. Knows nothing of layers.

B batch, T time, P pitches, S slots.
"""

import numpy as np
from keras import ops

from music.encodings import NoteRows
from music.encodings.columns import CELL, FIRST

_NEVER = -1e9
_LONG = 1e6  # cells; an onset longer ago counts as this long ago

# The state, all float32; 0 means that there is no note:
#   slots    [B, S]  remaining cells of the last S notes, the last note first
#   ringing  [B, P]  remaining cells of each pitch: until its last note ends
#   struck   [B, P]  1 + the cells since each pitch's last onset


class Tables:
    """Tables of an encoding, as constants: ids → cells, and cells → duration ids."""

    def __init__(self, encoding: NoteRows):
        names = encoding.names
        self.step, self.pitch, self.duration = (names.index(name) for name in ("step", "pitch", "duration"))
        self.pitches = encoding.column("pitch").size
        column = encoding.column("duration")
        self.cells = [_cells(encoding.columns[k].values) for k in range(len(names))]
        self.ids = column.encode(np.arange(round(column.high / CELL) + 1) * CELL)

    def to_cells(self, ids, k: int):
        """Convert ids of time column k to cells; PAD, BEGIN and END are 0."""
        return ops.take(self.cells[k], ids)

    def to_ids(self, cells):
        """Convert cells to duration ids."""
        return ops.take(self.ids, ops.cast(ops.clip(cells, 0, len(self.ids) - 1), "int32"))


def _cells(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(FIRST), values / CELL]).round(6).astype("f4")


def spec(tables: Tables, slots: int) -> dict[str, tuple]:
    """List the names and shapes of the state."""
    return {"slots": (slots,), "ringing": (tables.pitches,), "struck": (tables.pitches,)}


def steps(tables: Tables, rows):
    """Return the cells from the row before to each row; 0 where a row is no note: int32 (B, T, F) → float32 (B, T)."""
    return ops.where(rows[:, :, 0] >= FIRST, tables.to_cells(rows[:, :, tables.step], tables.step), 0.0)


def follow(tables: Tables, rows, state: dict) -> dict:
    """Compute the held notes after each row.

    Args:
        rows: int32 (B, T, F).
        state: the held notes before the first row.

    Returns:
        The state after every row: dict of float32 (B, T, …).
    """
    note = rows[:, :, 0] >= FIRST  # (B, T)
    clock = ops.cumsum(steps(tables, rows), axis=1)  # (B, T)
    end = ops.where(note, clock + tables.to_cells(rows[:, :, tables.duration], tables.duration), _NEVER)
    length, slots = rows.shape[1], state["slots"].shape[1]
    ends = ops.concatenate([ops.flip(state["slots"], axis=1), end], axis=1)  # (B, S + T)
    slot_ends = ops.stack([ends[:, slots - k : slots - k + length] for k in range(slots)], axis=-1)  # (B, T, S)

    begins = (rows[:, :, tables.pitch, None] - FIRST == np.arange(tables.pitches, dtype="i4")) & note[:, :, None]
    last_end = _highest(state["ringing"], begins, end)  # (B, T, P) on the clock
    onset = _highest(ops.where(state["struck"] > 0, 1 - state["struck"], _NEVER), begins, clock)
    now = clock[:, :, None]
    return {
        "slots": ops.maximum(slot_ends - now, 0.0),
        "ringing": ops.maximum(last_end - now, 0.0),
        "struck": ops.where(onset > _NEVER / 2, ops.minimum(now - onset + 1, _LONG), 0.0),
    }


def _highest(before, begins, value):
    """Compute each pitch's highest value so far: (B, P), bool (B, T, P), (B, T) → (B, T, P).

    `before`: its value before the first row; `begins`: whether it begins in a row, and so takes the row's `value`.
    """
    values = ops.where(begins, value[:, :, None], _NEVER)
    x = ops.concatenate([before[:, None], values], axis=1)
    shift = 1
    while shift < x.shape[1]:  # a running maximum by doubling
        x = ops.maximum(x, ops.pad(x[:, :-shift], [[0, 0], [shift, 0], [0, 0]], constant_values=_NEVER))
        shift *= 2
    return x[:, 1:]


def later(held: dict, cells) -> dict:
    """Move held notes on by some cells: state (…, S or P), cells (…) → state. Other entries of `held` stay."""
    cells = cells[..., None]
    return held | {
        "slots": ops.maximum(held["slots"] - cells, 0.0),
        "ringing": ops.maximum(held["ringing"] - cells, 0.0),
        "struck": ops.where(held["struck"] > 0, held["struck"] + cells, 0.0),
    }


def slot_remaining(held: dict):
    """Return the remaining cells of each slot and, last, of the pitch that ends last: (…, S + 1)."""
    return ops.concatenate([held["slots"], ops.max(held["ringing"], axis=-1, keepdims=True)], axis=-1)


def slot_features(held: dict):
    """Compute of each slot its remaining time, and whether it is held at all: (…, 2 (S + 1))."""
    remaining = slot_remaining(held)
    return ops.concatenate([_scaled(remaining), _on(remaining)], axis=-1)


def pitch_features(held: dict):
    """Compute of each pitch whether it is held, its remaining time, and how recent its onset is: (…, 4 P)."""
    remaining, since_onset = held["ringing"], held["struck"]
    return ops.concatenate(
        [
            _on(remaining),
            _scaled(remaining),
            _on(since_onset) * ops.exp(since_onset * -(1 / 50)),
            _on(since_onset) * ops.exp(since_onset * -(1 / 400)),
        ],
        axis=-1,
    )


def _on(x):
    return ops.cast(x > 0, "float32")


def _scaled(cells):
    return ops.log1p(cells) * (1 / 6)
