"""Times beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seqlab.plots.style import cycle, new_figure, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def time_ratios(
    sizes: Sequence[str],
    ratios: Mapping[str, Mapping[str, Sequence[float]]],
    reference: str,
    *,
    filled: Collection[str] = (),
    dashes: Collection[str] = (),
) -> Figure:
    """How many times as long as a reference each variant takes, one panel a cell.

    Args:
      sizes: what was timed, along x.
      ratios: cell -> variant -> one ratio a size; NaN leaves a gap.
      reference: the name of what the line at 1 stands for.
      filled, dashes: variants with filled markers, and with dashes in place of markers.
    """
    from matplotlib.ticker import LogLocator

    width = (0.5 * len(sizes) + 0.9) * len(ratios) + 1.4
    figure, panels = new_figure(len(ratios), width=max(width, 6.4), height=3.6)
    names = list(dict.fromkeys(name for variants in ratios.values() for name in variants))
    marked = [name for name in names if name not in dashes]
    # Side by side within a size, so that equal ratios do not hide each other.
    offsets = dict(zip(marked, np.linspace(-0.3, 0.3, max(len(marked), 2)), strict=False))
    colours = dict(zip(marked, cycle(marked), strict=True))
    places = np.arange(len(sizes))
    for axes, (cell, variants) in zip(panels, ratios.items(), strict=True):
        axes.axhline(1.0, color="black", linewidth=0.9, label=reference)
        for style, name in zip((":", "--", "-."), dashes, strict=False):
            if name in variants:
                values = np.asarray(variants[name], float)
                axes.hlines(values, places - 0.4, places + 0.4, color="grey", linestyle=style,
                            linewidth=1.2, label=name)  # fmt: skip
        for marker, name in zip(itertools.cycle("os^DvP<X>*"), marked, strict=False):
            if name in variants:
                axes.plot(
                    places + offsets[name],
                    variants[name],
                    marker,
                    color=colours[name],
                    markerfacecolor=colours[name] if name in filled else "none",
                    markersize=4.5,
                    label=name,
                )
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(places, sizes, rotation=35, ha="right", fontsize=7.5)
        axes.set(title=cell, ylabel=f"time / time of {reference}", xlim=(-0.6, len(sizes) - 0.4))
        axes.grid(visible=False, axis="x")
    shared_legend(figure, panels)
    return figure
