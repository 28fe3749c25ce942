"""An emulated bucket on a real socket, and a proxy before it with the faults of networks and servers.

The emulator ignores preconditions, so the proxy checks them: it compares ifGenerationMatch with the generation. It also
omits the header that says how an object is encoded; the proxy adds it where `encoding` is set.
"""

import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gcp_storage_emulator.server import create_server

NO_RIGHT = (
    "pianist@example.com does not have storage.objects.get access to the Google Cloud Storage object. "
    "Permission 'storage.objects.get' denied on resource (or it may not exist)."
)
NOT_ENABLED = (
    "Cloud Storage JSON API has not been used in project 123456 before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/storage-api.googleapis.com/overview?project=123456 then retry."
)


@contextmanager
def emulator(bucket: str) -> Iterator[int]:
    """Serve one empty bucket in memory; yield its port."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=bucket)
    server.start()
    try:
        yield server._api._httpd.server_address[1]
    finally:
        server.stop()


@dataclass
class Fault:
    """A fault in requests of one kind.

    Args:
        what: a status (with `message`), or drop, drop after (the request is carried out, but gets no reply), delay,
            cut request, cut reply, damage request, damage reply.
        method, part: which requests: those of this method, with this text in path and query.
        times: number of requests that get the fault.
    """

    what: str | int
    method: str = ""
    part: str = ""
    times: int = 1_000_000
    message: str = ""
    seconds: float = 0.8

    def meets(self, method: str, target: str) -> bool:
        return self.times > 0 and method.startswith(self.method) and self.part in target


@dataclass
class Proxy:
    """Forwards requests to `upstream`, with the faults of `faults`; keeps the requests in `seen`."""

    upstream: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)  # (method, path and query)
    before: Callable[[str, str], None] = lambda method, target: None
    encoding: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def pick(self, method: str, target: str) -> Fault | None:
        with self.lock:
            self.seen.append((method, target))
            fault = next((fault for fault in self.faults if fault.meets(method, target)), None)
            if fault:
                fault.times -= 1
            return fault

    def count(self, method: str, part: str = "") -> int:
        return sum(method == verb and part in target for verb, target in self.seen)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.proxy.before(self.command, self.path)
        fault = self.proxy.pick(self.command, self.path) or Fault("")
        if fault.what == "drop":
            return self._hang_up()
        if fault.what == "delay":
            time.sleep(fault.seconds)
        if isinstance(fault.what, int):
            error = {"code": fault.what, "message": fault.message, "errors": [{"message": fault.message}]}
            return self._reply(fault.what, {}, json.dumps({"error": error}).encode())
        if fault.what == "cut request":
            self._send_half(body)
            return self._hang_up()
        if fault.what == "damage request":
            body = _damaged(body)
        with self.proxy.lock:  # so that the object does not change between comparison and replacement
            if self._as_expected(body):
                status, headers, content = self._ask(self.command, self.path, body)
                if self.proxy.encoding and "alt=media" in self.path:
                    headers |= self._encoding()
            else:
                status, headers, content = 412, {}, b'{"error": {"code": 412, "message": "conditionNotMet"}}'
        if fault.what == "drop after":
            return self._hang_up()
        if fault.what == "damage reply":
            content = _damaged(content)
        self._reply(status, headers, content, cut=fault.what == "cut reply")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

    def _ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, dict, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(method, target, body or None, {**headers, "Content-Length": str(len(body))})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, dict(reply.getheaders()), content

    def _encoding(self) -> dict[str, str]:
        """How the object of a download is stored, as a header."""
        status, _, content = self._ask("GET", self.path.partition("?")[0].replace("/download/", "/"))
        encoding = json.loads(content).get("contentEncoding") if status == 200 else None
        return {"Content-Encoding": encoding} if encoding else {}

    def _as_expected(self, body: bytes) -> bool:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if "ifGenerationMatch" not in query:
            return True
        if "upload_id" in query:  # the emulator's are bucket:name:time
            name = query["upload_id"][0].split(":", 1)[1].rsplit(":", 3)[0]
        else:
            name = json.loads(re.search(rb'"name": ?("(?:[^"\\]|\\.)*")', body)[1])
        bucket = self.path.split("/b/")[1].split("/")[0]
        status, _, content = self._ask("GET", f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}")
        there = json.loads(content)["generation"] if status == 200 else "0"
        return str(there) == query["ifGenerationMatch"][0]

    def _reply(self, status: int, headers: dict, content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):  # the client has given up
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._hang_up()

    def _send_half(self, body: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.proxy.upstream), timeout=30) as upstream:
            head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            upstream.sendall(f"{self.command} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body[: len(body) // 2])

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args) -> None:
        pass


def _damaged(content: bytes) -> bytes:
    """Change one byte in the second half, where a request has the object's bytes."""
    at = len(content) * 2 // 3
    return content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
