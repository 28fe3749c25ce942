"""Does the model copy? The longest runs of notes that the training set has too, in new pieces and in real ones.

    python -m benchmarks.originality --data data/maestro [--model models/performance/1] [--split validation]

48 pieces of 500 notes each. The model's: from nothing; after 63 notes of the split, which are not counted; after 63
notes of a training piece, as a person would try who wants to hear it again. Real ones: excerpts of the split; the same
with shuffled intervals, for the runs that chance gives. And excerpts of the training set, which must stand out, on the
model's grid of 10 ms: as they are, up 7 semitones and a tenth faster, down 3 semitones and a quarter slower.
"""

import argparse
import sys
import time

import numpy as np

from music import notes as nt
from music.analysis import memorization
from music.generation import PRIME_BLOCK, Generator, Settings
from music.pieces import Dataset
from serving.backends.embedded import Embedded
from trainer.data import Corpus
from trainer.evaluation.batch_generation import Part, play

PIECES, NOTES = 48, 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", help="default: the one in models/")
    parser.add_argument("--index", help="default: the one inside the model's folder")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--pieces", type=int, default=PIECES)
    args = parser.parse_args()
    backend = Embedded(args.model)
    index = memorization.read(args.index or backend.folder / "assets.extra" / memorization.FILE)
    card, _ = Generator(backend).describe()
    dataset, rng = Dataset.open(args.data), np.random.default_rng(0)
    excerpts = {}
    for split in ("train", args.split):
        corpus = Corpus(dataset, split, card.encoding)
        for notes in (PRIME_BLOCK - 1, NOTES):
            excerpts[split, notes] = [_excerpt(corpus, notes, rng) for _ in range(args.pieces)]
    real = [played(notes) for notes in excerpts[args.split, NOTES]]
    training = excerpts["train", NOTES]
    seconds, compared = time.perf_counter(), [memorization.longest_run(notes, index) for notes in real]
    seconds = time.perf_counter() - seconds
    print(f"{'longest runs, in notes':36} {'least':>5} {'10 %':>5} {'50 %':>5} {'90 %':>5} {'99 %':>5} {'most':>5}")
    report(f"real, {args.split}", compared)
    report("real, intervals shuffled", [memorization.longest_run(_shuffled(notes, rng), index) for notes in real])
    for name, begin in (
        ("new, from nothing", [nt.empty()] * args.pieces),
        (f"new, after {args.split} notes", excerpts[args.split, PRIME_BLOCK - 1]),
        ("new, after training notes", excerpts["train", PRIME_BLOCK - 1]),
    ):
        parts = [Part(seed, Settings(NOTES, random_seed=number)) for number, seed in enumerate(begin)]
        generated = [piece.notes for piece in play(backend, card, parts) if len(piece.notes) >= NOTES / 2]
        length = sum(map(len, generated)) / len(generated)
        report(f"{name} ({length:.0f})", [memorization.longest_run(notes, index) for notes in generated])
    for name, semitones, factor in (
        ("training, as played", 0, 1.0),
        ("training, up 7, a tenth faster", 7, 1 / 1.1),
        ("training, down 3, a quarter slower", -3, 1.25),
    ):
        copies = [played(nt.stretch(nt.transpose(notes, semitones), factor)) for notes in training]
        report(name, [memorization.longest_run(notes, index) for notes in copies])
    print(f"{len(index.bits):,} bytes; {1e6 * seconds / sum(map(len, real)):.2f} ms for 1,000 notes")
    return 0


def report(name: str, runs: list[memorization.Run]) -> None:
    values = [run.notes for run in runs]
    low, middle, high, highest = np.percentile(values, [10, 50, 90, 99])
    print(f"{name:36} {min(values):5} {low:5.0f} {middle:5.0f} {high:5.0f} {highest:5.0f} {max(values):5}", flush=True)


def played(notes: nt.Notes) -> nt.Notes:
    """Round onsets to the model's grid of 10 ms, from the first note on."""
    on_grid = notes.copy()
    on_grid["start"] = np.rint((notes["start"] - notes["start"][0]) * 100) / 100
    return nt.sort(on_grid)


def _excerpt(corpus: Corpus, count: int, rng: np.random.Generator) -> nt.Notes:
    """Cut out so many notes, each position as likely as any other. Their first onset becomes 0 s."""
    room = np.maximum(corpus.counts - count, 0)
    piece = int(rng.choice(len(room), p=room / room.sum()))
    at = int(rng.integers(0, room[piece]))
    notes = corpus.notes(piece)[at : at + count]
    return nt.shift(notes, -float(notes["start"][0]))


def _shuffled(notes: nt.Notes, rng: np.random.Generator) -> nt.Notes:
    """Shuffle the intervals, one note after the other; pitches may leave a piano's range."""
    music = memorization.ordered(notes)
    steps = rng.permutation(np.diff(music["pitch"].astype(int)))
    pitch = np.concatenate([[60], 60 + np.cumsum(steps)])
    onset = np.arange(len(pitch)) / 8
    return nt.from_columns(onset, onset + 0.1, pitch, 80)


if __name__ == "__main__":
    sys.exit(main())
