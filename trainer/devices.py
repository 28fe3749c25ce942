"""The GPUs of this machine → one training step on all of them, each with its part of every batch.

The step is the one that a single device would make of the whole batch. Its loss is a mean over notes, and the parts
hold different numbers of them: so a part's loss is divided by the notes of the whole batch, and gradients are summed
before they are clipped. On JAX XLA does all that with sharded arrays; on TensorFlow each device has a replica that sees
its own part alone, and what it must know of the others goes through `total`. Knows nothing of models.
"""

import contextlib
from collections.abc import Callable

import keras
import numpy as np

from music.errors import SettingError


def choose(asked: str | None, batch: int) -> list[str]:
    """Names of the devices to train on, such as gpu:0: so many, "all", or by default all GPUs and of CPUs one.

    Raises SettingError where there are not so many, or a batch has no equal parts for them.
    """
    found = keras.distribution.list_devices()
    if asked is None:
        count = len(found) if found[0].startswith("gpu") else 1
    else:
        count = len(found) if asked == "all" else int(asked)
    if count > len(found):
        raise SettingError(f"--devices {count}: expected at most {len(found)}, as there are {', '.join(found)}")
    if batch % count:
        raise SettingError(f"training.batch={batch}: expected a multiple of --devices {count}")
    return found[:count]


def precision(asked: str, names: list[str]) -> tuple[str, str]:
    """The type of matrix products in training, float32 or bfloat16, and a remark where it is a slow one, else "".

    "auto" is bfloat16 where that is faster: on TensorFlow and a CPU with matrix units (AMX), and on a GPU of NVIDIA's
    Ampere generation or later.
    """
    backend = keras.backend.backend()
    if names[0].startswith("gpu"):
        fast, why = _compute_capability(backend) >= (8, 0), "this GPU has no units for bfloat16"
    elif backend == "tensorflow":
        fast, why = "amx_bf16" in cpu_flags(), "this CPU has no matrix units (amx_bf16) for bfloat16"
    else:
        fast, why = False, f"on a CPU {backend} has no fast products in bfloat16"
    if asked == "auto":
        return ("bfloat16" if fast else "float32"), ""
    return asked, "" if asked == "float32" or fast else f"{why}, so float32 is faster"


def cpu_flags(path: str = "/proc/cpuinfo") -> set[str]:
    """What this CPU can do, as Linux names it; empty where that cannot be read."""
    try:
        with open(path) as file:
            return next((set(line.split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()


def _compute_capability(backend: str) -> tuple[int, int]:
    """Of the first GPU, as NVIDIA counts them."""
    if backend == "jax":
        import jax

        major, _, minor = str(getattr(jax.devices()[0], "compute_capability", "0.0")).partition(".")
        return int(major), int(minor)
    import tensorflow as tf

    gpu = tf.config.list_physical_devices("GPU")[0]
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))


def spread(names: list[str]) -> Callable[[], contextlib.AbstractContextManager]:
    """What opens the blocks in which a model and its optimiser are made for these devices, and trained on them: always
    of one call of this function, as TensorFlow's replicas belong to its strategy."""
    if len(names) == 1:
        return contextlib.nullcontext
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=names).scope
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([name.upper() for name in names]).scope


def even(rows: np.ndarray, count: int) -> np.ndarray:
    """Windows (N, T, F), and behind them empty ones, which count nothing, up to a multiple of `count`."""
    return np.pad(rows, ((0, -len(rows) % count), (0, 0), (0, 0)))


def feed(batches: keras.utils.PyDataset, count: int):
    """Endless batches, in the form that so many devices are to be fed with.

    For TensorFlow's replicas Keras looks at the first batch before it begins. Of a PyDataset that one, and all that was
    fetched ahead, would be lost, and batches would no longer follow from the step's number; a tf.data.Dataset begins
    anew.
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
    """The sum over the devices of a number of each one's part of a batch."""
    replica = _replica()
    return value if replica is None else replica.all_reduce("SUM", value)


def part_chances(model: keras.Model, states: list[keras.Variable]) -> None:
    """Let the dropouts of each replica draw their own masks; the first one's chance is what a checkpoint keeps."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return

    import tensorflow as tf

    def move():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state in states:
            state.assign(state + keras.ops.cast([7919 * number, 0], state.dtype))

    tf.function(lambda: strategy.run(move))()


class AdamW(keras.optimizers.AdamW):
    """Keras' own, with TensorFlow's gradients made whole first.

    An embedding's gradient comes there as rows, several for an entry that is looked up several times, and Keras takes
    the norm and the squares of these rows instead of their sum's. And of several devices each has a part of the
    gradient, which Keras would clip before it sums them.
    """

    def __init__(self, devices: int, clip: float, **settings):
        super().__init__(**settings, global_clipnorm=clip / (devices if keras.backend.backend() == "tensorflow" else 1))

    def finalize_variable_values(self, var_list):
        """Leave the weights as they are when a fit ends: an average that is kept is no step of the training."""

    def apply_gradients(self, grads_and_vars):
        import tensorflow as tf  # on JAX Keras goes another way

        grads, variables = zip(*grads_and_vars, strict=True)
        whole = [tf.convert_to_tensor(grad) for grad in grads]
        replica = _replica()
        if replica is not None:  # Keras sums once more
            whole = [grad / replica.num_replicas_in_sync for grad in replica.all_reduce("SUM", whole)]
        return super().apply_gradients(zip(whole, variables, strict=True))


def _replica():
    """TensorFlow's context in one of several replicas; else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context
