"""Measure synthesis in seconds of music per second: ours, as WAV and MP3, beside pretty_midi's own.

    python -m benchmarks.rendering [FILE.mid] [--repeat 3]

Without a file a generated piece is played: five minutes of a run over the whole keyboard, twenty notes a second,
as in MAESTRO's densest. The baseline, `PrettyMIDI.fluidsynth`, gets the same notes and the same sound font in the same
process: it has all of the piece in memory, a part for each instrument, in 16 bits. All work is on one core, so the
figures by this process's CPU time hold on a busy machine too; the best of the repeats counts.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pretty_midi

from music import audio, midi
from music import notes as nt
from music.notes import Notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("file", nargs="?", help="a MIDI file; default: a generated piece")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    notes = midi.read(Path(args.file).read_bytes()) if args.file else dense()
    seconds = nt.length(notes)
    name = args.file or "a generated piece"
    print(f"{name}: {seconds:.0f} s, {len(notes):,} notes, {len(notes) / seconds:.1f} a second")
    baseline = pretty_midi.PrettyMIDI(io.BytesIO(midi.write(notes)))

    print(f"{'times as fast as real time, by':34} {'CPU':>5} {'clock':>6}")

    def measure(what: str, work: Callable[[], object]) -> float:
        times = []
        for _ in range(args.repeat):
            before = time.process_time(), time.perf_counter()
            work()
            times.append((time.process_time() - before[0], time.perf_counter() - before[1]))
        cpu, clock = np.min(times, axis=0)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{what:34} {seconds / cpu:5.0f} {seconds / clock:6.0f}   {most:.0f} MB at the peak so far")
        return cpu

    samples_cpu = measure("Notes → samples", lambda: sum(len(frames) for frames in audio.render(notes)))
    measure("Notes → WAV", lambda: audio.write(notes, io.BytesIO(), "wav"))
    measure("Notes → MP3", lambda: audio.write(notes, io.BytesIO(), "mp3"))
    baseline_cpu = measure("pretty_midi's fluidsynth → samples", lambda: baseline.fluidsynth(fs=audio.RATE))
    print(f"ours is {baseline_cpu / samples_cpu:.2f} × as fast as pretty_midi's")


def dense(seconds: float = 300.0) -> Notes:
    """Generate runs over the whole keyboard, each note a quarter of a second long."""
    start = np.arange(0, seconds, 0.05)
    number = np.arange(len(start))
    pitch = 21 + (number * 7 + number // 16 * 5) % 88
    return nt.sort(nt.from_columns(start, start + 0.25, pitch, 45 + number * 31 % 60))


if __name__ == "__main__":
    main()
