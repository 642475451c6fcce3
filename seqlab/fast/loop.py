"""A loop over time from which everything has been taken that does not wait for the step before.

The body of any loop is traced once and cut in three: what depends on the weights alone is computed
once; what depends on the inputs alone (their projections, above all) for many steps in one large
product; only the rest is left to `jax.lax.scan`. Products of one vector with several matrices
become one product. The derivative is cut in the same way (`seqlab.fast.linear`), so that in its
transpose, back-propagation through time, the loop carries nothing but the adjoint of the carry, and
each weight gradient is one large product over batch and time.

Everything is a jvp rule, from which jax derives the backward pass, forward mode and second
derivatives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from seqlab.fast.associative import is_affine, walk_associative
from seqlab.fast.linear import rearrange
from seqlab.fast.program import (
    Body,
    Value,
    from_jaxpr,
    frontier,
    join_products,
    needed,
    reached,
    run,
    run_rows,
)

UNFIT = {"custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "while", "scan", "cond"}
TRANSCENDENTAL = {
    "tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "erf", "erfc", "erf_inv", "sin",
    "cos", "tan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "pow", "cbrt", "sqrt",
    "rsqrt", "dot_general",
}  # fmt: skip
CHUNK_BYTES = 2**21  # of what one chunk leaves for its backward pass: it should stay in the cache
KEPT = "kept by seqlab.fast"
KEEP = jax.checkpoint_policies.save_only_these_names(KEPT)
SHORTEST, LONGEST = 5, 25  # steps of a chunk


def walk(
    body: Callable[[Any, Any, Any], Any],
    weights: Any,
    carry: Any,
    xs: Any,
    *,
    axes: Any = None,
    reverse: bool = False,
    chunk: int | None = None,
    remat: bool = False,
    is_parallel: bool = False,
) -> tuple[Any, Any] | None:
    """`jax.lax.scan` of carry_t = body(weights, carry_{t-1}, xs_t), faster and to differentiate.

    Args:
      body: pure; keeps the structure, shapes and dtypes of the carry.
      weights: what is the same at every step.
      carry: before the first step.
      xs: leaves with an axis of T steps.
      axes: which axis that is, leaf by leaf; None where it is the first of all.
      reverse: from T-1 down to 0.
      chunk: steps of which inputs are projected and weight gradients are formed at once; None for a
        number of steps whose values fit in the cache.
      remat: keep only the carries between chunks for the backward pass and compute the rest again.
      is_parallel: by `jax.lax.associative_scan`, for a body that is affine in each unit of the
        carry (`seqlab.fast.associative`).

    Returns:
      (carry after the last step, carries after each step with leaves [T, ...]); None where the body
      holds what cannot be cut (a loop of its own, or `jax.custom_vjp`), or is not affine.
    """
    leaves, tree = jax.tree.flatten(carry)
    weight_leaves, weight_tree = jax.tree.flatten(weights)
    x_leaves, x_tree = jax.tree.flatten(xs)
    time_axes = [0] * len(x_leaves) if axes is None else jax.tree.leaves(axes)
    num_steps = x_leaves[0].shape[time_axes[0]]

    def flat(weight_leaves, leaves, x_leaves):
        after = body(
            jax.tree.unflatten(weight_tree, weight_leaves),
            jax.tree.unflatten(tree, leaves),
            jax.tree.unflatten(x_tree, x_leaves),
        )
        return jax.tree.leaves(after)

    row = [
        jax.ShapeDtypeStruct((*leaf.shape[:axis], *leaf.shape[axis + 1 :]), leaf.dtype)
        for leaf, axis in zip(x_leaves, time_axes, strict=True)
    ]
    closed = jax.make_jaxpr(flat)(weight_leaves, leaves, row)
    cut = cut_body(closed, len(weight_leaves), len(leaves))
    if cut is None:
        return None
    all_weights = [*closed.consts, *weight_leaves]
    fixed = run(cut.once, dict(zip(cut.weights, all_weights, strict=True)), cut.fixed)
    if is_parallel:
        if not is_affine(cut):
            return None
        rows = [jnp.moveaxis(*leaf_axis, 0) for leaf_axis in zip(x_leaves, time_axes, strict=True)]
        leaves, trail = walk_associative(cut, fixed, leaves, rows, reverse=reverse)
        return jax.tree.unflatten(tree, leaves), jax.tree.unflatten(tree, trail)
    if chunk is None:
        chunk = _chunk_length(cut, num_steps)

    chunk = min(chunk, num_steps)
    whole = num_steps // chunk * chunk
    pieces = [Piece(cut, tuple(time_axes), reverse, remat, 0, whole, chunk)]
    if whole < num_steps:
        pieces.append(pieces[0]._replace(start=whole, stop=num_steps, length=num_steps - whole))
    trails: dict[int, list[Any]] = {}
    for piece in pieces[::-1] if reverse else pieces:
        leaves, trails[piece.start] = _walk_piece(piece, fixed, leaves, x_leaves)
    in_order = [trails[piece.start] for piece in pieces]
    trail = in_order[0]
    if len(in_order) > 1:
        trail = [jnp.concatenate(parts) for parts in zip(*in_order, strict=True)]
    return jax.tree.unflatten(tree, leaves), jax.tree.unflatten(tree, trail)


def cut_body(closed, num_weights: int, num_carry: int) -> Body | None:
    """A traced body, cut apart; None where it cannot be."""
    program = from_jaxpr(closed)
    if any(each.name in UNFIT for each in program.ops):
        return None
    count = len(closed.consts) + num_weights
    weights = program.inputs[:count]
    carry, inputs = program.inputs[count : count + num_carry], program.inputs[count + num_carry :]
    waiting = reached(program.ops, carry)
    moving = reached(program.ops, inputs) | waiting
    loop, handed = frontier(program.ops, waiting, program.outputs)
    is_fixed = {value for each in program.ops for value in each.outputs} - moving | set(weights)
    loop, sides = join_products(loop, is_fixed)
    loop = needed(loop, program.outputs)
    reads = _reads(loop, program.outputs)
    inner = {value for each in loop for value in each.outputs} | set(carry)
    handed = [value for value in reads if value not in inner and value in moving]
    fixed = [value for value in reads if value not in inner and value not in moving]
    early, _ = frontier(program.ops, moving - waiting, handed)
    early, early_sides = join_products(needed(early, handed), is_fixed)
    sides += early_sides
    made = {value for each in early for value in each.outputs} | set(inputs)
    fixed += [value for value in _reads(early) if value not in made and value not in fixed]
    once = [each for each in program.ops if moving.isdisjoint(each.outputs)] + sides
    return Body(weights, carry, inputs, once, early, fixed, handed, loop, program.outputs)


def _reads(ops, outputs=()):
    """The values that operations and outputs read, each once, in order."""
    atoms = [atom for each in ops for atom in each.inputs] + list(outputs)
    return list(dict.fromkeys(atom for atom in atoms if isinstance(atom, Value)))


def _chunk_length(cut: Body, num_steps: int) -> int:
    """Steps of a chunk: few enough for the cache, enough to outweigh the sum of weight gradients.

    A divisor of the number of steps where there is one near: a rest is compiled by itself.
    """

    def size(values):
        return sum(value.size * value.dtype.itemsize for value in values)

    kept = [
        value
        for each in cut.loop
        for value in each.outputs
        if each.name in TRANSCENDENTAL and each.name != "dot_general"
    ]
    step = max(1, size(cut.handed) + size(kept))
    fewest = max(SHORTEST, size(cut.fixed) // step)
    most = max(fewest + fewest // 2, min(LONGEST, CHUNK_BYTES // step))
    if num_steps <= most or num_steps * step <= 2 * CHUNK_BYTES:
        return num_steps
    fewest = max(SHORTEST, 2 * fewest // 3)
    return max(range(fewest, most + 1), key=lambda n: (num_steps % n == 0, -(num_steps % n), n))


class Piece(NamedTuple):
    """A stretch of time that is walked in chunks of one length."""

    cut: Body
    axes: tuple[int, ...]  # of time, leaf by leaf of the inputs
    reverse: bool
    remat: bool
    start: int
    stop: int
    length: int  # of a chunk


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _walk_piece(piece: Piece, fixed, carry, xs):
    """(last carry, carries [steps, ...]) of a stretch of time."""
    return _walk_chunks(piece, [False] * len(xs), fixed, carry, xs)


@partial(_walk_piece.defjvp, symbolic_zeros=True)
def _walk_piece_jvp(piece, primals, tangents):
    # Data has no tangent: it is read where it lies. What has one is laid out by time, once.
    flat, tree = jax.tree.flatten(primals)
    d_flat = jax.tree.leaves(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    moves = [_moves(d) for d in d_flat]
    moving = [leaf for leaf, yes in zip(flat, moves, strict=True) if yes]
    d_moving = [d for d, yes in zip(d_flat, moves, strict=True) if yes]
    laid_out = moves[len(moves) - len(primals[2]) :]

    def walk(*moving):
        return _walk_chunks(piece, laid_out, *jax.tree.unflatten(tree, _merge(flat, moving, moves)))

    return jax.jvp(walk, moving, d_moving)


def _walk_chunks(piece, laid_out, fixed, carry, xs):
    """A loop over chunks. Of the inputs, those `laid_out` are what it scans over."""
    start, stop, length = piece.start, piece.stop, piece.length
    count = (stop - start) // length
    rows = [
        jnp.moveaxis(leaf, axis, 0)[start:stop].reshape(
            count, length, *leaf.shape[:axis], *leaf.shape[axis + 1 :]
        )
        if yes
        else None
        for leaf, axis, yes in zip(xs, piece.axes, laid_out, strict=True)
    ]
    whole = [None if yes else leaf for leaf, yes in zip(xs, laid_out, strict=True)]

    def walk_chunk(fixed, whole, carry, index, rows):
        known = dict(zip(piece.cut.fixed, fixed, strict=True))
        part = {}
        for value, row, leaf, axis in zip(piece.cut.inputs, rows, whole, piece.axes, strict=True):
            if leaf is not None:
                first = start + index * length
                found = jax.lax.dynamic_slice_in_dim(leaf, first, length, axis)
                row = jnp.moveaxis(found, axis, 0)
            part[value] = row
        handed = run_rows(piece.cut.early, known, part, piece.cut.handed)
        return _loop(piece.cut, piece.reverse, length, fixed, carry, handed)

    # Factors of the backward pass are computed there, of what the loop keeps.
    policy = jax.checkpoint_policies.nothing_saveable if piece.remat else KEEP
    again: Any = jax.checkpoint(walk_chunk, prevent_cse=False, policy=policy)
    turn = partial(again, fixed, whole)
    if count == 1:
        return turn(carry, 0, [None if row is None else row[0] for row in rows])
    carry, carries = jax.lax.scan(
        lambda carry, part: turn(carry, *part),
        carry,
        (jnp.arange(count), rows),
        reverse=piece.reverse,
    )
    return carry, [leaf.reshape(count * length, *leaf.shape[2:]) for leaf in carries]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _loop(cut: Body, reverse: bool, length: int, fixed, carry, handed):
    """The loop itself: (last carry, carries)."""
    carry, carries, _ = _run_loop(cut, reverse, length, fixed, carry, handed, [])
    return carry, carries


def _run_loop(cut, reverse, length, fixed, carry, handed, kept, ops=None, carry_in=None, out=None):
    ops = cut.loop if ops is None else ops
    inputs = (cut.fixed, cut.carry, cut.handed) if carry_in is None else carry_in
    outputs = cut.outputs if out is None else out

    def step(carry, row):
        known = {}
        for values, found in zip(inputs, (fixed, carry, row), strict=True):
            known.update(zip(values, found, strict=True))
        after = run(ops, known, [*outputs, *kept])
        return after[: len(outputs)], (after[: len(outputs)], after[len(outputs) :])

    with jax.named_scope("steps"):
        carry, (carries, saved) = jax.lax.scan(step, carry, handed, length=length, reverse=reverse)
    carries, saved = checkpoint_name((carries, saved), KEPT)
    return carry, carries, saved


@partial(_loop.defjvp, symbolic_zeros=True)
def _loop_jvp(cut, reverse, length, primals, tangents):
    fixed, carry, handed = primals
    d_fixed, d_carry, d_handed = tangents
    moves_fixed = [_moves(d) for d in d_fixed]
    moves_carry = [jnp.issubdtype(c.dtype, jnp.inexact) for c in carry]
    moves_handed = [_moves(d) for d in d_handed]
    d_fixed = [d for d, moves in zip(d_fixed, moves_fixed, strict=True) if moves]
    d_carry = [
        d if _moves(d) else jnp.zeros_like(c)
        for c, d, moves in zip(carry, d_carry, moves_carry, strict=True)
        if moves
    ]
    d_handed = [d for d, moves in zip(d_handed, moves_handed, strict=True) if moves]

    def choose(leaves, moves):
        return [leaf for leaf, yes in zip(leaves, moves, strict=True) if yes]

    def tangent_step(fixed, carry, row, d_fixed, d_carry, d_row):
        def primal(f, c, r):
            known = dict(zip(cut.fixed, _merge(fixed, f, moves_fixed), strict=True))
            known.update(zip(cut.carry, _merge(carry, c, moves_carry), strict=True))
            known.update(zip(cut.handed, _merge(row, r, moves_handed), strict=True))
            after = run(cut.loop, known, cut.outputs)
            return choose(after, moves_carry), after

        moving = (choose(fixed, moves_fixed), choose(carry, moves_carry), choose(row, moves_handed))
        _, d_after, after = jax.jvp(primal, moving, (d_fixed, d_carry, d_row), has_aux=True)
        return after, d_after

    def one_row(leaves):
        return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]

    closed = jax.make_jaxpr(tangent_step)(
        fixed, carry, one_row(handed), d_fixed, d_carry, one_row(d_handed)
    )
    program = from_jaxpr(closed)
    sizes = [
        len(closed.consts),
        len(fixed),
        len(carry),
        len(handed),
        len(d_fixed),
        len(d_carry),
        len(d_handed),
    ]
    consts, v_fixed, v_carry, v_handed, v_dfixed, v_dcarry, v_dhanded = _groups(
        program.inputs, sizes
    )
    v_fixed, fixed = [*consts, *v_fixed], [*closed.consts, *fixed]
    after, d_after = program.outputs[: len(carry)], program.outputs[len(carry) :]
    tangent_values = reached(program.ops, [*v_dfixed, *v_dcarry, *v_dhanded])
    primal_ops = [each for each in program.ops if tangent_values.isdisjoint(each.outputs)]
    tangent_ops = [each for each in program.ops if not tangent_values.isdisjoint(each.outputs)]
    tangent_ops = needed(tangent_ops, d_after)
    sorted_ = rearrange(tangent_ops, {*v_dfixed, *v_dcarry, *v_dhanded}, set(v_dcarry), d_after)

    # What the factors are computed from: carries, and what was dear to compute.
    next_values: list[Value | None] = []
    for atom in after:
        fresh = isinstance(atom, Value) and atom not in next_values
        next_values.append(atom if fresh else None)  # pyright: ignore
    known_next = {value for value in next_values if value is not None} - {*v_carry, *v_handed}
    bulk_outputs = _reads([*sorted_.factors, *sorted_.early, *sorted_.late], sorted_.outputs)
    recomputed, kept = _keep(primal_ops, bulk_outputs, {*v_fixed, *v_carry, *v_handed}, known_next)
    ops = needed(primal_ops, [*after, *kept])
    out_carry, carries, saved = _run_loop(
        cut, reverse, length, fixed, carry, handed, kept, ops, (v_fixed, v_carry, v_handed), after
    )

    before = [_shifted(first, trail, reverse) for first, trail in zip(carry, carries, strict=True)]
    bulk_ops = [*recomputed, *sorted_.factors, *sorted_.early]
    late = needed(sorted_.late, sorted_.outputs)
    late_made = {value for each in late for value in each.outputs}
    # A bias over the batch, a flag over the units: repeated inside the loop.
    late, passed = frontier([*bulk_ops, *late], late_made, sorted_.outputs)
    late_made = {value for each in late for value in each.outputs}
    passed = [v for v in _reads(late, sorted_.outputs) if v not in late_made and v not in v_dcarry]
    same = reached(bulk_ops, [*v_carry, *v_handed, *kept, *known_next, *v_dhanded])
    once = [value for value in passed if value not in same]
    rows = [value for value in passed if value in same]

    known = dict(zip([*v_fixed, *v_dfixed], [*fixed, *d_fixed], strict=True))
    moving = dict(zip([*v_carry, *v_handed, *kept], [*before, *handed, *saved], strict=True))
    moving.update(zip(v_dhanded, d_handed, strict=True))
    moving.update(
        (value, trail)
        for value, trail in zip(next_values, carries, strict=True)
        if value in known_next
    )
    made_rows = run_rows(bulk_ops, known, moving, rows)
    made_once = run(bulk_ops, known, once)

    def tangent(d_carry, row):
        known = dict(zip(once, made_once, strict=True))
        known.update(zip(v_dcarry, d_carry, strict=True))
        known.update(zip(rows, row, strict=True))
        d_after = run(late, known, sorted_.outputs)
        return d_after, d_after

    with jax.named_scope("steps"):
        d_carry, d_carries = jax.lax.scan(
            tangent, d_carry, made_rows, length=length, reverse=reverse
        )
    return (out_carry, carries), (
        _with_float0(d_carry, carry, moves_carry),
        _with_float0(d_carries, carries, moves_carry),
    )


def _moves(tangent) -> bool:
    return not isinstance(tangent, SymbolicZero) and tangent.dtype != jax.dtypes.float0


def _merge(leaves, moving, moves):
    """`leaves`, with those that move taken from `moving`."""
    moving = iter(moving)
    return [next(moving) if yes else leaf for leaf, yes in zip(leaves, moves, strict=True)]


def _with_float0(tangents, primals, moves):
    """Tangents for every leaf; of type float0 where the leaf holds no real numbers."""
    import numpy as np

    zeros = [np.zeros(leaf.shape, jax.dtypes.float0) for leaf in primals]
    return _merge(zeros, tangents, moves)


def _groups(items, sizes):
    items = iter(items)
    return [[next(items) for _ in range(size)] for size in sizes]


def _shifted(first, trail, reverse):
    """The carry before each step, from the first and those after each step."""
    if reverse:
        return jnp.concatenate([trail[1:], first[None]])
    return jnp.concatenate([first[None], trail[:-1]])


def _keep(ops, wanted, given, after):
    """What the loop has to keep so that `wanted` can be computed for all its steps at once.

    Kept are results of matrix products and transcendental functions; what is cheap, and what needs
    one such function of a carry, is computed again.

    Returns:
      (operations to run again, values to keep).
    """
    maker = {value: each for each in ops for value in each.outputs}
    again, kept, seen = set(), [], set()

    def visit(value):
        if value in seen or value in given or value in after or value not in maker:
            return
        seen.add(value)
        each = maker[value]
        inputs = [atom for atom in each.inputs if isinstance(atom, Value)]
        if each.name in TRANSCENDENTAL and not (
            each.name != "dot_general" and all(atom in after for atom in inputs)
        ):
            kept.append(value)
            return
        again.add(id(each))
        for atom in inputs:
            visit(atom)

    for value in wanted:
        visit(value)
    return [each for each in ops if id(each) in again], kept
