"""MIDI bytes ⇄ Notes against pretty_midi, the oracle, and against the pedal as a plain loop."""

import gzip
import io
import os
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest
import symusic
from hypothesis import given
from hypothesis import strategies as st

from music import midi
from music import notes as nt
from music.errors import MidiError
from music.midi import parser
from tests.robustness.fuzz.midi import read_or_refused
from tests.support.strategies import law, midi_bytes, midi_files, notes, track

MAESTRO = Path(
    os.environ.get("MAESTRO_ZIP") or Path(__file__).parents[3] / "shared" / "data" / "maestro-v3.0.0-midi.zip"
)
SAME = 1e-6  # seconds


# --- files by hand: a quarter is 480 ticks, half a second at the tempo that holds where a file sets none --------------


def on(tick, pitch, velocity=80, channel=0):
    return tick, mido.Message("note_on", note=pitch, velocity=velocity, channel=channel)


def off(tick, pitch, channel=0):
    return tick, mido.Message("note_off", note=pitch, channel=channel)


def pedal(tick, value, channel=0):
    return control(tick, 64, value, channel)


def tempo(tick, quarters_per_minute):
    return tick, mido.MetaMessage("set_tempo", tempo=round(6e7 / quarters_per_minute))


def control(tick, controller, value=0, channel=0):
    return tick, mido.Message("control_change", control=controller, value=value, channel=channel)


def program(tick, number, channel=0):
    return tick, mido.Message("program_change", program=number, channel=channel)


def file(*tracks, format=1):
    midi_file = mido.MidiFile(type=format, ticks_per_beat=480)
    midi_file.tracks.extend(track(events) for events in tracks)
    return midi_bytes(midi_file)


def oracle(data):
    """Read pretty_midi's Notes, without the pedal; and its pedal events for each of its instruments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of tempo events outside track 0, a case of its own below
        read = pretty_midi.PrettyMIDI(io.BytesIO(data))
    rows = [
        (note.start, note.end, note.pitch, note.velocity, nt.DRUMS if instrument.is_drum else instrument.program)
        for instrument in read.instruments
        for note in instrument.notes
    ]
    return nt.from_tuples(rows), read.instruments


def ordered(music):
    return np.sort(music, order=["start", "pitch", "velocity", "end", "program"])


def assert_same(actual, reference):
    """Check that pitches, velocities and programs are the same, and times within a microsecond."""
    assert len(actual) == len(reference)
    for name in ("pitch", "velocity", "program"):
        assert actual[name].tolist() == reference[name].tolist(), name
    for name in ("start", "end"):
        assert np.abs(actual[name] - reference[name]).max(initial=0) < SAME, name


def short(music):
    """Write Notes as (start, end, pitch, velocity) in readable numbers."""
    return [
        (round(float(n["start"]), 4), round(float(n["end"]), 4), int(n["pitch"]), int(n["velocity"])) for n in music
    ]


# --- reading -----------------------------------------------------------------------------------------------------


def test_a_tune_with_a_change_of_tempo():
    tune = file(
        [tempo(0, 120), tempo(480, 60)],
        [on(0, 60, 70), off(240, 60), on(240, 64, 75), off(960, 64), on(480, 67), off(480 + 480, 67)],
    )
    assert short(midi.read(tune)) == [(0, 0.25, 60, 70), (0.25, 1.5, 64, 75), (0.5, 1.5, 67, 80)]


@law
@given(midi_files())
def test_generated_files_read_as_pretty_midi_reads_them(data):
    reference, _ = oracle(data)
    assert_same(ordered(midi.read(data, pedal=False)), ordered(reference))


def test_notes_are_sorted_by_start_and_pitch_whatever_their_track():
    data = file([on(0, 72), off(480, 72)], [on(0, 48), off(480, 48), on(240, 50), off(300, 50)])
    assert midi.read(data)["pitch"].tolist() == [48, 72, 50]


def test_drums_and_programs_are_distinguished():
    data = file([program(0, 40), on(0, 60), off(480, 60), on(0, 36, channel=9), off(480, 36, channel=9)])
    assert midi.read(data)["program"].tolist() == [nt.DRUMS, 40]


def test_a_note_of_no_length_is_no_note_and_the_pedal_gives_it_none():
    data = file([pedal(0, 127), on(0, 60), off(0, 60), on(480, 62), off(600, 62), pedal(960, 0)])
    assert short(midi.read(data)) == [(0.5, 1.0, 62, 80)]
    assert oracle(data)[0]["pitch"].tolist() == [62]


def test_a_file_without_notes_is_empty_music():
    for data in (file(), file([]), file([tempo(0, 90), pedal(0, 127)])):
        assert midi.read(data).tolist() == [] and midi.read(data).dtype == nt.NOTE


# --- where symusic and pretty_midi differ by design -------------------------------------------------------------


def test_the_first_release_of_a_key_ends_all_its_notes():
    """on, on, off, off. As pretty_midi: the key is up. symusic goes first in, first out; then one release that is
    missing in a file makes every later note of that key last until the release after its own."""
    data = file([on(0, 60, 50), on(480, 60, 90), off(960, 60), off(1440, 60)])
    assert short(midi.read(data)) == [(0, 1.0, 60, 50), (0.5, 1.0, 60, 90)]
    assert short(oracle(data)[0]) == short(midi.read(data))
    ticks = symusic.Score.from_midi(data).tracks[0].notes.numpy()
    assert (ticks["time"] + ticks["duration"]).tolist() == [960, 1440]


def test_one_release_that_is_missing_does_not_leave_later_notes_sounding():
    events = [event for at in range(0, 9600, 960) for event in (on(at, 60), off(at + 240, 60))]
    music = midi.read(file([on(0, 60, 50), *events]))
    assert (music["end"] - music["start"]).max() == pytest.approx(0.25)


def test_a_note_that_is_never_released_is_no_note():
    """on, on, off. As symusic: a release is one note's, the first one's. pretty_midi makes two notes of it."""
    data = file([on(0, 60, 50), on(480, 60, 90), off(960, 60)])
    assert short(midi.read(data)) == [(0, 1.0, 60, 50)]
    assert short(oracle(data)[0]) == [(0, 1.0, 60, 50), (0.5, 1.0, 60, 90)]


def test_a_change_of_tempo_counts_in_whichever_track_it_stands():
    """As symusic. Sequencers read tempo from every track of a file; pretty_midi only from the first, and warns."""
    data = file([tempo(0, 120)], [on(0, 60), tempo(480, 60), off(960, 60)])
    assert short(midi.read(data)) == [(0, 1.5, 60, 80)]
    assert short(oracle(data)[0]) == [(0, 1.0, 60, 80)]


def test_a_note_has_the_instrument_that_it_was_struck_with():
    """As symusic. A program change under a held note: pretty_midi gives the note the instrument of its release."""
    data = file([program(0, 0), on(0, 60), program(240, 40), off(480, 60)])
    assert midi.read(data)["program"].tolist() == [0]
    assert oracle(data)[0]["program"].tolist() == [40]


# --- the pedal ---------------------------------------------------------------------------------------------------


def test_the_pedal_holds_what_is_released_while_it_is_down():
    data = file([on(0, 60), off(240, 60), pedal(120, 64), pedal(960, 63), on(1000, 64), off(1200, 64)])
    assert short(midi.read(data)) == [(0, 1.0, 60, 80), (1.0417, 1.25, 64, 80)]
    assert short(midi.read(data, pedal=False)) == [(0, 0.25, 60, 80), (1.0417, 1.25, 64, 80)]


def test_a_pitch_struck_again_ends_the_note_that_the_pedal_held():
    data = file([pedal(0, 127), on(0, 60), off(240, 60), on(480, 60), off(600, 60), pedal(960, 0)])
    assert short(midi.read(data)) == [(0, 0.5, 60, 80), (0.5, 1.0, 60, 80)]


def test_two_strokes_of_a_key_at_one_tick_both_last_on_the_pedal():
    data = file([pedal(0, 127), on(0, 60, 50), on(0, 60, 90), off(240, 60), off(240, 60), on(480, 60), off(600, 60)])
    assert short(midi.read(data)) == [(0, 0.5, 60, 50), (0, 0.5, 60, 90), (0.5, 0.625, 60, 80)]


def test_a_pedal_never_released_holds_until_the_last_event():
    data = file([pedal(0, 127), on(0, 60), off(240, 60), on(0, 64), off(960, 64)])
    assert short(midi.read(data)) == [(0, 1.0, 60, 80), (0, 1.0, 64, 80)]


def test_half_pedal_counts_from_64_and_shakes_count_as_lifts():
    data = file([pedal(0, 80), on(0, 60), off(100, 60), pedal(240, 63), pedal(241, 100), pedal(960, 0)])
    assert short(midi.read(data)) == [(0, 0.25, 60, 80)]


def test_what_the_pedal_does_at_the_tick_of_a_release_counts():
    """Down with the key's release holds the note; up with it does not; and of two at one tick the later one counts."""
    caught = file([on(0, 60), off(240, 60), pedal(240, 127), pedal(960, 0)])
    assert short(midi.read(caught)) == [(0, 1.0, 60, 80)]
    lifted = file([pedal(0, 127), on(0, 60), off(240, 60), pedal(240, 0), pedal(480, 127), pedal(960, 0)])
    assert short(midi.read(lifted)) == [(0, 0.25, 60, 80)]
    both = file([pedal(0, 127), on(0, 60), off(240, 60), pedal(240, 0), pedal(240, 127), pedal(960, 0)])
    assert short(midi.read(both)) == [(0, 1.0, 60, 80)]


def test_the_pedal_does_not_hold_drums():
    data = file([pedal(0, 127, 9), on(0, 36, channel=9), off(240, 36, channel=9), pedal(960, 0, 9)])
    assert short(midi.read(data)) == [(0, 0.25, 36, 80)]


def hold(played, pedals):
    """Fold the pedal in by a plain loop: [(start, end, pitch, velocity)], [(time, value)] of one instrument → notes."""
    if not played:
        return []
    pedals = sorted(pedals, key=lambda event: event[0])
    last = max([end for _, end, _, _ in played] + [time for time, _ in pedals])
    held = []
    for start, end, pitch, velocity in played:
        down = False
        for time, value in pedals:
            if time <= end:
                down = value >= parser.SUSTAIN
        if down:
            lifts = [time for time, value in pedals if time > end and value < parser.SUSTAIN]
            again = [other for other, _, key, _ in played if key == pitch and other > start]
            end = min([*lifts, *again, last])
        held.append((start, end, pitch, velocity))
    return held


def held_oracle(data):
    """Read pretty_midi's notes, with the plain loop's pedal."""
    rows = []
    for instrument in oracle(data)[1]:
        played = [(note.start, note.end, note.pitch, note.velocity) for note in instrument.notes]
        pedals = [(c.time, c.value) for c in instrument.control_changes if c.number == parser.SUSTAIN]
        program = nt.DRUMS if instrument.is_drum else instrument.program
        rows += [(*note, program) for note in (played if instrument.is_drum else hold(played, pedals))]
    return nt.from_tuples(rows)


@law
@given(midi_files())
def test_the_pedal_is_folded_as_a_plain_loop_folds_it(data):
    assert_same(ordered(midi.read(data)), ordered(held_oracle(data)))


@law
@given(midi_files())
def test_the_pedal_moves_ends_only_and_only_later(data):
    dry, wet = midi.read(data, pedal=False), midi.read(data)
    assert (
        wet[["start", "pitch", "velocity", "program"]].tolist()
        == dry[["start", "pitch", "velocity", "program"]].tolist()
    )
    assert (wet["end"] >= dry["end"]).all()


def test_on_the_pedal_a_key_struck_again_while_it_is_down_begins_anew():
    """Else two notes of one string would sound together. Without the pedal at its release a note lasts until that."""
    events = [on(0, 60), on(480, 60), off(960, 60), off(960, 60)]
    assert short(midi.read(file([pedal(0, 127), *events, pedal(1440, 0)]))) == [(0, 0.5, 60, 80), (0.5, 1.5, 60, 80)]
    assert short(midi.read(file([pedal(0, 127), *events, pedal(900, 0)]))) == [(0, 1.0, 60, 80), (0.5, 1.0, 60, 80)]


def test_a_reset_of_all_controllers_lifts_the_pedal():
    data = file([pedal(0, 127), on(0, 60), off(240, 60), control(480, 121, 127), on(960, 62), off(1200, 62)])
    assert short(midi.read(data)) == [(0, 0.5, 60, 80), (1.0, 1.25, 62, 80)]
    assert midi.inspect(data).pedal_presses == 1


@pytest.mark.parametrize("controller", [120, 123, 124, 125, 126, 127])
def test_a_silence_releases_what_is_down_on_its_channel(controller):
    data = file([on(0, 60), on(0, 64), off(240, 64), on(0, 48, channel=1), control(480, controller), off(960, 48, 1),
                 on(960, 60), off(1200, 60)])  # fmt: skip
    notes, warnings = midi.read_with_warnings(data)
    assert short(notes) == [(0, 1.0, 48, 80), (0, 0.5, 60, 80), (0, 0.25, 64, 80), (1.0, 1.25, 60, 80)]
    assert warnings == [] and midi.inspect(data).pedal_presses == 0
    held = file([pedal(0, 127), on(0, 60), control(240, controller), pedal(960, 0)])  # as the pedal holds what keys do
    assert short(midi.read(held)) == [(0, 1.0, 60, 80)]


def test_a_silence_at_the_tick_of_a_note_does_not_end_it():
    """Where every track begins by "all notes off", that of the second comes behind the first one's notes."""
    data = file([on(0, 60), off(480, 60)], [control(0, 123), on(0, 48), off(480, 48)])
    assert short(midi.read(data)) == [(0, 0.5, 48, 80), (0, 0.5, 60, 80)]


def played(events):
    """Read the events of one track in a plain loop: {channel: [(start, end, pitch, velocity)]}, without the pedal."""
    waiting, notes = {}, {}
    for tick, message in sorted(events, key=lambda event: (event[0], event[1].type != "control_change")):
        channel = message.channel
        if message.type == "note_on":
            waiting.setdefault((channel, message.note), []).append((tick, message.velocity))
        elif message.type == "note_off":
            ended = [message.note] if waiting.get((channel, message.note)) else []
        else:
            silence = message.control in parser.SILENCES
            ended = [key for (where, key), all in waiting.items() for _ in all if where == channel and silence]
        if message.type != "note_on":
            for key in ended:
                start, velocity = waiting[channel, key].pop(0)
                if tick > start:
                    notes.setdefault(channel, []).append((start, tick, key, velocity))
    return {
        channel: [
            (start, min(end for _, end, key, _ in these if key == pitch and end > start), pitch, velocity)
            for start, _, pitch, velocity in these
        ]
        for channel, these in notes.items()
    }


scrambled = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 3, 20]), st.integers(0, 1), st.sampled_from([60, 60, 60, 61]),
              st.sampled_from([on, on, off, off, "pedal", "silence", "reset"]), st.integers(1, 127)),
    min_size=20, max_size=60,
)  # fmt: skip


@law
@given(scrambled)
def test_strokes_of_one_key_that_overlap_are_read_as_a_plain_loop_reads_them(drawn):
    tick, events = 0, []
    for wait, channel, key, kind, number in drawn:
        tick += wait
        if kind == "pedal":
            events.append(pedal(tick, number, channel))
        elif kind in ("silence", "reset"):
            events.append(control(tick, parser.SILENCES[key % 2] if kind == "silence" else 121, number, channel))
        else:
            events.append(on(tick, key, number, channel) if kind is on else off(tick, key, channel))
    dry = played(events)
    pedals = {
        channel: [
            (at, message.value if message.control == parser.SUSTAIN else 0)
            for at, message in events
            if message.type == "control_change" and message.control in (64, 121) and message.channel == channel
        ]
        for channel in dry
    }
    wet = {channel: hold(these, pedals[channel]) for channel, these in dry.items()}
    data = file(events)
    for result, expected in ((midi.read(data, pedal=False), dry), (midi.read(data), wet)):
        rows = [(start / 960, end / 960, *rest) for these in expected.values() for start, end, *rest in these]
        assert_same(ordered(result), ordered(nt.from_tuples(rows)))


# --- a channel, over all tracks -----------------------------------------------------------------------------------


RIGHT = [(480 * k, pitch) for k, pitch in enumerate((72, 74, 76, 77, 79, 81, 83, 84))]
LEFT = [(480 * k, pitch) for k, pitch in enumerate((48, 52, 56, 48, 52, 56, 48, 52))]
PEDALS = [pedal(960 * k + at, value) for k in range(4) for at, value in ((10, 127), (950, 0))]


def hand(keys):
    return [event for tick, key in keys for event in (on(tick, key), off(tick + 120, key))]


def test_the_pedal_in_one_hands_track_holds_both_hands():
    """As piano-midi.de and MuseScore write a piano: both hands on one channel, the pedal in the left one's track."""
    both, warnings = midi.read_with_warnings(file([tempo(0, 120)], hand(RIGHT), hand(LEFT) + PEDALS))
    together = midi.read(file([tempo(0, 120), *hand(RIGHT), *hand(LEFT), *PEDALS], format=0))
    np.testing.assert_array_equal(both, together)
    assert short(both)[:3] == [(0, 0.9896, 48, 80), (0, 0.9896, 72, 80), (0.5, 0.9896, 52, 80)] and warnings == []


def test_a_program_on_another_track_counts_for_its_channel():
    """As FluidSynth plays it; also where it stands behind the first note of its tick."""
    tracks = [[on(0, 60), off(480, 60)], [on(0, 72, channel=1), off(480, 72, channel=1)]]
    programs = [program(0, 40), program(0, 73, 1)]
    for data in (file(programs, *tracks), file(*tracks, programs)):
        assert midi.read(data)[["pitch", "program"]].tolist() == [(60, 40), (72, 73)]


def test_a_key_belongs_to_its_channel_too():
    """A release in another track ends the note, as it does in a synthesiser, which is sent one stream of events."""
    assert short(midi.read(file([on(0, 60)], [off(480, 60)]))) == [(0, 0.5, 60, 80)]
    assert short(midi.read(file([on(0, 60), off(960, 60)], [on(240, 60, 70), off(480, 60)]))) == [
        (0, 0.5, 60, 80),
        (0.25, 0.5, 60, 70),
    ]


anything = st.one_of(
    st.builds(on, st.just(0), st.sampled_from([60, 60, 61]), st.integers(1, 127), st.sampled_from([0, 0, 1, 9])),
    st.builds(off, st.just(0), st.sampled_from([60, 60, 61]), st.sampled_from([0, 0, 1, 9])),
    st.builds(pedal, st.just(0), st.integers(0, 127), st.sampled_from([0, 0, 1])),
    st.builds(control, st.just(0), st.sampled_from([121, 123, 126]), st.just(0), st.sampled_from([0, 1])),
    st.builds(program, st.just(0), st.integers(0, 127), st.sampled_from([0, 0, 1])),
    st.builds(tempo, st.just(0), st.integers(30, 300)),
)


@law
@given(st.data())
def test_events_split_into_tracks_at_random_are_the_same_notes(data):
    """At one tick the earlier track's events come first; so there, tracks are drawn in order."""
    drawn = data.draw(st.lists(st.tuples(st.sampled_from([0, 0, 1, 5, 240]), anything), min_size=10, max_size=60))
    ticks = np.cumsum([wait for wait, _ in drawn]).tolist()
    events = [(tick, message) for tick, (_, (_, message)) in zip(ticks, drawn, strict=True)]
    tracks = [[], [], []]
    for tick, count in Counter(ticks).items():
        where = sorted(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
        for number, event in zip(where, [event for event in events if event[0] == tick], strict=True):
            tracks[number].append(event)
    whole, split = file(events, format=0), file(*tracks)
    for pedal_counts in (True, False):
        np.testing.assert_array_equal(midi.read(split, pedal=pedal_counts), midi.read(whole, pedal=pedal_counts))
    assert midi.inspect(split).tempos == midi.inspect(whole).tempos


# --- a file of independent tracks ---------------------------------------------------------------------------------


def scale(keys, channel=0):
    return [e for k in range(keys) for e in (on(480 * k, 60 + k, channel=channel), off(480 * k + 480, 60 + k, channel))]


def test_each_track_of_format_2_has_its_own_tempos_and_channels():
    """At 60 and at 140 quarters a minute: 15 quarters last 15 s and 6.43 s. The third has no tempo, so it has 120."""
    first = [tempo(0, 60), *scale(15), pedal(0, 127)]
    data = file(first, [tempo(0, 140), *scale(15, 1)], [on(0, 40), off(960, 40)], format=2)
    notes, warnings = midi.read_with_warnings(data)
    assert warnings == [
        "byte 8: its format is 2, of independent tracks; all are read from the beginning, each with its own tempos"
    ]
    assert short(notes[notes["pitch"] == 40]) == [(0, 1, 40, 80)]
    assert notes["end"][notes["pitch"] == 60].tolist() == pytest.approx([15, 60 / 140], abs=1e-5)
    assert notes["end"][notes["pitch"] == 74].tolist() == pytest.approx([15 * 60 / 140, 15], abs=1e-5)
    assert midi.inspect(data).tempos == [(0, 60)]  # the first one's


# --- MPE and drums ------------------------------------------------------------------------------------------------


def mpe(members, manager=0):
    """The message that makes a zone of MPE: registered parameter 6 of its manager."""
    return [control(0, 101, 0, manager), control(0, 100, 6, manager), control(0, 6, members, manager)]


def test_in_a_zone_of_mpe_channel_10_is_as_the_others():
    data = file(
        [*mpe(15), program(0, 40), *(e for c in range(1, 16) for e in (on(0, 60 + c, channel=c), off(480, 60 + c, c)))]
    )
    assert midi.read(data)["program"].tolist() == [40] * 15


def test_a_zone_of_mpe_follows_the_pedal_of_its_manager():
    events = [e for c in range(1, 16) for e in (on(0, 60 + c, channel=c), off(240, 60 + c, c))]
    data = file([*mpe(4), *mpe(3, 15), pedal(0, 127), pedal(480, 0), pedal(0, 127, 15), pedal(960, 0, 15), *events])
    ends = dict(zip(*(midi.read(data)[name].tolist() for name in ("pitch", "end")), strict=True))
    assert ends == {60 + c: 0.5 if c <= 4 else 1.0 if c >= 12 else 0.25 for c in range(1, 16)}
    assert midi.read(data)["program"].tolist() == [nt.DRUMS if c == 9 else 0 for c in range(1, 16)]


@pytest.mark.parametrize(
    "events", [[control(0, 101), control(0, 100, 0), control(0, 6, 15)], [control(0, 6, 15)], mpe(0)]
)
def test_other_parameters_make_no_zone(events):
    data = file([*events, on(0, 36, channel=9), off(240, 36, 9)])
    assert midi.read(data)["program"].tolist() == [nt.DRUMS]


def test_drums_are_what_the_caller_says():
    """A piano on channel 10, and the pedal holds it."""
    data = file([program(0, 3, 9), pedal(0, 127, 9), *scale(2, 9), pedal(960, 0, 9)])
    assert midi.read(data)["program"].tolist() == [nt.DRUMS] * 2
    assert short(midi.read(data, drums=False)) == [(0, 1, 60, 80), (0.5, 1, 61, 80)]
    assert midi.read(data, drums=False)["program"].tolist() == [3, 3]
    assert midi.inspect(data, drums=False).instruments == [("Honky-tonk Piano", 2)]


# --- writing -----------------------------------------------------------------------------------------------------


@law
@given(notes(lowest=0, highest=127, unit=0.0001), st.sampled_from([0, 40, nt.DRUMS]))
def test_what_is_written_reads_within_a_tick(music, program):
    music["program"] = program
    music = _without_overlaps(music)
    read_back = midi.read(midi.write(music))
    assert np.sort(read_back["velocity"]).tolist() == np.sort(music["velocity"]).tolist()
    read_back = read_back[np.argsort(read_back["velocity"])]  # a velocity is a name
    music = music[np.argsort(music["velocity"])]
    assert read_back["pitch"].tolist() == music["pitch"].tolist()
    assert (read_back["program"] == program).all()
    assert np.abs(read_back["start"] - music["start"]).max(initial=0) <= 0.0005 + 1e-9
    longer = read_back["end"] - read_back["start"] > 0.001 + 1e-9  # than the shortest note there is
    assert np.abs(read_back["end"] - music["end"])[longer].max(initial=0) <= 0.0005 + 1e-9


def _without_overlaps(music):
    """Choose notes that do not overlap on a pitch, 2 ms apart at least: MIDI cannot express such overlaps."""
    free, chosen = {}, []
    for k, note in enumerate(music):
        if note["start"] >= free.get(int(note["pitch"]), 0.0):
            chosen.append(k)
            free[int(note["pitch"])] = note["end"] + 0.002
    return music[chosen]


def test_a_pitch_struck_again_ends_the_note_before_and_no_other():
    """MIDI cannot tell which of two notes a release is for: written as they are, the first would end both."""
    music = nt.from_tuples([(0, 10, 60), (1, 2, 64), (8, 20, 60), (9, 9.5, 60, 80, 40)])
    read_back = midi.read(midi.write(music))
    expected = nt.from_tuples([(0, 8, 60), (1, 2, 64), (8, 20, 60), (9, 9.5, 60, 80, 40)])
    assert short(read_back) == short(expected)


def test_writing_rounded_times_changes_nothing_any_more():
    music = nt.from_tuples([(0.0, 0.25, 60), (0.25, 1.5, 64, 33), (0.25, 0.251, 67, 127, 40)])
    once = midi.read(midi.write(music))
    assert short(once) == short(music)
    assert midi.write(once) == midi.write(music)


@pytest.mark.parametrize("start", [0.0, 0.0005, 0.0015, 0.0025, 1.0005])
def test_the_shortest_note_lasts_one_tick(start):
    read_back = midi.read(midi.write(nt.from_tuples([(start, start, 60)])))
    assert len(read_back) == 1
    assert read_back["end"] - read_back["start"] == pytest.approx([0.001])


def test_empty_music_is_a_file_without_notes():
    assert len(midi.read(midi.write(nt.empty()))) == 0


@law
@given(midi_files(), st.floats(0, 3))
def test_on_a_files_own_grid_its_notes_and_tempos_are_written_as_they_were(data, later):
    music, grid = _without_overlaps(midi.read(data)), midi.grid(data)
    written = midi.write(music, None, grid)
    assert np.abs(midi.read(written)["start"] - music["start"]).max(initial=0) < SAME  # on the very same ticks
    until = nt.length(music)
    tempos, own = (
        [(at, round(tempo, 3)) for at, tempo in midi.inspect(each).tempos if at < until] for each in (written, data)
    )
    changes = [new for old, new in zip([(0, 0), *own], own, strict=False) if new[1] != old[1]]
    assert len(tempos) == len(changes) or not len(music)
    new = nt.from_tuples([(until + later, until + later + 1, 60)])  # on a tick of 1 ms at most, by the last tempo
    last = midi.read(midi.write(new, music, grid))[-1]
    assert abs(last["start"] - until - later) <= 0.0005 + SAME and abs(last["end"] - until - later - 1) <= 0.0005 + SAME
    shifted = midi.write(nt.shift(new, -until), None, grid.shifted(-until))
    assert abs(midi.read(shifted)["start"][0] - later) <= 0.0005 + SAME


def test_of_a_file_the_tempos_metres_keys_and_names_are_written():
    data = file(
        [(0, mido.MetaMessage("track_name", name="Song")), tempo(0, 90),
         (0, mido.MetaMessage("key_signature", key="F#m")),
         (0, mido.MetaMessage("time_signature", numerator=6, denominator=8)), tempo(480, 30)],
        [(0, mido.MetaMessage("track_name", name="Solo")), program(0, 40), on(0, 60), off(960, 60)],
        [(0, mido.MetaMessage("track_name", name="Kit")), on(0, 36, channel=9), off(960, 36, channel=9)],
        [(0, mido.MetaMessage("track_name", name="Nobody"))],
    )  # fmt: skip
    written = midi.write(midi.read(data), None, midi.grid(data))
    grid = midi.grid(written)
    assert (grid.times, grid.keys) == ([(0, 6, 8)], [(0, 3, True)])
    assert midi.inspect(written).tempos == midi.inspect(data).tempos and grid.ticks_per_quarter == 5 * 480
    names = [track.name for track in mido.MidiFile(file=io.BytesIO(written)).tracks]
    assert names == ["Song", "Solo", "Kit"]
    violin = midi.write(nt.with_program(midi.read(data), 41), None, midi.grid(data))
    assert [track.name for track in mido.MidiFile(file=io.BytesIO(violin)).tracks] == ["Song", "", "Kit"]


def test_a_tempo_map_of_more_ticks_than_a_file_can_have_is_left_out():
    data = file([(0, mido.MetaMessage("set_tempo", tempo=1))], [on(0, 60), off(48_000_000, 60)])  # 0.1 s
    music = nt.sort(np.concatenate([midi.read(data), nt.from_tuples([(1, 2, 64)])]))
    assert midi.inspect(midi.write(music, None, midi.grid(data))).tempos == [(0.0, 120.0)]
    assert short(midi.read(midi.write(music, None, midi.grid(data)))) == short(music)


@law
@given(notes(lowest=60, highest=66), st.lists(st.sampled_from([0, 0, 40, nt.DRUMS]), min_size=25, max_size=25))
def test_with_a_pedal_the_same_notes_are_read(music, programs):
    music["program"] = programs[: len(music)]
    music["end"] = np.ceil(music["end"]) - (music["end"] % 1 > 0.5) * 0.4  # many end together
    music["end"] = np.maximum(music["end"], music["start"] + 0.001)
    plain, pedalled = midi.write(music), midi.write(music, pedal=True)
    assert short(midi.read(pedalled)) == short(midi.read(plain))
    keys = midi.read(pedalled, pedal=False)
    assert len(keys) == len(music) and (keys["end"] <= midi.read(pedalled)["end"]).all()


def test_a_pedal_holds_what_was_struck_in_turn_and_ends_together():
    broken = [(k, 4, 48 + 5 * k) for k in range(4)] + [(4 + k, 8, 51 + 5 * k) for k in range(4)]
    data = midi.write(
        nt.from_tuples([*broken, (8, 9, 60), (8, 9, 64), (8.5, 9.5, 72), (0, 8, 36, 80, nt.DRUMS)]), pedal=True
    )
    assert midi.inspect(data).pedal_presses == 2
    keys = midi.read(data, pedal=False)
    ends = keys["end"][keys["program"] != nt.DRUMS].tolist()
    assert ends == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9.5]  # chords and single notes end by the fingers
    pedal = [
        (round(second, 3), message.value)
        for second, message in timed(data)
        if message.type == "control_change" and message.control == 64
    ]
    assert pedal == [(0.05, 127), (4, 0), (4.05, 127), (8, 0)]
    assert midi.inspect(midi.write(nt.from_tuples(broken))).pedal_presses == 0


def timed(data):
    """List the messages of a file with their seconds."""
    messages = list(mido.MidiFile(file=io.BytesIO(data)))
    return list(zip(np.cumsum([message.time for message in messages]).tolist(), messages, strict=True))


def test_pretty_midi_reads_what_we_write():
    music = nt.from_tuples(
        [(0.0, 0.25, 60), (0.25, 1.5, 64, 33), (1.0, 1.001, 67, 127, 40), (1.0, 2.0, 36, 99, nt.DRUMS)]
    )
    assert_same(ordered(oracle(midi.write(music))[0]), ordered(music))


def channels_of(data):
    """Collect the channels on which each program's notes are written, and the programs of each channel's notes."""
    by_program, by_channel, current = {}, {}, {}
    for message in mido.MidiFile(file=io.BytesIO(data)):  # all tracks, in the order of time
        if message.type == "program_change":
            current[message.channel] = message.program
        elif message.type == "note_on":
            program = nt.DRUMS if message.channel == 9 else current[message.channel]
            by_program.setdefault(program, set()).add(message.channel)
            by_channel.setdefault(message.channel, set()).add(program)
    return by_program, by_channel


def one_after_the_other(programs):
    return nt.from_tuples([(k, k + 0.9, 60, 80, program) for k, program in enumerate(programs)])


def test_each_of_15_programs_and_the_drums_has_a_channel():
    music = nt.from_tuples([(0, 1, 60, 80, program) for program in (*range(15), nt.DRUMS)])
    by_program, by_channel = channels_of(midi.write(music))
    assert len(by_program) == len(by_channel) == 16 and by_program[nt.DRUMS] == {9}


@pytest.mark.parametrize("program", [0, 90])
def test_what_continues_20_programs_shares_its_channel_with_no_other_program(program):
    before = one_after_the_other(range(0, 120, 6))
    new = nt.from_tuples([(20 + k, 21 + k, 60, 80, program) for k in range(5)])
    data = midi.write(new, before)
    by_program, by_channel = channels_of(data)
    (own,) = by_program[program]
    assert by_channel[own] == {program} and 9 not in by_channel
    assert short(midi.read(data)) == short(nt.sort(np.concatenate([before, new])))
    assert midi.read(data)["program"].tolist() == [*before["program"].tolist(), *new["program"].tolist()]


@law
@given(st.lists(st.integers(0, nt.DRUMS), unique=True, max_size=40), st.integers(0, 127))
def test_programs_one_after_the_other_are_distinguished_however_many(programs, program):
    before, at = one_after_the_other(programs), float(len(programs))
    music = nt.sort(np.concatenate([before, nt.from_tuples([(at, at + 1, 64, 80, program)])]))
    read_back = midi.read(midi.write(music[-1:], music[:-1]))
    assert short(read_back) == short(music) and read_back["program"].tolist() == music["program"].tolist()


def test_a_key_of_a_shared_channel_ends_where_it_is_struck_again():
    music = nt.from_tuples([(k / 2, k / 2 + 40, 60, 80, k) for k in range(20)])
    read_back = midi.read(midi.write(music))
    assert read_back["program"].tolist() == list(range(20)) and read_back["start"].tolist() == music["start"].tolist()


# --- what is in a file -------------------------------------------------------------------------------------------


def test_inspect_tells_instruments_tempos_pedal_and_length():
    data = file(
        [tempo(0, 120), tempo(960, 60)],
        [
            program(0, 0),
            pedal(0, 127),
            pedal(10, 90),
            on(0, 60),
            off(480, 60),
            pedal(480, 0),
            pedal(600, 127),
            pedal(960, 0),
        ],
        [program(0, 40, 1), on(0, 72, channel=1), off(1440, 72, channel=1)],
    )
    summary = midi.inspect(data)
    assert summary.instruments == [("Acoustic Grand Piano", 1), ("Violin", 1)]
    assert summary.tempos == [(0.0, 120.0), (1.0, 60.0)]
    assert summary.pedal_presses == 2
    assert summary.seconds == pytest.approx(2.0)
    assert summary.ticks_per_quarter == 480
    assert summary.notes.tolist() == midi.read(data).tolist()


def test_a_file_that_sets_no_tempo_has_120():
    assert midi.inspect(file([on(0, 60), off(480, 60)])).tempos == [(0.0, 120.0)]


# --- what is not MIDI --------------------------------------------------------------------------------------------

WHOLE = file([tempo(0, 120)], [on(tick, 60 + tick // 480) for tick in range(0, 4800, 480)], [on(0, 40), off(4800, 40)])
HEADER = b"MThd\0\0\0\6\0\1\0\1"  # type 1, one track; the division follows


def zipped(name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"")
    return out.getvalue()


DAY = 24 * 3600 * 960  # ticks
END_OF_TRACK = b"MTrk\0\0\0\4\0\xff\x2f\0"


NO_MIDI = {
    "nothing": (b"", "this is an empty file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "this is a PNG picture"),
    "MP3": (b"ID3\4\0\0\0\0\0!TSSE" + bytes(100), "^not a MIDI file: this is an MP3 file$"),
    "MP3 without a tag": (b"\xff\xfb\x90d" + bytes(100), "this is an MP3 file"),
    "WAV": (b"RIFF" + bytes(4) + b"WAVEfmt ", "this is a WAV file"),
    "gzip": (gzip.compress(b"MThd"), "this is a gzip file"),
    "a zip": (zipped("a.mid"), "this is a zip file"),
    "MusicXML, cut": (b'<?xml version="1.0"?>\n<!DOCTYPE score-partwise PUBLIC "-//R', "^damaged MusicXML: "),
    "MusicXML in UTF-16, cut": ("\ufeff<score-timewise>".encode("utf-16-le"), "^damaged MusicXML: "),
    "MusicXML, packed without a score": (zipped("META-INF/container.xml"), "^damaged MusicXML: no element found"),
    "MuseScore": (zipped("x.mscx"), r"this is a MuseScore file \(\.mscz\)"),
    "MacBinary": (b"\0\5a.mid" + bytes(58) + b"Midi" + bytes(59) + b"MThd", "this is a MacBinary file"),
    "MacBinary of another program": (b"\0\5a.mid" + bytes(121) + b"MThd", "this is a MacBinary file"),
    "a page of an error": (b"<!doctype html>\n<title>404", "this is an HTML page"),
    "text": (b"Dear pianist, here is my piece.", "got b'Dear'"),
    "RIFF around MIDI": (b"RIFF" + bytes(16) + WHOLE, "got b'RIFF'"),
    "four bytes": (b"MThd", "header"),
    "division 0": (HEADER + b"\0\0" + END_OF_TRACK, "positive number of ticks per quarter in bytes 12-13, got 0"),
    "a header without a division": (
        b"MThd\0\0\0\4\0\1\0\1" + END_OF_TRACK, "at least 6 bytes in it, got 4, which do not say how long a tick is"
    ),
    "an empty header": (b"MThd\0\0\0\0" + END_OF_TRACK, "at least 6 bytes in it, got 0"),
    "7 frames a second": (HEADER + b"\xf9\x28" + END_OF_TRACK, "24, 25, 29 or 30 frames .* got 7 and 40"),
    "no ticks a frame": (HEADER + b"\xe7\0" + END_OF_TRACK, "some ticks a frame in bytes 12-13, got 25 and 0"),
    "a note of more than a day": (file([on(0, 60), off(DAY + 480, 60)]), "ends after 8.64e\\+04 s"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), NO_MIDI.values(), ids=list(NO_MIDI))
def test_what_is_not_midi_is_an_error_that_says_so(data, says):
    with pytest.raises(MidiError, match=says):
        midi.read(data)
    with pytest.raises(MidiError):
        midi.inspect(data)


def test_of_a_file_cut_short_the_notes_before_the_cut_are_read_and_the_cut_is_reported():
    complete = midi.read(WHOLE).tolist()
    counts = []
    for length in range(14, len(WHOLE)):
        music, warnings = midi.read_with_warnings(WHOLE[:length])
        assert set(music.tolist()) <= set(complete) and warnings
        counts.append(len(music))
    assert counts == sorted(counts) and counts[-1] == len(complete) == 1
    assert midi.read_with_warnings(WHOLE)[1] == ["10 notes are never released; they are left out"]


@pytest.mark.parametrize("length", range(14))
def test_a_file_cut_inside_its_header_is_an_error(length):
    says = "header is cut" if length >= 4 else "expected it to begin" if length else "an empty file"
    with pytest.raises(MidiError, match=says):
        midi.read(WHOLE[:length])


@law
@given(st.data())
def test_damaged_bytes_are_an_error_or_music_never_anything_else(data):
    damaged = bytearray(data.draw(st.sampled_from([WHOLE, END_OF_TRACK, HEADER + b"\1\xe0" + END_OF_TRACK])))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read_or_refused(bytes(damaged))


# --- MAESTRO -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not MAESTRO.exists(), reason=f"{MAESTRO.name} is not here; MAESTRO_ZIP can say where it is")
def test_100_performances_of_maestro_read_as_pretty_midi_reads_them():
    """Evenly over the archive. All that may differ is a note that the file never releases: one, in one of them."""
    same = 0
    for data in _performances(12):
        actual, reference = ordered(midi.read(data, pedal=False)), ordered(oracle(data)[0])
        if len(actual) == len(reference):
            same += 1
        else:
            have = {(round(n["start"], 5), n["pitch"], n["velocity"]) for n in actual}
            released = np.array([(round(n["start"], 5), n["pitch"], n["velocity"]) in have for n in reference])
            assert Counter(reference["pitch"][~released].tolist()) == _never_released(data)
            reference = reference[released]
        assert_same(actual, reference)
    assert same >= 100


@pytest.mark.skipif(not MAESTRO.exists(), reason=f"{MAESTRO.name} is not here; MAESTRO_ZIP can say where it is")
def test_the_pedal_of_maestro_is_folded_as_a_plain_loop_folds_it():
    """The shortest of the performances: the loop is slow."""
    for data in sorted(_performances(12), key=len)[:5]:
        assert_same(ordered(midi.read(data)), ordered(held_oracle(data)))


def _performances(every):
    with zipfile.ZipFile(MAESTRO) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".midi", ".mid")))
        for name in names[::every]:
            yield archive.read(name)


def _never_released(data):
    """Count the notes of each key that have no release, one by one; a release of a key that is up releases nothing."""
    down = Counter()
    for message in mido.merge_tracks(mido.MidiFile(file=io.BytesIO(data)).tracks):
        if message.type == "note_on" and message.velocity:
            down[message.note] += 1
        elif message.type in ("note_on", "note_off") and down[message.note]:
            down[message.note] -= 1
    return +down
