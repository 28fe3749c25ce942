"""A Backend that speaks to TF Serving over gRPC. Never imports TensorFlow; knows nothing of music.

Calls are pure functions of their inputs (state and noise are inputs). So a call that met a broken connection is sent
again, once; an overloaded server gets no second call. gRPC's status codes become our errors here and nowhere else.
Over TLS a call may carry a token; in plain text it never does.
"""

import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import numpy as np

from music import wire
from music.errors import BackendError, DeadlineExceeded, Overloaded, RecordError, SettingError, Unavailable
from music.generation import Reply
from serving.backends.credentials import Token
from serving.backends.xla import TWINS, signature_outputs, twin_inputs

RETRY_PAUSE = 0.1  # seconds before a call is sent again
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # a Transformer's state is megabytes
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),  # connect at once to a server that comes back,
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),  # not after gRPC's usual two minutes
]
_ERRORS = {
    grpc.StatusCode.NOT_FOUND: Unavailable,  # the model, or the version that began the piece, was unloaded
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,  # we never cancel: the server went down in the middle of the call
    grpc.StatusCode.UNAUTHENTICATED: Unavailable,  # the fault is ours, not the client's
    grpc.StatusCode.PERMISSION_DENIED: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
_HINTS = {  # words in gRPC's message → what to do about it
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not vouched for, see --ca",
    "Hostname Verification Check failed": "its certificate is another host's",
    "WRONG_VERSION_NUMBER": "it does not speak TLS, leave out --tls",
    "(UNAUTHENTICATED)": "it wants a token that holds, see --identity-token and --token-file",
    "XLA compilation disabled": "start it with --xla_cpu_compilation_enabled, or us without --xla",
    '_xla" not found': "this export has no compiled signatures, start us without --xla",
    "(PERMISSION_DENIED)": "who we are may not call it: for Cloud Run, grant roles/run.invoker",
}
_QUEUE_FULL = "queue to which this task was submitted is full"  # TF Serving calls that UNAVAILABLE as well
_NO_LABEL = re.compile("version[ _]label", re.IGNORECASE)  # and this INVALID_ARGUMENT: unknown, or no labels allowed


def _is_queue_full(error: grpc.RpcError) -> bool:
    return _QUEUE_FULL in (error.details() or "")


def host_of(address: str) -> str:
    """Return the host of HOST:PORT; an IPv6 address stands in brackets. Raises SettingError for anything else."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:/\s]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) <= 65535:
        raise SettingError(f"server: expected HOST:PORT, got {address!r}")
    return match[1]


def authorities(path: str | os.PathLike) -> bytes:
    """Read the certificates in a PEM file. Raises SettingError if there are none."""
    try:
        data = Path(path).read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (OSError, ValueError) as error:
        reason = "it holds no certificate"
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            reason = str(error.strerror)
        raise SettingError(f"ca: expected a file of PEM certificates, got {path}: {reason}") from error
    return data


class TFServing:
    """One model of one TF Serving.

    Args:
        address: host:port of its gRPC side.
        name: what the server calls the model.
        label: what the server calls the version that new pieces begin with; None: the latest version.
        xla: call the compiled twins of its signatures; the server must be started with XLA.
        tls: speak TLS with it.
        ca: a PEM file with certificates of the authorities that certify it; None: gRPC's own list of public ones.
        token: where our tokens come from; only with TLS.

    Raises:
        SettingError: the address is not HOST:PORT, the file has no certificate, or a token would go in plain text.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        label: str | None = None,
        xla: bool = False,
        tls: bool = False,
        ca: str | os.PathLike | None = None,
        token: Token | None = None,
    ):
        host_of(address)
        if (ca or token) and not tls:
            raise SettingError("a certificate or a token is for TLS: expected tls as well")
        self._address = address
        self._name = name
        self._label = label
        self._twins = TWINS if xla else {}
        self._tls = tls
        self._ca = authorities(ca) if ca else None
        self._token = token
        self._lock = threading.Lock()
        self._process: int | None = None  # the process that opened the channel
        self._predict: Callable

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """See Backend. `timeout` limits both attempts together."""
        request = wire.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.signature_name = self._twins.get(signature, signature)
        if signature in self._twins:
            inputs = twin_inputs(signature, inputs)
        if version is not None:
            request.model_spec.version.value = version
        elif self._label is not None:
            request.model_spec.version_label = self._label
        for name, array in inputs.items():
            wire.to_tensor(array, request.inputs[name])
        answer = self._send(request, timeout)
        try:
            outputs = {name: wire.from_tensor(tensor) for name, tensor in answer.outputs.items()}
            if signature in self._twins:
                outputs = dict(signature_outputs(signature, outputs))
        except RecordError as error:
            raise BackendError(f"{self._target}: {signature} answered {error}") from error
        return Reply(outputs, answer.model_spec.version.value)

    def _send(self, request, timeout: float | None):
        deadline = None if timeout is None else time.monotonic() + timeout
        predict = self._connected()
        token = self._token.bearer() if self._token else None

        def send():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            return predict(request, timeout=left, metadata=_authorization(token))

        try:
            return send()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED and self._token:
                fresh = self._token.bearer(refused=token)
                if fresh == token:
                    raise self._translated(error) from error
                token = fresh
            elif error.code() is grpc.StatusCode.UNAVAILABLE and not _is_queue_full(error):
                time.sleep(RETRY_PAUSE)
            else:
                raise self._translated(error) from error
        try:
            return send()
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def _connected(self) -> Callable:
        """Return Predict on a channel that this process opened: gRPC does not survive gunicorn's fork (grpc#29586)."""
        with self._lock:
            if self._process != os.getpid():
                channel = self._channel()
                self._predict = channel.unary_unary(
                    wire.PREDICT,
                    request_serializer=wire.PredictRequest.SerializeToString,
                    response_deserializer=wire.PredictResponse.FromString,
                )
                self._process = os.getpid()
            return self._predict

    def _channel(self) -> grpc.Channel:
        if not self._tls:
            return grpc.insecure_channel(self._address, options=_OPTIONS)
        return grpc.secure_channel(self._address, grpc.ssl_channel_credentials(self._ca), options=_OPTIONS)

    def _translated(self, error: grpc.RpcError) -> BackendError:
        kind = _ERRORS.get(error.code(), BackendError)
        message = f"{' '.join((error.details() or '').split())} ({error.code().name})"
        if _is_queue_full(error):
            kind = Overloaded
        elif error.code() is grpc.StatusCode.INVALID_ARGUMENT and self._label and _NO_LABEL.search(message):
            kind = Unavailable
        hints = [f"{hint}: " for words, hint in _HINTS.items() if words in message]
        if "Socket closed" in message and not self._tls:
            hints = ["it went away, or wants TLS, see --tls: "]
        return kind(f"{self._target}: {''.join(hints[:1])}{message}")

    @property
    def _target(self) -> str:
        label = f", label {self._label!r}," if self._label else ""
        return f"model {self._name!r}{label} at {self._address}"


def _authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """Write a token as metadata of a call."""
    return (("authorization", f"Bearer {token}"),) if token else ()
