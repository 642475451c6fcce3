"""The flight recorder: what is not finite is named by step, batch, layer, time step and gate."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells import lstm
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.losses import cross_entropy, masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.recorder import locate, locate_step, record_nonfinite
from seqlab.recurrence import unroll
from seqlab.train import init_state, make_train_step
from tests.mgu import MGU

ROWS, STEPS, WIDTH = 4, 12, 3
ROW, TIME, CHANNEL = 2, 7, 1  # where it is planted


def broken_sigmoid(a):
    """1 / (1 + exp(-a)) as it is often written: NaN where exp overflows."""
    return jnp.exp(a) / (1.0 + jnp.exp(a))


def broken_tanh(a):
    return (jnp.exp(a) - jnp.exp(-a)) / (jnp.exp(a) + jnp.exp(-a))


def planted_inputs():
    """Zeros but for one entry, which a gate's weights can be made to blow up."""
    xs = np.zeros((ROWS, STEPS, WIDTH), np.float32)
    xs[ROW, TIME, CHANNEL] = 1.0
    return xs


def gradients(model, **options):
    def loss(params, xs):
        return jnp.sum(model.apply(params, xs, **options).logits ** 2)

    return jax.value_and_grad(loss)


def layer_params(params, path):
    for name in path:
        params = params[name]
    return params


@pytest.mark.parametrize("gate", ["i", "f", "g", "o"])
@pytest.mark.parametrize("options", [{}, {"remat_every": 5}, {"remat_every": 3}], ids=str)
def test_the_gate_the_row_and_the_time_step_are_named(monkeypatch, gate, options):
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    monkeypatch.setitem(lstm.ACTIVATIONS, "tanh", broken_tanh)
    model = functional(ManyToOne, LSTM(5), input_size=WIDTH, output_size=1)
    params = model.init(jax.random.key(0))
    weights = params["rnn"]["weights"][gate]
    weights["W_x"] = weights["W_x"].at[CHANNEL].set(200.0)
    origin = locate(gradients(model, **options), params, planted_inputs())
    assert (origin.layer, origin.time_step, origin.part) == ("rnn", TIME, gate)
    assert origin.entry[0] == ROW
    assert not origin.is_backward
    assert "test_recorder.py" in origin.source  # the line of the broken function itself
    # The NaN is inf / inf; what is reported is the overflow behind it.
    assert (origin.value, origin.operation) == ("inf", "exp")


@pytest.mark.parametrize("gate", ["r", "z", "n"])
def test_the_gate_of_a_gru(monkeypatch, gate):
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    monkeypatch.setattr(jnp, "tanh", broken_tanh)
    params = GRU(5).init(jax.random.key(0), WIDTH)
    params[gate]["W_x"] = params[gate]["W_x"].at[CHANNEL].set(200.0)
    origin = locate(lambda p, xs: unroll(GRU(5), p, xs).ys, params, planted_inputs())
    assert (origin.time_step, origin.part, origin.entry[0]) == (TIME, gate, ROW)


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        (("layer_0", "forward"), "rnn.layer_0.forward"),
        (("layer_0", "backward"), "rnn.layer_0.backward"),
    ],
    ids=str,
)
def test_the_layer_and_the_direction(monkeypatch, place, layer):
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    model = functional(
        ManyToMany, LSTM(4), input_size=WIDTH, output_size=1, num_layers=2, bidirectional=True
    )
    params = model.init(jax.random.key(0))
    weights = layer_params(params["rnn"]["weights"], place)["f"]
    weights["W_x"] = weights["W_x"].at[CHANNEL].set(200.0)
    origin = locate(gradients(model), params, planted_inputs())
    assert (origin.layer, origin.time_step, origin.part) == (layer, TIME, "f")


def test_an_upper_layer(monkeypatch):
    """What the lower layer says at the planted step is what blows the upper one up."""
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    model = functional(ManyToOne, LSTM(4), input_size=WIDTH, output_size=1, num_layers=2)
    params = model.init(jax.random.key(0))
    for name, bias in {"i": -3.0, "f": -3.0, "g": 0.0, "o": 3.0}.items():
        lower = params["rnn"]["weights"]["layer_0"][name]
        lower["W_x"] = jnp.zeros_like(lower["W_x"]).at[CHANNEL].set(3.0)
        lower["W_h"], lower["b"] = jnp.zeros_like(lower["W_h"]), jnp.full(4, bias)
    # Below, h = 0 up to the planted step, where it is about 0.45.
    upper = params["rnn"]["weights"]["layer_1"]["o"]
    upper["W_x"] = jnp.full_like(upper["W_x"], 3000.0)
    origin = locate(gradients(model), params, planted_inputs())
    assert (origin.layer, origin.time_step, origin.part) == ("rnn.layer_1", TIME, "o")
    assert origin.entry[0] == ROW


def test_the_backward_pass(x64):
    """sqrt has an infinite slope at 0: the values are finite, the gradient is not."""

    @dataclass(frozen=True)
    class Root(RNN):
        def step(self, params, h, x, *, recurrent_mask=None):
            with jax.named_scope("root"):
                return jnp.sqrt(jnp.maximum(super().step(params, h, x), 0.0))

    cell = Root(1, activation="identity")
    params = {
        "W_x": jnp.ones((WIDTH, 1)), "W_h": jnp.zeros((1, 1)), "b": jnp.zeros(1)
    }  # fmt: skip
    xs = 1.0 - planted_inputs()[:, :, [CHANNEL]].repeat(WIDTH, 2)
    ys = unroll(cell, params, xs).ys
    assert np.all(np.isfinite(ys))
    origin = locate(jax.grad(lambda p, xs: jnp.sum(unroll(cell, p, xs).ys)), params, xs)
    assert (origin.time_step, origin.part) == (TIME, "root")
    assert origin.entry[0] == ROW


def test_a_cell_that_names_no_parts_is_told_by_its_line():
    @dataclass(frozen=True)
    class Log(MGU):
        def step(self, params, h, x):
            return super().step(params, h, x) + 0.0 * jnp.log(1.0 - x[..., :1])

    params = Log(4).init(jax.random.key(0), WIDTH)
    xs = np.roll(planted_inputs(), -CHANNEL, axis=-1)
    origin = locate(lambda p, xs: unroll(Log(4), p, xs).ys, params, xs)
    assert (origin.time_step, origin.part, origin.operation) == (TIME, "", "log")
    assert origin.source.startswith("test_recorder.py:")
    assert origin.source.endswith("in step")
    assert "time step 7" in str(origin)


@pytest.mark.parametrize("options", [{}, {"remat_every": 5}], ids=str)
def test_a_loop_inside_the_step_is_not_time(options):
    @dataclass(frozen=True)
    class Inner(MGU):
        def step(self, params, h, x):
            bad = jnp.log(1.0 - x[..., :1])  # -inf at the planted step
            turns = jax.lax.fori_loop(0, 3, lambda i, y: y + 0.0 * bad, jnp.zeros_like(bad))
            return super().step(params, h, x) + turns

    params = Inner(4).init(jax.random.key(0), WIDTH)
    xs = np.roll(planted_inputs(), -CHANNEL, axis=-1)
    origin = locate(lambda p, xs: unroll(Inner(4), p, xs, **options).ys, params, xs)
    assert origin.time_step == TIME


def test_a_meant_infinity_does_not_hide_another():
    """Overflow, then a mask of -inf in the same array, then a softmax: the overflow is named."""

    def masked_softmax(x):
        scores = jnp.where(np.array([True, False, True]), jnp.exp(x), -jnp.inf)
        weights = jnp.exp(scores - jnp.max(scores))
        return weights / jnp.sum(weights)

    origin = locate(masked_softmax, jnp.asarray([100.0, 1.0, 1.0]))
    assert (origin.value, origin.operation) == ("inf", "exp")


def test_a_carry_that_is_not_finite():
    def remember(params, batch, key, carry):
        return jnp.sum(params["w"]), ({}, jnp.log(carry - batch["x"]))

    optimizer = optax.sgd(0.1)
    step = make_train_step(remember, optimizer, stateful=True)
    state = init_state({"w": jnp.ones(2)}, optimizer, jax.random.key(0), jnp.ones((3, 1)))
    batch = {"x": jnp.asarray([[0.0], [2.0], [0.0]])}
    after, metrics = jax.jit(step)(state, batch)
    assert metrics["skipped"] == 1
    np.testing.assert_array_equal(after.carry, state.carry)
    origin = locate_step(step, state, batch)
    assert (origin.operation, origin.entry) == ("log", (1, 0))


def test_reverse_counts_the_steps_of_the_input(monkeypatch):
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    params = LSTM(4).init(jax.random.key(0), WIDTH)
    params["o"]["W_x"] = params["o"]["W_x"].at[CHANNEL].set(200.0)
    for options in ({}, {"remat_every": 5}):
        origin = locate(
            lambda p, xs, options=options: unroll(LSTM(4), p, xs, reverse=True, **options).ys,
            params,
            planted_inputs(),
        )
        assert (origin.time_step, origin.part) == (TIME, "o")


# What is not at fault


def test_finite_is_none():
    assert locate(lambda x: jnp.sum(x**2), jnp.arange(3.0)) is None


def test_an_infinity_that_is_meant_is_passed_over():
    mask = np.array([True, False, True])

    def masked_max(x):
        return jnp.max(jnp.where(mask, x, -jnp.inf))

    assert locate(jax.value_and_grad(masked_max), jnp.arange(3.0)) is None
    # ... and one that is not meant is still found beside it.
    origin = locate(lambda x: masked_max(x) + jnp.log(x[0]), jnp.arange(3.0))
    assert origin.operation == "log"


def test_an_overflow_that_saturates_is_passed_over():
    """exp(1000) is infinite, the sigmoid made of it is 0: nothing is wrong with the result."""
    assert locate(lambda x: 1.0 / (1.0 + jnp.exp(x)), jnp.float32(1000.0)) is None


def test_padding_is_passed_over():
    params = LSTM(4).init(jax.random.key(0), WIDTH)
    xs = np.ones((ROWS, STEPS, WIDTH), np.float32)
    mask = np.ones((ROWS, STEPS), bool)
    mask[:, 8:] = False
    xs[:, 8:] = np.nan
    loss = jax.value_and_grad(lambda p, xs: jnp.sum(unroll(LSTM(4), p, xs, mask=mask).ys))
    assert locate(loss, params, xs) is None


def test_the_first_of_two_is_reported():
    def twice(x):
        return jnp.log(x - 5.0) + jnp.sqrt(x - 9.0)

    assert locate(twice, jnp.float32(1.0)).operation == "log"


def test_what_came_in_is_named():
    params = {"rnn": {"W_h": jnp.ones((3, 3)).at[2, 1].set(jnp.nan)}, "b": jnp.zeros(3)}
    found = locate(
        lambda p, x: jnp.sum(p["rnn"]["W_h"] @ x), params, jnp.ones(3), names=("params", "x")
    )
    assert (found.operation, found.name) == ("input", "params.rnn.W_h[2, 1]")
    assert str(found) == "params.rnn.W_h[2, 1] = nan came in"


def test_loops_of_other_kinds():
    def while_log(x):
        return jax.lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] - 1.0), (0, x))[1]

    assert locate(lambda x: jnp.log(while_log(x)), jnp.float32(3.5)).operation == "log"

    def branch(x):
        return jax.lax.cond(x > 0, lambda x: x, lambda x: jnp.sqrt(x), x)

    assert locate(branch, jnp.float32(-1.0)).operation == "sqrt"
    assert locate(branch, jnp.float32(1.0)) is None


# A whole training step


def training(accumulate=1):
    model = functional(ManyToOne, LSTM(5), input_size=WIDTH, output_size=2)
    optimizer = optax.adam(0.01)

    def loss_fn(params, batch, key):
        out = model.apply(params, batch["xs"])
        noise = jax.random.normal(key, ())
        return masked_mean(cross_entropy(out.logits, batch["labels"])) + 0.0 * noise, {}

    step = make_train_step(loss_fn, optimizer, accumulate=accumulate)
    return step, init_state(model.init(jax.random.key(0)), optimizer, jax.random.key(1))


def planted_batch():
    labels, ids = np.zeros(ROWS, np.int32), np.array([50, 60, 70, 80])
    return {"xs": planted_inputs(), "labels": labels, "ids": ids}


def test_a_training_step_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    step, state = training()
    weights = state.params["rnn"]["weights"]["f"]
    weights["W_x"] = weights["W_x"].at[CHANNEL].set(200.0)
    _, metrics = jax.jit(step)(state, planted_batch())
    assert metrics["skipped"] == 1
    line = record_nonfinite(tmp_path, 41, step, state, planted_batch())
    report = json.loads((tmp_path / "nonfinite" / "step_41" / "report.json").read_text())
    assert report["batch_ids"] == [50, 60, 70, 80]
    assert report["example_id"] == 70
    assert report["origin"]["time_step"] == TIME
    assert report["origin"]["part"] == "f"
    for words in ("step 41", "example 70", "layer rnn", "time step 7", "at f"):
        assert words in line
    assert "\n" not in line


def test_a_turn_of_accumulation_is_named(monkeypatch):
    monkeypatch.setattr(jax.nn, "sigmoid", broken_sigmoid)
    step, state = training(accumulate=2)
    weights = state.params["rnn"]["weights"]["o"]
    weights["W_x"] = weights["W_x"].at[CHANNEL].set(200.0)
    origin = locate_step(step, state, planted_batch())
    assert (origin.turn, origin.time_step, origin.part) == (ROW % 2, TIME, "o")
    assert origin.layer == "rnn"
