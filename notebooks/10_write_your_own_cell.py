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
# # 10. Write your own cell
#
# A cell is a frozen dataclass with four pure methods. Below, one in 15 lines: a single gate that
# decides how fast a unit forgets,
#
# $$f_t = \sigma(W_x^f x_t + W_h^f h_{t-1} + b^f), \qquad
#   h_t = f_t \odot h_{t-1} + (1 - f_t) \odot \tanh(W_x^n x_t + W_h^n h_{t-1} + b^n).$$
#
# Everything else, the loop, the fast form, every model, every instrument, takes it as it is.

# %%
import os
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from seqlab import (
    LSTM,
    ManyToMany,
    ManyToOne,
    assert_padding_invariant,
    check_cell,
    compare_reports,
    functional,
    gradient_report,
    init_state,
    make_train_step,
    step_jacobians,
    steps,
)
from seqlab.cells.affine import affine, init_affine
from seqlab.data.synthetic import adding, adding_baseline

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
H, T, B = (8, 20, 8) if IS_TOY else (64, 100, 32)


# %%
@dataclass(frozen=True)
class Leaky:
    hidden_size: int
    forget_bias: float = 1.0

    def init(self, key, input_size):
        key_f, key_n = jax.random.split(key)
        return {
            "f": init_affine(key_f, input_size, self.hidden_size, bias=self.forget_bias),
            "n": init_affine(key_n, input_size, self.hidden_size),
        }

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["n"]["b"].dtype)

    def step(self, params, h, x):
        f = jax.nn.sigmoid(affine(params["f"], x, h))
        return f * h + (1 - f) * jnp.tanh(affine(params["n"], x, h))

    def output(self, h):
        return h


# %% [markdown]
# ## Does it keep the contract?
#
# `check_cell` holds it to everything that the rest relies on: purity, shapes, `jit` and `vmap`,
# the loop against a Python `for`, padding, and gradients at the carries against explicit
# Jacobians. Your own check is the Jacobian on paper:
#
# $$\frac{\partial h_t}{\partial h_{t-1}} = \mathrm{diag}(f)
#   + \mathrm{diag}\big((h_{t-1} - n) f (1 - f)\big) W_h^f
#   + \mathrm{diag}\big((1 - f)(1 - n^2)\big) W_h^n$$

# %%
check_cell(Leaky(8))

with jax.enable_x64(True):
    cell = Leaky(8)
    params = cell.init(jax.random.key(0), 3)
    x, h = (jax.random.normal(jax.random.key(seed), (size,)) for seed, size in ((1, 3), (2, 8)))
    f = jax.nn.sigmoid(affine(params["f"], x, h))
    n = jnp.tanh(affine(params["n"], x, h))
    on_paper = (
        jnp.diag(f)
        + jnp.diag((h - n) * f * (1 - f)) @ params["f"]["W_h"].T  # in the code h W, a row
        + jnp.diag((1 - f) * (1 - n**2)) @ params["n"]["W_h"].T
    )
    found = step_jacobians(cell, params, x[None], carry=h)[0]
    np.testing.assert_allclose(found, on_paper, atol=1e-14)

# %% [markdown]
# ## How does its gradient travel, beside an LSTM's?

# %%
xs = jax.random.normal(jax.random.key(3), (B, T, 16))
reports = {
    cell.__class__.__name__: gradient_report(cell, cell.init(jax.random.key(4), 16), xs)
    for cell in (Leaky(H), LSTM(H))
}
compare_reports(reports)

# %% [markdown]
# ## In every model
#
# Many-to-one reads to the end, many-to-many answers at each step, in one direction or both; what
# stands in the padding can be seen by neither.

# %%
mask = jnp.arange(7) < jnp.array([[7], [3], [0]])
for model in (ManyToOne, ManyToMany):
    assert_padding_invariant(
        functional(model, Leaky(5), input_size=3, output_size=2, bidirectional=True),
        jax.random.normal(jax.random.key(5), (3, 7, 3)),
        mask,
    )

# %% [markdown]
# ## Does it learn?
#
# The adding problem: two numbers of a sequence are marked, and their sum is to be told at the
# end. Without memory the best answer is always 1, with a mean squared error of 1/6.

# %%
num_updates, seq_len = (30, 10) if IS_TOY else (1500, 50)
model = functional(ManyToOne, Leaky(32), input_size=2, output_size=1)


def loss_fn(params, batch, key):
    return jnp.mean((model.apply(params, batch.xs).logits - batch.targets) ** 2), {}


train_step = make_train_step(loss_fn, optax.adam(5e-3), clip_norm=1.0)
state = init_state(model.init(jax.random.key(6)), optax.adam(5e-3), jax.random.key(7))
rng = np.random.default_rng(0)
batches = (adding(rng, 32, seq_len) for _ in range(num_updates))
losses = [float(metrics["loss"]) for _, state, metrics in steps(train_step, state, batches)]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(losses, linewidth=0.8)
axes.axhline(adding_baseline(), color="grey", linestyle=":", label="without memory, 1/6")
axes.set(xlabel="updates", ylabel="squared error", yscale="log")
axes.legend()
plt.show()
print(f"squared error of the last 50 updates: {np.mean(losses[-50:]):.4f}")
assert IS_TOY or np.mean(losses[-50:]) < 0.02

# %% [markdown]
# ## From the command line
#
# Saved as `mycells.py`, the cell is drawn beside any other:
#
# ```bash
# python -m experiments.vanishing_gradients --cells lstm mycells:Leaky
# python -m experiments.long_memory --cells lstm mycells:Leaky
# ```
#
# Its gates can be watched too, and its gradient split by the ways it takes, once it says which
# they are: [docs/add_a_cell.md](../docs/add_a_cell.md).
#
# ## Exercises
#
# Hold each to the contract yourself.
#
# 1. Write `Frozen`, a Leaky whose forget gate is the constant 1/2 (no parameters "f"). How fast
#    must the part of its gradient that does not pass the candidate fade?
# 2. Write `Coupled`, which is `LSTM` with i = 1 - f and no output gate: $c_t = f c_{t-1} + (1 -
#    f) g$, $h_t = \tanh(c_t)$, its output $h_t$ and its carry $c_t$.

# %%
Frozen = None
Coupled = None

# %%
# Checks; nothing to change here.
if Frozen is not None:
    cell = Frozen(6)
    check_cell(cell)
    params = cell.init(jax.random.key(0), 3)
    no_candidate = jax.tree.map(jnp.zeros_like, params)
    J = step_jacobians(cell, no_candidate, jnp.zeros((1, 3)))[0]
    np.testing.assert_allclose(J, 0.5 * np.eye(6), atol=1e-7)
    print("1: right; it halves at every step")
if Coupled is not None:
    cell = Coupled(6)
    params = cell.init(jax.random.key(0), 3)
    carry = cell.step(params, cell.initial_carry(params), jnp.ones(3))
    assert np.all(np.abs(cell.output(carry)) < 1)
    np.testing.assert_allclose(cell.output(carry), np.tanh(carry), atol=1e-6)
    print("2: right")
