"""Is a recurrent net a fading, a critical or a chaotic dynamical system, before and after training?

    python -m experiments.dynamics
    python -m experiments.dynamics --cells rnn@3 lstm mycells:MGU
    python -m experiments.dynamics --cells gru --drives text noise autonomous --num-updates 2000

The Lyapunov exponents of a net say how fast neighbouring states part along a sequence, and so how
gradients fade or grow on the way back, for every loss at once. Four studies, each with its theory:

* all exponents of trained nets, driven by real text and left alone, before, half way and after
  training; the slope of the loss's own gradient beside the largest of them; the singular values of
  long Jacobian products, whose logs over lag have the exponents as limit;
* the largest exponent of wide random tanh nets over gain, beside mean-field theory, at two sizes;
* the same over gain, bias and input strength, with the line on which it vanishes;
* of gated nets over gain and bias of the gate that keeps, with the line on which silence becomes
  unstable.

`--full` has nine cells, 4800 updates, 1000 steps an exponent and phase diagrams of 400 units: half
an hour on two cores (measured: 24 of 69 parts take 7:23 minutes, the rest as much each or more).

`exploding_gradients` asks at which gain the products of Jacobians of finite length grow on text,
and what clipping does; here are the limits of long time, and all directions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from seqlab import plots
from seqlab.cells.affine import init_matrix, scale_recurrent, spread
from seqlab.cells.lookup import make_cell
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_distinct, check_known, check_positive
from seqlab.data.problems import TEXTS, Problem, load_problem
from seqlab.ensemble import map_nets, stacked, train_nets
from seqlab.errors import InputError
from seqlab.gradflow import theory
from seqlab.gradflow.jacobians import log_singular_values, step_jacobians
from seqlab.gradflow.lyapunov import kaplan_yorke_dimension, lyapunov_exponents
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time
from seqlab.losses import cross_entropy
from seqlab.metrics import bootstrap, check, crossing
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog, read_run
from seqlab.train import fresh_state, make_train_step

DRIVES = ("text", "noise", "autonomous")
STAGES = ("before", "half way", "after")
KEEPS = {"lstm": ("f", 1.0), "gru": ("z", -1.0)}  # the gate that keeps, the sign of its bias
SCALAR_QR_EVERY = 10  # one direction alone cannot be rounded away by others
PUBLISHED = {1.5: (0.0652, 0.008), 2.0: (0.1547, 0.004)}  # gain: mean field, what 1200 units reach
WIDE = 1000  # units from which those are expected
ORTHOGONAL_SIZE, ORTHOGONAL_STEPS = 128, 200
ORTHOGONAL = {0.1: -0.066, 1.0: -0.467}  # input std: nats per step of orthogonal nets of gain 1
NEWMAN_SIZE = 32
FLOOR = -6.0  # nats per step; lower exponents, of what is forgotten at once, are drawn there
ERRORS = {"largest exponent": "largest_error", "mean over all": "mean_error"}
LONG = 200  # steps from which finite-time figures are near their limits
FORGET_BIAS = 2.0  # of the LSTM whose forget gate is held
CLOSED_SIZE, CLOSED_STEPS = 16, 20_000  # units; steps after which the linear map is sharp


@dataclass(frozen=True)
class Config:
    """Lyapunov exponents: of trained nets, of random nets, phase diagrams."""

    cells: tuple[str, ...] = ("rnn", "rnn@2.5", "lstm", "gru", "mingru")
    """names of cells that are trained, or package.module:Class; with @g at the end every W_h begins
    g times as large (orthogonal in the cells of this house)"""
    drives: tuple[str, ...] = ("text", "autonomous")
    """what drives the nets as they are measured: text, noise (Gaussian, as strong), autonomous
    (zeros, from a state that text left)"""
    dataset: str = "embedded"
    """a text: embedded, tinyshakespeare or ptb"""
    hidden_size: int = 64
    """H, units"""
    embed_size: int = 32
    """D, width of a character's embedding"""
    num_updates: int = 480
    """training steps"""
    num_probes: int = 7
    """times the exponents are measured, first and last step included; odd"""
    seq_len: int = 64
    """T, steps of a training sequence"""
    batch_size: int = 16
    """sequences a step"""
    learning_rate: float = 3e-3
    """of Adam"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    num_seeds: int = 6
    """nets of each kind, trained or drawn"""
    num_inputs: int = 2
    """sequences, or first states, along which each net is measured"""
    num_steps: int = 300
    """steps over which exponents are averaged, in all but the mean-field study"""
    transient: int = 100
    """steps before them, to settle"""
    gains: tuple[float, ...] = tuple(round(0.125 * k, 3) for k in range(2, 21))
    """gains of W_h in the phase diagram of tanh nets"""
    input_stds: tuple[float, ...] = tuple(round(0.15 * k, 2) for k in range(11))
    """standard deviations of W_x x there"""
    bias_stds: tuple[float, ...] = (0.0, 0.5, 1.0)
    """standard deviations of b there"""
    phase_size: int = 200
    """units of those nets"""
    gated: tuple[str, ...] = ("lstm", "gru")
    """gated cells with a phase diagram: lstm, gru"""
    gated_gains: tuple[float, ...] = tuple(0.5 * k for k in range(13))
    """gains of all W_h there"""
    gated_biases: tuple[float, ...] = tuple(-3.0 + k for k in range(10))
    """biases of the gate that keeps: b_f of an LSTM, -b_z of a GRU"""
    gated_stds: tuple[float, ...] = (0.0, 1.0)
    """standard deviations of every W_x x there; 0 is autonomous"""
    field_sizes: tuple[int, ...] = (100, 1200)
    """units of the nets beside mean-field theory"""
    field_gains: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)
    """their gains"""
    field_steps: int = 600
    """steps over which their exponents are averaged"""
    long_steps: int = CLOSED_STEPS
    """steps of the linear map and of Newman's product, the closed forms"""
    seed: int = 0
    num_devices: int | None = None
    """devices that share out the nets; None: as many as can have equal shares"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.dataset, TEXTS, "dataset")
        for field, known in (("drives", DRIVES), ("gated", tuple(KEEPS))):
            for name in getattr(self, field):
                check_known(name, known, field)
        for field in ("cells", "drives", "gated"):
            check_distinct(getattr(self, field), field)
        if "text" not in self.drives:
            raise InputError("drives must include text, on which the nets are trained")
        for field in ("gains", "input_stds", "bias_stds", "gated_gains", "gated_biases",
                      "gated_stds", "field_gains", "field_sizes"):  # fmt: skip
            values = getattr(self, field)
            check_at_least(len(values), 1, f"number of {field}")
            lowest = -float("inf") if field == "gated_biases" else 0.0
            is_finite = all(lowest <= v < float("inf") and v > -float("inf") for v in values)
            if not is_finite or list(values) != sorted(set(values)):
                raise InputError(f"{field} must be finite and increase, got {values}")
        for field in ("hidden_size", "embed_size", "num_updates", "seq_len", "batch_size",
                      "num_seeds", "num_inputs", "transient", "phase_size"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        check_at_least(min(self.field_sizes), 2, "field_sizes")
        for field in ("num_steps", "field_steps", "long_steps"):
            check_at_least(getattr(self, field), 2 * SCALAR_QR_EVERY, field)
        check_at_least(self.num_probes, 3, "num_probes")
        check_at_least(self.seed, 0, "seed")
        if self.num_probes % 2 == 0 or self.num_updates % (self.num_probes - 1):
            raise InputError(
                "num_probes must be odd, and num_updates a multiple of num_probes - 1, got "
                f"{self.num_probes} and {self.num_updates}"
            )
        for field in ("learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)
        for name in self.cells:
            cell_and_gain(name, self.hidden_size)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs; nearly all of them are spent compiling."""
        return cls(
            cells=("rnn",), hidden_size=8, embed_size=8, num_updates=8, num_probes=3, seq_len=16,
            batch_size=4, num_seeds=2, num_inputs=1, num_steps=40, transient=20,
            gains=(0.5, 1.0, 1.5, 2.0), input_stds=(0.0, 0.5, 1.0), bias_stds=(0.0, 0.5),
            phase_size=16, gated=("lstm",), gated_gains=(0.0, 2.0, 4.0), gated_biases=(0.0, 2.0),
            field_sizes=(16,), field_gains=(0.8, 1.5, 2.0), field_steps=60, long_steps=400,
        )  # fmt: skip

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(
            cells=("rnn", "rnn@2.5", "lstm", "gru", "mingru", "mgu", "janet", "lem", "cornn"),
            num_updates=4800, num_steps=1000, transient=300, phase_size=400,
            field_sizes=(100, 400, 1200), field_steps=3000,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """The closed forms, the random nets, and then the trained ones."""
    total = 4 + len(config.gated) + len(config.cells) * config.num_probes
    with log.progress(total=total, description="dynamics") as bar:
        checks = closed_forms(config)
        bar.update()
        checks += mean_field(config, log)
        bar.update()
        checks += driven_orthogonal(config)
        bar.update()
        critical = tanh_phase(config, log)
        bar.update()
        for name in config.gated:
            checks += gated_phase(name, config, log)
            bar.update()
        problem = load_problem(config.dataset, seq_len=config.seq_len, every_step=True)
        log.write(step=0, dataset=problem.name, digest=problem.digest)
        cells = {}
        for name in config.cells:
            with jax.enable_x64(True):  # small exponents are what float32 leaves of large ones
                cells[name], found = trained(name, config, problem, log, bar)
            checks += found
    rows = [
        {"cell": name, "drive": drive, "stage": stage,
         **{key: value for key, value in figures.items() if not key.endswith("_95")}}
        for name, drives in cells.items()
        for drive, stages in drives.items() if drive in DRIVES
        for stage, figures in stages.items()
    ]  # fmt: skip
    log.table("gain at which the largest exponent of a tanh net vanishes", critical)
    log.table(f"{problem.name}: medians over nets, nats per step", rows)
    log.table("checks", checks)
    log.finish(cells=cells, critical_gains=critical, checks=checks)


def claim(name: str, found: float, expected: float, tolerance: float, *, too_small: str = ""):
    """A line of the checks; where the run is `too_small` for it, in words, nothing is claimed."""
    row = check(name, float(found), float(expected), float(tolerance))
    return {**row, "passed": None if too_small else row["passed"], "note": too_small}


def closed_forms(config: Config) -> list[dict]:
    """A linear map, an LSTM whose forget gate is its bias, and Newman's random products."""
    steps, size = config.long_steps, CLOSED_SIZE
    rng = np.random.default_rng([config.seed, 0])
    matrices = np.stack([
        draw_matrix(rng, size, "gaussian"), 0.9 * draw_matrix(rng, size, "orthogonal")
    ])  # fmt: skip
    moduli = np.log(np.abs(np.linalg.eigvals(matrices[0])))
    zeros = {"W_x": np.zeros((1, size)), "W_h": np.zeros((size, size)), "b": np.zeros(size)}
    held_gate = dict.fromkeys("igo", zeros) | {"f": zeros | {"b": np.full(size, FORGET_BIAS)}}

    def all_exponents(cell, params, steps, **options):
        return lyapunov_exponents(
            cell, params, jnp.zeros((steps, 1)), transient=10, qr_every=1, **options
        ).exponents

    @jax.jit
    def linear(matrix):
        return all_exponents(RNN(size, "identity"), zeros | {"W_h": matrix}, steps)

    @jax.jit
    def held(params):
        return all_exponents(LSTM(size), params, 50, num_exponents=size)

    with jax.enable_x64(True):
        gaussian, orthogonal = np.asarray(jax.vmap(linear)(matrices))
        forgetting = np.asarray(held(held_gate))
        numbers = np.broadcast_to(np.arange(float(steps))[:, None], (config.num_seeds, steps, 1))
        products = map_nets(newman, config.num_seeds, num_devices=config.num_devices)
        keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
        found = np.asarray(products(keys, numbers)).mean(axis=0)
    n = NEWMAN_SIZE
    degrees = np.arange(n, 0, -1) / 2
    exact = 0.5 * (np.log(2 / n) + special.digamma(degrees))
    # log R_kk is half the log of a chi squared, independent over k, steps and products.
    errors = np.sqrt(0.25 * special.polygamma(1, degrees) / (steps * config.num_seeds))
    short = "" if steps >= CLOSED_STEPS else f"{steps} steps, needs {CLOSED_STEPS}"
    return [
        claim("linear map: largest |exponent - log|eigenvalue||",
              np.max(np.abs(np.sort(gaussian) - np.sort(moduli))), 0.0, 1e-3, too_small=short),
        claim("0.9 x orthogonal map: largest |exponent - log 0.9|",
              np.max(np.abs(orthogonal - np.log(0.9))), 0.0, 1e-12),
        claim("LSTM, f = sigmoid(2) alone: largest |exponent - log f|",
              np.max(np.abs(forgetting - theory.log_forget_bias(FORGET_BIAS, np.array(1)))),
              0.0, 1e-12),
        claim("Newman, n = 32: exponent 1, 4 standard errors", found[0], exact[0], 4 * errors[0]),
        claim("Newman, n = 32: exponent 32", found[-1], exact[-1], 4 * errors[-1]),
        claim("Newman, n = 32: sum", np.sum(found), np.sum(exact),
              4 * np.sqrt(np.sum(errors**2))),
        claim("Newman, n = 32: largest |deviation| in standard errors",
              np.max(np.abs(found - exact) / errors), 0.0, 4.5),
    ]  # fmt: skip


@dataclass(frozen=True)
class GaussianProduct:
    """A step times a fresh matrix of independent N(0, 1/n), the one with the number x."""

    hidden_size: int

    def init(self, key, input_size):
        """What the matrices are drawn from."""
        del input_size
        return {"key": key}

    def initial_carry(self, params, batch_shape=()):
        """Zeros."""
        del params
        return jnp.zeros((*batch_shape, self.hidden_size))

    def step(self, params, carry, x):
        """One step."""
        size = self.hidden_size
        key = jax.random.fold_in(params["key"], x[0].astype(jnp.uint32))
        return carry @ jax.random.normal(key, (size, size)) / size**0.5

    def output(self, carry):
        """H itself."""
        return carry


def newman(key, numbers):
    """All exponents of a product of Gaussian matrices, [n]."""
    cell = GaussianProduct(NEWMAN_SIZE)
    return lyapunov_exponents(cell, {"key": key}, numbers, qr_every=1).exponents


@dataclass(frozen=True)
class WideTanh:
    """Vanilla net whose gain stands outside of the matrix product.

        h' = tanh(g h W_h + s x + b)

    Mapped over g, s and b with one W_h, all points of a phase diagram share its product.
    """

    hidden_size: int

    def init(self, key, input_size):
        """Parameters of one point."""
        matrix = init_matrix(key, (input_size, self.hidden_size), "gaussian")
        return {"W_h": matrix, "gain": 1.0, "input_std": 1.0, "b": jnp.zeros(self.hidden_size)}

    def initial_carry(self, params, batch_shape=()):
        """Zeros."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["W_h"].dtype)

    def step(self, params, carry, x):
        """One step."""
        recurrent = params["gain"] * (carry @ params["W_h"])
        return jnp.tanh(recurrent + params["input_std"] * x + spread(params["b"], carry))

    def output(self, carry):
        """H itself."""
        return carry


def tanh_exponents(
    points: Sequence[tuple[float, float, float]], config: Config, *, size: int, num_steps: int,
    transient: int, stream: int, kind: str = "gaussian",
) -> np.ndarray:  # fmt: skip
    """Largest exponents [nets, P] of random tanh nets at points (gain, input std, bias std)."""
    cell = WideTanh(size)
    draws = [
        draw_tanh_net(np.random.default_rng([config.seed, stream, net]), size, kind,
                      transient + num_steps)
        for net in range(config.num_seeds)
    ]  # fmt: skip
    nets = jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *draws)
    everywhere = np.broadcast_to(np.asarray(points, np.float32), (config.num_seeds, len(points), 3))

    def one(net, points):
        def at(point):
            gain, std, bias_std = point
            params = {
                "W_h": net["W_h"], "gain": gain, "input_std": std, "b": bias_std * net["b"]
            }  # fmt: skip
            return lyapunov_exponents(
                cell, params, net["noise"], carry=net["first"], num_exponents=1,
                transient=transient, qr_every=SCALAR_QR_EVERY,
            ).exponents[0]  # fmt: skip

        return jax.vmap(at)(points)

    shared = map_nets(one, config.num_seeds, num_devices=config.num_devices)
    return np.asarray(shared(nets, everywhere))


def draw_tanh_net(rng: np.random.Generator, size: int, kind: str, num_steps: int) -> dict:
    """W_h of gain 1, biases and white inputs of variance 1, and a first state."""
    return {
        "W_h": draw_matrix(rng, size, kind),
        "b": rng.normal(size=size),
        "noise": rng.normal(size=(num_steps, size)),
        "first": rng.uniform(-1.0, 1.0, size),
    }


def draw_matrix(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """Recurrent weights of gain 1, Gaussian or orthogonal."""
    matrix = rng.normal(size=(size, size)) / np.sqrt(size)
    if kind == "gaussian":
        return matrix
    basis, upper = np.linalg.qr(matrix)
    return basis * np.sign(np.diagonal(upper))


def mean_field(config: Config, log: RunLog) -> list[dict]:
    """The largest exponent over gain at each size, and what theory says of infinite size."""
    checks = []
    gains = config.field_gains
    fine = np.linspace(gains[0], gains[-1], 101)
    log.write(step=0, study="mean field", gains=fine,
              nats_per_step=[theory.mean_field_tanh(gain).log_slope for gain in fine])  # fmt: skip
    for size in config.field_sizes:
        rates = tanh_exponents(
            [(gain, 0.0, 0.0) for gain in gains], config, size=size, stream=1 + size,
            num_steps=config.field_steps, transient=2 * config.transient,
        )  # fmt: skip
        log.write(step=0, study="tanh", size=size, gains=gains, nats_per_step=rates,
                  mean_field=[theory.mean_field_tanh(gain).log_slope for gain in gains]
                  )  # fmt: skip
        if size < max(config.field_sizes):
            continue
        for gain, (expected, tolerance) in PUBLISHED.items():
            if gain in gains:
                found = rates[:, gains.index(gain)].mean()
                small = "" if size >= WIDE else f"{size} units, needs {WIDE}"
                checks.append(claim(f"mean field, tanh, g = {gain}, {size} units", found, expected,
                                    tolerance, too_small=small))  # fmt: skip
    return checks


def driven_orthogonal(config: Config) -> list[dict]:
    """Orthogonal tanh nets of gain 1 under white inputs: orthogonality does not survive them."""
    rates = tanh_exponents(
        [(1.0, std, 0.0) for std in ORTHOGONAL], config, size=ORTHOGONAL_SIZE, stream=0,
        num_steps=ORTHOGONAL_STEPS, transient=50, kind="orthogonal",
    )  # fmt: skip
    return [
        claim(f"orthogonal tanh net of gain 1, input std {std}", rate, expected, 0.02)
        for rate, (std, expected) in zip(rates.mean(axis=0), ORTHOGONAL.items(), strict=True)
    ]


def tanh_phase(config: Config, log: RunLog) -> list[dict]:
    """The largest exponent over gain, input strength and bias; where it vanishes, a row a pair."""
    shape = (len(config.bias_stds), len(config.input_stds), len(config.gains))
    points = [
        (gain, std, bias_std)
        for bias_std in config.bias_stds
        for std in config.input_stds
        for gain in config.gains
    ]
    rates = tanh_exponents(
        points, config, size=config.phase_size, num_steps=config.num_steps,
        transient=config.transient, stream=1,
    ).reshape(config.num_seeds, *shape)  # fmt: skip
    farthest = float(np.hypot(config.input_stds[-1], config.bias_stds[-1]))
    fine = np.linspace(0.0, farthest + 0.1, 61)
    log.write(step=0, study="critical line", outside_std=fine,
              gain=[theory.critical_gain(std**2) for std in fine])  # fmt: skip
    rows = []
    for i, bias_std in enumerate(config.bias_stds):
        for k, std in enumerate(config.input_stds):
            found = rates[:, i, k]
            where = [crossing(config.gains, each) for each in found]
            expected = theory.critical_gain(std**2, bias_std**2)
            log.write(step=0, study="tanh phase", bias_std=bias_std, input_std=std,
                      gains=config.gains, nats_per_step=found.T, critical_gains=where
                      )  # fmt: skip
            middle = float(np.median(where))
            rows.append({
                "bias std": bias_std, "input std": std,
                "measured": middle if np.isfinite(middle) else None, "mean field": expected,
            })  # fmt: skip
    return rows


def gated_phase(name: str, config: Config, log: RunLog) -> list[dict]:
    """The largest exponent of an untrained gated net over gain and bias of the gate that keeps."""
    size, num_inputs = config.hidden_size, config.embed_size
    cell = make_cell(name, size)
    gate, sign = KEEPS[name]
    total = config.transient + config.num_steps

    def one(key, noise, state):
        drawn = cell.init(key, num_inputs)
        first = jax.tree.map(lambda leaf: state, cell.initial_carry(drawn))  # c = h

        def at(std, bias, gain):
            params = scale_recurrent(drawn, gain)
            params[gate]["b"] = jnp.full((size,), sign * bias)
            return lyapunov_exponents(
                cell, params, std * noise, carry=first, num_exponents=1,
                transient=config.transient, qr_every=SCALAR_QR_EVERY,
            ).exponents[0]  # fmt: skip

        over_gains = jax.vmap(at, in_axes=(None, None, 0))
        over_biases = jax.vmap(over_gains, in_axes=(None, 0, None))
        grid = [jnp.asarray(values) for values in (config.gated_biases, config.gated_gains)]
        # One strength at a time bounds the memory.
        return jax.lax.map(lambda std: over_biases(std, *grid), jnp.asarray(config.gated_stds))

    keys = jax.random.split(jax.random.key(config.seed + 104729), config.num_seeds)
    rng = np.random.default_rng([config.seed, 2])
    noise = rng.normal(size=(config.num_seeds, total, num_inputs)).astype(np.float32)
    states = rng.uniform(-1.0, 1.0, (config.num_seeds, size)).astype(np.float32)
    shared = map_nets(one, config.num_seeds, num_devices=config.num_devices)
    rates = np.asarray(shared(keys, noise, states))  # [nets, stds, biases, gains]
    biases, gains = np.array(config.gated_biases), np.array(config.gated_gains)
    keep, write = keep_and_write(name, biases)
    fine = np.linspace(biases[0], biases[-1], 101)
    fine_keep, fine_write = keep_and_write(name, fine)
    for k, std in enumerate(config.gated_stds):
        log.write(step=0, study="gated phase", cell=name, input_std=std, gains=gains, biases=biases,
                  nats_per_step=np.moveaxis(rates[:, k], 0, -1), rest_biases=fine,
                  rest_gains=(1.0 - fine_keep) / fine_write)  # fmt: skip
    if config.gated_stds[0] > 0:
        return []
    expected = theory.log_growth_at_rest(keep[:, None], write[:, None], gains)
    is_silent = expected < -0.05
    if not is_silent.any():
        return []
    error = np.max(np.abs(np.median(rates[:, 0], axis=0) - expected)[is_silent])
    small = "" if config.num_steps >= LONG and size >= 64 else f"{config.num_steps} steps of {size}"
    return [
        claim(f"{name} at rest: largest |exponent - log(keep + write g)|", error, 0.0, 0.02,
              too_small=small)
    ]  # fmt: skip


def keep_and_write(name: str, biases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `theory.log_growth_at_rest` asks for, by bias of the gate that keeps."""
    keep = 1.0 / (1.0 + np.exp(-biases))
    return keep, (1.0 - keep) / 2 if name == "gru" else np.full_like(keep, 0.25)


def trained(
    name: str, config: Config, problem: Problem, log: RunLog, bar: Any
) -> tuple[dict[str, Any], list[dict]]:
    """Trains nets of one cell, measuring as it goes; its part of the summary, and checks."""
    cell, gain = cell_and_gain(name, config.hidden_size)
    model = functional(
        ManyToMany, cell, input_size=config.embed_size, vocab_size=problem.vocab_size,
        output_size=problem.output_size, head="softmax",
    )  # fmt: skip
    optimizer = optax.adam(config.learning_rate)

    def loss_fn(params, batch, key):
        del key  # nothing here is random
        return jnp.mean(cross_entropy(model.apply(params, batch.xs).logits, batch.targets)), {}

    def start(key):
        def init(key):
            params = model.init(key)
            params["rnn"]["weights"] = scale_recurrent(params["rnn"]["weights"], gain)
            return params

        return fresh_state(init, optimizer, key)

    def draw(source, rngs, count, is_test):
        return stacked([source.sample(rng, count, is_test) for rng in rngs])

    def generators(stream):
        return [np.random.default_rng([config.seed, stream, net])
                for net in range(config.num_seeds)]  # fmt: skip

    windows = load_problem(
        config.dataset, seq_len=config.transient + config.num_steps, every_step=True
    )
    probed = draw(windows, generators(1), config.num_inputs, True)
    noise_keys = jax.random.split(jax.random.key(config.seed + 1), config.num_seeds)

    def shared(function):
        return map_nets(function, config.num_seeds, num_devices=config.num_devices)

    look = shared(lambda *net: probe(model, cell, config, *net))
    jacobians = jax.jit(lambda params, tokens: along_text(cell, config, params, tokens))
    take_apart = shared(lambda *net: dissect(cell, config, *net))
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    state = shared(start)(keys)
    training = generators(2)

    def batches():
        for _ in range(config.num_updates):
            yield draw(problem, training, config.batch_size, False)

    every = config.num_updates // (config.num_probes - 1)
    stages = {0: "before", config.num_updates // 2: "half way", config.num_updates: "after"}
    figures: dict[str, Any] = {drive: {} for drive in config.drives}
    checks = []

    def sum_check(where, exponents, params):
        log_dets = np.zeros(config.num_seeds)
        for net in range(config.num_seeds):  # all at once would fill the memory
            own, tokens = jax.tree.map(lambda leaf, net=net: leaf[net], (params, probed.xs))
            log_dets[net] = np.linalg.slogdet(jacobians(own, tokens[0]))[1].mean()
        sums = exponents[:, 0].sum(axis=-1)
        singular = "" if np.isfinite(log_dets).all() else "a singular step: no sum"
        worst = np.argmin(log_dets) if singular else np.argmax(np.abs(sums - log_dets))
        return claim(
            f"{where}: sum of exponents = mean log|det J|", sums[worst], log_dets[worst],
            1e-10 * abs(log_dets[worst]), too_small=singular,
        )  # fmt: skip

    def measure(step, params):
        found = look(params, probed, noise_keys)
        exponents = {drive: np.asarray(found["exponents"][drive]) for drive in config.drives}
        slopes = np.asarray(found["gradient_slope"])
        stage = stages.get(step)
        log.write(step=step, study="probe", cell=name, test_loss=found["loss"],
                  gradient_slope=slopes, **found["strengths"])  # fmt: skip
        for drive, rows in exponents.items():  # [nets, inputs, S]
            largest = rows.max(axis=-1)
            log.write(step=step, study="largest", cell=name, drive=drive, nats_per_step=largest)
            if stage is None:
                continue
            log.write(step=step, study="spectrum", stage=stage, cell=name, drive=drive,
                      nats_per_step=rows)  # fmt: skip
            figures[drive][stage] = summarise(rows)
        if stage is not None:
            figures.setdefault("gradient_slope_nats_per_step", {})[stage] = float(np.median(slopes))
            figures.setdefault("test_loss_nats", {})[stage] = float(np.median(found["loss"]))
            checks.append(sum_check(f"{name}, {stage}", exponents["text"], params))
        bar.update()
        return exponents["text"], slopes

    before = measure(0, state.params)
    after = before
    losses = train_nets(
        make_train_step(loss_fn, optimizer, clip_norm=config.clip_norm), state, batches(),
        every=every, num_devices=config.num_devices,
    )  # fmt: skip
    for step, state, metrics in losses:
        for k, loss in enumerate(np.asarray(metrics["loss"])):
            log.write(step=step - len(metrics["loss"]) + 1 + k, study="training", cell=name,
                      loss=loss)  # fmt: skip
        after = measure(step, state.params)
    figures["updates_skipped"] = int(np.sum(state.skipped))

    lags = spectrum_lags(config.num_steps)
    rates = np.asarray(take_apart(state.params, probed))
    exponents = -np.sort(-after[0][:, 0], axis=-1)  # on the same steps
    errors = np.abs(rates - exponents[:, None])
    is_kept = np.isfinite(rates).all(axis=(0, 1))  # what no step loses to rounding
    log.write(step=config.num_updates, study="singular", cell=name, lags=lags,
              nats_per_step=rates.mean(axis=0), exponents=exponents.mean(axis=0),
              largest_error=errors[..., 0], mean_error=errors[..., is_kept].mean(axis=-1)
              )  # fmt: skip
    short = "" if config.num_steps >= LONG else f"{config.num_steps} steps, needs {LONG}"
    gaps = [np.median(slopes - largest.max(axis=-1).mean(axis=-1))
            for largest, slopes in (before, after)]  # fmt: skip
    checks.append(claim(f"{name}, before: gradient's slope - largest exponent", gaps[0], 0.0,
                        0.02, too_small=short))  # fmt: skip
    # A trained net may have slow directions that its output does not read: only a bound is left.
    checks.append(claim(f"{name}, after: gradient's slope above the largest exponent",
                        max(gaps[1], 0.0), 0.0, 0.02, too_small=short))  # fmt: skip
    return figures, checks


def cell_and_gain(name: str, hidden_size: int) -> tuple[Any, float]:
    """The cell of that name and its gain; `InputError` for what is none."""
    base, _, gain = name.partition("@")
    cell = make_cell(base, hidden_size)
    try:
        number = float(gain or 1.0)
    except ValueError as error:
        raise InputError(f"cell {name!r}: {gain!r} is no number") from error
    check_positive(number, f"gain of cell {name}")
    return cell, number


def probe(model, cell, config, params, batch, noise_key):
    """What is measured of one net: exponents [inputs, S] by drive, loss, slope of its gradient."""
    weights = params["rnn"]["weights"]
    xs = params["embed"]["embedding"][batch.xs]  # [inputs, T, D]
    zero = cell.initial_carry(weights, xs.shape[:1])
    ways = {
        "text": lambda: (zero, xs),
        "noise": lambda: (zero, jnp.std(xs) * jax.random.normal(noise_key, xs.shape)),
        "autonomous": lambda: (unroll(cell, weights, xs).carry, jnp.zeros_like(xs)),
    }
    starts = [ways[drive]() for drive in config.drives]
    # One program for all drives and inputs; mapped, so that each QR decomposition is on its own.
    carry, inputs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *starts)

    def exponents(carry, xs):
        return lyapunov_exponents(
            cell, weights, xs, carry=carry, transient=config.transient, qr_every=1
        ).exponents

    rows = jax.vmap(exponents)(carry, inputs)
    found = dict(zip(config.drives, jnp.split(rows, len(config.drives)), strict=True))

    def last_loss(output):
        return jnp.sum(cross_entropy(output.logits[:, -1], batch.targets[:, -1]))

    gradients = carry_gradients(model.apply, last_loss, params, batch.xs)["rnn"]
    logs = jnp.mean(log_norm_over_time(gradients), axis=0)[config.transient :]
    strengths = {}
    if isinstance(cell, RNN):  # where it stands in the phase diagram
        bias = jnp.var(weights["b"])
        strengths = {
            "recurrent_gain": jnp.sqrt(jnp.sum(jnp.square(weights["W_h"])) / cell.hidden_size),
            "outside_std": jnp.sqrt(jnp.mean(jnp.var(xs @ weights["W_x"], axis=(0, 1))) + bias),
        }
    return {
        "exponents": found,
        "loss": jnp.mean(cross_entropy(model.apply(params, batch.xs).logits, batch.targets)),
        "gradient_slope": slope_over_lag(logs),
        "strengths": strengths,
    }


def slope_over_lag(log_norms):
    """Least squares of log norms [T] over steps before the end, nats per step back."""
    lags = jnp.arange(len(log_norms) - 1, -1, -1.0)
    centred = lags - jnp.mean(lags)
    return jnp.sum(centred * log_norms) / jnp.sum(jnp.square(centred))


def along_text(cell, config, params, tokens):
    """Jacobians along one text [T] after the transient."""
    xs = params["embed"]["embedding"][tokens]
    return step_jacobians(cell, params["rnn"]["weights"], xs)[config.transient :]


def dissect(cell, config, params, batch):
    """Log singular values over lag, [lags, S], of products along one text."""
    lags = spectrum_lags(config.num_steps)
    logs = log_singular_values(along_text(cell, config, params, batch.xs[0]), lags)
    return logs / jnp.asarray(lags, logs.dtype)[:, None]


def spectrum_lags(num_steps: int) -> tuple[int, ...]:
    """Lags from 1 to T, each about twice the one before."""
    return tuple(sorted({round(num_steps / 2**k) for k in range(9) if num_steps / 2**k >= 1}))


def summarise(rows: np.ndarray) -> dict[str, Any]:
    """Medians over nets of what spectra [nets, inputs, S] say of the dynamics."""
    dimensions = np.asarray(kaplan_yorke_dimension(jnp.asarray(rows)))
    largest = bootstrap(rows.max(axis=-1).mean(axis=-1))
    return {
        "lyapunov_max_nats_per_step": float(largest.middle),
        "lyapunov_max_nats_per_step_95": [float(largest.low), float(largest.high)],
        "kaplan_yorke_dimension": float(np.median(dimensions)),
        "share_of_positive_exponents": float(np.median(np.mean(rows > 0, axis=-1))),
        "entropy_rate_nats_per_step": float(np.median(np.sum(np.maximum(rows, 0.0), axis=-1))),
    }


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    metrics = read_run(directory).metrics
    figures = directory / "figures"

    def rows(**fields: Any) -> list[Mapping[str, Any]]:
        return plots.pick(metrics, **fields)

    spectra = [
        {key: row[key] for key in ("cell", "drive", "stage")} | over_nets(row["nats_per_step"])
        for row in rows(study="spectrum")
    ]
    plots.save(plots.lyapunov_spectra(spectra, floor=FLOOR), figures / "lyapunov_spectra.png")
    plots.save(plots.exponents_over_training(*through_training(rows)),
               figures / "exponents_over_training.png")  # fmt: skip
    singular = [
        dict(row) | {"errors": {name: bootstrap(row[key]) for name, key in ERRORS.items()}}
        for row in rows(study="singular")
    ]
    plots.save(plots.singular_limits(singular, floor=FLOOR), figures / "singular_spectra.png")

    phase, line = rows(study="tanh phase"), rows(study="critical line")[0]
    paths: dict[str, list] = {}
    for row in rows(study="probe"):
        if "recurrent_gain" in row:
            place = [np.median(row[key]) for key in ("recurrent_gain", "outside_std")]
            paths.setdefault(row["cell"], []).append(place)
    plots.save(
        plots.tanh_phase(
            phase,
            critical_lines(phase),
            (line["outside_std"], line["gain"]),
            {name: np.array(path) for name, path in paths.items()},
        ),
        figures / "tanh_phase.png",
    )
    plots.save(plots.gated_phase(rows(study="gated phase")), figures / "gated_phase.png")

    field = rows(study="mean field")[0]
    line = (np.array(field["gains"]), np.array(field["nats_per_step"]))
    measured, differences = {}, {}
    for row in rows(study="tanh"):
        values, gains = np.array(row["nats_per_step"]), row["gains"]
        name = f"{row['size']} units, {len(values)} nets"
        measured[name] = (gains, bootstrap(values, np.mean))
        differences[name] = (gains, bootstrap(values - np.array(row["mean_field"]), np.mean))
    plots.save(plots.mean_field_curve(measured, differences, line), figures / "mean_field.png")


def over_nets(rows: Any) -> dict[str, Any]:
    """Spectra [nets, inputs, S] for a figure: interval over nets, and the range of all."""
    values = np.array(rows, float)
    values = np.maximum(np.where(np.isfinite(values), values, FLOOR), FLOOR)
    values = -np.sort(-values, axis=-1)
    flat = values.reshape(-1, values.shape[-1])
    return {"nets": bootstrap(np.median(values, axis=1)), "low": flat.min(axis=0),
            "high": flat.max(axis=0)}  # fmt: skip


def through_training(rows: Any) -> tuple[dict, dict, dict, dict]:
    """What `plots.exponents_over_training` draws, from the lines of a run."""
    exponents: dict[str, dict] = {}
    losses, training, slopes = {}, {}, {}
    cells = dict.fromkeys(row["cell"] for row in rows(study="probe"))
    for drive in dict.fromkeys(row["drive"] for row in rows(study="largest")):
        exponents[drive] = {}
        for cell in cells:
            found = rows(study="largest", cell=cell, drive=drive)
            values = np.array([np.mean(row["nats_per_step"], axis=1) for row in found])
            exponents[drive][cell] = ([row["step"] for row in found], bootstrap(values.T))
            if drive == "text":
                lags = [row["gradient_slope"] for row in rows(study="probe", cell=cell)]
                slopes[cell] = (values.ravel(), np.ravel(lags))
    for cell in cells:
        found = rows(study="probe", cell=cell)
        values = np.array([row["test_loss"] for row in found])
        losses[cell] = ([row["step"] for row in found], bootstrap(values.T))
        found = rows(study="training", cell=cell)
        values = np.median([row["loss"] for row in found], axis=1)
        training[cell] = ([row["step"] for row in found], values)
    return exponents, losses, training, slopes


def critical_lines(phase: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, Any]]:
    """Measured critical gains of each bias strength, where all nets have one."""
    lines = {}
    for bias_std in dict.fromkeys(row["bias_std"] for row in phase):
        found = plots.pick(phase, bias_std=bias_std)
        gains = np.array([row["critical_gains"] for row in found], float)
        has_all = np.isfinite(gains).all(axis=1)
        outside = np.hypot([row["input_std"] for row in found], bias_std)
        if has_all.any():
            name = f"measured, bias std {bias_std:g}"
            lines[name] = (outside[has_all], bootstrap(gains[has_all].T))
    return lines


if __name__ == "__main__":
    main(Config, run, plot)
