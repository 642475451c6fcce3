"""The panels of a gradient report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seqlab.plots.gradients import Curve, gradient_curves
from seqlab.plots.style import COLOURS, LN10, band, cycle, legend, log10, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Dynamics(NamedTuple):
    """What the Jacobian products of a recurrence do over lag, in natural logs.

    Attributes:
      norms: root mean square singular value by lag, [L], lags 1 ... L.
      lags, spectrum: every singular value at some lags, [K] and [K, S], or None.
      theory: name -> by lag [L], dashed.
      bounds: name -> by lag [L], dotted.
    """

    norms: np.ndarray
    lags: np.ndarray | None = None
    spectrum: np.ndarray | None = None
    theory: Mapping[str, np.ndarray] | None = None
    bounds: Mapping[str, np.ndarray] | None = None


def jacobian_curves(dynamics: Dynamics, axes: Axes, title: str = "") -> None:
    """Singular values of d carry_T / d carry_{T-lag} over lag, with theory."""
    seen = [log10(dynamics.norms)]
    if dynamics.spectrum is not None and dynamics.lags is not None:
        values = log10(dynamics.spectrum)
        lines = axes.plot(dynamics.lags, values, color=COLOURS[5], linewidth=0.5, alpha=0.7)
        lines[0].set_label("each singular value, one sequence")
    lag = np.arange(1, len(dynamics.norms) + 1)
    axes.plot(lag, seen[0], color=COLOURS[0], linewidth=1.8, label="root mean square, median")
    for style, named in (("--", dynamics.theory), (":", dynamics.bounds)):
        for name, values in (named or {}).items():
            axes.plot(lag, log10(values), style, color="black", linewidth=1.2, label=name)
            if style == "--":
                seen.append(log10(values))
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    if values.size:  # a bound, or the smallest singular values, may leave the page
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        margin = 0.15 * (high - low) + 0.2
        axes.set(ylim=(low - margin, high + margin))
    axes.set(title=title, xlabel="lag (steps)", ylabel=r"$\log_{10}$ singular values")
    legend(axes, loc="lower left")


def horizon_curves(
    shares: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    axes: Axes,
    title: str = "",
    *,
    level: float = 0.9,
) -> None:
    """Share of a weight gradient that the last k steps carry: name -> median, low, high, [L]."""
    for colour, (name, values) in zip(cycle(shares), shares.items(), strict=False):
        steps = np.arange(1, len(values[0]) + 1)
        band(axes, steps, *values, color=colour, label=name)
    axes.axhline(level, color="grey", linestyle="--", linewidth=1.0, label=f"{level:.0%}")
    axes.set(
        title=title, xlabel="last k steps", ylabel="share of dL/dW (projected)", ylim=(-0.1, 1.2)
    )
    if max(len(values[0]) for values in shares.values()) > 20:
        axes.set_xscale("log")
    legend(axes, loc="lower right")


def clip_histogram(
    norms: np.ndarray, clip_norm: float, axes: Axes, title: str = "", *, batch_norm: float
) -> None:
    """Gradient norms of single sequences [N], and of the batch, against the norm that clips."""
    values = log10(np.log(norms[norms > 0]))
    axes.hist(values, bins=min(20, max(5, len(values) // 2)), color=COLOURS[5], label="sequences")
    axes.set_ylim(0, 1.4 * axes.get_ylim()[1])  # room for the legend
    lines = (("batch", batch_norm, "-", COLOURS[0]), ("clip norm", clip_norm, "--", "black"))
    for name, value, style, colour in lines:
        if value > 0:
            axes.axvline(np.log(value) / LN10, linestyle=style, color=colour, label=name)
    axes.set(title=title, xlabel=r"$\log_{10}$ gradient norm", ylabel="sequences")
    legend(axes, loc="upper left")


def unit_bars(shares: Mapping[str, float], axes: Axes, title: str = "") -> None:
    """Share of time for which units or gates are saturated, name -> share."""
    names = list(shares)
    axes.barh(range(len(names)), [100 * shares[name] for name in names], color=COLOURS[2])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="saturated, % of units and steps", xlim=(0, 100))
    axes.grid(visible=False, axis="y")


def report_panels(title: str, panels: Sequence[Callable[[Axes], None]]) -> Figure:
    """Up to four panels, two a row; each is drawn by its function of the axes."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(columns, rows=rows, width=4.8 * columns, height=3.3 * rows)
    for each, draw in zip(axes, panels, strict=False):
        draw(each)
    for each in axes[len(panels) :]:
        each.set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


def report_comparison(
    curves: Sequence[Curve],
    shares: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Figure:
    """Several reports over each other: gradient curves, and how far back weights look."""
    figure, axes = new_figure(2 if shares else 1, width=9.6 if shares else 4.8, height=3.5)
    gradient_curves(curves, axes[0], r"$\|dL/dcarry_t\|$: median and 10-90 %")
    if shares:
        horizon_curves(shares, axes[1], "how far back dL/dW looks")
    return figure
