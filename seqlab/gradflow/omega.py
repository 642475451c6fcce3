"""Does each step keep the length of the error that travels back through it?"""

import jax
import jax.numpy as jnp

from seqlab.gradflow.jacobians import states_before
from seqlab.types import Array, Carry, Cell, Params


def norm_ratios(
    cell: Cell,
    params: Params,
    xs: Array,
    carries: Carry,
    adjoints: Carry,
    *,
    carry: Carry | None = None,
    mask: Array | None = None,
) -> tuple[Array, Array]:
    """How much longer the error gets in each step back, and where that can be told.

        r_t = ||J_t^T delta_t|| / ||delta_t||,     J_t = d carry_t / d carry_{t-1}

    The states and the errors are held fixed: a derivative of r_t by `params` is the immediate one,
    through J_t alone. All steps are taken at once, so it costs one step's derivative over a batch
    of B T rows and no loop.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs, [..., T, D].
      carries: its states after each step, leaves [..., T, H].
      adjoints: dL/dcarry_t, likewise (`gradflow.taps`).
      carry: the state before the first step; `initial_carry` if None.
      mask: [..., T] bool, True where real, or None.

    Returns:
      r [..., T], 1 where it cannot be told, and [..., T] bool where it can: at real steps that an
      error reaches.

    References: Pascanu et al., 2013, eqs. 9-11.
    """
    if carry is None:
        carry = cell.initial_carry(params, xs.shape[:-2])
    before = states_before(carry, carries)
    if mask is not None:
        xs = jnp.where(mask[..., None], xs, 0.0)
    before, xs, adjoints = jax.lax.stop_gradient((before, xs, adjoints))
    # Scaled by the largest entry: an error that has all but vanished has a direction still.
    peaks = jax.tree.map(lambda leaf: jnp.max(jnp.abs(leaf), axis=-1), adjoints)
    peak = jax.tree.reduce(jnp.maximum, peaks)
    is_told = peak > 0.0 if mask is None else mask & (peak > 0.0)
    scale = jnp.where(is_told, peak, 1.0)[..., None]
    adjoints = jax.tree.map(lambda leaf: leaf / scale, adjoints)
    square = _square(adjoints)
    _, pull = jax.vjp(lambda carry: cell.step(params, carry, xs), before)
    back = _square(pull(adjoints)[0])
    # The root only where it can be told: elsewhere its slope at zero would be infinite.
    ratio = jnp.sqrt(jnp.where(is_told & (back > 0), back, 1.0) / jnp.where(is_told, square, 1.0))
    return jnp.where(is_told, jnp.where(back > 0, ratio, 0.0), 1.0), is_told


def norm_preservation(
    cell: Cell,
    params: Params,
    xs: Array,
    carries: Carry,
    adjoints: Carry,
    *,
    carry: Carry | None = None,
    mask: Array | None = None,
) -> Array:
    """Omega, the regulariser that asks each step to keep the length of the error, a scalar.

        Omega = mean over real steps and sequences of (||J_t^T delta_t|| / ||delta_t|| - 1)^2

    It is 0 if and only if every step keeps the norm in the direction of the error. States and
    errors are constants of it: its gradient by `params` is the immediate derivative. Added to a
    loss with a weight, it is trained with a loss's own gradient:

        grads = gradients(model.apply, loss, params, xs)        # errors, by the backward pass
        omega = norm_preservation(cell, weights, xs, carries, grads.carries["rnn"])

    Convention: the paper writes a sum over steps and the norms themselves; its code takes the mean
    over steps, without those whose error is below 1e-10, and the squares of the norms. Here it is
    the mean, over all that an error reaches, and the norms: it has no scale of the loss in it.
    In the paper's form the state is the pre-activation (`PreactivationRNN`); with `RNN` the state
    held fixed is h_{t-1}, and phi' at step t moves with the weights.

    The arguments are those of `norm_ratios`.

    References: Pascanu et al., 2013, section 3.3.
    """
    ratio, is_told = norm_ratios(cell, params, xs, carries, adjoints, carry=carry, mask=mask)
    return jnp.sum(jnp.square(ratio - 1.0)) / jnp.maximum(jnp.sum(is_told), 1)


def _square(tree):
    """Squared norm of all leaves together, [..., T]."""
    squares = jax.tree.map(lambda leaf: jnp.sum(jnp.square(leaf), axis=-1), tree)
    return jax.tree.reduce(jnp.add, squares)
