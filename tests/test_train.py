"""Training: clipping, skipped updates, bad data, and one step under scan and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.gru import GRU
from seqlab.errors import InputError
from seqlab.losses import (
    binary_cross_entropy,
    cross_entropy,
    label_accuracy,
    masked_mean,
    squared_error,
)
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.train import first_nonfinite, global_norm, init_state, make_train_step, steps

# A loss whose gradient is the batch itself: what the optimiser sees is known to the bit.


def pick(params, batch, key):
    """The gradient by `params["a"]` is batch["a"], and likewise b; the loss may be set apart."""
    loss = jnp.sum(params["a"] * batch["a"]) + jnp.sum(params["b"] * batch["b"])
    return loss + batch.get("loss", 0.0), {"largest": jnp.max(params["a"])}


def zeros():
    return {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}


def batch_of(a0, a1, b, **rest):
    return {"a": jnp.asarray([a0, a1]), "b": jnp.asarray([[b]]), **rest}


def after(batch, clip_norm=None, optimizer=None):
    """State and metrics after one step of plain descent: the parameters are minus the gradient."""
    optimizer = optimizer or optax.sgd(1.0)
    state = init_state(zeros(), optimizer, jax.random.key(0))
    return jax.jit(make_train_step(pick, optimizer, clip_norm=clip_norm))(state, batch)


def test_clipping_is_by_the_global_norm_and_keeps_the_direction(x64):
    state, metrics = after(batch_of(3.0, 4.0, 12.0), clip_norm=6.5)
    np.testing.assert_allclose(metrics["grad_norm"], 13.0, rtol=1e-15)  # before clipping
    assert metrics["clipped"] == 1
    np.testing.assert_allclose(state.params["a"], [-1.5, -2.0], rtol=1e-15)
    np.testing.assert_allclose(state.params["b"], [[-6.0]], rtol=1e-15)


@pytest.mark.parametrize("clip_norm", [None, 13.0, 20.0])
def test_what_is_within_the_norm_is_left_alone(x64, clip_norm):
    state, metrics = after(batch_of(3.0, 4.0, 12.0), clip_norm=clip_norm)
    np.testing.assert_array_equal(state.params["a"], [-3.0, -4.0])
    np.testing.assert_array_equal(state.params["b"], [[-12.0]])
    assert metrics["clipped"] == 0
    np.testing.assert_allclose(metrics["grad_norm"], 13.0, rtol=1e-15)


@pytest.mark.parametrize("size", [1e30, 1e38])
def test_huge_gradients_are_clipped_and_do_not_overflow(size):
    """In float32: the square of 1e30 is infinite, the norm is not."""
    state, metrics = after(batch_of(size, 0.0, 0.0), clip_norm=1.0)
    np.testing.assert_allclose(metrics["grad_norm"], size, rtol=1e-6)
    assert metrics["skipped"] == 0
    assert metrics["clipped"] == 1
    np.testing.assert_allclose(state.params["a"], [-1.0, 0.0], rtol=1e-6)


def test_tiny_gradients_have_a_norm():
    assert float(jnp.linalg.norm(jnp.asarray([3e-30, 4e-30]))) == 0.0  # squares underflow
    _, metrics = after(batch_of(3e-30, 4e-30, 0.0), clip_norm=1.0)
    np.testing.assert_allclose(metrics["grad_norm"], 5e-30, rtol=1e-6)


def test_global_norm_is_the_norm_of_all_leaves(x64):
    tree = {"a": jnp.asarray([1.0, -2.0]), "b": {"c": jnp.asarray([[3.0], [4.0]])}}
    np.testing.assert_allclose(global_norm(tree), np.sqrt(30.0), rtol=1e-15)
    assert global_norm({"a": jnp.zeros(3)}) == 0.0
    assert np.isnan(global_norm({"a": jnp.asarray([1.0, jnp.nan])}))
    assert not np.isfinite(global_norm({"a": jnp.asarray([1.0, jnp.inf])}))


# Updates that are not finite


@pytest.mark.parametrize(
    "batch",
    [
        batch_of(np.nan, 1.0, 1.0),
        batch_of(1.0, np.inf, 1.0),
        batch_of(1.0, 1.0, -np.inf),
        batch_of(1.0, 1.0, 1.0, loss=np.float32(np.nan)),
        batch_of(1.0, 1.0, 1.0, loss=np.float32(np.inf)),
    ],
    ids=["nan gradient", "inf gradient", "inf elsewhere", "nan loss", "inf loss"],
)
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(batch, clip_norm):
    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(pick, optimizer, clip_norm=clip_norm))
    good = batch_of(1.0, 2.0, 3.0, **({"loss": np.float32(0.0)} if "loss" in batch else {}))
    state, metrics = step(init_state(zeros(), optimizer, jax.random.key(0)), good)
    assert metrics["skipped"] == 0

    after_bad, metrics = step(state, batch)
    assert metrics["skipped"] == 1
    assert metrics["clipped"] == 0
    assert after_bad.skipped == 1
    assert after_bad.step == 2  # the batch was seen
    for a, b in zip(
        jax.tree.leaves((after_bad.params, after_bad.opt_state)),
        jax.tree.leaves((state.params, state.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)

    after_good, metrics = step(after_bad, good)
    assert metrics["skipped"] == 0
    assert after_good.skipped == 1
    assert np.all(after_good.params["a"] != state.params["a"])


# A small task: is the sum of a sequence positive?

SEQUENCES, LENGTH = 10, 6
MODEL = functional(ManyToOne, GRU(8), input_size=1, output_size=2)


def small_task(seed=0):
    xs = jax.random.normal(jax.random.key(seed), (SEQUENCES, LENGTH, 1))
    labels = (jnp.sum(xs, axis=(1, 2)) > 0).astype(jnp.int32)
    return {"xs": xs, "labels": labels}


def classify(params, batch, key):
    out = MODEL.apply(params, batch["xs"], batch.get("mask"))
    loss = masked_mean(cross_entropy(out.logits, batch["labels"]))
    return loss, {"accuracy": label_accuracy(out.logits, batch["labels"])}


OPTIMIZER = optax.adam(0.05)
TRAIN_STEP = make_train_step(classify, OPTIMIZER, clip_norm=1.0)


@jax.jit
def fresh(seed=0):
    key_params, key_steps = jax.random.split(jax.random.key(seed))
    return init_state(MODEL.init(key_params), OPTIMIZER, key_steps)


SEVERAL = jax.vmap(TRAIN_STEP, in_axes=(0, None))


def fresh_several(count):
    return jax.jit(jax.vmap(fresh))(jnp.arange(count))


def test_a_tiny_model_overfits_ten_sequences():
    batch = small_task()
    last = {}
    for step, state, metrics in steps(TRAIN_STEP, fresh(), [batch] * 100):
        last = metrics
        assert step == int(state.step)
    assert last["accuracy"] == 1.0
    assert last["loss"] < 0.05
    assert int(state.skipped) == 0


def test_a_scan_over_the_step_is_the_steps():
    batches = [small_task(seed) for seed in range(5)]
    *_, (_, by_steps, last) = steps(TRAIN_STEP, fresh(), batches)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    by_scan, trail = jax.jit(lambda s, b: jax.lax.scan(TRAIN_STEP, s, b))(fresh(), stacked)
    assert int(by_scan.step) == int(by_steps.step) == 5
    for a, b in zip(
        jax.tree.leaves((by_scan.params, by_scan.opt_state)),
        jax.tree.leaves((by_steps.params, by_steps.opt_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trail["loss"][-1], last["loss"], rtol=1e-4)


@pytest.mark.slow
def test_a_vmap_over_seeds_is_each_seed():
    batch = small_task()
    *_, (step, state, metrics) = steps(SEVERAL, fresh_several(3), [batch] * 3)
    assert step == 3
    assert metrics["loss"].shape == (3,)
    assert len(np.unique(np.asarray(metrics["loss"]))) == 3
    for seed in range(3):
        *_, (_, alone, own) = steps(TRAIN_STEP, fresh(seed), [batch] * 3)
        np.testing.assert_allclose(own["loss"], metrics["loss"][seed], rtol=1e-4)
        for a, b in zip(
            jax.tree.leaves(jax.tree.map(lambda leaf, s=seed: leaf[s], state.params)),
            jax.tree.leaves(alone.params),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    batches = [small_task(seed) for seed in range(3)]

    def losses(seed):
        return [float(m["loss"]) for _, _, m in steps(TRAIN_STEP, fresh(seed), batches)]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_each_step_has_randomness_of_its_own():
    def draw(params, batch, key):
        return jnp.sum(params["a"]) * 0.0, {"drawn": jax.random.uniform(key)}

    optimizer = optax.sgd(0.0)

    def drawn():
        state = init_state(zeros(), optimizer, jax.random.key(7))
        step = make_train_step(draw, optimizer)
        return [float(m["drawn"]) for _, _, m in steps(step, state, [batch_of(0.0, 0.0, 0.0)] * 4)]

    assert len(set(drawn())) == 4
    assert drawn() == drawn()


def test_steps_go_on_counting_from_the_state():
    batch = small_task()
    *_, (_, state, _) = steps(TRAIN_STEP, fresh(), [batch] * 2)
    assert [step for step, _, _ in steps(TRAIN_STEP, state, [batch] * 2)] == [3, 4]


def test_steps_are_lazy_and_compile_once():
    traced = []

    def counting(params, batch, key):
        traced.append(1)
        return classify(params, batch, key)

    step = make_train_step(counting, OPTIMIZER)
    walk = steps(step, fresh(), (small_task(seed) for seed in range(4)))
    assert traced == []
    assert len(list(walk)) == 4
    assert len(traced) == 1


# Data that is at fault


def test_nan_in_the_data_is_told_by_field_and_place():
    batch = small_task()
    bad = {**batch, "xs": batch["xs"].at[3, 2, 0].set(jnp.nan)}
    with pytest.raises(InputError, match=r"step 2: the batch holds xs\[3, 2, 0\] = nan") as error:
        list(steps(TRAIN_STEP, fresh(), [batch, bad, batch]))
    assert "\n" not in str(error.value)


def test_infinity_in_the_data_is_told_under_vmap_too():
    batch = small_task()
    bad = {**batch, "xs": batch["xs"].at[0, 0, 0].set(jnp.inf)}
    with pytest.raises(InputError, match=r"xs\[0, 0, 0\] = inf"):
        list(steps(SEVERAL, fresh_several(3), [bad]))


def test_a_skipped_step_on_finite_data_goes_on():
    """An update can leave the numbers by itself; that is counted, not the data's fault."""

    def overflows(params, batch, key):
        return jnp.sum(params["a"]) / jnp.sum(batch["a"]), {}

    optimizer = optax.sgd(1.0)
    step = make_train_step(overflows, optimizer)
    state = init_state(zeros(), optimizer, jax.random.key(0))
    batches = [batch_of(0.0, 0.0, 0.0), batch_of(1.0, 0.0, 0.0)]
    *_, (count, state, metrics) = steps(step, state, batches)
    assert count == 2
    assert int(state.skipped) == 1
    assert int(metrics["skipped"]) == 0


def test_nan_in_masked_padding_is_no_fault():
    batch = small_task()
    mask = np.arange(LENGTH)[None, :] < np.array([LENGTH] * 9 + [2])[:, None]
    padded = {**batch, "xs": jnp.where(mask[..., None], batch["xs"], jnp.nan)}
    padded["mask"] = jnp.asarray(mask)
    zero = {**padded, "xs": jnp.where(mask[..., None], batch["xs"], 0.0)}
    found = [float(m["loss"]) for _, _, m in steps(TRAIN_STEP, fresh(), [padded] * 3)]
    assert found == [float(m["loss"]) for _, _, m in steps(TRAIN_STEP, fresh(), [zero] * 3)]
    assert np.all(np.isfinite(found))


def test_first_nonfinite():
    mask = np.array([[True, False], [True, True]])
    assert first_nonfinite({"x": np.zeros(3), "n": np.arange(3)}) is None
    assert first_nonfinite({"x": np.array([0.0, np.inf])}) == "x[1] = inf"
    assert first_nonfinite({"d": {"x": np.array([[0.0, -np.inf]])}}) == "d.x[0, 1] = -inf"
    assert first_nonfinite(np.array([np.nan])) == "batch[0] = nan"
    values = np.zeros((2, 2, 1))
    values[0, 1] = np.nan
    assert first_nonfinite({"x": values, "mask": mask}) is None
    values[1, 1] = np.nan
    assert first_nonfinite({"x": values, "mask": mask}) == "x[1, 1, 0] = nan"
    assert first_nonfinite({"x": np.float32(np.nan)}) == "x[] = nan"


# Losses


def test_losses_by_hand(x64):
    logits = jnp.asarray([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log([p[0, 2], p[1, 0]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray([2, 0])), expected, rtol=1e-14)

    far = cross_entropy(jnp.asarray([1e4, -1e4, -jnp.inf]), jnp.asarray(1))
    np.testing.assert_array_equal(far, 2e4)

    a = jnp.asarray([0.3, -2.0])
    q = 1.0 / (1.0 + np.exp(-np.asarray(a)))
    expected = [-np.log(q[0]), -np.log(1.0 - q[1])]
    found = binary_cross_entropy(a, jnp.asarray([1.0, 0.0]))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    far = binary_cross_entropy(jnp.asarray([1e4, -1e4]), jnp.asarray([0.0, 1.0]))
    np.testing.assert_array_equal(far, 1e4)

    found = squared_error(jnp.asarray([[1.0, 2.0]]), jnp.asarray([[0.0, 4.0]]))
    np.testing.assert_array_equal(found, [5.0])


def test_derivatives_of_the_cross_entropy_are_those_of_optax(x64):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)))
    logits = logits.at[0, 0].set(jnp.asarray([800.0, -800.0, 0.0, -jnp.inf, 1.0]))
    labels = jnp.asarray([[1, 4, 0], [2, 2, 3]])
    both = cross_entropy, optax.softmax_cross_entropy_with_integer_labels
    for derivative in (jax.jacrev, jax.jacfwd, jax.hessian):
        found, expected = (
            derivative(lambda logits, each=each: jnp.sum(each(logits, labels) ** 2))(logits)
            for each in both
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_cross_entropys_derivative_has_the_digits_of_its_type(x64):
    exact = np.random.default_rng(1).normal(size=(4, 1000))
    labels = jnp.arange(4)
    # A difference from the largest logit of about 8 is rounded by half of 2^-5 in bfloat16.
    for dtype, offset, rtol in ((jnp.float32, 1e5, 1e-6), (jnp.bfloat16, 0.0, 2**-6 + 2**-7)):
        logits = (jnp.asarray(exact) + offset).astype(dtype)
        found, expected = (
            jax.grad(lambda logits: jnp.sum(cross_entropy(logits, labels)))(each)
            for each in (logits, logits.astype(jnp.float64))
        )
        assert found.dtype == dtype
        np.testing.assert_allclose(found.astype(np.float64), expected, rtol=rtol)


@pytest.mark.parametrize("label", [np.uint8(3), np.int32(-1)])
def test_the_cross_entropys_derivative_is_of_the_label_whose_loss_it_is(label, x64):
    logits = jnp.asarray(np.random.default_rng(2).normal(size=300))
    found = jax.grad(cross_entropy)(logits, jnp.asarray(label))
    expected = np.array(jax.nn.softmax(logits))
    expected[label] -= 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_masked_mean_divides_by_what_is_real(x64):
    values = jnp.asarray([[1.0, 3.0, jnp.nan], [5.0, jnp.inf, 7.0]])
    mask = jnp.asarray([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask) == 3.0
    slope = jax.grad(lambda v: masked_mean(v, mask))(values)
    np.testing.assert_allclose(slope, np.asarray(mask) / 3.0, rtol=1e-15)
    assert masked_mean(values, jnp.zeros((2, 3), bool)) == 0.0
    assert masked_mean(jnp.asarray([1.0, 2.0])) == 1.5


def test_label_accuracy_counts_real_entries():
    logits = jnp.asarray([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0]])
    labels = jnp.asarray([0, 0, 0])
    np.testing.assert_allclose(label_accuracy(logits, labels), 2 / 3, rtol=1e-6)
    mask = jnp.asarray([True, True, False])
    np.testing.assert_allclose(label_accuracy(logits, labels, mask), 0.5, rtol=1e-6)
