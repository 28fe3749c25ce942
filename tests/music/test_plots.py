"""Pictures, and `python -m music plot`: the content of a figure, mostly without rendering it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from music import __main__ as cli
from music import midi
from music import notes as nt
from music.analysis import statistics
from music.analysis.statistics import Histogram, Statistics
from music.errors import MusicError, RecordError
from music.examples.nocturne import nocturne
from music.plots import charts, piano_roll, style
from tests.music.test_statistics import of_corpus, write

ROOT = Path(__file__).parents[2]
SONG = nocturne()


@pytest.fixture
def drawn(monkeypatch):
    """Collect the figures that are drawn; write no files."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    return figures


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "nocturne.mid"
    path.write_bytes(midi.write(SONG))
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    """Make a dataset folder, as far as pictures read it."""
    (tmp_path / "waltzes").mkdir()
    write(tmp_path / "waltzes/stats.json", of_corpus(SONG, nt.transpose(SONG, 5)))
    return str(tmp_path / "waltzes")


def plot(*argv) -> None:
    assert cli.run(["plot", *map(str, argv)]) == 0


def mistake(capsys, *argv) -> str:
    """Run a wrong command; give the one line that it prints, and check that no picture is written."""
    capsys.readouterr()
    try:
        status = cli.run(["plot", *map(str, argv)])
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == "" and err.count("\n") == 1 and not Path(argv[-1]).exists()
    return err


def texts(figure) -> list[str]:
    """List every visible text of a figure."""
    figure.canvas.draw()
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def legend(figure) -> list[str]:
    (legend,) = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for text in legend.get_texts()]


def bars(figure) -> list[int]:
    """Count the notes of each part of a roll, in all its lines."""
    from matplotlib.collections import PolyCollection

    lines = [axes.findobj(PolyCollection) for axes in figure.axes]
    counts = [[len(part.get_paths()) for part in line] for line in lines if line]
    return np.sum(counts, axis=0).tolist()


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


# --- files -------------------------------------------------------------------------------------------------------


def test_the_ending_says_what_is_written(tmp_path, song, capsys):
    begins = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-", "SVG": b"<?xml"}
    for ending, magic in begins.items():
        out = tmp_path / "pictures" / f"roll.{ending}"
        plot(song, out, "--seconds", "5")
        assert capsys.readouterr().out == f"{out}\n"
        assert out.read_bytes().startswith(magic)
    assert ">C4<" in (tmp_path / "pictures/roll.svg").read_text()  # text can be searched
    assert b">velocity<" in (tmp_path / "pictures/roll.svg").read_bytes()


def test_the_same_picture_has_the_same_bytes(tmp_path):
    for ending in ("svg", "pdf"):
        for number in range(2):
            piano_roll.piano_roll(SONG[:20], tmp_path / f"{number}.{ending}")
        assert (tmp_path / f"0.{ending}").read_bytes() == (tmp_path / f"1.{ending}").read_bytes()


def test_an_unknown_ending_is_reported_before_anything_is_read(tmp_path, capsys):
    for name in ("roll.jpg", "roll", "roll.png.gz"):
        printed = mistake(capsys, "nowhere.mid", tmp_path / name)
        assert printed == f"music plot: {tmp_path / name}: expected a name that ends in .png, .svg or .pdf\n"


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    """No pyplot, no figure list, no backend chosen; and nothing of matplotlib before a picture is drawn."""
    program = f"""
import sys
from music.plots import charts, figures
from music.plots.piano_roll import piano_roll
from music.examples.nocturne import nocturne
assert not any(name.startswith("matplotlib") for name in sys.modules)
piano_roll(nocturne(), {str(tmp_path / "roll.svg")!r})
import matplotlib
assert "matplotlib.pyplot" not in sys.modules and matplotlib.rcParams["svg.hashsalt"] is None
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_names_are_drawn_as_they_are(tmp_path, drawn):
    for name in ("_hidden_", "a $b$ c", "$\\frac{1}{2}$", "x" * 300):
        piano_roll.piano_roll({name: SONG, "other": SONG}, tmp_path / "x.png", title=name)
        charts.distributions({name: statistics.of([SONG])}, tmp_path / "x.png", title=name)
    assert legend(drawn[0]) == [" _hidden_", "other"]
    assert all(len(text) < 120 for figure in drawn for text in texts(figure))


def test_letters_that_the_font_lacks_do_not_stop_it(tmp_path):
    piano_roll.piano_roll(SONG[:3], tmp_path / "x.png", title="\u97f3\u697d")
    assert pixels(tmp_path / "x.png").shape[0] > 300


# --- piano rolls -------------------------------------------------------------------------------------------------


def test_every_note_is_a_bar_where_it_sounds(drawn):
    from matplotlib.collections import PolyCollection

    music = nt.from_tuples([(1, 2.5, 60, 100), (2, 3, 64, 30)])
    piano_roll.piano_roll(music, "x.png", "two notes")
    (roll, _) = drawn[0].axes
    (notes,) = roll.findobj(PolyCollection)
    boxes = [path.get_extents().extents.tolist() for path in notes.get_paths()]
    assert boxes == [[2, 63.58, 3, 64.42], [1, 59.58, 2.5, 60.42]]  # the loud one last, so that it lies above
    soft, loud = notes.get_facecolors()[:, :3] @ [0.299, 0.587, 0.114]
    assert loud < soft - 0.3  # also in grey
    assert {"two notes", "seconds", "pitch", "velocity", "C4"} <= set(texts(drawn[0]))


def test_louder_is_darker_for_eyes_and_printers(drawn):
    for parts in (1, 2, 6):
        for colours in piano_roll._maps(parts):
            grey = colours(np.linspace(0, 1, 30))[:, :3] @ [0.299, 0.587, 0.114]
            assert (np.diff(grey) < 0).all() and grey[0] - grey[-1] > 0.4


def test_parts_have_colours_a_legend_and_an_outline(drawn):
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    piano_roll.piano_roll({"seed": SONG, "continuation": nt.shift(SONG, 32)}, "x.png")
    (roll,) = drawn[0].axes  # no bar of velocities: a colour stands for a part
    first, second = roll.findobj(PolyCollection)
    assert bars(drawn[0]) == [len(SONG), len(SONG)]
    assert legend(drawn[0]) == ["seed", "continuation"]
    assert first.get_facecolors()[0, 2] > first.get_facecolors()[0, 0]  # blue
    assert second.get_facecolors()[0, 0] > second.get_facecolors()[0, 2]  # orange
    assert (second.get_edgecolors() == to_rgba(style.INK)).all()
    assert (first.get_edgecolors() != to_rgba(style.INK)).any()
    assert "seconds; louder notes are darker" in texts(drawn[0])


def test_lines_in_which_nothing_sounds_are_left_out_with_words(drawn, tmp_path):
    piano_roll.piano_roll(
        nt.from_tuples([(0.0, 1.0, 60), (100.0, 101.0, 62), (10_800.0, 10_801.0, 64)]), tmp_path / "x"
    )
    rolls = [axes for axes in drawn[0].axes if axes.get_yticks().size and axes.get_ylabel() != "velocity"]
    assert [axes.get_title(loc="left") for axes in rolls] == ["", "", "2 h 57 min without a note left out"]
    assert drawn[0].get_figheight() < 10


@pytest.mark.parametrize("step", [1.0, 90.0, 700.0])
def test_a_roll_has_so_many_lines_at_most(drawn, tmp_path, step):
    starts = np.arange(0, 86_000, step)
    piano_roll.piano_roll(nt.from_columns(starts, starts + 0.5, np.full(len(starts), 60), 80), tmp_path / "x")
    assert bars(drawn[0]) == [len(starts)]
    assert len(drawn[0].axes) <= 24 + 1  # and the scale of the velocities
    assert drawn[0].get_figheight() < 70


@pytest.mark.parametrize(
    ("seconds", "widest", "tallest"), [(1, 1100, 700), (32, 1300, 900), (70, 1950, 900), (600, 1950, 3600)]
)
def test_pictures_have_sensible_sizes(drawn, seconds, widest, tallest):
    start = np.arange(0, seconds, 0.5)
    music = nt.from_columns(start, start + 0.4, 30 + np.arange(len(start)) * 7 % 60, 70)
    piano_roll.piano_roll(music, "x.png")
    width, height = drawn[0].get_size_inches() * drawn[0].dpi
    assert 900 <= width <= widest and 400 <= height <= tallest
    assert bars(drawn[0])[0] >= len(music)  # a note that goes on in the next line is drawn in both


@pytest.mark.parametrize("music", [nt.empty(), nt.from_tuples([(3, 3.01, 0)]), nt.from_tuples([(9, 99, 127)])])
def test_odd_music_is_drawn_too(tmp_path, music):
    piano_roll.piano_roll(music, tmp_path / "odd.png", title="odd")
    assert pixels(tmp_path / "odd.png").shape[0] > 300


def test_a_part_or_the_first_notes_of_a_file(song, drawn):
    plot(song, "x.png", "--start", "5", "--seconds", "10")
    plot("roll", song, "x.png", "--notes", "7")
    music = midi.read(Path(song).read_bytes())
    assert bars(drawn[0]) == [((music["start"] >= 5) & (music["start"] < 15)).sum()]
    assert drawn[0].axes[0].get_xlim() == pytest.approx((5, 15), abs=1)
    assert bars(drawn[1]) == [7]
    assert "nocturne.mid" in texts(drawn[1])


def test_what_two_files_share_is_drawn_once(tmp_path, song, drawn):
    longer = np.concatenate([SONG, nt.shift(SONG[:20], 33.0)])
    (tmp_path / "longer.mid").write_bytes(midi.write(nt.sort(longer)))
    plot(song, tmp_path / "longer.mid", "x.png")
    plot(f"seed={song}", f"seed={tmp_path / 'longer.mid'}", "x.png", "--title", "One name, one part")
    assert legend(drawn[0]) == ["nocturne.mid", "longer.mid"]
    assert bars(drawn[0]) == [len(SONG), 20]
    assert bars(drawn[1]) == [len(SONG) + 20]
    assert "One name, one part" in texts(drawn[1])


# --- distributions -----------------------------------------------------------------------------------------------


def stairs(axes) -> list[tuple[np.ndarray, np.ndarray]]:
    """List (edges, heights) of each outline in a panel."""
    from matplotlib.patches import StepPatch

    lines = [patch for patch in axes.findobj(StepPatch) if not patch.get_fill()]
    return [(patch.get_data().edges, patch.get_data().values) for patch in lines]


def height(axes, at: float, number: int = 0) -> float:
    """Measure the bars over a position."""
    edges, heights = stairs(axes)[number]
    return heights[np.searchsorted(edges, at, side="right") - 1]


def test_bars_are_shares_at_their_places(drawn):
    music = nt.from_tuples(
        [(0.0, 0.3, 60, 100), (0.0, 0.3, 64, 100), (0.5, 0.8, 60, 1), (1.0, 1.3, 62, 127), (1.2, 9.0, 62, 127)]
    )
    charts.distributions({"tune": statistics.of([music])}, "x.png")
    pitch, velocity, step, duration = drawn[0].axes
    assert [height(pitch, at) for at in (59, 60, 62, 64)] == [0, 40, 40, 20]
    assert [height(velocity, at) for at in (1, 50, 100, 127)] == [20, 0, 40, 40]
    assert stairs(step)[0][1].tolist() == [25]  # two together: the bar for what is shorter than 16 ms
    assert [height(step, np.log10(at), 1) for at in (0.2, 0.49)] == [25, 50]
    assert [height(duration, np.log10(at), 1) for at in (0.3, 1, 7.8)] == [80, 0, 20]
    assert legend(drawn[0]) == ["tune: 5 notes"]
    assert {"median D4 (62)", "median 100", "notes, %", "C4", "<0.016"} <= set(texts(drawn[0]))
    assert {"step: time from one onset to the next, s", "duration: time that a note sounds, s"} <= set(texts(drawn[0]))


def test_sets_stand_beside_each_other(drawn):
    real, model = statistics.of([SONG, TRANSPOSED]), statistics.of([TRANSPOSED])
    charts.distributions({"real": real, "ours": model}, "x.png", title="Beside each other")
    assert legend(drawn[0]) == [f"real: 2 pieces, {2 * len(SONG)} notes", f"ours: {len(SONG)} notes"]
    for axes in drawn[0].axes:
        lines = stairs(axes)
        halves = np.split(np.arange(len(lines)), 2)
        for half in halves:  # the short bar and the others, of each set
            assert sum(lines[k][1].sum() for k in half) == pytest.approx(100)
        from matplotlib.patches import StepPatch

        dashes = {patch.get_linestyle() for patch in axes.findobj(StepPatch) if not patch.get_fill()}
        assert len(dashes) == 2  # to differ in grey, too
    shown = texts(drawn[0])
    assert "Beside each other" in shown
    assert any(text.startswith("real: median ") for text in shown)
    assert any(text.startswith("ours: median ") for text in shown)


TRANSPOSED = nt.transpose(SONG, 7)


def test_medians_of_a_single_set_are_those_of_the_file(drawn):
    charts.distributions({"song": statistics.of([SONG])}, "x.png")
    middle = int(np.median(SONG["pitch"]))
    assert f"median {nt.name(middle)} ({middle})" in texts(drawn[0])
    assert f"median {np.median(SONG['velocity']):.0f}" in texts(drawn[0])


def test_several_pieces_have_lengths(drawn):
    charts.distributions({"a": statistics.of([SONG] * 3 + [SONG[:40]])}, "x.png")
    assert "notes in a piece, two bars an octave" in texts(drawn[0])
    assert height(drawn[0].axes[4], np.log10(len(SONG))) == 75
    assert height(drawn[0].axes[4], np.log10(40)) == 25


def test_the_last_thousandth_is_reported_and_not_drawn(drawn):
    start = np.arange(4000) / 10
    music = nt.from_columns(start, start + 0.1, 60, 64)
    music["end"][0] += 30
    charts.distributions({"long": statistics.of([music])}, "x.png")
    assert "median 0.11 s, 0.025 % over 2 s" in texts(drawn[0])
    assert drawn[0].axes[3].get_xlim()[1] == pytest.approx(np.log10(2))


def test_times_on_a_models_grid_fill_the_bars_as_any_others_do(drawn):
    """Rounding to 10 ms, as models do, must not look like another way of playing."""
    lengths = np.random.default_rng(0).lognormal(-1.5, 1.2, 20_000).clip(0.02, 60)
    sets = {}
    for name, times in {"played": lengths, "rounded": lengths.round(2)}.items():
        start = np.arange(len(times)) * 1.0
        sets[name] = statistics.of([nt.from_columns(start, start + times + 1e-6, 60, 64)])
    charts.distributions(sets, "x.png")
    lines = stairs(drawn[0].axes[3])
    assert np.abs(lines[1][1] - lines[3][1]).max() < 2.5  # percent; the bars are up to 16 high


def test_one_note_and_notes_beyond_the_piano_are_drawn(tmp_path, drawn):
    for music in (nt.from_tuples([(0, 1, 60)]), nt.from_tuples([(0, 300, 0, 1), (200, 300, 127, 127)])):
        charts.distributions({"odd": statistics.of([music])}, "x.png")
    assert "median none" in texts(drawn[0])  # one note has no step
    assert drawn[1].axes[0].get_xlim() == (-0.5, 127.5)
    assert [height(drawn[1].axes[0], pitch) for pitch in (0, 127)] == [50, 50]


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(MusicError, match="1 to 6 sets of music beside each other, got 0"):
        charts.distributions({}, tmp_path / "x.png")
    with pytest.raises(MusicError, match="1 to 6 sets of music beside each other, got 7"):
        charts.distributions({str(k): statistics.of([SONG]) for k in range(7)}, tmp_path / "x.png")
    with pytest.raises(MusicError, match="silence: no notes"):
        charts.distributions({"song": statistics.of([SONG]), "silence": statistics.of([])}, tmp_path / "x.png")
    with pytest.raises(MusicError, match="nothing tells of composers"):
        charts.composers({}, tmp_path / "x.png")
    with pytest.raises(MusicError, match="nothing tells of chords"):
        charts.chords({}, tmp_path / "x.png")
    for top in (0, 501):
        with pytest.raises(MusicError, match=f"1 to 500 bars, got {top}"):
            charts.composers({"Bach": 1}, tmp_path / "x.png", top=top)
    assert not (tmp_path / "x.png").exists()


# --- composers and chords ----------------------------------------------------------------------------------------


def lengths(axes) -> dict[str, float]:
    """List the bars of a panel by their labels."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(names, [patch.get_width() for patch in axes.patches], strict=False))


def test_composers_by_their_pieces(drawn):
    pieces = {"Bach": 3, "A$B$": 3, "Chopin": 20, "Liszt": 1, "Alkan": 1, "x" * 90: 2}
    charts.composers(pieces, "x.png", top=4)
    (axes,) = drawn[0].axes
    assert list(lengths(axes).items()) == [("Chopin", 20), (r"A\$B\$", 3), ("Bach", 3), ("x" * 47 + "…", 2)]
    assert axes.get_yticklabels()[-1].get_text() == "and 2 others"
    assert {"30 pieces by 6 composers", "pieces", "20", "3", "2"} <= set(texts(drawn[0]))


def test_all_composers_leave_no_others(drawn):
    charts.composers({"Bach": 3, "Chopin": 20}, "x.png", title="Mine")
    assert not [text for text in texts(drawn[0]) if "other" in text]
    assert "Mine" in texts(drawn[0])


def test_chords_by_their_kind(drawn):
    counts = {"C4": 50, "0": 10, "0.4": 20, "0.4.7": 15, "E4": 4, "10.2.5.8": 1}
    charts.chords(counts, "x.png", top=1)
    notes, two, more = drawn[0].axes
    assert lengths(notes) == {"C4": 50}
    assert lengths(two) == {"C E  (0.4)": 20}
    assert lengths(more) == {"C E G  (0.4.7)": 15}
    shown = texts(drawn[0])
    assert {"100 notes and chords (begun within 50 ms) of 6 kinds", "single notes: 54 %", "50.00 %"} <= set(shown)
    assert shown.count("and 1 other") == 3 and {"4.00 %", "10.00 %", "1.00 %"} <= set(shown)


def test_an_octave_is_spelled_as_one(drawn):
    charts.chords({"10": 3, "A#3": 2}, "x.png")
    assert [lengths(axes) for axes in drawn[0].axes] == [{"A#3": 2}, {"A# in octaves  (10)": 3}]


# --- losses ------------------------------------------------------------------------------------------------------

HISTORY = (
    "epoch,loss,pitch,val_loss,val_pitch,seconds\n1,14.5,4,14,3.9,60\n2,13,3.5,13.25,3.6,120\n3,12,3.2,13.5,3.7,180\n"
)


@pytest.fixture
def history(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    return str(tmp_path / "history.csv")


def test_losses_those_of_the_columns_and_what_there_is_to_beat(history, drawn):
    piano_roll.losses(history, "x.png", unit="nats a symbol", baselines={"bigram": 12.25, "_unigram": 15})
    above, below = drawn[0].axes
    lines = {line.get_label(): line.get_ydata() for line in above.lines}
    assert list(lines["bigram 12.250"]) == [12.25, 12.25]
    assert list(lines["loss 13.250"]) == [14, 13.25, 13.5]
    assert " _unigram 15.000" in lines
    assert [14.5, 13, 12] in [list(line.get_ydata()) for line in above.lines]
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["pitch 3.600"]
    assert above.get_ylabel() == below.get_ylabel() == "nats a symbol"
    assert below.get_xlabel() == "epoch"


def test_losses_by_command(tmp_path, history, drawn):
    plot(history, "x.png", "--baseline", "bigram=12.25", "--baseline", "chance=16", "--title", "mine")
    plot("losses", tmp_path, "x.png", "--unit", "nats a symbol")
    assert {"bigram 12.250", "chance 16.000", "mine", "nats a note"} <= set(texts(drawn[0]))
    assert "nats a symbol" in texts(drawn[1])


def test_short_histories_are_drawn(tmp_path, drawn):
    for rows in ("1,14,13\n", "1,14,\n2,13,13.5\n", "1,14,13\n2,13,12\n3,12,11\n"):
        (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n" + rows)
        piano_roll.losses(tmp_path / "history.csv", "x.png")
        assert len(drawn[-1].axes) == 1 and texts(drawn[-1])


@pytest.mark.parametrize(
    "content", [b"", b"epoch,loss,val_loss\n", b"epoch,loss\n1,2\n", b"epoch,loss,val_loss\n1,much,less\n", b"\xff\x00"]
)
def test_a_history_without_numbers_is_an_error(tmp_path, content):
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(RecordError, match="expected rows of epoch, loss and val_loss"):
        piano_roll.losses(tmp_path / "history.csv", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


# --- which files make which picture ------------------------------------------------------------------------------


def test_the_files_say_which_picture(song, corpus, history, drawn):
    plot(song, "x.png")
    plot(f"{corpus}/stats.json", "x.png")
    plot(song, f"{corpus}/stats.json", "x.png")
    plot("--title", "first", history, "x.png")
    assert bars(drawn[0]) == [len(SONG)]
    assert legend(drawn[1]) == [f"waltzes: 2 pieces, {2 * len(SONG)} notes"]
    assert legend(drawn[2]) == [f"nocturne.mid: {len(SONG)} notes", f"waltzes: 2 pieces, {2 * len(SONG)} notes"]
    assert "first" in texts(drawn[3])


def test_folders_and_names_make_sets(tmp_path, song, corpus, drawn):
    samples = tmp_path / "samples"
    (samples / "deep").mkdir(parents=True)
    (samples / "1.mid").write_bytes(midi.write(SONG))
    (samples / "deep/2.MIDI").write_bytes(midi.write(SONG[:50]))
    plot("distributions", f"real={corpus}", samples, f"one={song}", f"one={song}", "x.png", "--title", "sets")
    assert legend(drawn[0]) == [
        f"real: 2 pieces, {2 * len(SONG)} notes",
        f"samples: 2 pieces, {len(SONG) + 50} notes",
        f"one: 2 pieces, {2 * len(SONG)} notes",
    ]
    plot("chords", samples, "x.png", "--notes", "5", "--top", "3")
    plot("chords", corpus, "x.png")
    plot("composers", corpus, "x.png")
    assert sum(lengths(drawn[1].axes[0]).values()) == 4  # of each file two of the first five notes are single ones
    assert lengths(drawn[3].axes[0]) == {"me": 2}


def test_an_equals_sign_may_belong_to_a_path(tmp_path, song, drawn):
    for name in ("a=b.mid", "c=d/e.mid"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path(song).read_bytes())
        plot(tmp_path / name, "x.png")
    plot("roll", f"named={tmp_path / 'a=b.mid'}", "x.png")
    assert ["a=b.mid" in texts(drawn[0]), "e.mid" in texts(drawn[1]), "named" in texts(drawn[2])] == [True] * 3


def test_files_of_one_name_are_distinguished(tmp_path, song, drawn):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/nocturne.mid"
    other.write_bytes(midi.write(nt.transpose(SONG, 1)))
    plot("distributions", song, other, "x.png")
    assert legend(drawn[0]) == [f"{style.clip(str(path), 80)}: {len(SONG)} notes" for path in (song, other)]


def test_mistakes_are_one_line(tmp_path, song, corpus, capsys):
    out = tmp_path / "x.png"
    empty, silence, old = tmp_path / "empty", tmp_path / "silence.mid", tmp_path / "old.json"
    empty.mkdir()
    silence.write_bytes(midi.write(nt.empty()))
    facts = json.loads(Path(corpus, "stats.json").read_text())
    write(old, {name: part for name, part in facts.items() if name != "chords"})
    write(tmp_path / "odd.json", facts | {"chords": {"H4": 1}})
    assert f"music plot: {silence}: no notes" in mistake(capsys, silence, out)
    assert f"{silence}: no note" in mistake(capsys, "distributions", song, silence, out)
    assert f"{song}: no note" in mistake(capsys, "chords", song, out, "--start", "500")
    assert f"{old}: not a MIDI file" in mistake(capsys, "roll", song, old, out)
    assert f"{song}: expected the stats.json of a dataset" in mistake(capsys, "composers", song, out)
    assert f"{song}: expected rows of epoch, loss and val_loss" in mistake(capsys, "losses", song, out)
    assert f"{old}: written before chords were counted" in mistake(capsys, "chords", old, out)
    assert f"{tmp_path / 'odd.json'}: symbol 'H4': expected a note" in mistake(
        capsys, "chords", tmp_path / "odd.json", out
    )
    assert f"{empty}: neither stats.json nor a file of music" in mistake(capsys, "distributions", empty, out)
    assert f"{empty}/stats.json: No such file" in mistake(capsys, "composers", empty, out)
    assert "neither cut nor added" in mistake(capsys, "distributions", corpus, out, "--notes", "5")
    assert "neither cut nor added" in mistake(capsys, "distributions", f"a={corpus}", f"a={song}", out)
    assert "neither cut nor added" in mistake(capsys, "distributions", f"a={song}", f"a={corpus}", out)
    assert "of one set of music, got nocturne.mid, waltzes" in mistake(capsys, "chords", song, corpus, out)
    assert "expected 1 to 500 bars, got 0" in mistake(capsys, "composers", corpus, "--top", "0", out)
    assert "expected NAME=NUMBER, such as bigram=12.3, got 'much'" in mistake(
        capsys, "losses", song, "--baseline", "much", out
    )
    assert "the following arguments are required: IN, OUT" in mistake(capsys, "roll")[:200]


def test_help_lists_every_kind(capsys):
    with pytest.raises(SystemExit):
        cli.run(["plot", "--help"])
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in ("roll", "distributions", "composers", "chords", "losses", "--baseline"))


def test_a_set_without_a_median_is_reported():
    assert np.isnan(Histogram(np.array([0.0, 1.0]), np.array([0])).median())
    assert Statistics(0, 0, {}).chords is None
