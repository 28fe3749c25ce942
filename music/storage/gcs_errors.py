"""An error of Google Cloud Storage or its libraries → try again, or an error of ours that says what to do.

Knows nothing of objects and makes no requests. Of the libraries it knows only the exceptions that they raise.
"""

import errno
import json
import os
import re

from music.errors import Conflict, StorageError, Unreachable

_TEMPORARY = (408, 410, 429, 500, 502, 503, 504)  # 410: an upload that the server forgot
_ROLES = {"storage.objects.get": "objectViewer", "storage.objects.list": "objectViewer"}  # any other: objectUser
_LOGIN = "`gcloud auth application-default login`, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"


def may_pass(error: Exception) -> bool:
    """Tell whether the same request may succeed a little later."""
    import http.client

    import requests
    import urllib3.exceptions
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.auth.exceptions import TransportError as NoToken
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, GoogleAPICallError):
        return error.code in _TEMPORARY or (error.code == 400 and "crc32c" in str(error).lower())  # damaged on its way
    if isinstance(error, GoogleAuthError):
        return isinstance(error, NoToken) or bool(getattr(error, "retryable", False))
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return False
    return isinstance(
        error,
        DataCorruption
        | InvalidResponse  # a chunk that arrived in part
        | requests.exceptions.RequestException
        | urllib3.exceptions.HTTPError
        | http.client.HTTPException
        | ConnectionError
        | TimeoutError
        | json.JSONDecodeError,
    )


def is_absent(error: Exception) -> bool:
    """Tell whether the server answered 404: there is no such object or bucket."""
    return getattr(error, "code", None) == 404


def is_conflict(error: Exception) -> bool:
    """Tell whether the server answered 412: the object has another generation than the one expected."""
    return getattr(error, "code", None) == 412


def absent(url: str) -> FileNotFoundError:
    """Make the error of an object that is not there, the same as for a local file."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)


def given_up(error: Exception, url: str, seconds: float) -> Unreachable:
    """Make the error of a request that failed again and again for so many seconds; `error` is the last failure."""
    return Unreachable(f"{url}: no success within {seconds:.0f} s, the last answer: {short(error)}; try again later")


def translate_error(error: Exception, url: str, right: str) -> StorageError:
    """Translate an error that trying again does not cure into one line that says what to do.

    Args:
        right: the permission that the request needs, such as storage.objects.get.

    Raises:
        Exception: `error` itself, where it is neither a server's answer nor about credentials: a mistake in the code.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    reason, bucket = short(error), "/".join(url.split("/")[:3])
    code = getattr(error, "code", None)
    if isinstance(error, DefaultCredentialsError):
        return StorageError(f"{url}: there are no Google Cloud credentials here ({reason}); run {_LOGIN}")
    if isinstance(error, GoogleAuthError) or code == 401:
        return StorageError(f"{url}: the Google Cloud credentials are not accepted ({reason}); run {_LOGIN}")
    if code == 412:
        return Conflict(f"{url}: somebody else has written it meanwhile; only one may write here")
    if code == 404:
        return StorageError(
            f"{url}: there is no bucket {bucket}; name another, or make it: `gcloud storage buckets create {bucket}`"
        )
    if code == 403:
        return StorageError(f"{url}: {_forbidden(str(error), reason, bucket, right)}")
    if isinstance(error, GoogleAPICallError | ValueError):  # a ValueError: the library's own, of a bucket's name
        return StorageError(f"{url}: {reason}")
    raise error


def _forbidden(text: str, reason: str, bucket: str, right: str) -> str:
    if re.search(r"accessNotConfigured|SERVICE_DISABLED|has not been used in project|it is disabled", text):
        project, api = re.search(r"project[ =/]+([a-z0-9-]+)", text), re.search(r"/apis/api/([a-z-]+)", text)
        named = f" --project {project[1]}" if project else ""
        service = f"{api[1] if api else 'storage'}.googleapis.com"
        return f"the Cloud Storage API is not enabled; `gcloud services enable {service}{named}`"
    if "billing" in text.lower():
        return f"the project's billing is not in order ({reason})"
    who = re.search(r"([\w.+-]+@[\w.-]+\w)", text)
    kind = "serviceAccount" if who and who[1].endswith("gserviceaccount.com") else "user"
    member = f"{kind}:{who[1]}" if who else "user:YOU"
    return (
        f"{right} is not allowed to {who[1] if who else 'you'}; whoever owns the bucket can run "
        f"`gcloud storage buckets add-iam-policy-binding {bucket} --member {member} "
        f"--role roles/storage.{_ROLES.get(right, 'objectUser')}`"
    )


def short(error: Exception) -> str:
    """Give an error's own text in one line of at most 200 characters, without the address of the request."""
    while inner := next((each for each in (getattr(error, "reason", None), *error.args) if _is_error(each)), None):
        error = inner  # the libraries wrap it three times
    words = " ".join(str(getattr(error, "message", "") or error).split())
    words = re.sub(r"^[A-Z]+ https?://\S+: ", "", words)
    words = re.sub(r":? ?\('Request failed with status code.*", "", words)
    if message := re.search(r'"message": ?"((?:[^"\\]|\\.)+)"', words):
        words = message[1]  # the rest of it is JSON
    code = getattr(error, "code", None)
    line = f"{int(code)} {words}" if isinstance(code, int) else words or type(error).__name__
    return line if len(line) <= 200 else line[:199] + "…"


def _is_error(thing: object) -> bool:
    return isinstance(thing, Exception)
