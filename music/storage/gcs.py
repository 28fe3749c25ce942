"""Objects in Google Cloud Storage: `gs://bucket/name` → bytes, names, and back. `music/storage/paths.py` is the way in.

An object is put by one request, or in chunks that become an object with the last of them, so nobody ever sees half of
one. Its crc32c goes with it, and the server refuses other bytes; what is read is checked against the crc32c that comes
with it. Whatever may pass (503, 429, a cut connection, wrong bytes) is tried again for DEADLINE seconds, and only here:
the library's own retries are off. What does not pass becomes one line by `music/storage/gcs_errors.py`.

Knows nothing of local files, nor of what bytes mean. The library is imported when the first object is asked for, and
each process makes its own client: none survives a fork, and none is pickled.
"""

import base64
import functools
import io
import logging
import os
import random
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

import google_crc32c

from music.errors import MissingDependency, StorageError
from music.storage import gcs_errors

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

DEADLINE = 120.0  # seconds after the first failure; then whoever asked is told
PAUSES = (0.5, 16.0)  # seconds before the second try, and at most
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two bytes
CHUNK = 32 * 2**20  # bytes of one request; up to 8 MiB the library puts an object in one
_BLOCK = 2**20  # bytes read at once from an object that is read here and there
_CREDENTIALS = 1.0  # seconds; the metadata server of a machine at Google answers in some thousandths

_URL = re.compile(r"gs://(?P<bucket>[^/]+)(?:/+(?P<name>.*))?", re.DOTALL)
_log = logging.getLogger(__name__)
_clients: dict[tuple[int, str], "Client"] = {}
_lock = threading.Lock()
_Answer = TypeVar("_Answer")


class Object(NamedTuple):
    """What a listing tells of an object."""

    name: str  # in its bucket
    size: int


def split(url: str) -> tuple[str, str]:
    """gs://bucket/some/name → bucket, some/name; the name may be empty. Raises StorageError."""
    found = _URL.fullmatch(url)
    if not found:
        raise StorageError(f"{url}: expected gs://BUCKET/NAME or a local path")
    return found["bucket"], found["name"] or ""


def read(url: str) -> bytes:
    """An object's bytes. Raises FileNotFoundError, StorageError."""

    def attempt() -> bytes:
        blob = _blob(url)
        data = blob.download_as_bytes(checksum="crc32c", timeout=TIMEOUT, retry=None)
        if not blob.crc32c:
            raise StorageError(f"{url}: came without a checksum, so nobody can say whether it is whole")
        return data

    return _ask(url, "storage.objects.get", attempt)


def open_read(url: str) -> BinaryIO:
    """An object to read here and there, a block at a time. No checksum comes with a part: check what you read."""
    blob = _ask(url, "storage.objects.get", lambda: _found(url))
    return io.BufferedReader(_Parts(url, blob.generation, blob.size), _BLOCK)  # type: ignore[type-var]


def write(url: str, file: BinaryIO, expected: int | None = None) -> int:
    """Put an object.

    Args:
        file: read from its beginning to its end, again at each try.
        expected: the generation that must be there now, 0 for none at all; None: whatever is there.

    Returns:
        The new generation.

    Raises:
        Conflict: something else is there than expected.
        StorageError: it cannot be put.
    """
    size, crc32c = _measure(file)
    tries = 0

    def attempt() -> int:
        nonlocal tries
        tries += 1
        file.seek(0)
        blob = _blob(url)
        blob.crc32c, blob.chunk_size = crc32c, CHUNK  # the server compares
        try:
            blob.upload_from_file(
                file, size=size, if_generation_match=expected, checksum=None, timeout=TIMEOUT, retry=None
            )
        except Exception as error:
            if not gcs_errors.is_conflict(error):
                raise
            there = _stored(url)  # what we put ourselves, if only the answer to an earlier try was lost
            if tries == 1 or there is None or there.crc32c != crc32c:
                raise
            blob = there
        return int(blob.generation)

    return _ask(url, "storage.objects.create", attempt)


def generation(url: str) -> int:
    """A number that is another one after every write; 0 where there is no such object."""
    blob = _ask(url, "storage.objects.get", lambda: _stored(url))
    return int(blob.generation) if blob else 0


def listed(url: str, *, deep: bool) -> Iterator[Object]:
    """The objects whose URLs begin with `url`; unless `deep`, none below a further folder but the folder's name, with
    its slash, once."""
    bucket, prefix = split(url)
    token = None
    while True:
        page, folders, token = _ask(url, "storage.objects.list", functools.partial(_page, bucket, prefix, deep, token))
        yield from (Object(blob.name, blob.size) for blob in page)
        yield from (Object(folder, 0) for folder in folders)
        if not token:
            return


def remove(url: str) -> None:
    """Remove an object; it need not be there."""

    def attempt() -> None:
        try:
            _blob(url).delete(timeout=TIMEOUT, retry=None)
        except Exception as error:
            if not gcs_errors.is_absent(error):
                raise

    _ask(url, "storage.objects.delete", attempt)


class _Parts(io.RawIOBase):
    """An object as a file to read and seek in; each read is a request for that part of one generation."""

    def __init__(self, url: str, generation: int, size: int):
        self._url, self._generation, self._size, self._at = url, generation, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        first, last = self._at, min(self._at + len(buffer), self._size) - 1
        if last < first:
            return 0

        def attempt() -> bytes:
            blob = _blob(self._url, self._generation)
            part = blob.download_as_bytes(start=first, end=last, checksum=None, timeout=TIMEOUT, retry=None)
            if len(part) != last - first + 1:
                raise ConnectionError(f"expected {last - first + 1} bytes, got {len(part)}")
            return part

        try:
            part = _ask(self._url, "storage.objects.get", attempt)
        except FileNotFoundError as error:  # no file of a zip is missing, the whole zip is another one
            raise StorageError(f"{self._url} was replaced or removed while it was read") from error
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _ask(url: str, right: str, attempt: Callable[[], _Answer]) -> _Answer:
    """attempt(), again and again while it may yet succeed.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: it was refused, and then `right` is what may be missing; or DEADLINE has passed.
    """
    began, pause = 0.0, PAUSES[0]
    while True:
        try:
            return attempt()
        except (StorageError, MissingDependency):
            raise
        except Exception as error:
            absent = gcs_errors.is_absent(error) and _bucket_is_there(url)
            if absent and right == "storage.objects.get":
                raise gcs_errors.absent(url) from error
            if not absent and not gcs_errors.may_pass(error):  # absent in a write: an upload that the server forgot
                raise gcs_errors.told(error, url, right) from error
            now = time.monotonic()
            began = began or now
            if now + pause > began + DEADLINE:
                raise gcs_errors.given_up(error, url, DEADLINE) from error
            if pause > 2:
                _log.warning("%s: %s; trying again", url, gcs_errors.short(error))
        time.sleep(pause * random.uniform(0.5, 1))  # apart, where many workers fail at once
        pause = min(2 * pause, PAUSES[1])


def _bucket_is_there(url: str) -> bool:
    """An absent object and an absent bucket are both 404, and not every server says which."""
    bucket, _ = split(url)
    try:
        _page(bucket, "", True, None, size=1)
    except Exception as error:
        return not gcs_errors.is_absent(error)  # that we may not list it is no proof that it is not there
    return True


def _blob(url: str, generation: int | None = None) -> "Blob":
    bucket, name = split(url)
    if not name or name.endswith("/"):
        raise StorageError(f"{url}: expected a file in a bucket, gs://BUCKET/NAME")
    return _client().bucket(bucket).blob(name, generation=generation)


def _found(url: str) -> "Blob":
    blob = _blob(url)
    blob.reload(timeout=TIMEOUT, retry=None)
    return blob


def _stored(url: str) -> "Blob | None":
    try:
        return _found(url)
    except Exception as error:
        if gcs_errors.is_absent(error) and _bucket_is_there(url):
            return None
        raise


def _page(bucket: str, prefix: str, deep: bool, token: str | None, size: int | None = None):
    """One page of a listing: objects, folders, and what to ask the next page with."""
    found = _client().list_blobs(
        bucket,
        prefix=prefix or None,
        delimiter=None if deep else "/",
        page_token=token,
        page_size=size,
        fields="items(name,size),prefixes,nextPageToken",
        timeout=TIMEOUT,
        retry=None,
    )
    page = list(next(found.pages, ()))
    return page, sorted(found.prefixes), found.next_page_token


def _measure(file: BinaryIO) -> tuple[int, str]:
    """Size and crc32c, in base 64 as the server has it."""
    file.seek(0)
    checksum, size = google_crc32c.Checksum(), 0
    while part := file.read(_BLOCK):
        checksum.update(part)
        size += len(part)
    return size, base64.b64encode(checksum.digest()).decode()


def _client() -> "Client":
    """This process' client, for the emulator where STORAGE_EMULATOR_HOST names one. Threads share it."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    key = os.getpid(), emulator
    with _lock:
        if key not in _clients:
            _clients[key] = _make_client(anonymous=bool(emulator))
        return _clients[key]


def _make_client(anonymous: bool) -> "Client":
    try:
        import requests.adapters
        from google.auth import credentials, default
        from google.auth.transport.requests import Request
        from google.cloud.storage import Client
    except ImportError as error:
        raise MissingDependency(f"gs:// needs {error.name}; `pip install 'cadenza[cloud]'` brings it") from error

    class Hasty(Request):
        """Looks for the metadata server for so long only, where it would be half a minute."""

        def __call__(self, url, method="GET", body=None, headers=None, timeout=None, **rest):
            return super().__call__(url, method, body, headers, _CREDENTIALS, **rest)

    # else, where OpenTelemetry is installed, it asks for facts of the bucket that an object's user may not see
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    ours: credentials.Credentials
    if anonymous:
        ours = credentials.AnonymousCredentials()
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your application has authenticated using end user credentials")
            ours, _ = default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"], request=Hasty())
    client = Client(project=None, credentials=ours)  # of a project we need nothing
    client._http.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=64))  # threads of a Beam worker
    return client
