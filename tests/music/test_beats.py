"""Hands, beats and bars."""

import io

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
    assert abs(rhythm.tempo / 150 - 1) < 0.15


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
    assert rhythm.beat == 720
    assert rhythm.bars[0].denominator == 8
    assert shared(rhythm, onset) == 1


def test_a_file_keeps_its_own_bars():
    rows = [(0.5, 0.5, 60), (1, 1.5, 64), (2.5, 0.25, 65), (2.75, 0.25, 67), (3, 1 / 3, 69), (10 / 3, 2 / 3, 71)]
    rows += [(9, 3, 72), (12, 2, 74), (14, 1.5, 76)]
    data = file(rows, times=[(0, 3, 4), (12, 2, 4), (14, 6, 8)], keys=[(0, 2), (12, 12 + 9)])
    notes, grid = midi.read(data), midi.grid(data)
    assert [(n, d) for _, n, d in grid.times] == [(3, 4), (2, 4), (6, 8)]
    assert grid.keys[0] == (0.0, 2)
    rhythm = beats.on_grid(notes, grid)
    assert rhythm.onset.tolist() == [round(at * QUARTER) for at, *_ in rows]
    assert rhythm.end.tolist() == [round((at + length) * QUARTER) for at, length, _ in rows]
    assert [bar[2:] for bar in rhythm.bars] == [(3, 4)] * 4 + [(2, 4)] + [(6, 8)]
    assert [bar.start for bar in rhythm.bars] == [0, 1440, 2880, 4320, 5760, 6720]
    assert rhythm.tempo == pytest.approx(96, rel=1e-4)


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
    onset = np.array([0, 0, 240, 480, 720])
    end = np.array([960, 240, 480, 720, 960])
    chords = voices.arrange(onset, end, np.array([76, 60, 62, 64, 65]), exact=True)
    assert [(c.start, c.end, c.voice) for c in chords] == [
        (0, 960, voices.UP),
        (0, 240, voices.DOWN),
        (240, 480, voices.DOWN),
        (480, 720, voices.DOWN),
        (720, 960, voices.DOWN),
    ]


def test_chords_of_one_voice_end_where_the_next_begins():
    chords = voices.arrange(np.array([0, 0, 480]), np.array([500, 480, 700]), np.array([60, 64, 62]), exact=False)
    assert [(c.start, c.end, c.notes, c.voice) for c in chords] == [(0, 480, (0, 1), 0), (480, 960, (2,), 0)]
