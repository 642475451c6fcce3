"""What the dynamics alone can carry: step Jacobians, their products, whole spectra over lag."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from seqlab.linalg import qr
from seqlab.recurrence import linearize_step, unroll, with_routes
from seqlab.types import Array, Carry, Cell, Params


def step_jacobians(
    cell: Cell, params: Params, xs: Array, *, carry: Carry | None = None, mask: Array | None = None
) -> Array:
    """J_t = d carry_t / d carry_{t-1} along each sequence, [..., T, S, S].

    S is the raveled carry: leaf after leaf in the order of its fields (h, then c, for an LSTM), H
    each. Rows are outputs, columns inputs. At a masked step J is the identity.

        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from seqlab import LSTM, step_jacobians
        >>> cell = LSTM(4, forget_gate=1.0, input_gate=0.0)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> J = step_jacobians(cell, params, jnp.ones((7, 3)))
        >>> J.shape, np.array_equal(J[0, 4:, 4:], np.eye(4))  # c is kept
        ((7, 8, 8), True)

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
    routed = with_routes(cell)

    def part(route):
        def jacobian(flat, unravel, x):
            def step(own):
                reads = dict.fromkeys(routed.routes, unravel(flat)) | {route: unravel(own)}
                return ravel_pytree(routed.step_by_route(params, reads, x))[0]

            return jax.jacrev(step)(flat)

        return jacobian

    return {route: _along(cell, params, xs, carry, mask, part(route)) for route in routed.routes}


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


def log_product_norms(
    cell: Cell, params: Params, xs: Array, *, carry: Carry | None = None, mask: Array | None = None
) -> Array:
    """Log root mean square singular value of d carry_T / d carry_t for t = 0 ... T-1, [..., T].

    The values are those of `log_jacobian_norms(step_jacobians(...), norm="frobenius")`, without a
    Jacobian: all S rows of the product walk back through the steps together,

        P_{t-1} = P_t J_t,    P_T = I,    log ||P_t||_F - 1/2 log S,

    by the transposed derivative of the step itself, so that the memory is that of one product and
    the work that of its matrix products. P is rescaled at every step.

    The arguments are those of `step_jacobians`.
    """
    *batch_shape, _, _ = xs.shape
    time = len(batch_shape)
    before, xs = _before(cell, params, xs, carry, mask)
    size = sum(leaf.shape[-1] for leaf in jax.tree.leaves(before))

    def body(state, at):
        rows, scale, log_norm = state
        carry, x, real = at

        def step(carry):
            after = cell.step(params, carry, x)
            if real is None:
                return after
            return jax.tree.map(lambda a, b: jnp.where(real[..., None], a, b), after, carry)

        pull = jax.linear_transpose(linearize_step(step, carry)[1], carry)
        # Scaled here, where it costs nothing: it becomes part of the step's first product.
        rows = jax.tree.map(lambda leaf: leaf * scale[None, ..., None], rows)
        rows = jax.vmap(lambda row: pull(row)[0])(rows)
        square = sum(jnp.sum(jnp.square(leaf), axis=(0, -1)) for leaf in jax.tree.leaves(rows))
        norm = jnp.sqrt(square / size)
        log_norm = log_norm + jnp.log(norm)
        return (rows, 1.0 / jnp.where(norm > 0, norm, 1.0), log_norm), log_norm

    first = jax.tree.map(lambda leaf: jnp.take(leaf, 0, axis=time), before)
    identity = jnp.eye(size, dtype=jax.tree.leaves(first)[0].dtype)
    rows = as_tangents(jnp.expand_dims(identity, range(1, time + 1)), first)
    ones = jnp.ones(batch_shape, jnp.result_type(*jax.tree.leaves(rows)))
    by_time = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time, 0), (before, xs, mask))
    _, norms = jax.lax.scan(body, (rows, ones, jnp.zeros_like(ones)), by_time, reverse=True)
    return jnp.moveaxis(norms, 0, -1)


def log_singular_values(jacobians: Array, lags: Sequence[int] | None = None) -> Array:
    """Logs of all singular values of d carry_T / d carry_{T-lag}, largest first, [..., L, S].

    A product of T matrices has singular values that part exponentially fast; in the plain product
    every one below 1e-16 of the largest (1e-7 in float32) is rounding noise. Here the product is
    kept as U diag(d) V with U orthogonal, log d, and V well conditioned, by one QR decomposition a
    step; the singular values of diag(d) V then come from one-sided Jacobi rotations whose columns
    carry their scales in logs. So the smallest is as sharp as the largest, over any range. Only a
    direction that one step shrinks to rounding noise (8 eps of what it shrinks least) counts as
    lost: -inf, as for an exactly singular Jacobian.

    On a CPU that is busy with other work too, set OPENBLAS_NUM_THREADS=1 (the experiments do the
    like): the threads of a small QR wait for each other.

    Args:
      jacobians: [..., T, S, S], from `step_jacobians`.
      lags: the lags wanted, each from 1 to T; all of them, 1 ... T, if None.

    Raises:
      ValueError: for a lag outside 1 ... T.

    References: Demmel and Veselic, 1992 (one-sided Jacobi is relatively accurate for scaled
    columns); Loh et al., 1989 (U D V factors of long products); Newman, 1986 (spectra of random
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
    return jax.lax.map(one, flat).reshape(*batch_shape, len(index), size)


def as_tangents(rows: Array, carry: Carry) -> Carry:
    """Rows [K, ..., S] of raveled tangents as K carries, leaves [K, *batch_shape, H].

    Axes of length 1 are repeated over the batch of `carry`.
    """
    leaves, tree = jax.tree.flatten(carry)
    borders = np.cumsum([leaf.shape[-1] for leaf in leaves])[:-1]
    parts = jnp.split(rows, borders, axis=-1)
    shapes = [(len(rows), *leaf.shape) for leaf in leaves]
    return jax.tree.unflatten(tree, map(jnp.broadcast_to, parts, shapes))


def states_before(carry: Carry, carries: Carry) -> Carry:
    """The state before each step, leaves [..., T, H], from the first and those after each step."""

    def shift(first, after):
        kept = jax.lax.slice_in_dim(after, 0, after.shape[-2] - 1, axis=-2)
        return jnp.concatenate([first[..., None, :], kept], axis=-2)

    return jax.tree.map(shift, carry, carries)


def _along(cell, params, xs, carry, mask, jacobian):
    """`jacobian(raveled carry before the step, its unravel, x)` at every step, [..., T, S, S]."""
    *batch_shape, num_steps, num_features = xs.shape
    time = len(batch_shape)
    before, xs = _before(cell, params, xs, carry, mask)
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


def _before(cell, params, xs, carry, mask):
    """(the carry before each step, leaves [..., T, H]; the inputs, zero where masked)."""
    *batch_shape, _, _ = xs.shape
    if carry is None:
        carry = cell.initial_carry(params, tuple(batch_shape))
    carries = unroll(cell, params, xs, carry=carry, mask=mask).carries
    before = states_before(carry, carries)
    return before, xs if mask is None else jnp.where(mask[..., None], xs, 0.0)


def _unit_factors(size, dtype):
    identity = jnp.eye(size, dtype=dtype)
    return identity, jnp.zeros(size, dtype), identity


def _grow_factors(factors, jacobian):
    """From P^T = U diag(exp(log_d)) V to (P J)^T = J^T P^T, in the same form."""
    basis, log_d, rows = factors
    columns = jacobian.T @ basis
    order = _pivots(columns, log_d)
    basis, upper = qr(columns[:, order])
    log_d, rows = log_d[order], rows[order]
    diagonal = jnp.abs(jnp.diagonal(upper))
    longest = jnp.max(jnp.linalg.norm(columns, axis=0))
    alive = diagonal > 8 * jnp.finfo(upper.dtype).eps * longest  # else it is rounding noise
    # Row i of R diag(d) divided by |R_ii| d_i: the scales meet only as ratios, and only on and
    # above the diagonal, where they are at most about 1.
    gap = log_d[None, :] - log_d[:, None]
    is_used = jnp.isfinite(gap) & jnp.triu(jnp.ones_like(gap, dtype=bool))
    ratio = jnp.exp(jnp.where(is_used, gap, 0.0))
    unit = jnp.where(alive[:, None], jnp.triu(upper) * ratio, 0.0)
    unit = unit / jnp.where(alive, diagonal, 1.0)[:, None]
    new = basis, log_d + jnp.where(alive, jnp.log(diagonal), -jnp.inf), unit @ rows
    return new, new[1:]


def _pivots(columns, log_scales):
    """An order of `columns` times exp(log_scales), largest first, for QR to take them in, [S].

    By length, and then by what a first QR finds of each outside the span of those before it. That
    is as good as pivoting column by column at keeping V well conditioned (LSTM with S = 128 over
    100 steps: condition 270, by length alone 1e5), and has no inner loop.
    """
    order = jnp.argsort(-(jnp.log(jnp.linalg.norm(columns, axis=0)) + log_scales))
    upper = qr(columns[:, order])[1]
    return order[jnp.argsort(-(jnp.log(jnp.abs(jnp.diagonal(upper))) + log_scales[order]))]


def _log_singular_values_of_scaled_rows(log_scales, rows):
    """Logs of the singular values of diag(exp(log_scales)) rows, largest first, [S].

    One-sided Jacobi: rows are turned in pairs until all are orthogonal; their lengths are then the
    singular values. Each row is held as a unit vector and the log of its length. A round turns
    S / 2 disjoint pairs, and a sweep of S - 1 rounds meets every pair once, as in a tournament.
    """
    size = rows.shape[0]
    if size % 2:  # a row of zeros sits out with whoever meets it
        rows = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
        log_scales = jnp.append(log_scales, -jnp.inf)
    tolerance = jnp.finfo(rows.dtype).eps * size

    def normalise(vectors, logs):
        length = jnp.linalg.norm(vectors, axis=-1)
        safe = jnp.where(length > 0, length, 1.0)
        return vectors / safe[:, None], logs + jnp.log(length)

    def turn(state, _):
        top, bottom, worst = state
        swap = top[1] < bottom[1]
        (u, log_u), (v, log_v) = _exchange(swap, top, bottom)  # u is the longer of the two
        gap = log_v - log_u
        ratio = jnp.where(jnp.isfinite(gap), jnp.exp(gap), 0.0)
        cosine = jnp.sum(u * v, axis=-1)
        # The turn that makes the two orthogonal has tangent ratio * tau.
        spread = 1.0 - jnp.square(ratio)
        root = spread + jnp.sqrt(jnp.square(spread) + 4.0 * jnp.square(ratio * cosine))
        tau = jnp.where(root > 0, -2.0 * cosine / jnp.where(root > 0, root, 1.0), 0.0)
        shrink = 1.0 / jnp.sqrt(1.0 + jnp.square(ratio * tau))
        new_u = shrink[:, None] * (u - (jnp.square(ratio) * tau)[:, None] * v)
        new_v = shrink[:, None] * (v + tau[:, None] * u)
        pair = _exchange(swap, normalise(new_u, log_u), normalise(new_v, log_v))
        return (*_next_round(*pair), jnp.maximum(worst, jnp.max(jnp.abs(cosine)))), None

    def sweep(state):
        top, bottom, _, count = state
        start = (top, bottom, jnp.zeros((), rows.dtype))
        (top, bottom, worst), _ = jax.lax.scan(turn, start, length=len(rows) - 1)
        return top, bottom, worst, count + 1

    def unfinished(state):
        return (state[2] > tolerance) & (state[3] < 40)

    vectors, logs = normalise(rows, log_scales)
    half = len(rows) // 2
    start = (vectors[:half], logs[:half]), (vectors[half:], logs[half:])
    top, bottom, _, _ = jax.lax.while_loop(unfinished, sweep, (*start, jnp.ones((), rows.dtype), 0))
    return -jnp.sort(-jnp.concatenate([top[1], bottom[1]]))[:size]


def _exchange(swap, first, second):
    """Both, with the rows in which `swap` is True exchanged."""

    def pick(a, b):
        return jnp.where(swap.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, second, first), jax.tree.map(pick, first, second)


def _next_round(top, bottom):
    """Who meets whom next: all move on by one seat around the table but the first."""

    def move(top, bottom):
        return (
            jnp.concatenate([top[:1], bottom[:1], top[1:-1]]) if len(top) > 1 else top,
            jnp.concatenate([bottom[1:], top[-1:]]) if len(top) > 1 else bottom,
        )

    moved = jax.tree.map(move, top, bottom)
    return jax.tree.transpose(jax.tree.structure(top), jax.tree.structure((0, 0)), moved)
