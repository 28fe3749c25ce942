"""Builders of MIDI files that attack their reader: small ones with one fault each, and 5 MB ones with millions.

`python -m benchmarks.hostile` says what the large ones cost.
"""

import random
import struct
from collections.abc import Callable

SIZE = 5_000_000  # bytes: the limit of POST /generate
END = b"\0\xff\x2f\0"
MPE = b"\0\xb0\x65\0\0\x64\6\0\6\x0f"  # makes a zone of all channels: registered parameter 6 of the first is 15


def chunk(events: bytes, length: int | None = None) -> bytes:
    """Build a track; `length` may be false."""
    return b"MTrk" + struct.pack(">I", len(events) if length is None else length) + events


def head(tracks: int = 1, division: int = 480, format: int = 1, size: int = 6) -> bytes:
    return b"MThd" + struct.pack(">IHHH", size, format, tracks, division)


def song(*tracks: bytes, **header: int) -> bytes:
    """Build a file of tracks, each a run of events; add the end marks."""
    return head(len(tracks), **header) + b"".join(chunk(events + END) for events in tracks)


def number(value: int) -> bytes:
    """Encode a number with seven bits a byte."""
    out = bytes([value & 0x7F])
    while value := value >> 7:
        out = bytes([value & 0x7F | 0x80]) + out
    return out


def note(pitch: int = 60, *, wait: int = 0, last: int = 240, velocity: int = 80) -> bytes:
    """Build a note-on and its note-off: 8 bytes or a few more; `wait` and `last` in ticks."""
    return number(wait) + bytes([0x90, pitch, velocity]) + number(last) + bytes([0x80, pitch, 0])


def fill(event: bytes, before: bytes = b"") -> bytes:
    """Build a file of SIZE bytes, or little less, that repeats an event."""
    return song(before + event * ((SIZE - len(before) - 64) // len(event)))


def _many_tracks(events: bytes) -> bytes:
    track = chunk(events)
    count = (SIZE - 14) // len(track)
    return head(min(count, 0xFFFF)) + track * count


def _shuffled() -> bytes:
    """Build events of all keys and channels in random order; half are releases, some of keys that are not down."""
    draw = random.Random(7)
    events = [
        bytes([draw.randrange(4), 0x80 | draw.randrange(32), draw.randrange(128), draw.randrange(1, 128)])
        for _ in range(4096)
    ]
    return fill(b"".join(events))


def _noise() -> bytes:
    return head() + chunk(random.Random(7).randbytes(SIZE - 22))


def _half_broken() -> bytes:
    """Build just enough plain events for a reader's fast path, then one of another kind, again and again."""
    return fill(b"\0\x90\x3c\x40" + b"\0\x3c\x40" * 17 + b"\0\xc0\5")


LARGE: dict[str, Callable[[], bytes]] = {
    "800,000 notes": lambda: fill(b"\1\x3c\x40\1\x3c\0", b"\0\x90\x3c\0"),
    "1.6 million notes never ended": lambda: fill(b"\0\x3c\x40", b"\0\x90\x3c\x40"),
    "notes that all end at once": lambda: song(
        b"\0\x90\x3c\x40" + b"\1\x3c\x40" * (SIZE // 6 - 20) + b"\0\x3c\0" * (SIZE // 6 - 20)
    ),
    "notes that all begin at once, on the pedal": lambda: fill(
        b"\0\x3c\x40\1\x3c\0\0\x3c\0", b"\0\xb0\x40\x7f\0\x90\x3c\0"
    ),
    "pedal and notes in turn": lambda: fill(b"\1\xb0\x40\x7f\0\x90\x3c\x40\1\x80\x3c\0\1\xb0\x40\0"),
    "keys and channels in no order": _shuffled,
    "1.6 million pedal events": lambda: fill(b"\0\x40\x7f\0\x40\0", b"\0\xb0\x40\0"),
    "2.5 million program changes": lambda: fill(b"\0\5", b"\0\xc0\5"),
    "2.5 million aftertouches": lambda: fill(b"\0\5", b"\0\xd0\5"),
    "a program for every note": lambda: fill(b"\0\xc0\5\0\x90\x3c\x40\1\x80\x3c\0\0\xc0\6"),
    "runs that break off": _half_broken,
    "700,000 tempos": lambda: fill(b"\1\xff\x51\3\7\xa1\x20"),
    "700,000 tempos that are none": lambda: fill(b"\1\xff\x51\3\0\0\0"),
    "1.2 million empty texts": lambda: fill(b"\0\xff\1\0"),
    "1.6 million empty system-exclusives": lambda: fill(b"\0\xf0\0"),
    "2.5 million system messages": lambda: fill(b"\0\xf8"),
    "data of 128 and more": lambda: fill(b"\0\x90\xff\xff"),
    "240,000 tracks": lambda: _many_tracks(note() + END),
    "65,535 tracks of six notes": lambda: _many_tracks(note() * 6 + note(last=1)[:4] + END),
    "65,535 songs with a tempo and a zone of MPE each": lambda: (
        head(0xFFFF, format=2) + chunk(b"\0\xff\x51\3\7\xa1\x20" + MPE + note() * 5 + END) * 0xFFFF
    ),
    "400,000 messages that make a zone of MPE": lambda: fill(MPE),
    "600,000 tracks of nothing": lambda: _many_tracks(b""),
    "600,000 chunks of no kind": lambda: head() + b"LIST\0\0\0\0" * (SIZE // 8 - 2),
    "600,000 lengths that lie": lambda: head() + b"MTrk\xff\xff\xff\xff" * (SIZE // 8 - 2),
    "noise": _noise,
    "zeros": lambda: head() + chunk(bytes(SIZE - 22)),
    "ones": lambda: head() + chunk(b"\xff" * (SIZE - 22)),
    "only bytes of 128": lambda: head() + chunk(b"\x80" * (SIZE - 22)),
}
