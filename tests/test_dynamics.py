"""What the study of dynamics draws as theory, and the instruments that are new in it."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from experiments import dynamics
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.ensemble import map_nets
from seqlab.errors import InputError
from seqlab.gradflow.jacobians import step_jacobians
from seqlab.gradflow.lyapunov import kaplan_yorke_dimension
from seqlab.gradflow.theory import critical_gain, log_growth_at_rest, mean_field_tanh


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.5, 0.0, -1.0], 2.5),
        ([-1.0, 0.5, 0.0], 2.5),  # in any order
        ([0.4192, -1.6229], 1.2583),  # the Henon map at a = 1.4, b = 0.3
        ([0.9056, 0.0, -14.5723], 2.0621),  # the Lorenz system of 1963
        ([-0.1, -0.2], 0.0),
        ([0.0, -0.2], 1.0),
        ([0.3, -0.3], 2.0),
        ([0.3, 0.1], 2.0),
        ([0.3, -0.1, -0.1, -np.inf], 3.0),
        ([0.3], 1.0),
        ([-0.3], 0.0),
    ],
    ids=str,
)
def test_kaplan_yorke_dimension(exponents, dimension):
    found = kaplan_yorke_dimension(jnp.array(exponents))
    np.testing.assert_allclose(found, dimension, atol=1e-4)
    twice = jnp.stack([jnp.array(exponents)] * 2)
    np.testing.assert_array_equal(kaplan_yorke_dimension(twice), [found] * 2)


def test_a_volume_of_that_dimension_keeps_its_size(x64):
    """The interpolated sum of exponents vanishes at D."""
    spectra = -np.sort(-np.random.default_rng(0).normal(-0.3, 1.0, (50, 9)), axis=-1)
    dimensions = np.asarray(kaplan_yorke_dimension(jnp.asarray(spectra)))
    inner = 0
    for exponents, dimension in zip(spectra, dimensions, strict=True):
        sums = np.concatenate([[0.0], np.cumsum(exponents)])
        if exponents[0] < 0 or sums[-1] >= 0:
            assert dimension == (0 if exponents[0] < 0 else 9)
            continue
        inner += 1
        np.testing.assert_allclose(np.interp(dimension, np.arange(10.0), sums), 0.0, atol=1e-12)
    assert inner > 20


def test_biases_and_inputs_add_up_in_mean_field():
    with_both = mean_field_tanh(1.7, 0.3, 0.5)
    np.testing.assert_allclose(with_both, mean_field_tanh(1.7, 0.8), rtol=1e-12)
    np.testing.assert_allclose(with_both, mean_field_tanh(1.7, 0.0, 0.8), rtol=1e-12)


def test_mean_field_with_biases_solves_its_equations():
    """By adaptive quadrature, not the trapezoid rule."""
    gain, input_variance, bias_variance = 1.3, 0.04, 0.36
    found = mean_field_tanh(gain, input_variance, bias_variance)

    def mean(function):
        def integrand(u):
            return function(mpmath.tanh(mpmath.sqrt(found.q) * u)) * mpmath.npdf(u)

        return float(2 * mpmath.quad(integrand, [0, 0.5, 1, 2, 4, 12]))

    np.testing.assert_allclose(found.q, gain**2 * mean(lambda t: t**2) + 0.4, rtol=1e-9)
    np.testing.assert_allclose(found.chi, gain**2 * mean(lambda t: (1 - t**2) ** 2), rtol=1e-9)


@pytest.mark.parametrize("point", [(1.5, 0.0, 0.5), (1.2, 0.6, 0.6), (2.0, 0.0, 1.0)], ids=str)
def test_nets_with_biases_have_the_exponent_of_mean_field(point):
    config = dynamics.Config(num_seeds=2, num_devices=1)
    rates = dynamics.tanh_exponents(
        [point], config, size=400, num_steps=300, transient=100, stream=3
    )
    gain, std, bias_std = point
    expected = mean_field_tanh(gain, std**2, bias_std**2).log_slope
    np.testing.assert_allclose(rates.mean(), expected, atol=0.02)


@pytest.mark.parametrize("variances", [(0.0, 0.0), (1e-4, 0.0), (0.0, 0.09), (1.0, 1.25)], ids=str)
def test_critical_gain_is_where_chi_is_one(variances):
    gain = critical_gain(*variances)
    np.testing.assert_allclose(mean_field_tanh(gain, *variances).chi, 1.0, atol=1e-9)
    assert mean_field_tanh(0.99 * gain, *variances).chi < 1 < mean_field_tanh(
        1.01 * gain, *variances
    ).chi  # fmt: skip


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_gated_nets_at_rest_grow_as_their_biases_say(name, gain, x64):
    """The eigenvalues of the Jacobian at zero are keep + write mu, mu those of W_h."""
    bias, cell = 0.7, {"lstm": LSTM(5, forget_bias=0.7), "gru": GRU(5, update_bias=-0.7)}[name]
    params = cell.init(jax.random.key(0), 2)
    candidate = params["g" if name == "lstm" else "n"]
    keep = 1 / (1 + np.exp(-bias))
    write = 0.25 if name == "lstm" else (1 - keep) / 2
    # A symmetric W_h with the largest eigenvalue g.
    values = gain * np.array([1.0, 0.6, 0.2, -0.3, -0.8])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    candidate["W_h"] = jnp.asarray(basis * values @ basis.T)
    jacobian = np.asarray(step_jacobians(cell, params, jnp.zeros((1, 2)))[0])
    found = np.sort(np.abs(np.linalg.eigvals(jacobian)))[::-1][:5]
    np.testing.assert_allclose(found, np.sort(np.abs(keep + write * values))[::-1], rtol=1e-10)
    np.testing.assert_allclose(np.log(found[0]), log_growth_at_rest(keep, write, gain), rtol=1e-10)


def test_mapped_nets_are_the_nets_alone():
    def one(net, factor):
        return {"sum": jnp.sum(net["w"]) * factor}

    nets, factors = {"w": jnp.arange(12.0).reshape(4, 3)}, jnp.arange(4.0)
    found = map_nets(one, 4)(nets, factors)["sum"]
    np.testing.assert_allclose(found, [0.0, 12.0, 42.0, 90.0])
    with pytest.raises(InputError, match="num_devices"):
        map_nets(one, 4, num_devices=99)


def test_the_crossing_is_interpolated():
    assert dynamics.crossing([1.0, 2.0, 3.0], np.array([-1.0, -0.5, 0.5])) == 2.5
    assert np.isnan(dynamics.crossing([1.0, 2.0], np.array([-1.0, -0.5])))
    assert np.isnan(dynamics.crossing([1.0, 2.0], np.array([0.1, 0.5])))


def test_slope_over_lag_is_that_of_a_line():
    lags = np.arange(9, -1, -1)
    found = dynamics.slope_over_lag(jnp.asarray(-0.3 * lags + 2.0))
    np.testing.assert_allclose(found, -0.3, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"drives": ("autonomous",)}, "must include text"),
        ({"drives": ("text", "txt")}, "unknown drives"),
        ({"gated": ("rnn",)}, "unknown gated"),
        ({"num_probes": 4}, "must be odd"),
        ({"num_updates": 100}, "multiple of num_probes - 1"),
        ({"gains": (1.0, 0.5)}, "gains must be finite and increase"),
        ({"cells": ("rnn", "rnn")}, "one twice"),
        ({"cells": ("rnn@two",)}, "'two' is no number"),
        ({"cells": ("rnn@0",)}, "must be above 0"),
        ({"cells": ("rnm@2",)}, "did you mean 'rnn'"),
        ({"num_steps": 5}, "num_steps"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        dynamics.Config(**fields)
