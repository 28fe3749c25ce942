"""What README.md, docs/ and infra/ tell a user to type: gcloud's lines parse, targets and flags exist, links hold."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "infra").glob("*.md"))]
STAGES = ("preprocessing", "trainer", "serving", "infra")  # whose modules have a `run` that takes --help
VALUES = {
    "PROJECT": "my-music-1234", "REGION": "europe-west4", "BILLING": "012345-6789AB-CDEF01", "URL": "http://127.0.0.1:1",
    "TOKEN": "token", "IMAGE": "image",
}  # fmt: skip


def commands(text: str) -> list[str]:
    """List the lines of a page's fenced blocks: no comments, no `X=$(…)` around, lines joined, names filled in."""
    lines = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").split("\n"):
            line = re.sub(r"(^|\s+)#.*$", "", line).strip()
            line = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line)
            line = re.sub(r"\$\{?([A-Z_]+)\}?", lambda name: VALUES.get(name[1], name[0]), line)
            if line:
                lines.append(" ".join(line.split()))
    return lines


def recipes() -> list[str]:
    """List gcloud's lines of the Makefile, with its variables filled in."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    lines = re.findall(r"^\t(gcloud .*)$", text, re.M)
    return [" ".join(re.sub(r"\$\((\w+)\)", lambda name: VALUES[name[1]], line).split()) for line in lines]


def every(program: str) -> list[str]:
    lines = [line for page in PAGES for line in commands(page.read_text())]
    return [line for line in lines if line.startswith(f"{program} ")]


@pytest.mark.slow
def test_gcloud_lines_parse(tmp_path):
    if not shutil.which("gcloud"):
        pytest.skip("gcloud is not installed: its lines in *.md and the Makefile were not checked")
    lines = sorted({*every("gcloud"), *recipes(), "gcloud runn services list"})  # the last is a planted mistake
    assert len(lines) > 20
    (tmp_path / "lines").write_text("\n".join(["```", *lines, "```"]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-text-file={tmp_path / 'lines'}"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path)},
    )  # fmt: skip
    linted = json.loads(done.stdout)
    assert len(linted) == len(lines)
    wrong = {line: lint["error_message"] for line, lint in zip(lines, linted, strict=True) if not lint["success"]}
    assert wrong.keys() == {"gcloud runn services list"}, wrong


def test_targets_of_make_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for line in every("make")}
    assert {"base", "build", "publish", "deploy", "stack", "gate"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_modules_and_their_flags_are_there(page, capsys):
    lines = [line for line in commands(page.read_text()) if re.match(rf"python -m ({'|'.join(STAGES)})\b", line)]
    assert lines or page.name != "README.md"
    for line in lines:
        module, *rest = shlex.split(line)[2:]
        run = importlib.import_module(
            f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
        ).run
        sub = rest[:1] if module == "trainer" else []
        with pytest.raises(SystemExit) as stop:
            run([*sub, "--help"])
        assert stop.value.code == 0
        help_text = capsys.readouterr().out
        beams = module == "preprocessing"  # what is not ours goes to Beam
        for word in rest:
            if word.startswith("--") and not beams:
                assert re.search(rf"(?<![\w-]){re.escape(word.split('=')[0])}(?![\w-])", help_text), f"{line}: {word}"


def test_links_and_files_that_the_page_names_are_there():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_page_begins_with_what_has_not_run():
    headings = re.findall(r"^## (.*)$", (ROOT / "infra/README.md").read_text(), re.M)
    assert headings[0] == "Not yet run" and "Taking it all down" in headings


def test_each_step_tells_its_time_or_price():
    text = (ROOT / "infra/README.md").read_text()
    steps = re.findall(r"^\*\*(\d)\. .*?(?=^\*\*|^## )", text, re.M | re.S)
    assert steps == [str(n) for n in range(1, len(steps) + 1)] and len(steps) == 7
    for step in re.findall(r"^\*\*(?:\d|[A-D])\. .*?(?=^\*\*|^## )", text, re.M | re.S):
        assert re.search(r"minute|second|hour", step), step[:60]
        assert re.search(r"USD|free|price|nothing", step), step[:60]


def test_the_reader_of_commands():
    page = (
        "text\n```\ngcloud a \\\n  --b=$PROJECT   # why\nURL=$(gcloud c)\n# nothing\n```\nmore\n```bash\nmake x\n```\n"
    )
    assert commands(page) == ["gcloud a --b=my-music-1234", "gcloud c", "make x"]
