"""What every classifier of texts is put beside: a bag of words, read by logistic regression."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

Part = tuple[Sequence[Sequence[str]], np.ndarray]


class BagOfWords(NamedTuple):
    """A fitted bag of words and what it says of the test part.

    Attributes:
      accuracy: on test.
      valid_accuracy: on valid, of the strength that was chosen by it.
      probabilities: of each class for each text of test, [N, C].
      strength: C, the inverse of the weight of the penalty.
      num_features: distinct words, or words and pairs of them.
    """

    accuracy: float
    valid_accuracy: float
    probabilities: np.ndarray
    strength: float
    num_features: int


def bag_of_words(
    train: Part,
    valid: Part,
    test: Part,
    *,
    num_classes: int,
    longest: int = 1,
    strengths: Sequence[float] = STRENGTHS,
) -> BagOfWords:
    """Logistic regression on which words a text has, fitted on train and strength chosen on valid.

    A text is x in {0, 1}^V, by which words of train are in it. The weights minimise

        C sum_i -log softmax(W x_i + b)[y_i] + 1/2 ||W||^2

    for each C, and the first that has the most of valid right is taken; it is not fitted again on
    both parts. Where train lacks a class, its probability is 0.

    Args:
      train: words of each text, N lists, and their classes, [N].
      valid: likewise.
      test: likewise.
      num_classes: classes there are.
      longest: of words that count as one when they follow each other; 2 for pairs too.
      strengths: values of C to choose from.

    Raises:
      ValueError: train has one class only, or no word.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    options: dict[str, Any] = {"tokenizer": list, "preprocessor": list, "token_pattern": None}
    counter = CountVectorizer(**options, lowercase=False, ngram_range=(1, longest), binary=True)
    xs = [
        counter.fit_transform(train[0]),
        *(counter.transform(words) for words, _ in (valid, test)),
    ]
    with threadpool_limits(limits=1):  # threads wait for each other in a busy loop
        fitted = [
            LogisticRegression(C=strength, max_iter=2000).fit(xs[0], train[1])
            for strength in strengths
        ]
    shares = [float(np.mean(model.predict(xs[1]) == valid[1])) for model in fitted]
    best = int(np.argmax(shares))
    probabilities = np.zeros((len(test[1]), num_classes))
    probabilities[:, fitted[best].classes_] = fitted[best].predict_proba(xs[2])
    return BagOfWords(
        accuracy=float(np.mean(probabilities.argmax(axis=1) == test[1])),
        valid_accuracy=shares[best],
        probabilities=probabilities,
        strength=strengths[best],
        num_features=len(counter.vocabulary_),
    )
