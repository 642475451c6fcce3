import numpy as np
import pytest

from seqlab.data.synthetic import (
    ADDING_VERSIONS,
    COPY_LENGTH,
    TEMPORAL_ORDER_CLASSES,
    adding,
    adding_baseline,
    adding_correct,
    copy_memory,
    copy_memory_baseline,
    temporal_order,
    temporal_order_chance,
    temporal_order_correct,
)
from seqlab.errors import InputError

LARGE = 40_000
MAKERS = {
    **{f"adding {v}": lambda rng, b, v=v: adding(rng, b, 20, v) for v in ADDING_VERSIONS},
    "copy": lambda rng, b: copy_memory(rng, b, 5),
    **{
        f"order {v}": lambda rng, b, v=v: temporal_order(rng, b, version=v)
        for v in TEMPORAL_ORDER_CLASSES
    },
}


def rng(seed=0):
    return np.random.default_rng(seed)


def marked(task, value=1.0):
    """Positions of a marker in every row, [B, 2]."""
    rows, places = np.nonzero(task.xs[..., 1] == value)
    assert np.array_equal(rows, np.repeat(np.arange(len(task.xs)), 2))
    return places.reshape(-1, 2)


def lengths_of(task):
    lengths = task.mask.sum(axis=1)
    np.testing.assert_array_equal(task.mask, np.arange(task.mask.shape[1]) < lengths[:, None])
    return lengths


def assert_uniform(values, low, high):
    """Every whole number in low .. high occurs, none else, all about equally often (5 sigma)."""
    counts = np.bincount(np.asarray(values) - low, minlength=high - low + 1)
    assert np.min(values) == low
    assert np.max(values) == high
    expected = len(values) / len(counts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def symbols_of(task):
    """Class of every real step, [B, T]; checks that inputs are one-hot there and zero elsewhere."""
    np.testing.assert_array_equal(task.xs.sum(-1), task.mask)
    np.testing.assert_array_equal(task.xs.max(-1), task.mask)
    return task.xs.argmax(-1)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_same_seed_same_batch_and_no_other_randomness(maker):
    np.random.seed(1)  # noqa: NPY002
    first = maker(rng(5), 6)
    np.random.seed(2)  # noqa: NPY002
    again, other = maker(rng(5), 6), maker(rng(6), 6)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first.xs, other.xs)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_types_and_padding(maker):
    task = maker(rng(), 50)
    assert task.xs.dtype == np.float32
    assert task.mask.dtype == bool
    assert task.mask.shape == task.xs.shape[:2]
    assert not task.xs[~task.mask].any()
    assert task.targets.dtype in (np.float32, np.int32)
    assert len(task.targets) == 50


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_empty_batch_is_refused(maker):
    with pytest.raises(InputError, match="batch_size must be 1 or more, got 0"):
        maker(rng(), 0)


@pytest.mark.parametrize(("version", "shortest"), [("arjovsky", 2), ("hs97", 11), ("pascanu", 10)])
def test_adding_too_short_names_field_and_version(version, shortest):
    with pytest.raises(
        InputError, match=rf"num_steps must be {shortest} .*{version}.*{shortest - 1}"
    ):
        adding(rng(), 4, shortest - 1, version)
    task = adding(rng(), 500, shortest, version)
    ones = (task.xs[..., 1] == 1).sum(axis=1)
    assert set(ones) == ({1, 2} if version == "hs97" else {2})
    if version == "hs97":
        assert ((task.xs[..., 1] == -1).sum(axis=1) == 2).all()


def test_unknown_versions_are_refused():
    with pytest.raises(InputError, match="unknown version 'arjovski'; did you mean 'arjovsky'"):
        adding(rng(), 4, 20, "arjovski")
    with pytest.raises(InputError, match="unknown version 'hs97'; did you mean 'hs97_6"):
        temporal_order(rng(), 4, version="hs97")
    with pytest.raises(InputError, match="unknown version"):
        adding_baseline("bengio")
    with pytest.raises(InputError, match="unknown version"):
        temporal_order_chance("bengio")
    with pytest.raises(InputError, match="unknown criterion 'arjovsky'"):
        adding_correct(np.zeros(1), np.zeros(1), "arjovsky")


@pytest.mark.parametrize("num_steps", [20, 21])
def test_adding_arjovsky_marks_one_step_in_each_half(num_steps):
    task = adding(rng(), LARGE, num_steps)
    assert task.xs.shape == (LARGE, num_steps, 2)
    assert task.mask.all()
    places = marked(task)
    assert_uniform(places[:, 0], 0, num_steps // 2 - 1)
    assert_uniform(places[:, 1], num_steps // 2, num_steps - 1)
    values = task.xs[..., 0]
    assert values.min() >= 0
    assert values.mean() == pytest.approx(0.5, abs=0.002)
    assert values.var() == pytest.approx(1 / 12, abs=0.001)
    expected = np.take_along_axis(values, places, axis=1).sum(axis=1, keepdims=True)
    assert task.targets.shape == (LARGE, 1)
    np.testing.assert_allclose(task.targets, expected, atol=1e-6)


def test_adding_arjovsky_error_of_the_constant_one():
    targets = adding(rng(), 400_000, 2).targets
    error = np.mean((targets.astype(np.float64) - 1.0) ** 2)
    assert error == pytest.approx(1 / 6, abs=0.0015)
    assert adding_baseline() == adding_baseline("arjovsky", 200) == 1 / 6


def test_adding_hs97_lengths_and_marks():
    num_steps = 40
    task = adding(rng(), LARGE, num_steps, "hs97")
    assert task.xs.shape == (LARGE, 44, 2)
    lengths = lengths_of(task)
    assert_uniform(lengths, 40, 44)
    markers = task.xs[..., 1]
    assert set(np.unique(markers)) == {-1, 0, 1}
    assert (markers[:, 0] == -1).all()
    assert (markers[np.arange(LARGE), lengths - 1] == -1).all()
    assert ((markers == -1).sum(axis=1) == 2).all()
    ones = (markers == 1).sum(axis=1)
    assert set(ones) == {1, 2}
    # A mark is hidden by the -1 of the first pair: X1 there 1 in 10, else X2 there 1 in T/2 - 1.
    hidden = 0.1 + 0.9 / (num_steps // 2 - 1)
    assert np.mean(ones == 1) == pytest.approx(hidden, abs=0.01)
    assert (task.xs[ones == 1, 0, 0] == 0).all()
    assert (task.xs[ones == 2, 0, 0] != 0).all()
    rows, places = np.nonzero(markers == 1)
    assert places.min() == 1
    assert places.max() == num_steps // 2 - 1
    # The second mark is uniform over T/2 - 1 pairs, so those from 10 on are equally likely.
    assert_uniform(places[places >= 10], 10, num_steps // 2 - 1)
    assert np.mean(places >= 10) * len(places) / LARGE == pytest.approx(10 / 19, abs=0.015)
    assert len(rows) == ones.sum()


def test_adding_hs97_marks_one_of_the_first_ten_pairs_evenly():
    # The second mark among the first 10 is uniform over the 9 left: so all 10 stay equally likely.
    task = adding(rng(), LARGE, 20, "hs97")
    _, places = np.nonzero(task.xs[..., 1] == 1)
    assert_uniform(places, 1, 9)


def test_adding_hs97_values_and_targets():
    task = adding(rng(), LARGE, 40, "hs97")
    values, markers = task.xs[..., 0], task.xs[..., 1]
    real = values[task.mask]
    assert real.min() == pytest.approx(-1, abs=1e-3)
    assert real.max() == pytest.approx(1, abs=1e-3)
    assert values[:, 1].var() == pytest.approx(1 / 3, abs=0.01)
    expected = 0.5 + (values * (markers == 1)).sum(axis=1, keepdims=True) / 4
    np.testing.assert_allclose(task.targets, expected, atol=1e-6)


def test_adding_hs97_variance_with_and_without_the_first_pair():
    num_steps = 100
    task = adding(rng(), 100_000, num_steps, "hs97")
    ones = (task.xs[..., 1] == 1).sum(axis=1)
    targets = task.targets[:, 0].astype(np.float64)
    assert targets[ones == 2].var() == pytest.approx(1 / 24, abs=6e-4)
    assert targets[ones == 1].var() == pytest.approx(1 / 48, abs=6e-4)
    assert adding_baseline("hs97") == 1 / 24
    assert adding_baseline("hs97", num_steps) == pytest.approx((1.9 - 0.9 / 49) / 48, abs=1e-12)
    error = np.mean((targets - 0.5) ** 2)
    assert error == pytest.approx(adding_baseline("hs97", num_steps), abs=4e-4)
    assert abs(error - 1 / 24) > 0.002


def test_adding_hs97_constant_answer_fails_as_often_as_published():
    task = adding(rng(), 100_000, 20, "hs97")
    both = (task.xs[..., 1] == 1).sum(axis=1) == 2
    targets = task.targets[both]
    for criterion, failing in (("hs97", 0.8464), ("pascanu", 0.36)):
        wrong = ~adding_correct(np.full_like(targets, 0.5), targets, criterion)
        assert wrong.mean() == pytest.approx(failing, abs=0.008)


def test_adding_pascanu_lengths_marks_and_targets():
    num_steps = 40
    task = adding(rng(), LARGE, num_steps, "pascanu")
    assert task.xs.shape == (LARGE, 43, 2)
    lengths = lengths_of(task)
    assert_uniform(lengths, 40, 43)
    places = marked(task)
    assert_uniform(places[:, 0], 0, 3)
    for length, last in ((40, 19), (41, 19), (42, 19), (43, 20)):
        assert_uniform(places[lengths == length, 1], 4, last)
    values = task.xs[..., 0]
    assert values.min() >= 0
    expected = np.take_along_axis(values, places, axis=1).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(task.targets, expected, atol=1e-6)


def test_adding_pascanu_marks_follow_each_rows_own_length():
    task = adding(rng(), LARGE, 200, "pascanu")
    lengths, places = lengths_of(task), marked(task)
    assert set(lengths) == set(range(200, 220))
    assert (places[:, 0] < lengths // 10).all()
    assert (places[:, 1] >= lengths // 10).all()
    assert (places[:, 1] < lengths // 2).all()
    for length in (200, 210):
        of_length = places[lengths == length]
        assert of_length[:, 0].max() == length // 10 - 1
        assert of_length[:, 1].min() == length // 10
        assert of_length[:, 1].max() == length // 2 - 1


def test_adding_pascanu_constant_answer():
    targets = adding(rng(), 100_000, 10, "pascanu").targets
    half = np.full_like(targets, 0.5)
    assert np.mean((targets - half) ** 2) == pytest.approx(1 / 24, abs=5e-4)
    assert adding_baseline("pascanu", 100) == 1 / 24
    assert np.mean(~adding_correct(half, targets, "hs97")) == pytest.approx(0.8464, abs=0.006)
    assert np.mean(~adding_correct(half, targets, "pascanu")) == pytest.approx(0.36, abs=0.008)


def test_adding_criteria_at_their_edges():
    errors = np.array([0.0, 0.039, 0.041, 0.199, 0.201])
    for sign in (1, -1):
        solved = adding_correct(0.5 + sign * errors, np.full(5, 0.5), "hs97")
        assert solved.tolist() == [True, True, False, False, False]
        solved = adding_correct(0.5 + sign * errors, np.full(5, 0.5), "pascanu")
        assert solved.tolist() == [True, True, True, True, False]
    assert not adding_correct(np.array([0.04]), np.array([0.0]), "hs97")[0]
    assert not adding_correct(np.array([np.nan]), np.array([0.0]), "pascanu")[0]


def test_adding_criterion_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"\(3,\), targets \(3, 1\)"):
        adding_correct(np.zeros(3), np.zeros((3, 1)), "hs97")


@pytest.mark.parametrize("delay", [1, 2, 30])
def test_copy_memory_layout(delay):
    task = copy_memory(rng(), 64, delay)
    assert task.xs.shape == (64, delay + 20, 10)
    assert task.targets.shape == (64, delay + 20)
    assert task.targets.dtype == np.int32
    assert task.mask.all()
    symbols = symbols_of(task)
    assert ((symbols[:, :10] >= 1) & (symbols[:, :10] <= 8)).all()
    assert (symbols[:, 10 : 9 + delay] == 0).all()
    assert (symbols[:, 9 + delay] == 9).all()
    assert (symbols[:, 10 + delay :] == 0).all()
    assert (task.targets[:, : delay + 10] == 0).all()
    np.testing.assert_array_equal(task.targets[:, -COPY_LENGTH:], symbols[:, :10])


def test_copy_memory_symbols_are_uniform():
    assert_uniform(copy_memory(rng(), 5_000, 1).targets[:, -10:].ravel(), 1, 8)


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (100, 0.173287),
        (200, 0.094520),
        (300, 0.064983),
        (500, 0.039989),
        (1000, 0.020387),
        (2000, 0.010294),
    ],
)
def test_copy_memory_baseline_as_published(delay, expected):
    assert copy_memory_baseline(delay) == pytest.approx(expected, abs=5e-7)


def test_copy_memory_baseline_is_the_loss_of_the_memoryless_answer():
    task = copy_memory(rng(), 2_000, 25)
    # By step only: how often each class is right there. Its cross-entropy is the step's entropy.
    frequencies = np.stack([(task.targets == symbol).mean(axis=0) for symbol in range(9)], axis=-1)
    logs = np.log(np.where(frequencies > 0, frequencies, 1.0))
    assert -(frequencies * logs).sum(-1).mean() == pytest.approx(copy_memory_baseline(25), abs=1e-3)


def test_copy_memory_without_delay_is_refused():
    with pytest.raises(InputError, match=r"delay must be 1 or more \(copy memory\), got 0"):
        copy_memory(rng(), 4, 0)


@pytest.mark.parametrize("num_steps", [10, 25, 60])
@pytest.mark.parametrize(
    ("version", "shares"), [("pascanu", (0.1, 0.5)), ("pascanu_3bit", (0.1, 0.3, 0.6))]
)
def test_temporal_order_pascanu(num_steps, version, shares):
    task = temporal_order(rng(), LARGE, num_steps, version)
    assert task.xs.shape == (LARGE, num_steps, 6)
    assert task.mask.all()
    symbols = symbols_of(task)
    rows, places = np.nonzero(symbols < 2)
    assert np.array_equal(rows, np.repeat(np.arange(LARGE), len(shares)))
    places = places.reshape(-1, len(shares))
    marks = np.take_along_axis(symbols, places, axis=1)
    expected = 0
    for k, share in enumerate(shares):
        first = int(num_steps * share)
        assert_uniform(places[:, k], first, first + num_steps // 10 - 1)
        expected = expected + marks[:, k] * 2**k
    np.testing.assert_array_equal(task.targets, expected)
    assert_uniform(task.targets, 0, 2 ** len(shares) - 1)
    assert_uniform(symbols[:, 0], 2, 5)


@pytest.mark.parametrize("version", ["hs97_6a", "hs97_6b"])
def test_temporal_order_hs97(version):
    ranges = {
        "hs97_6a": [(10, 20), (50, 60)],
        "hs97_6b": [(10, 20), (33, 43), (66, 76)],
    }[version]
    names = np.array(list("EabcdXYB"))
    task = temporal_order(rng(), LARGE, version=version)
    assert task.xs.shape == (LARGE, 110, 8)
    lengths = lengths_of(task)
    assert_uniform(lengths, 100, 110)
    symbols = np.where(task.mask, names[symbols_of(task)], "-")
    assert (symbols[:, 0] == "E").all()
    assert (symbols[np.arange(LARGE), lengths - 1] == "B").all()
    assert (np.isin(symbols, ["E", "B"]).sum(axis=1) == 2).all()
    rows, places = np.nonzero(np.isin(symbols, ["X", "Y"]))
    assert np.array_equal(rows, np.repeat(np.arange(LARGE), len(ranges)))
    places = places.reshape(LARGE, -1)
    for column, (low, high) in enumerate(ranges):
        assert_uniform(places[:, column], low, high)
    marks = np.take_along_axis(symbols, places, axis=1)
    classes = {
        "hs97_6a": ["XX", "XY", "YX", "YY"],
        "hs97_6b": ["XXX", "XXY", "XYX", "XYY", "YXX", "YXY", "YYX", "YYY"],
    }[version]
    assert ["".join(row) for row in marks[:500]] == [classes[i] for i in task.targets[:500]]
    assert_uniform(task.targets, 0, len(classes) - 1)
    assert_uniform(np.searchsorted(names[1:5], symbols[:, 1]), 0, 3)
    assert set(symbols[:, 1]) == set("abcd")


def test_temporal_order_length_is_given_by_the_definition():
    temporal_order(rng(), 2, 100, "hs97_6a")
    with pytest.raises(InputError, match=r"num_steps must be 100 .*hs97_6a.* got 50"):
        temporal_order(rng(), 2, 50, "hs97_6a")
    with pytest.raises(InputError, match=r"num_steps must be 10 or more .*got 9"):
        temporal_order(rng(), 2, 9)
    assert temporal_order(rng(), 2).xs.shape == (2, 100, 6)


def test_temporal_order_chance_is_one_over_the_number_of_classes():
    for version, chance in zip(TEMPORAL_ORDER_CLASSES, (0.25, 0.125, 0.25, 0.125), strict=True):
        assert temporal_order_chance(version) == chance
        targets = temporal_order(rng(), 2_000, version=version).targets
        assert targets.max() + 1 == round(1 / chance)


def test_temporal_order_criterion_looks_at_every_output():
    outputs = np.array(
        [
            [0.71, 0.29, 0.0, 0.29],
            [0.69, 0.0, 0.0, 0.0],
            [0.9, 0.31, 0.0, 0.0],
            [0.9, -0.31, 0.0, 0.0],
            [1.29, 0.0, 0.0, 0.0],
        ]
    )
    solved = temporal_order_correct(outputs, np.zeros(5, int))
    assert solved.tolist() == [True, False, False, False, True]
    assert not temporal_order_correct(outputs, np.ones(5, int)).any()
    with pytest.raises(ValueError, match=r"\(5, 4\), targets \(5, 1\)"):
        temporal_order_correct(outputs, np.zeros((5, 1), int))
