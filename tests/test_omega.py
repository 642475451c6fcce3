"""The Omega regulariser is the paper's: values, and the immediate derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mgu import MGU

from seqlab.cells.affine import Init
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN, PreactivationRNN
from seqlab.gradflow.jacobians import step_jacobians
from seqlab.gradflow.omega import norm_preservation, norm_ratios
from seqlab.gradflow.taps import gradients
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.recurrence import unroll

pytestmark = pytest.mark.usefixtures("x64")

B, T, D, H = 2, 6, 3, 4
MASK = np.arange(T)[None] < np.array([[T], [4]])


def problem(cell, mask=None):
    """(weights, xs, states, errors) of a net at a generic point."""
    model = functional(ManyToOne, cell, input_size=D, output_size=2)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape)),
        jax.eval_shape(lambda: model.init(jax.random.key(0))),
    )
    xs = jnp.asarray(rng.normal(size=(B, T, D)))
    found = gradients(model.apply, lambda out: jnp.sum(jnp.sin(out.logits)), params, xs, mask)
    weights = params["rnn"]["weights"]
    return weights, xs, unroll(cell, weights, xs, mask=mask).carries, found.carries["rnn"]


def flat(carry):
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(carry)], axis=-1)


@pytest.mark.parametrize("cell", [RNN(H), LSTM(H), MGU(H)], ids=["rnn", "lstm", "mgu"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_the_ratios_are_those_of_the_jacobians(cell, mask):
    weights, xs, carries, errors = problem(cell, mask)
    found, is_told = norm_ratios(cell, weights, xs, carries, errors, mask=mask)
    back = np.einsum("bts,btsu->btu", flat(errors), step_jacobians(cell, weights, xs, mask=mask))
    expected = np.linalg.norm(back, axis=-1) / np.linalg.norm(flat(errors), axis=-1)
    real = np.ones((B, T), bool) if mask is None else mask
    np.testing.assert_array_equal(is_told, real)
    np.testing.assert_allclose(found, np.where(real, expected, 1.0), rtol=1e-12)
    omega = norm_preservation(cell, weights, xs, carries, errors, mask=mask)
    np.testing.assert_allclose(omega, np.mean((expected[real] - 1.0) ** 2), rtol=1e-12)


def test_its_gradient_is_the_papers_immediate_derivative():
    """r_t = ||phi'(a_{t-1}) (W delta_t)|| / ||delta_t||: by W_h alone, states and errors fixed."""
    cell = PreactivationRNN(H)
    weights, xs, carries, errors = problem(cell)
    grads = jax.grad(lambda w: norm_preservation(cell, w, xs, carries, errors))(weights)
    assert not np.any(grads["W_x"])
    assert not np.any(grads["b"])

    before = np.concatenate([np.zeros((B, 1, H)), np.asarray(carries)[:, :-1]], axis=1)
    slopes, errors = 1.0 - np.tanh(before) ** 2, np.asarray(errors)
    matrix = np.asarray(weights["W_h"])  # a' = ... + phi(a) @ W_h
    by_hand = np.zeros((H, H))
    for b in range(B):
        for t in range(T):
            back = slopes[b, t] * (matrix @ errors[b, t])
            length, norm = np.linalg.norm(errors[b, t]), np.linalg.norm(back)
            by_hand += (
                2 * (norm / length - 1) / (length * norm)
                * np.outer(slopes[b, t] * back, errors[b, t]) / (B * T)
            )  # fmt: skip
    np.testing.assert_allclose(grads["W_h"], by_hand, rtol=1e-11, atol=1e-13)


def test_its_gradient_holds_states_and_errors_fixed_for_any_cell():
    cell = LSTM(H)
    weights, xs, carries, errors = problem(cell)

    def omega(weights):
        return norm_preservation(cell, weights, xs, carries, errors)

    grads = jax.grad(omega)(weights)
    for gate in "ifgo":
        for name in ("W_x", "W_h", "b"):
            at = (0,) if name == "b" else (1, 2)

            def moved(by, gate=gate, name=name, at=at):
                leaf = weights[gate][name].at[at].add(by)
                return omega({**weights, gate: {**weights[gate], name: leaf}})

            central = (moved(1e-6) - moved(-1e-6)) / 2e-6
            np.testing.assert_allclose(grads[gate][name][at], central, rtol=1e-6, atol=1e-9)
    # Not so if the states moved with the weights.
    free = jax.grad(
        lambda w: norm_preservation(cell, w, xs, unroll(cell, w, xs).carries, errors)
    )(weights)  # fmt: skip
    np.testing.assert_allclose(free["f"]["W_h"], grads["f"]["W_h"], rtol=1e-12)


@pytest.mark.parametrize("gain", [1.0, 0.8])
def test_an_orthogonal_linear_net_keeps_every_length(gain):
    cell = RNN(H, "identity", Init(gain=gain))
    weights = cell.init(jax.random.key(0), D)
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    errors = jax.random.normal(jax.random.key(2), (B, T, H))
    omega = norm_preservation(cell, weights, xs, unroll(cell, weights, xs).carries, errors)
    assert omega == pytest.approx((gain - 1.0) ** 2, abs=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_it_does_not_depend_on_the_scale_of_the_loss(scale):
    cell = RNN(H)
    weights, xs, carries, errors = problem(cell)
    found, expected = (
        norm_preservation(cell, weights, xs, carries, errors * by) for by in (scale, 1.0)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_no_error_tells_nothing_and_spoils_nothing():
    cell = RNN(H)
    weights, xs, carries, errors = problem(cell)
    silent = errors.at[0].set(0.0)
    value, grads = jax.value_and_grad(
        lambda w: norm_preservation(cell, w, xs, carries, silent)
    )(weights)  # fmt: skip
    alone = norm_preservation(cell, weights, xs[1:], carries[1:], errors[1:])
    assert value == pytest.approx(float(alone), rel=1e-13)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    dead = {**weights, "W_h": jnp.zeros((H, H))}  # every error is lost in one step
    value, grads = jax.value_and_grad(
        lambda w: norm_preservation(cell, w, xs, carries, errors)
    )(dead)  # fmt: skip
    assert value == pytest.approx(1.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
