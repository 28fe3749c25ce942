"""Notes as one-hot pitches, one after the other at a fixed pace: two LSTM layers with dropout and a softmax.

    python -m trainer train --recipe one_hot --data data/maestro --run runs/one_hot --minutes 50

42 CPU-minutes on two busy cores (34 of the 60 epochs, 27.5 M notes) reach 3.003 nats a note on MAESTRO's validation
split; the bigram has 3.786. They are of the pitch alone, so do not compare them with those of other recipes.
"""

from music.encodings import NoteRows
from music.encodings.columns import Column
from trainer.recipe import Independent, Recipe, Stack, Training

RECIPE = Recipe(
    name="one_hot",
    about="The next pitch from the pitches before it, one-hot; every note lasts a quarter of a second.",
    encoding=NoteRows(Column("pitch", 21, 108, 88), beat=0.25),
    core=Stack(units=(256, 256), dropout=0.3, input="one_hot"),
    heads=Independent(),
    training=Training(
        window=64, batch=64, steps=200, epochs=60, rate=1e-3, patience=8,
        warmup=0, floor=1.0, decay=0.0, transpose=(0, 0), stretch=0.0, louder=0, validation=512,
    ),  # Adam, gradients clipped to a norm of 1, no augmentation
)  # fmt: skip
