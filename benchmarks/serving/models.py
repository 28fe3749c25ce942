"""Build the models that are measured: fresh ones of any width, and the tutorial's loop."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from keras import ops

from music.encodings.columns import END
from music.examples.nocturne import nocturne
from trainer import model, recipe
from trainer.export import saved_model
from trainer.model import EventModel

TUTORIAL_WINDOW = 25
_NEVER = -1e9


def fresh(folder: Path, units: int, layers: int = 3) -> tuple[EventModel, str]:
    """Build an untrained model of recipe `performance` that never ends a piece. Return it and the base of its export.

    Speed does not depend on the weights, but a piece that ends at once would leave nothing to measure.
    """
    recipe_ = recipe.load("performance")
    recipe_ = replace(recipe_, core=replace(recipe_.core, units=units, layers=layers))
    keras.utils.set_random_seed(units)
    card = {"schema": 1, **recipe.to_card(recipe_)}
    network = model.build(card)
    first = f"{network.encoding.names[0]}_score/bias"
    (bias,) = (weight for weight in network.weights if weight.path.endswith(first))
    bias.assign(np.where(np.arange(bias.shape[0]) == END, _NEVER, np.asarray(bias)))
    base = folder / str(units)
    card |= {"state": network.state_spec, "parameters": network.count_params()}
    saved_model.save(network, card, str(base / "performance/1"), xla=True)
    return network, str(base)


class Window(keras.Model):
    """The same inputs, core and heads, over a window and without a state, as the tutorial's model."""

    def __init__(self, network: EventModel):
        super().__init__(name="window")
        self.network = network
        self.built = True

    def call(self, inputs):
        """Draw the next row, int32 (B, F), from rows int32 (B, T, F) and noise float32 (B, F)."""
        rows, noise = inputs["rows"], inputs["noise"]
        one = ops.ones_like(noise[:, 0])
        hidden, held, _ = self.network.advance(rows, self.network.initial_state(ops.shape(rows)[0]))
        features = {name: value[:, -1] for name, value in held.items()}
        return self.network.heads.draw(hidden[:, -1], noise, features, one, one, ops.zeros_like(one))


def tutorial(network: EventModel) -> Iterator[int]:
    """Run the loop of TensorFlow's tutorial on music generation over this network. Yields 1 a note.

    For each note it calls `predict` on the last 25 notes and draws the next one from the result.
    """
    window, rng = Window(network), np.random.default_rng(0)
    rows = network.encoding.encode(nocturne(), begin=True, end=False)[-TUTORIAL_WINDOW:]
    while True:
        noise = rng.random((1, rows.shape[1]), "f4")
        row = window.predict({"rows": rows[None], "noise": noise}, verbose=0)
        rows = np.concatenate([rows[1:], np.asarray(row)])
        yield 1
