"""Does the model do what is asked? Density, loudness, length and style, asked and measured, 64 pieces each.

    python -m benchmarks.controls --data data/maestro [--model models/performance/1]

Density, loudness: new pieces of 300 notes, the asked values spread evenly over the model's classes from 10 % to 90 % of
them; the line that fits what came, and the correlation. A piece that ends within 64 notes is left out. Length: pieces
from nothing of 20 to 120 seconds, and continuations of 20 seconds of the validation split that shall end 20 to 60
seconds later: the share that ends by itself within a tenth of the seconds asked, and within two seconds. Each beside
pieces of which nothing is asked.
Style: a linear discriminant of 120-note excerpts, fitted on the train split; the share that it assigns to the right
composer, of real validation excerpts and of new pieces in each style.
"""

import argparse
import sys

import numpy as np

from music import notes as nt
from music.analysis import similarity
from music.generation import Card, Generator, Settings
from music.notes import Notes
from music.pieces import Dataset
from serving.backends.embedded import Embedded
from trainer.data import Corpus
from trainer.evaluation.batch_generation import Part, play

PIECES, NOTES, EXCERPT = 64, 300, 120
_QUANTITIES = ("pitch", "interval", "step", "duration", "velocity", "polyphony")
_SHRINKAGE = 0.2  # of the covariance towards its diagonal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", help="default: the one in models/")
    parser.add_argument("--pieces", type=int, default=PIECES)
    args = parser.parse_args()
    backend = Embedded(args.model)
    card, _ = Generator(backend).describe()
    dataset = Dataset.open(args.data)
    train, valid = (Corpus(dataset, split, card.encoding) for split in ("train", "validation"))
    for name in ("density", "loudness"):
        _numbers(backend, card, name, args.pieces)
    _lengths(backend, card, valid, args.pieces)
    _styles(backend, card, train, valid, args.pieces)
    return 0


def measured(name: str, notes: Notes) -> float:
    """Measure a piece's density, in notes a second, or its loudness, the mean velocity."""
    if name == "loudness":
        return float(notes["velocity"].mean())
    return len(notes) / max(float(np.ptp(notes["start"])), 0.01)


def _numbers(backend, card: Card, name: str, pieces: int) -> None:
    low, high = np.percentile(getattr(card.controls, name), [10, 90])
    asked = np.linspace(low, high, pieces)
    parts = [Part(nt.empty(), Settings(NOTES, random_seed=k, **{name: float(x)})) for k, x in enumerate(asked)]
    plain = [Part(nt.empty(), Settings(NOTES, random_seed=k)) for k in range(pieces)]
    for title, some in ((f"{name} asked, {low:g} to {high:g}", parts), (f"{name}, nothing asked", plain)):
        came = [(x, measured(name, piece.notes)) for x, piece in zip(asked, play(backend, card, some), strict=True)
                if len(piece.notes) >= similarity.LEAST]  # fmt: skip
        x, y = np.array(came).T
        slope, offset = np.polyfit(x, y, 1)
        correlation = np.corrcoef(x, y)[0, 1]
        line = f"slope {slope:.2f}, at 0 {offset:.1f}, correlation {correlation:.2f}; middle {np.median(y):.1f}"
        print(f"{title:44} {len(x)} pieces: {line}", flush=True)


def _lengths(backend, card: Card, valid: Corpus, pieces: int) -> None:
    rng = np.random.default_rng(0)
    seeds = [_excerpt(valid, piece, 20.0) for piece in rng.integers(0, len(valid.index), pieces)]
    for title, begin, asked in (
        ("length from nothing, 20 to 120 s", [nt.empty()] * pieces, np.linspace(20, 120, pieces)),
        ("length after 20 s of music, 40 to 80 s", seeds, np.linspace(40, 80, pieces)),
    ):
        for what in ("asked", "nothing asked"):
            settings = [Settings(4096, random_seed=k, seconds=float(x) if what == "asked" else None)
                        for k, x in enumerate(asked)]  # fmt: skip
            parts = [Part(seed, each, 240.0) for seed, each in zip(begin, settings, strict=True)]
            ends = []
            for seed, piece in zip(begin, play(backend, card, parts), strict=True):
                ends.append(nt.length(np.concatenate([seed, piece.notes])) if piece.final else np.inf)
            off = np.abs(np.array(ends) - asked)
            shares = (np.mean(off <= asked / 10), np.mean(off <= 2), np.mean(np.isfinite(ends)))
            line = "{:5.0%} within a tenth, {:5.0%} within 2 s, {:5.0%} end by themselves".format(*shares)
            print(f"{title + ', ' + what:54} {line}", flush=True)


def _styles(backend, card: Card, train: Corpus, valid: Corpus, pieces: int) -> None:
    styles = card.controls.styles
    rng = np.random.default_rng(0)

    def excerpts(corpus: Corpus, each: int) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = [], []
        for piece, composer in enumerate(corpus.composers):
            if composer in styles:
                notes = corpus.notes(piece)
                for at in rng.integers(0, max(len(notes) - EXCERPT, 1), each):
                    rows.append(_vector(notes[at : at + EXCERPT]))
                    labels.append(styles.index(composer))
        return np.array(rows), np.array(labels)

    classify = discriminant(*excerpts(train, 12))
    x, real = excerpts(valid, 4)
    most = np.bincount(real).max() / len(real)
    print(f"{'style of real validation excerpts':54} {np.mean(classify(x) == real):5.0%} right of {len(real)}; "
          f"the most frequent composer has {most:.0%}")  # fmt: skip
    labels = np.arange(pieces * 2) % len(styles)
    for what in ("asked", "nothing asked"):
        parts = [Part(nt.empty(), Settings(EXCERPT, random_seed=k, style=styles[label] if what == "asked" else None))
                 for k, label in enumerate(labels)]  # fmt: skip
        played = [piece.notes for piece in play(backend, card, parts)]
        whole = [k for k, notes in enumerate(played) if len(notes) >= similarity.LEAST]
        right = np.mean(classify(np.array([_vector(played[k]) for k in whole])) == labels[whole])
        print(f"{'style, ' + what:54} {right:5.0%} right of {len(whole)}; chance {1 / len(styles):.0%}", flush=True)


def discriminant(x: np.ndarray, labels: np.ndarray):
    """Fit a linear discriminant with equal priors: float [n, d], int [n] → a function from [m, d] to int [m]."""
    classes = np.unique(labels)
    means = np.stack([x[labels == k].mean(axis=0) for k in classes])
    inner = x - means[np.searchsorted(classes, labels)]
    covariance = inner.T @ inner / len(x)
    diagonal = np.diag(np.diag(covariance) + 1e-6)
    inverse = np.linalg.inv((1 - _SHRINKAGE) * covariance + _SHRINKAGE * diagonal)
    weights, offsets = means @ inverse, -0.5 * np.einsum("kd,de,ke->k", means, inverse, means)
    return lambda values: classes[(values @ weights.T + offsets).argmax(axis=1)]


def _vector(notes: Notes) -> np.ndarray:
    """Describe an excerpt by the roots of its distributions, one after the other."""
    features = similarity.features(notes)
    return np.sqrt(np.concatenate([features[name][0] for name in _QUANTITIES]))


def _excerpt(corpus: Corpus, piece: int, seconds: float) -> Notes:
    """Cut out the first seconds of a piece, from its first onset on."""
    notes = corpus.notes(int(piece))
    return nt.shift(nt.excerpt(notes, float(notes["start"][0]), seconds), 0.0)


if __name__ == "__main__":
    sys.exit(main())
