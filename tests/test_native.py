"""Loops as machine code: their functions, sizes that fit no register, and where there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.lookup import CELLS
from seqlab.cells.lstm import LSTM
from seqlab.fast import native
from seqlab.fast.loop import walk
from seqlab.recurrence import unroll, using

needs_native = pytest.mark.skipif(
    native.why_not() is not None, reason=f"no machine code: {native.why_not()}"
)


def jaxprs_of(function, *args):
    """The text of the program for a processor."""
    return jax.jit(function).lower(*args).as_text()


# Units in the last place, measured: 3.9, 0.9 and 2.1; 3.0, 1.6 and 1.9. XLA's: 3.9, 3.8, 2.1; 6.5,
# 1.6, 1.9.
LIMITS = {
    "float32": {"tanh": 4.5, "exp": 1.5, "logistic": 2.5},
    "float64": {"tanh": 4.0, "exp": 2.0, "logistic": 2.5},
}
EXACT = {"float32": np.float64, "float64": np.longdouble}


@needs_native
@pytest.mark.parametrize("dtype", LIMITS)
def test_elementary_functions_to_the_last_digits(dtype, x64):
    rng = np.random.default_rng(0)
    largest = 88.0 if dtype == "float32" else 709.0
    points = np.concatenate(
        [
            3.0 * rng.normal(size=9000),
            rng.uniform(-1.0, 1.0, 9000),
            rng.uniform(-largest, largest, 9000),
            rng.choice([-1.0, 1.0], 2960) * 10.0 ** rng.uniform(-30, 2, 2960),
            [0.0, -0.0, np.nan, np.inf, -np.inf, 88.7, 88.73, -87.3, -87.4, 709.7, 709.8],
            [-708.3, -708.5, 1e4, -1e4, 1.0, -1.0, 0.625, -0.625, 7.9],
        ]
    )
    xs = jnp.asarray(points.reshape(20, 1, 1499), dtype)
    functions = {"tanh": jnp.tanh, "exp": jnp.exp, "logistic": jax.nn.sigmoid}

    def step(fixed, carry, row):
        return carry, [function(row[0]) for function in functions.values()]

    def by_machine(xs):
        return native.walk_steps(step, [], [xs[0]], [xs], length=20, reverse=False)[1]

    assert "seqlab_steps_" in jaxprs_of(by_machine, xs)
    exact = np.asarray(xs).astype(EXACT[dtype])
    with np.errstate(all="ignore"):
        truth = {
            "tanh": np.tanh(exact),
            "exp": np.exp(exact),
            "logistic": 1 / (1 + np.exp(-exact)),
        }
        for (name, true), found in zip(truth.items(), jax.jit(by_machine)(xs), strict=True):
            found, rounded = np.asarray(found), true.astype(dtype)
            is_normal = np.isfinite(rounded) & (np.abs(rounded) >= np.finfo(dtype).tiny)
            ulps = np.abs(found.astype(exact.dtype) - true) / np.spacing(np.abs(rounded))
            assert np.max(ulps[is_normal]) <= LIMITS[dtype][name], name
            is_other = ~np.isfinite(rounded)
            np.testing.assert_array_equal(found[is_other], rounded[is_other])
            tiny = np.abs(found - rounded)[~is_normal & ~is_other]
            assert np.max(tiny) <= np.finfo(dtype).tiny, name


@needs_native
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "width", "units"),
    [
        (1, 3, 1),
        (1, 64, 64),
        (2, 5, 9),
        (3, 17, 4),
        (5, 8, 16),
        (7, 4, 33),
        (13, 12, 23),
        (26, 2, 8),
    ],
)
def test_rows_and_units_that_fill_no_register(rows, width, units, dtype, x64):
    """Two products, one with a matrix that is not square, a bias, a flag a row, a number a row."""
    rng = np.random.default_rng(rows)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    weights = (draw(units, width), 0.3 * draw(width, units), draw(units))
    carry, xs = draw(rows, units), draw(6, rows, width)
    flags, scale = jnp.asarray(rng.random((6, rows)) < 0.7), draw(6, rows, 1)

    def body(weights, h, row):
        up, down, bias = weights
        x, flag, scale = row
        half = [width // 2]
        first = jnp.split(jnp.tanh(h @ up + x), half, axis=-1)[0]
        inner = jnp.concatenate([first, jnp.split(x, half, axis=-1)[1]], axis=-1)
        after = jax.nn.sigmoid(inner @ down * scale + bias[None]) * h - jnp.abs(h) ** 3
        return jnp.where(flag[:, None], jnp.clip(after, -2.0, 2.0), h)

    def loss(weights, carry, xs, scale, is_native):
        last, every = walk(body, weights, carry, (xs, flags, scale), is_native=is_native)
        return jnp.sum(jnp.sin(every)) + jnp.sum(last**2)

    args = (weights, carry, xs, scale)
    both = [
        jax.jit(jax.value_and_grad(lambda *args, n=n: loss(*args, n), (0, 1, 2)))
        for n in (True, False)
    ]
    assert both[0].lower(*args).as_text().count("seqlab_steps_") == 2
    found, expected = (each(*args) for each in both)
    tolerance = 3e-5 if dtype == "float32" else 1e-12
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        size = max(1.0, float(jnp.max(jnp.abs(other))))
        np.testing.assert_allclose(leaf, other, rtol=0, atol=tolerance * size)


def lstm_problem():
    cell = LSTM(9)
    params = cell.init(jax.random.key(0), 3)
    xs = jax.random.normal(jax.random.key(1), (4, 12, 3))
    return cell, params, xs


@needs_native
def test_forward_mode_and_hessian_products(x64):
    cell, params, xs = lstm_problem()
    ones = jax.tree.map(jnp.ones_like, params)

    def derivatives(form):
        loss = lambda p: jnp.sum(jnp.sin(unroll(cell, p, xs, form=form).carries.c))  # noqa: E731
        inner = jax.jvp(jax.grad(loss), (params,), (ones,))
        return (
            jax.jvp(loss, (params,), (ones,)),
            inner,
            jax.grad(
                lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss)(p)))
            )(params),
        )

    found, expected = (jax.jit(lambda f=form: derivatives(f))() for form in ("native", "scan"))
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-11, atol=1e-11)


@needs_native
def test_both_ways_of_training_and_a_batch_of_batches_are_machine_code():
    cell, params, xs = lstm_problem()

    def loss(params, xs):
        return jnp.sum(unroll(cell, params, xs, form="native").ys)

    text = jaxprs_of(jax.grad(loss), params, xs)
    assert text.count("seqlab_steps_") == 2
    assert "while" not in text
    nets = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf]), params)
    text = jaxprs_of(jax.vmap(jax.grad(loss), (0, None)), nets, xs)
    assert text.count("seqlab_steps_") == 2
    assert "while" not in text
    batches = jnp.stack([xs, 2 * xs])
    text = jaxprs_of(jax.vmap(jax.grad(loss), (None, 0)), params, batches)
    assert text.count("seqlab_steps_") == 2
    assert "while" not in text


@needs_native
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_another_device_is_given_the_scan(platform):
    cell, params, xs = lstm_problem()
    loss = lambda p: jnp.sum(unroll(cell, p, xs, form="native").ys)  # noqa: E731
    traced = jax.jit(jax.grad(loss)).trace(params)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "while" in text
    assert "seqlab_steps_" not in text


@needs_native
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_so_from_its_step_on_and_in_its_row_alone(value):
    cell, params, xs = lstm_problem()
    walked = unroll(cell, params, xs.at[1, 5, 0].set(value), form="native")
    plain = unroll(cell, params, xs.at[1, 5, 0].set(value), form="scan")
    np.testing.assert_array_equal(np.isnan(walked.ys), np.isnan(plain.ys))
    np.testing.assert_allclose(walked.ys, plain.ys, atol=1e-6)
    walked = unroll(cell, params, xs.at[1, 5, 0].set(np.nan), form="native")
    assert not np.isnan(walked.ys[1, :5]).any()
    assert np.isnan(walked.ys[1, 5:]).all()
    assert not np.isnan(walked.ys[jnp.array([0, 2, 3])]).any()


@needs_native
def test_the_same_rows_give_the_same_bits_in_any_batch():
    """Sums run over the depth in order, whatever the rows and columns beside them."""
    key_w, key_x = jax.random.split(jax.random.key(0))
    matrix, xs = jax.random.normal(key_w, (21, 21)), jax.random.normal(key_x, (6, 13, 21))

    @jax.jit
    def walked(xs):
        def step(fixed, carry, row):
            after = jax.nn.sigmoid(carry[0] @ fixed[0]) * jnp.tanh(row[0])
            return [after], [after]

        return native.walk_steps(step, [matrix], [xs[0]], [xs], length=6, reverse=False)[1][0]

    alone = jnp.concatenate([walked(xs[:, k][:, None]) for k in range(13)], axis=1)
    np.testing.assert_array_equal(walked(xs), alone)


@needs_native
def test_numbers_that_print_alike_are_told_apart(x64):
    h = jnp.ones((3, 5))

    def body(weights, h, x):
        return h * 1.000000001 - h * 1.0 + jnp.where(h.astype(bool), 0.0, 7.0)

    last, _ = walk(body, None, h, jnp.zeros((1, 3, 1)), is_native=True)
    np.testing.assert_allclose(last[0], 1e-9, rtol=1e-6)


@needs_native
def test_a_long_chain_of_operations_and_no_jit():
    def body(weights, h, x):
        for _ in range(400):
            h = h + 1e-3 * jnp.tanh(h)
        return h + x

    carry, xs = jnp.ones((2, 3)), jnp.zeros((3, 2, 3))
    found = walk(body, None, carry, xs, is_native=None)[0]
    np.testing.assert_allclose(found, walk(body, None, carry, xs)[0], rtol=1e-6)
    cell, params, xs = lstm_problem()
    with jax.disable_jit():
        ys = unroll(cell, params, xs, form="native").ys
    np.testing.assert_allclose(ys, unroll(cell, params, xs, form="scan").ys, atol=1e-6)


@needs_native
def test_a_step_that_walks_itself_is_left_to_the_scan():
    cell, params, _ = lstm_problem()

    class Outer(LSTM):
        def step(self, params, carry, x, *, recurrent_mask=None):
            walked = unroll(cell, params, jnp.stack([x, x], axis=-2), carry=carry)
            return walked.carry

    xs = jax.random.normal(jax.random.key(2), (2, 3, 3))
    with using("auto"):
        text = jaxprs_of(lambda p: unroll(Outer(9), p, xs).ys, params)
    assert "while" in text


@needs_native
def test_a_step_without_machine_code_says_what_it_holds():
    cell = CELLS["slstm"](hidden_size=4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"form='native' cannot be had: the step holds .*log1p"):
        unroll(cell, params, jnp.ones((2, 5, 3)), form="native")
    assert unroll(cell, params, jnp.ones((2, 5, 3)), form="auto").ys.shape == (2, 5, 4)


def test_without_llvmlite_it_is_the_fast_loop(monkeypatch):
    cell, params, xs = lstm_problem()
    expected = unroll(cell, params, xs, form="fast").ys
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    native.why_not.cache_clear()
    try:
        assert "pip install" in native.why_not()
        with pytest.raises(ValueError, match="llvmlite is not installed"):
            unroll(cell, params, xs, form="native")
        np.testing.assert_array_equal(unroll(cell, params, xs, form="auto").ys, expected)
    finally:
        native.why_not.cache_clear()
