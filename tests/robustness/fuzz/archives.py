"""Any bytes as a zip or a tar: members with names, and their bytes up to a limit, or an error that is expected."""

import bz2
import gzip
import io
import tarfile
import zipfile
from contextlib import suppress

from music.errors import MusicError
from preprocessing import archives

_MOST = 10_000  # bytes of a member


def _zip(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _tar(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


SEEDS = [  # the first byte says whether the name is that of a zip
    b"z" + _zip(a=b"MThd" * 9, b=bytes(20_000)),
    b"z" + _zip(**{"ab\\c.mid": b"", "d/": b""}).replace(b"ab", b"\x83\\"),
    b"t" + _tar(a=b"MThd" * 9, b=bytes(20_000)),
    b"t" + gzip.compress(_tar(a=b"MThd")),
    b"t" + bz2.compress(_tar(a=b"MThd")),
    b"t" + _zip(a=b"in disguise"),
]
REGRESSIONS: list[bytes] = []


def one(data: bytes) -> None:
    try:
        with archives.opened(io.BytesIO(data[1:]), "a.zip" if data[:1] == b"z" else "a.tar") as archive:
            for member in archive.members():
                assert member.name.encode().decode() == member.name and "\\" not in member.name
                with suppress(MusicError, *archives.FAULTS):
                    if not member.fault:
                        with archive.open(member.number, _MOST) as file:
                            assert len(file.read()) <= _MOST
    except (MusicError, *archives.FAULTS):
        pass
