"""Draw a run's validation over the notes that it has seen, beside other models on the same windows.

    python -m benchmarks.curve runs/pianist/1 --data data/maestro --model models/performance/1 --output docs/pianist.png

A run and the run that it was started from (--from) are one curve. Where their windows differ in length, its parts
cannot be compared. Each --model, an exported version or a run's folder, stands as a point where its card says how
many notes it has seen, those of the runs before it included. It is measured on the validation windows of the run that
has seen about as many, from an empty state as in training. Prints the same as a Markdown table.
"""

import argparse
from pathlib import Path

import numpy as np

from music import storage
from music.errors import SettingError
from music.generation import Card
from music.plots import style
from music.plots.piano_roll import read_history
from trainer import use_backend


def main() -> int:
    """Measure, print and draw; return the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks.curve", description=__doc__.partition("\n\n")[0])
    parser.add_argument("run", nargs="+", help="folders of runs, each one started from the one before it")
    parser.add_argument("--data", required=True, help="a folder of `python -m preprocessing`")
    parser.add_argument("--model", action="append", default=[], metavar="DIR", help="a model to compare with")
    parser.add_argument("--output", required=True, metavar="PNG")
    args = parser.parse_args()
    use_backend()
    notes, nats, owners = curve(args.run)
    points = {path: point(path, notes, owners, args.data) for path in args.model}
    print("| model | M notes seen | nats a note |\n|---|---|---|")
    for name, (seen, value) in points.items():
        print(f"| {name} | {seen / 1e6:.1f} | {value:.3f} |")
        near = int(np.argmin(np.abs(notes - seen)))
        print(f"| the run, nearest to that | {notes[near] / 1e6:.1f} | {nats[near]:.3f} |")
    print(f"| the run, now | {notes[-1] / 1e6:.1f} | {nats[-1]:.3f} |")
    draw(notes, nats, points, args.output)
    return 0


def curve(runs: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read each epoch of runs that follow each other: notes seen and nats, float64 [epochs] each, and its run.

    The notes count from the beginning of the weights that the first run was started from.
    """
    notes, nats, owners, before = [], [], [], 0.0
    card_path = storage.join(runs[0], "card.json")
    start = Card.parse(storage.read(card_path), card_path).facts.get("from", {})
    while start:
        before, start = before + start.get("notes", 0), start.get("from", {})
    for run in runs:
        history = read_history(storage.join(run, "history.csv"))
        notes += [before + count for count in history["notes"]]
        nats += [*history["val_loss"]]
        owners += [run] * len(history["notes"])
        before = notes[-1]
    return np.array(notes), np.array(nats), owners


def point(path: str, notes: np.ndarray, owners: list[str], folder: str) -> tuple[float, float]:
    """Return how many notes a model has seen, and its nats a note on the windows of the run that is nearest to that.

    Raises SettingError for a model of another encoding than that run's.
    """
    from music.encodings.columns import FIRST
    from music.pieces import Dataset
    from trainer import data
    from trainer.fit import warm_start
    from trainer.recipe import from_card

    start = warm_start.load(path)
    run = owners[int(np.argmin(np.abs(notes - start.notes)))]
    card_path = storage.join(run, "card.json")
    recipe = from_card(Card.parse(storage.read(card_path), card_path).facts)
    corpus = data.Corpus(Dataset.open(folder), "validation", recipe.encoding, recipe.select)
    rows = data.validation(corpus, recipe.encoding, recipe.training)
    model, total = start.model(), 0.0
    if model.encoding.config() != recipe.encoding.config():
        raise SettingError(f"{path}: expected the encoding of {run}, got another one")
    for at in range(0, len(rows), 32):
        total += float(np.asarray(model(rows[at : at + 32])).sum())
    return start.notes, total / float((rows[:, :, 0] >= FIRST).sum())


def draw(notes: np.ndarray, nats: np.ndarray, points: dict[str, tuple[float, float]], path: str) -> None:
    """Draw the curve and the points as a PNG."""
    figure = style.figure(8, 4.5)
    axes = figure.subplots()
    axes.plot(notes / 1e6, nats, marker=".", color=style.COLOURS[0], label=f"this run {nats[-1]:.3f}")
    for number, (name, (seen, value)) in enumerate(points.items(), start=1):
        colour = style.COLOURS[number % len(style.COLOURS)]
        axes.plot(seen / 1e6, value, marker="D", linestyle="none", color=colour, label=f"{Path(name)} {value:.3f}")
    axes.set_xlabel("million notes seen")
    axes.set_ylabel("nats a note, validation windows")
    axes.grid(color=style.INK, alpha=0.12, linewidth=0.6)
    axes.legend(frameon=False)
    style.plain(axes)
    style.save(figure, path)


if __name__ == "__main__":
    raise SystemExit(main())
