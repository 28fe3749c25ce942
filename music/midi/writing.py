"""Notes → the bytes of a MIDI file. Knows nothing of how files are read.

Each program has a track, and a channel of its own as long as there are some: 15 beside that of the drums. Programs that
share a channel change it where their notes begin.
"""

import numpy as np

from music import notes as nt
from music.midi.note_pairing import DRUM_CHANNEL, next_onset
from music.midi.parser import CONTROL, NOTE_OFF, NOTE_ON, PROGRAM, SUSTAIN
from music.midi.pedal import release_keys
from music.notes import DRUMS, Notes

TICKS_PER_QUARTER = 500
_TICK = 0.001  # seconds, at 120 quarters a minute
_TEMPO = b"\xff\x51\3\7\xa1\x20"  # 500,000 microseconds a quarter
_TIME = b"\xff\x58\4\4\2\x18\x08"  # 4/4
_END = b"\0\xff\x2f\0"
_RELEASE = 64  # the velocity of a release
_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
_PEDAL, _OFF, _CHANGE, _ON = range(4)  # the order of events at one tick
_DOWN, _UP = 127, 0  # values of the pedal's controller


def write(notes: Notes, before: Notes | None = None, *, pedal: bool = False) -> bytes:
    """Write Notes as a Standard MIDI File of 1 ms ticks; a note lasts at least one tick.

    A note ends at the latest where its key is struck again: MIDI cannot say which of two notes a release ends.

    Args:
        notes: their channels are those of no other program, unless they have more than 15 programs themselves.
        before: what `notes` continue. Where channels run out, its programs share some.
        pedal: write a sustain pedal (CC64), and release keys earlier; `read` reads the same notes.
    """
    before = nt.empty() if before is None else before
    every = np.concatenate([before, notes])
    programs, group = np.unique(every["program"], return_inverse=True)
    channel = np.array(_channels(every, programs, group, len(before)), "i8")[group]
    key = channel << 7 | every["pitch"]
    start, end, restruck = _ticks(every, key)
    tracks: list[list[tuple[int, int, bytes]]] = [[] for _ in programs]  # (tick, order at one tick, message)
    for k, first in _changes(every["program"], channel, start):
        message = bytes((PROGRAM << 4 | channel[k], every["program"][k] % DRUMS))
        tracks[group[k]].append((0 if first else int(start[k]), _CHANGE, message))
    if pedal:
        held = np.flatnonzero(every["program"] != DRUMS)
        end[held], presses = release_keys(channel[held], start[held], end[held], restruck[held])
        for press in presses:
            track, status = tracks[group[np.argmax(channel == press.channel)]], CONTROL << 4 | press.channel
            track.append((press.down, _PEDAL, bytes((status, SUSTAIN, _DOWN))))
            track.append((press.up, _PEDAL, bytes((status, SUSTAIN, _UP))))
    columns = (group, channel, every["pitch"], every["velocity"], start, end)
    for g, c, pitch, velocity, on, off in zip(*(column.tolist() for column in columns), strict=True):
        tracks[g].append((on, _ON, bytes((NOTE_ON << 4 | c, pitch, velocity))))
        tracks[g].append((off, _OFF, bytes((NOTE_OFF << 4 | c, pitch, _RELEASE))))
    conductor = _chunk(b"MTrk", b"\0" + _TEMPO + b"\0" + _TIME + _END)
    head = b"".join(number.to_bytes(2) for number in (1, 1 + len(tracks), TICKS_PER_QUARTER))
    return _chunk(b"MThd", head) + conductor + b"".join(map(_track, tracks))


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


def _ticks(notes: Notes, key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round starts and ends to ticks, int64 [n] each; an end is at the latest where its key is struck again.

    Returns:
        Starts, ends, and whether a note ends where its key is struck again, bool [n].
    """
    start = np.rint(notes["start"] / _TICK).astype("i8")
    order = np.lexsort((start, key))
    again = np.empty(len(notes), "i8")
    again[order] = next_onset(key[order], start[order])
    end = np.maximum(np.minimum(np.rint(notes["end"] / _TICK), again), start + 1).astype("i8")
    return start, end, end == again


def _changes(program: np.ndarray, channel: np.ndarray, start: np.ndarray) -> list[tuple[int, bool]]:
    """List the notes before which their channel's program changes, each with whether it is the channel's first one."""
    order = np.lexsort((start, channel))
    first = np.diff(channel[order], prepend=-1) != 0
    changed = np.flatnonzero(first | (np.diff(program[order], prepend=-1) != 0))
    return list(zip(order[changed].tolist(), first[changed].tolist(), strict=True))


def _track(events: list[tuple[int, int, bytes]]) -> bytes:
    body, now = bytearray(), 0
    for tick, _, message in sorted(events):
        body += _length(tick - now) + message
        now = tick
    return _chunk(b"MTrk", bytes(body) + _END)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + len(body).to_bytes(4) + body


def _length(ticks: int) -> bytes:
    """Write a number of ticks with seven bits a byte."""
    if ticks < 0x80:
        return bytes((ticks,))
    return bytes((*(ticks >> shift & 0x7F | 0x80 for shift in (21, 14, 7) if ticks >> shift), ticks & 0x7F))
