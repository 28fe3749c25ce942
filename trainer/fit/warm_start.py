"""A run's folder or an exported model → weights that another run begins with. Knows nothing of training.

A clone of this repository holds no run, only an exported model. Its weights are read by name; exports from before
2026-11-21 hold a list, in the order of that time. Either way the model built from them must answer as the export does.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from music import storage
from music.errors import RecordError
from music.generation import Card
from music.model_folder import SERVED
from music.storage import checksums
from trainer import model, recipe, run_folder
from trainer.fit import widening
from trainer.recipe import Recipe

_ORDERS = (("inputs", "core", "heads"), ("core", "heads", "inputs"))  # orders of the parts in lists of weights
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class Start:
    """Weights by name, and the card of the model that they are of."""

    path: str
    weights: dict[str, np.ndarray]
    card: dict
    which: str = ""  # of a run's weights: best, last or an epoch's number

    @property
    def facts(self) -> dict:
        """Describe this start, and what its own run began `from`, for the card of a run that begins with it."""
        trained = self.card.get("metrics", {}).get("trained", {})
        which = {"weights": self.which} if self.which else {}
        before = {"from": self.card["from"]} if "from" in self.card else {}
        return {
            "path": self.path,
            **which,
            "recipe": self.card["recipe"],
            "dataset": self.card.get("dataset"),
            **trained,
            **before,
        }

    @property
    def notes(self) -> int:
        """Count the notes that its run has seen, and the runs before it; cards of before 2026-11-30 name only one."""
        facts, notes = self.facts, 0
        while facts:
            notes += facts.get("notes", 0)
            facts = facts.get("from", {})
        return notes

    def recipe(self) -> Recipe:
        """Make a recipe for the same model with a short, gentle training, as the dataset may be small."""
        base = recipe.from_card(self.card)
        training = replace(
            base.training, rate=base.training.rate / 10, warmup=20, steps=min(base.training.steps, 20),
            epochs=20, patience=4, keep=0, average=0.0,
        )  # fmt: skip
        return replace(base, training=training, select="")

    def model(self) -> model.EventModel:
        """Build the model with these weights."""
        built = model.build(self.card)
        self.put(built)
        return built

    def put(self, into: keras.Model) -> list[str]:
        """Load the weights into a model. Return the names of those that it has besides, such as a new head's.

        Raises RecordError where a weight's shape differs, or where `into` has no weight of a name.
        """
        fresh = run_folder.weights(into)
        if unknown := self.weights.keys() - fresh.keys():
            raise RecordError(f"{self.path}: {', '.join(sorted(unknown))}: the model to be trained has no such weights")
        wide = widening.widen(self.weights, {name: array.shape for name, array in fresh.items()}, seed=0)
        run_folder.load_weights(into, fresh | wide, self.path)
        return sorted(fresh.keys() - self.weights.keys())


def load(path: str, which: str = "best") -> Start:
    """Load a Start from a run's folder, or from an exported version's such as models/performance/1.

    Raises RecordError where the folder is neither, is damaged, or holds a model whose answers this code does not give.
    """
    if storage.exists(storage.join(path, SERVED)):
        folder = str(storage.local(path))
        with storage.called(folder, path):
            return _exported(path, folder)
    if storage.exists(storage.join(path, run_folder.CARD)):
        loaded, card = run_folder.load(path, which)
        return Start(path, run_folder.weights(loaded), card, which)
    raise RecordError(f"{path}: expected a run's folder, with {run_folder.CARD}, or an exported version's, such as "
                      "models/performance/1")  # fmt: skip


def _exported(path: str, folder: str) -> Start:
    import tensorflow as tf

    from trainer.export import saved_model

    checksums.check_folder(Path(folder))
    path_of_card = storage.join(folder, "assets", run_folder.CARD)
    try:
        card = Card.parse(storage.read(path_of_card), path_of_card).facts
    except FileNotFoundError:
        raise RecordError(f"{path} is damaged: assets/{run_folder.CARD} is missing") from None
    try:
        reader = tf.train.load_checkpoint(storage.join(folder, "variables", "variables"))
        values = {name.removesuffix(_VALUE): reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
                  if name.startswith("weights/") and name.endswith(_VALUE)}  # fmt: skip
    except (tf.errors.OpError, ValueError) as error:
        raise RecordError(f"{path} is damaged, its weights cannot be read: {' '.join(str(error).split())}") from error
    try:
        built = model.build(card)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} describes no model that we know: {error!r}") from error
    for arrays in _named(values, built):
        try:
            run_folder.load_weights(built, arrays, path)
        except RecordError as error:
            refused = error
        else:
            saved_model.verify(built, card, folder)
            return Start(path, run_folder.weights(built), json.loads(json.dumps(card)))
    raise refused


def _named(values: dict[str, np.ndarray], built: keras.Model) -> list[dict[str, np.ndarray]]:
    """Name an export's variables as the model's weights; a list of variables once in each of the known orders."""
    if not all(name.removeprefix("weights/").isdecimal() for name in values):
        return [{_unescape(name.removeprefix("weights/")): value for name, value in values.items()}]
    listed = [values[f"weights/{number}"] for number in range(len(values))]
    orders = []
    for parts in _ORDERS:
        names = [weight.path for part in parts for weight in built.weights if weight.path.startswith(part)]
        orders.append(dict(zip(names, listed, strict=False)))
    return orders


def _unescape(name: str) -> str:
    """Translate TensorFlow's name of a dictionary's key into the key."""
    return re.sub(r"\.(.)", lambda match: "/" if match[1] == "S" else match[1], name)
