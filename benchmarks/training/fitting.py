"""Train a model with the data of `train`, but write no files. Prints JSON, for `benchmarks.training`.

A note costs two operations for each weight of a matrix that it is multiplied with, and twice that for the gradient;
look-ups, comparisons and additions are not counted. The peak is the best of some products of square matrices, before
and after, by the same library on the same device. A step waited for its batch if that was not ready when the step
before ended; the time in between is how long it waited.
"""

import argparse
import json
import os
from dataclasses import replace
from time import perf_counter, process_time, thread_time

import keras
import numpy as np

from music.encodings.columns import FIRST
from music.pieces import Dataset
from trainer import data, devices, model, recipe
from trainer.fit import optimizers
from trainer.model import recurrence
from trainer.recipe import Recipe

_NO_DROPOUT = ("core.dropout=0.0", "heads.dropout=0.0")
# What a CPU trains at each size; on a GPU the recipe is trained as it is.
SIZES = {
    "small": ("core.units=256", "core.layers=2", "training.window=256", "training.batch=16", *_NO_DROPOUT),
    "whole": ("training.window=128", "training.batch=32", *_NO_DROPOUT),
}
WARM_UP = 3  # steps
LOOK = 1.0  # seconds between looks at the loss, each of which waits until the steps so far are done
_SQUARE = {"cpu": 2048, "gpu": 8192}  # rows of the matrices whose products are the peak


class Watched(data.Windows):
    """Batches; and for each when it was ready, its notes, and the seconds of CPU that it took."""

    def __init__(self, *args):
        super().__init__(*args)
        self.ready: dict[int, float] = {}
        self.notes: dict[int, int] = {}
        self.making: dict[int, float] = {}

    def __getitem__(self, i: int) -> tuple[np.ndarray]:
        began = thread_time()
        batch = super().__getitem__(i)
        self.making[i] = thread_time() - began
        self.notes[i] = int((batch[0][:, :, 0] >= FIRST).sum())
        self.ready[i] = perf_counter()
        return batch


class Clock(keras.callbacks.Callback):
    """Measures from the end of the warm-up until the time is over."""

    def __init__(self, windows: Watched, seconds: float):
        super().__init__()
        self._windows, self._seconds = windows, seconds
        self._ended: list[float] = []  # of each step

    def on_train_begin(self, logs=None):
        self._started = perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if done == WARM_UP or (done > WARM_UP and perf_counter() - self._looked > LOOK):
            float(logs["loss"])
            self._looked, cpu = perf_counter(), process_time()
            if done == WARM_UP:
                self._began, self._cpu = self._looked, cpu
            elif self._looked - self._began > self._seconds:
                self.result = self._result(done, self._looked - self._began, cpu - self._cpu)
                self.model.stop_training = True
        self._ended.append(perf_counter())

    def _result(self, done: int, seconds: float, cpu: float) -> dict:
        measured, windows = range(WARM_UP, done), self._windows
        late = (windows.ready[i] - self._ended[i - 1] for i in measured)
        return {
            "steps": len(measured),
            "notes": sum(windows.notes[i] for i in measured),
            "seconds": seconds,
            "cpu": cpu,
            "waited": sum(max(each, 0.0) for each in late),
            "making": sum(windows.making[i] for i in measured),
            "warm": self._began - self._started,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--layer", choices=["keras", "parts"], default="parts")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    device = keras.distribution.list_devices()[0]
    chosen = recipe.load("performance")
    for setting in (*(SIZES[args.size] if device.startswith("cpu") else ()), *args.set):
        chosen = recipe.override(chosen, setting)
    if args.layer == "keras":
        recurrence.has_cudnn = lambda: True  # so that training takes the layer's own way, too
    before = peaks(device)
    precision, _ = devices.precision(args.precision, [device])
    measured, network = fit(chosen, args.data, precision, args.seconds)
    best = {name: max(speed, before[name]) for name, speed in peaks(device).items()}
    facts = {
        "device": device, "precision": precision, "products": recurrence.products(precision),
        "cores": os.cpu_count(), "parameters": network.count_params(),
        "layers": chosen.core.layers, "units": chosen.core.units,
        "batch": chosen.training.batch, "window": chosen.training.window,
        "operations": 6 * matrix_weights(network) * measured["notes"], "peaks": best,
    }  # fmt: skip
    print(json.dumps(facts | measured))


def fit(chosen: Recipe, folder: str, precision: str, seconds: float) -> tuple[dict, keras.Model]:
    """Train for so many seconds. Return the figures and the model."""
    keras.utils.set_random_seed(1)
    corpus = data.Corpus(Dataset.open(folder), "train", chosen.encoding)
    chosen = replace(chosen, training=replace(chosen.training, epochs=1, steps=1_000_000))
    network = model.build(recipe.to_card(chosen))
    network.compile(
        optimizer=optimizers.build(chosen.training, 1, precision), jit_compile=keras.backend.backend() == "jax"
    )
    network.precision = precision
    windows = Watched(corpus, chosen.encoding, chosen.training)
    clock = Clock(windows, seconds)
    network.fit(windows, shuffle=False, steps_per_epoch=chosen.training.steps, verbose=0, callbacks=[clock])
    return clock.result, network


def matrix_weights(network: keras.Model) -> int:
    """Count the weights that a note is multiplied with: of all matrices but those in which rows are looked up."""
    matrices = (w for w in network.trainable_variables if len(w.shape) == 2 and w.name != "embeddings")
    return sum(int(np.prod(w.shape)) for w in matrices)


def peaks(device: str) -> dict[str, float]:
    """Measure the best of some matrix products, operations a second by type; on a CPU also for each second of CPU."""
    kind, _, _ = device.partition(":")
    noise = np.random.default_rng(0).random((_SQUARE[kind], _SQUARE[kind]), "f4")
    if kind == "cpu":
        speeds = _products(noise, "float32")
        return {"float32": speeds[0], "float32 a second of CPU": speeds[1]}
    return {name: _products(noise, name)[0] for name in ("float32", "bfloat16")}


def _products(noise: np.ndarray, dtype: str) -> tuple[float, float]:
    matrix, speeds = keras.ops.cast(noise, dtype), []
    for _ in range(6):
        began, cpu = perf_counter(), process_time()
        float(keras.ops.matmul(matrix, matrix)[0, 0])  # waits for it
        speeds.append((perf_counter() - began, process_time() - cpu))
    operations, least = 2 * len(noise) ** 3, np.min(speeds[1:], axis=0)  # the first one may compile
    return operations / least[0], operations / least[1]


if __name__ == "__main__":
    main()
