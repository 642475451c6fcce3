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
# # 7. The GRU, and what came after
#
# The LSTM keeps two states and three gates. The GRU has one state and two gates, and what one
# gate keeps is what it does not write:
#
# $$r = \sigma(W_x^r x_t + W_h^r h_{t-1} + b^r), \qquad
#   z = \sigma(W_x^z x_t + W_h^z h_{t-1} + b^z),$$
# $$n = \tanh\big(W_x^n x_t + W_h^n (r \odot h_{t-1}) + b^n\big), \qquad
#   h_t = (1 - z) \odot h_{t-1} + z \odot n .$$
#
# What came after goes two ways: fewer gates (MGU, JANET), and gates that no longer read the state
# (minGRU, minLSTM, LRU), so that all steps can be walked at once.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from seqlab import (
    GRU,
    JANET,
    LRU,
    LSTM,
    MGU,
    RNN,
    AntisymmetricRNN,
    CoRNN,
    ManyToOne,
    MinGRU,
    MinLSTM,
    compare_reports,
    describe,
    functional,
    gate_activations,
    gradient_report,
    init_state,
    log_norm_over_time,
    log_product_norms,
    make_train_step,
    path_gradients,
    plots,
    step_jacobians,
    steps,
    unroll,
)
from seqlab.gradflow import theory

IS_TOY = "SEQLAB_TOY" in os.environ  # the tests run this in seconds
H, T, D, B = (8, 20, 4, 3) if IS_TOY else (64, 100, 32, 16)
xs = jax.random.normal(jax.random.key(0), (B, T, D))

# %% [markdown]
# ## By hand
#
# Nothing but numpy and a loop, beside the library's:

# %%
gru = GRU(H)
params = gru.init(jax.random.key(1), D)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def walk_by_hand(params, xs):
    r_, z_, n_ = (jax.tree.map(np.asarray, params[name]) for name in "rzn")
    h, hs = np.zeros(H), []
    for x in np.asarray(xs):
        r = sigmoid(x @ r_["W_x"] + h @ r_["W_h"] + r_["b"])
        z = sigmoid(x @ z_["W_x"] + h @ z_["W_h"] + z_["b"])
        n = np.tanh(x @ n_["W_x"] + (r * h) @ n_["W_h"] + n_["b"])
        h = (1 - z) * h + z * n
        hs.append(h)
    return np.stack(hs)


hs = unroll(gru, params, xs).ys
np.testing.assert_allclose(hs[0], walk_by_hand(params, xs[0]), atol=1e-5)

# %% [markdown]
# ## Who holds 1 - z?
#
# In the lecture and in Haiku $z$ writes: $(1 - z) \odot h + z \odot n$. In Cho et al. (2014),
# PyTorch, Keras and Flax $z$ keeps: $z \odot h + (1 - z) \odot n$. Since $1 - \sigma(a) =
# \sigma(-a)$, it is the same model once the signs of all that makes $z$ are turned, and another
# one before.

# %%
other = GRU(H, z_multiplies="state")
turned = params | {"z": jax.tree.map(jnp.negative, params["z"])}
np.testing.assert_allclose(unroll(other, turned, xs).ys, hs, atol=1e-5)
unturned = np.abs(unroll(other, params, xs).ys - hs).max()
print(f"signs turned: the same; not turned: up to {unturned:.2f} apart")
assert unturned > 0.1

# %% [markdown]
# A bias turns with the rest: "begin with an update bias of -2" keeps in the one convention and
# forgets in the other.
#
# ## Reset before or after the product?
#
# $$\text{before:}\quad \tanh(W_x x + W_h (r \odot h) + b) \qquad\qquad
#   \text{after:}\quad \tanh(W_x x + b + r \odot (W_h h + b_h))$$
#
# Before is Cho et al. and the lecture; after is cuDNN, PyTorch, Keras and Flax, since there all
# products with $h$ are one. The first step is the same ($h = 0$, and $b_h = 0$ at the start), and
# so are all steps if $r = 1$. Otherwise they are different functions, and no turning of signs
# makes one out of the other: weights do not transfer.

# %%
after = GRU(H, reset="after")
with_b_h = params | {"n": params["n"] | {"b_h": jnp.zeros(H)}}
apart = np.abs(unroll(after, with_b_h, xs).ys - hs).max(axis=(0, 2))
print(f"same weights, apart after one step {apart[0]:.1e}, at most {apart.max():.2f}")
assert apart[0] < 1e-6
assert apart.max() > 0.05


def with_bias(params, gate, bias):
    return params | {gate: params[gate] | {"b": jnp.full(H, bias)}}


always_one = unroll(after, with_bias(with_b_h, "r", 100.0), xs).ys
np.testing.assert_allclose(always_one, unroll(gru, with_bias(params, "r", 100.0), xs).ys, atol=1e-5)

# %% [markdown]
# ## A state that stays
#
# With $z = 0$ nothing is written: $h$ stays to the last bit, and every Jacobian is the identity.
# In an LSTM it was $c$ that could stay, and $h$ still moved; here the state itself is what the
# outside sees.

# %%
h = jax.random.normal(jax.random.key(2), (B, H))
shut = with_bias(params, "z", -1000.0)
assert np.array_equal(unroll(gru, shut, xs, carry=h).carry, h)
assert np.array_equal(step_jacobians(gru, shut, xs[0], carry=h[0])[0], np.eye(H))

# %% [markdown]
# ## The direct path
#
# The gradient has four ways back: through $(1 - z) \odot h$, and through $z$, $r$ and $n$. On the
# first, the gates held fixed, it is multiplied by $1 - z$ at every step and by nothing else:
#
# $$\Big(\frac{\partial L}{\partial h_t}\Big)_{\text{direct}}
#   = \prod_{k=t+1}^{T} (1 - z_k) \odot \frac{\partial L}{\partial h_T} .$$

# %%
model = functional(ManyToOne, gru, input_size=D, output_size=1)
weights = model.init(jax.random.key(3))


def loss(output):
    return jnp.sum(output.logits**2)


paths = jax.jit(lambda w: path_gradients(model.apply, loss, w, xs, cell=gru))(weights)
z = np.asarray(gate_activations(gru, weights["rnn"]["weights"], xs)["z"])
kept = np.cumprod((1 - z)[:, :0:-1], axis=1)[:, ::-1]  # over the steps after t
expected = kept * np.asarray(paths["total"])[:, -1:]
np.testing.assert_allclose(paths["direct"][:, :-1], expected, rtol=1e-3, atol=1e-30)
parts = {name: np.median(log_norm_over_time(part), axis=0) for name, part in paths.items()}
figure, (axes,) = plots.new_figure(1, width=6, height=3.6)
plots.path_curves(parts, axes, "a fresh GRU")
plt.show()
slope = (parts["direct"][-12] - parts["direct"][-2]) / 10  # a step back
print(f"direct path: {slope:+.3f} nats a step, log(1/2) = {np.log(0.5):+.3f}")
assert abs(slope - np.log(0.5)) < 0.15

# %% [markdown]
# A fresh GRU has $b^z = 0$ and keeps about one half at each step, less than an LSTM with its forget
# bias of 1. The norm fades a little slower than $\log(1/2)$: $z$ moves with its inputs, and the
# units that happen to keep most are what is left. The update bias is the GRU's choice of memory.

# %%
measure = {}


def log_norms(name, cell, params):
    """Of d carry_T / d carry_t, over all directions; one program a name."""
    if name not in measure:
        measure[name] = jax.jit(jax.vmap(lambda p, x: log_product_norms(cell, p, x), (None, 0)))
    return np.median(measure[name](params, xs), axis=0)


def slope_of(norms):
    return (norms[0] - norms[T // 2]) / (T // 2)


slopes = {}
for bias in (0.0, -2.0, -5.0):
    slopes[bias] = slope_of(log_norms("GRU", gru, with_bias(params, "z", bias)))
    alone = float(theory.log_forget_bias(-bias, np.array(1.0)))  # keeps sigmoid(-bias)
    print(f"update bias {bias:4.0f}: {slopes[bias]:+.3f} nats a step, direct alone {alone:+.3f}")
assert slopes[0.0] < slopes[-2.0] < slopes[-5.0]

# %% [markdown]
# ## What came after: how many parameters?
#
# For an input of width $D$. A gate that reads input and state has $DH + H^2 + H$ numbers: LSTM 4
# of these, GRU 3, MGU and JANET 2, a tanh net 1. Gates that read the input alone have no $H^2$.

# %%
family = {
    "RNN": RNN(H),
    "LSTM": LSTM(H),
    "GRU": gru,
    "MGU": MGU(H),
    "JANET": JANET(H),
    "minLSTM": MinLSTM(H),
    "minGRU": MinGRU(H),
    "LRU": LRU(H),
}
sizes = {name: int(describe(cell, D).size.replace(",", "")) for name, cell in family.items()}
for name, cell in family.items():
    print(f"{name:8s} {describe(cell).size:>16s}, here {sizes[name]:7,d}")
block = sizes["RNN"]
assert [sizes[name] // block for name in ("LSTM", "GRU", "MGU", "JANET")] == [4, 3, 2, 2]
assert all(sizes[name] % block == 0 for name in ("LSTM", "GRU", "MGU", "JANET"))
assert sizes["minGRU"] == 2 * (D * H + H)
assert sizes["minLSTM"] == 3 * (D * H + H)

# %% [markdown]
# ## And how does the gradient travel?
#
# All fresh, as they are by default, on noise:

# %%
reported = ("minGRU",) if IS_TOY else ("GRU", "MGU", "JANET", "minGRU")
reports = {
    name: gradient_report(family[name], family[name].init(jax.random.key(4), D), xs)
    for name in reported
}
comparison = compare_reports(reports)
print(comparison)
rate = {name: report.summary["slope_nats_per_step"] for name, report in reports.items()}
assert rate["minGRU"] < 0
assert IS_TOY or abs(rate["MGU"] - rate["GRU"]) < 0.1  # one gate for two: much the same
assert IS_TOY or rate["minGRU"] < rate["GRU"] < rate["JANET"] < 0
comparison.figure()

# %% [markdown]
# All of them fade. One gate in the place of two changes the rate little. JANET fades slowest: it
# begins with a forget bias of 1, and its $\beta$ lets it write more than it has forgotten. minGRU
# fades fastest, since its candidate does not read the state, and only the direct path is left.
#
# ## Gates that do not read the state
#
# minGRU is the GRU with everything about $h$ taken out of gate and candidate, and no tanh:
#
# $$z_t = \sigma(W^z x_t + b^z), \qquad h_t = (1 - z_t) \odot h_{t-1} + z_t \odot (W^n x_t + b^n).$$
#
# Then $\partial h_t / \partial h_{t-1} = \mathrm{diag}(1 - z_t)$, the direct path and nothing
# else: this gradient can fade, it can never explode.

# %%
mingru = family["minGRU"]
params_min = mingru.init(jax.random.key(5), D)
z = np.asarray(gate_activations(mingru, params_min, xs)["z"])
J = step_jacobians(mingru, params_min, xs[0])
np.testing.assert_allclose(J, np.eye(H) * (1 - z[0])[:, None], atol=1e-6)
assert np.linalg.norm(J, ord=2, axis=(1, 2)).max() < 1

# %% [markdown]
# A step is $h \mapsto a_t \odot h + b_t$ with $a_t$ and $b_t$ known before the walk begins. Two
# such steps are one of the same kind, so they can be joined in any grouping, and all T steps take
# $\log_2 T$ rounds: `form="associative"`. It gives the same values and the same gradients as the
# loop. A GRU is refused: its steps do not join.


# %%
def walk(form):
    """(states, gradient of the sum of their squares)."""

    def total(params):
        ys = unroll(mingru, params, xs, form=form).ys
        return jnp.sum(ys**2), ys

    (_, ys), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params_min)
    return ys, gradient


(loop, by_loop), (tree, by_tree) = walk("scan"), walk("associative")
np.testing.assert_allclose(tree, loop, atol=1e-5)
for gate in "zn":
    for name, expected in by_loop[gate].items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(by_tree[gate][name], expected, atol=1e-4 * scale)
try:
    unroll(gru, params, xs, form="associative")
    refused = ""
except ValueError as error:
    refused = str(error)
print(refused)
assert refused

# %% [markdown]
# ## Numbers on a ring
#
# The LRU has no gate at all. Each of its complex units turns and shrinks,
#
# $$s_t = \lambda \odot s_{t-1} + \gamma \odot (B x_t), \qquad
#   \lambda = \exp(-e^{\nu} + i e^{\theta}),$$
#
# and $|\lambda| = \exp(-e^\nu) < 1$ whatever $\nu$ is learned. At the start the $\lambda$ lie on a
# ring. The Jacobian is the same at every step, its eigenvalues are the $\lambda$ and their
# conjugates, and the gradient is known: $\lambda^k$ after $k$ steps, so that over all directions
# $\|J^k\|_{\mathrm{rms}} = \sqrt{\mathrm{mean}\, |\lambda|^{2k}}$.

# %%
ring = LRU(H, smallest=0.8, largest=0.99)
params_ring = ring.init(jax.random.key(6), D)
radius = np.exp(-np.exp(np.asarray(params_ring["nu"], float)))
eigenvalues = radius * np.exp(1j * np.exp(np.asarray(params_ring["theta"], float)))
assert np.all((radius > 0.8 - 1e-6) & (radius < 0.99 + 1e-6))

J = np.asarray(step_jacobians(ring, params_ring, xs[0]), float)
assert np.array_equal(J[0], J[-1])
found = np.linalg.eigvals(J[0])
for each in (*eigenvalues, *eigenvalues.conj()):
    assert np.abs(found - each).min() < 1e-5
for k in (1, 10, 40):
    measured = np.linalg.svd(np.linalg.matrix_power(J[0], k), compute_uv=False)
    expected = np.sort(np.repeat(radius**k, 2))[::-1]
    np.testing.assert_allclose(measured, expected, rtol=1e-4)
lag = np.arange(T, 0, -1)
exact = 0.5 * np.log(np.mean(radius[:, None] ** (2 * lag), axis=0))
norms_ring = log_norms("LRU", ring, params_ring)
np.testing.assert_allclose(norms_ring, exact, atol=1e-3)

figure, axes = plt.subplots(figsize=(3.2, 3.2))
turn = np.linspace(0, 2 * np.pi, 200)
for bound in (0.8, 0.99):
    axes.plot(bound * np.cos(turn), bound * np.sin(turn), color="grey", linewidth=0.7)
axes.plot(eigenvalues.real, eigenvalues.imag, "o", markersize=3)
axes.set(title="the eigenvalues of a fresh LRU", aspect="equal")
plt.show()

# %% [markdown]
# ## Keeping the norm by construction
#
# Two cells that are steps of a differential equation. The antisymmetric RNN is
# $h' = h + \epsilon \tanh(A h + W_x x + b)$ with $A = W - W^\top - \gamma I$, whose eigenvalues
# have the real part $-\gamma$; coRNN is a net of damped oscillators. Both take small steps, so a
# Jacobian is the identity and a little more.

# %%
keepers = {
    "tanh net": RNN(H),
    "antisymmetric": AntisymmetricRNN(H),
    "coRNN": CoRNN(H),
}
curves, moved = [plots.Curve("LRU", norms_ring, theory={"closed form": exact})], {}
for name, cell in keepers.items():
    own = cell.init(jax.random.key(7), D)
    norms = log_norms(name, cell, own)
    curves.append(plots.Curve(name, norms))
    slopes[name] = slope_of(norms)
    moved[name] = float(jnp.sqrt(jnp.mean(unroll(cell, own, xs).ys[:, -1] ** 2)))
    print(f"{name:14s} {slopes[name]:+.5f} nats a step; at the end |h| is {moved[name]:.3f}")
figure, (axes,) = plots.new_figure(1, width=6, height=3.6)
plots.gradient_curves(curves, axes, "fresh nets on noise", before="the end")
plt.show()
assert abs(slopes["antisymmetric"]) < abs(slopes["coRNN"]) < abs(slopes["tanh net"])
assert moved["antisymmetric"] < moved["tanh net"]
assert moved["coRNN"] < moved["tanh net"]

# %% [markdown]
# It has a price, which the last column shows: whoever takes small steps also writes little. A
# state that never moves has a perfect gradient.
#
# ## Chrono initialisation
#
# If gates decide how long is remembered, let them begin with the times that the task needs: $b^z
# = -\log u$ with $u$ uniform in $[1, T - 1]$, so that $1 / z = 1 + u$ steps are kept, from 2 to T
# (Tallec and Ollivier, 2018).

# %%
chrono = GRU(32, chrono_steps=T)
memory = 1 / sigmoid(np.asarray(chrono.init(jax.random.key(8), 2)["z"]["b"]))
print(f"keeps for {memory.min():.0f} to {memory.max():.0f} steps, median {np.median(memory):.0f}")
assert memory.min() > 2 - 1e-3
assert memory.max() < T + 1e-3

# %% [markdown]
# A task that needs it: signs come in, one at each step; the first is marked, and at the end it is
# to be told. Without memory the best answer is 0, with a squared error of 1. Both nets are the
# same but for where $b^z$ begins.

# %%
num_updates = 20 if IS_TOY else 400


def recall(rng):
    signs = rng.choice([-1.0, 1.0], size=(32, T))
    marks = np.zeros((32, T))
    marks[:, 0] = 1
    return np.stack([signs, marks], axis=-1).astype(np.float32), signs[:, :1]


starts = {
    name: functional(ManyToOne, cell, input_size=2, output_size=1)
    for name, cell in {"update bias 0": GRU(32), "chrono": chrono}.items()
}
model = starts["update bias 0"]  # the two differ in `init` only


def loss_fn(params, batch, key):
    xs, targets = batch
    return jnp.mean((model.apply(params, xs).logits - targets) ** 2), {}


optimizer = optax.adam(3e-3)
train_step = make_train_step(loss_fn, optimizer, clip_norm=1.0)
last, losses = {}, {}
for name, start in starts.items():
    state = init_state(start.init(jax.random.key(9)), optimizer, jax.random.key(10))
    rng = np.random.default_rng(0)
    batches = (recall(rng) for _ in range(num_updates))
    losses[name] = [float(metrics["loss"]) for _, _, metrics in steps(train_step, state, batches)]
    last[name] = np.mean(losses[name][-20:])
    print(f"{name:14s} squared error of the last 20 updates {last[name]:.4f}")
figure, axes = plt.subplots(figsize=(6, 3))
for name, curve in losses.items():
    axes.plot(curve, linewidth=0.8, label=name)
axes.axhline(1.0, color="grey", linestyle=":", label="without memory")
axes.set(xlabel="updates", ylabel="squared error", yscale="log")
axes.legend()
plt.show()
assert IS_TOY or last["update bias 0"] > 0.8
assert IS_TOY or last["chrono"] < 0.1

# %% [markdown]
# ## Exercises
#
# 1. `my_bias`: the update bias of the lecture's GRU with which half of the gradient on the direct
#    path is left after 100 steps.
# 2. `my_gru`: a function that takes the parameters of an `MGU(H)` and gives those of a `GRU(H)`
#    that computes the same. (Which of the GRU's gates does MGU's one gate stand for?)
# 3. `my_join`: a function of two steps, `my_join((a1, b1), (a2, b2))`, each $h \mapsto a \odot h +
#    b$, the first walked first: the pair $(a, b)$ of both together.

# %%
my_bias = None
my_gru = None
my_join = None

# %%
# Checks; nothing to change here.
if my_bias is not None:
    kept = 100 * np.log(1 - jax.nn.sigmoid(my_bias))  # z writes: 1 - z is kept
    assert abs(kept - np.log(0.5)) < 0.01, "not half"
    print("1: right")
if my_gru is not None:
    mgu = family["MGU"]
    params_mgu = mgu.init(jax.random.key(11), D)
    expected = unroll(mgu, params_mgu, xs).ys
    np.testing.assert_allclose(unroll(gru, my_gru(params_mgu), xs).ys, expected, atol=1e-5)
    print("2: right")
if my_join is not None:
    gate, candidate = params_min["z"], params_min["n"]
    z = jax.nn.sigmoid(xs @ gate["W_x"] + gate["b"])
    n = xs @ candidate["W_x"] + candidate["b"]
    joined = jax.lax.associative_scan(my_join, (1 - z, z * n), axis=1)
    np.testing.assert_allclose(joined[1], loop, atol=1e-5)  # from h = 0 only b is left
    print("3: right")
