"""Who is not trusted, and gets nowhere: what visitors send, what archives and cards say; and what our code must not do.

Each row of SECURITY.md names one of these tests, or one of test_api, test_rate_limit and test_worker.
"""

import ast
import hmac
import io
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from music import midi, pieces
from music.errors import MusicError, Unavailable
from preprocessing import sources
from preprocessing.__main__ import run as preprocess
from serving import create_app
from serving.backends.embedded import find_model
from serving.middleware import api_keys
from serving.middleware.security_headers import HEADERS
from tests.support.fakes import CARD, ScriptedBackend, melody, scripted

ROOT = Path(__file__).parents[2]
OURS = ["music", "preprocessing", "trainer", "serving", "infra", "benchmarks"]
SEED = midi.write(melody(8))
KEY, TOKEN = "the-key-of-a-listener", "the-token-of-a-machine"


@pytest.fixture
def backend():
    return ScriptedBackend(melody(40, pitch=80))


@pytest.fixture
def client(backend):
    return create_app({}, backend).test_client()


# Archives


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as created, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members.items():
            created.writestr(name, data)
    return path


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_an_archive_calls_its_members_leads_nowhere(tmp_path):
    """Zip slip: ids are words in records, never paths."""
    evil = ["../../slipped.mid", "/slipped.mid", "..\\..\\slipped.mid", "C:\\slipped.mid", "a/../../../slipped.mid"]
    members = {name: midi.write(melody(20 + n)) for n, name in enumerate(evil)}
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    source = archive(inside / "evil.zip", members)
    before = written(tmp_path)
    preprocess(["--input", str(source), "--output", str(inside / "out"), "--shards", "1"])
    new = written(tmp_path) - before
    assert new and all(name.startswith("a/b/c/out/") for name in new), new
    assert not Path("/slipped.mid").exists()
    dataset = pieces.Dataset.open(str(inside / "out"))
    results = {piece.id for shard in dataset.facts["shards"] for piece in dataset.read_shard(shard)}
    assert results == {"/slipped.mid", "C:/slipped.mid"}  # with a part that begins with a dot they count as hidden


def unpacked(source: sources.Source) -> dict[str, bytes | str]:
    """What is read of each file, or why not."""
    with source.reading() as read:
        results = [each for group in source.groups() for each in read(group)]
    return dict(each.value if hasattr(each, "tag") else each for each in results)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    bomb = archive(tmp_path / "bomb.zip", {"bomb.mid": bytes(200_000_000), "good.mid": SEED})
    assert bomb.stat().st_size < 300_000
    opened = []
    real = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, info: opened.append(info.filename) or real(self, info))
    results = unpacked(sources.find(str(bomb)))
    assert results["good.mid"] == SEED and opened == ["good.mid"]
    assert results["bomb.mid"] == "bomb.mid: expected at most 20,000,000 bytes, unpacked, got 200,000,000"


def test_a_table_that_is_a_bomb_stops_the_command(tmp_path):
    bomb = archive(tmp_path / "bomb.zip", {"maestro-v3.csv": bytes(100_000_000), "good.mid": SEED})
    with pytest.raises(MusicError, match=r"maestro-v3\.csv: expected at most 67,108,864 bytes, unpacked"):
        sources.read_tables(sources.find(str(bomb)).listing().tables)


def test_a_bomb_in_an_archives_archive_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MOST_ARCHIVE", 2**20)
    inner = archive(tmp_path / "inner.zip", {"bomb.mid": bytes(100_000_000), "good.mid": SEED})
    source = archive(tmp_path / "outer.zip", {"inner.zip": inner.read_bytes(), "big.zip": bytes(2**20 + 1)})
    results = unpacked(sources.find(str(source)))
    assert results.pop("inner.zip/good.mid") == SEED
    assert results == {
        "inner.zip/bomb.mid": "bomb.mid: expected at most 20,000,000 bytes, unpacked, got 100,000,000",
        "big.zip": "big.zip: expected at most 1,048,576 bytes, unpacked, got 1,048,577",
    }


def test_an_archive_that_lies_about_a_size_is_found_out(tmp_path):
    path = archive(tmp_path / "liar.zip", {"liar.mid": bytes(50_000_000)})
    forged = path.read_bytes().replace((50_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert forged != path.read_bytes()
    path.write_bytes(forged)
    results = unpacked(sources.find(str(path)))
    assert isinstance(results["liar.mid"], str) and "CRC" in results["liar.mid"]


def test_a_link_in_an_archive_is_a_file_that_says_where_it_would_lead(tmp_path):
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as created:
        link = zipfile.ZipInfo("link.mid")
        link.external_attr = 0o120777 << 16
        created.writestr(link, "/etc/passwd")
        created.writestr("good.mid", SEED)
    results = unpacked(sources.find(str(tmp_path / "links.zip")))
    assert results == {"link.mid": b"/etc/passwd", "good.mid": SEED}  # no MIDI, which is told when it is parsed


def test_what_has_no_end_is_not_read(tmp_path):
    for name in ("pipe.mid", "pipe.zip"):
        os.mkfifo(tmp_path / name)
    for name in ("zeros.mid", "zeros.tar.gz"):
        (tmp_path / name).symlink_to("/dev/zero")
    (tmp_path / "good.mid").write_bytes(SEED)
    with open(tmp_path / "huge.mid", "wb") as huge:
        huge.truncate(10**12)  # no room is taken
    results = unpacked(sources.find(str(tmp_path)))
    assert results.pop("good.mid") == SEED
    assert "expected at most 20,000,000 bytes" in results.pop("huge.mid")
    assert set(results) == {"pipe.mid", "pipe.zip", "zeros.mid", "zeros.tar.gz"}
    assert all(isinstance(reason, str) and "expected a file" in reason for reason in results.values()), results


# Paths and names


@pytest.mark.parametrize(
    "path",
    ["/static/../page.py", "/static/%2e%2e/page.py", "/static/..%2fpage.py", "/static/....//page.py",
     "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/..%5cpage.py", "/static/a%00.js",
     "/examples/../../page.py", "/examples/..%2f..%2fkeys.mid", "/../../../../etc/passwd", "/static/"],
)  # fmt: skip
def test_no_path_leads_out_of_what_is_served(client, path):
    with client.get(path) as response:
        assert response.status_code in (404, 405, 308), path
        assert b"hmac" not in response.data and b"root:" not in response.data


@pytest.mark.parametrize("name", ["..", "../models", "models/../..", "\x00", "a\nb"])
def test_a_model_is_a_folder_with_a_version_and_nothing_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Unavailable, ValueError)):
        find_model(name)


@pytest.mark.parametrize(
    "name",
    ["../../../../etc/passwd", "/etc/passwd", 'a"; filename="b', "a%0d%0aX-Evil: 1", "x" * 50_000, "\x00", "🎹"],
)
def test_what_an_upload_is_called_says_nothing(client, caplog, name):
    plain = client.post("/generate?random_seed=7&notes=4", data={"seed": (io.BytesIO(SEED), "a.mid")})
    caplog.set_level(0)
    response = client.post("/generate?random_seed=7&notes=4", data={"seed": (io.BytesIO(SEED), name)})
    assert response.data == plain.data
    assert response.headers["Content-Disposition"] == "attachment; filename=toy-1-7.mid"
    assert "passwd" not in caplog.text and "Evil" not in str(response.headers)


@pytest.mark.parametrize("recipe", ["a\r\nX-Evil: 1", "../../a", 'a"; filename="evil.sh', "é\u2028"])
def test_what_a_card_calls_its_model_makes_no_header_of_its_own(backend, client, recipe):
    backend.card = {**CARD, "recipe": recipe}
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    for format in ("mid", "json", "ndjson"):
        response = client.post(f"/generate?notes=2&format={format}")
        assert "X-Evil" not in response.headers and "/" not in response.headers.get("Content-Disposition", "")
        assert "evil.sh" not in re.sub(r'\\"', "", response.headers.get("Content-Disposition", "")).split('"')[-1]


# Headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("GET", "/static/app.js", 200), ("GET", "/healthz", 200), ("POST", "/generate?notes=1", 200),
     ("POST", "/generate?notes=1&format=ndjson", 200), ("POST", "/generate?notes=x", 422), ("GET", "/nowhere", 404),
     ("GET", "/generate", 405), ("POST", "/generate?format=x", 406), ("OPTIONS", "/generate", 200)],
)  # fmt: skip
def test_every_reply_says_what_a_browser_may_do_with_it(client, method, path, status):
    with client.open(path, method=method) as response:
        assert response.status_code == status
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert "Set-Cookie" not in response.headers


def test_what_a_visitor_says_comes_back_as_no_page(client):
    script = "<script>alert(1)</script>"
    for path in (f"/{script}", f"/generate?notes={script}", f"/generate?{script}=1", f"/generate?format={script}"):
        response = client.post(path, headers={"Accept": f"text/html, {script}"})
        assert response.status_code >= 400 and response.mimetype == "application/problem+json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


# Keys


def test_keys_are_compared_in_constant_time_with_every_one_that_is_known(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a)) or real(a, b))
    known = api_keys.Keys(["a" * 16, "b" * 16, "c" * 16])
    for given in ("a" * 16, "c" * 16, "x", "", "a" * 15 + "b"):
        compared.clear()
        assert (given in known) == (given in {"a" * 16, "c" * 16})
        assert compared == [32] * 3


# Before a real gunicorn: what goes over the wire, and what stands in its logs


@contextmanager
def logged(*flags: str, **environ: str) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """A front end's address; and all that it has written, which is there when it has ended."""
    log: list[str] = []
    flag, program = scripted(40)
    with subprocess.Popen(
        [sys.executable, flag, program, "--port", "0", *flags], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "WEB_CONCURRENCY": "1", **environ}, errors="surrogateescape",
    ) as process:  # fmt: skip
        at = None
        try:
            while not at:
                line = process.stdout.readline()
                assert line, "".join(log)
                log.append(line)
                at = re.search(r"Listening at: http://([^:]+):(\d+)", line)
            rest = threading.Thread(target=lambda: log.extend(process.stdout))
            rest.start()
            yield (at[1], int(at[2])), log
        finally:
            process.terminate()
            process.wait(60)
        rest.join(60)


def answered(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while new := connection.recv(65536):
            got += new
    return got


HOST = b"Host: here\r\n"
SMUGGLED = {
    "two lengths": b"POST /notes HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length and chunks": b"POST /notes HTTP/1.1\r\n" + HOST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "chunks in disguise": b"POST /notes HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A : b\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n\r\n",
    "a NUL": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\x00c\r\n\r\n",
    "a bare line feed": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: b\nX-B: c\r\n\r\n",
    "a negative length": b"POST /notes HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "a chunk of minus one": b"POST /notes HTTP/1.1\r\n" + HOST
    + b"Content-Type: audio/midi\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a line of escapes": b"GET /\x1b[2J\x1b]0;evil\x07 HTTP/1.1\r\n\x1b[2J: x\r\n\r\n",
    "no words": b"\x1b]0;evil\x07\r\n\r\n",
    "200 headers": b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
    "a line of 10 kB": b"GET /healthz?" + b"a" * 10_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a header of 70 kB": b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
}  # fmt: skip


def test_what_two_servers_might_read_differently_is_refused_and_no_log_line_is_broken():
    with logged() as (address, log):
        for what, data in SMUGGLED.items():
            got = answered(address, data)
            assert re.match(rb"HTTP/1\.[01] [45]\d\d ", got), (what, got[:200])
            assert got.count(b"HTTP/1.1 ") == 1, what  # nothing behind it was taken for another request
            assert b" 500 " not in got, what
        assert b"200 OK" in answered(address, b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    text = "".join(log)
    assert "\x1b" not in text and "\x07" not in text and "\x00" not in text and "Traceback" not in text, text[-3000:]


def test_no_key_and_no_token_stands_in_a_log():
    with logged("--api-keys-env", "KEYS", KEYS=f"{KEY} {TOKEN}") as (address, log):
        url = f"http://{address[0]}:{address[1]}"
        guessed = "a-guess-of-a-key-that-is-wrong"
        for path in ("/generate?notes=1", "/nowhere", f"/generate?key={KEY}", "/generate?notes=no"):
            for shown in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {TOKEN}"}, {"X-API-Key": guessed}):
                requests.post(url + path, headers=shown, timeout=60)
        answered(address, b"POST /generate HTTP/1.1\r\nX-API-Key: " + KEY.encode() + b"\x00\r\n\r\n")
        answered(address, b"POST /generate HTTP/1.1\r\nAuthorization : Bearer " + TOKEN.encode() + b"\r\n\r\n")
        metrics = requests.get(f"{url}/metrics", headers={"X-API-Key": KEY}, timeout=60).text
        assert KEY not in metrics and guessed not in metrics
    text = "".join(log)
    assert len([line for line in log if line.startswith("{")]) >= 13
    for secret in (KEY, TOKEN, guessed):
        assert secret not in text


# Our own code


FORBIDDEN = {  # what lets data be code, or a name be a path; SECURITY.md and decision 006 say what is used instead
    "import": {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "telnetlib"},
    "call": {
        "eval", "exec", "compile", "os.system", "os.popen", "tempfile.mktemp", "yaml.load", "yaml.unsafe_load",
        "torch.load", "joblib.load", "keras.models.load_model", "keras.saving.load_model", "models.load_model",
        "keras.config.enable_unsafe_deserialization", "config.enable_unsafe_deserialization", "pd.read_pickle",
    },
    "method": {"extractall", "extract", "unpack_archive"},
    "word": {"shell": True, "allow_pickle": True, "safe_mode": False, "verify": False, "check_hostname": False},
}  # fmt: skip


def forbidden(source: str) -> list[str]:
    """What a module does that none of ours may."""
    results = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            results += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN["import"]]
        elif isinstance(node, ast.ImportFrom) and node.module:
            results += [node.module] if node.module.split(".")[0] in FORBIDDEN["import"] else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            if name in FORBIDDEN["call"] or (name.split(".")[-1] in FORBIDDEN["method"] and "." in name):
                results.append(f"{name}(…)")
            if name in ("np.load", "numpy.load") and words.get("allow_pickle", True):
                results.append(f"{name} without allow_pickle=False")
            results += [f"{word}={value}" for word, value in words.items() if FORBIDDEN["word"].get(word, ...) is value]
    return results


@pytest.mark.parametrize("folder", OURS)
def test_no_data_of_ours_is_code(folder):
    modules = sorted((ROOT / folder).rglob("*.py"))
    assert modules
    assert {str(path): results for path in modules if (results := forbidden(path.read_text()))} == {}


@pytest.mark.parametrize(
    "planted",
    ["import pickle", "from pickle import loads", "import dill as d", "def f():\n    import marshal", "eval('1')",
     "np.load(f)", "np.load(f, allow_pickle=True)", "keras.models.load_model(p)", "archive.extractall(p)",
     "subprocess.run(c, shell=True)", "requests.get(u, verify=False)", "yaml.load(t)", "f(safe_mode=False)"],
)  # fmt: skip
def test_a_planted_one_is_found(planted):
    assert forbidden(planted)


def test_what_is_allowed_is_not_found():
    fine = (
        "import ast\nast.literal_eval(t)\nnp.load(f, allow_pickle=False)\nyaml.safe_load(t)\nre.compile('a')\nx.eval()"
    )
    assert forbidden(fine) == []


SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|gh[pousr]_[0-9A-Za-z]{36}"
    r"|xox[abprs]-[0-9A-Za-z-]{10}|\"private_key\"\s*:|ya29\.[0-9A-Za-z_-]{20}|sk-[0-9A-Za-z]{40}"
)


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone of the repository")
def test_no_secret_is_committed():
    texts = [path for path in tracked() if path.is_file() and path.suffix not in (".mp3", ".png", ".index")]
    assert len(texts) > 200
    results = [str(path) for path in texts if SECRETS.search(path.read_bytes().decode("utf-8", "replace"))]
    assert [path for path in results if not path.endswith("test_nobody_gets_in.py")] == []


def test_a_planted_secret_is_found():
    assert SECRETS.search("key = 'AKIA" + "A" * 16 + "'") and SECRETS.search("-----BEGIN RSA " + "PRIVATE KEY-----")


@pytest.mark.parametrize("name", ["Dockerfile.serve", "Dockerfile.train", "infra/images/Dockerfile.worker"])
def test_no_layer_of_an_image_holds_a_secret(name):
    """What ARG, ENV and COPY bring stays in the layers; each COPY from here names what it takes."""
    lines = re.sub(r"\\\n", " ", (ROOT / name).read_text()).splitlines()
    for line in lines:
        word, _, rest = line.partition(" ")
        if word in ("ARG", "ENV"):
            assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", rest, re.IGNORECASE), line
        if word in ("COPY", "ADD"):
            assert word == "COPY" and not re.search(r"(^|\s)\.(\s|$)", rest.rpartition(" ")[0]), line
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"  # nothing that is not named goes to the builder
