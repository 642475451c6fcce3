"""How states move with parameters, against explicit Jacobians and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.affine import Init
from seqlab.cells.diagonal import LRU
from seqlab.cells.lookup import lookup
from seqlab.cells.rnn import RNN
from seqlab.gradflow import theory
from seqlab.gradflow.sensitivity import parameter_sensitivity
from seqlab.recurrence import unroll

pytestmark = pytest.mark.usefixtures("x64")

# lambda: E h^2, E (dh/dlambda)^2 for white inputs (Zucchet and Orvieto, 2024)
PUBLISHED = {0.9: (5.26316, 263.887), 0.99: (50.2513, 251262.6), 0.999: (500.25, 2.50125e8)}
sensitivity = jax.jit(parameter_sensitivity, static_argnums=0)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def impulse_energy(decay, rho, num_steps=4000, weights=(1.0, 0.0)):
    """Sum over time of (a s_t + b h_t)^2 after an impulse that the inputs' own filter has shaped.

    For a stationary input it is the mean square of a s + b h. By the plain recurrence, in numpy.
    """
    x = np.sqrt(1.0 - rho**2) * rho ** np.arange(num_steps)
    h = s = total = 0.0
    for value in x:
        h, s = decay * h + value, decay * s + h
        total += (weights[0] * s + weights[1] * h) ** 2
    return total


@pytest.mark.parametrize("name", ["rnn", "lstm", "lru"])
def test_the_norms_are_those_of_the_whole_jacobian(name):
    cell = lookup(name)(hidden_size=3)
    params = cell.init(jax.random.key(0), 2)
    xs, mask = normal(1, 2, 5, 2), jnp.array([[True] * 5, [True, True, False, True, False]])
    found = sensitivity(cell, params, xs, mask=mask)

    def states(params):
        return cell.output(unroll(cell, params, xs, mask=mask, form="scan").carries)

    jacobian = jax.jit(jax.jacrev(states))(params)
    for ours, whole in zip(jax.tree.leaves(found), jax.tree.leaves(jacobian), strict=True):
        squares = jnp.sum(jnp.square(whole), axis=tuple(range(2, whole.ndim)))
        np.testing.assert_allclose(np.exp(2 * ours), squares, rtol=1e-10, atol=1e-300)


def test_a_first_state_that_is_given_does_not_move_and_an_idle_parameter_has_no_effect():
    cell = RNN(2)
    params = cell.init(jax.random.key(0), 1) | {"idle": jnp.zeros(3)}
    found = sensitivity(cell, params, normal(0, 4, 1), carry=normal(1, 2))
    assert np.all(np.isneginf(found["idle"]))
    assert np.all(np.isfinite(found["W_h"]))  # also at the first step: the state is not zero
    assert np.isneginf(sensitivity(cell, params, normal(0, 4, 1))["W_h"][0])


def test_a_long_linear_net_overflows_neither_float32_nor_its_logs():
    with jax.enable_x64(False):
        cell = RNN(1, "identity")
        params = {"W_x": jnp.ones((1, 1)), "W_h": jnp.full((1, 1), 1.2), "b": jnp.zeros(1)}
        found = sensitivity(cell, params, jnp.zeros((300, 1)).at[0].set(1.0))["W_h"]
    lag = np.arange(1, 300)  # h_t = 1.2^t: dh_t/dlambda = t 1.2^(t - 1), up to 1e25
    np.testing.assert_allclose(found[1:], np.log(lag) + (lag - 1) * np.log(1.2), rtol=1e-5)


@pytest.mark.parametrize(("decay", "expected"), PUBLISHED.items())
def test_published_moments_of_a_linear_unit(decay, expected):
    moments = theory.linear_sensitivity(decay)
    np.testing.assert_allclose((moments.state, moments.sensitivity), expected, rtol=2e-6)
    np.testing.assert_allclose(
        moments.sensitivity, (1 + decay**2) / (1 - decay**2) ** 3, rtol=1e-12
    )


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.4, 0.95])
@pytest.mark.parametrize("decay", [0.9, -0.7, 0.98])
def test_moments_under_correlated_inputs_are_those_of_the_recurrence(decay, rho):
    moments = theory.linear_sensitivity(decay, rho)
    state, both = (
        impulse_energy(decay, rho, weights=(0, 1)),
        impulse_energy(decay, rho, 4000, (1, 1)),
    )
    slope = impulse_energy(decay, rho)
    np.testing.assert_allclose(moments.state, state, rtol=1e-11)
    np.testing.assert_allclose(moments.sensitivity, slope, rtol=1e-11)
    np.testing.assert_allclose(2 * moments.product, both - state - slope, rtol=1e-9)


def test_correlated_inputs_tend_to_the_sensitivity_of_a_constant_one():
    decay = 0.9
    found = theory.linear_sensitivity(decay, 1 - 1e-9).sensitivity
    np.testing.assert_allclose(found, (1 - decay) ** -4, rtol=1e-6)


def test_the_remedies_have_their_closed_forms():
    decay = np.array([0.3, 0.9, 0.999])
    moments = theory.linear_sensitivity(decay)
    gamma = np.sqrt(1 - decay**2)
    square, slope = 1 - decay**2, decay * np.log(decay)
    fixed = theory.scaled_sensitivity(moments, gamma)
    moving = theory.scaled_sensitivity(moments, gamma, -decay / gamma)
    both = theory.scaled_sensitivity(moments, gamma, -decay / gamma, slope)
    np.testing.assert_allclose(fixed, (1 + decay**2) / square**2, rtol=1e-12)
    np.testing.assert_allclose(moving, 1 / square**2, rtol=1e-10)
    np.testing.assert_allclose(both, slope**2 / square**2, rtol=1e-10)
    near = 1 - 1e-6
    moments, gamma = theory.linear_sensitivity(near), np.sqrt(1 - near**2)
    limits = [
        theory.scaled_sensitivity(moments, gamma, each, near * np.log(near))
        for each in (0.0, -near / gamma)
    ]
    np.testing.assert_allclose(limits, [0.5, 0.25], rtol=1e-4)


def test_real_cells_have_the_sensitivity_of_the_formula():
    """Inputs in all directions: the mean over white inputs is the sum over an impulse's steps."""
    decay, num_steps, size = 0.9, 400, 3
    cell = RNN(size, "identity", Init(gain=decay))
    params = cell.init(jax.random.key(0), size) | {"W_x": jnp.eye(size)}
    impulse = jnp.zeros((size, num_steps, size)).at[:, 0].set(jnp.eye(size))

    def by_gain(gain):
        return unroll(cell, params | {"W_h": gain / decay * params["W_h"]}, impulse).ys

    slope = jax.jit(lambda: jax.jvp(by_gain, (decay,), (1.0,))[1])()
    expected = theory.linear_sensitivity(decay).sensitivity
    np.testing.assert_allclose(jnp.sum(slope**2) / size, expected, rtol=1e-12)

    unit = LRU(1)
    weights = {"nu": jnp.log(-jnp.log(decay)), "theta": jnp.log(0.7), "gamma": jnp.log(0.5)}
    weights = {name: jnp.reshape(value, (1,)) for name, value in weights.items()}
    weights |= {"B_re": jnp.ones((1, 1)), "B_im": jnp.zeros((1, 1))}
    impulse = jnp.zeros((num_steps, 1)).at[0].set(1.0)

    def by_nu(nu):
        carries = unroll(unit, weights | {"nu": nu}, impulse).carries
        return jnp.stack([carries.re, carries.im])

    slope = jax.jit(lambda: jax.jvp(by_nu, (weights["nu"],), (jnp.ones(1),))[1])()
    expected = theory.scaled_sensitivity(
        theory.linear_sensitivity(decay), 0.5, 0.0, decay * np.log(decay)
    )
    np.testing.assert_allclose(jnp.sum(slope**2), expected, rtol=1e-12)
