"""A connection's socket → one that waits for its other side as long as bytes go through at a pace, and no longer.

Knows bytes and clocks; what a request or a reply is, is `worker`'s business.
"""

import errno
import select
import socket
import time
from collections.abc import Callable

from werkzeug.exceptions import RequestTimeout

PATIENCE = {"read": 15.0, "write": 60.0}  # seconds that one request may keep us waiting in all,
PACE = {"read": 32 * 2**10, "write": 16 * 2**10}  # and one more for so many bytes that did go through


class Socket(socket.socket):
    """A connection's socket. It waits for the other side, but not for ever; and knows how long it has."""

    def __init__(self, accepted: socket.socket):
        timeout = accepted.gettimeout()
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.settimeout(timeout)  # a new socket has the process' default, and libraries change that
        self.renew()

    def renew(self) -> None:
        """Another request begins."""
        self._waited = {"read": 0.0, "write": 0.0}
        self._moved = {"read": 0, "write": 0}
        self._since: float | None = None  # we wait, and have since then
        self.give_up: Callable[[], None] | None = None  # says that no request can follow; None: we are in the head

    def kept_waiting(self) -> float:
        """How many seconds this request's other side has kept us waiting; 0 while it does not."""
        since = self._since
        return 0.0 if since is None else sum(self._waited.values()) + time.monotonic() - since

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Some bytes. Raises RequestTimeout for a body that comes too slowly, ConnectionResetError for a head."""
        if self.gettimeout() != 0 and not flags and not self._wait("read", select.POLLIN):
            if self.give_up:
                self.give_up()
                raise RequestTimeout("the body came too slowly, and we have stopped waiting for the rest of it")
            raise ConnectionResetError(errno.ECONNRESET, "the other side is too slow")
        data = super().recv(size, flags)
        self._moved["read"] += 0 if flags else len(data)
        return data

    def send(self, data, flags: int = 0) -> int:
        """All of the bytes, as sendall does, where we may wait: gunicorn sends its "100 Continue" so. Else some."""
        if self.gettimeout() == 0 or flags & socket.MSG_DONTWAIT:
            return super().send(data, flags)
        self.sendall(data, flags)
        return len(data)

    def sendall(self, data, flags: int = 0) -> None:
        """All of the bytes. Raises ConnectionResetError where they are taken too slowly."""
        rest = memoryview(data).cast("B")
        while rest:
            try:
                sent = super().send(rest, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.gettimeout() == 0:
                    raise
                if not self._wait("write", select.POLLOUT):
                    raise ConnectionResetError(errno.ECONNRESET, "the other side is too slow") from None
                continue
            self._moved["write"] += sent
            rest = rest[sent:]

    def _wait(self, way: str, event: int) -> bool:
        """Whether the other side is ready in time. Raises TimeoutError where a timeout of the socket's is shorter."""
        left = PATIENCE[way] + self._moved[way] / PACE[way] - self._waited[way]
        own = self.gettimeout()
        ready = select.poll()
        ready.register(self, event)
        began = self._since = time.monotonic()
        try:
            found = left > 0 and bool(ready.poll(1000 * (left if own is None else min(left, own))))
        finally:
            self._since = None
            self._waited[way] += time.monotonic() - began
        if not found and own is not None and own < left:
            raise TimeoutError("timed out")
        return found
