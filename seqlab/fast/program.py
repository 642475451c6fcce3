"""A traced function as a flat list of operations that can be cut apart and run in pieces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

INLINED = {"jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "checkpoint", "remat2"}


@dataclass(frozen=True, eq=False)
class Value:
    """What an operation gives or a program takes; told apart by identity."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        """How many entries."""
        size = 1
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True, eq=False)
class Constant:
    """What is written in the program."""

    value: Any


Atom = Value | Constant


class Op(NamedTuple):
    """One operation: `call(*inputs)` gives the list of `outputs`."""

    name: str
    call: Callable[..., Sequence[Any]]
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]
    params: dict[str, Any]


class Program(NamedTuple):
    """Operations in the order in which they run."""

    inputs: list[Value]
    ops: list[Op]
    outputs: list[Atom]


class Body(NamedTuple):
    """The body of a loop, cut apart."""

    weights: list[Value]  # inputs that are the same at every step
    carry: list[Value]
    inputs: list[Value]  # of one step
    once: list[Op]
    early: list[Op]
    fixed: list[Value]  # what the loop and `early` read of `once` and of `weights`
    handed: list[Value]  # what the loop reads of `early` and of `inputs`
    loop: list[Op]
    outputs: list[Any]


def is_real(value: Value) -> bool:
    """Whether it has a tangent: real or complex numbers, not integers or flags."""
    return jnp.issubdtype(value.dtype, jnp.inexact)


def choose(leaves: Iterable[Any], moves: Sequence[bool]) -> list[Any]:
    """Those that move."""
    return [leaf for leaf, yes in zip(leaves, moves, strict=True) if yes]


def merge(leaves: Iterable[Any], moving: Iterable[Any], moves: Sequence[bool]) -> list[Any]:
    """`leaves`, with those that move taken from `moving`."""
    moving = iter(moving)
    return [next(moving) if yes else leaf for leaf, yes in zip(leaves, moves, strict=True)]


def value_like(leaf: Any) -> Value:
    """A `Value` of the shape and dtype of an array, a tracer or a `Value`."""
    return Value(tuple(leaf.shape), leaf.dtype)


def op(name: str, function: Callable[..., Any], inputs: Iterable[Atom], like: Value) -> Op:
    """An operation of our own, with one result shaped like `like`."""
    return Op(name, lambda *args: [function(*args)], tuple(inputs), (value_like(like),), {})


def from_jaxpr(closed: core.ClosedJaxpr, inlined: set[str] = INLINED) -> Program:
    """The program of a closed jaxpr, calls of the kinds `inlined` written out in place.

    The constants of the outermost jaxpr, among them whatever the function has closed over, become
    its first inputs.
    """
    jaxpr, ops = closed.jaxpr, []
    consts = [value_like(var.aval) for var in jaxpr.constvars]
    inputs = [value_like(var.aval) for var in jaxpr.invars]
    outputs = _write_out(jaxpr, [*consts, *inputs], ops, inlined)
    return Program([*consts, *inputs], ops, outputs)


def primitives(jaxpr: core.Jaxpr) -> Iterator[str]:
    """The names of all operations, inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in core.jaxprs_in_params(eqn.params):
            yield from primitives(inner)


def _write_out(jaxpr, args: Sequence[Atom], ops: list[Op], inlined: set[str]) -> list[Atom]:
    known: dict[Any, Atom] = dict(zip([*jaxpr.constvars, *jaxpr.invars], args, strict=True))

    def read(atom):
        return Constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in inlined:
            inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
            if hasattr(inner, "jaxpr"):
                inputs = [*map(Constant, inner.consts), *inputs]
                inner = inner.jaxpr
            outputs = _write_out(inner, inputs, ops, inlined)
        else:
            outputs = [value_like(var.aval) for var in eqn.outvars]
            name, params = eqn.primitive.name, eqn.params
            ops.append(Op(name, _binder(eqn), tuple(inputs), tuple(outputs), params))
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _binder(eqn) -> Callable[..., Sequence[Any]]:
    """What runs an equation as jax itself would."""
    scope = str(eqn.source_info.name_stack).replace("(", "/").replace(")", "").rpartition("/")[2]

    def bind(*args):
        with jax.named_scope(scope or eqn.primitive.name):
            result = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(eqn.params))
        return result if eqn.primitive.multiple_results else [result]

    return bind


def run(ops: Iterable[Op], known: dict[Value, Any], outputs: Iterable[Atom]) -> list[Any]:
    """What `outputs` are, with `known` given; operations that nothing needs are left out."""
    outputs, known = list(outputs), dict(known)

    def read(atom):
        return atom.value if isinstance(atom, Constant) else known[atom]

    for each in needed(ops, outputs, known):
        known.update(zip(each.outputs, each.call(*map(read, each.inputs)), strict=True))
    return [read(atom) for atom in outputs]


def run_rows(
    ops: Iterable[Op], known: dict[Value, Any], rows: dict[Value, Any], outputs: Iterable[Atom]
) -> list[Any]:
    """`run` for many steps at once.

    Args:
      ops: of one step.
      known: what is the same at every step.
      rows: what is not, with a leading axis of steps.
      outputs: of these, what depends on `rows` has a leading axis of steps.
    """
    outputs, known, rows = list(outputs), dict(known), dict(rows)

    def read(atom):
        if isinstance(atom, Constant):
            return atom.value
        return rows[atom] if atom in rows else known[atom]

    for each in needed(ops, outputs, [*known, *rows]):
        args = [read(atom) for atom in each.inputs]
        moves = [atom in rows for atom in each.inputs]
        if not any(moves):
            known.update(zip(each.outputs, each.call(*args), strict=True))
            continue
        # Flat, so that the derivative too is a product of two matrices, without a copy.
        if moves == [True, False] and is_product(each):
            options = {key: each.params[key] for key in ("precision", "preferred_element_type")}
            product = (((1,), (0,)), ((), ()))
            found = [jax.lax.dot_general(_flat(args[0]), args[1], product, **options)]
        elif each.name == "split" and each.params["axis"] == len(each.outputs[0].shape) - 1:
            found = jax.lax.split(_flat(args[0]), each.params["sizes"], 1)
        else:
            axes = [0 if yes else None for yes in moves]
            rows.update(zip(each.outputs, jax.vmap(each.call, in_axes=axes)(*args), strict=True))
            continue
        for value, flat in zip(each.outputs, found, strict=True):
            rows[value] = flat.reshape(*args[0].shape[:-1], flat.shape[-1])
    return [read(atom) for atom in outputs]


def _flat(array):
    return array.reshape(-1, array.shape[-1])


def is_product(each: Op) -> bool:
    """Whether it is vectors [..., D] times a matrix [D, H]."""
    if each.name != "dot_general":
        return False
    vectors, matrix = each.inputs
    if isinstance(vectors, Constant) or isinstance(matrix, Constant) or len(matrix.shape) != 2:
        return False
    return each.params["dimension_numbers"] == (((len(vectors.shape) - 1,), (0,)), ((), ()))


def needed(ops: Iterable[Op], outputs: Iterable[Atom], known: Iterable[Value] = ()) -> list[Op]:
    """The operations that `outputs` wait for, where the values of `known` are already there."""
    have, wanted, kept = set(known), set(), []
    wanted.update(atom for atom in outputs if isinstance(atom, Value))
    for each in reversed(list(ops)):
        if any(value in wanted and value not in have for value in each.outputs):
            kept.append(each)
            wanted.update(atom for atom in each.inputs if isinstance(atom, Value))
    return kept[::-1]


def reads(ops: Iterable[Op], outputs: Iterable[Atom] = ()) -> list[Value]:
    """The values that operations and outputs read, each once, in order."""
    atoms = [atom for each in ops for atom in each.inputs] + list(outputs)
    return list(dict.fromkeys(atom for atom in atoms if isinstance(atom, Value)))


def reached(ops: Iterable[Op], start: Iterable[Value]) -> set[Value]:
    """`start` and every value that depends on it."""
    found = set(start)
    for each in ops:
        if not found.isdisjoint(atom for atom in each.inputs if isinstance(atom, Value)):
            found.update(each.outputs)
    return found


def frontier(
    ops: list[Op], inside: set[Value], outputs: Iterable[Atom] = ()
) -> tuple[list[Op], list[Value]]:
    """The part of a program that computes `inside`, and what has to be handed to it.

    What only repeats a smaller value (a bias over the batch, a flag over the units) is computed
    inside, where it costs nothing, rather than handed over at its full size.

    Returns:
      (ops, values): the operations of the part in order; the values that it reads from without.
    """
    maker = {value: each for each in ops for value in each.outputs}
    part, handed, seen = set(), [], set()

    def visit(atom):
        if not isinstance(atom, Value) or atom in seen:
            return
        seen.add(atom)
        each = maker.get(atom)
        if each is not None and (atom in inside or _repeats(each)):
            if id(each) not in part:
                part.add(id(each))
                for below in each.inputs:
                    visit(below)
        elif atom not in inside:
            handed.append(atom)

    for each in needed(ops, [*outputs]):
        if any(value in inside for value in each.outputs):
            visit(each.outputs[0])
            for value in each.outputs:
                seen.add(value)
            part.add(id(each))
            for below in each.inputs:
                visit(below)
    for atom in outputs:
        visit(atom)
    return [each for each in ops if id(each) in part], handed


def _repeats(each: Op) -> bool:
    if each.name != "broadcast_in_dim":
        return False
    source = each.inputs[0]
    return isinstance(source, Constant) or source.size < each.outputs[0].size


def join_products(ops: list[Op], is_fixed: set[Value]) -> tuple[list[Op], list[Op]]:
    """Products of one vector with several fixed matrices, made one product with them side by side.

    Args:
      ops: of a loop's body.
      is_fixed: what is the same at every step.

    Returns:
      (ops, sides): the body, and the operations that lay the matrices side by side, once.
    """
    groups: dict[Any, list[Op]] = {}
    for each in ops:
        key = _product_key(each, is_fixed)
        if key is not None:
            groups.setdefault(key, []).append(each)
    sides, joined, skipped = [], {}, set()
    for group in groups.values():
        if len(group) < 2:
            continue
        matrices = [atom for each in group for atom in each.inputs[1:] if isinstance(atom, Value)]
        widths = tuple(matrix.shape[1] for matrix in matrices)
        wide = Value((matrices[0].shape[0], sum(widths)), matrices[0].dtype)
        sides.append(Op("concatenate", _side_by_side, tuple(matrices), (wide,), {}))
        first = group[0]
        vectors, out = first.inputs[0], first.outputs[0]
        product = Value((*out.shape[:-1], sum(widths)), out.dtype)
        axis = len(out.shape) - 1
        joined[id(first)] = [
            first._replace(inputs=(vectors, wide), outputs=(product,)),
            Op(
                "split",
                lambda array, widths=widths, axis=axis: jax.lax.split(array, widths, axis),
                (product,),
                tuple(each.outputs[0] for each in group),
                {"sizes": widths, "axis": axis},
            ),
        ]
        skipped.update(id(each) for each in group[1:])
    body = []
    for each in ops:
        if id(each) not in skipped:
            body.extend(joined.get(id(each), [each]))
    return body, sides


def _side_by_side(*matrices):
    return [jnp.concatenate(matrices, axis=1)]


def joined(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """The same function of arguments like `args`, with `join_products` done to it.

    The matrices are those that it has closed over.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    program = from_jaxpr(closed)
    ops, sides = join_products(program.ops, set(program.inputs[: len(closed.consts)]))

    def call(*args):
        values = [*closed.consts, *jax.tree.leaves(args)]
        known = dict(zip(program.inputs, values, strict=True))
        found = run([*sides, *ops], known, program.outputs)
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return call


def join_biases(
    ops: list[Op], is_fixed: set[Value], handed: list[Value]
) -> tuple[list[Op], list[Op]]:
    """Sums of the parts of a joined product with a vector each, made one sum before it is split.

    The arguments and results are those of `join_products`, which comes before; what is `handed`
    on as it is stays as it is.
    """
    users: dict[Atom, list[Op]] = {}
    for each in ops:
        for atom in each.inputs:
            users.setdefault(atom, []).append(each)
    maker = {value: each for each in ops for value in each.outputs}

    def bias_of(value):
        """(the sum that alone reads a part, the vector added to it, repeated), or None."""
        found = users.get(value, [])
        if len(found) != 1 or found[0].name != "add" or value in handed:
            return None
        (other,) = [atom for atom in found[0].inputs if atom is not value] or [None]
        repeat = maker.get(other)  # pyright: ignore
        if repeat is None or repeat.name != "broadcast_in_dim" or repeat.inputs[0] not in is_fixed:
            return None
        is_row = repeat.params["broadcast_dimensions"] == (len(value.shape) - 1,)
        is_whole = repeat.inputs[0].shape == value.shape[-1:]
        return (found[0], repeat) if is_row and is_whole else None

    sides, replaced = [], {}
    for each in ops:
        if each.name != "split" or each.params["axis"] != len(each.outputs[0].shape) - 1:
            continue
        found = [bias_of(value) for value in each.outputs]
        parts = [part for part in found if part is not None]
        (whole,) = each.inputs
        if len(parts) < len(found) or isinstance(whole, Constant):
            continue
        vectors = tuple(repeat.inputs[0] for _, repeat in parts)
        wide = Value((whole.shape[-1],), whole.dtype)
        sides.append(Op("concatenate", _end_to_end, vectors, (wide,), {}))
        added = op("add", _add_row, (whole, wide), whole)
        replaced[id(each)] = [
            added,
            each._replace(
                inputs=added.outputs, outputs=tuple(total.outputs[0] for total, _ in parts)
            ),
        ]
        replaced |= {id(total): [] for total, _ in parts}
    return [new for each in ops for new in replaced.get(id(each), [each])], sides


def split_late(ops: list[Op], handed: list[Value]) -> tuple[list[Op], list[Value], list[Op]]:
    """Parts of a joined product are handed on in one piece and split where they are read.

    Returns:
      (ops without such splits, what is handed instead, the splits).
    """
    read = {atom for each in ops for atom in each.inputs}
    splits = [
        each
        for each in ops
        if each.name == "split" and all(v in handed and v not in read for v in each.outputs)
    ]
    parts = {value: each.inputs[0] for each in splits for value in each.outputs}
    late = {id(each) for each in splits}
    return (
        [each for each in ops if id(each) not in late],
        list(dict.fromkeys(parts.get(value, value) for value in handed)),  # pyright: ignore
        splits,
    )


def _end_to_end(*vectors):
    return [jnp.concatenate(vectors)]


def _add_row(rows, vector):
    return rows + jnp.broadcast_to(vector, rows.shape)


def _product_key(each: Op, is_fixed: set[Value]) -> Any:
    """Equal for products that can be joined; None for what is no such product."""
    if not is_product(each) or each.inputs[1] not in is_fixed:
        return None
    vectors, matrix = each.inputs
    rest = {key: each.params[key] for key in ("precision", "preferred_element_type")}
    return (vectors, getattr(matrix, "dtype", None), *map(str, rest.values()))
