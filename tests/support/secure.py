"""Doubles of what is between us and a remote model server: certificates, a metadata server, a proxy that answers 403.

Nothing leaves 127.0.0.1, and no real key or token is needed.
"""

import base64
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificate(host: str = "127.0.0.1", *, days: int = 1) -> tuple[bytes, bytes]:
    """Make a host's key and self-signed certificate, as PEM; with `days` below 0 it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    try:
        subject = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, signed.public_bytes(pem)


class MetadataServer(ThreadingHTTPServer):
    """Google's metadata server, as far as an identity token needs it.

    `lives`: seconds that its tokens are valid. `status`: HTTP status of its replies to requests for one. `issued`: the
    tokens so far.
    """

    daemon_threads = True

    def __init__(self, lives: float = 3600):
        super().__init__(("127.0.0.1", 0), _Metadata)
        self.lives, self.status = lives, 200
        self.issued: list[str] = []
        self.audiences: list[str] = []

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that make google-auth call this server instead of Google."""
        address = f"127.0.0.1:{self.server_port}"
        return {"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address, "GOOGLE_APPLICATION_CREDENTIALS": ""}

    def issue(self, audience: str) -> str:
        def part(value: dict) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

        facts = {"aud": audience, "exp": int(time.time() + self.lives), "jti": len(self.issued)}
        self.issued.append(f"{part({'alg': 'none'})}.{part(facts)}.c2lnbmVk")
        self.audiences.append(audience)
        return self.issued[-1]


class _Metadata(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.headers["Metadata-Flavor"] != "Google":
            self._answer(403, "Missing Metadata-Flavor:Google header.")
        elif url.path.endswith("/default/identity"):
            answer = self.server.issue(parse_qs(url.query)["audience"][0]) if self.server.status == 200 else "no"
            self._answer(self.server.status, answer)
        elif url.path.endswith("/default/"):
            self._answer(200, json.dumps({"email": "default", "scopes": [], "aliases": []}), "application/json")
        else:
            self._answer(200, "computeMetadata/")

    def _answer(self, status: int, text: str, kind: str = "application/text") -> None:
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args) -> None:
        pass


@contextmanager
def metadata_server(**options) -> Iterator[MetadataServer]:
    with MetadataServer(**options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(5)


@contextmanager
def refusing_proxy(folder: Path, tls: tuple[bytes, bytes], status: int = 403) -> Iterator[str]:
    """Speak just enough HTTP/2 to refuse every call with an HTTP status, as proxies do that know nothing of gRPC."""
    (folder / "key.pem").write_bytes(tls[0])
    (folder / "certificate.pem").write_bytes(tls[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0))

    def read(connection: ssl.SSLSocket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (more := connection.recv(count - len(data))):
                raise ConnectionError("closed")
            data += more
        return data

    def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def serve(plain: socket.socket) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                read(connection, 24)  # the preface
                connection.sendall(frame(4, 0, 0))  # SETTINGS
                while True:
                    head = read(connection, 9)
                    size, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], head[5:]
                    payload = read(connection, size)
                    if kind == 4 and not flags & 1:
                        connection.sendall(frame(4, 1, 0))
                    elif kind == 6 and not flags & 1:  # PING
                        connection.sendall(frame(6, 1, 0, payload))
                    elif kind == 1:  # HEADERS: answer with `:status` alone, and the end of the stream
                        refusal = b"\x48\x03" + str(status).encode()
                        connection.sendall(frame(1, 5, int.from_bytes(stream, "big"), refusal))
        except OSError:
            pass  # the client is gone

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
