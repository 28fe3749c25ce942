"""An exported version's folder → a Backend in this process. Knows TensorFlow, which it imports to load a model.

Has no limits and joins no calls: serving/backends/embedded.py does both.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from music.errors import RecordError
from music.generation import Reply
from music.storage import checksums

SERVED = "saved_model.pb"  # TF Serving loads no version without it, so it is written last: with it a version is whole


class Loaded:
    """A Backend over a version's folder. Raises RecordError if a file is damaged or missing, or is no model."""

    def __init__(self, folder: str | Path):
        checksums.check_folder(Path(folder))
        import tensorflow as tf

        self._tensor = tf.constant
        try:
            self._model = tf.saved_model.load(str(folder))
        except Exception as error:  # for a damaged graph TensorFlow may raise any error
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise RecordError(f"the model in {folder} cannot be loaded: {reason}") from error

    @property
    def names(self) -> set[str]:
        """List the signatures."""
        return set(self._model.signatures)

    def inputs(self, signature: str) -> dict:
        """List a signature's inputs: {name: tf.TensorSpec}."""
        return self._model.signatures[signature].structured_input_signature[1]

    def call(self, signature: str, inputs: Mapping[str, np.ndarray], *, version=None, timeout=None) -> Reply:
        """Call a signature with arrays; `version` and `timeout` are not used. Raises TensorFlow's errors."""
        outputs = self._model.signatures[signature](**{name: self._tensor(array) for name, array in inputs.items()})
        return Reply({name: tensor.numpy() for name, tensor in outputs.items()}, 0)
