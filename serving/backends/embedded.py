"""A Backend that runs a SavedModel in this process, on the CPU. Knows TF Serving's folders, but nothing of music.

Calls of one signature that come at the same time are joined into batches, see `batching`. One run goes on at a time:
else the first caller would run alone, and the others would share the cores that are left. TensorFlow is imported when
a model is loaded and not before: a front end before a model server does without it.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from music import storage
from music.errors import BackendError, Overloaded, Unavailable
from music.generation import Reply
from music.model_folder import SERVED, Loaded
from serving.backends.batching import WAITING, Batcher, Tensors
from serving.backends.xla import TWINS, Compiled, signature_outputs, twin_inputs

COMPILED = {
    "generate_xla": (1, 8, 16, 32),
    "prime_xla": (1,),
}  # numbers of rows to compile for; prime is called with one row
MODELS = Path(__file__).resolve().parents[2] / "models"  # what ships with the project


def find_model(folder: str | os.PathLike | None = None) -> Path:
    """Find the newest version of a model: <base>/<name>/<version>/saved_model.pb.

    Args:
        folder: any of the three levels: a version, a model with its versions, or a base with one model; None: MODELS.
            From a bucket the version is copied to this machine, for as long as this process lives.

    Raises:
        Unavailable: there is no model, or there are several models, so that one must be named.
        StorageError: the bucket refuses access.
    """
    return storage.local(_newest(os.fspath(MODELS if folder is None else folder).rstrip("/")))


def _newest(base: str) -> str:
    if storage.exists(storage.join(base, SERVED)):
        if not os.path.basename(base if storage.remote(base) else os.path.abspath(base)).isdecimal():
            raise Unavailable(f"{base} is a model, but its folder's name is no version: expected a number such as 1")
        return base
    models = [base, *(storage.join(base, name) for name in storage.entries(base))]
    versions_of = {model: versions for model in models if (versions := _versions(model))}
    if not versions_of:
        raise Unavailable(f"no model in {base}: expected [<name>/]<version>/{SERVED}, the version a number")
    if len(versions_of) > 1:
        raise Unavailable(f"several models in {base}: name one of {', '.join(versions_of)}")
    ((model, versions),) = versions_of.items()
    return storage.join(model, max(versions, key=int))


def _versions(model: str) -> list[str]:
    names = filter(str.isdecimal, storage.entries(model))
    return [name for name in names if storage.exists(storage.join(model, name, SERVED))]


class Embedded:
    """A SavedModel, loaded by the constructor. Threads may share it.

    Args:
        folder: as `find_model` takes it. The name of the version's folder is its number.
        waiting: largest number of calls that wait; one more is refused.
        xla: use the model's compiled twins, if it has them; the constructor compiles them, which takes seconds.

    Raises:
        RecordError: as `Loaded` does.
        Unavailable: as `find_model` does; or TensorFlow is not installed.
    """

    def __init__(self, folder: str | os.PathLike | None = None, *, waiting: int = WAITING, xla: bool = True):
        self.folder = path = find_model(folder)  # of the version
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else a page of notices about CPU instructions
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"{error}: to run a model in this process, run `pip install '.[embedded]'` in a clone; "
                "or name a model server (--server)"
            ) from error

        with suppress(RuntimeError):  # raised where this process has begun to use its GPUs already
            tf.config.set_visible_devices([], "GPU")  # else TensorFlow takes all of their memory
        self._tf = tf
        self._version = int(path.absolute().name)
        with tf.device("/CPU:0"):
            self._model = Loaded(path)
        self._compiled = {
            name: Compiled(partial(self._run, name), self._sample(name, sizes[-1]), sizes)
            for name, sizes in COMPILED.items()
            if xla and name in self._model.names
        }
        self._batcher = Batcher(self._answer, waiting=waiting)

    def warm(self) -> None:
        """Compile for all numbers of rows now, so that the first many clients need not wait seconds for it."""
        for compiled in self._compiled.values():
            compiled.warm()

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """See Backend. `timeout` limits the wait until the call runs.

        A run cannot be interrupted, but it is bounded: 32 notes of up to 32 clients, a fraction of a second with the
        models that we ship and train.
        """
        if version not in (None, self._version):
            raise Unavailable(f"version {version} is not here, version {self._version} is")
        if signature not in self._model.names:
            raise BackendError(f"signature {signature!r}: the model has {', '.join(sorted(self._model.names))}")
        checked = self._checked(signature, inputs)
        if signature == "describe":  # takes no time; and its caller need not be expected to call again
            return Reply(dict(self._run(signature, checked)), self._version)
        return Reply(dict(self._batcher.call(signature, checked, timeout)), self._version)

    def _answer(self, signature: str, inputs: Tensors) -> Tensors:
        twin = self._compiled.get(TWINS.get(signature, ""))
        if twin is None:
            return self._run(signature, inputs)
        return signature_outputs(signature, twin.call(twin_inputs(signature, inputs)))

    def _run(self, signature: str, inputs: Tensors) -> Tensors:
        try:
            with self._tf.device("/CPU:0"):
                return self._model.call(signature, inputs).outputs
        except self._tf.errors.ResourceExhaustedError as error:
            raise Overloaded(f"signature {signature!r}: {error}") from error
        except self._tf.errors.OpError as error:
            raise BackendError(f"signature {signature!r}: {error}") from error

    def _sample(self, signature: str, rows: int) -> Tensors:
        """Make inputs with `rows` rows that do some work: each integer is 3, all else is drawn from 0 to 1."""
        rng, inputs = np.random.default_rng(0), {}
        for name, spec in self._model.inputs(signature).items():
            shape, dtype = (rows, *spec.shape[1:]), spec.dtype.as_numpy_dtype
            inputs[name] = np.full(shape, 3, dtype) if spec.dtype.is_integer else rng.random(shape, dtype)
        return inputs

    def _checked(self, signature: str, inputs: Tensors) -> Tensors:
        """Return the inputs as arrays. Raises BackendError where the signature expects other names, types or shapes."""
        expected = self._model.inputs(signature)
        if expected.keys() != inputs.keys():
            raise BackendError(f"signature {signature!r}: expected inputs {sorted(expected)}, got {sorted(inputs)}")
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        for name, spec in expected.items():
            array = arrays[name]
            if spec.dtype.as_numpy_dtype != array.dtype or not spec.shape.is_compatible_with(array.shape):
                raise BackendError(
                    f"signature {signature!r}: expected {name} to be {spec.dtype.name} of shape {spec.shape}, "
                    f"got {array.dtype} of shape {array.shape}"
                )
        return arrays
