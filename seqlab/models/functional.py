"""From a Flax module to a pair of pure functions over a plain dict."""

from collections.abc import Callable

from flax import nnx

from seqlab.description import call_text
from seqlab.types import Model


def functional(
    module: Callable[..., nnx.Module], *args, method: str = "__call__", **kwargs
) -> Model:
    """Pure `init` and `apply` for `module(*args, **kwargs)`.

    Only `jax.jit`, `grad`, `vmap` and `scan` are then needed; the transforms of Flax are not.

        >>> import jax
        >>> from seqlab import GRU, ManyToOne, functional
        >>> model = functional(ManyToOne, GRU(4), input_size=3, output_size=2)
        >>> model
        ManyToOne(GRU(hidden_size=4), input_size=3, output_size=2)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jax.random.normal(jax.random.key(1), (5, 7, 3))).logits.shape
        (5, 2)

    Args:
      module: a module class whose `__init__` takes `rngs`.
      *args: what it takes before that.
      method: which of its methods `apply` calls.
      **kwargs: likewise, by name.

    Returns:
      Model: `init(key)` gives a nested dict of arrays and may be jitted, or vmapped over keys;
      `apply(params, *inputs, **options)` calls the module, or `method`, with those parameters.
    """

    def build(seed):
        return module(*args, **kwargs, rngs=nnx.Rngs(seed))

    structure = nnx.graphdef(nnx.eval_shape(lambda: build(0)))  # no arrays are made

    def init(key):
        return nnx.to_pure_dict(nnx.state(build(key)))

    def apply(params, *inputs, **options):
        return getattr(nnx.merge(structure, params), method)(*inputs, **options)

    return Model(init, apply, call_text(module, args, kwargs))
