"""The language against a grammar written down anew, and what can be known of it by enumeration."""

import itertools
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from seqlab.data.negation import (
    CLOSERS,
    NEGATORS,
    NEUTRAL,
    OPINIONS,
    negation_sentences,
    window_ceiling,
)
from seqlab.errors import InputError

ROLES = {word: "-" for word in OPINIONS[0]} | {word: "+" for word in OPINIONS[1]}
ROLES |= {word: "n" for word in NEGATORS} | {word: "c" for word in CLOSERS}


def sample(count=2000, distances=range(21), seed=0, **options):
    return negation_sentences(np.random.default_rng(seed), count, distances, **options)


def roles(text):
    return "".join(ROLES.get(word, ".") for word in text.split())


def grammar(distances, slack, tail, neutral="."):
    """Every sentence in roles with its distance and label, all of them equally likely given k."""
    for k in distances:
        for s, t, sign, (x, y) in itertools.product(
            range(slack + 1), range(tail + 1), "-+", ("cn", "nc")
        ):
            gaps = itertools.product(neutral, repeat=3 * k + s + t)
            for words in map("".join, gaps):
                a, b, c = k + s, 2 * k + s, 3 * k + s
                sentence = words[:a] + x + words[a:b] + y + words[b:c] + sign + words[c:]
                yield sentence, k, (sign == "+") != (y == "n")


def best_accuracy(sentences, seen):
    """Of the best guess by one who is shown `seen(sentence)`, at each distance."""
    labels = defaultdict(Counter)
    for sentence, k, label in sentences:
        labels[k, seen(sentence)][label] += 1
    right, total = Counter(), Counter()
    for (k, _), counts in labels.items():
        right[k] += max(counts.values())
        total[k] += counts.total()
    return {k: Fraction(right[k], total[k]) for k in total}


def windows(sentence, width):
    padded = "^" * (width - 1) + sentence + "$" * (width - 1)
    return [padded[i : i + width] for i in range(len(padded) - width + 1)]


def test_sentences_are_those_of_the_grammar():
    found = sample(4000, range(4), slack=2, tail=1)
    known = {(sentence, k): label for sentence, k, label in grammar(range(4), 2, 1)}
    seen = {
        (roles(text), k): label
        for text, k, label in zip(found.texts, found.distances, found.labels, strict=True)
    }
    assert seen == known


def test_the_last_negator_or_closer_before_the_opinion_decides():
    found = sample()
    for text, label, k, is_open in zip(*found, strict=True):
        shape = roles(text)
        place = max(shape.find("+"), shape.find("-"))
        last = max(shape.rfind("n", 0, place), shape.rfind("c", 0, place))
        assert place - last - 1 == k
        assert (shape[last] == "n") == is_open
        assert label == ((shape[place] == "+") != is_open)


def test_every_word_is_used_and_has_one_role():
    words = [*itertools.chain(*OPINIONS), *NEGATORS, *CLOSERS, *NEUTRAL]
    assert len(set(words)) == len(words)
    assert set(" ".join(sample().texts).split()) == set(words)


def test_distances_signs_and_orders_come_equally_often():
    found = sample(21 * 4 * 3)
    counts = Counter(zip(found.distances, found.labels, found.is_open, strict=True))
    assert set(counts.values()) == {3}
    assert len(counts) == 84
    few = sample(4)
    assert sorted(zip(few.labels, few.is_open, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_near_ones_can_come_more_often():
    distances = (0, 3, 7, 20)
    found = sample(8000, distances, near_more_often=True)
    counts = Counter(zip(found.distances.tolist(), found.labels, found.is_open, strict=True))
    total = sum(1 / (k + 1) for k in distances)
    for (k, _, _), count in counts.items():
        assert abs(count - 2000 / (k + 1) / total) <= 1
    assert len(counts) == 16
    few = sample(5, distances, near_more_often=True)
    assert few.distances.tolist().count(0) >= 4


def test_sentences_are_those_of_the_seed():
    first, again, other = (sample(50, seed=seed) for seed in (1, 1, 2))
    assert first.texts == again.texts
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.texts != other.texts
    assert (first.labels.dtype, first.distances.dtype) == (np.int32, np.int32)


def test_a_bag_of_words_knows_nothing_exactly():
    every = list(grammar(range(3), 1, 1, "xy"))
    bag = best_accuracy(every, lambda sentence: "".join(sorted(sentence)))
    assert bag == {0: Fraction(1, 2), 1: Fraction(1, 2), 2: Fraction(1, 2)}
    assert set(best_accuracy(every, str).values()) == {1}


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7])
def test_windows_without_order_know_what_the_equation_says(width):
    every = list(grammar(range(7), 2, 2))
    found = best_accuracy(every, lambda sentence: tuple(sorted(windows(sentence, width))))
    ks = sorted(found)
    np.testing.assert_array_equal([float(found[k]) for k in ks], window_ceiling(ks, width))


@pytest.mark.parametrize("width", [3, 4])
def test_no_single_window_knows_more_with_several_neutral_words(width):
    for k, expected in ((width - 2, {1.0}), (width - 1, {0.5})):
        known = defaultdict(Counter)
        for sentence, _, label in grammar([k], 1, 0, "xy"):
            for each in set(windows(sentence, width)):
                known[each][label] += 1
        with_opinion = [counts for each, counts in known.items() if set(each) & set("+-")]
        best = max(max(counts.values()) / counts.total() for counts in with_opinion)
        assert {best} == expected


def test_the_ceiling_of_a_whole_sentence_and_of_a_set():
    assert window_ceiling([0, 40], None).tolist() == [1.0, 1.0]
    assert window_ceiling(np.arange(21), 5).mean() == pytest.approx(0.5 + 0.5 * 4 / 21)
    assert set(window_ceiling(np.arange(21), 1)) == {0.5}
    with pytest.raises(InputError, match="window must be 1 or more"):
        window_ceiling([1], 0)


def fitted_accuracy(train, test, **options):
    counter = CountVectorizer(token_pattern=r"\S+", **options)
    model = LogisticRegression(max_iter=2000).fit(counter.fit_transform(train.texts), train.labels)
    return model.predict(counter.transform(test.texts)) == test.labels


def test_a_fitted_bag_of_words_stays_at_chance():
    is_right = fitted_accuracy(sample(4000, seed=1), sample(4000, seed=2))
    assert abs(is_right.mean() - 0.5) < 0.03  # four standard deviations


def test_fitted_five_grams_are_right_within_five_words_and_at_chance_beyond():
    options = {"distances": range(8), "slack": 1, "tail": 1, "neutral": ["x"]}
    train, test = sample(4000, seed=1, **options), sample(4000, seed=2, **options)
    is_right = fitted_accuracy(train, test, ngram_range=(2, 5))
    near = is_right[test.distances <= 3].mean()
    far = is_right[test.distances > 3].mean()
    assert near > 0.95
    assert abs(far - 0.5) < 0.045  # four standard deviations


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count must be 1 or more"),
        ({"distances": []}, "distances is empty"),
        ({"distances": [3, 3]}, "distances names one twice"),
        ({"distances": [2, -1]}, "distances must be 0 or more, got -1"),
        ({"slack": -1}, "slack"),
        ({"tail": -1}, "tail"),
        ({"neutral": []}, "neutral is empty"),
    ],
)
def test_what_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        sample(**options)
