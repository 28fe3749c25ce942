"""Measure preprocessing of all of MAESTRO, beside a plain loop over the same files with pretty_midi.

    python benchmarks/preprocess.py maestro-v3.0.0-midi.zip        # or MAESTRO_ZIP=… python benchmarks/preprocess.py

Preprocessing is the whole process as a person starts it, with interpreter and Beam, from the zip to the verified
dataset. Only Python's bytecode is there already, as after any first start (compiling Beam's takes 1.5 s more).
The loop only parses and writes nothing: every 25th file is read into sorted notes, and the time is extrapolated by
notes to all files. Half of it runs before preprocessing and half after, so that a machine that grows busy does not
favour one. Seconds of CPU stand beside those of the clock, as other processes change them less.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import pretty_midi

from music.pieces import SPLITS, Dataset

ROOT = Path(__file__).parents[1]
SAMPLE = 50


class Cost(NamedTuple):
    """The seconds that some work took."""

    clock: float
    cpu: float

    def times(self, factor: float) -> "Cost":
        return Cost(self.clock * factor, self.cpu * factor)


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MAESTRO_ZIP")
    if not path:
        sys.exit("usage: python benchmarks/preprocess.py MAESTRO.zip, or set MAESTRO_ZIP")
    names = sample(path)
    with tempfile.TemporaryDirectory() as folder:
        before, notes_before = loop(path, names[::2])
        pipeline_cost, megabytes = pipeline(path, folder)
        after, notes_after = loop(path, names[1::2])
        dataset = Dataset.open(folder)
    notes = sum(shard["notes"] for split in SPLITS for shard in dataset.shards(split))
    files = sum(dataset.facts["pieces"].values())
    sampled = Cost(before.clock + after.clock, before.cpu + after.cpu)
    extrapolated = sampled.times(notes / (notes_before + notes_after))
    print(f"{'':<34}{'files':>7}{'notes':>12}{'seconds':>10}{'CPU':>8}{'notes/s':>10}{'peak MB':>9}")
    print(_row("python -m preprocessing", files, notes, pipeline_cost) + f"{megabytes:>9,.0f}")
    print(_row("pretty_midi loop, a sample", len(names), notes_before + notes_after, sampled))
    print(_row("pretty_midi loop, extrapolated", files, notes, extrapolated))
    print(f"{'ratio':<53}{extrapolated.clock / pipeline_cost.clock:>10.1f}{extrapolated.cpu / pipeline_cost.cpu:>8.1f}")


def sample(path: str) -> list[str]:
    """Choose SAMPLE names of MIDI files, evenly spaced in the sorted list."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".mid", ".midi")))
    return names[:: max(1, len(names) // SAMPLE)][:SAMPLE]


def pipeline(path: str, folder: str) -> tuple[Cost, float]:
    """Run preprocessing in a process of its own. Return its cost and the peak of its resident memory in MB."""
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        command = [sys.executable, "-m", "preprocessing"]
        subprocess.run([*command, "--help"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        began = time.perf_counter()
        flags = ["--input", os.path.abspath(path), "--output", folder]
        process = subprocess.Popen([*command, *flags], cwd=ROOT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        cost = Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"preprocessing failed with exit code {process.returncode}")
    return cost, usage.ru_maxrss / 1024  # Linux counts in KB


def loop(path: str, names: list[str]) -> tuple[Cost, int]:
    """Read files with pretty_midi. Return the cost and the number of notes."""
    with zipfile.ZipFile(path) as archive:
        clock, cpu = time.perf_counter(), time.process_time()
        count = 0
        for name in names:
            midi = pretty_midi.PrettyMIDI(io.BytesIO(archive.read(name)))
            notes = [note for instrument in midi.instruments for note in instrument.notes]
            count += len(sorted(notes, key=lambda note: (note.start, note.pitch)))
        return Cost(time.perf_counter() - clock, time.process_time() - cpu), count


def _row(name: str, files: int, notes: int, cost: Cost) -> str:
    return f"{name:<34}{files:>7,}{notes:>12,}{cost.clock:>10.1f}{cost.cpu:>8.1f}{notes / cost.clock:>10,.0f}"


if __name__ == "__main__":
    main()
