"""Good and bad visitors all at once, before a model server that is slow, fails, goes away and changes its version.

What comes through has to be, note for note, what the same request gets alone; the worker has to be the same one in the
end, with nothing in flight and no descriptor more than before.
"""

import random
import shutil
import threading
import time
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import grpc
import pytest

from benchmarks import soak
from benchmarks.serving.processes import FrontEnd, front_end
from benchmarks.soak import Look, growth, look, stuck
from benchmarks.visitors import BUSY, KINDS, Counts, Visitors
from tests.support.batching import Batching
from tests.support.fakes import ModelServer

Code = grpc.StatusCode
FAULTS = [(Code.UNAVAILABLE, "Socket closed"), (Code.INTERNAL, "nonsense"), (Code.RESOURCE_EXHAUSTED, "too much")]


@contextmanager
def troubled(server: ModelServer, seconds: float, rng: random.Random):
    """A model server whose calls take a while, one now and then very long, so that answers come in another order than
    the calls; which sometimes fails, and stops and starts again."""
    over = threading.Event()

    def on_call(number: int) -> None:
        time.sleep(rng.choice([0, 0.001, 0.003, 0.01, 0.05]))

    def trouble() -> None:
        while not over.wait(seconds / 10):
            if rng.random() < 0.5:
                server.fail(*rng.choice(FAULTS))
            else:
                old, new = rng.sample([1, 2], 2)
                server.load(new)
                server.stop().wait(5)
                server.unload(old)
                server.start()

    server.on_call = on_call
    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
        server.on_call = lambda number: None
        server._failures.clear()


MUSIC = ["whole"] * 6 + ["long", "leaves", "leaves", "reads_slowly", "is_half_open", "never_ends", "uploads", "errs"]


@contextmanager
def before_trouble(toys, folder: Path, seconds: float):
    """A front end before such a model server, whose two versions play alike, and what lets the trouble begin."""
    for version in ("1", "2"):
        shutil.copytree(toys / "1", folder / "toy" / version)
    with (
        ModelServer(folder / "toy", versions=[1], batching=Batching.read(), threads=256) as server,
        front_end("--server", server.address, "--model-name", "toy", WEB_CONCURRENCY="1") as front,
    ):
        yield front, troubled(server, seconds, random.Random(3))


@pytest.mark.slow
def test_two_hundred_visits_at_32_before_a_model_server_in_trouble(toys, tmp_path):
    with before_trouble(toys, tmp_path, 5) as (front, trouble):
        storm(front, Visitors(front.port, long=400, pause=1, excused=(502, *BUSY)), 200, 32, trouble)


@pytest.mark.slow
@pytest.mark.timeout(900)  # of which most is compiling the model, on a machine that has much else to do
def test_a_thousand_visits_at_64_before_a_model_server_in_trouble(toys, tmp_path):
    with before_trouble(toys, tmp_path, 20) as (front, trouble):
        storm(front, Visitors(front.port, excused=(502, *BUSY)), 1000, 64, trouble)


@pytest.mark.slow
@pytest.mark.timeout(900)  # of which most is compiling the model, on a machine that has much else to do
def test_a_thousand_visits_at_64_with_the_model_in_the_same_process():
    with front_end("--model", str(soak.MODEL), WEB_CONCURRENCY="1") as front:
        storm(front, Visitors(front.port, long=600), 1000, 64, nullcontext())


def storm(front: FrontEnd, visitors: Visitors, visits: int, at_once: int, trouble: AbstractContextManager) -> None:
    """So many visits; those who behave hear what they hear alone, and when all is over, all is as it was."""
    visitors.hear_alone()
    workers, before = front.workers(), look(front)
    kinds, counts = random.Random(7).choices(MUSIC, k=visits), Counts()
    with trouble, futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda n: counts.visit(visitors, kinds[n], random.Random(n)), range(visits)))
    assert counts.wrong == [] and sum(counts.visits.values()) == visits
    assert counts.statuses[200] > visits / 10, str(counts)  # it was no server that refused everybody
    until = time.monotonic() + 60
    while (now := look(front)).in_flight or now.descriptors > before.descriptors:
        assert time.monotonic() < until, (before, now)
        time.sleep(0.2)
    assert front.workers() == workers, "a worker was lost"
    after = Counts()
    for random_seed in range(4):
        after.visit(visitors, "whole", random.Random(random_seed))
    assert after.statuses == {200: 4} and after.wrong == []
    print(f"{counts}; before {before}, after {look(front)}")


# The soak's own judgement


def looks(*memory: float, threads: int = 70, descriptors: int = 20) -> list[Look]:
    return [Look(megabytes, threads, descriptors, 0, number) for number, megabytes in enumerate(memory)]


def test_what_does_not_grow_is_not_reported():
    assert growth(looks(*[500.0] * 60)) == []
    assert growth(looks(300, 400, 480, 490, *[500.0, 505.0] * 28)) == []  # it had to warm up


def test_what_grows_is_reported():
    assert growth(looks(*(500 + n for n in range(60)))) == ["memory grew from 518 to 552 MB"]
    assert growth(looks(*[500.0] * 40) + looks(*[500.0] * 20, threads=71)) == ["threads grew from 70 to 71"]
    assert growth(looks(*[500.0] * 40) + looks(*[500.0] * 20, descriptors=21)) == ["descriptors grew from 20 to 21"]


def test_a_server_that_is_stuck_is_reported():
    well = looks(*[500.0] * 12)
    assert stuck(well) == stuck(well[:3]) == []
    assert stuck([*well[:5], well[5]._replace(in_flight=2), *well[6:]]) == ["2 pieces stayed in flight"]
    halted = well[:8] + [each._replace(pieces=7) for each in well[8:]]  # all are told 429 from there on
    assert stuck(halted) == ["no piece came through in the last third: 7 before and after"]
    assert growth(halted) == []


@pytest.mark.parametrize(("error", "faults"), [(IndexError("x"), 1), (ConnectionResetError("x"), 0)])
def test_no_error_of_a_visitor_ends_a_client(error, faults, monkeypatch):
    counts = Counts()

    def visit(kind, rng):
        raise error

    visitors = Visitors(1)
    monkeypatch.setattr(visitors, "visit", visit)
    counts.visit(visitors, "leaves", random.Random(0))
    assert counts.visits == {"leaves": 1} and len(counts.wrong) == faults


def test_every_kind_of_visitor_comes_to_a_soak():
    assert soak._WEIGHTS.keys() == KINDS.keys()


@pytest.mark.slow
@pytest.mark.timeout(900)  # of which most is compiling the model, on a machine that has much else to do
def test_a_soak_of_half_a_minute(capfd):
    with pytest.raises(SystemExit) as exit:
        soak.main(["--minutes", "0.6", "--every", "12", "--megabytes", "300"])
    output = capfd.readouterr().out
    faults = [line for line in output.splitlines() if line.startswith("wrong")]
    assert not faults and len(output.splitlines()) >= 5, output
    assert exit.value.code == (" grew from " in output)  # in half a minute it may not yet be warm
