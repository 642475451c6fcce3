"""What a report looks at, in one form: a cell or a model, its parameters, its batch, its loss."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.recurrence import unroll
from seqlab.types import Array, Cell, Output, Params


class Loss:
    """A loss, equal to itself alone: a jitted function of it never serves an older one's value."""

    def __init__(self, function: Callable[..., Any], takes_batch: bool):
        self.function, self.takes_batch = function, takes_batch

    def __call__(self, output, batch):
        return self.function(output, batch) if self.takes_batch else self.function(output)


def _along_one_direction(output):
    size = output.logits.shape[-1]
    direction = jax.random.normal(jax.random.key(0), (size,), output.logits.dtype)
    return output.logits @ (direction / jnp.linalg.norm(direction))


DEFAULT_LOSS = Loss(_along_one_direction, takes_batch=False)


@dataclass(frozen=True)
class Alone:
    """A cell as the `apply` of a model; equal for equal cells, so that programs are kept."""

    cell: Cell

    def __call__(self, params, xs, mask=None, *, taps=None, weight_taps=None, routes=None):
        with jax.named_scope("rnn"):
            walked = unroll(
                self.cell,
                params["rnn"]["weights"],
                xs,
                mask=mask,
                taps=(taps or {}).get("rnn"),
                weight_taps=(weight_taps or {}).get("rnn"),
                routes=routes,
            )
        last = self.cell.output(walked.carry)
        return Output(last, last, {"rnn": walked.carries})


class Probe(NamedTuple):
    """What programs are compiled for."""

    apply: Callable[..., Output]
    loss: Loss
    cell: Cell | None
    name: str


class Read(NamedTuple):
    """What programs are called with, beside the parameters."""

    inputs: tuple[Array, ...]  # (xs,) or (xs, mask)
    mask: Array | None
    batch: Any  # as the loss takes it


class Layer(NamedTuple):
    """One carry of a model."""

    label: str  # "rnn", "layer_0.forward"
    keys: tuple[str, ...]  # from the site inwards
    is_backward: bool


def settle(cell_or_model, params, batch, loss, cell) -> tuple[Probe, Params, Read]:
    """Cell or model, parameters and batch in the one form that the programs take.

    Raises:
      TypeError, ValueError: as `gradient_report`.
    """
    if isinstance(cell_or_model, type):
        name = cell_or_model.__name__
        raise TypeError(f"gradient_report: {name} is a class; make one, as in {name}(64)")
    is_cell = all(hasattr(cell_or_model, name) for name in ("initial_carry", "step", "output"))
    if not is_cell and not (hasattr(cell_or_model, "apply") and hasattr(cell_or_model, "init")):
        raise TypeError(
            "gradient_report: expected a cell (init, initial_carry, step, output) or a Model "
            f"(init, apply), got {type(cell_or_model).__name__}; a Flax module becomes a Model by "
            "seqlab.functional"
        )
    read = _read_batch(batch)
    if is_cell:
        if cell is not None and cell != cell_or_model:
            raise ValueError(
                f"gradient_report: cell={short_name(cell)} beside the cell "
                f"{short_name(cell_or_model)}; it is for a model"
            )
        if not jnp.issubdtype(read.inputs[0].dtype, jnp.floating) or read.inputs[0].ndim < 2:
            raise ValueError(
                f"gradient_report: xs is {_shape(read.inputs[0])}, a cell reads real numbers "
                "[..., T, D]; tokens need a model with a vocabulary"
            )
        apply, cell, params = Alone(cell_or_model), cell_or_model, {"rnn": {"weights": params}}
        name = short_name(cell_or_model)
    else:
        if loss is None:
            raise ValueError(
                "gradient_report: a model needs a loss, for instance lambda out, batch: "
                "seqlab.losses.cross_entropy(out.logits, batch.targets)"
            )
        apply = cell_or_model.apply
        name = "model" if cell is None else f"model of {short_name(cell)}"
    probe = Probe(apply, DEFAULT_LOSS if loss is None else _read_loss(loss), cell, name)
    _check(probe, params, read)
    return probe, params, read


def _read_batch(batch) -> Read:
    if isinstance(batch, Mapping):
        raise TypeError(
            "gradient_report: batch is a dict; give xs, (xs, mask), or a NamedTuple with xs, "
            "targets, mask"
        )
    if hasattr(batch, "xs"):
        if jax.tree.structure(batch) == jax.tree.structure(0):
            raise TypeError(
                f"gradient_report: batch is a {type(batch).__name__}, of which jax sees no arrays; "
                "make it a NamedTuple"
            )
        xs, mask = batch.xs, getattr(batch, "mask", None)
    elif isinstance(batch, tuple | list):
        if not 1 <= len(batch) <= 2:
            raise TypeError(
                f"gradient_report: batch has {len(batch)} parts; give xs, (xs, mask), or a "
                "NamedTuple with xs, targets, mask"
            )
        xs, mask = (*batch, None)[:2]
    else:
        xs, mask = batch, None
    if not hasattr(xs, "shape"):
        raise TypeError(f"gradient_report: xs is a {type(xs).__name__}, expected an array")
    xs = jnp.asarray(xs)
    if mask is None:
        return Read((xs,), None, batch)
    if np.result_type(getattr(mask, "dtype", float)).kind != "b":
        raise TypeError(
            "gradient_report: mask is no array of bool, True where real; targets go into a "
            "NamedTuple with xs, targets, mask"
        )
    return Read((xs, jnp.asarray(mask)), jnp.asarray(mask), batch)


def _read_loss(loss) -> Loss:
    if not callable(loss):
        raise TypeError(f"gradient_report: loss is a {type(loss).__name__}, expected a function")
    try:
        found = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return Loss(loss, takes_batch=False)
    count = sum(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in found
    )
    if count not in (1, 2):
        raise TypeError(
            f"gradient_report: loss takes {count} arguments, expected loss(output) or "
            "loss(output, batch)"
        )
    return Loss(loss, takes_batch=count == 2)


def _check(probe: Probe, params, read: Read) -> None:
    """Refuses what does not fit, by name."""
    try:
        output = jax.eval_shape(lambda p: probe.apply(p, *read.inputs), params)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"gradient_report: {probe.name} cannot be applied to these params and xs "
            f"{_shape(read.inputs[0])}: {error}"
        ) from error
    carries = getattr(output, "carries", None)
    if not isinstance(carries, dict) or not jax.tree.leaves(carries):
        raise TypeError(
            "gradient_report: the model's apply gives no carries; it returns an Output with "
            "`carries`, a dict by recurrence"
        )
    _check_cell(probe, params, carries)
    steps = jax.tree.leaves(carries)[0].shape[:-1]
    if read.mask is not None and read.mask.shape != steps:
        raise ValueError(f"gradient_report: mask is {read.mask.shape}, expected {steps}")
    value = jax.eval_shape(lambda o, b: probe.loss(o, b), output, read.batch)
    shape = getattr(value, "shape", None)
    if shape not in ((), steps[:-1], steps):
        given = f"a {type(value).__name__}" if shape is None else f"an array {shape}"
        raise ValueError(
            f"gradient_report: the loss gives {given}, expected a scalar, one a "
            f"sequence {steps[:-1]} or one a step {steps}"
        )


def short_name(cell) -> str:
    """A cell's class, and the fields that are not at their defaults."""
    if not dataclasses.is_dataclass(cell):
        return type(cell).__name__
    fields = [
        f"{field.name}={getattr(cell, field.name)!r}"
        for field in dataclasses.fields(cell)
        if field.init and getattr(cell, field.name) != field.default
    ]
    return f"{type(cell).__name__}({', '.join(fields)})"


def weight_name(weights) -> str | None:
    """The name of the matrices from state to state, "W_h"; None where none is called so."""
    return "W_h" if any(name.split(".")[-1] == "W_h" for name in leaves(weights)) else None


def _check_cell(probe: Probe, params, carries) -> None:
    """Refuses a cell with other parameters than every recurrence of the model, before it is run."""
    cell = probe.cell
    if cell is None:
        return
    own = jax.tree.structure(jax.eval_shape(lambda key: cell.init(key, 1), jax.random.key(0)))
    known = []
    for layer in layers_of(carries):
        site, *inner = layer.keys
        if isinstance(params.get(site), Mapping) and "weights" in params[site]:
            known.append(jax.tree.structure(part_at(params[site]["weights"], tuple(inner))))
    if known and own not in known:
        raise ValueError(
            f"gradient_report: {short_name(cell)} has other parameters than the recurrence: "
            f"{own}, not {known[0]}"
        )


def _shape(array) -> str:
    return f"{array.dtype}{list(array.shape)}"


def layers_in(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every carry in nested dicts, with the keys that lead there."""
    if not isinstance(tree, dict):
        yield keys, tree
        return
    for key, part in tree.items():
        yield from layers_in(part, (*keys, key))


def layers_of(carries: dict[str, Any]) -> list[Layer]:
    """Every layer and direction of a model: sites by name, layers by number, forward last."""

    def place(keys):
        digits = [int(key.removeprefix("layer_")) for key in keys if key[:6] == "layer_"]
        return keys[0], digits, keys

    found = sorted((keys for keys, _ in layers_in(carries)), key=place)
    inner = [own[1:] if len(carries) == 1 and len(own) > 1 else own for own in found]
    return [
        Layer(".".join(label), own, own[-1] == "backward" and len(own) > 1)
        for own, label in zip(found, inner, strict=True)
    ]


def part_at(tree: Any, keys: tuple[str, ...]) -> Any:
    """What nested dicts hold under some keys."""
    return functools.reduce(lambda part, key: part[key], keys, tree)


def leaves(carry: Any) -> dict[str, Array]:
    """The leaves of a carry by name, also where records lie in records."""
    found, _ = jax.tree_util.tree_flatten_with_path(carry)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "h": leaf for path, leaf in found
    }
