"""Bach's notes and chords as symbols of a sorted vocabulary, from MAESTRO's Bach or any folder of his music.

    python -m trainer train --recipe bach --data data/maestro --run runs/bach --minutes 50

33 CPU-minutes on two busy cores (79 of the 100 epochs, 14.4 M symbols) reach 3.853 nats a symbol on the Bach of
MAESTRO's validation split; the bigram has 4.700. There are no nats a note: a symbol drops a chord's octaves, times,
velocities and ends.

With a folder of your own (its name is then the composer, here `bach`):
    python -m preprocessing --input bach --output data/bach
    python -m trainer train --recipe bach --data data/bach --run runs/bach --set encoding.min_count=1
"""

from music.encodings.chord_symbols import ChordSymbols
from trainer.recipe import Independent, Recipe, Stack, Training

RECIPE = Recipe(
    name="bach",
    about="Bach's notes and chords as symbols, one every quarter of a second.",
    encoding=ChordSymbols(min_count=5, beat=0.25),
    core=Stack(units=(256, 256), dense=(256,), dropout=0.4, input="one_hot"),
    heads=Independent(),
    training=Training(
        window=100, batch=64, steps=30, epochs=100, rate=1e-3, patience=100,
        warmup=0, floor=1.0, decay=0.0, transpose=(0, 0), stretch=0.0, louder=0, validation=512,
    ),  # Adam, gradients clipped to a norm of 1, no augmentation
    select="composer=Bach",
)  # fmt: skip
