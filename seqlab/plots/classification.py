"""Texts that are classified: training, who is taken for whom, and what accuracy depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import COLOURS, MARKERS, band, cycle, fonts, legend, new_figure, readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Seen = Sequence[tuple[int, Sequence[float], Sequence[float]]]


def classifier_training(
    updates: Seen, valid: Seen, *, levels: Mapping[str, float], title: str
) -> Figure:
    """Loss and accuracy over updates, of batches and of the validation texts.

    Args:
      updates: (step, loss of each net, accuracy of each net) of batches.
      valid: the same of the validation part.
      levels: name -> an accuracy, drawn as a line across.
      title: of the figure.
    """
    figure, panels = new_figure(2, width=9.2, height=3.5)
    for axes, which, factor in zip(panels, (1, 2), (1.0, 100.0), strict=True):
        for colour, (name, rows) in zip(
            COLOURS, (("batches", updates), ("validation", valid)), strict=False
        ):
            if not rows:
                continue
            values = factor * np.array([row[which] for row in rows], float)
            middle, low, high = (f(values, axis=1) for f in (np.nanmedian, np.nanmin, np.nanmax))
            band(axes, [row[0] for row in rows], middle, low, high, color=colour, label=name)
        axes.set(xlabel="updates")
    panels[0].set(ylabel="loss (nats a text)")
    for style, (name, level) in zip((":", "--"), levels.items(), strict=False):
        panels[1].axhline(100.0 * level, color="grey", linestyle=style, linewidth=1.1, label=name)
    panels[1].set(ylabel="accuracy, %", ylim=(0, 103))
    legend(panels[0])
    legend(panels[1], loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def confusion_and_calibration(
    counts: np.ndarray,
    classes: Sequence[str],
    curve: Mapping[str, Sequence[float]],
    error: float,
    *,
    title: str,
) -> Figure:
    """Which class is taken for which, and how often a net is right that is so sure.

    Args:
      counts: texts of each class (row) by the class that was said (column), [C, C].
      classes: their names.
      curve: "counts", "confidence" and "accuracy" of bins of confidence.
      error: expected calibration error.
      title: of the figure.
    """
    size = min(5.2, 2.6 + 0.16 * len(classes))
    figure, (left, right) = new_figure(2, width=2.1 * size + 1.0, height=size)
    shares = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = left.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    names = [readable(name) for name in classes]
    small = 8 if len(classes) <= 10 else 4.5
    left.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=small,
                    rotation_mode="anchor", fontfamily=fonts())  # fmt: skip
    left.set_yticks(range(len(names)), names, fontsize=small, fontfamily=fonts())
    if len(classes) <= 10:
        for (row, column), share in np.ndenumerate(shares):
            left.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8,
                      color="black" if share > 55 else "white")  # fmt: skip
    left.set(xlabel="said", ylabel="true")
    left.grid(visible=False)
    figure.colorbar(image, ax=left, label="% of the true class", shrink=0.85)
    right.plot([0, 1], [0, 1], "--", color="grey", linewidth=1.1, label="perfectly calibrated")
    filled = np.array(curve["counts"]) > 0
    confidence, accuracy, sizes = (
        np.array(curve[key], float)[filled] for key in ("confidence", "accuracy", "counts")
    )
    right.plot(confidence, accuracy, color=COLOURS[0], linewidth=1.2)
    right.scatter(confidence, accuracy, 8 + 90 * sizes / sizes.max(), color=COLOURS[0],
                  label="bins of confidence; area: texts", zorder=3)  # fmt: skip
    right.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (mean probability of the answer)",
              ylabel="accuracy", title=f"expected calibration error {error:.3f}")  # fmt: skip
    legend(right, loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def accuracy_by_length(models: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """Accuracy over the length of a text, in groups of equally many texts.

    Args:
      models: name -> rows with mean_length, accuracy, low and high.
      title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=6.2, height=3.6)
    for k, (colour, (name, rows)) in enumerate(zip(cycle(models), models.items(), strict=False)):
        lengths = np.array([row["mean_length"] for row in rows]) * 1.015 ** (k - len(models) / 2)
        middle, low, high = (
            100.0 * np.array([row[key] for row in rows]) for key in ("accuracy", "low", "high")
        )
        axes.errorbar(lengths, middle, [middle - low, high - middle], color=colour, label=name,
                      marker=MARKERS[k % len(MARKERS)], markersize=4.5, linewidth=1.2,
                      capsize=2.0)  # fmt: skip
    axes.set(xlabel="length (tokens), mean of a group", ylabel="test accuracy, %",
             title=f"{title}; bars: 95 % bootstrap over texts")  # fmt: skip
    legend(axes)
    return figure


def accuracy_by_distance(
    models: Mapping[str, tuple[Sequence[int], Any]],
    theory: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str,
) -> Figure:
    """Accuracy over the number of words between two that belong together.

    Args:
      models: name -> (distances, (middle, low, high) of the accuracy).
      theory: name -> (distances [N], accuracy [N]), dashed on top.
      title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=7.4, height=3.9)
    for k, (colour, (name, (distances, (middle, low, high)))) in enumerate(
        zip(cycle(models), models.items(), strict=False)
    ):
        band(axes, distances, 100 * middle, 100 * low, 100 * high, color=colour, label=name,
             marker=MARKERS[k % len(MARKERS)], markersize=4.0)  # fmt: skip
    for name, (distances, values) in theory.items():
        axes.plot(distances, 100 * values, "--", color="black", linewidth=1.3, label=name)
    axes.axhline(50.0, color="grey", linestyle=":", linewidth=1.1, label="chance")
    axes.set(xlabel="words between negator, closer and opinion", ylabel="test accuracy, %",
             ylim=(40, 103))  # fmt: skip
    figure.suptitle(title, fontsize=10)
    axes.locator_params(axis="x", integer=True)
    legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
