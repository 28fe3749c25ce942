"""Beam's own flags → checked options, and a pipeline that has run. Knows nothing of music and files.

Every runner gets the same pipeline. Runners differ in the flags that they need and in their errors, which become one
line here. With wrong flags Beam itself would lose records, create a bucket or try for minutes.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.runners.runner import PipelineResult

from music.errors import MusicError

DATAFLOW = "DataflowRunner"
_FULL_NAMES = {"DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner"}  # Beam has no short name for it


def options(flags: Sequence[str]) -> PipelineOptions:
    """Read Beam's flags; the default runner is FnApiRunner.

    Raises:
        MusicError: with these flags records would be lost, or Beam would invent what is missing.
    """
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    standard.runner = _full_name(standard.runner or "FnApiRunner")
    if options.view_as(DirectOptions).direct_running_mode == "multi_threading":
        raise MusicError(
            "--direct_running_mode multi_threading loses records in Beam 2.77; leave it out, or take multi_processing"
        )
    setup = options.view_as(SetupOptions)
    if setup.setup_file and not os.path.isfile(setup.setup_file):
        raise MusicError(f"--setup_file {setup.setup_file}: there is no such file")
    if setup.save_main_session is None:
        setup.save_main_session = False  # workers install our code as a package and need nothing of `__main__`
    if options.view_as(TestOptions).dry_run and not on_dataflow(options):
        raise MusicError(f"--dry_run is only for --runner {DATAFLOW}; {standard.runner} would run all the same")
    cloud = options.view_as(GoogleCloudOptions)
    if on_dataflow(options) and not (cloud.temp_location or cloud.staging_location or "").startswith("gs://"):
        raise MusicError(  # Beam would create a bucket, and not name it
            f"--runner {DATAFLOW} needs --temp_location gs://BUCKET/temp, got {cloud.temp_location or 'none'}"
        )
    return options


def _full_name(runner: str) -> str:
    """Complete a runner's name as Beam does: in any case, and with or without "Runner" at its end."""
    names = {path.rpartition(".")[2].lower(): path.rpartition(".")[2] for path in StandardOptions.ALL_KNOWN_RUNNERS}
    names |= {name.lower(): name for name in _FULL_NAMES}
    name = names.get(runner.lower()) or names.get(f"{runner.lower()}runner") or runner
    return _FULL_NAMES.get(name, name)


def on_dataflow(options: PipelineOptions) -> bool:
    """Tell whether the runner is Dataflow's."""
    return options.view_as(StandardOptions).runner == DATAFLOW


def only_built(options: PipelineOptions) -> bool:
    """Tell whether the pipeline is built but not run: --dry_run=true, or a template that is started later."""
    template = options.view_as(GoogleCloudOptions).template_location
    return on_dataflow(options) and bool(options.view_as(TestOptions).dry_run or template)


def pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Make an empty pipeline.

    Raises:
        MusicError: there is no such runner, or it needs another flag.
    """
    try:
        empty = beam.Pipeline(options=options)
    except ValueError as error:
        raise MusicError(" ".join(str(error).split())) from error
    for name in ("distributed", "apache_beam.runners.dask"):  # it logs some fifty lines about starting and stopping
        logging.getLogger(name).setLevel(logging.ERROR)
    return empty


def run(pipeline: beam.Pipeline) -> None:
    """Run a pipeline to its end; with --dry_run or for a template, only build it.

    Raises:
        MusicError: Google's services refused it, or it failed there.
    """
    options = pipeline.options
    if not on_dataflow(options):
        with _closed(pipeline.run()) as result:
            result.wait_until_finish()
        return
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError

    try:
        with _job_log():
            job: Any = pipeline.run()
            if not only_built(options):
                _print_job(job.job_id(), options.view_as(GoogleCloudOptions))
                job.wait_until_finish()
    except (GoogleAPICallError, RetryError, GoogleAuthError, DataflowRuntimeException) as error:
        raise MusicError(f"Dataflow: {' '.join(str(error).split())}") from error


@contextmanager
def _closed(result: PipelineResult) -> Iterator[PipelineResult]:
    """Close the cluster of Dask's runner at the end: the runner starts one and does not stop it."""
    try:
        yield result
    finally:
        if client := getattr(result, "client", None):
            client.close()


@contextmanager
def _job_log() -> Iterator[None]:
    """Print Beam's log of a job's states and its workers' errors, which is silent by default. Silence Beam's log of
    refused requests, as `run` raises them."""
    log = logging.getLogger("apache_beam.runners.dataflow.dataflow_runner")
    refusals = logging.getLogger("apache_beam.runners.dataflow.internal.apiclient")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = log.level, log.propagate, refusals.disabled
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate, refusals.disabled = False, True
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate, refusals.disabled = before


def _print_job(job: str, cloud: GoogleCloudOptions) -> None:
    page = f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job}?project={cloud.project}"
    print(
        f"Dataflow job {job} is submitted: {page}\n"
        "If this command is stopped the job goes on; when it is done, the same command with --complete declares it.",
        file=sys.stderr,
        flush=True,
    )
