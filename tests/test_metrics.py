"""Statistics of classifiers against closed forms, scipy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, f1_score

from seqlab.metrics import (
    accuracy,
    bootstrap,
    calibration,
    confusion,
    macro_f1,
    majority_accuracy,
    mcnemar,
    wilson,
)


def guesses(count=300, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=count)
    said = np.where(rng.random(count) < 0.6, labels, rng.integers(num_classes, size=count))
    return labels, said


def probabilities(count=500, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(num_classes, 0.7), size=count)
    return rows, rng.integers(num_classes, size=count)


def test_accuracy_has_the_interval_of_the_bootstrap():
    is_right = np.random.default_rng(0).random(400) < 0.8
    found = accuracy(is_right)
    drawn = bootstrap(is_right, np.mean, num_draws=10_000, seed=1)
    assert found.middle == is_right.mean()
    np.testing.assert_allclose(found, drawn, atol=0.004)  # each end is a draw of its own
    again = accuracy(is_right)
    assert (found.low, found.high) == (again.low, again.high)
    assert accuracy(is_right, level=0.5).low > found.low
    assert tuple(map(float, accuracy(np.ones(5, bool)))) == (1.0, 1.0, 1.0)


def test_accuracy_of_many_examples_has_the_normal_interval():
    is_right = np.arange(25_000) % 10 != 0
    found = accuracy(is_right)
    expected = 1.96 * np.sqrt(0.9 * 0.1 / 25_000)
    np.testing.assert_allclose([0.9 - found.low, found.high - 0.9], expected, rtol=0.05)


@pytest.mark.parametrize(
    ("num_right", "count"), [(0, 7), (7, 7), (1, 3), (431, 500), (21_000, 25_000)]
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(num_right, count, level):
    found = wilson(num_right, count, level)
    expected = binomtest(num_right, count).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(found[1:], (expected.low, expected.high), rtol=1e-12, atol=1e-15)
    assert found.middle == num_right / count


def test_confusion_is_scikit_learns():
    labels, said = guesses()
    found = confusion(labels, said, 5)
    np.testing.assert_array_equal(found, confusion_matrix(labels, said, labels=range(5)))
    assert found.dtype == np.int64
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_macro_f1_is_scikit_learns(seed):
    labels, said = guesses(40, 6, seed)
    expected = f1_score(labels, said, average="macro")
    assert macro_f1(confusion(labels, said, 6)) == pytest.approx(expected, abs=1e-12)


def test_macro_f1_of_a_class_that_is_not_there_and_of_one_never_right():
    labels, said = np.array([0, 0, 2]), np.array([0, 0, 0])
    assert macro_f1(confusion(labels, said, 4)) == pytest.approx((0.8 + 0) / 2)
    expected = f1_score(labels, said, average="macro")
    assert macro_f1(confusion(labels, said, 4)) == pytest.approx(expected)


def test_majority():
    assert majority_accuracy(np.array([2, 2, 1]), np.array([2, 1, 1, 2, 2])) == 0.6
    assert majority_accuracy(np.array([1, 0]), np.array([0, 0, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("num_bins", [5, 10, 15])
def test_the_reliability_curve_is_scikit_learns(num_bins):
    rows, labels = probabilities()
    found = calibration(rows, labels, num_bins)
    confidence = rows.max(axis=1)
    is_right = rows.argmax(axis=1) == labels
    share, mean = calibration_curve(is_right, confidence, n_bins=num_bins)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracy[filled], share, atol=1e-12)
    np.testing.assert_allclose(found.confidence[filled], mean, atol=1e-12)
    assert np.isnan(found.accuracy[~filled]).all()
    assert found.counts.sum() == len(labels)
    weights = found.counts[filled] / len(labels)
    assert found.error == pytest.approx(np.sum(weights * np.abs(share - mean)), abs=1e-12)


def test_calibration_by_hand():
    rows = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    found = calibration(rows, np.array([0, 0, 0, 1]), num_bins=2)
    assert found.counts.tolist() == [0, 4]
    assert found.error == pytest.approx(abs(0.75 - 0.8))
    found = calibration(rows, np.array([0, 0, 0, 1]), num_bins=10)
    assert found.counts.tolist() == [
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        1,
        2,
        0,
    ]  # closed above: 0.9 is in 0.8 .. 0.9
    assert found.error == pytest.approx((0.4 + 0.2 + 2 * 0.4) / 4)


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    labels = (rng.random(200_000) > confidence).astype(int)
    rows = np.stack([confidence, 1 - confidence], axis=1)
    assert calibration(rows, labels).error < 0.005
    assert calibration(rows, labels * 0).error == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 1), (3, 9), (9, 3), (60, 41), (700, 800)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    first = np.array([1] * b + [0] * c + [1, 0, 1], bool)
    second = np.array([0] * b + [1] * c + [1, 0, 1], bool)
    found = mcnemar(first, second)
    assert found[:2] == (b, c)
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert mcnemar(second, first).p_value == found.p_value


def test_mcnemar_of_models_that_have_nothing_in_common():
    first = np.arange(25_000) < 13_000
    assert 0 < mcnemar(first, ~first).p_value < 1e-9
    assert mcnemar(np.ones(20_000, bool), np.zeros(20_000, bool)).p_value == 0.0  # below 1e-308


ROWS = np.array([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy(np.zeros(0, bool)), "no examples"),
        (lambda: wilson(1, 0), "1 right of 0"),
        (lambda: wilson(3, 2), "3 right of 2"),
        (lambda: confusion(np.zeros(2, int), np.zeros(3, int), 2), r"\(2,\), guesses \(3,\)"),
        (lambda: confusion(np.array([0, 2]), np.zeros(2, int), 2), "labels are in 0 .. 2"),
        (lambda: confusion(np.zeros(1, int), np.array([-1]), 2), "guesses are in -1 .. -1"),
        (lambda: macro_f1(np.zeros((2, 2), int)), "no examples"),
        (lambda: majority_accuracy(np.array([1]), np.array([])), "no examples"),
        (lambda: calibration(ROWS, np.zeros(2, int)), "shape"),
        (lambda: calibration(ROWS * 3, np.zeros(1, int)), "row 0 is no"),
        (lambda: calibration(ROWS * np.nan, np.zeros(1, int)), "row 0 is no"),
        (lambda: calibration(np.array([[1.5, -0.5]]), np.zeros(1, int)), "row 0 is no"),
        (lambda: mcnemar(np.ones(2, bool), np.ones(3, bool)), "the same examples"),
    ],
)
def test_what_cannot_be(call, words):
    with pytest.raises(ValueError, match=words):
        call()
