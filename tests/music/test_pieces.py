"""Pieces as bytes, and a dataset folder: complete, or an error that says what is wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from music import notes as nt
from music import wire
from music.errors import RecordError
from music.pieces import SCHEMA, Dataset, Piece, checksum, from_example, to_example
from tests.support.strategies import law, notes

SCALE = nt.from_tuples([(k / 3, k / 3 + 0.25, 60 + k, 70 + k) for k in range(8)])
TUNE = Piece(SCALE, "2004/tune.midi", "Clara Schumann", "Impromptu – für Klavier", 2004, "train")


# --- one piece ---------------------------------------------------------------------------------------------------


@law
@given(
    notes(lowest=0, highest=127, unit=1e-6),
    st.tuples(st.text(), st.text(), st.text()),
    st.integers(0, 3000),
    st.sampled_from([0, 40, nt.DRUMS]),
)
def test_a_piece_comes_back_to_the_microsecond(music, words, year, program):
    music["program"] = program
    piece = Piece(music, *words, year=year, split="validation")
    back = from_example(to_example(piece))
    assert (back.id, back.composer, back.title, back.year, back.split) == (*words, year, "validation")
    assert np.rint(back.notes["start"] * 1e6).tolist() == np.rint(music["start"] * 1e6).tolist()
    assert np.rint(back.notes["end"] * 1e6).tolist() == np.rint(music["end"] * 1e6).tolist()
    for name in ("pitch", "velocity", "program"):
        assert back.notes[name].tolist() == music[name].tolist()
    assert to_example(back) == to_example(piece)


def test_times_after_forty_minutes_are_as_exact_as_at_the_beginning():
    """float32 seconds would be off by 0.1 ms there."""
    late = nt.from_tuples([(2627.123456, 2628.654321, 60)])
    back = from_example(to_example(Piece(late, "late.mid"))).notes
    assert back["start"] == pytest.approx([2627.123456], abs=1e-9)
    assert back["end"] == pytest.approx([2628.654321], abs=1e-9)


def test_tensorflow_reads_a_piece():
    import tensorflow as tf

    feature = tf.train.Example.FromString(to_example(TUNE)).features.feature
    assert feature["composer"].bytes_list.value[0].decode() == "Clara Schumann"
    assert feature["title"].bytes_list.value[0].decode() == "Impromptu – für Klavier"
    assert list(feature["year"].int64_list.value) == [2004]
    assert list(feature["start"].int64_list.value)[:3] == [0, 333_333, 666_667]
    assert list(feature["end"].int64_list.value)[:2] == [250_000, 583_333]
    assert list(feature["pitch"].int64_list.value) == list(range(60, 68))


def test_the_same_piece_is_the_same_bytes():
    assert to_example(TUNE) == to_example(from_example(to_example(TUNE)))


def test_bytes_that_are_no_piece_are_an_error():
    with pytest.raises(RecordError, match="damaged"):
        from_example(b"\xff\xff")
    with pytest.raises(RecordError, match=r"lacks the features .*'pitch'"):
        from_example(b"")


def _without(name, *, keep=0):
    """Write TUNE's tf.Example with only the first `keep` values of one feature."""
    example = wire.Example.FromString(to_example(TUNE))
    feature = example.features.feature[name]
    del (feature.bytes_list if feature.HasField("bytes_list") else feature.int64_list).value[keep:]
    return example.SerializeToString()


@pytest.mark.parametrize(("name", "keep"), [("velocity", 7), ("start", 3), ("title", 0), ("year", 0)])
def test_a_column_that_is_too_short_is_an_error(name, keep):
    with pytest.raises(RecordError, match="damaged"):
        from_example(_without(name, keep=keep))


# --- a folder ----------------------------------------------------------------------------------------------------

PIECES = {
    "train": [TUNE, Piece(nt.shift(SCALE, 1), "b.mid", "Fanny Hensel", year=1846)],
    "test": [Piece(SCALE[:3], "c.mid", split="test")],
}


@pytest.fixture
def folder(tmp_path):
    """Write a complete dataset: one shard of two training pieces, one of a test piece, an empty one for validation."""
    shards = []
    for split in ("train", "validation", "test"):
        pieces = PIECES.get(split, [])
        data = wire.write_records(map(to_example, pieces))
        path = f"{split}-00000-of-00001.tfrecord"
        (tmp_path / path).write_bytes(data)
        sizes = {"records": len(pieces), "notes": sum(len(piece.notes) for piece in pieces), "bytes": len(data)}
        shards.append({"path": path, "split": split, **sizes, "crc32c": checksum(data)})
    facts = {"schema": SCHEMA, "source": "here", "digest": "0", "pieces": {"train": 2, "test": 1}, "shards": shards}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    return tmp_path


def change(folder, **facts):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_dataset_gives_its_pieces_split_by_split(folder):
    dataset = Dataset.open(str(folder))
    for split, pieces in PIECES.items():
        assert [to_example(piece) for piece in dataset.pieces(split)] == [to_example(piece) for piece in pieces]
    assert [shard["notes"] for shard in dataset.shards("train")] == [16]


def test_only_the_shards_that_are_listed_are_read(folder):
    (folder / "train-00001-of-00002.tfrecord").write_bytes(wire.write_records([to_example(TUNE)]))
    assert len(list(Dataset.open(str(folder)).pieces("train"))) == 2


@pytest.mark.parametrize("split", ["validation", "rehearsal"])
def test_a_split_without_pieces_is_an_error_that_says_what_there_is(folder, split):
    with pytest.raises(RecordError, match=f"no {split} pieces.*'train': 2"):
        list(Dataset.open(str(folder)).pieces(split))


def test_a_folder_without_dataset_json_is_not_complete(folder):
    (folder / "dataset.json").unlink()
    with pytest.raises(RecordError, match=r"no complete dataset: dataset.json is missing.*python -m preprocessing"):
        Dataset.open(str(folder))
    with pytest.raises(RecordError, match="no complete dataset"):
        Dataset.open(str(folder / "nowhere"))


def test_a_newer_schema_is_an_error_that_says_so(folder):
    change(folder, schema=SCHEMA + 1)
    with pytest.raises(RecordError, match=f"schema {SCHEMA + 1}; this version reads up to {SCHEMA}"):
        Dataset.open(str(folder))


def test_keys_that_we_do_not_know_are_ignored(folder):
    change(folder, mood="cheerful")
    assert len(list(Dataset.open(str(folder)).pieces("test"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema": "one"}',
        b'{"schema": 1}',
        b'{"schema": 1, "digest": "0", "pieces": {}}',
        b'{"schema": 1, "digest": "0", "shards": []}',
        b'{"schema": 1, "digest": "0", "pieces": {}, "shards": 7}',
        b'{"schema": 1, "digest": "0", "pieces": {}, "shards": [{"path": "train", "split": "train"}]}',
    ],
)
def test_a_damaged_dataset_json_is_an_error(folder, text):
    (folder / "dataset.json").write_bytes(text)
    with pytest.raises(RecordError, match=r"dataset.json is damaged"):
        Dataset.open(str(folder))


SHARD = "train-00000-of-00001.tfrecord"


def test_a_shard_that_is_missing_is_an_error(folder):
    (folder / SHARD).unlink()
    with pytest.raises(RecordError, match=f"{SHARD} is missing, though dataset.json lists it"):
        list(Dataset.open(str(folder)).pieces("train"))


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", r"..\x", r"a\..\..\x", r"C:\x", r"\x", r"\\host\x", "", "x\0", "\udce9", 7]
)
def test_a_shard_that_is_not_inside_the_folder_is_named_and_not_read(folder, name):
    shards = json.loads((folder / "dataset.json").read_text())["shards"]
    change(folder, shards=[shards[0], shards[1] | {"path": name}])
    with pytest.raises(RecordError, match=r"lists a shard .*: expected a name inside its own folder") as caught:
        Dataset.open(str(folder))
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_shard_below_the_folder_is_read(folder):
    shards = json.loads((folder / "dataset.json").read_text())["shards"]
    (folder / "a").mkdir()
    for shard in shards:
        (folder / shard["path"]).rename(folder / "a" / f"..{shard['path']}")
    change(folder, shards=[shard | {"path": f"a/..{shard['path']}"} for shard in shards])
    assert len(list(Dataset.open(str(folder)).pieces("train"))) == 2


def test_a_shard_with_one_flipped_byte_is_an_error_before_any_piece_of_it(folder):
    data = bytearray((folder / SHARD).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / SHARD).write_bytes(data)
    with pytest.raises(RecordError, match=f"{SHARD} is not the shard that dataset.json lists"):
        next(Dataset.open(str(folder)).pieces("train"))


def test_a_shard_cut_between_two_records_is_an_error(folder):
    """Which the checksums of TFRecord alone would not notice."""
    (folder / SHARD).write_bytes(wire.write_records([to_example(TUNE)]))
    with pytest.raises(RecordError, match=r"expected \d+ bytes with crc32c .*, got \d+ bytes"):
        list(Dataset.open(str(folder)).pieces("train"))


def test_the_checksum_is_crc32c_in_hexadecimal():
    assert checksum(b"123456789") == "e3069283"  # the check value of RFC 3720


def test_numbers_that_a_foreign_writer_did_not_pack_are_read(tmp_path):
    """Field 1 of an Int64List, a varint each with its own key: protobuf reads that as well, so others may write it."""
    packed = wire.PackedExample.FromString(to_example(TUNE))
    head, plain = bytearray(), wire.Example.FromString(to_example(TUNE))
    for name, feature in plain.features.feature.items():
        if feature.HasField("int64_list"):
            values = b"".join(b"\x08" + _varint(value) for value in feature.int64_list.value)
            body = b"\x1a" + _varint(len(values)) + values
            del packed.features.feature[name]
            entry = b"\x0a" + _varint(len(name)) + name.encode() + b"\x12" + _varint(len(body)) + body
            head += b"\x0a" + _varint(len(entry)) + entry
    features = packed.features.SerializeToString() + bytes(head)
    foreign = b"\x0a" + _varint(len(features)) + features
    assert foreign != to_example(TUNE) and wire.Example.FromString(foreign) == plain
    assert to_example(from_example(foreign)) == to_example(TUNE)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
