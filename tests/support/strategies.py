"""Strategies for hypothesis: Notes, encodings and raw MIDI files, small and full of edge cases.

Times are drawn as whole ticks or milliseconds, so that a failing example shrinks to something that can be read.
"""

import io

import mido
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from music import notes as nt
from music.encodings import NoteRows
from music.encodings.columns import Column

law = settings(max_examples=100, deadline=None, derandomize=True)  # the same examples on every machine

LOWEST, HIGHEST = 21, 108  # the piano's keys
PITCH = Column("pitch", LOWEST, HIGHEST, 88)
VELOCITY = Column("velocity", 1, 127, 127)  # fine enough to tell notes apart by

LINEAR = NoteRows(Column("step", 0, 10, 1001), PITCH, VELOCITY, Column("duration", 0, 20, 2001))
COARSE = NoteRows(Column("step", 0.05, 8, 54), PITCH, VELOCITY, Column("duration", 0.1, 8, 33))
LOG = NoteRows(Column("step", 0.01, 10, 90, "log"), PITCH, VELOCITY, Column("duration", 0.02, 20, 60, "log"))
TIME = NoteRows(
    PITCH, Column("step", 0, 10, 133, "time"), Column("duration", 0.01, 20, 149, "time", exact=0.5), VELOCITY
)
NO_DURATION = NoteRows(Column("step", 0, 10, 133, "time"), PITCH, VELOCITY)
ENCODINGS = [LINEAR, COARSE, LOG, TIME, NO_DURATION]

encodings = st.sampled_from(ENCODINGS)


@st.composite
def notes(draw, max_size: int = 25, lowest: int = LOWEST, highest: int = HIGHEST, unit: float = 0.001):
    """Draw notes on a grid of `unit` seconds: chords, runs, rests of up to 4 s; every note has its own velocity."""
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 4, 95, 250, 1003, 4000]) | st.integers(0, 300), max_size=max_size))
    size = len(gaps)
    durations = draw(st.lists(st.integers(1, 500) | st.integers(1, 7000), min_size=size, max_size=size))
    pitches = draw(st.lists(st.integers(lowest, highest), min_size=size, max_size=size))
    start = np.cumsum(np.array([draw(st.integers(0, 5000)), *gaps], "i8"))[1:]
    unsorted = nt.from_columns(start * unit, (start + np.array(durations, "i8")) * unit, pitches, 1 + np.arange(size))
    return nt.sort(unsorted)


_TICKS = st.integers(0, 16).map(lambda k: 120 * k) | st.integers(0, 1920)  # many events share a tick


@st.composite
def midi_files(draw, pedal: bool = True):
    """Draw the bytes of a MIDI file: tempo changes, up to three instruments, overlaps of different pitches, pedals.

    Every pitch is released before it is struck again, tempos are in track 0, and every pedal event is on the channel of
    its notes: such files all readers read alike.
    """
    file = mido.MidiFile(ticks_per_beat=draw(st.sampled_from([96, 384, 480, 960])))
    tempos = draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(50_000, 2_000_000)), max_size=6))
    events = [(tick, mido.MetaMessage("set_tempo", tempo=tempo)) for tick, tempo in tempos]
    tracks = [events]
    for channel in range(draw(st.integers(0, 3))):
        channel = draw(st.sampled_from([channel, 9])) if channel == 2 else channel
        tracks.append(draw(_track(channel, pedal)))
    file.tracks.extend(track(events) for events in tracks)
    return midi_bytes(file)


@st.composite
def _track(draw, channel: int, pedal: bool):
    events = [(0, mido.Message("program_change", channel=channel, program=draw(st.sampled_from([0, 0, 40, 127]))))]
    for pitch in draw(st.lists(st.integers(0, 127), unique=True, max_size=5)):
        clock = 0
        for rest, held in draw(st.lists(st.tuples(_TICKS, _TICKS), min_size=1, max_size=4)):
            velocity = draw(st.integers(1, 127))
            events.append((clock + rest, mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)))
            clock += rest + held
            events.append((clock, mido.Message("note_off", channel=channel, note=pitch)))
    if pedal:
        for tick, value in draw(st.lists(st.tuples(_TICKS, st.integers(0, 127)), max_size=12)):
            events.append((tick, mido.Message("control_change", channel=channel, control=64, value=value)))
    return events


def track(events) -> mido.MidiTrack:
    """Build a track of (tick, message) pairs in any order; those at one tick keep their order."""
    messages, clock = mido.MidiTrack(), 0
    for tick, message in sorted(events, key=lambda event: event[0]):
        messages.append(message.copy(time=tick - clock))
        clock = tick
    return messages


def midi_bytes(file: mido.MidiFile) -> bytes:
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()
