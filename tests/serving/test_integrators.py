"""docs/integrators.md, snippet by snippet, as its readers would run them."""

import json
import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests

from music import midi
from music import notes as nt
from music.generation import Generator, Settings
from serving import create_app
from serving.backends.tfserving import TFServing
from tests.serving.test_page import chromium  # noqa: F401 - a fixture
from tests.support.fakes import ModelServer, ScriptedBackend, front_end, melody, scripted

PAGE = (Path(__file__).parents[2] / "docs" / "integrators.md").read_text()
KEY = "a-key-of-the-tests"
SEED = midi.write(melody(5, pitch=70))
MIDI = {"Content-Type": "audio/midi", "X-API-Key": KEY}


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@contextmanager
def server(*flags: str):
    program = scripted(100)
    with front_end(*flags, "--api-keys-env", "KEYS", program=program, stdout=subprocess.DEVNULL, KEYS=KEY) as url:
        yield url


def expected(url: str) -> list[dict]:
    query = {"format": "json", "include_seed": "false", "notes": 40}
    return requests.post(f"{url}/generate", SEED, params=query, headers=MIDI, timeout=20).json()["notes"]


def test_the_page_has_no_snippet_that_is_not_run():
    assert re.findall(r"^```(\w*)$", PAGE, re.M) == ["sh", "", "python", "", "js", "", "python", "", "json", ""]


def test_the_metrics_and_the_log_are_as_the_page_says(caplog):
    caplog.set_level("INFO", "serving.access")
    client = create_app(backend=ScriptedBackend(melody(70))).test_client()
    with client.post("/generate?notes=64&format=ndjson", headers={"X-Request-Id": "my-42"}) as response:
        assert response.data
    (line,) = (json.loads(record.message) for record in caplog.records if record.name == "serving.access")
    reply = json.loads(snippets("json")[0])
    unlike = {"time", "seconds", "model"}
    assert list(line) == list(reply) and all(line[name] == reply[name] for name in reply if name not in unlike)
    families = re.findall(r"^# TYPE (\w+) (?!gauge$)\w+$|^# TYPE (\w+) gauge$", client.get("/metrics").text, re.M)
    real = {name for names in families for name in names if name and not name.endswith("_created")}
    assert set(re.findall(r"`(cadenza_\w+)", PAGE)) == real


def test_curl(tmp_path):
    (tmp_path / "seed.mid").write_bytes(SEED)
    with front_end(program=scripted(100), stdout=subprocess.DEVNULL) as url:
        (script,) = snippets("sh")
        environ = {**os.environ, "CADENZA": url, "KEY": KEY}
        done = subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, env=environ, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    continued = midi.read((tmp_path / "continued.mid").read_bytes())
    piece = json.loads((tmp_path / "notes.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "notes.ndjson").read_text().splitlines()]
    assert len(continued) == len(piece["notes"]) == 5 + 64
    assert len([line for line in lines if "pitch" in line]) == 64 and lines[-1] == {"end": "length"}
    assert "X-Random-Seed: 7" in (tmp_path / "headers.txt").read_text()
    assert len(midi.read((tmp_path / "keyed.mid").read_bytes())) == 8


def test_python():
    namespace: dict = {}
    exec(snippets("python")[0], namespace)
    continued = namespace["continued"]
    with server() as url:
        assert continued(url, SEED, KEY, notes=40) == expected(url)
        with pytest.raises(RuntimeError, match=r"notes: expected .* \(request [0-9a-f]{32}\)"):
            continued(url, SEED, KEY, notes=0)
        with pytest.raises(RuntimeError, match="this server wants a key"):
            continued(url, SEED)


RUN = """
  const notes = [];
  for await (const note of continued(url, seed, { notes: 40 }, key)) notes.push(note);
  let refused = "";
  try { for await (const note of continued(url, seed, { notes: 0 }, key)); } catch (error) { refused = error.message; }
"""


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node; the snippet runs in Chromium in any case")
def test_javascript_in_node(tmp_path):
    (module,) = snippets("js")
    (tmp_path / "continued.mjs").write_text(module)
    main = f"""
  import {{ continued }} from "./continued.mjs";
  const [url, seed, key] = [process.argv[2], Buffer.from(process.argv[3], "hex"), process.argv[4]];
{RUN}
  console.log(JSON.stringify({{ notes, refused }}));
"""
    (tmp_path / "main.mjs").write_text(main)
    with server() as url:
        command = ["node", "main.mjs", url, SEED.hex(), KEY]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        reply = json.loads(done.stdout)
        assert reply["notes"] == expected(url) and reply["refused"].startswith("notes: expected a whole number")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@contextmanager
def site(folder: Path):
    """Serve another site, of static files; yield its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join(5)


@pytest.mark.slow
def test_javascript_in_a_browser_on_a_site_that_may_and_on_one_that_may_not(tmp_path, chromium):  # noqa: F811
    (module,) = snippets("js")
    (tmp_path / "continued.mjs").write_text(module)
    (tmp_path / "index.html").write_text("<!doctype html><title>another site</title>")
    run = f"""async ([url, bytes, key]) => {{
  const {{ continued }} = await import("/continued.mjs");
  const seed = new Uint8Array(bytes);
{RUN}
  return {{ notes, refused }};
}}"""
    with site(tmp_path) as may, site(tmp_path) as may_not, server("--cors-origin", may) as url:
        page = chromium.new_page()
        page.goto(may)
        reply = page.evaluate(run, [url, list(SEED), KEY])
        assert reply["notes"] == expected(url) and reply["refused"].startswith("notes: expected a whole number")
        page.goto(may_not)
        refused = "async ([url]) => (await fetch(url + '/healthz')).status"
        with pytest.raises(Exception, match="Failed to fetch"):
            page.evaluate(refused, [url])
        page.close()


def test_tf_serving_alone(toys):
    namespace: dict = {}
    exec(snippets("python")[1], namespace)
    with ModelServer(toys, versions=[1]) as model:
        notes = namespace["play"](model.address, "toy", 20, random_seed=7)
        chunks = Generator(TFServing(model.address, "toy")).stream(nt.empty(), Settings(notes=20, random_seed=7))
        direct = np.concatenate([chunk.notes for chunk in chunks])
    assert len(notes) and notes.tolist() == direct.tolist()
