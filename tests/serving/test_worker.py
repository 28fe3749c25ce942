"""Clients that keep a server waiting: heads and bodies that never end, replies never read, connections left open.

They connect to a real gunicorn, which waits only a second here. Nothing is timed: another client's request must be
answered meanwhile, where it would otherwise wait as long as they do.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import requests

from serving.server import worker
from tests.support.fakes import front_end, scripted

HEAD = b"POST /generate?notes=2 HTTP/1.1\r\nHost: here\r\nContent-Type: audio/midi\r\n"
BODY = HEAD + b"Content-Length: 10000\r\n\r\nMThd"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
IMPATIENT = (
    "worker.HEAD, sockets.PATIENCE, sockets.PACE = 1.0, *[dict.fromkeys(['read', 'write'], n) for n in (1.0, 1e7)]"
)
PATIENT = "worker.HEAD, sockets.PATIENCE = 300.0, {'read': 300.0, 'write': 300.0}"
FOR_EVER = f"{PATIENT}\nworker._SLOW = 300.0"
ASK = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
LATER = """
configure = __main__.Gunicorn.load_config
def configured(self):
    configure(self)
    import resource
    %s
__main__.Gunicorn.load_config = configured
"""  # what is done when the configuration has been read


def program(patch: str, notes: int = 40, pause: float = 0) -> tuple[str, str]:
    """Write a program: the scripted front end, after some other lines."""
    flag, text = scripted(notes, pause)
    return flag, text.replace("__main__.run()", f"from serving.server import sockets, worker\n{patch}\n__main__.run()")


@contextmanager
def served(tmp_path, patch: str, **script) -> Iterator[tuple[str, list]]:
    """Run a front end; yield its address and a list, which has the log's lines after the end."""
    log: list[dict] = []
    with (tmp_path / "log").open("w") as file, front_end(program=program(patch, **script), stdout=file) as url:
        yield url, log
    log += [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Iterator[str]:
    """Run a front end that waits for ever and frees no thread; yield its address."""
    with served(tmp_path_factory.mktemp("patient"), FOR_EVER) as (url, _):
        yield url


@contextmanager
def connections(url: str, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Open `count` connections, and send `data` over each."""
    host, port = url.removeprefix("http://").split(":")
    with ExitStack() as open_ones:
        opened = []
        for _ in range(count):
            opened.append(open_ones.enter_context(socket.create_connection((host, int(port)), timeout=60)))
            opened[-1].sendall(data)
        yield opened


def pid(url: str) -> int:
    """Return the worker's process id, which is its model's version."""
    return requests.get(f"{url}/model", timeout=60).json()["version"]


def received(connection: socket.socket) -> bytes:
    """Receive all bytes until the other side closes."""
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
def test_a_head_that_never_ends_costs_no_thread(patient, data):
    with connections(patient, 100, data) as held:
        assert requests.get(f"{patient}/healthz", timeout=60).status_code == 200
        held[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            held[0].recv(1)  # it is still open


def test_nor_does_one_that_is_begun_behind_another_request(patient):
    with connections(patient, 100, ASK + ASK[:1]) as held:
        assert requests.get(f"{patient}/healthz", timeout=60).status_code == 200
        for connection in held:
            connection.sendall(ASK[1:].replace(b"Host", b"Connection: close\r\nHost"))
            assert received(connection).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("before", [b"", ASK])
def test_a_head_that_is_too_long_is_431(patient, before):
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (n, bytes([120]) * 8000) for n in range(9))
    with connections(patient, 70, before + head) as held:
        for connection in held:
            assert received(connection).count(b"HTTP/1.1 431 ") == 1
        assert requests.get(f"{patient}/healthz", timeout=60).status_code == 200


def test_where_there_is_room_for_no_more_connections_the_idle_go(tmp_path):
    with (
        served(tmp_path, PATIENT + LATER % "self.cfg.set('worker_connections', 100)") as (url, _),
        requests.Session() as session,
    ):
        assert session.get(f"{url}/healthz", timeout=60).status_code == 200
        with connections(url, 150, b"") as idle, connections(url, 150, b"P"):
            assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
            assert received(idle[0]) == b""  # who came first


def test_who_has_just_come_is_not_the_idle_one(tmp_path):
    few = "self.cfg.set('worker_connections', 5); self.cfg.set('threads', 1); self.cfg.set('keepalive', 300)"
    with served(tmp_path, LATER % few) as (url, _), ExitStack() as stack:
        for _ in range(20):  # each leaves its connection open, and that for longer than a head may take
            session = stack.enter_context(requests.Session())
            assert session.get(f"{url}/healthz", timeout=60).status_code == 200


def test_a_head_has_so_long_and_no_longer(tmp_path):
    with served(tmp_path, IMPATIENT) as (url, log), connections(url, 20, BODY[:30]) as held:
        assert [received(connection) for connection in held] == [b""] * 20
        assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
    assert [line["route"] for line in log] == ["/healthz"]


def test_a_body_that_comes_too_slowly_is_408(tmp_path):
    with served(tmp_path, IMPATIENT) as (url, log), ExitStack() as stack:
        parts = [BODY, CHUNKS, CHUNKS + b"4\r\nMT"]
        for connection in [one for data in parts for one in stack.enter_context(connections(url, 3, data))]:
            head, _, body = received(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ") and b"application/problem+json" in head
            assert b"Connection: close" in head
            assert "came too slowly" in json.loads(body)["detail"]
    assert [line["status"] for line in log] == [408] * 9


@pytest.mark.parametrize("path", [b"/nowhere", b"/healthz"])
def test_a_damaged_body_that_nobody_reads_has_one_reply(patient, path):
    data = CHUNKS.replace(b"/generate?notes=2", path) + b"zz\r\n"
    with connections(patient, 1, data) as (connection,):
        assert received(connection).count(b"HTTP/1.1 ") == 1


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
        while 'status="499"' not in (counters := requests.get(f"{url}/metrics", timeout=60).text):
            assert time.monotonic() < until, counters
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


def test_who_goes_on_sending_is_drained_for_a_while(tmp_path):
    """Long enough for the client of a body that is too large to get the error."""
    with served(tmp_path, "worker._LINGER = 300.0") as (url, _):
        with connections(url, 1, HEAD + b"Content-Length: 7000000\r\n\r\n" + bytes(7_000_000)) as (connection,):
            assert received(connection).startswith(b"HTTP/1.1 413 ")
        with connections(url, 1, ASK.replace(b"1.1", b"1.0")) as (connection,):
            assert received(connection).startswith(b"HTTP/1.0 200 ")
            with pytest.raises(OSError):
                for _ in range(1000):
                    connection.sendall(bytes(2**16))


def test_more_connections_than_descriptors_do_not_kill_a_worker(tmp_path):
    fewer = LATER % "resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))"
    with served(tmp_path, f"{PATIENT}\n{fewer}") as (url, _):
        before, until = pid(url), time.monotonic() + 60
        with connections(url, 150, b"P"):
            while len(os.listdir(f"/proc/{before}/fd")) < 80:
                assert time.monotonic() < until, "it never ran out"
                time.sleep(0.1)
        assert pid(url) == before


def test_where_a_descriptor_is_missing_the_connection_waits(monkeypatch, caplog):
    """The kernel reports that there are no more; the listener stays ready."""
    import errno
    import logging
    from types import SimpleNamespace

    calls: list[float] = []
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=calls.append, monotonic=time.monotonic))

    def accept():
        raise OSError(errno.EMFILE, "Too many open files")

    stub = SimpleNamespace(log=logging.getLogger("x"))
    worker.Worker.accept(stub, SimpleNamespace(accept=accept))
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

    patient = PATIENT + LATER % "self.cfg.set('graceful_timeout', 300)"  # longer than `front_end` waits for the end
    with ExitStack() as idle, served(tmp_path, patient, notes=4000, pause=0.15) as (url, log):
        listener = threading.Thread(target=listen, args=(url,))
        listener.start()
        assert rest.wait(60)
        idle.enter_context(connections(url, 5, b""))
        idle.enter_context(connections(url, 5, b"POST /gen"))
        worker_pid = pid(url)
    # terminated and ended, while those are still there
    listener.join(60)
    assert len([line for line in lines if "pitch" in line]) == 300 and lines[-1] == {"end": "length"}
    assert [line["status"] for line in log if line["route"] == "/generate"] == [200]
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(_pidfd(worker_pid), 0)


def _pidfd(process: int) -> int:
    return os.pidfd_open(process)


def test_keeping_a_connection_for_another_request_still_works(tmp_path):
    with served(tmp_path, PATIENT) as (url, log), requests.Session() as session:
        for _ in range(5):
            assert session.get(f"{url}/healthz", timeout=60).status_code == 200
        with connections(url, 1, b"") as (connection,):
            connection.sendall(ASK * 3 + ASK[:10])  # pipelined, the last one in two parts
            time.sleep(0.2)
            connection.sendall(ASK[10:].replace(b"Host", b"Connection: close\r\nHost"))
            assert received(connection).count(b"HTTP/1.1 200") == 4
    assert len(log) == 9


def test_curl_may_wait_for_100_continue(tmp_path, patient):
    big = tmp_path / "big"
    big.write_bytes(bytes(2 * 2**20))
    command = ["curl", "-s", "-w", "%{http_code}", "-H", "Expect: 100-continue", "-H", "Content-Type: audio/midi"]
    done = subprocess.run(
        [*command, "--data-binary", f"@{big}", f"{patient}/generate"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("400") and "not a MIDI file" in done.stdout
