"""Averages of the parameters over updates: from some step on, the mean is the model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqlab.train import TrainState
from seqlab.types import Array, Params


class Averaged(NamedTuple):
    """State of an averaged optimiser."""

    inner: Any
    count: Array  # scalar, parameters in the mean; 0 before averaging has begun
    mean: Params


def averaged(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, which also keeps the mean of its iterates once `start` was called.

        mean_n = mean_{n-1} + (theta_n - mean_{n-1}) / n

    The updates are the optimiser's own; `model_params` gives what is to be scored.

    Raises:
      ValueError: by `update`, which was not given the parameters.

    References: Polyak and Juditsky, 1992; Merity et al., 2018, algorithm 1 (when it begins).
    """

    def init(params):
        return Averaged(optimizer.init(params), jnp.zeros((), jnp.int32), params)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("averaged: the mean is of parameters, which update was not given")
        updates, inner = optimizer.update(updates, state.inner, params)
        has_begun = state.count > 0
        count = state.count + has_begun

        def add(mean, old, change):
            new = old + change
            return jnp.where(has_begun, mean + (new - mean) / jnp.maximum(count, 1), new)

        mean = jax.tree.map(add, state.mean, params, updates)
        return updates, Averaged(inner, count, mean)

    return optax.GradientTransformation(init, update)


def start(state: TrainState) -> TrainState:
    """The state whose mean begins with the parameters as they are."""
    opt_state = state.opt_state._replace(count=jnp.ones_like(state.opt_state.count))
    opt_state = opt_state._replace(mean=jax.tree.map(jnp.copy, state.params))
    return state.replace(opt_state=opt_state)  # type: ignore[attr-defined]


def model_params(state: TrainState) -> Params:
    """The mean where averaging has begun, else the parameters themselves."""
    if not isinstance(state.opt_state, Averaged):
        return state.params
    begun = state.opt_state.count > 0
    return jax.tree.map(
        lambda mean, last: jnp.where(begun, mean, last), state.opt_state.mean, state.params
    )
