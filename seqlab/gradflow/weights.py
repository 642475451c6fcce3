"""Each time step's share of a weight gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqlab.types import Array, Output, Params


def weight_shares(
    apply: Callable[..., Output],
    loss: Callable[[Output], Array],
    params: Params,
    *inputs: Any,
    **options: Any,
) -> dict[str, Params]:
    """What each step adds to dL/dW, at every recurrence of a model.

    Every step is given a copy W_t of the weights, equal in value; the share is the gradient with
    respect to that copy, and the shares add up:

        dL/dW = sum_t dL/dW_t,        dL/dW_t = (d+ carry_t / dW)^T dL/dcarry_t

    with d+ the immediate derivative, carry_{t-1} held fixed. One backward pass; the memory is T
    times that of the recurrent weights.

    Args:
      apply: a `Model.apply` that accepts `weight_taps`; a recurrence named s keeps its cell's
        parameters in `params[s]["weights"]`, as `models.recurrent.Recurrent` does.
      loss: Output -> scalar, summed or averaged over the batch as the study wants it.
      params: of the model.
      *inputs: what `apply` takes after `params`.
      **options: what it takes by name.

    Returns:
      dict: recurrence name -> the cell's parameters, every leaf with a leading axis T.

    Raises:
      ValueError: when a recurrence's weights are not where they are looked for.

    References: Pascanu et al., 2013, eqs. 4-5 (temporal components of the gradient).
    """
    taps = zero_weight_taps(apply, params, *inputs, **options)
    return jax.grad(lambda taps: loss(apply(params, *inputs, weight_taps=taps, **options)))(taps)


def zero_weight_taps(
    apply: Callable[..., Output], params: Params, *inputs: Any, **options: Any
) -> dict[str, Params]:
    """Zeros shaped like the weights of every step: name -> parameters with a leading axis T.

    Raises:
      ValueError: when a recurrence's weights are not where they are looked for.
    """
    carries = jax.eval_shape(lambda p: apply(p, *inputs, **options), params).carries
    taps = {}
    for site, carry in carries.items():
        if site not in params or "weights" not in params[site]:
            raise ValueError(f"recurrence {site!r}: no params[{site!r}]['weights'] in the model")
        num_steps = jax.tree.leaves(carry)[0].shape[-2]
        taps[site] = jax.tree.map(
            lambda leaf, num_steps=num_steps: jnp.zeros((num_steps, *leaf.shape), leaf.dtype),
            params[site]["weights"],
        )
    return taps


def share_norms(shares: Params, name: str | None = "W_h") -> Array:
    """Euclidean norm of each step's share over the leaves called `name`, or over all of them, [T].

    Raises:
      ValueError: when no leaf has that name.
    """
    leaves = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(shares)[0]
        if name is None or path[-1].key == name
    ]
    if not leaves:
        raise ValueError(f"no parameter is called {name!r}")
    flat = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=-1)
    # Scaled step by step: squares leave float32 near 1e-19, long before the share does.
    peak = jnp.max(jnp.abs(flat), axis=-1)
    return peak * jnp.linalg.norm(flat / jnp.where(peak > 0, peak, 1.0)[:, None], axis=-1)
