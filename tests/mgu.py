"""A cell of a user's own, for the tests of what must hold for any cell."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.affine import affine, init_affine


@dataclass(frozen=True)
class MGU:
    """Minimal gated unit (Zhou et al., 2016), as a user would write it: no routes, nothing else."""

    hidden_size: int

    def init(self, key, input_size):
        key_f, key_g = jax.random.split(key)
        return {
            "f": init_affine(key_f, input_size, self.hidden_size),
            "g": init_affine(key_g, input_size, self.hidden_size),
        }

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["f"]["b"].dtype)

    def step(self, params, h, x):
        f = jax.nn.sigmoid(affine(params["f"], x, h))
        return (1 - f) * h + f * jnp.tanh(affine(params["g"], x, f * h))

    def output(self, h):
        return h
