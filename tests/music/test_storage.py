"""Files on a disk and objects in a bucket behave alike; and no fault of a network or a server leaves half a file.

The bucket is an emulator on a real socket, behind the proxy of `faulty.py`.
"""

import gzip
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from itertools import count
from pathlib import Path

import pytest

from music.errors import Conflict, MusicError, StorageError
from music.storage import gcs
from music.storage import paths as storage
from tests.support.faulty import NO_RIGHT, NOT_ENABLED, Fault, Proxy

SMALL = random.Random(1).randbytes(50_000)
LARGE = random.Random(2).randbytes(9 * 2**20)  # beyond what the library puts in one request
_number = count()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Repeat a request soon if no reply comes."""
    monkeypatch.setattr(gcs, "TIMEOUT", (2.0, 0.5))


@pytest.fixture
def bucket(proxy, request) -> str:
    """Name a folder in the bucket, another one for each test."""
    return f"gs://studio/{re.sub('[^a-z]+', '-', request.node.name)}-{next(_number)}"


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "some" / "folder") if request.param == "disk" else request.getfixturevalue("bucket")


def fill(folder: str, *names: str) -> str:
    for name in names:
        storage.write(storage.join(folder, name), name.encode())
    return folder


def below(folder: str, files: list[storage.File]) -> list[str]:
    return [file.path.removeprefix(folder + "/") for file in files]


class TestAlike:
    @pytest.mark.parametrize("data", [b"", b"\r\n", bytes(range(256)), SMALL, LARGE])
    def test_what_was_written_is_read(self, folder, data):
        path = storage.join(folder, "a.bin")
        storage.write(path, b"before")
        storage.write(path, data)
        assert storage.read(path) == data
        assert storage.walk(folder) == [(path, len(data))]

    @pytest.mark.parametrize(
        "name", ["with space", "étude №1", "a+b", "50%", "a#b", "what?", "[x]", "*", "a&b=c", "'\""]
    )
    def test_names(self, folder, name):
        path = fill(folder, f"{name}/{name}.mid", "other.mid") + f"/{name}/{name}.mid"
        assert storage.read(path) == f"{name}/{name}.mid".encode()
        assert storage.entries(storage.join(folder, name)) == [f"{name}.mid"]
        assert below(folder, storage.glob(storage.literally(path))) == [f"{name}/{name}.mid"]
        storage.remove(path)
        assert not storage.exists(path) and storage.exists(storage.join(folder, "other.mid"))

    def test_what_is_there(self, folder):
        assert not storage.exists(folder) and not storage.is_folder(folder) and storage.entries(folder) == []
        fill(folder, "a", "ab/c", "ab/d/e")
        assert storage.exists(folder) and storage.is_folder(folder)
        assert storage.entries(folder) == ["a", "ab"]
        there = {
            name: storage.exists(storage.join(folder, name)) for name in ("a", "ab", "ab/d", "b", "ab/d/e", "ab/dd")
        }
        assert there == {"a": True, "ab": True, "ab/d": True, "b": False, "ab/d/e": True, "ab/dd": False}
        folders = {name: storage.is_folder(storage.join(folder, name)) for name in ("a", "ab", "ab/d", "b")}
        assert folders == {"a": False, "ab": True, "ab/d": True, "b": False}
        assert storage.entries(storage.join(folder, "a")) == []

    def test_absent(self, folder):
        with pytest.raises(FileNotFoundError) as absent:
            storage.read(storage.join(folder, "a"))
        assert (str(absent.value.filename), absent.value.strerror) == (f"{folder}/a", "No such file or directory")
        with pytest.raises(FileNotFoundError):
            storage.open_read(storage.join(folder, "a"))
        assert storage.version(storage.join(folder, "a")) == 0
        assert storage.walk(folder) == []
        storage.remove(storage.join(folder, "a"))

    @pytest.mark.parametrize(
        "pattern, names",
        [
            ("*", ["a.mid", "b.MID"]),
            ("**", ["a.mid", "b.MID", "x/a.mid", "x/y/[1].mid", "x/y/b.mid"]),
            ("*.mid", ["a.mid"]),
            ("**.mid", ["a.mid", "x/a.mid", "x/y/[1].mid", "x/y/b.mid"]),
            ("**/a.mid", ["x/a.mid"]),
            ("x/?.mid", ["x/a.mid"]),
            ("*/*/b.mid", ["x/y/b.mid"]),
            ("[ab].*", ["a.mid", "b.MID"]),
            ("[!a].*", ["b.MID"]),
            ("x/y/[[]1].mid", ["x/y/[1].mid"]),
            ("z*", []),
            ("z/*", []),
        ],
    )
    def test_glob(self, folder, pattern, names):
        fill(folder, "a.mid", "b.MID", "x/a.mid", "x/y/b.mid", "x/y/[1].mid")
        assert below(folder, storage.glob(f"{folder}/{pattern}")) == names

    def test_a_file_of_more_bytes_than_wanted(self, folder):
        fill(folder, "abc")
        assert storage.read(storage.join(folder, "abc"), 3) == b"abc"
        with pytest.raises(MusicError, match="abc: expected at most 2 bytes, got more"):
            storage.read(storage.join(folder, "abc"), 2)

    def test_remove_a_folder(self, folder):
        fill(folder, "a/b", "a/c/d", "ab")
        storage.remove(storage.join(folder, "a"))
        assert below(folder, storage.walk(folder)) == ["ab"]

    def test_a_block_that_fails_writes_nothing(self, folder):
        fill(folder, "a")
        with pytest.raises(ZeroDivisionError), storage.writing(storage.join(folder, "a")) as file:
            file.write(b"half")
            raise ZeroDivisionError
        with storage.writing(storage.join(folder, "b/c")) as file:
            file.write(b"xxxx")
            file.seek(1)
            file.write(b"y")
        assert storage.read(storage.join(folder, "a")) == b"a"
        assert storage.read(storage.join(folder, "b/c")) == b"xyxx"
        assert storage.entries(folder) == ["a", "b"]

    def test_versions(self, folder):
        path = storage.join(folder, "card.json")
        first = storage.write(path, b"1", expected=0)
        assert first == storage.version(path) != 0
        second = storage.write(path, b"2", expected=first)
        assert second == storage.version(path) != first
        for stale in (0, first):
            with pytest.raises(Conflict, match=r"card\.json: somebody else has written it"):
                storage.write(path, b"mine", expected=stale)
        storage.remove(path)
        with pytest.raises(Conflict):
            storage.write(path, b"mine", expected=second)
        assert storage.entries(folder) == []

    def test_a_zip_is_read_here_and_there(self, folder):
        with storage.writing(storage.join(folder, "a.zip")) as file, zipfile.ZipFile(file, "w") as archive:
            for number in range(40):
                archive.writestr(f"{number}.bin", random.Random(number).randbytes(100_000))
        with storage.open_read(storage.join(folder, "a.zip")) as file, zipfile.ZipFile(file) as archive:
            for number in (39, 0, 17, 18):
                assert archive.read(f"{number}.bin") == random.Random(number).randbytes(100_000)

    def test_publish(self, folder, tmp_path):
        names = ["assets/card.json", "saved_model.pb", "variables/variables.index"]
        fill(str(tmp_path / "made"), *names)
        storage.publish(tmp_path / "made", folder, "saved_model.pb")
        assert below(folder, storage.walk(folder)) == [
            "assets/card.json",
            "saved_model.pb",
            "variables/variables.index",
        ]
        with pytest.raises(Conflict, match="is there already"):
            storage.publish(tmp_path / "made", folder, "saved_model.pb")
        copy = storage.local(folder)
        assert copy.name == Path(folder).name
        assert {str(file.relative_to(copy)): file.read_bytes() for file in copy.rglob("*") if file.is_file()} == {
            name: name.encode() for name in names
        }

    def test_a_path_is_a_string_wherever_it_goes(self, folder):
        fill(folder, "a", "b")
        paths = pickle.loads(pickle.dumps([file.path for file in storage.walk(folder)]))
        assert list(storage.together(storage.read, paths)) == [b"a", b"b"]


def store_encoded(path: str, data: bytes) -> str:
    """Store bytes as an object that is said to be gzip-encoded."""
    folder, name = gcs.split(path)
    blob = gcs._client().bucket(folder).blob(name)
    blob.content_encoding = "gzip"
    blob.upload_from_string(data)
    return path


class TestLinks:
    def test_a_folder_that_links_lead_to_is_listed_once(self, tmp_path):
        fill(str(tmp_path), "in/a/1", "out/b/2", "out/b/c/3")
        for link, target in {
            "in/a/x": "out",
            "in/y": "out/b",
            "in/z": "out/b/c",
            "out/b/up": "in",
            "in/a/here": "in/a",
        }.items():
            (tmp_path / link).symlink_to(tmp_path / target)
        passed_over = []
        names = below(str(tmp_path / "in"), storage.glob(f"{tmp_path}/in/**", lambda *each: passed_over.append(each)))
        assert names == ["a/1", "a/x/b/2", "a/x/b/c/3"] == below(str(tmp_path / "in"), storage.walk(tmp_path / "in"))
        assert sorted((path.removeprefix(f"{tmp_path}/in/"), why.split(",")[0]) for path, why in passed_over) == [
            ("a/here", "a link back to a folder that it is in"),
            ("a/x/b/up", "a folder that is read under another name already"),
            ("y", "a folder that is read under another name already"),
            ("z", "a folder that is read under another name already"),
        ]

    def test_only_what_matches_is_reported(self, tmp_path):
        for name in ("a.mid", "a.txt"):
            (tmp_path / name).symlink_to("nowhere")
        passed_over = []
        assert storage.glob(f"{tmp_path}/*.mid", lambda *each: passed_over.append(each)) == []
        assert passed_over == [(f"{tmp_path}/a.mid", "a link that leads to no file (No such file or directory)")]


class TestBucket:
    def test_the_last_file_comes_last(self, bucket, proxy, tmp_path):
        names = ["a.txt", "saved_model.pb", "variables/1", "variables/2", "zz"]
        fill(str(tmp_path), *names)
        order = []
        proxy.before = lambda method, target: method == "POST" and order.append(len(storage_names(bucket, proxy)))
        storage.publish(tmp_path, bucket, "saved_model.pb")
        assert storage.entries(bucket) == ["a.txt", "saved_model.pb", "variables", "zz"]
        assert "ifGenerationMatch=0" in [target for method, target in proxy.seen if method == "POST"][-1]
        assert proxy.count("POST", "ifGenerationMatch=0") == len(names)
        assert order[-1] == len(names) - 1  # all the others were there when it came

    def test_an_interrupted_publication_is_not_complete(self, bucket, proxy, tmp_path):
        fill(str(tmp_path), "a.txt", "saved_model.pb", "z.txt")
        puts = []
        proxy.faults = [Fault(403, "POST", times=0)]
        proxy.before = lambda method, target: (method == "POST" and puts.append(1)) or _refuse_after(2, puts, proxy)
        with pytest.raises(StorageError):
            storage.publish(tmp_path, bucket, "saved_model.pb")
        assert storage.entries(bucket) == []  # nor does anything stand there that could be taken for the newest

    def test_two_publish_at_once(self, bucket, proxy, tmp_path):
        """Both see that there is no such folder before one of them begins to write."""
        for each in ("one", "two"):
            fill(str(tmp_path / each), "a.txt", "saved_model.pb", f"{each}.txt")
        barrier = threading.Barrier(2, timeout=10)
        ends = []

        def publish(each: str) -> None:
            try:
                storage.publish(tmp_path / each, bucket, "saved_model.pb")
                ends.append(each)
            except Conflict:
                ends.append(None)

        def meet(method: str, target: str) -> None:
            if method == "POST" and barrier.n_waiting < 2 and len(meets) < 2:
                meets.append(1)
                barrier.wait()

        meets: list[int] = []
        proxy.before = meet
        threads = [threading.Thread(target=publish, args=(each,)) for each in ("one", "two")]
        [thread.start() for thread in threads]
        [thread.join(30) for thread in threads]
        assert ends.count(None) == 1
        (winner,) = (each for each in ends if each)
        assert storage.entries(bucket) == sorted(["a.txt", f"{winner}.txt", "saved_model.pb"])

    def test_each_process_has_its_own_client(self, bucket):
        fill(bucket, "a")
        before = gcs._client()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            same = gcs._client() is before
            os.write(writer, b"same" if same else storage.read(f"{bucket}/a"))
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 9) == b"a"
        assert gcs._client() is before

    def test_a_long_listing_comes_in_pages(self, bucket, monkeypatch):
        """The emulator knows one page only, so the pages are made here."""
        pages = {None: (["a", "b"], "1"), "1": ([], "2"), "2": (["c"], None)}

        def page(bucket, prefix, deep, token, size=None):
            names, after = pages[token]
            return [gcs.Object(prefix + name, 1) for name in names], [], after

        monkeypatch.setattr(gcs, "_page", page)
        assert below(bucket, storage.walk(bucket)) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        "stored",
        [gzip.compress(SMALL), gzip.compress(SMALL[:20_000]) + gzip.compress(SMALL[20_000:]), SMALL],
        ids=["packed", "packed in two parts", "not packed"],
    )
    def test_an_object_that_is_stored_gzip_encoded_is_unpacked(self, bucket, proxy, stored):
        """As `gsutil cp -Z` stores it; and one that only claims to be."""
        proxy.encoding = True
        path = store_encoded(f"{bucket}/a.mid", stored)
        assert storage.read(path) == SMALL
        with storage.open_read(path) as file:
            file.seek(40_000)
            assert file.read() == SMALL[40_000:]

    def test_what_is_stored_gzip_encoded_is_unpacked_to_its_limit(self, bucket, proxy):
        proxy.encoding = True
        path = store_encoded(f"{bucket}/bomb.mid", gzip.compress(bytes(50_000_000)))
        with pytest.raises(MusicError, match=r"bomb\.mid: expected at most 1,000 bytes, got more"):
            storage.read(path, 1000)
        path = store_encoded(f"{bucket}/cut.mid", gzip.compress(SMALL)[:-9])
        with pytest.raises(MusicError, match=r"cut\.mid: is stored gzip-encoded and does not unpack"):
            storage.read(path)

    def test_a_mark_of_an_empty_folder_is_no_file(self, bucket, proxy):
        gcs._client().bucket("studio").blob(bucket.removeprefix("gs://studio/") + "/").upload_from_string(b"")
        fill(bucket, "a")
        assert storage.entries(bucket) == ["a"] and below(bucket, storage.walk(bucket)) == ["a"]
        storage.remove(bucket)

    @pytest.mark.parametrize("name", ["../../outside", "a/../../outside", "/etc/outside", "a\\..\\..\\outside"])
    def test_a_name_that_leads_elsewhere_is_not_copied(self, bucket, monkeypatch, name):
        monkeypatch.setattr(storage, "walk", lambda folder: [storage.File(f"{folder}/{name}", 1)])
        with pytest.raises(StorageError, match="leads elsewhere"):
            storage.local(bucket)

    def test_a_copy_goes_with_the_process_that_made_it(self, bucket, proxy, tmp_path):
        fill(bucket, "1/a")
        code = (
            "import os, sys; from music import storage; copy = storage.local(sys.argv[1])\n"
            "if not os.fork(): sys.exit()\n"
            "os.wait(); print(copy, (copy / 'a').read_text())"
        )
        done = subprocess.run([sys.executable, "-c", code, f"{bucket}/1"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        path, text = done.stdout.split()
        assert text == "1/a" and Path(path).name == "1" and not Path(path).exists()

    def test_a_bucket_is_not_removed(self, proxy):
        for url in ("gs://studio", "gs://studio/", "gs://studio//"):
            with pytest.raises(StorageError, match="a whole bucket"):
                storage.remove(url)


def storage_names(bucket: str, proxy: Proxy) -> list[str]:
    """List what is stored, without the proxy."""
    import json
    import urllib.request

    prefix = bucket.removeprefix("gs://studio/")
    with urllib.request.urlopen(f"http://127.0.0.1:{proxy.upstream}/storage/v1/b/studio/o?prefix={prefix}") as reply:
        return [item["name"] for item in json.load(reply)["items"]]


def _refuse_after(count: int, puts: list, proxy: Proxy) -> None:
    if len(puts) > count:
        proxy.faults[0].times = 1_000_000


PASSING = ["drop", "drop after", "cut request", "cut reply", "damage request", "damage reply", "delay", 429, 500, 503]


class TestFaults:
    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("what", PASSING)
    def test_a_write_goes_through_after_some(self, bucket, proxy, what, data):
        path = fill(bucket, "a") + "/a"
        proxy.faults = [Fault(what, "PUT" if data is LARGE else "POST", times=2)]
        storage.write(path, data)
        assert proxy.faults[0].times == 0 or what == "damage reply"  # a letter that did not matter
        assert storage.read(path) == data

    @pytest.mark.parametrize("what", [what for what in PASSING if "request" not in str(what)])  # a read sends nothing
    def test_a_read_goes_through_after_some(self, bucket, proxy, what):
        path = f"{bucket}/a"
        storage.write(path, SMALL)
        proxy.faults = [Fault(what, "GET", "alt=media", times=2)]
        assert storage.read(path) == SMALL
        assert proxy.faults[0].times == 0

    @pytest.mark.parametrize("what", ["drop", "cut reply", 429, 503])
    def test_listing_looking_and_removing_go_through_after_some(self, bucket, proxy, what):
        fill(bucket, "a", "b/c")
        for ask in (
            lambda: storage.entries(bucket) == ["a", "b"],
            lambda: storage.exists(f"{bucket}/b"),
            lambda: storage.version(f"{bucket}/a") > 0,
            lambda: storage.remove(bucket) is None and storage.entries(bucket) == [],
        ):
            proxy.faults = [Fault(what, times=2)]
            assert ask()
            assert proxy.faults[0].times == 0

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("what", ["cut request", "damage request", "delay", 503])
    def test_a_write_that_never_succeeds_leaves_the_old_file(self, bucket, proxy, impatient, what, data):
        path = fill(bucket, "a") + "/a"
        proxy.faults = [Fault(what, method) for method in ("POST", "PUT")]
        began = time.monotonic()
        with pytest.raises(StorageError, match="no success within 1 s") as error:
            storage.write(path, data)
        assert time.monotonic() - began < 6
        assert str(error.value).count("\n") == 0 and len(str(error.value)) < 400
        if what == "delay":
            time.sleep(1)  # the server may still carry out an earlier request
        proxy.faults = []
        assert storage.read(path) in [b"a"] + [data] * (what == "delay")
        assert storage.entries(bucket) == ["a"]

    @pytest.mark.parametrize("what", ["drop", "cut reply", "damage reply", "delay", 429])
    def test_a_read_that_never_succeeds_gives_nothing(self, bucket, proxy, impatient, what):
        storage.write(f"{bucket}/a", SMALL)
        proxy.faults = [Fault(what, "GET", "alt=media")]
        began = time.monotonic()
        with pytest.raises(StorageError, match="no success within 1 s"):
            storage.read(f"{bucket}/a")
        assert time.monotonic() - began < 6

    def test_a_zip_read_through_faults(self, bucket, proxy):
        members = {f"{number}.bin": random.Random(number).randbytes(300_000) for number in range(20)}
        with storage.writing(f"{bucket}/a.zip") as file, zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        with storage.open_read(f"{bucket}/a.zip") as file, zipfile.ZipFile(file) as archive:
            for number, (name, data) in enumerate(members.items()):
                proxy.faults = [Fault(["drop", "cut reply", 503][number % 3], times=1)]
                assert archive.read(name) == data

    def test_a_file_that_goes_while_it_is_read_is_no_missing_part(self, bucket):
        storage.write(f"{bucket}/a.zip", LARGE)
        with storage.open_read(f"{bucket}/a.zip") as file:
            storage.remove(f"{bucket}/a.zip")
            with pytest.raises(StorageError, match=r"a\.zip was replaced or removed while it was read"):
                file.read()

    def test_a_bucket_itself_is_a_folder(self, bucket):
        fill(bucket, "a")
        root = "/".join(bucket.split("/")[:3])
        assert storage.exists(root) and storage.exists(root + "/") and storage.is_folder(root)

    def test_the_answer_to_a_create_is_lost(self, bucket, proxy):
        """The first try was carried out, so the second one meets our own file, which is no conflict."""
        for data in (SMALL, LARGE):
            proxy.faults = [Fault("drop after", "PUT" if data is LARGE else "POST", times=1)]
            storage.write(f"{bucket}/{len(data)}", data, expected=0)
            assert storage.read(f"{bucket}/{len(data)}") == data

    def test_a_conflict_after_a_fault_is_one(self, bucket, proxy):
        storage.write(f"{bucket}/a", b"theirs")
        proxy.faults = [Fault(503, "POST", times=1)]
        with pytest.raises(Conflict):
            storage.write(f"{bucket}/a", b"mine", expected=0)
        assert storage.read(f"{bucket}/a") == b"theirs"

    def test_the_precondition_is_sent(self, bucket, proxy):
        for data in (SMALL, LARGE):
            version = storage.write(f"{bucket}/a", data)
            proxy.seen.clear()
            storage.write(f"{bucket}/a", data, expected=version)
            assert proxy.count("POST", f"ifGenerationMatch={version}") == 1
        assert proxy.count("PUT", f"ifGenerationMatch={version}") == 1

    def test_a_checksum_is_sent_and_one_that_is_missing_is_noticed(self, bucket, proxy, monkeypatch):
        storage.write(f"{bucket}/a", SMALL)
        monkeypatch.setattr("google.cloud.storage.Blob.crc32c", None)
        with pytest.raises(StorageError, match="without a checksum"):
            storage.read(f"{bucket}/a")

    def test_no_more_than_some_at_once(self):
        now, most, lock = 0, 0, threading.Lock()

        def call(number: int) -> int:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1
            return number

        taken = []

        def items():
            for number in range(60):
                taken.append(number)
                yield number

        results = storage.together(call, items())
        assert next(results) == 0 and len(taken) <= 8
        assert list(results) == list(range(1, 60))
        assert 2 <= most <= 8

    def test_a_failure_among_many_is_reported_and_ends_the_rest(self):
        called = []

        def call(number: int) -> None:
            called.append(number)
            if number == 5:
                raise StorageError("no")

        with pytest.raises(StorageError):
            list(storage.together(call, range(1000)))
        assert len(called) < 30


class TestRefused:
    @pytest.mark.parametrize(
        "url", ["gs://", "gs:/studio/a", "gs:///a", "s3://studio/a", "http://studio/a", "gs:/", "file:///tmp/x"]
    )
    def test_no_url(self, url):
        for ask in (storage.read, storage.exists, storage.entries, storage.version, storage.walk):
            with pytest.raises(StorageError, match="expected gs://BUCKET/NAME or a local path"):
                ask(url)

    @pytest.mark.parametrize("url", ["gs://studio", "gs://studio/", "gs://studio/folder/"])
    def test_a_folder_where_a_file_is_expected(self, proxy, url):
        for ask in (storage.read, lambda path: storage.write(path, b""), storage.version, storage.open_read):
            with pytest.raises(StorageError, match="expected a file in a bucket, gs://BUCKET/NAME"):
                ask(url)
        assert proxy.seen == []

    def test_another_bucket(self, proxy):
        for ask in (
            storage.read,
            storage.version,
            storage.exists,
            storage.entries,
            storage.open_read,
            storage.local,
            lambda path: storage.write(path, b""),
        ):
            with pytest.raises(StorageError, match=r"there is no bucket gs://stduio; .*gcloud storage buckets create"):
                ask("gs://stduio/a")

    def test_a_name_that_no_bucket_has(self, proxy):
        with pytest.raises(StorageError, match="gs://_/a: Bucket names must start"):
            storage.read("gs://_/a")

    @pytest.mark.parametrize(
        "ask, right, role",
        [
            (storage.read, "get", "objectViewer"),
            (storage.version, "get", "objectViewer"),
            (storage.entries, "list", "objectViewer"),
            (lambda path: storage.write(path, b""), "create", "objectUser"),
            (storage.remove, "list", "objectViewer"),
            (gcs.remove, "delete", "objectUser"),
        ],
    )
    def test_no_right(self, bucket, proxy, ask, right, role):
        proxy.faults = [Fault(403, message=NO_RIGHT)]
        with pytest.raises(StorageError) as error:
            ask(f"{bucket}/a")
        assert f"storage.objects.{right} is not allowed to pianist@example.com" in str(error.value)
        assert f"gs://studio --member user:pianist@example.com --role roles/storage.{role}`" in str(error.value)
        assert len(proxy.seen) == 1

    def test_no_right_of_a_service(self, bucket, proxy):
        message = NO_RIGHT.replace("pianist@example.com", "trainer@p.iam.gserviceaccount.com")
        proxy.faults = [Fault(403, message=message)]
        with pytest.raises(StorageError, match=r"--member serviceAccount:trainer@p\.iam\.gserviceaccount\.com "):
            storage.read(f"{bucket}/a")

    def test_the_api_is_not_enabled(self, bucket, proxy):
        proxy.faults = [Fault(403, message=NOT_ENABLED)]
        with pytest.raises(StorageError, match=r"enable storage-api\.googleapis\.com --project 123456`"):
            storage.write(f"{bucket}/a", b"")

    def test_credentials_that_are_not_accepted(self, bucket, proxy):
        proxy.faults = [Fault(401, message="Anonymous caller does not have storage.objects.get access")]
        with pytest.raises(StorageError, match=r"no Google Cloud credentials.*gcloud auth application-default login"):
            storage.read(f"{bucket}/a")

    def test_nobody_answers(self, proxy, impatient, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"no success within 1 s.*refused"):
            storage.read("gs://studio/a")
        assert time.monotonic() - began < 5

    def test_no_credentials(self, monkeypatch, tmp_path):
        """No key, no login, and a metadata server that never answers: one line within seconds."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "GCE_METADATA_IP": f"127.0.0.1:{silent.getsockname()[1]}",
                "GCE_METADATA_HOST": f"127.0.0.1:{silent.getsockname()[1]}",
            }
            command = [sys.executable, "-m", "music", "inspect", "gs://studio/a.mid"]
            began = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "gcloud auth application-default login" in done.stderr
        assert time.monotonic() - began < 20

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
        monkeypatch.setattr(gcs, "_clients", {})
        with pytest.raises(MusicError, match=r"gs:// needs google\.cloud\.storage; `pip install '\.\[cloud\]'`"):
            storage.read("gs://studio/a")
