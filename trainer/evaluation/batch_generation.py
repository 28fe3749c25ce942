"""Many pieces at once: seeds and settings → what a model plays, as Generator plays each alone. For measurements.

A call of many rows costs little more than one of eight, so a hundred pieces together take a tenth of the time. The
random numbers are Generator's, so of a SavedModel every piece is the one that a model server makes with the same
settings, and that the server with a model of its own makes until a draw falls within rounding, as what it calls is
compiled. A model that is none is compiled for each number of pieces, which may change the last bits, too. A call
that fails ends it all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.encodings.columns import END
from music.generation import CHUNK, PRIME_BLOCK, Backend, Card, Settings
from music.notes import Notes

LANES = 192  # pieces in one call; measured on two cores: 5.1 k notes/s with 48, 8.8 k with 192, 8.0 k with 384
_STEP = 32  # by which a call gets smaller as pieces end: a model that is no SavedModel is compiled anew for each size
_DRAWING = ("temperature", "top_p", "min_p")


class Part(NamedTuple):
    """What to play: a seed that the encoding can express, how, and when to stop at the latest."""

    seed: Notes
    settings: Settings
    seconds: float = float("inf")  # after the seed's last onset


class Played(NamedTuple):
    notes: Notes  # on the seed's clock
    final: bool  # the piece ended by itself


@dataclass
class _Lane:
    """One piece in the making."""

    part: Part
    rng: np.random.Generator
    clock: float
    until: float
    left: int
    made: list[Notes] = field(default_factory=list)
    final: bool = False

    @property
    def over(self) -> bool:
        return self.final or self.left <= 0 or self.clock >= self.until


def play(backend: Backend, card: Card, parts: Sequence[Part], lanes: int = LANES) -> Iterator[Played]:
    """Play every part, in their order, `lanes` at a time. Raises EncodingError or BackendError."""
    for at in range(0, len(parts), lanes):
        yield from _together(backend, card, parts[at : at + lanes])


def _together(backend: Backend, card: Card, parts: Sequence[Part]) -> list[Played]:
    everyone = [_lane(card, part) for part in parts]
    playing, state = everyone, _primed(backend, card, everyone)
    while active := sum(not lane.over for lane in playing):
        if (size := -(-active // _STEP) * _STEP) < len(playing):
            kept = sorted(range(len(playing)), key=lambda k: playing[k].over)[:size]
            playing, state = [playing[k] for k in kept], {name: value[kept] for name, value in state.items()}
        noise = np.stack([lane.rng.random((CHUNK, len(card.encoding.names)), "f4") for lane in playing])
        how = {name: np.array([getattr(lane.part.settings, name) for lane in playing], "f4") for name in _DRAWING}
        count = np.full(len(playing), CHUNK, "i4")
        outputs = backend.call("generate", {"noise": noise, "count": count, **how, **state}).outputs
        state = {name: outputs[name] for name in state}
        for lane, rows in zip(playing, outputs["rows"], strict=True):
            if not lane.over:
                _take(lane, card, rows)
    return [_played(lane) for lane in everyone]


def _lane(card: Card, part: Part) -> _Lane:
    began = float(part.seed["start"].min()) if len(part.seed) else 0.0
    clock = card.encoding.clock(part.seed, began)
    last = float(part.seed["start"].max()) if len(part.seed) else 0.0
    rng = np.random.default_rng(part.settings.random_seed)
    return _Lane(part, rng, clock, last + part.seconds, part.settings.notes)


def _primed(backend: Backend, card: Card, everyone: list[_Lane]) -> dict[str, np.ndarray]:
    """The state of each lane after its seed."""
    heard = []
    for lane in everyone:
        seed = lane.part.seed
        began = float(seed["start"].min()) if len(seed) else 0.0
        heard.append(card.encoding.encode(seed, begin=True, end=False, after=began))
    state = card.empty_state(len(everyone))
    for at in range(0, max(map(len, heard)), PRIME_BLOCK):
        blocks = [rows[at : at + PRIME_BLOCK] for rows in heard]
        length = np.array([len(block) for block in blocks], "i4")
        padded = np.zeros((len(heard), PRIME_BLOCK, len(card.encoding.names)), "i4")
        for k, block in enumerate(blocks):
            padded[k, : len(block)] = block
        outputs = backend.call("prime", {"rows": padded, "length": length, **state}).outputs
        state = {name: outputs[name] for name in state}
    return state


def _take(lane: _Lane, card: Card, rows: np.ndarray) -> None:
    """Add rows that were drawn to a piece."""
    final = rows[:, 0] == END
    notes = card.encoding.decode(rows[~final], after=lane.clock)[: lane.left]
    lane.clock = card.encoding.clock(notes, lane.clock)
    lane.left -= len(notes)
    lane.final = bool(final.any())
    lane.made.append(notes)


def _played(lane: _Lane) -> Played:
    """A piece's notes, up to where it was to stop; it ended by itself only if it did so before."""
    notes = np.concatenate([nt.empty(), *lane.made])
    inside = notes[notes["start"] < lane.until]
    return Played(inside, lane.final and len(inside) == len(notes))
