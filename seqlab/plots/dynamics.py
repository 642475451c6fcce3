"""Recurrent nets as dynamical systems: Lyapunov spectra, their limits, phase diagrams."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import MARKERS, band, cycle, edges, legend, new_figure, pick, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
STAGES = {"before": "#56B4E9", "half way": "#E69F00", "after": "#D55E00"}
Lines = Mapping[str, tuple[Any, Any]]  # name -> (x [X], an interval of [X])


def lyapunov_spectra(spectra: Rows, *, floor: float) -> Figure:
    """All exponents, largest first, before, half way and after training; a row a drive.

    Args:
      spectra: rows with cell, drive, stage, nets (an interval of [S] over nets), and low and high
        [S] of all nets and inputs; nothing below `floor`.
      floor: nats per step at which lower exponents are drawn.
    """
    cells, drives = (list(dict.fromkeys(row[key] for row in spectra)) for key in ("cell", "drive"))
    figure, axes = new_figure(
        len(cells), rows=len(drives), width=2.6 * len(cells) + 0.8, height=2.7 * len(drives) + 0.7
    )
    panels = iter(axes)
    for drive in drives:
        for cell in cells:
            each = next(panels)
            for row in pick(spectra, cell=cell, drive=drive):
                colour, size = STAGES[row["stage"]], len(row["low"])
                index = (np.arange(size) + 0.5) / size
                each.fill_between(index, row["low"], row["high"], color=colour, alpha=0.15, lw=0)
                band(each, index, *row["nets"], color=colour, label=row["stage"])
            each.axhline(0.0, color="black", linewidth=0.8)
            each.set(title=f"{cell}, {_driven(drive)}", xlabel="index / number of exponents")
        first = axes[drives.index(drive) * len(cells)]
        first.set_ylabel("exponent, nats per step")
    lowest = min(float(np.min(row["low"])) for row in spectra)
    highest = max(float(np.max(row["high"])) for row in spectra)
    for each in axes:
        each.set_ylim(lowest - 0.1, max(0.0, highest) + 0.25)
    shared_legend(figure, axes, below=True)
    cut = f"; what is below {floor:g} is drawn at {floor:g}" if lowest <= floor else ""
    figure.suptitle(
        "Lyapunov spectra\nmedian over nets with 95 % bootstrap; pale: all nets and inputs" + cut
    )
    return figure


def exponents_over_training(
    exponents: Mapping[str, Lines],
    losses: Lines,
    training: Mapping[str, tuple[Sequence[int], np.ndarray]],
    slopes: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """The largest exponent and the loss over training; the gradient's own slope beside it.

    Args:
      exponents: drive -> cell -> (steps, interval of the largest exponent).
      losses: cell -> (steps, interval of the held-out loss).
      training: cell -> (steps, training loss).
      slopes: cell -> (largest exponents, slopes of the gradient over lag), nats per step, a
        point a net and step, [N] each.
    """
    count = len(exponents) + 2
    figure, axes = new_figure(count, width=3.1 * count, height=3.5)
    for each, (drive, cells) in zip(axes, exponents.items(), strict=False):
        _lines(each, cells)
        each.axhline(0.0, color="black", linewidth=0.8)
        each.set(title=_driven(drive), xlabel="training step",
                 ylabel="largest exponent, nats per step")  # fmt: skip
    loss, scatter = axes[-2:]
    for colour, (steps, values) in zip(cycle(training), training.values(), strict=False):
        loss.plot(steps, values, color=colour, linewidth=0.5, alpha=0.6)
    _lines(loss, losses)
    loss.set(title="loss, held out; thin: training", xlabel="training step",
             ylabel="nats per character")  # fmt: skip
    for colour, (cell, (x, y)) in zip(cycle(slopes), slopes.items(), strict=False):
        scatter.plot(x, y, "o", color=colour, markersize=3, alpha=0.6, label=cell)
    x = np.concatenate([x for x, _ in slopes.values()])
    ends = [np.min(x), np.max(x)]
    scatter.plot(ends, ends, "--", color="black", linewidth=1.1, label="theory: equal")
    scatter.set(title="gradient, all nets and steps", xlabel="largest exponent on text",
                ylabel="slope of log ||dL/dh||, nats per step")  # fmt: skip
    shared_legend(figure, axes, below=True)
    figure.suptitle("largest Lyapunov exponent over training: median over nets with 95 % bootstrap")
    return figure


def singular_limits(singular: Rows, *, floor: float) -> Figure:
    """Logs of singular values of long products, over lag, and how they reach the exponents.

    Args:
      singular: rows with cell, lags [L], nats_per_step [L, S], exponents [S], and errors: name ->
        interval of [L] over nets.
      floor: nats per step below which nothing is shown.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    count = len(singular)
    figure, axes = new_figure(count, rows=2, width=2.6 * count + 1.4, height=6.0)
    upper, lower = axes[:count], axes[count:]
    lags = singular[0]["lags"]
    scale = ScalarMappable(LogNorm(lags[0], lags[-1] + 1), "viridis_r")
    for top, bottom, row in zip(upper, lower, singular, strict=True):
        exponents = np.asarray(row["exponents"], float)
        index = (np.arange(len(exponents)) + 0.5) / len(exponents)
        for lag, line in zip(row["lags"], row["nats_per_step"], strict=True):
            top.plot(index, line, color=scale.to_rgba(lag), linewidth=1.1)
        top.plot(index, exponents, "--", color="black", linewidth=1.4,
                 label="Lyapunov exponents")  # fmt: skip
        top.set(title=row["cell"], xlabel="index / number of singular values")
        for colour, (name, interval) in zip(
            cycle(row["errors"]), row["errors"].items(), strict=False
        ):
            band(bottom, row["lags"], *interval, color=colour, label=name, marker="o", markersize=3)
        start = max(float(interval.middle[0]) for interval in row["errors"].values())
        bottom.plot(row["lags"], start * row["lags"][0] / np.asarray(row["lags"], float), "--",
                    color="black", linewidth=1.1, label="1 / lag")  # fmt: skip
        bottom.set_xscale("log")
        bottom.set_yscale("log")
        bottom.set_xticks(lags[::2], [str(lag) for lag in lags[::2]])
        bottom.set_xticks([], minor=True)
        middles = np.concatenate([interval.middle for interval in row["errors"].values()])
        bottom.set(xlabel="lag (steps)", ylim=(0.3 * middles.min(), 3.0 * middles.max()))
        lowest = np.nanmin(np.where(np.isfinite(row["nats_per_step"]), row["nats_per_step"], 0.0))
        top.set_ylim(bottom=max(min(lowest, exponents.min()), floor) - 0.1)
    legend(upper[0], loc="lower left")
    legend(lower[0], loc="lower left")
    upper[0].set_ylabel(r"$\log\sigma_i$ / lag, nats per step")
    lower[0].set_ylabel("distance to the exponent, nats per step")
    bar = figure.colorbar(scale, ax=list(upper), label="lag (steps)")
    bar.set_ticks(lags, labels=[str(lag) for lag in lags])
    bar.set_ticks([], minor=True)
    figure.suptitle(
        "singular values of Jacobian products along text, after training\n"
        "above: mean over nets; below: median and 95 % bootstrap over nets"
    )
    return figure


def tanh_phase(
    phase: Rows, critical: Lines, line: tuple[Any, Any], paths: Mapping[str, np.ndarray]
) -> Figure:
    """Largest exponent over gain and input strength, a panel a bias strength; the critical line.

    Args:
      phase: rows with bias_std, input_std, gains [G] and nats_per_step [G, nets].
      critical: name -> (std of input and bias together [X], interval of the critical gain [X]).
      line: the same of the theory, std and critical gain.
      paths: cell -> gain and that std of nets as they are trained, [steps, 2]; may be empty.
    """
    biases = list(dict.fromkeys(row["bias_std"] for row in phase))
    stds = np.array([row["input_std"] for row in pick(phase, bias_std=biases[0])])
    gains = np.asarray(phase[0]["gains"])
    figure, panels = new_figure(len(biases) + 1, width=3.1 * (len(biases) + 1) + 1.0, height=3.7)
    maps = [
        np.array([np.median(row["nats_per_step"], axis=1) for row in pick(phase, bias_std=bias)])
        for bias in biases
    ]
    image = None
    for axes, bias, values in zip(panels, biases, maps, strict=False):
        image = _map(axes, gains, stds, values, maps)
        fine = np.linspace(stds[0], stds[-1], 200)
        axes.plot(np.interp(np.hypot(fine, bias), *line), fine, "--", color="black", linewidth=1.6,
                  label="mean field")  # fmt: skip
        axes.set(
            title=f"bias std {bias:g}", xlabel="recurrent gain g", ylabel="input std",
            xlim=(edges(gains)[[0, -1]]), ylim=(stds[0], edges(stds)[-1]),
        )  # fmt: skip
    if image is not None:
        figure.colorbar(image, ax=list(panels[:-1]), label="largest exponent, nats per step")
    axes = panels[-1]
    for colour, marker, (name, (outside, (middle, low, high))) in zip(
        cycle(critical), MARKERS, critical.items(), strict=False
    ):
        axes.errorbar(middle, outside, xerr=[middle - low, high - middle], color=colour,
                      marker=marker, markersize=4, linestyle="", capsize=2, label=name)  # fmt: skip
    axes.plot(line[1], line[0], "--", color="black", linewidth=1.2, label="mean field")
    for colour, (name, path) in zip(("#56B4E9", "#CC79A7", "#E69F00"), paths.items(), strict=False):
        axes.plot(*path.T, color=colour, linewidth=1.4, marker=".", markersize=5)
        axes.plot(*path[-1], "*", color=colour, markersize=11, label=f"{name}, trained on text")
    axes.set(title="critical line", xlabel="recurrent gain g",
             ylabel="std of input and bias together")  # fmt: skip
    shared_legend(figure, panels, below=True)
    figure.suptitle("largest Lyapunov exponent of random tanh nets: median over nets; solid: zero")
    return figure


def gated_phase(phase: Rows) -> Figure:
    """Largest exponent over gain and bias of the gate that keeps, a panel a cell and strength.

    Args:
      phase: rows with cell, input_std, gains [G], biases [B], nats_per_step [B, G, nets], and
        rest_gains and rest_biases of the line on which rest becomes unstable.
    """
    figure, panels = new_figure(len(phase), width=3.2 * len(phase) + 0.8, height=3.4)
    maps = [np.median(row["nats_per_step"], axis=-1) for row in phase]
    names = {"lstm": "forget bias $b_f$", "gru": "update bias, $-b_z$"}
    image = None
    for axes, row, values in zip(panels, phase, maps, strict=True):
        gains, biases = np.asarray(row["gains"]), np.asarray(row["biases"])
        image = _map(axes, gains, biases, values, maps)
        std = row["input_std"]
        if std == 0:
            axes.plot(row["rest_gains"], row["rest_biases"], "--", color="black", linewidth=1.6,
                      label="rest unstable, exact")  # fmt: skip
        axes.set(
            title=f"{row['cell']}, " + ("autonomous" if std == 0 else f"input std {std:g}"),
            xlabel="recurrent gain g", ylabel=names.get(row["cell"], "bias"),
            xlim=(edges(gains)[[0, -1]]), ylim=(edges(biases)[[0, -1]]),
        )  # fmt: skip
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="largest exponent, nats per step")
    shared_legend(figure, panels, below=True)
    figure.suptitle("untrained gated nets: median over nets; solid line: zero")
    return figure


def mean_field_curve(
    measured: Lines, differences: Lines, theory: tuple[np.ndarray, np.ndarray]
) -> Figure:
    """Largest exponent of random tanh nets over gain, at each size, beside infinite size.

    Args:
      measured: name -> (gains, interval of the exponent).
      differences: name -> (gains, interval of the exponent less that of the theory).
      theory: gains [N] and exponents [N] of the theory, nats per step.
    """
    figure, (whole, rest) = new_figure(2, width=8.6, height=3.4)
    _lines(whole, measured)
    _lines(rest, differences)
    whole.plot(*theory, "--", color="black", linewidth=1.3,
               label=r"mean field, $\frac{1}{2}\log\chi$")  # fmt: skip
    rest.axhline(0.0, color="black", linestyle="--", linewidth=1.3)
    for axes, title in ((whole, "largest exponent"), (rest, "measured less mean field")):
        axes.axvline(1.0, color="grey", linewidth=0.7)
        axes.set(title=title, xlabel="recurrent gain g", ylabel="nats per step")
    legend(whole, loc="lower right")
    figure.suptitle("autonomous tanh nets, Gaussian weights: mean and 95 % bootstrap over nets")
    return figure


def _lines(axes, lines):
    """Lines with bands, a colour and a marker each."""
    for colour, marker, (name, (x, interval)) in zip(
        cycle(lines), itertools.cycle(MARKERS), lines.items(), strict=False
    ):
        band(axes, x, *interval, color=colour, marker=marker, markersize=3.5, label=name)


def _driven(drive):
    return drive if drive == "autonomous" else f"driven by {drive}"


def _map(axes, x, y, values, all_values):
    """A map in colours that all of `all_values` share, white at zero, and its zero line."""
    finite = np.concatenate([np.ravel(each[np.isfinite(each)]) for each in all_values])
    limit = max(float(np.quantile(np.abs(finite), 0.97)), 1e-3)
    image = axes.pcolormesh(
        edges(x), edges(y), values, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True
    )
    if min(values.shape) > 1 and np.nanmin(values) < 0 < np.nanmax(values):
        axes.contour(x, y, values, levels=[0.0], colors="black", linewidths=1.4)
    axes.grid(visible=False)
    return image
