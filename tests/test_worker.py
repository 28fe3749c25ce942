"""Those who keep a server waiting: heads and bodies that never end, listeners who never read, connections left open.

Before a real gunicorn, whose patience is a second here. Nothing is timed: what is asked for meanwhile has to be
answered, where it would otherwise wait for as long as they do.
"""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import requests
from fakes import front_end, scripted

from serving import worker
from serving.worker import Socket

HEAD = b"POST /generate?notes=2 HTTP/1.1\r\nHost: here\r\nContent-Type: audio/midi\r\n"
BODY = HEAD + b"Content-Length: 10000\r\n\r\nMThd"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
IMPATIENT = (
    "worker.HEAD, worker.PATIENCE, worker.PACE = 1.0, *[dict.fromkeys(['read', 'write'], n) for n in (1.0, 1e7)]"
)
PATIENT = "worker.HEAD, worker.PATIENCE = 300.0, {'read': 300.0, 'write': 300.0}"


def program(patch: str, notes: int = 40, pause: float = 0) -> tuple[str, str]:
    """The scripted front end, after some other lines."""
    flag, text = scripted(notes, pause)
    return flag, text.replace("__main__.run()", f"from serving import worker\n{patch}\n__main__.run()")


@contextmanager
def served(tmp_path, patch: str, **script) -> Iterator[tuple[str, list]]:
    """A front end's address, and the log's lines, which are there when it has ended."""
    said: list[dict] = []
    with (tmp_path / "log").open("w") as file, front_end(program=program(patch, **script), stdout=file) as url:
        yield url, said
    said += [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@contextmanager
def connections(url: str, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many at once that have sent this."""
    host, port = url.removeprefix("http://").split(":")
    with ExitStack() as open_ones:
        made = []
        for _ in range(count):
            made.append(open_ones.enter_context(socket.create_connection((host, int(port)), timeout=60)))
            made[-1].sendall(data)
        yield made


def pid(url: str) -> int:
    """Of the worker, which is its model's version."""
    return requests.get(f"{url}/model", timeout=60).json()["version"]


def received(connection: socket.socket) -> bytes:
    """All that comes before the other side closes."""
    data = b""
    try:
        while new := connection.recv(2**16):
            data += new
    except ConnectionResetError:
        pass
    return data


# Who keeps others out


@pytest.mark.parametrize(
    "data", [b"", b"P", BODY[:60], b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 9000, b"\x16\x03\x01\x02\x00\x01"]
)
def test_a_head_that_never_ends_costs_no_thread(tmp_path, data):
    with served(tmp_path, PATIENT) as (url, _), connections(url, 100, data) as held:
        assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
        held[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            held[0].recv(1)  # it is still open


def test_a_head_has_so_long_and_no_longer(tmp_path):
    with served(tmp_path, IMPATIENT) as (url, log), connections(url, 20, BODY[:30]) as held:
        assert [received(connection) for connection in held] == [b""] * 20
        assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
    assert [line["route"] for line in log] == ["/healthz"]


@pytest.mark.parametrize("data", [BODY, CHUNKS, CHUNKS + b"4\r\nMT"])
def test_a_body_that_comes_too_slowly_is_408(tmp_path, data):
    with served(tmp_path, IMPATIENT) as (url, log), connections(url, 3, data) as held:
        for connection in held:
            head, _, body = received(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ") and b"application/problem+json" in head
            assert b"Connection: close" in head
            assert "came too slowly" in json.loads(body)["detail"]
    assert [line["status"] for line in log] == [408] * 3


def test_a_byte_now_and_then_is_too_slow_too(tmp_path):
    with served(tmp_path, IMPATIENT) as (url, _), connections(url, 1, BODY) as (connection,):
        until, answer = time.monotonic() + 60, b""
        connection.settimeout(0.1)
        while not answer:
            assert time.monotonic() < until, "it goes on for ever"
            try:
                connection.sendall(b"x")
                answer = connection.recv(2**16)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_where_all_threads_are_taken_the_slowest_go(tmp_path):
    with served(tmp_path, PATIENT) as (url, _), connections(url, 70, BODY):  # there are 64
        assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
        assert requests.post(f"{url}/generate?notes=2", timeout=60).status_code == 200


def test_who_does_not_read_is_given_up_and_no_music_is_made_for_them(tmp_path):
    ask = b"GET /piano.pcm HTTP/1.1\r\nHost: here\r\n\r\n"
    with served(tmp_path, IMPATIENT) as (url, log), connections(url, 3, ask * 100) as held:  # 18 MB each
        until = time.monotonic() + 60
        while 'status="499"' not in (said := requests.get(f"{url}/metrics", timeout=60).text):
            assert time.monotonic() < until, said
            time.sleep(0.1)
        assert all(len(received(connection)) < 18e6 for connection in held)
        assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
    assert [line["status"] for line in log if line["route"] == "/piano.pcm"].count(499) == 3


def test_closing_waits_for_nobody(tmp_path):
    """gunicorn's own worker would stop its loop for two seconds at each of these."""
    ask = b"GET /healthz HTTP/1.0\r\n\r\n"
    with served(tmp_path, "worker._LINGER = 300.0") as (url, _), connections(url, 40, ask) as held:
        assert requests.get(f"{url}/healthz", timeout=30).status_code == 200
        assert [received(connection).startswith(b"HTTP/1.0 200") for connection in held] == [True] * 40


def test_more_connections_than_descriptors_do_not_kill_a_worker(tmp_path):
    patch = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))"
    with served(tmp_path, f"{patch}\n{PATIENT}") as (url, _):
        before = pid(url)
        with connections(url, 150, b"P"):
            time.sleep(0.5)
        assert pid(url) == before


def test_where_a_descriptor_is_missing_the_connection_waits(monkeypatch, caplog):
    """The kernel's word that there are no more; the listener stays ready."""
    import errno
    import logging
    from types import SimpleNamespace

    calls: list[float] = []
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=calls.append, monotonic=time.monotonic))

    def accept():
        raise OSError(errno.EMFILE, "Too many open files")

    ours = SimpleNamespace(log=logging.getLogger("x"))
    worker.Worker.accept(ours, SimpleNamespace(accept=accept))
    assert len(calls) == 1 and "Too many open files" in caplog.text


# The end


def test_a_stop_finishes_what_is_running_and_keeps_nobody_who_is_idle(tmp_path):
    lines, rest = [], threading.Event()

    def listen(url: str) -> None:
        with requests.post(f"{url}/generate?format=ndjson&notes=300", stream=True, timeout=60) as stream:
            for line in stream.iter_lines(1):
                lines.append(json.loads(line))
                if len(lines) > 3:
                    rest.set()

    with served(tmp_path, PATIENT, notes=4000, pause=0.15) as (url, log), ExitStack() as idle:
        listener = threading.Thread(target=listen, args=(url,))
        listener.start()
        assert rest.wait(60)
        idle.enter_context(connections(url, 5, b""))
        idle.enter_context(connections(url, 5, b"POST /gen"))
        worker_pid = pid(url)
    # terminated meanwhile; it would not have ended for 300 seconds had it waited for those
    listener.join(60)
    assert len([line for line in lines if "pitch" in line]) == 300 and lines[-1] == {"end": "length"}
    assert [line["status"] for line in log if line["route"] == "/generate"] == [200]
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(_pidfd(worker_pid), 0)


def _pidfd(process: int) -> int:
    import os

    return os.pidfd_open(process)


def test_keeping_a_connection_for_another_request_still_works(tmp_path):
    with served(tmp_path, IMPATIENT) as (url, log), requests.Session() as session:
        for _ in range(5):
            assert session.get(f"{url}/healthz", timeout=60).status_code == 200
        with connections(url, 1, b"") as (connection,):
            ask = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
            connection.sendall(ask * 3 + ask[:10])  # pipelined, the last one in two parts
            time.sleep(0.2)
            connection.sendall(ask[10:].replace(b"Host", b"Connection: close\r\nHost"))
            assert received(connection).count(b"HTTP/1.1 200") == 4
    assert len(log) == 9


def test_curl_may_wait_for_100_continue(tmp_path):
    with served(tmp_path, IMPATIENT) as (url, _):
        big = tmp_path / "big"
        big.write_bytes(bytes(2 * 2**20))
        command = ["curl", "-s", "-w", "%{http_code}", "-H", "Expect: 100-continue", "-H", "Content-Type: audio/midi"]
        done = subprocess.run(
            [*command, "--data-binary", f"@{big}", f"{url}/generate"], capture_output=True, text=True, timeout=60
        )
    assert done.stdout.endswith("400") and "not a MIDI file" in done.stdout


# The socket by itself


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", {"read": 0.3, "write": 0.3})
    monkeypatch.setattr(worker, "PACE", {"read": 1e9, "write": 1e9})
    ours, theirs = socket.socketpair()
    ours.settimeout(None)  # as gunicorn has it, whatever others made the default
    with Socket(ours) as wrapped, theirs:
        yield wrapped, theirs


def test_what_goes_through_buys_time(pair, monkeypatch):
    monkeypatch.setattr(worker, "PACE", {"read": 1, "write": 1})
    ours, theirs = pair
    for _ in range(4):  # 0.2 seconds each; 8 bytes buy 8 seconds
        threading.Timer(0.2, theirs.sendall, [b"12345678"]).start()
        assert ours.recv(100) == b"12345678"


def test_time_that_a_head_took_is_not_a_bodys(pair):
    ours, _ = pair
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    given_up = []
    ours.give_up = lambda: given_up.append(True)
    with pytest.raises(worker.RequestTimeout):
        ours.recv(1)
    assert given_up
    ours.renew()
    with pytest.raises(ConnectionResetError):
        ours.recv(1)


def test_all_bytes_arrive_in_their_order(pair):
    ours, theirs = pair
    data, got = bytes(range(256)) * 40_000, bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(theirs.recv(70_001))

    reader = threading.Thread(target=read)
    reader.start()
    ours.sendall(data)
    reader.join(60)
    assert bytes(got) == data and ours.kept_waiting() == 0


def test_what_others_make_the_default_timeout_is_not_ours():
    """Apache Beam's sign-in makes it a minute, for one."""
    ours, theirs = socket.socketpair()
    ours.settimeout(None)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        with Socket(ours) as wrapped, theirs:
            assert wrapped.gettimeout() is None
    finally:
        socket.setdefaulttimeout(before)


def test_who_takes_no_bytes_is_given_up(pair):
    ours, _ = pair
    with pytest.raises(ConnectionResetError, match="too slow"):
        ours.sendall(bytes(10_000_000))


def test_a_deadline_of_others_is_kept(pair, monkeypatch):
    """gunicorn's, when it drains what a body has left."""
    monkeypatch.setattr(worker, "PATIENCE", {"read": 60, "write": 60})
    ours, _ = pair
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        ours.recv(1)


def test_how_long_the_other_side_has_kept_us_waiting(pair, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", {"read": 60, "write": 60})
    ours, theirs = pair
    assert ours.kept_waiting() == 0
    reader = threading.Thread(target=ours.recv, args=(1,))
    reader.start()
    until = time.monotonic() + 60
    while not 0.2 < ours.kept_waiting() < 60:
        assert time.monotonic() < until
        time.sleep(0.01)
    theirs.sendall(b"x")
    reader.join(60)
    assert ours.kept_waiting() == 0
