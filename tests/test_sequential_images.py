"""Digits read pixel by pixel: accuracies are counted right, epochs are whole, runs resume."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sequential_images as study
from seqlab.cli import main
from seqlab.data.digits import Labelled
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from tests.tiny_training import stopped_after

TINY = ("--cells", "rnn", "--hidden-size", "4", "--batch-size", "512", "--num-epochs", "2",
        "--num-seeds", "2", "--num-sequences", "4", "--log-every", "1")  # fmt: skip
CHANGES = ("wall_s", "peak_rss_mb", "compile_s", "steps_per_s", "resumed")  # from run to run


def images(count, num_steps=6, seed=0):
    rng = np.random.default_rng(seed)
    xs = rng.uniform(size=(count, num_steps, 1))
    return Labelled(xs.astype(np.float32), rng.integers(10, size=count).astype(np.int32))


def test_every_image_once_an_epoch_in_an_order_of_each_net():
    data = images(11)
    epochs = study.Epochs(data, 4, [5, 6])
    assert epochs.batches_per_epoch == 3
    orders = []
    for epoch in range(2):
        batches = [epochs.batch(3 * epoch + k) for k in range(3)]
        assert all(batch["xs"].shape == (4, 2, 6, 1) for batch in batches)
        for net in range(2):
            ids = np.concatenate([b["ids"][:, net][b["is_real"][:, net]] for b in batches])
            assert sorted(ids) == list(range(11))
            orders.append(tuple(ids))
            for batch in batches:
                real = batch["is_real"][:, net]
                rows = batch["ids"][real, net]
                np.testing.assert_array_equal(batch["xs"][real, net], data.xs[rows])
                np.testing.assert_array_equal(batch["targets"][real, net], data.labels[rows])
    assert len(set(orders)) == 4


def test_nets_of_different_seeds_share_no_order():
    seeds = [
        study.epochs_of(images(9), study.Config(seed=seed, num_seeds=3, batch_size=9)).batch(0)
        for seed in (0, 1)
    ]
    orders = {tuple(batch["ids"][:, net]) for batch in seeds for net in range(3)}
    assert len(orders) == 6


def test_a_net_that_says_one_thing_is_right_as_often_as_that_is_so():
    """Through the padded batches of an evaluation, for two nets at once."""
    config = study.Config(cells=("rnn",), hidden_size=3, batch_size=4, num_seeds=2)
    _, state = study.build(config, {"images": {"num_steps": 6, "num_updates": 1}})
    params = state.params["rnn"]
    head = {"kernel": jnp.zeros((2, 3, 10)), "bias": 3.0 * jax.nn.one_hot(jnp.array([2, 7]), 10)}
    data = images(21)
    answers, nats = study.answerer(config, 6, None)({"rnn": {**params, "head": head}}, data)["rnn"]
    assert answers.shape == nats.shape == (21, 2)
    assert (answers == [2, 7]).all()
    right = [int(np.sum(data.labels == digit)) for digit in (2, 7)]
    assert study.count_right(answers, data.labels) == right
    expected = np.log(np.exp(3.0) + 9.0) - 3.0 * (data.labels[:, None] == [2, 7])
    np.testing.assert_allclose(nats, expected, rtol=1e-6)
    table = study.confusion(answers, data.labels)
    assert table.sum() == 42
    assert table[:, [2, 7]].sum() == 42
    assert np.trace(table) == sum(right)


def test_confusions_by_hand():
    labels = np.array([0, 3, 3])
    answers = np.array([[0, 9], [3, 3], [1, 3]])
    table = study.confusion(answers, labels)
    assert study.count_right(answers, labels) == [2, 2]
    counted = {(int(i), int(j)): int(table[i, j]) for i, j in np.argwhere(table)}
    assert counted == {(0, 0): 1, (0, 9): 1, (3, 3): 3, (3, 1): 1}


def test_accuracy_over_nets_and_over_images():
    several = study.accuracy([90, 100, 80], 100)
    assert (several.middle, several.low, several.high) == (90.0, 80.0, 100.0)
    one = study.accuracy([300], 400)
    assert one.middle == 75.0
    deviation = 100 * (0.75 * 0.25 / 400) ** 0.5
    np.testing.assert_allclose(one.low, 75.0 - 1.96 * deviation, atol=0.8)
    np.testing.assert_allclose(one.high, 75.0 + 1.96 * deviation, atol=0.8)


def test_the_epoch_of_each_net_is_its_best_in_validation():
    right = {"valid": [[5, 1], [5, 9], [4, 9]], "test": [[10, 20], [30, 40], [50, 60]],
             "train": [[0, 0], [0, 0], [100, 80]]}  # fmt: skip
    figures = study.figures_of(right, {"valid": 10, "test": 100, "train": 100})
    assert figures["test_accuracy_percent"] == 55.0  # of 50 and 60, at the end
    assert figures["test_accuracy_of_nets_percent"] == [50.0, 60.0]
    assert figures["test_accuracy_at_best_valid_percent"] == 25.0  # of 10 and 40
    assert figures["train_accuracy_percent"] == 90.0


def test_only_gated_cells_on_digits_are_judged():
    config = study.Config().filled()
    figures = {
        name: {"test_accuracy_percent": value}
        for name, value in (("rnn", 50.0), ("irnn", 99.0), ("lstm", 95.1), ("gru", 95.0))
    }
    checks = study.judge(config, 64, figures)
    assert [check["passed"] for check in checks] == [True, False]
    (small,) = study.judge(study.Config(num_epochs=1).filled(), 64, {"gru": figures["gru"]})
    assert small["passed"] is None
    assert small["reason"] == "num_epochs below the default"
    assert study.judge(study.Config(dataset="mnist").filled(), 784, figures) == []


def test_the_data_set_decides_what_is_left_open():
    assert study.Config().filled().num_epochs == 30
    mnist = study.Config(dataset="permuted-mnist", batch_size=7).filled()
    assert (mnist.num_epochs, mnist.num_seeds, mnist.batch_size) == (5, 1, 7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["rnn", "gru"])
def test_pixel_gradients_are_central_differences(name):
    config = study.Config(cells=(name,), hidden_size=3)
    model = study.make_models(config, 5)[name]
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    data = images(2, num_steps=5)
    xs = np.float64(data.xs)
    norms, pixels = study.make_probes(config, 5)[name](params, xs, data.labels)
    assert norms["h"].shape == pixels.shape == (2, 2, 5)

    @jax.jit
    def losses(xs):
        logits = jax.vmap(lambda net: model.apply(net, xs).logits)(params)
        return jax.vmap(lambda each: cross_entropy(each, data.labels))(logits)

    for t in range(5):
        ahead, behind = (losses(xs + h * (np.arange(5) == t)[:, None]) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(
            np.exp(pixels[..., t]), np.abs(ahead - behind) / 2e-5, rtol=1e-6, atol=1e-10
        )


def test_chrono_reaches_as_far_as_the_image():
    cell = study.make_cell("lstm-chrono", 400, num_steps=64)
    bias = cell.init(jax.random.key(0), 1)["f"]["b"]
    assert 60 < np.exp(np.max(bias)) <= 63
    functional(ManyToOne, cell, input_size=1, output_size=10)
    with pytest.raises(study.InputError, match="'irnn-chrono' cannot be made"):
        study.Config(cells=("irnn-chrono",))


def run(out, *flags, at=None):
    """A run; with `at`, stopped after that step as by SIGTERM."""
    return main(study.Config, stopped_after(study.run, at), argv=["--out", str(out), *TINY, *flags])


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 3])  # within an epoch; at its end, where accuracies are taken
def test_a_stopped_run_goes_on_to_the_same_numbers(at, tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "parts", at=at)
    assert stop.value.code == 130
    parts = run(tmp_path / "parts")
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    found = [json.loads((path / "summary.json").read_text()) for path in (whole, parts)]
    assert found[1]["resumed"] == 1
    assert len({json.dumps({k: v for k, v in each.items() if k not in CHANGES})
                for each in found}) == 1  # fmt: skip
