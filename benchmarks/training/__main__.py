"""Measure how fast training is, beside the limits of matrix products and of the data, as a Markdown table.

    python -m benchmarks.training [--data data/maestro] [--backend jax] [--set core.units=512 …] [--json FILE] [--quick]

    fit      notes/s as `python -m trainer train` makes them on TensorFlow and JAX, each with Keras' own LSTM layer, as
             it was before 2026-11-30, and in three parts (trainer/model/recurrence.py), with the ratio of the two;
             the share of the measured peak of matrix products; how long steps waited for data
    data     the input pipeline alone: shards → batches, with few of the notes held, for one corpus and for 8 of them

Without --data random notes are used, as many a piece and a shard as in MAESTRO. Each row is a process of its own. On
two cores it all takes eight minutes. Nothing else should run meanwhile.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving.measure import Row, report
from benchmarks.training import corpus

PARTS = ("fit", "data")
LAYERS = {"keras": "Keras' LSTM layer", "parts": "in three parts"}
PER_CPU = "float32 a second of CPU"
TIMES = (1, 8)  # so many corpora after one another


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", metavar="DIR", help="a folder of `python -m preprocessing`; default: made up")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--backend", nargs="+", choices=["tensorflow", "jax"], default=["tensorflow", "jax"])
    parser.add_argument("--size", nargs="+", choices=["small", "whole"], default=["small", "whole"],
                        help="small: 2 × 256 on a CPU; whole: the recipe's 3 × 512")  # fmt: skip
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="e.g. core.units=512")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement of training (default: 12)")
    parser.add_argument("--memory", type=int, default=2_000_000, help="notes that the pipeline may hold")
    parser.add_argument("--threads", type=int, default=2, help="of the pipeline alone (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a small model and little music: does it all work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cadenza-bench-") as folder:
        if args.data is None:
            args.data = folder
            corpus.write(Path(folder), *((2, 4) if args.quick else (16, 60)))
        report(rows(args), args.json)
    return 0


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """Measure the parts that --only names, a row each."""
    if "fit" in args.only:
        for backend, size in itertools.product(args.backend, args.size):
            plain = fitted(backend, size, "keras", args)
            yield plain
            yield fitted(backend, size, "parts", args, plain.numbers)
    if "data" in args.only:
        for times in TIMES:
            yield piped(times, args)


def fitted(backend: str, size: str, layer: str, args: argparse.Namespace, plain: dict | None = None) -> Row:
    """Measure one way of training. `plain`: the figures of the way that it is compared with."""
    small = ["training.window=32", "training.batch=4", "core.units=16", "heads.hidden=16"] if args.quick else []
    facts = _child(
        "fitting", {"KERAS_BACKEND": backend},
        "--data", args.data, "--size", size, "--layer", layer, "--precision", args.precision,
        "--seconds", str(0.5 if args.quick else args.seconds), *(f"--set={setting}" for setting in (*small, *args.set)),
    )  # fmt: skip
    seconds, cpu, notes, done = (facts[name] for name in ("seconds", "cpu", "notes", "operations"))
    shares = [
        f"{done / (cpu if kind == PER_CPU else seconds) / peak:.0%} of {kind} products' {peak / 1e9:,.0f}"
        for kind, peak in facts["peaks"].items()
    ]
    ratio = f", {notes / seconds / (plain['notes'] / plain['seconds']):.2f} × {LAYERS['keras']}" if plain else ""
    return Row(
        f"training {facts['layers']} × {facts['units']} ({facts['parameters'] / 1e6:.1f} M parameters), "
        f"{facts['batch']} × {facts['window']} notes a batch, {facts['device']}: "
        f"{backend}, {LAYERS[layer]}, {facts['products']}",
        f"**{notes / seconds:,.0f} notes/s**{ratio} ({notes / cpu:,.0f} a second of CPU), {done / seconds / 1e9:,.0f} "
        f"GFLOP/s: {', '.join(shares)}; waits for data {facts['waited'] / seconds:.1%} of the time, making it takes "
        f"{facts['making'] / cpu:.2%} of the CPU time; ready after {facts['warm']:.0f} s",
        facts,
    )


def piped(times: int, args: argparse.Namespace) -> Row:
    """Measure the data pipeline with so many corpora."""
    facts = _child(
        "pipeline", {"KERAS_BACKEND": "numpy"},
        "--data", args.data, "--times", str(times), "--memory", str(args.memory), "--threads", str(args.threads),
    )  # fmt: skip
    return Row(
        f"the data alone, {facts['notes'] / 1e6:,.1f} M notes ({facts['bytes'] / 2**20:,.0f} MB as notes), "
        f"{args.memory / 1e6:g} M held, {args.threads} threads",
        f"**{facts['notes'] / facts['seconds'] / 1e6:.2f} M notes/s** shards to batches, reading each shard again, "
        f"{1e9 * facts['cpu'] / facts['notes']:.0f} ns of CPU a note; the first reading "
        f"{facts['notes'] / facts['first_seconds'] / 1e6:.1f} M notes/s; {facts['peak'] / 2**20:,.0f} MB at the peak, "
        f"{facts['peak_before'] / 2**20:,.0f} before",
        facts,
    )


def _child(module: str, environment: dict[str, str], *arguments: str) -> dict:
    """Run benchmarks.training.MODULE as a process of its own. Return the JSON of its last line."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-m", f"benchmarks.training.{module}", *arguments]
    done = subprocess.run(command, env={**os.environ, **quiet, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
