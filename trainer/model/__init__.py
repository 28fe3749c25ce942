"""The model as Keras layers: what is heard, the memory, the heads, and drawing from them."""

from trainer.model.event_model import EventModel, build

__all__ = ["EventModel", "build"]
