"""What the dynamics alone can carry: step Jacobians, their products, whole spectra over lag."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from seqlab.recurrence import unroll
from seqlab.types import Array, Carry, Cell, Params


def step_jacobians(
    cell: Cell, params: Params, xs: Array, *, carry: Carry | None = None, mask: Array | None = None
) -> Array:
    """J_t = d carry_t / d carry_{t-1} along each sequence, [..., T, S, S].

    S is the raveled carry: leaf after leaf in the order of its fields (h, then c, for an LSTM), H
    each. Rows are outputs, columns inputs. At a masked step J is the identity.

    Args:
      cell: any cell.
      params: its parameters.
      xs: inputs, [..., T, D].
      carry: first state, or None.
      mask: [..., T] bool, True where real, or None.
    """

    def jacobian(flat, unravel, x):
        return jax.jacrev(lambda flat: ravel_pytree(cell.step(params, unravel(flat), x))[0])(flat)

    return _along(cell, params, xs, carry, mask, jacobian)


def route_jacobians(
    cell: Cell, params: Params, xs: Array, *, carry: Carry | None = None, mask: Array | None = None
) -> dict[str, Array]:
    """The parts of every step Jacobian, by the route through which the carry enters the step.

        J_t = sum over routes r of J_t^r        (at a masked step every part is the identity)

    The arguments are those of `step_jacobians`; the cell has `routes` and `step_by_route`. The
    first route is the direct path: in an LSTM its c-to-c block is diag(f_t).

    Returns:
      dict: route -> [..., T, S, S].

    Raises:
      ValueError: for a cell without routes.
    """
    if not getattr(cell, "routes", ()):
        raise ValueError(f"{cell}: no routes to tell apart; write `routes` and `step_by_route`")

    def part(route):
        def jacobian(flat, unravel, x):
            def step(own):
                reads = dict.fromkeys(cell.routes, unravel(flat)) | {route: unravel(own)}
                return ravel_pytree(cell.step_by_route(params, reads, x))[0]

            return jax.jacrev(step)(flat)

        return jacobian

    return {route: _along(cell, params, xs, carry, mask, part(route)) for route in cell.routes}


def jacobian_products(jacobians: Array) -> tuple[Array, Array]:
    """d carry_T / d carry_t for t = 0 ... T-1, as matrix and log scale, which cannot overflow.

        P_t = J_T J_{T-1} ... J_{t+1} = exp(log_scales[..., t]) * products[..., t, :, :]

    The latest factor stands on the left; lag T - t. The largest entry of each `products` matrix is
    1 (0 where the product is exactly zero, with a scale of -inf).

    Args:
      jacobians: [..., T, S, S], from `step_jacobians`.

    Returns:
      (products [..., T, S, S], log_scales [..., T]).
    """
    *batch_shape, _, size, _ = jacobians.shape

    def body(state, jacobian):
        product, log_scale = state
        product = product @ jacobian
        peak = jnp.max(jnp.abs(product), axis=(-2, -1))
        product = product / jnp.where(peak > 0, peak, 1.0)[..., None, None]
        log_scale = log_scale + jnp.log(peak)
        return (product, log_scale), (product, log_scale)

    identity = jnp.broadcast_to(jnp.eye(size, dtype=jacobians.dtype), (*batch_shape, size, size))
    start = (identity, jnp.zeros(batch_shape, jacobians.dtype))
    _, (products, log_scales) = jax.lax.scan(
        body, start, jnp.moveaxis(jacobians, -3, 0), reverse=True
    )
    return jnp.moveaxis(products, 0, -3), jnp.moveaxis(log_scales, 0, -1)


def log_jacobian_norms(jacobians: Array, *, norm: str = "operator") -> Array:
    """Natural log of the norm of d carry_T / d carry_t for t = 0 ... T-1, [..., T].

    Args:
      jacobians: [..., T, S, S], from `step_jacobians`.
      norm: "operator", the largest singular value, or "frobenius", the root mean square of all
        singular values, ||P||_F / sqrt(S).

    Raises:
      ValueError: for another norm.
    """
    if norm not in ("operator", "frobenius"):
        raise ValueError(f"norm={norm!r}, expected 'operator' or 'frobenius'")
    products, log_scales = jacobian_products(jacobians)
    if norm == "operator":
        return log_scales + jnp.log(jnp.linalg.norm(products, ord=2, axis=(-2, -1)))
    return log_scales + 0.5 * jnp.log(
        jnp.mean(jnp.square(products), axis=(-2, -1)) * products.shape[-1]
    )


def log_singular_values(jacobians: Array, lags: Sequence[int] | None = None) -> Array:
    """Logs of all singular values of d carry_T / d carry_{T-lag}, largest first, [..., L, S].

    A product of T matrices has singular values that part exponentially fast; in the plain product
    every one below 1e-16 of the largest (1e-7 in float32) is rounding noise. Here the product is
    kept as U diag(d) V with U orthogonal, log d, and V well conditioned, by one QR decomposition a
    step; the singular values of diag(d) V then come from one-sided Jacobi rotations whose columns
    carry their scales in logs. So the smallest is as sharp as the largest, over any range.

    Args:
      jacobians: [..., T, S, S], from `step_jacobians`.
      lags: the lags wanted, each from 1 to T; all of them, 1 ... T, if None.

    Raises:
      ValueError: for a lag outside 1 ... T.

    References: Demmel and Veselic, 1992 (one-sided Jacobi is relatively accurate for scaled
    columns); Loh et al., 1992 (U D V factors of long products); Newman, 1986 (spectra of random
    products).
    """
    *batch_shape, num_steps, size, _ = jacobians.shape
    lags = range(1, num_steps + 1) if lags is None else lags
    for lag in lags:
        if not 1 <= lag <= num_steps:
            raise ValueError(f"lag {lag}, expected 1 to T = {num_steps}")
    index = np.asarray(lags) - 1

    def one(jacobians):
        _, factors = jax.lax.scan(
            _grow_factors, _unit_factors(size, jacobians.dtype), jacobians[::-1]
        )
        log_scales, rows = (leaf[index] for leaf in factors)
        return jax.lax.map(
            lambda pair: _log_singular_values_of_scaled_rows(*pair), (log_scales, rows)
        )

    flat = jacobians.reshape(-1, num_steps, size, size)
    return jax.vmap(one)(flat).reshape(*batch_shape, len(index), size)


def _along(cell, params, xs, carry, mask, jacobian):
    """`jacobian(raveled carry before the step, its unravel, x)` at every step, [..., T, S, S]."""
    *batch_shape, num_steps, num_features = xs.shape
    if carry is None:
        carry = cell.initial_carry(params, tuple(batch_shape))
    carries = unroll(cell, params, xs, carry=carry, mask=mask).carries
    time = len(batch_shape)
    before = jax.tree.map(
        lambda first, leaf: jnp.concatenate(
            [jnp.expand_dims(first, time), jnp.delete(leaf, num_steps - 1, axis=time)], axis=time
        ),
        carry,
        carries,
    )
    if mask is not None:
        xs = jnp.where(mask[..., None], xs, 0.0)
    num_flat = int(np.prod(batch_shape, dtype=int)) * num_steps
    rows = jax.tree.map(lambda leaf: leaf.reshape(num_flat, *leaf.shape[time + 1 :]), before)

    def at(carry, x):
        flat, unravel = ravel_pytree(carry)
        return jacobian(flat, unravel, x)

    found = jax.vmap(at)(rows, xs.reshape(num_flat, num_features))
    found = found.reshape(*batch_shape, num_steps, *found.shape[1:])
    if mask is None:
        return found
    return jnp.where(mask[..., None, None], found, jnp.eye(found.shape[-1], dtype=found.dtype))


def _unit_factors(size, dtype):
    identity = jnp.eye(size, dtype=dtype)
    return identity, jnp.zeros(size, dtype), identity


def _grow_factors(factors, jacobian):
    """From P^T = U diag(exp(log_d)) V to (P J)^T = J^T P^T, in the same form."""
    basis, log_d, rows = factors
    columns = jacobian.T @ basis
    order = _pivots(columns, log_d)
    basis, upper = jnp.linalg.qr(columns[:, order])
    log_d, rows = log_d[order], rows[order]
    diagonal = jnp.abs(jnp.diagonal(upper))
    alive = diagonal > 0
    # Row i of R diag(d) divided by |R_ii| d_i: the scales meet only as ratios, and only on and
    # above the diagonal, where they are at most about 1.
    gap = log_d[None, :] - log_d[:, None]
    is_used = jnp.isfinite(gap) & jnp.triu(jnp.ones_like(gap, dtype=bool))
    ratio = jnp.exp(jnp.where(is_used, gap, 0.0))
    unit = jnp.where(alive[:, None], jnp.triu(upper) * ratio, 0.0)
    unit = unit / jnp.where(alive, diagonal, 1.0)[:, None]
    new = basis, log_d + jnp.log(diagonal), unit @ rows
    return new, new[1:]


def _pivots(columns, log_scales):
    """The order in which QR with column pivoting takes `columns` times exp(log_scales), [S].

    Each time the column with the most left outside the span of those before it; this is what keeps
    V well conditioned.
    """
    size = columns.shape[1]

    def choose(rank, state):
        left, order, is_free = state
        length = jnp.linalg.norm(left, axis=0)
        best = jnp.argmax(jnp.where(is_free, jnp.log(length) + log_scales, -jnp.inf))
        best = jnp.where(is_free[best], best, jnp.argmax(is_free))  # when all that is left is zero
        unit = left[:, best] / jnp.where(length[best] > 0, length[best], 1.0)
        left = left - jnp.outer(unit, unit @ left)
        return left, order.at[rank].set(best), is_free.at[best].set(False)

    start = columns, jnp.zeros(size, int), jnp.ones(size, bool)
    return jax.lax.fori_loop(0, size, choose, start)[1]


def _log_singular_values_of_scaled_rows(log_scales, rows):
    """Logs of the singular values of diag(exp(log_scales)) rows, largest first, [S]."""
    size = rows.shape[0]
    if size == 1:
        return log_scales + jnp.log(jnp.abs(rows[:, 0]))
    rounds = jnp.asarray(_round_robin(size))
    tolerance = jnp.finfo(rows.dtype).eps * size

    def normalise(vectors, logs):
        length = jnp.linalg.norm(vectors, axis=-1)
        safe = jnp.where(length > 0, length, 1.0)
        return vectors / safe[:, None], logs + jnp.log(length)

    def rotate(state, pairs):
        vectors, logs, worst = state
        left, right = pairs[:, 0], pairs[:, 1]
        is_sorted = logs[left] >= logs[right]
        big, small = jnp.where(is_sorted, left, right), jnp.where(is_sorted, right, left)
        u, v = vectors[big], vectors[small]
        gap = logs[small] - logs[big]
        ratio = jnp.where(jnp.isfinite(gap), jnp.exp(gap), 0.0)
        cosine = jnp.sum(u * v, axis=-1)
        # The rotation that makes the two orthogonal has tangent ratio * tau.
        spread = 1.0 - jnp.square(ratio)
        root = spread + jnp.sqrt(jnp.square(spread) + 4.0 * jnp.square(ratio * cosine))
        tau = jnp.where(root > 0, -2.0 * cosine / jnp.where(root > 0, root, 1.0), 0.0)
        shrink = 1.0 / jnp.sqrt(1.0 + jnp.square(ratio * tau))
        new_u = shrink[:, None] * (u - (jnp.square(ratio) * tau)[:, None] * v)
        new_v = shrink[:, None] * (v + tau[:, None] * u)
        new_u, log_u = normalise(new_u, logs[big])
        new_v, log_v = normalise(new_v, logs[small])
        vectors = vectors.at[big].set(new_u).at[small].set(new_v)
        logs = logs.at[big].set(log_u).at[small].set(log_v)
        return (vectors, logs, jnp.maximum(worst, jnp.max(jnp.abs(cosine)))), None

    def sweep(state):
        vectors, logs, _, count = state
        start = (vectors, logs, jnp.zeros((), rows.dtype))
        (vectors, logs, worst), _ = jax.lax.scan(rotate, start, rounds)
        return vectors, logs, worst, count + 1

    def unfinished(state):
        return (state[2] > tolerance) & (state[3] < 40)

    start = (*normalise(rows, log_scales), jnp.ones((), rows.dtype), 0)
    _, logs, _, _ = jax.lax.while_loop(unfinished, sweep, start)
    return -jnp.sort(-logs)


def _round_robin(size):
    """Every pair once, in rounds of disjoint pairs, [rounds, pairs, 2]; one sits out if odd."""
    players = list(range(size)) + ([None] if size % 2 else [])
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append([pair for pair in pairs if None not in pair])
        players = [players[0], players[-1], *players[1:-1]]
    return np.asarray(rounds)
