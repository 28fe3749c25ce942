"""A run's event files, read back by TensorBoard itself."""

import io

import pytest

from music import wire
from trainer.fit import tensorboard


@pytest.mark.filterwarnings("ignore")  # of what TensorBoard imports
def test_tensorboard_reads_what_an_epoch_leaves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = [
        {"epoch": n, "loss": 9.5 / n, "pitch": 2.5 / n,
         "val_loss": 9.0 / n, "val_pitch": 0.0, "notes": 1000 * n, "seconds": 2.5}
        for n in (1, 2, 3)
    ]  # fmt: skip
    for line in [*lines[:2], lines[1], lines[2]]:  # a run that was killed behind its second epoch's events
        tensorboard.write(str(tmp_path), line, rate=0.001)
    for kind, prefix in (("train", ""), ("validation", "val_")):
        read = EventAccumulator(str(tmp_path / "tensorboard" / kind))
        read.Reload()
        for tag in ("loss", "pitch"):
            scalars = [(event.step, event.value) for event in read.Scalars(tag)]
            assert scalars == [(line["epoch"], pytest.approx(line[prefix + tag])) for line in lines]
    assert set(read.Tags()["scalars"]) == {"loss", "pitch"}


def test_tensorflow_reads_the_same_bytes():
    from tensorflow.core.util import event_pb2

    content = io.BytesIO(tensorboard.encode(7, {"loss": 0.0, "pitch": 1.5}, 12.25))
    header, event = map(event_pb2.Event.FromString, wire.read_records(content))
    assert header.file_version == "brain.Event:2" and header.wall_time == event.wall_time == 12.25
    assert event.step == 7
    scalars = {value.tag: (value.HasField("simple_value"), value.simple_value) for value in event.summary.value}
    assert scalars == {"loss": (True, 0.0), "pitch": (True, 1.5)}
