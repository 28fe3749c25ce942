"""Damage at rest: whatever befalls a file of ours, it is named, or nothing that is read differs."""

import errno
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from music import midi, storage
from music.analysis import memorization, statistics
from music.errors import RecordError, Unavailable
from music.generation import Card
from music.model_folder import Loaded
from music.pieces import Dataset, to_example
from music.storage import checksums
from tests.conftest import waltz
from tests.support.damage import inflict, ways

FLIPS = 60  # of each file
FULL = f"[Errno {errno.ENOSPC}]"


def trainer(*flags: str) -> int:
    from trainer.__main__ import run

    return run(list(flags))


def after(folder: Path, name: str, read, flips: int = FLIPS):
    """(damage, what was read, the error) of each way to damage a file; the file is whole again behind it."""
    whole = (folder / name).read_bytes()
    for damage in ways(len(whole), flips, seed=len(name)):
        inflict(folder / name, damage, whole)
        result = error = None
        try:
            result = read()
        except (RecordError, FileNotFoundError) as raised:
            error = raised
        yield damage, result, error
    (folder / name).write_bytes(whole)


def named(error: Exception, name: str) -> None:
    """The error is a line that names the file."""
    assert name in str(error) and "\n" not in str(error), error


def test_a_seal_is_whole_whatever_its_words_and_however_they_were_written():
    facts = {"source": "caf\udce9", "composer": "Dvořák"}
    assert checksums.checked(checksums.with_checksum(facts), "it") == facts
    facts["source"] = "café"
    before = json.dumps(
        {**facts, checksums.KEY: checksums.digest(facts)}, ensure_ascii=False
    )  # as of before 2026-11-22
    assert checksums.checked(before, "it") == checksums.checked(checksums.with_checksum(facts), "it") == facts


# --- a dataset ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tiny_dataset, tmp_path) -> Path:
    return shutil.copytree(tiny_dataset, tmp_path / "notes")


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tfrecord"))


def music_of(folder: Path) -> tuple:
    data = Dataset.open(str(folder))
    splits = sorted({shard["split"] for shard in data.facts["shards"]})
    return data.facts, [to_example(piece) for split in splits for piece in data.pieces(split)]


def test_a_damaged_shard_is_named_whatever_the_damage(dataset):
    for name in shards(dataset):
        for damage, _, error in after(dataset, name, lambda: music_of(dataset)):
            assert error, f"{name}: {damage} is not noticed"
            named(error, f"{dataset}/{name}")
    assert len(music_of(dataset)[1]) == 20


def test_a_damaged_dataset_json_is_named_or_says_the_same(dataset):
    whole, noticed = music_of(dataset), 0
    for damage, result, error in after(dataset, "dataset.json", lambda: music_of(dataset), flips=400):
        if error:
            named(error, "dataset.json")
            noticed += 1
        else:  # a flip in the seal's own name
            assert result[1] == whole[1] and {**result[0], **whole[0]} == result[0], damage
    assert noticed > 390


def test_a_damaged_count_is_named_or_says_the_same(dataset):
    whole = statistics.read(dataset / "stats.json")
    for damage, result, error in after(dataset, "stats.json", lambda: statistics.read(dataset / "stats.json"), 200):
        if error:
            named(error, "stats.json")
        else:
            assert repr(result) == repr(whole), damage


def test_shards_of_another_dataset_or_in_each_others_place_are_named(dataset, tmp_path):
    from preprocessing.__main__ import run

    for seed in range(30, 50):
        storage.write(tmp_path / "midi" / f"{seed}.mid", midi.write(waltz(seed)))
    assert run(["--input", str(tmp_path / "midi"), "--output", str(tmp_path / "other"), "--shards", "2"]) == 0
    both = [name for name in shards(dataset) if name in shards(tmp_path / "other")]
    assert both
    for name in both:
        whole = (dataset / name).read_bytes()
        (dataset / name).write_bytes((tmp_path / "other" / name).read_bytes())
        with pytest.raises(RecordError, match=f"{name} is not the shard that dataset.json lists"):
            music_of(dataset)
        (dataset / name).write_bytes(whole)
    one, other = (dataset / f"train-0000{number}-of-00002.tfrecord" for number in (0, 1))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    with pytest.raises(RecordError, match=r"is not the shard that dataset\.json lists"):
        music_of(dataset)


def test_training_stops_in_a_line_where_the_dataset_is_damaged(dataset, tmp_path, capsys):
    name = shards(dataset)[-1]
    whole = (dataset / name).read_bytes()
    (dataset / name).write_bytes(whole[:-1])
    line = ("train", "--recipe", "performance", "--data", str(dataset), "--run", str(tmp_path / "run"))
    assert trainer(*line) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"trainer: {dataset}/{name} is not the shard that dataset.json lists: expected")
    assert not (tmp_path / "run").exists()


# --- a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_recipe, tiny_dataset, tmp_path_factory) -> Path:
    """A run that was stopped after two epochs of three."""
    from tests.trainer.test_loop import After
    from trainer.fit import loop
    from trainer.fit.signals import Stopped

    folder = tmp_path_factory.mktemp("runs") / "trained"
    short = replace(tiny_recipe, training=replace(tiny_recipe.training, epochs=3, steps=3))
    with pytest.raises(Stopped):  # at the end of the second epoch, as it looks three times in each
        loop.fit(short, Dataset.open(tiny_dataset), str(folder), log=io.StringIO(), stop=After(5))
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.slow
def test_damaged_weights_are_named_or_are_the_same(run):
    from trainer import run_folder

    network, _ = run_folder.load(str(run))
    path, whole = f"{run}/weights/best.npz", run_folder.weights(network)

    def read():
        run_folder.load_weights(network, run_folder.unpack(path), path)
        return run_folder.weights(network)

    (run / "weights" / "best.npz").rename(run / "weights" / "kept.npz")
    with pytest.raises(RecordError, match=r"best\.npz is missing; there are .*last"):
        run_folder.load(str(run))
    (run / "weights" / "kept.npz").rename(run / "weights" / "best.npz")
    noticed = 0
    for damage, result, error in after(run / "weights", "best.npz", read):
        if error:
            named(error, path)
            noticed += 1
        else:  # a date, say
            for name, value in whole.items():
                np.testing.assert_array_equal(result[name], value, err_msg=f"{name} {damage}")
    assert noticed > FLIPS // 2


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_or_is_the_same(run):
    from trainer import recipe, run_folder
    from trainer.fit import checkpoints, optimizers

    network, card = run_folder.load(str(run), "last")
    network.compile(optimizer=optimizers.build(recipe.from_card(card).training, 1))
    network.optimizer.build(network.trainable_variables)
    place, _ = checkpoints.load(str(run), network)
    whole = run_folder.unpack(f"{run}/checkpoint.npz")
    noticed = 0
    for damage, result, error in after(run, "checkpoint.npz", lambda: _checkpoint(run, network)):
        if error:
            named(error, "checkpoint.npz")
            noticed += 1
        else:
            assert result[0] == place, damage
            for name, value in whole.items():
                np.testing.assert_array_equal(result[1][name], value, err_msg=f"{name} {damage}")
    assert noticed > FLIPS // 2


def _checkpoint(run: Path, network) -> tuple:
    from trainer import run_folder
    from trainer.fit import checkpoints

    return checkpoints.load(str(run), network)[0], run_folder.unpack(f"{run}/checkpoint.npz")


def test_a_damaged_card_of_a_run_is_named_or_says_the_same(run):
    path = run / "card.json"
    whole = Card.parse(path.read_bytes())
    for damage, result, error in after(run, "card.json", lambda: _card(path), flips=400):
        if error:
            named(error, str(path))
        else:
            assert result.encoding == whole.encoding and {**result.facts, **whole.facts} == result.facts, damage


def _card(path: Path) -> Card:
    return Card.parse(path.read_bytes(), str(path))


@pytest.mark.parametrize("name", ["card.json", "checkpoint.npz", "weights/best.npz"])
@pytest.mark.parametrize("kind", ["missing", "cut", "flip"])
def test_a_run_that_is_damaged_does_not_go_on(tiny_recipe, tiny_dataset, run, name, kind):
    """And nothing of it is written over."""
    from trainer.fit import loop

    longer = replace(tiny_recipe, training=replace(tiny_recipe.training, epochs=3, steps=3))
    whole = (run / name).read_bytes()
    damage = {each.kind: each for each in ways(len(whole), 3, seed=2)}[kind]
    inflict(run / name, damage, whole)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RecordError, match=rf"{re.escape(str(run / name))}.* (is missing|is damaged)"):
        loop.fit(longer, Dataset.open(tiny_dataset), str(run), log=io.StringIO())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["sample", "evaluate", "export"])
def test_commands_name_what_is_damaged_in_a_run(run, tiny_dataset, tmp_path, capsys, command):
    more = {
        "sample": ["--output", str(tmp_path / "out.mid")],
        "evaluate": ["--data", tiny_dataset, "--split", "validation"],
        "export": ["--output", str(tmp_path / "out")],
    }[command]
    for name in ("card.json", "weights/best.npz"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[: len(whole) // 2])
        assert trainer(command, "--run", str(run), *more) == 2
        assert re.match(f"trainer: {run}/{name} is damaged: ", capsys.readouterr().err.splitlines()[-1])
        (run / name).write_bytes(whole)
    assert not list(tmp_path.glob("out*"))


# --- an exported model -------------------------------------------------------------------------------------------


@pytest.fixture
def version(tiny_export, tmp_path) -> Path:
    return shutil.copytree(tiny_export / "performance" / "1", tmp_path / "performance" / "1")


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_version_lists_all_its_files(version):
    listed = checksums.checked((version / checksums.MANIFEST).read_bytes(), "it")["files"]
    assert sorted([*listed, checksums.MANIFEST]) == names_in(version) and len(listed) == 7


def test_any_damage_to_a_version_is_noticed_before_it_is_loaded(version):
    manifest = version / checksums.MANIFEST

    def read() -> dict | None:
        checksums.check_folder(version)
        return checksums.checked(manifest.read_bytes(), "it")["files"] if manifest.exists() else None

    noticed, listed = 0, read()
    index = f"assets.extra/{memorization.FILE}"
    for name in names_in(version):
        for damage, result, error in after(version, name, read):
            if name == checksums.MANIFEST:  # without which it is a version of before there was one
                noticed += bool(error)
                same = damage.kind == "flip" and result == listed  # in the seal's own name
                assert error or damage.kind == "missing" or same, f"{name}: {damage} is not noticed"
            elif name == index:
                assert error or damage.kind != "missing"
            else:
                assert error, f"{name}: {damage} is not noticed"
            if error:
                named(error, f"{version}/{name}")
    assert noticed > FLIPS - 5


@pytest.mark.parametrize("kind", ["cut", "flip", "missing"])
def test_a_damaged_version_is_not_served(version, kind):
    from serving.backends.embedded import Embedded

    themselves = {checksums.MANIFEST, f"assets.extra/{memorization.FILE}"}
    for name in set(names_in(version)) - themselves:
        whole = (version / name).read_bytes()
        inflict(version / name, {each.kind: each for each in ways(len(whole), 1, seed=1)}[kind], whole)
        unseen = (name, kind) == ("saved_model.pb", "missing")  # a version that is not complete
        with pytest.raises(Unavailable if unseen else RecordError, match="no model in" if unseen else name):
            Embedded(version)
        (version / name).write_bytes(whole)


def test_what_is_damaged_is_neither_served_nor_trained_on(version, tiny_dataset, tmp_path, capsys):
    whole = bytearray((version / "saved_model.pb").read_bytes())
    whole[len(whole) // 3] ^= 4
    (version / "saved_model.pb").write_bytes(whole)
    place = ["--data", tiny_dataset]
    for flags in (
        ["train", "--from", str(version), *place, "--run", str(tmp_path / "run")],
        ["evaluate", "--model", str(version), *place, "--split", "validation"],
        ["export", "--model", str(version), "--output", str(tmp_path / "out")],
    ):
        assert trainer(*flags) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert re.match(
            rf"trainer: {version}/saved_model\.pb is damaged: expected [\d,]+ bytes with the sha256", message
        )
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--model", str(version), "--port", "0"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 4 and "Traceback" not in done.stderr
    assert re.match(r"python -m serving: .*saved_model\.pb is damaged: expected", done.stderr.splitlines()[-1])


def test_a_damaged_graph_of_a_version_without_a_manifest_is_an_error_of_ours(version):
    """TensorFlow says so in many ways, by a RuntimeError, a KeyError, a ValueError …"""
    from serving.backends.embedded import Embedded

    (version / checksums.MANIFEST).unlink()
    whole = (version / "saved_model.pb").read_bytes()
    assert b"StridedSlice" in whole
    (version / "saved_model.pb").write_bytes(whole.replace(b"StridedSlice", b"StridedSdice"))
    for load in (Embedded, Loaded):
        with pytest.raises(RecordError, match=rf"the model in {version} cannot be loaded: .*StridedSdice"):
            load(str(version))


def test_an_index_that_is_replaced_is_no_damage(version):
    path = version / "assets.extra" / memorization.FILE
    path.write_bytes(memorization.build([waltz(5)]).to_bytes())
    checksums.check_folder(version)


def test_a_damaged_index_is_named_or_says_the_same(version):
    path = version / "assets.extra" / memorization.FILE
    whole = memorization.read(path)
    for damage, result, error in after(path.parent, path.name, lambda: memorization.read(path), flips=200):
        if error:
            named(error, str(path))
        else:
            assert result.bits.tobytes() == whole.bits.tobytes(), damage
            assert {**result.facts, **whole.facts} == result.facts, damage
