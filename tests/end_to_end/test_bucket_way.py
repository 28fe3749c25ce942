"""The whole way with everything in a bucket: one command a stage, each in a new, empty working folder.

And what a person reads who names a bucket that does not let them.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest

from music import midi, storage
from music import notes as nt
from music.__main__ import run as music
from music.generation import Generator, Settings
from music.pieces import Dataset
from music.storage import checksums
from preprocessing.__main__ import run as preprocess
from tests.conftest import waltz
from tests.support.fakes import front_end
from tests.support.faulty import NO_RIGHT, NOT_ENABLED, Fault
from tests.trainer.test_loop import SMALL
from trainer.__main__ import run as trainer

ROOT = Path(__file__).parents[2]


def start(folder: Path, *command: str) -> subprocess.Popen:
    """A command of ours in a folder that is new and empty."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[str, str]:
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return output, errors


def packed(count: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for seed in range(count):
            archive.writestr(f"waltzes/{seed:02d}.mid", midi.write(waltz(seed)))
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_zip_in_the_bucket_to_a_served_note(proxy, tmp_path):
    source, notes, run, models = (f"gs://studio/way/{name}" for name in ("midi.zip", "notes", "run", "models"))
    storage.write(source, packed(12))

    # bytes → TFRecords: those that a local run makes
    finish(start(tmp_path / "1", "preprocessing", "--input", source, "--output", notes, "--shards", "2"))
    (tmp_path / "midi.zip").write_bytes(packed(12))
    assert (
        preprocess(["--input", str(tmp_path / "midi.zip"), "--output", str(tmp_path / "notes"), "--shards", "2"]) == 0
    )
    for name in storage.entries(tmp_path / "notes"):
        assert storage.read(f"{notes}/{name}") == (tmp_path / "notes" / name).read_bytes()

    # TFRecords → a run, killed after its first checkpoint, while the bucket has its moods
    sets = [part for setting in [*SMALL, "training.epochs=6"] for part in ("--set", setting)]
    train = ["trainer", "train", "--recipe", "performance", "--data", notes, "--run", run, *sets]
    proxy.faults = [
        Fault(503, times=3),
        Fault("cut reply", "GET", "alt=media", times=2),
        Fault("drop", "POST", times=2),
    ]
    killed = start(tmp_path / "2", *train)
    until = time.monotonic() + 240
    while killed.poll() is None and not storage.exists(f"{run}/checkpoint.npz"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert killed.poll() is None, killed.communicate()[1]
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()

    # … and it goes on "on another machine"
    _, progress = finish(start(tmp_path / "3", *train))
    assert "going on after epoch" in progress
    card = json.loads(storage.read(f"{run}/card.json"))
    assert card["dataset"]["digest"] == Dataset.open(notes).facts["digest"]
    assert len(storage.read(f"{run}/history.csv").splitlines()) == 1 + 6

    # → SavedModel → POST
    output, _ = finish(start(tmp_path / "4", "trainer", "export", "--run", run, "--output", models))
    assert output.strip() == f"{models}/performance/1"
    last = [target for method, target in proxy.seen if method == "POST" and "upload" in target][-1]
    assert "ifGenerationMatch=0" in last
    seed = midi.write(waltz(99, bars=6))
    with front_end("--model", models) as base:
        request = urllib.request.Request(
            f"{base}/generate?notes=40&random_seed=3", seed, {"Content-Type": "audio/midi"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            whole, headers = reply.read(), dict(reply.headers)
    assert headers["X-Model"] == "performance/1" and headers["X-Random-Seed"] == "3"

    # what came is what the run's own weights play
    from trainer.export import signatures
    from trainer.run_folder import load

    generator = Generator(signatures.Live(*load(run)))
    expected = [chunk.notes for chunk in generator.stream(midi.read(seed), Settings(notes=40, random_seed=3))]
    written = midi.read(midi.write(nt.sort(np.concatenate([midi.read(seed), *expected]))))
    np.testing.assert_array_equal(midi.read(whole), written)
    for number in "1234":
        assert list((tmp_path / number).iterdir()) == []


def test_music_in_a_bucket_is_looked_at(proxy, tmp_path, capsys):
    for number in range(3):
        storage.write(f"gs://studio/midi/sub/{number}.MID", midi.write(waltz(number, bars=4)))
    assert music(["inspect", "gs://studio/midi/sub/0.MID"]) == 0
    assert "notes" in capsys.readouterr().out
    assert music(["plot", "distributions", "ours=gs://studio/midi", "gs://studio/pictures/a.svg"]) == 0
    assert music(["plot", "gs://studio/midi/sub/0.MID", "gs://studio/midi/sub/1.MID", str(tmp_path / "roll.svg")]) == 0
    picture = storage.read("gs://studio/pictures/a.svg")
    assert picture.startswith(b"<?xml") and b"ours" in picture
    assert b"1.MID" in (tmp_path / "roll.svg").read_bytes()


def test_two_trainers_of_one_run_do_not_mix(proxy, tmp_path):
    """The one that finds another's checkpoint where its own was stops and says so."""
    from trainer.run_folder import CHECKPOINT

    path = f"gs://studio/two/{CHECKPOINT}"
    mine = storage.write(path, b"mine", expected=storage.version(path))
    storage.write(path, b"theirs")
    with pytest.raises(storage.Conflict, match=r"checkpoint\.npz: somebody else"):
        storage.write(path, b"mine again", expected=mine)
    assert storage.read(path) == b"theirs"


def test_an_export_takes_the_next_number(proxy, monkeypatch):
    """What is saved is for test_saved_model; here it is where it goes, with others about."""
    from trainer.export import saved_model

    def save(model, card, folder: str, xla: bool) -> None:
        for name in ("assets/card.json", "saved_model.pb"):
            storage.write(storage.join(folder, name), model)

    monkeypatch.setattr(saved_model, "save", save)
    monkeypatch.setattr(saved_model, "verify", lambda *args: None)
    base, card = "gs://studio/numbers", {"recipe": "toy"}
    assert saved_model.publish(b"a", card, base) == f"{base}/toy/1"
    storage.write(f"{base}/toy/7/assets/card.json", b"an export that was interrupted, or goes on")
    assert saved_model.publish(b"b", card, base) == f"{base}/toy/8"
    for taken in (7, 8):
        with pytest.raises(saved_model.ExportError, match=f"toy/{taken} exists already.*; choose another --version"):
            saved_model.publish(b"d", card, base, taken)
    assert storage.read(f"{base}/toy/7/assets/card.json") == b"an export that was interrupted, or goes on"
    storage.remove(f"{base}/toy/7")
    assert saved_model.publish(b"c", card, base, 7) == f"{base}/toy/7"

    look = saved_model._next
    numbers = iter([8, 8])  # twice somebody else was quicker
    monkeypatch.setattr(saved_model, "_next", lambda home: next(numbers, None) or look(home))
    assert saved_model.publish(b"e", card, base) == f"{base}/toy/9"
    assert [storage.read(f"{base}/toy/{n}/saved_model.pb") for n in (1, 7, 8, 9)] == [b"a", b"c", b"b", b"e"]


def test_a_damaged_model_is_named_as_the_user_named_it(proxy, tmp_path, capsys):
    """Not as the copy of it that is read."""
    version, model = tmp_path / "1", "gs://studio/damaged/1"
    for name in ("assets/card.json", "saved_model.pb"):
        storage.write(version / name, b"{}")
    checksums.write_manifest(version)
    storage.publish(version, model, last="saved_model.pb")
    storage.write(f"{model}/saved_model.pb", b"()")
    for line in (
        ["train", "--from", f"{model}/", "--data", str(tmp_path), "--run", str(tmp_path / "run")],
        ["evaluate", "--model", model, "--data", str(tmp_path), "--split", "test"],
        ["export", "--model", model, "--output", str(tmp_path / "out")],
    ):
        assert trainer(line) == 2
        output = capsys.readouterr().err.splitlines()[-1]
        assert output.startswith(f"trainer: {model}/saved_model.pb is damaged: expected 2 bytes with the sha256"), (
            output
        )


COMMANDS = {
    "preprocessing in": (preprocess, ["--input", "gs://{}/midi", "--output", "{tmp}/out"]),
    "preprocessing out": (preprocess, ["--input", "{tmp}", "--output", "gs://{}/notes"]),
    "train": (trainer, ["train", "--recipe", "performance", "--data", "gs://{}/notes", "--run", "{tmp}/run"]),
    "evaluate": (trainer, ["evaluate", "--model", "gs://{}/models/1", "--data", "gs://{}/notes", "--split", "test"]),
    "sample": (trainer, ["sample", "--run", "gs://{}/run", "--output", "{tmp}/a.mid"]),
    "export": (trainer, ["export", "--run", "gs://{}/run", "--output", "gs://{}/models"]),
    "inspect": (music, ["inspect", "gs://{}/a.mid"]),
    "plot": (music, ["plot", "distributions", "gs://{}/notes", "{tmp}/a.png"]),
}
REFUSALS = {
    "wrong bucket": (Fault("", times=0), "stduio", "there is no bucket gs://stduio"),
    "no right": (Fault(403, message=NO_RIGHT), "studio", "is not allowed to pianist@example.com"),
    "no API": (Fault(403, message=NOT_ENABLED), "studio", "gcloud services enable storage-api.googleapis.com"),
    "no answer": (Fault(503, message="busy"), "studio", "no success within 1 s, the last answer: 503 busy; try again"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_refusal_is_one_line(proxy, impatient, tmp_path, capsys, command, refusal):
    (tmp_path / "a.mid").write_bytes(midi.write(waltz(1, bars=2)))
    run, words = COMMANDS[command]
    fault, bucket, says = REFUSALS[refusal]
    proxy.faults = [fault]
    later = 75 if run is trainer and refusal == "no answer" else 2  # a job is tried again after that
    assert run([word.format(bucket, tmp=tmp_path) for word in words]) == later
    output = capsys.readouterr().err
    assert says in output and f"gs://{bucket}/" in output
    assert output.count("\n") == 1 and "Traceback" not in output


@pytest.mark.parametrize("refusal", ["wrong bucket", "no right"])
def test_the_front_end_says_it_in_one_line_too(proxy, refusal):
    fault, bucket, says = REFUSALS[refusal]
    proxy.faults = [fault]
    command = [sys.executable, "-m", "serving", "--port", "0", "--model", f"gs://{bucket}/models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\n") == 1
