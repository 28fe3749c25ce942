"""Measure how many nats a model would save if it looked up what followed the same pitches the last time.

    python -m benchmarks.repeats --data data/maestro [--model models/performance/1] [--pieces 12]

For each note the longest run of pitches before it (2 to 12) that sounded within the last so many notes is looked up,
and the pitch that followed then gets a share of the probability. The share depends on the run's length alone and is
fitted by expectation-maximisation on pieces of the training split; the gain is measured on pieces of the validation
split. The ± is the standard error over these pieces. Nothing is trained: it says what a model has not learned.
"""

import argparse
import sys

import numpy as np

from music.encodings.columns import FIRST, Rows
from music.generation import Generator
from music.pieces import Dataset
from serving.backends.embedded import Embedded
from trainer.data import Corpus
from trainer.evaluation import likelihood

RUNS = (12, 8, 6, 5, 4, 3, 2)
BACK = (256, 512, 1024, 2048, 10**9)
LONGEST_PIECE = 3_000  # notes: side by side, all pieces wait for a long one


def last_time(pitches: list[int], back: int) -> tuple[np.ndarray, np.ndarray]:
    """Find for each note the longest run before it that sounded up to `back` notes ago: its length, and its end."""
    ended: dict[tuple, int] = {}
    run, place = np.zeros((2, len(pitches)), "i8")
    for t in range(len(pitches)):
        keys = [tuple(pitches[t - length : t]) for length in RUNS if length <= t]
        for key in keys:
            if t - ended.get(key, -back - 1) <= back:
                run[t], place[t] = len(key), ended[key]
                break
        ended |= dict.fromkeys(keys, t)
    return run, place


def shares(p: np.ndarray, run: np.ndarray, hit: np.ndarray) -> dict[int, float]:
    """Fit, by the run's length, the share of the probability that makes these notes likeliest."""
    by_length = {}
    for length in RUNS:
        of_length, share = run == length, 0.1
        for _ in range(50 if of_length.any() else 0):
            right = share * hit[of_length]
            share = float(np.mean(right / ((1 - share) * p[of_length] + right)))
        by_length[length] = share
    return by_length


def gain(p: np.ndarray, run: np.ndarray, hit: np.ndarray, share: dict[int, float]) -> np.ndarray:
    """Compute the nats that the mixture saves at each note."""
    weight = np.array([share.get(length, 0.0) for length in range(max(RUNS) + 1)])[run]
    return np.log((1 - weight) * p + weight * hit) - np.log(p)


def probabilities(backend: Embedded, card, rows: list[Rows], column: int) -> list[np.ndarray]:
    """Compute a column's probability of each row of pieces, all side by side."""
    parts = [np.exp(-block[:, :, column].astype("f8")) for block in likelihood.blocks(backend, card, rows)]
    return [piece[: len(encoded)] for piece, encoded in zip(np.concatenate(parts, axis=1), rows, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", default="data/maestro")
    parser.add_argument("--model", help="default: the one in models/")
    parser.add_argument("--pieces", type=int, default=12)
    args = parser.parse_args()
    backend = Embedded(args.model)
    card, _ = Generator(backend).describe()
    column = card.encoding.names.index("pitch")
    dataset, splits = Dataset.open(args.data), {}
    for split in ("train", "validation"):
        corpus = Corpus(dataset, split, card.encoding)
        few = np.flatnonzero(corpus.counts <= LONGEST_PIECE)[: args.pieces]
        rows = [likelihood.encode(card.encoding, corpus, int(piece)) for piece in few]
        notes = [piece[:, 0] >= FIRST for piece in rows]
        probable = [p[is_note] for p, is_note in zip(probabilities(backend, card, rows, column), notes, strict=True)]
        pitches = [piece[is_note, column] for piece, is_note in zip(rows, notes, strict=True)]
        splits[split] = probable, pitches
    for back in BACK:
        samples = {}
        for split, (probable, pitches) in splits.items():
            places = [last_time(piece.tolist(), back) for piece in pitches]
            hits = [piece[place] == piece for piece, (_, place) in zip(pitches, places, strict=True)]
            samples[split] = list(zip(probable, [run for run, _ in places], hits, strict=True))
        share = shares(*(np.concatenate(part) for part in zip(*samples["train"], strict=True)))
        gains = [gain(*piece, share) for piece in samples["validation"]]
        means = np.array([piece.mean() for piece in gains])
        count = sum(map(len, gains))
        print(
            f"{back if back < 10**9 else 'all':>5} notes back: {np.concatenate(gains).mean():.3f} ± "
            f"{means.std(ddof=1) / np.sqrt(len(means)):.3f} nats a note on {count:,} notes; "
            f"shares {', '.join(f'{length}: {share[length]:.2f}' for length in RUNS)}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
