"""Recurrent nets as dynamical systems: Lyapunov spectra, their limits, phase diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.metrics import bootstrap
from seqlab.plots.style import band, cycle, edges, legend, new_figure, pick

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
FLOOR = -6.0  # nats per step; what lies lower is forgotten at once
STAGES = {"before": "#56B4E9", "half way": "#E69F00", "after": "#D55E00"}
DRIVES = {"text": "-", "noise": "-.", "autonomous": ":"}
MARKERS = "os^Dv<>P*X"


def lyapunov_spectra(spectra: Rows) -> Figure:
    """All exponents, largest first, before, half way and after training; a row a drive.

    Args:
      spectra: rows with cell, drive, stage and nats_per_step [nets, inputs, S].
    """
    cells, drives = (list(dict.fromkeys(row[key] for row in spectra)) for key in ("cell", "drive"))
    figure, axes = new_figure(
        len(cells), rows=len(drives), width=2.9 * len(cells) + 0.6, height=2.7 * len(drives) + 0.7
    )
    panels = iter(axes)
    for drive in drives:
        for cell in cells:
            each = next(panels)
            for stage, colour in STAGES.items():
                for row in pick(spectra, cell=cell, drive=drive, stage=stage):
                    values = -np.sort(-_finite(row["nats_per_step"]), axis=-1)
                    nets = bootstrap(np.median(values, axis=1))
                    index = (np.arange(values.shape[-1]) + 0.5) / values.shape[-1]
                    flat = values.reshape(-1, values.shape[-1])
                    each.fill_between(
                        index, flat.min(axis=0), flat.max(axis=0), color=colour, alpha=0.15, lw=0
                    )
                    band(each, index, *nets, color=colour, label=stage)
            each.axhline(0.0, color="black", linewidth=0.8)
            name = drive if drive == "autonomous" else f"driven by {drive}"
            each.set(title=f"{cell}, {name}", xlabel="index / number of exponents")
        first = axes[drives.index(drive) * len(cells)]
        first.set_ylabel("Lyapunov exponent, nats per step")
    lowest = min(float(_finite(row["nats_per_step"]).min()) for row in spectra)
    highest = max(float(np.nanmax(row["nats_per_step"])) for row in spectra)
    for each in axes:
        each.set_ylim(lowest - 0.1, max(0.0, highest) + 0.25)
    _legend_below(figure, axes)
    figure.suptitle(
        "Lyapunov spectra over training: median over nets, 95 % bootstrap; pale: all nets and "
        "inputs" + (f"; below {FLOOR:g} not drawn to scale" if lowest <= FLOOR else "")
    )
    return figure


def exponents_over_training(largest: Rows, probes: Rows, training: Rows) -> Figure:
    """The largest exponent and the loss over training; the gradient's own slope beside it.

    Args:
      largest: rows with step, cell, drive and nats_per_step [nets, inputs].
      probes: rows with step, cell, test_loss and gradient_slope [nets].
      training: rows with step, cell and loss [nets].
    """
    cells, drives = (list(dict.fromkeys(row[key] for row in largest)) for key in ("cell", "drive"))
    figure, axes = new_figure(len(drives) + 2, width=3.1 * (len(drives) + 2), height=3.4)
    colours = dict(zip(cells, cycle(cells), strict=True))
    for each, drive in zip(axes, drives, strict=False):
        for cell, colour in colours.items():
            rows = pick(largest, cell=cell, drive=drive)
            values = np.array([np.mean(row["nats_per_step"], axis=1) for row in rows]).T
            band(each, [row["step"] for row in rows], *bootstrap(values), color=colour, label=cell,
                 marker="o", markersize=3)  # fmt: skip
        each.axhline(0.0, color="black", linewidth=0.8)
        name = drive if drive == "autonomous" else f"driven by {drive}"
        each.set(title=name, xlabel="training step", ylabel="largest exponent, nats per step")
    loss, scatter = axes[-2:]
    for cell, colour in colours.items():
        rows = pick(training, cell=cell)
        values = np.array([row["loss"] for row in rows]).T
        loss.plot([row["step"] for row in rows], np.median(values, axis=0), color=colour,
                  linewidth=0.6, alpha=0.6)  # fmt: skip
        rows = pick(probes, cell=cell)
        values = np.array([row["test_loss"] for row in rows]).T
        band(loss, [row["step"] for row in rows], *bootstrap(values), color=colour, label=cell,
             marker="o", markersize=3)  # fmt: skip
    loss.set(title="loss: held out (dots), training (thin)", xlabel="training step",
             ylabel="nats per character")  # fmt: skip
    seen = []
    for cell, colour in colours.items():
        rows = pick(largest, cell=cell, drive="text")
        x = np.ravel([np.mean(row["nats_per_step"], axis=1) for row in rows])
        y = np.ravel([row["gradient_slope"] for row in pick(probes, cell=cell)])
        if x.size:
            scatter.plot(x, y, "o", color=colour, markersize=3, alpha=0.6, label=cell)
            seen += [x, y]
    if seen:
        ends = np.array([np.min(np.concatenate(seen)), np.max(np.concatenate(seen))])
        scatter.plot(ends, ends, "--", color="black", linewidth=1.1, label="theory: equal")
    scatter.set(title="gradient of the loss, all nets and steps", xlabel="largest exponent on text",
                ylabel="slope of log ||dL/dh||, nats per step")  # fmt: skip
    _legend_below(figure, axes)
    figure.suptitle("largest Lyapunov exponent over training: median over nets, 95 % bootstrap")
    return figure


def singular_limits(singular: Rows) -> Figure:
    """Logs of singular values of long products, over lag, and how they reach the exponents.

    Args:
      singular: rows with cell, lags [L], nats_per_step [L, S], exponents [S], mean_error and
        largest_error [nets, L].
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    count = len(singular)
    figure, axes = new_figure(count, rows=2, width=2.9 * count + 1.2, height=6.0)
    upper, lower = axes[:count], axes[count:]
    lags = singular[0]["lags"]
    norm = LogNorm(lags[0], lags[-1] * 1.0001)
    scale = ScalarMappable(norm, "viridis_r")
    for top, bottom, row in zip(upper, lower, singular, strict=True):
        values, exponents = _finite(row["nats_per_step"]), _finite(row["exponents"])
        index = (np.arange(len(exponents)) + 0.5) / len(exponents)
        for lag, line in zip(row["lags"], values, strict=True):
            top.plot(index, line, color=scale.to_rgba(lag), linewidth=1.1)
        top.plot(index, exponents, "--", color="black", linewidth=1.4,
                 label="Lyapunov exponents")  # fmt: skip
        top.set(title=row["cell"], xlabel="index / number of singular values")
        for name, key, colour in (
            ("largest", "largest_error", "#0072B2"),
            ("mean over all", "mean_error", "#D55E00"),
        ):
            errors = np.asarray(row[key], float)
            errors = np.where(np.isfinite(errors), errors, np.nan)
            if np.isfinite(errors).all():
                band(bottom, row["lags"], *bootstrap(errors), color=colour, label=name, marker="o",
                     markersize=3)  # fmt: skip
        start = float(np.nanmedian(np.asarray(row["mean_error"], float)[:, 0]))
        if np.isfinite(start):
            bottom.plot(row["lags"], start / np.asarray(row["lags"], float), "--", color="black",
                        linewidth=1.1, label="1 / lag")  # fmt: skip
        bottom.set_xscale("log")
        bottom.set_yscale("log")
        bottom.set(xlabel="lag (steps)")
        legend(bottom)
    legend(upper[0], loc="lower left")
    upper[0].set_ylabel(r"$\log\sigma_i$ / lag, nats per step")
    lower[0].set_ylabel("distance to the exponent, nats per step")
    figure.colorbar(scale, ax=list(upper), label="lag (steps)")
    figure.suptitle(
        "singular values of Jacobian products along text, after training: mean over nets; below: "
        "median, 95 % bootstrap over nets"
    )
    return figure


def tanh_phase(phase: Rows, training: Rows) -> Figure:
    """Largest exponent over gain and input strength, a panel a bias strength; the critical line.

    Args:
      phase: rows with bias_std, input_std, gains [G], nats_per_step [G, nets], critical_gains
        [nets], mean_field_gain.
      training: rows with step, recurrent_gain and outside_std [nets] of trained nets; may be empty.
    """
    biases = list(dict.fromkeys(row["bias_std"] for row in phase))
    stds = np.array([row["input_std"] for row in pick(phase, bias_std=biases[0])])
    gains = np.asarray(phase[0]["gains"])
    figure, panels = new_figure(len(biases) + 1, width=3.1 * (len(biases) + 1) + 1.0, height=3.4)
    maps = [
        np.array([np.median(row["nats_per_step"], axis=1) for row in pick(phase, bias_std=bias)])
        for bias in biases
    ]
    image = None
    for axes, bias, values in zip(panels, biases, maps, strict=False):
        image = _map(axes, gains, stds, values, maps)
        line = [row["mean_field_gain"] for row in pick(phase, bias_std=bias)]
        axes.plot(line, stds, "--", color="black", linewidth=1.6, label="mean field")
        axes.set(
            title=f"bias std {bias:g}", xlabel="recurrent gain g", ylabel="input std",
            xlim=(edges(gains)[[0, -1]]), ylim=(edges(stds)[[0, -1]]),
        )  # fmt: skip
        legend(axes, loc="lower right", handlelength=2.4)
    if image is not None:
        figure.colorbar(image, ax=list(panels[:-1]), label="largest exponent, nats per step")
    axes = panels[-1]
    colours = cycle(biases)
    for colour, marker, bias in zip(colours, MARKERS, biases, strict=False):
        rows = pick(phase, bias_std=bias)
        found = np.array([row["critical_gains"] for row in rows], float)
        kept = np.isfinite(found).all(axis=1)
        if kept.any():
            outside = np.hypot(stds, bias)[kept]
            middle, low, high = bootstrap(found[kept].T)
            axes.errorbar(middle, outside, xerr=[middle - low, high - middle], color=colour,
                          marker=marker, markersize=4, linestyle="", capsize=2,
                          label=f"measured, bias std {bias:g}")  # fmt: skip
    whole = np.array(sorted((np.hypot(row["input_std"], row["bias_std"]), row["mean_field_gain"])
                            for row in phase))  # fmt: skip
    axes.plot(whole[:, 1], whole[:, 0], "--", color="black", linewidth=1.2, label="mean field")
    if training:
        path = np.array([[np.median(row["recurrent_gain"]), np.median(row["outside_std"])]
                         for row in training])  # fmt: skip
        axes.plot(*path.T, color="#D55E00", linewidth=1.2, marker=".", markersize=5,
                  label="rnn on text, training")  # fmt: skip
        axes.plot(*path[-1], "*", color="#D55E00", markersize=11, label="after training")
    axes.set(title="critical line", xlabel="recurrent gain g",
             ylabel="std of input and bias together")  # fmt: skip
    legend(axes, fontsize=6.5)
    figure.suptitle("largest Lyapunov exponent of random tanh nets: median over nets; solid: zero")
    return figure


def gated_phase(phase: Rows) -> Figure:
    """Largest exponent over gain and bias of the gate that keeps, a panel a cell and strength.

    Args:
      phase: rows with cell, input_std, gains [G], biases [B], nats_per_step [B, G, nets] and
        at_rest_gain [B].
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
            fine = np.linspace(biases[0], biases[-1], 200)
            line = np.interp(fine, biases, row["at_rest_gain"])
            axes.plot(line, fine, "--", color="black", linewidth=1.6, label="rest unstable, exact")
            legend(axes, loc="lower right", handlelength=2.4)
        axes.set(
            title=f"{row['cell']}, " + ("autonomous" if std == 0 else f"input std {std:g}"),
            xlabel="recurrent gain g", ylabel=names.get(row["cell"], "bias"),
            xlim=(edges(gains)[[0, -1]]), ylim=(edges(biases)[[0, -1]]),
        )  # fmt: skip
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="largest exponent, nats per step")
    figure.suptitle("untrained gated nets: median over nets; solid line: zero")
    return figure


def mean_field_curve(measured: Rows, theory: Mapping[str, Any]) -> Figure:
    """Largest exponent of random tanh nets over gain, at each size, beside infinite size.

    Args:
      measured: rows with size, gains [G] and nats_per_step [nets, G].
      theory: gains and nats_per_step of the theory.
    """
    figure, (whole, rest) = new_figure(2, width=8.6, height=3.4)
    gains, line = np.asarray(theory["gains"]), np.asarray(theory["nats_per_step"])
    for colour, marker, row in zip(cycle(measured), MARKERS, measured, strict=False):
        values, places = np.asarray(row["nats_per_step"]), row["gains"]
        label = f"{row['size']} units, {len(values)} nets"
        style = {"color": colour, "marker": marker, "markersize": 4, "label": label}
        band(whole, places, *bootstrap(values, np.mean), **style)
        band(rest, places, *bootstrap(values - np.interp(places, gains, line), np.mean), **style)
    whole.plot(gains, line, "--", color="black", linewidth=1.3,
               label=r"mean field, $\frac{1}{2}\log\chi$")  # fmt: skip
    rest.axhline(0.0, color="black", linestyle="--", linewidth=1.3)
    for axes, title in ((whole, "largest exponent"), (rest, "measured less mean field")):
        axes.axvline(1.0, color="grey", linewidth=0.7)
        axes.set(title=title, xlabel="recurrent gain g", ylabel="nats per step")
    legend(whole, loc="lower right")
    figure.suptitle("autonomous tanh nets, Gaussian weights: mean, 95 % bootstrap over nets")
    return figure


def _finite(values):
    """What is no number, or far below, on the floor."""
    values = np.asarray(values, float)
    return np.maximum(np.where(np.isfinite(values), values, FLOOR), FLOOR)


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


def _legend_below(figure, axes):
    """One legend for all panels, under them."""
    handles = {
        label: handle
        for each in axes
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles),
        fontsize=8, frameon=False,
    )  # fmt: skip
