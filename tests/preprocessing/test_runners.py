"""The same pipeline on every runner: equal bytes, nothing lost, nothing heavy in a worker; and what is refused."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest

from music import wire
from music.pieces import Dataset
from preprocessing import pipeline, runners, sources
from tests.preprocessing.test_preprocessing import contents, fill, pack, run, tune

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Make twenty-five tunes in seven folders, one of them twice, and a file that is no music."""
    files = {f"{number % 7}/{number}.mid": tune(number) for number in range(25)}
    return fill(tmp_path_factory.mktemp("music") / "in", {**files, "again.mid": tune(3), "bad.mid": b"bad"})


@pytest.fixture(scope="module")
def expected(music, tmp_path_factory) -> dict[str, str]:
    """Compute the checksums that a run in this process gives."""
    folder = tmp_path_factory.mktemp("expected") / "out"
    assert run(music, folder, "--shards", "4") == 0
    return sums(folder)


def sums(folder: Path) -> dict[str, str]:
    """Compute the sha256 of every file of a dataset, and check the counts in dataset.json against the files."""
    facts = Dataset.open(str(folder)).facts
    files = contents(folder)
    shards = {name for name in files if name.endswith(".tfrecord")}
    assert {shard["path"] for shard in facts["shards"]} == shards
    records = {name: list(wire.read_records(io.BytesIO(files[name]))) for name in shards}
    assert sum(map(len, records.values())) == 25
    for shard in facts["shards"]:
        pitches = [wire.Example.FromString(record).features.feature["pitch"] for record in records[shard["path"]]]
        assert shard["records"] == len(pitches)
        assert shard["notes"] == sum(len(pitch.int64_list.value) for pitch in pitches)
    assert sum(shard["notes"] for shard in facts["shards"]) == sum(number + 2 for number in range(25))
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


class TestEqualBytes:
    @pytest.mark.parametrize(
        "flags",
        [[], ["--runner", "DirectRunner"], ["--runner=DirectRunner", *TWO_PROCESSES]],
        ids=["again", "DirectRunner", "two processes"],
    )
    def test_here(self, music, expected, tmp_path, flags):
        assert run(music, tmp_path / "out", "--shards", "4", *flags) == 0
        assert sums(tmp_path / "out") == expected

    @pytest.mark.slow
    def test_dask(self, music, expected, tmp_path):
        """A LocalCluster of its own: a scheduler, and workers that start empty. Of a zip, as what reads it holds a file
        open; so the dataset names another source, and nothing else differs."""
        files = {f"in/{path.relative_to(music)}": path.read_bytes() for path in music.rglob("*.mid")}
        command = [sys.executable, "-m", "preprocessing", "--input", pack(tmp_path / "in.zip", files)]
        command += ["--output", tmp_path / "out", "--shards", "4", "--runner", "DaskRunner"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        actual = sums(tmp_path / "out")
        assert actual.pop("dataset.json") != expected["dataset.json"]
        assert actual == {name: sum for name, sum in expected.items() if name != "dataset.json"}


@pytest.mark.slow
def test_a_worker_has_our_code_and_nothing_heavy(music, tmp_path):
    """Of a worker's own process: what it imported to read, group and write."""

    def imported(shard: str) -> None:
        names = sorted({name.partition(".")[0] for name in sys.modules})
        (tmp_path / f"{os.getpid()}.json").write_text(json.dumps(names))

    with beam.Pipeline(options=runners.options(TWO_PROCESSES)) as p:
        pieces, _, _ = p | pipeline.ReadPieces(sources.find(str(music)), {})
        shards = pieces | pipeline.WriteShards(str(tmp_path / "out"), 4, pieces | pipeline.Duplicates())
        shards | "Imported" >> beam.Map(imported)
    imported = {path.stem: set(json.loads(path.read_text())) for path in tmp_path.glob("*.json")}
    assert imported
    assert str(os.getpid()) not in imported
    for names in imported.values():
        assert names >= {"apache_beam", "preprocessing", "music", "numpy"}
        assert not names & {"tensorflow", "keras", "jax", "trainer", "serving", "flask", "matplotlib", "pandas"}


class TestRefused:
    @pytest.mark.parametrize("flags", [[], ["--direct_num_workers", "2"], ["--runner", "DirectRunner"]])
    def test_beams_mode_that_loses_records(self, music, tmp_path, capsys, flags):
        assert run(music, tmp_path / "out", "--direct_running_mode", "multi_threading", *flags) == 2
        assert "loses records" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "flags, says",
        [
            (["--runner", "DirctRunner"], "Unexpected pipeline runner: DirctRunner"),
            (["--runner", "DataflowRunner"], "needs --temp_location gs://BUCKET/temp, got none"),
            (["--runner", "DataflowRunner", "--temp_location", "temp"], "gs://BUCKET/temp, got temp"),
            (["--runner", "DataflowRunner", "--temp_location", "gs://b/temp"], "Dataflow's workers see no such path"),
            (["--runner", "dataflow"], "needs --temp_location gs://BUCKET/temp, got none"),  # as Beam takes it too
            (["--setup_file", "./sette.py"], "--setup_file ./sette.py: there is no such file"),
            (["--dry_run=true"], "--dry_run is only for --runner DataflowRunner"),
        ],
    )
    def test_what_a_runner_cannot_do_touches_nothing(self, music, tmp_path, capsys, flags, says):
        old = fill(tmp_path / "out", {"dataset.json": b"{}"})
        assert run(music, old, "--overwrite", *flags) == 2
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.startswith("preprocessing: ")
        assert printed.count("\n") == 1
        assert contents(old) == {"dataset.json": b"{}"}


class TestComplete:
    """What a job has written whose launcher was stopped, declared afterwards by --complete."""

    def test_it_is_the_same_dataset(self, music, expected, tmp_path, capsys):
        out = tmp_path / "out"
        run(music, out, "--shards", "4")
        (out / "dataset.json").unlink()
        assert run(music, out, "--shards", "4", "--complete") == 0
        assert sums(out) == expected
        assert "The dataset is in" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "missing, says",
        [
            ("train-00000-of-00004.tfrecord", "of 27 files there are"),
            ("stats.json", "stats.json not there; the job is not done, or failed"),
        ],
    )
    def test_a_job_that_is_not_done_is_not_declared(self, music, tmp_path, capsys, missing, says):
        out = tmp_path / "out"
        run(music, out, "--shards", "4")
        for name in ("dataset.json", missing):
            (out / name).unlink()
        before = contents(out)
        capsys.readouterr()  # what the first one said, if it took long enough to say how far it is
        assert run(music, out, "--complete") == 1
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.count("\n") == 1
        assert contents(out) == before

    def test_a_dataset_that_is_complete_is_not_declared_again(self, music, tmp_path, capsys):
        """It may be that of an older run, while the new job has not begun."""
        out = tmp_path / "out"
        run(music, out, "--shards", "4")
        before = contents(out)
        assert run(music, out, "--complete") == 1
        assert "holds a complete dataset already" in capsys.readouterr().err
        assert contents(out) == before

    def test_a_folder_of_nothing(self, music, tmp_path, capsys):
        assert run(music, tmp_path / "out", "--complete") == 1
        assert "not there" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
