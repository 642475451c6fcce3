"""Clipping: closed forms of its direction error, the rules of the study, the points of its wall."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate

from experiments import clipping
from seqlab.gradflow import theory
from seqlab.train import global_norm

pytestmark = pytest.mark.usefixtures("x64")


def clip(kind, grads, params, threshold, norms=(1.0,)):
    index = clipping.KINDS.index(kind)
    return clipping.clip(index, grads, params, threshold, jnp.asarray(norms))


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)
    draw = lambda: {"W": jnp.asarray(rng.normal(size=(4, 3))), "b": jnp.asarray(rng.normal(size=3))}  # noqa: E731
    return draw(), draw()


def test_saddle_node_points_are_the_published_ones():
    np.testing.assert_allclose(theory.sigmoid_saddle_nodes(5.0), (-2.655610, -2.344390), atol=6e-7)
    np.testing.assert_allclose(theory.sigmoid_saddle_nodes(4.0), (-2.0, -2.0), atol=1e-12)
    with pytest.raises(ValueError, match="expected 4 or more"):
        theory.sigmoid_saddle_nodes(3.9)


@pytest.mark.parametrize("weight", [4.5, 5.0, 8.0])
def test_there_are_three_fixed_points_between_the_saddle_nodes_and_one_outside(weight):
    low, high = theory.sigmoid_saddle_nodes(weight)
    x = np.linspace(-15.0, 15.0, 30001)

    def count(bias):
        return np.sum(np.diff(np.sign(weight / (1 + np.exp(-x)) + bias - x)) != 0)

    edge = 0.02 * (high - low)
    counts = [count(bias) for bias in (low - edge, low + edge, high - edge, high + edge)]
    assert counts == [1, 3, 3, 1]


@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0, 2.5])
def test_the_cosine_of_value_clipping_is_that_of_the_integral(threshold):
    def mean(function):
        """Over the standard normal distribution, piece by piece between the corners."""
        density = lambda z: np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)  # noqa: E731
        corners = (-np.inf, -threshold, threshold, np.inf)
        pieces = itertools.pairwise(corners)
        return sum(integrate.quad(lambda z: density(z) * function(z), *p)[0] for p in pieces)

    cut = lambda z: np.clip(z, -threshold, threshold)  # noqa: E731
    expected = mean(lambda z: z * cut(z)) / np.sqrt(mean(lambda z: cut(z) ** 2))
    np.testing.assert_allclose(theory.value_clip_cosine(threshold), expected, rtol=1e-8)


def test_its_limits_are_the_vector_of_signs_and_no_clipping():
    np.testing.assert_allclose(theory.value_clip_cosine(1e-6), np.sqrt(2 / np.pi), rtol=1e-4)
    np.testing.assert_allclose(theory.value_clip_cosine(20.0), 1.0, rtol=1e-15)


def test_the_rules_are_those_of_optax(tree):
    grads, params = tree
    peers = {
        "value": (optax.clip(0.3), 0.3),
        "norm": (optax.clip_by_global_norm(0.7), 0.7),
        "unit-wise": (optax.adaptive_grad_clip(0.1), 0.1),
    }
    for kind, (peer, threshold) in peers.items():
        expected = peer.update(grads, peer.init(params), params)[0]
        found = clip(kind, grads, params, threshold)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_what_is_small_enough_is_let_through_as_it_is(tree):
    grads, params = tree
    for kind in clipping.KINDS:
        found = clip(kind, grads, params, 1.0 if kind == "quantile" else 1e6, (1e6,))
        jax.tree.map(np.testing.assert_array_equal, found, grads)


def test_a_quantile_of_the_norms_seen_is_the_largest_let_through(tree):
    grads, params = tree
    norms = [5.0, 0.5, 1.0, 2.0, np.nan, np.nan]  # not yet seen
    found = clip("quantile", grads, params, 0.5, norms)
    np.testing.assert_allclose(global_norm(found), 1.5, rtol=1e-12)


def test_angles_of_clipped_gradients(tree):
    grads, params = tree
    for kind, threshold in (("norm", 0.1), ("none", 1.0)):
        found = clipping.angle(grads, clip(kind, grads, params, threshold))
        np.testing.assert_allclose(found, 0.0, atol=1e-15)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
    signs = np.abs(flat).sum() / np.sqrt(flat.size * np.square(flat).sum())
    found = clipping.angle(grads, clip("value", grads, params, 1e-3 * np.abs(flat).min()))
    np.testing.assert_allclose(np.cos(found), signs, rtol=1e-12)


def test_norms_beyond_the_squares_of_float32_are_clipped_too():
    with jax.enable_x64(False):
        grads = {"w": jnp.array([3e30, -4e30], jnp.float32)}
        found = clip("norm", grads, grads, 1.0)
    np.testing.assert_allclose(found["w"], [0.6, -0.8], rtol=1e-6)


def test_a_clipped_step_counts_what_it_does():
    optimizer = clipping.clipped_sgd(0.5, 3)
    params = {"w": jnp.array([1.0, 1.0])}
    state = optimizer.init(params)._replace(
        kind=jnp.array(clipping.KINDS.index("value")), threshold=jnp.array(1.0)
    )
    for grad in ([0.5, 0.5], [3.0, 1.0]):
        updates, state = optimizer.update({"w": jnp.array(grad)}, state, params)
    np.testing.assert_allclose(updates["w"], [-0.5, -0.5])
    assert (int(state.count), float(state.clipped)) == (2, 1.0)
    np.testing.assert_allclose(state.norms[:2], [0.5**0.5, 10**0.5])
    np.testing.assert_allclose(state.angle, np.pi / 4 - np.arctan(1 / 3))  # (3, 1) to (1, 1)
