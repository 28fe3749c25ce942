"""The Python API and the command: the pieces that HTTP gives, without a server."""

import json
from pathlib import Path

import numpy as np
import pytest

import cadenza
from music import midi
from music import notes as nt
from music.errors import MidiError, SettingError, Unavailable
from music.examples.nocturne import nocturne
from music.generation import Generator, Settings
from serving.backends.embedded import Embedded
from tests.conftest import waltz
from tests.support import hostile
from trainer import run_folder


@pytest.fixture(scope="module")
def version(tiny_export) -> str:
    return str(tiny_export / "performance" / "1")


@pytest.fixture(scope="module")
def model(version) -> cadenza.Model:
    return cadenza.load(version)


@pytest.fixture
def seed(tmp_path) -> Path:
    path = tmp_path / "seed.mid"
    path.write_bytes(midi.write(waltz(1, bars=4)))
    return path


def test_a_continuation_is_the_generators(model, version, seed):
    piece = model.continue_(seed, notes=20, temperature=0.9, random_seed=7)
    settings = Settings(notes=20, temperature=0.9, random_seed=7)
    chunks = list(Generator(Embedded(version)).stream(midi.read(seed.read_bytes()), settings))
    np.testing.assert_array_equal(piece.new, np.concatenate([chunk.notes for chunk in chunks]))
    assert (piece.model, piece.ended) == ("performance/1", chunks[-1].ended)
    assert len(piece.notes) == len(piece.seed) + len(piece.new) and len(piece.seed) == len(waltz(1, bars=4))
    assert model.card.name == "performance"


def test_a_piece_is_saved_as_its_ending_says(model, seed, tmp_path):
    piece = model.continue_(seed, notes=20, random_seed=7)
    piece.save(tmp_path / "whole.mid")
    piece.save(tmp_path / "new.mid", include_seed=False)
    assert len(cadenza.read(tmp_path / "whole.mid")) == len(piece.notes)
    assert len(cadenza.read(tmp_path / "new.mid")) == len(piece.new)
    piece.save(tmp_path / "pedal.mid", pedal=True)
    np.testing.assert_array_equal(cadenza.read(tmp_path / "pedal.mid"), cadenza.read(tmp_path / "whole.mid"))
    piece.save(tmp_path / "whole.musicxml")
    assert b"<score-partwise" in (tmp_path / "whole.musicxml").read_bytes()
    piece.plot(tmp_path / "roll.png")
    assert (tmp_path / "roll.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SettingError, match=r"\.mp4"):
        piece.save(tmp_path / "whole.mp4")


def test_a_saved_piece_keeps_the_grid_of_its_seed(tmp_path):
    grid = midi.Grid(np.array([0, midi.FAR]), np.array([0, 1.5 * midi.FAR]), [(0, 3, 4)], [(0, 2, False)])
    seed = nt.from_tuples([(k / 1.5, k / 1.5 + 0.6, 62 + k % 5) for k in range(12)])  # 90 quarters a minute
    piece = cadenza.Piece(seed, nt.from_tuples([(8.1, 8.9, 66), (8.9, 9.4, 69)]), "toy/1", "length", grid)
    piece.save(tmp_path / "a.mid")
    written = (tmp_path / "a.mid").read_bytes()
    assert midi.inspect(written).tempos == [(0.0, pytest.approx(90, abs=1e-3))]
    assert (midi.grid(written).times, midi.grid(written).keys) == (grid.times, grid.keys)
    piece.save(tmp_path / "a.musicxml")
    score = (tmp_path / "a.musicxml").read_text()
    assert "<beats>3</beats>" in score and "<fifths>2</fifths>" in score and "<per-minute>90</per-minute>" in score


def test_what_is_left_out_of_a_file_is_a_warning(tmp_path):
    path = tmp_path / "stopped.mid"
    path.write_bytes(hostile.song(hostile.note() + b"\0\x90\x3c\x40"))
    with pytest.warns(UserWarning, match=r"stopped\.mid: 1 note is never released; it is left out"):
        assert len(cadenza.read(path)) == 1


def test_a_new_piece_needs_no_seed(model):
    piece = model.new(notes=12, random_seed=3)
    assert not len(piece.seed) and 0 < len(piece.new) <= 12
    np.testing.assert_array_equal(piece.new, model.new(notes=12, random_seed=3).new)


def test_what_cannot_be_is_named(model, seed, tmp_path):
    with pytest.raises(SettingError, match="heat: no such setting; expected notes, temperature, top_p"):
        model.continue_(seed, heat=2)
    with pytest.raises(SettingError, match="temperature: expected 0 or more, got -1"):
        model.continue_(seed, temperature=-1)
    (tmp_path / "no.mid").write_bytes(b"not music")
    with pytest.raises(MidiError):
        model.continue_(tmp_path / "no.mid")
    with pytest.raises(Unavailable, match="nowhere"):
        cadenza.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_training_runs_folder_is_a_model(tiny_model, version, seed, tmp_path):
    network, card = tiny_model
    (tmp_path / "weights").mkdir()
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "weights" / "best.npz").write_bytes(run_folder.pack(run_folder.weights(network)))
    piece = cadenza.load(tmp_path).continue_(seed, notes=10, random_seed=7)
    again = cadenza.load(version).continue_(seed, notes=10, random_seed=7)
    np.testing.assert_array_equal(piece.new["pitch"], again.new["pitch"])


def test_generate_writes_each_output(version, seed, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("a.mid", "a.png", "a.musicxml")]
    command = ["generate", str(seed), "--model", version, "--notes", "16", "--random-seed", "7", "--output", *files]
    assert cadenza.main([*command, "--pedal"]) == 0
    assert capsys.readouterr().out.split() == files
    assert len(cadenza.read(files[0])) == len(waltz(1, bars=4)) + 16
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_of_a_file_is_continued(version, seed, tmp_path, capsys):
    output = str(tmp_path / "a.mid")
    settings = ["--model", version, "--notes", "4", "--random-seed", "7", "--output", output]
    assert cadenza.main(["generate", str(seed), "--seed-end", "2", "--seed-notes", "3", *settings]) == 0
    first, notes = cadenza.read(output), waltz(1, bars=4)
    assert len(first) == 7
    np.testing.assert_allclose(first["start"][:3], notes[notes["start"] < 2]["start"][-3:], atol=0.0005, rtol=0)
    for flag in ("--seed-start", "--seed-notes"):
        with pytest.raises(SystemExit):
            cadenza.main(["generate", flag, "2", *settings])
        assert "expected SEED as well" in capsys.readouterr().err


def test_what_cannot_be_written_or_reached_is_reported_before_the_work(version, seed, tmp_path, capsys):
    output = str(tmp_path / "a.xyz")
    assert cadenza.main(["generate", str(seed), "--model", version, "--output", output]) == 2
    assert "a.xyz: expected a name that ends in one of .mid, .midi, .mp3" in capsys.readouterr().err
    for place in (["--server", "localhost"], ["--model", ""]):
        with pytest.raises(SystemExit) as end:
            cadenza.main(["generate", str(seed), *place, "--output", str(tmp_path / "a.mid")])
        assert end.value.code == 2 and "expected" in capsys.readouterr().err


def test_the_other_commands_are_the_stages(seed, capsys):
    assert cadenza.main(["inspect", str(seed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "seed.mid"
    for command in ("train", "sample", "preprocess", "serve"):
        with pytest.raises(SystemExit) as end:
            cadenza.main([command, "--help"])
        assert end.value.code == 0 and "usage: " in capsys.readouterr().out


def test_a_mistake_is_a_line_and_a_status_of_2(version, tmp_path, capsys):
    assert cadenza.main(["compose"]) == 2
    assert "no command 'compose'; expected one of generate, inspect" in capsys.readouterr().err
    missing = str(tmp_path / "missing.mid")
    assert cadenza.main(["generate", missing, "--model", version, "--output", str(tmp_path / "out.mid")]) == 2
    assert "missing.mid" in capsys.readouterr().err
    assert cadenza.main(["--help"]) == 0
    assert "cadenza.load()" in capsys.readouterr().out


@pytest.mark.slow
def test_the_nocturne_can_be_continued_by_the_shipped_model():
    piece = cadenza.load().continue_(nocturne(), notes=8, random_seed=1)
    assert len(piece.new) == 8 and piece.new["start"][0] >= piece.seed["start"][-1]
