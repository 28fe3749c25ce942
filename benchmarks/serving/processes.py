"""Start the servers that are measured, as processes of their own on loopback, which end with this one."""

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
_PATIENCE = 300  # seconds that a server may take to start


class ModelProcess:
    """The model server of tests/support/fakes.py; `lists`, `content`: its addresses, one for each form of tensors."""

    def __init__(self, process: subprocess.Popen):
        self._process = process
        addresses = self._read()
        self.lists, self.content = addresses["lists"], addresses["content"]

    def times(self) -> dict:
        """Read medians since the last call in ms, {"handled": {signature: …}, "graph": …}; "merged": calls a run."""
        self._process.stdin.write("times\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the model server did not start")
        return json.loads(line)


@contextmanager
def model_server(base: str, batching: bool = False) -> Iterator[ModelProcess]:
    """Start a model server of the versions in <base>/performance."""
    command = [sys.executable, "-m", "benchmarks.serving.model_server", str(Path(base, "performance"))]
    with subprocess.Popen(
        command + ["--batching"] * batching,
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process, _ending(process):  # fmt: skip
        yield ModelProcess(process)


@contextmanager
def front_end(*flags: str, program: tuple[str, ...] = ("-m", "serving"), **environ: str) -> Iterator["FrontEnd"]:
    """Start `python -m serving`, or a program with the same flags, and wait until it answers."""
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
    """A front end that answers."""

    def __init__(self, address: str, pid: int, seconds: float):
        self.address, self.pid = address, pid
        self.seconds = seconds  # that it took to start
        self.port = int(address.rpartition(":")[2])

    def workers(self) -> list[str]:
        """Read the process ids of its workers."""
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def worker_megabytes(self) -> list[float]:
        """Read the resident memory of each worker, in MB."""
        pages = [int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in self.workers()]
        return [count * os.sysconf("SC_PAGE_SIZE") / 1e6 for count in pages]


def _address(process: subprocess.Popen, log, deadline: float) -> str:
    while time.perf_counter() < deadline and process.poll() is None:
        log.seek(0)
        if match := re.search(r"Listening at: (http://\S+)", log.read()):
            return match[1]
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
