"""Every notebook runs from top to bottom, at toy size, and its exercises can be solved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))

# What stands for an answer in a notebook -> an answer that is right.
SOLUTIONS = {
    "03_a_recurrent_net_by_hand": {
        "my_grad_x": """
def my_grad_x(params, xs, hs):
    by_h, found = hs[-1] - y, []
    for t in range(len(xs), 0, -1):
        delta = by_h * (1 - hs[t] ** 2)
        found.append(params["W_x"] @ delta)
        by_h = params["W_h"] @ delta
    return np.array(found[::-1])
""",
        "my_forward": """
def my_forward(params, xs, mask):
    h, found = np.zeros(H), []
    for x, is_real in zip(xs, mask):
        if is_real:
            h = np.tanh(x @ params["W_x"] + h @ params["W_h"] + params["b"])
        found.append(h)
    return np.array(found)
""",
    },
    "05_backpropagation_through_time": {
        "my_gain": "my_gain = theory.critical_gain(0.16)",
        "my_half_life": "my_half_life = float(np.log(0.5) / np.log(jax.nn.sigmoid(4.0)))",
    },
    "06_lstm_gate_by_gate": {
        "my_bias": "my_bias = float(-np.log(2 ** (1 / 100) - 1))",
        "my_cell": "my_cell = LSTM(H, forget_gate=1.0, input_gate=1.0)",
    },
    "10_write_your_own_cell": {
        "Frozen": """
@dataclass(frozen=True)
class Frozen:
    hidden_size: int
    def init(self, key, input_size):
        return {"n": init_affine(key, input_size, self.hidden_size)}
    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["n"]["b"].dtype)
    def step(self, params, h, x):
        return 0.5 * h + 0.5 * jnp.tanh(affine(params["n"], x, h))
    def output(self, h):
        return h
""",
        "Coupled": """
@dataclass(frozen=True)
class Coupled:
    hidden_size: int
    def init(self, key, input_size):
        keys = jax.random.split(key)
        return {k: init_affine(key, input_size, self.hidden_size) for k, key in zip("fg", keys)}
    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["f"]["b"].dtype)
    def step(self, params, c, x):
        h = jnp.tanh(c)
        f = jax.nn.sigmoid(affine(params["f"], x, h))
        return f * c + (1 - f) * jnp.tanh(affine(params["g"], x, h))
    def output(self, c):
        return jnp.tanh(c)
""",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_exercises_can_be_solved(path, tmp_path):
    text, solutions = path.read_text(encoding="utf-8"), SOLUTIONS[path.stem]
    for name, solution in solutions.items():
        assert text.count(f"\n{name} = None\n") == 1
        text = text.replace(f"\n{name} = None\n", f"\n{solution}\n")
    solved = tmp_path / path.name
    solved.write_text(text, encoding="utf-8")
    env = {**os.environ, "SEQLAB_TOY": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore:FigureCanvasAgg is non-interactive", str(solved)],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for number in range(1, len(solutions) + 1):
        assert f"{number}: right" in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_of_cells_and_claims(path):
    text = path.read_text(encoding="utf-8")
    assert "format_name: percent" in text
    assert text.count("# %%") > 10
    assert text.count("assert") >= 4
    assert "## Exercises" in text
