"""A model and its card → a SavedModel for TF Serving, verified and published.

Tracing is always on the CPU: a graph traced on a GPU may have cuDNN ops, which a CPU server cannot run (keras#18504).
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from music import storage, wire
from music.analysis import memorization
from music.errors import Conflict, MusicError
from music.generation import CHUNK, Generator
from music.model_folder import SERVED, Loaded
from music.storage import checksums
from trainer.export import signatures
from trainer.model import EventModel

_TRIES = 5  # while other exports take version numbers at the same time
SERVED_ROWS = (1, 8, 16, 24, 32)  # the sizes that infra/cloud/batching.config allows; a model server compiles for each


class ExportError(MusicError):
    """The exported model differs from the run's model, cannot be written, or its version exists already."""


def save(model: EventModel, card: dict, folder: str, xla: bool = False) -> None:
    """Write a SavedModel: the signatures, the card as an asset, and warm-up records, with `xla` of the twins too."""
    module = tf.Module()
    module.weights = {w.path: w.value for w in model.weights if "seed_generator" not in w.path}  # for warm_start.py
    module.chance = [w.value for w in model.weights if "seed_generator" in w.path]  # their names are not unique
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        asset = Path(temporary, "card.json")
        asset.write_bytes(checksums.with_checksum(card))
        module.card = tf.saved_model.Asset(str(asset))
        with tf.device("/CPU:0"):
            traced = {name: _trace(name, model, inputs) for name, inputs in signatures.specs(model).items()}
            traced["describe"] = _describe(module)
        traced["serving_default"] = traced["step"]
        tf.saved_model.save(module, folder, signatures=traced)
    _write_warm_up(model, folder, xla)


def publish(
    model: EventModel,
    card: dict,
    base: str,
    version: int | None = None,
    index: memorization.Index | None = None,
    xla: bool = False,
) -> str:
    """Save, load again, verify, and copy to <base>/<recipe>/<version>/.

    On a disk the copy appears at once; in a bucket SERVED is written last.

    Args:
        version: None: one more than the newest version there.
        index: of the training set, for the memorization check; it is exported with the model.
        xla: write warm-up records for a model server that is configured to compile; other servers would not load the
            version.

    Returns:
        The version's folder.

    Raises:
        ExportError: the version exists, the saved model's results differ from the run's, or the disk is full.
    """
    home = storage.join(base, card["recipe"])
    with tempfile.TemporaryDirectory(prefix="cadenza-export-") as temporary:
        try:
            save(model, card, temporary, xla)
            if index:
                Path(temporary, "assets.extra", memorization.FILE).write_bytes(index.to_bytes())
            checksums.write_manifest(Path(temporary), [f"assets.extra/{memorization.FILE}"])
        except (tf.errors.OpError, OSError) as error:  # e.g. a full disk; TensorFlow has its own classes for these
            reason = " ".join(str(error).split())[-300:]
            raise ExportError(
                f"{temporary}: the model cannot be written there: {reason}; set TMPDIR to use another folder"
            ) from error
        verify(model, card, temporary)
        for _ in range(_TRIES):
            target = storage.join(home, str(version or _next(home)))
            if version and storage.exists(target):  # even without saved_model.pb, another export may be filling it
                raise ExportError(f"{target} exists already, complete or not; choose another --version, or remove it")
            try:
                storage.publish(temporary, target, last=SERVED)
                return target
            except Conflict as error:  # another export has just taken the number
                conflict = error
    raise ExportError(str(conflict))


def _next(home: str) -> int:
    """Return one more than the newest version, complete or not: another export may be filling that one."""
    return max((int(name) for name in storage.entries(home) if name.isdecimal()), default=0) + 1


def verify(model: EventModel, card: dict, folder: str) -> None:
    """Raise ExportError unless the SavedModel reproduces the model's nll within 1e-4, and `step` equals `generate`.

    The twins must reproduce, within 1e-3, the state after `prime`, and the first drawn row and its state, for one row
    and for two. Exports from before 2026-11-21 have no twins.
    """
    saved, live = Loaded(folder), signatures.Live(model, card)
    parsed, _ = Generator(saved).describe()
    if parsed.facts != json.loads(json.dumps(card)):
        raise ExportError(f"{folder}: the card that comes back is not the one that went in")
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(3, size, (2, 64)) for size in parsed.encoding.sizes], axis=-1).astype("i4")
    prefix = {"rows": rows, "length": np.array([64, 40], "i4"), **parsed.empty_state(2)}
    live_nll, saved_nll = (b.call("likelihood", prefix).outputs["nll"] for b in (live, saved))
    if not np.allclose(live_nll, saved_nll, atol=1e-4):
        difference = np.abs(live_nll - saved_nll).max()
        raise ExportError(f"{folder}: nll differs by up to {difference:.2g}, expected under 1e-4")
    primed = saved.call("prime", prefix).outputs
    noise = rng.random((2, CHUNK, rows.shape[-1]), "f4")
    settings = {name: np.full(2, value, "f4") for name, value in (("temperature", 1), ("top_p", 0.95), ("min_p", 0.01))}
    request = {"noise": noise, "count": np.full(2, CHUNK, "i4"), **settings, **primed}
    chunk, state = saved.call("generate", request).outputs, primed
    for i in range(CHUNK):
        reply = saved.call("step", {"noise": noise[:, i], **settings, **state}).outputs
        state = {name: reply[name] for name in state}
        if not np.array_equal(reply["row"], chunk["rows"][:, i]):
            raise ExportError(f"{folder}: `step` number {i + 1} drew {reply['row']}, `generate` {chunk['rows'][:, i]}")
    two = request | {"count": np.ones(2, "i4")}
    one = {key: value[:1] for key, value in two.items()}
    for name, inputs in (("prime", prefix), ("generate", two), ("generate", one)):
        twin = name + signatures.XLA
        if twin not in saved.names:
            continue
        plain, compiled = (saved.call(each, inputs).outputs for each in (name, twin))
        for key in plain:
            if not np.allclose(compiled[key], plain[key], rtol=0, atol=1e-3):
                difference = np.abs(compiled[key] - plain[key]).max()
                raise ExportError(f"{folder}: {key} of `{twin}` is off by up to {difference:.2g}, expected under 1e-3")


def commit() -> str:
    """Return the commit of this code, for the card: $CADENZA_COMMIT, which images set, or git's; else "unknown"."""
    if commit := os.environ.get("CADENZA_COMMIT"):
        return commit
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git
        commit = ""
    return commit or "unknown"


def _trace(name: str, model: EventModel, inputs: dict):
    """Trace a signature, compiled by XLA if it is a twin."""
    specs = {key: tf.TensorSpec([None, *shape], dtype, name=key) for key, (shape, dtype) in inputs.items()}

    @tf.function(jit_compile=name.endswith(signatures.XLA) or None)
    def traced(**tensors):
        return signatures.compute(name, model, tensors)

    return traced.get_concrete_function(**specs)


def _describe(module):
    """Trace `describe`: int32 (B,), of which only the size counts → the card's bytes (B,)."""

    @tf.function
    def describe(batch):
        card = tf.io.read_file(module.card.asset_path)
        return {"card": tf.repeat(card[None], tf.shape(batch)[0])}

    return describe.get_concrete_function(tf.TensorSpec([None], tf.int32, name="batch"))


def _write_warm_up(model: EventModel, folder: str, xla: bool) -> None:
    """Write one call of each signature; TF Serving makes them before it serves the version.

    With `xla`, each twin is called with every size of SERVED_ROWS. Without it no twin is called, because a server that
    is not configured to compile would not load the version.
    """
    calls = [("describe", {"batch": np.zeros(1, "i4")})]
    for name, inputs in signatures.specs(model).items():
        ones = ("length", "count", "temperature", "top_p")  # with 0 there would be no work, or no valid setting
        sizes = (SERVED_ROWS if xla else ()) if name.endswith(signatures.XLA) else (1,)
        for rows in sizes:
            values = {key: np.full((rows, *shape), key in ones, dtype) for key, (shape, dtype) in inputs.items()}
            calls.append((name, values))
    records = []
    for name, values in calls:
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = name
        for key, value in values.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        records.append(log.SerializeToString(deterministic=True))
    extra = Path(folder, "assets.extra")
    extra.mkdir(exist_ok=True)
    (extra / "tf_serving_warmup_requests").write_bytes(wire.write_records(records))
