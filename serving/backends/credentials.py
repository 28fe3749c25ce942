"""Who we are to a remote model server: a bearer token from Google, a file or the environment. Knows nothing of gRPC.

A token is a secret: no message of ours holds one, and only TFServing, which sends none without TLS, gets one.
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

PAUSE = 5.0  # seconds after a refusal before Google is asked again: google-auth itself tries for as long or longer
_AT_HOME = "As yourself: TOKEN=$(gcloud auth print-identity-token) and --token-env TOKEN"  # google-auth has no way to


class Token(Protocol):
    """Where tokens come from. Threads may share it."""

    def bearer(self, refused: str | None = None) -> str:
        """A token that holds now, another one than `refused` if there is one. Raises Unavailable."""
        ...


class Written:
    """A token that somebody else puts somewhere and keeps fresh; it is read anew for each call.

    Args:
        read: gives its text. Raises OSError.
        place: what to call that place in a message.
    """

    def __init__(self, read: Callable[[], str], place: str):
        self._read, self._place = read, place

    def bearer(self, refused: str | None = None) -> str:
        try:
            token = self._read().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise Unavailable(f"no token in {self._place}: {reason}") from error
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise Unavailable(f"no token in {self._place}: expected one word of printable ASCII")
        return token


def from_file(path: str | os.PathLike) -> Token:
    """The token in a file, such as Kubernetes puts and replaces there."""
    return Written(Path(path).read_text, str(path))


def from_environ(name: str) -> Token:
    """The token in a variable of the environment."""
    return Written(lambda: os.environ.get(name, ""), f"${name}")


class GoogleIdentity:
    """ID tokens of the service account that we run as: of the machine, or GOOGLE_APPLICATION_CREDENTIALS.

    A token lives for an hour. google-auth calls it stale 225 seconds before: then one thread fetches the next, while
    all others go on with the one that they have.

    Args:
        audience: who is to accept the token; for a Cloud Run service its URL.

    Raises:
        MissingDependency: google-auth is not installed.
    """

    def __init__(self, audience: str):
        for name, package in (("google.auth", "google-auth"), ("requests", "requests")):
            if not _is_there(name):
                raise MissingDependency(f"identity tokens need {package}: `pip install 'cadenza[cloud]'` brings it")
        self._audience = audience
        self._lock = threading.Lock()  # who holds it asks Google
        self._credentials: Any = None  # google-auth's, when there was a token once
        self._failed: tuple[float, str] | None = None  # when, and why

    def bearer(self, refused: str | None = None) -> str:
        """See Token."""
        if token := self._held(refused, fresh=True):
            return token
        stale = self._held(refused)
        if not self._lock.acquire(blocking=stale is None):
            return str(stale)
        try:
            if not self._held(refused, fresh=True):  # else another thread has just fetched it
                self._fetch()
            return self._credentials.token
        except Unavailable:
            if stale is None:
                raise
            return stale
        finally:
            self._lock.release()

    def _held(self, refused: str | None, *, fresh: bool = False) -> str | None:
        """The token that we have, if it has not expired; `fresh`: and is not about to."""
        credentials = self._credentials
        if credentials is None or not credentials.token or credentials.token == refused:
            return None
        holds = credentials.valid if fresh else credentials.expiry > datetime.now(UTC).replace(tzinfo=None)
        return credentials.token if holds else None

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


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is missing; or it is barred in sys.modules
        return False
