"""What the gates of a cell do: their values at every step, and how many stand shut or open."""

from typing import NamedTuple, cast

import jax.numpy as jnp

from seqlab.gradflow.jacobians import states_before
from seqlab.recurrence import unroll
from seqlab.types import Array, Carry, Cell, GatedCell, Params

SHUT, OPEN = 0.1, 0.9  # a gate below the one and above the other has hardly a slope left


class Saturation(NamedTuple):
    """Shares of the units of a gate, [...]."""

    shut: Array  # below 0.1
    open: Array  # above 0.9


def gate_activations(
    cell: Cell, params: Params, xs: Array, *, carry: Carry | None = None, mask: Array | None = None
) -> dict[str, Array]:
    """Every gate at every step of a walk, name -> [..., T, H]: i, f, o of an LSTM, r, z of a GRU.

    The sequences are walked once; then the gates of all steps are taken at once, each from the
    carry before its step.

    Args:
      cell: one with a method `gates(params, carry, x)`, as LSTM, GRU, MinGRU and MinLSTM have it. A
        gate that is clamped is its constant; of coupled gates f is 1 - i.
      params: its parameters.
      xs: inputs, [..., T, D].
      carry: first state, or None.
      mask: [..., T] bool, True where real, or None; what stands at a masked step means nothing.

    Raises:
      ValueError: for a cell that does not name its gates.
    """
    if not callable(getattr(cell, "gates", None)):
        raise ValueError(f"{cell}: names no gates; write `gates(params, carry, x)`")
    if carry is None:
        carry = cell.initial_carry(params, xs.shape[:-2])
    carries = unroll(cell, params, xs, carry=carry, mask=mask).carries
    if mask is not None:
        xs = jnp.where(mask[..., None], xs, 0.0)
    return cast(GatedCell, cell).gates(params, states_before(carry, carries), xs)


def saturation(values: Array) -> Saturation:
    """Shares of the units whose gate stands below 0.1 and above 0.9, [...], from values [..., H].

    References: Karpathy, Johnson and Li, 2015 (left- and right-saturated gates, the same limits).
    """
    return Saturation(jnp.mean(values < SHUT, axis=-1), jnp.mean(values > OPEN, axis=-1))
