"""Several devices make the same step as one: virtual CPUs of both backends, each in its own process."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from music.errors import SettingError
from music.pieces import Dataset
from trainer import devices
from trainer.fit import loop
from trainer.model import recurrence

# Prints the losses of twenty steps on one device and on several; or, with a run's folder, trains its first epoch.
PROGRAM = """
import io, json, os, sys
backend, dataset, run, dropout, name, several, optimizer = sys.argv[1:]
os.environ.update(KERAS_BACKEND=backend, XLA_FLAGS=f"--xla_force_host_platform_device_count={several}")
if backend == "tensorflow":
    import tensorflow as tf
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(several))
import keras
from dataclasses import replace
from music.pieces import Dataset
from tests.trainer.test_devices import small
from trainer.fit import checkpoints, loop, optimizers
from trainer import data, devices, model, recipe

chosen, dataset = small(name, float(dropout), optimizer), Dataset.open(dataset)
if run:
    loop.fit(chosen, dataset, run, log=io.StringIO(), on="all")
    sys.exit()
corpus = data.Corpus(dataset, "train", chosen.encoding)
chosen = replace(chosen, encoding=chosen.encoding.fit([corpus.notes(i) for i in range(len(corpus.index))]))
losses = []
for count in ("1", "all"):
    keras.utils.set_random_seed(1)
    names = devices.choose(count, chosen.training.batch)
    with devices.spread(names)():
        built = model.build({"schema": 1, **recipe.to_card(chosen)})
        built.compile(optimizer=optimizers.build(chosen.training, len(names)))
        before = [keras.ops.convert_to_numpy(weight) for weight in built.trainable_variables]
        devices.vary_dropout_seeds(built, checkpoints.dropout_states(built))
        batches = devices.feed(data.Windows(corpus, chosen.encoding, chosen.training), len(names))
        history = built.fit(batches, shuffle=False, epochs=20, steps_per_epoch=1, verbose=0).history
    moved = min(float(abs(keras.ops.convert_to_numpy(w) - b).max()) for w, b in zip(built.trainable_variables, before))
    losses.append({name: history[name] for name in ("loss", *chosen.encoding.names)})
    losses[-1] |= {"devices": len(names), "moved": moved}
print(json.dumps(losses))
"""


def small(name: str, dropout: float, optimizer: str = "adamw"):
    """Make a recipe small enough for this; there is no warm-up, and gradients are clipped from the first step on."""
    from trainer import recipe
    from trainer.recipe import LSTM, Chain, Stack

    full = recipe.load(name)
    core = LSTM(units=16, layers=1, dropout=dropout) if isinstance(full.core, LSTM) else Stack((16,), dropout=dropout)
    heads = Chain(hidden=16, slots=4, dropout=dropout) if isinstance(full.heads, Chain) else full.heads
    numbers = {"window": 32, "batch": 8, "steps": 20, "epochs": 1, "warmup": 1, "validation": 7, "clip": 0.1}
    training = replace(full.training, **numbers, optimizer=optimizer)
    return replace(full, core=core, heads=heads, training=training)


def start(backend: str, several: int, dataset: str, run="", dropout=0.0, name="performance", optimizer="adamw") -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend, dataset, str(run), str(dropout), name, str(several), optimizer],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def equal(output: str, several: int) -> None:
    """Assert that twenty steps of one device and of several agree: in every column's nats, and in the loss."""
    one, all_ = json.loads(output.splitlines()[-1])
    assert (one.pop("devices"), all_.pop("devices")) == (1, several)
    assert min(one.pop("moved"), all_.pop("moved")) > 1e-3  # every weight learns, so a lost gradient would show
    for name in one:
        assert len(one[name]) == 20
        np.testing.assert_allclose(all_[name], one[name], atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "several", "optimizer"),
    [("tensorflow", 2, "adamw"), ("jax", 4, "adamw"), ("tensorflow", 2, "muon"), ("jax", 4, "muon")],
)
def test_several_devices_make_the_losses_of_one(backend, several, optimizer, tiny_dataset):
    equal(start(backend, several, tiny_dataset, optimizer=optimizer), several)


@pytest.mark.slow
def test_regressions_too_whose_sigma_follows_the_whole_batch(tiny_dataset):
    equal(start("tensorflow", 2, tiny_dataset, name="three_heads"), 2)


@pytest.mark.slow
def test_one_device_goes_on_from_two(tiny_dataset, tmp_path):
    """A whole run, with dropout, validation of an odd number of windows, weights and checkpoint."""
    start("tensorflow", 2, tiny_dataset, tmp_path, dropout=0.1)
    recipe = small("performance", 0.1)
    recipe = replace(recipe, training=replace(recipe.training, epochs=2))
    log = io.StringIO()
    loop.fit(recipe, Dataset.open(tiny_dataset), str(tmp_path), log=log)
    assert re.search(
        "tensorflow on 1 cpu, products in [a-z0-9]+( outside the recurrence)?, going on after epoch 1", log.getvalue()
    )
    with open(tmp_path / "history.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == ["1", "2"]
    assert all(float(line["val_loss"]) < 25 for line in lines)


def test_devices_that_there_are_not_and_batches_without_equal_parts():
    with pytest.raises(SettingError, match=r"--devices 9: expected at most 1, as there are cpu:0"):
        devices.choose("9", 9)
    assert devices.choose(None, 7) == devices.choose("all", 7) == devices.choose("1", 7) == ["cpu:0"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "train", "--recipe", "performance", "--data", "d", "--run", "r",
         "--devices", "none"], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "expected a number of 1 or more, got 'none'" in done.stderr


def test_a_batch_without_equal_parts_is_refused(monkeypatch):
    monkeypatch.setattr(devices.keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1", "gpu:2", "gpu:3"])
    assert len(devices.choose(None, 8)) == len(devices.choose("all", 8)) == 4 and len(devices.choose("2", 6)) == 2
    with pytest.raises(SettingError, match=r"training.batch=6: expected a multiple of --devices 4"):
        devices.choose(None, 6)


def test_validation_is_filled_up_with_windows_that_count_nothing():
    rows = np.ones((6, 3, 2), "i4")
    filled = devices.pad_to_multiple(rows, 4)
    assert filled.shape == (8, 3, 2) and filled.dtype == rows.dtype
    assert (filled[:6] == 1).all() and not filled[6:].any()
    assert devices.pad_to_multiple(rows, 3).shape == (6, 3, 2)


def flags(tmp_path, *names: str) -> str:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: made up\nflags\t\t: fpu {' '.join(names)} sse\n\nprocessor\t: 1\n")
    return str(path)


def test_the_flags_of_a_cpu_are_those_that_linux_lists(tmp_path):
    assert devices.cpu_flags(flags(tmp_path, "avx2", "amx_bf16")) == {"flags", ":", "fpu", "avx2", "amx_bf16", "sse"}
    assert devices.cpu_flags(str(tmp_path / "missing")) == set()


@pytest.mark.parametrize(("amx", "chosen"), [(["amx_bf16"], "bfloat16"), (["avx512_bf16"], "float32")])
def test_bfloat16_is_chosen_where_the_cpu_has_matrix_units(tmp_path, monkeypatch, amx, chosen):
    own = devices.cpu_flags(flags(tmp_path, *amx))
    monkeypatch.setattr(devices, "cpu_flags", lambda: own)
    assert devices.precision("auto", ["cpu:0"]) == (chosen, "")
    assert devices.precision("float32", ["cpu:0"]) == ("float32", "")
    precision, remark = devices.precision("bfloat16", ["cpu:0"])
    assert precision == "bfloat16"
    assert remark == (
        "" if chosen == "bfloat16" else "this CPU has no matrix units (amx_bf16) for bfloat16, so float32 is faster"
    )


@pytest.mark.parametrize(("capability", "chosen"), [((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_bfloat16_is_chosen_where_the_gpu_has_units_for_it(monkeypatch, capability, chosen):
    monkeypatch.setattr(devices, "_compute_capability", lambda backend: capability)
    assert devices.precision("auto", ["gpu:0"]) == (chosen, "")


def test_on_a_gpu_no_product_of_an_lstm_layer_is_reported_as_bfloat16(monkeypatch):
    monkeypatch.setattr(recurrence, "has_cudnn", lambda: True)
    assert recurrence.products("bfloat16") == "products in bfloat16 outside the LSTM layers"
    assert recurrence.products("float32") == "products in float32"


@pytest.mark.slow
def test_a_run_goes_on_in_another_precision(tiny_dataset, tmp_path, monkeypatch):
    """Weights, optimiser and history continue; a slow precision is used all the same, with a remark."""
    monkeypatch.setattr(devices, "cpu_flags", lambda: set())
    chosen, dataset, log = small("performance", 0.0), Dataset.open(tiny_dataset), io.StringIO()
    for epochs, precision in ((1, "float32"), (2, "bfloat16"), (3, "auto")):
        longer = replace(chosen, training=replace(chosen.training, epochs=epochs))
        card = loop.fit(longer, dataset, str(tmp_path), log=log, precision=precision)
        assert card["made"]["precision"] == ("bfloat16" if epochs == 2 else "float32")
        assert card["metrics"]["trained"]["epoch"] == epochs
    text = log.getvalue()
    assert (
        "products in float32\n" in text
        and "products in bfloat16 outside the recurrence, going on after epoch 1\n" in text
    )
    assert text.count("--precision bfloat16: this CPU has no matrix units") == 1
    history = (tmp_path / "history.csv").read_text().splitlines()
    losses = [float(line["val_loss"]) for line in csv.DictReader(history)]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0]


@pytest.mark.slow
def test_the_average_of_the_weights_is_what_is_validated_and_kept(tiny_dataset, tmp_path):
    """The checkpoint holds the weights of the last step and their average; the run's weights are the average."""
    from trainer import run_folder

    chosen, dataset = small("performance", 0.0), Dataset.open(tiny_dataset)
    chosen = replace(chosen, training=replace(chosen.training, average=0.9))
    loop.fit(chosen, dataset, str(tmp_path), log=io.StringIO())
    checkpoint, last = (
        run_folder.unpack(f"{tmp_path}/checkpoint.npz"),
        run_folder.unpack(f"{tmp_path}/weights/last.npz"),
    )
    averages = [array for name, array in checkpoint.items() if name.endswith("_average")]
    assert len(averages) == len(last)
    assert all(any(np.array_equal(weight, average) for average in averages) for weight in last.values())
    assert not any(np.array_equal(last[name], checkpoint[name]) for name in last)
