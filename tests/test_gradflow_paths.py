"""Where the path recursion does not hold, it is refused; and what gates begin with."""

import jax
import jax.numpy as jnp
import pytest

from seqlab.cells.lstm import CIFG, LSTM
from seqlab.cells.rnn import RNN
from seqlab.gradflow.paths import path_gradients
from seqlab.gradflow.theory import log_rnn_bound
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne, Recurrent
from seqlab.recurrence import init_stack, stack


def setting(**layers):
    cell = LSTM(3)
    model = functional(ManyToOne, cell, input_size=2, output_size=1, **layers)
    xs = jnp.ones((2, 4, 2))
    return cell, model, model.init(jax.random.key(0)), xs


def loss(output):
    return jnp.sum(output.logits)


@pytest.mark.parametrize(
    "option", [{"reverse": True}, {"truncate_every": 2}, {"reset": jnp.zeros((2, 4), bool)}]
)
def test_an_option_under_which_paths_do_not_add_up_is_refused(option):
    cell, model, params, xs = setting()
    with pytest.raises(ValueError, match=next(iter(option))):
        path_gradients(model.apply, loss, params, xs, cell=cell, **option)


@pytest.mark.parametrize("layers", [{"num_layers": 2}, {"bidirectional": True}])
def test_several_layers_are_refused(layers):
    cell, model, params, xs = setting(**layers)
    with pytest.raises(ValueError, match="several layers"):
        path_gradients(model.apply, loss, params, xs, cell=cell)


def test_a_cell_without_routes_is_told_what_to_write():
    _, model, params, xs = setting()
    with pytest.raises(ValueError, match="step_by_route"):
        path_gradients(model.apply, loss, params, xs, cell=RNN(3))


def test_padding_does_not_loosen_the_bound():
    weights, hs = 1.5 * jnp.eye(3), jnp.full((1, 6, 3), 0.5)
    mask = jnp.arange(6)[None] < 4
    alone = log_rnn_bound(weights, hs[:, :4])
    padded = log_rnn_bound(weights, jnp.where(mask[..., None], hs, 0.0), mask=mask)
    assert jnp.allclose(padded[:, :4], alone)
    assert jnp.all(padded[:, 4:] == 0)


def test_coupled_gates_begin_with_the_same_forgetting():
    params = CIFG(4, forget_bias=2.0).init(jax.random.key(0), 2)
    assert jnp.all(params["i"]["b"] == -2.0)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_a_rate_that_is_no_probability_is_refused(rate):
    cells = [RNN(3), RNN(3)]
    params = init_stack(cells, jax.random.key(0), 2)
    with pytest.raises(ValueError, match="dropout"):
        stack(cells, params, jnp.ones((2, 4, 2)), dropout=rate)


def test_a_stack_of_no_layer_is_refused():
    from flax import nnx

    with pytest.raises(ValueError, match="num_layers"):
        Recurrent(RNN(3), 2, num_layers=0, rngs=nnx.Rngs(0))
