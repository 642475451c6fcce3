"""Figures from plain arrays, a file a subject; they compute nothing and import no jax.

Norms come in as natural logs and are drawn as powers of ten, against steps before the loss.
"""

from seqlab.plots.answers import (
    answer_accuracy,
    answer_repetition,
    answer_training,
    answers_by_distance,
    story_sentences,
    supporting_facts,
)
from seqlab.plots.bias import (
    linear_sensitivity,
    sensitivity_by_memory,
    sensitivity_over_time,
    truncated_training,
    truncation_bias,
    truncation_schemes,
)
from seqlab.plots.captions import (
    caption_agreement,
    caption_maps,
    caption_objects,
    caption_scores,
    captioned_images,
)
from seqlab.plots.classification import (
    accuracy_by_distance,
    accuracy_by_length,
    classifier_training,
    confusion_and_calibration,
)
from seqlab.plots.dynamics import (
    exponents_over_training,
    gated_phase,
    lyapunov_spectra,
    mean_field_curve,
    singular_limits,
    tanh_phase,
)
from seqlab.plots.embeddings import (
    analogy_parallelograms,
    embedding_training,
    neighbour_overlaps,
    word_maps,
)
from seqlab.plots.explosion import clip_angles, clipping, error_wall, phase_diagram
from seqlab.plots.forecasts import (
    alarms,
    lead_errors,
    lead_spread,
    lives_of_engines,
    lives_sorted,
    nets_training,
    past_gradients,
    track_map,
)
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
from seqlab.plots.images import (
    Point,
    accuracies_beside,
    accuracy_curves,
    confusions,
    pixel_gradients,
)
from seqlab.plots.language import (
    activations_over_text,
    memory_by_order,
    perplexity_by_context,
    perplexity_by_order,
    perplexity_over_epochs,
    token_surprise,
)
from seqlab.plots.memory import beyond_trained_length, learning_curves, success_against_length
from seqlab.plots.pairs import (
    exposure_bias,
    pair_maps,
    pair_reach,
    score_by_length,
    translator_training,
)
from seqlab.plots.speed import time_ratios
from seqlab.plots.style import band, new_figure, pick, save
from seqlab.plots.training import training_curves

__all__ = [
    "Curve",
    "Point",
    "accuracies_beside",
    "accuracy_by_distance",
    "accuracy_by_length",
    "accuracy_curves",
    "activations_over_text",
    "alarms",
    "analogy_parallelograms",
    "answer_accuracy",
    "answer_repetition",
    "answer_training",
    "answers_by_distance",
    "band",
    "beyond_trained_length",
    "caption_agreement",
    "caption_maps",
    "caption_objects",
    "caption_scores",
    "captioned_images",
    "classifier_training",
    "clip_angles",
    "clipping",
    "confusion_and_calibration",
    "confusions",
    "embedding_training",
    "error_wall",
    "exponents_over_training",
    "exposure_bias",
    "gated_phase",
    "gradient_curves",
    "lead_errors",
    "lead_spread",
    "learning_curves",
    "linear_sensitivity",
    "lives_of_engines",
    "lives_sorted",
    "lyapunov_spectra",
    "mean_field_curve",
    "memory_by_order",
    "neighbour_overlaps",
    "nets_training",
    "new_figure",
    "pair_maps",
    "pair_reach",
    "past_gradients",
    "path_curves",
    "perplexity_by_context",
    "perplexity_by_order",
    "perplexity_over_epochs",
    "phase_diagram",
    "pick",
    "pixel_gradients",
    "rung_curves",
    "rung_differences",
    "rung_gates",
    "rung_gradients",
    "rung_results",
    "save",
    "score_by_length",
    "sensitivity_by_memory",
    "sensitivity_over_time",
    "share_curves",
    "singular_limits",
    "singular_spectra",
    "story_sentences",
    "success_against_length",
    "supporting_facts",
    "tanh_phase",
    "time_ratios",
    "token_surprise",
    "track_map",
    "training_curves",
    "training_heatmap",
    "translator_training",
    "truncated_training",
    "truncation_bias",
    "truncation_schemes",
    "word_maps",
]
