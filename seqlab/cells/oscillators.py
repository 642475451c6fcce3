"""Recurrences made of oscillators: the carry is where each unit is and how fast it moves."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from seqlab.cells.affine import (
    Init,
    affine,
    check_fields,
    init_affine,
    init_matrix,
    project,
    spread,
)
from seqlab.description import as_html
from seqlab.errors import InputError
from seqlab.types import Array


@struct.dataclass
class OscillatorCarry:
    """State of oscillators."""

    y: Array  # [..., H] position, what the outside sees
    z: Array  # [..., H] velocity


def _first_carry(size, dtype, batch_shape):
    zeros = jnp.zeros((*batch_shape, size), dtype)
    return OscillatorCarry(y=zeros, z=zeros)


def _check_positive(cell, *fields):
    for field in fields:
        value = getattr(cell, field)
        if not value >= 0:
            raise InputError(f"{type(cell).__name__}({field}={value!r}): expected 0 or more")


@dataclass(frozen=True)
class CoRNN:
    """Coupled oscillatory RNN: a network of damped oscillators, driven by a tanh of all of them.

        z' = z + dt [tanh(W_h y + W_z z + W_x x + b) - gamma y - epsilon z]
        y' = y + dt z'

    With S = diag(1 - tanh(a)^2):

        dz'/dy = dt (S W_h - gamma)    dz'/dz = 1 + dt (S W_z - epsilon)
        dy'/dy = 1 + dt dz'/dy         dy'/dz = dt dz'/dz

    Conventions: z before y, and y reads the new z; W_h reads y. The damping is explicit (the
    released code); the paper also has an implicit form.

    Attributes:
      hidden_size: H, width of y and z.
      dt: time step.
      gamma: stiffness, the square of the frequency of a free unit.
      epsilon: damping. The three defaults are those of the authors' sequential MNIST.
      weight_init: how W_x, W_h and W_z begin.

    Raises:
      InputError: a width below 1, or `dt`, `gamma` or `epsilon` not above 0.

    References: Rusch and Mishra, 2021, arXiv 2010.00951, eqs. 1-3.
    """

    hidden_size: int
    dt: float = 0.042
    gamma: float = 2.7
    epsilon: float = 4.7
    weight_init: Init = Init()

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        _check_positive(self, "dt", "gamma", "epsilon")

    def init(self, key, input_size):
        """Parameters `{"W_x": [D, H], "W_h", "W_z": [H, H], "b": [H]}`."""
        key_affine, key_z = jax.random.split(key)
        init, size = self.weight_init, self.hidden_size
        return {
            **init_affine(key_affine, input_size, size, weight_init=init),
            "W_z": init_matrix(key_z, (size, size), init.recurrent, init.gain),
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, leaves [*batch_shape, H]."""
        return _first_carry(self.hidden_size, params["b"].dtype, batch_shape)

    def step(self, params, carry, x):
        """One step."""
        y, z = carry.y, carry.z
        with jax.named_scope("force"):
            force = jnp.tanh(affine(params, x, y) + project(z, params["W_z"], "z"))
        with jax.named_scope("z"):
            z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        with jax.named_scope("y"):
            return OscillatorCarry(y=y + self.dt * z, z=z)

    def output(self, carry):
        """Y, [..., H]."""
        return carry.y


@dataclass(frozen=True)
class UnICORNN:
    """Undamped independent controlled oscillators: a symplectic step, so nothing is lost.

        z' = z - a * [tanh(w * y + W_x x + b) + alpha y]          a = dt sigmoid(c)
        y' = y + a * z'

    A unit reads no other unit: w is a vector, and the Jacobian is 2 x 2 blocks, one a unit, with d
    = (1 - tanh^2) w + alpha:

        dz'/dy = -a d        dz'/dz = 1        dy'/dy = 1 - a^2 d        dy'/dz = a

    The determinant of each is exactly one. Conventions: z before y, and y reads the new z; a unit
    has its own time step a. The paper stacks such layers, which is `recurrence.stack`, and gives
    each its dt; this cell is one layer.

    Attributes:
      hidden_size: H, width of y and z.
      dt: largest time step of a unit.
      alpha: stiffness.
      weight_init: how W_x begins (`input`, `input_gain`); w ~ U[0, 1] and c ~ U[-0.1, 0.1].

    Raises:
      InputError: a width below 1, or `dt` or `alpha` not above 0.

    References: Rusch and Mishra, 2021, arXiv 2103.05487, section 2; the authors' code.
    """

    hidden_size: int
    dt: float = 0.19
    alpha: float = 30.65
    weight_init: Init = Init()

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        _check_positive(self, "dt", "alpha")

    def init(self, key, input_size):
        """Parameters `{"W_x": [D, H], "b", "w", "c": [H]}`."""
        key_x, key_w, key_c = jax.random.split(key, 3)
        init, size = self.weight_init, self.hidden_size
        return {
            "W_x": init_matrix(key_x, (input_size, size), init.input, init.input_gain),
            "b": jnp.zeros((size,), jnp.result_type(float)),
            "w": jax.random.uniform(key_w, (size,)),
            "c": jax.random.uniform(key_c, (size,), minval=-0.1, maxval=0.1),
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, leaves [*batch_shape, H]."""
        return _first_carry(self.hidden_size, params["b"].dtype, batch_shape)

    def step(self, params, carry, x):
        """One step."""
        y, z = carry.y, carry.z
        with jax.named_scope("a"):
            a = spread(self.dt * jax.nn.sigmoid(params["c"]), x)
        with jax.named_scope("force"):
            drive = project(x, params["W_x"], "x") + spread(params["b"], x)
            force = jnp.tanh(drive + spread(params["w"], x) * y) + self.alpha * y
        with jax.named_scope("z"):
            z = z - a * force
        with jax.named_scope("y"):
            return OscillatorCarry(y=y + a * z, z=z)

    def output(self, carry):
        """Y, [..., H]."""
        return carry.y
