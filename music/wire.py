"""Protobuf messages and TFRecord files ⇄ Python objects, without TensorFlow. Knows nothing of music.

Protobuf sends field numbers, never message names. So a table of fields, built into descriptors at run time, is enough
for tf.Example and `/tensorflow.serving.PredictionService/Predict`. Importing TensorFlow instead takes 2-7 s and 600 MB;
this takes 0.3 s and 52 MB. The official packages are the oracle in the tests.
Source: tensorflow/core/example/*.proto, tensorflow/core/framework/{tensor,summary}.proto,
tensorflow/core/util/event.proto, tensorflow_serving/apis/*.proto.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from music.errors import RecordError

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

# message: field: (number, type). "[]" marks repeated, "{}" a map from string, "|" the members of a oneof. "[packed]" is
# a repeated number, read as the bytes in which it is sent. TF Serving sends the 3,000 numbers of a state as
# `float_val`; reading them as a list would take longer than all the rest of a call.
_MESSAGES = {
    "BytesList": {"value": (1, "bytes[]")},
    "FloatList": {"value": (1, "float[]")},
    "Int64List": {"value": (1, "int64[]")},
    "Feature": {"bytes_list": (1, "BytesList|"), "float_list": (2, "FloatList|"), "int64_list": (3, "Int64List|")},
    "Features": {"feature": (1, "Feature{}")},
    "Example": {"features": (1, "Features")},
    # Reads the same bytes as Example, but leaves the numbers packed, for `unpack`.
    "PackedList": {"value": (1, "bytes[]")},
    "PackedFeature": {"bytes_list": (1, "BytesList|"), "int64_list": (3, "PackedList|")},
    "PackedFeatures": {"feature": (1, "PackedFeature{}")},
    "PackedExample": {"features": (1, "PackedFeatures")},
    # TensorBoard's event files
    "Event": {
        "wall_time": (1, "double"),
        "step": (2, "int64"),
        "file_version": (3, "string|"),
        "summary": (5, "Summary|"),
    },
    "Summary": {"value": (1, "SummaryValue[]")},
    "SummaryValue": {"tag": (1, "string"), "simple_value": (2, "float|")},
    "Dim": {"size": (1, "int64"), "name": (2, "string")},
    "TensorShape": {"dim": (2, "Dim[]"), "unknown_rank": (3, "bool")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "float[packed]"),
        "double_val": (6, "double[packed]"),
        "int_val": (7, "int32[]"),
        "string_val": (8, "bytes[]"),
        "int64_val": (10, "int64[]"),
        "bool_val": (11, "bool[]"),
    },
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value|"),
        "version_label": (4, "string|"),
        "signature_name": (3, "string"),
    },
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "Tensor{}"), "output_filter": (3, "string[]")},
    "PredictResponse": {"outputs": (1, "Tensor{}"), "model_spec": (2, "ModelSpec")},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "StatusProto": {"error_code": (1, "int32"), "error_message": (2, "string")},
    "ModelVersionStatus": {"version": (1, "int64"), "state": (2, "int32"), "status": (3, "StatusProto")},
    "GetModelStatusResponse": {"model_version_status": (1, "ModelVersionStatus[]")},
}
_SCALARS = {name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}") for name in
            ("bytes", "float", "double", "int32", "int64", "string", "bool")}  # fmt: skip
_PACKAGE = "cadenza.wire"


def _field(message, name: str, number: int, kind: str) -> None:
    """Add one field of the table to a DescriptorProto."""
    field = message.field.add(name=name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.endswith("[packed]"):
        kind = "bytes[]"  # one item, unless a sender splits it
    base = kind.rstrip("[]{}|")
    if kind.endswith("{}"):
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _field(entry, "key", 1, "string")
        _field(entry, "value", 2, base)
        base = f"{message.name}.{entry.name}"
    if kind.endswith(("[]", "{}")):
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="kind")
        field.oneof_index = 0
    if base in _SCALARS:
        field.type = _SCALARS[base]
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{base}"


def _build() -> dict:
    """Build the classes of all messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="cadenza/wire.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()
Example = _CLASSES["Example"]
PackedExample = _CLASSES["PackedExample"]
Event = _CLASSES["Event"]
Tensor = _CLASSES["Tensor"]
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
GetModelStatusRequest = _CLASSES["GetModelStatusRequest"]
GetModelStatusResponse = _CLASSES["GetModelStatusResponse"]

# DataType of tensorflow/core/framework/types.proto: numpy type, and the typed list that may carry it
_DTYPES: dict[int, tuple[np.dtype, str]] = {
    1: (np.dtype("f4"), "float_val"),
    2: (np.dtype("f8"), "double_val"),
    3: (np.dtype("i4"), "int_val"),
    9: (np.dtype("i8"), "int64_val"),
    10: (np.dtype("?"), "bool_val"),
}
_MOST_SIZES, _MOST_VALUES = 32, 2**28  # of a tensor; the largest known state has 2**26 values
_PACKED = {"float_val", "double_val"}
_STRING = 7
_ENUMS = {dtype: enum for enum, (dtype, _) in _DTYPES.items()}


def to_tensor(array: np.ndarray, tensor=None):
    """Write a numpy array as a TensorProto; bytes objects make a string tensor. Raises RecordError for other types.

    Args:
        tensor: an empty TensorProto to fill, such as one inside a request; None: a new one.
    """
    array = np.asarray(array)
    tensor = Tensor() if tensor is None else tensor
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind in "SO":
        tensor.dtype = _STRING
        tensor.string_val.extend(array.ravel().tolist())
    elif array.dtype in _ENUMS:
        tensor.dtype = _ENUMS[array.dtype]
        tensor.tensor_content = np.ascontiguousarray(array).tobytes()
    else:
        raise RecordError(f"a tensor of {array.dtype}: expected float, double, int32, int64, bool or bytes")
    return tensor


def from_tensor(tensor) -> np.ndarray:
    """Read a TensorProto as a numpy array: its content, a typed list, or one value repeated.

    Raises:
        RecordError: its type is not in our table, or its values do not fill its shape.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if min(shape, default=0) < 0:
        raise RecordError(f"a tensor of shape {shape}: expected no size below 0")
    count = math.prod(shape)
    least = math.prod(size or 1 for size in shape)  # numpy measures an empty array by its other sizes
    if len(shape) > _MOST_SIZES or least > _MOST_VALUES:  # as one value may repeat, a few bytes could claim all memory
        raise RecordError(
            f"a tensor of shape {str(shape)[:50]}: expected at most {_MOST_SIZES} sizes and {_MOST_VALUES:,} values"
        )
    if tensor.dtype == _STRING:
        values = np.array([None, *tensor.string_val], object)[1:]
    elif tensor.dtype not in _DTYPES:
        raise RecordError(f"a tensor of DataType {tensor.dtype}: expected one of {sorted([*_DTYPES, _STRING])}")
    else:
        dtype, field = _DTYPES[tensor.dtype]
        content = tensor.tensor_content
        if content and len(content) != count * dtype.itemsize:
            raise RecordError(f"a tensor of shape {shape}: expected {count * dtype.itemsize} bytes, got {len(content)}")
        if not content and field in _PACKED:
            content = b"".join(getattr(tensor, field))
            if len(content) % dtype.itemsize:
                size = dtype.itemsize
                raise RecordError(f"a tensor of {dtype}: expected a multiple of {size} bytes, got {len(content)}")
        packed = content or field in _PACKED
        values = np.frombuffer(content, dtype) if packed else np.array(getattr(tensor, field), dtype)
    if len(values) == 1 and count:  # protobuf's short form: the last value repeats; a view needs no memory
        return np.broadcast_to(values.reshape(()), shape)
    if 0 < len(values) < count:
        values = np.append(values, np.repeat(values[-1:], count - len(values)))
    if len(values) != count:
        raise RecordError(f"a tensor of shape {shape}: expected {count} values, got {len(values)}")
    return values.reshape(shape)


def unpack(packed: bytes) -> np.ndarray:
    """Read packed varints as int64 [n], 30 times as fast as protobuf's own list. Raises RecordError if cut."""
    data = np.frombuffer(packed, "u1")
    if not len(data) or data.max() < 128:
        return data.astype("i8")
    if data[-1] >= 128:
        raise RecordError(f"packed numbers are cut: the last of {len(data)} bytes is not a number's last")
    ends = np.flatnonzero(data < 128)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 10:
        raise RecordError(f"packed numbers: expected 10 bytes at most for one, got {lengths.max()}")
    firsts, shortest = ends - lengths + 1, lengths.min()
    numbers = np.zeros(len(ends), "i8")
    for k in range(lengths.max()):  # seven bits a byte, the lowest first; the tenth byte's lowest bit is the sign
        if k < shortest:
            numbers |= (data[firsts + k] & np.int64(127)) << 7 * k
        else:
            longer = np.flatnonzero(lengths > k)
            numbers[longer] |= (data[firsts[longer] + k] & np.int64(127)) << 7 * k
    return numbers


def _masked_crc(data: bytes) -> int:
    """Compute the crc32c as TFRecord files store it: rotated, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(record: bytes) -> bytes:
    """Frame one record as in a TFRecord file: length, checksum, data, checksum."""
    head = struct.pack("<Q", len(record))
    return head + struct.pack("<I", _masked_crc(head)) + record + struct.pack("<I", _masked_crc(record))


def write_records(records: Iterable[bytes]) -> bytes:
    """Write records as the bytes of a TFRecord file."""
    return b"".join(map(frame, records))


def read_records(file: BinaryIO, name: str = "TFRecord file") -> Iterator[bytes]:
    """Read the records of an open TFRecord file, one at a time.

    Args:
        name: of the file, for the errors.

    Raises:
        RecordError: the file is cut, or a checksum does not match.
    """
    number = 0
    while head := file.read(12):
        if len(head) < 12 or struct.unpack("<I", head[8:])[0] != _masked_crc(head[:8]):
            raise RecordError(f"{name}: record {number} has a damaged length")
        (size,) = struct.unpack("<Q", head[:8])
        body = file.read(size + 4)
        if len(body) < size + 4:
            raise RecordError(f"{name}: record {number} is cut: expected {size + 4} bytes, got {len(body)}")
        record = body[:size]
        if struct.unpack("<I", body[size:])[0] != _masked_crc(record):
            raise RecordError(f"{name}: record {number} has a wrong checksum")
        yield record
        number += 1
