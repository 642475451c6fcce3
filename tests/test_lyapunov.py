"""Lyapunov exponents against closed forms; norms of Jacobian products against Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mgu import MGU

from experiments.benchmarks import probes
from seqlab.cells.affine import Init
from seqlab.cells.gru import GRU
from seqlab.cells.lookup import lookup
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.gradflow.jacobians import log_jacobian_norms, log_product_norms, step_jacobians
from seqlab.gradflow.lyapunov import lyapunov_exponents

CELLS = {"rnn": RNN(4), "lstm": LSTM(4), "gru": GRU(4), "mgu": MGU(4)}


@pytest.fixture(params=CELLS)
def driven(request, x64):
    """(cell, parameters, inputs of two sequences)."""
    cell = CELLS[request.param]
    keys = jax.random.split(jax.random.key(3))
    return cell, cell.init(keys[0], 3), jax.random.normal(keys[1], (2, 40, 3))


def test_diagonal_linear_map_has_the_logs_of_its_entries(x64):
    cell, entries = RNN(4, activation="identity"), jnp.array([0.5, 1.2, 0.9, 0.1])
    params = cell.init(jax.random.key(0), 1) | {"W_h": jnp.diag(entries)}
    xs = jnp.zeros((3000, 1))
    found = lyapunov_exponents(cell, params, xs, transient=1000)
    np.testing.assert_allclose(found.exponents, np.log([1.2, 0.9, 0.5, 0.1]), atol=1e-9)
    first_two = lyapunov_exponents(cell, params, xs, transient=1000, num_exponents=2)
    np.testing.assert_allclose(first_two.exponents, np.log([1.2, 0.9]), atol=1e-9)


def test_scaled_orthogonal_map_has_one_exponent_at_every_step(x64):
    cell = RNN(6, activation="identity", weight_init=Init(recurrent="orthogonal", gain=0.8))
    params = cell.init(jax.random.key(0), 2)
    found = lyapunov_exponents(cell, params, jnp.ones((50, 2)), qr_every=5)
    assert found.growth.shape == (10, 6)
    np.testing.assert_allclose(found.exponents, np.log(0.8), rtol=1e-12)
    np.testing.assert_allclose(found.growth, 5 * np.log(0.8), rtol=1e-12)
    np.testing.assert_allclose(found.spread, 0.0, atol=1e-12)


def test_sum_of_all_is_the_mean_log_determinant(driven):
    cell, params, xs = driven
    found = lyapunov_exponents(cell, params, xs, qr_every=1)
    logs = np.linalg.slogdet(np.asarray(step_jacobians(cell, params, xs)))[1]
    np.testing.assert_allclose(found.exponents.sum(-1), logs.mean(-1), rtol=1e-10)


def test_product_of_independent_gaussian_matrices_has_newmans_exponents(x64):
    """lambda_k = 1/2 (log 2/n + psi((n - k + 1) / 2)) for entries N(0, 1/n); n = 32."""

    class Gaussian:
        """x is the Jacobian itself, row after row."""

        hidden_size = 32

        def initial_carry(self, params, batch_shape=()):
            return jnp.zeros((*batch_shape, 32))

        def step(self, params, h, x):
            return jnp.einsum("...ij,...j->...i", x.reshape(*x.shape[:-1], 32, 32), h)

        def output(self, h):
            return h

    xs = jax.random.normal(jax.random.key(0), (4000, 32 * 32)) / np.sqrt(32)
    found = lyapunov_exponents(Gaussian(), {}, xs, qr_every=1)
    digamma = jax.scipy.special.digamma(jnp.arange(32, 0, -1) / 2)
    expected = 0.5 * (np.log(2 / 32) + digamma)
    np.testing.assert_allclose(expected[jnp.array([0, 31])], [-0.015788, -2.368049], atol=1e-6)
    np.testing.assert_allclose(found.exponents, expected, atol=0.06)
    np.testing.assert_allclose(jnp.sum(found.exponents), -16.935367, atol=0.15)


def test_the_chosen_stretch_keeps_the_values(driven):
    cell, params, xs = driven
    often = lyapunov_exponents(cell, params, xs, qr_every=1)
    chosen = lyapunov_exponents(cell, params, xs)
    assert chosen.qr_every > 1
    assert np.all(chosen.spread <= np.log(1e-3 / np.finfo(np.float64).eps))
    np.testing.assert_allclose(chosen.exponents, often.exponents, rtol=0, atol=1e-3)


def test_a_stretch_too_long_for_what_comes_later_is_shortened():
    """Calm inputs at first, on which the pilot is run; then some that saturate the net."""
    cell = RNN(4, weight_init=Init(recurrent="orthogonal"))
    params = cell.init(jax.random.key(0), 1)
    xs = jnp.concatenate([jnp.zeros((64, 1)), jnp.full((64, 1), 3.0)])
    calm = lyapunov_exponents(cell, params, xs[:64])
    found = lyapunov_exponents(cell, params, xs)
    assert found.qr_every < calm.qr_every
    assert found.spread <= np.log(1e-3 / np.finfo(np.float32).eps)
    np.testing.assert_allclose(
        found.exponents, lyapunov_exponents(cell, params, xs, qr_every=1).exponents, atol=1e-3
    )


def test_a_batch_is_its_sequences(driven):
    cell, params, xs = driven
    batch = lyapunov_exponents(cell, params, xs, qr_every=3).exponents
    for row, found in zip(xs, batch, strict=True):
        alone = lyapunov_exponents(cell, params, row, qr_every=3).exponents
        np.testing.assert_allclose(found, alone, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_exponents": 5}, "1 to S = 4"),
        ({"transient": 10}, "0 to T - 1 = 9"),
        ({"transient": 6, "qr_every": 5}, "1 to 4 steps"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(options, message):
    cell = RNN(4)
    params = cell.init(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=message):
        lyapunov_exponents(cell, params, jnp.zeros((10, 2)), **options)


@pytest.mark.parametrize("masked", [False, True])
def test_product_norms_are_those_of_explicit_jacobians(driven, masked):
    cell, params, xs = driven
    mask = jnp.arange(40)[None] < jnp.array([[40], [25]]) if masked else None
    found = log_product_norms(cell, params, xs, mask=mask)
    jacobians = step_jacobians(cell, params, xs, mask=mask)
    np.testing.assert_allclose(
        found, log_jacobian_norms(jacobians, norm="frobenius"), rtol=1e-9, atol=1e-10
    )


def test_product_norms_survive_what_underflows():
    cell = RNN(3, activation="identity", weight_init=Init(recurrent="orthogonal", gain=0.5))
    params = cell.init(jax.random.key(0), 2)
    found = log_product_norms(cell, params, jnp.ones((2000, 2)))
    np.testing.assert_allclose(found[0], 2000 * np.log(0.5), rtol=1e-5)


@pytest.mark.parametrize("name", probes.BY_HAND)
def test_what_the_benchmark_compares_is_the_same(name, x64):
    cell, params, xs = probes.one_sequence(name, probes.Config(seq_len=12, hidden_size=5))
    expected = jnp.exp(log_product_norms(cell, params, xs))
    np.testing.assert_allclose(probes.by_hand(name, params, xs), expected, rtol=1e-10)
    assert lookup(name)(hidden_size=5) == cell


def test_the_numpy_loop_of_the_benchmark_gives_the_same(x64):
    cell, params, xs = probes.one_sequence("rnn", probes.Config(seq_len=60, hidden_size=5))
    found = lyapunov_exponents(cell, params, xs, qr_every=1).exponents
    np.testing.assert_allclose(np.sum(probes.numpy_call(params, xs)()), np.sum(found), rtol=1e-5)
