"""Fuzz one target, guided by what its bytes reach in our code: `python -m tests.robustness.fuzz midi --minutes 15`.

What a run reached stays in out/fuzz/TARGET and is where the next one begins. A failure leaves its bytes in
out/fuzz/TARGET-crash-… and ends with an exit code above 0, as does a signal, over a minute, or over 6 GB; that
file as an argument does it again. Bytes that broke something belong into the target's REGRESSIONS.
"""

import argparse
import hashlib
import importlib
import logging
import sys
from pathlib import Path

import atheris

from tests.robustness.fuzz import TARGETS

OURS = ["music", "serving", "preprocessing"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.fuzz", description=__doc__.partition("\n\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("bytes", nargs="?", help="a file to run once, instead")
    args = parser.parse_args()
    logging.disable()
    with atheris.instrument_imports(include=OURS):
        target = importlib.import_module(f"tests.robustness.fuzz.{args.target}")
    if args.bytes:
        target.one(Path(args.bytes).read_bytes())
        return
    corpus = Path("out/fuzz") / args.target
    corpus.mkdir(parents=True, exist_ok=True)
    for data in (*target.SEEDS, *target.REGRESSIONS):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    # Atheris itself keeps some 250 bytes an input where strings are compared: 2 GB of `cards` in nine minutes
    limits = ["-timeout=60", "-rss_limit_mb=6144", "-max_len=4096", "-print_final_stats=1"]
    limits += [f"-max_total_time={args.minutes * 60:.0f}", f"-artifact_prefix=out/fuzz/{args.target}-"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
