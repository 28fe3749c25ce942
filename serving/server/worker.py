"""gunicorn's threaded worker, with a limit to every wait for a client. Knows bytes, clocks, and where a head ends.

gunicorn gives each connection a thread for as long as the client cares to send or read: some dozens of idle connections
would block all others. Here the loop collects a request's head without a thread. A body and a reply must go through at
a minimum rate (`Socket`). If a request waits for a thread, the slowest clients lose theirs. Closing does not wait
either: gunicorn would stop its loop for up to two seconds at each connection that it closes.

Record 031 in docs/decisions lists what this takes from gunicorn's inside; tests/serving/test_gunicorn.py checks it.
"""

import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ

from gunicorn.http.errors import LimitRequestHeaders, ParseException
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker
from werkzeug.exceptions import BadRequest, HTTPException

from serving.middleware import access_log
from serving.server.sockets import Socket

HEAD = 10.0  # seconds from connecting, or from the first byte of another request, to the end of a request's head
_MOST_HEAD = 2**16  # bytes of a head; a longer one is refused
_OVERDUE = 0.5  # seconds that a request may wait for a thread, or a connection be idle at the limit, until we act
_SLOW = 2.0  # seconds that we must have waited for a client before its request loses its thread
_LINGER = 2.0  # seconds that the client has to close its side after we closed ours; else our last bytes may be lost
_MOST_LINGER = 8 * 2**20  # bytes that it may still send: the client of a file that is too large must get the error
_NO_MORE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Connection(TConn):
    """A connection, and the bytes of its next request's head that have come."""

    def __init__(self, cfg, sock, client, server, lingering):
        super().__init__(cfg, sock, client, server)
        self.head = b""
        self.idle_since = 0.0
        self.drained = 0  # bytes that came after we had closed it
        self._lingering = lingering

    def close(self, graceful: bool = False) -> None:
        """See TConn. A graceful close waits for the client in the loop, without blocking it."""
        if graceful:
            self._lingering(self)
        else:
            super().close()


class Worker(ThreadWorker):
    """The worker that the module's docstring describes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log.error_log.addFilter(access_log.printable)  # of what it quotes from a broken request
        self._submitted: dict[Connection, float] = {}  # connections that wait for a thread, since when; oldest first
        self._in_threads: set[Connection] = set()  # connections that have a thread
        self._lingering: deque[Connection] = deque()  # connections that we have closed

    # These run in the loop's own thread

    def accept(self, listener) -> None:
        """Accept a connection, and collect its request's head."""
        try:
            accepted, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_MORE:
                self.log.warning("no more connections can be taken: %s", error)
                time.sleep(0.1)  # the listener stays ready, and the loop would spin
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        self._collect(Connection(self.cfg, Socket(accepted), client, listener.getsockname(), self._linger))

    def on_client_socket_readable(self, conn, client) -> None:
        """Collect the next request's head from a connection that was kept open."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._collect(conn)

    def finish_request(self, conn, fs) -> None:
        """End a request. Bytes of the next one that have come already are collected as any head is."""
        conn.idle_since = time.monotonic()
        keep_open = not fs.cancelled() and not fs.exception() and fs.result()
        if keep_open and (begun := conn.parser.unreader.take_buffered()):
            self._collect(conn)
            self._add_to_head(conn, begun)
        else:
            super().finish_request(conn, fs)

    def _collect(self, conn: Connection) -> None:
        conn.sock.setblocking(False)
        conn.idle_since = time.monotonic()
        conn.timeout = conn.idle_since + (HEAD if self.alive else STOP_KEEPALIVE_LINGER)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn, client) -> None:
        """Read more of a head, or the connection's end."""
        if data := _received(client):
            self._add_to_head(conn, data)
        elif data is not None:
            self._close_connection(conn, self.pending_conns)

    def _add_to_head(self, conn: Connection, data: bytes) -> None:
        """Add bytes to a head; a complete one goes to a thread."""
        conn.head += data
        complete = b"\r\n\r\n" in conn.head[-len(data) - 3 :]
        if not complete and len(conn.head) < _MOST_HEAD:
            return
        self._unregister(conn, self.pending_conns)
        if not complete:
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders(f"more than {_MOST_HEAD:,} bytes"))
            conn.close(graceful=True)
            return
        self.nr_conns += 1
        conn.init()
        conn.parser.unreader.unread(conn.head)
        conn.head, conn.data_ready = b"", True
        self.enqueue_req(conn)

    def _unregister(self, conn: Connection, queue: deque[Connection]) -> None:
        """Remove a connection from a queue, and from the poller."""
        self.poller.unregister(conn.sock)
        queue.remove(conn)
        self.nr_conns -= 1

    def _close_connection(self, conn: Connection, queue: deque[Connection]) -> None:
        self._unregister(conn, queue)
        conn.close()

    def _close_idlest(self) -> None:
        """Close the connection that has been idle for longest, as no more can be accepted."""
        queues = [queue for queue in (self.pending_conns, self.keepalived_conns, self._lingering) if queue]
        queue = min(queues, key=lambda queue: queue[0].idle_since, default=None)
        if queue and time.monotonic() - queue[0].idle_since >= _OVERDUE:  # else its request may be about to come
            self._close_connection(queue[0], queue)

    def enqueue_req(self, conn) -> None:
        """Put a request into the queue for a thread."""
        self._submitted[conn] = time.monotonic()
        super().enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """See ThreadWorker. Also close connections that are too slow."""
        soon = self._submitted or self._lingering or not self._accepting
        super().wait_for_and_dispatch_events(min(timeout, _OVERDUE) if soon else timeout)
        self._make_room()
        if self.nr_conns >= self.worker_connections:  # no other one is accepted
            self._close_idlest()
        while self._lingering and self._lingering[0].timeout <= time.monotonic():
            self._close_connection(self._lingering[0], self._lingering)

    def _make_room(self) -> None:
        """Free threads that wait for their clients, if a request waits for a thread."""
        now = time.monotonic()
        if now - next(iter([*self._submitted.values()]), now) < _OVERDUE:
            return
        waiting = sorted(((conn.sock.kept_waiting(), id(conn), conn) for conn in [*self._in_threads]), reverse=True)
        slow = [conn for seconds, _, conn in waiting if seconds >= _SLOW][: len(self._submitted)]
        for conn in slow:
            with suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)  # which ends the wait
        if slow:
            self.log.warning("all threads were taken: %d connections that were too slow are closed", len(slow))

    def _linger(self, conn: Connection) -> None:
        """Close our side, and wait in the loop for the client to close its side."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._drain, conn))
        except (OSError, ValueError):
            conn.close()
            return
        conn.idle_since = time.monotonic()
        conn.timeout = conn.idle_since + _LINGER
        self._lingering.append(conn)
        self.nr_conns += 1

    def _drain(self, conn: Connection, client) -> None:
        data = _received(client)
        if data is None:
            return
        conn.drained += len(data)
        if not data or conn.drained > _MOST_LINGER:
            self._close_connection(conn, self._lingering)

    def _cap_keepalive(self, deadline: float) -> None:
        """See ThreadWorker. At the stop, connections without a request yet have as long as those kept open."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    # These run in the pool's threads

    def handle(self, conn):
        """Handle one request, from its head to the end of its reply."""
        self._submitted.pop(conn, None)
        conn.sock.renew()
        self._in_threads.add(conn)
        try:
            return super().handle(conn)
        finally:
            self._in_threads.discard(conn)

    def handle_request(self, req, conn):
        """See ThreadWorker. Called when the head has been read."""
        conn.sock.give_up = req.force_close
        if req.body is not None:
            req.body.reader.read = _with_http_errors(req.body.reader.read)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn, keepalive):
        """See ThreadWorker. An error in a body that was not read closes the connection: the reply has been sent."""
        try:
            return super()._keepalive_after(conn, keepalive)
        except (HTTPException, ParseException):
            return False


def _received(client) -> bytes | None:
    """Read what a connection has sent: nothing at its end or where it is broken; None where nothing is there yet."""
    try:
        return client.recv(_MOST_HEAD)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _with_http_errors(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Translate gunicorn's parse errors into HTTP 400, as they are faults of the client's and not of ours."""

    def read_or_400(size: int) -> bytes:
        try:
            return read(size)
        except ParseException as error:
            raise BadRequest("the body's chunks are damaged") from error

    return read_or_400
