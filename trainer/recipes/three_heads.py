"""The three-headed LSTM that a well-known tutorial trains on MAESTRO: pitch, step, duration.

    python -m trainer train --recipe three_heads --data data/maestro --run runs/three_heads

32 CPU-minutes on two busy cores (all 50 epochs, 79.6 M notes) reach 12.948 nats a note on MAESTRO's validation split:
pitch 3.684, step 4.138, duration 5.126, no velocity. A bigram with regressions for the times has 13.309. A bigram
of histograms has 10.997, because a normal distribution of one width is a poor guess at a time. A baseline.
"""

from music.encodings import NoteRows
from music.encodings.columns import Column
from trainer.recipe import Recipe, Regression, Stack, Training

RECIPE = Recipe(
    name="three_heads",
    about="Pitch as a softmax, step and duration as regressions, one LSTM over them as numbers. A baseline.",
    encoding=NoteRows(Column("pitch", 0, 127, 128), Column("step", 0, 10, 10_001), Column("duration", 0, 10, 10_001)),
    core=Stack(units=(128,), dropout=0.0, input="values"),
    heads=Regression(weights=(0.05, 1.0, 1.0), pressure=10.0),
    training=Training(
        window=25, batch=64, steps=1000, epochs=50, rate=5e-3, floor=0.02, patience=20, keep=5,
        warmup=0, decay=0.0, transpose=(0, 0), stretch=0.0, louder=0, validation=2048,
    ),  # Adam, gradients clipped to a norm of 1, no augmentation
)  # fmt: skip
