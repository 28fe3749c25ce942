"""A run's folder: weights by name, and a model from them. Knows nothing of training.

A run folder holds
    card.json             the model's card, metrics included
    model.txt, model.svg  its layers as a table and as a diagram
    history.csv, loss.png one line an epoch
    tensorboard/          the same as history.csv, as event files
    samples/              a few new pieces by the best weights, and how they compare with real ones
    weights/best.npz, last.npz, 00010.npz …
    checkpoint.npz        all that is needed to go on: weights, optimiser, dropout's chance, history
Every file is written whole or not at all, so a run may be killed at any instant.
"""

import io

import keras
import numpy as np

from music import storage
from music.errors import RecordError
from music.generation import Card
from trainer import model

CARD, CHECKPOINT, HISTORY = "card.json", "checkpoint.npz", "history.csv"


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Named arrays as an .npz file, without pickles."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)  # type: ignore[arg-type]  # mypy takes any name for a flag's
    return out.getvalue()


def unpack(path: str) -> dict[str, np.ndarray]:
    """Raises RecordError where the file is damaged, FileNotFoundError where it is not there."""
    content = storage.read(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zipfile.BadZipFile, ValueError, KeyError …
        raise RecordError(f"{path} is damaged: {error!r}") from error


def weights(of: keras.Model) -> dict[str, np.ndarray]:
    """A model's weights by name."""
    return {w.path: keras.ops.convert_to_numpy(w) for w in of.weights if "seed_generator" not in w.path}


def load_weights(into: keras.Model, arrays: dict[str, np.ndarray], path: str) -> None:
    """Raises RecordError where the arrays are not those of this model."""
    for w in into.weights:
        if "seed_generator" in w.path:
            continue
        found = arrays.get(w.path)
        if found is None or found.shape != tuple(w.shape):
            came = "nothing" if found is None else found.shape
            raise RecordError(f"{path}: expected {w.path} of shape {tuple(w.shape)}, got {came}")
        w.assign(found.astype("f4"))


def load(run: str, which: str = "best") -> tuple[model.EventModel, dict]:
    """A run's model and card; `which` is best, last or the number of a kept epoch.

    Raises:
        RecordError: no such run, no such weights, or damaged ones.
    """
    try:
        card = Card.parse(storage.read(storage.join(run, CARD)), storage.join(run, CARD)).facts
        made = model.build(card)
    except FileNotFoundError:
        raise RecordError(f"{run} is no run: {CARD} is missing") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{storage.join(run, CARD)} describes no model that we know: {error!r}") from error
    name = f"{int(which):05d}" if which.isdigit() else which
    path = storage.join(run, "weights", f"{name}.npz")
    try:
        load_weights(made, unpack(path), path)
    except FileNotFoundError:
        kept = storage.entries(storage.join(run, "weights"))
        there = f"there are {kept}" if kept else "weights are written after each epoch, and none has ended"
        raise RecordError(f"{path} is missing; {there}") from None
    return made, card
