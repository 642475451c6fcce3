"""Is the story over once state gradients do not explode? How far states move with parameters.

    python -m experiments.end_of_story
    python -m experiments.end_of_story --decays 0.5 0.9 0.99 --correlations 0 0.9

The state gradient of h_t = lambda h_{t-1} + x_t is lambda^(T-t): it only fades. Yet h_t moves with
lambda ever more as the memory grows, for the effects of one change add up over all steps. Both are
measured with real cells, by forward mode through the one loop: linear nets and linear recurrent
units beside their closed forms; what it helps to scale the input by gamma = sqrt(1 - lambda^2) and
to learn nu, lambda = exp(-exp(nu)); what correlated inputs do; and where an LSTM, a GRU and a tanh
RNN stand whose memory grows by forget bias, update bias and gain. After Zucchet and Orvieto, 2024.

With the defaults (45 s of processor time): E (dh/dlambda)^2 is 2.5e8 at lambda = 0.999, and 0.50
with both remedies, while inputs with rho = 0.99 make it 4.9e10 and 99. Relative to E h^2 the GRU's
stays below 0.3 up to a memory of 100 steps, the LSTM's rises from 0.1 to about 30, the tanh net's
from 2 to 4000 where its state gradient nearly stands still. (A memory beyond T is read off a slope,
and h has then not come to rest.) `--full` is H = 32 and T = 2000: 108 s on two
cores (measured).
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqlab import plots
from seqlab.cells.affine import Init
from seqlab.cells.diagonal import LRU, MinGRU
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.cli import main
from seqlab.data.checks import check_at_least
from seqlab.errors import InputError
from seqlab.gradflow import theory
from seqlab.gradflow.jacobians import log_product_norms
from seqlab.gradflow.sensitivity import parameter_sensitivity
from seqlab.metrics import check, with_intervals
from seqlab.recurrence import unroll, using
from seqlab.runlog import RunLog, read_run

PUBLISHED = {0.9: 263.887, 0.99: 251262.6, 0.999: 2.50125e8}  # E (dh/dlambda)^2, white inputs
MEMORIES = 12.0  # 1 / (1 - lambda) times this many steps, until e^-12 of an impulse is left
TIMES = (0.9, 0.99)  # lambda of the curves over time


@dataclass(frozen=True)
class Config:
    """Sensitivity of states to parameters over memory, correlation and time."""

    decays: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998, 0.999)
    """lambda of the linear nets"""
    correlations: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99)
    """rho, autocorrelation of the inputs from one step to the next"""
    forget_biases: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    """b of the LSTM's forget gate, and -b of the GRU's update gate"""
    gains: tuple[float, ...] = (0.5, 0.8, 1.0, 1.1, 1.2, 1.3)
    """g of the tanh net's orthogonal W_h"""
    input_std: float = 0.1
    """standard deviation of the tanh net's inputs; the stronger, the shorter its memory"""
    hidden_size: int = 16
    """H, units of the nets"""
    num_steps: int = 500
    """T of the nonlinear nets and of the curves over time"""
    num_sequences: int = 16
    """input sequences a net"""
    num_seeds: int = 6
    """nets, each with inputs of its own"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("decays", "correlations"):
            low = 0.0 if field == "correlations" else 1e-3
            values = getattr(self, field)
            if not values or not all(low <= value <= 0.9999 for value in values):
                raise InputError(f"{field} must be from {low:g} to 0.9999, got {values}")
        for field in ("forget_biases", "gains"):
            check_at_least(len(getattr(self, field)), 1, f"number of {field}")
        check_at_least(self.num_steps, 20, "num_steps")
        for field in ("hidden_size", "num_sequences", "num_seeds"):
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seed, 0, "seed")

    @classmethod
    def quick(cls):
        """Seconds, nearly all of them spent compiling."""
        return cls(
            decays=(0.5, 0.9, 0.99), correlations=(0.0, 0.9), forget_biases=(0.0, 3.0),
            gains=(0.8, 1.1), hidden_size=8, num_steps=100, num_sequences=4, num_seeds=2,
        )  # fmt: skip

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(hidden_size=32, num_steps=2000)


def run(config: Config, log: RunLog) -> None:
    """Linear units with closed forms, their curves over time, then nets."""
    with using("scan"):  # small programs, most of them run once: the plain loop compiles faster
        with jax.enable_x64(True):  # sums of 1e4 terms, compared to many digits
            checks = linear_units(config, log)
        checks += curves_over_time(config, log)
        nets = by_memory(config, log)
        whole = all_parameters(config, log)
    log.table("checks; tolerances are relative", checks)
    log.table("memory by the state gradient, and mean square sensitivity over that of the state",
              nets)  # fmt: skip
    log.finish(checks=checks, nets=nets, all_parameters_log10=whole)


def relative(name, found, expected, tolerance):
    """A line of the checks, by relative error."""
    return check(name, found, expected, tolerance * abs(expected))


def linear_units(config: Config, log: RunLog) -> list[dict]:
    """E (dh/dtheta)^2 of units of every decay, by correlation and remedy, beside the closed form.

    The states are linear in the inputs, so the mean square under stationary inputs is the sum of
    squares over the steps after one impulse: exact, but for what is left after the last step.
    """
    decays, size = np.array(config.decays), len(config.decays)
    slowest = max(*config.decays, *config.correlations)
    num_steps = int(np.ceil(MEMORIES / (1.0 - slowest)))
    rho = np.array(config.correlations)[:, None]
    impulse = np.sqrt(1.0 - rho**2) * rho ** np.arange(
        num_steps
    )  # as the inputs' own filter has it
    xs = jnp.broadcast_to(jnp.asarray(impulse)[..., None], (*impulse.shape, size))
    linear, lru, mingru = RNN(size, "identity"), LRU(2 * size), MinGRU(size)
    gamma, zeros, eye = np.sqrt(1.0 - decays**2), jnp.zeros(size), jnp.eye(size)

    def plain(scale):
        def states(decay):
            params = {"W_x": jnp.diag(scale(decay)), "W_h": jnp.diag(decay), "b": zeros}
            return unroll(linear, params, xs).ys

        return states

    def by_nu(nu):
        params = {"nu": nu, "theta": zeros - 100.0, "gamma": jnp.log(jnp.asarray(gamma))}
        params |= {"B_re": eye, "B_im": jnp.zeros_like(eye)}
        return unroll(lru, params, xs).carries.re

    def by_bias(bias):
        gates = {"z": {"W_x": jnp.zeros_like(eye), "b": bias}, "n": {"W_x": eye, "b": zeros}}
        return unroll(mingru, gates, xs).ys

    gate = 1.0 - decays
    # name: states of theta, theta, gamma, dgamma/dlambda, dlambda/dtheta
    remedies = {
        "none": (plain(jnp.ones_like), decays, 1.0, 0.0, 1.0),
        "gamma": (plain(lambda _: jnp.asarray(gamma)), decays, gamma, 0.0, 1.0),
        "gamma, moving": (
            plain(lambda decay: jnp.sqrt(1.0 - decay**2)), decays, gamma, -decays / gamma, 1.0,
        ),
        "gamma, exp(-exp(nu))": (
            by_nu, np.log(-np.log(decays)), gamma, 0.0, decays * np.log(decays),
        ),
        "MinGRU's gate": (by_bias, np.log(gate / decays), gate, -1.0, -decays * gate),
    }  # fmt: skip
    moments = theory.linear_sensitivity(decays, rho)
    checks = []
    for name, (states, theta, scale, scale_slope, slope) in remedies.items():

        @jax.jit
        def measure(theta, states=states):
            state, moved = jax.jvp(states, (theta,), (jnp.ones(size),))
            return jnp.sum(jnp.square(state), axis=1), jnp.sum(jnp.square(moved), axis=1)

        found = [np.asarray(each) for each in measure(jnp.asarray(theta))]  # [rho, decays] each
        wanted = [
            scale**2 * moments.state,
            theory.scaled_sensitivity(moments, scale, scale_slope, slope),
        ]
        for k, correlation in enumerate(config.correlations):
            log.write(
                step=0, study="linear", remedy=name, correlation=correlation, decays=decays,
                state=found[0][k], sensitivity=found[1][k], expected=wanted[1][k],
            )  # fmt: skip
        for what, measured, expected in zip(
            ("E h^2", "E (dh/dtheta)^2"), found, wanted, strict=True
        ):
            worst = np.unravel_index(np.argmax(np.abs(measured / expected - 1)), measured.shape)
            checks.append(
                relative(
                    f"{what}, {name}: farthest, lambda {decays[worst[1]]:g}, "
                    f"rho {config.correlations[worst[0]]:g}",
                    float(measured[worst]), float(expected[worst]), 1e-6,
                )
            )  # fmt: skip
        if name == "none" and 0.0 in config.correlations:
            white = found[1][config.correlations.index(0.0)]
            for decay, published in PUBLISHED.items():
                if decay in config.decays:
                    checks.append(
                        relative(f"E (dh/dlambda)^2 at {decay:g}, published",
                              float(white[config.decays.index(decay)]), published, 2e-6)
                    )  # fmt: skip
    return checks


def curves_over_time(config: Config, log: RunLog) -> list[dict]:
    """State, sensitivity and state gradient of linear nets on white noise, from a state of zero."""
    size, num_steps = config.hidden_size, config.num_steps
    cell = RNN(size, "identity")
    shape = (config.num_seeds, config.num_sequences, num_steps, size)
    xs = jax.random.normal(jax.random.key(config.seed), shape)

    @jax.jit
    def measure(decay, matrices):
        def states(decay):
            params = {"W_x": jnp.eye(size), "b": jnp.zeros(size)}
            return jax.vmap(lambda q, xs: unroll(cell, params | {"W_h": decay * q}, xs).ys)(
                matrices, xs
            )

        state, moved = jax.jvp(states, (decay,), (1.0,))
        params = {"W_x": jnp.eye(size), "b": jnp.zeros(size), "W_h": decay * matrices[0]}
        fading = log_product_norms(cell, params, xs[0, 0])
        squares = (jnp.mean(jnp.square(each), axis=(1, 3)) for each in (state, moved))
        return *squares, fading

    checks = []
    matrices = jax.vmap(lambda key: RNN(size).init(key, 1)["W_h"])(
        jax.random.split(jax.random.key(config.seed + 1), config.num_seeds)
    )
    for decay in TIMES:
        state, moved, fading = measure(decay, matrices)  # [seeds, T], [seeds, T], [T]
        lag = np.arange(num_steps)
        expected = np.cumsum((lag * decay ** np.maximum(lag - 1, 0)) ** 2)
        log.write(step=0, study="time", decay=decay, state=state, sensitivity=moved,
                  expected_state=np.cumsum(decay ** (2 * lag)), expected=expected,
                  log_state_gradient=fading)  # fmt: skip
        count = config.num_seeds * config.num_sequences * size
        checks.append(
            relative(
                f"E (dh_T/dg)^2 of g Q, g {decay:g}, T {num_steps}, white noise (4 std errors)",
                float(jnp.mean(moved[:, -1])), float(expected[-1]), 4 * (2 / count) ** 0.5,
            )
        )  # fmt: skip
    return checks


def by_memory(config: Config, log: RunLog) -> list[dict]:
    """Nets whose memory grows with one knob: how far h moves with it, relative to h itself."""
    size = config.hidden_size
    orthogonal, lstm, gru = RNN(size, weight_init=Init()), LSTM(size, forget_bias=0.0), GRU(size)

    def with_bias(params, gate, bias):
        return params | {gate: params[gate] | {"b": jnp.full(size, bias)}}

    def with_gain(params, gain):
        return params | {"W_h": gain * params["W_h"]}

    families = {
        "LSTM, forget bias": (
            lstm, config.forget_biases, lambda p, knob: with_bias(p, "f", knob), 1.0,
        ),
        "GRU, update bias": (
            gru, config.forget_biases, lambda p, knob: with_bias(p, "z", -knob), 1.0,
        ),
        "tanh RNN, gain": (orthogonal, config.gains, with_gain, config.input_std),
    }  # fmt: skip
    shape = (config.num_seeds, config.num_sequences, config.num_steps, size)
    noise = jax.random.normal(jax.random.key(config.seed + 2), shape)
    keys = jax.random.split(jax.random.key(config.seed + 3), config.num_seeds)
    late = config.num_steps // 2  # the first state is forgotten, if the memory is not longer
    found = []
    for name, (cell, knobs, params_of, std) in families.items():

        def one(knob, params, xs, cell=cell, params_of=params_of):
            def states(knob):
                return unroll(cell, params_of(params, knob), xs).ys[:, late:]

            state, moved = jax.jvp(states, (knob,), (1.0,))
            fading = log_product_norms(cell, params_of(params, knob), xs[0, late:])
            slope = (fading[-1 - len(fading) // 2] - fading[-1]) / (len(fading) // 2)
            return jnp.mean(jnp.square(state)), jnp.mean(jnp.square(moved)), slope

        params = jax.vmap(lambda key, cell=cell: cell.init(key, size))(jax.random.clone(keys))
        over_nets = jax.vmap(one, in_axes=(None, 0, 0))
        measure = jax.jit(jax.vmap(over_nets, in_axes=(0, None, None)))
        state, moved, slope = map(np.asarray, measure(jnp.array(knobs), params, std * noise))
        log.write(step=0, study="memory", net=name, knobs=knobs, state=state.T,
                  ratio=(moved / state).T, nats_per_step=slope.T)  # fmt: skip
        for k, knob in enumerate(knobs):
            rate = float(np.median(slope[k]))
            found.append({
                "net": name,
                "at": knob,
                "state gradient, nats/step": rate,
                "memory, steps": 1.0 / -np.expm1(rate) if rate < 0 else None,
                "E h^2": float(np.median(state[k])),
                "E (dh/dtheta)^2 / E h^2": float(np.median(moved[k] / state[k])),
            })  # fmt: skip
    return found


def all_parameters(config: Config, log: RunLog) -> dict[str, float]:
    """||d h_t / d theta|| over all parameters and time; log10 of the last, median over nets."""
    size, num_inputs = config.hidden_size, 2
    slow = 0.99
    cells = {
        "linear, 0.99 Q": RNN(size, "identity", Init(gain=slow)),
        "LRU, |lambda| to 0.99": LRU(size, largest=slow),
        "tanh RNN": RNN(size),
        "LSTM, forget bias 4.6": LSTM(size, forget_bias=4.6),
        "GRU, update bias -4.6": GRU(size, update_bias=-4.6),
    }
    shape = (config.num_seeds, config.num_steps, num_inputs)
    xs = jax.random.normal(jax.random.key(config.seed + 4), shape)
    keys = jax.random.split(jax.random.key(config.seed + 5), config.num_seeds)
    last = {}
    for name, cell in log.progress(cells.items(), total=len(cells), description="all parameters"):

        def one(inputs, cell=cell):
            key, xs = inputs
            params = cell.init(key, num_inputs)
            found = jnp.stack(jax.tree.leaves(parameter_sensitivity(cell, params, xs)))
            carries = cell.output(unroll(cell, params, xs).carries)
            return 0.5 * jax.nn.logsumexp(2.0 * found, axis=0), jnp.linalg.norm(carries, axis=-1)

        moved, state = jax.jit(lambda pair, one=one: jax.lax.map(one, pair))(
            (jax.random.clone(keys), xs)
        )
        log.write(step=0, study="all", net=name, log_sensitivity=moved, state_norm=state)
        last[name] = float(np.median(moved[:, -1])) / np.log(10.0)
    return last


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"

    def pick(study, *names, statistic=np.median):
        rows = plots.pick(finished.metrics, study=study)
        return with_intervals(rows, *names, statistic=statistic)

    plots.save(plots.linear_sensitivity(pick("linear")), figures / "linear.png")
    times = pick("time", "state", "sensitivity", statistic=np.mean)
    over_time = plots.sensitivity_over_time(times, pick("all", "log_sensitivity"))
    plots.save(over_time, figures / "over_time.png")
    memory = pick("memory", "state", "ratio", "nats_per_step")
    plots.save(plots.sensitivity_by_memory(memory, pick("linear")), figures / "nets.png")


if __name__ == "__main__":
    main(Config, run, plot)
