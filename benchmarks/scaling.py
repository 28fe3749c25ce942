"""Measure time and memory of preprocessing at 1, 2 and 4 times a corpus.

    python -m benchmarks.scaling maestro-v3.0.0-midi.zip [--times 1 2 4] [--repeat 2] [--shards 16 --runner …]

The second, third and fourth copy of a piece are transposed by 1, -1 and 2 semitones, so that no copy is a duplicate;
they are written to a zip in a temporary folder, which is not timed. Each run is a process of its own as a person starts
it, interpreter and Beam included, and the notes of its dataset are counted. Memory is the most that the process and
its children held at one time, measured ten times a second. Of repeated runs the one with the least CPU time
counts: a shared machine only ever adds. `linear` is CPU time beside that of the smallest corpus times the ratio of
notes: 1 is linear, less is better. Flags that are not ours go to `python -m preprocessing`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from symusic import Score

from music.pieces import SPLITS, Dataset

ROOT = Path(__file__).parents[1]
SEMITONES = (0, 1, -1, 2, -2, 3, -3, 4)


class Run(NamedTuple):
    """The size and the cost of one run."""

    files: int
    notes: int
    clock: float  # seconds
    cpu: float  # seconds, of all processes
    memory: float  # MB


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n\n")[0])
    parser.add_argument("zip", nargs="?", default=os.environ.get("MAESTRO_ZIP"), help="or set MAESTRO_ZIP")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="1 to 8")
    parser.add_argument("--repeat", type=int, default=1)
    args, flags = parser.parse_known_args()
    if not args.zip:
        parser.error("which zip? give MAESTRO's, or set MAESTRO_ZIP")
    print(
        f"{'':>3}{'files':>7}{'notes':>12}{'seconds':>9}{'CPU':>8}{'files/s':>9}{'peak MB':>9}{'linear':>8}", flush=True
    )
    runs = []
    for times in args.times:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "corpus.zip")
            enlarge(args.zip, path, times)
            tried = [run(path, os.path.join(folder, str(number)), flags) for number in range(args.repeat)]
        runs.append(min(tried, key=lambda run: run.cpu))
        print(_row(times, runs[-1], runs[0]), flush=True)
    if len(runs) > 1:
        first, last = runs[0], runs[-1]
        slope = (last.memory - first.memory) / (last.files - first.files) * 1000
        print(f"{slope:.0f} MB for every 1,000 files more, beside {first.memory - slope * first.files / 1000:.0f} MB")


def _row(times: int, run: Run, first: Run) -> str:
    linear = run.cpu / (first.cpu * run.notes / first.notes)
    return (
        f"{times:>2}×{run.files:>7,}{run.notes:>12,}{run.clock:>9.1f}{run.cpu:>8.1f}{run.files / run.clock:>9.0f}"
        f"{run.memory:>9,.0f}{linear:>8.2f}"
    )


def enlarge(path: str, larger: str, times: int) -> None:
    """Write a zip with everything that is in another, and its pieces again, transposed, in folders beside."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(larger, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            if name.endswith("/"):
                continue
            data = old.read(name)
            new.writestr(name, data)
            if name.lower().endswith((".mid", ".midi")):
                top, _, below = name.rpartition("/")
                for number, semitones in enumerate(SEMITONES[1:times], 2):
                    again = Score.from_midi(data).shift_pitch(semitones).dumps_midi()
                    new.writestr(f"{top}/copy {number}/{below}", again)


def run(path: str, folder: str, flags: list[str]) -> Run:
    """Run the stage in a process of its own, and count what it wrote."""
    command = [sys.executable, "-m", "preprocessing", "--input", path, "--output", folder, *flags]
    began = perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    done = threading.Event()
    peak = [0.0]

    def watch():
        while not done.wait(0.1):
            peak[0] = max(peak[0], sum(map(resident, family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    clock = perf_counter() - began
    done.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"preprocessing failed with exit code {process.returncode}")
    dataset = Dataset.open(folder)
    notes = sum(shard["notes"] for split in SPLITS for shard in dataset.shards(split))
    return Run(sum(dataset.facts["pieces"].values()), notes, clock, usage.ru_utime + usage.ru_stime, peak[0])


def family(pid: int) -> list[int]:
    """List a process, its children and theirs."""
    try:
        text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # it has just ended
        return []
    return [pid, *(member for child in text.split() for member in family(int(child)))]


def resident(pid: int) -> float:
    """Return the memory that a process holds, in MB; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


if __name__ == "__main__":
    main()
