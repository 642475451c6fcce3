"""Weights from and to torch, Flax and Keras, without importing any of them.

The peers compute what our cells compute; they differ in how the weights lie.

    torch     gates i f g o, r z n    [G H, D]     two biases, summed
    Flax      gates i f g o, r z n    [D, G H]     one bias; GRU: none inside the reset
    Keras     gates i f c o, z r h    [D, G H]     one bias; GRU(reset_after=True): two
    seqlab    gates by name           G x [D, H]   one bias; GRU(reset="after"): b_h in n

In all three z multiplies the state, h' = z * h + (1 - z) * n. A GRU with `z_multiplies="candidate"`
is the same model with W^z and b^z negated, and is converted so. torch and Flax reset after the
matrix product, Keras either way; the two resets are different functions, and nothing here turns one
into the other. Where only the sum of two biases is felt we hold the sum; back in torch or Keras it
is the first (input) bias and the second is zero. States are not weights: torch has (h, c), Flax
(c, h), Keras [h, c]; an `LSTMCarry` names them.

`from_*` may be differentiated in the weights given: the gradient then lies as the peer's own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.types import Array, Cell, Params


def from_torch(
    cell: Cell,
    state: Mapping[str, Any],
    *,
    layer: int | None = 0,
    reverse: bool = False,
    prefix: str = "",
) -> Params:
    """Our parameters from one layer and direction of a torch `state_dict`.

    `nn.RNN` is an `RNN` with the activation of its `nonlinearity`; `nn.LSTM` an `LSTM`, whose b^f
    is the sum of both; `nn.GRU` a `GRU(reset="after", z_multiplies="state")`.

    Args:
      cell: ours, of a form that torch has.
      state: name -> tensor or array, anything that numpy can read.
      layer: which layer, or None for `nn.LSTMCell` and its kin, whose names end in no layer.
      reverse: the backward direction of that layer.
      prefix: what stands before the names, such as "encoder.rnn." in a larger module.

    Raises:
      ValueError: for a form that torch has not, a missing name or another shape.
    """
    gates, size = _gates(cell, "torch"), cell.hidden_size
    rows = len(gates) * size
    shapes = (rows, "D"), (rows, size), (rows,), (rows,)
    names = _torch_names(layer, reverse, prefix)
    W_ih, W_hh, b_ih, b_hh = (
        _take(state, (name,), shape) for name, shape in zip(names, shapes, strict=True)
    )
    return _split(cell, gates, W_ih.T, W_hh.T, b_ih, b_hh)


def to_torch(
    cell: Cell,
    params: Params,
    *,
    layer: int | None = 0,
    reverse: bool = False,
    prefix: str = "",
) -> dict[str, np.ndarray]:
    """One layer and direction of a torch `state_dict`; the reverse of `from_torch`.

    Raises:
      ValueError: for a form that torch has not.
    """
    W_x, W_h, b, b_h = _fuse(cell, params, _gates(cell, "torch"))
    names = _torch_names(layer, reverse, prefix)
    leaves = W_x.T, W_h.T, b, b_h  # as writable copies, for `torch.from_numpy`
    return {name: np.array(leaf) for name, leaf in zip(names, leaves, strict=True)}


def stack_from_torch(
    cells: Sequence[Cell],
    state: Mapping[str, Any],
    *,
    bidirectional: bool = False,
    prefix: str = "",
) -> Params:
    """Parameters of `seqlab.recurrence.stack` from a torch `state_dict`; see `from_torch`.

    Raises:
      ValueError: as `from_torch`, and for weights in `state` that such a stack would leave unread.
    """
    params, names = {}, set()
    for index, cell in enumerate(cells):
        own = {}
        for direction in _directions(bidirectional):
            where = {"layer": index, "reverse": direction == "backward", "prefix": prefix}
            own[direction] = from_torch(cell, state, **where)
            names.update(_torch_names(**where))
        params[f"layer_{index}"] = own if bidirectional else own["forward"]
    weight = re.compile(re.escape(prefix) + r"(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?")
    unread = [name for name in state if weight.fullmatch(name) and name not in names]
    if unread:
        raise ValueError(
            f"{len(cells)} layers with bidirectional={bidirectional} leave unread: "
            f"{', '.join(unread)}"
        )
    return params


def stack_to_torch(
    cells: Sequence[Cell], params: Params, *, bidirectional: bool = False, prefix: str = ""
) -> dict[str, np.ndarray]:
    """The `state_dict` of a torch module from parameters of `stack`; see `to_torch`.

    Raises:
      ValueError: as `to_torch`.
    """
    state = {}
    for index, cell in enumerate(cells):
        layer = params[f"layer_{index}"]
        for direction in _directions(bidirectional):
            own = layer[direction] if bidirectional else layer
            where = {"layer": index, "reverse": direction == "backward", "prefix": prefix}
            state |= to_torch(cell, own, **where)
    return state


def from_flax(cell: Cell, state: Mapping[str, Any]) -> Params:
    """Our parameters from `nnx.to_pure_dict(nnx.state(flax_cell))`.

    `nnx.SimpleCell` is an `RNN` with the activation of its `activation_fn` (no `residual`);
    `nnx.LSTMCell` and `nnx.OptimizedLSTMCell` are an `LSTM`, the bias beside W_h; `nnx.GRUCell` is
    a `GRU(reset="after", z_multiplies="state")`, the bias beside W_x and b_h = 0.

    Args:
      cell: ours, of a form that Flax has; its one `activation_fn` serves an `LSTM` in both places.
      state: nested dict of arrays, without the module's random streams.

    Raises:
      ValueError: for a form that Flax has not, a missing name or another shape.
    """
    gates, size = _gates(cell, "Flax"), cell.hidden_size
    inputs, hiddens, width = ["dense_i"], ["dense_h"], len(gates) * size
    if isinstance(cell, LSTM) and "dense_i" not in state:  # one matrix for each gate
        inputs, hiddens, width = [*map(_flax_input, gates)], [f"h{gate}" for gate in gates], size
    biased = hiddens if isinstance(cell, LSTM) else inputs
    W_x = _beside(state, [(name, "kernel") for name in inputs], ("D", width))
    W_h = _beside(state, [(name, "kernel") for name in hiddens], (size, width))
    b = _beside(state, [(name, "bias") for name in biased], (width,))
    return _split(cell, gates, W_x, W_h, b, jnp.zeros_like(b))


def to_flax(cell: Cell, params: Params, *, optimized: bool = False) -> dict[str, dict[str, Array]]:
    """State for `nnx.update(flax_cell, state)`; the reverse of `from_flax`.

    Args:
      cell: as in `from_flax`.
      params: ours.
      optimized: lay an `LSTM` out for `nnx.OptimizedLSTMCell` rather than `nnx.LSTMCell`.

    Raises:
      ValueError: as `from_flax`, and for a GRU whose b_h is not zero.
    """
    gates = _gates(cell, "Flax")
    W_x, W_h, b, b_h = _fuse(cell, params, gates)
    if np.any(b_h):
        raise ValueError(f"{cell}: n.b_h is not zero, and nnx.GRUCell has no such bias")
    if isinstance(cell, LSTM) and not optimized:
        parts = (jnp.split(leaf, len(gates), axis=-1) for leaf in (W_x, W_h, b))
        state = {}
        for gate, W_x, W_h, b in zip(gates, *parts, strict=True):
            state[_flax_input(gate)] = {"kernel": W_x}
            state[f"h{gate}"] = {"kernel": W_h, "bias": b}
        return state
    state = {"dense_i": {"kernel": W_x}, "dense_h": {"kernel": W_h}}
    state["dense_h" if isinstance(cell, LSTM) else "dense_i"]["bias"] = b
    return state


def from_keras(cell: Cell, weights: Mapping[str, Any]) -> Params:
    """Our parameters from a Keras layer's `kernel`, `recurrent_kernel` and `bias`.

    `SimpleRNN` is an `RNN`, `LSTM` an `LSTM`; `GRU` is a `GRU(reset="after", z_multiplies="state")`
    with a bias [2, 3 H], input first, or with `reset_after=False` one with `reset="before"`, [3 H].

    Args:
      cell: ours, of a form that Keras has; its one `activation` serves an `LSTM` in both places.
      weights: those three names -> the arrays that `layer.get_weights()` gives in this order.

    Raises:
      ValueError: for a form that Keras has not, a missing name or another shape.
    """
    gates, size = _gates(cell, "Keras"), cell.hidden_size
    width = len(gates) * size
    W_x = _take(weights, ("kernel",), ("D", width))
    W_h = _take(weights, ("recurrent_kernel",), (size, width))
    if _resets_after(cell):
        b, b_h = _take(weights, ("bias",), (2, width))
    else:
        b = _take(weights, ("bias",), (width,))
        b_h = jnp.zeros_like(b)
    return _split(cell, gates, W_x, W_h, b, b_h)


def to_keras(cell: Cell, params: Params) -> dict[str, np.ndarray]:
    """Keras's `kernel`, `recurrent_kernel` and `bias`; the reverse of `from_keras`.

    Raises:
      ValueError: for a form that Keras has not.
    """
    W_x, W_h, b, b_h = _fuse(cell, params, _gates(cell, "Keras"))
    bias = jnp.stack([b, b_h]) if _resets_after(cell) else b
    return {
        "kernel": np.array(W_x),
        "recurrent_kernel": np.array(W_h),
        "bias": np.array(bias),
    }


def _gates(cell: Cell, peer: str) -> tuple[str, ...]:
    """Our names of the gates in the order of `peer`; `ValueError` where it has no such cell."""
    if isinstance(cell, RNN):
        gates = ("",)  # one affine map, without a name
        forms = {"activation": ("tanh", "relu")} if peer == "torch" else {}
    elif isinstance(cell, LSTM):
        gates = ("i", "f", "g", "o")
        forms = dict.fromkeys(("input_gate", "forget_gate", "output_gate"), (None,))
        forms |= dict.fromkeys(("coupled", "peepholes", "gate_recurrence"), (False,))
        activation = "tanh" if peer == "torch" else cell.input_activation
        forms |= dict.fromkeys(("input_activation", "output_activation"), (activation,))
    elif isinstance(cell, GRU):
        gates = ("z", "r", "n") if peer == "Keras" else ("r", "z", "n")
        forms = {} if peer == "Keras" else {"reset": ("after",)}
    else:
        raise ValueError(f"{cell}: only RNN, LSTM and GRU have a counterpart in {peer}")
    for field, allowed in forms.items():
        if getattr(cell, field) not in allowed:
            raise ValueError(
                f"{type(cell).__name__}({field}={getattr(cell, field)!r}) has no counterpart in "
                f"{peer}, only {field}={' or '.join(map(repr, allowed))}"
            )
    return gates


def _resets_after(cell: Cell) -> bool:
    return isinstance(cell, GRU) and cell.reset == "after"


def _split(
    cell: Cell, gates: Sequence[str], W_x: Array, W_h: Array, b: Array, b_h: Array
) -> Params:
    """Our parameters from gates side by side: W_x [D, G H], W_h [H, G H], b and b_h [G H]."""
    parts = (jnp.split(leaf, len(gates), axis=-1) for leaf in (W_x, W_h, b, b_h))
    params = {}
    for gate, W_x, W_h, b, b_h in zip(gates, *parts, strict=True):
        if gate == "n" and _resets_after(cell):
            params[gate] = {"W_x": W_x, "W_h": W_h, "b": b, "b_h": b_h}
        else:
            params[gate] = {"W_x": W_x, "W_h": W_h, "b": b + b_h}
    return params[""] if isinstance(cell, RNN) else _turn_z(cell, params)


def _fuse(cell: Cell, params: Params, gates: Sequence[str]) -> tuple[Array, Array, Array, Array]:
    """Gates side by side, W_x [D, G H], W_h [H, G H], b and b_h [G H]; the reverse of `_split`."""
    size = cell.hidden_size
    named = {"": params} if isinstance(cell, RNN) else _turn_z(cell, params)

    def beside(leaf, shape):
        return _beside(named, [(gate, leaf) for gate in gates], shape)

    W_x, W_h, b = beside("W_x", ("D", size)), beside("W_h", (size, size)), beside("b", (size,))
    b_h = jnp.zeros_like(b)
    if _resets_after(cell):  # the candidate is the last gate of every peer
        b_h = b_h.at[-size:].set(_take(named, ("n", "b_h"), (size,)))
    return W_x, W_h, b, b_h


def _turn_z(cell: Cell, params: Params) -> Params:
    """The parameters with z on the other side, if it multiplies the candidate; its own inverse."""
    if not (isinstance(cell, GRU) and cell.z_multiplies == "candidate"):
        return params
    return {
        gate: jax.tree.map(jnp.negative, own) if gate == "z" else own
        for gate, own in params.items()
    }


def _beside(tree: Mapping[str, Any], paths: Iterable[tuple[str, ...]], shape: tuple) -> Array:
    """The arrays at `paths`, all of one shape, joined along the last axis."""
    leaves = []
    for path in paths:
        leaves.append(_take(tree, path, shape))
        shape = leaves[-1].shape
    return jnp.concatenate(leaves, axis=-1)


def _take(tree: Mapping[str, Any], path: tuple[str, ...], shape: tuple) -> Array:
    """The array at `path`; "D" in `shape` stands for any size."""
    name, found = ".".join(filter(None, path)), tree
    for key in path:
        if key not in found:
            raise ValueError(f"no {name!r} among the weights; there are: {', '.join(found)}")
        found = found[key]
    leaf = jnp.asarray(found if isinstance(found, jax.Array) else np.asarray(found))
    sizes = zip(shape, leaf.shape, strict=False)
    if leaf.ndim != len(shape) or any(want not in ("D", have) for want, have in sizes):
        expected = str(shape).replace("'", "")  # (16, D)
        raise ValueError(f"{name} has shape {leaf.shape}, expected {expected}")
    return leaf


def _torch_names(layer: int | None, reverse: bool, prefix: str) -> tuple[str, ...]:
    suffix = ("" if layer is None else f"_l{layer}") + ("_reverse" if reverse else "")
    return tuple(
        f"{prefix}{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )


def _flax_input(gate: str) -> str:
    return "if_" if gate == "f" else f"i{gate}"  # `if` is a word of Python


def _directions(both: bool) -> tuple[str, ...]:
    return ("forward", "backward") if both else ("forward",)
