r"""One way to score every language model: the log probability of each token of one text.

A model, whether it counts or recurs, has `score_tokens(ids) -> TokenScores`. All tokens of the text
are predicted, the ends of sentences too; what the vocabulary lacks is scored as UNK and told apart.
Two models are compared, or interpolated, only over the same tokens, and the scores say what a model
could see before a token: a number without that is not comparable.

    perplexity = exp(-(1/N) \sum_t ln p(w_t | before))
"""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from seqlab.errors import InputError
from seqlab.files import whole_file

KIND = "seqlab token scores 1"
PARTS = ("valid", "test")  # that a run of a language model scores


class LanguageModel(Protocol):
    """What can be scored."""

    def score_tokens(self, ids: np.ndarray) -> "TokenScores":
        """Scores of a text's tokens, ids [N] as a vocabulary's `encode_lines` or `encode` gives."""
        ...


@dataclass(frozen=True, eq=False)
class TokenScores:
    """How probable one model finds each token of a text.

    Attributes:
      tokens: ids in the order of the text, int64 [N].
      log_probs: ln p of each, float64 [N]; -inf for what the model excludes.
      unknown: whether the token is UNK, a word that the vocabulary lacks, bool [N].
      carry: what the model could see before a token, in words: "the last 4 tokens of the sentence",
        "the whole stream", "the stream, cut every 35 tokens".
      vocabulary: `Vocabulary.digest` of the vocabulary that the ids are of.
      num_characters: of the text that the tokens stand for, line ends included; None if that is not
        to be told.

    Raises:
      InputError: no token.
      ValueError: arrays of different lengths, or a log probability above 0 or NaN.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    unknown: np.ndarray
    carry: str
    vocabulary: str = ""
    num_characters: int | None = None

    def __post_init__(self):
        """Holds the arrays to one length and to what log probabilities are."""
        for name, dtype in (("tokens", np.int64), ("log_probs", np.float64), ("unknown", bool)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        shapes = {array.shape for array in (self.tokens, self.log_probs, self.unknown)}
        if len(shapes) != 1 or self.tokens.ndim != 1:
            raise ValueError(
                "tokens, log_probs and unknown must be of one length, got "
                f"{self.tokens.shape}, {self.log_probs.shape} and {self.unknown.shape}"
            )
        if not len(self.tokens):
            raise InputError("text is empty: there is no token to score")
        bad = np.flatnonzero(~(self.log_probs <= 1e-6))  # a NaN too; float32 may exceed 0 a little
        if len(bad):
            raise ValueError(
                f"log_probs[{bad[0]}] is {self.log_probs[bad[0]]}: ln p is 0 at the most"
            )

    def __len__(self) -> int:
        """N, the number of tokens."""
        return len(self.tokens)

    @property
    def nats_per_token(self) -> float:
        """-(1/N) sum ln p, every token counted."""
        return float(-np.mean(self.log_probs))

    @property
    def perplexity(self) -> float:
        """exp of the nats per token; infinite where a token has probability 0."""
        return _exp(self.nats_per_token)

    @property
    def perplexity_without_unknown(self) -> float:
        """Perplexity of the tokens that are not UNK; NaN if all are."""
        known = self.log_probs[~self.unknown]
        return _exp(float(-np.mean(known))) if len(known) else math.nan

    @property
    def unknown_rate(self) -> float:
        """Share of the tokens that are UNK."""
        return float(np.mean(self.unknown))

    @property
    def bits_per_character(self) -> float | None:
        """Bits that the text costs, by its characters; None where their number is not told."""
        if not self.num_characters:
            return None
        return float(-np.sum(self.log_probs) / math.log(2) / self.num_characters)

    def save(self, path: Path | str) -> None:
        """Writes an .npz file, whole or not at all; `load_scores` reads it.

        Raises:
          InputError: the file cannot be written.
        """
        path = Path(path)
        characters = -1 if self.num_characters is None else self.num_characters
        try:
            with whole_file(path) as file:
                np.savez(
                    file, kind=KIND, tokens=self.tokens, log_probs=self.log_probs,
                    unknown=self.unknown, carry=self.carry, vocabulary=self.vocabulary,
                    num_characters=characters,
                )  # fmt: skip
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error


class Mixture(NamedTuple):
    """Weights found by EM.

    Attributes:
      weights: one a model, [M]; they sum to 1.
      nats_per_token: of the mixture before each step and after the last, falling, [steps + 1].
    """

    weights: np.ndarray
    nats_per_token: np.ndarray


def score_file(run: Path, part: str) -> Path:
    """Where a run of a language model keeps its scores of a part of its text."""
    return run / f"scores-{part}.npz"


def load_scores(path: Path | str) -> TokenScores:
    """The scores of a file that `TokenScores.save` has written.

    Raises:
      InputError: a file that cannot be read, is damaged or something else.
    """
    path = Path(path)
    try:
        # Opened here: where it is no archive, np.load would leave it open.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no token scores, or is damaged: {error}") from error
    if str(found.get("kind")) != KIND:
        raise InputError(f"{path} holds no token scores: expected a file of TokenScores.save")
    characters = int(found["num_characters"])
    try:
        return TokenScores(
            found["tokens"], found["log_probs"], found["unknown"], str(found["carry"]),
            str(found["vocabulary"]), None if characters < 0 else characters,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def summary(valid: TokenScores, test: TokenScores) -> dict[str, Any]:
    """A run's figures under the names that every language model's `summary.json` has."""
    return {
        "valid_perplexity": valid.perplexity,
        "test_perplexity": test.perplexity,
        "test_perplexity_without_unknown": test.perplexity_without_unknown,
        "unknown_rate": test.unknown_rate,
        "bits_per_character": test.bits_per_character,
        "test_tokens": len(test),
        "carry": test.carry,
    }


def check_same_tokens(scores: Sequence[TokenScores]) -> None:
    """Refuses scores of different texts, or of one text in different vocabularies.

    Raises:
      InputError: naming the first pair that differs and where.
    """
    if not scores:
        raise InputError("no scores: give one or more")
    first = scores[0]
    for k, other in enumerate(scores[1:], start=1):
        if len(other) != len(first):
            raise InputError(
                f"scores 0 and {k} are of different texts: {len(first)} and {len(other)} tokens; "
                "score both models on the same file, with the same ends of sentences"
            )
        if first.vocabulary and other.vocabulary and first.vocabulary != other.vocabulary:
            raise InputError(
                f"scores 0 and {k} are in different vocabularies ({first.vocabulary[:12]} and "
                f"{other.vocabulary[:12]}): train both models with the same one"
            )
        differs = (first.tokens != other.tokens) | (first.unknown != other.unknown)
        if differs.any():
            place = int(np.argmax(differs))
            raise InputError(
                f"scores 0 and {k} are of different texts: token {place} is {first.tokens[place]} "
                f"in one and {other.tokens[place]} in the other"
            )


def interpolate(
    scores: Sequence[TokenScores], weights: Sequence[float] | np.ndarray
) -> TokenScores:
    r"""Scores of a mixture of models, p = \sum_m weights[m] p_m.

    Args:
      scores: one a model, of the same tokens.
      weights: one a model, not negative; they sum to 1.

    Raises:
      InputError: scores of different tokens, or weights that are none.
    """
    check_same_tokens(scores)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(scores),) or not (weights >= 0).all():
        raise InputError(f"weights must be {len(scores)} numbers of 0 or more, got {weights}")
    if not abs(weights.sum() - 1) < 1e-9:
        raise InputError(f"weights must sum to 1, got {weights.sum()}")
    first = scores[0]
    parts = " + ".join(f"{w:.3g} x ({s.carry})" for w, s in zip(weights, scores, strict=True))
    characters = {each.num_characters for each in scores} - {None}
    return TokenScores(
        first.tokens, _mixed(_stacked(scores), weights), first.unknown, parts, first.vocabulary,
        characters.pop() if len(characters) == 1 else None,
    )  # fmt: skip


def em_weights(
    scores: Sequence[TokenScores], *, tolerance: float = 1e-10, max_steps: int = 10_000
) -> Mixture:
    r"""Weights under which a mixture finds a held-out text most probable.

        r_m(t) = weights[m] p_m(t) / \sum_l weights[l] p_l(t)        weights[m] <- mean_t r_m(t)

    The likelihood rises with every step, and being concave in the weights has no other maximum than
    the one that is found.

    Args:
      scores: one a model, of the same held-out tokens: not of the text that a model was trained on.
      tolerance: gain in nats per token below which no further step is taken.
      max_steps: steps at the most.

    Raises:
      InputError: scores of different tokens, or a token that every model excludes.

    References: Dempster et al., 1977; Jelinek and Mercer, 1980 (of language models).
    """
    check_same_tokens(scores)
    log_probs = _stacked(scores)
    excluded = np.isneginf(log_probs).all(axis=0)
    if excluded.any():
        place = int(np.argmax(excluded))
        raise InputError(f"token {place} has probability 0 under every model: no weights help")
    # Scaled by the most probable of each token, so that nothing underflows.
    peak = log_probs.max(axis=0)
    likelihood = np.exp(log_probs - peak)
    weights = np.full(len(scores), 1 / len(scores))
    mixed = weights @ likelihood
    nats = [float(-np.mean(np.log(mixed) + peak))]
    for _ in range(max_steps):
        weights = weights * np.mean(likelihood / mixed, axis=1)
        weights /= weights.sum()
        mixed = weights @ likelihood
        nats.append(float(-np.mean(np.log(mixed) + peak)))
        if nats[-2] - nats[-1] < tolerance:
            break
    return Mixture(weights, np.array(nats))


def cache_scores(
    like: TokenScores,
    vocab_size: int,
    *,
    window: int | None = None,
    decay: float | None = None,
    prior: float = 1.0,
) -> TokenScores:
    r"""Scores of a unigram cache: words of the recent past come again.

        p(w | before) = (c_t(w) + prior / V) / (\sum_v c_t(v) + prior)

        window:  c_t(w) = number of s in t - window .. t - 1 with w_s = w
        decay:   c_t(w) = \sum_{s < t} decay^{t-1-s} [w_s = w]

    The prior is what a uniform distribution weighs against words seen, so that the first token of a
    text has a probability too. The past is the whole text, across sentences: a cache is of use in
    a mixture (`interpolate`) with a model.

    Args:
      like: scores of the same tokens by any model; only its tokens are read.
      vocab_size: V, the number of tokens that may follow: `NGram.num_predictable`, or the width of
        a softmax.
      window: how many tokens are remembered; None where `decay` is given.
      decay: what a token of the past keeps of its weight with every step, in (0, 1).
      prior: above 0.

    Raises:
      InputError: neither or both of window and decay, or one out of range.

    References: Kuhn and De Mori, 1990; Clarkson and Robinson, 1997 (decay).
    """
    if (window is None) == (decay is None):
        raise InputError(f"give window or decay, one of them: got {window} and {decay}")
    if window is not None and window < 1:
        raise InputError(f"window must be 1 or more, got {window}")
    if decay is not None and not 0 < decay < 1:
        raise InputError(f"decay must be between 0 and 1, got {decay}")
    if not 0 < prior < math.inf:
        raise InputError(f"prior must be above 0, got {prior}")
    tokens = like.tokens
    now = np.arange(len(tokens))
    if window is not None:
        seen, total = _seen_in_window(tokens, window), np.minimum(now, window)
        carry = f"the last {window} tokens of the stream, unordered"
    else:
        assert decay is not None
        seen, total = _seen_decayed(tokens, decay), (1 - decay**now) / (1 - decay)
        carry = f"the stream before, unordered, weighing {decay:g}^distance"
    log_probs = np.log((seen + prior / vocab_size) / (total + prior))
    return TokenScores(tokens, log_probs, like.unknown, carry, like.vocabulary, like.num_characters)


def _seen_in_window(tokens: np.ndarray, window: int) -> np.ndarray:
    """How often each token stands among the `window` before it, [N]."""
    now = np.arange(len(tokens))
    # Occurrences sorted by token, then place: those of one token within a window are neighbours.
    stride = len(tokens) + 1
    occurrences = np.sort(tokens * stride + now)
    until = np.searchsorted(occurrences, tokens * stride + now)
    since = np.searchsorted(occurrences, tokens * stride + np.maximum(now - window, 0))
    return until - since


def _seen_decayed(tokens: np.ndarray, decay: float) -> np.ndarray:
    """Decayed count of each token before its own place, [N]."""
    seen = np.zeros(len(tokens))
    memory: dict[int, tuple[int, float]] = {}  # token -> when last, and its count just after
    for t, token in enumerate(tokens.tolist()):
        when, count = memory.get(token, (t, 0.0))
        seen[t] = count * decay ** max(t - 1 - when, 0)
        memory[token] = (t, seen[t] * decay + 1.0)
    return seen


def _stacked(scores: Sequence[TokenScores]) -> np.ndarray:
    """ln p by model and token, [M, N]."""
    return np.stack([each.log_probs for each in scores])


def _mixed(log_probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ln of the weighted sum of probabilities, [N]."""
    peak = np.max(np.where(weights[:, None] > 0, log_probs, -np.inf), axis=0)
    safe = np.where(np.isneginf(peak), 0.0, peak)
    with np.errstate(divide="ignore"):  # excluded by all of them: -inf
        return np.log(weights @ np.exp(np.minimum(log_probs - safe, 700.0))) + safe


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
