"""Recurrences whose Jacobian is diagonal: gates that read the input alone, and linear units.

Their steps can be walked in any grouping: `unroll(..., form="associative")`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from seqlab.cells.affine import (
    Init,
    check_fields,
    chrono_bias,
    init_matrix,
    project,
    spread,
)
from seqlab.description import as_html
from seqlab.errors import InputError
from seqlab.types import Array


def _init_gate(key, input_size, hidden_size, bias, weight_init):
    kind, gain = weight_init.input, weight_init.input_gain
    return {
        "W_x": init_matrix(key, (input_size, hidden_size), kind, gain),
        "b": jnp.full((hidden_size,), bias, jnp.result_type(float)),
    }


def _gate(params, x):
    return project(x, params["W_x"], "x") + spread(params["b"], x)


def _candidate(a, is_positive):
    """The pre-activation itself, or a + 1/2 from zero on and sigmoid(a) below."""
    return jnp.where(a >= 0.0, a + 0.5, jax.nn.sigmoid(a)) if is_positive else a


@dataclass(frozen=True)
class MinGRU:
    """Minimal gated recurrent unit; the carry is h itself.

        z = sigmoid(W^z x + b^z)     n = W^n x + b^n     h' = (1 - z) * h + z * n

    The gate and the candidate read the input alone, so dh'/dh = diag(1 - z): the direct path is
    all of the gradient. Convention: z is on the candidate; the candidate has no squashing. The
    published log-space form makes it positive first; nothing else about that form is another
    function.

    Attributes:
      hidden_size: H, width of h.
      update_bias: initial b^z; negative remembers longer.
      positive: n = g(W^n x + b^n), g(a) = a + 1/2 for a >= 0 and sigmoid(a) below.
      chrono_steps: None, or the longest dependence T_max in steps: b^z = -log U[1, T_max - 1], in
        place of `update_bias`.
      weight_init: how W^z and W^n begin (`input`, `input_gain`).

    Raises:
      InputError: a width below 1, or `chrono_steps` not above 2.

    References: Feng et al., 2024, section 3.1, appendix B (log space); Tallec and Ollivier, 2018.
    """

    hidden_size: int
    update_bias: float = 0.0
    positive: bool = False
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # The one way by which the carry enters a step, the direct path: no gate reads it.
    routes = ("state",)

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    def init(self, key, input_size):
        """Parameters by gate: `{"z": {"W_x", "b"}, "n": ...}`."""
        key_z, key_n, key_chrono = jax.random.split(key, 3)
        init, size = self.weight_init, self.hidden_size
        params = {
            "z": _init_gate(key_z, input_size, size, self.update_bias, init),
            "n": _init_gate(key_n, input_size, size, 0.0, init),
        }
        if self.chrono_steps is not None:
            params["z"]["b"] = -chrono_bias(key_chrono, size, self.chrono_steps)
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["n"]["b"].dtype)

    def step(self, params, h, x):
        """One step."""
        return self.step_by_route(params, {"state": h}, x)

    def step_by_route(self, params, reads, x):
        """`step`, in which the route reads a carry of its own; "state" is (1 - z) * h."""
        h = reads["state"]
        z = self.gates(params, h, x)["z"]
        with jax.named_scope("n"):
            n = _candidate(_gate(params["n"], x), self.positive)
        with jax.named_scope("h"):
            return (1.0 - z) * h + z * n

    def gates(self, params, h, x):
        """The gate of one step, {"z": [..., H]}, from the input alone."""
        del h
        with jax.named_scope("z"):
            return {"z": jax.nn.sigmoid(_gate(params["z"], x))}

    def output(self, h):
        """H itself."""
        return h


@dataclass(frozen=True)
class MinLSTM:
    """Minimal long short-term memory; the carry is h itself.

        f = sigmoid(W^f x + b^f)     i = sigmoid(W^i x + b^i)     n = W^n x + b^n
        h' = f / (f + i) * h + i / (f + i) * n

    The two gates are made to add up to one, so that h keeps its scale over time; dh'/dh is
    diag(f / (f + i)).

    Attributes:
      hidden_size: H, width of h.
      forget_bias: initial b^f.
      positive: n = g(W^n x + b^n), as in `MinGRU`.
      chrono_steps: None, or the longest dependence T_max in steps: b^f = log U[1, T_max - 1], b^i =
        -b^f, in place of `forget_bias`.
      weight_init: how the matrices begin (`input`, `input_gain`).

    Raises:
      InputError: a width below 1, or `chrono_steps` not above 2.

    References: Feng et al., 2024, section 3.2, appendix B (log space); Tallec and Ollivier, 2018.
    """

    hidden_size: int
    forget_bias: float = 1.0
    positive: bool = False
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # The one way by which the carry enters a step, the direct path: no gate reads it.
    routes = ("state",)

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    def init(self, key, input_size):
        """Parameters by gate: `{"f": {"W_x", "b"}, "i": ..., "n": ...}`."""
        biases = {"f": self.forget_bias, "i": 0.0, "n": 0.0}
        *keys, key_chrono = jax.random.split(key, 4)
        params = {
            name: _init_gate(gate_key, input_size, self.hidden_size, biases[name], self.weight_init)
            for gate_key, name in zip(keys, biases, strict=True)
        }
        if self.chrono_steps is not None:
            bias = chrono_bias(key_chrono, self.hidden_size, self.chrono_steps)
            params["f"]["b"], params["i"]["b"] = bias, -bias
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["n"]["b"].dtype)

    def step(self, params, h, x):
        """One step."""
        return self.step_by_route(params, {"state": h}, x)

    def step_by_route(self, params, reads, x):
        """`step`, in which the route reads a carry of its own; "state" is f / (f + i) * h."""
        h = reads["state"]
        f = self.gates(params, h, x)["f"]
        with jax.named_scope("n"):
            n = _candidate(_gate(params["n"], x), self.positive)
        with jax.named_scope("h"):
            return f * h + (1.0 - f) * n

    def gates(self, params, h, x):
        """The share of h that one step keeps, {"f": f / (f + i) [..., H]}, from the input alone."""
        del h
        a, b = _gate(params["f"], x), _gate(params["i"], x)
        with jax.named_scope("f"):
            # f / (f + i) = sigmoid(log f - log i): no 0 / 0 where both gates are shut.
            return {"f": jax.nn.sigmoid(jax.nn.log_sigmoid(a) - jax.nn.log_sigmoid(b))}

    def output(self, h):
        """H itself."""
        return h


@struct.dataclass
class ComplexCarry:
    """State of complex units, in two real parts."""

    re: Array  # [..., N], N = H / 2 rounded up
    im: Array  # [..., N]


@dataclass(frozen=True)
class LRU:
    """Linear recurrent unit: N = H / 2 complex units that turn and shrink.

        s' = lambda * s + gamma * (B x)      lambda = exp(-exp(nu) + i exp(theta))
        h = [Re s, Im s]

    The Jacobian is diag(lambda): its norm is |lambda| = exp(-exp(nu)) < 1, whatever the input. At
    the start |lambda| is spread evenly over the ring from `smallest` to `largest`, the phase over
    [0, `largest_phase`], and gamma = sqrt(1 - |lambda|^2) keeps the state's scale.

    Convention: the read-out Re[C s] + D x of the paper is the layer that follows, linear in h.

    Attributes:
      hidden_size: H, width of h; if it is odd, the last unit's imaginary part is not shown.
      smallest, largest: radii of the ring, 0 <= smallest < largest < 1.
      largest_phase: in radians, at most 2 pi.

    Raises:
      InputError: a width below 1, or radii or a phase outside these bounds.

    References: Orvieto et al., 2023, sections 3.3 and 3.4, lemma 3.2.
    """

    hidden_size: int
    smallest: float = 0.0
    largest: float = 0.99
    largest_phase: float = 6.283185307179586

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        if not 0.0 <= self.smallest < self.largest < 1.0:
            raise InputError(
                f"LRU(smallest={self.smallest}, largest={self.largest}): expected radii with "
                "0 <= smallest < largest < 1"
            )
        if not 0.0 < self.largest_phase <= 6.2832:
            raise InputError(
                f"LRU(largest_phase={self.largest_phase}): expected more than 0, at most 2 pi"
            )

    @property
    def num_units(self) -> int:
        """N."""
        return (self.hidden_size + 1) // 2

    def init(self, key, input_size):
        """`{"nu", "theta", "gamma": [N], "B_re", "B_im": [D, N]}`; "gamma" is log gamma."""
        keys = jax.random.split(key, 4)
        size = self.num_units
        share = jax.random.uniform(keys[0], (size,), minval=1e-6)
        squares = share * (self.largest**2 - self.smallest**2) + self.smallest**2
        phase = self.largest_phase * jax.random.uniform(keys[1], (size,), minval=1e-6)
        deviation = (2 * input_size) ** -0.5
        return {
            "nu": jnp.log(-0.5 * jnp.log(squares)),
            "theta": jnp.log(phase),
            "gamma": 0.5 * jnp.log1p(-squares),
            "B_re": deviation * jax.random.normal(keys[2], (input_size, size)),
            "B_im": deviation * jax.random.normal(keys[3], (input_size, size)),
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, leaves [*batch_shape, N]."""
        zeros = jnp.zeros((*batch_shape, self.num_units), params["nu"].dtype)
        return ComplexCarry(re=zeros, im=zeros)

    def step(self, params, carry, x):
        """One step."""
        with jax.named_scope("lambda"):
            radius, phase = jnp.exp(-jnp.exp(params["nu"])), jnp.exp(params["theta"])
            re, im = spread(radius * jnp.cos(phase), x), spread(radius * jnp.sin(phase), x)
        with jax.named_scope("B"):
            gamma = spread(jnp.exp(params["gamma"]), x)
            u_re = gamma * project(x, params["B_re"], "x")
            u_im = gamma * project(x, params["B_im"], "x")
        return ComplexCarry(
            re=re * carry.re - im * carry.im + u_re, im=re * carry.im + im * carry.re + u_im
        )

    def output(self, carry):
        """[Re s, Im s], [..., H]."""
        return jnp.concatenate([carry.re, carry.im], axis=-1)[..., : self.hidden_size]
