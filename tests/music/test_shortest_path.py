"""The shortest path, against all chains tried one after the other."""

import numpy as np
import pytest

from music.notation import shortest_path


def all_chains(costs, moves, lengths, end):
    """Yield (cost, begins, states) of every chain from step 0 to a step."""
    for state, length in enumerate(lengths):
        begin = end - length
        if begin == 0:  # the first state may come from any other, so the cheapest move counts
            yield costs[0, state] + moves[state].min(), [0], [state]
        elif begin > 0:
            for cost, begins, states in all_chains(costs, moves, lengths, begin):
                yield cost + moves[state, states[-1]] + costs[begin, state], [*begins, begin], [*states, state]


@pytest.mark.parametrize("seed", range(20))
def test_no_chain_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    steps, count = int(rng.integers(3, 7)), int(rng.integers(2, 4))
    lengths = np.array([1, *rng.integers(1, 4, count - 1)])
    lengths.sort()
    costs, moves = rng.random((steps, count)), rng.random((count, count))
    ends = np.array([steps - 1, steps])
    begins, states, cost = shortest_path.cheapest(costs, moves, lengths=lengths, ends=ends)
    chains = [chain for end in ends for chain in all_chains(costs, moves, lengths, int(end))]
    best = min(chains, key=lambda chain: chain[0])
    assert cost == pytest.approx(best[0])
    assert (begins.tolist(), states.tolist()) == best[1:]


def test_a_state_comes_only_from_its_sources():
    costs = np.array([[0.0, 5, 5], [5, 5, 0], [5, 5, 0.0]])
    neighbours = np.clip(np.arange(3)[:, None] + [-1, 0, 1], 0, 2)
    assert shortest_path.cheapest(costs, np.zeros((3, 3)))[1].tolist() == [0, 2, 2]
    begins, states, cost = shortest_path.cheapest(costs, np.zeros((3, 3)), neighbours)
    assert (begins.tolist(), states.tolist(), cost) == ([0, 1, 2], [0, 1, 2], 5.0)


def test_of_equal_chains_the_lower_states_are_taken():
    assert shortest_path.cheapest(np.zeros((4, 3)), np.zeros((3, 3)))[1].tolist() == [0, 0, 0, 0]


def test_a_chain_begins_within_its_range():
    costs = np.array([[9.0], [1.0], [1.0], [1.0]])
    begins, states, cost = shortest_path.cheapest(costs, np.zeros((1, 1)), first=(0, 1))
    assert (begins.tolist(), states.tolist(), cost) == ([1, 2, 3], [0, 0, 0], 3.0)
