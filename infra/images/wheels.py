"""Print how large an image's packages are, packed and unpacked, without downloading them: the wheels of a lock file.

    python -m infra.images.wheels requirements/train-gpu.txt

uv finds each wheel's address. Its size comes from the registry's header, its unpacked size from the directory at the
end of the archive. For the image that needs a GPU, whose gigabytes nobody wants to download only to measure them.
"""

import argparse
import io
import subprocess
import sysconfig
import tomllib
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += [f"manylinux{year}_x86_64" for year in (2014, 2010, 1)] + ["linux_x86_64"]
_TAGS = [*cpython_tags((3, 11), platforms=PLATFORMS), *compatible_tags((3, 11), "cp311", PLATFORMS)]
_TIMEOUT = 60


class Size(NamedTuple):
    """Bytes of one package."""

    packed: int
    unpacked: int
    name: str


class Remote(io.RawIOBase):
    """A file on a server that answers range requests; reading it downloads only the bytes that are read."""

    def __init__(self, url: str):
        self._url, self._at = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT) as reply:
            self.size = int(reply.headers["Content-Length"])

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        end = self.size if count < 0 else min(self._at + count, self.size)
        if end <= self._at:
            return b""
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={self._at}-{end - 1}"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            data = reply.read(end - self._at)
        self._at += len(data)
        return data


def best(package: dict) -> str:
    """Choose the wheel that an image installs; return its address, "" if there is none."""
    ranks = {tag: rank for rank, tag in reversed(list(enumerate(_TAGS)))}
    candidates = []
    for wheel in package.get("wheels", []):
        tags = parse_wheel_filename(wheel["url"].rsplit("/", 1)[1])[3]
        candidates += [(ranks[tag], wheel["url"]) for tag in tags if tag in ranks]
    return min(candidates)[1] if candidates else ""


def size(package: dict) -> Size:
    """Measure a package's wheel."""
    url = best(package)
    if not url:  # a source distribution: small, and unpacked as it is built
        return Size(0, 0, f"{package['name']} {package['version']} (no wheel, not counted)")
    remote = Remote(url)
    with zipfile.ZipFile(remote) as wheel:
        unpacked = sum(entry.file_size for entry in wheel.infolist())
    return Size(remote.size, unpacked, f"{package['name']} {package['version']}")


def run(lock: str) -> None:
    """Print the sizes, the largest first."""
    uv = Path(sysconfig.get_path("scripts"), "uv")
    platform = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    command = [uv, "pip", "compile", lock, "--quiet", "--no-deps", "--no-header", "--format", "pylock.toml", *platform]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with ThreadPoolExecutor(2) as pool:
        sizes = list(pool.map(size, tomllib.loads(text)["packages"]))
    for packed, unpacked, name in sorted(sizes, reverse=True):
        print(f"{packed / 1e6:8.1f} {unpacked / 1e6:8.1f}  {name}")
    packed, unpacked = sum(s.packed for s in sizes), sum(s.unpacked for s in sizes)
    print(f"{packed / 1e6:8.1f} {unpacked / 1e6:8.1f}  MB, packed and unpacked: {len(sizes)} packages of {lock}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m infra.images.wheels", description=__doc__.partition("\n\n")[0])
    parser.add_argument("lock", help="lock file, such as requirements/serve.txt")
    run(parser.parse_args().lock)
