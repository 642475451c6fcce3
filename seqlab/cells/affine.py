"""The affine map inside every gate, a = x W_x + h W_h + b, and how its weights begin."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.errors import InputError
from seqlab.linalg import orthogonal
from seqlab.types import Array, Params

KINDS = ("orthogonal", "gaussian", "glorot", "identity")


@dataclass(frozen=True)
class Init:
    """How the two matrices of an affine map begin, each gate by itself.

    The kinds, for a matrix of shape [fan_in, fan_out] and a gain g:

        orthogonal   g Q, Q Haar-distributed (every singular value is g)
        gaussian     entries N(0, g^2 / fan_in)  (spectral radius -> g for a large square matrix)
        glorot       entries U(-a, a), a = g sqrt(6 / (fan_in + fan_out))
        identity     g I  (the IRNN with ReLU units; needs a square matrix)

    One orthogonal draw over the fused [H, 4H] matrix would leave each gate's block with singular
    values from about 0.01 to 0.85: another gradient flow before training starts.

    Attributes:
      recurrent: kind of W_h, [H, H].
      gain: g of W_h.
      input: kind of W_x, [D, H].
      input_gain: g of W_x.

    Raises:
      InputError: a kind that is none of these.

    References: Saxe et al., 2013 (orthogonal); Glorot and Bengio, 2010, eq. 16; Le et al., 2015
    (identity).
    """

    recurrent: str = "orthogonal"
    gain: float = 1.0
    input: str = "gaussian"
    input_gain: float = 1.0

    def __post_init__(self):
        for field in ("recurrent", "input"):
            if getattr(self, field) not in KINDS:
                raise InputError(
                    f"Init({field}={getattr(self, field)!r}): expected one of {', '.join(KINDS)}"
                )


def init_matrix(key: Array, shape: tuple[int, int], kind: str, gain: float = 1.0) -> Array:
    """A fresh matrix [fan_in, fan_out]; the kinds are those of `Init`.

    Raises:
      InputError: a kind that is none of these.
      ValueError: an identity matrix that is not square.
    """
    fan_in, fan_out = shape
    if kind == "orthogonal":
        return gain * orthogonal(key, shape, jnp.result_type(float))
    if kind == "gaussian":
        return gain / fan_in**0.5 * jax.random.normal(key, shape)
    if kind == "glorot":
        limit = gain * (6.0 / (fan_in + fan_out)) ** 0.5
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)
    if kind == "identity":
        if fan_in != fan_out:
            raise ValueError(f"an identity matrix is square, not {shape}; use another kind for W_x")
        return gain * jnp.eye(fan_in)
    raise InputError(f"initialiser {kind!r}: expected one of {', '.join(KINDS)}")


def init_affine(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    bias: float = 0.0,
    weight_init: Init = Init(),
) -> Params:
    """Fresh `{"W_x": [D, H], "W_h": [H, H], "b": [H]}`.

    Raises:
      InputError: a kind that `Init` has not.
      ValueError: W_x is to be the identity and D is not H.
    """
    key_x, key_h = jax.random.split(key)
    init = weight_init
    return {
        "W_x": init_matrix(key_x, (input_size, hidden_size), init.input, init.input_gain),
        "W_h": init_matrix(key_h, (hidden_size, hidden_size), init.recurrent, init.gain),
        "b": jnp.full((hidden_size,), bias, jnp.result_type(float)),
    }


def affine(params: Params, x: Array, h: Array) -> Array:
    """x W_x + h W_h + b, [..., H], from x [..., D] and h [..., H].

    Raises:
      ValueError: when the width of x or h is not that of its matrix.
    """
    # What does not read h is added up first: the fast loop does it for all steps at once.
    return project(x, params["W_x"], "x") + spread(params["b"], x) + project(h, params["W_h"], "h")


def project(vectors: Array, matrix: Array, name: str) -> Array:
    """`vectors` [..., D] times `matrix` [D, H]; `name` is what an error calls the vectors.

    Raises:
      ValueError: vectors of another width than the matrix expects.
    """
    if vectors.shape[-1] != matrix.shape[0]:
        raise ValueError(
            f"{name} has {vectors.shape[-1]} features, its weights expect {matrix.shape[0]}: "
            f"{name} {vectors.shape}, weights {matrix.shape}"
        )
    return vectors @ matrix


def spread(vector: Array, like: Array) -> Array:
    """`vector` [H] over the leading axes of `like` [..., D], [..., H]."""
    return jnp.broadcast_to(vector, (*like.shape[:-1], vector.shape[-1]))


def scale_recurrent(params: Params, gain: float | Array) -> Params:
    """The same parameters with every `W_h` times `gain`, a number or traced (a sweep by `vmap`)."""

    def scale(path, leaf):
        return gain * leaf if path[-1].key == "W_h" else leaf

    return jax.tree_util.tree_map_with_path(scale, params)


def chrono_bias(key: Array, hidden_size: int, longest: float) -> Array:
    """Biases b with keep times spread evenly from 2 to `longest` steps, [H].

        b = log u,  u ~ U[1, longest - 1],  so that sigmoid(b) = 1 - 1 / (1 + u)

    A gate that stays at f keeps for 1 / (1 - f) steps, here 1 + u. A forget gate takes +b, the gate
    that writes takes -b.

    References: Tallec and Ollivier, 2018, section 2 (chrono initialisation).
    """
    return jnp.log(jax.random.uniform(key, (hidden_size,), minval=1.0, maxval=longest - 1.0))


def check_fields(cell) -> None:
    """Raises `InputError` when the common fields of a cell cannot be used."""
    name, size = type(cell).__name__, cell.hidden_size
    if not isinstance(size, int) or size < 1:
        raise InputError(
            f"{name}(hidden_size={size!r}): expected a whole number of units, 1 or more"
        )
    longest = getattr(cell, "chrono_steps", None)
    if longest is not None and not longest > 2:
        raise InputError(f"{name}(chrono_steps={longest!r}): expected more than 2 steps, or None")
