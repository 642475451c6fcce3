"""The task shapes with one recurrence: many-to-one, many-to-many aligned, one-to-many."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from seqlab.errors import InputError
from seqlab.models.attention import SCORES, AttentionPooling
from seqlab.models.layers import HEADS, check_known, check_rate, dropped, embed, linear, pool
from seqlab.recurrence import Unrolled, init_stack, stack, unroll
from seqlab.types import Array, Carry, Cell, Output

POOLINGS = ("last", "mean", "max", "attention")


class Recurrent(nnx.Module):
    """Owns the parameters of one cell, or of layers of it, and walks sequences with `unroll`.

    Attributes:
      cell: the cell.
      weights: its parameters; of a stack or of two directions, by layer and direction.
      output_size: width of what it gives, H, or 2H with two directions.

    Raises:
      InputError: no layer, or dropout between layers where there is one.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        recurrent_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if num_layers < 1:
            raise InputError(f"num_layers={num_layers}, expected 1 or more")
        if dropout and num_layers == 1:
            raise InputError(
                f"dropout={dropout} acts between layers and there is one; "
                "add a layer or use recurrent_dropout"
            )
        self.cell = cell
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.is_plain = num_layers == 1 and not bidirectional and not recurrent_dropout
        self.drop = {
            "dropout": dropout,
            "variational": variational,
            "recurrent_dropout": recurrent_dropout,
        }
        self.output_size = cell.hidden_size * (2 if bidirectional else 1)
        if self.is_plain:
            weights = cell.init(rngs.params(), input_size)
        else:
            weights = init_stack(
                [cell] * num_layers, rngs.params(), input_size, bidirectional=bidirectional
            )
        self.weights = nnx.data(jax.tree.map(nnx.Param, weights))

    def __call__(self, xs: Array, *, key: Array | None = None, **loop) -> Unrolled:
        """Walks `xs` [..., T, D]; `key` draws the dropout masks, the rest goes to `unroll`."""
        weights = nnx.as_pure(self.weights)
        if self.is_plain:
            return unroll(self.cell, weights, xs, **loop)
        return stack(
            [self.cell] * self.num_layers,
            weights,
            xs,
            bidirectional=self.bidirectional,
            key=key,
            **self.drop,
            **loop,
        )

    def last(self, carry: Carry) -> Array:
        """Output of the last layer after each row's last real step, [..., output_size]."""
        if self.is_plain:
            return self.cell.output(carry)
        top = carry[f"layer_{self.num_layers - 1}"]
        if not self.bidirectional:
            return self.cell.output(top)
        return jnp.concatenate([self.cell.output(top[d]) for d in ("forward", "backward")], axis=-1)


@struct.dataclass
class AttentionOutput(Output):
    """`Output`, and what attention pooling read.

    Attributes:
      attention: [..., T], each step's weight: 0 where masked, of sum 1 over a row's real steps.
    """

    attention: Array


class _SequenceReader(nnx.Module):
    """Embeds tokens if there is a vocabulary, then walks; what both many-to models share."""

    def __init__(
        self,
        cell: Cell,
        *,
        input_size: int,
        output_size: int,
        head: str = "linear",
        vocab_size: int | None = None,
        drop_inputs: float = 0.0,
        drop_features: float = 0.0,
        rngs: nnx.Rngs,
        **layers: Any,
    ):
        check_known("head", head, HEADS)
        check_rate("drop_inputs", drop_inputs)
        check_rate("drop_features", drop_features)
        self.head_kind = head
        self.drop_inputs, self.drop_features = drop_inputs, drop_features
        self.has_vocabulary = vocab_size is not None
        if vocab_size is not None:
            # Entries of unit variance, so that pre-activations begin with unit variance too.
            self.embed = nnx.Embed(
                vocab_size,
                input_size,
                embedding_init=nnx.initializers.normal(1.0),
                param_dtype=jnp.result_type(float),
                rngs=rngs,
            )
        self.rnn = Recurrent(cell, input_size, rngs=rngs, **layers)
        self.head = linear(self.rnn.output_size, output_size, rngs)

    def keys(self, key):
        """Of what is dropped of the inputs, between and inside layers, and of the features."""
        if key is None or not (self.drop_inputs or self.drop_features):
            return None, key, None  # the layers draw what they draw in a model of layers alone
        return jax.random.split(key, 3)

    def walk(self, xs, mask, taps, weight_taps, key_inputs, key, **loop):
        if self.has_vocabulary:
            xs = embed(self.embed, xs)
        xs = dropped(xs, self.drop_inputs, key_inputs, per_sequence=self.rnn.drop["variational"])
        with jax.named_scope("rnn"):
            return self.rnn(
                xs,
                mask=mask,
                taps=(taps or {}).get("rnn"),
                weight_taps=(weight_taps or {}).get("rnn"),
                key=key,
                **loop,
            )

    def answer(self, features, carries, key):
        with jax.named_scope("head"):
            logits = self.head(dropped(features, self.drop_features, key))
            return Output(logits, HEADS[self.head_kind](logits), {"rnn": carries})


class ManyToOne(_SequenceReader):
    """Reads a sequence, answers once: y = head(W pool(h_1 ... h_T) + b).

    Args (of the class):
      cell: the recurrent cell.
      input_size: D, features of a step; the width of the embedding where there is a vocabulary.
      output_size: width of the answer.
      head: what turns logits into predictions: "linear", "sigmoid" (two classes) or "softmax".
      vocab_size: None for real inputs [..., T, D], or V for tokens [..., T] of integers below V,
        in whose place their vectors [..., T, D] are read as well.
      pooling: "last" real step, or "mean", "max" or "attention" over real steps; all zeros for a
        row without one, but "last", which is then the output of its first state. With two
        directions the "last" step of the backward one is the first of the sequence.
      scores: "additive" or "dot", of attention pooling; see `models.attention`.
      drop_inputs: probability with which a unit of what the first layer reads is dropped.
      drop_features: of a unit of what the head reads.
      num_layers, bidirectional, dropout, variational, recurrent_dropout: of the layers, see
        `seqlab.recurrence.stack`; `variational` holds for `drop_inputs` too.

    Raises:
      InputError: an option that is none, or a rate that is no probability below 1.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        pooling: str = "last",
        scores: str = "additive",
        rngs: nnx.Rngs,
        **reader: Any,
    ):
        check_known("pooling", pooling, POOLINGS)
        check_known("scores", scores, SCORES)
        self.pooling = pooling
        super().__init__(cell, rngs=rngs, **reader)
        if pooling == "attention":
            self.attention = AttentionPooling(self.rnn.output_size, scores=scores, rngs=rngs)

    def __call__(self, xs, mask=None, *, taps=None, weight_taps=None, key=None, **loop) -> Output:
        """Output with logits [..., output_size]; `mask` [..., T] is True where real.

        Attention pooling gives an `AttentionOutput`.
        """
        key_inputs, key_layers, key_features = self.keys(key)
        rnn = self.walk(xs, mask, taps, weight_taps, key_inputs, key_layers, **loop)
        if self.pooling == "attention":
            with jax.named_scope("attention"):
                features, weights = self.attention(rnn.ys, mask)
            answer = self.answer(features, rnn.carries, key_features)
            return AttentionOutput(answer.logits, answer.predictions, answer.carries, weights)
        if self.pooling == "last":
            features = self.rnn.last(rnn.carry)
        else:
            features = pool(rnn.ys, mask, self.pooling)
        return self.answer(features, rnn.carries, key_features)


class ManyToMany(_SequenceReader):
    """Reads a sequence, answers at every step: y_t = head(W h_t + b), aligned with x_t.

    The arguments are those of `ManyToOne`, without pooling and its scores.
    """

    def __call__(self, xs, mask=None, *, taps=None, weight_taps=None, key=None, **loop) -> Output:
        """Output with logits [..., T, output_size]; at masked steps they are those of h = 0."""
        key_inputs, key_layers, key_features = self.keys(key)
        rnn = self.walk(xs, mask, taps, weight_taps, key_inputs, key_layers, **loop)
        return self.answer(rnn.ys, rnn.carries, key_features)


class OneToMany(nnx.Module):
    """Reads one vector, writes a sequence: y_t = head(W h_t + b).

    The vector enters at the first step (zeros after) or at every step. With `feedback` the
    prediction of a step is part of the next input, zeros at the first; given the true sequence as
    `previous`, its own past is fed instead (teacher forcing), by the same weights.

    Args (of the class):
      cell: the recurrent cell.
      input_size: D, width of the vector.
      output_size: width of each answer.
      head: "linear", "sigmoid" or "softmax".
      feed: "first" or "every".
      feedback: whether predictions are fed back.

    Raises:
      InputError: an unknown head or feed.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        input_size: int,
        output_size: int,
        head: str = "linear",
        feed: str = "first",
        feedback: bool = False,
        rngs: nnx.Rngs,
    ):
        check_known("head", head, HEADS)
        check_known("feed", feed, ("first", "every"))
        self.head_kind, self.feed, self.feedback = head, feed, feedback
        self.output_size = output_size
        self.rnn = Recurrent(cell, input_size + (output_size if feedback else 0), rngs=rngs)
        self.head = linear(cell.hidden_size, output_size, rngs)

    def __call__(
        self, x, num_steps: int, *, previous=None, taps=None, weight_taps=None, key=None, **loop
    ) -> Output:
        """Output with logits [..., num_steps, output_size] from x [..., D].

        Nothing here is random: `key` is there to be called like the others.

        Args:
          x: the vector.
          num_steps: T, how many answers to write.
          previous: None, or [..., T, output_size], the true sequence; step t is fed its entry t -
            1.
          taps, weight_taps: see `unroll`; with predictions fed back, the carry is `FeedbackCarry`.
          **loop: the rest of `unroll`.

        Raises:
          ValueError: no step to write, or `previous` without `feedback`.
        """
        del key
        if num_steps < 1:
            raise ValueError(f"OneToMany: num_steps={num_steps}, expected 1 or more")
        if previous is not None and not self.feedback:
            raise ValueError("OneToMany: `previous` is read only with feedback=True")
        xs = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], num_steps, x.shape[-1]))
        if self.feed == "first":
            xs = xs.at[..., 1:, :].set(0.0)
        cell, weights = self.rnn.cell, nnx.as_pure(self.rnn.weights)
        loop["taps"] = (taps or {}).get("rnn")
        loop["weight_taps"] = (weight_taps or {}).get("rnn")
        if self.feedback and previous is None:
            cell = _Feedback(cell, self.output_size, self.head_kind)
            weights = {"cell": weights, "head": nnx.to_pure_dict(nnx.state(self.head))}
        elif previous is not None:
            past = jnp.zeros_like(previous).at[..., 1:, :].set(previous[..., :-1, :])
            xs = jnp.concatenate([xs, past], axis=-1)
        with jax.named_scope("rnn"):
            rnn = unroll(cell, weights, xs, **loop)
        logits = self.head(rnn.ys)
        return Output(logits, HEADS[self.head_kind](logits), {"rnn": rnn.carries})


@struct.dataclass
class FeedbackCarry:
    """State of a cell that is fed its own predictions."""

    inner: Carry  # of the cell
    said: Array  # [..., output_size] the prediction of the last step; zeros before the first


@dataclass(frozen=True)
class _Feedback:
    """A cell whose input is joined by its last prediction, so that the loop stays the one loop."""

    cell: Cell
    output_size: int
    head: str

    @property
    def hidden_size(self):
        return self.cell.hidden_size

    def init(self, key, input_size):
        raise NotImplementedError("its parameters are those of the model around it")

    def initial_carry(self, params, batch_shape=()):
        inner = self.cell.initial_carry(params["cell"], batch_shape)
        dtype = params["head"]["bias"].dtype
        return FeedbackCarry(inner, jnp.zeros((*batch_shape, self.output_size), dtype))

    def step(self, params, carry, x):
        inner = self.cell.step(
            params["cell"], carry.inner, jnp.concatenate([x, carry.said], axis=-1)
        )
        logits = self.cell.output(inner) @ params["head"]["kernel"]
        logits = logits + jnp.broadcast_to(params["head"]["bias"], logits.shape)
        return FeedbackCarry(inner, HEADS[self.head](logits))

    def output(self, carry):
        return self.cell.output(carry.inner)
