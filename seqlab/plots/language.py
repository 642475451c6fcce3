"""Language models: perplexity over epochs, perplexity and memory against order, surprise."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import COLOURS, MARKERS, fonts, legend, new_figure, readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = ("--", ":", "-.", (0, (1, 3)), (0, (6, 2)), (0, (3, 1, 1, 1, 1, 1)))  # line styles


def perplexity_by_order(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    levels: Mapping[str, float] | None = None,
    *,
    part: str = "test",
) -> Figure:
    """Perplexity of each smoothing against the order of its n-grams.

    Args:
      curves: smoothing -> (orders, perplexities); what is infinite or NaN is left out, and the
        legend says so.
      levels: name -> perplexity of what has no order, drawn as a line across.
      part: of the text.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure, (axis,) = new_figure(1, width=6.4, height=3.8)
    for k, (name, (orders, values)) in enumerate(curves.items()):
        values = np.asarray(values, float)
        finite = np.isfinite(values)
        label = name if finite.all() else f"{name} (elsewhere infinite)"
        style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)],
                      "zorder": 5 - 0.1 * k}  # fmt: skip  # the first on top
        axis.plot(np.asarray(orders)[finite], values[finite], label=label, lw=1.3, markersize=4.5,
                  **style)  # fmt: skip
    for style, (name, value) in zip(LEVELS, (levels or {}).items(), strict=False):
        axis.axhline(value, color="0.35", linestyle=style, lw=1.2, label=f"{name}: {value:.1f}")
    axis.set(xlabel="order (words or characters in an n-gram)", ylabel=f"{part} perplexity")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axis, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def perplexity_over_epochs(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    points: Mapping[str, tuple[int, float]] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Perplexity over training; on a log scale where it spans more than a factor of ten.

    Args:
      curves: part of the text -> (epochs, perplexities); what is infinite or NaN is left out.
      points: name -> (epoch, perplexity) of what was measured once, such as the test text.
      levels: name -> perplexity, drawn as a line across.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure, (axis,) = new_figure(1, width=6.4, height=3.6)
    seen = [*(levels or {}).values(), *(value for _, value in (points or {}).values())]
    for k, (name, (epochs, values)) in enumerate(curves.items()):
        values = np.asarray(values, float)
        finite = np.isfinite(values)
        seen += values[finite].tolist()
        style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
        size = 4.0 if len(values) < 60 else 0.0
        axis.plot(np.asarray(epochs)[finite], values[finite], label=name, lw=1.4, markersize=size,
                  **style)  # fmt: skip
    for k, (name, (epoch, value)) in enumerate((points or {}).items(), start=len(curves)):
        axis.plot([epoch], [value], color=COLOURS[k % len(COLOURS)], marker="*", markersize=10,
                  markeredgewidth=0, lw=0, zorder=6, label=f"{name}: {value:.1f}")  # fmt: skip
    for style, (name, value) in zip(LEVELS, (levels or {}).items(), strict=False):
        axis.axhline(value, color="0.35", linestyle=style, lw=1.2, label=f"{name}: {value:.1f}")
    axis.set(xlabel="epoch", ylabel="perplexity")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    seen = [value for value in seen if 0 < value < np.inf]
    if seen and max(seen) > 10 * min(seen):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    legend(axis)
    return figure


def memory_by_order(
    orders: Sequence[int], stored: Sequence[float], full: Sequence[float]
) -> Figure:
    """Memory of what is stored of each order, beside a table of all V^n n-grams.

    Args:
      orders: [N].
      stored, full: bytes, [N].
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = new_figure(1, width=5.2, height=3.6)
    axis.plot(
        orders, full, color=COLOURS[1], marker="s", lw=1.3, label="a number for each of $V^n$"
    )
    axis.plot(orders, stored, color=COLOURS[0], marker="o", lw=1.3, label="n-grams of the text")
    axis.set(xlabel="order n", ylabel="memory of the order's table (bytes)", yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axis)
    return figure


def token_surprise(tokens: Sequence[str], bits: Mapping[str, Sequence[float]]) -> Figure:
    """Surprise -log2 p of each token of a passage, a row a model, on one scale.

    Args:
      tokens: as they read, [N].
      bits: model -> surprise of each token, [N].
    """
    values = np.array(list(bits.values()), float)
    width = max(6.0, 0.33 * len(tokens) + 2.2)
    figure, (axis,) = new_figure(1, width=width, height=1.3 + 0.38 * len(bits))
    finite = values[np.isfinite(values)]
    image = axis.imshow(
        values, aspect="auto", cmap="cividis_r", vmin=0, vmax=finite.max(initial=1.0)
    )
    for (row, column), value in np.ndenumerate(values):
        dark = not value < 0.55 * finite.max(initial=1.0)
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5,
                  color="white" if dark else "black")  # fmt: skip
    shown = [readable(token) for token in tokens]
    rotation = 0 if max(map(len, shown)) <= 2 else 60
    axis.set_xticks(range(len(tokens)), shown, rotation=rotation,
                    ha="right" if rotation else "center", rotation_mode="anchor" if rotation else
                    "default", fontsize=7.5, fontfamily=fonts(), parse_math=False)  # fmt: skip
    axis.set_yticks(range(len(bits)), list(bits), fontsize=7.5)
    axis.grid(False)
    figure.colorbar(image, ax=axis, label="surprise (bits)", pad=0.01)
    return figure


def perplexity_by_context(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]],
    levels: Mapping[str, float],
    points: Sequence[tuple[int, float]] = (),
    *,
    number: int,
) -> Figure:
    """Perplexity against the number of tokens that are read, or read in order.

    Args:
      curves: name -> (numbers of tokens k, mean nats, standard error of the difference to the
        whole); the bars are of two such errors.
      levels: name -> perplexity, drawn as a line across.
      points: (k, perplexity) of n-grams, which read n - 1 tokens; k = 0 has no place on the axis.
      number: targets that the differences are measured at.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (axis,) = new_figure(1, width=6.8, height=4.0)
    for k, (name, (tokens, nats, errors)) in enumerate(curves.items()):
        nats, errors = np.asarray(nats, float), 2 * np.nan_to_num(np.asarray(errors, float))
        middle = np.exp(nats)
        bars = np.stack([middle - np.exp(nats - errors), np.exp(nats + errors) - middle])
        axis.errorbar(tokens, middle, bars, label=name, color=COLOURS[k], marker=MARKERS[k],
                      markersize=4.5, lw=1.4, capsize=2.5)  # fmt: skip
    shown = [(k, value) for k, value in points if k >= 1]
    if shown:
        axis.plot(*zip(*shown, strict=True), color=COLOURS[len(curves)], marker="D", lw=0,
                  markersize=5, label="n-grams of order k + 1")  # fmt: skip
    for style, (name, value) in zip(LEVELS, levels.items(), strict=False):
        axis.axhline(value, color="0.35", linestyle=style, lw=1.2, label=f"{name}: {value:.2f}")
    axis.set(xscale="log", yscale="log", xlabel="k (tokens)",
             ylabel=f"test perplexity, by the difference at {number:,} tokens")  # fmt: skip
    for one, subs in ((axis.xaxis, (1.0, 2.0, 5.0)), (axis.yaxis, (1.0, 1.2, 1.5, 2.0, 3.0, 5.0))):
        one.set_major_locator(LogLocator(subs=subs))
        one.set_major_formatter("{x:g}")
        one.set_minor_formatter(NullFormatter())
    legend(axis)
    return figure


def activations_over_text(
    panels: Mapping[str, tuple[Sequence[str], Sequence[float]]],
    *,
    columns: int = 90,
    label: str = "activation (no unit, -1 to 1)",
) -> Figure:
    """Tokens coloured by a number each, as what a unit is after reading them: a panel a unit.

    Args:
      panels: title -> (tokens as they read [N], numbers between -1 and 1 [N]).
      columns: letters in a row.
      label: what the numbers are.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    colours: Any = ScalarMappable(Normalize(-1.0, 1.0), "PuOr")
    laid = {title: _in_rows(tokens, columns) for title, (tokens, _) in panels.items()}
    heights = [1 + max(row for _, row, _, _ in places) for places in laid.values()]
    figure, axes = new_figure(
        1, rows=len(panels), width=9.6, height=0.6 + sum(0.42 + 0.2 * rows for rows in heights)
    )
    for grid in filter(None, {axis.get_gridspec() for axis in axes}):
        grid.set_height_ratios(heights)
    for axis, rows, (title, (_, values)) in zip(axes, heights, panels.items(), strict=True):
        for (shown, row, column, width), value in zip(laid[title], values, strict=True):
            axis.add_patch(
                Rectangle((column, row), width, 1, facecolor=colours.to_rgba(value), lw=0)
            )
            axis.text(column + width / 2, row + 0.55, shown, ha="center", va="center", fontsize=7.5,
                      color="white" if abs(value) > 0.62 else "black", parse_math=False,
                      fontfamily=("DejaVu Sans Mono", *fonts()))  # fmt: skip
        axis.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
        axis.set_title(title, fontsize=8, loc="left")
        axis.grid(visible=False)
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
    figure.colorbar(colours, ax=axes, label=label, shrink=0.8, pad=0.01, aspect=30)  # fmt: skip
    return figure


def _in_rows(tokens, columns):
    """(text, row, column, width) of each token, set in rows as long as they fit."""
    places, row, column = [], 0, 0.0
    gap = 1.0 if any(len(token) > 1 for token in tokens) else 0.0
    for token in tokens:
        shown = readable(token)
        width = sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in shown) + gap
        if column + width > columns and column:
            row, column = row + 1, 0.0
        places.append((shown, row, column, width))
        column += width
    return places
