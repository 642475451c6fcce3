"""When does the gradient of a recurrent net explode, and what does clipping do about it?

    python -m experiments.exploding_gradients
    python -m experiments.exploding_gradients --gains 0.8 1 1.2 --activation relu

Three studies. The growth rate of Jacobian products on real text, over recurrent gain, input
strength, initialisation and seed in one compiled program, beside mean-field theory. The same net
trained with and without clipping: loss, gradient norm before clipping, clip rate. And the smallest
net that has a wall in its error surface, one sigmoid unit, with the bifurcation that makes it.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.affine import Init, scale_recurrent
from seqlab.cells.rnn import ACTIVATIONS, RNN
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.data.problems import TEXTS, Problem, load_problem
from seqlab.errors import InputError
from seqlab.gradflow import theory
from seqlab.gradflow.jacobians import log_jacobian_norms, step_jacobians
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog, read_run
from seqlab.train import init_state, make_train_step, steps

BURN_IN = 50  # steps before the Jacobians count, so that the first state is forgotten
WALL_STEPS, WALL_START, WALL_TARGET = 50, 0.5, 0.7  # Pascanu et al., 2013, section 2.3 and figure 6
WALL_W, WALL_B = (4.0, 7.0), (-3.4, -1.6)


@dataclass(frozen=True)
class Config:
    """Growth rate over gain, input strength and initialisation; clipping; the error wall."""

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
    """T, steps over which growth is measured, and of a training sequence"""
    num_seeds: int = 5
    """nets at every point, and nets trained side by side"""
    train_gain: float = 2.5
    """gain of the nets that are trained, Gaussian W_h"""
    num_updates: int = 300
    """training steps"""
    batch_size: int = 16
    """sequences a step"""
    learning_rate: float = 0.5
    """of plain SGD"""
    clip_norm: float = 1.0
    """largest global gradient norm let through, where clipping is on"""
    wall_points: int = 201
    """points along each side of the error surface"""
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
        for field in ("hidden_size", "seq_len", "num_seeds", "num_updates", "batch_size"):
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.wall_points, 2, "wall_points")
        check_at_least(self.seed, 0, "seed")
        for field in ("train_gain", "learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            gains=(0.5, 1.0, 1.5, 2.0), input_stds=(0.0, 0.5, 1.0), hidden_size=16, seq_len=32,
            num_seeds=2, num_updates=20, batch_size=4, wall_points=41,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """The three studies, one after the other."""
    problem = load_problem(config.dataset, seq_len=config.seq_len + BURN_IN, every_step=True)
    log.write(step=0, dataset=problem.name, digest=problem.digest)
    critical = phase_diagram(config, problem, log)
    training = {name: train(name, config, log) for name in ("clipped", "unclipped")}
    error_wall(config, log)
    log.table("gain at which gradients neither fade nor grow, by input std", critical)
    log.table(
        f"training at gain {config.train_gain}, with and without clipping at {config.clip_norm}",
        [{"updates": name, **figures} for name, figures in training.items()],
    )
    log.finish(critical_gains=critical, training=training)


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
            row[kind] = crossing(config.gains, np.median(measured, axis=-1))
        if config.activation == "tanh" and "identity" not in config.inits:  # W_h at random
            fields = [theory.mean_field_tanh(gain, std**2).log_slope for gain in config.gains]
            log.write(step=0, study="mean field", input_std=std, gains=config.gains,
                      nats_per_step=fields)  # fmt: skip
            row["mean field"] = crossing(config.gains, np.array(fields))
        rows.append(row)
    return rows


def crossing(gains, rates):
    """The gain at which the rate turns positive, by linear interpolation; None if it never does."""
    above = np.flatnonzero(rates > 0)
    if not above.size or above[0] == 0:
        return None
    k = above[0]
    share = -rates[k - 1] / (rates[k] - rates[k - 1])
    return float(gains[k - 1] + share * (gains[k] - gains[k - 1]))


def train(name: str, config: Config, log: RunLog) -> dict:
    """Plain SGD on next-character prediction, all steps; the end of the loss and of the norms."""
    problem = load_problem(config.dataset, seq_len=config.seq_len, every_step=True)
    cell = RNN(
        config.hidden_size, config.activation, Init(recurrent="gaussian", gain=config.train_gain)
    )
    model = functional(
        ManyToMany, cell, input_size=config.hidden_size, vocab_size=problem.vocab_size,
        output_size=problem.output_size, head="softmax",
    )  # fmt: skip
    optimizer = optax.sgd(config.learning_rate)
    clip_norm = config.clip_norm if name == "clipped" else None

    def loss_fn(params, batch, key):
        del key  # nothing here is random
        return jnp.mean(cross_entropy(model.apply(params, batch.xs).logits, batch.targets)), {}

    def start(key):
        key_params, key_training = jax.random.split(key)
        return init_state(model.init(key_params), optimizer, key_training)

    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    state = jax.vmap(start)(keys)
    streams = [np.random.default_rng([config.seed, net]) for net in range(config.num_seeds)]

    def batches():
        for _ in range(config.num_updates):
            rows = [problem.sample(rng, config.batch_size, False) for rng in streams]
            yield jax.tree.map(lambda *rows: np.stack(rows), *rows)

    train_step = jax.vmap(make_train_step(loss_fn, optimizer, clip_norm=clip_norm))
    progress = log.progress(
        steps(train_step, state, batches()), total=config.num_updates, description=name
    )
    seen = []
    for step, _, metrics in progress:
        log.write(step=step, study="training", updates=name, **metrics)
        seen.append({key: np.asarray(value) for key, value in metrics.items()})
    tail = seen[-max(1, len(seen) // 10) :]
    return {
        "loss_nats": float(np.mean([m["loss"] for m in tail])),
        "largest_grad_norm": float(np.max([m["grad_norm"] for m in seen])),
        "clip_rate": float(np.mean([m["clipped"] for m in seen])),
        "updates_skipped": int(np.sum([m["skipped"] for m in seen])),
    }


def error_wall(config: Config, log: RunLog) -> None:
    """Error and gradient of one sigmoid unit over its two weights.

    x_t = w sigmoid(x_{t-1}) + b, x_0 = 0.5, error (sigmoid(x_50) - 0.7)^2. With h = sigmoid(x), it
    is the vanilla cell h_t = sigmoid(w h_{t-1} + b) of one unit without input.
    """
    cell, silence = RNN(1, "sigmoid"), jnp.zeros((WALL_STEPS, 1))
    first = jax.nn.sigmoid(jnp.array([WALL_START]))

    def error(w, b):
        params = {"W_x": jnp.zeros((1, 1)), "W_h": w[None, None], "b": b[None]}
        return jnp.square(unroll(cell, params, silence, carry=first).carry[0] - WALL_TARGET)

    ws = np.linspace(*WALL_W, config.wall_points)
    bs = np.linspace(*WALL_B, config.wall_points)
    at = jax.vmap(jax.vmap(jax.value_and_grad(error, argnums=(0, 1)), (0, None)), (None, 0))
    errors, (by_w, by_b) = jax.jit(at)(jnp.asarray(ws), jnp.asarray(bs))
    log.write(step=0, study="wall", w=ws, b=bs, error=errors, grad_norm=jnp.hypot(by_w, by_b))
    # Fixed points appear or vanish where the slope w s (1 - s) of the map is 1 at x = logit(s).
    s = np.linspace(0.001, 0.999, 2000)
    w = 1.0 / (s * (1.0 - s))
    log.write(step=0, study="border", name="fixed points appear", w=w, b=logit(s) - w * s)
    # Where x_0 is the unstable one of them, the start changes sides.
    s = 1.0 / (1.0 + np.exp(-WALL_START))
    w = np.linspace(1.0 / (s * (1.0 - s)), WALL_W[1], 2)
    log.write(step=0, study="border", name="$x_0$ changes basin", w=w, b=WALL_START - w * s)


def logit(s):
    """The inverse of the sigmoid."""
    return np.log(s / (1.0 - s))


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"
    phase = plots.pick(finished.metrics, study="phase")
    fields = plots.pick(finished.metrics, study="mean field")
    plots.save(plots.phase_diagram(phase, fields), figures / "phase_diagram.png")
    training = plots.pick(finished.metrics, study="training")
    plots.save(plots.clipping(training), figures / "clipping.png")
    wall = plots.pick(finished.metrics, study="wall")[0]
    borders = {row["name"]: row for row in plots.pick(finished.metrics, study="border")}
    plots.save(plots.error_wall(wall, borders), figures / "error_wall.png")


if __name__ == "__main__":
    main(Config, run, plot)
