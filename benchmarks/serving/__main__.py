"""Measure how fast continuations are generated and served, with baselines, as a Markdown table.

    python -m benchmarks.serving [--quick] [--only one|first|wire|crowd|front|growth …] [--json FILE] [--model DIR]

    one      one client, in this process: the shipped model, and a fresh one of 3 x 512, beside the tutorial's loop
    first    the time to the first note beside that of the `prime` calls
    wire     the fresh one over gRPC, in notes/s and in parts of a call
    crowd    1 to 32 clients by HTTP, with the model in process and over gRPC
    front    the front end alone: requests, its share of a note, its start, its memory
    growth   with the model's width, and with the length of a piece

Servers listen on loopback and end with this process. The model server is the tests' one (model_server.py). What is
compared runs alternately within one run. Run it while nothing else runs; it takes 4 minutes on two cores.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # as servers are: on the CPU; before TensorFlow is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.serving import front, many_clients, models, one_client
from benchmarks.serving.measure import Row, report
from serving.backends.embedded import MODELS, Embedded

PARTS = ("one", "first", "wire", "crowd", "front", "growth")
FULL, QUICK = (128, 256, 512, 1024), (32,)  # widths; the last but one, or the only one, is looked at closely
NAME = "3 × {}"


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.serving", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a small model and short turns: does it all work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as well")
    parser.add_argument("--model", default=str(MODELS), metavar="DIR", help="the trained one; default: models/")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending the servers
    with tempfile.TemporaryDirectory(prefix="cadenza-bench-") as folder:
        report(rows(args.only, Path(folder), args.model, args.quick), args.json)
    return 0


def rows(only: tuple[str, ...], folder: Path, model: str, quick: bool) -> Iterator[Row]:
    """Measure these parts, a row each figure."""
    seconds, widths = (0.3, QUICK) if quick else (3.0, FULL)
    width = widths[-2:][0]
    name, shipped, bases = NAME.format(width), "the shipped model", {}
    if set(only) - {"front"}:
        network, bases[width] = models.fresh(folder, width)
    if "one" in only:
        yield from one_client.embedded(shipped, Embedded(model), seconds)
        yield from one_client.embedded(name, Embedded(bases[width]), seconds, network)
    if "first" in only:
        for who, where in ((shipped, model), (name, bases[width])):
            yield from one_client.first_note(who, Embedded(where), 1 if quick else 5)
    if "wire" in only:
        yield from one_client.wire(name, bases[width], seconds)
    if "crowd" in only:
        notes, clients = (16, (1, 4)) if quick else (256, many_clients.CLIENTS)
        yield from many_clients.embedded(name, bases[width], notes, clients)
        yield from many_clients.remote(name, bases[width], notes, clients)
    if "front" in only:
        yield from front.alone(seconds, 1 if quick else 5)
        yield from front.start(1 if quick else 2)
    if "growth" in only:
        for other in set(widths) - set(bases):
            bases[other] = models.fresh(folder, other)[1]
        yield from one_client.growth(dict(sorted(bases.items())), seconds / 2)
        yield from one_client.late(name, Embedded(bases[width]), 256 if quick else 4096)


if __name__ == "__main__":
    sys.exit(main())
