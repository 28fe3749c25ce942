"""Our own pianist: expressive piano performances, one LSTM step a note, columns drawn as a chain.

    python -m trainer train --recipe performance --data data/maestro --run runs/performance

Made for a GPU, and at this size not trained yet. Smaller, as in models/ (its card has the commands), some two hours of
two busy cores: 9.543 nats a note on MAESTRO's validation split.
"""

from music.encodings import NoteRows
from music.encodings.columns import Column
from trainer.recipe import LSTM, Chain, Recipe, Training

RECIPE = Recipe(
    name="performance",
    about="Expressive piano performances: step, pitch, velocity and duration of one note at a time, on a 10 ms grid.",
    encoding=NoteRows(
        Column("step", 0, 50, 150, "time", exact=1.0),
        Column("pitch", 21, 108, 88),
        Column("velocity", 2.5, 126.5, 32),
        Column("duration", 0.01, 64, 560, "time", exact=5.0),
    ),
    core=LSTM(units=512, layers=3),
    heads=Chain(hidden=256),
    training=Training(),
)
