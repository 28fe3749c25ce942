"""Errors of Google's services → one line that says what to do.

For services that run something for us. Buckets have music/storage/gcs_errors.py, as every stage uses them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError

from music.errors import MusicError


class Refused(MusicError):
    """Google refused a request; the message says what to do."""


@contextmanager
def explained(service: str, api: str, project: str, rights: str) -> Iterator[None]:
    """Translate errors of Google's libraries into Refused.

    Args:
        service: its name for people.
        api: the API to enable, such as run.googleapis.com.
        rights: which roles are expected, and where.
    """
    try:
        yield
    except exceptions.PermissionDenied as error:
        if error.reason == "SERVICE_DISABLED" or "has not been used in project" in error.message:
            raise Refused(
                f"{service} is not enabled in {project}: gcloud services enable {api} --project {project}"
            ) from error
        raise Refused(f"no right to use {service} in {project}; expected {rights}: {_line(error)}") from error
    except (exceptions.Unauthenticated, GoogleAuthError) as error:
        raise Refused(f"no credentials; gcloud auth application-default login: {_line(error)}") from error
    except exceptions.GoogleAPIError as error:
        raise Refused(f"{service} refused in {project}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:400]
