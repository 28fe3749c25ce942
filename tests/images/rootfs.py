"""A substitute for the images' base, and a container's process without a daemon: for machines that have no Docker.

debootstrap makes the base from Debian's own packages: the real base's release and version of Python, but Debian's build
of it. A process starts as in a container: with the image's user, environment, folder and entry point, and as the first
of its own process numbers. The network is this machine's, so that a test reaches it over loopback. This machine's
settings for its package registries are mounted while RUN steps run, and never become part of an image.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

RELEASE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Each exec replaces the program before, so that the program itself is the first process of its own numbering.
_ENTER = """
root=$0 share=$1 user=$2 folder=$3; shift 3
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
[ -z "$share" ] || { mkdir -p "$root$share"; mount --bind "$share" "$root$share"; }
exec chroot --userspec="$user:$user" --groups= "$root" env -i -C "$folder" "$@"
"""
_UNUSED = ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt"]


class Store:
    """A folder with all files of buildah's, so that removing it removes all."""

    def __init__(self, folder: Path, driver: str):
        self.folder = folder.resolve()
        self._options = [
            "--storage-driver",
            driver,
            "--root",
            f"{self.folder}/storage",
            "--runroot",
            f"{self.folder}/run",
        ]

    def buildah(self, command: str, *arguments: str) -> str:
        """Run a buildah command, and return its output. Its messages go to buildah.log."""
        with open(self.folder / "buildah.log", "a") as log:
            done = subprocess.run(
                ["buildah", *self._options, command, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            )
            log.write(done.stdout)
        if done.returncode:
            raise SystemExit(f"buildah {command} failed, the end of {log.name}:\n{_tail(Path(log.name))}")
        return done.stdout.strip()

    def remove(self) -> None:
        """Remove the whole folder, and mounts that a killed run has left."""
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self.folder, ignore_errors=not self.folder.exists())

    def images(self) -> set[str]:
        """List the names of all images."""
        listed = json.loads(self.buildah("images", "--json") or "null") or []
        return {name for image in listed for name in image["names"] or []}

    def make_base(self, name: str, mirror: str | None) -> None:
        """Make an image `name`: a minimal Debian with Python, as small as the real base and with its paths."""
        root = self.folder / "base"
        shutil.rmtree(root, ignore_errors=True)
        options = ["--variant=minbase", f"--include={_PACKAGES}", RELEASE, str(root)]
        with open(self.folder / "debootstrap.log", "w") as log:
            if subprocess.run(
                ["debootstrap", *options, *([mirror] if mirror else [])], stdout=log, stderr=log
            ).returncode:
                raise SystemExit(f"debootstrap failed, the end of {log.name}:\n{_tail(Path(log.name))}")
        for folder in _UNUSED:
            shutil.rmtree(root / folder)
            (root / folder).mkdir()
        for link in ("python", "python3", "python3.11"):
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3.11")
        packages = root / "usr/local/lib/python3.11/dist-packages"  # where Debian's Python looks for packages
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "real.pth").write_text("/usr/local/lib/python3.11/site-packages\n")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()  # the real base's Python is its own
        self.commit(name, root)
        shutil.rmtree(root)

    def commit(self, name: str, root: Path) -> None:
        """Make an image of a folder."""
        container = self.buildah("from", "scratch")
        self.buildah("add", container, f"{root}/.", "/")
        self.buildah("commit", "--format", "docker", "--rm", container, name)

    def configuration(self, image: str) -> dict:
        """Return an image's configuration: User, Env, Entrypoint, Healthcheck …"""
        return json.loads(self.buildah("inspect", "--type", "image", image))["Docker"]["config"]

    def compressed(self, image: str) -> int:
        """Return the bytes that the image takes in a registry."""
        folder = self.folder / "pushed"
        shutil.rmtree(folder, ignore_errors=True)
        self.buildah("push", image, f"dir:{folder}")
        size = sum(path.stat().st_size for path in folder.iterdir())
        shutil.rmtree(folder)
        return size

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator["Container"]:
        """Make a container of an image, with no process in it yet; remove it at the end."""
        name = self.buildah("from", "--pull-never", image)
        try:
            yield Container(Path(self.buildah("mount", name)), self.configuration(image))
        finally:
            self.buildah("rm", name)


class Usage(NamedTuple):
    """The resources that all processes of a container use."""

    processes: int
    megabytes: float  # of memory; shared memory is counted once


class Container:
    """A root file system and the configuration to start processes with."""

    def __init__(self, root: Path, configuration: dict):
        self.root, self.configuration = root, configuration

    def size(self) -> int:
        """Return the bytes of all files."""
        return int(
            subprocess.run(["du", "-sxb", self.root], capture_output=True, text=True, check=True).stdout.split()[0]
        )

    def start(self, command: Sequence[str], *, log: Path, share: Path | None = None, **environment: str) -> "Process":
        """Start a program from the image's PATH; `share` is a folder with the same path inside and outside."""
        return Process(self._command(command, share, environment), log)

    def run(
        self, command: Sequence[str], *, share: Path | None = None, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess:
        """Run a program to its end; `timeout` in seconds."""
        command = self._command(command, share, environment)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    @property
    def entrypoint(self) -> list[str]:
        return self.configuration["Entrypoint"]

    def _command(self, command: Sequence[str], share: Path | None, environment: dict[str, str]) -> list[str]:
        settings = [*self.configuration["Env"], *(f"{name}={value}" for name, value in environment.items())]
        user = self.configuration.get("User") or "0"
        folder = self.configuration.get("WorkingDir") or "/"
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c", _ENTER]
        return [*isolated, str(self.root), str(share or ""), user, folder, *settings, *command]


class Process:
    """A running container."""

    def __init__(self, command: list[str], log: Path):
        self.log = log
        self.started = time.monotonic()
        with open(log, "w") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()  # and by --kill-child also all processes that it started
        self._process.wait(10)

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout: float = 60) -> int:
        """Send its first process SIGTERM, as `docker stop` does; return its exit code."""
        os.kill(_children(self._process.pid)[0], signal.SIGTERM)
        return self._process.wait(timeout)

    def usage(self) -> Usage:
        """Measure what all processes use now."""
        waiting, kilobytes, count = _children(self._process.pid), 0, 0
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                kilobytes += int(rollup.split("\nPss:", 1)[1].split()[0])
                count += 1
                waiting += _children(pid)
        return Usage(count, kilobytes / 1024)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(path.read_text().splitlines()[-lines:])


@functools.cache
def registries(folder: Path) -> tuple[str, ...]:
    """Make buildah's options that mount this machine's settings for its registries; their files go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or _pip("global.index-url")
    pip, uv = ["[global]", f"cert = {_CERTIFICATES}"], ["system-certs = true"]
    if index:
        pip.append(f"index-url = {index}")
        uv += ["[[index]]", f'url = "{index}"', "default = true"]
    apt = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True).stdout
    mounts = {"/etc/pip.conf": "\n".join(pip), "/etc/uv/uv.toml": "\n".join(uv), "/etc/apt/apt.conf.d/99machine": apt}
    options = []
    for target, text in mounts.items():
        (folder / Path(target).name).write_text(text + "\n")
        options += ["--volume", f"{(folder / Path(target).name).resolve()}:{target}:ro"]
    bundle = Path(os.environ.get("SSL_CERT_FILE", _CERTIFICATES))
    if bundle.exists():
        options += ["--volume", f"{bundle.resolve()}:{_CERTIFICATES}:ro"]
    return tuple(options)


def _pip(key: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "config", "get", key], capture_output=True, text=True)
    return done.stdout.strip()
