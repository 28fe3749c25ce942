"""Every recipe obeys the model's laws and works from end to end: train, evaluate, sample, export, serve."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from music import midi
from music import notes as nt
from music.encodings import NoteRows
from music.encodings.columns import BEGIN, CELL, END, FIRST, PAD, Column
from music.errors import RecordError
from music.generation import Card, Generator, Settings
from music.model_folder import Loaded
from music.pieces import Dataset
from serving import create_app
from serving.backends.embedded import Embedded
from tests.conftest import stepwise, waltz
from trainer import data, model, recipe, run_folder
from trainer.evaluation import likelihood
from trainer.export import saved_model, signatures
from trainer.fit import loop
from trainer.model import heads
from trainer.recipe import RecipeError, Stack

KNOWN = [
    "three_heads",
    "chords",
]  # between them the heads, inputs and encodings of all four; the others train at the end


def small(name: str) -> recipe.Recipe:
    """Make a recipe small enough to train in a test, for any composer and with every symbol."""
    full = recipe.load(name)
    core = replace(full.core, units=(24,) * len(full.core.units), dense=(16,) * len(full.core.dense))
    short = replace(full.training, batch=4, steps=8, epochs=3, rate=5e-3, keep=1, validation=8, window=25)
    encoding = full.encoding if isinstance(full.encoding, NoteRows) else replace(full.encoding, min_count=1)
    return replace(full, core=core, training=short, encoding=encoding, select="")


@pytest.fixture(scope="module", params=KNOWN)
def trained(request, tiny_dataset, tmp_path_factory):
    """Train for a short time: (recipe, run's folder, log)."""
    run, log = str(tmp_path_factory.mktemp(request.param)), io.StringIO()
    loop.fit(small(request.param), Dataset.open(tiny_dataset), run, log=log)
    return small(request.param), run, log.getvalue()


def rows_of(card: Card, *seeds: int) -> np.ndarray:
    """Encode whole waltzes side by side, filled up with PAD: int32 [n, 64, F]."""
    pieces = [card.encoding.encode(waltz(seed, bars=5), begin=True, end=True)[:64] for seed in seeds]
    rows = np.zeros((len(pieces), 64, pieces[0].shape[1]), "i4")
    for lane, piece in enumerate(pieces):
        rows[lane, : len(piece)] = piece
    return rows


@pytest.mark.slow
def test_it_trains_and_says_how(trained):
    _, run, log = trained
    trained_model, card = run_folder.load(run)
    unit = Card.parse(json.dumps(card)).encoding.unit
    assert f"nats a {unit}" in log and "epoch 3/3" in log
    assert np.isfinite(card["metrics"]["val_loss"])
    assert trained_model.count_params() == card["parameters"]


@pytest.mark.slow
def test_window_and_single_rows_agree(trained):
    trained_model, card = run_folder.load(trained[1])
    rows = rows_of(Card.parse(json.dumps(card)), 1, 2)
    at_once = np.asarray(trained_model(rows))
    np.testing.assert_allclose(stepwise(trained_model, rows), at_once, atol=1e-4)
    first = rows[:, :, 0]
    assert not at_once[(first == PAD) | (first == BEGIN)].any() and not at_once[first == END][:, 1:].any()
    assert (at_once[first == END][:, 0] > 0).all()


@pytest.mark.slow
def test_steps_are_generate_alone_and_among_others(trained):
    live = signatures.Live(*run_folder.load(trained[1]))
    card = Generator(live).describe()[0]
    columns = len(card.encoding.names)
    noise = np.random.default_rng(3).random((3, 32, columns), "f4")
    how = {name: np.full(3, value, "f4") for name, value in (("temperature", 1), ("top_p", 0.9), ("min_p", 0.01))}
    prefix = {"rows": rows_of(card, 1, 2, 3), "length": np.array([60, 5, 0], "i4"), **card.empty_state(3)}
    state = live.call("prime", prefix).outputs
    chunk = live.call("generate", {"noise": noise, "count": np.full(3, 32, "i4"), **how, **state}).outputs
    for t in range(32):
        out = live.call("step", {"noise": noise[:, t], **how, **state}).outputs
        np.testing.assert_array_equal(out.pop("row"), chunk["rows"][:, t])
        state = out
    alone = {name: value[:1] for name, value in live.call("prime", prefix).outputs.items()}
    request = {"noise": noise[:1], "count": np.full(1, 32, "i4"), **{k: v[:1] for k, v in how.items()}, **alone}
    np.testing.assert_array_equal(live.call("generate", request).outputs["rows"][0], chunk["rows"][0])
    assert not np.isin(chunk["rows"], [PAD, BEGIN]).any()
    assert (chunk["rows"] < np.array(card.encoding.sizes)).all()


@pytest.mark.slow
def test_exported_it_continues_a_seed_and_begins_a_piece(trained, tmp_path):
    trained_model, card = run_folder.load(trained[1])
    folder = saved_model.publish(trained_model, card, str(tmp_path))
    generator = Generator(Loaded(folder))
    parsed = generator.describe()[0]
    assert parsed.encoding == Card.parse(json.dumps(card)).encoding  # the vocabulary travels with it
    seed = waltz(3, bars=4)
    chunks = list(generator.stream(seed, Settings(notes=40, random_seed=5)))
    new = np.concatenate([chunk.notes for chunk in chunks])
    assert 0 < len(new) <= 40 and (new["start"] >= seed["start"].max()).all() and (new["end"] > new["start"]).all()
    again = list(Generator(Loaded(folder), chunk=1).stream(seed, Settings(notes=40, random_seed=5)))
    np.testing.assert_array_equal(np.concatenate([chunk.notes for chunk in again]), new)
    fresh = np.concatenate([c.notes for c in generator.stream(nt.empty(), Settings(notes=10, random_seed=1))])
    assert not len(fresh) or 0 <= fresh["start"][0] < 11
    assert len(midi.read(midi.write(new))) == len(new)

    client = create_app(backend=Embedded(str(tmp_path))).test_client()  # and it is served like any other
    reply = client.post("/generate?notes=20&random_seed=3", data=midi.write(seed), content_type="audio/midi")
    assert reply.status_code == 200 and reply.headers["X-Model"] == f"{trained[0].name}/1"
    described = client.get("/model").get_json()["card"]["encoding"]
    assert described == json.loads(json.dumps(parsed.encoding.config()))


@pytest.mark.slow
def test_its_score_is_the_mean_over_whole_pieces(trained, tiny_dataset):
    trained_model, card = run_folder.load(trained[1])
    parsed = Card.parse(json.dumps(card))
    corpus = data.Corpus(Dataset.open(tiny_dataset), "validation", parsed.encoding)
    score = likelihood.evaluate(signatures.Live(trained_model, card), parsed, corpus)
    encoded = [likelihood.encode(parsed.encoding, corpus, piece) for piece in range(len(corpus.index))]
    total = sum(float(np.asarray(trained_model(rows[None])).sum(dtype="f8")) for rows in encoded)
    assert score.rows == sum(len(rows) - 2 for rows in encoded)
    assert score.nats == pytest.approx(total / score.rows, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_hot", "bach"])
def test_the_other_recipes_train_and_play(name, tiny_dataset, tmp_path):
    loop.fit(small(name), Dataset.open(tiny_dataset), str(tmp_path), log=io.StringIO())
    assert all(len(midi.read((tmp_path / "samples" / f"{n}.mid").read_bytes())) <= 200 for n in (1, 2))
    assert (tmp_path / "loss.png").exists() and Card.parse((tmp_path / "card.json").read_text()).name == name


def test_a_selection_of_nothing_names_the_composers(tiny_dataset, tmp_path):
    with pytest.raises(RecordError, match=r"leaves no train piece .*; composers: "):
        loop.fit(replace(small("bach"), select="composer=Nobody"), Dataset.open(tiny_dataset), str(tmp_path))


def test_a_stack_may_hear_embeddings():
    """The one input that no recipe uses: window and single rows agree there too."""
    encoding = small("one_hot").encoding
    card = recipe.to_card(replace(small("one_hot"), core=Stack((8,), (), 0.0, "embedding")))
    stack = model.build(card)
    rows = np.stack([encoding.encode(waltz(seed, bars=5), begin=True, end=True)[:30] for seed in (1, 2)])
    np.testing.assert_allclose(stepwise(stack, rows), np.asarray(stack(rows)), atol=1e-4)


# --- heads ---------------------------------------------------------------------------------------------------------


def test_a_regressions_mass_is_the_truncated_normal_distributions():
    """Against the error function in double precision, and summed over all cells it is one."""
    from math import erf, log, sqrt

    def plain(seconds, mean, sigma):
        cell = round(seconds / CELL)
        low, high = max(cell - 0.5, 0) * CELL, (cell + 0.5) * CELL
        below = [0.5 * (1 + erf((edge - mean) / sigma / sqrt(2))) for edge in (0, low, high)]
        return log((below[2] - below[1]) / (1 - below[0]))

    for mean in (0.0, 0.1, 1.3):
        for sigma in (0.005, 0.02, 0.2, 2.0):
            cells = np.arange(2000, dtype="f4") * np.float32(CELL)
            args = (cells, np.full(2000, mean, "f4"), np.float32(sigma))
            actual = np.asarray(heads.log_mass(*args), "f8")
            assert np.exp(actual).sum() == pytest.approx(1, abs=1e-3)
            near = np.abs(cells - mean) < 4 * sigma
            expected = [plain(float(s), mean, sigma) for s in cells[near]]
            np.testing.assert_allclose(actual[near], expected, atol=2e-3)
    assert np.isfinite(np.asarray(heads.log_mass(np.float32([10.0]), np.float32([0.0]), np.float32(0.02)))).all()


def test_a_regression_learns_the_mean_and_the_spread_and_feels_the_pressure():
    encoding = NoteRows(Column("pitch", 60, 61, 2), Column("step", 0, 1, 1001))
    head = heads.build({"kind": "regression", "weights": [0.0, 1.0], "pressure": 10.0}, encoding)
    head.build((None, None, 1))
    hidden = np.ones((1, 2, 1), "f4")
    rows = np.array([[[FIRST, FIRST + 200], [FIRST, FIRST + 400]]], "i4")  # steps of 0.2 and 0.4 s
    head.value.kernel.assign([[-0.5]])
    losses = np.asarray(head.loss(hidden, rows, {}))
    np.testing.assert_allclose(losses[0, :, 1], [0.7**2 + 10 * 0.5, 0.9**2 + 10 * 0.5], rtol=1e-5)
    head.value.kernel.assign([[0.3]])
    head.follow = 0.5
    for _ in range(30):
        head.loss(hidden, rows, {})
    assert np.asarray(head.sigma) == pytest.approx([0.1], rel=1e-3)
    head.score.kernel.assign(np.zeros((1, 5)))  # END, 60 and 61 are equally likely: 0.5 draws 60
    drawn = head.draw(hidden[:, 0], np.full((1, 2), 0.5, "f4"), {}, *(np.ones(1, "f4") for _ in range(2)), np.zeros(1))
    assert np.asarray(drawn)[0, 1] == FIRST + 300


def test_heads_that_cannot_be_are_refused():
    fine = NoteRows(Column("pitch", 60, 61, 2), Column("step", 0, 1, 1001))
    with pytest.raises(RecipeError, match="step: expected bins of 10 ms or more"):
        heads.build({"kind": "independent"}, fine)
    with pytest.raises(RecipeError, match="expected one for each of"):
        heads.build({"kind": "regression", "weights": [1.0], "pressure": 1.0}, fine)
    logarithmic = NoteRows(Column("pitch", 60, 61, 2), Column("step", 0.01, 1, 30, "log"))
    with pytest.raises(RecipeError, match="expected linear times"):
        heads.build({"kind": "regression", "weights": [1.0, 1.0], "pressure": 1.0}, logarithmic)
    with pytest.raises(RecipeError, match=r"stack\.input"):
        Stack(input="midi")
    with pytest.raises(RecipeError, match="input 'values'"):
        card = recipe.to_card(replace(small("bach"), core=Stack(input="values")))
        model.build(card | {"encoding": card["encoding"] | {"vocabulary": ["C4"]}})
    with pytest.raises(RecipeError, match="heads regression: expected an encoding of notes"):
        heads.build({"kind": "regression", "weights": [1.0], "pressure": 1.0}, small("bach").encoding)


# --- the bigram ----------------------------------------------------------------------------------------------------


class Pieces:
    """A corpus of these pieces."""

    def __init__(self, *pieces: nt.Notes):
        self.pieces = pieces
        self.index, self.sizes = [(0, k) for k in range(len(pieces))], np.array([len(piece) for piece in pieces])

    def notes(self, piece):
        return self.pieces[piece]


def tune(*pitches: int) -> nt.Notes:
    return nt.from_tuples([(0.5 * k, 0.5 * k + 0.5, pitch) for k, pitch in enumerate(pitches)])


def test_the_bigram_by_hand():
    """Witten and Bell with three pitches and END: of BEGIN 60 62 60 62 END."""
    encoding = NoteRows(Column("pitch", 60, 62, 3))
    score = likelihood.bigram(encoding, Pieces(tune(60, 62, 60, 62)), Pieces(tune(60, 61)))
    # unigram: 60 twice, 62 twice, END once: 5 events of 3 kinds, and 3 kinds' worth for the four classes alike
    p60, p61, end = (2 + 3 / 4) / 8, (0 + 3 / 4) / 8, (1 + 3 / 4) / 8
    expected = [(1 + p60) / 2, p61 / (2 + 1), end]  # 60 after BEGIN, 61 after 60, END after 61, which was never seen
    assert score.columns["pitch"] == pytest.approx(-np.log(expected).sum() / 2)
    assert score.unit == "note" and score.rows == 2


def test_the_bigram_counts_cells_of_the_grid():
    """Bins of 1 ms are summed over their cell, wide ones share their probability among their cells."""
    fine = NoteRows(Column("pitch", 60, 62, 3), Column("step", 0, 1, 1001))
    coarse = NoteRows(Column("pitch", 60, 62, 3), Column("step", 0, 1, 101))
    pieces = Pieces(tune(60, 62, 60, 62)), Pieces(tune(60, 61))
    assert likelihood.bigram(fine, *pieces).columns == pytest.approx(likelihood.bigram(coarse, *pieces).columns)
    regression = likelihood.bigram(fine, *pieces, regression=True)
    assert regression.columns["pitch"] == pytest.approx(likelihood.bigram(fine, *pieces).columns["pitch"])
    assert regression.columns["step"] == pytest.approx(
        likelihood.bigram(coarse, *pieces, regression=True).columns["step"], abs=1e-4
    )


def test_a_bigram_of_constant_times_is_a_number():
    encoding = NoteRows(Column("pitch", 60, 62, 3), Column("step", 0, 1, 1001), Column("duration", 0, 1, 1001))
    pieces = Pieces(tune(60, 62, 60, 62)), Pieces(tune(60, 61))
    score = likelihood.bigram(encoding, *pieces, regression=True)
    assert np.isfinite(list(score.columns.values())).all() and score.columns["duration"] >= 0
