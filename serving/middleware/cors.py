"""Which other sites' scripts may use the API from a browser (CORS). By default none.

An origin that is not listed is never named in a reply. No reply lets a browser send cookies: there are none, and a
script sends a key itself.
"""

import re
from collections.abc import Collection

import flask

from music.errors import SettingError
from serving.middleware import api_keys, request_context

ANY = "*"
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_REQUEST_HEADERS = ("Accept", "Authorization", "Content-Type", api_keys.HEADER, request_context.HEADER)
_REPLY_HEADERS = (
    *("Content-Disposition", "Retry-After", "X-Ended", "X-Longest-Run", "X-Model", "X-Notes", "X-Random-Seed"),
    *("X-Unheard-Notes", "X-Warnings", request_context.HEADER),
)
_DAY = 24 * 3600  # seconds; so long may a browser remember the answer to a preflight


def check(origins: Collection[str]) -> None:
    """Raise SettingError if `origins` is not a list of origins."""
    for origin in [origins] if isinstance(origins, str) else origins:
        if isinstance(origins, str) or not (origin == ANY or _ORIGIN.fullmatch(origin)):
            raise SettingError(f"cors origins: expected each to be like https://music.example or {ANY}, got {origin!r}")


def allow(app: flask.Flask, origins: Collection[str]) -> None:
    """Let scripts of these origins use `app`. Raises SettingError."""
    check(origins)

    @app.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        origin = flask.request.headers.get("Origin")
        if ANY not in origins:
            response.vary.add("Origin")  # a cache must not give one origin's reply to another
        if origin is None or not (ANY in origins or origin in origins):
            return response
        response.headers["Access-Control-Allow-Origin"] = ANY if ANY in origins else origin
        if flask.request.method == "OPTIONS":
            if "Access-Control-Request-Method" in flask.request.headers:
                response.headers["Access-Control-Allow-Methods"] = ", ".join(sorted(response.allow))
                response.headers["Access-Control-Allow-Headers"] = ", ".join(_REQUEST_HEADERS)
                response.headers["Access-Control-Max-Age"] = str(_DAY)
        else:
            response.headers["Access-Control-Expose-Headers"] = ", ".join(_REPLY_HEADERS)
        return response
