"""Notes → the bytes of a MIDI file. Knows nothing of how files are read.

Each program has a track, and a channel of its own as long as there are some: 15 beside that of the drums. Programs that
share a channel change it where their notes begin.
"""

import numpy as np

from music import notes as nt
from music.midi.grids import Clock, Grid
from music.midi.grids import clock as clock_of
from music.midi.note_pairing import DRUM_CHANNEL, next_onset
from music.midi.parser import CONTROL, KEY, NOTE_OFF, NOTE_ON, PROGRAM, SUSTAIN, TEMPO, TIME
from music.midi.pedal import release_keys
from music.notes import DRUMS, Notes

TICKS_PER_QUARTER = 500
_TICK = 0.001  # seconds, at 120 quarters a minute
_END = b"\0\xff\x2f\0"
_RELEASE = 64  # the velocity of a release
_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
_META, _PEDAL, _OFF, _CHANGE, _ON = range(5)  # the order of events at one tick
_DOWN, _UP = 127, 0  # values of the pedal's controller


def write(notes: Notes, before: Notes | None = None, grid: Grid | None = None, *, pedal: bool = False) -> bytes:
    """Write Notes as a Standard MIDI File of ticks of 1 ms or less; a note lasts at least one tick.

    A note ends at the latest where its key is struck again: MIDI cannot say which of two notes a release ends.

    Args:
        notes: their channels are those of no other program, unless they have more than 15 programs themselves.
        before: what `notes` continue. Where channels run out, its programs share some.
        grid: the tempo map, metres, keys and names to write; times of notes stay. None, or one that has more ticks up
            to the last note than a file can have: 120 quarters a minute and 4/4.
        pedal: write a sustain pedal (CC64), and release keys earlier; `read` reads the same notes.
    """
    before = nt.empty() if before is None else before
    every = np.concatenate([before, notes])
    programs, group = np.unique(every["program"], return_inverse=True)
    channel = np.array(_channels(every, programs, group, len(before)), "i8")[group]
    key = channel << 7 | every["pitch"]
    clock = clock_of(grid, nt.length(every)) if grid else None
    start, end, restruck = _ticks(every, key, clock)
    tracks: list[list[tuple[int, int, bytes]]] = [[] for _ in programs]  # (tick, order at one tick, message)
    for k, first in _changes(every["program"], channel, start):
        message = bytes((PROGRAM << 4 | channel[k], every["program"][k] % DRUMS))
        tracks[group[k]].append((0 if first else int(start[k]), _CHANGE, message))
    if pedal:
        held = np.flatnonzero(every["program"] != DRUMS)
        end[held], presses = release_keys(channel[held], start[held], end[held], restruck[held])
        for press in presses:
            events, status = tracks[group[np.argmax(channel == press.channel)]], CONTROL << 4 | press.channel
            events.append((press.down, _PEDAL, bytes((status, SUSTAIN, _DOWN))))
            events.append((press.up, _PEDAL, bytes((status, SUSTAIN, _UP))))
    columns = (group, channel, every["pitch"], every["velocity"], start, end)
    for g, c, pitch, velocity, on, off in zip(*(column.tolist() for column in columns), strict=True):
        tracks[g].append((on, _ON, bytes((NOTE_ON << 4 | c, pitch, velocity))))
        tracks[g].append((off, _OFF, bytes((NOTE_OFF << 4 | c, pitch, _RELEASE))))
    conductor = [(0, _META, tempo_event(500_000)), (0, _META, time_event(4, 4))]
    if grid and clock:
        conductor = _marks(grid, clock, int(end.max(initial=0)))
    owners = {None: conductor, **dict(zip(programs.tolist(), tracks, strict=True))}
    for program, kind, text in grid.names if grid else ():
        owners.get(program, []).append((0, _META, _meta(kind, text)))
    quarter = clock.ticks_per_quarter if clock else TICKS_PER_QUARTER
    head = b"".join(number.to_bytes(2) for number in (1, 1 + len(tracks), quarter))
    return chunk(b"MThd", head) + b"".join(map(track, [conductor, *tracks]))


def _marks(grid: Grid, clock: Clock, last: int) -> list[tuple[int, int, bytes]]:
    """Make the events of tempos, metres and keys up to tick `last`; of those at one tick the last one counts."""
    marks = {}
    new = np.diff(clock.tempos, prepend=0) != 0
    for tick, tempo in zip(clock.ticks[new].tolist(), clock.tempos[new].tolist(), strict=True):
        marks[tick, TEMPO] = tempo_event(tempo)
    for position, numerator, denominator in grid.times:
        marks[_tick(position, clock), TIME] = time_event(numerator, denominator)
    for position, sharps, minor in grid.keys:
        marks[_tick(position, clock), KEY] = key_event(sharps, minor)
    return [(tick, _META, message) for (tick, _), message in marks.items() if tick <= last]


def _tick(position: float, clock: Clock) -> int:
    """Find the tick at a position in quarters; what lies before the file's beginning counts from its beginning."""
    return max(round((position - clock.begin) * clock.ticks_per_quarter), 0)


def _channels(notes: Notes, programs: np.ndarray, group: np.ndarray, new: int) -> list[int]:
    """Choose a channel for each program: first for those of notes[new:], then for the others, by their first onset.

    A program that gets none of its own shares the channel that falls silent first, but none of notes[new:].
    """
    channels = [DRUM_CHANNEL] * len(programs)
    free = list(_CHANNELS)
    silent: dict[int, float] = {}  # a channel: the second from which it is silent
    first, last = np.full(len(programs), np.inf), np.zeros(len(programs))
    np.minimum.at(first, group, notes["start"])
    np.maximum.at(last, group, notes["end"])
    is_new = np.isin(np.arange(len(programs)), group[new:])
    taken: set[int] = set()  # by notes[new:]
    for g in np.lexsort((first, ~is_new)).tolist():
        if programs[g] == DRUMS:
            continue
        shared = {channel: second for channel, second in silent.items() if channel not in taken} or silent
        channels[g] = free.pop(0) if free else min(shared, key=shared.__getitem__)
        silent[channels[g]] = max(last[g], silent.get(channels[g], 0.0))
        if is_new[g]:
            taken.add(channels[g])
    return channels


def _ticks(notes: Notes, key: np.ndarray, clock: Clock | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round starts and ends to ticks, int64 [n] each; an end is at the latest where its key is struck again.

    Returns:
        Starts, ends, and whether a note ends where its key is struck again, bool [n].
    """
    start, end = (clock.to_ticks(notes[name]) if clock else np.rint(notes[name] / _TICK) for name in ("start", "end"))
    start = start.astype("i8")
    order = np.lexsort((start, key))
    again = np.empty(len(notes), "i8")
    again[order] = next_onset(key[order], start[order])
    end = np.maximum(np.minimum(end, again), start + 1).astype("i8")
    return start, end, end == again


def _changes(program: np.ndarray, channel: np.ndarray, start: np.ndarray) -> list[tuple[int, bool]]:
    """List the notes before which their channel's program changes, each with whether it is the channel's first one."""
    order = np.lexsort((start, channel))
    first = np.diff(channel[order], prepend=-1) != 0
    changed = np.flatnonzero(first | (np.diff(program[order], prepend=-1) != 0))
    return list(zip(order[changed].tolist(), first[changed].tolist(), strict=True))


def track(events: list[tuple[int, int, bytes]]) -> bytes:
    """Write a track's events, each (tick, order at one tick, message), and its end."""
    body, now = bytearray(), 0
    for tick, _, message in sorted(events):
        body += _length(tick - now) + message
        now = tick
    return chunk(b"MTrk", bytes(body) + _END)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Write a chunk of a file: its kind in four letters, its length and its body."""
    return kind + len(body).to_bytes(4) + body


def tempo_event(microseconds: int) -> bytes:
    """Write a tempo, in microseconds a quarter, as a message of a track."""
    return _meta(TEMPO, microseconds.to_bytes(3))


def time_event(numerator: int, denominator: int) -> bytes:
    """Write a time signature as a message of a track; the denominator is a power of 2."""
    return _meta(TIME, bytes((numerator, denominator.bit_length() - 1, 24, 8)))


def key_event(sharps: int, minor: bool) -> bytes:
    """Write a key signature as a message of a track; flats are sharps below 0."""
    return _meta(KEY, bytes((sharps % 256, minor)))


def _meta(kind: int, data: bytes) -> bytes:
    return bytes((0xFF, kind)) + _length(len(data)) + data


def _length(ticks: int) -> bytes:
    """Write a number of ticks with seven bits a byte."""
    if ticks < 0x80:
        return bytes((ticks,))
    return bytes((*(ticks >> shift & 0x7F | 0x80 for shift in (21, 14, 7) if ticks >> shift), ticks & 0x7F))
