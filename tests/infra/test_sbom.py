"""The packages of each image, as CycloneDX; and their audit, which must not pass where it has not been made."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.images import sbom

ROOT = Path(__file__).parents[2]
LOCKS = sorted(path for path in (ROOT / "requirements").glob("*.txt"))
HASH = "a" * 64


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_of_a_lock_is_in_it_with_its_hashes(path):
    text = path.read_text()
    document = sbom.document(path.stem, text)
    assert [(each["name"], each["version"]) for each in document["components"]] == sorted(
        (re.sub(r"[-_.]+", "-", name).lower(), version)
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==(\S+)", text, re.MULTILINE)
    )
    hashes = [
        reference["hashes"][0]["content"] for each in document["components"] for reference in each["externalReferences"]
    ]
    assert len(hashes) >= len(document["components"]) and set(hashes) == set(re.findall(r"sha256:([0-9a-f]{64})", text))
    refs = [each["bom-ref"] for each in document["components"]]
    assert len(set(refs)) == len(refs) and all(ref.startswith("pkg:pypi/") for ref in refs)


def test_the_same_lock_gives_the_same_bytes_and_another_one_does_not():
    one, other = (sbom.document("a", f"flask=={version} --hash=sha256:{HASH}") for version in ("3.1", "3.2"))
    assert one == sbom.document("a", f"flask==3.1 --hash=sha256:{HASH}")
    assert one["serialNumber"] != other["serialNumber"]


@pytest.mark.parametrize(
    "lock", ["", "# nothing", "flask>=3", "flask==3.1", f"a==1 \\\n b==2 --hash=sha256:{HASH}x\na==2"]
)
def test_what_is_no_lock_is_refused(lock, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(lock)
    with pytest.raises(SystemExit) as exit:
        sbom.main([str(tmp_path / "a.txt")])
    captured = capsys.readouterr()
    assert exit.value.code == 2 and "expected" in captured.err.splitlines()[-1] and not captured.out


def test_it_runs_without_anything_of_ours(tmp_path):
    """As it does where an image is built."""
    (tmp_path / "sbom.py").write_text((ROOT / "infra/images/sbom.py").read_text())
    lock = ROOT / "requirements" / "serve.txt"
    command = [sys.executable, "-I", "sbom.py", str(lock)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == sbom.document("serve", lock.read_text())


@pytest.mark.parametrize("name", ["Dockerfile.serve", "Dockerfile.train", "infra/images/Dockerfile.worker"])
def test_every_image_holds_its_own(name):
    text = (ROOT / name).read_text().replace("\\\n", " ")
    synced = re.findall(r"^RUN uv/bin/uv pip sync\D*? (\S+\.txt\"?)(.*)$", text, re.MULTILINE)
    assert synced
    for lock, after in synced:
        assert re.search(rf"python sbom\.py {re.escape(lock)} > \S+/sbom\.cdx\.json", after), (lock, after)


def test_an_audit_is_of_every_lock_and_of_nothing_unasked():
    makefile = (ROOT / "Makefile").read_text()
    locks = re.search(r"^LOCKS = (.*)$", makefile, re.MULTILINE)[1].split()
    assert sorted(locks) == sorted(path.stem for path in LOCKS)
    recipe = makefile.split("\naudit:")[1].split("\n\n")[0]
    assert "--strict" in recipe and "--require-hashes" in recipe and "||" not in recipe and "\t-" not in recipe
