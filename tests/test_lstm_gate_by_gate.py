"""The rungs of the ladder, what is counted, what is held to what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lstm_gate_by_gate import (
    LADDER,
    RUNGS,
    VARIANTS,
    Config,
    Found,
    Study,
    build,
    check,
    differences,
    examine,
    is_every_step,
    ladder_checks,
    live_parameters,
    measure,
    parameters_of,
    preservation_checks,
    sized,
    without_memory,
)
from seqlab.cells.lstm import LSTM
from seqlab.data.problems import load_problem
from seqlab.data.synthetic import COPY_LENGTH
from seqlab.errors import InputError
from seqlab.gradflow.gates import gate_activations
from seqlab.recurrence import unroll

INPUTS = 2


def study(dataset="adding", seq_len=30, **fields):
    config = Config(dataset=dataset, seq_len=seq_len, **fields)
    problem = load_problem(dataset, seq_len=seq_len, every_step=is_every_step(dataset))
    return Study(config, problem, None, None, None, 1.0)


@pytest.mark.parametrize("name", RUNGS)
def test_live_parameters_are_those_with_a_gradient(name):
    cell = RUNGS[name].make(hidden_size=3)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (5, INPUTS))

    def loss(params):  # by the plain steps, so that the loop has no part in it
        carry = cell.initial_carry(params)
        for x in xs:
            carry = cell.step(params, carry, x)
        return jnp.sum(cell.output(carry) * jnp.arange(1.0, 4.0))

    grads = jax.tree.leaves(jax.grad(loss)(params))
    assert all(np.all(grad != 0) or not np.any(grad) for grad in grads)
    assert live_parameters(cell, INPUTS) == sum(grad.size for grad in grads if np.any(grad))


@pytest.mark.parametrize(
    ("name", "gates", "peepholes", "squares"),
    [
        ("rnn", 1, 0, 0), ("additive", 1, 0, 0), ("forget", 2, 0, 0), ("input", 3, 0, 0),
        ("output", 4, 0, 0), ("vanilla", 4, 3, 0), ("nig", 3, 2, 0), ("nfg", 3, 2, 0),
        ("nog", 3, 2, 0), ("niaf", 4, 3, 0), ("noaf", 4, 3, 0), ("np", 4, 0, 0),
        ("cifg", 3, 2, 0), ("fgr", 4, 3, 9),
    ],
)  # fmt: skip
def test_live_parameters_are_as_many_as_written_down(name, gates, peepholes, squares):
    size = 5
    expected = gates * (INPUTS * size + size**2 + size) + peepholes * size + squares * size**2
    assert live_parameters(RUNGS[name].make(hidden_size=size), INPUTS) == expected


@pytest.mark.parametrize("name", RUNGS)
def test_equal_parameters_are_as_near_as_can_be(name):
    own = study(equal="parameters", hidden_size=8)
    cell = sized(name, own)
    wanted = parameters_of(LSTM(8), own)
    gap = abs(parameters_of(cell, own) - wanted)
    for size in (cell.hidden_size - 1, cell.hidden_size + 1):
        if size:
            other = parameters_of(RUNGS[name].make(hidden_size=size), own)
            assert gap <= abs(other - wanted)


def test_parameters_are_those_of_the_whole_net():
    for dataset in ("adding", "embedded"):
        own = study(dataset, hidden_size=4)
        params = build(LSTM(4), own).init(jax.random.key(0))
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert parameters_of(LSTM(4), own) == count


def test_rungs_of_the_ladder_are_their_equations():
    x, h, c = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    params = LSTM(4).init(jax.random.key(0), 4)
    a = {k: np.asarray(x @ p["W_x"] + h @ p["W_h"] + p["b"]) for k, p in params.items()}
    i, f, o = (1.0 / (1.0 + np.exp(-a[name])) for name in "ifo")
    g = np.tanh(a["g"])
    expected = {
        "additive": (c + g, 1.0),
        "forget": (f * c + g, 1.0),
        "input": (f * c + i * g, 1.0),
        "output": (f * c + i * g, o),
    }
    for name, (new, gate) in expected.items():
        cell = LADDER[name].make(hidden_size=4)
        carry = cell.initial_carry(params).replace(h=jnp.asarray(h), c=jnp.asarray(c))
        after = cell.step(params, carry, jnp.asarray(x))
        np.testing.assert_allclose(after.c, new, rtol=2e-6)
        np.testing.assert_allclose(after.h, gate * np.tanh(new), rtol=2e-6)


def test_rungs_begin_with_the_same_weights_in_the_gates_that_they_share():
    plain = RUNGS["output"].make(hidden_size=4).init(jax.random.key(0), INPUTS)
    for name in RUNGS:
        if name in ("rnn", "cifg"):  # one gate alone; coupled, b^i begins at minus the forget bias
            continue
        params = RUNGS[name].make(hidden_size=4).init(jax.random.key(0), INPUTS)
        for gate, leaves in plain.items():
            for leaf, values in leaves.items():
                np.testing.assert_array_equal(params[gate][leaf], values)


def test_np_is_the_top_of_the_ladder_and_all_others_differ():
    cells = {name: rung.make(hidden_size=4) for name, rung in RUNGS.items()}
    assert cells["np"] == cells["output"]
    assert len(set(cells.values())) == len(RUNGS) - 1
    assert all(rung.beside in RUNGS for name, rung in RUNGS.items() if name != "rnn")
    assert {rung.beside for name, rung in VARIANTS.items() if name != "vanilla"} == {"vanilla"}


def test_the_direct_path_is_the_product_of_forget_gates(x64):
    own = study(hidden_size=4)
    cell = RUNGS["output"].make(hidden_size=4)
    model = build(cell, own)
    params = model.init(jax.random.key(0))
    batch = own.problem.sample(np.random.default_rng(0), 3, False)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), batch._replace(mask=None))
    found = examine(model, cell, params, batch, own.problem)
    weights = params["rnn"]["weights"]
    f = np.asarray(gate_activations(cell, weights, batch.xs)["f"])
    np.testing.assert_array_equal(found["gates"]["f"], f)

    # Into c_T the last error comes by h_T = o tanh(c_T) alone, and from there by f alone.
    end = unroll(cell, weights, batch.xs).carry
    logits = model.apply(params, batch.xs).logits
    error = 2.0 * (logits - batch.targets) @ params["head"]["kernel"].T
    o = np.asarray(found["gates"]["o"])[:, -1]
    arriving = np.asarray(error) * o * (1.0 - np.tanh(np.asarray(end.c)) ** 2)
    for t in range(f.shape[1] - 1):
        by_hand = arriving * np.prod(f[:, t + 1 :], axis=1)
        expected = np.log(np.linalg.norm(by_hand, axis=-1))
        np.testing.assert_allclose(found["norms"]["direct"][:, t], expected, rtol=1e-12)


def test_the_probe_asks_the_last_step_alone():
    own = study("copy-memory", seq_len=24, hidden_size=3)
    cell = RUNGS["rnn"].make(hidden_size=3)
    model = build(cell, own)
    batch = own.problem.sample(np.random.default_rng(0), 2, False)._replace(mask=None)
    params = model.init(jax.random.key(0))
    found = examine(model, cell, params, batch, own.problem)
    assert found["gates"] == {}
    output = model.apply(params, batch.xs)
    error = jax.nn.softmax(output.logits[:, -1]) - jax.nn.one_hot(batch.targets[:, -1], 9)
    expected = np.linalg.norm(error @ params["head"]["kernel"].T, axis=-1)
    np.testing.assert_allclose(np.exp(found["norms"]["h"][:, -1]), expected, rtol=1e-5)


def test_recall_alone_counts_as_right():
    problem = load_problem("copy-memory", seq_len=30, every_step=True)
    targets = problem.sample(np.random.default_rng(0), 4, False).targets
    blanks = 50.0 * np.eye(9, dtype=np.float32)[np.zeros_like(targets)]
    losses, right = measure(jnp.asarray(blanks), targets, problem)
    assert losses.shape == targets.shape
    assert right.shape == (4, COPY_LENGTH)
    assert not np.any(right)


@pytest.mark.parametrize("dataset", ["adding", "temporal-order", "copy-memory", "embedded"])
def test_answers_without_memory_have_the_loss_of_the_baseline(dataset):
    own = study(dataset, seq_len=40, num_test=500)
    problem = own.problem
    test = problem.sample(np.random.default_rng(1), 2000, True)
    baseline, chance = without_memory(own.config, problem, test)
    targets = test.targets
    if dataset == "adding":
        logits = np.ones_like(targets)
    else:
        shares = np.bincount(targets.ravel(), minlength=problem.output_size) / targets.size
        logits = np.log(np.broadcast_to(shares + 1e-9, (*targets.shape, problem.output_size)))
    if dataset == "copy-memory":  # when to say blank is known
        logits = np.where(np.arange(9) == 0, -50.0, np.zeros((*targets.shape, 9)))
        logits[:, :-COPY_LENGTH, 0] = 50.0
    losses, right = measure(jnp.asarray(logits, jnp.float32), targets, problem)
    if dataset == "embedded":  # the last character helps, less than one's own counts of the test
        last = test.xs if targets.ndim == 2 else test.xs[:, -1]
        pairs = np.zeros((problem.vocab_size, problem.output_size))
        np.add.at(pairs, (last, targets), 1.0)
        own_shares = pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1.0)
        least = -np.log(own_shares[last, targets]).mean()
        assert least < baseline < 0.95 * float(jnp.mean(losses))
        assert float(jnp.mean(right)) < chance < own_shares.max(axis=1)[last].mean()
        return
    assert float(jnp.mean(losses)) == pytest.approx(baseline, rel=0.05)
    assert float(jnp.mean(right)) == pytest.approx(chance, abs=0.02)


def found_with(losses, parameters=10, updates=np.inf, **summary):
    losses = np.array(losses)
    interval = [losses.min(), losses.max()]
    summary |= {"live_parameters": parameters, "test_loss_interval": interval}
    return Found([], summary, losses, np.broadcast_to(updates, losses.shape))


def test_differences_are_taken_net_by_net():
    base = np.array([1.0, 10.0, 100.0])
    found = {
        "output": found_with(base, 30, updates=[100, 200, 900]),
        "vanilla": found_with(base / 2, 36, updates=[150, 250, 950]),
    }
    assert set(differences(found)) == {"vanilla"}  # its neighbour below was not trained
    (step,) = differences(found).values()
    assert step["beside"] == "output"
    assert step["loss_ratio"] == pytest.approx(0.5)
    assert step["loss_ratio_interval"] == pytest.approx([0.5, 0.5])
    assert step["live_parameters_added"] == 6
    assert step["updates_later"] == 50
    assert step["updates_later_interval"] == [50, 50]
    found["output"] = found_with(base, 30, updates=[100, 200, np.inf])
    assert "updates_later" not in differences(found)["vanilla"]  # one never got there


def test_what_is_said_of_the_rungs_can_be_false():
    def passed(found, **fields):
        return [row["passed"] for row in ladder_checks(Config(**fields), found, 1 / 6)]

    good = {"rnn": found_with([0.166, 0.17]), "output": found_with([0.001, 0.009])}
    bad = {"rnn": found_with([0.1, 0.17]), "output": found_with([0.001, 0.02])}
    assert passed(good, seq_len=200) == [True, True]
    assert passed(bad, seq_len=200) == [False, False]
    assert passed(bad, seq_len=60) == [None, False]
    assert passed(good, num_updates=10) == [None, None]
    for slope, verdict in ((0.0, True), (0.01, False), (float("nan"), None)):
        slopes = {
            f"direct_path_slope_nats_per_step_{when}": slope for when in ("at_init", "trained")
        }
        assert passed({"additive": found_with([1.0], **slopes)}) == [verdict, verdict]
    assert not check("", 1.1, 1.0, 0.05)["passed"]
    assert not check("", float("nan"), 1.0, 0.05)["passed"]


def test_cells_keep_what_their_gates_keep():
    checks = preservation_checks()
    assert len(checks) == 7
    assert [row["name"] for row in checks if not row["passed"]] == []
    assert checks[0]["tolerance"] == checks[1]["tolerance"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rungs": ("forgett",)}, "did you mean 'forget'"),
        ({"rungs": ()}, "number of rungs"),
        ({"learning_rates": (0.01, 0.01)}, "twice"),
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"dataset": "copy-memory", "seq_len": 20}, "21 or more"),
        ({"look_every": 0}, "look_every"),
    ],
)
def test_what_cannot_be_run_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        Config(**fields)
