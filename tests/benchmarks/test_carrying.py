"""Windows that follow each other through whole pieces, and the state that goes from one to the next."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import carrying
from music.encodings.columns import PAD
from music.pieces import Dataset
from trainer import data
from trainer.evaluation import likelihood


@pytest.fixture
def corpus(tiny_recipe, tiny_dataset):
    return data.Corpus(Dataset.open(tiny_dataset), "train", tiny_recipe.encoding)


def windows_of(corpus, tiny_recipe, **numbers) -> carrying.Windows:
    return carrying.Windows(corpus, tiny_recipe.encoding, replace(tiny_recipe.training, **numbers))


def test_a_row_of_a_batch_plays_whole_pieces_one_after_the_other(corpus, tiny_recipe):
    """As told by pitch and velocity: a step across the border of two windows may be a cell longer or shorter."""
    unchanged = windows_of(corpus, tiny_recipe, transpose=(0, 0), stretch=0.0, louder=0)
    pieces = [
        likelihood.encode(tiny_recipe.encoding, corpus, piece)[:, 1:3].tolist() for piece in range(len(corpus.index))
    ]
    batches = [unchanged[number] for number in range(4 * len(pieces))]
    played = []
    for lane in range(tiny_recipe.training.batch):
        parts: list = []
        for rows, fresh in batches:
            if fresh[lane]:
                parts.append([])
            parts[-1] += rows[lane][rows[lane][:, 0] != PAD][:, 1:3].tolist()
        assert all(piece in pieces for piece in parts[:-1])
        played += parts[:-1]
    assert len(played) >= len(pieces)
    assert all(piece in played for piece in pieces)  # each before one comes again, and there was time for all


def test_a_piece_is_changed_as_a_whole(corpus, tiny_recipe):
    """Its pitches lie the same distance from the real ones in all its windows."""
    moved = windows_of(corpus, tiny_recipe, transpose=(-6, 5), stretch=0.0, louder=0, batch=1)
    pieces = [likelihood.encode(tiny_recipe.encoding, corpus, piece)[:, 1] for piece in range(len(corpus.index))]
    distances, parts = set(), []
    for number in range(40):
        rows, fresh = moved[number]
        if fresh[0] and parts:
            piece = np.concatenate(parts)[1:-1]
            [distance] = {
                int(shift)
                for whole in pieces
                for shift in np.unique(piece - whole[1:-1] if len(whole) - 2 == len(piece) else [])
                if np.array_equal(piece - shift, whole[1:-1])
            }
            distances.add(distance)
            parts = []
        parts.append(rows[0][rows[0][:, 0] != PAD][:, 1])
    assert len(distances) > 2 and min(distances) >= -6 and max(distances) <= 5


@pytest.mark.slow
def test_the_state_goes_from_window_to_window(corpus, tiny_recipe, tiny_model):
    """With a rate of nothing the weights stay, so the state after two windows is that of both as one."""
    import keras

    from trainer import model

    network = model.build(tiny_model[1])
    network.core.dropout.rate = network.heads.dropout.rate = 0.0
    network.compile(optimizer=keras.optimizers.SGD(0.0))
    network.optimizer.build(network.trainable_variables)
    train, windows = carrying.stepper(network), windows_of(corpus, tiny_recipe)
    (first, fresh), (second, again) = windows[0], windows[1]
    assert fresh.all() and not again.any()
    train(first, fresh)
    state = train(second, again)
    _, expected = network.likelihood(np.concatenate([first, second], axis=1), network.initial_state(len(first)))
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=1e-4, err_msg=name)
    state = train(second, np.ones(len(second), bool))
    _, expected = network.likelihood(second, network.initial_state(len(second)))
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=1e-4, err_msg=name)
