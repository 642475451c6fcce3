"""JANET: a forget gate and nothing else."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.affine import Init, affine, check_fields, chrono_bias, init_affine
from seqlab.description import as_html


@dataclass(frozen=True)
class JANET:
    """Just another network: an LSTM of which the forget gate alone is left; the carry is h itself.

        s = W_x^f x + W_h^f h + b^f              g = tanh(W_x^g x + W_h^g h + b^g)
        h' = sigmoid(s) * h + (1 - sigmoid(s - beta)) * g

        dh'/dh = diag(f) + diag(h f (1 - f) - g i (1 - i)) W_h^f + diag(i (1 - g^2)) W_h^g,
        f = sigmoid(s),  i = 1 - sigmoid(s - beta)

    With beta > 0 what is written is less damped than what is forgotten would make room for; with
    beta = 0 both add up to one. h and c are one and the same.

    Attributes:
      hidden_size: H, width of h.
      beta: how far the writing gate lags behind the forget gate.
      forget_bias: initial b^f.
      chrono_steps: None, or the longest dependence T_max in steps: b^f = log U[1, T_max - 1], in
        place of `forget_bias` (the authors' choice for long tasks).
      weight_init: how each W_x and W_h begin.

    Raises:
      InputError: a width below 1, or `chrono_steps` not above 2.

    References: van der Westhuizen and Lasenby, 2018, section 3; Tallec and Ollivier, 2018 (chrono).
    """

    hidden_size: int
    beta: float = 1.0
    forget_bias: float = 1.0
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("state", "f", "g")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    def init(self, key, input_size):
        """Parameters by gate: `{"f": {"W_x", "W_h", "b"}, "g": ...}`."""
        key_f, key_g, key_chrono = jax.random.split(key, 3)
        size, init = self.hidden_size, self.weight_init
        params = {
            "f": init_affine(key_f, input_size, size, bias=self.forget_bias, weight_init=init),
            "g": init_affine(key_g, input_size, size, weight_init=init),
        }
        if self.chrono_steps is not None:
            params["f"]["b"] = chrono_bias(key_chrono, size, self.chrono_steps)
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["g"]["b"].dtype)

    def step(self, params, h, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies h on its way into every W_h."""
        return self.step_by_route(
            params, dict.fromkeys(self.routes, h), x, recurrent_mask=recurrent_mask
        )

    def step_by_route(self, params, reads, x, *, recurrent_mask=None):
        """`step`, in which every route reads a carry of its own; "state" is sigmoid(s) * h.

        Route "f" is both uses of s: what is kept and how much is written.
        """
        masked = {
            name: h if recurrent_mask is None else h * recurrent_mask for name, h in reads.items()
        }
        with jax.named_scope("f"):
            s = affine(params["f"], x, masked["f"])
            f = jax.nn.sigmoid(s)
        with jax.named_scope("i"):
            i = jax.nn.sigmoid(self.beta - s)
        with jax.named_scope("g"):
            g = jnp.tanh(affine(params["g"], x, masked["g"]))
        with jax.named_scope("h"):
            return f * reads["state"] + i * g

    def output(self, h):
        """H itself."""
        return h
