"""Word vectors as the embedding of a model, frozen or trained on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.errors import InputError
from seqlab.types import Array, Model, Params

MODES = ("random", "static", "non-static", "multichannel")


def with_embedding(params: Params, matrix: np.ndarray | Array, path: str = "embed") -> Params:
    """A model's parameters with its embedding replaced.

    Args:
      params: a nested dict, as `Model.init` gives it.
      matrix: [V, D], one row for each id; see `Vectors.matrix`.
      path: where the embedding is, names joined by dots, "embed" in `ManyToOne`.

    Raises:
      InputError: no embedding there, or one of another shape.
    """
    *parents, name = path.split(".")
    holders = [params]
    for parent in parents:
        holders.append(_entry(holders[-1], parent, params, path))
    old = _entry(_entry(holders[-1], name, params, path), "embedding", params, path)
    if old.shape != matrix.shape:
        raise InputError(
            f"the model's embedding is {list(old.shape)}, the matrix {list(matrix.shape)}: "
            "vocab_size and input_size must be those of the matrix"
        )
    new = {**holders[-1][name], "embedding": jnp.asarray(matrix, old.dtype)}
    for holder, entry in zip(reversed(holders), reversed([*parents, name]), strict=True):
        new = {**holder, entry: new}
    return new


def with_vectors(
    model: Model,
    optimizer: optax.GradientTransformation,
    mode: str,
    matrix: np.ndarray | Array | None = None,
) -> tuple[Model, optax.GradientTransformation]:
    """A model that begins with word vectors, and the optimiser that trains them or does not.

    * "random": both as they are;
    * "static": the embedding begins as `matrix` and stays so;
    * "non-static": it begins as `matrix` and is trained;
    * "multichannel": of the two tables of a `TextCNN(multichannel=True)` both begin as `matrix`,
      "static" stays so and "embed" is trained.

    Args:
      model: with its embedding at "embed", as all our models that read tokens.
      optimizer: of all parameters; what holds weights in bounds, such as `max_norm`, included.
      mode: one of the four.
      matrix: [V, D], one row for each id, see `Vectors.matrix`; None for "random".

    Raises:
      InputError: an unknown mode, a matrix too many or none; and, as soon as parameters are made,
        an embedding that is not there or of another shape.

    References: Kim, 2014, "Model Variations".
    """
    if mode not in MODES:
        raise InputError(f"embedding mode {mode!r}: expected one of {', '.join(MODES)}")
    if (matrix is None) != (mode == "random"):
        given = "needs a matrix of vectors" if matrix is None else "reads no vectors"
        raise InputError(f"embedding mode {mode!r} {given}")
    if matrix is None:
        return model, optimizer
    paths = ("embed", "static") if mode == "multichannel" else ("embed",)

    def init(key):
        params = model.init(key)
        for path in paths:
            params = with_embedding(params, matrix, path)
        return params

    begun = model._replace(init=init)
    return (begun, optimizer) if mode == "non-static" else frozen(begun, optimizer, paths[-1])


def _entry(tree: Any, name: str, params: Params, path: str) -> Any:
    if not isinstance(tree, dict) or name not in tree:
        raise InputError(
            f"the model has no embedding {path!r}, at the top there is {', '.join(params)}; "
            "one that reads tokens is made with vocab_size"
        )
    return tree[name]


def frozen(
    model: Model, optimizer: optax.GradientTransformation, *paths: str
) -> tuple[Model, optax.GradientTransformation]:
    """A model and an optimiser that leave some parameters as they are.

    The model gives them no gradient, so that the others are clipped by their own norm alone; the
    optimiser keeps no state for them and does not move them, whatever it adds to gradients, such as
    weight decay.

    Args:
      model: what is trained.
      optimizer: with what.
      *paths: of the frozen parts, names joined by dots: "embed", "rnn.weights".

    Raises:
      InputError: when parameters are there to be looked at, a path that leads to none of them.
    """

    def labels(params: Params) -> Params:
        seen = set()

        def label(keys: Any, _: Array) -> str:
            name = jax.tree_util.keystr(keys, simple=True, separator=".")
            inside = [path for path in paths if f"{name}.".startswith(f"{path}.")]
            seen.update(inside)
            return "frozen" if inside else "trained"

        labelled = jax.tree_util.tree_map_with_path(label, params)
        for path in paths:
            if path not in seen:
                raise InputError(f"the model has no parameters {path!r} to be frozen")
        return labelled

    def apply(params, *inputs, **options):
        held = jax.tree.map(
            lambda leaf, label: jax.lax.stop_gradient(leaf) if label == "frozen" else leaf,
            params,
            labels(params),
        )
        return model.apply(held, *inputs, **options)

    moves = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    return model._replace(apply=apply), moves
