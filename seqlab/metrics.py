"""Figures of merit, how sure one can be of them, and what they are held to. Plain numpy."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

FLOOR = -80.0  # nats; below it float32 gradients lose their digits


class Interval(NamedTuple):
    """An estimate and the interval around it, [...] each, in the unit of what is estimated."""

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

        >>> import numpy as np
        >>> from seqlab import bootstrap
        >>> found = bootstrap(np.array([3.0, 5.0, 4.0]))
        >>> float(found.low) <= float(found.middle) == 4.0 <= float(found.high)
        True

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
    """The gain at which the rate turns positive, by linear interpolation; NaN if it never does.

    Args:
      gains: increasing, G of them.
      rates: at each gain, [G].
    """
    above = np.flatnonzero(rates > 0)
    if not above.size or above[0] == 0:
        return float("nan")
    k = above[0]
    share = -rates[k - 1] / (rates[k] - rates[k - 1])
    return float(gains[k - 1] + share * (gains[k] - gains[k - 1]))


def accuracy(
    is_right: np.ndarray, *, level: float = 0.95, num_draws: int = 10_000, seed: int = 0
) -> Interval:
    """Share of examples that are right, with its percentile bootstrap interval.

    Examples drawn anew from N of which a share p is right are right Binomial(N, p) times in N: that
    is what is drawn, which gives the interval of `bootstrap(is_right, np.mean)` at no cost.

    Args:
      is_right: [N], bool.
      level: share of the draws that lie inside.
      num_draws: resamples of the N examples.
      seed: of the draws.

    Raises:
      ValueError: for no examples.
    """
    is_right = np.asarray(is_right, bool)
    if not is_right.size:
        raise ValueError("accuracy: no examples")
    share = is_right.mean()
    draws = np.random.default_rng(seed).binomial(len(is_right), share, num_draws) / len(is_right)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(np.asarray(share), low, high)


def wilson(num_right: int, count: int, level: float = 0.95) -> Interval:
    """A share with Wilson's score interval, which also holds for few examples and near 0 and 1.

    With p = num_right / n and z the normal quantile of (1 + level)/2, its ends are

        (p + z^2/2n -+ z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n).

    Raises:
      ValueError: for no examples, or more right than there are.

    References: Wilson, 1927; Brown, Cai and DasGupta, 2001, section 3.1.1.
    """
    if not 0 <= num_right <= count or not count:
        raise ValueError(f"wilson: {num_right} right of {count} examples")
    share, z = num_right / count, NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z**2 / (2 * count)
    reach = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = (middle - reach) / (1 + z**2 / count), (middle + reach) / (1 + z**2 / count)
    return Interval(np.asarray(share), np.maximum(low, 0.0), np.minimum(high, 1.0))


def confusion(labels: np.ndarray, guesses: np.ndarray, num_classes: int) -> np.ndarray:
    """How often class i was taken for class j: int64 [C, C], a row for each true class.

    Args:
      labels: what is true, whole numbers in 0 .. C - 1, [N].
      guesses: what was said, [N].
      num_classes: C.

    Raises:
      ValueError: other shapes, or a class outside.
    """
    labels, guesses = np.asarray(labels), np.asarray(guesses)
    if labels.shape != guesses.shape or labels.ndim != 1:
        raise ValueError(f"confusion: labels have shape {labels.shape}, guesses {guesses.shape}")
    for name, values in (("labels", labels), ("guesses", guesses)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"confusion: {name} are in {values.min()} .. {values.max()}, "
                f"expected 0 .. {num_classes - 1}"
            )
    cells = np.bincount(labels * num_classes + guesses, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def macro_f1(counts: np.ndarray) -> float:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN), from their confusion [C, C].

    A class that is neither true of any example nor said of any is left out of the mean, as
    scikit-learn does; one that is never right counts as 0.

    Raises:
      ValueError: for no examples.
    """
    counts = np.asarray(counts)
    right = np.diag(counts)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    if not sizes.any():
        raise ValueError("macro_f1: no examples")
    return float(np.mean(2 * right[sizes > 0] / sizes[sizes > 0]))


def majority_accuracy(train_labels: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of one who always says the most frequent class of train, the first of several.

    Args:
      train_labels: whole numbers from 0 on, [M].
      labels: of the examples that are judged, [N].

    Raises:
      ValueError: for no examples.
    """
    if not np.size(train_labels) or not np.size(labels):
        raise ValueError("majority_accuracy: no examples")
    return float(np.mean(np.asarray(labels) == np.bincount(train_labels).argmax()))


class Calibration(NamedTuple):
    """How often a model is right when it says how sure it is.

    Attributes:
      error: expected calibration error, 0 to 1.
      edges: of the bins, [M + 1].
      counts: examples in each bin, int64 [M].
      confidence: their mean probability of the class said, [M]; NaN in an empty bin.
      accuracy: the share of them that is right, [M]; NaN in an empty bin.
    """

    error: float
    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def calibration(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> Calibration:
    """Expected calibration error of the class said, and the curve of reliability it is read from.

    The confidence of an example is its largest probability. With M bins of one width over 0 .. 1,
    open below and closed above,

        ECE = sum_m n_m / N |accuracy_m - confidence_m|.

    With C classes no confidence is below 1/C: some bins stay empty. The figure depends on M.

    Args:
      probabilities: of each class, [N, C], rows that add up to 1.
      labels: classes, [N].
      num_bins: M.

    Raises:
      ValueError: other shapes, no examples, or rows that are no probabilities.

    References: Guo et al., 2017, equations 2 and 3 (with 15 bins in their section 4).
    """
    probabilities, labels = np.asarray(probabilities, float), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"calibration: probabilities have shape {probabilities.shape}, labels {labels.shape}"
        )
    is_off = ~(np.abs(probabilities.sum(axis=1) - 1) <= 1e-4) | (probabilities < 0).any(axis=1)
    if is_off.any():
        raise ValueError(f"calibration: row {is_off.argmax()} is no probabilities")
    confidences = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    places = np.searchsorted(edges[1:-1], confidences)
    counts = np.bincount(places, minlength=num_bins)
    filled = np.where(counts, counts, np.nan)
    confidence = np.bincount(places, confidences, num_bins) / filled
    share = np.bincount(places, is_right, num_bins) / filled
    error = float(np.nansum(counts * np.abs(share - confidence)) / len(labels))
    return Calibration(error, edges, counts, confidence, share)


class McNemar(NamedTuple):
    """Two models on the same examples.

    Attributes:
      first_only: examples that the first alone has right.
      second_only: examples that the second alone has right.
      p_value: how likely a difference of this size or more is between models that are equally
        often right, two-sided.
    """

    first_only: int
    second_only: int
    p_value: float


def mcnemar(first_is_right: np.ndarray, second_is_right: np.ndarray) -> McNemar:
    """McNemar's exact test of whether two models are right equally often.

    Of the n examples that only one of them has right, the first has Binomial(n, 1/2) if they are
    equally good. With b and c of each, and counted exactly in whole numbers,

        p = min(1, 2 sum_{i <= min(b, c)} C(n, i) / 2^n).

    Args:
      first_is_right: [N], bool.
      second_is_right: [N], bool, of the same examples in the same order.

    Raises:
      ValueError: two shapes, or no examples.

    References: McNemar, 1947; Dietterich, 1998, section 3.1 (there by chi-square).
    """
    first, second = np.asarray(first_is_right, bool), np.asarray(second_is_right, bool)
    if first.shape != second.shape or not first.size:
        raise ValueError(f"mcnemar: shapes {first.shape} and {second.shape}: the same examples")
    b, c = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    ways, total = 1, 0
    for i in range(min(b, c) + 1):
        total += ways
        ways = ways * (b + c - i) // (i + 1)
    return McNemar(b, c, float(min(Fraction(1), Fraction(2 * total, 2 ** (b + c)))))
