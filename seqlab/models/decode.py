"""Writing with an encoder-decoder: greedy, by drawing, by beam search; one program each.

A source is read once, then tokens are written from `<sos>` until every row has its `<eos>`, or
`max_length` tokens. The length that is written is not part of a program's shape: rows that need
few tokens end its loop early. `<pad>` and `<sos>` are never written; log-probabilities are those of
the whole vocabulary all the same, so that the score of an output is its score in teacher forcing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.data.vocabulary import EOS, PAD, SOS
from seqlab.errors import InputError
from seqlab.models.decoding import Step, Writer
from seqlab.models.language import check_drawing, draw
from seqlab.types import Array, Params

NEVER = (PAD, SOS)
GROUP = 64  # words of which the likeliest is looked for first


class Written(NamedTuple):
    """What was written, N outputs a source, the best first.

    Attributes:
      tokens: [B, N, L], PAD behind each <eos>.
      lengths: [B, N], tokens up to <eos>, it included.
      log_probs: [B, N], log p of all these tokens; -inf for an output that there is not.
      scores: [B, N], by which they are ordered.
      is_ended: [B, N], False where `max_length` cut it off before its <eos>.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array
    is_ended: Array


def greedy(
    writer: Writer,
    params: Params,
    sources: Array,
    mask: Array | None,
    *,
    max_length: int,
    banned: Sequence[int] = (),
) -> Written:
    """The likeliest token at every step; of equally likely ones that of the smallest id.

    Args:
      writer: of the model, such as `seqlab.models.seq2seq.writer` gives.
      params: of the model.
      sources: [B, S], or whatever else the model reads, [B, ...].
      mask: [B, S] bool, True where real.
      max_length: L, the most tokens.
      banned: tokens that are never written, beside <pad> and <sos>.

    Raises:
      InputError: a `max_length` below 1.
    """

    def choose(log_probs, key):
        return jnp.argmax(log_probs, axis=-1)

    return _alone(writer, params, sources, mask, choose, None, max_length, banned)


def sample(
    writer: Writer,
    params: Params,
    sources: Array,
    mask: Array | None,
    key: Array,
    *,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    banned: Sequence[int] = (),
) -> Written:
    """Tokens drawn from the model; the rules are those of `seqlab.models.language.draw`.

    The arguments are those of `greedy`; the same key, the same tokens.

    Raises:
      InputError: numbers out of range.
    """
    check_drawing(temperature, top_k, top_p)

    def choose(log_probs, key):
        return draw(log_probs, key, temperature=temperature, top_k=top_k, top_p=top_p)

    return _alone(writer, params, sources, mask, choose, key, max_length, banned)


def beam_search(
    writer: Writer,
    params: Params,
    sources: Array,
    mask: Array | None,
    *,
    beam_size: int,
    max_length: int,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    banned: Sequence[int] = (),
) -> Written:
    """The N = `beam_size` outputs of the highest score that a search of that width finds.

        score = log p(y) / ((5 + |y|) / 6)^length_penalty
                + coverage_penalty sum_j log min(sum_t a_tj, 1)    over real j, a clipped at 1e-6

    |y| counts <eos>. At every step the tokens that may follow the outputs that go on are ordered by
    log p(y); of the first `beam_size` those that are <eos> end their output, and the first
    `beam_size` that are not go on. A source is done when `beam_size` outputs have ended and none
    that goes on has, at its present length, a higher score than the last of the best `beam_size`:
    with a beam of 1 that is `greedy`. Where fewer have ended at `max_length`, those that are cut
    off follow, by their scores.

    Many searches stop as soon as `beam_size` outputs have ended. Where a net is sure of a long
    output those that end are its rivals of no likelihood, and it would never be found.

    Args:
      writer, params, sources, mask, max_length, banned: as for `greedy`.
      beam_size: outputs that are followed at once.
      length_penalty: alpha; 0 prefers short outputs, as log p does.
      coverage_penalty: beta, of models with attention.

    Raises:
      InputError: sizes below 1, or penalties below 0.

    References: Wu et al., 2016, section 7 (both penalties).
    """
    _check(max_length)
    if beam_size < 1:
        raise InputError(f"beam_size must be 1 or more, got {beam_size}")
    for name, value in (
        ("length_penalty", length_penalty), ("coverage_penalty", coverage_penalty)
    ):  # fmt: skip
        if not value >= 0:
            raise InputError(f"{name} must be 0 or more, got {value}")
    size = beam_size
    memory, first = writer.start(params, sources, mask)
    num_rows = sources.shape[0]
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], size, axis=1), first)
    sos = jnp.full((num_rows, size), SOS, jnp.int32)
    looked = jax.eval_shape(writer.step, params, memory, state, sos).attention
    num_places = looked.shape[-1]  # of the source, that attention weighs
    real = jnp.ones((num_rows, num_places), bool) if mask is None else mask
    forbidden = jnp.asarray([*NEVER, *banned])
    dtype = jnp.result_type(jax.tree.leaves(params)[0])

    def penalised(log_probs, length, covered):
        score = log_probs / ((5 + length) / 6) ** length_penalty
        if coverage_penalty:
            shares = jnp.log(jnp.clip(covered, 1e-6, 1.0))
            score += coverage_penalty * jnp.sum(jnp.where(real[:, None], shares, 0.0), axis=-1)
        return score

    def goes_on(found):
        return (found.step < max_length) & ~jnp.all(found.is_done)

    def turn(found: _Beams) -> _Beams:
        step = writer.step(params, memory, found.state, found.last)
        is_never = jnp.isin(jnp.arange(step.log_probs.shape[-1]), forbidden)
        log_probs = jnp.where(is_never, -jnp.inf, step.log_probs)
        covered = found.covered
        if coverage_penalty:
            covered = covered + step.attention
        # The best of each output first: no sort over all outputs' whole vocabularies.
        own, words = largest(log_probs, min(2 * size, log_probs.shape[-1]))
        width = own.shape[-1]
        totals = (found.log_probs[..., None] + own).reshape(num_rows, -1)
        totals, places = jax.lax.top_k(totals, min(2 * size, totals.shape[-1]))
        words = jnp.take_along_axis(words.reshape(num_rows, -1), places, axis=1)
        parents, ends = places // width, words == EOS
        length = found.step + 1

        ending = parents[:, :size]
        log_probs = jnp.where(ends[:, :size] & ~found.is_done[:, None], totals[:, :size], -jnp.inf)
        scores = penalised(log_probs, length.astype(dtype), of(ending, covered))
        ended = _best(
            size,
            (found.ended_scores, scores),
            (found.ended_log_probs, log_probs),
            (found.ended_lengths, jnp.broadcast_to(length, scores.shape)),
            (found.ended, of(ending, found.tokens).at[:, :, found.step].set(EOS)),
        )
        totals, chosen = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), size)
        parents, words = (jnp.take_along_axis(each, chosen, axis=1) for each in (parents, words))
        tokens = of(parents, found.tokens).at[:, :, found.step].set(words)
        state, covered = jax.tree.map(lambda leaf: of(parents, leaf), (step.state, covered))
        hope = jnp.max(penalised(totals, length.astype(dtype), covered), axis=-1)
        worst = ended[0][:, -1]  # of -inf where fewer have ended
        is_done = found.is_done | ((worst > -jnp.inf) & (worst >= hope))
        return _Beams(length, is_done, state, words, totals, tokens, covered, *ended)

    width = num_places if coverage_penalty else 0
    shape = (num_rows, size)
    start = _Beams(
        step=jnp.zeros((), jnp.int32),
        is_done=jnp.zeros(num_rows, bool),
        state=state,
        last=sos,
        # One output to begin with: the others would be its copies.
        log_probs=jnp.full(shape, -jnp.inf, dtype).at[:, 0].set(0.0),
        tokens=jnp.full((*shape, max_length), PAD, jnp.int32),
        covered=jnp.zeros((*shape, width), dtype),
        ended_scores=jnp.full(shape, -jnp.inf, dtype),
        ended_log_probs=jnp.full(shape, -jnp.inf, dtype),
        ended_lengths=jnp.zeros(shape, jnp.int32),
        ended=jnp.full((*shape, max_length), PAD, jnp.int32),
    )
    found = jax.lax.while_loop(goes_on, turn, start)
    # Those that were cut off come behind those that have ended, whatever their scores.
    num_ended = jnp.sum(found.ended_log_probs > -jnp.inf, axis=1, keepdims=True)
    places = jnp.broadcast_to(jnp.arange(size), shape)
    is_ended = places < num_ended
    cut_scores = penalised(found.log_probs, found.step.astype(dtype), found.covered)
    _, order = jax.lax.top_k(cut_scores, size)  # they went on by their log p
    cut = of(jnp.where(is_ended, 0, places - num_ended), order)

    def filled(ended, going_on):
        is_own = is_ended.reshape(*shape, *[1] * (ended.ndim - 2))
        return jnp.where(is_own, ended, of(cut, going_on))

    return Written(
        filled(found.ended, found.tokens),
        filled(found.ended_lengths, jnp.broadcast_to(found.step, shape)),
        filled(found.ended_log_probs, found.log_probs),
        filled(found.ended_scores, cut_scores),
        is_ended,
    )


def ensemble(writer: Writer) -> Writer:
    """The `Writer` of several nets that write together, by the mean of their probabilities.

    Its parameters are those of the nets, stacked: leaves [N, ...]. Weights of attention are means
    too.
    """

    def start(params, sources, mask):
        memory, state = jax.vmap(lambda own: writer.start(own, sources, mask))(params)
        return memory, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), state)

    def step(params, memory, state, tokens):
        def one(own, memory, state):
            return writer.step(own, memory, state, tokens)

        found = jax.vmap(one, in_axes=(0, 0, -1), out_axes=0)(params, memory, state)
        count = found.log_probs.shape[0]
        log_probs = jax.nn.logsumexp(found.log_probs, axis=0) - np.log(count)
        state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), found.state)
        return Step(state, log_probs, jnp.mean(found.attention, axis=0))

    return Writer(start, step)


class _Beams(NamedTuple):
    """Outputs that go on, the likeliest first, and those that have ended, the best first."""

    step: Array  # tokens written so far
    is_done: Array  # [B], whether the source's outputs are found
    state: Any  # [B, K, ...]
    last: Array  # [B, K]
    log_probs: Array  # [B, K]
    tokens: Array  # [B, K, L]
    covered: Array  # [B, K, S]
    ended_scores: Array  # [B, K]
    ended_log_probs: Array  # [B, K]
    ended_lengths: Array  # [B, K]
    ended: Array  # [B, K, L]


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of values [..., V], in two steps where V is large.

    The `count` largest values lie in the `count` groups of the largest maxima. These in order of
    their places, so that of equal values those come first that do in `top_k`.
    """
    size = values.shape[-1]
    num_groups = -(-size // GROUP)
    if num_groups <= 2 * count:
        return jax.lax.top_k(values, count)
    rest = [(0, 0)] * (values.ndim - 1) + [(0, num_groups * GROUP - size)]
    groups = jnp.pad(values, rest, constant_values=-jnp.inf)
    groups = groups.reshape(*values.shape[:-1], num_groups, GROUP)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, axis=-1), count)[1], axis=-1)
    left = jnp.take_along_axis(groups, chosen[..., None], axis=-2)
    found, places = jax.lax.top_k(left.reshape(*values.shape[:-1], count * GROUP), count)
    return found, jnp.take_along_axis(chosen, places // GROUP, axis=-1) * GROUP + places % GROUP


def of(places: Array, leaf: Array) -> Array:
    """Entries [B, K, ...] of a leaf [B, J, ...] at places [B, K]."""
    return jnp.take_along_axis(leaf, places.reshape(*places.shape, *[1] * (leaf.ndim - 2)), axis=1)


def _best(size, *pairs):
    """Of old and new entries [B, K, ...] those of the highest first pair, the best first."""
    joined = [jnp.concatenate(pair, axis=1) for pair in pairs]
    best, places = jax.lax.top_k(joined[0], size)
    return best, *(of(places, leaf) for leaf in joined[1:])


def _alone(writer, params, sources, mask, choose, key, max_length, banned):
    """One output a source, token by token."""
    _check(max_length)
    memory, state = writer.start(params, sources, mask)
    state = jax.tree.map(lambda leaf: leaf[:, None], state)
    num_rows = sources.shape[0]
    forbidden = jnp.asarray([*NEVER, *banned])
    dtype = jnp.result_type(jax.tree.leaves(params)[0])

    def goes_on(found):
        _, _, step, _, _, is_ended, _, _ = found
        return (step < max_length) & ~jnp.all(is_ended)

    def turn(found):
        state, last, step, tokens, log_probs, is_ended, lengths, key = found
        given = writer.step(params, memory, state, last)
        own = None
        if key is not None:
            key, own = jax.random.split(key)
        left = given.log_probs.at[..., forbidden].set(-jnp.inf)
        word = jnp.where(is_ended, PAD, choose(left, own)).astype(jnp.int32)
        at_word = jnp.take_along_axis(given.log_probs, word[..., None], axis=-1)[..., 0]
        log_probs = log_probs + jnp.where(is_ended, 0.0, at_word)
        lengths = lengths + ~is_ended
        tokens = tokens.at[:, :, step].set(word)
        return (
            given.state,
            word,
            step + 1,
            tokens,
            log_probs,
            is_ended | (word == EOS),
            lengths,
            key,
        )

    start = (
        state,
        jnp.full((num_rows, 1), SOS, jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.full((num_rows, 1, max_length), PAD, jnp.int32),
        jnp.zeros((num_rows, 1), dtype),
        jnp.zeros((num_rows, 1), bool),
        jnp.zeros((num_rows, 1), jnp.int32),
        key,
    )
    _, _, _, tokens, log_probs, is_ended, lengths, _ = jax.lax.while_loop(goes_on, turn, start)
    return Written(tokens, lengths, log_probs, log_probs, is_ended)


def _check(max_length: int) -> None:
    if max_length < 1:
        raise InputError(f"max_length must be 1 or more, got {max_length}")
