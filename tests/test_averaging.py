"""The mean of an optimiser's iterates, from where it begins."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab import averaging
from seqlab.train import init_state, make_train_step

PARAMS = {"a": jnp.array([3.0, -2.0]), "b": {"c": jnp.array(1.0)}}
BEGIN, END = 4, 9  # averaging begins after update 4 of 9


def loss_fn(params, batch, key):
    del key
    errors = jax.tree.map(lambda leaf: jnp.sum(jnp.square(leaf - batch["goal"])), params)
    return sum(jax.tree.leaves(errors)), {}


def batch(k):
    return {"goal": np.float32(np.sin(k))}


def trained(optimizer, wrap=lambda step: step, begin=BEGIN, end=END, bad=None):
    """States after every update, [0] before the first."""
    step = wrap(make_train_step(loss_fn, optimizer))
    state = init_state(PARAMS, optimizer, jax.random.key(0))
    states = [state]
    for k in range(end):
        if k == begin:
            state = averaging.start(state)
        state, _ = step(state, batch(k) if k != bad else {"goal": np.float32(np.nan)})
        states.append(state)
    return states


def mean_of(states):
    return jax.tree.map(
        lambda *leaves: np.mean(np.stack(leaves).astype(np.float64), axis=0),
        *[state.params for state in states],
    )


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found,
                 expected)  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda step: step, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("inner", [optax.sgd(0.1), optax.adam(0.3)], ids=["sgd", "adam"])
def test_the_mean_is_that_of_the_iterates_since_the_start(wrap, inner):
    states = trained(averaging.averaged(inner), wrap)
    alone = trained(averaging.averaged(inner), wrap, begin=None)
    for one, other in zip(states, alone, strict=True):  # the updates are the optimiser's own
        assert_close(one.params, other.params)
    for k, state in enumerate(states):
        expected = state.params if k <= BEGIN else mean_of(states[BEGIN : k + 1])
        assert_close(averaging.model_params(state), expected)
    assert int(states[-1].opt_state.count) == END - BEGIN + 1
    assert not np.allclose(averaging.model_params(states[-1])["a"], states[-1].params["a"])


def test_before_the_start_the_model_is_the_newest():
    for state in trained(averaging.averaged(optax.sgd(0.1)), begin=None):
        jax.tree.map(np.testing.assert_array_equal, averaging.model_params(state), state.params)
        assert int(state.opt_state.count) == 0


def test_just_started_the_mean_is_one_iterate():
    state = averaging.start(trained(averaging.averaged(optax.sgd(0.1)), begin=None)[-1])
    assert int(state.opt_state.count) == 1
    jax.tree.map(np.testing.assert_array_equal, averaging.model_params(state), state.params)


def test_an_optimiser_without_a_mean_gives_its_parameters():
    state = init_state(PARAMS, optax.sgd(0.1), jax.random.key(0))
    assert averaging.model_params(state) is state.params


def test_an_update_that_is_left_out_is_not_counted():
    *_, before, after = trained(averaging.averaged(optax.sgd(0.1)), bad=END - 1)
    assert int(after.skipped) == 1
    assert int(after.opt_state.count) == int(before.opt_state.count)
    jax.tree.map(
        np.testing.assert_array_equal,
        averaging.model_params(after),
        averaging.model_params(before),
    )


def test_the_parameters_must_be_given():
    optimizer = averaging.averaged(optax.sgd(0.1))
    with pytest.raises(ValueError, match="which update was not given"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))
