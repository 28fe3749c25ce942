"""Truncated back-propagation through whole pieces, for benchmarks/ablations.py. TensorFlow only.

Each row of a batch goes through one piece after the other, window by window from its beginning. A window begins with
the state that the one before ended with. Gradients stop there. The augmentation is drawn once for a piece.
"""

import numpy as np

from music import notes as nt
from music.encodings import Encoding
from music.encodings.columns import FIRST
from trainer.data import CUT, Corpus, Excerpts
from trainer.recipe import Training


class Windows:
    """Batches, which are read in their order: int32 (B, T, F), and bool (B,), true where a piece begins."""

    def __init__(self, corpus: Corpus, encoding: Encoding, training: Training):
        self._corpus, self._encoding, self._training = corpus, encoding, training
        self._rng = np.random.default_rng([training.seed, 2])
        self._waiting: list[int] = []
        self._lanes = [self._begin() for _ in range(training.batch)]

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        size, cuts, fresh = self._training.window, np.zeros(len(self._lanes), CUT), []
        for k, (piece, _, _) in enumerate(self._lanes):
            if self._lanes[k][1] >= self._corpus.sizes[piece] + 2:
                self._lanes[k] = self._begin()
            piece, first, _ = self._lanes[k]
            last = min(first + size, int(self._corpus.sizes[piece]) + 2)
            cuts[k] = piece, first, last
            fresh.append(first == 0)
            self._lanes[k] = piece, last, self._lanes[k][2]
        music = Excerpts.of([self._corpus.notes(int(piece)) for piece in cuts["piece"]], self._encoding, cuts)
        changes = zip(*(lane[2] for lane in self._lanes), strict=True)
        music = music.change(*(np.array(each) for each in changes))
        return music.encode(self._encoding, size), np.array(fresh)

    def _begin(self) -> tuple[int, int, tuple[int, float, int]]:
        """Begin the next piece. Return it, its first row, and how it is changed: semitones, factor, louder."""
        if not self._waiting:
            self._waiting = self._rng.permutation(len(self._corpus.index)).tolist()
        piece, training = self._waiting.pop(), self._training
        pitch = nt.pitched(self._corpus.notes(piece))["pitch"]
        low, high = self._encoding.pitches
        low, high = max(training.transpose[0], low - pitch.min()), min(training.transpose[1], high - pitch.max())
        semitones = int(self._rng.integers(min(low, 0), max(high, 0) + 1))
        factor = float(np.exp(self._rng.uniform(-1, 1) * np.log1p(training.stretch)))
        return piece, 0, (semitones, factor, int(self._rng.integers(-training.louder, training.louder + 1)))


def stepper(model):
    """Make a function that trains a model on a batch of Windows, remembers the state after it and returns it."""
    import tensorflow as tf

    carried = {}

    @tf.function(jit_compile=True)
    def step(rows, fresh, state):
        state = {name: tf.where(tf.reshape(fresh, (-1, *[1] * (len(value.shape) - 1))), tf.zeros_like(value), value)
                 for name, value in state.items()}  # fmt: skip
        with tf.GradientTape() as tape:
            nats, after = model.likelihood(rows, state, training=True)
            loss = tf.reduce_sum(nats) / tf.reduce_sum(tf.cast(rows[:, :, 0] >= FIRST, "float32"))
        model.optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return after

    def train(rows, fresh):
        state = carried or model.initial_state(len(rows))
        carried.update(step(tf.constant(rows), tf.constant(fresh), state))
        return carried

    return train
