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
    return _cross_entropy(logits, labels)[0]


@cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    logits, labels = primals
    nats, shares = _cross_entropy(logits, labels)
    size = logits.shape[-1]
    places = labels.astype(jnp.int32)  # one_hot counts in the labels' own, perhaps narrow, type
    one_hot = jax.nn.one_hot(jnp.where(places < 0, places + size, places), size, dtype=logits.dtype)
    return nats, jnp.sum((shares - one_hot) * tangents[0], axis=-1)


def _cross_entropy(logits, labels):
    """The loss and softmax(logits)."""
    peak = jnp.max(logits, axis=-1, keepdims=True)
    shifted = logits - jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    exps = jnp.exp(shifted)
    total = jnp.sum(exps, axis=-1, keepdims=True)
    at_label = jnp.take_along_axis(shifted, labels[..., None], axis=-1)
    return (jnp.log(total) - at_label)[..., 0], exps * (1 / total)


def smoothed_cross_entropy(logits: Array, labels: Array, smoothing: float) -> Array:
    """Cross-entropy to (1 - eps) [label] + eps / V, in nats, [...], from logits [..., V].

    Its least value is not 0 but the entropy of that distribution.

    Args:
      logits: [..., V].
      labels: integers, [...].
      smoothing: eps, 0 for `cross_entropy`.

    References: Szegedy et al., 2016, section 7.
    """
    own = cross_entropy(logits, labels)
    if not smoothing:
        return own
    others = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1 - smoothing) * own + smoothing * others


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """-log p(label) in nats for p = sigmoid(logits), [...]; labels 0 or 1, [...]."""
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def squared_error(predictions: Array, targets: Array) -> Array:
    """Squared error summed over the last axis, [...], from two arrays [..., D]."""
    return jnp.sum(jnp.square(predictions - targets), axis=-1)


def gaussian_nll(mean: Array, std: Array, targets: Array) -> Array:
    """-log N(target; mean, std^2) in nats, [...], from three arrays [...]."""
    z = (targets - mean) / std
    return 0.5 * jnp.square(z) + jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi)


def pinball(quantiles: Array, levels: Array, targets: Array) -> Array:
    """Pinball loss of each quantile, [..., Q]: max(tau e, (tau - 1) e) with e = target - quantile.

    Args:
      quantiles: [..., Q].
      levels: tau in 0 .. 1, [Q].
      targets: [...].

    References: Koenker and Bassett, 1978.
    """
    error = targets[..., None] - quantiles
    levels = jnp.broadcast_to(levels, error.shape)
    return jnp.maximum(levels * error, (levels - 1) * error)


def masked_mean(values: Array, mask: Array | None = None) -> Array:
    """Mean over the real entries: values [...], mask [...] bool; 0 where nothing is real.

    What stands at a masked entry, NaN included, touches neither the mean nor its gradient.
    """
    if mask is None:
        return jnp.mean(values)
    real = jnp.where(mask, values, 0.0)
    return jnp.sum(real) / jnp.maximum(jnp.sum(mask), 1)


def label_accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Array:
    """Share of real entries [...] whose largest logit, of [..., V], is the label's."""
    return masked_mean(
        (jnp.argmax(jax.lax.stop_gradient(logits), axis=-1) == labels).astype(logits.dtype), mask
    )
