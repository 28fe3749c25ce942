"""Grouping and normal order, with music21 as the oracle."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import notes as nt
from music.encodings import chords
from music.errors import EncodingError
from tests.support import strategies
from tests.support.strategies import law


def test_normal_order_is_music21s_for_every_set_of_pitch_classes():
    from music21 import chord, pitch

    # of numbers it would look for the best names, for a minute
    named = [pitch.Pitch(midi=60 + each) for each in range(12)]
    for size in range(1, 13):
        for classes in itertools.combinations(range(12), size):
            expected = chord.Chord([named[each] for each in classes]).normalOrder
            assert chords.normal_order(classes) == tuple(expected), classes


def grouped(notes: nt.Notes, tolerance: float = 0.05) -> list[list[int]]:
    bounds = chords.group(notes, tolerance)
    return [notes["pitch"][a:b].tolist() for a, b in itertools.pairwise(bounds)]


def test_what_begins_within_the_tolerance_of_the_first_note_is_one_group():
    tune = nt.from_tuples([(0.0, 1, 60), (0.03, 1, 64), (0.05, 1, 67), (0.06, 1, 72), (0.5, 1, 60), (0.5, 1, 64)])
    assert grouped(tune) == [[60, 64, 67], [72], [60, 64]]  # 0.06 is 10 ms after a member, but 60 after the first
    assert grouped(tune, 0.0) == [[60], [64], [67], [72], [60, 64]]
    assert grouped(nt.empty()) == []


@law
@given(strategies.notes(unit=0.01), st.sampled_from([0.0, 0.03, 0.05, 0.5]))
def test_groups_are_those_of_the_plain_definition(notes, tolerance):
    first = [0]
    for at in range(1, len(notes)):
        if round((notes["start"][at] - notes["start"][first[-1]]) * 1e6) > tolerance * 1e6:
            first.append(at)
    assert chords.group(notes, tolerance).tolist() == ([*first, len(notes)] if len(notes) else [0])


@law
@given(strategies.notes(max_size=12, unit=0.125))
def test_on_a_grid_groups_are_what_music21_reads_as_notes_and_chords(notes):
    """Onset by onset: the same pitches begin together, and their normal order is music21's."""
    from music21 import chord, note, stream

    score = stream.Stream()
    for one in notes:
        score.insert(float(one["start"]), note.Note(int(one["pitch"])))
    symbols = []
    for _, elements in itertools.groupby(score.flatten().notes, key=lambda element: element.offset):
        together = chord.Chord(sorted({p for element in elements for p in element.pitches}, key=lambda p: p.midi))
        alone = len({p.midi for p in together.pitches}) == 1
        symbols.append(nt.name(together.pitches[0].midi) if alone else ".".join(map(str, together.normalOrder)))
    bounds = chords.group(notes)
    assert [chords.symbol(int(code)) for code in chords.codes(notes, bounds)] == symbols


def test_every_code_has_one_symbol_and_sounds_like_it():
    symbols = {}
    for code in [*range(128), *range(129, chords.CODES)]:
        symbol = chords.symbol(code)
        assert symbols.setdefault(symbol, code) == code and chords.code(symbol) == code
        played = np.array(chords.pitches(code))
        assert sorted(set(played % 12)) == chords.classes(code)
        assert code < 128 or (60 <= played[0] < 72 and (np.diff(played) > 0).all() and played[-1] - played[0] <= 12)
    assert chords.pitches(chords.code("11.2.5")) == (71, 74, 77)


@pytest.mark.parametrize("symbol", ["", "H4", "12", "0.4.", "0.-1", "c4", "0,4", "C99"])
def test_another_symbol_is_an_error_that_names_it(symbol):
    with pytest.raises(EncodingError, match=f"symbol '{symbol}': expected"):
        chords.code(symbol)
