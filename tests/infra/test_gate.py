"""The gate: it passes the front end before the shipped model, and fails for each wrong reply."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from infra.cloud import gate, versions
from music import midi
from music import notes as nt
from music.examples.nocturne import nocturne
from tests.support.fakes import ModelServer, front_end, melody

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_gate_opens_for_the_front_end_before_the_shipped_model(capsys):
    """With the flags of compose.yaml and the versions and labels of models.config."""
    flags = yaml.safe_load((ROOT / "infra/cloud/compose.yaml").read_text())["services"]["front-end"]["command"]
    with ModelServer(ROOT / "models/performance", versions=[1], labels_ahead=True) as server:
        server.reload(versions.read(str(ROOT / "infra/cloud/models.config")))
        ours = [flag.replace("model-server:8500", server.address) for flag in flags]
        assert ours != flags
        with front_end(*ours) as address:
            opened(address, capsys)
        assert ("describe", "stable") in server.requested


def opened(address, capsys):
    assert gate.run([address, "--model", "performance/1"]) == 0
    assert "performance/1 played 64 notes behind" in capsys.readouterr().out
    assert gate.run([address, "--model", "performance/2"]) == 1
    assert "expected X-Model performance/2, got performance/1" in capsys.readouterr().err


class Played:
    """The replies of a healthy stack; each test spoils one thing."""

    def __init__(self):
        seed = nocturne()
        new = melody(3)
        new["start"] += seed["end"].max()
        new["end"] += seed["end"].max()
        self.ready, self.status, self.token = 200, 200, None
        self.body = midi.write(nt.sort(np.concatenate([seed, new])))
        self.again = self.body
        self.headers = {"x-model": "toy/1", "X-Notes": "3"}  # names of any case
        self.stream = [{"model": "toy/1"}, *({"pitch": 60},) * 3, {"end": "length"}]
        self.posts = 0


@pytest.fixture
def played():
    return Played()


@pytest.fixture
def address(played):
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, body=b"", headers=()):
            if played.token and self.headers["Authorization"] != f"Bearer {played.token}":
                status, body = 403, b"Forbidden"
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(played.ready, b"not yet")

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if "ndjson" in self.path:
                return self.answer(200, "\n".join(map(json.dumps, played.stream)).encode())
            played.posts += 1
            return self.answer(played.status, played.body if played.posts == 1 else played.again, played.headers)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_healthy_stub_passes(address, capsys):
    assert gate.run([address, "--model", "toy/1"]) == 0
    assert "toy/1 played 3 notes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoiled", "blamed"),
    [
        ({"body": b"MThd?"}, "MIDI"),
        ({"body": midi.write(nocturne())}, "expected 1 to 64 notes behind the seed's 163, got 0"),
        ({"headers": {"X-Model": "toy/1", "X-Notes": "4"}}, "3 new notes in the MIDI, X-Notes says 4"),
        ({"headers": {"X-Notes": "3"}}, "expected X-Model toy/1, got none"),
        ({"again": midi.write(melody(2))}, "the same random seed gave other bytes"),
        ({"stream": [{"model": "toy/1"}, {"pitch": 60}, {"end": "length"}]}, "expected 3 notes and an end"),
        ({"stream": [{"model": "toy/1"}, *({"pitch": 60},) * 3, {"error": "gone"}]}, "{'error': 'gone'}"),
        ({"status": 503, "body": b'{"detail": "no\n model"}'}, 'HTTP 503: {"detail": "no model"}'),
        ({"ready": 503}, "not ready after 0.5 s"),
        ({"token": "secret"}, "HTTP 403: Forbidden"),
    ],
)
def test_whatever_is_spoiled_shuts_the_gate_with_one_line(played, address, capsys, spoiled, blamed):
    vars(played).update(spoiled)
    assert gate.run([address, "--model", "toy/1", "--wait", "0.5"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("python -m infra.cloud.gate: ") and error.count("\n") == 1 and blamed in error


def test_an_identity_token_goes_with_every_request(played, address, monkeypatch):
    played.token = "secret"
    monkeypatch.setenv("TOKEN", "secret\n")
    assert gate.run([address, "--token-env", "TOKEN"]) == 0


def test_a_token_stays_with_the_host_it_is_for(address, played, monkeypatch, capsys):
    """That host may redirect us to another one."""
    tokens = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            tokens.append(self.headers["Authorization"])
            self.send_response(302)
            self.send_header("Location", f"{address}/model")
            self.end_headers()

        def log_message(self, *args):
            pass

    played.token = "secret"
    monkeypatch.setenv("TOKEN", "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert gate.run([f"http://127.0.0.1:{server.server_port}", "--token-env", "TOKEN", "--wait", "0"]) == 1
        server.shutdown()
    assert tokens == ["Bearer secret"] and "403" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "token", "blamed"),
    [("http://music.example", "secret", "plain text"), ("https://music.example", "", "it is empty")],
)
def test_a_token_that_cannot_be_sent_is_one_line(where, token, blamed, monkeypatch, capsys):
    monkeypatch.setenv("TOKEN", token)
    assert gate.run([where, "--token-env", "TOKEN"]) == 1
    error = capsys.readouterr().err
    assert blamed in error and error.count("\n") == 1


def test_nobody_there_is_one_line(capsys):
    assert gate.run(["http://127.0.0.1:1", "--wait", "0"]) == 1
    assert "refused" in capsys.readouterr().err
