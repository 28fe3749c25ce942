"""Compare the recipes: size, speed of training, score beside the bigram's, speed of generating.

    python -m benchmarks.recipes --data data/maestro --runs runs [--seconds 10] [--pieces 137]

For each run in the folder: its score and its recipe's bigram on the validation split; symbols/s or notes/s of a fresh
training of a few batches; notes/s of its export for one client, in this process. Beside `three_heads` stands the loop
of the tutorial that it comes from: `model.predict` on the last 25 notes for each note. Run it while nothing else runs.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from music.encodings.columns import FIRST
from music.examples.nocturne import nocturne
from music.generation import Card, Generator, Settings
from music.pieces import Dataset
from serving.backends.embedded import Embedded
from trainer import data, model, run_folder
from trainer.evaluation import likelihood
from trainer.export import saved_model, signatures
from trainer.recipe import Training

TUTORIAL_WINDOW = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", default="data/maestro")
    parser.add_argument("--runs", default="runs", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement of speed")
    parser.add_argument("--pieces", type=int, help="of the validation split; default: all")
    args = parser.parse_args()
    dataset = Dataset.open(args.data)
    print(f"{'recipe':12} {'parameters':>10} {'training':>16} {'nats a':>13} {'bigram':>13} {'generating':>13}")
    for run in sorted(path.parents[1] for path in args.runs.glob("*/weights/best.npz")):
        network, facts = run_folder.load(str(run))
        card = Card.parse(json.dumps(facts))
        unit = card.encoding.unit
        corpora = [data.Corpus(dataset, split, card.encoding, facts["select"]) for split in ("train", "validation")]
        score = likelihood.evaluate(signatures.Live(network, facts), card, corpora[1], args.pieces)
        floors = likelihood.floors(facts, *corpora, args.pieces)
        with tempfile.TemporaryDirectory() as base:
            saved_model.publish(network, facts, base)
            generating = measure(stream(Generator(Embedded(base))), args.seconds)
        trained = training_speed(facts, corpora[0], args.seconds)
        print(
            f"{run.name:12} {facts['parameters']:10,} {trained:8,.0f} {unit + 's/s':9} {score.nats:6.3f} {unit:6} "
            f"{floors['bigram'].nats:13.3f} {generating:6.0f} notes/s",
            flush=True,
        )
        if "bigram as regression" in floors:
            print(f"{'':12} the bigram read as a regression too: {floors['bigram as regression'].nats:.3f}")
        if card.name == "three_heads":
            slow = measure(tutorial(), args.seconds)
            print(f"{'':12} the tutorial's `model.predict` a note: {slow:.0f} notes/s; ours {generating / slow:.1f} ×")


def measure(notes: Iterator[int], seconds: float) -> float:
    """Measure notes per second, after a warm-up of the first one."""
    next(notes)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += next(notes)
    return count / (time.perf_counter() - started)


def stream(generator: Generator) -> Iterator[int]:
    """Yield the number of notes of each chunk, piece after piece; each piece begins with priming the seed."""
    while True:
        for chunk in generator.stream(nocturne(), Settings(notes=1024)):
            yield len(chunk.notes)


def training_speed(facts: dict, corpus: data.Corpus, seconds: float) -> float:
    """Measure the training of a fresh model of this card in rows per second, after a warm-up of ten batches."""
    network = model.build(facts)
    network.compile(optimizer="adam")
    windows = data.Windows(corpus, network.encoding, Training(**facts["training"]))
    for number in range(10):
        network.train_on_batch(*windows[number])
    rows, number, started = 0, 10, time.perf_counter()
    while time.perf_counter() - started < seconds:
        batch = windows[number]
        network.train_on_batch(*batch)
        rows, number = rows + int((batch[0][:, :, 0] >= FIRST).sum()), number + 1
    return rows / (time.perf_counter() - started)


def tutorial() -> Iterator[int]:
    """Run the tutorial's network and loop: three heads on an LSTM of the last 25 notes, one `predict` a note."""
    inputs = keras.Input((TUTORIAL_WINDOW, 3))
    hidden = keras.layers.LSTM(128)(inputs)
    heads = {
        name: keras.layers.Dense(size, name=name)(hidden)
        for name, size in (("pitch", 128), ("step", 1), ("duration", 1))
    }
    network = keras.Model(inputs, heads)
    rng = np.random.default_rng(0)
    window = rng.random((TUTORIAL_WINDOW, 3), "f4")
    while True:
        predicted = network.predict(window[None], verbose=0)
        logits = predicted["pitch"][0]
        p = np.exp(logits - logits.max())
        pitch = rng.choice(128, p=p / p.sum())
        step, duration = (max(float(predicted[name][0, 0]), 0.0) for name in ("step", "duration"))
        window = np.concatenate([window[1:], [[pitch / 128, step, duration]]]).astype("f4")
        yield 1


if __name__ == "__main__":
    main()
