"""Ideas one by one: small models of one recipe, trained on equally many notes, compared with the first of them.

    python -m benchmarks.ablations QUEUE --data data/maestro --out runs/ablations [--pid FILE]  # trains what is missing
    python -m benchmarks.ablations QUEUE --out runs/ablations --table                           # prints the table

QUEUE is a text file with an idea a line, its name and what it sets: `wider: core.units=192 heads.hidden=192`. A line
may also set `order=pitch,step,velocity,duration`, and what is no part of a recipe: `pieces=48`, trained on so many
pieces of the split; `carry=1`, windows follow each other through whole pieces, the state going from one to the next
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
    """Name → settings, the baseline's included, in the file's order."""
    found: dict[str, list[str]] = {}
    for line in queue.read_text().splitlines():
        name, colon, settings = line.partition("#")[0].partition(":")
        if colon:
            shared = next(iter(found.values()), [])
            found[name.strip()] = [*shared, *settings.split()]
    return found


def results(out: Path) -> list[dict]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def missing(name: str, out: Path) -> list[int]:
    done = {line["seed"] for line in results(out) if line["name"] == name}
    return [seed for seed in SEEDS if seed not in done]


def chosen(recipe_name: str, settings: list[str]):
    """The recipe with these settings, but for those of OUTSIDE."""
    from trainer import recipe

    made = recipe.load(recipe_name)
    for setting in settings:
        if setting.partition("=")[0] in OUTSIDE:
            continue
        if setting.startswith("order="):
            columns = {column.name: column for column in made.encoding.columns}
            made = replace(made, encoding=type(made.encoding)(*(columns[n] for n in setting[6:].split(","))))
        else:
            made = recipe.override(made, setting)
    return made


def outside(settings: list[str]) -> dict[str, float]:
    """What is set that is no part of a recipe; 0 where it is not."""
    given = dict(setting.split("=", 1) for setting in settings)
    return {name: float(given.get(name, 0)) for name in OUTSIDE}


def short(corpus):
    """Only its pieces of up to LONGEST notes: side by side, a long one is waited for by all."""
    return only(corpus, np.flatnonzero(corpus.counts <= LONGEST))


def only(corpus, kept: np.ndarray):
    """Only these pieces of it."""
    corpus.index, corpus.sizes, corpus.counts = corpus.index[kept], corpus.sizes[kept], corpus.counts[kept]
    return corpus


def train(name: str, settings: list[str], args: argparse.Namespace) -> None:
    """An idea's missing runs, one after the other, with one compiled model."""
    import keras

    from benchmarks import carrying
    from music.encodings.columns import FIRST
    from music.generation import Card
    from music.pieces import Dataset
    from trainer import data, model, recipe, run_folder
    from trainer.evaluation import likelihood
    from trainer.export import signatures
    from trainer.fit import checkpoints, loop

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
    made = model.build(recipe.to_card(spec))
    made.compile(optimizer=loop.optimizer(spec, 1))
    made.optimizer.build(made.trainable_variables)
    nothing = [keras.ops.convert_to_numpy(variable) for variable in made.optimizer.variables]
    card = {"schema": 1, **recipe.to_card(spec), "state": made.state_spec}
    live = signatures.Live(made, card)
    step = carrying.stepper(made) if extra["carry"] else made.train_on_batch
    for seed in missing(name, args.out):
        keras.utils.set_random_seed(seed)
        made.set_weights(model.build(card).get_weights())
        for variable, value in zip(made.optimizer.variables, nothing, strict=True):
            variable.assign(value)
        numbers = replace(spec.training, seed=seed)
        windows = (carrying.Windows if extra["carry"] else data.Windows)(corpus, spec.encoding, numbers)
        notes, started = 0, time.process_time()
        for number in range(steps):
            batch = windows[number]
            notes += int((batch[0][:, :, 0] >= FIRST).sum())
            step(*batch)
        run_folder.load_weights(made, run_folder.weights(made) | checkpoints.averages(made), "the average")
        seconds = time.process_time() - started
        score = likelihood.evaluate(live, Card.parse(json.dumps(card)), validation, args.pieces)
        line = {
            "name": name,
            "seed": seed,
            "nats": round(score.nats, 4),
            **{column: round(value, 4) for column, value in score.columns.items()},
            "notes": notes,
            "parameters": made.count_params(),
            "notes_per_cpu_second": round(notes / seconds),
            "validation_notes": score.rows,
            "settings": settings,
        }
        with (args.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def table(names: list[str], lines: list[dict]) -> str:
    """Markdown: each idea beside the first, whose own figures stand in the first row."""
    by_name = {name: {line["seed"]: line for line in lines if line["name"] == name} for name in names}
    columns = ("nats", "step", "pitch", "velocity", "duration")
    rows = [
        "| idea | nats a note | step | pitch | velocity | duration | parameters | notes/CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = by_name[names[0]]
    for name, mine in by_name.items():
        common = sorted(set(mine) & set(base))
        if not common:
            continue
        ours, theirs = ([[one[s][c] for c in columns] for s in common] for one in (mine, base))
        shown = np.array(ours) if name == names[0] else np.array(ours) - np.array(theirs)
        mean, sign = shown.mean(0), "" if name == names[0] else "+"
        error = shown.std(0, ddof=1) / np.sqrt(len(common)) if len(common) > 1 else np.full(5, np.nan)
        cells = [f"{m:{sign}.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
        speed = np.median([mine[s]["notes_per_cpu_second"] for s in common])
        size = mine[common[0]]["parameters"]
        rows.append(f"| {name} | {' | '.join(cells)} | {size:,} | {speed:,.0f} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("queue", type=Path)
    parser.add_argument("--data", default="data/maestro")
    parser.add_argument("--out", default=Path("runs/ablations"), type=Path)
    parser.add_argument("--recipe", default="performance")
    parser.add_argument("--notes", type=int, default=NOTES, help="that each run is trained on")
    parser.add_argument("--pieces", type=int, default=PIECES, help="of the validation split")
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
    given_up: set[str] = set()
    while left := [name for name in ideas(args.queue) if name not in given_up and missing(name, args.out)]:
        command = [sys.executable, "-m", "benchmarks.ablations", *sys.argv[1:], "--idea", left[0]]
        if subprocess.run(command, env={**os.environ, **one_thread, **quiet}).returncode:
            given_up.add(left[0])
    print(table(list(ideas(args.queue)), results(args.out)))
    return 1 if given_up else 0


if __name__ == "__main__":
    sys.exit(main())
