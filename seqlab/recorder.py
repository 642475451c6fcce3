"""The flight recorder: where a loss or gradient first stopped being a finite number.

`locate` walks the program of a computation one operation at a time, loops included, and follows
every NaN and infinity that reaches the result back to the operation, or the input, where it arose.
Infinities that are meant and never reach the result, such as those that mask a maximum, are passed
over. `record_nonfinite` does so for a training step and keeps its inputs; `python -m seqlab.replay`
takes them up again.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from seqlab.checkpoint import Checkpoints, local_copy
from seqlab.recurrence import using
from seqlab.train import TrainState, TrainStep

FOLDER, REPORT = "nonfinite", "report.json"
BACKWARD = "~"  # stands among the scopes of an operation of the backward pass
NO_PLACE = {"unroll", "chunks", "steps", "turns", BACKWARD}  # seqlab's own loops
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call",
         "custom_vjp_call", "eval_jaxpr")  # fmt: skip
INSIDE_JAX = re.compile(r"[/\\]site-packages[/\\](jax|jaxlib|flax|optax)[/\\]")


@dataclass(frozen=True)
class Origin:
    """Where a number first was not finite.

    Attributes:
      value: "nan" or "inf".
      order: how many operations had been run; 0 for an input.
      operation: name of the primitive, "input" for what came in so, "constant" for what is written
        in the program.
      place: scopes from the outside in, such as ("rnn", "layer_0", "f").
      layer: the scopes of the recurrence, "rnn.layer_0"; empty outside any.
      time_step: of the recurrence's input, from 0; None outside any.
      part: the scopes inside the step: the gate or other part of the cell; "" where it names none.
      is_backward: in the backward pass.
      turn: of accumulation, from 0; None without.
      source: "file.py:12 in step", the innermost line that is not jax's.
      entry: index of the first such entry of the operation's result.
      shape: of that result.
      name: of an input, "batch.xs[3, 12, 0]".
      fed_by: for a NaN that came of infinities, where the first of them arose.
    """

    value: str
    operation: str
    order: int
    place: tuple[str, ...] = ()
    layer: str = ""
    time_step: int | None = None
    part: str = ""
    is_backward: bool = False
    turn: int | None = None
    source: str = ""
    entry: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    name: str = ""
    fed_by: "Origin | None" = None

    def __str__(self):
        if self.operation == "input":
            return f"{self.name} = {self.value} came in"
        where = [f"layer {self.layer}"] if self.layer else []
        where += [f"time step {self.time_step}"] if self.time_step is not None else []
        where += [f"at {self.part}"] if self.part else []
        where = where or ([".".join(self.place)] if self.place else [])
        where += ["in the backward pass"] if self.is_backward else []
        how = f"{self.operation}, {self.source}" if self.source else self.operation
        first = f"{', '.join(where)} ({how})" if where else how
        return f"{self.value} first in {first}"


@dataclass(frozen=True)
class _Tracked:
    """A value, and where its NaN and its infinities came from."""

    value: Any
    nan: Origin | None = None
    inf: Origin | None = None
    rows: "tuple[_Tracked, ...] | None" = None  # of what a loop has stacked up


def locate(function: Callable[..., Any], *args: Any, names: tuple[str, ...] = ()) -> Origin | None:
    """Where the first NaN or infinity of `function(*args)` arose that reaches its result.

    The program that is walked is the one that `jax.jit` would compile, with the plain form of
    `unroll`, run operation by operation: it takes seconds where the compiled one takes
    milliseconds.

    Args:
      function: of trees of arrays, to a tree of arrays; `jax.value_and_grad(...)`, say.
      *args: its arguments.
      names: what to call them in `Origin.name`; their numbers by default.

    Returns:
      None where everything in the result is finite. Where several are not, the one that arose
      first. Followed are whole arrays: where an array holds several such numbers, the first of
      them counts, whether it or another is the one that reaches the result.
    """
    names = names or tuple(f"argument {i}" for i in range(len(args)))
    with using("scan"):  # whose operations lie in the order of time
        program = jax.make_jaxpr(function)(*args)
    inputs = []
    for name, arg in zip(names, args, strict=True):
        for path, leaf in jax.tree_util.tree_flatten_with_path(arg)[0]:
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            inputs.append(_input(leaf, f"{name}.{place}" if place else name))
    walk = _Walk()
    consts = [_input(leaf, "a constant of the program") for leaf in program.consts]
    results = walk.run(program.jaxpr, consts, inputs, (), ())
    found = [origin for each in results for origin in (each.nan, each.inf) if origin]
    if not found:
        return None
    causes = [_cause(origin) for origin in found]
    return min(causes, key=lambda origin: origin.order)


def _cause(origin: Origin) -> Origin:
    """The overflow behind a NaN, unless the infinity was written down on purpose."""
    fed_by = origin.fed_by
    return fed_by if fed_by is not None and fed_by.operation != "constant" else origin


class _Walk:
    """Runs a program operation by operation; counts them, so that origins have an order."""

    def __init__(self):
        self.order = 0

    def run(self, jaxpr, consts, args, scopes, loops) -> list[_Tracked]:
        """Results of a program.

        Args:
          jaxpr: the program.
          consts: its constants, `_Tracked`.
          args: its arguments, `_Tracked`.
          scopes: the scopes around it.
          loops: (scope depth, index, length) of each loop around it.
        """
        known: dict[Any, _Tracked] = dict(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(atom):
            if isinstance(atom, core.Literal):
                return self.constant(atom.val)
            return known[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            inner = scopes + _scopes(eqn)
            outputs = self.equation(eqn, inputs, inner, loops)
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn, inputs, scopes, loops) -> list[_Tracked]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self.scan(params, inputs, scopes, loops)
        if name == "while":
            return self.while_loop(params, inputs, scopes, loops)
        if name == "cond":
            branch = params["branches"][int(np.asarray(inputs[0].value))]
            return self.closed(branch, inputs[1:], scopes, loops)
        if name.startswith(CALLS):
            inner = next(
                params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params
            )
            return self.closed(inner, inputs, scopes, loops)
        results = eqn.primitive.bind(*(each.value for each in inputs), **params)
        results = results if eqn.primitive.multiple_results else [results]
        self.order += 1
        return [self.track(eqn, result, inputs, scopes, loops) for result in results]

    def closed(self, jaxpr, inputs, scopes, loops) -> list[_Tracked]:
        """A program within the program, with its own constants or without."""
        if not isinstance(jaxpr, core.ClosedJaxpr):
            return self.run(jaxpr, [], inputs, scopes, loops)
        consts = [self.constant(value) for value in jaxpr.consts]
        return self.run(jaxpr.jaxpr, consts, inputs, scopes, loops)

    def scan(self, params, inputs, scopes, loops) -> list[_Tracked]:
        consts, carry, xs, split = _scan_parts(params, inputs)
        length = params["length"]
        rows: list[list[_Tracked]] = [[] for _ in range(length)]
        for i in reversed(range(length)) if params["reverse"] else range(length):
            row = [_row(each, i) for each in xs]
            loop = (len(scopes), i, length)
            found = self.closed(params["jaxpr"], [*consts, *carry, *row], scopes, (*loops, loop))
            carry, rows[i] = split(found)
        return [*carry, *(_stack(column) for column in zip(*rows, strict=True))]

    def while_loop(self, params, inputs, scopes, loops) -> list[_Tracked]:
        num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
        cond_consts, rest = inputs[:num_cond], inputs[num_cond:]
        body_consts, carry = rest[:num_body], rest[num_body:]
        turn = 0
        while True:
            inner = (*loops, (len(scopes), turn, 0))
            (goes_on,) = self.closed(params["cond_jaxpr"], [*cond_consts, *carry], scopes, inner)
            if not bool(np.asarray(goes_on.value)):
                return list(carry)
            carry = self.closed(params["body_jaxpr"], [*body_consts, *carry], scopes, inner)
            turn += 1

    def constant(self, value) -> _Tracked:
        def origin(kind, entry, shape):
            return Origin(kind, "constant", self.order, entry=entry, shape=shape)

        return _origins(value, origin)

    def track(self, eqn, value, inputs, scopes, loops) -> _Tracked:
        """A result, with the earliest of its inputs' origins, or one of its own."""

        def origin(kind, entry, shape):
            older = _first(getattr(each, kind) for each in inputs)
            if older:
                return older
            fed_by = _first(each.inf for each in inputs)
            layer, time_step, part, turn = _place(scopes, loops)
            return Origin(
                kind,
                eqn.primitive.name,
                self.order,
                place=_named(scopes),
                layer=layer,
                time_step=time_step,
                part=part,
                is_backward=BACKWARD in scopes,
                turn=turn,
                source=_source(eqn),
                entry=entry,
                shape=shape,
                fed_by=fed_by if kind == "nan" else None,
            )

        return _origins(value, origin)


def _scan_parts(params, inputs):
    """Constants, first carry and rows of a loop's inputs, and how to split a turn's results."""
    if "ft_in" in params:  # from jax 0.11 on
        consts, carry, xs = map(list, params["ft_in"].update(inputs).unpack())
        return consts, carry, xs, lambda found: map(list, params["ft_out"].update(found).unpack())
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    count = params["num_carry"]
    return (
        inputs[:first],
        inputs[first:second],
        inputs[second:],
        lambda found: (found[:count], found[count:]),
    )


def _origins(value: Any, origin: Callable[..., Origin]) -> _Tracked:
    """The value, with an origin for each kind of number in it that is not finite."""
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.inexact):
        return _Tracked(value)
    numbers = np.asarray(value)
    if np.all(np.isfinite(numbers)):
        return _Tracked(value)
    found = {}
    for kind, test in (("nan", np.isnan), ("inf", np.isinf)):
        bad = test(numbers)
        if bad.any():
            found[kind] = origin(kind, tuple(int(i) for i in np.argwhere(bad)[0]), numbers.shape)
    return _Tracked(value, **found)


def _input(leaf: Any, name: str) -> _Tracked:
    def origin(kind, entry, shape):
        full = f"{name}[{', '.join(map(str, entry))}]" if entry else name
        return Origin(kind, "input", 0, entry=entry, shape=shape, name=full)

    return _origins(leaf, origin)


def _row(tracked: _Tracked, i: int) -> _Tracked:
    """One step's share of what a loop reads."""
    if tracked.rows is not None:
        return tracked.rows[i]
    value = tracked.value[i]
    if tracked.nan is None and tracked.inf is None:
        return _Tracked(value)
    return _origins(value, lambda kind, entry, shape: getattr(tracked, kind))


def _stack(rows: tuple[_Tracked, ...]) -> _Tracked:
    """What a loop has stacked up, remembering each step's own origins."""
    nan, inf = (_first(getattr(row, kind) for row in rows) for kind in ("nan", "inf"))
    return _Tracked(jnp.stack([row.value for row in rows]), nan, inf, rows)


def _first(origins: Iterable[Origin | None]) -> Origin | None:
    """The earliest; one that was written down on purpose only where there is no other."""
    found = [origin for origin in origins if origin]
    if not found:
        return None
    return min(found, key=lambda origin: (origin.operation == "constant", origin.order))


def _scopes(eqn) -> tuple[str, ...]:
    """Names of the scopes around an operation; BACKWARD where it belongs to the backward pass."""
    text = str(eqn.source_info.name_stack)
    names = re.sub(r"\w+\(", "", text).replace(")", "").split("/")
    backward = (BACKWARD,) if "transpose(" in text else ()
    return (*backward, *(name for name in names if name))


def _named(scopes) -> tuple[str, ...]:
    """The scopes that a reader knows: parts of the model and of the cell."""
    return tuple(name for name in scopes if name not in NO_PLACE)


def _place(scopes, loops) -> tuple[str, int | None, str, int | None]:
    """Layer, time step, part of the cell and turn of accumulation, as `unroll` marks them."""
    time_step, turn, offset, steps_depth, outer = None, None, 0, None, 0
    for depth, index, length in loops:
        if depth <= outer or time_step is not None:
            continue  # a loop inside the step, or one that stands in no scope of its own
        scope, outer = scopes[depth - 1], depth
        if scope == "turns":
            turn = index
        elif scope == "chunks":
            offset += index
        elif scope == "steps":
            time_step, steps_depth = offset * length + index, depth
    if time_step is None or steps_depth is None:
        return "", None, "", turn
    before = list(_named(scopes[:steps_depth]))
    for name in [name for name in before if name.startswith("from_step_")]:
        before.remove(name)
        time_step += int(name.removeprefix("from_step_"))
    part = _named(scopes[steps_depth:])
    return ".".join(before), time_step, ".".join(part), turn


def _source(eqn) -> str:
    """The innermost line of code that is not jax's own."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not INSIDE_JAX.search(frame.file_name):
            name = frame.function_name.rpartition(".")[2]
            return f"{Path(frame.file_name).name}:{frame.line_num} in {name}"
    return ""


def record_nonfinite(
    run: Path,
    step: int,
    train_step: TrainStep,
    state: TrainState,
    batch: Any,
    *,
    files: Mapping[str, Any] | None = None,
    writes: bool = True,
) -> str:
    """Locates what was not finite in a training step, and keeps its inputs to replay it.

    In `run/nonfinite/step_<step>/`: `report.json`, and the state before the step and the batch, in
    the form of a checkpoint.

    Args:
      run: the run directory.
      step: the training step's number.
      train_step: the step.
      state: before it.
      batch: what it read; an entry "ids" tells which examples these are.
      files: name -> JSON value that belongs to the run, kept beside them.
      writes: False in all but one of several processes.

    Returns:
      One line that says all of it.
    """
    folder = run / FOLDER / f"step_{step}"
    if writes and folder.exists():
        shutil.rmtree(folder)
    with Checkpoints(folder / "inputs", writes=writes) as inputs:
        saved = {"state": state, "batch": batch}
        inputs.save(step, saved, {}, files=files, wait=True, finite=False)
    ids = batch_ids(batch)
    state = local_copy(state)
    origin = locate_step(train_step, state, batch)
    found = "nothing when replayed operation by operation" if origin is None else str(origin)
    example = None if origin is None or ids is None else _example_of(origin, ids)
    report = {
        "step": step,
        "batch_ids": ids,
        "example_id": example,
        "found": found,
        "origin": None if origin is None else asdict(origin),
    }
    if writes:
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    which = "" if ids is None else f", batch ids {_shortened(ids)}"
    which += "" if example is None else f", example {example}"
    return f"step {step}{which}: {found}; replay with: python -m seqlab.replay {run}"


def locate_step(train_step: TrainStep, state: TrainState, batch: Any) -> Origin | None:
    """Where the loss, the new carry or the gradient of a step first was not finite."""
    _, step_key = jax.random.split(jax.random.clone(state.key))

    def gradients(params, carry, batch):
        now = dataclasses.replace(state, params=params, carry=carry)
        found = train_step.gradients(now, batch, jax.random.clone(step_key))
        return found.loss, found.carry, found.params

    return locate(gradients, state.params, state.carry, batch, names=("params", "carry", "batch"))


def batch_ids(batch: Any) -> list[int] | None:
    """Which examples a batch holds, from its entry or field "ids"; None where it does not say."""
    ids = batch.get("ids") if isinstance(batch, Mapping) else getattr(batch, "ids", None)
    return None if ids is None else np.asarray(ids).ravel().tolist()


def _example_of(origin: Origin, ids: list[int]) -> int | None:
    """The id of the row that a number that is not finite belongs to, where that can be told."""
    of_batch = origin.name.startswith("batch.") or (origin.layer and not origin.is_backward)
    if of_batch and origin.turn is None and origin.shape[:1] == (len(ids),):
        return ids[origin.entry[0]]
    return None


def _shortened(ids: list[int]) -> str:
    shown = " ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown} ... ({len(ids)})"
