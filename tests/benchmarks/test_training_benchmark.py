"""The benchmark of training: what it counts is what there is. How fast it was, no test asks."""

import json
import math

import numpy as np
import pytest

from benchmarks.training import __main__ as benchmark
from benchmarks.training import corpus as invented
from benchmarks.training import fitting, pipeline
from music.encodings.columns import FIRST
from music.pieces import Dataset
from trainer import data, model, recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("made-up")
    invented.write(path, shards=2, pieces=3, notes=200)
    return path


def test_made_up_music_is_a_dataset(folder):
    dataset = Dataset.open(str(folder))
    assert dataset.facts["pieces"] == {"train": 6, "validation": 1, "test": 1}
    for split, count in dataset.facts["pieces"].items():
        corpus = data.Corpus(dataset, split, recipe.load("performance").encoding)
        assert corpus.counts.tolist() == [200] * count and not corpus.skipped


def test_a_pass_has_every_note_but_those_of_the_last_batch(folder, tiny_recipe):
    corpus = data.Corpus(Dataset.open(str(folder)), "train", tiny_recipe.encoding)
    windows = data.Windows(corpus, tiny_recipe.encoding, tiny_recipe.training)
    one_by_one = sum(int((windows[number][0][:, :, 0] >= FIRST).sum()) for number in range(windows.per_pass))
    counted = pipeline.one_pass(windows, windows.per_pass, threads=2)
    assert counted == one_by_one
    assert 0.8 * 1200 < counted <= 1200


def test_what_a_note_is_multiplied_with(tiny_recipe):
    """Every matrix but the embeddings, reckoned by hand from the sizes."""
    network = model.build(recipe.to_card(tiny_recipe))
    units, hidden, slots, pitches, columns = 16, 16, 4, 88, 4
    held = 2 * (slots + 1)
    inputs = (64 * columns + held + 4 * pitches) * units
    core = 2 * (2 * units * 4 * units)
    heads = columns * units * hidden + (columns * held + 4 * pitches + 2) * hidden
    scores = hidden * (sum(tiny_recipe.encoding.sizes) + slots + 2)
    assert fitting.matrix_weights(network) == inputs + core + heads + scores


def test_a_wait_is_what_a_step_stood_without_its_batch(folder, tiny_recipe):
    corpus = data.Corpus(Dataset.open(str(folder)), "train", tiny_recipe.encoding)
    windows = fitting.Watched(corpus, tiny_recipe.encoding, tiny_recipe.training)
    first, last = fitting.WARM_UP, fitting.WARM_UP + 4
    notes = [int((windows[number][0][:, :, 0] >= FIRST).sum()) for number in range(last)]
    assert [windows.notes[number] for number in range(last)] == notes
    clock = fitting.Clock(windows, 1.0)
    clock._started, clock._began, clock._ended = 90.0, 100.0, [100.0 + number for number in range(last)]
    # made: before it is asked for, half a second late, just in time, two seconds late
    windows.ready |= {first: 101.0, first + 1: 103.5, first + 2: 104.0, first + 3: 107.0}
    windows.making |= dict.fromkeys(range(first, last), 0.25)
    result = clock._result(last, seconds=8.0, cpu=4.0)
    assert result == {
        "steps": 4, "notes": sum(notes[first:]), "seconds": 8.0, "cpu": 4.0, "waited": 2.5, "making": 1.0, "warm": 10.0
    }  # fmt: skip


@pytest.mark.slow
def test_it_all_works_on_a_small_scale(tmp_path, capsys, monkeypatch):
    out = tmp_path / "numbers.json"
    monkeypatch.setattr(
        "sys.argv", ["benchmarks.training", "--quick", "--backend", "jax", "--size", "small", "--json", str(out)]
    )
    assert benchmark.main() == 0
    figures = json.loads(out.read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(figures) and len(figures) == 2 + len(benchmark.TIMES)
    assert " × Keras' LSTM layer (" in printed[3]
    training, in_parts, once, eight = figures.values()
    assert in_parts["parameters"] == training["parameters"] and in_parts["steps"] >= 1
    assert training["steps"] >= 1 and training["operations"] > 0 and set(training["peaks"]) >= {"float32"}
    assert all(math.isfinite(value) for value in training.values() if isinstance(value, float))
    assert eight["bytes"] == 8 * once["bytes"] and np.isclose(eight["notes"], 8 * once["notes"], rtol=0.05)
