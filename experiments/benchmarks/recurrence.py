"""How long does one training step of one recurrent layer take, next to other systems?

    python -m experiments.benchmarks.recurrence

A step is forward and backward of all parameters, float32, for the mean of squares of all h_t. Per
cell and size B x T x I x H, in one process on the processor, variants interleaved with the order
turned every other round: the layer as `unroll` chooses to walk it, by the plain loop, and with the
batch shared out over one XLA device a core, as training does where the batch is large enough;
PyTorch, Flax, Haiku, Equinox and Keras (on JAX), each in the layout that it prefers; and two
limits, the matrix products alone, step after step and as if time were no obstacle. Medians over
rounds with the least beside them, seconds to compile, and XLA's temporary memory; then geometric
means of the ratios over sizes. Run it alone on the machine.

Weights begin differently in each system, which costs no time. `gru` resets before the matrix
product, as Haiku does; the others reset after it, which is another function: `gru-torch` is theirs.
"""

import functools
import importlib.metadata
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from seqlab import plots
from seqlab.cells.lookup import lookup
from seqlab.cli import main, parse
from seqlab.data.checks import check_at_least, check_known
from seqlab.devices import Devices, num_cores
from seqlab.errors import InputError
from seqlab.recurrence import unroll, why_not_native
from seqlab.runlog import RunLog, processor, read_run
from seqlab.timing import time_variants
from seqlab.types import SHARDS

CELLS = ("lstm", "gru", "gru-after", "gru-torch", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
OWN = ("seqlab", "seqlab scan", "seqlab per core")
LIMITS = ("limit sequential", "limit large")
PACKAGES = ("jax", "torch", "flax", "keras", "dm-haiku", "equinox")
RATIOS = ("x_torch", "x_jax_peer", "x_limit_sequential")
NOISY = 1.5  # median over least from which a row is not to be trusted


class Size(NamedTuple):
    """Of a layer and what it walks."""

    B: int
    T: int
    I: int  # noqa: E741  # the width of the inputs, as in the texts on the command line
    H: int

    @classmethod
    def of(cls, text):
        """From "32x100x128x128"."""
        numbers = text.split("x")
        if len(numbers) != 4 or not all(part.isdecimal() and int(part) for part in numbers):
            raise InputError(f"size {text!r}: expected BxTxIxH, as in 32x100x128x128")
        return cls(*map(int, numbers))


class Variant(NamedTuple):
    """One way to take the step, ready to be timed."""

    call: Callable[[], object]
    compile_s: float | None = None  # tracing included; None where nothing is compiled
    temp_mib: float | None = None


@dataclass(frozen=True)
class Config:
    """Training step of one recurrent layer, next to other systems."""

    cells: tuple[str, ...] = ("lstm", "gru", "rnn")
    """of lstm, gru, gru-after, gru-torch, rnn (tanh)"""
    sizes: tuple[str, ...] = (
        "1x1000x64x64",
        "20x35x650x650",
        "32x100x128x128",
        "128x784x1x128",
        "64x200x256x256",
        "256x50x300x300",
    )
    """BxTxIxH: sequences, steps, width of the inputs, units"""
    peers: tuple[str, ...] = ("torch", "flax nnx", "flax linen", "haiku", "equinox", "keras")
    """other systems; one that is not installed is left out, and without torch so are the limits"""
    devices: int | None = None
    """XLA devices that share out a batch in "seqlab per core"; None for one a core"""
    rounds: int = 9
    """timed rounds"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for name in self.cells:
            check_known(name, CELLS, "cell")
        for text in self.sizes:
            Size.of(text)
        for name in self.peers:
            check_known(name, PEERS, "peer")
        for field in ("cells", "sizes"):
            check_at_least(len(getattr(self, field)), 1, field)
        check_at_least(self.rounds, 1, "rounds")
        if self.devices is not None:
            check_at_least(self.devices, 1, "devices")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs; without Keras, which is slow to import."""
        return cls(
            cells=("lstm", "rnn"),
            sizes=("4x12x3x8", "1x12x3x8"),
            peers=("torch", "flax nnx", "flax linen", "haiku", "equinox"),
            rounds=3,
        )


def run(config: Config, log: RunLog) -> None:
    """Times every variant of every cell at every size."""
    devices = jax.devices()[: config.devices or num_cores()]
    peers = installed(config.peers, log)
    note, rows = functools.cache(log.note), []  # what is left out is told once
    for name in config.cells:
        for text in config.sizes:
            chosen = variants(name, Size.of(text), peers, devices, config.seed, note)
            calls = {label: variant.call for label, variant in chosen.items()}
            seconds = time_variants(calls, config.rounds)
            for label in chosen:
                log.write(step=0, cell=name, size=text, variant=label, rounds=config.rounds)
            found = compare(chosen, seconds)
            log.table(f"{name}, B x T x I x H = {text}", found)
            rows += [{"cell": name, "size": text, **row} for row in found]
    means = geometric_means(rows)
    log.table("geometric means over sizes", means)
    log.finish(rows=rows, means=means, machine=machine(len(devices), "torch" in peers))


def variants(name, size, peers, devices, seed, note) -> dict[str, Variant]:
    """Label -> what is timed, in the order of the tables."""
    kind = name.partition("-")[0]
    xs = np.random.default_rng(seed).standard_normal((size.T, size.B, size.I), np.float32)
    found = own_variants(lookup(name)(hidden_size=size.H), size, xs, devices, seed, note)
    for label in peers:
        variant = PEERS[label][1](kind, size, xs, seed)
        if variant is None:
            note(f"{label}: left out for {name}, it has no such cell")
        else:
            found[label] = variant
    if "torch" in peers:
        found |= limits(kind, size, xs)
    return found


def own_variants(cell, size, xs, devices, seed, note):
    """The layer of this project, on one device and on all."""
    params = cell.init(jax.random.key(seed), size.I)
    xs = jnp.asarray(batch_major(xs))

    def outputs(params, xs, **form):
        return unroll(cell, params, xs, **form).ys

    found = {
        "seqlab": compiled(training_step(outputs), params, xs),
        "seqlab scan": compiled(
            training_step(lambda params, xs: outputs(params, xs, form="scan")), params, xs
        ),
    }
    if len(devices) > 1 and size.B % len(devices) == 0:
        found["seqlab per core"] = per_core(training_step(outputs), params, xs, devices)
    else:
        note(f"seqlab per core: left out where B={size.B}, on {len(devices)} XLA device(s)")
    return found


def per_core(step, params, xs, devices):
    """The step with the batch shared out; gradients are added up once, after the backward pass."""
    shared = Devices(devices)

    def share(params, xs):
        sums = jax.lax.psum(step(params, xs), SHARDS)
        return jax.tree.map(lambda leaf: leaf / shared.count, sums)  # of means over equal shares

    whole, rows = PartitionSpec(), PartitionSpec(SHARDS)
    shares = jax.shard_map(
        share, mesh=shared.mesh, in_specs=(whole, rows), out_specs=whole, check_vma=False
    )
    # Every core has its rows: a product that wants all threads for itself would wait for them.
    variant = compiled(
        shares,
        jax.device_put(params, shared.copied),
        jax.device_put(xs, shared.rows),
        xla_cpu_multi_thread_eigen=False,
    )
    each = variant.temp_mib
    return variant._replace(temp_mib=None if each is None else each * shared.count)


def training_step(outputs):
    """(params, xs) -> the loss and the gradients of all parameters."""
    return jax.value_and_grad(lambda params, xs: jnp.mean(jnp.square(outputs(params, xs))))


def compiled(step, params, xs, **options) -> Variant:
    """A compiled step as a call without arguments."""
    start = time.perf_counter()
    program = jax.jit(step).lower(params, xs).compile(compiler_options=options)
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return Variant(
        lambda: jax.block_until_ready(program(params, xs)),
        seconds,
        None if memory is None else memory.temp_size_in_bytes / 2**20,
    )


def batch_major(xs):
    """From [T, B, I] to [B, T, I], in one piece of memory."""
    return np.ascontiguousarray(np.swapaxes(xs, 0, 1))


def torch_layer(kind, size, xs, seed):
    """PyTorch, by the backend that it chooses itself."""
    import torch

    torch.manual_seed(seed)
    layers = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    layer, inputs = layers[kind](size.I, size.H), torch.from_numpy(xs)

    def call():
        layer.zero_grad(set_to_none=True)
        layer(inputs)[0].square().mean().backward()

    return Variant(call)


def nnx_layer(kind, size, xs, seed):
    """Flax, the newer of its two ways to write a layer."""
    from flax import nnx

    cells = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}
    rngs = nnx.Rngs(seed)
    layer = nnx.RNN(cells[kind](size.I, size.H, rngs=rngs), time_major=True, rngs=rngs)
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    zeros = jnp.zeros((size.B, size.H))
    carry = (zeros, zeros) if kind == "lstm" else zeros  # its own would draw from `rngs`

    def outputs(params, xs):
        return nnx.merge(graph, params, rest, copy=True)(xs, initial_carry=carry)

    return compiled(training_step(outputs), params, jnp.asarray(xs))


def linen_layer(kind, size, xs, seed):
    """Flax, the older way."""
    from flax import linen

    cells = {"lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell, "rnn": linen.SimpleCell}
    layer, xs = linen.RNN(cells[kind](size.H), time_major=True), jnp.asarray(xs)
    return compiled(training_step(layer.apply), layer.init(jax.random.key(seed), xs), xs)


def haiku_layer(kind, size, xs, seed):
    """Haiku's cells by its own loop."""
    import haiku

    cells = {"lstm": haiku.LSTM, "gru": haiku.GRU, "rnn": haiku.VanillaRNN}

    @haiku.without_apply_rng
    @haiku.transform
    def layer(xs):
        cell = cells[kind](size.H)
        return haiku.dynamic_unroll(cell, xs, cell.initial_state(size.B))[0]

    xs = jnp.asarray(xs)
    return compiled(training_step(layer.apply), layer.init(jax.random.key(seed), xs), xs)


def equinox_layer(kind, size, xs, seed):
    """Equinox's cells in a scan, as its documentation walks them; None for the tanh net."""
    import equinox

    if kind == "rnn":
        return None
    cells = {"lstm": equinox.nn.LSTMCell, "gru": equinox.nn.GRUCell}
    cell = cells[kind](size.I, size.H, key=jax.random.key(seed))
    params, rest = equinox.partition(cell, equinox.is_array)
    zeros = jnp.zeros((size.B, size.H))

    def outputs(params, xs):
        walk = jax.vmap(equinox.combine(params, rest))

        def body(carry, x):
            carry = walk(x, carry)
            return carry, carry[0] if kind == "lstm" else carry

        return jax.lax.scan(body, (zeros, zeros) if kind == "lstm" else zeros, xs)[1]

    return compiled(training_step(outputs), params, jnp.asarray(xs))


def keras_layer(kind, size, xs, seed):
    """Keras on JAX, whose layers are batch-major."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # read when keras is imported
    import keras

    keras.utils.set_random_seed(seed)
    layers = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}
    layer = layers[kind](size.H, return_sequences=True)
    layer.build((size.B, size.T, size.I))
    rest = [variable.value for variable in layer.non_trainable_variables]

    def outputs(params, xs):
        return layer.stateless_call(params, rest, xs)[0]

    params = [variable.value for variable in layer.trainable_variables]
    return compiled(training_step(outputs), params, jnp.asarray(batch_major(xs)))


PEERS: dict[str, tuple[str, Callable[..., Variant | None]]] = {
    "torch": ("torch", torch_layer),
    "flax nnx": ("flax", nnx_layer),
    "flax linen": ("flax", linen_layer),
    "haiku": ("haiku", haiku_layer),
    "equinox": ("equinox", equinox_layer),
    "keras": ("keras", keras_layer),
}


def installed(names, log):
    """Those of the peers that are there."""
    found = []
    for name in names:
        if importlib.util.find_spec(PEERS[name][0]) is None:
            log.note(f"{name}: left out, not installed: pip install -e '.[peers]'")
        else:
            found.append(name)
    return found


def limits(kind, size, xs):
    """The matrix products of a step without anything between them, by PyTorch."""
    import torch

    width = GATES[kind] * size.H
    xs = torch.from_numpy(xs).reshape(-1, size.I)
    W_x, W_h = torch.randn(size.I, width), torch.randn(size.H, width)
    W_back = W_h.T.contiguous()
    hs, grads = torch.randn(len(xs), size.H), torch.randn(len(xs), width)
    h, grad = hs[: size.B], grads[: size.B]
    # Room for results is there before the clock starts: pages of fresh memory take time.
    for_W_x, for_W_h = torch.empty_like(W_x), torch.empty_like(W_h)
    for_a, for_h = torch.empty_like(grads), torch.empty_like(hs)

    def outside():
        """Inputs forward, and the gradients of both matrices: they need not wait for a step."""
        torch.mm(xs, W_x, out=for_a)
        torch.mm(xs.T, grads, out=for_W_x)
        torch.mm(hs.T, grads, out=for_W_h)

    def sequential():
        outside()
        for _ in range(size.T):
            torch.mm(h, W_h, out=for_a[: size.B])
        for _ in range(size.T):
            torch.mm(grad, W_back, out=for_h[: size.B])

    def large():
        outside()
        torch.mm(hs, W_h, out=for_a)
        torch.mm(grads, W_back, out=for_h)

    return dict(zip(LIMITS, (Variant(sequential), Variant(large)), strict=True))


def compare(chosen, seconds):
    """A row a variant; a ratio is None where there is nothing to compare with."""
    median = {label: statistics.median(times) for label, times in seconds.items()}
    jax_peers = [median[label] for label in PEERS if label in median and label != "torch"]
    others = (median.get("torch"), min(jax_peers, default=None), median.get("limit sequential"))
    rows = []
    for label, variant in chosen.items():
        mine, least = median[label], min(seconds[label])
        row = {"variant": label, "median_ms": mine * 1e3, "least_ms": least * 1e3}
        row |= {"compile_s": variant.compile_s, "temp_mib": variant.temp_mib}
        row |= {name: other and mine / other for name, other in zip(RATIOS, others, strict=True)}
        rows.append(row | {"noisy": mine > NOISY * least})
    return rows


def geometric_means(rows):
    """Ratios over sizes, with and without single sequences.

    For one device, for one a core, and for whichever of the two a `Session` takes at each size.
    """
    means = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        for label in ("seqlab", "seqlab per core", "as trained"):
            every = plots.pick(rows, cell=cell, variant=label)
            if label == "as trained":
                every = [row for row in plots.pick(rows, cell=cell) if row["variant"] == taken(row)]
            batches = [row for row in every if Size.of(row["size"]).B > 1]
            for which, part in (("all", every), ("B > 1", batches)):
                if part:
                    ratios = {name: geometric_mean(part, name) for name in RATIOS}
                    means.append(
                        {
                            "cell": cell,
                            "variant": label,
                            "over": which,
                            "sizes": len(part),
                            **ratios,
                        }
                    )
    return means


def taken(row):
    """What a `Session` on this machine walks a batch of that size by."""
    return "seqlab per core" if Devices.sharing(Size.of(row["size"]).B) else "seqlab"


def geometric_mean(rows, name):
    """Of one ratio; None where a row has none."""
    values = [row[name] for row in rows]
    return None if None in values else math.exp(statistics.fmean(map(math.log, values)))


def machine(num_devices, with_torch):
    """One line: processor, cores and versions."""
    parts = [processor(), f"{num_cores()} cores", f"{num_devices} XLA devices"]
    reason = why_not_native()
    parts.append("loops of machine code" if reason is None else f"loops left to XLA ({reason})")
    if with_torch:
        import torch

        parts.append(f"{torch.get_num_threads()} torch threads")
    for package in PACKAGES:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"no {package}")
    return ", ".join(parts)


def plot(path: Path) -> None:
    """Draws the figure of a run from its files; without torch, the plain loop is the reference."""
    rows = read_run(path).summary["rows"]
    labels = list(dict.fromkeys(row["variant"] for row in rows))
    reference = "torch" if "torch" in labels else "seqlab scan"
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    ratios = {
        cell: {
            label: [ratio(rows, reference, cell=cell, variant=label, size=size) for size in sizes]
            for label in labels
            if label != reference
        }
        for cell in dict.fromkeys(row["cell"] for row in rows)
    }
    figure = plots.time_ratios(sizes, ratios, reference, filled=OWN, dashes=LIMITS)
    plots.save(figure, path / "figures" / "recurrence.png")


def ratio(rows, reference, **fields):
    """Median over the reference's; NaN where the variant was left out."""
    mine = plots.pick(rows, **fields)
    other = plots.pick(rows, **fields | {"variant": reference})
    return mine[0]["median_ms"] / other[0]["median_ms"] if mine else math.nan


def start() -> None:
    """`main`, with what jax must know before its first use: it reads the count of devices once.

    Compiled programs are not kept, else `compile_s` would be the time to read one.
    """
    with suppress(InputError):  # `main` tells it
        config = parse(Config, sys.argv[1:], __name__).config
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", config.devices or num_cores())
        jax.config.update("jax_enable_compilation_cache", False)
    main(Config, run, plot)


if __name__ == "__main__":
    start()
