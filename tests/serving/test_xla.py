"""Calls of any number of rows on a function that is compiled for a few numbers only."""

import threading

import numpy as np
import pytest

from serving.backends.xla import Compiled

SIZES = (2, 8, 32)


class Graph:
    """Adds up; keeps the sizes that it was called with, and can be blocked where it would compile for more than two."""

    def __init__(self):
        self.sizes: list[int] = []
        self.go = threading.Event()

    def __call__(self, inputs):
        size = len(inputs["a"])
        assert {len(array) for array in inputs.values()} == {size}
        assert inputs["a"].dtype == "f4"
        if size > SIZES[0] and size not in self.sizes:
            assert self.go.wait(20)
        self.sizes.append(size)
        return {"sum": inputs["a"].sum(axis=(1, 2)) + inputs["b"], "a": inputs["a"]}


def inputs(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {"a": rng.random((rows, 4, 2), "f4"), "b": rng.random(rows, "f4")}


SAMPLE = inputs(SIZES[-1])


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def compiled(graph) -> Compiled:
    return Compiled(graph, SAMPLE, SIZES)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 9, 32, 75])
def test_any_number_of_rows_is_answered_row_by_row(graph, compiled, rows, warm):
    graph.go.set()
    if warm:
        compiled.warm()
    arrays = inputs(rows)
    answer = compiled.call(arrays)
    np.testing.assert_array_equal(answer["a"], arrays["a"])
    np.testing.assert_array_equal(answer["sum"], arrays["a"].sum(axis=(1, 2)) + arrays["b"])
    compiled.warm()
    assert set(graph.sizes) == set(SIZES)


def test_a_listener_alone_never_waits_for_a_compiler(graph, compiled):
    for _ in range(2):
        compiled.call(inputs(1))
    assert graph.sizes == [SIZES[0]] * 3  # the first is its own


def test_while_it_compiles_many_are_answered_in_groups(graph, compiled):
    compiled.call(inputs(6))
    assert graph.sizes == [SIZES[0]] * 4
    graph.go.set()
    compiled.warm()
    del graph.sizes[:]
    compiled.call(inputs(6))
    compiled.call(inputs(3))
    assert graph.sizes == [8, 2, 2]  # more than half of eight would be filling
    del graph.sizes[:]
    compiled.call(inputs(40))
    compiled.call(inputs(13))
    assert sorted(graph.sizes) == [8, 8, 8, 32]  # in any order: they run at once


def test_one_size_is_enough(graph):
    compiled = Compiled(graph, SAMPLE, SIZES[:1])
    compiled.warm()
    np.testing.assert_array_equal(compiled.call(inputs(5))["a"], inputs(5)["a"])
    assert graph.sizes == [SIZES[0]] * 4


def test_what_fails_to_compile_is_reported_and_done_without(compiled, graph, caplog):
    def failing(arrays):
        if len(arrays["a"]) > SIZES[0]:
            raise MemoryError("no room")
        return graph(arrays)

    compiled._run = failing
    with pytest.raises(MemoryError, match="no room"):
        compiled.warm()
    assert "groups of 2: no room" in caplog.text
    np.testing.assert_array_equal(compiled.call(inputs(5))["a"], inputs(5)["a"])


def test_a_size_with_other_bits_is_not_used(graph, caplog):
    def rounding(arrays):
        outputs = graph(arrays)
        return {**outputs, "sum": outputs["sum"] + np.float32(1e-6) if len(outputs["sum"]) == 8 else outputs["sum"]}

    graph.go.set()
    compiled = Compiled(rounding, SAMPLE, SIZES)
    compiled.warm()
    assert "8 rows at once would have other bits of ['sum'] than 2" in caplog.text
    del graph.sizes[:]
    compiled.call(inputs(6))
    compiled.call(inputs(20))
    assert graph.sizes == [2, 2, 2, 32]
