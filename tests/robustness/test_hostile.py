"""Hostile and damaged MIDI: what is read of it, what is said of it, and that nothing else ever happens."""

import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import __main__ as cli
from music import midi
from music.errors import MidiError
from music.midi import parser
from music.pieces import Dataset
from preprocessing import __main__ as stage
from serving import create_app
from tests.conftest import waltz
from tests.robustness.fuzz.midi import read_or_refused
from tests.support import hostile
from tests.support.fakes import ScriptedBackend, melody
from tests.support.hostile import END, chunk, head, note, number, song
from tests.support.strategies import law, midi_files

ROOT = Path(__file__).parents[2]
NOTE = (0.0, 0.25, 60, 80)  # what `note()` reads as: 240 ticks of 480 a quarter
RIFF = struct.pack("<4sI4s4sI", b"RIFF", 500, b"RMID", b"data", 400)
OFF = b"\0\x80\x3c\0"


def riff(music: bytes, behind: bytes, size: int | None = None) -> bytes:
    """An .rmi file with its true sizes, if no other is told of its data."""
    inside = b"RMIDdata" + struct.pack("<I", len(music) if size is None else size) + music + behind
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def short(notes):
    return [
        (round(float(n["start"]), 6), round(float(n["end"]), 6), int(n["pitch"]), int(n["velocity"])) for n in notes
    ]


# --- sound files that others refuse ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    {
        "inside RIFF": RIFF + song(note()),
        "inside RIFF, padded to an even size": RIFF + song(note()) + b"LIST\0\0\0\0",
        "inside RIFF, a title behind it": riff(song(note() + b"\0\xff\1\1x"), b"LIST\x0e\0\0\0INFOINAM\2\0\0\0hi"),
        "inside RIFF, an odd one, and a title behind it": riff(song(note()), b"\0LIST\x04\0\0\0INFO"),
        "inside RIFF, an odd one, padded": riff(song(note()), b"\0"),
        "inside RIFF, an odd one, not padded, as some writers leave it": riff(song(note()), b""),
        "inside RIFF, a size that leads to a track": riff(song(note()), b"", size=14),
        "a longer header": b"MThd\0\0\0\x08\0\1\0\1\1\xe0??" + chunk(note() + END),
        "a chunk that is no track": head() + b"XFIH\0\0\0\3abc" + chunk(note() + END),
        "running status goes on after a text": song(b"\0\x90\x3c\x50" + b"\0\xff\1\2hi" + b"\x81\x70\x3c\0"),
        "running status goes on after system-exclusive": song(
            b"\0\x90\x3c\x50" + b"\0\xf0\2\1\xf7" + b"\x81\x70\x3c\0"
        ),
        "system-exclusive in parts": song(b"\0\xf0\3\1\2\3" + b"\0\xf7\2\4\xf7" + note()),
        "a text that is no UTF-8": song(b"\0\xff\3\4\xff\xfe\x93\xfa" + b"\0\xff\5\2\xed\xa0" + note()),
        "a meta event that nobody knows": song(b"\0\xff\x6e\3abc" + note()),
        "a release of a key that is up": song(OFF + note() + OFF),
        "lengths in more bytes than they need": song(
            b"\0\xff\1\x80\x80\x00" + b"\x80\x80\x80\x00\x90\x3c\x50" + note()[4:]
        ),
    }.values(),
    ids=lambda data: f"{data!r:.30}",
)
def test_a_sound_file_of_a_rare_kind_reads_without_a_word(data):
    notes, warnings = midi.read_with_warnings(data)
    assert short(notes) == [NOTE] and warnings == []


@pytest.mark.parametrize(
    ("frames", "ticks", "seconds"), [(24, 10, 1.0), (25, 40, 0.24), (30, 80, 0.1), (29, 4, 240 * 1.001 / 120)]
)
def test_a_clock_of_frames_is_read_and_no_tempo_changes_it(frames, ticks, seconds):
    data = song(b"\0\xff\x51\3\1\0\0" + note(), division=(256 - frames) << 8 | ticks)
    assert midi.read(data)["end"].tolist() == pytest.approx([seconds])
    assert midi.inspect(data).tempos == [(0.0, pytest.approx(60 if frames != 29 else 60 / 1.001))]
    assert midi.grid(data).seconds[-1] > seconds


# --- damage: what is read, and what is said --------------------------------------------------------------------------

TWO = [NOTE, (0.25, 0.5, 62, 80)]
TRACK = note() + note(62)


@pytest.mark.parametrize(
    ("data", "notes", "says"),
    {
        "format 2": (
            song(note(), note(62), format=2),
            [NOTE, (0.0, 0.25, 62, 80)],
            "byte 8: its format is 2, of independent tracks; all are read from the beginning, each with its own tempos",
        ),
        "format 9": (
            song(note(), format=9),
            [NOTE],
            "byte 8: its format is 9, expected 0 to 2; all tracks are read as played together",
        ),
        "a header's length that leads nowhere": (
            song(note(), size=600), [NOTE], "byte 4: the header is said to have 600 bytes, expected 6",
        ),
        "tracks announced": (
            head(7) + chunk(note() + END), [NOTE], "byte 10: the header announces 7 tracks, there are 1",
        ),
        "a track's length too large": (
            head(2) + chunk(note() + END, 4_000_000_000) + chunk(note(62) + END),
            [NOTE, (0.0, 0.25, 62, 80)],
            "byte 18: a track is said to have 4,000,000,000 bytes, 13 are there",
        ),
        "a track's length too small": (
            head() + chunk(TRACK + END, 3), TWO, "byte 18: a track is said to have 3 bytes, 22 are there",
        ),
        "rubbish between tracks": (
            head(2) + chunk(note() + END) + b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\0" + chunk(note(62) + END),
            [NOTE, (0.0, 0.25, 62, 80)],
            "byte 18: a track is said to have 13 bytes, 22 are there; "
            "track 1, byte 35: 9 bytes after its end mark are left out",
        ),
        "rubbish at the end": (song(note()) + b"\0\0\0", [NOTE], "byte 35: 3 bytes that are no chunk are left out"),
        "no end mark": (head() + chunk(note()), [NOTE], "track 1, byte 31: it has no end mark"),
        "more after the end mark": (
            head() + chunk(note() + END + note(62)),
            [NOTE],
            "track 1, byte 35: 9 bytes after its end mark are left out",
        ),
        "cut inside an event": (
            head() + chunk(TRACK, 18)[:-2],
            [NOTE],
            "byte 18: a track is said to have 18 bytes, 16 are there; track 1, byte 35: it is cut inside an event; "
            "1 note is never released; it is left out",
        ),
        "cut inside a track's head": (
            head(2) + chunk(note() + END) + b"MTrk\0", [NOTE],
            "byte 35: the file is cut inside the head of a track; byte 10: the header announces 2 tracks, there are 1",
        ),
        "no status at the beginning": (
            song(b"\0\x3c\x40" + note()), [],
            "track 1, byte 22: an event without a status byte; the rest of the track is left out",
        ),
        "a delta time of five bytes": (
            song(note() + b"\x81\x80\x80\x80\x00\x90\x3e\x40" + note(62)), [NOTE],
            "track 1, byte 31: a number of more than 4 bytes; the rest of the track is left out",
        ),
        "2^31 ticks": (
            song(note() + b"\xff\xff\xff\x7f\xb0\1\1" * 8 + note(62)), [NOTE],
            "track 1, byte 80: its time goes beyond 2,147,483,647 ticks; the rest of the track is left out",
        ),
        "a note past a day": (
            song(note() + note(62, wait=83_000_000)), [NOTE],
            "notes: a note ends after 8.65e+04 s, expected at most 86400 s; 1 are left out",
        ),
        "tempo 0": (
            song(b"\0\xff\x51\3\0\0\0" + note()),
            [NOTE],
            "track 1, byte 22: a tempo that is none, 00 00 00, is left out",
        ),
        "a tempo of two bytes": (
            song(b"\0\xff\x51\2\7\xa1" + note()), [NOTE], "track 1, byte 22: a tempo that is none, 07 a1, is left out",
        ),
        "an empty tempo": (
            song(b"\0\xff\x51\0" + note()), [NOTE], "track 1, byte 22: a tempo that is none, empty, is left out",
        ),
        "a key with eight sharps, and one of no mode": (
            song(b"\0\xff\x59\2\x08\0" + b"\0\xff\x59\2\0\2" + note()), [NOTE],
            "track 1, byte 22: a key signature that is none, 08 00, is left out (and 1 more of this)",
        ),
        "a time signature of 0/4, and of 4/2^255": (
            song(b"\0\xff\x58\4\0\2\x18\x08" + b"\0\xff\x58\4\4\xff\x18\x08" + note()), [NOTE],
            "track 1, byte 22: a time signature that is none, 00 02 18 08, is left out (and 1 more of this)",
        ),
        "a velocity of 200": (
            song(note(velocity=200)), [(0.0, 0.25, 60, 127)],
            "track 1, byte 22: data of 128 or more: a value counts as 127, any other event is left out",
        ),
        "a key of 200, a program of 128": (
            song(b"\0\x90\xc8\x40" + b"\0\xc0\x80" + note()), [NOTE],
            "track 1, byte 22: data of 128 or more: a value counts as 127, any other event is left out "
            "(and 1 more of this)",
        ),
        "system-exclusive without end": (
            song(note() + b"\0\xf0\xff\xff\x7f" + note(62)), [NOTE],
            "track 1, byte 31: an event of 2,097,151 bytes where 13 are left; the rest of the track is left out",
        ),
        "a text longer than the track": (
            song(note() + b"\0\xff\3\x40" + note(62)), [NOTE],
            "track 1, byte 31: an event of 64 bytes where 13 are left; the rest of the track is left out",
        ),
        "system messages": (
            song(b"\0\xf8\0\xf2\1\2\0\xf1\1\0\xf6" + note()), [NOTE],
            "track 1, byte 22: a system message, which no file may hold, is left out (and 3 more of this)",
        ),
        "a note never ended": (
            song(note() + b"\0\x90\x3e\x40"), [NOTE], "1 note is never released; it is left out",
        ),
        "two songs, one behind the other": (
            song(note()) + song(note(62)),
            [NOTE, (0.0, 0.25, 62, 80)],
            "byte 35: another song's header; all tracks are read as played together; "
            "byte 10: the header announces 1 tracks, there are 2",
        ),
        "no track": (head(), [], "byte 10: the header announces 1 tracks, there are 0"),
    }.values(),
    ids=lambda value: f"{value!r:.30}",
)  # fmt: skip
def test_what_is_damaged_is_read_as_far_as_it_goes_and_reported(data, notes, says):
    read, warnings = midi.read_with_warnings(data)
    assert short(read) == notes
    assert "; ".join(warnings) == says
    assert midi.inspect(data).warnings == warnings
    assert midi.grid(data).seconds[0] == 0


def test_of_one_kind_of_damage_the_first_place_is_reported_and_their_number():
    _, warnings = midi.read_with_warnings(song(note(), b"\0\xf8" * 1000, b"\0\xf8"))
    assert warnings == [
        "track 2, byte 43: a system message, which no file may hold, is left out (and 1,000 more of this)"
    ]


def test_more_tracks_than_a_header_can_announce():
    notes, warnings = midi.read_with_warnings(head(0xFFFF) + chunk(note() + END) * 65_600)
    assert len(notes) == 65_535
    assert warnings == ["byte 1,376,249: more than 65,535 tracks; the others are left out"]


def test_what_is_too_large_is_refused_before_it_is_looked_at():
    with pytest.raises(MidiError, match="expected at most 20,000,000 bytes, got 20,000,001"):
        midi.read(song(note()).ljust(20_000_001, b"\0"))


# --- laws ------------------------------------------------------------------------------------------------------------


events = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.builds(
        lambda wait, status, first, second: number(wait) + status + bytes([first, second]),
        st.sampled_from([0, 1, 100, 128, 20_000, 2**27]),
        st.sampled_from([b"", b"", b"\x90", b"\x80", b"\x91", b"\xb0", b"\xe0", b"\xc0", b"\xd1"]),
        st.sampled_from([60, 60, 61, 64, 64, 100, 101, 6, 120, 121, 123, 127, 128, 255]),
        st.sampled_from([0, 0, 6, 64, 127, 128]),
    ),
    st.sampled_from(
        [b"\0\xff\x51\3\7\xa1\x20", b"\0\xff\x51\3\0\0\1", b"\0\xff\x59\2\xf9\1", END, b"\0\xf0\3abc", b"\0\xff\1\x7f"]
    ),
)
tracks = st.lists(st.tuples(events, st.integers(1, 60)).map(lambda pair: pair[0] * pair[1]), max_size=12).map(b"".join)


@law
@given(st.lists(tracks, max_size=3), st.sampled_from([1, 480, 32_767, 0xE728]), st.integers(0, 2), st.integers(0, 40))
def test_whatever_stands_in_its_tracks_a_file_is_read_or_refused(bodies, division, format, cut):
    data = song(*bodies, division=division, format=format)
    read_or_refused(data)
    read_or_refused(data[: len(data) - cut])


@law
@given(st.lists(tracks, min_size=1, max_size=3))
def test_events_read_at_once_are_those_read_one_by_one(bodies):
    """The quick way of reading knows whole runs only, and the plain one everything."""
    data = song(*bodies)
    quick = parser.read(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser._Track, "_at_once", lambda track, width: False)
        plain = parser.read(data)
    for name in ("song", "tick", "status", "first", "second"):
        np.testing.assert_array_equal(getattr(quick, name), getattr(plain, name))
    for name in ("marks", "songs", "end", "warnings", "tempo"):
        assert getattr(quick, name) == getattr(plain, name)


@law
@given(midi_files(), st.randoms(use_true_random=False))
def test_a_good_file_with_bytes_changed_lost_and_added_is_read_or_refused(data, draw):
    read_or_refused(mutated(data, draw))


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A file after some accidents."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(changed) + 1)
        size = draw.choice([1, 1, 2, 4, 30])
        changed[at : at + draw.choice([0, size])] = draw.choice(
            [b"", draw.randbytes(size), b"\xff" * size, b"MTrk", bytes(changed[at : at + size]) * 2]
        )
    return bytes(changed)


def test_damaged_waltzes_are_read_or_refused():
    """Long enough for whole runs to be read at once."""
    good, draw = midi.write(waltz(3)), random.Random(5)
    for _ in range(300):
        read_or_refused(mutated(good, draw))


@pytest.mark.slow
def test_no_file_of_5_mb_takes_more_than_500_mb():
    """All large attacks in one process of its own, one after another. Its time is for benchmarks/hostile.py to say.

    By VmHWM, as what rusage tells counts what the parent had when it forked.
    """
    program = (
        "import pathlib, re\n"
        "from tests.robustness import test_hostile\n"
        "from tests.support import hostile\n"
        "for make in hostile.LARGE.values():\n"
        "    data = make(); assert 4_500_000 < len(data) <= hostile.SIZE, len(data)\n"
        "    test_hostile.read_or_refused(data)\n"
        "most = re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())\n"
        "print(len(hostile.LARGE), int(most[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, megabytes = map(int, done.stdout.split())
    assert count == len(hostile.LARGE) and megabytes < 500


# --- and those who read ----------------------------------------------------------------------------------------------


def test_inspect_tells_what_is_damaged(tmp_path, capsys):
    path = tmp_path / "cut.mid"
    path.write_bytes(song(note() * 3)[:-6])
    assert cli.run(["inspect", str(path), "--notes", "0"]) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged")]
    assert warned == [
        "damaged      byte 18: a track is said to have 31 bytes, 25 are there",
        "damaged      track 1, byte 44: it is cut inside an event",
        "damaged      1 note is never released; it is left out",
    ]
    assert cli.run(["inspect", str(path), "--json"]) == 0
    assert [f"damaged      {line}" for line in json.loads(capsys.readouterr().out)["warnings"]] == warned


@pytest.fixture(scope="module")
def client():
    return create_app({"TIMEOUT": 60}, ScriptedBackend(melody(40, pitch=80))).test_client()


@pytest.mark.parametrize("path", ["/generate?notes=4&format=json", "/notes"])
def test_no_hostile_seed_is_a_500(client, path):
    good, draw = midi.write(waltz(3, 4)), random.Random(11)
    seeds = [mutated(good, draw) for _ in range(150)]
    seeds += [good[:length] for length in range(0, len(good), 40)]
    seeds += [
        song(b"\0\x90\x3c\x40" * 40_000 + b"\1\x3c\0" * 40_000),
        song(note(wait=0xFFFFFFF)),
        song(*[note()] * 3000),
    ]
    statuses = set()
    for seed in seeds:
        response = client.post(path, data=seed, headers={"Content-Type": "audio/midi"})
        statuses.add(response.status_code)
        if response.status_code != 200:
            assert response.mimetype == "application/problem+json" and response.get_json()["detail"]
    assert statuses == {200, 400, 422}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["800,000 notes", "keys and channels in no order", "240,000 tracks", "noise"])
def test_no_seed_of_5_mb_is_a_500(client, name):
    response = client.post("/generate?notes=4", data=hostile.LARGE[name](), headers={"Content-Type": "audio/midi"})
    assert response.status_code == 422 and "notes" in response.get_json()["detail"]


def test_preprocessing_goes_on_past_hostile_files_and_tells_of_each(tmp_path):
    """Which are no music, which were damaged; in the same words as everywhere."""
    good = midi.write(waltz(1, 4))
    files = {
        "bad/noise.mid": hostile.LARGE["ones"](),
        "bad/text.mid": b"Dear pianist",
        "bad/clock.mid": song(note(), division=0),
        "bad/empty.mid": b"",
        "good/whole.mid": good,
        "good/cut.mid": good[:-9],
        "good/riff.mid": RIFF + song(note()),
    }
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    out = tmp_path / "out"
    assert stage.run(["--input", str(tmp_path / "in"), "--output", str(out)]) == 0
    errors, damages = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("errors.jsonl", "warnings.jsonl")
    )
    assert [(row["path"], row["reason"].partition(":")[0]) for row in errors] == [
        ("bad/clock.mid", "damaged MIDI header"),
        ("bad/empty.mid", "not a MIDI file"),
        ("bad/noise.mid", "no notes; track 1, byte 22"),
        ("bad/text.mid", "not a MIDI file"),
    ]
    assert damages == [{"path": "good/cut.mid", "damage": midi.read_with_warnings(good[:-9])[1]}]
    assert sum(Dataset.open(str(out)).facts["pieces"].values()) == 3
