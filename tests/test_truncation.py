"""Truncated back-propagation: what is cut, what is kept, and closed forms of the bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.lookup import lookup
from seqlab.cells.rnn import RNN
from seqlab.gradflow import theory
from seqlab.gradflow.truncation import chunk_borders, truncated_gradient
from seqlab.gradflow.weights import weight_shares
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.recurrence import unroll

pytestmark = pytest.mark.usefixtures("x64")
T = 6


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@functools.cache
def reader(name):
    """A model that answers at every step, with its parameters and the losses of every step."""
    model = functional(ManyToMany, lookup(name)(hidden_size=3), input_size=2, output_size=2)
    return model, lambda output: jnp.sum(jnp.square(output.logits - 0.3), axis=-1)


@functools.partial(jax.jit, static_argnames=("name", "every"))
def tbptt(name, params, xs, *, every, back):
    model, losses = reader(name)
    return truncated_gradient(model.apply, losses, params, xs, every=every, back=back)


@functools.partial(jax.jit, static_argnames=("name", "options"))
def whole(name, params, xs, options=()):
    model, losses = reader(name)
    return jax.grad(lambda p: jnp.sum(losses(model.apply(p, xs, **dict(options)))))(params)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_with_a_long_reach_it_is_the_full_gradient_and_with_equal_ones_that_of_chunks(name):
    xs = normal(0, 2, T, 2)
    params = reader(name)[0].init(jax.random.key(0))
    full = flat(whole(name, params, xs))
    for every, back in ((2, T), (2, T + 5), (4, T)):  # 4 does not divide T
        found = flat(tbptt(name, params, xs, every=every, back=back))
        np.testing.assert_allclose(found, full, rtol=1e-12, atol=1e-14)
    for every in (2, 3):
        found = flat(tbptt(name, params, xs, every=every, back=every))
        chunks = flat(whole(name, params, xs, (("truncate_every", every),)))
        np.testing.assert_allclose(found, chunks, rtol=1e-12, atol=1e-14)
        assert np.linalg.norm(found - full) > 1e-3 * np.linalg.norm(full)


@functools.partial(jax.jit, static_argnames="name")
def shares_of_loss(name, params, xs, t):
    model, losses = reader(name)
    return weight_shares(model.apply, lambda out: jnp.sum(losses(out)[..., t]), params, xs)["rnn"]


@pytest.mark.parametrize(("every", "back"), [(1, 2), (1, 4), (4, 5)])
def test_every_loss_reaches_as_far_as_said(every, back):
    """By the definition: of each loss alone, the shares of the steps that it may reach."""
    name, xs = "gru", normal(0, 2, T, 2)
    params = reader(name)[0].init(jax.random.key(1))
    expected = jax.tree.map(jnp.zeros_like, params["rnn"]["weights"])
    for t in range(T):
        shares = shares_of_loss(name, params, xs, t)
        end = min((t // every + 1) * every, T)
        expected = jax.tree.map(
            lambda total, leaf, first=end - back: total + jnp.sum(leaf[max(0, first) :], axis=0),
            expected,
            shares,
        )
    found = tbptt(name, params, xs, every=every, back=back)["rnn"]["weights"]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-12, atol=1e-14)


def test_reaches_that_cannot_be_are_refused():
    model, losses = reader("rnn")
    params, xs = model.init(jax.random.key(0)), normal(0, 1, T, 2)
    for every, back, words in ((0, 2, "every=0"), (3, 2, "back=2, expected every=3")):
        with pytest.raises(ValueError, match=words):
            truncated_gradient(model.apply, losses, params, xs, every=every, back=back)


@pytest.mark.parametrize("form", ["fast", "scan"])
def test_borders_may_differ_from_row_to_row_and_be_traced(form):
    cell = lookup("lstm")(hidden_size=3)
    params = cell.init(jax.random.key(0), 2)
    xs = normal(0, 3, T, 2)

    def loss(params, xs, **loop):
        return jnp.sum(jnp.square(unroll(cell, params, xs, form=form, **loop).ys))

    @jax.jit
    def by_rows(every):
        cut = jax.vmap(lambda k: chunk_borders(k, (T,)))(every)
        return jax.grad(lambda p: loss(p, xs, cut=cut))(params)

    found = flat(by_rows(jnp.array([2, 4, T])))
    rows = [
        flat(jax.grad(lambda p, row=row, k=k: loss(p, xs[row], truncate_every=k))(params))
        for row, k in enumerate((2, 4, T))
    ]
    np.testing.assert_allclose(found, sum(rows), rtol=1e-12, atol=1e-14)


def test_borders_of_another_shape_or_kind_are_refused():
    cell = RNN(2)
    params, xs = cell.init(jax.random.key(0), 1), normal(0, 2, T, 1)
    for cut in (jnp.zeros(T, bool), jnp.zeros((2, T))):
        with pytest.raises(ValueError, match="unroll: cut has shape"):
            unroll(cell, params, xs, cut=cut)


def test_walking_backwards_the_border_is_before_the_step_as_walked():
    cell = RNN(2, "identity")
    params, xs = cell.init(jax.random.key(0), 1), normal(0, T, 1)
    cut = jnp.arange(T) == 2

    def last(xs):
        return jnp.sum(unroll(cell, params, xs, cut=cut, reverse=True).ys[0])

    moved = np.abs(jax.grad(last)(xs))[:, 0]
    assert np.all(moved[:3] > 0)
    assert np.all(moved[3:] == 0)


def linear(model_class):
    """A net of one linear unit that reads symbols, each its own, and says its state."""
    model = functional(model_class, RNN(1, "identity"), input_size=T, output_size=1)
    params = model.init(jax.random.key(0))
    params["rnn"]["weights"] |= {"W_h": jnp.full((1, 1), 0.9), "b": jnp.zeros(1)}
    params["head"]["kernel"] = jnp.ones((1, 1))
    return model, params


def test_the_bias_of_a_linear_net_with_its_loss_at_the_end():
    """The part of lag j is lambda^j, orthogonal to the others."""
    model, params = linear(ManyToOne)

    @jax.jit
    def gradient(decay, every):
        params["rnn"]["weights"]["W_h"] = decay[None, None]
        cut = chunk_borders(every, (T,))
        answer = lambda p: model.apply(p, jnp.eye(T), cut=cut).logits[0]  # noqa: E731
        return jax.grad(answer)(params)["rnn"]["weights"]["W_x"]

    for decay in (0.5, 0.9, 1.1):
        full = gradient(jnp.asarray(decay), T)
        for k in (1, 2, 3, T):
            found = gradient(jnp.asarray(decay), k)
            ratio = jnp.linalg.norm(found) / jnp.linalg.norm(full)
            cosine = jnp.sum(found * full) / jnp.linalg.norm(found) / jnp.linalg.norm(full)
            expected = theory.truncated_share(decay, k, T)
            np.testing.assert_allclose([ratio, cosine], expected, rtol=1e-12)


@pytest.mark.parametrize(("every", "backs"), [(1, (1, 3)), (2, (2, 4)), (4, (4, 5))])
def test_the_bias_of_a_linear_net_with_a_loss_at_every_step(every, backs):
    """Over errors in all directions, that is for the Jacobian's norm, the formula is exact."""
    model, params = linear(ManyToMany)

    @jax.jit
    def jacobian(back):
        def row(error):
            losses = lambda out: error * out.logits[:, 0]  # noqa: E731
            found = truncated_gradient(
                model.apply, losses, params, jnp.eye(T), every=every, back=back
            )
            return found["rnn"]["weights"]["W_x"][:, 0]

        return jax.vmap(row)(jnp.eye(T))

    full = jacobian(T + every)
    for back in (*backs, T):
        kept = jacobian(back)
        end = np.minimum((np.arange(T) // every + 1) * every, T)
        reached = np.arange(T) >= end[:, None] - back
        expected = theory.truncated_share_every_step(0.9, reached)
        ratio = jnp.linalg.norm(kept) / jnp.linalg.norm(full)
        np.testing.assert_allclose(ratio, expected, rtol=1e-12)
        np.testing.assert_allclose(jnp.sum(kept * full), jnp.sum(kept * kept), rtol=1e-12)
