"""Measure the front end alone, with a scripted backend: requests, its time for a note, start and memory."""

import http.client
import sys
import time
from collections.abc import Iterator
from concurrent import futures

from benchmarks.serving.many_clients import read_stream
from benchmarks.serving.measure import Row, Timed, milliseconds
from benchmarks.serving.processes import FrontEnd, front_end
from music import notes as nt
from music.generation import Generator, Settings
from tests.support.fakes import ScriptedBackend, melody, scripted

NOTES = 4000
_REQUESTS = (("GET", "/healthz"), ("POST", "/generate?notes=1"), ("POST", "/generate?notes=32"))
_CLIENTS = 4
_WORKERS = 2
_NOWHERE = ("--server", "127.0.0.1:9", "--model-name", "performance")  # asked for nothing here
_STUBS = """
import tensorflow
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
"""
_WITH_STUBS = f"""
from serving import __main__ as front

class WithStubs(front.Gunicorn):
    def load(self):{_STUBS.replace(chr(10), chr(10) + "        ")}
        return super().load()

front.Gunicorn = WithStubs
front.run()
"""


def alone(seconds: float, tries: int) -> Iterator[Row]:
    """Measure requests per second and milliseconds per note."""
    with front_end(program=scripted(NOTES), WEB_CONCURRENCY="1") as front:
        rates = {path: _requests(front, method, path, seconds) for method, path in _REQUESTS}
        what = f"the front end alone, one worker, {_CLIENTS} clients: {' · '.join(rates)}"
        yield Row(what, f"{' · '.join(f'{rate:.0f}' for rate in rates.values())} requests/s", rates)
        streams = [read_stream(front, NOTES, 1).seconds for _ in range(tries)]
    runs = []
    for _ in range(tries):
        timed = Timed(ScriptedBackend(melody(NOTES)))
        began = time.perf_counter()
        for _chunk in Generator(timed).stream(nt.empty(), Settings(notes=NOTES)):
            pass
        runs.append((time.perf_counter() - began, sum(map(sum, timed.seconds.values()))))
    stream, generator, script = (
        milliseconds(took) / NOTES for took in (streams, [all_ for all_, _ in runs], [script for _, script in runs])
    )
    yield Row(
        f"the front end's own time for a note, in a stream of {NOTES:,} (of that Generator, replies and HTTP)",
        f"{stream - script:.4f} ms ({generator - script:.4f} and {stream - generator:.4f}); the script's {script:.4f} "
        "is not counted",
        {"own": stream - script, "generator": generator - script, "replies": stream - generator, "script": script},
    )


def start(tries: int) -> Iterator[Row]:
    """Measure the seconds until it answers and a worker's memory, also for workers that import the official stubs."""
    measured: dict[str, dict[str, float]] = {}
    for name, program in (("ours", ("-m", "serving")), ("with the stubs", ("-c", _WITH_STUBS))):
        took, megabytes = [], []
        for _ in range(tries):
            with front_end(*_NOWHERE, program=program, WEB_CONCURRENCY=str(_WORKERS)) as front:
                for _ in range(4 * _WORKERS):
                    _ask(front, "GET", "/openapi.json")
                took.append(front.seconds)
                megabytes += front.worker_megabytes()
        measured[name] = {"seconds": milliseconds(took) / 1000, "megabytes": max(megabytes)}
    figures = [f"{one['seconds']:.2f} s, {one['megabytes']:.0f} MB" for one in measured.values()]
    yield Row(
        f"the front end's start, {_WORKERS} workers, until it answers; memory of a worker",
        f"{figures[0]}; with tensorflow-serving-api's stubs, as TF Serving's own clients have them: {figures[1]}",
        measured,
    )


def _requests(front: FrontEnd, method: str, path: str, seconds: float) -> float:
    _ask(front, method, path)  # what is imported late is there then
    until = time.perf_counter() + seconds

    def client() -> int:
        done = 0
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        while time.perf_counter() < until:
            connection.request(method, path)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                sys.exit(f"{method} {path}: {response.status}")
            done += 1
        connection.close()
        return done

    began = time.perf_counter()
    with futures.ThreadPoolExecutor(_CLIENTS) as pool:
        calls = [pool.submit(client) for _ in range(_CLIENTS)]
        return sum(call.result() for call in calls) / (time.perf_counter() - began)


def _ask(front: FrontEnd, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
    connection.request(method, path)
    connection.getresponse().read()
    connection.close()
