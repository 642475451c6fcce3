"""What do the gradient probes cost, next to one plain training step of the same net?

    python -m experiments.benchmarks.probes

Per cell, in one process, variants interleaved with the order turned every other round: the loss and
all parameter gradients (the plain step); the same with the norm of dL/dcarry_t at every step from
the same backward pass; the norms alone; and, for a short check of the claim, the same norms by one
backward pass a time step. Medians over rounds; run it alone on the machine.
"""

import statistics
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.lookup import lookup
from seqlab.cli import main
from seqlab.data.checks import check_at_least
from seqlab.gradflow.taps import (
    carry_gradients,
    gradients,
    log_norm_over_time,
    zero_taps,
)
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.runlog import RunLog
from seqlab.timing import time_variants


@dataclass(frozen=True)
class Config:
    """Cost of dL/dh_t norms relative to a plain training step."""

    cells: tuple[str, ...] = ("rnn", "lstm", "gru")
    """names of cells, or package.module:Class"""
    batch_size: int = 32
    """B, sequences"""
    seq_len: int = 200
    """T, steps"""
    hidden_size: int = 128
    """H, units, and width of the inputs"""
    rounds: int = 11
    """timed rounds after one of warm-up"""
    one_by_one: bool = False
    """also time one backward pass a time step"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for name in self.cells:
            lookup(name)
        for field in ("batch_size", "seq_len", "hidden_size", "rounds"):
            check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(batch_size=4, seq_len=20, hidden_size=16, rounds=3, one_by_one=True)


def run(config: Config, log: RunLog) -> None:
    """Times every variant of every cell."""
    rows = []
    for name in config.cells:
        seconds = time_variants(variants(name, config), config.rounds)
        plain = statistics.median(seconds["plain step"])
        for variant, times in seconds.items():
            log.write(step=0, cell=name, variant=variant, rounds=len(times))
            rows.append(
                {
                    "cell": name,
                    "variant": variant,
                    "median_ms": statistics.median(times) * 1e3,
                    "least_ms": min(times) * 1e3,
                    "x_plain_step": statistics.median(times) / plain,
                }
            )
    log.table(f"B={config.batch_size} T={config.seq_len} H={config.hidden_size}", rows)
    log.finish(rows=rows)


def variants(name, config):
    """Name -> a compiled call without arguments."""
    size = config.hidden_size
    key_params, key_xs = jax.random.split(jax.random.key(config.seed))
    model = functional(ManyToOne, lookup(name)(hidden_size=size), input_size=size, output_size=1)
    params = model.init(key_params)
    xs = jax.random.normal(key_xs, (config.batch_size, config.seq_len, size))

    def loss(output):
        return jnp.sum(jnp.square(output.logits))

    def plain(params, xs):
        return jax.value_and_grad(lambda params: loss(model.apply(params, xs)))(params)

    def probed(params, xs):
        found = gradients(model.apply, loss, params, xs)
        return found.loss, found.params, log_norm_over_time(found.carries["rnn"])

    def norms(params, xs):
        return log_norm_over_time(carry_gradients(model.apply, loss, params, xs)["rnn"])

    def one_by_one(params, xs):
        zeros = zero_taps(model.apply, params, xs)["rnn"]

        def at(t):
            def tapped(row):
                taps = jax.tree.map(lambda leaf, part: leaf.at[..., t, :].set(part), zeros, row)
                return loss(model.apply(params, xs, taps={"rnn": taps}))

            grads = jax.grad(tapped)(jax.tree.map(lambda leaf: leaf[..., 0, :], zeros))
            return log_norm_over_time(grads)

        return jax.lax.map(at, jnp.arange(config.seq_len))

    chosen = {"plain step": plain, "step and norms": probed, "norms alone": norms}
    if config.one_by_one:
        chosen["norms, one backward pass a step"] = one_by_one
    calls = {}
    for label, function in chosen.items():
        compiled = jax.jit(function).lower(params, xs).compile()
        calls[label] = lambda compiled=compiled: jax.block_until_ready(compiled(params, xs))
    return calls


if __name__ == "__main__":
    main(Config, run)
