"""Figures of merit and how sure one can be of them. Plain numpy."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.median,
    *,
    level: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic over independent runs with its percentile bootstrap interval.

    Args:
      values: [N, ...], one row a run (a seed, a sentence, a storm).
      statistic: called with `axis`; the median if nothing is said.
      level: share of the draws that lie inside.
      num_draws: resamples of the N rows, with replacement.
      seed: of the draws: the same values give the same interval.

    Returns:
      Interval(middle, low, high), each [...]. With one row the interval has no width.

    Raises:
      ValueError: for no rows.

    References: Efron and Tibshirani, 1993, chapter 13 (percentile intervals).
    """
    values = np.asarray(values, float)
    if not len(values):
        raise ValueError("bootstrap: no rows to draw from")
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(values), size=(num_draws, len(values)))
    # One at a time where all draws together would fill the memory.
    draws = np.stack([statistic(values[each], axis=0) for each in rows])
    # Without interpolation where a draw is infinite, as the log of what has vanished is.
    method = "linear" if np.isfinite(draws).all() else "inverted_cdf"
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method=method)
    return Interval(np.asarray(statistic(values, axis=0)), low, high)
