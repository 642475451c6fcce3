"""Lyapunov exponents: how fast neighbouring states of a recurrence part, way by way."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.gradflow.jacobians import as_tangents
from seqlab.linalg import qr
from seqlab.recurrence import linearize_step
from seqlab.types import Array, Carry, Cell, Params

PILOT_STEPS = 32
ROUNDING = 1e-3  # of a growth within one stretch


class Lyapunov(NamedTuple):
    """What following a frame of tangent vectors along sequences gives."""

    exponents: Array  # [..., K], nats per step, largest first as time goes to infinity
    growth: Array  # [..., blocks, K], log growth in each stretch of `qr_every` steps
    qr_every: int
    spread: Array  # [...], largest ratio of growths within one stretch, in nats


def lyapunov_exponents(
    cell: Cell,
    params: Params,
    xs: Array,
    *,
    carry: Carry | None = None,
    num_exponents: int | None = None,
    transient: int = 0,
    qr_every: int | None = None,
    key: Array | None = None,
) -> Lyapunov:
    """The K largest Lyapunov exponents of carry_t = step(params, carry_{t-1}, x_t), nats per step.

        Q_0 orthonormal,   Q_b R_b = J_{bk} ... J_{(b-1)k+1} Q_{b-1},   R with a positive diagonal
        exponent_i = 1/T sum_b log (R_b)_ii,   J_t = d carry_t / d carry_{t-1}, from the left

    With k = 1 there is a QR decomposition at every step, which takes nearly all of the time. With a
    larger k the columns of the frame lean towards each other in between, and what a small exponent
    is read from is rounded by eps exp(spread), the spread being the largest log ratio of growths
    within k steps. So k is taken such that this stays below 1e-3 (a spread of 9 nats in float32, of
    29 in float64), and the spread is measured: where it was larger, k is halved and all is computed
    again. Whole spectra part fast; in float32 they often allow no k but 1.

    Args:
      cell: any cell.
      params: its parameters.
      xs: inputs, [..., T, D]; zeros for an autonomous net.
      carry: first state, or None.
      num_exponents: K; None for all S, the size of the raveled carry.
      transient: steps to walk first that count for nothing, while states and frame settle.
      qr_every: k; None to choose it, which needs arrays, not tracers: under `jax.jit` name it, and
        see `spread`.
      key: of the first frame; a fixed one if None.

    Returns:
      Lyapunov(exponents, growth, qr_every, spread). The last stretch has what steps are left.

    Raises:
      ValueError: K or the transient out of range, or fewer steps left than k.

    References: Benettin et al., 1980; Engelken, Wolf and Abbott, 2023; Vogt et al., 2022.
    """
    *batch_shape, num_steps, _ = xs.shape
    if carry is None:
        carry = cell.initial_carry(params, tuple(batch_shape))
    size = sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))
    count = size if num_exponents is None else num_exponents
    left = num_steps - transient
    if not 1 <= count <= size:
        raise ValueError(f"num_exponents={count}, expected 1 to S = {size}")
    if not 0 <= transient < num_steps:
        raise ValueError(f"transient={transient}, expected 0 to T - 1 = {num_steps - 1}")
    if qr_every is not None and not 1 <= qr_every <= left:
        raise ValueError(f"qr_every={qr_every}, expected 1 to {left} steps after the transient")
    key = jax.random.key(0) if key is None else key
    dtype = jax.tree.leaves(carry)[0].dtype
    basis = qr(jax.random.normal(key, (size, count), dtype))[0]
    frame = as_tangents(jnp.expand_dims(basis.T, range(1, len(batch_shape) + 1)), carry)

    def walk(every, carry, frame, xs):
        return _walk(cell, params, carry, frame, xs, every)

    if qr_every is not None:
        carry, frame, _ = walk(1, carry, frame, _steps(xs, 0, transient))
        growth = walk(qr_every, carry, frame, _steps(xs, transient, num_steps))[2]
        return _result(growth, left, qr_every)

    jitted = jax.jit(walk, static_argnums=0)
    carry, frame, settling = jitted(1, carry, frame, _steps(xs, 0, transient))
    pilot = settling
    if transient < PILOT_STEPS:
        pilot = jitted(1, carry, frame, _steps(xs, transient, transient + PILOT_STEPS))[2]
    limit = float(np.log(ROUNDING / jnp.finfo(pilot.dtype).eps))
    every = _longest(np.asarray(pilot)[..., -PILOT_STEPS:, :], limit, left)
    while True:
        growth = jitted(every, carry, frame, _steps(xs, transient, num_steps))[2]
        found = _result(growth, left, every)
        if every == 1 or float(jnp.max(found.spread)) <= limit:
            return found
        every = max(1, every // 2)


def kaplan_yorke_dimension(exponents: Array) -> Array:
    """Dimension of the set that the states settle on, from a whole spectrum [..., S], [...].

        D = k + (l_1 + ... + l_k) / |l_{k+1}|,    k the most exponents whose sum is not negative

    A volume of D dimensions neither grows nor shrinks, by linear interpolation between k and k + 1.
    0 where all exponents are negative, S where the sum of all is not. They may come in any order.

    References: Kaplan and Yorke, 1979.
    """
    exponents = -jnp.sort(-exponents, axis=-1)
    sums = jnp.cumsum(exponents, axis=-1)
    size = exponents.shape[-1]
    count = jnp.sum(sums >= 0, axis=-1)  # sums rise and then fall: those not negative come first
    padded = jnp.pad(sums, [(0, 0)] * (sums.ndim - 1) + [(1, 0)])
    total = jnp.take_along_axis(padded, count[..., None], axis=-1)[..., 0]
    following = jnp.minimum(count, size - 1)[..., None]
    next_exponent = jnp.take_along_axis(exponents, following, axis=-1)[..., 0]
    share = total / jnp.where(count < size, jnp.abs(next_exponent), 1.0)
    return count + jnp.where(count < size, share, 0.0)


def _join(frame):
    """From leaves [K, ..., H] to [..., S, K]."""
    return jnp.moveaxis(jnp.concatenate(jax.tree.leaves(frame), axis=-1), 0, -1)


def _steps(xs, start, stop):
    """A stretch of time, time first."""
    return jnp.moveaxis(xs, -2, 0)[start:stop]


def _walk(cell, params, carry, frame, xs, every):
    """(carry, frame, growth [..., blocks, K]) after the steps `xs` [T, ..., D]."""

    def step(state, x):
        carry, frame = state
        carry, tangent = linearize_step(lambda carry: cell.step(params, carry, x), carry)
        return (carry, jax.vmap(tangent)(frame)), None

    def stretch(state, xs):
        carry, frame = jax.lax.scan(step, state, xs)[0]
        basis, upper = qr(_join(frame))
        diagonal = jnp.diagonal(upper, axis1=-2, axis2=-1)
        basis = basis * jnp.where(diagonal < 0, -1.0, 1.0)[..., None, :]
        return (carry, as_tangents(jnp.moveaxis(basis, -1, 0), carry)), jnp.log(jnp.abs(diagonal))

    count, rest = divmod(len(xs), every)
    blocks = xs[: count * every].reshape(count, every, *xs.shape[1:])
    state, growth = jax.lax.scan(stretch, (carry, frame), blocks)
    if rest:
        state, last = stretch(state, xs[count * every :])
        growth = jnp.concatenate([growth, last[None]])
    return *state, jnp.moveaxis(growth, 0, -2)


def _result(growth, num_steps, every):
    widest = jnp.max(growth, axis=-1) - jnp.min(growth, axis=-1)
    return Lyapunov(jnp.sum(growth, axis=-2) / num_steps, growth, every, jnp.max(widest, axis=-1))


def _longest(growth, limit, left):
    """The most steps, up to `left`, whose growths in the pilot lie within `limit`."""
    every = 1
    for longer in range(2, min(left, growth.shape[-2]) + 1):
        count = growth.shape[-2] // longer
        blocks = growth[..., : count * longer, :].reshape(
            *growth.shape[:-2], count, longer, growth.shape[-1]
        )
        sums = blocks.sum(-2)
        if not np.max(sums.max(-1) - sums.min(-1)) <= 0.9 * limit:
            break
        every = longer
    return every
