"""What a run shows of its model: the table, the diagram, and its music beside real music."""

import re
from dataclasses import replace

import pytest

from music import notes as nt
from music.errors import MusicError
from music.examples.nocturne import nocturne
from music.plots import style
from trainer import model, recipe
from trainer.fit import diagrams
from trainer.recipe import LSTM, Chain, Stack


def small(name: str) -> recipe.Recipe:
    """A recipe as it is, but for its widths; chords know a few symbols."""
    full = recipe.load(name)
    if isinstance(full.core, LSTM):
        return replace(full, core=LSTM(units=16, layers=2), heads=Chain(hidden=16, slots=4))
    core = replace(full.core, units=(16, 8)[: len(full.core.units)], dense=(8,) * len(full.core.dense))
    if full.encoding.unit == "symbol":
        full = replace(full, encoding=replace(full.encoding, vocabulary=("0.4.7", "11.2.7", "C4", "D4")))
    return replace(full, core=core)


@pytest.fixture(params=recipe.names(), scope="module")
def built(request):
    """(recipe, model) of each recipe there is."""
    spec = small(request.param)
    return spec, model.build(recipe.to_card(spec))


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    return figures


def words(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_table_has_every_layer_and_adds_up(built):
    spec, network = built
    head, _, *lines, _, footer = diagrams.summary(network).splitlines()
    assert head.split() == ["layer", "kind", "output", "parameters"]
    counts = [int(line.split()[-1].replace(",", "")) for line in lines if re.search(r" [\d,]+$", line)]
    assert sum(counts) == network.count_params()
    assert footer.startswith(f"{network.count_params():,} parameters, ")
    assert len({len(line) for line in (head, *lines)}) == 1  # numbers below each other
    names = {line.split()[0] for line in lines}
    assert {"inputs", "core", "heads", "lstm0"} <= names
    assert {f"{spec.encoding.names[0]}_score"} <= names
    assert any("LSTM " in line and "(B, T, 16)" in line for line in lines)
    assert ("not trained" in footer) == (spec.name == "three_heads")


def test_the_diagram_leads_from_a_row_to_the_next(built, drawn):
    spec, network = built
    diagrams.diagram(network, recipe.to_card(spec), "model.svg")
    texts = words(drawn[0])
    assert f"{spec.name}: {network.count_params():,} parameters" in texts
    assert spec.about in texts
    layers = ["LSTM 16"] * (2 if isinstance(spec.core, LSTM) else 1)
    if isinstance(spec.core, Stack):
        layers += ["LSTM 8"] * (len(spec.core.units) - 1) + ["Dense 8"] * len(spec.core.dense)
    inputs = {"values": "values", "one_hot": "one-hot", "embedding": "embedding"}
    columns = list(spec.encoding.names)
    titles = [text.get_text() for text in drawn[0].axes[0].texts if text.get_weight() == "bold"]
    assert titles == [*columns, inputs[getattr(spec.core, "input", "embedding")], *layers, *columns]
    memories = [text for text in texts if text.startswith("h, c: ")]
    assert len(memories) == sum(layer.startswith("LSTM") for layer in layers)
    assert sum(text.startswith("softmax") for text in texts) == (
        1 if spec.name == "three_heads" else len(spec.encoding.names)
    )
    assert texts.count("a number: regression") == (2 if spec.name == "three_heads" else 0)


def test_words_stay_in_their_boxes(built, drawn):
    from matplotlib.patches import FancyBboxPatch

    spec, network = built
    diagrams.diagram(network, recipe.to_card(spec), "model.svg")
    (axes,) = drawn[0].axes
    drawn[0].canvas.draw()
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    everything = drawn[0].bbox
    placed = [text.get_window_extent() for text in axes.texts]
    for text, place in zip(axes.texts, placed, strict=True):
        assert everything.x0 <= place.x0 and place.x1 <= everything.x1, text
        inside = [box for box in boxes if box.overlaps(place) and box.height < everything.height / 2]
        assert all(box.x0 <= place.x0 and place.x1 <= box.x1 for box in inside), text
    for k, one in enumerate(placed):
        assert not any(one.overlaps(other) for other in placed[k + 1 :]), axes.texts[k]


def test_a_core_that_nobody_knows_is_drawn_too(drawn):
    import keras

    spec = small("one_hot")
    network = model.build(recipe.to_card(spec))

    class Other(keras.layers.Layer):
        units = 12

    network.core, network.inputs_ = Other(name="core"), Other(name="inputs")
    for layer in (network.core, network.inputs_):
        layer.build(())
    diagrams.diagram(network, {"recipe": "other"}, "model.png")
    assert {"Other", "12 wide", "state"} <= set(words(drawn[0]))
    assert "Other" in diagrams.summary(network)


def test_what_it_plays_stands_beside_real_music(drawn):
    song = nocturne()
    diagrams.compare(song, [nt.transpose(song, 5), song], "beside.png")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"real: 2 pieces, {2 * len(song)} notes",
        f"generated: {len(song)} notes",
    ]
    with pytest.raises(MusicError, match="generated: no notes"):
        diagrams.compare(nt.empty(), song, "beside.png")


def test_files_are_written(built, tmp_path):
    spec, network = built
    diagrams.diagram(network, recipe.to_card(spec), tmp_path / "model.svg")
    assert ">the next row<" in (tmp_path / "model.svg").read_text()
