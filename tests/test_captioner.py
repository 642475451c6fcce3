"""The captioner: its grid by hand, what taps tell, writing against teacher forcing, refusals."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.gru import GRU
from seqlab.cells.rnn import RNN
from seqlab.data.vocabulary import SOS
from seqlab.errors import InputError
from seqlab.gradflow.pairs import pair_gradients
from seqlab.gradflow.taps import carry_gradients
from seqlab.models import captioner
from seqlab.models.attention import Attention
from seqlab.models.captioner import Captioner, captioner_writer
from seqlab.models.decode import beam_search, greedy
from seqlab.models.functional import functional

B, SIDE, U, D, H, V, L = 3, 16, 4, 3, 4, 7, 5
S = (SIDE // captioner.STRIDE) ** 2
SIZES = {"target_size": V, "embed_size": D, "image_size": SIDE, "channels": (3, 4, 5)}
CASES = {
    "attention": (
        RNN(H), {"context": "attention", "attention": Attention("general"), "num_mixed": 2}
    ),
    "state": (RNN(H), {"context": "state"}),
}  # fmt: skip
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", autouse=True)
def double():
    """64-bit numbers for all tests here, which share what they compile."""
    with jax.enable_x64(True):
        yield


@cache
def net(name):
    """(apply, compiled; the writer; parameters of which none is zero)."""
    cell, options = CASES[name]
    model = functional(Captioner, cell, **SIZES, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes)
    return jax.jit(model.apply), captioner_writer(cell, **SIZES, **options), params


def images(seed=0, count=B):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


def batch():
    rng = np.random.default_rng(1)
    return images(), rng.integers(4, V, (B, U)), np.arange(U) < np.array([[4], [2], [3]])


def close(found, expected, atol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def total(output):
    return jnp.sum(jnp.sin(output.logits))


def convolved(xs, layer, before, after):
    """A convolution of stride 2 with ReLU, of images with their places."""
    place = np.broadcast_to(np.linspace(-0.5, 0.5, xs.shape[1]), xs.shape[:-1])
    xs = np.concatenate([xs, np.stack([place, place.swapaxes(1, 2)], axis=-1)], axis=-1)
    kernel, count = np.asarray(layer["kernel"]), xs.shape[1] // 2
    xs = np.pad(xs, ((0, 0), (before, after), (before, after), (0, 0)))
    size = kernel.shape[0]
    ys = np.zeros((len(xs), count, count, kernel.shape[-1]))
    for i in range(count):
        for j in range(count):
            window = xs[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
            ys[:, i, j] = np.tensordot(window, kernel, 3) + np.asarray(layer["bias"])
    return np.maximum(ys, 0.0)


def beside(ys):
    """Of 2x2 cells, what is left, right, above and below of each, over 4."""
    left, right = ys[:, 0] + ys[:, 2], ys[:, 1] + ys[:, 3]
    above, below = ys[:, 0] + ys[:, 1], ys[:, 2] + ys[:, 3]
    none = np.zeros_like(left)
    cells = [
        (none, right, none, below), (left, none, none, below),
        (none, right, above, none), (left, none, above, none),
    ]  # fmt: skip
    return np.stack([np.concatenate(own, axis=-1) for own in cells], axis=1) / 4


def test_the_grid_is_that_of_the_equations():
    _, writer, params = net("attention")
    ys = convolved(images() / 255 - 0.5, params["stem"], 1, 2)
    ys = convolved(ys, params["middle"], 0, 1)
    ys = convolved(ys, params["top"], 0, 1).reshape(B, S, -1)
    for i in range(2):
        each, sides = (jax.tree.map(np.asarray, params[name][i]) for name in ("each", "sides"))
        ys = ys @ each["kernel"] + each["bias"] + beside(ys) @ sides["kernel"] + sides["bias"]
        ys = np.maximum(ys, 0.0)
    memory, _ = jax.jit(writer.start, static_argnums=2)(params, images(), None)
    close(memory.values, ys)
    close(memory.last, ys.mean(axis=1))
    assert np.all(memory.mask)


def test_patches_are_the_pixels_of_each_cell_and_come_back():
    xs = images().astype(float)
    patches = captioner._to_patches(xs)
    assert patches.shape == (B, S, 8 * 8 * 3)
    close(patches[1, 1].reshape(8, 8, 3), xs[1, :8, 8:])  # the second cell is to the right
    close(captioner._from_patches(patches, SIDE), xs)


@pytest.mark.parametrize("name", ["attention", "state"])
def test_taps_are_derivatives_by_pixels_and_by_cells(name):
    apply, writer, params = net(name)
    _, fed, mask = batch()

    @jax.jit
    def derivatives(xs):
        taps = carry_gradients(apply, total, params, xs, None, fed, mask)
        by_pixels = jax.grad(lambda own: total(apply(params, own, None, fed, mask)))(xs)
        # All that is known of an image goes through the grid.
        _, pull = jax.vjp(lambda own: writer.start(params, own, None)[0].values, xs)
        return taps["image"], by_pixels, pull(taps["encoder"])[0]

    by_patches, by_pixels, through_cells = derivatives(images().astype(float))
    close(by_patches, 255 * captioner._to_patches(by_pixels))
    close(through_cells, by_pixels)
    assert np.abs(by_patches).max() > 1e-3


def test_pair_gradients_are_those_of_each_word_alone():
    apply, _, params = net("attention")
    _, fed, mask = batch()

    def losses(output):
        return jnp.where(mask, -jnp.sin(output.logits[..., 1]), 0.0)

    @jax.jit
    def both(xs):
        def by_word(own):
            return jnp.sum(losses(apply(params, own, None, fed, mask)), axis=0)

        found = pair_gradients(apply, losses, params, xs, None, fed, mask, source="image")
        return found, jax.jacrev(by_word)(xs)

    found, each = both(images().astype(float))
    assert found.shape == (B, U, S)
    for step, alone in enumerate(each):
        expected = np.linalg.norm(255 * captioner._to_patches(alone), axis=-1)
        close(np.exp(found[:, step]), expected)
    assert np.all(np.isneginf(found[1, 2:]))  # masked words


@every_case
def test_what_is_written_scores_as_in_teacher_forcing(name):
    apply, writer, params = net(name)
    xs = images()
    found = jax.jit(partial(greedy, writer, mask=None, max_length=L))(params, xs)
    fed = np.concatenate([np.full((B, 1), SOS), found.tokens[:, 0, :-1]], axis=1)
    real = np.arange(L) < np.asarray(found.lengths)[:, :1]
    output = apply(params, xs, None, fed, real)
    scores = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(output.logits)), np.asarray(found.tokens)[:, 0, :, None], -1
    )[..., 0]
    close(found.log_probs[:, 0], np.where(real, scores, 0.0).sum(axis=1))
    if name == "attention":
        close(np.sum(output.attention, axis=-1)[real], 1.0)
        assert output.attention.shape == (B, L, S)
    else:
        assert output.attention is None


def test_one_image_or_many_and_a_beam_of_one_write_alike():
    _, writer, params = net("attention")
    alike = {"mask": None, "max_length": L}
    write = jax.jit(partial(greedy, writer, **alike))
    together = write(params, images())
    beam = jax.jit(partial(beam_search, writer, beam_size=1, **alike))(params, images())
    np.testing.assert_array_equal(beam.tokens, together.tokens)
    close(beam.log_probs, together.log_probs)
    for row in range(B):
        alone = write(params, images()[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        close(alone.log_probs[0], together.log_probs[row])


def test_a_fixed_vector_knows_where_things_are():
    apply, _, params = net("state")
    xs, fed, mask = batch()
    logits = [apply(params, own, None, fed, mask).logits for own in (xs, xs[:, :, ::-1])]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_dropout_of_cells_draws_by_key():
    model = functional(Captioner, CASES["state"][0], **SIZES, context="state", drop_cells=0.5)
    params = net("state")[2]
    xs, fed, _ = batch()
    apply = jax.jit(lambda key: model.apply(params, xs, None, fed, key=key).logits)
    draws = [apply(jax.random.key(k)) for k in (0, 0, 1)]
    close(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bridge": "copy"}, "an image has none"),
        ({"image_size": 20}, "image_size=20: expected a multiple of 8"),
        ({"image_size": 0}, "image_size=0"),
        ({"channels": (3, 4)}, "expected three numbers"),
        ({"channels": (3, 0, 4)}, "expected three numbers"),
        ({"num_mixed": -1}, "expected 0 or more"),
        ({"drop_cells": 1.0}, "drop_cells"),
        ({"context": "attention"}, "give both or neither"),
        ({"context": "all"}, "context"),
    ],
)
def test_models_that_there_are_not(options, words):
    with pytest.raises(InputError, match=words):
        functional(Captioner, GRU(H), **{**SIZES, "context": "state", **options})


def test_images_of_another_size_and_masks_are_refused():
    apply, writer, params = net("state")
    xs, fed, mask = batch()
    with pytest.raises(ValueError, match=r"shape \(3, 8, 16, 3\), expected \[..., 16, 16, 3\]"):
        apply(params, xs[:, :8], None, fed, mask)
    with pytest.raises(ValueError, match="no padding"):
        apply(params, xs, np.ones((B, S), bool), fed, mask)
    with pytest.raises(ValueError, match="no padding"):
        writer.start(params, xs, np.ones((B, S), bool))
