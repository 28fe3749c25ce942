"""infra/cloud/cloudrun.yaml becomes Google's own message, and goes to a Cloud Run that answers over a real socket."""

import json
from concurrent import futures

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import run_v2
from google.cloud.run_v2.services.services.transports import ServicesGrpcTransport
from google.longrunning import operations_pb2
from google.rpc import status_pb2

from infra.cloud import deploy

FLAGS = ["--project", "my-music", "--image", "registry/cadenza-serve:1"]
SERVICES = "google.cloud.run.v2.Services"


class CloudRun(grpc.GenericRpcHandler):
    """GetService and UpdateService, as much of them as a deployment sees."""

    def __init__(self):
        self.stored: run_v2.Service | None = None
        self.refuses: tuple[grpc.StatusCode, str] | None = None
        self.fails = ""  # what the operation ends with
        self.updates: list[run_v2.UpdateServiceRequest] = []

    def service(self, handler_call_details):
        methods = {f"/{SERVICES}/GetService": self.get, f"/{SERVICES}/UpdateService": self.update}
        method = methods.get(handler_call_details.method)
        return method and grpc.unary_unary_rpc_method_handler(method)  # bytes in, bytes out

    def get(self, data: bytes, context) -> bytes:
        if self.refuses:
            context.abort(*self.refuses)
        if self.stored is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "Resource 'cadenza' of kind 'SERVICE' does not exist")
        return run_v2.Service.serialize(self.stored)

    def update(self, data: bytes, context) -> bytes:
        request = run_v2.UpdateServiceRequest.deserialize(data)
        self.updates.append(request)
        operation = operations_pb2.Operation(name="operations/1", done=True)
        if self.fails:
            operation.error.CopyFrom(status_pb2.Status(code=9, message=self.fails))
            return operation.SerializeToString()
        self.stored = request.service
        self.stored.uri = "https://cadenza-x.run.app"
        self.stored.traffic_statuses = [
            run_v2.TrafficTargetStatus(tag=target.tag, uri=f"https://{target.tag}---cadenza-x.run.app")
            for target in request.service.traffic
            if target.tag
        ]
        operation.response.Pack(run_v2.Service.pb(self.stored))
        return operation.SerializeToString()


@pytest.fixture
def cloud():
    return CloudRun()


@pytest.fixture
def client(cloud):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((cloud,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield run_v2.ServicesClient(transport=ServicesGrpcTransport(channel=channel))
    server.stop(0).wait(5)


def shown(capsys, *flags) -> dict:
    assert deploy.run([*FLAGS, "--dry-run", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_prints_the_whole_service_and_needs_no_account(capsys):
    template = shown(capsys)["template"]
    front, server = template["containers"]
    assert front["image"] == "registry/cadenza-serve:1" and front["dependsOn"] == [server["name"]]
    assert template["serviceAccount"] == "cadenza-server@my-music.iam.gserviceaccount.com"
    (volume,) = template["volumes"]
    assert volume["gcs"] == {"bucket": "my-music-cadenza-models", "readOnly": True, "mountOptions": ["implicit-dirs"]}
    assert server["volumeMounts"] == [{"name": volume["name"], "mountPath": "/models"}]
    assert template["revision"].startswith("cadenza-stable-")
    other = shown(capsys, "--bucket", "other", "--service-account", "me@x")["template"]
    assert other["volumes"][0]["gcs"]["bucket"] == "other" and other["serviceAccount"] == "me@x"


def test_only_the_front_end_is_seen_and_both_are_probed(capsys):
    front, server = shown(capsys)["template"]["containers"]
    assert [port["containerPort"] for port in front["ports"]] == [8080] and "ports" not in server
    assert front["startupProbe"]["httpGet"]["path"] == "/readyz"
    for container in (front, server):
        seconds = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
        assert 60 <= seconds <= 240  # Cloud Run's own limit
        assert "cpuIdle" not in container["resources"]  # false: versions load and streams flow between requests


def test_as_many_at_once_as_the_front_end_takes(capsys):
    from serving import DEFAULTS

    template = shown(capsys)["template"]
    assert template["maxInstanceRequestConcurrency"] == DEFAULTS["MAX_GENERATIONS"]
    assert template["containers"][0]["env"] == [{"name": "WEB_CONCURRENCY", "value": "1"}]  # so that it is the whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("template: {containres: []}", "containres"),
        ("template: {containers: [{image: $IMAGES}]}", "${IMAGES} has no value"),
        ("template: {timeout: long}", "timeout"),
        ("template: [", "expected the node content"),
        ("ingress: INGRESS_TRAFFIC_SOME", "INGRESS_TRAFFIC_SOME"),
        ("costs: 5 $", "placeholder"),
    ],
)
def test_a_wrong_field_or_name_is_one_line(text, expected):
    with pytest.raises(deploy.DeployError, match=r"^cloudrun\.yaml: ") as error:
        deploy.rendered(text, dict.fromkeys(deploy.NAMES, "x"))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_stable_revision_gets_all_traffic_and_a_canary_an_address(cloud, client, capsys):
    assert deploy.run(FLAGS, client) == 0
    (stable,) = cloud.stored.traffic
    assert (stable.percent, stable.tag, stable.revision) == (100, "", cloud.stored.template.revision)
    assert cloud.updates[0].allow_missing
    assert cloud.updates[0].service.name == "projects/my-music/locations/europe-west4/services/cadenza"
    assert "is ready: https://cadenza-x.run.app" in capsys.readouterr().out

    for _ in range(2):  # the second canary takes the first one's place
        assert deploy.run([*FLAGS, "--label", "canary"], client) == 0
        assert "is ready: https://canary---cadenza-x.run.app" in capsys.readouterr().out
        first, canary = cloud.stored.traffic
        assert first == stable
        assert (canary.percent, canary.tag, canary.revision) == (0, "canary", cloud.stored.template.revision)
    assert canary.revision.startswith("cadenza-canary-")

    stable.percent, canary.percent = 90, 10  # `gcloud run services update-traffic`
    cloud.stored.traffic = [stable, canary]
    assert deploy.run([*FLAGS, "--label", "canary"], client) == 0
    first, older, newer = cloud.stored.traffic
    assert [target.percent for target in (first, older, newer)] == [90, 10, 0]
    assert (older.revision, older.tag, newer.tag) == (canary.revision, "", "canary")

    assert deploy.run(FLAGS, client) == 0
    (stable,) = cloud.stored.traffic
    assert stable.percent == 100 and stable.revision.startswith("cadenza-stable-")


DISABLED = (
    "Cloud Run Admin API has not been used in project 12345 before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/run.googleapis.com/overview?project=12345 then retry."
)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (
            "PERMISSION_DENIED",
            "Permission 'run.services.get' denied\non resource",
            "expected roles/run.developer there",
        ),
        ("PERMISSION_DENIED", DISABLED, "gcloud services enable run.googleapis.com --project my-music"),
        ("UNAUTHENTICATED", "invalid authentication credentials", "gcloud auth application-default login"),
        ("INVALID_ARGUMENT", "Location x is not found", "Cloud Run refused in my-music: Location x is not found"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(cloud, client, capsys, code, message, expected):
    cloud.refuses = (grpc.StatusCode[code], message)
    assert deploy.run(FLAGS, client) == 1
    error = capsys.readouterr().err
    assert error.startswith("python -m infra.cloud.deploy: ") and error.count("\n") == 1 and expected in error
    assert cloud.updates == []


def test_a_revision_that_never_gets_ready_is_one_line(cloud, client, capsys):
    cloud.fails = "Revision 'cadenza-stable-1' is not ready: the container failed to start"
    assert deploy.run(FLAGS, client) == 1
    error = capsys.readouterr().err
    assert "the container failed to start" in error and error.count("\n") == 1


def test_no_answer_at_all_is_one_line(capsys):
    class Away:
        def get_service(self, name):
            raise exceptions.RetryError("Timeout of 10.0s exceeded", cause=None)

    assert deploy.run(FLAGS, Away()) == 1
    error = capsys.readouterr().err
    assert "Cloud Run refused in my-music: Timeout of 10.0s exceeded" in error and error.count("\n") == 1


def test_a_canary_of_nothing_is_refused(cloud, client, capsys):
    assert deploy.run([*FLAGS, "--label", "canary"], client) == 1
    assert "deploy stable first" in capsys.readouterr().err and cloud.updates == []


def test_no_credentials_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    assert deploy.run(FLAGS) == 1
    error = capsys.readouterr().err
    assert "gcloud auth application-default login" in error and error.count("\n") == 1


@pytest.mark.parametrize("label", ["", "Stable", "a_b", "x" * 21, "-a"])
def test_a_label_that_cannot_be_part_of_an_address(label):
    with pytest.raises(SystemExit) as stop:
        deploy.run([*FLAGS, f"--label={label}"])
    assert stop.value.code == 2
