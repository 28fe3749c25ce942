"""The events of Keras' fit → the files of a run, the progress log, and an early end where one is due.

Writes a checkpoint after each epoch, within an epoch every so many minutes, and when a signal asks to stop. Validates
the moving averages of the weights. Knows nothing of devices and of how data is read.
"""

import csv
import io
import time

import keras
import numpy as np

from music import storage
from music.errors import MusicError, RecordError
from music.storage import checksums
from trainer.fit import checkpoints, tensorboard
from trainer.fit.checkpoints import Progress
from trainer.fit.progress_log import ProgressLog
from trainer.fit.resuming import Resumed
from trainer.fit.signals import Stop, Stopped
from trainer.recipe import Recipe
from trainer.run_folder import CARD, HISTORY, load_weights, pack, weights

_LOSS_PAUSE = 2.0  # seconds between two looks at the loss; a look waits for a GPU to finish its step


class Diverged(MusicError):
    """The loss or a weight is NaN or infinite."""


class TrainingCallback(keras.callbacks.Callback):
    """Writes all that is needed to go on after each epoch, and within one when it is due."""

    def __init__(
        self,
        recipe: Recipe,
        run: str,
        resumed: Resumed,
        log: ProgressLog,
        stop: Stop,
        deadline: float | None,
        checkpoint_seconds: float,
    ):
        """Begin where the run was resumed.

        Args:
            deadline: the time.monotonic() after which no epoch begins; None: there is none.
            checkpoint_seconds: between two checkpoints within an epoch.
        """
        super().__init__()
        self.progress, self.stop = resumed.progress, stop
        self._recipe, self._run, self._log = recipe, run, log
        self._card, self._metrics, self._version = resumed.card, resumed.metrics, resumed.version
        self._deadline, self._checkpoint_seconds = deadline, checkpoint_seconds

    def patience_is_over(self) -> bool:
        """Tell whether validation has not improved for as many epochs as the recipe waits."""
        best = self.progress.best
        return best is not None and self.progress.epoch - best["epoch"] >= self._recipe.training.patience

    def on_epoch_begin(self, epoch, logs=None):
        """Put a broken epoch's metrics back, and start the clocks."""
        self._first = self.progress.step
        if self._first:
            checkpoints.put_metrics(self.model, self._metrics)
        self._log.begin_epoch()
        self._saved = self._looked = time.monotonic()
        self._started = self._saved - self.progress.seconds

    def on_train_batch_end(self, batch, logs=None):
        """Look at the loss now and then; write a checkpoint where one is due, and stop where a signal asks for it."""
        now, step, steps = time.monotonic(), self._first + batch + 1, self._recipe.training.steps
        self._log.step(step, now, now - self._started)
        if step == steps:  # validation is short, and then the whole epoch is written
            return
        signal = self.stop.signal
        due = now - self._saved > self._checkpoint_seconds
        if signal or due or now - self._looked > _LOSS_PAUSE:
            self._looked = now
            # the mean of the epoch so far, which stays NaN once it is
            if not np.isfinite(loss := float(logs["loss"])):
                raise self._diverged(f"step {step} of {steps}: the loss is {loss}")
        if signal or due:
            self._check_weights(f"step {step} of {steps}")
            self._save(Progress(self.progress.history, step, now - self._started))
            self._saved = time.monotonic()
        if signal:
            raise Stopped(signal, f"after epoch {self.progress.epoch} and step {step} of the next")

    def on_test_begin(self, logs=None):
        """Swap the weights for their moving averages, which are what is validated and written."""
        self._seconds = time.monotonic() - self._started  # of training alone
        self._notes = float(checkpoints.number(self.model.losses_by_column[0].count))
        self._current = weights(self.model)
        self._validated = self._current | checkpoints.averages(self.model)
        if self.model.optimizer.use_ema:
            load_weights(self.model, self._validated, "the average")

    def on_test_end(self, logs=None):
        """Swap the weights back."""
        if self.model.optimizer.use_ema:
            load_weights(self.model, self._current, "the weights before validation")
        del self._current

    def on_epoch_end(self, epoch, logs=None):
        """Write the epoch; then stop where a signal, the patience or the deadline says so."""
        line = self._line(epoch + 1, logs)
        self._check_weights("its last step")
        best = self.progress.best
        better = best is None or line["val_loss"] < best["val_loss"]
        self.progress = Progress([*self.progress.history, line])
        self._write(better)
        self._log.epoch(line, better, self._notes / self._seconds, time.monotonic() - self._started)
        if signal := self.stop.signal:
            raise Stopped(signal, f"after epoch {epoch + 1}")
        out_of_time = self._deadline is not None and time.monotonic() > self._deadline
        if self.patience_is_over() or out_of_time:
            self.model.stop_training = True

    def _line(self, number: int, logs: dict[str, float]) -> dict:
        """Make an epoch's line of history. Raises Diverged where a value in it is NaN or infinite."""
        losses = {name: round(float(value), 5) for name, value in logs.items()}
        for kind in ("", "val_"):  # Keras' own loss is a mean of batches, not of notes
            losses[f"{kind}loss"] = round(sum(losses[kind + name] for name in self._recipe.encoding.names), 5)
        if bad := {name: value for name, value in losses.items() if not np.isfinite(value)}:
            raise self._diverged(", ".join(f"{name} is {value}" for name, value in bad.items()))
        before = self.progress.history[-1] if self.progress.history else {"seconds": 0.0, "notes": 0}
        return {
            "epoch": number,
            **losses,
            "notes": before["notes"] + int(self._notes),
            "seconds": round(before["seconds"] + self._seconds, 1),
        }

    def _check_weights(self, where: str) -> None:
        """Raise Diverged where a weight is NaN or infinite; the loss shows it only a step later."""
        for name, values in weights(self.model).items():
            if not np.isfinite(values).all():
                raise self._diverged(f"{where}: {name} is no number any more")

    def _diverged(self, what: str) -> Diverged:
        epoch, rate = self.progress.epoch, f"--set training.rate={self._recipe.training.rate / 3:.2g}"
        select = f" --set 'select={self._recipe.select}'" if self._recipe.select else ""
        remedy = (
            f"The weights up to epoch {epoch} are kept in {self._run}; go on from them more gently, into another run: "
            f"--from {self._run}{select} {rate}"
            if epoch
            else f"There are no weights from before; try {rate}"
        )
        return Diverged(f"training diverged in epoch {epoch + 1}, {what}. {remedy}")

    def _write(self, better: bool) -> None:
        """Write all files of an epoch that has ended, the checkpoint last: without it the epoch is trained again.

        Raises RecordError where another process trains in the same folder.
        """
        if checkpoints.version(self._run) != self._version:
            raise RecordError(f"{self._run}: another process trains in this folder; only one may")
        self._write_weights(better)
        self._write_history()
        self._write_card()
        tensorboard.write(self._run, self.progress.history[-1], float(self.model.optimizer.learning_rate))
        self._save(self.progress)

    def _write_weights(self, better: bool) -> None:
        packed = pack(self._validated)
        epoch, keep = self.progress.epoch, self._recipe.training.keep
        names = ["last"] + ["best"] * better + [f"{epoch:05d}"] * (keep > 0 and epoch % keep == 0)
        for name in names:
            storage.write(storage.join(self._run, "weights", f"{name}.npz"), packed)

    def _write_history(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, self.progress.history[0].keys())
        table.writeheader()
        table.writerows(self.progress.history)
        storage.write(storage.join(self._run, HISTORY), text.getvalue().encode())

    def _write_card(self) -> None:
        """Write the card with the best epoch's metrics, so that a run that was stopped can be exported."""
        best, last = self.progress.best, self.progress.history[-1]
        assert best is not None  # after at least one epoch
        metrics = {name: value for name, value in best.items() if name.startswith("val_")}
        origin = {
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "precision": self.model.precision,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        effort = {name: last[name] for name in ("epoch", "notes", "seconds")}
        self._card |= {"metrics": {"best_epoch": best["epoch"], **metrics, "trained": effort}, "made": origin}
        storage.write(storage.join(self._run, CARD), checksums.with_checksum(self._card))

    def _save(self, progress: Progress) -> None:
        self._version = checkpoints.save(self._run, self.model, progress, self._version)
