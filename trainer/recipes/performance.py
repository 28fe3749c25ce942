"""Expressive piano performances: one LSTM step a note; the columns of a note are drawn one after the other.

    python -m trainer train --recipe performance --data data/maestro --run runs/performance

This size is for a GPU and has not been trained yet. The smaller model in models/ (its card has the commands) took
three and a half hours on two busy cores and reaches 9.052 nats a note on MAESTRO's validation split.
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
