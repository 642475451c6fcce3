"""Operations element by element, for some neighbouring columns of one row: text for LLVM."""

from typing import NamedTuple

import numpy as np

from seqlab.fast.elementary import constant
from seqlab.fast.program import Atom, Constant, Value

SAME = {"copy", "reshape", "convert_element_type", "squeeze", "expand_dims", "stop_gradient"}
SUMS = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
FLAGS = {"and": "and", "or": "or", "xor": "xor"}
ORDERS = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
CALLS = {
    "tanh": "seqlab.tanh", "logistic": "seqlab.logistic", "exp": "seqlab.exp",
    "max": "llvm.maximum", "min": "llvm.minimum", "abs": "llvm.fabs", "sqrt": "llvm.sqrt",
}  # fmt: skip


class UnsupportedError(Exception):
    """A program that has no text; the message says what it holds."""


class Place(NamedTuple):
    """Where a matrix [R, F] lies: `pointer` + (row * `stride` + `offset`) numbers."""

    pointer: str
    stride: int
    offset: int = 0


class Columns:
    """Text for some neighbouring columns of one row."""

    def __init__(self, writer, used, lanes, column, prefix, stage, level):
        writer.lanes.add(lanes)
        self.writer, self.used, self.lanes, self.prefix = writer, used, lanes, prefix
        self.column, self.stage, self.level = column, stage, level
        self.kind, self.number = writer.kind, writer.kind.name
        self.lines: list[str] = []
        self.known: dict[tuple[Value, int], str] = {}
        self.made: dict[str, str] = {}

    def store(self, parts) -> list[str]:
        """Every value into its place."""
        found = [(self.vector(value, at), place, at) for value, place, at in parts]
        for name, place, at in found:
            to = self.address(place._replace(offset=place.offset + at), self.number)
            self.lines.append(f"store <{self.lanes} x {self.number}> {name}, ptr {to}, align 4")
        return self.lines

    def name(self, text: str) -> str:
        """The name of what `text` computes; the same text is computed once."""
        if text not in self.made:
            self.made[text] = f"%{self.prefix}{len(self.made)}"
            self.lines.append(f"{self.made[text]} = {text}")
        return self.made[text]

    def pointer(self, outer: str) -> str:
        return self.used.setdefault(outer, f"%p{len(self.used)}")

    def address(self, place: Place, kind: str) -> str:
        row = self.name(f"mul i64 %r, {place.stride}")
        at = self.name(f"add i64 {row}, {self.column}")
        start = self.name(f"getelementptr {kind}, ptr {self.pointer(place.pointer)}, i64 {at}")
        return self.name(f"getelementptr {kind}, ptr {start}, i64 {place.offset}")

    def splat(self, kind: str, scalar: str) -> str:
        one = self.name(f"insertelement <{self.lanes} x {kind}> poison, {kind} {scalar}, i32 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        vector = f"<{self.lanes} x {kind}>"
        return self.name(f"shufflevector {vector} {one}, {vector} poison, {zeros}")

    def atom(self, atom: Atom, at: int) -> str:
        if isinstance(atom, Value):
            return self.vector(atom, at)
        number = np.asarray(atom.value)
        if number.size != 1:
            raise UnsupportedError("a constant that is no single number")
        return constant(number.reshape(())[()], self.lanes, self.kind)

    def operand(self, atom: Atom, value: Value, at: int) -> str:
        """Of an operation that gives `value`; axes of length 1 are repeated."""
        if isinstance(atom, Constant) or atom.shape == value.shape:
            return self.atom(atom, at)
        if atom.shape and len(atom.shape) != len(value.shape):
            raise UnsupportedError(f"shapes {atom.shape} and {value.shape} in one operation")
        return self._broadcast(atom, tuple(range(len(atom.shape))), value, at)

    def vector(self, value: Value, at: int) -> str:
        """The name of its columns from `at` on."""
        if (value, at) not in self.known:
            self.known[value, at] = self._vector(value, at)
        return self.known[value, at]

    def _vector(self, value, at):
        place = self.writer.load_place(value, self.stage, self.level)
        if place is not None:
            place = place._replace(offset=place.offset + at)
            if value.dtype == np.bool_:
                start = self.address(place, "i8")
                flags = self.name(f"load <{self.lanes} x i8>, ptr {start}, align 1")
                return self.name(f"trunc <{self.lanes} x i8> {flags} to <{self.lanes} x i1>")
            start = self.address(place, self.number)
            return self.name(f"load <{self.lanes} x {self.number}>, ptr {start}, align 4")
        each = self.writer.maker.get(value)
        if each is None:
            raise UnsupportedError(f"an input of shape {value.shape}")
        if not self.writer.is_full(value):
            raise UnsupportedError(f"{each.name} of shape {value.shape}")
        return self._operation(each, value, at)

    def _operation(self, each, value, at):
        vector = f"<{self.lanes} x {self.number}>"
        if each.name == "broadcast_in_dim":
            return self._broadcast(each.inputs[0], each.params["broadcast_dimensions"], value, at)
        if each.name == "concatenate":
            if each.params["dimension"] != len(value.shape) - 1:
                raise UnsupportedError("a concatenation along another axis than the last")
            start = 0
            for piece in each.inputs:
                if start <= at < start + piece.shape[-1]:
                    return self.atom(piece, at - start)
                start += piece.shape[-1]
        if each.name in ("split", "slice"):
            return self.vector(each.inputs[0], at + self.writer.start_of(each, value))
        if each.name in SAME:
            (source,) = each.inputs
            if isinstance(source, Value) and source.shape == value.shape:
                if source.dtype == value.dtype:
                    return self.vector(source, at)
                name = self.vector(source, at)
                if source.dtype == np.bool_:
                    return self.name(f"uitofp <{self.lanes} x i1> {name} to {vector}")
                zero = constant(0.0, self.lanes, self.kind)
                return self.name(f"fcmp une {vector} {name}, {zero}")
            raise UnsupportedError(f"{each.name} to shape {value.shape}")
        if each.name == "select_n":
            which, *cases = each.inputs
            if len(cases) != 2 or value.dtype == np.bool_:
                raise UnsupportedError("a choice of more than two")
            flags, no, yes = (self.operand(atom, value, at) for atom in (which, *cases))
            return self.name(f"select <{self.lanes} x i1> {flags}, {vector} {yes}, {vector} {no}")
        inputs = [self.operand(atom, value, at) for atom in each.inputs]
        if each.name in SUMS:
            contract = "" if each.name == "div" else "contract "
            return self.name(f"{SUMS[each.name]} {contract}{vector} {inputs[0]}, {inputs[1]}")
        if each.name in ORDERS and all(a.dtype != np.bool_ for a in _values(each)):
            return self.name(f"fcmp {ORDERS[each.name]} {vector} {inputs[0]}, {inputs[1]}")
        if each.name in FLAGS:
            return self.name(f"{each.name} <{self.lanes} x i1> {inputs[0]}, {inputs[1]}")
        if each.name == "not":
            return self.name(
                f"xor <{self.lanes} x i1> {inputs[0]}, {constant(True, self.lanes, self.kind)}"
            )
        if each.name == "neg":
            return self.name(f"fneg {vector} {inputs[0]}")
        if each.name == "square":
            return self.name(f"fmul contract {vector} {inputs[0]}, {inputs[0]}")
        if each.name == "integer_pow" and each.params["y"]:
            power = inputs[0]
            for _ in range(abs(each.params["y"]) - 1):
                power = self.name(f"fmul contract {vector} {power}, {inputs[0]}")
            one = constant(1.0, self.lanes, self.kind)
            return power if each.params["y"] > 0 else self.name(f"fdiv {vector} {one}, {power}")
        if each.name == "sign":
            (x,) = inputs
            zero, one, minus = (constant(n, self.lanes, self.kind) for n in (0.0, 1.0, -1.0))
            over = self.name(f"fcmp ogt {vector} {x}, {zero}")
            under = self.name(f"fcmp olt {vector} {x}, {zero}")
            flags = f"<{self.lanes} x i1>"
            rest = self.name(f"select {flags} {under}, {vector} {minus}, {vector} {x}")
            return self.name(f"select {flags} {over}, {vector} {one}, {vector} {rest}")
        if each.name in CALLS:
            args = ", ".join(f"{vector} {name}" for name in inputs)
            return self.name(
                f"call {vector} @{CALLS[each.name]}.v{self.lanes}{self.kind.suffix}({args})"
            )
        raise UnsupportedError(f"the operation {each.name}")

    def _broadcast(self, source, axes, value, at):
        writer = self.writer
        if isinstance(source, Constant) or source.shape == value.shape:
            return self.atom(source, at)
        # One number, or some for the units, for each of the first axes of the batch.
        sizes = [1] * len(value.shape)
        for n, axis in zip(source.shape, axes, strict=True):
            sizes[axis] = n
        groups, num_units = int(np.prod(sizes[:-1], dtype=int)), sizes[-1]
        count = max([k + 1 for k, n in enumerate(sizes[:-1]) if n > 1], default=0)
        if sizes[:count] != list(writer.lead[:count]) or num_units not in (1, value.shape[-1]):
            raise UnsupportedError(f"a value of shape {source.shape} repeated along {axes}")
        while source in writer.maker and writer.maker[source].name in SAME | {"broadcast_in_dim"}:
            below = writer.maker[source].inputs[0]
            if isinstance(below, Constant):
                return self.atom(below, at)
            if below.size != source.size or below.dtype != source.dtype:
                break
            source = below
        if source not in writer.pointers:
            raise UnsupportedError(f"a computed value of shape {source.shape} repeated")
        pointer = self.pointer(writer.pointers[source])
        kind = "i8" if source.dtype == np.bool_ else self.number
        start = pointer
        if groups > 1:
            group = self.name(f"udiv i64 %r, {writer.num_rows // groups}")
            by = self.name(f"mul i64 {group}, {num_units}")
            start = self.name(f"getelementptr {kind}, ptr {pointer}, i64 {by}")
        if num_units > 1 and kind == self.number:
            start = self.name(f"getelementptr {kind}, ptr {start}, i64 {self.column}")
            start = self.name(f"getelementptr {kind}, ptr {start}, i64 {at}")
            return self.name(f"load <{self.lanes} x {kind}>, ptr {start}, align 4")
        if num_units > 1:
            raise UnsupportedError("flags of the units repeated")
        scalar = self.name(f"load {kind}, ptr {start}")
        if kind == "i8":
            return self.splat("i1", self.name(f"trunc i8 {scalar} to i1"))
        return self.splat(self.number, scalar)


def _values(each):
    return [atom for atom in each.inputs if isinstance(atom, Value)]
