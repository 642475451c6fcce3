"""`gradient_report`: runs all the instruments side by side, and has their findings told."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.gradflow.taps import zero_taps
from seqlab.report.findings import Findings
from seqlab.report.programs import (
    run_dynamics,
    run_paths,
    run_rows,
    run_spectrum,
    run_whole,
    total_loss,
)
from seqlab.report.result import GradientReport
from seqlab.report.subject import (
    Alone,
    Layer,
    Probe,
    Read,
    layers_in,
    leaves,
    part_at,
    settle,
    short_name,
)
from seqlab.types import Array, Cell, Model, Params

NUM_PROBED = 8  # sequences under the costly instruments of the dynamics
MAX_SPECTRUM = 128  # largest carry of which every singular value is taken
NUM_COMPARED = 10  # first steps of a walk held to the model's: later, rounding parts them
DOES_NOT_FIT = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def gradient_report(
    cell_or_model: Cell | Model,
    params: Params,
    batch: Any,
    loss: Callable[..., Array] | None = None,
    *,
    cell: Cell | None = None,
    clip_norm: float = 1.0,
) -> GradientReport:
    """How the gradient of a loss travels back through a cell or a model: all instruments at once.

    A share of a part p in a whole G = sum of parts is its projection <p, G> / <G, G>, so that
    shares add up to 1; one may be negative, or above 1, where parts oppose each other. Path shares
    are taken on the leaf that the direct path lives in (c of an LSTM), at each lag over all
    sequences together, as long as the total's norm is above tiny / eps of its dtype (1e-31 in
    float32): nearer to underflow it has no digits to be shared out. The horizon is the least k such
    that the last k steps, and no longer stretch less, carry 90 % of a sequence's dL/dW; the median
    of sequences is told. A curve halves or doubles at the rate of a straight line through its logs,
    unless the first or the last third goes at a rate that differs from it by half, which is then
    said. Dead units are those that never change, at no step of no sequence.

    The clip rate is the share of sequences whose own gradient, over all parameters, of the loss
    averaged over its steps, is longer than `clip_norm`; beside it stands the norm of the gradient
    of the mean loss, which is what training with this batch would clip.

    The dynamics (Jacobian products, the largest Lyapunov exponent after a first quarter of the
    steps, gates) are those of the first 8 sequences; every singular value that of the longest of
    them, where the carry has at most 128 entries.

    Args:
      cell_or_model: a cell, walked forward alone; or a `Model`, whose `apply` takes `taps`.
      params: of the cell, or of the model.
      batch: xs; or (xs, mask); or a NamedTuple with fields `xs` and, if it likes, `mask` (True
        where real; padding counts for nothing), `targets` and more for the loss. xs is [..., T, D]
        for a cell, and whatever the model reads first for a model.
      loss: loss(output), or loss(output, batch): a scalar, one number a sequence [...], or one a
        step [..., T], which are added up, so that each sequence's gradient is its own. A scalar
        is taken as it is: a mean over B sequences gives each 1/B of its gradient. Of a cell,
        `output.logits` is what the outside sees after the last real step; without a loss it is
        projected on one fixed random unit vector, so that dL/dh_T has norm 1, in no special
        direction, whatever the state is.
      cell: the cell in the model, for the parts that need it; each layer's, where there are
        several. Whether it is, with these inputs, is verified by walking them.
      clip_norm: the global norm that training would clip at.

    Returns:
      GradientReport. Where a number is not finite it says at which step, in which leaf and by
      which operation it first arose, and holds no more than that and the curves.

    Raises:
      TypeError: for something that is neither a cell nor a model, or a batch or a loss of another
        form.
      ValueError: for parameters, inputs, mask or a loss's result that do not fit.
    """
    if not clip_norm > 0:
        raise ValueError(f"gradient_report: clip_norm={clip_norm}, expected a number above 0")
    probe, params, read = settle(cell_or_model, params, batch, loss, cell)
    found = Findings(probe, params, read, clip_norm)
    with ThreadPoolExecutor() as pool:
        _run(found, _starter(pool))
    return found.report()


class Walk(NamedTuple):
    """What a cell reads in one layer, in the order in which it walks."""

    weights: Params
    xs: Array  # [P, T, D]
    real: Array  # [P, T]


def _starter(pool: ThreadPoolExecutor) -> Callable[..., Future]:
    """Starts a program on another thread, so that several compile side by side."""
    with_x64 = jnp.result_type(float) == jnp.float64

    def start(function, *args):
        def call():
            with jax.enable_x64(with_x64):  # the caller's setting is that of its thread alone
                return jax.block_until_ready(function(*args))

        return pool.submit(call)

    return start


def _run(found: Findings, start: Callable[..., Future]) -> None:
    """Starts all programs, and takes in what they find in the order of the text."""
    probe, params, read = found.probe, found.params, found.read
    by_row = len(found.batch_shape) == 1
    whole = start(run_whole, probe, params, read)
    rows = start(run_rows, probe, by_row, params, read)
    paths = None
    if found.wants_paths():
        paths = start(run_paths, probe, found.top.keys[0], found.leaf, params, read)
    total, count, log_norms, carries, parameter_norms = whole.result()
    if not _is_finite(total, log_norms, carries):
        found.add_not_finite(log_norms, carries, _origin(probe, params, read))
        return
    walks = _walks(found, carries)
    dynamics = {layer: start(run_dynamics, probe.cell, *walk) for layer, walk in walks.items()}
    spectrum = None
    if found.top in walks and found.carry_size(found.top) <= MAX_SPECTRUM:
        lags, xs = _longest(walks[found.top])
        spectrum = start(run_spectrum, probe.cell, lags, walks[found.top].weights, xs)
    found.add_curves(log_norms)
    dynamics = _verified(found, dynamics, walks, carries)
    if paths is not None and found.top in dynamics:
        found.add_paths(paths)
    alone = _alone(rows, total, by_row)
    found.add_weights(alone or _as_one(found, rows, by_row), by_sequence=alone is not None)
    for layer, result in dynamics.items():
        found.add_dynamics(layer, walks[layer].weights, np.asarray(walks[layer].real), result)
    if found.top in dynamics:
        if spectrum is None:
            found.left_out.append(
                f"every singular value: the carry has over {MAX_SPECTRUM} entries"
            )
        else:
            found.arrays["singular_lags"] = np.asarray(lags)
            found.arrays["log_singular_values"] = np.asarray(spectrum.result())
    found.add_units(carries)
    found.add_sizes(parameter_norms, count)
    if probe.cell is None:
        found.left_out.append(
            "paths, Jacobians, Lyapunov exponent, gates: name the cell in the model, cell=..."
        )


# Sequences one by one.


def _alone(rows: Future, total, by_row: bool):
    """What `run_rows` found, if the sequences' own losses add up to the whole one, or average."""
    try:
        found = rows.result()
    except DOES_NOT_FIT:
        return None
    losses = found[0]
    scale = float(jnp.sum(jnp.abs(losses)))
    sums = (jnp.sum(losses), jnp.mean(losses)) if by_row else ()
    return found if any(abs(float(total - each)) <= 1e-4 * scale for each in sums) else None


def _as_one(found: Findings, rows: Future, by_row: bool):
    """The whole batch in place of a sequence; None where even that is not to be had."""
    try:
        if by_row:
            return run_rows(found.probe, False, found.params, found.read)
        return rows.result()
    except DOES_NOT_FIT as error:
        reason = str(error).partition("\n")[0]
        found.left_out.append(f"shares of dL/dW: {reason}")
        return None


# What a cell walks inside a model.


def _walks(found: Findings, carries) -> dict[Layer, Walk]:
    """What the cell reads in each layer, as far as that is known."""
    cell, xs = found.probe.cell, found.read.inputs[0]
    if cell is None:
        return {}
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        try:
            xs = found.params["embed"]["embedding"][xs]
        except (KeyError, TypeError):
            found.left_out.append(
                "dynamics: the tokens are not read through params['embed']['embedding']"
            )
            return {}
    walks = {}
    for layer in found.layers:
        site, *inner = layer.keys
        reads = xs
        number = next((key.removeprefix("layer_") for key in inner if key[:6] == "layer_"), "0")
        if number != "0":
            below = layers_in(carries[site][f"layer_{int(number) - 1}"])
            below = sorted(below, reverse=True, key=lambda pair: pair[0])  # forward, backward
            reads = jnp.concatenate([cell.output(carry) for _, carry in below], axis=-1)
        real = jnp.asarray(found.real(layer))
        reads = reads.reshape(-1, *reads.shape[-2:])
        try:
            weights = part_at(found.params[site]["weights"], tuple(inner))
        except (KeyError, TypeError):
            continue
        if reads.shape[:2] != real.shape:
            continue
        reads, real = jnp.where(real[..., None], reads, 0.0)[:NUM_PROBED], real[:NUM_PROBED]
        if layer.is_backward:
            reads, real = reads[:, ::-1], real[:, ::-1]
        walks[layer] = Walk(weights, reads, real)
    return walks


def _longest(walk: Walk) -> tuple[tuple[int, ...], Array]:
    """Some lags, and the probed sequence with the most real steps, without its padding."""
    real = np.asarray(walk.real)
    row = int(np.argmax(real.sum(-1)))
    steps = np.flatnonzero(real[row]) if real[row].any() else np.arange(1)
    lags = np.unique(np.round(np.geomspace(1, len(steps), 8)).astype(int))
    return tuple(lags.tolist()), walk.xs[row, steps]


def _verified(found: Findings, dynamics: dict[Layer, Future], walks, carries) -> dict[Layer, Any]:
    """The findings of those layers that the cell walks to the model's own states."""
    if isinstance(found.probe.apply, Alone):
        return {layer: future.result() for layer, future in dynamics.items()}
    fits = {}
    for layer, future in dynamics.items():
        try:
            result = future.result()
        except DOES_NOT_FIT:
            continue  # parameters of another cell
        if _is_same_walk(result[3], part_at(carries, layer.keys), layer, walks[layer]):
            fits[layer] = result
    cell = short_name(found.probe.cell)
    if walks and not fits:
        raise ValueError(
            f"gradient_report: cell={cell} does not come to the model's states in any recurrence "
            "of it: is it the cell in the model?"
        )
    for layer in walks.keys() - fits.keys():
        found.left_out.append(
            f"dynamics of {layer.label}: {cell} does not come to the model's states there"
        )
    return fits


def _is_same_walk(own, models, layer: Layer, walk: Walk) -> bool:
    if jax.tree.structure(own) != jax.tree.structure(models):
        return False
    real = np.asarray(walk.real)[:, :NUM_COMPARED, None]
    for mine, theirs in zip(leaves(own).values(), leaves(models).values(), strict=True):
        theirs = np.asarray(theirs).reshape(-1, *theirs.shape[-2:])[: len(real)]
        theirs = (theirs[:, ::-1] if layer.is_backward else theirs)[:, :NUM_COMPARED]
        gap = np.abs(np.asarray(mine)[:, :NUM_COMPARED] - theirs)
        if np.any(np.where(real, gap, 0.0) > 1e-3 * np.abs(theirs) + 1e-4):
            return False
    return True


# What is not a number.


def _is_finite(total, log_norms, carries) -> bool:
    norms = [np.asarray(leaf) for leaf in jax.tree.leaves(log_norms)]
    return (
        bool(np.isfinite(total))
        and not any(np.isnan(each).any() or (each == np.inf).any() for each in norms)
        and all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(carries))
    )


def _origin(probe: Probe, params, read: Read) -> str | None:
    """The operation from which the first number that is not finite came, in words."""
    from seqlab.recorder import locate  # with it come checkpoints, which nothing else here needs

    def run(params, xs, batch):
        own = Read((xs, *read.inputs[1:]), read.mask, batch)

        def loss(params, taps):
            output = probe.apply(params, *own.inputs, taps=taps)
            return total_loss(probe.loss(output, batch), own)[0]

        taps = zero_taps(probe.apply, params, *own.inputs)
        return jax.value_and_grad(loss, argnums=(0, 1))(params, taps)

    origin = locate(run, params, read.inputs[0], read.batch, names=("params", "xs", "batch"))
    return None if origin is None else str(origin)
