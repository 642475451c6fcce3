"""Tracks as arrays: features of the past alone, targets on the sphere, baselines by hand."""

import numpy as np
import pytest

from seqlab.data.storms import simulated_storms
from seqlab.data.track_cases import FEATURES, arriving_motion, point_features, track_cases
from seqlab.data.tracks import Storm
from seqlab.errors import InputError
from seqlab.forecast_baselines import (
    best_ridge,
    cliper_predictors,
    fit_ridge,
    gradient_boosting,
    persistence,
    window_features,
)
from seqlab.geodesy import destination, great_circle_km


def storm(lat, lon, id="a", hours=6, wind=None):
    count = len(lat)
    times = np.datetime64("2015-08-01T00:00", "m") + hours * 60 * np.arange(count)
    unknown = np.full(count, np.nan)
    return Storm(id, "", 2015, times, np.array(lat, float), np.array(lon, float),
                 unknown if wind is None else np.array(wind, float), unknown)  # fmt: skip


def test_targets_lead_to_the_places_to_come_over_the_date_line_and_south():
    lat, lon = [-10, -11, -12.5, -14, -15], [178, 179.2, -179.5, -178, -176]
    cases = track_cases([storm(lat, lon)], 12)
    assert cases.targets.shape == (1, 5, 2, 2)
    there = destination(cases.lat[0, :, None], cases.lon[0, :, None], cases.targets[0])
    for lead in (1, 2):
        np.testing.assert_allclose(there[0][:-lead, lead - 1], lat[lead:], atol=1e-9)
        np.testing.assert_allclose(there[1][:-lead, lead - 1], lon[lead:], atol=1e-9)
    assert np.isnan(cases.targets[0, -1]).all()
    assert (cases.targets[0, :4, 0, 0] > 100).all()  # eastwards all the way
    assert (cases.targets[0, :4, 0, 1] < -100).all()
    assert cases.is_case[0].tolist() == [[False, False], [False, False], [True, True],
                                         [True, False], [False, False]]  # fmt: skip


def test_features_tell_nothing_of_what_is_to_come():
    whole = simulated_storms(np.random.default_rng(0), range(2000, 2001), 4)
    cut = [each.rows(slice(0, 9)) for each in whole]
    all_features = track_cases(whole).features[:, :9]
    np.testing.assert_array_equal(all_features, track_cases(cut).features)


def test_motion_goes_on_along_the_great_circle():
    step = arriving_motion(0.0, 178.0, 0.0, -178.0)
    np.testing.assert_allclose(step, [4 * 111.1949, 0], atol=1e-3)
    ahead = persistence(step, 3)
    np.testing.assert_allclose(ahead[2], 3 * step)
    _, lon = destination(0.0, -178.0, ahead)
    np.testing.assert_allclose(lon, [-174, -170, -166], atol=1e-9)
    # Anywhere: the second step is as long as the first, and on the circle of both points.
    step = arriving_motion(50.0, 10.0, 52.0, 17.0)
    end = destination(52.0, 17.0, persistence(step, 1)[0])
    first = great_circle_km(50, 10, 52, 17)
    np.testing.assert_allclose(great_circle_km(52, 17, *end), first, rtol=1e-12)
    np.testing.assert_allclose(great_circle_km(50, 10, *end), 2 * first, rtol=1e-12)


def test_a_storm_of_two_points_has_a_motion_and_is_no_case():
    cases = track_cases([storm([10, 11], [140, 139]), storm([5, 6, 7], [150, 150, 150], "b")])
    assert not cases.is_case.any()
    assert cases.is_real.sum(axis=1).tolist() == [2, 3]
    motion = cases.features[0, :, FEATURES.index("motion known")]
    assert motion.tolist()[:2] == [0, 1]
    with pytest.raises(InputError, match="no storm has two points 6 hours apart"):
        track_cases([storm([10], [140]), storm([10, 11], [140, 139], hours=5)])
    with pytest.raises(InputError, match="multiple of 6"):
        track_cases([storm([10, 11], [140, 139])], 10)
    assert cases.of({"b"}).ids == ("b",)
    with pytest.raises(InputError, match="no track of the part"):
        cases.of({"c"})


def test_features_by_hand():
    found = point_features(
        np.array(20.0), np.array(90.0), np.array([30.0, np.nan]), np.array(np.nan), np.array(990.0),
        np.datetime64("2001-01-01T00:00", "m"),
    )  # fmt: skip
    expected = [20, 1, 0, 30, np.nan, 1, np.nan, 0, 990, 1, 0, 1]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_cliper_finds_a_motion_that_position_decides():
    """Storms whose every step is a quadratic function of latitude: no error is left."""
    rng = np.random.default_rng(0)
    lat = np.cumsum(rng.uniform(0.2, 0.6, (60, 12)), axis=1) + 8
    lon = 140 + np.cumsum(rng.uniform(-0.5, 0.5, (60, 12)), axis=1)
    unknown, season = np.full(lat.shape, np.nan), np.zeros((*lat.shape, 2))
    xs = cliper_predictors(lat, lon, unknown, unknown, season, 140.0)
    assert xs.shape[:2] == (60, 10)
    targets = np.stack([3 * lat[:, 2:] - 40, 0.1 * lat[:, 2:] ** 2], axis=-1)
    flat, goal = xs.reshape(-1, xs.shape[-1]), targets.reshape(-1, 2)
    ridge = best_ridge((flat[:400], goal[:400]), (flat[400:500], goal[400:500]))
    np.testing.assert_allclose(ridge(flat[500:]), goal[500:], atol=0.01)
    assert ridge.strength == 1e-2


def test_ridge_is_the_closed_form():
    rng = np.random.default_rng(1)
    xs, ys = rng.normal(size=(50, 3)) * [1, 10, 0.1] + 5, rng.normal(size=(50, 2))
    ridge = fit_ridge(xs, ys, 3.0)
    z = (xs - xs.mean(axis=0)) / xs.std(axis=0)
    # Zero gradient of the penalised squares.
    np.testing.assert_allclose(z.T @ (ys - ridge(xs)), 3.0 * ridge.weights, atol=1e-9)
    constant = fit_ridge(np.ones((4, 1)), np.arange(4.0)[:, None], 1.0)
    np.testing.assert_allclose(constant(np.ones((1, 1))), [[1.5]])
    with pytest.raises(ValueError, match="finite"):
        fit_ridge(xs * np.nan, ys, 1.0)


def test_window_features_by_hand():
    windows = np.array([[[9.0], [1.0], [3.0], [8.0]]])
    is_real = np.array([[False, True, True, True]])
    last, mean, std, slope = window_features(windows, is_real)[0]
    assert (last, mean, slope) == (8, 4, 3.5)
    np.testing.assert_allclose(std, np.std([1, 3, 8]))
    single = window_features(np.array([[[0.0], [2.0]]]), np.array([[False, True]]))
    np.testing.assert_allclose(single, [[2, 2, 0, 0]])


def test_trees_stop_where_valid_is_best():
    rng = np.random.default_rng(0)
    xs = rng.uniform(size=(400, 3))
    xs[:, 2] = 1.0  # a column that does not change
    ys = np.sign(xs[:, 0] - 0.5) + rng.normal(size=400)
    trees = gradient_boosting((xs[:200], ys[:200]), (xs[200:], ys[200:]), most_trees=60)
    more = gradient_boosting((xs[:200], ys[:200]), (xs[:200], ys[:200]), most_trees=60)
    own, over = (np.mean((each(xs[200:]) - ys[200:]) ** 2) for each in (trees, more))
    assert own < over
    assert own < 0.8 * np.var(ys)
