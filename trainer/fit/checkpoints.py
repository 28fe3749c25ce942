"""A run's progress as one file: weights, optimiser, dropout's random states, history.

In the middle of an epoch the file also holds the step and the metrics so far. Knows nothing of recipes, and not when
a checkpoint is due.
"""

import json
from dataclasses import dataclass, field

import keras
import numpy as np

from music import storage
from music.errors import RecordError
from trainer.run_folder import CHECKPOINT, load_weights, pack, unpack, weights


@dataclass
class Progress:
    """How far a run has come: a line of history for each finished epoch, and the steps of the epoch after them.

    `seconds`: how long these steps took.
    """

    history: list[dict] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """Count the finished epochs."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def best(self) -> dict | None:
        """Find the line of the epoch with the lowest validation loss, the first one of equals."""
        return min(self.history, key=lambda line: line["val_loss"], default=None)


def version(run: str) -> int:
    """Return the version of a run's checkpoint; 0 where there is none."""
    return storage.version(storage.join(run, CHECKPOINT))


def save(run: str, model: keras.Model, progress: Progress, expected: int) -> int:
    """Replace the checkpoint of a run, which must still have the expected version. Return the new version.

    Raises Conflict where another process trains in the same folder.
    """
    arrays = weights(model) | {"history": np.frombuffer(json.dumps(progress.history).encode(), "u1")}
    variables = {variable.path: variable for variable in model.optimizer.variables}
    variables |= {f"chance/{number}": variable for number, variable in enumerate(dropout_states(model))}
    if progress.step:
        variables |= _metrics(model)
        arrays["unfinished"] = np.array([progress.step, progress.seconds])
    arrays |= {name: number(variable) for name, variable in variables.items()}
    return storage.write(storage.join(run, CHECKPOINT), pack(arrays), expected)


def load(run: str, model: keras.Model) -> tuple[Progress, dict[str, np.ndarray]]:
    """Load a run's checkpoint into a model and its optimiser. Return the progress, and what `put_metrics` takes.

    Raises:
        FileNotFoundError: there is no checkpoint.
        RecordError: it is damaged, or of another model, or of another version of Keras or of this code.
    """
    path = storage.join(run, CHECKPOINT)
    arrays = unpack(path)
    load_weights(model, arrays, path)
    try:
        for variable in model.optimizer.variables:
            variable.assign(arrays[variable.path])
        states = [array for name, array in arrays.items() if name.startswith("chance/")]
        for variable, state in zip(dropout_states(model), states, strict=True):
            variable.assign(state)
        progress = Progress(json.loads(bytes(arrays["history"])))
        if "unfinished" not in arrays:
            return progress, {}
        progress.step, progress.seconds = int(arrays["unfinished"][0]), float(arrays["unfinished"][1])
        return progress, {name: arrays[name] for name in _metrics(model)}
    except (KeyError, ValueError) as error:
        raise RecordError(f"{path} lacks {error}: it was not written by this version of Keras and of ours") from error


def put_metrics(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Set the metrics to their values in a checkpoint. Keras resets them when an epoch begins: call this after that."""
    for name, variable in _metrics(model).items():
        variable.assign(arrays[name])


def averages(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the moving averages of the weights by name; empty where the optimiser computes none."""
    optimizer = model.optimizer
    if not optimizer.use_ema:
        return {}
    pairs = zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return {weight.path: number(average) for weight, average in pairs}


def number(variable: keras.Variable) -> np.ndarray:
    """Return a variable's value; the sum over TensorFlow's replicas where each has a value of its own."""
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def dropout_states(model: keras.Model) -> list[keras.Variable]:
    """List the states of the dropouts' random generators: no weights, but part of a run's progress.

    A checkpoint numbers them, as Keras' own names for them depend on what else the process has built.
    """
    return [variable for variable in model.variables if "seed_generator" in variable.path]


def _metrics(model: keras.Model) -> dict[str, keras.Variable]:
    return {f"metrics/{number}": variable for number, variable in enumerate(model.metrics_variables)}
