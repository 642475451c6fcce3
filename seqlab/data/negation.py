"""A made-up language of opinions: what one word says, another may turn round from far away.

A sentence of distance k has one opinion word O, one negator and one closer. The negator turns the
opinion round unless a closer stands between the two ("not the film , but its end was good"):

    sentence  ->  N^(k + s)  X  N^k  Y  N^k  O  N^t
    (X, Y)    ->  (closer, negator), open: the label is the other sign than that of O
              |   (negator, closer), closed: the label is the sign of O

with s = 0 .. `slack` and t = 0 .. `tail` further neutral words N. Sign, order, s, t and each word
are drawn uniformly and independently. So half of the negators are distractors, each label comes
half of the time, and k words lie between any two of the three words that count. Distances come
equally often or, as in what people say, the near ones most often, with shares p_k ~ 1 / (k + 1).

What can be known of the label, by a model that sees of a sentence

* its bag of words: nothing. Open and closed sentences hold the same words equally often, and the
  sign of O is turned round in half of them. The accuracy is 1/2 at most.
* a window of w words, wherever it lies: everything if k + 2 <= w, and nothing otherwise, for then
  it holds one of the three words at most, and the beginning of the sentence only without them.
  Over distances with shares p_k the accuracy is at most

      A(w) = 1/2 + 1/2 sum_{k <= w - 2} p_k.

* all its windows of w words without their order, as a convolution pooled over time does: A(w)
  again, exactly, where there is a single neutral word, since the open sentence and the closed one
  then have the same windows. With several neutral words the order could be pieced together from
  windows that overlap, which takes the memory of all of them; no pooled maximum has it.
* one word after the other, with a state: everything, by one bit (which of negator and closer came
  last) that is kept for k words, and the answer for t more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqlab.data.checks import check_at_least, check_distinct

CLASSES = ("neg", "pos")
OPINIONS = (
    ("awful", "bad", "boring", "clumsy", "dull", "poor", "silly", "weak"),
    ("brilliant", "charming", "clever", "fine", "good", "great", "lovely", "witty"),
)
NEGATORS = ("hardly", "never", "not")
CLOSERS = (",", "but", ";")
NEUTRAL = (
    "a", "actor", "all", "and", "camera", "end", "film", "first", "his", "in", "it", "its", "long",
    "many", "music", "of", "on", "one", "plot", "scene", "story", "that", "the", "this", "with",
)  # fmt: skip


class Negations(NamedTuple):
    """Sentences of the language.

    Attributes:
      texts: N of them, words with blanks between.
      labels: 0 negative, 1 positive, int32 [N].
      distances: k, int32 [N].
      is_open: whether the opinion is turned round, bool [N].
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    distances: np.ndarray
    is_open: np.ndarray


def negation_sentences(
    rng: np.random.Generator,
    count: int,
    distances: Sequence[int] = range(21),
    *,
    near_more_often: bool = False,
    slack: int = 3,
    tail: int = 3,
    neutral: Sequence[str] = NEUTRAL,
) -> Negations:
    """Sentences in random order, the same for the same seed; the module says what they are.

    Each sign and order comes equally often at each distance, to within one sentence.

    Args:
      rng: source of the words.
      count: N.
      distances: values of k.
      near_more_often: whether their shares are as 1 / (k + 1), to within four sentences; else they
        are equal.
      slack: the most neutral words at the beginning beyond k.
      tail: the most neutral words after the opinion.
      neutral: the neutral words.

    Raises:
      InputError: no sentence, or a negative, repeated or missing distance, slack or tail.
    """
    check_at_least(count, 1, "count")
    check_distinct(distances, "distances")
    check_at_least(min(distances), 0, "distances")
    check_at_least(slack, 0, "slack")
    check_at_least(tail, 0, "tail")
    check_distinct(neutral, "neutral")
    # Signs and orders change fastest: also a few sentences have them all.
    places = np.arange(count)
    is_positive, is_open, groups = places % 2 == 1, places // 2 % 2 == 1, places // 4
    ks = np.asarray(distances, np.int32)
    if near_more_often:
        ends = np.cumsum(1.0 / (ks + 1.0))
        ks = ks[np.searchsorted(ends, ends[-1] * (groups + 0.5) / (groups[-1] + 1))]
    else:
        ks = ks[groups % len(ks)]
    order = rng.permutation(count)
    is_positive, is_open, ks = is_positive[order], is_open[order], ks[order]
    texts = tuple(
        _sentence(rng, k, slack, tail, neutral, sign, opened)
        for k, sign, opened in zip(ks.tolist(), is_positive.tolist(), is_open.tolist(), strict=True)
    )
    return Negations(texts, (is_positive ^ is_open).astype(np.int32), ks, is_open)


def window_ceiling(distances: np.ndarray | Sequence[int], window: int | None) -> np.ndarray:
    """The accuracy that windows of that many words allow at each distance k, 1 or 1/2, [...].

    Its mean over a set's distances is A(w); a bag of words is a window of one word.

    Args:
      distances: k, [...].
      window: w; None for a whole sentence.

    Raises:
      InputError: a window of no word.
    """
    distances = np.asarray(distances)
    if window is None:
        return np.ones(distances.shape)
    check_at_least(window, 1, "window")
    return np.where(distances + 2 <= window, 1.0, 0.5)


def _sentence(rng, k, slack, tail, neutral, is_positive, is_open):
    lead = k + int(rng.integers(slack, endpoint=True))
    after = int(rng.integers(tail, endpoint=True))
    words = [neutral[i] for i in rng.integers(len(neutral), size=lead + 2 * k + after)]
    negator, closer = NEGATORS[rng.integers(len(NEGATORS))], CLOSERS[rng.integers(len(CLOSERS))]
    first, second = (closer, negator) if is_open else (negator, closer)
    opinions = OPINIONS[is_positive]
    opinion = opinions[rng.integers(len(opinions))]
    ends = (lead, lead + k, lead + 2 * k)
    parts = (*words[: ends[0]], first, *words[ends[0] : ends[1]], second)
    return " ".join((*parts, *words[ends[1] : ends[2]], opinion, *words[ends[2] :]))
