"""Recurrences that are affine unit by unit, walked in parallel over time.

Where the step, once what depends on inputs alone has been computed, only adds to each unit of the
carry and multiplies it by a number, carry_t = A_t carry_{t-1} + b_t, any stretch of steps is such a
map too, and stretches can be joined in any grouping: log2 T rounds instead of T steps. A couples
the leaves of a carry at the same unit (the two parts of a complex number), never two units.

References: Blelloch, 1990, section 1.4; Martin and Cundy, 2018.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqlab.fast.program import Body, Value, is_real, reached, run, run_rows

SUMS = {"add", "add_any", "sub"}
ALONE = {"neg", "copy", "convert_element_type"}


def is_affine(cut: Body) -> bool:
    """Whether every operation of the loop is affine in the carry, unit by unit."""
    waiting = reached(cut.loop, cut.carry)
    for each in cut.loop:
        waits = [isinstance(atom, Value) and atom in waiting for atom in each.inputs]
        if not any(waits):
            continue
        touched = [atom for atom in each.inputs if isinstance(atom, Value) and atom in waiting]
        if not all(is_real(value) for value in (*touched, *each.outputs)):
            return False
        fits = (
            each.name in SUMS
            or each.name in ALONE
            or (each.name == "mul" and sum(waits) == 1)
            or (each.name == "div" and waits == [True, False])
            or (each.name == "select_n" and not waits[0])
        )
        if not fits:
            return False
    return len({value.shape for value in cut.carry}) == 1 and all(map(is_real, cut.carry))


def walk_associative(
    cut: Body, fixed: list[Any], carry: list[Any], xs: list[Any], *, reverse: bool
) -> tuple[list[Any], list[Any]]:
    """(last carry, carries [T, ...]) of an affine body; `xs` [T, ...] are the inputs of its steps.

    Memory grows with T times the square of the number of leaves: nothing is chunked.
    """
    known = dict(zip(cut.fixed, fixed, strict=True))
    handed = run_rows(cut.early, known, dict(zip(cut.inputs, xs, strict=True)), cut.handed)

    def matrix_and_offset(row):
        def step(carry):
            given = {**known, **dict(zip(cut.handed, row, strict=True))}
            return run(cut.loop, {**given, **dict(zip(cut.carry, carry, strict=True))}, cut.outputs)

        zeros = [jnp.zeros_like(leaf) for leaf in carry]
        columns = []
        for j, leaf in enumerate(carry):
            unit = [*zeros[:j], jnp.ones_like(leaf), *zeros[j + 1 :]]
            columns.append(jax.jvp(step, (zeros,), (unit,))[1])
        return [list(row) for row in zip(*columns, strict=True)], step(zeros)

    def join(first, then):
        (a, b), (c, d) = first, then
        leaves = range(len(b))
        product = [[sum(c[i][k] * a[k][j] for k in leaves) for j in leaves] for i in leaves]
        return product, [sum(c[i][k] * b[k] for k in leaves) + d[i] for i in leaves]

    rows = jax.vmap(matrix_and_offset, axis_size=len(xs[0]))(handed)
    with jax.named_scope("steps"):
        matrices, offsets = jax.lax.associative_scan(join, rows, reverse=reverse)
    carries = [
        sum(entry * leaf[None] for entry, leaf in zip(row, carry, strict=True)) + offset
        for row, offset in zip(matrices, offsets, strict=True)
    ]
    last = 0 if reverse else -1
    return [leaf[last] for leaf in carries], carries
