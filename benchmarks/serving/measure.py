"""Notes per second, side by side; the table of figures. Knows nothing of models and servers but a Backend."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from music.examples.nocturne import nocturne
from music.generation import CHUNK, Backend, Generator, Reply, Settings
from music.notes import Notes

ROUNDS = 3  # into which each measurement is split: a machine that grows busy does not favour one
_FIRST = 2  # notes of a piece that come one by one, for a quick first one


class Row(NamedTuple):
    """One line of the table; `numbers` go to the JSON."""

    what: str
    figure: str
    numbers: dict


def report(rows: Iterable[Row], path: Path | None) -> None:
    """Print the rows as a Markdown table, each when it is measured. Write the numbers as JSON, if a file is named."""
    numbers = {}
    print("| what | figure |\n|---|---|", flush=True)
    for row in rows:
        print(f"| {row.what} | {row.figure} |", flush=True)
        if row.numbers:
            numbers[row.what] = row.numbers
    if path:
        path.write_text(json.dumps(numbers, indent=1) + "\n")


class Timed:
    """A Backend that measures how many seconds each call of another one takes, by signature."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def call(self, signature: str, inputs: Mapping[str, np.ndarray], *, version=None, timeout=None) -> Reply:
        began = time.perf_counter()
        try:
            return self._backend.call(signature, inputs, version=version, timeout=timeout)
        finally:
            self.seconds[signature].append(time.perf_counter() - began)


def steady(backend: Backend, chunk: int = CHUNK, notes: int = 512) -> Iterator[tuple[int, float]]:
    """Yield notes and seconds of a client's chunks, piece after piece.

    What comes before the first whole chunk is left out (the seed, the first notes). So is a chunk in which a piece
    ended, as the model computes on behind its end.
    """
    generator, number = Generator(backend, chunk=chunk), 0
    while True:
        stream = generator.stream(nocturne(), Settings(notes=_FIRST + notes, random_seed=number))
        number += 1
        count = 0
        began = time.perf_counter()
        for played in stream:
            now = time.perf_counter()
            if count >= _FIRST and len(played.notes) == chunk:
                yield chunk, now - began
            count += len(played.notes)
            began = time.perf_counter()  # not `now`: another player may have run meanwhile


def rates(players: Mapping[str, Iterator[tuple[int, float]]], seconds: float) -> dict[str, float]:
    """Measure notes per second of players that run alternately, `seconds` in all; the first chunk is a warm-up."""
    counts, spent = dict.fromkeys(players, 0), dict.fromkeys(players, 0.0)
    for player in players.values():
        next(player)
    for _ in range(ROUNDS):
        for name, player in players.items():
            until = time.perf_counter() + seconds / ROUNDS
            while time.perf_counter() < until:
                notes, took = next(player)
                counts[name], spent[name] = counts[name] + notes, spent[name] + took
    return {name: counts[name] / spent[name] for name in players}


def long_seed(count: int) -> Notes:
    """Repeat the nocturne until there are so many notes."""
    once = nocturne()
    length = float(once["end"].max())
    parts = []
    for turn in range(-(-count // len(once))):
        later = once.copy()
        later["start"] += turn * length
        later["end"] += turn * length
        parts.append(later)
    return np.concatenate([once[:0], *parts])[:count]


def milliseconds(seconds) -> float:
    """Compute the median of some times, in milliseconds."""
    return 1000 * float(np.median(seconds))
