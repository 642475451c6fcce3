"""Encoder-decoders: training, scores by length and position, gradients and attention as maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import (
    COLOURS,
    MARKERS,
    band,
    cycle,
    fonts,
    legend,
    log10,
    new_figure,
    readable,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_SHOWN = 8.0  # powers of ten of a map of gradients


def translator_training(
    updates: Sequence[Mapping[str, Any]],
    valid: Sequence[Mapping[str, Any]],
    *,
    title: str,
    written_for: str = "validation texts",
) -> Figure:
    """Loss over updates; BLEU and exact matches of greedy outputs over epochs.

    Args:
      updates: rows with step and loss, of batches.
      valid: rows with step, epoch, loss, bleu and exact_match.
      title: of the figure.
      written_for: what the outputs answer.
    """
    figure, (left, right) = new_figure(2, width=9.2, height=3.5)
    left.plot([row["step"] for row in updates], [row["loss"] for row in updates],
              color=COLOURS[0], linewidth=0.9, label="batches, as trained")  # fmt: skip
    left.plot([row["step"] for row in valid], [row["loss"] for row in valid], "o-",
              color=COLOURS[1], markersize=4, label="validation")  # fmt: skip
    left.set(xlabel="updates", ylabel="loss (nats a token)", yscale="log")
    epochs = [row["epoch"] for row in valid]
    for colour, marker, key, factor, name in (
        (COLOURS[0], "o", "bleu", 1.0, "BLEU"),
        (COLOURS[1], "s", "exact_match", 100.0, "exact match, %"),
    ):
        right.plot(epochs, [factor * row[key] for row in valid], marker=marker, color=colour,
                   markersize=4, label=name)  # fmt: skip
    right.set(xlabel="epochs", ylabel=f"greedy outputs of {written_for}", ylim=(0, 103))
    legend(left)
    legend(right, loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def score_by_length(
    models: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    measure: str,
    title: str,
    trained: int | None = None,
) -> Figure:
    """A score against the length of the source.

    Args:
      models: name -> rows with mean_length, score, low and high.
      measure: name of the score.
      title: of the figure.
      trained: the longest source of the training part, tokens; drawn as a line.
    """
    figure, (axes,) = new_figure(1, width=6.4, height=3.7)
    for k, (colour, (name, rows)) in enumerate(zip(cycle(models), models.items(), strict=False)):
        lengths = np.array([row["mean_length"] for row in rows])
        middle, low, high = (
            np.array([row[key] for row in rows], float) for key in ("score", "low", "high")
        )
        band(axes, lengths, middle, low, high, color=colour, label=name,
             marker=MARKERS[k % len(MARKERS)], markersize=4.5)  # fmt: skip
    if trained is not None:
        axes.axvline(trained, color="grey", linestyle="--", linewidth=1.1,
                     label="longest source in training")  # fmt: skip
    axes.set(xlabel="length of the source (tokens)", ylabel=measure, ylim=(0, None))
    axes.set_title(f"{title}; band: 95 % bootstrap", fontsize=10)
    legend(axes)
    return figure


def exposure_bias(modes: Mapping[str, Mapping[str, Any]], *, title: str) -> Figure:
    """Share of right tokens by their place in the target.

    Args:
      modes: "teacher forcing" and "free running" -> rows with accuracy [U] and counts [U].
      title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=6.4, height=3.6)
    for colour, marker, (name, row) in zip(COLOURS, MARKERS, modes.items(), strict=False):
        shares, counts = np.array(row["accuracy"], float), np.array(row["counts"], float)
        spread = 1.96 * np.sqrt(shares * (1 - shares) / np.maximum(counts, 1))
        band(axes, np.arange(1, len(shares) + 1), 100 * shares, 100 * (shares - spread),
             100 * np.minimum(shares + spread, 1), color=colour, label=name, marker=marker,
             markersize=3.5)  # fmt: skip
    axes.set(xlabel="place in the target (tokens)", ylabel="tokens that are the reference's, %",
             ylim=(0, 103))  # fmt: skip
    axes.set_title(f"{title}; band: 95 %, binomial", fontsize=10)
    legend(axes)
    return figure


def pair_reach(models: Mapping[str, Mapping[str, Any]], *, title: str) -> Figure:
    """Gradient norms at the encoder's steps against their distance from its end.

    Args:
      models: name -> log_norm, low and high over the last steps of the source, oldest first.
      title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=6.4, height=3.6)
    for k, (colour, (name, row)) in enumerate(zip(cycle(models), models.items(), strict=False)):
        middle, low, high = (
            log10(np.array(row[key], float)) for key in ("log_norm", "low", "high")
        )
        ago = np.arange(len(middle))[::-1]
        band(axes, ago, middle, low, high, color=colour, label=name,
             marker=MARKERS[k % len(MARKERS)], markersize=3.5)  # fmt: skip
    axes.set(xlabel="steps before the end of the source",
             ylabel=r"log$_{10}$ norm of d loss / d encoder state")  # fmt: skip
    axes.set_title(f"{title}\nmedian and 10-90 % over pairs", fontsize=10)
    legend(axes)
    return figure


def pair_maps(row: Mapping[str, Any], *, title: str) -> Figure:
    """Gradients of each target step's loss at each source step, and attention beside them.

    Args:
      row: source [S] and target [U] tokens, log_norm [U, S], and attention [U, S] where there is.
      title: of the figure.
    """
    source, target = row["source"], row["target"]
    panels = [("log_norm", r"log$_{10}$ norm of d loss$_s$ / d encoder state$_t$")]
    if "attention" in row:
        panels.append(("attention", "weights of attention"))
    height = 1.6 + 0.17 * len(target)
    figure, all_axes = new_figure(
        len(panels), width=len(panels) * (2.0 + 0.17 * len(source)), height=height
    )
    for axes, (key, name) in zip(all_axes, panels, strict=True):
        values = np.array(row[key], float)
        limits: dict[str, Any] = {"vmin": 0.0, "vmax": 1.0}
        if key == "log_norm":
            values = log10(values)
            seen = values[np.isfinite(values)]
            top, low = (seen.max(), seen.min()) if len(seen) else (0.0, -1.0)
            limits = {"vmin": max(top - LARGEST_SHOWN, low), "vmax": top}
        image = axes.imshow(values, cmap="cividis", aspect="auto", **limits)
        long = len(source) > 14
        axes.set_xticks(range(len(source)), [readable(each) for each in source],
                        rotation=90 if long or max(map(len, source)) > 2 else 0, fontsize=7,
                        fontfamily=fonts())  # fmt: skip
        axes.set_yticks(range(len(target)), [readable(each) for each in target], fontsize=7,
                        fontfamily=fonts())  # fmt: skip
        axes.set(xlabel="source", ylabel="target")
        axes.set_title(name, fontsize=9)
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, shrink=0.85)
    figure.suptitle(title, fontsize=10)
    return figure
