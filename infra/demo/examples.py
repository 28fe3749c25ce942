"""Make the examples in docs/examples again: pieces of the shipped model, as MIDI, MP3 and picture.

    make examples                     # or python -m infra.demo.examples --output docs/examples

The random seeds are the first ones, 1 and 2; nothing was picked. The pieces change with the model and with the last
bits that its graph computes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from music import audio, midi
from music import notes as nt
from music.examples.nocturne import nocturne
from music.generation import Generator, Settings
from music.plots.piano_roll import piano_roll
from serving.backends.embedded import Embedded

SECONDS = 50.0  # of each piece that are written and drawn,
LAST = 16.0  # seconds of a seed among them
NOTES = 1024
COMPRESSION = 0.7  # so that an MP3 has less than 400 kB
EXAMPLES = {"continued-1": (nocturne, 1), "new-1": (nt.empty, 1), "new-2": (nt.empty, 2)}


def run(argv: list[str] | None = None) -> int:
    """Write all examples, and describe each in a line; return 0."""
    parser = argparse.ArgumentParser("python -m infra.demo.examples", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--output", default="docs/examples", type=Path, help="folder of the files; default: %(default)s"
    )
    parser.add_argument("--model", help="folder of a SavedModel; default: the one in models/")
    args = parser.parse_args(argv)
    audio.check()
    args.output.mkdir(parents=True, exist_ok=True)
    generator = Generator(Embedded(args.model))
    for example, (begin, random_seed) in EXAMPLES.items():
        seed, continuation, ended = begin(), nt.empty(), None
        first = max(nt.length(seed) - LAST, 0.0)
        for chunk in generator.stream(seed, Settings(notes=NOTES, random_seed=random_seed)):
            continuation, ended = np.concatenate([continuation, chunk.notes]), chunk.ended
            if len(continuation) and continuation["start"][-1] > first + SECONDS:
                break
        parts = {
            name: nt.excerpt(nt.sort(notes), first, SECONDS)
            for name, notes in (("seed", seed), ("continuation", continuation))
        }
        piece = nt.sort(np.concatenate(list(parts.values())))
        path = args.output / example
        path.with_suffix(".mid").write_bytes(midi.write(piece))
        with path.with_suffix(".mp3").open("wb") as file:
            audio.write(piece, file, "mp3", compression=COMPRESSION)
        piano_roll(parts if len(seed) else piece, path.with_suffix(".png"))
        end = "ends by itself" if ended == "final" else f"cut at {SECONDS:g} s"
        size = f"MP3 of {path.with_suffix('.mp3').stat().st_size / 1000:.0f} kB"
        print(f"{path}: random seed {random_seed}, {len(piece)} notes, {nt.length(piece):.0f} s, {end}; {size}")
    return 0


if __name__ == "__main__":
    sys.exit(run())
