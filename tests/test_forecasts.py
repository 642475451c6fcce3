"""How forecasts are judged: closed forms, by hand, and bands over groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import ndtri
from scipy.stats import norm

from seqlab.errors import InputError
from seqlab.forecasts import (
    Prediction,
    coverage,
    crps_gaussian,
    crps_quantiles,
    mean_error,
    phm08_score,
    rmse,
    skill,
)
from seqlab.heads import HEADS, LEVELS, GaussianHead, QuantileHead
from seqlab.losses import gaussian_nll, masked_mean, pinball


@pytest.mark.parametrize(("mean", "std", "truth"), [(0, 1, 0), (2, 0.5, 5), (-3, 4, -3.5)])
def test_gaussian_crps_is_its_integral(mean, std, truth):
    def squared(x):
        return (norm.cdf(x, mean, std) - (x >= truth)) ** 2

    ends = mean - 12 * std, mean + 12 * std
    expected, _ = integrate.quad(squared, *ends, points=[truth], epsabs=1e-12, limit=200)
    np.testing.assert_allclose(crps_gaussian(mean, std, np.array(truth)), expected, rtol=1e-8)


def test_quantiles_give_the_same_crps_in_the_limit():
    levels = (np.arange(4000) + 0.5) / 4000
    truth = np.array([0.0, 1.3, -4.0])
    quantiles = np.tile(2.0 + 0.7 * ndtri(levels), (3, 1))
    expected = crps_gaussian(2.0, 0.7, truth)
    np.testing.assert_allclose(crps_quantiles(quantiles, levels, truth), expected, rtol=1e-4)
    # With the median alone it is the absolute error.
    np.testing.assert_allclose(crps_quantiles(np.array([[3.0]]), [0.5], np.array([5.0])), [2.0])


def test_scores_by_hand():
    assert phm08_score(np.array([10.0]), np.array([0.0])) == pytest.approx(np.e - 1)
    assert phm08_score(np.array([0.0]), np.array([13.0])) == pytest.approx(np.e - 1)
    assert phm08_score(np.array([5.0, 5]), np.array([5, 5])) == 0
    late, early = phm08_score(np.array([30]), np.array([10])), phm08_score([10], np.array([30]))
    assert late > early
    assert rmse(np.array([1.0, 5]), np.array([1, 1])) == pytest.approx(np.sqrt(8))


def test_gaussian_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    prediction = Prediction(np.zeros(40_000), np.full(40_000, 2.0))
    low, high = prediction.interval(0.9)
    truth = 2.0 * rng.normal(size=40_000)
    assert coverage(low, high, truth) == pytest.approx(0.9, abs=0.005)
    assert coverage(low, high, 2 * truth) < 0.65
    np.testing.assert_allclose(high - low, 4 * ndtri(0.95))


def test_predictions_are_rescaled_whole():
    scale, shift = np.array([2.0, 3.0]), np.array([1.0, -1.0])
    quantiles = np.array([[-1.0, 0, 1], [0, 1, 2]])
    found = Prediction(quantiles[:, 1], None, (0.05, 0.5, 0.95), quantiles).rescaled(scale, shift)
    np.testing.assert_array_equal(found.mean, [1, 2])
    np.testing.assert_array_equal(found.interval(0.9), [[-1, -1], [3, 5]])
    with pytest.raises(ValueError, match="no quantiles at"):
        found.interval(0.5)
    with pytest.raises(ValueError, match="a point forecast has no interval"):
        Prediction(np.zeros(2)).interval()
    gaussian = Prediction(np.zeros(2), np.ones(2)).rescaled(scale, shift)
    np.testing.assert_array_equal(gaussian.std, scale)
    assert Prediction(np.zeros(2)).crps(np.array([1.0, -2])).tolist() == [1, 2]


def test_skill_and_its_band_over_groups():
    errors, baseline = np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 6, 8])
    exact = skill(errors, baseline, list("aabb"))
    assert (exact.middle, exact.low, exact.high) == (0.5, 0.5, 0.5)
    assert skill(errors, errors, list("aabb")).middle == 0
    # A hundred copies of a case add nothing: its group is drawn whole.
    rng = np.random.default_rng(1)
    first, second = rng.uniform(1, 3, 30), rng.uniform(1, 3, 30)
    groups = np.arange(30)
    once = skill(first, second, groups)
    copies = skill(np.repeat(first, 100), np.repeat(second, 100), np.repeat(groups, 100))
    np.testing.assert_allclose(np.array(copies), np.array(once), rtol=1e-12)
    assert once.low < once.middle < once.high
    apart = skill(np.repeat(first, 100), np.repeat(second, 100), np.arange(3000))
    assert apart.high - apart.low < 0.2 * (once.high - once.low)


def test_mean_errors_weigh_cases():
    found = mean_error(np.array([1.0, 1, 1, 5]), ["a", "a", "a", "b"])
    assert found.middle == 2
    assert (found.low, found.high) == (1, 5)
    with pytest.raises(ValueError, match="there are 1 groups"):
        mean_error(np.zeros(2), ["a"])
    with pytest.raises(ValueError, match="0 groups"):
        skill(np.zeros(0), np.zeros(0), [])


@pytest.mark.usefixtures("x64")
def test_losses_by_hand():
    np.testing.assert_allclose(
        gaussian_nll(jnp.array(1.0), jnp.array(2.0), jnp.array(4.0)), -norm.logpdf(4, 1, 2)
    )
    found = pinball(jnp.array([[1.0, 1.0]]), jnp.array([0.1, 0.9]), jnp.array([3.0]))
    np.testing.assert_allclose(found, [[0.2, 1.8]])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", HEADS)
def test_what_is_masked_touches_no_loss_and_no_gradient(name):
    head = HEADS[name]
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 4, head.output_size(2))))
    targets = rng.normal(size=(3, 4, 2))
    mask = rng.uniform(size=(3, 4, 2)) < 0.6

    def loss(logits, targets):
        return masked_mean(head.losses(logits, jnp.where(mask, targets, 0.0)), jnp.asarray(mask))

    clean = jax.value_and_grad(loss)(logits, targets)
    dirty = jax.value_and_grad(loss)(logits, np.where(mask, targets, np.nan))
    np.testing.assert_array_equal(clean[0], dirty[0])
    np.testing.assert_array_equal(clean[1], dirty[1])
    alone = head.losses(logits, targets)
    assert alone.shape == (3, 4, 2)
    np.testing.assert_allclose(clean[0], np.mean(np.asarray(alone)[mask]), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "expected"), [("point", 3.0), ("gaussian", 3.0), ("quantile", 2.0)]
)
def test_heads_learn_mean_deviation_and_quantiles(name, expected):
    """Of a skewed sample, by descent from nothing: the mean, or the median and the interval."""
    head = HEADS[name]
    sample = jnp.asarray(np.concatenate([np.full(600, 2.0), np.full(300, 4.0), np.full(100, 6.0)]))
    targets = sample[:, None]

    def loss(logits):
        return jnp.mean(head.losses(jnp.broadcast_to(logits, (1000, logits.size)), targets))

    def down(_, logits):
        return logits - (0.2 if name == "quantile" else 0.05) * jax.grad(loss)(logits)

    logits = jax.lax.fori_loop(0, 4000, down, jnp.zeros(head.output_size(1)))
    prediction = head.predict(np.asarray(logits)[None])
    np.testing.assert_allclose(prediction.mean, [expected], atol=0.05)
    np.testing.assert_allclose(head.best(logits), prediction.mean, atol=1e-9)
    if name == "gaussian":
        np.testing.assert_allclose(prediction.std, [np.std(sample)], atol=0.02)
    if name == "quantile":
        np.testing.assert_allclose(np.ravel(prediction.interval(0.9)), [2, 6], atol=0.06)
        assert prediction.levels == LEVELS


@pytest.mark.usefixtures("x64")
def test_beta_counts_errors_of_the_mean_alike():
    """With beta = 1 the gradient by the mean is that of half the squared error at any std."""
    head = GaussianHead(beta=1.0)
    targets = jnp.array([2.0])

    def by_mean(raw):
        return jax.grad(lambda m: head.losses(jnp.array([m, raw]), targets)[0])(0.5)

    np.testing.assert_allclose([by_mean(-3.0), by_mean(4.0)], [-1.5, -1.5], rtol=1e-12)


def test_several_nets_are_one_forecast():
    logits = np.array([[[0.0, 1.0]], [[2.0, 1.0]]])  # two nets, means 0 and 2
    found = HEADS["gaussian"].predict(logits)
    one = np.logaddexp(1, 0) + 1e-3
    np.testing.assert_allclose(found.mean, [[1.0]])
    np.testing.assert_allclose(found.std, [[np.sqrt(one**2 + 1)]])
    crossed = QuantileHead((0.25, 0.5, 0.75)).predict(np.array([[[3.0, 1.0, 2.0]]]))
    np.testing.assert_array_equal(crossed.quantiles, [[[1, 2, 3]]])


@pytest.mark.parametrize("levels", [(), (0.2, 0.8), (0.5, 0.4), (0.5, 1.0)])
def test_levels_that_are_none(levels):
    with pytest.raises(InputError, match="expected increasing ones"):
        QuantileHead(levels)
