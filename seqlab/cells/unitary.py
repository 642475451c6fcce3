"""Recurrences whose matrix stays unitary, or orthogonal, while it is learned."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.cells.affine import Init, check_fields, init_matrix, project, spread
from seqlab.cells.diagonal import ComplexCarry
from seqlab.cells.rnn import ACTIVATIONS
from seqlab.description import as_html
from seqlab.errors import InputError
from seqlab.linalg import solve


@dataclass(frozen=True)
class URNN:
    """Unitary evolution RNN: N = H / 2 complex units, a unitary matrix of seven simple factors.

        s' = modReLU(W s + V x; b)                W = D3 R2 F^-1 D2 Pi R1 F D1
        h = [Re s, Im s]
        modReLU(a; b) = a + b a / |a| where |a| + b >= 0, else 0

    D_k = diag(exp(i theta_k)); R_k = 1 - 2 v_k v_k^* / |v_k|^2, a reflection; F the unitary Fourier
    transform; Pi a permutation, fixed. At b = 0 modReLU is the identity and every singular value of
    every Jacobian is one; a bias below zero cuts units off, and then gradients fade.

    W is worked out from its factors, N x N, once for all steps (the fast form of `unroll`); the
    loop holds one real product, in place of the two Fourier transforms a step of the paper.

    Conventions: complex numbers in two real parts; the first state is zero, where the authors learn
    it; b begins at zero as in the paper, where their code draws it from U[-0.01, 0.01].

    Attributes:
      hidden_size: H, width of h; if it is odd, the last unit's imaginary part is not shown.
      permutation_seed: of Pi, which is no parameter.

    Raises:
      InputError: a width below 1.

    References: Arjovsky, Shah and Bengio, 2016, sections 4.1-4.3, eqs. 6 and 8.
    """

    hidden_size: int
    permutation_seed: int = 0

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)

    @property
    def num_units(self) -> int:
        """N."""
        return (self.hidden_size + 1) // 2

    def init(self, key, input_size):
        """`{"theta": [3, N], "v_re", "v_im": [2, N], "V_re", "V_im": [D, N], "b": [N]}`.

        theta ~ U[-pi, pi], v ~ U[-1, 1], V Glorot.
        """
        keys, size = jax.random.split(key, 5), self.num_units
        return {
            "theta": jax.random.uniform(keys[0], (3, size), minval=-np.pi, maxval=np.pi),
            "v_re": jax.random.uniform(keys[1], (2, size), minval=-1.0),
            "v_im": jax.random.uniform(keys[2], (2, size), minval=-1.0),
            "V_re": init_matrix(keys[3], (input_size, size), "glorot"),
            "V_im": init_matrix(keys[4], (input_size, size), "glorot"),
            "b": jnp.zeros((size,), jnp.result_type(float)),
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, leaves [*batch_shape, N]."""
        zeros = jnp.zeros((*batch_shape, self.num_units), params["b"].dtype)
        return ComplexCarry(re=zeros, im=zeros)

    def matrix(self, params):
        """W transposed, complex [N, N]: rows s are multiplied by it."""
        theta = params["theta"]
        turns = jax.lax.complex(jnp.cos(theta), jnp.sin(theta))
        axes = jax.lax.complex(params["v_re"], params["v_im"])
        permutation = np.random.default_rng(self.permutation_seed).permutation(self.num_units)

        def turned(rows, k):
            return rows * spread(turns[k], rows)

        def reflected(rows, k):
            along = rows @ jnp.conj(axes[k]) / jnp.sum(jnp.square(jnp.abs(axes[k])))
            return rows - 2.0 * along[:, None] * axes[k][None, :]

        rows = turned(jnp.eye(self.num_units, dtype=turns.dtype), 0)
        rows = reflected(jnp.fft.fft(rows, norm="ortho"), 0)
        rows = turned(rows[:, permutation], 1)
        rows = reflected(jnp.fft.ifft(rows, norm="ortho"), 1)
        return turned(rows, 2)

    def step(self, params, carry, x):
        """One step."""
        with jax.named_scope("W"):
            matrix = self.matrix(params)
            w_re, w_im = jnp.real(matrix), jnp.imag(matrix)
        with jax.named_scope("a"):
            re, im = carry.re, carry.im
            a_re = project(x, params["V_re"], "x") + (re @ w_re - im @ w_im)
            a_im = project(x, params["V_im"], "x") + (re @ w_im + im @ w_re)
        with jax.named_scope("modrelu"):
            b = spread(params["b"], x)
            squares = jnp.square(a_re) + jnp.square(a_im)
            is_zero = squares == 0.0  # where the phase, and the slope of |a|, are not defined
            size = jnp.sqrt(jnp.where(is_zero, 1.0, squares))
            is_kept = jnp.where(is_zero, 0.0, size) + b >= 0.0
            scale = jnp.where(is_kept, 1.0 + b / size, 0.0)
        return ComplexCarry(re=scale * a_re, im=scale * a_im)

    def output(self, carry):
        """[Re s, Im s], [..., H]."""
        return jnp.concatenate([carry.re, carry.im], axis=-1)[..., : self.hidden_size]


@dataclass(frozen=True)
class ORNN:
    """Orthogonal RNN, by the scaled Cayley transform; the carry is h itself.

        h' = phi(W h + W_x x + b)               W = (I + A)^-1 (I - A) D,    A = -A^T
        h' = modReLU(W h + W_x x; b)            activation="modrelu", the authors' choice

    with D = diag(-1, ..., -1, 1, ..., 1) fixed and A free, so that W is orthogonal, and stays so
    under any optimizer, with its H (H - 1) / 2 degrees of freedom and no more. Of real numbers,
    modReLU(a; b) = a + b sign(a) where |a| + b >= 0, else 0: at b = 0 it is the identity, and every
    singular value of every Jacobian is one.

    The transform reaches no eigenvalue -1; D is there for those. W is worked out once for all
    steps (the fast form of `unroll`).

    Attributes:
      hidden_size: H, width of h.
      activation: phi: "modrelu", "tanh", "relu", "sigmoid" or "identity".
      num_flipped: how many entries of D are -1.
      weight_init: how W_x begins (`input`, `input_gain`). A begins as H / 2 rotations, by angles
        drawn from U[0, pi / 2].

    Raises:
      InputError: a width below 1, an unknown activation, or `num_flipped` outside 0 to H.

    References: Helfrich, Willmott and Ye, 2018, sections 3.1-3.3 (scoRNN); Lezcano-Casado and
    Martinez-Rubio, 2019 (expRNN: the exponential in place of the Cayley transform).
    """

    hidden_size: int
    activation: str = "modrelu"
    num_flipped: int = 0
    weight_init: Init = Init()

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        known = ("modrelu", *ACTIVATIONS)
        if self.activation not in known:
            raise InputError(
                f"ORNN(activation={self.activation!r}): expected one of {', '.join(known)}"
            )
        if not 0 <= self.num_flipped <= self.hidden_size:
            raise InputError(f"ORNN(num_flipped={self.num_flipped!r}): expected 0 to hidden_size")

    def init(self, key, input_size):
        """`{"W_x": [D, H], "A": [H (H - 1) / 2], "b": [H]}`; "A" is the part above the diagonal."""
        key_x, key_a = jax.random.split(key)
        init, size = self.weight_init, self.hidden_size
        angle = jax.random.uniform(key_a, (size // 2,), maxval=np.pi / 2)
        first = 2 * np.arange(size // 2)
        free = jnp.zeros((size, size)).at[first, first + 1].set(jnp.tan(angle / 2))
        return {
            "W_x": init_matrix(key_x, (input_size, size), init.input, init.input_gain),
            "A": free[np.triu_indices(size, 1)],
            "b": jnp.zeros((size,), jnp.result_type(float)),
        }

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["b"].dtype)

    def matrix(self, params):
        """W transposed, [H, H]: rows h are multiplied by it."""
        size, free = self.hidden_size, params["A"]
        upper = jnp.zeros((size, size), free.dtype).at[np.triu_indices(size, 1)].set(free)
        skew, identity = upper - upper.T, jnp.eye(size, dtype=free.dtype)
        signs = np.where(np.arange(size) < self.num_flipped, -1.0, 1.0)
        # W^T = D (I + A) (I - A)^-1, and the last two factors change places.
        return jnp.asarray(signs, free.dtype)[:, None] * solve(identity - skew, identity + skew)

    def step(self, params, h, x):
        """One step."""
        with jax.named_scope("W"):
            matrix = self.matrix(params)
        with jax.named_scope("h"):
            drive, b = project(x, params["W_x"], "x"), spread(params["b"], x)
            if self.activation != "modrelu":
                return ACTIVATIONS[self.activation](drive + b + project(h, matrix, "h"))
            a = drive + project(h, matrix, "h")
            return jnp.where(jnp.abs(a) + b >= 0.0, a + b * jnp.sign(a), 0.0)

    def output(self, h):
        """H itself."""
        return h
