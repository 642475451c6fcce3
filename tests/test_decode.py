"""Writing: greedy, drawn and by beam, against a search by hand over everything that can be said."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.data.vocabulary import EOS, PAD, SOS, UNK
from seqlab.errors import InputError
from seqlab.models.attention import Attention
from seqlab.models.decode import NEVER, beam_search, ensemble, greedy, largest, sample
from seqlab.models.decoding import Step, Writer
from seqlab.models.functional import functional
from seqlab.models.seq2seq import Seq2Seq, writer

B, S, D, H, V, SOURCE_V, L = 6, 4, 3, 4, 6, 7, 4  # L: the most tokens that are written
LENGTHS = (4, 3, 1, 0, 2, 4)
MASK = np.arange(S) < np.array(LENGTHS)[:, None]
WORDS = [token for token in range(V) if token not in (*NEVER, EOS)]
PENALTIES = {"length_penalty": 0.7, "coverage_penalty": 0.4}

NETS = {
    "previous": (GRU(H), {"attention": Attention(size=5)}),
    "feeding": (
        LSTM(H),
        {
            "attention": Attention("general"),
            "query": "current",
            "input_feeding": True,
            "num_layers": 2,
            "bidirectional": False,
        },
    ),
}
every_net = pytest.mark.parametrize("name", NETS)


@pytest.fixture(scope="module", autouse=True)
def double():
    """64-bit numbers for all tests here, which share what they compile."""
    with jax.enable_x64(True):
        yield


def sized(name):
    cell, options = NETS[name]
    sizes = {"source_size": SOURCE_V, "target_size": V, "embed_size": D}
    return (cell, cell), sizes | options


@cache
def net(name="previous"):
    """(apply, compiled; the writer)."""
    cells, options = sized(name)
    return jax.jit(functional(Seq2Seq, *cells, **options).apply), writer(*cells, **options)


@cache
def weights(name="previous", seed=None):
    """Large ones, so that no two outputs are nearly as likely; some of them end."""
    chosen, bias = {"previous": (1, 2.0), "feeding": (5, 1.0)}[name]
    cells, options = sized(name)
    init = functional(Seq2Seq, *cells, **options).init
    shapes = jax.eval_shape(lambda: init(jax.random.key(0)))
    rng = np.random.default_rng(chosen if seed is None else seed)
    params = jax.tree.map(lambda s: jnp.asarray(1.3 * rng.normal(size=s.shape), s.dtype), shapes)
    return ending(params, bias)


def ending(params, bias):
    """`params` that end the sooner the larger `bias`, and rarely wish for <pad> or <sos>."""
    head = dict(params["head"])
    head["bias"] = head["bias"].at[EOS].add(bias).at[jnp.asarray(NEVER)].add(-3.0)
    return params | {"head": head}


def batch(seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, SOURCE_V, (B, S))), jnp.asarray(MASK)


@cache
def program(search, name="previous", **options):
    """A search, compiled, as a function of (params, sources, mask[, key])."""
    own = net(name)[1]
    return jax.jit(partial(search, own, max_length=L, **options))


@cache
def written(search, name="previous", **options):
    found = program(search, name, **options)(weights(name), *batch())
    return jax.tree.map(np.asarray, found)


def close(found, expected, atol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


# Everything that can be said


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@cache
def table(name):
    """Of every source: prefix -> (log p [V] of what follows, weights [S] behind it).

    By teacher forcing of every text of L - 1 words.
    """
    texts = list(itertools.product(WORDS, repeat=L - 1))
    fed = np.array([(SOS, *text) for text in texts])
    sources, mask = (np.repeat(leaf, len(texts), axis=0) for leaf in batch())
    out = net(name)[0](weights(name), sources, mask, np.tile(fed, (B, 1)))
    log_probs = log_softmax(np.asarray(out.logits)).reshape(B, len(texts), L, V)
    attention = np.asarray(out.attention).reshape(B, len(texts), L, S)
    return [
        {
            text[:t]: (log_probs[row, i, t], attention[row, i, t])
            for i, text in enumerate(texts)
            for t in range(L)
        }
        for row in range(B)
    ]


def log_prob(known, text):
    return sum(known[text[:t]][0][token] for t, token in enumerate(text))


def score(known, text, real, length_penalty=0.0, coverage_penalty=0.0):
    found = log_prob(known, text) / ((5 + len(text)) / 6) ** length_penalty
    covered = sum(known[text[:t]][1] for t in range(len(text)))[real]
    return found + coverage_penalty * np.log(np.clip(covered, 1e-6, 1.0)).sum()


def beam_by_hand(known, real, size, **penalties):
    """[(text, score, whether it has ended)], the best first, by the words of `beam_search`."""
    going, ended = [()], []

    def by_score(texts):
        scored = [(score(known, text, real, **penalties), text) for text in texts]
        return sorted(scored, reverse=True)

    def is_done():
        best = [own for own, _ in by_score(ended)][:size]
        return len(best) == size and all(own <= best[-1] for own, _ in by_score(going))

    while going and len(going[0]) < L and not is_done():
        longer = [(*text, token) for text in going for token in (*WORDS, EOS)]
        longer.sort(key=partial(log_prob, known), reverse=True)
        ended += [text for text in longer[:size] if text[-1] == EOS]
        going = [text for text in longer if text[-1] != EOS][:size]

    found = [(text, own, True) for own, text in by_score(ended)]
    found += [(text, own, False) for own, text in by_score(going)]
    return found[:size]


def assert_written(found, row, expected, known):
    """Tokens, lengths, scores, log-probabilities and ends of one source's outputs."""
    for n, (text, own, has_ended) in enumerate(expected):
        tokens = found.tokens[row, n]
        assert tuple(tokens) == text + (PAD,) * (L - len(text))
        assert found.lengths[row, n] == len(text)
        assert found.is_ended[row, n] == has_ended
        close(found.scores[row, n], own)
        close(found.log_probs[row, n], log_prob(known, text))


@pytest.mark.parametrize("penalties", [{}, PENALTIES], ids=["plain", "penalties"])
def test_a_wide_beam_is_a_search_of_everything(penalties):
    """Outputs that end, the best first, then all that are cut off; then there are no more."""
    endings = [
        (*text, EOS) for t in range(L) for text in itertools.product(WORDS, repeat=t)
    ]  # fmt: skip
    cuts = list(itertools.product(WORDS, repeat=L))
    size = len(endings) + len(cuts) + 2
    found = written(beam_search, beam_size=size, **penalties)
    assert found.tokens.shape == (B, size, L)
    for row, known in enumerate(table("previous")):
        expected = []
        for texts in (endings, cuts):
            scored = [(score(known, text, MASK[row], **penalties), text) for text in texts]
            expected += [(text, own, texts is endings) for own, text in sorted(scored)[::-1]]
        assert_written(found, row, expected, known)
        ended_by_log_prob = sorted(endings, key=partial(log_prob, known), reverse=True)
        is_other_order = [text for text, _, _ in expected[: len(endings)]] != ended_by_log_prob
        assert is_other_order == bool(penalties)
    assert np.all(found.log_probs[:, -2:] == -np.inf)
    assert not np.any(found.is_ended[:, -2:])
    total = np.exp(found.log_probs[:, :-2]).sum(axis=-1)
    assert np.all(total < 1.0)  # the rest is of outputs with <pad> or <sos>


@pytest.mark.parametrize(
    ("name", "size", "penalties"), [("previous", 2, PENALTIES), ("feeding", 3, {})]
)
def test_a_narrow_beam_by_hand(name, size, penalties):
    found = written(beam_search, name, beam_size=size, **penalties)
    for row, known in enumerate(table(name)):
        expected = beam_by_hand(known, MASK[row], size, **penalties)
        assert len(expected) == size
        assert_written(found, row, expected, known)
    assert len(np.unique(found.lengths)) > 2
    assert 0 < np.sum(found.is_ended) < found.is_ended.size


def test_a_long_output_that_is_sure_beats_short_ones_that_end_before():
    """Each word of the true text has the probability 0.99, every other token an equal rest."""
    text, num_tokens = (4, 5, 6, 4, 5, 6, EOS), 7
    sure = np.full((len(text), num_tokens), np.log(0.01 / (num_tokens - 1)))
    sure[np.arange(len(text)), text] = np.log(0.99)
    lost = np.full(num_tokens, -np.log(num_tokens))  # once another word was said

    def step(params, memory, state, tokens):
        place, is_true = state
        is_true = is_true & ((place == 0) | (tokens == jnp.array((SOS, *text))[place]))
        own = jnp.asarray(sure)[jnp.minimum(place, len(text) - 1)]
        log_probs = jnp.where(is_true[..., None], own, jnp.asarray(lost))
        return Step((place + 1, is_true), log_probs, jnp.zeros((*tokens.shape, 1)))

    def start(params, sources, mask):
        return None, (jnp.zeros(1, int), jnp.ones(1, bool))

    params, sources = {"W": jnp.zeros(())}, jnp.zeros((1, 1))
    found = beam_search(Writer(start, step), params, sources, None, beam_size=3, max_length=9)
    assert tuple(found.tokens[0, 0].tolist()) == (*text, PAD, PAD)
    close(found.log_probs[0, 0], len(text) * np.log(0.99))
    assert np.all(found.is_ended)


@pytest.mark.parametrize("size", [5, 200, 5000])
def test_the_largest_are_those_of_top_k(size):
    """With many values equal, and many of them -inf."""
    rng = np.random.default_rng(size)
    values = rng.integers(0, 40, (3, 2, size)).astype(float)
    values[rng.random(values.shape) < 0.3] = -np.inf
    values[0, 0] = -np.inf
    for found, expected in zip(largest(values, 4), jax.lax.top_k(values, 4), strict=True):
        np.testing.assert_array_equal(found, expected)


# Greedy


@every_net
def test_greedy_by_hand(name):
    """The likeliest token each time, and the score that teacher forcing gives the output."""
    found = written(greedy, name)
    for row, known in enumerate(table(name)):
        text = ()
        while len(text) < L and text[-1:] != (EOS,):
            log_probs = known[text][0].copy()
            log_probs[list(NEVER)] = -np.inf
            text += (int(log_probs.argmax()),)
        assert_written(found, row, [(text, log_prob(known, text), text[-1] == EOS)], known)
    assert 0 < np.sum(found.is_ended) < B
    tokens = found.tokens[:, 0]
    fed = jnp.roll(jnp.asarray(tokens), 1, axis=1).at[:, 0].set(SOS)
    forced = net(name)[0](weights(name), *batch(), fed)
    at_token = np.take_along_axis(log_softmax(np.asarray(forced.logits)), tokens[..., None], 2)
    is_real = np.arange(L) < found.lengths
    close(found.scores[:, 0], np.where(is_real, at_token[..., 0], 0.0).sum(axis=1))


@pytest.mark.parametrize("penalties", [{}, PENALTIES], ids=["plain", "penalties"])
def test_a_beam_of_one_is_greedy(penalties):
    found, expected = written(beam_search, beam_size=1, **penalties), written(greedy)
    for field in ("tokens", "lengths", "is_ended"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    close(found.log_probs, expected.log_probs)
    if not penalties:
        close(found.scores, expected.scores)


# What is promised of every output

SEARCHES = {
    "greedy": lambda **options: written(greedy, **options),
    "beam": lambda **options: written(beam_search, beam_size=5, **PENALTIES, **options),
    "drawn": lambda **options: jax.tree.map(
        np.asarray, program(sample, **options)(weights(), *batch(), jax.random.key(0))
    ),
}
NO_WORDS = (UNK, EOS)


@pytest.mark.parametrize(
    ("search", "banned"),
    [("greedy", ()), ("beam", ()), ("drawn", ()), ("beam", NO_WORDS), ("drawn", NO_WORDS)],
)
def test_outputs_are_whole(search, banned):
    """PAD behind the end, nothing that is never written, the best first, cut at the limit."""
    found = SEARCHES[search](banned=banned)
    tokens, lengths = found.tokens, found.lengths
    is_real = np.arange(L) < lengths[..., None]
    assert np.all(tokens[~is_real] == PAD)
    assert not np.isin(tokens[is_real], (*NEVER, *banned)).any()
    last = np.take_along_axis(tokens, lengths[..., None] - 1, axis=-1)[..., 0]
    np.testing.assert_array_equal(last == EOS, found.is_ended)
    assert np.all(lengths[~found.is_ended] == L)
    assert np.sum(tokens == EOS) == np.sum(found.is_ended)
    assert np.any(found.is_ended) == (not banned)
    assert np.isfinite(found.log_probs).all()
    for row in range(B):
        for kind in (True, False):
            scores = found.scores[row, found.is_ended[row] == kind]
            assert np.all(np.diff(scores) <= 0)
        assert len({tuple(text) for text in tokens[row]}) == tokens.shape[1]
    assert np.all(np.diff(found.is_ended.astype(int), axis=1) <= 0)


@pytest.mark.parametrize("row", [1, 3])
def test_a_source_alone_is_written_as_in_a_batch(row):
    """Alone and with other padding: the same outputs, the same scores."""
    sources, mask = batch()
    run = program(beam_search, beam_size=5, **PENALTIES)
    whole, length = written(beam_search, beam_size=5, **PENALTIES), max(LENGTHS[row], 1)
    alone = run(weights(), sources[row : row + 1, :length], mask[row : row + 1, :length])
    for found, expected in zip(alone, whole, strict=True):
        if np.issubdtype(found.dtype, np.floating):
            close(found[0], expected[row])
        else:
            np.testing.assert_array_equal(found[0], expected[row])


def test_padding_changes_no_output():
    sources, mask = batch()
    longer = jnp.pad(jnp.where(mask, sources, 5), [(0, 0), (0, 3)], constant_values=6)
    longer_mask = jnp.pad(mask, [(0, 0), (0, 3)])
    found = program(beam_search, beam_size=5, **PENALTIES)(weights(), longer, longer_mask)
    expected = written(beam_search, beam_size=5, **PENALTIES)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    close(found.scores, expected.scores)


# Several nets


def test_an_ensemble_writes_by_the_mean_of_probabilities():
    own = ensemble(net()[1])
    nets = [weights(), weights(seed=2)]
    run = jax.jit(partial(greedy, own, max_length=L))
    found = run(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets), *batch())
    tokens = np.asarray(found.tokens)[:, 0]
    fed = jnp.roll(found.tokens[:, 0], 1, axis=1).at[:, 0].set(SOS)
    shares = np.mean(
        [np.asarray(net()[0](params, *batch(), fed).predictions) for params in nets], axis=0
    )
    is_real = np.arange(L) < np.asarray(found.lengths)
    at_token = np.take_along_axis(shares, tokens[..., None], axis=-1)[..., 0]
    close(found.log_probs[:, 0], np.where(is_real, np.log(at_token), 0.0).sum(axis=1))
    shares[..., list(NEVER)] = 0.0
    np.testing.assert_array_equal(tokens[is_real], shares.argmax(axis=-1)[is_real])
    assert not np.array_equal(found.tokens, written(greedy).tokens)
    same = run(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), weights()), *batch())
    np.testing.assert_array_equal(same.tokens, written(greedy).tokens)
    close(same.scores, written(greedy).scores)


def test_a_beam_of_two_equal_nets_is_that_of_one():
    """Their states, and what they cover, follow their outputs."""
    run = jax.jit(partial(beam_search, ensemble(net()[1]), max_length=L, beam_size=2, **PENALTIES))
    same = run(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), weights()), *batch())
    expected = written(beam_search, beam_size=2, **PENALTIES)
    np.testing.assert_array_equal(same.tokens, expected.tokens)
    close(same.scores, expected.scores)


# By drawing


def test_what_is_drawn_has_the_probabilities_of_the_model():
    """4,000 times the same source: first tokens, and second ones behind the likeliest first."""
    count = 4000
    sources, mask = (jnp.repeat(leaf[:1], count, axis=0) for leaf in batch())
    run = program(sample)
    found = run(weights(), sources, mask, jax.random.key(2))
    again = run(weights(), sources, mask, jax.random.key(2))
    np.testing.assert_array_equal(found.tokens, again.tokens)
    assert not np.array_equal(
        found.tokens, run(weights(), sources, mask, jax.random.key(3)).tokens
    )  # fmt: skip
    tokens, known = np.asarray(found.tokens)[:, 0], table("previous")[0]

    def check(drawn, log_probs):
        shares = np.exp(log_probs)
        shares[list(NEVER)] = 0.0
        allowed = np.flatnonzero(shares)
        counts = np.bincount(drawn, minlength=V)
        assert counts[list(NEVER)].sum() == 0
        expected = len(drawn) * shares[allowed] / shares.sum()
        assert expected.min() > 1
        assert stats.chisquare(counts[allowed], expected).pvalue > 1e-3

    check(tokens[:, 0], known[()][0])
    first = max(WORDS, key=lambda word: known[()][0][word])
    check(tokens[tokens[:, 0] == first, 1], known[(first,)][0])
    for text, length, own in zip(tokens[:20], found.lengths[:20, 0], found.log_probs, strict=False):
        close(own, log_prob(known, tuple(text[:length])))  # of the whole vocabulary


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 1}])
def test_nothing_is_left_to_draw(options):
    found = program(sample, **options)(weights(), *batch(), jax.random.key(0))
    np.testing.assert_array_equal(found.tokens, written(greedy).tokens)
    close(found.log_probs, written(greedy).log_probs)


# Programs and errors


def test_outputs_of_other_lengths_are_written_by_the_same_program():
    traces, own = [], net()[1]

    def count(params, sources, mask):
        traces.append(sources.shape)
        return beam_search(own, params, sources, mask, beam_size=2, max_length=9)

    run, ends = jax.jit(count), []
    _, mask = batch()
    for bias in (6.0, 0.0, -30.0):  # how willingly an output ends
        sources = batch(int(bias) + 40)[0]
        ends.append(int(run(ending(weights(), bias), sources, mask).lengths.max()))
    assert len(set(ends)) > 1
    assert ends[-1] == 9
    assert traces == [(B, S)]


drawn = partial(sample, key=None)


@pytest.mark.parametrize(
    ("search", "options", "message"),
    [
        (greedy, {"max_length": 0}, "max_length must be 1 or more, got 0"),
        (beam_search, {"max_length": 0, "beam_size": 1}, "max_length must be 1 or more, got 0"),
        (beam_search, {"max_length": 1, "beam_size": 0}, "beam_size must be 1 or more, got 0"),
        (
            beam_search,
            {"max_length": 1, "beam_size": 1, "length_penalty": -0.5},
            r"length_penalty must be 0 or more, got -0\.5",
        ),
        (
            beam_search,
            {"max_length": 1, "beam_size": 1, "coverage_penalty": float("nan")},
            "coverage_penalty must be 0 or more, got nan",
        ),
        (drawn, {"max_length": 1, "temperature": -1.0}, "temperature must be 0 or more, got -1"),
        (drawn, {"max_length": 1, "top_k": 0}, "top_k must be 1 or more, got 0"),
        (drawn, {"max_length": 1, "top_p": 1.5}, r"top_p must be above 0 and at most 1, got 1\.5"),
    ],
)
def test_searches_that_cannot_be_are_told_in_one_line(search, options, message):
    with pytest.raises(InputError, match=message):
        search(net()[1], {}, *batch(), **options)
