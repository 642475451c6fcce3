"""Parameters of trained nets as one `.npz` file in a run directory, for a forecast later on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqlab.errors import InputError
from seqlab.files import READ_ERRORS, whole_file
from seqlab.types import Params


def save_nets(path: Path, params: Params, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes parameters, and arrays by name beside them, whole or not at all.

    Args:
      path: of the file.
      params: a nested dict of arrays.
      arrays: what belongs to the nets, by name, such as a scaler's mean.
    """
    leaves = {f"params:{name}": leaf for name, leaf in _named(params)}
    with whole_file(path) as file:
        np.savez(file, **{**leaves, **arrays})  # type: ignore[arg-type]


def load_nets(path: Path, like: Params) -> tuple[Params, dict[str, np.ndarray]]:
    """What `save_nets` wrote: (params, arrays by name).

    Args:
      path: of the file.
      like: a tree of the same names; the shapes may have another first axis (the number of nets).

    Raises:
      InputError: no such file, a damaged one, or one of another model.
    """
    try:
        with np.load(path) as file:
            found = dict(file)
    except (*READ_ERRORS, ValueError) as error:
        raise InputError(f"cannot read the nets in {path}: {error}") from error
    names = [f"params:{name}" for name, _ in _named(like)]
    if sorted(names) != sorted(name for name in found if name.startswith("params:")):
        raise InputError(f"{path} holds the nets of another model: its parameters differ by name")
    leaves = [found.pop(name) for name in names]
    for (name, leaf), new in zip(_named(like), leaves, strict=True):
        if new.shape[1:] != leaf.shape[1:]:
            raise InputError(f"{path}: {name} has shape {new.shape[1:]}, expected {leaf.shape[1:]}")
    return jax.tree.unflatten(jax.tree.structure(like), leaves), found


def _named(params: Params) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
