"""Losses, one number per example or step, and their mean over what is real."""

import jax
import jax.numpy as jnp
import optax

from seqlab.types import Array


@jax.custom_jvp
def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label] in nats, [...], from logits [..., V] and integer labels [...].

    Its derivative, softmax(logits) less one at the label, is one pass over the logits; the chain
    rule through the label's own logit would be a second one and a scattered write.
    """
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - at_label


@cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    logits, labels = primals
    total = jax.nn.logsumexp(logits, axis=-1)
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    slope = jnp.exp(logits - total[..., None]) - one_hot
    return total - at_label, jnp.sum(slope * tangents[0], axis=-1)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """-log p(label) in nats for p = sigmoid(logits), [...]; labels 0 or 1, [...]."""
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def squared_error(predictions: Array, targets: Array) -> Array:
    """Squared error summed over the last axis, [...], from two arrays [..., D]."""
    return jnp.sum(jnp.square(predictions - targets), axis=-1)


def masked_mean(values: Array, mask: Array | None = None) -> Array:
    """Mean over the real entries: values [...], mask [...] bool; 0 where nothing is real.

    What stands at a masked entry, NaN included, touches neither the mean nor its gradient.
    """
    if mask is None:
        return jnp.mean(values)
    real = jnp.where(mask, values, 0.0)
    return jnp.sum(real) / jnp.maximum(jnp.sum(mask), 1)


def label_accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Array:
    """Share of real entries whose largest logit is the label's."""
    return masked_mean(
        (jnp.argmax(jax.lax.stop_gradient(logits), axis=-1) == labels).astype(logits.dtype), mask
    )
