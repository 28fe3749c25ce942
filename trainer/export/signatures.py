"""The signatures of the SavedModel, as functions on dicts of tensors. keras only; knows no files.

`saved_model` traces them; `Live` computes them with a model in this process, for `sample` and the tests.
In every tensor the first dimension is the batch, and every other dimension is constant. A caller sends `state_*` back
unchanged. B batch, F columns.
"""

import json
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from music.generation import CHUNK, PRIME_BLOCK, Reply
from trainer.model import EventModel, xla

STATE = "state_"

# A row's result must not depend on the other rows of the batch. But a CPU's kernels give a row other last bits among
# few rows than among many, and the elements behind the last full vector other last bits than those before it. So every
# call is filled up to a multiple of LANES rows. The products of `prime` and `likelihood` have 64 times as many rows;
# these two go through the model in groups of exactly LANES.
LANES = 8

# `prime_xla` and `generate_xla` are the same, compiled by XLA for each number of rows that they are called with.
# `prime_xla` takes one row of the batch after the other, each up to its length. `generate_xla` gives a row the same
# bits alone as among others: see `xla`. Results are those of `prime` and `generate`, until a draw falls within rounding
# of an edge between two classes. A model server compiles only if it is configured to, so nothing relies on them.
XLA = "_xla"

_IN_GROUPS = ("prime", "likelihood", "prime" + XLA)
_DRAWING = ("temperature", "top_p", "min_p")


def prime(model: EventModel, inputs: dict) -> dict:
    """Read rows: rows int32 (B, 64, F), length int32 (B,), state → state; rows beyond `length` change nothing."""
    return _states(model.prime(inputs["rows"], inputs["length"], _state(inputs)))


def likelihood(model: EventModel, inputs: dict) -> dict:
    """Compute nats: rows int32 (B, 64, F), length int32 (B,), state → nll float32 (B, 64, F), state.

    They are on the evaluation's grid.
    """
    nll, state = model.likelihood(inputs["rows"], _state(inputs), inputs["length"])
    return {"nll": nll, **_states(state)}


def step(model: EventModel, inputs: dict) -> dict:
    """Draw a row: noise float32 (B, F), temperature, top_p, min_p float32 (B,), state → row int32 (B, F), state."""
    row, state = model.step(_state(inputs), inputs["noise"], *(inputs[name] for name in _DRAWING))
    return {"row": row, **_states(state)}


def generate(model: EventModel, inputs: dict) -> dict:
    """Draw `count` int32 (B,) rows: noise float32 (B, 32, F), … → rows int32 (B, 32, F), PAD beyond count, state."""
    noise, count = inputs["noise"], inputs["count"]
    settings = [inputs[name] for name in _DRAWING]

    def more(i, rows, state):
        return i < ops.max(count)

    def one(i, rows, state):
        row, after = model.step(state, ops.take(noise, i, axis=1), *settings)
        counts = i < count
        here = (ops.arange(CHUNK) == i)[None, :, None] & counts[:, None, None]
        rows = ops.where(here, row[:, None], rows)
        return i + 1, rows, {name: xla.where_rows(counts, after[name], state[name]) for name in state}

    rows = ops.zeros_like(ops.cast(noise, "int32"))
    _, rows, state = ops.while_loop(more, one, (ops.cast(0, "int32"), rows, _state(inputs)), maximum_iterations=CHUNK)
    return {"rows": rows, **_states(state)}


def prime_xla(model: EventModel, inputs: dict) -> dict:
    """Compute `prime`, but stop at the last row that counts."""
    with xla.ready(model, alone=True):
        return prime(model, inputs)


def generate_xla(model: EventModel, inputs: dict) -> dict:
    """Compute `generate`. When XLA compiles it, it knows the number of rows, and so takes one of the two branches."""

    def branch(alone: bool) -> dict:
        with xla.ready(model, alone):
            return generate(model, inputs)

    return ops.cond(ops.shape(inputs["count"])[0] == 1, lambda: branch(True), lambda: branch(False))


SIGNATURES = {"prime": prime, "likelihood": likelihood, "step": step, "generate": generate}
SIGNATURES |= {"prime" + XLA: prime_xla, "generate" + XLA: generate_xla}


def specs(model: EventModel) -> dict[str, dict[str, tuple[list, str]]]:
    """List the inputs of each signature: {signature: {name: (shape without the batch, dtype)}}."""
    columns = len(model.encoding.names)
    state = {STATE + name: (s["shape"], s["dtype"]) for name, s in model.state_spec.items()}
    rows = {"rows": ([PRIME_BLOCK, columns], "int32"), "length": ([], "int32"), **state}
    settings: dict[str, tuple[list, str]] = {name: ([], "float32") for name in _DRAWING}
    plain = {
        "prime": rows,
        "likelihood": rows,
        "step": {"noise": ([columns], "float32"), **settings, **state},
        "generate": {"noise": ([CHUNK, columns], "float32"), "count": ([], "int32"), **settings, **state},
    }
    return {name: plain[name.removesuffix(XLA)] for name in SIGNATURES}


def compute(name: str, model: EventModel, inputs: dict) -> dict:
    """Compute a signature so that a row's result does not depend on the other rows; see LANES."""
    function = SIGNATURES[name]
    batch = ops.shape(next(iter(inputs.values())))[0]
    lanes = 1 if name.endswith(XLA) else LANES
    rows = (batch + lanes - 1) // lanes * lanes
    filled = {key: _filled(value, rows) for key, value in inputs.items()}
    if name in _IN_GROUPS:
        groups = {key: ops.reshape(value, (-1, lanes, *value.shape[1:])) for key, value in filled.items()}
        outputs = ops.map(lambda group: function(model, group), groups)
        outputs = {key: ops.reshape(value, (-1, *value.shape[2:])) for key, value in outputs.items()}
    else:
        outputs = function(model, filled)
    return {key: value[:batch] for key, value in outputs.items()}


def _filled(value, rows):
    """Append zeros, up to `rows` rows; at most LANES are missing."""
    return ops.concatenate([value, ops.zeros((LANES, *value.shape[1:]), value.dtype)], axis=0)[:rows]


class _Call(keras.Model):
    """One signature as a Keras model, so that `predict_on_batch` compiles it on any backend."""

    def __init__(self, name: str, model: EventModel):
        super().__init__(name=name)
        self._signature, self.model = name, model
        self.built = True

    def call(self, inputs):
        return compute(self._signature, self.model, inputs)


class Live:
    """A Backend over a model in this process. It needs no export; its version is 0."""

    def __init__(self, model: EventModel, card: dict):
        self._calls = {name: _Call(name, model) for name in SIGNATURES if not name.endswith(XLA)}
        self._card = np.array([json.dumps(card).encode()], object)

    def call(self, signature: str, inputs: Mapping[str, np.ndarray], *, version=None, timeout=None) -> Reply:
        """Compute a signature of arrays; `version` and `timeout` are not used."""
        if signature == "describe":
            return Reply({"card": np.repeat(self._card, len(inputs["batch"]))}, 0)
        return Reply(self._calls[signature].predict_on_batch(dict(inputs)), 0)


def _state(inputs: dict) -> dict:
    """Take the state out of a signature's inputs."""
    return {name.removeprefix(STATE): value for name, value in inputs.items() if name.startswith(STATE)}


def _states(state: dict) -> dict:
    """Name a state's tensors as a signature does."""
    return {STATE + name: value for name, value in state.items()}
