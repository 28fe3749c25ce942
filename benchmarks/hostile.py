"""What reading the largest hostile MIDI files costs: 5 MB each, made here, one process for each.

    python -m benchmarks.hostile

CPU seconds of `music.midi.read`, the most memory that its process held, and what came of it.
"""

import resource
import subprocess
import sys
import time

from music import midi
from music.errors import MidiError
from tests.support import hostile


def main() -> None:
    if len(sys.argv) > 1:
        print(measure(sys.argv[1]), flush=True)
        return
    for name in hostile.LARGE:
        subprocess.run([sys.executable, "-m", "benchmarks.hostile", name], check=True)


def measure(name: str) -> str:
    """One line about one file."""
    data = hostile.LARGE[name]()
    before = time.process_time()
    try:
        notes, warnings = midi.read_mended(data)
        came = f"{len(notes):,} notes" + (f", {len(warnings)} warnings: {warnings[0]}" if warnings else "")
    except MidiError as error:
        came = str(error)
    seconds, peak = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{name:<44}{seconds:6.2f} s{peak:6.0f} MB  {came[:90]}"


if __name__ == "__main__":
    main()
