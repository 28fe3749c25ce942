"""API keys: which clients may use the API, where not everybody may.

Without keys every path is open. With them, every path is closed except what a browser needs to show the page, and the
health checks. Knows where keys come from, and never logs one.
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
    """The valid keys of a server; only their hashes are stored."""

    def __init__(self, keys: Iterable[str]):
        self._digests = [_digest(key) for key in keys]

    def __contains__(self, key: str) -> bool:
        """Compare in constant time: a nearly right key takes as long as any other, the first as long as the last."""
        digest = _digest(key)
        return any([hmac.compare_digest(digest, valid) for valid in self._digests])


def presented(request: flask.Request) -> list[str]:
    """Return what a request presents as keys, valid or not."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")  # werkzeug takes "=" for a parameter
    keys = [request.headers.get(HEADER), token.strip() if scheme.lower() == "bearer" else None]
    return [key for key in keys if key]


def valid_digest(request: flask.Request, keys: Keys) -> bytes | None:
    """Return the hash of the first valid key that a request presents; None: it presents none."""
    return next((_digest(key) for key in presented(request) if key in keys), None)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read(config: Mapping) -> Keys | None:
    """Read the keys that `config` names: API_KEYS, each line of API_KEYS_FILE, each word of the variable API_KEYS_ENV.

    Returns:
        None if it names none at all.

    Raises:
        SettingError: one of these sources has none, or one of them is not a key.
    """
    sources: dict[str, Iterable[str]] = {}
    if config["API_KEYS"] is not None:
        sources["API_KEYS"] = config["API_KEYS"]
    if path := config["API_KEYS_FILE"]:
        try:
            lines = Path(path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SettingError(f"api keys: expected a file with one in each line, got {path}: {reason}") from error
        sources[str(path)] = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if name := config["API_KEYS_ENV"]:
        sources[f"${name}"] = os.environ.get(name, "").split()
    for source, keys in sources.items():
        if isinstance(keys, str) or not keys:
            raise SettingError(f"api keys: expected at least one in {source}")
        if not all(_KEY.fullmatch(key) for key in keys):
            raise SettingError(f"api keys: expected 16 to 256 visible ASCII characters each; one in {source} is not so")
    return Keys(key for keys in sources.values() for key in keys) if sources else None


def guard(app: flask.Flask, keys: Keys) -> None:
    """Answer 401 to a request without a valid key, before its body is read. A browser's preflight cannot send one."""

    @app.before_request
    def check_key() -> None:
        request = flask.request
        if request.method == "OPTIONS" or not request.url_rule or request.url_rule.rule in OPEN:
            return
        if not valid_digest(request, keys):
            raise Unauthorized(
                f"{'that key is not known' if presented(request) else 'this server wants a key'}: "
                f"expected the header 'Authorization: Bearer KEY' or '{HEADER}: KEY'",
                www_authenticate=WWWAuthenticate("bearer", {"realm": "cadenza"}),
            )
