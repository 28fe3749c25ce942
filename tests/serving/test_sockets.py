"""A connection's socket by itself: how long it waits for the client."""

import socket
import threading
import time
from concurrent import futures

import pytest

from serving.server import sockets
from serving.server.sockets import Socket


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(sockets, "PATIENCE", {"read": 0.3, "write": 0.3})
    monkeypatch.setattr(sockets, "PACE", {"read": 1e9, "write": 1e9})
    connection, client = socket.socketpair()
    connection.settimeout(None)  # as gunicorn has it, whatever others made the default
    with Socket(connection) as wrapped, client:
        yield wrapped, client


def test_what_goes_through_buys_time(pair, monkeypatch):
    monkeypatch.setattr(sockets, "PACE", {"read": 1, "write": 1})
    connection, client = pair
    client.sendall(bytes(60))  # which buy 60 seconds
    assert len(connection.recv(100)) == 60
    for _ in range(3):  # of 0.2 seconds, where all in all there would be 0.3
        threading.Timer(0.2, client.sendall, [b"12345678"]).start()
        assert connection.recv(100) == b"12345678"


def test_time_that_a_head_took_is_not_a_bodys(pair):
    connection, _ = pair
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    given_up = []
    connection.give_up = lambda: given_up.append(True)
    with pytest.raises(sockets.RequestTimeout):
        connection.recv(1)
    assert given_up
    connection.renew()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_all_bytes_arrive_in_their_order(pair):
    connection, client = pair
    data, got = bytes(range(256)) * 40_000, bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(client.recv(70_001))

    reader = threading.Thread(target=read)
    reader.start()
    connection.sendall(data)
    reader.join(60)
    assert bytes(got) == data and connection.kept_waiting() == 0


def test_what_others_make_the_default_timeout_is_not_ours():
    """Apache Beam's sign-in makes it a minute, for one."""
    connection, client = socket.socketpair()
    connection.settimeout(None)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        with Socket(connection) as wrapped, client:
            assert wrapped.gettimeout() is None
    finally:
        socket.setdefaulttimeout(before)


def test_who_takes_no_bytes_is_given_up(pair):
    connection, _ = pair
    with pytest.raises(ConnectionResetError, match="too slow"):
        connection.sendall(bytes(10_000_000))


def test_nor_does_a_single_send_wait_for_ever(pair):
    """gunicorn's own of "100 Continue"."""
    connection, _ = pair
    with pytest.raises(BlockingIOError):
        while True:
            connection.send(bytes(4096), socket.MSG_DONTWAIT)
    given_up: futures.Future = futures.Future()

    def send() -> None:
        try:
            given_up.set_result(connection.send(b"HTTP/1.1 100 Continue\r\n\r\n"))
        except OSError as error:
            given_up.set_exception(error)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(ConnectionResetError, match="too slow"):
        given_up.result(timeout=60)


def test_what_is_sent_at_once_is_all_sent(pair):
    connection, client = pair
    assert connection.send(b"HTTP/1.1 100 Continue\r\n\r\n") == 25
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_deadline_of_others_is_kept(pair, monkeypatch):
    """gunicorn's, when it drains what a body has left."""
    monkeypatch.setattr(sockets, "PATIENCE", {"read": 60, "write": 60})
    connection, _ = pair
    connection.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.recv(1)


def test_how_long_the_other_side_has_kept_us_waiting(pair, monkeypatch):
    monkeypatch.setattr(sockets, "PATIENCE", {"read": 60, "write": 60})
    connection, client = pair
    assert connection.kept_waiting() == 0
    reader = threading.Thread(target=connection.recv, args=(1,))
    reader.start()
    until = time.monotonic() + 60
    while not 0.2 < connection.kept_waiting() < 60:
        assert time.monotonic() < until
        time.sleep(0.01)
    client.sendall(b"x")
    reader.join(60)
    assert connection.kept_waiting() == 0
