"""Test doubles: a Backend that plays a script, a toy SavedModel, and a model server that answers as TF Serving does.

TensorFlow is imported where it is needed and not before, so that tests of the front end alone stay quick.
"""

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from music import notes as nt
from music.encodings import NoteRows
from music.encodings.columns import END, FIRST, Column
from music.errors import Unavailable
from music.generation import Reply
from music.notes import Notes
from tests.support.batching import Batcher, Batching, Refused, Run

ENCODING = NoteRows(
    Column("step", 0, 5, 501),
    Column("pitch", 21, 108, 88),
    Column("velocity", 1, 127, 127),
    Column("duration", 0.01, 5, 500),
)
F = len(ENCODING.columns)
OTHER = NoteRows(  # another vocabulary: other columns in another order, and pitches that do not reach as low
    Column("pitch", 40, 90, 51),
    Column("step", 0, 10, 101),
    Column("duration", 0.1, 10, 100),
    Column("velocity", 1, 127, 127),
    Column("program", 0, 127, 128),
)


def card(encoding: NoteRows) -> dict:
    """Build a toy model's card."""
    state = {"row": {"shape": [len(encoding.columns)], "dtype": "int32"}, "at": {"shape": [1], "dtype": "float32"}}
    return {"schema": 1, "recipe": "toy", "encoding": encoding.config(), "state": state}


CARD = card(ENCODING)


CONTROLS = {
    "use": True,
    "styles": ["Claude Debussy", "Frédéric Chopin"],
    "density": [1.0, 5.0, 10.0],
    "loudness": [40.0, 60.0, 80.0],
}


class ScriptedBackend:
    """Plays `notes`, whatever the seed is, and then ends the piece. Keeps the arguments of its calls.

    Args:
        notes: the notes that the model "draws"; their times begin at the seed's last onset.
        version: of the model; may change in the middle of a piece, as on a model server.
        on_call: runs before each call with (number of the call, signature), and may raise.
    """

    def __init__(self, notes: Notes, *, version: int = 1, on_call: Callable[[int, str], None] = lambda n, name: None):
        self.rows = ENCODING.encode(notes, begin=False, end=True, after=0.0)
        self.version = version
        self.on_call = on_call
        self.calls: list[tuple[str, int | None, float | None]] = []
        self.card = CARD

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        self.calls.append((signature, version, timeout))
        self.on_call(len(self.calls), signature)
        if version not in (None, self.version):
            raise Unavailable(f"version {version} is gone")
        outputs = {
            "describe": self._describe, "prime": self._prime, "step": self._step, "generate": self._generate
        }[signature](inputs)  # fmt: skip
        return Reply(outputs, self.version)

    def _describe(self, inputs):
        return {"card": np.array([json.dumps(self.card).encode()], object)}

    def _prime(self, inputs):
        """Return a state behind the last primed row, if it is one of this script's rows; else at the script's begin."""
        last = inputs["rows"][0, inputs["length"][0] - 1]
        same = (self.rows == last).all(axis=1)
        at = int(same.argmax()) + 1 if same.any() else 0
        return {"state_row": last[None], "state_at": np.full((1, 1), at, "f4")}

    def _step(self, inputs):
        reply = self._generate({**inputs, "count": np.array([1])})
        return {"row": reply.pop("rows")[:, 0], **reply}

    def _generate(self, inputs):
        at, count = int(inputs["state_at"][0, 0]), int(inputs["count"][0])
        rows = np.full((1, 32, F), END, "i4")
        played = self.rows[at : at + count]
        rows[0, : len(played)] = played
        return {"rows": rows, "state_row": rows[:, count - 1], "state_at": inputs["state_at"] + np.float32(count)}


class AskedBackend(ScriptedBackend):
    """A scripted model with controls; `asked` is what the state carried in each call that draws."""

    def __init__(self, notes: Notes):
        super().__init__(notes)
        state = CARD["state"] | {"controls": {"shape": [4], "dtype": "float32"}}
        self.card = CARD | {"controls": CONTROLS, "state": state}
        self.asked: list[list[float]] = []

    def _prime(self, inputs):
        return super()._prime(inputs) | {"state_controls": inputs["state_controls"]}

    def _generate(self, inputs):
        self.asked.append(inputs["state_controls"][0].tolist())
        return super()._generate(inputs) | {"state_controls": inputs["state_controls"]}


def melody(count: int, pitch: int = 60) -> Notes:
    """Make a seed, or a script: `count` notes, 0.25 s apart, rising and falling by a third."""
    return nt.from_tuples([(n / 4, n / 4 + 0.25, pitch + n % 4, 60 + n % 40) for n in range(count)])


def save_toy_model(base: Path, version: int, encoding: NoteRows = ENCODING) -> Path:
    """Write <base>/toy/<version>: a model with all signatures, which is not musical but a pure function of its inputs.

    Each note depends on the noise, on the row before it, and on the number of rows before it. Its velocity is the
    model's version.
    """
    import tensorflow as tf

    F = len(encoding.columns)
    sizes = np.array([column.size for column in encoding.columns], "f4")
    velocity = encoding.names.index("velocity")

    def spec(*shape, dtype=tf.float32):
        return tf.TensorSpec((None, *shape), dtype)

    row, at = spec(F, dtype=tf.int32), spec(1)
    state = {"state_row": row, "state_at": at}
    how = {name: spec() for name in ("temperature", "top_p", "min_p")}

    def advance(noise, temperature, state_row, state_at):
        features = tf.cast(state_row, tf.float32) * 0.37 + state_at * 0.11
        mixed = tf.math.mod(features + noise * tf.sign(temperature)[:, None], 1)
        drawn = tf.cast(mixed * 0.1 * sizes, tf.int32) + FIRST
        is_velocity = tf.one_hot(velocity, F, dtype=tf.int32)
        return drawn * (1 - is_velocity) + is_velocity * (FIRST - 1 + version), state_at + 1

    module = tf.Module()
    module.card = tf.saved_model.Asset(_written(base / "card.json", json.dumps(card(encoding))))

    @tf.function(input_signature=[spec(dtype=tf.int32)])
    def describe(batch):
        return {"card": tf.fill(tf.shape(batch), tf.io.read_file(module.card))}

    def prime(rows, length, state_row, state_at):
        last = tf.gather(rows, tf.maximum(length - 1, 0), batch_dims=1)
        row = tf.where((length > 0)[:, None], last, state_row)
        return {"state_row": row, "state_at": state_at + tf.cast(length, tf.float32)[:, None]}

    def step(noise, temperature, top_p, min_p, state_row, state_at):
        state_row, state_at = advance(noise, temperature, state_row, state_at)
        return {"row": state_row, "state_row": state_row, "state_at": state_at}

    def generate(noise, count, temperature, top_p, min_p, state_row, state_at):
        rows = []
        for n in range(32):
            new, after = advance(noise[:, n], temperature, state_row, state_at)
            on = (n < count)[:, None]
            state_row, state_at = tf.where(on, new, state_row), tf.where(on, after, state_at)
            rows.append(new)
        return {"rows": tf.stack(rows, 1), "state_row": state_row, "state_at": state_at}

    def signature(function, **inputs):
        return tf.function(function).get_concrete_function(
            **{name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()}
        )

    folder = base / "toy" / str(version)
    stepping = signature(step, noise=spec(F), **how, **state)
    tf.saved_model.save(module, str(folder), signatures={
        "describe": describe,
        "prime": signature(prime, rows=spec(64, F, dtype=tf.int32), length=spec(dtype=tf.int32), **state),
        "step": stepping,
        "serving_default": stepping,
        "generate": signature(generate, noise=spec(32, F), count=spec(dtype=tf.int32), **how, **state),
    })  # fmt: skip
    return folder


def roll(server: "ModelServer", versions: Iterable[int], /, **labels: int) -> None:
    """Send a model server the versions to keep, and their labels, as an operator does."""
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    config = ModelServerConfig()
    model = config.model_config_list.config.add(name=server.name, base_path="/models", model_platform="tensorflow")
    model.model_version_policy.specific.versions.extend(versions)
    model.version_labels.update(labels)
    server.reload(config)


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@functools.cache
def _loaded(folder: Path):
    """Load a SavedModel once: it takes seconds, so the servers of all tests share it."""
    import tensorflow as tf

    return tf.saved_model.load(str(folder))


class ModelServer:
    """A gRPC server on 127.0.0.1 with the official stubs, and with TF Serving's own error codes and messages.

    Args:
        base: the folder of a model's versions, <base>/<version>/; its name is the model's name.
        versions: those to load at first; None: the newest one.
        content: answer with `tensor_content` instead of typed lists (--enable_serialization_as_tensor_content).
        batching: how calls are joined into batches; None: each call runs by itself.
        threads: calls at once; one more is refused (--grpc_max_threads, TF Serving's default is 4 a core).
        labels_ahead: a new label may be given to a version that is not loaded yet
            (--allow_version_labels_for_unavailable_models).
        compiles: answer calls of signatures that XLA compiles (--xla_cpu_compilation_enabled).
        tls: key and certificate as PEM; None: plain text.

    The numbers in comments are rows of the table that TF Serving's behaviour was written down in (FACTS 6).
    """

    def __init__(
        self,
        base: Path,
        *,
        versions: list[int] | None = None,
        content: bool = False,
        batching: Batching | None = None,
        threads: int = 64,
        labels_ahead: bool = False,
        compiles: bool = False,
        tls: tuple[bytes, bytes] | None = None,
    ):
        self.name = Path(base).name
        self._labels_ahead, self._compiles, self._tls = labels_ahead, compiles, tls
        self._labels: dict[str, int] = {}
        self._policy = None
        self.tokens: set[str] | None = None  # bearer tokens that are accepted; None: no token is needed
        self.shown: list[str | None] = []  # the `authorization` of each call
        self._base, self._content = Path(base), content
        self._models: dict[int, object] = {}
        self._gone: set[int] = set()
        self._failures: list[tuple[grpc.StatusCode, str]] = []
        self._batcher = Batcher(batching) if batching else None
        self._threads, self._free = threads, threading.BoundedSemaphore(threads)
        self.on_call: Callable[[int], None] = lambda n: None  # runs before each Predict, with its number
        self.calls: list[tuple[str, int]] = []  # (signature, batch) of each Predict
        self.requested: list[tuple[str, str | int | None]] = []  # (signature, label or version) of each Predict
        self.port = 0
        for version in versions or [max(self._stored())]:
            self.load(version)
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def runs(self) -> list[Run]:
        """Return all runs of the model, with the numbers of their calls and rows."""
        return self._batcher.runs

    def load(self, version: int) -> None:
        folder = next(self._base / name for name in self._names() if int(name) == version)  # 00000123 is 123 (32)
        self._models = {**self._models, version: _loaded(folder.resolve())}
        self._gone.discard(version)

    def unload(self, version: int) -> None:
        self._models = {other: model for other, model in self._models.items() if other != version}
        self._gone.add(version)

    def reload(self, config) -> None:
        """Follow a ModelServerConfig: set the labels, then load new versions, then unload old ones.

        Raises:
            Refused: as HandleReloadConfigRequest would be; then nothing has changed.
        """
        if config.WhichOneof("config") != "model_config_list":  # 36
            message = "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{message} currently supported")
        models = [model for model in config.model_config_list.config if model.name == self.name]
        labels = {label: version for model in models for label, version in model.version_labels.items()}
        for label, version in labels.items():
            ahead = self._labels_ahead and self._labels.get(label, version) == version
            if version not in self._models and not ahead:  # 31
                message = f"Request to assign label to version {version} of model {self.name}, which is not currently"
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"{message} available for inference")
        self._labels = labels
        self._policy = models[0].model_version_policy if models else None
        self._aspire(self._selected() if models else [])

    def poll(self) -> None:
        """Look for versions, as TF Serving does every second, and load those that the policy selects (32, 34)."""
        self._aspire(self._selected())

    def _stored(self) -> list[int]:
        return sorted(int(name) for name in self._names())

    def _names(self) -> list[str]:
        return [folder.name for folder in self._base.iterdir() if folder.name.isdecimal()]

    def _selected(self) -> list[int]:
        stored, policy = self._stored(), self._policy
        choice = policy.WhichOneof("policy_choice") if policy else None
        if choice == "specific":
            return [version for version in stored if version in policy.specific.versions]
        if choice == "all":
            return stored
        return stored[-(policy.latest.num_versions if policy else 1) or -1 :]

    def _aspire(self, versions: list[int]) -> None:
        for version in versions:
            if version not in self._models:
                self.load(version)
        for version in set(self._models) - set(versions):
            self.unload(version)

    def fail(self, code: grpc.StatusCode, message: str, times: int = 1) -> None:
        """Answer the next `times` calls with an error."""
        self._failures += [(code, message)] * times

    def start(self) -> None:
        """Start to listen, on the same port as before, if there was one."""
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        server = grpc.server(
            futures.ThreadPoolExecutor(self._threads + 8),  # some more, to refuse with
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        predictions = prediction_service_pb2_grpc.PredictionServiceServicer()
        predictions.Predict = self._answering(self._predict)
        statuses = model_service_pb2_grpc.ModelServiceServicer()
        statuses.GetModelStatus = self._answering(self._status)
        statuses.HandleReloadConfigRequest = self._answering(self._reload)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(statuses, server)
        if self._tls:
            self.port = server.add_secure_port(self.address, grpc.ssl_server_credentials([self._tls]))
        else:
            self.port = server.add_insecure_port(self.address)
        server.start()
        self._server = server

    def stop(self) -> threading.Event:
        """Stop at once, as a killed server does; wait for the event to be sure, but not in `on_call`."""
        return self._server.stop(0)

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *error) -> None:
        self.stop().wait(5)
        if self._batcher:
            self._batcher.close()

    def _answering(self, method: Callable) -> Callable:
        def answer(request, context):
            try:
                self._admit(dict(context.invocation_metadata()).get("authorization"))
                with self._thread():
                    return method(request)
            except Refused as refused:
                message = refused.message
                context.abort(refused.code, message if len(message) <= 1024 else message[:1024] + "...TRUNCATED")  # 22

        return answer

    @contextmanager
    def _thread(self) -> Iterator[None]:
        """Take one of the threads, or refuse at once, as gRPC's own server in C++ does."""
        if not self._free.acquire(blocking=False):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        try:
            yield
        finally:
            self._free.release()

    def _admit(self, authorization: str | None) -> None:
        """Check the token, as a proxy in front of the server does; TF Serving itself checks none."""
        self.shown.append(authorization)
        if self.tokens is not None and authorization not in {f"Bearer {token}" for token in self.tokens}:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the request does not have a valid token")

    def _predict(self, request):
        from tensorflow_serving.apis import predict_pb2

        spec = request.model_spec
        self.calls.append((spec.signature_name, _batch(request)))
        version = spec.version.value if spec.HasField("version") else None
        self.requested.append((spec.signature_name, spec.version_label or version))
        self.on_call(len(self.calls))
        if self._failures:
            raise Refused(*self._failures.pop(0))
        version, model = self._servable(request)
        signature = request.model_spec.signature_name or "serving_default"  # 8
        function = model.signatures.get(signature)
        if function is None:  # 6
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
        if signature.endswith("_xla") and not self._compiles:
            raise Refused(grpc.StatusCode.INTERNAL, "XLA compilation disabled")
        inputs = _inputs(request, function.structured_input_signature[1])
        names = _filtered(request.output_filter, list(function.structured_outputs))
        run = functools.partial(_run, function)
        outputs = self._batcher.call((version, signature), run, inputs) if self._batcher else run(inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name  # 9
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature
        for name in names:
            _fill(response.outputs[name], outputs[name], self._content)
        return response

    def _servable(self, request) -> tuple[int, Any]:
        """Find the requested version and its model, which stays alive while it answers, even if it is unloaded."""
        spec, models = request.model_spec, self._models
        if not request.HasField("model_spec"):  # 1
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        if not spec.name:  # 2
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        requested = spec.version.value if choice == "version" else None
        if choice == "version_label":
            requested = self._labels.get(spec.version_label) if spec.name == self.name else None
            if requested is None:  # 30
                message = f"Unrecognized servable version label: {spec.version_label}"
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        version = max(models, default=None) if requested is None else requested
        if spec.name != self.name or version not in models:  # 3, 4
            which = f"Latest({spec.name})" if requested is None else f"Specific({spec.name}, {requested})"
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")
        return version, models[version]

    def _reload(self, request):
        from tensorflow_serving.apis import model_management_pb2

        self.reload(request.config)
        return model_management_pb2.ReloadConfigResponse()

    def _status(self, request):
        from tensorflow_serving.apis import get_model_status_pb2

        spec = request.model_spec
        if not request.HasField("model_spec"):  # 23
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        versions = sorted({*self._models, *self._gone}) if spec.name == self.name else []
        if not versions:  # 24
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        if spec.HasField("version"):
            if spec.version.value not in versions:  # 25
                message = f"Could not find version {spec.version.value} of model {spec.name}"
                raise Refused(grpc.StatusCode.NOT_FOUND, message)
            versions = [spec.version.value]
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in versions:  # 26: AVAILABLE is 30, END is 50
            status = response.model_version_status.add(version=version, state=30 if version in self._models else 50)
            status.status.SetInParent()
        return response


def _batch(request) -> int:
    shapes = [tensor.tensor_shape.dim for tensor in request.inputs.values()]
    return max((shape[0].size for shape in shapes if shape), default=0)


def _inputs(request, expected: Mapping) -> dict[str, np.ndarray]:
    """Read the request's tensors, and refuse them as TF Serving does; only the kernels check their shapes (15)."""
    import tensorflow as tf

    sent = request.inputs
    if len(sent) != len(expected):  # 10
        extra, missing = sorted(set(sent) - set(expected)), sorted(set(expected) - set(sent))
        raise Refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(expected)} len({{{','.join(sorted(sent))}}}) != "
            f"len({{{','.join(sorted(expected))}}}). Sent extra: {{{','.join(extra)}}}. "
            f"Missing but required: {{{','.join(missing)}}}.",
        )
    inputs = {}
    for n, (name, spec) in enumerate(sorted(expected.items())):
        if name not in sent:  # 11
            message = f'tensor "{name}": input alias not found in request and no default value provided'
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        try:
            inputs[name] = tf.make_ndarray(sent[name])
        except (TypeError, ValueError) as error:  # 13
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"tensor parsing error: {name}") from error
        if tf.as_dtype(inputs[name].dtype) != spec.dtype:  # 14
            message = f"Expects arg[{n}] to be {_type(spec.dtype)} but {_type(inputs[name].dtype)} is provided"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
    return inputs


def _type(dtype) -> str:
    return {"float32": "float", "float64": "double", "object": "string"}.get(dtype.name, dtype.name)


def _varint(number: int) -> bytes:
    """Encode a number as protobuf encodes lengths: seven bits a byte, the lowest first."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _filtered(requested, outputs: list[str]) -> list[str]:
    for n, name in enumerate(requested):
        if name not in outputs:  # 18
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{{{','.join(sorted(outputs))}}}.",
            )
        if name in requested[:n]:  # 19
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {name}")
    return list(requested) or outputs  # 20


def _run(function, inputs: Mapping) -> dict[str, np.ndarray]:
    """Run the graph; an empty batch gives an empty result (17), a kernel's error passes through (15, 16)."""
    import tensorflow as tf

    codes = {code.value[0]: code for code in grpc.StatusCode}
    try:
        outputs = function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}
    except tf.errors.OpError as error:
        raise Refused(codes[error.error_code], error.message) from error
    except (TypeError, ValueError) as error:  # a shape that TensorFlow's Python sees before a kernel does
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error


def _fill(proto, array: np.ndarray, content: bool) -> None:
    """Write an output into a TensorProto (21)."""
    import tensorflow as tf

    dtype = tf.as_dtype(array.dtype)
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if content and dtype != tf.string:
        proto.tensor_content = array.tobytes()
    elif dtype == tf.float32:  # `float_val`, as fast as C++ would write it
        proto.MergeFromString(b"\x2a" + _varint(array.nbytes) + array.tobytes())
    else:
        field = {"int32": "int_val", "int64": "int64_val", "string": "string_val"}[dtype.name]
        getattr(proto, field).extend(array.ravel().tolist())


def scripted(notes: int, pause: float = 0) -> tuple[str, str]:
    """Write a program for `front_end`: the front end before a ScriptedBackend whose calls take `pause` seconds.

    Its model's version is the id of the process that plays.
    """
    return (
        "-c",
        f"""
import os, sys, time
sys.path[:0] = {[str(Path(__file__).parents[2])]}
from tests.support.fakes import ScriptedBackend, melody
from serving import __main__, create_app
from serving.middleware import access_log

class Scripted(__main__.Gunicorn):
    def load(self):
        access_log.open_logs()
        script = ScriptedBackend(melody({notes}), version=os.getpid(), on_call=lambda *_: time.sleep({pause}))
        return create_app(self._config, script)

__main__.Gunicorn, __main__.find_model = Scripted, lambda folder: folder
__main__.run()
""",
    )


@contextmanager
def front_end(*flags: str, program: Iterable[str] = ("-m", "serving"), stdout=None, **environ: str) -> Iterator[str]:
    """Run `python -m serving`, or another program, as a process on a free port; yield its address, and end it."""
    process = subprocess.Popen(
        [sys.executable, *program, "--port", "0", *flags],
        stdout=stdout, stderr=subprocess.PIPE, text=True, env={**os.environ, "WEB_CONCURRENCY": "1", **environ},
    )  # fmt: skip
    address: futures.Future = futures.Future()
    log = []

    def listen() -> None:
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"Listening at: (http://\S+)", line):
                address.set_result(match[1])

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    try:
        yield address.result(timeout=60)
    except futures.TimeoutError as error:
        raise AssertionError("the front end did not start:\n" + "".join(log)) from error
    finally:
        process.terminate()
        try:
            process.wait(60)  # a compiler may be at work
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
            raise
        finally:
            reader.join(5)
            process.stderr.close()
