"""The bytes of a Standard MIDI File → its events, in ticks, and what was damaged. Knows nothing of notes.

It uses numpy alone: no native code of another library reads a stranger's bytes, so none can crash on them. Memory and
time grow with the size of the file, never with a number that it states. A damaged file is read as far as it makes
sense, with a warning for each kind of damage. Only one that does not say how long a tick is (no header, no division) is
an error. Of text only the names of tracks and instruments are kept, as bytes. Other text, system-exclusive and most
meta events are skipped unread, so their content has no effect.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from music.errors import MidiError
from music.midi import file_kinds

MOST_BYTES = 20_000_000  # MAESTRO's largest file has 0.5 million; reading takes 6 s and 1 GB at the worst
MOST_TRACKS = 65_535  # a header cannot announce more
MOST_TICKS = 2**31 - 1  # from the beginning to the last event: at 480 a quarter and the usual tempo 25 days
NOTE_OFF, NOTE_ON, CONTROL, PROGRAM = 0x8, 0x9, 0xB, 0xC  # the upper half of a status byte
SUSTAIN = 64  # the controller number of the sustain pedal
SILENCES = (120, 123, 124, 125, 126, 127)  # "all sound off", "all notes off", and the modes, which release keys, too
RPN_HIGH, RPN_LOW, DATA = 101, 100, 6  # the controllers that choose a registered parameter, and set it
_RESET = 121  # the controller number of "reset all controllers", which is stored as a pedal that lifts
TEMPO, TIME, KEY = 0x51, 0x58, 0x59  # meta events
TRACK_NAME, INSTRUMENT_NAME = 0x03, 0x04  # meta events
_LONGEST_NAME = 128  # bytes; the rest of a longer name is left out
_NAMES = {TEMPO: "a tempo", TIME: "a time signature", KEY: "a key signature"}
_END = 0x2F
_STORED = [kind in (NOTE_OFF, NOTE_ON, CONTROL, PROGRAM) for kind in range(16)]  # which events are stored
_CONTROLLERS = np.isin(np.arange(128), (SUSTAIN, _RESET, RPN_HIGH, RPN_LOW, DATA, *SILENCES))  # which are stored
_TWO = np.array([status < 0xC0 or 0xE0 <= status < 0xF0 for status in range(256)])  # two data bytes, or no status
_SINGLE, _WINDOW = 16, 2048  # events read one by one before some are read at once; bytes of the first such window
_SYSTEM = {0xF1: 1, 0xF2: 2, 0xF3: 1}  # data bytes of system messages, which no file may hold; 0 for the others
_FRAMES = {24: (24, 1_000_000), 25: (25, 1_000_000), 29: (30, 1_001_000), 30: (30, 1_000_000)}  # 29 is 30 / 1.001


@dataclass(frozen=True)
class File:
    """A file's events of notes, programs and some controllers, in the order of time; at one tick track after track.

    A song is what shares channels and tempos: all tracks of a file, but each track of a file of format 2, and the
    tracks behind each header where there are several.
    """

    song: np.ndarray  # int64 [events]: which song, from 0
    track: np.ndarray  # int64 [events]: which track, from 0
    tick: np.ndarray  # int64 [events]: from the file's beginning
    status: np.ndarray  # uint8 [events]: kind and channel
    first: np.ndarray  # uint8 [events]: key, controller or program
    second: np.ndarray  # uint8 [events]: velocity or value
    marks: list[tuple[int, int, int, bytes]]  # (song, tick, TEMPO | TIME | KEY, data), sorted; all of them make sense
    names: list[tuple[int, int, bytes]]  # (track, TRACK_NAME | INSTRUMENT_NAME, text), one a track and kind; none empty
    songs: int  # how many; 1 at least
    end: int  # the tick of the last event of all
    ticks_per_quarter: int
    tempo: int | None  # microseconds a quarter if the clock is SMPTE's, which no mark changes; else None
    warnings: list[str]


class _Faults:
    """Collects damage: of each kind the message of the first fault, and how many faults there were."""

    def __init__(self):
        self._by_kind: dict[str, list] = {}  # kind: [how many, message of the first]

    def add(self, kind: str, byte: int, track: int = 0, *values: object) -> None:
        """Count a fault. `kind` is one of few messages; the values of the first fault are formatted into it."""
        if kind in self._by_kind:
            self._by_kind[kind][0] += 1
        else:
            position = f"track {track}, byte {byte:,}" if track else f"byte {byte:,}"
            self._by_kind[kind] = [1, f"{position}: {kind.format(*values)}"]

    def messages(self) -> list[str]:
        """List one message for each kind of damage."""
        return [
            line + (f" (and {count - 1:,} more of this)" if count > 1 else "") for count, line in self._by_kind.values()
        ]


def read(data: bytes) -> File:
    """Read the bytes of a file.

    Raises:
        MidiError: the bytes are no MIDI or too many, or their header does not say how long a tick is.
    """
    if len(data) > MOST_BYTES:
        raise MidiError(f"too large for a MIDI file: expected at most {MOST_BYTES:,} bytes, got {len(data):,}")
    faults = _Faults()
    start, stop = _find_midi(data)
    data = bytes(data[:stop])
    after, announced, ticks_per_quarter, tempo, independent = _header(data, start, faults)
    events, sizes, songs, marks, names, end = [], [], [], [], [], 0
    for number, (begin, stop, headers) in enumerate(_tracks(data, after, faults)):
        if number == MOST_TRACKS:
            faults.add("more than {:,} tracks; the others are left out", begin - 8, 0, MOST_TRACKS)
            break
        track = _Track(data, begin, stop, number + 1, faults)
        track.read()
        events += track.events
        sizes.append(sum(map(len, track.events)))
        songs.append(number if independent else headers)
        marks += [(songs[-1], *mark) for mark in track.marks]
        names += [(number, kind, text) for kind, text in track.names.items()]
        end = max(end, track.tick)
    if len(sizes) != announced:
        faults.add("the header announces {:,} tracks, there are {:,}", start + 10, 0, announced, len(sizes))
    packed, track_of = np.concatenate([np.empty(0, "i8"), *events]), np.repeat(np.arange(len(sizes)), sizes)
    if np.count_nonzero(sizes) > 1:
        order = np.argsort(packed >> 24, kind="stable")
        packed, track_of = packed[order], track_of[order]
    return File(
        song=np.array(songs, "i8")[track_of],
        track=track_of,
        tick=packed >> 24,
        status=(packed >> 16).astype("u1"),
        first=(packed >> 8).astype("u1"),
        second=packed.astype("u1"),
        marks=sorted(marks, key=lambda mark: mark[:2]),
        names=names,
        songs=max(songs, default=0) + 1,
        end=end,
        ticks_per_quarter=ticks_per_quarter,
        tempo=tempo,
        warnings=faults.messages(),
    )


def _find_midi(data: bytes) -> tuple[int, int]:
    """Find where the MIDI begins and stops: all bytes, or one chunk inside the RIFF of an .rmi file."""
    if data[:4] == b"RIFF" and data[8:12] == b"RMID" and (start := data.find(b"MThd", 12, 4096)) >= 0:
        size = int.from_bytes(data[start - 4 : start], "little")
        stop, next = start + size, start + size + size % 2
        behind = bytes(data[next : next + 4])  # another chunk, such as a title, if the stated size is right
        is_data = data[start - 8 : start - 4] == b"data" and stop <= len(data)
        return start, stop if is_data and (not behind or (_is_chunk(behind) and behind != b"MTrk")) else len(data)
    if data[:4] != b"MThd":
        kind = file_kinds.kind_of(data)
        reason = f"this is {kind}" if kind else f"expected it to begin with b'MThd', got {bytes(data[:4])!r}"
        raise MidiError(f"not a MIDI file: {reason}")
    return 0, len(data)


def _header(data: bytes, start: int, faults: _Faults) -> tuple[int, int, int, int | None, bool]:
    """Read the header.

    Returns:
        Where the tracks begin, how many are announced, ticks per quarter, microseconds a quarter (None unless SMPTE's),
        and whether each track is a song of its own.

    Raises:
        MidiError: the header is cut, or does not say how long a tick is.
    """
    if len(data) < start + 14:
        raise MidiError(f"damaged MIDI: the header is cut, expected 14 bytes, got {len(data) - start}")
    size, format, tracks = (_number(data, start + offset, count) for offset, count in ((4, 4), (8, 2), (10, 2)))
    after = start + 8 + size
    if size < 6 and data[after : after + 4] == b"MTrk":
        raise MidiError(
            f"damaged MIDI header: expected at least 6 bytes in it, got {size}, which do not say how long a tick is"
        )
    if size != 6 and data[after : after + 4] != b"MTrk":
        faults.add("the header is said to have {:,} bytes, expected 6", start + 4, 0, size)
        after = start + 14
    if format == 2:
        faults.add(
            "its format is 2, of independent tracks; all are read from the beginning, each with its own tempos",
            start + 8,
        )
    elif format > 2:
        faults.add("its format is {:,}, expected 0 to 2; all tracks are read as played together", start + 8, 0, format)
    frames, ticks = data[start + 12], data[start + 13]
    if frames < 128:
        if not frames and not ticks:
            raise MidiError(
                f"damaged MIDI header: expected a positive number of ticks per quarter in bytes {start + 12}-"
                f"{start + 13}, got 0"
            )
        return after, tracks, frames << 8 | ticks, None, format == 2
    if 256 - frames not in _FRAMES or not ticks:
        raise MidiError(
            f"damaged MIDI header: expected 24, 25, 29 or 30 frames a second and some ticks a frame in bytes "
            f"{start + 12}-{start + 13}, got {256 - frames} and {ticks}"
        )
    rate, tempo = _FRAMES[256 - frames]
    return after, tracks, rate * ticks, tempo, format == 2


def _number(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "big")


def _tracks(data: bytes, at: int, faults: _Faults) -> Iterator[tuple[int, int, int]]:
    """Find where each track's events begin and stop, and how many more headers there are before it.

    A chunk with an impossible length ends where the next track begins.
    """
    headers = 0
    while at < len(data):
        kind, stop = data[at : at + 4], at + 8 + _number(data, at + 4, 4)
        if kind != b"MTrk" and not (_is_chunk(kind) and stop <= len(data)):
            following = data.find(b"MTrk", at)
            stop = following if following >= 0 else len(data)
            faults.add("{:,} bytes that are no chunk are left out", at, 0, stop - at)
        elif kind == b"MTrk":
            if len(data) < at + 8:
                faults.add("the file is cut inside the head of a track", at)
                return
            if not (0 <= len(data) - stop < 8 or _is_chunk(data[stop : stop + 4])):
                following = data.find(b"MTrk", at + 8)
                stated, stop = stop - at - 8, following if following >= 0 else len(data)
                faults.add("a track is said to have {:,} bytes, {:,} are there", at + 4, 0, stated, stop - at - 8)
            yield at + 8, stop, headers
        elif kind == b"MThd":
            faults.add("another song's header; all tracks are read as played together", at)
            headers += 1
        at = stop


def _is_chunk(kind: bytes) -> bool:
    """Say whether this may be the name of a chunk: four letters, digits or spaces."""
    return len(kind) == 4 and kind.isascii() and kind.replace(b" ", b"a").isalnum()


class _TrackError(Exception):
    """A fault that makes the rest of a track unreadable. Its arguments: a kind, as in `_Faults.add`, and its values."""


class _Track:
    """A reader of one track. An event is packed into an int64: tick << 24 | status << 16 | first << 8 | second."""

    def __init__(self, data: bytes, begin: int, stop: int, number: int, faults: _Faults):
        self.data, self.begin, self.number, self.faults = data[begin:stop], begin, number, faults
        self.events: list[np.ndarray] = []
        self.marks: list[tuple[int, int, bytes]] = []
        self.names: dict[int, bytes] = {}  # kind: the first text of this kind that is not empty
        self.at = self.tick = 0  # the next byte, and the time there
        self.running = 0  # the status of an event that has none of its own

    def read(self) -> None:
        """Read to the end mark, or to where the track is cut or unreadable."""
        try:
            count = _SINGLE
            while not self._one_by_one(count):
                before, window = self.at, _WINDOW
                while self._at_once(window):
                    window *= 4
                count = _SINGLE if self.at - before > _WINDOW else min(2 * count, 1024)
            if rest := len(self.data) - self.at:
                self._add_fault("{:,} bytes after its end mark are left out", rest)
        except IndexError:
            self._add_fault("it has no end mark" if self.at == len(self.data) else "it is cut inside an event")
        except _TrackError as error:
            kind, *values = error.args
            self._add_fault(kind + "; the rest of the track is left out", *values)

    def _add_fault(self, kind: str, *values: object) -> None:
        """Count a fault at the event that is being read."""
        self.faults.add(kind, self.begin + self.at, self.number, *values)

    def _one_by_one(self, most: int) -> bool:
        """Read up to `most` events, with the complete grammar and all faults; return whether the end mark was read.

        Raises:
            IndexError: the track ends inside the event at `self.at`, or before its end mark.
            _TrackError: the event at `self.at` makes no sense.
        """
        data, at, tick, running = self.data, self.at, self.tick, self.running
        events = array("q")
        try:
            for _ in range(most):
                delta, at = _length(data, at)
                tick += delta
                if tick > MOST_TICKS:
                    raise _TrackError("its time goes beyond {:,} ticks", MOST_TICKS)
                status = data[at]
                if status >= 0x80:
                    at += 1
                elif running:
                    status = running
                else:
                    raise _TrackError("an event without a status byte")
                if status < 0xF0:
                    running = status
                    first, second, at = data[at], 0, at + 1
                    if status >> 4 not in (0xC, 0xD):
                        second, at = data[at], at + 1
                    if first >= 0x80 or second >= 0x80:
                        self._add_fault("data of 128 or more: a value counts as 127, any other event is left out")
                        second = min(second, 0x7F)
                    if first < 0x80 and _STORED[status >> 4] and (status >> 4 != CONTROL or _CONTROLLERS[first]):
                        if first == _RESET and status >> 4 == CONTROL:
                            first, second = SUSTAIN, 0
                        events.append(tick << 24 | status << 16 | first << 8 | second)
                elif status in (0xF0, 0xF7, 0xFF):
                    kind, at = (data[at], at + 1) if status == 0xFF else (-1, at)
                    size, at = _length(data, at)
                    if at + size > len(data):
                        raise _TrackError("an event of {:,} bytes where {:,} are left", size, len(data) - at)
                    if kind in _NAMES:
                        self._mark(tick, kind, data[at : at + size])
                    elif kind in (TRACK_NAME, INSTRUMENT_NAME) and size:
                        self.names.setdefault(kind, data[at : at + min(size, _LONGEST_NAME)])
                    at += size
                else:
                    self._add_fault("a system message, which no file may hold, is left out")
                    at += _SYSTEM.get(status, 0)
                    if at > len(data):
                        raise IndexError
                self.at, self.tick, self.running = at, tick, running
                if status == 0xFF and kind == _END:
                    return True
        finally:
            self.events.append(np.frombuffer(events, "i8"))
        return False

    def _mark(self, tick: int, kind: int, value: bytes) -> None:
        """Store a tempo, a time signature or a key signature, if its data make sense."""
        if kind == TEMPO:
            valid = len(value) == 3 and any(value)
        elif kind == TIME:
            valid = len(value) >= 2 and value[0] > 0 and value[1] <= 7
        else:
            valid = len(value) == 2 and (value[0] + 7) % 256 <= 14 and value[1] <= 1
        if valid:
            self.marks.append((tick, kind, value))
        else:
            self._add_fault(_NAMES[kind] + " that is none, {}, is left out", value[:8].hex(" ") or "empty")

    def _at_once(self, width: int) -> bool:
        """Read events of two data bytes in the next `width` bytes, up to the first one that is damaged or different.

        Each event has three bytes below 128: the last of its delta time, and two of data. Bytes above stand before the
        first of these (more of the delta time) or before the second (a status). So the positions of the bytes below 128
        define the events.

        Returns:
            Whether all complete events of the window were read, and more bytes follow.
        """
        left = len(self.data) - self.at
        piece = np.frombuffer(self.data, "u1", min(width, left), self.at)
        low = np.flatnonzero(piece < 0x80)
        count = len(low) // 3
        if not count or self.running >> 4 in (0xC, 0xD):
            return False
        time, first, second = np.ascontiguousarray(low[: 3 * count].reshape(-1, 3).T, "i4")
        longer = time.copy()  # bytes of the delta time before its last
        longer[1:] -= second[:-1] + 1
        distance = first - time  # 2: with a status of its own
        status = piece[first - 1]  # of an event without one this is the delta time's last byte, below 128
        valid = (longer <= 3) & (distance <= 2) & (second - first == 1) & _TWO[status]
        if not self.running and distance[0] == 1:
            return False
        complete = bool(valid.all())
        if not complete:
            count = int(valid.argmin())
            if not count:
                return False
            time, first, second, longer, distance, status = (
                column[:count] for column in (time, first, second, longer, distance, status)
            )
        changes = np.flatnonzero(distance == 2)
        lasting = np.diff(changes, prepend=0, append=count)
        status = np.repeat(np.append(np.uint8(self.running), status[changes]), lasting)
        delta = piece[time].astype("i8")
        some = np.flatnonzero(longer)
        for k in (1, 2, 3):
            delta[some] |= (piece[time[some] - k] & np.int64(0x7F)) << 7 * k
            some = some[longer[some] > k]
        tick = self.tick + np.cumsum(delta)
        if tick[-1] > MOST_TICKS:  # `_one_by_one` finds the event and counts the fault
            return False
        first, second, kind, ends = piece[first], piece[second], status >> 4, int(second[-1]) + 1
        control = kind == CONTROL
        if (reset := control & (first == _RESET)).any():
            first[reset], second[reset] = SUSTAIN, 0
        packed = tick << 8 | status
        packed <<= 8
        packed |= first
        packed <<= 8
        packed |= second
        self.events.append(packed[(kind <= NOTE_ON) | (control & _CONTROLLERS[first])])
        self.at, self.tick, self.running = self.at + ends, int(tick[-1]), int(status[-1])
        return complete and width < left


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; return it and where it ends.

    Raises:
        _TrackError: it has more than four bytes.
    """
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    number = 0
    for k in range(at, at + 4):
        byte = data[k]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, k + 1
    raise _TrackError("a number of more than 4 bytes")
