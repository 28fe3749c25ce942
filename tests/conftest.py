"""What several test files share: a tiny dataset, a tiny model and its export, all made here."""

import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import pytest

from music import midi
from music import notes as nt
from music.analysis import memorization
from trainer import recipe
from trainer.recipe import LSTM, Chain


def waltz(seed: int, bars: int = 24) -> nt.Notes:
    """A little waltz, another one for each seed: a bass note, two chords, and a melody that wanders."""
    rng = np.random.default_rng(seed)
    rows, melody = [], 72
    for bar in range(bars):
        at, root = bar * 1.5, 45 + int(rng.choice([0, 3, 5, 7]))
        rows.append((at, at + 1.4, root, 60))
        for beat in (0.5, 1.0):
            rows += [(at + beat + 0.01 * k, at + beat + 0.45, root + up, 45) for k, up in enumerate((12, 16, 19))]
        for beat in (0.0, 0.75):
            melody = int(np.clip(melody + rng.integers(-4, 5), 60, 90))
            rows.append((at + beat + rng.uniform(0, 0.02), at + beat + 0.7, melody, int(rng.integers(60, 90))))
    return nt.from_tuples(rows)


def stepwise(model, rows: np.ndarray) -> np.ndarray:
    """Nats of rows read one at a time, as a server reads them: int32 [B, T, F] → float32 [B, T, F]."""
    state, singly = model.initial_state(len(rows)), []
    for t in range(rows.shape[1]):
        nats, state = model.likelihood(rows[:, t : t + 1], state)
        singly.append(np.asarray(nats)[:, 0])
    return np.stack(singly, 1)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make) → a folder of this worker's own with what `make` left in one; only one worker makes it."""

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        own = tmp_path_factory.mktemp(name)
        if "PYTEST_XDIST_WORKER" not in os.environ:
            make(own)
            return own
        shared = tmp_path_factory.getbasetemp().parent / f"once-{name}"
        with open(f"{shared}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not shared.exists():
                make(own)  # what fails here fails in each worker that asks
                shutil.copytree(own, f"{shared}.part")
                os.rename(f"{shared}.part", shared)
                return own
        return shutil.copytree(shared, own, dirs_exist_ok=True)

    return folder


@pytest.fixture(scope="session")
def tiny_recipe() -> recipe.Recipe:
    """`performance`, small enough to train in a test."""
    full = recipe.load("performance")
    training = replace(full.training, window=32, batch=4, steps=5, epochs=4, warmup=5, keep=2, validation=8)
    return replace(full, core=LSTM(units=16, layers=2, dropout=0.1), heads=Chain(hidden=16, slots=4), training=training)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> str:
    """A folder of twenty waltzes, preprocessed."""
    from preprocessing.__main__ import run

    folder = tmp_path_factory.mktemp("midi")
    for seed in range(20):
        (folder / f"waltz-{seed:02d}.mid").write_bytes(midi.write(waltz(seed)))
    out = tmp_path_factory.mktemp("dataset") / "notes"
    assert run(["--input", str(folder), "--output", str(out), "--shards", "2"]) == 0
    return str(out)


@pytest.fixture(scope="session")
def tiny_model(tiny_recipe):
    """(model, card) of fresh weights, never trained; always the same ones."""
    import keras

    from trainer import model

    keras.utils.set_random_seed(7)
    card = {"schema": 1, **recipe.to_card(tiny_recipe)}
    network = model.build(card)
    return network, card | {"state": network.state_spec}


@pytest.fixture(scope="session")
def tiny_export(tiny_model, once) -> Path:
    """A base folder with `performance/1` in it, as TF Serving wants it; a second version can be published beside it."""
    from trainer.export import saved_model

    def make(base: Path) -> None:
        saved_model.publish(*tiny_model, str(base), index=memorization.build([waltz(3)]))

    return once("models", make)


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Path:
    """The folder of two versions of the toy model, which differ in the velocity that they play."""
    from tests.support.fakes import save_toy_model

    base = tmp_path_factory.mktemp("toys")
    for version in (1, 2):
        save_toy_model(base, version)
    return base / "toy"


@pytest.fixture(scope="module")
def upstream():
    """The port of an emulated bucket, `studio`."""
    from tests.support.faulty import emulator

    with emulator("studio") as port:
        yield port


@pytest.fixture
def proxy(upstream, monkeypatch):
    """The way to that bucket, without faults until one is put in; waits are short."""
    from music.storage import gcs
    from tests.support.faulty import Proxy

    between = Proxy(upstream)
    monkeypatch.setattr(gcs, "PAUSES", (0.01, 0.05))
    monkeypatch.setattr(gcs, "DEADLINE", 30.0)
    with between.serving() as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield between


@pytest.fixture
def impatient(monkeypatch):
    """Whoever asks a bucket gives up after a second."""
    from music.storage import gcs

    monkeypatch.setattr(gcs, "DEADLINE", 1.0)


@pytest.fixture
def unreported(monkeypatch):
    """A run's end without the samples and pictures, which take longer than a tiny training; other runs have them."""
    from trainer.fit import report

    monkeypatch.setattr(report, "of_run", lambda *_: None)
