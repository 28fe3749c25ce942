"""Many pieces at once are those that each is alone; and `listen`, from a model and a dataset to a page."""

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from music import notes as nt
from music.errors import RecordError
from music.generation import Generator, Settings
from serving.backends.embedded import Embedded
from tests.conftest import waltz
from trainer.__main__ import run
from trainer.evaluation import batch_generation, similarity_report
from trainer.evaluation.batch_generation import Part, Played


@pytest.fixture(scope="module")
def saved(tiny_export):
    backend = Embedded(tiny_export)
    return backend, Generator(backend).describe()[0]


@pytest.mark.slow
def test_pieces_together_are_those_that_each_is_alone(saved):
    backend, card = saved
    parts = [
        Part(waltz(1, bars=12), Settings(40, random_seed=1)),
        Part(nt.empty(), Settings(70, temperature=0.8, random_seed=2)),
        Part(waltz(2, bars=3), Settings(5, top_p=0.9, min_p=0.01, random_seed=3)),
    ]
    for lanes in (3, 2):
        for part, played in zip(parts, batch_generation.play(backend, card, parts, lanes), strict=True):
            chunks = list(Generator(backend).stream(part.seed, part.settings))
            np.testing.assert_array_equal(played.notes, np.concatenate([chunk.notes for chunk in chunks]))
            assert played.final == (chunks[-1].ended == "final")


def test_a_piece_stops_at_its_second(saved):
    backend, card = saved
    seed = waltz(1, bars=4)
    (whole,) = batch_generation.play(backend, card, [Part(seed, Settings(64, random_seed=1))])
    until = whole.notes["start"][10]
    (part,) = batch_generation.play(
        backend, card, [Part(seed, Settings(64, random_seed=1), until - seed["start"].max())]
    )
    np.testing.assert_array_equal(part.notes, whole.notes[whole.notes["start"] < until])
    assert 0 < len(part.notes) <= 10 and not part.final


def test_seeds_ceiling_and_reference_share_no_piece(tiny_dataset, tiny_recipe, monkeypatch):
    """Each piece of this corpus has a velocity of its own, so every excerpt tells where it is from."""
    monkeypatch.setattr(similarity_report, "SEED_NOTES", 32)

    class Pieces:
        index = tuple(range(12))

        def notes(self, piece):
            notes = waltz(piece, bars=60)
            notes["velocity"] = 8 * piece + 11
            return notes

    seen: list = []
    monkeypatch.setattr(similarity_report.similarity, "Reference", lambda excerpts: seen.append(excerpts))
    plan = similarity_report.Plan(seeds=2, rounds=3, seconds=20)
    material = similarity_report.gather(Pieces(), tiny_recipe.encoding, plan)

    def origin(excerpts) -> set[int]:
        return {round((velocity - 11) / 8) for notes in excerpts for velocity in notes["velocity"].tolist()}

    for kind, reference in zip(similarity_report.KINDS, seen, strict=True):
        groups = [origin(turn) for turn in material.real[kind]] + [origin(reference)]
        assert [len(group) for group in groups] == [2, 2, 2, 6]
        assert len(set.union(*groups)) == 12
        onsets = np.concatenate([notes["start"] for notes in reference])
        assert onsets.min() >= 0 and onsets.max() < 20.001  # rounded up, it may be 20
    for seed, after in zip(material.seeds, material.follows, strict=True):
        assert len(seed) == 32 and origin([seed]) == origin([after])
    with pytest.raises(RecordError, match="12 pieces have more than 32 notes and 20 s after them: expected 14"):
        similarity_report.gather(Pieces(), tiny_recipe.encoding, similarity_report.Plan(seeds=4, rounds=3, seconds=20))


def test_a_gain_is_of_the_same_rounds():
    """Luck that both ways share is no part of it."""
    some, others = ({"new": {"x": values}} for values in ([0.5, 0.7, 0.9], [0.4, 0.6, 0.8]))
    assert similarity_report.gain(some, others, "new", "x") == pytest.approx((0.1, 0))
    assert similarity_report.mean_and_deviation([0.5, 0.7, 0.9]) == pytest.approx((0.7, 0.2))


def test_only_what_ends_by_itself_is_over():
    minute = nt.from_tuples([(0, 50, 60)])
    pieces = [Played(minute, True), Played(minute, False)]
    assert similarity_report.endings(pieces, np.array([20.0, 70.0, 70.0, 400.0]), 2) == [
        (0.5, 0, 0.25),
        (1, 0.5, 0.25),
        (2, 0.5, 0.75),
    ]


def test_the_examples_are_there_and_short_enough_to_fetch():
    """All that the README shows; `make examples` makes them."""
    root = Path(__file__).parents[2]
    named = set(re.findall(r"docs/examples/[\w-]+\.\w+", (root / "README.md").read_text()))
    assert sum(name.endswith(".mp3") for name in named) >= 2
    for name in named:
        assert 0 < (root / name).stat().st_size <= 400_000, name


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.files = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.files += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
def test_it_writes_a_page_that_needs_nothing_else(tiny_export, tiny_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(similarity_report, "SEED_NOTES", 32)
    monkeypatch.setattr(similarity_report.similarity, "LEAST", 2)  # this model was never trained, and plays few notes
    out = tmp_path / "page"
    flags = ["listen", "--model", str(tiny_export / "performance/1"), "--data", tiny_dataset, "--output", str(out)]
    few = ["--seeds", "2", "--random-seeds", "1", "--seconds", "20", "--minutes", "0.1", "--pieces", "1"]
    assert run([*flags, *few, "--split", "train", "--temperature", "1", "0.9"]) == 0
    page = _Page()
    page.feed((out / "index.html").read_text())
    assert "script" not in page.tags and "table" in page.tags and page.files
    assert all((out / name).stat().st_size for name in page.files)  # no other host, and all of them are there
    figures = json.loads((out / "listen.json").read_text())["figures"]
    ways = ["temperature 1, top-p 1, min-p 0", "temperature 0.9, top-p 1, min-p 0"]
    assert list(figures) == ["real music", *ways, "noise"]
    overlaps = {name: kinds["continued"].get("together overlap mean", [0])[0] for name, kinds in figures.items()}
    assert overlaps["real music"] > max(overlaps["noise"], *(overlaps[way] for way in ways))
    assert "index.html" in capsys.readouterr().out

    assert run([*flags, "--split", "validation"]) == 2
    assert "expected 50 for 16 seeds, 3 rounds" in capsys.readouterr().err
