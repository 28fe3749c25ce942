"""Disks that are full or must not be written: a line that names the file, what was there before stays, and with room
the same command makes what it would have made."""

import builtins
import contextlib
import errno
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from music import midi, storage
from music.errors import Conflict
from music.pieces import Dataset
from music.storage import atomic
from tests.conftest import waltz
from tests.robustness.test_kills import contents
from tests.trainer.test_loop import same

NOWHERE = "/sys/cadenza"  # where not even root can make a folder


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """The system lets no file of this process grow larger than so many bytes: a real error of a real write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def failing(monkeypatch):
    """failing(n): the n-th file from now on cannot be written, for want of space or for what is said; None: all can."""

    def fail(number: int | None, why: int = errno.ENOSPC) -> None:
        opened = 0

        def open(path, mode):
            nonlocal opened
            opened += 1
            if opened != number:
                return builtins.open(path, mode)
            if why == errno.EROFS:
                raise OSError(why, os.strerror(why), path)  # as the system's own open does
            return Full(path)

        monkeypatch.setattr(atomic, "open", open, raising=False)

    return fail


class Full(io.FileIO):
    """A file on a disk with room for its first half."""

    def __init__(self, path):
        super().__init__(path, "wb")

    def write(self, data) -> int:
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_there_stays_and_nothing_is_left_beside(tmp_path):
    path = tmp_path / "deep" / "file"
    storage.write(path, b"before")
    with room(1000), pytest.raises(OSError, match=r"\[Errno 27\] .*deep/file'$"):
        storage.write(path, b"x" * 1001)
    assert contents(tmp_path) == {"deep/file": b"before"}


@pytest.mark.parametrize(("why", "message"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only")])
def test_the_line_names_the_file(tmp_path, failing, why, message):
    failing(2, why)
    storage.write(tmp_path / "a", b"x" * 99)
    with pytest.raises(OSError, match=rf"{message}.*/b'$"):
        storage.write(tmp_path / "b", b"x" * 99)
    assert contents(tmp_path) == {"a": b"x" * 99}


def test_a_folder_is_published_whole_or_not_at_all(tmp_path, failing):
    for name in ("a", "deep/b", "saved_model.pb"):
        storage.write(tmp_path / "made" / name, name.encode() * 99)
    whole = contents(tmp_path / "made")
    for number in (1, 2, 3):
        failing(number)
        with pytest.raises(OSError, match="No space left"):
            storage.publish(tmp_path / "made", tmp_path / "there" / "1", "saved_model.pb")
        assert list((tmp_path / "there").iterdir()) == []
    failing(None)
    storage.publish(tmp_path / "made", tmp_path / "there" / "1", "saved_model.pb")
    assert contents(tmp_path / "there" / "1") == whole
    with pytest.raises(Conflict, match="is there already"):
        storage.publish(tmp_path / "made", tmp_path / "there" / "1", "saved_model.pb")


def test_two_that_publish_at_once_do_not_mix(tmp_path):
    """The second comes to its end while the first is in the middle."""
    for name in ("one", "two"):
        storage.write(tmp_path / name / "file", name.encode())
    with (
        pytest.raises(Conflict, match="is there already"),
        atomic.folder(tmp_path / "there") as created,
    ):
        (created / "file").write_bytes(b"one")
        storage.publish(tmp_path / "two", tmp_path / "there", "file")
    assert contents(tmp_path) == {"one/file": b"one", "two/file": b"two", "there/file": b"two"}


def test_many_that_publish_at_once_do_not_stumble_over_what_the_others_take_away(tmp_path):
    """Each looks for what killed writers left while the others' folders in the making come and go."""
    for number in range(20):
        storage.write(tmp_path / "made" / str(number) / "file", b"x")

    def publish(number: int) -> None:
        storage.publish(tmp_path / "made", tmp_path / "there" / str(number), "file")
        storage.remove(tmp_path / "there" / str(number))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(publish, range(60))) == [None] * 60
    assert storage.entries(tmp_path / "there") == []


def test_a_file_is_held_until_it_is_in_its_place(tmp_path, monkeypatch):
    replace = os.replace

    def late(*paths):
        assert atomic.sweep(tmp_path) == []
        replace(*paths)

    monkeypatch.setattr(atomic, "_YOUNG", -1.0)
    monkeypatch.setattr(os, "replace", late)
    storage.write(tmp_path / "file", b"x")
    assert contents(tmp_path) == {"file": b"x"}


def test_where_there_are_no_locks_nothing_is_opened_that_cannot_be(tmp_path, monkeypatch):
    """Windows neither opens a folder nor renames an open file."""
    replace, created = os.replace, []

    def closed(*paths):
        assert created[-1].closed
        replace(*paths)

    monkeypatch.setattr(atomic, "fcntl", None)
    monkeypatch.setattr(os, "open", lambda path, *_: pytest.fail(f"{path} is opened"))
    monkeypatch.setattr(os, "replace", closed)
    with atomic.folder(tmp_path / "folder") as folder, atomic.file(folder / "file") as file:
        created.append(file)
        file.write(b"x")
    assert contents(tmp_path) == {"folder/file": b"x"}


def test_what_killed_writers_left_is_swept_away_and_nothing_else(tmp_path, monkeypatch):
    program = (
        "import os, sys; from pathlib import Path; from music.storage import atomic\n"
        "home = Path(sys.argv[1])\n"
        "with atomic.file(home / 'file') as file, atomic.folder(home / 'folder') as made:\n"
        "    file.write(b'half'); file.flush(); (made / 'a').write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "deep")], timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = storage.entries(tmp_path / "deep")
    assert len(left) == 2
    storage.write(tmp_path / ".mine.tmp", b"not ours")
    monkeypatch.setattr(atomic, "_YOUNG", 3600.0)
    assert atomic.sweep(tmp_path) == []  # too young: its maker may not have taken hold of it yet
    monkeypatch.setattr(atomic, "_YOUNG", -1.0)
    with atomic.file(tmp_path / "deep" / "now") as file:
        file.write(b"in the making")
        file.flush()
        assert atomic.sweep(tmp_path) == left
    assert contents(tmp_path) == {".mine.tmp": b"not ours", "deep/now": b"in the making"}
    assert atomic.sweep(tmp_path / "nowhere") == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [600, 20_000])
def test_preprocessing(tmp_path, capsys, size):
    """The first shard does not fit, or one of the last."""
    from preprocessing.__main__ import run

    for seed in range(20):
        storage.write(tmp_path / "midi" / f"{seed}.mid", midi.write(waltz(seed)))
    line = ["--input", str(tmp_path / "midi"), "--shards", "2", "--overwrite", "--output", str(tmp_path / "out")]
    with room(size):
        assert run(line) == 1
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1 and message[0].startswith("preprocessing: [Errno 27] File too large: ")
    assert f"{tmp_path}/out/" in message[0] and message[0].endswith(".tfrecord'")
    assert "dataset.json" not in storage.entries(tmp_path / "out")
    assert run(line) == 0
    assert run([*line[:-1], str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_places_that_cannot_be_written_are_named(tiny_dataset, tmp_path, capsys):
    from preprocessing.__main__ import run as preprocessing
    from trainer.__main__ import run as trainer

    storage.write(tmp_path / "midi" / "a.mid", midi.write(waltz(1)))
    small = [part for setting in ("core.units=8", "core.layers=1", "heads.hidden=8") for part in ("--set", setting)]
    for command, line, code in (
        (preprocessing, ["--input", str(tmp_path / "midi"), "--output", NOWHERE], 2),
        (trainer, ["train", "--recipe", "performance", "--data", tiny_dataset, "--run", NOWHERE, *small], 2),
        (trainer, ["originality", "--data", tiny_dataset, "--output", f"{NOWHERE}/it.index"], 2),
    ):
        assert command(line) == code
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"{command.__module__.partition('.')[0]}: [Errno ") and NOWHERE in message


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_export_without_room_is_a_line_and_leaves_nothing(tiny_model, tmp_path):
    from trainer.export import saved_model

    for size in (1000, 100_000):  # the card does not fit, or the weights
        with (
            room(size),
            pytest.raises(saved_model.ExportError, match=r"the model cannot be written there: .*File too large"),
        ):
            saved_model.publish(*tiny_model, str(tmp_path))
    assert contents(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_training_goes_on_as_if_there_had_been_room(tiny_recipe, tiny_dataset, tmp_path, failing):
    """Whichever file of the second epoch it is that does not fit."""
    from trainer.fit import loop

    dataset = Dataset.open(tiny_dataset)
    recipe = replace(tiny_recipe, training=replace(tiny_recipe.training, steps=3, epochs=2))

    def train(folder: Path) -> None:
        loop.fit(recipe, dataset, str(folder), log=io.StringIO())

    train(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    first = 3 + 7  # card, table and diagram; last and best weights, history, card, two events, checkpoint
    for number in (1, 4, 8):  # last weights, history, checkpoint, as the second epoch keeps its weights, too
        run = tmp_path / f"run{number}"
        failing(first + number)
        with pytest.raises(OSError, match=f"No space left on device: '{run}/"):
            train(run)
        failing(None)
        train(run)
        same(run, tmp_path / "whole")
        files = contents(run)
        assert files.keys() == whole.keys()
        for name in whole:
            assert not name.startswith(("weights", "samples")) or files[name] == whole[name], name
