"""From pairs of texts to an encoder-decoder that was trained on them, and back to texts.

Sources are read as tokens and `<eos>`; targets are `<sos>`, tokens, `<eos>`. Losses count `<eos>`
and never `<pad>`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.cells.lookup import make_cell
from seqlab.data.batching import Batch, Batches, Buckets, pad_tokens
from seqlab.data.checks import check_at_least
from seqlab.data.vocabulary import (
    EOS,
    UNK,
    BytePairs,
    Vocabulary,
    Words,
    learn_vocabulary,
    vocabulary_from_json,
)
from seqlab.errors import InputError
from seqlab.gradflow.pairs import pair_gradients
from seqlab.losses import cross_entropy, masked_mean, smoothed_cross_entropy
from seqlab.models import decode
from seqlab.models.attention import Attention
from seqlab.models.functional import functional
from seqlab.models.seq2seq import Seq2Seq, Seq2SeqOutput, Writer, writer
from seqlab.train import TrainState, TrainStep, init_state, make_train_step
from seqlab.types import Array, Model, Params

Sides = tuple[Vocabulary, Vocabulary]
SOURCE_STEP = 8  # sources of a call are padded to a multiple of this, so that few shapes are seen


@dataclass(frozen=True)
class Plan:
    """What an encoder-decoder is; the names of the fields are those of an experiment's config.

    Attributes:
      cell: name of the cell on both sides.
      embed_size, hidden_size, num_layers: D, H and layers of both sides.
      bidirectional, context, query, input_feeding, bridge, tied, drop_inputs, dropout,
        drop_features: of `seqlab.models.seq2seq.Seq2Seq`.
      attention: kind of attention, where the context is "attention".
      reverse_source: whether sources are read from their end.
      max_source: of location attention, the longest source.
    """

    cell: str
    embed_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    context: str
    attention: str
    query: str
    input_feeding: bool
    bridge: str
    tied: bool
    drop_inputs: float
    dropout: float
    drop_features: float
    reverse_source: bool
    max_source: int

    @classmethod
    def of(cls, config: Any) -> "Plan":
        """The plan that an experiment's config holds, by the names of its fields."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def parts(self, sizes: tuple[int | None, int]) -> tuple[Model, Writer]:
        """The model for vocabularies of these sizes, and the same as it writes.

        Raises:
          InputError: an odd width for dot attention over two directions, or another value that the
            model refuses.
        """
        attends = self.context == "attention"
        cell = make_cell(self.cell, self.hidden_size)
        # The dot product needs a memory as wide as the decoder.
        is_half = attends and self.attention == "dot" and self.bidirectional
        if is_half and self.hidden_size % 2:
            raise InputError(
                f"hidden_size {self.hidden_size}: dot attention over an encoder of two directions "
                "needs an even number"
            )
        encoder = make_cell(self.cell, self.hidden_size // 2) if is_half else cell
        options: dict[str, Any] = {
            "source_size": sizes[0],
            "target_size": sizes[1],
            "embed_size": self.embed_size,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "context": self.context,
            "attention": Attention(self.attention, max_steps=self.max_source) if attends else None,
            "query": self.query,
            "input_feeding": self.input_feeding,
            "bridge": self.bridge,
            "tied": self.tied,
            "drop_inputs": self.drop_inputs,
            "dropout": self.dropout,
            "drop_features": self.drop_features,
        }
        return functional(Seq2Seq, encoder, cell, **options), writer(encoder, cell, **options)


class Fed:
    """Batches of pairs, each with what the decoder is fed at every step.

    A batch of `Buckets` with `<sos>` ... `<eos>` as targets becomes `xs` and `mask` [B, S], `fed`,
    `fed_mask` and `labels` [B, U], `is_real` and `ids` [B]. In scheduled sampling there is `truth`
    [B, U] too, False where the decoder is fed its own last word; the share of truth falls in a line
    from 1 at batch 0 to `share` at batch `num_batches`, and stays there. The first is always true.
    Where it is `rounded`, sources are padded to 2^k or 3 2^k steps: sets that differ in their
    lengths then share their programs.

    References: Bengio et al., 2015, section 2.4 (linear decay).
    """

    def __init__(
        self, buckets: Buckets, *, share: float = 1.0, falls: bool = True, num_batches: int = 1,
        seed: int = 0, rounded: bool = False,
    ):  # fmt: skip
        self._buckets, self._share, self._falls = buckets, share, falls
        self._num_batches, self._seed, self._rounded = num_batches, seed, rounded

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every pair is seen once."""
        return self._buckets.batches_per_epoch

    def batch(self, number: int) -> Batch:
        """Batch `number`, always the same."""
        batch = self._buckets.batch(number)
        if self._rounded:
            more = rounded_up(batch["xs"].shape[1]) - batch["xs"].shape[1]
            for name in ("xs", "mask"):
                batch[name] = np.pad(batch[name], ((0, 0), (0, more)))
        targets, mask = batch.pop("targets"), batch.pop("targets_mask")
        batch["fed"], batch["labels"] = targets[:, :-1], targets[:, 1:]
        batch["fed_mask"] = mask[:, 1:]
        if self._share < 1.0:
            progress = min(number / self._num_batches, 1.0) if self._falls else 1.0
            share = 1.0 - (1.0 - self._share) * progress
            rng = np.random.default_rng([self._seed, number])
            batch["truth"] = rng.random(batch["fed"].shape) < share
            batch["truth"][:, 0] = True
        return batch


def rounded_up(length: int) -> int:
    """The least of 2^k and 3 2^k, 8 at least, that is not below a length."""
    power = max(8, 1 << (length - 1).bit_length())
    return 3 * power // 4 if length <= 3 * power // 4 else power


class Output(NamedTuple):
    """One text that was written.

    Attributes:
      text: it.
      log_prob: log p of its tokens, <eos> too, in nats.
      score: by which outputs are ordered.
      is_ended: whether it came to its <eos>.
      ids: its tokens, without <eos>.
    """

    text: str
    log_prob: float
    score: float
    is_ended: bool
    ids: np.ndarray


class Looks(NamedTuple):
    """What `Translator.looks` has found.

    Attributes:
      log_norms: of d loss_s / d encoder carry_t, natural, of the last layer, [B, U, S].
      attention: weights [B, U, S], or None.
      xs, mask: the sources, [B, S].
      labels, label_mask: the tokens whose losses these are, [B, U].
    """

    log_norms: np.ndarray
    attention: np.ndarray | None
    xs: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    label_mask: np.ndarray


class Teller:
    """A model that writes texts: its training, its losses, its writing.

    A subclass says what the model reads. It has the attributes `nets`, how many nets write together
    (their parameters are stacked where it is not 1), and `compiled`, a dict of the programs that
    were needed so far.
    """

    nets: int
    compiled: dict[Any, Any]

    @property
    def parts(self) -> tuple[Model, Writer]:
        """The model, and the same as it writes."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> Vocabulary:
        """Of what is written."""
        raise NotImplementedError

    def sources(self, sources: Sequence[Any]) -> list[np.ndarray]:
        """Arrays to read, in the order that they are read."""
        raise NotImplementedError

    def batch(self, read: Sequence[np.ndarray], longest: int) -> tuple[np.ndarray, Any]:
        """Some of `sources` as one array [B, ...], and its mask; `longest` is that of all."""
        raise NotImplementedError

    @property
    def model(self) -> Model:
        """The model."""
        return self.parts[0]

    def targets(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of targets between <sos> and <eos>."""
        return [self.vocabulary.encode(text, sos=True, eos=True) for text in texts]

    def loss(self, params: Params, batch: Mapping[str, Array], key: Array | None, smoothing: float):
        """(mean loss a token, its weight and the share of tokens that are likeliest)."""
        logits = self.model.apply(
            params, batch["xs"], batch.get("mask"), batch["fed"], batch["fed_mask"],
            truth=batch.get("truth"), key=key,
        ).logits  # fmt: skip
        mask = batch["fed_mask"]
        losses = smoothed_cross_entropy(logits, batch["labels"], smoothing)
        is_right = jnp.argmax(jax.lax.stop_gradient(logits), axis=-1) == batch["labels"]
        accuracy = masked_mean(is_right.astype(losses.dtype), mask)
        return masked_mean(losses, mask), {"weight": jnp.sum(mask), "accuracy": accuracy}

    def training(
        self, optimizer: optax.GradientTransformation, *, smoothing: float, clip_norm: float | None,
        seed: int,
    ) -> tuple[TrainStep, TrainState]:  # fmt: skip
        """The training step, and the state before the first."""

        def loss_fn(params, batch, key):
            return self.loss(params, batch, key, smoothing)

        key_params, key_steps = jax.random.split(jax.random.key(seed))
        params = jax.jit(self.model.init)(key_params)
        step = make_train_step(loss_fn, optimizer, clip_norm=clip_norm)
        return step, init_state(params, optimizer, key_steps)

    def forced(self, params: Params, fed: Batches) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of every pair, in order, nats of each token and whether it is the likeliest one.

        In teacher forcing: every token is said after the true ones before it.
        """
        if "forced" not in self.compiled:

            def score(params, batch):
                logits = self.model.apply(
                    params, batch["xs"], batch.get("mask"), batch["fed"], batch["fed_mask"]
                ).logits
                right = jnp.argmax(logits, axis=-1) == batch["labels"]
                return cross_entropy(logits, batch["labels"]), right

            self.compiled["forced"] = jax.jit(score)
        nats: dict[int, np.ndarray] = {}
        right: dict[int, np.ndarray] = {}
        for number in range(fed.batches_per_epoch):
            batch = fed.batch(number)
            names = {"xs", "mask", "fed", "fed_mask", "labels"} & set(batch)
            found = self.compiled["forced"](params, {name: batch[name] for name in names})
            own, hit = map(np.asarray, found)
            for row, which in enumerate(batch["ids"].tolist()):
                if which >= 0:
                    real = batch["fed_mask"][row]
                    nats[which], right[which] = own[row][real], hit[row][real]
        order = range(len(nats))
        return [nats[i] for i in order], [right[i] for i in order]

    def write(
        self,
        params: Params,
        sources: Sequence[Any],
        *,
        beam_size: int = 1,
        max_length: int,
        length_penalty: float = 0.0,
        coverage_penalty: float = 0.0,
        num_best: int = 1,
        batch_size: int = 64,
        how: Literal["search", "sample"] = "search",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        keep_unknown: bool = False,
    ) -> list[list[Output]]:
        """What is written for each source, the best first.

        Args:
          params: of the model.
          sources: texts, or whatever the model reads.
          beam_size: outputs followed at once; 1 is greedy.
          max_length: the most tokens, <eos> included.
          length_penalty, coverage_penalty: of `seqlab.models.decode.beam_search`.
          num_best: outputs of each source that are given back.
          batch_size: sources at once.
          how: "search", or "sample" to draw one output of each.
          temperature, top_k, top_p: of drawing.
          seed: likewise.
          keep_unknown: whether <unk> may be written.

        Raises:
          InputError: numbers out of range, or what the searches raise.
        """
        check_at_least(num_best, 1, "num_best")
        if num_best > (1 if how == "sample" else beam_size):
            raise InputError(f"num_best is {num_best}, the beam has {beam_size}: make it wider")
        if not len(sources):
            return []
        read = self.sources(sources)
        order = np.argsort([len(each) for each in read], kind="stable")
        longest = max(map(len, read))
        rows = min(batch_size, 1 << (len(read) - 1).bit_length())  # few sizes are seen
        banned = () if keep_unknown else (UNK,)
        key = (how, beam_size, max_length, length_penalty, coverage_penalty, temperature, top_k,
               top_p, banned)  # fmt: skip
        if key not in self.compiled:
            self.compiled[key] = jax.jit(
                self._program(how, beam_size, max_length, length_penalty, coverage_penalty,
                              temperature, top_k, top_p, banned)
            )  # fmt: skip
        program = self.compiled[key]
        outputs: list[list[Output]] = [[] for _ in read]
        for number, first in enumerate(range(0, len(read), rows)):
            chosen = order[first : first + rows]
            filled = [read[i] for i in chosen] + [read[chosen[0]]] * (rows - len(chosen))
            xs, mask = self.batch(filled, longest)
            draws = jax.random.fold_in(jax.random.key(seed), number)
            found = jax.tree.map(np.asarray, program(params, xs, mask, draws))
            for row, which in enumerate(chosen.tolist()):
                outputs[which] = [
                    self._output(found, row, place)
                    for place in range(num_best)
                    if np.isfinite(found.log_probs[row, place])
                ]
        return outputs

    @property
    def writer(self) -> Writer:
        """The model as it writes, or all nets of it together."""
        return self.parts[1] if self.nets == 1 else decode.ensemble(self.parts[1])

    def _program(self, how, beam_size, max_length, length_penalty, coverage_penalty, temperature,
                 top_k, top_p, banned):  # fmt: skip
        every = {"max_length": max_length, "banned": banned}
        if how == "sample":
            return partial(decode.sample, self.writer, temperature=temperature, top_k=top_k,
                           top_p=top_p, **every)  # fmt: skip
        if beam_size == 1 and not (length_penalty or coverage_penalty):
            return lambda params, xs, mask, key: decode.greedy(
                self.writer, params, xs, mask, **every
            )
        return lambda params, xs, mask, key: decode.beam_search(
            self.writer, params, xs, mask, beam_size=beam_size, length_penalty=length_penalty,
            coverage_penalty=coverage_penalty, **every,
        )  # fmt: skip

    def _output(self, found, row, place) -> Output:
        ids = found.tokens[row, place, : found.lengths[row, place]]
        is_ended = bool(found.is_ended[row, place])
        ids = ids[:-1] if is_ended else ids
        return Output(
            self.vocabulary.decode(ids), float(found.log_probs[row, place]),
            float(found.scores[row, place]), is_ended, ids,
        )  # fmt: skip


@dataclass(frozen=True)
class Translator(Teller):
    """A model with its vocabularies, reading and writing texts.

    Attributes:
      plan: of the model.
      sides: vocabulary of the sources and of the targets.
      nets: how many nets write together; their parameters are stacked where it is not 1.
    """

    plan: Plan
    sides: Sides
    nets: int = 1
    compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def parts(self) -> tuple[Model, Writer]:
        """The model, and the same as it writes."""
        return self.plan.parts((len(self.sides[0]), len(self.sides[1])))

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the targets."""
        return self.sides[1]

    def sources(self, sources: Sequence[str]) -> list[np.ndarray]:
        """Tokens of sources, <eos> last, in the order that they are read."""
        found = []
        for text in sources:
            ids = self.sides[0].encode(text)
            ids = ids[::-1] if self.plan.reverse_source else ids
            found.append(np.concatenate([ids, [EOS]]).astype(np.int32))
        return found

    def batch(self, read: Sequence[np.ndarray], longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Sources [B, S] and their mask, S being the longest rounded up."""
        return pad_tokens(read, -(-longest // SOURCE_STEP) * SOURCE_STEP)

    def buckets(self, sources: Sequence[str], targets: Sequence[str], **how: Any) -> Buckets:
        """Batches of pairs; `how` is what `Buckets` takes by name."""
        return Buckets(self.sources(sources), self.targets(targets), **how)

    def looks(
        self, params: Params, sources: Sequence[str], targets: Sequence[str], *,
        max_targets: int | None = None,
    ) -> "Looks":  # fmt: skip
        """How the loss of each token of some targets depends on each step of their sources.

        Args:
          params: of the model.
          sources, targets: texts, B of each.
          max_targets: tokens of each target that are looked at, from its first; None for all.
        """
        ids = self.sources(sources)
        xs, mask = pad_tokens(ids, rounded_up(max(map(len, ids))))
        ys = self.targets(targets)
        whole, real = pad_tokens(ys, max(map(len, ys)))
        end = None if max_targets is None else max_targets + 1
        fed, labels, fed_mask = whole[:, :-1], whole[:, 1:end], real[:, 1:end]
        fed = fed[:, : labels.shape[1]]
        is_plain = self.plan.num_layers == 1 and not self.plan.bidirectional
        top = f"layer_{self.plan.num_layers - 1}"

        def measure(params, xs, mask, fed, labels, fed_mask):
            def losses(output):
                return jnp.where(fed_mask, cross_entropy(output.logits, labels), 0.0)

            norms = pair_gradients(
                self.model.apply, losses, params, xs, mask, fed, fed_mask,
                part=lambda carry: carry if is_plain else carry[top], batch_size=4,
            )  # fmt: skip
            output = cast(Seq2SeqOutput, self.model.apply(params, xs, mask, fed, fed_mask))
            return norms, output.attention

        if "looks" not in self.compiled:
            self.compiled["looks"] = jax.jit(measure)
        norms, attention = self.compiled["looks"](params, xs, mask, fed, labels, fed_mask)
        attention = None if attention is None else np.asarray(attention, float)
        return Looks(np.asarray(norms, float), attention, xs, mask, labels, fed_mask)

    def unknown(self, text: str) -> list[str]:
        """What of a source the vocabulary lacks, each once, in order."""
        vocabulary = self.sides[0]
        if isinstance(vocabulary, BytePairs):  # it knows all there is
            return []
        pieces = text.split() if isinstance(vocabulary, Words) else list(text)
        return list(dict.fromkeys(piece for piece in pieces if UNK in vocabulary.encode(piece)))


def label(config: Any) -> str:
    """The model of an experiment's config, or a `Plan`, in a few words."""
    if config.context != "attention":
        return f"{config.cell}, {'fixed vector' + ' at every step' * (config.context == 'every')}"
    return f"{config.cell}, {config.attention} attention"


def learn_sides(
    sources: Sequence[str],
    targets: Sequence[str],
    levels: tuple[str, str],
    *,
    min_count: int,
    max_size: int | None,
) -> Sides:
    """The vocabularies of the training part's sources and targets.

    Args:
      sources, targets: texts.
      levels: what a token of each is: "char", "word" or "subword".
      min_count: words seen less often are <unk>.
      max_size: of each, words or byte pairs at most.
    """
    found = []
    for texts, level in zip((sources, targets), levels, strict=True):
        text = ("" if level == "char" else "\n").join(texts)
        found.append(learn_vocabulary(text, level, min_count=min_count, max_size=max_size))
    return found[0], found[1]


def sides_to_json(sides: Sides) -> dict[str, Any]:
    """Both vocabularies in plain JSON values; `sides_from_json` is the inverse."""
    return {"source": sides[0].to_json(), "target": sides[1].to_json()}


def sides_from_json(value: Any) -> Sides:
    """The vocabularies that `sides_to_json` has written."""
    return vocabulary_from_json(value["source"]), vocabulary_from_json(value["target"])
