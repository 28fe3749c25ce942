"""The laws of the encodings (section 11 of the design), and a few bars of music by hand."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from music import notes as nt
from music.encodings import NoteRows, from_config
from music.encodings.columns import BEGIN, CELL, END, FIRST, PAD, Column
from music.errors import EncodingError
from tests.support.strategies import COARSE, ENCODINGS, HIGHEST, LINEAR, LOG, LOWEST, PITCH, TIME, encodings, law, notes


def first_onset(music):
    return float(music["start"][0]) if len(music) else 0.0


def round_trip(encoding, music):
    return encoding.decode(encoding.encode(music, begin=True, end=True), after=first_onset(music))


def half_bin(column, ids):
    """Compute how far a time may be from its encoded value, seconds, one for each id.

    Half the distance to the farther neighbour; and where that is wider than the grid, half a cell of the grid too,
    since times are rounded to the grid first.
    """
    gaps = np.diff(column.values)
    wider = np.maximum(np.append(gaps[0], gaps), np.append(gaps, gaps[-1]))[ids - FIRST]
    return wider / 2 + np.where(wider > column.resolution * (1 + 1e-9), column.resolution / 2, 0) + 1e-9


# --- music by hand -----------------------------------------------------------------------------------------------


def test_a_broken_chord_in_rows():
    encoding = NoteRows(PITCH, Column("step", 0, 1, 101), Column("velocity", 0, 120, 4), Column("duration", 0, 1, 11))
    chord = nt.from_tuples([(3.0, 3.5, 60, 41), (3.25, 3.5, 64, 79), (3.5, 4.0, 67, 120)])
    assert encoding.encode(chord, begin=True, end=True).tolist() == [
        [BEGIN] * 4,
        [FIRST + 39, FIRST + 0, FIRST + 1, FIRST + 5],
        [FIRST + 43, FIRST + 25, FIRST + 2, FIRST + 3],  # 0.25 s before half past three: the upper of two as near
        [FIRST + 46, FIRST + 25, FIRST + 3, FIRST + 5],
        [END] * 4,
    ]
    assert encoding.sizes == (91, 104, 7, 14)


def test_the_silence_before_a_piece_is_dropped_and_the_one_before_a_window_is_not():
    late = nt.from_tuples([(7.0, 7.5, 60)])
    assert TIME.encode(late, begin=True, end=False)[1, 1] == FIRST
    window = TIME.encode(late, begin=False, end=False, after=6.5)
    assert TIME.column("step").decode(window[:, 1]) == pytest.approx([0.5])


def test_rows_that_are_no_notes_decode_to_nothing():
    rows = [[mark] * len(TIME.sizes) for mark in (PAD, BEGIN, END)]
    assert len(TIME.decode(rows)) == 0
    assert len(TIME.decode(np.zeros((0, 4), "i4"))) == 0


def test_a_piece_without_notes_begins_and_ends():
    assert TIME.encode(nt.empty(), begin=True, end=True).tolist() == [[BEGIN] * 4, [END] * 4]


def test_absent_columns_have_their_defaults():
    encoding = NoteRows(PITCH, Column("step", 0, 10, 1001))
    tune = nt.from_tuples([(0.0, 3.0, 60, 100, 40), (0.25, 0.3, 62), (1.0, 9.0, 64)])
    assert round_trip(encoding, tune).tolist() == [(0, 0.25, 60, 80, 0), (0.25, 0.5, 62, 80, 0), (1, 1.25, 64, 80, 0)]
    slow = NoteRows(PITCH, beat=0.5)  # nor a step: one note after the other
    assert round_trip(slow, tune).tolist() == [
        (0.5 * k, 0.5 * k + 0.5, p, 80, 0) for k, p in ((1, 60), (2, 62), (3, 64))
    ]
    assert slow.clock(nt.empty(), 7.0) == 6.5  # so that a new piece begins where it is meant to


def test_a_silence_beyond_the_longest_step_is_shortened_and_the_music_after_it_keeps_its_times():
    tune = nt.from_tuples([(0.0, 0.5, 60), (48.0, 48.5, 62), (48.25, 49.0, 64), (48.5, 48.75, 65)])
    decoded = round_trip(TIME, tune)
    assert decoded["start"] == pytest.approx([0, 10, 10.25, 10.5])
    assert decoded["end"] == pytest.approx([0.5, 10.5, 11.0, 10.75], abs=0.05)


def test_onsets_never_drift():
    """Four minutes of steps of 14.9 ms, each of which alone would be rounded to 10 ms."""
    start = np.arange(16_000) * 0.0149
    decoded = round_trip(TIME, nt.from_columns(start, start + 0.1, np.full(16_000, 60), 80))
    assert np.abs(decoded["start"] - start).max() <= CELL / 2 + 1e-9


# --- laws --------------------------------------------------------------------------------------------------------


def test_what_a_coarse_step_makes_simultaneous_is_sorted_by_pitch_however_the_clock_was_added_up():
    """Behind a step rounded to a wide bin, two notes fall into one cell, which sums of floats once kept apart."""
    music = nt.from_tuples([(0, 1, 60), (1.11, 2, 61), (1.17, 9, 70), (1.1701, 9, 50)])
    rows = TIME.encode(music, begin=False, end=False)
    assert TIME.decode(rows)["pitch"].tolist() == [60, 61, 50, 70]


@pytest.mark.parametrize(
    "column",
    [
        Column("step", 0, 50, 150, "time", exact=1.0),
        Column("duration", 0.01, 64, 560, "time", exact=5.0),
        Column("duration", 0.1, 3, 30),
        Column("step", 0.001, 3, 400, "log"),
        Column("step", 0, 10, 10_001),
    ],
)
def test_tables_say_what_a_search_does(column):
    counts = np.append(np.arange(-2.0, 3000.0), [1e4, 1e5, 1e6, 1e7])
    searched = column._search(counts * column.resolution)
    np.testing.assert_array_equal(column.encode_whole(counts), searched)
    assert [column.nearest_whole(count) for count in counts[::50]] == searched[::50].tolist()


@pytest.mark.parametrize("column", [Column("velocity", 2.5, 126.5, 32), Column("velocity", 10, 100, 7)])
def test_so_do_those_of_whole_numbers(column):
    values = np.arange(-5, 300, dtype="i2")
    np.testing.assert_array_equal(column.encode(values), column.encode(values.astype("f8")))


@law
@given(encodings, notes())
def test_what_was_decoded_encodes_to_the_same_rows(encoding, music):
    after = first_onset(music)
    rows = encoding.encode(music, begin=True, end=True, after=after)
    again = encoding.encode(nt.sort(encoding.decode(rows, after=after)), begin=True, end=True, after=after)
    assert again.tolist() == rows.tolist()


@law
@given(encodings, notes(), st.integers(0, 2000))
def test_an_onset_is_within_half_a_bin_of_the_truth_however_many_came_before(encoding, music, gap_ms):
    """And where no step reaches it (notes closer than the shortest step), the step is the nearest there is."""
    column = encoding.column("step")
    after = first_onset(music) - gap_ms / 1000
    rows = encoding.encode(music, begin=False, end=False, after=after)
    clock = encoding.decode(rows, after=after)["start"]
    ids = rows[:, encoding.names.index("step")]
    reach = music["start"] - np.append(after, clock)[:-1]  # the step that would be exact
    short = reach < column.low
    assert (ids[short] == FIRST).all()
    assert (reach <= column.high).all()
    assert (np.abs(clock - music["start"])[~short] <= half_bin(column, ids)[~short]).all()


@law
@given(st.sampled_from([LINEAR, COARSE, LOG, TIME]), notes())
def test_an_end_is_within_half_a_bin_of_the_truth(encoding, music):
    """Ends too are encoded from the clock as decoded, so an onset's rounding does not move the end."""
    column = encoding.column("duration")
    rows = encoding.encode(music, begin=False, end=False)
    decoded = encoding.decode(rows, after=first_onset(music))
    truth = music[np.argsort(music["velocity"])][decoded["velocity"] - 1]  # a note's velocity is its name here
    assert (decoded["pitch"] == truth["pitch"]).all()
    ids = rows[:, encoding.names.index("duration")]
    reach = truth["end"] - decoded["start"]
    inside = (reach >= column.low) & (reach <= column.high)
    assert (np.abs(decoded["end"] - truth["end"])[inside] <= half_bin(column, ids)[inside]).all()
    assert (ids[reach < column.low] == FIRST).all()
    assert (ids[reach > column.high] >= FIRST + column.size - 2).all()


@law
@given(notes(), st.integers(20_000, 300_000))  # from the shortest duration, 10 ms, and a cell for rounding
def test_notes_that_ended_together_still_do(music, lift_us):
    """Where the pedal lifts, many notes end in one 10 ms cell; where their durations are exact, they still do."""
    assume(len(music) > 0)
    lift = music["start"].max() + lift_us / 1e6
    together = lift - music["start"] < 0.301  # TIME's durations are exact up to 0.5 s, its steps to 0.18 s at worst
    music["end"][together] = lift
    decoded = round_trip(TIME, music)
    ends = decoded["end"][np.isin(decoded["velocity"], music["velocity"][together])]
    assert np.ptp(ends) < 1e-9


@law
@given(encodings, notes(lowest=40, highest=80), st.integers(LOWEST - 40, HIGHEST - 80))
def test_transposing_notes_and_transposing_rows_is_the_same(encoding, music, semitones):
    moved = encoding.encode(nt.transpose(music, semitones), begin=False, end=False)
    rows = encoding.encode(music, begin=False, end=False)
    rows[:, encoding.names.index("pitch")] += semitones
    assert moved.tolist() == rows.tolist()


@law
@given(encodings, notes(), st.integers(0, 3_600_000))
def test_when_a_piece_was_played_does_not_matter(encoding, music, delay_ms):
    later = encoding.encode(nt.shift(music, delay_ms / 1000), begin=True, end=True)
    assert later.tolist() == encoding.encode(music, begin=True, end=True).tolist()


@law
@given(encodings, notes(), st.data())
def test_rows_decoded_in_two_parts_give_the_very_same_notes(encoding, music, data):
    assume("duration" in encoding.names)  # without one, a note lasts until the next, which the cut takes away
    rows = encoding.encode(music, begin=False, end=False)
    cut = data.draw(st.integers(0, len(rows)))
    complete = encoding.decode(rows, after=1.3)
    head = encoding.decode(rows[:cut], after=1.3)
    tail = encoding.decode(rows[cut:], after=head["start"][-1] if len(head) else 1.3)
    assert np.concatenate([head, tail]).tolist() == complete.tolist()


@law
@given(encodings, notes(), st.data())
def test_a_window_of_a_piece_has_the_rows_that_the_piece_has_there(encoding, music, data):
    """`after` is the onset before the window. Of music as it was decoded: there is nothing left to round."""
    assume(encoding.column("step").low == 0 and "duration" in encoding.names)  # its first step can say 0
    music = nt.sort(round_trip(encoding, music))
    cut = data.draw(st.integers(0, len(music)))
    after = music["start"][cut - 1] if cut else None
    complete = encoding.encode(music, begin=False, end=False)
    assert encoding.encode(music[cut:], begin=False, end=False, after=after).tolist() == complete[cut:].tolist()


@law
@given(encodings, st.lists(st.tuples(notes(max_size=8), st.integers(0, 3000)), min_size=1, max_size=5))
def test_many_excerpts_at_once_are_the_same_as_one_by_one(encoding, excerpts):
    bounds = np.cumsum([0, *(len(music) for music, _ in excerpts)])
    after = [first_onset(music) - gap / 1000 for music, gap in excerpts]
    at_once = encoding.encode_many(np.concatenate([music for music, _ in excerpts]), bounds, np.array(after))
    one_by_one = [
        encoding.encode(music, begin=False, end=False, after=clock)
        for (music, _), clock in zip(excerpts, after, strict=True)
    ]
    assert at_once.tolist() == np.concatenate(one_by_one).tolist()


@law
@given(st.sampled_from([LINEAR, LOG, TIME]).flatmap(lambda e: st.sampled_from(e.columns)), st.data())
def test_a_value_encodes_to_itself_and_any_other_number_to_the_nearest_value(column, data):
    ids = np.arange(column.size) + FIRST
    assert column.encode(column.decode(ids)).tolist() == ids.tolist()
    number = data.draw(st.floats(column.low, column.high))
    chosen = column.decode(column.encode(np.array([number])))
    assert np.abs(chosen - number)[0] <= np.abs(column.values - number).min() + 2e-9


def test_times_and_velocities_outside_clip():
    assert TIME.column("step").encode(np.array([-1.0, 99.0])).tolist() == [FIRST, FIRST + 132]
    assert TIME.column("velocity").encode(np.array([0, 200])).tolist() == [FIRST, FIRST + 126]


def test_music_is_left_as_it_was():
    music = nt.from_tuples([(1.0, 2.0, 60), (70.0, 71.0, 64)])
    before = music.copy()
    TIME.encode(music, begin=True, end=True)
    assert music.tolist() == before.tolist()


# --- the grid of the likelihood ----------------------------------------------------------------------------------

TIME_COLUMNS = [
    Column("step", 0, 10, 133, "time"),
    Column("step", 0, 50, 150, "time"),
    Column("step", 0, 10, 1001),
    Column("step", 0, 10, 201),
    Column("duration", 0.01, 64, 560, "time", exact=5.0),
    Column("duration", 0.01, 0.8, 80, "time"),
    Column("duration", 0.1, 8, 12, "log"),
]


@pytest.mark.parametrize("column", TIME_COLUMNS, ids=repr)
def test_the_bins_share_out_every_cell_of_the_grid(column):
    """Each 10 ms cell from the lowest to the highest value belongs to one bin: the one that it is encoded to."""
    grid = np.arange(round(column.low / CELL), round(column.high / CELL) + 1)
    owners = np.bincount(column.encode(grid * CELL) - FIRST, minlength=column.size)
    assert column.cells.tolist() == owners.tolist()
    assert column.cells.sum() == len(grid)


def test_a_bin_finer_than_a_cell_counts_as_one_and_so_does_every_value_that_is_no_time():
    assert set(Column("step", 0, 1, 1001).cells) == {1.0}
    assert set(Column("velocity", 0, 127, 32).cells) == {1.0}


def test_time_spacing_is_exact_up_to_a_second_and_then_widens():
    column = Column("step", 0, 10, 133, "time")
    assert column.values[:101] == pytest.approx(np.arange(101) * CELL)
    widths = np.diff(column.values[100:])
    assert column.values[-1] == pytest.approx(10) and len(widths) == 32
    assert (np.diff(widths) >= -CELL - 1e-9).all() and widths[-1] > 9 * widths[0]


# --- errors and configurations -----------------------------------------------------------------------------------


@law
@given(notes(lowest=0, highest=127))
def test_pitches_that_no_value_stands_for_are_left_out(music):
    inside = music[(music["pitch"] >= 21) & (music["pitch"] <= 108)]
    if len(music) and not len(inside):
        message = f"{len(music)} of {len(music)} notes have a pitch outside 21-108, the first one {music['pitch'][0]}"
        with pytest.raises(EncodingError, match=message):
            TIME.supported_notes(music)
    else:
        assert TIME.supported_notes(music).tolist() == inside.tolist()
        assert TIME.encode(music, begin=True, end=True).tolist() == TIME.encode(inside, begin=True, end=True).tolist()


def test_programs_that_no_value_stands_for_are_left_out_drums_included():
    encoding = NoteRows(*TIME.columns, Column("program", 0, 7, 8))
    music = nt.from_tuples([(0, 1, 60, 80, 40), (0, 1, 62, 80, 7), (1, 2, 36, 80, nt.DRUMS)])
    assert encoding.supported_notes(music).tolist() == music[1:2].tolist()
    with pytest.raises(EncodingError, match="2 of 2 notes have a program outside 0-7, the first one 40"):
        encoding.encode(music[[0, 2]], begin=True, end=True)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)
def test_a_config_makes_the_same_encoding_again(encoding):
    config = json.loads(json.dumps(encoding.config()))
    assert from_config(config) == encoding
    assert hash(from_config(config)) == hash(encoding)
    assert from_config(config) != NoteRows(PITCH, Column("step", 0, 1, 2))


def test_what_a_config_says_beyond_what_we_know_is_ignored():
    assert from_config(_damaged(flavour="minor")) == TIME


def test_drums_are_not_encoded_without_a_program_column():
    music = nt.from_tuples([(0, 1, 60), (0.25, 0.5, 36, 80, nt.DRUMS), (0.5, 1, 64)])
    rows = TIME.encode(music, begin=False, end=False)
    np.testing.assert_array_equal(rows, TIME.encode(music[music["program"] == 0], begin=False, end=False))
    with pytest.raises(EncodingError, match="all 1 notes are drums"):
        TIME.encode(music[1:2], begin=True, end=False)


def _damaged(**changes):
    config = TIME.config()
    config["columns"][1].update(changes)
    return config


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"kind": "chord_symbols"},
        {"kind": "note_rows"},
        {"kind": "note_rows", "columns": None},
        {"kind": "note_rows", "columns": []},
        {"kind": "note_rows", "columns": [TIME.config()["columns"][1]]},  # no pitch
        {"kind": "note_rows", "columns": [TIME.config()["columns"][k] for k in (0, 2)]},  # duration without step
        {"kind": "note_rows", "columns": [TIME.config()["columns"][0]], "beat": 0},
        {"kind": "note_rows", "columns": TIME.config()["columns"] * 2},
        _damaged(name="loudness"),
        _damaged(spacing="fibonacci"),
        _damaged(size=1),
        _damaged(size=-3),
        _damaged(size="many"),
        _damaged(low=11),
        _damaged(low=None),
        _damaged(high=float("nan")),
        _damaged(low=0, spacing="log"),
        _damaged(size=2000),  # more values than there are cells
    ],
    ids=lambda config: f"{config!r:.60}",
)
def test_a_damaged_config_is_an_error(config):
    with pytest.raises(EncodingError):
        from_config(config)
