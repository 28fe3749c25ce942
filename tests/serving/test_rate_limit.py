"""How often a client may ask: token buckets, whose address counts, what a client reads; and concurrency limits."""

import runpy
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path

import flask
import pytest

from music import midi
from music import notes as nt
from music.errors import Overloaded, SettingError
from serving import DEFAULTS, create_app
from serving.__main__ import run
from serving.api import requests
from serving.middleware import rate_limit, request_context
from serving.middleware.concurrency import ConcurrencyLimit
from serving.middleware.rate_limit import Rate
from tests.support.fakes import ScriptedBackend, melody

KEY, OTHER_KEY = "k" * 16, "another-key-of-ours"
SEED = midi.write(nt.from_tuples([(0.5, 0.9, 60, 70)]))


@pytest.fixture
def clock(monkeypatch):
    """The buckets' clock, in a list."""
    now = [100.0]
    init = Rate.__init__
    monkeypatch.setattr(Rate, "__init__", lambda self, *args: init(self, *args, clock=lambda: now[0]))
    return now


def client_of(**config):
    return create_app(config, ScriptedBackend(melody(40, pitch=80))).test_client()


# Buckets


def test_a_minutes_worth_at_once_and_then_one_after_the_other(clock):
    rate = Rate(6)
    assert [rate.take("a") for _ in range(6)] == [0] * 6
    assert rate.take("a") == 10
    clock[0] += 9
    assert rate.take("a") == pytest.approx(1) and rate.take("b") == 0
    clock[0] += 1
    assert rate.take("a") == 0 and rate.take("a") == pytest.approx(10)
    clock[0] += 1000  # tokens are kept for a minute and not for ever
    assert [rate.take("a") > 0 for _ in range(8)] == [False] * 6 + [True] * 2


def test_so_many_are_remembered_and_the_quietest_is_forgotten_first():
    rate = Rate(1, most=3, clock=lambda: 0.0)
    for who in "abcabcd":
        rate.take(who)
    assert len(rate._tokens) == 3 and rate.take("c") > 0 and rate.take("a") == 0


def test_threads_share_a_bucket_and_no_token_is_taken_twice():
    rate, taken = Rate(50, clock=lambda: 0.0), []

    def take() -> None:
        for _ in range(100):
            taken.append(rate.take("a"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 800 and taken.count(0.0) == 50


# Whose address it is


@pytest.mark.parametrize(
    ("forwarded", "proxies", "expected"),
    [
        (None, 0, "192.0.2.1"),
        ("203.0.113.9", 0, "192.0.2.1"),  # nobody is believed who was not named
        ("203.0.113.9", 1, "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", 1, "203.0.113.9"),  # what stands before our proxy's word is the client's own
        ("203.0.113.9, 10.0.0.1", 2, "203.0.113.9"),
        ("203.0.113.9", 2, "192.0.2.1"),
        ("no address", 1, "192.0.2.1"),
        ("", 1, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", 1, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", 1, "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", 1, "203.0.113.9"),
    ],
)
def test_an_address_is_the_one_that_our_own_proxy_tells(forwarded, proxies, expected):
    headers = {"X-Forwarded-For": forwarded} if forwarded is not None else {}
    environ = {"REMOTE_ADDR": "192.0.2.1"}
    with flask.Flask("x").test_request_context("/", headers=headers, environ_base=environ):
        assert rate_limit.address(flask.request, proxies) == expected


# What a client reads


def test_one_request_too_many_is_429_and_says_when_to_come_again(clock):
    client = client_of(RATE=2)
    for _ in range(2):
        assert client.post("/generate?notes=1").status_code == 200
    refused = client.post("/generate?notes=1")
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "30"
    assert refused.mimetype == "application/problem+json"
    assert refused.get_json()["detail"] == (
        "this server takes 2 requests a minute of each address; try again in 30 seconds"
    )
    assert client.post("/notes", data=SEED, headers={"Content-Type": "audio/midi"}).status_code == 429
    for open_path in ("/", "/healthz", "/readyz", "/openapi.json", "/static/app.js"):
        with client.get(open_path) as response:
            assert response.status_code == 200
    other = client.post("/generate?notes=1", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert other.status_code == 200
    clock[0] += 30
    assert client.post("/generate?notes=1").status_code == 200


def test_each_key_has_its_own_and_who_tries_keys_is_counted_by_address(clock):
    client = client_of(RATE=2, API_KEYS=[KEY, OTHER_KEY])

    def status(key: str, address: str = "192.0.2.1") -> int:
        headers = {"X-API-Key": key}
        return client.post("/generate?notes=1", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code

    assert [status(KEY), status(KEY, "192.0.2.2"), status(KEY, "192.0.2.3")] == [200, 200, 429]
    assert [status(OTHER_KEY), status("wrong" * 4), status("wrong" * 5), status("wrong" * 6)] == [200, 401, 401, 429]
    assert status(OTHER_KEY) == 200  # a key counts for itself, whoever else is at that address


def test_two_wrong_keys_at_once_are_two_guesses(clock):
    client = client_of(RATE=4, API_KEYS=[KEY])

    def status(**headers: str) -> int:
        return client.post(
            "/generate?notes=1", headers={name.replace("_", "-"): headers[name] for name in headers}
        ).status_code

    two = {"X_API_Key": "wrong" * 4, "Authorization": "Bearer " + "wrong" * 5}
    assert [status(**two), status(), status(**two), status(X_API_Key="wrong" * 6)] == [401, 401, 429, 429]
    assert [status(**two | {"X_API_Key": KEY}) for _ in range(5)] == [200] * 4 + [429]  # who knows one guesses not


def test_by_default_nobody_counts():
    client = client_of()
    assert {client.post("/generate?notes=1").status_code for _ in range(100)} == {200}


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "0.5"])
def test_a_rate_that_is_none_is_reported(rate, capsys):
    with pytest.raises(SettingError, match="expected at least 1 request a minute"):
        Rate(float(rate))
    with pytest.raises(SystemExit) as exit:
        run(["--server", "127.0.0.1:1", "--model-name", "x", "--rate", rate])
    assert exit.value.code == 2
    assert "rate: expected at least 1 request a minute" in capsys.readouterr().err.splitlines()[-1]


def test_fewer_than_no_proxies_are_reported(capsys):
    with pytest.raises(SystemExit) as exit:
        run(["--proxies", "-1"])
    assert exit.value.code == 2 and "--proxies: expected 0 or more, got -1" in capsys.readouterr().err


# Concurrency limits


def until_free(limit: ConcurrencyLimit, places: int, over: Callable[[], bool] = lambda: False) -> None:
    """Wait until so many places are left, or it is over. Only looks: who takes one to see it may keep another out."""
    until = time.monotonic() + 60
    while limit._places._value > places and not over():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_so_many_have_a_turn_so_many_wait_and_one_more_is_refused():
    limit = ConcurrencyLimit("work", 1, waiting=1, seconds=60)
    with limit.take():
        got = threading.Event()

        def waits() -> None:
            with limit.take():
                got.set()

        other = threading.Thread(target=waits)
        other.start()
        until_free(limit, 0)
        with pytest.raises(Overloaded, match="work: 1 at once and 1 who wait is the most"), limit.take():
            pass
        assert not got.is_set()
    other.join(60)
    assert got.is_set()
    with limit.take():
        pass  # all places are free again


def test_who_waits_too_long_is_refused():
    limit = ConcurrencyLimit("work", 1, seconds=0.05)
    late = pytest.raises(Overloaded, match=r"in 0\.05 seconds there was no turn for work")
    with limit.take(), late, limit.take():
        pass
    with limit.take():
        pass


def test_nobody_waits_for_a_listener_who_has_left(monkeypatch):
    monkeypatch.setattr("serving.middleware.concurrency._LOOK", 0.01)
    limit = ConcurrencyLimit("work", 1, seconds=60)
    gone = request_context.RequestContext("x", client_closed=True)
    token = request_context._current.set(gone)
    try:
        with limit.take(), pytest.raises(request_context.ClientDisconnected), limit.take():
            pass
    finally:
        request_context._current.reset(token)


@pytest.mark.parametrize("path", ["/notes", "/generate?notes=1"])
def test_files_are_read_in_turn_and_too_many_are_429(path):
    client = client_of()
    limit = ConcurrencyLimit("reading MIDI files", 1, waiting=0)
    client.application.extensions["cadenza"].reading = limit
    headers = {"Content-Type": "audio/midi"}
    with limit.take():
        refused = client.post(path, data=SEED, headers=headers)
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "2"
        assert client.post("/generate?notes=1").status_code == 200  # who brings no file waits for nobody
    assert client.post(path, data=SEED, headers=headers).status_code == 200


def test_as_many_as_may_make_a_piece_may_all_come_with_a_seed_in_one_instant():
    app = create_app({}, ScriptedBackend(melody(40, pitch=80)))
    reading, most = app.extensions["cadenza"].reading, DEFAULTS["MAX_GENERATIONS"]

    def ask() -> int:
        return app.test_client().post("/generate?notes=1", data=SEED, content_type="audio/midi").status_code

    with futures.ThreadPoolExecutor(most) as pool:
        with ExitStack() as busy:
            for _ in range(requests.READERS):
                busy.enter_context(reading.take())
            replies = [pool.submit(ask) for _ in range(most)]
            until_free(reading, requests.WAITING - most, lambda: any(one.done() for one in replies))
        assert [one.result(60) for one in replies] == [200] * most


def test_pieces_and_files_leave_threads_for_others():
    threads = runpy.run_path(str(Path(create_app.__code__.co_filename).parent / "server" / "gunicorn.conf.py"))[
        "threads"
    ]
    assert DEFAULTS["MAX_GENERATIONS"] + requests.READERS + requests.WAITING <= threads - 10


def test_pictures_are_drawn_in_turn():
    client = client_of()
    limit = ConcurrencyLimit("pictures", 1, seconds=0.05)
    client.application.extensions["cadenza"].renderers.drawing = limit
    with limit.take():
        assert client.post("/generate?notes=1&format=png").status_code == 429
    assert client.post("/generate?notes=1&format=png").status_code == 200
