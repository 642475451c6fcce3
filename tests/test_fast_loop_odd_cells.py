"""Cells that are put together in unusual ways: the fast form is the plain one, or steps aside."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.gradflow.jacobians import log_product_norms
from seqlab.recurrence import unroll, using

B, T, D, H = 2, 6, 3, 4


@dataclass(frozen=True)
class Odd:
    """A cell from a function (params, h, x) -> h, one number array as carry."""

    function: Any
    dtype: Any = jnp.float64
    hidden_size: int = H

    def initial_carry(self, params, batch_shape=()):
        return jnp.ones((*batch_shape, H), self.dtype)

    def step(self, params, h, x):
        return self.function(params, h, x)

    def output(self, h):
        return h


def affine(p, h, x):
    return h @ p["U"] + x @ p["A"]


def with_mean(p, h, x):
    return jnp.tanh(affine(p, h, x)) + jnp.mean(h + p["one"], -1, keepdims=True)


def with_mean_of_mean(p, h, x):
    mean = jnp.mean(h, -1, keepdims=True)
    return jnp.tanh(affine(p, h, x)) + 0.1 * jnp.sum(mean + p["b"], -1, keepdims=True)


def with_scalar(p, h, x):
    return jnp.tanh(affine(p, h, x)) + jnp.mean(h + p["none"], -1, keepdims=True)


def split_after_scalar(p, h, x):
    first, second = jnp.split(jnp.concatenate([h, h], -1) + p["none"], 2, -1)
    return jnp.tanh(affine(p, h, x) + first * second)


def bias_of_what_is_read_again(p, h, x):
    a, g = x @ p["A"], x @ p["C"]
    spread = jnp.broadcast_to(p["b"], a.shape)
    return jnp.tanh(a + spread + h @ p["U"]) * a + 0.1 * (g + spread) * h


def bias_of_length_one(p, h, x):
    a = x @ p["A"] + jnp.broadcast_to(p["one"], h.shape)
    return jnp.tanh(a + h @ p["U"]) * (x @ p["C"] + jnp.broadcast_to(p["one"], h.shape))


def checkpointed(p, h, x):
    return jax.checkpoint(lambda h: jnp.tanh(affine(p, h, x)))(h)


@jax.custom_jvp
def looped(h):
    return jax.lax.fori_loop(0, 2, lambda _, c: jnp.sin(c), h)


looped.defjvp(
    lambda primals, tangents: jax.jvp(
        lambda h: jax.lax.fori_loop(0, 2, lambda _, c: jnp.sin(c), h), primals, tangents
    )
)


def with_a_loop_in_its_rule(p, h, x):
    return looped(affine(p, h, x))


def divided(p, h, x):
    return affine(p, h, x) / (1.0 + jnp.sum(h**2, -1, keepdims=True)) / 2.0


FUNCTIONS = [
    with_mean,
    with_mean_of_mean,
    with_scalar,
    split_after_scalar,
    bias_of_what_is_read_again,
    bias_of_length_one,
    checkpointed,
    with_a_loop_in_its_rule,
    divided,
]
ALWAYS_FAST = set(FUNCTIONS) - {with_a_loop_in_its_rule}


def problem():
    rng = np.random.default_rng(0)
    shapes = {"U": (H, H), "A": (D, H), "C": (D, H), "b": (H,), "one": (1,), "none": ()}
    params = {name: jnp.asarray(0.4 * rng.normal(size=shape)) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(B, T, D)))


@pytest.fixture
def mixed_ranks(x64):
    """The functions above mix ranks on purpose."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_values_and_gradients_are_those_of_the_plain_loop(function, mixed_ranks):
    params, xs = problem()

    def loss(form, params, xs):
        return jnp.sum(jnp.sin(unroll(Odd(function), params, xs, form=form).ys))

    found, expected = (
        jax.jit(jax.value_and_grad(loss, (1, 2)), static_argnums=0)(form, params, xs)
        for form in ("fast" if function in ALWAYS_FAST else "auto", "scan")
    )
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_a_step_that_prints_prints_at_every_step(x64, capfd):
    def printing(p, h, x):
        jax.debug.print("here")
        return jnp.tanh(affine(p, h, x))

    params, xs = problem()
    jax.block_until_ready(unroll(Odd(printing), params, xs).ys)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("here") == T
    with pytest.raises(ValueError, match="an effect"):
        unroll(Odd(printing), params, xs, form="fast")


def test_inside_a_shard_map_that_checks_what_varies(x64):
    cell = RNN(H)
    params, xs = cell.init(jax.random.key(0), D), problem()[1]
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,))

    def loss(params, xs):
        def share(params, xs):
            carry = jax.lax.pcast(cell.initial_carry(params, (B,)), "rows", to="varying")
            ys = unroll(cell, params, xs, carry=carry).ys
            return jax.lax.psum(jnp.sum(jnp.sin(ys)), "rows")

        rows = PartitionSpec("rows")
        specs = {"in_specs": (PartitionSpec(), rows), "out_specs": PartitionSpec()}
        return jax.shard_map(share, mesh=mesh, **specs)(params, xs)

    found = jax.jit(jax.grad(loss))(params, xs)
    expected = jax.grad(lambda p: jnp.sum(jnp.sin(unroll(cell, p, xs, form="scan").ys)))(params)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_rounding_to_integers_is_not_affine(x64):
    def rounding(p, h, x):
        return 1.7 * h.astype(int).astype(h.dtype) + x @ p["A"]

    def counting(p, n, x):
        return n + 1

    params, xs = problem()
    for cell in (Odd(rounding), Odd(counting, int)):
        with pytest.raises(ValueError, match="not affine"):
            unroll(cell, params, xs, form="associative")
    with pytest.raises(ValueError, match="holds integers"):
        log_product_norms(Odd(counting, int), params, xs)


def test_the_form_asked_for_reaches_what_is_compiled_already():
    cell = LSTM(H)
    params, xs = cell.init(jax.random.key(0), D), jnp.ones((B, T, D))
    walk = jax.jit(lambda xs: unroll(cell, params, xs).ys)
    walk(xs)
    names = {}
    for form in ("auto", "scan"):
        with using(form):
            names[form] = "custom_jvp" in str(jax.make_jaxpr(walk)(xs))
    assert names == {"auto": True, "scan": False}


def test_product_norms_of_mixed_precision(x64):
    cell = RNN(H)
    params, xs = cell.init(jax.random.key(0), D), jnp.ones((T, D), jnp.float32)
    assert log_product_norms(cell, params, xs).dtype == jnp.float64
