"""Work of which there is so much at once: others wait for their turn, for a while, and as long as somebody listens.

Knows threads and clocks; of requests only that their listener may have left.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from music.errors import Overloaded
from serving.middleware import request_context

_LOOK = 1.0  # seconds after which a request that waits looks whether anybody still listens


class Turns:
    """Turns at some work.

    Args:
        what: the work, as a listener is told of it.
        most: at once.
        waiting: for a turn; one more is refused. None: as many as come.
        seconds: that they wait at most.
    """

    def __init__(self, what: str, most: int, waiting: int | None = None, seconds: float = 10.0):
        self._what, self._seconds = what, seconds
        self._most = f"{most} at once" + (f" and {waiting} who wait" if waiting else "")
        self._free = threading.BoundedSemaphore(most)
        self._places = threading.BoundedSemaphore(most + waiting) if waiting is not None else None

    @contextmanager
    def take(self) -> Iterator[None]:
        """A turn. Raises Overloaded, or ClientDisconnected."""
        if self._places and not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._what}: {self._most} is the most that this server takes; try again in a moment")
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
            if visit := request_context.current():
                visit.check()
            if time.monotonic() >= until:
                raise Overloaded(f"in {self._seconds:g} seconds there was no turn for {self._what}; try again later")
