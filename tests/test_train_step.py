"""The training step's options: turns of accumulation, carries, norms by group, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.gru import GRU
from seqlab.errors import InputError
from seqlab.losses import masked_mean, squared_error
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.train import (
    global_norm,
    group_norms,
    init_state,
    learning_rate_schedule,
    make_train_step,
)

ROWS, STEPS = 6, 5
MODEL = functional(ManyToMany, GRU(4), input_size=2, output_size=1)
OPTIMIZER = optax.adam(0.1)


def batch_of(seed=0):
    """Rows of different lengths, so that turns hold different numbers of real steps."""
    rng = np.random.default_rng(seed)
    lengths = np.array([5, 1, 4, 2, 5, 3])
    return {
        "xs": rng.normal(size=(ROWS, STEPS, 2)),
        "targets": rng.normal(size=(ROWS, STEPS, 1)),
        "mask": np.arange(STEPS) < lengths[:, None],
    }


def loss_fn(params, batch, key):
    del key
    out = MODEL.apply(params, batch["xs"], batch["mask"])
    errors = squared_error(out.logits, batch["targets"])
    largest = jnp.mean(jnp.abs(out.logits))
    return masked_mean(errors, batch["mask"]), {
        "weight": jnp.sum(batch["mask"]),
        "size": largest,
    }


def fresh(optimizer=OPTIMIZER, carry=None):
    params = MODEL.init(jax.random.key(0))
    return init_state(params, optimizer, jax.random.key(1), carry)


@pytest.mark.parametrize("turns", [2, 3, 6])
def test_turns_give_what_the_whole_batch_gives(x64, turns):
    """Exactly, though the turns hold different numbers of real steps: they are weighted."""
    whole, one = jax.jit(make_train_step(loss_fn, OPTIMIZER, clip_norm=1.0))(fresh(), batch_of())
    step = make_train_step(loss_fn, OPTIMIZER, clip_norm=1.0, accumulate=turns)
    parts, several = jax.jit(step)(fresh(), batch_of())
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(one[name], several[name], rtol=1e-12)
    assert "weight" not in one
    assert "weight" not in several


def test_without_a_weight_turns_count_alike(x64):
    def plain(params, batch, key):
        loss, metrics = loss_fn(params, batch, key)
        return loss, {"size": metrics["size"]}

    _, found = jax.jit(make_train_step(plain, OPTIMIZER, accumulate=2))(fresh(), batch_of())
    halves = [
        loss_fn(fresh().params, {name: leaf[k::2] for name, leaf in batch_of().items()}, None)
        for k in range(2)
    ]
    np.testing.assert_allclose(found["loss"], np.mean([loss for loss, _ in halves]), rtol=1e-12)
    sizes = np.mean([metrics["size"] for _, metrics in halves])
    np.testing.assert_allclose(found["size"], sizes, rtol=1e-12)


def test_a_batch_that_has_no_equal_turns_is_refused():
    step = make_train_step(loss_fn, OPTIMIZER, accumulate=4)
    with pytest.raises(InputError, match="a batch of 6 rows cannot be taken in 4 turns"):
        step(fresh(), batch_of())


@pytest.mark.parametrize("field", ["accumulate", "norms_every"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}=0"):
        make_train_step(loss_fn, OPTIMIZER, **{field: 0})


# A carry from batch to batch


def remember(params, batch, key, carry):
    """The loss is this batch's sum and what was remembered; the new carry their running sum."""
    del key
    total = carry + jnp.sum(batch["xs"], axis=1)
    return jnp.mean(total * params["w"]), ({}, total)


@pytest.mark.parametrize("turns", [1, 2])
def test_the_carry_goes_from_batch_to_batch_row_by_row(turns):
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(remember, optimizer, stateful=True, accumulate=turns))
    params = {"w": jnp.ones(())}
    state = init_state(params, optimizer, jax.random.key(0), jnp.zeros((4, 1)))
    batches = [{"xs": np.random.default_rng(k).normal(size=(4, 3, 1))} for k in range(3)]
    expected = np.zeros((4, 1))
    for batch in batches:
        state, metrics = step(state, batch)
        expected = expected + batch["xs"].sum(axis=1)
        np.testing.assert_allclose(state.carry, expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)


def test_a_step_that_is_not_finite_leaves_the_carry():
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(remember, optimizer, stateful=True))
    state = init_state({"w": jnp.ones(())}, optimizer, jax.random.key(0), jnp.ones((2, 1)))
    after, metrics = step(state, {"xs": np.full((2, 3, 1), np.nan)})
    assert metrics["skipped"] == 1
    np.testing.assert_array_equal(after.carry, state.carry)


# Norms by group


def test_norms_are_those_of_gradient_parameters_and_update(x64):
    optimizer = optax.sgd(0.5)
    step = jax.jit(make_train_step(loss_fn, optimizer, clip_norm=1e-3, norms_every=2))
    first = fresh(optimizer)
    second, metrics = step(first, batch_of())
    unmeasured = {name: metrics["norms"][name] for name in ("param", "update")}
    assert not any(jax.tree.leaves(unmeasured))  # step 1 is not due
    third, metrics = step(second, batch_of(1))
    norms = metrics["norms"]
    assert set(norms) == {"grad", "param", "update"}
    assert set(norms["grad"]) == {"rnn", "head"}
    grads = jax.grad(lambda p: loss_fn(p, batch_of(1), None)[0])(second.params)
    moved = jax.tree.map(jnp.subtract, third.params, second.params)
    for what, tree in (("grad", grads), ("param", second.params), ("update", moved)):
        for group in ("rnn", "head"):
            expected = global_norm(tree[group])
            np.testing.assert_allclose(norms[what][group], expected, rtol=1e-9)
    # The gradient's norm is that before clipping.
    whole = np.hypot(norms["grad"]["rnn"], norms["grad"]["head"])
    np.testing.assert_allclose(whole, metrics["grad_norm"], rtol=1e-12)
    assert metrics["clipped"] == 1


def test_norms_change_nothing(x64):
    with_norms, _ = jax.jit(make_train_step(loss_fn, OPTIMIZER, norms_every=1))(fresh(), batch_of())
    without, _ = jax.jit(make_train_step(loss_fn, OPTIMIZER))(fresh(), batch_of())
    for a, b in zip(jax.tree.leaves(with_norms), jax.tree.leaves(without), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_layers_are_groups_of_their_own():
    model = functional(ManyToMany, GRU(3), input_size=2, output_size=1, vocab_size=5, num_layers=2)
    norms = group_norms(model.init(jax.random.key(0)))
    assert set(norms) == {"embed", "rnn.layer_0", "rnn.layer_1", "head"}
    assert set(group_norms(jnp.ones(3))) == {"all"}


# Schedules


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [2.0, 2.0, 2.0]),
        ("linear", [2.0, 1.1, 0.2]),
        ("cosine", [2.0, 1.1, 0.2]),
        ("exponential", [2.0, 2.0 * 0.1**0.5, 0.2]),
    ],
)
def test_schedules_begin_halve_and_end_as_documented(kind, expected):
    rate = learning_rate_schedule(kind, 2.0, num_steps=100, final=0.1)
    np.testing.assert_allclose([rate(0), rate(50), rate(100)], expected, rtol=1e-6)


def test_warm_up_rises_from_zero():
    rate = learning_rate_schedule("linear", 1.0, num_steps=110, warmup_steps=10)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60)], [0, 0.5, 1, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "cosin"}, "unknown schedule 'cosin'"),
        ({"warmup_steps": 10}, "warmup_steps must be below 10"),
        ({"final": 2.0}, "final must be"),
        ({"kind": "exponential"}, "final must be"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        learning_rate_schedule(**{"kind": "linear", "base": 1.0, "num_steps": 10, **options})
