"""How much memory do long sequences take, and what does saving it cost in time?

    python -m experiments.benchmarks.memory

A training step (forward and backward of all parameters, float32) of one LSTM over T steps, for the
last state alone or for the mean of squares of all h_t: by `unroll` as it chooses, with
`remat_every` near the square root of T, by the plain loop, by Flax and by PyTorch. Each in a
process of its own: XLA's temporary memory, the peak of resident memory above what was resident
before the first step (Linux), and the median time of a step. Run it alone on the machine.
"""

import concurrent.futures
import multiprocessing
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.cells.lstm import LSTM
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_known
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog

VARIANTS = ("seqlab", "seqlab remat", "seqlab scan", "flax linen", "torch")
LOSSES = ("last", "all")
RESIDENT = Path("/proc/self/statm")


@dataclass(frozen=True)
class Config:
    """Memory and time of long sequences."""

    seq_lens: tuple[int, ...] = (1000, 10000)
    """T, steps"""
    batch_size: int = 16
    """B, sequences"""
    hidden_size: int = 128
    """H, units, and width of the inputs"""
    losses: tuple[str, ...] = LOSSES
    """of the last state, of all outputs, or both"""
    variants: tuple[str, ...] = VARIANTS
    rounds: int = 5
    """timed steps after two of warm-up"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("batch_size", "hidden_size", "rounds"):
            check_at_least(getattr(self, field), 1, field)
        for num_steps in self.seq_lens:
            check_at_least(num_steps, 1, "seq_lens")
        for name in self.losses:
            check_known(name, LOSSES, "losses")
        for name in self.variants:
            check_known(name, VARIANTS, "variants")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls((64,), 2, 8, ("last",), ("seqlab", "seqlab remat"), 2)


def run(config: Config, log: RunLog) -> None:
    """Measures every variant at every length."""
    everything = []
    for num_steps in config.seq_lens:
        for loss in config.losses:
            rows = []
            for variant in config.variants:
                log.write(step=0, seq_len=num_steps, loss=loss, variant=variant)
                found = in_a_process_of_its_own(config, num_steps, loss, variant)
                rows.append({"seq_len": num_steps, "loss": loss, "variant": variant, **found})
            first = rows[0]["median_s"]
            rows = [{**row, "x_first": row["median_s"] / first} for row in rows]
            log.table(f"T={num_steps}, loss of {loss}", rows)
            everything += rows
    log.finish(rows=everything)


def in_a_process_of_its_own(config, num_steps, loss, variant):
    """What `measure` finds there."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, config, num_steps, loss, variant).result()


def measure(config: Config, num_steps: int, loss: str, variant: str) -> dict[str, float | None]:
    """Seconds of a step, MiB that XLA sets aside, and MiB resident at most above the start."""
    rng = np.random.default_rng(config.seed)
    shape = (config.batch_size, num_steps, config.hidden_size)
    xs = rng.standard_normal(shape, dtype=np.float32)
    make = torch_step if variant == "torch" else jax_step
    step, temp_mib = make(config, loss, variant, xs)
    before = resident_mib()
    with Peak() as peak:
        step()
        step()
        seconds = []
        for _ in range(config.rounds):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    above = None if before is None else peak.mib - before
    return {"median_s": statistics.median(seconds), "temp_mib": temp_mib, "peak_mib": above}


def jax_step(config, loss, variant, xs):
    """A compiled training step, and XLA's temporary memory."""
    size = config.hidden_size
    if variant == "flax linen":
        from flax import linen

        layer = linen.RNN(linen.OptimizedLSTMCell(size), return_carry=True)
        params = layer.init(jax.random.key(config.seed), jnp.asarray(xs[:, :2]))

        def walk(params, xs):
            (_, h), ys = layer.apply(params, xs)
            return h, ys
    else:
        cell = LSTM(size)
        params = cell.init(jax.random.key(config.seed), size)
        options = {
            "seqlab": {},
            "seqlab remat": {"remat_every": max(1, round(xs.shape[1] ** 0.5))},
            "seqlab scan": {"form": "scan"},
        }[variant]

        def walk(params, xs):
            walked = unroll(cell, params, xs, **options)
            return walked.carry.h, walked.ys

    def objective(params, xs):
        return jnp.mean(jnp.square(walk(params, xs)[0 if loss == "last" else 1]))

    xs = jnp.asarray(xs)
    compiled = jax.jit(jax.value_and_grad(objective)).lower(params, xs).compile()
    memory = compiled.memory_analysis()
    temp = None if memory is None else memory.temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(compiled(params, xs)), temp


def torch_step(config, loss, variant, xs):
    """The same in PyTorch."""
    import torch

    layer = torch.nn.LSTM(config.hidden_size, config.hidden_size, batch_first=True)
    tensor = torch.from_numpy(xs)

    def step():
        layer.zero_grad(set_to_none=True)
        ys, (h, _) = layer(tensor)
        (h if loss == "last" else ys).pow(2).mean().backward()

    return step, None


class Peak:
    """The most memory that was resident while it was entered, seen every 2 ms."""

    def __enter__(self):
        self.mib = resident_mib() or 0.0
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *rest):
        self._is_over.set()
        self._watcher.join()

    def _watch(self):
        while not self._is_over.wait(0.002):
            self.mib = max(self.mib, resident_mib() or 0.0)


def resident_mib() -> float | None:
    """Of this process; None where the system does not tell."""
    if not RESIDENT.exists():
        return None
    return int(RESIDENT.read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    main(Config, run)
