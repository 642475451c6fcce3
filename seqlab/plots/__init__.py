"""Figures from plain arrays, a file a subject; they compute nothing and import no jax.

Norms come in as natural logs and are drawn as powers of ten, against steps before the loss.
"""

from seqlab.plots.explosion import clipping, error_wall, phase_diagram
from seqlab.plots.gates import (
    rung_curves,
    rung_differences,
    rung_gates,
    rung_gradients,
    rung_results,
)
from seqlab.plots.gradients import (
    Curve,
    gradient_curves,
    path_curves,
    share_curves,
    singular_spectra,
    training_heatmap,
)
from seqlab.plots.memory import beyond_trained_length, learning_curves, success_against_length
from seqlab.plots.speed import time_ratios
from seqlab.plots.style import band, new_figure, pick, save
from seqlab.plots.training import training_curves

__all__ = [
    "Curve",
    "band",
    "beyond_trained_length",
    "clipping",
    "error_wall",
    "gradient_curves",
    "learning_curves",
    "new_figure",
    "path_curves",
    "phase_diagram",
    "pick",
    "rung_curves",
    "rung_differences",
    "rung_gates",
    "rung_gradients",
    "rung_results",
    "save",
    "share_curves",
    "singular_spectra",
    "success_against_length",
    "time_ratios",
    "training_curves",
    "training_heatmap",
]
