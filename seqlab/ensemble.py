"""Nets trained side by side in one compiled program: seeds, gains, initialisations."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqlab.errors import InputError
from seqlab.train import TrainState, first_nonfinite
from seqlab.types import SHARDS, Array

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
      state: of all nets, every leaf [N, ...]: `jax.vmap` of `init_state` over keys.
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
        # Where the first block leaves it, else the second would be compiled once more.
        state = jax.device_put(state, NamedSharding(mesh, nets))
    compiled = jax.jit(block)
    step = int(np.max(state.step))
    batches = iter(batches)
    while rows := list(itertools.islice(batches, every)):
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        state, metrics = compiled(state, stacked)
        if np.any(metrics["skipped"]):
            where = first_nonfinite(stacked)
            if where is not None:
                raise InputError(
                    f"steps {step + 1} to {step + len(rows)}: the batches (by step, net, row) hold "
                    f"{where}; clean the data or mask it"
                )
        step += len(rows)
        yield step, state, metrics


def share_out(num_nets: int, num_devices: int | None = None) -> int:
    """How many devices have equal shares of the nets: the most of them, or `num_devices`.

    Raises:
      InputError: there are not as many, or their shares would not be equal.
    """
    known = len(jax.devices())
    if num_devices is None:
        return max(n for n in range(1, known + 1) if num_nets % n == 0)
    if num_devices > known:
        raise InputError(f"num_devices is {num_devices}, there are {known}")
    if num_nets % num_devices:
        raise InputError(f"{num_nets} nets cannot be shared out evenly over {num_devices} devices")
    return num_devices
