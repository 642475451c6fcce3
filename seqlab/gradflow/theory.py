"""Closed forms and bounds to draw over a measured gradient curve. Natural logs, float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


# The trapezoid rule is exact to rounding here; Gauss-Hermite is not once the variance is large.
_NODES = np.linspace(-12.0, 12.0, 24001)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


def _gaussian_mean(function, variance):
    """E[function(a)] for a ~ N(0, variance)."""
    return float(np.sum(_WEIGHTS * function(np.sqrt(variance) * _NODES)))


def mean_field_tanh(
    gain: float, input_variance: float = 0.0, bias_variance: float = 0.0
) -> MeanField:
    """Growth of gradients in a wide tanh RNN with random recurrent weights.

        q = g^2 E[tanh(sqrt(q) u)^2] + s^2 + s_b^2,    chi = g^2 E[(1 - tanh(sqrt(q) u)^2)^2]

    with u ~ N(0, 1). The mean squared norm of a product of k Jacobians grows as chi^k, and the
    largest Lyapunov exponent is 1/2 log chi. Gaussian weights N(0, g^2 / H) or g times a random
    orthogonal matrix, H large, states read as independent of the weights. Inputs change from step
    to step and biases do not, but the equal-time variance q is all that chi depends on, and in it
    the two only add up.

    Args:
      gain: g.
      input_variance: s^2, variance of W_x x over units and steps.
      bias_variance: s_b^2, variance of b over units.

    Returns:
      MeanField(q, chi, log_slope). Without input and bias and with g <= 1, q = 0 and chi = g^2.

    References: Sompolinsky et al., 1988; Molgedey et al., 1992 (driven); Poole et al., 2016; Chen,
    Pennington and Schoenholz, 2018.
    """
    outside = input_variance + bias_variance

    def excess(q):
        return gain**2 * _gaussian_mean(lambda a: np.tanh(a) ** 2, q) + outside - q

    # The map is concave in q, so the largest fixed point is the only stable one: bisect from above.
    low, high = outside, gain**2 + outside + 1.0
    if outside == 0.0:
        if gain <= 1.0:
            return MeanField(0.0, gain**2, float(np.log(gain)) if gain > 0 else float("-inf"))
        low = 1e-12
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    q = 0.5 * (low + high)
    chi = gain**2 * _gaussian_mean(lambda a: (1.0 - np.tanh(a) ** 2) ** 2, q)
    return MeanField(q, chi, 0.5 * float(np.log(chi)))


def critical_gain_tanh(input_variance: float = 0.0, bias_variance: float = 0.0) -> float:
    """The gain at which chi = 1 in `mean_field_tanh`: gradients neither fade nor grow.

    1 without input and bias; more of either asks for a larger gain.
    """
    outside = input_variance + bias_variance
    if outside == 0.0:
        return 1.0

    def gain_squared(q):
        return 1.0 / _gaussian_mean(lambda a: (1.0 - np.tanh(a) ** 2) ** 2, q)

    low, high = outside, outside + 1.0  # q, given which chi = 1 says g, and the rest what is left
    while high - gain_squared(high) * _gaussian_mean(lambda a: np.tanh(a) ** 2, high) < outside:
        low, high = high, 2.0 * high
    for _ in range(60):
        q = 0.5 * (low + high)
        rest = q - gain_squared(q) * _gaussian_mean(lambda a: np.tanh(a) ** 2, q)
        low, high = (q, high) if rest < outside else (low, q)
    return float(np.sqrt(gain_squared(high)))


def log_growth_at_rest(keep: np.ndarray, write: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Largest Lyapunov exponent of a gated net that is silent, log(keep + write g).

    Without input and with no biases but those of the gates, h = 0 (and c = 0) is a fixed point. The
    gates' own slopes drop out there, since what they multiply is zero, and one step is

        GRU (z on the candidate)    h' = [(1 - z) I + z r W_h^n] h       keep = 1 - z, write = z r
        LSTM                        c' = [f I + i o W_h^g] c             keep = f,     write = i o

    with every gate at the sigmoid of its bias. Exact where the largest real eigenvalue of W_h is g:
    Gaussian or orthogonal W_h, H large. Silence loses its stability at g = (1 - keep) / write: 2
    for a GRU whatever its update bias, 4 sigmoid(-b_f) for an LSTM, other gate biases zero.
    """
    return np.log(np.asarray(keep) + np.asarray(write) * np.asarray(gain))


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
