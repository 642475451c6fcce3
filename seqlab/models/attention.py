"""Attention: scores over steps, and the softmax over those of them that are real."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from seqlab.cells.affine import init_matrix, project
from seqlab.errors import InputError
from seqlab.models.layers import check_known, linear
from seqlab.types import Array, Params

SCORES = ("additive", "dot")
KINDS = ("additive", "concat", "dot", "general", "location", "local-p")


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

    Raises:
      InputError: unknown scores.

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


@dataclass(frozen=True)
class Attention:
    """How queries s [..., Q, H] weigh the steps h_j of a memory [..., S, M].

        a_j = softmax over real j of e_j
        additive, concat   e_j = v . tanh(W_q s + W_m h_j)
        dot                e_j = s . h_j                        (H = M)
        general            e_j = W_q s . h_j
        location           e_j = (W_q s)_j                      (j < `max_steps`)
        local-p            e_j = W_q s . h_j - (j - p)^2 / (2 sigma^2),
                           p = S_real sigmoid(v . tanh(W_p s)),    sigma = `window` / 2

    "additive" is Bahdanau's and "concat" Luong's, whose matrix of [s; h_j] is W_q beside W_m: the
    same function. Of "local-p" Luong et al. multiply the softmax of a window of 2 `window` + 1
    steps by the Gaussian, and their weights do not add up to 1; here the Gaussian is inside the
    softmax, over all real steps. j counts from 0, S_real is the number of real steps.

    Attributes:
      kind: one of `KINDS`.
      size: width A of additive, concat and of local-p's W_p; None for that of the query.
      max_steps: of location, the longest memory.
      window: D of local-p, steps.

    Raises:
      InputError: an unknown kind, or a size, number of steps or window not above 0.

    References: Bahdanau et al., 2015, section A.1.2; Luong et al., 2015, equations 7 to 10.
    """

    kind: str = "additive"
    size: int | None = None
    max_steps: int = 64
    window: float = 10.0

    def __post_init__(self):
        check_known("attention", self.kind, KINDS)
        for field in ("size", "max_steps", "window"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise InputError(f"Attention({field}={value!r}): expected more than 0")

    def init(self, key: Array, query_size: int, memory_size: int) -> Params:
        """Fresh parameters, by the names of the equations; none of "dot".

        Raises:
          InputError: "dot" of sizes that differ.
        """
        keys = iter(jax.random.split(key, 3))
        width = self.size or query_size

        def matrix(*shape):
            return init_matrix(next(keys), shape, "gaussian").astype(jnp.result_type(float))

        if self.kind in ("additive", "concat"):
            return {
                "W_q": matrix(query_size, width),
                "W_m": matrix(memory_size, width),
                "v": matrix(width, 1)[:, 0],
            }
        if self.kind == "general":
            return {"W_q": matrix(query_size, memory_size)}
        if self.kind == "location":
            return {"W_q": matrix(query_size, self.max_steps)}
        if self.kind == "local-p":
            return {
                "W_q": matrix(query_size, memory_size),
                "W_p": matrix(query_size, width),
                "v": matrix(width, 1)[:, 0],
            }
        if query_size != memory_size:
            raise InputError(
                f"attention 'dot' multiplies queries of {query_size} with a memory of "
                f"{memory_size} features, which must be as many: use 'general'"
            )
        return {}

    def keys(self, params: Params, memory: Array) -> Array:
        """What queries are held against, computed once for a memory: [..., S, A] or the memory.

        Raises:
          InputError: "location" and a memory of more than `max_steps` steps.
        """
        if self.kind in ("additive", "concat"):
            return project(memory, params["W_m"], "memory")
        if self.kind == "location" and memory.shape[-2] > self.max_steps:
            raise InputError(
                f"attention 'location' has weights for {self.max_steps} steps, the memory has "
                f"{memory.shape[-2]}: raise max_steps"
            )
        return memory

    def weights(
        self, params: Params, queries: Array, keys: Array, mask: Array | None = None
    ) -> Array:
        """Weights [..., Q, S] of queries [..., Q, H] over keys [..., S, A].

        Args:
          params: of `init`.
          queries: s.
          keys: of `keys`.
          mask: [..., S] bool, True where real; all where None.

        Returns:
          Weights of sum 1 over real steps, exactly 0 elsewhere and where no step is real.
        """
        scores = self._scores(params, queries, keys, mask)
        return masked_softmax(
            scores, None if mask is None else jnp.broadcast_to(mask[..., None, :], scores.shape)
        )

    def _scores(self, params, queries, keys, mask):
        if self.kind == "location":
            return project(queries, params["W_q"], "queries")[..., : keys.shape[-2]]
        if self.kind in ("additive", "concat"):
            own = project(queries, params["W_q"], "queries")
            return jnp.tanh(own[..., :, None, :] + keys[..., None, :, :]) @ params["v"]
        own = queries if self.kind == "dot" else project(queries, params["W_q"], "queries")
        scores = jnp.einsum("...qm,...sm->...qs", own, keys)
        if self.kind != "local-p":
            return scores
        steps = jnp.arange(keys.shape[-2], dtype=scores.dtype)
        num_real = keys.shape[-2] if mask is None else jnp.sum(mask, axis=-1)[..., None]
        share = jax.nn.sigmoid(jnp.tanh(project(queries, params["W_p"], "queries")) @ params["v"])
        away = jnp.broadcast_to(steps, scores.shape) - (num_real * share)[..., None]
        return scores - jnp.square(away) / (2 * (self.window / 2) ** 2)


def attended(weights: Array, memory: Array) -> Array:
    """Contexts sum_j a_j h_j, [..., Q, M], from weights [..., Q, S] and a memory [..., S, M]."""
    return jnp.einsum("...qs,...sm->...qm", weights, memory)
