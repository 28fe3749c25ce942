"""Train, evaluate, listen, sample and export; and index the training set, to find copied passages.

    python -m trainer train    --recipe performance --data data/maestro --run runs/performance
    python -m trainer train    --from models/performance/1 --data data/mine --run runs/mine
    python -m trainer evaluate --run runs/performance --data data/maestro --split validation
    python -m trainer listen   --run runs/performance --data data/maestro
    python -m trainer sample   --model models/performance/1 --seed song.mid --notes 500 --output out.mid
    python -m trainer sample   --run runs/performance --seed-from train --data data/maestro --output out.mid
    python -m trainer export   --run runs/performance --output models
    python -m trainer originality --data data/maestro --output models/performance/1/assets.extra/originality.index

Every folder and file may be in a bucket: gs://BUCKET/….
Started again, `train` continues from its last checkpoint. At SIGTERM and Ctrl-C it first writes a checkpoint; the exit
code is then 143 or 130.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from music.command_line import fail
from music.errors import MusicError
from trainer import BACKENDS, use_backend

_SPLITS = ["train", "validation", "test"]
_SEED_NOTES = 64  # of an excerpt of --seed-from, without --seed-notes
_GRID = {"note": "; grid of 10 ms and 32 velocities", "symbol": "; symbols of the model's own vocabulary"}


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    flags = argparse.ArgumentParser(
        "python -m trainer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = flags.add_subparsers(dest="command", required=True)
    for add in (_add_train, _add_evaluate, _add_listen, _add_sample, _add_export, _add_originality):
        add(commands)
    return flags


def _backend_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="library that Keras computes with (default: %(default)s)",
    )
    return flags


def _model_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    which = flags.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="DIR", help="a run's folder")
    which.add_argument("--model", metavar="DIR", help="an exported version's folder, such as models/performance/1")
    flags.add_argument(
        "--weights", default="best", metavar="best|last|EPOCH",
        help="which weights of --run: of the best epoch, the last one, or epoch number EPOCH (default: best)",
    )  # fmt: skip
    return flags


def _add_train(commands) -> None:
    train = commands.add_parser("train", parents=[_backend_flags()], help="train a recipe, or continue a run")
    which = train.add_mutually_exclusive_group(required=True)
    which.add_argument("--recipe", metavar="NAME", help="name of a recipe, such as performance")
    which.add_argument(
        "--from", dest="start", metavar="RUN|MODEL",
        help="begin with the weights of another run or of an exported version, at a low learning rate",
    )  # fmt: skip
    train.add_argument(
        "--weights", default="best", metavar="best|last|EPOCH",
        help="which weights of the run of --from: of the best epoch, the last one, or number EPOCH (default: best)",
    )  # fmt: skip
    train.add_argument("--data", required=True, metavar="DIR", help="folder that `python -m preprocessing` wrote")
    train.add_argument("--run", required=True, metavar="DIR", help="folder of the run; an existing run continues")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a number of the recipe, such as training.batch=32; may be given several times",
    )  # fmt: skip
    train.add_argument(
        "--minutes", type=float, metavar="M", help="stop after the epoch in which M minutes are over (default: never)"
    )
    train.add_argument(
        "--checkpoint-minutes", type=_minutes, default=10.0, metavar="M",
        help="minutes between two checkpoints within an epoch (default: %(default)g)",
    )  # fmt: skip
    train.add_argument(
        "--devices", type=_devices, metavar="N|all", help="number of GPUs to use (default: all, or one CPU)"
    )
    train.add_argument(
        "--precision", choices=["auto", "float32", "bfloat16"], default="auto",
        help="type of matrix products; auto: bfloat16 where this CPU or GPU is faster with it (default: auto)",
    )  # fmt: skip


def _add_evaluate(commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", parents=[_model_flags(), _backend_flags()], help="measure nats per note on a split"
    )
    evaluate.add_argument("--data", required=True, metavar="DIR", help="the dataset's folder")
    evaluate.add_argument("--split", choices=_SPLITS, required=True, help="the split to measure on")
    evaluate.add_argument(
        "--pieces", type=_positive, metavar="N", help="only the first N pieces, for a quick look (default: all)"
    )
    evaluate.add_argument("--bigram", action="store_true", help="also measure a bigram of the train split")
    evaluate.add_argument("--json", action="store_true", help="print one line of JSON (default: text)")


def _add_listen(commands) -> None:
    from music import flags

    listen = commands.add_parser(
        "listen",
        parents=[_model_flags(), _backend_flags()],
        help="compare a model's music with real music: a page with figures, piano rolls and MP3s",
    )
    listen.add_argument("--data", required=True, metavar="DIR", help="the dataset's folder")
    listen.add_argument(
        "--split", choices=_SPLITS, default="validation", help="split of the real music (default: validation)"
    )
    listen.add_argument(
        "--output", metavar="DIR", help="the page's folder (default: RUN/listen, or out/listen with --model)"
    )
    listen.add_argument(
        "--seeds", type=_positive, default=16, metavar="N", help="number of pieces to continue (default: 16)"
    )
    listen.add_argument(
        "--random-seeds", type=_positive, default=3, metavar="N",
        help="number of random seeds; every piece is generated once with each (default: 3)",
    )  # fmt: skip
    listen.add_argument(
        "--first-random-seed", type=_count, default=0, metavar="N", help="the first random seed (default: 0)"
    )
    listen.add_argument(
        "--seconds", type=_positive, default=120, metavar="S",
        help="seconds of each continuation that are compared (default: 120)",
    )  # fmt: skip
    listen.add_argument(
        "--minutes", type=_minutes, default=5.0, metavar="M",
        help="minutes of music after which a piece that has not ended is stopped (default: 5)",
    )  # fmt: skip
    listen.add_argument(
        "--pieces", type=_positive, default=3, metavar="N", help="number of pieces on the page (default: 3)"
    )
    flags.add_controls(listen)
    for name, value in (("temperature", 1.0), ("top-p", 1.0), ("min-p", 0.0)):
        listen.add_argument(
            f"--{name}", type=float, nargs="+", default=[value], metavar="X",
            help=f"one value or several, which are compared in every combination (default: {value:g})",
        )  # fmt: skip


def _add_sample(commands) -> None:
    from music import flags

    sample = commands.add_parser("sample", parents=[_model_flags(), _backend_flags()], help="write a piece as MIDI")
    seed = sample.add_mutually_exclusive_group()
    seed.add_argument(
        "--seed", metavar="FILE", help="continue this MIDI or MusicXML file; absent: a new piece from its beginning"
    )
    seed.add_argument(
        "--seed-from", choices=_SPLITS, help="continue an excerpt of this split of --data, chosen at random"
    )
    flags.add_drums(sample)
    sample.add_argument("--data", metavar="DIR", help="the dataset of --seed-from")
    sample.add_argument(
        "--seed-notes", type=_positive, metavar="N",
        help=f"use the first N notes of the seed (default: all of --seed; {_SEED_NOTES} with --seed-from)",
    )  # fmt: skip
    flags.add_settings(sample)
    sample.add_argument(
        "--pedal", action="store_true", help="write a sustain pedal and shorter keys (default: no pedal)"
    )
    sample.add_argument("--output", required=True, metavar="MIDI", help="the MIDI file to write")


def _add_export(commands) -> None:
    export = commands.add_parser(
        "export",
        parents=[_model_flags()],
        help="write a SavedModel for TF Serving, from a run or again from an exported model",
    )
    export.add_argument(
        "--output", required=True, metavar="DIR", help="base folder; the export is RECIPE/VERSION in it"
    )
    export.add_argument(
        "--version", type=_positive, metavar="N", help="number of the version, 1 or more (default: the next one)"
    )
    export.add_argument(
        "--xla", action="store_true",
        help="only for a TF Serving with --xla_cpu_compilation_enabled: it compiles the version when it loads it",
    )  # fmt: skip
    export.add_argument(
        "--originality", metavar="FILE", help="put this index of the training set beside the model (default: none)"
    )


def _add_originality(commands) -> None:
    index = commands.add_parser("originality", help="write an index of the training set, to find copied passages")
    index.add_argument("--data", required=True, metavar="DIR", help="the dataset's folder")
    index.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the index to write; inside a model: assets.extra/originality.index",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _devices(text: str) -> str:
    return text if text == "all" else str(_positive(text))


def _minutes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number of minutes, 0 or more, got {text!r}")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns:
        0; 2 with a line on stderr for an error that the user can mend; 75 where a bucket may answer later;
        128 + the signal's number where a signal stopped a training.
    """
    args = parser().parse_args(argv)
    use_backend(getattr(args, "backend", "tensorflow"))  # TensorFlow writes exports
    if args.command == "export":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the graph must not hold cuDNN ops
    try:
        commands = {"train": _train, "evaluate": _evaluate, "listen": _listen, "sample": _sample, "export": _export}
        (commands | {"originality": _originality})[args.command](args)
    except (MusicError, OSError) as error:
        if exit_code := getattr(error, "exit_code", None):  # of a training that a signal stopped: no error
            print(error, file=sys.stderr)
            return exit_code
        return fail("trainer", error)
    return 0


def _train(args) -> None:
    from trainer.fit import signals

    with signals.signals() as stop:  # before Keras, which takes seconds to import
        from music.pieces import Dataset
        from trainer import recipe
        from trainer.fit import loop, warm_start

        start = warm_start.load(args.start, args.weights) if args.start else None
        chosen = start.recipe() if start else recipe.load(args.recipe)
        for setting in args.set:
            chosen = recipe.override(chosen, setting)
        dataset = Dataset.open(args.data)
        loop.fit(
            chosen, dataset, args.run, args.minutes, stop=stop, checkpoint_minutes=args.checkpoint_minutes,
            on=args.devices, start=start, precision=args.precision,
        )  # fmt: skip


def _evaluate(args) -> None:
    from music.pieces import Dataset
    from trainer import data
    from trainer.evaluation import likelihood

    backend, card = _model(args)
    corpus = data.Corpus(Dataset.open(args.data), args.split, card.encoding, card.facts.get("select", ""))
    scores = {"model": likelihood.evaluate(backend, card, corpus, args.pieces)}
    if args.bigram:
        train = data.Corpus(corpus.dataset, "train", card.encoding, corpus.select)
        scores |= likelihood.floors(card.facts, train, corpus, args.pieces)
    score = scores["model"]
    if args.json:
        floors = {name: floor.to_dict() for name, floor in scores.items() if name != "model"}
        print(json.dumps({"split": args.split, **score.to_dict(), **floors}))
        return
    for name, each in scores.items():
        columns = " + ".join(f"{column} {value:.3f}" for column, value in each.columns.items())
        print(f"{name}: {each.nats:.3f} nats a {each.unit} on {args.split}: {columns}")
    print(f"{score.pieces} pieces, {score.rows:,} {score.unit}s, {score.seconds:.0f} s{_GRID[score.unit]}")


def _model(args):
    """Load the Backend that --run or --model names. Return it with its card."""
    from music import storage
    from music.generation import Generator
    from trainer import run_folder

    if args.model:
        from music.model_folder import Loaded

        copy = str(storage.local(args.model))
        with storage.called(copy, args.model):
            backend = Loaded(copy)
    else:
        backend = _live(*run_folder.load(args.run, args.weights))
    return backend, Generator(backend).describe()[0]


def _listen(args) -> None:
    import functools
    import itertools

    from music import storage
    from music.generation import Settings
    from music.pieces import Dataset
    from trainer import data
    from trainer.evaluation import similarity_page, similarity_report

    log = functools.partial(print, file=sys.stderr)
    asked = {name: getattr(args, name) for name in ("style", "density", "loudness")}
    drawing = itertools.product(args.temperature, args.top_p, args.min_p)
    settings = [Settings(1, *each, **asked) for each in drawing]
    plan = similarity_report.Plan(args.seeds, args.random_seeds, args.first_random_seed, args.seconds, args.minutes)
    backend, card = _model(args)
    dataset, select = Dataset.open(args.data), card.facts.get("select", "")
    corpus, train = (data.Corpus(dataset, split, card.encoding, select) for split in (args.split, "train"))
    material = similarity_report.gather(corpus, card.encoding, plan)
    floor, noise = similarity_report.floor(train, card.encoding, material, plan)
    played = similarity_report.listen(backend, card, material, plan, settings, log)
    by_name = {similarity_report.name(each): result for each, result in zip(settings, played, strict=True)}
    ceiling = {similarity_report.CEILING: similarity_report.ceiling(material)}
    results = {**ceiling, **by_name, similarity_report.FLOOR: floor}
    data_name = f"{args.data}, {args.split}"
    report = similarity_page.Report(args.run or args.model, data_name, plan, material, results, noise)
    for line in similarity_page.lines(report):
        print(line)
    folder = args.output or (storage.join(args.run, "listen") if args.run else "out/listen")
    similarity_page.write(report, folder, args.pieces, log)
    print(storage.join(folder, "index.html"))


def _sample(args) -> None:
    import numpy as np

    from music import flags, midi, storage
    from music import notes as nt
    from music.errors import SettingError
    from music.generation import Generator

    if args.seed_notes and not (args.seed or args.seed_from):
        raise SettingError(f"--seed-notes {args.seed_notes}: expected --seed or --seed-from as well")
    if args.data and not args.seed_from:
        raise SettingError("--data: expected --seed-from as well, the split to take a seed from")
    backend, card = _model(args)
    settings = flags.settings(args)
    file = flags.read_file(args.seed) if args.seed else None
    if args.seed_from:
        seed = _excerpt(args, card)
    else:
        seed = flags.read_part(args.seed, file=file, drums=args.drums) if args.seed else nt.empty()
        seed = nt.pitched(seed)[: args.seed_notes] if args.seed_notes else seed
    chunks = list(Generator(backend).stream(seed, settings))
    new = np.concatenate([chunk.notes for chunk in chunks])
    grid = midi.grid(file) if file else None
    storage.write(args.output, midi.write(new, before=seed, grid=grid, pedal=args.pedal))
    unread = f" ({chunks[0].unread} of them unread: the model cannot express them)" if chunks[0].unread else ""
    print(f"{args.output}: {len(seed)} notes of the seed{unread} and {len(new)} new ones, {nt.length(new):.0f} s")


def _excerpt(args, card):
    """Cut whole events out of a random piece of a split, as the encoding takes them. Their first onset becomes 0 s."""
    import numpy as np

    from music import notes as nt
    from music.errors import SettingError
    from music.pieces import Dataset
    from trainer import data

    if not args.data:
        raise SettingError(f"--seed-from {args.seed_from}: expected --data as well, the dataset to take it from")
    corpus = data.Corpus(Dataset.open(args.data), args.seed_from, card.encoding, card.facts.get("select", ""))
    rng = np.random.default_rng(args.random_seed)
    count = args.seed_notes or _SEED_NOTES
    piece = int(rng.choice(len(corpus.index), p=corpus.counts / corpus.counts.sum()))
    notes = corpus.notes(piece)
    first = int(rng.integers(max(len(notes) - count, 0) + 1))
    events = card.encoding.events(notes)
    last = events[np.searchsorted(events, min(first + count, len(notes)))]
    excerpt = notes[events[np.searchsorted(events, first, side="right") - 1] : last]
    print(f"seed: {corpus.ids[piece]}, from {excerpt['start'][0]:.1f} s")
    return nt.shift(excerpt, -float(excerpt["start"][0]))


def _export(args) -> None:
    from music import storage
    from music.analysis import memorization
    from trainer import run_folder
    from trainer.export import saved_model
    from trainer.fit import warm_start

    if args.run:
        model, card = run_folder.load(args.run, args.weights)
        card["made"] = {**card.get("made", {}), "run": Path(args.run).name, "weights": args.weights}
    else:
        start = warm_start.load(args.model)
        model, card = start.model(), start.card
        shipped = storage.join(args.model, "assets.extra", memorization.FILE)
        if args.originality is None and storage.exists(shipped):
            args.originality = shipped
    card["made"] = {**card.get("made", {}), "commit": saved_model.commit()}
    index = memorization.read(args.originality) if args.originality else None
    print(saved_model.publish(model, card, args.output, args.version, index, args.xla))


def _originality(args) -> None:
    from music import storage
    from music.analysis import memorization
    from music.pieces import Dataset

    dataset = Dataset.open(args.data)
    pieces = (piece.notes for piece in dataset.pieces("train"))
    index = memorization.build(pieces, source=dataset.facts.get("source", ""), digest=dataset.facts["digest"])
    storage.write(args.output, index.to_bytes())
    facts = index.facts
    runs = " and ".join(f"{count:,} of {length}" for length, count in facts["runs"].items())
    print(f"{facts['pieces']} pieces, {facts['notes']:,} notes; runs: {runs} notes; {len(index.bits):,} bytes")


def _live(model, card):
    from trainer.export import signatures

    return signatures.Live(model, card)


if __name__ == "__main__":
    sys.exit(run())
