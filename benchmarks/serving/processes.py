"""The servers that are measured, as processes of their own on loopback, which end with us."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PATIENCE = 300  # seconds in which a server must have started


class ModelProcess:
    """The model server of tests/support/fakes.py; `lists` and `content` are its addresses, one a way to write them."""

    def __init__(self, process: subprocess.Popen):
        self._process = process
        addresses = self._said()
        self.lists, self.content = addresses["lists"], addresses["content"]

    def times(self) -> dict:
        """Medians in ms since it was last asked, {"handled": {signature: …}, "graph": …}; and "merged", calls a run."""
        self._process.stdin.write("times\n")
        self._process.stdin.flush()
        return self._said()

    def _said(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the model server did not start")
        return json.loads(line)


@contextmanager
def model_server(base: str, batching: bool = False) -> Iterator[ModelProcess]:
    """A model server of the versions in <base>/performance."""
    command = [sys.executable, "-m", "benchmarks.serving.model_server", str(Path(base, "performance"))]
    with subprocess.Popen(
        command + ["--batching"] * batching,
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process, _ending(process):  # fmt: skip
        yield ModelProcess(process)


@contextmanager
def front_end(*flags: str, program: tuple[str, ...] = ("-m", "serving"), **environ: str) -> Iterator["FrontEnd"]:
    """`python -m serving`, or a program that takes its flags, ready to answer."""
    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *program, "--port", "0", *flags],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env={**os.environ, **environ},
        ) as process, _ending(process):  # fmt: skip
            address = _address(process, log, began + _PATIENCE)
            while not _answers(f"{address}/healthz"):
                if time.perf_counter() > began + _PATIENCE:
                    raise SystemExit(f"the front end at {address} did not answer")
                time.sleep(0.005)
            yield FrontEnd(address, process.pid, time.perf_counter() - began)


class FrontEnd:
    """One that answers."""

    def __init__(self, address: str, pid: int, seconds: float):
        self.address, self.pid = address, pid
        self.seconds = seconds  # that it took to start
        self.port = int(address.rpartition(":")[2])

    def workers(self) -> list[str]:
        """The numbers of its worker processes."""
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def worker_megabytes(self) -> list[float]:
        """The resident memory of each worker."""
        pages = [int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in self.workers()]
        return [count * os.sysconf("SC_PAGE_SIZE") / 1e6 for count in pages]


def _address(process: subprocess.Popen, log, deadline: float) -> str:
    while time.perf_counter() < deadline and process.poll() is None:
        log.seek(0)
        if found := re.search(r"Listening at: (http://\S+)", log.read()):
            return found[1]
        time.sleep(0.005)
    log.seek(0)
    raise SystemExit(f"the front end did not start:\n{log.read()}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def _ending(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
