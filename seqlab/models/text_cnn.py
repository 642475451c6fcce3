"""One convolution over a sentence, its maximum over time, one answer."""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from flax import nnx

from seqlab.errors import InputError
from seqlab.linalg import product
from seqlab.models.layers import HEADS, check_known, check_rate, dropped, embed, linear, pool
from seqlab.types import Array, Output

EMBEDDING_RANGE = 0.25  # of Kim's code for words without a vector


class TextCNN(nnx.Module):
    """Reads a sentence through filters of several widths, answers once.

        c_s = w . x_{s:s+h} + b,    z = ReLU(max over s of c_s),    y = head(W dropout(z) + b)

    with a z of each of the M filters, whose w is [h, D]. Beyond both ends of the sentence a filter
    sees zeros; every window counts that holds a token, so a sentence of n has n + h - 1 of them,
    and one shorter than the widest filter is read like any other. (Kim's code pads with widest - 1
    zeros before the sentence and more behind, and its windows of zeros alone take part in the
    maximum, with b; here they do not.) A sentence without a token has the features ReLU(b).

    Masked steps are cut out before anything is read: padding may stand anywhere.

    Kim's CNN-rand is this model as it begins; his CNN-static, non-static and multichannel are made
    by `embeddings.pretrained.with_vectors`. With `multichannel` there are two tables, "embed" and
    "static", side by side; a filter has weights of its own for each.

    Args (of the class):
      input_size: D, features of a step; the width of the embedding where there is a vocabulary.
      output_size: width of the answer.
      vocab_size: None for real inputs [..., T, D], or V for tokens [..., T] of integers below V, in
        whose place their vectors [..., T, D] are read as well ([..., T, 2D] of two channels).
      widths: h, steps that a filter sees, one or more.
      num_maps: filters of each width.
      drop_features: probability with which a feature is dropped on its way to the head.
      multichannel: two tables of embeddings rather than one.
      head: what turns logits into predictions: "linear", "sigmoid" (two classes) or "softmax".

    Raises:
      InputError: sizes that cannot be, an unknown head, a rate that is no probability below 1, or
        two channels without a vocabulary.

    References: Kim, 2014, section 2, equations 2 to 5, and `conv_net_sentence.py` of his code; the
    norm of the head's columns is held by `train.max_norm`.
    """

    def __init__(
        self,
        *,
        input_size: int,
        output_size: int,
        vocab_size: int | None = None,
        widths: Sequence[int] = (3, 4, 5),
        num_maps: int = 100,
        drop_features: float = 0.5,
        multichannel: bool = False,
        head: str = "softmax",
        rngs: nnx.Rngs,
    ):
        check_known("head", head, HEADS)
        check_rate("drop_features", drop_features)
        if not widths or min(widths) < 1 or len(set(widths)) < len(widths):
            raise InputError(f"widths={tuple(widths)}: expected different ones of 1 step or more")
        if num_maps < 1:
            raise InputError(f"num_maps={num_maps}, expected 1 or more")
        if multichannel and vocab_size is None:
            raise InputError("multichannel has two tables of embeddings: give a vocab_size")
        self.widths, self.num_maps = tuple(widths), num_maps
        self.drop_features, self.head_kind = drop_features, head
        self.tables = ("embed", "static") if multichannel else ("embed",)
        self.has_vocabulary = vocab_size is not None
        if vocab_size is not None:
            for name in self.tables:
                setattr(self, name, _table(vocab_size, input_size, rngs))
        self.input_size = input_size * len(self.tables)
        self.filters = nnx.Dict(
            {f"width_{h}": _filters(h, self.input_size, num_maps, rngs) for h in self.widths}
        )
        self.head = linear(num_maps * len(self.widths), output_size, rngs)

    def __call__(
        self,
        xs: Array,
        mask: Array | None = None,
        *,
        taps: dict | None = None,
        weight_taps: dict | None = None,
        key: Array | None = None,
    ) -> Output:
        """Output with logits [..., output_size], and no carries.

        Args:
          xs: tokens [..., T], or vectors [..., T, D].
          mask: [..., T] bool, True where real.
          taps, weight_taps: there to be called like the others; nothing here recurs.
          key: of the dropout mask; None drops nothing (evaluation).

        Raises:
          ValueError: no steps, vectors of another width, or a mask of another shape or dtype.
        """
        del taps, weight_taps
        xs = jnp.asarray(xs)
        is_vectors = jnp.issubdtype(xs.dtype, jnp.inexact)
        shape = xs.shape[:-1] if is_vectors else xs.shape
        if not (is_vectors or self.has_vocabulary):
            raise ValueError(f"TextCNN: xs are {xs.dtype} tokens, and there is no vocab_size")
        if not shape or 0 in shape or (is_vectors and xs.shape[-1] != self.input_size):
            raise ValueError(
                f"TextCNN: xs has shape {xs.shape}, expected "
                f"{f'[..., T, {self.input_size}]' if is_vectors else '[..., T]'} with no axis of "
                "length 0"
            )
        mask = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
        if mask.shape != shape or mask.dtype != jnp.bool_:
            raise ValueError(
                f"TextCNN: mask has shape {mask.shape} and dtype {mask.dtype}, "
                f"expected {shape} and bool"
            )
        # Real steps first, in their order.
        order = jnp.argsort(~mask, axis=-1, stable=True)
        num_real = jnp.sum(mask, axis=-1, keepdims=True)
        order = order[..., None] if is_vectors else order
        xs = jnp.take_along_axis(xs, order, axis=len(shape) - 1)
        if not is_vectors:
            xs = jnp.concatenate([embed(getattr(self, name), xs) for name in self.tables], axis=-1)
        is_real = _below(num_real, shape[-1])
        xs = jnp.where(is_real[..., None], xs, 0.0)
        with jax.named_scope("filters"):
            features = self._features(xs, num_real)
        with jax.named_scope("head"):
            logits = self.head(dropped(features, self.drop_features, key))
            return Output(logits, HEADS[self.head_kind](logits), {})

    def _features(self, xs, num_real):
        """ReLU of every filter's maximum, [..., M].

        Every filter meets every step in one matrix product; a window's value is then the sum of its
        steps' products: with its gradients a twelfth of the time of XLA's convolution on a
        processor (50 sentences of 30, D = 300, 3 x 100 filters: 30 ms against 366 ms on one core).
        The bias is the same in every window and ReLU grows: both wait for the maximum.
        """
        kernels = {h: self.filters[f"width_{h}"]["kernel"][...] for h in self.widths}
        flat = [
            jnp.moveaxis(kernel, 0, 1).reshape(len(kernel[0]), -1) for kernel in kernels.values()
        ]
        met = product(xs, jnp.concatenate(flat, axis=1))
        parts = iter(jnp.split(met, sum(self.widths), axis=-1))
        maxima = []
        for h in self.widths:
            sums = reduce(jnp.add, [_shifted(next(parts), h - 1 - k, k) for k in range(h)])
            is_window = _below(jnp.where(num_real > 0, num_real + h - 1, 0), xs.shape[-2] + h - 1)
            top = pool(sums, is_window, "max")
            bias = self.filters[f"width_{h}"]["bias"][...]
            maxima.append(jax.nn.relu(top + jnp.broadcast_to(bias, top.shape)))
        return jnp.concatenate(maxima, axis=-1)


def _table(vocab_size, width, rngs):
    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -EMBEDDING_RANGE, EMBEDDING_RANGE)

    return nnx.Embed(
        vocab_size, width, embedding_init=init, param_dtype=jnp.result_type(float), rngs=rngs
    )


def _filters(h, width, num_maps, rngs):
    dtype = jnp.result_type(float)
    kernel = nnx.initializers.lecun_normal()(rngs.params(), (h, width, num_maps), dtype)
    return nnx.Dict(kernel=nnx.Param(kernel), bias=nnx.Param(jnp.zeros((num_maps,), dtype)))


def _shifted(part, before, after):
    """Zeros before and after the steps of [..., T, F]."""
    return jnp.pad(part, [(0, 0)] * (part.ndim - 2) + [(before, after), (0, 0)])


def _below(counts, size):
    """[..., size] bool from counts [..., 1]: True at the first ones."""
    shape = (*counts.shape[:-1], size)
    return jax.lax.broadcasted_iota(counts.dtype, shape, len(shape) - 1) < counts
