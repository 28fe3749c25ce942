"""One request from its first byte to its reply's last one: its id, what became of it, whether anybody still listens.

A wrapper around the WSGI application, as only that sees a stream's end. Knows nothing of music; what others learn of a
visit (its route, how many notes) they write into `current()`.
"""

import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
from werkzeug.exceptions import ClientDisconnected

from music.generation import Backend, Reply

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._~-]{1,128}")  # no id of a caller's can break a log line or a header
_current: ContextVar["Visit | None"] = ContextVar("visit", default=None)


@dataclass
class Visit:
    """What is known of a request so far. Nothing here is the listener's music."""

    id: str
    method: str = "GET"
    connection: socket.socket | None = None  # to the listener, where the server lets us have it
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0  # when it has ended
    route: str | None = None  # its rule, such as /examples/<name>.mid; None: there is no such path
    status: int = 500
    gone: bool = False  # the listener left before the end
    error: str | None = None  # the kind of what went wrong, in a stream too, whose status is 200
    format: str | None = None
    model: str | None = None  # the last one that played
    notes: int | None = None  # that were made; None: it was not about making any

    def check(self) -> None:
        """Raise ClientDisconnected if the listener is gone: there is nobody to work for."""
        self.gone = self.gone or _closed(self.connection)
        if self.gone:
            raise ClientDisconnected


def current() -> Visit | None:
    """The visit that this thread works for."""
    return _current.get()


def current_id() -> str | None:
    """Its id."""
    visit = current()
    return visit.id if visit else None


def _closed(connection: socket.socket | None) -> bool:
    """Whether the other side has closed, which one sees without waiting; a reader that is slow has not."""
    if connection is None:
        return False
    if connection.fileno() < 0:
        return True
    try:
        ready = select.poll()  # first, as a socket that has a timeout would wait that long in recv
        ready.register(connection, select.POLLIN)
        if not ready.poll(0):
            return False  # nothing to read: it is there, and listens
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except OSError:
        return True  # reset
    except ValueError:
        return False  # of TLS, which cannot be peeked at: we see it when we next write


class Watched:
    """The application `wsgi`; `ended` hears of each visit once: its reply is out, or its listener gone."""

    def __init__(self, wsgi: Callable, ended: Callable[[Visit], None]):
        self._wsgi, self._ended = wsgi, ended

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        visit = Visit(
            given if _SANE.fullmatch(given) else secrets.token_hex(16),
            environ["REQUEST_METHOD"],
            environ.get("gunicorn.socket"),
        )
        _current.set(visit)

        def starting(status: str, headers: list, exc_info=None) -> Callable:
            visit.status = int(status[:3])
            return start_response(status, [*headers, (HEADER, visit.id)], exc_info)

        try:
            return _Body(self._wsgi(environ, starting), visit, self._ended)
        except Exception:  # which Flask only lets out when it is debugged
            _end(visit, self._ended)
            raise


class _Body:
    """A reply's bytes; knows whether all of them went out."""

    def __init__(self, body: Iterable[bytes], visit: Visit, ended: Callable[[Visit], None]):
        self._body, self._rest = body, iter(body)
        self._visit, self._ended = visit, ended
        self._over = self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        _current.set(self._visit)
        try:
            return next(self._rest)
        except StopIteration:
            self._over = True
            raise
        except Exception as error:
            self._over, self._visit.error = True, type(error).__name__
            raise

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _current.set(self._visit)
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._visit.gone = self._visit.gone or not self._over
            _end(self._visit, self._ended)


def _end(visit: Visit, ended: Callable[[Visit], None]) -> None:
    visit.seconds = time.perf_counter() - visit.began
    ended(visit)


class ForListeners:
    """A Backend that asks `backend` only while somebody listens, and tells `failed` of each error's kind."""

    def __init__(self, backend: Backend, failed: Callable[[Exception], None]):
        self._backend, self._failed = backend, failed

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """See Backend. Raises ClientDisconnected as well."""
        if visit := current():
            visit.check()
        try:
            return self._backend.call(signature, inputs, version=version, timeout=timeout)
        except Exception as error:
            self._failed(error)
            raise
