"""Checks of what each image must do once it is built. Each check starts a container, and returns what it measured.

The model server is the one of the tests (the shipped model, the official stubs, on loopback), as there is no binary of
TF Serving in the package registries.
"""

import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

from music import midi
from music.examples.nocturne import nocturne
from tests.conftest import waltz
from tests.images.rootfs import Container, Process, Store
from tests.support.fakes import ModelServer
from tests.trainer.test_loop import SMALL

MODEL = Path(__file__).parents[2] / "models" / "performance"
START = 120  # seconds that a front end may take until it answers
NOTES = 40  # new notes of each request
_BOOT = """#!/bin/sh
# Stands in for Beam's boot, which no package registry has; we need only its `--worker_pool`, on a port of our own.
exec python -m apache_beam.runners.worker.worker_pool_main --service_port="$POOL_PORT"
"""


def front_end(
    container: Container, folder: Path, formats: Sequence[str] = ("mid", "json", "ndjson", "wav", "mp3")
) -> str:
    """Check the front end before the tests' model server: health, every format, no TensorFlow, and a clean end."""
    _lacks(container, "tensorflow", "keras", "jax")
    with ModelServer(MODEL) as server:
        flags = ("--server", server.address, "--model-name", server.name)
        result = _answers(container, folder, flags, formats)
        assert {name for name, _ in server.calls} >= {"describe", "prime", "generate"}, (
            f"calls of the model: {server.calls}"
        )
    return result


def full_front_end(container: Container, folder: Path) -> str:
    """Check the same with pictures and scores."""
    return front_end(container, folder, ("mid", "json", "ndjson", "wav", "mp3", "png", "musicxml"))


def embedded(container: Container, folder: Path) -> str:
    """Check the front end with the model inside the image, and without Keras."""
    _lacks(container, "keras", "jax")
    return _answers(container, folder, (), ("mid", "json", "ndjson", "wav", "mp3"))


def trainer(container: Container, folder: Path) -> str:
    """Check a tiny run from TFRecords to a SavedModel, as the image's user; stopped in the middle, it goes on."""
    with _shared(folder) as shared:
        _preprocess(shared, "data")
        for path in [shared, *shared.rglob("*")]:
            shutil.chown(path, int(container.configuration["User"]))
        settings = [*SMALL, "training.steps=150", "training.epochs=1"]
        sets = [part for setting in settings for part in ("--set", setting)]
        folders = ["--data", f"{shared}/data", "--run", f"{shared}/run", "--checkpoint-minutes", "0"]
        train = [*container.entrypoint, "train", "--recipe", "performance", *folders, *sets]
        with container.start(train, log=folder / "train.log", share=shared) as process:
            _until((shared / "run" / "checkpoint.npz").exists, process)
            begun = time.monotonic()
            code = process.stop()
            stopped = time.monotonic() - begun
            assert code == 143, f"expected to end with 143 after SIGTERM, got {code}: {process.log.read_text()[-2000:]}"
        log = _done(container, train, shared)
        assert "going on after epoch 0 and step" in log, log
        _done(
            container,
            [*container.entrypoint, "export", "--run", f"{shared}/run", "--output", f"{shared}/model"],
            shared,
        )
        (saved,) = shared.glob("model/performance/*/saved_model.pb")
        assert json.loads((shared / "run" / "card.json").read_text())["recipe"] == "performance"
        return f"trained, stopped in {stopped:.1f} s, went on, exported a graph of {saved.stat().st_size / 1e3:.0f} kB"


def worker(container: Container, folder: Path) -> str:
    """Check that the image's workers run a pipeline of this machine, with the same bytes as a local run."""
    _lacks(container, "tensorflow", "keras", "jax", "flask")
    port = _free_port()
    with _shared(folder) as shared:
        log = folder / "worker.log"
        with container.start(container.entrypoint, log=log, share=shared, POOL_PORT=str(port)) as pool:
            _until(lambda: _connects(port), pool)
            begun = time.monotonic()
            elsewhere = ("--environment_type", "EXTERNAL", "--environment_config", f"127.0.0.1:{port}")
            _preprocess(shared, "there", "--runner", "PortableRunner", "--job_endpoint", "embed", *elsewhere)
            seconds = time.monotonic() - begun
            assert "Starting worker" in log.read_text(), f"no worker was started: {log.read_text()}"
        _preprocess(shared, "here")
        here, there = (
            {path.name: path.read_bytes() for path in (shared / name).iterdir()} for name in ("here", "there")
        )
        assert len(here) > 5 and here == there, "the workers wrote other bytes than this process"
        return f"a pipeline in {seconds:.0f} s on its workers: {len(here)} files, the same bytes as here"


def make_boot(store: Store, name: str) -> None:
    """Make an image with a script that stands in for Beam's boot."""
    with tempfile.TemporaryDirectory() as folder:
        boot = Path(folder, "opt/apache/beam/boot")
        boot.parent.mkdir(parents=True)
        boot.write_text(_BOOT)
        boot.chmod(0o755)
        store.commit(name, Path(folder))


def _answers(container: Container, folder: Path, flags: tuple[str, ...], formats: Sequence[str]) -> str:
    """Start a front end, request each format, check its health, and stop it."""
    port = _free_port()
    health = container.configuration["Healthcheck"]["Test"][1:]
    assert container.run(health, PORT=str(port)).returncode, "the health check is content before anything runs"
    command = [*container.entrypoint, *flags]
    with container.start(command, log=folder / "front_end.log", PORT=str(port)) as process:
        _until(lambda: _get(port, "/healthz") is not None, process)
        up = time.monotonic() - process.started
        _until(lambda: _get(port, "/readyz") is not None, process)
        ready = time.monotonic() - process.started
        checked = container.run(health, PORT=str(port))
        assert checked.returncode == 0, f"the health check fails: {checked.stderr}"
        for name in formats:
            _good(name, _post(port, f"/generate?notes={NOTES}&random_seed=1&format={name}"))
        usage = process.usage()
        begun = time.monotonic()
        code = process.stop()
        assert code == 0, f"expected to end with 0 after SIGTERM, got {code}: {process.log.read_text()[-2000:]}"
        ended = time.monotonic() - begun
    return (
        f"{', '.join(formats)}; up after {up:.1f} s, ready after {ready:.1f} s, {usage.megabytes:.0f} MB in "
        f"{usage.processes} processes, stopped in {ended:.1f} s"
    )


def _good(name: str, body: bytes) -> None:
    """Check a reply of a format."""
    seed = len(nocturne())
    if name == "mid":
        assert len(midi.read(body)) == seed + NOTES, f"expected {seed} + {NOTES} notes, got {len(midi.read(body))}"
    elif name == "json":
        assert len(json.loads(body)["notes"]) == seed + NOTES
    elif name == "ndjson":
        lines = [json.loads(line) for line in body.splitlines()]
        assert sum("pitch" in line for line in lines) == seed + NOTES and "end" in lines[-1], lines[-1]
    elif name == "wav":
        with wave.open(io.BytesIO(body)) as sound:
            samples = sound.readframes(sound.getnframes())
            assert sound.getnframes() > 20 * sound.getframerate() and max(samples) > 0, "a short or silent WAV"
    elif name == "mp3":
        assert re.match(rb"ID3|\xff[\xe2-\xff]", body) and len(body) > 100_000, body[:16]
    elif name == "png":
        assert body.startswith(b"\x89PNG") and len(body) > 10_000, body[:16]
    else:
        assert b"<score-partwise" in body and body.count(b"<note") > NOTES, body[:200]


def _lacks(container: Container, *packages: str) -> None:
    for package in packages:
        done = container.run(["python", "-c", f"import {package}"])
        assert done.returncode == 1 and f"No module named '{package}'" in done.stderr, (
            f"{package} is there: {done.stderr}"
        )


def _preprocess(shared: Path, name: str, *flags: str) -> None:
    """Preprocess twelve waltzes into a dataset, in this machine's own environment."""
    for seed in range(12):
        (shared / "midi").mkdir(exist_ok=True)
        (shared / "midi" / f"{seed:02d}.mid").write_bytes(midi.write(waltz(seed)))
    command = ["-m", "preprocessing", "--input", str(shared / "midi"), "--output", str(shared / name), "--shards", "2"]
    done = subprocess.run([sys.executable, *command, *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"preprocessing: {done.stderr[-2000:]}"


def _done(container: Container, command: list[str], shared: Path) -> str:
    """Run a command to its end; return what it wrote to standard error."""
    done = container.run(command, share=shared)
    assert done.returncode == 0, f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stderr


@contextlib.contextmanager
def _shared(folder: Path) -> Iterator[Path]:
    """Make an empty folder that a container sees under the same path."""
    with tempfile.TemporaryDirectory(dir=folder) as shared:
        yield Path(shared).resolve()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(condition, process: Process) -> None:
    end = time.monotonic() + START
    while not condition():
        assert process.running(), f"it ended at once: {process.log.read_text()[-2000:]}"
        assert time.monotonic() < end, f"not there after {START} s: {process.log.read_text()[-2000:]}"
        time.sleep(0.05)


def _get(port: int, path: str) -> bytes | None:
    """Return the body; None if there is no answer, or an HTTP error."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
        return reply.read()
    return None


def _post(port: int, path: str) -> bytes:
    body = midi.write(nocturne())
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "audio/midi"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: {error.code} {error.read()[:300]!r}") from error
