"""ChordSymbols: laws on symbols, and what replaces symbols that are not in the vocabulary."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from music import notes as nt
from music.encodings import chords, from_config
from music.encodings.chord_symbols import ChordSymbols
from music.encodings.columns import BEGIN, END, FIRST, Column
from music.errors import EncodingError
from tests.conftest import waltz
from tests.support import strategies
from tests.support.strategies import law

LASTS = Column("duration", 0.125, 4.0, 32)
EVERY = tuple(sorted(chords.symbol(code) for code in [*range(128), *range(129, chords.CODES)]))
KNOWS_ALL = [ChordSymbols(EVERY, duration=LASTS), ChordSymbols(EVERY, beat=0.25)]
TUNE = nt.from_tuples([(1.0, 3, 60), (1.02, 2, 64), (1.04, 2, 67), (1.5, 1.7, 72), (2.74, 3.0, 71), (2.75, 4.0, 74)])


def row_values(encoding: ChordSymbols, notes: nt.Notes) -> list:
    rows = encoding.encode(notes, begin=False, end=False)
    symbols = [encoding.vocabulary[row] for row in rows[:, 0] - FIRST]
    return (
        list(zip(symbols, encoding.duration.decode(rows[:, 1]).tolist(), strict=True)) if encoding.duration else symbols
    )


def test_a_tune_as_symbols_and_back():
    with_time, without = KNOWS_ALL
    assert row_values(with_time, TUNE) == [("0.4.7", 0.5), ("C5", 1.25), ("11.2", 1.25)]
    assert row_values(without, TUNE) == ["0.4.7", "C5", "11.2"]
    decoded = with_time.decode(with_time.encode(TUNE, begin=True, end=True), after=1.0)
    assert [tuple(note)[:3] for note in decoded] == [
        (1.0, 1.5, 60), (1.0, 1.5, 64), (1.0, 1.5, 67), (1.5, 2.75, 72), (2.75, 4.0, 71), (2.75, 4.0, 74),
    ]  # fmt: skip
    paced = without.decode(without.encode(TUNE, begin=False, end=False))
    assert sorted(set(paced["start"])) == [0.0, 0.25, 0.5] and set(paced["end"] - paced["start"]) == {0.25}


def test_begin_and_end_are_whole_rows():
    rows = KNOWS_ALL[0].encode(TUNE, begin=True, end=True)
    assert rows[0].tolist() == [BEGIN, BEGIN] and rows[-1].tolist() == [END, END] and len(rows) == 5
    assert len(KNOWS_ALL[0].encode(nt.empty(), begin=False, end=False)) == 0


@law
@given(strategies.notes(), st.sampled_from(KNOWS_ALL))
def test_symbols_decoded_are_the_symbols_encoded(notes, encoding):
    rows = encoding.encode(notes, begin=True, end=True)
    again = encoding.encode(encoding.decode(rows), begin=True, end=True)
    np.testing.assert_array_equal(again, rows)


@law
@given(strategies.notes(), st.sampled_from(KNOWS_ALL))
def test_played_twice_is_written_once_and_rows_are_events(notes, encoding):
    supported = encoding.supported_notes(notes)
    np.testing.assert_array_equal(encoding.supported_notes(supported), supported)
    assert len(encoding.encode(notes, begin=False, end=False)) == len(encoding.events(supported)) - 1
    assert sorted(supported["pitch"]) == sorted(notes["pitch"])


@law
@given(strategies.notes(), st.integers(0, 30), st.sampled_from(KNOWS_ALL))
def test_excerpts_of_whole_groups_are_parts_of_the_piece(notes, cut, encoding):
    supported = encoding.supported_notes(notes)
    events = encoding.events(supported)
    assume(len(events) > 1)
    cut = events[cut % len(events)]
    complete = encoding.encode(supported, begin=False, end=False)
    parts = encoding.encode_many(supported, np.array([0, cut, len(supported)]), np.zeros(2))
    np.testing.assert_array_equal(parts, complete)


@law
@given(strategies.notes(), st.integers(1, 30), st.sampled_from(KNOWS_ALL))
def test_decoding_in_parts_gives_the_same_notes(notes, cut, encoding):
    rows = encoding.encode(notes, begin=False, end=False)
    complete = encoding.decode(rows, after=3.0)
    first = encoding.decode(rows[:cut], after=3.0)
    rest = encoding.decode(rows[cut:], after=encoding.clock(first, 3.0))
    np.testing.assert_array_equal(np.concatenate([first, rest]), complete)


def test_the_clock_after_a_seed_is_where_its_last_group_ends_as_decoded():
    with_time, without = KNOWS_ALL
    supported = with_time.supported_notes(TUNE)
    assert with_time.clock(supported, 0.0) == pytest.approx(2.74 + 1.25)
    assert without.clock(supported, 0.0) == pytest.approx(2.74 + 0.25)
    assert with_time.clock(nt.empty(), 7.0) == 7.0


def test_the_vocabulary_is_what_is_frequent_enough_in_order():
    pieces = [waltz(seed) for seed in range(3)]
    every = ChordSymbols().fit(pieces).vocabulary
    frequent = ChordSymbols(min_count=20).fit(pieces).vocabulary
    assert list(every) == sorted(every) and set(frequent) < set(every) and "0.4.7" in every
    counts = {symbol: 0 for symbol in every}
    for piece in pieces:
        for symbol in row_values(ChordSymbols(every), piece):
            counts[symbol] += 1
    assert set(frequent) == {symbol for symbol, count in counts.items() if count >= 20}
    with pytest.raises(EncodingError, match="no symbol is there 100000 times; the most frequent one is there"):
        ChordSymbols(min_count=100_000).fit(pieces)


@pytest.mark.parametrize(
    ("unknown", "taken_for"),
    [
        ([60, 64, 67, 70], "0.4.7"),  # one pitch class too many
        ([48, 64, 79], "0.4.7"),  # known: octaves do not matter
        ([61, 65, 68, 72], "0.4.7"),  # five classes apart from both, so the first of them; never a note
        ([73], "C5"),  # a note for a note, in height the nearest
        ([49], "G3"),
        ([84], "C5"),  # the same class
        ([55], "G3"),
        ([57, 60, 64], "9.0.4"),
    ],
)
def test_an_unknown_symbol_is_taken_for_the_nearest(unknown, taken_for):
    encoding = ChordSymbols(("0.4.7", "9.0.4", "C4", "C5", "G3"))
    assert row_values(encoding, nt.from_tuples([(0, 1, pitch) for pitch in unknown])) == [taken_for]


def test_drums_are_left_out_and_nothing_but_drums_is_an_error():
    drums = nt.from_tuples([(0.0, 1, 36, 80, nt.DRUMS), (0.2, 1, 38, 80, nt.DRUMS)])
    both = nt.sort(np.concatenate([drums, TUNE]))
    assert row_values(KNOWS_ALL[0], both) == row_values(KNOWS_ALL[0], TUNE)
    with pytest.raises(EncodingError, match="all 2 notes are drums"):
        KNOWS_ALL[0].encode(drums, begin=True, end=False)


def test_it_travels_in_a_card():
    for encoding in (ChordSymbols(("0.4.7", "C4"), 3, 0.03, LASTS), ChordSymbols(("C4",), beat=1.0)):
        config = json.loads(json.dumps(encoding.config()))
        assert from_config(config | {"some new key": 1}) == encoding


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocabulary": ["C4", "C4"]},
        {"vocabulary": ["C4", "H4"]},
        {"min_count": 0},
        {"tolerance": -1},
        {"beat": 0},
        {"beat": 0.04},  # within the tolerance
        {"vocabulary": ["0.4.7", "4.0.7"]},
        {"duration": Column("step", 0.1, 1, 10)},
        {"duration": Column("duration", 0, 1, 11)},
    ],
    ids=str,
)
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(EncodingError):
        ChordSymbols(**wrong)
    with pytest.raises(EncodingError):
        from_config({"kind": "chord_symbols"})


def test_it_must_be_fitted_before_it_encodes():
    with pytest.raises(EncodingError, match="fit the encoding"):
        ChordSymbols().encode(TUNE, begin=True, end=True)
