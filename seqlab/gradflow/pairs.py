"""How what is said at each step of a target depends on each step of its source."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqlab.gradflow.taps import log_norm_over_time, zero_taps
from seqlab.types import Array, Carry, Output, Params


def pair_gradients(
    apply: Callable[..., Output],
    losses: Callable[[Output], Array],
    params: Params,
    *inputs: Any,
    source: str = "encoder",
    part: Callable[[Carry], Carry] = lambda carry: carry,
    batch_size: int | None = None,
    **options: Any,
) -> Array:
    """Log norms of d loss_s / d carry_t, natural, [..., U, S]: target step s by source step t.

    Exact: the total derivative with respect to the carry of the source's recurrence after step t,
    by whatever way it reaches loss_s: the recurrence, its last state, attention. One forward pass,
    and one backward pass for each target step, all rows of a batch at once.

    Args:
      apply: a `Model.apply` that accepts `taps`.
      losses: Output -> the loss of each target step, [..., U], 0 where masked.
      params: of the model.
      *inputs: what `apply` takes after `params`.
      source: name of the recurrence that reads the source.
      part: of its carry, what the norm is of: all of it, or one layer's.
      batch_size: backward passes at once; None for one after the other.
      **options: what `apply` takes by name.

    Returns:
      -inf where there is no gradient. At a masked source step it is that of the step before, whose
      carry is kept.
    """
    taps = zero_taps(apply, params, *inputs, **options)

    def of_steps(own):
        return losses(apply(params, *inputs, taps={**taps, source: own}, **options))

    values, pull = jax.vjp(of_steps, taps[source])

    def backward(step):
        (found,) = pull(jnp.zeros_like(values).at[..., step].set(1.0))
        return log_norm_over_time(part(found))

    rows = jax.lax.map(backward, jnp.arange(values.shape[-1]), batch_size=batch_size)
    return jnp.moveaxis(rows, 0, -2)
