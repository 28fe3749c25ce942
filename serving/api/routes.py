"""The paths of the API; `page` has those for people. Knows who does what, and how many may generate at once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import flask
from werkzeug.exceptions import UnprocessableEntity

from music.analysis.memorization import Index
from music.generation import Chunk, Generator, compared
from serving.api import openapi, requests, responses
from serving.middleware import request_context
from serving.middleware.concurrency import Turns
from serving.middleware.metrics import Metrics


def blueprint(
    generator: Generator,
    pieces: Turns,
    metrics: Metrics,
    label: str | None = None,
    index: Index | None = None,
    *,
    closed: bool = False,
) -> flask.Blueprint:
    """The routes, playing `generator`, which follows the version that has this label.

    Args:
        pieces: turns at making one.
        index: what replies are compared with, where that is asked for.
        closed: keys are wanted.
    """
    labelled = {"label": label} if label else {}
    routes = flask.Blueprint("routes", __name__)

    @routes.post("/generate")
    def generate() -> flask.Response:
        request = requests.parse(flask.request)  # before a slot is taken: an upload may be slow
        if visit := request_context.current():
            visit.format, visit.notes = request.format, 0
        if request.originality and index is None:
            raise UnprocessableEntity(
                "originality: this server has no index of the music that its model was trained on; whoever runs it can "
                "name one with --originality"
            )
        held = ExitStack()  # as long as the piece is in the making
        with ExitStack() as here:
            here.callback(held.close)
            held.enter_context(pieces.take())
            held.enter_context(metrics.making())
            chunks = metrics.heard(generator.stream(request.seed, request.settings))
            if request.originality and index:
                chunks = compared(chunks, index)
            if request.format == "ndjson":  # free before its last line: who reads that may ask again at once
                chunks = _then(held.close, chunks)
            response = responses.reply(request, chunks)
            if response.is_streamed:  # else when all is sent, or the listener gone
                here.pop_all()
                response.call_on_close(held.close)
            return response

    @routes.get("/healthz")
    def healthz() -> dict:
        """This process is up."""
        return {"status": "ok"}

    @routes.get("/readyz")
    def readyz() -> dict:
        """The model answers; else the problem with it."""
        card, version = generator.describe()
        return {"status": "ready", "model": f"{card.name}/{version}", **labelled}

    @routes.get("/model")
    def model() -> dict:
        """The model's card."""
        card, version = generator.describe()
        return {"name": card.name, "version": version, **labelled, "card": card.facts}

    @routes.get("/metrics")
    def numbers() -> flask.Response:
        """What Prometheus scrapes."""
        text, kind = metrics.text()
        return flask.Response(text, content_type=kind)

    @routes.get("/openapi.json")
    def described() -> dict:
        """All of this, for machines."""
        return openapi.document(closed)

    return routes


def _then(done: Callable[[], None], chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same chunks; `done` is called behind the last one."""
    yield from chunks
    done()
