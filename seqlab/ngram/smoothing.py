r"""From counts to probabilities: the ratios of counts, and what is kept for the unseen.

    maximum likelihood    unigram c(w) / N     bigram c(w1 w2) / c(w1)
                          trigram c(w1 w2 w3) / c(w1 w2)              all c(h w) / c(h)
    add-k                 (c(h w) + k) / (c(h) + k V)

c(h) is the sum of c(h w) over w: where h ends a text, or a sentence, nothing follows. A context
that was never seen has no ratio; the next shorter one that was is taken. The others mix in the
order below, p_n(w | h) = alpha(h w) + gamma(h) p_{n-1}(w | h'), down to p_0 = 1 / V:

    witten-bell           alpha = c(h w) / (c(h) + T(h)),  gamma = T(h) / (c(h) + T(h)),
                          T(h) = number of different words after h
    absolute              alpha = max(c(h w) - D, 0) / c(h),  gamma = D T(h) / c(h)
    kneser-ney            the same of adjusted counts a
    modified-kneser-ney   and D by the count: D_1, D_2, D_3+ for a = 1, 2, 3 or more

    stupid-backoff        c(h w) / c(h) if seen, else 0.4 S(w | h'): scores that do not sum to 1

The adjusted count of an n-gram is its count in the highest order, and below it the number of
different words that stand before it, since a lower order is asked only where a higher one does not
know; n-grams that begin with `<sos>` have no word before them and keep their counts.

With n_r the number of n-grams of an order whose (adjusted) count is r,

    Y = n_1 / (n_1 + 2 n_2)      D = Y      D_1 = 1 - 2 Y n_2/n_1    D_2 = 2 - 3 Y n_3/n_2
                                            D_3+ = 3 - 4 Y n_4/n_3

A text too small, or too regular, to have a D_r above 0 and at most r takes D_1 = 0.5, D_2 = 1,
D_3+ = 1.5 in that order, and the model says so in `fallback_orders`.

References: Chen and Goodman, 1998, sections 2.6 (Witten-Bell), 2.7 (absolute), 3 (modified Kneser-
Ney); Ney et al., 1994 (D); Brants et al., 2007 (stupid back-off); Heafield et al., 2013, section 3
(adjusted counts, sentence starts).
"""

import numpy as np

from seqlab.data.checks import check_known, check_positive
from seqlab.data.vocabulary import SOS
from seqlab.errors import InputError
from seqlab.ngram.counts import Counts
from seqlab.ngram.model import Level, NGram

SMOOTHINGS = (
    "modified-kneser-ney", "kneser-ney", "absolute", "witten-bell", "add-k", "maximum-likelihood",
    "stupid-backoff",
)  # fmt: skip
ADJUSTED = ("modified-kneser-ney", "kneser-ney")
DISCOUNTED = (*ADJUSTED, "absolute")
FALLBACK = (0.5, 1.0, 1.5)
PLAIN_FALLBACK = (0.5, 0.5, 0.5)

Discounts = tuple[float, float, float]


def fit(
    counts: Counts,
    smoothing: str = "modified-kneser-ney",
    *,
    k: float = 1.0,
    discount: float | Discounts | None = None,
    backoff: float = 0.4,
    interpolate_unigrams: bool = True,
) -> NGram:
    """The model of a text's counts; see the module for what each method computes.

    Args:
      counts: of orders 1 .. N; `counts.up_to(n)` for a model of a smaller order.
      smoothing: one of `SMOOTHINGS`.
      k: of add-k; 1 is Laplace's.
      discount: D, or D_1, D_2 and D_3+, of every order; None to take them from the counts.
      backoff: of stupid back-off.
      interpolate_unigrams: whether unigrams too are mixed with 1 / V. Without it they are ratios of
        (adjusted) counts, as in NLTK, and a word that was never seen has probability 0: its
        perplexity is infinite.

    Raises:
      InputError: an unknown method or a number out of range.
    """
    check_known(smoothing, SMOOTHINGS, "smoothing")
    check_positive(k, "k")
    check_positive(backoff, "backoff")
    given = _given(discount)
    predictable = counts.predictable
    num_predictable = int(np.count_nonzero(predictable))
    probs: list[np.ndarray] = []
    weights: list[np.ndarray] = []  # weights[n - 1] are of the contexts of order n
    discounts: list[Discounts] = []
    fallback_orders: list[int] = []
    is_modified, is_stupid = (smoothing == name for name in (SMOOTHINGS[0], SMOOTHINGS[-1]))
    for n, table in enumerate(counts.tables, start=1):
        a = _adjusted(counts, n) if smoothing in ADJUSTED else table.counts
        if n == 1:
            after = _After(a, np.zeros(len(table), np.int64), 1)
            lower = predictable / num_predictable
        else:
            after = _After(a, table.keys // len(counts.vocabulary), len(counts.tables[n - 2]))
            lower = probs[-1][table.suffixes]
        if smoothing in DISCOUNTED:
            found = given or _discounts(a, is_modified=is_modified)
            if found is None:
                found = FALLBACK if is_modified else PLAIN_FALLBACK
                fallback_orders.append(n)
            discounts.append(found)
            p, gamma = after.discounted(found, lower)
        elif smoothing == "witten-bell":
            p, gamma = after.witten_bell(lower)
        elif smoothing == "add-k":
            p, gamma = after.add(k, num_predictable)
            p = np.where(predictable, p, 0.0) if n == 1 else p
        else:
            p, gamma = after.ratios, np.full(len(after.total), 0.0)
        if n == 1 and not interpolate_unigrams and smoothing != "add-k":
            p = after.ratios
        if is_stupid:
            gamma = np.full(len(after.total), backoff)
        probs.append(p)
        # After a context that nothing was seen to follow, the order below decides alone.
        weights.append(np.where((after.total > 0) | is_stupid, gamma, 1.0))
    with np.errstate(divide="ignore"):  # log10 0 = -inf: excluded
        # Rounding may leave what is certain a little above 1, which no log probability is.
        log10_probs = [np.minimum(np.log10(p), 0.0) for p in probs]
        log10_weights = [*(np.log10(gamma) for gamma in weights[1:]), np.zeros(0)]
    keys = [np.asarray(table.keys) for table in counts.tables]
    return NGram(
        counts.vocabulary,
        tuple(Level(*parts) for parts in zip(keys, log10_probs, log10_weights, strict=True)),
        smoothing,
        discounts=tuple(discounts),
        fallback_orders=tuple(fallback_orders),
        to_uniform=smoothing == "add-k",
        log10_unseen=float(np.log10(backoff)) if is_stupid else 0.0,
        is_normalised=not is_stupid,
    )


class _After:
    """What follows each of C contexts; a method gives p of the n-grams and gamma of contexts."""

    def __init__(self, a: np.ndarray, parent: np.ndarray, num_contexts: int):
        """Takes (adjusted) counts of the n-grams, [n], and the context that each belongs to."""
        self.a, self.parent, self.num_contexts = a, parent, num_contexts
        self.total = self._sum(a)
        self._divisor = np.where(self.total > 0, self.total, 1.0)

    @property
    def ratios(self) -> np.ndarray:
        return self.a / self._divisor[self.parent]

    def discounted(self, discounts: Discounts, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        taken = np.minimum(np.array([0.0, *discounts])[np.minimum(self.a, 3)], self.a)
        gamma = self._sum(taken) / self._divisor
        p = (self.a - taken) / self._divisor[self.parent] + gamma[self.parent] * lower
        return p, gamma

    def witten_bell(self, lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distinct = self._sum(self.a > 0)
        divisor = np.where(self.total > 0, self.total + distinct, 1.0)
        return (self.a + distinct[self.parent] * lower) / divisor[self.parent], distinct / divisor

    def add(self, k: float, num_predictable: int) -> tuple[np.ndarray, np.ndarray]:
        divisor = self.total + k * num_predictable
        return (self.a + k) / divisor[self.parent], k * num_predictable / divisor

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.parent, values, self.num_contexts)


def _adjusted(counts: Counts, n: int) -> np.ndarray:
    """Adjusted counts of one order's n-grams, int64 [n]."""
    table = counts.tables[n - 1]
    if n == counts.order:
        return table.counts
    adjusted = np.bincount(counts.tables[n].suffixes, minlength=len(table))
    # N-grams that begin with <sos> stand together, as their contexts do.
    first, last, size = SOS, SOS + 1, len(counts.vocabulary)
    for each in counts.tables[1:n]:
        first, last = np.searchsorted(each.keys, [first * size, last * size])
    adjusted[first:last] = table.counts[first:last]
    return adjusted


def _discounts(a: np.ndarray, *, is_modified: bool) -> Discounts | None:
    """D_1, D_2 and D_3+ of an order's (adjusted) counts; None where they give none that will do."""
    _, n1, n2, n3, n4, *_ = np.bincount(np.minimum(a, 5), minlength=5).tolist()
    if not n1 or (is_modified and not (n2 and n3 and n4)):
        return None
    y = n1 / (n1 + 2 * n2)
    if not is_modified:
        return y, y, y
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < d <= r for r, d in enumerate(found, start=1)) else None


def _given(discount: float | Discounts | None) -> Discounts | None:
    if discount is None:
        return None
    found = (discount, discount, discount) if isinstance(discount, int | float) else discount
    if len(found) != 3:
        raise InputError(f"discount must be one number, or D_1, D_2 and D_3+, got {discount}")
    for r, d in enumerate(found, start=1):
        if not 0 < d <= r:
            raise InputError(f"discount of a count of {r} must be above 0 and at most {r}, got {d}")
    return found
