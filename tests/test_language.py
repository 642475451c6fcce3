"""The recurrent language model: its numbers by hand and by torch, what it drops, what it writes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from seqlab.cells.convert import stack_from_torch
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.errors import InputError
from seqlab.models.functional import functional
from seqlab.models.language import (
    Drop,
    LanguageModel,
    LanguageOutput,
    activation_penalty,
    draw,
    sample,
    uniform,
)
from seqlab.types import SHARDS

B, T, D, H, V = 4, 6, 5, 5, 7


@dataclass(frozen=True)
class Echo:
    """Gives what it reads, so that the masks around it can be seen; its `W_h` is not felt."""

    hidden_size: int

    def init(self, key, input_size):
        del key
        return {"W_h": jnp.ones((input_size, self.hidden_size))}

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["W_h"].dtype)

    def step(self, params, h, x):
        return x

    def output(self, h):
        return h


def fresh(seed=3):
    """A key that nothing has used yet."""
    return jax.random.key(seed)


def tokens(shape=(B, T), seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape))


def ready(cells, *, tied=False, drop=None, embed_size=D):
    """A model and parameters of which none is zero."""
    model = functional(
        LanguageModel, cells, vocab_size=V, embed_size=embed_size, tied=tied, drop=drop or Drop()
    )
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes)
    return model._replace(apply=jax.jit(model.apply)), params


def echoing(num_layers=1, units=D, **rates):
    """Echoes of ones: what comes out are the masks themselves."""
    model, params = ready([Echo(units)] * num_layers, drop=Drop(**rates), embed_size=units)
    params["embed"]["embedding"] = jnp.ones((V, units))
    return model, params


def logits_by_hand(params, xs, num_layers):
    """numpy, token by token, gate by gate."""
    params = jax.tree.map(np.asarray, params)
    E, head = params["embed"]["embedding"], params["head"]
    W = head.get("kernel", E.T)

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    found = np.zeros((*xs.shape, len(E)))
    for b, row in enumerate(np.asarray(xs)):
        states = [(np.zeros(H), np.zeros(H)) for _ in range(num_layers)]
        for t, token in enumerate(row):
            x = E[token]
            for layer in range(num_layers):
                gates, (h, c) = params["rnn"]["weights"][f"layer_{layer}"], states[layer]
                a = {g: x @ p["W_x"] + h @ p["W_h"] + p["b"] for g, p in gates.items()}
                c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
                x = h = sigmoid(a["o"]) * np.tanh(c)
                states[layer] = h, c
            found[b, t] = x @ W + head["bias"]
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_a_loop(x64, tied):
    model, params = ready([LSTM(H), LSTM(H)], tied=tied)
    assert set(params["head"]) == ({"bias"} if tied else {"bias", "kernel"})
    xs = tokens()
    output = model.apply(params, xs)
    expected = logits_by_hand(params, xs, 2)
    np.testing.assert_allclose(output.logits, expected, atol=1e-12)
    shares = np.exp(expected) / np.exp(expected).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(output.predictions, shares, atol=1e-12)
    np.testing.assert_array_equal(output.ys, output.read)
    # In two halves, the carry handed over.
    first = model.apply(params, xs[:, :2])
    carry = jax.tree.map(lambda leaf: leaf[:, -1], first.carries["rnn"])
    second = model.apply(params, xs[:, 2:], carry=carry)
    np.testing.assert_allclose(
        jnp.concatenate([first.logits, second.logits], axis=1), expected, atol=1e-12
    )


def test_fresh_parameters_begin_with_unit_variance():
    for tied, expected in ((False, 1.0), (True, 100**-0.5)):
        model = functional(LanguageModel, [GRU(100)], vocab_size=500, embed_size=100, tied=tied)
        params = model.init(jax.random.key(0))
        assert np.std(params["embed"]["embedding"]) == pytest.approx(expected, rel=0.02)
        assert not np.any(params["head"]["bias"])


@pytest.mark.peers
@pytest.mark.parametrize("tied", [False, True])
def test_torch_gives_the_same_logits_and_gradients(x64, tied):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = torch.nn.ModuleDict(
        {
            "embed": torch.nn.Embedding(V, D),
            "rnn": torch.nn.LSTM(D, H, 2, batch_first=True),
            "head": torch.nn.Linear(H, V),
        }
    ).double()
    if tied:
        peer["head"].weight = peer["embed"].weight
    model, _ = ready([LSTM(H), LSTM(H)], tied=tied)
    rng = np.random.default_rng(1)
    xs, bar = rng.integers(0, V, (B, T)), rng.normal(size=(B, T, V))
    weights = dict(peer.named_parameters())
    state = {name: jnp.asarray(leaf.detach().numpy()) for name, leaf in weights.items()}

    def logits(state):
        head = {"bias": state["head.bias"]}
        if not tied:
            head["kernel"] = state["head.weight"].T
        own = {k.removeprefix("rnn."): v for k, v in state.items() if k.startswith("rnn.")}
        layers = stack_from_torch([LSTM(H), LSTM(H)], own)
        embed = {"embedding": state["embed.weight"]}
        return model.apply({"embed": embed, "rnn": {"weights": layers}, "head": head}, xs).logits

    found, send_back = jax.vjp(jax.jit(logits), state)
    (grads,) = send_back(jnp.asarray(bar))
    expected = peer["head"](peer["rnn"](peer["embed"](torch.from_numpy(xs)))[0])
    expected.backward(torch.from_numpy(bar))
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-12)
    assert len(weights) == (10 if tied else 11)
    for name, leaf in weights.items():
        np.testing.assert_allclose(grads[name], leaf.grad.numpy(), atol=1e-11, err_msg=name)


# What is dropped


def test_without_a_key_nothing_is_dropped():
    rates = {name: 0.5 for name in ("words", "inputs", "between", "outputs", "weights")}
    dropping, params = ready([LSTM(H), LSTM(H)], drop=Drop(**rates, recurrent=0.5))
    plain, _ = ready([LSTM(H), LSTM(H)])
    np.testing.assert_array_equal(
        dropping.apply(params, tokens()).logits, plain.apply(params, tokens()).logits
    )
    assert not np.allclose(
        dropping.apply(params, tokens(), key=fresh()).logits, plain.apply(params, tokens()).logits
    )


@pytest.mark.parametrize("place", ["inputs", "between", "outputs"])
@pytest.mark.parametrize("variational", [False, True])
def test_masks_have_their_rate_and_scale_and_change_in_time_or_not(place, variational):
    model, params = echoing(2, units=50, variational=variational, **{place: 0.3})
    xs = tokens((40, 12))
    output = model.apply(params, xs, key=fresh())
    mask = np.asarray(output.read)
    kept = np.float32(1 / 0.7)
    assert set(np.unique(mask)) == {0, kept}
    draws = mask[:, 0] if variational else mask
    rate = np.mean(draws == 0)
    assert rate == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / draws.size))
    assert np.all(mask == mask[:, :1]) == variational
    assert not np.all(mask == mask[:1])  # rows have masks of their own
    assert np.any(np.asarray(output.ys) != 1) == (place != "outputs")


def test_whole_words_are_dropped_alike_everywhere_in_a_batch():
    model, params = echoing(words=0.4)
    xs = tokens((30, 20))
    keys = jax.random.split(fresh(), 60)
    masks = np.asarray(jax.vmap(lambda key: model.apply(params, xs, key=key).ys)(keys))
    for mask in masks[:5]:
        for word in range(V):
            assert len(np.unique(mask[np.asarray(xs) == word])) == 1
    assert set(np.unique(masks)) == {0, np.float32(1 / 0.6)}
    first = [[mask[np.asarray(xs) == word][0, 0] for word in range(V)] for mask in masks]
    assert np.mean(np.array(first) == 0) == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / 420))


def linear(rate):
    """A linear net without inputs: its states are powers of the matrix that it is walked with."""
    cell = RNN(H, activation="identity")
    model, params = ready([cell], drop=Drop(weights=rate))
    layer = params["rnn"]["weights"]["layer_0"]
    layer["b"] = jnp.zeros(H)
    layer["W_x"] = jnp.zeros((D, H))
    return model, params, layer["W_h"]


def test_dropped_weights_are_of_the_recurrent_matrix_one_mask_at_all_steps(x64):
    model, params, W = linear(0.5)

    @jax.jit
    def states(key):
        carry = {"layer_0": jnp.eye(H)}
        return model.apply(params, jnp.zeros((H, 3), int), carry=carry, key=key).ys

    ys = np.asarray(states(fresh()))
    dropped = ys[:, 0]
    is_kept = dropped != 0
    assert 0 < is_kept.sum() < H * H
    np.testing.assert_allclose(dropped, np.where(is_kept, 2 * W, 0.0), atol=1e-12)
    np.testing.assert_allclose(ys[:, 2], dropped @ dropped @ dropped, atol=1e-12)
    many = np.asarray(jax.vmap(states)(jax.random.split(fresh(), 2000)))[:, :, 0]
    assert np.mean(many == 0) == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(many.mean(axis=0), W, atol=5 * np.abs(W).max() / np.sqrt(2000))


def test_dropped_weights_of_gates_leave_inputs_and_biases_alone():
    model, params = ready([LSTM(H), LSTM(H)], drop=Drop(weights=0.5))
    found = [model.apply(params, tokens(), key=key).logits for key in (fresh(), None)]
    np.testing.assert_array_equal(found[0][:, 0], found[1][:, 0])  # h is zero before
    assert not np.any(np.all(found[0][:, 1:] == found[1][:, 1:], axis=-1))


@pytest.mark.parametrize("variational", [False, True])
def test_rows_shared_out_over_devices_have_the_masks_of_one(variational):
    rates = {name: 0.4 for name in ("words", "inputs", "between", "outputs")}
    model, params = echoing(2, variational=variational, **rates)
    xs = tokens()

    def read(xs):
        return model.apply(params, xs, key=fresh()).read

    shared = jax.vmap(read, axis_name=SHARDS)(xs.reshape(2, B // 2, T))
    np.testing.assert_array_equal(shared.reshape(B, T, D), read(xs))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ready([LSTM(H + 1)], tied=True), "tied: the last layer has 6 units"),
        (lambda: ready([LSTM(H)], drop=Drop(between=0.1)), "between layers and there is one"),
        (lambda: ready([LSTM(H)], drop=Drop(inputs=1.0)), "drop inputs must be a probability"),
        (lambda: ready([LSTM(H)], drop=Drop(weights=-0.1)), "drop weights must be"),
        (lambda: ready([LSTM(H)], drop=Drop(words=float("nan"))), "drop words must be"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_weights_of_a_cell_without_a_recurrent_matrix_cannot_be_dropped():
    @dataclass(frozen=True)
    class NoMatrix(Echo):
        def init(self, key, input_size):
            return {"W_x": super().init(key, input_size)["W_h"]}

        def initial_carry(self, params, batch_shape=()):
            return super().initial_carry({"W_h": params["W_x"]}, batch_shape)

    with pytest.raises(InputError, match="drop weights is of W_h"):
        ready([NoMatrix(D)], drop=Drop(weights=0.5))


# Beside the loss


def test_the_penalty_by_hand(x64):
    rng = np.random.default_rng(0)
    ys, read = rng.normal(size=(2, B, T, H))
    mask = np.arange(T) < np.array([T, 1, 3, 0])[:, None]
    output = LanguageOutput(None, None, {}, jnp.asarray(ys), jnp.asarray(read))
    squares, changes = [], []
    for b, t in np.argwhere(mask):
        squares.append(read[b, t] ** 2)
        if t + 1 < T and mask[b, t + 1]:
            changes.append((ys[b, t + 1] - ys[b, t]) ** 2)
    ar, tar = np.mean(squares), np.mean(changes)
    for a, b in ((2.0, 0.0), (0.0, 1.0), (2.0, 1.0), (0.0, 0.0)):
        found = activation_penalty(output, jnp.asarray(mask), a, b)
        assert float(found) == pytest.approx(a * ar + b * tar, rel=1e-12)
    one = LanguageOutput(None, None, {}, output.ys[:, :1], output.read[:, :1])
    assert float(activation_penalty(one, jnp.ones((B, 1), bool), 0.0, 1.0)) == 0.0


def test_uniform_draws_every_entry_anew(x64):
    params = {"a": jnp.zeros((100, 50)), "b": {"c": jnp.ones(5000), "d": jnp.ones(5000)}}
    found = uniform(fresh(), params, 0.1)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for leaf in jax.tree.leaves(found):
        assert stats.kstest(np.ravel(leaf), stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
    assert not np.any(found["b"]["c"] == found["b"]["d"])
    again = uniform(fresh(), params, 0.1)
    jax.tree.map(np.testing.assert_array_equal, found, again)


# What it writes


def drawn(logits, count=300, **rules):
    """Tokens drawn from logits [V], [count]."""
    logits = jnp.asarray(logits)
    rows = jnp.broadcast_to(logits, (count, len(logits)))
    return np.asarray(draw(rows, fresh(), **rules))


def test_temperature_zero_takes_the_likeliest_every_time():
    model, params = ready([GRU(H)])
    prime = tokens((2, 3))
    found = np.asarray(sample(model, params, prime, 6, fresh(), temperature=0.0))
    assert found.shape == (2, 6)
    text = np.concatenate([prime, found], axis=1)
    likeliest = np.argmax(model.apply(params, text).logits, axis=-1)
    np.testing.assert_array_equal(found, likeliest[:, 2:-1])
    one = sample(model, params, prime[0], 6, fresh(), temperature=0.0)  # leading axes are free
    np.testing.assert_array_equal(one, found[0])


def test_the_same_key_writes_the_same_text_and_the_banned_is_never_written():
    model, params = ready([GRU(H)])
    prime = tokens((8, 2))

    def text(seed):
        rules = {"temperature": 3.0, "banned": (2, 5)}
        return np.asarray(sample(model, params, prime, 40, fresh(seed), **rules))

    first = text(0)
    np.testing.assert_array_equal(first, text(0))
    assert not np.array_equal(first, text(1))
    assert set(np.unique(first)) == set(range(V)) - {2, 5}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_are_as_frequent_as_the_softmax_says(temperature):
    logits = np.array([2.0, 0.0, -1.0, 1.0, 0.5, -0.5])
    shares = np.exp(logits / temperature)
    count = 20_000
    seen = np.bincount(drawn(logits, count, temperature=temperature), minlength=6)
    assert stats.chisquare(seen, count * shares / shares.sum()).pvalue > 1e-3
    # What rules leave keeps its shares among each other.
    seen = np.bincount(drawn(logits, count, temperature=temperature, top_k=3), minlength=6)
    left = np.array([0, 3, 4])
    assert seen[left].sum() == count
    assert stats.chisquare(seen[left], count * shares[left] / shares[left].sum()).pvalue > 1e-3


@pytest.mark.parametrize("top_k", [1, 3, 6, 9])
def test_top_k_leaves_that_many_ties_or_not(top_k):
    different, equal = [0.3, 0.1, 0.6, 0.2, 0.5, 0.4], [0.1, 0.3, 0.1, 0.1, 0.1, 0.1]
    assert set(drawn(different, top_k=top_k)) == set(np.argsort(different)[-top_k:])
    assert set(drawn(equal, top_k=top_k)) == set([1, 0, 2, 3, 4, 5][:top_k])


@given(
    st.lists(st.integers(1, 12), min_size=6, max_size=6),
    st.floats(0.01, 1.0),
    st.sampled_from([None, 1, 3, 5]),
)
def test_the_nucleus_is_the_smallest_set_that_reaches_its_share(weights, top_p, top_k):
    shares = np.array(weights) / np.sum(weights)
    order = np.argsort(-shares, kind="stable")[:top_k]  # of equal ones the first
    reached = np.cumsum(shares[order]) / np.sum(shares[order])
    assume(np.min(np.abs(reached - top_p)) > 1e-5 or top_p == 1.0)
    size = len(order) if top_p == 1.0 else int(np.argmax(reached >= top_p)) + 1
    kept = order[:size]
    seen = np.bincount(drawn(np.log(shares), 256, top_k=top_k, top_p=top_p), minlength=6)
    assert set(np.flatnonzero(seen)) <= set(kept)
    sure = [word for word in kept if shares[word] / np.sum(shares[kept]) > 0.08]
    assert set(sure) <= set(np.flatnonzero(seen))  # 0.92^256 < 1e-9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_tokens": 0}, "num_tokens must be 1 or more"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"top_p": float("nan")}, "top_p must be above 0"),
        ({"prime": jnp.zeros((0,), int)}, "prime is empty"),
        ({"prime": 3}, "prime is empty"),
    ],
)
def test_a_text_that_cannot_be_written_is_refused(options, words):
    model, params = ready([GRU(H)])
    given = {"prime": jnp.zeros((1,), int), "num_tokens": 2, **options}
    with pytest.raises(InputError, match=words):
        sample(model, params, key=fresh(), **given)
