"""Truncated back-propagation through time, TBPTT(k1, k2), as an exact gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqlab.types import Array, Output, Params


def chunk_borders(every: int | Array, shape: tuple[int, ...]) -> Array:
    """`cut` of `unroll` with a border before every `every`-th step, [..., T]; k may be traced.

    Walked forward, the gradient is that of `truncate_every`; as an array k can differ from net to
    net in one program. (Backward, `truncate_every` counts from the last step, this from the first.)

    Args:
      every: k, steps between borders.
      shape: [..., T], of the sequences.
    """
    place = jnp.arange(shape[-1])
    return jnp.broadcast_to((place % every == 0) & (place > 0), shape)


def truncated_gradient(
    apply: Callable[..., Output],
    losses: Callable[[Output], Array],
    params: Params,
    *inputs: Any,
    every: int,
    back: int | Array,
    **options: Any,
) -> Params:
    """dL/dparams as TBPTT(k1, k2) has it: every k1 steps, back-propagate k2 steps.

    For t = k1, 2 k1, ... and T, the losses since the t before go back to step t - k2 + 1 and no
    further; the carry itself goes on. So a loss reaches back between k2 - k1 and k2 - 1 steps.
    k1 = k2 are chunks, `truncate_every`, where k1 divides T; k1 = 1 gives every loss the same
    reach; with k2 >= T the gradient is the full one. Parameters are held while the sequence is
    read.

    One backward pass of the whole sequence for each k1 steps: made to measure with, not to train.

    Args:
      apply: a `Model.apply` that accepts `cut`, the first input [B, T, ...] (or more leading axes).
      losses: Output -> [..., T], the loss of every step, scaled as the study wants it.
      params: of the model.
      *inputs: what `apply` takes after `params`; tokens or vectors first.
      every: k1.
      back: k2, at least k1; may be traced.
      **options: what `apply` takes by name.

    Raises:
      ValueError: for `every` below 1, or `back` below `every`.

    References: Williams and Peng, 1990; Sutskever, 2013, section 2.8.6.
    """
    if every < 1:
        raise ValueError(f"truncated_gradient: every={every}, expected 1 step or more")
    if isinstance(back, int) and back < every:
        raise ValueError(f"truncated_gradient: back={back}, expected every={every} or more")
    shapes = jax.eval_shape(lambda p: losses(apply(p, *inputs, **options)), params)
    *_, num_steps = shapes.shape
    place = jnp.arange(num_steps)

    def part(total, start):
        end = jnp.minimum(start + every, num_steps)

        def loss(params):
            cut = jnp.broadcast_to((place == end - back) & (place > 0), shapes.shape)
            own = (place >= start) & (place < end)
            seen = losses(apply(params, *inputs, cut=cut, **options))
            return jnp.sum(jnp.where(own, seen, 0.0))

        return jax.tree.map(jnp.add, total, jax.grad(loss)(params)), None

    starts = jnp.arange(0, num_steps, every)
    return jax.lax.scan(part, jax.tree.map(jnp.zeros_like, params), starts)[0]
