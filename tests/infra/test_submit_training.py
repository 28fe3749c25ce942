"""Training jobs: what is submitted, and what is printed of it, against a double of Batch over a real socket."""

import json
import os
import signal
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.cloud import batch_v1
from google.cloud.batch_v1.services.batch_service.transports import BatchServiceGrpcTransport
from google.protobuf import json_format

from infra.cloud import batch, submit_training
from music.errors import SettingError
from trainer.__main__ import parser as trainer_parser

GOLDEN = Path(__file__).parents[1] / "support" / "goldens" / "batch_job.json"  # REWRITE=1 writes it
COMMAND = ["--recipe", "performance", "--data", "gs://bucket/maestro", "--run", "gs://bucket/runs/Mine_1"]
State = batch_v1.JobStatus.State


class FakeBatch(grpc.GenericRpcHandler):
    """Jobs that follow a script: for each request of a job a state, and events as (description, exit code)."""

    def __init__(self, script=(), refuse=None):
        self.script, self.refuse, self.jobs, self.looks = list(script), refuse, {}, 0

    def service(self, details):
        name = details.method.rpartition("/")[2]
        assert details.method.startswith("/google.cloud.batch.v1.BatchService/"), details.method
        kinds = {
            "CreateJob": (self.create, batch_v1.CreateJobRequest, batch_v1.Job),
            "GetJob": (self.get, batch_v1.GetJobRequest, batch_v1.Job),
            "ListTasks": (self.tasks, batch_v1.ListTasksRequest, batch_v1.ListTasksResponse),
        }
        function, request, reply = kinds[name]
        return grpc.unary_unary_rpc_method_handler(function, request.deserialize, reply.serialize)

    def create(self, request, context):
        if self.refuse:
            context.abort(*self.refuse)
        name = f"{request.parent}/jobs/{request.job_id}"
        if name in self.jobs:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Resource '{name}' already exists")
        job = batch_v1.Job(request.job, name=name, uid="u-1", status={"state": State.QUEUED})
        self.jobs[name] = job
        return job

    def get(self, request, context):
        self.looks += 1
        if not self.script:
            return self.jobs[request.name]
        now = self.script.pop(0)
        if isinstance(now, grpc.StatusCode):
            context.abort(now, "not now")
        state, *events = now
        job = self.jobs[request.name]
        job.status.state = state
        job.status.status_events += [
            batch_v1.StatusEvent(description=text, task_execution={"exit_code": code}) for text, code in events
        ]
        return job

    def tasks(self, request, context):
        job = self.jobs[request.parent.removesuffix("/taskGroups/group0")]
        return batch_v1.ListTasksResponse(tasks=[{"status": {"status_events": job.status.status_events}}])


@pytest.fixture
def serve(monkeypatch):
    """Serve a FakeBatch over a socket; return a client of it."""
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    running = []

    def start(fake: FakeBatch) -> batch_v1.BatchServiceClient:
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[fake])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        running.append((channel, server))
        return batch_v1.BatchServiceClient(transport=BatchServiceGrpcTransport(channel=channel))

    yield start
    for channel, server in running:
        channel.close()
        server.stop(None)


def wait(client, *more: str) -> int:
    return submit_training.run([*COMMAND, "--project", "p", "--wait", "--every", "0.01", *more], client)


def test_the_job_as_json(capsys, monkeypatch):
    """Without an account. It is what it was, gcloud's and Google's own reader takes it, and so does the trainer."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    assert submit_training.run([*COMMAND, "--dry-run", "--set", "training.epochs=50", "--", "--backend", "jax"]) == 0
    text = capsys.readouterr().out
    if os.environ.get("REWRITE"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    parsed = batch_v1.Job(json_format.ParseDict(json.loads(text), batch_v1.Job.pb(batch_v1.Job())))
    assert batch.to_json(parsed) + "\n" == text
    container = parsed.task_groups[0].task_spec.runnables[0].container
    assert [container.entrypoint, *container.commands[:3]] == ["python", "-m", "trainer", "train"]
    args = trainer_parser().parse_args(container.commands[2:])
    assert (args.recipe, args.backend, args.set) == ("performance", "jax", ["training.epochs=50"])
    wrong = json.loads(text)
    wrong["taskGroups"][0]["taskSpec"]["maxRetries"] = 3
    with pytest.raises(json_format.ParseError, match="maxRetries"):
        json_format.ParseDict(wrong, batch_v1.Job.pb(batch_v1.Job()))


def test_what_is_tried_again_is_what_the_trainer_and_batch_say():
    job = batch.job(batch.Training((), "image", "r"))
    [policy] = job.task_groups[0].task_spec.lifecycle_policies
    assert policy.action == batch_v1.LifecyclePolicy.Action.RETRY_TASK
    codes = list(policy.action_condition.exit_codes)
    assert 128 + signal.SIGTERM in codes and 50001 in codes  # a preemption, whether the trainer gets the signal or not
    assert not {1, 2, 130, 137, 50005} & set(codes)  # mistakes, and a time that was meant


@pytest.mark.parametrize("gpu", [name for name in batch.MACHINES if name != "none"])
def test_every_machine_of_the_table_makes_a_job(gpu):
    for count in batch.MACHINES[gpu]:
        job = batch.job(batch.Training((), "image", "r", gpu=gpu, gpus=count))
        instance = job.allocation_policy.instances[0]
        assert instance.install_gpu_drivers
        assert [(a.type_, a.count) for a in instance.policy.accelerators] == [(gpu, count)]
        size = instance.policy.machine_type.rpartition("-")[2]  # of GPUs as in 4g, or of vCPUs
        assert size in (f"{count}g", f"{job.task_groups[0].task_spec.compute_resource.cpu_milli // 1000}")
    assert not batch.job(batch.Training((), "i", "r", "none", 0)).allocation_policy.instances[0].install_gpu_drivers


def test_an_id_is_the_same_for_the_same_job_and_one_that_batch_takes():
    import re

    one = batch.job(batch.Training(("a",), "image", "r", labels=(("a", "1"), ("b", "2"), ("c", "3"))))
    same = batch.job(batch.Training(("a",), "image", "r", labels=(("c", "3"), ("b", "2"), ("a", "1"))))
    other = batch.job(batch.Training(("b",), "image", "r"))
    ids = [batch.job_id(job, "performance", "Läufe/_x" * 20) for job in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]
    for id in [*ids, batch.job_id(one, "a", "b")]:
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,58}[a-z0-9])", id), id


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--gpu", "nvidia-l5"], "--gpu nvidia-l5: expected one of none, nvidia-tesla-t4"),
        (["--gpus", "3"], "--gpus 3: nvidia-l4 comes in 1, 2, 4, 8"),
        (["--retries", "11"], "--retries 11: expected 0 to 10"),
        (["--run", "runs/mine"], "--run runs/mine: expected gs://"),
        (["--recipe", "nocturne"], "recipe 'nocturne': expected one of"),
        (["--set", "training.epoch=3"], "--set training.epoch: no such value"),
        (["--gpus", "8", "--set", "training.batch=12"], "training.batch=12: expected a multiple of --gpus 8"),
    ],
)
def test_a_mistake_is_found_before_a_machine_is_paid_for(flags, expected, capsys):
    assert submit_training.run([*COMMAND, "--dry-run", *flags]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "stands for it" not in line]
    assert line.startswith("submit_training: ") and expected in line


def test_the_trainers_own_flags_are_checked_too(capsys):
    with pytest.raises(SystemExit) as ended:
        submit_training.run([*COMMAND, "--dry-run", "--", "--minuets", "5"])
    assert ended.value.code == 2 and "unrecognized arguments: --minuets 5" in capsys.readouterr().err
    with pytest.raises(SettingError, match="--hours"):
        batch.job(batch.Training((), "image", "r", hours=0))


def test_a_job_that_succeeds_is_followed_to_its_end(serve, capsys):
    fake = FakeBatch([(State.SCHEDULED,), (State.RUNNING, ("VM is up", 0)), (State.RUNNING,), (State.SUCCEEDED,)])
    assert wait(serve(fake)) == 0
    [(name, job)] = fake.jobs.items()
    assert name.startswith("projects/p/locations/europe-west4/jobs/train-performance-mine-1-")
    assert job.labels == {"app": "cadenza", "recipe": "performance", "run": "mine-1"}
    out = capsys.readouterr().out
    states = [word for word in out.split() if word in State.__members__]
    assert states == ["SCHEDULED", "RUNNING", "SUCCEEDED"] and out.count("VM is up") == 1
    assert "gcloud logging read 'labels.job_uid=u-1' --project p" in out


def test_the_trainers_exit_code_is_the_commands(serve, capsys):
    fake = FakeBatch([(State.RUNNING,), (State.FAILED, ("task failed with exit code 2", 2))])
    assert wait(serve(fake)) == 2
    assert "exit code 2" in capsys.readouterr().out


def test_a_preempted_job_goes_on_and_silence_is_borne(serve, capsys):
    script = [
        (State.RUNNING,),
        grpc.StatusCode.INTERNAL,
        (State.SCHEDULED, ("VM preempted, task is retried", 50001)),
        (State.RUNNING,),
        (State.SUCCEEDED,),
    ]
    assert wait(serve(FakeBatch(script))) == 0
    out = capsys.readouterr().out
    states = [word for word in out.split() if word in State.__members__]
    assert states == ["RUNNING", "SCHEDULED", "RUNNING", "SUCCEEDED"]
    assert "VM preempted" in out and "no answer from Batch" in out


def test_a_job_that_was_preempted_too_often_has_failed(serve, capsys):
    assert wait(serve(FakeBatch([(State.FAILED, ("too many retries", 50001))]))) == 1
    assert "exit code 50001: the spot VM was taken away" in capsys.readouterr().out


def test_the_same_command_finds_its_job_and_goes_on_behind_one_that_ended(serve, capsys):
    fake = FakeBatch()
    client = serve(fake)
    line = [*COMMAND, "--project", "p"]
    assert submit_training.run(line, client) == 0
    assert submit_training.run(line, client) == 0
    [(name, job)] = fake.jobs.items()
    assert "is there already, QUEUED" in capsys.readouterr().out
    job.status.state = State.FAILED
    assert submit_training.run(line, client) == 0
    assert list(fake.jobs) == [name, f"{name}-2"]


def test_the_last_epoch_is_reported_as_it_comes(serve, capsys):
    fake = FakeBatch([(State.RUNNING,), (State.RUNNING,), (State.RUNNING,), (State.SUCCEEDED,)])
    client = serve(fake)
    job = submit_training.submit(client, "projects/p/locations/r", "x", batch.job(batch.Training((), "i", "r")))
    lines = iter(
        [FileNotFoundError(), b"epoch,loss,val_loss\n1,9.5,9.75\n", b"epoch,loss,val_loss\n1,9,9\n2,8.5,8.75\n"]
    )

    def history() -> bytes:
        now = next(lines, b"epoch,loss,val_loss\n2,8.5,8.75\n")
        if isinstance(now, Exception):
            raise now
        return now

    assert submit_training.follow(client, job.name, history, 0.0) == 0
    epochs = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert epochs == ["epoch 1: loss 9.5, validation 9.75", "epoch 2: loss 8.5, validation 8.75"]


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (
            grpc.StatusCode.PERMISSION_DENIED,
            "Batch API has not been used in project 1 before or it is disabled. Enable it by visiting a page.",
            "Batch is not enabled in p: gcloud services enable batch.googleapis.com --project p",
        ),
        (grpc.StatusCode.PERMISSION_DENIED, "Permission 'batch.jobs.create' denied", "expected roles/batch.jobsEditor"),
        (grpc.StatusCode.UNAUTHENTICATED, "invalid credentials", "gcloud auth application-default login"),
        (grpc.StatusCode.INVALID_ARGUMENT, "machine type\nis wrong", "Batch refused in p: machine type is wrong"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(serve, capsys, code, text, expected):
    assert wait(serve(FakeBatch(refuse=(code, text)))) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("submit_training: ") and expected in line


def test_without_credentials_it_says_how_to_get_some(tmp_path):
    """The real process, with no account to be found."""
    hidden = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cloud.submit_training", *COMMAND],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done
    [line] = done.stderr.splitlines()
    assert line.startswith("submit_training: no credentials; gcloud auth application-default login"), line


def test_ctrl_c_leaves_the_job_and_says_how_to_follow_it_again(serve, capsys, monkeypatch):
    fake = FakeBatch([(State.RUNNING,)])
    client = serve(fake)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(submit_training.time, "sleep", interrupt)
    assert wait(client, "--", "--minutes", "5") == 130
    error = capsys.readouterr().err
    assert "the job goes on" in error and "gcloud batch jobs cancel train-performance-mine-1-" in error
    again = next(line for line in error.splitlines() if "Follow it again" in line)
    assert again.endswith("-- --minutes 5") and " --wait " in again
