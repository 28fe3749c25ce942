"""Notes per second of one listener, in this process: chunks, note by note, and the loop they replace.

    python -m benchmarks.generation [--model models/performance/1] [--seconds 5]

The baseline is what a server without state does: for every note it plays the last 64 notes again (`prime`, then
`step`), with the same SavedModel in the same run. Run it while nothing else runs.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np

from music import seeds
from music.generation import PRIME_BLOCK, Card, Generator, Settings
from serving.embedded import Embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--model", help="default: the one in models/")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    args = parser.parse_args()
    backend = Embedded(args.model)
    card = Card.parse(backend.call("describe", {"batch": np.zeros(1, "i4")}).outputs["card"][0])
    print(f"{card.name}, {card.facts['parameters']:,} parameters")
    baseline = measure(window_again(backend, card), args.seconds)
    print(f"{'the last 64 notes again for each note':40} {baseline:7.0f} notes/s")
    for chunk in (1, 32):
        speed = measure(stream(Generator(backend, chunk=chunk)), args.seconds)
        name = "one `step` a note" if chunk == 1 else f"`generate`, chunks of {chunk}"
        print(f"{name:40} {speed:7.0f} notes/s   {speed / baseline:5.1f} ×")
    first = []
    for _ in range(10):
        started = time.perf_counter()
        next(stream(Generator(backend)))
        first.append(time.perf_counter() - started)
    print(f"first note after a seed of {len(seeds.nocturne())} notes: {1000 * np.median(first):.0f} ms")


def measure(notes: Iterator[int], seconds: float) -> float:
    """Notes per second, after a warm-up of the first one."""
    next(notes)
    started, made = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        made += next(notes)
    return made / (time.perf_counter() - started)


def stream(generator: Generator) -> Iterator[int]:
    """How many notes came, chunk after chunk, piece after piece."""
    while True:
        for chunk in generator.stream(seeds.nocturne(), Settings(notes=1024)):
            yield len(chunk.notes)


def window_again(backend: Embedded, card: Card) -> Iterator[int]:
    rng = np.random.default_rng(0)
    rows = card.encoding.encode(seeds.nocturne(), begin=True, end=False)[-PRIME_BLOCK:]
    how = {"temperature": np.ones(1, "f4"), "top_p": np.ones(1, "f4"), "min_p": np.zeros(1, "f4")}
    while True:
        heard = {"rows": rows[None], "length": np.array([PRIME_BLOCK], "i4"), **card.empty_state()}
        state = backend.call("prime", heard).outputs
        row = backend.call("step", {"noise": rng.random((1, rows.shape[1]), "f4"), **how, **state}).outputs["row"]
        rows = np.concatenate([rows[1:], row])
        yield 1


if __name__ == "__main__":
    main()
