"""Where a run may begin from: another run's weights, or those inside an exported model. Knows nothing of training.

An exported model is all that a clone of this repository has. Its weights are read back by name; exports of before
2026-11-21 hold a list, in the order of their time. Either way the model made of them must answer as the export does.
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
from music.storage import checksums
from trainer import model, recipe, run_folder
from trainer.fit import widening
from trainer.recipe import Recipe

_ORDERS = (("inputs", "core", "heads"), ("core", "heads", "inputs"))  # of the parts in lists of weights
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
        """What the card of a run that begins here says of it."""
        trained = self.card.get("metrics", {}).get("trained", {})
        which = {"weights": self.which} if self.which else {}
        return {
            "path": self.path,
            **which,
            "recipe": self.card["recipe"],
            "dataset": self.card.get("dataset"),
            **trained,
        }

    def recipe(self) -> Recipe:
        """The same model, to be trained a little on what may be a small dataset; every number can be set."""
        base = recipe.from_card(self.card)
        training = replace(
            base.training, rate=base.training.rate / 10, warmup=20, steps=min(base.training.steps, 20),
            epochs=20, patience=4, keep=0,
        )  # fmt: skip
        return replace(base, training=training, select="")

    def model(self) -> model.EventModel:
        """The model with its weights."""
        made = model.build(self.card)
        self.put(made)
        return made

    def put(self, into: keras.Model) -> list[str]:
        """Returns the parts that this start has nothing of, which stay as they are: a head that was switched on.

        Raises RecordError where its weights are of other shapes, or where `into` has no place for one of them.
        """
        own = run_folder.weights(into)
        if lost := self.weights.keys() - own.keys():
            raise RecordError(f"{self.path}: {', '.join(sorted(lost))}: the model to be trained has no such weights")
        wide = widening.widen(self.weights, {name: array.shape for name, array in own.items()}, seed=0)
        run_folder.load_weights(into, own | wide, self.path)
        return sorted(own.keys() - self.weights.keys())


def load(path: str, which: str = "best") -> Start:
    """Of a run's folder, or of an exported version's such as models/performance/1.

    Raises RecordError: it is neither, it is damaged, or this code makes another model of it.
    """
    if storage.exists(storage.join(path, "saved_model.pb")):
        folder = str(storage.local(path))
        with storage.called(folder, path):
            return _exported(path, folder)
    if storage.exists(storage.join(path, run_folder.CARD)):
        made, card = run_folder.load(path, which)
        return Start(path, run_folder.weights(made), card, which)
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
        found = {name.removesuffix(_VALUE): reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
                 if name.startswith("weights/") and name.endswith(_VALUE)}  # fmt: skip
    except (tf.errors.OpError, ValueError) as error:
        raise RecordError(f"{path} is damaged, its weights cannot be read: {' '.join(str(error).split())}") from error
    try:
        made = model.build(card)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} describes no model that we know: {error!r}") from error
    for arrays in _named(found, made):
        try:
            run_folder.load_weights(made, arrays, path)
        except RecordError as error:
            refused = error
        else:
            saved_model.verify(made, card, folder)
            return Start(path, run_folder.weights(made), json.loads(json.dumps(card)))
    raise refused


def _named(found: dict[str, np.ndarray], made: keras.Model) -> list[dict[str, np.ndarray]]:
    """What the variables may be by name; of a list the orders that are known."""
    if not all(name.removeprefix("weights/").isdecimal() for name in found):
        return [{_unescape(name.removeprefix("weights/")): value for name, value in found.items()}]
    values = [found[f"weights/{number}"] for number in range(len(found))]
    orders = []
    for parts in _ORDERS:
        names = [weight.path for part in parts for weight in made.weights if weight.path.startswith(part)]
        orders.append(dict(zip(names, values, strict=False)))
    return orders


def _unescape(name: str) -> str:
    """TensorFlow's name of a dictionary's key → the key."""
    return re.sub(r"\.(.)", lambda found: "/" if found[1] == "S" else found[1], name)
