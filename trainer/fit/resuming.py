"""A run's folder and a fresh model → the model as the run's last checkpoint left it. Knows nothing of data."""

from dataclasses import dataclass

import keras
import numpy as np

from music import storage
from music.errors import RecordError
from music.storage import checksums
from trainer.fit import checkpoints
from trainer.fit.checkpoints import Progress
from trainer.fit.run_identity import check_same
from trainer.run_folder import CARD, CHECKPOINT, HISTORY, unpack


@dataclass(frozen=True)
class Resumed:
    """What a training begins with, besides the model."""

    card: dict  # to go on with
    progress: Progress
    metrics: dict[str, np.ndarray]  # of a broken epoch, for checkpoints.put_metrics
    version: int  # of the checkpoint; 0 where there is none


def resume(run: str, model: keras.Model, card: dict) -> Resumed:
    """Load the last checkpoint into the model; where there is none, begin the run by writing its card.

    Raises RecordError where the folder holds another run, or a file of it is damaged or missing.
    """
    storage.sweep(run)
    version = checkpoints.version(run)
    return _continue(run, model, card, version) if version else _start(run, card)


def _start(run: str, card: dict) -> Resumed:
    if epochs := _epochs_in_history(run):
        path = storage.join(run, CHECKPOINT)
        raise RecordError(f"{path} is missing, though {HISTORY} has {epochs} epochs: {_remedy(run)}")
    if storage.exists(storage.join(run, CARD)):
        card = check_same(run, card)
    storage.write(storage.join(run, CARD), checksums.with_checksum(card))
    return Resumed(card, Progress(), {}, 0)


def _continue(run: str, model: keras.Model, card: dict, version: int) -> Resumed:
    card = check_same(run, card)
    try:
        progress, metrics = checkpoints.load(run, model)
        if progress.best:  # which may stay the best, and would be missed hours later
            unpack(storage.join(run, "weights", "best.npz"))
    except FileNotFoundError as error:
        raise RecordError(f"{error.filename} is missing: {_remedy(run)}") from None
    except RecordError as error:
        raise RecordError(f"{error}; {_remedy(run)}") from error
    return Resumed(card, progress, metrics, version)


def _remedy(run: str) -> str:
    return f"put it back, or begin another run with the last weights: --from {run} --weights last"


def _epochs_in_history(run: str) -> int:
    """Count the epochs of the history; 0 for a single one, as the first checkpoint is written behind its line."""
    path = storage.join(run, HISTORY)
    lines = storage.read(path).count(b"\n") - 1 if storage.exists(path) else 0
    return lines if lines > 1 else 0
