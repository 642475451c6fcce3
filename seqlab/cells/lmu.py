"""The Legendre memory unit: a sliding window kept as polynomial coefficients, and a tanh layer."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from seqlab.cells.affine import Init, check_fields, init_matrix, project
from seqlab.description import as_html
from seqlab.errors import InputError
from seqlab.types import Array


@struct.dataclass
class LMUCarry:
    """State of a Legendre memory unit."""

    h: Array  # [..., H] hidden layer, what the outside sees
    m: Array  # [..., Q] memory


@functools.lru_cache(maxsize=64)
def legendre_delay(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Discrete (A [Q, Q], B [Q]) of the memory m' = A m + B u of the last `theta` steps.

        theta dm/dt = A m + B u,    A_ij = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)),
        B_i = (2i + 1) (-1)^i,      i, j = 0 ... Q - 1

    u held over each step (zero-order hold), in float64. Then u(t - r theta) is nearly the sum of
    P_i(2r - 1) m_i, P_i the Legendre polynomials, 0 <= r <= 1.

    References: Voelker, Kajic and Eliasmith, 2019, eqs. 2, 3 and 5.
    """
    from scipy.linalg import expm

    i, j = np.indices((order, order))
    scale = (2.0 * i + 1.0) / theta
    a = scale * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = scale[:, :1] * (-1.0) ** i[:, :1]
    held = expm(np.block([[a, b], [np.zeros((1, order + 1))]]))
    return held[:order, :order], held[:order, order]


@dataclass(frozen=True)
class LMU:
    """Legendre memory unit: a linear memory of a window of time, read by a tanh layer.

        u = e_x x + e_h h + e_m m
        m' = A m + B u                                  A, B fixed, see `legendre_delay`
        h' = tanh(W_x x + W_h h + W_m m')

        dm'/dm = A + B e_m    dm'/dh = B e_h    dh'/dm = S W_m dm'/dm
        dh'/dh = S (W_h + W_m dm'/dh),  S = diag(1 - h'^2)

    Conventions: u is one number, so there is one memory; m before h, and h reads the new m; no
    bias, as in the paper. A and B are constants, not parameters.

    Attributes:
      hidden_size: H, width of h.
      order: Q, width of m: the window is kept as a polynomial of degree Q - 1.
      theta: length of the window in steps.
      weight_init: how W_x, W_h and W_m begin. The encoders e_x and e_h are LeCun uniform, e_m zero.

    Raises:
      InputError: a width below 1, an `order` below 1, or `theta` not above 0.

    References: Voelker, Kajic and Eliasmith, 2019, section 2.
    """

    hidden_size: int
    order: int = 16
    theta: float = 100.0
    weight_init: Init = Init()

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        if not (isinstance(self.order, int) and self.order >= 1 and self.theta > 0):
            raise InputError(
                f"LMU(order={self.order!r}, theta={self.theta!r}): expected 1 coefficient or more "
                "and a window longer than 0 steps"
            )

    def init(self, key, input_size):
        """`{"e_x": [D, 1], "e_h": [H, 1], "e_m": [Q, 1], "W_x": [D, H], "W_h", "W_m": [Q, H]}`."""
        keys, init, size = jax.random.split(key, 5), self.weight_init, self.hidden_size

        def encoder(key, width):
            limit = (3.0 / width) ** 0.5
            return jax.random.uniform(key, (width, 1), minval=-limit, maxval=limit)

        return {
            "e_x": encoder(keys[0], input_size),
            "e_h": encoder(keys[1], size),
            "e_m": jnp.zeros((self.order, 1), jnp.result_type(float)),
            "W_x": init_matrix(keys[2], (input_size, size), init.input, init.input_gain),
            "W_h": init_matrix(keys[3], (size, size), init.recurrent, init.gain),
            "W_m": init_matrix(keys[4], (self.order, size), init.input, init.input_gain),
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, h [*batch_shape, H] and m [*batch_shape, Q]."""
        dtype = params["W_h"].dtype
        return LMUCarry(
            h=jnp.zeros((*batch_shape, self.hidden_size), dtype),
            m=jnp.zeros((*batch_shape, self.order), dtype),
        )

    def step(self, params, carry, x):
        """One step."""
        a, b = legendre_delay(self.order, self.theta)
        dtype = params["W_h"].dtype
        with jax.named_scope("u"):
            u = project(x, params["e_x"], "x")
            u = u + (project(carry.h, params["e_h"], "h") + project(carry.m, params["e_m"], "m"))
        with jax.named_scope("m"):
            m = carry.m @ jnp.asarray(a.T, dtype) + u @ jnp.asarray(b[None], dtype)
        with jax.named_scope("h"):
            a_h = project(x, params["W_x"], "x") + project(carry.h, params["W_h"], "h")
            return LMUCarry(h=jnp.tanh(a_h + project(m, params["W_m"], "m")), m=m)

    def output(self, carry):
        """H, [..., H]."""
        return carry.h
