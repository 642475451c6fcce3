"""Encoder-decoder: one recurrence reads a source, another writes a target, token by token."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqlab.errors import InputError
from seqlab.models.attention import Attention
from seqlab.models.decoding import BRIDGES, CONTEXTS, QUERIES, Decoding, Seq2SeqOutput, Step, Writer
from seqlab.models.functional import functional
from seqlab.models.layers import dropped, embed
from seqlab.models.recurrent import Recurrent
from seqlab.types import Array, Cell

__all__ = ["BRIDGES", "CONTEXTS", "QUERIES", "Seq2Seq", "Seq2SeqOutput", "Step", "Writer", "writer"]


class Seq2Seq(Decoding):
    """Reads a source, then writes a target: p(y) = prod_t p(y_t | y_1 .. y_{t-1}, source).

    Args (of the class):
      encoder, decoder: cells of the layers of each.
      source_size, target_size: vocabularies; a source of None has real inputs of width
        `embed_size`.
      embed_size: D, width of the embeddings.
      num_layers: of either.
      bidirectional: whether the encoder reads both ways.
      context: what the decoder knows of the source beside its first state: nothing ("state",
        Sutskever et al., 2014), the encoder's last output at every step ("every", Cho et al.,
        2014), or what it attends to ("attention").
      attention: how; None unless it attends.
      query: whether the "previous" state of the decoder asks (Bahdanau et al., 2015) or the
        "current" one (Luong et al., 2015).
      input_feeding: of "current" queries, whether the attentional state is part of the next input.
      bridge: the decoder's first state: every leaf of it tanh(W f + b) of the encoder's last output
        f ("linear"), the encoder's own state ("copy", for cells and layers alike and one
        direction), or the cells' ("none").
      tied: whether the head's matrix is the target's embedding; the readout is then D wide.
      drop_inputs: dropout of embeddings; `dropout`: between layers; `drop_features`: of what the
        head reads.

    Raises:
      InputError: options that do not go together.
    """

    def __init__(
        self,
        encoder: Cell,
        decoder: Cell,
        *,
        source_size: int | None,
        target_size: int,
        embed_size: int,
        num_layers: int = 1,
        bidirectional: bool = True,
        context: str = "attention",
        attention: Attention | None = None,
        query: str = "previous",
        input_feeding: bool = False,
        bridge: str = "linear",
        tied: bool = False,
        drop_inputs: float = 0.0,
        dropout: float = 0.0,
        drop_features: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self._check_decoder(
            context=context, attention=attention, query=query, input_feeding=input_feeding,
            bridge=bridge, drop_inputs=drop_inputs, drop_features=drop_features,
        )  # fmt: skip
        if bridge == "copy" and (bidirectional or encoder != decoder):
            raise InputError(
                "bridge='copy' takes the encoder's states as they are: it needs one direction and "
                "the same cell on both sides; use bridge='linear'"
            )
        self.has_vocabulary = source_size is not None
        if source_size is not None:
            self.source_embed = nnx.Embed(
                source_size, embed_size, embedding_init=nnx.initializers.normal(1.0),
                param_dtype=jnp.result_type(float), rngs=rngs,
            )  # fmt: skip
        self._make_embedding(target_size, embed_size, tied, rngs)
        self.encoder = Recurrent(
            encoder, embed_size, num_layers=num_layers, bidirectional=bidirectional,
            dropout=dropout, rngs=rngs,
        )  # fmt: skip
        self._make_decoder(
            decoder, self.encoder.output_size, target_size=target_size, embed_size=embed_size,
            num_layers=num_layers, context=context, attention=attention, query=query,
            input_feeding=input_feeding, bridge=bridge, tied=tied, drop_inputs=drop_inputs,
            dropout=dropout, drop_features=drop_features, rngs=rngs,
        )  # fmt: skip

    def __call__(
        self,
        sources: Array,
        mask: Array | None,
        fed: Array,
        fed_mask: Array | None = None,
        *,
        truth: Array | None = None,
        taps: dict[str, Any] | None = None,
        weight_taps: dict[str, Any] | None = None,
        key: Array | None = None,
        **loop,
    ) -> Seq2SeqOutput:
        """Logits [..., U, V] of what follows each token of `fed` (teacher forcing).

        Args:
          sources: tokens [..., S], or vectors [..., S, D].
          mask: [..., S] bool, True where real; a source may have no real step.
          fed: tokens [..., U], <sos> and the target but for its last token.
          fed_mask: [..., U] bool, True where real.
          truth: None, or [..., U] bool, False where the decoder is fed the likeliest token of its
            own last step in place of that in `fed` (scheduled sampling; no gradient crosses, and
            nothing of it is dropped); at the first step True, for nothing was said before.
          taps, weight_taps: see `unroll`, under "encoder" and "decoder".
          key: of dropout masks; None drops nothing.
          **loop: the rest of `unroll`, for both.

        References: Bengio et al., 2015 (scheduled sampling).
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        memory, layers, encoded = self._encode(
            sources, mask, keys[:2], (taps or {}).get("encoder"),
            (weight_taps or {}).get("encoder"), **loop,
        )  # fmt: skip
        logits, carries, attention = self._written(
            memory, layers, fed, fed_mask, truth, (taps or {}).get("decoder"),
            (weight_taps or {}).get("decoder"), keys[2:], loop,
        )  # fmt: skip
        return Seq2SeqOutput(
            logits, jax.nn.softmax(logits), {"encoder": encoded, "decoder": carries}, attention
        )

    def _read(self, sources, mask):
        return self._encode(sources, mask, (None, None), None, None)[:2]

    def _encode(self, sources, mask, keys, taps, weight_taps, **loop):
        """(memory, first carry of the decoder's layers, carries of the encoder)."""
        xs = sources
        if self.has_vocabulary:
            with jax.named_scope("embed"):
                xs = embed(self.source_embed, sources)
        xs = dropped(xs, self.drop_inputs, keys[0])
        with jax.named_scope("encoder"):
            rnn = self.encoder(
                xs, mask=mask, taps=taps, weight_taps=weight_taps, key=keys[1], **loop
            )
        last = self.encoder.last(rnn.carry)
        real = jnp.ones(xs.shape[:-1], last.dtype) if mask is None else mask.astype(last.dtype)
        memory = self._memory(rnn.ys, real, last)
        if self.bridge_kind != "copy":
            layers = self._first(memory)
        else:
            layers = {"layer_0": rnn.carry} if self.encoder.is_plain else rnn.carry
        return memory, layers, rnn.carries


def writer(*args: Any, **kwargs: Any) -> Writer:
    """The `Writer` of a `Seq2Seq`; takes what `functional(Seq2Seq, ...)` does after the class."""
    start = functional(Seq2Seq, *args, **kwargs, method="start")
    step = functional(Seq2Seq, *args, **kwargs, method="step")
    return Writer(start.apply, step.apply)
