"""Train on a GPU VM of Google Cloud Batch: data and run in buckets, a spot VM, and another one if it is taken away.

    python -m infra.cloud.submit_training --recipe performance --data gs://B/maestro --run gs://B/mine --dry-run
    python -m infra.cloud.submit_training --recipe performance --data gs://B/maestro --run gs://B/mine --wait
    python -m infra.cloud.submit_training … --gpu nvidia-l4 --gpus 4 --set training.batch=128 --wait -- --backend jax

--dry-run prints the job as JSON, as `gcloud batch jobs submit --config` takes it, and needs no account. --wait follows
the job, prints the last line of the run's history, and ends with the trainer's exit code; Ctrl-C leaves the job alone.
The same command finds the job that it submitted before: while that runs, no second one is submitted; once it has ended,
another one goes on from the bucket. What follows -- goes to `python -m trainer train`, and is checked here first. The
trainer takes all GPUs of the VM. batch.RETRIED says after which exit codes a job is tried again.

On a machine of your own the same command is `python -m trainer train --recipe … --data … --run …`.
"""

import argparse
import csv
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence

import google.auth
from google.api_core import exceptions
from google.cloud import batch_v1

from infra.cloud import batch
from infra.cloud.refused import Refused, explained
from music import storage
from music.command_line import fail
from music.errors import MusicError, SettingError
from trainer import recipe
from trainer.__main__ import parser as trainer_parser

REGION = "europe-west4"
TRIES = 50  # numbers that one job's id may get: -2, -3 …
_State = batch_v1.JobStatus.State
_ENDED = (_State.SUCCEEDED, _State.FAILED, _State.CANCELLED)
_SILENT = 20  # errors in a row that Batch may answer with while a job is followed


def run(argv: Sequence[str] | None = None, client: batch_v1.BatchServiceClient | None = None) -> int:
    """Submit one job; return 0, or 2 after a line on stderr, or with --wait the trainer's own exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    try:
        project = args.project or _project(args.dry_run)
        unsent, name = _rendered(args, project)
        if args.dry_run:
            print(batch.to_json(unsent))
            return 0
        with _explained(project):
            client = client or batch_v1.BatchServiceClient()
            job = submit(client, f"projects/{project}/locations/{args.region}", name, unsent)
        print(f"log: gcloud logging read 'labels.job_uid={job.uid}' --project {project} --format='value(textPayload)'")
        if not args.wait:
            print(f"follow it: {_command(words)}")
            return 0
        history = storage.join(args.run, "history.csv")
        try:
            with _explained(project):
                return follow(client, job.name, lambda: storage.read(history), args.every)
        except KeyboardInterrupt:
            short = job.name.rpartition("/")[2]
            print(
                f"\nthe job goes on. Follow it again: {_command(words)}\n"
                f"End it: gcloud batch jobs cancel {short} --location {args.region} --project {project}",
                file=sys.stderr,
            )
            return 130
    except MusicError as error:
        return fail("submit_training", error, 2)


def submit(client: batch_v1.BatchServiceClient, parent: str, name: str, unsent: batch_v1.Job) -> batch_v1.Job:
    """Return the running job of this name, or submit a new one; if jobs of it have ended, with the next number."""
    for number in range(1, TRIES + 1):
        tried = name if number == 1 else f"{name}-{number}"
        try:
            job = client.create_job(parent=parent, job=unsent, job_id=tried)
        except exceptions.AlreadyExists:
            job = client.get_job(name=f"{parent}/jobs/{tried}")
            if job.status.state in _ENDED:
                continue
            print(f"{job.name} is there already, {job.status.state.name}")
            return job
        print(f"{job.name} submitted")
        return job
    raise Refused(f"{parent}: {TRIES} jobs {name} have ended already; delete some, or change a flag")


def follow(client: batch_v1.BatchServiceClient, name: str, history: Callable[[], bytes], every: float = 15.0) -> int:
    """Print a job's states and events until it has ended; return its exit code.

    Args:
        history: reads the run's history.csv; an error that it raises is printed once.
        every: seconds between two requests.
    """
    printed: set[str] = set()
    state, silent = None, 0

    def say(line: str) -> None:
        if line and line not in printed:
            printed.add(line)
            print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)

    while True:
        try:
            job, silent = client.get_job(name=name), 0
        except (exceptions.ServerError, exceptions.RetryError, exceptions.TooManyRequests) as error:
            silent += 1
            if silent > _SILENT:
                raise
            say(f"no answer from Batch: {error.__class__.__name__}; asking again")
            time.sleep(every)
            continue
        if job.status.state != state:
            state = job.status.state
            printed.discard(state.name)
            say(state.name)
        for event in job.status.status_events:
            say(f"  {event.event_time:%H:%M:%S} {event.description.strip()}" if event.event_time else event.description)
        say(_progress(history))
        if state in _ENDED:
            return _ended(client, job, say)
        time.sleep(every)


def _ended(client: batch_v1.BatchServiceClient, job: batch_v1.Job, say: Callable[[str], None]) -> int:
    """Return the exit code of a job that has ended, and explain it if it is one of Batch's own."""
    if job.status.state == _State.SUCCEEDED:
        return 0
    codes = [
        event.task_execution.exit_code
        for task in client.list_tasks(parent=f"{job.name}/taskGroups/group0")
        for event in task.status.status_events
        if event.task_execution.exit_code
    ]
    code = codes[-1] if codes else 1
    meanings = batch.RETRIED | batch.FAILED
    say(
        f"exit code {code}" + (f": {meanings[code]}" if code in meanings else "")
        if codes
        else "it never ran; see its events"
    )
    return code if code < 256 else 1


def _progress(history: Callable[[], bytes]) -> str:
    """Describe the last epoch in a line; "" before the first one."""
    try:
        lines = list(csv.DictReader(io.StringIO(history().decode())))
    except FileNotFoundError:
        return ""
    except (MusicError, OSError) as error:
        return f"the history cannot be read here: {error}"
    last = lines[-1]
    return f"epoch {last['epoch']}: loss {last['loss']}, validation {last['val_loss']}"


def _explained(project: str):
    """Translate Google's errors into Refused, which says what to do."""
    rights = "roles/batch.jobsEditor there and roles/iam.serviceAccountUser on the job's service account"
    return explained("Batch", "batch.googleapis.com", project, rights)


def _project(dry_run: bool) -> str:
    """Return the environment's project, or gcloud's. Raises Refused where there is none."""
    if project := os.environ.get("GOOGLE_CLOUD_PROJECT"):
        return project
    if dry_run:
        print("no --project and no GOOGLE_CLOUD_PROJECT: PROJECT stands for it", file=sys.stderr)
        return "PROJECT"
    with _explained("the project"):
        _, project = google.auth.default()
    if not project:
        raise Refused("which project? Expected --project, GOOGLE_CLOUD_PROJECT or gcloud config set project …")
    return project


def _rendered(args, project: str) -> tuple[batch_v1.Job, str]:
    """Build the job and its id. Raises SettingError for what the trainer would refuse, before a VM is paid for."""
    for flag in ("data", "run"):
        if not getattr(args, flag).startswith("gs://"):
            raise SettingError(f"--{flag} {getattr(args, flag)}: expected gs://BUCKET/…, which the VM can reach")
    chosen = recipe.load(args.recipe)
    for setting in args.set:
        chosen = recipe.override(chosen, setting)
    sets = [part for setting in args.set for part in ("--set", setting)]
    arguments = ["--recipe", args.recipe, "--data", args.data, "--run", args.run, *sets, *args.trainer]
    trainer_parser().parse_args(["train", *arguments])
    name = args.run.rstrip("/").rpartition("/")[2]
    labels = {"app": "cadenza", "recipe": batch.word(args.recipe), "run": batch.word(name)}
    unsent = batch.job(
        batch.Training(
            arguments=tuple(arguments),
            image=args.image or f"{args.region}-docker.pkg.dev/{project}/cadenza/cadenza-train:latest",
            region=args.region,
            gpu=args.gpu,
            gpus=0 if args.gpu == "none" else args.gpus,
            machine=args.machine_type,
            spot=not args.on_demand,
            retries=args.retries,
            hours=args.hours,
            disk_gb=args.disk_gb,
            service_account=args.service_account or f"cadenza-trainer@{project}.iam.gserviceaccount.com",
            labels=tuple((labels | dict(args.label)).items()),
        )
    )
    if args.gpus > 1 and chosen.training.batch % args.gpus:
        raise SettingError(f"training.batch={chosen.training.batch}: expected a multiple of --gpus {args.gpus}")
    return unsent, batch.job_id(unsent, args.recipe, name)


def _command(words: list[str]) -> str:
    """Write the same command with --wait."""
    at = words.index("--") if "--" in words else len(words)
    waiting = words if "--wait" in words[:at] else [*words[:at], "--wait", *words[at:]]
    return shlex.join(["python", "-m", "infra.cloud.submit_training", *waiting])


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or batch.word(name) != name or batch.word(value) != value:
        raise argparse.ArgumentTypeError(f"expected name=value of a-z, 0-9 and hyphens, got {text!r}")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m infra.cloud.submit_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", required=True, help="name of the trainer's recipe, such as performance")
    parser.add_argument("--data", required=True, help="gs:// address of a folder that `python -m preprocessing` wrote")
    parser.add_argument("--run", required=True, help="gs:// address of the run's folder; an existing run continues")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a number of the recipe, such as training.epochs=50; may be given several times",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the job as JSON, and submit nothing")
    parser.add_argument("--wait", action="store_true", help="follow the job to its end (default: only submit it)")
    parser.add_argument(
        "--every", type=float, default=15.0, metavar="SECONDS",
        help="seconds between two requests of --wait (default: 15)",
    )  # fmt: skip
    parser.add_argument("--project", help="id of the project (default: GOOGLE_CLOUD_PROJECT, else gcloud's own)")
    parser.add_argument(
        "--region", default=os.environ.get("GOOGLE_CLOUD_REGION", REGION),
        help=f"region of the job (default: GOOGLE_CLOUD_REGION, else {REGION})",
    )  # fmt: skip
    parser.add_argument(
        "--image",
        help="the trainer's image (default: REGION-docker.pkg.dev/PROJECT/cadenza/cadenza-train:latest)",
    )
    parser.add_argument(
        "--gpu", default="nvidia-l4", help=f"type of GPU: {' | '.join(batch.MACHINES)} (default: nvidia-l4)"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="number of GPUs of the VM (default: 1)")
    parser.add_argument(
        "--machine-type", default="", metavar="TYPE", help="type of the VM (default: the one that fits the GPUs)"
    )
    parser.add_argument(
        "--on-demand", action="store_true",
        help="use a VM that costs more and is not taken away (default: a spot VM)",
    )  # fmt: skip
    parser.add_argument(
        "--retries", type=int, default=10, metavar="N",
        help="number of further attempts after a VM was taken away, 0 to 10 (default: 10)",
    )  # fmt: skip
    parser.add_argument("--hours", type=float, default=24.0, help="hours that one attempt may run (default: 24)")
    parser.add_argument(
        "--disk-gb", type=int, default=50, metavar="GB", help="size of the VM's disk in GB (default: 50)"
    )
    parser.add_argument(
        "--service-account", metavar="EMAIL",
        help="account that the VM runs as (default: cadenza-trainer of the project)",
    )  # fmt: skip
    parser.add_argument(
        "--label", type=_label, action="append", default=[], metavar="NAME=VALUE",
        help="label of the job and its VM; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "trainer", nargs="*", metavar="-- TRAINER'S FLAGS",
        help="flags for `python -m trainer train`, such as -- --backend jax --minutes 600",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(run())
