"""Nets trained side by side are the nets trained alone; the bootstrap is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.rnn import RNN
from seqlab.data.synthetic import adding
from seqlab.ensemble import SideBySide, remember, remembering, share_out, train_nets
from seqlab.errors import InputError
from seqlab.losses import masked_mean, squared_error
from seqlab.metrics import bootstrap
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.recorder import locate_step
from seqlab.train import init_state, make_train_step, steps

N, B, T = 3, 4, 6
MODEL = functional(ManyToOne, RNN(5), input_size=2, output_size=1)
ADAM = optax.adam(1e-2)


def loss_fn(params, batch, key):
    del key
    return jnp.mean(squared_error(MODEL.apply(params, batch.xs).logits, batch.targets)), {}


def start(seed):
    key_params, key_training = jax.random.split(jax.random.key(seed))
    return init_state(MODEL.init(key_params), ADAM, key_training)


def drawn(count, spoil=None):
    rng = np.random.default_rng(0)
    for k in range(count):
        rows = [adding(rng, B, T) for _ in range(N)]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        if k == spoil:
            batch.xs[1, 2, 3, 0] = np.nan
        yield batch


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("every", [1, 3])
def test_each_net_is_the_one_trained_alone(every):
    step = make_train_step(loss_fn, ADAM, clip_norm=1.0)
    nets = jax.vmap(start)(jnp.arange(N))
    together = list(train_nets(step, nets, drawn(7), every=every))
    assert [at for at, _, _ in together] == ([1, 2, 3, 4, 5, 6, 7] if every == 1 else [3, 6, 7])
    losses = np.concatenate([metrics["loss"] for _, _, metrics in together])
    assert losses.shape == (7, N)
    for net in range(N):
        rows = (jax.tree.map(lambda leaf, net=net: leaf[net], batch) for batch in drawn(7))
        alone = list(steps(step, start(net), rows))
        np.testing.assert_allclose(losses[:, net], [m["loss"] for _, _, m in alone], rtol=1e-12)
        for a, b in zip(
            jax.tree.leaves(together[-1][1].params), jax.tree.leaves(alone[-1][1].params),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_allclose(a[net], b, rtol=1e-10)


def test_data_that_is_not_finite_is_named():
    step = make_train_step(loss_fn, ADAM)
    with pytest.raises(InputError, match=r"steps 3 to 4.*xs\[1, 1, 2, 3, 0\] = nan"):
        list(train_nets(step, jax.vmap(start)(jnp.arange(N)), drawn(4, spoil=3), every=2))


def test_shares_of_the_nets():
    assert share_out(7) == 1  # the tests have one device
    with pytest.raises(InputError, match="1 or more, got 0"):
        share_out(4, 0)
    with pytest.raises(InputError, match="there are 1"):
        share_out(4, 2)


def test_a_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = []
    for trial in range(200):
        found = bootstrap(rng.normal(size=40), np.mean, num_draws=300, seed=trial)
        hits.append(found.low <= 0.0 <= found.high)
    assert 0.89 <= np.mean(hits) <= 0.99
    values = rng.normal(size=(5, 3))
    again = [bootstrap(values), bootstrap(values)]
    np.testing.assert_array_equal(again[0], again[1])
    np.testing.assert_array_equal(again[0].middle, np.median(values, axis=0))
    np.testing.assert_array_equal(np.ravel(bootstrap(values[:1])), np.tile(values[0], 3))
    vanished = bootstrap(np.array([-np.inf, -np.inf, -np.inf, 1.0, 2.0]))
    assert (vanished.middle, vanished.low, vanished.high) == (-np.inf, -np.inf, 2.0)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap(np.zeros((0, 2)))


KINDS = {
    "rnn": MODEL,
    "relu": functional(ManyToOne, RNN(4, activation="relu"), input_size=2, output_size=1),
}


def kind_step(name):
    def loss_fn(params, batch, key):
        del key
        errors = squared_error(KINDS[name].apply(params, batch["xs"]).logits, batch["targets"])
        weight = jnp.sum(batch["is_real"])
        return masked_mean(errors, batch["is_real"]), {"weight": weight}

    return make_train_step(loss_fn, ADAM, clip_norm=1.0)


STEPS = {name: kind_step(name) for name in KINDS}


def side_by_side():
    keys = jax.random.split(jax.random.key(0), N)
    params = {name: jax.vmap(model.init)(keys) for name, model in KINDS.items()}
    step = SideBySide(tuple(STEPS.items()))
    return step, step.init(params, jax.random.key(1))


def batch_first(count):
    for k, (xs, targets, _) in enumerate(drawn(count)):
        is_real = np.arange(B)[:, None] < np.array([B, B - 1, 1 + k % B])
        yield {"xs": xs.swapaxes(0, 1), "targets": targets.swapaxes(0, 1), "is_real": is_real}


@pytest.mark.usefixtures("x64")
def test_nets_of_several_kinds_are_those_trained_alone():
    step, state = side_by_side()
    first = state.params
    jitted, seen = jax.jit(step), []
    for batch in batch_first(4):
        state, metrics = jitted(state, batch)
        seen.append(metrics)
    assert int(state.step) == 4
    assert int(state.skipped) == 0
    for name in KINDS:
        for net in range(N):
            params = jax.tree.map(lambda leaf, net=net: leaf[net], first[name])
            rows = (jax.tree.map(lambda leaf, net=net: leaf[:, net], b) for b in batch_first(4))
            own = init_state(params, ADAM, jax.random.key(2))
            *_, (_, alone, metrics) = steps(STEPS[name], own, rows)
            np.testing.assert_allclose(
                seen[-1][name]["grad_norm"][net], metrics["grad_norm"], rtol=1e-10
            )
            for a, b in zip(
                jax.tree.leaves(state.params[name]), jax.tree.leaves(alone.params), strict=True
            ):
                np.testing.assert_allclose(a[net], b, rtol=1e-10)


def test_a_net_that_is_not_finite_is_left_out_alone():
    step, state = side_by_side()
    (batch,) = batch_first(1)
    batch["xs"][0, 1, 3, 0] = np.inf  # of net 1, which tanh forgives and relu does not
    new, metrics = jax.jit(step)(state, batch)
    assert metrics["relu"]["skipped"].tolist() == [0, 1, 0]
    assert int(metrics["skipped"]) == 1
    assert int(new.skipped) == sum(int(jnp.sum(metrics[name]["skipped"])) for name in KINDS)
    bias = [each.params["relu"]["head"]["bias"] for each in (state, new)]
    assert [bool(bias[0][net] != bias[1][net]) for net in range(N)] == [True, False, True]
    origin = locate_step(step, state, batch)
    assert origin is not None
    assert origin.name == "batch.xs[0, 1, 3, 0]"


def test_what_is_random_is_a_nets_own_and_replayed():
    def loss_fn(params, batch, key):
        drawn = jax.random.normal(key, ())
        return jnp.sum(params * 0.0) + drawn, {"weight": jnp.sum(batch["is_real"])}

    step = SideBySide((("one", make_train_step(loss_fn, ADAM)),))
    batch = {"is_real": np.ones((2, N), bool)}
    state = step.init({"one": jnp.zeros((N, 1))}, jax.random.key(3))
    _, metrics = jax.jit(step)(state, batch)
    losses = np.asarray(metrics["one"]["loss"])
    assert len(set(losses.tolist())) == N
    _, step_key = jax.random.split(jax.random.clone(state.key))  # as the flight recorder does
    np.testing.assert_array_equal(step.gradients(state, batch, step_key).loss, losses)
    alone = step.init({"one": jnp.zeros((1, 1))}, jax.random.key(3))
    _, first = jax.jit(step)(alone, {"is_real": np.ones((2, 1), bool)})
    assert first["one"]["loss"][0] == losses[0]


def test_each_net_is_remembered_at_its_best():
    def loss_fn(params, batch, key):
        del key
        return jnp.sum(jnp.square(params - 1.0)), {"weight": jnp.sum(batch["is_real"])}

    step = SideBySide((("one", make_train_step(loss_fn, remembering(ADAM))),))
    batch = {"is_real": np.ones((1, 2), bool)}
    state = step.init({"one": jnp.zeros((2, 3))}, jax.random.key(0))
    seen = [np.asarray(state.params["one"])]
    for is_best in ([True, False], [False, True], [False, False]):
        state, _ = jax.jit(step)(state, batch)
        state = remember(state, {"one": np.array(is_best)})
        seen.append(np.asarray(state.params["one"]))
    best = np.asarray(state.opt_state["one"].best)
    np.testing.assert_array_equal(best, [seen[1][0], seen[2][1]])
    plain = SideBySide((("one", make_train_step(loss_fn, ADAM)),))
    other = plain.init({"one": jnp.zeros((2, 3))}, jax.random.key(0))
    for _ in range(3):
        other, _ = jax.jit(plain)(other, batch)
    np.testing.assert_array_equal(other.params["one"], seen[-1])
