"""word2vec against the likelihood as it is written, and against what it converges to."""

import itertools
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlab.embeddings import draws, tiles, word2vec
from seqlab.embeddings.corpus import Corpus
from seqlab.embeddings.huffman import huffman_paths
from seqlab.embeddings.word2vec import (
    State,
    Training,
    Word2Vec,
    block_size_for,
    choose_path,
    init_state,
)
from seqlab.errors import InputError

EITHER = [
    "jax",
    pytest.param("numba", marks=pytest.mark.skipif(
        find_spec("numba") is None, reason='numba is not installed: pip install "seqlab[fast]"'
    )),
]  # fmt: skip


def toy(ids, vocab_size=None):
    """A corpus in memory; -1 ends a sentence."""
    ids = np.asarray(ids, np.int32)
    size = vocab_size or int(ids.max()) + 1
    counts = np.maximum(np.bincount(ids[ids >= 0], minlength=size), 1)
    words = tuple(map(str, range(size)))
    return Corpus(Path("toy"), words, counts, ids, int(np.sum(ids >= 0)), 1, None, None)


def markov(num_tokens, vocab_size=8, seed=0):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(vocab_size, 0.5), size=vocab_size)
    ids = [0]
    while len(ids) < num_tokens:
        ids.append(int(rng.choice(vocab_size, p=chances[ids[-1]])))
    return toy(ids, vocab_size)


def written(config, tables, ids, radii, drawn, weight, paths, block=None):
    """Sum of losses over a stream or a block of it, as sums of the lecture: one pair, one line."""
    inputs, outputs = tables
    total, examples = 0.0, 0
    for t in range(len(ids)) if block is None else block:
        centre = ids[t]
        if centre < 0:
            continue
        around = []
        for step in (-1, 1):
            for far in range(1, radii[t] + 1):
                at = t + step * far
                if not 0 <= at < len(ids) or ids[at] < 0:
                    break
                around.append(ids[at])
        if not around:
            continue
        if config.method == "cbow":
            bag = jnp.sum(inputs[jnp.asarray(around)], axis=0)
            pairs = [(bag / len(around) if config.cbow_mean else bag, centre)]
        elif config.objective == "hierarchical":
            pairs = [(inputs[word], centre) for word in around]
        else:
            pairs = [(inputs[centre], word) for word in around]
        for vector, word in pairs:
            examples += 1
            if config.objective == "softmax":
                total -= jax.nn.log_softmax(outputs @ vector)[word]
            elif config.objective == "hierarchical":
                nodes, signs = paths[0][word], paths[1][word]
                for node, sign in zip(nodes, signs, strict=True):
                    if sign:
                        total -= jax.nn.log_sigmoid(sign * outputs[node] @ vector)
            else:
                total -= jax.nn.log_sigmoid(outputs[word] @ vector)
                apart = jax.nn.log_sigmoid(-outputs[drawn[t]] @ vector)
                total -= weight * jnp.sum(apart, where=jnp.asarray(drawn[t] != word))
    return total, examples


def stream(seed=3, num_tokens=60, vocab_size=9):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocab_size, num_tokens).astype(np.int32)
    ids[[7, 21, 22, 40]] = -1
    return ids, rng.integers(1, 4, num_tokens).astype(np.int32), rng


CONFIGS = [
    Word2Vec(method=method, objective=objective, window=3, vector_size=5, num_negatives=4)
    for method in ("skipgram", "cbow")
    for objective in ("negative", "hierarchical", "softmax")
] + [Word2Vec(method="cbow", cbow_mean=False, window=3, vector_size=5, num_negatives=4)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.method}-{c.objective}-{c.cbow_mean}")
def test_a_block_is_the_gradient_of_the_written_likelihood(config):
    ids, radii, rng = stream()
    vocab_size, tile, size = 9, 16, 64
    is_sampled = config.objective == "negative"
    layout = tiles.Layout(
        config.method, config.objective, config.window, tile, 4 / 6 if is_sampled else 0.0,
        config.cbow_mean,
    )  # fmt: skip
    drawn = rng.integers(0, vocab_size, (1, size // tile, 6 if is_sampled else 0)).astype(np.int32)
    with jax.enable_x64(True):
        num_outputs = vocab_size - (config.objective == "hierarchical")
        tables = {
            "inputs": jnp.asarray(rng.normal(size=(vocab_size, 5))),
            "outputs": jnp.asarray(rng.normal(size=(num_outputs, 5))),
        }
        # Counts so unequal that the tree is deep, but no node is eased: 16 gradients at most.
        paths = huffman_paths(2 ** np.arange(vocab_size))
        per_token = np.repeat(drawn[0], tile, axis=0)

        def loss(pair):
            return written(config, pair, ids, radii, per_token, layout.weight, paths)

        (wanted, examples), grads = jax.value_and_grad(loss, has_aux=True)(
            (tables["inputs"], tables["outputs"])
        )
        block = tiles.cut(ids, radii, drawn, np.asarray([0.25]), layout, size)
        before = {name: np.array(table) for name, table in tables.items()}
        one = jax.tree.map(lambda leaf: leaf[0], block)
        given = tiles.Paths(*map(jnp.asarray, paths))
        where = tiles.rows_of(tables, one, given, layout)
        rows = {name: tables[table][index] for name, (table, index) in where.items()}
        (found, count), row_grads = jax.value_and_grad(tiles.block_loss, has_aux=True)(
            rows, one, given, layout
        )
        summed = {name: jnp.zeros_like(table) for name, table in tables.items()}
        for name, (table, index) in where.items():
            summed[table] = summed[table].at[index].add(row_grads[name])
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        assert count == examples
        for name, grad in zip(("inputs", "outputs"), grads, strict=True):
            np.testing.assert_allclose(summed[name], grad, rtol=1e-10, atol=1e-12)
        if config.objective == "hierarchical":
            return
        after, (losses, counts) = tiles.walk(tables, block, given, layout=layout)
        np.testing.assert_allclose(losses, [wanted], rtol=1e-12)
        np.testing.assert_array_equal(counts, [examples])
        for name, grad in zip(("inputs", "outputs"), grads, strict=True):
            np.testing.assert_allclose(after[name], before[name] - 0.25 * grad, atol=1e-12)


def test_a_node_on_many_ways_takes_a_step_of_sixteen_mean_gradients():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, 64).astype(np.int32)
    layout = tiles.Layout("skipgram", "hierarchical", 2, 16, 0.0, True)
    config = Word2Vec(objective="hierarchical", window=2)
    radii = np.full(64, 2, np.int32)
    paths = huffman_paths(np.full(4, 5))
    with jax.enable_x64(True):
        inputs, outputs = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(3, 3)))
        grad = jax.grad(lambda out: written(config, (inputs, out), ids, radii, None, 0, paths)[0])(
            outputs
        )
        nodes = [
            [node for node, sign in zip(*way, strict=True) if sign]
            for way in zip(*paths, strict=True)
        ]
        times = np.zeros(3)
        for t, word in enumerate(ids):
            pairs = len([u for u in range(t - 2, t + 3) if u != t and 0 <= u < 64])
            times[nodes[word]] += pairs
        before = np.array(outputs)
        tables = {"inputs": inputs, "outputs": outputs}
        block = tiles.cut(ids, radii, np.zeros((1, 4, 0), np.int32), np.ones(1), layout, 64)
        after, _ = tiles.walk(tables, block, tiles.Paths(*map(jnp.asarray, paths)), layout=layout)
        wanted = before - np.asarray(grad) * (16 / np.maximum(times, 16))[:, None]
    assert times.min() > 16
    np.testing.assert_allclose(after["outputs"], wanted, atol=1e-12)


# Exponentials are right within 1e-6; those of hundreds of drawn words, which weigh 4, err one way.
@pytest.mark.parametrize(("num_drawn", "slack", "atol"), [(6, 0.0, 2e-5), (600, 4e-6, 4e-5)])
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3], CONFIGS[6]], ids=repr)
def test_compiled_blocks_take_the_same_gradients_with_negatives_of_their_own(
    config, num_drawn, slack, atol
):
    """Two blocks, the second shorter, of more words than there are parts of the vocabulary."""
    pytest.importorskip("numba")
    from seqlab.embeddings import compiled

    vocab_size, size, key, weight = 40, 32, 12345, 4 / num_drawn
    ids, radii, rng = stream(vocab_size=vocab_size)
    noise = draws.Noise.of(rng.random(vocab_size))
    places = np.arange(100, 100 + len(ids))
    shared = compiled.GROUP if config.method == "skipgram" else 1
    counters = places[np.arange(len(ids)) // shared * shared, None] * num_drawn
    counters = counters + np.arange(num_drawn)
    drawn = noise.draw(key, counters.ravel()).reshape(len(ids), num_drawn)
    start = State(*(rng.normal(size=(vocab_size, 5)).astype(np.float32) for _ in range(2)))
    tables = State(*(table.copy() for table in start))
    losses, counts = np.empty(2), np.empty(2, np.int64)
    getattr(compiled, config.method)(
        tuple(tables), ids, places, radii, np.full(2, 0.25, np.float32), size, tuple(noise), losses,
        counts, (config.window, num_drawn, weight, np.uint64(key), config.cbow_mean),
    )  # fmt: skip
    with jax.enable_x64(True):
        pair = tuple(jnp.asarray(table, jnp.float64) for table in start)
        for number, first in enumerate(range(0, len(ids), size)):
            block = range(first, min(first + size, len(ids)))

            def loss(pair, block=block):
                return written(config, pair, ids, radii, drawn, weight, None, block)

            (wanted, examples), grads = jax.value_and_grad(loss, has_aux=True)(pair)
            np.testing.assert_allclose(losses[number], wanted, rtol=1e-6, atol=slack * examples)
            assert counts[number] == examples
            pair = tuple(table - 0.25 * grad for table, grad in zip(pair, grads, strict=True))
        for after, wanted in zip(tables, pair, strict=True):
            np.testing.assert_allclose(after, wanted, atol=atol)


@pytest.mark.parametrize("path", EITHER)
def test_examples_are_the_pairs_at_most_m_apart_without_a_word_with_itself(path):
    ids = np.asarray([0, 1, 0, 2, -1, 1, 1, -1, -1, 2, 0, 1], np.int32)
    config = Word2Vec(window=2, vector_size=4, sample=None, shrink_window=False)
    (progress,) = Training(config, toy(ids), num_epochs=1, path=path)
    sentence = np.cumsum(ids < 0)
    wanted = sum(
        abs(i - j) <= 2 and sentence[i] == sentence[j]
        for i, j in itertools.permutations(np.flatnonzero(ids >= 0), 2)
    )
    assert progress.examples == wanted == 10 + 2 + 6
    bags = Training(replace(config, method="cbow"), toy(ids), num_epochs=1, path=path)
    assert next(iter(bags)).examples == 9


def test_softmax_converges_to_the_entropy_of_a_context_given_its_centre():
    corpus = markov(500, vocab_size=5)
    config = Word2Vec(
        objective="softmax", vector_size=5, window=2, sample=None, shrink_window=False,
        learning_rate=0.05, block_size=16,
    )  # fmt: skip
    joint = np.zeros((5, 5))
    for step in (-2, -1, 1, 2):
        for t in range(500):
            if 0 <= t + step < 500:
                joint[corpus.ids[t], corpus.ids[t + step]] += 1 / 4
    joint /= joint.sum()
    given_centre = joint / joint.sum(axis=1, keepdims=True)
    entropy = -np.sum(joint * np.log(given_centre, where=joint > 0, out=np.zeros_like(joint)))
    training = Training(config, corpus, num_epochs=150)
    losses = [progress.loss / progress.examples for progress in training]
    inputs, outputs = training.state()
    scores = inputs.astype(float) @ outputs.T
    log_p = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
    assert losses[0] > entropy + 0.05
    assert entropy <= -np.sum(joint * log_p) < entropy + 1e-3
    assert abs(losses[-1] - entropy) < 3e-3  # as met on the way, at steps that are still noisy


@pytest.mark.parametrize("path", EITHER)
def test_negative_sampling_converges_to_pmi_less_log_k(path):
    corpus = markov(2000, vocab_size=6)
    config = Word2Vec(
        vector_size=6, window=2, sample=None, shrink_window=False, num_negatives=3,
        noise_power=1.0, learning_rate=0.03, block_size=16,
    )  # fmt: skip
    training = Training(config, corpus, num_epochs=150, path=path)
    for _ in training:
        pass
    inputs, outputs = training.state()
    joint = np.zeros((6, 6))
    for step in (-2, -1, 1, 2):
        for t in range(2000):
            if 0 <= t + step < 2000:
                joint[corpus.ids[t], corpus.ids[t + step]] += 1
    often = joint > 100
    given_centre = joint / joint.sum(axis=1, keepdims=True)
    noise = corpus.noise_distribution(1.0)[None, :]
    pmi = np.log(given_centre / noise, where=often, out=np.zeros_like(joint))
    # A negative that is the pair's own word is left out, so a centre c meets the noise word n not
    # K P(n) times a pair but K P(n) (1 - p(n | c)) times.
    wanted = pmi - np.log(3 * (1 - given_centre))
    found = inputs.astype(float) @ outputs.T
    assert often.sum() > 15
    np.testing.assert_allclose(found[often], wanted[often], atol=0.12)
    assert np.ptp(wanted[often]) > 0.8


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=40))
def test_the_tree_is_a_distribution_and_no_tree_is_shorter(counts):
    nodes, signs = huffman_paths(np.asarray(counts))
    rng = np.random.default_rng(0)
    scores = rng.normal(size=len(counts) - 1) * 2
    chances = np.prod(np.where(signs, 1 / (1 + np.exp(-signs * scores[nodes])), 1.0), axis=1)
    assert chances.sum() == pytest.approx(1.0, abs=1e-6)
    lengths = np.abs(signs).sum(axis=1)
    share = np.asarray(counts) / np.sum(counts)
    entropy = -np.sum(share * np.log2(share))
    assert entropy - 1e-9 <= np.sum(share * lengths) < entropy + 1
    assert np.sum(2.0**-lengths) == pytest.approx(1.0)


@pytest.mark.parametrize("path", EITHER)
@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_a_stopped_run_goes_on_to_the_same_bytes(method, path, monkeypatch):
    monkeypatch.setattr(word2vec, "CHUNK", 600)
    corpus = markov(3000, vocab_size=30)
    config = Word2Vec(method=method, vector_size=8, block_size=64)
    whole = Training(config, corpus, num_epochs=2, path=path)
    reports = list(whole)
    first = Training(config, corpus, num_epochs=2, path=path)
    (*_, report) = itertools.islice(first, 7)
    rest = Training(
        config, corpus, num_epochs=2, path=path, state=first.state(), first_token=report.tokens
    )
    later = list(rest)
    assert [(r.tokens, r.loss, r.examples) for r in later] == [
        (r.tokens, r.loss, r.examples) for r in reports[7:]
    ]
    for one, other in zip(whole.state(), rest.state(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert reports[-1].tokens == reports[-1].total == 6000
    assert reports[-1].learning_rate < 0.06 * reports[0].learning_rate


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_threads_have_no_say_in_the_result(method):
    pytest.importorskip("numba")
    corpus = markov(4000, vocab_size=40)
    states = []
    for num_threads in (1, 2, 2):
        training = Training(Word2Vec(method=method, vector_size=8), corpus, num_epochs=2,
                            path="numba", num_threads=num_threads)  # fmt: skip
        losses = [progress.loss for progress in training]
        states.append((losses, [table.tobytes() for table in training.state()]))
    assert states[0] == states[1] == states[2]
    other = Training(Word2Vec(method=method, vector_size=8), corpus, num_epochs=2, seed=1)
    assert [progress.loss for progress in other] != states[0][0]


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_the_loss_of_thousands_of_pairs_is_a_number(method):
    """All vectors u begin at 0, at even odds: 2 to the power of 1500 is no float64."""
    pytest.importorskip("numba")
    config = Word2Vec(method=method, vector_size=4, num_drawn=1500, sample=None, block_size=512)
    (report,) = Training(config, markov(400, vocab_size=300), num_epochs=1, path="numba")
    # Hardly ever is a negative the word itself, which is left out.
    most = (1 + config.num_negatives) * np.log(2)
    assert 0.9 * most < report.loss / report.examples <= most * (1 + 1e-6)
    config = replace(config, num_drawn=None, window=1400, shrink_window=False, block_size=2048)
    (report,) = Training(config, markov(1500, vocab_size=300), num_epochs=1, path="numba")
    assert 0.9 * most < report.loss / report.examples <= most * (1 + 1e-6)


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_both_paths_learn_the_same(method):
    pytest.importorskip("numba")
    corpus = markov(20_000, vocab_size=40)
    ends = []
    for path in ("numba", "jax"):
        config = Word2Vec(method=method, vector_size=16)
        training = Training(config, corpus, num_epochs=4, path=path)
        ends.append([progress.loss / progress.examples for progress in training])
    assert ends[0][-1] == pytest.approx(ends[1][-1], rel=0.02)
    assert ends[0][-1] < ends[0][0] - 0.05


def test_draws_are_the_same_compiled():
    pytest.importorskip("numba")
    from seqlab.embeddings import compiled

    noise = draws.Noise.of(np.arange(1, 60) ** 0.75)
    counters = np.asarray([0, 1, 2, 10**6, 2**40], np.uint64)
    key = draws.stream_key(5, 1, draws.NEGATIVE)
    found = [compiled.drawn(np.uint64(key), n, *noise) for n in counters]
    np.testing.assert_array_equal(found, noise.draw(key, counters))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50).filter(lambda p: sum(p) > 1e-3))
def test_noise_is_the_distribution_that_was_asked_for(weights):
    keep, alias = draws.Noise.of(np.asarray(weights))
    share = (keep.astype(float) + 0.0) / 2**32
    found = share.copy()
    np.add.at(found, alias, 1 - share)
    wanted = np.asarray(weights) / np.sum(weights)
    np.testing.assert_allclose(found / len(weights), wanted, atol=1e-8)


def test_draws_are_uniform_and_streams_are_apart():
    keys = [draws.stream_key(seed, epoch, 0) for seed in range(3) for epoch in range(2)]
    found = np.stack([draws.uniform(key, np.arange(50_000)) for key in keys])
    assert len(set(keys)) == 6
    assert np.abs(np.corrcoef(found) - np.eye(6)).max() < 0.02
    for row in found:
        steps = np.sort(row) - (np.arange(50_000) + 0.5) / 50_000
        assert np.abs(steps).max() < 1.95 / np.sqrt(50_000)  # Kolmogorov-Smirnov, one in a thousand


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-4, 1.0))
def test_subsampling_keeps_the_share_that_is_asked_for(seed, sample):
    corpus = toy(np.repeat([0, 1], [30_000, 3000]))
    keep = corpus.keep_probability(sample)
    kept = (
        draws.uniform(draws.stream_key(seed, 0, draws.SUBSAMPLE), np.arange(33_000))
        < keep[corpus.ids]
    )
    share = np.bincount(corpus.ids, weights=kept) / corpus.counts
    spread = np.sqrt(keep * (1 - keep) / corpus.counts)
    assert np.all(np.abs(share - keep) <= 5 * spread + 1e-12)


def test_first_vectors_and_a_block_that_no_word_fills():
    state = init_state(Word2Vec(vector_size=20), 1000, seed=1)
    assert np.abs(state.inputs).max() <= 0.5 / 20
    assert state.inputs.std() == pytest.approx(1 / 20 / np.sqrt(12), rel=0.02)
    assert not state.outputs.any()
    assert block_size_for(Word2Vec(sample=None), markov(1000, 3), 512) < 20
    even = toy(np.arange(100_000) % 50_000)
    assert block_size_for(Word2Vec(), even, 512) == 512


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Word2Vec(method=cast(Any, "glove")), "method"),
        (lambda: Word2Vec(window=0), "window must be 1 or more, got 0"),
        (lambda: Word2Vec(sample=-1.0), "sample"),
        (lambda: Word2Vec(last_rate=2.0), "last_rate must be from 0 to 1, got 2.0"),
        (lambda: Training(Word2Vec(), toy([0, 0, 0], 1)), "number of words"),
        (lambda: Training(Word2Vec(), toy([0, 1]), num_epochs=0), "num_epochs"),
        (
            lambda: Training(Word2Vec(), toy([0, 1]), state=init_state(Word2Vec(), 3)),
            r"state.inputs has shape \(3, 100\), the corpus asks for \(2, 100\)",
        ),
        (
            lambda: choose_path(Word2Vec(objective="softmax"), "numba"),
            "path numba knows negative sampling alone, not softmax",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_loss_that_is_not_finite_is_reported_with_its_place():
    config = Word2Vec(learning_rate=1e30, vector_size=4, sample=None)
    with pytest.raises(InputError, match=r"epoch 1, tokens from \d+: the loss is (nan|inf)"):
        list(Training(config, markov(2000, 5), num_epochs=3, path="jax"))
