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
# # 3. A recurrent net by hand, and many-to-one
#
# A recurrent net reads a sequence of any length with the same weights at every step and keeps
# what it has read in a state:
#
# $$a_t = W_x x_t + W_h h_{t-1} + b, \qquad h_t = \tanh(a_t), \qquad h_0 = 0 .$$
#
# Below it is written with loops and plain arrays, forward and backward, and held against the
# library to the last digits. Then it answers a question about a whole sequence: many-to-one.

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
    ManyToOne,
    assert_padding_invariant,
    functional,
    init_state,
    make_train_step,
    steps,
    unroll,
)

jax.config.update("jax_enable_x64", True)
IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
T, D, H = 6, 3, 4

# %% [markdown]
# ## Forward
#
# In the code a sequence is rows, `[T, D]`, so that the products are `x @ W_x` with `W_x` of `[D,
# H]`.

# %%
cell = RNN(H)
params = {name: np.asarray(leaf) for name, leaf in cell.init(jax.random.key(0), D).items()}
xs = np.random.default_rng(0).normal(size=(T, D))


def forward(params, xs):
    hs = [np.zeros(H)]
    for x in xs:
        hs.append(np.tanh(x @ params["W_x"] + hs[-1] @ params["W_h"] + params["b"]))
    return np.array(hs)  # h_0 .. h_T


hs = forward(params, xs)
np.testing.assert_allclose(unroll(cell, params, jnp.asarray(xs)).ys, hs[1:], atol=1e-15)

# %% [markdown]
# ## Backward
#
# Of $L = \frac12 \|h_T - y\|^2$ the gradient travels back step by step. With $\delta_t = \partial
# L / \partial a_t$:
#
# $$\delta_t = \frac{\partial L}{\partial h_t} \odot (1 - h_t^2), \qquad
#   \frac{\partial L}{\partial h_{t-1}} = W_h^\top \delta_t, \qquad
#   \frac{\partial L}{\partial W_h} = \sum_t \delta_t h_{t-1}^\top .$$
#
# The sum runs over all steps: one matrix was used $T$ times. And it is $h_{t-1}$ that stands
# there, not $h_t$, which is a mistake that one sees in print.

# %%
y = np.ones(H)


def backward(params, xs, hs):
    by_h = hs[-1] - y
    grads = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    for t in range(T, 0, -1):
        delta = by_h * (1 - hs[t] ** 2)
        grads["W_x"] += np.outer(xs[t - 1], delta)
        grads["W_h"] += np.outer(hs[t - 1], delta)
        grads["b"] += delta
        by_h = params["W_h"] @ delta
    return grads


def loss(params):
    return 0.5 * jnp.sum((unroll(cell, params, jnp.asarray(xs)).ys[-1] - y) ** 2)


by_hand, by_library = backward(params, xs, hs), jax.grad(loss)(params)
for name in params:
    np.testing.assert_allclose(by_hand[name], by_library[name], atol=1e-14)

wrong = sum(np.outer(hs[t], (hs[-1] - y) * (1 - hs[t] ** 2)) for t in range(1, T + 1))
assert np.abs(wrong - by_library["W_h"]).max() > 0.1  # h_t for h_{t-1}, and no way back

# %% [markdown]
# And by no derivative at all, from two values of the loss:

# %%
nudge = 1e-6
up, down = ({**params, "W_h": params["W_h"] + sign * nudge * np.eye(H)} for sign in (1, -1))
slope = (loss(up) - loss(down)) / (2 * nudge)
np.testing.assert_allclose(slope, np.trace(by_hand["W_h"]), rtol=1e-8)

# %% [markdown]
# ## Sequences of different lengths
#
# A batch is a rectangle, so short sequences are padded. A net that walks over the padding reads it:
# its last state is not the state after the last real step. `mask` keeps the state as it was.

# %%
lengths = np.array([6, 4, 1])
mask = np.arange(T) < lengths[:, None]
batch = np.random.default_rng(1).normal(size=(3, T, D))
batch[~mask] = 0.0

naive = unroll(cell, params, jnp.asarray(batch)).carry
masked = unroll(cell, params, jnp.asarray(batch), mask=jnp.asarray(mask)).carry
for row, length in enumerate(lengths):
    np.testing.assert_allclose(masked[row], forward(params, batch[row, :length])[-1], atol=1e-15)
assert np.abs(np.asarray(naive - masked))[1:].max() > 0.1  # zeros are read as inputs
np.testing.assert_allclose(naive[0], masked[0])  # the full row has no padding

# %% [markdown]
# `assert_padding_invariant` holds a whole model to that, with NaN in the padding, and its gradients
# too.

# %%
model = functional(ManyToOne, cell, input_size=D, output_size=1)
assert_padding_invariant(model, jnp.asarray(batch), jnp.asarray(mask))

# %% [markdown]
# ## Many-to-one
#
# The lecture reads a sentence into $h_T$ and answers with $y = \sigma(W h_T)$. That is for two
# classes; for more it is a softmax, and for a number the line without a squashing. Here: of signs
# $\pm 1$, were there more of the one or of the other? The state has to count.

# %%
num_updates, longest = (40, 7) if IS_TOY else (600, 31)


def signs(rng, batch_size):
    lengths = 2 * rng.integers(1, (longest + 1) // 2, size=batch_size) + 1  # odd: no tie
    mask = np.arange(longest) < lengths[:, None]
    xs = rng.choice((-1.0, 1.0), size=(batch_size, longest)) * mask
    return {"xs": xs[..., None], "mask": mask, "labels": (xs.sum(axis=1) > 0).astype(int)}


def train(cell):
    model = functional(ManyToOne, cell, input_size=1, output_size=1)

    def loss_fn(params, batch, key):
        logits = model.apply(params, batch["xs"], batch["mask"]).logits[..., 0]
        nats = optax.sigmoid_binary_cross_entropy(logits, batch["labels"])
        right = jnp.mean((logits > 0) == batch["labels"])
        return jnp.mean(nats), {"right": right}

    optimizer = optax.adam(3e-3)
    train_step = make_train_step(loss_fn, optimizer, clip_norm=1.0)
    state = init_state(model.init(jax.random.key(1)), optimizer, jax.random.key(2))
    rng = np.random.default_rng(2)
    batches = (signs(rng, 64) for _ in range(num_updates))
    return [float(metrics["right"]) for _, state, metrics in steps(train_step, state, batches)]


curves = {"tanh": train(RNN(16)), "LSTM": train(LSTM(16))}
figure, axes = plt.subplots(figsize=(6, 3))
for name, right in curves.items():
    axes.plot(np.convolve(right, np.ones(20) / 20, mode="valid"), label=name)
axes.set(xlabel="updates", ylabel="share right, mean of 20", ylim=(0.4, 1.02))
axes.legend()
plt.show()
final = {name: np.mean(right[-50:]) for name, right in curves.items()}
print(", ".join(f"{name}: {share:.1%} right" for name, share in final.items()))
assert IS_TOY or min(final.values()) > 0.9

# %% [markdown]
# ## Exercises
#
# 1. `my_grad_x`: of `(params, xs, hs)`, gives $\partial L / \partial x_t$ for all $t$,
#    `[T, D]`, from the $\delta_t$ above.
# 2. `my_forward`: a function of `(params, xs, mask)` for one sequence that gives the states `[T,
#    H]`, with masked steps leaving the state as it was.

# %%
my_grad_x = None
my_forward = None

# %%
# Checks; nothing to change here.
if my_grad_x is not None:
    truth = jax.grad(lambda xs: 0.5 * jnp.sum((unroll(cell, params, xs).ys[-1] - y) ** 2))(
        jnp.asarray(xs)
    )
    np.testing.assert_allclose(my_grad_x(params, xs, hs), truth, atol=1e-12)
    print("1: right")
if my_forward is not None:
    for row in range(3):
        expected = unroll(
            cell, params, jnp.asarray(batch[row]), mask=jnp.asarray(mask[row])
        ).carries
        np.testing.assert_allclose(my_forward(params, batch[row], mask[row]), expected, atol=1e-12)
    print("2: right")
