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
# # 4. n-grams, and recurrent language models
#
# A language model says how probable the next word is: $p(w_t \mid w_1 \dots w_{t-1})$. An n-gram
# model looks at the last $n - 1$ words and counts what came after them; a recurrent model has a
# state. Below, n-grams by hand and held against the library, then both on the same words of the
# same text, mixed, and on a language that only one of them can learn.

# %%
import os
from collections import Counter, defaultdict
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from seqlab import LSTM, functional, init_state, make_train_step, plots, steps
from seqlab.data.batching import Streams
from seqlab.data.vocabulary import EOS, SOS, UNK, Words
from seqlab.embeddings import sentences
from seqlab.losses import cross_entropy
from seqlab.models.language import LanguageModel
from seqlab.ngram import count_ngrams, fit
from seqlab.scoring import TokenScores, em_weights, interpolate

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
rng = np.random.default_rng(0)

# %% [markdown]
# ## Counting
#
# A sentence is read as `<sos>` $w_1 \dots w_m$ `<eos>`: its end is predicted like a word, its
# beginning never. The likelihood of a text is greatest for the ratios of counts,
#
# $$\text{unigram}\ p(w) = \frac{c(w)}{N}, \qquad
#   \text{bigram}\ p(w_2 \mid w_1) = \frac{c(w_1 w_2)}{c(w_1)}, \qquad
#   \text{trigram}\ p(w_3 \mid w_1 w_2) = \frac{c(w_1 w_2 w_3)}{c(w_1 w_2)} .$$
#
# The name counts all words of the ratio, the predicted one too: $c(w_1 w_2) / c(w_1)$, with one
# word of context, is the bigram; the unigram has none. One also sees them named one too low.

# %%
tiny = "the cat sat\nthe dog sat\nthe dog ran home\na cat ran\n"
words = Words.of(tiny)
ids = words.encode_lines(tiny)
tables = count_ngrams(ids, 3, words)
lines = [["<sos>", *line.split(), "<eos>"] for line in tiny.splitlines()]
unigrams = Counter(word for line in lines for word in line[1:])
bigrams = Counter(pair for line in lines for pair in pairwise(line))
starts = Counter(word for line in lines for word in line[:-1])  # what a word follows
ratios = {n: fit(tables.up_to(n), "maximum-likelihood") for n in (1, 2)}


def library(n, word, *context):
    context = [words.tokens.index(each) for each in context]
    return ratios[n].next_distribution(context)[words.tokens.index(word)]


for (first, second), count in bigrams.items():
    np.testing.assert_allclose(library(2, second, first), count / starts[first])
    np.testing.assert_allclose(library(1, second, first), unigrams[second] / len(ids))
print(f"dog after the: bigram {library(2, 'dog', 'the'):.3f}, unigram {library(1, 'dog'):.3f}")
assert library(2, "dog", "the") == bigrams["the", "dog"] / starts["the"]
assert library(1, "dog", "the") == library(1, "dog", "cat")  # a unigram has no context

# %% [markdown]
# ## A text
#
# The paragraphs of Python's `help()`, each kept once, and cut into three parts. Words outside the
# vocabulary are `<unk>`, a word like others.

# %%
paragraphs = list(dict.fromkeys(" ".join(sentence) for sentence in sentences()))
paragraphs = [paragraphs[i] for i in rng.permutation(len(paragraphs))]
cuts = [0, int(0.9 * len(paragraphs)), int(0.95 * len(paragraphs)), len(paragraphs)]
text = {
    part: "".join(f"{line}\n" for line in paragraphs[begin:end])
    for part, begin, end in zip(("train", "valid", "test"), cuts[:-1], cuts[1:], strict=True)
}
vocabulary = Words.of(text["train"], max_size=200 if IS_TOY else 2000)
ids = {part: vocabulary.encode_lines(each) for part, each in text.items()}
print({part: len(each) for part, each in ids.items()}, "tokens")
print(f"V = {len(vocabulary)}, {np.mean(ids['test'] == UNK):.0%} of the test part is <unk>")

# %% [markdown]
# Perplexity is $\exp(-\frac1N \sum_t \log p_t)$, and $N$ counts every predicted token, `<eos>` with
# them. Left out, it is another number, of another task.

# %%
counts = count_ngrams(ids["train"], 5, vocabulary)
scores = fit(counts.up_to(3)).score_tokens(ids["test"])
nats = -scores.log_probs
np.testing.assert_allclose(scores.perplexity, np.exp(nats.mean()))
assert len(nats) == len(ids["test"])
without = np.exp(nats[ids["test"] != EOS].mean())
print(f"perplexity {scores.perplexity:.2f}; as if <eos> were none: {without:.2f}")
assert abs(without - scores.perplexity) > 1e-3 * scores.perplexity

# %% [markdown]
# ## Zero counts
#
# No model of this form gives the training text more than the ratios do. What they never counted
# they exclude, and one such word makes the perplexity of a text infinite. So something is taken off
# what was counted and given to what was not; adding a constant to every count does that, badly.

# %%
perplexity = defaultdict(dict)
for n in range(1, 6):
    for smoothing in ("maximum-likelihood", "add-k", "kneser-ney", "modified-kneser-ney"):
        model = fit(counts.up_to(n), smoothing)
        perplexity[smoothing][n] = model.score_tokens(ids["test"]).perplexity
trained = {
    smoothing: fit(counts, smoothing).score_tokens(ids["train"]).perplexity
    for smoothing in perplexity
}
for smoothing, by_order in perplexity.items():
    shown = " ".join(f"{by_order[n]:8.1f}" for n in by_order)
    print(f"{smoothing:20s} orders 1 to 5: {shown} | order 5 on train: {trained[smoothing]:7.2f}")
assert min(trained.values()) == trained["maximum-likelihood"]
assert np.isinf([perplexity["maximum-likelihood"][n] for n in range(2, 6)]).all()
assert perplexity["add-k"][5] > perplexity["add-k"][2]  # a longer window makes it worse
assert perplexity["modified-kneser-ney"][5] < 0.5 * perplexity["add-k"][5]

# %% [markdown]
# ## Kneser-Ney by hand
#
# Interpolated: a discount $D$ is taken off every count, and what is saved is spread by the order
# below, whose context $h'$ lacks the oldest word,
#
# $$p(w \mid h) = \frac{\max(a(h w) - D, 0)}{A(h)} + \frac{D\, T(h)}{A(h)}\, p(w \mid h'),
#   \qquad A(h) = \sum_w a(h w),$$
#
# with $T(h)$ the number of different words after $h$, down to $1 / V$. In the highest order $a$ is
# the count. Below it $a$ is the number of *different words before*: a lower order is asked where
# the higher one has not seen the word, and then what counts is how many places it is at home in.
# (What begins with `<sos>` has nothing before it and keeps its count.) $D = n_1 / (n_1 + 2 n_2)$,
# with $n_r$ the number of n-grams of $a = r$.

# %%
order = 3
small = "".join(f"{line}\n" for line in paragraphs[:60])
small_words = Words.of(small)
small_ids = small_words.encode_lines(small)
small_counts = count_ngrams(small_ids, order, small_words)

raw = Counter()
sentence = [SOS]
for token in small_ids.tolist():
    sentence.append(token)
    for n in range(1, min(order, len(sentence)) + 1):
        raw[tuple(sentence[-n:])] += 1
    if token == EOS:
        sentence = [SOS]
before = Counter(gram[1:] for gram in raw if len(gram) > 1)
after = defaultdict(dict)  # context -> word -> a
for gram, count in raw.items():
    keeps = len(gram) == order or gram[0] == SOS
    after[gram[:-1]][gram[-1]] = count if keeps else before[gram]
discount = {}
for n in range(1, order + 1):
    a = Counter(a for h, follow in after.items() if len(h) == n - 1 for a in follow.values())
    discount[n] = a[1] / (a[1] + 2 * a[2])
predictable = len(small_words) - 2  # neither <pad> nor <sos> is ever predicted


def p(word, h):
    lower = p(word, h[1:]) if h else 1 / predictable
    follow = after.get(h)
    if not follow:
        return lower
    D, A = discount[len(h) + 1], sum(follow.values())
    return max(follow.get(word, 0) - D, 0) / A + D * len(follow) / A * lower


kneser_ney = fit(small_counts, "kneser-ney")
np.testing.assert_allclose([found[0] for found in kneser_ney.discounts], [*discount.values()])
contexts = [gram for gram in raw if len(gram) == order - 1 and gram[-1] != EOS][::50]
for h in [*contexts, (SOS,), (UNK, UNK)]:  # the last was never seen
    by_hand = [p(word, h) for word in range(len(small_words)) if word not in (0, SOS)]
    by_library = np.delete(kneser_ney.next_distribution(h), [0, SOS])
    np.testing.assert_allclose(by_hand, by_library, rtol=1e-9)
    np.testing.assert_allclose(sum(by_hand), 1.0)  # after any context, seen or not
print(f"{len(contexts)} contexts of {len(small_words)} words: as the library has it, and sums of 1")

# %% [markdown]
# Which words does it take down as unigrams? Those that come often, and after few words only.

# %%
pairs = counts.up_to(2)
seen = np.where(np.arange(len(vocabulary)) > EOS, pairs.tables[0].counts, 0)
homes = np.bincount(pairs.tables[1].keys % len(vocabulary), minlength=len(vocabulary))
often = np.flatnonzero(seen >= 30)
word = int(often[np.argmin(homes[often] / seen[often])])
unigram = 10 ** fit(pairs, "kneser-ney").levels[0].log10_probs[word]
share = seen[word] / counts.num_tokens
print(
    f"{vocabulary.token(word)!r} comes {seen[word]} times, after {homes[word]} different words: "
    f"share {share:.5f}, as a unigram of Kneser-Ney {unigram:.5f}"
)
assert unigram < 0.5 * share

# %% [markdown]
# ## What has to be stored
#
# Of $V^n$ *possible* n-grams a text has no more than it has tokens. It is the table of all of them
# that explodes; what is stored is bounded by the text, and what grows with $n$ instead is the share
# of a new text's n-grams that were never seen.


# %%
def grams(ids, n):
    """All n-grams of a text that lie within a sentence."""
    sentence = [SOS]
    for token in ids.tolist():
        sentence.append(token)
        if len(sentence) >= n + (n == 1):
            yield tuple(sentence[-n:])
        sentence = [SOS] if token == EOS else sentence


num_predictable = fit(counts.up_to(1)).num_predictable
unseen = [np.mean([counts.of(*gram) == 0 for gram in grams(ids["test"], n)]) for n in range(1, 6)]
print("n       possible     stored   unseen in test")
for n, (stored, share) in enumerate(zip(counts.num_distinct, unseen, strict=True), start=1):
    print(f"{n} {float(num_predictable) ** n:14.3g} {stored:10d} {share:16.1%}")
    assert stored == len(set(grams(ids["train"], n)))
    assert stored <= counts.num_tokens
assert unseen == sorted(unseen)
growth = np.array(counts.num_distinct[1:]) / counts.num_distinct[:-1]
assert growth[-1] < growth[0] < num_predictable

model = fit(counts)
figure = plots.memory_by_order(range(1, 6), model.bytes_by_order, model.full_bytes_by_order)
plt.show()

# %% [markdown]
# ## A recurrent model of the same tokens
#
# Embedding, LSTM, softmax. The text is read as parallel streams, a window at a time; the state goes
# on from window to window, the gradient does not. It is scored on the same tokens by the same rule,
# in one walk over the text: what it may know of is everything before, where an n-gram has its
# window.

# %%
H, D, B, T, rate = (32, 16, 32, 16, 0.02) if IS_TOY else (100, 64, 16, 32, 3e-3)
cell = LSTM(H)
net = functional(LanguageModel, [cell], vocab_size=len(vocabulary), embed_size=D)
optimizer = optax.adam(rate)


def walk(params, batch, carry):
    """Nats of each target, [B, T], and the state after the batch."""
    reset = jnp.zeros(batch["xs"].shape, bool).at[:, 0].set(batch["reset"])
    output = net.apply(params, batch["xs"], batch["mask"], carry=carry, reset=reset)
    nats = jnp.where(batch["mask"], cross_entropy(output.logits, batch["targets"]), 0.0)
    return nats, jax.tree.map(lambda leaf: leaf[:, -1], output.carries["rnn"])


def loss_fn(params, batch, key, carry):
    nats, carry = walk(params, batch, carry)
    return jnp.sum(nats) / jnp.sum(batch["mask"]), ({}, jax.lax.stop_gradient(carry))


def rest(params, batch_size):
    return {"layer_0": cell.initial_carry(params["rnn"]["weights"]["layer_0"], (batch_size,))}


train_step = make_train_step(loss_fn, optimizer, clip_norm=1.0, stateful=True)
add = jax.jit(walk)
params = jax.jit(net.init)(jax.random.key(0))
untrained = init_state(params, optimizer, jax.random.key(1), rest(params, B))


def train_lm(ids, num_epochs):
    """Parameters of a net that has read the text so often."""
    streams = Streams(ids, B, T)
    batches = map(streams.batch, range(num_epochs * streams.batches_per_epoch))
    *_, (_, state, _) = steps(train_step, untrained, batches)
    return state.params


def score(params, ids):
    """Scores of all tokens; the walk begins after an <eos>."""
    streams = Streams(np.concatenate([[EOS], ids]), 1, 256)
    carry, nats = rest(params, 1), []
    for batch in map(streams.batch, range(streams.batches_per_epoch)):
        found, carry = add(params, batch, carry)
        nats.append(np.asarray(found)[batch["mask"]])
    return TokenScores(
        ids, -np.concatenate(nats), ids == UNK, "the whole stream", vocabulary.digest
    )


lstm = train_lm(ids["train"], 1 if IS_TOY else 6)
recurrent = {part: score(lstm, ids[part]) for part in ("valid", "test")}
counted = {part: model.score_tokens(ids[part]) for part in ("valid", "test")}

# %% [markdown]
# A mixture $p = \lambda p_{\text{n-gram}} + (1 - \lambda) p_{\text{LSTM}}$, with $\lambda$ from the
# validation part by EM. The two are good at different words, and mixed they are better than each
# alone.

# %%
weights = em_weights([counted["valid"], recurrent["valid"]]).weights
mixed = interpolate([counted["test"], recurrent["test"]], weights)
found = {"5-grams": counted["test"], "LSTM": recurrent["test"], "mixed": mixed}
for name, scores in found.items():
    print(f"{name:8s} {scores.perplexity:7.2f}   sees {scores.carry}")
first, second = (scores["test"].log_probs for scores in (counted, recurrent))
print(f"the LSTM finds {np.mean(second > first):.0%} of the tokens the more probable")
assert mixed.perplexity < min(counted["test"].perplexity, recurrent["test"].perplexity)
assert counted["test"].perplexity < recurrent["test"].perplexity
assert 0.02 < np.mean(second > first) < 0.98

figure = plots.perplexity_by_order(
    {
        name: ([*by_order], [*by_order.values()])
        for name, by_order in perplexity.items()
        if name != "add-k"
    },
    {name: scores.perplexity for name, scores in found.items() if name != "5-grams"},
)
plt.show()

# %% [markdown]
# On so short a text the n-grams alone are better than this net alone.
#
# ## What a window cannot have
#
# A made-up language: a sentence is a key, some words that say nothing, and the same key again. An
# n-gram whose window does not reach back to the key can at best know that *a* key comes, of which
# there are 4, and pays $\log 4$ nats for it. From the order on whose window does reach it the key
# is known, at the price of a count for every filling in between: twice as many with each word more.
# The LSTM, the same net trained anew, keeps the key.

# %%
gap, num_sentences = (3, 2000) if IS_TOY else (5, 4000)
keys, filling = ["list", "string", "class", "function"], ["the", "a"]


def keyed(num_sentences):
    chosen = rng.choice(keys, num_sentences)
    return "".join(" ".join([key, *rng.choice(filling, gap), key]) + "\n" for key in chosen)


train_ids, test_ids = (vocabulary.encode_lines(keyed(count)) for count in (num_sentences, 500))
print(vocabulary.decode_lines(test_ids[: 3 * (gap + 3)]))
assert UNK not in train_ids
closing = np.flatnonzero(test_ids == EOS) - 1  # where the key comes again
key_counts = count_ngrams(train_ids, gap + 2, vocabulary)
nats = {
    n: -fit(key_counts.up_to(n)).score_tokens(test_ids).log_probs[closing].mean()
    for n in range(1, gap + 3)
}
reader = train_lm(train_ids, 12 if IS_TOY else 8)
by_net = -score(reader, test_ids).log_probs[closing].mean()
print(f"log 4 = {np.log(4):.3f}; the key costs")
print(", ".join(f"order {n}: {nats[n]:.3f}" for n in nats) + f", LSTM: {by_net:.3f}")
assert min(nats[n] for n in range(1, gap + 2)) > 0.99 * np.log(4)
assert nats[gap + 2] < 0.3 * np.log(4)  # its window just reaches the key
assert by_net < 0.3 * np.log(4)
full = {gram[:-1] for gram in grams(train_ids, gap + 2) if SOS not in gram and EOS not in gram}
print(f"order {gap + 2} had to see {len(full)} contexts: 4 keys, and {gap} times 2 words")
assert len(full) == 4 * 2**gap

# %% [markdown]
# `python -m experiments.ngram_lm --dataset ptb --order 6` and `python -m experiments.rnn_lm` do
# this on real corpora; `python -m experiments.language_memory` shows how far back a trained net
# reads.
#
# ## Exercises
#
# 1. `my_absolute`: of counts `[V, V]` (word before, word after) and a discount `D`, all
#    $p(w_2 \mid w_1)$, `[V, V]`, by absolute discounting: as Kneser-Ney above, with the plain
#    unigram $c(w) / N$ (the share of each word among all that come after) as the order below.
# 2. `my_mixture`: of `(first, second)`, the probabilities that two models give each token of a
#    text, the weight of the first with which their mixture finds the text most probable.

# %%
my_absolute = None
my_mixture = None

# %%
# Checks; nothing to change here.
if my_absolute is not None:
    table = np.zeros((len(small_words),) * 2)
    np.add.at(table, tuple(np.transpose([*grams(small_ids, 2)])), 1)
    given, follow = (np.flatnonzero(table.sum(axis=axis)) for axis in (1, 0))
    found = np.asarray(my_absolute(table[np.ix_(given, follow)], 0.7))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, err_msg="no probabilities")
    absolute = fit(small_counts.up_to(2), "absolute", discount=0.7, interpolate_unigrams=False)
    for row, word in zip(found[:50], given[:50], strict=True):
        np.testing.assert_allclose(row, absolute.next_distribution([word])[follow])
    print("1: right")
if my_mixture is not None:
    first, second = (np.exp(scores["valid"].log_probs) for scores in (counted, recurrent))

    def loss(weight):
        return -np.mean(np.log(weight * first + (1 - weight) * second))

    weight = my_mixture(first, second)
    best = min(loss(each) for each in np.linspace(0.001, 0.999, 999))
    assert loss(weight) < best + 1e-6, "another weight is better"
    print("2: right")
