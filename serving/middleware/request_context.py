"""What belongs to one request, from its first byte to the last one of its reply: id, outcome, connection.

A wrapper around the WSGI application, as only that sees the end of a stream. Knows nothing of music; other modules
write what they learn of a request (its route, how many notes) into `current()`.
"""

import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import flask
import numpy as np
from werkzeug.exceptions import ClientDisconnected

from music.generation import Backend, Reply

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9._~-]{1,128}")  # no id of a client's can break a log line or a header
_current: ContextVar["RequestContext | None"] = ContextVar("request_context", default=None)


@dataclass
class RequestContext:
    """What is known of a request so far. It holds none of the client's music."""

    id: str
    method: str = "GET"
    connection: socket.socket | None = None  # to the client, where the server gives access to it
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0  # that the request took; set when it has ended
    route: str | None = None  # its rule, such as /examples/<name>.mid; None: there is no such path
    status: int = 500
    client_closed: bool = False  # the client closed the connection before the reply's end
    error: str | None = None  # the name of the error's class; also in a stream, whose status is 200
    format: str | None = None
    model: str | None = None  # the last one that generated notes
    notes: int | None = None  # that were generated; None: the request is not about generating any

    def check(self) -> None:
        """Raise ClientDisconnected if the client closed the connection: nobody would read the reply."""
        self.client_closed = self.client_closed or _closed(self.connection)
        if self.client_closed:
            raise ClientDisconnected


def current() -> RequestContext | None:
    """Return the context of the request that this thread works for."""
    return _current.get()


def current_id() -> str | None:
    """Return the id of the request that this thread works for."""
    context = current()
    return context.id if context else None


def install(app: flask.Flask, on_end: Callable[[RequestContext], None]) -> None:
    """Give every request of `app` a context, and call `on_end` with it when the request has ended."""

    @app.before_request
    def note_route() -> None:
        if (context := current()) and flask.request.url_rule:
            context.route = flask.request.url_rule.rule

    app.wsgi_app = RequestContextMiddleware(app.wsgi_app, on_end)  # type: ignore[method-assign]


def _closed(connection: socket.socket | None) -> bool:
    """Tell without waiting whether the other side has closed; a client that only reads slowly has not."""
    if connection is None:
        return False
    if connection.fileno() < 0:
        return True
    try:
        poll = select.poll()  # first, as a socket that has a timeout would wait that long in recv
        poll.register(connection, select.POLLIN)
        if not poll.poll(0):
            return False  # nothing to read: the client is still connected
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except OSError:
        return True  # reset
    except ValueError:
        return False  # TLS, which cannot be peeked at: the next write shows it


class RequestContextMiddleware:
    """The WSGI application `wsgi`; `on_end` is called once for each request: all is sent, or the client has closed."""

    def __init__(self, wsgi: Callable, on_end: Callable[[RequestContext], None]):
        self._wsgi, self._on_end = wsgi, on_end

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        id = environ.get("HTTP_X_REQUEST_ID", "")
        context = RequestContext(
            id if _SANE.fullmatch(id) else secrets.token_hex(16),
            environ["REQUEST_METHOD"],
            environ.get("gunicorn.socket"),
        )
        _current.set(context)

        def start(status: str, headers: list, exc_info=None) -> Callable:
            context.status = int(status[:3])
            return start_response(status, [*headers, (HEADER, context.id)], exc_info)

        try:
            return _Body(self._wsgi(environ, start), context, self._on_end)
        except Exception:  # Flask lets one out only in debug mode
            _end(context, self._on_end)
            raise


class _Body:
    """The bytes of a reply; knows whether all of them were sent."""

    def __init__(self, body: Iterable[bytes], context: RequestContext, on_end: Callable[[RequestContext], None]):
        self._body, self._rest = body, iter(body)
        self._context, self._on_end = context, on_end
        self._exhausted = self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        _current.set(self._context)
        try:
            return next(self._rest)
        except StopIteration:
            self._exhausted = True
            raise
        except Exception as error:
            self._exhausted, self._context.error = True, type(error).__name__
            raise

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _current.set(self._context)
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._context.client_closed = self._context.client_closed or not self._exhausted
            _end(self._context, self._on_end)


def _end(context: RequestContext, on_end: Callable[[RequestContext], None]) -> None:
    context.seconds = time.perf_counter() - context.began
    on_end(context)


class CancellingBackend:
    """A Backend that calls `backend` only while the client is connected, and passes each error to `on_error`."""

    def __init__(self, backend: Backend, on_error: Callable[[Exception], None]):
        self._backend, self._on_error = backend, on_error

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Call the model; see Backend. Raises ClientDisconnected as well."""
        if context := current():
            context.check()
        try:
            return self._backend.call(signature, inputs, version=version, timeout=timeout)
        except Exception as error:
            self._on_error(error)
            raise
