"""A double of Google's services that a Dataflow launch calls: metadata, jobs, and the jobs' messages.

It also runs the jobs: the pipeline that was staged in the (emulated) bucket, on Beam's portable runner, with nothing
else of the launcher's. Machines, images and networks are not emulated.
"""

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from music import storage

_WHO = {"email": "pianist@example.com", "scopes": ["cloud-platform"], "aliases": ["default"]}
_TOKEN = {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"}
_JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/?]+))?(/messages)?")


class Dataflow:
    """Accepts jobs and runs them; keeps the jobs that it received.

    Args:
        refusal: an HTTP status and its message, with which it refuses every job.
        error: a worker's error message, with which every job fails.
    """

    def __init__(self, refusal: tuple[int, str] | None = None, error: str = ""):
        self.refusal = refusal
        self.error = error
        self.jobs: dict[str, dict] = {}
        self.address = ""
        self.read = threading.Event()  # a client has read the workers' messages

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        project, region, job, messages = _JOBS.fullmatch(path.partition("?")[0]).groups()
        if method == "POST":
            if self.refusal:
                status, message = self.refusal
                return status, {"error": {"code": status, "message": message, "status": "PERMISSION_DENIED"}}
            sent = json.loads(body)
            id = f"2026-11-21_00_00_00-{len(self.jobs) + 1}"
            self.jobs[id] = {**sent, "id": id, "projectId": project, "location": region}
            self._state(id, "JOB_STATE_PENDING")
            threading.Thread(target=self._work, args=[id], daemon=True).start()
            return 200, self.jobs[id]
        if messages:
            self.read.set()
            entry = {"id": "1", "time": "2026-11-21T00:00:00Z", "messageText": self.error}
            return 200, {"jobMessages": [entry | {"messageImportance": "JOB_MESSAGE_ERROR"}] if self.error else []}
        return 200, self.jobs[job]

    def _state(self, id: str, state: str) -> None:
        self.jobs[id] = {**self.jobs[id], "currentState": state}

    def _work(self, id: str) -> None:
        self._state(id, "JOB_STATE_RUNNING")
        try:
            if self.error:
                self.read.wait(60)
                raise RuntimeError(self.error)
            run_staged(self.jobs[id]["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"])
            self._state(id, "JOB_STATE_DONE")
        except Exception:
            logging.getLogger(__name__).info("job %s", id, exc_info=True)
            self._state(id, "JOB_STATE_FAILED")


def run_staged(url: str) -> None:
    """Run the pipeline whose proto was staged at a URL."""
    staged = beam_runner_api_pb2.Pipeline.FromString(storage.read(url))
    for environment in staged.components.environments.values():
        environment.CopyFrom(EmbeddedPythonEnvironment.default().to_runner_api(None))
    fn_runner.FnApiRunner().run_via_runner_api(staged, PipelineOptions([])).wait_until_finish()


def _metadata(path: str) -> object:
    if "token" in path:
        return _TOKEN
    return _WHO if "service-accounts" in path else "googleapis.com" if "universe" in path else "our-project"


@contextmanager
def serving(dataflow: Dataflow) -> Iterator[str]:
    """Serve both services on one port of this machine; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.startswith("/v1b3/"):
                status, reply = dataflow.answer(self.command, self.path, body)
            else:
                status, reply = 200, _metadata(self.path)
            content = json.dumps(reply).encode() if not isinstance(reply, str) else reply.encode()
            self.send_response(status)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", "application/text" if isinstance(reply, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _handle

        def log_message(self, *_) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        dataflow.address = f"http://localhost:{server.server_address[1]}"  # Beam asks a host of another name by gRPC
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
