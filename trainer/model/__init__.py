"""The model as Keras layers: inputs, core, heads, and sampling from the heads."""

from trainer.model.event_model import EventModel, build

__all__ = ["EventModel", "build"]
