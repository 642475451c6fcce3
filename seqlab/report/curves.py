"""What a report says of curves: by lag, over sequences, as a rate, in words. Plain numpy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seqlab.gradflow import theory

LEVEL = 0.9  # of dL/dW, that the horizon carries
FALL = float(np.log(1e3))  # nats
FLAT = float(np.log(2.0))  # nats within which a curve neither fades nor grows
SLIGHT = 0.1  # nats over a stretch, of which no rate is told
UNEVEN = 0.5  # of its rate, by which the ends of a curve with one rate may differ from it


class Trend(NamedTuple):
    """A straight line through a log curve over lag."""

    slope: float | None  # nats per step; None for a curve of fewer than two finite points
    has_one_rate: bool
    is_flat: bool
    zero_from: int | None  # lag from which on all is exactly zero
    text: str

    @classmethod
    def of(cls, curve: np.ndarray, dtype) -> "Trend":
        """The line through a curve of natural logs, [L], of numbers in that dtype."""
        lag = np.arange(len(curve))
        alive = np.isfinite(curve)
        # Below, the numbers of this precision lose their digits.
        good = alive & (curve > float(np.log(np.finfo(dtype).tiny)) + 7.0)
        zeros = np.isneginf(curve)
        zero_from = None
        if zeros.size and zeros[-1]:
            zero_from = int(len(zeros) - np.argmin(zeros[::-1])) if not zeros.all() else 0
        if good.sum() < 2:
            text = (
                "is zero before the last step" if zero_from is not None else "is too short a curve"
            )
            return cls(None, False, False, zero_from, text)
        x, y = lag[good], curve[good]
        slope = float(np.polyfit(x, y, 1)[0])
        if float(np.ptp(y)) < FLAT:
            text = f"stays within a factor of {np.exp(np.ptp(y)):.2f} over {len(curve)} steps"
            return cls(slope, True, True, zero_from, text)
        third = len(x) // 3
        if third >= 3:
            ends = [
                float(np.polyfit(x[part], y[part], 1)[0])
                for part in (slice(0, third), slice(-third, None))
            ]
            if any(abs(end - slope) > UNEVEN * abs(slope) for end in ends):
                first, last = (rate_text(end, third) for end in ends)
                text = (
                    f"has no single rate: it {first} over the first {third} steps back, "
                    f"{last} over the last {third} ({slope:.3g} nats/step in all)"
                )
                return cls(slope, False, False, zero_from, text)
        return cls(
            slope, True, False, zero_from, f"{rate_text(slope, len(x))} ({slope:.3g} nats/step)"
        )

    def turning_time(self, sign: int) -> float | None:
        """Steps in which it halves (sign -1) or doubles (1), where it does at one rate."""
        if self.slope is None or self.is_flat or not self.has_one_rate or self.slope * sign <= 0:
            return None
        return theory.half_life(self.slope)


def rate_text(slope: float, num_steps: int) -> str:
    """`halves every 2.2 steps`; of a stretch of so many steps."""
    if abs(slope) * num_steps < SLIGHT:
        return "hardly changes"
    verb = "halves" if slope < 0 else "doubles"
    every = f"{theory.half_life(slope):.3g}"
    return f"{verb} every {every} {'step' if every == '1' else 'steps'}"


def by_lag(values: np.ndarray, real: np.ndarray, is_backward: bool) -> np.ndarray:
    """[N, T] in order of time to [N, L] by real steps back; NaN beyond a row's length."""
    counts = real.sum(-1)
    found = np.full((len(values), max(int(counts.max(initial=0)), 1)), np.nan)
    for row, (value, own) in enumerate(zip(values, real, strict=True)):
        steps = np.flatnonzero(own)
        found[row, : len(steps)] = value[steps if is_backward else steps[::-1]]
    return found


def quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """10, 50 and 90 % over rows [N, L], [L] each, of those that have an entry; not interpolated."""
    columns = []
    for column in values.T:
        own = column[~np.isnan(column)]
        if not own.size:
            own = np.array([np.nan])
        # A gradient that is zero in its precision has a norm of -inf: nothing lies in between.
        columns.append(np.quantile(own, (0.1, 0.5, 0.9), method="inverted_cdf"))
    low, middle, high = np.array(columns).T
    return low, middle, high


def fall_lag(curve: np.ndarray) -> int | None:
    """The first lag at which a curve [L] lies a factor of 1e3 below where it began, or None."""
    alive = np.flatnonzero(np.isfinite(curve))
    if not alive.size:
        return None
    first = int(alive[0])  # c of an LSTM: no loss reads the last c itself
    fallen = np.flatnonzero(curve[first:] < curve[first] - FALL)
    return first + int(fallen[0]) if fallen.size else None


def horizon(carried: np.ndarray) -> int:
    """The least k from which on the last k steps carry the level; by the last 1 ... L, [L]."""
    short = np.flatnonzero(carried < LEVEL)
    return int(short[-1]) + 2 if short.size else 1


def exponents(growth: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Growth a real step after the first quarter of each row's, [P]."""
    found = []
    for row, own in zip(growth, real, strict=True):
        steps = np.flatnonzero(own)
        found.append(float(np.mean(row[steps[len(steps) // 4 :]])) if len(steps) else np.nan)
    return np.array(found)


def told_lags(length: int) -> list[int]:
    """1, 10, 100 ... and the last."""
    lags = [lag for lag in (1, 10, 100, 1000) if lag < length - 1]
    return [*lags, length - 1] if length > 1 else []


def entries(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind, by the name that follows it."""
    return {
        name.removeprefix(f"{kind}/"): values
        for name, values in arrays.items()
        if name.startswith(f"{kind}/")
    }


def percent(share: float) -> str:
    """A share as people say it."""
    if 0 < abs(share) < 1e-3:
        return "under 0.1 %"
    return f"{100 * share:.0f} %" if abs(share) >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def steps_text(count: float) -> str:
    """`1 step`, `2 steps`."""
    return f"{count:g} step" if count == 1 else f"{count:g} steps"


def short(value: Any) -> str:
    """A figure in a table."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
