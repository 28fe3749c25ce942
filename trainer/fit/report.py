"""A run → pictures and samples for people: its model, its loss beside the floors, its pieces beside real ones.

Nothing that goes on with a run reads them.
"""

import sys

import numpy as np

from music import midi, storage
from music import notes as nt
from music.generation import Generator, Settings
from music.plots.piano_roll import losses, piano_roll
from trainer import run_folder
from trainer.data import Corpus
from trainer.evaluation import likelihood
from trainer.export import signatures
from trainer.fit import diagrams
from trainer.model import EventModel

SAMPLES, SAMPLE_NOTES = 2, 200
_FLOOR_PIECES = 32  # of the validation split, to measure the floors on


def of_model(run: str, model: EventModel, card: dict) -> None:
    """Write model.txt, the layers as a table, and model.svg, a diagram."""
    storage.write(storage.join(run, "model.txt"), diagrams.summary(model).encode())
    diagrams.diagram(model, card, storage.join(run, "model.svg"))


def of_run(run: str, train: Corpus, valid: Corpus, log=sys.stderr) -> None:
    """Write loss.png and samples/.

    loss.png shows the floors beside the curve. samples/ holds SAMPLES new pieces by the best weights, a piano roll of
    each, and their distributions beside those of real pieces.
    """
    model, card = run_folder.load(run)
    scores = likelihood.floors(card, train, valid, _FLOOR_PIECES)
    for name, score in scores.items():
        log.write(f"{name}: {score.nats:.3f} nats a {score.unit} on {score.pieces} pieces of validation\n")
    unit = f"nats a {model.encoding.unit}"
    history, picture = (storage.join(run, name) for name in (run_folder.HISTORY, "loss.png"))
    losses(history, picture, unit, {name: score.nats for name, score in scores.items()})

    generator = Generator(signatures.Live(model, card))
    pieces = []
    for number in range(1, SAMPLES + 1):
        chunks = generator.stream(nt.empty(), Settings(notes=SAMPLE_NOTES, random_seed=number))
        pieces.append(nt.sort(np.concatenate([chunk.notes for chunk in chunks])))
        path = storage.join(run, "samples", str(number))
        storage.write(f"{path}.mid", midi.write(pieces[-1]))
        piano_roll(pieces[-1], f"{path}.png", title=f"{card['recipe']}, random seed {number}")
    real = [valid.notes(piece) for piece in range(min(len(valid.index), _FLOOR_PIECES))]
    if any(map(len, pieces)):  # a model may end at once
        diagrams.compare(pieces, real, storage.join(run, "samples", "distributions.png"))
    log.write(f"{SAMPLES} sampled pieces in {storage.join(run, 'samples')}\n")
