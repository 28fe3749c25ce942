"""Run the input pipeline without a model: shards → batches in bounded memory. Prints JSON, for `benchmarks.training`.

The corpus is a train split `--times` over; its shards are listed again, so they are read, checked and decoded again.
`--memory` notes may be held and every pool of pieces is half of that, so in one pass all shards are read once more.
The batches are those of `train`: cut, transposed, stretched, encoded, on so many threads, a few batches ahead.
"""

import argparse
import json
import resource
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter, process_time

from music import notes as nt
from music.encodings.columns import FIRST
from music.pieces import Dataset
from trainer import data, recipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    dataset, chosen = Dataset.open(args.data), recipe.load("performance")
    facts = dataset.facts | {"shards": dataset.facts["shards"] * args.times}
    before, began = peak(), perf_counter()
    corpus = data.Corpus(replace(dataset, facts=facts), "train", chosen.encoding, memory=args.memory)
    first = perf_counter() - began
    windows = data.Windows(corpus, chosen.encoding, chosen.training)
    began, cpu = perf_counter(), process_time()
    notes = one_pass(windows, windows.per_pass, args.threads)
    print(
        json.dumps(
            {
                "notes": notes,
                "bytes": int(corpus.counts.sum()) * nt.NOTE.itemsize,
                "seconds": perf_counter() - began,
                "cpu": process_time() - cpu,
                "first_seconds": first,
                "peak": peak(),
                "peak_before": before,
            }
        )
    )


def one_pass(windows: data.Windows, batches: int, threads: int) -> int:
    """Make so many batches in their order, and count their notes."""
    notes, ahead = 0, deque()
    with ThreadPoolExecutor(threads) as pool:
        for number in range(batches):
            ahead.append(pool.submit(windows.__getitem__, number))
            if len(ahead) > 2 * threads:
                notes += _count(ahead.popleft())
        return notes + sum(map(_count, ahead))


def _count(batch) -> int:
    return int((batch.result()[0][:, :, 0] >= FIRST).sum())


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


if __name__ == "__main__":
    main()
