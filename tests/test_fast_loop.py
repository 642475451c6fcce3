"""The cut loop against the plain one: values, gradients, forward mode and second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import CIFG, FGR, LSTM, NIG
from seqlab.cells.rnn import RNN
from seqlab.fast.loop import walk

CELLS = {
    "tanh": RNN(5),
    "relu": RNN(5, activation="relu"),
    "lstm": LSTM(5),
    "before": GRU(5),
    "after": GRU(5, reset="after", z_multiplies="state"),
    "gate recurrence": FGR(5),
    "coupled": CIFG(5),
    "no input gate": NIG(5),
}
NUM_STEPS = 13


@pytest.fixture(params=CELLS)
def problem(request, x64):
    """(cell, its parameters, a first state that is not zero, inputs, weights of a loss)."""
    cell = CELLS[request.param]
    keys = jax.random.split(jax.random.key(0), 4)
    params = cell.init(keys[0], 3)
    xs = jax.random.normal(keys[1], (NUM_STEPS, 4, 3))
    h = 0.3 * jax.random.normal(keys[2], (4, 5))
    carry = jax.tree.map(lambda leaf: leaf + h, cell.initial_carry(params, (4,)))
    return cell, params, carry, xs, jax.random.normal(keys[3], (NUM_STEPS, 4, 5))


def losses(cell, weights, **options):
    """The same loss of all carries, by `jax.lax.scan` and by `walk`."""

    def of(carry, carries):
        every = sum(jnp.sum(jnp.sin(leaf) * weights) for leaf in jax.tree.leaves(carries))
        return every + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(carry))

    def plain(params, carry, xs):
        def body(carry, x):
            after = cell.step(params, carry, x)
            return after, after

        return of(*jax.lax.scan(body, carry, xs, reverse=options.get("reverse", False)))

    def fast(params, carry, xs):
        return of(*walk(cell.step, params, carry, xs, **options))

    return plain, fast


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": NUM_STEPS},
        {"chunk": 4},
        {"chunk": 4, "remat": True},
        {"chunk": 4, "reverse": True},
    ],
    ids=str,
)
def test_values_and_all_gradients_are_those_of_the_plain_loop(problem, options):
    cell, params, carry, xs, weights = problem
    plain, fast = losses(cell, weights, **options)
    args = (params, carry, xs)
    found, expected = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*args) for f in (fast, plain))
    assert_equal(found, expected)


def test_forward_mode_and_hessian_products_are_those_of_the_plain_loop(problem):
    cell, params, carry, xs, weights = problem
    plain, fast = losses(cell, weights, chunk=4)
    ones = jax.tree.map(jnp.ones_like, params)

    def derivatives(loss):
        of_params = lambda params: loss(params, carry, xs)  # noqa: E731
        return jax.jvp(of_params, (params,), (ones,)), jax.jvp(
            jax.grad(of_params), (params,), (ones,)
        )

    assert_equal(jax.jit(lambda: derivatives(fast))(), jax.jit(lambda: derivatives(plain))())


def test_no_product_with_a_weight_gradient_stays_in_the_backward_loop(x64):
    cell = LSTM(5)
    params = cell.init(jax.random.key(0), 3)
    xs = jnp.ones((NUM_STEPS, 4, 3))

    def loss(params):
        return jnp.sum(walk(cell.step, params, cell.initial_carry(params, (4,)), xs)[1].h)

    def products(jaxpr, inside=False):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general" and inside:
                yield eqn
            for inner in core.jaxprs_in_params(eqn.params):
                yield from products(inner, inside or eqn.primitive.name == "scan")

    found = list(products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    # h W_h for four gates at once on the way there, its transpose on the way back.
    assert [eqn.outvars[0].aval.shape for eqn in found] == [(4, 20), (4, 5)]


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_nothing_in_it_is_for_one_kind_of_device(platform):
    cell = LSTM(5)
    params = cell.init(jax.random.key(0), 3)
    xs = jnp.ones((200, 4, 3))

    def loss(params):
        return jnp.sum(walk(cell.step, params, cell.initial_carry(params, (4,)), xs, chunk=20)[1].h)

    traced = jax.jit(jax.grad(loss)).trace(params)
    assert "while" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_body_with_a_loop_of_its_own_is_left_to_the_plain_loop():
    def body(weights, carry, x):
        return jax.lax.fori_loop(0, 2, lambda _, c: c * weights + x, carry)

    assert walk(body, jnp.ones(3), jnp.zeros(3), jnp.ones((4, 3))) is None
