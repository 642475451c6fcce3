"""The product of forget gates is not the gradient: total and direct path of an untrained LSTM."""

import functools

import jax
import numpy as np
import pytest

from seqlab.cells.affine import Init
from seqlab.cells.lstm import LSTM
from seqlab.gradflow.jacobians import jacobian_products, route_jacobians, step_jacobians

pytestmark = pytest.mark.usefixtures("x64")

SIZE, INPUTS = 64, 4
SLACK = 3.0  # decades; the exact digits depend on the draw

# science.md 2.8: (gain, forget bias) -> lag -> (total, direct), ||dc_t/dc_0||_F / sqrt(n)
TABLE = {
    (1.0, 0.0): {20: (6.5e-5, 2.3e-6), 100: (2.2e-20, 5.6e-30)},
    (1.0, 1.0): {20: (1.4e-2, 1.8e-3), 100: (7.9e-9, 9.1e-14)},
    (1.0, 2.0): {20: (2.9e-1, 5.8e-2), 100: (9.6e-3, 9.0e-6)},
    (1.0, 5.0): {20: (2.4, 8.1e-1), 100: (10.2, 4.0e-1)},
    (2.0, 1.0): {20: (2.1e-1, 5.3e-3), 100: (3.0e-3, 7.7e-11)},
    (4.0, 1.0): {20: (10.8, 2.1e-2), 100: (1.0e4, 9.6e-8)},
}

CELL = LSTM(SIZE, weight_init=Init(recurrent="orthogonal", input="gaussian"))  # W_x: N(0, 1/4)


@jax.jit
def cell_products(params, xs):
    """d carry_T / d carry_0 and the product of its direct parts: matrices and log scales."""
    direct = route_jacobians(CELL, params, xs)["cell"]
    return jacobian_products(step_jacobians(CELL, params, xs)), jacobian_products(direct)


@functools.cache
def one_draw(gain, forget_bias, lag, seed):
    """Of the c-to-c block, ||.||_F / sqrt(n); the carry is raveled as h, then c."""
    key_params, key_xs = jax.random.split(jax.random.key(seed))
    params = CELL.init(key_params, INPUTS)
    for gate in params.values():
        gate["W_h"] = gain * gate["W_h"]
    params["f"]["b"] = params["f"]["b"] - 1.0 + forget_bias
    xs = jax.random.normal(key_xs, (lag, INPUTS))

    def log10_norm(product, log_scale):
        block = np.asarray(product[0, SIZE:, SIZE:])
        scale = float(log_scale[0]) / np.log(10.0)
        return scale + np.log10(np.linalg.norm(block) / SIZE**0.5)

    return tuple(log10_norm(*pair) for pair in cell_products(params, xs))


def test_the_cell_is_that_of_the_table():
    params = CELL.init(jax.random.key(0), INPUTS)
    np.testing.assert_array_equal(params["f"]["b"], 1.0)
    assert 0.8 < np.var(params["i"]["W_x"]) * INPUTS < 1.25


def log10_total_and_direct(gain, forget_bias, lag):
    """Median over draws; at gain 4 and lag 100 the direct path alone spans 8 decades of them."""
    draws = [one_draw(gain, forget_bias, lag, seed) for seed in range(3 if gain == 1.0 else 24)]
    return np.median(draws, axis=0)


@pytest.mark.parametrize("lag", [20, 100])
@pytest.mark.parametrize("setting", TABLE)
def test_the_table_of_total_and_direct_paths(setting, lag):
    found = log10_total_and_direct(*setting, lag)
    expected = np.log10(TABLE[setting][lag])
    np.testing.assert_allclose(found, expected, atol=SLACK, rtol=0)


@pytest.mark.parametrize("lag", [20, 100])
@pytest.mark.parametrize("setting", TABLE)
def test_the_direct_path_is_the_smaller_one(setting, lag):
    for seed in range(3):
        total, direct = one_draw(*setting, lag, seed)
        assert direct < total  # by 1 to 11 decades, growing with the lag and the gain


def test_the_total_can_explode_while_the_direct_path_vanishes():
    total, direct = log10_total_and_direct(4.0, 1.0, 100)
    assert total > 1.0
    assert direct < -4.0
