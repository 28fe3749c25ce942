"""Where a run stands, as one file: weights, optimiser, dropout's chance, history; in the middle of an epoch its step
and its metrics so far. Knows nothing of recipes and of when to write."""

import json
from dataclasses import dataclass, field

import keras
import numpy as np

from music import storage
from music.errors import RecordError
from trainer.run_folder import CHECKPOINT, load_weights, pack, unpack, weights


@dataclass
class Place:
    """How far a run has come: the whole epochs' lines of history, and of the epoch after them some steps.

    `seconds`: how long these steps took.
    """

    history: list[dict] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """Whole epochs."""
        return self.history[-1]["epoch"] if self.history else 0


def version(run: str) -> int:
    """Of the checkpoint that is there; 0 where there is none."""
    return storage.version(storage.join(run, CHECKPOINT))


def save(run: str, model: keras.Model, place: Place, expected: int) -> int:
    """Write the checkpoint of a run over the version that is expected there; its own version.

    Raises Conflict where another process trains in the same folder.
    """
    arrays = weights(model) | {"history": np.frombuffer(json.dumps(place.history).encode(), "u1")}
    kept = {variable.path: variable for variable in model.optimizer.variables}
    kept |= {f"chance/{number}": variable for number, variable in enumerate(chance(model))}
    if place.step:
        kept |= _metrics(model)
        arrays["unfinished"] = np.array([place.step, place.seconds])
    arrays |= {name: number(variable) for name, variable in kept.items()}
    return storage.write(storage.join(run, CHECKPOINT), pack(arrays), expected)


def load(run: str, model: keras.Model) -> tuple[Place, dict[str, np.ndarray]]:
    """Put a run's checkpoint into a model with its optimiser; the place, and the metrics' states for `put_metrics`.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is damaged, or another model's, or of another version of Keras or of ours.
    """
    path = storage.join(run, CHECKPOINT)
    arrays = unpack(path)
    load_weights(model, arrays, path)
    try:
        for variable in model.optimizer.variables:
            variable.assign(arrays[variable.path])
        states = [array for name, array in arrays.items() if name.startswith("chance/")]
        for variable, state in zip(chance(model), states, strict=True):
            variable.assign(state)
        place = Place(json.loads(bytes(arrays["history"])))
        if "unfinished" not in arrays:
            return place, {}
        place.step, place.seconds = int(arrays["unfinished"][0]), float(arrays["unfinished"][1])
        return place, {name: arrays[name] for name in _metrics(model)}
    except (KeyError, ValueError) as error:
        raise RecordError(f"{path} lacks {error}: it was not written by this version of Keras and of ours") from error


def put_metrics(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Set the metrics to where they stood. Keras resets them when an epoch begins, so this is for after that."""
    for name, variable in _metrics(model).items():
        variable.assign(arrays[name])


def averages(model: keras.Model) -> dict[str, np.ndarray]:
    """The moving averages of the weights by name, empty where the optimiser keeps none."""
    optimizer = model.optimizer
    if not optimizer.use_ema:
        return {}
    pairs = zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return {weight.path: number(average) for weight, average in pairs}


def number(variable: keras.Variable) -> np.ndarray:
    """A variable's value; of one that each of TensorFlow's replicas adds to, the sum."""
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def chance(model: keras.Model) -> list[keras.Variable]:
    """The states of the dropouts' generators: not weights, but part of where a run stands. Their names say nothing, as
    Keras counts them through a process."""
    return [variable for variable in model.variables if "seed_generator" in variable.path]


def _metrics(model: keras.Model) -> dict[str, keras.Variable]:
    return {f"metrics/{number}": variable for number, variable in enumerate(model.metrics_variables)}
