"""The gRPC side, over a real socket: the double answers as TF Serving does, and a piece comes out as from Embedded."""

import json
import re
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import requests

from infra.demo import __main__ as demo
from music import midi, wire
from music.errors import BackendError, DeadlineExceeded, Overloaded, Unavailable
from music.generation import CHUNK, Card, Generator, Reply, Settings
from serving import create_app
from serving.backends.embedded import Embedded
from serving.backends.tfserving import TFServing
from tests.support import tfs_config
from tests.support.batching import Batching
from tests.support.fakes import CARD, F, ModelServer, front_end, melody

SEED = melody(70)  # more than one block of `prime`
PRIME = {
    "rows": np.full((1, 64, F), 5, "i4"),
    "length": np.array([64], "i4"),
    **Card.parse(json.dumps(CARD)).empty_state(),
}
URL = "/generate?random_seed=5&notes=70"
Code = grpc.StatusCode


@pytest.fixture
def server(toys):
    with ModelServer(toys, versions=[1]) as server:
        yield server


@pytest.fixture
def backend(server):
    return TFServing(server.address, "toy")


@pytest.fixture(scope="module")
def embedded(tiny_export):
    return Embedded(tiny_export, xla=False)  # what is compiled answers otherwise, where a draw falls within rounding


def post(backend, url=URL, **config):
    return create_app(config, backend).test_client().post(url, data=midi.write(SEED), content_type="audio/midi")


def piece(backend, url=URL, **config) -> bytes:
    response = post(backend, url, **config)
    assert response.status_code == 200, response.text
    return response.data


def lines_of(response):
    """Yield a stream's lines as they come; each pull calls the model for more."""
    for part in response.response:
        text = part if isinstance(part, str) else part.decode()
        yield from map(json.loads, text.splitlines())


# The double answers as TF Serving does: the numbers are rows of FACTS 6


def predict(server, change):
    """Send a Predict that `change` has made wrong, with the official stubs."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    request.model_spec.signature_name = "prime"
    for name, array in PRIME.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    change(request)
    with grpc.insecure_channel(server.address) as channel:
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=20)


def put(name, array):
    def change(request):
        import tensorflow as tf

        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))

    return change


def spec(**fields):
    def change(request):
        for name, value in fields.items():
            setattr(request.model_spec, name, value)

    return change


def at_version(number):
    return lambda request: setattr(request.model_spec.version, "value", number)


def without_type(request):
    request.inputs["length"].dtype = 0


def rename(request):
    request.inputs["size"].CopyFrom(request.inputs["length"])
    del request.inputs["length"]


def filtered(*names):
    return lambda request: request.output_filter.extend(names)


@pytest.mark.parametrize(
    ("row", "change", "code", "message"),
    [
        (1, lambda request: request.ClearField("model_spec"), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (2, spec(name=""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (3, spec(name="x"), Code.NOT_FOUND, "Servable not found for request: Latest(x)"),
        (4, at_version(7), Code.NOT_FOUND, "Servable not found for request: Specific(toy, 7)"),
        (6, spec(signature_name="x"), Code.FAILED_PRECONDITION, 'Serving signature key "x" not found.'),
        (
            10,
            lambda request: request.inputs.pop("length"),
            Code.INVALID_ARGUMENT,
            "input size does not match signature: 3!=4 len({rows,state_at,state_row}) != "
            "len({length,rows,state_at,state_row}). Sent extra: {}. Missing but required: {length}.",
        ),
        (11, rename, Code.INVALID_ARGUMENT, "input alias not found in request and no default value provided"),
        (13, without_type, Code.INVALID_ARGUMENT, "tensor parsing error: length"),
        (
            14,
            put("rows", np.zeros((1, 64, F), "f4")),
            Code.INVALID_ARGUMENT,
            "Expects arg[1] to be int32 but float is provided",
        ),
        (15, put("rows", np.zeros((1, 63, F), "i4")), Code.INVALID_ARGUMENT, "63"),
        (16, put("length", np.array([99], "i4")), Code.INVALID_ARGUMENT, "98"),
        (
            18,
            filtered("x"),
            Code.INVALID_ARGUMENT,
            "output tensor alias not found in signature: x Outputs expected to be in the set {state_at,state_row}.",
        ),
        (19, filtered("state_at", "state_at"), Code.INVALID_ARGUMENT, "duplicate output tensor alias: state_at"),
        (30, spec(version_label="best"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: best"),
    ],
)
def test_the_double_refuses_as_tf_serving_does(server, row, change, code, message):
    with pytest.raises(grpc.RpcError) as error:
        predict(server, change)
    assert error.value.code() is code and message in error.value.details()


def test_the_double_answers_as_tf_serving_does(server):
    response = predict(server, lambda request: None)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 1, "prime")  # 9
    assert set(response.outputs) == {"state_row", "state_at"}  # 20
    assert response.outputs["state_row"].int_val and not response.outputs["state_row"].tensor_content  # 21
    assert set(predict(server, filtered("state_at")).outputs) == {"state_at"}


def test_the_double_echoes_the_default_signature(server):
    def default(request):
        step = {"noise": np.zeros((1, F), "f4"), "temperature": np.ones(1, "f4"), "top_p": np.ones(1, "f4")}
        for name in ("rows", "length"):
            del request.inputs[name]
        for name, array in {**step, "min_p": np.zeros(1, "f4")}.items():
            put(name, array)(request)
        request.model_spec.ClearField("signature_name")

    assert predict(server, default).model_spec.signature_name == "serving_default"  # 8


def test_the_double_answers_an_empty_batch(server):
    def empty(request):
        for name, array in PRIME.items():
            put(name, array[:0])(request)

    assert predict(server, empty).outputs["state_row"].tensor_shape.dim[0].size == 0  # 17


def test_the_double_cuts_long_messages(server):
    server.fail(Code.INTERNAL, "x" * 2000)
    with pytest.raises(grpc.RpcError) as error:
        predict(server, lambda request: None)
    assert error.value.details() == "x" * 1024 + "...TRUNCATED"  # 22


def test_the_double_tells_the_status_of_versions(server):
    server.load(2)
    server.unload(1)
    with grpc.insecure_channel(server.address) as channel:
        status = channel.unary_unary(
            wire.GET_MODEL_STATUS,
            request_serializer=wire.GetModelStatusRequest.SerializeToString,
            response_deserializer=wire.GetModelStatusResponse.FromString,
        )

        def refused(request):
            with pytest.raises(grpc.RpcError) as error:
                status(request, timeout=20)
            return error.value.code(), error.value.details()

        request = wire.GetModelStatusRequest()
        assert refused(request) == (Code.INVALID_ARGUMENT, "Missing ModelSpec")  # 23
        request.model_spec.name = "x"
        assert refused(request) == (Code.NOT_FOUND, "Could not find any versions of model x")  # 24
        request.model_spec.name = "toy"
        states = [(one.version, one.state) for one in status(request, timeout=20).model_version_status]
        assert states == [(1, 50), (2, 30)]  # 26
        request.model_spec.version.value = 7
        assert refused(request) == (Code.NOT_FOUND, "Could not find version 7 of model toy")  # 25


def test_the_double_merges_only_tensors_of_one_shape(toys):
    with ModelServer(toys, versions=[1], batching=Batching(batch_timeout_micros=500_000)) as server:
        backend = TFServing(server.address, "toy")
        other = {**PRIME, "rows": np.zeros((1, 32, F), "i4")}
        with futures.ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(backend.call, "prime", inputs, timeout=20) for inputs in (PRIME, other)]
            errors = [call.exception(20) for call in calls]
    assert server.runs == [(2, 2, 2)]
    assert all("have different shapes and padding is turned off" in str(error) for error in errors)  # 43


def together(server, count, signature="prime", rows=1):
    """Make so many calls at once; return what each got, an error or its reply."""
    inputs = {name: np.repeat(array, rows, axis=0) for name, array in PRIME.items()}
    backend = TFServing(server.address, "toy")
    with futures.ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(backend.call, signature, inputs, timeout=60) for _ in range(count)]
        return [call.exception(60) or call.result() for call in calls]


def test_the_double_fills_a_batch_up_to_an_allowed_size(toys):
    with ModelServer(toys, versions=[1], batching=Batching.read()) as server:
        (reply,) = together(server, 1)
        (three,) = together(server, 1, rows=3)
        (many,) = together(server, 1, rows=33)
    assert reply.outputs["state_at"].tolist() == [[64.0]] and three.outputs["state_at"].tolist() == [[64.0]] * 3
    assert server.runs == [(1, 1, 1), (1, 3, 8)]
    assert "Task size 33 is larger than maximum input batch size 32" in str(many)


def test_the_double_closes_a_batch_that_is_full(toys):
    patient = Batching(max_batch_size=4, batch_timeout_micros=60_000_000, num_batch_threads=1)
    with ModelServer(toys, versions=[1], batching=patient) as server:  # or the calls would wait for a minute
        assert {type(reply) for reply in together(server, 8)} == {Reply}
    assert server.runs == [(4, 4, 4)] * 2


def test_the_double_refuses_what_its_queue_cannot_hold(toys):
    patient = Batching(max_batch_size=2, batch_timeout_micros=60_000_000, num_batch_threads=1, max_enqueued_batches=1)
    with ModelServer(toys, versions=[1], batching=patient) as server, futures.ThreadPoolExecutor(1) as pool:
        deadline = time.monotonic() + 60
        waiting = None
        while not isinstance(refused := together(server, 1, rows=2)[0], Overloaded):  # until that one has arrived
            assert time.monotonic() < deadline, refused
            if waiting is None or waiting.done():  # it has met the other one in the queue
                waiting = pool.submit(TFServing(server.address, "toy").call, "prime", PRIME, timeout=60)
        assert "currently 1 batches enqueued and max_enqueued_batches is 1" in str(refused)
        assert isinstance(together(server, 1)[0], Reply)  # there is room for one row, which fills the batch
        assert waiting.result(60).version == 1
    assert server.runs[-1] == (2, 2, 2)


def test_the_double_refuses_who_finds_no_thread(toys):
    there, leave = threading.Barrier(3), threading.Event()

    def wait(number):
        if number <= 2:
            there.wait(20)
            leave.wait(20)

    with ModelServer(toys, versions=[1], threads=2) as server, futures.ThreadPoolExecutor(2) as pool:
        server.on_call = wait
        backend = TFServing(server.address, "toy")
        calls = [pool.submit(backend.call, "prime", PRIME, timeout=60) for _ in range(2)]
        there.wait(20)
        with pytest.raises(Overloaded, match="Server Threadpool Exhausted"):
            backend.call("prime", PRIME, timeout=20)
        leave.set()
        assert [call.result(60).version for call in calls] == [1, 1]


# The client


def test_no_tensorflow_is_imported():
    code = """
import sys
import serving.__main__, serving.backends.embedded
from serving.api import problems, requests, responses, routes
from serving import create_app
client = create_app({"SERVER": "127.0.0.1:1", "MODEL_NAME": "toy"}).test_client()
assert client.post("/generate").status_code == 503
print(sorted(name for name in sys.modules if name.split(".")[0] in ("tensorflow", "keras", "apache_beam")))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.stdout == "[]\n", process.stderr


@pytest.mark.parametrize("content", [False, True])
def test_answers_are_read_from_typed_lists_and_from_content(toys, content):
    with ModelServer(toys, content=content) as server:
        reply = TFServing(server.address, "toy").call("prime", PRIME, timeout=20)
    assert reply.version == 2
    assert reply.outputs["state_row"].tolist() == [[5] * F] and reply.outputs["state_row"].dtype == "i4"
    assert reply.outputs["state_at"].tolist() == [[64.0]] and reply.outputs["state_at"].dtype == "f4"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.NOT_FOUND, Unavailable),
        (Code.UNAVAILABLE, Unavailable),
        (Code.CANCELLED, Unavailable),
        (Code.RESOURCE_EXHAUSTED, Overloaded),
        (Code.DEADLINE_EXCEEDED, DeadlineExceeded),
        (Code.FAILED_PRECONDITION, BackendError),
        (Code.INVALID_ARGUMENT, BackendError),
        (Code.INTERNAL, BackendError),
        (Code.UNKNOWN, BackendError),
        (Code.UNIMPLEMENTED, BackendError),
    ],
)
def test_a_code_of_grpc_becomes_an_error_of_ours(server, backend, code, kind):
    server.fail(code, "because", times=2)
    with pytest.raises(BackendError, match=f"model 'toy' at {server.address}: because") as error:
        backend.call("prime", PRIME, timeout=20)
    assert type(error.value) is kind
    assert len(server.calls) == (2 if code is Code.UNAVAILABLE else 1)  # tried again only where it may help


def test_a_full_batching_queue_is_too_many_at_once_and_is_not_asked_again(server, backend):
    server.fail(
        Code.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently 100 tasks are in the queue.",
    )
    response = post(backend)
    assert response.status_code == 429 and response.headers["Retry-After"]
    assert len(server.calls) == 1  # asking again would fill it further


def test_an_unknown_signature_is_a_backend_error_with_the_servers_words(backend):
    with pytest.raises(BackendError, match='Serving signature key "improvise" not found'):
        backend.call("improvise", PRIME, timeout=20)


def test_a_broken_connection_is_tried_once_more(server, backend):
    server.fail(Code.UNAVAILABLE, "Socket closed")
    assert backend.call("prime", PRIME, timeout=20).version == 1
    assert len(server.calls) == 2


def test_a_server_that_is_slow_is_out_of_time(server, backend):
    server.on_call = lambda number: time.sleep(2)
    began = time.monotonic()
    assert post(backend, TIMEOUT=0.3).status_code == 504
    assert time.monotonic() - began < 1.5


def test_no_server_is_found_out_at_once(backend, server):
    server.stop().wait(5)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        backend.call("prime", PRIME, timeout=20)
    assert time.monotonic() - began < 5


def test_an_answer_that_cannot_be_read_is_a_backend_error():
    def strange(request, context):
        response = wire.PredictResponse()
        response.outputs["row"].dtype = 19  # a half
        return response

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service, method = wire.PREDICT.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(
        strange, wire.PredictRequest.FromString, wire.PredictResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(BackendError, match="DataType 19"):
            TFServing(f"127.0.0.1:{port}", "toy").call("step", {}, timeout=20)
    finally:
        server.stop(0).wait(5)


# A piece over gRPC is the piece from Embedded


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("chunk", [1, 32])
def test_the_same_bytes_embedded_and_over_grpc(tiny_export, embedded, content, chunk):
    with ModelServer(tiny_export / "performance", content=content) as server:
        remote = piece(TFServing(server.address, "performance"), CHUNK=chunk)
        signatures = {signature for signature, _ in server.calls}
    assert remote == piece(embedded)
    assert signatures == {"describe", "prime", "step"} | ({"generate"} if chunk > 1 else set())


@pytest.mark.parametrize("chunk", [1, 32])
def test_the_same_bytes_alone_and_among_others(tiny_export, embedded, chunk):
    """Clients whose calls the server joins, each with a piece of its own, get what they get alone."""
    urls = [f"/generate?random_seed={n}&notes=40&temperature={0.5 + n / 4}" for n in range(5)]
    with ModelServer(tiny_export / "performance", batching=Batching(batch_timeout_micros=20_000)) as server:
        backend = TFServing(server.address, "performance")
        with futures.ThreadPoolExecutor(5) as pool:
            together = list(pool.map(lambda url: piece(backend, url, CHUNK=chunk), urls))
        assert max(run.calls for run in server.runs) > 1
    assert together == [piece(embedded, url) for url in urls]


def test_thirty_two_listeners_are_not_refused_with_our_configuration(tiny_export, embedded):
    """batching.config and the threads that compose.yaml gives; a queue or threads too few would be a 429."""
    (threads,) = re.findall(r"--grpc_max_threads=(\d+)", (tfs_config.INFRA / "compose.yaml").read_text())
    urls = [f"/generate?random_seed={n}&notes=40&temperature={0.5 + n / 32}" for n in range(32)]
    batching = Batching.read()
    with ModelServer(tiny_export / "performance", batching=batching, threads=int(threads)) as server:
        client = create_app({"TIMEOUT": 300}, TFServing(server.address, "performance")).test_client
        start = threading.Barrier(32)

        def listen(url):
            start.wait(60)
            return client().post(url, data=midi.write(SEED), content_type="audio/midi")

        with futures.ThreadPoolExecutor(32) as pool:
            responses = list(pool.map(listen, urls))
    assert [response.status_code for response in responses] == [200] * 32
    assert max(run.calls for run in server.runs) > 1
    assert {run.padded for run in server.runs} <= set(batching.allowed_batch_sizes)
    assert [responses[n].data for n in (0, 13, 31)] == [piece(embedded, urls[n]) for n in (0, 13, 31)]


@pytest.mark.slow  # compiling takes its time
@pytest.mark.parametrize("chunk", [1, CHUNK])
def test_a_server_that_compiles_makes_the_pieces_that_the_compiled_model_makes_here(tiny_export, chunk):
    here = Embedded(tiny_export)
    urls = [f"/generate?random_seed={n}&notes=40&temperature={0.5 + n / 4}" for n in range(3)]
    with ModelServer(tiny_export / "performance", compiles=True) as server:
        backend = TFServing(server.address, "performance", xla=True)
        pieces = [piece(backend, url, CHUNK=chunk) for url in urls]
        assert {name for name, _ in server.calls} == {"describe", "prime_xla", "generate_xla"}
    assert pieces == [piece(here, url) for url in urls]


def test_a_server_or_an_export_that_does_not_compile_is_named(server, toys, tiny_export):
    arguments = {"signature": "prime", "inputs": PRIME}
    with pytest.raises(BackendError, match=r"without --xla: .*\"prime_xla\" not found"):
        TFServing(server.address, "toy", xla=True).call(**arguments)
    with ModelServer(tiny_export / "performance") as other:
        backend = TFServing(other.address, "performance", xla=True)
        with pytest.raises(BackendError, match=r"--xla_cpu_compilation_enabled, .*: XLA compilation disabled"):
            backend.call(**arguments)
        assert post(backend).status_code == 502


@pytest.mark.parametrize("shape", [None, (), (1,), (1, 0, 4)])
def test_a_compiled_step_without_rows_is_the_servers_fault(monkeypatch, shape):
    answer = wire.PredictResponse()
    if shape is not None:
        wire.to_tensor(np.zeros(shape, "i4"), answer.outputs["rows"])
    backend = TFServing("127.0.0.1:1", "toy", xla=True)
    monkeypatch.setattr(backend, "_send", lambda request, timeout: answer)
    with pytest.raises(BackendError, match="step answered rows: expected at least one"):
        backend.call("step", {"noise": np.zeros((1, 4), "f4")})


def test_front_end_and_model_server_as_processes(tiny_export, embedded):
    with (
        ModelServer(tiny_export / "performance") as server,
        front_end("--server", server.address, "--model-name", "performance", WEB_CONCURRENCY="2") as address,
    ):
        assert requests.get(f"{address}/readyz", timeout=20).json()["model"] == "performance/1"
        for _ in range(4):  # whichever of the two processes answers
            response = requests.post(
                f"{address}{URL}", data=midi.write(SEED), headers={"Content-Type": "audio/midi"}, timeout=60
            )
            assert response.content == piece(embedded)


# A server that stops, comes back, or has a new version, in the middle of a piece


def test_a_server_that_stops_is_503_or_a_streams_last_line(server, backend):
    def stop(number):
        if number == 6:
            server.stop()

    server.on_call = stop
    response = post(backend, f"{URL}&format=json", CHUNK=1)
    assert response.status_code == 503 and response.mimetype == "application/problem+json"
    assert [signature for signature, _ in server.calls[3:5]] == ["step", "step"]  # there was music before

    server.on_call = lambda number: None
    server.start()
    lines = lines_of(post(backend, f"{URL}&format=ndjson&include_seed=false", CHUNK=1))
    begun = [next(lines) for _ in range(4)]
    server.stop().wait(5)
    rest = list(lines)
    assert [sorted(line)[0] for line in begun] == ["model", "duration", "duration", "duration"]
    assert len(rest) == 1 and rest[0]["status"] == 503 and "'toy'" in rest[0]["error"]


def test_a_server_that_comes_back_loses_no_note(server, backend):
    complete = list(lines_of(post(backend, f"{URL}&format=ndjson")))
    lines = lines_of(post(backend, f"{URL}&format=ndjson"))
    begun = [next(lines) for _ in range(len(SEED) + 3)]
    server.stop().wait(5)
    server.start()
    assert begun + list(lines) == complete


def test_a_version_that_is_replaced_loses_no_note(server, backend):
    """The toy's velocity is its version, so every note says who made it."""
    lines = lines_of(post(backend, f"{URL}&format=ndjson&include_seed=false"))
    begun = [next(lines) for _ in range(3)]
    server.load(2)  # as TF Serving does: the new one first, then the old one goes
    server.unload(1)
    everything = begun + list(lines)
    notes = [line for line in everything if "pitch" in line]
    first = [note["velocity"] for note in notes].index(2)
    assert [note["velocity"] for note in notes] == [1] * first + [2] * (70 - first) and first >= 2
    assert everything[0] == {"model": "toy/1", "random_seed": 5}
    assert everything[first + 1] == {"model": "toy/2"}
    assert everything[-1] == {"end": "length"}
    np.testing.assert_allclose([n["step"] for n in notes[1:]], np.diff([n["start"] for n in notes]), atol=2e-6)


def test_a_new_version_does_not_disturb_a_piece_while_its_own_is_there(server, backend):
    complete = list(lines_of(post(backend, f"{URL}&format=ndjson")))
    lines = lines_of(post(backend, f"{URL}&format=ndjson"))
    begun = [next(lines)]
    server.load(2)
    assert begun + list(lines) == complete
    assert create_app(backend=backend).test_client().get("/readyz").get_json()["model"] == "toy/2"


def test_a_real_model_goes_on_under_a_new_version(tiny_export, tmp_path, embedded):
    (tmp_path / "performance").mkdir()
    for version in ("1", "2"):
        (tmp_path / "performance" / version).symlink_to(tiny_export / "performance" / "1")
    alone = [json.loads(line) for line in piece(embedded, f"{URL}&format=ndjson").splitlines()]
    with ModelServer(tmp_path / "performance", versions=[1]) as server:
        lines = lines_of(post(TFServing(server.address, "performance"), f"{URL}&format=ndjson"))
        begun = [next(lines) for _ in range(len(SEED) + 3)]
        server.load(2)
        server.unload(1)
        rest = list(lines)
    assert begun == alone[: len(begun)]
    assert {"model": "performance/2"} in rest and set(rest[-1]) == {"end"}
    new = [line for line in begun + rest if "pitch" in line and "seed" not in line]
    assert len(new) == 70 or rest[-1] == {"end": "final"}


def test_readiness_follows_the_server(server, backend):
    client = create_app(backend=backend).test_client()
    assert client.get("/readyz").status_code == 200
    server.stop().wait(5)
    assert client.get("/readyz").status_code == 503
    server.start()
    deadline = time.monotonic() + 10
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_listener_who_leaves_a_socket_stops_the_calls(server):
    server.on_call = lambda number: time.sleep(0.005)
    flags = ("--server", server.address, "--model-name", "toy", "--chunk", "1")
    with front_end(*flags) as address:
        url = f"{address}/generate?notes=4096&format=ndjson"
        with requests.post(url, stream=True, timeout=20) as response:
            lines = response.iter_lines()
            assert b"model" in next(lines) and b"pitch" in next(lines)
        time.sleep(0.5)
        calls = len(server.calls)
        time.sleep(0.5)
        assert len(server.calls) == calls < 4096


def test_generators_share_a_backend(server, backend):
    """Threads that open the first channel at once."""
    pieces = []
    settings = Settings(notes=20, random_seed=1)
    threads = [
        threading.Thread(
            target=lambda: pieces.append([c.notes.tolist() for c in Generator(backend).stream(SEED, settings)])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(pieces) == 4 and all(one == pieces[0] for one in pieces)


def test_the_demo_finds_its_server_by_the_log_and_stops_it(server, tmp_path, monkeypatch):
    started = []

    def start(command, popen=subprocess.Popen, **options):
        started.append(popen([*command, "--server", server.address, "--model-name", "toy"], **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    with demo.server(tmp_path / "log") as base:
        assert started[0].args[-6:-4] == ["--port", "0"]
        reply, headers = demo.post(f"{base}{URL}&include_seed=false", midi.write(SEED))
    assert len(midi.read(reply)) == 70 and headers["X-Model"] == "toy/1"
    assert started[0].returncode == 0
