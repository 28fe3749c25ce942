"""A Backend that speaks to TF Serving over gRPC. Never imports TensorFlow; knows nothing of music.

Calls are pure functions of their inputs (state and noise are inputs), so a call that met a broken connection is simply
made again, once; a server that has too much to do is not asked again. gRPC's status codes become our errors here and
nowhere else.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping

import grpc
import numpy as np

from music import wire
from music.errors import BackendError, DeadlineExceeded, Overloaded, RecordError, Unavailable
from music.generation import Reply

RETRY_PAUSE = 0.1  # seconds before a call is made again
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # a Transformer's state is megabytes
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),  # a server that comes back is found at once,
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),  # not after gRPC's usual two minutes
]
_ERRORS = {
    grpc.StatusCode.NOT_FOUND: Unavailable,  # the model, or the version that began the piece, was unloaded
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,  # we never cancel: the server went down in the middle of the call
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
_QUEUE_FULL = "queue to which this task was submitted is full"  # TF Serving calls that UNAVAILABLE as well


def _is_queue_full(error: grpc.RpcError) -> bool:
    return _QUEUE_FULL in (error.details() or "")


class TFServing:
    """One model of one TF Serving.

    Args:
        address: host:port of its gRPC side.
        name: what the server calls the model.
    """

    def __init__(self, address: str, name: str):
        self._address = address
        self._name = name
        self._lock = threading.Lock()
        self._owner: int | None = None  # the process that opened the channel
        self._predict: Callable

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """See Backend. `timeout` is a deadline for both tries together."""
        request = wire.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(wire.to_tensor(array))
        answer = self._send(request, timeout)
        try:
            outputs = {name: wire.from_tensor(tensor) for name, tensor in answer.outputs.items()}
        except RecordError as error:
            raise BackendError(f"{self._where}: {signature} answered {error}") from error
        return Reply(outputs, answer.model_spec.version.value)

    def _send(self, request, timeout: float | None):
        deadline = None if timeout is None else time.monotonic() + timeout
        predict = self._connected()
        try:
            return predict(request, timeout=timeout)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or _is_queue_full(error):
                raise self._ours(error) from error
        time.sleep(RETRY_PAUSE)
        try:
            return predict(request, timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except grpc.RpcError as error:
            raise self._ours(error) from error

    def _connected(self) -> Callable:
        """Predict, on a channel opened by this very process: gRPC does not survive gunicorn's fork (grpc#29586)."""
        with self._lock:
            if self._owner != os.getpid():
                channel = grpc.insecure_channel(self._address, options=_OPTIONS)
                self._predict = channel.unary_unary(
                    wire.PREDICT,
                    request_serializer=wire.PredictRequest.SerializeToString,
                    response_deserializer=wire.PredictResponse.FromString,
                )
                self._owner = os.getpid()
            return self._predict

    def _ours(self, error: grpc.RpcError) -> BackendError:
        kind = _ERRORS.get(error.code(), BackendError)
        if _is_queue_full(error):
            kind = Overloaded
        return kind(f"{self._where}: {error.details()} ({error.code().name})")

    @property
    def _where(self) -> str:
        return f"model {self._name!r} at {self._address}"
