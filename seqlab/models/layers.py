"""What the models share: embeddings, dropout, pooling over real steps, heads."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqlab.errors import InputError
from seqlab.recurrence import dropout_mask
from seqlab.types import Array

HEADS = {"linear": lambda logits: logits, "sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax}


def embed(table: nnx.Embed, xs: Array) -> Array:
    """Rows [..., T, D] of a table for tokens [..., T]; real numbers [..., T, D] as they are.

    A model that reads tokens can thus be given their vectors instead, whatever was done to these;
    see `gradflow.attribution`.
    """
    if jnp.issubdtype(jnp.result_type(xs), jnp.inexact):
        return xs
    with jax.named_scope("embed"):
        return table(xs)


def dropped(xs: Array, rate: float, key: Array | None, *, per_sequence: bool = False) -> Array:
    """xs [..., T, D] with each entry dropped by `rate`, what is kept divided by 1 - `rate`.

    Args:
      xs: rows of a batch first; [..., D] unless `per_sequence`.
      rate: probability below 1; 0 drops nothing.
      key: of the mask; None drops nothing (evaluation).
      per_sequence: one mask for all steps of a sequence.
    """
    if not rate or key is None:
        return xs
    shape = (*xs.shape[:-2], 1, xs.shape[-1]) if per_sequence else xs.shape
    return xs * dropout_mask(key, rate, shape, xs.dtype)


def pool(ys: Array, mask: Array | None, kind: str) -> Array:
    """Mean or maximum over real steps, ys [..., T, H] -> [..., H]; zeros where none is real."""
    if mask is None:
        return jnp.mean(ys, axis=-2) if kind == "mean" else jnp.max(ys, axis=-2)
    real = mask[..., None]
    if kind == "mean":
        return jnp.sum(jnp.where(real, ys, 0.0), axis=-2) / jnp.maximum(jnp.sum(real, axis=-2), 1)
    top = jnp.max(jnp.where(real, ys, -jnp.inf), axis=-2)
    return jnp.where(jnp.any(real, axis=-2), top, 0.0)


def linear(input_size: int, output_size: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer in the precision that is asked for."""
    return nnx.Linear(input_size, output_size, param_dtype=jnp.result_type(float), rngs=rngs)


def check_known(field, value, known) -> None:
    """Raises `InputError` naming what `field` may be."""
    if value not in known:
        raise InputError(f"{field}={value!r}: expected one of {', '.join(known)}")


def check_rate(field: str, rate: float) -> None:
    """Raises `InputError` unless `rate` is a probability below 1."""
    if not 0.0 <= rate < 1.0:
        raise InputError(f"{field}={rate}: expected a probability below 1")
