"""Every cell, and a user's own, is held to the adjoint equations of back-propagation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from mgu import MGU

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
from seqlab.types import Output

pytestmark = pytest.mark.usefixtures("x64")

B, T, D, H = 2, 7, 2, 3


EVERY_CELL = {
    **{name: make(hidden_size=H) for name, make in CELLS.items()},
    "gru-before-state": GRU(H, z_multiplies="state"),
    "lstm-half-open": LSTM(H, forget_gate=0.5, input_activation="sigmoid"),
    "lstm-chrono": LSTM(H, chrono_steps=20.0, output_activation="relu"),
    "own": MGU(H),
}
ROUTED = [name for name, cell in EVERY_CELL.items() if getattr(cell, "routes", ())]

REPRESENTATIVES = ["rnn", "lstm-fgr", "gru-after", "own"]  # one of every kind of code

every_cell = pytest.mark.parametrize("name", EVERY_CELL, scope="module")
every_routed_cell = pytest.mark.parametrize("name", ROUTED, scope="module")
each_kind = pytest.mark.parametrize("name", REPRESENTATIVES)


def drawn(seed, shapes, scale):
    """Normal numbers for a tree of shapes, by numpy: in JAX every shape is a program to compile."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s.shape), s.dtype), shapes)


def generic_params(cell):
    """A generic point: no parameter is zero by chance or by custom."""
    return drawn(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), 0.6)


def data(seed=1, num_steps=T):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, num_steps, D)))


def first_carry(cell, params):
    return drawn(2, jax.eval_shape(lambda: cell.initial_carry(params, (B,))), 0.5)


# A row with holes, and one that begins late and pauses.
HOLES = np.ones((B, T), bool)
HOLES[0, [1, 4]] = HOLES[1, [0, 3]] = False


def assert_same(found, expected, rtol, what="", terms=None):
    """Equal within `rtol` of the largest entry of each leaf, or of its terms; structures equal."""
    assert jax.tree.structure(found) == jax.tree.structure(expected), what
    for (path, a), b, parts in zip(
        jax.tree_util.tree_flatten_with_path(found)[0],
        jax.tree.leaves(expected),
        jax.tree.leaves(expected if terms is None else terms),
        strict=True,
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, what
        peak = np.abs(parts).max()
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * peak, err_msg=f"{what} {jax.tree_util.keystr(path)}"
        )


def flat(carry):
    """Leaves of a carry side by side, as the Jacobians have them, [..., S]."""
    return np.asarray(jnp.concatenate(jax.tree.leaves(carry), axis=-1))


def model_of(cell, kind=ManyToMany):
    model = functional(kind, cell, input_size=D, output_size=2)
    params = drawn(3, jax.eval_shape(lambda: model.init(jax.random.key(3))), 0.6)
    params["rnn"]["weights"] = generic_params(cell)
    return model, params


def weighted(weights):
    """A loss that is neither linear nor the same for any two answers; `weights` like the logits."""
    return lambda output: jnp.sum(jnp.sin(output.logits) * weights)


LOSSES = {
    "every step": np.cos(np.arange(B * T * 2.0)).reshape(B, T, 2),
    "last step": np.cos(np.arange(B * T * 2.0)).reshape(B, T, 2) * (np.arange(T) == T - 1)[:, None],
}
either_loss = pytest.mark.parametrize("where", LOSSES)


@functools.cache
def probe_of(name):
    """All that the adjoint tests compare, of one cell in a model, as one program."""
    cell = EVERY_CELL[name]
    model, _ = model_of(cell)
    mask = jnp.asarray(HOLES)

    def direct_loss(carries, params, loss):
        """The loss as the carries enter it through the output of their own step alone."""
        ys = jnp.where(mask[..., None], cell.output(carries), 0.0)
        logits = ys @ params["head"]["kernel"]
        logits = logits + jnp.broadcast_to(params["head"]["bias"], logits.shape)
        return loss(Output(logits, logits, {}))

    @jax.jit
    def probe(params, xs, weights):
        loss = weighted(weights)
        cell_params = params["rnn"]["weights"]
        both = gradients(model.apply, loss, params, xs, mask)
        carries = model.apply(params, xs, mask).carries["rnn"]
        found = {
            "taps": both.carries["rnn"],
            "params": both.params,
            "direct": jax.grad(direct_loss)(carries, params, loss),
            "jacobians": step_jacobians(cell, cell_params, xs, mask=mask),
            "shares": weight_shares(model.apply, loss, params, xs, mask)["rnn"],
        }
        if name in ROUTED:
            found["routes"] = route_jacobians(cell, cell_params, xs, mask=mask)
            found["paths"] = path_gradients(model.apply, loss, params, xs, mask, cell=cell)
        return found

    return probe


@functools.cache
def study(name, where):
    _, params = model_of(EVERY_CELL[name])
    return jax.device_get(probe_of(name)(params, data(), jnp.asarray(LOSSES[where])))


@either_loss
@every_cell
def test_taps_are_the_hand_adjoint_and_the_jacobian_products(name, where):
    """G_t = direct_t + J_{t+1}^T G_{t+1}, unrolled: G_t = sum over k of P_{k<-t}^T direct_k."""
    found = study(name, where)
    taps, direct, jacobians = flat(found["taps"]), flat(found["direct"]), found["jacobians"]

    by_hand = np.zeros_like(taps)
    after = np.zeros_like(taps[:, 0])
    for t in reversed(range(T)):
        by_hand[:, t] = after = direct[:, t] + after
        after = np.einsum("bs,bsu->bu", after, jacobians[:, t])
    assert_same(taps, by_hand, 1e-10, "recursion")

    by_products = np.array(direct)
    for end in range(1, T):
        product = np.broadcast_to(np.eye(jacobians.shape[-1]), jacobians[:, 0].shape)
        for t in reversed(range(end)):
            product = product @ jacobians[:, t + 1]
            by_products[:, t] += np.einsum("bs,bsu->bu", direct[:, end], product)
    assert_same(taps, by_products, 1e-10, "products")
    assert np.abs(taps[:, 0]).max() > 0.0


@each_kind
def test_many_to_one_is_many_to_many_read_at_the_end(name):
    """The real many-to-one model, by `carry_gradients`, and the products of `jacobian_products`."""
    cell = EVERY_CELL[name]
    model, params = model_of(cell, ManyToOne)
    mask = jnp.asarray(HOLES)
    weights = jnp.asarray(LOSSES["last step"][:, -1])

    @jax.jit
    def probe(params, xs):
        taps = carry_gradients(model.apply, weighted(weights), params, xs, mask)["rnn"]
        jacobians = step_jacobians(cell, params["rnn"]["weights"], xs, mask=mask)
        return taps, jacobian_products(jacobians[:, 1:])

    taps, (products, log_scales) = probe(params, data())
    found = study(name, "last step")
    assert_same(jax.device_get(taps), found["taps"], 1e-13)
    last = flat(found["taps"])[:, -1]
    scaled = np.asarray(products) * np.exp(log_scales)[..., None, None]
    assert_same(flat(taps)[:, :-1], np.einsum("bs,btsu->btu", last, scaled), 1e-10)


@either_loss
@every_cell
def test_shares_of_the_steps_add_up_to_the_weight_gradient(name, where):
    found = study(name, where)
    shares = found["shares"]
    assert all(leaf.shape[0] == T for leaf in jax.tree.leaves(shares))
    total = jax.tree.map(lambda leaf: leaf.sum(axis=0), shares)
    # The rounding of a sum is that of its terms: those of an sLSTM's input bias cancel to zero.
    assert_same(total, found["params"]["rnn"]["weights"], 1e-12, terms=shares)


@either_loss
@every_routed_cell
def test_paths_add_up_to_the_total(name, where):
    found = study(name, where)
    paths = dict(found["paths"])
    total = paths.pop("total")
    assert set(paths) == {"direct", *EVERY_CELL[name].routes[1:]}
    assert_same(total, found["taps"], 1e-12)
    assert_same(jax.tree.map(lambda *parts: sum(parts), *paths.values()), total, 1e-12)


@either_loss
@every_routed_cell
def test_each_path_is_its_recursion_over_route_jacobians(name, where):
    """direct_t = d_t + D^T direct_{t+1};  g_t = (J^g)^T G_{t+1} + D^T g_{t+1}."""
    found = study(name, where)
    paths, routes, taps = found["paths"], found["routes"], flat(found["taps"])
    carousel, *gates = EVERY_CELL[name].routes

    def back(vectors, matrices):
        return np.einsum("bs,bsu->bu", vectors, matrices)

    source, after = flat(found["direct"]), 0.0 * taps[:, 0]
    for t in reversed(range(T)):
        after = source[:, t] + after
        assert_same(flat(paths["direct"])[:, t], after, 1e-12, f"direct at {t}")
        after = back(after, routes[carousel][:, t])
    for gate in gates:
        # A masked step has no gates: its parts are all the identity, by convention.
        through = np.where(HOLES[..., None, None], routes[gate], 0.0)
        by_hand = np.zeros_like(taps)
        for t in reversed(range(T - 1)):
            by_hand[:, t] = back(taps[:, t + 1], through[:, t + 1])
            by_hand[:, t] += back(by_hand[:, t + 1], routes[carousel][:, t + 1])
        peak = np.abs(taps).max()
        np.testing.assert_allclose(flat(paths[gate]), by_hand, rtol=0, atol=1e-12 * peak)


@every_routed_cell
def test_route_jacobians_add_up_to_the_step_jacobian(name):
    cell, found = EVERY_CELL[name], study(name, "every step")
    routes, jacobians = found["routes"], found["jacobians"]
    assert_same(sum(routes.values())[HOLES], jacobians[HOLES], 1e-13)
    identity = np.broadcast_to(np.eye(jacobians.shape[-1]), jacobians[~HOLES].shape)
    for part in (jacobians, *routes.values()):
        np.testing.assert_array_equal(part[~HOLES], identity)

    direct = routes[cell.routes[0]][HOLES]
    if isinstance(cell, LSTM):  # its carry is raveled as h, then c
        others = np.delete(direct, np.r_[H : 2 * H], axis=-1)
        np.testing.assert_array_equal(others, 0.0)  # nothing of it comes from h or the gates
    # And it leads from no unit to another, whatever leaf: every block of H x H is diagonal.
    leaves = direct.shape[-1] // H
    blocks = direct.reshape(-1, leaves, H, leaves, H)
    np.testing.assert_array_equal(blocks, blocks * np.eye(H)[:, None])


def test_a_cell_without_routes_is_told_what_to_write():
    cell = EVERY_CELL["own"]
    model, params = model_of(cell, ManyToOne)
    told = r"MGU\(hidden_size=3\): no routes .* `step_by_route`"
    with pytest.raises(ValueError, match=told):
        route_jacobians(cell, params["rnn"]["weights"], data())
    with pytest.raises(ValueError, match=told):
        path_gradients(model.apply, weighted(1.0), params, data(), cell=cell)
    with pytest.raises(ValueError, match=told):
        unroll(cell, params["rnn"]["weights"], data(), routes={"cell": None})


def test_an_unknown_route_is_an_error_that_lists_what_there_is():
    cell = LSTM(H)
    with pytest.raises(ValueError, match="no route 'forget', expected one of cell, i, f, g, o"):
        unroll(cell, generic_params(cell), data(), routes={"forget": None})


# Central differences


def walk_loss(walked):
    weights = jnp.cos(jnp.arange(walked.ys.size, dtype=walked.ys.dtype)).reshape(walked.ys.shape)
    last = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(walked.carry))
    return jnp.sum(jnp.sin(walked.ys) * weights) + last


@functools.cache
def differences_of(name, num_steps, is_padded):
    """Gradient and central differences at every coordinate of parameters, inputs, first state."""
    cell = EVERY_CELL[name]
    params = generic_params(cell)
    point, unravel = ravel_pytree((params, data(5, num_steps), first_carry(cell, params)))

    def value(point, mask):
        params, xs, carry = unravel(point)
        return walk_loss(unroll(cell, params, xs, carry=carry, mask=mask if is_padded else None))

    @jax.jit
    def both(point, mask):
        def slope(index):
            move = jnp.zeros_like(point).at[index].set(1e-6)
            return (value(point + move, mask) - value(point - move, mask)) / 2e-6

        return jax.grad(value)(point, mask), jax.vmap(slope)(jnp.arange(point.size))

    return both, point, unravel


def assert_differences_agree(name, num_steps, is_padded):
    width = 6 if is_padded else num_steps
    both, point, unravel = differences_of(name, width, is_padded)
    mask = jnp.asarray(np.tile(np.arange(width) < num_steps, (B, 1)))
    exact, differences = both(point, mask)
    floor = 1e-3 * np.linalg.norm(exact)  # below it a leaf's difference is rounding, not slope
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(unravel(exact))[0],
        jax.tree.leaves(unravel(differences)),
        strict=True,
    ):
        scale = max(np.linalg.norm(a), floor)
        assert np.linalg.norm(a - b) < 1e-6 * scale, jax.tree_util.keystr(path)


@pytest.mark.parametrize("num_steps", [1, 3, 6])
@every_cell
def test_central_differences(name, num_steps):
    """The shorter sequences stand in one padded program, compiled once a cell."""
    assert_differences_agree(name, num_steps, is_padded=True)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_central_differences_without_padding(name, num_steps):
    assert_differences_agree(name, num_steps, is_padded=False)


# The loop: windows, recomputation, chunks, cuts, resets


def gradients_of(walker):
    """Compiled: a walker -> (what it gives, its gradients by parameters, inputs, first state)."""

    def value(params, xs, carry, *rest):
        walked = walker(params, xs, carry, *rest)
        return walk_loss(walked), walked

    def run(*arguments):
        (_, walked), by = jax.value_and_grad(value, (0, 1, 2), has_aux=True)(*arguments)
        return walked, by

    return jax.jit(run)


def joined(parts):
    """One `Unrolled` from the pieces of a walk."""
    return parts[-1]._replace(
        ys=jnp.concatenate([part.ys for part in parts], axis=1),
        carries=jax.tree.map(lambda *c: jnp.concatenate(c, axis=1), *[p.carries for p in parts]),
    )


def walk_arguments(cell):
    params = generic_params(cell)
    return params, data(), first_carry(cell, params)


@every_cell
def test_a_window_of_the_whole_length_and_recomputation_change_nothing(name):
    """Values and all gradients; holes included; 7 steps kept every 3."""
    cell = EVERY_CELL[name]
    arguments = walk_arguments(cell)
    mask = jnp.asarray(HOLES)

    def walker(**options):
        return gradients_of(lambda p, xs, c: unroll(cell, p, xs, carry=c, mask=mask, **options))

    expected = walker()(*arguments)
    assert_same(walker(remat_every=3)(*arguments), expected, 1e-13, "recomputation")
    window = walker(truncate_every=T)
    if str(window.trace(*arguments).jaxpr) != str(walker().trace(*arguments).jaxpr):
        assert_same(window(*arguments), expected, 1e-13, "window")  # else one program, one result


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["rnn", "lstm", "own"])
def test_recomputation_dividing_the_length_or_not_in_both_directions(name, reverse):
    cell = EVERY_CELL[name]
    params, xs, carry = walk_arguments(cell)
    arguments = params, xs[:, :6], carry
    mask = jnp.asarray(HOLES[:, :6])

    def walker(every):
        def walk(p, xs, c):
            return unroll(cell, p, xs, carry=c, mask=mask, reverse=reverse, remat_every=every)

        return gradients_of(walk)

    expected = walker(None)(*arguments)
    for every in (2, 4):  # of 6 steps: dividing, and not
        assert_same(walker(every)(*arguments), expected, 1e-13, f"remat_every={every}")


@each_kind
def test_truncation_is_a_loop_over_chunks_with_cut_gradients(name):
    cell = EVERY_CELL[name]
    arguments = walk_arguments(cell)

    def by_hand(params, xs, carry, is_cut):
        parts = []
        for start, stop in ((0, 3), (3, 6), (6, T)):
            if start > 0:
                cut = jax.lax.stop_gradient(carry)
                carry = jax.tree.map(lambda a, b: jnp.where(is_cut, a, b), cut, carry)
            parts.append(unroll(cell, params, xs[:, start:stop], carry=carry))
            carry = parts[-1].carry
        return joined(parts)

    hand = gradients_of(by_hand)
    full = gradients_of(lambda p, xs, c: unroll(cell, p, xs, carry=c))(*arguments)
    truncated = gradients_of(lambda p, xs, c: unroll(cell, p, xs, carry=c, truncate_every=3))
    found, expected = truncated(*arguments), hand(*arguments, True)

    assert_same(hand(*arguments, False), full, 1e-13, "chunks that carry the state are one walk")
    assert_same(found[0], full[0], 1e-13, "truncation keeps values")
    for index, what in enumerate(("parameters", "inputs", "first state")):
        assert_same(found[1][index], expected[1][index], 1e-13, what)


@each_kind
def test_truncation_cuts(name):
    cell = EVERY_CELL[name]
    params, xs, carry = walk_arguments(cell)

    @jax.jit
    def by_inputs(xs):
        def last(xs):
            return jnp.sum(unroll(cell, params, xs, carry=carry, truncate_every=3).ys[:, -1])

        return jax.grad(last)(xs)

    found = np.asarray(by_inputs(xs))
    np.testing.assert_array_equal(found[:, :6], 0.0)  # chunks of 3, 3 and 1
    assert np.all(found[:, 6] != 0.0)


@each_kind
def test_a_reset_row_starts_anew_and_no_gradient_crosses(name):
    cell = EVERY_CELL[name]
    arguments = params, xs, carry = walk_arguments(cell)
    reset = np.zeros((B, T), bool)
    reset[0, 3] = True  # the first row begins anew at step 3, the second walks on

    def by_reset(params, xs, carry):
        return unroll(cell, params, xs, carry=carry, reset=jnp.asarray(reset))

    def by_hand(params, xs, carry):
        head = unroll(cell, params, xs[:, :3], carry=carry)
        fresh = cell.initial_carry(params, (B,))
        again = jax.tree.map(lambda old, new: jnp.stack([new[0], old[1]]), head.carry, fresh)
        return joined([head, unroll(cell, params, xs[:, 3:], carry=again)])

    assert_same(gradients_of(by_reset)(*arguments), gradients_of(by_hand)(*arguments), 1e-13)

    @jax.jit
    def by_first_state(carry):
        def late(carry):  # what the steps from the reset on say
            return jnp.sum(jnp.sin(by_reset(params, xs, carry).ys[:, 3:]))

        return jax.grad(late)(carry)

    found = flat(by_first_state(carry))
    np.testing.assert_array_equal(found[0], 0.0)
    assert np.count_nonzero(found[1]) > 0
