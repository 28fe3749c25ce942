"""MusicXML as input: what sounds when, and what a hostile file may cost."""

import gzip
import io
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import midi
from music.errors import MidiError, MissingDependency
from music.examples.nocturne import nocturne
from music.midi import file_kinds, musicxml_reading, musicxml_tree, parser, repeats
from music.notation.musicxml import musicxml
from music.notes import DRUMS
from tests.support.scores import CONTAINER, STUDY, attributes, bars, closes, ending, note, opens, packed, score, sound
from tests.support.strategies import law

BEAT = 60 / 90  # seconds


def pitches(data):
    return midi.read(data)["pitch"].tolist()


def refused(data, says):
    with pytest.raises(MidiError, match=says) as caught:
        midi.read(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


# --- what sounds ------------------------------------------------------------------------------------------------------


def test_a_score_sounds_as_it_is_written():
    notes, warnings = midi.read_with_warnings(STUDY)
    once = [  # (beat, beats, pitch, velocity), from the second measure on
        (-1 / 8, 1 / 8, 74, 49),  # the grace note
        (0, 3, 48, 49), (0, 3, 51, 49), (0, 2, 72, 49),
        (2, 2, 75, 49),  # tied over the bar line
        (3, 3, 43, 49),
    ]  # fmt: skip
    expected = [(0, 1, 67, 80), *((1 + 6 * k + beat, *rest) for k in (0, 1) for beat, *rest in once)]
    expected.sort(key=lambda row: (row[0], row[2]))
    assert not warnings
    assert notes["pitch"].tolist() == [row[2] for row in expected]
    assert notes["velocity"].tolist() == [row[3] for row in expected]
    assert np.allclose(notes["start"], [BEAT * row[0] for row in expected], atol=1e-4)
    assert np.allclose(notes["end"] - notes["start"], [BEAT * row[1] for row in expected], atol=1e-4)
    assert set(notes["program"].tolist()) == {6}


def test_a_scores_tempo_time_key_and_staves_are_its_files():
    grid, summary = midi.grid(STUDY), midi.inspect(STUDY)
    assert summary.tempos == [(0.0, pytest.approx(90))] and summary.instruments == [("Harpsichord", 13)]
    assert grid.times == [(0, 3, 4), (1, 3, 4)]  # the upbeat is a measure of one quarter
    assert grid.keys == [(0, -3, True)]
    assert grid.hands and set(grid.hands[1]["pitch"].tolist()) == {48, 51, 43}


@pytest.mark.parametrize("name", ["song.musicxml", "score.xml"])
def test_a_packed_score_is_the_same_music(name):
    assert np.array_equal(midi.read(packed(STUDY, name)), midi.read(STUDY))
    assert np.array_equal(midi.read(midi.unpacked("a.musicxml.gz", gzip.compress(STUDY))), midi.read(STUDY))


def test_a_score_in_utf_16_and_one_of_measures_with_parts_are_read():
    text = STUDY.decode().replace('encoding="UTF-8"', 'encoding="UTF-16"')
    assert np.array_equal(midi.read(text.encode("utf-16")), midi.read(STUDY))
    head, body = STUDY.decode().replace("score-partwise", "score-timewise").split('<part id="P0">')
    body = body.replace("</part>", "").replace("</measure>", "</part></measure>")
    for n in (1, 2, 3):
        body = body.replace(f'<measure number="{n}">', f'<measure number="{n}"><part id="P0">')
    assert np.array_equal(midi.read((head + body).encode()), midi.read(STUDY))


def test_what_we_write_as_a_score_is_read_again():
    notes = nocturne()
    read = midi.read(musicxml(notes))
    assert sorted(read["pitch"].tolist()) == sorted(notes["pitch"].tolist())


def test_tempos_go_back_with_a_repeat_and_dots_count():
    slower = (
        "<direction><direction-type><metronome><beat-unit>quarter</beat-unit><beat-unit-dot/>"
        "<per-minute>ca. 40</per-minute></metronome></direction-type></direction>"
    )
    first, second, _ = bars("", closes(), "")
    data = score([first, slower + second])
    assert [tempo for _, tempo in midi.inspect(data).tempos] == pytest.approx([120, 60, 120, 60])
    assert midi.read(data)["start"].tolist() == pytest.approx([0, 2, 6, 8])


def test_transposing_instruments_sound_where_they_sound():
    lower = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    clarinet = [attributes(more="<key><fifths>2</fifths></key>").replace("</attributes>", f"{lower}</attributes>")]
    data = score([clarinet[0] + note("D5", 16)], [attributes(more="<key><fifths>0</fifths></key>") + note("C3", 16)])
    assert pitches(data) == [48, 72]
    assert midi.grid(data).keys == [(0, 0, False)]


def test_drums_are_what_the_score_says_and_unnamed_ones_are_told():
    stroke = '<note><unpitched/><duration>4</duration><instrument id="{}"/></note>'
    heads = '<midi-instrument id="snare"><midi-unpitched>39</midi-unpitched></midi-instrument>' * 2
    player = heads.replace("snare", "kick", 1).replace("39", "37", 1)
    data = score(
        [attributes() + stroke.format("kick") + stroke.format("snare") + stroke.format("?")], players=(player,)
    )
    notes, warnings = midi.read_with_warnings(data)
    assert [(n["pitch"], n["program"]) for n in notes] == [(36, DRUMS), (38, DRUMS)]
    assert warnings == ["1 unpitched notes are left out: the file does not say what strikes them"]


def test_cue_notes_and_empty_measures_take_their_time_in_silence():
    data = score([attributes() + note("C4", 16, before="<cue/>"), "", note("D4", 16)])
    assert [(n["pitch"], n["start"]) for n in midi.read(data)] == [(62, pytest.approx(4))]


def test_rests_of_a_silent_part_do_not_make_a_measure_longer():
    notes = midi.read(score([attributes(4, (3, 4)) + note("C4", 12), note("D4", 12)], [note("", 16) * 2, note("", 12)]))
    assert notes["start"].tolist() == pytest.approx([0, 1.5])


def test_a_tie_that_no_note_ends_goes_to_the_next_note_of_its_pitch():
    notes = midi.read(score([attributes() + note("C4", 16, '<tie type="start"/>'), note("C4", 8) + note("C4", 8)]))
    assert notes["start"].tolist() == pytest.approx([0, 3]) and notes["end"].tolist() == pytest.approx([3, 4])


def test_more_staves_than_channels_keep_their_instruments():
    parts = [[attributes() + note("C4", 16)] for _ in range(20)]
    player = "<midi-instrument id='I'><midi-program>{}</midi-program></midi-instrument>"
    notes = midi.read(score(*parts, players=tuple(player.format(k + 1) for k in range(20))))
    assert len(notes) >= 15 and len(set(notes["program"].tolist())) >= 15


# --- the order of measures --------------------------------------------------------------------------------------------

ORDERS = {
    "nothing": (["", "", ""], "012"),
    "to the beginning": (["", closes(), ""], "01012"),
    "between two signs": (["", opens(), closes(), ""], "012123"),
    "three times": ([opens() + closes("3"), ""], "0001"),
    "two endings": (["", ending("1"), ending("2", close=False), ""], "01023"),
    "endings for several passes": (["", ending("1, 2"), ending("3", close=False), ""], "0101023"),
    "a range": (["", ending("1-3"), ending("4", close=False)], "01010102"),
    "one ending": (["", ending("1"), ""], "0102"),
    "three endings": (["", ending("1"), ending("2"), ending("3", close=False)], "010203"),
    "a last ending with a sign": (["", ending("1"), ending("2"), ""], "01023"),
    "an open last ending": (["", ending("1"), ending("2", close=False, stop="discontinue"), "", closes()], "01023434"),
    "da capo": (["", "", sound(dacapo="yes")], "012012"),
    "da capo al fine": (["", sound(fine="yes"), sound(dacapo="yes")], "01201"),
    "dal segno": (["", sound(segno="a"), "", sound(dalsegno="a"), ""], "01231234"),
    "to the coda": (
        ["", sound(segno="s"), sound(tocoda="c"), sound(dalsegno="s"), sound(coda="c"), ""], "01231245",
    ),
    "no repeats after a jump": (
        ["", closes(), ending("1"), ending("2", close=False) + sound(dacapo="yes")], "010123013",
    ),
    "a segno that is none": (["", sound(dalsegno="x"), ""], "012"),
}  # fmt: skip


@pytest.mark.parametrize(("marks", "order"), ORDERS.values(), ids=list(ORDERS))
def test_measures_are_played_in_the_order_of_a_player(marks, order):
    scale = [60, 62, 64, 65, 67, 69, 71, 72]
    assert pitches(score(bars(*marks))) == [scale[int(k)] for k in order]


def test_a_repeat_that_one_part_has_counts_for_all():
    notes = midi.read(score(bars("", closes()), bars("", "")))
    assert notes["start"].tolist() == pytest.approx([0, 0, 2, 2, 4, 4, 6, 6])


# --- hostile files ----------------------------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY l{k + 1} "' + f"&l{k};" * 10 + '">' for k in range(1, 9))
LAUGHS = f'<!DOCTYPE score-partwise [<!ENTITY l1 "ha">{LAUGHS}]>'


def bomb():
    return packed(b"<score-partwise>" + b" " * 200_000_000 + b"</score-partwise>")


def bzip2_bomb():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("META-INF/container.xml", b" " * 100_000_000)
    return out.getvalue()


def many_members():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER.format("0"))
        for k in range(1100):
            archive.writestr(str(k), b"")
    return out.getvalue()


REFUSED = {
    "a zip bomb": (bomb, "at most 20,000,000 bytes, unpacked"),
    "a zip bomb that the library would unpack at once": (bzip2_bomb, "packed by another method than Deflate"),
    "a billion laughs": (lambda: score(bars(""), doctype=LAUGHS), "declares an entity, 'l1'"),
    "a file of the server": (
        lambda: score(bars("&x;"), doctype='<!DOCTYPE score-partwise [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "declares an entity, 'x'",
    ),
    "a parameter entity": (
        lambda: score(bars(""), doctype='<!DOCTYPE score-partwise [<!ENTITY % x SYSTEM "http://0.invalid/"> %x;]>'),
        "declares an entity",
    ),
    "deep nesting": (lambda: score(bars("<a>" * 9000 + "</a>" * 9000)), "more than 40 elements inside one another"),
    "many elements": (lambda: score(bars("<a/>" * 2_100_000)), "at most 2,000,000 elements"),
    "a huge measure": (lambda: score([attributes() + note("C4", 1) * 51_000]), "at most 50,000 notes, rests and other"),
    "a note of many ties": (
        lambda: score([attributes() + note("C4", 4, "<tie/>" * 1_000_000, before="<cue/>") + "<note>"]), "damaged Mus"
    ),
    "many measures": (lambda: score([attributes(), *["<b/>"] * 10_001]), "at most 10,000 measures, got 10,002"),
    "many parts": (lambda: score(*[bars("")] * 101), "at most 100 parts, got 101"),
    "many repeats": (lambda: score(bars(*[closes("99999")] * 9)), "at most 20,000 measures with all repeats"),
    "many notes by repeats": (
        lambda: score([attributes() + note("C4", 1) * 5000 + closes("1000")]), "at most 200,000 notes with all repeats"
    ),
    "a long score": (lambda: score([attributes(1) + note("C4", 900) + closes("99")]), "at most 25,000 quarters"),
    "a long note": (lambda: score([attributes(1) + note("C4", 1001)]), "a note of more than 1,000 quarters"),
    "a number that is none": (lambda: score([attributes() + note("C4", "nan")]), "<duration> is 'nan', expected a num"),
    "a huge number": (lambda: score([attributes() + note("C4", "9" * 9000)]), "<duration> is '9+', expected"),
    "division by zero": (lambda: score([attributes(0)]), "<divisions> is '0', expected a number from 0.001"),
    "many staves": (lambda: score([attributes() + note("C4", 4, staff=9)]), "<staff> is '9'.* from 1 to 8"),
    "a pitch without a step": (
        lambda: score([attributes() + "<note><pitch><octave>4</octave></pitch><duration>1</duration></note>"]), "step"
    ),
    "XML that is cut": (lambda: STUDY[:-20], "damaged MusicXML: .*line"),
    "an unknown encoding": (lambda: STUDY.replace(b"UTF-8", b"no-such"), "damaged MusicXML: unknown encoding"),
    "many files in an .mxl": (many_members, "a zip with more than 1,000 files"),
    "an .mxl without a score": (lambda: packed(b"", container="<container/>"), "names no score"),
    "an .mxl that names another file": (lambda: packed(STUDY, container=CONTAINER.format("a.xml")), "no item named"),
    "an .mxl with other XML": (lambda: packed(b"<html/>"), "its first element is <html>, expected <score-partwise>"),
    "a MuseScore file": (lambda: packed(b"", "x.mscx"), "MuseScore file|its score is 'x.mscx'"),
    "a cut .mxl": (lambda: packed(STUDY)[:-30], "zip"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "says"), REFUSED.values(), ids=list(REFUSED))
def test_a_hostile_score_is_an_error_of_one_line_in_bounded_time(build, says):
    data = build()
    began = time.process_time()
    refused(data, says)
    assert time.process_time() - began < 30


def test_the_largest_score_that_is_read_takes_bounded_time():
    measures = [(attributes(16) if not k else "") + note("C4", 1) * 9 for k in range(5000)]
    began = time.process_time()
    assert len(midi.read(score(measures))) == 45_000
    assert time.process_time() - began < 60


def test_reading_opens_no_file_and_no_connection():
    code = (
        "import sys; from music import midi; from tests.support.scores import STUDY; midi.read(STUDY)\n"
        "def hook(event, args):\n"
        "    if event.startswith(('socket', 'subprocess', 'os.', 'open')): raise SystemExit(event)\n"
        "sys.addaudithook(hook); print(len(midi.read(STUDY)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "13"), ran.stderr


def test_without_music21_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(
        MissingDependency, match=r"reading MusicXML needs music21: `pip install '\.\[score\]'` in a clone"
    ):
        midi.read(STUDY)


def test_reading_midi_does_not_import_music21():
    code = "from music import midi; midi.read(midi.write(midi.read(b'MThd\\0\\0\\0\\6\\0\\1\\0\\1\\0\\1'))); import sys"
    ran = subprocess.run(
        [sys.executable, "-c", code + "; print('music21' in sys.modules)"], capture_output=True, text=True
    )
    assert ran.stdout.strip() == "False", ran.stderr


TAGS = sorted({*musicxml_tree._STORED, *(tag for inside in musicxml_tree._STORED.values() for tag in inside), "lyric"})
TEXTS = st.sampled_from(
    ["", "0", "1", "-1", "4", "C", "1e9", "nan", "0.5", "64", "3+2", "yes", "start", "backward", "x"]
)
elements = st.recursive(
    st.builds("<{0}>{1}</{0}>".format, st.sampled_from(TAGS), TEXTS),
    lambda inner: st.builds(
        '<{0} type="{2}" number="{2}" direction="{2}" tempo="{2}">{1}</{0}>'.format,
        st.sampled_from(TAGS), st.lists(inner, max_size=5).map("".join), TEXTS,
    ),
    max_leaves=25,
)  # fmt: skip


@law
@given(st.lists(st.lists(elements, max_size=5).map("".join), min_size=1, max_size=4))
def test_elements_anywhere_are_read_or_refused(measures):
    data = score([attributes() + note("C4", 4), *measures, note("D4", 4)])
    try:
        notes = midi.read(data)
    except MidiError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert (notes["end"] > notes["start"]).all() and (notes["start"] >= 0).all()


def test_what_is_musicxml_is_told_by_its_bytes():
    assert file_kinds.is_musicxml(STUDY) and file_kinds.is_musicxml(packed(STUDY))
    assert not file_kinds.is_musicxml(b"MThd" + STUDY) and not file_kinds.is_musicxml(b"")
    assert parser.read(musicxml_reading.to_midi(STUDY)[0]).warnings == []
    assert repeats.order([]) == []
