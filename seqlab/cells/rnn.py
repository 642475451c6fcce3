"""The vanilla (Elman) cell."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqlab.cells.affine import Init, affine, check_fields, init_affine
from seqlab.description import as_html
from seqlab.errors import InputError

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda a: a,
}


@dataclass(frozen=True)
class RNN:
    """Vanilla (Elman) cell; the carry is h itself.

        h' = phi(W_x x + W_h h + b)          dh'/dh = diag(phi'(a)) W_h

    Convention: one bias (PyTorch adds two); h is what phi gives, not what it takes, so the Jacobian
    of the pre-activation form x' = W phi(x) has the same factors in another order.

    Attributes:
      hidden_size: H, width of h.
      activation: phi: "tanh", "relu", "sigmoid" or "identity".
      weight_init: how W_x and W_h begin; `Init(recurrent="identity")` with relu is the IRNN.

    Raises:
      InputError: a width below 1, or an unknown activation.

    References: Elman, 1990; Le, Jaitly and Hinton, 2015 (IRNN); Pascanu et al., 2013, section 1.
    """

    hidden_size: int
    activation: str = "tanh"
    weight_init: Init = Init()

    _repr_html_ = as_html

    def __post_init__(self):
        check_fields(self)
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"{type(self).__name__}(activation={self.activation!r}): expected one of "
                f"{', '.join(ACTIVATIONS)}"
            )

    def init(self, key, input_size):
        """Parameters `{"W_x": [D, H], "W_h": [H, H], "b": [H]}`."""
        return init_affine(key, input_size, self.hidden_size, weight_init=self.weight_init)

    def initial_carry(self, params, batch_shape=()):
        """Zeros, [*batch_shape, H]."""
        return jnp.zeros((*batch_shape, self.hidden_size), params["b"].dtype)

    def step(self, params, h, x, *, recurrent_mask=None):
        """One step; `recurrent_mask` [..., H] multiplies h on its way into W_h."""
        read = h if recurrent_mask is None else h * recurrent_mask
        with jax.named_scope("h"):
            return ACTIVATIONS[self.activation](affine(params, x, read))

    def output(self, h):
        """H itself."""
        return h


@dataclass(frozen=True)
class PreactivationRNN:
    """Vanilla cell whose carry is what phi takes, not what it gives.

        a' = W_x x + W_h phi(a) + b          da'/da = W_h diag(phi'(a))          h = phi(a)

    The form in which Pascanu et al. write their equations. Its nets are those of `RNN`, and so are
    their long Jacobian products but for the factors at the two ends; what differs is which state an
    immediate derivative holds fixed.

    Convention: a begins at zero, so h at phi(0), which is 1/2 for "sigmoid".

    Attributes:
      hidden_size, activation, weight_init: as in `RNN`.

    References: Pascanu et al., 2013, eq. 2.
    """

    hidden_size: int
    activation: str = "tanh"
    weight_init: Init = Init()

    __post_init__ = RNN.__post_init__
    init = RNN.init
    initial_carry = RNN.initial_carry

    _repr_html_ = as_html

    def step(self, params, a, x):
        """One step."""
        with jax.named_scope("h"):
            return affine(params, x, self.output(a))

    def output(self, a):
        """phi(a), [..., H]."""
        return ACTIVATIONS[self.activation](a)
