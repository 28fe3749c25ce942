"""Read and write models.config: which versions of a model TF Serving keeps, and what their labels are.

    python -m infra.cloud.versions gs://BUCKET/models.config                     what it says
    python -m infra.cloud.versions gs://BUCKET/models.config --load 2            version 2 beside those that are there
    python -m infra.cloud.versions gs://BUCKET/models.config --label canary=2
    python -m infra.cloud.versions gs://BUCKET/models.config --label stable=2    forward; --label stable=1 is back
    python -m infra.cloud.versions gs://BUCKET/models.config --unload 1

TF Serving reads the file again while it runs. If a change moves a label to a version that is not loaded yet, TF Serving
refuses the whole change, and says so only in its log. So one call does one step, and refuses a step that TF Serving
would refuse. Knows nothing of running servers: wait until a version has loaded before you give it a label.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from music import storage
from music.command_line import fail
from music.errors import MusicError
from music.model_folder import SERVED

HEADER = """\
# Which versions TF Serving keeps, and what they are called. Written by `python -m infra.cloud.versions`, and read again
# while the server runs: infra/README.md, "Versions". /models is ../../models in compose.yaml, and a bucket in
# cloudrun.yaml.
"""


class VersionsError(MusicError):
    """The file is not one that we write, or TF Serving would refuse the step."""


def read(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Read the file as TF Serving's own message: one model, with the policy `specific`.

    Raises:
        VersionsError: there is no such file, or it says something else.
    """
    try:
        text = storage.read(path).decode()
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except FileNotFoundError as error:
        raise VersionsError(f"{path}: no such file; put infra/cloud/models.config there first") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise VersionsError(f"{path}: expected a ModelServerConfig as text, got: {error}") from error
    models = config.model_config_list.config
    if len(models) != 1 or not models[0].model_version_policy.specific.versions:
        raise VersionsError(f"{path}: expected one model with `specific` versions, got {len(models)} models")
    return config


def write(path: str, config: model_server_config_pb2.ModelServerConfig, expected: int | None = None) -> None:
    """Write the file atomically, as TF Serving may read it at any moment. Raises Conflict as `storage.write` does."""
    storage.write(path, (HEADER + text_format.MessageToString(config)).encode(), expected)


def changed(
    config: model_server_config_pb2.ModelServerConfig,
    load: Sequence[int] = (),
    unload: Sequence[int] = (),
    labels: Mapping[str, int] | None = None,
) -> model_server_config_pb2.ModelServerConfig:
    """Change a copy of the configuration by one step.

    Raises:
        VersionsError: TF Serving would refuse the step, or a client would lose its version.
    """
    copy = model_server_config_pb2.ModelServerConfig()
    copy.CopyFrom(config)
    model = copy.model_config_list.config[0]
    before = set(model.model_version_policy.specific.versions)
    after = (before | set(load)) - set(unload)
    for label, version in (labels or {}).items():
        if version not in before:
            raise VersionsError(f"label {label}={version}: loaded are {_listed(before)}; load it first")
        model.version_labels[label] = version
    for label, version in sorted(model.version_labels.items()):
        if version not in after:
            raise VersionsError(f"version {version} is called {label}: give the label to another one before unloading")
    model.model_version_policy.specific.versions[:] = sorted(after)
    return copy


def missing(models: str, config: model_server_config_pb2.ModelServerConfig) -> list[str]:
    """List the folders below `models` of versions that the file names and that have no complete SavedModel."""
    model = config.model_config_list.config[0]
    folders = [
        storage.join(models, model.base_path.rsplit("/", 1)[-1], str(version))
        for version in model.model_version_policy.specific.versions
    ]
    return [folder for folder in folders if not storage.exists(storage.join(folder, SERVED))]


def summary(config: model_server_config_pb2.ModelServerConfig) -> str:
    """Describe the configuration in a line: performance: versions 1, 2; canary → 2, stable → 1."""
    model = config.model_config_list.config[0]
    labels = ", ".join(f"{label} → {version}" for label, version in sorted(model.version_labels.items()))
    return f"{model.name}: versions {_listed(model.model_version_policy.specific.versions)}; {labels or 'no labels'}"


def _listed(versions) -> str:
    return ", ".join(map(str, sorted(versions)))


def _label(text: str) -> tuple[str, int]:
    name, equals, version = text.partition("=")
    if not (name and equals and version.isdigit()):
        raise argparse.ArgumentTypeError(f"expected NAME=VERSION such as stable=2, got {text!r}")
    return name, int(version)


def run(argv: Sequence[str] | None = None) -> int:
    """Show or change the file; return 0, or 1 after an error in one line."""
    usage, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m infra.cloud.versions", description=usage)
    parser.add_argument("config", help="path of models.config, in a folder or gs://BUCKET")
    parser.add_argument("--models", metavar="DIR", help="folder of the models; default: the file's own folder")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--load", type=int, nargs="+", default=[], metavar="N", help="numbers of versions to load")
    step.add_argument("--unload", type=int, nargs="+", default=[], metavar="N", help="numbers of versions to unload")
    step.add_argument(
        "--label", type=_label, nargs="+", default=[], metavar="NAME=N", help="labels to set, such as stable=2"
    )
    args = parser.parse_args(argv)
    try:
        seen = storage.version(args.config)  # two people may change it at the same time
        config = changed(read(args.config), args.load, args.unload, dict(args.label))
        folder = args.models or args.config.rpartition("/")[0] or "."
        if args.load or args.unload or args.label:
            if absent := missing(folder, config):
                raise VersionsError(f"{', '.join(absent)}: no {SERVED}; publish it first (python -m trainer export)")
            write(args.config, config, seen)
        print(summary(config))
    except (MusicError, OSError) as error:
        return fail("python -m infra.cloud.versions", error, 1)
    return 0


if __name__ == "__main__":
    sys.exit(run())
