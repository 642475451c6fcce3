"""Gates by name, against gates computed by hand in numpy."""

import jax
import numpy as np
import pytest

from seqlab.cells.diagonal import MinGRU, MinLSTM
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import CIFG, FGR, LSTM, NIG, LSTMCarry, Vanilla
from seqlab.cells.rnn import RNN
from seqlab.gradflow.gates import gate_activations, saturation

pytestmark = pytest.mark.usefixtures("x64")

SIZE, INPUTS, STEPS = 4, 3, 6


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


def setting(cell, batch=2):
    params = cell.init(jax.random.key(0), INPUTS)
    xs = 2.0 * jax.random.normal(jax.random.key(1), (batch, STEPS, INPUTS))
    return params, xs


def lstm_by_hand(cell, params, xs, h, c):
    """Gates of one row, {"i", "f", "o": [T, H]}, written out after Greff et al., 2017."""
    params = jax.tree.map(np.asarray, params)
    last = {name: np.zeros(SIZE) for name in "ifo"}
    found = {name: [] for name in "ifo"}
    for x in np.asarray(xs):

        def a(name, c=None, x=x, h=h, last=last):
            p = params[name]
            total = x @ p["W_x"] + h @ p["W_h"] + p["b"]
            if cell.peepholes and c is not None:
                total = total + p["p"] * c
            if cell.gate_recurrence and name in "ifo":
                total = total + sum(last[other] @ p[f"W_{other}"] for other in "ifo")
            return total

        i = np.ones(SIZE) if cell.input_gate == 1.0 else sigmoid(a("i", c))
        f = 1.0 - i if cell.coupled else sigmoid(a("f", c))
        c = f * c + i * np.tanh(a("g"))
        o = sigmoid(a("o", c))
        h = o * np.tanh(c)
        last = {"i": i, "f": f, "o": o}
        for name, values in last.items():
            found[name].append(values)
    return {name: np.stack(values) for name, values in found.items()}


@pytest.mark.parametrize("make", [LSTM, Vanilla, NIG, CIFG, FGR])
def test_gates_of_an_lstm_are_those_by_hand(make):
    cell = make(hidden_size=SIZE)
    params, xs = setting(cell)
    gates = gate_activations(cell, params, xs)
    assert set(gates) == {"i", "f", "o"}
    for row in range(len(xs)):
        by_hand = lstm_by_hand(cell, params, xs[row], np.zeros(SIZE), np.zeros(SIZE))
        for name, values in by_hand.items():
            np.testing.assert_allclose(gates[name][row], values, rtol=1e-12, atol=1e-14)


def test_gates_begin_from_the_state_that_is_given():
    cell = LSTM(SIZE)
    params, xs = setting(cell, batch=1)
    h, c = np.random.default_rng(0).normal(size=(2, SIZE))
    gates = gate_activations(cell, params, xs[0], carry=LSTMCarry(h=h, c=c))
    for name, values in lstm_by_hand(cell, params, xs[0], h, c).items():
        np.testing.assert_allclose(gates[name], values, rtol=1e-12)


@pytest.mark.parametrize("z_multiplies", ["candidate", "state"])
@pytest.mark.parametrize("reset", ["before", "after"])
def test_gates_of_a_gru_are_those_by_hand(reset, z_multiplies):
    cell = GRU(SIZE, reset=reset, z_multiplies=z_multiplies)
    params, xs = setting(cell, batch=1)
    gates = gate_activations(cell, params, xs[0])
    params, h = jax.tree.map(np.asarray, params), np.zeros(SIZE)
    for t, x in enumerate(np.asarray(xs[0])):
        r, z = (sigmoid(x @ p["W_x"] + h @ p["W_h"] + p["b"]) for p in (params["r"], params["z"]))
        np.testing.assert_allclose(gates["r"][t], r, rtol=1e-12)
        np.testing.assert_allclose(gates["z"][t], z, rtol=1e-12)
        p = params["n"]
        recurrent = (r * h) @ p["W_h"] if reset == "before" else r * (h @ p["W_h"] + p["b_h"])
        n = np.tanh(x @ p["W_x"] + p["b"] + recurrent)
        keep = z if z_multiplies == "state" else 1.0 - z
        h = keep * h + (1.0 - keep) * n


def test_gates_that_read_the_input_alone():
    for cell, name in ((MinGRU(SIZE), "z"), (MinLSTM(SIZE), "f")):
        params, xs = setting(cell)
        gates = gate_activations(cell, params, xs)
        assert set(gates) == {name}
        xs, params = jax.tree.map(np.asarray, (xs, params))
        a = {gate: xs @ p["W_x"] + p["b"] for gate, p in params.items()}
        by_hand = {
            "z": sigmoid(a["z"]) if "z" in a else None,
            "f": sigmoid(a["f"]) / (sigmoid(a["f"]) + sigmoid(a["i"])) if "f" in a else None,
        }
        np.testing.assert_allclose(gates[name], by_hand[name], rtol=1e-12)


def test_padding_changes_no_gate_at_real_steps():
    cell = LSTM(SIZE)
    params, xs = setting(cell)
    mask = np.arange(STEPS)[None] < np.array([[STEPS], [3]])
    padded = np.where(mask[..., None], xs, np.nan)
    alone = gate_activations(cell, params, xs)
    masked = gate_activations(cell, params, padded, mask=jax.numpy.asarray(mask))
    for name, values in masked.items():
        np.testing.assert_allclose(values[mask], alone[name][mask], rtol=1e-14)
        assert np.isfinite(values).all()


def test_a_cell_without_gates_is_told_what_to_write():
    cell = RNN(SIZE)
    params, xs = setting(cell)
    with pytest.raises(ValueError, match="write `gates"):
        gate_activations(cell, params, xs)


def test_saturation_is_a_share_of_units():
    values = np.array([[0.05, 0.1, 0.5, 0.95], [0.0, 0.09, 0.91, 1.0]])
    shut, is_open = saturation(jax.numpy.asarray(values))
    np.testing.assert_array_equal(shut, [0.25, 0.5])
    np.testing.assert_array_equal(is_open, [0.25, 0.5])
