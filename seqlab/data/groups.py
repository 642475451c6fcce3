"""Splits that cannot leak: by group (a storm, an engine) and year; scalers that know theirs.

    parts = split_groups(ids, {"valid": 0.15, "test": 0.15})  # name -> set of groups
    scaler = fit_scaler(Part("train", values, ids))        # refuses any other part
    check_no_leak({"train": ids, "test": ...}, scaler)     # raises if a group is in two

Windows of one storm are nearly the same window: a split by window tests on what it trained on.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from seqlab.data.checks import check_at_least
from seqlab.errors import InputError

TRAIN = "train"


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of numbers that say which part of a split they are of.

    Attributes:
      name: "train", "valid", "test" ...
      values: float [N, D]; NaN where a value is missing.
      groups: of each row, N of them.
    """

    name: str
    values: np.ndarray
    groups: Sequence[Hashable]


@dataclass(frozen=True, eq=False)
class Scaler:
    """Means and spreads of the training rows; made by `fit_scaler` alone.

    Attributes:
      mean, std: float [D]; or [R, D], a row for each operating regime.
      groups: those that it was fitted on, for `check_no_leak`.
      is_constant: which of the D do not change in training, bool [D]; they are scaled to 0.
    """

    mean: np.ndarray
    std: np.ndarray
    groups: frozenset[Hashable]
    is_constant: np.ndarray

    def __call__(self, values: np.ndarray, regimes: np.ndarray | None = None) -> np.ndarray:
        """(values - mean) / std, float64 [..., D]: 0 for what is missing (NaN) or constant.

        Args:
          values: [..., D].
          regimes: whole numbers [...], where the scaler was fitted by regime.

        Raises:
          ValueError: regimes for a scaler fitted without them, or none for one fitted with them.
        """
        if (regimes is None) != (self.mean.ndim == 1):
            raise ValueError("scaler: give regimes exactly if it was fitted by regime")
        mean, std = self.mean, self.std
        if regimes is not None:
            mean, std = mean[regimes], std[regimes]
        scaled = (np.asarray(values, float) - mean) / std
        return np.where(np.isfinite(scaled) & ~self.is_constant, scaled, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Its numbers, for a run's files; `from_json` makes it again, without its groups."""
        return {name: getattr(self, name).tolist() for name in ("mean", "std", "is_constant")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scaler":
        """The scaler whose `to_json` this was."""
        mean, std = np.array(value["mean"], float), np.array(value["std"], float)
        return cls(mean, std, frozenset(), np.array(value["is_constant"], bool))


def fit_scaler(part: Part, regimes: np.ndarray | None = None, num_regimes: int = 1) -> Scaler:
    """Mean and standard deviation of each column of the training part, missing values left out.

    Args:
      part: the rows; its name has to be "train".
      regimes: of each row, whole numbers below `num_regimes`, [N]; None for one scale for all.
      num_regimes: R.

    Raises:
      InputError: a part that is not train; no row; an infinite value, naming row and column; a
        regime without a row.
    """
    if part.name != TRAIN:
        raise InputError(f"a scaler is fitted on train only, not on {part.name!r}: it would leak")
    values = np.asarray(part.values, float)
    if values.ndim != 2 or not len(values):
        raise InputError(f"scaler: values have shape {values.shape}, expected rows [N, D]")
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise InputError(f"scaler: row {row}, column {column} is infinite")
    if regimes is None:
        mean, std = _moments(values)
        is_constant = _is_constant(mean, std)
    else:
        pieces = [values[regimes == regime] for regime in range(num_regimes)]
        if empty := [str(i) for i, piece in enumerate(pieces) if not len(piece)]:
            raise InputError(f"scaler: no training row of regime {', '.join(empty)}")
        mean, std = (np.stack(each) for each in zip(*map(_moments, pieces), strict=True))
        is_constant = _is_constant(mean, std).all(axis=0)
    std = np.where(_is_constant(mean, std), 1.0, std)
    return Scaler(mean, std, frozenset(part.groups), is_constant)


def _moments(values):
    is_known = ~np.isnan(values)
    count = np.maximum(is_known.sum(axis=0), 1)
    mean = np.where(is_known, values, 0.0).sum(axis=0) / count
    spread = np.where(is_known, values - mean, 0.0)
    return mean, np.sqrt(np.square(spread).sum(axis=0) / count)


def _is_constant(mean, std):
    return std <= 1e-9 * np.maximum(np.abs(mean), 1.0)


def split_groups(
    groups: Iterable[Hashable], shares: Mapping[str, float], *, seed: int = 0
) -> dict[str, frozenset[Any]]:
    """Whole groups dealt out at random: name -> groups; "train" is what no share takes.

    Args:
      groups: distinct or not, in an order that does not change.
      shares: name -> share of the groups, each rounded to one group at least.
      seed: of the order.

    Raises:
      InputError: fewer groups than parts, or shares that leave nothing to train on.
    """
    distinct = list(dict.fromkeys(groups))
    check_at_least(len(distinct), len(shares) + 1, "number of groups", "one for each part")
    counts = {name: max(1, round(share * len(distinct))) for name, share in shares.items()}
    if sum(counts.values()) >= len(distinct):
        raise InputError(f"shares {dict(shares)} leave none of {len(distinct)} groups to train on")
    order = [distinct[i] for i in np.random.RandomState(seed).permutation(len(distinct))]
    parts, start = {}, 0
    for name, count in counts.items():
        parts[name] = frozenset(order[start : start + count])
        start += count
    return {TRAIN: frozenset(order[start:]), **parts}


def split_years(
    years: Mapping[Hashable, int], last: Mapping[str, int]
) -> dict[str, frozenset[Hashable]]:
    """Groups by their year: each part takes those up to its last year that no earlier part took.

    Args:
      years: group -> year; of a storm, the season that it is counted to.
      last: name -> last year, in increasing order, "train" first; later groups are in no part.

    Raises:
      InputError: years that do not increase, or a part without a group.
    """
    ends = list(last.values())
    if next(iter(last)) != TRAIN or ends != sorted(set(ends)):
        raise InputError(f"last years {dict(last)}: they increase, and train is the first")
    parts, begin = {}, -np.inf
    for name, end in last.items():
        parts[name] = frozenset(group for group, year in years.items() if begin < year <= end)
        if not parts[name]:
            span = f"{begin + 1:g} to {end}" if np.isfinite(begin) else f"up to {end}"
            known = f"{min(years.values())} to {max(years.values())}"
            raise InputError(f"{name}: no group of the years {span}; there are those of {known}")
        begin = end
    return parts


def check_no_leak(parts: Mapping[str, Iterable[Hashable]], scaler: Scaler | None = None) -> None:
    """Refuses a split in which a group is in two parts, or a scaler that saw more than train.

    Args:
      parts: name -> the groups of its rows, repeated or not.
      scaler: whose groups have to be of train.

    Raises:
      InputError: naming the group and the two parts.
    """
    sets = {name: set(groups) for name, groups in parts.items()}
    for (one, groups), (other, others) in combinations(sets.items(), 2):
        if shared := groups & others:
            raise InputError(
                f"the split leaks: {min(map(str, shared))} is in {one} and in {other} "
                f"({len(shared)} of such); split by whole groups"
            )
    if scaler is not None and (extra := scaler.groups - sets.get(TRAIN, set())):
        raise InputError(f"the scaler leaks: it was fitted on {min(map(str, extra))}, not of train")
