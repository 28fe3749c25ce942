"""Windows: every row of the music stands in one, changed in natural units, and batch g is always batch g."""

import io
import json
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest

from music import midi
from music.encodings.columns import BEGIN, END, FIRST, PAD
from music.errors import RecordError
from music.notes import DRUMS
from music.pieces import Dataset
from tests.conftest import waltz
from trainer import data
from trainer.fit.progress_log import ProgressLog


@pytest.fixture(scope="module")
def corpus(tiny_dataset, tiny_recipe) -> data.Corpus:
    return data.Corpus(Dataset.open(tiny_dataset), "train", tiny_recipe.encoding)


def test_cuts_cover_every_row_once(corpus):
    chosen = data.cuts(corpus, 32, np.random.default_rng(1))
    for piece, size in enumerate(corpus.sizes):
        bounds = sorted(chosen[chosen["piece"] == piece][["first", "last"]].tolist())
        assert bounds[0][0] == 0 and bounds[-1][1] == size + 2
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        assert all(0 < last - first <= 32 for first, last in bounds)


def test_unchanged_windows_are_the_piece_itself(corpus, tiny_recipe):
    encoding = tiny_recipe.encoding
    chosen = data.cuts(corpus, 32, np.random.default_rng(2))
    chosen = np.sort(chosen[chosen["piece"] == 3], order="first")
    windows = data.Excerpts.of([corpus.notes(3)] * len(chosen), encoding, chosen).encode(encoding, 32)
    rows = np.concatenate([w[w[:, 0] != PAD] for w in windows])
    notes = corpus.notes(3)
    assert (rows[0] == BEGIN).all() and (rows[-1] == END).all() and len(rows) == len(notes) + 2
    decoded = encoding.decode(rows, after=notes["start"][0])
    np.testing.assert_array_equal(np.sort(decoded["pitch"]), np.sort(notes["pitch"]))
    assert np.abs(decoded["start"] - notes["start"]).max() < 0.02 * len(chosen)


def test_a_batch_is_a_function_of_its_number(corpus, tiny_recipe):
    training = tiny_recipe.training
    windows = data.Windows(corpus, tiny_recipe.encoding, training)
    resumed = data.Windows(corpus, tiny_recipe.encoding, training, start=33)
    for i in range(7):
        np.testing.assert_array_equal(resumed[i][0], windows[33 + i][0])
    assert any(not np.array_equal(windows[0][0], windows[i][0]) for i in range(1, 5))


def test_music_is_changed_within_the_recipe_and_the_range(corpus, tiny_recipe):
    training = replace(tiny_recipe.training, transpose=(-30, 30), louder=200, batch=16)
    rows = np.concatenate([data.Windows(corpus, tiny_recipe.encoding, training)[i][0] for i in range(9)])
    notes = rows[rows[:, :, 0] >= FIRST]
    assert notes[:, 1].min() >= FIRST and notes[:, 1].max() < tiny_recipe.encoding.sizes[1]
    assert len(np.unique(notes[:, 1])) > 50  # the waltzes themselves use fewer
    still = replace(training, transpose=(0, 0), louder=0, stretch=0.0)
    rows = data.Windows(corpus, tiny_recipe.encoding, still)[0][0]
    assert len(np.unique(rows[rows[:, :, 0] >= FIRST][:, 1])) < 50


def test_a_corpus_beyond_memory_gives_the_same_pieces(corpus, tiny_dataset, tiny_recipe):
    small = data.Corpus(Dataset.open(tiny_dataset), "train", tiny_recipe.encoding, memory=int(corpus.sizes.max()))
    assert np.array_equal(small.index, corpus.index) and len(small._held) < len(corpus._held)
    for piece in (0, len(corpus.index) - 1, 1):
        np.testing.assert_array_equal(small.notes(piece), corpus.notes(piece))
    assert sum(len(n) for shard in small._held.values() for n in shard) < corpus.sizes.sum()
    assert len(small.pools(np.random.default_rng(0))) > 1


def test_a_selection_of_nothing_names_the_composers(tiny_dataset, tiny_recipe):
    dataset = Dataset.open(tiny_dataset)
    with pytest.raises(RecordError, match=r"leaves no train piece .*composers"):
        data.Corpus(dataset, "train", tiny_recipe.encoding, "composer=Nobody")
    for wrong in ("mood=happy", "composer", "composer="):
        with pytest.raises(RecordError, match="expected fact=word"):
            data.Corpus(dataset, "train", tiny_recipe.encoding, wrong)


def test_what_the_encoding_cannot_express_is_left_out_and_named(tmp_path, tiny_recipe):
    """A piece loses its note below the piano and its drums; one of nothing else is skipped."""
    from preprocessing.__main__ import run

    low = waltz(1).copy()
    low["pitch"][3] = 20
    drums = waltz(2).copy()
    drums["program"][::3] = DRUMS
    deep = waltz(4).copy()
    deep["pitch"] %= 21
    (tmp_path / "midi").mkdir()
    for name, notes in {"low": low, "drums": drums, "plain": waltz(3), "deep": deep}.items():
        (tmp_path / "midi" / f"{name}.mid").write_bytes(midi.write(notes))
    (tmp_path / "midi" / "maestro-v3.0.0.csv").write_text(
        "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"
        + "".join(f"A,{name},train,2000,{name}.mid,,1\n" for name in ("low", "drums", "plain", "deep"))
    )
    assert run(["--input", str(tmp_path / "midi"), "--output", str(tmp_path / "out"), "--shards", "1"]) == 0
    corpus = data.Corpus(Dataset.open(str(tmp_path / "out")), "train", tiny_recipe.encoding)
    assert corpus.skipped == ["deep.mid"]
    assert corpus.left_out == {"drums.mid": int(np.sum(drums["program"] == DRUMS)), "low.mid": 1}
    assert dict(zip(corpus.ids, corpus.sizes.tolist(), strict=True)) == {
        "low.mid": len(low) - 1,
        "plain.mid": len(waltz(3)),
        "drums.mid": int(np.sum(drums["program"] == 0)),
    }
    log, count = io.StringIO(), 1 + corpus.left_out["drums.mid"]
    ProgressLog(log, tiny_recipe).warn("float32", "", corpus)
    assert log.getvalue().splitlines() == [
        "1 pieces are beyond the encoding and left out, the first deep.mid",
        f"{count} notes of 2 pieces are beyond the encoding and left out, the first drums.mid",
    ]
    warnings = [json.loads(line) for line in (tmp_path / "out" / "warnings.jsonl").read_text().splitlines()]
    counts = {warning["path"]: [line.split()[0] for line in warning["damage"]] for warning in warnings}
    assert counts == {"deep.mid": [str(len(deep))], "low.mid": ["1"]}


def test_keras_takes_the_batches_in_order_and_goes_on_after_an_epoch():
    import keras

    class Numbers(keras.utils.PyDataset):
        num_batches = data.Windows.num_batches

        def __getitem__(self, i):
            return np.full((1, 1), i, "f4"), np.zeros((1, 1), "f4")

    class Listener(keras.Model):
        seen: ClassVar[list] = []

        def call(self, x):
            self.seen.append(int(x[0, 0]))
            return self.bias + x

        def build(self, shape):
            self.bias = self.add_weight()

    model = Listener()
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(Numbers(workers=4), steps_per_epoch=7, epochs=3, shuffle=False, verbose=0)
    assert model.seen == list(range(21))
