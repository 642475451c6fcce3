"""What turns a model's logits into forecasts of K numbers: points, Gaussians, quantiles.

A model with `output_size=head.output_size(K)` gives logits [..., K W]; `head.losses` compares them
with targets [..., K], entry by entry, for `losses.masked_mean`; `head.predict` says what they mean.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.errors import InputError
from seqlab.forecasts import Prediction
from seqlab.losses import gaussian_nll, pinball
from seqlab.types import Array

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SMALLEST_STD = 1e-3  # of targets that were scaled to 1


class Head(Protocol):
    """What every head does."""

    def output_size(self, num_targets: int) -> int:
        """Width of the logits for K targets."""
        ...

    def losses(self, logits: Array, targets: Array) -> Array:
        """Loss of each target, [..., K]."""
        ...

    def best(self, logits: Array) -> Array:
        """The best single guess, [..., K], to be differentiated."""
        ...

    def predict(self, logits: np.ndarray) -> Prediction:
        """What N nets together say, from logits [N, ..., K W]."""
        ...


@dataclass(frozen=True)
class PointHead:
    """One number a target, by squared error: the conditional mean."""

    def output_size(self, num_targets: int) -> int:
        """K."""
        return num_targets

    def losses(self, logits: Array, targets: Array) -> Array:
        """(y - m)^2."""
        return jnp.square(logits - targets)

    def best(self, logits: Array) -> Array:
        """The logits."""
        return logits

    def predict(self, logits: np.ndarray) -> Prediction:
        """The mean over nets."""
        return Prediction(np.mean(np.asarray(logits, float), axis=0))


@dataclass(frozen=True)
class GaussianHead:
    """Mean and standard deviation of each target, by likelihood.

    std = softplus(s) + 0.001. N nets are one Gaussian of the mixture's moments,

        m = mean_n m_n,      std^2 = mean_n (std_n^2 + m_n^2) - m^2.

    The likelihood alone learns the mean least where it is least sure, since a squared error counts
    with 1 / std^2; each loss times std^(2 beta), a constant to the gradient, takes that back in
    part, and with beta = 1 in full: the mean is then learned as by squared error.

    Attributes:
      beta: 0 for the likelihood.

    References: Nix and Weigend, 1994; Lakshminarayanan et al., 2017, section 2.4 (several nets);
    Seitzer et al., 2022, equation 5 (beta).
    """

    beta: float = 0.0

    def output_size(self, num_targets: int) -> int:
        """2 K: all means, then what makes all deviations."""
        return 2 * num_targets

    def losses(self, logits: Array, targets: Array) -> Array:
        """-log N(y; m, std^2) in nats, times std^(2 beta)."""
        mean, raw = jnp.split(logits, 2, axis=-1)
        std = jax.nn.softplus(raw) + SMALLEST_STD
        nats = gaussian_nll(mean, std, targets)
        return nats * jax.lax.stop_gradient(std ** (2 * self.beta)) if self.beta else nats

    def best(self, logits: Array) -> Array:
        """The means."""
        return jnp.split(logits, 2, axis=-1)[0]

    def predict(self, logits: np.ndarray) -> Prediction:
        """The Gaussian of the mixture's moments."""
        mean, raw = np.split(np.asarray(logits, float), 2, axis=-1)
        variance = np.square(np.logaddexp(raw, 0.0) + SMALLEST_STD)
        middle = mean.mean(axis=0)
        spread = np.square(mean - middle).mean(axis=0)
        return Prediction(middle, np.sqrt(variance.mean(axis=0) + spread))


@dataclass(frozen=True)
class QuantileHead:
    """Quantiles of each target, by pinball loss, averaged over levels.

    They are put in order where a net crosses them. N nets are averaged level by level.

    Attributes:
      levels: tau, increasing, symmetric around a half.

    Raises:
      InputError: levels that do not increase within 0 .. 1, or lack 0.5.

    References: Koenker and Bassett, 1978; Chernozhukov et al., 2010 (putting in order).
    """

    levels: tuple[float, ...] = LEVELS

    def __post_init__(self):
        """Raises `InputError` for levels that are none."""
        increases = all(
            a < b for a, b in zip((0.0, *self.levels), (*self.levels, 1.0), strict=True)
        )
        if not increases or 0.5 not in self.levels:
            raise InputError(f"levels {self.levels}: expected increasing ones in 0 .. 1 with 0.5")

    def output_size(self, num_targets: int) -> int:
        """K Q, the quantiles of a target side by side."""
        return len(self.levels) * num_targets

    def losses(self, logits: Array, targets: Array) -> Array:
        """Mean over levels of rho_tau(y - q_tau)."""
        return jnp.mean(pinball(self._split(logits), jnp.asarray(self.levels), targets), axis=-1)

    def best(self, logits: Array) -> Array:
        """The medians."""
        return self._split(logits)[..., self.levels.index(0.5)]

    def predict(self, logits: np.ndarray) -> Prediction:
        """Quantiles in order, averaged over nets."""
        quantiles = np.sort(self._split(np.asarray(logits, float)), axis=-1).mean(axis=0)
        median = quantiles[..., self.levels.index(0.5)]
        return Prediction(median, levels=self.levels, quantiles=quantiles)

    def _split(self, logits):
        return logits.reshape(*logits.shape[:-1], -1, len(self.levels))


HEADS: dict[str, Head] = {
    "point": PointHead(),
    "gaussian": GaussianHead(),
    "quantile": QuantileHead(),
}
