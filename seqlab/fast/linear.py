"""The tangent of a loop's body, rearranged so that little is left to the loop.

Linearised, a step reads dcarry_t = A_t dcarry_{t-1} + e_t, where neither the factors of A_t nor e_t
wait for the loop: they are computed for many steps at once. Of a chain of factors only the product
is handed to the loop, and of a sum of terms that do not wait only the sum. Transposed by jax, this
is back-propagation through time with nothing in its loop but the adjoint: weight gradients become
one product over all steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqlab.fast.program import Atom, Constant, Op, Value, op, value_like

STRUCTURAL = {
    "split", "slice", "reshape", "squeeze", "broadcast_in_dim", "transpose", "reduce_sum", "rev",
    "convert_element_type", "copy", "expand_dims",
}  # fmt: skip


class Scaled(NamedTuple):
    """base * factor; factor None is 1."""

    base: Value
    factor: Atom | None = None


class Split(NamedTuple):
    """A tangent as the sum of what waits for the loop and what does not; None is zero."""

    late: Scaled | None
    early: Scaled | None


class Rearranged(NamedTuple):
    """A linear program in three parts, each in order."""

    factors: list[Op]  # of primal values alone
    early: list[Op]  # of tangents that do not wait for the loop
    late: list[Op]  # of those that do
    outputs: list[Atom]


def rearrange(
    ops: list[Op], tangents: set[Value], waiting: set[Value], outputs: list[Atom]
) -> Rearranged:
    """Sorts the operations on tangents into those that wait for the loop and those that need not.

    Args:
      ops: the operations whose results are tangents, in order.
      tangents: the tangents among the inputs.
      waiting: those of `tangents` that the loop carries.
      outputs: tangents, or constants where they are zero.
    """
    work = _Work()
    parts: dict[Value, Split] = {
        value: Split(Scaled(value), None) if value in waiting else Split(None, Scaled(value))
        for value in tangents
    }
    for each in ops:
        _place(work, parts, each)
    found = []
    for atom in outputs:
        if isinstance(atom, Value) and atom in parts:
            found.append(work.whole(parts[atom], atom))
        else:
            found.append(atom)
    return Rearranged(work.factors, work.early, work.late, found)


class _Work:
    """The three lists as they grow."""

    def __init__(self):
        self.factors: list[Op] = []
        self.early: list[Op] = []
        self.late: list[Op] = []
        self.made: dict[Any, Value] = {}

    def factor(self, name: str, function: Callable[..., Any], *inputs: Atom) -> Value:
        """A factor; computed once, though both parts of a tangent ask for it."""
        key = (name, *inputs)
        if key not in self.made:
            values = [atom for atom in inputs if isinstance(atom, Value)]
            shape = np.broadcast_shapes(*(value.shape for value in values))
            made = op(name, function, inputs, Value(shape, values[0].dtype))
            self.factors.append(made)
            self.made[key] = made.outputs[0]
        return self.made[key]

    def both(self) -> tuple[list[Op], list[Op]]:
        return self.late, self.early

    def times(self, scaled: Scaled | None, factor: Atom) -> Scaled | None:
        if scaled is None:
            return None
        if scaled.factor is None:
            return Scaled(scaled.base, factor)
        if isinstance(factor, Constant) and isinstance(scaled.factor, Constant):
            return Scaled(scaled.base, Constant(scaled.factor.value * factor.value))
        return Scaled(scaled.base, self.factor("mul", jnp.multiply, scaled.factor, factor))

    def negative(self, scaled: Scaled | None) -> Scaled | None:
        if scaled is None or scaled.factor is None or isinstance(scaled.factor, Constant):
            return self.times(scaled, Constant(-1.0))
        factor = scaled.factor
        return Scaled(scaled.base, self.factor("neg", jnp.negative, factor))

    def plus(self, a: Scaled | None, b: Scaled | None, ops: list[Op]) -> Scaled | None:
        if a is None or b is None:
            return b if a is None else a
        if a.base is b.base:
            factors = [Constant(1.0) if s.factor is None else s.factor for s in (a, b)]
            values = [f for f in factors if isinstance(f, Value)]
            if not values:
                return Scaled(a.base, Constant(sum(f.value for f in factors)))  # pyright: ignore
            return Scaled(a.base, self.factor("add", jnp.add, *factors))
        left, right = self.plain(a, ops), self.plain(b, ops)
        made = op("add", jnp.add, (left, right), left)
        ops.append(made)
        return Scaled(made.outputs[0])

    def plain(self, scaled: Scaled, ops: list[Op]) -> Value:
        """The value of base * factor."""
        if scaled.factor is None:
            return scaled.base
        made = op("mul", jnp.multiply, (scaled.base, scaled.factor), scaled.base)
        ops.append(made)
        return made.outputs[0]

    def spread(self, split: Split, like: Value) -> Split:
        """The same with the shape of `like`: operands of length 1 are repeated by the operation."""

        def over(scaled, ops):
            if scaled is None or scaled.base.shape == like.shape:
                return scaled
            part = self.plain(scaled, ops)
            made = op("spread", lambda a: jnp.broadcast_to(a, like.shape), (part,), like)
            ops.append(made)
            return Scaled(made.outputs[0])

        return Split(over(split.late, self.late), over(split.early, self.early))

    def whole(self, split: Split, like: Value) -> Atom:
        """The sum of both parts, a tangent of the loop."""
        if split.late is None:
            if split.early is not None:
                return self.plain(split.early, self.early)
            zero = op("zeros", _zeros(like), (), like)
            self.early.append(zero)
            return zero.outputs[0]
        late = self.plain(split.late, self.late)
        if split.early is None:
            return late
        made = op("add", jnp.add, (late, self.plain(split.early, self.early)), late)
        self.late.append(made)
        return made.outputs[0]


def _place(work: _Work, parts: dict[Value, Split], each: Op) -> None:
    """Adds one operation to the lists and its results to `parts`."""
    linear = [atom for atom in each.inputs if isinstance(atom, Value) and atom in parts]
    out = each.outputs[0]
    if each.name in ("add", "add_any", "sub") and len(linear) == 2:
        a, b = (work.spread(parts[atom], out) for atom in linear)
        if each.name == "sub":
            b = Split(work.negative(b.late), work.negative(b.early))
        parts[out] = Split(
            work.plus(a.late, b.late, work.late), work.plus(a.early, b.early, work.early)
        )
    elif each.name == "mul" and len(linear) == 1:
        factor = each.inputs[1] if each.inputs[0] is linear[0] else each.inputs[0]
        a = work.spread(parts[linear[0]], out)
        parts[out] = Split(work.times(a.late, factor), work.times(a.early, factor))
    elif each.name == "div" and len(linear) == 1:
        divisor = each.inputs[1]
        if isinstance(divisor, Constant):
            factor: Atom = Constant(1.0 / divisor.value)
        else:
            factor = work.factor("reciprocal", lambda d: 1.0 / d, divisor)
        a = work.spread(parts[linear[0]], out)
        parts[out] = Split(work.times(a.late, factor), work.times(a.early, factor))
    elif each.name == "neg":
        parts[out] = Split(*(work.negative(part) for part in parts[linear[0]]))
    elif each.name in STRUCTURAL and len(linear) == 1:
        a = parts[linear[0]]
        copies = [_copied(work, each, part, ops) for part, ops in zip(a, work.both(), strict=True)]
        for k, value in enumerate(each.outputs):
            parts[value] = Split(*(None if found is None else Scaled(found[k]) for found in copies))
    elif each.name == "select_n" and each.inputs[0] not in parts:
        _choose(work, parts, each)
    else:
        _as_one(work, parts, each, linear)


def _copied(work, each, part, ops):
    """The results of an operation with one linear input, on one part of that input."""
    if part is None:
        return None
    outputs = tuple(value_like(value) for value in each.outputs)
    ops.append(each._replace(inputs=(work.plain(part, ops), *each.inputs[1:]), outputs=outputs))
    return outputs


def _choose(work, parts, each):
    """select_n(which, ...) part by part; a missing part is zero."""
    found = []
    for name, ops in zip(("late", "early"), work.both(), strict=True):
        cases = [
            getattr(work.spread(parts[atom], each.outputs[0]), name)
            if isinstance(atom, Value) and atom in parts
            else None
            for atom in each.inputs[1:]
        ]
        if all(case is None for case in cases):
            found.append(None)
            continue
        inputs: list[Atom] = [each.inputs[0]]
        for case in cases:
            if case is None:
                zero = op("zeros", _zeros(each.outputs[0]), (), each.outputs[0])
                ops.append(zero)
                inputs.append(zero.outputs[0])
            else:
                inputs.append(work.plain(case, ops))
        made = each._replace(inputs=tuple(inputs), outputs=(value_like(each.outputs[0]),))
        ops.append(made)
        found.append(Scaled(made.outputs[0]))
    parts[each.outputs[0]] = Split(*found)


def _zeros(like):
    return lambda: jnp.zeros(like.shape, like.dtype)


def _as_one(work, parts, each, linear):
    """An operation that takes its tangents whole: it waits for the loop if any of them does."""
    waits = any(parts[atom].late is not None for atom in linear)
    ops = work.late if waits else work.early
    inputs = tuple(
        work.whole(parts[atom], atom) if isinstance(atom, Value) and atom in parts else atom
        for atom in each.inputs
    )
    ops.append(each._replace(inputs=inputs))
    for value in each.outputs:
        parts[value] = Split(Scaled(value), None) if waits else Split(None, Scaled(value))
