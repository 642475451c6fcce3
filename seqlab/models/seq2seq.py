"""Encoder-decoder: one recurrence reads a source, another writes a target, token by token."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, struct

from seqlab.cells.affine import init_matrix
from seqlab.errors import InputError
from seqlab.models.attention import Attention
from seqlab.models.decoder import DecoderCarry, DecoderCell, Memory, head
from seqlab.models.functional import functional
from seqlab.models.layers import check_known, check_rate, dropped, embed, linear
from seqlab.models.recurrent import Recurrent
from seqlab.recurrence import dropout_mask, init_stack, stack, unroll
from seqlab.types import Array, Cell, Output

CONTEXTS = ("state", "every", "attention")
QUERIES = ("previous", "current")
BRIDGES = ("linear", "copy", "none")


@struct.dataclass
class Seq2SeqOutput(Output):
    """`Output`, and where each step of the target looked.

    Attributes:
      attention: [..., U, S] weights of sum 1 over the real steps of the source, or None.
    """

    attention: Array | None


class Step(NamedTuple):
    """What a step of a decoder that writes gives; see `Writer`.

    Attributes:
      state: to go on from.
      log_probs: of each token to come next, [..., V].
      attention: weights over the source, [..., S]; all zeros without attention.
    """

    state: Any
    log_probs: Array
    attention: Array


class Seq2Seq(nnx.Module):
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
        check_known("context", context, CONTEXTS)
        check_known("query", query, QUERIES)
        check_known("bridge", bridge, BRIDGES)
        check_rate("drop_inputs", drop_inputs)
        check_rate("drop_features", drop_features)
        attends = context == "attention"
        if attends != (attention is not None):
            raise InputError(f"context={context!r} and attention={attention}: give both or neither")
        if input_feeding and not (attends and query == "current"):
            raise InputError("input_feeding is of context='attention' with query='current'")
        if bridge == "copy" and (bidirectional or encoder != decoder):
            raise InputError(
                "bridge='copy' takes the encoder's states as they are: it needs one direction and "
                "the same cell on both sides; use bridge='linear'"
            )
        self.bridge_kind, self.tied = bridge, tied
        self.drop_inputs, self.drop_features = drop_inputs, drop_features
        self.dropout = dropout
        dtype = jnp.result_type(float)
        self.has_vocabulary = source_size is not None
        unit = nnx.initializers.normal(1.0)
        if source_size is not None:
            self.source_embed = nnx.Embed(
                source_size, embed_size, embedding_init=unit, param_dtype=dtype, rngs=rngs
            )
        # Unit variance of what the layers read, or, of a tied model, of the first logits.
        small = nnx.initializers.normal(embed_size**-0.5 if tied else 1.0)
        self.target_embed = nnx.Embed(
            target_size, embed_size, embedding_init=small, param_dtype=dtype, rngs=rngs
        )
        self.encoder = Recurrent(
            encoder, embed_size, num_layers=num_layers, bidirectional=bidirectional,
            dropout=dropout, rngs=rngs,
        )  # fmt: skip
        memory_size, hidden = self.encoder.output_size, decoder.hidden_size
        self.cell = DecoderCell(
            (decoder,) * num_layers, embed_size, context, attention, query, input_feeding
        )
        readout_size = embed_size if tied else hidden
        if context == "state":
            if tied and hidden != embed_size:
                raise InputError(
                    f"tied: the decoder has {hidden} units, the embedding {embed_size}: without a "
                    "context at every step they must be as many"
                )
        else:
            reads_token = context == "every" or query == "previous"
            width = hidden + memory_size + (embed_size if reads_token else 0)
            self.readout = linear(width, readout_size, rngs)
        input_size = embed_size
        if context == "every" or (attends and query == "previous"):
            input_size += memory_size
        elif input_feeding:
            input_size += readout_size
        layers = init_stack(self.cell.cells, rngs.params(), input_size)
        self.decoder = nnx.Dict(weights=nnx.data(jax.tree.map(nnx.Param, layers)))
        if attention is not None:
            found = attention.init(rngs.params(), hidden, memory_size)
            self.attention = nnx.Dict(weights=nnx.data(jax.tree.map(nnx.Param, found)))
        if bridge == "linear":
            first = jax.eval_shape(
                lambda: {name: decoder.initial_carry(layers[name]) for name in layers}
            )
            leaves, _ = jax.tree.flatten(first)
            self.bridges = nnx.List([linear(memory_size, leaf.shape[-1], rngs) for leaf in leaves])
        head_params: dict[str, Any] = {"bias": nnx.Param(jnp.zeros((target_size,), dtype))}
        if not tied:
            kernel = init_matrix(rngs.params(), (readout_size, target_size), "gaussian")
            head_params["kernel"] = nnx.Param(kernel.astype(dtype))
        self.head = nnx.Dict(**head_params)

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
        cell = self.cell
        if truth is not None:
            cell = replace(cell, feeds_back=True)
        params = self._decoder_params(memory)
        with jax.named_scope("embed"):
            es = dropped(self.target_embed(fed), self.drop_inputs, keys[2])
        loop |= {
            "mask": fed_mask,
            "taps": (taps or {}).get("decoder"),
            "weight_taps": (weight_taps or {}).get("decoder"),
        }
        with jax.named_scope("decoder"):
            if cell.looks_back:
                if loop["weight_taps"] is not None:
                    raise ValueError("Seq2Seq: weight_taps of a decoder that reads in its loop")
                rnn = unroll(
                    cell, params, self._with_masks(es, truth, keys[3]),
                    carry=cell.carry_of(params, layers), **loop,
                )  # fmt: skip
                carries, reads = rnn.carries, rnn.carries.read
                if truth is not None:
                    before = (
                        jnp.zeros_like(rnn.carries.said)
                        .at[..., 1:, :]
                        .set(rnn.carries.said[..., :-1, :])
                    )
                    es = jnp.where(truth[..., None], es, before)
            else:
                xs = es
                if cell.context == "every":
                    last = jnp.broadcast_to(
                        memory.last[..., None, :], (*es.shape[:-1], memory.last.shape[-1])
                    )
                    xs = jnp.concatenate([es, last], axis=-1)
                rnn = stack(
                    cell.cells, params["layers"], xs, carry=layers, dropout=self.dropout,
                    key=keys[3], **loop,
                )  # fmt: skip
                carries, reads = rnn.carries, rnn.ys
        attention = None
        with jax.named_scope("readout"):
            if cell.input_feeding:
                features = reads
            else:
                contexts = reads
                if cell.context == "attention" and cell.query == "current":
                    contexts, attention = cell.look(params, rnn.ys)
                features = cell.readout(params, rnn.ys, contexts, es)
            if cell.context == "attention" and attention is None:
                attention = cell.look(params, self._queries(cell, layers, carries.layers))[1]
            features = dropped(features, self.drop_features, keys[4])
            logits = head(params, features)
        return Seq2SeqOutput(
            logits, jax.nn.softmax(logits), {"encoder": encoded, "decoder": carries}, attention
        )

    def start(self, sources: Array, mask: Array | None) -> tuple[Memory, DecoderCarry]:
        """(what stays, the state before the first token) of sources [B, S]; see `Writer`."""
        memory, layers, _ = self._encode(sources, mask, (None, None), None, None)
        return memory, self.cell.carry_of(self._decoder_params(memory), layers)

    def step(self, memory: Memory, state: DecoderCarry, tokens: Array) -> Step:
        """What follows tokens [B, K] said in states with leaves [B, K, H]."""
        cell, params = self.cell, self._decoder_params(memory)
        es = self.target_embed(tokens)
        after = cell.step(params, state, es)
        tops = cell.output(after)
        attention = jnp.zeros((*tokens.shape, memory.mask.shape[-1]), tops.dtype)
        contexts: Array | None = after.read
        if cell.context == "attention":
            is_before = cell.query == "previous"
            queries = cell.output(state) if is_before else tops
            contexts, attention = cell.look(params, queries)
        features = after.read
        if not cell.input_feeding:
            features = cell.readout(params, tops, contexts, es)
        return Step(after, jax.nn.log_softmax(head(params, features)), attention)

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
        attention = self.cell.attention
        keys_of = rnn.ys[..., :0]
        if attention is not None:
            keys_of = attention.keys(nnx.as_pure(self.attention["weights"]), rnn.ys)
        real = jnp.ones(xs.shape[:-1], last.dtype) if mask is None else mask.astype(last.dtype)
        memory = Memory(rnn.ys, keys_of, real, last)
        return memory, self._first(memory, rnn.carry), rnn.carries

    def _first(self, memory, carry):
        """First carries of the decoder's layers."""
        names = [f"layer_{i}" for i in range(len(self.cell.cells))]
        if self.bridge_kind == "copy":
            return {names[0]: carry} if self.encoder.is_plain else carry
        weights = nnx.as_pure(self.decoder["weights"])
        batch_shape = memory.last.shape[:-1]
        fresh = {
            name: cell.initial_carry(weights[name], batch_shape)
            for name, cell in zip(names, self.cell.cells, strict=True)
        }
        if self.bridge_kind == "none":
            return fresh
        leaves, tree = jax.tree.flatten(fresh)
        return tree.unflatten(
            jnp.tanh(bridge(memory.last)).astype(leaf.dtype)
            for bridge, leaf in zip(self.bridges, leaves, strict=True)
        )

    def _decoder_params(self, memory):
        embedding = self.target_embed.embedding[...]
        params = {
            "layers": nnx.as_pure(self.decoder["weights"]),
            "memory": memory,
            "embedding": embedding,
            "head": {name: leaf[...] for name, leaf in self.head.items()},
        }
        if self.cell.attention is not None:
            params["attention"] = nnx.as_pure(self.attention["weights"])
        if self.cell.context != "state":
            params["readout"] = nnx.to_pure_dict(nnx.state(self.readout))
        return params

    def _with_masks(self, es, truth, key):
        """What the loop of a decoder that looks back is fed: see `DecoderCell`."""
        parts = [es]
        if self.dropout and key is not None:
            sizes = [cell.hidden_size for cell in self.cell.cells[:-1]]
            shape = (*es.shape[:-1], sum(sizes))
            parts.append(dropout_mask(key, self.dropout, shape, es.dtype))
        if truth is not None:
            parts.append(truth[..., None].astype(es.dtype))
        return jnp.concatenate(parts, axis=-1)

    def _queries(self, cell, layers, walked):
        """The states that ask, of all steps; a masked step leaves the one before as it was."""
        tops = cell.top(walked)
        if cell.query == "current":
            return tops
        first = cell.top(layers)[..., None, :]
        return jnp.concatenate([first, tops[..., :-1, :]], axis=-2)


class Writer(NamedTuple):
    """A model as `seqlab.models.decode` reads it.

    Attributes:
      start: (params, sources [B, S], mask [B, S]) -> (memory, state), leaves [B, ...].
      step: (params, memory, state with leaves [B, K, ...], tokens [B, K]) -> `Step` with leaves
        [B, K, ...].
    """

    start: Any
    step: Any


def writer(*args: Any, **kwargs: Any) -> Writer:
    """The `Writer` of a `Seq2Seq`; takes what `functional(Seq2Seq, ...)` does after the class."""
    start = functional(Seq2Seq, *args, **kwargs, method="start")
    step = functional(Seq2Seq, *args, **kwargs, method="step")
    return Writer(start.apply, step.apply)
