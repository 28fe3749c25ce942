"""Models to be measured: fresh ones of any width, and the loop that they replace."""

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
    """A model of recipe `performance` and this size, not trained, which never ends a piece; and its export's base.

    Speed does not depend on the weights, but a piece that ends at once would leave nothing to measure.
    """
    recipe_ = recipe.load("performance")
    recipe_ = replace(recipe_, core=replace(recipe_.core, units=units, layers=layers))
    keras.utils.set_random_seed(units)
    card = {"schema": 1, **recipe.to_card(recipe_)}
    made = model.build(card)
    first = f"{made.encoding.names[0]}_score/bias"
    (bias,) = (weight for weight in made.weights if weight.path.endswith(first))
    bias.assign(np.where(np.arange(bias.shape[0]) == END, _NEVER, np.asarray(bias)))
    base = folder / str(units)
    card |= {"state": made.state_spec, "parameters": made.count_params()}
    saved_model.save(made, card, str(base / "performance/1"), xla=True)
    return made, str(base)


class Window(keras.Model):
    """The same inputs, core and heads, over a window and without a state: what the tutorial's model is."""

    def __init__(self, made: EventModel):
        super().__init__(name="window")
        self.made = made
        self.built = True

    def call(self, inputs):
        """rows int32 (B, T, F), noise float32 (B, F) → the next row, int32 (B, F)."""
        rows, noise = inputs["rows"], inputs["noise"]
        one = ops.ones_like(noise[:, 0])
        hidden, sounding, _ = self.made.advance(rows, self.made.initial_state(ops.shape(rows)[0]))
        now = {name: value[:, -1] for name, value in sounding.items()}
        return self.made.heads.draw(hidden[:, -1], noise, now, one, one, ops.zeros_like(one))


def tutorial(made: EventModel) -> Iterator[int]:
    """The loop of TensorFlow's tutorial on music generation over this network: for each note a `predict` of the last
    25 notes, from which the next one is drawn. Yields 1 a note."""
    window, rng = Window(made), np.random.default_rng(0)
    rows = made.encoding.encode(nocturne(), begin=True, end=False)[-TUTORIAL_WINDOW:]
    while True:
        noise = rng.random((1, rows.shape[1]), "f4")
        row = window.predict({"rows": rows[None], "noise": noise}, verbose=0)
        rows = np.concatenate([rows[1:], np.asarray(row)])
        yield 1
