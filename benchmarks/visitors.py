"""Clients of a front end, good and bad ones: each sends one request and returns the status of its reply.

    Visitors(port).visit("leaves", random.Random(7))

A piece must be the same as without other clients. The statuses that a client may get are in KINDS; any other one is
wrong. Knows HTTP and sockets; `soak` and the tests start the servers.
"""

import http.client
import io
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent import futures

from music import midi
from music.examples.nocturne import nocturne

SEED = midi.write(nocturne())
PIECES = 6  # that are requested again and again
_HEAD = b"POST /generate?format=ndjson&notes=%d&random_seed=%d HTTP/1.1\r\nHost: here\r\n"
_MIDI = b"Content-Type: audio/midi\r\nContent-Length: %d\r\n\r\n"
BUSY = (429, 503, 504)  # statuses of a server that has too much to do, or no model


class Wrong(Exception):
    """A reply that should not be."""


class Visitors:
    """The clients of one front end.

    Args:
        port: where it listens, on loopback.
        long: notes of a long piece.
        pause: seconds that the slow ones take.
        excused: statuses that a server with trouble of its own may send.
    """

    def __init__(self, port: int, *, long: int = 4096, pause: float = 2.0, excused: tuple[int, ...] = BUSY):
        self.port, self.long, self.pause, self.excused = port, long, pause, excused
        self._alone: dict[tuple[int, int], list] = {}  # notes and random seed → the piece as it is alone

    def hear_alone(self) -> None:
        """Request each piece while no other client is there, to compare with later."""
        for random_seed in range(PIECES):
            for notes in (_notes(random_seed), *([self.long] if random_seed == 0 else [])):
                for _ in range(5):
                    status, body = self._ask(notes, random_seed, "json")
                    if status not in BUSY:  # as it may be on a machine that has much else to do
                        break
                if status != 200:
                    raise Wrong(f"alone, {status}: {body[:200]!r}")
                self._alone[notes, random_seed] = json.loads(body)["notes"]

    def visit(self, kind: str, rng: random.Random) -> int:
        """Send one request. Return the status, 0 where the client did not wait for it. Raises Wrong, OSError."""
        make, expected = KINDS[kind]
        status = make(self, rng)
        if status not in (*expected, *self.excused, 0):
            raise Wrong(f"{kind}: {status}, expected {expected}")
        return status

    def whole(self, rng: random.Random, notes: int | None = None) -> int:
        """Request a piece in a format that shows its notes, and compare them."""
        random_seed = 0 if notes else rng.randrange(PIECES)
        notes = notes or _notes(random_seed)
        format = rng.choice(["json", "ndjson"])
        status, body = self._ask(notes, random_seed, format)
        if status == 200:
            lines = [json.loads(line) for line in body.splitlines()]
            if format == "ndjson" and lines[-1].get("status") in self.excused:
                return lines[-1]["status"]
            if format == "ndjson" and "error" in lines[-1]:
                raise Wrong(f"a stream: {lines[-1]}")
            piece = lines[0]["notes"] if format == "json" else [line for line in lines if "pitch" in line]
            if piece != self._alone[notes, random_seed]:
                raise Wrong(f"piece {random_seed} of {notes} notes is not the one that was heard alone")
        return status

    def file(self, rng: random.Random) -> int:
        """Request a piece as a file."""
        format = rng.choice(["mid", "mid", "mid", "wav", "mp3", "png", "musicxml"])
        status, body = self._ask(32, rng.randrange(PIECES), format)
        if status == 200 and not body:
            raise Wrong(f"{format}: empty")
        return status

    def looks(self, rng: random.Random) -> int:
        """Request one of the pages and files that need no model."""
        path = rng.choice(["/", "/healthz", "/metrics", "/model", "/openapi.json", "/static/app.js", "/piano.pcm"])
        return self._request("GET", path)[0]

    def uploads(self, rng: random.Random) -> int:
        """Upload a file to see its notes."""
        status, body = self._request("POST", "/notes", SEED, {"Content-Type": "audio/midi"})
        if status == 200 and len(json.loads(body)["notes"]) != len(nocturne()):
            raise Wrong("/notes has lost some")
        return status

    def errs(self, rng: random.Random) -> int:
        """Send a request that is refused."""
        path, body, headers, expected = rng.choice([
            ("/generate?notes=-1", None, {}, 422),
            ("/generate", b"no MIDI", {"Content-Type": "audio/midi"}, 400),
            ("/generate", b"{}", {"Content-Type": "application/json"}, 415),
            ("/nowhere", None, {}, 404),
            ("/generate?format=cassette", None, {}, 406),
        ])  # fmt: skip
        status, _ = self._request("POST", path, body, headers)
        if status not in (expected, *self.excused):
            raise Wrong(f"{path}: {status}, expected {expected}")
        return status

    def leaves(self, rng: random.Random) -> int:
        """Request a long piece, and close the connection after a few lines, or reset it."""
        with self._raw(_HEAD % (self.long, rng.randrange(9)) + b"\r\n") as connection:
            for _ in range(rng.randrange(4)):
                if not connection.recv(2000):
                    break
            if rng.random() < 0.5:  # a reset instead of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return 0

    def reads_slowly(self, rng: random.Random) -> int:
        """Read a long piece one byte at a time, with long pauses."""
        with self._raw(_HEAD % (self.long, rng.randrange(9)) + b"\r\n", window=2048) as connection:
            for _ in range(3):
                if not connection.recv(1):
                    break
                time.sleep(self.pause / 3)
        return 0

    def is_half_open(self, rng: random.Random) -> int:
        """Connect, and send nothing, or half a request."""
        with self._raw(rng.choice([b"", b"P", b"POST /generate HTTP/1.1\r\nHost:", b"\x16\x03\x01\x02\x00\x01"])):
            time.sleep(self.pause)
        return 0

    def never_ends(self, rng: random.Random) -> int:
        """Send a body that never ends, with a length or in chunks."""
        head = _HEAD % (9, 1)
        chunked = head + b"Content-Type: audio/midi\r\nTransfer-Encoding: chunked\r\n\r\n"
        first = head + _MIDI % 10_000 if rng.random() < 0.5 else chunked
        with self._raw(first) as connection:
            until = time.monotonic() + self.pause
            while time.monotonic() < until:
                connection.sendall(b"1\r\nM\r\n")
                time.sleep(self.pause / 10)
        return 0

    def hear_at_once(self, count: int) -> None:
        """Request sound so many times at once, so that the server starts all the threads that render it."""
        with futures.ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda number: self._ask(300, number, "wav"), range(count)))

    def _ask(self, notes: int, random_seed: int, format: str) -> tuple[int, bytes]:
        path = f"/generate?notes={notes}&random_seed={random_seed}&format={format}"
        return self._request("POST", path, SEED, {"Content-Type": "audio/midi"})

    def _request(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _raw(self, data: bytes, window: int | None = None) -> socket.socket:
        connection = socket.socket()
        if window:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        return connection


def _notes(random_seed: int) -> int:
    """Choose a piece's number of notes, so that the pieces have several lengths."""
    return 40 + 30 * random_seed


KINDS: dict[str, tuple[Callable[[Visitors, random.Random], int], tuple[int, ...]]] = {
    "whole": (Visitors.whole, (200,)),
    "long": (lambda visitors, rng: visitors.whole(rng, visitors.long), (200,)),
    "file": (Visitors.file, (200, 406)),  # 406: a library of that format is not installed
    "looks": (Visitors.looks, (200,)),
    "uploads": (Visitors.uploads, (200,)),
    "errs": (Visitors.errs, (400, 404, 406, 415, 422)),
    "leaves": (Visitors.leaves, ()),
    "reads_slowly": (Visitors.reads_slowly, ()),
    "is_half_open": (Visitors.is_half_open, ()),
    "never_ends": (Visitors.never_ends, ()),
}
GOOD = ("whole", "long", "file", "looks", "uploads", "errs")


def crowd(port: int, count: int, seconds: float) -> None:
    """Open so many requests at once whose bodies do not end, so that the server starts all the threads that it may."""
    connections = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
    for connection in connections:
        connection.sendall(_HEAD % (9, 1) + _MIDI % 10_000)
    time.sleep(seconds)
    for connection in connections:
        connection.close()


class Counts:
    """Counts of requests by kind and by status, and what was wrong. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.visits: dict[str, int] = {}
        self.statuses: dict[int, int] = {}
        self.wrong: list[str] = []

    def visit(self, visitors: Visitors, kind: str, rng: random.Random) -> int:
        """Send a request and count it; return its status, or 0. For a good client a broken connection is wrong."""
        status, fault = 0, None
        try:
            status = visitors.visit(kind, rng)
        except Exception as error:  # whatever it is: it may not end its client's thread without a word
            if kind in GOOD or not isinstance(error, OSError):  # whom the server may well hang up on
                fault = f"{kind}: {type(error).__name__}: {error}"
        with self._lock:
            self.visits[kind] = self.visits.get(kind, 0) + 1
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if fault:
                self.wrong.append(fault)
        return status

    def __str__(self) -> str:
        out = io.StringIO()
        for status, count in sorted(self.statuses.items()):
            out.write(f"{count} × {status or 'left'}, ")
        return out.getvalue() + f"{len(self.wrong)} wrong"
