"""What a forecast says of numbers to come, and how it is judged. Plain numpy.

A figure of skill comes with a band over whole groups (storms, engines): errors of one group go
together, and a band over single cases can be far too narrow.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri

from seqlab.metrics import Interval


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is said of K numbers, [..., K] each.

    Attributes:
      mean: the best single guess; of quantiles, the median.
      std: standard deviations of Gaussians, or None.
      levels: of the quantiles, increasing, Q of them; or ().
      quantiles: float [..., K, Q], increasing in Q, or None.
    """

    mean: np.ndarray
    std: np.ndarray | None = None
    levels: tuple[float, ...] = ()
    quantiles: np.ndarray | None = None

    @property
    def is_probabilistic(self) -> bool:
        """Whether it says how sure it is."""
        return self.std is not None or self.quantiles is not None

    def rescaled(self, scale: np.ndarray | float, shift: np.ndarray | float = 0.0) -> "Prediction":
        """The same of `scale` times the numbers (above 0) plus `shift`, [..., K] each."""
        scale, shift = np.asarray(scale), np.asarray(shift)
        return replace(
            self,
            mean=self.mean * scale + shift,
            std=None if self.std is None else self.std * scale,
            quantiles=None
            if self.quantiles is None
            else self.quantiles * scale[..., None] + shift[..., None],
        )

    def reshaped(self, shape: tuple[int, ...]) -> "Prediction":
        """The same numbers in arrays of another shape, `shape` in place of [..., K]."""
        return replace(
            self,
            mean=self.mean.reshape(shape),
            std=None if self.std is None else self.std.reshape(shape),
            quantiles=None if self.quantiles is None else self.quantiles.reshape(*shape, -1),
        )

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """The central interval that should hold the truth with probability `level`, [..., K] each.

        Raises:
          ValueError: a point forecast, or quantiles without the two levels.
        """
        tails = ((1 - level) / 2, (1 + level) / 2)
        if self.std is not None:
            low, high = (self.mean + ndtri(tail) * self.std for tail in tails)
            return low, high
        if self.quantiles is None:
            raise ValueError("a point forecast has no interval")
        places = [np.flatnonzero(np.isclose(self.levels, tail)) for tail in tails]
        if not all(len(place) for place in places):
            raise ValueError(f"no quantiles at {tails}: there are {self.levels}")
        low, high = (self.quantiles[..., place[0]] for place in places)
        return low, high

    def crps(self, truth: np.ndarray) -> np.ndarray:
        """Continuous ranked probability score, [..., K], in the unit of the numbers.

        Of a point forecast it is the absolute error.
        """
        if self.std is not None:
            return crps_gaussian(self.mean, self.std, truth)
        if self.quantiles is not None:
            return crps_quantiles(self.quantiles, self.levels, truth)
        return np.abs(truth - self.mean)


def crps_gaussian(mean: np.ndarray, std: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """CRPS of N(mean, std^2), [...]; lower is better.

    With z = (y - mean) / std,

        CRPS = std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)).

    References: Gneiting et al., 2005, equation 5.
    """
    z = (truth - mean) / std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def crps_quantiles(quantiles: np.ndarray, levels: Sequence[float], truth: np.ndarray) -> np.ndarray:
    """CRPS from Q quantiles, [...], by the integral over levels of twice the pinball loss.

        CRPS = 2 int_0^1 rho_tau(y - q_tau) dtau ~ 2 sum_k w_k rho_{tau_k}(y - q_k)

    with w_k the width of the levels that are nearer to tau_k than to its neighbours. With few
    levels the tails are missed and the figure is a little too small.

    Args:
      quantiles: [..., Q].
      levels: tau, increasing in 0 .. 1.
      truth: y, [...].

    References: Laio and Tamea, 2007; Gneiting and Ranjan, 2011, equation 6.
    """
    levels_ = np.asarray(levels, float)
    borders = np.concatenate([[0.0], (levels_[1:] + levels_[:-1]) / 2, [1.0]])
    error = truth[..., None] - quantiles
    pinball = np.maximum(levels_ * error, (levels_ - 1) * error)
    return 2 * np.sum(np.diff(borders) * pinball, axis=-1)


def coverage(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    """Share of truths [...] within their intervals, ends included; NaN of none."""
    is_inside = (low <= truth) & (truth <= high)
    return float(np.mean(is_inside)) if is_inside.size else float("nan")


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared difference of two arrays [...], in the unit of both."""
    return float(np.sqrt(np.mean(np.square(np.asarray(predicted, float) - truth))))


def phm08_score(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Score of the PHM08 challenge over engines, lower is better: late costs more than early.

        d = predicted - true (cycles),      sum exp(-d / 13) - 1 for d < 0,  exp(d / 10) - 1 else.

    A sum over both [N], not a mean: it grows with the number of engines.

    References: Saxena et al., 2008, equation 13.
    """
    late = np.asarray(predicted, float) - truth
    return float(np.sum(np.expm1(np.where(late < 0, -late / 13.0, late / 10.0))))


def skill(
    errors: np.ndarray,
    baseline_errors: np.ndarray,
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    num_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """1 - mean error / mean error of a baseline on the same cases, with its band over groups.

    1 is perfect, 0 as good as the baseline. Whole groups are drawn with replacement, and the ratio
    is taken anew from each draw (percentile interval).

    Args:
      errors: not below 0, [N].
      baseline_errors: of the same cases, [N].
      groups: that the cases are of, N.
      level: share of the draws that lie inside.
      num_draws: resamples of the groups.
      seed: of the draws.

    Raises:
      ValueError: no case, other shapes.

    References: Murphy, 1988 (skill); Efron and Tibshirani, 1993, chapter 13.
    """
    sums = _group_sums(groups, errors, baseline_errors)

    def of(total):
        return 1.0 - total[..., 0] / total[..., 1]

    return _over_groups(sums, of, level, num_draws, seed)


def mean_error(
    errors: np.ndarray,
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    num_draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over all cases [N], with its band over groups; the arguments are those of `skill`.

    Raises:
      ValueError: no case, other shapes.
    """
    sums = _group_sums(groups, errors, np.ones(np.shape(errors)))
    return _over_groups(sums, lambda total: total[..., 0] / total[..., 1], level, num_draws, seed)


def _group_sums(groups, *columns):
    """Sums of each column over the cases of each group, [G, columns]."""
    values = np.stack([np.asarray(column, float) for column in columns], axis=-1)
    if values.ndim != 2 or not len(values) or len(groups) != len(values):
        raise ValueError(
            f"errors have shape {values.shape[:-1]} and there are {len(groups)} groups"
        )
    _, places = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((places.max() + 1, values.shape[1]))
    np.add.at(sums, places, values)
    return sums


def _over_groups(sums, statistic, level, num_draws, seed):
    counts = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=num_draws
    )
    low, high = np.quantile(statistic(counts @ sums), [(1 - level) / 2, (1 + level) / 2])
    return Interval(np.asarray(statistic(sums.sum(axis=0))), low, high)
