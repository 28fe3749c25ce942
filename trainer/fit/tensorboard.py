"""An epoch's line of history → event files for TensorBoard, `tensorboard --logdir RUN/tensorboard`.

One small file an epoch, written at once like all files of a run: so a run that goes on writes no event twice, and a
bucket can hold the files. `train` and `validation` are two curves in one picture. Works without TensorFlow, for JAX.
"""

import time

from music import storage, wire

FOLDER = "tensorboard"


def write(run: str, line: dict, rate: float) -> None:
    """Write the events of one epoch: each column's nats and their sum; notes a second and the learning rate."""
    measures = {name for name in line if f"val_{name}" in line}
    speed = {"learning_rate": rate, "notes": line["notes"], "seconds": line["seconds"]}
    kinds = {
        "train": {name: line[name] for name in measures} | speed,
        "validation": {name: line[f"val_{name}"] for name in measures},
    }
    for kind, values in kinds.items():
        name = f"events.out.tfevents.{line['epoch']:010d}.cadenza"  # read in the order of their names
        storage.write(storage.join(run, FOLDER, kind, name), encode(line["epoch"], values, time.time()))


def encode(step: int, values: dict[str, float], at: float) -> bytes:
    """Encode one event file: a header, and one event with these scalars at a step and a time in seconds."""
    header = wire.Event(wall_time=at, file_version="brain.Event:2")
    event = wire.Event(wall_time=at, step=step)
    for tag, value in sorted(values.items()):
        event.summary.value.add(tag=tag, simple_value=value)
    return wire.write_records(message.SerializeToString() for message in (header, event))
