"""Request ids, metrics and logs; and clients that close the connection, before a real gunicorn."""

import io
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from music import midi
from music import notes as nt
from music.errors import Overloaded, Unavailable
from serving import create_app
from serving.middleware import access_log, request_context
from tests.support.fakes import ScriptedBackend, front_end, melody, scripted

SCRIPT = melody(40, pitch=80)
SEED = nt.from_tuples([(0.5, 0.9, 60, 70)])


@pytest.fixture
def backend():
    return ScriptedBackend(SCRIPT)


@pytest.fixture
def client(backend):
    return create_app({"MAX_GENERATIONS": 2}, backend).test_client()


@pytest.fixture
def lines(caplog):
    """Return a function that parses the access log's lines so far."""
    caplog.set_level(logging.INFO, "serving.access")
    return lambda: [json.loads(record.message) for record in caplog.records if record.name == "serving.access"]


def samples(text: str) -> dict[str, float]:
    """Prometheus' text → its samples, read by Prometheus' own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def numbers(client) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return samples(response.text)


# Request ids


@pytest.mark.parametrize("path", ["/", "/healthz", "/model", "/metrics", "/nowhere", "/static/app.js", "/generate"])
def test_every_reply_has_an_id_of_its_own(client, path):
    ids = set()
    for _ in range(3):
        with client.get(path) as response:
            ids.add(response.headers["X-Request-Id"])
    assert len(ids) == 3 and all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)


@pytest.mark.parametrize("id", ["a", "7f1e-22_x.y~z", "x" * 128])
def test_a_sane_id_of_the_callers_is_kept_in_reply_problem_and_log(client, lines, id):
    headers = {"X-Request-Id": id}
    with client.post("/generate?notes=1", headers=headers) as response:
        assert response.headers["X-Request-Id"] == id
    with client.post("/generate?notes=no", headers=headers) as refused:
        assert refused.headers["X-Request-Id"] == refused.get_json()["request_id"] == id
    assert [line["request_id"] for line in lines()] == [id] * 2


@pytest.mark.parametrize("id", ["", "a b", "x" * 129, 'a"}', "a,b", "\u00e9", "{}", "<b>", "a;b"])
def test_an_id_that_is_not_sane_is_replaced(client, id):
    reply = client.get("/healthz", headers={"X-Request-Id": id})
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["X-Request-Id"])


# Logs


def send(client, url, method="POST", **options) -> bytes:
    with client.open(url, method=method, **options) as response:
        return response.data


def test_a_visit_is_one_line_without_the_listeners_music(client, lines, caplog):
    form = {"seed": (io.BytesIO(midi.write(SEED)), "my secret song.mid"), "notes": "5", "random_seed": "4711"}
    send(client, "/generate?format=ndjson", data=form)
    (line,) = lines()
    assert {name: line[name] for name in line if name not in ("time", "seconds", "request_id")} == {
        "method": "POST", "route": "/generate", "status": 200, "client_closed": False,
        "format": "ndjson", "model": "toy/1", "notes": 5,
    }  # fmt: skip
    assert 0 < line["seconds"] < 5 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert "secret" not in caplog.text and "4711" not in caplog.text


def test_nothing_that_a_caller_sends_breaks_a_line_or_makes_one(client, lines, caplog):
    evil = '%0a{"status":200}'
    send(client, f"/no{evil}")
    send(client, f"/generate?notes={evil}&{evil}=1", headers={"User-Agent": evil, "Referer": evil})
    send(client, "/generate", method='X"}')
    messages = [record.message for record in caplog.records if record.name == "serving.access"]
    assert len(messages) == 3 and all(len(line.splitlines()) == 1 for line in messages)
    assert "%0a" not in caplog.text and '{"status":200}' not in caplog.text
    assert [(line["route"], line["method"]) for line in lines()] == [
        (None, "POST"), ("/generate", "POST"), (None, 'X"}')
    ]  # fmt: skip


def test_an_error_names_its_kind_also_in_the_middle_of_a_stream(backend, client, lines):
    def fails(number, signature):
        if signature == "generate":
            raise Overloaded("x")

    backend.on_call = fails
    send(client, "/generate")
    send(client, "/generate?format=ndjson")
    assert [(line["status"], line["error"], line["notes"]) for line in lines()] == [
        (429, "Overloaded", 2), (200, "Overloaded", 2)
    ]  # fmt: skip


def test_a_line_of_error_bears_the_requests_id(backend, client):
    out, errors = io.StringIO(), io.StringIO()
    before = {
        name: (log := logging.getLogger(name), log.handlers, log.propagate) for name in ("serving", "serving.access")
    }

    def breaks(number, signature):
        raise ZeroDivisionError("inside")

    backend.on_call = breaks
    try:
        access_log.open_logs(out, errors)
        send(client, "/generate", headers={"X-Request-Id": "mine"})
    finally:
        for log, handlers, propagate in before.values():
            log.handlers, log.propagate = handlers, propagate
        before["serving.access"][0].setLevel(logging.NOTSET)
    (error,), (access_line,) = errors.getvalue().splitlines(), out.getvalue().splitlines()
    error = json.loads(error)
    assert error["request_id"] == json.loads(access_line)["request_id"] == "mine"
    assert error["level"] == "ERROR" and "ZeroDivisionError: inside" in error["traceback"]


def test_a_listener_who_leaves_is_a_499(client, lines):
    stream = client.post("/generate?format=ndjson")
    next(stream.response)
    assert not lines() and numbers(client)["cadenza_pieces_in_flight"] == 1
    stream.close()
    assert [(line["status"], line["client_closed"]) for line in lines() if line["route"] == "/generate"] == [
        (499, True)
    ]
    counted = numbers(client)
    assert counted["cadenza_requests_total{method=POST,route=/generate,status=499}"] == 1
    assert counted["cadenza_pieces_in_flight"] == 0


# Metrics


def test_metrics_count_requests_notes_and_time(client):
    for _ in range(3):
        send(client, "/generate?notes=10")
    send(client, "/generate?notes=none")
    send(client, "/nowhere", method="GET")
    send(client, "/healthz", method="STRANGE")
    counted = numbers(client)
    assert counted["cadenza_requests_total{method=POST,route=/generate,status=200}"] == 3
    assert counted["cadenza_requests_total{method=POST,route=/generate,status=422}"] == 1
    assert counted["cadenza_requests_total{method=GET,route=none,status=404}"] == 1
    assert counted["cadenza_requests_total{method=other,route=none,status=405}"] == 1
    assert counted["cadenza_notes_total{model=toy/1}"] == 30
    assert counted["cadenza_first_note_seconds_count"] == 3
    assert counted["cadenza_note_seconds_count"] == 9  # chunks: 1, 1 and 8 notes
    assert 0 < counted["cadenza_note_seconds_sum"] < counted["cadenza_request_seconds_sum{route=/generate}"] < 9
    assert counted["cadenza_pieces_limit"] == 2 and counted["cadenza_pieces_in_flight"] == 0


def test_metrics_count_the_models_errors_also_those_that_nobody_waited_for(backend, client):
    def fails(number, signature):
        if number == 3:
            raise Unavailable("x")

    backend.on_call = fails
    assert send(client, "/generate?notes=5")
    assert numbers(client)["cadenza_backend_errors_total{kind=Unavailable}"] == 1


def test_two_applications_of_one_process_count_for_themselves():
    first, second = (create_app(backend=ScriptedBackend(SCRIPT)).test_client() for _ in range(2))
    send(first, "/generate?notes=3")
    assert numbers(first)["cadenza_notes_total{model=toy/1}"] == 3
    assert "cadenza_notes_total{model=toy/1}" not in numbers(second)


# Before gunicorn


@contextmanager
def slow(tmp_path: Path, workers: int, pause: float = 0.05):
    """A front end of so many processes, whose model takes `pause` seconds a call; gives its address and its log."""
    log = tmp_path / "log"
    environ = {"WEB_CONCURRENCY": str(workers), "TMPDIR": str(tmp_path)}
    with log.open("w") as file, front_end(program=scripted(4000, pause=pause), stdout=file, **environ) as url:
        yield url, lambda: [json.loads(line) for line in log.read_text().splitlines()]
    assert not list(tmp_path.glob("cadenza-metrics-*")), "the folder of the metrics was left behind"


def until(true, what: str):
    end = time.monotonic() + 20
    while not (value := true()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return value


def test_several_processes_tell_their_sum_and_lose_nothing_when_one_dies(tmp_path):
    with slow(tmp_path, workers=2) as (url, _):
        replies, models = [], set()

        def ask() -> None:
            replies.append(requests.post(f"{url}/generate?notes=10", timeout=20))

        for _ in range(10):
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            models = {reply.headers["X-Model"] for reply in replies}
            if len(models) == 2:
                break
        assert len(models) == 2, "only one process has answered"

        def counted() -> tuple:
            values = samples(requests.get(f"{url}/metrics", timeout=20).text)
            notes = sum(value for name, value in values.items() if name.startswith("cadenza_notes_total"))
            answered = values["cadenza_requests_total{method=POST,route=/generate,status=200}"]
            return notes, answered, values["cadenza_pieces_limit"], values["cadenza_pieces_in_flight"]

        expected = (10 * len(replies), len(replies), 64, 0)
        until(lambda: counted() == expected, "a request is not counted")  # one is counted just after its last byte
        for _ in range(6):  # whichever process answers
            assert counted() == expected
        os.kill(int(models.pop().split("/")[1]), signal.SIGKILL)
        until(lambda: counted() == expected, "what the dead process had counted is lost")


@pytest.mark.parametrize("format", ["ndjson", "mid"])
def test_when_a_listener_leaves_the_work_stops_within_a_chunk(tmp_path, format):
    with slow(tmp_path, workers=1, pause=0.3) as (url, log):
        if format == "ndjson":
            with requests.post(f"{url}/generate?format=ndjson&notes=4000", stream=True, timeout=20) as stream:
                received = [line for line, _ in zip(stream.iter_lines(1), range(40), strict=False)]
            assert len(received) == 40
        else:
            with pytest.raises(requests.exceptions.ReadTimeout):
                requests.post(f"{url}/generate?notes=4000", timeout=2)
        (line,) = until(lambda: [line for line in log() if line["route"] == "/generate"], "it still plays")
        assert (line["status"], line["client_closed"]) == (499, True)
        # 40 lines were 39 notes: chunks of 1, 1, 32 and a part of 32. 2 seconds are up to 7 calls (or more where a busy
        # machine's clock is late), 4 of them of no chunk of 32; all 4,000 notes would be 129 calls
        most = 1 + 1 + (3 if format == "ndjson" else 6) * 32
        assert 0 < line["notes"] <= most and line["seconds"] < 5
        values = samples(requests.get(f"{url}/metrics", timeout=20).text)
        assert values["cadenza_requests_total{method=POST,route=/generate,status=499}"] == 1
        assert values["cadenza_pieces_in_flight"] == 0


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_slow_or_silent_listener_has_not_left(timeout):
    """Also where the server's sockets have a timeout, which is not waited for."""
    server, client = socket.socketpair()
    server.settimeout(timeout)
    began = time.monotonic()
    with server:
        with client:
            request_context.RequestContext("x", connection=server).check()
            client.sendall(b"GET")
            request_context.RequestContext("x", connection=server).check()
            assert server.recv(3) == b"GET"
        with pytest.raises(request_context.ClientDisconnected):
            request_context.RequestContext("x", connection=server).check()
    with pytest.raises(request_context.ClientDisconnected):
        request_context.RequestContext("x", connection=server).check()
    assert time.monotonic() - began < 10
