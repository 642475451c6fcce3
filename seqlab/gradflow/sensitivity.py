"""How far the state moves when a parameter does: d h_t / d theta at every step, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from seqlab.gradflow.taps import log_norm_over_time
from seqlab.recurrence import unroll
from seqlab.types import Array, Carry, Cell, Params

TANGENTS = 64  # directions walked side by side


def parameter_sensitivity(
    cell: Cell, params: Params, xs: Array, *, carry: Carry | None = None, mask: Array | None = None
) -> Params:
    """Log of ||d h_t / d theta||_F at every step by parameter: the tree, every leaf [..., T].

        d h_t / d theta = sum over k <= t of  (d h_t / d h_k) (d+ h_k / d theta)

    with d+ the immediate derivative and h_t = output(carry_t): all H entries by all entries of the
    leaf. It adds up over k, and may grow with the memory while every d h_t / d h_k only fades. All
    leaves together have the log norm 1/2 logsumexp(2 leaves).

    Forward mode, one walk for each entry of the parameters, `TANGENTS` of them side by side; so it
    is meant for small nets. (Reverse mode would need one for each of the T H states.)

    Args:
      cell: any cell.
      params: its parameters.
      xs: inputs, [..., T, D].
      carry: first state, held fixed; `cell.initial_carry` if None, which moves where it is learned.
      mask: [..., T] bool, True where real; at a masked step the state stays, and so does the norm.

    Returns:
      Natural logs; -inf where the state does not depend on the leaf.

    References: Williams and Zipser, 1989 (forward mode); Zucchet and Orvieto, 2024 (growth).
    """
    flat, unravel = ravel_pytree(params)

    def states(flat):
        return cell.output(unroll(cell, unravel(flat), xs, carry=carry, mask=mask).carries)

    push = jax.linearize(states, flat)[1]

    def along(entry):
        return log_norm_over_time(push(jnp.zeros_like(flat).at[entry].set(1.0)))

    found = jax.lax.map(along, jnp.arange(flat.size), batch_size=TANGENTS)  # [P, ..., T]
    leaves, tree = jax.tree.flatten(params)
    borders = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(2.0 * found, borders)
    return jax.tree.unflatten(tree, [0.5 * jax.nn.logsumexp(part, axis=0) for part in parts])
