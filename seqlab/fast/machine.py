"""The steps of a loop as one function of machine code: text for LLVM.

What XLA runs as a loop around some forty small loops and a matrix product that lays its matrix out
anew at every step is here one function: matrices are laid out once in panels that the registers
read in order, and between two products everything that a number of the state needs is done while
it is in a register. The text is that of any program of vector-matrix products and element by
element operations; anything else is `UnsupportedError`, and stays XLA's.

float32 or float64. Sums and products are contracted (fused multiply-add), and `exp`, `tanh` and
`logistic` are approximations of their own (`seqlab.fast.elementary`), so results differ from XLA's
in the last bits.

References: Goto and van de Geijn, 2008 (panels, register blocks).
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from seqlab.fast.elementary import DOUBLE, FLOAT, constant, define, functions
from seqlab.fast.program import Atom, Constant, Op, Program, Value

ALIGNED = 16  # numbers at the start of every part of the scratch memory


class UnsupportedError(Exception):
    """A program that has no text; the message says what it holds."""


class Registers(NamedTuple):
    """Of a processor: bytes of one, and how many can hold sums."""

    bytes: int
    sums: int


class Text(NamedTuple):
    """A function in LLVM's language, which XLA calls by its foreign function interface."""

    code: str
    scratch: int  # numbers of scratch memory, its last result
    emits: list[int]  # for each emitted value, which of the results it is
    work: int  # multiply-adds of a step's products


class Place(NamedTuple):
    """Where a matrix [R, F] lies: `pointer` + (row * `stride` + `offset`) numbers."""

    pointer: str
    stride: int
    offset: int = 0


def write(
    program: Program,
    num_fixed: int,
    num_carry: int,
    length: int,
    reverse: bool,
    registers: Registers,
) -> Text:
    """The text of `length` steps: `@main`, an XLA_FFI_Handler.

    Its arguments are those of the program: what is the same at every step, the first carry, and
    rows [length, ...]; its results the last carry, each emitted value once [length, ...], and
    scratch memory.

    Args:
      program: of one step; outputs are the carry after it and the values to emit.
      num_fixed, num_carry: how many inputs are the same at every step, and how many are carried;
        the others are rows.
      length: steps.
      reverse: the rows are walked from the last to the first.
      registers: of the processor.

    Raises:
      UnsupportedError: naming the operation or shape that has no text.
    """
    return _Writer(program, num_fixed, num_carry, length, reverse, registers).write()


class _Writer:
    def __init__(self, program, num_fixed, num_carry, length, reverse, registers):
        self.program = _without_repeats(program)
        self.length, self.reverse = length, reverse
        inputs = self.program.inputs
        self.fixed = inputs[:num_fixed]
        self.carry = inputs[num_fixed : num_fixed + num_carry]
        self.rows = inputs[num_fixed + num_carry :]
        self.after = self.program.outputs[:num_carry]
        self.emitted = list(dict.fromkeys(self.program.outputs[num_carry:]))
        self.maker = {value: each for each in self.program.ops for value in each.outputs}
        if not self.carry or not self.carry[0].shape:
            raise UnsupportedError("a carry without units")
        self.dtype = self.carry[0].dtype
        if self.dtype not in (np.float32, np.float64):
            raise UnsupportedError(f"numbers of dtype {self.dtype}")
        self.kind = FLOAT if self.dtype == np.float32 else DOUBLE
        self.number = self.kind.name
        self.wide, self.sums = registers.bytes // self.kind.bytes, registers.sums
        self.lead = self.carry[0].shape[:-1]
        self.num_rows = int(np.prod(self.lead, dtype=int))
        for value in (*self.carry, *self.after, *self.emitted):
            if isinstance(value, Constant) or not self.is_full(value):
                raise UnsupportedError("a carry or a result of another shape than [..., units]")
            if value.dtype == np.bool_:
                raise UnsupportedError("flags that are carried or handed on")
        for value in (*inputs, *(v for each in self.program.ops for v in each.outputs)):
            if value.dtype not in (self.dtype, np.bool_):
                raise UnsupportedError(f"numbers of dtype {value.dtype}")
        self.scratch = 0
        self.places: dict[Value, Place] = {}
        self.pointers = {value: f"%a{k}" for k, value in enumerate(inputs)}
        self.functions: list[str] = []
        self.lanes: set[int] = set()

    def is_full(self, value) -> bool:
        """Whether it is [..., F], over the axes of the carry."""
        return len(value.shape) == len(self.lead) + 1 and value.shape[:-1] == self.lead

    def reserve(self, count: int) -> int:
        start = self.scratch
        self.scratch += -(-count // ALIGNED) * ALIGNED
        return start

    # Stages: what waits for as many products.

    def write(self) -> Text:
        """All of it."""
        for value in (*self.carry, *self.rows, *self.fixed):
            if self.is_full(value):
                self.places[value] = Place(self.pointers[value], value.shape[-1])
        products = [each for each in self.program.ops if each.name == "dot_general"]
        level = self._levels(products)
        last = max([level[each.outputs[0]] for each in products], default=0)

        body: list[str] = []
        results = [f"%r{k}" for k in range(len(self.carry) + len(self.emitted) + 1)]
        scratch = results[-1]
        for each in products:
            value = each.outputs[0]
            width = self._blocks(value.shape[-1], self._factors(each)[3])[1] * self.wide
            stride = -(-value.shape[-1] // width) * width
            start = self.reserve(self.num_rows * stride)
            name = f"%product{len(self.places)}"
            body.append(f"{name} = getelementptr {self.number}, ptr {scratch}, i64 {start}")
            self.places[value] = Place(name, stride)
        stores = self._targets(products, level, last, body, results)

        packs: list[str] = []
        for stage in range(last + 1):
            for each in products:
                if level[each.outputs[0]] == stage:
                    body.append(self._product(each, packs, scratch))
            for width, parts in self._loops(stores[stage], stage, level):
                body.append(self._elementwise(width, parts, stage, level))
        return self._handler(body, packs, results)

    def _levels(self, products) -> dict[Value, int]:
        level = dict.fromkeys(self.program.inputs, 0)
        for each in self.program.ops:
            found = max([level[a] for a in each.inputs if isinstance(a, Value)], default=0)
            for value in each.outputs:
                level[value] = found + (each.name == "dot_general")
        for each in products:
            vectors = self._factors(each)[0]
            if not self.is_full(vectors):
                raise UnsupportedError(f"a product of vectors of shape {vectors.shape}")
        return level

    def _targets(self, products, level, last, body, results) -> list[list[tuple[Value, Place]]]:
        """What each stage has to store: emitted values, carries, vectors for products, spills."""
        stores: list[list[tuple[Value, Place]]] = [[] for _ in range(last + 1)]
        stored: dict[Value, Place] = {}

        def store(value, pointer):
            place = Place(pointer, value.shape[-1])
            stores[level[value]].append((value, place))
            stored.setdefault(value, place)

        for k, value in enumerate(self.emitted):
            assert isinstance(value, Value)
            size = self.num_rows * value.shape[-1]
            name, result = f"%emit{k}", results[len(self.carry) + k]
            body.append(f"{name}.at = mul i64 %t, {size}")
            body.append(f"{name} = getelementptr {self.number}, ptr {result}, i64 {name}.at")
            store(value, name)
        for k, value in enumerate(self.after):
            assert isinstance(value, Value)
            if value in stored:
                body.append(f"%next{k} = getelementptr i8, ptr {stored[value].pointer}, i64 0")
                continue
            starts = [self.reserve(self.num_rows * value.shape[-1]) for _ in range(2)]
            body.append(f"%next{k}.at = select i1 %odd, i64 {starts[0]}, i64 {starts[1]}")
            body.append(
                f"%next{k} = getelementptr {self.number}, ptr {results[-1]}, i64 %next{k}.at"
            )
            store(value, f"%next{k}")

        def spill(value):
            if value.dtype == np.bool_:
                raise UnsupportedError("flags that wait for a product")
            name = f"%spill{len(stored)}"
            start = self.reserve(self.num_rows * value.shape[-1])
            body.append(f"{name} = getelementptr {self.number}, ptr {results[-1]}, i64 {start}")
            store(value, name)

        for each in products:
            vectors = self._factors(each)[0]
            if self.resolve(vectors) is None and vectors not in stored:
                spill(vectors)
        # From the last stage back: what a stage reads of an earlier one is that one's to store.
        for stage in range(last, 0, -1):
            seen: set[Value] = set()
            waiting = [value for value, _ in stores[stage]]
            while waiting:
                value = waiting.pop()
                if value in seen or self.resolve(value) is not None:
                    continue
                seen.add(value)
                if 0 < level[value] < stage and self.is_full(value):
                    if value not in stored:
                        spill(value)
                    continue
                if value in self.maker:
                    inputs = self.maker[value].inputs
                    waiting += [atom for atom in inputs if isinstance(atom, Value)]
        self.stored = stored
        return stores

    def resolve(self, value) -> Place | None:
        """Where a value lies from the start of the stage on that reads it; None if nowhere."""
        if value in self.places:
            return self.places[value]
        each = self.maker.get(value)
        if each is None:
            return None
        if each.name in ("split", "slice") and self.is_full(each.inputs[0]):
            whole = self.resolve(each.inputs[0])
            if whole is None:
                return None
            return whole._replace(offset=whole.offset + self._start(each, value))
        if each.name in SAME and isinstance(each.inputs[0], Value):
            source = each.inputs[0]
            if (source.shape, source.dtype) == (value.shape, value.dtype):
                return self.resolve(source)
        return None

    def _start(self, each, value) -> int:
        """The column at which a part of a value begins."""
        if each.name == "split":
            if each.params["axis"] != len(self.lead):
                raise UnsupportedError("a split of another axis than the last")
            return sum(each.params["sizes"][: each.outputs.index(value)])
        starts, strides = each.params["start_indices"], each.params["strides"]
        whole = each.inputs[0].shape
        if value.shape[:-1] != whole[:-1] or (strides is not None and set(strides) != {1}):
            raise UnsupportedError("a slice of another axis than the last, or with a stride")
        return starts[-1]

    # Element by element.

    def _loops(self, stores, stage, level) -> list[tuple[int, list[tuple[Value, Place, int]]]]:
        """Stores by width: each value in the widest parts that are computed alike throughout."""
        loops: dict[int, list[tuple[Value, Place, int]]] = {}
        for value, place in stores:
            width = value.shape[-1]
            borders = sorted({0, width, *self._borders(value, stage, level)})
            for start, stop in itertools.pairwise(borders):
                loops.setdefault(stop - start, []).append((value, place, start))
        return list(loops.items())

    def _borders(self, value, stage, level, known=None) -> set[int]:
        """Columns at which the pieces of a concatenation meet, however deep."""
        known = {} if known is None else known
        if value not in known:
            known[value] = self._borders_of(value, stage, level, known)
        return known[value]

    def _borders_of(self, value, stage, level, known) -> set[int]:
        if self._load_place(value, stage, level) is not None or value not in self.maker:
            return set()
        each, found, start = self.maker[value], set(), 0
        if each.name == "concatenate":
            for piece in each.inputs:
                width = piece.shape[-1]  # pyright: ignore
                if isinstance(piece, Value):
                    inner = self._borders(piece, stage, level, known)
                    found |= {start + at for at in inner}
                found |= {start, start + width}
                start += width
            return found
        if each.name in ("split", "slice"):
            start, width = self._start(each, value), value.shape[-1]
            found = {at - start for at in self._borders(each.inputs[0], stage, level, known)}
            return {at for at in found if 0 < at < width}
        for atom in each.inputs:
            if isinstance(atom, Value) and atom.shape == value.shape:
                found |= self._borders(atom, stage, level, known)
        return found

    def _load_place(self, value, stage, level) -> Place | None:
        place = self.resolve(value)
        if place is None and value in self.stored and level[value] < stage:
            return self.stored[value]
        return place

    def _elementwise(self, width, parts, stage, level) -> str:
        """A function that stores parts of one width, and the call of it."""
        name = f"@elementwise{len(self.functions)}"
        used: dict[str, str] = {}
        lanes = self.wide
        whole = width // lanes * lanes
        lines = ["entry:", "br label %rows", "rows:"]
        lines += ["%r = phi i64 [0, %entry], [%r2, %end]"]
        if whole:
            lines += ["br label %columns", "columns:"]
            lines += ["%j = phi i64 [0, %rows], [%j2, %columns]"]
            lines += _Columns(self, used, lanes, "%j", "v", stage, level).store(parts)
            lines += [f"%j2 = add i64 %j, {lanes}", f"%more = icmp ult i64 %j2, {whole}"]
            lines += ["br i1 %more, label %columns, label %rest", "rest:"]
        if width > whole:
            rest = _Columns(self, used, width - whole, str(whole), "w", stage, level)
            lines += rest.store(parts)
        lines += ["br label %end", "end:"]
        lines += ["%r2 = add i64 %r, 1", f"%again = icmp ult i64 %r2, {self.num_rows}"]
        lines += ["br i1 %again, label %rows, label %done", "done:", "ret void"]
        args = ", ".join(f"ptr {inner}" for inner in used.values())
        self.functions.append(define(f"internal void {name}({args}) noinline", lines))
        return f"call void {name}({', '.join(f'ptr {outer}' for outer in used)})"

    # Products.

    def _factors(self, each: Op) -> tuple[Value, Value, bool, int]:
        """(vectors [..., K], matrix, whether it is [K, N] rather than [N, K], how many).

        There may be a matrix for each of the first axes of the batch, as for nets side by side.
        """
        (contract, batch) = each.params["dimension_numbers"]
        vectors, matrix = each.inputs
        if not isinstance(vectors, Value) or not isinstance(matrix, Value):
            raise UnsupportedError("a product with a constant")
        first = tuple(range(len(batch[0])))
        fits = (
            matrix in self.fixed
            and tuple(batch[0]) == tuple(batch[1]) == first
            and len(first) <= len(self.lead)
            and len(matrix.shape) == len(first) + 2
            and tuple(contract[0]) == (len(vectors.shape) - 1,)
            and len(contract[1]) == 1
        )
        if not fits:
            raise UnsupportedError("a product other than of vectors with a fixed matrix")
        count = int(np.prod(matrix.shape[: len(first)], dtype=int))
        return vectors, matrix, contract[1][0] == len(first), count

    def _blocks(self, width: int, groups: int) -> tuple[list[int], int]:
        """(rows of each block, vectors side by side) that keep the sums in registers."""
        lanes, sums = self.wide, self.sums
        total, best = self.num_rows // groups, None
        for vectors in range(1, 9):
            most = sums // vectors
            if most == 0:
                continue
            count = -(-total // most)
            rows = [total // count + (k < total % count) for k in range(count)]
            # Per turn two multiply-adds or two loads a cycle, and four before a sum is there.
            cycles = sum(max(m * vectors / 2, (m + vectors) / 2, 4.0) for m in rows)
            cost = (cycles * -(-width // (vectors * lanes)), vectors)
            if best is None or cost < best[0]:
                best = (cost, rows, vectors)
        assert best is not None
        return best[1], best[2]

    def _product(self, each: Op, packs: list[str], scratch: str) -> str:
        vectors, matrix, is_by_row, groups = self._factors(each)
        depth, width = vectors.shape[-1], each.outputs[0].shape[-1]
        rows, count = self._blocks(width, groups)
        panel = count * self.wide
        panels = -(-width // panel)
        size = panels * panel * depth
        k = sum(line.startswith("call") for line in packs)
        start = self.reserve(groups * size)
        packs.append(f"%packed{k} = getelementptr {self.number}, ptr {scratch}, i64 {start}")
        self.functions.append(_pack(f"@pack{k}", depth, width, panel, is_by_row, self.number))
        pack = [
            *_shift("%mg", self.number, "%m", "%g", depth * width),
            *_shift("%og", self.number, "%o", "%g", size),
            f"call void @pack{k}(ptr %mg, ptr %og)",
        ]
        self.functions.append(_repeated(f"@packs{k}", ("%m", "%o"), pack, "%g", groups))
        packs.append(f"call void @packs{k}(ptr {self.pointers[matrix]}, ptr %packed{k})")
        place = self.resolve(vectors) or self.stored[vectors]
        out = self.places[each.outputs[0]]
        lines, first = _shift("%p", self.number, "%b", "%j", depth * panel), 0
        for m in sorted(set(rows)):
            name, times = f"{k}_{m}", rows.count(m)
            block = _block(f"@block{name}", m, count, self.wide, depth, place, out, self.kind)
            each_block = [
                *_shift("%ai", self.number, "%a", "%i", m * place.stride),
                *_shift("%ci", self.number, "%c", "%i", m * out.stride),
                f"call void @block{name}(ptr %ai, ptr %b, ptr %ci)",
            ]
            args = ("%a", "%b", "%c")
            self.functions += [block, _repeated(f"@blocks{name}", args, each_block, "%i", times)]
            at = first * place.stride + place.offset
            lines += [f"%a{m} = getelementptr {self.number}, ptr %a, i64 {at}"]
            lines += _shift(f"%c{m}", self.number, "%c", "%j", panel, first * out.stride)
            lines += [f"call void @blocks{name}(ptr %a{m}, ptr %p, ptr %c{m})"]
            first += m * times
        self.functions.append(_repeated(f"@panels{k}", ("%a", "%b", "%c"), lines, "%j", panels))
        group = [
            *_shift("%ag", self.number, "%a", "%g", first * place.stride),
            *_shift("%bg", self.number, "%b", "%g", size),
            *_shift("%cg", self.number, "%c", "%g", first * out.stride),
            f"call void @panels{k}(ptr %ag, ptr %bg, ptr %cg)",
        ]
        self.functions.append(_repeated(f"@product{k}", ("%a", "%b", "%c"), group, "%g", groups))
        return f"call void @product{k}(ptr {place.pointer}, ptr %packed{k}, ptr {out.pointer})"

    # The whole.

    def _handler(self, body, packs, results) -> Text:
        """`@main`: answers what XLA asks of it, then walks."""
        inputs = self.program.inputs
        lines = ["entry:", *_field("%extension", "%frame", 8, "ptr")]
        lines += ["%plain = icmp eq ptr %extension, null"]
        lines += ["br i1 %plain, label %stage, label %ask", "ask:"]
        lines += _field("%kind", "%extension", 8, "i32")
        lines += ["%about = icmp eq i32 %kind, 1", "br i1 %about, label %tell, label %stage"]
        lines += ["tell:", *_field("%metadata", "%extension", 24, "ptr")]
        for offset, number in ((24, FFI_VERSION[0]), (28, FFI_VERSION[1]), (32, 0)):
            lines += [f"%m{offset} = getelementptr i8, ptr %metadata, i64 {offset}"]
            lines += [f"store i32 {number}, ptr %m{offset}"]
        lines += ["ret ptr null", "stage:", *_field("%now", "%frame", 32, "i32")]
        lines += ["%go = icmp eq i32 %now, 3", "br i1 %go, label %walk, label %not", "not:"]
        lines += ["ret ptr null", "walk:"]
        for group, offset, names in (
            ("args", 72, [f"%x{k}" if v in self.rows else f"%a{k}" for k, v in enumerate(inputs)]),
            ("rets", 112, results),
        ):
            lines += _field(f"%{group}", "%frame", offset, "ptr")
            for k, name in enumerate(names):
                if name.startswith("%a") and inputs[k] in self.carry:
                    name = f"%first{k - len(self.fixed)}"
                lines += _field(f"%{group}{k}", f"%{group}", 8 * k, "ptr")
                lines += _field(name, f"%{group}{k}", 24, "ptr")
        lines += [*packs, "br label %step", "step:"]
        lines += ["%n = phi i64 [0, %walk], [%n2, %step]"]
        for k, value in enumerate(self.carry):
            pointer = self.pointers[value]
            lines += [f"{pointer} = phi ptr [%first{k}, %walk], [%next{k}, %step]"]
        lines += [f"%t = sub i64 {self.length - 1}, %n" if self.reverse else "%t = add i64 %n, 0"]
        lines += ["%low = and i64 %n, 1", "%odd = icmp eq i64 %low, 1"]
        for value in self.rows:
            pointer = self.pointers[value]
            size = value.size * value.dtype.itemsize
            lines += [f"{pointer}.at = mul i64 %t, {size}"]
            whole = pointer.replace("%a", "%x")
            lines += [f"{pointer} = getelementptr i8, ptr {whole}, i64 {pointer}.at"]
        lines += [*body, "%n2 = add i64 %n, 1", f"%more = icmp ult i64 %n2, {self.length}"]
        lines += ["br i1 %more, label %step, label %done", "done:"]
        for k, value in enumerate(self.carry):
            lines += [
                f"call void @llvm.memcpy.p0.p0.i64(ptr {results[k]}, ptr %next{k}, "
                f"i64 {value.size * value.dtype.itemsize}, i1 false)"
            ]
        lines += ["ret ptr null"]
        written = [*self.functions, define("ptr @main(ptr %frame)", lines)]
        lanes = sorted({*self.lanes, self.wide})
        heads = ["declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"]
        heads += [text for n in lanes for text in functions(n, self.kind)]
        order = [self.emitted.index(value) for value in self.program.outputs[len(self.carry) :]]
        work = sum(
            self.num_rows * each.inputs[0].shape[-1] * each.outputs[0].shape[-1]  # pyright: ignore
            for each in self.program.ops
            if each.name == "dot_general"
        )
        return Text("\n".join([*heads, *written]), max(self.scratch, 1), order, work)


SAME = {"copy", "reshape", "convert_element_type", "squeeze", "expand_dims", "stop_gradient"}
FFI_VERSION = (0, 3)  # of xla/ffi/api/c_api.h, whose layout `_Writer._handler` reads
SUMS = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
FLAGS = {"and": "and", "or": "or", "xor": "xor"}
ORDERS = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
CALLS = {
    "tanh": "seqlab.tanh", "logistic": "seqlab.logistic", "exp": "seqlab.exp",
    "max": "llvm.maximum", "min": "llvm.minimum", "abs": "llvm.fabs", "sqrt": "llvm.sqrt",
}  # fmt: skip


class _Columns:
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
        place = self.writer._load_place(value, self.stage, self.level)
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
            return self.vector(each.inputs[0], at + self.writer._start(each, value))
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


def _bits(value) -> tuple:
    """Equal for equal numbers only; what is printed of them may be less."""
    array = np.asarray(value)
    return array.dtype.str, array.shape, array.tobytes()


def _values(each):
    return [atom for atom in each.inputs if isinstance(atom, Value)]


def _without_repeats(program: Program) -> Program:
    """The same operation on the same values is kept once."""
    same: dict[Atom, Atom] = {}
    seen: dict[tuple, Op] = {}
    ops = []
    for each in program.ops:
        inputs = tuple(same.get(atom, atom) for atom in each.inputs)
        keys = [_bits(a.value) if isinstance(a, Constant) else a for a in inputs]
        key = (each.name, *keys, repr(sorted(each.params.items(), key=lambda item: item[0])))
        if key in seen:
            same.update(zip(each.outputs, seen[key].outputs, strict=True))
        else:
            seen[key] = each._replace(inputs=inputs)
            ops.append(seen[key])
    outputs = [same.get(atom, atom) for atom in program.outputs]
    return Program(program.inputs, ops, outputs)


def _shift(name, number, pointer, index, size, offset=0) -> list[str]:
    """A pointer further on by `index` times `size` numbers and `offset`."""
    return [
        f"{name}.by = mul i64 {index}, {size}",
        f"{name}.to = add i64 {name}.by, {offset}",
        f"{name} = getelementptr {number}, ptr {pointer}, i64 {name}.to",
    ]


def _repeated(name: str, args: Iterable[str], lines: list[str], index: str, times: int) -> str:
    """A function that does the same for every value of `index`."""
    loop = ["entry:", "br label %turn", "turn:", f"{index} = phi i64 [0, %entry], [%next, %turn]"]
    loop += [*lines, f"%next = add i64 {index}, 1", f"%more = icmp ult i64 %next, {times}"]
    loop += ["br i1 %more, label %turn, label %done", "done:", "ret void"]
    return define(
        f"internal void {name}({', '.join(f'ptr noalias {arg}' for arg in args)}) noinline", loop
    )


def _field(name: str, pointer: str, offset: int, kind: str) -> list[str]:
    """A field of a structure of XLA's."""
    return [
        f"{name}.at = getelementptr i8, ptr {pointer}, i64 {offset}",
        f"{name} = load {kind}, ptr {name}.at",
    ]


def _block(name, rows, count, lanes, depth, place, out, kind) -> str:
    """C [rows, panel] = A [rows, K] times a panel [K, panel], the sums in registers."""
    vector, turns = f"<{lanes} x {kind.name}>", 4
    lines = ["entry:"]
    cells = [(i, j) for i in range(rows) for j in range(count)]

    def turn(prefix, u, sums):
        """One more row of the panel."""
        for j in range(count):
            at = (u * count + j) * lanes
            lines.append(f"%{prefix}q{j} = getelementptr {kind.name}, ptr %{prefix[0]}b, i64 {at}")
            lines.append(f"%{prefix}b{j} = load {vector}, ptr %{prefix}q{j}, align 4")
        for i in range(rows):
            at = i * place.stride + u
            lines.append(f"%{prefix}p{i} = getelementptr {kind.name}, ptr %{prefix[0]}a, i64 {at}")
            lines.append(f"%{prefix}x{i} = load {kind.name}, ptr %{prefix}p{i}, align 4")
            lines.append(
                f"%{prefix}y{i} = insertelement {vector} poison, {kind.name} %{prefix}x{i}, i32 0"
            )
            lines.append(
                f"%{prefix}a{i} = shufflevector {vector} %{prefix}y{i}, {vector} poison, "
                f"<{lanes} x i32> zeroinitializer"
            )
            for j in range(count):
                lines.append(
                    f"%{prefix}s{i}_{j} = call {vector} @llvm.fma.v{lanes}{kind.suffix}({vector} "
                    f"%{prefix}a{i}, {vector} %{prefix}b{j}, {vector} {sums[i, j]})"
                )
        return {(i, j): f"%{prefix}s{i}_{j}" for i, j in cells}

    whole = depth // turns * turns
    sums = dict.fromkeys(cells, "zeroinitializer")
    if whole:
        lines += ["br label %turn", "turn:", "%k = phi i64 [0, %entry], [%k2, %turn]"]
        lines += ["%ma = phi ptr [%a, %entry], [%ma2, %turn]"]
        lines += ["%mb = phi ptr [%b, %entry], [%mb2, %turn]"]
        for i, j in cells:
            last = f"%m{turns - 1}s{i}_{j}"
            lines.append(f"%s{i}_{j} = phi {vector} [zeroinitializer, %entry], [{last}, %turn]")
        sums = {(i, j): f"%s{i}_{j}" for i, j in cells}
        for u in range(turns):
            sums = turn(f"m{u}", u, sums)
        lines += [f"%ma2 = getelementptr {kind.name}, ptr %ma, i64 {turns}"]
        lines += [f"%mb2 = getelementptr {kind.name}, ptr %mb, i64 {turns * count * lanes}"]
        lines += [f"%k2 = add i64 %k, {turns}", f"%more = icmp ult i64 %k2, {whole}"]
        lines += ["br i1 %more, label %turn, label %rest", "rest:"]
    lines += [f"%ra = getelementptr {kind.name}, ptr %a, i64 {whole}"]
    lines += [f"%rb = getelementptr {kind.name}, ptr %b, i64 {whole * count * lanes}"]
    for u in range(depth - whole):
        sums = turn(f"r{u}", u, sums)
    for i, j in cells:
        at = i * out.stride + j * lanes
        lines.append(f"%c{i}_{j} = getelementptr {kind.name}, ptr %c, i64 {at}")
        lines.append(f"store {vector} {sums[i, j]}, ptr %c{i}_{j}, align 4")
    head = f"internal void {name}(ptr noalias %a, ptr noalias %b, ptr noalias %c) noinline"
    return define(head, [*lines, "ret void"])


def _pack(name, depth, width, panel, is_by_row, number) -> str:
    """A matrix, [K, N] or (not by row) [N, K], into panels [N / panel, K, panel], zeros added."""
    panels = -(-width // panel)
    stride = (width, 1) if is_by_row else (1, depth)
    lines = ["entry:", "br label %panel", "panel:", "%j = phi i64 [0, %entry], [%j2, %done]"]
    lines += [f"%first = mul i64 %j, {panel}", f"%left = sub i64 {width}, %first"]
    lines += [f"%full = icmp uge i64 %left, {panel}"]
    lines += [f"%some = select i1 %full, i64 {panel}, i64 %left"]
    lines += [f"%to = mul i64 %first, {depth}", "br label %row", "row:"]
    lines += ["%k = phi i64 [0, %panel], [%k2, %end]"]
    lines += [f"%tk = mul i64 %k, {panel}", "%at = add i64 %to, %tk"]
    lines += [f"%fk = mul i64 %k, {stride[0]}", "br label %column", "column:"]
    lines += ["%n = phi i64 [0, %row], [%n2, %column]", "%here = icmp ult i64 %n, %some"]
    lines += ["%column0 = add i64 %first, %n"]
    lines += ["%inside = select i1 %here, i64 %column0, i64 %first"]
    lines += [f"%fn = mul i64 %inside, {stride[1]}", "%from = add i64 %fk, %fn"]
    lines += [f"%p = getelementptr {number}, ptr %m, i64 %from", f"%x = load {number}, ptr %p"]
    lines += [f"%y = select i1 %here, {number} %x, {number} 0.0", "%d = add i64 %at, %n"]
    lines += [f"%q = getelementptr {number}, ptr %o, i64 %d", f"store {number} %y, ptr %q"]
    lines += ["%n2 = add i64 %n, 1", f"%more = icmp ult i64 %n2, {panel}"]
    lines += ["br i1 %more, label %column, label %end", "end:", "%k2 = add i64 %k, 1"]
    lines += [f"%again = icmp ult i64 %k2, {depth}", "br i1 %again, label %row, label %done"]
    lines += ["done:", "%j2 = add i64 %j, 1", f"%on = icmp ult i64 %j2, {panels}"]
    lines += ["br i1 %on, label %panel, label %out", "out:", "ret void"]
    return define(f"internal void {name}(ptr noalias %m, ptr noalias %o) noinline", lines)
