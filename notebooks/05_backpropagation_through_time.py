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
# # 5. Back-propagation through time, taken apart
#
# A recurrent net reads $x_1, \dots, x_T$ and keeps a state, here of a tanh net
#
# $$h_t = \tanh(W_x x_t + W_h h_{t-1} + b).$$
#
# A loss $L$ at the end depends on every state. What is $\partial L / \partial h_t$ for a step
# long ago, why does it fade or grow, and does it do what the lecture says? Every answer below is
# measured, and every claim is an `assert`.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from seqlab import (
    LSTM,
    RNN,
    Init,
    ManyToOne,
    carry_gradients,
    functional,
    log_jacobian_norms,
    log_norm_over_time,
    log_singular_values,
    path_gradients,
    plots,
    scale_recurrent,
    share_norms,
    step_jacobians,
    unroll,
    weight_shares,
)
from seqlab.gradflow import theory

jax.config.update("jax_enable_x64", True)  # the truth to 16 digits
IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
H, T, B, D = (16, 30, 4, 8) if IS_TOY else (64, 100, 32, 16)
key = iter(jax.random.split(jax.random.key(0), 100))

# %% [markdown]
# ## The product of Jacobians
#
# By the chain rule
#
# $$\frac{\partial L}{\partial h_t} = J_{t+1}^\top J_{t+2}^\top \cdots J_T^\top
#   \frac{\partial L}{\partial h_T}, \qquad
#   J_t = \frac{\partial h_t}{\partial h_{t-1}} = \mathrm{diag}(1 - h_t^2)\, W_h .$$
#
# The lecture writes $W_h^{T-t}$ times a product of slopes. For more than one unit that is another
# matrix: the diagonal of slopes does not commute with $W_h$. All three, side by side:

# %%
cell = RNN(H)
params = cell.init(next(key), D)
xs = jax.random.normal(next(key), (T, D))
hs = unroll(cell, params, xs).ys

jacobians = step_jacobians(cell, params, xs)
W = params["W_h"].T  # on paper W h is a column, in the code h W a row
by_hand = jax.vmap(lambda h: jnp.diag(1 - h**2) @ W)(hs)
np.testing.assert_allclose(jacobians, by_hand, atol=1e-14)

lag = 10
true = np.linalg.multi_dot(np.asarray(jacobians)[: T - lag - 1 : -1])  # J_T ... J_{T-lag+1}
slopes = np.prod(1 - np.asarray(hs)[T - lag :] ** 2, axis=0)
commuted = np.diag(slopes) @ np.linalg.matrix_power(np.asarray(W), lag)
apart = np.linalg.norm(true - commuted) / np.linalg.norm(true)
print(f"as if slopes and W_h commuted: off by {apart:.0%} of the product's norm after {lag} steps")
assert apart > 0.5

# %% [markdown]
# `jacobian_products` gives all of them, with their scales kept in logs so that nothing underflows.
#
# ## One backward pass knows every step
#
# $\partial L / \partial h_t$ for all $t$ costs one backward pass: zeros are added to every state,
# and the gradient by these zeros is the answer. Here for a model with a head, beside the product
# of Jacobians:

# %%
model = functional(ManyToOne, cell, input_size=D, output_size=1)
weights = model.init(next(key))
batch = jax.random.normal(next(key), (B, T, D))


def loss(output):
    return jnp.sum(output.logits**2)


G = carry_gradients(model.apply, loss, weights, batch)["rnn"]  # [B, T, H]
J = np.asarray(step_jacobians(cell, weights["rnn"]["weights"], batch[0]))
G = np.asarray(G[0])
for t in range(T - 1):
    np.testing.assert_allclose(G[t], J[t + 1].T @ G[t + 1], rtol=1e-9, atol=1e-300)

# %% [markdown]
# ## Does it vanish or explode?
#
# Only if every singular value of $W_h$ times every slope is below 1 *must* it vanish; where they
# are above 1 it *may* explode. An orthogonal $W_h$ has no singular value but 1. Scaled by a gain
# $g$, without input, with the state at rest, the answer is exact: $\|J\cdots J\| = g^k$ after $k$
# steps.

# %%
orthogonal = RNN(H, weight_init=Init(recurrent="orthogonal"))
base = orthogonal.init(next(key), D)
rest = jnp.zeros((T, D))
curves = []
for gain in (0.9, 1.0, 1.1):
    scaled = scale_recurrent(base, gain)
    measured = log_jacobian_norms(step_jacobians(orthogonal, scaled, rest))
    exact = theory.log_scaled_orthogonal(gain, np.arange(T, 0, -1))
    np.testing.assert_allclose(measured, exact, atol=1e-10)
    curves.append(plots.Curve(f"g = {gain}", np.asarray(measured), theory={"g^lag": exact}))
figure, (axes,) = plots.new_figure(1, width=6, height=3.4)
plots.gradient_curves(curves, axes, "at rest", before="the end")
plt.show()

# %% [markdown]
# With input the slopes $1 - h^2$ fall below 1 and the same nets vanish, the more the stronger the
# input: "large weights explode" is half of the truth. Mean-field theory tells the rate, log of
# the typical growth a step, from the gain and the variance of $W_x x$ alone.

# %%
steps = 40 if IS_TOY else 200
noise = jax.random.normal(next(key), (steps, H))  # an input of its own for every unit
rates = {}
for strength in (0.1, 0.3, 1.0):
    driven = base | {"W_x": strength * jnp.eye(H)}
    norms = log_jacobian_norms(step_jacobians(orthogonal, driven, noise), norm="frobenius")
    rates[strength] = float(norms[0]) / steps
    field = theory.mean_field_tanh(1.0, strength**2)
    print(
        f"input std {strength}: {rates[strength]:+.3f} nats a step, theory {field.log_slope:+.3f}"
    )
assert 0 > rates[0.1] > rates[0.3] > rates[1.0]

# %% [markdown]
# ## Not one number, a spectrum
#
# A norm is the largest singular value. All of them, over the lag, show how many directions of the
# state survive: the net forgets most of them long before the last.

# %%
at = list(range(1, T, max(1, T // 12)))
spectra = log_singular_values(step_jacobians(cell, params, xs), at)
figure = plots.singular_spectra(at, {"tanh, on noise": np.asarray(spectra)})
plt.show()
first, last = (np.asarray(spectra[i, 0] - spectra[i, H // 2]) for i in (0, -1))
assert last > first  # the middle direction falls behind the first

# %% [markdown]
# ## Which step writes the gradient of a weight?
#
# $W_h$ is used at every step, and $dL/dW_h$ is the sum of what each use contributes. The shares
# add up exactly; when gradients vanish, the last steps write all of it, and the net can learn
# only what happened just before.

# %%
shares = weight_shares(model.apply, loss, weights, batch)["rnn"]
total = jax.grad(lambda w: loss(model.apply(w, batch)))(weights)["rnn"]["weights"]
np.testing.assert_allclose(jnp.sum(shares["W_h"], axis=0), total["W_h"], rtol=1e-9, atol=1e-12)
norm = np.asarray(share_norms(shares))
print(f"the last 10 of {T} steps: {norm[-10:].sum() / norm.sum():.0%} of all shares' norms")
assert norm[-10:].sum() > 0.5 * norm.sum()

# %% [markdown]
# ## Through which gate?
#
# In an LSTM the state also travels through $c_t = f_t \odot c_{t-1} + i_t \odot g_t$: along it
# the gradient is multiplied by $f$ alone, the *direct path*. "The LSTM has no vanishing gradient"
# is true of this path with $f$ near 1; a fresh LSTM begins with $f = \sigma(1) = 0.73$, and its
# direct path halves every 2.2 steps. The rest of the gradient took a way through a gate, and the
# parts add up to the whole.

# %%
lstm = LSTM(H)
model = functional(ManyToOne, lstm, input_size=D, output_size=1)
weights = model.init(next(key))
paths = path_gradients(model.apply, loss, weights, batch, cell=lstm)
parts = {
    name: np.median(np.asarray(log_norm_over_time(carry.c)), axis=0)
    for name, carry in paths.items()
}
figure, (axes,) = plots.new_figure(1, width=6, height=3.6)
plots.path_curves(parts, axes, "a fresh LSTM")
plt.show()
slope = (parts["direct"][-12] - parts["direct"][-2]) / 10  # a step back
print(f"direct path: {slope:+.3f} nats a step, log sigmoid(1) = {np.log(jax.nn.sigmoid(1.0)):+.3f}")
assert abs(slope - np.log(jax.nn.sigmoid(1.0))) < 0.1

# %% [markdown]
# ## Exercises
#
# 1. `my_gain`: the gain at which an orthogonal tanh net neither fades nor grows when its input
#    has standard deviation 0.4. (`theory.critical_gain` takes a variance. Why is it not 1?)
# 2. `my_half_life`: of the direct path of an LSTM whose forget bias is 4, in steps.

# %%
my_gain = None
my_half_life = None

# %%
# Checks; nothing to change here.
if my_gain is not None:
    assert abs(theory.mean_field_tanh(my_gain, 0.4**2).log_slope) < 1e-3, "it still fades or grows"
    print("1: right")
if my_half_life is not None:
    assert abs(np.exp(theory.log_forget_bias(4.0, np.array(my_half_life))) - 0.5) < 0.01, "not half"
    print("2: right")
