"""Training as a pure step and an iterator over steps."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from seqlab.errors import InputError
from seqlab.types import Array, Params

LossFn = Callable[[Params, Any, Array], tuple[Array, dict[str, Array]]]


@struct.dataclass
class TrainState:
    """Everything a training step reads and writes, a plain tree of arrays."""

    step: Array  # batches seen
    params: Params
    opt_state: Any
    key: Array  # of the next step's randomness
    skipped: Array  # updates left out because they were not finite


TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]


def init_state(params: Params, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """State before the first batch."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.init(params), key, zero)


def make_train_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, clip_norm: float | None = None
) -> TrainStep:
    """A pure `train_step(state, batch) -> (state, metrics)`: jit it, scan it, vmap it over seeds.

    The gradient is clipped by its global norm, g <- g min(1, clip_norm / ||g||), over all
    parameters; a loss or gradient that is not finite changes neither parameters nor optimiser, and
    is counted.

    Args:
      loss_fn: (params, batch, key) -> (scalar, dict of scalars to log).
      optimizer: any optax transformation.
      clip_norm: None, or the largest norm let through.

    Returns:
      A step whose metrics are those of `loss_fn` and "loss", "grad_norm" (before clipping),
      "clipped" and "skipped" (0 or 1).

    References: Pascanu et al., 2013, algorithm 1.
    """

    def train_step(state, batch):
        key, step_key = jax.random.split(state.key)
        (loss, extra), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, batch, step_key
        )
        norm = global_norm(grads)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        is_clipped = jnp.zeros((), bool)
        if clip_norm is not None:
            is_clipped = is_finite & (norm > clip_norm)
            # Divided first: clip_norm / norm may be too small for float32 where the result is not.
            length, size = jnp.where(is_clipped, norm, 1.0), jnp.where(is_clipped, clip_norm, 1.0)
            grads = jax.tree.map(lambda g: g / length * size, grads)
        grads = jax.tree.map(lambda g: jnp.where(is_finite, g, 0.0), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        moved = optax.apply_updates(state.params, updates)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old),
            (moved, opt_state),
            (state.params, state.opt_state),
        )
        skipped = 1 - is_finite.astype(jnp.int32)
        metrics = {
            **extra,
            "loss": loss,
            "grad_norm": norm,
            "clipped": is_clipped.astype(jnp.int32),
            "skipped": skipped,
        }
        return TrainState(state.step + 1, params, opt_state, key, state.skipped + skipped), metrics

    return train_step


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


def global_norm(tree: Any) -> Array:
    """Euclidean norm of all leaves together, finite whenever it can be."""
    leaves = jax.tree.leaves(tree)
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    safe = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1.0)
    return safe * jnp.sqrt(sum(jnp.sum(jnp.square(leaf / safe)) for leaf in leaves))


def first_nonfinite(batch: Any) -> str | None:
    """The first entry that is NaN or infinite, such as "xs[3, 12, 0] = nan", or None.

    Where the batch has an entry or field "mask", what it leaves out does not count.
    """
    mask = batch.get("mask") if isinstance(batch, dict) else getattr(batch, "mask", None)
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        values = np.asarray(leaf)
        if not np.issubdtype(values.dtype, np.floating):
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
