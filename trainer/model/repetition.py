"""The repetition pointer: the pitches so far → the pitch that comes next if the piece repeats itself.

An LSTM forgets; music repeats. The state has the last N pitches. Among them is searched the longest run of pitches that
equals the newest ones; the result is the pitch behind that run, and the run's length. Knows nothing of layers.

B batch, T time, N notes in the state, D distances.
"""

import numpy as np
from keras import ops

from music.encodings.columns import FIRST
from trainer.model.held_notes import Tables

LONGEST = 8  # notes of a run that are counted
SHORTEST = 2  # a shorter run gives no pitch

# state: past [B, N] float32, the ids of the last N rows' pitches, the newest last; 0 is no note


def spec(notes: int) -> dict[str, tuple]:
    """List the names and shapes of the state; empty where there is no pointer."""
    return {"past": (notes,)} if notes else {}


def follow(tables: Tables, rows, past, length=None) -> tuple[dict, dict]:
    """Search after each row for the pitch that followed before.

    Args:
        rows: int32 (B, T, F).
        past: the pitches before the first row, (B, N), N above LONGEST.
        length: int32 (B,), rows beyond it do not enter the state; None: all do.

    Returns:
        {"next": int32 (B, T) id of the pitch that followed, 0 where there is none, "run": int32 (B, T) length of the
        run before it}, the state after the last row.
    """
    size, count = past.shape[1], rows.shape[1]
    note = rows[:, :, 0] >= FIRST
    pitch = ops.where(note, ops.cast(rows[:, :, tables.pitch], "float32"), 0.0)
    line = ops.concatenate([past, pitch], axis=1)  # (B, N + T)
    back = size + np.arange(count)[:, None] - np.arange(size)[None]
    before = ops.take(line, back.astype("i4"), axis=1)  # (B, T, N), the newest first
    far = size - LONGEST
    runs: list = []  # 1 where at least k + 1 pitches are equal, 0 elsewhere
    for k in range(LONGEST):
        newest = before[:, :, k : k + 1]
        same = ops.cast((before[:, :, 1 + k : 1 + k + far] == newest) & (newest > 0), "float32")
        runs.append(same * runs[-1] if k else same)
    run = sum(runs[1:], runs[0])  # (B, T, D), by distance from 1 on
    # the longest run, and of equally long ones the latest
    nearest = ops.argmax(run * size - np.arange(far, dtype="f4"), axis=-1)[..., None]
    run = ops.cast(ops.take_along_axis(run, nearest, axis=-1)[..., 0], "int32")
    followed = ops.cast(ops.take_along_axis(before[:, :, :far], nearest, axis=-1)[..., 0], "int32")
    followed = ops.where(run >= SHORTEST, followed, 0)
    if length is None:
        after = line[:, count:]
    else:
        after = ops.take_along_axis(line, length[:, None] + np.arange(size, dtype="i4"), axis=1)
    return {"next": followed, "run": ops.where(followed > 0, run, 0)}, {"past": after}
