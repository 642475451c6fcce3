"""MinimalRNN: the input is embedded first, then one gate mixes it into the state."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.affine import (
    Init,
    affine,
    check_fields,
    chrono_bias,
    init_affine,
    init_matrix,
    project,
    spread,
)
from seqlab.description import as_html


@dataclass(frozen=True)
class MinimalRNN:
    """Minimal recurrent network; the carry is h itself.

        z = tanh(W_x^z x + b^z)            u = sigmoid(W_x^u z + W_h^u h + b^u)
        h' = u * h + (1 - u) * z

        dh'/dh = diag(u) + diag((h - z) u (1 - u)) W_h^u

    The candidate z never sees h, so each unit stays where its inputs have put it. Conventions: u is
    on the state; W_x^u [H, H] reads z, not x.

    Attributes:
      hidden_size: H, width of h and z.
      update_bias: initial b^u; positive remembers longer.
      chrono_steps: None, or the longest dependence T_max in steps: b^u = log U[1, T_max - 1], in
        place of `update_bias`.
      weight_init: how the matrices begin.

    Raises:
      InputError: a width below 1, or `chrono_steps` not above 2.

    References: Chen, 2017, section 2; Chen, Pennington and Schoenholz, 2018 (its mean field);
    Tallec and Ollivier, 2018 (chrono).
    """

    hidden_size: int
    update_bias: float = 0.0
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("state", "u")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    def init(self, key, input_size):
        """`{"z": {"W_x": [D, H], "b"}, "u": {"W_x": [H, H], "W_h": [H, H], "b"}}`."""
        key_z, key_u, key_chrono = jax.random.split(key, 3)
        init, size = self.weight_init, self.hidden_size
        u = init_affine(key_u, size, size, bias=self.update_bias, weight_init=init)
        if self.chrono_steps is not None:
            u["b"] = chrono_bias(key_chrono, size, self.chrono_steps)
        return {
            "z": {
                "W_x": init_matrix(key_z, (input_size, size), init.input, init.input_gain),
                "b": jnp.zeros_like(u["b"]),
            },
            "u": u,
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["z"]["b"].dtype)

    def step(self, params, h, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies h on its way into W_h."""
        return self.step_by_route(
            params, dict.fromkeys(self.routes, h), x, recurrent_mask=recurrent_mask
        )

    def step_by_route(self, params, reads, x, *, recurrent_mask=None):
        """`step`, in which every route reads a carry of its own; "state" is u * h."""
        read = reads["u"] if recurrent_mask is None else reads["u"] * recurrent_mask
        with jax.named_scope("z"):
            z = jnp.tanh(project(x, params["z"]["W_x"], "x") + spread(params["z"]["b"], x))
        with jax.named_scope("u"):
            u = jax.nn.sigmoid(affine(params["u"], z, read))
        with jax.named_scope("h"):
            return u * reads["state"] + (1.0 - u) * z

    def output(self, h):
        """H itself."""
        return h
