"""A run may begin with the weights of another one, or of an exported model, which must be the same model here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from music.errors import RecordError
from music.storage import checksums
from tests.conftest import waltz
from trainer import model, recipe, run_folder
from trainer.fit import warm_start
from trainer.fit.run_identity import check_same

SHIPPED = Path(__file__).parents[2] / "models" / "performance" / "1"


@pytest.mark.slow
def test_an_export_gives_its_weights_back(tiny_model, tiny_recipe, tiny_export):
    network, card = tiny_model
    start = warm_start.load(str(tiny_export / "performance" / "1"))
    assert start.weights.keys() == run_folder.weights(network).keys()
    for name, values in run_folder.weights(network).items():
        np.testing.assert_array_equal(start.weights[name], values, err_msg=name)
    again = start.recipe()
    assert replace(again, training=tiny_recipe.training) == tiny_recipe
    assert again.training.rate == tiny_recipe.training.rate / 10 and again.training.batch == tiny_recipe.training.batch
    fresh = model.build(card)
    start.put(fresh)
    rows = np.full((1, 5, 4), 7, "i4")
    np.testing.assert_array_equal(np.asarray(fresh(rows)), np.asarray(network(rows)))


@pytest.mark.slow
def test_the_shipped_model_can_be_gone_on_with():
    start = warm_start.load(str(SHIPPED))  # which compares its answers with those of the SavedModel
    assert start.recipe().name == "performance"
    assert start.facts["path"] == str(SHIPPED) and start.facts["notes"] > 0


def test_a_list_of_weights_is_tried_in_the_orders_that_there_were(tiny_model):
    network, _ = tiny_model
    named = run_folder.weights(network)
    for parts in (("inputs", "core", "heads"), ("core", "heads", "inputs")):
        values = [weight.numpy() for part in parts for weight in network.weights if weight.path.startswith(part)]
        tried = warm_start._named({f"weights/{number}": value for number, value in enumerate(values)}, network)
        fits = [
            all(name in names and np.array_equal(names[name], value) for name, value in named.items())
            for names in tried
        ]
        assert sum(fits) == 1


def test_names_of_dictionary_keys():
    assert warm_start._unescape("core.Slstm0.Slstm_cell.Skernel") == "core/lstm0/lstm_cell/kernel"
    assert warm_start._unescape("a..b.Sc") == "a.b/c"


def test_a_part_that_the_start_lacks_begins_fresh_and_one_too_many_is_named(tiny_model):
    network, card = tiny_model
    start = warm_start.Start("there", run_folder.weights(network), card)
    recalling = model.build(card | {"heads": card["heads"] | {"recall": 64}})
    assert start.put(recalling) == ["heads/pitch_repeat/bias", "heads/pitch_repeat/kernel"]
    for name, values in start.weights.items():
        np.testing.assert_array_equal(run_folder.weights(recalling)[name], values, err_msg=name)
    more = warm_start.Start("there", run_folder.weights(recalling), card)
    with pytest.raises(RecordError, match=r"there: heads/pitch_repeat/bias, .*: the model to be trained has no such"):
        more.put(model.build(card))


def test_a_model_that_gains_ordered_inputs_is_the_same_model_at_first(tiny_model):
    network, card = tiny_model
    start = warm_start.Start("there", run_folder.weights(network), card)
    ordered = model.build(card | {"core": card["core"] | {"ordered": True}})
    assert start.put(ordered) == ["inputs/order/kernel"]
    rows = network.encoding.encode(waltz(3), begin=True, end=True)[None]
    np.testing.assert_array_equal(np.asarray(ordered(rows)), np.asarray(network(rows)))


def test_the_notes_seen_are_those_of_all_runs_before_it_too(tiny_model):
    _, card = tiny_model
    begun = {}
    for number, count in enumerate((700, 20, 3)):
        effort = {"metrics": {"trained": {"epoch": 5, "notes": count, "seconds": 1.0}}}
        start = warm_start.Start(f"runs/{number}", {}, card | effort | begun)
        begun = {"from": start.facts}
    assert start.notes == 723
    assert start.facts["from"]["from"]["path"] == "runs/0"


def test_a_run_that_goes_on_adds_the_runs_before_its_start_to_its_card(tmp_path):
    start = {"path": "runs/b", "weights": "best", "notes": 20}
    card = {"training": {}, "dataset": {"digest": "d"}, "from": start}
    (tmp_path / "card.json").write_bytes(checksums.with_checksum(card))
    first = {"path": "runs/a", "notes": 700}
    again = check_same(str(tmp_path), card | {"from": start | {"notes": 25, "from": first}})
    assert again["from"] == start | {"from": first}


def test_what_is_neither_run_nor_export_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"expected a run's folder, with card.json, or an exported version's"):
        warm_start.load(str(tmp_path))


@pytest.mark.parametrize("name", recipe.names())
def test_a_card_is_a_recipe_again(name):
    loaded = recipe.load(name)
    assert recipe.from_card(recipe.to_card(loaded)) == loaded
    import json

    assert recipe.from_card(json.loads(json.dumps(recipe.to_card(loaded)))) == loaded


def test_a_card_of_another_kind_is_refused():
    card = recipe.to_card(recipe.load("performance"))
    with pytest.raises(recipe.RecipeError, match="'organ': expected lstm, transformer, stack"):
        recipe.from_card(card | {"core": {"kind": "organ"}})
    with pytest.raises(recipe.RecipeError, match="makes no recipe"):
        recipe.from_card(card | {"training": {"speed": 3}})
