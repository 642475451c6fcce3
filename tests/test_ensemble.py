"""Nets trained side by side are the nets trained alone; the bootstrap is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.rnn import RNN
from seqlab.data.synthetic import adding
from seqlab.ensemble import share_out, train_nets
from seqlab.errors import InputError
from seqlab.losses import squared_error
from seqlab.metrics import bootstrap
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
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
    with pytest.raises(ValueError, match="no rows"):
        bootstrap(np.zeros((0, 2)))
