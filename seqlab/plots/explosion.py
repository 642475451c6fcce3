"""When gradients explode: phase diagram, clipping, the error wall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import cycle, darker, edges, legend, new_figure, pick

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def phase_diagram(
    phase: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]]
) -> Figure:
    """Growth rate over gain, per initialisation: by input strength as a map, and as curves.

    Args:
      phase: rows with init, input_std, gains [G] and nats_per_step [G, seeds].
      fields: rows with input_std, gains and nats_per_step [G] of the theory; may be empty.
    """
    kinds = list(dict.fromkeys(row["init"] for row in phase))
    stds = [row["input_std"] for row in phase if row["init"] == kinds[0]]
    gains = np.asarray(phase[0]["gains"])
    figure, panels = new_figure(len(kinds) + 1, width=3.5 * (len(kinds) + 1), height=3.3)
    rates = {
        kind: np.array([np.median(row["nats_per_step"], axis=1) for row in pick(phase, init=kind)])
        for kind in kinds
    }
    theory = np.array([row["nats_per_step"] for row in fields])
    finite = np.concatenate([np.ravel(values[np.isfinite(values)]) for values in rates.values()])
    limit = float(np.max(np.abs(finite), initial=1e-3))
    rows = np.arange(len(stds))
    for axes, (kind, values) in zip(panels, rates.items(), strict=False):
        image = axes.pcolormesh(
            edges(gains),
            edges(rows.astype(float)),
            values,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
        )
        if len(stds) > 1 and len(gains) > 1:
            axes.contour(gains, rows, values, levels=[0.0], colors="black", linewidths=1.4)
            if theory.size:
                axes.contour(
                    gains,
                    rows,
                    theory,
                    levels=[0.0],
                    colors="black",
                    linewidths=1.4,
                    linestyles="--",
                )
        axes.set_yticks(rows, [f"{std:g}" for std in stds])
        axes.set(title=f"{kind} W_h", xlabel="recurrent gain g", ylabel="input std")
        axes.grid(visible=False)
    figure.colorbar(image, ax=list(panels[: len(kinds)]), label="growth rate, nats per step")

    axes = panels[-1]
    shown = sorted({0, len(stds) // 2, len(stds) - 1})
    for colour, i in zip(cycle(shown), shown, strict=False):
        for marker, kind in zip("os^v", kinds, strict=False):
            seeds = np.asarray(pick(phase, init=kind)[i]["nats_per_step"])
            axes.plot(gains, np.median(seeds, axis=1), marker, color=colour, markersize=3.5,
                      label=f"{kind}, std {stds[i]:g}")  # fmt: skip
            axes.fill_between(
                gains, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.15, lw=0
            )
        if theory.size:
            axes.plot(gains, theory[i], "--", color=darker(colour), linewidth=1.2,
                      label=f"mean field, std {stds[i]:g}")  # fmt: skip
    axes.axhline(0.0, color="grey", linewidth=0.7)
    axes.set(title="growth rate", xlabel="recurrent gain g", ylabel="nats per step")
    legend(axes, fontsize=6.5)
    return figure


def clipping(training: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, gradient norm before clipping, and clip rate while training, by kind of update.

    Args:
      training: rows with step, updates (a name), and loss, grad_norm and clipped by seed.
    """
    names = list(dict.fromkeys(row["updates"] for row in training))
    figure, (loss, norm, rate) = new_figure(3, width=10.2, height=3.1)
    for colour, name in zip(cycle(names), names, strict=False):
        rows = pick(training, updates=name)
        step = np.array([row["step"] for row in rows])
        for axes, key in ((loss, "loss"), (norm, "grad_norm")):
            values = np.array([row[key] for row in rows])
            axes.plot(step, np.nanmedian(values, axis=1), color=colour, label=name, linewidth=1.3)
            axes.fill_between(
                step,
                np.nanmin(values, axis=1),
                np.nanmax(values, axis=1),
                color=colour,
                alpha=0.15,
                lw=0,
            )
        clipped = np.array([np.mean(row["clipped"]) for row in rows])
        rate.plot(step, np.cumsum(clipped) / step, color=colour, label=name, linewidth=1.3)
    norms = np.concatenate([np.ravel(row["grad_norm"]) for row in training]).astype(float)
    if np.any(np.isfinite(norms) & (norms > 0)):
        norm.set_yscale("log")
    loss.set(title="loss: median and range over seeds", xlabel="training step", ylabel="nats")
    norm.set(title="gradient norm before clipping", xlabel="training step", ylabel="global norm")
    rate.set(title="share of updates clipped so far", xlabel="training step", ylim=(-0.03, 1.03))
    legend(loss)
    return figure


def error_wall(wall: Mapping[str, Any], borders: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Error and gradient norm of the one-unit net over w and b, with the theory on top.

    Args:
      wall: w [N], b [N], error and grad_norm [N over b, N over w].
      borders: name -> w and b of a curve.
    """
    figure, panels = new_figure(2, width=9.4, height=3.6)
    w, b = np.asarray(wall["w"]), np.asarray(wall["b"])
    norm = np.log10(np.maximum(np.asarray(wall["grad_norm"], float), 1e-12))
    titles = ("error", r"$\log_{10}$ gradient norm")
    for axes, values, title in zip(panels, (np.asarray(wall["error"]), norm), titles, strict=True):
        image = axes.pcolormesh(edges(w), edges(b), values, cmap="viridis", rasterized=True)
        figure.colorbar(image, ax=axes, label=title)
        for (name, line), style in zip(borders.items(), ("--", ":"), strict=False):
            axes.plot(line["w"], line["b"], style, color="white", linewidth=1.3, label=name)
        axes.set(
            xlim=(w[0], w[-1]), ylim=(b[0], b[-1]), xlabel="w", ylabel="b",
            title=r"$x_t = w\,\sigma(x_{t-1}) + b$, 50 steps: " + title,
        )  # fmt: skip
        axes.grid(visible=False)
        legend(axes, labelcolor="white", loc="upper right")
    return figure
