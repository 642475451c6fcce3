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
# # 6. The LSTM, gate by gate
#
# A tanh net multiplies its state by $W_h$ at every step, and so does its gradient. The LSTM's
# answer is a state that is *added* to, with gates that decide what is kept, written and shown:
#
# $$c_t = f_t \odot c_{t-1} + i_t \odot g_t, \qquad h_t = o_t \odot \tanh(c_t),$$
# $$f, i, o = \sigma(W_x x_t + W_h h_{t-1} + b), \qquad g = \tanh(W_x x_t + W_h h_{t-1} + b).$$
#
# It was not built in one go: the cell of 1997 had input and output gates, the forget gate came in
# 2000. Here each gate is put in by itself and its gradient measured. `LSTM(forget_gate=1.0)`
# clamps a gate to a number.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from seqlab import (
    LSTM,
    RNN,
    gate_activations,
    log_product_norms,
    plots,
    saturation,
    step_jacobians,
    unroll,
)
from seqlab.cells.lstm import LSTMCarry
from seqlab.gradflow import theory

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
H, T, D, B = (8, 25, 4, 3) if IS_TOY else (64, 100, 32, 16)
xs = jax.random.normal(jax.random.key(0), (B, T, D))

# %% [markdown]
# ## A cell that keeps
#
# With $f = 1$ and $i = 0$ nothing is forgotten and nothing is written: $c$ stays what it is, to
# the last bit, for as long as one likes. The *output* does not stay: $o_t$ still depends on the
# input. "The LSTM keeps its state" is a statement about $c$.

# %%
keeper = LSTM(H, forget_gate=1.0, input_gate=0.0)
params = keeper.init(jax.random.key(1), D)
c = jax.random.normal(jax.random.key(2), (B, H))
kept = unroll(keeper, params, xs, carry=LSTMCarry(jnp.zeros((B, H)), c))
assert np.array_equal(kept.carry.c, c)
shown = np.asarray(kept.ys)
assert np.std(shown, axis=1).min() > 1e-3  # every output moves
print(f"c has moved by 0, h by {np.abs(shown[:, -1] - shown[:, 0]).max():.2f}")

# %% [markdown]
# ## The forget gate sets the half-life
#
# Along $c$ the gradient is multiplied by $f$ at each step. A gate that does not read anything is
# $\sigma(b)$, and after $k$ steps $\sigma(b)^k$ is left: the initial forget bias is a choice of
# memory.

# %%
for bias in (0.0, 1.0, 2.0, 5.0):
    cell = LSTM(H, forget_bias=bias)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(3), D))
    params["f"]["b"] += bias
    J = step_jacobians(cell, params, xs[0, :1])[0]
    along_c = np.diag(np.asarray(J))[H:]  # the carry's leaves in order: h, then c
    np.testing.assert_allclose(along_c, jax.nn.sigmoid(bias), rtol=1e-6)
    steps = np.log(0.5) / np.log(along_c[0])
    print(
        f"forget bias {bias:3.0f}: f = {along_c[0]:.3f}, half of it is left after {steps:6.1f} steps"
    )

# %% [markdown]
# ## The ladder
#
# Now with real gates, on noise. What each rung adds is measured as the norm of
# $d\,\mathrm{carry}_T / d\,\mathrm{carry}_t$, the root mean square over all directions:

# %%
ladder = {
    "tanh net": RNN(H),
    "c' = c + g": LSTM(H, input_gate=1.0, forget_gate=1.0, output_gate=1.0),
    "+ forget gate": LSTM(H, input_gate=1.0, output_gate=1.0),
    "+ input gate": LSTM(H, output_gate=1.0),
    "+ output gate": LSTM(H),
}
slopes, curves = {}, []
for name, cell in ladder.items():
    params = cell.init(jax.random.key(4), D)
    norms = np.asarray(jax.vmap(lambda x, p=params, c=cell: log_product_norms(c, p, x))(xs))
    low, middle, high = np.quantile(norms, (0.1, 0.5, 0.9), axis=0)
    slopes[name] = (middle[0] - middle[T // 2]) / (T // 2)
    curves.append(plots.Curve(name, middle, low, high))
figure, (axes,) = plots.new_figure(1, width=6.4, height=3.8)
plots.gradient_curves(curves, axes, "fresh nets on noise", before="the end")
plt.show()
for name, slope in slopes.items():
    print(f"{name:15s} {slope:+.3f} nats a step, halves or doubles in {abs(np.log(2) / slope):.1f}")
assert abs(slopes["c' = c + g"]) < abs(slopes["tanh net"])
assert slopes["+ forget gate"] < slopes["c' = c + g"]  # what is forgotten has no gradient

# %% [markdown]
# A fresh LSTM vanishes, and not slowly: with a forget bias of 1 it halves every few steps. What
# the gates buy is not a gradient that never fades, it is one that the net can *choose* to keep,
# by opening $f$.
#
# ## Opening it

# %%
for bias in (1.0, 3.0, 5.0):
    cell = LSTM(H, forget_bias=bias)
    params = cell.init(jax.random.key(5), D)
    norms = np.asarray(jax.vmap(lambda x, p=params, c=cell: log_product_norms(c, p, x))(xs))
    slope = float(np.median(norms[:, 0] - norms[:, T // 2])) / (T // 2)
    f = gate_activations(cell, params, xs)["f"]
    print(
        f"forget bias {bias:.0f}: mean f {float(jnp.mean(f)):.2f}, "
        f"above 0.9 {float(jnp.mean(saturation(f).open)):.0%} of the time, {slope:+.3f} a step, "
        f"direct path alone {float(theory.log_forget_bias(bias, np.array(1.0))):+.3f}"
    )
    slopes[bias] = slope
assert slopes[1.0] < slopes[3.0] < slopes[5.0]

# %% [markdown]
# With $f$ near 1 the gradient can even grow: the way through $g$ and the gates adds to the direct
# one. An LSTM can explode, which is why its gradients are still clipped.
#
# `python -m experiments.lstm_gate_by_gate` trains all of these on a task that needs memory, with
# the eight variants of Greff et al. (2017), and tells what each gate costs and what it buys.
#
# ## Exercises
#
# 1. `my_bias`: the forget bias with which half of the gradient on the direct path is left after
#    100 steps.
# 2. `my_cell`: an `LSTM(H, ...)` whose $c$ after T steps is the plain *sum* of all $g_t$.

# %%
my_bias = None
my_cell = None

# %%
# Checks; nothing to change here.
if my_bias is not None:
    assert abs(100 * np.log(jax.nn.sigmoid(my_bias)) - np.log(0.5)) < 0.01, "not half"
    print("1: right")
if my_cell is not None:
    params = my_cell.init(jax.random.key(6), D)
    walked = unroll(my_cell, params, xs)
    before = jnp.concatenate([jnp.zeros((B, 1, H)), walked.ys[:, :-1]], axis=1)
    weights = params["g"]
    g = jnp.tanh(xs @ weights["W_x"] + before @ weights["W_h"] + weights["b"])
    np.testing.assert_allclose(walked.carry.c, jnp.sum(g, axis=1), atol=1e-4)
    print("2: right")
