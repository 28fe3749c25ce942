"""Measure what reading the largest hostile MIDI files costs: 5 MB each, generated here, one process for each.

    python -m benchmarks.hostile

Prints the CPU seconds of `music.midi.read`, the most memory that its process held, and the result.
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
    """Measure one file. Return its line."""
    data = hostile.LARGE[name]()
    before = time.process_time()
    try:
        notes, warnings = midi.read_with_warnings(data)
        result = f"{len(notes):,} notes" + (f", {len(warnings)} warnings: {warnings[0]}" if warnings else "")
    except MidiError as error:
        result = str(error)
    seconds, peak = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{name:<44}{seconds:6.2f} s{peak:6.0f} MB  {result[:90]}"


if __name__ == "__main__":
    main()
