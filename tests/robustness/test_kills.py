"""kill -9 at random instants: what is there afterwards is whole or nothing, and the same command makes it whole.

KILLS says how many: so many of preprocessing and of training, a quarter of exports and ten times as many of their last
part, which takes a moment only. `make kills` is for a hundred.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from music import midi, storage
from music.errors import MusicError, RecordError
from music.pieces import Dataset
from music.storage import checksums
from serving.backends.embedded import Embedded, find_model
from tests.conftest import waltz
from tests.trainer.test_loop import command, same

KILLS = int(os.environ.get("KILLS", "3"))
PATIENCE = 300 + 120 * KILLS  # seconds, on a loaded machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE)]


def whole_run(line: list[str]) -> float:
    """Run a command to its end; the seconds that it took."""
    began = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def kill(line: list[str], instant: float) -> bool:
    """Start a command and kill it after so many seconds; whether it was still at it."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(instant)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait(60) == -signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_preprocessing(tmp_path):
    for seed in range(20):
        storage.write(tmp_path / "midi" / f"{seed}.mid", midi.write(waltz(seed)))

    def line(name: str) -> list[str]:
        where = ["--input", str(tmp_path / "midi"), "--output", str(tmp_path / name)]
        return [sys.executable, "-m", "preprocessing", *where, "--shards", "4", "--overwrite"]

    seconds = whole_run(line("whole"))
    whole, rng, complete = contents(tmp_path / "whole"), random.Random(KILLS), 0
    assert "dataset.json" in whole
    for number in range(KILLS):
        kill(line("killed"), rng.uniform(0, seconds))
        try:
            Dataset.open(str(tmp_path / "killed"))
        except RecordError as error:  # nobody will train on it
            assert "no complete dataset" in str(error)
        else:
            assert contents(tmp_path / "killed") == whole
            complete += 1
        if number % 5 == 4 or number == KILLS - 1:
            whole_run(line("killed"))
            assert contents(tmp_path / "killed") == whole
            print(f"preprocessing: {number + 1} killed, {complete} of them after the end", flush=True)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_training(tiny_dataset, tmp_path, backend):
    """With a checkpoint after every step; killed wherever it is then, be it before the first one."""
    kills = KILLS if backend == "tensorflow" else -(-KILLS // 3)
    whole, run, epochs = tmp_path / "whole", tmp_path / "killed", 4
    seconds = whole_run([*command(tiny_dataset, whole, epochs), "--backend", backend])
    line = [*command(tiny_dataset, run, epochs), "--checkpoint-minutes", "0", "--backend", backend]
    rng, killed, rounds = random.Random(KILLS), 0, 0
    while killed < kills:
        killed += kill(line, rng.uniform(0, seconds))
        if rounds == 9 or killed == kills:
            whole_run(line)
            same(run, whole)
            print(f"training on {backend}: {killed} killed", flush=True)
            weights = {
                name: data for name, data in contents(whole).items() if name.startswith(("weights/", "samples/"))
            }
            result = contents(run)
            assert {name: result[name] for name in weights} == weights
            assert result.keys() == contents(whole).keys()
            storage.remove(run)
        rounds = (rounds + 1) % 10


def test_export(tiny_dataset, tiny_export, tmp_path):
    """The command itself, killed as often as it takes a while: there is a whole version or none."""
    run, base = tmp_path / "run", tmp_path / "exported"
    whole_run(command(tiny_dataset, run, 1))

    def line(where: Path) -> list[str]:
        return [sys.executable, "-m", "trainer", "export", "--run", str(run), "--output", str(where)]

    seconds = whole_run(line(tmp_path / "whole"))
    rng = random.Random(KILLS)
    for _ in range(-(-KILLS // 4)):
        kill(line(base), rng.uniform(seconds / 2, seconds))
        for version in storage.entries(base / "performance"):
            if version.isdecimal():
                assert (base / "performance" / version / checksums.MANIFEST).exists()  # without it nothing is compared
                checksums.check_folder(base / "performance" / version)
    time.sleep(2.5)  # until what is left is old enough to be nobody's
    whole_run(line(base))
    result = sorted(storage.entries(base / "performance"), key=int)
    print(f"export: {-(-KILLS // 4)} killed, {len(result) - 1} of them after the end", flush=True)
    assert result == [str(number + 1) for number in range(len(result))]
    ours, theirs = contents(base / "performance" / result[-1]), contents(tmp_path / "whole" / "performance" / "1")
    assert ours.keys() == theirs.keys()
    for name in ("assets/card.json", "variables/variables.data-00000-of-00001"):
        assert ours[name] == theirs[name]
    assert Embedded(base, xla=False).folder.name == result[-1]


def test_publishing_under_the_eyes_of_a_server(tiny_export, tmp_path):
    """Only the last part of an export touches its place; so this part is killed much more often, and watched."""
    source, base = tiny_export / "performance" / "1", tmp_path / "models"
    forks = multiprocessing.get_context("forkserver")
    seen: set[str] = set()
    faults: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            try:
                folder = find_model(base)
            except MusicError:  # none yet
                continue
            if folder.name in seen:
                continue
            try:
                checksums.check_folder(folder)
                assert (folder / checksums.MANIFEST).exists()
                seen.add(folder.name)
            except Exception as error:
                faults.append(repr(error))

    whole, rng = contents(source), random.Random(KILLS)
    began = time.monotonic()
    storage.publish(source, base / "performance" / "1", last="saved_model.pb")
    seconds = time.monotonic() - began
    server = threading.Thread(target=watch)
    server.start()
    complete = broken = 0
    try:
        for number in range(2, 10 * KILLS + 2):
            target = base / "performance" / str(number)
            process = forks.Process(target=storage.publish, args=(str(source), str(target), "saved_model.pb"))
            process.start()
            while process.is_alive() and not target.exists() and not list(base.glob(f"performance/.{number}.*")):
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 1.2 * seconds))
            process.kill()
            process.join()
            if target.exists():
                complete += 1
                assert contents(target) == whole
            else:
                broken += 1
    finally:
        over.set()
        server.join()
    assert faults == [] and "1" in seen
    assert broken, "none was killed while it was at it"
    print(f"publishing: {broken} killed, {complete} after the end", flush=True)
    time.sleep(2.5)
    storage.publish(source, base / "performance" / "1000000", last="saved_model.pb")
    assert all(name.isdecimal() for name in storage.entries(base / "performance"))
