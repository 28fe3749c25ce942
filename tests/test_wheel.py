"""The wheel: every module and every file that the code reads is in it, and each module can be imported from it.

What `setup.py` does not list is missing on Dataflow's workers, and nowhere else: this test is how we notice.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("music", "preprocessing", "trainer", "serving", "infra")
# Not imported: its name has a dot in it; and the images' checks, which need this folder's doubles.
UNIMPORTABLE = {"serving/server/gunicorn.conf.py"}


def modules() -> list[str]:
    """List the checkout's modules, as paths from its root."""
    files = [ROOT / "cadenza.py", *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


def data() -> list[str]:
    """List the files that are no modules and that the code reads."""
    patterns = ("serving/web/templates/*", "serving/web/static/*", "infra/cloud/*.yaml", "infra/cloud/*.config")
    return sorted(file.relative_to(ROOT).as_posix() for pattern in patterns for file in ROOT.glob(pattern))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """Build the wheel of a copy of the checkout, without a network, and unpack it."""
    source, wheels, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "unpacked"))
    for name in ("setup.py", "pyproject.toml", "cadenza.py"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])", str(wheels)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = wheels.glob("cadenza-*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_every_module_is_in_the_wheel(unpacked):
    assert [path for path in modules() if not (unpacked / path).is_file()] == []


def test_every_package_says_that_it_is_one():
    folders = {(ROOT / path).parent for path in modules()} - {ROOT}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_data_is_in_the_wheel(unpacked):
    paths = data()
    assert {"serving/web/templates/index.html", "serving/web/static/app.js", "infra/cloud/cloudrun.yaml"} <= set(paths)
    assert [path for path in paths if not (unpacked / path).is_file()] == []


def test_nothing_else_is_in_the_wheel(unpacked):
    assert {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"} == {"cadenza.py", *PACKAGES}


def test_every_module_can_be_imported_from_the_wheel(unpacked, tmp_path):
    assert set(modules()) >= UNIMPORTABLE
    names = [path.removesuffix(".py").replace("/", ".") for path in modules() if path not in UNIMPORTABLE]
    program = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert module.__file__.startswith(sys.argv[1]), module.__file__
"""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", program, str(unpacked), *names]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
