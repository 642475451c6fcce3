"""With the same weights, the cells and the loop are torch's `nn.RNN`, `nn.LSTM` and `nn.GRU`.

Held together: outputs, last states and the gradients of inputs, first states and every weight. The
gradients of the weights are taken through the conversion, and so lie as torch's own.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.convert import from_torch, stack_from_torch, stack_to_torch, to_torch
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.recurrence import bidirectional, init_stack, stack, unroll

torch = pytest.importorskip("torch")

B, T, D, H = 4, 6, 3, 5
LENGTHS = (4, 6, 1, 3)  # not sorted, one full, one of a single step
TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}

CELLS = {
    "rnn-tanh": RNN(H),
    "rnn-relu": RNN(H, activation="relu"),
    "lstm": LSTM(H),
    "gru": GRU(H, reset="after", z_multiplies="state"),
    "gru-turned": GRU(H, reset="after", z_multiplies="candidate"),
}

# Layers, one direction or both, lengths or none. Float64 tells whether the mathematics agree, in
# every shape; float32, and the GRU turned, are seen in the simplest shape and the richest.
SHAPES = list(itertools.product((1, 2), (False, True), (None, LENGTHS)))
CASES = [
    pytest.param(
        name,
        dtype,
        *shape,
        id=f"{name}-{dtype.__name__}-{shape[0]}"
        f"-{'both-ways' if shape[1] else 'one-way'}-{'lengths' if shape[2] else 'full'}",
    )
    for name in CELLS
    for dtype in (np.float64, np.float32)
    for shape in SHAPES
    if shape in (SHAPES[0], SHAPES[-1]) or (dtype is np.float64 and name != "gru-turned")
]


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch):
    """torch's own loops, lest oneDNN's fused ones sum float32 in another order."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def torch_module(cell, dtype, num_layers=1, both_directions=False):
    """torch's counterpart of a cell, its weights drawn here."""
    kinds = {RNN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}
    options = {"nonlinearity": cell.activation} if isinstance(cell, RNN) else {}
    module = kinds[type(cell)](
        D, H, num_layers, batch_first=True, bidirectional=both_directions, **options
    ).to(getattr(torch, np.dtype(dtype).name))
    rng = np.random.default_rng(1)
    draw_weights(module, lambda shape: rng.normal(0.0, 0.5, shape).astype(dtype))
    return module


def draw_weights(module, draw):
    module.load_state_dict(
        {name: torch.from_numpy(draw(leaf.shape)) for name, leaf in module.state_dict().items()}
    )


def places(num_layers, both_directions):
    """Where the rows of torch's h_n [layers * directions, B, H] stand in our carries."""
    directions = ("forward", "backward") if both_directions else (None,)
    return list(itertools.product(range(num_layers), directions))


def walk(cell, state, xs, states, mask, num_layers, both_directions):
    """Outputs and last states, as torch lays them out, from torch's weights and first states."""

    def carry_of(states):
        return LSTMCarry(*states) if isinstance(cell, LSTM) else states[0]

    def states_of(carry):
        return (carry.h, carry.c) if isinstance(cell, LSTM) else (carry,)

    rows = places(num_layers, both_directions)
    carry = {f"layer_{layer}": {} for layer in range(num_layers)}
    for index, (layer, direction) in enumerate(rows):
        carry[f"layer_{layer}"][direction] = carry_of([leaf[index] for leaf in states])
    if not both_directions:
        carry = {name: own[None] for name, own in carry.items()}

    cells = [cell] * num_layers
    if num_layers > 1:
        params = stack_from_torch(cells, state, bidirectional=both_directions)
        last, ys, _ = stack(
            cells, params, xs, bidirectional=both_directions, carry=carry, mask=mask
        )
    elif both_directions:
        params = {
            "forward": from_torch(cell, state),
            "backward": from_torch(cell, state, reverse=True),
        }
        last, ys, _ = bidirectional((cell, cell), params, xs, carry=carry["layer_0"], mask=mask)
        last = {"layer_0": last}
    else:
        last, ys, _ = unroll(cell, from_torch(cell, state), xs, carry=carry["layer_0"], mask=mask)
        last = {"layer_0": last}

    found = [last[f"layer_{layer}"] for layer, _ in rows]
    found = [
        own if direction is None else own[direction]
        for own, (_, direction) in zip(found, rows, strict=True)
    ]
    return ys, tuple(jnp.stack(leaves) for leaves in zip(*map(states_of, found), strict=True))


def torch_walk(module, xs, states, lengths):
    """Outputs and last states of the torch module; padding by `pack_padded_sequence`."""
    first = states if isinstance(module, torch.nn.LSTM) else states[0]
    if lengths is None:
        ys, last = module(xs, first)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        packed_ys, last = module(packed, first)
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_ys, batch_first=True, total_length=T)
    return ys, last if isinstance(module, torch.nn.LSTM) else (last,)


def assert_close(found, expected, dtype, name):
    """Equal within the tolerance, relative to the largest entry where that is above 1."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype == dtype, name
    assert found.shape == expected.shape, name
    scale = max(1.0, np.max(np.abs(expected)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale, err_msg=name)


@pytest.mark.parametrize(
    ("name", "dtype", "num_layers", "both_directions", "lengths"),
    CASES,
)
def test_outputs_states_and_all_gradients(
    name, dtype, num_layers, both_directions, lengths, request
):
    if dtype is np.float64:
        request.getfixturevalue("x64")
    cell = CELLS[name]
    module = torch_module(cell, dtype, num_layers, both_directions)
    state = {name: leaf.numpy() for name, leaf in module.state_dict().items()}
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    rows, num_states = len(places(num_layers, both_directions)), 2 if name == "lstm" else 1
    xs, states = draw(B, T, D), tuple(draw(rows, B, H) for _ in range(num_states))
    mask = None if lengths is None else jnp.arange(T)[None, :] < jnp.array(lengths)[:, None]
    bar_ys = draw(B, T, H * (2 if both_directions else 1))  # what a loss sends back
    bar_last = tuple(draw(rows, B, H) for _ in range(num_states))

    @jax.jit
    def ours(state, xs, states):
        def run(state, xs, states):
            return walk(cell, state, xs, states, mask, num_layers, both_directions)

        values, send_back = jax.vjp(run, state, xs, states)
        return values, send_back((bar_ys, bar_last))

    (ys, last), grads = ours(state, xs, states)

    peer_xs, *peer_states = (torch.from_numpy(leaf).requires_grad_() for leaf in (xs, *states))
    peer_ys, peer_last = torch_walk(module, peer_xs, tuple(peer_states), lengths)
    weights = dict(module.named_parameters())
    peer_grads = torch.autograd.grad(
        (peer_ys, *peer_last),
        (*weights.values(), peer_xs, *peer_states),
        tuple(torch.from_numpy(leaf) for leaf in (bar_ys, *bar_last)),
    )

    assert_close(ys, peer_ys.detach(), dtype, "ys")
    for what, found, expected in zip(("h_n", "c_n"), last, peer_last, strict=False):
        assert_close(found, expected.detach(), dtype, what)
    names = [*weights, "xs", "h0", "c0"][: len(peer_grads)]
    by_name = [*(grads[0][key] for key in weights), grads[1], *grads[2]]
    for what, found, expected in zip(names, by_name, peer_grads, strict=True):
        assert_close(found, expected, dtype, f"gradient of {what}")


@pytest.mark.parametrize("both_directions", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("name", CELLS)
def test_our_weights_in_torch(name, both_directions, x64):
    cells = [CELLS[name]] * 2
    params = init_stack(cells, jax.random.key(0), D, bidirectional=both_directions)
    rng = np.random.default_rng(0)  # moves biases away from zero, so that each is seen
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0.0, 0.3, leaf.shape), params)
    state = stack_to_torch(cells, params, bidirectional=both_directions)
    module = torch_module(CELLS[name], np.float64, 2, both_directions)
    module.load_state_dict({name: torch.from_numpy(leaf) for name, leaf in state.items()})

    xs = np.random.default_rng(0).normal(size=(B, T, D))
    ours = stack(cells, params, xs, bidirectional=both_directions).ys
    assert_close(ours, module(torch.from_numpy(xs))[0].detach(), np.float64, "ys")

    back = stack_from_torch(cells, module.state_dict(), bidirectional=both_directions)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("name", CELLS)
def test_torch_weights_and_back(name, x64):
    cells = [CELLS[name]] * 2
    module = torch_module(CELLS[name], np.float64, 2, True)
    state = module.state_dict()
    params = stack_from_torch(cells, state, bidirectional=True)
    back = stack_to_torch(cells, params, bidirectional=True)
    assert list(back) == list(state)
    for key, leaf in back.items():
        assert leaf.shape == state[key].shape
        if key.startswith("weight"):
            np.testing.assert_array_equal(leaf, state[key], key)

    xs = torch.from_numpy(np.random.default_rng(0).normal(size=(B, T, D)))
    expected = module(xs)[0].detach()
    module.load_state_dict({key: torch.from_numpy(leaf) for key, leaf in back.items()})
    assert_close(module(xs)[0].detach(), expected, np.float64, "ys")  # biases moved, sums stayed

    again = to_torch(cells[0], from_torch(cells[0], back, layer=1), layer=1)
    for key, leaf in again.items():
        np.testing.assert_array_equal(leaf, back[key], key)


@pytest.mark.parametrize("name", CELLS)
def test_a_torch_cell_without_layers(name, x64):
    cell = CELLS[name]
    kinds = {RNN: torch.nn.RNNCell, LSTM: torch.nn.LSTMCell, GRU: torch.nn.GRUCell}
    options = {"nonlinearity": cell.activation} if isinstance(cell, RNN) else {}
    module = kinds[type(cell)](D, H, dtype=torch.float64, **options)
    rng = np.random.default_rng(0)
    draw_weights(module, lambda shape: rng.normal(size=shape))
    model = torch.nn.ModuleDict({"inner": module})  # a prefix, as in any larger module

    params = from_torch(cell, model.state_dict(), layer=None, prefix="inner.")
    x, h, c = rng.normal(size=(B, D)), rng.normal(size=(B, H)), rng.normal(size=(B, H))
    carry = LSTMCarry(h=jnp.array(h), c=jnp.array(c)) if name == "lstm" else jnp.array(h)
    found = cell.output(cell.step(params, carry, jnp.array(x)))
    x, h, c = map(torch.from_numpy, (x, h, c))
    expected = module(x, (h, c))[0] if name == "lstm" else module(x, h)
    assert_close(found, expected.detach(), np.float64, "h")
