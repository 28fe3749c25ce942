"""Notes with the pedal folded into their ends → when their keys are released, and when the pedal is down, in ticks.

Notes that were struck one after the other and end together end by the pedal, as they mostly do in a performance. So the
pedal is down from a moment after the end before to that end, and a key is released where the next note begins. No other
note ends while the pedal is down, unless its key is struck again. So `note_pairing` gives the notes their ends back.
"""

from typing import NamedTuple

import numpy as np

_LIFTED = 50  # ticks that the pedal is up, at most, before it is pressed for the next notes


class Press(NamedTuple):
    """One press of a channel's pedal."""

    channel: int
    down: int  # ticks
    up: int  # ticks


def release_keys(
    channel: np.ndarray, start: np.ndarray, end: np.ndarray, restruck: np.ndarray
) -> tuple[np.ndarray, list[Press]]:
    """Find earlier releases of keys, and the presses of the pedal that let their notes sound to the same ends.

    Args:
        channel: int64 [n], of notes that a pedal may hold.
        start, end: int64 [n], ticks; no note is shorter than a tick.
        restruck: whether the note ends where its key is struck again, bool [n].

    Returns:
        When the keys are released, int64 [n] ticks, from start + 1 to end; and the presses.
    """
    released, presses = end.copy(), []
    for number in np.unique(channel).tolist():
        of = np.flatnonzero(channel == number)
        onsets = np.append(np.unique(start[of]), np.iinfo("i8").max)
        ending = of[~restruck[of]]
        ending = ending[np.argsort(end[ending], kind="stable")]
        before = 0  # the end before
        for notes in np.split(ending, np.flatnonzero(np.diff(end[ending])) + 1 if len(ending) else []):
            if not len(notes):
                continue
            first, up = int(start[notes].min()), int(end[notes[0]])
            free, before = max(before, first), up
            if len(notes) == 1 or first == start[notes].max() or up - free < 2:
                continue
            down = free + max(min(_LIFTED, (up - free) // 2), 1)
            early = np.maximum(onsets[np.searchsorted(onsets, start[notes], side="right")], down)
            if (early < up).any():
                released[notes] = np.minimum(early, up)
                presses.append(Press(number, down, up))
    return released, presses
