"""Decompositions side by side, never waiting for each other; products and their derivatives."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.linalg import orthogonal, product, qr, solve

# Each program holds two batches of decompositions that nothing keeps apart; with XLA's own batching
# this hangs within the first few on a machine of two cores.
SIDE_BY_SIDE = """
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 2)
from seqlab.cells.lstm import LSTM
from seqlab.linalg import qr, solve
init = jax.jit(jax.vmap(lambda key: LSTM(48).init(key, 3)))
both = jax.jit(jax.vmap(lambda a, b: (qr(a), qr(b), solve(a, b), solve(b, a))))
for seed in range(60):
    keys = jax.random.split(jax.random.key(seed), 8)
    jax.block_until_ready(init(keys))
    matrices = jax.random.normal(keys[0], (2, 8, 48, 48))
    jax.block_until_ready(both(*matrices))
"""


@pytest.mark.slow
def test_many_at_once_end():
    subprocess.run([sys.executable, "-c", SIDE_BY_SIDE], check=True, timeout=120)


@pytest.mark.usefixtures("x64")
def test_a_batch_is_its_matrices():
    matrices = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 4)))
    basis, upper = jax.vmap(jax.vmap(qr))(matrices)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(basis[i] @ upper[i], matrices[i], atol=1e-14)
        np.testing.assert_allclose(basis[i].T @ basis[i], np.eye(4), atol=1e-14)
        np.testing.assert_allclose(upper[i], qr(matrices[i])[1], atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_a_decomposition_are_those_of_jax():
    matrices = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5, 4)))

    def value(qr):
        return lambda a: sum(jnp.sum(jnp.sin(leaf + 0.1)) for leaf in qr(a))

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        found, expected = (
            jax.vmap(derivative(value(each)))(matrices) for each in (qr, jnp.linalg.qr)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 6), (3, 6), (6, 3)])
def test_orthogonal_matrices_are_those_of_jax(shape):
    seeds = jnp.arange(3)
    found = jax.vmap(lambda seed: orthogonal(jax.random.key(seed), shape, jnp.float64))(seeds)
    small = min(shape)
    for seed, matrix in enumerate(np.asarray(found)):
        gram = matrix @ matrix.T if shape[0] == small else matrix.T @ matrix
        np.testing.assert_allclose(gram, np.eye(small), atol=1e-14)
        theirs = jax.nn.initializers.orthogonal()(jax.random.key(seed), shape, jnp.float64)
        np.testing.assert_array_equal(matrix, theirs)


@pytest.mark.usefixtures("x64")
def test_solutions_and_their_derivatives_are_those_of_jax():
    rng = np.random.default_rng(1)
    matrices, right = (jnp.asarray(rng.normal(size=(3, 4, 4))) for _ in range(2))

    def value(solve):
        return lambda a, b: jnp.sum(jnp.sin(solve(a, b)))

    for derivative in (lambda f: f, lambda f: jax.grad(f, (0, 1)), jax.jacfwd, jax.hessian):
        found, expected = (
            jax.vmap(derivative(value(each)))(matrices, right) for each in (solve, jnp.linalg.solve)
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(3,), (2, 5, 3), (0, 3)])
def test_derivatives_of_a_product_are_those_of_the_plain_one(shape):
    rng = np.random.default_rng(4)
    xs, weights = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(3, 7)))

    def value(product):
        return lambda xs, weights: jnp.sum(jnp.sin(product(xs, weights)))

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        found, expected = (
            derivative(value(each), argnums=(0, 1))(xs, weights) for each in (product, jnp.matmul)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), found, expected)
    many = jnp.stack([weights, -weights])
    by_net = jax.vmap(jax.grad(value(product), argnums=1), in_axes=(None, 0))(xs, many)
    for found, one in zip(by_net, many, strict=True):
        expected = jax.grad(value(jnp.matmul), argnums=1)(xs, one)
        np.testing.assert_allclose(found, expected, atol=1e-13)
