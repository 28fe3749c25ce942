"""Damage to files, the same in every run: a bit flipped anywhere, a file cut, emptied or removed."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Damage(NamedTuple):
    """Damage to one file."""

    kind: str  # flip | cut | empty | missing
    at: int  # which byte, or how many are left
    bit: int = 0

    def of(self, data: bytes) -> bytes | None:
        """Return the damaged content; None: the file is missing."""
        if self.kind == "missing":
            return None
        if self.kind == "flip":
            return data[: self.at] + bytes([data[self.at] ^ 1 << self.bit]) + data[self.at + 1 :]
        return data[: self.at]


def ways(size: int, flips: int, seed: int) -> Iterator[Damage]:
    """List damages to a file of `size` bytes: missing, empty, cut at two positions, and `flips` times a bit flipped."""
    rng = random.Random(seed)
    yield Damage("missing", 0)
    if size:
        yield Damage("empty", 0)
        yield Damage("cut", size - 1)
        yield Damage("cut", rng.randrange(size))
        for number in range(flips):
            first, last = number * size // flips, max((number + 1) * size // flips - 1, number * size // flips)
            yield Damage("flip", rng.randint(first, last), rng.randrange(8))


def inflict(path: Path, damage: Damage, content: bytes) -> None:
    """Write the file `content` with the damage."""
    after = damage.of(content)
    path.unlink(missing_ok=True)
    if after is not None:
        path.write_bytes(after)
