"""Any bytes as a model server's answer, compiled or not: tensors, or a RecordError, in the memory they may ask for."""

import numpy as np
from google.protobuf.message import DecodeError

from music import wire
from music.errors import RecordError
from serving.backends.xla import signature_outputs


def _reply() -> bytes:
    reply = wire.PredictResponse()
    for name, array in {
        "rows": np.arange(12, dtype="i4").reshape(1, 3, 4),
        "state_h": np.ones((1, 5), "f4"),
        "card": np.array([b"{}"], object),
        "ok": np.array([True]),
    }.items():
        wire.to_tensor(array, reply.outputs[name])
    repeated = reply.outputs["repeated"]
    repeated.dtype = 1
    repeated.tensor_shape.dim.add(size=7)
    repeated.float_val.append(b"\0\0\x80\x3f")
    return reply.SerializeToString(deterministic=True)


SEEDS = [b"\0" + _reply(), b"\1" + bytes(range(128)), b"\1\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]


def _one_value(*shape: int, values: int = 1) -> bytes:
    """A reply of few bytes that asks for a tensor of this shape."""
    reply = wire.PredictResponse()
    tensor = reply.outputs["x"]
    tensor.dtype = 1
    tensor.float_val.extend([b"\0\0\x80\x3f"] * values)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return b"\0" + reply.SerializeToString()


def _rows(*shape: int) -> bytes:
    """A reply to a compiled `step` whose rows have this shape."""
    reply = wire.PredictResponse()
    wire.to_tensor(np.zeros(shape, "i4"), reply.outputs["rows"])
    return b"\0" + reply.SerializeToString()


REGRESSIONS = [_rows(), _rows(1), _rows(1, 0, 4), b"\0"]
REGRESSIONS += [_one_value(2**40), _one_value(2**40, 2**40), _one_value(*[1] * 70), _one_value(0, 2**62, 2**62)]
REGRESSIONS += [_one_value(0, 2**62, 2**62, values=0)]  # numpy measures what is empty by its other sizes


def one(data: bytes) -> None:
    how, data = data[:1], data[1:]
    try:
        if how == b"\1":
            assert wire.unpack(data).dtype == np.dtype("i8")
            return
        reply = wire.PredictResponse.FromString(data)
        for tensor in reply.outputs.values():
            array = wire.from_tensor(tensor)
            assert array.shape == tuple(dim.size for dim in tensor.tensor_shape.dim)
            if array.size < 2**20:  # one value may stand for gigabytes, which writing spells out
                assert wire.from_tensor(wire.to_tensor(array)).shape == array.shape
        outputs = signature_outputs("step", {name: wire.from_tensor(tensor) for name, tensor in reply.outputs.items()})
        assert outputs["row"].ndim >= 1 and "rows" not in outputs
    except (RecordError, DecodeError) as error:
        assert str(error)
