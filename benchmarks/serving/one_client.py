"""Measure one client: the shipped model and a fresh one of 3 x 512, in this process and over gRPC."""

import time
from collections.abc import Iterator

from benchmarks.serving.measure import Row, Timed, long_seed, milliseconds, rates, steady
from benchmarks.serving.models import tutorial
from benchmarks.serving.processes import model_server
from music.generation import CHUNK, Backend, Generator, Reply, Settings
from serving.backends.embedded import Embedded
from serving.backends.tfserving import TFServing
from trainer.model import EventModel

SEEDS = (0, 64, 512)


def embedded(name: str, backend: Backend, seconds: float, network: EventModel | None = None) -> Iterator[Row]:
    """Measure notes per second in chunks and one by one, and of the tutorial's loop over `network`."""
    players = {"chunks": steady(backend), "steps": steady(backend, 1)}
    if network is not None:
        players["tutorial"] = _timed(tutorial(network))
    rate = rates(players, seconds * len(players))
    beside = ""
    if network is not None:
        times = " · ".join(f"{rate[key] / rate['tutorial']:.0f} ×" for key in ("chunks", "steps"))
        beside = (
            f": {times} the tutorial's `model.predict` of the last 25 notes for each note, over the same network "
            f"({rate['tutorial']:.1f} notes/s)"
        )
    figure = f"{rate['chunks']:.0f} · {rate['steps']:.0f} notes/s{beside}"
    yield Row(f"one client, in process, {name}: chunks of {CHUNK} · one `step` a note", figure, rate)


def first_note(name: str, backend: Backend, tries: int) -> Iterator[Row]:
    """Measure the time from the seed to the first new note, and of that the `prime` calls."""
    figures, numbers = [], {}
    for count in SEEDS:
        seed, firsts, primes = long_seed(count), [], []
        for turn in range(tries + 1):  # the first one warms up
            timed = Timed(backend)
            began = time.perf_counter()
            next(Generator(timed).stream(seed, Settings(random_seed=turn)))
            firsts.append(time.perf_counter() - began)
            primes.append(sum(timed.seconds["prime"]))
        first, prime = milliseconds(firsts[1:]), milliseconds(primes[1:])
        numbers[count] = {"first": first, "prime": prime}
        figures.append(f"{first:.0f} ({prime:.0f})")
    what = f"{name}: first note after a seed of {' · '.join(map(str, SEEDS))} notes, of that `prime`"
    yield Row(what, f"{' · '.join(figures)} ms", numbers)


def wire(name: str, base: str, seconds: float) -> Iterator[Row]:
    """Measure the same model over gRPC, its server a process of its own, and the parts of a call's time."""
    with model_server(base) as server:
        here, plain = Embedded(base), TFServing(server.lists, "performance")
        lists, content = (Split(address) for address in (server.lists, server.content))
        for chunk, what in ((CHUNK, f"chunks of {CHUNK}"), (1, "one `step` a note")):
            backends = {"embedded": here, "lists": lists, "content": content, "plain": plain}
            rate = rates({key: steady(backend, chunk) for key, backend in backends.items()}, 4 * seconds)
            figure = (
                f"{rate['lists']:.0f} notes/s with typed lists, {rate['content']:.0f} with `tensor_content`: "
                f"{rate['lists'] / rate['embedded']:.0%} · {rate['content'] / rate['embedded']:.0%} of in process; "
                f"{rate['plain']:.0f} where nothing is compiled"
            )
            yield Row(f"over gRPC, {name}: {what}", figure, rate)
            yield _where(what, name, lists, server, chunk, seconds)


def _where(what: str, name: str, backend: "Split", server, chunk: int, seconds: float) -> Row:
    """Measure the parts of one call's time."""
    server.times()  # begins anew
    player = steady(backend, chunk)
    next(player)
    signature = "step" if chunk == 1 else "generate"
    calls, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        took = next(player)[1]
        calls.append((took, *backend.parts[signature]))
    total, asking, waiting, reading = (milliseconds(part) for part in zip(*calls, strict=True))
    own = milliseconds([took - sum(parts) for took, *parts in calls])
    there = server.times()
    graph, handled = there["graph"]["generate"], there["handled"]["generate_xla"]
    parts = {
        "making the request": asking,
        "wire": waiting - handled,
        "server": handled - graph,
        "graph": graph,
        "reading the answer": reading,
        "generator": own,
    }
    figure = ", ".join(f"{part} {took:.2f}" for part, took in parts.items())
    return Row(f"over gRPC, {name}: {what}, where a call's {total:.2f} ms go", figure, parts)


class Split(TFServing):
    """Measures the seconds to write the request, to wait for the reply, and to read it; for one thread."""

    def __init__(self, address: str):
        super().__init__(address, "performance", xla=True)
        self.parts: dict[str, tuple[float, float, float]] = {}  # of the last call of each signature

    def call(self, signature: str, inputs, *, version=None, timeout=None) -> Reply:
        began = time.perf_counter()
        reply = super().call(signature, inputs, version=version, timeout=timeout)
        ended = time.perf_counter()
        self.parts[signature] = (self._asked - began, self._answered - self._asked, ended - self._answered)
        return reply

    def _send(self, request, timeout):
        self._asked = time.perf_counter()
        answer = super()._send(request, timeout)
        self._answered = time.perf_counter()
        return answer


def _timed(player: Iterator[int]) -> Iterator[tuple[int, float]]:
    while True:
        began = time.perf_counter()
        notes = next(player)
        yield notes, time.perf_counter() - began


def growth(bases: dict[int, str], seconds: float) -> Iterator[Row]:
    """Measure notes per second by width."""
    rate = {}
    for units, base in bases.items():
        backend = Embedded(base)
        rate[units] = rates({"chunks": steady(backend), "steps": steady(backend, 1)}, 2 * seconds)
    widths = " · ".join(map(str, bases))
    chunks, steps = (" · ".join(f"{one[key]:.0f}" for one in rate.values()) for key in ("chunks", "steps"))
    yield Row(f"3 layers, {widths} wide, in process: chunks", f"{chunks} notes/s", rate)
    yield Row(f"3 layers, {widths} wide, in process: one `step` a note", f"{steps} notes/s", {})


def late(name: str, backend: Backend, notes: int) -> Iterator[Row]:
    """Measure a note's milliseconds early and late in one piece."""
    took: list[float] = []
    stream = Generator(backend).stream(long_seed(64), Settings(notes=notes, random_seed=1))
    while True:
        began = time.perf_counter()
        chunk = next(stream, None)
        if chunk is None:
            break
        if len(chunk.notes) == CHUNK:
            took.append((time.perf_counter() - began) / CHUNK)
    some = max(3, len(took) // 8)
    early, end = milliseconds(took[:some]), milliseconds(took[-some:])
    figure = f"{early:.2f} · {end:.2f} ms a note"
    what = f"{name}: about note {some * CHUNK // 2 + 2} · note {notes - some * CHUNK // 2} of one piece"
    yield Row(what, figure, {"early": early, "late": end})
