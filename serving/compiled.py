"""A function compiled by XLA → the same for any number of rows. Knows arrays and names; nothing of music or HTTP.

XLA compiles for one number of rows at a time and takes seconds for it, so a call is filled up to the next of a few
sizes. The least is compiled at once, the others beside the calls when there is need for them; until then, many rows go
through in groups. A row's bits must be the same in all sizes.
"""

import logging
import threading
from collections.abc import Callable, Mapping

import numpy as np

from music.errors import RecordError
from music.generation import CHUNK

_LOG = logging.getLogger(__name__)

Tensors = Mapping[str, np.ndarray]

TWINS = {"prime": "prime_xla", "generate": "generate_xla", "step": "generate_xla"}  # which signature answers for which


def asked(signature: str, inputs: Tensors) -> Tensors:
    """The inputs of a signature as its twin wants them: a step is a chunk of one, so there is one function less."""
    if signature != "step":
        return inputs
    count = np.ones(len(inputs["noise"]), "i4")
    noise = np.zeros((len(count), CHUNK, *inputs["noise"].shape[1:]), "f4")
    noise[:, 0] = inputs["noise"]
    return {**inputs, "noise": noise, "count": count}


def answered(signature: str, outputs: Tensors) -> Tensors:
    """What a twin gave as the signature gives it. Raises RecordError where it gave no row."""
    if signature != "step":
        return outputs
    outputs = dict(outputs)
    rows = outputs.pop("rows", np.zeros(0))
    if rows.ndim < 2 or not rows.shape[1]:
        raise RecordError(f"rows: expected at least one of each piece, got {rows.shape}")
    return {"row": rows[:, 0], **outputs}


class Compiled:
    """Ready for as many rows as the least size when it is made.

    Args:
        run: the function of batch-first arrays; compiles itself when it is called with a number of rows for the first
            time.
        empty: its inputs with no rows, for their shapes and types.
        sizes: numbers of rows to compile for, rising.
    """

    def __init__(self, run: Callable[[Tensors], Tensors], empty: Tensors, sizes: tuple[int, ...]):
        self._run, self._empty, self._sizes = run, empty, sizes
        self._ready: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._compiling: threading.Thread | None = None
        self._failure: Exception | None = None
        self._compile(*sizes[:1])

    def call(self, inputs: Tensors) -> Tensors:
        """The function's answer to any number of rows."""
        ready = self._ready
        rows = len(next(iter(inputs.values())))
        if rows > ready[-1]:
            self._compile_beside()
        groups: list[Tensors] = []
        for at in range(0, max(rows, 1), ready[-1]):
            count = min(rows - at, ready[-1])
            size = next(size for size in ready if size >= count)
            made = self._run({name: _filled(array[at : at + count], size) for name, array in inputs.items()})
            groups.append({name: array[:count] for name, array in made.items()})
        return groups[0] if len(groups) == 1 else {n: np.concatenate([g[n] for g in groups]) for n in groups[0]}

    def warm(self) -> None:
        """Compile for all sizes now, or raise what `run` raises; else that is done when so many rows come."""
        self._compile_beside().join()
        if self._failure:
            raise self._failure

    def _compile_beside(self) -> threading.Thread:
        with self._lock:
            if self._compiling is None:
                self._compiling = threading.Thread(target=self._compile_many, name="xla")
                self._compiling.start()
            return self._compiling

    def _compile_many(self) -> None:
        try:
            for size in self._sizes[1:]:
                if threading.main_thread().is_alive():  # else the process is about to end, and waits for us
                    self._compile(size)
        except Exception as error:
            self._failure = error
            _LOG.warning("compiling for many rows failed, they go through in groups of %d: %s", self._ready[-1], error)

    def _compile(self, *sizes: int) -> None:
        for size in sizes:
            self._run({name: _filled(array, size) for name, array in self._empty.items()})
            self._ready = (*self._ready, size)


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    """Zeros below, up to so many rows."""
    if len(array) == rows:
        return array
    filled = np.zeros((rows, *array.shape[1:]), array.dtype)
    filled[: len(array)] = array
    return filled
