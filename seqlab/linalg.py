"""Matrix functions that XLA would do badly, or not at all, if left to itself.

Decompositions cannot wait for each other: under `vmap` they are taken one after the other. XLA's
own batch of them on a processor shares itself out over the processor's threads and waits for these:
of two such batches at once, as the gates of nets drawn side by side have, each can hold the thread
that the other waits for, for ever (seen with jaxlib 0.10.2 on two cores).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from seqlab.types import Array


def product(xs: Array, weights: Array) -> Array:
    """xs [..., I] times weights [I, O], [..., O]; for an O much larger than I.

    The gradient of `weights` is taken from a transposed copy of xs. On a processor XLA by itself
    transposes and copies the far larger adjoint: a tenth of the time of a head of 10,000 logits.
    """
    *leading, size = xs.shape
    rows = xs.reshape(math.prod(leading), size)
    return _product(rows, weights).reshape(*leading, weights.shape[-1])


@jax.custom_jvp
def _product(rows, weights):
    return rows @ weights


@_product.defjvp
def _product_jvp(primals, tangents):
    rows, weights = primals
    columns = jax.lax.optimization_barrier(rows.T)
    by_weights = jax.lax.dot_general(columns, tangents[1], (((0,), (0,)), ((), ())))
    return _product(rows, weights), tangents[0] @ weights + by_weights


@partial(jax.jit, static_argnames=("shape", "dtype"))
def orthogonal(key: Array, shape: tuple[int, int], dtype: jnp.dtype) -> Array:
    """A Haar-distributed matrix [M, N] with orthonormal rows or columns, whichever are fewer."""

    @jax.custom_batching.sequential_vmap
    def draw(key):
        return jax.nn.initializers.orthogonal()(key, shape, dtype)

    return draw(key)


@jax.custom_jvp
def qr(matrix: Array) -> tuple[Array, Array]:
    """Q [M, N] and R [N, N] of a matrix [M, N] with M >= N; has derivatives of any order.

        dQ = Q (Omega - Q^T A) + A    dR = (Q^T A - Omega) R    A = dM R^-1

    with Omega antisymmetric and equal to Q^T A below the diagonal.

    References: Walter and Lehmann, 2018 (derivatives of the QR decomposition).
    """
    return _qr(matrix)


@qr.defjvp
def _qr_jvp(primals, tangents):
    (matrix,), (change,) = primals, tangents
    basis, upper = qr(matrix)
    moved = solve(upper.T, change.T).T
    inner = basis.T @ moved
    low = jnp.tril(inner, -1)
    turn = low - low.T
    return (basis, upper), (basis @ (turn - inner) + moved, (inner - turn) @ upper)


@jax.custom_batching.sequential_vmap
def _qr(matrix):
    basis, upper = jnp.linalg.qr(matrix)
    return basis, upper


def solve(matrix: Array, right: Array) -> Array:
    """X [N, K] with `matrix` X = `right`, [N, N] and [N, K]; has derivatives of any order."""
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x,
        right,
        solve=lambda _, right: _solve(matrix, right),
        transpose_solve=lambda _, right: _solve(matrix.T, right),
    )


@jax.custom_batching.sequential_vmap
def _solve(matrix, right):
    return jnp.linalg.solve(matrix, right)
