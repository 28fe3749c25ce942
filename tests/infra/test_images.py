"""The images as far as files tell: hadolint, locks that agree with each other, and what each COPY finds in the context.

`make images` builds and starts them.
"""

import fnmatch
import http.server
import io
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from infra.images import wheels
from tests.images import rootfs

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["Dockerfile.serve", "Dockerfile.train", "infra/images/Dockerfile.worker"]
LOCKS = ["train-gpu", "train", "serve", "serve-full", "embedded", "worker"]
LEARNING = {"tensorflow", "tensorflow-cpu", "keras", "jax", "torch"}  # what a front end or a worker must not carry


def hadolint(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, *arguments], cwd=ROOT, input=text, capture_output=True, text=True, timeout=60)


def lines_of(command: list[str], **environment: str) -> tuple[int, list[str]]:
    """Run a command of ours; return its exit code and its lines on standard error."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120
    )
    return done.returncode, done.stderr.splitlines()


def locked(name: str) -> dict[str, str]:
    """Read a lock file: package → version."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


def instructions(dockerfile: str, word: str) -> list[str]:
    """List the arguments of each instruction `word`, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / dockerfile).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^{word} (.*)$", text, re.MULTILINE)


def in_context(path: str) -> bool:
    """Tell whether .dockerignore includes a path; as in Docker, the last line that matches counts."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        parts, pattern = path.split("/"), line.removeprefix("!")
        heads = parts if pattern.startswith("**/") else ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if line and line[0] != "#" and any(fnmatch.fnmatch(head, pattern.removeprefix("**/")) for head in heads):
            included = line.startswith("!")
    return included


def test_all_dockerfiles_are_listed_here():
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in (ROOT, ROOT / "infra" / "images")
        for path in folder.glob("Dockerfile*")
    ]
    assert sorted(files) == sorted(DOCKERFILES)


def test_hadolint_finds_nothing():
    done = hadolint("--failure-threshold", "style", *DOCKERFILES)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_would_find_something():
    done = hadolint("-", text="FROM python:latest\nRUN cd /tmp && apt-get install curl\n")
    assert done.returncode == 1
    assert {"DL3007", "DL3008", "DL3003"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_the_versions_that_are_tested(name):
    tested = locked("dev")
    lock = locked(name)
    assert {package: version for package, version in lock.items() if tested.get(package, version) != version} == {}
    assert lock.get("tensorflow-cpu", tested["tensorflow"]) == tested["tensorflow"]
    assert len(lock) > 20


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_no_addresses(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize(
    "name, has, has_not",
    [
        ("serve", {"flask", "gunicorn", "grpcio", "pyfluidsynth", "soundfile"}, LEARNING | {"matplotlib", "music21"}),
        ("serve-full", {"flask", "grpcio", "matplotlib", "music21", "verovio"}, LEARNING),
        ("embedded", {"flask", "tensorflow-cpu", "google-cloud-storage"}, {"tensorflow", "keras", "nvidia-cudnn-cu12"}),
        ("worker", {"apache-beam", "google-cloud-storage"}, LEARNING | {"flask", "symusic"}),
        ("train", {"tensorflow-cpu", "keras", "google-cloud-storage"}, {"tensorflow", "nvidia-cudnn-cu12", "flask"}),
        ("train-gpu", {"tensorflow", "nvidia-cudnn-cu12", "nvidia-nccl-cu12", "keras"}, {"tensorflow-cpu", "flask"}),
    ],
)
def test_what_is_in_an_image(name, has, has_not):
    lock = set(locked(name))
    assert has <= lock
    assert not has_not & lock


def test_beam_is_the_same_in_the_worker_and_in_the_image_that_its_boot_comes_from():
    assert f"BEAM=apache/beam_python3.11_sdk:{locked('worker')['apache-beam']}" in instructions(DOCKERFILES[2], "ARG")


def test_all_images_have_one_base():
    assert {
        argument for file in DOCKERFILES for argument in instructions(file, "ARG") if argument.startswith("BASE=")
    } == {"BASE=python:3.11-slim-bookworm"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_is_there_and_in_the_context(dockerfile):
    lock = dict(argument.split("=") for argument in instructions(dockerfile, "ARG") if argument.startswith("LOCK="))
    copied = [line.split()[:-1] for line in instructions(dockerfile, "COPY") if "--from" not in line]
    paths = [path.replace("${LOCK}", lock.get("LOCK", "")) for line in copied for path in line]
    assert len(paths) > 2
    assert [path for path in paths if not (ROOT / path).exists() or not in_context(path)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "data/x",
        "requirements/dev.txt",
        "music/__pycache__/midi.pyc",
        "tests/support/fakes.py",
    ],
)
def test_what_no_image_needs_is_not_sent(path):
    assert not in_context(path)


@pytest.mark.parametrize("dockerfile", ["Dockerfile.serve", "Dockerfile.train"])
def test_nobody_is_root_and_signals_arrive(dockerfile):
    assert set(instructions(dockerfile, "USER")) == {"10001"}
    assert all(line.startswith("[") for word in ("ENTRYPOINT", "CMD") for line in instructions(dockerfile, word))
    assert len(instructions(dockerfile, "HEALTHCHECK")) == 1


# --- what `make images` is made of; it itself takes minutes and root --------------------------------------------------


def test_without_its_programs_it_says_so(tmp_path):
    # a PATH with nothing on it; TensorFlow, imported for the model server, has words of its own
    code, lines = lines_of(["-m", "tests.images", "--work", str(tmp_path / "work")], PATH=str(tmp_path))
    assert code == 2
    assert lines[-1].startswith("python -m tests.images: buildah and debootstrap and unshare missing: apt-get install")
    assert not (tmp_path / "work").exists()


def test_how_this_machine_reaches_its_registries_is_mounted_and_not_copied(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://packages.example/simple")
    rootfs.registries.cache_clear()
    options = rootfs.registries(tmp_path)
    rootfs.registries.cache_clear()
    assert set(options[::2]) == {"--volume"}
    assert all(option.endswith(":ro") or option.startswith("/etc/ssl") for option in options[1::2])
    assert "index-url = https://packages.example/simple" in (tmp_path / "pip.conf").read_text()
    assert 'url = "https://packages.example/simple"' in (tmp_path / "uv.toml").read_text()


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["a-1-cp312-cp312-manylinux_2_28_x86_64.whl", "a-1-cp311-cp311-manylinux_2_17_x86_64.whl"], 1),
        (["a-1-cp311-cp311-musllinux_1_2_x86_64.whl", "a-1-py3-none-any.whl"], 1),
        (["a-1-cp311-cp311-manylinux_2_39_x86_64.whl", "a-1-cp39-abi3-manylinux_2_28_x86_64.whl"], 1),
        (["a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "a-1-cp311-cp311-manylinux_2_28_aarch64.whl"], 0),
    ],
)
def test_the_wheel_that_counts_is_the_one_that_an_image_installs(names, chosen):
    package = {"wheels": [{"url": f"https://packages.example/{name}"} for name in names]}
    assert wheels.best(package).endswith(names[chosen])


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves one archive, or the part of it that is requested."""

    archive = b""
    sent = 0

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()

    def do_GET(self):
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.archive[first : last + 1]
        type(self).sent += len(part)
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


def test_a_wheel_is_sized_by_its_end_alone():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/noise", bytes(range(256)) * 8000)  # stored, as it is
        archive.writestr("a/zeros", bytes(100_000), zipfile.ZIP_DEFLATED)
    Ranges.archive = file.getvalue()
    with http.server.HTTPServer(("127.0.0.1", 0), Ranges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a-1-py3-none-any.whl"
        size = wheels.size({"name": "a", "version": "1", "wheels": [{"url": url}]})
        server.shutdown()
    assert size == (len(Ranges.archive), 2_148_000, "a 1")
    assert 0 < Ranges.sent < 200_000 < len(Ranges.archive)
