"""Normalised chords and their rounded durations: notes that begin together are a symbol; rare symbols are left out.

    python -m trainer train --recipe chords --data data/maestro --run runs/chords --minutes 50

30 CPU-minutes on two busy cores (25 of the 90 epochs, 5.0 M symbols) reach 5.162 nats a symbol on MAESTRO's validation
split; the bigram has 5.887. There are no nats a note: a symbol drops octaves, velocities and the ends of notes.
"""

from music.encodings.chord_symbols import ChordSymbols
from music.encodings.columns import Column
from trainer.recipe import Independent, Recipe, Stack, Training

RECIPE = Recipe(
    name="chords",
    about="Chords in normal order and how long until the next one, in sixteenths of 120 quarters a minute.",
    encoding=ChordSymbols(min_count=100, duration=Column("duration", 0.125, 4.0, 32)),
    core=Stack(units=(512, 256), dense=(256, 128), dropout=0.2, input="one_hot"),
    heads=Independent(),
    training=Training(
        window=64, batch=32, steps=100, epochs=90, rate=5e-4, patience=10,
        warmup=0, floor=1.0, decay=0.0, transpose=(0, 0), stretch=0.0, louder=0, validation=512,
    ),  # Adam, gradients clipped to a norm of 1, no augmentation
)  # fmt: skip
