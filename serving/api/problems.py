"""Errors → application/problem+json (RFC 9457). Knows nothing of how they came about."""

import json
from http import HTTPStatus

import flask
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.wrappers import Response

from music import errors
from serving.middleware import request_context

RETRY_AFTER = 2  # seconds; most pieces take less
_STATUS = {  # most specific first
    errors.MidiError: 400,
    errors.EncodingError: 422,
    errors.SettingError: 422,  # what this model, or its controls, cannot do
    errors.SoundFontError: 422,  # the font is the server's and undamaged: it has no such note of the requested program
    errors.MissingDependency: 406,  # for one format; others work
    errors.Unavailable: 503,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.BackendError: 502,  # the model answered, but not with what it should
    errors.RecordError: 502,  # or its card cannot be read
    errors.MusicError: 500,
}
_TYPE = "application/problem+json"


def register(app: flask.Flask) -> None:
    """Let `app` answer every error as a problem."""
    app.register_error_handler(errors.MusicError, _from_music)
    app.register_error_handler(HTTPException, _from_http)  # Flask logs an unforeseen exception, and turns it into a 500


def status_of(error: errors.MusicError) -> int:
    """Return the HTTP status of an error."""
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def note(error: Exception) -> None:
    """Write the class of an error into the request's context, for log and metrics."""
    if context := request_context.current():
        context.error = type(error).__name__


def _from_music(error: errors.MusicError) -> Response:
    status = status_of(error)
    note(error)
    headers = {"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}
    return Response(_body(status, str(error)), status, headers, mimetype=_TYPE)


def _from_http(error: HTTPException) -> Response:
    response = error.get_response()  # keeps what belongs to the status, such as 405's Allow
    response.data = _body(response.status_code, _detail(error))
    response.mimetype = _TYPE
    return response


def _body(status: int, detail: str) -> str:
    """Write a problem; its type `about:blank` says that the status is all that there is to its kind."""
    title = HTTPStatus(status).phrase
    facts = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps(facts | ({"request_id": request_context.current_id()} if request_context.current() else {}))


def _detail(error: HTTPException) -> str:
    """Return our own message, or a friendlier one than werkzeug's for what werkzeug raises by itself."""
    request = flask.request
    if error.code == 404:
        return f"there is no {request.path} here; to generate music, POST to /generate"
    if isinstance(error, MethodNotAllowed):
        return f"{request.path} does not take {request.method}, expected {', '.join(sorted(error.valid_methods or []))}"
    if error.code == 413:
        most = flask.current_app.config["MAX_CONTENT_LENGTH"] / 2**20
        sent = f", got {request.content_length / 2**20:.1f} MB" if request.content_length else ""
        return f"the request is too large: expected at most {most:g} MB{sent}"
    if error.code == 500:
        return "something broke on the server's side; its log says what"
    return error.description or error.name
