"""The SavedModel: exactly what its contract says, and nothing half-written."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from music import wire
from music.analysis import memorization
from music.generation import Card
from music.model_folder import Loaded
from music.storage import checksums
from tests.conftest import waltz
from trainer.export import saved_model, signatures

NAMES = {"describe", "prime", "likelihood", "step", "generate", "prime_xla", "generate_xla", "serving_default"}


@pytest.fixture(scope="module")
def loaded(tiny_export):
    import tensorflow as tf

    return tf.saved_model.load(str(tiny_export / "performance" / "1"))


def test_the_signatures_are_batch_first_and_otherwise_constant(loaded, tiny_model):
    model, _ = tiny_model
    assert set(loaded.signatures) == NAMES
    states = {f"state_{name}" for name in model.state_spec}
    for name, signature in loaded.signatures.items():
        specs = signature.structured_input_signature[1]
        tensors = {**specs, **signature.structured_outputs}
        assert all(spec.shape[0] is None and None not in spec.shape[1:] for spec in tensors.values()), name
        if name != "describe":
            assert {key for key in specs if key.startswith("state_")} == states
            assert {key for key in signature.structured_outputs if key.startswith("state_")} == states


def test_it_holds_no_cudnn_op(tiny_export):
    graph = (tiny_export / "performance" / "1" / "saved_model.pb").read_bytes()
    assert b"cudnn" not in graph.lower() and b"MatMul" in graph


def test_saved_model_cli_reads_it(tiny_export):
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--all", "--dir"]
    shown = subprocess.run([*cli, str(tiny_export / "performance" / "1")], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0
    assert all(f"signature_def['{name}']" in shown.stdout for name in NAMES)


def test_the_card_travels_with_it(loaded, tiny_model, tiny_export):
    reply = loaded.signatures["describe"](batch=np.zeros(2, "i4"))["card"].numpy()
    card = Card.parse(reply[1])
    assert card.facts == json.loads(json.dumps(tiny_model[1])) and card.encoding == tiny_model[0].encoding
    path = tiny_export / "performance" / "1" / "assets" / "card.json"
    assert checksums.checked(path.read_bytes(), str(path)) == card.facts


def warm_up(version: Path):
    """Read the requests of a version's warm-up records: (signature, inputs)."""
    from tensorflow_serving.apis import prediction_log_pb2

    path = version / "assets.extra" / "tf_serving_warmup_requests"
    for record in wire.read_records(io.BytesIO(path.read_bytes())):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        tensors = {key: wire.Tensor.FromString(t.SerializeToString()) for key, t in request.inputs.items()}
        yield request.model_spec.signature_name, {key: wire.from_tensor(t) for key, t in tensors.items()}


def test_warm_up_records_call_every_signature(loaded, tiny_export):
    called = set()
    for name, inputs in warm_up(tiny_export / "performance" / "1"):
        assert loaded.signatures[name](**{key: np.asarray(value) for key, value in inputs.items()})
        called.add(name)
    assert called == NAMES - {"serving_default", "prime_xla", "generate_xla"}  # not every server may compile


@pytest.mark.slow  # each export traces and compiles
def test_where_it_is_configured_to_compile_it_does_for_every_size_before_the_first_call(loaded, tiny_model, tmp_path):
    saved_model.save(*tiny_model, str(tmp_path), xla=True)
    sizes: dict[str, list[int]] = {}
    for name, inputs in warm_up(tmp_path):
        (rows,) = {len(value) for value in inputs.values()}
        sizes.setdefault(name, []).append(rows)
        assert loaded.signatures[name](**{key: np.asarray(value) for key, value in inputs.items()})
    assert sizes == {
        **{name: [1] for name in ("describe", "prime", "likelihood", "step", "generate")},
        **{name: list(saved_model.SERVED_ROWS) for name in ("prime_xla", "generate_xla")},
    }


@pytest.mark.slow  # each export traces and compiles
def test_a_version_is_never_overwritten_and_the_next_one_is_one_more(tiny_model, tmp_path):
    assert saved_model.publish(*tiny_model, str(tmp_path)).endswith("performance/1")
    (tmp_path / "performance" / "7").mkdir()  # an export that was interrupted, or goes on: no saved_model.pb
    for taken in (1, 7):
        with pytest.raises(saved_model.ExportError, match=f"performance/{taken} exists already"):
            saved_model.publish(*tiny_model, str(tmp_path), taken)
    (tmp_path / "performance" / "7").rmdir()
    assert saved_model.publish(*tiny_model, str(tmp_path), 7).endswith("performance/7")
    assert (tmp_path / "performance" / "7" / "saved_model.pb").exists()
    assert sorted(path.name for path in (tmp_path / "performance").iterdir()) == ["1", "7"]


def test_an_index_of_the_training_set_travels_with_the_version(tiny_export):
    index = memorization.read(tiny_export / "performance" / "1" / "assets.extra" / memorization.FILE)
    assert memorization.longest_run(waltz(3), index).notes == len(waltz(3))


def test_an_export_that_differs_is_not_published(tiny_model, tiny_export):
    """`verify` must be able to fail: hand it another model than the one that was saved."""
    import keras

    from trainer import model as models

    (model, card), saved = tiny_model, str(tiny_export / "performance" / "1")
    keras.utils.set_random_seed(8)
    with pytest.raises(saved_model.ExportError, match="nll differs"):
        saved_model.verify(models.build(card), card, saved)
    with pytest.raises(saved_model.ExportError, match="card"):
        saved_model.verify(model, card | {"recipe": "other"}, saved)


def test_the_saved_model_answers_as_the_live_one(tiny_model, tiny_export):
    saved, live = Loaded(str(tiny_export / "performance" / "1")), signatures.Live(*tiny_model)
    rng = np.random.default_rng(0)
    card = Card.parse(json.dumps(tiny_model[1]))
    rows = np.stack([rng.integers(3, size, (5, 64)) for size in card.encoding.sizes], axis=-1).astype("i4")
    inputs = {"rows": rows, "length": np.array([64, 1, 0, 30, 63], "i4"), **card.empty_state(5)}
    expected, actual = live.call("likelihood", inputs).outputs, saved.call("likelihood", inputs).outputs
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-5, err_msg=name)


def test_the_card_names_the_commit_of_an_image_too(monkeypatch, tmp_path):
    monkeypatch.setenv("CADENZA_COMMIT", "abc1234")
    assert saved_model.commit() == "abc1234"
    monkeypatch.setenv("CADENZA_COMMIT", "")  # an image that was built without
    monkeypatch.setenv("PATH", str(tmp_path))  # nor has git
    assert saved_model.commit() == "unknown"
