"""Every form of `unroll` is the plain one: values and all gradients, for every cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import PartitionSpec
from mgu import MGU

from seqlab.cells.gru import GRU
from seqlab.cells.lookup import CELLS
from seqlab.cells.lstm import LSTM
from seqlab.fast import native
from seqlab.recurrence import bidirectional, init_stack, stack, unroll, using

pytestmark = pytest.mark.usefixtures("x64")

NATIVE = native.why_not() is None
FORMS = ("native", "fast", "scan") if NATIVE else ("fast", "scan")
B, T, D, H = 3, 10, 3, 4
EVERY_CELL = {
    **{name: make(hidden_size=H) for name, make in CELLS.items()},
    "gru-before-state": GRU(H, z_multiplies="state"),
    "lstm-half-open": LSTM(H, forget_gate=0.5, input_activation="sigmoid"),
    "lstm-relu": LSTM(H, output_activation="relu"),
    "own": MGU(H),
}
MASK = jnp.arange(T)[None] < jnp.array([[T], [4], [0]])
HOLES = MASK & (jnp.arange(T)[None] != jnp.array([[5], [2], [1]]))
RESET = jnp.arange(T)[None] % jnp.array([[3], [4], [20]]) == 2
OPTIONS = {
    "mask": {"mask": HOLES},
    "reverse, reset": {"reverse": True, "mask": MASK, "reset": RESET},
    "truncate, remat": {"truncate_every": 3, "remat_every": 4},
}


def drawn(seed, tree, scale=0.6):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s.shape), s.dtype), tree)


def problem(cell):
    """Parameters at a generic point, a first state, inputs, and taps that are not zero."""
    params = drawn(1, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)))
    carry = drawn(2, jax.eval_shape(lambda: cell.initial_carry(params, (B,))), 0.3)
    xs = drawn(3, jax.ShapeDtypeStruct((B, T, D), jnp.float64), 1.0)
    taps = drawn(4, jax.eval_shape(lambda: unroll(cell, params, xs).carries), 0.1)
    return params, carry, xs, taps


def total(walked):
    """A number that depends on every output, each in a way of its own."""
    leaves = jax.tree.leaves((walked.carry, walked.ys, walked.carries))
    return sum(
        jnp.sum(jnp.sin(leaf) * drawn(k, leaf, 1.0)) for k, leaf in enumerate(leaves)
    ), leaves


def assert_same(by_form):
    *others, plain = map(jax.tree.leaves, by_form)
    for other in others:
        for leaf, expected in zip(other, plain, strict=True):
            scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
            np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-12 * scale)


def each_form(walk, *args, forms=FORMS):
    """Values and all gradients by every form, by the plain one last."""
    found = []
    for form in forms:
        with using(form):
            every = tuple(range(len(args)))
            grads = jax.value_and_grad(lambda *args: total(walk(*args)), every, has_aux=True)
            found.append(jax.jit(grads)(*args))
    return found


REPRESENTATIVES = ["rnn", "lstm", "gru-after", "own"]  # one of every kind of code
each_kind = pytest.mark.parametrize("name", REPRESENTATIVES)

# Forward with holes, `test_gradflow_all_cells` holds the fast form of every cell to the adjoint
# equations; here one of every kind is enough.
WHICH = [
    (name, options)
    for name in EVERY_CELL
    for options in OPTIONS
    if options != "mask" or name in REPRESENTATIVES
]


@pytest.mark.parametrize(("name", "options"), WHICH)
def test_every_cell_under_every_option(name, options):
    cell = EVERY_CELL[name]

    def walk(params, carry, xs, taps):
        return unroll(cell, params, xs, carry=carry, taps=taps, **OPTIONS[options])

    # sLSTM's log1p has no machine code; chunks, truncated or not, are the same to it in every cell.
    has_native = NATIVE and name != "slstm"
    has_native &= options != "truncate, remat" or name in REPRESENTATIVES
    forms = FORMS if has_native else ("fast", "scan")
    assert_same(each_form(walk, *problem(cell), forms=forms))


@each_kind
def test_each_steps_own_weights(name):
    cell = EVERY_CELL[name]
    params, _, xs, _ = problem(cell)
    weight_taps = jax.tree.map(lambda leaf: 0.1 * jnp.ones((T, *leaf.shape)), params)
    assert_same(
        each_form(
            lambda params, xs, taps: unroll(cell, params, xs, weight_taps=taps),
            params,
            xs,
            weight_taps,
            forms=("fast", "scan"),  # a matrix of its own at every step has no machine code
        )
    )


@pytest.mark.skipif(not NATIVE, reason=f"no machine code: {native.why_not()}")
@pytest.mark.parametrize("name", [name for name in EVERY_CELL if name != "slstm"])
def test_both_ways_of_every_cell_are_machine_code(name):
    params, carry, xs, taps = problem(EVERY_CELL[name])

    def walk(params, carry, xs, taps):
        return total(
            unroll(EVERY_CELL[name], params, xs, carry=carry, taps=taps, mask=MASK, form="native")
        )[0]

    def loops(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == native.NAME:
                yield eqn.params["steps"].text
            for inner in core.jaxprs_in_params(eqn.params):
                yield from loops(inner)

    found = list(loops(jax.make_jaxpr(jax.grad(walk))(params, carry, xs, taps).jaxpr))
    assert len(found) == 2
    assert not any(isinstance(text, str) for text in found)


@each_kind
def test_stacks_in_both_directions(name):
    cells = (EVERY_CELL[name], EVERY_CELL[name])
    params = init_stack(cells, jax.random.key(0), D, bidirectional=True)
    _, _, xs, _ = problem(cells[0])
    assert_same(
        each_form(
            lambda params, xs: stack(
                cells,
                params,
                xs,
                bidirectional=True,
                mask=MASK,
                dropout=0.3,
                recurrent_dropout=0.2 if name != "own" else 0.0,
                key=jax.random.key(1),
            ),
            params,
            xs,
        )
    )


@each_kind
def test_two_directions(name):
    cell = EVERY_CELL[name]
    params, _, xs, _ = problem(cell)
    assert_same(
        each_form(
            lambda params, xs: bidirectional((cell, cell), params, xs, mask=HOLES),
            {"forward": params, "backward": jax.tree.map(jnp.negative, params)},
            xs,
        )
    )


@each_kind
def test_one_sequence_and_many_axes(name):
    cell = EVERY_CELL[name]
    params, _, xs, _ = problem(cell)
    for part in (xs[0], xs[None].repeat(2, 0)):
        assert_same(each_form(lambda params, xs: unroll(cell, params, xs), params, part))


@each_kind
def test_vmap_over_seeds(name):
    cell = EVERY_CELL[name]
    params, carry, xs, _ = problem(cell)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), (params, carry))
    assert_same(
        each_form(
            lambda seeds, xs: jax.vmap(lambda p, c: unroll(cell, p, xs, carry=c))(*seeds),
            seeds,
            xs,
        )
    )


@each_kind
def test_shards_on_their_own_devices(name):
    cell = EVERY_CELL[name]
    params, carry, xs, _ = problem(cell)
    mesh = jax.make_mesh((1,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = PartitionSpec("shards"), PartitionSpec()

    def walk(params, carry, xs):
        return jax.shard_map(
            lambda params, carry, xs: unroll(cell, params, xs, carry=carry),
            mesh=mesh,
            in_specs=(whole, rows, rows),
            out_specs=rows,
            check_vma=False,
        )(params, carry, xs)

    assert_same(each_form(walk, params, carry, xs))


@each_kind
def test_without_jit_too(name):
    cell = EVERY_CELL[name]
    params, _, xs, _ = problem(cell)
    found = []
    for form in FORMS:
        find = jax.value_and_grad(
            lambda p, form=form: total(unroll(cell, p, xs, form=form)), has_aux=True
        )
        found.append(find(params))
    assert_same(found)


def test_a_cell_with_integers_in_its_carry():
    """What counts steps has no derivative and is carried along."""

    class Counting:
        hidden_size = 2

        def initial_carry(self, params, batch_shape=()):
            return {"h": jnp.zeros((*batch_shape, 2)), "n": jnp.zeros((*batch_shape, 2), int)}

        def step(self, params, carry, x):
            n = carry["n"] + 1
            return {"h": jnp.tanh(carry["h"] * params + x / n), "n": n}

        def output(self, carry):
            return carry["h"]

    xs = drawn(3, jax.ShapeDtypeStruct((B, T, 2), jnp.float64), 1.0)

    def walk(params, xs, form):
        walked = unroll(Counting(), params, xs, form=form)
        return jnp.sum(jnp.sin(walked.ys)), walked

    found = [
        jax.value_and_grad(walk, (0, 1), has_aux=True)(jnp.array(0.7), xs, form)
        for form in ("fast", "scan")
    ]
    assert_same(found)
    assert np.all(found[0][0][1].carry["n"] == T)
