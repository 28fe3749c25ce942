"""A connection's socket → one that waits for the client only while bytes go through at a minimum rate.

Knows bytes and clocks; what a request or a reply is, only `worker` knows.
"""

import errno
import select
import socket
import time
from collections.abc import Callable

from werkzeug.exceptions import RequestTimeout

PATIENCE = {"read": 15.0, "write": 60.0}  # seconds that we wait for the client during one request, in all;
PACE = {"read": 32 * 2**10, "write": 16 * 2**10}  # one more second for each so many bytes that went through


class Socket(socket.socket):
    """A connection's socket. It limits how long it waits for the client, and measures how long it has waited."""

    def __init__(self, accepted: socket.socket):
        timeout = accepted.gettimeout()
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.settimeout(timeout)  # a new socket has the process' default, which libraries change
        self.renew()

    def renew(self) -> None:
        """Start the measurement again for another request."""
        self._waited = {"read": 0.0, "write": 0.0}
        self._moved = {"read": 0, "write": 0}
        self._since: float | None = None  # when the present wait began; None: we do not wait
        self.give_up: Callable[[], None] | None = None  # marks that no request can follow; None: we still read the head

    def kept_waiting(self) -> float:
        """Return the seconds that we have waited for the client during this request; 0 while we do not wait."""
        since = self._since
        return 0.0 if since is None else sum(self._waited.values()) + time.monotonic() - since

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive up to `size` bytes.

        Raises:
            RequestTimeout: a request's body comes too slowly.
            ConnectionResetError: a request's head comes too slowly.
        """
        if self.gettimeout() != 0 and not flags and not self._wait("read", select.POLLIN):
            if self.give_up:
                self.give_up()
                raise RequestTimeout("the body came too slowly, and we have stopped waiting for the rest of it")
            raise ConnectionResetError(errno.ECONNRESET, "the other side is too slow")
        data = super().recv(size, flags)
        self._moved["read"] += 0 if flags else len(data)
        return data

    def send(self, data, flags: int = 0) -> int:
        """Send all bytes if the socket may wait, else some. gunicorn sends all of its "100 Continue" by this."""
        if self.gettimeout() == 0 or flags & socket.MSG_DONTWAIT:
            return super().send(data, flags)
        self.sendall(data, flags)
        return len(data)

    def sendall(self, data, flags: int = 0) -> None:
        """Send all bytes. Raises ConnectionResetError where the client takes them too slowly."""
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

    def _wait(self, direction: str, event: int) -> bool:
        """Wait for the client; return whether it is ready in time.

        Raises:
            TimeoutError: the socket's own timeout is shorter, and is over.
        """
        left = PATIENCE[direction] + self._moved[direction] / PACE[direction] - self._waited[direction]
        own = self.gettimeout()
        poll = select.poll()
        poll.register(self, event)
        began = self._since = time.monotonic()
        try:
            is_ready = left > 0 and bool(poll.poll(1000 * (left if own is None else min(left, own))))
        finally:
            self._since = None
            self._waited[direction] += time.monotonic() - began
        if not is_ready and own is not None and own < left:
            raise TimeoutError("timed out")
        return is_ready
