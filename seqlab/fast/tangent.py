"""The derivative of a loop's body, laid out once for all chunks of time.

Of a step carry_t = step(carry_{t-1}, ...) the tangent is dcarry_t = A_t dcarry_{t-1} + e_t. What
A_t and e_t are made of is computed for a whole chunk at once, from the carries and from the few
values that the loop has kept because they were dear; the rest is the loop's (`Tangent.step`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqlab.fast import native
from seqlab.fast.linear import Rearranged, rearrange
from seqlab.fast.program import (
    Atom,
    Body,
    Op,
    Value,
    choose,
    from_jaxpr,
    frontier,
    is_product,
    is_real,
    merge,
    needed,
    op,
    reached,
    reads,
    run,
    run_rows,
)

DEAR = {
    "tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "erf", "erfc", "erf_inv", "sin",
    "cos", "tan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "pow", "cbrt", "sqrt",
    "rsqrt", "dot_general",
}  # fmt: skip


class Forward(NamedTuple):
    """One step of the loop: what it reads, runs, hands on and keeps."""

    fixed: list[Value]
    carry: list[Value]
    handed: list[Value]
    ops: list[Op]
    outputs: list[Atom]
    kept: list[Value]


class Trail(NamedTuple):
    """What the loop leaves of a chunk, or of many: leaves [steps, ...] or [chunks, steps, ...]."""

    first: Any  # the carry before each chunk, without the axis of steps
    carries: Any
    saved: Any  # of `Forward.kept`


class Tangent(NamedTuple):
    """The parts of the derivative of a body."""

    moves: list[bool]  # of `Body.fixed`, `Body.carry`, `Body.handed`: which have a tangent
    moves_carry: list[bool]
    moves_handed: list[bool]
    forward: Forward
    known: dict[Value, Any]  # constants of the trace
    after: list[Value | None]  # the carry after a step, where factors are computed of it
    d_fixed: list[Value]
    d_carry: list[Value]
    d_handed: list[Value]
    bulk: list[Op]  # for all steps of a chunk at once
    once: list[Value]  # of `bulk`, read by `late` at every step
    rows: list[Value]  # of `bulk`, read step by step
    is_linear: list[bool]  # which of `rows` are tangents
    turned: dict[int, Value]  # transposes of matrices: by index in `Body.fixed`
    late: list[Op]
    outputs: list[Atom]

    def factors(
        self, trail: Trail, fixed, handed, turned, d_fixed, d_handed, reverse: bool
    ) -> "Factors":
        """All that the loop over tangents reads in one chunk.

        Args:
          trail: of the chunk.
          fixed, handed: the values of `Body.fixed` and `Body.handed`.
          turned: the matrices of `turned`.
          d_fixed, d_handed: tangents of those that move.
          reverse: time runs backwards.
        """
        given = self.forward
        before = [
            shifted(first, after, reverse)
            for first, after in zip(trail.first, trail.carries, strict=True)
        ]
        known = self.known | dict(
            zip([*given.fixed, *self.d_fixed], [*fixed, *d_fixed], strict=True)
        )
        rows = dict(
            zip(
                [*given.carry, *given.handed, *given.kept, *self.d_handed],
                [*before, *handed, *trail.saved, *d_handed],
                strict=True,
            )
        )
        rows |= {v: found for v, found in zip(self.after, trail.carries, strict=True) if v}
        same = dict(zip(self.once, run(self.bulk, known, self.once), strict=True))
        same |= dict(zip(self.turned.values(), turned, strict=True))
        found = run_rows(self.bulk, known, rows, self.rows)
        for k, value in enumerate(self.rows):
            if found[k].ndim == len(value.shape):  # the same at every step
                found[k] = jnp.broadcast_to(found[k], (len(before[0]), *found[k].shape))
        return Factors(self, same, found)

    def step(self, same: dict[Value, Any], d_carry, row):
        """The tangent of the carry after a step, from that before it."""
        known = same | dict(zip([*self.d_carry, *self.rows], [*d_carry, *row], strict=True))
        return run(self.late, known, self.outputs)

    def is_native(self, length: int, reverse: bool) -> bool:
        """Whether both ways, of tangents and back, the loop can be machine code of its own."""

        def step(fixed, carry, row):
            after = self.step(dict(zip(self.once, fixed, strict=True)), carry, row)
            return after, after

        steps, _ = native.trace_steps(
            step, self.once, self.d_carry, self.rows, length=length, reverse=reverse
        )
        if isinstance(steps.text, str):
            return False
        back, _ = native.transposed(steps, self.is_linear, [True] * len(self.d_carry))
        return not isinstance(back.text, str)


class Factors(NamedTuple):
    """Of one chunk: what every step reads, and what each reads, leaves [steps, ...]."""

    tangent: Tangent
    same: dict[Value, Any]
    rows: list[Any]


def has_tangent(cut: Body) -> bool:
    """Whether values and tangents of a step are computed by operations of their own."""
    plan = plan_tangent(cut, [is_real(v) for v in cut.fixed], [is_real(v) for v in cut.inputs])
    made = _made(plan.forward.ops) | {*plan.forward.fixed, *plan.forward.carry}
    made |= {*plan.forward.handed, *plan.known}
    return all(v in made for v in reads(plan.forward.ops, plan.forward.outputs))


def plan_tangent(
    cut: Body, moves: list[bool], moves_inputs: list[bool], *, is_native: bool = False
) -> Tangent:
    """Traces the tangent of one step and sorts its operations.

    Args:
      cut: the body.
      moves: which of `cut.fixed` have a tangent.
      moves_inputs: which of `cut.inputs`.
      is_native: the loop computes its factors itself, in registers, and only the products of
        tangents that do not wait for it are formed before.
    """
    moving = [*choose(cut.fixed, moves), *choose(cut.inputs, moves_inputs)]
    moving = reached(cut.early, moving)
    moves_carry = [is_real(value) for value in cut.carry]
    moves_handed = [value in moving and is_real(value) for value in cut.handed]

    def tangent_step(fixed, carry, row, d_fixed, d_carry, d_row):
        def step(f, c, r):
            known = dict(zip(cut.fixed, merge(fixed, f, moves), strict=True))
            known |= zip(cut.carry, merge(carry, c, moves_carry), strict=True)
            known |= zip(cut.handed, merge(row, r, moves_handed), strict=True)
            after = run(cut.loop, known, cut.outputs)
            return choose(after, moves_carry), after

        at = (choose(fixed, moves), choose(carry, moves_carry), choose(row, moves_handed))
        _, d_after, after = jax.jvp(step, at, (d_fixed, d_carry, d_row), has_aux=True)
        return after, d_after

    primal = (cut.fixed, cut.carry, cut.handed)
    tangents = tuple(map(choose, primal, (moves, moves_carry, moves_handed)))
    shapes = [
        [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in part]
        for part in (*primal, *tangents)
    ]
    closed = jax.make_jaxpr(tangent_step)(*shapes)
    program = from_jaxpr(closed)
    consts, fixed, carry, handed, d_fixed, d_carry, d_handed = _groups(
        program.inputs, [len(closed.consts), *map(len, shapes)]
    )
    after, d_after = program.outputs[: len(carry)], program.outputs[len(carry) :]
    tangent_values = reached(program.ops, [*d_fixed, *d_carry, *d_handed])
    primal_ops = [each for each in program.ops if tangent_values.isdisjoint(each.outputs)]
    tangent_ops = [each for each in program.ops if not tangent_values.isdisjoint(each.outputs)]
    tangent_ops = needed(tangent_ops, d_after)
    if is_native:
        waiting = reached(tangent_ops, d_carry)
        waits = [not waiting.isdisjoint(each.outputs) for each in tangent_ops]
        late = [each for each, yes in zip(tangent_ops, waits, strict=True) if yes]
        early = [each for each, yes in zip(tangent_ops, waits, strict=True) if not yes]
        late, spreads = _spread(late, tangent_values - waiting)
        parts = Rearranged([], [*early, *spreads], late, d_after)
    else:
        tangents = {*d_fixed, *d_carry, *d_handed}
        parts = rearrange(tangent_ops, tangents, set(d_carry), d_after)

    # What the factors are computed from: carries, and what was dear to compute.
    fresh = [atom if atom not in after[:k] else None for k, atom in enumerate(after)]
    later = {atom for atom in fresh if isinstance(atom, Value)} - {*carry, *handed}
    wanted = reads([*parts.factors, *parts.early, *parts.late], parts.outputs)
    again, kept = _keep(primal_ops, wanted, {*consts, *fixed, *carry, *handed}, later)
    bulk = [*again, *parts.factors, *parts.early]

    late = needed([*again, *parts.late] if is_native else parts.late, parts.outputs)
    turned = {}
    if not is_native:
        # A bias over the batch, a flag over the units: repeated inside the loop.
        late, _ = frontier([*bulk, *late], _made(late), parts.outputs)
        late, turned = _turned(late, fixed)
    passed = [
        value
        for value in reads(late, parts.outputs)
        if value not in _made(late) and value not in d_carry and value not in turned.values()
    ]
    by_step = reached(bulk, [*carry, *handed, *kept, *later, *d_handed])
    moved = reached(bulk, [*d_fixed, *d_handed])
    if is_native:  # a tangent that is the same at every step would have to be summed over them
        by_step |= moved
    rows = [value for value in passed if value in by_step]
    return Tangent(
        moves,
        moves_carry,
        moves_handed,
        Forward(fixed, carry, handed, needed(primal_ops, [*after, *kept]), after, kept),
        dict(zip(consts, closed.consts, strict=True)),
        [atom if atom in later else None for atom in fresh],
        d_fixed,
        d_carry,
        d_handed,
        bulk,
        [value for value in passed if value not in by_step],
        rows,
        [value in moved for value in rows],
        turned,
        late,
        parts.outputs,
    )


def _made(ops):
    return {value for each in ops for value in each.outputs}


def _groups(items, sizes):
    items = iter(items)
    return [[next(items) for _ in range(size)] for size in sizes]


def shifted(first: jax.Array, after: jax.Array, reverse: bool) -> jax.Array:
    """The carry before each step, from the first of all and those after each step, [steps, ...]."""
    if reverse:
        return jnp.concatenate([after[1:], first[None]])
    return jnp.concatenate([first[None], after[:-1]])


def _spread(ops, moved):
    """Sums whose terms among `moved` have the shape of the sum, and what repeats those without.

    A bias is added to every row of a batch: its adjoint is then the sum of theirs, formed of all
    steps at once.
    """
    found, spreads, wide = [], [], {}
    for each in ops:
        if each.name in ("add", "add_any", "sub"):
            like, inputs = each.outputs[0], []
            for atom in each.inputs:
                if atom in moved and atom.shape != like.shape:
                    if (atom, like.shape) not in wide:
                        repeat = partial(jnp.broadcast_to, shape=like.shape)
                        spreads.append(op("spread", repeat, (atom,), like))
                        wide[atom, like.shape] = spreads[-1].outputs[0]
                    atom = wide[atom, like.shape]
                inputs.append(atom)
            each = each._replace(inputs=tuple(inputs))
        found.append(each)
    return found, spreads


def _turned(ops, fixed):
    """Products with matrices [D, H] made products with their transposes, and these by index.

    The transpose of such a product, a step of back-propagation, then reads a matrix [H, D] row by
    row: on a processor it takes a seventh less time.
    """
    turned, found = {}, []
    for each in ops:
        if is_product(each) and each.inputs[1] in fixed:
            matrix = each.inputs[1]
            value = Value(matrix.shape[::-1], matrix.dtype)
            value = turned.setdefault(fixed.index(matrix), value)
            axis = len(each.inputs[0].shape) - 1
            found.append(_product_with_transpose(each, value, axis))
        else:
            found.append(each)
    return found, turned


def _product_with_transpose(each, value, axis):
    options = {key: each.params[key] for key in ("precision", "preferred_element_type")}
    numbers = (((axis,), (1,)), ((), ()))

    def call(vectors, matrix):
        return [jax.lax.dot_general(vectors, matrix, numbers, **options)]

    return each._replace(call=call, inputs=(each.inputs[0], value))


def _keep(ops, wanted, given, later):
    """What the loop has to keep so that `wanted` can be computed for all its steps at once.

    Kept are results of matrix products and transcendental functions; what is cheap, and what needs
    one such function of a carry, is computed again.

    Returns:
      (operations to run again, values to keep).
    """
    maker = {value: each for each in ops for value in each.outputs}
    again, kept, seen = set(), [], set()

    def visit(value):
        if value in seen or value in given or value in later or value not in maker:
            return
        seen.add(value)
        each = maker[value]
        inputs = [atom for atom in each.inputs if isinstance(atom, Value)]
        if each.name in DEAR and not (
            each.name != "dot_general" and all(atom in later for atom in inputs)
        ):
            kept.append(value)
            return
        again.add(id(each))
        for atom in inputs:
            visit(atom)

    for value in wanted:
        visit(value)
    return [each for each in ops if id(each) in again], kept
