"""When does the gradient of a recurrent net explode?

    python -m experiments.exploding_gradients
    python -m experiments.exploding_gradients --gains 0.8 1 1.2 --activation relu

The growth rate of Jacobian products on real text, over recurrent gain, input strength,
initialisation and seed in one compiled program, beside mean-field theory. What clipping does about
it: `experiments.clipping`.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqlab import plots
from seqlab.cells.affine import Init, scale_recurrent
from seqlab.cells.rnn import ACTIVATIONS, RNN
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_known
from seqlab.data.problems import TEXTS, Problem, load_problem
from seqlab.errors import InputError
from seqlab.gradflow import theory
from seqlab.gradflow.jacobians import log_jacobian_norms, step_jacobians
from seqlab.metrics import crossing
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog, read_run

BURN_IN = 50  # steps before the Jacobians count, so that the first state is forgotten


@dataclass(frozen=True)
class Config:
    """Growth rate over gain, input strength and initialisation."""

    gains: tuple[float, ...] = tuple(round(0.5 + 0.125 * k, 3) for k in range(17))
    """gains g of W_h in the phase diagram"""
    input_stds: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
    """standard deviations of W_x x, the input's share of a pre-activation"""
    inits: tuple[str, ...] = ("orthogonal", "gaussian")
    """kinds of W_h"""
    activation: str = "tanh"
    """tanh, relu, sigmoid or identity; the theory line is for tanh"""
    dataset: str = "embedded"
    """a text: embedded, tinyshakespeare or ptb"""
    hidden_size: int = 64
    """H, units"""
    seq_len: int = 100
    """T, steps over which growth is measured"""
    num_seeds: int = 5
    """nets at every point"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.dataset, TEXTS, "dataset")
        check_known(self.activation, ACTIVATIONS, "activation")
        for kind in self.inits:
            check_known(kind, ("orthogonal", "gaussian", "glorot", "identity"), "inits")
        for field in ("gains", "input_stds", "inits"):
            check_at_least(len(getattr(self, field)), 1, f"number of {field}")
        for field in ("gains", "input_stds"):
            values = getattr(self, field)
            is_finite = all(0 <= value < float("inf") for value in values)
            if not is_finite or list(values) != sorted(set(values)):
                raise InputError(
                    f"{field} must be finite and increase from 0 or more, got {values}"
                )
        for field in ("hidden_size", "seq_len", "num_seeds"):
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seed, 0, "seed")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            gains=(0.5, 1.0, 1.5, 2.0), input_stds=(0.0, 0.5, 1.0), hidden_size=16, seq_len=32,
            num_seeds=2,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """The phase diagram and the gains at which it changes sign."""
    problem = load_problem(config.dataset, seq_len=config.seq_len + BURN_IN, every_step=True)
    log.write(step=0, dataset=problem.name, digest=problem.digest)
    critical = phase_diagram(config, problem, log)
    log.table("gain at which gradients neither fade nor grow, by input std", critical)
    log.finish(critical_gains=critical)


def phase_diagram(config: Config, problem: Problem, log: RunLog) -> list[dict]:
    """Growth rate in nats per step at every point; the critical gains, a row an input strength."""
    size, num_tokens = config.hidden_size, problem.vocab_size
    windows = problem.sample(np.random.default_rng(config.seed), config.num_seeds, False).xs
    keys = jax.random.split(jax.random.key(config.seed), (len(config.inits), config.num_seeds))

    def net(kind, key):
        cell = RNN(size, config.activation, Init(recurrent=kind))
        key_weights, key_codes, key_state = jax.random.split(key, 3)
        # Characters as random codes, W_x the identity in effect: W_x x has variance 1 a unit.
        codes = jax.random.normal(key_codes, (num_tokens, size))
        first = jax.random.uniform(key_state, (size,), minval=-1.0, maxval=1.0)
        params = cell.init(key_weights, size) | {"W_x": jnp.eye(size)}
        return params, codes, first

    nets = [
        jax.vmap(lambda key, kind=kind: net(kind, key))(row)
        for kind, row in zip(config.inits, keys, strict=True)
    ]
    nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)  # [inits, seeds, ...]
    cell = RNN(size, config.activation)

    def growth(gain, std, one, tokens):
        params, codes, first = one
        params = scale_recurrent(params, gain)
        xs = std * codes[tokens]
        state = unroll(cell, params, xs[:BURN_IN], carry=first).carry
        jacobians = step_jacobians(cell, params, xs[BURN_IN:], carry=state)
        return log_jacobian_norms(jacobians, norm="frobenius")[0] / len(jacobians)

    over_seeds = jax.vmap(growth, in_axes=(None, None, 0, 0))
    over_inits = jax.vmap(over_seeds, in_axes=(None, None, 0, None))

    @jax.jit
    def sweep(gains, stds, nets, tokens):
        over_gains = jax.vmap(over_inits, in_axes=(0, None, None, None))
        # One strength at a time bounds the memory that the Jacobians take.
        return jax.lax.map(lambda std: over_gains(gains, std, nets, tokens), stds)

    rates = np.asarray(
        sweep(jnp.asarray(config.gains), jnp.asarray(config.input_stds), nets, windows)
    )  # [stds, gains, inits, seeds]
    rows = []
    for i, std in enumerate(config.input_stds):
        row = {"input std": std}
        for k, kind in enumerate(config.inits):
            measured = rates[i, :, k]
            log.write(step=0, study="phase", init=kind, input_std=std, gains=config.gains,
                      nats_per_step=measured)  # fmt: skip
            row[kind] = or_none(crossing(config.gains, np.median(measured, axis=-1)))
        if config.activation == "tanh" and "identity" not in config.inits:  # W_h at random
            fields = [theory.mean_field_tanh(gain, std**2).log_slope for gain in config.gains]
            log.write(step=0, study="mean field", input_std=std, gains=config.gains,
                      nats_per_step=fields)  # fmt: skip
            row["mean field"] = or_none(crossing(config.gains, np.array(fields)))
        rows.append(row)
    return rows


def or_none(gain):
    """The critical gain, None where there is none."""
    return None if np.isnan(gain) else gain


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"
    phase = plots.pick(finished.metrics, study="phase")
    fields = plots.pick(finished.metrics, study="mean field")
    plots.save(plots.phase_diagram(phase, fields), figures / "phase_diagram.png")


if __name__ == "__main__":
    main(Config, run, plot)
