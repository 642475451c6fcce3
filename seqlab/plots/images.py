"""Images read pixel by pixel: accuracies, gradients at pixels, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seqlab.plots.style import COLOURS, band, cycle, legend, log10, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRONG = COLOURS[1]
BEST = 99.8  # % at the edge of a stretched axis
PERCENT_TICKS = (0.0, 50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5)


class Point(NamedTuple):
    """One accuracy among others.

    Attributes:
      label: what was trained, and how.
      percent: the accuracy.
      interval: its lower and upper end, or None.
    """

    label: str
    percent: float
    interval: tuple[float, float] | None = None


def accuracy_curves(
    curves: Mapping[str, Mapping[str, tuple[Sequence[int], Any]]],
    *,
    chance: float,
    title: str,
) -> Figure:
    """Accuracy in % over epochs: on test images, and on training images beside it.

    Args:
      curves: cell -> "train" and "test" -> (epochs, (middle, low, high) in %).
      chance: % of a guess.
      title: of the figure.
    """
    figure, (whole, top) = new_figure(2, width=9.6, height=3.7)
    for colour, (name, parts) in zip(cycle(curves), curves.items(), strict=False):
        for axes in (whole, top):
            epochs, (middle, low, high) = parts["test"]
            band(axes, epochs, middle, low, high, color=colour, label=name)
            epochs, (middle, _, _) = parts["train"]
            axes.plot(epochs, middle, ":", color=colour, linewidth=1.1)
    whole.axhline(chance, color="grey", linestyle="--", linewidth=1.0)
    whole.annotate(
        "chance", (0.0, chance), xycoords=("axes fraction", "data"), xytext=(3, -9),
        textcoords="offset points", fontsize=7.5, color="grey",
    )  # fmt: skip
    whole.plot([], [], ":", color="grey", label="training images")
    whole.set(title="from 0 to 100 %", ylim=(0, 102))
    _stretch(top, top.yaxis)
    worst = min(parts["test"][1][0][-1] for parts in curves.values())
    top.set(title="the end, stretched near 100 %", ylim=(max(0.0, 1.5 * worst - 50.0), BEST))
    for axes in (whole, top):
        axes.set(xlabel="epoch", ylabel="test accuracy, %")
        axes.locator_params(axis="x", integer=True)
    legend(whole, loc="best")
    figure.suptitle(title)
    return figure


def accuracies_beside(
    ours: Sequence[Point], published: Sequence[Point], *, ours_title: str, published_title: str
) -> Figure:
    """Accuracies as dots, a line each: those of a run above, published ones below.

    Args:
      ours: drawn filled; intervals as bars.
      published: drawn hollow.
      ours_title, published_title: what each group was measured on.
    """
    groups = (
        (published_title, published, "D", "black", "none"),
        (ours_title, ours, "o", COLOURS[0], "full"),
    )
    height = 1.5 + 0.2 * (len(ours) + len(published))
    figure, (axes,) = new_figure(1, width=8.2, height=height)
    labels: list[str] = []
    for title, points, marker, colour, fill in groups:
        ordered = sorted(points, key=lambda point: point.percent)
        rows = len(labels) + np.arange(len(ordered))
        if labels:
            axes.axhline(rows[0] - 0.5, color="black", linewidth=0.8)
        for row, point in zip(rows, ordered, strict=True):
            if point.interval is not None:
                axes.plot(np.minimum(point.interval, BEST), [row, row], color=colour, linewidth=2.2)
        axes.plot(
            np.minimum([point.percent for point in ordered], BEST), rows, marker, color=colour,
            fillstyle=fill, markersize=4.5, label=title,
        )  # fmt: skip
        labels += [point.label for point in ordered]
    axes.set_yticks(np.arange(len(labels)), labels, fontsize=7)
    _stretch(axes, axes.xaxis)
    axes.set(xlim=(0.0, BEST), ylim=(-0.6, len(labels) - 0.4))
    axes.set_xlabel("test accuracy, %, stretched near 100")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", fontsize=8,
                  frameon=False, reverse=True)  # fmt: skip
    return figure


def _stretch(axes: Axes, axis: Any) -> None:
    """An axis of per cents on which the step from 90 to 99 is as long as that from 0 to 90."""

    def forward(percent):
        return -np.log10(np.maximum(100.0 - np.asarray(percent, float), 1e-3))

    def backward(height):
        return 100.0 - 10.0 ** -np.asarray(height, float)

    set_scale = axes.set_yscale if axis is axes.yaxis else axes.set_xscale
    set_scale("function", functions=(forward, backward))
    axis.set_ticks(PERCENT_TICKS, [f"{tick:g}" for tick in PERCENT_TICKS])


def pixel_gradients(
    images: Mapping[str, Sequence[Mapping[str, Any]]], *, floor: float = -4.0, title: str
) -> Figure:
    """Images as a net reads them, each with the size of the loss's gradient at every pixel.

    Args:
      images: cell -> rows with pixels [T], log_norm [T] (natural log), label and answer; T is a
        square, and pixels fill it line by line in the order of reading.
      floor: log10 of the smallest gradient that is told apart, relative to an image's largest.
      title: of the figure.
    """
    columns = max(len(rows) for rows in images.values())
    figure, panels = new_figure(
        2 * columns, rows=len(images), width=1.15 * 2 * columns + 1.6, height=1.32 * len(images) + 1
    )
    shown = None
    for i, (name, rows) in enumerate(images.items()):
        for k in range(columns):
            image, gradient = panels[2 * (i * columns + k) : 2 * (i * columns + k) + 2]
            for axes in (image, gradient):
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                if k >= len(rows):
                    axes.set_axis_off()
            if k == 0:
                image.set_ylabel(name)
            if k >= len(rows):
                continue
            row = rows[k]
            side = round(len(row["pixels"]) ** 0.5)
            image.imshow(np.reshape(row["pixels"], (side, side)), cmap="gray_r", vmin=0, vmax=1)
            sizes = log10(row["log_norm"])
            sizes = np.where(np.isfinite(sizes), sizes, -np.inf)
            peak = np.max(sizes)
            if np.isfinite(peak):
                relative = np.maximum(sizes - peak, floor)
            else:  # no pixel changes anything
                relative = np.full_like(sizes, floor)
            shown = gradient.imshow(
                np.reshape(relative, (side, side)), cmap="magma", vmin=floor, vmax=0
            )
            is_right = row["label"] == row["answer"]
            image.set_title(f"a {row['label']}", fontsize=8)
            gradient.set_title(
                f"named {row['answer']}", fontsize=8, color="black" if is_right else WRONG
            )
    if shown is not None:
        figure.colorbar(
            shown, ax=panels, shrink=0.8, label=r"$\log_{10}$ of $|dL/dx_t|$, largest = 0"
        )
    figure.suptitle(title)
    return figure


def confusions(tables: Mapping[str, np.ndarray], *, title: str) -> Figure:
    """How often each digit was named as each other, a panel a cell; the diagonal is left blank.

    Args:
      tables: cell -> counts [digits shown, digits named].
      title: of the figure.
    """
    width = max(2.3 * len(tables) + 1.0, 6.2)
    figure, panels = new_figure(len(tables), width=width, height=3.0)
    shares = {}
    for name, counts in tables.items():
        table = np.array(counts, float)
        table /= np.maximum(table.sum(axis=1, keepdims=True), 1.0)
        np.fill_diagonal(table, np.nan)
        shares[name] = 100.0 * table
    top = max(float(np.nanmax(table)) for table in shares.values())
    image = None
    for axes, (name, table) in zip(panels, shares.items(), strict=True):
        digits = np.arange(len(table))
        image = axes.imshow(table, cmap="viridis", vmin=0.0, vmax=max(top, 1e-9))
        axes.set_facecolor("lightgrey")
        axes.set(title=name, xlabel="named", xticks=digits, yticks=digits)
        axes.tick_params(labelsize=6.5)
        axes.grid(visible=False)
    panels[0].set_ylabel("shown")
    if image is not None:
        figure.colorbar(image, ax=panels, shrink=0.8, label="% of the images of a digit")
    figure.suptitle(title)
    return figure
