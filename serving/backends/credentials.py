"""Bearer tokens for a remote model server, from Google, a file or the environment. Knows nothing of gRPC.

A token is a secret: no message of ours contains one, and only TFServing gets one, which sends it only over TLS.
"""

import importlib.util
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from music.errors import MissingDependency, Unavailable

PAUSE = 5.0  # seconds between a refusal and the next request to Google; google-auth itself tries as long or longer
_AT_HOME = "As yourself: TOKEN=$(gcloud auth print-identity-token) and --token-env TOKEN"  # google-auth cannot


class Token(Protocol):
    """A source of tokens. Threads may share it."""

    def bearer(self, refused: str | None = None) -> str:
        """Return a token that is valid now; if there is one, another one than `refused`. Raises Unavailable."""
        ...


class StoredToken:
    """A token that another program stores and renews; it is read anew for each call.

    Args:
        read: returns its text. Raises OSError.
        source: the name of its source, for messages.
    """

    def __init__(self, read: Callable[[], str], source: str):
        self._read, self._source = read, source

    def bearer(self, refused: str | None = None) -> str:
        try:
            token = self._read().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise Unavailable(f"no token in {self._source}: {reason}") from error
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise Unavailable(f"no token in {self._source}: expected one word of printable ASCII")
        return token


def from_file(path: str | os.PathLike) -> Token:
    """Take the token from a file, such as Kubernetes writes and replaces."""
    return StoredToken(Path(path).read_text, str(path))


def from_environ(name: str) -> Token:
    """Take the token from an environment variable."""
    return StoredToken(lambda: os.environ.get(name, ""), f"${name}")


class GoogleIdentity:
    """ID tokens of this process's service account: the machine's, or the one in GOOGLE_APPLICATION_CREDENTIALS.

    A token is valid for an hour. google-auth calls it stale 225 seconds before its end: then one thread fetches the
    next one, while all others go on with the old one.

    Args:
        audience: the service that is to accept the token; for a Cloud Run service its URL.

    Raises:
        MissingDependency: google-auth is not installed.
    """

    def __init__(self, audience: str):
        for name, package in (("google.auth", "google-auth"), ("requests", "requests")):
            if not _is_installed(name):
                raise MissingDependency(f"identity tokens need {package}: `pip install '.[cloud]'` brings it")
        self._audience = audience
        self._lock = threading.Lock()  # the thread that holds it requests a token from Google
        self._credentials: Any = None  # google-auth's, once there has been a token
        self._failed: tuple[float, str] | None = None  # time and reason of the last failure

    def bearer(self, refused: str | None = None) -> str:
        """See Token."""
        if token := self._cached(refused, fresh=True):
            return token
        stale = self._cached(refused)
        if not self._lock.acquire(blocking=stale is None):
            return str(stale)
        try:
            if not self._cached(refused, fresh=True):  # else another thread has just fetched it
                self._fetch()
            return self._credentials.token
        except Unavailable:
            if stale is None:
                raise
            return stale
        finally:
            self._lock.release()

    def _cached(self, refused: str | None, *, fresh: bool = False) -> str | None:
        """Return the token of the last fetch if it has not expired; `fresh`: only if it is not stale either."""
        credentials = self._credentials
        if credentials is None or not credentials.token or credentials.token == refused:
            return None
        valid = credentials.valid if fresh else credentials.expiry > datetime.now(UTC).replace(tzinfo=None)
        return credentials.token if valid else None

    def _fetch(self) -> None:
        if self._failed and time.monotonic() - self._failed[0] < PAUSE:
            raise Unavailable(self._failed[1])
        from google.auth import exceptions
        from google.auth.transport.requests import Request
        from google.oauth2 import id_token

        try:
            request = Request()
            if self._credentials is None:
                credentials = id_token.fetch_id_token_credentials(self._audience, request)
                credentials.refresh(request)
                self._credentials = credentials
            else:
                self._credentials.refresh(request)
        except (exceptions.GoogleAuthError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, exceptions.DefaultCredentialsError):
                reason += f" {_AT_HOME}"
            self._failed = time.monotonic(), f"no identity token for {self._audience}: {reason}"
            raise Unavailable(self._failed[1]) from error
        self._failed = None


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is missing; or sys.modules has None for it
        return False
