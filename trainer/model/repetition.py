"""What followed the last time: the pitches so far → which one comes next, if the piece repeats itself.

An LSTM forgets, and music does not. The state keeps the last N pitches; the place where the longest run of pitches like
the newest ones ended is looked up among them, and the pitch behind it is told, with the run's length. Knows no layers.

B batch, T time, N notes kept, D distances.
"""

import numpy as np
from keras import ops

from music.encodings.columns import FIRST
from trainer.model.held_notes import Tables

LONGEST = 8  # notes of a run that are counted
SHORTEST = 2  # below it nothing is told

# state: past [B, N] float32, the ids of the last N rows' pitches, the newest last; 0 is no note


def spec(notes: int) -> dict[str, tuple]:
    """Names and shapes of the state; empty where nothing is recalled."""
    return {"past": (notes,)} if notes else {}


def follow(tables: Tables, rows, past, length=None) -> tuple[dict, dict]:
    """What may come after each row.

    Args:
        rows: int32 (B, T, F).
        past: the pitches before the first row, (B, N), N above LONGEST.
        length: int32 (B,), rows beyond it do not enter the state; None: all do.

    Returns:
        {"next": int32 (B, T) id of the pitch that followed, 0 where none is told, "run": int32 (B, T) length of the run
        before it}, the state after the last row.
    """
    kept, count = past.shape[1], rows.shape[1]
    note = rows[:, :, 0] >= FIRST
    pitch = ops.where(note, ops.cast(rows[:, :, tables.pitch], "float32"), 0.0)
    line = ops.concatenate([past, pitch], axis=1)  # (B, N + T)
    back = kept + np.arange(count)[:, None] - np.arange(kept)[None]
    before = ops.take(line, back.astype("i4"), axis=1)  # (B, T, N), the newest first
    far = kept - LONGEST
    alike: list = []
    for k in range(LONGEST):
        newest = before[:, :, k : k + 1]
        same = ops.cast((before[:, :, 1 + k : 1 + k + far] == newest) & (newest > 0), "float32")
        alike.append(same * alike[-1] if k else same)
    run = sum(alike[1:], alike[0])  # (B, T, D), by distance from 1 on
    # the longest, the latest of these
    nearest = ops.argmax(run * kept - np.arange(far, dtype="f4"), axis=-1)[..., None]
    run = ops.cast(ops.take_along_axis(run, nearest, axis=-1)[..., 0], "int32")
    told = ops.cast(ops.take_along_axis(before[:, :, :far], nearest, axis=-1)[..., 0], "int32")
    told = ops.where(run >= SHORTEST, told, 0)
    if length is None:
        after = line[:, count:]
    else:
        after = ops.take_along_axis(line, length[:, None] + np.arange(kept, dtype="i4"), axis=1)
    return {"next": told, "run": ops.where(told > 0, run, 0)}, {"past": after}
