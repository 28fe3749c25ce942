"""The demo: a real server, real POSTs to /generate, and files to listen to and to look at.

    python -m infra.demo --output out/demo [--notes 200 --random-seed 2]

Starts `python -m serving` with the model in models/ on a free port of this machine, sends it half a minute of piano
music, writes the continuation as MIDI, as a piano roll, as MP3 and as a score, and stops the server. MP3 and score are
the server's replies to more requests with the same random seed: the same piece, as any client would get it.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from music import midi
from music import notes as nt
from music.errors import MissingDependency
from music.examples.nocturne import nocturne
from music.notation import engraving
from music.plots.piano_roll import piano_roll

READY = 120  # seconds that the server has to load its model


@contextlib.contextmanager
def server(log: Path) -> Iterator[str]:
    """Run the front end until the block ends, with its output in `log`; yield its address."""
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, "-m", "serving", "--port", "0"], stdout=file, stderr=file)
    try:
        until = time.monotonic() + READY
        while time.monotonic() < until:
            if process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            if listening := re.search(r"Listening at: (http://\S+)", log.read_text()):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{listening[1]}/readyz", timeout=READY):
                    break
            time.sleep(0.2)
        else:
            raise SystemExit(f"the server was not ready after {READY} s; see {log}")
        yield listening[1]
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def post(url: str, body: bytes) -> tuple[bytes, dict]:
    """Send a request; return the reply and its headers.

    Raises:
        MissingDependency: HTTP 406, the server lacks a library for this format.
    """
    request = urllib.request.Request(url, body, {"Content-Type": "audio/midi"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.read(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        problem = error.read().decode()
        if error.code == 406:
            raise MissingDependency(json.loads(problem)["detail"]) from error
        raise SystemExit(f"{url}: {error.code} {problem}") from error


def write(path: Path, make: Callable[[], bytes]) -> str:
    """Write what `make` returns to a file; describe the file, or say why there is none: a library may be missing."""
    path.unlink(missing_ok=True)
    started = time.monotonic()
    try:
        path.write_bytes(make())
    except MissingDependency as error:
        return f"none: {error}"
    return f"{path}   {path.stat().st_size / 1000:.0f} kB, in {time.monotonic() - started:.1f} s"


def training_summary(card: dict) -> str:
    """Describe a model's training from its card; the card of a stopped run, or of another trainer, says less."""
    effort, origin = card.get("metrics", {}).get("trained", {}), card.get("made", {})
    parts = [
        f"run {origin['run']}:" if "run" in origin else "",
        f"{effort['notes']:,} notes" if "notes" in effort else "",
        f"of {card['dataset']['source']}" if card.get("dataset", {}).get("source") else "",
        f"in {effort['seconds'] / 60:.0f} minutes" if "seconds" in effort else "",
        f"with {origin['backend']}" if "backend" in origin else "",
    ]
    return " ".join(filter(None, parts)) or "its card says nothing of it"


def run(argv: list[str] | None = None) -> int:
    """Run the demo, and print what it wrote; return 0."""
    parser = argparse.ArgumentParser("python -m infra.demo", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--output", default="out/demo", type=Path, metavar="DIR", help="folder of the files; default: %(default)s"
    )
    parser.add_argument("--notes", type=int, default=200, metavar="N", help="number of new notes; default: %(default)s")
    parser.add_argument(
        "--random-seed", type=int, default=2, metavar="N", help="of the new notes; default: %(default)s"
    )
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    seed_path, piece_path = args.output / "seed.mid", args.output / "continued.mid"
    picture, recording = args.output / "continued.png", args.output / "continued.mp3"
    score, page = args.output / "continued.musicxml", args.output / "continued-score.png"
    seed_path.write_bytes(midi.write(nocturne()))
    seed = midi.read(seed_path.read_bytes())

    print("starting the server …")
    with server(args.output / "server.log") as base:
        url = f"{base}/generate?notes={args.notes}&random_seed={args.random_seed}"
        started = time.monotonic()
        reply, headers = post(f"{url}&include_seed=false", seed_path.read_bytes())
        seconds = time.monotonic() - started
        with urllib.request.urlopen(f"{base}/model", timeout=30) as described:
            card = json.load(described)["card"]
        sound = write(recording, lambda: post(f"{url}&format=mp3", seed_path.read_bytes())[0])
        written = write(score, lambda: post(f"{url}&format=musicxml", seed_path.read_bytes())[0])
    continuation = midi.read(reply)  # its times go on from the seed's
    piece = nt.from_tuples([*seed.tolist(), *continuation.tolist()])
    piece_path.write_bytes(midi.write(piece))
    engraved = write(page, lambda: engraving.png(score.read_bytes())[0]) if score.exists() else written
    piano_roll({"seed": seed, "continuation": continuation}, picture)

    length = f"{len(continuation)} notes more in {seconds:.1f} s; the piece is {nt.length(piece):.0f} s long"
    parameters = f"{card['parameters']:,} parameters; " if "parameters" in card else ""
    print(f"""
seed           {seed_path}   {len(seed)} notes, {nt.length(seed):.0f} s
continued      {piece_path}   {length}
piano roll     {picture}
sound          {sound}
score          {written}
first page     {engraved}
model          {headers["X-Model"]}, {parameters}random seed {headers["X-Random-Seed"]}
its training   {training_summary(card)}

Next: make serve, then in another terminal
  curl -F seed=@{seed_path} 'http://127.0.0.1:8080/generate?notes=300&temperature=0.9' -o mine.mid
or open http://127.0.0.1:8080/ and choose a MIDI file of your own.""")
    return 0


if __name__ == "__main__":
    sys.exit(run())
