"""Every notebook runs from top to bottom, at toy size, and its exercises can be solved."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
CHECKS = "# Checks; nothing to change here."


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_exercises_can_be_solved(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    num_exercises = len(re.findall(r"^\w+ = None$", text, flags=re.MULTILINE))
    assert text.count(CHECKS) == 1
    solutions = (ROOT / "tests" / "solutions" / path.name).read_text(encoding="utf-8")
    text = text.replace(CHECKS, f"{solutions}\n{CHECKS}")
    solved = tmp_path / path.name
    solved.write_text(text, encoding="utf-8")
    env = {**os.environ, "SEQLAB_TOY": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore:FigureCanvasAgg is non-interactive", str(solved)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert num_exercises >= 2
    for number in range(1, num_exercises + 1):
        assert f"{number}: right" in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_of_cells_and_claims(path):
    text = path.read_text(encoding="utf-8")
    assert "format_name: percent" in text
    assert text.count("# %%") > 10
    assert text.count("assert") >= 4
    assert "## Exercises" in text
