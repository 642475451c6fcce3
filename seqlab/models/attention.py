"""Attention: scores over steps, and the softmax over those of them that are real."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqlab.models.layers import check_known, linear
from seqlab.types import Array

SCORES = ("additive", "dot")


def masked_softmax(scores: Array, mask: Array | None) -> Array:
    """Softmax over the real entries of the last axis, exactly 0 at the others.

    A row without a real entry is all zeros. What stands at a masked entry, NaN included, touches
    neither the values nor the gradient.

    Args:
      scores: [..., T].
      mask: [..., T] bool, True where real; None for all of them.
    """
    if mask is None:
        return jax.nn.softmax(scores)
    is_open = mask | ~jnp.any(mask, axis=-1, keepdims=True)  # no softmax over nothing
    weights = jax.nn.softmax(jnp.where(is_open, jnp.where(mask, scores, 0.0), -jnp.inf))
    return jnp.where(mask, weights, 0.0)


class AttentionPooling(nnx.Module):
    """Mean of the steps of a sequence by learnt weights: [..., T, H] -> [..., H].

        a_t = softmax over real t of s_t,    pooled = sum_t a_t h_t
        additive: s_t = tanh(h_t W + b) q,   dot: s_t = h_t q

    Args (of the class):
      size: H.
      scores: "additive" or "dot".

    References: Yang et al., 2016, equations 5 to 7 (additive, with q their context vector u_w).
    """

    def __init__(self, size: int, *, scores: str = "additive", rngs: nnx.Rngs):
        check_known("scores", scores, SCORES)
        self.is_additive = scores == "additive"
        if self.is_additive:
            self.reading = linear(size, size, rngs)
        dtype = jnp.result_type(float)
        self.query = nnx.Param(size**-0.5 * jax.random.normal(rngs.params(), (size,), dtype))

    def __call__(self, ys: Array, mask: Array | None) -> tuple[Array, Array]:
        """(pooled [..., H], weights [..., T]); both zero for a row without a real step."""
        read = jnp.tanh(self.reading(ys)) if self.is_additive else ys
        weights = masked_softmax(read @ self.query[...], mask)
        return jnp.einsum("...t,...th->...h", weights, ys), weights
