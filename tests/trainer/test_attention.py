"""What blocks of attention see, and that they begin as nothing."""

import numpy as np
import pytest

from trainer import model as models
from trainer import recipe, run_folder
from trainer.model.attention import Blocks

NOTES = 8


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    """One block of random weights that sees eight notes back, with attention alone: its MLP is switched off."""
    blocks, draw = Blocks(1, 16, NOTES, 0.0), np.random.default_rng(0)
    blocks.build((None, None, 16))
    for weight in blocks.weights:
        if weight.path.endswith("kernel") and "outer" not in weight.path:
            weight.assign(draw.normal(0, 0.15, weight.shape))
    return blocks


def run(blocks: Blocks, x: np.ndarray, cells: np.ndarray) -> np.ndarray:
    empty = {name: np.zeros((len(x), *shape), "f4") for name, shape in blocks.spec.items()}
    return np.asarray(blocks(x, cells, empty)[0])


@pytest.fixture(scope="module")
def music() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    return draw.normal(size=(1, 30, 16)).astype("f4"), draw.integers(0, 60, (1, 30)).astype("f4")


def test_a_row_is_seen_from_itself_to_the_last_that_sees_as_far_back(blocks, music):
    x, cells = music
    other = x.copy()
    other[0, 10] += 1
    changed = np.abs(run(blocks, other, cells) - run(blocks, x, cells)).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(10, 10 + NOTES + 1))


def test_the_time_between_rows_counts_and_the_time_before_all_does_not(blocks, music):
    x, cells = music
    later, slower = cells.copy(), cells * 2
    later[0, 0] += 500
    np.testing.assert_allclose(run(blocks, x, later), run(blocks, x, cells), atol=1e-4)
    assert np.abs(run(blocks, x, slower) - run(blocks, x, cells)).max() > 0.01


def test_the_state_holds_the_last_rows_and_their_ages(blocks, music):
    x, cells = music
    empty = {name: np.zeros((2, *shape), "f4") for name, shape in blocks.spec.items()}
    counts = np.arange(30) < np.array([[5], [20]])
    _, after = blocks(np.repeat(x, 2, 0), np.repeat(cells, 2, 0), empty, counts=counts)
    clock = np.cumsum(cells[0])
    np.testing.assert_array_equal(np.asarray(after["ages"])[0], [0] * 3 + [*(1 + clock[4] - clock[:5])])
    np.testing.assert_array_equal(np.asarray(after["ages"])[1], 1 + clock[19] - clock[12:20])
    assert not np.asarray(after["keys0"])[0, :3].any() and np.asarray(after["keys0"])[0, 3:].any()


def test_a_trained_model_with_new_blocks_answers_as_before(tiny_model, tiny_recipe):
    model, _ = tiny_model
    wider = recipe.override(tiny_recipe, "core.attention=64")
    built = models.build({"schema": 1, **recipe.to_card(wider)})
    run_folder.load_weights(built, run_folder.weights(built) | run_folder.weights(model), "the tiny model")
    draw = np.random.default_rng(2)
    rows = np.stack([draw.integers(3, size, (2, 40)) for size in model.encoding.sizes], -1).astype("i4")
    np.testing.assert_array_equal(np.asarray(built(rows)), np.asarray(model(rows)))


def test_a_card_without_attention_is_that_of_before(tiny_recipe):
    assert not {"attention", "blocks"} & recipe.to_card(tiny_recipe)["core"].keys()
    wider = recipe.override(recipe.override(tiny_recipe, "core.attention=64"), "core.blocks=2")
    assert recipe.from_card(recipe.to_card(wider)) == wider
    with pytest.raises(recipe.RecipeError, match=r"lstm\.attention: expected 0 or more, got -1"):
        recipe.override(tiny_recipe, "core.attention=-1")
