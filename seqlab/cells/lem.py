"""Long expressive memory: two states, each with a learned time step of its own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from seqlab.cells.affine import Init, affine, check_fields, chrono_bias, init_affine
from seqlab.description import as_html
from seqlab.errors import InputError
from seqlab.types import Array


@struct.dataclass
class LEMCarry:
    """State of a long expressive memory."""

    y: Array  # [..., H] what the outside sees
    z: Array  # [..., H] what it is led by


@dataclass(frozen=True)
class LEM:
    """Long expressive memory.

        d1 = dt sigmoid(W_h^1 y + W_x^1 x + b^1)      d2 = dt sigmoid(W_h^2 y + W_x^2 x + b^2)
        z' = (1 - d2) * z + d2 * tanh(W_h^z y + W_x^z x + b^z)
        y' = (1 - d1) * y + d1 * tanh(W_h^y z' + W_x^y x + b^y)

    With u and v the two tanh, and slopes s = sigmoid':

        dz'/dz = diag(1 - d2)
        dz'/dy = diag((u - z) dt s2) W_h^2 + diag(d2 (1 - u^2)) W_h^z
        dy'/dz = diag(d1 (1 - v^2)) W_h^y dz'/dz
        dy'/dy = diag(1 - d1) + diag((v - y) dt s1) W_h^1 + diag(d1 (1 - v^2)) W_h^y dz'/dy

    Conventions: z before y, and y reads the new z; both gates and z read y, the old one.

    Attributes:
      hidden_size: H, width of y and z.
      dt: largest step, 0 < dt <= 1; with 1 it is a convex combination.
      update_bias: initial b^1 and b^2; negative remembers longer.
      chrono_steps: None, or the longest dependence T_max in steps: b^1 and b^2 = -log U[1, T_max -
        1], drawn apart, in place of `update_bias`. The steps are counted at dt = 1.
      weight_init: how each W_x and W_h begin.

    Raises:
      InputError: a width below 1, `chrono_steps` not above 2, or `dt` outside (0, 1].

    References: Rusch et al., 2022, arXiv 2110.04744, eqs. 3 and 4; Tallec and Ollivier, 2018.
    """

    hidden_size: int
    dt: float = 1.0
    update_bias: float = 0.0
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("state", "d1", "d2", "z", "y")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        if not 0.0 < self.dt <= 1.0:
            raise InputError(f"LEM(dt={self.dt!r}): expected more than 0, at most 1")

    def init(self, key, input_size):
        """By gate: `{"d1": {"W_x", "W_h", "b"}, "d2": ..., "z": ..., "y": ...}`."""
        *keys, key_1, key_2 = jax.random.split(key, 6)
        params = {
            name: init_affine(
                gate_key,
                input_size,
                self.hidden_size,
                bias=self.update_bias if name in ("d1", "d2") else 0.0,
                weight_init=self.weight_init,
            )
            for gate_key, name in zip(keys, ("d1", "d2", "z", "y"), strict=True)
        }
        if self.chrono_steps is not None:
            for name, gate_key in (("d1", key_1), ("d2", key_2)):
                params[name]["b"] = -chrono_bias(gate_key, self.hidden_size, self.chrono_steps)
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, leaves [*batch_shape, H]."""
        zeros = jnp.zeros((*batch_shape, self.hidden_size), params["z"]["b"].dtype)
        return LEMCarry(y=zeros, z=zeros)

    def step(self, params, carry, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies y and z' on their way into every W_h."""
        return self.step_by_route(
            params, dict.fromkeys(self.routes, carry), x, recurrent_mask=recurrent_mask
        )

    def step_by_route(self, params, reads, x, *, recurrent_mask=None):
        """`step`, in which every route reads a carry of its own.

        "state" is the direct path, (1 - d2) * z and (1 - d1) * y. What y' reads of z through z' is
        route "y", for it enters through W_h^y.
        """

        def preactivation(name, read):
            return affine(
                params[name], x, read if recurrent_mask is None else read * recurrent_mask
            )

        with jax.named_scope("d1"):
            d1 = self.dt * jax.nn.sigmoid(preactivation("d1", reads["d1"].y))
        with jax.named_scope("d2"):
            d2 = self.dt * jax.nn.sigmoid(preactivation("d2", reads["d2"].y))
        with jax.named_scope("z"):
            written = d2 * jnp.tanh(preactivation("z", reads["z"].y))
            z = (1.0 - d2) * reads["state"].z + written
            seen = (1.0 - d2) * reads["y"].z + written  # z again, as route "y" sees it
        with jax.named_scope("y"):
            y = (1.0 - d1) * reads["state"].y + d1 * jnp.tanh(preactivation("y", seen))
        return LEMCarry(y=y, z=z)

    def output(self, carry):
        """Y, [..., H]."""
        return carry.y
