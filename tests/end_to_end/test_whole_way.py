"""One test that walks the whole way: bytes → Beam → TFRecords → training → SavedModel → model server → POST.

Every stage runs as its own command, and each is tied to the next by what only the real one can know: replace any, and
this fails.
"""

import hashlib
import io
import json
import subprocess
import sys
import urllib.request

import numpy as np
import pretty_midi
import pytest

from music import midi
from music import notes as nt
from music.generation import Generator, Settings
from music.model_folder import Loaded
from music.pieces import Dataset
from tests.conftest import waltz
from tests.support.fakes import ModelServer, front_end
from tests.trainer.test_loop import SMALL
from trainer.export import signatures
from trainer.run_folder import load


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def get(url: str, body: bytes | None = None) -> tuple[bytes, dict]:
    request = urllib.request.Request(url, body, {"Content-Type": "audio/midi"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read(), dict(reply.headers)


@pytest.mark.slow
def test_from_bytes_to_a_served_note(tmp_path):
    # bytes → Beam → TFRecords: the notes that arrive are those that another reader finds in the files
    folder, notes, runs, models = (tmp_path / name for name in ("midi", "notes", "run", "models"))
    folder.mkdir()
    for seed in range(12):
        (folder / f"waltz-{seed:02d}.mid").write_bytes(midi.write(waltz(seed)))
    run("preprocessing", "--input", str(folder), "--output", str(notes), "--shards", "2")
    dataset = Dataset.open(str(notes))
    pieces = [piece for shard in dataset.facts["shards"] for piece in dataset.read_shard(shard)]
    assert sorted(piece.id for piece in pieces) == sorted(path.name for path in folder.iterdir())
    for piece in pieces:
        oracle = [n for i in pretty_midi.PrettyMIDI(str(folder / piece.id)).instruments for n in i.notes]
        assert len(oracle) == len(piece.notes)
        np.testing.assert_allclose(np.sort([n.start for n in oracle]), np.sort(piece.notes["start"]), atol=1e-5)
        assert sorted(n.pitch for n in oracle) == sorted(piece.notes["pitch"])

    # TFRecords → 20 training steps: of this very dataset, and they changed the weights for the better
    sets = [part for setting in [*SMALL, "training.epochs=4"] for part in ("--set", setting)]
    run("trainer", "train", "--recipe", "performance", "--data", str(notes), "--run", str(runs), *sets)
    card = json.loads((runs / "card.json").read_text())
    assert card["dataset"]["digest"] == dataset.facts["digest"]
    rows = (runs / "history.csv").read_text().splitlines()
    first, last = (dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in (rows[1], rows[-1]))
    assert len(rows) == 1 + 4 and float(last["val_loss"]) < float(first["val_loss"])
    assert 0 < int(last["notes"]) <= 4 * 5 * 4 * 32  # epochs × steps × windows × notes

    # → SavedModel: it holds the run's weights
    version = run("trainer", "export", "--run", str(runs), "--output", str(models)).strip()
    assert version == str(models / "performance" / "1")
    model, card = load(str(runs))
    saved = Loaded(version)._model.weights
    assert saved.keys() == {ours.path for ours in model.weights}
    for ours in model.weights:
        np.testing.assert_array_equal(np.asarray(ours), saved[ours.path].numpy())

    # → model server → POST: the reply is the seed, and what the run's own weights say to it
    seed = waltz(99, bars=6)
    with ModelServer(models / "performance") as server:
        with front_end("--server", server.address, "--model-name", "performance") as base:
            whole, headers = get(f"{base}/generate?notes=40&random_seed=3", midi.write(seed))
            described, _ = get(f"{base}/model")
        called = {signature for signature, _ in server.calls}
    assert called == {"describe", "prime", "step", "generate"}
    assert json.loads(described)["card"]["dataset"]["digest"] == dataset.facts["digest"]
    assert headers["X-Model"] == "performance/1" and headers["X-Random-Seed"] == "3"

    read_back = midi.read(midi.write(seed))
    live = Generator(signatures.Live(model, card))
    expected = np.concatenate([chunk.notes for chunk in live.stream(read_back, Settings(notes=40, random_seed=3))])
    assert len(expected) == int(headers["X-Notes"]) > 0
    reference = midi.read(midi.write(nt.sort(np.concatenate([read_back, expected]))))
    np.testing.assert_array_equal(midi.read(whole), reference)
    by_pretty_midi = pretty_midi.PrettyMIDI(io.BytesIO(whole)).instruments[0].notes
    assert len(by_pretty_midi) == len(reference)
    assert hashlib.sha256(whole).digest() != hashlib.sha256(midi.write(seed)).digest()
