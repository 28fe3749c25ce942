"""What fuzzers begin with and what they found, through each target; `make fuzz` goes on from there."""

import importlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.robustness.fuzz import TARGETS, cards, tensors
from tests.support.strategies import law

# werkzeug leaves the file of a form that breaks off to the collector
pytestmark = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_breaks_nothing_any_more(name):
    target = importlib.import_module(f"tests.robustness.fuzz.{name}")
    assert target.SEEDS
    for data in (*target.SEEDS, *target.REGRESSIONS):
        target.one(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_little_damage_breaks_nothing(name):
    target, draw = importlib.import_module(f"tests.robustness.fuzz.{name}"), random.Random(3)
    for data in target.SEEDS:
        for _ in range(30):
            changed = bytearray(data)
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(1, max(len(changed), 2))
                changed[at : at + draw.choice([0, 1, 1, 4])] = draw.choice(
                    [b"", b"\0", b"\xff", b"9", draw.randbytes(2)]
                )
            target.one(bytes(changed))


def places(value: object) -> list[list]:
    """The way to everything inside of JSON: keys and indices."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [[key, *way] for key, part in inside for way in [[], *places(part)]]


anything = st.recursive(
    st.sampled_from(
        [None, True, 0, -1, 7, 2**40, 10**400, 0.5, float("nan"), float("inf"), "", "pitch", "9.9", "\ud800"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["low", "shape", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@law
@given(st.data())
def test_a_card_or_dataset_with_anything_anywhere_is_read_or_refused(data):
    seed = data.draw(st.sampled_from(cards.SEEDS))
    changed = json.loads(seed[1:])
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(places(changed)))
        part = changed
        for key in way:
            part = part[key]
        part[last] = data.draw(anything)
    cards.one(seed[:1] + json.dumps(changed).encode())


@law
@given(st.sampled_from(tensors.SEEDS[:1]), st.integers(1, 400), st.binary(max_size=12))
def test_a_reply_with_anything_anywhere_is_read_or_refused(reply, at, bytes_there):
    tensors.one(reply[:at] + bytes_there + reply[at + len(bytes_there) :])
