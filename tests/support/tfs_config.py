"""TF Serving's configuration messages that tensorflow-serving-api lacks, built from a table of their fields.

Source: tensorflow_serving/config/monitoring_config.proto, servables/tensorflow/session_bundle_config.proto.
"""

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

INFRA = Path(__file__).parents[2] / "infra" / "cloud"

# {message: {field: (number, type)}}, "[]" marks repeated.
MESSAGES = {
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "BatchingParameters": {
        "max_batch_size": (1, "google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, "google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, "google.protobuf.Int64Value"),
        "num_batch_threads": (4, "google.protobuf.Int64Value"),
        "thread_pool_name": (5, "google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, "int64[]"),
        "pad_variable_length_inputs": (7, "bool"),
    },
}


def messages() -> dict:
    """Build the classes of MESSAGES, in a pool of their own."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            label = field.LABEL_REPEATED if kind.endswith("[]") else field.LABEL_OPTIONAL
            entry = message.field.add(name=key, number=number, label=label)
            base = kind.removesuffix("[]")
            if base in ("bool", "string", "int64"):
                entry.type = getattr(field, f"TYPE_{base.upper()}")
            else:
                entry.type, entry.type_name = field.TYPE_MESSAGE, f".{base}" if "." in base else f".serving.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}")) for name in MESSAGES}


def parsed(file: str, kind: str):
    """Parse one of infra's files as a message of this kind."""
    return text_format.Parse((INFRA / file).read_text(), messages()[kind]())
