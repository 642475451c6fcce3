"""The steps of a loop as one function of machine code: text for LLVM.

What XLA runs as a loop around some forty small loops and a matrix product that lays its matrix out
anew at every step is here one function: matrices are laid out once in panels that the registers
read in order, and between two products everything that a number of the state needs is done while
it is in a register. The text is that of any program of vector-matrix products
(`seqlab.fast.panels`) and operations element by element (`seqlab.fast.columns`); anything else is
`UnsupportedError`, and stays XLA's.

float32 or float64. Sums and products are contracted (fused multiply-add), and `exp`, `tanh` and
`logistic` are approximations of their own (`seqlab.fast.elementary`), so results differ from XLA's
in the last bits.
"""

import itertools
from typing import NamedTuple

import numpy as np

from seqlab.fast.columns import SAME, Columns, Place, UnsupportedError
from seqlab.fast.elementary import DOUBLE, FLOAT, define, functions
from seqlab.fast.panels import block, pack, repeated, shift
from seqlab.fast.program import Atom, Constant, Op, Program, Value

FFI_VERSION = (0, 3)  # of xla/ffi/api/c_api.h, whose layout `_Writer._handler` reads
ALIGNED = 16  # numbers at the start of every part of the scratch memory


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
            return whole._replace(offset=whole.offset + self.start_of(each, value))
        if each.name in SAME and isinstance(each.inputs[0], Value):
            source = each.inputs[0]
            if (source.shape, source.dtype) == (value.shape, value.dtype):
                return self.resolve(source)
        return None

    def start_of(self, each, value) -> int:
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
        if self.load_place(value, stage, level) is not None or value not in self.maker:
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
            start, width = self.start_of(each, value), value.shape[-1]
            found = {at - start for at in self._borders(each.inputs[0], stage, level, known)}
            return {at for at in found if 0 < at < width}
        for atom in each.inputs:
            if isinstance(atom, Value) and atom.shape == value.shape:
                found |= self._borders(atom, stage, level, known)
        return found

    def load_place(self, value, stage, level) -> Place | None:
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
            lines += Columns(self, used, lanes, "%j", "v", stage, level).store(parts)
            lines += [f"%j2 = add i64 %j, {lanes}", f"%more = icmp ult i64 %j2, {whole}"]
            lines += ["br i1 %more, label %columns, label %rest", "rest:"]
        if width > whole:
            rest = Columns(self, used, width - whole, str(whole), "w", stage, level)
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
        self.functions.append(pack(f"@pack{k}", depth, width, panel, is_by_row, self.number))
        each_pack = [
            *shift("%mg", self.number, "%m", "%g", depth * width),
            *shift("%og", self.number, "%o", "%g", size),
            f"call void @pack{k}(ptr %mg, ptr %og)",
        ]
        self.functions.append(repeated(f"@packs{k}", ("%m", "%o"), each_pack, "%g", groups))
        packs.append(f"call void @packs{k}(ptr {self.pointers[matrix]}, ptr %packed{k})")
        place = self.resolve(vectors) or self.stored[vectors]
        out = self.places[each.outputs[0]]
        lines, first = shift("%p", self.number, "%b", "%j", depth * panel), 0
        for m in sorted(set(rows)):
            name, times = f"{k}_{m}", rows.count(m)
            one = block(f"@block{name}", m, count, self.wide, depth, place, out, self.kind)
            each_block = [
                *shift("%ai", self.number, "%a", "%i", m * place.stride),
                *shift("%ci", self.number, "%c", "%i", m * out.stride),
                f"call void @block{name}(ptr %ai, ptr %b, ptr %ci)",
            ]
            args = ("%a", "%b", "%c")
            self.functions += [one, repeated(f"@blocks{name}", args, each_block, "%i", times)]
            at = first * place.stride + place.offset
            lines += [f"%a{m} = getelementptr {self.number}, ptr %a, i64 {at}"]
            lines += shift(f"%c{m}", self.number, "%c", "%j", panel, first * out.stride)
            lines += [f"call void @blocks{name}(ptr %a{m}, ptr %p, ptr %c{m})"]
            first += m * times
        self.functions.append(repeated(f"@panels{k}", ("%a", "%b", "%c"), lines, "%j", panels))
        group = [
            *shift("%ag", self.number, "%a", "%g", first * place.stride),
            *shift("%bg", self.number, "%b", "%g", size),
            *shift("%cg", self.number, "%c", "%g", first * out.stride),
            f"call void @panels{k}(ptr %ag, ptr %bg, ptr %cg)",
        ]
        self.functions.append(repeated(f"@product{k}", ("%a", "%b", "%c"), group, "%g", groups))
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


def _bits(value) -> tuple:
    """Equal for equal numbers only; what is printed of them may be less."""
    array = np.asarray(value)
    return array.dtype.str, array.shape, array.tobytes()


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


def _field(name: str, pointer: str, offset: int, kind: str) -> list[str]:
    """A field of a structure of XLA's."""
    return [
        f"{name}.at = getelementptr i8, ptr {pointer}, i64 {offset}",
        f"{name} = load {kind}, ptr {name}.at",
    ]
