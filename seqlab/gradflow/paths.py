"""Total against direct: by which way through the gates does the gradient travel back?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqlab.gradflow.taps import zero_taps
from seqlab.recurrence import with_routes
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

    so `direct` holds the gates fixed all the way (the "carousel"; with peepholes the output gate
    still sees the new c on it), and g is everything that leaves carry_t through gate g, at once or
    after some steps on the direct route, whatever it does later. Gates that read the input alone
    (MinGRU, MinLSTM) are no routes, and `direct` is the total.

    Args:
      apply: a `Model.apply` that accepts `taps` and `routes`.
      loss: Output -> scalar.
      params: of the model.
      *inputs: what `apply` takes after `params`.
      cell: the cell at `site`, with `routes` and `step_by_route`; the first route is the direct
        one.
      site: a recurrence of one layer, walked forward in time.
      **options: what `apply` takes by name, but not `reverse`, `reset` or `truncate_every`.

    Returns:
      dict: "total", "direct" and one entry a gate -> carry with leaves [..., T, H].

    Raises:
      ValueError: for a cell without routes, a site of several layers or directions, or an option
        under which the recursion above is another.

    References: Hochreiter and Schmidhuber, 1997, section 3.2 (constant error carousel); the split
    is exact, by linearity of the step's derivative in what each gate reads.
    """
    routes = with_routes(cell).routes
    direct, *gates = routes
    for option in ("reverse", "reset", "truncate_every"):
        if options.get(option) is not None and options[option] is not False:
            raise ValueError(f"path_gradients: {option}={options[option]!r} is not supported")

    def output(taps, route_taps):
        return apply(params, *inputs, taps={site: taps}, routes=route_taps, **options)

    zeros = zero_taps(apply, params, *inputs, **options)[site]
    own = jax.eval_shape(lambda: cell.initial_carry(cell.init(jax.random.key(0), 1)))
    if jax.tree.structure(zeros) != jax.tree.structure(own):
        raise ValueError(
            f"path_gradients: {site!r} has several layers, directions or another cell than "
            f"{cell}: its carry is {jax.tree.structure(zeros)}"
        )
    total, through = jax.grad(lambda *taps: loss(output(*taps)), argnums=(0, 1))(
        zeros, dict.fromkeys(routes, zeros)
    )

    def along_direct(loss):
        return jax.grad(lambda taps: loss(output(taps, {direct: None})))(zeros)

    def on_from(arriving):
        """Gradient of the sum of <arriving_t, carry_t>, which sends it on by the direct route."""

        def inner_product(output):
            products = jax.tree.map(lambda a, c: jnp.sum(a * c), arriving, output.carries[site])
            return jax.tree.reduce(jnp.add, products)

        return along_direct(inner_product)

    if not gates:  # they read the input alone: the direct route is all there is
        return {"total": total, "direct": along_direct(loss)}
    # What gate g sends back from step t+1, (J_{t+1}^g)^T G_{t+1}, arrives at carry_t.
    arriving = [jax.tree.map(_one_step_earlier, through[gate]) for gate in gates]
    left = jax.vmap(on_from)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arriving))
    parts = {gate: jax.tree.map(lambda leaf, k=k: leaf[k], left) for k, gate in enumerate(gates)}
    return {"total": total, "direct": along_direct(loss), **parts}


def _one_step_earlier(leaf):
    """[..., T, H] with entry t + 1 at t, zero at the last."""
    return jnp.concatenate([leaf[..., 1:, :], jnp.zeros_like(leaf[..., :1, :])], axis=-2)
