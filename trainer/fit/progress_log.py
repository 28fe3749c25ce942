"""The events of a training → lines of text for the person who watches it. Knows nothing of a run's files."""

import time
from collections.abc import Sequence
from typing import TextIO

import keras

from trainer.data import Corpus
from trainer.fit.checkpoints import Progress
from trainer.model import recurrence
from trainer.recipe import Recipe

_PAUSE = 30  # seconds between two lines within an epoch


class ProgressLog:
    """Writes the lines of one training."""

    def __init__(self, file: TextIO, recipe: Recipe):
        self._file, self._recipe = file, recipe
        self._last = time.monotonic()

    def begin(self, parameters: int, corpus: Corpus, names: Sequence[str], precision: str, progress: Progress) -> None:
        """Write the model's size, the data, the devices with these names, and where the training goes on."""
        self._file.write(
            f"{self._recipe.name}: {parameters:,} parameters; {len(corpus.index)} pieces, "
            f"{corpus.counts.sum():,} notes; "
            f"{keras.backend.backend()} on {len(names)} {names[0].partition(':')[0]}, "
            f"{recurrence.products(precision)}{_resumed_at(progress)}\n"
        )

    def warn(self, precision: str, slow: str, corpus: Corpus) -> None:
        """Write why the precision is a slow one, unless `slow` is empty, and which pieces and notes are left out."""
        if slow:
            self._file.write(f"--precision {precision}: {slow}\n")
        if skipped := corpus.skipped:
            self._file.write(f"{len(skipped)} pieces are beyond the encoding and left out, the first {skipped[0]}\n")
        if left_out := corpus.left_out:
            self._file.write(
                f"{sum(left_out.values()):,} notes of {len(left_out):,} pieces are beyond the encoding and left out, "
                f"the first {next(iter(left_out))}\n"
            )

    def begin_epoch(self) -> None:
        """Count the time to the first line within an epoch from here."""
        self._last = time.monotonic()

    def step(self, step: int, now: float, seconds: float) -> None:
        """Write a step's number and the epoch's seconds so far, but only some time after the last line."""
        if now - self._last > _PAUSE:
            self._last = now
            self._file.write(f"  batch {step} of {self._recipe.training.steps}, {seconds:.0f} s\n")

    def epoch(self, line: dict, better: bool, speed: float, seconds: float) -> None:
        """Write an epoch's losses and when the training may end.

        Args:
            line: of the history.
            better: mark it as the best epoch so far.
            speed: notes or symbols a second.
            seconds: that the epoch took with its validation.
        """
        epochs, unit = self._recipe.training.epochs, self._recipe.encoding.unit
        left = (epochs - line["epoch"]) * seconds
        self._file.write(
            f"epoch {line['epoch']}/{epochs}  loss {line['loss']:.3f}  "
            f"validation {line['val_loss']:.3f} nats a {unit}{' *' if better else ''}  "
            f"{speed:,.0f} {unit}s/s  {_clock(left)} left\n"
        )
        self._file.flush()


def _resumed_at(progress: Progress) -> str:
    if not (progress.epoch or progress.step):
        return ""
    step = f" and step {progress.step} of the next" if progress.step else ""
    return f", going on after epoch {progress.epoch}{step}"


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
