"""Published cells beyond RNN, LSTM and GRU: the authors' equations, Jacobians and limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.affine import Init
from seqlab.cells.antisymmetric import AntisymmetricRNN
from seqlab.cells.diagonal import MinGRU, MinLSTM
from seqlab.cells.janet import JANET
from seqlab.cells.lem import LEM, LEMCarry
from seqlab.cells.lmu import LMU, LMUCarry, legendre_delay
from seqlab.cells.mgu import MGU
from seqlab.cells.minimalrnn import MinimalRNN
from seqlab.cells.oscillators import CoRNN, OscillatorCarry, UnICORNN
from seqlab.cells.rnn import RNN
from seqlab.cells.slstm import SLSTM, SLSTMCarry
from seqlab.cells.unitary import ORNN, URNN
from seqlab.errors import InputError
from seqlab.gradflow.jacobians import step_jacobians
from seqlab.gradflow.theory import critical_gain, mean_field_tanh
from seqlab.recurrence import unroll

pytestmark = pytest.mark.usefixtures("x64")

B, T, D, H = 2, 6, 3, 5
CELLS = {
    "mgu": MGU(H),
    "janet": JANET(H, beta=0.7),
    "minimalrnn": MinimalRNN(H),
    "slstm": SLSTM(H),
    "urnn": URNN(2 * H),
    "urnn-odd": URNN(7),
    "ornn": ORNN(H, num_flipped=2),
    "ornn-tanh": ORNN(H, activation="tanh"),
    "antisymmetric": AntisymmetricRNN(H, epsilon=0.3, gamma=0.2),
    "antisymmetric-gated": AntisymmetricRNN(H, epsilon=0.3, gamma=0.2, gated=True),
    "cornn": CoRNN(H, dt=0.3, gamma=1.3, epsilon=0.7),
    "unicornn": UnICORNN(H, dt=0.6, alpha=0.9),
    "lem": LEM(H, dt=0.7),
    "lmu": LMU(H, order=4, theta=6.0),
}


def drawn(seed, shapes, scale=0.5):
    """By numpy: in JAX every new shape is a program to compile."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s.shape), s.dtype), shapes)


def generic(cell, seed=0):
    """Parameters that are nowhere at a first value which would hide them, a carry, inputs."""
    params = drawn(seed, jax.eval_shape(lambda: cell.init(jax.random.key(0), D)))
    carry = drawn(seed + 1, jax.eval_shape(lambda: cell.initial_carry(params, (B,))))
    if isinstance(cell, SLSTM):
        carry = carry.replace(n=jnp.abs(carry.n) + 0.1)  # what a normaliser can be
    xs = drawn(seed + 2, jax.ShapeDtypeStruct((B, T, D), jnp.float64), 1.0)
    return params, carry, xs


@functools.partial(jax.jit, static_argnums=0)
def walk(cell, params, xs, carry=None):
    return unroll(cell, params, xs, carry=carry)


@functools.partial(jax.jit, static_argnums=0)
def jacobians_of(cell, params, xs, carry=None):
    return step_jacobians(cell, params, xs, carry=carry)


@functools.partial(jax.jit, static_argnums=(0, 1))
def fresh(cell, num_inputs=D):
    return cell.init(jax.random.key(0), num_inputs)


@functools.partial(jax.jit, static_argnums=0)
def matrix_of(cell, params):
    return cell.matrix(params)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


# The authors' equations, step by step in numpy. Each takes (cell, weights, carry, x) of one row
# and gives the next carry as a tuple of leaves.


def a(w, x, h):
    return x @ w["W_x"] + h @ w["W_h"] + w["b"]


def mgu(cell, w, carry, x):
    (h,) = carry
    f = sigmoid(a(w["f"], x, h))
    return ((1 - f) * h + f * np.tanh(a(w["n"], x, f * h)),)


def janet(cell, w, carry, x):
    (h,) = carry
    s = a(w["f"], x, h)
    return (sigmoid(s) * h + (1 - sigmoid(s - cell.beta)) * np.tanh(a(w["g"], x, h)),)


def minimalrnn(cell, w, carry, x):
    (h,) = carry
    z = np.tanh(x @ w["z"]["W_x"] + w["z"]["b"])
    u = sigmoid(a(w["u"], z, h))
    return (u * h + (1 - u) * z,)


def slstm(cell, w, carry, x):
    """Without a stabiliser: C = c exp(m), N = n exp(m); put back at the same m."""
    h, c, n, m = carry
    i, f = np.exp(a(w["i"], x, h)), sigmoid(a(w["f"], x, h))
    big_c = f * c * np.exp(m) + i * np.tanh(a(w["g"], x, h))
    big_n = f * n * np.exp(m) + i
    after = np.maximum(np.log(i), m + np.log(f))
    h = sigmoid(a(w["o"], x, h)) * big_c / big_n
    return h, big_c * np.exp(-after), big_n * np.exp(-after), after


def urnn(cell, w, carry, x):
    """Factor by factor, with dense matrices of complex numbers that act on columns."""
    size = cell.num_units
    s = carry[0] + 1j * carry[1]
    turns = [np.diag(np.exp(1j * theta)) for theta in w["theta"]]
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size) / size**0.5
    permutation = np.random.default_rng(cell.permutation_seed).permutation(size)
    reflections = []
    for v in w["v_re"] + 1j * w["v_im"]:
        reflections.append(np.eye(size) - 2 * np.outer(v, v.conj()) / np.vdot(v, v))
    inverse = fourier.conj().T
    s = turns[0] @ s
    s = fourier @ s
    s = reflections[0] @ s
    s = s[permutation]
    s = turns[1] @ s
    s = inverse @ s
    s = reflections[1] @ s
    s = turns[2] @ s + x @ (w["V_re"] + 1j * w["V_im"])
    size_of = np.abs(s)
    s = np.where(size_of + w["b"] >= 0, (size_of + w["b"]) * s / size_of, 0.0)
    return s.real, s.imag


def orthogonal_matrix(cell, w):
    """W that acts on columns."""
    skew = np.zeros((H, H))
    skew[np.triu_indices(H, 1)] = w["A"]
    skew = skew - skew.T
    flips = np.diag([-1.0] * cell.num_flipped + [1.0] * (H - cell.num_flipped))
    return np.linalg.inv(np.eye(H) + skew) @ (np.eye(H) - skew) @ flips


def ornn(cell, w, carry, x):
    s = orthogonal_matrix(cell, w) @ carry[0] + x @ w["W_x"]
    if cell.activation == "tanh":
        return (np.tanh(s + w["b"]),)
    return (np.sign(s) * np.maximum(np.abs(s) + w["b"], 0.0),)


def antisymmetric(cell, w, carry, x):
    (h,) = carry
    free = w["W_h"].T  # acts on columns
    matrix = free - free.T - cell.gamma * np.eye(H)
    slope = np.tanh(matrix @ h + x @ w["W_x"] + w["b"])
    if cell.gated:
        slope = slope * sigmoid(matrix @ h + x @ w["z"]["W_x"] + w["z"]["b"])
    return (h + cell.epsilon * slope,)


def cornn(cell, w, carry, x):
    y, z = carry
    force = np.tanh(a(w, x, y) + z @ w["W_z"])
    z = z + cell.dt * (force - cell.gamma * y - cell.epsilon * z)
    return y + cell.dt * z, z


def unicornn(cell, w, carry, x):
    y, z = carry
    step = cell.dt * sigmoid(w["c"])
    z = z - step * (np.tanh(w["w"] * y + x @ w["W_x"] + w["b"]) + cell.alpha * y)
    return y + step * z, z


def lem(cell, w, carry, x):
    y, z = carry
    d1, d2 = cell.dt * sigmoid(a(w["d1"], x, y)), cell.dt * sigmoid(a(w["d2"], x, y))
    z = (1 - d2) * z + d2 * np.tanh(a(w["z"], x, y))
    return (1 - d1) * y + d1 * np.tanh(a(w["y"], x, z)), z


def lmu(cell, w, carry, x):
    h, m = carry
    memory, write = legendre_delay(cell.order, cell.theta)
    u = x @ w["e_x"] + h @ w["e_h"] + m @ w["e_m"]
    m = memory @ m + write * u
    return np.tanh(x @ w["W_x"] + h @ w["W_h"] + m @ w["W_m"]), m


BY_HAND = {
    "mgu": mgu,
    "janet": janet,
    "minimalrnn": minimalrnn,
    "slstm": slstm,
    "urnn": urnn,
    "ornn": ornn,
    "antisymmetric": antisymmetric,
    "cornn": cornn,
    "unicornn": unicornn,
    "lem": lem,
    "lmu": lmu,
}


@pytest.mark.parametrize("name", CELLS)
def test_steps_are_those_of_the_authors(name):
    cell = CELLS[name]
    params, carry, xs = generic(cell)
    walked = walk(cell, params, xs, carry)
    step, weights = BY_HAND[name.partition("-")[0]], as_numpy(params)
    for row in range(B):
        state = [np.asarray(leaf[row]) for leaf in jax.tree.leaves(carry)]
        for t in range(T):
            state = step(cell, weights, state, np.asarray(xs[row, t]))
            for found, expected in zip(jax.tree.leaves(walked.carries), state, strict=True):
                np.testing.assert_allclose(found[row, t], expected, rtol=1e-11, atol=1e-12)


# One-step Jacobians in closed form; rows are outputs, W acts on columns.


def slope(s):
    return s * (1 - s)


def diagonal(v):
    return np.diag(v)


def mgu_jacobian(cell, w, carry, x):
    (h,) = carry
    f = sigmoid(a(w["f"], x, h))
    n = np.tanh(a(w["n"], x, f * h))
    u_f, u_n = w["f"]["W_h"].T, w["n"]["W_h"].T
    inner = diagonal(f) + diagonal(h * slope(f)) @ u_f
    return (
        diagonal(1 - f)
        + diagonal((n - h) * slope(f)) @ u_f
        + diagonal(f * (1 - n**2)) @ u_n @ inner
    )


def janet_jacobian(cell, w, carry, x):
    (h,) = carry
    s = a(w["f"], x, h)
    f, i, g = sigmoid(s), 1 - sigmoid(s - cell.beta), np.tanh(a(w["g"], x, h))
    return (
        diagonal(f)
        + diagonal(h * slope(f) - g * slope(i)) @ w["f"]["W_h"].T
        + diagonal(i * (1 - g**2)) @ w["g"]["W_h"].T
    )


def minimalrnn_jacobian(cell, w, carry, x):
    (h,) = carry
    z = np.tanh(x @ w["z"]["W_x"] + w["z"]["b"])
    u = sigmoid(a(w["u"], z, h))
    return diagonal(u) + diagonal((h - z) * slope(u)) @ w["u"]["W_h"].T


def antisymmetric_jacobian(cell, w, carry, x):
    (h,) = carry
    matrix = w["W_h"].T - w["W_h"] - cell.gamma * np.eye(H)
    n = np.tanh(matrix @ h + x @ w["W_x"] + w["b"])
    factor = 1 - n**2
    if cell.gated:
        z = sigmoid(matrix @ h + x @ w["z"]["W_x"] + w["z"]["b"])
        factor = z * factor + n * slope(z)
    return np.eye(H) + cell.epsilon * diagonal(factor) @ matrix


def cornn_jacobian(cell, w, carry, x):
    y, z = carry
    s = diagonal(1 - np.tanh(a(w, x, y) + z @ w["W_z"]) ** 2)
    identity = np.eye(H)
    z_by_y = cell.dt * (s @ w["W_h"].T - cell.gamma * identity)
    z_by_z = identity + cell.dt * (s @ w["W_z"].T - cell.epsilon * identity)
    return np.block([[identity + cell.dt * z_by_y, cell.dt * z_by_z], [z_by_y, z_by_z]])


def unicornn_jacobian(cell, w, carry, x):
    y, _ = carry
    step = cell.dt * sigmoid(w["c"])
    d = (1 - np.tanh(w["w"] * y + x @ w["W_x"] + w["b"]) ** 2) * w["w"] + cell.alpha
    return np.block(
        [
            [diagonal(1 - step**2 * d), diagonal(step)],
            [diagonal(-step * d), np.eye(H)],
        ]
    )


def lem_jacobian(cell, w, carry, x):
    y, z = carry
    s1, s2 = sigmoid(a(w["d1"], x, y)), sigmoid(a(w["d2"], x, y))
    d1, d2 = cell.dt * s1, cell.dt * s2
    u = np.tanh(a(w["z"], x, y))
    v = np.tanh(a(w["y"], x, (1 - d2) * z + d2 * u))
    z_by_z = diagonal(1 - d2)
    z_by_y = diagonal((u - z) * cell.dt * slope(s2)) @ w["d2"]["W_h"].T
    z_by_y = z_by_y + diagonal(d2 * (1 - u**2)) @ w["z"]["W_h"].T
    into_y = diagonal(d1 * (1 - v**2)) @ w["y"]["W_h"].T
    y_by_y = diagonal(1 - d1) + diagonal((v - y) * cell.dt * slope(s1)) @ w["d1"]["W_h"].T
    return np.block([[y_by_y + into_y @ z_by_y, into_y @ z_by_z], [z_by_y, z_by_z]])


def lmu_jacobian(cell, w, carry, x):
    memory, write = legendre_delay(cell.order, cell.theta)
    h_after, _ = lmu(cell, w, carry, x)
    m_by_m = memory + np.outer(write, w["e_m"])
    m_by_h = np.outer(write, w["e_h"])
    s, read = diagonal(1 - h_after**2), w["W_m"].T
    return np.block([[s @ (w["W_h"].T + read @ m_by_h), s @ read @ m_by_m], [m_by_h, m_by_m]])


JACOBIANS = {
    "mgu": mgu_jacobian,
    "janet": janet_jacobian,
    "minimalrnn": minimalrnn_jacobian,
    "antisymmetric": antisymmetric_jacobian,
    "antisymmetric-gated": antisymmetric_jacobian,
    "cornn": cornn_jacobian,
    "unicornn": unicornn_jacobian,
    "lem": lem_jacobian,
    "lmu": lmu_jacobian,
}


@pytest.mark.parametrize("name", JACOBIANS)
def test_jacobians_are_the_closed_forms(name):
    cell = CELLS[name]
    params, carry, xs = generic(cell, seed=3)
    found = jacobians_of(cell, params, xs[:, :1], carry)[:, 0]
    weights = as_numpy(params)
    for row in range(B):
        state = [np.asarray(leaf[row]) for leaf in jax.tree.leaves(carry)]
        expected = JACOBIANS[name](cell, weights, state, np.asarray(xs[row, 0]))
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-13)


# What never fades


def product_of(jacobians):
    total = np.eye(jacobians.shape[-1])
    for jacobian in np.asarray(jacobians):
        total = jacobian @ total
    return total


def test_the_unitary_matrix_is_unitary_wherever_its_parameters_are():
    for seed, size in ((0, 8), (1, 7), (2, 1)):
        cell = URNN(size)
        params = drawn(seed, jax.eval_shape(lambda c=cell: c.init(jax.random.key(0), D)), 3.0)
        matrix = np.asarray(matrix_of(cell, params))
        np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(cell.num_units), atol=1e-13)
        if cell.num_units > 1:
            assert np.abs(matrix).max() < 0.999  # and mixes its units


@pytest.mark.parametrize("cell", [URNN(8), ORNN(8), ORNN(8, activation="identity", num_flipped=3)])
def test_without_a_bias_nothing_fades_and_nothing_grows(cell):
    """Every singular value of a product of 40 Jacobians is one, whatever the input."""
    params = fresh(cell)
    xs = drawn(1, jax.ShapeDtypeStruct((40, D), jnp.float64), 1.0)
    product = product_of(jacobians_of(cell, params, xs))
    np.testing.assert_allclose(np.linalg.svd(product)[1], 1.0, atol=1e-12)
    still = jacobians_of(cell, params, jnp.zeros((3, D)))  # at zero, where |a| has no slope
    np.testing.assert_allclose(np.linalg.svd(product_of(still))[1], 1.0, atol=1e-12)


@pytest.mark.parametrize("cell", [URNN(8), ORNN(8)])
def test_a_unit_that_modrelu_cuts_off_passes_nothing(cell):
    params = fresh(cell)
    params = {**params, "b": params["b"].at[0].set(-100.0)}
    xs = drawn(1, jax.ShapeDtypeStruct((1, D), jnp.float64), 1.0)
    values = np.linalg.svd(jacobians_of(cell, params, xs)[0])[1]
    cut = 2 if isinstance(cell, URNN) else 1  # two real parts a unit
    np.testing.assert_allclose(values, [1.0] * (8 - cut) + [0.0] * cut, atol=1e-12)


def test_the_orthogonal_matrix_stays_orthogonal_after_any_update():
    cell = ORNN(6, num_flipped=2)
    params = fresh(cell)
    assert params["A"].shape == (15,)
    xs = drawn(1, jax.ShapeDtypeStruct((2, 9, D), jnp.float64), 1.0)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(unroll(cell, p, xs).ys))))(params)
    assert np.abs(gradient["A"]).min() > 0.0
    for scale in (0.0, 1.0, 30.0):
        moved = jax.tree.map(lambda p, g, scale=scale: p - scale * g, params, gradient)
        matrix = np.asarray(matrix_of(cell, moved))
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-13)
        np.testing.assert_allclose(np.linalg.det(matrix), 1.0, rtol=1e-12)  # two entries flipped


def test_the_orthogonal_matrix_begins_as_rotations_by_less_than_a_right_angle():
    cell = ORNN(401)
    turned = np.linalg.eigvals(np.asarray(matrix_of(cell, fresh(cell, 1))))
    angles = np.sort(np.abs(np.angle(turned)))
    assert angles[0] < 1e-12  # the odd unit
    assert angles[-1] < np.pi / 2
    np.testing.assert_allclose(angles.mean(), np.pi / 4, atol=5 * np.pi / 2 / np.sqrt(12 * 200))


def test_unicornn_keeps_every_volume():
    """Each unit is a symplectic map of (y, z): determinant one, whatever the step."""
    cell = CELLS["unicornn"]
    params, carry, xs = generic(cell)
    jacobians = np.asarray(jacobians_of(cell, params, xs, carry)).reshape(-1, 2, H, 2, H)
    units = np.einsum("nahbh->nhab", jacobians)
    np.testing.assert_allclose(np.linalg.det(units), 1.0, rtol=1e-13)
    np.testing.assert_array_equal(jacobians * (1 - np.eye(H))[:, None], 0.0)  # and reads no other


@pytest.mark.parametrize("cell", [CoRNN(H, dt=0.0), UnICORNN(H, dt=0.0)])
def test_oscillators_stand_still_without_a_time_step(cell):
    params, carry, xs = generic(cell)
    last = walk(cell, params, xs, carry).carry
    for after, before in zip(jax.tree.leaves(last), jax.tree.leaves(carry), strict=True):
        np.testing.assert_array_equal(after, before)
    jacobians = jacobians_of(cell, params, xs, carry)
    np.testing.assert_array_equal(jacobians, np.broadcast_to(np.eye(2 * H), jacobians.shape))


def test_cornn_without_weights_swings_at_its_own_frequency():
    """y.. = -gamma y - epsilon y. from y = 1: halving dt halves the error of the scheme."""

    def error(dt):
        cell = CoRNN(1, dt=dt, gamma=2.0, epsilon=0.5)
        params = jax.tree.map(jnp.zeros_like, fresh(cell, 1))
        first = OscillatorCarry(y=jnp.ones(1), z=jnp.zeros(1))
        last = walk(cell, params, jnp.zeros((round(3.0 / dt), 1)), first).carry.y[0]
        frequency = np.sqrt(2.0 - 0.0625)
        swing = np.cos(frequency * 3.0) + 0.25 / frequency * np.sin(frequency * 3.0)
        return abs(float(last) - np.exp(-0.75) * swing)

    assert error(0.001) < 1e-3
    np.testing.assert_allclose(error(0.002) / error(0.001), 2.0, rtol=0.01)


def test_janet_with_its_gate_open_keeps_its_state_bit_for_bit():
    cell = JANET(H, beta=0.0)
    params, carry, xs = generic(cell)
    params["f"]["b"] = jnp.full(H, 1e3)
    walked = walk(cell, params, xs, carry)
    for t in range(T):
        np.testing.assert_array_equal(walked.carries[:, t], carry)
    jacobians = jacobians_of(cell, params, xs, carry)
    np.testing.assert_array_equal(jacobians, np.broadcast_to(np.eye(H), jacobians.shape))


def test_janet_without_a_lag_has_gates_that_add_up_to_one():
    cell = JANET(H, beta=0.0)
    params, _, xs = generic(cell)
    params["g"]["b"] = jnp.full(H, 1e3)  # g = 1
    after = cell.step(params, jnp.ones((B, H)), xs[:, 0])
    np.testing.assert_allclose(after, 1.0, rtol=1e-15)


@pytest.mark.parametrize("gate", ["d1", "d2"])
def test_lem_with_a_gate_shut_keeps_that_state(gate):
    cell = LEM(H)
    params, carry, xs = generic(cell)
    params[gate]["b"] = jnp.full(H, -1e3)
    kept = "y" if gate == "d1" else "z"
    last = walk(cell, params, xs, carry).carry
    for leaf in ("y", "z"):
        is_same = np.array_equal(getattr(last, leaf), getattr(carry, leaf))
        assert is_same == (leaf == kept)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_antisymmetric_matrix_has_its_eigenvalues_on_a_vertical_line(gamma):
    cell = AntisymmetricRNN(9, gamma=gamma)
    params = fresh(cell)
    values = np.linalg.eigvals(np.asarray(matrix_of(cell, params)))
    np.testing.assert_allclose(values.real, -gamma, atol=1e-13)
    assert np.abs(values.imag).max() > 1.0
    # A symmetric part of W_h changes nothing.
    both = {**params, "W_h": params["W_h"] + 3.0 * (params["W_h"] + params["W_h"].T)}
    np.testing.assert_allclose(matrix_of(cell, both), matrix_of(cell, params), atol=1e-13)


def test_an_euler_step_of_the_antisymmetric_flow_grows_by_its_step_squared():
    """At rest J = I + epsilon A: with A's eigenvalues i w, singular values sqrt(1 + (eps w)^2)."""
    cell = AntisymmetricRNN(8, epsilon=0.1, gamma=0.0)
    params = fresh(cell)
    jacobian = jacobians_of(cell, params, jnp.zeros((1, D)))[0]
    w = np.linalg.eigvals(np.asarray(matrix_of(cell, params))).imag
    expected = np.sort(np.sqrt(1 + (0.1 * w) ** 2))[::-1]
    np.testing.assert_allclose(np.linalg.svd(jacobian)[1], expected, rtol=1e-12)


# sLSTM: the stabiliser


def test_slstm_does_not_depend_on_its_stabiliser():
    """(c e^-s, n e^-s, m + s) is the same state for any s: outputs and their gradients."""
    cell = SLSTM(H)
    params, carry, xs = generic(cell)
    weights = jnp.cos(jnp.arange(B * T * H, dtype=float)).reshape(B, T, H)

    @jax.jit
    def ys_and_gradient(shift):
        def loss(params):
            scaled = SLSTMCarry(
                h=carry.h,
                c=carry.c * jnp.exp(-shift),
                n=carry.n * jnp.exp(-shift),
                m=carry.m + shift,
            )
            ys = unroll(cell, params, xs, carry=scaled).ys
            return jnp.sum(ys * weights), ys

        return jax.grad(loss, has_aux=True)(params)

    shifts = drawn(7, jax.ShapeDtypeStruct((B, H), jnp.float64), 20.0)
    for shift in (shifts, jnp.full((B, H), 300.0)):
        found, expected = ys_and_gradient(shift), ys_and_gradient(jnp.zeros((B, H)))
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_slstm_is_a_weighted_mean_of_what_was_written():
    """c_T / n_T = sum_k w_k g_k, w_k as i_k f_{k+1} ... f_T: a closed form without a carry."""
    cell = SLSTM(H)
    params, _, xs = generic(cell)
    for gate in "ifgo":
        params[gate]["W_h"] = jnp.zeros((H, H))
    walked = walk(cell, params, xs)
    w = as_numpy(params)
    log_i, a_f, a_g = (np.asarray(xs) @ w[gate]["W_x"] + w[gate]["b"] for gate in "ifg")
    log_f = np.log(sigmoid(a_f))
    later = np.cumsum(log_f[:, ::-1], axis=1)[:, ::-1] - log_f
    share = np.exp(log_i + later)
    mean = np.sum(share * np.tanh(a_g), axis=1) / np.sum(share, axis=1)
    np.testing.assert_allclose(walked.carry.c / walked.carry.n, mean, rtol=1e-12)


def test_slstm_from_rest_does_not_depend_on_its_input_bias():
    """Neither outputs nor gradients, also where exp(a_i) is far below the least number."""
    cell = SLSTM(H)
    params, _, xs = generic(cell)

    @jax.jit
    def ys_and_gradient(by):
        def loss(params):
            moved = {**params, "i": {**params["i"], "b": params["i"]["b"] + by}}
            ys = unroll(cell, moved, xs).ys
            return jnp.sum(jnp.sin(ys)), ys

        return jax.grad(loss, has_aux=True)(params)

    expected = ys_and_gradient(0.0)
    for by in (3.0, -500.0, -2000.0):
        for a, b in zip(*map(jax.tree.leaves, (ys_and_gradient(by), expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [-2000.0, 2000.0])
def test_slstm_survives_an_input_gate_far_out_of_range(bias):
    cell = SLSTM(H)
    params, _, xs = generic(cell)
    params["i"]["b"] = jnp.full(H, bias)

    def loss(params):
        ys = unroll(cell, params, xs).ys
        return jnp.sum(ys), ys

    by, ys = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((by, ys)))
    if bias > 0:  # the newest always wins
        w, x = as_numpy(params), np.asarray(xs[:, 0])
        g = np.tanh(x @ w["g"]["W_x"] + w["g"]["b"])
        o = sigmoid(x @ w["o"]["W_x"] + w["o"]["b"])
        np.testing.assert_allclose(ys[:, 0], o * g, rtol=1e-12)


# LMU: the memory


def test_the_legendre_memory_remembers_a_constant_as_its_mean():
    memory, write = legendre_delay(7, 20.0)
    rest = np.linalg.solve(np.eye(7) - memory, write)
    np.testing.assert_allclose(rest, np.eye(7)[0], atol=1e-12)


def test_the_legendre_memory_is_the_solution_of_its_differential_equation():
    """One step of 1 against 2000 Runge-Kutta steps of theta m. = A m + B u, u held."""
    order, theta = 5, 8.0
    i, j = np.indices((order, order))
    signs = np.where(i < j, -1.0, np.where((i - j + 1) % 2 == 0, 1.0, -1.0))
    a_matrix = (2 * i + 1) * signs
    b_vector = (2 * np.arange(order) + 1) * (-1.0) ** np.arange(order)

    def velocity(m):
        return (a_matrix @ m + b_vector * 0.7) / theta

    m = start = np.random.default_rng(0).normal(size=order)
    dt = 1.0 / 2000
    for _ in range(2000):
        k1 = velocity(m)
        k2 = velocity(m + dt / 2 * k1)
        k3 = velocity(m + dt / 2 * k2)
        k4 = velocity(m + dt * k3)
        m = m + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    memory, write = legendre_delay(order, theta)
    np.testing.assert_allclose(memory @ start + write * 0.7, m, rtol=1e-10)


def test_the_legendre_memory_holds_the_window():
    """The past of a smooth signal, read from m with Legendre polynomials: u(t - r theta)."""
    order, theta, num_steps = 10, 200.0, 1000
    cell = LMU(1, order=order, theta=theta)
    params = jax.tree.map(jnp.zeros_like, fresh(cell, 1))
    params["e_x"] = jnp.ones((1, 1))

    def signal(t):
        return np.sin(2 * np.pi * t / 230.0) + 0.5 * np.cos(2 * np.pi * t / 310.0)

    xs = signal(np.arange(num_steps) + 0.5)[:, None]  # what is held is the middle of each step
    m = walk(cell, params, jnp.asarray(xs)).carry.m
    for r in (0.0, 0.25, 0.5, 0.9, 1.0):
        read = np.polynomial.legendre.legval(2 * r - 1, m)
        np.testing.assert_allclose(read, signal(num_steps - r * theta), atol=0.005)


def test_the_memory_matrices_are_made_once():
    assert legendre_delay(6, 9.0) is legendre_delay(6, 9.0)


# How weights begin


@pytest.mark.parametrize("longest", [100.0, 750.0])
def test_chrono_cells_forget_as_slowly_as_they_are_told(longest):
    """The keep factor of each cell at rest, to the power T_max: 0.148 to 0.149 over units."""

    @jax.jit
    def draw(key):  # XLA leaves out what is not asked for: matrices of this size would not fit
        made = {
            kind.__name__: kind(100_000, chrono_steps=longest).init(jax.random.clone(key), 1)
            for kind in (JANET, MGU, MinimalRNN, SLSTM, LEM, MinGRU, MinLSTM)
        }
        return {name: {gate: g["b"] for gate, g in gates.items()} for name, gates in made.items()}

    b = as_numpy(draw(jax.random.key(0)))
    f, i = (sigmoid(b["MinLSTM"][gate]) for gate in "fi")
    found = {
        "janet": sigmoid(b["JANET"]["f"]),
        "mgu": 1 - sigmoid(b["MGU"]["f"]),
        "minimalrnn": sigmoid(b["MinimalRNN"]["u"]),
        "slstm": sigmoid(b["SLSTM"]["f"]),
        "lem, y": 1 - sigmoid(b["LEM"]["d1"]),
        "lem, z": 1 - sigmoid(b["LEM"]["d2"]),
        "mingru": 1 - sigmoid(b["MinGRU"]["z"]),
        "minlstm": f / (f + i),
    }
    slowest, expected = (1 - 1 / longest) ** longest, {100.0: 0.149, 750.0: 0.148}[longest]
    for name, keep in found.items():
        # One standard error of the mean over units is below 0.0005.
        np.testing.assert_allclose(np.mean(keep**longest), expected, atol=0.002, err_msg=name)
        assert keep.max() ** longest <= slowest * (1 + 1e-12), name
    assert np.abs(found["lem, y"] - found["lem, z"]).max() > 0.1  # drawn apart


@pytest.mark.parametrize(
    ("cell", "gate", "bias"),
    [
        (MGU(H, update_bias=-2.0), "f", -2.0),
        (JANET(H, forget_bias=3.0), "f", 3.0),
        (MinimalRNN(H, update_bias=2.0), "u", 2.0),
        (SLSTM(H, forget_bias=4.0), "f", 4.0),
        (LEM(H, update_bias=-1.0), "d1", -1.0),
        (LEM(H, update_bias=-1.0), "d2", -1.0),
    ],
)
def test_gate_biases_stand_in_the_weights(cell, gate, bias):
    params = fresh(cell)
    np.testing.assert_array_equal(params[gate]["b"], bias)
    others = [leaves["b"] for name, leaves in params.items() if name not in (gate, "d1", "d2")]
    assert others
    np.testing.assert_array_equal(np.stack(others), 0.0)


@pytest.mark.parametrize("kind", [MGU, JANET, MinimalRNN, SLSTM, LEM, CoRNN])
def test_recurrent_matrices_have_the_gain_they_are_told(kind):
    params = fresh(kind(16, weight_init=Init(gain=0.5)))
    matrices = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key in ("W_h", "W_z")
    ]
    for matrix in matrices:
        np.testing.assert_allclose(np.linalg.svd(matrix)[1], 0.5, rtol=1e-12)
    assert len({float(matrix[0, 0]) for matrix in matrices}) == len(matrices)  # drawn apart


def test_the_positive_candidate_of_the_minimal_cells():
    """g(a) = a + 1/2 from zero on, sigmoid(a) below: continuous, and so is its slope's side."""
    a_n = np.array([-3.0, -1e-9, 0.0, 2.0])
    expected = np.where(a_n >= 0, a_n + 0.5, sigmoid(a_n))
    for cell, gate in ((MinGRU(4, positive=True), "z"), (MinLSTM(4, positive=True), "i")):
        params = jax.tree.map(jnp.zeros_like, fresh(cell, 1))
        params["n"]["b"] = jnp.asarray(a_n)
        params[gate]["b"] = jnp.full(4, 50.0)
        if gate == "i":
            params["f"]["b"] = jnp.full(4, -50.0)
        after = cell.step(params, jnp.full(4, 9.0), jnp.zeros(1))
        np.testing.assert_allclose(after, expected, rtol=1e-12)
    assert not MinGRU(4).positive


# The critical gain


@pytest.mark.parametrize("input_variance", [1e-8, 0.01, 0.3, 1.0, 5.0])
def test_at_the_critical_gain_chi_is_one(input_variance):
    gain = critical_gain(input_variance)
    assert gain > 1.0
    assert abs(mean_field_tanh(gain, input_variance).chi - 1.0) < 1e-12
    assert mean_field_tanh(0.99 * gain, input_variance).chi < 1.0
    assert mean_field_tanh(1.01 * gain, input_variance).chi > 1.0


def test_without_input_the_critical_gain_is_one_and_input_asks_for_more():
    assert critical_gain(0.0) == 1.0
    gains = [critical_gain(variance) for variance in (0.0, 0.01, 0.1, 1.0, 10.0)]
    assert gains == sorted(gains)
    with pytest.raises(InputError, match=r"input_variance=-1.0, expected 0 or more"):
        critical_gain(-1.0)
    with pytest.raises(InputError, match="input_variance=nan"):
        critical_gain(float("nan"))


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_measured_growth_at_the_critical_gain_is_none(kind):
    """Typical gradient of a wide tanh RNN under white input of variance 1, nats per step."""

    def measured(gain, num_steps=60, size=400):
        cell = RNN(size, weight_init=Init(recurrent=kind, gain=gain, input_gain=1.0))
        params = cell.init(jax.random.key(1), 100)
        xs = drawn(2, jax.ShapeDtypeStruct((num_steps, 100), jnp.float64), 1.0)
        hs = np.asarray(walk(cell, params, xs).ys)
        back = np.random.default_rng(3).normal(size=(16, size))  # gradients, 16 at once
        logs = []
        for h in hs[:9:-1]:  # behind the transient
            back = (back * (1 - h**2)) @ np.asarray(params["W_h"]).T
            logs.append(0.5 * np.log(np.mean(back**2)))
        return np.polyfit(np.arange(len(logs)), logs, 1)[0]

    gain = critical_gain(1.0)
    assert abs(measured(gain)) < 0.01
    assert measured(1.0) < -0.3  # at gain one the same input makes it fade
    theory = mean_field_tanh(1.2 * gain, 1.0).log_slope
    assert abs(measured(1.2 * gain) - theory) < 0.01


# Fields that cannot be used


BAD_FIELDS = {
    "units": (lambda: LMU(0), r"LMU\(hidden_size=0\)"),
    "chrono": (lambda: JANET(3, chrono_steps=2), r"JANET\(chrono_steps=2\): expected more than 2"),
    "order": (lambda: LMU(3, order=0), r"LMU\(order=0, theta=100.0\): expected"),
    "theta": (lambda: LMU(3, theta=0.0), r"LMU\(order=16, theta=0.0\): expected"),
    "dt": (lambda: LEM(3, dt=1.5), r"LEM\(dt=1.5\): expected more than 0, at most 1"),
    "damping": (lambda: CoRNN(3, epsilon=-1.0), r"CoRNN\(epsilon=-1.0\): expected 0 or more"),
    "stiffness": (lambda: UnICORNN(3, alpha=-1.0), r"UnICORNN\(alpha=-1.0\): expected 0 or"),
    "epsilon": (lambda: AntisymmetricRNN(3, epsilon=0.0), r"epsilon=0.0, gamma=0.01\): expected"),
    "activation": (lambda: ORNN(3, activation="x"), r"ORNN\(activation='x'\): expected one of mod"),
    "flips": (lambda: ORNN(3, num_flipped=4), r"ORNN\(num_flipped=4\): expected 0 to hidden_size"),
}


@pytest.mark.parametrize("what", BAD_FIELDS)
def test_a_field_that_cannot_be_used_is_told_in_one_line(what):
    make, message = BAD_FIELDS[what]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "carry"),
    [
        (CoRNN(H), OscillatorCarry(y=jnp.ones(H), z=jnp.zeros(H))),
        (UnICORNN(H), OscillatorCarry(y=jnp.ones(H), z=jnp.zeros(H))),
        (LEM(H), LEMCarry(y=jnp.ones(H), z=jnp.zeros(H))),
        (LMU(H), LMUCarry(h=jnp.ones(H), m=jnp.zeros(16))),
    ],
)
def test_what_the_outside_sees(cell, carry):
    np.testing.assert_array_equal(cell.output(carry), 1.0)
