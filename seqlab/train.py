"""Training as a pure step and an iterator over steps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from seqlab.errors import InputError
from seqlab.types import SHARDS, Array, Carry, Params

LossFn = Callable[..., tuple[Array, Any]]  # (params, batch, key[, carry])


@struct.dataclass
class TrainState:
    """Everything a training step reads and writes, a plain tree of arrays."""

    step: Array  # scalar, batches seen
    params: Params
    opt_state: Any
    key: Array  # of the next step's randomness
    skipped: Array  # scalar, updates left out because they were not finite
    carry: Carry = None  # what a stateful model hands from batch to batch, leaves [B, ...]


class Gradients(NamedTuple):
    """One batch's loss and what came with it."""

    loss: Array  # scalar
    metrics: dict[str, Array]  # name -> scalar
    carry: Carry
    params: Params  # dL/dparams


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    key: Array,
    carry: Carry = None,
) -> TrainState:
    """State before the first batch.

    Args:
      params: of the model.
      optimizer: any optax transformation.
      key: of the training's randomness.
      carry: None, or what a stateful model begins with, leaves [B, ...].
    """
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.init(params), key, zero, carry)


def fresh_state(
    init: Callable[[Array], Params], optimizer: optax.GradientTransformation, key: Array
) -> TrainState:
    """State of a new net: half of the key draws its parameters by `init`, half is for training."""
    key_params, key_training = jax.random.split(key)
    return init_state(init(key_params), optimizer, key_training)


@dataclass(frozen=True)
class TrainStep:
    """A pure step, `train_step(state, batch) -> (state, metrics)`; see `make_train_step`."""

    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    clip_norm: float | None = None
    accumulate: int = 1
    stateful: bool = False
    norms_every: int | None = None
    mesh: Mesh | None = None  # set by a `Session` with devices: rows are shared out over its SHARDS

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """The state after one more batch, and its metrics."""
        key, step_key = jax.random.split(state.key)
        loss, extra, carry, grads = self.gradients(state, batch, step_key)
        grad_norms = group_norms(grads) if self.norms_every is not None else {}
        norm = global_norm(grad_norms or grads)  # the norm of norms is the norm
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        for leaf in jax.tree.leaves(carry):
            is_finite &= jnp.all(jnp.isfinite(leaf))
        is_clipped = jnp.zeros((), bool)
        if self.clip_norm is not None:
            is_clipped = is_finite & (norm > self.clip_norm)
            clipped = shortened(grads, norm, self.clip_norm, is_clipped)
        else:
            clipped = grads
        clipped = jax.tree.map(lambda g: jnp.where(is_finite, g, 0.0), clipped)
        updates, opt_state = self.optimizer.update(clipped, state.opt_state, state.params)
        moved = optax.apply_updates(state.params, updates)
        params, opt_state, carry = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old),
            (moved, opt_state, carry),
            (state.params, state.opt_state, state.carry),
        )
        skipped = 1 - is_finite.astype(jnp.int32)
        metrics: dict[str, Any] = {
            **extra,
            "loss": loss,
            "grad_norm": norm,
            "clipped": is_clipped.astype(jnp.int32),
            "skipped": skipped,
        }
        step = state.step + 1
        if self.norms_every is not None:
            # Of what is in memory anyway: that the update be kept for its norm costs 4 % of a step.
            def measure(old, new):
                update = jax.tree.map(jnp.subtract, new, old)
                return {"param": group_norms(old), "update": group_norms(update)}

            pair = (state.params, params)
            rest = jax.lax.cond(
                step % self.norms_every == 0,
                measure,
                lambda *pair: jax.tree.map(jnp.zeros_like, jax.eval_shape(measure, *pair)),
                *pair,
            )
            metrics["norms"] = {"grad": grad_norms, **rest}
        new = TrainState(step, params, opt_state, key, state.skipped + skipped, carry)
        return new, metrics

    def gradients(self, state: TrainState, batch: Any, key: Array) -> Gradients:
        """Loss, metrics, carry and gradient of a batch; `key` is the second half of the state's."""
        parts = self._sums
        if self.mesh is not None:
            rows = PartitionSpec(SHARDS)
            specs = [
                jax.tree.map(lambda leaf: rows if jnp.ndim(leaf) else PartitionSpec(), tree)
                for tree in (batch, state.carry)
            ]
            parts = jax.shard_map(
                self._shared_sums,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), *specs, PartitionSpec()),
                out_specs=(PartitionSpec(), rows),
                check_vma=False,
            )
        (weight, loss, metrics, grads), carry = parts(state.params, batch, state.carry, key)
        whole = jnp.where(weight > 0, weight, 1.0)
        loss, metrics, grads = jax.tree.map(lambda value: value / whole, (loss, metrics, grads))
        return Gradients(loss, metrics, carry, grads)

    def _shared_sums(self, params, batch, carry, key):
        """One device's rows, added up over devices: once a step, not once a time step."""
        sums, carry = self._sums(params, batch, carry, key)
        return jax.lax.psum(sums, SHARDS), carry

    def _sums(self, params, batch, carry, key):
        """(weight, loss, metrics, gradients), the last three times the weight, and the carry.

        With `accumulate` = k the rows are taken in k turns, row i in turn i mod k, so that rows
        shared out over devices stay where they are.
        """

        def loss_fn(params, batch, carry, key):
            if self.stateful:
                loss, (metrics, carry) = self.loss_fn(params, batch, key, carry)
            else:
                loss, metrics = self.loss_fn(params, batch, key)
            # Here, where it costs no pass over all gradients. A count has no derivative.
            weight = jax.lax.stop_gradient(jnp.asarray(metrics.get("weight", 1.0), loss.dtype))
            rest = {name: value for name, value in metrics.items() if name != "weight"}
            metrics = jax.tree.map(lambda value: value * weight, rest)
            return loss * weight, (weight, metrics, carry)

        def turn(batch, carry, key):
            (loss, (weight, metrics, carry)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                params, batch, carry, key
            )
            return (weight, loss, metrics, grads), carry

        if self.accumulate == 1:
            return turn(batch, carry, key)

        def split(leaf):
            if leaf.shape[0] % self.accumulate:
                raise InputError(
                    f"a batch of {leaf.shape[0]} rows cannot be taken in {self.accumulate} turns: "
                    "choose a multiple of it for batch_size"
                )
            return jnp.moveaxis(leaf.reshape(-1, self.accumulate, *leaf.shape[1:]), 1, 0)

        def add(total, part):
            sums, carry = turn(*part)
            return jax.tree.map(jnp.add, total, sums), carry

        parts = (*jax.tree.map(split, (batch, carry)), jax.random.split(key, self.accumulate))
        shapes, _ = jax.eval_shape(
            lambda parts: turn(*jax.tree.map(lambda leaf: leaf[0], parts)), parts
        )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        with jax.named_scope("turns"):
            sums, carry = jax.lax.scan(add, zeros, parts)
        return sums, jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), carry
        )


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    clip_norm: float | None = None,
    accumulate: int = 1,
    stateful: bool = False,
    norms_every: int | None = None,
) -> TrainStep:
    """A pure `train_step(state, batch) -> (state, metrics)`: jit it, scan it, vmap it over seeds.

    The gradient is clipped by its global norm, g <- g min(1, clip_norm / ||g||), over all
    parameters; a loss, gradient or carry that is not finite changes neither parameters nor
    optimiser nor carry, and is counted.

    Args:
      loss_fn: (params, batch, key) -> (scalar, dict of scalars to log).
      optimizer: any optax transformation.
      clip_norm: None, or the largest norm let through.
      accumulate: k, in how many turns a batch is taken; the memory is that of one turn. Losses,
        gradients and metrics of the turns are averaged, weighted by the metric "weight" if
        `loss_fn` gives one (the number of real entries that its mean is over): then the result is
        that of the whole batch.
      stateful: the loss is (params, batch, key, carry) -> (scalar, (dict of scalars, carry)), and
        `TrainState.carry` goes from batch to batch.
      norms_every: None, or k: every k-th step measures norms by group.

    Returns:
      A step whose metrics are those of `loss_fn` and "loss", "grad_norm" (before clipping),
      "clipped" and "skipped" (0 or 1); with `norms_every` also "norms", {"grad": {group: ...},
      "param": ..., "update": ...}, see `group_norms`: the gradient before clipping, at every step;
      the parameters before the update and the update that they took, zeros at the steps between.

    Raises:
      ValueError: `accumulate` or `norms_every` below 1.

    References: Pascanu et al., 2013, algorithm 1.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate}, expected 1 turn or more")
    if norms_every is not None and norms_every < 1:
        raise ValueError(f"norms_every={norms_every}, expected None or 1 step or more")
    return TrainStep(loss_fn, optimizer, clip_norm, accumulate, stateful, norms_every)


def steps(
    train_step: TrainStep, state: TrainState, batches: Iterable[Any]
) -> Iterator[tuple[int, TrainState, dict[str, Array]]]:
    """Trains a batch at a time and hands back (step, state, metrics) after each, from step 1.

    The step is compiled once. When an update had to be skipped and the batch itself holds a NaN or
    an infinity, the data is at fault and training stops.

    Args:
      train_step: from `make_train_step`, or the same under `vmap`.
      state: where to begin.
      batches: trees of arrays of constant shapes; an entry or field "mask" tells which entries of
        the others count.

    Raises:
      InputError: naming the step, the field and the place of a non-finite number in the data.
    """
    compiled = jax.jit(train_step)
    first = int(np.max(state.step))
    for step, batch in enumerate(batches, start=first + 1):
        state, metrics = compiled(state, batch)
        if np.any(metrics["skipped"]):
            where = first_nonfinite(batch)
            if where is not None:
                raise InputError(f"step {step}: the batch holds {where}; clean the data or mask it")
        yield step, state, metrics


def learning_rate_schedule(
    kind: str, base: float, *, num_steps: int, warmup_steps: int = 0, final: float = 0.0
) -> optax.Schedule:
    """Learning rate by step: a linear rise from 0 over `warmup_steps`, then as `kind` says.

    * "constant": base;
    * "linear": from base down to base * final at `num_steps`;
    * "cosine": likewise along half a cosine;
    * "exponential": likewise by the same factor every step (`final` above 0).

    Raises:
      InputError: an unknown kind, a warm-up as long as the training, or a `final` out of range.

    References: Loshchilov and Hutter, 2017 (cosine).
    """
    kinds = ("constant", "linear", "cosine", "exponential")
    if kind not in kinds:
        raise InputError(f"unknown schedule {kind!r}; known: {', '.join(kinds)}")
    if not 0 <= warmup_steps < num_steps:
        raise InputError(f"warmup_steps must be below {num_steps} steps, got {warmup_steps}")
    if not 0.0 <= final <= 1.0 or (kind == "exponential" and final == 0.0):
        raise InputError(f"final must be a share of the learning rate, got {final} ({kind})")
    rest = num_steps - warmup_steps
    after = {
        "constant": lambda: optax.constant_schedule(base),
        "linear": lambda: optax.linear_schedule(base, base * final, rest),
        "cosine": lambda: optax.cosine_decay_schedule(base, rest, final),
        "exponential": lambda: optax.exponential_decay(base, rest, final, end_value=base * final),
    }[kind]()
    if not warmup_steps:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, base, warmup_steps), after], [warmup_steps]
    )


def max_norm(largest: float, *paths: str) -> optax.GradientTransformation:
    """Holds the columns of matrices in a ball, w <- w min(1, `largest` / ||w||) after the update.

    A column of a kernel [I, O] is the weight vector of one output. To be chained last, since it
    reads where the update leads:

        optax.chain(optax.adadelta(1.0), max_norm(3.0, "head.kernel"))

    Args:
      largest: s, the largest Euclidean norm of a column, above 0.
      *paths: of the matrices, names joined by dots.

    Raises:
      InputError: `largest` is not above 0; or, when parameters are there to be looked at, a path
        that leads to no matrix of them.
      ValueError: by `update`, which was not given the parameters.

    References: Hinton et al., 2012; Kim, 2014, section 2.1 (s = 3).
    """
    if not largest > 0.0:
        raise InputError(f"max_norm: largest must be above 0, got {largest}")

    def init(params):
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        matrices = {_dotted(path) for path, leaf in leaves if jnp.ndim(leaf) == 2}
        for path in paths:
            if path not in matrices:
                raise InputError(f"max_norm: the model has no matrix {path!r}")
        return optax.EmptyState()

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("max_norm: give the parameters to `update`")

        def held(path, change, old):
            if _dotted(path) not in paths:
                return change
            new = old + change
            norms = jnp.linalg.norm(new, axis=0, keepdims=True)
            return new * (largest / jnp.maximum(norms, largest)) - old

        return jax.tree_util.tree_map_with_path(held, updates, params), state

    return optax.GradientTransformation(init, update)


def _dotted(path):
    return jax.tree_util.keystr(path, simple=True, separator=".")


def shortened(grads: Params, norm: Array, largest: float | Array, is_clipped: Array) -> Params:
    """Gradients of the norm `norm`, where `is_clipped` made `largest` long; three scalars."""
    # Divided first: largest / norm may be too small for float32 where the result is not.
    length = jnp.where(is_clipped, norm, 1.0)
    size = jnp.where(is_clipped, largest, 1.0)
    return jax.tree.map(lambda g: g / length * size, grads)


def global_norm(tree: Any) -> Array:
    """Euclidean norm of all leaves together, a scalar, finite whenever it can be."""
    leaves = jax.tree.leaves(tree)
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    safe = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1.0)
    return safe * jnp.sqrt(sum(jnp.sum(jnp.square(leaf / safe)) for leaf in leaves))


def group_norms(tree: Any) -> dict[str, Array]:
    """Euclidean norm, a scalar, of each of a tree's groups: {"embed", "rnn", "head": ...}.

    The entries at the top are the groups; the layers of a stack, whose names begin with "layer_",
    are groups of their own, "rnn.layer_0". A tree without names is one group, "all".
    """
    groups = {}
    for name, part in tree.items() if isinstance(tree, dict) else ():
        inner = part.get("weights", part) if isinstance(part, dict) else part
        if isinstance(inner, dict) and any(key.startswith("layer_") for key in inner):
            groups |= {f"{name}.{layer}": leaf for layer, leaf in inner.items()}
        else:
            groups[name] = part
    return {name: global_norm(part) for name, part in (groups or {"all": tree}).items()}


def first_nonfinite(batch: Any) -> str | None:
    """The first entry that is NaN or infinite, such as "xs[3, 12, 0] = nan", or None.

    Where the batch has an entry or field "mask", what it leaves out does not count.
    """
    mask = batch.get("mask") if isinstance(batch, dict) else getattr(batch, "mask", None)
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        values = np.asarray(leaf)
        if not jnp.issubdtype(values.dtype, jnp.inexact):
            continue
        bad = ~np.isfinite(values)
        if mask is not None and values.shape[: mask.ndim] == mask.shape:
            real = np.asarray(mask).reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
            bad &= real
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "batch"
            return f"{name}[{', '.join(map(str, index))}] = {values[index]}"
    return None
