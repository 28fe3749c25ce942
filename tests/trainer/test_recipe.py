"""Recipes are data: found by name, overridden with the type checked."""

import json

import pytest

from music.encodings import from_config
from trainer import recipe


def test_every_recipe_has_its_modules_name_and_makes_a_card():
    assert "performance" in recipe.names()
    for name in recipe.names():
        loaded = recipe.load(name)
        card = json.loads(json.dumps(recipe.to_card(loaded)))
        assert loaded.name == name and from_config(card["encoding"]) == loaded.encoding


def test_set_changes_one_value():
    changed = recipe.override(recipe.load("performance"), "training.batch=7")
    assert changed.training.batch == 7
    assert recipe.override(changed, "training.rate=1").training.rate == 1.0
    assert recipe.override(changed, "training.transpose=(-1, 2)").training.transpose == (-1, 2)
    assert recipe.override(changed, "select=composer=Bach").select == "composer=Bach"
    assert recipe.override(recipe.load("one_hot"), "encoding.beat=0.5").encoding.beat == 0.5
    assert recipe.override(recipe.load("chords"), "core.dense=(9, 8)").core.dense == (9, 8)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("training.batch", "expected name=value"),
        ("training.batches=3", "no such value; expected one of window, batch"),
        ("training.batch=many", "cannot read 'many' as int"),
        ("training.batch=3.5", "expected int"),
        ("name.x=3", "name has no parts"),
        ("training.batch=0", "training.batch: expected 1 or more, got 0"),
        ("training.seed=-1", "training.seed: expected 0 or more"),
        ("training.transpose=(3, 5)", "expected .*around 0"),
        ("training.transpose=(1, 2, 3)", "expected .*around 0"),
        ("training.rate=0", "expected rate and clip above 0"),
        ("core.dropout=1.0", "lstm.dropout: expected less than 1"),
        ("training.transpose=(-1.5, 1)", "expected ints"),
        ("core.layers=0", "lstm.layers: expected 1 or more"),
        ("heads.slots=0", "chain.slots: expected 1 or more"),
    ],
)
def test_a_wrong_set_says_what_was_expected(setting, message):
    with pytest.raises(recipe.RecipeError, match=message):
        recipe.override(recipe.load("performance"), setting)


def test_a_card_holds_a_newer_setting_only_where_it_is_set():
    """So a run that began before there was the setting goes on."""
    plain = recipe.load("performance")
    card = recipe.to_card(plain)
    assert not {"optimizer", "average"} & card["training"].keys() and "attention" not in card["core"]
    assert recipe.from_card(card) == plain
    chosen = recipe.override(recipe.override(plain, "training.optimizer=muon"), "core.attention=64")
    card = recipe.to_card(chosen)
    assert card["training"]["optimizer"] == "muon" and card["core"]["attention"] == 64
    assert recipe.from_card(card) == chosen


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(recipe.RecipeError, match="performance"):
        recipe.load("perfomance")
