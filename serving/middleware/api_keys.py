"""API keys: who may ask for music, where that is not everybody.

Without keys all is open. With them, all is closed but what a browser needs to show the page, and what looks whether we
are well. Knows where keys come from, and never logs one.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import flask
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from music.errors import SettingError

OPEN = {  # rules; one that is not here is closed
    *("/", "/static/<path:filename>", "/examples/<name>.mid", "/piano.json", "/piano.pcm"),
    *("/healthz", "/readyz", "/openapi.json"),
}
HEADER = "X-API-Key"
_KEY = re.compile(r"[!-~]{16,256}")  # what fits into a header, and is not guessed in a day


class Keys:
    """Keys that are known; only their hashes are kept."""

    def __init__(self, keys: Iterable[str]):
        self._digests = [_digest(key) for key in keys]

    def __contains__(self, given: str) -> bool:
        """Takes as long for one that is nearly right as for any other, and for the first as for the last."""
        digest = _digest(given)
        return any([hmac.compare_digest(digest, known) for known in self._digests])


def given(request: flask.Request) -> list[str]:
    """What a request shows as a key, known or not."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")  # werkzeug takes "=" for a parameter
    shown = [request.headers.get(HEADER), token.strip() if scheme.lower() == "bearer" else None]
    return [key for key in shown if key]


def shown(request: flask.Request, keys: Keys) -> bytes | None:
    """The hash of the first key that is known of those that a request shows."""
    return next((_digest(key) for key in given(request) if key in keys), None)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read(config: Mapping) -> Keys | None:
    """The keys that `config` names: API_KEYS, each line of API_KEYS_FILE, each word of the variable API_KEYS_ENV.

    Returns:
        None if it names none at all.

    Raises:
        SettingError: one of the places has none, or one is no key.
    """
    found: dict[str, Iterable[str]] = {}
    if config["API_KEYS"] is not None:
        found["API_KEYS"] = config["API_KEYS"]
    if path := config["API_KEYS_FILE"]:
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SettingError(f"api keys: expected a file with one in each line, got {path}: {reason}") from error
        found[str(path)] = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if name := config["API_KEYS_ENV"]:
        found[f"${name}"] = os.environ.get(name, "").split()
    for place, keys in found.items():
        if isinstance(keys, str) or not keys:
            raise SettingError(f"api keys: expected at least one in {place}")
        if not all(_KEY.fullmatch(key) for key in keys):
            raise SettingError(f"api keys: expected 16 to 256 visible ASCII characters each; one in {place} is not so")
    return Keys(key for keys in found.values() for key in keys) if found else None


def guard(app: flask.Flask, keys: Keys) -> None:
    """Answer 401 to who shows none of `keys`, before a body is read. A browser's preflight cannot show one."""

    @app.before_request
    def asked() -> None:
        request = flask.request
        if request.method == "OPTIONS" or not request.url_rule or request.url_rule.rule in OPEN:
            return
        if not shown(request, keys):
            raise Unauthorized(
                f"{'that key is not known' if given(request) else 'this server wants a key'}: "
                f"expected the header 'Authorization: Bearer KEY' or '{HEADER}: KEY'",
                www_authenticate=WWWAuthenticate("bearer", {"realm": "cadenza"}),
            )
