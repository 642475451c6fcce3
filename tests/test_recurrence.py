"""The one loop and the layers made of it, against Python loops and rows walked alone."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.recurrence import bidirectional, init_stack, stack, unroll

D, H, T, B = 3, 4, 6, 3
CELLS = {"rnn": RNN(H), "lstm": LSTM(H), "gru": GRU(H, reset="after")}
each_cell = pytest.mark.parametrize("name", CELLS)


def normal(seed, *shape):
    """Drawn by numpy: in JAX every new shape is a program to compile."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def params_of(cell, seed=0, num_features=D):
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), num_features))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("reverse", "truncate_every"))
def walk(cell, params, xs, **options):
    return unroll(cell, params, xs, **options)


def assert_same(found, expected, atol=1e-13):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def walk_by_hand(cell, params, xs, carry=None):
    """Outputs [T, H], carries [T] and the last carry of one sequence [T, D], by a Python for."""
    carry = cell.initial_carry(params) if carry is None else carry
    carries = []
    for x in xs:
        carry = cell.step(params, carry, x)
        carries.append(carry)
    ys = jnp.stack([cell.output(carry) for carry in carries])
    return ys, jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries), carry


# Values


@each_cell
def test_the_loop_is_a_python_for(x64, name):
    cell = CELLS[name]
    params, xs = params_of(cell), normal(1, T, D)
    ys, carries, last = walk_by_hand(cell, params, xs)
    found = walk(cell, params, xs)
    assert_same(tuple(found), (last, ys, carries))

    first = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_carry(params))
    ys, carries, last = walk_by_hand(cell, params, xs, first)
    assert_same(tuple(walk(cell, params, xs, carry=first)), (last, ys, carries))


@each_cell
def test_reverse_walks_from_the_end_and_keeps_places(x64, name):
    cell = CELLS[name]
    params, xs = params_of(cell), normal(1, T, D)
    ys, carries, last = walk_by_hand(cell, params, xs[::-1])
    expected = (last, ys[::-1], jax.tree.map(lambda leaf: leaf[::-1], carries))
    assert_same(tuple(walk(cell, params, xs, reverse=True)), expected)


@each_cell
def test_leading_axes_are_free(x64, name):
    cell = CELLS[name]
    params, xs = params_of(cell), normal(1, 2, B, T, D)
    whole = walk(cell, params, xs)
    for a in range(2):
        rows = walk(cell, params, xs[a])
        assert_same(rows, jax.tree.map(lambda leaf, a=a: leaf[a], whole))
        for b in range(B):
            alone = walk(cell, params, xs[a, b])
            assert_same(alone, jax.tree.map(lambda leaf, a=a, b=b: leaf[a, b], whole))
    assert_same(jax.vmap(lambda row: unroll(cell, params, row))(xs), whole)


@each_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_a_mask_with_holes_cuts_steps_out(x64, name, reverse):
    """Row by row against the lone row with its masked steps removed; NaN stands in the padding."""
    cell = CELLS[name]
    params = params_of(cell)
    mask = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    xs = jnp.where(mask[..., None], normal(1, B, T, D), jnp.nan)
    first = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_carry(params, (B,)))
    found = walk(cell, params, xs, mask=jnp.asarray(mask), carry=first, reverse=reverse)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(np.asarray(found.ys)[~mask], 0.0)
    for row in range(2):
        real = np.flatnonzero(mask[row])
        begin = jax.tree.map(lambda leaf, row=row: leaf[row], first)
        alone = walk(cell, params, xs[row, real], carry=begin, reverse=reverse)
        assert_same(found.ys[row, real], alone.ys)
        assert_same(jax.tree.map(lambda leaf, row=row: leaf[row], found.carry), alone.carry)
        kept = jax.tree.map(lambda leaf, row=row, real=real: leaf[row, real], found.carries)
        assert_same(kept, alone.carries)
    # A row of length 0 ends in its first state, bit for bit.
    for a, b in zip(jax.tree.leaves(found.carry), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(a[2], b[2])


@each_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_is_inert_in_every_gradient(x64, name, reverse):
    """Zeros, 1e30, NaN and infinity in the padding give the same numbers, bit for bit."""
    cell = CELLS[name]
    params = params_of(cell)
    mask = jnp.asarray([[1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    xs = normal(1, B, T, D)
    first = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_carry(params, (B,)))

    @jax.jit
    def probe(params, xs, first):
        def loss(params, xs, first):
            found = unroll(cell, params, xs, mask=mask, carry=first, reverse=reverse)
            last = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(found.carry))
            return jnp.sum(jnp.sin(found.ys)) + last, found

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, first)

    reference = probe(params, jnp.where(mask[..., None], xs, 0.0), first)
    for fill in (1e30, jnp.nan, jnp.inf):
        found = probe(params, jnp.where(mask[..., None], xs, fill), first)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)
    (_, (_, by_xs, _)) = reference
    np.testing.assert_array_equal(np.asarray(by_xs)[~np.asarray(mask)], 0.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_dtype_follows_the_parameters(dtype):
    cell = CELLS["lstm"]
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params_of(cell))
    found = unroll(cell, params, normal(1, T, D).astype(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


def test_numpy_inputs_are_taken():
    cell = CELLS["rnn"]
    xs = np.asarray(normal(1, B, T, D))
    mask = np.ones((B, T), bool)
    found = unroll(cell, params_of(cell), xs, mask=mask)
    assert_same(found, unroll(cell, params_of(cell), jnp.asarray(xs)), atol=1e-6)


@dataclass(frozen=True)
class LearnedFirst:
    """h' = tanh(W x + U h) with a first state that is a parameter."""

    hidden_size: int

    def init(self, key, input_size):
        weights = RNN(self.hidden_size).init(key, input_size)
        return {"rnn": weights, "first": jnp.linspace(-0.5, 0.5, self.hidden_size)}

    def initial_carry(self, params, batch_shape=()):
        return jnp.broadcast_to(params["first"], (*batch_shape, self.hidden_size))

    def step(self, params, h, x):
        return RNN(self.hidden_size).step(params["rnn"], h, x)

    def output(self, h):
        return h


def by_first_state(**options):
    cell = LearnedFirst(H)
    params, xs = params_of(cell), normal(1, B, T, D)

    def loss(params):
        return jnp.sum(jnp.sin(unroll(cell, params, xs, **options).ys))

    return jax.jit(jax.grad(loss))(params)["first"]


def test_a_learned_first_state_is_learned(x64):
    assert np.all(by_first_state() != 0.0)
    np.testing.assert_allclose(by_first_state(truncate_every=T), by_first_state(), rtol=1e-13)


def test_a_learned_first_state_is_learned_under_truncation(x64):
    """The first chunk begins at it: no border between chunks is crossed."""
    cell = LearnedFirst(H)
    params, xs = params_of(cell), normal(1, B, T, D)
    first_chunk = jax.grad(lambda p: jnp.sum(jnp.sin(unroll(cell, p, xs[:, :2]).ys)))(params)
    np.testing.assert_allclose(by_first_state(truncate_every=2), first_chunk["first"], rtol=1e-12)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_truncation_in_reverse_counts_from_where_the_walk_begins(x64, every):
    cell = CELLS["lstm"]
    params, xs = params_of(cell), normal(1, T, D)

    def loss(xs, params, reverse):
        walked = unroll(cell, params, xs, reverse=reverse, truncate_every=every)
        return jnp.sum(jnp.sin(walked.ys if not reverse else walked.ys[::-1]))

    by = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    (xs_forward, by_forward), (xs_back, by_back) = by(xs, params, False), by(xs[::-1], params, True)
    assert_same(by_back, by_forward)
    assert_same(xs_back[::-1], xs_forward)


# Both directions


def test_both_directions_respect_lengths(x64):
    """Row by row against the lone row without padding."""
    cells = (LSTM(H), GRU(5))
    params = {"forward": params_of(cells[0], 0), "backward": params_of(cells[1], 1)}
    lengths = [6, 3, 1, 0]
    mask = np.arange(T)[None, :] < np.array(lengths)[:, None]
    xs = jnp.where(mask[..., None], normal(2, 4, T, D), jnp.nan)
    found = jax.jit(lambda p, xs: bidirectional(cells, p, xs, mask=jnp.asarray(mask)))(params, xs)
    assert found.ys.shape == (4, T, H + 5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    for row, length in enumerate(lengths[:3]):
        own = xs[row, :length]
        ahead, _, last_ahead = walk_by_hand(cells[0], params["forward"], own)
        behind, _, last_behind = walk_by_hand(cells[1], params["backward"], own[::-1])
        assert_same(found.ys[row, :length], jnp.concatenate([ahead, behind[::-1]], axis=-1))
        assert_same(
            jax.tree.map(lambda leaf, row=row: leaf[row], found.carry),
            {"forward": last_ahead, "backward": last_behind},
        )
    np.testing.assert_array_equal(np.asarray(found.ys)[~mask], 0.0)


# Stacks


@pytest.mark.parametrize("both_directions", [False, True])
def test_a_stack_is_its_layers_one_on_the_other(x64, both_directions):
    cells = [LSTM(H), LSTM(H)]
    params = init_stack(cells, jax.random.key(0), D, bidirectional=both_directions)
    xs = normal(1, B, T, D)
    mask = jnp.asarray(np.arange(T)[None, :] < np.array([6, 4, 0])[:, None])
    found = stack(cells, params, xs, mask=mask, bidirectional=both_directions)
    ys = xs
    for index, cell in enumerate(cells):
        name = f"layer_{index}"
        if both_directions:
            layer = bidirectional((cell, cell), params[name], ys, mask=mask)
        else:
            layer = unroll(cell, params[name], ys, mask=mask)
        assert_same(found.carry[name], layer.carry)
        assert_same(found.carries[name], layer.carries)
        ys = layer.ys
    assert_same(found.ys, ys)
    assert found.ys.shape == (B, T, 2 * H if both_directions else H)


def test_a_stack_takes_its_state_back(x64):
    cells = [RNN(H), GRU(H)]
    params = init_stack(cells, jax.random.key(0), D)
    xs = normal(1, B, T, D)
    whole = stack(cells, params, xs)
    head = stack(cells, params, xs[:, :2])
    tail = stack(cells, params, xs[:, 2:], carry=head.carry)
    assert_same(tail.carry, whole.carry)
    assert_same(jnp.concatenate([head.ys, tail.ys], axis=1), whole.ys)


def test_layers_may_differ_in_cell_and_width():
    cells = [RNN(3), LSTM(5), GRU(2)]
    params = init_stack(cells, jax.random.key(0), D)
    assert params["layer_1"]["i"]["W_x"].shape == (3, 5)
    assert params["layer_2"]["r"]["W_x"].shape == (5, 2)
    assert stack(cells, params, normal(1, B, T, D)).ys.shape == (B, T, 2)


@dataclass(frozen=True)
class Echo:
    """Says what it is told; a stack of these shows the dropout masks."""

    hidden_size: int

    def init(self, key, input_size):
        return {"one": jnp.ones(())}

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros((*batch_shape, self.hidden_size), params["one"].dtype)

    def step(self, params, h, x):
        return params["one"] * x

    def output(self, h):
        return h


def echoed(key=None, *, num_layers=2, width=50, num_rows=20, num_steps=30, **options):
    cells = [Echo(width)] * num_layers
    params = init_stack(cells, jax.random.key(0), width)
    xs = jnp.ones((num_rows, num_steps, width))
    return np.asarray(stack(cells, params, xs, key=key, **options).ys)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(rate):
    ys = echoed(jax.random.key(1), dropout=rate)
    kept = np.float32(1.0) / np.float32(1.0 - rate)
    assert set(np.unique(ys)) == {np.float32(0.0), kept}
    # 30,000 independent draws: five standard errors.
    error = 5 * np.sqrt(rate * (1 - rate) / ys.size)
    assert abs(np.mean(ys == 0.0) - rate) < error
    assert np.any(ys != ys[:, :1])  # a fresh mask at each step
    assert np.any(ys != ys[:1])  # and for each row


def test_variational_dropout_is_one_mask_a_sequence():
    ys = echoed(jax.random.key(1), dropout=0.5, variational=True)
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[:, :1], ys.shape))
    assert np.any(ys != ys[:1])
    assert abs(np.mean(ys[:, 0] == 0.0) - 0.5) < 5 * 0.5 / np.sqrt(ys[:, 0].size)


def test_masks_of_layers_differ():
    two = echoed(jax.random.key(1), dropout=0.5, num_layers=3)
    assert set(np.unique(two)) == {0.0, 4.0}  # 2 * 2: the masks of two borders
    assert abs(np.mean(two == 4.0) - 0.25) < 0.02  # a quarter: independent


def test_without_a_key_nothing_is_dropped():
    np.testing.assert_array_equal(echoed(dropout=0.5, recurrent_dropout=0.5), 1.0)


def test_the_same_key_drops_the_same_and_another_does_not():
    first = echoed(jax.random.key(1), dropout=0.5)
    np.testing.assert_array_equal(first, echoed(jax.random.key(1), dropout=0.5))
    assert np.any(first != echoed(jax.random.key(2), dropout=0.5))


@pytest.mark.parametrize("both_directions", [False, True])
def test_recurrent_dropout_masks_what_the_matrices_read_of_h(x64, both_directions):
    """One mask a sequence: a unit dropped has the gradient of its row of every W_h exactly zero."""
    cell = LSTM(16)
    params = init_stack([cell], jax.random.key(0), D, bidirectional=both_directions)
    xs = normal(1, 1, T, D)

    def loss(params):
        walked = stack(
            [cell],
            params,
            xs,
            bidirectional=both_directions,
            recurrent_dropout=0.5,
            key=jax.random.key(3),
        )
        return jnp.sum(jnp.sin(walked.ys))

    by = jax.jit(jax.grad(loss))(params)["layer_0"]
    dropped = []
    for name in ("forward", "backward") if both_directions else (None,):
        gates = by if name is None else by[name]
        rows = np.stack([np.all(np.asarray(gates[g]["W_h"]) == 0.0, axis=1) for g in "ifgo"])
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[:1], rows.shape))
        dropped.append(rows[0])
    assert 0 < np.sum(dropped) < 16 * len(dropped)
    if both_directions:
        assert np.any(dropped[0] != dropped[1])


def test_recurrent_mask_of_the_loop_is_h_times_the_mask(x64):
    cell = RNN(H)
    params, xs = params_of(cell), normal(1, B, T, D)
    mask = jnp.asarray(np.random.default_rng(0).integers(0, 2, (B, H)) * 2.0)
    found = unroll(cell, params, xs, recurrent_mask=mask)
    h, w = np.zeros((B, H)), jax.tree.map(np.asarray, params)
    for t in range(T):
        read = h * np.asarray(mask)
        h = np.tanh(np.asarray(xs)[:, t] @ w["W_x"] + read @ w["W_h"] + w["b"])
    np.testing.assert_allclose(found.carry, h, atol=1e-13)


# What cannot be walked is told by name


def lstm_walk(**options):
    cell = LSTM(H)
    xs = options.pop("xs", jnp.zeros((B, T, D)))
    return unroll(cell, params_of(cell), xs, **options)


def lstm_carry(width=H, dtype=None, rows=B):
    zeros = jnp.zeros((rows, width), dtype)
    return LSTMCarry(h=zeros, c=zeros)


BAD = {
    "no steps": (
        {"xs": jnp.zeros((B, 0, D))},
        r"unroll: xs has shape \(3, 0, 3\), expected \[\.\.\., T, D\] with",
    ),
    "no rows": (
        {"xs": jnp.zeros((0, T, D))},
        r"unroll: xs has shape \(0, 6, 3\), expected",
    ),
    "no features": ({"xs": jnp.zeros((B, T, 0))}, r"unroll: xs has shape \(3, 6, 0\), expected"),
    "one axis": ({"xs": jnp.zeros(D)}, r"unroll: xs has shape \(3,\)"),
    "mask of another shape": (
        {"mask": jnp.ones((B, T + 1), bool)},
        r"unroll: mask has shape \(3, 7\) and dtype bool, expected \(3, 6\) and bool",
    ),
    "mask without a batch": ({"mask": jnp.ones(T, bool)}, r"unroll: mask has shape \(6,\)"),
    "mask of floats": (
        {"mask": jnp.ones((B, T))},
        r"unroll: mask has shape \(3, 6\) and dtype float32, expected \(3, 6\) and bool",
    ),
    "reset of integers": (
        {"reset": jnp.ones((B, T), jnp.int32)},
        r"unroll: reset has shape \(3, 6\) and dtype int32",
    ),
    "carry of another width": (
        {"carry": lstm_carry(width=5)},
        r"LSTM\(hidden_size=4.*\): carry\.h has shape \(3, 5\) .*, expected \(3, 4\)",
    ),
    "carry of another batch": (
        {"carry": lstm_carry(rows=1)},
        r"LSTM\(.*carry\.h has shape \(1, 4\) .*expected \(3, 4\)",
    ),
    "carry of another dtype": (
        {"carry": lstm_carry(dtype=jnp.float16)},
        r"LSTM\(.*carry\.h has shape \(3, 4\) and dtype float16, expected \(3, 4\) and float32",
    ),
    "carry that is another thing": (
        {"carry": jnp.zeros((B, H))},
        r"LSTM\(.*carry is built as .*expected .*LSTMCarry",
    ),
    "taps of another length": (
        {"taps": LSTMCarry(h=jnp.zeros((B, T - 1, H)), c=jnp.zeros((B, T - 1, H)))},
        r"LSTM\(.*taps\.h has shape \(3, 5, 4\) .*expected \(3, 6, 4\)",
    ),
    "taps that are another thing": (
        {"taps": jnp.zeros((B, T, H))},
        r"LSTM\(.*taps is built as .*expected .*LSTMCarry",
    ),
    "another number of features": (
        {"xs": jnp.zeros((B, T, D + 1))},
        r"x has 4 features, its weights expect 3: x \(3, 4\), weights \(3, 4\)",
    ),
    "windows of nothing": ({"truncate_every": 0}, "unroll: truncate_every=0, expected None or 1"),
    "windows of less": ({"truncate_every": -2}, "unroll: truncate_every=-2"),
    "recomputation of nothing": ({"remat_every": 0}, "unroll: remat_every=0, expected None or 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_walked_is_told_by_name(what):
    options, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        lstm_walk(**options)


def test_a_weight_tap_of_another_length_is_told_by_name():
    cell = RNN(H)
    params = params_of(cell)
    taps = jax.tree.map(lambda leaf: jnp.zeros((T - 1, *leaf.shape)), params)
    with pytest.raises(ValueError, match="weight_taps"):
        unroll(cell, params, jnp.zeros((B, T, D)), weight_taps=taps)


def test_a_recurrent_mask_of_another_shape_is_told_by_name():
    cell = RNN(H)
    with pytest.raises(ValueError, match="recurrent_mask"):
        unroll(cell, params_of(cell), jnp.zeros((B, T, D)), recurrent_mask=jnp.ones((B, H + 1)))


@dataclass(frozen=True)
class Widening(Echo):
    """Breaks the contract: its step gives a wider carry."""

    def step(self, params, h, x):
        return jnp.concatenate([h, h], axis=-1)


def test_a_step_that_changes_its_carry_is_told_by_name():
    cell = Widening(H)
    told = r"Widening\(.*the carry that step returns has shape \(3, 8\)"
    with pytest.raises(ValueError, match=told):
        unroll(cell, cell.init(jax.random.key(0), D), jnp.zeros((B, T, D)))


@pytest.mark.parametrize("both_directions", [False, True])
def test_numpys_float64_is_float32_without_x64_and_without_a_warning(both_directions):
    cells = [LSTM(H), GRU(H)]
    params = init_stack(cells, jax.random.key(0), D, bidirectional=both_directions)
    xs = np.random.default_rng(0).normal(size=(B, T, D))
    assert xs.dtype == np.float64
    options = {"bidirectional": both_directions, "dropout": 0.5, "recurrent_dropout": 0.1}
    expected = stack(cells, params, xs.astype(np.float32), key=jax.random.key(1), **options)
    found = stack(cells, params, xs, key=jax.random.key(1), **options)
    assert found.ys.dtype == jnp.float32
    np.testing.assert_array_equal(found.ys, expected.ys)


def test_parameters_and_states_from_numpy_are_those_of_jax():
    cell = LSTM(H)
    params = cell.init(jax.random.key(0), D)
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    carry = cell.initial_carry(params, (B,))
    double = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float64))
    found = unroll(cell, double(params), xs, carry=double(carry))
    np.testing.assert_array_equal(found.ys, unroll(cell, params, xs, carry=carry).ys)
    assert found.carry.c.dtype == jnp.float32


def test_dropout_with_one_layer_is_an_error():
    cell = RNN(H)
    params = init_stack([cell], jax.random.key(0), D)
    with pytest.raises(ValueError, match=r"dropout=0.5 acts between layers and there is one"):
        stack([cell], params, jnp.zeros((B, T, D)), dropout=0.5, key=jax.random.key(1))
