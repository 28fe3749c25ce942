"""A run → a SavedModel that TF Serving serves, verified and published. The only TensorFlow code of the trainer.

Always traced on the CPU: a graph traced on a GPU may hold cuDNN ops that a CPU server cannot run (keras#18504).
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from music import storage, wire
from music.analysis import memorization
from music.errors import Conflict, MusicError, RecordError
from music.generation import CHUNK, Card, Reply
from music.storage import checksums
from trainer.export import signatures
from trainer.model import EventModel

_TRIES = 5  # where others export at the same time
SERVED_ROWS = (1, 8, 16, 24, 32)  # what infra/cloud/batching.config allows, and so for what a model server compiles
SERVED = "saved_model.pb"  # a version without it is incomplete, TF Serving cannot load it; in a bucket it comes last


class ExportError(MusicError):
    """The exported model does not do what the run's model does, or its place is taken."""


def save(model: EventModel, card: dict, folder: str, xla: bool = False) -> None:
    """Write a SavedModel with the signatures, the card as an asset and warm-up records; those of `xla`, too."""
    module = tf.Module()
    module.weights = {w.path: w.value for w in model.weights if "seed_generator" not in w.path}  # for warm_start.py
    module.chance = [w.value for w in model.weights if "seed_generator" in w.path]  # whose names are not unique
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as beside:
        asset = Path(beside, "card.json")
        asset.write_bytes(checksums.seal(card))
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
    """Save, load again, verify, and copy to <base>/<recipe>/<version>/, here at once, in gs:// with SERVED last.

    Args:
        index: of the training set, shipped with the model.
        xla: for a model server that is told to compile; another one would not load the version.

    Returns:
        The version's folder; the version is one more than the newest there, if none is given.

    Raises:
        ExportError: the version exists, the saved model's answers differ from the run's, or there is no room.
    """
    home = storage.join(base, card["recipe"])
    with tempfile.TemporaryDirectory(prefix="cadenza-export-") as beside:
        try:
            save(model, card, beside, xla)
            if index:
                Path(beside, "assets.extra", memorization.FILE).write_bytes(index.to_bytes())
            checksums.seal_folder(Path(beside), [f"assets.extra/{memorization.FILE}"])
        except (tf.errors.OpError, OSError) as error:  # a full disk, say; TensorFlow has a kind of its own for each
            told = " ".join(str(error).split())[-300:]
            raise ExportError(
                f"{beside}: the model cannot be written there: {told}; TMPDIR names another place"
            ) from error
        verify(model, card, beside)
        for _ in range(_TRIES):
            target = storage.join(home, str(version or _next(home)))
            if version and storage.exists(target):  # without saved_model.pb somebody may be about to fill it
                raise ExportError(f"{target} exists already, complete or not; choose another --version, or remove it")
            try:
                storage.publish(beside, target, last=SERVED)
                return target
            except Conflict as error:  # somebody else's export has just taken the number
                taken = error
    raise ExportError(str(taken))


def _next(home: str) -> int:
    """One more than the newest version, complete or not: another export may be about to fill it."""
    return max((int(name) for name in storage.entries(home) if name.isdecimal()), default=0) + 1


def verify(model: EventModel, card: dict, folder: str) -> None:
    """Raises ExportError unless the SavedModel reproduces the model's nll within 1e-4, and step equals generate.

    What is compiled, which exports of before 2026-11-21 lack, must give the state of rows heard, and the first row
    drawn and its state, of one row and of two, within 1e-3.
    """
    saved, live = Loaded(folder), signatures.Live(model, card)
    read = Card.parse(saved.call("describe", {"batch": np.zeros(1, "i4")}).outputs["card"][0])
    if read.facts != json.loads(json.dumps(card)):
        raise ExportError(f"{folder}: the card that comes back is not the one that went in")
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(3, size, (2, 64)) for size in read.encoding.sizes], axis=-1).astype("i4")
    heard = {"rows": rows, "length": np.array([64, 40], "i4"), **read.empty_state(2)}
    ours, theirs = (b.call("likelihood", heard).outputs["nll"] for b in (live, saved))
    if not np.allclose(ours, theirs, atol=1e-4):
        raise ExportError(f"{folder}: nll differs by up to {np.abs(ours - theirs).max():.2g}, expected under 1e-4")
    primed = saved.call("prime", heard).outputs
    noise = rng.random((2, CHUNK, rows.shape[-1]), "f4")
    how = {name: np.full(2, value, "f4") for name, value in (("temperature", 1), ("top_p", 0.95), ("min_p", 0.01))}
    given = {"noise": noise, "count": np.full(2, CHUNK, "i4"), **how, **primed}
    chunk, state = saved.call("generate", given).outputs, primed
    for i in range(CHUNK):
        one = saved.call("step", {"noise": noise[:, i], **how, **state}).outputs
        state = {name: one[name] for name in state}
        if not np.array_equal(one["row"], chunk["rows"][:, i]):
            raise ExportError(f"{folder}: `step` number {i + 1} drew {one['row']}, `generate` {chunk['rows'][:, i]}")
    two = given | {"count": np.ones(2, "i4")}
    for name, asked in (("prime", heard), ("generate", two), ("generate", {key: two[key][:1] for key in two})):
        twin = name + signatures.XLA
        if twin not in saved.names:
            continue
        plain, compiled = (saved.call(each, asked).outputs for each in (name, twin))
        for key in plain:
            if not np.allclose(compiled[key], plain[key], rtol=0, atol=1e-3):
                apart = np.abs(compiled[key] - plain[key]).max()
                raise ExportError(f"{folder}: {key} of `{twin}` is off by up to {apart:.2g}, expected under 1e-3")


class Loaded:
    """A Backend over a SavedModel folder, to verify and to evaluate it. Raises RecordError for one that is damaged."""

    def __init__(self, folder: str):
        checksums.check_folder(Path(folder))
        try:
            self._model = tf.saved_model.load(folder)
        except Exception as error:  # of a damaged graph, TensorFlow raises whatever it stumbles over
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise RecordError(f"the model in {folder} cannot be loaded: {told}") from error

    @property
    def names(self) -> set[str]:
        return set(self._model.signatures)

    def call(self, signature: str, inputs: Mapping[str, np.ndarray], *, version=None, timeout=None) -> Reply:
        outputs = self._model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return Reply({name: value.numpy() for name, value in outputs.items()}, 0)


def commit() -> str:
    """The commit this code is at, for the card: $CADENZA_COMMIT, as an image has it, or of the git checkout."""
    if told := os.environ.get("CADENZA_COMMIT"):
        return told
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git
        found = ""
    return found or "unknown"


def _trace(name: str, model: EventModel, inputs: dict):
    specs = {key: tf.TensorSpec([None, *shape], dtype, name=key) for key, (shape, dtype) in inputs.items()}

    @tf.function(jit_compile=name.endswith(signatures.XLA) or None)
    def traced(**given):
        return signatures.alike(name, model, given)

    return traced.get_concrete_function(**specs)


def _describe(module):
    @tf.function
    def describe(batch):
        card = tf.io.read_file(module.card.asset_path)
        return {"card": tf.repeat(card[None], tf.shape(batch)[0])}

    return describe.get_concrete_function(tf.TensorSpec([None], tf.int32, name="batch"))


def _write_warm_up(model: EventModel, folder: str, xla: bool) -> None:
    """One call of each signature, that TF Serving makes before it serves the version.

    A compiled one is called with each number of rows that will come; with `xla` alone, as a server that is not told to
    compile would not load the version.
    """
    calls = [("describe", {"batch": np.zeros(1, "i4")})]
    for name, inputs in signatures.specs(model).items():
        ones = ("length", "count", "temperature", "top_p")  # zero would do no work, or be no setting
        sizes = (SERVED_ROWS if xla else ()) if name.endswith(signatures.XLA) else (1,)
        for rows in sizes:
            given = {key: np.full((rows, *shape), key in ones, dtype) for key, (shape, dtype) in inputs.items()}
            calls.append((name, given))
    records = []
    for name, given in calls:
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = name
        for key, value in given.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        records.append(log.SerializeToString(deterministic=True))
    extra = Path(folder, "assets.extra")
    extra.mkdir(exist_ok=True)
    (extra / "tf_serving_warmup_requests").write_bytes(wire.write_records(records))
