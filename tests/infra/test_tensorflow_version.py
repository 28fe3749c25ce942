"""One version of TensorFlow, in one place: what exports a model, what speaks to its server, and the server itself.

The place is TENSORFLOW in setup.py. The tag of the official image is the one that stands in compose.yaml and
cloudrun.yaml; a SavedModel is written and read by the same release, and the messages are that release's.
"""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def in_setup() -> str:
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TENSORFLOW":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no TENSORFLOW")


def locked(text: str) -> dict[str, str]:
    """Read a lock file: {package: version} of all packages whose name begins with tensorflow."""
    return dict(re.findall(r"^(tensorflow[a-z-]*)(?:\[[a-z,-]+\])?==(\S+)", text, re.M))


def images(text: str) -> list[str]:
    """List the tags with which a file names the official image."""
    return re.findall(r"tensorflow/serving:([\w.-]+)", text)


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_lock_file_has_it(path):
    assert set(locked(path.read_text()).values()) <= {in_setup()}


def test_the_lock_files_that_need_it_have_it():
    needed = {
        "dev": {"tensorflow", "tensorflow-serving-api"},
        "train-gpu": {"tensorflow", "tensorflow-serving-api"},
        "train": {"tensorflow-cpu", "tensorflow-serving-api"},
        "embedded": {"tensorflow-cpu"},
        "serve": set(),
        "serve-full": set(),
        "worker": set(),
    }
    for name, packages in needed.items():
        assert locked((ROOT / f"requirements/{name}.txt").read_text()).keys() == packages, name


def test_what_is_installed_is_it():
    assert {metadata.version("tensorflow"), metadata.version("tensorflow-serving-api")} == {in_setup()}


@pytest.mark.parametrize("path", ["infra/cloud/compose.yaml", "infra/cloud/cloudrun.yaml"])
def test_the_server_is_it(path):
    assert images((ROOT / path).read_text()) == [in_setup()]


@pytest.mark.parametrize("path", ["cloudbuild.yaml", "README.md", "infra/README.md", "Makefile"])
def test_nobody_names_another_server(path):
    assert set(images((ROOT / path).read_text())) <= {in_setup()}


def test_setup_names_it_once():
    text = (ROOT / "setup.py").read_text()
    assert text.count(in_setup()) == 1
    requirements = re.findall(r'"(tensorflow[^"]*)"', text)
    assert requirements and all(entry.endswith("=={TENSORFLOW}") for entry in requirements)


def test_a_planted_difference_is_found():
    text = "tensorflow==2.20.0 \\\n    --hash=x\ntensorflow-serving-api==2.19.1\nkeras==3.15\ntensorflow-io[all]==1\n"
    assert locked(text) == {"tensorflow": "2.20.0", "tensorflow-serving-api": "2.19.1", "tensorflow-io": "1"}
    assert images("image: docker.io/tensorflow/serving:2.20.0-gpu\n") == ["2.20.0-gpu"]
