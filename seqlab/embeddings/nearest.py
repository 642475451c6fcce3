"""Nearest vectors by cosine, many at a time: one compiled matrix product and `top_k`.

Shapes are rounded up to powers of two before they are compiled, so that a new number of queries,
of neighbours or of searched rows seldom compiles anew.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.types import Array

BLOCK_SCORES = 1 << 26  # at most so many cosines are in memory at once, 256 MiB in float32
BLOCK_QUERIES = 1 << 12
UNIT_ROWS = 1 << 16  # rows brought to unit length at a time


class Neighbours(NamedTuple):
    """The nearest rows of each query, nearest first; of equals the first row comes first.

    Where fewer rows are left than were asked for, the index is -1 and the score -inf.
    """

    indices: np.ndarray  # int32 [N, K]
    scores: np.ndarray  # [N, K]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] at unit length, in their own dtype if it is real; zeros stay zeros."""
    vectors = np.asarray(vectors)
    vectors = vectors.astype(np.result_type(vectors.dtype, np.float32), copy=False)
    flat = vectors.reshape(-1, vectors.shape[-1])
    units = np.empty_like(flat)
    for start in range(0, len(flat), UNIT_ROWS):
        rows = flat[start : start + UNIT_ROWS]
        # Scaled by the largest entry first: squares overflow, or vanish, where the entries do not.
        peak = np.max(np.abs(rows), axis=-1, keepdims=True)
        scaled = rows / np.where(peak > 0, peak, 1)
        norm = np.linalg.norm(scaled, axis=-1, keepdims=True)
        units[start : start + UNIT_ROWS] = scaled / np.where(norm > 0, norm, 1)
    return units.reshape(vectors.shape)


def nearest(
    units: Array,
    queries: np.ndarray,
    topn: int,
    *,
    exclude: np.ndarray | None = None,
    limit: int | None = None,
) -> Neighbours:
    """The `topn` rows of greatest cosine with each query.

    Args:
      units: [V, D], rows of unit length or zero, on the device that is to search.
      queries: [N, D], of any length; a zero query has cosine 0 with every row.
      topn: K, 1 or more; no more rows than are searched are given.
      exclude: None, or [N, E], rows that are no answer to a query; -1 is none.
      limit: None, or how many of the first rows are searched.
    """
    queries = unit(queries)
    limit = len(units) if limit is None else min(limit, len(units))
    topn = min(topn, limit)
    if exclude is None:
        exclude = np.empty((len(queries), 0), np.int32)
    exclude = _padded(exclude.astype(np.int32), axis=1)
    rows, found = _rows(units, limit), []
    size = 1 << max(1, min(BLOCK_SCORES // rows, BLOCK_QUERIES)).bit_length() - 1
    for start in range(0, len(queries), size):
        block, out = queries[start : start + size], exclude[start : start + size]
        best = _nearest(
            units,
            _padded(block),
            _padded(out),
            None if limit == rows else np.int32(limit),
            rows=rows,
            topn=_power_of_two(topn),
        )
        found.append(_read(best, len(block), topn))
    indices, scores = zip(*found, strict=True) if found else ([], [])
    empty = np.empty((0, topn))
    return Neighbours(
        np.concatenate([empty.astype(np.int32), *indices]),
        np.concatenate([empty.astype(units.dtype), *scores]),
    )


def nearest_by_product(
    units: Array,
    terms: np.ndarray,
    signs: np.ndarray,
    topn: int,
    *,
    exclude: np.ndarray,
    limit: int | None = None,
) -> Neighbours:
    """The `topn` rows of greatest product of similarities, for one question; see `products`.

    Args:
      units: [V, D], rows of unit length or zero.
      terms: [M, D], of any length.
      signs: [M], 1 or -1.
      topn: K.
      exclude: [E], rows that are no answer.
      limit: None, or how many of the first rows are searched.
    """
    limit = len(units) if limit is None else min(limit, len(units))
    topn = min(topn, limit)
    best = _nearest_by_product(
        units,
        *_terms(terms, signs),
        _padded(exclude.astype(np.int32)[None], axis=1),
        np.int32(limit),
        rows=_rows(units, limit),
        topn=_power_of_two(topn),
    )
    return Neighbours(*_read(best, 1, topn))


def cosines(units: Array, queries: np.ndarray, limit: int | None = None) -> np.ndarray:
    """Cosine of every query [N, D] with every row, or the first `limit` rows, [N, V]."""
    scores = _cosines(units, _padded(unit(queries)), rows=_rows(units, limit or len(units)))
    return np.asarray(scores)[: len(queries), :limit]


def products(
    units: Array, terms: np.ndarray, signs: np.ndarray, limit: int | None = None
) -> np.ndarray:
    """3CosMul of every row, or the first `limit` rows, for one question, [V].

        prod_{+} (1 + cos(v, t)) / 2  /  (prod_{-} (1 + cos(v, t)) / 2 + 1e-6)

    Args:
      units: [V, D], rows of unit length or zero.
      terms: [M, D], of any length.
      signs: [M], 1 above the line, -1 below.
      limit: None, or how many.

    References: Levy and Goldberg, 2014, equation 4.
    """
    scores = _products(units, *_terms(terms, signs), rows=_rows(units, limit or len(units)))
    return np.asarray(scores)[:limit]


def neighbour_overlap(
    many_vectors: np.ndarray, topn: int = 10, words: np.ndarray | None = None
) -> np.ndarray:
    """Share of a word's `topn` neighbours that two trainings have in common, [P, W].

    Pairs of trainings are in the order (0, 1), (0, 2) .. (1, 2) .., P = N (N - 1) / 2. The mean
    over words is the overlap of a pair; independent vectors give topn / (V - 1).

    Args:
      many_vectors: [N, V, D], N >= 2 trainings (seeds) over the same words.
      topn: neighbours looked at, the word itself left out; below V.
      words: [W], which rows to look at; all if None.

    Raises:
      ValueError: other shapes, or fewer than `topn` neighbours to be had.
    """
    many_vectors = np.asarray(many_vectors)
    if many_vectors.ndim != 3 or len(many_vectors) < 2:
        raise ValueError(
            f"many_vectors must be [N, V, D] with N of 2 or more, got {list(many_vectors.shape)}"
        )
    num_words = many_vectors.shape[1]
    if not 1 <= topn < num_words:
        raise ValueError(f"topn must be 1 .. {num_words - 1} of {num_words} words, got {topn}")
    words = np.arange(num_words) if words is None else np.asarray(words)
    sets = []
    for vectors in many_vectors:
        units = unit(vectors)
        found = nearest(jnp.asarray(units), units[words], topn, exclude=words[:, None])
        sets.append(found.indices)
    first, second = np.triu_indices(len(sets), k=1)
    shared = [
        np.sum(sets[i][:, :, None] == sets[j][:, None, :], axis=(1, 2))
        for i, j in zip(first, second, strict=True)
    ]
    return np.stack(shared) / topn


@partial(jax.jit, static_argnames="rows")
def _cosines(units, queries, *, rows):
    # HIGHEST: on accelerators float32 would otherwise be multiplied in fewer digits.
    return jnp.matmul(queries, units[:rows].T, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames="rows")
def _products(units, terms, signs, *, rows):
    shifted = (1 + _cosines(units, terms, rows=rows)) / 2

    def product(sign):
        return jnp.prod(jnp.where((signs == sign)[:, None], shifted, 1.0), axis=0)

    return product(1) / (product(-1) + 1e-6)


@partial(jax.jit, static_argnames=("rows", "topn"))
def _nearest(units, queries, exclude, limit, *, rows, topn):
    return _best(_cosines(units, queries, rows=rows), exclude, limit, topn)


@partial(jax.jit, static_argnames=("rows", "topn"))
def _nearest_by_product(units, terms, signs, exclude, limit, *, rows, topn):
    return _best(_products(units, terms, signs, rows=rows)[None], exclude, limit, topn)


def _best(scores, exclude, limit, topn):
    """(indices, scores) of the greatest scores [N, rows] of rows that may be an answer."""
    rows = scores.shape[-1]
    if limit is not None:
        scores = jnp.where(jnp.arange(rows)[None] < limit, scores, -jnp.inf)
    # As many more as may have to be left out: cheaper than to strike them out of all the scores.
    found, indices = jax.lax.top_k(scores, min(topn + exclude.shape[-1], rows))
    is_out = jnp.any(indices[:, :, None] == exclude[:, None, :], axis=-1)
    found, places = jax.lax.top_k(jnp.where(is_out, -jnp.inf, found), min(topn, rows))
    return jnp.take_along_axis(indices, places, axis=-1), found


def _read(best, num_queries, topn):
    indices, scores = (np.asarray(part)[:num_queries, :topn] for part in best)
    return np.where(np.isneginf(scores), -1, indices), scores


def _terms(terms, signs):
    """Unit terms and their signs, as many as a power of two; the sign of one too many is 0."""
    return _padded(unit(terms)), _padded(signs.astype(np.int32), fill=0)


def _rows(units, limit):
    """How many rows a compiled search goes over."""
    return min(_power_of_two(limit), len(units))


def _power_of_two(size):
    """The least power of two that is `size` or more."""
    return 1 << max(0, size - 1).bit_length()


def _padded(array, axis=0, fill=-1):
    """The array with one axis lengthened to a power of two."""
    width = [(0, 0)] * array.ndim
    width[axis] = (0, _power_of_two(array.shape[axis]) - array.shape[axis])
    return np.pad(array, width, constant_values=fill)
