"""A loop over time from which everything has been taken that does not wait for the step before.

The body of any loop is traced once and cut in three: what depends on the weights alone is computed
once; what depends on the inputs alone (their projections, above all) for many steps in one large
product; only the rest is left to `jax.lax.scan`, or to machine code (`seqlab.fast.native`).
Products of one vector with several matrices become one product. The derivative is cut in the same
way (`seqlab.fast.linear`), so that in its transpose, back-propagation through time, the loop
carries nothing but the adjoint of the carry, and each weight gradient is one large product over
batch and time.

Everything is a jvp rule, from which jax derives the backward pass, forward mode and second
derivatives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from seqlab.fast import native
from seqlab.fast.associative import is_affine, walk_associative
from seqlab.fast.columns import UnsupportedError
from seqlab.fast.program import (
    Body,
    choose,
    from_jaxpr,
    frontier,
    join_biases,
    join_products,
    merge,
    needed,
    primitives,
    reached,
    reads,
    run,
    run_rows,
    split_late,
)
from seqlab.fast.tangent import (
    DEAR,
    Forward,
    Trail,
    has_tangent,
    plan_tangent,
    shifted,
)

UNFIT = {
    "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "while", "scan", "cond", native.NAME,
}  # fmt: skip
CHUNK_BYTES = 2**21  # of what one chunk leaves for its backward pass: it should stay in the cache
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
    is_native: bool | None = False,
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
      is_native: what is left to the loop is machine code of its own (`seqlab.fast.native`), and on
        the way back where it can be; None for where it can be.

    Returns:
      (carry after the last step, carries after each step with leaves [T, ...]); None where the body
      holds what cannot be cut (a loop of its own, an effect, `jax.custom_vjp`), where `shard_map`
      checks what varies, or where the body is not affine.

    Raises:
      UnsupportedError: `is_native`, and the body cannot be; the message says why.
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
    if any(map(_varies, (*weight_leaves, *leaves, *x_leaves))):
        return None
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
    if is_native is not False:
        reason, steps = native.why_not(), None
        if reason is None:
            steps = _trace_loop(cut, fixed, leaves, chunk, reverse)
            reason = steps.text if isinstance(steps.text, str) else None
        if is_native and reason is not None:
            raise UnsupportedError(reason)
        is_native = steps is not None and reason is None and (is_native or steps.is_worth_it)
    pieces = [Piece(cut, tuple(time_axes), reverse, remat, is_native, 0, whole, chunk)]
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
    if closed.effects or UNFIT & set(primitives(closed.jaxpr)):
        return None
    program = from_jaxpr(closed)
    count = len(closed.consts) + num_weights
    weights = program.inputs[:count]
    carry, inputs = program.inputs[count : count + num_carry], program.inputs[count + num_carry :]
    waiting = reached(program.ops, carry)
    moving = reached(program.ops, inputs) | waiting
    loop, _ = frontier(program.ops, waiting, program.outputs)
    is_fixed = {value for each in program.ops for value in each.outputs} - moving | set(weights)
    loop, sides = join_products(loop, is_fixed)
    loop = needed(loop, program.outputs)
    read = reads(loop, program.outputs)
    inner = {value for each in loop for value in each.outputs} | set(carry)
    handed = [value for value in read if value not in inner and value in moving]
    fixed = [value for value in read if value not in inner and value not in moving]
    early, _ = frontier(program.ops, moving - waiting, handed)
    early, wide = join_products(needed(early, handed), is_fixed)
    early, long = join_biases(early, is_fixed, handed)
    early, handed, splits = split_late(needed(early, handed), handed)
    loop = [*splits, *loop]
    sides += [*wide, *long]
    made = {value for each in early for value in each.outputs} | set(inputs)
    fixed += [value for value in reads(early) if value not in made and value not in fixed]
    once = [each for each in program.ops if moving.isdisjoint(each.outputs)] + sides
    cut = Body(weights, carry, inputs, once, early, fixed, handed, loop, program.outputs)
    # A derivative of its own may give values and tangents by one operation, which cannot be parted.
    is_plain = not any(each.name.startswith("custom") for each in program.ops)
    return cut if is_plain or has_tangent(cut) else None


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
        if each.name in DEAR and each.name != "dot_general"
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
    is_native: bool  # the loop over steps is machine code of its own
    start: int
    stop: int
    length: int  # of a chunk

    @property
    def count(self) -> int:
        """How many chunks."""
        return (self.stop - self.start) // self.length


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _walk_piece(piece: Piece, fixed, carry, xs):
    """(last carry, carries [steps, ...]) of a stretch of time."""
    cut = piece.cut
    plain = Forward(cut.fixed, cut.carry, cut.handed, cut.loop, cut.outputs, [])
    last, trail = _walk_chunks(piece, plain, [False] * len(xs), fixed, carry, xs)
    return last, _joined(trail.carries)


@partial(_walk_piece.defjvp, symbolic_zeros=True)
def _walk_piece_jvp(piece, primals, tangents):
    fixed, carry, xs = primals
    d_fixed, d_carry, d_xs = tangents
    # Data has no tangent: it is read where it lies. What has one is laid out by time, once.
    laid_out = [_moves(d) for d in d_xs]
    moves = [_moves(d) for d in d_fixed]
    plan = plan_tangent(piece.cut, moves, laid_out, is_native=piece.is_native)
    is_native = piece.is_native and plan.is_native(piece.length, piece.reverse)
    if piece.is_native and not is_native:
        plan = plan_tangent(piece.cut, moves, laid_out)
    forward = plan.forward._replace(kept=[]) if piece.remat else plan.forward
    last, trail = _walk_chunks(piece, forward, laid_out, fixed, carry, xs)
    d_carry = [
        d if _moves(d) else jnp.zeros_like(leaf)
        for leaf, d, moves in zip(carry, d_carry, plan.moves_carry, strict=True)
        if moves
    ]
    d_last, d_carries = _walk_tangents(
        piece._replace(is_native=is_native),
        plan,
        laid_out,
        fixed,
        carry,
        xs,
        trail,
        choose(d_fixed, plan.moves),
        d_carry,
        d_xs,
    )
    carries = _joined(trail.carries)
    return (last, carries), (
        merge(_float0(last), d_last, plan.moves_carry),
        merge(_float0(carries), _joined(d_carries), plan.moves_carry),
    )


def _walk_chunks(piece, forward, laid_out, fixed, carry, xs):
    """(last carry, trail by chunk): a loop over chunks, and in each the loop over its steps."""
    whole = _unless(laid_out, xs)

    def turn(carry, part):
        inputs = _read(piece, whole, *part)
        known = dict(zip(piece.cut.fixed, fixed, strict=True))
        handed = run_rows(piece.cut.early, known, inputs, piece.cut.handed)
        last, carries, saved = _loop(piece, forward, fixed, carry, handed)
        return last, Trail(carry if piece.remat else [], carries, saved)

    return _over_chunks(piece, turn, carry, _by_chunk(piece, laid_out, xs))


def _walk_tangents(piece, plan, laid_out, fixed, carry, xs, trail, d_fixed, d_carry, d_xs):
    """The same for tangents: (of the last carry, of the carries by chunk).

    In each chunk all that does not wait for the loop is computed from the trail, and so it is in
    the transpose: nothing but the trail is kept in between. With `remat` not even that, but for
    the first carry of each chunk.
    """
    turned = [fixed[index].T for index in plan.turned]  # here, once for all chunks
    if piece.remat:
        trail = trail._replace(carries=[], saved=[])
    else:
        end = 0 if piece.reverse else -1
        ends = [leaf[:, end] for leaf in trail.carries]
        first = [shifted(*both, piece.reverse) for both in zip(carry, ends, strict=True)]
        trail = trail._replace(first=first)

    @partial(jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)
    def walk_chunk(fixed, turned, whole, d_fixed, d_carry, part, trail, d_rows):
        inputs = _read(piece, whole, *part)

        def early(moving, rows):
            known = dict(zip(piece.cut.fixed, merge(fixed, moving, plan.moves), strict=True))
            rows = dict(zip(inputs, merge(inputs.values(), rows, laid_out), strict=True))
            return run_rows(piece.cut.early, known, rows, piece.cut.handed)

        at = (choose(fixed, plan.moves), choose(inputs.values(), laid_out))
        handed, d_handed = jax.jvp(early, at, (d_fixed, choose(d_rows, laid_out)))
        if piece.remat:
            _, *found = _loop(piece, plan.forward, fixed, trail.first, handed)
            trail = Trail(trail.first, *found)
        factors = plan.factors(
            trail,
            fixed,
            handed,
            turned,
            d_fixed,
            choose(d_handed, plan.moves_handed),
            piece.reverse,
        )

        names = list(factors.same)

        def step(same, d_carry, row):
            d_carry = plan.step(dict(zip(names, same, strict=True)), d_carry, row)
            return d_carry, d_carry

        return _over_steps(piece, step, list(factors.same.values()), d_carry, factors.rows)

    same = (fixed, turned, _unless(laid_out, xs), d_fixed)
    parts = (_by_chunk(piece, laid_out, xs), trail, _by_chunk(piece, laid_out, d_xs)[1])
    return _over_chunks(
        piece, lambda d_carry, part: walk_chunk(*same, d_carry, *part), d_carry, parts
    )


def _loop(piece, forward, fixed, carry, handed):
    """The loop over the steps of a chunk: (last carry, carries, what it keeps)."""
    found = [*forward.outputs, *forward.kept]
    used = set(reads(forward.ops, found))
    fixed = {v: leaf for v, leaf in zip(forward.fixed, fixed, strict=True) if v in used}

    def step(same, carry, row):
        known = dict(zip(fixed, same, strict=True))
        known |= zip(forward.carry, carry, strict=True)
        known |= zip(forward.handed, row, strict=True)
        after = run(forward.ops, known, found)
        return after[: len(carry)], after

    last, emitted = _over_steps(piece, step, list(fixed.values()), carry, handed)
    return last, emitted[: len(carry)], emitted[len(carry) :]


def _over_steps(piece, step, same, carry, rows):
    """(last carry, what each step emits): machine code of its own, or `jax.lax.scan`."""
    options = {"length": piece.length, "reverse": piece.reverse}
    with jax.named_scope("steps"):
        if piece.is_native:
            return native.walk_steps(step, same, carry, rows, **options)
        return jax.lax.scan(partial(step, same), carry, rows, **options)


def _trace_loop(cut, fixed, carry, length, reverse) -> native.Steps:
    """What is left to the loop in the steps of a chunk."""
    used = set(reads(cut.loop, cut.outputs))
    same = {v: leaf for v, leaf in zip(cut.fixed, fixed, strict=True) if v in used}

    def step(fixed, carry, row):
        known = dict(zip(same, fixed, strict=True)) | dict(zip(cut.carry, carry, strict=True))
        after = run(cut.loop, known | dict(zip(cut.handed, row, strict=True)), cut.outputs)
        return after, after

    fixed = list(same.values())
    return native.trace_steps(step, fixed, carry, cut.handed, length=length, reverse=reverse)[0]


def _over_chunks(piece, turn, carry, parts):
    """`jax.lax.scan`; a single chunk is no loop."""
    if piece.count > 1:
        return jax.lax.scan(turn, carry, parts, reverse=piece.reverse)
    carry, found = turn(carry, jax.tree.map(lambda leaf: leaf[0], parts))
    return carry, jax.tree.map(lambda leaf: leaf[None], found)


def _by_chunk(piece, laid_out, xs):
    """(numbers of the chunks, inputs [chunks, steps, ...]); None for what is not laid out."""

    def rows(leaf, axis):
        leaf = jnp.moveaxis(leaf, axis, 0)[piece.start : piece.stop]
        return leaf.reshape(piece.count, piece.length, *leaf.shape[1:])

    found = [
        rows(leaf, axis) if yes else None
        for leaf, axis, yes in zip(xs, piece.axes, laid_out, strict=True)
    ]
    return jnp.arange(piece.count), found


def _unless(laid_out, xs):
    return [None if yes else leaf for leaf, yes in zip(xs, laid_out, strict=True)]


def _read(piece, whole, index, rows):
    """The inputs of a chunk, each [steps, ...]: laid out before, or read where they lie."""
    found = {}
    for value, row, leaf, axis in zip(piece.cut.inputs, rows, whole, piece.axes, strict=True):
        if leaf is not None:
            first = piece.start + index * piece.length
            row = jnp.moveaxis(
                jax.lax.dynamic_slice_in_dim(leaf, first, piece.length, axis), axis, 0
            )
        found[value] = row
    return found


def _joined(leaves):
    """From [chunks, steps, ...] to [chunks * steps, ...]."""
    return [leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves]


def _varies(leaf) -> bool:
    """Whether it is inside a `jax.shard_map` that tells apart what varies over devices."""
    kind = jax.typeof(leaf)
    axes = getattr(kind, "mat", kind)  # of jax 0.10 and of those before and after it
    return bool(getattr(axes, "varying", None) or getattr(axes, "vma", None))


def _moves(tangent) -> bool:
    return not isinstance(tangent, SymbolicZero) and tangent.dtype != jax.dtypes.float0


def _float0(leaves):
    """Tangents of what has none."""
    return [np.zeros(leaf.shape, jax.dtypes.float0) for leaf in leaves]
