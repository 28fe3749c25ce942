"""A recipe and a dataset → a run folder (run_folder.py): train, or go on with a training.

A run that was killed at any instant goes on by the same command: from the last epoch's end, or from a checkpoint in the
middle of one, which is written every so many minutes and when a signal asks to stop. The batches, the rates and the
dropout are those of a run that never stopped. Knows nothing of export or serving.
"""

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import keras
import numpy as np

from music.pieces import Dataset
from trainer import data, devices
from trainer.fit import checkpoints, optimizers, report
from trainer.fit.checkpoints import Progress
from trainer.fit.progress_log import ProgressLog
from trainer.fit.resuming import resume
from trainer.fit.run_identity import read_card
from trainer.fit.signals import Stop, Stopped
from trainer.fit.training_callback import TrainingCallback
from trainer.fit.warm_start import Start
from trainer.model import EventModel, build
from trainer.recipe import Recipe, to_card


class Hardware(NamedTuple):
    """The devices of a training, and how exact its matrix products are."""

    names: list[str]  # such as gpu:0
    spread: Callable[[], AbstractContextManager]  # opens the blocks that run on them, as devices.spread returns it
    precision: str  # float32 or bfloat16
    slow: str  # why that precision is slow here; empty where it is not


class TrainingData(NamedTuple):
    """The pieces that a model learns from and is validated on."""

    recipe: Recipe  # its encoding fits the training pieces
    facts: dict  # of the dataset, for the card
    train: data.Corpus
    valid: data.Corpus
    windows: np.ndarray  # (N, T, F), of validation


def fit(
    recipe: Recipe,
    dataset: Dataset,
    run: str,
    minutes: float | None = None,
    log=sys.stderr,
    stop: Stop | None = None,
    checkpoint_minutes: float = math.inf,
    on: str | None = None,
    start: Start | None = None,
    precision: str = "auto",
) -> dict:
    """Train until the recipe's last epoch, until validation stops improving, or for so many minutes.

    Args:
        checkpoint_minutes: between two checkpoints within an epoch; inf: there are none.
        on: how many devices, or "all", as devices.choose takes it.
        start: the weights to begin with, whose encoding the recipe has; None: fresh ones.
        precision: of matrix products: float32, bfloat16, or "auto", as devices.precision takes it.

    Returns:
        The card that was written, with the best epoch's metrics.

    Raises:
        Stopped: `stop` received a signal; the run's progress is written.
        RecordError: the dataset or the checkpoint is damaged, or `run` belongs to another recipe.
        Diverged: the loss or a weight became NaN or infinite; what was written before is kept.
    """
    keras.utils.set_random_seed(recipe.training.seed)
    hardware = choose_hardware(on, precision, recipe.training.batch)
    prepared = prepare_data(recipe, dataset, start, len(hardware.names))
    model, card = build_model(prepared, hardware, start)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    resumed = resume(run, model, card)
    devices.vary_dropout_seeds(model, checkpoints.dropout_states(model))
    report.of_model(run, model, card)
    progress_log = ProgressLog(log, prepared.recipe)
    progress_log.begin(model.count_params(), prepared.train, hardware.names, hardware.precision, resumed.progress)
    progress_log.warn(hardware.precision, hardware.slow, prepared.train)
    callback = TrainingCallback(
        prepared.recipe, run, resumed, progress_log, stop or Stop(), deadline, 60 * checkpoint_minutes
    )
    run_epochs(model, prepared, hardware, callback)
    report.of_run(run, prepared.train, prepared.valid, log)
    return read_card(run)  # as the last epoch left it


def choose_hardware(on: str | None, precision: str, batch: int) -> Hardware:
    """Choose devices that share a batch of so many windows, and their precision, as `fit` takes both."""
    names = devices.choose(on, batch)
    precision, slow = devices.precision(precision, names)
    return Hardware(names, devices.spread(names), precision, slow)


def prepare_data(recipe: Recipe, dataset: Dataset, start: Start | None, count: int) -> TrainingData:
    """Open both splits for so many devices. Fit the encoding to the training pieces, unless weights come with one."""
    train = data.Corpus(dataset, "train", recipe.encoding, recipe.select)
    if start is None:
        pieces = (train.notes(piece) for piece in range(len(train.index)))
        recipe = replace(recipe, encoding=recipe.encoding.fit(pieces))
    if recipe.controls.use and not recipe.controls.styles:
        recipe = replace(recipe, controls=replace(recipe.controls, styles=data.styles(train)))
    valid = data.Corpus(dataset, "validation", recipe.encoding, recipe.select)
    windows = devices.pad_to_multiple(data.validation(valid, recipe.encoding, recipe.training), count)
    facts = {key: dataset.facts.get(key) for key in ("source", "digest", "pieces")}
    return TrainingData(recipe, facts, train, valid, windows)


def build_model(prepared: TrainingData, hardware: Hardware, start: Start | None) -> tuple[EventModel, dict]:
    """Build the model with its optimiser, put the weights of `start` into it, and write its card."""
    recipe = prepared.recipe
    card = {"schema": 1, **to_card(recipe)}
    with hardware.spread():
        model = build(card)
        jit = keras.backend.backend() == "jax"
        model.compile(
            optimizer=optimizers.build(recipe.training, len(hardware.names), hardware.precision), jit_compile=jit
        )
        model.optimizer.build(model.trainable_variables)
    model.precision = hardware.precision
    if start is not None:
        fresh = start.put(model)
        card["from"] = start.facts | ({"fresh": fresh} if fresh else {})
    card |= {
        "state": model.state_spec,
        "parameters": model.count_params(),
        "window": recipe.training.window,
        "dataset": prepared.facts,
    }
    return model, card


def run_epochs(model: EventModel, prepared: TrainingData, hardware: Hardware, callback: TrainingCallback) -> None:
    """Train the epochs that are left. Raises Stopped where a signal came after the last one, too."""
    recipe, training = prepared.recipe, prepared.recipe.training
    with callback.stop.waiting(), hardware.spread():
        for first, step, last in [] if callback.patience_is_over() else _legs(callback.progress, training.epochs):
            batches = data.Windows(
                prepared.train, recipe.encoding, training, first * training.steps + step, recipe.controls
            )
            model.fit(
                devices.feed(batches, len(hardware.names)),
                shuffle=False,
                validation_data=(prepared.windows,),
                validation_batch_size=training.batch,
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=training.steps - step,
                callbacks=[callback],
                verbose=0,
            )
            if model.stop_training:
                break
        if signal := callback.stop.signal:  # the pictures and samples can wait
            raise Stopped(signal, f"after epoch {callback.progress.epoch}")


def _legs(progress: Progress, epochs: int) -> list[tuple[int, int, int]]:
    """List (first epoch, its first step, last epoch) of what is left: the rest of a broken epoch, then whole ones."""
    epoch, step = progress.epoch, progress.step
    legs = [(epoch, step, epoch + 1), (epoch + 1, 0, epochs)] if step else [(epoch, 0, epochs)]
    return [leg for leg in legs if leg[0] < epochs]
