"""Recurrent language models: what comes next, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from seqlab.errors import InputError
from seqlab.linalg import product
from seqlab.models.layers import dropped
from seqlab.recurrence import init_stack, stack
from seqlab.types import Array, Carry, Cell, Model, Output, Params


@dataclass(frozen=True)
class Drop:
    """Probabilities with which a language model drops something while it is trained.

    Zaremba et al. (2014) drop at `inputs`, `between` and `outputs`, afresh at every step; Gal and
    Ghahramani (2016) keep one mask a sequence (`variational`) and drop whole `words` and units of h
    (`recurrent`); Merity et al. (2018) drop entries of the recurrent matrices (`weights`) instead
    of the last.

    Attributes:
      words: of a word of the vocabulary: its whole row of the embedding, once a batch.
      inputs: of a unit of the embedded inputs.
      between: of a unit of what a layer gives the layer above.
      outputs: of a unit of what the last layer gives the head.
      recurrent: of a unit of h on its way into its own layer's matrices, one mask a sequence.
      weights: of an entry of every `W_h`, once a batch.
      variational: one mask a sequence at `inputs`, `between` and `outputs`, not one a step.

    Raises:
      InputError: a rate that is no probability below 1.
    """

    words: float = 0.0
    inputs: float = 0.0
    between: float = 0.0
    outputs: float = 0.0
    recurrent: float = 0.0
    weights: float = 0.0
    variational: bool = False

    def __post_init__(self):
        """Raises `InputError` for a rate that is no probability below 1."""
        for name in ("words", "inputs", "between", "outputs", "recurrent", "weights"):
            rate = getattr(self, name)
            if not 0.0 <= rate < 1.0:
                raise InputError(f"drop {name} must be a probability below 1, got {rate}")


@struct.dataclass
class LanguageOutput(Output):
    """`Output`, and what the last layer gave.

    Attributes:
      ys: [..., T, H], before dropout.
      read: the same as the head reads it, [..., T, H], after dropout.
    """

    ys: Array
    read: Array


class LanguageModel(nnx.Module):
    """Embedding, layers, and the logits of the next token at every step.

        e_t = E[x_t],   h_t = layers(e_1 ... e_t),   logits_t = h_t W + b,   or h_t E^T + b if tied

    Args (of the class):
      cells: one a layer, of any kinds and sizes; a tied model's last has D units.
      vocab_size: V.
      embed_size: D, width of a token's embedding.
      tied: the head's matrix is the embedding's own (Press and Wolf, 2017; Inan et al., 2017).
      drop: what is dropped in training.

    Raises:
      InputError: a tied model whose last layer is not D wide; dropped weights of a cell without
        `W_h`; `between` with a single layer.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        vocab_size: int,
        embed_size: int,
        tied: bool = False,
        drop: Drop = Drop(),
        rngs: nnx.Rngs,
    ):
        cells = tuple(cells)
        width = cells[-1].hidden_size
        if tied and width != embed_size:
            raise InputError(
                f"tied: the last layer has {width} units, the embedding {embed_size}: they must be "
                "as wide"
            )
        if drop.between and len(cells) == 1:
            raise InputError("drop between acts between layers and there is one: add a layer")
        self.cells, self.drop, self.tied = cells, drop, tied
        dtype = jnp.result_type(float)
        # Unit variance of what the layers read, or, of a tied model, of the first logits.
        scale = embed_size**-0.5 if tied else 1.0
        entries = scale * jax.random.normal(rngs.params(), (vocab_size, embed_size), dtype)
        self.embed = nnx.Dict(embedding=nnx.Param(entries))
        weights = init_stack(cells, rngs.params(), embed_size)
        if drop.weights and not any(_is_recurrent(path) for path, _ in _leaves(weights)):
            raise InputError(f"drop weights is of W_h, and {cells[0]} has none")
        self.rnn = nnx.Dict(weights=nnx.data(jax.tree.map(nnx.Param, weights)))
        head: dict[str, Any] = {"bias": nnx.Param(jnp.zeros((vocab_size,), dtype))}
        if not tied:
            kernel = nnx.initializers.lecun_normal()(rngs.params(), (width, vocab_size), dtype)
            head["kernel"] = nnx.Param(kernel)
        self.head = nnx.Dict(**head)

    def __call__(
        self,
        xs: Array,
        mask: Array | None = None,
        *,
        carry: Carry | None = None,
        taps: dict[str, Any] | None = None,
        weight_taps: dict[str, Any] | None = None,
        key: Array | None = None,
        **loop,
    ) -> LanguageOutput:
        """Logits [..., T, V] of what follows each of xs [..., T], integers below V.

        Args:
          xs: tokens, or in their place their vectors, real [..., T, D].
          mask: [..., T] bool, True where real.
          carry: the state to go on from, by layer; None for a fresh one.
          taps, weight_taps: see `unroll`, under "rnn" and by layer.
          key: of the dropout masks; None drops nothing.
          **loop: `reset`, `truncate_every` and the rest of `unroll`.
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        drop, embedding = self.drop, self.embed["embedding"][...]
        with jax.named_scope("embed"):
            is_vectors = jnp.issubdtype(jnp.result_type(xs), jnp.inexact)
            es = xs if is_vectors else embedding[xs]
            if drop.words and not is_vectors:
                whole = _mask(keys[0], drop.words, (len(embedding), 1), es.dtype)
                es = es * whole[xs]
            es = self._dropped(es, drop.inputs, keys[1])
        weights = nnx.as_pure(self.rnn["weights"])
        if drop.weights and key is not None:
            weights = _drop_recurrent(weights, drop.weights, keys[2])
        with jax.named_scope("rnn"):
            rnn = stack(
                self.cells,
                weights,
                es,
                carry=carry,
                mask=mask,
                taps=(taps or {}).get("rnn"),
                weight_taps=(weight_taps or {}).get("rnn"),
                dropout=drop.between,
                variational=drop.variational,
                recurrent_dropout=drop.recurrent,
                key=keys[3],
                **loop,
            )
        with jax.named_scope("head"):
            read = self._dropped(rnn.ys, drop.outputs, keys[4])
            logits = product(read, embedding.T if self.tied else self.head["kernel"][...])
            logits = logits + jnp.broadcast_to(self.head["bias"][...], logits.shape)
        return LanguageOutput(logits, jax.nn.softmax(logits), {"rnn": rnn.carries}, rnn.ys, read)

    def _dropped(self, xs, rate, key):
        return dropped(xs, rate, key, per_sequence=self.drop.variational)


def uniform(key: Array, params: Params, limit: float) -> Params:
    """Every entry of `params` drawn anew from U[-limit, limit], biases too.

    References: Zaremba et al., 2014, section 4.1.
    """
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
        jax.random.uniform(k, leaf.shape, leaf.dtype, -limit, limit)
        for k, leaf in zip(keys, leaves, strict=True)
    )


def activation_penalty(output: LanguageOutput, mask: Array, ar: float, tar: float) -> Array:
    """ar mean (dropped h_t)^2 + tar mean (h_t - h_{t-1})^2 over real steps and units, a scalar.

    References: Merity et al., 2017 (AR and TAR), equations 1 and 2, as mean squares.
    """
    penalty = jnp.zeros((), output.ys.dtype)
    if ar:
        penalty += ar * _mean_square(output.read, mask)
    if tar and mask.shape[-1] > 1:
        steps = output.ys[..., 1:, :] - output.ys[..., :-1, :]
        penalty += tar * _mean_square(steps, mask[..., 1:] & mask[..., :-1])
    return penalty


def sample(
    model: Model,
    params: Params,
    prime: Array,
    num_tokens: int,
    key: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    banned: Sequence[int] = (),
    steps: np.ndarray | None = None,
) -> Array:
    """Tokens [..., num_tokens] that a model writes after `prime` [..., T], one compiled program.

    p(w) is proportional to exp(logit_w / temperature) over the words that are left: the `top_k`
    likeliest, and of these the fewest whose probability together reaches `top_p`. Of equally likely
    words the one of the smaller id is the likelier.

    Args:
      model: a functional `LanguageModel`.
      params: its parameters.
      prime: tokens to go on from, at least one; an end of sentence begins a new one.
      num_tokens: how many are written.
      key: random key; the same key, the same text.
      temperature: 0 takes the likeliest word always; 1 is the model's own distribution.
      top_k: None, or how many words are left.
      top_p: None, or the share of probability that is left (nucleus).
      banned: tokens that are never written, such as <pad>.
      steps: None, or of each state the state after each token, [S, V], -1 for what is not written
        there; the text begins in state 0. See `BytePairs.utf8_steps`.

    Raises:
      InputError: numbers out of range, or an empty prime.

    References: Fan et al., 2018 (top-k); Holtzman et al., 2020, section 3.1 (nucleus).
    """
    if num_tokens < 1:
        raise InputError(f"num_tokens must be 1 or more, got {num_tokens}")
    check_drawing(temperature, top_k, top_p)
    prime = jnp.asarray(prime)
    if not prime.shape or prime.shape[-1] == 0:
        raise InputError("the prime is empty: begin with an <eos> for a new sentence")

    def last(output):
        carry = jax.tree.map(lambda leaf: leaf[..., -1, :], output.carries["rnn"])
        return output.logits[..., -1, :], carry

    table = jnp.zeros((1, 1), jnp.int32) if steps is None else jnp.asarray(steps, jnp.int32)

    @jax.jit
    def write(params, prime, key):
        def turn(before, key):
            (logits, carry), state = before
            if steps is not None:
                logits = jnp.where(table[state] >= 0, logits, -jnp.inf)
            word = draw(
                logits, key, temperature=temperature, top_k=top_k, top_p=top_p, banned=banned
            )
            state = state if steps is None else table[state, word]
            return (last(model.apply(params, word[..., None], carry=carry)), state), word

        keys = jax.random.split(key, num_tokens)
        start = last(model.apply(params, prime)), jnp.zeros(prime.shape[:-1], jnp.int32)
        _, words = jax.lax.scan(turn, start, keys)
        return jnp.moveaxis(words, 0, -1)

    return write(params, prime, key)


def check_drawing(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises `InputError` for what cannot be drawn by."""
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be 1 or more, got {top_k}")
    if not 0.0 <= temperature < math.inf:
        raise InputError(f"temperature must be 0 or more, got {temperature}")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise InputError(f"top_p must be above 0 and at most 1, got {top_p}")


def draw(
    logits: Array,
    key: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    banned: Sequence[int] = (),
) -> Array:
    """One token of logits [..., V] by the rules of `sample`, [...]."""
    if banned:
        logits = logits.at[..., jnp.asarray(banned)].set(-jnp.inf)
    if temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits / temperature
    if top_k is not None or top_p is not None:
        order = jnp.argsort(-logits, axis=-1)  # stable: of equal ones the smaller id is first
        ordered = jnp.take_along_axis(logits, order, axis=-1)
        if top_k is not None:
            ordered = ordered.at[..., top_k:].set(-jnp.inf)
        if top_p is not None and top_p < 1.0:
            shares = jax.nn.softmax(ordered)
            before = jnp.cumsum(shares, axis=-1) - shares  # of all likelier words
            ordered = jnp.where(before < top_p, ordered, -jnp.inf)
        logits = jnp.take_along_axis(ordered, jnp.argsort(order, axis=-1), axis=-1)
    return jax.random.categorical(key, logits)


def _mean_square(values, mask):
    real = jnp.where(mask[..., None], jnp.square(values), 0.0)
    return jnp.sum(real) / (jnp.maximum(jnp.sum(mask), 1) * values.shape[-1])


def _mask(key, rate, shape, dtype):
    """1 / (1 - rate) where kept, 0 where dropped: one mask for all rows of a batch."""
    if key is None:
        return jnp.ones(shape, dtype)
    return jax.random.bernoulli(key, 1.0 - rate, shape).astype(dtype) / (1.0 - rate)


def _drop_recurrent(weights, rate, key):
    leaves, tree = jax.tree_util.tree_flatten_with_path(weights)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
        leaf * _mask(k, rate, leaf.shape, leaf.dtype) if _is_recurrent(path) else leaf
        for k, (path, leaf) in zip(keys, leaves, strict=True)
    )


def _leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _is_recurrent(path):
    return path[-1].key == "W_h"
