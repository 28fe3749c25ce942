"""Preprocessing: MIDI files in, a dataset folder out. The music is made here; real MAESTRO is read where it is."""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from music import midi, wire
from music import notes as nt
from music.errors import RecordError
from music.pieces import SPLITS, Dataset, Piece, to_example
from preprocessing import __main__ as stage
from preprocessing import maestro, output, pipeline, sources
from preprocessing.maestro import Facts

ROOT = Path(__file__).parents[2]
MAESTRO = Path(os.environ.get("MAESTRO_ZIP") or ROOT / "../shared/data/maestro-v3.0.0-midi.zip")
needs_maestro = pytest.mark.skipif(
    not MAESTRO.exists(), reason="needs maestro-v3.0.0-midi.zip: set MAESTRO_ZIP, or put it into ../shared/data"
)
HEADER = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"
DAMAGED = {
    "empty.mid": b"",
    "text.mid": b"Dear diary, this is no music.",
    "header only.mid": b"MThd",
    "garbage.midi": b"MThd\0\0\0\6\0\1\0\2\1\x80" + b"MTrk\0\0\0\x20" + b"\xff" * 40,
    "silence.mid": midi.write(nt.empty()),
}


def tune(number: int) -> bytes:
    """Write a MIDI file of number + 2 notes; no two numbers make the same music."""
    return midi.write(nt.from_tuples([(k / 4, k / 4 + 0.2, 48 + k, 60 + number) for k in range(number + 2)]))


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def run(source, folder: Path, *flags: str) -> int:
    return stage.run(["--input", str(source), "--output", str(folder), *flags])


def read(folder: Path) -> dict[str, Piece]:
    """Read all pieces of a dataset, by id."""
    dataset = Dataset.open(str(folder))
    splits = [split for split in SPLITS if dataset.facts["pieces"][split]]
    return {piece.id: piece for split in splits for piece in dataset.pieces(split)}


def process(source, folder: Path, *flags: str) -> dict[str, Piece]:
    assert run(source, folder, *flags) == 0
    return read(folder)


HELD = """
import pathlib, signal, sys, time
from preprocessing import __main__, pipeline

def held(*_):
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(600)

pipeline._piece = held
signal.signal(signal.SIGINT, __main__._interrupted)
sys.exit(__main__.run(sys.argv[2:]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(*rows: str) -> bytes:
    return "\n".join([HEADER, *rows, ""]).encode()


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Make a folder named bach, with music at three depths."""
    files = {"air.mid": tune(1), "suites/one.MID": tune(2), "suites/cello/two.Midi": tune(3)}
    return fill(tmp_path / "bach", files)


class TestSources:
    def test_a_folder_is_searched_to_the_bottom(self, corpus, tmp_path):
        fill(corpus, {"notes.txt": b"", ".hidden/x.mid": tune(8), "._air.mid": b"what a Mac leaves behind"})
        pieces = process(corpus, tmp_path / "out")
        assert {id: len(piece.notes) for id, piece in pieces.items()} == {
            "air.mid": 3,
            "suites/one.MID": 4,
            "suites/cello/two.Midi": 5,
        }
        written = midi.read(tune(1))
        for name in nt.NOTE.names:
            np.testing.assert_allclose(pieces["air.mid"].notes[name], written[name], atol=1e-6)
        assert {id: piece.composer for id, piece in pieces.items()} == {
            "air.mid": "bach",
            "suites/one.MID": "suites",
            "suites/cello/two.Midi": "cello",
        }
        assert lines(tmp_path / "out/errors.jsonl") == []

    def test_glob(self, corpus, tmp_path):
        pieces = process(f"{corpus}/suites/*", tmp_path / "out")
        assert {id: piece.composer for id, piece in pieces.items()} == {"one.MID": "suites"}
        assert Dataset.open(str(tmp_path / "out")).facts["source"] == "suites/*"

    def test_glob_to_the_bottom(self, corpus):
        assert sources.find(f"{corpus}/**/*o.Midi").ids() == ["suites/cello/two.Midi"]

    def test_relative_paths_are_the_same(self, corpus, tmp_path, monkeypatch):
        monkeypatch.chdir(corpus)
        process(".", tmp_path / "here")
        process(corpus, tmp_path / "there")
        assert contents(tmp_path / "here") == contents(tmp_path / "there")

    def test_single_file(self, corpus, tmp_path):
        pieces = process(corpus / "air.mid", tmp_path / "out")
        assert {id: piece.composer for id, piece in pieces.items()} == {"air.mid": ""}

    def test_wildcards_in_a_name_are_letters(self, tmp_path):
        names = ["what [now].mid", "a*b.mid", "why?.mid", "whatXnow].mid"]
        folder = fill(tmp_path / "some [old] music?", {name: tune(k) for k, name in enumerate(names)})
        fill(tmp_path / "some Xold] musicX", {"other.mid": tune(9)})
        assert set(process(folder, tmp_path / "out")) == set(names)
        for name in names:
            assert sources.find(str(folder / name)).ids() == [name]

    def test_a_name_that_is_no_utf8(self, tmp_path):
        folder = fill(tmp_path / "in", {"good.mid": tune(1)})
        Path(os.fsdecode(os.fsencode(folder) + b"/\xe9tude.mid")).write_bytes(tune(2))
        assert set(process(folder, tmp_path / "out")) == {"good.mid", r"\xe9tude.mid"}

    def test_a_folder_that_is_no_utf8(self, tmp_path):
        folder = fill(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), {"a.mid": tune(1), "b.mid": b"noise"})
        (folder / "c.mid").mkdir()
        os.mkfifo(folder / "d.mid")
        archive = pack(folder.parent / f"{folder.name}.zip", {"a.mid": tune(1)})
        for number, source in enumerate((folder, folder / "*.mid", folder / "a.mid", archive)):
            out = tmp_path / f"out{number}"
            (piece,) = process(source, out).values()
            assert piece.composer == ("" if source.name == "a.mid" else r"caf\xe9")
            assert Dataset.open(str(out)).facts["source"] in (r"caf\xe9", r"caf\xe9/*.mid", "a.mid", r"caf\xe9.zip")
        reasons = {line["path"]: line["reason"] for line in lines(tmp_path / "out0/errors.jsonl")}
        assert reasons["d.mid"].endswith(r"/caf\xe9/d.mid: expected a file") and "b.mid" in reasons

    def test_a_place_that_is_no_utf8_is_refused_before_the_work(self, corpus, tmp_path, capsys):
        assert stage.run(["--input", str(corpus), "--output", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")]) == 2
        assert capsys.readouterr().err.endswith("expected a name in UTF-8\n")
        assert not list(tmp_path.glob("caf*"))

    def test_zip_without_its_top_folder(self, tmp_path):
        path = pack(
            tmp_path / "x.zip", {"bach/air.mid": tune(1), "bach/b/c.mid": tune(2), "__MACOSX/bach/._air.mid": b""}
        )
        pieces = process(path, tmp_path / "out")
        assert {id: piece.composer for id, piece in pieces.items()} == {"air.mid": "bach", "b/c.mid": "b"}
        assert Dataset.open(str(tmp_path / "out")).facts["source"] == "x.zip"

    def test_zip_without_a_top_folder(self, tmp_path):
        path = pack(tmp_path / "bach.ZIP", {"air.mid": tune(1), "b/c.mid": tune(2)})
        pieces = process(path, tmp_path / "out")
        assert {id: piece.composer for id, piece in pieces.items()} == {"air.mid": "bach", "b/c.mid": "b"}

    def test_a_zip_gives_the_shards_of_its_folder(self, corpus, tmp_path):
        files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in corpus.rglob("*.*")}
        process(pack(tmp_path / "bach.zip", files), tmp_path / "zip")
        process(corpus, tmp_path / "folder")
        assert contents(tmp_path / "zip").keys() == contents(tmp_path / "folder").keys()
        assert (
            Dataset.open(str(tmp_path / "zip")).facts["digest"]
            == Dataset.open(str(tmp_path / "folder")).facts["digest"]
        )

    def test_a_damaged_member_is_one_error(self, tmp_path):
        path = pack(tmp_path / "x.zip", {"a.mid": tune(1), "b.mid": tune(2)})
        data = path.read_bytes()
        at = data.index(tune(2)) + 30
        path.write_bytes(data[:at] + b"?" + data[at + 1 :])
        assert set(process(path, tmp_path / "out")) == {"a.mid"}
        assert lines(tmp_path / "out/errors.jsonl") == [{"path": "b.mid", "reason": "Bad CRC-32 for file 'b.mid'"}]


class TestFacts:
    @pytest.mark.parametrize(
        "version, row, packed",
        [
            ("v1.0.0", "Alban Berg,Sonata Op. 1,test,2008,2008/a.midi,2008/a.wav,1.5", False),
            ("v2.0.0", '"Alban Berg","Sonata Op. 1",test,2008,2008/a.midi,2008/a.wav,1.5', True),
            ("v3.0.0", "Alban Berg,Sonata Op. 1,test,2008,2008/a.midi,2008/a.wav,1.5\r", False),
            ("v3.0.0", "Alban Berg,Sonata Op. 1,test,2008,2008/a.midi,2008/a.wav,1.5", True),
        ],
    )
    def test_a_table_beside_the_music(self, tmp_path, version, row, packed):
        files = {
            f"maestro-{version}/maestro-{version}.csv": table(row),
            f"maestro-{version}/2008/a.midi": tune(1),
            f"maestro-{version}/2008/unlisted.midi": tune(2),
        }
        folder = fill(tmp_path / "in", files) / f"maestro-{version}"
        pieces = process(pack(tmp_path / "m.zip", files) if packed else folder, tmp_path / "out")
        piece = pieces["2008/a.midi"]
        assert (piece.composer, piece.title, piece.year, piece.split) == ("Alban Berg", "Sonata Op. 1", 2008, "test")
        other = pieces["2008/unlisted.midi"]
        assert (other.composer, other.title, other.year) == ("2008", "", 0)

    def test_two_corpora_each_with_a_table(self, tmp_path):
        files = {
            "one/maestro-v1.csv": table("Bach,Air,train,2001,a.mid,,"),
            "one/a.mid": tune(1),
            "two/maestro-v1.csv": table("Chopin,Waltz,validation,2002,a.mid,,"),
            "two/a.mid": tune(2),
        }
        pieces = process(fill(tmp_path / "in", files), tmp_path / "out")
        assert {id: piece.composer for id, piece in pieces.items()} == {"one/a.mid": "Bach", "two/a.mid": "Chopin"}
        assert {id: piece.split for id, piece in pieces.items()} == {"one/a.mid": "train", "two/a.mid": "validation"}

    def test_a_glob_finds_the_table_before_its_first_wildcard(self, tmp_path):
        files = {"maestro-v3.0.0.csv": table("Bach,Air,test,2001,2004/a.mid,,"), "2004/a.mid": tune(1)}
        pieces = process(f"{fill(tmp_path / 'in', files)}/*/*.mid", tmp_path / "out")
        assert pieces["2004/a.mid"].composer == "Bach"

    def test_columns_are_found_by_name(self):
        content = "\ufeffsplit,midi_filename,canonical_title,extra,year,canonical_composer\ntest,a.mid,Air,?,,Bach\n"
        assert maestro.read_tables([("maestro-v9.csv", content.encode())]) == {"a.mid": Facts("Bach", "Air", 0, "test")}

    def test_the_later_of_two_tables_counts(self):
        old, new = table("Bach,Air,train,2001,a.mid,,"), table("Bach,Air,test,2001,a.mid,,")
        assert maestro.read_tables([("maestro-v1.csv", old), ("maestro-v2.csv", new)])["a.mid"].split == "test"

    @pytest.mark.parametrize(
        "content", [b"", b"\xff\xfe", b"midi_filename,year\na.mid,1\n", table("Bach,Air,train,MMI,a.mid,,")]
    )
    def test_a_table_that_is_none(self, content):
        with pytest.raises(RecordError, match=r"maestro-v1\.csv"):
            maestro.read_tables([("maestro-v1.csv", content)])


class TestSplit:
    def test_it_never_changes(self):
        """These three must stay: a change would move pieces between the splits of existing datasets."""
        works = {"bach\nair": "train", "chopin\nwaltz 7": "test", "chopin\nwaltz 15": "validation"}
        assert {work: maestro.split_of(work) for work in works} == works

    def test_80_10_10(self):
        count = Counter(maestro.split_of(str(number)) for number in range(10_000))
        assert 7_850 < count["train"] < 8_150
        assert 900 < count["validation"] < 1_100
        assert 900 < count["test"] < 1_100

    def test_performances_of_a_work_stay_together(self):
        one, other = midi.read(tune(1)), midi.read(tune(2))
        assert maestro.composition("Bach", "Air", one) == maestro.composition("BACH", " air ", other)
        assert maestro.composition("Bach", "", one) != maestro.composition("Bach", "", other)

    def test_all_pieces_may_go_into_one(self, tmp_path):
        """Whatever a table says: to evaluate a model on them all."""
        files = {f"{number}.mid": tune(number) for number in range(6)}
        source = fill(tmp_path / "set", files | {"maestro-v1.csv": table("Bach,Air,train,2004,3.mid,,")})
        mixed, tested = process(source, tmp_path / "mixed"), process(source, tmp_path / "tested", "--split", "test")
        assert mixed["3.mid"].split == "train" and (mixed["3.mid"].composer, mixed["3.mid"].year) == ("Bach", 2004)
        assert {piece.split for piece in tested.values()} == {"test"} and len(tested) == 6
        assert (tested["3.mid"].composer, tested["3.mid"].year) == ("Bach", 2004)

    def test_unknown_titles_split_by_content_wherever_they_lie(self, tmp_path):
        tunes = {f"{number}.mid": tune(number) for number in range(40)}
        here = process(fill(tmp_path / "here", tunes), tmp_path / "a")
        there = process(fill(tmp_path / "there/deep", tunes).parent, tmp_path / "b")
        assert {id: piece.split for id, piece in here.items()} == {
            id.removeprefix("deep/"): piece.split for id, piece in there.items()
        }
        assert {piece.split for piece in here.values()} == set(SPLITS)


class TestTransforms:
    def test_read_pieces(self, corpus):
        fill(corpus, {"broken.mid": b"no"})
        facts = {"air.mid": Facts("Johann Sebastian Bach", "Air", 1730, "test")}
        with test_pipeline.TestPipeline() as p:
            pieces, errors, _ = p | pipeline.ReadPieces(sources.find(str(corpus)), facts)
            rows = pieces | beam.Map(lambda piece: (piece.id, piece.composer, piece.title, len(piece.notes)))
            assert_that(
                rows,
                equal_to(
                    [
                        ("air.mid", "Johann Sebastian Bach", "Air", 3),
                        ("suites/one.MID", "suites", "", 4),
                        ("suites/cello/two.Midi", "cello", "", 5),
                    ]
                ),
                label="pieces",
            )
            assert_that(errors | beam.Keys(), equal_to(["broken.mid"]), label="errors")

    def test_duplicates(self):
        same, other = midi.read(tune(1)), midi.read(tune(2))
        pieces = [Piece(same, "c"), Piece(same, "a"), Piece(other, "0"), Piece(same, "b", composer="somebody else")]
        with test_pipeline.TestPipeline() as p:
            duplicates = p | beam.Create(pieces) | pipeline.Duplicates()
            assert_that(duplicates, equal_to([("b", "a"), ("c", "a")]))

    def test_music_that_differs_by_a_velocity_is_no_duplicate(self):
        notes = midi.read(tune(1))
        louder = notes.copy()
        louder["velocity"][0] += 1
        assert maestro.content(notes) != maestro.content(louder)
        assert maestro.content(notes) == maestro.content(nt.shift(notes, 1e-7))  # less than a microsecond is nothing

    def test_statistics(self):
        """Two notes at once, one 0.25 s later, held 0.5, 2 and 300 s; and one note of one second."""
        chord = nt.from_tuples([(1.0, 1.5, 60, 64), (1.0, 3.0, 64, 64), (1.25, 301.25, 64, 127)])
        single = nt.from_tuples([(0.0, 1.0, 0, 1)])
        pieces = [
            Piece(chord, "a", composer="Bach"),
            Piece(single, "b", split="test"),
            Piece(single, "c", split="test"),
        ]

        def check(elements):
            (statistics,) = elements
            assert statistics["splits"] == {
                "train": {"pieces": 1, "notes": 3, "seconds": 301.25},
                "validation": {"pieces": 0, "notes": 0, "seconds": 0.0},
                "test": {"pieces": 1, "notes": 1, "seconds": 1.0},
            }
            assert statistics["composers"] == {"Bach": 1, "unknown": 1}
            assert bars(statistics["pitch"]) == {(0, 1): 1, (60, 61): 1, (64, 65): 2}
            assert bars(statistics["velocity"]) == {(1, 2): 1, (64, 65): 2, (127, 128): 1}
            assert bars(statistics["step"]) == {(0.0, 0.001): 1, (0.2, 0.251): 1}
            assert bars(statistics["duration"]) == {
                (0.398, 0.501): 1,
                (1.0, 1.259): 1,
                (1.995, 2.512): 1,
                (79.433, 100.0): 1,
            }
            assert bars(statistics["notes_per_piece"]) == {(1, 2): 1, (3, 4): 1}
            assert statistics["chords"] == {"0.4": 1, "C-1": 1, "E4": 1}

        with test_pipeline.TestPipeline() as p:
            duplicates = p | "Duplicates" >> beam.Create([("c", "b")])
            assert_that(p | beam.Create(pieces) | pipeline.Statistics(duplicates), check)

    def test_statistics_agree_with_numpy(self):
        """The table of milliseconds is a shortcut for a histogram."""
        random = np.random.default_rng(5)
        start = np.sort(random.uniform(0, 900, 5_000).round(6))
        notes = nt.from_columns(start, start + random.lognormal(-1, 3, 5_000).clip(2e-6, 99).round(6), 60, 64)
        described = pipeline.describe(pipeline.counts(Piece(notes, "x")))
        for name, values in {"step": np.diff(start), "duration": notes["end"] - start}.items():
            expected, _ = np.histogram(values.round(6), described[name]["edges"])
            assert described[name]["counts"] == expected.tolist()

    def test_chords_of_all_pieces_are_added_up_the_most_frequent_first(self):
        broken = nt.from_tuples([(k / 4, k / 4 + 0.2, 72 - k) for k in range(3)])
        triad = nt.from_tuples([(second, second + 1, pitch) for second in (0, 2) for pitch in (60, 64, 67)])
        pieces = [Piece(broken, "a"), Piece(triad, "b"), Piece(triad, "c", split="test"), Piece(broken, "d")]

        def check(elements):
            assert list(elements[0]["chords"].items()) == [("0.4.7", 4), ("A#4", 1), ("B4", 1), ("C5", 1)]

        with test_pipeline.TestPipeline() as p:
            duplicates = p | "Duplicates" >> beam.Create([("d", "a")])
            assert_that(p | beam.Create(pieces) | pipeline.Statistics(duplicates), check)

    def test_no_piece_no_statistics(self):
        with test_pipeline.TestPipeline() as p:
            none = p | beam.Create([])
            described = none | pipeline.Statistics(p | "Duplicates" >> beam.Create([]))
            assert_that(described | beam.Map(lambda statistics: statistics["composers"]), equal_to([{}]))


def bars(histogram: dict) -> dict:
    """List the bars of a histogram that are not empty, as (from, to): count."""
    edges = histogram["edges"]
    assert len(edges) == len(histogram["counts"]) + 1
    return {(edges[k], edges[k + 1]): count for k, count in enumerate(histogram["counts"]) if count}


class TestDataset:
    def test_it_says_what_is_there(self, tmp_path):
        source = fill(tmp_path / "in", {f"{number}.mid": tune(number) for number in range(30)})
        pieces = process(source, tmp_path / "out", "--shards", "4")
        facts = Dataset.open(str(tmp_path / "out")).facts
        files = contents(tmp_path / "out")
        assert {shard["path"] for shard in facts["shards"]} == {name for name in files if name.endswith(".tfrecord")}
        assert facts["pieces"] == {s: sum(piece.split == s for piece in pieces.values()) for s in SPLITS}
        for shard in facts["shards"]:
            records = list(wire.read_records(io.BytesIO(files[shard["path"]])))
            inside = [piece for piece in pieces.values() if _place(piece, 4) == shard["path"]]
            assert len(records) == len(inside) == shard["records"]
            assert sum(len(piece.notes) for piece in inside) == shard["notes"]
        assert sum(shard["notes"] for shard in facts["shards"]) == sum(number + 2 for number in range(30))
        assert str(tmp_path) not in "".join(data.decode(errors="replace") for data in files.values())

    def test_tensorflow_reads_the_same(self, corpus, tmp_path):
        tf = pytest.importorskip("tensorflow")
        pieces = process(corpus, tmp_path / "out", "--shards", "2")
        shards = [str(path) for path in (tmp_path / "out").glob("*.tfrecord")]
        examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(shards)]
        by_id = {example.features.feature["id"].bytes_list.value[0].decode(): example for example in examples}
        assert by_id.keys() == pieces.keys()
        for id, piece in pieces.items():
            feature = by_id[id].features.feature
            assert feature["composer"].bytes_list.value[0].decode() == piece.composer
            assert list(feature["pitch"].int64_list.value) == piece.notes["pitch"].tolist()
            assert list(feature["end"].int64_list.value) == [round(end * 1e6) for end in piece.notes["end"].tolist()]

    def test_the_number_of_shards_changes_no_piece_and_each_is_sorted(self, tmp_path):
        source = fill(tmp_path / "in", {f"{number}.mid": tune(number) for number in range(20)})
        few, many = process(source, tmp_path / "few", "--shards", "1"), process(source, tmp_path / "many")
        assert few.keys() == many.keys()
        assert all(np.array_equal(few[id].notes, many[id].notes) and few[id].split == many[id].split for id in few)
        ids = [piece.id for piece in Dataset.open(str(tmp_path / "few")).pieces("train")]
        assert len(ids) > 10
        assert ids == sorted(ids)

    def test_identical_music_is_kept_once(self, tmp_path):
        source = fill(
            tmp_path / "in", {"b/air.mid": tune(1), "a/air.mid": tune(1), "c/air.mid": tune(1), "d.mid": tune(2)}
        )
        assert set(process(source, tmp_path / "out")) == {"a/air.mid", "d.mid"}
        assert lines(tmp_path / "out/duplicates.jsonl") == [
            {"path": "b/air.mid", "same_as": "a/air.mid"},
            {"path": "c/air.mid", "same_as": "a/air.mid"},
        ]
        statistics = json.loads((tmp_path / "out/stats.json").read_text())
        assert statistics["composers"] == {"a": 1, "in": 1}

    def test_damaged_files_are_reported_and_nothing_else_changes(self, corpus, tmp_path):
        process(corpus, tmp_path / "without")
        fill(corpus, DAMAGED)
        process(corpus, tmp_path / "with")
        errors = lines(tmp_path / "with/errors.jsonl")
        assert [error["path"] for error in errors] == sorted(DAMAGED)
        assert {error["path"]: error["reason"] for error in errors}["silence.mid"] == "no notes"
        assert all(error["reason"] for error in errors)
        without, with_ = contents(tmp_path / "without"), contents(tmp_path / "with")
        assert without.pop("errors.jsonl") == b""
        assert with_.pop("errors.jsonl") != b""
        assert with_ == without


def _place(piece: Piece, shards: int) -> str:
    return output.shard_name(piece.split, pipeline.shard_of(piece.id, shards), shards)


class TestCommand:
    def test_it_tells_what_it_did(self, corpus, tmp_path):
        fill(corpus, {"bad.mid": b"", "zz.mid": tune(1)})
        command = [sys.executable, "-m", "preprocessing", "--input", corpus, "--output", tmp_path / "out"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
        assert "1 files without music" in done.stdout
        assert "1 duplicates" in done.stdout
        assert f"The dataset is in {tmp_path / 'out'}" in done.stdout
        splits = [line.split() for line in done.stdout.splitlines() if " pieces " in line]
        assert sum(int(pieces) for _, pieces, *_ in splits) == 3
        assert sum(int(notes) for _, _, _, notes, _ in splits) == 3 + 4 + 5
        assert len(read(tmp_path / "out")) == 3

    @pytest.mark.parametrize(
        "name, says",
        [
            ("nowhere", "there is no such"),
            ("nowhere.zip", "there is no such"),
            ("no*thing.mid", "no .mid or .midi file"),
            ("vacant", "no .mid or .midi file"),
            ("notes.txt", "no .mid or .midi file"),
            ("false.zip", "expected a zip"),
            ("listed", "lacks the columns"),
            ("s3://bucket/music", "expected gs://BUCKET/NAME or a local path"),
        ],
    )
    def test_an_input_that_is_none_touches_nothing(self, tmp_path, monkeypatch, capsys, name, says):
        fill(
            tmp_path, {"notes.txt": b"", "false.zip": b"PK", "listed/maestro-v1.csv": b"a,b\n", "listed/a.mid": tune(1)}
        )
        (tmp_path / "vacant").mkdir()
        old = fill(tmp_path / "out", {"dataset.json": b"{}"})
        monkeypatch.chdir(tmp_path)
        assert run(name, old, "--overwrite") == 2
        printed = capsys.readouterr().err
        assert says in printed
        assert printed.count("\n") == 1
        assert contents(old) == {"dataset.json": b"{}"}

    def test_an_unquoted_glob(self, corpus, tmp_path, capsys):
        assert run(corpus / "air.mid", tmp_path / "out", str(corpus / "suites/one.MID")) == 2
        assert "quote a glob" in capsys.readouterr().err

    def test_an_output_that_is_a_file(self, corpus, tmp_path, capsys):
        assert run(corpus, corpus / "air.mid") == 2
        assert "air.mid" in capsys.readouterr().err

    @pytest.mark.parametrize("number", ["0", "-1", "many", "100000"])
    def test_shards_must_be_a_number(self, corpus, tmp_path, number):
        with pytest.raises(SystemExit) as stop:
            run(corpus, tmp_path / "out", "--shards", number)
        assert stop.value.code == 2

    def test_all_files_damaged(self, tmp_path, capsys):
        assert run(fill(tmp_path / "in", DAMAGED), tmp_path / "out") == 1
        assert "none of the 5 files" in capsys.readouterr().err
        assert len(lines(tmp_path / "out/errors.jsonl")) == 5
        assert not (tmp_path / "out/dataset.json").exists()

    def test_a_full_output_needs_overwrite(self, corpus, tmp_path, capsys):
        out = fill(tmp_path / "out", {"anything": b"at all"})
        assert run(corpus, out) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert contents(out) == {"anything": b"at all"}

    def test_overwrite_replaces_the_dataset_and_nothing_else(self, corpus, tmp_path):
        out = tmp_path / "out"
        process(corpus, out, "--shards", "3")
        fill(out, {"mine.txt": b"mine", ".train-00000-of-00003.tfrecord.123.tmp": b"cut"})
        process(corpus, out, "--shards", "2", "--overwrite")
        process(corpus, tmp_path / "fresh", "--shards", "2")
        assert contents(out) == {**contents(tmp_path / "fresh"), "mine.txt": b"mine"}

    def test_overwrite_deletes_the_declaration_first(self, corpus, tmp_path, monkeypatch):
        process(corpus, tmp_path / "out")
        removed = []
        monkeypatch.setattr(output.storage, "remove", lambda path: removed.append(Path(path).name))
        output.prepare(str(tmp_path / "out"))
        assert removed[0] == "dataset.json"
        assert sorted(removed[1:]) == sorted(contents(tmp_path / "out"))  # where it stands still, as nothing is removed

    def test_a_stage_that_fails_leaves_no_dataset(self, tmp_path, monkeypatch, capsys):
        source = fill(tmp_path / "in", {f"{number}.mid": tune(number) for number in range(20)})
        out = tmp_path / "out"
        process(source, out)
        monkeypatch.setattr(pipeline, "_write_shard", _fail_at_the_third(pipeline._write_shard))
        assert run(source, out, "--overwrite") == 1
        assert "disk full" in capsys.readouterr().err
        monkeypatch.undo()
        assert any(name.endswith(".tfrecord") for name in contents(out))
        with pytest.raises(RecordError, match="no complete dataset"):
            Dataset.open(str(out))
        assert run(source, out) == 2
        assert len(process(source, out, "--overwrite")) == 20

    @pytest.mark.parametrize("end, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
    def test_a_run_that_is_stopped_leaves_no_dataset(self, corpus, tmp_path, end, code):
        """Its first piece takes ten minutes, so the run cannot end by itself."""
        out = fill(tmp_path / "out", {"dataset.json": b"{}", "train-00000-of-00001.tfrecord": b""})
        command = [sys.executable, "-c", HELD, tmp_path / "held", "--input", corpus, "--output", out, "--overwrite"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
            _wait((tmp_path / "held").exists)
            running.send_signal(end)
            printed = running.communicate(timeout=30)[1]
        assert running.returncode == code
        assert "Traceback" not in printed
        with pytest.raises(RecordError, match="no complete dataset"):
            Dataset.open(str(out))
        assert len(process(corpus, out, "--overwrite")) == 3

    def test_a_lost_piece_is_noticed(self, corpus, tmp_path):
        process(corpus, tmp_path / "out")
        (tmp_path / "out" / "dataset.json").unlink()
        with pytest.raises(RecordError, match="of 4 files there are 3 pieces, 0 errors and 0 duplicates"):
            output.complete(str(tmp_path / "out"), "bach", 4)

    def test_train_and_test_swapped_are_another_dataset(self, tmp_path):
        shards = [wire.write_records([to_example(Piece(midi.read(tune(n)), "a"))]) for n in (1, 2)]
        digests = []
        for splits in (("train", "test"), ("test", "train"), ("train", "test")):
            files = {output.shard_name(split, 0, 1): shard for split, shard in zip(splits, shards, strict=True)}
            fill(
                tmp_path,
                {**files, "stats.json": b"{}", "errors.jsonl": b"", "duplicates.jsonl": b"", "warnings.jsonl": b""},
            )
            digests.append(output.complete(str(tmp_path), "here", 2).dataset["digest"])
            (tmp_path / "dataset.json").unlink()
        assert digests[0] == digests[2] != digests[1]

    def test_progress(self, monkeypatch):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        with stage._progress(10):
            pipeline.Tally.files += 4
            _wait(lambda: "4 of 10 files" in terminal.getvalue())
            pipeline.Tally.files += 6
            _wait(lambda: "all 10 files are read" in terminal.getvalue())


def _fail_at_the_third(write):
    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        yield from write(*args)

    return failing


def _wait(happened) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until, "it did not happen within 60 s"
        time.sleep(0.05)


@needs_maestro
class TestMaestro:
    def test_a_handful(self, tmp_path):
        """The six smallest files: facts as csv.DictReader finds them, notes as pretty_midi does."""
        import pretty_midi

        with zipfile.ZipFile(MAESTRO) as archive:
            small = sorted((member.file_size, member.filename) for member in archive.infolist())
            names = [name for _, name in small if name.endswith(".midi")][:6]
            (listed,) = (name for name in archive.namelist() if name.endswith(".csv"))
            files = {name: archive.read(name) for name in [*names, listed]}
        rows = {row["midi_filename"]: row for row in csv.DictReader(io.StringIO(files[listed].decode()))}
        pieces = process(pack(tmp_path / "six.zip", files), tmp_path / "out")
        assert len(pieces) == 6
        for name in names:
            id = name.partition("/")[2]
            piece, row = pieces[id], rows[id]
            assert (piece.composer, piece.title) == (row["canonical_composer"], row["canonical_title"])
            assert (piece.split, piece.year) == (row["split"], int(row["year"]))
            (instrument,) = pretty_midi.PrettyMIDI(io.BytesIO(files[name])).instruments
            assert len(piece.notes) == len(instrument.notes)
            assert Counter(piece.notes["pitch"].tolist()) == Counter(note.pitch for note in instrument.notes)

    @pytest.mark.slow
    def test_all_of_it(self, tmp_path):
        assert run(MAESTRO, tmp_path) == 0
        dataset = Dataset.open(str(tmp_path))
        assert dataset.facts["pieces"] == {"train": 962, "validation": 137, "test": 177}
        notes = {split: sum(len(piece.notes) for piece in dataset.pieces(split)) for split in SPLITS}
        assert notes == {"train": 5_659_328, "validation": 639_425, "test": 741_410}
        statistics = json.loads((tmp_path / "stats.json").read_text())
        assert {split: statistics["splits"][split]["notes"] for split in SPLITS} == notes
        assert statistics["composers"]["Frédéric Chopin"] == 201
        assert sum(statistics["chords"].values()) == sum(map(_groups, map(dataset.pieces, SPLITS))) == 3_672_824
        assert next(iter(statistics["chords"])) == "G4"


def _groups(pieces) -> int:
    """Count groups within 50 ms of their first note, one note at a time."""
    count = 0
    for piece in pieces:
        first = -math.inf
        for onset in np.rint(piece.notes["start"] * 1e6).tolist():
            if onset - first > 50_000:
                count, first = count + 1, onset
    return count
