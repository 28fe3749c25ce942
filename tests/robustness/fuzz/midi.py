"""Any bytes as a MIDI file: notes as everybody expects them and lines that tell, or a MidiError of one line."""

import random

import numpy as np

from music import midi
from music import notes as nt
from music.errors import MidiError
from tests.support import hostile
from tests.support.hostile import chunk, head, note, song

_RUN = b"\0\x90\x3c\x40\1\x3c\0\0\xb0\x40\x7f\1\x40\0" * 40 + b"\0\x91\x3d\x40\x81\x70\x3d\0"
SEEDS = [
    song(note() * 3, note(62)),
    song(_RUN),
    song(b"\0\xff\x51\3\7\xa1\x20\0\xff\x58\4\3\2\x18\x08\0\xff\x59\2\xfd\1\0\xff\3\4abcd" + note(), format=2),
    song(b"\0\xc0\5\0\xb0\x40\x7f" + note() * 2 + b"\0\xf0\3\1\2\xf7" + b"\x83\x60\xe0\1\2", division=0xE728),
    b"RIFF\0\1\0\0RMIDdata\0\1\0\0" + song(note()) + b"LIST\0\0\0\0",
    head(2) + chunk(note(), 3) + chunk(note(9), 99) + b"??" + b"XFIH\0\0\0\1a" + chunk(note()),
    song(b"\0\xb0\x65\0\0\x64\6\0\6\x0f" + note(), b"\0\x99\x3c\x40\0\xb0\x40\x7f\x81\x70\xb9\x7e\0"),
    hostile.LARGE["keys and channels in no order"]()[:3000],
    head() + chunk(random.Random(1).randbytes(300)),
    b"\xff\xfe" + '<?xml version="1.0"?><score-partwise>'.encode("utf-16-le"),
]
REGRESSIONS = [  # a system message cut at the track's end, where many events are read at once, was a ValueError
    head() + chunk(note() * 64 + b"\0\xf2"),
    head() + chunk(note() + b"\0\xf2\1"),
    b"MThd\0\0\0\6\0\1\0\1\n\na\x90\0\0\0\x83t@c\6\0\1\xff/\0MTrk\0\0\0\x17\0\xc0\0\0\x90<P\x83t@@c\x83u\xbc\0\x87h@\0\1\xff/"
    b"\1\2\nx\x17\0\0\0\x17\0\xc0\0\0\x90<P\x83t@@c\x83u@\0\1st\xf2\0",
]


def one(data: bytes) -> None:
    read = read_or_refused(data)
    if read and len(data) % 8 == 0:  # these read it again, so not every time
        _others(data, *read)


def read_or_refused(data: bytes) -> tuple[nt.Notes, list[str]] | None:
    """The promise: notes, and lines that tell, or a MidiError of one line."""
    try:
        notes, warnings = midi.read_with_warnings(data)
    except MidiError as error:
        assert str(error) and "\n" not in str(error)
        return None
    assert sound(notes), notes
    assert len(warnings) < 40 and all(line.isprintable() and 0 < len(line) < 250 for line in warnings), warnings
    return notes, warnings


def _others(data: bytes, notes: nt.Notes, warnings: list[str]) -> None:
    """What else reads a file says the same of it."""
    dry, pitched = midi.read(data, pedal=False), midi.read(data, drums=False)
    assert sound(dry) and len(dry) <= len(notes) + notes_beyond_a_day(warnings)
    assert sound(pitched) and (pitched["program"] < nt.DRUMS).all()
    assert np.array_equal(midi.inspect(data).notes, notes)
    grid = midi.grid(data)
    assert np.isfinite(grid.seconds).all() and (np.diff(grid.quarters) > 0).all() and (np.diff(grid.seconds) >= 0).all()
    assert grid.times[0][0] == 0 and all(0 < top < 256 and bottom in _BOTTOMS for _, top, bottom in grid.times)
    assert all(-7 <= key <= 7 for _, key, _ in grid.keys)
    if len(notes) and nt.length(notes) < 3600:
        for each in (None, grid):
            assert len(midi.read(midi.write(notes, None, each))) <= len(notes)


_BOTTOMS = {2**k for k in range(8)}


def notes_beyond_a_day(warnings: list[str]) -> int:
    """How many the pedal held for more than a day."""
    return sum(
        int(line.rpartition("; ")[2].split()[0].replace(",", "")) for line in warnings if "a note ends after" in line
    )


def sound(notes: nt.Notes) -> bool:
    """Whether these are Notes as everybody may expect them."""
    return bool(
        notes.dtype == nt.NOTE
        and np.isfinite(notes["start"]).all()
        and (notes["start"] >= 0).all()
        and (notes["end"] > notes["start"]).all()
        and ((notes["pitch"] >= 0) & (notes["pitch"] < 128)).all()
        and ((notes["velocity"] > 0) & (notes["velocity"] < 128)).all()
        and ((notes["program"] >= 0) & (notes["program"] <= nt.DRUMS)).all()
        and np.array_equal(nt.sort(notes), notes)
    )
