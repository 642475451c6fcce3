"""How does the gradient of a recurrent net fade or grow as it travels back through time?

    python -m experiments.vanishing_gradients
    python -m experiments.vanishing_gradients --dataset digits --cells rnn irnn lstm gru
    python -m experiments.vanishing_gradients --cells lstm mycells:MGU --loss all

Reads real text character by character, predicts the next one, and measures dL/dh_t at every step,
at initialisation and as training proceeds, exactly, with the theory drawn on top. Figures: gradient
norm over time; the same over training; LSTM total against direct path, gate by gate; each step's
share of dL/dW_h; all singular values of the Jacobian products.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.lookup import make_cell
from seqlab.cells.rnn import RNN
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_distinct, check_positive
from seqlab.data.problems import Problem, load_problem
from seqlab.ensemble import stacked
from seqlab.gradflow import theory
from seqlab.gradflow.jacobians import log_singular_values, step_jacobians
from seqlab.gradflow.paths import path_gradients
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time, named_leaves
from seqlab.gradflow.weights import share_norms, weight_shares
from seqlab.losses import cross_entropy, masked_mean, squared_error
from seqlab.metrics import fitted_slope
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog, read_run
from seqlab.train import fresh_state, make_train_step, steps

LAG = 50  # of the ratio in summary.json
DIRECT_LAG = 100  # of what it says about the direct path
NUM_TEST = 512  # held-out sequences of the final loss


@dataclass(frozen=True)
class Config:
    """Gradient norm over time, at initialisation and through training, one curve a cell."""

    cells: tuple[str, ...] = ("rnn", "lstm", "gru")
    """names of cells, or package.module:Class"""
    dataset: str = "embedded"
    """a text (embedded, tinyshakespeare, ptb), images (digits, mnist, permuted-mnist) or a task
    (adding, copy-memory, temporal-order)"""
    corpus: Path | None = None
    """a UTF-8 text file of your own instead"""
    loss: Literal["last", "all"] = "last"
    """where a text has its loss: after the last step, or summed over all"""
    seq_len: int = 128
    """T, steps"""
    hidden_size: int = 64
    """H, units"""
    embed_size: int = 32
    """D, width of a character's embedding"""
    num_updates: int = 300
    """training steps"""
    batch_size: int = 32
    """sequences a step"""
    learning_rate: float = 3e-3
    """of Adam"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    num_seeds: int = 3
    """nets a cell, trained side by side"""
    num_sequences: int = 32
    """sequences under the probe, a net"""
    num_probes: int = 13
    """times the gradient is measured, first and last step included"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_distinct(self.cells, "cells")
        smallest = {"seq_len": 2, "num_probes": 2, "seed": 0}
        for field in ("hidden_size", "embed_size", "num_updates", "batch_size", "num_seeds",
                      "num_sequences", *smallest):  # fmt: skip
            check_at_least(getattr(self, field), smallest.get(field, 1), field)
        for field in ("learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)
        for name in self.cells:
            make_cell(name, self.hidden_size)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs; nearly all of them are spent compiling."""
        return cls(
            cells=("rnn", "lstm"),
            seq_len=64, hidden_size=16, embed_size=8, num_updates=20, batch_size=8, num_seeds=2,
            num_sequences=8, num_probes=3,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Trains each cell and measures it."""
    problem = load_problem(
        config.dataset,
        corpus=config.corpus,
        seq_len=config.seq_len,
        every_step=config.loss == "all",
    )
    log.write(step=0, dataset=problem.name, digest=problem.digest)
    figures = {name: study(name, config, problem, log) for name in config.cells}
    where = "at every step" if problem.every_step else "at the last step"
    unit = "nats" if problem.answers == "class" else "squared error"
    log.table(
        f"{problem.name}, {problem.num_steps} steps, loss {where}; held-out loss in {unit}",
        [
            {
                "cell": name,
                "slope, nats/step": figure["slope_nats_per_step_at_init"],
                "half-life, steps": figure["half_life_steps_at_init"],
                "lag of a fall by 1e3": figure["lag_of_fall_by_1e3_at_init"],
                f"log10 ratio, lag {LAG}": figure[f"log10_norm_ratio_at_lag_{LAG}"],
                "slope trained": figure["slope_nats_per_step_trained"],
                "loss before": figure["initial_loss_nats"],
                "after": figure["final_loss_nats"],
            }
            for name, figure in figures.items()
        ],
    )
    for name, figure in figures.items():
        if figure["updates_skipped"]:
            log.note(f"{name}: {figure['updates_skipped']} updates were not finite and skipped")
    log.finish(cells=figures, dataset=problem.name, loss_at_every_step=problem.every_step)


def study(name: str, config: Config, problem: Problem, log: RunLog) -> dict[str, float | None]:
    """Trains `num_seeds` nets of one cell, probing as it goes; the cell's line of the summary."""
    cell = make_cell(name, config.hidden_size)
    model = build(cell, config, problem)
    optimizer = optax.adam(config.learning_rate)

    def mean_loss(params, batch, key):
        del key  # nothing here is random
        errors = losses(model.apply(params, batch.xs, batch.mask), batch, problem)
        return masked_mean(errors, batch.mask if problem.every_step else None), {}

    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    state = jax.vmap(lambda key: fresh_state(model.init, optimizer, key))(keys)
    train_step = jax.vmap(make_train_step(mean_loss, optimizer, clip_norm=config.clip_norm))
    test_loss = jax.jit(jax.vmap(lambda params, batch: mean_loss(params, batch, None)[0]))

    def draw(stream, count, is_test):
        return stacked([
            problem.sample(np.random.default_rng([config.seed, stream, net]), count, is_test)
            for net in range(config.num_seeds)
        ])  # fmt: skip

    probed = draw(1, config.num_sequences, True)
    tested = draw(2, NUM_TEST, True)
    training = [np.random.default_rng([config.seed, 3, net]) for net in range(config.num_seeds)]

    def batches():
        for _ in range(config.num_updates):
            yield stacked([problem.sample(rng, config.batch_size, False) for rng in training])

    watch = jax.jit(jax.vmap(lambda params, batch: carry_norms(model, params, batch, problem)))
    parts = jax.jit(jax.vmap(lambda params, batch: dissect(model, cell, params, batch, problem)))
    curves, direct = [], []

    def probe(step, params):
        norms = watch(params, probed)
        for leaf, values in norms.items():
            write_band(log, values, step=step, cell=name, probe="carry", leaf=leaf)
        curves.append(np.median(main_leaf(norms), axis=(0, 1)))
        if step in (0, config.num_updates):
            lags = spectrum_lags(problem.num_steps)
            found = parts(params, probed)
            direct.append(write_parts(log, found, lags, step=step, cell=name))
            if "bound" in found and not problem.every_step:  # both start from a loss at the end
                lines = theory_lines(cell, params, probed, found["bound"], norms["h"], step)
                for label, line in lines.items():
                    log.write(step=step, cell=name, theory=label, log_norm=line)

    with ThreadPoolExecutor() as pool:  # compiled side by side; called again below
        for program, batch in ((watch, probed), (parts, probed), (test_loss, tested)):
            pool.submit(program, state.params, batch)
        twin = state.replace(key=jax.random.clone(state.key))
        pool.submit(jax.jit(train_step), twin, draw(4, config.batch_size, False))

    initial_loss = test_loss(state.params, tested)
    probe(0, state.params)
    stops = set(np.linspace(0, config.num_updates, config.num_probes).round().astype(int).tolist())
    progress = log.progress(
        steps(train_step, state, batches()), total=config.num_updates, description=name
    )
    for step, state, metrics in progress:
        log.write(step=step, cell=name, split="train", **metrics)
        if step in stops:
            probe(step, state.params)
    final_loss = test_loss(state.params, tested)

    first, last = curves[0], curves[-1]
    slope, trained = (fitted_slope(curve) for curve in (first, last))
    is_long = problem.num_steps > LAG
    return {
        "slope_nats_per_step_at_init": slope,
        "half_life_steps_at_init": theory.half_life(slope) if slope < 0 else None,
        "lag_of_fall_by_1e3_at_init": fall_lag(first, np.log(1e3)),
        f"log10_norm_ratio_at_lag_{LAG}": (
            float(first[-1 - LAG] - first[-1]) / np.log(10.0) if is_long else None
        ),
        f"log10_direct_over_total_at_lag_{DIRECT_LAG}_at_init": direct[0],
        "slope_nats_per_step_trained": trained,
        f"log10_direct_over_total_at_lag_{DIRECT_LAG}_trained": direct[-1],
        "initial_loss_nats": float(jnp.mean(initial_loss)),
        "final_loss_nats": float(jnp.mean(final_loss)),
        "updates_skipped": int(jnp.sum(state.skipped)),
    }


def build(cell, config, problem):
    """The model of a problem, as pure functions."""
    return functional(
        ManyToMany if problem.every_step else ManyToOne,
        cell,
        input_size=problem.input_size or config.embed_size,
        vocab_size=problem.vocab_size,
        output_size=problem.output_size,
        head="softmax" if problem.answers == "class" else "linear",
    )


def losses(output, batch, problem):
    """Loss of each sequence [B], or of each step [B, T]: nats, or squared error for a value."""
    if problem.answers == "class":
        return cross_entropy(output.logits, batch.targets)
    return squared_error(output.logits, batch.targets)


def total_loss(batch, problem):
    """Output -> the losses added up, so that each sequence's gradient is its own."""

    def loss(output):
        errors = losses(output, batch, problem)
        if problem.every_step and batch.mask is not None:
            errors = jnp.where(batch.mask, errors, 0.0)
        return jnp.sum(errors)

    return loss


def carry_norms(model, params, batch, problem):
    """Log norms of dL/dcarry_t, leaf -> [N, T]."""
    grads = carry_gradients(model.apply, total_loss(batch, problem), params, batch.xs, batch.mask)[
        "rnn"
    ]
    return {leaf: log_norm_over_time(values) for leaf, values in named_leaves(grads).items()}


def dissect(model, cell, params, batch, problem):
    """The slower instruments: weight shares, paths by gate, one sequence's Jacobians, the bound."""
    loss, inputs = total_loss(batch, problem), (batch.xs, batch.mask)
    shares = weight_shares(model.apply, loss, params, *inputs)["rnn"]
    whole = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, keepdims=True), shares)
    name = "W_h" if "W_h" in leaf_names(shares) else None
    found = {"shares": jnp.log(share_norms(shares, name)) - jnp.log(share_norms(whole, name))}
    if getattr(cell, "routes", ()):
        paths = path_gradients(model.apply, loss, params, *inputs, cell=cell)
        found["paths"] = {
            path: {leaf: log_norm_over_time(g) for leaf, g in named_leaves(carry).items()}
            for path, carry in paths.items()
        }
    weights = params["rnn"]["weights"]
    mask = None if batch.mask is None else batch.mask[0]
    xs = read(params, batch.xs)
    found["jacobians"] = step_jacobians(cell, weights, xs[0], mask=mask)
    if isinstance(cell, RNN):
        hs = unroll(cell, weights, xs, mask=batch.mask).ys
        # Entry t bounds d h_T / d h_{t+1}, so that h_T itself comes last, with a bound of 1.
        bound = theory.log_rnn_bound(weights["W_h"], hs, cell.activation, batch.mask)[..., 1:]
        found["bound"] = jnp.pad(bound, ((0, 0), (0, 1)))
    return found


# Jitted here, so that cells with carries of one size share a program.
spectra = jax.jit(jax.vmap(log_singular_values, in_axes=(0, None)), static_argnums=1)


def leaf_names(tree):
    """What the leaves of nested dicts are called."""
    return {path[-1].key for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]}


def read(params, xs):
    """What the recurrence reads: the embedded characters, or real inputs as they are."""
    return params["embed"]["embedding"][xs] if "embed" in params else xs


def spectrum_lags(num_steps):
    """Some sixteen lags from 1 to T."""
    return tuple(sorted(set(np.linspace(1, num_steps, 17).round().astype(int).tolist())))


def main_leaf(leaves):
    """The leaf that the curves are about: h, or the first of a carry without one."""
    return np.asarray(leaves["h"] if "h" in leaves else next(iter(leaves.values())))


def write_band(log, values, **fields):
    """Median and 10-90 % band of [nets, sequences, T] over nets and sequences."""
    quantiles = (0.1, 0.5, 0.9)
    # Without interpolation: a gradient that is zero in its precision has a norm of -inf.
    low, median, high = np.quantile(
        np.asarray(values), quantiles, axis=(0, 1), method="inverted_cdf"
    )
    log.write(**fields, log_norm_median=median, log_norm_p10=low, log_norm_p90=high)


def write_parts(log, found, lags, *, step, cell):
    """What `dissect` found; log10 of what the direct path carries of the gradient, or None."""
    reached = {}
    shares = np.median(np.asarray(found["shares"]), axis=0)
    log.write(step=step, cell=cell, probe="share", log_share_median=shares)
    for path, leaves in found.get("paths", {}).items():
        leaf = "c" if "c" in leaves else next(iter(leaves))  # the direct path of an LSTM is in c
        write_band(log, leaves[leaf], step=step, cell=cell, probe="path", path=path, leaf=leaf)
        if leaves[leaf].shape[-1] > DIRECT_LAG:
            reached[path] = float(np.median(leaves[leaf][..., -1 - DIRECT_LAG]))
    spectrum = np.median(np.asarray(spectra(found["jacobians"], lags)), axis=0)
    log.write(step=step, cell=cell, probe="spectrum", lags=lags, log_singular_values=spectrum)
    return (reached["direct"] - reached["total"]) / np.log(10.0) if reached else None


def theory_lines(cell, params, batch, bound, norms, step):
    """Bound and mean field of a vanilla net, anchored where the measured curve leaves the loss."""
    anchor = np.asarray(norms)[..., -1:]
    lines = {"bound": np.median(anchor + np.asarray(bound), axis=(0, 1))}
    init = cell.weight_init
    if step == 0 and cell.activation == "tanh" and init.recurrent in ("orthogonal", "gaussian"):
        driven = jax.vmap(lambda p, xs: read(p, xs) @ p["rnn"]["weights"]["W_x"])(params, batch.xs)
        field = theory.mean_field_tanh(init.gain, float(jnp.var(driven)))
        lag = np.arange(bound.shape[-1])[::-1]
        lines["mean field"] = np.median(anchor) + lag * field.log_slope
    return lines


def fall_lag(curve, nats):
    """Smallest lag at which the log norm lies `nats` below its value at the loss, or None."""
    fallen = np.flatnonzero(curve[::-1] < curve[-1] - nats)
    return int(fallen[0]) if fallen.size else None


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"
    cells = finished.config["cells"]
    last = finished.config["num_updates"]
    before = "the end" if finished.summary["loss_at_every_step"] else "the loss"
    select = lambda **fields: plots.pick(finished.metrics, **fields)  # noqa: E731

    figure, panels = plots.new_figure(2, width=9.6, height=3.9)
    for axes, step, title in zip(panels, (0, last), ("at initialisation", "trained"), strict=True):
        curves = [curve(name, step, select) for name in cells]
        label = f"{title}, after {step} updates" if step else title
        plots.gradient_curves(curves, axes, label, before=before)
    figure.suptitle(
        rf"$\|dL/dh_t\|$, dataset {finished.summary['dataset']}: "
        "median and 10-90 % over sequences and nets"
    )
    plots.save(figure, figures / "gradient_over_time.png")

    probes = {name: select(cell=name, probe="carry", leaf=leaf_of(name, select)) for name in cells}
    norms = {
        name: np.array([row["log_norm_median"] for row in rows]) for name, rows in probes.items()
    }
    measured = [row["step"] for row in probes[cells[0]]]
    plots.save(
        plots.training_heatmap(measured, norms, before=before), figures / "training_heatmap.png"
    )

    gated = [name for name in cells if select(cell=name, probe="path")]
    if gated:
        pairs = [(name, step) for name in gated for step in (0, last)]
        figure, panels = plots.new_figure(2, rows=len(gated), width=9.6, height=3.4 * len(gated))
        for axes, (name, step) in zip(panels, pairs, strict=True):
            rows = select(cell=name, probe="path", step=step)
            parts = {row["path"]: row["log_norm_median"] for row in rows}
            leaf = rows[0]["leaf"]
            plots.path_curves(
                parts, axes, rf"{name}: $dL/d{leaf}_t$, after {step} updates", before=before
            )
        plots.save(figure, figures / "paths.png")

    figure, panels = plots.new_figure(2, width=9.6, height=3.6)
    for axes, step in zip(panels, (0, last), strict=True):
        shares = {
            name: select(cell=name, probe="share", step=step)[0]["log_share_median"]
            for name in cells
        }
        plots.share_curves(
            shares, axes, f"share of each step in dL/dW, after {step} updates", before=before
        )
    plots.save(figure, figures / "weight_shares.png")

    rows = {name: select(cell=name, probe="spectrum", step=0)[0] for name in cells}
    spectra = {name: np.array(row["log_singular_values"]) for name, row in rows.items()}
    lags = rows[cells[0]]["lags"]
    lines = {
        row["cell"]: np.array(lags) * (row["log_norm"][-2] - row["log_norm"][-1])
        for row in select(theory="mean field")
    }
    plots.save(plots.singular_spectra(lags, spectra, lines), figures / "singular_spectra.png")


def leaf_of(name, select):
    """The leaf that the curves of a cell are about, as `main_leaf` has it."""
    leaves = [row["leaf"] for row in select(cell=name, probe="carry", step=0)]
    return "h" if "h" in leaves else leaves[0]


def curve(name, step, select):
    """One cell's gradient curve with its theory."""
    row = select(cell=name, probe="carry", step=step, leaf=leaf_of(name, select))[0]
    lines = {
        kind: {
            f"{name}: {kind}": row["log_norm"] for row in select(cell=name, theory=kind, step=step)
        }
        for kind in ("mean field", "bound")
    }
    for path in select(cell=name, probe="path", path="direct", step=step):
        what = "dL/dc, product of f" if path["leaf"] == "c" else "gates held fixed"
        lines["mean field"][f"{name}: direct path, {what}"] = path["log_norm_median"]
    band = (row[f"log_norm_{edge}"] for edge in ("median", "p10", "p90"))
    return plots.Curve(name, *map(np.array, band), lines["mean field"], lines["bound"])


if __name__ == "__main__":
    main(Config, run, plot)
