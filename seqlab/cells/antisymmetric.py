"""The antisymmetric RNN: a forward-Euler step of a stable differential equation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

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


@dataclass(frozen=True)
class AntisymmetricRNN:
    """Antisymmetric RNN; the carry is h itself.

        h' = h + epsilon tanh(A h + W_x x + b)            A = W_h - W_h^T - gamma I
        dh'/dh = I + epsilon diag(1 - tanh(a)^2) A

    Every eigenvalue of A has the real part -gamma, so what the ODE h. = tanh(A h + ...) carries
    neither fades nor grows at gamma = 0. The Euler step turns each eigenvalue i w into 1 + epsilon
    i w, of modulus above one: gamma is there to pull it back inside the unit circle.

    With `gated`, a gate that shares the matrix A scales the step:

        h' = h + epsilon z * tanh(A h + W_x x + b)        z = sigmoid(A h + W_x^z x + b^z)

    Convention: W_h [H, H] is free, and its antisymmetric part alone is read; so a change along its
    symmetric part changes nothing, and has no gradient.

    Attributes:
      hidden_size: H, width of h.
      epsilon: step of the discretisation.
      gamma: strength of diffusion.
      gated: with the gate.
      weight_init: how W_x and W_h begin; Gaussian, as the authors have it.

    Raises:
      InputError: a width below 1, `epsilon` not above 0, `gamma` below 0.

    References: Chang et al., 2019, arXiv 1902.09689, section 4 (the form without and with a gate).
    """

    hidden_size: int
    epsilon: float = 0.01
    gamma: float = 0.01
    gated: bool = False
    weight_init: Init = Init(recurrent="gaussian")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        if not (self.epsilon > 0 and self.gamma >= 0):
            raise InputError(
                f"AntisymmetricRNN(epsilon={self.epsilon!r}, gamma={self.gamma!r}): expected "
                "epsilon > 0 and gamma >= 0"
            )

    def init(self, key, input_size):
        """`{"W_x": [D, H], "W_h": [H, H], "b": [H]}`, with `gated` also "z": {"W_x", "b"}."""
        key_affine, key_gate = jax.random.split(key)
        init, size = self.weight_init, self.hidden_size
        params = init_affine(key_affine, input_size, size, weight_init=init)
        if self.gated:
            params["z"] = {
                "W_x": init_matrix(key_gate, (input_size, size), init.input, init.input_gain),
                "b": jnp.zeros_like(params["b"]),
            }
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["b"].dtype)

    def matrix(self, params):
        """A, [H, H], by which rows h are multiplied."""
        free = params["W_h"]
        return free - free.T - self.gamma * jnp.eye(self.hidden_size, dtype=free.dtype)

    def step(self, params, h, x):
        """One step."""
        with jax.named_scope("A"):
            weights = {**params, "W_h": self.matrix(params)}
        with jax.named_scope("n"):
            slope = jnp.tanh(affine(weights, x, h))
        if self.gated:
            with jax.named_scope("z"):
                gate = params["z"]
                a = project(x, gate["W_x"], "x") + spread(gate["b"], x)
                slope = slope * jax.nn.sigmoid(a + project(h, weights["W_h"], "h"))
        with jax.named_scope("h"):
            return h + self.epsilon * slope

    def output(self, h):
        """H itself."""
        return h
