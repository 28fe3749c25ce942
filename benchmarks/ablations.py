"""Compare ideas: small models of one recipe, each with other settings, trained on equally many notes.

    python -m benchmarks.ablations QUEUE --data data/maestro --out runs/ablations [--pid FILE]  # trains what is missing
    python -m benchmarks.ablations QUEUE --out runs/ablations --table                           # prints the table

QUEUE is a text file with an idea a line, its name and what it sets: `wider: core.units=192 heads.hidden=192`. A line
may also set `order=pitch,step,velocity,duration`, and what is no part of a recipe: `pieces=48` trains on so many
pieces of the split; with `carry=1` windows follow each other through whole pieces and the state is carried along
(benchmarks/carrying.py). The first line is the baseline, whose settings all the others have too. Each idea is trained
with three random seeds, a seed's windows being the same for all ideas (of one length, not carried), and measured as
`trainer evaluate` does, on the first pieces of the validation split that have at most 3,000 notes.

One JSON line a run goes to OUT/results.jsonl. What is there is not trained again, so a queue that was ended goes on and
loses one run at most. QUEUE is read again after every idea, each of which has a fresh process, and may grow meanwhile.
Notes and CPU seconds are counted, no other time: stop it and let it go on as you like (SIGSTOP and SIGCONT to its
process group, whose id --pid writes down). The ± is the standard error of the differences, paired by seed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

NOTES, PIECES, LONGEST, SEEDS = 200_000, 16, 3_000, (1, 2, 3)
OUTSIDE = ("pieces", "carry")  # settings that are no part of a recipe


def ideas(queue: Path) -> dict[str, list[str]]:
    """Read the queue: name → settings, the baseline's included, in the file's order."""
    settings_of: dict[str, list[str]] = {}
    for line in queue.read_text().splitlines():
        name, colon, settings = line.partition("#")[0].partition(":")
        if colon:
            shared = next(iter(settings_of.values()), [])
            settings_of[name.strip()] = [*shared, *settings.split()]
    return settings_of


def results(out: Path) -> list[dict]:
    """Read the lines of the runs that are done."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def missing(name: str, out: Path) -> list[int]:
    """List the random seeds that an idea has no run of."""
    done = {line["seed"] for line in results(out) if line["name"] == name}
    return [seed for seed in SEEDS if seed not in done]


def chosen(recipe_name: str, settings: list[str]):
    """Load a recipe with these settings, but without those of OUTSIDE."""
    from trainer import recipe

    variant = recipe.load(recipe_name)
    for setting in settings:
        if setting.partition("=")[0] in OUTSIDE:
            continue
        if setting.startswith("order="):
            columns = {column.name: column for column in variant.encoding.columns}
            variant = replace(variant, encoding=type(variant.encoding)(*(columns[n] for n in setting[6:].split(","))))
        else:
            variant = recipe.override(variant, setting)
    return variant


def outside(settings: list[str]) -> dict[str, float]:
    """Read the settings of OUTSIDE; 0 where one is not set."""
    values = dict(setting.split("=", 1) for setting in settings)
    return {name: float(values.get(name, 0)) for name in OUTSIDE}


def short(corpus):
    """Drop the pieces of more than LONGEST notes: side by side, all wait for a long one."""
    return only(corpus, np.flatnonzero(corpus.counts <= LONGEST))


def only(corpus, pieces: np.ndarray):
    """Drop all pieces but these."""
    corpus.index, corpus.sizes, corpus.counts = corpus.index[pieces], corpus.sizes[pieces], corpus.counts[pieces]
    return corpus


def train(name: str, settings: list[str], args: argparse.Namespace) -> None:
    """Train an idea's missing runs, one after the other, with one compiled model."""
    import keras

    from benchmarks import carrying
    from music.encodings.columns import FIRST
    from music.generation import Card
    from music.pieces import Dataset
    from trainer import data, model, recipe, run_folder
    from trainer.evaluation import likelihood
    from trainer.export import signatures
    from trainer.fit import checkpoints, optimizers

    spec, extra = chosen(args.recipe, settings), outside(settings)
    dataset = Dataset.open(args.data)
    corpus = data.Corpus(dataset, "train", spec.encoding)
    if extra["pieces"]:  # the same ones for all seeds
        corpus = only(corpus, np.random.default_rng(0).permutation(len(corpus.index))[: int(extra["pieces"])])
    validation = short(data.Corpus(dataset, "validation", spec.encoding))
    if extra["carry"]:
        windows_of_all = np.sum(-(-(corpus.sizes + 2) // spec.training.window))
    else:
        windows_of_all = len(data.cuts(corpus, spec.training.window, np.random.default_rng(0)))
    steps = round(args.notes / (np.sum(corpus.sizes + 2) / windows_of_all * spec.training.batch))
    spec = replace(spec, training=replace(spec.training, steps=steps, epochs=1))
    network = model.build(recipe.to_card(spec))
    network.compile(optimizer=optimizers.build(spec.training, 1))
    network.optimizer.build(network.trainable_variables)
    untrained = [keras.ops.convert_to_numpy(variable) for variable in network.optimizer.variables]
    card = {"schema": 1, **recipe.to_card(spec), "state": network.state_spec}
    live = signatures.Live(network, card)
    step = carrying.stepper(network) if extra["carry"] else network.train_on_batch
    for seed in missing(name, args.out):
        keras.utils.set_random_seed(seed)
        network.set_weights(model.build(card).get_weights())
        for variable, value in zip(network.optimizer.variables, untrained, strict=True):
            variable.assign(value)
        numbers = replace(spec.training, seed=seed)
        windows = (carrying.Windows if extra["carry"] else data.Windows)(corpus, spec.encoding, numbers)
        notes, started = 0, time.process_time()
        for number in range(steps):
            batch = windows[number]
            notes += int((batch[0][:, :, 0] >= FIRST).sum())
            step(*batch)
        run_folder.load_weights(network, run_folder.weights(network) | checkpoints.averages(network), "the average")
        seconds = time.process_time() - started
        score = likelihood.evaluate(live, Card.parse(json.dumps(card)), validation, args.pieces)
        line = {
            "name": name,
            "seed": seed,
            "nats": round(score.nats, 4),
            **{column: round(value, 4) for column, value in score.columns.items()},
            "notes": notes,
            "parameters": network.count_params(),
            "notes_per_cpu_second": round(notes / seconds),
            "validation_notes": score.rows,
            "settings": settings,
        }
        with (args.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def table(names: list[str], lines: list[dict]) -> str:
    """Write the table in Markdown: the first idea's figures, and each other's difference from them."""
    by_name = {name: {line["seed"]: line for line in lines if line["name"] == name} for name in names}
    columns = ("nats", "step", "pitch", "velocity", "duration")
    rows = [
        "| idea | nats a note | step | pitch | velocity | duration | parameters | notes/CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = by_name[names[0]]
    for name, by_seed in by_name.items():
        common = sorted(set(by_seed) & set(base))
        if not common:
            continue
        figures, baseline = ([[one[s][c] for c in columns] for s in common] for one in (by_seed, base))
        values = np.array(figures) if name == names[0] else np.array(figures) - np.array(baseline)
        mean, sign = values.mean(0), "" if name == names[0] else "+"
        error = values.std(0, ddof=1) / np.sqrt(len(common)) if len(common) > 1 else np.full(5, np.nan)
        cells = [f"{m:{sign}.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
        speed = np.median([by_seed[s]["notes_per_cpu_second"] for s in common])
        size = by_seed[common[0]]["parameters"]
        rows.append(f"| {name} | {' | '.join(cells)} | {size:,} | {speed:,.0f} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("queue", type=Path)
    parser.add_argument("--data", default="data/maestro")
    parser.add_argument("--out", default=Path("runs/ablations"), type=Path)
    parser.add_argument("--recipe", default="performance")
    parser.add_argument("--notes", type=int, default=NOTES, help="to train on in each run (default: %(default)s)")
    parser.add_argument("--pieces", type=int, default=PIECES, help="of validation (default: %(default)s)")
    parser.add_argument("--backend", choices=["tensorflow", "jax"], default="tensorflow")
    parser.add_argument("--pid", type=Path, help="where to write the id of this process group")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--idea", help=argparse.SUPPRESS)  # what a fresh process is started for
    args = parser.parse_args()
    if args.table:
        print(table(list(ideas(args.queue)), results(args.out)))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    if args.idea:
        train(args.idea, ideas(args.queue)[args.idea], args)
        return 0
    if args.pid:
        args.pid.write_text(f"{os.getpgrp()}\n")
    one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    quiet = {"KERAS_BACKEND": args.backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    failed: set[str] = set()
    while left := [name for name in ideas(args.queue) if name not in failed and missing(name, args.out)]:
        command = [sys.executable, "-m", "benchmarks.ablations", *sys.argv[1:], "--idea", left[0]]
        if subprocess.run(command, env={**os.environ, **one_thread, **quiet}).returncode:
            failed.add(left[0])
    print(table(list(ideas(args.queue)), results(args.out)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
