"""Success, learning and generalisation over length."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import MARKERS, band, cycle, new_figure, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Mapping[str, tuple[Sequence[float], Any]]  # name -> (x [X], an interval of [X])


def success_against_length(
    shares: Mapping[str, Mapping[str, Sequence[tuple[int, Any]]]],
    sequences: Mapping[str, Mapping[str, Sequence[tuple[int, Sequence[int]]]]],
    published: Mapping[int, int],
    *,
    title: str = "",
) -> Figure:
    """Share of nets that succeed over length, and how many training sequences it took them.

    Args:
      shares: panel -> net -> (length, interval of the share), by length.
      sequences: panel -> net -> (length, training sequences of each net that succeeded).
      published: length -> training sequences in 1997; may be empty.
      title: of the figure.
    """
    if len(shares) == 1:
        figure, axes = new_figure(2, width=9.0, height=3.5)
    else:
        figure, axes = new_figure(len(shares), rows=2, width=3.6 * len(shares) + 1.4, height=6.0)
    upper, lower = axes[: len(shares)], axes[len(shares) :]
    for top, bottom, (panel, nets) in zip(upper, lower, shares.items(), strict=True):
        for k, (colour, (name, rows)) in enumerate(zip(cycle(nets), nets.items(), strict=False)):
            x = np.array([length for length, _ in rows], float) * 1.02 ** (k - len(nets) / 2)
            middle, low, high = (
                np.array([getattr(interval, part) for _, interval in rows])
                for part in ("middle", "low", "high")
            )
            style = {"color": colour, "marker": MARKERS[k % len(MARKERS)], "markersize": 4.5}
            top.errorbar(x, middle, [middle - low, high - middle], label=name, linewidth=1.2,
                         capsize=2.0, **style)  # fmt: skip
            runs = [(place, n) for place, (_, found) in zip(x, sequences[panel][name], strict=True)
                    for n in found]  # fmt: skip
            if runs:
                bottom.plot(*zip(*runs, strict=True), linestyle="", alpha=0.7, label=name, **style)
        for length, count in published.items():
            bottom.plot(length, count, "k*", markersize=10, label="Hochreiter, Schmidhuber 1997")
        lengths = [length for length, _ in next(iter(nets.values()))]
        for each in (top, bottom):
            each.set_xscale("log")
            each.set_xticks(lengths, [str(length) for length in lengths])
            each.set_xticks([], minor=True)
            each.set(xlim=(0.85 * min(lengths), 1.18 * max(lengths)))
        top.set(title=panel, ylim=(-0.06, 1.06), ylabel="share of nets that succeed")
        top.set_xlabel("length T (steps)" if len(shares) == 1 else "")
        bottom.set(xlabel="length T (steps)", ylabel="training sequences until then")
        if bottom.lines:
            bottom.set_yscale("log")
    shared_legend(figure, axes)
    figure.suptitle(f"{title}; bars: 95 % bootstrap over nets", fontsize=10)
    return figure


def learning_curves(
    panels: Mapping[str, Lines],
    baselines: Mapping[str, float],
    *,
    title: str = "",
    ylabel: str = "loss",
) -> Figure:
    """A quantity over training, with bands, one panel a group.

    Args:
      panels: panel -> net -> (updates [X], interval of [X]).
      baselines: name -> a level, dashed.
      title: of the figure.
      ylabel: what and in which unit.
    """
    figure, axes = new_figure(len(panels), width=max(6.6, 3.7 * len(panels) + 1.6), height=3.4)
    for each, (panel, nets) in zip(axes, panels.items(), strict=True):
        for colour, (name, (steps, interval)) in zip(cycle(nets), nets.items(), strict=False):
            band(each, steps, *interval, color=colour, label=name)
        for style, (name, level) in zip(("--", ":", "-."), baselines.items(), strict=False):
            each.axhline(level, color="black", linestyle=style, linewidth=1.1, label=name)
        each.set_yscale("log")
        each.set(title=panel, xlabel="update", ylabel=ylabel)
        if baselines:  # a net that begins with an explosion would leave no room for the others
            each.set_ylim(top=min(each.get_ylim()[1], 10 * max(baselines.values())))
    shared_legend(figure, axes)
    figure.suptitle(title, fontsize=10)
    return figure


def beyond_trained_length(
    panels: Mapping[str, Lines],
    trained: tuple[int, int],
    *,
    chance: float | None = None,
    title: str = "",
    ylabel: str = "share right",
) -> Figure:
    """What trained nets get right on longer sequences.

    Args:
      panels: panel -> net -> (lengths [X], interval of [X]).
      trained: shortest and longest length of training, shaded.
      chance: share that is right by guessing, dashed, or None.
      title: of the figure.
      ylabel: what is right.
    """
    figure, axes = new_figure(len(panels), width=max(6.6, 3.7 * len(panels) + 1.6), height=3.4)
    for each, (panel, nets) in zip(axes, panels.items(), strict=True):
        each.axvspan(0.93 * trained[0], 1.07 * trained[1], color="grey", alpha=0.25, lw=0)
        for marker, colour, (name, (lengths, interval)) in zip(
            itertools.cycle(MARKERS), cycle(nets), nets.items(), strict=False
        ):
            band(each, lengths, *interval, color=colour, label=name, marker=marker, markersize=4)
        if chance is not None:
            each.axhline(chance, color="black", linestyle="--", linewidth=1.1, label="chance")
        lengths = next(iter(nets.values()))[0]
        each.set_xscale("log")
        each.set_xticks(lengths, [str(length) for length in lengths])
        each.set_xticks([], minor=True)
        each.set(title=panel, xlabel="length T (steps)", ylabel=ylabel, ylim=(-0.03, 1.05))
    shared_legend(figure, axes)
    figure.suptitle(title, fontsize=10)
    return figure
