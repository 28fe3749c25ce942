"""A dataset folder → batches of augmented, encoded windows, in bounded memory. Knows nothing of models.

Batch g depends on the dataset, the recipe and g alone. So a run that was stopped continues with the same batches.
Augmentation changes the notes in natural units (semitones, seconds, velocities); the encoding comes after it.
"""

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

import keras
import numpy as np

from music import controls
from music import notes as nt
from music.controls import Controls
from music.encodings import Encoding
from music.encodings.columns import BEGIN, END
from music.errors import EncodingError, RecordError
from music.notes import Notes
from music.pieces import Dataset, Piece
from trainer.recipe import Training

MEMORY = 40_000_000  # notes in memory at once, 22 bytes each
# Rows first..last of a piece, where row 0 is BEGIN, row n + 1 END, and row i the i-th event.
CUT = np.dtype([("piece", "i4"), ("first", "i4"), ("last", "i4")])
_STYLE_PIECES = 8  # training pieces that a composer has at least whose style can be asked for
_MEASURED = 16  # notes of which a density and a loudness are measured at least
_BYTES = np.dtype(f"V{nt.NOTE.itemsize}")


class Corpus:
    """The pieces of one split, read from its shards.

    All pieces stay in memory if they have at most `memory` notes. Otherwise as many shards stay as fit; the least
    recently used shard is dropped first.

    Args:
        encoding: fitted or not; a piece keeps the notes that this encoding can express. The others are counted in
            `left_out`. A piece that it cannot express at all is skipped, and its id is listed in `skipped`.
        select: "" or "fact=word": only the pieces whose fact (composer, title, year, id) contains the word; case is
            ignored.

    Raises:
        RecordError: the dataset is incomplete or damaged, or no piece is left.
    """

    def __init__(self, dataset: Dataset, split: str, encoding: Encoding, select: str = "", memory: int = MEMORY):
        self.dataset, self._encoding, self.select, self._memory = dataset, encoding, select, memory
        self.skipped: list[str] = []  # ids
        self.left_out: dict[str, int] = {}  # id of a piece that is not skipped: notes that it lost
        self._shards = dataset.shards(split)
        self._held: OrderedDict[int, list[Notes]] = OrderedDict()
        self._room = memory  # notes that still fit
        self.ids: list[str] = []
        index, sizes, counts = [], [], []
        self.composers: list[str] = []
        composers: set[str] = set()
        for number in range(len(self._shards)):
            for position, notes in enumerate(self._load(number, composers)):
                index.append((number, position))
                sizes.append(len(encoding.events(notes)) - 1)
                counts.append(len(notes))
        self.index = np.array(index, "i4").reshape(-1, 2)  # (shard, position among its selected pieces) of each piece
        self.sizes = np.array(sizes, "i8")  # events of each piece: its rows without BEGIN and END
        self.counts = np.array(counts, "i8")  # notes of each piece
        if not index:
            raise RecordError(
                f"select {select!r} leaves no {split} piece that can be expressed ({len(self.skipped)} cannot); "
                f"composers: {', '.join(sorted(composers))}"
            )

    def notes(self, piece: int) -> Notes:
        """Return the notes of a piece; read its shard if that is not in memory."""
        number, position = self.index[piece].tolist()
        if number not in self._held:
            self._load(number)
        self._held.move_to_end(number)  # so that it is the last to be dropped
        return self._held[number][position]

    def pools(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the pieces in random order, in groups whose notes fit in half the memory."""
        pools: list[list[np.ndarray]] = [[]]
        held = 0
        for number in rng.permutation(len(self._shards)):
            members = np.flatnonzero(self.index[:, 0] == number)
            size = int(self.counts[members].sum())
            if held and held + size > self._memory // 2 and self.counts.sum() > self._memory:
                pools.append([])
                held = 0
            pools[-1].append(members)
            held += size
        return [np.concatenate(pool) for pool in pools]

    def _load(self, number: int, composers: set | None = None) -> list[Notes]:
        """Read a shard's pieces. With `composers`, the first time, add to that set, `ids`, `skipped`, `left_out`."""
        pieces = []
        for piece in self.dataset.read_shard(self._shards[number]):
            if composers is not None:
                composers.add(piece.composer)
            if not selected(piece, self.select):
                continue
            try:
                supported = self._encoding.supported_notes(piece.notes)
            except EncodingError:
                if composers is not None:
                    self.skipped.append(piece.id)
                continue
            pieces.append(supported)
            if composers is not None:
                self.ids.append(piece.id)
                self.composers.append(piece.composer)
                if lost := len(piece.notes) - len(supported):
                    self.left_out[piece.id] = lost
        self._held[number] = pieces
        self._room -= sum(map(len, pieces))
        while len(self._held) > 1 and self._room < 0:
            _, released = self._held.popitem(last=False)
            self._room += sum(map(len, released))
        return pieces


def selected(piece: Piece, select: str) -> bool:
    """Return whether a piece matches `select`: "fact=word", or "" for every piece.

    Raises RecordError for an unknown fact.
    """
    if not select:
        return True
    fact, _, word = select.partition("=")
    if not word or fact not in ("composer", "title", "year", "id"):
        raise RecordError(f"select {select!r}: expected fact=word with a fact among composer, title, year, id")
    return word.lower() in str(getattr(piece, fact)).lower()


def cuts(corpus: Corpus, window: int, rng: np.random.Generator) -> np.ndarray:
    """Cut every piece into windows; return them in random order: CUT [n].

    The first border inside a piece is random, so that the windows of two passes differ.
    """
    order = []
    for pool in corpus.pools(rng):
        rows = corpus.sizes[pool] + 2
        border = rng.integers(1, window + 1, size=len(pool))  # the row at which the first window ends
        counts = 1 + np.maximum(-(-(rows - border) // window), 0)
        windows = np.empty(counts.sum(), CUT)
        windows["piece"] = np.repeat(pool, counts)
        number = np.arange(len(windows)) - np.repeat(np.cumsum(counts) - counts, counts)  # among its piece's windows
        last = np.repeat(border, counts) + number * window
        windows["first"] = np.maximum(last - window, 0) * (number > 0)
        windows["last"] = np.minimum(last, np.repeat(rows, counts))
        order.append(windows[rng.permutation(len(windows))])
    return np.concatenate(order)


@dataclass(frozen=True)
class Excerpts:
    """The notes of several cuts, one cut after the other, before they are encoded."""

    notes: Notes
    counts: np.ndarray  # notes of each cut
    sizes: np.ndarray  # events of each cut
    after: np.ndarray  # onset before each cut, seconds; the first step counts from it
    begins: np.ndarray  # bool: whether the piece begins in the cut
    ends: np.ndarray  # bool: whether the piece ends in the cut

    @classmethod
    def of(cls, pieces: list[Notes], encoding: Encoding, chosen: np.ndarray) -> "Excerpts":
        """Take the notes of each cut out of its piece; `pieces` has one piece for each cut."""
        parts, sizes, after, ends = [nt.empty().view(_BYTES)], [], [], []
        for first, last, notes in zip(chosen["first"].tolist(), chosen["last"].tolist(), pieces, strict=True):
            events = encoding.events(notes)
            a, b = max(first - 1, 0), min(last - 1, len(events) - 1)
            parts.append(notes[events[a] : events[b]].view(_BYTES))
            after.append(notes["start"][max(events[a] - (first > 0), 0)])
            sizes.append(b - a)
            ends.append(last == len(events) + 1)
        music = np.concatenate(parts).view(nt.NOTE)  # as bytes: twice as fast as by field
        counts = np.array([len(part) for part in parts[1:]], "i8")
        return cls(music, counts, np.array(sizes), np.array(after), chosen["first"] == 0, np.array(ends, bool))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Repeat each cut's value for each of its notes."""
        return np.repeat(values, self.counts)

    def pitches(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest pitch of each cut, int64; 127 and 0 for a cut without notes."""
        low, high = np.full(len(self.counts), 127), np.zeros(len(self.counts), "i8")
        filled = self.counts > 0
        firsts = (np.cumsum(self.counts) - self.counts)[filled]
        if filled.any():
            pitch = np.ascontiguousarray(self.notes["pitch"])
            low[filled], high[filled] = np.minimum.reduceat(pitch, firsts), np.maximum.reduceat(pitch, firsts)
        return low, high

    def change(self, semitones: np.ndarray, factor: np.ndarray, louder: np.ndarray) -> "Excerpts":
        """Transpose each cut by `semitones`, multiply its times by `factor`, and add `louder` to its velocities."""
        notes, factors = self.notes.view(_BYTES).copy().view(nt.NOTE), self.spread(factor)
        notes["pitch"] += self.spread(semitones.astype("i2"))
        notes["start"] *= factors
        notes["end"] *= factors
        notes["velocity"] = np.clip(notes["velocity"] + self.spread(louder), 1, 127)
        return replace(self, notes=notes, after=self.after * factor)

    def encode(self, encoding: Encoding, window: int) -> np.ndarray:
        """Encode each cut as one window, filled up with PAD: int32 [cuts, window, F]."""
        body = encoding.encode_many(self.notes, np.append(0, np.cumsum(self.counts)), self.after)
        rows = np.zeros((len(self.sizes), window, body.shape[1]), "i4")
        rows[self.begins, 0] = BEGIN
        done = 0
        for target, size, begins, ends in zip(
            rows, self.sizes.tolist(), self.begins.tolist(), self.ends.tolist(), strict=True
        ):
            target[begins : begins + size] = body[done : done + size]
            done += size
            if ends:
                target[begins + size] = END
        return rows


class Windows(keras.utils.PyDataset):
    """The endless batches of a training run, from batch `start` on; each is a tuple of one int32 (B, T, F) array.

    With `controls`, four columns more are what a listener may have asked when each row is drawn: see `asked`.

    It has no length, and `fit` needs shuffle=False. If it had a length, Keras would draw batches at random and begin
    with the first batch again after every epoch.
    """

    num_batches = None

    def __init__(
        self, corpus: Corpus, encoding: Encoding, training: Training, start: int = 0, controls: Controls | None = None
    ):
        super().__init__(workers=4, max_queue_size=16)
        self._corpus, self._encoding, self._training = corpus, encoding, training
        self._controls = controls if controls and controls.use else None
        self._start = start
        self._lock = threading.Lock()  # Keras asks from several threads
        windows = -(-(corpus.sizes + 2) // training.window)  # the least number of windows of each piece
        self.per_pass = max(int(windows.sum()) // training.batch, 1)  # batches
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()  # by number of the pass; the last two that were used

    def __getitem__(self, i: int) -> tuple[np.ndarray]:
        number, training = self._start + i, self._training
        at = number % self.per_pass * training.batch
        with self._lock:
            order = self._order(number // self.per_pass)
            chosen = order[np.arange(at, at + training.batch) % len(order)]
            notes = [self._corpus.notes(piece) for piece in chosen["piece"].tolist()]
        music = Excerpts.of(notes, self._encoding, chosen)
        rng = np.random.default_rng([training.seed, 1, number])
        semitones = self._semitones(music, rng)
        factor = np.exp(rng.uniform(-1, 1, len(chosen)) * np.log1p(training.stretch))
        music = music.change(
            semitones,
            factor,
            rng.integers(-training.louder, training.louder + 1, len(chosen)),
        )
        rows = music.encode(self._encoding, training.window)
        if self._controls:
            styles = [self._corpus.composers[piece] for piece in chosen["piece"].tolist()]
            ends = np.array([n["start"].max() for n in notes]) * factor
            rows = np.concatenate([rows, asked(music, ends, styles, self._controls, training.window, rng)], axis=-1)
        return (rows,)

    def _order(self, number: int) -> np.ndarray:
        """Return the cuts of pass `number` in its random order."""
        if number not in self._orders:
            rng = np.random.default_rng([self._training.seed, 0, number])
            self._orders[number] = cuts(self._corpus, self._training.window, rng)
            while len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[number]

    def _semitones(self, music: Excerpts, rng: np.random.Generator) -> np.ndarray:
        """Draw how far to transpose each cut, so that no pitch leaves the encoding's range."""
        lowest, highest = music.pitches()
        low, high = self._training.transpose
        low = np.maximum(low, self._encoding.pitches[0] - lowest)
        high = np.minimum(high, self._encoding.pitches[1] - highest)
        return rng.integers(np.minimum(low, 0), np.maximum(high, 0) + 1)


def styles(corpus: Corpus) -> tuple[str, ...]:
    """List the composers of at least _STYLE_PIECES pieces, in the order of the alphabet."""
    counts = Counter(corpus.composers)
    return tuple(sorted(name for name, count in counts.items() if name and count >= _STYLE_PIECES))


def asked(
    music: Excerpts, ends: np.ndarray, composers: list[str], classes: Controls, window: int, rng: np.random.Generator
) -> np.ndarray:
    """Describe each window as a listener would have asked for it: int32 [cuts, window, 4], as `music.controls` says.

    Half of the windows are described from their first row on, the others from a random row on, as a seed's
    continuation is. Each control is left out of half of the windows. Density and loudness are those of the notes that
    come after, where these are at least _MEASURED.

    Args:
        ends: seconds at which the last note of each cut's piece begins.
        composers: of each cut's piece.
    """
    total = np.zeros((len(music.counts), window, len(controls.NAMES)), "i4")
    left_out = rng.random((len(total), len(controls.NAMES))) < 0.5
    late, where = rng.random((2, len(total)))
    firsts = np.cumsum(music.counts) - music.counts
    for k, (first, count) in enumerate(zip(firsts.tolist(), music.counts.tolist(), strict=True)):
        notes, begins = music.notes[first : first + count], int(music.begins[k])
        skipped = int(where[k] * count) if late[k] < 0.5 else 0  # notes before the controls hold
        since = np.append(music.after[k], notes["start"])  # the onset before each note is drawn, and the last onset
        row = skipped + begins  # BEGIN is read before anything is asked
        coming = notes[skipped:]
        if composers[k] in classes.styles:
            total[k, row:, 0] = 1 + classes.styles.index(composers[k])
        seconds = since[-1] - since[skipped]
        if len(coming) >= _MEASURED and seconds > 0:
            for column, name, value in (
                (1, "density", len(coming) / seconds),
                (2, "loudness", coming["velocity"].mean()),
            ):
                total[k, row:, column] = controls.nearest(getattr(classes, name), np.array([value]))[0]
        onsets = np.full(window, since[-1])  # of the row before each row
        onsets[: begins + 1] = since[0]
        size = min(count, window - begins)
        onsets[begins : begins + size] = since[:size]
        total[k, row:, 3] = controls.to_cells(ends[k] - onsets[row:])
    return total * ~left_out[:, None, :]


def validation(corpus: Corpus, encoding: Encoding, training: Training) -> np.ndarray:
    """Cut and encode the windows for validation: int32 [up to training.validation, T, F].

    They are the same at every call, and their music is not augmented.
    """
    chosen = cuts(corpus, training.window, np.random.default_rng(0))[: training.validation]
    music = Excerpts.of([corpus.notes(piece) for piece in chosen["piece"].tolist()], encoding, chosen)
    return music.encode(encoding, training.window)
