"""Total against direct: by which way through the gates does the gradient travel back?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqlab.gradflow.taps import carry_gradients
from seqlab.types import Array, Carry, Cell, Output, Params


def path_gradients(
    apply: Callable[..., Output],
    loss: Callable[[Output], Array],
    params: Params,
    *inputs: Any,
    cell: Cell,
    site: str = "rnn",
    **options: Any,
) -> dict[str, Carry]:
    """dL/dcarry_t, whole and in parts that add up to it, by the way the gradient takes back.

    With J_t = D_t + sum over gates g of J_t^g, D the direct route (through f * c in an LSTM, (1 -
    z) * h in a GRU) and G_t the total derivative,

        direct_t = (dL/dcarry_t) direct + D_{t+1}^T direct_{t+1}
        g_t      = (J_{t+1}^g)^T G_{t+1} + D_{t+1}^T g_{t+1}         for each gate g
        G_t      = direct_t + sum over gates of g_t

    so `direct` holds the gates fixed all the way (the "carousel"), and g is everything that leaves
    carry_t through gate g, at once or after some steps on the direct route, whatever it does later.

    Args:
      apply: a `Model.apply` that accepts `taps` and `routes`.
      loss: Output -> scalar.
      params: of the model.
      *inputs: what `apply` takes after `params`.
      cell: the cell at `site`, with `routes` and `step_by_route`; the first route is the direct
        one.
      site: a recurrence walked forward in time, with a single layer.
      **options: what `apply` takes by name.

    Returns:
      dict: "total", "direct" and one entry a gate -> carry with leaves [..., T, H].

    Raises:
      ValueError: for a cell without routes.

    References: Hochreiter and Schmidhuber, 1997, section 3.2 (constant error carousel); the split
    is exact, by linearity of the step's derivative in what each gate reads.
    """
    routes = getattr(cell, "routes", ())
    if not routes:
        raise ValueError(f"{cell}: no routes to tell apart; write `routes` and `step_by_route`")
    direct, *gates = routes

    def gradients(loss, **more):
        return carry_gradients(apply, loss, params, *inputs, **options, **more)[site]

    total = gradients(loss)
    parts = {"total": total, "direct": gradients(loss, routes={direct: None})}

    zeros = jax.tree.map(jnp.zeros_like, total)
    through = jax.grad(
        lambda taps: loss(apply(params, *inputs, routes=taps, **options))  # (J_t^g)^T G_t
    )(dict.fromkeys(routes, zeros))
    for gate in gates:
        # What gate g sends back from step t+1 arrives at carry_t, and goes on by the direct route.
        arriving = jax.tree.map(_one_step_earlier, through[gate])

        def arrived(output, arriving=arriving):
            pairs = jax.tree.map(lambda a, c: jnp.sum(a * c), arriving, output.carries[site])
            return jax.tree.reduce(jnp.add, pairs)

        parts[gate] = gradients(arrived, routes={direct: None})
    return parts


def _one_step_earlier(leaf):
    """[..., T, H] with entry t + 1 at t, zero at the last."""
    return jnp.concatenate([leaf[..., 1:, :], jnp.zeros_like(leaf[..., :1, :])], axis=-2)
