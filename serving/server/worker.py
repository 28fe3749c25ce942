"""How one process serves connections: gunicorn's threaded worker, with an end to every wait for the other side.

gunicorn gives a thread to whoever connects, for as long as they care to send or read; some dozens of idle connections
would keep everybody else out. Here a request's head is collected beside the threads; a body and a reply have to go on
at a pace (`Socket`); and where somebody waits for a thread, those go whose other side kept theirs waiting longest.
Nor does closing wait: gunicorn would stop its loop for up to two seconds at each connection that it ends. Knows bytes
and clocks; nothing of HTTP but where a head ends, nor of music.
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
_MOST_HEAD = 2**16  # bytes that we collect of one; what is longer is refused
_OVERDUE = 0.5  # seconds that somebody may wait for a thread, or be idle where there is no room, before we act,
_SLOW = 2.0  # and that a request must have kept us waiting to lose its own
_LINGER = 2.0  # seconds that a closed connection's other side has to close, too; else its last bytes may be lost,
_MOST_LINGER = 8 * 2**20  # and bytes that it may still send: who sends a file that is too large has to hear so
_NO_MORE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Connection(TConn):
    """A connection, and what has come of its next request's head."""

    def __init__(self, cfg, sock, client, server, lingering):
        super().__init__(cfg, sock, client, server)
        self.head = b""
        self.idle_since = 0.0
        self.drained = 0  # bytes that came when we had closed it
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
        self.log.error_log.addFilter(access_log.printable)  # what it quotes of a request that is none
        self._submitted: dict[Connection, float] = {}  # those who wait for a thread, since when; oldest first
        self._inside: set[Connection] = set()  # those who have one
        self._lingering: deque[Connection] = deque()  # those we have closed

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

    def finish_request(self, conn, fs) -> None:
        """A request is over. What has come of the next one is a head like any other."""
        conn.idle_since = time.monotonic()
        kept = not fs.cancelled() and not fs.exception() and fs.result()
        if kept and (begun := conn.parser.unreader.take_buffered()):
            self._collect(conn)
            self._more(conn, begun)
        else:
            super().finish_request(conn, fs)

    def _collect(self, conn: Connection) -> None:
        conn.sock.setblocking(False)
        conn.idle_since = time.monotonic()
        conn.timeout = conn.idle_since + (HEAD if self.alive else STOP_KEEPALIVE_LINGER)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn, client) -> None:
        """More of a head, or the connection's end."""
        try:
            data = client.recv(_MOST_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._more(conn, data)
        else:
            self._end(conn, self.pending_conns)

    def _more(self, conn: Connection, data: bytes) -> None:
        """More of a head; all of it goes to a thread."""
        conn.head += data
        whole = b"\r\n\r\n" in conn.head[-len(data) - 3 :]
        if not whole and len(conn.head) < _MOST_HEAD:
            return
        self._take(conn, self.pending_conns)
        if not whole:
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders(f"more than {_MOST_HEAD:,} bytes"))
            conn.close(graceful=True)
            return
        self.nr_conns += 1
        conn.init()
        conn.parser.unreader.unread(conn.head)
        conn.head, conn.data_ready = b"", True
        self.enqueue_req(conn)

    def _take(self, conn: Connection, queue: deque[Connection]) -> None:
        """It waits there no more."""
        self.poller.unregister(conn.sock)
        queue.remove(conn)
        self.nr_conns -= 1

    def _end(self, conn: Connection, queue: deque[Connection]) -> None:
        self._take(conn, queue)
        conn.close()

    def _end_one(self) -> None:
        """No more connections can be taken: end the one that has been idle for longest."""
        queues = [queue for queue in (self.pending_conns, self.keepalived_conns, self._lingering) if queue]
        queue = min(queues, key=lambda queue: queue[0].idle_since, default=None)
        if queue and time.monotonic() - queue[0].idle_since >= _OVERDUE:  # else it may be about to ask
            self._end(queue[0], queue)

    def enqueue_req(self, conn) -> None:
        """A request waits for a thread."""
        self._submitted[conn] = time.monotonic()
        super().enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """See ThreadWorker; and look for those who are too slow."""
        hurry = self._submitted or self._lingering or not self._accepting
        super().wait_for_and_dispatch_events(min(timeout, _OVERDUE) if hurry else timeout)
        self._make_room()
        if self.nr_conns >= self.worker_connections:  # nobody else is accepted
            self._end_one()
        while self._lingering and self._lingering[0].timeout <= time.monotonic():
            self._end(self._lingering[0], self._lingering)

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
        conn.idle_since = time.monotonic()
        conn.timeout = conn.idle_since + _LINGER
        self._lingering.append(conn)
        self.nr_conns += 1

    def _drain(self, conn: Connection, client) -> None:
        try:
            data = client.recv(_MOST_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.drained += len(data)
        if not data or conn.drained > _MOST_LINGER:
            self._end(conn, self._lingering)

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

    def _keepalive_after(self, conn, keepalive):
        """See ThreadWorker. A reply is out; what is wrong with a body that nobody read is not worth a second one."""
        try:
            return super()._keepalive_after(conn, keepalive)
        except (HTTPException, ParseException):
            return False


def _told(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """The same, its errors those of a visitor's and not of ours."""

    def reading(size: int) -> bytes:
        try:
            return read(size)
        except ParseException as error:
            raise BadRequest("the body's chunks are damaged") from error

    return reading
