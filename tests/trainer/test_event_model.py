"""The laws that make a model of windows a model of single notes: all paths give the same numbers."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from music.encodings.columns import BEGIN, END, FIRST, PAD
from music.generation import CHUNK, Card
from music.pieces import Dataset
from tests.conftest import stepwise, waltz
from trainer import data, recipe, run_folder
from trainer import model as models
from trainer.export import signatures
from trainer.fit import optimizers
from trainer.model import held_notes, inputs


@pytest.fixture(scope="module", params=["lstm", pytest.param("attention", marks=pytest.mark.slow)])
def tiny_model(tiny_model, request):
    """(model, card): the tiny model, then the same with blocks of attention that see 24 notes."""
    if request.param == "lstm":
        return tiny_model
    card = {**tiny_model[1], "core": tiny_model[1]["core"] | {"attention": 24, "blocks": 2}}
    model, draw = models.build(card), np.random.default_rng(1)
    run_folder.load_weights(model, run_folder.weights(model) | run_folder.weights(tiny_model[0]), "the tiny model")
    for weight in model.core.attention.weights:
        if weight.path.endswith(("out/kernel", "outer/kernel")):  # zeros at first
            weight.assign(draw.normal(0, 0.2, weight.shape))
    return model, card | {"state": model.state_spec}


@pytest.fixture(scope="module")
def rows(tiny_recipe) -> np.ndarray:
    """Encode three pieces side by side: two whole ones, and one cut at both ends: int32 [3, 96, 4]."""
    pieces = [tiny_recipe.encoding.encode(waltz(seed, bars=9), begin=True, end=True) for seed in (1, 2, 3)]
    out = np.zeros((3, 96, 4), "i4")
    for lane, piece in enumerate([pieces[0], pieces[1], pieces[2][20:-1]]):
        part = piece[:96]
        out[lane, : len(part)] = part
    return out


def numpy(tensors: dict) -> dict:
    return {name: np.asarray(value) for name, value in tensors.items()}


def test_call_is_step_by_step_likelihood(tiny_model, rows):
    model, _ = tiny_model
    np.testing.assert_allclose(stepwise(model, rows), np.asarray(model(rows)), atol=1e-5)


def test_ordered_inputs_are_the_same_note_by_note_and_of_notes_alone(tiny_model, rows):
    _, card = tiny_model
    ordered = models.build(card | {"core": card["core"] | {"ordered": True}})
    kernel = ordered.inputs_.order.kernel
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    np.testing.assert_allclose(stepwise(ordered, rows), np.asarray(ordered(rows)), atol=1e-5)
    for places, size in zip(inputs.positions(ordered.encoding), ordered.encoding.sizes, strict=True):
        assert places.shape == (size, 9) and not places[:FIRST].any()
        assert places[FIRST, 0] == 0 and places[-1, 0] == 1 and len(np.unique(places[FIRST:, 0])) == size - FIRST


def test_pad_and_begin_count_nothing_and_end_its_first_column_alone(tiny_model, rows):
    nats = np.asarray(tiny_model[0](rows))
    first = rows[:, :, 0]
    assert {PAD, BEGIN, END} <= set(first.ravel())
    assert not nats[(first == PAD) | (first == BEGIN)].any()
    assert (nats[first == END][:, 0] > 0).all() and not nats[first == END][:, 1:].any()
    assert (nats[first >= FIRST] > 0).all()


def test_the_probabilities_of_all_classes_sum_to_one(tiny_model, rows):
    """Of the step alone, and of the duration with its pointers; a bin of n cells counts n times."""
    model, _ = tiny_model
    state = model.prime(rows[:1, :20], np.array([20], "i4"), model.initial_state(1))
    for column in (0, 3):
        size = model.encoding.sizes[column]
        candidates = np.repeat(rows[:1, 20:21], size - FIRST, axis=0)
        candidates[:, 0, column] = np.arange(FIRST, size)
        wide = {name: np.repeat(np.asarray(value), len(candidates), axis=0) for name, value in state.items()}
        nats, _ = model.likelihood(candidates, wide)
        p = np.exp(-np.asarray(nats, "f8")[:, 0, column]) * model.encoding.columns[column].cells
        ended = candidates.copy()[:1]
        ended[:] = END
        end = np.exp(-np.asarray(model.likelihood(ended, state)[0])[0, 0, 0]) if column == 0 else 0.0
        assert p.sum() + end == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("cut", [0, 1, 7, 63])
def test_priming_at_once_is_priming_in_two(tiny_model, rows, cut):
    model, _ = tiny_model
    at_once = numpy(model.prime(rows[:, :64], np.array([64, 64, 64], "i4"), model.initial_state(3)))
    padded = np.zeros((3, 64, 4), "i4")
    padded[:, :cut] = rows[:, :cut]
    half = model.prime(padded, np.array([cut] * 3, "i4"), model.initial_state(3))
    padded[:] = 5  # what stands beyond the length must not matter
    padded[:, : 64 - cut] = rows[:, cut:64]
    both = numpy(model.prime(padded, np.array([64 - cut] * 3, "i4"), half))
    for name, value in at_once.items():
        np.testing.assert_allclose(both[name], value, atol=1e-6, err_msg=name)


def test_what_sounds_is_exact_in_any_cut(tiny_model, rows):
    """Compared with the plain definition, note by note."""
    model, _ = tiny_model
    followed = numpy(held_notes.follow(model.tables, rows[:1, :60], model.initial_state(1)))
    notes = [row for row in rows[0, :60]]
    clock, ends, newest = 0.0, [], {}
    step, _, _, duration = model.encoding.columns
    for t, row in enumerate(notes):
        if row[0] >= FIRST:
            clock += round(float(step.decode(row[0])) * 100)
            ends.append(clock + round(float(duration.decode(row[3])) * 100))
            newest[row[1] - FIRST] = (clock, ends[-1])
        else:
            ends.append(-np.inf)
        left = [max(end - clock, 0) for end in reversed(ends[-4:])]
        np.testing.assert_array_equal(followed["slots"][0, t], left + [0] * (4 - len(left)))
        for p in range(88):
            struck, end = newest.get(p, (None, -np.inf))
            assert followed["ringing"][0, t, p] == max(end - clock, 0)
            assert followed["struck"][0, t, p] == (0 if struck is None else clock - struck + 1)


@pytest.fixture(scope="module")
def live(tiny_model):
    return signatures.Live(*tiny_model)


def start(live, rows) -> dict:
    card = Card.parse(live.call("describe", {"batch": np.zeros(1, "i4")}).outputs["card"][0])
    prefix = {"rows": rows[:, :64], "length": np.array([64, 3, 0], "i4"), **card.empty_state(3)}
    return live.call("prime", prefix).outputs


def how(batch: int, temperature=1.0, top_p=0.95, min_p=0.01) -> dict:
    values = {"temperature": temperature, "top_p": top_p, "min_p": min_p}
    return {name: np.full(batch, value, "f4") for name, value in values.items()}


@pytest.mark.parametrize("cuts", [[32, 32], [5, 32, 27], [1] * 8 + [32, 24]])
def test_steps_are_generate_in_any_chunks(live, rows, cuts):
    noise = np.random.default_rng(3).random((3, 64, 4), "f4")
    state, steps = start(live, rows), []
    for t in range(64):
        out = live.call("step", {"noise": noise[:, t], **how(3), **state}).outputs
        steps.append(out.pop("row"))
        state = out
    chunked, chunks, at = start(live, rows), [], 0
    for count in cuts:
        block = np.zeros((3, CHUNK, 4), "f4")
        block[:, :count] = noise[:, at : at + count]
        out = live.call("generate", {"noise": block, "count": np.full(3, count, "i4"), **how(3), **chunked}).outputs
        drawn = out.pop("rows")
        assert not drawn[:, count:].any()
        chunks.append(drawn[:, :count])
        chunked, at = out, at + count
    np.testing.assert_array_equal(np.concatenate(chunks, 1), np.stack(steps, 1))
    for name, value in state.items():
        np.testing.assert_array_equal(chunked[name], value, err_msg=name)


def test_alone_is_as_among_others(live, rows):
    """Bit for bit, with the state: a row's result does not depend on the other rows."""
    noise = np.random.default_rng(4).random((3, CHUNK, 4), "f4")
    state = start(live, rows)
    together = live.call("generate", {"noise": noise, "count": np.full(3, 32, "i4"), **how(3), **state}).outputs
    for lane in range(3):
        own_state = {name: value[lane : lane + 1] for name, value in state.items()}
        request = {"noise": noise[lane : lane + 1], "count": np.full(1, 32, "i4"), **how(1), **own_state}
        for name, value in live.call("generate", request).outputs.items():
            np.testing.assert_array_equal(value[0], together[name][lane], err_msg=name)


def test_after_end_everything_stays(live, tiny_model, rows):
    state = {name: value.copy() for name, value in start(live, rows).items()}
    state["state_row"][1] = END
    noise = np.random.default_rng(5).random((3, 4), "f4")
    out = live.call("step", {"noise": noise, **how(3), **state}).outputs
    assert (out["row"][1] == END).all()
    for name, value in state.items():
        np.testing.assert_array_equal(out[name][1], value[1], err_msg=name)
    assert (out["row"][0] != END).any()


def test_pad_and_begin_are_never_drawn_and_end_is_a_whole_row(live, rows):
    noise = np.random.default_rng(6).random((3, CHUNK, 4), "f4")
    request = {"noise": noise, "count": np.full(3, 32, "i4"), **how(3, 2.0, 1.0, 0.0), **start(live, rows)}
    drawn = live.call("generate", request).outputs["rows"]
    assert not np.isin(drawn, [PAD, BEGIN]).any()
    ended = (drawn == END).any(axis=-1)
    assert (drawn[ended] == END).all()


_OTHER_BACKEND = """
import json, sys, numpy as np
from trainer import model, run_folder
card = json.load(open(sys.argv[1]))
network = model.build(card)
run_folder.load_weights(network, run_folder.unpack(sys.argv[2]), "weights")
rows = np.load(sys.argv[3])
import keras
from tests.trainer.test_event_model import losses
nll = keras.ops.convert_to_numpy(network(rows))
np.savez(sys.argv[4], nll=nll, losses=losses(network, card, np.load(sys.argv[5])), backend=keras.backend.backend())
"""


def losses(network, card: dict, batches: np.ndarray) -> np.ndarray:
    """Train on batches; return loss and each column's nats after each step, as means of all steps so far."""
    import keras

    network.compile(
        optimizer=optimizers.build(recipe.from_card(card).training, 1), jit_compile=keras.backend.backend() == "jax"
    )
    return np.array([[float(value) for value in network.train_on_batch(batch)] for batch in batches])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jax_gives_the_same_likelihood_and_losses_for_the_same_weights_and_data(
    tiny_recipe, tiny_dataset, rows, tmp_path
):
    """Without dropout, whose masks each draws in its own way; twelve steps, with clipping and decay at work."""
    still = replace(
        tiny_recipe, core=replace(tiny_recipe.core, dropout=0.0), heads=replace(tiny_recipe.heads, dropout=0.0)
    )
    still = replace(still, training=replace(still.training, rate=0.01, clip=0.5))
    card = {"schema": 1, **recipe.to_card(still)}
    model = models.build(card)
    corpus = data.Corpus(Dataset.open(tiny_dataset), "train", still.encoding)
    windows = data.Windows(corpus, still.encoding, still.training)
    batches = np.stack([windows[number][0] for number in range(12)])
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "weights.npz").write_bytes(run_folder.pack(run_folder.weights(model)))
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "batches.npy", batches)
    paths = [str(tmp_path / name) for name in ("card.json", "weights.npz", "rows.npy", "out.npz", "batches.npy")]
    env = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", _OTHER_BACKEND, *paths], check=True, env=env, timeout=800)
    other = np.load(tmp_path / "out.npz")
    assert str(other["backend"]) == "jax"
    np.testing.assert_allclose(other["nll"], np.asarray(model(rows)), atol=2e-5)
    own = losses(model, card, batches)
    assert own[0, 0] - own[-1, 0] > 1  # it learns, so a gradient that differs would show
    np.testing.assert_allclose(other["losses"], own, atol=1e-4)
