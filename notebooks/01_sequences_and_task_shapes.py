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
# # 1. Sequences, and the shapes of tasks
#
# A sequence is $x_1, \dots, x_T$: its steps have an order, and its length differs from one
# sequence to the next. A step $x_t$ is a vector of $D$ numbers or one of $V$ tokens.
#
# This notebook looks at four kinds of sequence, puts sequences of different lengths into one
# batch, goes through the shapes that tasks have, and trains a net on a task in which nothing but
# the order matters.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from seqlab import (
    LSTM,
    RNN,
    ManyToMany,
    ManyToOne,
    OneToMany,
    functional,
    init_state,
    make_train_step,
    plots,
    steps,
    unroll,
)
from seqlab.baselines import bag_of_words
from seqlab.data.batching import Buckets, pad_tokens
from seqlab.data.digits import digits
from seqlab.data.groups import Part, fit_scaler
from seqlab.data.negation import negation_sentences
from seqlab.data.pairs import string_pairs
from seqlab.data.scenes import describe, draw_image, draw_scenes
from seqlab.data.storms import simulated_storms
from seqlab.data.text import embedded_text
from seqlab.data.track_cases import track_cases
from seqlab.data.vocabulary import EOS, SOS, Characters, Words
from seqlab.data.wear import simulated_engines
from seqlab.losses import binary_cross_entropy
from seqlab.models.attention import Attention
from seqlab.models.captioner import Captioner
from seqlab.models.layers import HEADS
from seqlab.models.seq2seq import Seq2Seq

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
rng = np.random.default_rng(0)

# %% [markdown]
# ## Four sequences
#
# | | a step is | length |
# |---|---|---|
# | a machine that wears out (simulated) | 21 sensors, once a cycle | until it fails |
# | a tropical storm (simulated) | where its centre is, every 6 hours | while it lives |
# | a text (the one that every Python carries) | a character | a paragraph |
# | an image of a digit (from scikit-learn) | a pixel, line by line | always 64 |

# %%
engines, _ = simulated_engines(rng, num_train=20, num_test=1)
storms = simulated_storms(rng, range(2000, 2002))
text = embedded_text()
paragraphs = [paragraph.replace("\n", " ") for paragraph in text.split("\n\n")]
characters = Characters.of(text)
images, _ = digits()

first = max(paragraphs[:40], key=len)
sequences = {
    "machine": engines[0].sensors,
    "storm": np.stack([storms[0].lat, storms[0].lon], axis=1),
    "text": characters.encode(first),
    "image": images.xs[0],
}
for name, xs in sequences.items():
    print(f"{name:8s} {xs.dtype!s:8s} {list(xs.shape)}")
assert [xs.ndim for xs in sequences.values()] == [2, 2, 1, 2]  # tokens have no axis of features
assert images.xs.shape[1:] == (64, 1)
assert len({len(engine) for engine in engines}) > 1
assert len({len(storm) for storm in storms}) > 1

figure, axes = plots.new_figure(4, width=12, height=2.8)
axes[0].plot((engines[0].sensors - engines[0].sensors.mean(0)) / (engines[0].sensors.std(0) + 1e-9))
axes[0].set(title="machine: 21 sensors, scaled", xlabel="cycle")
for storm in storms[:12]:
    axes[1].plot(storm.lon % 360, storm.lat, marker=".", markersize=2, linewidth=0.8)
axes[1].set(title="12 storms", xlabel="degrees east", ylabel="degrees north")
axes[2].plot(sequences["text"][:60], marker=".", drawstyle="steps-mid", linewidth=0.6)
axes[2].set(title=f"text: {first[:20]!r}...", xlabel="character", ylabel="id")
axes[3].plot(images.xs[0, :, 0], drawstyle="steps-mid")
axes[3].set(title=f"a {images.labels[0]}, pixel by pixel", xlabel="pixel", ylabel="ink")
plt.show()

# %% [markdown]
# What makes them sequences is that a step tells something of the next one, and that this is lost
# when the steps are shuffled. For numbers, the correlation of neighbours; for characters, how many
# bits the one before saves of the next,
#
# $$I(x_{t-1}; x_t) = H(x_t) - H(x_t \mid x_{t-1}) .$$


# %%
def correlation(xs):
    return np.corrcoef(xs[:-1], xs[1:])[0, 1]


def saved_bits(ids):
    pairs = np.zeros((len(characters),) * 2)
    np.add.at(pairs, (ids[:-1], ids[1:]), 1 / (len(ids) - 1))
    apart = np.outer(pairs.sum(1), pairs.sum(0))
    return np.sum(pairs[pairs > 0] * np.log2(pairs[pairs > 0] / apart[pairs > 0]))


longest = max(storms, key=len)
told = {
    "machine": (correlation, engines[0].sensors[:, np.argmax(np.ptp(engines[0].sensors, axis=0))]),
    "storm": (correlation, longest.lat),
    "image": (correlation, images.xs[:100].ravel()),
    "text": (saved_bits, characters.encode(text)),
}
for name, (measure, xs) in told.items():
    in_order, shuffled = measure(xs), measure(rng.permutation(xs))
    print(f"{name:8s} in order {in_order:5.2f}, shuffled {shuffled:5.2f}")
    assert in_order > 3 * abs(shuffled)

# %% [markdown]
# ## A batch is a rectangle
#
# A batch of sequences is one array, `[B, T]` or `[B, T, D]`, so short ones are filled up, and a
# `mask` says what is real. Sequences of like length in one batch need less of it: `Buckets` finds
# the cut that needs least.

# %%
some = [paragraph for paragraph in paragraphs if 0 < len(paragraph) <= 400]
encoded = [characters.encode(paragraph) for paragraph in some[: 300 if IS_TOY else None]]
xs, mask = pad_tokens(encoded[:4], max(map(len, encoded[:4])))
assert xs.shape == mask.shape == (4, max(map(len, encoded[:4])))
assert [list(row[real]) for row, real in zip(xs, mask, strict=True)] == [
    list(ids) for ids in encoded[:4]
]
shares = [
    Buckets(encoded, batch_size=32, num_buckets=num, seed=0).padding for num in (1, 2, 4, 8, 16)
]
print("padding with 1, 2, 4, 8, 16 shapes:", ", ".join(f"{share:.0%}" for share in shares))
assert shares[0] > shares[1] > shares[2] > shares[3]

# %% [markdown]
# ## The shapes of tasks
#
# | | reads | writes | such as |
# |---|---|---|---|
# | one-to-one | `[D]` | `[K]` | a plain net |
# | one-to-many | `[D]` | `[U, K]` | an image, a sentence about it |
# | many-to-one | `[T, D]` | `[K]` | a text, what it is for; pixels, the digit |
# | many-to-many, aligned | `[T, D]` | `[T, K]` | a storm, where it goes next |
# | many-to-many, encoder-decoder | `[S]` | `[U]` | a sentence, its translation |
#
# All are made of the same loop and differ in where it is fed and where it is read. `functional`
# turns a model into two functions, `init` and `apply`; `jax.eval_shape` tells the shapes of what
# they give without computing it, and where numbers are wanted, any weights will do.
#
# **One-to-one** is a sequence of one step: a recurrent net that has no past is a plain net.


# %%
def any_weights(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


model = functional(ManyToOne, RNN(8), input_size=3, output_size=2)
params = any_weights(model)
x = rng.normal(size=(5, 3)).astype(np.float32)
logits = jax.jit(model.apply)(params, x[:, None]).logits
weights, head = params["rnn"]["weights"], params["head"]
by_hand = np.tanh(x @ weights["W_x"] + weights["b"]) @ head["kernel"] + head["bias"]
assert logits.shape == (5, 2)
np.testing.assert_allclose(logits, by_hand, atol=1e-5)

# %% [markdown]
# **One-to-many**: the vector enters at the first step, and what comes after is the state's own. A
# `Captioner` reads an image and writes words; fed `<sos>` and the words so far, it scores the next
# word at each step.

# %%
model = functional(OneToMany, RNN(8), input_size=3, output_size=2)
params = jax.eval_shape(model.init, jax.random.key(0))
assert jax.eval_shape(lambda *args: model.apply(*args, 7), params, x).logits.shape == (5, 7, 2)

scene = draw_scenes(1, rng)[0]
picture, sentence = draw_image(scene, rng), describe(scene)[0]
words = Words.of(sentence)
fed, answer = words.encode(sentence, sos=True), words.encode(sentence, eos=True)
captioner = functional(
    Captioner,
    LSTM(16),
    target_size=len(words),
    embed_size=8,
    channels=(4, 4, 8),
    attention=Attention(),
)
params = jax.eval_shape(captioner.init, jax.random.key(0))
output = jax.eval_shape(captioner.apply, params, picture[None], None, fed[None])
print(f"{list(picture.shape)} -> {sentence!r}: logits {list(output.logits.shape)}")
assert output.logits.shape == (1, len(answer), len(words))
assert output.attention.shape == (1, len(answer), 64)  # a word looks at a grid of 8 x 8

# %% [markdown]
# **Many-to-one**: the pixels of an image, one after the other, and one answer.
#
# **Many-to-many, aligned**: a storm, and at each step how far it moves in the next 6 and 12 hours.
# Such a model must not see what comes later; with two directions it does, which is right for
# tagging a sentence and wrong for a forecast.

# %%
reader = functional(ManyToOne, RNN(8), input_size=1, output_size=10, head="softmax")
params = jax.eval_shape(reader.init, jax.random.key(0))
output = jax.eval_shape(reader.apply, params, images.xs[:6])
assert images.xs[:6].shape == (6, 64, 1)
assert output.logits.shape == (6, 10)

cases = track_cases(storms[:8], longest_hours=12)
scaler = fit_scaler(Part("train", cases.features[cases.is_real], cases.ids))
tracks = scaler(cases.features).astype(np.float32)
assert cases.targets.shape == (*cases.is_real.shape, 2, 2)  # two leads, east and north
later = np.array(tracks)
later[:, 5:] += 1.0  # another future
for bidirectional in (False, True):
    model = functional(
        ManyToMany, RNN(8), input_size=tracks.shape[-1], output_size=4, bidirectional=bidirectional
    )
    both = np.stack([tracks, later])  # leading axes are free
    output = jax.jit(model.apply)(any_weights(model), both, np.stack([cases.is_real] * 2))
    before, after = output.logits
    assert before.shape == (*cases.is_real.shape, 4)
    assert np.array_equal(before[:, :5], after[:, :5]) == (not bidirectional)

# %% [markdown]
# **Encoder-decoder**: source and target have lengths of their own, and two masks. Here a string
# and its sorted letters behind a sign of the end; and the attention, of each letter written to
# each letter read.

# %%
sources, targets = string_pairs("sort", 4, rng, shortest=2, longest=9)
letters = Characters.of("abcdefghijklmnopqrstuvwxyz")
read, read_mask = pad_tokens([letters.encode(source) for source in sources], 9)
fed, fed_mask = pad_tokens([letters.encode(target, sos=True) for target in targets], 10)
translator = functional(
    Seq2Seq,
    LSTM(8),
    LSTM(8),
    source_size=len(letters),
    target_size=len(letters),
    embed_size=8,
    attention=Attention(),
)
params = jax.eval_shape(translator.init, jax.random.key(0))
output = jax.eval_shape(translator.apply, params, read, read_mask, fed, fed_mask)
assert SOS in fed  # the target begins behind it
assert EOS not in fed  # it is written, and never read
assert output.logits.shape == (4, 10, len(letters))
assert output.attention.shape == (4, 10, 9)

# %% [markdown]
# ## Heads
#
# The lecture writes $y = \sigma(W h_T)$. That is the probability of one of two classes, and
# nothing else. For two classes it is the softmax of the logits $(0, a)$. Of more classes, of which
# one is right, sigmoids do not add up to 1, and a softmax does. And a number is read without any
# squashing: the engines' cycles to failure lie outside $(0, 1)$, and even a sigmoid that is told
# the answer is farther off than always saying the mean.

# %%
a = jnp.linspace(-5, 5, 11)
two = jax.nn.softmax(jnp.stack([jnp.zeros_like(a), a], axis=-1))
np.testing.assert_allclose(jax.nn.sigmoid(a), two[:, 1], atol=1e-6)

logits = rng.normal(size=(6, 10)).astype(np.float32)
sums = {name: np.asarray(HEADS[name](logits).sum(axis=-1)) for name in ("sigmoid", "softmax")}
for name, total in sums.items():
    print(f"{name}: ten classes add up to {total.min():.2f} .. {total.max():.2f}")
np.testing.assert_allclose(sums["softmax"], 1.0, atol=1e-5)
assert np.all(np.abs(sums["sigmoid"] - 1) > 0.5)

life = np.concatenate([engine.remaining_life for engine in engines]).astype(float)
errors = {
    "the best sigmoid": np.abs(life - np.clip(life, 0, 1)).mean(),
    "the mean": np.abs(life - life.mean()).mean(),
}
print(", ".join(f"{name}: {error:.0f} cycles off" for name, error in errors.items()))
assert errors["the best sigmoid"] > errors["the mean"]

# %% [markdown]
# ## Why order matters
#
# A made-up language of opinions, in which a negator turns an opinion round ("not ... good") unless
# something stands between them ("not ... but ... good"). Sentences of both kinds have the same
# words equally often, so a bag of words can know nothing; a net with a state has to remember which
# of two words came last.

# %%
num_updates, num_train, distances = (150, 2048, range(1)) if IS_TOY else (800, 8192, range(4))
parts = {
    name: negation_sentences(rng, count, distances, slack=1, tail=1)
    for name, count in (("train", num_train), ("valid", 500), ("test", 2000))
}
for label, sentence in list(zip(parts["test"].labels, parts["test"].texts, strict=True))[:4]:
    print(label, sentence)
vocabulary = Words.of(" ".join(parts["train"].texts))
num_steps = max(len(text.split()) for part in parts.values() for text in part.texts)


def padded(part, width):
    xs, mask = pad_tokens([vocabulary.encode(text) for text in part.texts], width)
    return {"xs": xs, "mask": mask, "labels": part.labels}


bag = bag_of_words(
    *(([text.split() for text in part.texts], part.labels) for part in parts.values()),
    num_classes=2,
)

# %%
lstm = functional(ManyToOne, LSTM(32), input_size=16, output_size=1, vocab_size=len(vocabulary))


def loss_fn(params, batch, key):
    logits = lstm.apply(params, batch["xs"], batch["mask"]).logits[..., 0]
    right = jnp.mean((logits > 0) == batch["labels"])
    return jnp.mean(binary_cross_entropy(logits, batch["labels"])), {"right": right}


optimizer = optax.adam(1e-2)
train_step = make_train_step(loss_fn, optimizer, clip_norm=1.0)
params = jax.jit(lstm.init)(jax.random.key(1))
state = init_state(params, optimizer, jax.random.key(2))
train = padded(parts["train"], num_steps)
rows = (rng.integers(num_train, size=64) for _ in range(num_updates))
batches = ({name: leaf[chosen] for name, leaf in train.items()} for chosen in rows)
walked = list(steps(train_step, state, batches))
_, state, _ = walked[-1]
curve = [float(metrics["right"]) for *_, metrics in walked]


walk = jax.jit(lstm.apply)


def share_right(logits):
    return float(np.mean((logits[:, 0] > 0) == parts["test"].labels))


test = padded(parts["test"], num_steps)
logits = walk(state.params, test["xs"], test["mask"]).logits
in_order = share_right(logits)
print(f"bag of words {bag.accuracy:.1%}, LSTM {in_order:.1%} of {len(logits)} right")
assert abs(bag.accuracy - 0.5) < 0.05
assert in_order > 0.95

figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(np.convolve(curve, np.ones(10) / 10, mode="valid"), label="LSTM")
axes.axhline(bag.accuracy, color="grey", linestyle=":", label="bag of words, test")
axes.set(xlabel="updates", ylabel="share right, mean of 10", ylim=(0.4, 1.02))
axes.legend()
plt.show()

# %% [markdown]
# It is the order that it reads: with the words of each sentence shuffled, the same net is down to
# guessing.

# %%
mixed = np.array(test["xs"])
for row, length in zip(mixed, test["mask"].sum(axis=1), strict=True):
    row[:length] = rng.permutation(row[:length])
shuffled = share_right(walk(state.params, mixed, test["mask"]).logits)
print(f"words shuffled: {shuffled:.1%}")
assert shuffled < 0.65

# %% [markdown]
# ## The state after the padding
#
# "Classify from $h_T$" is right for one sentence. In a padded batch $h_T$ is the state after the
# padding, and what a net says of a sentence then depends on how long the longest sentence beside it
# is. With a mask it is the state after the last word, and nothing else in the batch matters.

# %%
wide = padded(parts["test"], 4 * num_steps)
with_mask = walk(state.params, wide["xs"], wide["mask"]).logits
np.testing.assert_allclose(with_mask, logits, atol=1e-5)  # more padding, the same answers
for name, batch in (("as padded", test), ("4 times as wide", wide)):
    naive = walk(state.params, batch["xs"], np.ones_like(batch["mask"])).logits
    right, moved = share_right(naive), float(jnp.mean(jnp.abs(naive - logits)))
    print(f"without a mask, {name}: {right:.1%} right, logits moved by {moved:.2f}")
    assert moved > 0.01
assert IS_TOY or right < in_order - 0.1

# %% [markdown]
# ## Exercises
#
# 1. `my_last`: of outputs `ys` `[B, T, H]` and a mask `[B, T]` (real steps first), the output at
#    each row's last real step, `[B, H]`. This is what a model reads that answers once.
# 2. `my_model`: a `functional` model that reads the features of a storm, `[B, T, 12]`, and tells at
#    each step how far east and north it moves next, in hundreds of km, `[B, T, 2]`. It must not
#    know the future, and a storm may move to the west.

# %%
my_last = None
my_model = None

# %%
# Checks; nothing to change here.
if my_last is not None:
    xs = jax.random.normal(jax.random.key(3), (4, 6, 3))
    mask = jnp.arange(6) < jnp.array([[6], [1], [4], [3]])
    cell = RNN(5)
    weights = cell.init(jax.random.key(4), 3)
    full = unroll(cell, weights, xs).ys  # not masked: it goes on behind the last real step
    expected = unroll(cell, weights, xs, mask=mask).carry
    np.testing.assert_allclose(my_last(full, mask), expected, atol=1e-6)
    print("1: right")
if my_model is not None:
    both = np.stack([tracks, later])
    output = jax.jit(my_model.apply)(any_weights(my_model), both, np.stack([cases.is_real] * 2))
    assert output.logits.shape == (2, *cases.is_real.shape, 2), "two numbers at each step"
    assert np.array_equal(output.predictions, output.logits), "what it says is squashed"
    assert np.array_equal(*output.logits[:, :, :5]), "it knows the future"
    print("2: right")
