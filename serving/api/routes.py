"""The paths of the API; `serving.web.page` has those of the page. Knows which module does what, not how it is done."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import flask
from werkzeug.exceptions import UnprocessableEntity

from music.generation import Chunk, with_longest_run
from serving.api import openapi, requests, responses
from serving.api.services import Services
from serving.middleware import request_context


def generate(services: Services) -> flask.Response:
    """Continue a seed, or begin a new piece."""
    request = requests.parse(flask.request, services.reading)  # before the limit counts it: an upload may be slow
    if context := request_context.current():
        context.format, context.notes = request.format, 0
    if request.originality and services.index is None:
        raise UnprocessableEntity(
            "originality: this server has no index of the music that its model was trained on; whoever runs it can "
            "name one with --originality"
        )
    limits = ExitStack()  # as long as the piece is being generated
    with ExitStack() as cleanup:
        cleanup.callback(limits.close)
        limits.enter_context(services.pieces.take())
        limits.enter_context(services.metrics.in_flight())
        chunks = services.metrics.count_notes(services.generator.stream(request.seed.notes, request.settings))
        if request.originality and services.index:
            chunks = with_longest_run(chunks, services.index)
        if request.format == "ndjson":  # end the limit before the last line: a client that has read it may ask again
            chunks = _call_after(limits.close, chunks)
        response = responses.reply(request, chunks, services.renderers)
        if response.is_streamed:  # then end it when all is sent, or the client has closed the connection
            cleanup.pop_all()
            response.call_on_close(limits.close)
        return response


def healthz(services: Services) -> dict:
    """Say that this process is up."""
    return {"status": "ok"}


def readyz(services: Services) -> dict:
    """Say that the model answers; else reply with the problem."""
    card, version = services.generator.describe()
    return {"status": "ready", "model": f"{card.name}/{version}", **_label(services)}


def model(services: Services) -> dict:
    """Show the model's card."""
    card, version = services.generator.describe()
    return {"name": card.name, "version": version, **_label(services), "card": card.facts}


def metrics(services: Services) -> flask.Response:
    """Show the numbers that Prometheus reads."""
    text, kind = services.metrics.text()
    return flask.Response(text, content_type=kind)


def openapi_document(services: Services) -> dict:
    """Describe all of this for machines."""
    return openapi.document(closed=services.keys is not None)


VIEWS = (
    ("POST", "/generate", generate),
    ("GET", "/healthz", healthz),
    ("GET", "/readyz", readyz),
    ("GET", "/model", model),
    ("GET", "/metrics", metrics),
    ("GET", "/openapi.json", openapi_document),
)


def _label(services: Services) -> dict[str, str]:
    return {"label": services.label} if services.label else {}


def _call_after(callback: Callable[[], None], chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the same chunks, and call `callback` after the last one."""
    yield from chunks
    callback()
