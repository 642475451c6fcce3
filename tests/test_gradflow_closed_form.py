"""Closed forms, bounds and high-precision spectra: what must hold whatever the network."""

import functools
from dataclasses import dataclass

import hypothesis
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import strategies

from seqlab.cells.affine import Init, scale_recurrent
from seqlab.cells.gru import GRU
from seqlab.cells.lookup import lookup
from seqlab.cells.lstm import LSTM, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.gradflow import jacobians as jacobians_module
from seqlab.gradflow.paths import path_gradients
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time, named_leaves
from seqlab.gradflow.theory import (
    MAX_SLOPE,
    half_life,
    log_forget_bias,
    log_rnn_bound,
    log_scaled_orthogonal,
    mean_field_tanh,
)
from seqlab.gradflow.weights import share_norms, weight_shares
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.recurrence import unroll

pytestmark = pytest.mark.usefixtures("x64")

# Compiled once a shape: the tests are about numbers, and check_cell holds jit to eager.
step_jacobians = jax.jit(jacobians_module.step_jacobians, static_argnums=0)
route_jacobians = jax.jit(jacobians_module.route_jacobians, static_argnums=0)
log_jacobian_norms = jax.jit(jacobians_module.log_jacobian_norms, static_argnames="norm")
jacobian_products = jax.jit(jacobians_module.jacobian_products)
walk = jax.jit(unroll, static_argnums=0)

LAGS = (1, 2, 7, 30, 60)
LAGS_100 = {0.9: 2.6561398887587544e-05, 1.0: 1.0, 1.1: 13780.61233982238}


@functools.partial(jax.jit, static_argnums=1)
def spectra_at(jacobians, lags):
    return jacobians_module.log_singular_values(jacobians, lags)


def log_singular_values(jacobians, lags=None):
    return np.asarray(spectra_at(jacobians, None if lags is None else tuple(lags)))


def normal(seed, *shape, scale=1.0):
    """Drawn by numpy: in JAX every new shape is a program to compile."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape))


def orthogonal_rnn(gain, hidden_size=8, activation="identity", num_features=3):
    cell = RNN(hidden_size, activation=activation, weight_init=Init(gain=gain))
    return cell, cell.init(jax.random.key(1), num_features)


def decay_at(log_slope, lags):
    return np.exp(log_slope * np.asarray(lags))


# Scaled orthogonal recurrent weights


@pytest.mark.parametrize(("gain", "expected"), LAGS_100.items())
def test_every_singular_value_of_a_scaled_orthogonal_linear_rnn(gain, expected):
    cell, params = orthogonal_rnn(gain)
    jacobians = step_jacobians(cell, params, normal(2, 100, 3))

    spectra = log_singular_values(jacobians, lags=[1, 10, 50, 100])
    assert spectra.shape == (4, 8)
    np.testing.assert_allclose(np.exp(spectra[-1]), expected, rtol=1e-10)
    curve = np.log(gain) * np.array([1.0, 10.0, 50.0, 100.0])
    np.testing.assert_allclose(spectra, np.tile(curve[:, None], (1, 8)), atol=1e-10, rtol=0)
    for norm in ("operator", "frobenius"):
        found = np.exp(log_jacobian_norms(jacobians, norm=norm)[0])
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("gain", [0.9, 1.1])
def test_decay_is_the_gain_at_every_lag(gain):
    cell, params = orthogonal_rnn(gain)
    jacobians = step_jacobians(cell, params, normal(2, 100, 3))
    lags = np.arange(100, 0, -1)

    expected = lags * np.log(gain)
    np.testing.assert_allclose(log_jacobian_norms(jacobians), expected, atol=1e-10, rtol=0)
    np.testing.assert_allclose(log_scaled_orthogonal(gain, lags), expected, rtol=1e-15)


def test_two_thousand_steps_at_gain_one_half_do_not_underflow():
    cell, params = orthogonal_rnn(0.5, hidden_size=4)
    jacobians = step_jacobians(cell, params, normal(2, 2000, 3))
    expected = 2000 * np.log(0.5)
    assert round(expected, 2) == -1386.29

    np.testing.assert_allclose(log_jacobian_norms(jacobians)[0], expected, rtol=1e-12)
    np.testing.assert_allclose(log_singular_values(jacobians, [2000])[0], expected, rtol=1e-12)
    assert np.prod(np.full(2000, 0.5)) == 0.0  # the plain product does underflow


def test_two_thousand_steps_survive_float32():
    with jax.enable_x64(False):
        cell, params = orthogonal_rnn(0.5, hidden_size=4)
        jacobians = step_jacobians(cell, params, normal(2, 2000, 3).astype(jnp.float32))
        assert jacobians.dtype == jnp.float32
        found = log_jacobian_norms(jacobians)[0]
        np.testing.assert_allclose(found, -1386.2943611, rtol=1e-5)


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.1])
def test_zero_input_tanh_slope_is_log_gain(gain):
    cell, params = orthogonal_rnn(gain, activation="tanh")
    xs = jnp.zeros((100, 3))
    log_norms = np.asarray(log_jacobian_norms(step_jacobians(cell, params, xs)))
    np.testing.assert_allclose(-np.diff(log_norms), np.log(gain), atol=1e-9, rtol=0)

    model = functional(ManyToOne, cell, input_size=3, output_size=1)
    weights = model.init(jax.random.key(3))

    @jax.jit
    def by_taps(weights, xs):
        return carry_gradients(model.apply, lambda out: jnp.sum(out.logits), weights, xs)["rnn"]

    taps = by_taps(weights, xs)
    slope = -np.diff(log_norm_over_time(taps))
    np.testing.assert_allclose(slope, np.log(gain), atol=1e-9, rtol=0)


def test_scale_recurrent_touches_nothing_but_the_recurrent_weights():
    cell = LSTM(4)
    params = cell.init(jax.random.key(0), 3)
    scaled = scale_recurrent(params, 2.0)
    for name in "ifgo":
        np.testing.assert_array_equal(scaled[name]["W_h"], 2.0 * params[name]["W_h"])
        np.testing.assert_array_equal(scaled[name]["W_x"], params[name]["W_x"])
        np.testing.assert_array_equal(scaled[name]["b"], params[name]["b"])


# The cell path of the LSTM

TABLE_1_5 = {  # b_f: f, log f, half-life, f^20, f^100
    0.0: (0.5, -0.693147, 1.00, 9.54e-7, 7.9e-31),
    1.0: (0.731059, -0.313262, 2.213, 1.901e-3, 2.48e-14),
    2.0: (0.880797, -0.126928, 5.461, 7.898e-2, 3.07e-6),
    5.0: (0.993307, -0.006715, 103.2, 0.8743, 0.5109),
}


def bias_only_lstm(forget_bias, hidden_size=3):
    cell = LSTM(hidden_size)  # the same for every bias, and compiled once
    params = cell.init(jax.random.key(0), 2)
    params["f"]["b"] = jnp.full(hidden_size, forget_bias)
    for gate in params.values():
        gate["W_x"], gate["W_h"] = jnp.zeros_like(gate["W_x"]), jnp.zeros_like(gate["W_h"])
    return cell, params


@functools.partial(jax.jit, static_argnums=0)
def total_and_direct(cell, weights, xs):
    """What `path_gradients` gives for the sum of the answers of a many-to-one model."""
    model = functional(ManyToOne, cell, input_size=xs.shape[-1], output_size=1)
    params = model.init(jax.random.key(1))
    params["rnn"]["weights"] = weights
    return path_gradients(model.apply, lambda out: jnp.sum(out.logits), params, xs, cell=cell)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 2.0, 5.0])
def test_bias_only_lstm_decays_at_log_sigmoid_of_its_bias(forget_bias):
    cell, params = bias_only_lstm(forget_bias)
    expected = -np.log1p(np.exp(-forget_bias))
    xs = normal(4, 40, 2)
    slope = -np.diff(log_jacobian_norms(step_jacobians(cell, params, xs)))
    np.testing.assert_allclose(slope, expected, atol=1e-12, rtol=0)

    direct = route_jacobians(cell, params, xs)["cell"][:, 3:, 3:]
    curve = log_forget_bias(forget_bias, np.arange(40, 0, -1))
    np.testing.assert_allclose(log_jacobian_norms(direct), curve, atol=1e-12, rtol=0)

    paths = total_and_direct(cell, params, xs)
    for name in ("total", "direct"):
        slope = -np.diff(log_norm_over_time(paths[name].c))[:-1]
        np.testing.assert_allclose(slope, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("forget_bias", "row"), TABLE_1_5.items())
def test_forget_bias_table(forget_bias, row):
    f, log_f, halving, after_20, after_100 = row
    np.testing.assert_allclose(np.exp(log_forget_bias(forget_bias, 1)), f, atol=5e-7)
    np.testing.assert_allclose(log_forget_bias(forget_bias, 1), log_f, atol=5e-7)
    np.testing.assert_allclose(
        half_life(float(log_forget_bias(forget_bias, 1))), halving, rtol=5e-4
    )
    np.testing.assert_allclose(np.exp(log_forget_bias(forget_bias, 20)), after_20, rtol=6e-4)
    np.testing.assert_allclose(np.exp(log_forget_bias(forget_bias, 100)), after_100, rtol=6e-3)


def test_half_life_of_a_flat_curve_is_infinite_and_growth_counts_as_doubling():
    assert half_life(0.0) == float("inf")
    assert half_life(np.log(2.0)) == half_life(-np.log(2.0)) == 1.0


@pytest.mark.parametrize("by", ["clamp", "bias"])
def test_open_forget_gate_and_shut_input_gate_keep_the_cell_bit_for_bit(by):
    if by == "clamp":
        cell = LSTM(6, forget_gate=1.0, input_gate=0.0)
        params = cell.init(jax.random.key(0), 3)
    else:  # sigmoid(1000) is 1 and sigmoid(-1000) is 0, exactly
        cell = LSTM(6)
        params = cell.init(jax.random.key(0), 3)
        params["f"]["b"], params["i"]["b"] = jnp.full(6, 1e3), jnp.full(6, -1e3)
    xs = normal(1, 50, 3)
    first = LSTMCarry(h=normal(2, 6), c=normal(3, 6))

    walked = walk(cell, params, xs, carry=first)
    np.testing.assert_array_equal(walked.carries.c, np.tile(first.c, (50, 1)))

    def last_cell(c):
        return unroll(cell, params, xs, carry=LSTMCarry(h=first.h, c=c)).carry.c

    np.testing.assert_array_equal(jax.jit(jax.jacrev(last_cell))(first.c), np.eye(6))
    # The cell is kept; the hidden output is not (science.md 9.6).
    assert np.all(np.std(walked.carries.h, axis=0) > 1e-3)


def test_without_recurrent_weights_the_total_is_the_product_of_forget_gates():
    cell, num_steps = LSTM(4), 20
    params = cell.init(jax.random.key(0), 3)
    params = scale_recurrent(params, 0.0)
    xs = normal(1, num_steps, 3)

    def last_cell(taps):
        return unroll(cell, params, xs, taps=taps).carry.c

    zeros = jnp.zeros((num_steps, 4))
    by_taps = jax.jit(jax.jacrev(last_cell))(LSTMCarry(h=zeros, c=zeros)).c  # dc_T/dc_k, [H, T, H]

    weights = jax.tree.map(np.asarray, params["f"])
    forget = sigmoid(np.asarray(xs) @ weights["W_x"] + weights["b"])
    for k in range(num_steps):
        expected = np.prod(forget[k + 1 :], axis=0)
        np.testing.assert_allclose(np.diagonal(by_taps[:, k]), expected, rtol=1e-14)
        assert np.count_nonzero(by_taps[:, k] - np.diag(np.diagonal(by_taps[:, k]))) == 0

    products, log_scales = jacobian_products(step_jacobians(cell, params, xs))
    block = np.diagonal(products[:, 4:, 4:], axis1=-2, axis2=-1) * np.exp(log_scales)[:, None]
    np.testing.assert_allclose(block[0], np.prod(forget, axis=0), rtol=1e-14)


# States that are kept by other cells


def test_irnn_keeps_its_state_and_its_jacobian_is_the_identity():
    cell = lookup("irnn")(hidden_size=5)
    params = cell.init(jax.random.key(0), 2)
    first = jnp.abs(normal(1, 5)) + 0.1
    xs = jnp.zeros((60, 2))
    walked = walk(cell, params, xs, carry=first)
    np.testing.assert_array_equal(walked.carries, np.tile(first, (60, 1)))
    jacobians = step_jacobians(cell, params, xs, carry=first)
    np.testing.assert_array_equal(jacobians, np.tile(np.eye(5), (60, 1, 1)))
    np.testing.assert_array_equal(log_singular_values(jacobians, LAGS), np.zeros((5, 5)))


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize(("z_multiplies", "bias"), [("candidate", -1e4), ("state", 1e4)])
def test_gru_with_a_shut_update_gate_keeps_its_state_exactly(reset, z_multiplies, bias):
    cell = GRU(5, reset=reset, z_multiplies=z_multiplies, update_bias=bias)
    params = cell.init(jax.random.key(0), 2)
    first, xs = normal(1, 5), normal(2, 40, 2)
    walked = walk(cell, params, xs, carry=first)
    np.testing.assert_array_equal(walked.carries, np.tile(first, (40, 1)))
    jacobians = step_jacobians(cell, params, xs, carry=first)
    np.testing.assert_array_equal(jacobians, np.tile(np.eye(5), (40, 1, 1)))


# One-step Jacobians against the formulas of science.md 1 (column vectors: U is W_h transposed)


def diag(vector):
    return np.diag(np.asarray(vector))


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


def generic(params, seed):
    """Every parameter moved off its initial value, so that no term of a formula is idle."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), params)


def only_jacobian(cell, params, x, carry):
    return np.asarray(step_jacobians(cell, params, x[None, :], carry=carry))[0]


def test_rnn_step_jacobian_is_the_formula():
    cell = RNN(4)
    params = generic(cell.init(jax.random.key(0), 3), 1)
    x, h = normal(2, 3), normal(3, 4)
    after = np.tanh(x @ params["W_x"] + h @ params["W_h"] + params["b"])
    expected = diag(1.0 - after**2) @ np.asarray(params["W_h"]).T
    np.testing.assert_allclose(only_jacobian(cell, params, x, h), expected, rtol=1e-12, atol=1e-14)


def test_lstm_step_jacobian_is_the_formula():
    cell, size = LSTM(4), 4
    params = generic(cell.init(jax.random.key(0), 3), 1)
    x, h, c = (np.asarray(normal(seed, n)) for seed, n in ((2, 3), (3, 4), (4, 4)))
    carry = LSTMCarry(h=jnp.asarray(h), c=jnp.asarray(c))
    weights = jax.tree.map(np.asarray, params)
    a = {n: x @ w["W_x"] + h @ w["W_h"] + w["b"] for n, w in weights.items()}
    U = {n: w["W_h"].T for n, w in weights.items()}
    i, f, o, g = sigmoid(a["i"]), sigmoid(a["f"]), sigmoid(a["o"]), np.tanh(a["g"])
    new = f * c + i * g

    A = (
        diag(c * f * (1 - f)) @ U["f"]
        + diag(g * i * (1 - i)) @ U["i"]
        + diag(i * (1 - g**2)) @ U["g"]
    )
    D = diag(o * (1 - np.tanh(new) ** 2))
    h_to_h = diag(np.tanh(new) * o * (1 - o)) @ U["o"] + D @ A
    expected = np.block([[h_to_h, D @ diag(f)], [A, diag(f)]])  # the carry is h, then c

    found = only_jacobian(cell, params, jnp.asarray(x), carry)
    assert found.shape == (2 * size, 2 * size)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("z_multiplies", ["candidate", "state"])
@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru_step_jacobian_is_the_formula(reset, z_multiplies):
    cell = GRU(4, reset=reset, z_multiplies=z_multiplies)
    params = generic(cell.init(jax.random.key(0), 3), 1)
    x, h = np.asarray(normal(2, 3)), np.asarray(normal(3, 4))
    w = jax.tree.map(np.asarray, params)
    U = {n: gate["W_h"].T for n, gate in w.items()}
    # Where z multiplies the state, the z of science.md is 1 - z: the same weights, sign turned.
    sign = 1.0 if z_multiplies == "candidate" else -1.0
    r = sigmoid(x @ w["r"]["W_x"] + h @ w["r"]["W_h"] + w["r"]["b"])
    z = sigmoid(sign * (x @ w["z"]["W_x"] + h @ w["z"]["W_h"] + w["z"]["b"]))
    U_z = sign * U["z"]
    if reset == "before":
        n = np.tanh(x @ w["n"]["W_x"] + U["n"] @ (r * h) + w["n"]["b"])
        candidate = U["n"] @ (diag(r) + diag(h * r * (1 - r)) @ U["r"])
    else:
        inner = U["n"] @ h + w["n"]["b_h"]
        n = np.tanh(x @ w["n"]["W_x"] + w["n"]["b"] + r * inner)
        candidate = diag(r) @ U["n"] + diag(inner * r * (1 - r)) @ U["r"]
    expected = diag(1 - z) + diag((n - h) * z * (1 - z)) @ U_z + diag(z * (1 - n**2)) @ candidate
    found = only_jacobian(cell, params, jnp.asarray(x), jnp.asarray(h))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_rnn_weight_shares_are_the_formula():
    """dL/dW_hh of step k is [diag(1 - h_k^2) delta_k] h_{k-1}^T (science.md 2.1)."""
    cell = RNN(4)
    model = functional(ManyToOne, cell, input_size=3, output_size=2)
    params = model.init(jax.random.key(0))
    xs = normal(1, 7, 3)

    def loss(output):
        return jnp.sum(jnp.square(output.logits))

    @jax.jit
    def probe(params, xs):
        shares = weight_shares(model.apply, loss, params, xs)["rnn"]
        deltas = carry_gradients(model.apply, loss, params, xs)["rnn"]
        return shares, deltas, model.apply(params, xs).carries["rnn"]

    shares, deltas, states = jax.tree.map(np.asarray, probe(params, xs))
    before = np.concatenate([np.zeros((1, 4)), states[:-1]])
    local = (1 - states**2) * deltas
    by_hand = {
        "W_h": before[:, :, None] * local[:, None, :],
        "W_x": np.asarray(xs)[:, :, None] * local[:, None, :],
        "b": local,
    }
    for name, expected in by_hand.items():
        np.testing.assert_allclose(shares[name], expected, rtol=1e-12, atol=1e-15)
    expected = np.linalg.norm(by_hand["W_h"], axis=(1, 2))
    np.testing.assert_allclose(share_norms(shares), expected, rtol=1e-12)


# The order of time


def wrong_and_right_orders(jacobians):
    right = wrong = np.eye(jacobians.shape[-1])
    for jacobian in jacobians:
        right, wrong = jacobian @ right, wrong @ jacobian
    return right, wrong


def test_products_stand_latest_factor_left():
    jacobians = np.random.default_rng(0).normal(size=(30, 4, 4)) / 2.0
    right, wrong = wrong_and_right_orders(jacobians)
    assert np.abs(right - wrong).max() > 0.1 * np.abs(right).max()  # else the test sees nothing

    products, log_scales = jacobian_products(jnp.asarray(jacobians))
    found = products * np.exp(log_scales)[:, None, None]
    np.testing.assert_allclose(found[0], right, atol=1e-10 * np.abs(right).max(), rtol=0)
    np.testing.assert_allclose(np.abs(products).max(axis=(1, 2)), 1.0, rtol=1e-15)
    for t in range(30):  # d carry_T / d carry_t, every lag
        expected, _ = wrong_and_right_orders(jacobians[t:])
        np.testing.assert_allclose(found[t], expected, atol=1e-10 * np.abs(expected).max(), rtol=0)


def test_taps_walk_back_in_the_order_of_time():
    cell, num_steps = RNN(4), 30
    model = functional(ManyToOne, cell, input_size=3, output_size=2)
    params = model.init(jax.random.key(0))
    params["rnn"]["weights"] = generic(params["rnn"]["weights"], 5)
    xs = normal(1, num_steps, 3, scale=0.5)

    @jax.jit
    def by_taps(params, xs):
        return carry_gradients(model.apply, lambda out: jnp.sum(jnp.sin(out.logits)), params, xs)[
            "rnn"
        ]

    deltas = np.asarray(by_taps(params, xs))
    jacobians = np.asarray(step_jacobians(cell, params["rnn"]["weights"], xs))
    right, wrong = wrong_and_right_orders(jacobians[1:])
    last = deltas[-1]
    assert np.abs((right - wrong).T @ last).max() > 0.1 * np.abs(right.T @ last).max()
    for t in range(num_steps):
        product, _ = wrong_and_right_orders(jacobians[t + 1 :])
        expected = product.T @ last
        np.testing.assert_allclose(deltas[t], expected, atol=1e-10 * np.abs(expected).max(), rtol=0)


# Bounds


def make_norms(activation):
    @jax.jit
    def norms(gain, kind_weight, key_weights, key_xs, scale):
        cell = RNN(5, activation=activation)
        params = cell.init(key_weights, 5)
        gaussian = jax.random.normal(jax.random.fold_in(key_xs, 1), (5, 5)) / 5**0.5
        W = gain * (kind_weight * params["W_h"] + (1 - kind_weight) * gaussian)
        params = {**params, "W_h": W}
        xs = scale * jax.random.normal(jax.random.fold_in(key_xs, 2), (12, 5))
        hs = walk(cell, params, xs).ys
        log_norms = log_jacobian_norms(step_jacobians(cell, params, xs))
        largest = jnp.log(jnp.linalg.norm(W, ord=2))
        return log_norms, log_rnn_bound(W, hs, activation), largest

    return norms


NORMS = {activation: make_norms(activation) for activation in MAX_SLOPE}


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    gain=strategies.floats(0.01, 5.0),
    seed=strategies.integers(0, 2**31 - 1),
    activation=strategies.sampled_from(sorted(MAX_SLOPE)),
    is_orthogonal=strategies.booleans(),
    scale=strategies.floats(0.0, 3.0),
)
def test_operator_norm_is_never_above_its_bounds(gain, seed, activation, is_orthogonal, scale):
    key_weights, key_xs = jax.random.split(jax.random.key(seed))
    found, bound, log_sigma = NORMS[activation](
        gain, float(is_orthogonal), key_weights, key_xs, scale
    )
    textbook = np.arange(12, 0, -1) * (np.log(MAX_SLOPE[activation]) + log_sigma)
    found, bound = np.asarray(found), np.asarray(bound)
    assert not np.any(np.isnan(found))
    # 1e-9 is rounding: for an orthogonal W and phi' = 1 the bound is met with equality.
    assert np.all(found <= bound + 1e-9)
    assert np.all(bound <= textbook + 1e-9)


def test_the_bound_is_met_by_a_scaled_orthogonal_linear_rnn():
    cell, params = orthogonal_rnn(0.9)
    xs = normal(2, 30, 3)
    found = log_jacobian_norms(step_jacobians(cell, params, xs))
    bound = log_rnn_bound(params["W_h"], walk(cell, params, xs).ys, "identity")
    np.testing.assert_allclose(found, bound, atol=1e-10, rtol=0)


def test_non_normal_weights_with_small_spectral_radius_grow_before_they_decay():
    eigenvalue, shear, num_steps = 0.9, 10.0, 300
    W = np.array([[eigenvalue, shear], [0.0, eigenvalue]])
    assert np.abs(np.linalg.eigvals(W)).max() < 1.0 < np.linalg.norm(W, 2)
    cell = RNN(2, activation="identity")
    params = {"W_x": jnp.ones((1, 2)), "W_h": jnp.asarray(W.T), "b": jnp.zeros(2)}
    jacobians = step_jacobians(cell, params, normal(0, num_steps, 1))
    by_lag = np.asarray(log_jacobian_norms(jacobians))[::-1]  # lag 1, 2, ...

    lags = np.arange(1, num_steps + 1)
    corner = lags * shear * eigenvalue ** (lags - 1)
    powers = np.array(
        [[[eigenvalue**k, c], [0.0, eigenvalue**k]] for k, c in zip(lags, corner, strict=True)]
    )
    expected = np.log(np.linalg.norm(powers, ord=2, axis=(1, 2)))
    np.testing.assert_allclose(by_lag, expected, atol=1e-10, rtol=0)
    assert by_lag.max() > np.log(38.0)  # forty-fold growth, although the spectral radius is 0.9
    assert 5 < lags[by_lag.argmax()] < 15
    assert by_lag[-1] < -20.0  # and it vanishes in the end


# Whole spectra, against arithmetic with 150 digits


def exact_log_singular_values(jacobians, digits=200):
    """The spectrum of the latest-left product, in arithmetic that loses nothing."""
    with mpmath.workdps(digits):
        product = mpmath.eye(jacobians.shape[-1])
        for jacobian in np.asarray(jacobians):
            product = mpmath.matrix(jacobian.tolist()) * product
        values = sorted(mpmath.svd_r(product, compute_uv=False), reverse=True)
        # What is zero in exact arithmetic is 1e-200 of the largest in this one.
        floor = values[0] * mpmath.mpf(10) ** (20 - digits)
        return np.array([float(mpmath.log(v)) if v > floor else -np.inf for v in values])


def lstm_jacobians(num_steps):
    cell = LSTM(3)
    params = generic(cell.init(jax.random.key(0), 2), 1)
    return step_jacobians(cell, params, normal(2, num_steps, 2))


def tanh_jacobians(num_steps):
    cell = RNN(5, weight_init=Init(recurrent="gaussian", gain=1.5))
    return step_jacobians(cell, cell.init(jax.random.key(0), 2), normal(2, num_steps, 2))


SPECTRA = {
    "gaussian": lambda: jnp.asarray(np.random.default_rng(0).normal(size=(60, 5, 5))),
    "tanh": lambda: tanh_jacobians(60),
    "lstm": lambda: lstm_jacobians(60),
    # Units that differ by four decades a step: 240 decades between the first and the last.
    "graded": lambda: (
        jnp.asarray(10.0 ** np.array([0.0, -1.0, -2.0, -3.0, -4.0]))[None, :, None]
        * jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(60, 5, 5)))[0])
    ),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_every_singular_value_agrees_with_high_precision(name):
    jacobians = SPECTRA[name]()
    found = log_singular_values(jacobians, lags=LAGS)
    for row, lag in zip(found, LAGS, strict=True):
        expected = exact_log_singular_values(np.asarray(jacobians)[60 - lag :], digits=600)
        np.testing.assert_allclose(row, expected, atol=1e-10, rtol=0, err_msg=f"lag {lag}")
    decades = (found[-1, 0] - found[-1, -1]) / np.log(10.0)
    assert decades > 20.0  # in the plain product what is below 1e-16 of the largest is noise


def test_all_lags_and_a_batch_are_the_same_spectra():
    jacobians = jnp.stack([SPECTRA["gaussian"]()[:9], SPECTRA["tanh"]()[:9]])
    every = log_singular_values(jacobians)
    assert every.shape == (2, 9, 5)
    for row in range(2):
        for lag in (1, 4, 9):
            expected = exact_log_singular_values(jacobians[row, 9 - lag :])
            np.testing.assert_allclose(every[row, lag - 1], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("lag", [0, 10])
def test_a_lag_outside_the_sequence_is_an_error(lag):
    with pytest.raises(ValueError, match=f"lag {lag}, expected 1 to T = 9"):
        log_singular_values(SPECTRA["gaussian"]()[:9], lags=[lag])


def test_a_singular_last_jacobian_gives_minus_infinity():
    jacobians = SPECTRA["gaussian"]()[:12]
    jacobians = jacobians.at[-1, 2, :].set(0.0)  # a unit whose slope is exactly zero
    found = log_singular_values(jacobians)
    assert not np.any(np.isnan(found))
    np.testing.assert_array_equal(found[:, -1], -np.inf)
    for lag in (1, 6, 12):
        expected = exact_log_singular_values(jacobians[12 - lag :])
        np.testing.assert_allclose(found[lag - 1], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["row", "column"])
def test_a_singular_jacobian_in_the_middle_gives_minus_infinity(kind):
    """Rank lost at any step stays lost: the zero must not come out as rounding noise at 1e-16."""
    at = (6, 2, slice(None)) if kind == "row" else (6, slice(None), 2)
    jacobians = SPECTRA["gaussian"]()[:12].at[at].set(0.0)
    found = log_singular_values(jacobians)
    assert not np.any(np.isnan(found))
    for lag in (5, 6, 12):
        expected = exact_log_singular_values(jacobians[12 - lag :])
        assert np.isneginf(expected[-1]) == (lag >= 6)
        np.testing.assert_allclose(
            found[lag - 1], expected, atol=1e-10, rtol=0, err_msg=f"lag {lag}"
        )


def test_dead_relu_units_give_minus_infinity():
    cell = RNN(5, activation="relu")
    params = generic(cell.init(jax.random.key(0), 2), 1)
    jacobians = step_jacobians(cell, params, normal(2, 12, 2), carry=jnp.abs(normal(3, 5)))
    dead = np.all(np.asarray(jacobians) == 0.0, axis=-1).sum(axis=-1)
    assert 0 < dead.max() < 5
    found = log_singular_values(jacobians)
    assert not np.any(np.isnan(found))
    for lag in (1, 2, 12):
        expected = exact_log_singular_values(jacobians[12 - lag :])
        np.testing.assert_allclose(found[lag - 1], expected, atol=1e-10, rtol=0)


def test_a_zero_jacobian_gives_minus_infinity_everywhere():
    jacobians = jnp.tile(jnp.eye(5), (12, 1, 1)).at[8].set(0.0)
    found = log_singular_values(jacobians)
    np.testing.assert_array_equal(found[:3], 0.0)
    np.testing.assert_array_equal(found[3:], -np.inf)
    for norm in ("operator", "frobenius"):
        by_lag = np.asarray(log_jacobian_norms(jacobians, norm=norm))[::-1]
        np.testing.assert_array_equal(by_lag[3:], -np.inf)
        np.testing.assert_allclose(by_lag[:3], 0.0, atol=1e-15)


def test_norms_and_spectra_tell_the_same():
    for name in ("gaussian", "tanh", "graded"):
        jacobians = SPECTRA[name]()
        at = 60 - np.array(LAGS)
        spectrum = log_singular_values(jacobians, lags=LAGS)
        operator = np.asarray(log_jacobian_norms(jacobians))[at]
        np.testing.assert_allclose(operator, spectrum[:, 0], atol=1e-10, rtol=0)
        squares = np.mean(np.exp(2 * (spectrum - spectrum[:, :1])), axis=-1)
        frobenius = np.asarray(log_jacobian_norms(jacobians, norm="frobenius"))[at]
        np.testing.assert_allclose(
            frobenius, spectrum[:, 0] + 0.5 * np.log(squares), atol=1e-10, rtol=0
        )
        determinants = np.linalg.slogdet(np.asarray(jacobians))[1][::-1].cumsum()[
            np.array(LAGS) - 1
        ]
        np.testing.assert_allclose(spectrum.sum(axis=-1), determinants, rtol=1e-10)


def test_an_unknown_norm_is_an_error():
    with pytest.raises(ValueError, match="norm='nuclear'"):
        log_jacobian_norms(jnp.eye(2)[None], norm="nuclear")


# Norms in logs


def test_log_norms_of_gradients_are_safe_from_underflow():
    with jax.enable_x64(False):
        tiny = jnp.full((2, 4), 1e-30, jnp.float32)
        assert float(jnp.linalg.norm(tiny[0])) == 0.0  # squares underflow
        found = log_norm_over_time(LSTMCarry(h=tiny, c=tiny))
        np.testing.assert_allclose(found, np.log(1e-30) + 0.5 * np.log(8), rtol=1e-6)
    zero = log_norm_over_time(jnp.zeros((3, 4)))
    np.testing.assert_array_equal(zero, -np.inf)


def test_named_leaves_of_carries():
    assert set(named_leaves(LSTMCarry(h=jnp.zeros(2), c=jnp.zeros(2)))) == {"h", "c"}
    assert set(named_leaves(jnp.zeros(2))) == {"h"}


# Mean field

TABLE_2_6 = {  # g: q*, chi, 1/2 log chi
    0.5: (0.0, 0.25, -0.6931),
    1.2: (0.249513, 1.033501, 0.01648),
    1.5: (0.793354, 1.139323, 0.06522),
    2.0: (
        2.121473,
        1.362673,
        0.15472,
    ),  # chi in science.md is 1.362677: a slip
}


@pytest.mark.parametrize(("gain", "row"), TABLE_2_6.items())
def test_mean_field_table(gain, row):
    q, chi, log_slope = row
    found = mean_field_tanh(gain)
    np.testing.assert_allclose(found.q, q, atol=1e-6)
    np.testing.assert_allclose(found.chi, chi, atol=1e-6)
    np.testing.assert_allclose(found.log_slope, log_slope, atol=5e-5 if gain < 1 else 6e-6)


@pytest.mark.parametrize("setting", [(1.5, 0.0), (3.0, 0.0), (5.0, 0.0), (10.0, 0.0), (1.0, 1.0)])
def test_mean_field_solves_its_equations(setting):
    """By adaptive quadrature: at large q tanh(sqrt(q) u) is nearly a step, hard to integrate."""
    gain, variance = setting
    found = mean_field_tanh(gain, variance)

    def gaussian_mean(function):
        def integrand(u):
            return function(mpmath.tanh(mpmath.sqrt(found.q) * u)) * mpmath.npdf(u)

        return float(2 * mpmath.quad(integrand, [0, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 12]))

    q = gain**2 * gaussian_mean(lambda t: t**2) + variance
    chi = gain**2 * gaussian_mean(lambda t: (1 - t**2) ** 2)
    np.testing.assert_allclose(found.q, q, rtol=1e-6)
    np.testing.assert_allclose(found.chi, chi, rtol=1e-6)
    np.testing.assert_allclose(found.log_slope, 0.5 * np.log(chi), atol=1e-6)


def test_mean_field_is_critical_at_gain_one():
    assert mean_field_tanh(1.0) == (0.0, 1.0, 0.0)
    assert mean_field_tanh(0.0).log_slope == -np.inf
    assert mean_field_tanh(1.01).log_slope > 0.0


TABLE_2_8 = {  # (g, s): measured slope at n = 128, 200 steps, one seed, tolerance 0.02
    (1.0, 0.1): -0.066,
    (1.0, 1.0): -0.467,
    (1.1, 0.1): -0.020,
    (1.1, 1.0): -0.384,
    (0.9, 0.1): -0.143,
    (0.9, 1.0): -0.554,
}


@pytest.mark.parametrize(("setting", "measured"), TABLE_2_8.items())
def test_driven_orthogonal_rnn_agrees_with_science_and_mean_field(setting, measured):
    gain, deviation = setting
    theory = mean_field_tanh(gain, deviation**2).log_slope
    np.testing.assert_allclose(theory, measured, atol=0.02)

    cell = RNN(128, weight_init=Init(gain=gain, input="identity"))
    params = cell.init(jax.random.key(0), 128)
    xs = normal(1, 200, 128, scale=deviation)
    slope = log_jacobian_norms(step_jacobians(cell, params, xs), norm="frobenius")[0] / 200
    np.testing.assert_allclose(slope, measured, atol=0.02)
    np.testing.assert_allclose(slope, theory, atol=0.02)


# A user's own cell


@dataclass(frozen=True)
class Leaky:
    """h' = a h + W x with one constant a: every singular value at lag k is a^k."""

    hidden_size: int
    keep: float

    def init(self, key, input_size):
        return {"W_x": jax.random.normal(key, (input_size, self.hidden_size))}

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["W_x"].dtype)

    def step(self, params, h, x):
        return self.keep * h + x @ params["W_x"]

    def output(self, h):
        return h


def test_a_diagonal_linear_cell_decays_at_its_eigenvalue():
    cell = Leaky(5, keep=0.8)
    params = cell.init(jax.random.key(0), 2)
    jacobians = step_jacobians(cell, params, normal(1, 60, 2))
    expected = decay_at(np.log(0.8), LAGS)
    found = np.exp(log_singular_values(jacobians, LAGS))
    np.testing.assert_allclose(found, np.tile(expected[:, None], (1, 5)), rtol=1e-10)
