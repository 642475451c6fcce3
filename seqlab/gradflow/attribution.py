"""Which tokens an answer rests on: one number a token, for any model that embeds them.

    score = log_odds(labels)
    found = integrated_gradients(model.apply, score, params, xs, mask)    # [B, T]

A score is a function of an `Output`, one number a sequence. Everything here is pure: jit it.
Padding gets exactly 0. The gradients are taken at the tokens' vectors, which the models read in the
tokens' place: real numbers [..., T, D] where integers [..., T] are expected.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.types import Array, Output, Params

Score = Callable[[Output], Array]  # -> one number a sequence, [...]
TABLES = ("embed",)  # where our models keep their embedding


def log_odds(labels: Array | int) -> Score:
    """The score log p / (1 - p) of a class: logit_k - log sum over j != k of exp logit_j.

    Unlike the logit alone it does not change when all logits do; of two classes it is the
    difference of their logits, of a single sigmoid the logit itself, or less it for label 0.

    Args:
      labels: the class of each sequence, [...], or one for all. To attribute a prediction, take it
        once and give it here.
    """

    def score(output: Output) -> Array:
        logits = output.logits
        classes = jnp.broadcast_to(jnp.asarray(labels), logits.shape[:-1])
        if logits.shape[-1] == 1:
            return jnp.where(classes == 1, logits[..., 0], -logits[..., 0])
        is_own = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
        own = jnp.sum(jnp.where(is_own, logits, 0.0), axis=-1)
        return own - jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, logits), axis=-1)

    return score


def token_vectors(params: Params, xs: Array, tables: Sequence[str] = TABLES) -> Array:
    """What a model reads in place of tokens [..., T], [..., T, D]; real xs as they are.

    Args:
      params: with an "embedding" [V, D] at each of the tables.
      xs: tokens, or vectors.
      tables: names of the tables, whose rows stand side by side; ("embed", "static") of a `TextCNN`
        of two channels.
    """
    if jnp.issubdtype(jnp.result_type(xs), jnp.inexact):
        return jnp.asarray(xs)
    return jnp.concatenate([params[name]["embedding"][xs] for name in tables], axis=-1)


def gradient_times_input(
    apply: Callable[..., Output],
    score: Score,
    params: Params,
    xs: Array,
    mask: Array | None = None,
    *,
    baseline: Array | None = None,
    tables: Sequence[str] = TABLES,
    **options: Any,
) -> Array:
    """(e_t - b) . dscore/de_t of every token, [..., T]; one forward and one backward pass.

    Args:
      apply: a `Model.apply` that reads (params, xs, mask).
      score: Output -> one number a sequence, such as `log_odds(labels)`.
      params: of the model.
      xs: tokens [..., T], or vectors [..., T, D].
      mask: [..., T] bool, True where real; None for all of them.
      baseline: b, vectors that say nothing, [D] or [..., T, D]; None for zeros.
      tables: see `token_vectors`.
      **options: what `apply` takes by name.

    Raises:
      ValueError: a score that is not one number a sequence.

    References: Shrikumar et al., 2017; Ancona et al., 2018 (linear models, where all methods here
    agree).
    """
    es = token_vectors(params, xs, tables)
    start = _start(es, baseline)
    slope = _slope(apply, score, params, es, mask, options)
    return _real(jnp.sum((es - start) * slope, axis=-1), mask)


def integrated_gradients(
    apply: Callable[..., Output],
    score: Score,
    params: Params,
    xs: Array,
    mask: Array | None = None,
    *,
    baseline: Array | None = None,
    num_points: int = 32,
    tables: Sequence[str] = TABLES,
    **options: Any,
) -> Array:
    """Share of every token in score(e) - score(b), [..., T].

        a_t = (e_t - b) . integral over alpha from 0 to 1 of dscore/de_t at b + alpha (e - b)

    They add up to the difference of the scores (completeness), but for the quadrature, which is
    Gauss and Legendre's: `completeness_gap` tells how far. Smooth models need few points; of the
    kinks of ReLU and maxima an error of the order 1 / `num_points` is left.

    Args:
      apply, score, params, xs, mask, tables, **options: see `gradient_times_input`.
      baseline: b, where the way begins, [D] or [..., T, D]; None for zeros.
      num_points: forward and backward passes, one after the other.

    Raises:
      ValueError: no points, or a score that is not one number a sequence.

    References: Sundararajan et al., 2017, equation 1 and proposition 1.
    """
    if num_points < 1:
        raise ValueError(f"integrated_gradients: num_points={num_points}, expected 1 or more")
    es = token_vectors(params, xs, tables)
    start = _start(es, baseline)
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    points = jnp.asarray(0.5 * (nodes + 1.0), es.dtype), jnp.asarray(0.5 * weights, es.dtype)

    def add(total, point):
        alpha, weight = point
        slope = _slope(apply, score, params, start + alpha * (es - start), mask, options)
        return total + weight * slope, None

    mean_slope, _ = jax.lax.scan(add, jnp.zeros_like(es), points)
    return _real(jnp.sum((es - start) * mean_slope, axis=-1), mask)


def completeness_gap(
    apply: Callable[..., Output],
    score: Score,
    params: Params,
    xs: Array,
    mask: Array | None,
    attributions: Array,
    *,
    baseline: Array | None = None,
    tables: Sequence[str] = TABLES,
    **options: Any,
) -> Array:
    """What attributions leave unexplained: score(e) - score(b) - sum_t a_t, [...].

    The arguments are those of `integrated_gradients`, and its result [..., T] or another's.

    Raises:
      ValueError: a score that is not one number a sequence.
    """
    es = token_vectors(params, xs, tables)
    ends = [
        _scored(apply, score, params, each, mask, options) for each in (es, _start(es, baseline))
    ]
    return ends[0] - ends[1] - jnp.sum(attributions, axis=-1)


def leave_one_out(
    apply: Callable[..., Output],
    score: Score,
    params: Params,
    xs: Array,
    mask: Array | None = None,
    **options: Any,
) -> Array:
    """How much the score falls when a token is taken out, [..., T]: score(x) - score(x without t).

    The token is masked; our models then read what is left as if it had never been there, closed up.
    T + 1 forward passes, one after the other, each of the whole batch.

    Args:
      apply, score, params, xs, mask, **options: see `gradient_times_input`.

    Raises:
      ValueError: a score that is not one number a sequence.

    References: Li et al., 2016 (erasure; theirs is relative to the score).
    """
    xs = jnp.asarray(xs)
    shape = xs.shape[:-1] if jnp.issubdtype(xs.dtype, jnp.inexact) else xs.shape
    mask = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
    places = jnp.arange(shape[-1])

    def without(place):
        rest = mask & jnp.broadcast_to(places != place, mask.shape)
        return _scored(apply, score, params, xs, rest, options)

    whole = _scored(apply, score, params, xs, mask, options)
    left = jnp.moveaxis(jax.lax.map(without, places), 0, -1)
    return _real(whole[..., None] - left, mask)


def _scored(apply, score, params, xs, mask, options):
    value = score(apply(params, xs, mask, **options))
    is_vectors = jnp.issubdtype(xs.dtype, jnp.inexact)
    shape = xs.shape[: -2 if is_vectors else -1]
    if value.shape != shape:
        raise ValueError(f"a score of shape {value.shape}, expected one number a sequence, {shape}")
    return value


def _slope(apply, score, params, es, mask, options):
    """dscore/de of every row, [..., T, D]: no row's score reads another row."""
    return jax.grad(lambda es: jnp.sum(_scored(apply, score, params, es, mask, options)))(es)


def _start(es, baseline):
    if baseline is None:
        return jnp.zeros_like(es)
    return jnp.broadcast_to(jnp.asarray(baseline, es.dtype), es.shape)


def _real(values, mask):
    return values if mask is None else jnp.where(mask, values, 0.0)
