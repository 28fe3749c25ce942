"""Calls that come at the same time → one call with the rows of all. Knows arrays and clocks; nothing of models or HTTP.

A call that finds nobody at work runs at once. Those that come meanwhile wait, and one of them runs the next call for
all of its function: so there is no thread of ours. What runs next is what should end first, had each call run when it
came: a short call goes before a long one that came up to a tenth of a second earlier, whatever the long one takes. So
who has just come catches up with those in the middle of a piece, and from then on they run together.

Whoever was just answered is likely to call again, and the next run waits for them, for a quarter of the time that such
a run took last at most; else the first to come back would run alone and the others behind it, at up to nearly twice the
cost. A listener alone expects nobody and never waits.
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
WAITING = 256  # calls; of a front end each piece in the making has one at most
_PATIENCE = 0.25  # of the next run's time, by the last one of its kind,
_LONGEST = 0.1  # but not more seconds than this; nor may who comes later than this go first
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Call:
    name: str
    inputs: Tensors
    rows: int
    came: float  # on time.monotonic's clock
    leads: bool = False  # it is to make the next run
    over: bool = False  # it has run
    awake: threading.Event = field(default_factory=threading.Event)  # it leads, or is over
    outputs: Tensors | None = None
    error: BaseException | None = None


class Merger:
    """Merges calls of functions of batch-first arrays, of which one run goes on at a time. Threads share it.

    Args:
        run: calls the function of a name. What it answers to a row must not depend on the others.
        rows: of a run at most.
        waiting: how many calls may wait; one more is refused.
    """

    def __init__(self, run: Callable[[str, Tensors], Tensors], *, rows: int = ROWS, waiting: int = WAITING):
        self._run, self._rows, self._most = run, rows, waiting
        self._waiting: deque[_Call] = deque()
        self._changed = threading.Condition()  # where the one who leads waits for the expected
        self._led = False
        self._expected = 1  # calls to wait for
        self._ended = 0.0  # when the last run did
        self._took: dict[str, float] = {}  # seconds, of the last run of each function

    def call(self, name: str, inputs: Tensors, timeout: float | None = None) -> Tensors:
        """The named function's answer to these inputs, whose arrays have as many rows each.

        Args:
            timeout: seconds until it must have begun; then it is waited for to its end.

        Raises:
            Overloaded: too many wait already.
            DeadlineExceeded: it has not begun in time.
            BackendError: the arrays do not have as many rows each; and what the function raises for this call alone.
        """
        call = _Call(name, inputs, _rows(inputs), time.monotonic())
        until = float("inf") if timeout is None else call.came + timeout
        try:
            self._join(call)
            while not call.over:
                if not call.leads:
                    self._wait(call, until)
                if call.leads:
                    self._lead(call)
        except BaseException:  # out of time, or a signal's
            self._withdraw(call)
            raise
        if call.error:
            raise call.error
        if call.outputs is None:
            raise BackendError("the run that this call was merged into was broken off")
        return call.outputs

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def _join(self, call: _Call) -> None:
        """The others, or lead if there are none. Raises Overloaded."""
        with self._changed:
            if self._led and len(self._waiting) >= self._most:
                raise Overloaded(f"{self._most} calls of the model wait already; try again in a moment")
            self._waiting.append(call)
            self._changed.notify()
            if not self._led:
                self._led = call.leads = True

    def _wait(self, call: _Call, until: float) -> None:
        """For the call to lead or to be over. Raises DeadlineExceeded where it does not run in time."""
        if not call.awake.wait(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)):
            with self._changed:
                if call in self._waiting and not call.leads:
                    raise DeadlineExceeded(f"in {until - call.came:g} seconds the model had no turn for this call")
            call.awake.wait()

    def _withdraw(self, call: _Call) -> None:
        """Nobody waits for the call any more; if it was to lead, the next one does."""
        with self._changed:
            if call in self._waiting:
                self._waiting.remove(call)
                if call.leads:
                    self._pass_on()

    def _pass_on(self) -> None:
        """Whoever is first leads next; under the lock."""
        self._led = bool(self._waiting)
        if self._led:
            leader = self._first()
            leader.leads = True
            leader.awake.set()

    def _first(self) -> _Call:
        """Whose run should end first; under the lock."""
        return min(self._waiting, key=lambda call: call.came + min(self._took.get(call.name, _LONGEST), _LONGEST))

    def _lead(self, call: _Call) -> None:
        """One run with `call` in it, unless others are to go before it; then somebody else leads."""
        batch: list[_Call] = []
        began = time.monotonic()
        try:
            batch = self._gathered(call)
            began = time.monotonic()
            self._answer(batch)
        finally:  # even if a signal's exception has come between
            with self._changed:
                if batch:
                    self._ended = time.monotonic()
                    self._took[call.name] = self._ended - began
                    self._expected = min(len(batch) + len(self._waiting), self._rows)
                for answered in batch:
                    answered.over = True
                call.leads = False
                call.awake.clear()
                self._pass_on()
            for answered in batch:
                answered.awake.set()

    def _gathered(self, call: _Call) -> list[_Call]:
        """Those who run together, once the expected ones are there or it is time: the first one, and of those that call
        the same as many as fit, in their order; nobody if `call` is not among them."""
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
        """When what has come by then runs."""
        return self._ended + min(_PATIENCE * self._took.get(self._first().name, 0.0), _LONGEST)

    def _answer(self, batch: list[_Call]) -> None:
        """Run them together, or one by one where that fails: an error is for the call that brings it about."""
        if len(batch) > 1:
            try:
                answers = self._together(batch)
            except Exception as error:  # told, as nobody else may hear of it: each by itself they may be well
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

    def _together(self, batch: list[_Call]) -> list[Tensors]:
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
