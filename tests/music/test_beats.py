"""Hands, beats and bars."""

import dataclasses
import io

import mido
import numpy as np
import pretty_midi
import pytest

from music import midi
from music import notes as nt
from music.notation import beats, hands, voices
from music.notation.beats import QUARTER


def waltz(tempo=150.0, bars=24, noise=0.02, drift=0.1, seed=0):
    """Play bass, chord, chord, and a melody above; give the notes and their positions in quarters."""
    rng = np.random.default_rng(seed)
    rows = []
    for bar in range(bars):
        root = (48, 41, 43, 48)[bar % 4]
        rows.append((3 * bar, 1.0, root - 12))
        rows += [(3 * bar + beat, 0.5, root + up) for beat in (1, 2) for up in (4, 7)]
        melody = ((0, 2, 76), (2, 1, 74)) if bar % 2 else ((0, 1, 72), (1, 1, 74), (2, 0.5, 76), (2.5, 0.5, 77))
        rows += [(3 * bar + at, length, pitch) for at, length, pitch in melody]
    rows.sort()
    onset, length, pitch = np.array(rows).T
    pace = 60 / tempo * (1 + drift * np.sin(np.arange(3 * bars + 2) / 7))
    clock = np.append(0, np.cumsum(pace))
    start = np.interp(onset, np.arange(len(clock)), clock) + rng.uniform(-noise, noise, len(onset)) + 1
    end = np.interp(onset + length, np.arange(len(clock)), clock) + 1
    order = np.lexsort((pitch, start))
    notes = nt.from_columns(start[order], np.maximum(end, start + 0.05)[order], pitch[order], 80)
    return notes, onset[order]


def shared(rhythm, onset):
    """Compute the share of notes at the same distance from where they should be."""
    return np.unique(rhythm.onset - np.rint(onset * QUARTER).astype(int), return_counts=True)[1].max() / len(onset)


def file(rows, tempo=96, times=(), keys=(), resolution=480):
    """Write a MIDI file of (quarter, quarters, pitch)."""
    song = pretty_midi.PrettyMIDI(resolution=resolution, initial_tempo=tempo)
    song.time_signature_changes = [pretty_midi.TimeSignature(n, d, at * 60 / tempo) for at, n, d in times]
    song.key_signature_changes = [pretty_midi.KeySignature(number, at * 60 / tempo) for at, number in keys]
    piano = pretty_midi.Instrument(0)
    piano.notes = [
        pretty_midi.Note(80, pitch, at * 60 / tempo, (at + length) * 60 / tempo) for at, length, pitch in rows
    ]
    song.instruments.append(piano)
    out = io.BytesIO()
    song.write(out)
    return out.getvalue()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_noisy_waltz_keeps_its_beats(seed):
    notes, onset = waltz(seed=seed)
    rhythm = beats.estimate(notes)
    assert shared(rhythm, onset) >= 0.98
    assert rhythm.bars[-1][2:] == (3, 4)
    assert rhythm.onset.min() == 0
    assert abs(rhythm.tempos[0][1] / 150 - 1) < 0.15


def test_triplets_stand_against_halves():
    left = [(k / 3, 1 / 3, (48, 55, 64, 60, 64, 55)[k % 6]) for k in range(48)]
    right = [(k / 2, 1 / 2, (76, 77, 79, 81)[k % 4]) for k in range(32)]
    rows = sorted(left + right)
    onset = np.array([row[0] for row in rows])
    notes = nt.from_columns(
        onset * 0.8, [(at + length) * 0.8 for at, length, _ in rows], [pitch for *_, pitch in rows], 80
    )
    rhythm = beats.estimate(notes)
    assert shared(rhythm, onset) == 1
    assert rhythm.beat == QUARTER


def test_a_jig_is_compound():
    rows = [(k / 2, 1 / 2, (72, 76, 79)[k % 3]) for k in range(72)] + [(1.5 * k, 1.5, 48) for k in range(24)]
    rows.sort()
    onset = np.array([row[0] for row in rows])
    notes = nt.from_columns(
        onset * 0.45, [(at + length) * 0.45 for at, length, _ in rows], [pitch for *_, pitch in rows], 80
    )
    rhythm = beats.estimate(notes)
    assert rhythm.beat == 3 * QUARTER // 2
    assert rhythm.bars[0].denominator == 8
    assert shared(rhythm, onset) == 1


def test_a_file_keeps_its_own_bars():
    rows = [(0.5, 0.5, 60), (1, 1.5, 64), (2.5, 0.25, 65), (2.75, 0.25, 67), (3, 1 / 3, 69), (10 / 3, 2 / 3, 71)]
    rows += [(9, 3, 72), (12, 2, 74), (14, 1.5, 76)]
    data = file(rows, times=[(0, 3, 4), (12, 2, 4), (14, 6, 8)], keys=[(0, 2), (12, 12 + 9)])
    notes, grid = midi.read(data), midi.grid(data)
    assert [(n, d) for _, n, d in grid.times] == [(3, 4), (2, 4), (6, 8)]
    assert grid.keys[0] == (0.0, 2, False)
    rhythm = beats.on_grid(notes, grid)
    assert rhythm.onset.tolist() == [round(at * QUARTER) for at, *_ in rows]
    assert rhythm.end.tolist() == [round((at + length) * QUARTER) for at, length, _ in rows]
    assert [bar[2:] for bar in rhythm.bars] == [(3, 4)] * 4 + [(2, 4)] + [(6, 8)]
    assert [bar.start / QUARTER for bar in rhythm.bars] == [0, 3, 6, 9, 12, 14]
    assert rhythm.tempos == [(0, 96.0)]


def test_a_performance_in_a_file_of_120_is_not_on_its_grid():
    notes, _ = waltz()
    data = midi.write(notes)
    assert beats.on_grid(midi.read(data), midi.grid(data)) is None


def test_a_part_of_a_file_begins_with_its_first_bar():
    data = file([(k, 1, 60 + k % 5) for k in range(40)], times=[(0, 4, 4)])
    notes = midi.read(data)
    rhythm = beats.on_grid(notes[22:], midi.grid(data))
    assert rhythm.onset[0] == 2 * QUARTER
    assert len(rhythm.bars) == 5


def test_silence_is_shortened_and_bars_stay_few():
    notes = nt.from_tuples([(0.0, 0.5, 60), (3600.0, 3601.0, 64)])
    rhythm = beats.estimate(notes)
    assert len(rhythm.bars) < 30
    assert rhythm.onset[0] < rhythm.onset[1]


def test_hands_divide_chords_and_follow_a_melody_down():
    notes = nt.from_tuples([(t / 2, t / 2 + 0.5, p) for t in range(8) for p in (36, 43, 72 - 2 * t, 76 - 2 * t)])
    right = hands.right_hand(notes)
    assert right.tolist() == [False, False, True, True] * 8
    assert hands.right_hand(nt.empty()).tolist() == []


def test_what_begins_together_is_one_chord():
    assert hands.chords(np.array([0, 0.02, 0.04, 0.06, 1.0])).tolist() == [0, 0, 0, 1, 2]


def test_a_held_note_over_moving_ones_has_its_own_voice():
    half = QUARTER // 2
    onset = np.array([0, 0, 1, 2, 3]) * half
    end = np.array([4, 1, 2, 3, 4]) * half
    chords = voices.arrange(onset, end, np.array([76, 60, 62, 64, 65]), exact=True)
    assert [(c.start // half, c.end // half, c.voice) for c in chords] == [
        (0, 4, voices.UP),
        (0, 1, voices.DOWN),
        (1, 2, voices.DOWN),
        (2, 3, voices.DOWN),
        (3, 4, voices.DOWN),
    ]


def test_chords_of_one_voice_end_where_the_next_begins():
    onset, end = np.array([0, 0, QUARTER]), np.array([QUARTER + 20, QUARTER, 3 * QUARTER // 2])
    chords = voices.arrange(onset, end, np.array([60, 64, 62]), exact=False)
    assert [(c.start, c.end, c.notes, c.voice) for c in chords] == [
        (0, QUARTER, (0, 1), 0),
        (QUARTER, 2 * QUARTER, (2,), 0),
    ]


# --- a file's own grid ---------------------------------------------------------------------------------------------


def song(tracks, tempos=((0, 96),), times=((0, 4, 4),), keys=(), resolution=480):
    """Write a MIDI file, format 1: a track of marks, then one for each list of (quarter, quarters, pitch)."""
    marks = [(at, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))) for at, bpm in tempos]
    marks += [(at, mido.MetaMessage("time_signature", numerator=n, denominator=d)) for at, n, d in times]
    marks += [(at, mido.MetaMessage("key_signature", key=key)) for at, key in keys]
    written = mido.MidiFile(ticks_per_beat=resolution)
    for rows in [marks, *tracks]:
        if rows is not marks:
            on = [(at, mido.Message("note_on", note=pitch, velocity=80)) for at, _, pitch in rows]
            off = [(at + length, mido.Message("note_off", note=pitch)) for at, length, pitch in rows]
            rows = off + on
        track = mido.MidiTrack()
        before = 0
        for at, message in sorted(rows, key=lambda row: row[0]):
            tick = round(at * resolution)
            track.append(message.copy(time=tick - before))
            before = tick
        written.tracks.append(track)
    out = io.BytesIO()
    written.save(file=out)
    return out.getvalue()


def on_grid(data):
    return beats.on_grid(midi.read(data), midi.grid(data))


def settled(rhythm, notes):
    """Give the onsets in quarters after each beat of the staves is divided into slots."""
    return (voices.settle(rhythm, np.where(hands.right_hand(notes), 0, 1))[0].onset / QUARTER).tolist()


@pytest.mark.parametrize("count", [5, 7, 9, 10])
@pytest.mark.parametrize(("tempo", "resolution"), [(60, 480), (93, 220), (120, 960)])
def test_tuplets_are_on_the_grid(count, tempo, resolution):
    rows = [(k / count, 1 / count, 72 + k % 5) for k in range(8 * count)]
    data = song([rows, [(k, 1, pitch) for k in range(8) for pitch in (43, 48)]], [(0, tempo)], resolution=resolution)
    notes, rhythm = midi.read(data), on_grid(data)
    assert [bar[2:] for bar in rhythm.bars] == [(4, 4), (4, 4)]
    assert rhythm.tempos == [(0, tempo)]
    right = hands.right_hand(notes)
    assert np.array(settled(rhythm, notes))[right] == pytest.approx([at for at, *_ in rows], abs=1e-4)


def test_music_of_150_in_a_file_of_120_is_no_quintuplets():
    rows = [(0.2 * k, 0.2, 72 + k % 5) for k in range(160)]
    chords = [(0.8 * k, 0.8, pitch) for k in range(40) for pitch in (43, 48)]
    assert on_grid(song([rows + chords], [(0, 120)])) is None


def test_a_passage_that_is_not_on_the_grid_leaves_bars_and_tempo_around_it_alone():
    rng = np.random.default_rng(0)
    grid = [(k / 2, 1 / 2, 60 + k % 12) for k in range(64)]  # eight bars
    free = [(at, 0.2, 70) for at in np.sort(rng.uniform(32, 64, 64)).tolist()]
    later = [(64 + k / 2, 1 / 2, 60 + k % 12) for k in range(64)]
    rhythm = on_grid(song([grid + free + later], [(0, 80), (48, 100)]))
    assert {bar[2:] for bar in rhythm.bars} == {(4, 4)} and len(rhythm.bars) == 24
    assert rhythm.tempos == [(0, 80.0), (48 * QUARTER, 100.0)]
    onset = rhythm.onset / QUARTER
    assert onset[:64].tolist() == [k / 2 for k in range(64)]
    assert onset[-64:].tolist() == [64 + k / 2 for k in range(64)]


def test_a_beat_that_was_played_freely_has_few_slots():
    rows = [(at + late, 0.2, 72) for at, late in ((0, 0.02), (0.25, -0.03), (0.5, 0.03), (0.75, 0.02))]
    rows += [(1 + k / 4, 0.25, 72) for k in range(60)]
    data = song([rows])
    assert settled(on_grid(data), midi.read(data)) == [k / 4 for k in range(64)]


@pytest.mark.parametrize("count", [11, 13])
def test_a_run_that_cannot_be_written_exactly_keeps_its_beat_and_its_notes(count):
    rows = [(k / count, 1 / count, 72 + k % 2) for k in range(count)] + [(k, 1, 48) for k in range(1, 64)]
    data = song([rows])
    onset = settled(on_grid(data), midi.read(data))
    assert len(set(onset[:count])) == count
    assert onset[:count] == pytest.approx([at for at, *_ in rows[:count]], abs=1 / 16)
    assert onset[count:] == list(range(1, 64))


def test_all_changes_of_tempo_are_kept():
    rows = [(k, 1, 60) for k in range(16)]
    tempos = [(0, 100), (2, 90), (2, 50), (3.5, 40.25), (8, 120), (9, 120)]
    rhythm = on_grid(song([rows], tempos))
    assert [(at / QUARTER, tempo) for at, tempo in rhythm.tempos] == [(0, 100), (2, 50), (3.5, 40.25), (8, 120)]


def test_bars_in_which_nothing_begins_are_left_out_from_the_ninth_on():
    data = song([[(0, 1, 60), (5, 60, 62), (21600, 1, 64)]], [(0, 120), (100, 60), (21600, 90)])
    rhythm = on_grid(data)
    assert len(rhythm.bars) == 2 + beats.RESTS + 1
    assert (rhythm.onset / QUARTER).tolist() == [0, 5, 40]
    assert rhythm.end[1] / QUARTER == 40  # held until the bars that are left out, which end at bar 11
    assert rhythm.tempos == [(0, 120.0), (40 * QUARTER, 90.0)]
    assert rhythm.omitted == [(40 * QUARTER, pytest.approx((100 - 40) / 2 + 21500))]
    assert len(on_grid(song([[(0, 1, 60), (4 * (beats.RESTS + 1), 1, 62)]])).bars) == beats.RESTS + 2


def test_two_tracks_that_are_plainly_two_hands_keep_them():
    upper = [(k, 1, 55 + k % 3) for k in range(16)]  # crosses what would be guessed to be the left hand's
    lower = [(k + 0.5, 0.5, 48 + k % 3) for k in range(16)]
    for tracks in ([upper, lower], [lower, upper]):
        data = song(tracks)
        notes = midi.read(data)
        assert hands.right_hand(notes).tolist() != (notes["pitch"] >= 55).tolist()
        assert hands.of_file(notes, midi.grid(data).hands).tolist() == (notes["pitch"] >= 55).tolist()
        part = nt.shift(nt.excerpt(notes, 3, 3), 3)
        assert hands.of_file(part, midi.grid(data).hands).tolist() == (part["pitch"] >= 55).tolist()
    assert midi.grid(song([upper])).hands is None
    assert midi.grid(song([upper, lower, lower])).hands is None


def test_two_tracks_that_are_no_two_hands_are_guessed():
    melody = [(k, 1, 76) for k in range(8)]
    accompaniment = [(k, 1, pitch) for k in range(8) for pitch in (36, 60, 64)]
    for tracks in ([melody, accompaniment], [melody, [(at, length, 74) for at, length, _ in melody]]):
        data = song(tracks)
        notes = midi.read(data)
        assert hands.of_file(notes, midi.grid(data).hands).tolist() == hands.right_hand(notes).tolist()


def beat_onsets(notes, grid):
    """Give each note's distance from the nearest beat of a grid, in quarters."""
    position = np.interp(notes["start"], grid.seconds, grid.quarters)
    return np.abs(position - np.rint(position))


@pytest.mark.parametrize("silence", [0.0, 7.3, 3600.0])
def test_estimated_beats_are_a_tempo_map_from_second_0_on(silence):
    notes, onset = waltz(tempo=150.0)
    notes = nt.shift(notes, silence)
    grid = beats.estimated_grid(notes)
    assert (grid.seconds[0], grid.quarters[0]) == (0, 0) and (np.diff(grid.seconds) > 0).all()
    assert grid.times[-1][1:] == (3, 4) and len(grid.times) <= 2
    assert np.mean(beat_onsets(notes[onset % 1 == 0], grid) < 0.1) > 0.95
    bars = (np.interp(notes["start"][onset % 3 == 0], grid.seconds, grid.quarters) - grid.times[-1][0]) % 3
    assert np.mean(np.minimum(bars, 3 - bars) < 0.15) > 0.95  # the first beats of the music are first beats
    written = midi.read(midi.write(notes, None, grid))
    np.testing.assert_allclose(written["start"], notes["start"], atol=0.0005, rtol=0)


def test_a_long_silence_is_whole_bars_of_the_estimated_tempo_map():
    notes, _ = waltz(tempo=150.0)
    later = nt.shift(notes, nt.length(notes) + 600.0)
    both = np.concatenate([notes, later])
    grid, rhythm = beats.estimated_grid(both), beats.estimate(both)
    assert np.diff(grid.seconds)[:-1].max() < 2  # no beat of ten minutes
    bar = rhythm.bars[1].length / QUARTER
    position = np.interp(later["start"][0], grid.seconds, grid.quarters) - grid.times[-1][0]
    expected = (rhythm.onset[len(notes)] - rhythm.bars[1].start) / QUARTER  # where the silence is left out
    assert abs((position - expected + 0.5) % bar - 0.5) < 0.1
    np.testing.assert_allclose(midi.read(midi.write(later, None, grid))["start"], later["start"], atol=0.0005, rtol=0)


def test_an_estimated_grid_keeps_keys_and_names():
    notes, _ = waltz()
    own = midi.grid(midi.write(notes))
    own = dataclasses.replace(own, keys=[(0.0, 2, False)], names=[(0, 3, b"Piano")], ticks_per_quarter=96)
    grid = beats.estimated_grid(notes, own)
    assert (grid.keys, grid.names, grid.ticks_per_quarter) == (own.keys, own.names, 96)


def test_what_continues_a_file_is_on_its_grid_also_between_the_beats():
    notes = midi.read(file([(k, 1, 60) for k in range(16)], tempo=90, times=[(0, 3, 4)]))
    grid = midi.grid(midi.write(notes, None, midi.grid(file([(0, 1, 60)], tempo=90, times=[(0, 3, 4)]))))
    new = nt.shift(nt.from_tuples([(k * 0.61, k * 0.61 + 0.5, 72) for k in range(40)]), nt.length(notes) + 60)
    assert beats.is_on_grid(notes, grid) and not beats.is_on_grid(new, grid)
    rhythm = beats.on_grid(new, grid, exact=True)
    assert rhythm.exact and {bar[2:] for bar in rhythm.bars} == {(3, 4)} and rhythm.tempos == [(0, 90.0)]
    assert np.abs(np.diff(rhythm.onset) - 0.61 * 1.5 * QUARTER).max() <= 20  # far behind the end of the file
    assert not beats.is_on_grid(notes, None) and not beats.is_on_grid(nt.empty(), grid)
