"""The longest run that a training set has, too: against brute force, through files, and in replies of /generate."""

import json
import shutil

import numpy as np
import pytest

from music import midi
from music import notes as nt
from music.analysis import memorization
from music.errors import RecordError
from serving import create_app
from serving.__main__ import run as serve
from tests.support.fakes import ScriptedBackend, melody
from trainer.__main__ import run as train

URL = "/generate?random_seed=7&originality=true"


def wander(count: int, seed: int, most: int = 3) -> nt.Notes:
    """Make a tune of small steps, many of which occur in other tunes, too; some notes begin together."""
    rng = np.random.default_rng(seed)
    onset = np.cumsum(rng.choice([0, 0.01, 0.1, 0.2], count))
    pitch = 60 + np.cumsum(rng.integers(-most, most + 1, count)) % 24
    return nt.sort(nt.from_columns(onset, onset + 0.1, pitch, 80))


def intervals(notes: nt.Notes) -> tuple[int, ...]:
    return tuple(np.diff(memorization.ordered(notes)["pitch"].astype(int)))


def parts(steps: tuple[int, ...], notes: int) -> list[tuple[int, ...]]:
    """List all runs of so many notes."""
    return [steps[i : i + notes - 1] for i in range(len(steps) - notes + 2)]


def longest_in_one_place(steps, training) -> int:
    """Find, slowly and obviously, the longest run of notes that one training piece has as it is."""
    low, high = 1, len(steps) + 1  # a run of `low` occurs, and as with any run, all of its parts do
    while low < high:
        notes = (low + high + 1) // 2
        known = {part for piece in training for part in parts(piece, notes)}
        low, high = (notes, high) if not known.isdisjoint(parts(steps, notes)) else (low, notes - 1)
    return low


def longest_by_parts(steps, training) -> int:
    """Find, slowly and obviously, what an index without false positives would find, by runs of 8 and of 16 notes."""
    known = {size: {part for piece in training for part in parts(piece, size)} for size in memorization.LENGTHS}

    def longest(size: int) -> int:
        best = streak = 0
        for part in parts(steps, size):
            streak = streak + 1 if part in known[size] else 0
            best = max(best, streak)
        return best + size - 1 if best else 0

    return longest(16) or min(longest(8), 15)


@pytest.fixture(scope="module")
def tunes() -> list[nt.Notes]:
    return [wander(400, seed, most=1) for seed in range(5)]


@pytest.mark.parametrize(("bits", "seeds"), [(64, range(100, 115)), (8, range(115, 130))])
def test_it_is_what_brute_force_finds(tunes, monkeypatch, bits, seeds):
    """With many bits there is no false alarm; with the usual ones a run is never missed, and seldom made longer."""
    monkeypatch.setattr(memorization, "BITS", bits)
    index, training = memorization.build(tunes), [intervals(tune) for tune in tunes]
    longer, longest = 0, []
    for seed in seeds:
        tune = wander(60, seed, most=1)
        middle = tunes[seed % 5][100 : 100 + seed * 7 % 37]  # some of them copy a little
        tune = np.concatenate([tune[:30], nt.shift(middle, 20.0), nt.shift(tune[30:], 90.0)])
        tune = nt.sort(tune)
        by_index = memorization.longest_run(tune, index).notes
        steps = intervals(tune)
        by_parts = longest_by_parts(steps, training)
        assert by_index >= by_parts and (bits == 8 or by_index == by_parts)
        exact = longest_in_one_place(steps, training)
        assert by_index >= exact if exact >= 8 else by_parts == 0
        longer += by_index > by_parts
        longest.append(by_index)
    assert max(longest) > 25 and min(longest) < 16, "the tunes try too little"
    assert longer <= 7


def test_a_run_that_occurs_is_never_missed_and_few_others_are_taken_for_one():
    tune = wander(20_000, 1, most=11)
    index = memorization.build([tune])
    for length in memorization.LENGTHS:
        hashes = memorization._hashed(memorization._intervals(memorization.ordered(tune)), length)
        assert index.holds(hashes).all()
    others = np.random.default_rng(0).integers(0, 2**64, 100_000, "u8")
    assert 0.017 < index.holds(others).mean() < 0.027  # (1 - exp(-5 / 8)) ** 5 is 0.0217
    assert len(index.bits) <= sum(index.facts["runs"].values()) + 1


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_key_tempo_loudness_and_uneven_chords_do_not_hide_a_copy(factor):
    rng = np.random.default_rng(2)
    chords = [(at / 4, at / 4 + 0.2, int(pitch)) for at in range(200) for pitch in rng.choice(np.arange(40, 80), 3)]
    piece = nt.from_tuples(chords)
    index = memorization.build([wander(3000, 3, 11), piece])
    copy = nt.stretch(nt.transpose(piece[150:450], 5), factor)
    copy["start"] += rng.uniform(0, 0.03, len(copy))
    copy["velocity"] = rng.integers(1, 127, len(copy))
    between = [wander(50, 4, 11), nt.shift(copy, 100.0), nt.shift(wander(50, 5, 11), 400.0)]
    drums = nt.with_program(wander(30, 6), 0)
    drums["program"] = nt.DRUMS
    run = memorization.longest_run(nt.sort(np.concatenate([*between, nt.shift(drums, 110.0)])), index)
    assert run.notes in range(300, 304)  # by chance, the next note to either side may fit
    assert run.start == pytest.approx(copy["start"].min() + 100, abs=20 if run.notes > 300 else 1e-6)
    assert run.seconds == pytest.approx(np.ptp(copy["start"]), rel=0.05)


def test_music_of_its_own_and_music_too_short_have_no_run(monkeypatch):
    monkeypatch.setattr(memorization, "BITS", 64)  # no false alarms
    index = memorization.build([wander(300, 1, 11)])
    assert memorization.longest_run(wander(200, 2, 11), index) == memorization.NO_RUN
    for count in range(8):
        assert memorization.longest_run(wander(300, 1, 11)[:count], index) == memorization.NO_RUN
    assert memorization.longest_run(memorization.ordered(wander(300, 1, 11))[:8], index).notes == 8
    assert memorization.longest_run(melody(40), memorization.build([])) == memorization.NO_RUN


# The file


@pytest.fixture
def path(tmp_path):
    """Write an index of a little tune: the one that the scripted model plays, in another key."""
    index = memorization.build([melody(60, pitch=50), wander(200, 1)], source="tunes", digest="abc")
    (tmp_path / "tunes.index").write_bytes(index.to_bytes())
    return tmp_path / "tunes.index"


def test_a_file_is_read_as_it_was_written(path):
    index = memorization.read(path)
    assert index.facts | {"source": "tunes", "digest": "abc", "pieces": 2, "notes": 260} == index.facts
    assert memorization.longest_run(melody(30), index).notes == 30
    assert memorization.read(path).to_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "its first line is damaged: expected JSON"),
        (lambda data: data[:-1], r"expected \d+ bytes, got \d+ bytes"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "another checksum"),
        (lambda data: b"[1]\n" + data, "expected a JSON object, got list"),
        (lambda data: b'{"kind": "notes"}\n', "its kind is 'notes'"),
        (lambda data: b"\xff" + data, "its first line is damaged: expected JSON"),
        (
            lambda data: data.replace(b'"schema": 1', b'"schema": 2'),
            "its first line is damaged: expected what has the sha256",
        ),
        (lambda data: b'{"kind": "cadenza originality", "schema": 2}\n', "has schema 2; this version reads up to 1"),
        (lambda data: b'{"kind": "cadenza originality", "schema": 1}\n??', "'bytes'"),
    ],
)
def test_a_damaged_file_is_refused_in_a_line(path, change, message):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RecordError, match=message) as refused:
        memorization.read(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_front_end_does_not_start_without_the_index_that_is_configured(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        serve(["--server", "127.0.0.1:1", "--model-name", "toy", "--originality", str(tmp_path / "none")])
    assert exit.value.code == 2
    assert f"no originality index in {tmp_path / 'none'}: No such file" in capsys.readouterr().err


# The trainer's command, and the model's folder


def test_the_trainer_indexes_the_training_split(tiny_dataset, tmp_path, capsys):
    from music.pieces import Dataset

    file = str(tmp_path / "waltzes.index")
    assert train(["originality", "--data", tiny_dataset, "--output", file]) == 0
    dataset, index = Dataset.open(tiny_dataset), memorization.read(file)
    assert f"{dataset.facts['pieces']['train']} pieces" in capsys.readouterr().out
    assert index.facts["digest"] == dataset.facts["digest"]
    for piece in dataset.pieces("train"):
        assert memorization.longest_run(piece.notes, index).notes == len(piece.notes)
    others = [piece.notes for split in ("validation", "test") for piece in dataset.pieces(split)]
    assert all(memorization.longest_run(notes, index).notes < len(notes) for notes in others) and others


def test_it_refuses_what_is_no_dataset(tmp_path, capsys):
    assert train(["originality", "--data", str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert "is no complete dataset" in capsys.readouterr().err and not (tmp_path / "x").exists()


# In replies


@pytest.fixture
def client(path):
    return create_app({"ORIGINALITY": str(path)}, ScriptedBackend(melody(40, pitch=80))).test_client()


def test_json_tells_the_longest_run_of_the_new_notes(client):
    seed = midi.write(melody(30, pitch=70))  # which is known as well, and does not count
    reply = client.post(f"{URL}&format=json&notes=20", data=seed, headers={"Content-Type": "audio/midi"})
    assert reply.get_json()["longest_run"] == {"notes": 20, "start": 7.25, "seconds": 4.75}
    assert reply.headers["X-Longest-Run"] == "notes=20, start=7.25, seconds=4.75"


def test_a_stream_tells_it_in_its_last_line(client):
    lines = [json.loads(line) for line in client.post(f"{URL}&format=ndjson").text.splitlines()]
    assert lines[-1] == {"end": "final", "longest_run": {"notes": 40, "start": 0.0, "seconds": 9.75}}
    assert not any("longest_run" in line for line in lines[:-1])


@pytest.mark.parametrize("format", ["mid", "png"])
def test_other_formats_tell_it_in_a_header(client, format):
    response = client.post(f"{URL}&format={format}&notes=7&program=5")
    assert response.headers["X-Longest-Run"] == "notes=0"
    assert client.post(f"{URL}&format={format}").headers["X-Longest-Run"].startswith("notes=40, start=0.0, ")


def test_nothing_is_reported_unless_asked_for(client):
    for url in ("/generate?format=json", "/generate?format=json&originality=false&notes=9"):
        response = client.post(url)
        assert "longest_run" not in response.get_json() and "X-Longest-Run" not in response.headers


def test_where_there_is_no_index_the_reply_says_so_before_music_is_made():
    backend = ScriptedBackend(melody(4))
    response = create_app({}, backend).test_client().post(URL)
    assert response.status_code == 422 and response.mimetype == "application/problem+json"
    assert "this server has no index" in response.get_json()["detail"] and not backend.calls


def test_the_index_in_the_folder_of_a_model_is_found(path, toys, tmp_path):
    shutil.copytree(toys / "1", tmp_path / "toy" / "1")
    without = create_app({"MODEL": str(tmp_path / "toy")}).test_client().post(URL)
    assert without.status_code == 422
    extra = tmp_path / "toy" / "1" / "assets.extra"
    extra.mkdir(exist_ok=True)
    shutil.copy(path, extra / memorization.FILE)
    assert "X-Longest-Run" in create_app({"MODEL": str(tmp_path / "toy")}).test_client().post(URL).headers
