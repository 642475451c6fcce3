"""Nets that differ in one part: results, learning, gradients, gates, gains and costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import COLOURS, band, cycle, lags, log10, new_figure, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATE_COLOURS = {"i": "#0072B2", "f": "#D55E00", "o": "#009E73"}
GATE_LINES = {"i": ":", "f": "-", "o": "--"}  # so that gates on top of each other are told apart
CURVE_STYLES = {  # curve -> colour, line, what the legend says
    "h": ("#0072B2", "-", r"$\|dL/dh_t\|$"),
    "c": ("#D55E00", "-", r"$\|dL/dc_t\|$"),
    "direct": ("#000000", "--", r"$dL/dc_t$, direct path: product of $f$"),
}
PER_LINE = 5  # rungs side by side
PATHS = {"total": ("o", "#0072B2"), "direct": ("D", "#000000")}  # path -> marker, colour


def rung_results(
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Any],
    *,
    baseline: float,
    title: str = "",
    xlabel: str = "test loss",
) -> Figure:
    """One line a rung, from the top: every net's loss, the median and its interval.

    Args:
      values: rung -> loss of each net.
      intervals: rung -> interval of the median.
      baseline: loss without memory, dashed.
      title: of the figure.
      xlabel: the loss and its unit.
    """
    figure, (axes,) = new_figure(1, width=6.6, height=0.31 * len(values) + 1.5)
    places = np.arange(len(values))[::-1]
    for place, (name, losses) in zip(places, values.items(), strict=True):
        middle, low, high = intervals[name]
        axes.plot(losses, np.full(len(losses), place), "o", color=COLOURS[5], markersize=4,
                  markeredgewidth=0)  # fmt: skip
        axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="|", capsize=3,
                      color=COLOURS[0], markersize=12, markeredgewidth=1.8)  # fmt: skip
    axes.axvline(baseline, color="black", linestyle="--", linewidth=1.1)
    axes.annotate("without memory", (baseline, 1.0), xycoords=("data", "axes fraction"), fontsize=8,
                  xytext=(0, 2), textcoords="offset points", ha="center", va="bottom")  # fmt: skip
    _log_scale(axes.xaxis)
    axes.set_yticks(places, list(values))
    axes.set(xlabel=xlabel, ylim=(-0.6, len(values) - 0.4))
    figure.suptitle(title, fontsize=9)
    return figure


def rung_curves(
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]],
    levels: Mapping[str, float],
    labels: Mapping[str, str],
    *,
    title: str = "",
) -> Figure:
    """Quantities over training, a row each, a column a group of rungs.

    Args:
      groups: group -> rung -> {"step": [X], quantity: interval of [X]}.
      levels: quantity -> its level without memory, dashed.
      labels: quantity -> what the axis says.
      title: of the figure.
    """
    figure, axes = new_figure(len(groups), rows=len(levels), width=4.4 * len(groups) + 0.6,
                              height=2.7 * len(levels) + 1.4)  # fmt: skip
    cells = itertools.product(levels.items(), groups.items())
    for panel, ((what, level), (group, rungs)) in zip(axes, cells, strict=True):
        panel.axhline(level, color="black", linestyle="--", linewidth=1.1, label="without memory")
        for k, (colour, (name, curve)) in enumerate(zip(cycle(rungs), rungs.items(), strict=True)):
            line = "-" if k < len(COLOURS) else ":"
            band(panel, curve["step"], *curve[what], color=colour, linestyle=line, label=name)
        if what == "loss":
            _log_scale(panel.yaxis)
            panel.set_title(group, fontsize=9.5)
        panel.set(xlabel="update", ylabel=labels[what])
    for panel in axes[-len(groups) :]:
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, fontsize=7.5,
                     frameon=False)  # fmt: skip
    figure.suptitle(title, fontsize=9)
    return figure


def rung_gradients(
    rungs: Mapping[str, Sequence[Mapping[str, Sequence[np.ndarray]]]],
    rows: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Gradient norms over steps before the end, its stages of training under each rung.

    Args:
      rungs: rung -> for each stage, curve ("h", "c", "direct") -> natural logs (median, low, high),
        [T] each.
      rows: names of the stages.
      title: of the figure.
    """
    figure, panels = _stages(rungs, rows, "steps before the end", r"$\log_{10}$ gradient norm")
    lowest, highest = np.inf, -np.inf
    for panel, name, row in panels:
        curves = rungs[name][row]
        for curve, values in curves.items():
            colour, line, label = CURVE_STYLES[curve]
            middle, low, high = map(log10, values)
            lag = lags(middle)
            seen = middle[np.isfinite(middle)]
            if curve != "direct" and seen.size:
                # A gradient of zero in its precision lies below the page.
                low = np.where(np.isfinite(middle) & ~np.isfinite(low), -1e3, low)
                panel.fill_between(lag, low, high, color=colour, alpha=0.18, lw=0)
                lowest = min(lowest, seen.min())
                highest = max(highest, high[np.isfinite(high)].max())
            panel.plot(lag, middle, line, color=colour, linewidth=1.5, label=label)
            panel.set_xlim(-0.04 * lag[0], 1.04 * lag[0])
        if not any(np.isfinite(values[0][:-1]).any() for values in curves.values()):
            panel.text(0.5, 0.5, "exactly 0\n(median)", transform=panel.transAxes, ha="center",
                       va="center", fontsize=8.5)  # fmt: skip
        if row == 0:
            panel.set_title(name, fontsize=8.5)
    if np.isfinite(lowest):  # a direct path that vanishes faster may leave the page
        for panel, _, _ in panels:
            panel.set_ylim(lowest - 0.7, highest + 0.3)
    shared_legend(figure, [panel for panel, *_ in panels], below=True)
    figure.suptitle(title, fontsize=9)
    return figure


def rung_gates(
    rungs: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]],
    rows: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Gate values over time, its stages of training under each rung.

    Args:
      rungs: rung -> for each stage, gate -> {"mean", "p10", "p90": [T], "share_shut",
        "share_open"}.
      rows: names of the stages.
      title: of the figure.
    """
    figure, panels = _stages(rungs, rows, "step t", "gate value")
    for panel, name, row in panels:
        gates = rungs[name][row]
        for gate, found in gates.items():
            colour = GATE_COLOURS[gate]
            steps = np.arange(1, len(found["mean"]) + 1)
            panel.fill_between(steps, found["p10"], found["p90"], color=colour, alpha=0.15, lw=0)
            panel.plot(steps, found["mean"], GATE_LINES[gate], color=colour, linewidth=1.6,
                       label=f"{gate}: mean and 10-90 %")  # fmt: skip
        shares = "   ".join(
            f"{gate} {100 * found['share_shut']:.0f} | {100 * found['share_open']:.0f}"
            for gate, found in gates.items()
        )
        panel.set_title((f"{name}\n" if row == 0 else "") + shares, fontsize=8)
        panel.set_ylim(-0.03, 1.03)
    shared_legend(figure, [panel for panel, *_ in panels], below=True)
    figure.suptitle(f"{title}; above: % of values < 0.1 | > 0.9", fontsize=9)
    return figure


def rung_differences(rungs: Mapping[str, Mapping[str, Any]], *, title: str = "") -> Figure:
    """What a part buys and costs: loss, speed, live parameters, slopes.

    Args:
      rungs: rung -> {"loss_ratio": (middle, low, high), "updates_later": likewise, or None where a
        net never got there, "parameters": (without, with), "slopes": {"total", "direct": (before,
        after) training, None where no gradient is left}}.
      title: of the figure.
    """
    figure, panels = new_figure(4, width=14.0, height=0.34 * len(rungs) + 1.9)
    left, speed, middle, right = panels
    places = np.arange(len(rungs))[::-1]
    for place, found in zip(places, rungs.values(), strict=True):
        for panel, what, neutral in ((left, "loss_ratio", 1.0), (speed, "updates_later", 0.0)):
            if found[what] is None:
                continue
            value, low, high = found[what]
            colour = COLOURS[0] if high < neutral else COLOURS[1] if low > neutral else "grey"
            panel.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o",
                           markersize=5, capsize=3, color=colour)  # fmt: skip
        before, after = found["parameters"]
        middle.plot([before, after], [place, place], "-", color="grey", linewidth=1.0)
        middle.plot(before, place, "o", color="grey", markerfacecolor="none", markersize=5)
        middle.plot(after, place, "o", color=COLOURS[0], markersize=5)
        for path, (marker, colour) in PATHS.items():
            for slope, fill in zip(found["slopes"][path], ("none", colour), strict=True):
                if slope is not None:
                    right.plot(
                        slope, place, marker, color=colour, markerfacecolor=fill, markersize=5
                    )
    left.axvline(1.0, color="black", linewidth=0.9)
    speed.axvline(0.0, color="black", linewidth=0.9)
    _log_scale(left.xaxis)
    left.set_yticks(places, list(rungs))
    left.set(xlabel="test loss, times that of the rung beside",
             title="bar wholly on the better side: blue,\non the worse: red")  # fmt: skip
    speed.set(xlabel="updates, more than the rung beside",
              title="until a training loss of 1/10\nof that without memory")  # fmt: skip
    middle.locator_params(axis="x", nbins=5)
    middle.set(xlabel="live parameters", title="open: the rung beside")
    right.axvline(0.0, color="black", linewidth=0.9)
    right.set(xlabel=r"slope of $\log\|dL/dc_t\|$ (nats per step back)",
              title="blue: total, black: direct; open: at init")  # fmt: skip
    for panel in panels:
        panel.set_ylim(-0.6, len(rungs) - 0.4)
        panel.title.set_fontsize(8.5)
    for panel in (speed, middle, right):
        panel.set_yticks(places, [""] * len(rungs))
    figure.suptitle(f"{title}; bars: 95 % bootstrap of the median, net by net", fontsize=9)
    return figure


def _stages(rungs, rows, xlabel, ylabel):
    """A figure, and its panels as (panel, rung, row): rungs side by side, five at most in a line.

    Under each rung stand its stages, a row each.
    """
    columns = min(PER_LINE, len(rungs))
    num_lines = -(-len(rungs) // columns)
    figure, axes = new_figure(
        columns,
        rows=num_lines * len(rows),
        width=max(2.15 * columns + 1.0, 7.0),
        height=2.4 * len(rows) * num_lines + 0.9,
    )
    panels = []
    for k, name in enumerate(rungs):
        line, column = divmod(k, columns)
        for row, stage in enumerate(rows):
            panel = axes[(line * len(rows) + row) * columns + column]
            if row == len(rows) - 1:
                panel.set_xlabel(xlabel)
            if column == 0:
                panel.set_ylabel(f"{stage}\n{ylabel}")
            else:
                panel.tick_params(labelleft=False)
            panels.append((panel, name, row))
    used = {id(panel) for panel, _, _ in panels}
    for panel in axes:
        panel.set_visible(id(panel) in used)
    return figure, panels


def _log_scale(axis):
    """A log scale with plain numbers: at 1, 2 and 5 within a decade or so, at 1 beyond."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = axis.axes
    axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = getattr(axes.dataLim, f"interval{axis.axis_name}")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 20 * low else (1.0,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
