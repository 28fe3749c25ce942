"""Counts of the front end → the text that Prometheus reads. Knows what is counted, not how it comes about.

A single process keeps its numbers in memory. Several processes, as gunicorn runs them, keep them in files of one
folder, and each of them can report the sum. `/metrics` is a path of this server like the others.
"""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from music.errors import BackendError
from music.generation import Chunk
from serving.middleware import access_log
from serving.middleware.request_context import RequestContext, current

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # in which prometheus_client expects the folder
_METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"}  # clients may send others, without limit
_REQUEST = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_FIRST = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30)
_NOTE = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2)


class Metrics:
    """The numbers of one application.

    Args:
        folder: in which the processes store their numbers to be added up; None: there is only this process.
        most: pieces that this process generates at once.
    """

    def __init__(self, folder: str | None, most: int):
        if folder:
            os.environ[VARIABLE] = folder  # before the import, which reads it only once
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._folder = folder
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "cadenza_requests",
            "Requests that have ended; 499: the client closed the connection before.",
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
        self._notes = Counter("cadenza_notes", "Notes generated.", ("model",), registry=registry)
        self._note_seconds = Histogram(
            "cadenza_note_seconds",
            "Of the model's work for each note: one chunk's time over its notes, waiting for clients left out.",
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
        self._in_flight = Gauge(
            "cadenza_pieces_in_flight",
            "Pieces that are being generated.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        limit = Gauge(
            "cadenza_pieces_limit",
            "Pieces that can be generated at once; there is no queue behind them, one more is refused with 429.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        limit.set(most)

    def ended(self, context: RequestContext) -> None:
        """Count a request that has ended."""
        route = context.route or "none"
        method = context.method if context.method in _METHODS else "other"
        self._requests.labels(method, route, str(access_log.status_of(context))).inc()
        self._seconds.labels(route).observe(context.seconds)
        if context.error and context.status == 200:
            self._broken.labels(context.error).inc()

    def failed(self, error: Exception) -> None:
        """Count a call of the model that failed; it may be repeated, and the client never know."""
        self._errors.labels(type(error).__name__ if isinstance(error, BackendError) else "other").inc()

    def in_flight(self) -> AbstractContextManager:
        """Count a piece as long as the block that generates it runs."""
        return self._in_flight.track_inprogress()

    def count_notes(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield the same chunks, and count their notes."""
        context = current()
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
                if context and not total:
                    self._first.observe(now - context.began)
            total += count
            if context:
                context.notes, context.model = total, chunk.model
            yield chunk

    def text(self) -> tuple[bytes, str]:
        """Return all numbers as text, and its content type."""
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest, multiprocess

        registry = self._registry
        if self._folder:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=self._folder)
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def forget(process: int, folder: str | None) -> None:
    """Drop what an ended process had in flight. What it has counted stays."""
    for file in Path(folder).glob(f"gauge_live*_{process}.db") if folder else ():
        with suppress(FileNotFoundError):
            file.unlink()
