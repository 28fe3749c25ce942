"""What `worker.py` takes from the inside of gunicorn: the tables of decision 031, our code, and the gunicorn installed.

A gunicorn that lacks one of these, gives it other arguments or no longer calls it fails here, by name.
"""

import ast
import inspect
import logging
import re
import runpy
import socket
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from gunicorn import http, util
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.workers import base, gthread

from serving.server import worker
from serving.server.sockets import Socket

RECORD = (Path(__file__).parents[2] / "docs" / "decisions" / "031-gunicorn-worker.md").read_text()
OVERRIDDEN = re.findall(r"^\| `(TConn|ThreadWorker)` \| `(\w+)` \|", RECORD, re.MULTILINE)
USED = re.findall(r"^\| `((?:worker|conn|req)\.[\w.]+)` \|", RECORD, re.MULTILINE)

OURS = {"TConn": worker.Connection, "ThreadWorker": worker.Worker}
CALLER = {"TConn": "conn", "ThreadWorker": "self"}  # how gunicorn names them where it calls their methods
ROOTS = {"self": "worker", "conn": "conn", "req": "req"}  # a name in our Worker → the first word of a row in USED


def attributes(code: ast.AST) -> set[str]:
    """Write every attribute in some code in full, such as self.poller.register."""
    nodes = [node for node in ast.walk(code) if isinstance(node, ast.Attribute)]
    parts = {node.value for node in nodes}
    return {ast.unparse(node) for node in nodes if node not in parts}


def source(module) -> ast.Module:
    return ast.parse(inspect.getsource(module))


@pytest.fixture
def inside() -> Iterator[dict]:
    """gunicorn's own worker, connection and request, made without a server."""
    config = Config()
    server, client = socket.socketpair()
    with server, client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        thread_worker = gthread.ThreadWorker(1, 1, [], None, 30, config, Logger(config))
        conn = gthread.TConn(config, server, ("127.0.0.1", 1), ("127.0.0.1", 2))
        conn.init()
        yield {"worker": thread_worker, "conn": conn, "req": next(conn.parser)}
        thread_worker.tmp.close()
        for name in ("gunicorn.error", "gunicorn.access"):
            logging.getLogger(name).handlers.clear()


def test_the_record_names_what_we_override():
    ours = {(name, method) for name, kind in OURS.items() for method, value in vars(kind).items()
            if inspect.isfunction(value) and hasattr(getattr(gthread, name), method)}  # fmt: skip
    assert sorted(OVERRIDDEN) == sorted(ours)


def test_the_record_names_what_we_use():
    (code,) = (node for node in source(worker).body if getattr(node, "name", None) == "Worker")
    assigned = re.findall(r"^ +self\.(\w+)(?:: .+)? = ", inspect.getsource(worker), re.MULTILINE)
    own = {*assigned, *vars(worker.Worker), *vars(worker.Connection)}
    words = [text.split(".") for text in attributes(code) if re.fullmatch(r"[\w.]+", text)]
    used = {".".join([ROOTS[root], *rest]) for root, *rest in words if root in ROOTS and rest[0] not in own}
    unnamed = [text for text in used if not any(f"{text}.".startswith(f"{row}.") for row in USED)]
    unused = [row for row in USED if not any(f"{text}.".startswith(f"{row}.") for text in used)]
    assert (unnamed, unused) == ([], [])


@pytest.mark.parametrize(("kind", "method"), OVERRIDDEN)
def test_gunicorn_still_calls_what_we_override(kind, method):
    theirs, ours = (inspect.signature(getattr(each, method)) for each in (getattr(gthread, kind), OURS[kind]))
    if "args" not in ours.parameters:
        assert list(ours.parameters)[: len(theirs.parameters)] == list(theirs.parameters)
    if method != "__init__":
        assert f"{CALLER[kind]}.{method}" in attributes(source(gthread))


@pytest.mark.parametrize("name", USED)
def test_gunicorn_still_has_what_we_use(name, inside):
    root, _, rest = name.partition(".")
    attrgetter(rest)(inside[root])


def test_gunicorn_still_hands_on_the_socket(inside):
    """`request_context` looks at it to see that a client has left."""
    conn = inside["conn"]
    assert wsgi.default_environ(inside["req"], conn.sock, conn.cfg)["gunicorn.socket"] is conn.sock


def test_gunicorn_moves_bytes_by_nothing_that_has_no_deadline():
    moving = {name for name in dir(socket.socket) if re.match("recv|send|makefile", name)}
    modules = (base, gthread, http.body, http.message, http.parser, http.unreader, wsgi, util)
    called = {text.split(".")[-1] for module in modules for text in attributes(source(module)) if "sock." in text}
    assert {"recv", "send", "sendall"} <= called & moving <= {*vars(Socket), "sendfile"}
    settings = runpy.run_path(str(Path(worker.__file__).parent / "gunicorn.conf.py"))
    assert settings["sendfile"] is False
