"""The Generator against a scripted pianist: what it sends, how it reads replies, and how it retries."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import notes as nt
from music.encodings import NoteRows
from music.encodings.chord_symbols import ChordSymbols
from music.encodings.columns import BEGIN, END, FIRST, PAD, Column
from music.errors import (
    BackendError,
    DeadlineExceeded,
    EncodingError,
    Overloaded,
    RecordError,
    SettingError,
    Unavailable,
)
from music.generation import CHUNK, PRIME_BLOCK, Card, Generator, Reply, Settings
from tests.support.strategies import LINEAR, PITCH, law, notes

SMALL = NoteRows(PITCH, Column("step", 0, 2, 201))  # the encoding of another model
SEED = nt.from_tuples([(k / 4, k / 4 + 0.2, 60 + k % 12, 70) for k in range(10)])


def card(encoding):
    state = {"row": {"shape": [len(encoding.names)], "dtype": "int32"}, "history": {"shape": [2], "dtype": "float32"}}
    return {"schema": 1, "recipe": "pianist", "encoding": encoding.config(), "state": state}


class Pianist:
    """A Backend whose next row depends on the noise and on all rows so far; it also records every call.

    Its state: the pending row, the number of rows so far and the sum of their ids. So a row that is lost, doubled or
    changed on the way changes the rest of the piece.

    Args:
        last: after how many rows (BEGIN and the seed's included) it ends the piece.
        fails: {number of the call: the error that it raises}.
    """

    def __init__(self, encoding=LINEAR, *, version=1, last=10**6, fails=()):
        self.encoding, self.version, self.last, self.fails = encoding, version, last, dict(fails)
        self.calls = []
        self.spoil = lambda signature, outputs: outputs
        self._state = None

    def call(self, signature, inputs, *, version=None, timeout=None):
        self.calls.append((signature, inputs, version, timeout))
        if error := self.fails.get(len(self.calls) - 1):
            raise error
        if version not in (None, self.version):
            raise Unavailable(f"version {version} is gone")
        outputs = self.spoil(signature, getattr(self, f"_{signature}")(**inputs))
        return Reply(outputs, self.version)

    def signatures(self):
        return [signature for signature, *_ in self.calls]

    def inputs(self, *signatures):
        return [inputs for signature, inputs, *_ in self.calls if signature in signatures]

    def _describe(self, batch):
        assert batch.shape == (1,)
        return {"card": np.array([json.dumps(card(self.encoding)).encode()], object)}

    def _prime(self, rows, length, state_row, state_history):
        assert rows.dtype == length.dtype == np.dtype("i4") and rows.shape == (
            1,
            PRIME_BLOCK,
            len(self.encoding.names),
        )
        self._check(state_row, state_history)
        assert (rows[0, length[0] :] == PAD).all()
        for row in rows[0, : length[0]]:
            state_row, state_history = self._read(row, state_history)
        return self._hand_out(state_row, state_history)

    def _step(self, noise, state_row, state_history, **how):
        assert noise.dtype == np.dtype("f4") and noise.shape == (1, len(self.encoding.names))
        self._check(state_row, state_history)
        state_row, state_history = self._draw(noise[0], state_row, state_history)
        return {"row": state_row} | self._hand_out(state_row, state_history)

    def _generate(self, noise, count, state_row, state_history, **how):
        assert noise.shape == (1, CHUNK, len(self.encoding.names)) and count.shape == (1,)
        self._check(state_row, state_history)
        rows = np.zeros(noise.shape, "i4")
        for k in range(count[0]):
            state_row, state_history = self._draw(noise[0, k], state_row, state_history)
            rows[0, k] = state_row[0]
        return {"rows": rows} | self._hand_out(state_row, state_history)

    def _draw(self, noise, state_row, state_history):
        if state_row[0, 0] == END:
            return state_row, state_history
        if state_history[0, 0] >= self.last:
            return self._read(np.full(len(noise), END, "i4"), state_history)
        shift = (state_history[0, 1] * 0.618) % 1  # the same noise after other music makes another note
        limits = np.minimum(np.array(self.encoding.sizes) - FIRST, 60)
        return self._read(FIRST + ((noise + shift) % 1 * limits).astype("i4"), state_history)

    @staticmethod
    def _read(row, state_history):
        return row[None], state_history + np.array([[1, row.sum()]], "f4")

    def _hand_out(self, state_row, state_history):
        self._state = state_row.copy(), state_history.copy()
        return {"state_row": state_row, "state_history": state_history}

    def _check(self, state_row, state_history):
        """Check that the state is the one of the last reply, or the empty one."""
        assert (state_row.dtype, state_history.dtype) == (np.dtype("i4"), np.dtype("f4"))
        if state_row.any() or state_history.any():
            assert state_row.tolist() == self._state[0].tolist() and state_history.tolist() == self._state[1].tolist()


def play(backend, seed=SEED, *, chunk=CHUNK, **settings):
    """Draw a continuation; return all its notes, and the chunks in which they came."""
    chunks = list(Generator(backend, chunk=chunk).stream(seed, Settings(**{"random_seed": 1} | settings)))
    return np.concatenate([chunk.notes for chunk in chunks]), chunks


# --- the seed ----------------------------------------------------------------------------------------------------


def test_a_seed_is_primed_in_blocks_of_64_rows():
    pianist = Pianist()
    seed = nt.from_columns(np.arange(150) / 8, np.arange(150) / 8 + 0.1, 30 + np.arange(150) % 70, 64)
    play(pianist, seed, notes=1)
    blocks = pianist.inputs("prime")
    assert [int(block["length"][0]) for block in blocks] == [64, 64, 23]
    rows = np.concatenate([block["rows"][0, : block["length"][0]] for block in blocks])
    assert rows.tolist() == LINEAR.encode(seed, begin=True, end=False).tolist()


def test_a_new_piece_is_primed_with_its_beginning():
    pianist = Pianist()
    continuation, _ = play(pianist, nt.empty(), notes=3)
    (block,) = pianist.inputs("prime")
    assert block["length"].tolist() == [1] and (block["rows"][0, 0] == BEGIN).all()
    assert not block["state_row"].any() and not block["state_history"].any()
    (first, *_) = pianist.inputs("step")
    assert (first["state_row"] == BEGIN).all()
    assert len(continuation) == 3 and continuation["start"][0] >= 0


def test_the_continuation_begins_at_the_seeds_last_onset():
    pianist = Pianist()
    seed = nt.from_tuples([(3.003, 3.5, 60), (5.017, 9.0, 64), (5.017, 9.0, 67)])
    continuation, _ = play(pianist, seed, notes=2)
    steps = LINEAR.column("step").decode(LINEAR.encode(continuation, begin=False, end=False, after=5.017)[:, 0])
    assert continuation["start"] == pytest.approx(5.017 + np.cumsum(steps), abs=1e-9)


@pytest.mark.parametrize("encoding", [LINEAR, NoteRows(PITCH, Column("step", 0, 2, 201))])
def test_the_continuation_begins_behind_the_last_note_of_all_drums_included(encoding):
    seed = nt.from_tuples([(0, 1, 60), (1, 2, 64), (1.5, 1.6, 36, 80, nt.DRUMS), (30, 30.1, 36, 80, nt.DRUMS)])
    continuation, _ = play(Pianist(encoding), seed, notes=5)
    alone, _ = play(Pianist(encoding), seed[seed["program"] == 0], notes=5)
    assert (continuation["start"] >= 30).all()
    assert continuation["start"] - 30 == pytest.approx(alone["start"] - 1)  # the model reads no drums


def test_after_a_silence_that_the_model_cannot_express_it_goes_on_where_the_seed_is():
    continuation, _ = play(Pianist(), nt.from_tuples([(0, 1, 60), (100.0, 101, 62)]), notes=1)
    assert continuation["start"][0] >= 100


def test_a_seed_of_which_the_model_can_express_nothing_is_an_error_before_it_reads_any_of_it():
    pianist = Pianist()
    with pytest.raises(EncodingError, match="2 of 2 notes have a pitch outside 21-108"):
        play(pianist, nt.from_tuples([(0, 1, 120), (1, 2, 12)]))
    assert pianist.signatures() == ["describe"]


def test_stray_notes_are_not_read_and_counted():
    keyswitches = nt.from_tuples([(0, 0.1, 0), (2, 2.1, 1), (2.3, 2.4, 127), (2.3, 2.4, 36, 80, nt.DRUMS)])
    plain, stray = Pianist(), Pianist()
    alone, _ = play(plain, nt.shift(SEED, 0.5), notes=40)
    continuation, chunks = play(stray, nt.sort(np.concatenate([keyswitches, nt.shift(SEED, 0.5)])), notes=40)
    assert {chunk.unread for chunk in chunks} == {4}
    assert [block["rows"].tolist() for block in stray.inputs("prime")] == [
        block["rows"].tolist() for block in plain.inputs("prime")
    ]
    assert continuation.tolist() == alone.tolist()


# --- notes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, CHUNK])
def test_the_piece_is_the_same_however_it_is_cut(chunk):
    pianist = Pianist()
    continuation, chunks = play(pianist, chunk=chunk, notes=100)
    drawn = pianist.inputs("step", "generate")
    noise = [inputs["noise"].reshape(-1, 4)[: inputs.get("count", [1])[0]] for inputs in drawn]
    assert np.concatenate(noise).tolist() == np.random.default_rng(1).random((100, 4), "f4").tolist()
    assert continuation.tolist() == play(Pianist(), notes=100)[0].tolist()  # the same floats, not nearly the same
    assert [chunk.ended for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_chunk_1_is_strictly_one_step_a_note():
    pianist = Pianist()
    _, chunks = play(pianist, chunk=1, notes=40)
    assert pianist.signatures() == ["describe", "prime"] + ["step"] * 40
    assert [len(chunk.notes) for chunk in chunks] == [1] * 40


def test_chunks_begin_with_two_steps_for_a_quick_first_note():
    pianist = Pianist()
    _, chunks = play(pianist, notes=40)
    assert pianist.signatures() == ["describe", "prime", "step", "step", "generate", "generate"]
    assert [len(chunk.notes) for chunk in chunks] == [1, 1, 32, 6]


def test_nothing_is_asked_before_it_is_wanted():
    pianist = Pianist()
    stream = Generator(pianist).stream(SEED, Settings(notes=40, random_seed=1))
    assert pianist.calls == []
    next(stream)
    assert pianist.signatures() == ["describe", "prime", "step"]


@pytest.mark.parametrize("chunk", [1, 5, CHUNK])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 20, 34])
def test_a_piece_that_ends_by_itself_ends_there(chunk, rows):
    pianist = Pianist(last=11 + rows)  # BEGIN, ten notes of the seed, and so many more
    continuation, chunks = play(pianist, chunk=chunk, notes=100)
    assert len(continuation) == rows
    assert [chunk.ended for chunk in chunks] == [None] * (len(chunks) - 1) + ["final"]
    assert continuation.tolist() == play(Pianist(), notes=100)[0][:rows].tolist()


def test_temperature_and_its_kind_go_with_every_draw():
    pianist = Pianist()
    play(pianist, notes=40, temperature=0.7, top_p=0.9, min_p=0.05)
    for inputs in pianist.inputs("step", "generate"):
        for name, value in {"temperature": 0.7, "top_p": 0.9, "min_p": 0.05}.items():
            assert inputs[name].dtype == np.dtype("f4") and inputs[name].tolist() == [np.float32(value)]


def test_a_random_seed_makes_the_piece_again_and_another_one_another_piece():
    assert play(Pianist(), random_seed=5)[0].tolist() == play(Pianist(), random_seed=5)[0].tolist()
    assert play(Pianist(), random_seed=5)[0].tolist() != play(Pianist(), random_seed=6)[0].tolist()
    assert play(Pianist(), random_seed=None)[0].tolist() != play(Pianist(), random_seed=None)[0].tolist()


def test_the_version_that_answered_first_is_asked_for_in_every_later_call():
    pianist = Pianist(version=7)
    _, chunks = play(pianist, notes=40)
    assert [version for _, _, version, _ in pianist.calls] == [None] + [7] * 5
    assert {chunk.model for chunk in chunks} == {"pianist/7"}


def test_every_call_has_the_timeout():
    pianist = Pianist()
    list(Generator(pianist, timeout=2.5).stream(SEED, Settings(notes=3)))
    assert {timeout for *_, timeout in pianist.calls} == {2.5}


@pytest.mark.parametrize("chunk", [0, -1, CHUNK + 1])
def test_a_chunk_is_1_to_32_notes(chunk):
    with pytest.raises(ValueError, match="expected 1 to 32"):
        Generator(Pianist(), chunk=chunk)


# --- trouble -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, CHUNK])
def test_a_server_that_is_gone_for_one_call_loses_nothing_whichever_call_it_is(chunk):
    unbroken = Pianist()
    expected, _ = play(unbroken, chunk=chunk, notes=40)
    for number, signature in enumerate(unbroken.signatures()):
        pianist = Pianist(fails={number: Unavailable("restarting")})
        continuation, chunks = play(pianist, chunk=chunk, notes=40)
        assert continuation.tolist() == expected.tolist()
        assert chunks[-1].ended == "length"
        after = pianist.signatures()[number + 1 :]
        assert after[:2] == ["describe", "prime"], signature


@law
@given(notes(max_size=8), st.integers(3, 40))
def test_what_is_primed_again_is_what_was_made_whatever_the_seed(seed, number):
    """On any clock: the rows of the notes so far are the rows that the model drew."""
    expected, _ = play(Pianist(), seed, chunk=1, notes=40)
    continuation, _ = play(Pianist(fails={number: Unavailable("restarting")}), seed, chunk=1, notes=40)
    assert continuation.tolist() == expected.tolist()


def test_a_version_that_was_unloaded_is_followed_by_the_next_one():
    pianist = Pianist(version=1)
    stream = Generator(pianist, chunk=5).stream(SEED, Settings(notes=30, random_seed=1))
    before = [next(stream), next(stream), next(stream)]
    pianist.version, pianist.encoding = 2, SMALL  # the new version speaks another encoding
    after = list(stream)
    assert {chunk.model for chunk in before} == {"pianist/1"} and {chunk.model for chunk in after} == {"pianist/2"}
    assert sum(len(chunk.notes) for chunk in before + after) == 30
    notes_so_far = np.concatenate([SEED, *(chunk.notes for chunk in before)])
    primed = pianist.inputs("prime")[-1]
    assert (
        primed["rows"][0, : primed["length"][0]].tolist()
        == SMALL.encode(nt.sort(notes_so_far), begin=True, end=False).tolist()
    )
    assert after[0].notes["start"][0] >= before[-1].notes["start"][-1]


class Rolling(Pianist):
    """A Pianist whose version changes with calls: {number of the call: (version, encoding) from that call on}."""

    def __init__(self, changes):
        super().__init__(version=1)
        self.changes = changes

    def call(self, signature, inputs, **options):
        self.version, self.encoding = self.changes.get(len(self.calls), (self.version, self.encoding))
        return super().call(signature, inputs, **options)


NARROW = NoteRows(Column("pitch", 64, 67, 4), Column("step", 0, 2, 201))


CHORDS = ChordSymbols(("0.4.7", "9.0.4", "C4", "C5", "G3"), duration=Column("duration", 0.25, 4, 16))


@pytest.mark.parametrize("other", [SMALL, CHORDS], ids=["fewer columns", "chords"])
@pytest.mark.parametrize("first", range(1, 6))
def test_a_roll_forward_and_back_at_any_call_loses_no_note(first, other):
    """Each change comes just before a call of the version that the piece has described."""
    changes = {first: (2, other), first + 2: (1, LINEAR), first + 4: (2, other), first + 6: (1, LINEAR)}
    continuation, chunks = play(Rolling(changes), notes=40, chunk=5)
    assert len(continuation) == 40 and chunks[-1].ended == "length"
    assert (np.diff(continuation["start"]) >= 0).all()


def test_versions_that_come_and_go_without_end_are_an_error():
    pianist = Rolling({number: (number, LINEAR) for number in range(3, 1000)})
    with pytest.raises(Unavailable, match="is gone"):
        play(pianist, notes=40)
    assert len(pianist.calls) < 100


def test_a_version_that_cannot_express_the_notes_so_far_goes_on_without_those():
    seed = nt.from_tuples([(k / 4, k / 4 + 0.2, pitch, 70) for k, pitch in enumerate([60, 64, 65, 72])])
    pianist = Rolling({3: (2, NARROW)})
    continuation, chunks = play(pianist, seed, notes=10, chunk=1)
    assert [chunk.model for chunk in chunks] == ["pianist/1"] + ["pianist/2"] * 9 and len(continuation) == 10
    assert chunks[0].unread == 0 and chunks[-1].unread in (2, 3)  # of the seed, and perhaps what was drawn
    primed = pianist.inputs("prime")[-1]
    notes_so_far = np.concatenate([seed, continuation[:1]])
    notes_so_far = notes_so_far[(notes_so_far["pitch"] >= 64) & (notes_so_far["pitch"] <= 67)]
    rows = NARROW.encode(notes_so_far, begin=True, end=False)
    assert primed["rows"][0, : primed["length"][0]].tolist() == rows.tolist()
    assert (np.diff(np.append(0.75, continuation["start"])) >= 0).all()  # the seed's last onset, which was left out


def test_a_seed_that_the_new_version_cannot_express_is_refused_while_nothing_is_made():
    low = nt.from_tuples([(0, 1, 60), (1, 2, 62)])
    with pytest.raises(EncodingError, match="outside 64-67"):
        play(Rolling({2: (2, NARROW)}), low)


def test_a_version_is_described_once_and_its_card_kept():
    pianist = Pianist()
    generator = Generator(pianist)
    first, version = generator.describe()
    assert generator.describe() == (first, version) == (first, 1)
    assert generator.describe()[0] is first
    pianist.version, pianist.encoding = 2, SMALL
    card, version = generator.describe()
    assert (card.encoding, version) == (SMALL, 2)


def test_a_server_that_was_restarted_may_have_another_model_of_the_same_number():
    pianist = Pianist()
    generator = Generator(pianist)
    assert generator.describe()[0].encoding == LINEAR
    pianist.encoding = SMALL
    assert generator.describe()[0].encoding == SMALL


@pytest.mark.parametrize("first", [0, 1, 2, 4])
def test_a_server_that_is_gone_twice_is_an_error(first):
    """Describe, prime, a step or generate fails, and so does the next call, or the one after priming again."""
    retried = {0: [1], 1: [2, 3], 2: [3, 4, 5], 4: [7]}[first]
    pianist = Pianist(fails={number: Unavailable("down") for number in [first, *retried]})
    with pytest.raises(Unavailable, match="down"):
        play(pianist, notes=40)


@pytest.mark.parametrize("error", [Overloaded("busy"), DeadlineExceeded("late"), BackendError("broken")])
@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_other_errors_are_not_tried_again(error, number):
    pianist = Pianist(fails={number: error})
    with pytest.raises(type(error)):
        play(pianist, notes=40)
    assert len(pianist.calls) == number + 1


SPOILED = {
    "no card": ("describe", "card", None),
    "two cards": ("describe", "card", np.array([b"{}", b"{}"], object)),
    "no state": ("prime", "state_history", None),
    "state of another shape": ("prime", "state_history", np.zeros((1, 3), "f4")),
    "state of another batch": ("step", "state_row", np.zeros((2, 4), "i4")),
    "state of another type": ("prime", "state_history", np.zeros((1, 2), "f8")),
    "state that is no number": ("prime", "state_history", np.full((1, 2), np.nan, "f4")),
    "endless state": ("generate", "state_history", np.full((1, 2), np.inf, "f4")),
    "no row": ("step", "row", None),
    "a row of fractions": ("step", "row", np.full((1, 4), FIRST, "f4")),
    "a row of three columns": ("step", "row", np.full((1, 3), FIRST, "i4")),
    "a row without its batch": ("step", "row", np.full(4, FIRST, "i4")),
    "31 rows": ("generate", "rows", np.full((1, 31, 4), FIRST, "i4")),
    "five columns": ("generate", "rows", np.full((1, 32, 5), FIRST, "i4")),
    "PAD drawn": ("step", "row", np.full((1, 4), PAD, "i4")),
    "BEGIN drawn": ("generate", "rows", np.full((1, 32, 4), BEGIN, "i4")),
    "a class beyond the last": ("step", "row", np.full((1, 4), 10**6, "i4")),
}


@pytest.mark.parametrize(("signature", "name", "value"), SPOILED.values(), ids=SPOILED)
def test_a_reply_that_breaks_the_contract_is_an_error(signature, name, value):
    pianist = Pianist()

    def spoil(called, outputs):
        if called != signature:
            return outputs
        return {key: array for key, array in outputs.items() if key != name} | ({} if value is None else {name: value})

    pianist.spoil = spoil
    with pytest.raises(BackendError, match=name if value is None else "the model's reply"):
        play(pianist, notes=40)


def test_a_reply_of_another_version_than_was_asked_is_an_error():
    pianist = Pianist()
    version = pianist.call("describe", {"batch": np.zeros(1, "i4")}).version

    class Confused:
        def call(self, signature, inputs, *, version=None, timeout=None):
            reply = pianist.call(signature, inputs, version=version, timeout=timeout)
            return reply._replace(version=reply.version + (signature == "generate"))

    pianist_alone = play(pianist, notes=40)
    assert len(pianist_alone)
    with pytest.raises(BackendError, match=f"asked version {version}, version {version + 1} answered"):
        play(Confused(), notes=40)


# --- cards -------------------------------------------------------------------------------------------------------


def test_a_card_tells_the_name_the_encoding_and_the_empty_state():
    parsed = Card.parse(json.dumps(card(LINEAR) | {"mood": "cheerful"}))
    assert (parsed.name, parsed.encoding) == ("pianist", LINEAR)
    state = parsed.empty_state(batch=3)
    assert {name: (array.shape, str(array.dtype)) for name, array in state.items()} == {
        "state_row": ((3, 4), "int32"),
        "state_history": ((3, 2), "float32"),
    }
    assert not any(array.any() for array in state.values())


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff", b"{}", json.dumps(card(LINEAR) | {"encoding": 7})]
)
def test_a_damaged_card_is_an_error(text):
    with pytest.raises(RecordError):
        Card.parse(text)


@pytest.mark.parametrize(
    "name, value",
    [
        ("notes", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", 1),
        ("min_p", float("nan")),
        ("random_seed", -1),
        ("random_seed", 2**32),
    ],
)
def test_a_setting_outside_its_range_is_named(name, value):
    with pytest.raises(SettingError, match=f"^{name}: expected "):
        Settings(**{name: value})


@pytest.mark.parametrize("missing", ["schema", "recipe", "encoding", "state"])
def test_a_card_that_lacks_something_is_an_error(missing):
    facts = {key: value for key, value in card(LINEAR).items() if key != missing}
    with pytest.raises(RecordError, match=f"damaged: KeyError\\('{missing}'"):
        Card.parse(json.dumps(facts))


def test_a_card_of_the_future_is_an_error():
    with pytest.raises(RecordError, match="schema 2; this version reads up to 1"):
        Card.parse(json.dumps(card(LINEAR) | {"schema": 2}))
