"""Damage to files, the same at every run: a bit flipped anywhere, a file cut, emptied or gone."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Damage(NamedTuple):
    """What befalls one file."""

    kind: str  # flip | cut | empty | missing
    at: int  # which byte, or how many are left
    bit: int = 0

    def of(self, data: bytes) -> bytes | None:
        """The file afterwards; None: there is none."""
        if self.kind == "missing":
            return None
        if self.kind == "flip":
            return data[: self.at] + bytes([data[self.at] ^ 1 << self.bit]) + data[self.at + 1 :]
        return data[: self.at]


def ways(size: int, flips: int, seed: int) -> Iterator[Damage]:
    """Ways to damage a file of so many bytes: gone, empty, cut at two places, and one bit flipped, `flips` times."""
    rng = random.Random(seed)
    yield Damage("missing", 0)
    if size:
        yield Damage("empty", 0)
        yield Damage("cut", size - 1)
        yield Damage("cut", rng.randrange(size))
        for number in range(flips):
            first, last = number * size // flips, max((number + 1) * size // flips - 1, number * size // flips)
            yield Damage("flip", rng.randint(first, last), rng.randrange(8))


def inflict(path: Path, damage: Damage, whole: bytes) -> None:
    """Put a file there that was `whole`, as it is after the damage."""
    after = damage.of(whole)
    path.unlink(missing_ok=True)
    if after is not None:
        path.write_bytes(after)
