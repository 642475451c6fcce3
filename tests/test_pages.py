"""The pages on adding things work as printed; that on data sets: `test_data_builders.py`."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from seqlab.cli import main
from seqlab.runlog import read_run

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL
    )


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Saves a module where Python finds it; it is gone after the test."""
    names = []

    def save(name: str, code: str):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        names.append(name)
        return importlib.import_module(name)

    yield save
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_cell_is_added(saved, tmp_path):
    from experiments import vanishing_gradients as study

    code, checks = blocks("docs/add_a_cell.md")
    saved("leaky", code)
    exec(compile(checks, "add_a_cell.md", "exec"), {})
    flags = ["--quick", "--num-updates", "2", "--cells", "leaky:Leaky"]
    path = main(study.Config, study.run, study.plot, argv=[*flags, "--out", str(tmp_path / "run")])
    assert "leaky:Leaky" in (path / "metrics.jsonl").read_text()


def test_an_experiment_is_added(saved, tmp_path):
    (code,) = blocks("docs/add_an_experiment.md")
    study = saved("fading", code)
    out = tmp_path / "run"
    main(study.Config, study.run, study.plot, argv=["--quick", "--out", str(out)])
    closed, open_ = read_run(out).summary["rates"]
    assert closed < open_ - 0.1
    assert (out / "figures" / "rates.png").stat().st_size > 10_000
    main(study.Config, study.run, study.plot, argv=["--quick", "--out", str(tmp_path / "again")])
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "again/metrics.jsonl").read_bytes()


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
