"""Put mixed load on two front ends and look at memory, threads and descriptors every minute. Fail if one of them grows,
if a piece stays in flight when no client asks, or if no piece comes through in the last third.

    nice -n 19 python -m benchmarks.soak --minutes 60          `make soak`: the hour of docs/reliability.md
    python -m benchmarks.soak --minutes 2 --every 10

One front end has the shipped model in its process. The other calls the tests' model server, which stops for a second
every other minute and starts with the next version of the model. Before each look the clients pause, so that only
what they left behind is counted.
"""

import argparse
import itertools
import os
import random
import re
import runpy
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.processes import ROOT, FrontEnd, front_end
from benchmarks.visitors import BUSY, KINDS, Counts, Visitors, crowd

MODEL = ROOT / "models" / "performance" / "1"
_WEIGHTS = {  # how often each kind of client comes
    "whole": 8, "long": 1, "file": 2, "looks": 6, "uploads": 3, "errs": 4,
    "leaves": 4, "reads_slowly": 2, "is_half_open": 2, "never_ends": 2,
}  # fmt: skip
_SETTLED = 8.0  # seconds after which a server has closed what nobody uses
_CALL = 120  # seconds that one call of the model may take, on a machine that has much else to do
MOST_PERCENT, MOST_MEGABYTES = 3.0, 8.0  # that memory may differ between the first third and the last


class Look(NamedTuple):
    """What a front end's processes hold, all together."""

    megabytes: float
    threads: int
    descriptors: int
    in_flight: int  # pieces in the making
    pieces: int  # that came through, so far

    def __str__(self) -> str:
        what = f"{self.megabytes:.0f} MB, {self.threads} threads, {self.descriptors} descriptors"
        return f"{what}, {self.in_flight} pieces in flight, {self.pieces} through"


def look(front: FrontEnd, seconds: float = 0) -> Look:
    """Look at the master and its workers. They get so many seconds to end pieces whose clients have left."""
    until = time.monotonic() + seconds
    while True:
        processes = [_look(Path("/proc", pid)) for pid in (str(front.pid), *front.workers())]
        with urllib.request.urlopen(f"{front.address}/metrics", timeout=60) as response:
            metrics = response.read().decode()
        in_flight = sum(float(number) for number in re.findall(r"^cadenza_pieces_in_flight (\S+)$", metrics, re.M))
        counted = re.findall(r"^cadenza_requests_total(\{.*\}) (\S+)$", metrics, re.M)
        pieces = sum(float(number) for labels, number in counted if 'route="/generate",status="200"' in labels)
        if not in_flight or time.monotonic() >= until:
            return Look(*(sum(column) for column in zip(*processes, strict=True)), int(in_flight), int(pieces))
        time.sleep(1)


def _look(process: Path) -> tuple[float, int, int]:
    pages = int((process / "statm").read_text().split()[1])
    facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, int(facts["Threads"]), len(os.listdir(process / "fd"))


def growth(looks: Sequence[Look], megabytes: float = MOST_MEGABYTES) -> list[str]:
    """List what grew between the first and the last third of the looks; the first sixth is for warming up."""
    warm = looks[len(looks) // 6 :]
    third = max(1, len(warm) // 3)
    first, last = warm[:third], warm[-third:]
    before, after = (statistics.median(each.megabytes for each in part) for part in (first, last))
    grown = []
    if after > before * (1 + MOST_PERCENT / 100) + megabytes:
        grown.append(f"memory grew from {before:.0f} to {after:.0f} MB")
    for name in ("threads", "descriptors"):
        before, after = (max(getattr(each, name) for each in part) for part in (first, last))
        if after > before:
            grown.append(f"{name} grew from {before} to {after}")
    return grown


def stuck(looks: Sequence[Look]) -> list[str]:
    """List what stays in flight when no client asks, or came to a halt: a server that only says 429 does not grow."""
    faults = [f"{each.in_flight} pieces stayed in flight" for each in looks if each.in_flight]
    before, last = looks[-1 - max(1, len(looks) // 3)], looks[-1]
    if last.pieces <= before.pieces:
        faults.append(f"no piece came through in the last third: {last.pieces} before and after")
    return faults[-1:]


def request_piece(visitors: Visitors, counts: Counts, seconds: float) -> None:
    """Request a piece until the server is not busy, for so many seconds: one in trouble needs some time."""
    until = time.monotonic() + seconds
    while counts.visit(visitors, "whole", random.Random(0)) in BUSY and time.monotonic() < until:
        time.sleep(1)


class Load:
    """Clients that come and go until they are asked to pause, or to stop."""

    def __init__(self, everybody: Sequence[Visitors], clients: int, pause: float, counts: Counts):
        self._everybody, self._pause, self._counts = everybody, pause, counts
        self._go, self._over = threading.Event(), False
        self._idle = [threading.Event() for _ in range(clients)]
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _client(self, number: int) -> None:
        rng = random.Random(number)
        while not self._over:
            if not self._go.is_set():
                self._idle[number].set()
                self._go.wait()
                self._idle[number].clear()
                continue
            (kind,) = rng.choices([*_WEIGHTS], [*_WEIGHTS.values()])
            self._counts.visit(rng.choice(self._everybody), kind, rng)
            time.sleep(rng.uniform(0, 2 * self._pause))

    def run(self, seconds: float) -> None:
        """Let clients come for so many seconds, and wait until all have gone."""
        self._go.set()
        time.sleep(seconds)
        self._go.clear()
        for idle in self._idle:
            if not idle.wait(600):
                raise SystemExit("soak: a visitor has waited for ten minutes")

    def stop(self) -> None:
        """End all clients."""
        self._over = True
        self._go.set()
        for thread in self._threads:
            thread.join(60)


class Unsteady:
    """The tests' model server, which stops every other minute and starts with another version."""

    def __init__(self, folder: Path):
        from tests.support.fakes import ModelServer

        for version in (1, 2):
            shutil.copytree(MODEL, folder / "performance" / str(version))
        self._server = ModelServer(folder / "performance", versions=[1], threads=256)
        self.address = self._server.address

    def disturb(self, number: int) -> None:
        """Restart the server with the other version, in every other minute."""
        if number % 2 == 0:
            self._server.stop().wait(5)
            time.sleep(1)
            version = 1 + number // 2 % 2
            self._server.load(version)
            self._server.unload(3 - version)
            self._server.start()

    def stop(self) -> None:
        """Stop the server for good."""
        self._server.stop().wait(5)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the load. Exit with 1 if something grew, or a reply was wrong."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two looks; default: %(default)g")
    parser.add_argument("--clients", type=int, default=6, help="clients at once; default: %(default)s")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between a client's visits, on average")
    parser.add_argument(
        "--megabytes", type=float, default=MOST_MEGABYTES,
        help=f"that memory may grow by, besides {MOST_PERCENT:g} %%; default: %(default)g",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if min(args.minutes, args.every, args.clients) <= 0:
        parser.error("expected more than 0 minutes, seconds and clients")
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        server = Unsteady(Path(folder))
        flags = ["--server", server.address, "--model-name", "performance", "--timeout", str(_CALL)]
        with (
            front_end("--model", str(MODEL), "--timeout", str(_CALL), WEB_CONCURRENCY="1") as embedded,
            front_end(*flags, WEB_CONCURRENCY="1") as remote,
        ):
            fronts = {"in process": embedded, "over gRPC": remote}
            looks = _looks(fronts, server, args, counts)
        server.stop()
    faults = [f"{name}: {fault}" for name in looks for fault in growth(looks[name], args.megabytes)]
    faults += [f"wrong: {name}: {fault}" for name in looks for fault in stuck(looks[name])]
    faults += sorted({f"wrong: {fault}" for fault in counts.wrong})
    print(", ".join(f"{number} × {kind}" for kind, number in sorted(counts.visits.items())))
    print("\n".join(faults) or f"nothing grew in {args.minutes:g} minutes, and no reply was wrong", flush=True)
    sys.exit(bool(faults))


def _looks(fronts: dict[str, FrontEnd], server: Unsteady, args, counts: Counts) -> dict[str, list[Look]]:
    everybody = [Visitors(front.port) for front in fronts.values()]
    threads = runpy.run_path(str(ROOT / "serving" / "server" / "gunicorn.conf.py"))["threads"]  # that each may have
    for visitors in everybody:
        visitors.hear_alone()
        crowd(visitors.port, threads, 8)
        visitors.hear_at_once(2 * (os.cpu_count() or 1))
        for kind in KINDS:
            visitors.visit(kind, random.Random(0))
    load = Load(everybody, args.clients, args.pause, counts)
    looks: dict[str, list[Look]] = {name: [] for name in fronts}
    until = time.monotonic() + args.minutes * 60
    for number in itertools.count():
        began = time.monotonic()
        disturbing = threading.Timer(args.every / 3, server.disturb, [number])
        disturbing.start()
        load.run(max(1.0, args.every - _SETTLED))
        disturbing.join()
        for visitors in everybody:  # a look may follow on a few seconds of load, in which nobody asked for a piece
            request_piece(visitors, counts, _CALL)
        time.sleep(max(_SETTLED, began + args.every - time.monotonic()))
        for name, front in fronts.items():
            looks[name].append(look(front, _CALL + 30))
        line = "; ".join(f"{name} {latest[-1]}" for name, latest in looks.items())
        print(f"{time.strftime('%H:%M:%S')} {line}; {sum(counts.visits.values())} visits: {counts}", flush=True)
        if number >= 2 and time.monotonic() + args.every / 2 > until:  # three looks are the fewest to compare
            break
    load.stop()
    return looks


if __name__ == "__main__":
    main()
