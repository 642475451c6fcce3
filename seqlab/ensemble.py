"""Nets trained side by side in one compiled program: seeds, gains, initialisations.

`train_nets` shares out the nets over the devices, for short trainings. `SideBySide` is a training
step for a `seqlab.session.Session`, which saves, resumes and shares out the batch.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqlab.errors import InputError
from seqlab.train import Gradients, TrainState, TrainStep, first_nonfinite
from seqlab.types import SHARDS, Array, Params

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]


def train_nets(
    train_step: Step,
    state: TrainState,
    batches: Iterable[Any],
    *,
    every: int = 1,
    num_devices: int | None = None,
) -> Iterator[tuple[int, TrainState, dict[str, Array]]]:
    """Trains N nets at once and hands back (step, state, metrics) after every `every` updates.

    The step of one net is mapped over the nets, `every` updates are one `lax.scan`, and the nets
    are shared out over the devices: small nets lose no time to calls and none to each other.

    Args:
      train_step: of one net, from `make_train_step`.
      state: of all nets, every leaf [N, ...]: `jax.vmap` of `fresh_state` over keys.
      batches: trees of arrays of constant shapes [N, ...], a net's own rows each.
      every: updates between two looks; a last block may be shorter.
      num_devices: over how many devices the nets are shared out; None for as many as can have
        equal shares.

    Yields:
      The number of updates so far; the state; the metrics of these updates, every leaf
      [updates, N].

    Raises:
      InputError: naming the place of a non-finite number in the data, or devices that cannot have
        equal shares of the nets.
    """
    if every < 1:
        raise InputError(f"every must be 1 or more updates, got {every}")
    if state.step.ndim != 1:
        raise InputError("the state is of one net: make it with jax.vmap, leaves [N, ...]")
    num_nets = len(state.step)
    count = share_out(num_nets, num_devices)

    def block(state, batches):
        return jax.lax.scan(jax.vmap(train_step), state, batches)

    if count > 1:
        mesh = Mesh(np.asarray(jax.devices()[:count]), (SHARDS,))
        nets, nets_in_time = PartitionSpec(SHARDS), PartitionSpec(None, SHARDS)
        block = jax.shard_map(
            block,
            mesh=mesh,
            in_specs=(nets, nets_in_time),
            out_specs=(nets, nets_in_time),
            check_vma=False,
        )
        # In its place from the start, or the second call would be another program.
        state = jax.device_put(state, NamedSharding(mesh, nets))
    compiled = jax.jit(block)
    step = int(np.max(state.step))
    batches = iter(batches)
    while rows := list(itertools.islice(batches, every)):
        block_rows = stacked(rows)
        state, metrics = compiled(state, block_rows)
        if np.any(metrics["skipped"]):
            where = first_nonfinite(block_rows)
            if where is not None:
                raise InputError(
                    f"steps {step + 1} to {step + len(rows)}: the batches (by step, net, row) hold "
                    f"{where}; clean the data or mask it"
                )
        step += len(rows)
        yield step, state, metrics


def map_nets(
    function: Callable[..., Any], num_nets: int, *, num_devices: int | None = None
) -> Callable[..., Any]:
    """A compiled `function` of one net, mapped over N nets that are shared out over the devices.

    Args:
      function: of trees of arrays, one net's.
      num_nets: N, the first axis of every leaf that the result is called with and returns.
      num_devices: as in `train_nets`.

    Raises:
      InputError: devices that cannot have equal shares of the nets.
    """
    count = share_out(num_nets, num_devices)
    mapped = jax.vmap(function)
    if count > 1:
        mesh = Mesh(np.asarray(jax.devices()[:count]), (SHARDS,))
        nets = PartitionSpec(SHARDS)
        mapped = jax.shard_map(mapped, mesh=mesh, in_specs=nets, out_specs=nets, check_vma=False)
    return jax.jit(mapped)


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of numpy arrays as one, with an axis in front: of nets, or of time."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def share_out(num_nets: int, num_devices: int | None = None) -> int:
    """How many devices have equal shares of the nets: the most of them, or `num_devices`.

    Raises:
      InputError: there are not as many, or their shares would not be equal.
    """
    known = len(jax.devices())
    if num_devices is None:
        return max(n for n in range(1, known + 1) if num_nets % n == 0)
    if num_devices < 1:
        raise InputError(f"num_devices must be 1 or more, got {num_devices}")
    if num_devices > known:
        raise InputError(f"num_devices is {num_devices}, there are {known}")
    if num_nets % num_devices:
        raise InputError(f"{num_nets} nets cannot be shared out evenly over {num_devices} devices")
    return num_devices


@dataclass(frozen=True)
class SideBySide:
    """One training step of N nets of each of several kinds, `(state, batch) -> (state, metrics)`.

    Each net is updated, clipped or left out by itself, as the `TrainStep` of its kind does it. The
    state is one `TrainState`, whose params and opt_state are dicts by kind with leaves [N, ...];
    `skipped` counts the updates of all nets. A batch has leaves [B, N, ...], a net's rows each; its
    rows can so be shared out over devices. The metrics of a kind are [N]; "skipped" is 1 where any
    net's update was left out.

    Attributes:
      kinds: (name, step) of each kind; the steps are not stateful. Every net of a kind has a random
        key of its own, which does not depend on how many there are beside it.
      mesh: set by a `Session` with devices.
    """

    kinds: tuple[tuple[str, TrainStep], ...]
    mesh: Mesh | None = None

    def init(self, params: Mapping[str, Params], key: Array) -> TrainState:
        """State before the first batch, from params by kind with leaves [N, ...]."""
        opt_state = {name: jax.vmap(step.optimizer.init)(params[name]) for name, step in self.kinds}
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, dict(params), opt_state, key, zero)

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """The state after one more batch, and its metrics by kind."""
        params, opt_state, metrics = {}, {}, {}
        key, step_key = jax.random.split(state.key)
        keys = jax.random.split(step_key, len(self.kinds))
        for (name, step), kind_key in zip(self.kinds, keys, strict=True):
            step = dataclasses.replace(step, mesh=self.mesh)

            def update(params, opt_state, batch, key, step=step):
                own = dataclasses.replace(state, params=params, opt_state=opt_state, key=key)
                new, metrics = step(own, batch)
                return new.params, new.opt_state, metrics

            params[name], opt_state[name], metrics[name] = jax.vmap(update, in_axes=(0, 0, 1, 0))(
                state.params[name], state.opt_state[name], batch, _own_keys(kind_key, batch)
            )
        skipped = sum(jnp.sum(each["skipped"]) for each in metrics.values())
        new = TrainState(state.step + 1, params, opt_state, key, state.skipped + skipped)
        return new, {**metrics, "skipped": jnp.minimum(skipped, 1)}

    def gradients(self, state: TrainState, batch: Any, key: Array) -> Gradients:
        """Losses and gradients of all nets, for the record of a step that is not finite."""
        found = {}
        keys = jax.random.split(key, len(self.kinds))
        for (name, step), kind_key in zip(self.kinds, keys, strict=True):

            def walk(params, batch, key, step=step):
                own_key = jax.random.split(key)[1]  # as `TrainStep` draws it
                return step.gradients(dataclasses.replace(state, params=params), batch, own_key)

            own_keys = _own_keys(kind_key, batch)
            found[name] = jax.vmap(walk, in_axes=(0, 1, 0))(state.params[name], batch, own_keys)
        losses = jnp.concatenate([each.loss for each in found.values()])
        return Gradients(losses, {}, None, {name: each.params for name, each in found.items()})


class Remembering(NamedTuple):
    """State of an optimiser that remembers parameters."""

    inner: Any
    best: Params  # as they were when `remember` last chose them; at first the initial ones


def remembering(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, in whose state each net's parameters of its best moment can be kept.

    Of nets trained side by side each has its best moment at another step; the state of a run then
    holds them all, and with it every checkpoint.
    """

    def init(params):
        return Remembering(optimizer.init(params), params)

    def update(updates, state, params=None):
        updates, inner = optimizer.update(updates, state.inner, params)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformation(init, update)


@jax.jit
def remember(state: TrainState, is_best: Mapping[str, Array]) -> TrainState:
    """The state of a `SideBySide` in which some nets' parameters are kept as their best.

    Args:
      state: with the optimisers `remembering`.
      is_best: which nets, bool [N] by kind.
    """

    def keep(params, old, chosen):
        def pick(new, old):
            return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return old._replace(best=jax.tree.map(pick, params, old.best))

    kept = {
        name: keep(state.params[name], state.opt_state[name], chosen)
        for name, chosen in is_best.items()
    }
    return dataclasses.replace(state, opt_state={**state.opt_state, **kept})


def _own_keys(key: Array, batch: Any) -> Array:
    """A key for each net of a batch with leaves [B, N, ...], whatever N is."""
    num_nets = jax.tree.leaves(batch)[0].shape[1]
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_nets))
