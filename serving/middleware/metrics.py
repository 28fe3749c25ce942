"""What the front end counts → Prometheus' text. Knows what is counted, not how it comes about.

One process keeps its numbers to itself; several, as gunicorn runs them, keep them in files of one folder, and any of
them tells the sum. `/metrics` is a page of this server like the others.
"""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from music.errors import BackendError
from music.generation import Chunk
from serving.middleware import access_log
from serving.middleware.request_context import Visit, current

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # how prometheus_client wants the folder named
_METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"}  # anybody may send others, without end
_REQUEST = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FIRST = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30)
_NOTE = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2)


class Metrics:
    """The numbers of one application.

    Args:
        folder: where its processes leave theirs to be summed up; None: there is only this one.
        most: pieces at once that this process makes.
    """

    def __init__(self, folder: str | None, most: int):
        if folder:
            os.environ[VARIABLE] = folder  # before the import, which looks at it once and for all
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._folder = folder
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "cadenza_requests",
            "Requests that have ended; 499: the listener left before.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "cadenza_request_seconds",
            "From a request's arrival to its reply's last byte.",
            ("route",),
            buckets=_REQUEST,
            registry=registry,
        )
        self._notes = Counter("cadenza_notes", "Notes made.", ("model",), registry=registry)
        self._note_seconds = Histogram(
            "cadenza_note_seconds",
            "Of the model's work for each note: one chunk's time over its notes, waiting for listeners left out.",
            buckets=_NOTE,
            registry=registry,
        )
        self._first = Histogram(
            "cadenza_first_note_seconds",
            "From a request's arrival to its first new note.",
            buckets=_FIRST,
            registry=registry,
        )
        self._errors = Counter(
            "cadenza_backend_errors", "Calls of the model that failed.", ("kind",), registry=registry
        )
        self._broken = Counter(
            "cadenza_broken_streams",
            "Streams that ended with a line of error, their status having been 200.",
            ("kind",),
            registry=registry,
        )
        self._making = Gauge(
            "cadenza_pieces_in_flight", "Pieces in the making.", multiprocess_mode="livesum", registry=registry
        )
        limit = Gauge(
            "cadenza_pieces_limit",
            "Pieces at once that can be made; there is no queue behind them, one more is refused with 429.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        limit.set(most)

    def ended(self, visit: Visit) -> None:
        """A request has ended."""
        route = visit.route or "none"
        method = visit.method if visit.method in _METHODS else "other"
        self._requests.labels(method, route, str(access_log.status_of(visit))).inc()
        self._seconds.labels(route).observe(visit.seconds)
        if visit.error and visit.status == 200:
            self._broken.labels(visit.error).inc()

    def failed(self, error: Exception) -> None:
        """A call of the model has failed; it may be tried again, and the listener never know."""
        self._errors.labels(type(error).__name__ if isinstance(error, BackendError) else "other").inc()

    def making(self) -> AbstractContextManager:
        """While a piece is in the making."""
        return self._making.track_inprogress()

    def heard(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks, counted."""
        visit = current()
        total = 0
        while True:
            began = time.perf_counter()
            chunk = next(chunks, None)
            if chunk is None:
                return
            now, count = time.perf_counter(), len(chunk.notes)
            if count:
                self._notes.labels(chunk.model).inc(count)
                self._note_seconds.observe((now - began) / count)
                if visit and not total:
                    self._first.observe(now - visit.began)
            total += count
            if visit:
                visit.notes, visit.model = total, chunk.model
            yield chunk

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest, multiprocess

        registry = self._registry
        if self._folder:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=self._folder)
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def forget(process: int, folder: str | None) -> None:
    """A process is gone: what was in flight there is no more. What it has counted stays."""
    for file in Path(folder).glob(f"gauge_live*_{process}.db") if folder else ():
        with suppress(FileNotFoundError):
            file.unlink()
