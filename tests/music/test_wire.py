"""Our messages and TFRecords against the official ones, both ways. TensorFlow is the oracle, imported late."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import wire
from music.errors import RecordError
from tests.support.strategies import law

ARRAYS = [
    np.zeros(shape, dtype) + np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for dtype in ("f4", "f8", "i4", "i8", "?")
    for shape in ((), (1,), (5,), (2, 3), (1, 2, 3), (0,), (2, 0, 3))
] + [
    np.array(b"card", object),
    np.array([b"one", b"", b"three\0"], object),
    np.array([[b"a"], [b"\xff"]], object),
    np.zeros((0, 2), object),
]


def tensor_ids(array):
    return f"{array.dtype}{list(array.shape)}"


def assert_same(actual, reference):
    assert actual.shape == reference.shape
    assert actual.dtype == reference.dtype
    assert actual.tolist() == reference.tolist()


def official_tensor(array):
    import tensorflow as tf

    return tf.make_tensor_proto(array, tf.string if array.dtype == object else None)


# --- tensors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ARRAYS, ids=tensor_ids)
def test_tensorflow_reads_our_tensors(array):
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    read = TensorProto.FromString(wire.to_tensor(array).SerializeToString())
    assert_same(tf.make_ndarray(read), array)


@pytest.mark.parametrize("array", ARRAYS, ids=tensor_ids)
def test_we_read_tensorflows_tensors(array):
    data = official_tensor(array).SerializeToString()
    assert_same(wire.from_tensor(wire.Tensor.FromString(data)), array)


LISTS = {"f4": "float_val", "f8": "double_val", "i4": "int_val", "i8": "int64_val", "?": "bool_val", "O": "string_val"}


@pytest.mark.parametrize(("dtype", "field"), LISTS.items())
def test_we_read_typed_lists_and_one_value_that_repeats(dtype, field):
    """What a server in C++ sends, rather than `tensor_content`."""
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    values = (
        [b"x", b"y", b"z", b"z", b"z", b"z"] if dtype == "O" else np.array([0, 1, 2, 2, 2, 2]).astype(dtype).tolist()
    )
    for sent in (values, values[:3], values[:1]):
        kind = tf.string if dtype == "O" else tf.as_dtype(np.dtype(dtype))
        tensor = TensorProto(dtype=kind.as_datatype_enum)
        for size in (2, 3):
            tensor.tensor_shape.dim.add(size=size)
        getattr(tensor, field).extend(sent)
        read = wire.from_tensor(wire.Tensor.FromString(tensor.SerializeToString()))
        assert_same(read, tf.make_ndarray(tensor))
        assert read.ravel().tolist() == sent + sent[-1:] * (6 - len(sent))


@law
@given(
    st.lists(st.floats(width=32, allow_nan=False)), st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.binary())
)
def test_any_numbers_and_bytes_come_back(floats, integers, strings):
    for array in (np.array(floats, "f4"), np.array(integers, "i8"), np.array([None, *strings], object)[1:]):
        data = wire.to_tensor(array).SerializeToString()
        assert_same(wire.from_tensor(wire.Tensor.FromString(data)), array)


def test_a_list_that_was_cut_into_runs_is_read_whole():
    from tensorflow.core.framework import tensor_pb2

    parts = [_tensor((4,), dtype=1, float_val=[np.array(part, "f4").tobytes()]) for part in ([1, 2, 3], [4])]
    joined = wire.Tensor(dtype=1, tensor_shape=parts[0].tensor_shape)
    joined.float_val.extend(parts[0].float_val[:] + parts[1].float_val[:])
    assert wire.from_tensor(joined).tolist() == [1, 2, 3, 4]
    assert list(tensor_pb2.TensorProto.FromString(joined.SerializeToString()).float_val) == [1, 2, 3, 4]


def test_a_list_that_is_no_number_of_floats_is_an_error():
    with pytest.raises(RecordError, match="expected a multiple of 4 bytes, got 9"):
        wire.from_tensor(_tensor((2,), dtype=1, float_val=[b"123456789"]))


def test_a_tensor_that_we_do_not_speak_is_an_error():
    for array in (np.zeros(2, "f2"), np.zeros(2, "c8"), np.array(["text"])):
        with pytest.raises(RecordError, match="expected float, double, int32, int64, bool or bytes"):
            wire.to_tensor(array)
    with pytest.raises(RecordError, match="DataType 19"):  # half
        wire.from_tensor(wire.Tensor(dtype=19))


def _tensor(shape, **fields):
    tensor = wire.Tensor(**fields)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@pytest.mark.parametrize(
    "tensor",
    [
        _tensor((2,), dtype=1),
        _tensor((2,), dtype=1, float_val=[np.ones(3, "f4").tobytes()]),
        _tensor((2,), dtype=1, tensor_content=b"1234"),
        _tensor((2,), dtype=1, tensor_content=b"123456789"),
        _tensor((0,), dtype=3, int_val=[1]),
        _tensor((-1,), dtype=3),
        _tensor((-1, -1), dtype=3, int_val=[1]),
        _tensor((2**32, 2**32), dtype=3),
    ],
    ids=lambda tensor: str([dim.size for dim in tensor.tensor_shape.dim]),
)
def test_values_that_do_not_fill_the_shape_are_an_error(tensor):
    with pytest.raises(RecordError, match="a tensor of shape"):
        wire.from_tensor(tensor)


# --- messages ----------------------------------------------------------------------------------------------------


def official_messages():
    """Find the official descriptor of every message of the table: {our name: descriptor}."""
    from google.protobuf.wrappers_pb2 import Int64Value
    from tensorflow.core.example import example_pb2, feature_pb2
    from tensorflow.core.framework.summary_pb2 import Summary
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
    from tensorflow.core.util.event_pb2 import Event
    from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2

    classes = {
        **{name: getattr(feature_pb2, name) for name in ("BytesList", "FloatList", "Int64List", "Feature", "Features")},
        "Example": example_pb2.Example,
        "PackedList": feature_pb2.Int64List,
        "PackedFeature": feature_pb2.Feature,
        "PackedFeatures": feature_pb2.Features,
        "PackedExample": example_pb2.Example,
        "Event": Event,
        "Summary": Summary,
        "SummaryValue": Summary.Value,
        "Dim": TensorShapeProto.Dim,
        "TensorShape": TensorShapeProto,
        "Tensor": TensorProto,
        "Int64Value": Int64Value,
        "ModelSpec": model_pb2.ModelSpec,
        "PredictRequest": predict_pb2.PredictRequest,
        "PredictResponse": predict_pb2.PredictResponse,
        "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
        "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
        "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    }
    descriptors = {name: message.DESCRIPTOR for name, message in classes.items()}
    return descriptors | {"StatusProto": descriptors["ModelVersionStatus"].fields_by_name["status"].message_type}


def test_every_field_of_the_table_has_its_official_number_name_and_type():
    official = official_messages()
    actual = wire.Example.DESCRIPTOR.file.message_types_by_name
    assert set(actual) == set(official)
    for name, message in actual.items():
        for field in message.fields:
            reference = official[name].fields_by_number[field.number]
            if field.name in ("float_val", "double_val"):  # read as the run of bytes that a packed list is
                assert reference.is_packed and reference.type in (reference.TYPE_FLOAT, reference.TYPE_DOUBLE)
                assert (field.name, field.is_repeated, field.type) == (reference.name, True, field.TYPE_BYTES)
                continue
            assert (name, field.name, field.is_repeated) == (name, reference.name, reference.is_repeated)
            if name == "PackedList":  # packed numbers travel as bytes do
                assert field.type == field.TYPE_BYTES and reference.type == reference.TYPE_INT64 and reference.is_packed
                continue
            # an enum travels as an int32 does
            assert field.type == (field.TYPE_INT32 if reference.type == reference.TYPE_ENUM else reference.type), (
                name,
                field.name,
            )


def test_the_method_paths_are_those_of_the_official_services():
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

    services = [module.DESCRIPTOR for module in (prediction_service_pb2, model_service_pb2)]
    paths = {
        f"/{service.full_name}/{method.name}"
        for file in services
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert {wire.PREDICT, wire.GET_MODEL_STATUS} <= paths


def test_tensorflow_serving_reads_our_request():
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = wire.PredictRequest(output_filter=["rows"])
    request.model_spec.name = "performance"
    request.model_spec.version.value = 3
    request.model_spec.signature_name = "step"
    request.inputs["noise"].CopyFrom(wire.to_tensor(np.full((1, 4), 0.5, "f4")))
    read = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert (read.model_spec.name, read.model_spec.version.value, read.model_spec.signature_name) == (
        "performance",
        3,
        "step",
    )
    assert list(read.output_filter) == ["rows"]
    assert tf.make_ndarray(read.inputs["noise"]).tolist() == [[0.5] * 4]
    back = wire.PredictRequest.FromString(read.SerializeToString())
    assert back.SerializeToString(deterministic=True) == request.SerializeToString(deterministic=True)


def test_we_read_tensorflow_servings_reply():
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    reply = predict_pb2.PredictResponse()
    reply.model_spec.version.value = 1_700_000_000
    reply.outputs["row"].CopyFrom(tf.make_tensor_proto([[3, 42, 5, 9]], tf.int32))
    read = wire.PredictResponse.FromString(reply.SerializeToString())
    assert read.model_spec.version.value == 1_700_000_000
    assert wire.from_tensor(read.outputs["row"]).tolist() == [[3, 42, 5, 9]]


def test_we_read_tensorflow_servings_status():
    from tensorflow_serving.apis import get_model_status_pb2

    reply = get_model_status_pb2.GetModelStatusResponse()
    reply.model_version_status.add(version=2, state=30)
    reply.model_version_status.add(version=1, state=50).status.error_message = "unloaded"
    read = wire.GetModelStatusResponse.FromString(reply.SerializeToString())
    assert [(s.version, s.state, s.status.error_message) for s in read.model_version_status] == [
        (2, 30, ""),
        (1, 50, "unloaded"),
    ]


@law
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.lists(st.binary(max_size=9)) | st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.floats(width=32)),
        max_size=4,
    )
)
def test_examples_are_the_same_bytes_as_tensorflows(features):
    import tensorflow as tf

    examples = wire.Example(), tf.train.Example()
    for example in examples:
        for name, values in features.items():
            kind = "bytes_list" if values and isinstance(values[0], bytes) else "int64_list"
            kind = "float_list" if values and isinstance(values[0], float) else kind
            getattr(example.features.feature[name], kind).value.extend(values)
            getattr(example.features.feature[name], kind).SetInParent()
    actual, reference = (example.SerializeToString(deterministic=True) for example in examples)
    assert actual == reference
    assert wire.Example.FromString(reference).SerializeToString(deterministic=True) == actual


@law
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300), max_size=40))
def test_packed_numbers_are_those_that_protobuf_reads(values):
    example = wire.Example()
    example.features.feature["n"].int64_list.value.extend(values)
    [packed] = wire.PackedExample.FromString(example.SerializeToString()).features.feature["n"].int64_list.value or [
        b""
    ]
    assert wire.unpack(packed).tolist() == values
    assert wire.unpack(packed).dtype == np.int64


def test_packed_numbers_that_are_cut_are_an_error():
    with pytest.raises(RecordError, match="packed numbers are cut: the last of 3 bytes"):
        wire.unpack(b"\x01\xff\x80")


# --- TFRecords ---------------------------------------------------------------------------------------------------

RECORDS = [b"first", b"", b"a longer one " * 20]
FILE = wire.write_records(RECORDS)
BORDERS = np.cumsum([0, *(len(record) + 16 for record in RECORDS)]).tolist()


def read(data):
    return list(wire.read_records(io.BytesIO(data)))


def test_tensorflow_reads_our_records(tmp_path):
    import tensorflow as tf

    (tmp_path / "ours").write_bytes(FILE)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(tmp_path / "ours"))] == RECORDS


def test_we_read_tensorflows_records_and_write_the_same_bytes(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    data = (tmp_path / "theirs").read_bytes()
    assert read(data) == RECORDS
    assert data == FILE


@law
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_records_come_back(records):
    assert read(wire.write_records(records)) == records


def test_a_file_that_is_cut_is_an_error():
    """Anywhere but between two records: that cut only the count in `dataset.json` can tell."""
    for length in range(len(FILE)):
        if length in BORDERS:
            assert read(FILE[:length]) == RECORDS[: BORDERS.index(length)]
        else:
            with pytest.raises(RecordError, match="TFRecord file: record"):
                read(FILE[:length])


@law
@given(st.integers(0, len(FILE) - 1), st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_an_error(position, bit):
    damaged = bytearray(FILE)
    damaged[position] ^= 1 << bit
    with pytest.raises(RecordError):
        read(bytes(damaged))


def test_the_error_names_the_file_and_the_record():
    damaged = FILE[: BORDERS[1] + 12] + struct.pack("<I", 0) + FILE[BORDERS[1] + 16 :]
    with pytest.raises(RecordError, match="train-00000: record 1 has a wrong checksum"):
        list(wire.read_records(io.BytesIO(damaged), "train-00000"))
