"""Closed forms and bounds to draw over a measured gradient curve. Natural logs, float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

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


# The trapezoid rule is exact to rounding here; Gauss-Hermite is not once the variance is large.
_NODES = np.linspace(-12.0, 12.0, 24001)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


def _gaussian_mean(function, variance):
    """E[function(a)] for a ~ N(0, variance)."""
    return float(np.sum(_WEIGHTS * function(np.sqrt(variance) * _NODES)))


def _squared_tanh(q):
    """E[tanh(a)^2] for a ~ N(0, q)."""
    return _gaussian_mean(lambda a: np.tanh(a) ** 2, q)


def _squared_slope(q):
    """E[(1 - tanh(a)^2)^2] for a ~ N(0, q)."""
    return _gaussian_mean(lambda a: (1.0 - np.tanh(a) ** 2) ** 2, q)


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
        return gain**2 * _squared_tanh(q) + outside - q

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
    chi = gain**2 * _squared_slope(q)
    return MeanField(q, chi, 0.5 * float(np.log(chi)))


def critical_gain(input_variance: float, bias_variance: float = 0.0) -> float:
    """Recurrent gain at which the gradients of a wide tanh RNN neither fade nor grow, at first.

    The g for which `mean_field_tanh(g, input_variance, bias_variance)` has chi = 1. Input squashes
    the units, so the gain that makes up for it is above one:
    `RNN(h, weight_init=Init(gain=critical_gain(s2)))`, with Gaussian or orthogonal weights.

        >>> from seqlab import critical_gain
        >>> round(critical_gain(0.0), 3), round(critical_gain(1.0), 3)
        (1.0, 1.856)

    Args:
      input_variance: s^2, variance of W_x x over units and steps.
      bias_variance: s_b^2, variance of b over units.

    Returns:
      float: g, 1 without input and bias.

    Raises:
      InputError: when a variance is negative or not a number.

    References: Schoenholz et al., 2017 (edge of chaos); Chen, Pennington and Schoenholz, 2018.
    """
    for name, value in (("input_variance", input_variance), ("bias_variance", bias_variance)):
        if not 0.0 <= value < float("inf"):
            raise InputError(f"critical_gain: {name}={value!r}, expected 0 or more")
    outside = input_variance + bias_variance
    if outside == 0.0:
        return 1.0

    # Given q, chi = 1 says what g is, and the fixed point what s^2 is, which rises with q.
    def excess(q):
        return q - _squared_tanh(q) / _squared_slope(q) - outside

    low, high = 0.0, 1.0 + 2.0 * outside
    while excess(high) < 0.0:
        high *= 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0.0 else (low, middle)
    return _squared_slope(0.5 * (low + high)) ** -0.5


def log_growth_at_rest(keep: np.ndarray, write: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Largest Lyapunov exponent of a gated net that is silent, log(keep + write g), nats per step.

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
    """lag * log g, nats [...]: every singular value of a linear RNN with W_h = g Q, exactly."""
    return np.asarray(lag) * np.log(gain)


def log_forget_bias(forget_bias: float, lag: np.ndarray) -> np.ndarray:
    """lag * log sigmoid(b_f), nats [...]: an LSTM's direct path, its forget gate its bias alone."""
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


def sigmoid_saddle_nodes(weight: float) -> tuple[float, float]:
    """Biases (low, high) at which x' = w sigmoid(x) + b gains and loses its second stable state.

        w s (1 - s) = 1,    b = logit(s) - w s,    s = sigmoid(x)

    Between the two there are two stable states and one unstable; outside there is one. A net that
    is trained across such a point changes where it ends: the wall in its error surface.

    Args:
      weight: w, at least 4; at 4 both biases are -2.

    Raises:
      ValueError: for a smaller w, where the slope of the map never reaches 1.

    References: Doya, 1993; Pascanu et al., 2013, section 2.2 and figure 3 (w = 5).
    """
    if weight < 4.0:
        raise ValueError(f"sigmoid_saddle_nodes: w={weight}, expected 4 or more")
    root = np.sqrt(1.0 - 4.0 / weight)
    upper, lower = 0.5 * (1.0 + root), 0.5 * (1.0 - root)  # s; 1 - s is the other one
    logit = np.log(upper / lower)
    return float(logit - weight * upper), float(-logit - weight * lower)


def value_clip_cosine(threshold: float | np.ndarray) -> np.ndarray:
    """Cosine between a Gaussian gradient and the same clipped element by element.

        cos = E[z clip(z)] / sqrt(E[z^2] E[clip(z)^2]),    z ~ N(0, 1),  clip to [-a, a]
        E[z clip(z)] = erf(a / sqrt 2)
        E[clip(z)^2] = erf(a / sqrt 2) - a sqrt(2 / pi) exp(-a^2 / 2) + a^2 erfc(a / sqrt 2)

    The limit a -> 0 is the vector of signs, cos = sqrt(2 / pi), 37.07 degrees. (Of any vector of n
    entries the signs have the cosine ||g||_1 / (sqrt(n) ||g||_2).) Clipping by the norm has cosine
    1 whatever the gradient.

    Args:
      threshold: a, in root mean squares of the gradient's entries, above 0.
    """
    a = np.asarray(threshold, float)
    inside = special.erf(a / np.sqrt(2.0))
    square = inside - a * np.sqrt(2.0 / np.pi) * np.exp(-0.5 * a**2)
    square = square + a**2 * special.erfc(a / np.sqrt(2.0))
    return inside / np.sqrt(square)


def truncated_share(decay: float, kept: float | np.ndarray, num_steps: int) -> np.ndarray:
    """Norm of the truncated gradient over the full one, and the cosine between them, [...].

        sqrt((1 - lambda^(2 k)) / (1 - lambda^(2 T)))

    for h_t = lambda h_{t-1} + W x_t with the loss at the end, the gradient with respect to W, and
    inputs of different steps orthogonal. The part of lag j has norm lambda^j, and truncation keeps
    the lags below k, so it is a projection: norm ratio and cosine are the same number.

    Args:
      decay: lambda, |lambda| other than 0 and 1.
      kept: k, lags let through.
      num_steps: T.
    """
    square = decay**2
    return np.sqrt((1.0 - square ** np.asarray(kept, float)) / (1.0 - square**num_steps))


def truncated_share_every_step(decay: float, reached: np.ndarray) -> float:
    """The same where every step has a loss, the errors of different steps uncorrelated.

    Of x_s the gradient holds the sum over t of lambda^(t - s) e_t; with e white its mean square is
    the sum of lambda^(2 (t - s)) over the steps t from which s is still reached. That too is a
    projection: the root of the kept over the full mean square, and the cosine of the means.

    Args:
      decay: lambda.
      reached: [T, T] bool, whether the loss of step t (row) reaches step s (column); above the
        diagonal it does not matter.
    """
    t, s = np.indices(reached.shape)
    squares = np.where(t >= s, float(decay) ** (2 * np.maximum(t - s, 0)), 0.0)
    return float(np.sqrt(np.sum(squares[reached]) / np.sum(squares)))


class Sensitivity(NamedTuple):
    """Second moments of a stationary linear unit and of its derivative by its decay, [...] each."""

    state: np.ndarray  # E h^2
    product: np.ndarray  # E h dh/dlambda
    sensitivity: np.ndarray  # E (dh/dlambda)^2


def linear_sensitivity(
    decay: float | np.ndarray, autocorrelation: float | np.ndarray = 0.0
) -> Sensitivity:
    """How far a linear unit's state moves with its decay, while its state gradient only fades.

        h_t = lambda h_{t-1} + x_t,    E x_t x_{t+u} = rho^|u|

    White inputs (rho = 0):  E h^2 = 1 / (1 - lambda^2),  E (dh/dlambda)^2 = (1 + lambda^2) / (1 -
    lambda^2)^3. For any rho, states of two decays have the covariance

        K(lambda, mu) = A(lambda mu) B(lambda) B(mu),    A(p) = (1 - p rho^2) / (1 - p),
        B(l) = 1 / (1 - l rho)

    and E h^2 = K, E h dh/dlambda = dK/dmu, E (dh/dlambda)^2 = d^2 K/dlambda dmu, all at mu =
    lambda. As rho -> 1 the last grows as 1 / (1 - lambda)^4 instead of 1 / (4 (1 - lambda)^3).

    Args:
      decay: lambda, below 1 in size.
      autocorrelation: rho, below 1 in size; the input is then autoregressive, of variance 1.

    References: Zucchet and Orvieto, 2024 (white inputs).
    """
    decay, rho = np.asarray(decay, float), np.asarray(autocorrelation, float)
    p = decay**2
    a, a1 = (1 - p * rho**2) / (1 - p), (1 - rho**2) / (1 - p) ** 2  # A and its derivatives
    a2 = 2 * a1 / (1 - p)
    b = 1 / (1 - decay * rho)
    b1 = rho * b**2
    return Sensitivity(
        state=a * b**2,
        product=b * (a1 * decay * b + a * b1),
        sensitivity=a * b1**2 + 2 * a1 * decay * b * b1 + (a2 * p + a1) * b**2,
    )


def scaled_sensitivity(
    moments: Sensitivity,
    scale: float | np.ndarray = 1.0,
    scale_slope: float | np.ndarray = 0.0,
    decay_slope: float | np.ndarray = 1.0,
) -> np.ndarray:
    """E (d (gamma h) / d theta)^2 where decay and scale depend on a parameter theta, [...].

        (dlambda/dtheta)^2 (gamma^2 E s^2 + 2 gamma gamma' E h s + gamma'^2 E h^2),  s = dh/dlambda

    The remedies, with white inputs:

    * gamma = sqrt(1 - lambda^2), held fixed: (1 + lambda^2) / (1 - lambda^2)^2;
    * the same with gamma' = -lambda / gamma: 1 / (1 - lambda^2)^2;
    * lambda = exp(-exp(nu)) on top, slope lambda log lambda: times (lambda log lambda)^2, which
      stays finite: 1/2 (gamma fixed) or 1/4 as lambda -> 1.

    Args:
      moments: from `linear_sensitivity`.
      scale: gamma.
      scale_slope: gamma' = dgamma/dlambda.
      decay_slope: dlambda/dtheta.

    References: Zucchet and Orvieto, 2024; Orvieto et al., 2023 (the remedies).
    """
    return decay_slope**2 * (
        scale**2 * moments.sensitivity
        + 2 * scale * scale_slope * moments.product
        + scale_slope**2 * moments.state
    )
