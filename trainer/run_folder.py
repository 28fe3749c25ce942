"""A run's folder → its model and card; a model's weights ↔ arrays by name. Knows nothing of training.

A run folder holds
    card.json             the model's card, with its metrics
    model.txt, model.svg  its layers as a table and as a diagram
    history.csv, loss.png one line an epoch
    tensorboard/          the numbers of history.csv as event files
    samples/              a few new pieces by the best weights, and a comparison with real pieces
    weights/best.npz, last.npz, 00010.npz …
    checkpoint.npz        all that is needed to continue: weights, optimiser, dropout's random state, history
Every write is atomic, so a run may be killed at any moment.
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
    """Write named arrays into the bytes of an .npz file, without pickles."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)  # type: ignore[arg-type]  # mypy takes every name for that of a flag
    return out.getvalue()


def unpack(path: str) -> dict[str, np.ndarray]:
    """Read the named arrays of an .npz file.

    Raises:
        RecordError: the file is damaged.
        FileNotFoundError: there is no such file.
    """
    content = storage.read(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zipfile.BadZipFile, ValueError, KeyError …
        raise RecordError(f"{path} is damaged: {error!r}") from error


def weights(of: keras.Model) -> dict[str, np.ndarray]:
    """Return a model's weights by their paths, without the random states of its dropout."""
    return {w.path: keras.ops.convert_to_numpy(w) for w in of.weights if "seed_generator" not in w.path}


def load_weights(into: keras.Model, arrays: dict[str, np.ndarray], path: str) -> None:
    """Set a model's weights to these arrays; `path`, of their file, is for the message.

    Raises RecordError if an array is missing or has another shape.
    """
    for w in into.weights:
        if "seed_generator" in w.path:
            continue
        array = arrays.get(w.path)
        if array is None or array.shape != tuple(w.shape):
            actual = "nothing" if array is None else array.shape
            raise RecordError(f"{path}: expected {w.path} of shape {tuple(w.shape)}, got {actual}")
        w.assign(array.astype("f4"))


def load(run: str, which: str = "best") -> tuple[model.EventModel, dict]:
    """Load a run's model and card; `which` is best, last or the number of an epoch whose weights are kept.

    Raises:
        RecordError: there is no such run, or the weights are missing or damaged.
    """
    try:
        card = Card.parse(storage.read(storage.join(run, CARD)), storage.join(run, CARD)).facts
        loaded = model.build(card)
    except FileNotFoundError:
        raise RecordError(f"{run} is no run: {CARD} is missing") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{storage.join(run, CARD)} describes no model that we know: {error!r}") from error
    name = f"{int(which):05d}" if which.isdigit() else which
    path = storage.join(run, "weights", f"{name}.npz")
    try:
        load_weights(loaded, unpack(path), path)
    except FileNotFoundError:
        files = storage.entries(storage.join(run, "weights"))
        hint = f"there are {files}" if files else "weights are written after each epoch, and none has ended"
        raise RecordError(f"{path} is missing; {hint}") from None
    return loaded, card
