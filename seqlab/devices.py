"""Training on several devices, and in several processes: the batch is shared out, the rest copied.

One process uses all of its own devices; of a processor, one a core where the batch is large enough
(`make_one_per_core`, `Devices.sharing`). For more processes, on one machine or many, start the same
command in each with

    SEQLAB_COORDINATOR=host:port SEQLAB_NUM_PROCESSES=2 SEQLAB_PROCESS_ID=0   # and 1, ...

or, under Slurm, Open MPI or on a TPU pod, with `SEQLAB_COORDINATOR=auto` alone. The first process
writes the run; `--out` must name one directory that all of them can read.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqlab.errors import InputError
from seqlab.types import SHARDS

LEAST_ROWS = 8  # of a batch on one core
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


def make_one_per_core(count: int | None) -> str | None:
    """Lets XLA see the processor as several devices, so that a batch can be shared out over cores.

    Left as it is where the user has said how many devices there are (`XLA_FLAGS`,
    `JAX_NUM_CPU_DEVICES`), where several processes train together, and where jax has begun to
    compute. Nothing changes beside a GPU.

    Args:
      count: how many; None for one a core.

    Returns:
      One line that says what was set, or None.
    """
    count = num_cores() if count is None else count
    flags = os.environ.get("XLA_FLAGS", "")
    is_told = (
        getattr(jax.config, "jax_num_cpu_devices", -1) != -1
        or "host_platform_device_count" in flags
    )
    if count < 2 or is_told or os.environ.get(COORDINATOR):
        return None
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # too late: jax has its devices
        return None
    return f"jax_num_cpu_devices set to {count}, one a core (--num-devices 1 leaves it)"


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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

    @classmethod
    def sharing(cls, batch_size: int, num_devices: int | None = None) -> "Devices | None":
        """Those that share out a batch, or None where one device alone is best.

        Args:
          batch_size: rows of a batch.
          num_devices: how many; None for all of them, but on a processor for as many as can have
            equal shares of 8 rows or more: below that their matrix products are too small.

        Raises:
          InputError: there are not as many.
        """
        here = jax.devices()
        if num_devices is not None and num_devices > len(here):
            raise InputError(f"num_devices is {num_devices}, there are {len(here)}")
        count = num_devices or len(here)
        if num_devices is None and here[0].platform == "cpu" and jax.process_count() == 1:
            fitting = (n for n in range(1, count + 1) if batch_size % n == 0)
            count = max(n for n in fitting if n == 1 or batch_size // n >= LEAST_ROWS)
        return cls(here[:count]) if count > 1 else None

    @property
    def compiler_options(self) -> dict[str, Any]:
        """Of what runs on all of them: with a device for each core, none needs threads."""
        first = self.mesh.devices.flat[0]
        own = [each for each in self.mesh.devices.flat if each.process_index == jax.process_index()]
        is_full = first.platform == "cpu" and len(own) >= num_cores()
        return {"xla_cpu_multi_thread_eigen": False} if is_full else {}

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

    def share_rows(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """`function(params, batch)` whose rows, of batch and result, are shared out; not jitted."""
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(SHARDS)),
            out_specs=PartitionSpec(SHARDS),
            check_vma=False,
        )

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
