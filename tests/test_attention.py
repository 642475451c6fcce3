"""Attention: of each kind by hand, over real steps alone; pooling, and what it is good for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.errors import InputError
from seqlab.gradflow.taps import carry_gradients
from seqlab.losses import cross_entropy
from seqlab.models.attention import KINDS, Attention, attended, masked_softmax
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne, Recurrent
from seqlab.recurrence import bidirectional, unroll
from seqlab.testing import assert_padding_invariant
from seqlab.train import init_state, make_train_step, steps

B, T, D, H, K, V = 3, 5, 2, 4, 3, 7
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)


def ready(cell=None, **options):
    settings = {"input_size": D, "output_size": K} | options
    model = functional(ManyToOne, cell or GRU(H), **settings)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes)
    return model._replace(apply=jax.jit(model.apply)), params


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# The softmax


def test_masked_softmax_by_hand(x64):
    scores = jnp.log(jnp.asarray([[1.0, 2.0, 5.0, 1.0], [3.0, 1.0, 1.0, 1.0]]))
    mask = jnp.asarray([[True, True, False, True], [True, False, False, False]])
    expected = [[0.25, 0.5, 0.0, 0.25], [1.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(masked_softmax(scores, mask), expected, rtol=1e-12)
    np.testing.assert_allclose(masked_softmax(scores, None)[1, 0], 0.5, rtol=1e-12)


def test_nothing_real_and_what_is_masked(x64):
    """All zeros without a real entry; NaN and huge scores behind the mask are not felt."""
    mask = jnp.asarray(MASK)
    scores = normal(1, B, T)
    plain = masked_softmax(scores, mask)
    np.testing.assert_array_equal(plain[2], 0.0)

    def weighed(scores):
        return jnp.sum(masked_softmax(scores, mask) * jnp.cos(jnp.arange(B * T)).reshape(B, T))

    slope = jax.grad(weighed)(scores)
    assert (np.asarray(slope)[~MASK] == 0.0).all()
    assert np.abs(np.asarray(slope)[0]).min() > 0.0
    for fill in (np.nan, np.inf, 1e300):
        spoilt = jnp.where(mask, scores, fill)
        np.testing.assert_array_equal(masked_softmax(spoilt, mask), plain)
        np.testing.assert_array_equal(jax.grad(weighed)(spoilt), slope)


# The kinds

Q, S, QUERY, MEMORY = 3, 5, 4, 3
SETTINGS = {"max_steps": 7, "window": 3.0}


def attention(kind, rows=B):
    """(attention, parameters of which none is zero, queries, memory)."""
    own = Attention(kind, size=None if kind == "local-p" else 6, **SETTINGS)
    width = QUERY if kind == "dot" else MEMORY
    shapes = jax.eval_shape(lambda: own.init(jax.random.key(0), QUERY, width))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)
    return own, params, normal(1, rows, Q, QUERY), normal(2, rows, S, width)


@partial(jax.jit, static_argnums=0)
def weigh(own, params, queries, memory, mask):
    return own.weights(params, queries, own.keys(params, memory), mask)


def score_by_hand(kind, params, s, h, j, num_real):
    """e_j of one query and one step of the memory."""
    if kind in ("additive", "concat"):
        return params["v"] @ np.tanh(s @ params["W_q"] + h @ params["W_m"])
    if kind == "dot":
        return s @ h
    if kind == "location":
        return s @ params["W_q"][:, j]
    score = s @ params["W_q"] @ h
    if kind == "local-p":
        share = 1 / (1 + np.exp(-np.tanh(s @ params["W_p"]) @ params["v"]))
        sigma = SETTINGS["window"] / 2
        score = score - (j - num_real * share) ** 2 / (2 * sigma**2)
    return score


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_kind_by_hand(x64, kind):
    """Of sum 1 over real steps, 0 elsewhere; all 0 where no step is real."""
    own, params, queries, memory = attention(kind)
    found = np.asarray(weigh(own, params, queries, memory, jnp.asarray(MASK)))
    assert found.shape == (B, Q, S)
    assert found.dtype == np.float64
    numbers = jax.tree.map(np.asarray, params)
    for row, real in enumerate(MASK):
        for s, weights in zip(np.asarray(queries)[row], found[row], strict=True):
            scores = [
                score_by_hand(kind, numbers, s, np.asarray(memory)[row, j], j, real.sum())
                for j in np.flatnonzero(real)
            ]
            shares = np.exp(scores)
            np.testing.assert_allclose(weights[real], shares / shares.sum(), rtol=0, atol=1e-13)
            np.testing.assert_array_equal(weights[~real], 0.0)
    np.testing.assert_allclose(
        found.sum(axis=-1), np.repeat([[1], [1], [0]], Q, axis=1), atol=1e-13
    )
    # Without a mask all steps are real, as in row 0; a sequence alone is a row of a batch.
    alone = own.weights(params, queries[0], own.keys(params, memory[0]))
    np.testing.assert_allclose(alone, found[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_masked_memory_holds_is_not_felt(x64, kind):
    own, params, queries, memory = attention(kind)
    mask = jnp.asarray(MASK)
    spoilt = jnp.where(mask[..., None], memory, jnp.nan)
    np.testing.assert_array_equal(
        weigh(own, params, queries, spoilt, mask), weigh(own, params, queries, memory, mask)
    )


def test_contexts_are_weighted_sums(x64):
    weights, memory = normal(1, B, Q, S), normal(2, B, S, MEMORY)
    expected = [
        [sum(weights[b, q, j] * memory[b, j] for j in range(S)) for q in range(Q)] for b in range(B)
    ]
    np.testing.assert_allclose(attended(weights, memory), expected, rtol=0, atol=1e-13)


def test_fresh_parameters_are_those_of_the_equations(x64):
    sizes = {
        "additive": {"W_q": (4, 6), "W_m": (3, 6), "v": (6,)},
        "dot": {},
        "general": {"W_q": (4, 3)},
        "location": {"W_q": (4, 7)},
        "local-p": {"W_q": (4, 3), "W_p": (4, 6), "v": (6,)},
    }
    for kind, shapes in sizes.items():
        own = Attention(kind, size=6, max_steps=7)
        params = own.init(jax.random.key(0), 4, 4 if kind == "dot" else 3)
        assert {name: leaf.shape for name, leaf in params.items()} == shapes
        assert all(leaf.dtype == np.float64 and leaf.any() for leaf in params.values())
    params = Attention().init(jax.random.key(0), 4, 3)
    assert params["v"].shape == (4,)  # as wide as the query
    assert not np.array_equal(params["W_q"][:3], params["W_m"])  # drawn each by itself


def test_an_attention_that_cannot_be_is_told_in_one_line():
    with pytest.raises(InputError, match="attention='luong': expected one of additive, concat"):
        Attention("luong")
    for field in ("size", "max_steps", "window"):
        with pytest.raises(InputError, match=rf"{field}=0\): expected more than 0"):
            Attention(**{field: 0})
    with pytest.raises(InputError, match=r"'dot' .* 4 .* 3 .*use 'general'"):
        Attention("dot").init(jax.random.key(0), 4, 3)
    own = Attention("location", max_steps=4)
    params = own.init(jax.random.key(0), 4, 3)
    assert own.keys(params, jnp.ones((4, 3))).shape == (4, 3)
    with pytest.raises(InputError, match="4 steps, the memory has 5: raise max_steps"):
        own.keys(params, jnp.ones((5, 3)))


# The pooling


@pytest.mark.parametrize("scores", ["additive", "dot"])
@pytest.mark.parametrize("both_directions", [False, True])
def test_attention_pools_by_hand(x64, scores, both_directions):
    cell = LSTM(H)
    model, params = ready(cell, pooling="attention", scores=scores, bidirectional=both_directions)
    xs, mask = normal(1, B, T, D), jnp.asarray(MASK)
    weights = params["rnn"]["weights"]
    if both_directions:
        walked = bidirectional((cell, cell), weights["layer_0"], xs, mask=mask)
    else:
        walked = unroll(cell, weights, xs, mask=mask)
    own = jax.tree.map(np.asarray, params)
    out = model.apply(params, xs, mask)
    for row in range(B):
        ys = np.asarray(walked.ys)[row, MASK[row]]
        read = ys
        if scores == "additive":
            reading = own["attention"]["reading"]
            read = np.tanh(ys @ reading["kernel"] + reading["bias"])
        odds = np.exp(read @ own["attention"]["query"])
        shares = odds / odds.sum() if len(odds) else odds
        np.testing.assert_allclose(out.attention[row, MASK[row]], shares, rtol=1e-12)
        np.testing.assert_array_equal(out.attention[row, ~MASK[row]], 0.0)
        logits = (shares @ ys) @ own["head"]["kernel"] + own["head"]["bias"]
        np.testing.assert_allclose(out.logits[row], logits, rtol=1e-12)
    assert ("reading" in params["attention"]) == (scores == "additive")


@pytest.mark.parametrize("scores", ["additive", "dot"])
def test_padding_is_inert(x64, scores):
    model, _ = ready(pooling="attention", scores=scores, vocab_size=V)
    xs = jnp.asarray(np.random.default_rng(1).integers(0, V, (B, T)))
    assert_padding_invariant(model, xs, MASK)


def test_a_classifier_of_layers_is_tapped_like_any_other(x64):
    model, params = ready(
        GRU(H), pooling="attention", vocab_size=V, num_layers=2, bidirectional=True
    )
    xs = np.random.default_rng(1).integers(0, V, (B, T))
    taps = carry_gradients(
        model.apply, lambda out: jnp.sum(out.logits**2), params, xs, jnp.asarray(MASK)
    )
    assert taps["rnn"]["layer_1"]["backward"].shape == (B, T, H)
    assert np.abs(taps["rnn"]["layer_0"]["forward"][0]).min() > 0.0


def test_it_learns_where_to_look():
    """The answer is the token after the mark, wherever it stands: attention goes there."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 11, 64)
    xs = rng.integers(3, V, (64, 12))
    targets = np.arange(64) % 2
    rows = np.arange(64)
    xs[rows, places], xs[rows, places + 1] = 2, targets
    model = functional(
        ManyToOne, GRU(16), input_size=8, output_size=2, vocab_size=V, pooling="attention"
    )
    optimizer = optax.adam(0.02)
    state = init_state(model.init(jax.random.key(0)), optimizer, jax.random.key(1))

    def loss_fn(params, batch, key):
        logits = model.apply(params, batch["xs"]).logits
        return jnp.mean(cross_entropy(logits, batch["targets"])), {}

    batches = [{"xs": xs, "targets": targets}] * 150
    for _, after, _ in steps(make_train_step(loss_fn, optimizer), state, batches):
        state = after
    out = model.apply(state.params, xs)
    assert (out.logits.argmax(axis=-1) == targets).all()
    found = np.asarray(out.attention)
    behind = np.where(np.arange(12) > places[:, None], found, 0.0).sum(axis=1)
    assert np.median(behind) > 0.9  # before the answer there is nothing to be read


# What is dropped


def test_features_are_dropped_by_their_rate(x64):
    """In the mean over masks a linear head answers as without them."""
    model, params = ready(pooling="mean", drop_features=0.5)
    xs = normal(1, B, T, D)
    calm = model.apply(params, xs).logits
    np.testing.assert_array_equal(calm, ready(pooling="mean")[0].apply(params, xs).logits)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.vmap(lambda key: model.apply(params, xs, key=key).logits)(keys)
    spread = drawn.std(axis=0) / np.sqrt(len(keys))
    assert (np.abs(drawn.mean(axis=0) - calm) < 5 * spread).all()  # the head is linear
    assert (spread > 0).all()


@pytest.mark.parametrize("variational", [False, True])
def test_the_mask_of_inputs_is_fresh_each_step_or_one_a_sequence(x64, variational):
    """Weights that make h tell whether the step's only input was dropped."""
    model, params = ready(
        GRU(1), input_size=1, pooling="attention", drop_inputs=0.5, num_layers=2,
        variational=variational,
    )  # fmt: skip
    xs = jnp.ones((200, 8, 1))
    first = model.apply(params, xs, key=jax.random.key(1)).carries["rnn"]["layer_0"]
    whole = model.apply(params, xs).carries["rnn"]["layer_0"]
    without = model.apply(params, jnp.zeros_like(xs)).carries["rnn"]["layer_0"]
    doubled = model.apply(params, 2.0 * xs).carries["rnn"]["layer_0"]
    assert np.abs(whole - without).max() > 1e-3
    is_kept = np.isclose(first[:, 0, 0], doubled[:, 0, 0], rtol=1e-12)
    assert abs(is_kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(200)
    followed = np.isclose(first[..., 0], doubled[..., 0], rtol=1e-12).all(axis=1) | np.isclose(
        first[..., 0], without[..., 0], rtol=1e-12
    ).all(axis=1)
    assert followed.all() if variational else followed.mean() < 0.1


def test_layers_alone_draw_what_they_always_drew(x64):
    """Recorded figures of models with dropout between layers stay what they are."""
    plain, params = ready(GRU(H), num_layers=2, dropout=0.5)
    xs = normal(1, B, T, D)
    layers = functional(Recurrent, GRU(H), D, num_layers=2, dropout=0.5)
    key = jax.random.key(3)
    walked = layers.apply(params["rnn"], xs, key=jax.random.clone(key))
    logits = np.asarray(walked.ys)[:, -1] @ np.asarray(params["head"]["kernel"])
    found = plain.apply(params, xs, key=key).logits
    np.testing.assert_allclose(found, logits + np.asarray(params["head"]["bias"]), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "attend"}, "pooling='attend': expected one of last, mean, max, attention"),
        ({"scores": "general"}, "scores='general': expected one of additive, dot"),
        ({"drop_inputs": 1.0}, r"drop_inputs=1\.0: expected a probability below 1"),
        ({"drop_features": -0.1}, r"drop_features=-0\.1: expected a probability below 1"),
    ],
)
def test_an_option_that_is_none_is_told_in_one_line(options, message):
    with pytest.raises(InputError, match=message):
        ready(**options)


# Vectors in place of tokens


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
def test_vectors_are_read_in_place_of_tokens(x64, kind):
    model = functional(kind, GRU(H), input_size=D, output_size=K, vocab_size=V)
    params = model.init(jax.random.key(0))
    xs = np.random.default_rng(1).integers(0, V, (B, T))
    es = params["embed"]["embedding"][xs]
    np.testing.assert_array_equal(
        model.apply(params, es, jnp.asarray(MASK)).logits,
        model.apply(params, xs, jnp.asarray(MASK)).logits,
    )
