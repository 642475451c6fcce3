"""What a cell, a model or a run shows in a notebook."""

import dataclasses
import sys

import jax
import pytest
from PIL import Image

from seqlab import GRU, LSTM, RNN, Init, ManyToOne, describe, functional
from seqlab.cells.lookup import CELLS, make_cell
from seqlab.cli import main
from seqlab.progress import is_live
from seqlab.runlog import read_run


def size_of(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_described_as_it_is(name):
    cell = make_cell(name, 6)
    found = describe(cell)
    params = cell.init(jax.random.key(0), 6)
    slope, _, rest = found.size.replace(",", "").partition(" D + ")
    told = 6 * int(slope) + int(rest) if rest else int(slope)
    assert told == size_of(params)
    assert len(found.arrays) == len(jax.tree.leaves(params))
    assert " = " in found.about  # an equation
    assert type(cell).__name__ in cell._repr_html_()


def test_what_is_open_and_what_is_not():
    found = describe(GRU(4, reset="after"))
    assert found.title == "GRU(hidden_size=4, reset='after')"
    assert found.arrays["n.W_x"] == ("D", 4)
    assert found.carry == {"h": (4,)}
    assert found.size == "12 D + 64"
    assert describe(GRU(4), input_size=3).arrays["n.W_x"] == (3, 4)
    assert describe(GRU(4), input_size=3).size == "96"
    square = describe(RNN(5, weight_init=Init(input="identity")))  # takes no other width than H
    assert square.arrays["W_x"] == (5, 5)
    assert square.title == "RNN(hidden_size=5, weight_init=Init(input='identity'))"


def test_a_model_tells_what_it_is():
    model = functional(ManyToOne, LSTM(3), input_size=2, output_size=1)
    assert repr(model) == "ManyToOne(LSTM(hidden_size=3), input_size=2, output_size=1)"
    params = model.init(jax.random.key(0))
    assert describe(model).size == str(size_of(params))
    assert "rnn.weights.f.W_h" in model._repr_html_()


def test_a_cell_without_a_docstring_and_what_is_no_cell():
    @dataclasses.dataclass(frozen=True)
    class Bare:
        hidden_size: int

        def init(self, key, input_size):
            return {"W": jax.numpy.zeros((input_size, self.hidden_size))}

        def initial_carry(self, params, batch_shape=()):
            return jax.numpy.zeros((*batch_shape, self.hidden_size))

    found = describe(Bare(2))
    assert str(found).splitlines()[0] == "Bare(hidden_size=2)"
    assert found.about == ""
    assert found.size == "2 D + 0"
    with pytest.raises(TypeError, match="a cell or a model, got int"):
        describe(3)


def test_a_run_shows_its_figures(tmp_path):
    from experiments import end_of_story as study

    path = main(
        study.Config, study.run, study.plot, argv=["--quick", "--out", str(tmp_path / "run")]
    )
    run = read_run(path)
    assert repr(run) == f"<run of end_of_story in {path}>"
    shown = run._repr_html_()
    assert "--quick" in shown
    pictures = list((path / "figures").glob("*.png"))
    assert shown.count("<img ") == len(pictures) >= 1
    with Image.open(pictures[0]) as image:
        assert image.width > 640  # the file itself is left as it was


def test_bars_are_live_where_someone_looks_on(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert not is_live()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert is_live()
