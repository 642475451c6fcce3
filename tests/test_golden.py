"""Weights of other systems, without those systems.

torch by the arrays of `tests/golden/` (see `make_torch_golden.py` there), Keras by its equations
written out in numpy; and what cannot be converted says so.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells import convert
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.recurrence import init_stack, unroll

D, H = 2, 3
CELLS = {
    "rnn_tanh": RNN(H),
    "rnn_relu": RNN(H, activation="relu"),
    "lstm": LSTM(H),
    "gru": GRU(H, reset="after", z_multiplies="state"),
}
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_all_gradients_are_those_of_torch(name, x64):
    cell = CELLS[name]
    with np.load(Path(__file__).parent / "golden" / f"torch_{name}.npz") as file:
        golden = {key: file[key] for key in file if key != "made_with"}
    num_steps = golden["xs"].shape[1]
    mask = jnp.arange(num_steps)[None, :] < jnp.asarray(golden["lengths"])[:, None]

    def run(given):
        carry = given["h0"][0]
        if name == "lstm":
            carry = LSTMCarry(h=carry, c=given["c0"][0])
        params = convert.from_torch(cell, given)
        carry, ys, _ = unroll(cell, params, given["xs"], carry=carry, mask=mask)
        if name == "lstm":
            return {"ys": ys, "h_n": carry.h[None], "c_n": carry.c[None]}
        return {"ys": ys, "h_n": carry[None]}

    given = {key: jnp.asarray(golden[key]) for key in ("xs", "h0", "c0", *WEIGHTS) if key in golden}
    made, send_back = jax.vjp(run, given)
    (grads,) = send_back({key: jnp.asarray(golden[f"bar_{key}"]) for key in made})
    found = made | {f"grad_{key}": grad for key, grad in grads.items()}
    assert len(found) == {"lstm": 3 + 7}.get(name, 2 + 6)
    for key, leaf in found.items():
        np.testing.assert_allclose(leaf, golden[key], rtol=1e-12, atol=1e-13, err_msg=key)


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


def keras_simple_rnn(weights, h, x):
    return np.tanh(x @ weights["kernel"] + weights["bias"] + h @ weights["recurrent_kernel"])


def keras_lstm(weights, h, c, x):
    a = x @ weights["kernel"] + h @ weights["recurrent_kernel"] + weights["bias"]
    i, f, g, o = np.split(a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c)


def keras_gru(weights, h, x):
    kernel, recurrent = weights["kernel"], weights["recurrent_kernel"]
    U_z, U_r, U_n = np.split(recurrent, 3, axis=-1)
    if weights["bias"].ndim == 2:  # reset_after=True
        x_z, x_r, x_n = np.split(x @ kernel + weights["bias"][0], 3, axis=-1)
        h_z, h_r, h_n = np.split(h @ recurrent + weights["bias"][1], 3, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        n = np.tanh(x_n + r * h_n)
    else:
        x_z, x_r, x_n = np.split(x @ kernel + weights["bias"], 3, axis=-1)
        z, r = sigmoid(x_z + h @ U_z), sigmoid(x_r + h @ U_r)
        n = np.tanh(x_n + (r * h) @ U_n)
    return z * h + (1 - z) * n


@pytest.mark.parametrize(
    ("cell", "gates", "num_biases"),
    [
        (RNN(H), 1, None),
        (LSTM(H), 4, None),
        (GRU(H, reset="after", z_multiplies="state"), 3, 2),
        (GRU(H, reset="after", z_multiplies="candidate"), 3, 2),
        (GRU(H, reset="before", z_multiplies="state"), 3, None),
        (GRU(H, reset="before", z_multiplies="candidate"), 3, None),
    ],
    ids=["rnn", "lstm", "after-state", "after-candidate", "before-state", "before-candidate"],
)
def test_keras_by_its_equations(cell, gates, num_biases, x64):
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(D, gates * H)),
        "recurrent_kernel": rng.normal(size=(H, gates * H)),
        "bias": rng.normal(size=(gates * H,) if num_biases is None else (num_biases, gates * H)),
    }
    x, h, c = rng.normal(size=(5, D)), rng.normal(size=(5, H)), rng.normal(size=(5, H))
    params = convert.from_keras(cell, weights)
    carry = LSTMCarry(h=jnp.asarray(h), c=jnp.asarray(c)) if gates == 4 else jnp.asarray(h)
    found = cell.output(cell.step(params, carry, jnp.asarray(x)))
    if gates == 4:
        expected = keras_lstm(weights, h, c, x)
    else:
        expected = {1: keras_simple_rnn, 3: keras_gru}[gates](weights, h, x)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)

    # Back again: to the bit, but for two biases that we hold as their sum.
    back = convert.to_keras(cell, params)
    if num_biases == 2:
        sums = back["bias"][0, : 2 * H], weights["bias"].sum(axis=0)[: 2 * H]
        np.testing.assert_array_equal(*sums)
        np.testing.assert_array_equal(back["bias"][1, : 2 * H], 0.0)
        np.testing.assert_array_equal(back["bias"][:, 2 * H :], weights["bias"][:, 2 * H :])
        weights["bias"] = back["bias"]
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    jax.tree.map(np.testing.assert_array_equal, convert.from_keras(cell, back), params)


TO = {"torch": convert.to_torch, "Flax": convert.to_flax, "Keras": convert.to_keras}
FROM = {"torch": convert.from_torch, "Flax": convert.from_flax, "Keras": convert.from_keras}


@pytest.mark.parametrize(
    ("cell", "peers", "complaint"),
    [
        (RNN(H, activation="sigmoid"), ["torch"], "RNN(activation='sigmoid')"),
        (LSTM(H, peepholes=True), TO, "LSTM(peepholes=True)"),
        (LSTM(H, coupled=True), TO, "LSTM(coupled=True)"),
        (LSTM(H, gate_recurrence=True), TO, "LSTM(gate_recurrence=True)"),
        (LSTM(H, forget_gate=1.0), TO, "LSTM(forget_gate=1.0)"),
        (LSTM(H, input_gate=0.0), TO, "LSTM(input_gate=0.0)"),
        (LSTM(H, output_gate=0.5), TO, "LSTM(output_gate=0.5)"),
        (LSTM(H, input_activation="identity"), ["torch"], "LSTM(input_activation='identity')"),
        (LSTM(H, output_activation="relu"), TO, "LSTM(output_activation='relu')"),
        (GRU(H, reset="before"), ["torch", "Flax"], "GRU(reset='before')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_form_without_counterpart_says_so(cell, peers, complaint):
    params = cell.init(jax.random.key(0), D)
    for peer in peers:
        for convert_it, what in ((TO[peer], params), (FROM[peer], {})):
            with pytest.raises(ValueError, match="no counterpart") as error:
                convert_it(cell, what)
            assert str(error.value).startswith(f"{complaint} has no counterpart in {peer}, only ")


def test_another_cell_says_so():
    class Own:
        hidden_size = H

        def __repr__(self):
            return "Own()"

    with pytest.raises(ValueError, match=r"Own\(\): only RNN, LSTM and GRU have a counterpart"):
        convert.to_torch(Own(), {})


def test_a_missing_name_or_another_shape_is_named():
    cell = LSTM(H)
    state = convert.to_torch(cell, cell.init(jax.random.key(0), D))
    with pytest.raises(ValueError, match=r"no 'rnn\.weight_ih_l1_reverse' among the weights"):
        convert.from_torch(cell, state, layer=1, reverse=True, prefix="rnn.")
    with pytest.raises(ValueError, match=r"weight_ih_l0 has shape \(12, 2\), expected \(16, D\)"):
        convert.from_torch(LSTM(H + 1), state)
    flat = state | {"weight_ih_l0": np.zeros(12)}
    with pytest.raises(ValueError, match=r"weight_ih_l0 has shape \(12,\), expected \(12, D\)"):
        convert.from_torch(cell, flat)
    short = state | {"bias_hh_l0": np.zeros(11)}
    with pytest.raises(ValueError, match=r"bias_hh_l0 has shape \(11,\), expected \(12,\)"):
        convert.from_torch(cell, short)

    params = cell.init(jax.random.key(0), D)
    mixed = params | {"o": cell.init(jax.random.key(0), D + 1)["o"]}
    with pytest.raises(ValueError, match=r"o\.W_x has shape \(3, 3\), expected \(2, 3\)"):
        convert.to_torch(cell, mixed)
    with pytest.raises(ValueError, match=r"no 'r\.W_x' among the weights; there are: i, f, g, o"):
        convert.to_torch(CELLS["gru"], params)
    with pytest.raises(ValueError, match=r"no 'dense_i\.kernel' among"):
        convert.from_flax(CELLS["gru"], convert.to_flax(cell, params))
    one_bias = convert.to_keras(GRU(H), GRU(H).init(jax.random.key(0), D))
    with pytest.raises(ValueError, match=r"bias has shape \(9,\), expected \(2, 9\)"):
        convert.from_keras(CELLS["gru"], one_bias)


def test_a_bias_that_flax_has_not_says_so():
    cell = CELLS["gru"]
    params = cell.init(jax.random.key(0), D)
    convert.to_flax(cell, params)
    params["n"]["b_h"] = jnp.ones(H)
    with pytest.raises(ValueError, match=r"n\.b_h is not zero"):
        convert.to_flax(cell, params)


def test_layers_of_torch_left_unread_say_so():
    cells = [RNN(H)] * 2
    params = init_stack(cells, jax.random.key(0), D, bidirectional=True)
    state = convert.stack_to_torch(cells, params, bidirectional=True, prefix="rnn.")
    state["head.weight"] = np.zeros((1, H))  # of another part of the model
    read = convert.stack_from_torch(cells, state, bidirectional=True, prefix="rnn.")
    jax.tree.map(np.testing.assert_array_equal, read, params)
    with pytest.raises(ValueError, match=r"leave unread: rnn\.weight_ih_l0_rev"):
        convert.stack_from_torch([RNN(H)], state, prefix="rnn.")
    with pytest.raises(ValueError, match="1 layers with bidirectional=True leave unread"):
        convert.stack_from_torch([RNN(H)], state, bidirectional=True, prefix="rnn.")
