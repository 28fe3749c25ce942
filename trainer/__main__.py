"""Train, evaluate, sample and export.

    python -m trainer train    --recipe performance --data data/maestro --run runs/performance
    python -m trainer evaluate --run runs/performance --data data/maestro --split validation
    python -m trainer sample   --run runs/performance --notes 500 --output out.mid
    python -m trainer export   --run runs/performance --output models

`train` goes on from its last checkpoint when it is started again. This is the only place that sets KERAS_BACKEND.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from music.errors import MusicError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("trainer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a recipe, or go on with a run")
    train.add_argument("--recipe", required=True)
    train.add_argument("--data", required=True, help="a folder that `python -m preprocessing` wrote")
    train.add_argument("--run", required=True, help="the run's folder; a run that is there goes on")
    train.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="e.g. training.batch=32")
    train.add_argument("--minutes", type=float, help="stop after the epoch in which they are over")
    train.add_argument("--backend", choices=["tensorflow", "jax"], default="tensorflow")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    os.environ["KERAS_BACKEND"] = getattr(args, "backend", "tensorflow")
    try:
        globals()[f"_{args.command}"](args)
    except MusicError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    return 0


def _train(args) -> None:
    from music.pieces import Dataset
    from trainer import recipe, training

    chosen = recipe.load(args.recipe)
    for setting in args.set:
        chosen = recipe.override(chosen, setting)
    training.fit(chosen, Dataset.open(args.data), args.run, args.minutes)


if __name__ == "__main__":
    sys.exit(run())
