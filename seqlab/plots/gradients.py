"""Gradients over time: curves with theory, heat maps over training, paths, shares, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seqlab.plots.style import COLOURS, cycle, darker, edges, lags, legend, log10, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Curve(NamedTuple):
    """A log norm over time.

    Attributes:
      name: what the legend says.
      log_norm: natural log, [T], in order of time; NaN leaves a gap.
      low, high: a band, [T], or None.
      theory: name -> log norm [T], dashed on top.
      bounds: name -> log norm [T], dotted on top.
    """

    name: str
    log_norm: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    theory: Mapping[str, np.ndarray] | None = None
    bounds: Mapping[str, np.ndarray] | None = None


def gradient_curves(
    curves: Sequence[Curve], axes: Axes, title: str = "", *, before: str = "the loss"
) -> None:
    """log10 of a norm against steps before `before`, with bands, and theory drawn on top."""
    seen = []
    for colour, curve in zip(cycle(curves), curves, strict=False):
        lag = lags(curve.log_norm)
        axes.plot(lag, log10(curve.log_norm), color=colour, label=curve.name, linewidth=1.8)
        seen.append(log10(curve.log_norm))
        if curve.low is not None and curve.high is not None:
            low, high = log10(curve.low), log10(curve.high)
            axes.fill_between(lag, low, high, color=colour, alpha=0.18, lw=0)
            seen += [low, high]
        for style, lines in (("--", curve.theory), (":", curve.bounds)):
            for name, values in (lines or {}).items():
                axes.plot(
                    lags(values), log10(values), style, color=darker(colour), label=name, lw=1.2
                )
    # The measured curves set the range: a bound may leave the page.
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    if values.size:
        margin = 0.06 * np.ptp(values) + 0.2
        axes.set(ylim=(values.min() - margin, values.max() + margin))
    axes.set(title=title, xlabel=f"steps before {before}", ylabel=r"$\log_{10}$ gradient norm")
    legend(axes, loc="lower left")


def training_heatmap(
    training_steps: Sequence[int],
    log_norms: Mapping[str, np.ndarray],
    floor: float = -12.0,
    *,
    before: str = "the loss",
) -> Figure:
    """Training step x time step, one panel a cell: log10 of the norm, by colour.

    Args:
      training_steps: where the norms were measured, [P].
      log_norms: cell -> natural logs, [P, T].
      floor: log10 below which everything looks the same.
      before: what the time steps are counted back from.
    """
    figure, rows = new_figure(len(log_norms), width=3.4 * len(log_norms) + 0.8, height=3.2)
    values = {name: log10(array) for name, array in log_norms.items()}
    finite = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    top = float(finite.max()) if finite.size else 0.0
    low = max(float(finite.min()), top + floor) if finite.size else floor
    borders = edges(np.asarray(training_steps, float))
    image = None
    for axes, (name, array) in zip(rows, values.items(), strict=True):
        lag_edges = np.arange(array.shape[1] + 1) - 0.5
        image = axes.pcolormesh(
            lag_edges, borders, array[:, ::-1], vmin=low, vmax=top, cmap="magma", rasterized=True
        )
        axes.set(title=name, xlabel=f"steps before {before}", ylabel="training step")
        axes.set_facecolor("black")  # where nothing is left of the gradient in its precision
        axes.grid(visible=False)
    if image is not None:
        bar = figure.colorbar(image, ax=list(rows))
        bar.set_label(r"$\log_{10}\,\|dL/dh_t\|$")
    return figure


def path_curves(
    parts: Mapping[str, np.ndarray], axes: Axes, title: str = "", *, before: str = "the loss"
) -> None:
    """Total against direct, gate by gate: name -> natural log norm [T]."""
    colours = iter(COLOURS)
    for name in sorted(parts, key=lambda name: (name != "total", name != "direct", name)):
        values = parts[name]
        is_main = name in ("total", "direct")
        axes.plot(
            lags(values),
            log10(values),
            color="black" if name == "total" else next(colours),
            linestyle="--" if name == "direct" else "-",
            linewidth=2.0 if is_main else 1.0,
            label=name if is_main else f"left through {name}",
        )
    axes.set(title=title, xlabel=f"steps before {before}", ylabel=r"$\log_{10}$ gradient norm")
    legend(axes, loc="lower left")


def share_curves(
    shares: Mapping[str, np.ndarray], axes: Axes, title: str = "", *, before: str = "the loss"
) -> None:
    """Each step's share of a weight gradient, cell -> natural log of the ratio [T]."""
    for colour, (name, values) in zip(cycle(shares), shares.items(), strict=False):
        axes.plot(lags(values), log10(values), color=colour, label=name, linewidth=1.6)
    axes.axhline(0.0, color="grey", linewidth=0.7)
    axes.set(
        title=title,
        xlabel=f"steps before {before}",
        ylabel=r"$\log_{10}\;\|dL/dW^{(t)}\| \,/\, \|dL/dW\|$",
    )
    legend(axes, loc="lower left")


def singular_spectra(
    lags: Sequence[int],
    spectra: Mapping[str, np.ndarray],
    theory: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Every singular value of d carry_T / d carry_{T-lag} over lag, one panel a cell.

    Args:
      lags: [L].
      spectra: cell -> natural logs, [L, S], largest first.
      theory: cell -> a line over lag, [L], or nothing.
    """
    figure, rows = new_figure(len(spectra), width=3.4 * len(spectra), height=3.2)
    for colour, axes, (name, values) in zip(cycle(spectra), rows, spectra.items(), strict=False):
        axes.plot(lags, log10(values), color=colour, linewidth=0.5, alpha=0.55)
        if theory and name in theory:
            axes.plot(
                lags, log10(theory[name]), "--", color="black", linewidth=1.2, label="mean field"
            )
            legend(axes, loc="lower left")
        axes.axhline(0.0, color="grey", linewidth=0.7)
        axes.set(title=name, xlabel="lag (steps)", ylabel=r"$\log_{10}$ singular values")
    return figure
