"""What writes a sequence token by token, whatever was read: the decoder half of a model.

A model reads its source into a `Memory` and the first states of the decoder's layers; `Decoding`
has the rest: the embedding of what was said, the decoder's layers, attention, the bridge, the head.
`seqlab.models.seq2seq` reads sequences, `seqlab.models.captioner` images.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, struct

from seqlab.cells.affine import init_matrix
from seqlab.errors import InputError
from seqlab.models.attention import Attention
from seqlab.models.decoder import DecoderCarry, DecoderCell, Memory, head
from seqlab.models.layers import check_known, check_rate, dropped, linear
from seqlab.recurrence import dropout_mask, init_stack, stack, unroll
from seqlab.types import Array, Carry, Cell, Output

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


class Writer(NamedTuple):
    """A model as `seqlab.models.decode` reads it.

    Attributes:
      start: (params, sources [B, ...], mask [B, S]) -> (memory, state), leaves [B, ...].
      step: (params, memory, state with leaves [B, K, ...], tokens [B, K]) -> `Step` with leaves
        [B, K, ...].
    """

    start: Any
    step: Any


class Decoding(nnx.Module):
    """The decoder half of a model that reads a source and writes tokens.

    A model that is one calls, in its `__init__`, `_check_decoder`, `_make_embedding` and, when its
    encoder is there, `_make_decoder`; in its `__call__`, `_written`; and has a method `_read`.
    """

    @staticmethod
    def _check_decoder(*, context, attention, query, input_feeding, bridge, drop_inputs,
                       drop_features) -> None:  # fmt: skip
        """Raises `InputError` for options that do not go together."""
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

    def _make_embedding(self, target_size: int, embed_size: int, tied: bool, rngs: nnx.Rngs):
        # Unit variance of what the layers read, or, of a tied model, of the first logits.
        small = nnx.initializers.normal(embed_size**-0.5 if tied else 1.0)
        self.target_embed = nnx.Embed(
            target_size, embed_size, embedding_init=small, param_dtype=jnp.result_type(float),
            rngs=rngs,
        )  # fmt: skip

    def _make_decoder(
        self,
        decoder: Cell,
        memory_size: int,
        *,
        target_size: int,
        embed_size: int,
        num_layers: int,
        context: str,
        attention: Attention | None,
        query: str,
        input_feeding: bool,
        bridge: str,
        tied: bool,
        drop_inputs: float,
        dropout: float,
        drop_features: float,
        rngs: nnx.Rngs,
    ):
        """The parts that write; the memory is `memory_size` wide."""
        self.bridge_kind, self.tied = bridge, tied
        self.drop_inputs, self.drop_features = drop_inputs, drop_features
        self.dropout = dropout
        dtype = jnp.result_type(float)
        attends, hidden = context == "attention", decoder.hidden_size
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

    def _read(self, sources: Array, mask: Array | None) -> tuple[Memory, dict[str, Carry]]:
        """What there is to know of a source, and the first carries of the decoder's layers."""
        raise NotImplementedError

    def start(self, sources: Array, mask: Array | None) -> tuple[Memory, DecoderCarry]:
        """(what stays, the state before the first token) of sources [B, ...]; see `Writer`."""
        memory, layers = self._read(sources, mask)
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

    def _written(self, memory, layers, fed, fed_mask, truth, taps, weight_taps, keys, loop):
        """In teacher forcing: (logits, carries, attention or None).

        Args:
          memory: of the source.
          layers: first carries.
          fed, fed_mask, truth: see `Seq2Seq.__call__`.
          taps, weight_taps: of the decoder.
          keys: three, of the masks of embeddings, between layers and of features; None drops none.
          loop: the rest of `unroll`.
        """
        cell = self.cell
        if truth is not None:
            cell = replace(cell, feeds_back=True)
        params = self._decoder_params(memory)
        with jax.named_scope("embed"):
            es = dropped(self.target_embed(fed), self.drop_inputs, keys[0])
        loop = {**loop, "mask": fed_mask, "taps": taps, "weight_taps": weight_taps}
        with jax.named_scope("decoder"):
            if cell.looks_back:
                if loop["weight_taps"] is not None:
                    raise ValueError("weight_taps of a decoder that reads in its loop")
                rnn = unroll(
                    cell, params, self._with_masks(es, truth, keys[1]),
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
                    key=keys[1], **loop,
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
            features = dropped(features, self.drop_features, keys[2])
            logits = head(params, features)
        return logits, carries, attention

    def _memory(self, values: Array, real: Array, last: Array) -> Memory:
        """A memory of values [..., S, M], with what queries are held against."""
        keys, attention = values[..., :0], self.cell.attention
        if attention is not None:
            keys = attention.keys(nnx.as_pure(self.attention["weights"]), values)
        return Memory(values, keys, real, last)

    def _first(self, memory):
        """First carries of the decoder's layers, but for those that are copied."""
        names = [f"layer_{i}" for i in range(len(self.cell.cells))]
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
