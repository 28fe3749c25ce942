"""MIDI and MusicXML files → a dataset folder of TFRecord shards, on Apache Beam. Knows nothing of encodings and models.

On this machine (MAESTRO: 11 s on two cores):

    python -m preprocessing --input maestro-v3.0.0-midi.zip --output data/maestro

On Dataflow (both paths in a bucket; setup.py sends our code to the workers; infra/dataflow.md explains it):

    python -m preprocessing --input gs://BUCKET/midi --output gs://BUCKET/datasets/NAME \\
        --runner DataflowRunner --project PROJECT --region REGION --temp_location gs://BUCKET/temp \\
        --setup_file ./setup.py

The command waits until the job is done. If the command was stopped, run it again with --complete after the job.

Flags that are not ours go to Beam unchanged. The default --runner is FnApiRunner, which runs in this process.
`--runner DirectRunner` writes the same bytes, but first tries to download a runner named Prism.
`--direct_running_mode multi_threading` silently loses records in Beam 2.77, so it is refused;
`--direct_running_mode multi_processing --direct_num_workers 8` works.

The folder then holds, for each split, up to --shards files (only those with a piece in them), `stats.json`,
`errors.jsonl` (files that are no music, and why), `warnings.jsonl` (files that were read but are damaged, or have notes
beyond a piano's keys; and files that were passed over, and why), `duplicates.jsonl` (the same music under another path)
and, written last, `dataset.json`.
Exit code 0: complete. 1: the pipeline failed, and there is no `dataset.json`. 2: a wrong command, nothing done.
"""

import argparse
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from music import flags, midi, storage
from music.command_line import fail
from music.errors import MusicError
from music.pieces import SPLITS
from preprocessing import maestro, output, runners, sources
from preprocessing.maestro import Facts
from preprocessing.output import Outcome
from preprocessing.pipeline import Duplicates, ReadPieces, Statistics, Tally, WriteJson, WriteLines, WriteShards
from preprocessing.sources import Listing, Source


def run(argv: Sequence[str] | None = None) -> int:
    """Run preprocessing and return the exit code."""
    args, rest = _parser().parse_known_args(argv)
    began = time.monotonic()
    try:
        options = _options(rest, args)
        source = sources.find(args.input)
        listing = source.listing()
        files = len(listing.files)
        if not files:
            raise MusicError(f"--input {args.input}: {_nothing(listing)}")
        pipeline = None if args.complete else _prepare(options, args, source, listing)
    except (MusicError, OSError) as error:
        return fail("preprocessing", error, 2)
    logging.getLogger("apache_beam.runners.common").addFilter(_is_unexpected)
    try:
        if pipeline is not None:
            with _progress(files):
                runners.run(pipeline)
            if runners.only_built(options):
                print(f"The pipeline for {files:,} files is built; nothing has run, {args.output} is as it was")
                return 0
        outcome = output.complete(args.output, source.name, files)
    except (MusicError, OSError, RuntimeError) as error:
        return fail("preprocessing", _cause(error), 1)
    print(_summary(outcome, len(listing.passed_over), args.output, time.monotonic() - began))
    return 0


def _nothing(listing: Listing) -> str:
    """Say that there is no music in a source, and what there is."""
    message = f"no .mid or .midi file in it, nor one of {', '.join(midi.ENDINGS[2:])}, packed by gzip or not"
    if listing.passed_over:
        id, reason = listing.passed_over[0]
        message += f"; {len(listing.passed_over):,} other files, the first {id} ({reason})"
    return message


def _options(flags: Sequence[str], args: argparse.Namespace) -> PipelineOptions:
    """Read Beam's flags. A wrong flag raises MusicError here or in `_prepare`, before anything is written."""
    if stray := [flag for flag in flags if midi.is_music(flag)]:
        raise MusicError(f"--input takes one path, {stray[0]} is another; quote a glob, or the shell expands it")
    options = runners.options(flags)
    if runners.on_dataflow(options):
        for name in ("input", "output"):
            if not getattr(args, name).startswith("gs://"):
                raise MusicError(f"--{name} {getattr(args, name)}: Dataflow's workers see no such path, expected gs://")
    return options


def _prepare(options: PipelineOptions, args: argparse.Namespace, source: Source, listing: Listing) -> beam.Pipeline:
    """Build the pipeline; if it is going to run, also prepare --output."""
    pipeline = runners.pipeline(options)
    facts = maestro.read_tables(sources.read_tables(listing.tables))
    build(pipeline, source, facts, args.output, args.shards, args.split or "", args.drums)
    output.check(args.output, args.overwrite)
    if not runners.only_built(options):
        output.prepare(args.output)
    return pipeline


def build(
    pipeline: beam.Pipeline,
    source: Source,
    facts: dict[str, Facts],
    folder: str,
    shards: int,
    split: str = "",
    drums: bool = True,
) -> None:
    """Add to a pipeline the transforms that write everything but `dataset.json`."""
    pieces, errors, damages = pipeline | "ReadPieces" >> ReadPieces(source, facts, split, drums)
    duplicates = pieces | "Duplicates" >> Duplicates()
    statistics = pieces | "Statistics" >> Statistics(duplicates)
    written = (
        pieces | "WriteShards" >> WriteShards(folder, shards, duplicates),
        statistics | "WriteStatistics" >> WriteJson(storage.join(folder, output.STATISTICS)),
        errors | "WriteErrors" >> WriteLines(storage.join(folder, output.ERRORS), ("path", "reason")),
        duplicates | "WriteDuplicates" >> WriteLines(storage.join(folder, output.DUPLICATES), ("path", "same_as")),
        damages | "WriteWarnings" >> WriteLines(storage.join(folder, output.WARNINGS), ("path", "damage")),
    )
    written | "Written" >> beam.Flatten()  # Dask's runner runs only what leads to the last transform


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing",
        description="MIDI and MusicXML files to a dataset folder of TFRecord shards. Other flags go to Beam.",
        allow_abbrev=False,  # Beam's --run must not be read as one of our flags
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a folder, a glob (quoted), a .zip, a .tar.gz, a MIDI or a MusicXML file, local or gs://",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="an empty or a new folder for the dataset, local or gs://"
    )
    parser.add_argument(
        "--shards", type=_positive, default=16, metavar="N",
        help="number of files of each split, 1 to 99999 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=SPLITS,
        help="put all pieces into this split (default: as MAESTRO's csv says, else by a hash of the music)",
    )  # fmt: skip
    flags.add_drums(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset in --output (default: refuse)")
    parser.add_argument(
        "--complete",
        action="store_true",
        help="start no job, but count what one has written and write dataset.json: after the command that started the "
        "job was stopped, or for a job started from a template",
    )
    return parser


def _positive(text: str) -> int:
    if not 1 <= int(text) <= 99_999:  # a shard's name has five digits
        raise argparse.ArgumentTypeError(f"expected 1 to 99999, got {text}")
    return int(text)


@contextmanager
def _progress(files: int) -> Iterator[None]:
    """Print now and then how many files are done; nothing where workers are other processes or machines."""
    done = threading.Event()
    live = sys.stderr.isatty()
    before = Tally.files

    def report():
        began = time.monotonic()
        while not done.wait(0.5 if live else 3.0):
            if read := Tally.files - before:
                rate = read / (time.monotonic() - began)
                line = f"{read} of {files} files, {rate:.0f} a second, about {(files - read) / rate:.0f} s left"
                if read == files:
                    line = f"all {files} files are read, writing shards"
                print(f"\r\033[K{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
        if live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _summary(outcome: Outcome, passed_over: int, folder: str, seconds: float) -> str:
    notes = dict.fromkeys(SPLITS, 0)
    for shard in outcome.dataset["shards"]:
        notes[shard["split"]] += shard["notes"]
    lines = [f"{split:<10} {outcome.dataset['pieces'][split]:>7,} pieces {notes[split]:>12,} notes" for split in SPLITS]
    lines.append(f"{outcome.errors} files without music ({output.ERRORS})")
    if damaged := outcome.warnings - passed_over:
        lines.append(f"{damaged} files are damaged, or beyond a piano's keys ({output.WARNINGS})")
    if passed_over:
        lines.append(f"{passed_over} other files passed over ({output.WARNINGS})")
    lines.append(f"{outcome.duplicates} duplicates ({output.DUPLICATES})")
    lines.append(f"The dataset is in {folder}, after {seconds:.1f} s")
    return "\n".join(lines)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Tell whether a record of Beam's log says something that our last line will not say."""
    return not (record.exc_info and isinstance(record.exc_info[1], MusicError | OSError))


def _cause(error: Exception) -> str:
    """Cut our own message out of a worker's error: Beam adds a place, and another process a traceback."""
    messages = re.findall(r"^(?:music\.errors\.\w+|\w*Error): (.*)", str(error), re.MULTILINE)
    if isinstance(error, RuntimeError) and not messages:
        raise error  # no mistake of the user's
    return (messages[-1] if messages else str(error)).partition(" [while running")[0]


def _interrupted(*_) -> None:
    """End at once: Beam would print a traceback of sixty lines for Ctrl-C, and there is nothing to clean up."""
    os._exit(
        fail(
            "preprocessing",
            "interrupted; the dataset is not complete. Run again with --overwrite; or, where a Dataflow job goes on, "
            "with --complete when it is done",
            130,
        )
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupted)
    sys.exit(run())
