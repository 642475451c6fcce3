"""Recurrences walked in parallel over time: equal to the loop, and what is published of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.diagonal import LRU, MinGRU, MinLSTM
from seqlab.cells.gru import GRU
from seqlab.errors import InputError
from seqlab.gradflow.jacobians import step_jacobians
from seqlab.recurrence import unroll, using

CELLS = {"mingru": MinGRU(6), "minlstm": MinLSTM(6), "lru": LRU(6)}
B, T, D = 3, 11, 4


@pytest.fixture(params=CELLS)
def cell(request, x64):
    return CELLS[request.param]


def inputs(cell):
    keys = jax.random.split(jax.random.key(0), 3)
    params = cell.init(keys[0], D)
    carry = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_carry(params, (B,)))
    return params, carry, jax.random.normal(keys[1], (B, T, D))


OPTIONS = {
    "plain": {},
    "reverse": {"reverse": True},
    "mask": {"mask": jnp.arange(T)[None] < jnp.array([[T], [4], [0]])},
    "reset": {"reset": jnp.arange(T)[None] % jnp.array([[3], [4], [20]]) == 2},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_values_and_gradients_are_those_of_the_loop(cell, options):
    params, carry, xs = inputs(cell)
    taps = jax.tree.map(jnp.zeros_like, unroll(cell, params, xs).carries)

    def loss(form, params, carry, xs, taps):
        walked = unroll(cell, params, xs, carry=carry, taps=taps, form=form, **OPTIONS[options])
        last = sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(walked.carry))
        return last + jnp.sum(jnp.sin(walked.ys)), walked

    def all_of(form):
        find = jax.value_and_grad(loss, argnums=(1, 2, 3, 4), has_aux=True)
        return jax.jit(find, static_argnums=0)(form, params, carry, xs, taps)

    found, expected, fast = all_of("associative"), all_of("scan"), all_of("fast")
    for a, b, c in zip(*map(jax.tree.leaves, (found, expected, fast)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(c, b, rtol=1e-11, atol=1e-12)


def test_the_time_axis_holds_no_loop(cell):
    params, _, xs = inputs(cell)
    with using("associative"):
        program = str(jax.make_jaxpr(lambda xs: unroll(cell, params, xs).ys)(xs))
    assert "scan[" not in program
    assert "while[" not in program


def test_a_cell_that_is_not_affine_says_so():
    cell = GRU(6)
    with pytest.raises(
        ValueError, match=r"^GRU: form='associative' cannot be had: .* not affine in each unit"
    ):
        unroll(cell, cell.init(jax.random.key(0), D), jnp.zeros((T, D)), form="associative")


@pytest.mark.parametrize("option", ["remat_every", "truncate_every"])
def test_all_steps_are_kept(option):
    cell = MinGRU(6)
    params = cell.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match="leave out remat_every and truncate_every"):
        unroll(cell, params, jnp.zeros((T, D)), form="associative", **{option: 3})


def test_jacobians_are_the_gates(x64):
    params, _, xs = inputs(CELLS["mingru"])

    def gate(name):
        return jax.nn.sigmoid(xs @ params[name]["W_x"] + params[name]["b"][None, None])

    diagonal = (1 - gate("z"))[..., None] * jnp.eye(6)[None, None]
    np.testing.assert_allclose(step_jacobians(CELLS["mingru"], params, xs), diagonal, atol=1e-12)
    params, _, xs = inputs(CELLS["minlstm"])
    diagonal = (gate("f") / (gate("f") + gate("i")))[..., None] * jnp.eye(6)[None, None]
    np.testing.assert_allclose(
        step_jacobians(CELLS["minlstm"], params, xs),
        diagonal,
        atol=1e-12,
    )


def test_minlstm_survives_gates_that_are_both_shut(x64):
    cell = MinLSTM(2)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    for gate in "fi":
        params[gate]["b"] = params[gate]["b"] - 2000.0
    h = cell.step(params, jnp.array([1.0, 3.0]), jnp.zeros(1))
    np.testing.assert_allclose(h, [0.5, 1.5], rtol=1e-12)


@pytest.mark.parametrize(
    ("smallest", "largest", "gain"),
    [(0.0, 0.9, 2.0503), (0.9, 0.99, 13.2646), (0.9, 0.999, 24.2253)],
)
def test_ring_initialisation_has_the_closed_form_gain(smallest, largest, gain, x64):
    """Mean over the ring of 1 / (1 - |lambda|^2): the state's power under white input, no gamma."""
    params = LRU(200_000, smallest, largest).init(jax.random.key(0), 1)
    squares = jnp.exp(-2.0 * jnp.exp(params["nu"]))
    assert smallest**2 <= squares.min()
    assert squares.max() <= largest**2
    closed = np.log((1 - smallest**2) / (1 - largest**2)) / (largest**2 - smallest**2)
    np.testing.assert_allclose(closed, gain, atol=5e-5)
    np.testing.assert_allclose(jnp.mean(1.0 / (1.0 - squares)), gain, rtol=0.02)
    np.testing.assert_allclose(jnp.exp(2.0 * params["gamma"]), 1.0 - squares, rtol=1e-9)


def test_lru_turns_and_shrinks_as_complex_numbers_do(x64):
    params, carry, xs = inputs(CELLS["lru"])
    turn = jnp.exp(-jnp.exp(params["nu"]) + 1j * jnp.exp(params["theta"]))
    state = carry.re + 1j * carry.im
    drive = jnp.exp(params["gamma"])[None, None] * (xs @ (params["B_re"] + 1j * params["B_im"]))
    for t in range(T):
        state = turn[None] * state + drive[:, t]
    last = unroll(CELLS["lru"], params, xs, carry=carry).ys[:, -1]
    np.testing.assert_allclose(last, jnp.concatenate([state.real, state.imag], -1), rtol=1e-11)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 4, "largest": 1.0},
        {"hidden_size": 4, "smallest": 0.99, "largest": 0.9},
        {"hidden_size": 4, "largest_phase": 7.0},
    ],
    ids=str,
)
def test_lru_refuses_what_it_cannot_be(fields):
    with pytest.raises(InputError):
        LRU(**fields)
