"""Crops and windows hold what they say; engines shorter than a window; nets at their best epoch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.data.engine_cases import engine_cases, fit_engine_scaler
from seqlab.data.engines import Engine
from seqlab.data.windows import Answered, Batches
from seqlab.ensemble import stacked, train_epochs
from seqlab.errors import InputError
from seqlab.saved_nets import load_nets, save_nets
from seqlab.train import fresh_state, make_train_step

LENGTHS = (5, 2, 9)


@pytest.fixture(scope="module")
def data():
    """Sequence i has 100 i + t at step t; every second step has a target, the step itself."""
    steps = np.arange(9)
    is_real = steps < np.array(LENGTHS)[:, None]
    xs = (100.0 * np.arange(3)[:, None] + steps)[..., None].astype(np.float32)
    is_known = (is_real & (steps % 2 == 0))[..., None]
    return Answered(np.where(is_real[..., None], xs, 0), xs, is_known, is_real)


def test_windows_end_at_their_step_and_begin_with_what_is_not_there(data):
    xs, mask = data.windows(np.array([[0, 4], [1, 0], [2, 8]]), 3)
    assert xs[..., 0].tolist() == [[2, 3, 4], [0, 0, 100], [206, 207, 208]]
    assert mask.tolist() == [[True] * 3, [False, False, True], [True] * 3]


def test_every_answered_step_is_a_window_once_an_epoch(data):
    reader = Batches(data, 3, window=4, seed=1)
    assert reader.per_epoch == 3  # of 9 answers
    epochs = [list(itertools.islice(iter(reader), 6))[at : at + 3] for at in (0, 3)]
    orders = []
    for epoch in epochs:
        ends = np.concatenate([batch["xs"][:, -1, 0] for batch in epoch])
        answers = np.concatenate([batch["targets"][:, 0] for batch in epoch])
        np.testing.assert_array_equal(ends, answers)
        assert sorted(ends) == [0, 2, 4, 100, 200, 202, 204, 206, 208]
        orders.append(tuple(ends))
    assert orders[0] != orders[1]


def test_crops_are_full_where_they_can_be(data):
    reader = Batches(data, 3, crop=4, seed=0)
    starts = set()
    for batch in itertools.islice(iter(reader), 60):
        for xs, mask, targets in zip(batch["xs"], batch["mask"], batch["targets"], strict=True):
            row = int(xs[0, 0] // 100)
            assert mask.sum() == min(4, LENGTHS[row])
            np.testing.assert_array_equal(xs[mask], targets[mask])
            np.testing.assert_array_equal(np.diff(xs[mask, 0]), 1)
            starts.add((row, int(xs[0, 0] % 100)))
    assert starts == {(0, 0), (0, 1), (1, 0), *((2, start) for start in range(6))}


def test_nothing_to_learn_is_said(data):
    empty = Answered(data.xs, data.targets, np.zeros_like(data.is_known), data.is_real)
    with pytest.raises(InputError, match="nothing to learn from"):
        Batches(empty, 2, crop=3)
    with pytest.raises(ValueError, match="crop or window"):
        Batches(data, 2)


def engine(id, count, *, shift=0.0, left=0, regime=None):
    rng = np.random.default_rng(count)
    settings = np.zeros((count, 3))
    settings[:, 0] = 0 if regime is None else regime
    sensors = rng.normal(size=(count, 21)) + shift
    sensors[:, 4] = 7.0  # constant
    return Engine(id, settings, sensors, left)


def test_engines_with_nan_and_constant_sensors_are_scaled_to_finite_numbers():
    sick = engine("2", 6)
    sick.sensors[2, 0] = np.nan
    sick.sensors[:, 9] = np.nan
    cases = engine_cases([engine("1", 8), sick, engine("3", 1, left=None)], "train ")
    assert cases.ids == ("train 1", "train 2", "train 3")
    scaler = fit_engine_scaler("train", cases)
    xs = scaler(cases)
    assert np.isfinite(xs).all()
    assert (xs[..., 3 + 4] == 0).all()
    assert xs[1, 2, 3] == 0
    assert (xs[..., :3] == 0).all()  # settings do not change
    np.testing.assert_array_equal(cases.life[0], [7, 6, 5, 4, 3, 2, 1, 0])
    assert np.isnan(cases.life[2]).all()  # censored
    assert cases.last[1].tolist() == [7, 5, 0]
    with pytest.raises(InputError, match="train only, not on 'test'"):
        fit_engine_scaler("test", cases)
    with pytest.raises(InputError, match=r"sensors have shape \(4, 2\)"):
        engine_cases([Engine("9", np.zeros((4, 3)), np.zeros((4, 2)))])
    with pytest.raises(InputError, match="there are no engines"):
        engine_cases([])


def test_regimes_are_found_and_their_shift_is_gone():
    rng = np.random.default_rng(0)
    engines = []
    for number in range(4):
        regimes = rng.integers(3, size=200)
        own = engine(str(number), 200, regime=10.0 * regimes + 0.01 * rng.normal(size=200))
        own.sensors[:] += 50.0 * regimes[:, None]
        engines.append(own)
    cases = engine_cases(engines)
    scaler = fit_engine_scaler("train", cases)
    assert scaler.regimes.tolist() == [0, 10, 20]
    scaled = scaler(cases)[..., 3:]
    assert np.abs(scaled).max() < 6  # noise alone
    assert np.std(scaled[..., 0]) == pytest.approx(1, abs=1e-3)


def test_each_net_is_kept_at_its_best_epoch():
    """Net 0 is best after the first epoch, net 1 after the third: by a made-up validation."""

    def loss_fn(params, batch, key):
        del key
        return jnp.mean(jnp.square(params["w"] - batch["y"])), {}

    step = make_train_step(loss_fn, optax.sgd(0.1))
    keys = jax.random.split(jax.random.key(0), 2)
    init = lambda key: {"w": jax.random.normal(key, (3,))}  # noqa: E731
    state = jax.vmap(lambda key: fresh_state(init, step.optimizer, key))(keys)
    said = iter([[1.0, 3.0], [2.0, np.nan], [5.0, 1.0], [4.0, 2.0]])
    seen = []

    def valid_loss(params):
        seen.append(np.asarray(params["w"]))
        return np.array(next(said))

    batches = (stacked([{"y": np.full(3, 9.0, np.float32)}] * 2) for _ in itertools.count())
    epochs = list(train_epochs(step, state, batches, valid_loss, per_epoch=4, num_epochs=4, most=3))
    assert [epoch.step for epoch in epochs] == [4, 8, 12, 16]
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[0].train_loss > epochs[3].train_loss > 0
    best = epochs[-1].best["w"]
    np.testing.assert_array_equal(best[0], seen[0][0])
    np.testing.assert_array_equal(best[1], seen[2][1])


def test_nets_are_saved_and_read_back(tmp_path):
    params = {"rnn": {"W": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones((2,))}
    path = tmp_path / "nets.npz"
    save_nets(path, params, {"mean": np.arange(3.0)})
    like = {"rnn": {"W": jnp.zeros((1, 3))}, "b": jnp.zeros((1,))}
    found, arrays = load_nets(path, like)
    np.testing.assert_array_equal(found["rnn"]["W"], params["rnn"]["W"])
    assert list(arrays) == ["mean"]
    with pytest.raises(InputError, match=r"rnn\.W has shape \(3,\), expected \(4,\)"):
        load_nets(path, {"rnn": {"W": jnp.zeros((1, 4))}, "b": jnp.zeros((1,))})
    with pytest.raises(InputError, match="another model"):
        load_nets(path, {"b": jnp.zeros((1,))})
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot read the nets"):
        load_nets(path, like)
    with pytest.raises(InputError, match="cannot read the nets"):
        load_nets(tmp_path / "none.npz", like)
