"""Build the images without Docker and without an image registry, start them, and print their sizes.

    python -m tests.images [--work build/images] [--only serve train …]

buildah executes their RUN steps on a substitute of the base (see rootfs.py), then each image is started and must do its
work (see checks.py). Needs Linux, root, and `apt-get install buildah debootstrap`; 10 GB of disk, which are free again
at the end. The trainer's image is built from its lock without CUDA; the one for a GPU is not built.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from music.command_line import fail
from tests.images.rootfs import Container, Store, registries

BASE = "docker.io/library/python:3.11-slim-bookworm"
BOOT = "localhost/beam-boot"  # stands in for Beam's own image


class Image(NamedTuple):
    """How an image is built, and what it must do."""

    dockerfile: str
    options: tuple[str, ...]
    check: str  # a function of checks.py; it returns what it measured, or raises AssertionError
    most: int | None = None  # megabytes


IMAGES = {
    "serve": Image("Dockerfile.serve", (), "front_end", most=350),
    "serve-full": Image("Dockerfile.serve", ("--target", "full"), "full_front_end"),
    "embedded": Image("Dockerfile.serve", ("--target", "embedded"), "embedded"),
    "train": Image("Dockerfile.train", ("--build-arg", "LOCK=train"), "trainer"),
    "worker": Image("infra/images/Dockerfile.worker", ("--build-arg", f"BEAM={BOOT}"), "worker"),
}


def arguments() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    usage, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m tests.images", description=usage)
    parser.add_argument(
        "--work", type=Path, default=Path("build/images"), help="folder for all files; default: %(default)s"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(IMAGES),
        default=list(IMAGES),
        metavar="NAME",
        help="images to build; default: all",
    )
    parser.add_argument(
        "--driver",
        choices=["overlay", "vfs"],
        default="overlay",
        help="of buildah's storage; vfs: slower, works on any disk; default: overlay",
    )
    parser.add_argument("--mirror", metavar="URL", help="of Debian's packages; default: debootstrap's own choice")
    parser.add_argument("--keep", action="store_true", help="keep --work, and use the base that is in it")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Build and check; return 0, 1 where an image does not do what it must, or 2 where a program is missing."""
    args = arguments().parse_args(argv)
    if missing := _missing():
        return fail("python -m tests.images", missing)
    from tests.images import checks  # late, as it imports TensorFlow

    store = Store(args.work, args.driver)
    if not args.keep:
        store.remove()
    args.work.mkdir(parents=True, exist_ok=True)
    if BASE not in store.images():
        print("the base, from Debian's packages …", flush=True)
        store.make_base(BASE, args.mirror)
    if "worker" in args.only:
        checks.make_boot(store, BOOT)
    _row("image", "MB", "compressed", "build", "what it did")
    with store.container(BASE) as base:
        _row("base", f"{base.size() / 1e6:.0f}", f"{store.compressed(BASE) / 1e6:.0f}")
    good = [_one(store, name, getattr(checks, IMAGES[name].check)) for name in args.only]
    if not args.keep:
        store.remove()
    return 0 if all(good) else 1


def _row(*cells: str) -> None:
    print("{:<12}{:>6}{:>12}{:>8}  {}".format(*cells, *[""] * (5 - len(cells))), flush=True)


def _one(store: Store, name: str, check: Callable[[Container, Path], str]) -> bool:
    """Build and check one image, and print its row of the table; return whether it passed."""
    image = IMAGES[name]
    tag = f"localhost/cadenza-{name}"
    begun = time.monotonic()
    options = [*image.options, *registries(store.folder / "registries"), "-f", image.dockerfile, "-t", tag, "."]
    store.buildah("bud", "--pull-never", "--format", "docker", *options)
    seconds = time.monotonic() - begun
    with store.container(tag) as container:
        size = container.size() / 1e6
        try:
            assert image.most is None or size < image.most, f"expected under {image.most} MB"
            passed, result = True, check(container, store.folder)
        except AssertionError as error:
            passed, result = False, f"FAILED: {error}"
    _row(name, f"{size:.0f}", f"{store.compressed(tag) / 1e6:.0f}", f"{seconds:.0f} s", result)
    return passed


def _missing() -> str:
    missing = [program for program in ("buildah", "debootstrap", "unshare") if not shutil.which(program)]
    if missing:
        return f"{' and '.join(missing)} missing: apt-get install buildah debootstrap"
    return "" if os.geteuid() == 0 else "expected to be root, as chroot and debootstrap need it"


if __name__ == "__main__":
    sys.exit(run())
