"""Training on several devices, and in several processes: the batch is shared out, the rest copied.

One process uses all of its own devices. For more processes, on one machine or many, start the same
command in each with

    SEQLAB_COORDINATOR=host:port SEQLAB_NUM_PROCESSES=2 SEQLAB_PROCESS_ID=0   # and 1, ...

or, under Slurm, Open MPI or on a TPU pod, with `SEQLAB_COORDINATOR=auto` alone. The first process
writes the run; `--out` must name one directory that all of them can read.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqlab.errors import InputError
from seqlab.types import SHARDS

COORDINATOR, COUNT, INDEX = "SEQLAB_COORDINATOR", "SEQLAB_NUM_PROCESSES", "SEQLAB_PROCESS_ID"


def join() -> bool:
    """Joins the other processes if the environment names them; whether there are any.

    Raises:
      InputError: a variable that is missing or is no number.
    """
    address = os.environ.get(COORDINATOR)
    if not address:
        return False
    if jax.distributed.is_initialized():
        return are_several()
    if address == "auto":
        jax.distributed.initialize()
    else:
        values = {}
        for name in (COUNT, INDEX):
            try:
                values[name] = int(os.environ.get(name, ""))
            except ValueError:
                raise InputError(
                    f"{COORDINATOR} is set, so {name} must be a number; it is "
                    f"{os.environ.get(name)!r}"
                ) from None
        if not 0 <= values[INDEX] < values[COUNT]:
            raise InputError(f"{INDEX} must be from 0 to {COUNT} - 1, got {values[INDEX]}")
        jax.distributed.initialize(address, values[COUNT], values[INDEX])
    return are_several()


def is_first() -> bool:
    """Whether this is the process that writes."""
    return not are_several() or jax.process_index() == 0


def agree(value: Any) -> Any:
    """The first process's value in every process: a tree of numbers or arrays."""
    if not are_several():
        return value
    return multihost_utils.broadcast_one_to_all(value)


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    if not are_several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def are_several() -> bool:
    """Whether processes train together; a single one starts no device to find that out."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def local(tree: Any) -> Any:
    """Of values that every device holds whole, the copy that this process has by itself."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree
    )


class Devices:
    """All devices of all processes in one row, for data-parallel training.

    Each device walks its own rows; losses and gradients are added up once a step. So the same
    global batch gives the same curve, but for the order in which numbers are added.

    Attributes:
      mesh: the devices, along the axis SHARDS.
      count: how many there are.
      copied: the sharding of what every device holds whole.
      rows: the sharding of what is cut along its first axis.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        self.mesh = Mesh(np.asarray(jax.devices() if devices is None else devices), (SHARDS,))
        self.count = self.mesh.size
        self.copied = NamedSharding(self.mesh, PartitionSpec())
        self.rows = NamedSharding(self.mesh, PartitionSpec(SHARDS))

    def put_batch(self, batch: Any) -> Any:
        """A batch with its rows shared out; a leaf without axes is copied.

        Every process gives the whole batch and keeps its own rows.

        Raises:
          InputError: the rows cannot be shared out evenly.
        """
        return jax.tree.map(lambda leaf: self._put(leaf, is_rows=np.ndim(leaf) > 0), batch)

    def put_state(self, state: Any) -> Any:
        """A `TrainState` on every device; the rows of its carry are shared out."""
        copied = jax.tree.map(
            lambda leaf: self._put(leaf, is_rows=False), state.replace(carry=None)
        )
        return copied.replace(carry=self.put_batch(state.carry))

    def state_shardings(self, state: Any) -> Any:
        """The shardings of `put_state`, leaf by leaf."""
        copied = jax.tree.map(lambda leaf: self.copied, state.replace(carry=None))
        return copied.replace(carry=jax.tree.map(lambda leaf: self.rows, state.carry))

    def _put(self, leaf: Any, *, is_rows: bool) -> jax.Array:
        if is_rows and np.shape(leaf)[0] % self.count:
            raise InputError(
                f"a batch of {np.shape(leaf)[0]} rows cannot be shared out over {self.count} "
                "devices: choose a multiple of it for batch_size"
            )
        sharding = self.rows if is_rows else self.copied
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = self._put(jax.random.key_data(leaf), is_rows=is_rows)
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
