"""Measure many clients at once, by HTTP: totals, shares, and whether each gets the same bytes as when alone."""

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np

from benchmarks.serving.measure import Row
from benchmarks.serving.processes import FrontEnd, ModelProcess, front_end, model_server

CLIENTS = (1, 2, 4, 8, 16, 32)
_ALONE = 3  # how many of them are also measured alone


class Stream(NamedTuple):
    """What one client received."""

    status: int
    body: bytes
    first: float  # seconds to the first new note
    seconds: float  # to the end


def embedded(name: str, base: str, notes: int, clients: tuple[int, ...]) -> Iterator[Row]:
    """Measure with the model in the front end's process."""
    with front_end("--model", base, "--warm") as front:
        yield from _measure(f"{name}, in process", front, notes, clients)


def remote(name: str, base: str, notes: int, clients: tuple[int, ...]) -> Iterator[Row]:
    """Measure with the tests' model server, which batches as infra/cloud/batching.config says."""
    with (
        model_server(base, batching=True) as server,
        front_end("--server", server.lists, "--model-name", "performance", "--xla") as front,
    ):
        yield from _measure(f"{name}, over gRPC", front, notes, clients, server)


def _measure(
    name: str, front: FrontEnd, notes: int, clients: tuple[int, ...], server: ModelProcess | None = None
) -> Iterator[Row]:
    read_stream(front, notes, 0)
    alone = [read_stream(front, notes, number).body for number in range(_ALONE)]
    single = None
    for count in clients:
        if server:
            server.times()  # begins anew
        streams, seconds = stream_at_once(front, notes, count)
        complete = [one for one in streams if one.status == 200 and b'"error"' not in one.body]
        total = sum(one.body.count(b'"pitch"') for one in complete) / seconds
        single = single or total
        ends = sorted(one.seconds for one in complete)
        share = ends[-1] / ends[0] if ends else float("nan")
        same = all(one.body == body for one, body in zip(streams, alone, strict=False))
        numbers = {
            "total": total, "times one": total / single, "slowest over fastest": share, "same bytes": same,
            "refused": count - len(complete), "first": 1000 * float(np.median([one.first for one in streams])),
        }  # fmt: skip
        merged = ""
        if server:
            numbers["merged"] = server.times()["merged"]
            merged = f", {numbers['merged']:.1f} calls in a run of the model"
        yield Row(
            f"{name}: {count} client{'s' * (count > 1)} by HTTP",
            f"{total:.0f} notes/s ({total / single:.1f} ×), slowest over fastest {share:.2f}, first note after "
            f"{numbers['first']:.0f} ms, {numbers['refused']} refused, "
            f"{'the bytes of' if same else 'NOT the bytes of'} when alone{merged}",
            numbers,
        )


def stream_at_once(front: FrontEnd, notes: int, count: int) -> tuple[list[Stream], float]:
    """Let so many clients request a piece each at once. Return what they received, and the seconds of all together."""
    start = threading.Barrier(count + 1)

    def one(number: int) -> Stream:
        start.wait(60)
        return read_stream(front, notes, number)

    with futures.ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(one, number) for number in range(count)]
        start.wait(60)
        began = time.perf_counter()
        streams = [call.result() for call in calls]
        return streams, time.perf_counter() - began


def read_stream(front: FrontEnd, notes: int, number: int) -> Stream:
    """Request a new piece as a stream of NDJSON."""
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=300)
    began = time.perf_counter()
    connection.request("POST", f"/generate?format=ndjson&notes={notes}&random_seed={number}")
    response = connection.getresponse()
    opening = response.readline() + response.readline()  # who plays, and the first note
    first = time.perf_counter() - began
    body = opening + response.read()
    connection.close()
    return Stream(response.status, body, first, time.perf_counter() - began)
