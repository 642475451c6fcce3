"""Every cell, and a user's own, is held to the adjoint equations of back-propagation through time."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from seqlab.cells.affine import affine, init_affine
from seqlab.cells.gru import GRU
from seqlab.cells.lookup import CELLS
from seqlab.cells.lstm import LSTM
from seqlab.gradflow.jacobians import jacobian_products, route_jacobians, step_jacobians
from seqlab.gradflow.paths import path_gradients
from seqlab.gradflow.taps import carry_gradients, gradients
from seqlab.gradflow.weights import weight_shares
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.recurrence import unroll

pytestmark = pytest.mark.usefixtures("x64")

B, T, D, H = 2, 7, 2, 3


@dataclass(frozen=True)
class MGU:
    """Minimal gated unit (Zhou et al., 2016), as a user would write it: no routes, nothing else."""

    hidden_size: int

    def init(self, key, input_size):
        key_f, key_g = jax.random.split(key)
        return {
            "f": init_affine(key_f, input_size, self.hidden_size),
            "g": init_affine(key_g, input_size, self.hidden_size),
        }

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["f"]["b"].dtype)

    def step(self, params, h, x):
        f = jax.nn.sigmoid(affine(params["f"], x, h))
        return (1 - f) * h + f * jnp.tanh(affine(params["g"], x, f * h))

    def output(self, h):
        return h


EVERY_CELL = {
    **{name: make(hidden_size=H) for name, make in CELLS.items()},
    "gru-before-state": GRU(H, z_multiplies="state"),
    "lstm-half-open": LSTM(H, forget_gate=0.5, input_activation="sigmoid"),
    "lstm-chrono": LSTM(H, chrono_steps=20.0, output_activation="relu"),
    "mgu": MGU(H),
}
ROUTED = [name for name, cell in EVERY_CELL.items() if getattr(cell, "routes", ())]

every_cell = pytest.mark.parametrize("name", EVERY_CELL)
every_routed_cell = pytest.mark.parametrize("name", ROUTED)


def normals(seed, tree):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, p.shape, p.dtype) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def generic_params(cell, seed=0):
    """Every parameter is moved off its first value, so that none is zero by chance."""
    params = cell.init(jax.random.key(seed), D)
    return jax.tree.map(lambda p, n: p + 0.3 * n, params, normals(seed + 100, params))


def data(seed=1, num_steps=T):
    return jax.random.normal(jax.random.key(seed), (B, num_steps, D))


def first_carry(cell, params, seed=2):
    drawn = normals(seed, cell.initial_carry(params, (B,)))
    return jax.tree.map(lambda n: 0.5 * n, drawn)


# Holes, a row that begins late, a row that ends early.
HOLES = np.array(
    [[True, False, True, True, False, True, True], [False, True, True, False] + 3 * [True]]
)


def assert_same(found, expected, rtol, what=""):
    """Equal within `rtol` of the largest entry of each leaf; structures equal."""
    assert jax.tree.structure(found) == jax.tree.structure(expected), what
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(expected), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, what
        peak = np.abs(b).max()
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * peak, err_msg=f"{what} {jax.tree_util.keystr(path)}"
        )


def flat(carry):
    """Leaves of a carry side by side, as the Jacobians have them, [..., S]."""
    return np.asarray(jnp.concatenate(jax.tree.leaves(carry), axis=-1))


def model_of(cell, kind):
    model = functional(kind, cell, input_size=D, output_size=2)
    params = model.init(jax.random.key(3))
    params["rnn"]["weights"] = generic_params(cell)
    return model, params


def loss(output):
    """Depends on every logit, not symmetrically, and not linearly."""
    weights = jnp.cos(jnp.arange(output.logits.size, dtype=output.logits.dtype))
    return jnp.sum(jnp.sin(output.logits).reshape(-1) * weights)


@functools.cache
def study(name, kind):
    """Everything that the adjoint tests compare, of one cell in one model, from one program."""
    cell = EVERY_CELL[name]
    model, params = model_of(cell, kind)
    mask = jnp.asarray(HOLES)

    def direct_loss(carries, params):
        """The loss as the carries enter it through this step's output alone."""
        ys = cell.output(carries)
        head = params["head"]
        if kind is ManyToOne:
            ys = ys[:, -1]
        else:
            ys = jnp.where(mask[..., None], ys, 0.0)
        logits = ys @ head["kernel"]
        return loss_of_logits(logits + jnp.broadcast_to(head["bias"], logits.shape))

    def loss_of_logits(logits):
        weights = jnp.cos(jnp.arange(logits.size, dtype=logits.dtype))
        return jnp.sum(jnp.sin(logits).reshape(-1) * weights)

    @jax.jit
    def probe(params, xs):
        weights = params["rnn"]["weights"]
        carries = model.apply(params, xs, mask).carries["rnn"]
        both = gradients(model.apply, loss, params, xs, mask)
        found = {
            "taps": both.carries["rnn"],
            "params": both.params,
            "alone": carry_gradients(model.apply, loss, params, xs, mask)["rnn"],
            "direct": jax.grad(direct_loss)(carries, params),
            "jacobians": step_jacobians(cell, weights, xs, mask=mask),
            "shares": weight_shares(model.apply, loss, params, xs, mask)["rnn"],
        }
        if name in ROUTED:
            found["routes"] = route_jacobians(cell, weights, xs, mask=mask)
            found["paths"] = path_gradients(model.apply, loss, params, xs, mask, cell=cell)
        return found

    return jax.device_get(probe(params, data()))


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
@every_cell
def test_taps_are_the_hand_adjoint_and_the_jacobian_products(name, kind):
    """G_t = direct_t + J_{t+1}^T G_{t+1}, and without it G_t = sum_k P_{k<-t}^T direct_k."""
    found = study(name, kind)
    taps, direct, jacobians = flat(found["taps"]), flat(found["direct"]), found["jacobians"]

    by_hand = np.zeros_like(taps)
    after = np.zeros_like(taps[:, 0])
    for t in reversed(range(T)):
        by_hand[:, t] = after = direct[:, t] + after
        after = np.einsum("bs,bsu->bu", after, jacobians[:, t])
    assert_same(taps, by_hand, 1e-10, "recursion")

    by_products = np.array(direct)
    for end in range(1, T):
        products, log_scales = jacobian_products(jnp.asarray(jacobians[:, 1 : end + 1]))
        products = np.asarray(products) * np.exp(log_scales)[..., None, None]
        by_products[:, :end] += np.einsum("bs,btsu->btu", direct[:, end], products)
    assert_same(taps, by_products, 1e-10, "products")
    assert_same(found["alone"], found["taps"], 1e-14, "carry_gradients is gradients")
    assert np.abs(taps).min() >= 0.0
    assert np.abs(taps[:, 0]).max() > 0.0


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
@every_cell
def test_shares_of_the_steps_add_up_to_the_weight_gradient(name, kind):
    found = study(name, kind)
    shares = found["shares"]
    assert all(leaf.shape[0] == T for leaf in jax.tree.leaves(shares))
    total = jax.tree.map(lambda leaf: leaf.sum(axis=0), shares)
    assert_same(total, found["params"]["rnn"]["weights"], 1e-10)


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
@every_routed_cell
def test_paths_add_up_to_the_total(name, kind):
    found = study(name, kind)
    paths = dict(found["paths"])
    total = paths.pop("total")
    assert set(paths) == {"direct", *EVERY_CELL[name].routes[1:]}
    assert_same(total, found["taps"], 1e-12)
    assert_same(jax.tree.map(lambda *parts: sum(parts), *paths.values()), total, 1e-12)


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
@every_routed_cell
def test_each_path_is_its_recursion_over_route_jacobians(name, kind):
    """direct_t = d_t + D^T direct_{t+1};  g_t = (J^g)^T G_{t+1} + D^T g_{t+1}."""
    found = study(name, kind)
    paths, routes, taps = found["paths"], found["routes"], flat(found["taps"])
    carousel, *gates = EVERY_CELL[name].routes
    real = HOLES[..., None, None]

    def back(vectors, matrices):
        return np.einsum("bs,bsu->bu", vectors, matrices)

    source, after = flat(found["direct"]), 0.0 * taps[:, 0]
    for t in reversed(range(T)):
        after = source[:, t] + after
        assert_same(flat(paths["direct"])[:, t], after, 1e-12, f"direct at {t}")
        after = back(after, routes[carousel][:, t])
    for gate in gates:
        # A masked step has no gates: its parts are all the identity, by convention.
        through = np.where(real, routes[gate], 0.0)
        by_hand = np.zeros_like(taps)
        for t in reversed(range(T - 1)):
            by_hand[:, t] = back(taps[:, t + 1], through[:, t + 1]) + back(
                by_hand[:, t + 1], routes[carousel][:, t + 1]
            )
        peak = np.abs(taps).max()
        np.testing.assert_allclose(flat(paths[gate]), by_hand, rtol=0, atol=1e-12 * peak)


@every_routed_cell
def test_route_jacobians_add_up_to_the_step_jacobian(name):
    found = study(name, ManyToOne)
    routes, jacobians = found["routes"], found["jacobians"]
    total = sum(routes.values())
    assert_same(total[HOLES], jacobians[HOLES], 1e-13)
    identity = np.broadcast_to(np.eye(jacobians.shape[-1]), jacobians[~HOLES].shape)
    for part in (jacobians, *routes.values()):
        np.testing.assert_array_equal(part[~HOLES], identity)
    size = H if EVERY_CELL[name].routes[0] == "state" else None
    direct = routes[EVERY_CELL[name].routes[0]][HOLES]
    if size is None:  # the carousel: c to c is diagonal, and nothing comes from h
        c_to_c = direct[:, H : 2 * H, H : 2 * H]
        assert np.abs(c_to_c - c_to_c * np.eye(H)).max() == 0.0
        np.testing.assert_array_equal(direct[:, :, :H], 0.0)
    else:
        assert np.abs(direct - direct * np.eye(H)).max() == 0.0


@pytest.mark.parametrize("probe", ["jacobians", "paths"])
def test_a_cell_without_routes_is_told_what_to_write(probe):
    cell = EVERY_CELL["mgu"]
    model, params = model_of(cell, ManyToOne)
    with pytest.raises(ValueError, match=r"MGU\(hidden_size=3\): no routes .* `step_by_route`"):
        if probe == "jacobians":
            route_jacobians(cell, params["rnn"]["weights"], data())
        else:
            path_gradients(model.apply, loss, params, data(), cell=cell)


# Central differences


@pytest.mark.parametrize("num_steps", [1, 3, 6])
@every_cell
def test_central_differences(name, num_steps):
    """Of parameters, inputs and first state at once, every coordinate, in float64."""
    cell = EVERY_CELL[name]
    params = generic_params(cell)
    point, unravel = ravel_pytree((params, data(5, num_steps), first_carry(cell, params)))

    def value(point):
        params, xs, carry = unravel(point)
        walked = unroll(cell, params, xs, carry=carry)
        weights = jnp.cos(jnp.arange(walked.ys.size, dtype=point.dtype))
        last = sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(walked.carry))
        return jnp.sum(jnp.sin(walked.ys).reshape(-1) * weights) + last

    @jax.jit
    def both(point):
        moves = 1e-6 * jnp.eye(point.size)
        here = jnp.broadcast_to(point, moves.shape)
        ahead, behind = jax.vmap(value)(jnp.concatenate([here + moves, here - moves])).reshape(
            2, -1
        )
        return jax.grad(value)(point), (ahead - behind) / 2e-6

    exact, differences = both(point)
    for a, b in zip(
        jax.tree.leaves(unravel(exact)), jax.tree.leaves(unravel(differences)), strict=True
    ):
        scale = max(float(jnp.linalg.norm(a)), 1e-3 * float(jnp.linalg.norm(exact)))
        assert float(jnp.linalg.norm(a - b)) < 1e-6 * scale


# The loop: chunks, cuts, resets, recomputation


def walk_loss(walked):
    weights = jnp.cos(jnp.arange(walked.ys.size, dtype=walked.ys.dtype))
    last = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(walked.carry))
    return jnp.sum(jnp.sin(walked.ys).reshape(-1) * weights) + last


def values_and_gradients(walker):
    """(what the walk gives, gradients by params, inputs and first state) of a walker."""

    def value(params, xs, carry):
        walked = walker(params, xs, carry)
        return walk_loss(walked), walked

    def run(params, xs, carry):
        (_, walked), grads = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)(
            params, xs, carry
        )
        return walked, grads

    return run


def joined(parts):
    """One `Unrolled` from the pieces of a walk."""
    return parts[-1]._replace(
        ys=jnp.concatenate([part.ys for part in parts], axis=1),
        carries=jax.tree.map(lambda *c: jnp.concatenate(c, axis=1), *[p.carries for p in parts]),
    )


def in_chunks(cell, borders, *, cut):
    """A walk by hand, chunk after chunk, the state carried; its gradient cut at borders or not."""

    def walker(params, xs, carry):
        parts = []
        for start, stop in zip([0, *borders], [*borders, T], strict=True):
            if cut and start > 0:
                carry = jax.lax.stop_gradient(carry)
            parts.append(unroll(cell, params, xs[:, start:stop], carry=carry))
            carry = parts[-1].carry
        return joined(parts)

    return walker


@every_cell
def test_chunks_and_truncation(name):
    cell = EVERY_CELL[name]
    params = generic_params(cell)
    arguments = (params, data(), first_carry(cell, params))

    @jax.jit
    def run(*arguments):
        walkers = {
            "full": lambda p, xs, c: unroll(cell, p, xs, carry=c),
            "window of T": lambda p, xs, c: unroll(cell, p, xs, carry=c, truncate_every=T),
            "two chunks": in_chunks(cell, [4], cut=False),
            "cut every 3": lambda p, xs, c: unroll(cell, p, xs, carry=c, truncate_every=3),
            "cut by hand": in_chunks(cell, [3, 6], cut=True),
        }
        return {what: values_and_gradients(walker)(*arguments) for what, walker in walkers.items()}

    found = run(*arguments)
    for what in ("window of T", "two chunks"):
        assert_same(found[what], found["full"], 1e-13, what)
    assert_same(found["cut every 3"][0], found["full"][0], 1e-13, "truncation keeps values")
    assert_same(found["cut every 3"][1], found["cut by hand"][1], 1e-13, "cut every 3")
    full, cut = (flat_grad(found[what][1][0]) for what in ("full", "cut every 3"))
    assert np.abs(full - cut).max() > 1e-6 * np.abs(full).max()  # the cut is there


def flat_grad(tree):
    return np.asarray(ravel_pytree(tree)[0])


@pytest.mark.parametrize("reverse", [False, True])
@every_cell
def test_recomputation_changes_nothing(name, reverse):
    cell = EVERY_CELL[name]
    params = generic_params(cell)
    mask = jnp.asarray(HOLES)
    arguments = (params, data(), first_carry(cell, params))

    @functools.partial(jax.jit, static_argnums=0)
    def run(every, *arguments):
        def walker(params, xs, carry):
            return unroll(
                cell, params, xs, carry=carry, mask=mask, reverse=reverse, remat_every=every
            )

        return values_and_gradients(walker)(*arguments)

    expected = run(None, *arguments)
    for every in (1, 3):  # of 7 steps: dividing, and not
        assert_same(run(every, *arguments), expected, 1e-13, f"remat_every={every}")


@every_cell
def test_a_reset_row_starts_anew_and_no_gradient_crosses(name):
    cell = EVERY_CELL[name]
    params = generic_params(cell)
    xs, carry = data(), first_carry(cell, params)
    reset = np.zeros((B, T), bool)
    reset[0, 3] = True  # the first row begins anew at step 3, the second walks on

    def by_reset(params, xs, carry):
        return unroll(cell, params, xs, carry=carry, reset=jnp.asarray(reset))

    def by_hand(params, xs, carry):
        head = unroll(cell, params, xs[:, :3], carry=carry)
        fresh = cell.initial_carry(params, (B,))
        keep = jnp.asarray([[0.0], [1.0]])
        again = jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, head.carry, fresh)
        return joined([head, unroll(cell, params, xs[:, 3:], carry=again)])

    @jax.jit
    def run(params, xs, carry):
        def late(carry):  # what the steps after the reset say, row by row
            return jnp.sum(jnp.sin(by_reset(params, xs, carry).ys[:, 3:]), axis=(1, 2))

        return (
            values_and_gradients(by_reset)(params, xs, carry),
            values_and_gradients(by_hand)(params, xs, carry),
            jax.grad(lambda carry: late(carry)[0])(carry),
            jax.grad(lambda carry: late(carry)[1])(carry),
        )

    found, expected, first_row, second_row = run(params, xs, carry)
    assert_same(found, expected, 1e-13)
    assert all(np.count_nonzero(leaf) == 0 for leaf in jax.tree.leaves(first_row))
    assert any(np.count_nonzero(leaf) > 0 for leaf in jax.tree.leaves(second_row))
