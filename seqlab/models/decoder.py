"""The decoder of an encoder-decoder: its memory of the source, its state, its step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from seqlab.cells.affine import project, spread
from seqlab.linalg import product
from seqlab.models.attention import Attention, attended
from seqlab.types import Array, Carry, Cell, Params


@struct.dataclass
class Memory:
    """What a decoder reads of a source, the same at all of its steps.

    Attributes:
      values: [..., S, M], the encoder's outputs, zero where masked.
      keys: [..., S, A], what queries are held against; see `Attention.keys`.
      mask: [..., S], 1 where a step of the source is real, 0 elsewhere.
      last: [..., M], the encoder's output after the last real step.
    """

    values: Array
    keys: Array
    mask: Array
    last: Array


@struct.dataclass
class DecoderCarry:
    """State of a decoder.

    Attributes:
      layers: layer name -> carry of its cell.
      read: what was read of the source at this step: the context of a query by the previous state,
        or the attentional state that is fed on, [..., M] or [..., R]; None where neither is needed.
      said: the embedding of the token that was said, [..., D]; None in teacher forcing.
    """

    layers: dict[str, Carry]
    read: Any
    said: Any


@dataclass(frozen=True)
class DecoderCell:
    """One step of a decoder, as a cell: its memory of the source is among its parameters.

    Read at step t, with e_t the embedding of the token before:

        context="state"      s_t = cell(s_{t-1}, e_t),         r_t = s_t
        context="every"      s_t = cell(s_{t-1}, [e_t; c]),    r_t = tanh(W_r [s_t; c; e_t] + b)
        query="previous"     c_t = look(s_{t-1}),
                             s_t = cell(s_{t-1}, [e_t; c_t]),  r_t = tanh(W_r [s_t; c_t; e_t] + b)
        query="current"      s_t = cell(s_{t-1}, e_t),
                             c_t = look(s_t),                  r_t = tanh(W_r [s_t; c_t] + b)
        with input feeding   s_t = cell(s_{t-1}, [e_t; r_{t-1}]) and as above

    The logits are W r_t + b. `x` [..., D + ...] is e_t, behind it the dropout masks of what the
    layers give to those above, and, where predictions are fed back, 1 for the truth and 0 for them.
    """

    cells: tuple[Cell, ...]
    embed_size: int
    context: str
    attention: Attention | None = None
    query: str = "previous"
    input_feeding: bool = False
    feeds_back: bool = False

    @property
    def hidden_size(self) -> int:
        """Width of the last layer."""
        return self.cells[-1].hidden_size

    @property
    def looks_back(self) -> bool:
        """Whether a step needs more of the step before than its layers' carries."""
        return self.feeds_back or self.input_feeding or self._is_before

    @property
    def _is_before(self) -> bool:
        return self.context == "attention" and self.query == "previous"

    def init(self, key, input_size):
        """Not to be called: raises `NotImplementedError`."""
        raise NotImplementedError("its parameters are those of the model around it")

    def initial_carry(self, params: Params, batch_shape: tuple[int, ...] = ()) -> DecoderCarry:
        """All zeros but for what the layers' own cells begin with."""
        layers = {
            f"layer_{i}": cell.initial_carry(params["layers"][f"layer_{i}"], batch_shape)
            for i, cell in enumerate(self.cells)
        }
        return self.carry_of(params, layers)

    def carry_of(self, params: Params, layers: dict[str, Carry]) -> DecoderCarry:
        """A carry of these layers that has read nothing yet."""
        top, width = self.top(layers), None
        if self._is_before:
            width = params["memory"].values.shape[-1]
        elif self.input_feeding:
            width = params["readout"]["kernel"].shape[1]

        def zeros(width):
            return None if width is None else jnp.zeros((*top.shape[:-1], width), top.dtype)

        return DecoderCarry(
            layers, zeros(width), zeros(self.embed_size if self.feeds_back else None)
        )

    def step(self, params: Params, carry: DecoderCarry, x: Array) -> DecoderCarry:
        """The next state; see the class."""
        begin = self.embed_size
        has_masks = x.shape[-1] - self.feeds_back > begin
        e = x[..., :begin]
        if self.feeds_back:
            e = jnp.where(x[..., -1:] > 0, e, carry.said)
        read = carry.read
        xs = e
        if self._is_before:
            read = self.look(params, self.top(carry.layers))[0]
            xs = jnp.concatenate([e, read], axis=-1)
        elif self.input_feeding:
            xs = jnp.concatenate([e, carry.read], axis=-1)
        elif self.context == "every":
            xs = jnp.concatenate([e, over_rows(params["memory"].last, e)], axis=-1)
        layers = {}
        for i, cell in enumerate(self.cells):
            name = f"layer_{i}"
            layers[name] = cell.step(params["layers"][name], carry.layers[name], xs)
            xs = cell.output(layers[name])
            if has_masks and i + 1 < len(self.cells):
                xs = xs * x[..., begin : begin + cell.hidden_size]
                begin += cell.hidden_size
        said = carry.said
        if self.input_feeding or self.feeds_back:
            context = read
            if self.context == "attention" and not self._is_before:
                context = self.look(params, xs)[0]
            features = self.readout(params, xs, context, e)
            read = features if self.input_feeding else read
            if self.feeds_back:
                words = jnp.argmax(head(params, features), axis=-1)
                said = jax.lax.stop_gradient(params["embedding"][words])
        return DecoderCarry(layers, read, said)

    def output(self, carry: DecoderCarry) -> Array:
        """Of the last layer."""
        return self.top(carry.layers)

    def top(self, layers: dict[str, Carry]) -> Array:
        """Output of the last layer."""
        return self.cells[-1].output(layers[f"layer_{len(self.cells) - 1}"])

    def look(self, params: Params, queries: Array) -> tuple[Array, Array]:
        """Contexts [..., Q, M] and weights [..., Q, S] of queries [..., Q, H]; of one, [..., H]."""
        assert self.attention is not None
        memory = params["memory"]
        is_one = queries.ndim < memory.keys.ndim
        if is_one:
            queries = queries[..., None, :]
        mask = memory.mask > 0.5
        weights = self.attention.weights(params["attention"], queries, memory.keys, mask)
        context = attended(weights, memory.values)
        return (context[..., 0, :], weights[..., 0, :]) if is_one else (context, weights)

    def readout(self, params: Params, tops: Array, contexts: Array | None, es: Array) -> Array:
        """r_t of the class, which the head reads, from what stands in its equation."""
        if self.context == "state":
            return tops
        if self.context == "every":
            contexts = over_rows(params["memory"].last, tops)
        assert contexts is not None
        parts = [tops, contexts]
        if self.context == "every" or self.query == "previous":
            parts.append(es)
        return jnp.tanh(dense(params["readout"], jnp.concatenate(parts, axis=-1)))


def over_rows(vectors: Array, like: Array) -> Array:
    """`vectors` [..., M] for each row of `like` [..., D], or [..., K, D]: for K rows alike."""
    if vectors.ndim < like.ndim:
        vectors = vectors[..., None, :]
    return jnp.broadcast_to(vectors, (*like.shape[:-1], vectors.shape[-1]))


def dense(params: Params, xs: Array) -> Array:
    """xs W + b, [..., O], of xs [..., I] and a layer's `{"kernel", "bias"}`."""
    return project(xs, params["kernel"], "what is read") + spread(params["bias"], xs)


def head(params: Params, features: Array) -> Array:
    """Logits [..., V] of what the head reads; tied to the embedding where it has no own matrix."""
    own = params["head"]
    kernel = own["kernel"] if "kernel" in own else params["embedding"].T
    logits = product(features, kernel)
    return logits + jnp.broadcast_to(own["bias"], logits.shape)
