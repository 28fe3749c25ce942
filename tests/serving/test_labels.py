"""Labels and version policies: versions are loaded and unloaded while clients are served, and no request fails."""

import json
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

import infra.cloud.versions
from music import midi
from serving import create_app
from serving.backends.tfserving import TFServing
from tests.support.fakes import ENCODING, OTHER, ModelServer, Refused, melody, roll, save_toy_model

SEED = melody(70)  # more than one block of `prime`
URL = "/generate?random_seed=5&notes=60"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def versions(toys, tmp_path_factory):
    """Write two versions with different vocabularies; each plays its number as velocity. Return their folder."""
    base = tmp_path_factory.mktemp("rolling")
    save_toy_model(base, 2, OTHER)
    (base / "toy" / "1").symlink_to(toys / "1")
    return base / "toy"


@pytest.fixture
def server(versions):
    with ModelServer(versions, versions=[1, 2]) as server:
        yield server


def client(server, label: str | None, **config):
    backend = TFServing(server.address, "toy", label=label)
    config = {"SERVER": server.address, "LABEL": label, **config}
    return create_app(config, backend).test_client()


def post(client, url=URL):
    return client.post(url, data=midi.write(SEED), content_type="audio/midi")


def reload(server, text: str):
    """Send a configuration as an operator does, over gRPC, and return the status of the answer."""
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    with grpc.insecure_channel(server.address) as channel:
        return model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=20).status


# The double moves labels and versions as TF Serving does


def config(policy: str, labels: str = "") -> str:
    return f'model_config_list {{ config {{ name: "toy" model_version_policy {{ {policy} }} {labels} }} }}'


def loaded(server) -> list[int]:
    return sorted(server._models)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("", [2]), ("latest {}", [2]), ("latest { num_versions: 2 }", [1, 2]), ("all {}", [1, 2]),
     ("specific { versions: 1 }", [1]), ("specific { versions: 1 versions: 7 }", [1])],
)  # fmt: skip
def test_the_double_holds_the_versions_that_a_policy_wants(server, policy, expected):
    assert reload(server, config(policy)).error_code == 0
    assert loaded(server) == expected  # 32


def test_the_double_finds_a_new_version(toys, versions, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "1").symlink_to(toys / "1")
    with ModelServer(tmp_path / "toy") as server:
        (tmp_path / "toy" / "00000002").symlink_to(versions / "2")
        (tmp_path / "toy" / "backup").mkdir()
        assert loaded(server) == [1]
        server.poll()
        assert loaded(server) == [2]  # 34


def test_the_double_takes_labels_for_versions_that_are_loaded(versions):
    with ModelServer(versions, versions=[1]) as server:
        with pytest.raises(grpc.RpcError) as error:  # 31: labels come first, and version 2 is not loaded yet
            reload(server, config("all {}", 'version_labels { key: "canary" value: 2 }'))
        assert error.value.code() is Code.FAILED_PRECONDITION
        assert error.value.details() == (
            "Request to assign label to version 2 of model toy, which is not currently available for inference"
        )
        assert loaded(server) == [1]
        reload(server, config("all {}"))
        reload(server, config("all {}", 'version_labels { key: "canary" value: 2 }'))
        assert client(server, "canary").get("/readyz").get_json()["model"] == "toy/2"


def test_the_double_may_take_a_new_label_ahead_of_its_version(versions):
    with ModelServer(versions, versions=[1], labels_ahead=True) as server:
        roll(server, [1, 2], stable=1, canary=2)
        roll(server, [1], stable=1, canary=2)
        with pytest.raises(Refused, match="label to version 2"):  # only a label that is new
            roll(server, [1, 2], stable=2, canary=2)
        assert "Servable not found for request: Specific(toy, 2)" in client(server, "canary").get("/readyz").text


@pytest.mark.parametrize("text", ["", "custom_model_config {}"])
def test_the_double_takes_lists_of_models_only(server, text):
    with pytest.raises(grpc.RpcError) as error:
        reload(server, text)
    assert error.value.code() is Code.INVALID_ARGUMENT  # 36


def test_the_double_forgets_a_model_that_the_list_leaves_out(server):
    reload(server, 'model_config_list { config { name: "another" } }')
    assert "Servable not found for request: Latest(toy)" in client(server, None).get("/readyz").text  # 36


# The front end


def test_the_first_call_of_a_piece_goes_by_label_and_all_others_by_the_version_that_answered(server):
    roll(server, [1, 2], stable=1, canary=2)
    for label, version in (("stable", 1), ("canary", 2), (None, 2)):
        server.requested.clear()
        response = post(client(server, label))
        assert response.status_code == 200 and response.headers["X-Model"] == f"toy/{version}"
        assert server.requested[0] == ("describe", label)
        assert {number for _, number in server.requested[1:]} == {version} and len(server.requested) > 5


def test_a_label_that_moves_does_not_disturb_a_piece_while_its_version_is_there(server):
    roll(server, [1, 2], stable=1)
    front = client(server, "stable")
    complete = post(front, f"{URL}&format=ndjson").text
    response = post(front, f"{URL}&format=ndjson")
    begun = next(response.response)
    roll(server, [1, 2], stable=2)
    assert (begun.decode() if isinstance(begun, bytes) else begun) + response.text == complete
    assert post(front).headers["X-Model"] == "toy/2"


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_version_that_goes_is_followed_by_the_one_that_the_label_stands_at(server, before, after):
    """Forward and back: the latest version is not what counts."""
    roll(server, [1, 2], stable=before, canary=2)
    response = post(client(server, "stable"), f"{URL}&format=ndjson&include_seed=false")
    lines = []
    for part in response.response:
        lines += map(json.loads, part.splitlines())
        if len(lines) == 3:
            roll(server, [1, 2], stable=after)
            roll(server, [after], stable=after)
    checked(lines)
    assert [line["model"] for line in lines if "model" in line] == [f"toy/{before}", f"toy/{after}"]


def test_readiness_and_the_card_name_the_label(server):
    roll(server, [1, 2], stable=1, canary=2)
    for label, version, encoding in (("stable", 1, ENCODING), ("canary", 2, OTHER)):
        front = client(server, label)
        assert front.get("/readyz").get_json() == {"status": "ready", "model": f"toy/{version}", "label": label}
        card = front.get("/model").get_json()
        assert (card["version"], card["label"], card["card"]["encoding"]) == (version, label, encoding.config())
    assert "label" not in client(server, None).get("/model").get_json()


def test_an_unknown_label_is_one_clear_error(server):
    roll(server, [1, 2], stable=1)
    front = client(server, "canary")
    message = f"model 'toy', label 'canary', at {server.address}: Unrecognized servable version label: canary"
    for response in (post(front), post(front, f"{URL}&format=ndjson"), front.get("/readyz"), front.get("/model")):
        assert response.status_code == 503 and response.mimetype == "application/problem+json"
        assert response.get_json()["detail"] == f"{message} (INVALID_ARGUMENT)"
    roll(server, [1, 2], stable=1, canary=2)
    assert post(front).headers["X-Model"] == "toy/2"


def test_the_steps_of_the_cloud_roll_forward_and_back_with_what_we_ship(versions, tmp_path):
    """infra/README.md, "Versions": each step of infra.cloud.versions is one TF Serving takes, and no piece ends."""
    (tmp_path / "performance").mkdir()
    for version in ("1", "2"):
        (tmp_path / "performance" / version).symlink_to(versions / version)
    steps: list[dict] = [
        *({"load": [2]}, {"labels": {"canary": 2}}, {"labels": {"stable": 2}}, {"unload": [1]}),
        *({"load": [1]}, {"labels": {"stable": 1}}, {"labels": {"canary": 1}}, {"unload": [2]}),
    ]
    config = infra.cloud.versions.read(str(Path(infra.cloud.versions.__file__).with_name("models.config")))
    with ModelServer(tmp_path / "performance", versions=[1], labels_ahead=True) as server:
        server.reload(config)
        front = create_app({"CHUNK": 4}, TFServing(server.address, "performance", label="stable")).test_client()
        response = post(front, f"{URL}&format=ndjson&include_seed=false")
        lines = []
        for part in response.response:
            lines += map(json.loads, part.splitlines())
            if steps:  # a step after each part of the stream
                config = infra.cloud.versions.changed(config, **steps.pop(0))
                server.reload(config)
        assert not steps and loaded(server) == [1]
    checked(lines)
    assert [line["model"] for line in lines if "model" in line] == ["toy/1", "toy/2", "toy/1"]


# Rolling under load


def checked(lines: list[dict]) -> int:
    """Check that each note of a stream is of the model that was named last; return how many models there were."""
    notes = [line for line in lines if "pitch" in line]
    assert lines[-1] == {"end": "length"} and len(notes) == 60
    assert (np.diff([note["start"] for note in notes]) >= 0).all()
    model = None
    for line in lines[:-1]:
        if "model" in line:
            assert line["model"] != model
            model = line["model"]
        else:
            assert f"toy/{line['velocity']}" == model
            low = {"toy/1": 21, "toy/2": 40}[model]  # the toys play the lowest tenth of what they know
            assert low <= line["pitch"] < low + 10
    return sum("model" in line for line in lines)


def test_eight_listeners_notice_no_failure_while_versions_roll_forward_and_back(server):
    roll(server, [1, 2], stable=1)
    roll(server, [1], stable=1)
    front = create_app({"CHUNK": 4}, TFServing(server.address, "toy", label="stable"))
    replies: list[tuple[str, object]] = []
    done = threading.Event()

    def listen(number: int) -> None:
        format = ("ndjson", "json", "mid")[number % 3]
        while not done.is_set():
            url = f"/generate?random_seed={number}&notes=60&format={format}&include_seed=false"
            response = post(front.test_client(), url)
            response.get_data()  # a stream is made while it is read
            replies.append((format, response))

    def turned(count: int) -> None:
        """Wait until each client is in the middle of its piece, or of the next one."""
        until = time.monotonic() + 30
        while len(server.calls) < count and time.monotonic() < until:
            time.sleep(0.01)

    listeners = [threading.Thread(target=listen, args=(number,)) for number in range(8)]
    for listener in listeners:
        listener.start()
    for version in (2, 1, 2, 1, 2, 1):
        turned(len(server.calls) + 100)
        roll(server, [1, 2], stable=3 - version)  # the new one beside the old one,
        roll(server, [1, 2], stable=version)  # then the label moves,
        roll(server, [version], stable=version)  # and the old one goes, though pieces are at it
    turned(len(server.calls) + 100)
    done.set()
    for listener in listeners:
        listener.join(60)

    assert len(replies) >= 8 and {response.status_code for _, response in replies} == {200}
    rolled = 0
    for format, response in replies:
        if format == "ndjson":
            rolled += checked([json.loads(line) for line in response.text.splitlines()]) > 1
            continue
        models = response.headers["X-Model"].split(", ")
        played = response.get_json()["notes"] if format == "json" else midi.read(response.data)
        velocities = {int(note["velocity"]) for note in played}
        assert len(played) == 60 and velocities == {int(model.removeprefix("toy/")) for model in models}
        rolled += len(models) > 1
    assert rolled >= 4  # the roll met pieces in the making
