"""Loops that run as machine code of their own, on a processor, where llvmlite is installed.

`walk_steps` is `jax.lax.scan` of a step whose program is known; as a primitive of jax's it says of
itself how it is differentiated, transposed and batched. Where its steps have a text
(`seqlab.fast.machine`) the program that XLA compiles for a processor calls that; everywhere else it
is the scan. `why_not` tells whether a process has machine code at all, `Steps.text` what a step
holds that has none.
"""

import ctypes
import hashlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from seqlab.fast import machine
from seqlab.fast.columns import UnsupportedError
from seqlab.fast.program import INLINED, choose, from_jaxpr, merge

NAME = "seqlab_steps"  # of the primitive
NEEDED = ("avx2", "fma")  # what the processor must have
LARGE = 2**22  # multiply-adds of a step from which XLA's products on many cores win


@dataclass(frozen=True, eq=False)
class Steps:
    """What a loop does: `program` of (fixed, carry, row) gives (carry, emitted)."""

    program: core.ClosedJaxpr
    num_fixed: int
    num_carry: int
    length: int
    reverse: bool

    @cached_property
    def text(self) -> machine.Text | str:
        """For LLVM, or what the program holds that has none."""
        try:
            return machine.write(
                from_jaxpr(self.program, inlined=INLINED | {"custom_jvp_call"}),
                self.num_fixed,
                self.num_carry,
                self.length,
                self.reverse,
                _registers(),
            )
        except UnsupportedError as error:
            return f"the step holds {error}"
        except RecursionError:
            return "the step holds too long a chain of operations"

    @property
    def is_worth_it(self) -> bool:
        """Whether it is as fast as XLA's loop, which has all cores for a large product.

        Machine code walks on one core; training has an XLA device, and a loop, for each of them.
        """
        is_small = isinstance(self.text, str) or self.text.work < LARGE
        return is_small or _num_cores() <= 2 * jax.local_device_count()


def walk_steps(
    step: Callable[[list[Any], list[Any], list[Any]], tuple[Sequence[Any], Sequence[Any]]],
    fixed: Sequence[Any],
    carry: Sequence[Any],
    rows: Sequence[Any],
    *,
    length: int,
    reverse: bool,
) -> tuple[list[Any], list[Any]]:
    """(last carry, emitted [length, ...]) of carry_t, emitted_t = step(fixed, carry_{t-1}, row_t).

    Args:
      step: pure.
      fixed: what is the same at every step.
      carry: before the first.
      rows: leaves [length, ...].
      length: steps.
      reverse: from the last row to the first.
    """
    steps, consts = trace_steps(
        step, fixed, carry, list(map(_row, rows)), length=length, reverse=reverse
    )
    found = _steps_p.bind(*consts, *fixed, *carry, *rows, steps=steps)
    return found[: len(carry)], found[len(carry) :]


def _row(leaf):
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def trace_steps(step, fixed, carry, rows, *, length: int, reverse: bool) -> tuple[Steps, list[Any]]:
    """(steps, the arrays that `step` has closed over, which become its first fixed ones).

    The arguments are those of `walk_steps`, of which shapes are read, and `rows` those of one step.
    """

    def flat(fixed, carry, row):
        after, emitted = step(fixed, carry, row)
        return [*after, *emitted]

    shapes = [
        [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in part]
        for part in (fixed, carry, rows)
    ]
    closed = jax.make_jaxpr(flat)(*shapes)
    consts = list(closed.consts)
    if consts:
        jaxpr = closed.jaxpr
        jaxpr = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
        closed = core.ClosedJaxpr(jaxpr, [])
    return Steps(closed, len(consts) + len(fixed), len(carry), length, reverse), consts


def _parts(steps, args):
    a, b = steps.num_fixed, steps.num_fixed + steps.num_carry
    return list(args[:a]), list(args[a:b]), list(args[b:])


def _scan(*args, steps):
    """The same as a scan."""
    fixed, carry, rows = _parts(steps, args)

    def turn(carry, row):
        found = core.jaxpr_as_fun(steps.program)(*fixed, *carry, *row)
        return found[: steps.num_carry], found[steps.num_carry :]

    with jax.named_scope("steps"):
        carry, emitted = jax.lax.scan(turn, carry, rows, length=steps.length, reverse=steps.reverse)
    return [*carry, *emitted]


def _abstract(*avals, steps):
    outs = steps.program.out_avals
    carry = list(outs[: steps.num_carry])
    emitted = [out.update(shape=(steps.length, *out.shape)) for out in outs[steps.num_carry :]]
    return [*carry, *emitted]


def _jvp(primals, tangents, *, steps):
    moves = [not isinstance(d, ad.Zero) for d in tangents]

    def scan(*moving):
        return _scan(*merge(primals, moving, moves), steps=steps)

    return jax.jvp(scan, tuple(choose(primals, moves)), tuple(choose(tangents, moves)))


def transposed(
    steps: Steps, is_linear: Sequence[bool], is_given: Sequence[bool]
) -> tuple[Steps, list[Any]]:
    """The loop that walks back, of a loop that is linear in its carry and in some rows.

    Its rows are the others, and then the adjoints of what the loop emits; it emits the adjoints of
    the linear rows.

    Args:
      steps: of the loop.
      is_linear: which of its rows.
      is_given: which of what it emits has an adjoint that is not zero.

    Returns:
      as `trace_steps`.
    """
    fixed, carry, rows = _parts(steps, steps.program.in_avals)
    is_known = [not yes for yes in is_linear]
    linear, known = choose(rows, is_linear), choose(rows, is_known)
    given = choose(steps.program.out_avals[steps.num_carry :], is_given)

    def step(fixed, ct_carry, row):
        known_rows = merge(rows, row[: len(known)], is_known)

        def forward(d_carry, d_rows):
            whole = merge(known_rows, d_rows, is_linear)
            found = core.jaxpr_as_fun(steps.program)(*fixed, *d_carry, *whole)
            return found[: steps.num_carry], choose(found[steps.num_carry :], is_given)

        back = jax.linear_transpose(forward, list(map(_shape, carry)), list(map(_shape, linear)))
        return back((ct_carry, row[len(known) :]))

    shapes = [list(map(_shape, part)) for part in (fixed, carry, [*known, *given])]
    return trace_steps(step, *shapes, length=steps.length, reverse=not steps.reverse)


def _shape(aval):
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _transpose(cts, *args, steps):
    fixed, carry, rows = _parts(steps, args)
    if any(map(ad.is_undefined_primal, fixed)):
        return _transpose_scan(cts, args, steps)
    is_linear = [ad.is_undefined_primal(x) for x in rows]
    ct_carry = [ad.instantiate_zeros(ct) for ct in cts[: steps.num_carry]]
    is_given = [not isinstance(ct, ad.Zero) for ct in cts[steps.num_carry :]]
    given = choose(cts[steps.num_carry :], is_given)
    back, consts = transposed(steps, is_linear, is_given)
    known = choose(rows, [not yes for yes in is_linear])
    found = _steps_p.bind(*consts, *fixed, *ct_carry, *known, *given, steps=back)
    ct_rows = merge([None] * len(rows), found[len(carry) :], is_linear)
    # A first carry that is not among the tangents is zero, or the loop would not be linear.
    ct_first = [
        ct if ad.is_undefined_primal(x) else None for x, ct in zip(carry, found, strict=False)
    ]
    return [*[None] * len(fixed), *ct_first, *ct_rows]


def _transpose_scan(cts, args, steps):
    """The same where a fixed value is among the tangents: its share is summed over the steps."""
    is_linear = [ad.is_undefined_primal(x) for x in args]

    def scan(*linear):
        return _scan(*merge(args, linear, is_linear), steps=steps)

    shapes = [_shape(x.aval) for x in choose(args, is_linear)]
    found = jax.linear_transpose(scan, *shapes)([ad.instantiate_zeros(ct) for ct in cts])
    return merge([None] * len(args), found, is_linear)


def _batch(args, dims, *, steps):
    """One more leading axis for all but what is the same at every step and is not batched."""
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    fixed, carry, rows = _parts(steps, args)
    fixed_dims, carry_dims, row_dims = _parts(steps, dims)
    fixed_axes = [None if d is None else 0 for d in fixed_dims]

    def spread(x, d, to):
        if d is not None:
            return jnp.moveaxis(x, d, to)
        return jnp.broadcast_to(jnp.expand_dims(x, to), (*x.shape[:to], size, *x.shape[to:]))

    fixed = [x if d is None else spread(x, d, 0) for x, d in zip(fixed, fixed_dims, strict=True)]
    carry = [spread(x, d, 0) for x, d in zip(carry, carry_dims, strict=True)]
    rows = [spread(x, d, 1) for x, d in zip(rows, row_dims, strict=True)]

    def step(fixed, carry, row):
        one = core.jaxpr_as_fun(steps.program)
        axes = (*fixed_axes, *[0] * (len(carry) + len(rows)))
        found = jax.vmap(one, in_axes=axes, axis_size=size)(*fixed, *carry, *row)
        return found[: steps.num_carry], found[steps.num_carry :]

    last, emitted = walk_steps(step, fixed, carry, rows, length=steps.length, reverse=steps.reverse)
    return [*last, *emitted], [*[0] * len(last), *[1] * len(emitted)]


def _lower(context, *args, steps):
    call = partial(_scan, steps=steps)
    if why_not() is None and not isinstance(steps.text, str):
        try:
            call = partial(_call, _registered(steps.text.code), steps=steps)
        except (RuntimeError, AttributeError) as error:  # another version of XLA or of llvmlite
            _refused.append(f"it was refused: {error}")
            why_not.cache_clear()
            warnings.warn(f"seqlab: loops are left to XLA: {error}", stacklevel=2)
    return mlir.lower_fun(call, multiple_results=True)(context, *args)


def _call(name, *args, steps):
    outs, text = _abstract(steps=steps), steps.text
    carry, emitted = outs[: steps.num_carry], outs[steps.num_carry :]
    unique = [emitted[text.emits.index(k)] for k in range(len(set(text.emits)))]
    scratch = jax.ShapeDtypeStruct((text.scratch,), outs[0].dtype)
    found = jax.ffi.ffi_call(name, [*map(_shape, (*carry, *unique)), scratch])(*args)
    return [*found[: len(carry)], *(found[len(carry) + k] for k in text.emits)]


def _run(*args, steps):
    with jax.disable_jit(False):
        return jax.jit(partial(_steps_p.bind, steps=steps))(*args)


_steps_p = core.Primitive(NAME)
_steps_p.multiple_results = True
_steps_p.def_impl(_run)
_steps_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_steps_p] = _jvp
ad.primitive_transposes[_steps_p] = _transpose
batching.primitive_batchers[_steps_p] = _batch
mlir.register_lowering(_steps_p, mlir.lower_fun(_scan, multiple_results=True))
mlir.register_lowering(_steps_p, _lower, platform="cpu")


# Machine code.


@cache
def why_not() -> str | None:
    """Why no loop of this process runs as machine code of its own; None where loops can."""
    if _refused:
        return _refused[0]
    if jax.default_backend() != "cpu":
        return f"the device is {jax.default_backend()!r}, and this is for a processor"
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed: pip install 'seqlab[fast]'"
    try:
        missing = [name for name in NEEDED if name not in _features()]
    except (ImportError, OSError, RuntimeError) as error:
        return f"llvmlite does not work here: {error}"
    return f"the processor has no {' and no '.join(missing)}" if missing else None


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _features() -> set[str]:
    from llvmlite import binding as llvm

    return {name for name, has in llvm.get_host_cpu_features().items() if has}


def _registers() -> machine.Registers:
    return machine.Registers(64, 28) if "avx512f" in _features() else machine.Registers(32, 12)


_engines: dict[str, Any] = {}  # kept for good: compiled programs call them
_refused: list[str] = []  # why XLA or LLVM would not take the first text
_one_by_one = threading.Lock()  # programs may be compiled in several threads


def _registered(code: str) -> str:
    """The name under which XLA knows this code; compiled once a process."""
    name = f"seqlab_steps_{hashlib.sha256(code.encode()).hexdigest()[:16]}"
    with _one_by_one:
        if name not in _engines:
            engine = _compiled(code)
            address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
                engine.get_function_address("main")
            )
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
            _engines[name] = engine
    return name


def _compiled(code: str):
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(code)
    module.verify()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
    )
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    return engine
