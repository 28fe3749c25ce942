"""The notebook docs/tour.ipynb runs from top to bottom, with the shipped model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from music import midi

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(tmp_path):
    cells = json.loads(TOUR.read_text())["cells"]
    program = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("performance ") and "temperature 1.2: " in done.stdout
    assert len(midi.read((tmp_path / "tour.mid").read_bytes())) > 200
    assert (tmp_path / "tour.png").read_bytes().startswith(b"\x89PNG")
    assert b"<score-partwise" in (tmp_path / "tour.musicxml").read_bytes()


def test_the_tour_holds_no_outputs():
    """Outputs would be figures that no command prints again."""
    for cell in json.loads(TOUR.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
