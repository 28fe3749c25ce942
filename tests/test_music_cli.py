"""`python -m music` and its pictures."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from music import __main__ as cli
from music import midi, plots, seeds
from music import notes as nt
from music.errors import RecordError

ROOT = Path(__file__).parents[1]
DUET = nt.from_tuples([(0.0, 0.5, 60, 70), (0.25, 1.5, 64, 80), (1.0, 2.0, 67, 90, 40), (70.0, 71.25, 36, 50)])


@pytest.fixture
def duet(tmp_path):
    path = tmp_path / "duet.mid"
    path.write_bytes(midi.write(DUET))
    return path


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "nocturne.mid"
    path.write_bytes(midi.write(seeds.nocturne()))
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
    assert table[-1].startswith(f"… and {len(seeds.nocturne()) - rows} more")


@pytest.mark.parametrize("count", ["163", "1000"])
def test_a_table_that_is_whole_says_no_more(song, capsys, count):
    assert cli.run(["inspect", str(song), "--notes", count]) == 0
    assert "more" not in capsys.readouterr().out


def test_no_rows_no_table(duet, capsys):
    assert cli.run(["inspect", str(duet), "--notes", "0"]) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_json_is_whole(song, capsys):
    assert cli.run(["inspect", str(song), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    music = midi.read(song.read_bytes())
    assert said["file"] == "nocturne.mid"
    assert said["instruments"] == [{"name": "Acoustic Grand Piano", "notes": len(music)}]
    assert said["tempos"] == [{"second": 0.0, "quarters_per_minute": 120.0}]
    assert said["seconds"] == pytest.approx(nt.length(music)) and said["pedal_presses"] == 0
    assert [note["pitch"] for note in said["notes"]] == music["pitch"].tolist()
    assert [note["end"] for note in said["notes"]] == pytest.approx(music["end"].tolist(), abs=1e-6)
    assert said["notes"][1]["step"] == pytest.approx(float(nt.steps(music)[1]))


def test_csv_is_whole(duet, capsys):
    assert cli.run(["inspect", str(duet), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["C4", "E4", "G4", "C2"]
    assert rows[3] == {
        "name": "C2", "start": "70.0", "end": "71.25", "pitch": "36", "velocity": "50", "step": "69.0",
        "duration": "1.25", "instrument": "Acoustic Grand Piano",
    }  # fmt: skip


def test_a_file_without_notes_is_told_too(tmp_path, capsys):
    (tmp_path / "silence.mid").write_bytes(midi.write(nt.empty()))
    assert cli.run(["inspect", str(tmp_path / "silence.mid")]) == 0
    assert "length       0.0 s, 0 notes" in capsys.readouterr().out


# --- mistakes ----------------------------------------------------------------------------------------------------


def mistake(capsys, *argv):
    """The one line that a mistake brings."""
    try:
        status = cli.run([str(arg) for arg in argv])
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    return err


def test_a_mistake_is_one_line_and_status_2(tmp_path, duet, capsys):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG\r\n")
    assert f"{picture}: not a MIDI file: expected it to begin with b'MThd'" in mistake(capsys, "inspect", picture)
    assert "nowhere.mid: No such file" in mistake(capsys, "inspect", tmp_path / "nowhere.mid")
    assert "Is a directory" in mistake(capsys, "inspect", tmp_path)
    assert "object storage is not supported yet" in mistake(capsys, "inspect", "gs://bucket/a.mid")
    assert "expected a number of notes, got '-1'" in mistake(capsys, "inspect", duet, "--notes", "-1")
    assert "not allowed with" in mistake(capsys, "inspect", duet, "--json", "--csv")
    assert "invalid choice: 'listen'" in mistake(capsys, "listen", duet)
    for seconds in ("-1", "nan", "inf", "soon"):
        assert f"expected a number of seconds, got '{seconds}'" in mistake(
            capsys, "plot", duet, "x", "--start", seconds
        )


def test_a_part_without_notes_is_a_mistake_that_tells_the_length(tmp_path, duet, capsys):
    said = mistake(capsys, "plot", duet, tmp_path / "x.png", "--start", "80")
    assert "no note begins in that part; it has 4 and ends at 71.2 s" in said
    assert not (tmp_path / "x.png").exists()


def test_as_a_command_its_reader_may_leave_early(song):
    command = [sys.executable, "-m", "music", "inspect", str(song), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "{\n"
        process.stdout.close()
        assert process.stderr.read() == ""


# --- pictures ----------------------------------------------------------------------------------------------------


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def inked(pixels, colour):
    """How many pixels have very nearly the hue of a colour, dark or light."""
    target = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    away, wanted = 255 - pixels, 255 - target
    scale = (away @ wanted) / (wanted @ wanted)
    return int(((scale > 0.2) & (np.abs(away - scale[..., None] * wanted).max(-1) < 6)).sum())


def test_plot_draws_a_part_of_a_file(tmp_path, song, capsys):
    out = tmp_path / "pictures" / "roll.png"
    assert cli.run(["plot", str(song), str(out), "--start", "5", "--seconds", "10"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert inked(picture(out), plots.COLOURS[0]) > 2000


def test_each_part_has_a_colour_and_a_legend(tmp_path):
    first, second = seeds.nocturne(), nt.shift(seeds.nocturne(), 32)
    plots.piano_roll({"seed": first, "continuation": second}, tmp_path / "both.png")
    both = picture(tmp_path / "both.png")
    blue, orange = plots.COLOURS[:2]
    roll, legend = both[40:], both[:36]
    middle = roll.shape[1] // 2
    assert inked(roll[:, : middle - 40], blue) > 2000 and inked(roll[:, : middle - 40], orange) == 0
    assert inked(roll[:, middle + 40 :], orange) > 2000 and inked(roll[:, middle + 40 :], blue) == 0
    assert inked(legend, blue) > 50 and inked(legend, orange) > 50


def test_louder_is_darker(tmp_path):
    darkest = []
    for velocity in (30, 60, 90):
        plots.piano_roll(nt.from_tuples([(0, 10, 60, velocity)]), tmp_path / "note.png")
        pixels = picture(tmp_path / "note.png")
        darkest.append(
            pixels[pixels.shape[0] // 2 - 30 : pixels.shape[0] // 2 + 30, pixels.shape[1] // 2].sum(-1).min()
        )
    assert darkest == sorted(darkest, reverse=True) and len(set(darkest)) == 3


@pytest.mark.parametrize(
    ("seconds", "widest", "tallest"), [(1, 1100, 700), (32, 1300, 900), (70, 1950, 900), (600, 1950, 3600)]
)
def test_pictures_have_sensible_sizes(tmp_path, seconds, widest, tallest):
    start = np.arange(0, seconds, 0.5)
    music = nt.from_columns(start, start + 0.4, 30 + np.arange(len(start)) * 7 % 60, 70)
    plots.piano_roll(music, tmp_path / "roll.png")
    height, width, _ = picture(tmp_path / "roll.png").shape
    assert 900 <= width <= widest and 400 <= height <= tallest


@pytest.mark.parametrize("music", [nt.empty(), nt.from_tuples([(3, 3.01, 0)]), nt.from_tuples([(9, 99, 127)])])
def test_odd_music_is_drawn_too(tmp_path, music):
    plots.piano_roll(music, tmp_path / "odd.png", title="odd")
    assert picture(tmp_path / "odd.png").shape[0] > 300


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    """No pyplot, no figure list, no backend chosen; and nothing of matplotlib before a picture is drawn."""
    program = f"""
import sys
from music import plots, seeds
assert not any(name.startswith("matplotlib") for name in sys.modules)
plots.piano_roll(seeds.nocturne(), {str(tmp_path / "roll.png")!r})
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


HISTORY = (
    "epoch,loss,pitch,val_loss,val_pitch,seconds\n1,14.5,4,14,3.9,60\n2,13,3.5,13.25,3.6,120\n3,12,3.2,13.5,3.7,180\n"
)


def test_losses_are_drawn_and_those_of_the_columns_below_them(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    plots.losses(tmp_path / "history.csv", tmp_path / "loss.png")
    columns = ["epoch,loss,val_loss", *(f"{k},{14 - k},{14.5 - k}" for k in range(3))]
    (tmp_path / "short.csv").write_text("\n".join(columns))
    plots.losses(tmp_path / "short.csv", tmp_path / "short.png")
    both, alone = picture(tmp_path / "loss.png"), picture(tmp_path / "short.png")
    assert both.shape[0] > alone.shape[0]
    for pixels in (both, alone):
        assert inked(pixels, plots.COLOURS[0]) > 300


def test_one_epoch_and_one_without_validation_are_drawn(tmp_path):
    for rows in ("1,14,13\n", "1,14,\n2,13,13.5\n"):
        (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n" + rows)
        plots.losses(tmp_path / "history.csv", tmp_path / "loss.png")
        assert picture(tmp_path / "loss.png").shape[0] > 300


@pytest.mark.parametrize(
    "text", ["", "epoch,loss,val_loss\n", "epoch,loss\n1,2\n", "epoch,loss,val_loss\n1,much,less\n"]
)
def test_a_history_without_numbers_is_an_error(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(RecordError, match="expected rows of epoch, loss and val_loss"):
        plots.losses(tmp_path / "history.csv", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
