"""Word vectors: maps of words, analogies as parallelograms, scores over training, stability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import COLOURS, MARKERS, band, cycle, legend, new_figure, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Places = Mapping[str, Sequence[float]]  # word -> x, y


def word_maps(maps: Mapping[str, Places], groups: Mapping[str, Sequence[str]]) -> Figure:
    """Words in the plane, a panel for each way to put them there.

    Args:
      maps: name of the projection -> places.
      groups: name -> words drawn alike; those of no group are small and grey.
    """
    figure, panels = new_figure(len(maps), width=5.4 * len(maps), height=5.2)
    for axis, (name, places) in zip(panels, maps.items(), strict=True):
        grouped = {word for words in groups.values() for word in words}
        rest = np.array([place for word, place in places.items() if word not in grouped])
        if len(rest):
            axis.scatter(rest[:, 0], rest[:, 1], s=4, color="0.75", lw=0, label="other words")
        for k, (group, words) in enumerate(groups.items()):
            known = [word for word in words if word in places]
            if not known:
                continue
            spots = np.array([places[word] for word in known])
            style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
            axis.scatter(spots[:, 0], spots[:, 1], s=18, lw=0, label=group, **style)
            for word, spot in zip(known, spots, strict=True):
                axis.annotate(
                    word, spot, xytext=(3, 2), textcoords="offset points", fontsize=6.5,
                    color=style["color"],
                )  # fmt: skip
        axis.set(title=name, xticks=[], yticks=[])
        axis.grid(False)
    shared_legend(figure, panels, below=True)
    return figure


def analogy_parallelograms(panels: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Pairs of words of one relation, an arrow a pair: where analogies hold, arrows are parallel.

    Args:
      panels: title -> {"pairs": [(from, to)], "places": word -> (x, y), "explained": the share of
        the words' variance that the plane shows, "cosine": mean cosine of the arrows with their
        mean in all dimensions}.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(columns, width=3.6 * columns, height=3.5 * rows, rows=rows)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        places = panel["places"]
        for k, (start, end) in enumerate(panel["pairs"]):
            colour = COLOURS[k % len(COLOURS)]
            axis.annotate(
                "", places[end], places[start],
                arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.3},
            )  # fmt: skip
            for word, marker in ((start, "o"), (end, "s")):
                axis.plot(*places[word], marker, color=colour, markersize=3.5)
                axis.annotate(
                    word, places[word], xytext=(3, 3), textcoords="offset points", fontsize=7,
                )  # fmt: skip
        axis.margins(0.18)
        axis.set_title(
            f"{title}\nplane: {100 * panel['explained']:.0f} % of variance; cosine with the mean "
            f"arrow {panel['cosine']:.2f}",
            fontsize=8,
        )
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set_adjustable("datalim")
    return figure


def embedding_training(
    losses: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    scores: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    loss_label: str,
) -> Figure:
    """Loss and scores over the epochs.

    Args:
      losses: name -> (epochs, mean loss of an example).
      scores: name -> (epochs, score from 0 to 1).
    """
    figure, (left, right) = new_figure(2, width=9.0, height=3.4)
    for colour, (name, (epochs, values)) in zip(cycle(losses), losses.items(), strict=True):
        left.plot(epochs, values, color=colour, label=name, lw=1.3)
    left.set(title="loss", xlabel="epochs", ylabel=loss_label)
    if len(losses) > 1:
        legend(left)
    for k, (name, (epochs, values)) in enumerate(scores.items()):
        style: Any = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
        right.plot(epochs, values, label=name, lw=1.3, markersize=4, **style)
    right.set(
        title="scores", xlabel="epochs", ylabel="share right, or Spearman's rank correlation",
        ylim=(min(0.0, *(min(v) for _, v in scores.values()), 0.0), None) if scores else None,
    )  # fmt: skip
    legend(right)
    if not scores:
        right.set_visible(False)
    return figure


def neighbour_overlaps(
    ranks: Sequence[int], overlap: Mapping[str, Mapping[str, Sequence[float]]], topn: int
) -> Figure:
    """Share of a word's nearest neighbours that another seed finds too, over its frequency rank.

    Args:
      ranks: middle of each bin of words.
      overlap: method -> {"mean", "low", "high"}, each [bins]: over pairs of seeds.
      topn: neighbours compared.
    """
    figure, (axis,) = new_figure(1, width=5.2, height=3.4)
    for colour, (name, found) in zip(cycle(overlap), overlap.items(), strict=True):
        middle, low, high = (np.asarray(found[key], float) for key in ("mean", "low", "high"))
        band(axis, np.asarray(ranks), middle, low, high, color=colour, label=name, marker="o",
             markersize=3.5)  # fmt: skip
    axis.set(
        xscale="log", ylim=(0, 1), xlabel="rank of the word by frequency",
        ylabel=f"shared of {topn} nearest neighbours",
        title="stability over seeds: mean and range over pairs",
    )  # fmt: skip
    legend(axis)
    return figure
