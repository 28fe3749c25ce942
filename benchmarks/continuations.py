"""Are continuations like the real thing? Four plain statistics beside those of real performances.

    python -m benchmarks.continuations --data data/maestro [--model models/performance/1]

16 seeds of 256 notes from the validation split are continued by 256 notes each; the same statistics of 4,000 random
excerpts of 256 notes of the training split give the 1st and the 99th percentile between which they should lie.
"""

import argparse
import sys

import numpy as np

from music import notes as nt
from music.generation import Generator, Settings
from music.pieces import Dataset
from serving.embedded import Embedded
from trainer.data import Corpus

NOTES, SEEDS, REAL = 256, 16, 4000


def distinct_pitches(notes: nt.Notes) -> float:
    return len(np.unique(notes["pitch"]))


def polyphony(notes: nt.Notes) -> float:
    """Notes that sound at once, on average."""
    return float(np.sum(notes["end"] - notes["start"]) / (notes["end"].max() - notes["start"].min()))


def repeated(notes: nt.Notes) -> float:
    """Share of notes of the same pitch as the note before."""
    return float(np.mean(notes["pitch"][1:] == notes["pitch"][:-1]))


def median_step(notes: nt.Notes) -> float:
    return float(np.median(np.diff(notes["start"])))


STATISTICS = {
    "distinct pitches": distinct_pitches,
    "polyphony": polyphony,
    "share of repeated notes": repeated,
    "median step, s": median_step,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", help="default: the one in models/")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    generator = Generator(Embedded(args.model))
    card, _ = generator.describe()
    dataset, rng = Dataset.open(args.data), np.random.default_rng(0)
    real, seeds = (
        excerpts(Corpus(dataset, split, card.encoding), count, rng)
        for split, count in (("train", REAL), ("validation", SEEDS))
    )
    ours = []
    for number, seed in enumerate(seeds):
        settings = Settings(notes=NOTES, temperature=args.temperature, random_seed=number)
        ours.append(np.concatenate([chunk.notes for chunk in generator.stream(seed, settings)]))
    print(f"continuations of {NOTES} notes: {sum(len(notes) == NOTES for notes in ours)} of {SEEDS} ran to the end")
    print(f"{'':24} {'real 1 %':>9} {'50 %':>7} {'99 %':>7}   {'ours least':>10} {'median':>7} {'most':>7}   outside")
    outside = 0
    for name, statistic in STATISTICS.items():
        low, middle, high = np.percentile([statistic(notes) for notes in real], [1, 50, 99])
        values = np.array([statistic(notes) for notes in ours if len(notes) > 1])
        out = int(np.sum((values < low) | (values > high)))
        outside += out
        print(
            f"{name:24} {low:9.3f} {middle:7.3f} {high:7.3f}   {values.min():10.3f} {np.median(values):7.3f} "
            f"{values.max():7.3f}   {out} of {len(values)}"
        )
    return 1 if outside else 0


def excerpts(corpus: Corpus, count: int, rng: np.random.Generator) -> list[nt.Notes]:
    """Random runs of NOTES notes, each from another piece as far as there are."""
    long_enough = np.flatnonzero(corpus.sizes > NOTES)
    chosen = np.resize(rng.permutation(long_enough), count)
    found = []
    for piece in chosen:
        at = int(rng.integers(0, corpus.sizes[piece] - NOTES))
        found.append(corpus.notes(int(piece))[at : at + NOTES])
    return found


if __name__ == "__main__":
    sys.exit(main())
