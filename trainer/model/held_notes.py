"""What still sounds: rows → how long each note has left, exactly, for the core's input and the heads.

With the pedal folded in, notes end together when it lifts, so most of a note's end is told by the ends of notes that
sound already. Everything is counted in whole cells of 10 ms as float32, where sums are exact: a training window and
the same notes one by one give the same bits. Knows nothing of layers.

B batch, T time, P pitches, S slots.
"""

import numpy as np
from keras import ops

from music.encodings import NoteRows
from music.encodings.columns import CELL, FIRST

_NEVER = -1e9
_LONG = 1e6  # cells; nobody remembers an onset longer ago

# state, all float32, 0 where nothing is:
#   slots    [B, S]  cells that the last S notes have left, the last one first
#   ringing  [B, P]  cells until the last of each pitch's notes ends
#   struck   [B, P]  1 + the cells since each pitch was struck


class Tables:
    """Ids → cells, and cells → duration ids, as constants."""

    def __init__(self, encoding: NoteRows):
        names = encoding.names
        self.step, self.pitch, self.duration = (names.index(name) for name in ("step", "pitch", "duration"))
        self.pitches = encoding.column("pitch").size
        column = encoding.column("duration")
        self.cells = [_cells(encoding.columns[k].values) for k in range(len(names))]
        self.ids = column.encode(np.arange(round(column.high / CELL) + 1) * CELL)

    def to_cells(self, ids, k: int):
        """Ids of time column k → cells; PAD, BEGIN and END are 0."""
        return ops.take(self.cells[k], ids)

    def to_ids(self, cells):
        """Cells → duration ids."""
        return ops.take(self.ids, ops.cast(ops.clip(cells, 0, len(self.ids) - 1), "int32"))


def _cells(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(FIRST), values / CELL]).round(6).astype("f4")


def spec(tables: Tables, slots: int) -> dict[str, tuple]:
    """Names and shapes of the state."""
    return {"slots": (slots,), "ringing": (tables.pitches,), "struck": (tables.pitches,)}


def follow(tables: Tables, rows, state: dict) -> dict:
    """What sounds after each row.

    Args:
        rows: int32 (B, T, F).
        state: what sounded before the first row.

    Returns:
        The state after every row: dict of float32 (B, T, …).
    """
    note = rows[:, :, 0] >= FIRST  # (B, T)
    step = ops.where(note, tables.to_cells(rows[:, :, tables.step], tables.step), 0.0)
    clock = ops.cumsum(step, axis=1)  # (B, T)
    end = ops.where(note, clock + tables.to_cells(rows[:, :, tables.duration], tables.duration), _NEVER)
    length, slots = rows.shape[1], state["slots"].shape[1]
    ends = ops.concatenate([ops.flip(state["slots"], axis=1), end], axis=1)  # (B, S + T)
    left = ops.stack([ends[:, slots - k : slots - k + length] for k in range(slots)], axis=-1)  # (B, T, S)

    struck_now = (rows[:, :, tables.pitch, None] - FIRST == np.arange(tables.pitches, dtype="i4")) & note[:, :, None]
    ringing = _highest(state["ringing"], struck_now, end)  # (B, T, P) on the clock
    onset = _highest(ops.where(state["struck"] > 0, 1 - state["struck"], _NEVER), struck_now, clock)
    now = clock[:, :, None]
    return {
        "slots": ops.maximum(left - now, 0.0),
        "ringing": ops.maximum(ringing - now, 0.0),
        "struck": ops.where(onset > _NEVER / 2, ops.minimum(now - onset + 1, _LONG), 0.0),
    }


def _highest(before, struck, value):
    """Per pitch the highest value so far: (B, P) before, (B, T, P) where struck, (B, T) value → (B, T, P)."""
    values = ops.where(struck, value[:, :, None], _NEVER)
    x = ops.concatenate([before[:, None], values], axis=1)
    shift = 1
    while shift < x.shape[1]:  # a running maximum by doubling
        x = ops.maximum(x, ops.pad(x[:, :-shift], [[0, 0], [shift, 0], [0, 0]], constant_values=_NEVER))
        shift *= 2
    return x[:, 1:]


def later(sounding: dict, cells) -> dict:
    """What still sounds some cells later: (…) cells, (…, S or P) state; what else there is stays."""
    cells = cells[..., None]
    return sounding | {
        "slots": ops.maximum(sounding["slots"] - cells, 0.0),
        "ringing": ops.maximum(sounding["ringing"] - cells, 0.0),
        "struck": ops.where(sounding["struck"] > 0, sounding["struck"] + cells, 0.0),
    }


def slot_left(sounding: dict):
    """Cells left of each slot and, last, of the longest pitch: (…, S + 1)."""
    return ops.concatenate([sounding["slots"], ops.max(sounding["ringing"], axis=-1, keepdims=True)], axis=-1)


def slot_features(sounding: dict):
    """(…, 2 (S + 1)): how long each slot has left, and whether it sounds at all."""
    left = slot_left(sounding)
    return ops.concatenate([_scaled(left), _on(left)], axis=-1)


def pitch_features(sounding: dict):
    """(…, 4 P): of each pitch whether it sounds, how long still, and how lately it was struck."""
    ringing, struck = sounding["ringing"], sounding["struck"]
    return ops.concatenate(
        [
            _on(ringing),
            _scaled(ringing),
            _on(struck) * ops.exp(struck * -(1 / 50)),
            _on(struck) * ops.exp(struck * -(1 / 400)),
        ],
        axis=-1,
    )


def _on(x):
    return ops.cast(x > 0, "float32")


def _scaled(cells):
    return ops.log1p(cells) * (1 / 6)
