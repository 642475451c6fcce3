"""The minimal gated unit."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.affine import Init, affine, check_fields, chrono_bias, init_affine
from seqlab.description import as_html


@dataclass(frozen=True)
class MGU:
    """Minimal gated unit: a GRU whose one gate both resets and updates; the carry is h itself.

        f = sigmoid(W_x^f x + W_h^f h + b^f)
        n = tanh(W_x^n x + W_h^n (f * h) + b^n)
        h' = (1 - f) * h + f * n

        dh'/dh = diag(1 - f) + diag((n - h) f (1 - f)) W_h^f
                 + diag(f (1 - n^2)) W_h^n [diag(f) + diag(h f (1 - f)) W_h^f]

    Conventions: f is on the candidate, as in the paper, though it is called a forget gate; it acts
    before the matrix product. Flax has (1 - f) * n + f * h, and f after the product.

    Attributes:
      hidden_size: H, width of h.
      update_bias: initial b^f; negative remembers longer.
      chrono_steps: None, or the longest dependence T_max in steps: b^f = -log U[1, T_max - 1], in
        place of `update_bias`.
      weight_init: how each W_x and W_h begin.

    Raises:
      InputError: a width below 1, or `chrono_steps` not above 2.

    References: Zhou et al., 2016, eqs. 6-8; Tallec and Ollivier, 2018 (chrono).
    """

    hidden_size: int
    update_bias: float = 0.0
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("state", "f", "n")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    def init(self, key, input_size):
        """Parameters by gate: `{"f": {"W_x", "W_h", "b"}, "n": ...}`."""
        key_f, key_n, key_chrono = jax.random.split(key, 3)
        size, init = self.hidden_size, self.weight_init
        params = {
            "f": init_affine(key_f, input_size, size, bias=self.update_bias, weight_init=init),
            "n": init_affine(key_n, input_size, size, weight_init=init),
        }
        if self.chrono_steps is not None:
            params["f"]["b"] = -chrono_bias(key_chrono, size, self.chrono_steps)
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["n"]["b"].dtype)

    def step(self, params, h, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies h on its way into every W_h."""
        return self.step_by_route(
            params, dict.fromkeys(self.routes, h), x, recurrent_mask=recurrent_mask
        )

    def step_by_route(self, params, reads, x, *, recurrent_mask=None):
        """`step`, in which every route reads a carry of its own; "state" is (1 - f) * h."""
        masked = {
            name: h if recurrent_mask is None else h * recurrent_mask for name, h in reads.items()
        }
        with jax.named_scope("f"):
            f = jax.nn.sigmoid(affine(params["f"], x, masked["f"]))
        with jax.named_scope("n"):
            n = jnp.tanh(affine(params["n"], x, f * masked["n"]))
        with jax.named_scope("h"):
            return (1.0 - f) * reads["state"] + f * n

    def output(self, h):
        """H itself."""
        return h
