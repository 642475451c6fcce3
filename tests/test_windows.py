"""Crops and windows hold what they say; engines shorter than a window; scales by regime."""

import json

import numpy as np
import pytest

from seqlab.data.engine_cases import EngineScaler, engine_cases, fit_engine_scaler
from seqlab.data.engines import Engine
from seqlab.data.windows import Answered, NetBatches
from seqlab.errors import InputError

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


def epoch_of(reading, epoch):
    count = reading.batches_per_epoch
    return [reading.batch(number) for number in range(epoch * count, (epoch + 1) * count)]


def test_every_answered_step_is_a_window_of_each_net_once_an_epoch(data):
    reading = NetBatches(data, 3, num_nets=2, window=4, seed=1)
    assert reading.batches_per_epoch == 3  # of 9 answers
    orders = []
    for epoch in (0, 1):
        batches = epoch_of(reading, epoch)
        ends = np.concatenate([batch["xs"][:, :, -1, 0] for batch in batches])
        answers = np.concatenate([batch["targets"][..., 0] for batch in batches])
        np.testing.assert_array_equal(ends, answers)
        for own in ends.T:
            assert sorted(own) == [0, 2, 4, 100, 200, 202, 204, 206, 208]
            orders.append(tuple(own))
    assert len(set(orders)) == 4
    alone = NetBatches(data, 3, num_nets=1, window=4, seed=1)
    np.testing.assert_array_equal(alone.batch(4)["xs"], reading.batch(4)["xs"][:, :1])


def test_crops_are_full_where_they_can_be(data):
    reading = NetBatches(data, 3, num_nets=2, crop=4)
    starts = set()
    for number in range(40):
        batch = reading.batch(number)
        assert batch["xs"].shape == (3, 2, 4, 1)
        flat = {name: leaf.reshape(6, 4, -1) for name, leaf in batch.items()}
        assert sorted(flat["xs"][::2, 0, 0] // 100) == [0, 1, 2]  # of the first net
        for xs, mask, targets in zip(flat["xs"], flat["mask"], flat["targets"], strict=True):
            row = int(xs[0, 0] // 100)
            assert mask.sum() == min(4, LENGTHS[row])
            np.testing.assert_array_equal(xs[mask], targets[mask])
            np.testing.assert_array_equal(np.diff(xs[mask[:, 0], 0]), 1)
            starts.add((row, int(xs[0, 0] % 100)))
    assert starts == {(0, 0), (0, 1), (1, 0), *((2, start) for start in range(6))}


def test_nothing_to_learn_is_said(data):
    empty = Answered(data.xs, data.targets, np.zeros_like(data.is_known), data.is_real)
    with pytest.raises(InputError, match="nothing to learn from"):
        NetBatches(empty, 2, num_nets=1, crop=3)
    with pytest.raises(ValueError, match="crop or window"):
        NetBatches(data, 2, num_nets=1)


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
    again = EngineScaler.from_json(json.loads(json.dumps(scaler.to_json())))
    np.testing.assert_array_equal(again(cases), scaler(cases))
