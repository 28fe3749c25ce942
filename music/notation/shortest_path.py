"""Costs of states over time → the cheapest chain of states. Knows nothing of music.

It is Viterbi's algorithm, also for states that last for several steps (a semi-Markov chain).
"""

from itertools import groupby

import numpy as np


def cheapest(
    costs: np.ndarray,
    moves: np.ndarray,
    sources: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    first: tuple[int, int] = (0, 0),
    ends: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Find the cheapest chain of states; of two that cost the same, the one with the lower states.

    Args:
        costs: of a state that begins at a step, [steps, states]; their type is the one that is added up in.
        moves: what it costs to come to a state, [to, sources].
        sources: the states that it may come from, int [to, sources]; None: all of them.
        lengths: steps that each state lasts, rising, int [states]; None: one step each.
        first: the first and the last step at which a chain may begin, with any state.
        ends: the steps at which a chain may end, int [ends]; None: behind the last step.

    Returns:
        Where each state of the chain begins and which one it is, int64 [chain]; and what the chain costs.
    """
    steps, count = costs.shape
    low, high = first
    lengths = np.ones(count, "i8") if lengths is None else lengths
    ends = np.array([steps]) if ends is None else ends
    block, longest = int(lengths[0]), int(lengths[-1])
    same = [(length, list(states)) for length, states in groupby(range(count), lambda state: int(lengths[state]))]
    spans = [(length, slice(states[0], states[-1] + 1)) for length, states in same]
    best = np.full((steps + longest + block, count), np.inf, costs.dtype)  # of chains that end at a step with a state
    previous = np.zeros((steps, count), "i2")  # which of a state's sources it came from
    best[low : high + 1] = 0.0
    for t in range(low, steps, block):  # no state is shorter than a block, so the steps of one are independent
        end = min(t + block, steps)
        candidates = (best[t:end, None] if sources is None else best[t:end][:, sources]) + moves  # [block, to, sources]
        choice = candidates.argmin(2)
        previous[t:end] = choice
        total = np.take_along_axis(candidates, choice[..., None], 2)[..., 0] + costs[t:end]
        for length, states in spans:
            target = best[t + length : end + length, states]
            np.minimum(target, total[:, states], out=target)
    at, state = (int(k) for k in np.unravel_index(best[ends].argmin(), (len(ends), count)))
    t, cost = int(ends[at]), float(best[ends[at], state])
    begins, path = [], []
    while True:
        t -= int(lengths[state])
        begins.append(t)
        path.append(state)
        if t <= high:
            return np.array(begins[::-1]), np.array(path[::-1]), cost
        source = int(previous[t, state])
        state = source if sources is None else int(sources[state, source])
