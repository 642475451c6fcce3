"""Closed forms and bounds to draw over a measured gradient curve. Natural logs, float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.errors import InputError
from seqlab.types import Array

# Largest slope of each activation; a Jacobian factor diag(phi') has no larger operator norm.
MAX_SLOPE = {"tanh": 1.0, "relu": 1.0, "identity": 1.0, "sigmoid": 0.25}

# phi'(a) from phi(a), so that a bound can be read off the states.
SLOPE_FROM_OUTPUT = {
    "tanh": lambda h: 1.0 - jnp.square(h),
    "relu": lambda h: (h > 0).astype(h.dtype),
    "identity": jnp.ones_like,
    "sigmoid": lambda h: h * (1.0 - h),
}


class MeanField(NamedTuple):
    """Fixed point of the mean-field theory of a wide random network."""

    q: float  # variance of a pre-activation
    chi: float  # growth of the mean squared Jacobian per step
    log_slope: float  # 1/2 log chi, nats per step, of the typical gradient norm


def mean_field_tanh(gain: float, input_variance: float = 0.0) -> MeanField:
    """Growth of gradients in a wide tanh RNN with random recurrent weights.

        q = g^2 E[tanh(sqrt(q) u)^2] + s^2,    chi = g^2 E[(1 - tanh(sqrt(q) u)^2)^2]

    with u ~ N(0, 1). The mean squared norm of a product of k Jacobians grows as chi^k. Gaussian
    weights N(0, g^2 / H) or g times a random orthogonal matrix, H large, states read as independent
    of the weights.

    Args:
      gain: g.
      input_variance: s^2, variance of W_x x + b over units and steps, drawn anew each step.

    Returns:
      MeanField(q, chi, log_slope). Without input and with g <= 1, q = 0 and chi = g^2.

    References: Sompolinsky et al., 1988; Poole et al., 2016; Chen, Pennington and Schoenholz, 2018.
    """
    def excess(q):
        return gain**2 * _squared_tanh(q) + input_variance - q

    # The map is concave in q, so the largest fixed point is the only stable one: bisect from above.
    low, high = input_variance, gain**2 + input_variance + 1.0
    if input_variance == 0.0:
        if gain <= 1.0:
            return MeanField(0.0, gain**2, float(np.log(gain)) if gain > 0 else float("-inf"))
        low = 1e-12
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    q = 0.5 * (low + high)
    chi = gain**2 * _squared_slope(q)
    return MeanField(q, chi, 0.5 * float(np.log(chi)))


def critical_gain(input_variance: float) -> float:
    """Recurrent gain at which the gradients of a wide tanh RNN neither fade nor grow, at first.

    The g for which `mean_field_tanh(g, input_variance)` has chi = 1. Input squashes the units, so
    the gain that makes up for it is above one: `RNN(h, weight_init=Init(gain=critical_gain(s2)))`,
    with Gaussian or orthogonal weights.

    Args:
      input_variance: s^2, variance of W_x x + b over units and steps, drawn anew each step.

    Returns:
      float: g, 1 without input.

    Raises:
      InputError: when `input_variance` is negative or not a number.

    References: Schoenholz et al., 2017 (edge of chaos); Chen, Pennington and Schoenholz, 2018.
    """
    if not 0.0 <= input_variance < float("inf"):
        raise InputError(f"critical_gain: input_variance={input_variance!r}, expected 0 or more")
    if input_variance == 0.0:
        return 1.0

    # Given q, chi = 1 says what g is, and the fixed point what s^2 is, which rises with q.
    def excess(q):
        return q - _squared_tanh(q) / _squared_slope(q) - input_variance

    low, high = 0.0, 1.0 + 2.0 * input_variance
    while excess(high) < 0.0:
        high *= 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0.0 else (low, middle)
    return _squared_slope(0.5 * (low + high)) ** -0.5


# The trapezoid rule is exact to rounding here; Gauss-Hermite is not once sqrt(q) is large.
_NODES = np.linspace(-12.0, 12.0, 24001)
_DENSITY = np.exp(-0.5 * _NODES**2)
_DENSITY = _DENSITY / _DENSITY.sum()


def _squared_tanh(q: float) -> float:
    """E[tanh(sqrt(q) u)^2], u ~ N(0, 1)."""
    return float(np.sum(_DENSITY * np.tanh(np.sqrt(q) * _NODES) ** 2))


def _squared_slope(q: float) -> float:
    """E[(1 - tanh(sqrt(q) u)^2)^2]."""
    return float(np.sum(_DENSITY * (1.0 - np.tanh(np.sqrt(q) * _NODES) ** 2) ** 2))


def log_scaled_orthogonal(gain: float, lag: np.ndarray) -> np.ndarray:
    """lag * log g: every singular value of a linear RNN with W_h = g Q, exactly."""
    return np.asarray(lag) * np.log(gain)


def log_forget_bias(forget_bias: float, lag: np.ndarray) -> np.ndarray:
    """lag * log sigmoid(b_f): the direct path of an LSTM whose forget gate is its bias alone."""
    return -np.asarray(lag) * np.logaddexp(0.0, -forget_bias)


def log_rnn_bound(
    recurrent_weights: Array, hs: Array, activation: str = "tanh", mask: Array | None = None
) -> Array:
    """Upper bound on log ||d h_T / d h_t||_2 of a vanilla RNN for t = 0 ... T-1, [..., T].

        ||d h_T / d h_t|| <= product over k = t+1 ... T of  max_i phi'(a_k)_i  sigma_max(W_h)

    Never violated. With phi' replaced by its maximum gamma it is the textbook bound (gamma
    sigma_max)^(T - t): sigma_max < 1 / gamma is sufficient for vanishing, sigma_max > 1 / gamma
    necessary for exploding.

    Args:
      recurrent_weights: W_h, [H, H].
      hs: states h_1 ... h_T, [..., T, H].
      activation: phi.
      mask: [..., T] bool, True where real, or None; a masked step has the factor 1.

    References: Pascanu et al., 2013, section 2.1, with the slopes kept step by step.
    """
    largest = jnp.linalg.norm(recurrent_weights, ord=2)
    steps = jnp.log(jnp.max(SLOPE_FROM_OUTPUT[activation](hs), axis=-1)) + jnp.log(largest)
    if mask is not None:
        steps = jnp.where(mask, steps, 0.0)
    return jax.lax.cumsum(steps, axis=steps.ndim - 1, reverse=True)


def half_life(log_slope: float) -> float:
    """Steps in which a norm that changes by `log_slope` nats a step halves, or doubles."""
    return float("inf") if log_slope == 0 else float(np.log(2.0) / abs(log_slope))
