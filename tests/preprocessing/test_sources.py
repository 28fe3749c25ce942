"""Folders and archives as people have them: what is read, under which name, and what is said of the rest."""

import gzip
import io
import json
import os
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing import archives, sources
from tests.preprocessing.test_preprocessing import fill, lines, pack, process, run, tune
from tests.support import hostile, scores
from tests.support.strategies import law


def packed(files: dict[str, bytes]) -> bytes:
    """A zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def taped(files: dict[str, bytes], compression: str = "gz") -> bytes:
    """A tar; names may be bytes of any encoding."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}", encoding="utf-8", errors="surrogateescape") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def named(name: bytes, data: bytes) -> bytes:
    """A zip with a member whose name has these bytes, which do not say what they mean."""
    return packed({"x" * len(name): data}).replace(b"x" * len(name), name)


def composers(folder: Path) -> dict[str, str]:
    return {id: piece.composer for id, piece in folder.items()}


def warnings(folder: Path) -> dict[str, str]:
    return {line["path"]: "; ".join(line["damage"]) for line in lines(folder / "warnings.jsonl")}


def errors(folder: Path) -> dict[str, str]:
    return {line["path"]: line["reason"] for line in lines(folder / "errors.jsonl")}


# --- names ---------------------------------------------------------------------------------------------------------


def test_all_names_of_midi_are_read(tmp_path):
    riff = b"RMIDdata" + struct.pack("<I", len(tune(3))) + tune(3)
    files = {
        "a.kar": tune(1), "b.SMF": tune(2), "c.rmi": b"RIFF" + struct.pack("<I", len(riff)) + riff,
        "d.mid.gz": gzip.compress(tune(4)), "e.KAR.GZ": gzip.compress(tune(5)), "f.midi.gz": tune(6),
        "g.mid.gz": gzip.compress(tune(7))[:-9], "h.mid.gz": gzip.compress(bytes(30_000_000)),
        "i.mid": gzip.compress(tune(9)),
    }  # fmt: skip
    pieces = process(fill(tmp_path / "in", files), tmp_path / "out")
    assert {id: len(piece.notes) for id, piece in pieces.items()} == {
        "a.kar": 3, "b.SMF": 4, "c.rmi": 5, "d.mid.gz": 6, "e.KAR.GZ": 7, "f.midi.gz": 8,
    }  # fmt: skip
    assert errors(tmp_path / "out") == {
        "g.mid.gz": "a damaged gzip file: Compressed file ended before the end-of-stream marker was reached",
        "h.mid.gz": "too large for a MIDI file: expected at most 20,000,000 bytes, unpacked, got more",
        "i.mid": "not a MIDI file: this is a gzip file",
    }


SCORES = {
    "a.mid": tune(1), "bach/b.musicxml": scores.STUDY, "c.mxl": scores.packed(scores.STUDY[:-20]),
    "bach.zip": packed({"d.MXL": scores.packed(scores.score(scores.bars("", "")))}),
    "e.musicxml.gz": gzip.compress(scores.score(scores.bars("", "", ""))),
}  # fmt: skip


def test_scores_are_pieces_like_midi_files(tmp_path):
    pieces = process(fill(tmp_path / "in", SCORES), tmp_path / "out")
    assert {id: len(piece.notes) for id, piece in pieces.items()} == {
        "a.mid": 3, "bach/b.musicxml": 13, "bach.zip/d.MXL": 2, "e.musicxml.gz": 3
    }  # fmt: skip
    assert {pieces[id].composer for id in ("bach/b.musicxml", "bach.zip/d.MXL")} == {"bach"}
    assert list(errors(tmp_path / "out")) == ["c.mxl"] and "damaged MusicXML" in errors(tmp_path / "out")["c.mxl"]


def test_without_music21_scores_are_errors_and_midi_files_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "music21", None)
    assert list(process(fill(tmp_path / "in", SCORES), tmp_path / "out")) == ["a.mid"]
    reason = "reading MusicXML needs music21: `pip install '.[score]'` in a clone of Cadenza brings it"
    assert errors(tmp_path / "out") == dict.fromkeys(
        ("bach/b.musicxml", "c.mxl", "bach.zip/d.MXL", "e.musicxml.gz"), reason
    )
    assert "4 files without music (errors.jsonl)" in capsys.readouterr().out


def test_what_is_passed_over_is_named_and_counted(tmp_path, capsys):
    files = {
        "a.mid": tune(1),
        "README": b"",
        "x/song.xml": b"",
        "x/.y/b.mid": tune(2),
        "more.rar": b"",
        "cut.mid": tune(3)[:-9],
    }
    process(fill(tmp_path / "in", files), tmp_path / "out")
    assert warnings(tmp_path / "out") == {
        "README": "passed over: its name is not that of a MIDI or a MusicXML file",
        "x/song.xml": "passed over: an XML file; if it is MusicXML, let its name end in .musicxml",
        "x/.y/b.mid": "passed over: hidden: its name or its folder's begins with a dot, or is __MACOSX",
        "more.rar": "passed over: a packed file of this kind is not read; unpack it",
        "cut.mid": warnings(tmp_path / "out")["cut.mid"],
    }
    assert "passed over" not in warnings(tmp_path / "out")["cut.mid"]
    out = capsys.readouterr().out
    assert (
        "\n1 files are damaged, or beyond a piano's keys (warnings.jsonl)\n4 other files passed over (warnings.jsonl)\n"
        in out
    )


def test_a_source_without_music_says_what_is_there_instead(tmp_path, capsys):
    fill(tmp_path / "in", {"song.xml": b"", "b.txt": b""})
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "no .mid or .midi file in it, nor one of .kar, .rmi, .smf, .musicxml, .mxl, packed" in (
        output := capsys.readouterr().err
    )
    assert output.endswith("; 2 other files, the first b.txt (its name is not that of a MIDI or a MusicXML file)\n")


def test_drums_are_what_the_flag_says(tmp_path):
    ten = hostile.song(b"\0\x99\x3c\x50\x60\x89\x3c\0")
    folder = fill(tmp_path / "in", {"ten.mid": ten})
    assert process(folder, tmp_path / "a")["ten.mid"].notes["program"].tolist() == [128]
    assert process(folder, tmp_path / "b", "--drums", "none")["ten.mid"].notes["program"].tolist() == [0]


# --- links ---------------------------------------------------------------------------------------------------------


def test_linked_folders_are_followed_once_and_loops_reported(tmp_path):
    fill(tmp_path, {"in/a/1.mid": tune(1), "elsewhere/b/2.mid": tune(2)})
    links = {
        "in/link": "elsewhere",
        "in/second": "elsewhere/b",
        "in/a/up": "in",
        "elsewhere/b/self": "elsewhere/b",
        "in/none.mid": "gone",
    }
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    pieces = process(tmp_path / "in", tmp_path / "out")
    assert composers(pieces) == {"a/1.mid": "a", "link/b/2.mid": "b"}
    back = "passed over: a link back to a folder that it is in, which is not followed"
    assert warnings(tmp_path / "out") == {
        "a/up": back,
        "link/b/self": back,
        "none.mid": "passed over: a link that leads to no file (No such file or directory)",
        "second": "passed over: a folder that is read under another name already",
    }


def test_a_link_to_a_folder_above_the_source_is_not_followed(tmp_path):
    fill(tmp_path, {"in/1.mid": tune(1), "beside/2.mid": tune(2)})
    (tmp_path / "in" / "up").symlink_to("..")
    assert sources.find(str(tmp_path / "in")).ids() == ["1.mid"]
    assert [id for id, _ in sources.find(str(tmp_path / "in")).listing().passed_over] == ["up"]


# --- archives ------------------------------------------------------------------------------------------------------


def test_archives_in_folders_and_in_archives_are_read(tmp_path):
    deepest = packed({"no.mid": tune(9)})
    files = {
        "mozart.zip": packed({"k545.mid": tune(1), "more/k331.mid": tune(2), "__MACOSX/._k545.mid": b""}),
        "bach.tar": taped({"air.mid": tune(3)}, ""),
        "chopin.tgz": taped({"op9/1.mid": tune(4), "rest.zip": packed({"2.mid": tune(5), "deep.zip": deepest})}),
        "all.zip": packed({"in/satie.tar.gz": taped({"1.mid": tune(6), "2.kar": tune(7)}), "b.zip": b"PK, and no zip"}),
        "broken.zip": b"nothing",
        "broken.tar.gz": b"nothing",
    }
    pieces = process(fill(tmp_path / "in", files), tmp_path / "out")
    assert composers(pieces) == {
        "mozart.zip/k545.mid": "mozart", "mozart.zip/more/k331.mid": "more", "bach.tar/air.mid": "bach",
        "chopin.tgz/op9/1.mid": "op9", "chopin.tgz/rest.zip/2.mid": "rest",
        "all.zip/in/satie.tar.gz/1.mid": "satie", "all.zip/in/satie.tar.gz/2.kar": "satie",
    }  # fmt: skip
    assert [len(pieces[id].notes) for id in sorted(pieces)] == [8, 9, 5, 6, 7, 3, 4]
    assert errors(tmp_path / "out") == {
        "all.zip/b.zip": "expected a zip, got a damaged one or another kind of file (File is not a zip file)",
        "broken.tar.gz": "expected a tar, got another kind of file",
        "broken.zip": "expected a zip, got a damaged one or another kind of file (File is not a zip file)",
        "chopin.tgz/rest.zip/deep.zip": "an archive in an archive's archive, which is not read; unpack it",
    }
    assert set(warnings(tmp_path / "out")) == {"mozart.zip/__MACOSX/._k545.mid"}


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_a_tar_gives_the_dataset_of_its_folder(tmp_path, compression):
    files = {f"bach/{number}/{number}.mid": tune(number) for number in range(5)} | {"bach/README": b""}
    path = tmp_path / f"bach.tar{compression and '.'}{compression}"
    path.write_bytes(taped(files, compression))
    assert composers(process(path, tmp_path / "out")) == {f"{n}/{n}.mid": str(n) for n in range(5)}
    fill(tmp_path / "in", files)
    process(tmp_path / "in" / "bach", tmp_path / "folder")
    digests = [json.loads((tmp_path / name / "dataset.json").read_text())["digest"] for name in ("out", "folder")]
    assert digests[0] == digests[1]
    assert warnings(tmp_path / "out") == warnings(tmp_path / "folder")


def test_of_a_tar_that_is_cut_the_members_before_the_cut_are_read(tmp_path):
    (tmp_path / "bach.tar.gz").write_bytes(
        taped({f"bach/{n}.mid": tune(n) + os.urandom(9000) for n in range(9)})[:-9000]
    )
    pieces = process(tmp_path / "bach.tar.gz", tmp_path / "out")
    assert 6 <= len(pieces) < 9
    assert "bach.tar.gz" in errors(tmp_path / "out")


def test_a_link_in_a_tar_is_reported(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in (("a.mid", tune(1)), ("c.mid", tune(2))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("b.mid")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "x.tar.gz").write_bytes(out.getvalue())
    assert set(process(tmp_path / "x.tar.gz", tmp_path / "out")) == {"a.mid", "c.mid"}
    assert errors(tmp_path / "out") == {"b.mid": "a link or a device in an archive, which is not followed"}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_members_of_one_name_are_both_read(tmp_path):
    path = pack(tmp_path / "x.zip", {"bach/air.mid": tune(1), "bach/air (3).mid": tune(4)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bach/air.mid", tune(2))
        archive.writestr("bach/air.mid", tune(3))
    pieces = process(path, tmp_path / "out")
    assert {id: len(piece.notes) for id, piece in pieces.items()} == {
        "air.mid": 3, "air (2).mid": 4, "air (3).mid": 6, "air (4).mid": 5,
    }  # fmt: skip


def test_backslashes_of_a_zip_from_windows_separate_folders(tmp_path):
    path = pack(
        tmp_path / "music.zip", {r"music\Bach\air.mid": tune(1), r"music\Satie\1.mid": tune(2), "music\\Bach\\": b""}
    )
    assert composers(process(path, tmp_path / "out")) == {"Bach/air.mid": "Bach", "Satie/1.mid": "Satie"}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("ショパン/夜想曲.mid", "cp932"), ("表/ソナタ.mid", "cp932"), ("月光.mid", "cp932"), ("ピアノ.mid", "cp932"),
        ("ショパン/夜想曲.mid", "utf-8"), ("Fauré/Élégie.mid", "utf-8"),
        ("Fauré/Élégie.mid", "latin-1"), ("Für Elise.mid", "latin-1"),
        ("dégénéré/âme.mid", "latin-1"), ("Jää.mid", "latin-1"), ("âme.mid", "cp437"),
        ("Fauré/Elégie.mid", "cp437"), ("Für Elise/Größe.mid", "cp437"), ("Albéniz/España.mid", "cp437"),
    ],
)  # fmt: skip
def test_names_that_do_not_say_their_encoding(tmp_path, name, encoding):
    """Names with a backslash in them, as 表 and ソ have one in Shift-JIS, stay whole."""
    (tmp_path / "x.zip").write_bytes(named(b"top/" + name.encode(encoding), tune(1)))
    assert sources.find(str(tmp_path / "x.zip")).ids() == [name]


def test_names_in_a_tar_may_be_shift_jis(tmp_path):
    (tmp_path / "x.tgz").write_bytes(taped({"ショパン/夜想曲.mid".encode("cp932"): tune(1), "b.mid": tune(2)}))
    assert composers(process(tmp_path / "x.tgz", tmp_path / "out")) == {"ショパン/夜想曲.mid": "ショパン", "b.mid": "x"}


@law
@given(st.lists(st.binary(max_size=12), max_size=5))
def test_any_bytes_are_names(names):
    decoded = archives.decode(names)
    assert len(decoded) == len(names) and all(name.encode().decode() == name for name in decoded)


@law
@given(st.lists(st.sampled_from(["a.mid", "b.mid", "a (2).mid", "a (3).mid", "a (2) (2).mid"]), max_size=12))
def test_no_two_ids_are_alike(names):
    seen = sources.Counter()
    ids = [sources._unique(name, seen) for name in names]
    assert len(set(ids)) == len(ids) and set(names) <= set(ids)
