"""Controls: what is asked holds from the seed's end on, is counted down exactly, and nothing asked changes nothing."""

import io
import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from music import controls
from music import notes as nt
from music.controls import Controls
from music.encodings.columns import FIRST
from music.errors import SettingError, Unavailable
from music.generation import Card, Generator, Settings, ask
from music.pieces import Dataset
from tests.conftest import stepwise, waltz
from trainer import data, recipe
from trainer import model as models
from trainer.evaluation.batch_generation import Part, play
from trainer.export import signatures
from trainer.fit import loop, warm_start
from trainer.recipe import LSTM, RecipeError

STYLES = ("Claude Debussy", "Frédéric Chopin", "Johann Sebastian Bach")
CONTROLS = Controls(use=True, styles=STYLES)


@pytest.fixture(scope="module")
def steered(tiny_model, tiny_recipe):
    """(model, card): the tiny model's card with controls, whose tables are random instead of zero."""
    card = {"schema": 1, **recipe.to_card(replace(tiny_recipe, controls=CONTROLS))}
    model, draw = models.build(card), np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(draw.normal(0, 0.3, weight.shape) if weight.path.startswith("controls") else weight)
    return model, json.loads(json.dumps(card | {"state": model.state_spec}))


@pytest.fixture
def windows(tiny_dataset, tiny_recipe):
    corpus = data.Corpus(Dataset.open(tiny_dataset), "train", tiny_recipe.encoding)
    corpus.composers = ["Frédéric Chopin"] * len(corpus.composers)
    training = replace(tiny_recipe.training, batch=16, window=64)
    return data.Windows(corpus, tiny_recipe.encoding, training, controls=CONTROLS), corpus, training


def test_a_window_is_described_by_the_notes_that_come(windows):
    batches, corpus, training = windows
    plain = data.Windows(corpus, batches._encoding, training)
    rows = np.concatenate([batches[i][0] for i in range(12)])
    music, asked = rows[:, :, :4], rows[:, :, 4:]
    np.testing.assert_array_equal(music, np.concatenate([plain[i][0] for i in range(12)]))
    is_asked = asked.any(axis=1)
    assert ((is_asked.mean(axis=0) > 0.3) & (is_asked.mean(axis=0) < 0.65)).all()  # half of them, less the short ones
    assert set(asked[:, :, 0].ravel()) == {0, 2}
    step, _, velocity, _ = batches._encoding.columns
    late = 0
    for window, numbers in zip(music, asked, strict=True):
        if not numbers.any():
            continue
        first = int(np.flatnonzero(numbers.any(axis=1))[0])
        late += first > 1
        assert (numbers[first:, :3] == numbers[first, :3]).all() and not numbers[:first].any()
        coming = window[first:][window[first:, 0] >= FIRST]
        seconds = step.decode(coming[:, 0]).sum()
        for column, values, value in (
            (1, CONTROLS.density, len(coming) / max(seconds, 0.01)),
            (2, CONTROLS.loudness, velocity.decode(coming[:, 2]).mean() if len(coming) else 0),
        ):
            if numbers[first, column]:
                centre = values[numbers[first, column] - 1]
                assert abs(centre - value) <= np.abs(np.array(values) - value).min() + 0.05 * value
        left = numbers[first:, 3]
        if left.any():  # it falls by the step of each row
            steps = np.where(window[first:, 0] >= FIRST, step.decode(np.maximum(window[first:, 0], FIRST)) * 100, 0)
            fallen = left[:-1] - left[1:]
            assert np.abs(fallen - steps[:-1]).max() <= 2 + 0.1 * steps.max() and left[-1] >= 1
    assert 20 < late < 150


def test_styles_are_the_composers_of_eight_pieces_at_least(windows):
    _, corpus, _ = windows
    corpus.composers = ["A"] * 8 + ["B"] * 7 + [""] * 9
    assert data.styles(corpus) == ("A",)


def test_a_model_with_controls_of_zero_is_the_model_without(tiny_model, steered, windows):
    model, card = tiny_model[0], steered[1]
    fresh = models.build(card)
    assert {path for path in warm_names(fresh) - warm_names(model)} == {
        f"controls/{name}/embeddings" for name in controls.NAMES
    }
    for weight in fresh.weights:
        for same in model.weights:
            if same.path == weight.path:
                weight.assign(same)
    rows = windows[0][0][0]
    np.testing.assert_array_equal(np.asarray(fresh(rows)), np.asarray(model(rows[:, :, :4])))


def warm_names(model) -> set:
    return {weight.path for weight in model.weights}


def test_controls_row_by_row_are_those_that_the_state_counts_down(steered, windows):
    """A training window has them as columns, a server in the state; both give the same nats, in any cut."""
    model, _ = steered
    rows = windows[0][0][0][:4, :40, :4].copy()
    asked = np.array([[2, 5, 3, 300], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], "f4")
    state = model.initial_state(4)
    assert np.asarray(model.likelihood(rows, state | {"controls": asked})[0])[:3].sum() != pytest.approx(
        np.asarray(model.likelihood(rows, state)[0])[:3].sum(), abs=1e-3
    )
    consumed = np.concatenate([np.zeros((4, 1, 4), "i4"), rows[:, :-1]], axis=1)
    cells = np.round(model.encoding.columns[0].decode(np.maximum(consumed[:, :, 0], FIRST)) * 100)
    clock = np.cumsum(np.where(consumed[:, :, 0] >= FIRST, cells, 0), axis=1)
    columns = np.repeat(asked[:, None], 40, axis=1)
    columns[:, :, 3] = np.where(asked[:, 3:] > 0, np.maximum(asked[:, 3:] - clock, 1), 0)
    whole = np.asarray(model(np.concatenate([rows, columns.astype("i4")], axis=-1)))
    at_once, after = model.likelihood(rows, state | {"controls": asked})
    np.testing.assert_allclose(at_once, whole, atol=1e-5)
    step = model.encoding.columns[0].decode(rows[:, -1, :1]) * 100  # what remains counts from the pending row, the last
    columns[:, -1, 3:] -= np.where(columns[:, -1, 3:] > 1, np.round(step), 0)
    np.testing.assert_array_equal(after["controls"], columns[:, -1])

    class Asked:  # the same model, whose empty state asks
        initial_state = staticmethod(lambda batch: state | {"controls": asked})
        likelihood = model.likelihood

    np.testing.assert_allclose(stepwise(Asked, rows), whole, atol=1e-5)


def test_what_remains_counts_from_the_last_onset_of_the_seed_as_in_training(steered):
    """In a training window the number at a row is what remains at the onset before it. A seed ends anywhere."""
    model, _ = steered
    notes = nt.from_tuples([(k * 0.8, k * 0.8 + 0.5, 60 + k % 7, 64) for k in range(30)])
    rows = model.encoding.encode(notes, begin=True, end=False)[None]
    left = controls.to_cells(27 - np.concatenate([[0, 0], notes["start"][:-1]]))  # at the onset before each row
    seed = np.array([1, 9, 20])  # rows of it
    trained = np.zeros((3, rows.shape[1], 4), "i4")
    trained[:, :, 3] = np.where(np.arange(rows.shape[1]) >= seed[:, None], left, 0)
    expected = np.asarray(model(np.concatenate([np.repeat(rows, 3, axis=0), trained], axis=-1)))
    for size, numbers, nats in zip(seed.tolist(), trained, expected, strict=True):
        state = model.prime(rows[:, :size], np.array([size]), model.initial_state(1))
        state = model.prime(rows[:, :4], np.array([0]), state | {"controls": numbers[None, size].astype("f4")})
        served, _ = model.likelihood(rows[:, size:], state)
        np.testing.assert_allclose(served[0], nats[size:], atol=1e-4)


def test_what_is_asked_holds_from_the_seeds_end_on_and_a_restart_changes_nothing(steered):
    model, card = steered
    live, seed = signatures.Live(model, card), waltz(2, bars=6)
    settings = Settings(40, random_seed=3, style="chopin", density=9, loudness=70, seconds=120)

    class Recorded:
        calls: ClassVar[list] = []
        fails: ClassVar[tuple] = ()

        def call(self, signature, inputs, **options):
            self.calls.append((signature, inputs.get("state_controls")))
            if len(self.calls) in self.fails:
                raise Unavailable("gone for a moment")
            return live.call(signature, inputs, **options)

    def notes(**changes) -> np.ndarray:
        return np.concatenate([c.notes for c in Generator(Recorded()).stream(seed, replace(settings, **changes))])

    Recorded.calls, Recorded.fails = [], ()
    music = notes()
    primed = [asked for signature, asked in Recorded.calls if signature == "prime"]
    drawn = [asked for signature, asked in Recorded.calls if signature in ("step", "generate")]
    assert not np.any(primed)
    left = 1 + round((120 - controls.RING - Card.parse(json.dumps(card)).encoding.clock(seed, 0.0)) * 100)
    np.testing.assert_allclose(drawn[0], [[2, 9, 9, left]], atol=1)
    assert drawn[-1][0, 3] < drawn[0][0, 3]
    Recorded.calls, Recorded.fails = [], (len(Recorded.calls) - 1,)
    np.testing.assert_array_equal(notes(), music)
    for change in ({"style": "bach"}, {"density": 2}, {"loudness": 30}, {"seconds": 60}):
        assert not np.array_equal(notes(**change), music)
    plain = replace(settings, style=None, density=None, loudness=None, seconds=None)
    together = list(play(live, Card.parse(json.dumps(card)), [Part(seed, settings), Part(seed, plain)]))
    np.testing.assert_array_equal(together[0].notes, music)
    assert not np.array_equal(together[1].notes[: len(music)], music[: len(together[1].notes)])


@pytest.mark.parametrize(
    "setting, message",
    [
        (
            {"style": "Elgar"},
            "style: expected one of Claude Debussy, Frédéric Chopin, Johann Sebastian Bach; got 'Elgar'",
        ),
        ({"style": "a"}, "style: expected one of Claude"),  # all three have one
        ({"style": ""}, "style: expected one of Claude"),
        ({"density": 0.5}, "density: expected 1 to 30, got 0.5"),
        ({"loudness": 128}, "loudness: expected 30 to 100, got 128"),
        ({"loudness": float("nan")}, "loudness: expected 30 to 100, got nan"),
        ({"seconds": 9}, r"seconds: expected more than 10.0, which the seed lasts; got 9"),
    ],
)
def test_what_cannot_be_asked_is_named(steered, setting, message):
    with pytest.raises(SettingError, match=message):
        ask(Card.parse(json.dumps(steered[1])), Settings(**setting), 10.0)


def test_a_piece_that_has_begun_may_last_longer_than_was_asked(steered):
    asked = ask(Card.parse(json.dumps(steered[1])), Settings(seconds=9), 10.0, begun=True)
    assert asked is not None and asked.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("seconds", [0, -1, 3601, float("nan"), float("inf")])
def test_a_length_that_no_piece_has_is_refused(seconds):
    with pytest.raises(SettingError, match="seconds: expected more than 0, at most 3600"):
        Settings(seconds=seconds)


def test_a_model_without_controls_says_so(tiny_model):
    with pytest.raises(SettingError, match="style, seconds: the model performance was trained without controls"):
        next(Generator(signatures.Live(*tiny_model)).stream(nt.empty(), Settings(style="Chopin", seconds=60)))


def test_accents_case_and_parts_of_a_name_do_not_matter():
    assert [CONTROLS.style_class(name) for name in ("chopin", "FREDERIC", "Bach", "claude debussy")] == [2, 2, 3, 1]


def test_controls_need_heads_that_count_time():
    with pytest.raises(RecipeError, match=r"controls\.use: expected heads of the kind chain"):
        replace(recipe.load("three_heads"), controls=CONTROLS)


def test_a_card_with_controls_makes_the_recipe_again(tiny_recipe, steered):
    assert recipe.from_card(steered[1]).controls == CONTROLS
    assert recipe.from_card(json.loads(json.dumps(recipe.to_card(tiny_recipe)))).controls == Controls()


@pytest.mark.slow
def test_controls_are_added_to_a_trained_model_and_learned(tiny_dataset, tiny_recipe, tmp_path):
    run = str(tmp_path / "run")
    loop.fit(replace(tiny_recipe, core=LSTM(16, 2, 0.0)), Dataset.open(tiny_dataset), run, log=io.StringIO())
    start = warm_start.load(run)
    again = recipe.override(start.recipe(), "controls.use=True")
    card = loop.fit(again, Dataset.open(tiny_dataset), str(tmp_path / "next"), log=io.StringIO(), start=start)
    assert card["from"]["fresh"] == [f"controls/{name}/embeddings" for name in sorted(controls.NAMES)]
    model = warm_start.load(str(tmp_path / "next")).model()
    assert all(np.any(np.asarray(w)) for w in model.weights if w.path.startswith("controls") and "style" not in w.path)


def test_a_piece_is_over_when_its_time_is(steered):
    """An untrained model ends anywhere, or never; only what belongs to a chord may come later."""
    live, seed = signatures.Live(*steered), waltz(2, bars=6)
    over = Card.parse(json.dumps(steered[1])).encoding.clock(seed, 0.0) + 9
    for number in range(4):
        settings = Settings(seconds=over + controls.RING, random_seed=number)
        chunks = list(Generator(live).stream(seed, settings))
        notes = np.concatenate([chunk.notes for chunk in chunks])
        assert chunks[-1].ended == "final" and notes["start"].max() > over - 5.02
        late = notes["start"][notes["start"] > over + 0.02]  # the first one that is late, and its chord
        assert len(late) == 0 or np.ptp(late) <= 0.031 * len(late)


def test_the_end_of_a_training_piece_has_the_least_number(windows):
    rows = np.concatenate([windows[0][i][0] for i in range(12)])
    music, left = rows[:, :, :4], rows[:, :, 7]
    end = (music[:, :, 0] == 2) & (left > 0)
    assert end.any() and (left[end] == 1).all()
    after = np.flatnonzero(end.any(axis=1))
    assert all((left[k][: end[k].argmax()] >= 1).all() or not left[k][0] for k in after)
