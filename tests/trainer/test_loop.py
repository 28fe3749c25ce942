"""Runs: progress is kept whatever happens, and the measure is the one that the design defines."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from music import midi, storage
from music import notes as nt
from music.encodings import NoteRows
from music.encodings.columns import Column
from music.errors import RecordError
from music.generation import Card
from music.pieces import Dataset
from tests.conftest import waltz
from trainer import model, recipe, run_folder
from trainer.__main__ import run as trainer  # `python -m trainer` without its start, which takes seconds
from trainer.evaluation import likelihood
from trainer.export import signatures
from trainer.fit import loop, signals
from trainer.fit.run_identity import same_start
from trainer.fit.training_callback import Diverged
from trainer.recipe import to_card

SMALL = [
    "core.units=16", "core.layers=1", "heads.hidden=16", "heads.slots=4", "training.window=32", "training.batch=4",
    "training.steps=5", "training.warmup=5", "training.keep=2", "training.validation=8",
]  # fmt: skip


def command(dataset: str, run: Path, epochs: int) -> list[str]:
    sets = [part for setting in [*SMALL, f"training.epochs={epochs}"] for part in ("--set", setting)]
    return [
        sys.executable,
        "-m",
        "trainer",
        "train",
        "--recipe",
        "performance",
        "--data",
        dataset,
        "--run",
        str(run),
        *sets,
    ]


def train(dataset: str, run: Path, epochs: int) -> subprocess.CompletedProcess:
    return subprocess.run(command(dataset, run, epochs), capture_output=True, text=True, timeout=240)


def history(run: Path) -> list[dict]:
    with open(run / "history.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def unbroken(tiny_dataset, once) -> Path:
    def make(folder: Path) -> None:
        done = train(tiny_dataset, folder / "unbroken", 8)
        assert done.returncode == 0, done.stderr

    return once("runs", make) / "unbroken"


def test_a_run_learns_and_leaves_what_it_promises(unbroken):
    lines = history(unbroken)
    assert [int(line["epoch"]) for line in lines] == list(range(1, 9))
    assert float(lines[-1]["val_loss"]) < float(lines[0]["val_loss"]) - 1
    parts = sum(float(lines[-1][name]) for name in ("step", "pitch", "velocity", "duration"))
    assert parts == pytest.approx(float(lines[-1]["loss"]), abs=1e-4)
    names = sorted(path.name for path in (unbroken / "weights").iterdir())
    assert names == ["00002.npz", "00004.npz", "00006.npz", "00008.npz", "best.npz", "last.npz"]
    curves = sorted(path.name for path in (unbroken / "tensorboard" / "validation").iterdir())
    assert curves == [f"events.out.tfevents.{number:010d}.cadenza" for number in range(1, 9)]
    assert (unbroken / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert all(len(midi.read((unbroken / "samples" / f"{n}.mid").read_bytes())) <= 200 for n in (1, 2))
    card = json.loads((unbroken / "card.json").read_text())
    assert card["metrics"]["val_loss"] == min(float(line["val_loss"]) for line in lines)
    assert card["dataset"]["pieces"]["train"] > 0


@pytest.mark.slow
def test_killed_twice_and_started_again_it_ends_as_if_unbroken(tiny_dataset, unbroken, tmp_path):
    """kill -9 once after the first checkpoint and once after the fourth, wherever the process is then."""
    run = tmp_path / "killed"
    for enough in (1, 4):
        process = subprocess.Popen(command(tiny_dataset, run, 8), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if (run / "history.csv").exists() and len(history(run)) >= enough:
                break
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    done = train(tiny_dataset, run, 8)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in done.stderr
    same(run, unbroken)


def same(run: Path, other: Path) -> None:
    """Two runs are one, bit for bit: the same batches, optimiser, rates and dropout."""
    result, expected = history(run), history(other)
    for line in (*result, *expected):
        assert float(line.pop("seconds")) > 0
    assert result == expected
    result, expected = (run_folder.unpack(f"{folder}/checkpoint.npz") for folder in (run, other))
    assert {"history"} < set(result) == set(expected)
    for name in set(expected) - {"history"}:
        np.testing.assert_array_equal(result[name], expected[name], err_msg=name)


class After(signals.Stop):
    """SIGTERM, as training sees it once it has looked so many times."""

    def __init__(self, looks: int):
        self.looks = looks

    @property
    def signal(self):
        self.looks -= 1
        return signal.SIGTERM if self.looks < 0 else None


def test_stopped_within_an_epoch_it_ends_as_if_unbroken(tiny_dataset, unbroken, tmp_path):
    """Stopped at a step, then, across an epoch's end, with an epoch: the same metrics and weights."""
    small = recipe.load("performance")
    for setting in [*SMALL, "training.epochs=8"]:
        small = recipe.override(small, setting)
    dataset = Dataset.open(tiny_dataset)
    for looks, where in ((2, "epoch 0 and step 3 "), (6, "epoch 2; ")):
        with pytest.raises(signals.Stopped, match=f"SIGTERM: stopped after {where}") as stopped:
            loop.fit(small, dataset, str(tmp_path), log=io.StringIO(), stop=After(looks))
        assert stopped.value.exit_code == 143
    for result, expected in zip(history(tmp_path), history(unbroken)[:2], strict=True):
        assert float(result.pop("seconds")) > 0 and float(expected.pop("seconds")) > 0
        assert result == expected
    result, expected = (run_folder.unpack(f"{run}/weights/00002.npz") for run in (tmp_path, unbroken))
    for name in expected:
        np.testing.assert_array_equal(result[name], expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_sigterm_writes_where_it_stands_and_the_same_command_goes_on(tiny_dataset, tmp_path, backend):
    """The real process in the middle of a long epoch; with a checkpoint after each step, so that we know when."""
    run = tmp_path / "run"
    line = [*command(tiny_dataset, run, 1), "--set", "training.steps=150", "--checkpoint-minutes", "0"]
    line += ["--backend", backend]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and not (run / "checkpoint.npz").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, log = process.communicate(timeout=120)
    assert process.returncode == 143, log
    if (
        backend == "tensorflow"
    ):  # JAX compiles its step once more behind the first checkpoint, which takes what it takes
        assert time.monotonic() - sent < 30  # what a spot VM has left
    assert re.search(r"^SIGTERM: stopped after epoch 0 and step \d+ of the next; the same command", log, re.M), log
    assert "Traceback" not in log and not (run / "history.csv").exists()
    step = int(run_folder.unpack(str(run / "checkpoint.npz"))["unfinished"][0])
    assert 0 < step < 150
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert f"going on after epoch 0 and step {step} of the next" in done.stderr
    assert [int(line["epoch"]) for line in history(run)] == [1]


class Rival(signals.Stop):
    """No signal; but another process writes the checkpoint while we look."""

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint

    @property
    def signal(self):
        storage.write(self.checkpoint, b"theirs")
        return None


@pytest.mark.slow
def test_two_in_one_folder_are_noticed_before_they_mix(tiny_dataset, short_recipe, tmp_path):
    dataset, rival = Dataset.open(tiny_dataset), Rival(tmp_path / "checkpoint.npz")
    with pytest.raises(RecordError, match="another process trains in this folder"):
        loop.fit(short_recipe, dataset, str(tmp_path), log=io.StringIO(), stop=rival)
    assert (tmp_path / "checkpoint.npz").read_bytes() == b"theirs" and not (tmp_path / "weights").exists()


def test_signals_before_training_and_twice(tmp_path):
    """Before there is anything to keep it ends at once; a second Ctrl-C does not wait, a second SIGTERM does."""
    program = (
        "import os, signal, sys; from trainer.fit import signals\n"
        "with signals.signals() as stop:\n"
        "  if 'early' not in sys.argv:\n"
        "    with stop.waiting():\n"
        "      for name in sys.argv[1:]: os.kill(os.getpid(), getattr(signal, name))\n"
        "      print('still here', stop.signal); sys.exit()\n"
        "  os.kill(os.getpid(), signal.SIGTERM); print('still here')\n"
    )
    for names, code, out in (
        (["early"], 143, ""),
        (["SIGTERM"], 0, "still here 15\n"),
        (["SIGTERM", "SIGTERM"], 0, "still here 15\n"),
        (["SIGINT", "SIGTERM"], 0, "still here 2\n"),
        (["SIGTERM", "SIGINT"], 130, ""),
        (["SIGINT", "SIGINT"], 130, ""),
    ):
        done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (code, out), (names, done)
        assert "Traceback" not in done.stderr


def test_a_checkpoint_of_whole_epochs_holds_what_it_always_held(unbroken):
    """So those from before there were places within an epoch are still read."""
    names = set(run_folder.unpack(str(unbroken / "checkpoint.npz")))
    assert {"history", "optimizer/iteration"} <= names and "unfinished" not in names
    assert not any(name.startswith("metrics") for name in names)


def test_another_recipe_or_dataset_in_the_same_run_is_refused(tiny_dataset, unbroken, capsys):
    assert trainer([*command(tiny_dataset, unbroken, 8)[3:], "--set", "training.batch=5"]) == 2
    message = capsys.readouterr().err
    assert "holds another run" in message and "Traceback" not in message


def test_a_folder_without_a_dataset_is_named(tmp_path):
    done = train(str(tmp_path), tmp_path / "run", 1)
    assert done.returncode == 2
    assert "dataset.json is missing" in done.stderr and "Traceback" not in done.stderr


def test_damaged_weights_are_named(unbroken, tmp_path):
    for name in ("card.json", "weights"):
        (tmp_path / name).symlink_to(unbroken / name)
    loaded, card = run_folder.load(str(tmp_path), "4")
    assert card["recipe"] == "performance" and loaded.count_params() > 0
    with pytest.raises(RecordError, match=r"00003\.npz is missing; there are .*00004"):
        run_folder.load(str(tmp_path), "3")
    (tmp_path / "weights").unlink()
    (tmp_path / "weights").mkdir()
    with pytest.raises(RecordError, match=r"best\.npz is missing; weights are written after each epoch"):
        run_folder.load(str(tmp_path))
    content = (unbroken / "weights" / "best.npz").read_bytes()
    (tmp_path / "weights" / "best.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match=r"best\.npz is damaged"):
        run_folder.load(str(tmp_path))
    with pytest.raises(RecordError, match="is no run"):
        run_folder.load(str(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_evaluate_says_the_same_of_a_run_and_of_its_export(tiny_dataset, unbroken, tmp_path, capsys):
    def output(*flags: str) -> str:
        capsys.readouterr()
        assert trainer(flags) == 0
        return capsys.readouterr().out.strip()

    version = output("export", "--run", str(unbroken), "--output", str(tmp_path))
    measure = ("--data", tiny_dataset, "--split", "validation")
    of_run = json.loads(output("evaluate", "--run", str(unbroken), *measure, "--json"))
    alone = ["evaluate", "--model", version, *measure, "--json"]  # in a process that built no model
    done = subprocess.run([sys.executable, "-m", "trainer", *alone], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    of_export = json.loads(done.stdout)
    assert of_run["nats_per_note"] == pytest.approx(of_export["nats_per_note"], abs=1e-4)
    assert of_run["nats_per_note"] == pytest.approx(sum(of_run["columns"].values()), abs=1e-3)
    assert "nats a note on validation: step" in output("evaluate", "--model", version, *measure)


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another(tiny_dataset, tiny_recipe, tmp_path, capsys, unreported):
    """One gentle epoch stands where the other run ended, goes on by the same command, and is no other run's."""
    base, new = tmp_path / "base", tmp_path / "new"
    quick = replace(tiny_recipe, training=replace(tiny_recipe.training, rate=0.01, epochs=3))
    loop.fit(quick, Dataset.open(tiny_dataset), str(base), log=io.StringIO())

    def tune(epochs: int, start=base) -> int:
        sets = ["--set", "training.steps=2", "--set", f"training.epochs={epochs}"]
        return trainer(["train", "--from", str(start), "--data", tiny_dataset, "--run", str(new), *sets])

    assert tune(1) == 0
    first, before = float(history(new)[0]["val_loss"]), [float(line["val_loss"]) for line in history(base)]
    assert abs(first - min(before)) < 0.3 < before[0] - first
    card = json.loads((new / "card.json").read_text())
    assert card["from"]["path"] == str(base) and card["from"]["epoch"] == 3 and card["from"]["weights"] == "best"
    assert card["training"]["rate"] == pytest.approx(0.001) and card["encoding"] == quick.encoding.config()
    assert tune(2) == 0
    assert [line["epoch"] for line in history(new)] == ["1", "2"]
    assert tune(2, start=new) == 2
    assert "holds another run: its" in capsys.readouterr().err


def test_a_run_began_with_the_weights_that_its_card_names():
    before = {"path": "runs/base", "weights": "best", "epoch": 3}
    assert same_start(before, before | {"path": "runs/./base", "epoch": 7})
    assert not same_start(before, before | {"weights": "last"})
    assert not same_start(before, before | {"path": "runs/other"})
    assert not same_start(before, None) and not same_start(None, before)
    assert same_start({"path": "runs/base"}, before), "an older card does not say which"
    exported = {"path": "models/performance/1"}
    assert same_start(exported, exported)


@pytest.mark.slow
def test_jax_trains_and_its_weights_load_and_export_here(tiny_dataset, tmp_path):
    done = subprocess.run(
        [*command(tiny_dataset, tmp_path, 2), "--backend", "jax"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert [int(line["epoch"]) for line in history(tmp_path)] == [1, 2]
    network, card = run_folder.load(str(tmp_path))
    assert card["made"]["backend"] == "jax"
    from trainer.export import saved_model

    version = saved_model.publish(
        network, card, str(tmp_path / "exported")
    )  # which verifies: the same nll, the same draws
    assert (Path(version) / "saved_model.pb").exists()


@pytest.fixture
def short_recipe(tiny_recipe):
    return replace(tiny_recipe, training=replace(tiny_recipe.training, epochs=6, patience=1, rate=1e-12, warmup=0))


@pytest.mark.slow
def test_a_run_stops_early_when_validation_does_not_improve(tiny_dataset, short_recipe, tmp_path, unreported):
    still = replace(short_recipe, training=replace(short_recipe.training, decay=0.0))
    card = loop.fit(still, Dataset.open(tiny_dataset), str(tmp_path), log=io.StringIO())
    assert card["metrics"]["trained"]["epoch"] < 6


def test_a_run_stops_when_its_minutes_are_over(tiny_dataset, short_recipe, tmp_path, unreported):
    patient = replace(short_recipe, training=replace(short_recipe.training, patience=9))
    card = loop.fit(patient, Dataset.open(tiny_dataset), str(tmp_path), minutes=0.0, log=io.StringIO())
    assert card["metrics"]["trained"]["epoch"] == 1


@pytest.mark.slow
def test_a_run_that_diverges_stops_and_keeps_the_last_good_weights(tiny_dataset, short_recipe, tmp_path):
    wild = replace(short_recipe, training=replace(short_recipe.training, rate=1e30, clip=1e30))
    with pytest.raises(Diverged, match=r"diverged in epoch 1, .*There are no weights from before; try --set"):
        loop.fit(wild, Dataset.open(tiny_dataset), str(tmp_path), log=io.StringIO())
    assert not (tmp_path / "weights").exists()


@pytest.mark.slow
def test_what_diverges_later_keeps_the_epochs_before(tiny_dataset, tiny_recipe, tmp_path, unreported):
    """The optimiser is poisoned behind the second epoch: the next step's weights are no numbers."""
    dataset = Dataset.open(tiny_dataset)
    patient = replace(tiny_recipe, training=replace(tiny_recipe.training, epochs=2))
    loop.fit(patient, dataset, str(tmp_path), log=io.StringIO())
    checkpoint = tmp_path / "checkpoint.npz"
    arrays = run_folder.unpack(str(checkpoint))
    [name] = [name for name in arrays if "momentum" in name and "listen" in name and "kernel" in name]
    arrays[name] = np.full_like(arrays[name], np.inf)
    checkpoint.write_bytes(run_folder.pack(arrays))
    old = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    longer = replace(tiny_recipe, training=replace(tiny_recipe.training, epochs=4))
    for pause in (10.0, 0.0):  # with a checkpoint after each step, too, it writes none that is poisoned
        with pytest.raises(Diverged, match=r"epoch 3, .*weights up to epoch 2 are kept .* --from .*rate=") as raised:
            loop.fit(longer, dataset, str(tmp_path), log=io.StringIO(), checkpoint_minutes=pause)
        assert "\n" not in str(raised.value)
        now = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert {path for path in now if now[path] != old.get(path)} <= {tmp_path / "model.txt", tmp_path / "model.svg"}


def test_a_sample_is_a_midi_file(unbroken, tmp_path):
    import pretty_midi

    out = tmp_path / "out.mid"
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "sample", "--run", str(unbroken), "--output", str(out),
         "--notes", "20", "--random-seed", "1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < len(pretty_midi.PrettyMIDI(str(out)).instruments[0].notes) <= 20


@pytest.mark.slow
def test_a_sample_begins_where_it_is_asked_to(unbroken, tiny_dataset, tmp_path, capsys):
    """With the first notes of a file, or with some from a random place of the training data."""

    def sample(*flags: str, code: int = 0) -> str:
        """What it says, or what it says of its error."""
        capsys.readouterr()
        assert trainer(["sample", "--run", str(unbroken), "--notes", "5", *flags]) == code
        output = capsys.readouterr()
        return output.err if code else output.out

    song, out = tmp_path / "song.mid", tmp_path / "out.mid"
    song.write_bytes(midi.write(waltz(50)))
    assert "30 notes of the seed" in sample("--seed", str(song), "--seed-notes", "30", "--output", str(out))
    notes, seed = midi.read(out.read_bytes()), midi.read(song.read_bytes())[:30]
    assert 30 <= len(notes) <= 35 and notes["pitch"][:25].tolist() == seed["pitch"][:25].tolist()

    excerpt = ("--seed-from", "train", "--data", tiny_dataset, "--seed-notes", "12")
    output = sample(*excerpt, "--random-seed", "3", "--output", str(out))
    match = re.search(r"seed: (waltz-\d\d\.mid), from ([\d.]+) s", output)
    assert match and "12 notes of the seed" in output
    piece = next(p.notes for p in Dataset.open(tiny_dataset).pieces("train") if p.id == match[1])
    at = int(np.argmin(np.abs(piece["start"] - float(match[2]))))
    assert midi.read(out.read_bytes())["pitch"][:8].tolist() == piece["pitch"][at : at + 8].tolist()
    assert sample(*excerpt, "--random-seed", "3", "--output", str(out)) == output
    assert "expected --data as well" in sample("--seed-from", "train", "--output", str(out), code=2)
    assert "expected --seed or --seed-from" in sample("--seed-notes", "5", "--output", str(out), code=2)


PIECE = nt.from_tuples([(0, 1.0, 60, 64), (0.5, 1.5, 61, 64), (2.5, 8.5, 62, 64)])


class These:
    """A corpus of these pieces."""

    def __init__(self, *pieces: nt.Notes):
        self.pieces, self.index = pieces, [(0, k) for k in range(len(pieces))]
        self.sizes = np.array([len(piece) for piece in pieces])

    def notes(self, piece: int) -> nt.Notes:
        return self.pieces[piece]


def test_the_measure_by_hand(tiny_recipe):
    """A model whose every weight is zero gives every class it may draw the same probability: nats can be counted.

    Steps 0, 0.5 and 2 s; velocities and pitches are one cell each; the last duration, 6 s, lies in a bin of many.
    """
    encoding = NoteRows(
        Column("step", 0, 4, 103, "time", exact=1.0),
        Column("pitch", 60, 63, 4),
        Column("velocity", 2.5, 126.5, 32),
        Column("duration", 0.01, 10, 503, "time", exact=5.0),
    )
    card = {"schema": 1, **to_card(replace(tiny_recipe, encoding=encoding))}
    flat = model.build(card)
    for weight in flat.weights:
        weight.assign(np.zeros(weight.shape))
    # Of the steps, 0 to 1 s are 101 cells of 10 ms, then come 2 s and 4 s: nearer to 2 s than to 1 or 4 lie the cells
    # 1.50 s to 2.99 s. Of the durations, 0.01 to 5 s are 500 cells, then 6.30, 7.94 and 10 s: 5.65 s to 7.11 s.
    assert encoding.column("step").values[101:].tolist() == [2.0, 4.0]
    assert encoding.column("duration").values[500:].round(2).tolist() == [6.3, 7.94, 10.0]
    steps = 4 * np.log(103 + 1) + np.log(150)  # three notes and END, which a step can be too; one wide bin
    pitches, velocities = 3 * np.log(4), 3 * np.log(32)
    # A duration is half a softmax of 503 classes where nothing sounds; where n slots do, 1 / (1 + n) of it, plus what
    # points at the right class. Nothing sounds before the first note. At the second (0.5 s later) the first has 0.5 s
    # left, as slot and as longest: two pointers, both at 0.5 s, and it lasts 1 s. At the third nothing sounds.
    durations = np.log(503) + np.log(503 * 3) + np.log(503) + np.log(147)
    parsed = Card.parse(json.dumps(card | {"state": flat.state_spec}))
    score = likelihood.evaluate(signatures.Live(flat, parsed.facts), parsed, These(PIECE))
    expected = {"step": steps / 3, "pitch": pitches / 3, "velocity": velocities / 3, "duration": durations / 3}
    assert score.columns == pytest.approx(expected, abs=1e-5)
    assert score.nats == pytest.approx(sum(expected.values()), abs=1e-5)
    assert (score.pieces, score.rows, score.unit) == (1, 3, "note")


def test_blocks_carry_the_state(tiny_model):
    """A whole piece in blocks, among shorter and longer ones, is the piece in one go."""
    network, card = tiny_model
    parsed = Card.parse(json.dumps(card))
    corpus = These(*(waltz(seed, bars) for seed, bars in enumerate((3, 8, 20, 11))))
    assert corpus.sizes.min() < 64 and corpus.sizes.max() > 2 * 64  # within the first block, and beyond the second
    score = likelihood.evaluate(signatures.Live(network, card), parsed, corpus)
    total = 0.0
    for piece in range(len(corpus.index)):
        rows = likelihood.encode(parsed.encoding, corpus, piece)
        total += float(np.asarray(network(rows[None])).sum(dtype="f8"))
    assert score.nats == pytest.approx(total / corpus.sizes.sum(), abs=1e-5)
    assert score.rows == corpus.sizes.sum()
