"""TFRecords → a trained run → a SavedModel."""

import os

BACKENDS = ("tensorflow", "jax")  # what Keras may compute with; the first one is the default


def use_backend(name: str | None = None) -> None:
    """Choose what Keras computes with; call it before Keras is imported. None: $KERAS_BACKEND, or the default."""
    os.environ["KERAS_BACKEND"] = name or os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else a page of notices about CPU instructions
