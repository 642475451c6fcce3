"""The programs of a report: each jitted once, kept for equal cells and the same loss."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from seqlab.cells.rnn import RNN
from seqlab.gradflow import theory
from seqlab.gradflow.jacobians import (
    log_product_norms,
    log_singular_values,
    states_before,
    step_jacobians,
)
from seqlab.gradflow.lyapunov import lyapunov_exponents
from seqlab.gradflow.paths import path_gradients
from seqlab.gradflow.taps import log_norm_over_time, zero_taps
from seqlab.gradflow.weights import share_norms, zero_weight_taps
from seqlab.recurrence import unroll
from seqlab.report.subject import Probe, Read, layers_of, leaves, part_at, weight_name
from seqlab.types import Array, Cell, Params

CALLS = ("jit", "pjit", "closed_call", "remat", "checkpoint", "custom_jvp", "custom_vjp")
PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def total_loss(value, read: Read):
    """(loss added up over what is real, over how many numbers)."""
    if value.ndim == 0:
        return value, 1.0
    if read.mask is not None and value.shape == read.mask.shape:
        return jnp.sum(jnp.where(read.mask, value, 0.0)), jnp.maximum(jnp.sum(read.mask), 1)
    return jnp.sum(value), float(max(value.size, 1))


def norms_of(tree: Any) -> dict[str, Array]:
    """Euclidean norm of every leaf; scaled, since squares leave float32 near 1e-19."""

    def norm(leaf):
        peak = jnp.max(jnp.abs(leaf))
        return peak * jnp.linalg.norm((leaf / jnp.where(peak > 0, peak, 1.0)).ravel())

    return {name: norm(leaf) for name, leaf in leaves(tree).items()}


@functools.partial(jax.jit, static_argnums=0)
def run_whole(probe: Probe, params, read: Read):
    """One pass forward and back: losses, log norms at the carries, gradient norms, the carries."""

    def run(params, taps):
        output = probe.apply(params, *read.inputs, taps=taps)
        value = probe.loss(output, read.batch)
        total, count = total_loss(value, read)
        return total, (count, output.carries)

    zeros = zero_taps(probe.apply, params, *read.inputs)
    (total, (count, carries)), (by_params, by_taps) = jax.value_and_grad(
        run, argnums=(0, 1), has_aux=True
    )(params, zeros)
    log_norms = jax.tree.map(log_norm_over_time, by_taps)
    return total, count, log_norms, carries, norms_of(by_params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_rows(probe: Probe, by_row: bool, params, read: Read):
    """Each sequence alone: loss, gradient norm and the steps' shares of dL/dW by layer.

    Returns:
      (losses [N], gradient norms [N], layer -> (log norms [N, T], shares [N, T])).
    """
    xs = read.inputs[0]
    count = xs.shape[0] if by_row else 1

    def take(index, leaf):
        if by_row and jnp.ndim(leaf) and jnp.shape(leaf)[0] == count:
            return jax.lax.dynamic_slice_in_dim(leaf, index, 1)
        return leaf

    def one(index):
        row = jax.tree.map(lambda leaf: take(index, leaf), read)
        taps = zero_weight_taps(probe.apply, params, *row.inputs)

        def run(params, taps):
            output = probe.apply(params, *row.inputs, weight_taps=taps)
            return total_loss(probe.loss(output, row.batch), row)

        (total, size), (by_params, shares) = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)(
            params, taps
        )
        parts = jnp.stack(list(norms_of(by_params).values())) / size
        found = {}
        for layer in layers_of(jax.eval_shape(probe.apply, params, *row.inputs).carries):
            site, *inner = layer.keys
            own = part_at(shares[site], tuple(inner))
            name = weight_name(own)
            found[layer.label] = (jnp.log(share_norms(own, name)), _projected(own, name))
        return total, jnp.linalg.norm(parts), found

    return jax.lax.map(one, jnp.arange(count))


def _projected(shares: Params, name: str | None) -> Array:
    """<share_t, sum of shares> / <sum, sum> over the leaves called `name`, [T]."""
    parts = [
        leaf.reshape(leaf.shape[0], -1)
        for own, leaf in leaves(shares).items()
        if name is None or own.split(".")[-1] == name
    ]
    flat = jnp.concatenate(parts, axis=-1)
    whole = jnp.sum(flat, axis=0)
    peak = jnp.max(jnp.abs(whole))
    safe = jnp.where(peak > 0, peak, 1.0)
    whole = whole / safe
    return (flat / safe) @ whole / jnp.maximum(whole @ whole, jnp.finfo(flat.dtype).tiny)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def run_paths(probe: Probe, site: str, leaf: str, params, read: Read):
    """Path -> (log norms [..., T], shares of the total [..., T]) on one leaf of the carry."""

    def loss(output):
        return total_loss(probe.loss(output, read.batch), read)[0]

    assert probe.cell is not None
    found = path_gradients(probe.apply, loss, params, *read.inputs, cell=probe.cell, site=site)
    parts = {path: leaves(carry)[leaf] for path, carry in found.items()}
    total = parts["total"]
    peak = jnp.max(jnp.abs(total), axis=-1, keepdims=True)
    unit = total / jnp.where(peak > 0, peak, 1.0)
    square = jnp.maximum(jnp.sum(jnp.square(unit), axis=-1), 1.0)
    return {
        path: (
            log_norm_over_time(part),
            jnp.sum(part / jnp.where(peak > 0, peak, 1.0) * unit, axis=-1) / square,
        )
        for path, part in parts.items()
    }


@dataclass(frozen=True)
class _Padded:
    """A cell that keeps its carry where the last feature, 1 for real, is 0."""

    cell: Cell

    @property
    def hidden_size(self):
        return self.cell.hidden_size

    def init(self, key, input_size):
        return self.cell.init(key, input_size - 1)

    def initial_carry(self, params, batch_shape=()):
        return self.cell.initial_carry(params, batch_shape)

    def step(self, params, carry, x):
        after = self.cell.step(params, carry, x[..., :-1])
        return jax.tree.map(lambda a, b: jnp.where(x[..., -1:] > 0, a, b), after, carry)

    def output(self, carry):
        return self.cell.output(carry)


@functools.partial(jax.jit, static_argnums=0)
def run_dynamics(cell: Cell, params, xs, mask):
    """Jacobian product norms [P, T], growth of one tangent [P, T], gates, carries; xs [P, T, D]."""
    walked = unroll(cell, params, xs, mask=mask)
    norms = log_product_norms(cell, params, xs, mask=mask)
    real = mask[..., None].astype(xs.dtype)
    joined = jnp.concatenate([jnp.where(mask[..., None], xs, 0.0), real], axis=-1)
    growth = lyapunov_exponents(_Padded(cell), params, joined, num_exponents=1, qr_every=1).growth[
        ..., 0
    ]
    before = states_before(cell.initial_carry(params, xs.shape[:-2]), walked.carries)
    gates = _sigmoids(lambda carry, x: cell.step(params, carry, x), before, joined[..., :-1])
    # One that parameters alone decide is the same at every step.
    gates = {
        name: jnp.broadcast_to(gate, (*xs.shape[:-1], gate.shape[-1]))
        for name, gate in gates.items()
        if gate.ndim
    }
    field = jnp.zeros(())
    bound = jnp.zeros_like(norms)
    if isinstance(cell, RNN):
        drive = xs @ params["W_x"] + jnp.expand_dims(params["b"], range(xs.ndim - 1))
        field = jnp.var(drive, where=jnp.broadcast_to(mask[..., None], drive.shape))
        bound = theory.log_rnn_bound(params["W_h"], walked.ys, cell.activation, mask)
    return norms, growth, gates, walked.carries, field, bound


def _sigmoids(step, carry, x) -> dict[str, Array]:
    """What every sigmoid in a step gives, by the scope that it stands in, or by its number."""
    program = jax.make_jaxpr(step)(carry, x)
    found: list[tuple[str, Array]] = []

    def run(jaxpr, consts, args, scopes):
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

        def value(atom):
            return atom.val if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            inputs = [value(atom) for atom in eqn.invars]
            inner = [*scopes, *(s for s in str(eqn.source_info.name_stack).split("/") if s)]
            program = next((eqn.params[key] for key in PROGRAMS if key in eqn.params), None)
            if eqn.primitive.name.startswith(CALLS) and program is not None:
                is_closed = isinstance(program, core.ClosedJaxpr)
                own = (program.jaxpr, program.consts) if is_closed else (program, [])
                outputs = run(*own, inputs, inner)
            else:
                outputs = eqn.primitive.bind(*inputs, **eqn.params)
                outputs = outputs if eqn.primitive.multiple_results else [outputs]
            if eqn.primitive.name == "logistic":
                found.append((inner[-1] if inner else "", outputs[0]))
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    run(program.jaxpr, program.consts, jax.tree.leaves((carry, x)), [])
    names = [name or str(number) for number, (name, _) in enumerate(found, start=1)]
    return {
        name if names.count(name) == 1 else f"{name}{number}": gate
        for number, (name, (_, gate)) in enumerate(zip(names, found, strict=True), start=1)
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_spectrum(cell: Cell, lags: tuple[int, ...], params, xs):
    """Logs of all singular values at some lags, [K, S], of one sequence [T, D]."""
    return log_singular_values(step_jacobians(cell, params, xs), lags)
