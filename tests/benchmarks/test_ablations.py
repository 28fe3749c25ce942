"""The comparison of ideas: what a queue means, what is left to train, what the table says."""

import argparse
import json
from dataclasses import replace

import pytest

from benchmarks import ablations

QUEUE = """
# small
base: core.units=8 heads.hidden=8 core.layers=1 training.window=32 training.batch=2 training.warmup=2
pitch first: order=pitch,step,velocity,duration   # and not the step
carried: carry=1 training.average=0.5 pieces=6
"""


@pytest.fixture
def queue(tmp_path):
    path = tmp_path / "queue.txt"
    path.write_text(QUEUE)
    return path


def result(name: str, seed: int, nats: float) -> dict:
    columns = {"step": 1.0, "pitch": 2.0, "velocity": 3.0, "duration": nats - 6}
    return {"name": name, "seed": seed, "nats": nats, **columns, "parameters": 1000, "notes_per_cpu_second": 50}


def test_every_idea_has_the_first_ones_settings_too(queue):
    ideas = ablations.ideas(queue)
    assert list(ideas) == ["base", "pitch first", "carried"]
    assert ideas["pitch first"] == [*ideas["base"], "order=pitch,step,velocity,duration"]
    recipe = ablations.chosen("performance", ideas["pitch first"])
    assert recipe.encoding.names == ("pitch", "step", "velocity", "duration") and recipe.core.units == 8
    assert ablations.outside(ideas["pitch first"]) == {"pieces": 0, "carry": 0}
    assert ablations.outside(ideas["carried"]) == {"pieces": 6, "carry": 1}
    carried, base = (ablations.chosen("performance", ideas[name]) for name in ("carried", "base"))
    assert carried == replace(base, training=replace(base.training, average=0.5))


def test_differences_are_paired_by_seed():
    """A difference that is the same for every seed has no error, however far the seeds lie apart."""
    lines = [result("base", seed, nats) for seed, nats in ((1, 10.0), (2, 11.0), (3, 12.0))]
    lines += [result("idea", seed, nats) for seed, nats in ((1, 9.5), (3, 11.5))]
    header, _, base, idea = ablations.table(["base", "idea", "not yet"], lines).splitlines()
    assert header.startswith("| idea | nats a note | step |")
    assert base.startswith("| base | 11.000 ± 0.577 | 1.000 ± 0.000 |")
    assert idea.startswith("| idea | -0.500 ± 0.000 | +0.000 ± 0.000 |")


def test_what_is_there_is_not_trained_again(tmp_path):
    assert ablations.missing("base", tmp_path) == [1, 2, 3]
    (tmp_path / "results.jsonl").write_text(json.dumps(result("base", 2, 10.0)) + "\n")
    assert ablations.missing("base", tmp_path) == [1, 3] and ablations.missing("idea", tmp_path) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("idea", ["pitch first", "carried"])
def test_an_idea_is_trained_and_measured(queue, tmp_path, tiny_dataset, idea):
    args = argparse.Namespace(recipe="performance", data=tiny_dataset, notes=300, pieces=2, out=tmp_path)
    (tmp_path / "results.jsonl").write_text(json.dumps(result(idea, 2, 10.0)) + "\n")
    ablations.train(idea, ablations.ideas(queue)[idea], args)
    lines = ablations.results(tmp_path)[1:]
    assert [line["seed"] for line in lines] == [1, 3]
    for line in lines:
        assert 200 < line["notes"] < 400 and line["validation_notes"] > 0
        parts = [line[name] for name in ("step", "pitch", "velocity", "duration")]
        assert sum(parts) == pytest.approx(line["nats"], abs=1e-3)
    assert lines[0]["nats"] != lines[1]["nats"]
