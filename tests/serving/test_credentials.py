"""Over TLS, with a token: certificates, a metadata server and proxies made here, over real sockets."""

import datetime
import os
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import requests

from music import midi
from music.errors import MissingDependency, SettingError, Unavailable
from serving import create_app, remote
from serving.__main__ import run
from serving.backends import credentials
from serving.backends.tfserving import TFServing, authorities, host_of
from tests.support import secure
from tests.support.fakes import ModelServer, front_end, melody

BATCH = {"batch": np.zeros(1, "i4")}
SEED = melody(20)
URL = "/generate?random_seed=5&notes=20"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def tls():
    return secure.certificate()


@pytest.fixture
def ca(tls, tmp_path):
    (tmp_path / "ca.pem").write_bytes(tls[1])
    return tmp_path / "ca.pem"


@pytest.fixture
def server(toys, tls):
    with ModelServer(toys, versions=[1], tls=tls) as server:
        yield server


class Tokens:
    """A Token from a list of tokens: the first one until it is refused, then the next one."""

    def __init__(self, *words: str):
        self.words = list(words)

    def bearer(self, refused: str | None = None) -> str:
        if refused == self.words[0] and len(self.words) > 1:
            del self.words[0]
        return self.words[0]


def problem(backend) -> str:
    """Return the error's detail for a client: always 503, in both kinds of reply and by /readyz."""
    client = create_app({}, backend).test_client()
    replies = [client.post("/generate"), client.post("/generate?format=ndjson"), client.get("/readyz")]
    for reply in replies:
        assert (reply.status_code, reply.mimetype) == (503, "application/problem+json"), reply.text
    return replies[0].get_json()["detail"]


# TLS


def test_a_piece_over_tls_is_the_piece_in_plain_text(toys, server, ca):
    with ModelServer(toys, versions=[1]) as plain:
        replies = [
            create_app({}, backend).test_client().post(URL, data=midi.write(SEED), content_type="audio/midi").data
            for backend in (TFServing(plain.address, "toy"), TFServing(server.address, "toy", tls=True, ca=ca))
        ]
    assert replies[0] == replies[1] and len(midi.read(replies[0])) == 40


def test_a_certificate_that_nobody_vouches_for_is_refused(server, tmp_path):
    (tmp_path / "other.pem").write_bytes(secure.certificate()[1])
    for ca in (None, tmp_path / "other.pem"):
        detail = problem(TFServing(server.address, "toy", tls=True, ca=ca))
        assert detail.startswith(f"model 'toy' at {server.address}: its certificate is not vouched for, see --ca: ")
    assert not server.calls


@pytest.mark.parametrize(
    ("options", "hint", "reason"),
    [
        ({"days": -2}, "its certificate is not vouched for, see --ca: ", "certificate has expired"),
        ({"host": "models.example"}, "its certificate is another host's: ", "Hostname Verification Check failed"),
    ],
)
def test_a_certificate_that_is_wrong_is_refused(toys, tmp_path, options, hint, reason):
    tls = secure.certificate(**options)
    (tmp_path / "ca.pem").write_bytes(tls[1])
    with ModelServer(toys, versions=[1], tls=tls) as server:
        detail = problem(TFServing(server.address, "toy", tls=True, ca=tmp_path / "ca.pem", token=Tokens("secret")))
        assert hint in detail and reason in detail and not server.shown  # nor was the token shown to it


def test_plain_text_and_tls_that_meet_say_so(toys, server, ca):
    assert "it went away, or wants TLS, see --tls: " in problem(TFServing(server.address, "toy"))
    with ModelServer(toys, versions=[1]) as plain:
        detail = problem(TFServing(plain.address, "toy", tls=True, ca=ca, token=Tokens("secret")))
    assert "it does not speak TLS, leave out --tls: " in detail and not plain.shown


def test_a_file_of_authorities_is_checked_when_it_is_named(tmp_path, ca):
    assert authorities(ca) == ca.read_bytes()
    for name, data, reason in [
        ("key.pem", secure.certificate()[0], "it holds no certificate"),
        ("empty.pem", b"", "it holds no certificate"),
        ("cut.pem", ca.read_bytes()[:200], "it holds no certificate"),
        ("binary.pem", b"\x30\x82\xff", "it holds no certificate"),
        ("absent.pem", None, "No such file or directory"),
    ]:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingError, match=f"expected a file of PEM certificates, got .*{name}: {reason}"):
            authorities(tmp_path / name)


@pytest.mark.parametrize("address", ["a.example:443", "127.0.0.1:8500", "localhost:1", "[::1]:8500"])
def test_an_address_has_a_host_and_a_port(address):
    assert host_of(address) == address.rpartition(":")[0]


@pytest.mark.parametrize(
    "address",
    ["", "a.example", "https://a.example", "https://a.example:443", "::1:8500", "a:b", "a:0", "a:65536", ":80"],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(SettingError, match="expected HOST:PORT, got"):
        TFServing(address, "toy")


# Tokens


def test_a_token_is_sent_with_every_call(server, ca):
    server.tokens = {"secret"}
    backend = TFServing(server.address, "toy", tls=True, ca=ca, token=Tokens("secret"))
    response = create_app({}, backend).test_client().post("/generate?notes=20")
    assert response.status_code == 200
    assert len(server.shown) > 4 and set(server.shown) == {"Bearer secret"}


def test_a_token_is_never_for_plain_text():
    for options in ({"token": Tokens("secret")}, {"ca": "ca.pem"}):
        with pytest.raises(SettingError, match="expected tls as well"):
            TFServing("127.0.0.1:1", "toy", **options)
    for name in ("IDENTITY_TOKEN", "TOKEN_FILE", "TOKEN_ENV"):
        with pytest.raises(SettingError, match="expected tls as well"):
            create_app({"SERVER": "127.0.0.1:1", "MODEL_NAME": "toy", name: "https://a.example"})


@pytest.mark.parametrize("token", [None, Tokens("old")])
def test_a_missing_or_an_expired_token_is_one_clear_error_that_does_not_tell_it(server, ca, token):
    server.tokens = {"new"}
    detail = problem(TFServing(server.address, "toy", tls=True, ca=ca, token=token))
    assert detail == (
        f"model 'toy' at {server.address}: it wants a token that holds, see --identity-token and --token-file: "
        "the request does not have a valid token (UNAUTHENTICATED)"
    )
    assert not server.calls


def test_a_refused_token_is_replaced_once(server, ca):
    server.tokens = {"new"}
    backend = TFServing(server.address, "toy", tls=True, ca=ca, token=Tokens("old", "new"))
    assert backend.call("describe", BATCH, timeout=20).version == 1
    assert server.shown == ["Bearer old", "Bearer new"]
    server.tokens = {"newer"}
    server.shown.clear()
    with pytest.raises(Unavailable):
        backend.call("describe", BATCH, timeout=20)
    assert server.shown == ["Bearer new"]


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED")])
def test_a_proxy_that_refuses_us_is_one_clear_error(tls, ca, tmp_path, status, code):
    """Cloud Run answers by an HTTP status, not by gRPC's."""
    with secure.refusing_proxy(tmp_path, tls, status) as address:
        detail = problem(TFServing(address, "toy", tls=True, ca=ca, token=Tokens("secret")))
    assert detail.startswith(f"model 'toy' at {address}: ") and detail.endswith(f"{status} ({code})")
    assert ("roles/run.invoker" if status == 403 else "--identity-token") in detail and "secret" not in detail


def test_a_token_file_is_read_anew_for_each_call(server, ca, tmp_path):
    file = tmp_path / "token"
    file.write_text("one\n")
    server.tokens = {"one", "two"}
    backend = TFServing(server.address, "toy", tls=True, ca=ca, token=credentials.from_file(file))
    backend.call("describe", BATCH, timeout=20)
    file.write_text("two")
    backend.call("describe", BATCH, timeout=20)
    assert server.shown == ["Bearer one", "Bearer two"]
    file.unlink()
    assert problem(backend) == f"no token in {file}: No such file or directory"


@pytest.mark.parametrize("text", ["", " \n", "two words", "two\nlines", "naïve"])
def test_what_is_no_token_is_refused_and_not_shown(monkeypatch, tmp_path, text):
    (tmp_path / "token").write_text(text)
    monkeypatch.setenv("TOKEN", text)
    for token, place in (
        (credentials.from_file(tmp_path / "token"), "token"),
        (credentials.from_environ("TOKEN"), r"\$TOKEN"),
    ):
        with pytest.raises(Unavailable, match=rf"{place}: expected one word of printable ASCII$"):
            token.bearer()


# Google's


@pytest.fixture
def google(monkeypatch):
    """Run a metadata server; google-auth reads its address when it is imported, so set it there as well."""
    from google.auth.compute_engine import _metadata

    with secure.metadata_server() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", server.environ["GCE_METADATA_HOST"])
        yield server


def at(monkeypatch, seconds: float) -> None:
    """Move the clocks by which tokens expire."""
    from google.auth import _helpers

    class Later(datetime.datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.datetime.now(zone) + datetime.timedelta(seconds=seconds)

    later = Later.now(datetime.UTC).replace(tzinfo=None)
    monkeypatch.setattr(_helpers, "utcnow", lambda: later)
    monkeypatch.setattr(credentials, "datetime", Later)


def test_an_identity_token_is_kept_until_shortly_before_it_expires(google, monkeypatch):
    token = credentials.GoogleIdentity("https://models.example")
    first = token.bearer()
    assert [token.bearer() for _ in range(3)] == [first] * 3 and google.issued == [first]
    assert google.audiences == ["https://models.example"]
    at(monkeypatch, 3600 - 300)
    assert token.bearer() == first
    at(monkeypatch, 3600 - 200)  # it still holds, but is renewed
    second = token.bearer()
    assert google.issued == [first, second] and second != first


def test_a_stale_token_does_while_google_does_not_answer_and_not_longer(google, monkeypatch):
    token = credentials.GoogleIdentity("https://models.example")
    first = token.bearer()
    google.status = 404
    at(monkeypatch, 3600 - 200)
    assert token.bearer() == first
    at(monkeypatch, 3600 + 1)
    with pytest.raises(Unavailable, match=r"no identity token for https://models.example: .*404"):
        token.bearer()
    google.status = 200
    monkeypatch.setattr(credentials, "PAUSE", 0.0)
    assert token.bearer() == google.issued[-1] != first


def test_who_waits_for_google_holds_up_nobody_that_has_a_token(google, monkeypatch):
    token = credentials.GoogleIdentity("https://models.example")
    first = token.bearer()
    at(monkeypatch, 3600 - 200)
    google.lives = 7200
    entered, go_on, issue = threading.Event(), threading.Event(), google.issue

    def slow(audience):
        entered.set()
        assert go_on.wait(10)
        return issue(audience)

    monkeypatch.setattr(google, "issue", slow)
    with futures.ThreadPoolExecutor(1) as pool:
        second = pool.submit(token.bearer)
        assert entered.wait(10)
        assert [token.bearer() for _ in range(3)] == [first] * 3
        go_on.set()
        assert second.result(10) == google.issued[1] == token.bearer()


def test_threads_without_a_token_fetch_one_for_all(google):
    token = credentials.GoogleIdentity("https://models.example")
    with futures.ThreadPoolExecutor(8) as pool:
        words = list(pool.map(lambda _: token.bearer(), range(8)))
    assert words == google.issued * 8


def test_google_is_not_asked_at_once_again_where_it_refused(google):
    google.status = 404
    token = credentials.GoogleIdentity("https://models.example")
    for _ in range(2):
        with pytest.raises(Unavailable, match="no identity token"):
            token.bearer()
    google.status = 200
    with pytest.raises(Unavailable, match="no identity token"):
        token.bearer()
    assert not google.issued


def test_a_token_that_the_server_refuses_is_fetched_anew(google, server, ca):
    token = credentials.GoogleIdentity("https://models.example")
    server.tokens = {token.bearer() + "other"}
    backend = TFServing(server.address, "toy", tls=True, ca=ca, token=token)
    server.tokens = set()
    issue = google.issue

    def admitted(audience):
        server.tokens.add(issue(audience))
        return google.issued[-1]

    google.issue = admitted
    assert backend.call("describe", BATCH, timeout=20).version == 1
    assert server.shown == [f"Bearer {word}" for word in google.issued] and len(google.issued) == 2


def test_a_key_file_that_is_none_is_one_clear_error(monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{")
    for path, reason in ((tmp_path / "key.json", "not valid"), (tmp_path / "absent.json", "not found")):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        with pytest.raises(Unavailable, match=f"^no identity token for https://models.example: .*{reason}"):
            credentials.GoogleIdentity("https://models.example").bearer()


@pytest.mark.parametrize(("module", "package"), [("google.auth", "google-auth"), ("requests", "requests")])
def test_without_google_auth_the_extra_is_named(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)  # what import takes for "not there"
    with pytest.raises(MissingDependency, match=rf"need {package}: `pip install '\.\[cloud\]'` brings it"):
        remote({**create_config(), "IDENTITY_TOKEN": True})


def create_config() -> dict:
    names = ("LABEL", "XLA", "CA", "TOKEN_FILE", "TOKEN_ENV", "IDENTITY_TOKEN")
    return {"SERVER": "a.example:443", "MODEL_NAME": "toy", "TLS": True} | dict.fromkeys(names)


# The command


def test_the_whole_way_with_labels_tls_and_identity_tokens(toys, tls, ca):
    """A front end of two processes before a server that knows them by Google's tokens, for its own host."""
    from tests.support.fakes import roll

    with secure.metadata_server() as google, ModelServer(toys, versions=[1, 2], tls=tls) as server:
        roll(server, [1, 2], stable=1, canary=2)
        server.tokens, issue = set(), google.issue

        def admitted(audience):
            server.tokens.add(issue(audience))
            return google.issued[-1]

        google.issue = admitted
        flags = ("--server", server.address, "--model-name", "toy", "--label", "stable", "--tls", "--ca", str(ca))
        with front_end(*flags, "--identity-token", WEB_CONCURRENCY="2", **google.environ) as address:
            for _ in range(4):
                response = requests.post(f"{address}{URL}", timeout=60)
                assert response.status_code == 200 and response.headers["X-Model"] == "toy/1"
            ready = requests.get(f"{address}/readyz", timeout=20).json()
        assert ready == {"status": "ready", "model": "toy/1", "label": "stable"}
        assert set(google.audiences) == {"https://127.0.0.1"} and None not in server.shown
        assert 2 <= len(google.issued) <= 3  # one at the start, and one in each process that was asked


SERVER = ("--server", "127.0.0.1:1", "--model-name", "toy")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--server", "https://a.example", "--model-name", "toy"), "server: expected HOST:PORT, got 'https://a.example'"),
        ((*SERVER, "--ca", "ca.pem"), "--ca needs --tls"),
        ((*SERVER, "--identity-token"), "--identity-token needs --tls"),
        ((*SERVER, "--token-file", "token"), "--token-file needs --tls"),
        ((*SERVER, "--token-env", "TOKEN"), "--token-env needs --tls"),
        ((*SERVER, "--tls", "--identity-token", ""), "--identity-token: expected a value, got an empty one"),
        ((*SERVER, "--label", ""), "--label: expected a value, got an empty one"),
        ((*SERVER, "--tls", "--token-env", "A", "--token-file", "b"), "not allowed with argument"),
        ((*SERVER, "--tls", "--ca", "absent.pem"), "absent.pem: No such file or directory"),
        ((*SERVER, "--tls", "--token-file", "absent"), "no token in absent: No such file or directory"),
        ((*SERVER, "--tls", "--token-env", "ABSENT"), "no token in $ABSENT: expected one word"),
        (("--label", "stable"), "--label is about a --server"),
        (("--model", "models", "--tls"), "--tls is about a --server"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_exits_with_2_and_one_line(capsys, tmp_path, monkeypatch, flags, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        run(flags)
    assert exit.value.code == 2
    *usage, line = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m serving: ") and expected in line
    assert not usage or usage[0].startswith("usage: ")


def test_the_command_where_nobody_is_an_account_says_what_to_do():
    nowhere = {"GCE_METADATA_HOST": "127.0.0.1:1", "GCE_METADATA_IP": "127.0.0.1:1", "GCE_METADATA_DETECT_RETRIES": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "serving", *SERVER, "--tls", "--identity-token"], capture_output=True, text=True,
        timeout=60, env={**os.environ, **nowhere, "GOOGLE_APPLICATION_CREDENTIALS": ""},
    )  # fmt: skip
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("python -m serving: no identity token for https://127.0.0.1: Neither metadata server")
    assert line.endswith("As yourself: TOKEN=$(gcloud auth print-identity-token) and --token-env TOKEN")


def test_the_command_without_a_token_of_googles_says_so_in_one_line():
    with secure.metadata_server() as google:
        google.status = 404
        process = subprocess.run(
            [sys.executable, "-m", "serving", *SERVER, "--tls", "--identity-token", "https://models.example"],
            capture_output=True, text=True, timeout=60, env={**os.environ, **google.environ},
        )  # fmt: skip
    assert process.returncode == 2 and process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("python -m serving: no identity token for https://models.example: ") and "404" in line
