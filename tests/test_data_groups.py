"""Splits by group cannot leak, and a scaler knows what it was fitted on."""

import numpy as np
import pytest

from seqlab.data.groups import Part, check_no_leak, fit_scaler, split_groups, split_years
from seqlab.errors import InputError

IDS = [f"s{i}" for i in range(20)]


def test_a_split_by_group_has_every_group_once():
    parts = split_groups(IDS * 3, {"valid": 0.2, "test": 0.1}, seed=4)
    assert {name: len(part) for name, part in parts.items()} == {"train": 14, "valid": 4, "test": 2}
    assert frozenset.union(*parts.values()) == set(IDS)
    check_no_leak(parts)
    assert parts == split_groups(IDS, {"valid": 0.2, "test": 0.1}, seed=4)
    assert parts != split_groups(IDS, {"valid": 0.2, "test": 0.1}, seed=5)
    with pytest.raises(InputError, match="number of groups must be 3 or more"):
        split_groups(IDS[:2], {"valid": 0.2, "test": 0.1})
    with pytest.raises(InputError, match="leave none of 20 groups to train on"):
        split_groups(IDS, {"valid": 0.6, "test": 0.4})


def test_a_split_by_years_takes_whole_seasons():
    years = {name: 2000 + i // 2 for i, name in enumerate(IDS)}
    parts = split_years(years, {"train": 2004, "valid": 2005, "test": 2007})
    assert {name: sorted({years[i] for i in part}) for name, part in parts.items()} == {
        "train": [2000, 2001, 2002, 2003, 2004], "valid": [2005], "test": [2006, 2007],
    }  # fmt: skip
    check_no_leak(parts)
    with pytest.raises(
        InputError, match="test: no group of the years 2010 to 2012; there are thos"
    ):
        split_years(years, {"train": 2004, "valid": 2009, "test": 2012})
    with pytest.raises(InputError, match="they increase"):
        split_years(years, {"train": 2004, "valid": 2003})


def test_leaks_are_found():
    with pytest.raises(InputError, match="the split leaks: b is in train and in test"):
        check_no_leak({"train": ["a", "b"], "valid": ["c"], "test": ["b", "d"]})
    scaler = fit_scaler(Part("train", np.zeros((2, 1)), ["a", "d"]))
    with pytest.raises(InputError, match="the scaler leaks: it was fitted on d"):
        check_no_leak({"train": ["a"], "test": ["d"]}, scaler)
    check_no_leak({"train": ["a", "d"], "test": ["e"]}, scaler)


@pytest.mark.parametrize("name", ["valid", "test", "all", "Train"])
def test_only_train_is_fitted(name):
    with pytest.raises(InputError, match=f"fitted on train only, not on '{name}'"):
        fit_scaler(Part(name, np.zeros((2, 1)), ["a", "b"]))


def test_scaling_with_missing_and_constant_columns():
    values = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    scaler = fit_scaler(Part("train", values, list("abc")))
    assert scaler.is_constant.tolist() == [False, True, True]
    np.testing.assert_array_equal(scaler(values), [[-1, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(scaler(np.array([5.0, 99.0, 3.0])), [3, 0, 0])
    with pytest.raises(InputError, match="row 1, column 2 is infinite"):
        fit_scaler(Part("train", np.array([[0, 0, 0], [0, 0, np.inf]]), list("ab")))
    with pytest.raises(InputError, match="expected rows"):
        fit_scaler(Part("train", np.zeros((0, 2)), []))


def test_scaling_by_regime_takes_their_means_away():
    rng = np.random.default_rng(0)
    regimes = np.arange(300) % 3
    values = rng.normal(size=(300, 2)) * 0.5 + 10.0 * regimes[:, None]
    part = Part("train", values, list(range(300)))
    scaled = fit_scaler(part, regimes, 3)(values, regimes)
    for regime in range(3):
        np.testing.assert_allclose(scaled[regimes == regime].mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(scaled[regimes == regime].std(axis=0), 1, atol=1e-12)
    with pytest.raises(InputError, match="no training row of regime 3"):
        fit_scaler(part, regimes, 4)
    with pytest.raises(ValueError, match="give regimes exactly"):
        fit_scaler(part)(values, regimes)
