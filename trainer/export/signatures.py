"""What a model answers: the calls of the SavedModel, as functions on dicts of tensors. keras only.

`saved_model` traces them; `Live` answers them from a model in this process, for `sample` and the tests.
Every tensor is batch-first, every other dimension is constant, and `state_*` goes in and out untouched.

A CPU's kernels give a row other last bits among few rows than among many, and elements left over behind the last
full vector other ones than those before. So a piece would not come out the same alone as among others. Therefore every
call is filled up to a multiple of LANES rows; and `prime` and `likelihood`, whose products are 64 times as tall, go
through the model in groups of exactly LANES.

`prime_xla` and `generate_xla` are the same compiled by XLA for each number of rows that they are called with. `prime`
goes row by row there, as far as a row's length; `generate` is written so that one row has the bits alone that it has
among others: see `xla`. They answer as the others do until a draw falls within rounding of an edge between two
classes. A model server must be told to compile, so nothing relies on them.

B batch, F columns.
"""

import json
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from music.generation import CHUNK, PRIME_BLOCK, Reply
from trainer.model import EventModel, xla

STATE = "state_"
LANES = 8
XLA = "_xla"
_IN_GROUPS = ("prime", "likelihood", "prime" + XLA)
_DRAWING = ("temperature", "top_p", "min_p")


def prime(model: EventModel, inputs: dict) -> dict:
    """rows int32 (B, 64, F), length int32 (B,), state → state; rows beyond `length` change nothing."""
    return _states(model.prime(inputs["rows"], inputs["length"], _state(inputs)))


def likelihood(model: EventModel, inputs: dict) -> dict:
    """rows int32 (B, 64, F), length int32 (B,), state → nll float32 (B, 64, F) on the evaluation's grid, state."""
    nll, state = model.likelihood(inputs["rows"], _state(inputs), inputs["length"])
    return {"nll": nll, **_states(state)}


def step(model: EventModel, inputs: dict) -> dict:
    """noise float32 (B, F), temperature, top_p, min_p float32 (B,), state → row int32 (B, F), state."""
    row, state = model.step(_state(inputs), inputs["noise"], *(inputs[name] for name in _DRAWING))
    return {"row": row, **_states(state)}


def generate(model: EventModel, inputs: dict) -> dict:
    """`count` int32 (B,) steps at once: noise float32 (B, 32, F), … → rows int32 (B, 32, F), PAD beyond, state."""
    noise, count = inputs["noise"], inputs["count"]
    how = [inputs[name] for name in _DRAWING]

    def more(i, rows, state):
        return i < ops.max(count)

    def one(i, rows, state):
        row, after = model.step(state, ops.take(noise, i, axis=1), *how)
        counts = (i < count)[:, None]
        here = (ops.arange(CHUNK) == i)[None, :, None] & counts[:, :, None]
        rows = ops.where(here, row[:, None], rows)
        return i + 1, rows, {name: ops.where(counts, after[name], state[name]) for name in state}

    rows = ops.zeros_like(ops.cast(noise, "int32"))
    _, rows, state = ops.while_loop(more, one, (ops.cast(0, "int32"), rows, _state(inputs)), maximum_iterations=CHUNK)
    return {"rows": rows, **_states(state)}


def prime_xla(model: EventModel, inputs: dict) -> dict:
    """As `prime`, but no further than rows count."""
    with xla.ready(model, alone=True):
        return prime(model, inputs)


def generate_xla(model: EventModel, inputs: dict) -> dict:
    """As `generate`. XLA knows how many rows there are, and compiles for one or for more."""

    def made(alone: bool) -> dict:
        with xla.ready(model, alone):
            return generate(model, inputs)

    return ops.cond(ops.shape(inputs["count"])[0] == 1, lambda: made(True), lambda: made(False))


SIGNATURES = {"prime": prime, "likelihood": likelihood, "step": step, "generate": generate}
SIGNATURES |= {"prime" + XLA: prime_xla, "generate" + XLA: generate_xla}


def specs(model: EventModel) -> dict[str, dict[str, tuple[list, str]]]:
    """The inputs of each signature: {signature: {name: (shape without the batch, dtype)}}."""
    columns = len(model.encoding.names)
    state = {STATE + name: (s["shape"], s["dtype"]) for name, s in model.state_spec.items()}
    rows = {"rows": ([PRIME_BLOCK, columns], "int32"), "length": ([], "int32"), **state}
    how: dict[str, tuple[list, str]] = {name: ([], "float32") for name in _DRAWING}
    plain = {
        "prime": rows,
        "likelihood": rows,
        "step": {"noise": ([columns], "float32"), **how, **state},
        "generate": {"noise": ([CHUNK, columns], "float32"), "count": ([], "int32"), **how, **state},
    }
    return {name: plain[name.removesuffix(XLA)] for name in SIGNATURES}


def alike(name: str, model: EventModel, inputs: dict) -> dict:
    """Compute a signature so that a row's answer does not depend on the others; the rule above."""
    function = SIGNATURES[name]
    batch = ops.shape(next(iter(inputs.values())))[0]
    lanes = 1 if name.endswith(XLA) else LANES
    rows = (batch + lanes - 1) // lanes * lanes
    whole = {key: _filled(value, rows) for key, value in inputs.items()}
    if name in _IN_GROUPS:
        groups = {key: ops.reshape(value, (-1, lanes, *value.shape[1:])) for key, value in whole.items()}
        made = ops.map(lambda group: function(model, group), groups)
        made = {key: ops.reshape(value, (-1, *value.shape[2:])) for key, value in made.items()}
    else:
        made = function(model, whole)
    return {key: value[:batch] for key, value in made.items()}


def _filled(value, rows):
    """Zeros below, up to so many rows; LANES more at most."""
    return ops.concatenate([value, ops.zeros((LANES, *value.shape[1:]), value.dtype)], axis=0)[:rows]


class _Call(keras.Model):
    """One signature as a Keras model, so that `predict_on_batch` compiles it on any backend."""

    def __init__(self, name: str, model: EventModel):
        super().__init__(name=name)
        self._signature, self.model = name, model
        self.built = True

    def call(self, inputs):
        return alike(self._signature, self.model, inputs)


class Live:
    """A Backend that answers from a model in this process. Its card needs no export; its version is 0."""

    def __init__(self, model: EventModel, card: dict):
        self._calls = {name: _Call(name, model) for name in SIGNATURES if not name.endswith(XLA)}
        self._card = np.array([json.dumps(card).encode()], object)

    def call(self, signature: str, inputs: Mapping[str, np.ndarray], *, version=None, timeout=None) -> Reply:
        if signature == "describe":
            return Reply({"card": np.repeat(self._card, len(inputs["batch"]))}, 0)
        return Reply(self._calls[signature].predict_on_batch(dict(inputs)), 0)


def _state(inputs: dict) -> dict:
    return {name.removeprefix(STATE): value for name, value in inputs.items() if name.startswith(STATE)}


def _states(state: dict) -> dict:
    return {STATE + name: value for name, value in state.items()}
