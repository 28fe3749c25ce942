"""Training: a recipe and a dataset → a run folder (run_folder.py). Fit, going on, history.

A run that was killed at any instant goes on by the same command: from the last epoch's end, or from a checkpoint in the
middle of one, which is written every so many minutes and when a signal asks to stop. The batches, the rates and the
dropout are those of a run that never stopped. Knows nothing of export or serving.
"""

import csv
import io
import json
import os
import sys
import time
from dataclasses import replace

import keras
import numpy as np

from music import storage
from music.errors import MusicError, RecordError
from music.pieces import Dataset
from music.storage import checksums
from trainer import data, devices, model
from trainer.fit import checkpoints, report, tensorboard
from trainer.fit.checkpoints import Place
from trainer.fit.signals import Stop, Stopped
from trainer.fit.warm_start import Start
from trainer.recipe import Recipe, to_card
from trainer.run_folder import CARD, CHECKPOINT, HISTORY, load_weights, pack, unpack, weights

_LOOK = 2.0  # seconds between two looks at the loss; a look waits for a GPU to finish its step
CHECKPOINT_MINUTES = 10.0  # an epoch may be long; what a kill without warning loses is not
_MAY_CHANGE = ("epochs", "patience", "keep")  # of a run that goes on: train it longer, or shorter


class Diverged(MusicError):
    """The loss, or a weight, is no number any more."""


def fit(
    recipe: Recipe,
    dataset: Dataset,
    run: str,
    minutes: float | None = None,
    log=sys.stderr,
    stop: Stop | None = None,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    on: str | None = None,
    start: Start | None = None,
    precision: str = "auto",
) -> dict:
    """Train until the recipe's last epoch, until validation stops improving, or for so many minutes.

    Args:
        on: how many devices, or "all", as devices.choose has it.
        start: the weights to begin with, whose encoding the recipe has; None: fresh ones.
        precision: of matrix products: float32, bfloat16, or "auto", as devices.precision has it.

    Returns:
        The card that was written, with the best epoch's metrics.

    Raises:
        Stopped: `stop` heard a signal; where the run stands is written.
        RecordError: the dataset or the checkpoint is damaged, or `run` belongs to another recipe.
        Diverged: the loss or a weight became NaN or infinite; what was written before is kept.
    """
    keras.utils.set_random_seed(recipe.training.seed)
    training = recipe.training
    names = devices.choose(on, training.batch)
    precision, slow = devices.precision(precision, names)
    corpus = data.Corpus(dataset, "train", recipe.encoding, recipe.select)
    if start is None:
        heard = (corpus.notes(piece) for piece in range(len(corpus.index)))
        recipe = replace(recipe, encoding=recipe.encoding.fit(heard))
    valid = data.Corpus(dataset, "validation", recipe.encoding, recipe.select)
    check = devices.even(data.validation(valid, recipe.encoding, training), len(names))
    card = {"schema": 1, **to_card(recipe)}
    spread = devices.spread(names)
    with spread():
        made = model.build(card)
        made.compile(optimizer=optimizer(recipe, len(names)), jit_compile=keras.backend.backend() == "jax")
        made.optimizer.build(made.trainable_variables)
    made.precision = precision
    if start is not None:
        fresh = start.put(made)
        card["from"] = start.facts | ({"fresh": fresh} if fresh else {})
    card |= {
        "state": made.state_spec,
        "parameters": made.count_params(),
        "window": training.window,
        "dataset": {key: dataset.facts.get(key) for key in ("source", "digest", "pieces")},
    }
    keeper = Keeper(recipe, run, card, minutes, log, stop or Stop(), checkpoint_minutes)
    place = keeper.resume(made)
    devices.part_chances(made, checkpoints.chance(made))
    report.of_model(run, made, card)
    log.write(
        f"{recipe.name}: {made.count_params():,} parameters; {len(corpus.index)} pieces, "
        f"{corpus.counts.sum():,} notes; "
        f"{keras.backend.backend()} on {len(names)} {names[0].partition(':')[0]}, "
        f"products in {precision}{_going_on(place)}\n"
    )
    if slow:
        log.write(f"--precision {precision}: {slow}\n")
    if corpus.skipped:
        log.write(f"{len(corpus.skipped)} pieces are beyond the encoding and left out, the first {corpus.skipped[0]}\n")
    with keeper.stop.waiting(), spread():
        for first, step, last in [] if keeper.patience_is_over() else _legs(place, training.epochs):
            made.fit(
                devices.feed(
                    data.Windows(corpus, recipe.encoding, training, first * training.steps + step), len(names)
                ),
                shuffle=False,
                validation_data=(check,),
                validation_batch_size=training.batch,
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=training.steps - step,
                callbacks=[keeper],
                verbose=0,
            )
            if made.stop_training:
                break
        if keeper.stop.signal:  # the pictures and samples can wait
            raise Stopped(keeper.stop.signal, f"after epoch {keeper.epoch}")
    report.of_run(run, corpus, valid, log)
    return _read_card(run)  # as the last epoch left it


def _legs(place: Place, epochs: int) -> list[tuple[int, int, int]]:
    """(first epoch, its first step, last epoch) of what is left: the rest of a broken epoch, then whole ones."""
    now = place.epoch
    legs = [(now, place.step, now + 1), (now + 1, 0, epochs)] if place.step else [(now, 0, epochs)]
    return [leg for leg in legs if leg[0] < epochs]


def _going_on(place: Place) -> str:
    if not (place.epoch or place.step):
        return ""
    return f", going on after epoch {place.epoch}" + (f" and step {place.step} of the next" if place.step else "")


def optimizer(recipe: Recipe, count: int) -> keras.optimizers.Optimizer:
    """The recipe's, for so many devices."""
    training = recipe.training
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(training.epochs * training.steps - training.warmup, 1),
        alpha=training.floor,
        warmup_target=training.rate,
        warmup_steps=training.warmup,
    )
    made = devices.AdamW(
        devices=count, clip=training.clip, learning_rate=rate, weight_decay=training.decay, name="optimizer",
        use_ema=training.average > 0, ema_momentum=training.average,
    )  # fmt: skip
    made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made


class Keeper(keras.callbacks.Callback):
    """Says how it goes, and writes all that is needed to go on."""

    def __init__(
        self, recipe: Recipe, run: str, card: dict, minutes: float | None, log, stop: Stop, checkpoint_minutes: float
    ):
        super().__init__()
        self._recipe, self._run, self._card, self._log, self.stop = recipe, run, card, log, stop
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self._pause = 60 * checkpoint_minutes
        self._place = Place()
        self._metrics: dict[str, np.ndarray] = {}  # of the broken epoch, until it goes on
        self._best: dict | None = None

    @property
    def epoch(self) -> int:
        """Whole epochs so far."""
        return self._place.epoch

    @property
    def _history(self) -> list[dict]:
        return self._place.history

    def resume(self, made: keras.Model) -> Place:
        """Load the last checkpoint, if there is one; where it stands."""
        storage.sweep(self._run)
        other = f"put it back, or begin another run with the last weights: --from {self._run} --weights last"
        self._version = checkpoints.version(self._run)
        if not self._version:
            if done := self._epochs_told():
                path = storage.join(self._run, CHECKPOINT)
                raise RecordError(f"{path} is missing, though {HISTORY} tells of {done} epochs: {other}")
            if storage.exists(storage.join(self._run, CARD)):
                self._check_same()
            storage.write(storage.join(self._run, CARD), checksums.seal(self._card))
            return self._place
        self._check_same()
        try:
            self._place, self._metrics = checkpoints.load(self._run, made)
            self._best = min(self._history, key=lambda line: line["val_loss"], default=None)
            if self._best:  # which may stay the best, and would be missed hours later
                unpack(storage.join(self._run, "weights", "best.npz"))
        except FileNotFoundError as error:
            raise RecordError(f"{error.filename} is missing: {other}") from None
        except RecordError as error:
            raise RecordError(f"{error}; {other}") from error
        return self._place

    def _epochs_told(self) -> int:
        """By the history, if they are more than one: the first one's checkpoint comes behind its line."""
        path = storage.join(self._run, HISTORY)
        lines = storage.read(path).count(b"\n") - 1 if storage.exists(path) else 0
        return lines if lines > 1 else 0

    def _check_same(self) -> None:
        before, ours = _read_card(self._run), json.loads(json.dumps(self._card))
        for card in (before, ours):
            card["training"] = {k: v for k, v in card["training"].items() if k not in _MAY_CHANGE}
        if _same_start(before.get("from"), ours.get("from")):
            self._card["from"] = ours["from"] = before["from"]
        for key in ("recipe", "encoding", "core", "heads", "select", "training", "from"):
            if before.get(key) != ours.get(key):
                raise RecordError(
                    f"{self._run} holds another run: its {key} is {before.get(key)!s:.300}, "
                    f"expected {ours.get(key)!s:.300}; choose another --run, or the same recipe, --from and --set"
                )
        if before["dataset"]["digest"] != ours["dataset"]["digest"]:
            raise RecordError(f"{self._run} was trained on another dataset ({before['dataset']['source']})")

    def patience_is_over(self) -> bool:
        return self._best is not None and self._place.epoch - self._best["epoch"] >= self._recipe.training.patience

    def on_epoch_begin(self, epoch, logs=None):
        self._first = self._place.step
        if self._first:
            checkpoints.put_metrics(self.model, self._metrics)
        self._said = self._saved = self._looked = time.monotonic()
        self._started = self._said - self._place.seconds

    def on_train_batch_end(self, batch, logs=None):
        now, step, steps = time.monotonic(), self._first + batch + 1, self._recipe.training.steps
        if now - self._said > 30:
            self._said = now
            self._log.write(f"  batch {step} of {steps}, {now - self._started:.0f} s\n")
        if step == steps:  # validation is short, and then the whole epoch is written
            return
        asked = self.stop.signal
        due = now - self._saved > self._pause
        if asked or due or now - self._looked > _LOOK:  # the mean of the epoch so far: it stays NaN once it is
            self._looked = now
            if not np.isfinite(loss := float(logs["loss"])):
                raise self._diverged(f"step {step} of {steps}: the loss is {loss}")
        if asked or due:
            self._check_weights(f"step {step} of {steps}")
            self._keep(Place(self._history, step, now - self._started))
            self._saved = time.monotonic()
        if asked:
            raise Stopped(asked, f"after epoch {self._place.epoch} and step {step} of the next")

    def _check_weights(self, where: str) -> None:
        """The loss tells of a weight that is lost only a step later."""
        for name, values in weights(self.model).items():
            if not np.isfinite(values).all():
                raise self._diverged(f"{where}: {name} is no number any more")

    def _diverged(self, what: str) -> Diverged:
        done = self._place.epoch
        same = f" --set 'select={self._recipe.select}'" if self._recipe.select else ""
        kept = (
            f"the weights up to epoch {done} are kept in {self._run}; go on from them more gently, into another run: "
            f"--from {self._run}{same} --set training.rate={self._recipe.training.rate / 3:.2g}"
            if done
            else f"there are no weights from before; try --set training.rate={self._recipe.training.rate / 3:.2g}"
        )
        return Diverged(f"training diverged in epoch {done + 1}, {what}. {kept[0].upper()}{kept[1:]}")

    def on_test_begin(self, logs=None):
        self._seconds = time.monotonic() - self._started  # of training alone
        self._notes = float(checkpoints.number(self.model.losses_by_column[0].count))
        self._current = weights(self.model)
        self._to_keep = self._current | checkpoints.averages(self.model)
        load_weights(self.model, self._to_keep, "the average")

    def on_test_end(self, logs=None):
        load_weights(self.model, self._current, "the weights before validation")

    def on_epoch_end(self, epoch, logs=None):
        number, training = epoch + 1, self._recipe.training
        line = {name: round(float(value), 5) for name, value in logs.items()}
        for kind in ("", "val_"):  # Keras' own loss is a mean of batches, not of notes
            line[f"{kind}loss"] = round(sum(line[kind + name] for name in self._recipe.encoding.names), 5)
        if bad := {name: value for name, value in line.items() if not np.isfinite(value)}:
            raise self._diverged(", ".join(f"{name} is {value}" for name, value in bad.items()))
        self._check_weights("its last step")
        before = self._history[-1] if self._history else {"seconds": 0.0, "notes": 0}
        line = {
            "epoch": number,
            **line,
            "notes": before["notes"] + int(self._notes),
            "seconds": round(before["seconds"] + self._seconds, 1),
        }
        self._place = Place([*self._history, line])
        better = self._best is None or line["val_loss"] < self._best["val_loss"]
        if better:
            self._best = line
        self._write(number, better)
        speed, unit = self._notes / self._seconds, self._recipe.encoding.unit
        left = (training.epochs - number) * (time.monotonic() - self._started)
        self._log.write(
            f"epoch {number}/{training.epochs}  loss {line['loss']:.3f}  "
            f"validation {line['val_loss']:.3f} nats a {unit}{' *' if better else ''}  "
            f"{speed:,.0f} {unit}s/s  {_clock(left)} left\n"
        )
        self._log.flush()
        if self.stop.signal:
            raise Stopped(self.stop.signal, f"after epoch {number}")
        out_of_time = self._until is not None and time.monotonic() > self._until
        if self.patience_is_over() or out_of_time:
            self.model.stop_training = True

    def _write(self, number: int, better: bool) -> None:
        if checkpoints.version(self._run) != self._version:
            raise RecordError(f"{self._run}: another process trains in this folder; only one may")
        packed = pack(self._to_keep)
        keep = self._recipe.training.keep
        names = ["last"] + ["best"] * better + [f"{number:05d}"] * (keep > 0 and number % keep == 0)
        for name in names:
            storage.write(storage.join(self._run, "weights", f"{name}.npz"), packed)
        text = io.StringIO()
        table = csv.DictWriter(text, self._history[0].keys())
        table.writeheader()
        table.writerows(self._history)
        storage.write(storage.join(self._run, HISTORY), text.getvalue().encode())
        self._write_card()
        tensorboard.write(self._run, self._history[-1], float(self.model.optimizer.learning_rate))
        self._keep(self._place)

    def _keep(self, place: Place) -> None:
        self._version = checkpoints.save(self._run, self.model, place, self._version)

    def _write_card(self) -> None:
        """With the best epoch's metrics, so that a run that was stopped can be exported."""
        best = self._best
        assert best is not None  # after at least one epoch
        metrics = {name: value for name, value in best.items() if name.startswith("val_")}
        made = {
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "precision": self.model.precision,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        effort = {name: self._history[-1][name] for name in ("epoch", "notes", "seconds")}
        self._card |= {"metrics": {"best_epoch": best["epoch"], **metrics, "trained": effort}, "made": made}
        storage.write(storage.join(self._run, CARD), checksums.seal(self._card))


def _same_start(before: dict | None, now: dict | None) -> bool:
    """Whether a run began with what is named now; that may have gone on since, so only its place and which of its
    weights count. Older cards do not say which."""
    if before is None or now is None or before.get("weights", now.get("weights")) != now.get("weights"):
        return False
    return os.path.normpath(before["path"]) == os.path.normpath(now["path"])


def _read_card(run: str) -> dict:
    path = storage.join(run, CARD)
    try:
        facts = checksums.unseal(storage.read(path), path)
        facts["training"], facts["dataset"]["digest"]
    except FileNotFoundError:
        told = "is missing, though there is a checkpoint: put it back, or choose another --run"
        raise RecordError(f"{path} {told}") from None
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged: it lacks {error}") from error
    return facts


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
