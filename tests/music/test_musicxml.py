"""Scores: what is written, read back by music21, and pages of it."""

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from music import __main__ as cli
from music import midi
from music import notes as nt
from music.errors import EncodingError, MissingDependency, SettingError
from music.examples.nocturne import nocturne
from music.notation import engraving
from music.notation.musicxml import musicxml
from music.notes import DRUMS
from tests.music.test_beats import file, song

music21 = pytest.importorskip("music21")
ROOT = Path(__file__).parents[2]


def read(xml):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # music21's own
        return music21.converter.parse(xml, format="musicxml")


def pitches(xml):
    """Count the onsets of each pitch. (music21's stripTies loses a tie wherever a second voice moves below it.)"""
    onsets = Counter()
    for sign in read(xml).flatten().notes:
        for note in sign.notes if sign.isChord else (sign,):
            onsets[note.pitch.midi] += note.tie is None or note.tie.type == "start"
    return onsets


def full_bars(xml):
    """List the voices that are not as long as their bar, as (bar's quarters, voice's quarters)."""
    root = ElementTree.fromstring(xml)
    wrong, bar, divisions = [], 0.0, 1
    for measure in root.iter("measure"):
        voices = Counter()
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions") or divisions)
                if (time := element.find("time")) is not None:
                    bar = 4 * int(time.findtext("beats")) / int(time.findtext("beat-type"))
            elif element.tag == "note" and element.find("chord") is None:
                voices[element.findtext("staff"), element.findtext("voice")] += int(element.findtext("duration"))
        length = bar if measure.get("implicit") != "yes" else voices.most_common()[0][1] / divisions
        wrong += [(length, ticks / divisions) for ticks in voices.values() if abs(ticks / divisions - length) > 1e-6]
    return wrong


def written(xml):
    """List (offset in quarters, quarters, names) of every chord of a score, ties joined."""
    flat = read(xml).stripTies().flatten()
    return sorted(
        (float(flat.elementOffset(s)), float(s.quarterLength), tuple(p.nameWithOctave for p in s.pitches))
        for s in flat.notes
    )


def test_a_file_on_its_own_grid_comes_back_exactly():
    rows = [(0.5, 0.5, 61), (1, 2, 66), (1, 2, 69), (3, 2, 73), (5, 1 / 3, 74), (16 / 3, 2 / 3, 73), (6, 3, 66)]
    rows += [(0, 3, 42), (3, 1.5, 45), (4.5, 1.5, 49), (6, 3, 42)]
    data = file(rows, times=[(0, 3, 4)], keys=[(0, 9)])  # A major
    xml = musicxml(midi.read(data), midi.grid(data), "Study")
    assert written(xml) == [
        (0.0, 3.0, ("F#2",)),
        (0.5, 0.5, ("C#4",)),
        (1.0, 2.0, ("F#4", "A4")),
        (3.0, 1.5, ("A2",)),
        (3.0, 2.0, ("C#5",)),
        (4.5, 1.5, ("C#3",)),
        (5.0, pytest.approx(1 / 3), ("D5",)),
        (pytest.approx(16 / 3), pytest.approx(2 / 3), ("C#5",)),
        (6.0, 3.0, ("F#2",)),
        (6.0, 3.0, ("F#4",)),
    ]
    back = read(xml)
    upper = back.parts[0].getElementsByClass("Measure")
    assert [m.number for m in upper] == [1, 2, 3]
    assert upper[0].timeSignature.ratioString == "3/4"
    assert upper[0].keySignature.sharps == 3
    assert back.metadata.movementName == "Study"
    assert full_bars(xml) == []


def test_a_note_is_tied_over_the_bar():
    data = file([(0, 3, 60), (3, 3, 64), (6, 2, 67)], times=[(0, 4, 4)])
    xml = musicxml(midi.read(data), midi.grid(data))
    ties = [(s.pitch.name, s.tie.type) for s in read(xml).flatten().notes if s.tie]
    assert ties == [("E", "start"), ("E", "stop")]
    assert [row[:2] for row in written(xml)] == [(0.0, 3.0), (3.0, 3.0), (6.0, 2.0)]


def test_the_same_notes_give_the_same_bytes_and_the_nocturne_its_key():
    xml = musicxml(nocturne(), title="Nocturne")
    assert xml == musicxml(nocturne(), title="Nocturne")
    back = read(xml)
    assert back.parts[0].recurse().getElementsByClass("KeySignature")[0].sharps == -4
    assert pitches(xml) == Counter(nocturne()["pitch"].tolist())
    assert full_bars(xml) == []
    names = {p.name for s in back.flatten().notes for p in s.pitches}
    assert {"F-", "E", "A-", "D-"} <= names and not names & {"G#", "C#", "D#", "A#"}


EDGES = {
    "one note": [(0.0, 0.5, 60)],
    "all at the same time": [(1.0, 2.0, pitch) for pitch in range(21, 109)],
    "one pitch many times at once": [(1.0, 2.0 + k, 60) for k in range(4)],
    "ten minutes long": [(0.0, 600.0, 48), (1.0, 601.0, 72), (2.0, 3.0, 60)],
    "dense": [(0.01 * k, 0.01 * k + 0.5, 40 + k % 40) for k in range(300)],
    "an hour between": [(0.0, 1.0, 60), (3600.0, 3601.0, 64)],
    "extremes": [(0.0, 1.0, 0), (0.0, 1.0, 127), (0.5, 1.0, 1), (1.0, 2.0, 126)],
    "very short": [(0.1 * k, 0.1 * k + 0.001, 60 + k) for k in range(12)],
    "late": [(5000.0, 5000.5, 60), (5000.5, 5001.0, 62)],
    "same start and end": [(0.0, 0.0, 60), (0.5, 0.5, 61)],
}


@pytest.mark.parametrize("name", EDGES)
def test_any_notes_can_be_written(name):
    notes = nt.from_tuples(EDGES[name])
    xml = musicxml(notes)
    assert pitches(xml) == Counter(notes["pitch"].tolist())
    assert full_bars(xml) == []


_NOTES = st.lists(
    st.tuples(st.floats(0, 12), st.floats(0.001, 5), st.integers(0, 127), st.integers(1, 127)), min_size=1, max_size=25
)


@settings(max_examples=8, deadline=None)
@given(_NOTES)
def test_the_pitches_of_random_notes_come_back(rows):
    notes = nt.from_tuples([(start, start + length, pitch, velocity) for start, length, pitch, velocity in rows])
    xml = musicxml(notes)
    assert pitches(xml) == Counter(notes["pitch"].tolist())
    assert full_bars(xml) == []


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 30), st.integers(30, 90)),
        min_size=1,
        max_size=25,
        unique_by=lambda row: (row[0], row[2]),
    ),
    st.sampled_from([5, 6, 7, 8, 9, 10, 11, 12, 16]),
)
def test_the_pitches_of_notes_on_a_grid_come_back(rows, part):
    data = song([[(at / part, length / part, pitch) for at, length, pitch in rows]], times=[(0, 6, 8), (3, 4, 4)])
    notes = midi.read(data)
    xml = musicxml(notes, midi.grid(data))
    assert pitches(xml) == Counter(notes["pitch"].tolist())
    assert full_bars(xml) == []


def test_tuplets_are_written_as_such():
    upper = [(k / 5, 1 / 5, 72 + k % 5) for k in range(5)] + [(1 + k / 7, 1 / 7, 72 + k) for k in range(7)]
    upper += [(2, 1, 72), (3, 2 / 5, 72), (3.4, 3 / 5, 74)]
    data = song([upper, [(k, 1, 48) for k in range(4)]])
    xml = musicxml(midi.read(data), midi.grid(data))
    signs = [n for n in read(xml).parts[0].flatten().notes]
    tuplets = [tuple(t.numberNotesActual for t in n.duration.tuplets) for n in signs]
    assert tuplets == [(5,)] * 5 + [(7,)] * 7 + [(), (5,), (5,)]
    assert [(n.duration.type, n.duration.dots) for n in signs[-2:]] == [("eighth", 0), ("eighth", 1)]
    assert [float(n.offset) for n in signs] == pytest.approx([at for at, *_ in upper])
    assert full_bars(xml) == []


def test_tuplets_of_a_compound_beat():
    upper = [(k * 3 / 10, 3 / 10, 72 + k) for k in range(5)] + [(1.5 + k / 6, 1 / 6, 72 + k) for k in range(9)]
    data = song([upper, [(0, 1.5, 48), (1.5, 1.5, 50)]], times=[(0, 6, 8)])
    xml = musicxml(midi.read(data), midi.grid(data))
    flat = read(xml).parts[0].flatten().notes
    assert [float(n.offset) for n in flat] == pytest.approx([at for at, *_ in upper])
    assert [n.duration.tuplets[0].numberNotesActual for n in flat] == [5] * 5 + [3] * 9
    assert full_bars(xml) == []


def tempos(xml):
    """List (bar, quarters into it, quarters a minute, whether it is printed) of all tempos of a score."""
    return [
        (measure.number, float(mark.offset), mark.getQuarterBPM(), mark.number is not None)
        for measure in read(xml).parts[0].getElementsByClass("Measure")
        for mark in measure.getElementsByClass("MetronomeMark")
    ]


def test_all_tempos_are_written_and_those_that_last_a_bar_are_printed():
    rows = [(k, 1, 60 + k % 5) for k in range(24)]
    marks = [(0, 60), (4, 90), (5, 80.5), (6.5, 70), (8, 120), (16, 66)]
    data = song([rows], marks, [(0, 4, 4), (16, 6, 8)], [(0, "C"), (16, "E")])
    xml = musicxml(midi.read(data), midi.grid(data))
    assert tempos(xml) == [
        (1, 0.0, 60, True), (2, 0.0, 90, False), (2, 1.0, 80.5, False), (2, 2.5, 70, False), (3, 0.0, 120, True),
        (5, 0.0, 66, True),
    ]  # fmt: skip
    assert b"<beat-unit-dot /><per-minute>44</per-minute>" in xml
    keys = [
        (m.number, m.keySignature.sharps) for m in read(xml).parts[0].getElementsByClass("Measure") if m.keySignature
    ]
    assert keys == [(1, 0), (5, 4)]


def test_each_key_spells_its_own_notes():
    rows = [(k, 1, (60, 62, 64, 65)[k % 4]) for k in range(8)] + [(8 + k, 1, (61, 63, 65, 66)[k % 4]) for k in range(8)]
    data = song([rows], keys=[(0, "C"), (8, "Db")])
    names = [p.name for p in read(musicxml(midi.read(data), midi.grid(data))).flatten().pitches]
    assert names == [*"CDEF"] * 2 + ["D-", "E-", "F", "G-"] * 2


def test_two_tracks_are_two_staves():
    upper, lower = [(k, 1, 55 + k % 3) for k in range(8)], [(k + 0.5, 0.5, 48 + k % 3) for k in range(8)]
    data = song([upper, lower])
    staves = read(musicxml(midi.read(data), midi.grid(data))).parts
    assert [{p.midi for p in staff.flatten().pitches} for staff in staves] == [{55, 56, 57}, {48, 49, 50}]


@pytest.mark.parametrize("exact", [True, False])
def test_silence_is_left_out_with_words(exact):
    rows = [(k / 2, 0.5, 60 + k % 8) for k in range(16)] + [(21600, 1, 60)]
    data = song([rows], [(0, 120)])
    xml = musicxml(midi.read(data), midi.grid(data) if exact else None)
    assert xml.count(b"<measure ") < 80  # of both staves
    words = [text.content for text in read(xml).recurse().getElementsByClass("TextExpression")]
    assert words == ["2 h 59 min left out"]
    assert pitches(xml) == Counter(pitch for *_, pitch in rows)


def test_too_long_for_a_score_is_reported_so():
    notes = nt.from_tuples([(19.0 * k, 19.0 * k + 1, 60) for k in range(200)])
    with pytest.raises(EncodingError, match="expected at most 3,600 seconds of music for one score, got 3,782"):
        musicxml(notes)


def test_nothing_to_write_is_an_error():
    with pytest.raises(EncodingError, match="no notes to write"):
        musicxml(nt.empty())
    with pytest.raises(EncodingError, match="drums"):
        musicxml(nt.from_tuples([(0.0, 1.0, 38, 80, DRUMS)]))


def test_a_library_that_is_missing_is_named(monkeypatch):
    for name in ("music21", "verovio", "typst"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"music21.*pip install '\.\[score\]'"):
        musicxml(nocturne())
    with pytest.raises(MissingDependency, match=r"verovio.*pip install '\.\[score\]'"):
        engraving.svg(b"<score-partwise/>")


# --- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages(tmp_path, capsys):
    song = tmp_path / "nocturne.mid"
    song.write_bytes(midi.write(nt.sort(np.concatenate([nt.shift(nocturne(), 34.0 * k) for k in range(4)]))))
    for name, begins in (("a.musicxml", b"<?xml"), ("a.svg", b"<svg"), ("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")):
        assert cli.run(["score", str(song), str(tmp_path / name), "--title", "Two pages"]) == 0
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert (tmp_path / "a-2.png").read_bytes().startswith(b"\x89PNG")
    assert b"Two pages" in (tmp_path / "a.svg").read_bytes()
    assert b"Two pages" not in (tmp_path / "a-2.svg").read_bytes()
    assert str(tmp_path / "a-2.svg") in capsys.readouterr().out


def test_pages_are_the_same_every_time_and_have_a_tempo():
    xml = musicxml(nt.excerpt(nocturne(), 0, 8), title="Again & again")
    (page,) = engraving.svg(xml)
    assert engraving.svg(xml) == [page]
    assert "♩".encode() in page and b"Again &amp; again" in page
    with pytest.raises(EncodingError):
        engraving.svg(b"nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mid", "x.pdf"], "missing.mid: No such file"),
        (["song.mid", "x.doc"], "expected a name that ends in .musicxml, .svg, .png, .pdf"),
        (["song.mid", "x.pdf", "--start", "1000"], "no note begins in that part"),
        (["text.mid", "x.pdf"], "not a MIDI file"),
        (["drums.mid", "x.pdf"], "no notes to write"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("song.mid").write_bytes(midi.write(nt.from_tuples([(0.0, 1.0, 60)])))
    Path("text.mid").write_text("la la la")
    Path("drums.mid").write_bytes(midi.write(nt.from_tuples([(0.0, 1.0, 38, 80, DRUMS)])))
    assert cli.run(["score", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("x.pdf").exists()


def test_formats():
    assert engraving.format_of("a.PDF") == "pdf"
    with pytest.raises(SettingError):
        engraving.format_of("musicxml")


def test_music21_is_quiet_and_writes_no_settings(tmp_path):
    program = (
        "from music import notes as nt\nfrom music.examples.nocturne import nocturne\n"
        "from music.notation.musicxml import musicxml\n"
        "musicxml(nt.excerpt(nocturne(), 0, 3))\nimport sys; print('tkinter' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert list(tmp_path.iterdir()) == []
