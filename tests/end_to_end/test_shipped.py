"""The model that ships in models/: found by itself, and at its true size the promises it must keep."""

import numpy as np
import pytest

from music.analysis import memorization
from music.examples.nocturne import nocturne
from music.generation import CHUNK, Generator, Settings
from serving.backends.embedded import Embedded, find_model


@pytest.fixture(scope="module")
def backend() -> Embedded:
    return Embedded()


def play(backend, **settings) -> np.ndarray:
    chunks = Generator(backend).stream(nocturne(), Settings(**settings))
    return np.concatenate([chunk.notes for chunk in chunks])


@pytest.mark.slow
def test_it_is_found_and_small_and_says_how_it_was_made(backend):
    folder = find_model()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 48_000_000
    card, version = Generator(backend).describe()
    assert str(version) == folder.name and card.name == folder.parent.name == "performance"
    assert card.facts["made"]["run"] and card.facts["metrics"]["trained"]["notes"] > 0


@pytest.mark.slow
def test_an_index_of_what_it_was_trained_on_ships_with_it_and_it_does_not_recite(backend):
    index = memorization.read(backend.folder / "assets.extra" / memorization.FILE)
    assert len(index.bits) <= 8 * 2**20 and index.facts["pieces"] == 962  # MAESTRO's train split
    notes = play(backend, notes=200, random_seed=1)
    run = memorization.longest_run(notes, index)
    assert run.notes < 64, "longer than in any real piece that was compared"


@pytest.mark.slow
def test_it_continues_a_seed_as_asked(backend):
    notes = play(backend, notes=40, random_seed=1)
    assert 0 < len(notes) <= 40
    seed = nocturne()
    assert (notes["start"] >= seed["start"].max()).all() and (np.diff(notes["start"]) >= 0).all()
    np.testing.assert_array_equal(notes, play(backend, notes=40, random_seed=1))
    warm, cold = (play(backend, notes=40, random_seed=1, temperature=t) for t in (1.2, 0.0))
    assert not np.array_equal(warm[: len(cold)], cold[: len(warm)])


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 7, 8, 19, 33])
def test_a_listener_alone_gets_the_bits_it_gets_among_others(backend, batch):
    """At the model's true width, where CPU kernels of few and of many rows differ."""
    rng, (card, _) = np.random.default_rng(0), Generator(backend).describe()
    state = card.empty_state(batch)
    rows = np.stack([rng.integers(3, size, (batch, 64)) for size in card.encoding.sizes], axis=-1).astype("i4")
    inputs = {"rows": rows, "length": rng.integers(1, 65, batch).astype("i4"), **state}
    given = {"noise": rng.random((batch, CHUNK, 4), "f4"), "count": np.full(batch, CHUNK, "i4")}
    how = {"temperature": np.ones(batch, "f4"), "top_p": np.ones(batch, "f4"), "min_p": np.zeros(batch, "f4")}
    primed = backend.call("prime", inputs).outputs
    together = backend.call("generate", {**given, **how, **primed}).outputs
    for lane in sorted({0, batch // 2, batch - 2, batch - 1}):
        mine = {name: value[lane : lane + 1] for name, value in inputs.items()}
        alone = backend.call("prime", mine).outputs
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], primed[name][lane], err_msg=f"prime {name}")
        mine = {name: value[lane : lane + 1] for name, value in {**given, **how, **primed}.items()}
        for name, value in backend.call("generate", mine).outputs.items():
            np.testing.assert_array_equal(value[0], together[name][lane], err_msg=f"generate {name}")
