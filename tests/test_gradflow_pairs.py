"""The gradient of every target step with respect to every source step: exact, by any way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.lookup import make_cell
from seqlab.gradflow.pairs import pair_gradients
from seqlab.gradflow.taps import zero_taps
from seqlab.losses import cross_entropy
from seqlab.models.attention import Attention
from seqlab.models.functional import functional
from seqlab.models.seq2seq import Seq2Seq

pytestmark = pytest.mark.usefixtures("x64")

SIZES = {"source_size": 7, "target_size": 6, "embed_size": 4}
MASK = np.arange(5) < np.array([5, 3])[:, None]
FED_MASK = np.arange(3) < np.array([3, 2])[:, None]


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    draw = lambda high, *shape: jnp.asarray(rng.integers(0, high, shape))  # noqa: E731
    return draw(7, 2, 5), draw(6, 2, 3), draw(6, 2, 3)


def losses_of(labels):
    return lambda output: jnp.where(FED_MASK, cross_entropy(output.logits, labels), 0.0)


def test_a_linear_encoder_that_is_read_at_its_end_gives_powers_of_its_matrix(pairs):
    """d loss_s / d h_t = (W_h^T)^(S - t) d loss_s / d h_S, with the whole of it at h_S."""
    xs, fed, labels = pairs
    cell = make_cell("rnn-identity", 3)
    model = functional(Seq2Seq, cell, cell, bidirectional=False, context="state", **SIZES)
    params = model.init(jax.random.key(1))
    inputs = xs[:1], MASK[:1], fed[:1], FED_MASK[:1]
    losses = lambda output: cross_entropy(output.logits, labels[:1])  # noqa: E731
    norms = jax.jit(lambda params: pair_gradients(model.apply, losses, params, *inputs))(params)
    taps = zero_taps(model.apply, params, *inputs)
    by_taps = jax.jit(jax.jacrev(lambda taps: losses(model.apply(params, *inputs, taps=taps))))(
        taps
    )
    at_end = np.asarray(by_taps["encoder"])[0, :, 0, -1]  # [U, H]
    matrix = np.asarray(params["encoder"]["weights"]["W_h"])
    for ago in range(5):
        expected = at_end @ np.linalg.matrix_power(matrix.T, ago)
        found = np.exp(np.asarray(norms)[0, :, 4 - ago])
        np.testing.assert_allclose(found, np.linalg.norm(expected, axis=-1), rtol=1e-10)


def test_norms_are_those_of_central_differences(pairs):
    xs, fed, labels = pairs
    cell = make_cell("gru", 3)
    model = functional(Seq2Seq, cell, cell, attention=Attention(), **SIZES)
    params = model.init(jax.random.key(2))
    inputs = xs, MASK, fed, FED_MASK
    norms = jax.jit(
        lambda params: pair_gradients(model.apply, losses_of(labels), params, *inputs, batch_size=2)
    )(params)
    assert norms.shape == (2, 3, 5)
    taps = zero_taps(model.apply, params, *inputs)
    at = jax.jit(lambda taps: losses_of(labels)(model.apply(params, *inputs, taps=taps)))
    row, step = 0, 1
    found = []
    for direction in ("forward", "backward"):
        leaf = taps["encoder"]["layer_0"][direction]
        for unit in range(3):
            push = leaf.at[row, step, unit].set(1e-6)
            ends = []
            for sign in (1.0, -1.0):
                moved = {**taps["encoder"]["layer_0"], direction: sign * push}
                ends.append(at({**taps, "encoder": {"layer_0": moved}}))
            found.append(np.asarray(ends[0] - ends[1])[row] / 2e-6)
    np.testing.assert_allclose(
        np.exp(np.asarray(norms)[row, :, step]), np.linalg.norm(found, axis=0), rtol=1e-6
    )
    assert np.isneginf(np.asarray(norms)[1, 2]).all()  # a masked step of the target has no loss
