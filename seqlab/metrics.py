"""Figures of merit, how sure one can be of them, and what they are held to. Plain numpy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FLOOR = -80.0  # nats; below it float32 gradients lose their digits


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


def with_intervals(
    rows: Sequence[Mapping[str, Any]],
    *names: str,
    statistic: Callable[..., np.ndarray] = np.median,
) -> list[dict[str, Any]]:
    """The rows, with the named values [N, ...] as (middle, low, high) of `bootstrap`, [...]."""
    return [
        {**row, **{name: tuple(bootstrap(row[name], statistic)) for name in names if name in row}}
        for row in rows
    ]


def check(name: str, found: float, expected: float, tolerance: float) -> dict[str, Any]:
    """A line of a study's `checks`: whether a figure lies within `tolerance` of what it should be.

    The tolerance is absolute, in the unit of the figure; a figure that is NaN has not passed.
    """
    return {
        "name": name,
        "found": found,
        "expected": expected,
        "tolerance": tolerance,
        "passed": bool(abs(found - expected) <= tolerance),
    }


def fitted_slope(log_norm: np.ndarray) -> float:
    """Least-squares slope of a log norm [T] over lag, nats per step, where float32 still holds it.

    Positive where the norm grows on the way back; NaN where fewer than two steps are left.
    """
    lag = np.arange(len(log_norm))[::-1]
    is_sharp = np.isfinite(log_norm) & (log_norm > FLOOR)
    if is_sharp.sum() < 2:
        return float("nan")
    return float(np.polyfit(lag[is_sharp], log_norm[is_sharp], 1)[0])


def crossing(gains: Sequence[float], rates: np.ndarray) -> float:
    """The gain at which the rate turns positive, by linear interpolation; NaN if it never does."""
    above = np.flatnonzero(rates > 0)
    if not above.size or above[0] == 0:
        return float("nan")
    k = above[0]
    share = -rates[k - 1] / (rates[k] - rates[k - 1])
    return float(gains[k - 1] + share * (gains[k] - gains[k - 1]))
