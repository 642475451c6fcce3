"""What the README shows really runs."""

import re
import sys
from pathlib import Path

import pytest

from seqlab.cells.lookup import lookup
from seqlab.cli import main
from seqlab.testing import check_cell

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def mycells(tmp_path, monkeypatch):
    (tmp_path / "mycells.py").write_text(BLOCKS[0])
    monkeypatch.syspath_prepend(tmp_path)
    yield "mycells:MGU"
    sys.modules.pop("mycells", None)


def test_a_cell_takes_15_lines():
    body = BLOCKS[0].partition("@dataclass")
    assert len((body[1] + body[2]).strip().splitlines()) <= 15


def test_the_cell_keeps_the_contract(mycells):
    check_cell(lookup(mycells)(hidden_size=8))


@pytest.mark.slow
def test_the_cell_is_drawn_beside_the_others(mycells, tmp_path):
    from experiments import vanishing_gradients as study

    flags = ["--quick", "--num-updates", "2", "--cells", "rnn", mycells]
    path = main(study.Config, study.run, study.plot, argv=[*flags, "--out", str(tmp_path / "run")])
    assert (path / "figures" / "gradient_over_time.png").exists()


def test_the_example_of_an_instrument():
    names = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    assert names["curve"].shape == (32, 200)
    assert names["curve"][:, 0].mean() < names["curve"][:, -1].mean() - 10


def test_every_module_that_it_names_exists():
    root = Path(__file__).parents[1]
    for module in re.findall(r"python -m (experiments[\w.]+)", README):
        assert (root / (module.replace(".", "/") + ".py")).exists()
    for path in re.findall(r"`((?:seqlab/|cells/|gradflow/)?[\w/]+\.py)`", README):
        assert (root / path).exists() or (root / "seqlab" / path).exists() or path == "mycells.py"
