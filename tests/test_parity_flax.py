"""With the same weights, the cells are Flax's `nnx.SimpleCell`, `nnx.LSTMCell` and `nnx.GRUCell`.

Held together: one step, a whole sequence, and the gradients of inputs, first state and weights. The
gradients of the weights are taken through the conversion, and so lie as Flax's own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqlab.cells.convert import from_flax, to_flax
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.recurrence import unroll

B, T, D, H = 4, 6, 3, 5
TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}

PEERS = {
    "simple": (RNN(H), nnx.SimpleCell, {}),
    "simple-relu": (RNN(H, activation="relu"), nnx.SimpleCell, {"activation_fn": nnx.relu}),
    "simple-sigmoid": (
        RNN(H, activation="sigmoid"),
        nnx.SimpleCell,
        {"activation_fn": nnx.sigmoid},
    ),
    "lstm": (LSTM(H), nnx.LSTMCell, {}),
    "lstm-optimized": (LSTM(H), nnx.OptimizedLSTMCell, {}),
    "lstm-relu": (
        LSTM(H, input_activation="relu", output_activation="relu"),
        nnx.LSTMCell,
        {"activation_fn": nnx.relu},
    ),
    "gru": (GRU(H, reset="after", z_multiplies="state"), nnx.GRUCell, {}),
    "gru-turned": (GRU(H, reset="after", z_multiplies="candidate"), nnx.GRUCell, {}),
}


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def dtype(request):
    if request.param is np.float64:
        request.getfixturevalue("x64")
    return request.param


def flax_cell(name, dtype):
    """The peer and its weights, all drawn: Flax begins with zero biases, which hide mistakes."""
    _, kind, options = PEERS[name]
    module = kind(D, H, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(1)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.0, 0.5, leaf.shape).astype(dtype)),
        nnx.to_pure_dict(nnx.state(module)),
    )
    nnx.update(module, state)
    return module, state


def flax_carry(h, c, cell):
    """A state as Flax has it: (c, h)."""
    return (c, h) if isinstance(cell, LSTM) else h


def own_carry(h, c, cell):
    return LSTMCarry(h=h, c=c) if isinstance(cell, LSTM) else h


def draw(seed, *shapes, dtype):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes]


def assert_close(found, expected, name):
    """Equal within the tolerance, relative to the largest entry where that is above 1."""
    assert found.dtype == expected.dtype, name
    assert found.shape == expected.shape, name
    tolerance = TOLERANCE[expected.dtype.type] * max(1.0, np.max(np.abs(expected)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)


def assert_trees_close(found, expected, name):
    found, found_tree = jax.tree.flatten_with_path(found)
    expected, expected_tree = jax.tree.flatten_with_path(expected)
    assert found_tree == expected_tree
    for (path, leaf), (_, target) in zip(found, expected, strict=True):
        assert_close(leaf, target, f"{name} {jax.tree_util.keystr(path)}")


@pytest.mark.parametrize("name", PEERS)
def test_one_step(name, dtype):
    cell = PEERS[name][0]
    module, state = flax_cell(name, dtype)
    x, h, c = draw(0, (B, D), (B, H), (B, H), dtype=dtype)
    expected_carry, expected = module(flax_carry(h, c, cell), x)
    carry = cell.step(from_flax(cell, state), own_carry(h, c, cell), x)
    assert_close(cell.output(carry), expected, "output")
    if isinstance(cell, LSTM):
        assert_close(carry.c, expected_carry[0], "c")


@pytest.mark.parametrize("name", PEERS)
def test_a_sequence_and_all_gradients(name, dtype):
    cell = PEERS[name][0]
    module, state = flax_cell(name, dtype)
    structure = nnx.graphdef(module)
    xs, h, c = draw(0, (B, T, D), (B, H), (B, H), dtype=dtype)
    bar_ys, bar_h, bar_c = draw(2, (B, T, H), (B, H), (B, H), dtype=dtype)  # what a loss sends back

    def theirs(state, xs, h, c):
        peer, carry, ys = nnx.merge(structure, state), flax_carry(h, c, cell), []
        for t in range(T):
            carry, y = peer(carry, xs[:, t])
            ys.append(y)
        c, h = carry if isinstance(cell, LSTM) else (0.0 * c, carry)
        return jnp.stack(ys, axis=1), h, c

    def ours(state, xs, h, c):
        carry, ys, _ = unroll(cell, from_flax(cell, state), xs, carry=own_carry(h, c, cell))
        h, c = (carry.h, carry.c) if isinstance(cell, LSTM) else (carry, 0.0 * c)
        return ys, h, c

    def with_gradients(run):
        values, send_back = jax.vjp(run, state, xs, h, c)
        return values, send_back((bar_ys, bar_h, bar_c))

    (values, grads), (expected, expected_grads) = map(with_gradients, (ours, theirs))
    assert_trees_close(values, expected, "ys, h, c")
    assert_trees_close(grads, expected_grads, "gradient of state, xs, h, c")


@pytest.mark.parametrize("name", PEERS)
def test_our_weights_in_flax(name, x64):
    cell = PEERS[name][0]
    module, state = flax_cell(name, np.float64)
    params = from_flax(cell, jax.tree.map(lambda leaf: leaf + 1.0, state))
    back = to_flax(cell, params, optimized=name == "lstm-optimized")
    jax.tree.map(lambda leaf, old: np.testing.assert_array_equal(leaf, old + 1.0), back, state)
    jax.tree.map(np.testing.assert_array_equal, from_flax(cell, back), params)

    nnx.update(module, back)
    xs, h, c = draw(0, (B, T, D), (B, H), (B, H), dtype=np.float64)
    expected = nnx.RNN(module)(xs, initial_carry=flax_carry(h, c, cell))
    assert_close(unroll(cell, params, xs, carry=own_carry(h, c, cell)).ys, expected, "ys")


def test_the_two_flax_lstms_share_weights_through_ours(x64):
    cell = LSTM(H)
    (plain, state), (optimized, _) = (
        flax_cell(name, np.float64) for name in ("lstm", "lstm-optimized")
    )
    nnx.update(optimized, to_flax(cell, from_flax(cell, state), optimized=True))
    x, h, c = draw(0, (B, D), (B, H), (B, H), dtype=np.float64)
    assert_close(optimized((c, h), x)[1], plain((c, h), x)[1], "h")
