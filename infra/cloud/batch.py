"""The settings of a training job → a typed job of Google Cloud Batch: one task, one container, one VM with its GPUs.

Knows nothing of accounts, of the network, and of what the trainer's flags mean.
"""

import hashlib
import re
from dataclasses import dataclass

from google.cloud import batch_v1
from google.protobuf import duration_pb2, json_format

from music.errors import SettingError

# GPUs of a VM → its machine type, its vCPUs, its memory in GiB. A machine type comes with its GPUs, but for n1.
MACHINES: dict[str, dict[int, tuple[str, int, int]]] = {
    "none": {0: ("e2-standard-8", 8, 32)},
    "nvidia-tesla-t4": {1: ("n1-standard-8", 8, 30), 2: ("n1-standard-16", 16, 60), 4: ("n1-standard-32", 32, 120)},
    "nvidia-l4": {
        1: ("g2-standard-8", 8, 32),
        2: ("g2-standard-24", 24, 96),
        4: ("g2-standard-48", 48, 192),
        8: ("g2-standard-96", 96, 384),
    },
    "nvidia-tesla-a100": {n: (f"a2-highgpu-{n}g", 12 * n, 85 * n) for n in (1, 2, 4, 8)},
    "nvidia-a100-80gb": {n: (f"a2-ultragpu-{n}g", 12 * n, 170 * n) for n in (1, 2, 4, 8)},
    "nvidia-h100-80gb": {n: (f"a3-highgpu-{n}g", 26 * n, 234 * n) for n in (1, 2, 4, 8)},
}
# After these exit codes the task runs again, on another VM, and goes on from the bucket. After any other it has failed:
# an error in a flag or a dataset would come again. The first two codes are the trainer's own.
RETRIED = {
    75: "a bucket did not answer for some minutes",
    143: "SIGTERM: the trainer wrote a checkpoint and left",
    50001: "the spot VM was taken away",
    50002: "the VM did not report any more",
    50003: "the VM started again",
    50006: "the VM was made anew",
}
FAILED = {
    50000: "the agent failed; see the job's log",
    50004: "the task did not answer any more",
    50005: "the maximum run time was over; submit again to go on",
}


@dataclass(frozen=True)
class Training:
    """One training job. `arguments`: all that follows `python -m trainer train`."""

    arguments: tuple[str, ...]
    image: str
    region: str
    gpu: str = "nvidia-l4"
    gpus: int = 1
    machine: str = ""  # machine type; "": the smallest that fits
    spot: bool = True
    retries: int = 10  # Batch allows no more
    hours: float = 24.0  # of one attempt; the next one goes on from the bucket
    disk_gb: int = 50
    service_account: str = ""
    labels: tuple[tuple[str, str], ...] = ()


def job(training: Training) -> batch_v1.Job:
    """Build the job as Batch takes it. Raises SettingError for an unknown GPU or a number out of its range."""
    machine, compute = _machine(training)
    policy = batch_v1.AllocationPolicy.InstancePolicy(
        machine_type=machine,
        provisioning_model="SPOT" if training.spot else "STANDARD",
        boot_disk=batch_v1.AllocationPolicy.Disk(type_="pd-balanced", size_gb=training.disk_gb),
    )
    if training.gpus:
        policy.accelerators = [batch_v1.AllocationPolicy.Accelerator(type_=training.gpu, count=training.gpus)]
    task = batch_v1.TaskSpec(
        runnables=[
            batch_v1.Runnable(
                display_name="trainer",
                container=batch_v1.Runnable.Container(
                    image_uri=training.image,
                    entrypoint="python",  # as process 1, it receives SIGTERM itself
                    commands=["-m", "trainer", "train", *training.arguments],
                ),
            )
        ],
        max_run_duration=duration_pb2.Duration(seconds=round(3600 * training.hours)),
        max_retry_count=training.retries,
        lifecycle_policies=[
            batch_v1.LifecyclePolicy(
                action=batch_v1.LifecyclePolicy.Action.RETRY_TASK,
                action_condition=batch_v1.LifecyclePolicy.ActionCondition(exit_codes=list(RETRIED)),
            )
        ],
    )
    if compute:
        task.compute_resource = compute
    allocation = batch_v1.AllocationPolicy(
        location=batch_v1.AllocationPolicy.LocationPolicy(allowed_locations=[f"regions/{training.region}"]),
        instances=[
            batch_v1.AllocationPolicy.InstancePolicyOrTemplate(policy=policy, install_gpu_drivers=training.gpus > 0)
        ],
        labels=dict(training.labels),  # of the VM and its disk, so of the bill
    )
    if training.service_account:
        allocation.service_account = batch_v1.ServiceAccount(email=training.service_account)
    return batch_v1.Job(
        task_groups=[batch_v1.TaskGroup(task_spec=task, task_count=1, parallelism=1)],
        allocation_policy=allocation,
        labels=dict(training.labels),
        logs_policy=batch_v1.LogsPolicy(destination=batch_v1.LogsPolicy.Destination.CLOUD_LOGGING),
    )


def to_json(unsent: batch_v1.Job) -> str:
    """Write a job as `gcloud batch jobs submit --config` reads it."""
    return json_format.MessageToJson(batch_v1.Job.pb(unsent), indent=2, sort_keys=True)


def job_id(unsent: batch_v1.Job, *names: str) -> str:
    """Make a job's id: the same one for the same job, so that a job that was submitted already is found again.

    It has up to 60 characters, which leaves room for the number of a later attempt.
    """
    digest = hashlib.sha256(to_json(unsent).encode()).hexdigest()[:8]
    words = "-".join(word(name) for name in names)
    return f"train-{words[:45].strip('-')}-{digest}"


def word(text: str) -> str:
    """Turn a text into a label's value or a part of an id: a-z, 0-9 and single hyphens, at most 63 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:63].strip("-")


def _machine(training: Training) -> tuple[str, batch_v1.ComputeResource | None]:
    """Choose the machine type, and the CPUs and memory that the task takes: all of them; None for an unknown type."""
    if training.gpu not in MACHINES:
        raise SettingError(f"--gpu {training.gpu}: expected one of {', '.join(MACHINES)}")
    if training.gpus not in MACHINES[training.gpu]:
        counts = ", ".join(map(str, MACHINES[training.gpu]))
        raise SettingError(f"--gpus {training.gpus}: {training.gpu} comes in {counts}")
    for name, low, high in (("retries", 0, 10), ("hours", 0.1, 24 * 14), ("disk_gb", 30, 65536)):
        if not low <= getattr(training, name) <= high:
            flag = name.replace("_", "-")
            raise SettingError(f"--{flag} {getattr(training, name)}: expected {low} to {high}")
    machine, cpus, memory = MACHINES[training.gpu][training.gpus]
    if training.machine not in ("", machine):
        return training.machine, None
    return machine, batch_v1.ComputeResource(cpu_milli=1000 * cpus, memory_mib=memory * 1024 * 7 // 8)
