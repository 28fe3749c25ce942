"""A Dataflow job as it leaves this machine, against goldens; and launched, done and declared, against `dataflow.py`.

    REWRITE=1 python -m pytest tests/preprocessing/test_dataflow.py

writes the goldens anew: look at the difference before you commit it. Nothing here has run on Google's own engines.
"""

import io
import json
import os
import re
import shlex
import tarfile
from pathlib import Path

import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from music import storage
from preprocessing import __main__ as stage
from tests.preprocessing.test_preprocessing import contents, fill, run, tune
from tests.support.dataflow import Dataflow, serving
from tests.support.faulty import emulator

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parents[1] / "support" / "goldens"
FLAGS = shlex.split("""
    --runner DataflowRunner --project our-project --region europe-west4 --temp_location gs://studio/temp
    --job_name preprocessing --labels app=cadenza --labels data=maestro
    --machine_type e2-standard-2 --num_workers 2 --max_num_workers 50 --autoscaling_algorithm THROUGHPUT_BASED
    --disk_size_gb 30 --no_use_public_ips --service_account_email cadenza-worker@our-project.iam.gserviceaccount.com
    --sdk_container_image europe-west4-docker.pkg.dev/our-project/cadenza/cadenza-worker:1.0
""")
TUNES = {f"music/{number % 3}/{number}.mid": tune(number) for number in range(12)}


@pytest.fixture(scope="module")
def bucket():
    with emulator("studio") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def dataflow(bucket, monkeypatch):
    """Start a double of Google's services, and fill a bucket with some music."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket)
    for name in storage.entries("gs://studio"):
        storage.remove(f"gs://studio/{name}")
    for name, data in TUNES.items():
        storage.write(f"gs://studio/{name}", data)
    service = Dataflow()
    with serving(service) as address:
        for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"):
            monkeypatch.setenv(name, address)
        # google-auth reads the address when it is imported, so it is set there as well
        monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", address)
        monkeypatch.chdir(ROOT)
        yield service


def launch(*flags: str) -> int:
    return run("gs://studio/music", "gs://studio/out", "--shards", "3", *FLAGS, *flags)


def template() -> tuple[dict, beam_runner_api_pb2.Pipeline, str]:
    """Build the job as it would be sent; give it, the pipeline that was staged for it, and where."""
    job = json.loads(storage.read("gs://studio/job.json"))
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return job, beam_runner_api_pb2.Pipeline.FromString(storage.read(url)), url.rpartition("/")[0]


def check(name: str, content: object) -> None:
    """Compare with a golden; REWRITE=1 writes it."""
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if os.environ.get("REWRITE"):
        (GOLDENS / name).write_text(text)
    assert text == (GOLDENS / name).read_text()


def normalised(job: dict, folder: str) -> dict:
    """Remove times, random names, and the version of Beam."""
    text = json.dumps(job).replace(folder.removeprefix("gs://"), "studio/temp/JOB")
    job = json.loads(text)
    del job["clientRequestId"]
    environment = job["environment"]
    del environment["userAgent"], environment["version"]
    for image in environment["workerPools"][0]["sdkHarnessContainerImages"]:
        del image["capabilities"]
    options = environment["sdkPipelineOptions"].pop("options")
    del environment["sdkPipelineOptions"]
    set_here = {flag.removeprefix("--").removeprefix("no_") for flag in FLAGS if flag.startswith("--")} - {"runner"}
    set_by_us = {"setup_file", "save_main_session", "streaming", "pickle_library", "update"}
    return job | {"options": {name: options[name] for name in sorted(set_here | set_by_us) if name in options}}


def steps(staged: beam_runner_api_pb2.Pipeline) -> dict[str, str]:
    """Describe each transform that is not made of others, by its name: what it does, and to whose output."""
    transforms = [each for each in staged.components.transforms.values() if not each.subtransforms]
    maker = {
        output: plain(each) + ("" if tag == "None" else f"[{tag}]")
        for each in transforms
        for tag, output in each.outputs.items()
    }

    def inputs(transform: beam_runner_api_pb2.PTransform) -> str:
        of = (("beside " if "side" in tag else "") + maker[input] for tag, input in transform.inputs.items())
        return ", ".join(sorted(of))

    return {plain(each): f"{each.spec.urn.split(':')[2]}({inputs(each)})" for each in transforms}


def plain(transform: beam_runner_api_pb2.PTransform) -> str:
    """Give a transform's name without numbers of lines."""
    return re.sub(r"<lambda at \w+\.py:\d+>", "<lambda>", transform.unique_name)


def test_a_dry_run_builds_the_job_and_touches_nothing(dataflow, capsys):
    before = storage.walk("gs://studio")
    assert launch("--dry_run=true") == 0
    assert "The pipeline for 12 files is built; nothing has run" in capsys.readouterr().out
    assert storage.walk("gs://studio") == before
    assert dataflow.jobs == {}


def test_the_documented_command(dataflow, capsys):
    """Read the commands of infra/dataflow.md, word for word, with a bucket that exists."""
    text = (ROOT / "infra/dataflow.md").read_text()
    (command,) = re.findall(r"^python -m preprocessing .*?^```", text, re.MULTILINE | re.DOTALL)
    for name, value in {"gs://$PROJECT-cadenza-data/raw/midi": "gs://studio/music", "$PROJECT": "our-project"}.items():
        command = command.replace(name, value)
    words = shlex.split(command.replace("$REGION", "europe-west4").removesuffix("```"))
    assert words[:3] == ["python", "-m", "preprocessing"]
    assert stage.run([*words[3:], "--dry_run=true", "--output", "gs://studio/out"]) == 0
    assert "The pipeline for 12 files is built" in capsys.readouterr().out


class TestTemplate:
    def test_the_job(self, dataflow, capsys):
        old = ["gs://studio/out/dataset.json", "gs://studio/out/train-00000-of-00001.tfrecord"]
        for path in old:
            storage.write(path, b"old")
        assert launch("--template_location", "gs://studio/job.json", "--overwrite") == 0
        assert "nothing has run" in capsys.readouterr().out
        assert dataflow.jobs == {}
        assert [(path, storage.read(path)) for path in old] == [(path, b"old") for path in old]
        job, staged, folder = template()
        check("dataflow_job.json", normalised(job, folder))
        check("dataflow_steps.json", steps(staged))
        (environment,) = staged.components.environments.values()
        payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        assert payload.container_image == FLAGS[-1]
        listings = [each for each in staged.components.transforms.values() if "Reshuffle" in each.unique_name]
        assert any(each.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn for each in listings)  # breaks fusion

    def test_our_code_travels_with_setup_file(self, dataflow):
        """What workers install is our code, and none of what is heavy; what they do not import may be missing."""
        assert launch("--template_location", "gs://studio/job.json", "--setup_file", "./setup.py") == 0
        job, _, folder = template()
        (pool,) = job["environment"]["workerPools"]
        assert "workflow.tar.gz" in {package["name"] for package in pool["packages"]}
        with tarfile.open(fileobj=io.BytesIO(storage.read(f"{folder}/workflow.tar.gz"))) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
            (requires,) = (name for name in archive.getnames() if name.endswith("egg-info/requires.txt"))
            always = archive.extractfile(requires).read().decode().partition("[")[0].split()
        assert names >= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("music/**/*.py")}
        assert names >= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("preprocessing/*.py")}
        assert sorted(always) == ["google-crc32c", "numpy", "pretty_midi", "protobuf"]


class TestLaunch:
    """The staged pipeline is run by the double, as a worker that knows nothing else would."""

    @pytest.mark.slow
    def test_from_bucket_to_bucket(self, dataflow, tmp_path, capfd):
        assert launch("--dataflow_endpoint", dataflow.address) == 0
        printed = capfd.readouterr()
        assert "is submitted: https://console.cloud.google.com/dataflow/jobs/europe-west4/" in printed.err
        assert "JOB_STATE_DONE" in printed.err
        assert "The dataset is in gs://studio/out" in printed.out
        fill(tmp_path / "in", TUNES)
        assert run(tmp_path / "in/music", tmp_path / "here", "--shards", "3") == 0
        there = {Path(file.path).name: storage.read(file.path) for file in storage.walk("gs://studio/out")}
        assert there == contents(tmp_path / "here")
        storage.remove("gs://studio/out/dataset.json")  # as if the launcher had been stopped
        assert launch("--complete") == 0
        assert storage.read("gs://studio/out/dataset.json") == there["dataset.json"]

    def test_a_job_that_fails(self, dataflow, capfd):
        dataflow.error = "No space left on device"
        assert launch("--dataflow_endpoint", dataflow.address) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("preprocessing: Dataflow: Dataflow pipeline failed. State: FAILED")
        assert "No space left on device" in last
        assert not storage.exists("gs://studio/out/dataset.json")

    @pytest.mark.parametrize(
        "status, message",
        [
            (403, "Dataflow API has not been used in project our-project before or it is disabled. Enable it by ..."),
            (403, "(d2c1) Could not create workflow; user does not have write access to project: our-project"),
        ],
    )
    def test_a_job_that_is_refused(self, dataflow, capfd, status, message):
        dataflow.refusal = status, message
        assert launch("--dataflow_endpoint", dataflow.address) == 1
        printed = capfd.readouterr().err
        assert printed.splitlines()[-1].startswith("preprocessing: Dataflow: 403")
        assert message in printed.splitlines()[-1]
        assert "Traceback" not in printed
