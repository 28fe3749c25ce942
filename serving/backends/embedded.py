"""A Backend that runs a SavedModel in this process, on the CPU. Knows TF Serving's folders, but nothing of music.

Calls of one signature that come at the same time are merged, see `batching`, and one run goes on at a time: else who
came first would go on alone while the others are still being heard, and they would share what is left. TensorFlow is
imported when a model is loaded and not before: a front end before a model server does without it.
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
from music.storage import checksums
from serving.backends.batching import WAITING, Merger, Tensors
from serving.backends.xla import TWINS, Compiled, answered, asked

COMPILED = {"generate_xla": (1, 8, 16, 32), "prime_xla": (1,)}  # for which numbers of rows; prime goes row by row
MODELS = Path(__file__).resolve().parents[2] / "models"  # what ships with the project
_SAVED = "saved_model.pb"  # written last, so a version without it is not complete


def find_model(folder: str | os.PathLike | None = None) -> Path:
    """The newest version in a folder: <base>/<name>/<version>/saved_model.pb, any of the three levels given.

    Args:
        folder: a version, a model with its versions, or a base with one model; None: MODELS. Of one in a bucket the
            version is copied to here, for as long as this process lives.

    Raises:
        Unavailable: none is there, or several models are, so that one must be named.
        StorageError: the bucket does not let us.
    """
    return storage.local(_newest(os.fspath(MODELS if folder is None else folder).rstrip("/")))


def _newest(base: str) -> str:
    if storage.exists(storage.join(base, _SAVED)):
        if not os.path.basename(base if storage.remote(base) else os.path.abspath(base)).isdecimal():
            raise Unavailable(f"{base} is a model, but its folder's name is no version: expected a number such as 1")
        return base
    models = [base, *(storage.join(base, name) for name in storage.entries(base))]
    found = {model: versions for model in models if (versions := _versions(model))}
    if not found:
        raise Unavailable(f"no model in {base}: expected [<name>/]<version>/{_SAVED}, the version a number")
    if len(found) > 1:
        raise Unavailable(f"several models in {base}: name one of {', '.join(found)}")
    ((model, versions),) = found.items()
    return storage.join(model, max(versions, key=int))


def _versions(model: str) -> list[str]:
    names = filter(str.isdecimal, storage.entries(model))
    return [name for name in names if storage.exists(storage.join(model, name, _SAVED))]


class Embedded:
    """A SavedModel, loaded when this object is made. Threads may share it.

    Args:
        folder: as `find_model` takes it. The version is the number that its folder is named by.
        waiting: how many calls may wait for their turn.
        xla: use the model's compiled twins, if it has them; compiling takes seconds, now.

    Raises:
        RecordError: a file of the version is damaged or missing.
        Unavailable: as `find_model` does; or it cannot be loaded.
    """

    def __init__(self, folder: str | os.PathLike | None = None, *, waiting: int = WAITING, xla: bool = True):
        self.folder = path = find_model(folder)  # of the version
        checksums.check_folder(path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else a page of notices about CPU instructions
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"{error}: to run a model in this process, install cadenza[embedded]; or name a model server (--server)"
            ) from error

        with suppress(RuntimeError):  # which says that this process has begun to use its GPUs already
            tf.config.set_visible_devices([], "GPU")  # else TensorFlow takes all of their memory
        self._tf = tf
        self._version = int(path.absolute().name)
        try:
            with tf.device("/CPU:0"):
                self._model = tf.saved_model.load(str(path))
        except Exception as error:  # of a damaged graph, TensorFlow raises whatever it stumbles over
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise Unavailable(f"the model in {path} cannot be loaded: {told}") from error
        self._compiled = {
            name: Compiled(partial(self._run, name), self._sample(name, sizes[-1]), sizes)
            for name, sizes in COMPILED.items()
            if xla and name in self._model.signatures
        }
        self._merger = Merger(self._answer, waiting=waiting)

    def warm(self) -> None:
        """Be ready for many listeners at once now, rather than seconds after they came."""
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
        """See Backend. `timeout` is for the wait until it runs; then it is one bounded block of work that cannot be
        interrupted: 32 notes of up to 32 listeners, a fraction of a second with the models that we ship and train.
        """
        if version not in (None, self._version):
            raise Unavailable(f"version {version} is not here, version {self._version} is")
        if signature not in self._model.signatures:
            raise BackendError(f"signature {signature!r}: the model has {', '.join(sorted(self._model.signatures))}")
        checked = self._checked(signature, inputs)
        if signature == "describe":  # takes no time; who only asks for it is not to be expected back
            return Reply(dict(self._run(signature, checked)), self._version)
        return Reply(dict(self._merger.call(signature, checked, timeout)), self._version)

    def _answer(self, signature: str, inputs: Tensors) -> Tensors:
        twin = self._compiled.get(TWINS.get(signature, ""))
        if twin is None:
            return self._run(signature, inputs)
        return answered(signature, twin.call(asked(signature, inputs)))

    def _run(self, signature: str, inputs: Tensors) -> Tensors:
        try:
            with self._tf.device("/CPU:0"):
                tensors = {name: self._tf.constant(array) for name, array in inputs.items()}
                outputs = self._model.signatures[signature](**tensors)
        except self._tf.errors.ResourceExhaustedError as error:
            raise Overloaded(f"signature {signature!r}: {error}") from error
        except self._tf.errors.OpError as error:
            raise BackendError(f"signature {signature!r}: {error}") from error
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def _sample(self, signature: str, rows: int) -> Tensors:
        """Inputs of so many rows that do some work: each whole number is 3, all else is drawn from 0 to 1."""
        rng, inputs = np.random.default_rng(0), {}
        for name, spec in self._model.signatures[signature].structured_input_signature[1].items():
            shape, dtype = (rows, *spec.shape[1:]), spec.dtype.as_numpy_dtype
            inputs[name] = np.full(shape, 3, dtype) if spec.dtype.is_integer else rng.random(shape, dtype)
        return inputs

    def _checked(self, signature: str, inputs: Tensors) -> Tensors:
        """The inputs, after a look whether they are as the signature wants them."""
        wanted = self._model.signatures[signature].structured_input_signature[1]
        if wanted.keys() != inputs.keys():
            raise BackendError(f"signature {signature!r}: expected inputs {sorted(wanted)}, got {sorted(inputs)}")
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        for name, spec in wanted.items():
            got = arrays[name]
            if spec.dtype.as_numpy_dtype != got.dtype or not spec.shape.is_compatible_with(got.shape):
                raise BackendError(
                    f"signature {signature!r}: expected {name} to be {spec.dtype.name} of shape {spec.shape}, "
                    f"got {got.dtype} of shape {got.shape}"
                )
        return arrays
