"""What is counted of music, here and by preprocessing."""

import json

import numpy as np
import pytest

from music import notes as nt
from music.analysis import statistics
from music.errors import RecordError
from music.examples.nocturne import nocturne
from music.pieces import Piece, from_example, to_example
from preprocessing import pipeline

TUNE = nt.from_tuples([(0.0, 0.5, 60, 64), (0.01, 1.0, 64, 70), (0.5, 0.75, 64), (2.0, 2.5, 48), (2.0, 2.5, 60)])


def write(path, facts) -> str:
    path.write_text(json.dumps(facts))
    return str(path)


def of_corpus(*pieces: nt.Notes) -> dict:
    """Count some pieces as preprocessing does: the contents of `stats.json`."""
    return pipeline.describe(
        pipeline._total(pipeline.counts(Piece(notes, str(k), composer="me")) for k, notes in enumerate(pieces))
    )


def test_a_tune_by_hand():
    counted = statistics.of([TUNE])
    assert (counted.pieces, counted.notes, counted.composers) == (1, 5, {})
    assert counted.chords == {"0": 1, "0.4": 1, "E4": 1}  # C3 and C4 together are an octave, no note
    pitch = counted.histograms["pitch"]
    assert {int(k): int(pitch.counts[k]) for k in np.flatnonzero(pitch.counts)} == {48: 1, 60: 2, 64: 2}
    step = counted.histograms["step"]
    assert step.counts.sum() == 4 and step.counts[0] == 1
    assert counted.histograms["notes_per_piece"].counts.sum() == 1


def test_what_a_corpus_counts_is_what_its_pieces_count(tmp_path):
    pieces = [TUNE, nocturne(), nt.transpose(nocturne(), 3)]
    read, here = statistics.read(write(tmp_path / "stats.json", of_corpus(*pieces))), statistics.of(pieces)
    assert (read.pieces, read.notes, read.chords) == (here.pieces, here.notes, here.chords)
    assert list(read.chords) == list(here.chords)
    assert read.composers == {"me": 3}
    for name in statistics.EDGES:
        for one, other in zip(read.histograms[name], here.histograms[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_drums_play_no_chords():
    drums = nt.from_tuples([(0.0, 0.1, 36, 80, nt.DRUMS), (0.5, 0.6, 38, 80, nt.DRUMS)])
    assert statistics.of([drums]).chords == {}
    assert statistics.of([nt.sort(np.concatenate([drums, TUNE]))]).chords == statistics.of([TUNE]).chords


def test_chords_of_a_file_are_those_of_its_shard():
    """Onsets that are as far apart as notes of a chord may be, with the rounding errors of seconds in them."""
    ticks = np.arange(2000) * 0.05
    played = nt.from_columns(ticks + 1e-9 * np.random.default_rng(0).uniform(-1, 1, 2000), ticks + 1, 60, 64)
    played["pitch"] += np.arange(2000, dtype="i2") % 7
    stored = from_example(to_example(Piece(played, "x"))).notes
    assert statistics.of([played]).chords == statistics.of([stored]).chords


def test_nothing_has_no_notes_and_no_median():
    for nothing in (statistics.of([]), statistics.of([nt.empty()])):
        assert nothing.notes == 0 and nothing.chords == {}
        assert np.isnan(nothing.histograms["pitch"].median())


@pytest.mark.parametrize("name", ["pitch", "velocity", "step", "duration"])
def test_medians_are_those_of_the_notes(name):
    music = nocturne()
    values = {"step": np.diff(music["start"]), "duration": music["end"] - music["start"]}.get(name)
    values = music[name] if values is None else values
    median = statistics.of([music]).histograms[name].median()
    if name in ("pitch", "velocity"):
        assert median // 1 == np.median(values)
    else:
        assert median == pytest.approx(np.median(values), rel=0.13)  # half a bin


def test_an_older_file_has_no_chords(tmp_path):
    facts = of_corpus(TUNE)
    del facts["chords"]
    assert statistics.read(write(tmp_path / "stats.json", facts)).chords is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: [],
        lambda facts: {},
        lambda facts: facts | {"splits": None},
        lambda facts: facts | {"splits": {"train": {}}},
        lambda facts: facts | {"composers": ["Bach"]},
        lambda facts: facts | {"chords": {"C4": "often"}},
        lambda facts: facts | {"pitch": {"edges": [0, 1, 2], "counts": [1]}},
        lambda facts: facts | {"pitch": {"edges": [0, 2, 1], "counts": [1, 1]}},
        lambda facts: facts | {"pitch": {"edges": [0, 1], "counts": [-1]}},
        lambda facts: facts | {"pitch": {"edges": 0, "counts": 1}},
        lambda facts: {name: part for name, part in facts.items() if name != "step"},
    ],
)
def test_a_damaged_file_is_an_error(tmp_path, damage):
    path = write(tmp_path / "stats.json", damage(of_corpus(TUNE)))
    with pytest.raises(RecordError, match=r"expected the stats\.json of a dataset"):
        statistics.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"MThd\x00\x00\xf4\xff" * 1000])
def test_bytes_that_are_no_statistics_are_a_short_error(tmp_path, content):
    (tmp_path / "stats.json").write_bytes(content)
    with pytest.raises(RecordError) as caught:
        statistics.read(tmp_path / "stats.json")
    assert len(str(caught.value)) < 400  # with two long paths, and nothing of the file
