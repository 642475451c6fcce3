"""The gated recurrent unit, in all four forms that are in use."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.affine import (
    Init,
    affine,
    check_fields,
    chrono_bias,
    init_affine,
    project,
    spread,
)
from seqlab.description import as_html
from seqlab.errors import InputError


@dataclass(frozen=True)
class GRU:
    """Gated recurrent unit; the carry is h itself.

        r = sigmoid(W_x^r x + W_h^r h + b^r)         z = sigmoid(W_x^z x + W_h^z h + b^z)
        n = tanh(W_x^n x + W_h^n (r * h) + b^n)            reset="before"
        n = tanh(W_x^n x + b^n + r * (W_h^n h + b_h^n))    reset="after"
        h' = (1 - z) * h + z * n                           z_multiplies="candidate"
        h' = z * h + (1 - z) * n                           z_multiplies="state"

    Who uses what: before, Cho et al. and the lecture; after, cuDNN, PyTorch, Flax and Keras. z on
    the candidate, the lecture and Haiku; on the state, Cho et al., PyTorch, Flax and Keras. The two
    resets are different functions: weights do not transfer. The two uses of z are the same model
    with the signs of W^z and b^z turned.

    Attributes:
      hidden_size: H, width of h.
      reset: where r acts, before or after the matrix product of the candidate.
      z_multiplies: which side z multiplies, "candidate" or "state".
      update_bias: initial b^z, as it stands in the weights.
      chrono_steps: None, or the longest dependence T_max in steps: b^z = -log U[1, T_max - 1] (its
        negative where z multiplies the state), in place of `update_bias`.
      weight_init: how each gate's W_x and W_h begin.

    Raises:
      InputError: a width below 1, `chrono_steps` not above 2, or another `reset` or `z_multiplies`.

    References: Cho et al., 2014, eqs. 5-8; Chung et al., 2014, section 3.2; Tallec and Ollivier,
    2018.
    """

    hidden_size: int
    reset: str = "before"
    z_multiplies: str = "candidate"
    update_bias: float = 0.0
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("state", "z", "r", "n")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        for field, known in (
            ("reset", ("before", "after")),
            ("z_multiplies", ("candidate", "state")),
        ):
            if getattr(self, field) not in known:
                raise InputError(
                    f"GRU({field}={getattr(self, field)!r}): expected {known[0]!r} or {known[1]!r}"
                )

    def init(self, key, input_size):
        """Parameters by gate: `{"r": {"W_x", "W_h", "b"}, "z": ..., "n": ...}`.

        With the reset after the matrix product, n also has "b_h" [H].
        """
        key_affine, key_chrono = jax.random.split(key)
        params = {
            name: init_affine(
                gate_key,
                input_size,
                self.hidden_size,
                bias=self.update_bias if name == "z" else 0.0,
                weight_init=self.weight_init,
            )
            for gate_key, name in zip(jax.random.split(key_affine, 3), "rzn", strict=True)
        }
        if self.chrono_steps is not None:
            bias = chrono_bias(key_chrono, self.hidden_size, self.chrono_steps)
            params["z"]["b"] = bias if self.z_multiplies == "state" else -bias
        if self.reset == "after":
            params["n"]["b_h"] = jnp.zeros_like(params["n"]["b"])
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
        """`step`, in which every route reads a carry of its own.

        The derivative with respect to `reads["z"]` is what flows back through the update gate, and
        so on; "state" is the direct path, (1 - z) * h. With the same carry in every route this is
        `step`, and the parts add up to its derivative.
        """
        return self._step(params, reads, x, recurrent_mask)[0]

    def gates(self, params, h, x):
        """The gates of one step, {"r", "z": [..., H]}."""
        return self._step(params, dict.fromkeys(self.routes, h), x)[1]

    def _step(self, params, reads, x, recurrent_mask=None):
        """(the next h, the gates on the way to it)."""
        masked = {
            name: h if recurrent_mask is None else h * recurrent_mask for name, h in reads.items()
        }
        with jax.named_scope("r"):
            r = jax.nn.sigmoid(affine(params["r"], x, masked["r"]))
        with jax.named_scope("z"):
            z = jax.nn.sigmoid(affine(params["z"], x, masked["z"]))
        with jax.named_scope("n"):
            if self.reset == "before":
                a = affine(params["n"], x, r * masked["n"])
            else:
                weights = params["n"]
                recurrent = project(masked["n"], weights["W_h"], "h") + spread(weights["b_h"], x)
                a = project(x, weights["W_x"], "x") + spread(weights["b"], x) + r * recurrent
            n = jnp.tanh(a)
        with jax.named_scope("h"):
            keep = z if self.z_multiplies == "state" else 1.0 - z
            return keep * reads["state"] + (1.0 - keep) * n, {"r": r, "z": z}

    def output(self, h):
        """H itself."""
        return h
