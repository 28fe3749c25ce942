"""Limits of how many requests do one kind of work at once. The others wait, for a while, as long as they are connected.

Knows threads and clocks; of requests only that their client may have closed the connection.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from music.errors import Overloaded
from serving.middleware import request_context

_LOOK = 1.0  # seconds after which a waiting request checks whether its client is still connected


class ConcurrencyLimit:
    """A limit of how many requests do one kind of work at once, with a bounded queue.

    Args:
        work: its name in error messages.
        most: requests that do it at once.
        waiting: requests that may wait; one more is refused. None: without limit.
        seconds: that a request waits at most.
    """

    def __init__(self, work: str, most: int, waiting: int | None = None, seconds: float = 10.0):
        self._work, self._seconds = work, seconds
        self._most = f"{most} at once" + (f" and {waiting} who wait" if waiting else "")
        self._free = threading.BoundedSemaphore(most)
        self._places = threading.BoundedSemaphore(most + waiting) if waiting is not None else None

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait until the work is allowed, and count it until the block ends.

        Raises:
            Overloaded: the queue is full, or the wait was too long.
            ClientDisconnected: the client closed the connection while its request waited.
        """
        if self._places and not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._work}: {self._most} is the most that this server takes; try again in a moment")
        try:
            self._wait()
            try:
                yield
            finally:
                self._free.release()
        finally:
            if self._places:
                self._places.release()

    def _wait(self) -> None:
        until = time.monotonic() + self._seconds
        while not self._free.acquire(timeout=max(0.0, min(_LOOK, until - time.monotonic()))):
            if context := request_context.current():
                context.check()
            if time.monotonic() >= until:
                raise Overloaded(f"in {self._seconds:g} seconds there was no turn for {self._work}; try again later")
