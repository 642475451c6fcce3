r"""A language model of n-grams: scores, distributions, samples.

The Markov assumption: p(w_t | w_1 .. w_{t-1}) = p(w_t | w_{t-N+1} .. w_{t-1}) = p(w_t | h).

Every kind of model is kept in one form, the back-off form of ARPA files. A table for each order
holds log10 p(w | h) of the n-grams h w that were seen, and for each n-gram, as a context, the
weight of what was never seen after it:

    p(w | h) = p[h w]                    where h w is in the table
             = weight[h] p(w | h')       elsewhere; h' is h without its oldest word

(log10, since that is what the files hold: a model is read back bit for bit.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqlab.data.checks import check_at_least, check_positive
from seqlab.data.vocabulary import EOS, SOS, UNK, Vocabulary, Words
from seqlab.errors import InputError
from seqlab.ngram.counts import check_ids, with_starts
from seqlab.ngram.sorting import find
from seqlab.scoring import TokenScores

LN10 = float(np.log(10.0))


@dataclass(frozen=True, eq=False)
class Level:
    """What a model knows of one order.

    Attributes:
      keys: int64 [n], sorted: place of h in the level below, times size, plus w; of unigrams 0, 1,
        .. size - 1.
      log10_probs: log10 p(w | h), float64 [n]; -inf for what is excluded.
      log10_weights: log10 weight[h w], float64 [n]; 0 where nothing was seen after h w. Empty in
        the highest order.
    """

    keys: np.ndarray
    log10_probs: np.ndarray
    log10_weights: np.ndarray

    def __len__(self) -> int:
        """n."""
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Memory that its arrays take."""
        return self.keys.nbytes + self.log10_probs.nbytes + self.log10_weights.nbytes


@dataclass(frozen=True, eq=False)
class NGram:
    """A language model of order N. `fit` makes one from counts, `read_arpa` from a file.

    Attributes:
      vocabulary: of the ids.
      levels: one an order, from unigrams up.
      smoothing: the name of the method, "arpa" if read from a file.
      discounts: of each order what was taken off counts of 1, 2, and 3 or more; empty for methods
        that discount nothing.
      fallback_orders: orders too small to tell their own discounts.
      to_uniform: whether what was never seen after a context shares uniformly in its weight, as in
        add-k, rather than by the order below.
      log10_unseen: log10 of the weight of a context that was never seen; 0 but for stupid
        back-off.
      is_normalised: whether scores are probabilities.
    """

    vocabulary: Vocabulary
    levels: tuple[Level, ...]
    smoothing: str
    discounts: tuple[tuple[float, ...], ...] = ()
    fallback_orders: tuple[int, ...] = ()
    to_uniform: bool = False
    log10_unseen: float = 0.0
    is_normalised: bool = True

    @property
    def order(self) -> int:
        """N."""
        return len(self.levels)

    @property
    def num_predictable(self) -> int:
        """V: ids that may follow, `<eos>` and `<unk>` among them, `<sos>` and `<pad>` not."""
        return len(self.vocabulary) - 2 - (not self._has_ends)

    @property
    def num_parameters(self) -> int:
        """Numbers that the model consists of: a probability an n-gram, a weight a context."""
        return sum(len(level.log10_probs) + len(level.log10_weights) for level in self.levels)

    @property
    def bytes_by_order(self) -> tuple[int, ...]:
        """Memory of each order's table; it grows with the text, to a limit."""
        return tuple(level.num_bytes for level in self.levels)

    @property
    def full_bytes_by_order(self) -> tuple[int, ...]:
        """Memory of a table with a float64 for each of V^n n-grams, seen or not."""
        return tuple(8 * self.num_predictable**n for n in range(1, self.order + 1))

    @property
    def carry(self) -> str:
        """What the model can see before a token."""
        what = "sentence" if self._has_ends else "text"
        return f"the last {self.order - 1} tokens of the {what}"

    @property
    def _has_ends(self) -> bool:
        return self.levels[0].log10_probs[EOS] > -np.inf

    def score_tokens(
        self, ids: np.ndarray, *, num_characters: int | None = None, unnormalised: bool = False
    ) -> TokenScores:
        """Scores of every token of a text.

        Args:
          ids: [N], as `encode_lines` or `encode` gives it. The first token begins a sentence, and
            so does each one after an EOS.
          num_characters: of the text, for bits per character.
          unnormalised: have the scores of stupid back-off although they are not probabilities: they
            sum to more or less than 1, and what is called perplexity then is none.

        Raises:
          InputError: ids that are no text of this vocabulary, an EOS where training had none, or
            scores that are not asked for as such.
        """
        ids = np.asarray(ids)
        check_ids(ids, len(self.vocabulary))
        if not self._has_ends and (ids == EOS).any():
            raise InputError(
                f"id {int(np.argmax(ids == EOS))} of the text is <eos>: the model was trained on "
                "a text without; encode both with encode_lines, or both with encode"
            )
        if not self.is_normalised and not unnormalised:
            raise InputError(
                f"{self.smoothing} gives scores, not probabilities, and so no perplexity: take "
                "another smoothing, or say unnormalised=True to have the scores as they are"
            )
        words, places = with_starts(ids)
        log10 = self._log10_probs(words)[places]
        return TokenScores(
            ids, log10 * LN10, ids == UNK, self.carry, self.vocabulary.digest, num_characters
        )

    def _log10_probs(self, words: np.ndarray) -> np.ndarray:
        """log10 p of each word of a text with SOS before its sentences, [N]."""
        starts = np.maximum.accumulate(np.where(words == SOS, np.arange(len(words)), 0))
        preceding = np.arange(len(words)) - starts  # words of the sentence before this, SOS too
        found, below = words, self.levels[0]
        log10 = below.log10_probs[words]
        for n, level in enumerate(self.levels[1:], start=2):
            context = np.concatenate([[-1], found[:-1]])
            context[preceding < n - 1] = -1
            keys = np.where(context >= 0, context * len(self.vocabulary) + words, -1)
            found = find(level.keys, keys)
            weight = np.where(context >= 0, below.log10_weights[context], self.log10_unseen)
            lower = self._log10_uniform if self.to_uniform else log10
            value = np.where(found >= 0, level.log10_probs[found], weight + lower)
            log10 = np.where(preceding >= n - 1, value, log10)
            below = level
        return log10

    @property
    def _log10_uniform(self) -> float:
        return -float(np.log10(self.num_predictable))

    def next_distribution(self, context: np.ndarray | Sequence[int] = ()) -> np.ndarray:
        """p(w | context) of every id, float64 [len(vocabulary)], 0 for those never predicted.

        It sums to 1 (unless `is_normalised` is False), whether the context was ever seen or not.

        Args:
          context: ids before, the last of which count; what stands before an EOS or SOS does not.
            Begin with SOS for the first words of a sentence.

        Raises:
          InputError: ids outside the vocabulary.
        """
        size = len(self.vocabulary)
        ids = np.asarray(context, np.int64)
        if ids.ndim != 1 or ((ids < 0) | (ids >= size)).any():
            raise InputError(f"context must be ids in 0 .. {size - 1}, got {context}")
        ids = np.where(ids == EOS, SOS, ids)
        ids = ids[np.max(np.flatnonzero(ids == SOS), initial=0) :]
        probs = 10.0 ** self.levels[0].log10_probs
        uniform = np.where(probs > 0, 1 / self.num_predictable, 0.0) if self.to_uniform else None
        for n in range(2, min(self.order, len(ids) + 1) + 1):
            place, below, level = self._place(ids[len(ids) - n + 1 :]), *self.levels[n - 2 : n]
            weight = self.log10_unseen if place < 0 else below.log10_weights[place]
            probs = 10.0**weight * (probs if uniform is None else uniform)
            if place >= 0:
                first, last = np.searchsorted(level.keys, [place * size, (place + 1) * size])
                probs[level.keys[first:last] - place * size] = 10.0 ** level.log10_probs[first:last]
        return probs

    def _place(self, ids: np.ndarray) -> int:
        """Where an n-gram stands in its level, -1 if it was not seen."""
        place = int(ids[0])
        for word, level in zip(ids[1:], self.levels[1:], strict=False):
            key = place * len(self.vocabulary) + int(word)
            place = int(np.searchsorted(level.keys, key))
            if place == len(level) or level.keys[place] != key:
                return -1
        return place

    def sample(
        self,
        num_tokens: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        prime: np.ndarray | Sequence[int] = (),
        steps: np.ndarray | None = None,
    ) -> np.ndarray:
        """Ids drawn one after the other, int64 [num_tokens]; after an EOS a sentence begins.

        Args:
          num_tokens: how many.
          seed: the same seed gives the same ids.
          temperature: probabilities are raised to 1 / temperature; below 1 the probable gains.
          top_k: draw among the k most probable only; None for all.
          prime: ids that the sample goes on from.
          steps: None, or of each state the state after each id, [S, V], -1 for what is not drawn
            there; the sample begins in state 0. See `BytePairs.utf8_steps`.

        Raises:
          InputError: a number out of range.
        """
        check_at_least(num_tokens, 0, "num_tokens")
        check_positive(temperature, "temperature")
        if top_k is not None:
            check_at_least(top_k, 1, "top_k")
        rng = np.random.default_rng(seed)
        ids = [SOS, *(int(i) for i in prime)]
        state = 0
        for _ in range(num_tokens):
            probs = self.next_distribution(ids[-self.order :])
            if steps is not None:
                probs = np.where(steps[state] >= 0, probs, 0.0)
            # Scaled first: a power of small numbers may leave the range of float64.
            probs = (probs / probs.max()) ** (1 / temperature)
            if top_k is not None and top_k < len(probs):
                probs[np.argsort(-probs, kind="stable")[top_k:]] = 0
            cumulative = np.cumsum(probs)
            ids.append(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], "right")))
            state = state if steps is None else int(steps[state, ids[-1]])
        return np.array(ids[len(ids) - num_tokens :], np.int64)

    def generate(
        self,
        num_tokens: int,
        *,
        prime: str = "",
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> str:
        """Text that goes on from `prime`, which is not part of it; see `sample`.

        Raises:
          InputError: a number out of range, or a prime that the vocabulary cannot spell.
        """
        ids = encode_prime(self.vocabulary, prime)
        drawn = self.sample(num_tokens, seed=seed, temperature=temperature, top_k=top_k, prime=ids)
        return self.vocabulary.decode_lines(drawn)


def encode_prime(vocabulary: Vocabulary, prime: str) -> np.ndarray:
    r"""Ids of a text to go on from, [N]; of words, a line end within it ends a sentence.

    Raises:
      InputError: what the vocabulary lacks, and where.
    """
    parts = prime.split("\n") if isinstance(vocabulary, Words) else [prime]
    encoded = [vocabulary.encode(part, eos=k < len(parts) - 1) for k, part in enumerate(parts)]
    ids = np.concatenate(encoded)
    if UNK in ids:
        tokens = prime.split() if isinstance(vocabulary, Words) else list(prime)
        missing = [token for token in tokens if (vocabulary.encode(token) == UNK).any()]
        if missing != ["<unk>"] * len(missing):
            word = next(each for each in missing if each != "<unk>")
            kind = "word" if isinstance(vocabulary, Words) else "character"
            raise InputError(
                f"prime: the {kind} {word[:40]!r} is not in the vocabulary of {len(vocabulary)}; "
                f"leave it out, or train on a text that has it"
            )
    return ids
