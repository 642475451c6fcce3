"""Between images and a captioner: batches by hand, features of many images, looks at words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.captions import ROWS, CaptionPlan, Describer, Pictures
from seqlab.data.vocabulary import learn_vocabulary

SIDE = 16
PLAN = CaptionPlan(
    cell="rnn", image_size=SIDE, channels=(2, 3, 4), num_mixed=1, embed_size=3, hidden_size=4,
    num_layers=1, context="attention", attention="general", query="current", input_feeding=True,
    bridge="linear", tied=False, drop_cells=0.0, drop_inputs=0.0, dropout=0.0, drop_features=0.0,
)  # fmt: skip


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def describer():
    return Describer(PLAN, learn_vocabulary("a b c d", "word"))


@pytest.fixture(scope="module")
def params(describer):
    return jax.jit(describer.model.init)(jax.random.key(0))


def test_a_sentence_comes_with_its_own_image():
    members = [2, 0, 1, 0, 2]
    targets = [np.arange(1, 4 + i % 2) + 10 * i for i in range(5)]
    pictures = Pictures(images(3), members, targets, batch_size=2, num_buckets=2, seed=0)
    seen = []
    for number in range(pictures.batches_per_epoch):
        batch = pictures.batch(number)
        assert "mask" not in batch
        for row, which in enumerate(batch["ids"].tolist()):
            if which >= 0:
                seen.append(which)
                np.testing.assert_array_equal(batch["xs"][row], images(3)[members[which]])
                assert batch["fed"][row, 0] == targets[which][0]
    assert sorted(seen) == list(range(5))


def test_features_are_those_of_each_image(describer, params):
    many = images(ROWS + 3)
    found = describer.features(params, many)
    assert found.shape == (ROWS + 3, 4)
    for row in (0, ROWS - 1, ROWS, ROWS + 2):
        own = describer.writer.start(params, many[row : row + 1], None)[0].last[0]
        np.testing.assert_allclose(found[row], own, atol=1e-5)


def test_looks_are_at_the_loss_of_each_word_to_come(describer, params):
    xs, texts = images(2), describer.targets(["a b c", "d"])
    found = describer.looks(params, xs, texts)
    assert found.label_mask.sum(axis=1).tolist() == [4, 2]
    assert np.all(np.isneginf(found.log_norms[1, 2:]))
    tokens = texts[0]

    def loss(pixels):
        output = describer.model.apply(params, pixels, None, tokens[None, :-1])
        return -jax.nn.log_softmax(output.logits)[0, 1, tokens[2]]  # of the second word

    by_pixels = 255 * np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(xs[:1], float)))[0]
    cells = by_pixels.reshape(2, 8, 2, 8, 3).swapaxes(1, 2).reshape(4, -1)
    np.testing.assert_allclose(
        np.exp(found.log_norms[0, 1]), np.linalg.norm(cells, axis=1), rtol=1e-3, atol=1e-7
    )
