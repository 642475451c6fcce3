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
# # 8. Encoder, decoder and attention
#
# Many-to-many with two lengths: one recurrence reads a source $x_1 \dots x_S$, another writes a
# target, a token at a time, each after those before it:
#
# $$p(y \mid x) = \prod_s p(y_s \mid y_1, \dots, y_{s-1}, x), \qquad
#   s_s = \mathrm{cell}(s_{s-1}, [\mathrm{emb}(y_{s-1}); c]), \qquad y_0 = \texttt{<sos>} .$$
#
# It stops when it says `<eos>`. What the decoder knows of the source is $c$: one vector, whatever
# the length of the source, or what it looks up anew at each step, which is attention. The task is
# a small one, to write a string backwards, because one knows where it has to look.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from seqlab import carry_gradients, log_norm_over_time, plots, steps, translations
from seqlab.data.pairs import string_pairs
from seqlab.data.vocabulary import EOS, SOS
from seqlab.losses import cross_entropy
from seqlab.models.attention import Attention, attended
from seqlab.translator import Fed, Plan, Translator, learn_sides

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
longest, hidden_size, num_updates = (4, 32, 150) if IS_TOY else (10, 64, 500)
farthest = 6 if IS_TOY else 15  # letters of the longest test source

# %% [markdown]
# ## What is read, fed and told
#
# A source is its letters and `<eos>`. In *teacher forcing* the decoder is fed the true token before
# each, from `<sos>` on, and is to tell the next, down to `<eos>`: what it is fed is what it tells,
# one step later.

# %%
sources, targets = string_pairs("reverse", 8192, np.random.default_rng(0), 2, longest)
sides = learn_sides(sources, targets, ("char", "char"), min_count=1, max_size=None)


def translator(context):
    plan = Plan(
        cell="rnn" if IS_TOY else "gru",
        embed_size=16,
        hidden_size=hidden_size,
        num_layers=1,
        bidirectional=False,
        context=context,
        attention="additive",
        query="previous",
        input_feeding=False,
        bridge="linear",
        tied=False,
        drop_inputs=0.0,
        dropout=0.0,
        drop_features=0.0,
        reverse_source=False,
        max_source=32,
    )
    return Translator(plan, sides)


models = {"attention": translator("attention"), "fixed vector": translator("state")}
fed = Fed(models["attention"].buckets(sources, targets, seed=0, batch_size=64, num_buckets=1))
batch = fed.batch(0)
row = int(np.argmin(batch["fed_mask"].sum(axis=1)))
for name, side in (("xs", 0), ("fed", 1), ("labels", 1)):
    print(f"{name:6s}", " ".join(sides[side].token(token) for token in batch[name][row]))
real = batch["fed_mask"]
assert np.all(batch["fed"][:, 0] == SOS)
assert np.array_equal(batch["fed"][:, 1:][real[:, 1:]], batch["labels"][:, :-1][real[:, 1:]])
last = batch["labels"][np.arange(64), real.sum(axis=1) - 1]
assert np.all(last == EOS)

# %% [markdown]
# ## The loss counts `<eos>` and never padding
#
# $$L = -\frac{1}{\sum_b (U_b + 1)} \sum_b \sum_{s=1}^{U_b + 1} \log p(y_s \mid y_{<s}, x),
#   \qquad y_{U_b + 1} = \texttt{<eos>} .$$
#
# One update with a batch, and one with other tokens in all of its padding, of source, fed and
# labels: the loss, every gradient and every weight after it are the same to the last bit.

# %%
rate = optax.cosine_decay_schedule(1e-2 if IS_TOY else 5e-3, num_updates, 0.05)
training = {
    name: each.training(optax.adam(rate), smoothing=0.0, clip_norm=1.0, seed=0)
    for name, each in models.items()
}
train_step, fresh = training["attention"]
junk = dict(batch)
for name, mask in (("xs", "mask"), ("fed", "fed_mask"), ("labels", "fed_mask")):
    junk[name] = np.where(batch[mask], batch[name], 7)
    assert not np.array_equal(junk[name], batch[name])
_, updated, metrics = next(steps(train_step, fresh, [batch]))
_, same, same_metrics = next(steps(train_step, fresh, [junk]))
assert metrics["loss"] == same_metrics["loss"]
for a, b in zip(
    jax.tree.leaves((updated.params, updated.opt_state)),
    jax.tree.leaves((same.params, same.opt_state)),
    strict=True,
):
    assert np.array_equal(a, b)

chosen = batch["ids"].tolist()  # the same 64 pairs, nats of each token
some = models["attention"].buckets(
    [sources[i] for i in chosen],
    [targets[i] for i in chosen],
    seed=None,
    batch_size=64,
    num_buckets=1,
)
nats, _ = models["attention"].forced(fresh.params, Fed(some))
assert sum(map(len, nats)) == sum(len(targets[i]) + 1 for i in chosen)
np.testing.assert_allclose(np.mean(np.concatenate(nats)), metrics["loss"], rtol=1e-6)

# %% [markdown]
# ## Additive attention
#
# At each step the state of the decoder before it, $q = s_{s-1}$, is held against every $h_j$ of the
# encoder:
#
# $$e_j = v^\top \tanh(W_q q + W_m h_j), \qquad
#   a_j = \frac{\exp e_j}{\sum_{k \text{ real}} \exp e_k}, \qquad c = \sum_j a_j h_j .$$
#
# The sum runs over the real steps alone. A softmax over all of them, with the padding set to zero
# afterwards, sums to less than one.

# %%
rng = np.random.default_rng(1)
attention = Attention("additive", size=5)
own = attention.init(jax.random.key(1), 4, 3)  # queries of 4 numbers, a memory of 3
queries, memory = rng.normal(size=(2, 4)).astype("f"), rng.normal(size=(6, 3)).astype("f")
is_real = np.arange(6) < 4
memory[~is_real] = np.nan

by_hand = np.zeros((2, 6))
for step, query in enumerate(queries):
    scores = np.array(
        [own["v"] @ np.tanh(query @ own["W_q"] + h @ own["W_m"]) for h in memory[is_real]]
    )
    by_hand[step, is_real] = np.exp(scores) / np.exp(scores).sum()


@jax.jit
def look(queries, memory, is_real):
    weights = attention.weights(own, queries, attention.keys(own, memory), is_real)
    return weights, attended(weights, jnp.where(is_real[:, None], memory, 0.0))


found, context = look(queries, memory, is_real)
np.testing.assert_allclose(found, by_hand, atol=1e-6)
np.testing.assert_allclose(context, by_hand[:, is_real] @ memory[is_real], atol=1e-6)

# %% [markdown]
# ## With and without

# %%
curves, trained = {}, {}
for name, (train_step, fresh) in training.items():
    batches = (fed.batch(number) for number in range(num_updates))
    curves[name] = []
    for _, state, metrics in steps(train_step, fresh, batches):
        curves[name].append(float(metrics["loss"]))
        trained[name] = state.params
    print(f"{name}: {np.mean(curves[name][-20:]):.3f} nats a token at the end")
figure, axes = plt.subplots(figsize=(6, 3))
for name, losses in curves.items():
    axes.plot(losses, label=name, linewidth=0.9)
axes.set(xlabel="updates", ylabel="nats a token", yscale="log")
axes.legend()
plt.show()
assert np.mean(curves["attention"][-20:]) < np.mean(curves["fixed vector"][-20:])

# %% [markdown]
# ## Writing
#
# Nobody feeds the truth when the net writes: it reads its own last token. *Greedy* takes the
# likeliest each time. The score of an output is $\log p(y \mid x)$ of all its tokens, `<eos>` too,
# and it is what teacher forcing says of it when it is fed its own output.

# %%
rng = np.random.default_rng(2)
lengths = list(range(2, farthest + 1))
per_length = 16 if IS_TOY else 64
tests = [string_pairs("reverse", per_length, rng, length, length) for length in lengths]
test_sources = [text for texts, _ in tests for text in texts]
test_targets = [text for _, texts in tests for text in texts]
count = len(test_sources)
written, forced = {}, {}
for name, each in models.items():
    outputs = each.write(trained[name], test_sources, max_length=farthest + 3)
    written[name] = [own[0] for own in outputs]
    both = each.buckets(
        test_sources * 2,
        test_targets + [own.text for own in written[name]],
        seed=None,
        batch_size=2 * count,
        num_buckets=1,
    )
    forced[name] = each.forced(trained[name], Fed(both))  # of the truth, then of what was written
    nats = [own.sum() for own in forced[name][0][count:]]
    ended = [i for i, own in enumerate(written[name]) if own.is_ended]
    np.testing.assert_allclose(
        [written[name][i].log_prob for i in ended], [-nats[i] for i in ended], atol=2e-3
    )
for place in (0, count - 1):
    print(test_sources[place], "->", *(f"{name}: {written[name][place].text}" for name in models))

# %% [markdown]
# ## Beam search
#
# The likeliest token now is not always on the way to the likeliest output. A beam follows the $K$
# best beginnings at once. With a beam as wide as there are outputs it is exhaustive search: here of
# a fresh net, of all outputs that end within two tokens.

# %%
searched, untrained = models["attention"], training["attention"][1].params
every = ["", *map(sides[1].token, range(EOS + 1, len(sides[1])))]  # nothing, or one letter
wide = searched.write(
    untrained, [test_sources[0]], beam_size=27 * 26, num_best=27, max_length=2, batch_size=1
)[0]
pairs = searched.buckets([test_sources[0]] * 27, every, seed=None, batch_size=27, num_buckets=1)
scores = [-own.sum() for own in searched.forced(untrained, Fed(pairs))[0]]
best_first = np.argsort(scores)[::-1]
assert len(every) == len(wide) == 27
assert [own.text for own in wide] == [every[i] for i in best_first]
np.testing.assert_allclose([own.log_prob for own in wide], np.array(scores)[best_first], atol=1e-4)

# %% [markdown]
# ## Where it looks
#
# `looks` gives the weights of attention and, exactly, how the loss of each target token depends on
# each step of the source: the norm of $\partial L_s / \partial h_t$, by whatever way it goes,
# attention or the recurrence. Of a net that writes backwards both should be an anti-diagonal. It
# may lie a letter later: the state of an encoder that reads one way holds the letter before, too.

# %%
place = lengths.index(longest) * per_length
some = slice(place, place + 16)
found = {}
for name in ("attention",) if IS_TOY else tuple(models):
    looks = models[name].looks(trained[name], test_sources[some], test_targets[some])
    size = longest + 1  # with <eos>
    row = {
        "source": [sides[0].token(token) for token in looks.xs[0, :size]],
        "target": [sides[1].token(token) for token in looks.labels[0]],
        "log_norm": looks.log_norms[0, :, :size],
    }
    found[name] = {"gradient": looks.log_norms}
    if looks.attention is not None:
        row["attention"] = looks.attention[0, :, :size]
        found[name]["attention"] = looks.attention
        np.testing.assert_allclose(looks.attention.sum(axis=-1), 1.0, atol=1e-6)
        assert np.all(looks.attention[:, :, size:] == 0)  # the padding
    figure = plots.pair_maps(row, title=f"{name}: a string of {longest} letters")
    plt.show()
backwards, near = np.arange(longest)[::-1], {}
for name, maps in found.items():
    for key, values in maps.items():
        there = values[:, :longest, :size].argmax(axis=-1)
        near[name, key] = np.mean(np.abs(there - backwards) <= 1)
        print(
            f"{name}: largest {key} at the letter that is written in "
            f"{np.mean(there == backwards):.0%}, there or one beside it in {near[name, key]:.0%}"
        )
assert min(near["attention", "attention"], near["attention", "gradient"]) > 0.8
assert IS_TOY or near["fixed vector", "gradient"] < 0.5

# %% [markdown]
# Where the net looks and what its loss depends on are not the same number: a weight says how much
# of a state is read, a gradient what would change if it were another. Without attention all of a
# gradient comes through the last state, and where in the source it is largest has little to do with
# the letter that is written.
#
# The map of gradients by another way, a loss of one target step and one backward pass with
# `carry_gradients`:

# %%
looks = models["attention"].looks(trained["attention"], test_sources[some], test_targets[some])
step, sos = 1, np.full((len(looks.labels), 1), SOS)
fed_tokens = np.concatenate([sos, looks.labels[:, :-1]], axis=1)


def loss_of_step(output):
    return jnp.sum(cross_entropy(output.logits, looks.labels)[:, step])  # rows are on their own


@jax.jit
def norms(params):
    read = (looks.xs, looks.mask, fed_tokens, looks.label_mask)
    carries = carry_gradients(models["attention"].model.apply, loss_of_step, params, *read)
    return log_norm_over_time(carries["encoder"])


if not IS_TOY:  # seconds to compile
    by_carries = norms(trained["attention"])
    np.testing.assert_allclose(by_carries, looks.log_norms[:, step], atol=1e-3)

# %% [markdown]
# ## What one vector holds
#
# The vector has as many numbers for a string of three letters as for one of ten. The share of
# strings that are written without a mistake, by length:

# %%
rows, share = {}, {}
for name in models:
    rows[name] = []
    for number, length in enumerate(lengths):
        own = range(number * per_length, (number + 1) * per_length)
        found_texts = [written[name][i].text for i in own]
        middle, low, high = translations.exact_interval(
            found_texts, [[test_targets[i]] for i in own]
        )
        rows[name].append({"mean_length": length, "score": middle, "low": low, "high": high})
    share[name] = np.array([row["score"] for row in rows[name]])
figure = plots.score_by_length(
    rows, measure="exact match, %", title="strings backwards", trained=longest
)
plt.show()
seen = np.array(lengths) <= longest
for name, values in share.items():
    print(
        f"{name}: {values[0]:.0f} % of strings of {lengths[0]} letters, {values[seen][-1]:.0f} % "
        f"of {longest}, {values[-1]:.0f} % of {farthest}, which it has not seen"
    )
assert share["attention"][seen].mean() > share["fixed vector"][seen].mean()
assert IS_TOY or share["attention"][seen].min() > 80
assert share["fixed vector"][0] >= share["fixed vector"][seen][-1]
assert share["attention"][-1] < share["attention"][seen][-1]

# %% [markdown]
# Attention takes the bottleneck away, not the need to have seen the like: beyond the lengths of the
# training neither net gets far.
#
# ## Exposure bias
#
# In training every token comes after true ones; in writing, after the net's own. One mistake, and
# it is where it has never been. The share of right tokens by place, of strings of the longest
# length in training:

# %%
own = range(place, place + per_length)
truths = models["fixed vector"].targets([test_targets[i] for i in own])
hits = [forced["fixed vector"][1][i] for i in own]
free = [
    translations.agrees([*written["fixed vector"][i].ids, EOS], truth[1:])
    for i, truth in zip(own, truths, strict=True)
]
modes = {}
for name, each in (("teacher forcing", hits), ("free running", free)):
    accuracy, counts = translations.position_accuracy(each, longest)
    modes[name] = {"accuracy": accuracy, "counts": counts}
    print(f"{name}: {accuracy[0]:.0%} of first letters, {accuracy[1:].mean():.0%} of the others")
figure = plots.exposure_bias(modes, title=f"fixed vector, {longest} letters")
plt.show()
assert modes["teacher forcing"]["accuracy"][0] == modes["free running"]["accuracy"][0]
assert IS_TOY or (
    modes["teacher forcing"]["accuracy"].mean() > modes["free running"]["accuracy"].mean()
)

# %% [markdown]
# *Scheduled sampling*, `Fed(..., share=0.5)`, feeds the net its own tokens now and then in training
# too. `python -m experiments.translation --compare` has all of this on dates, and
# `--dataset multi30k_de_en` on sentences.
#
# ## Exercises
#
# 1. `my_weights`: of `(queries, memory, mask)`, `[U, H]`, `[S, H]`, `[S]`, the weights of Luong's
#    *dot* attention, $e_j = q^\top h_j$, `[U, S]`. What stands in the padding must not be seen, NaN
#    included.
# 2. `my_loss`: of `(log_probs, labels, lengths)`, `[B, U, V]`, `[B, U]`, `[B]`, the mean nats a
#    token, where row $b$ has `lengths[b]` tokens and then `<eos>`.

# %%
my_weights = None
my_loss = None

# %%
# Checks; nothing to change here.
if my_weights is not None:
    dot, rng = Attention("dot"), np.random.default_rng(3)
    queries, memory = rng.normal(size=(3, 4)).astype("f"), rng.normal(size=(5, 4)).astype("f")
    for is_real in (np.arange(5) < 3, np.arange(5) >= 2, np.ones(5, bool)):
        filled = np.where(is_real[:, None], memory, np.float32(np.nan))
        expected = dot.weights({}, jnp.asarray(queries), jnp.asarray(memory), jnp.asarray(is_real))
        np.testing.assert_allclose(my_weights(queries, filled, is_real), expected, atol=1e-6)
    print("1: right")
if my_loss is not None:
    rng = np.random.default_rng(4)
    log_probs = np.log(rng.dirichlet(np.ones(6), size=(3, 5)))
    labels, sizes = rng.integers(4, 6, size=(3, 5)), np.array([4, 1, 0])
    labels[np.arange(3), sizes] = EOS
    nats = [-log_probs[b, s, labels[b, s]] for b in range(3) for s in range(sizes[b] + 1)]
    np.testing.assert_allclose(my_loss(log_probs, labels, sizes), np.mean(nats), rtol=1e-6)
    log_probs[np.arange(5) > sizes[:, None]] = np.nan
    np.testing.assert_allclose(my_loss(log_probs, labels, sizes), np.mean(nats), rtol=1e-6)
    print("2: right")
