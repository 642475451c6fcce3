# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Word vectors, from a likelihood to a map
#
# Words that stand in the same places mean like things. word2vec and GloVe turn that into vectors:
# each word has one, $v$, as the word in the middle and one, $u$, as a word around it, trained so
# that $u_o \cdot v_c$ tells how often $o$ is near $c$. Below, the objectives by hand on a tiny
# text, each held against the library; then vectors of a real text, their neighbours and a map.

# %%
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.decomposition import PCA

from seqlab import plots
from seqlab.embeddings import (
    GloVe,
    Training,
    Vectors,
    Word2Vec,
    count_cooccurrences,
    encode,
    neighbour_overlap,
    sentences,
    tiles,
)
from seqlab.embeddings.glove import cost, entries
from seqlab.embeddings.word2vec import State

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# A tiny language: in it a cat, a dog and a bird can be exchanged for each other, and so can a king
# and a queen.


# %%
def tiny_sentence():
    if rng.random() < 0.5:
        middle = rng.choice(["cat", "dog", "bird"]), rng.choice(["eats", "likes"])
        end = rng.choice(["fish", "grain"])
    else:
        middle = rng.choice(["king", "queen"]), rng.choice(["reads", "rules", "likes"])
        end = rng.choice(["books", "land"])
    return ["the", *map(str, middle), "the", str(end)]


tiny = encode([tiny_sentence() for _ in range(150)], folder / "tiny.ids", min_count=1)
V, D, m = len(tiny.words), 6, 2
print(" ".join(next(iter(tiny))), "| words:", *tiny.words)

# %% [markdown]
# ## Skip-gram
#
# The likelihood of a text is a product over its places and over the words in the window around
# each, *without the place itself*:
#
# $$L = \prod_{t=1}^T \prod_{-m \le j \le m,\ j \ne 0} p(w_{t+j} \mid w_t), \qquad
#   p(o \mid c) = \frac{\exp(u_o \cdot v_c)}{\sum_w \exp(u_w \cdot v_c)} .$$
#
# What is trained is its logarithm, since the product of a few hundred factors is no number that a
# computer has; and what falls is the loss $-\log L$ (its mean, divided by $T$, has the same
# minimum). In the sum a pair of words comes as often as it is near each other, $N(c, o)$ times, so
# that all that matters of a text is
#
# $$-\log L = -\sum_{c, o} N(c, o) \log p(o \mid c), \qquad
#   \frac{\partial (-\log L)}{\partial v_c}
#   = \sum_o N(c, o) \Big(\sum_w p(w \mid c) u_w - u_o\Big).$$


# %%
def log_probs(v, u):
    scores = v @ u.T  # [c, o]
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def near(sentence, t):
    return [t + j for j in range(-m, m + 1) if j != 0 and 0 <= t + j < len(sentence)]


v, u = rng.integers(-9, 10, size=(2, V, D)) / 16  # numbers that float32 has exactly
log_p = log_probs(v, u)
log_likelihood, product, N = 0.0, 1.0, np.zeros((V, V))
for sentence in tiny:
    ids = [tiny.id_of[word] for word in sentence]
    for t, c in enumerate(ids):
        for place in near(ids, t):
            log_likelihood += log_p[c, ids[place]]
            product *= np.exp(log_p[c, ids[place]])
            N[c, ids[place]] += 1
assert product == 0  # it has underflown; its logarithm has not
np.testing.assert_allclose(log_likelihood, np.sum(N * log_p), rtol=1e-9)

counted = count_cooccurrences(
    tiny.chunks(1000), folder / "flat", vocab_size=V, window=m, weighting="flat"
)
np.testing.assert_array_equal(counted.matrix().toarray(), N)
print(f"T = {tiny.counts.sum()}, {N.sum():.0f} pairs, log L = {log_likelihood:.1f}")

# %% [markdown]
# The library, with the whole text as one block, makes one step of gradient descent: its loss is
# $-\log L$, and what it moved, divided by the learning rate, is the gradient.

# %%
rate = 0.01
config = Word2Vec(
    objective="softmax", vector_size=D, window=m, shrink_window=False, sample=None,
    learning_rate=rate, block_size=len(tiny.ids),
)  # fmt: skip
training = Training(config, tiny, num_epochs=1, state=State(*np.float32([v, u])), path="jax")
(progress,) = training
np.testing.assert_allclose(progress.loss, -log_likelihood, rtol=1e-5)
assert progress.examples == N.sum()

pull = N.sum(axis=1, keepdims=True) * np.exp(log_p) - N  # by the scores u_o . v_c
np.testing.assert_allclose((v - training.state().inputs) / rate, pull @ u, atol=2e-2)
np.testing.assert_allclose((u - training.state().outputs) / rate, pull.T @ v, atol=2e-2)

# %% [markdown]
# How far can the loss fall? With enough dimensions $p(o \mid c)$ can be what the text has, and the
# loss of a pair is then the conditional entropy $H(o \mid c)$: no model of pairs is better.
#
# And what if $j = 0$ is kept, as $-m \le j \le m$ alone would have it? Then $N$ has the count of
# each word on its diagonal, and each word predicts itself.


# %%
@jax.jit
def fit(N, start):
    def loss(tables):
        log_p = jax.nn.log_softmax(tables[0] @ tables[1].T)
        return -jnp.sum(N * log_p) / jnp.sum(N)

    adam = optax.adam(0.05)

    def step(carry, _):
        tables, state = carry
        value, grads = jax.value_and_grad(loss)(tables)
        updates, state = adam.update(grads, state)
        return (optax.apply_updates(tables, updates), state), value

    (tables, _), values = jax.lax.scan(step, (start, adam.init(start)), length=2000)
    return tables, values[-1]


def entropy(N):
    p = N / N.sum(axis=1, keepdims=True)
    return -np.sum(N[N > 0] * np.log(p[N > 0])) / N.sum()


start = jnp.asarray(0.1 * rng.normal(size=(2, V, V)), jnp.float32)
found = {}
for name, counts in (("without j = 0", N), ("with j = 0", N + np.diag(tiny.counts))):
    (v_fit, u_fit), loss = fit(counts, start)
    p = np.exp(log_probs(np.asarray(v_fit), np.asarray(u_fit)))
    king, queen = p[tiny.id_of["king"]], p[tiny.id_of["queen"]]
    found[name] = np.mean(np.diag(p)), 0.5 * np.abs(king - queen).sum()
    print(
        f"{name:14s} loss {loss:.4f}, H(o|c) {entropy(counts):.4f}; a word predicts itself with "
        f"{found[name][0]:.3f}; king and queen differ in {found[name][1]:.3f} of what is around"
    )
    assert abs(loss - entropy(counts)) < 0.01
(itself, apart), (itself_kept, apart_kept) = found.values()
assert itself < 0.01
assert itself_kept > 0.15
assert apart_kept > 1.5 * apart

# %% [markdown]
# With $j = 0$ a word belongs to its own context, and two words of like contexts are told apart by
# the one thing in which they differ, themselves. The vectors are to say what words have in common:
# $j = 0$ is no pair.
#
# ## Negative sampling
#
# The sum over all words in $p(o \mid c)$ costs $V$ products a pair. Instead the pair is told from
# pairs with $K$ words drawn at random, $w \sim P_n(w) \propto \mathrm{count}(w)^{3/4}$:
#
# $$\log \sigma(u_o \cdot v_c) + \sum_{i=1}^K \log \sigma(-u_{w_i} \cdot v_c) .$$
#
# The library draws $S$ words for neighbouring centres together, each with the weight $K / S$, and
# leaves out a word that is the pair's own $o$. By hand, with given draws:

# %%
K, S = 5, 8
size = 64 * -(-len(tiny.ids) // 64)  # tiles of 64 centres
reach = np.full(len(tiny.ids), m)
drawn = rng.choice(V, size=(1, size // 64, S), p=tiny.noise_distribution(0.75)).astype(np.int32)


def library_loss(method, objective):
    layout = tiles.Layout(method, objective, m, 64, K / S, True)
    blocks = tiles.cut(np.array(tiny.ids), reach, drawn, np.ones(1), layout, size)
    block = jax.tree.map(lambda leaf: leaf[0], blocks)
    tables = {"inputs": np.float32(v), "outputs": np.float32(u)}
    where = tiles.rows_of(tables, block, None, layout)
    rows = {name: tables[table][index] for name, (table, index) in where.items()}
    loss, count = jax.jit(tiles.block_loss, static_argnums=3)(rows, block, None, layout)
    return float(loss), int(count)


def places():
    """Each word with its number in the corpus's ids, and the words around it."""
    number = 0
    for sentence in tiny:
        ids = [tiny.id_of[word] for word in sentence]
        for t, c in enumerate(ids):
            yield number + t, c, [ids[place] for place in near(ids, t)]
        number += len(ids) + 1  # the end of a sentence has a place too


loss = 0.0
for number, c, around in places():
    for o in around:
        loss += np.log1p(np.exp(-u[o] @ v[c]))
        for w in drawn[0, number // 64]:
            loss += K / S * np.log1p(np.exp(u[w] @ v[c])) * (w != o)
np.testing.assert_allclose(library_loss("skipgram", "negative"), (loss, N.sum()), rtol=1e-5)

# %% [markdown]
# ## CBOW
#
# The other way round: the bag of words around, the mean of *their* vectors $v$, predicts the word
# in the middle by its $u$. One example a place, not one a pair.
#
# $$\hat v_t = \frac{1}{|\mathrm{bag}_t|} \sum_{w \in \mathrm{bag}_t} v_w, \qquad
#   \log p(w_t \mid \mathrm{bag}_t) = u_{w_t} \cdot \hat v_t
#   - \log \sum_w \exp(u_w \cdot \hat v_t) .$$

# %%
loss = -sum(log_probs(v[around].mean(axis=0)[None], u)[0, c] for _, c, around in places())
np.testing.assert_allclose(library_loss("cbow", "softmax"), (loss, tiny.counts.sum()), rtol=1e-5)

# %% [markdown]
# ## What negative sampling finds
#
# With enough dimensions each score $x = u_o \cdot v_c$ is free, and its part of the loss is least
# where its derivative is 0. Levy and Goldberg (2014): that is the pointwise mutual information,
# shifted,
#
# $$N(c, o)\, \sigma(-x) = K N(c) P_n(o)\, \sigma(x) \quad\Rightarrow\quad
#   x = \log \frac{N(c, o)}{N(c)\, P_n(o)} - \log K = \mathrm{PMI}(c, o) - \log K .$$
#
# PMI it is if $P_n(o)$ is the word's share, so with the power 1 and not 3/4. And leaving out draws
# that are $o$ itself takes the share $N(c, o)$ of them away: $N(c)$ becomes $N(c) - N(c, o)$.
# On a text of 6 words, each of which is found beside each other one:

# %%
chain = rng.dirichlet(np.ones(6), size=6)
walk = [0]
for _ in range(2000):
    walk.append(rng.choice(6, p=chain[walk[-1]]))
six = encode([[f"w{i}" for i in walk]], folder / "six.ids", min_count=1)
N_six = count_cooccurrences(
    six.chunks(10**6), folder / "six", vocab_size=6, window=1, weighting="flat"
).matrix().toarray()  # fmt: skip
P_n, K = six.noise_distribution(1.0), 5
N_c = N_six.sum(axis=1, keepdims=True)
levy_goldberg = np.log(N_six / (N_c * P_n)) - np.log(K)
left_out = np.log(N_six / ((N_c - N_six) * P_n)) - np.log(K)


def slope(x, negatives):
    """Of the expected loss, by every score."""
    sigmoid = 1 / (1 + np.exp(-x))
    return -N_six * (1 - sigmoid) + K * negatives * P_n * sigmoid


assert N_six.min() > 0
assert np.abs(slope(levy_goldberg, N_c)).max() < 1e-9
assert np.abs(slope(left_out, N_c - N_six)).max() < 1e-9

config = Word2Vec(
    vector_size=6, window=1, shrink_window=False, sample=None, noise_power=1.0, num_negatives=K,
    num_drawn=256, learning_rate=0.01,
)  # fmt: skip
training = Training(config, six, num_epochs=100, path="jax")
losses = [progress.loss / progress.examples for progress in training]
scores = training.state().inputs @ training.state().outputs.T
gaps = {
    name: np.abs(scores - formula).mean()
    for name, formula in (("PMI - log K", levy_goldberg), ("own word left out", left_out))
}
print(", ".join(f"trained scores are {gap:.3f} off {name}" for name, gap in gaps.items()))
assert gaps["own word left out"] < 0.03
assert gaps["own word left out"] < 0.2 * gaps["PMI - log K"]

# %% [markdown]
# Among thousands of words $N(c, o)$ is small beside $N(c)$, and the two are one.
#
# ## GloVe
#
# GloVe says at once what scores should be: the logarithms of the counts,
#
# $$J = \sum_{X_{ij} > 0} f(X_{ij})
#   \big(w_i \cdot \tilde w_j + b_i + \tilde b_j - \log X_{ij}\big)^2,
#   \qquad f(x) = \min\Big(1, \Big(\frac{x}{x_{\max}}\Big)^{3/4}\Big) .$$
#
# The weight, both biases and the sum $w + \tilde w$ at the end belong to the model, and only pairs
# that were seen enter: there is no logarithm of 0. $X$ counts a neighbour at distance $d$ as $1/d$.
# By hand, against the library's first epoch with all entries in one batch, for then all of them see
# the first vectors; what is descended is $J / 2$.

# %%
x_max, alpha = 20.0, 0.75
X = count_cooccurrences(tiny.chunks(1000), folder / "near", vocab_size=V, window=4)
matrix = X.matrix().toarray()
np.testing.assert_allclose(matrix, matrix.T)  # near is near from both sides
assert len(X) == np.count_nonzero(matrix) < V**2

settings = GloVe(vector_size=D, x_max=x_max, alpha=alpha, batch_size=len(X), path="jax")
first = settings.init(V)
(epoch,) = settings.train(X, num_epochs=1)
w, context = np.float64(first.word), np.float64(first.context)  # the bias in the last column
J, by_w = 0.0, np.zeros_like(w)
for i, j in zip(*np.nonzero(matrix), strict=True):
    f = min(1.0, (matrix[i, j] / x_max) ** alpha)
    difference = w[i, :-1] @ context[j, :-1] + w[i, -1] + context[j, -1] - np.log(matrix[i, j])
    J += f * difference**2
    by_w[i] += f * difference * np.append(context[j, :-1], 1.0)
np.testing.assert_allclose(epoch.loss, J / len(X), rtol=1e-5)
rate = settings.learning_rate / np.sqrt(settings.accumulators)  # of AdaGrad's first step
np.testing.assert_allclose((first.word - epoch.state.word) / rate, by_w, atol=1e-4)

# %% [markdown]
# What are the parts for? Two numbers a word, fitted to the same counts to the end: without biases
# the vectors must spend themselves on how frequent words are, and the cost is higher; without the
# weight the rare counts are fitted at the price of the frequent ones.

# %%
entry = entries(X.records, settings)


@jax.jit
def fit_glove(weight, has_bias, tables):
    def loss(tables):
        word, context = (table * jnp.array([1.0, 1.0, has_bias]) for table in tables)
        return jnp.mean(cost(word, context, entry["i"], entry["j"], entry["log"], weight))

    adam = optax.adam(0.02)

    def step(carry, _):
        tables, state = carry
        updates, state = adam.update(jax.grad(loss)(tables), state)
        return (optax.apply_updates(tables, updates), state), None

    (tables, _), _ = jax.lax.scan(step, (tables, adam.init(tables)), length=2000)
    word, context = (table * jnp.array([1.0, 1.0, has_bias]) for table in tables)
    return cost(word, context, entry["i"], entry["j"], entry["log"], 1.0)


start = jnp.asarray(0.1 * rng.normal(size=(2, V, 3)), jnp.float32)
f, flat = entry["weight"], np.ones_like(entry["weight"])
whole, no_bias, no_weight = (
    np.asarray(fit_glove(weight, has_bias, start))
    for weight, has_bias in ((f, 1.0), (f, 0.0), (flat, 1.0))
)  # squared errors of log X
often = X.records["count"] >= np.quantile(X.records["count"], 0.75)
print(f"J / N: {np.mean(f * whole):.4f}, without biases {np.mean(f * no_bias):.4f}")
print(
    f"squared error of the most frequent quarter: {whole[often].mean():.5f}, "
    f"without the weight {no_weight[often].mean():.5f}"
)
assert np.mean(f * no_bias) > 1.5 * np.mean(f * whole)
assert no_weight[often].mean() > 1.2 * whole[often].mean()

# %% [markdown]
# ## A real text
#
# The topics of Python's `help()`: enough words to see which of them go together, and far too few
# for the analogies that vectors are known for.

# %%
corpus = encode(sentences(), folder / "text.ids", min_count=5)
print(f"{corpus.num_words} words, {len(corpus.words)} of them seen five times or more")
config = Word2Vec(vector_size=32 if IS_TOY else 50, learning_rate=0.05)
training = Training(config, corpus, num_epochs=8 if IS_TOY else 20, path="jax")
losses = [progress.loss / progress.examples for progress in training]
assert losses[-1] < losses[0]
vectors = Vectors(corpus.words, training.state().inputs, corpus.counts)
for word in ("two", "must", "tuple", "try"):
    print(f"{word}:", ", ".join(near for near, _ in vectors.most_similar(word, topn=6)))

groups = {
    "numbers": "one two three four".split(),
    "types": "list tuple dict set str int float bytes string dictionary".split(),
    "may and must": "may must can should will cannot".split(),
    "statements": "if while for try with import raise return else except finally".split(),
}
words = [word for members in groups.values() for word in members]
group = np.repeat(np.arange(len(groups)), [len(members) for members in groups.values()])
cosines = vectors.units[[vectors.index(word) for word in words]]
cosines = cosines @ cosines.T
same = group[:, None] == group
within, across = cosines[same & ~np.eye(len(words), dtype=bool)].mean(), cosines[~same].mean()
print(f"mean cosine within a group {within:.2f}, across {across:.2f}")
assert within > across + 0.05

# %% [markdown]
# The map: the two directions in which the words differ most (PCA) of vectors of unit length. What
# share of the differences it shows is in its title; the rest is not on the page.

# %%
shown = [*dict.fromkeys([*words, *vectors.words[:200]])]
units = vectors.units[[vectors.index(word) for word in shown]]
plane = PCA(2).fit(units)
name = f"PCA, {plane.explained_variance_ratio_.sum():.0%} of the variance"
figure = plots.word_maps({name: dict(zip(shown, plane.transform(units), strict=True))}, groups)
plt.show()
assert plane.explained_variance_ratio_.sum() < 0.9

# %% [markdown]
# Analogies, $a : b = c : {?}$, answered by the word nearest to $b - a + c$: one and many of the
# same noun. Beside it the neighbour nearest to $c$ alone, which knows nothing of $a$ and $b$.

# %%
nouns = (
    "object function method value name list string type argument attribute statement expression "
    "instance module operator exception item sequence parameter variable character number"
).split()
pairs = [(noun, f"{noun}s") for noun in nouns]
asked = [(a, b, c, d) for a, b in pairs for c, d in pairs if a != c]
right = np.mean([vectors.most_similar([b, c], [a], topn=1)[0][0] == d for a, b, c, d in asked])
alone = np.mean([
    next(word for word, _ in vectors.most_similar(c, topn=3) if word not in (a, b)) == d
    for a, b, c, d in asked
])  # fmt: skip
print(f"of {len(asked)} analogies {right:.0%} right; by the neighbour of c alone {alone:.0%}")
assert right < 0.5

# %% [markdown]
# GloVe of the same text, from two seeds. $X$ is symmetric, so $w$ and $\tilde w$ are two answers to
# one question; their sum depends less on the seed than either.

# %%
X = count_cooccurrences(
    corpus.chunks(10**6), folder / "text", vocab_size=len(corpus.words), window=10
)
states = []
for seed in (0, 1):
    settings = GloVe(vector_size=config.vector_size, x_max=10.0, seed=seed, path="jax")
    *_, epoch = settings.train(X, num_epochs=3 if IS_TOY else 20)
    states.append(epoch.state)
some = np.arange(0, len(corpus.words), 5)
overlap = {
    side: neighbour_overlap(np.stack([state.vectors(side) for state in states]), 10, some).mean()
    for side in ("word", "context", "sum")
}
print(
    "of 10 neighbours two seeds share:",
    ", ".join(f"{side} {share:.0%}" for side, share in overlap.items()),
)
assert overlap["sum"] > max(overlap["word"], overlap["context"])
share = len(X) / len(corpus.words) ** 2
print(f"{len(X)} of {len(corpus.words)}^2 pairs were seen, {share:.1%}")
assert share < 0.2

# %% [markdown]
# `python -m experiments.word_embeddings --compare` trains all three on texts of any size, with the
# standard sets of analogies and word pairs where they can be had.
#
# ## Exercises
#
# 1. `my_ppmi`: of counts `N` `[V, V]` (centre, around), the positive pointwise mutual information
#    $\max(0, \log \frac{N(c, o) \sum N}{N(c) N(o)})$, 0 where a pair was not seen.
# 2. `my_slope`: of `(v_c, u_o, u_drawn)`, `[D]`, `[D]` and `[K, D]`, the gradient by $v_c$ of the
#    loss of one pair with its $K$ negatives, $-\log \sigma(u_o \cdot v_c) - \sum_i \log
#    \sigma(-u_{w_i} \cdot v_c)$.

# %%
my_ppmi = None
my_slope = None

# %%
# Checks; nothing to change here.
if my_ppmi is not None:
    counts = rng.poisson(2.0, size=(7, 7)) * (rng.random((7, 7)) < 0.7)
    counts[np.arange(7), np.arange(7)] += 1
    independent = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    found = np.asarray(my_ppmi(counts))
    assert np.all(found[counts <= independent] == 0), "where a pair is rarer than by chance"
    seen = counts > independent
    np.testing.assert_allclose(np.exp(found)[seen] * independent[seen], counts[seen])
    print("1: right")
if my_slope is not None:
    v_c, u_o, u_drawn = rng.normal(size=5), rng.normal(size=5), rng.normal(size=(3, 5))

    def pair_loss(v_c):
        return np.log1p(np.exp(-u_o @ v_c)) + np.log1p(np.exp(u_drawn @ v_c)).sum()

    nudges = 1e-5 * np.eye(5)
    slopes = [(pair_loss(v_c + nudge) - pair_loss(v_c - nudge)) / 2e-5 for nudge in nudges]
    np.testing.assert_allclose(my_slope(v_c, u_o, u_drawn), slopes, atol=1e-6)
    print("2: right")
