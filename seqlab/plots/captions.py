"""Captions: scores beside baselines, what was right of a scene, images, words over an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.answers import reach
from seqlab.plots.style import COLOURS, MARKERS, cycle, new_figure, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 6  # images in a line
WORDS = 7  # of a sentence, in a line of maps


def caption_scores(systems: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """BLEU-1 to BLEU-4 of nets and baselines, side by side.

    Args:
      systems: name -> rows with order, score, low and high.
      title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=7.2, height=3.8)
    width = 0.8 / len(systems)
    for k, (colour, (name, rows)) in enumerate(zip(cycle(systems), systems.items(), strict=False)):
        orders, middle, low, high = (
            np.array([row[key] for row in rows], float) for key in ("order", "score", "low", "high")
        )
        x = orders + (k - (len(systems) - 1) / 2) * width
        axes.bar(x, middle, width=0.9 * width, color=colour, label=name)
        axes.errorbar(x, middle, yerr=reach(middle, low, high), color="black", linestyle="",
                      capsize=2, linewidth=0.9)  # fmt: skip
    axes.set_xticks([1, 2, 3, 4], [f"BLEU-{n}" for n in (1, 2, 3, 4)])
    axes.set(ylabel="BLEU", ylim=(0, None))
    axes.set_title(f"{title}; bars: 95 % bootstrap over images", fontsize=10)
    shared_legend(figure, [axes], below=True)
    return figure


def caption_agreement(models: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """What was said right by kind, a panel for each part.

    Args:
      models: name -> rows with part, kind, share, low and high.
      title: of the figure.
    """
    parts = list(dict.fromkeys(row["part"] for rows in models.values() for row in rows))
    figure, all_axes = new_figure(len(parts), width=4.4 * len(parts), height=3.6)
    for axes, part in zip(all_axes, parts, strict=True):
        for k, (colour, (name, rows)) in enumerate(
            zip(cycle(models), models.items(), strict=False)
        ):
            own = [row for row in rows if row["part"] == part]
            middle, low, high = (
                100 * np.array([row[key] for row in own], float) for key in ("share", "low", "high")
            )
            x = np.arange(len(own)) + 0.18 * (k - (len(models) - 1) / 2)
            axes.errorbar(x, middle, yerr=reach(middle, low, high), color=colour, linestyle="",
                          marker=MARKERS[k % len(MARKERS)], markersize=5, capsize=2,
                          label=name)  # fmt: skip
            axes.set_xticks(range(len(own)), [row["kind"] for row in own])
        seen = (
            "test: as in training" if part == "test" else f"{part}: new pairs of colour and shape"
        )
        axes.set(ylabel="right, %", ylim=(0, 103), xlim=(-0.6, 4.6))
        axes.set_title(seen, fontsize=9)
    shared_legend(figure, all_axes, below=True)
    figure.suptitle(f"{title}; bars: 95 %, Wilson", fontsize=10)
    return figure


def caption_objects(models: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """Share of attention and of gradient on the object that a word names, a panel for each net.

    Args:
      models: name -> rows with kind, gradient, even, and attention where there is, each with _low
        and _high.
      title: of the figure.
    """
    figure, all_axes = new_figure(len(models), width=max(5.0, 3.4 * len(models)), height=3.5)
    for axes, (name, rows) in zip(all_axes, models.items(), strict=True):
        at = np.arange(len(rows))
        for k, (key, colour) in enumerate(zip(("attention", "gradient"), COLOURS, strict=False)):
            if not rows or key not in rows[0]:
                continue
            middle, low, high = (
                100 * np.array([row[key + end] for row in rows], float)
                for end in ("", "_low", "_high")
            )
            axes.errorbar(at + 0.16 * (k - 0.5), middle, yerr=reach(middle, low, high),
                          color=colour, marker=MARKERS[k], linestyle="", capsize=2, markersize=5,
                          label=key)  # fmt: skip
        axes.hlines([100 * row["even"] for row in rows], at - 0.3, at + 0.3, color="grey",
                    linewidth=1.6, label="share of the cells")  # fmt: skip
        axes.set_xticks(at, [row["kind"] for row in rows])
        axes.set(xlabel="what the word names", ylabel="on the object's cells, %", ylim=(0, 103),
                 xlim=(-0.6, max(len(rows), 1) - 0.4))  # fmt: skip
        axes.set_title(name, fontsize=9)
    shared_legend(figure, all_axes, below=True)
    figure.suptitle(f"{title}\nbars: 95 % bootstrap", fontsize=9.5)
    return figure


def captioned_images(
    images: np.ndarray, rows: Sequence[Mapping[str, Any]], *, title: str
) -> Figure:
    """Images with what was written of them and the nearest reference, a line for each choice.

    Args:
      images: bytes [N, size, size, 3].
      rows: place (in the images), chosen (how), output, reference and is_exact, of each image.
      title: of the figure.
    """
    groups = list(dict.fromkeys(row["chosen"] for row in rows))
    figure, all_axes = new_figure(
        COLUMNS, width=2.05 * COLUMNS, height=4.0 * len(groups), rows=len(groups)
    )
    for axes in all_axes:
        axes.axis("off")
    for line, group in enumerate(groups):
        for column, row in enumerate(row for row in rows if row["chosen"] == group):
            axes = all_axes[line * COLUMNS + column]
            axes.imshow(images[row["place"]])
            if column == 0:
                axes.set_title(group, fontsize=9, loc="left", fontweight="bold")
            said = fill(row["output"], 28)
            colour = COLOURS[2] if row["is_exact"] else COLOURS[1]
            axes.text(0.0, -0.04, said, transform=axes.transAxes, fontsize=7.5, va="top",
                      color=colour)  # fmt: skip
            if not row["is_exact"]:
                below = -0.07 - 0.068 * (said.count("\n") + 1)
                axes.text(0.0, below, fill(row["reference"], 28), transform=axes.transAxes,
                          fontsize=7.5, va="top", color="black")  # fmt: skip
    figure.suptitle(
        f"{title}; coloured: what was written (green: one of the references), "
        "black: a reference", fontsize=10,
    )  # fmt: skip
    return figure


def caption_maps(image: np.ndarray, row: Mapping[str, Any], *, title: str) -> Figure:
    """Attention, and the gradient of each word's loss at the image, word by word over the image.

    A map is the brighter and the less transparent the nearer a cell is to the word's largest share.

    Args:
      image: bytes [size, size, 3].
      row: words [U], gradient [U, S], and attention [U, S] where there is: shares of the cells,
        line by line.
      title: of the figure.
    """
    words = row["words"]
    keys = [key for key in ("attention", "gradient") if key in row]
    lines = -(-len(words) // WORDS)
    figure, all_axes = new_figure(
        WORDS, width=1.45 * WORDS, height=0.6 + 1.55 * lines * len(keys), rows=lines * len(keys)
    )
    size = image.shape[0]
    for axes in all_axes:
        axes.axis("off")
    for place, word in enumerate(words):
        line, column = divmod(place, WORDS)
        for k, key in enumerate(keys):
            axes = all_axes[(line * len(keys) + k) * WORDS + column]
            share = np.array(row[key][place], float)
            grid = round(len(share) ** 0.5)
            axes.imshow(image)
            shown = (share / max(share.max(), 1e-12)).reshape(grid, grid)
            axes.imshow(shown, extent=(-0.5, size - 0.5, size - 0.5, -0.5), cmap="inferno",
                        alpha=0.75 * shown, vmin=-0.5, vmax=1.0)  # fmt: skip
            if k == 0:
                axes.set_title(word, fontsize=9)
            if column == 0:
                axes.text(-0.06, 0.5, key, transform=axes.transAxes, fontsize=8, rotation=90,
                          ha="right", va="center")  # fmt: skip
    figure.suptitle(
        f"{title}: where each word looks, and norm of d loss / d pixels of a cell", fontsize=10
    )
    return figure
