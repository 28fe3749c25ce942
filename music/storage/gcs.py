"""Objects in Google Cloud Storage: `gs://bucket/name` → bytes, names, and back. Callers use `music/storage/paths.py`.

An object is written by one request, or in chunks that become an object with the last one, so no reader sees a part of
it. Its crc32c is sent along, and the server refuses other bytes; a reader compares what it gets with the crc32c.
After a temporary error (503, 429, a cut connection, wrong bytes) a request is repeated, for DEADLINE seconds, and only
here: the library's own retries are off. Other errors are translated by `music/storage/gcs_errors.py`.

Knows nothing of local files, nor of what the bytes mean. The library is imported at the first request. Each process
makes its own client: none is used after a fork, and none is pickled.
"""

import base64
import functools
import gzip
import io
import logging
import os
import random
import re
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

import google_crc32c

from music.errors import MissingDependency, MusicError, StorageError
from music.storage import gcs_errors

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

DEADLINE = 120.0  # seconds after the first failure; then the caller gets an error
PAUSES = (0.5, 16.0)  # seconds before the second try, and the longest pause
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two bytes
CHUNK = 32 * 2**20  # bytes of one request; the library writes an object of up to 8 MiB in one
_BLOCK = 2**20  # bytes read at once from an object that is read in parts
_UNPACKED = 2**30  # bytes of a gzip-encoded object that is read in parts
_CREDENTIALS = 1.0  # seconds; the metadata server of a machine at Google answers in some thousandths

_URL = re.compile(r"gs://(?P<bucket>[^/]+)(?:/+(?P<name>.*))?", re.DOTALL)
_log = logging.getLogger(__name__)
_clients: dict[tuple[int, str], "Client"] = {}
_lock = threading.Lock()
_Result = TypeVar("_Result")


class Object(NamedTuple):
    """An object as a listing shows it."""

    name: str  # in its bucket
    size: int


def split(url: str) -> tuple[str, str]:
    """Split gs://bucket/some/name into bucket and some/name; the name may be empty. Raises StorageError."""
    match = _URL.fullmatch(url)
    if not match:
        raise StorageError(f"{url}: expected gs://BUCKET/NAME or a local path")
    return match["bucket"], match["name"] or ""


def read(url: str, most: int | None = None) -> bytes:
    """Read an object's bytes and compare them with its checksum; unpack them if they are stored gzip-encoded.

    Args:
        most: unpack no more than one byte above this.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the object cannot be read.
        MusicError: it is stored gzip-encoded, and damaged.
    """

    def attempt() -> tuple[bytes, bool]:
        blob = _blob(url)
        data = blob.download_as_bytes(raw_download=True, checksum="crc32c", timeout=TIMEOUT, retry=None)
        if not blob.crc32c:
            raise StorageError(f"{url}: came without a checksum, so nobody can say whether it is complete")
        return data, blob.content_encoding == "gzip" and data[:2] == b"\x1f\x8b"

    data, is_packed = _ask(url, "storage.objects.get", attempt)
    if not is_packed:
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(-1 if most is None else most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MusicError(f"{url}: is stored gzip-encoded and does not unpack: {error}") from error


def open_read(url: str) -> BinaryIO:
    """Open an object to read parts of it, a block at a time. A part has no checksum: check what you read.

    An object that is stored gzip-encoded has no parts, so all of it is read, up to 1 GiB unpacked.
    """
    blob = _ask(url, "storage.objects.get", lambda: _metadata(url))
    if blob.content_encoding == "gzip":
        data = read(url, _UNPACKED)
        if len(data) > _UNPACKED:
            raise MusicError(f"{url}: expected at most {_UNPACKED:,} bytes, unpacked, as it is stored gzip-encoded")
        return io.BytesIO(data)
    return io.BufferedReader(_Parts(url, blob.generation, blob.size), _BLOCK)  # type: ignore[type-var]


def write(url: str, file: BinaryIO, expected: int | None = None) -> int:
    """Write an object.

    Args:
        file: read from its beginning to its end, again at each try.
        expected: the generation that the object must have now, 0: there is no such object; None: any.

    Returns:
        The new generation.

    Raises:
        Conflict: the object has another generation.
        StorageError: it cannot be written.
    """
    size, crc32c = _measure(file)
    attempts = 0

    def attempt() -> int:
        nonlocal attempts
        attempts += 1
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
            stored = _stored(url)  # it is our own if an earlier try succeeded and only its answer was lost
            if attempts == 1 or stored is None or stored.crc32c != crc32c:
                raise
            blob = stored
        return int(blob.generation)

    return _ask(url, "storage.objects.create", attempt)


def generation(url: str) -> int:
    """Look up an object's generation, a number that changes with every write; 0 where there is no such object."""
    blob = _ask(url, "storage.objects.get", lambda: _stored(url))
    return int(blob.generation) if blob else 0


def listed(url: str, *, deep: bool) -> Iterator[Object]:
    """List the objects whose URLs begin with `url`. Unless `deep`, a folder behind it is listed once, as its name with
    a slash, instead of the objects in it."""
    bucket, prefix = split(url)
    token = None
    while True:
        page, folders, token = _ask(url, "storage.objects.list", functools.partial(_page, bucket, prefix, deep, token))
        yield from (Object(blob.name, blob.size) for blob in page)
        yield from (Object(folder, 0) for folder in folders)
        if not token:
            return


def remove(url: str) -> None:
    """Remove an object if it is there."""

    def attempt() -> None:
        try:
            _blob(url).delete(timeout=TIMEOUT, retry=None)
        except Exception as error:
            if not gcs_errors.is_absent(error):
                raise

    _ask(url, "storage.objects.delete", attempt)


class _Parts(io.RawIOBase):
    """An object as a file to read and seek in; each read requests that part, always of the same generation."""

    def __init__(self, url: str, generation: int, size: int):
        self._url, self._generation, self._size, self._position = url, generation, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        first, last = self._position, min(self._position + len(buffer), self._size) - 1
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
        except FileNotFoundError as error:  # no file in the zip is missing: the zip itself was replaced
            raise StorageError(f"{self._url} was replaced or removed while it was read") from error
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _ask(url: str, right: str, attempt: Callable[[], _Result]) -> _Result:
    """Return attempt(); while it raises temporary errors, try again.

    Args:
        right: the permission that the request needs, for the error.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the request was refused, or DEADLINE has passed.
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
                raise gcs_errors.translate_error(error, url, right) from error
            now = time.monotonic()
            began = began or now
            if now + pause > began + DEADLINE:
                raise gcs_errors.given_up(error, url, DEADLINE) from error
            if pause > 2:
                _log.warning("%s: %s; trying again", url, gcs_errors.short(error))
        time.sleep(pause * random.uniform(0.5, 1))  # apart, where many workers fail at once
        pause = min(2 * pause, PAUSES[1])


def _bucket_is_there(url: str) -> bool:
    """Tell whether the bucket exists: for an absent object and an absent bucket alike the server answers 404."""
    bucket, _ = split(url)
    try:
        _page(bucket, "", True, None, size=1)
    except Exception as error:
        return not gcs_errors.is_absent(error)  # a bucket that we may not list may exist
    return True


def _blob(url: str, generation: int | None = None) -> "Blob":
    bucket, name = split(url)
    if not name or name.endswith("/"):
        raise StorageError(f"{url}: expected a file in a bucket, gs://BUCKET/NAME")
    return _client().bucket(bucket).blob(name, generation=generation)


def _metadata(url: str) -> "Blob":
    blob = _blob(url)
    blob.reload(timeout=TIMEOUT, retry=None)
    return blob


def _stored(url: str) -> "Blob | None":
    try:
        return _metadata(url)
    except Exception as error:
        if gcs_errors.is_absent(error) and _bucket_is_there(url):
            return None
        raise


def _page(bucket: str, prefix: str, deep: bool, token: str | None, size: int | None = None):
    """Request one page of a listing: objects, folders, and the token of the next page."""
    blobs = _client().list_blobs(
        bucket,
        prefix=prefix or None,
        delimiter=None if deep else "/",
        page_token=token,
        page_size=size,
        fields="items(name,size),prefixes,nextPageToken",
        timeout=TIMEOUT,
        retry=None,
    )
    page = list(next(blobs.pages, ()))
    return page, sorted(blobs.prefixes), blobs.next_page_token


def _measure(file: BinaryIO) -> tuple[int, str]:
    """Compute a file's size and its crc32c, in base 64 as the server has it."""
    file.seek(0)
    checksum, size = google_crc32c.Checksum(), 0
    while part := file.read(_BLOCK):
        checksum.update(part)
        size += len(part)
    return size, base64.b64encode(checksum.digest()).decode()


def _client() -> "Client":
    """Get this process' client, which its threads share. It talks to the emulator that STORAGE_EMULATOR_HOST names."""
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
        raise MissingDependency(f"gs:// needs {error.name}; `pip install '.[cloud]'` brings it") from error

    class ShortTimeout(Request):
        """Wait for the metadata server for a second instead of half a minute."""

        def __call__(self, url, method="GET", body=None, headers=None, timeout=None, **rest):
            return super().__call__(url, method, body, headers, _CREDENTIALS, **rest)

    # otherwise, where OpenTelemetry is installed, the library requests the bucket's metadata, which a user of objects
    # may not be allowed to read
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    login: credentials.Credentials
    if anonymous:
        login = credentials.AnonymousCredentials()
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your application has authenticated using end user credentials")
            login, _ = default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"], request=ShortTimeout())
    client = Client(project=None, credentials=login)  # no request of ours needs a project
    client._http.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=64))  # threads of a Beam worker
    return client
