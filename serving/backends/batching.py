"""Calls that come at the same time → one call with the rows of all. Knows arrays and clocks; nothing of models or HTTP.

A call runs at once if no other one runs. Else it waits, and one of the waiting calls' threads makes the next run for
all calls of its function. The next run is the one that would have ended first, had each call run when it came: a short
call goes before a long one that came up to 0.1 s earlier, so a new piece catches up with the others and joins them. The
next run also waits for the callers that were just answered, up to a quarter of the last run's time (see `_until`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from music.errors import BackendError, DeadlineExceeded, Overloaded

Tensors = Mapping[str, np.ndarray]

ROWS = 32  # of one run, unless a single call has more
WAITING = 256  # calls; each piece that a front end generates has one at most
_PATIENCE = 0.25  # part of the next run's time that it waits for callers; its time is that of the last one of its kind
_LONGEST = 0.1  # seconds that it waits at most; also how much later a short call may come and still go first
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Call:
    name: str
    inputs: Tensors
    rows: int
    arrived: float  # on time.monotonic's clock
    leading: bool = False  # its thread makes the next run
    done: bool = False  # it has run
    awake: threading.Event = field(default_factory=threading.Event)  # it leads, or is over
    outputs: Tensors | None = None
    error: BaseException | None = None


class Batcher:
    """Joins calls of functions of batch-first arrays; one run goes on at a time. Threads share it.

    Args:
        run: calls the function of a name. Its answer to a row must not depend on the other rows.
        rows: largest number of rows of a run.
        waiting: largest number of calls that wait; one more is refused.
    """

    def __init__(self, run: Callable[[str, Tensors], Tensors], *, rows: int = ROWS, waiting: int = WAITING):
        self._run, self._rows, self._max_waiting = run, rows, waiting
        self._waiting: deque[_Call] = deque()
        self._changed = threading.Condition()  # the leading call waits here for the expected ones
        self._has_leader = False  # some call leads
        self._expected = 1  # calls to wait for
        self._ended = 0.0  # when the last run ended
        self._took: dict[str, float] = {}  # seconds, of the last run of each function

    def call(self, name: str, inputs: Tensors, timeout: float | None = None) -> Tensors:
        """Return the named function's answer to these inputs; all arrays have the same number of rows.

        Args:
            timeout: seconds within which the run must begin; a run that has begun is waited for to its end.

        Raises:
            Overloaded: too many calls wait already.
            DeadlineExceeded: the run has not begun in time.
            BackendError: the arrays differ in their number of rows. Also what the function raises for this call alone.
        """
        call = _Call(name, inputs, _rows(inputs), time.monotonic())
        until = float("inf") if timeout is None else call.arrived + timeout
        try:
            self._join(call)
            while not call.done:
                if not call.leading:
                    self._wait(call, until)
                if call.leading:
                    self._lead(call)
        except BaseException:  # out of time, or an exception of a signal's handler
            self._withdraw(call)
            raise
        if call.error:
            raise call.error
        if call.outputs is None:
            raise BackendError("the run that this call was part of was interrupted")
        return call.outputs

    @property
    def waiting(self) -> int:
        """Return the number of calls that wait."""
        return len(self._waiting)

    def _join(self, call: _Call) -> None:
        """Join the waiting calls, or lead if there are none. Raises Overloaded."""
        with self._changed:
            if self._has_leader and len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{self._max_waiting} calls of the model wait already; try again in a moment")
            self._waiting.append(call)
            self._changed.notify()
            if not self._has_leader:
                self._has_leader = call.leading = True

    def _wait(self, call: _Call, until: float) -> None:
        """Wait until the call leads or is over. Raises DeadlineExceeded where it does not run in time."""
        if not call.awake.wait(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)):
            with self._changed:
                if call in self._waiting and not call.leading:
                    raise DeadlineExceeded(f"in {until - call.arrived:g} seconds the model had no turn for this call")
            call.awake.wait()

    def _withdraw(self, call: _Call) -> None:
        """Remove a call whose caller has given up; if it was to lead, the next one does."""
        with self._changed:
            if call in self._waiting:
                self._waiting.remove(call)
                if call.leading:
                    self._appoint_leader()

    def _appoint_leader(self) -> None:
        """Let the first call lead next; under the lock."""
        self._has_leader = bool(self._waiting)
        if self._has_leader:
            leader = self._first()
            leader.leading = True
            leader.awake.set()

    def _first(self) -> _Call:
        """Return the call whose run should end first; under the lock."""
        return min(self._waiting, key=lambda call: call.arrived + min(self._took.get(call.name, _LONGEST), _LONGEST))

    def _lead(self, call: _Call) -> None:
        """Make one run with `call` in it, unless other calls go first; then one of them leads."""
        batch: list[_Call] = []
        began = time.monotonic()
        try:
            batch = self._next_batch(call)
            began = time.monotonic()
            self._answer(batch)
        finally:  # even if a signal's handler raised in between
            with self._changed:
                if batch:
                    self._ended = time.monotonic()
                    self._took[call.name] = self._ended - began
                    self._expected = min(len(batch) + len(self._waiting), self._rows)
                for answered in batch:
                    answered.done = True
                call.leading = False
                call.awake.clear()
                self._appoint_leader()
            for answered in batch:
                answered.awake.set()

    def _next_batch(self, call: _Call) -> list[_Call]:
        """Wait for the expected calls, then take those that run together; none if `call` is not among them.

        They are the first one, and as many other calls of its function as fit, in their order.
        """
        with self._changed:
            while len(self._waiting) < self._expected and (left := self._until() - time.monotonic()) > 0:
                self._changed.wait(left)
            first = self._first()
            batch, rows = [first], first.rows
            for other in [other for other in self._waiting if other.name == first.name and other is not first]:
                rows += other.rows
                if rows > self._rows:
                    break
                batch.append(other)
            if call not in batch:
                return []
            for each in batch:
                self._waiting.remove(each)
            return batch

    def _until(self) -> float:
        """Return until when the next run waits for more calls, on time.monotonic's clock.

        Who was just answered is likely to call again. Without the wait, the first one to come back would run alone and
        the others behind it, at up to nearly twice the cost. A single caller expects no other one and never waits.
        """
        return self._ended + min(_PATIENCE * self._took.get(self._first().name, 0.0), _LONGEST)

    def _answer(self, batch: list[_Call]) -> None:
        """Run the calls together, or one by one where that fails: only the call that causes an error gets it."""
        if len(batch) > 1:
            try:
                answers = self._run_batch(batch)
            except Exception as error:  # logged, as no caller may get it: by itself each call may succeed
                _LOG.warning("a run of %d calls failed, each runs by itself now: %s", len(batch), error)
                answers = []
            for call, outputs in zip(batch, answers, strict=False):
                call.outputs = outputs
            if answers:
                return
        for call in batch:
            try:
                call.outputs = self._run(call.name, call.inputs)
            except Exception as error:
                call.error = error

    def _run_batch(self, batch: list[_Call]) -> list[Tensors]:
        inputs = {name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs}
        outputs = self._run(batch[0].name, inputs)
        ends = np.cumsum([call.rows for call in batch])
        wrong = [name for name, array in outputs.items() if array.shape[:1] != (ends[-1],)]
        if wrong:
            raise BackendError(f"outputs without a row for each row that went in: {wrong}")
        return [
            {name: array[end - call.rows : end] for name, array in outputs.items()}
            for call, end in zip(batch, ends, strict=True)
        ]


def _rows(inputs: Tensors) -> int:
    rows = {len(array) if array.ndim else None for array in inputs.values()}
    if len(rows) != 1 or None in rows:
        shapes = {name: array.shape for name, array in inputs.items()}
        raise BackendError(f"expected inputs with as many rows each, got shapes {shapes}")
    (count,) = rows
    return count or 0
