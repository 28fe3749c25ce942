"""How one process serves connections: gunicorn's threaded worker, with an end to every wait for the other side.

gunicorn gives a thread to whoever connects, for as long as they care to send or read; some dozens of idle connections
would keep everybody else out. Here a request's head is collected beside the threads; a body and a reply have to go on
at a pace (`Socket`); and where somebody waits for a thread, those go whose other side kept theirs waiting longest.
Nor does closing wait: gunicorn would stop its loop for up to two seconds at each connection that it ends. Knows bytes
and clocks; nothing of HTTP but where a head ends, nor of music.
"""

import errno
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker
from werkzeug.exceptions import BadRequest, RequestTimeout

from serving import access

HEAD = 10.0  # seconds from connecting, or from the first byte of another request, to the end of a request's head
_MOST_HEAD = 2**16  # bytes that we collect of one; what is longer the parser refuses
PATIENCE = {"read": 15.0, "write": 60.0}  # seconds that one request may keep us waiting in all,
PACE = {"read": 32 * 2**10, "write": 16 * 2**10}  # and one more for so many bytes that did go through
_OVERDUE = 0.5  # seconds that somebody may wait for a thread before we look for one,
_SLOW = 2.0  # and that a request must have kept us waiting to lose its own
_LINGER = 2.0  # seconds that a closed connection's other side has to close, too; else its last bytes may be lost
_NO_MORE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


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

    def sendall(self, data, flags: int = 0) -> None:
        """All of the bytes. Raises ConnectionResetError where they are taken too slowly."""
        rest = memoryview(data).cast("B")
        while rest:
            try:
                sent = self.send(rest, flags | socket.MSG_DONTWAIT)
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


class Connection(TConn):
    """A connection, and what has come of its next request's head."""

    def __init__(self, cfg, sock, client, server, lingering):
        super().__init__(cfg, sock, client, server)
        self.head = b""
        self._lingering = lingering

    def close(self, graceful: bool = False) -> None:
        """See TConn. A graceful end takes its time, but not ours."""
        if graceful:
            self._lingering(self)
        else:
            super().close()


class Worker(ThreadWorker):
    """See above."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log.error_log.addFilter(access.printable)  # what it quotes of a request that is none
        self._submitted: dict[Connection, float] = {}  # those who wait for a thread, since when; oldest first
        self._inside: set[Connection] = set()  # those who have one
        self._lingering: dict[Connection, float] = {}  # those we have closed, until when

    # The loop's own thread runs these

    def accept(self, listener) -> None:
        """Take a connection, and collect its head."""
        try:
            accepted, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_MORE:
                self.log.warning("no more connections can be taken: %s", error)
                time.sleep(0.1)  # it stays ready, and would keep us busy
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        self._collect(Connection(self.cfg, Socket(accepted), client, listener.getsockname(), self._linger))

    def on_client_socket_readable(self, conn, client) -> None:
        """A connection that was kept has another request."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._collect(conn)

    def _collect(self, conn: Connection) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn, client) -> None:
        """More of a head; all of it goes to a thread."""
        try:
            data = client.recv(_MOST_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.head += data
        if data and b"\r\n\r\n" not in conn.head[-len(data) - 3 :] and len(conn.head) < _MOST_HEAD:
            return
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        if not data:
            self.nr_conns -= 1
            conn.close()
            return
        conn.init()
        conn.parser.unreader.unread(conn.head)
        conn.head, conn.data_ready = b"", True
        self.enqueue_req(conn)

    def enqueue_req(self, conn) -> None:
        """A request waits for a thread."""
        self._submitted[conn] = time.monotonic()
        super().enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """See ThreadWorker; and look for those who are too slow."""
        super().wait_for_and_dispatch_events(min(timeout, _OVERDUE) if self._submitted or self._lingering else timeout)
        self._make_room()
        now = time.monotonic()
        for conn in [conn for conn, until in self._lingering.items() if until <= now]:
            self._end(conn)

    def _make_room(self) -> None:
        """Where somebody waits for a thread, those who wait for their other side lose theirs."""
        now = time.monotonic()
        if now - next(iter([*self._submitted.values()]), now) < _OVERDUE:
            return
        waiting = sorted(((conn.sock.kept_waiting(), id(conn), conn) for conn in [*self._inside]), reverse=True)
        slow = [conn for seconds, _, conn in waiting if seconds >= _SLOW][: len(self._submitted)]
        for conn in slow:
            with suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)  # which ends the wait
        if slow:
            self.log.warning("all threads were taken: %d connections that were too slow are closed", len(slow))

    def _linger(self, conn: Connection) -> None:
        """Close our side, and wait for theirs in the loop."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._drain, conn))
        except (OSError, ValueError):
            conn.close()
            return
        self._lingering[conn] = time.monotonic() + _LINGER
        self.nr_conns += 1

    def _drain(self, conn: Connection, client) -> None:
        try:
            if client.recv(_MOST_HEAD):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(conn)

    def _end(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        del self._lingering[conn]
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """We stop: those who have not asked for anything yet have as long as those who were kept."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    # The threads run these

    def handle(self, conn):
        """One request, from its head to the end of its reply."""
        self._submitted.pop(conn, None)
        conn.sock.renew()
        self._inside.add(conn)
        try:
            return super().handle(conn)
        finally:
            self._inside.discard(conn)

    def handle_request(self, req, conn):
        """The same, its head read."""
        conn.sock.give_up = req.force_close
        if req.body is not None:
            req.body.reader.read = _told(req.body.reader.read)
        return super().handle_request(req, conn)


def _told(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """The same, its errors those of a visitor's and not of ours."""

    def reading(size: int) -> bytes:
        try:
            return read(size)
        except ParseException as error:
            raise BadRequest("the body's chunks are damaged") from error

    return reading
