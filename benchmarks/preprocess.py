"""How long preprocessing takes for all of MAESTRO, beside a plain loop over the same files with pretty_midi.

    python benchmarks/preprocess.py maestro-v3.0.0-midi.zip        # or MAESTRO_ZIP=… python benchmarks/preprocess.py

Ours is the whole process as a person starts it, interpreter and Beam included, from the zip to the verified dataset.
The loop only parses, and writes nothing: every 25th file or so is read and made into sorted notes, and its time is
extrapolated by notes to the whole.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pretty_midi

from music.pieces import SPLITS, Dataset

ROOT = Path(__file__).parents[1]
SAMPLE = 50


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MAESTRO_ZIP")
    if not path:
        sys.exit("usage: python benchmarks/preprocess.py MAESTRO.zip, or set MAESTRO_ZIP")
    with tempfile.TemporaryDirectory() as folder:
        seconds, megabytes = pipeline(path, folder)
        dataset = Dataset.open(folder)
        notes = sum(shard["notes"] for split in SPLITS for shard in dataset.shards(split))
        files = sum(dataset.facts["pieces"].values())
    loop_seconds, loop_notes = loop(path)
    whole = loop_seconds * notes / loop_notes
    print(f"{'':<34}{'files':>7}{'notes':>12}{'seconds':>10}{'notes/s':>10}{'peak MB':>9}")
    print(_row("python -m preprocessing", files, notes, seconds) + f"{megabytes:>9,.0f}")
    print(_row(f"pretty_midi loop, {SAMPLE} files", SAMPLE, loop_notes, loop_seconds))
    print(_row("pretty_midi loop, extrapolated", files, notes, whole))
    print(f"ratio {whole / seconds:.1f}")


def pipeline(path: str, folder: str) -> tuple[float, float]:
    """Run the stage in a process of its own; returns its seconds and the peak of its resident memory in MB."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "preprocessing", "--input", os.path.abspath(path), "--output", folder]
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"preprocessing failed with exit code {process.returncode}")
    return seconds, usage.ru_maxrss / 1024  # Linux counts in KB


def loop(path: str) -> tuple[float, int]:
    """Read SAMPLE files with pretty_midi; returns the seconds and how many notes there were."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".mid", ".midi")))
        sample = names[:: max(1, len(names) // SAMPLE)][:SAMPLE]
        began = time.perf_counter()
        found = 0
        for name in sample:
            midi = pretty_midi.PrettyMIDI(io.BytesIO(archive.read(name)))
            notes = [note for instrument in midi.instruments for note in instrument.notes]
            found += len(sorted(notes, key=lambda note: (note.start, note.pitch)))
        return time.perf_counter() - began, found


def _row(name: str, files: int, notes: int, seconds: float) -> str:
    return f"{name:<34}{files:>7,}{notes:>12,}{seconds:>10.1f}{notes / seconds:>10,.0f}"


if __name__ == "__main__":
    main()
