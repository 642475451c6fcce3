"""Long short-term memory, gate by gate, and the ablations that the literature compares."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

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
from seqlab.cells.rnn import ACTIVATIONS
from seqlab.description import as_html
from seqlab.errors import InputError
from seqlab.types import Array

GATES = ("i", "f", "o")


@struct.dataclass
class LSTMCarry:
    """State of an LSTM."""

    h: Array  # [..., H] what the outside sees
    c: Array  # [..., H] what the cell remembers


@struct.dataclass
class GatedCarry:
    """State of an LSTM whose gates read the gates of the step before."""

    h: Array  # [..., H]
    c: Array  # [..., H]
    i: Array  # [..., H] the input gate of the last step; zero before the first
    f: Array  # [..., H]
    o: Array  # [..., H]


@dataclass(frozen=True)
class LSTM:
    """Long short-term memory, gate by gate, with a forget gate.

        i = sigmoid(W_x^i x + W_h^i h + b^i)     f, o likewise     g = tanh(W_x^g x + W_h^g h + b^g)
        c' = f * c + i * g                       h' = o * tanh(c')

    A gate clamped to a number is not learned (its parameters stay, with zero gradient, so ablations
    share checkpoints); `forget_gate=1.0` is the cell of 1997. A peephole adds p * c to the input
    and forget gates and p * c' (the *new* cell) to the output gate.

    Conventions: gates are named, not ordered; one bias a gate (PyTorch adds two); the forget bias
    is in the weights (Haiku adds it in the step); the carry is named (peers disagree on (h, c) and
    (c, h)).

    Attributes:
      hidden_size: H, width of h and c.
      forget_bias: initial b^f; 1.0 keeps memory open early in training, Flax begins with 0.0 and
        PyTorch with two draws about 0. With coupled gates it is b^i that begins at its negative.
      input_gate, forget_gate, output_gate: None to learn the gate, or a constant in [0, 1].
      coupled: f = 1 - i; the forget gate's own parameters are idle.
      peepholes: gates see the cell.
      gate_recurrence: i, f and o also read the i, f and o of the step before (nine more matrices
        [H, H]).
      input_activation, output_activation: of g and of c' on its way to h'; "identity" leaves them
        out.
      chrono_steps: None, or the longest dependence T_max in steps: b^f = log U[1, T_max - 1], b^i =
        -b^f, in place of `forget_bias`.
      weight_init: how each gate's W_x and W_h begin, each gate by itself.

    Raises:
      InputError: a width below 1, `chrono_steps` not above 2, a clamp outside [0, 1], an unknown
        activation, or a clamped forget gate beside `coupled`.

    References: Hochreiter and Schmidhuber, 1997; Gers et al., 2000 (forget gate); Greff et al.,
    2017 (peepholes, and the eight variants below); Tallec and Ollivier, 2018 (chrono).
    """

    hidden_size: int
    forget_bias: float = 1.0
    input_gate: float | None = None
    forget_gate: float | None = None
    output_gate: float | None = None
    coupled: bool = False
    peepholes: bool = False
    gate_recurrence: bool = False
    input_activation: str = "tanh"
    output_activation: str = "tanh"
    chrono_steps: float | None = None
    weight_init: Init = Init()

    # Ways by which the carry enters a step; see `step_by_route`. The first is the direct path.
    routes = ("cell", "i", "f", "g", "o")

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        for field in ("input_gate", "forget_gate", "output_gate"):
            value = getattr(self, field)
            if value is not None and not 0.0 <= value <= 1.0:
                raise InputError(f"LSTM({field}={value!r}): expected None or a number from 0 to 1")
        for field in ("input_activation", "output_activation"):
            if getattr(self, field) not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise InputError(f"LSTM({field}={getattr(self, field)!r}): expected one of {known}")
        if self.coupled and self.forget_gate is not None:
            raise InputError("LSTM: coupled=True already sets f = 1 - i; leave forget_gate at None")

    def init(self, key, input_size):
        """Parameters by gate: `{"i": {"W_x", "W_h", "b"}, "f": ..., "g": ..., "o": ...}`.

        With peepholes each gate but g has "p" [H], N(0, gain^2 / H); with gate recurrence "W_i",
        "W_f", "W_o" [H, H].
        """
        key_affine, key_chrono, key_peepholes, key_gates = jax.random.split(key, 4)
        biases = {"f": self.forget_bias}
        if self.coupled:  # f = 1 - sigmoid(a_i) = sigmoid(-a_i)
            biases["i"] = -self.forget_bias
        params = {
            name: init_affine(
                gate_key,
                input_size,
                self.hidden_size,
                bias=biases.get(name, 0.0),
                weight_init=self.weight_init,
            )
            for gate_key, name in zip(jax.random.split(key_affine, 4), "ifgo", strict=True)
        }
        if self.chrono_steps is not None:
            bias = chrono_bias(key_chrono, self.hidden_size, self.chrono_steps)
            params["f"]["b"], params["i"]["b"] = bias, -bias
        if self.peepholes:
            deviation = self.weight_init.gain / self.hidden_size**0.5
            for name, gate_key in zip(GATES, jax.random.split(key_peepholes, 3), strict=True):
                params[name]["p"] = deviation * jax.random.normal(gate_key, (self.hidden_size,))
        if self.gate_recurrence:
            keys = iter(jax.random.split(key_gates, 9))
            init, square = self.weight_init, (self.hidden_size, self.hidden_size)
            for name in GATES:
                for source in GATES:
                    params[name][f"W_{source}"] = init_matrix(
                        next(keys), square, init.recurrent, init.gain
                    )
        return params

    def initial_carry(self, params, batch_shape=()):
        """Zeros, every leaf [*batch_shape, H]."""
        zeros = jnp.zeros((*batch_shape, self.hidden_size), params["g"]["b"].dtype)
        if self.gate_recurrence:
            return GatedCarry(h=zeros, c=zeros, i=zeros, f=zeros, o=zeros)
        return LSTMCarry(h=zeros, c=zeros)

    def step(self, params, carry, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies h on its way into every W_h."""
        return self.step_by_route(
            params, dict.fromkeys(self.routes, carry), x, recurrent_mask=recurrent_mask
        )

    def step_by_route(self, params, reads, x, *, recurrent_mask=None):
        """`step`, in which every route reads a carry of its own.

        The derivative with respect to `reads["i"]` is what flows back through the input gate, and
        so on; "cell" is the direct path, f * c. With the same carry in every route this is `step`,
        and the parts add up to its derivative.
        """
        return self._step(params, reads, x, recurrent_mask)[0]

    def gates(self, params, carry, x):
        """The gates of one step, {"i", "f", "o": [..., H]}; a clamped one is its constant."""
        return self._step(params, dict.fromkeys(self.routes, carry), x)[1]

    def _step(self, params, reads, x, recurrent_mask=None):
        """(the next carry, the gates on the way to it)."""

        def preactivation(name, c=None):
            carry = reads[name]
            h = carry.h if recurrent_mask is None else carry.h * recurrent_mask
            a = affine(params[name], x, h)
            if self.peepholes and c is not None:
                a = a + spread(params[name]["p"], c) * c
            if self.gate_recurrence and name in GATES:
                for source in GATES:
                    a = a + project(getattr(carry, source), params[name][f"W_{source}"], source)
            return a

        def gate(name, clamp, c):
            if clamp is not None:
                return jnp.full_like(c, clamp)
            with jax.named_scope(name):
                return jax.nn.sigmoid(preactivation(name, c))

        i = gate("i", self.input_gate, reads["i"].c)
        f = 1.0 - i if self.coupled else gate("f", self.forget_gate, reads["f"].c)
        with jax.named_scope("g"):
            g = ACTIVATIONS[self.input_activation](preactivation("g"))
        with jax.named_scope("c"):
            c = f * reads["cell"].c + i * g
        o = gate("o", self.output_gate, c)
        with jax.named_scope("h"):
            h = o * ACTIVATIONS[self.output_activation](c)
        gates = {"i": i, "f": f, "o": o}
        if self.gate_recurrence:
            return GatedCarry(h=h, c=c, **gates), gates
        return LSTMCarry(h=h, c=c), gates

    def output(self, carry):
        """H, [..., H]."""
        return carry.h


# Greff et al., 2017: vanilla has peepholes, and each variant changes one thing. NIG(hidden_size=8).
Vanilla = partial(LSTM, peepholes=True)
NIG = partial(Vanilla, input_gate=1.0)  # no input gate
NFG = partial(Vanilla, forget_gate=1.0)  # no forget gate
NOG = partial(Vanilla, output_gate=1.0)  # no output gate
NIAF = partial(Vanilla, input_activation="identity")  # no input activation function
NOAF = partial(Vanilla, output_activation="identity")  # no output activation function
NP = partial(LSTM, peepholes=False)  # no peepholes
CIFG = partial(Vanilla, coupled=True)  # coupled input and forget gate
FGR = partial(Vanilla, gate_recurrence=True)  # full gate recurrence
