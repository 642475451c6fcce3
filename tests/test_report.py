"""The gradient report: closed forms, masks, any cell, models, errors."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mgu import MGU

import seqlab
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.gradflow.jacobians import log_product_norms
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time
from seqlab.losses import cross_entropy, masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.report.curves import Trend, by_lag, horizon, percent
from seqlab.report.make import gradient_report
from seqlab.report.subject import DEFAULT_LOSS, Alone, Loss


class Batch(NamedTuple):
    xs: Any
    targets: Any
    mask: Any = None


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def subjects(report):
    return [subject for subject, _ in report.lines]


@pytest.fixture(scope="module")
def linear():
    """A linear net with W_h = 0.8 Q, in float64."""
    with jax.enable_x64(True):
        cell = RNN(4, activation="identity")
        params = cell.init(jax.random.key(0), 2)
        params = {**params, "W_h": 0.8 * params["W_h"]}
        return gradient_report(cell, params, normal(1, 3, 40, 2), clip_norm=0.5)


def test_a_scaled_orthogonal_net_fades_at_exactly_log_gain(linear):
    rate = np.log(0.8)
    lag = np.arange(40)
    for curve in linear.arrays["log_norm/h"]:
        np.testing.assert_allclose(curve, lag * rate, rtol=0, atol=1e-12)
    summary = linear.summary
    for name in ("slope", "exact_slope", "jacobian_slope", "lyapunov_max"):
        assert summary[f"{name}_nats_per_step"] == pytest.approx(rate, abs=1e-12)
    assert summary["half_life_steps"] == pytest.approx(np.log(2) / -rate, rel=1e-12)
    assert summary["doubling_steps"] is None
    assert summary["lag_of_fall_by_1e3"] == 31
    products = linear.arrays["log_product_norm/rnn"]
    np.testing.assert_allclose(products, np.tile((lag + 1) * rate, (3, 1)), atol=1e-12)
    for lag, values in zip(
        linear.arrays["singular_lags"], linear.arrays["log_singular_values"], strict=True
    ):
        np.testing.assert_allclose(values, lag * rate, atol=1e-10)
    assert "gradient halves every 3.11 steps" in linear.text
    assert "down by 1e3 after 31 steps" in linear.text
    assert linear.arrays["log_norm/h"].shape == (3, 40)


def test_it_shows_itself_and_its_pictures_are_small(linear):
    page = linear._repr_html_()
    assert page.startswith("<pre>")
    assert 'src="data:image/png;base64,iVBORw0KGgo' in page  # the first bytes of a PNG
    assert "halves every 3.11 steps" in page
    assert len(page) < 300_000
    assert str(linear) == repr(linear) == linear.text
    assert len(linear.figure().axes) == 4


def test_two_reports_over_each_other(linear):
    both = seqlab.compare_reports({"one": linear, "two": linear})
    assert re.search(r"half_life_steps +3.106 +3.106", both.text)
    assert "base64" in both._repr_html_()
    with pytest.raises(ValueError, match="no reports"):
        seqlab.compare_reports({})


@pytest.mark.parametrize("cell", [seqlab.MinGRU(3), seqlab.MinLSTM(3)])
def test_gates_that_read_the_input_alone_leave_the_direct_path(cell, x64):
    report = gradient_report(cell, cell.init(jax.random.key(0), 2), normal(1, 2, 12, 2))
    np.testing.assert_allclose(report.arrays["path_share/direct"], 1.0, rtol=1e-12)
    assert "carries 100 % after 1 step, 100 % after 10 steps" in report.text
    assert "most of the rest" not in report.text
    assert report.left_out == []


def test_near_underflow_no_share_is_told():
    cell = GRU(3, update_bias=3.0)
    report = gradient_report(cell, cell.init(jax.random.key(0), 2), normal(1, 2, 80, 2))
    largest = np.max(report.arrays["log_norm/h"], axis=0)
    is_told = np.isfinite(report.arrays["path_share/direct"])
    limits = np.finfo(np.float32)
    np.testing.assert_array_equal(is_told, largest > np.log(limits.tiny) - np.log(limits.eps))
    assert np.any(~is_told & np.isfinite(largest))  # some are left out that are not zero
    assert abs(report.summary["direct_path_share_at_lag_10"]) < 1
    assert report.summary["direct_path_share_at_lag_79"] is None
    assert "; - after 79 steps, too near to underflow" in report.text
    table = seqlab.compare_reports({"a": report}).text.splitlines()
    (row,) = (row for row in table if "share_at_lag_79" in row)
    assert row.split()[-1] == "-"


def test_an_lstm_that_is_its_forget_bias_lives_on_the_direct_path(x64):
    cell = LSTM(4, forget_bias=1.0)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 2))
    params["f"]["b"] = jnp.ones(4)
    params["g"]["b"] = jnp.full(4, 0.5)  # else c stays at zero
    report = gradient_report(cell, params, normal(1, 5, 12, 2))
    rate = -np.log1p(np.exp(-1.0))
    assert report.main == "c"
    assert report.summary["slope_nats_per_step"] == pytest.approx(rate, abs=1e-12)
    assert report.summary["half_life_steps"] == pytest.approx(2.213, abs=5e-4)
    for lag in (1, 10, 11):
        assert report.summary[f"direct_path_share_at_lag_{lag}"] == pytest.approx(1.0, abs=1e-12)
    assert (
        "the direct path, gates held fixed, carries 100 % after 1 step, 100 % after" in report.text
    )
    assert "dL/dh_t is zero before the last step; exactly 0 from lag 1 on" in report.text
    assert float(report.arrays["gate_mean/f"]) == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-12)
    assert report.summary["dead_units"] == 0


@pytest.mark.slow
def test_padding_counts_for_nothing(x64):
    cell = GRU(4)
    params = cell.init(jax.random.key(0), 2)
    xs = normal(1, 3, 12, 2)
    mask = jnp.arange(12)[None] < jnp.array([7, 12, 0])[:, None]
    # A first row without its padding, and padding of another kind: in front.
    padded = jnp.where(mask[..., None], xs, jnp.nan)
    behind = gradient_report(cell, params, (padded, mask))
    turned = jnp.stack([jnp.roll(padded[0], 5, axis=0), *padded[1:]])
    ahead = gradient_report(cell, params, (turned, jnp.stack([jnp.roll(mask[0], 5), *mask[1:]])))
    model = Alone(cell)
    alone = {"rnn": {"weights": params}}, xs[:1, :7]
    grads = carry_gradients(model, lambda out: DEFAULT_LOSS(out, None)[0], *alone)["rnn"]
    arrays = behind.arrays
    np.testing.assert_allclose(
        arrays["log_norm/h"][0, :7], log_norm_over_time(grads)[0, ::-1], rtol=1e-12, atol=1e-14
    )
    products = log_product_norms(cell, params, xs[:1, :7])[0, ::-1]
    np.testing.assert_allclose(arrays["log_product_norm/rnn"][0, :7], products, rtol=1e-12)
    np.testing.assert_allclose(arrays["weight_share/rnn"][0, 6], 1.0, rtol=1e-12)
    for name in ("log_norm/h", "weight_share/rnn", "log_product_norm/rnn"):
        assert np.isnan(arrays[name][0, 7:]).all()
    assert arrays["gradient_norm"].shape == (2,)  # the row without a real step is none
    for name, values in behind.arrays.items():
        np.testing.assert_allclose(ahead.arrays[name], values, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.slow
def test_model_and_cell_tell_the_same(x64):
    cell = LSTM(4)
    model = functional(ManyToOne, cell, input_size=2, output_size=4)
    params = model.init(jax.random.key(0))
    params["head"] = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    xs = normal(1, 5, 12, 2)
    of_model = gradient_report(model, params, xs, DEFAULT_LOSS.function, cell=cell)
    of_cell = gradient_report(cell, params["rnn"]["weights"], xs)
    own = {"parameter_norm", "gradient_norm"}  # those of the head come on top
    names = {name for name in of_cell.arrays if name.partition("/")[0] not in own}
    assert len(names) > 25
    for name in names:
        np.testing.assert_allclose(
            of_model.arrays[name], of_cell.arrays[name], rtol=1e-11, atol=1e-13, err_msg=name
        )
    assert subjects(of_model) == subjects(of_cell)
    assert of_model.left_out == of_cell.left_out == []

    arrays = of_cell.arrays
    paths = [values for name, values in arrays.items() if name.startswith("path_share/")]
    assert len(paths) == 5
    np.testing.assert_allclose(np.sum(paths, axis=0)[1:], 1.0, atol=1e-12)
    np.testing.assert_allclose(arrays["weight_share/rnn"][:, -1], 1.0, atol=1e-12)

    @jax.jit
    def norm(params, xs):
        def loss(params):
            return jnp.mean(DEFAULT_LOSS.function(model.apply(params, xs)))

        return jnp.sqrt(
            sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(jax.grad(loss)(params)))
        )

    assert of_model.summary["gradient_norm"] == pytest.approx(float(norm(params, xs)))
    single = [float(norm(params, row[None])) for row in xs]
    np.testing.assert_allclose(of_model.arrays["gradient_norm"], single, rtol=1e-11)
    assert of_model.summary["clip_rate"] == np.mean(np.array(single) > 1.0)


@pytest.mark.slow
def test_a_stack_of_both_directions_over_tokens():
    cell = LSTM(3)
    layers = {"num_layers": 2, "bidirectional": True}
    model = functional(ManyToMany, cell, input_size=2, output_size=5, vocab_size=7, **layers)
    params = model.init(jax.random.key(0))
    mask = jnp.arange(9)[None] < jnp.array([9, 5])[:, None]
    tokens, targets = jax.random.randint(jax.random.key(1), (2, 2, 9), 0, 5)
    batch = Batch(tokens, targets, mask)
    report = gradient_report(
        model, params, batch, lambda out, batch: cross_entropy(out.logits, batch.targets), cell=cell
    )
    sites = [f"layer_{k}.{way}" for k in (0, 1) for way in ("backward", "forward")]
    found = [name.partition("/")[2] for name in report.arrays if name.startswith("log_product")]
    assert found == sites  # in each of them the cell comes to the model's states
    assert report.left_out == ["paths: they are told apart for one layer in one direction"]

    def total(out):
        return jnp.sum(jnp.where(mask, cross_entropy(out.logits, targets), 0.0))

    grads = carry_gradients(model.apply, total, params, tokens, mask)["rnn"]
    for way in ("forward", "backward"):
        norms = np.asarray(log_norm_over_time(grads["layer_0"][way].h)[1, :5])
        walked = norms[::-1] if way == "forward" else norms
        curve = report.arrays[f"log_norm/layer_0.{way}.h"][1]
        np.testing.assert_allclose(curve[:5], walked, rtol=1e-4)
        assert np.isnan(curve[5:]).all()

    def mean(params):
        return masked_mean(cross_entropy(model.apply(params, tokens, mask).logits, targets), mask)

    squares = sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(jax.grad(mean)(params)))
    assert report.summary["gradient_norm"] == pytest.approx(squares**0.5, rel=1e-4)


def test_a_cell_that_is_not_the_models_is_found_out():
    model = functional(ManyToOne, RNN(3), input_size=2, output_size=1)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"activation='relu'.*is it the cell in the model"):
        gradient_report(
            model, params, normal(1, 2, 8, 2), lambda out: out.logits[:, 0], cell=RNN(3, "relu")
        )


def test_a_cell_of_ones_own_and_a_single_sequence():
    cell = MGU(3)
    report = gradient_report(cell, cell.init(jax.random.key(0), 2), np.asarray(normal(1, 12, 2)))
    assert {"gradient", "weights", "dynamics", "units", "size"} <= set(subjects(report))
    assert report.left_out == ["paths: MGU has no routes to tell apart"]
    assert 0 < float(report.arrays["gate_mean/1"]) < 1
    assert report.title.startswith("MGU(hidden_size=3), 1 sequence of 12 steps, float32")


def test_a_model_without_its_cell_and_a_loss_that_has_no_rows():
    model = functional(ManyToOne, GRU(3), input_size=2, output_size=1)
    params = model.init(jax.random.key(0))
    targets = normal(2, 4, 1)
    xs = normal(1, 4, 8, 2)

    def loss(out):
        return jnp.mean(jnp.sum(jnp.square(out.logits - targets), axis=-1))

    report = gradient_report(model, params, xs, loss)
    assert subjects(report) == ["in short", "gradient", "weights", "units", "size"]
    assert report.arrays["weight_share/rnn"].shape == (1, 8)
    assert report.summary["clip_rate"] is None
    assert "loss: loss" in report.title
    assert any("name the cell" in reason for reason in report.left_out)
    assert any("cannot be had row by row" in reason for reason in report.left_out)
    assert len(report.figure().axes) >= 2
    # A loss is read anew each time: what it closes over may have changed.
    assert Loss(loss, False) != Loss(loss, False)


def test_what_is_not_finite_is_located():
    cell = RNN(3, activation="relu")
    params = cell.init(jax.random.key(0), 2)
    params["W_h"] = 1e6 * jnp.eye(3)
    xs = jnp.ones((2, 12, 2)).at[1].set(0.0)
    params["W_x"] = jnp.ones_like(params["W_x"])
    report = gradient_report(cell, params, xs)
    assert report.summary["is_finite"] is False
    # h at step t is about 2 (1e6)^t, and float32 ends at 3.4e38.
    assert "the state h, first at step 7, in sequence 0" in report.text
    assert "first in layer rnn, time step 7, at h" in report.text
    assert "base64" in report._repr_html_()


def test_dead_units_and_idle_parameters_are_told():
    cell = RNN(3, activation="relu")
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 2))
    params["b"] = jnp.array([1.0, -1.0, 1.0])
    params["W_x"] = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    report = gradient_report(cell, params, jnp.abs(normal(1, 2, 12, 2)))
    assert report.arrays["dead/h"].tolist() == [False, True, True]
    assert report.summary["dead_units"] == 2


LSTM_PARAMS = LSTM(3).init(jax.random.key(0), 2)
MODEL = functional(ManyToOne, LSTM(3), input_size=2, output_size=1)
MODEL_PARAMS = MODEL.init(jax.random.key(0))
XS = jnp.ones((2, 5, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        ((LSTM, LSTM_PARAMS, XS), {}, TypeError, "LSTM is a class; make one"),
        ((3, LSTM_PARAMS, XS), {}, TypeError, "expected a cell .* got int"),
        ((MODEL, MODEL_PARAMS, XS), {}, ValueError, "a model needs a loss"),
        ((MODEL, MODEL_PARAMS, XS, 3), {}, TypeError, "loss is a int"),
        ((MODEL, MODEL_PARAMS, XS, lambda: 0.0), {}, TypeError, "loss takes 0 arguments"),
        ((MODEL, MODEL_PARAMS, XS, lambda out: out.logits), {}, ValueError, r"array \(2, 1\)"),
        ((MODEL, MODEL_PARAMS, XS, lambda out: (1.0, 2.0)), {}, ValueError, "a tuple"),
        ((MODEL, LSTM_PARAMS, XS, lambda out: 0.0), {}, ValueError, "cannot be applied to these"),
        ((LSTM(3), MODEL_PARAMS, XS), {}, ValueError, "LSTM.hidden_size=3. cannot be applied"),
        ((LSTM(3), LSTM_PARAMS, jnp.ones((2, 5, 4))), {}, ValueError, r"xs float32\[2, 5, 4\]"),
        ((LSTM(3), LSTM_PARAMS, jnp.ones((2, 5), int)), {}, ValueError, "tokens need a model"),
        ((LSTM(3), LSTM_PARAMS, {"xs": XS}), {}, TypeError, "batch is a dict"),
        ((LSTM(3), LSTM_PARAMS, (XS, XS)), {}, TypeError, "mask is no array of bool"),
        ((LSTM(3), LSTM_PARAMS, (XS, XS, XS)), {}, TypeError, "3 parts"),
        ((LSTM(3), LSTM_PARAMS, [[1.0, 2.0]]), {}, TypeError, "xs is a list"),
        ((LSTM(3), LSTM_PARAMS, (XS, jnp.ones((2, 4), bool))), {}, ValueError, "mask"),
        ((LSTM(3), LSTM_PARAMS, XS), {"clip_norm": 0.0}, ValueError, "clip_norm=0.0"),
        ((LSTM(3), LSTM_PARAMS, XS), {"cell": GRU(3)}, ValueError, "it is for a model"),
        (
            (MODEL, MODEL_PARAMS, XS, lambda out: 0.0),
            {"cell": GRU(3)},
            ValueError,
            "has other parameters",
        ),
    ],
)
def test_a_mistake_is_named(arguments, options, kind, words):
    with pytest.raises(kind, match=words):
        gradient_report(*arguments, **options)


def test_a_curve_of_two_rates_has_none():
    lag = np.arange(60)
    bent = np.where(lag < 30, -0.5 * lag, -15.0 - 0.02 * (lag - 30))
    trend = Trend.of(bent, np.float64)
    assert not trend.has_one_rate
    assert trend.turning_time(-1) is None
    assert (
        "halves every 1.39 steps over the first 20 steps back, halves every 34.7 steps"
        in trend.text
    )
    assert Trend.of(0.005 * lag, np.float64).text.startswith("stays within a factor of 1.34")
    assert Trend.of(0.1 * lag, np.float64).text.startswith("doubles every 6.93 steps")
    assert Trend.of(np.abs(lag - 29.5), np.float64).has_one_rate is False  # slope zero in all
    # What float32 cannot hold does not bend the line.
    faded = np.where(lag < 40, -2.0 * lag, -100.0)
    assert Trend.of(faded, np.float32).slope == pytest.approx(-2.0, abs=1e-12)


def test_the_horizon_is_that_from_which_on_the_level_is_kept():
    assert horizon(np.array([0.95, 0.99, 1.0])) == 1
    assert horizon(np.array([0.95, 0.5, 0.92, 1.0])) == 3
    assert horizon(np.array([0.0, 0.0, 1.0])) == 3


def test_steps_are_counted_back_over_what_is_real():
    values = np.array([[1.0, 2.0, 3.0, 4.0]])
    real = np.array([[True, False, True, False]])
    assert by_lag(values, real, False)[0].tolist() == [3.0, 1.0]
    assert by_lag(values, real, True)[0].tolist() == [1.0, 3.0]
    assert [percent(share) for share in (0.0, 0.0004, 0.031, 0.5, 1.0)] == [
        "0 %", "under 0.1 %", "3.1 %", "50 %", "100 %"
    ]  # fmt: skip
