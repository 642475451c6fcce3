"""dL/dcarry_t at every step, in one backward pass, for any cell in any model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqlab.types import Array, Carry, Output, Params


class Gradients(NamedTuple):
    """What one backward pass gives when the carries are tapped."""

    loss: Array  # scalar
    params: Params
    carries: dict[str, Any]  # recurrence name -> carry with leaves [..., T, H]


def gradients(
    apply: Callable[..., Output],
    loss: Callable[[Output], Array],
    params: Params,
    *inputs: Any,
    **options: Any,
) -> Gradients:
    """The loss, dL/dparams and dL/dcarry_t for all t, from one forward and one backward pass.

    Zeros are added to every carry; the gradient with respect to those zeros is the total derivative

        G_t = (dL/dcarry_t) direct + J_{t+1}^T G_{t+1},      J_t = dcarry_t / dcarry_{t-1}

    the parts of a carry (h and c of an LSTM) taken as independent coordinates.

    Args:
      apply: a `Model.apply` that accepts `taps`.
      loss: Output -> scalar; summed, not averaged, over the batch if each sequence's own gradient
        is wanted.
      params: of the model.
      *inputs: what `apply` takes after `params`.
      **options: what it takes by name.

    Returns:
      Gradients(loss, params, carries). At a masked step the carry's gradient is that of the step
      before it.

    References: Werbos, 1990; Pascanu et al., 2013, eqs. 3-5.
    """

    def output(params, taps):
        return apply(params, *inputs, taps=taps, **options)

    value, (by_params, by_taps) = jax.value_and_grad(
        lambda params, taps: loss(output(params, taps)), argnums=(0, 1)
    )(params, zero_taps(apply, params, *inputs, **options))
    return Gradients(value, by_params, by_taps)


def carry_gradients(
    apply: Callable[..., Output],
    loss: Callable[[Output], Array],
    params: Params,
    *inputs: Any,
    **options: Any,
) -> dict[str, Any]:
    """dL/dcarry_t at every recurrence of a model: name -> carry with leaves [..., T, H].

    The arguments are those of `gradients`, which this is without the parameters' share of the work.

        >>> import jax
        >>> from seqlab import RNN, ManyToOne, carry_gradients, functional
        >>> model = functional(ManyToOne, RNN(4), input_size=3, output_size=1)
        >>> xs = jax.random.normal(jax.random.key(0), (5, 7, 3))
        >>> params = model.init(jax.random.key(1))
        >>> carry_gradients(model.apply, lambda out: out.logits.sum(), params, xs)["rnn"].shape
        (5, 7, 4)
    """

    def output(taps):
        return apply(params, *inputs, taps=taps, **options)

    return jax.grad(lambda taps: loss(output(taps)))(zero_taps(apply, params, *inputs, **options))


def zero_taps(
    apply: Callable[..., Output], params: Params, *inputs: Any, **options: Any
) -> dict[str, Any]:
    """Zeros shaped like the carries of a model: name -> carry with leaves [..., T, H]."""
    shapes = jax.eval_shape(lambda: apply(params, *inputs, **options)).carries
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def log_norm_over_time(carry: Carry) -> Array:
    """Natural log of the norm of all leaves together, [..., T]; -inf only where all are zero."""
    # Scaled by the largest entry: squares leave float32 near 1e-19, long before the gradient does.
    flat = jnp.concatenate(jax.tree.leaves(carry), axis=-1)
    peak = jnp.max(jnp.abs(flat), axis=-1)
    scaled = flat / jnp.where(peak > 0, peak, 1.0)[..., None]
    return jnp.log(peak) + 0.5 * jnp.log(jnp.maximum(jnp.sum(jnp.square(scaled), axis=-1), 1.0))


def named_leaves(carry: Carry) -> dict[str, Array]:
    """The leaves of a carry by name, "h" and "c" of an LSTM; a carry that is one array is "h"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(carry)
    return {jax.tree_util.keystr(path).lstrip(".") or "h": leaf for path, leaf in leaves}
