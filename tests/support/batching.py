"""TF Serving's batching, for the double in fakes.py: calls → batches → runs of the model → answers.

It follows tensorflow_serving/batching/batching_session.cc on tensorflow/core/kernels/batching_util/
shared_batch_scheduler.h. Two things are left out, as our calls need neither: it never splits large batches, and pads no
inputs to a common shape.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import numpy as np

from tests.support import tfs_config

Arrays = dict[str, np.ndarray]


class Refused(Exception):
    """A call that the model server answers with an error."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True)
class Batching:
    """BatchingParameters with TF Serving's defaults, except for the threads: TF Serving starts one a core."""

    max_batch_size: int = 1000
    allowed_batch_sizes: tuple[int, ...] = ()
    batch_timeout_micros: int = 0
    num_batch_threads: int = 2
    max_enqueued_batches: int = 10

    @classmethod
    def read(cls, file: str = "batching.config") -> "Batching":
        """Read one of infra's files."""
        message = tfs_config.parsed(file, "BatchingParameters")
        numbers = ("max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_enqueued_batches")
        fields = {name: getattr(message, name).value for name in numbers if message.HasField(name)}
        return cls(allowed_batch_sizes=tuple(message.allowed_batch_sizes), **fields)

    def __post_init__(self):
        if self.allowed_batch_sizes and self.allowed_batch_sizes[-1] != self.max_batch_size:
            raise ValueError("Last entry in allowed_batch_sizes must match max_batch_size")


@dataclass
class _Task:
    """A call that waits."""

    run: Callable[[Mapping[str, np.ndarray]], Arrays]
    inputs: Arrays
    size: int  # along dimension 0
    answer: futures.Future = field(default_factory=futures.Future)
    came: float = field(default_factory=time.monotonic)


class Run(NamedTuple):
    """One run of the model."""

    calls: int
    rows: int  # of all its calls
    padded: int  # rows with the padding to an allowed size


class Batcher:
    """Joins the calls of one signature of one version along dimension 0."""

    def __init__(self, batching: Batching):
        self._batching = batching
        self._changed = threading.Condition()
        self._queues: dict[tuple, deque[list[_Task]]] = {}  # the last batch of each is open
        self._closed = False
        self.runs: list[Run] = []
        for _ in range(batching.num_batch_threads):
            threading.Thread(target=self._work, daemon=True).start()

    def call(self, key: tuple, run: Callable[[Mapping[str, np.ndarray]], Arrays], inputs: Arrays) -> Arrays:
        """Run `run` on these inputs, joined with those of other calls; return its answer to them. Raises Refused."""
        task = _Task(run, inputs, _size(inputs))
        with self._changed:
            self._enqueue(self._queues.setdefault(key, deque([[]])), task)
            self._changed.notify()
        return task.answer.result(timeout=120)

    def close(self) -> None:
        """End the threads; calls that still wait get no answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enqueue(self, batches: deque[list[_Task]], task: _Task) -> None:
        most = self._batching.max_batch_size
        if task.size > most:
            message = f"Task size {task.size} is larger than maximum input batch size {most}"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        if _rows(batches[-1]) + task.size > most:
            if len(batches) >= self._batching.max_enqueued_batches:
                raise Refused(
                    grpc.StatusCode.UNAVAILABLE,
                    f"The batch scheduling queue to which this task was submitted is full; currently {len(batches)} "
                    f"batches enqueued and max_enqueued_batches is {self._batching.max_enqueued_batches}",
                )
            batches.append([])
        batches[-1].append(task)

    def _work(self) -> None:
        while batch := self._next():
            try:
                answers = self._processed(batch)
            except Exception as error:  # any error goes to the callers
                for task in batch:
                    task.answer.set_exception(error)
            else:
                for task, answer in zip(batch, answers, strict=True):
                    task.answer.set_result(answer)

    def _next(self) -> list[_Task] | None:
        """Wait for a batch that is closed, full, or old enough, and return it; the queues take turns."""
        with self._changed:
            while not self._closed:
                due = []
                for key, batches in self._queues.items():
                    if len(batches) == 1 and not batches[0]:
                        continue
                    left = batches[0][0].came + self._batching.batch_timeout_micros / 1e6 - time.monotonic()
                    if len(batches) > 1 or left <= 0 or _rows(batches[0]) >= self._batching.max_batch_size:
                        self._queues[key] = self._queues.pop(key)  # to the end
                        batch = batches.popleft()
                        if not batches:
                            batches.append([])
                        return batch
                    due.append(left)
                self._changed.wait(min(due, default=None))
        return None

    def _processed(self, batch: list[_Task]) -> list[Arrays]:
        size = _rows(batch)
        padded = min((n for n in self._batching.allowed_batch_sizes if n >= size), default=size) if size else 0
        self.runs.append(Run(len(batch), size, padded))
        outputs = batch[0].run(_joined(batch, padded - size))
        return _split(outputs, [task.size for task in batch], padded)


def _rows(batch: list[_Task]) -> int:
    return sum(task.size for task in batch)


def _size(inputs: Mapping[str, np.ndarray]) -> int:
    sizes = {array.shape[0] if array.ndim else None for array in inputs.values()}
    if len(sizes) != 1 or None in sizes:
        message = "Batching session Run() input tensors must have equal 0th-dimension size"
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
    return sizes.pop() or 0


def _joined(batch: list[_Task], padding: int) -> Arrays:
    """Join the calls' rows, and add `padding` times the first row of the last call."""
    first = batch[0].inputs
    for task in batch:
        for name, array in task.inputs.items():
            if array.shape[1:] != first[name].shape[1:]:
                raise Refused(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off."
                    "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name"
                    "have equal dimensions starting with the first dim.",
                )
    last = batch[-1].inputs
    return {name: np.concatenate([task.inputs[name] for task in batch] + [last[name][:1]] * padding) for name in first}


def _split(outputs: Mapping[str, np.ndarray], sizes: list[int], padded: int) -> list[Arrays]:
    for array in outputs.values():
        if not array.ndim:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(array) != padded:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors",
            )
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]
