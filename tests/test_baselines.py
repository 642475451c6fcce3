import os
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from seqlab.baselines import STRENGTHS, bag_of_words
from seqlab.data.labelled import load_labelled
from seqlab.data.words import cut_words
from seqlab.metrics import wilson

REAL_MIRROR = Path(
    os.environ.get("SEQLAB_DATA_MIRROR") or Path(__file__).parents[2] / "shared" / "data"
)


def parts_of(data):
    found = []
    for part in ("train", "valid", "test"):
        texts, labels = data.part(part)
        found.append(([cut_words(text, data.cut) for text in texts], labels))
    return found


def made(count, seed, noise=0.0):
    """Texts whose class is told by one of three words, a share of them told wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    told = np.where(rng.random(count) < noise, (labels + 1) % 3, labels)
    words = [[f"f{i}" for i in rng.integers(50, size=6)] + [f"is{k}"] for k in told]
    return words, labels


def test_what_a_word_tells_is_learnt():
    found = bag_of_words(made(300, 0), made(60, 1), made(200, 2), num_classes=3)
    assert found.accuracy == 1.0
    assert found.probabilities.shape == (200, 3)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.num_features == 53
    assert found.strength in STRENGTHS


def test_the_weights_minimise_the_stated_loss():
    (words, labels), valid, test = made(60, 0, 0.3), made(20, 1, 0.3), made(30, 2, 0.3)
    found = bag_of_words((words, labels), valid, test, num_classes=3, strengths=[0.7])
    known = sorted({word for text in words for word in text})

    def features(texts):
        return np.array([[float(word in text) for word in known] for text in texts])

    xs = features(words)

    def loss(flat):
        weights = flat.reshape(-1, 3)
        logits = xs @ weights[:-1] + weights[-1]
        logits -= logits.max(axis=1, keepdims=True)
        nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(60), labels]
        return 0.7 * nats.sum() + 0.5 * np.sum(weights[:-1] ** 2)

    best = minimize(loss, np.zeros(3 * (len(known) + 1)), options={"maxiter": 500})
    weights = best.x.reshape(-1, 3)
    logits = features(test[0]) @ weights[:-1] + weights[-1]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)


def test_the_strength_is_chosen_on_valid_and_nothing_else():
    train, valid, test = made(90, 0, 0.4), made(60, 1, 0.4), made(90, 2, 0.4)
    alone = [
        bag_of_words(train, valid, test, num_classes=3, strengths=[strength])
        for strength in STRENGTHS
    ]
    shares = [each.valid_accuracy for each in alone]
    assert len(set(shares)) > 1
    found = bag_of_words(train, valid, test, num_classes=3)
    best = int(np.argmax(shares))
    assert (found.strength, found.valid_accuracy) == (STRENGTHS[best], shares[best])
    np.testing.assert_array_equal(found.probabilities, alone[best].probabilities)


def test_words_are_those_of_train_and_their_number_and_case_do_not_count():
    train = ([["Up", "a"], ["down"], ["Up"], ["down", "down"]] * 5, np.array([1, 0, 1, 0] * 5))
    test = ([["Up", "Up", "unseen"], ["Up"], ["up"]], np.array([1, 1, 1]))
    found = bag_of_words(train, train, test, num_classes=2)
    assert found.num_features == 3
    np.testing.assert_array_equal(found.probabilities[0], found.probabilities[1])
    assert abs(found.probabilities[2, 1] - 0.5) < 0.1


def test_pairs_of_words_tell_what_words_alone_do_not():
    texts = [["a", "b", "c"], ["b", "a", "c"]] * 10
    part = (texts, np.array([0, 1] * 10))
    assert bag_of_words(part, part, part, num_classes=2).accuracy == 0.5
    pairs = bag_of_words(part, part, part, num_classes=2, longest=2)
    assert (pairs.accuracy, pairs.num_features) == (1.0, 7)


def test_a_class_that_train_lacks_has_no_probability():
    train = ([["a"], ["b"]] * 5, np.array([0, 2] * 5))
    test = ([["a"], ["b"], ["a"]], np.array([0, 2, 1]))
    found = bag_of_words(train, train, test, num_classes=4)
    assert found.probabilities[:, [1, 3]].max() == 0.0
    assert found.accuracy == pytest.approx(2 / 3)


def test_one_class_alone_is_refused():
    part = ([["a"], ["b"]], np.array([1, 1]))
    with pytest.raises(ValueError, match="class"):
        bag_of_words(part, part, part, num_classes=2)


def test_the_made_up_language_is_beyond_it():
    data = load_labelled(distances=range(3))
    found = bag_of_words(*parts_of(data), num_classes=2, strengths=[0.1, 1.0])
    count = len(data.rows["test"])
    chance = wilson(count // 2, count, level=0.9999)
    assert chance.low < found.accuracy < chance.high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"), [("rt_polarity", 0.761), ("sst2", 0.802), ("trec", 0.872)]
)
def test_real_sets(name, expected, monkeypatch, tmp_path):
    if not (REAL_MIRROR / name).is_dir():
        pytest.skip(
            f"no {REAL_MIRROR / name}: set SEQLAB_DATA_MIRROR to a folder with {name}/ in it"
        )
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path))
    data = load_labelled(name)
    found = bag_of_words(*parts_of(data), num_classes=len(data.classes))
    assert found.accuracy == pytest.approx(expected, abs=0.01)
