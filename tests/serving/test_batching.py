"""Calls that come while another one runs: joined, split again, bounded, and an error is for its own call only."""

import threading
import time

import numpy as np
import pytest

from music.errors import BackendError, DeadlineExceeded, Overloaded
from serving.backends import batching
from serving.backends.batching import Batcher, _Call


class Squares:
    """The function: rows → their squares; a row below 0 is an error. The first run lasts until `go` is set."""

    def __init__(self, **limits):
        self.batcher = Batcher(self, **limits)
        self.runs: list[list[int]] = []
        self.names: list[str] = []
        self.threads: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, name, inputs):
        self.runs.append(inputs["x"].tolist())
        self.names.append(name)
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self.go.wait(60)
        if (inputs["x"] < 0).any():
            raise ValueError(f"a row below 0: {inputs['x'].tolist()}")
        return {"y": inputs["x"] ** 2}

    def ask(self, *rows, timeout=None, name="a"):
        return self.batcher.call(name, {"x": np.array(rows)}, timeout)["y"].tolist()


class Caller(threading.Thread):
    """One call in a thread of its own, and its result: a list, or an exception."""

    def __init__(self, squares: Squares, *rows: int, timeout: float | None = None, name: str = "a"):
        super().__init__()
        self._ask = lambda: squares.ask(*rows, timeout=timeout, name=name)
        self._result = None
        self.start()

    def run(self):
        try:
            self._result = self._ask()
        except BaseException as error:
            self._result = error

    def result(self):
        self.join(60)
        assert not self.is_alive(), "it still waits"
        return self._result


def queue(squares: Squares, *calls: tuple[int, ...], names: str = "") -> list[Caller]:
    """Start the first call, which runs until `go`, and the others, which wait behind it in this order."""
    called = names or "a" * len(calls)
    callers = [Caller(squares, *calls[0], name=called[0])]
    assert squares.begun.wait(60)
    for number, rows in enumerate(calls[1:], start=1):
        callers.append(Caller(squares, *rows, name=called[number]))
        eventually(lambda number=number: squares.batcher.waiting == number)
    return callers


def eventually(true) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def results(callers: list[Caller]) -> list:
    return [caller.result() for caller in callers]


@pytest.fixture
def patient(monkeypatch):
    """Let a run wait for expected calls as long as a test may take."""
    monkeypatch.setattr(batching, "_PATIENCE", 1e9)
    monkeypatch.setattr(batching, "_LONGEST", 50.0)


def test_what_comes_while_a_call_runs_is_one_call_and_each_gets_its_own_rows():
    squares = Squares()
    callers = queue(squares, (1,), (2,), (3, 4), (5,))
    squares.go.set()
    assert results(callers) == [[1], [4], [9, 16], [25]]
    assert squares.runs == [[1], [2, 3, 4, 5]]


def test_no_more_rows_than_fit_and_nobody_overtakes():
    squares = Squares(rows=3)
    callers = queue(squares, (1,), (2,), (3, 4), (5,), (6, 7, 8, 9))  # the last one has more than fit, so it runs alone
    squares.go.set()
    assert results(callers) == [[1], [4], [9, 16], [25], [36, 49, 64, 81]]
    assert squares.runs == [[1], [2, 3, 4], [5], [6, 7, 8, 9]]


def test_calls_of_another_function_are_not_merged_and_of_equally_long_ones_first_come_is_first_served(monkeypatch):
    monkeypatch.setattr(batching, "_LONGEST", 0.0)
    squares = Squares(rows=3)
    callers = queue(squares, (1,), (2,), (3,), (4,), (5, 6), (7,), names="abcbbc")
    squares.go.set()
    assert results(callers) == [[1], [4], [9], [16], [25, 36], [49]]
    assert squares.runs == [[1], [2, 4], [3, 7], [5, 6]]  # (5, 6) would be one row too many
    assert "".join(squares.names) == "abcb"


@pytest.mark.parametrize("later", [False, True])  # than anybody may be passed over
def test_a_short_call_goes_before_a_long_one_unless_that_has_waited_for_long(monkeypatch, later):
    monkeypatch.setattr(batching, "_PATIENCE", 0.0)
    monkeypatch.setattr(batching, "_LONGEST", 0.0 if later else 1e9)
    squares = Squares()
    squares.batcher._took = {"a": 120.0, "b": 0.0}
    callers = queue(squares, (3,), (4,), (5,), (6,), names="baba")
    squares.go.set()
    assert results(callers) == [[9], [16], [25], [36]]
    assert squares.runs == ([[3], [4, 6], [5]] if later else [[3], [5], [4, 6]])


def test_a_function_that_never_ran_is_taken_for_a_long_one(monkeypatch):
    monkeypatch.setattr(batching, "_PATIENCE", 0.0)
    monkeypatch.setattr(batching, "_LONGEST", 120.0)
    squares = Squares()
    squares.batcher._took = {"a": 0.0}
    callers = queue(squares, (1,), (2,), (3,), names="aba")
    squares.go.set()
    assert results(callers) == [[1], [4], [9]] and squares.runs == [[1], [3], [2]]


def test_who_waits_for_others_and_is_not_the_first_then_lets_them_go_before_and_may_run_out_of_time(monkeypatch):
    monkeypatch.setattr(batching, "_PATIENCE", 1.0)
    monkeypatch.setattr(batching, "_LONGEST", 120.0)
    squares = Squares()
    squares.batcher._took = {"a": 120.0, "b": 0.0}
    squares.batcher._expected, squares.batcher._ended = 2, time.monotonic()
    leader = Caller(squares, 3, name="a", timeout=0.5)  # waits for one more
    eventually(lambda: squares.batcher.waiting == 1)
    short = Caller(squares, 4, name="b")
    late = leader.result()  # while the other one runs
    assert isinstance(late, DeadlineExceeded) and short.is_alive()
    squares.go.set()
    assert short.result() == [16]
    assert squares.runs == [[4]] and squares.threads == [short.ident]
    assert squares.ask(5, name="a") == [25]


@pytest.mark.parametrize("chosen", [False, True], ids=["before its turn", "when it is to lead"])
def test_who_is_broken_off_while_waiting_holds_nobody_up(monkeypatch, chosen):
    class Broken(threading.Event):
        def wait(self, timeout=None):
            assert not chosen or super().wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr(batching, "_LONGEST", 0.0)
    squares = Squares()
    callers = queue(squares, (1,))
    with monkeypatch.context() as patch:
        patch.setattr(batching, "_Call", lambda *arguments: _Call(*arguments, awake=Broken()))
        callers.append(Caller(squares, 2, name="b"))
        eventually(lambda: not callers[1].is_alive() or (chosen and squares.batcher.waiting == 1))
    callers.append(Caller(squares, 3))
    eventually(lambda: squares.batcher.waiting == (2 if chosen else 1))
    squares.go.set()
    one, broken, three = results(callers)
    assert (one, three) == ([1], [9]) and isinstance(broken, KeyboardInterrupt)
    assert squares.runs == [[1], [3]]


def test_who_is_alone_waits_for_nobody_and_runs_in_its_own_thread(patient):
    squares = Squares()
    squares.go.set()
    first = Caller(squares, 1)
    assert first.result() == [1]
    again = [squares.ask(n) for n in (2, 3)]  # as patient as they are, these would wait for each other otherwise
    assert again == [[4], [9]]
    assert squares.threads == [first.ident, threading.get_ident(), threading.get_ident()]


def test_who_was_just_answered_is_waited_for(patient):
    squares = Squares()
    first, second = queue(squares, (1,), (2,))
    squares.go.set()
    assert first.result() == [1]
    assert second.is_alive()
    assert squares.ask(3) == [9] and second.result() == [4]
    assert squares.runs == [[1], [2, 3]]


def test_but_not_for_long():
    squares = Squares()
    callers = queue(squares, (1,), (2,), (3,))
    squares.go.set()
    assert results(callers) == [[1], [4], [9]]
    assert squares.ask(4) == [16]  # nor does who comes alone after many
    assert squares.runs == [[1], [2, 3], [4]]


def test_an_error_is_for_the_call_that_brings_it_about(caplog):
    squares = Squares()
    callers = queue(squares, (1,), (2,), (-3,), (4,))
    squares.go.set()
    one, two, error, four = results(callers)
    assert (one, two, four) == ([1], [4], [16])
    assert isinstance(error, ValueError) and str(error) == "a row below 0: [-3]"
    assert squares.ask(5) == [25]
    assert [record.message for record in caplog.records if record.name == "serving.backends.batching"] == [
        "a run of 3 calls failed, each runs by itself now: a row below 0: [2, -3, 4]"
    ]


def test_an_answer_that_cannot_be_split_is_asked_for_again_one_by_one():
    squares = Squares()
    squares.batcher = Batcher(lambda name, inputs: {"y": np.array([squares(name, inputs)["y"].sum()])})
    callers = queue(squares, (1,), (2,), (3,))
    squares.go.set()
    assert results(callers) == [[1], [4], [9]]


def test_of_those_that_wait_there_are_so_many_and_no_more():
    squares = Squares(waiting=2)
    callers = queue(squares, (1,), (2,), (3,))
    with pytest.raises(Overloaded, match="2 calls of the model wait already"):
        squares.ask(4)
    squares.go.set()
    assert results(callers) == [[1], [4], [9]]
    assert squares.ask(5) == [25]


def test_who_has_waited_long_enough_leaves_and_is_not_run():
    squares = Squares()
    callers = queue(squares, (1,), (2,))
    with pytest.raises(DeadlineExceeded, match=r"0\.05 seconds"):
        squares.ask(3, timeout=0.05)
    assert squares.batcher.waiting == 1
    squares.go.set()
    assert results(callers) == [[1], [4]] and squares.runs == [[1], [2]]


def test_a_timeout_may_be_longer_than_a_lock_can_wait():
    squares = Squares()
    callers = queue(squares, (1,))
    callers.append(Caller(squares, 4, timeout=1e12))
    eventually(lambda: squares.batcher.waiting == 1)
    squares.go.set()
    assert results(callers) == [[1], [16]]


def test_what_has_begun_is_waited_for():
    squares = Squares()
    late = Caller(squares, 2, timeout=0.01)
    time.sleep(0.05)
    squares.go.set()
    assert late.result() == [4]


def test_when_the_one_who_runs_for_all_is_broken_off_the_others_hear_of_it():
    squares = Squares()
    callers = queue(squares, (1,), (2,), (3,))

    def stopped(name, inputs):
        raise SystemExit

    squares.batcher._run = stopped
    squares.go.set()
    one, two, three = results(callers)
    assert one == [1] and isinstance(two, SystemExit)
    assert isinstance(three, BackendError) and "was interrupted" in str(three)
    squares.batcher._run = squares
    assert squares.ask(4) == [16]


@pytest.mark.parametrize(
    "inputs", [{"x": np.zeros(2), "z": np.zeros(3)}, {"x": np.float32(1)}, {}], ids=["ragged", "scalar", "nothing"]
)
def test_inputs_without_a_row_each_are_refused_before_they_can_shift_those_of_others(inputs):
    with pytest.raises(BackendError, match="as many rows each"):
        Squares().batcher.call("square", inputs)


def test_many_at_once_all_get_their_own():
    squares = Squares(rows=8)
    squares.go.set()
    answers = {}

    def listen(who: int) -> None:
        for turn in range(20):
            answers[who, turn] = squares.ask(100 * who + turn)

    threads = [threading.Thread(target=listen, args=(who,)) for who in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {(who, turn): [(100 * who + turn) ** 2] for who in range(32) for turn in range(20)}
    assert max(map(len, squares.runs)) <= 8
