"""What fuzzers begin with and what they found, through each target; `make fuzz` goes on from there."""

import importlib
import random

import pytest

from tests.fuzz import TARGETS

# werkzeug leaves the file of a form that breaks off to the collector
pytestmark = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_breaks_nothing_any_more(name):
    target = importlib.import_module(f"tests.fuzz.{name}")
    assert target.SEEDS
    for data in (*target.SEEDS, *target.FOUND):
        target.one(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_little_damage_breaks_nothing(name):
    target, draw = importlib.import_module(f"tests.fuzz.{name}"), random.Random(3)
    for data in target.SEEDS:
        for _ in range(30):
            made = bytearray(data)
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(1, len(made))
                made[at : at + draw.choice([0, 1, 1, 4])] = draw.choice([b"", b"\0", b"\xff", b"9", draw.randbytes(2)])
            target.one(bytes(made))
