"""What TF Serving is told: its three configurations as its own messages, its flags, and the tool that moves labels."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from infra.cloud import deploy, versions
from music import storage
from serving.backends.tfserving import TFServing
from tests.support.fakes import ModelServer
from tests.support.faulty import emulator
from tests.support.tfs_config import messages, parsed

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra" / "cloud"

# Flags of tensorflow_serving/model_servers/main.cc that we use; TF Serving ends at once over one that it does not know.
FLAGS = {
    "port", "rest_api_port", "model_config_file", "model_config_file_poll_wait_seconds",
    "file_system_poll_wait_seconds", "allow_version_labels_for_unavailable_models", "enable_batching",
    "batching_parameters_file", "monitoring_config_file", "grpc_max_threads",
}  # fmt: skip


def compose() -> dict:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def cloud_run():
    return deploy.rendered((INFRA / "cloudrun.yaml").read_text(), dict.fromkeys(deploy.NAMES, "x"))


def flags(args) -> dict[str, str]:
    return dict(arg.removeprefix("--").split("=", 1) for arg in args)


def test_batches_are_multiples_of_what_the_graph_fills_up_to():
    from trainer.export.saved_model import SERVED_ROWS  # late: it imports Keras
    from trainer.export.signatures import LANES

    batching = parsed("batching.config", "BatchingParameters")
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[-1] == batching.max_batch_size.value  # or TF Serving refuses them
    assert sizes[0] == 1 and all(size % LANES == 0 for size in sizes[1:])
    assert tuple(sizes) == SERVED_ROWS  # else a call would compile
    assert batching.batch_timeout_micros.value == 0 and batching.HasField("batch_timeout_micros")
    assert not batching.pad_variable_length_inputs  # every tensor of ours has a constant shape


def test_monitoring_is_at_a_path():
    prometheus = parsed("monitoring.config", "MonitoringConfig").prometheus_config
    assert prometheus.enable and prometheus.path.startswith("/")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("BatchingParameters", "max_batch_sise { value: 32 }"),
        ("BatchingParameters", "max_batch_size: 32"),
        ("MonitoringConfig", "prometheus { enable: true }"),
    ],
)
def test_a_planted_mistake_is_found(kind, text):
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text, messages()[kind]())


def test_the_models_file_is_about_the_models_that_ship():
    (model,) = versions.read(str(INFRA / "models.config")).model_config_list.config
    assert model.base_path == f"/models/{model.name}"
    assert versions.missing(str(ROOT / "models"), versions.read(str(INFRA / "models.config"))) == []
    assert dict(model.version_labels) == {"stable": 1, "canary": 1}


def test_compose_and_cloud_run_start_tf_serving_alike():
    here = flags(compose()["services"]["model-server"]["command"])
    there = flags({c.name: c for c in cloud_run().template.containers}["model-server"].args)
    assert here.keys() == there.keys() == FLAGS
    differ = {name for name in here if here[name] != there[name]}
    assert differ == {"model_config_file_poll_wait_seconds", "file_system_poll_wait_seconds"}
    assert int(there["file_system_poll_wait_seconds"]) >= 60  # each look at a bucket costs money, serving#1916
    assert here["allow_version_labels_for_unavailable_models"] == "true"  # or it does not start with a label


def test_compose_and_cloud_run_start_the_front_end_alike():
    here = compose()["services"]["front-end"]["command"]
    there = {c.name: c for c in cloud_run().template.containers}["front-end"].args
    assert [re.sub("model-server:|127.0.0.1:", "HOST:", arg) for arg in here] == [
        re.sub("127.0.0.1:", "HOST:", arg).replace("=x", "=stable") for arg in there
    ]
    from serving.__main__ import arguments

    assert arguments().parse_args(here).server == "model-server:8500"


def test_what_compose_mounts_and_builds_is_there():
    services = compose()["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["model-server"]["volumes"])
    for source, target in mounts.items():
        assert (INFRA / source).exists(), source
        assert target.startswith("/models/")
    server_flags = flags(services["model-server"]["command"])
    for name in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        assert server_flags[name] in mounts.values()
    build = services["front-end"]["build"]
    dockerfile = (INFRA / build["context"] / build["dockerfile"]).read_text()
    assert re.search(rf"^FROM \S+ AS {build['target']}$", dockerfile, re.M)
    last = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", dockerfile, re.M)[-1]
    assert build["target"] in last  # what `docker build` makes when no target is named


def test_compose_has_no_field_that_compose_does_not_know():
    """docker compose is not on every machine that tests; these are the fields of its specification that we use."""
    file = compose()
    assert file.keys() == {"name", "services"}
    fields = {
        "image", "build", "command", "entrypoint", "ports", "depends_on", "read_only", "tmpfs", "cap_drop", "platform",
        "volumes", "healthcheck", "stop_grace_period",
    }  # fmt: skip
    for service in file["services"].values():
        assert service.keys() <= fields
    check = file["services"]["model-server"]["healthcheck"]
    assert check.keys() == {"test", "interval", "timeout", "retries"} and check["test"][:3] == ["CMD", "bash", "-c"]
    assert file["services"]["front-end"]["depends_on"] == {"model-server": {"condition": "service_healthy"}}


# --- python -m infra.cloud.versions ----------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path):
    """Make a folder like the bucket of models: the file and three versions, of which the last is incomplete."""
    (tmp_path / "models.config").write_text((INFRA / "models.config").read_text())
    for version in (1, 2, 3):
        (tmp_path / f"performance/{version}").mkdir(parents=True)
        if version < 3:
            (tmp_path / f"performance/{version}/saved_model.pb").touch()
    return tmp_path / "models.config"


def test_a_roll_forward_and_back_in_steps_that_tf_serving_takes(bucket, capsys):
    for step, expected in [
        ("--load 2", "versions 1, 2; canary → 1, stable → 1"),
        ("--label canary=2", "versions 1, 2; canary → 2, stable → 1"),
        ("--label stable=2", "versions 1, 2; canary → 2, stable → 2"),
        ("--label stable=1 canary=1", "versions 1, 2; canary → 1, stable → 1"),
        ("--unload 2", "versions 1; canary → 1, stable → 1"),
        ("", "versions 1; canary → 1, stable → 1"),
    ]:
        assert versions.run([str(bucket), *step.split()]) == 0
        assert capsys.readouterr().out == f"performance: {expected}\n"
    assert bucket.read_text() == (INFRA / "models.config").read_text()


def test_tf_serving_takes_every_step_and_clients_follow_their_label(bucket, toys):
    """The double refuses what TF Serving refuses; the models are toys, and so is their name."""
    bucket.write_text(bucket.read_text().replace("performance", "toy"))
    (bucket.parent / "toy").symlink_to(toys)
    with ModelServer(toys, versions=[1], labels_ahead=True) as server:
        clients = {label: TFServing(server.address, "toy", label=label) for label in ("stable", "canary")}
        for step, answer in [
            ("", {"stable": 1, "canary": 1}),
            ("--load 2", {"stable": 1, "canary": 1}),
            ("--label canary=2", {"stable": 1, "canary": 2}),
            ("--label stable=2", {"stable": 2, "canary": 2}),
            ("--label stable=1 canary=1", {"stable": 1, "canary": 1}),
            ("--unload 2", {"stable": 1, "canary": 1}),
        ]:
            assert versions.run([str(bucket), *step.split()]) == 0
            server.reload(versions.read(str(bucket)))
            batch = {"batch": np.zeros(1, "i4")}
            assert {label: client.call("describe", batch).version for label, client in clients.items()} == answer, step


def test_the_file_may_lie_in_a_bucket(bucket, monkeypatch, capsys):
    with emulator("studio") as port:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        for path in (bucket, *bucket.parent.rglob("saved_model.pb")):
            storage.write(f"gs://studio/{path.relative_to(bucket.parent)}", path.read_bytes())
        assert versions.run(["gs://studio/models.config", "--load", "2"]) == 0
        assert versions.run(["gs://studio/models.config", "--load", "3"]) == 1
        captured = capsys.readouterr()
        assert "versions 1, 2" in captured.out and "gs://studio/performance/3: no saved_model.pb" in captured.err
        config = versions.read("gs://studio/models.config").model_config_list.config[0]
        assert list(config.model_version_policy.specific.versions) == [1, 2]
        assert versions.run(["gs://studio/none.config"]) == 1
        assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("--label stable=2", "label stable=2: loaded are 1; load it first"),
        ("--unload 1", "version 1 is called canary"),
        ("--load 3", "performance/3: no saved_model.pb; publish it first"),
        ("--load 9", "performance/9: no saved_model.pb; publish it first"),
    ],
)
def test_a_step_that_would_be_refused_is_refused_here(bucket, capsys, step, expected):
    before = bucket.read_text()
    assert versions.run([str(bucket), *step.split()]) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert bucket.read_text() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_config_lisd {}", "expected a ModelServerConfig as text"),
        ("", "expected one model with `specific` versions, got 0 models"),
        ('model_config_list { config { name: "a" } }', "expected one model with `specific` versions, got 1 models"),
    ],
)
def test_a_file_that_is_not_ours_is_one_line(tmp_path, capsys, text, expected):
    (tmp_path / "models.config").write_text(text)
    assert versions.run([str(tmp_path / "models.config")]) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_no_file_is_one_line(tmp_path, capsys):
    assert versions.run([str(tmp_path / "models.config")]) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["--label stable", "--label =2", "--load two", "--load 2 --unload 1"])
def test_flags_that_are_none(bucket, capsys, step):
    with pytest.raises(SystemExit) as stop:
        versions.run([str(bucket), *step.split()])
    assert stop.value.code == 2


def test_the_message_is_the_one_of_the_installed_tf_serving(bucket):
    config = versions.read(str(bucket))
    assert isinstance(config, model_server_config_pb2.ModelServerConfig)
    assert config.model_config_list.config[0].model_platform == "tensorflow"
