"""Cells: how their weights begin, what each variant changes, and how they are found by name."""

import dataclasses
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells import lstm
from seqlab.cells.affine import Init, affine, chrono_bias, init_affine, init_matrix
from seqlab.cells.gru import GRU
from seqlab.cells.lookup import CELLS, lookup
from seqlab.cells.lstm import LSTM, GatedCarry, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.errors import InputError
from seqlab.recurrence import unroll

D, H = 3, 5


def normal(seed, *shape):
    """Drawn by numpy: in JAX every new shape is a program to compile."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def drawn_params(cell, seed=0, num_features=D):
    """All parameters N(0, 1/4): nothing stays at a first value that would hide it."""
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), num_features))
    rng = np.random.default_rng(seed + 100)
    return jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


def recurrent_matrices(params):
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if is_square(path)]


def is_square(path):
    return path[-1].key in ("W_h", "W_i", "W_f", "W_o")


# How weights begin


@pytest.mark.parametrize("gain", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("name", ["rnn", "lstm", "lstm-fgr", "gru", "gru-after"])
def test_orthogonal_weights_have_the_gain_as_every_singular_value_per_gate(x64, name, gain):
    cell = CELLS[name](hidden_size=16, weight_init=Init(gain=gain))
    matrices = recurrent_matrices(cell.init(jax.random.key(0), D))
    assert len(matrices) == {"rnn": 1, "lstm": 4, "lstm-fgr": 13, "gru": 3, "gru-after": 3}[name]
    for matrix in matrices:
        np.testing.assert_allclose(np.linalg.svd(matrix)[1], gain, rtol=1e-12)
    for a in range(len(matrices)):  # drawn apart
        for b in range(a):
            assert np.abs(matrices[a] - matrices[b]).max() > 0.01


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_gaussian_weights_have_variance_gain_squared_over_fan_in(x64, shape):
    matrix = np.asarray(init_matrix(jax.random.key(0), shape, "gaussian", 1.5))
    expected = 1.5**2 / shape[0]
    error = 5 * expected * np.sqrt(2.0 / matrix.size)  # five standard errors of a variance
    assert abs(matrix.var() - expected) < error
    assert abs(matrix.mean()) < 5 * np.sqrt(expected / matrix.size)
    standard = matrix / np.sqrt(expected)
    assert abs(np.mean(standard**4) - 3.0) < 5 * np.sqrt(96.0 / matrix.size)  # and are normal


def test_the_spectral_radius_of_a_gaussian_matrix_is_its_gain(x64):
    matrix = init_matrix(jax.random.key(0), (400, 400), "gaussian", 1.3)
    radius = np.abs(np.linalg.eigvals(np.asarray(matrix))).max()
    np.testing.assert_allclose(radius, 1.3, rtol=0.08)  # the circular law, at a finite size


def test_glorot_weights_are_uniform_within_their_limit(x64):
    matrix = np.asarray(init_matrix(jax.random.key(0), (200, 100), "glorot", 2.0))
    limit = 2.0 * np.sqrt(6.0 / 300.0)
    assert np.abs(matrix).max() <= limit
    assert np.abs(matrix).max() > 0.999 * limit
    counts = np.histogram(matrix, bins=10, range=(-limit, limit))[0]
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))


def test_identity_weights(x64):
    np.testing.assert_array_equal(
        init_matrix(jax.random.key(0), (4, 4), "identity", 0.01), 0.01 * np.eye(4)
    )
    params = CELLS["irnn"](hidden_size=4).init(jax.random.key(0), D)
    np.testing.assert_array_equal(params["W_h"], np.eye(4))
    np.testing.assert_array_equal(params["b"], 0.0)
    assert np.abs(params["W_x"]).max() < 0.01
    with pytest.raises(ValueError, match=r"an identity matrix is square, not \(3, 5\)"):
        RNN(H, weight_init=Init(input="identity")).init(jax.random.key(0), D)


def test_input_weights_have_their_own_kind_and_gain(x64):
    init = Init(recurrent="identity", input="orthogonal", input_gain=0.2)
    params = RNN(H, weight_init=init).init(jax.random.key(0), D)
    np.testing.assert_allclose(np.linalg.svd(params["W_x"])[1], 0.2, rtol=1e-12)


@pytest.mark.parametrize("longest", [100.0, 750.0, 2000.0])
def test_chrono_biases_spread_keep_times(x64, longest):
    """b = log u, u ~ U[1, T - 1]; the unit average of f^T is 0.148 to 0.149 (science.md 1.6)."""
    b = np.asarray(chrono_bias(jax.random.key(0), 200_000, longest))
    u = np.exp(b)
    assert u.min() >= 1.0
    assert u.max() <= longest - 1.0
    spread = longest - 2.0
    np.testing.assert_allclose(u.mean(), longest / 2.0, atol=5 * spread / np.sqrt(12 * u.size))
    np.testing.assert_allclose(u.var(), spread**2 / 12.0, rtol=0.01)
    f = sigmoid(b)
    np.testing.assert_allclose(f, 1.0 - 1.0 / (1.0 + u), rtol=1e-13)
    slowest = (1.0 - 1.0 / longest) ** longest
    assert f.max() ** longest <= slowest
    if longest == 100.0:
        assert round(slowest, 4) == 0.3660
    average = np.mean(f**longest)
    assert 0.147 < average < 0.150
    np.testing.assert_allclose(average, {100: 0.149, 750: 0.148, 2000: 0.148}[longest], atol=1e-3)


def test_chrono_biases_of_cells(x64):
    params = LSTM(50, chrono_steps=20.0).init(jax.random.key(0), D)
    np.testing.assert_array_equal(params["i"]["b"], -params["f"]["b"])
    assert np.all((params["f"]["b"] >= 0.0) & (params["f"]["b"] <= np.log(19.0)))
    for name in "go":
        np.testing.assert_array_equal(params[name]["b"], 0.0)
    key = jax.random.key(1)
    writes = GRU(50, chrono_steps=20.0).init(key, D)["z"]["b"]
    keeps = GRU(50, chrono_steps=20.0, z_multiplies="state").init(jax.random.key(1), D)["z"]["b"]
    assert np.all(writes <= 0.0)
    np.testing.assert_array_equal(writes, -keeps)


@pytest.mark.parametrize("bias", [0.0, 1.0, 5.0])
def test_the_forget_bias_stands_in_the_weights(bias):
    params = LSTM(H, forget_bias=bias).init(jax.random.key(0), D)
    np.testing.assert_array_equal(params["f"]["b"], bias)
    for name in "igo":
        np.testing.assert_array_equal(params[name]["b"], 0.0)
    assert LSTM(H).forget_bias == 1.0


def test_the_update_bias_stands_in_the_weights():
    params = GRU(H, update_bias=-2.0).init(jax.random.key(0), D)
    np.testing.assert_array_equal(params["z"]["b"], -2.0)
    np.testing.assert_array_equal(params["r"]["b"], 0.0)


def test_init_affine_and_affine(x64):
    params = init_affine(jax.random.key(0), D, H, bias=0.5)
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "W_x": (D, H),
        "W_h": (H, H),
        "b": (H,),
    }
    x, h = normal(1, 2, D), normal(2, 2, H)
    weights = as_numpy(params)
    by_hand = np.asarray(x) @ weights["W_x"] + np.asarray(h) @ weights["W_h"] + weights["b"]
    np.testing.assert_allclose(affine(params, x, h), by_hand, rtol=1e-13)
    with pytest.raises(ValueError, match="x has 4 features, its weights expect 3"):
        affine(params, normal(1, 2, 4), h)
    with pytest.raises(ValueError, match="h has 6 features, its weights expect 5"):
        affine(params, x, normal(2, 2, 6))


# Equations, by hand in numpy


def test_rnn_activations(x64):
    x, h = normal(1, D), normal(2, H)
    functions = {
        "tanh": np.tanh,
        "sigmoid": sigmoid,
        "relu": lambda a: np.maximum(a, 0.0),
        "identity": lambda a: a,
    }
    for name, function in functions.items():
        cell = RNN(H, activation=name)
        params = drawn_params(cell)
        w = as_numpy(params)
        by_hand = function(np.asarray(x) @ w["W_x"] + np.asarray(h) @ w["W_h"] + w["b"])
        np.testing.assert_allclose(cell.step(params, h, x), by_hand, rtol=1e-13)


def gru_by_hand(cell, w, h, x):
    def a(name, h):
        return x @ w[name]["W_x"] + h @ w[name]["W_h"] + w[name]["b"]

    r, z = sigmoid(a("r", h)), sigmoid(a("z", h))
    if cell.reset == "before":
        n = np.tanh(a("n", r * h))
    else:
        inner = h @ w["n"]["W_h"] + w["n"]["b_h"]
        n = np.tanh(x @ w["n"]["W_x"] + w["n"]["b"] + r * inner)
    if cell.z_multiplies == "state":
        return z * h + (1 - z) * n
    return (1 - z) * h + z * n


@pytest.mark.parametrize("z_multiplies", ["candidate", "state"])
@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru_equations(x64, reset, z_multiplies):
    cell = GRU(H, reset=reset, z_multiplies=z_multiplies)
    params = drawn_params(cell)
    h, x = normal(1, 4, H), normal(2, 4, D)
    expected = gru_by_hand(cell, as_numpy(params), np.asarray(h), np.asarray(x))
    np.testing.assert_allclose(cell.step(params, h, x), expected, rtol=1e-13)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_the_two_uses_of_z_are_one_model_with_its_signs_turned(x64, reset):
    candidate, state = GRU(H, reset=reset), GRU(H, reset=reset, z_multiplies="state")
    params = drawn_params(candidate)
    turned = {**params, "z": jax.tree.map(jnp.negative, params["z"])}
    xs = normal(2, 6, D)
    ours, theirs = unroll(candidate, params, xs), unroll(state, turned, xs)
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=1e-12, atol=1e-14)


def test_the_two_resets_are_two_functions(x64):
    before, after = GRU(H), GRU(H, reset="after")
    params = drawn_params(before)
    both = {**params, "n": {**params["n"], "b_h": jnp.zeros(H)}}
    h, x = normal(1, H), normal(2, D)
    assert np.abs(before.step(params, h, x) - after.step(both, h, x)).max() > 0.01


ACTIVATIONS = {"tanh": np.tanh, "identity": lambda a: a}


def lstm_by_hand(cell, w, carry, x):
    """The equations of Greff et al., 2017, with everything that an LSTM can have."""
    h, c = carry["h"], carry["c"]

    def a(name):
        total = x @ w[name]["W_x"] + h @ w[name]["W_h"] + w[name]["b"]
        if cell.gate_recurrence and name != "g":
            total = total + sum(carry[source] @ w[name][f"W_{source}"] for source in "ifo")
        return total

    def peephole(name, c):
        return w[name]["p"] * c if cell.peepholes else 0.0

    def gate(name, clamp, c):
        if clamp is not None:
            return np.full_like(h, clamp)
        return sigmoid(a(name) + peephole(name, c))

    i = gate("i", cell.input_gate, c)
    f = 1.0 - i if cell.coupled else gate("f", cell.forget_gate, c)
    g = ACTIVATIONS[cell.input_activation](a("g"))
    new = f * c + i * g
    o = gate("o", cell.output_gate, new)  # the peephole sees the new cell
    return {"h": o * ACTIVATIONS[cell.output_activation](new), "c": new, "i": i, "f": f, "o": o}


LSTMS = {name: cell for name, cell in CELLS.items() if name.startswith("lstm")}


@pytest.mark.parametrize("name", LSTMS)
def test_lstm_equations(x64, name):
    cell = LSTMS[name](hidden_size=H)
    params = drawn_params(cell)
    x = normal(9, 4, D)
    first = cell.initial_carry(params, (4,))
    fields = [field.name for field in dataclasses.fields(first)]
    carry = type(first)(**{field: normal(k, 4, H) for k, field in enumerate(fields)})
    found = cell.step(params, carry, x)
    given = {field: np.asarray(getattr(carry, field)) for field in fields}
    expected = lstm_by_hand(cell, as_numpy(params), given, np.asarray(x))
    for field in fields:
        np.testing.assert_allclose(getattr(found, field), expected[field], rtol=1e-12)


def test_each_variant_of_greff_changes_one_thing():
    vanilla = lstm.Vanilla(H)
    assert vanilla.peepholes
    changes = {
        "NIG": {"input_gate": 1.0},
        "NFG": {"forget_gate": 1.0},
        "NOG": {"output_gate": 1.0},
        "NIAF": {"input_activation": "identity"},
        "NOAF": {"output_activation": "identity"},
        "NP": {"peepholes": False},
        "CIFG": {"coupled": True},
        "FGR": {"gate_recurrence": True},
    }
    for name, change in changes.items():
        variant = getattr(lstm, name)(H)
        assert variant == dataclasses.replace(vanilla, **change), name
        assert variant != vanilla, name
        assert CELLS[f"lstm-{name.lower()}"](hidden_size=H) == variant
    assert CELLS["lstm-vanilla"](hidden_size=H) == vanilla
    assert CELLS["lstm-1997"](hidden_size=H) == LSTM(H, forget_gate=1.0)


def num_parameters(cell):
    return sum(leaf.size for leaf in jax.tree.leaves(cell.init(jax.random.key(0), D)))


def test_what_the_variants_add():
    plain = num_parameters(LSTM(H))
    assert plain == 4 * (D * H + H * H + H)
    assert num_parameters(lstm.Vanilla(H)) == plain + 3 * H
    assert num_parameters(lstm.FGR(H)) == plain + 3 * H + 9 * H * H
    assert num_parameters(RNN(H)) == D * H + H * H + H
    assert num_parameters(GRU(H)) == 3 * (D * H + H * H + H)
    assert num_parameters(GRU(H, reset="after")) == 3 * (D * H + H * H + H) + H
    params = lstm.FGR(H).init(jax.random.key(0), D)
    for name in "ifo":
        assert set(params[name]) == {"W_x", "W_h", "b", "p", "W_i", "W_f", "W_o"}
    assert set(params["g"]) == {"W_x", "W_h", "b"}
    first = lstm.FGR(H).initial_carry(params, (2,))
    assert isinstance(first, GatedCarry)
    assert all(np.count_nonzero(leaf) == 0 for leaf in jax.tree.leaves(first))


def test_coupled_gates_keep_what_they_do_not_write(x64):
    cell = lstm.CIFG(H)
    params = drawn_params(cell)
    # With g = 1 and c = 1 the cell is f + i = 1, whatever the gates.
    params["g"]["b"] = jnp.full(H, 1e3)
    carry = LSTMCarry(h=normal(1, H), c=jnp.ones(H))
    np.testing.assert_allclose(cell.step(params, carry, normal(2, D)).c, 1.0, rtol=1e-15)


def idle_gates(cell):
    clamps = {"i": cell.input_gate, "f": cell.forget_gate, "o": cell.output_gate}
    return {gate for gate, clamp in clamps.items() if clamp is not None} | (
        {"f"} if cell.coupled else set()
    )


@pytest.mark.parametrize("name", LSTMS)
def test_idle_parameters_stay_with_zero_gradient_and_no_others_do(x64, name):
    cell = LSTMS[name](hidden_size=H)
    params = drawn_params(cell)
    xs = normal(1, 2, 6, D)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(jnp.sin(unroll(cell, p, xs).ys)))(params)

    by = gradient(params)
    assert set(by) == set("ifgo")  # ablations share checkpoints
    for gate, leaves in by.items():
        for leaf, value in leaves.items():
            if gate in idle_gates(cell):
                np.testing.assert_array_equal(value, 0.0, err_msg=f"{gate}.{leaf}")
            else:
                assert np.all(np.asarray(value) != 0.0), f"{gate}.{leaf}"


@pytest.mark.parametrize("clamp", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("field", ["input_gate", "forget_gate", "output_gate"])
def test_a_gate_may_be_clamped_to_any_constant(x64, field, clamp):
    cell = LSTM(H, **{field: clamp})
    params = drawn_params(cell)
    carry = LSTMCarry(h=normal(1, H), c=normal(2, H))
    x = normal(3, D)
    expected = lstm_by_hand(
        cell, as_numpy(params), {"h": np.asarray(carry.h), "c": np.asarray(carry.c)}, np.asarray(x)
    )
    found = cell.step(params, carry, x)
    np.testing.assert_allclose(found.c, expected["c"], rtol=1e-12)
    np.testing.assert_allclose(found.h, expected["h"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CELLS)
def test_the_first_carry_is_zero_in_the_dtype_of_the_weights(name):
    cell = CELLS[name](hidden_size=H)
    params = cell.init(jax.random.key(0), D)
    width = getattr(cell, "num_units", H)
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        for batch_shape in ((), (2,), (2, 3)):
            first = cell.initial_carry(cast, batch_shape)
            for leaf in jax.tree.leaves(first):
                is_memory = name == "lmu" and leaf is first.m
                assert leaf.shape == (*batch_shape, cell.order if is_memory else width)
                assert leaf.dtype == dtype
                is_stabiliser = name == "slstm" and leaf is first.m
                assert np.all(leaf == (jnp.finfo(dtype).min / 2 if is_stabiliser else 0))


def test_init_is_a_function_of_its_key():
    for name, make in CELLS.items():
        cell = make(hidden_size=H)
        first, again = cell.init(jax.random.key(0), D), cell.init(jax.random.key(0), D)
        other = cell.init(jax.random.key(1), D)
        same = jax.tree.map(np.array_equal, first, again)
        assert all(jax.tree.leaves(same)), name
        assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, first, other))), name


# Equality, names, what cannot be used


@pytest.mark.parametrize("name", CELLS)
def test_equal_cells_compare_hash_and_print_equal(name):
    one, two = CELLS[name](hidden_size=H), CELLS[name](hidden_size=H)
    assert one == two
    assert hash(one) == hash(two)
    assert repr(one) == repr(two)
    assert "hidden_size=5" in repr(one)
    assert one != CELLS[name](hidden_size=H + 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.hidden_size = 7


def test_an_equal_cell_is_not_compiled_again():
    traced = []

    @partial(jax.jit, static_argnums=0)
    def step(cell, params, carry, x):
        traced.append(cell)
        return cell.step(params, carry, x)

    for _ in range(2):
        cell = GRU(H)
        params = cell.init(jax.random.key(0), D)
        step(cell, params, cell.initial_carry(params), jnp.zeros(D))
    assert len(traced) == 1


def test_lookup_finds_every_name():
    assert lookup("lstm") is LSTM
    assert lookup("gru")(hidden_size=3) == GRU(3)
    for name in CELLS:
        assert lookup(name)(hidden_size=3).hidden_size == 3
    assert lookup("gru-torch")(hidden_size=3) == GRU(3, reset="after", z_multiplies="state")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("lstn", "did you mean 'lstm'"), ("gru-afer", "'gru-after'"), ("LSTM", "did you mean 'lstm'")],
)
def test_lookup_of_a_misspelt_name_names_the_nearest(wrong, hint):
    with pytest.raises(InputError, match=f"unknown cell '{wrong}'.*{hint}"):
        lookup(wrong)


def test_lookup_of_a_strange_name_lists_what_there_is():
    with pytest.raises(InputError) as error:
        lookup("perceptron9000")
    message = str(error.value)
    assert "\n" not in message
    assert "did you mean" not in message
    assert all(name in message for name in CELLS)
    assert "package.module:Class" in message


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    source = (
        "from dataclasses import dataclass\n"
        "from functools import partial\n"
        "from seqlab.cells.rnn import RNN\n"
        "class Own(RNN):\n"
        "    pass\n"
        "Linear = partial(RNN, activation='identity')\n"
        "class Half:\n"
        "    def init(self, key, input_size): ...\n"
        "    def step(self, params, carry, x): ...\n"
        "number = 3\n"
    )
    (tmp_path / "own_cells_for_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_cells_for_a_test"
    sys.modules.pop("own_cells_for_a_test", None)


def test_lookup_of_your_own_cell(own_module):
    assert lookup(f"{own_module}:Own")(hidden_size=3).hidden_size == 3
    assert lookup(f"{own_module}:Linear")(hidden_size=3).activation == "identity"
    assert lookup("seqlab.cells.gru:GRU") is GRU


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_anywhere:Cell", "cannot import 'no_such_module_anywhere'"),
        ("seqlab.cells.gru:Gru", "module 'seqlab.cells.gru' has no 'Gru'"),
        ("own_cells_for_a_test:Half", "Half lacks initial_carry, output"),
        ("own_cells_for_a_test:number", "number lacks init, initial_carry, step, output"),
        (":Cell", "cell ':Cell'"),
        ("seqlab.cells.gru:", "cell 'seqlab.cells.gru:'"),
        (".relative:Cell", "cell '.relative:Cell'"),
    ],
)
def test_lookup_of_a_cell_that_is_not_there(own_module, name, message):
    with pytest.raises(InputError, match=message) as error:
        lookup(name)
    assert "\n" not in str(error.value)


BAD_FIELDS = {
    "no units": (lambda: RNN(0), r"RNN\(hidden_size=0\): expected a whole number"),
    "minus": (lambda: GRU(-1), r"GRU\(hidden_size=-1\)"),
    "half a unit": (lambda: LSTM(2.5), r"LSTM\(hidden_size=2.5\)"),
    "activation": (lambda: RNN(3, activation="tahn"), r"RNN\(activation='tahn'\): expected .*tanh"),
    "input": (lambda: LSTM(3, input_activation="x"), r"LSTM\(input_activation='x'\): expected"),
    "output": (lambda: LSTM(3, output_activation="x"), r"LSTM\(output_activation='x'\): expected"),
    "gate": (lambda: LSTM(3, forget_gate=1.5), r"LSTM\(forget_gate=1.5\): .*from 0 to 1"),
    "gate nan": (lambda: LSTM(3, output_gate=float("nan")), r"LSTM\(output_gate=nan\)"),
    "coupled": (lambda: LSTM(3, coupled=True, forget_gate=1.0), "coupled=True already sets f"),
    "reset": (lambda: GRU(3, reset="never"), r"GRU\(reset='never'\): expected 'before' or 'after'"),
    "z": (lambda: GRU(3, z_multiplies="h"), r"GRU\(z_multiplies='h'\): expected 'candidate' or"),
    "chrono": (lambda: LSTM(3, chrono_steps=2), r"LSTM\(chrono_steps=2\): expected more than 2"),
    "chrono gru": (lambda: GRU(3, chrono_steps=1.0), r"GRU\(chrono_steps=1.0\)"),
    "init": (lambda: Init(recurrent="orthogonl"), r"Init\(recurrent='orthogonl'\): expected one"),
    "init input": (lambda: Init(input="he"), r"Init\(input='he'\): expected one of orthogonal"),
    "kind": (lambda: init_matrix(jax.random.key(0), (2, 2), "he"), "initialiser 'he': expected"),
}


@pytest.mark.parametrize("what", BAD_FIELDS)
def test_a_field_that_cannot_be_used_is_told_in_one_line(what):
    make, message = BAD_FIELDS[what]
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
