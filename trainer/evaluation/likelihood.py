"""A model and pieces → nats per note, on a grid of 10 ms and 32 velocities. The state is carried through each piece.

−log p summed over columns and rows (BEGIN's is 0, END's counts), divided by the number of notes; no augmentation. An
encoding of symbols holds too little of a note for that. Its figure is in nats per symbol, and compares only with its
own bigram and with models of the same vocabulary. An encoding that lacks a column of a note lacks that column's nats.

The bigram predicts each column from the same column of the row before. It is smoothed with the unigram, and that with
the uniform distribution, after Witten and Bell 1991 (no constants to choose); it is fitted on the training pieces.
Beside regressions stands a second one, read as they are: the mean after each class, and a normal distribution around.

Works on any Backend with a `likelihood` signature, so anyone can measure an exported model. Knows nothing of training.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from keras import ops

from music import encodings
from music.encodings import Encoding, NoteRows
from music.encodings.columns import CELL, END, FIRST, Rows
from music.generation import Backend, Card, read
from trainer.data import Corpus
from trainer.model import heads

LANES = 32  # pieces at once


@dataclass(frozen=True)
class Score:
    """Nats per note or symbol, in total and by column, and what they were measured on."""

    nats: float
    columns: dict[str, float]
    unit: str  # "note" or "symbol"
    pieces: int
    rows: int  # notes or symbols
    seconds: float

    def to_dict(self) -> dict:
        """Round the figures for JSON; the keys name the unit."""
        rounded = {name: round(value, 4) for name, value in self.columns.items()}
        return {
            f"nats_per_{self.unit}": round(self.nats, 4),
            "columns": rounded,
            "pieces": self.pieces,
            f"{self.unit}s": self.rows,
            "seconds": round(self.seconds, 1),
        }


def evaluate(backend: Backend, card: Card, corpus: Corpus, pieces: int | None = None) -> Score:
    """Measure a model on a corpus, or on its first `pieces` pieces. Raises EncodingError or BackendError."""
    started = time.monotonic()
    chosen = range(len(corpus.index))[:pieces]
    by_size = sorted(chosen, key=lambda piece: corpus.sizes[piece])  # so that a group's lanes end together
    total = np.zeros(len(card.encoding.names))
    for at in range(0, len(by_size), LANES):
        encoded = [encode(card.encoding, corpus, piece) for piece in by_size[at : at + LANES]]
        for block in blocks(backend, card, encoded):
            nats = block.sum(axis=(0, 1), dtype="f8")
            total += nats
    return _score(card.encoding, total, corpus, chosen, time.monotonic() - started)


def bigram(
    encoding: Encoding, train: Corpus, corpus: Corpus, pieces: int | None = None, *, regression: bool = False
) -> Score:
    """Measure the bigram of `train` as `evaluate` does a model; `regression`: all but the first column as numbers."""
    started = time.monotonic()
    columns = [(_Means if regression and k else _Bigram)(encoding, k) for k in range(len(encoding.names))]
    for piece in range(len(train.index)):
        rows = encode(encoding, train, piece)
        for column in columns:
            column.count(rows)
    chosen = range(len(corpus.index))[:pieces]
    total = np.zeros(len(columns))
    for piece in chosen:
        rows = encode(encoding, corpus, piece)
        total += [column.nats(rows) for column in columns]
    return _score(encoding, total, corpus, chosen, time.monotonic() - started)


def floors(facts: dict, train: Corpus, corpus: Corpus, pieces: int | None = None) -> dict[str, Score]:
    """Measure what a model of this card must beat, by name: the bigram, and for regressions one read as they are."""
    encoding = encodings.from_config(facts["encoding"])
    scores = {"bigram": bigram(encoding, train, corpus, pieces)}
    if facts["heads"]["kind"] == "regression":
        scores["bigram as regression"] = bigram(encoding, train, corpus, pieces, regression=True)
    return scores


class _Bigram:
    """Counts which class follows which in one column; where classes are finer than the grid, which cell follows."""

    always_cells = False

    def __init__(self, encoding: Encoding, k: int):
        self._k = k
        self._classes, self._log_cells = np.arange(encoding.sizes[k]), np.zeros(encoding.sizes[k])
        if isinstance(encoding, NoteRows):
            column = encoding.columns[k]
            if column.is_time and (self.always_cells or np.diff(column.values).min() < 0.999 * CELL):
                self._classes = np.append(np.arange(FIRST), FIRST + np.rint(column.values / CELL)).astype("i8")
            else:
                self._log_cells[FIRST:] = np.log(column.cells)
        size = int(self._classes.max()) + 1
        self._counts = np.zeros((size, size))

    def count(self, rows: Rows) -> None:
        before, after = self._pairs(rows)
        size = len(self._counts)
        self._counts += np.bincount(before * size + after, minlength=size * size).reshape(size, size)

    def nats(self, rows: Rows) -> float:
        before, after = self._pairs(rows)
        single = _smoothed(self._counts.sum(0), 1 / (len(self._counts) - (FIRST if self._k else END)))
        row = self._counts[before]
        kinds, total = np.sum(row > 0, axis=1), row.sum(1)
        unseen = np.maximum(kinds, 1)  # after a class never seen: the unigram alone
        p = (self._counts[before, after] + unseen * single[after]) / (total + unseen)
        own = self._log_cells[rows[1 : 1 + len(after), self._k]]
        return float(np.sum(own - np.log(p)))

    def _pairs(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Pair what counts with what stands before it; END counts in the first column alone."""
        ids = self._classes[rows[:, self._k] if self._k == 0 else rows[: -1 if rows[-1, 0] == END else None, self._k]]
        return ids[:-1], ids[1:]


class _Means(_Bigram):
    """Predicts a time column as a regression does: a normal distribution around each class's mean, truncated at 0."""

    always_cells = True

    def nats(self, rows: Rows) -> float:
        before, after = self._pairs(rows)
        mean, sigma = self._fitted
        cells = np.maximum(after - FIRST, 0)
        return -float(np.sum(ops.convert_to_numpy(heads.log_mass(*_f4(cells * CELL, mean[before], sigma)))))

    @cached_property
    def _fitted(self) -> tuple[np.ndarray, float]:
        """Fit the mean after each class, in seconds, and the standard deviation around them all."""
        seconds = np.maximum(np.arange(len(self._counts)) - FIRST, 0) * CELL
        times = self._counts.sum(1)
        overall = self._counts.sum(0) @ seconds / times.sum()
        mean = (self._counts @ seconds + overall) / (times + 1)  # as if the overall mean had been seen once
        squares = self._counts @ seconds**2 - 2 * mean * (self._counts @ seconds) + times * mean**2
        return mean, float(np.sqrt(max(squares.sum(), 0) / times.sum()))


def _f4(*values) -> tuple:
    return tuple(np.asarray(value, "f4") for value in values)


def _smoothed(counts: np.ndarray, below: float) -> np.ndarray:
    """Smooth counts after Witten and Bell: the unseen gets as much as there are kinds, shared out evenly."""
    kinds = np.sum(counts > 0)
    return (counts + kinds * below) / (counts.sum() + kinds)


def _score(encoding: Encoding, total: np.ndarray, corpus: Corpus, chosen: range, seconds: float) -> Score:
    rows = int(corpus.sizes[list(chosen)].sum())
    columns = dict(zip(encoding.names, (total / rows).tolist(), strict=True))
    return Score(float(total.sum()) / rows, columns, encoding.unit, len(chosen), rows, seconds)


def encode(encoding: Encoding, corpus: Corpus, piece: int) -> Rows:
    """Encode a piece with BEGIN and END."""
    return encoding.encode(corpus.notes(piece), begin=True, end=True)


def blocks(backend: Backend, card: Card, encoded: list[Rows]) -> Iterator[np.ndarray]:
    """Compute the nats of pieces side by side, block by block: float32 [pieces, 64, F], 0 beyond a piece's end."""
    for reply in read(backend.call, "likelihood", encoded, card.empty_state(len(encoded))):
        yield reply.outputs["nll"]
