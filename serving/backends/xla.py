"""A function compiled by XLA → the same function for any number of rows. Knows arrays and names; nothing of music.

XLA compiles for one number of rows and takes seconds for it. So a call is padded to one of a few sizes, or cut into
groups, of which as many run at once as there are cores. The smallest size is compiled at once, the others in a thread
when they are needed. A row must get the same bits in all sizes; whether it does depends on the CPU, so each size is
tested before it is used.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from music.errors import RecordError
from music.generation import CHUNK

_LOG = logging.getLogger(__name__)

Tensors = Mapping[str, np.ndarray]

TWINS = {
    "prime": "prime_xla",
    "generate": "generate_xla",
    "step": "generate_xla",
}  # signature → its twin


def twin_inputs(signature: str, inputs: Tensors) -> Tensors:
    """Translate a signature's inputs into its twin's: a step is a chunk of one row, so that it needs no own twin."""
    if signature != "step":
        return inputs
    count = np.ones(len(inputs["noise"]), "i4")
    noise = np.zeros((len(count), CHUNK, *inputs["noise"].shape[1:]), "f4")
    noise[:, 0] = inputs["noise"]
    return {**inputs, "noise": noise, "count": count}


def signature_outputs(signature: str, outputs: Tensors) -> Tensors:
    """Translate a twin's outputs into its signature's. Raises RecordError where there is no row."""
    if signature != "step":
        return outputs
    outputs = dict(outputs)
    rows = outputs.pop("rows", np.zeros(0))
    if rows.ndim < 2 or not rows.shape[1]:
        raise RecordError(f"rows: expected at least one of each piece, got {rows.shape}")
    return {"row": rows[:, 0], **outputs}


class Compiled:
    """A compiled function for any number of rows; the constructor compiles it for the smallest size.

    Args:
        run: the function of batch-first arrays; compiles itself when it is called with a number of rows for the first
            time.
        sample: inputs to compile with, as many rows as the largest size.
        sizes: numbers of rows to compile for, rising. A size that gives a row other bits than the smallest is left out.
    """

    def __init__(self, run: Callable[[Tensors], Tensors], sample: Tensors, sizes: tuple[int, ...]):
        self._run, self._sample, self._sizes = run, sample, sizes
        self._threads = ThreadPoolExecutor(os.cpu_count(), "rows")  # starts them as they are needed
        self._lock = threading.Lock()
        self._compiling: threading.Thread | None = None
        self._failure: Exception | None = None
        self._run(_part(sample, 0, sizes[0]))
        _release_memory()
        self._ready = sizes[:1]

    def call(self, inputs: Tensors) -> Tensors:
        """Return the function's outputs for any number of rows."""
        ready = self._ready
        if len(next(iter(inputs.values()))) > ready[-1]:
            self._compile_beside()
        groups = _groups(inputs, ready)
        if len(groups) == 1:
            return self._group(*groups[0])
        return _joined(list(self._threads.map(self._group, *zip(*groups, strict=True))))

    def warm(self) -> None:
        """Compile for all sizes now, not when so many rows come. Raises what `run` raises."""
        self._compile_beside().join()
        if self._failure:
            raise self._failure

    def _group(self, inputs: Tensors, size: int) -> Tensors:
        outputs = self._run({name: _padded(array, size) for name, array in inputs.items()})
        return _part(outputs, 0, len(next(iter(inputs.values()))))

    def _compile_beside(self) -> threading.Thread:
        with self._lock:
            if self._compiling is None:
                self._compiling = threading.Thread(target=self._compile_many, name="xla")
                self._compiling.start()
            return self._compiling

    def _compile_many(self) -> None:
        try:
            for size in self._sizes[1:]:
                if threading.main_thread().is_alive():  # else the process is ending, and waits for this thread
                    self._compile(size)
        except Exception as error:
            self._failure = error
            _LOG.warning("compiling for many rows failed, so they run in groups of %d: %s", self._ready[-1], error)

    def _compile(self, size: int) -> None:
        inputs, least = _part(self._sample, 0, size), self._sizes[0]
        outputs = self._run(inputs)
        _release_memory()
        # one group after the other, so that the other cores stay free for clients
        expected = _joined([self._group(*group) for group in _groups(inputs, (least,))])
        if other := sorted(name for name in outputs if not np.array_equal(expected[name], outputs[name])):
            message = "%d rows at once would have other bits of %s than %d, so they run in smaller groups"
            _LOG.warning(message, size, other, least)
        else:
            self._ready = (*self._ready, size)


def _release_memory() -> None:
    """Return the memory that compiling took to the system; glibc would keep it."""
    with suppress(AttributeError, OSError, TypeError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _groups(inputs: Tensors, ready: tuple[int, ...]) -> list[tuple[Tensors, int]]:
    """Cut inputs into parts, each with the ready size that takes it; at least one part, which may be empty."""
    rows, at = len(next(iter(inputs.values()))), 0
    groups: list[tuple[Tensors, int]] = []
    while at < rows or not groups:
        size = _size(rows - at, ready)
        groups.append((_part(inputs, at, at + size), size))
        at += size
    return groups


def _joined(groups: list[Tensors]) -> Tensors:
    return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}


def _size(rows: int, ready: tuple[int, ...]) -> int:
    """Choose the next larger ready size, unless more than half of it would be padding: then the one before."""
    fitting = [size for size in ready if size <= max(2 * rows, ready[0])]
    return next((size for size in fitting if size >= rows), fitting[-1])


def _part(arrays: Tensors, begin: int, end: int) -> Tensors:
    return {name: array[begin:end] for name, array in arrays.items()}


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    """Pad an array with rows of zeros to `rows` rows."""
    if len(array) == rows:
        return array
    padded = np.zeros((rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
