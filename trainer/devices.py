"""The GPUs of this machine → one training step on all of them, each with its part of every batch.

The step equals that of one device with the whole batch. The loss is a mean over notes, and parts differ in notes. So
each part's loss is divided by the notes of the whole batch, and gradients are summed before they are clipped. On JAX
XLA does this with sharded arrays; on TensorFlow each replica sees its own part, and `total` sums over the replicas.
Knows nothing of models.
"""

import contextlib
from collections.abc import Callable

import keras
import numpy as np

from music.errors import SettingError


def choose(wanted: str | None, batch: int) -> list[str]:
    """Choose the devices to train on and return their names, such as gpu:0.

    Args:
        wanted: a number of devices, or "all"; None: all GPUs, or one CPU where there is no GPU.
        batch: windows a batch.

    Raises:
        SettingError: there are fewer devices, or the batch cannot be divided into equal parts.
    """
    devices = keras.distribution.list_devices()
    if wanted is None:
        count = len(devices) if devices[0].startswith("gpu") else 1
    else:
        count = len(devices) if wanted == "all" else int(wanted)
    if count > len(devices):
        raise SettingError(f"--devices {count}: expected at most {len(devices)}, as there are {', '.join(devices)}")
    if batch % count:
        raise SettingError(f"training.batch={batch}: expected a multiple of --devices {count}")
    return devices[:count]


def precision(wanted: str, names: list[str]) -> tuple[str, str]:
    """Choose the type of matrix products in training; return it, and a remark if it is slow on these devices, else "".

    Args:
        wanted: "float32", "bfloat16" or "auto". "auto" is bfloat16 where that is faster: on TensorFlow and a CPU with
            matrix units (AMX), and on an NVIDIA GPU of the Ampere generation or later.
        names: of the devices.
    """
    if wanted == "float32":
        return wanted, ""
    backend = keras.backend.backend()
    if names[0].startswith("gpu"):
        fast, why = _compute_capability(backend) >= (8, 0), "this GPU has no units for bfloat16"
    elif backend == "tensorflow":
        fast, why = "amx_bf16" in cpu_flags(), "this CPU has no matrix units (amx_bf16) for bfloat16"
    else:
        fast, why = False, f"on a CPU {backend} has no fast products in bfloat16"
    if wanted == "auto":
        return ("bfloat16" if fast else "float32"), ""
    return wanted, "" if fast else f"{why}, so float32 is faster"


def cpu_flags(path: str = "/proc/cpuinfo") -> set[str]:
    """Read what this CPU can do, in the names of Linux; empty where the file cannot be read."""
    try:
        with open(path) as file:
            return next((set(line.split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()


def _compute_capability(backend: str) -> tuple[int, int]:
    """Return the first GPU's compute capability, NVIDIA's number for its generation: (major, minor)."""
    if backend == "jax":
        import jax

        major, _, minor = str(getattr(jax.devices()[0], "compute_capability", "0.0")).partition(".")
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
    import tensorflow as tf

    gpu = tf.config.list_physical_devices("GPU")[0]
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))


def spread(names: list[str]) -> Callable[[], contextlib.AbstractContextManager]:
    """Return a function whose context managers place a model on these devices.

    Build the model and its optimiser, and train them, inside such contexts. Take all contexts from one call of
    `spread`: TensorFlow's replicas belong to the strategy that it makes.
    """
    if len(names) == 1:
        return contextlib.nullcontext
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=names).scope
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([name.upper() for name in names]).scope


def pad_to_multiple(rows: np.ndarray, count: int) -> np.ndarray:
    """Append empty windows, which count nothing, up to a multiple of `count`: (N, T, F) → (N', T, F)."""
    return np.pad(rows, ((0, -len(rows) % count), (0, 0), (0, 0)))


def feed(batches: keras.utils.PyDataset, count: int):
    """Convert endless batches to the form that `count` devices need.

    With TensorFlow's replicas, Keras looks at the first batch before it begins. A PyDataset would lose that batch and
    all that were fetched ahead, so a batch would no longer follow from the step's number. A tf.data.Dataset starts
    again at its first batch.
    """
    if count == 1 or keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    shape = batches[0][0].shape

    def batch(number):
        return (tf.ensure_shape(tf.numpy_function(lambda i: batches[int(i)][0], [number], tf.int32), shape),)

    numbers = tf.data.Dataset.counter()
    return numbers.map(batch, num_parallel_calls=batches.workers).prefetch(batches.max_queue_size)


def total(value):
    """Sum a number over the devices, each of which has it for its own part of a batch."""
    here = replica()
    return value if here is None else here.all_reduce("SUM", value)


def vary_dropout_seeds(model: keras.Model, states: list[keras.Variable]) -> None:
    """Move the dropout seeds of each replica, so that each one draws its own masks.

    Args:
        states: the states of the model's seed generators. Those of the first replica do not change: a checkpoint
            holds them.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return

    import tensorflow as tf

    def move():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state in states:
            state.assign(state + keras.ops.cast([7919 * number, 0], state.dtype))

    tf.function(lambda: strategy.run(move))()


def replica():
    """Return TensorFlow's context inside one of several replicas; None elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context
