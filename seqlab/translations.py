"""How good what an encoder-decoder has written is: BLEU, chrF, exact match; imports no jax."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from seqlab.metrics import Interval, bootstrap


class References(NamedTuple):
    """Distinct sources, and all that may be answered to each.

    Attributes:
      sources: texts.
      answers: of each source, its targets.
      members: of each source, the numbers of its pairs.
    """

    sources: list[str]
    answers: list[list[str]]
    members: list[list[int]]


def references(sources: Sequence[str], targets: Sequence[str]) -> References:
    """Pairs by their source, in the order in which each is first met."""
    members: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        members.setdefault(source, []).append(number)
    answers = [list(dict.fromkeys(targets[i] for i in own)) for own in members.values()]
    return References(list(members), answers, list(members.values()))


def mean_nats(nats: Sequence[np.ndarray]) -> float:
    """Nats a token, `<eos>` too, over texts with these losses, [U] each."""
    return float(np.concatenate(nats).mean())


def scores(
    outputs: Sequence[str], answers: Sequence[Sequence[str]], *, tokenize: str
) -> dict[str, Any]:
    """BLEU and chrF of a corpus, with the signatures of sacrebleu, and the share of exact matches.

    Args:
      outputs: of each source, what was written.
      answers: of each source, its references.
      tokenize: how sacrebleu cuts texts for BLEU: "none" for texts that are cut already, "char",
        "13a".

    Returns:
      bleu, bleu_signature, chrf, chrf_signature, exact_match (0 .. 1).

    References: Papineni et al., 2002 (BLEU); Popovic, 2015 (chrF); Post, 2018 (signatures).
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    streams = _streams(answers)
    bleu, chrf = BLEU(tokenize=tokenize, force=True), CHRF()
    found = {
        "bleu": bleu.corpus_score(list(outputs), streams).score,
        "chrf": chrf.corpus_score(list(outputs), streams).score,
    }
    return {
        **found,
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
        "exact_match": float(np.mean(exact(outputs, answers))),
    }


def bleu_by_order(
    outputs: Sequence[str], answers: Sequence[Sequence[str]], *, tokenize: str, num_draws: int = 500
) -> list[Interval]:
    """BLEU-1 to BLEU-4 of a corpus, each with its 95 % bootstrap interval over sentences.

    BLEU-n is that of n-grams of 1 to n words, with the brevity penalty; BLEU-4 is `scores`' BLEU.

    Args:
      outputs, answers, tokenize: as of `scores`.
      num_draws: of the bootstrap.

    References: Papineni et al., 2002; Koehn, 2004 (bootstrap of BLEU).
    """
    count = len(outputs)
    rng = np.random.default_rng(0)
    times = rng.multinomial(count, np.full(count, 1 / count), size=num_draws)
    return _bleu_intervals(outputs, answers, tokenize, times, (1, 2, 3, 4))


class Sameness(NamedTuple):
    """How much of what was written is the same.

    Attributes:
      distinct_share: different texts, as a share of all.
      commonest_share: how often the commonest text was written, as a share of all.
      commonest: that text.
    """

    distinct_share: float
    commonest_share: float
    commonest: str


def sameness(outputs: Sequence[str]) -> Sameness:
    """Whether texts are mostly the same, whatever they answer."""
    counts = Counter(outputs)
    ((commonest, times),) = counts.most_common(1)
    return Sameness(len(counts) / len(outputs), times / len(outputs), commonest)


def exact(outputs: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Whether each output is one of its references, bool [N]."""
    return np.array([text in own for text, own in zip(outputs, answers, strict=True)], bool)


def bleu_interval(
    outputs: Sequence[str], answers: Sequence[Sequence[str]], *, tokenize: str, num_draws: int = 100
) -> Interval:
    """BLEU of a corpus with its 95 % bootstrap interval over sentences.

    The arguments are those of `bleu_by_order`, whose BLEU-4 this is, on other draws.

    References: Koehn, 2004 (bootstrap of BLEU).
    """
    count = len(outputs)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(count, size=count) for _ in range(num_draws)]
    times = np.stack([np.bincount(rows, minlength=count) for rows in drawn])
    (found,) = _bleu_intervals(outputs, answers, tokenize, times, (4,))
    return found


def exact_interval(outputs: Sequence[str], answers: Sequence[Sequence[str]]) -> Interval:
    """Share of exact matches in percent with its 95 % bootstrap interval over sentences."""
    return bootstrap(100.0 * exact(outputs, answers), np.mean)


def position_accuracy(hits: Sequence[np.ndarray], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of tokens that are right by position, and of how many: [U] and [U].

    Args:
      hits: of each text, whether each token is right.
      longest: U, positions that are counted.
    """
    right, count = np.zeros(longest), np.zeros(longest, int)
    for own in hits:
        size = min(len(own), longest)
        right[:size] += own[:size]
        count[:size] += 1
    return right / np.maximum(count, 1), count


def agrees(said: Sequence[int], truth: Sequence[int]) -> np.ndarray:
    """Of each token of the truth, whether the same stands at that place of what was said, [U]."""
    found = np.zeros(len(truth), bool)
    size = min(len(said), len(truth))
    found[:size] = np.asarray(said[:size]) == np.asarray(truth[:size])
    return found


def _bleu_intervals(outputs, answers, tokenize, times, orders) -> list[Interval]:
    """BLEU of each order, its interval from corpora with sentence i `times[:, i]` times."""
    from sacrebleu.metrics.bleu import BLEU

    # The statistics add up over sentences, so each is counted once for all draws.
    counter = BLEU(tokenize=tokenize, effective_order=True, force=True)
    each = [
        counter.sentence_score(text, list(own)) for text, own in zip(outputs, answers, strict=True)
    ]
    counts = np.array([(*own.counts, *own.totals, own.sys_len, own.ref_len) for own in each])

    def score(sums: list[int], order: int) -> float:
        return BLEU.compute_bleu(
            sums[:order], sums[4 : 4 + order], sums[8], sums[9], smooth_method="exp",
            max_ngram_order=order,
        ).score  # fmt: skip

    whole, draws = counts.sum(axis=0).tolist(), (times @ counts).tolist()
    found = []
    for order in orders:
        low, high = np.quantile([score(own, order) for own in draws], (0.025, 0.975))
        found.append(Interval(np.asarray(score(whole, order)), low, high))
    return found


def _streams(answers: Sequence[Sequence[str]]) -> Any:
    """References as sacrebleu reads them: the n-th of every sentence, None where there is none."""
    most = max(map(len, answers))
    return [[own[k] if k < len(own) else None for own in answers] for k in range(most)]
