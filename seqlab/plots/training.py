"""Losses and norms over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from seqlab.plots.style import cycle, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(
    losses: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    steps: Sequence[int],
    norms: Sequence[Mapping[str, Mapping[str, float]]],
) -> Figure:
    """Losses over training, and norms of gradient, parameters and updates by group.

    Args:
      losses: name -> (steps, losses in nats).
      steps: of the norms.
      norms: at each, {"grad": {group: norm}, "param": ..., "update": ...}.
    """
    titles = {"grad": "gradient", "param": "parameters", "update": "update"}
    figure, (loss, *panels) = new_figure(4, width=12.5, height=3.2)
    for colour, (name, (places, values)) in zip(cycle(losses), losses.items(), strict=False):
        marker = "o" if len(places) < 30 else None
        loss.plot(places, values, color=colour, label=name, marker=marker, markersize=3)
    loss.set(title="loss", xlabel="step", ylabel="nats per token")
    legend(loss)
    for axis, (what, title) in zip(panels, titles.items(), strict=True):
        groups = norms[0][what] if norms else {}
        for colour, group in zip(cycle(groups), groups, strict=False):
            values = [row[what][group] for row in norms]
            axis.semilogy(steps, values, color=colour, label=group, linewidth=1.0)
        axis.set(title=f"norm of the {title}", xlabel="step")
        legend(axis)
    return figure
