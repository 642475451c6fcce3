"""Names for what travels through the library: arrays, parameters, carries, cells, models."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from flax import struct

from seqlab.description import describe

Array = jax.Array
Params = Any  # nested dict of arrays
Carry = Any  # an array, or a struct of arrays, every leaf [..., H]
SHARDS = "shards"  # axis of devices over which the rows of a batch are shared out


class Cell(Protocol):
    """One recurrent step. Hyper-parameters are fields of a frozen dataclass; the methods are pure.

    `output(carry)` is what the outside sees. The output being a function of the carry is what makes
    the derivative with respect to the carry the *total* one, also when every step has a loss.
    """

    @property
    def hidden_size(self) -> int:
        """H, width of the output."""
        ...

    def init(self, key: Array, input_size: int) -> Params:
        """Fresh parameters, a nested dict."""
        ...

    def initial_carry(self, params: Params, batch_shape: tuple[int, ...] = ()) -> Carry:
        """First state, leaves [*batch_shape, H], in the dtype of the parameters."""
        ...

    def step(self, params: Params, carry: Carry, x: Array) -> Carry:
        """Next state from x [..., D] and a carry with leaves [..., H]."""
        ...

    def output(self, carry: Carry) -> Array:
        """What the outside sees of a carry, [..., H]."""
        ...


class RoutedCell(Cell, Protocol):
    """A cell that tells apart the ways by which the carry enters a step, for `gradflow.paths`."""

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the ways; the first is the direct path."""
        ...

    def step_by_route(self, params: Params, reads: dict[str, Carry], x: Array) -> Carry:
        """`step`, in which every route reads a carry of its own, `reads[route]`."""
        ...


class GatedCell(Cell, Protocol):
    """A cell that names its gates, for `gradflow.gates`."""

    def gates(self, params: Params, carry: Carry, x: Array) -> dict[str, Array]:
        """The gates of one step from the carry before it, name -> numbers from 0 to 1 [..., H]."""
        ...


@struct.dataclass
class Output:
    """What a model returns.

    Attributes:
      logits: before the head's squashing, [..., output_size] or [..., T, output_size]; losses read
        these.
      predictions: after it: probabilities for a sigmoid or softmax head, the logits for a linear
        one.
      carries: recurrence name -> its carries, every leaf [..., T, H]. A stack has a dict of layers
        there.
    """

    logits: Array
    predictions: Array
    carries: dict[str, Any]


class Model(NamedTuple):
    """A pair of pure functions over a plain dict of parameters, and what it was made from."""

    init: Callable[[Array], Params]
    apply: Callable[..., Output]  # (params, *inputs, taps=None, weight_taps=None, key=None)
    name: str = "Model"

    def __repr__(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        """Its arrays as a table, for a notebook."""
        return describe(self)._repr_html_()
