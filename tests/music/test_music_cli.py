"""`python -m music`: what it prints, and its mistakes. The pictures are in test_plots.py."""

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from music import __main__ as cli
from music import midi
from music import notes as nt
from music.examples.nocturne import nocturne
from tests.support import hostile, scores
from tests.support.hostile import note, number

ROOT = Path(__file__).parents[2]
DUET = nt.from_tuples([(0.0, 0.5, 60, 70), (0.25, 1.5, 64, 80), (1.0, 2.0, 67, 90, 40), (70.0, 71.25, 36, 50)])


@pytest.fixture
def duet(tmp_path):
    path = tmp_path / "duet.mid"
    path.write_bytes(midi.write(DUET))
    return path


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "nocturne.mid"
    path.write_bytes(midi.write(nocturne()))
    return path


# --- inspect -----------------------------------------------------------------------------------------------------


def test_inspect_tells_what_is_in_a_file(duet, capsys):
    assert cli.run(["inspect", str(duet)]) == 0
    head, table = capsys.readouterr().out.split("\n\n")
    assert head.splitlines() == [
        "instruments  2: Acoustic Grand Piano (3 notes), Violin (1 note)",
        "length       1 min 11.2 s, 4 notes",
        "tempo        120 quarters a minute",
        "pedal        0 presses, folded into the ends of the notes",
    ]
    assert [line.split() for line in table.splitlines()] == [
        ["name", "start", "end", "pitch", "velocity", "step", "duration", "instrument"],
        ["C4", "0.000", "0.500", "60", "70", "0.000", "0.500", "Acoustic", "Grand", "Piano"],
        ["E4", "0.250", "1.500", "64", "80", "0.250", "1.250", "Acoustic", "Grand", "Piano"],
        ["G4", "1.000", "2.000", "67", "90", "0.750", "1.000", "Violin"],
        ["C2", "70.000", "71.250", "36", "50", "69.000", "1.250", "Acoustic", "Grand", "Piano"],
    ]


@pytest.mark.parametrize(("flags", "rows"), [([], 30), (["--notes", "5"], 5)])
def test_a_long_table_is_cut_and_says_so(song, capsys, flags, rows):
    assert cli.run(["inspect", str(song), *flags]) == 0
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert len(table) == 1 + rows + 1
    assert table[-1].startswith(f"… and {len(nocturne()) - rows} more")


@pytest.mark.parametrize("count", ["163", "1000"])
def test_a_table_that_is_whole_says_no_more(song, capsys, count):
    assert cli.run(["inspect", str(song), "--notes", count]) == 0
    assert "more" not in capsys.readouterr().out


def test_no_rows_no_table(duet, capsys):
    assert cli.run(["inspect", str(duet), "--notes", "0"]) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_json_is_whole(song, capsys):
    assert cli.run(["inspect", str(song), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    music = midi.read(song.read_bytes())
    assert output["file"] == "nocturne.mid"
    assert output["instruments"] == [{"name": "Acoustic Grand Piano", "notes": len(music)}]
    assert output["tempos"] == [{"second": 0.0, "quarters_per_minute": 120.0}]
    assert output["seconds"] == pytest.approx(nt.length(music)) and output["pedal_presses"] == 0
    assert [note["pitch"] for note in output["notes"]] == music["pitch"].tolist()
    assert [note["end"] for note in output["notes"]] == pytest.approx(music["end"].tolist(), abs=1e-6)
    assert output["notes"][1]["step"] == pytest.approx(float(nt.steps(music)[1]))


def test_csv_is_whole(duet, capsys):
    assert cli.run(["inspect", str(duet), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["C4", "E4", "G4", "C2"]
    assert rows[3] == {
        "name": "C2", "start": "70.0", "end": "71.25", "pitch": "36", "velocity": "50", "step": "69.0",
        "duration": "1.25", "instrument": "Acoustic Grand Piano",
    }  # fmt: skip


def test_a_part_is_reported_as_it_stands_in_the_whole(duet, capsys):
    """On the file's own clock, with the step from the onset before, which is not in the part."""
    part = ["inspect", str(duet), "--start", "0.25", "--seconds", "10"]
    assert cli.run([*part, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert [(note["name"], note["start"], note["end"], note["step"]) for note in output["notes"]] == [
        ("E4", 0.25, 1.5, 0.25),
        ("G4", 1.0, 2.0, 0.75),
    ]
    assert len(output["instruments"]) == 2 and output["seconds"] == 71.25  # of the whole file
    assert cli.run([*part, "--csv"]) == 0
    assert [row["name"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["E4", "G4"]
    assert cli.run([*part, "--notes", "1"]) == 0
    head, table = capsys.readouterr().out.split("\n\n")
    assert head.endswith("\nthis part    2 notes")
    assert len(table.splitlines()) == 3 and "and 1 more" in table
    assert cli.run(["inspect", str(duet), "--start", "99"]) == 0
    assert capsys.readouterr().out.endswith("this part    0 notes\n")


def test_a_file_without_notes_is_reported_too(tmp_path, capsys):
    (tmp_path / "silence.mid").write_bytes(midi.write(nt.empty()))
    assert cli.run(["inspect", str(tmp_path / "silence.mid")]) == 0
    assert "length       0.0 s, 0 notes" in capsys.readouterr().out


def test_inspect_gives_the_tempo_that_counts_and_the_one_before_a_late_first_tempo(tmp_path, capsys):
    """Of several at one tick the last one of the last track counts."""

    def tempo(wait, quarters_per_minute):
        return number(wait) + b"\xff\x51\3" + (60_000_000 // quarters_per_minute).to_bytes(3, "big")

    path = tmp_path / "tempos.mid"
    path.write_bytes(
        hostile.song(tempo(0, 35) * 5 + tempo(0, 120), note() + tempo(720, 60), note(62) + tempo(720, 240))
    )
    assert cli.run(["inspect", str(path)]) == 0
    assert "tempo        120, 240 from 1.0 s quarters a minute\n" in capsys.readouterr().out
    path.write_bytes(hostile.song(note() + tempo(720, 60)))
    assert cli.run(["inspect", str(path), "--json"]) == 0
    tempos = json.loads(capsys.readouterr().out)["tempos"]
    assert tempos == [{"second": 0, "quarters_per_minute": 120}, {"second": 1, "quarters_per_minute": 60}]


def test_a_packed_file_is_read(tmp_path, duet, capsys):
    packed = tmp_path / "duet.mid.gz"
    packed.write_bytes(gzip.compress(duet.read_bytes()))
    assert cli.run(["inspect", str(packed)]) == 0
    assert "length       1 min 11.2 s, 4 notes" in capsys.readouterr().out
    packed.write_bytes(gzip.compress(bytes(30_000_000)))
    assert "expected at most 20,000,000 bytes, unpacked, got more" in mistake(capsys, "inspect", packed)
    packed.write_bytes(gzip.compress(duet.read_bytes())[:-9])
    assert "a damaged gzip file" in mistake(capsys, "inspect", packed)


# --- what is left out, and drums ---------------------------------------------------------------------------------

STOPPED = hostile.song(note() + b"".join(b"\0\x90" + bytes([key, 90]) for key in (48, 64, 67)))  # with three keys down
NEVER = hostile.song(b"\0\x90\x3c\x40" + b"\x83\x60\x3e\x40" * 7)
ON_TEN = hostile.song(
    b"\0\xc9\0" + b"".join(b"\0\x99" + bytes([60 + k, 80]) + b"\x60\x89" + bytes([60 + k, 0]) for k in range(8))
)


@pytest.fixture
def stopped(tmp_path):
    path = tmp_path / "stopped.mid"
    path.write_bytes(STOPPED)
    return path


@pytest.mark.parametrize("command", ["render", "score", "plot"])
def test_what_is_left_out_is_printed(tmp_path, stopped, capsys, command):
    out = tmp_path / {"render": "x.wav", "score": "x.musicxml", "plot": "x.png"}[command]
    assert cli.run([command, str(stopped), str(out)]) == 0
    assert capsys.readouterr() == (f"{out}\n", f"{stopped}: 3 notes are never released; they are left out\n")


def test_inspect_says_what_is_left_out(stopped, capsys):
    assert cli.run(["inspect", str(stopped), "--notes", "0"]) == 0
    assert "\ndamaged      3 notes are never released; they are left out\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["render", "score", "plot"])
def test_why_a_file_has_no_notes_is_reported(tmp_path, capsys, command):
    path = tmp_path / "drum-machine.mid"
    path.write_bytes(NEVER)
    says = mistake(capsys, command, path, tmp_path / ("x.wav" if command == "render" else "x.png"))
    assert says == f"music {command}: {path}: no notes; 8 notes are never released; they are left out\n"
    assert cli.run(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "length       0.0 s, 0 notes\n" in out and "damaged      8 notes are never released;" in out


def test_drums_are_what_the_flag_says(tmp_path, capsys):
    path = tmp_path / "ten.mid"
    path.write_bytes(ON_TEN)
    assert cli.run(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1: Drums (8 notes)" in out
    assert "\ndrums        8 notes of channel 10; --drums none reads them as pitches\n" in out
    assert cli.run(["inspect", str(path), "--drums", "none"]) == 0
    out = capsys.readouterr().out
    assert "1: Acoustic Grand Piano (8 notes)" in out and "\ndrums" not in out
    assert "expected at least one that is not for drums" in mistake(capsys, "score", path, tmp_path / "x.musicxml")
    for command, name in (("score", "x.musicxml"), ("plot", "x.png"), ("render", "x.wav")):
        assert cli.run([command, str(path), str(tmp_path / name), "--drums", "none"]) == 0
    capsys.readouterr()
    assert "expected auto or none, got 'some'" in mistake(capsys, "inspect", path, "--drums", "some")


# --- mistakes ----------------------------------------------------------------------------------------------------


def mistake(capsys, *argv):
    """Run a wrong command; return the one line that it prints."""
    try:
        status = cli.run([str(arg) for arg in argv])
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    return err


def test_every_command_reads_a_score_like_a_midi_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.mxl"
    path.write_bytes(scores.packed(scores.STUDY))
    assert cli.run(["inspect", str(path)]) == 0
    assert "Harpsichord (13 notes)" in (out := capsys.readouterr().out) and "90 quarters a minute" in out
    for command, name in (("plot", "a.png"), ("score", "a.musicxml")):
        assert cli.run([command, str(path), str(tmp_path / name)]) == 0
    assert np.array_equal(midi.read((tmp_path / "a.musicxml").read_bytes())["pitch"], midi.read(scores.STUDY)["pitch"])
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "music21", None)
    assert "a.mxl: reading MusicXML needs music21: `pip install '.[score]'`" in mistake(capsys, "inspect", path)


def test_a_mistake_is_one_line_and_status_2(tmp_path, duet, capsys):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG\r\n")
    assert f"{picture}: not a MIDI file: this is a PNG picture" in mistake(capsys, "inspect", picture)
    assert "nowhere.mid: No such file" in mistake(capsys, "inspect", tmp_path / "nowhere.mid")
    assert "Is a directory" in mistake(capsys, "inspect", tmp_path)
    assert "expected gs://BUCKET/NAME or a local path" in mistake(capsys, "inspect", "s3://bucket/a.mid")
    assert "expected a number of notes, got '-1'" in mistake(capsys, "inspect", duet, "--notes", "-1")
    assert "not allowed with" in mistake(capsys, "inspect", duet, "--json", "--csv")
    assert "invalid choice: 'listen'" in mistake(capsys, "listen", duet)
    for seconds in ("-1", "nan", "inf", "soon"):
        assert f"expected a number of seconds, got '{seconds}'" in mistake(
            capsys, "plot", duet, "x", "--start", seconds
        )


def test_a_part_without_notes_is_a_mistake_that_tells_the_length(tmp_path, duet, capsys):
    output = mistake(capsys, "plot", duet, tmp_path / "x.png", "--start", "80")
    assert "no note begins in that part; it has 4 and ends at 71.2 s" in output
    assert not (tmp_path / "x.png").exists()


def test_as_a_command_its_reader_may_leave_early(song):
    command = [sys.executable, "-m", "music", "inspect", str(song), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "{\n"
        process.stdout.close()
        assert process.stderr.read() == ""
