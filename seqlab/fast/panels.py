"""Products of rows with a matrix that is laid out in panels, block by block: text for LLVM.

References: Goto and van de Geijn, 2008.
"""

from collections.abc import Iterable

from seqlab.fast.elementary import define


def shift(name, number, pointer, index, size, offset=0) -> list[str]:
    """A pointer further on by `index` times `size` numbers and `offset`."""
    return [
        f"{name}.by = mul i64 {index}, {size}",
        f"{name}.to = add i64 {name}.by, {offset}",
        f"{name} = getelementptr {number}, ptr {pointer}, i64 {name}.to",
    ]


def repeated(name: str, args: Iterable[str], lines: list[str], index: str, times: int) -> str:
    """A function that does the same for every value of `index`."""
    loop = ["entry:", "br label %turn", "turn:", f"{index} = phi i64 [0, %entry], [%next, %turn]"]
    loop += [*lines, f"%next = add i64 {index}, 1", f"%more = icmp ult i64 %next, {times}"]
    loop += ["br i1 %more, label %turn, label %done", "done:", "ret void"]
    return define(
        f"internal void {name}({', '.join(f'ptr noalias {arg}' for arg in args)}) noinline", loop
    )


def block(name, rows, count, lanes, depth, place, out, kind) -> str:
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


def pack(name, depth, width, panel, is_by_row, number) -> str:
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
