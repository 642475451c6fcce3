"""The scalar LSTM with exponential gates (sLSTM of xLSTM), stabilised."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from seqlab.cells.affine import Init, affine, check_fields, chrono_bias, init_affine
from seqlab.description import as_html
from seqlab.types import Array


@struct.dataclass
class SLSTMCarry:
    """State of an sLSTM: c exp(m) and n exp(m) are what the equations without a stabiliser have."""

    h: Array  # [..., H] what the outside sees
    c: Array  # [..., H] cell, scaled by exp(-m)
    n: Array  # [..., H] normaliser, scaled likewise; zero before the first step
    m: Array  # [..., H] stabiliser, the log of the scale


@dataclass(frozen=True)
class SLSTM:
    """LSTM with an exponential input gate and a normaliser.

        C' = sigmoid(a_f) C + exp(a_i) tanh(a_g)      N' = sigmoid(a_f) N + exp(a_i)
        h' = sigmoid(a_o) C' / N'                     a = W_x x + W_h h + b, one a gate

    exp(a_i) overflows, so C and N are kept as c = C exp(-m) and n = N exp(-m), with

        m' = max(a_i, m + log sigmoid(a_f))
        i = exp(a_i - m')    f = exp(m + log sigmoid(a_f) - m')
        c' = f * c + i * tanh(a_g)    n' = f * n + i    h' = sigmoid(a_o) * c' / n'

    No output depends on the choice of m: (c e^-s, n e^-s, m + s) goes on as (c, n, m) does. The
    Jacobian of the carry has that freedom in it; what reaches h has not. From a first state of
    zeros b^i moves nothing either, for it scales C and N alike.

    Conventions: the forget gate is a sigmoid (the paper allows an exponential one too); g is the
    paper's z; there is one head, so every W_h is whole; no tanh on c / n. m begins
    at half the least number there is, so that m' = a_i after the first step, as in the released
    code.

    Attributes:
      hidden_size: H, width of h, c, n and m.
      forget_bias: initial b^f.
      chrono_steps: None, or the longest dependence T_max in steps: b^f = log U[1, T_max - 1], in
        place of `forget_bias`; the input gate needs none, for the normaliser takes its scale out.
      weight_init: how each gate's W_x and W_h begin.

    Raises:
      InputError: a width below 1, or `chrono_steps` not above 2.

    References: Beck et al., 2024, arXiv 2405.04517, section 2.2 and appendix A; Tallec and
    Ollivier, 2018.
    """

    hidden_size: int
    forget_bias: float = 1.0
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("cell", "i", "f", "g", "o")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    def init(self, key, input_size):
        """Parameters by gate: `{"i": {"W_x", "W_h", "b"}, "f": ..., "g": ..., "o": ...}`."""
        *keys, key_chrono = jax.random.split(key, 5)
        params = {
            name: init_affine(
                gate_key,
                input_size,
                self.hidden_size,
                bias=self.forget_bias if name == "f" else 0.0,
                weight_init=self.weight_init,
            )
            for gate_key, name in zip(keys, "ifgo", strict=True)
        }
        if self.chrono_steps is not None:
            params["f"]["b"] = chrono_bias(key_chrono, self.hidden_size, self.chrono_steps)
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, and m at half the least number, every leaf [*batch_shape, H]."""
        zeros = jnp.zeros((*batch_shape, self.hidden_size), params["g"]["b"].dtype)
        least = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min / 2)
        return SLSTMCarry(h=zeros, c=zeros, n=zeros, m=least)

    def step(self, params, carry, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies h on its way into every W_h."""
        return self.step_by_route(
            params, dict.fromkeys(self.routes, carry), x, recurrent_mask=recurrent_mask
        )

    def step_by_route(self, params, reads, x, *, recurrent_mask=None):
        """`step`, in which every route reads a carry of its own; "cell" reads c, n and m."""

        def preactivation(name):
            h = reads[name].h
            return affine(params[name], x, h if recurrent_mask is None else h * recurrent_mask)

        cell = reads["cell"]
        with jax.named_scope("i"):
            log_i = preactivation("i")
        with jax.named_scope("f"):
            log_f = cell.m + jax.nn.log_sigmoid(preactivation("f"))
        with jax.named_scope("m"):
            m = jnp.maximum(log_i, log_f)
        with jax.named_scope("g"):
            g = jnp.tanh(preactivation("g"))
        with jax.named_scope("c"):
            i, f = jnp.exp(log_i - m), jnp.exp(log_f - m)
            c, n = f * cell.c + i * g, f * cell.n + i
        with jax.named_scope("o"):
            o = jax.nn.sigmoid(preactivation("o"))
        with jax.named_scope("h"):
            # n is zero only while every input gate so far has underflowed: nothing is written yet.
            return SLSTMCarry(h=o * c / jnp.where(n == 0.0, 1.0, n), c=c, n=n, m=m)

    def output(self, carry):
        """H, [..., H]."""
        return carry.h
