"""Seeds and settings → pieces, many in one call of the model. For measurements.

A call of many rows costs little more than one of eight, so a hundred pieces together take a tenth of the time. The
random numbers are Generator's: with a SavedModel, each piece is the one that a model server plays with the same
settings. An embedded backend calls compiled code; its piece is the same until a draw falls within rounding. A model
that is no SavedModel is compiled for each number of pieces, and its last bits may differ, too. One failed call ends
all pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from music import notes as nt
from music.encodings.columns import END, Rows
from music.generation import CHUNK, Backend, Card, Settings, ask, asking, draw, prime
from music.notes import Notes

LANES = 192  # pieces in one call; measured on two cores: 5.1 k notes/s with 48, 8.8 k with 192, 8.0 k with 384
_STEP = 32  # pieces by which a call gets smaller: a model that is no SavedModel is compiled anew for each size


class Part(NamedTuple):
    """What to play: a seed that the encoding can express, the settings, and when to stop at the latest."""

    seed: Notes
    settings: Settings
    seconds: float = float("inf")  # after the seed's last onset


class Played(NamedTuple):
    """What the model played for one part."""

    notes: Notes  # on the seed's clock
    final: bool  # the piece ended by itself


@dataclass
class _Lane:
    """One piece while it is played: its clock in seconds, and how many notes are left."""

    part: Part
    seed: Rows  # as the model reads it
    rng: np.random.Generator
    clock: float
    until: float
    left: int
    chunks: list[Notes] = field(default_factory=list)
    final: bool = False

    @property
    def over(self) -> bool:
        return self.final or self.left <= 0 or self.clock >= self.until


def play(backend: Backend, card: Card, parts: Sequence[Part], lanes: int = LANES) -> Iterator[Played]:
    """Play all parts in their order, `lanes` at a time. Raises EncodingError or BackendError."""
    for at in range(0, len(parts), lanes):
        yield from _together(backend, card, parts[at : at + lanes])


def _together(backend: Backend, card: Card, parts: Sequence[Part]) -> list[Played]:
    playing = everyone = [_lane(card, part) for part in parts]
    asked = [ask(card, lane.part.settings, lane.clock) for lane in everyone]
    state = prime(backend.call, [lane.seed for lane in everyone], card.empty_state(len(everyone)))
    state = asking(state, asked)
    while active := sum(not lane.over for lane in playing):
        if (size := -(-active // _STEP) * _STEP) < len(playing):
            rest = sorted(range(len(playing)), key=lambda k: playing[k].over)[:size]
            playing, state = [playing[k] for k in rest], {name: value[rest] for name, value in state.items()}
        noise = np.stack([lane.rng.random((CHUNK, len(card.encoding.names)), "f4") for lane in playing])
        settings = [lane.part.settings for lane in playing]
        drawn, state = draw(backend.call, card.encoding, noise, settings, state)
        for lane, rows in zip(playing, drawn, strict=True):
            if not lane.over:
                _take(lane, card, rows)
    return [_played(lane) for lane in everyone]


def _lane(card: Card, part: Part) -> _Lane:
    began = nt.first_onset(part.seed)
    seed = card.encoding.encode(part.seed, begin=True, end=False, after=began)
    last = float(part.seed["start"].max()) if len(part.seed) else 0.0
    rng = np.random.default_rng(part.settings.random_seed)
    return _Lane(part, seed, rng, card.encoding.clock(part.seed, began), last + part.seconds, part.settings.limit)


def _take(lane: _Lane, card: Card, rows: Rows) -> None:
    """Add the rows that the model drew to a piece."""
    notes = card.encoding.decode(rows, after=lane.clock)[: lane.left]
    lane.clock = card.encoding.clock(notes, lane.clock)
    lane.left -= len(notes)
    lane.final = bool((rows[:, 0] == END).any())
    lane.chunks.append(notes)


def _played(lane: _Lane) -> Played:
    """Cut a piece where it was to stop. It ended by itself only if it did so before that."""
    notes = np.concatenate([nt.empty(), *lane.chunks])
    inside = notes[notes["start"] < lane.until]
    return Played(inside, lane.final and len(inside) == len(notes))
