"""Word vectors: a record of words and their vectors, and what can be asked of it."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqlab.data.vocabulary import PAD, SPECIALS, Vocabulary
from seqlab.embeddings import evaluation
from seqlab.embeddings.nearest import (
    Neighbours,
    cosines,
    nearest,
    nearest_by_product,
    products,
    unit,
)
from seqlab.errors import InputError
from seqlab.types import Array

SPELLED_AMONG = 50_000  # the most frequent words, in which a misspelled one is looked for: 1 s

Terms = Any  # a word, a vector [D], a (word or vector, weight), or a list of such


class Embedding(NamedTuple):
    """A model's embedding made from word vectors."""

    matrix: np.ndarray  # float32 [V', D]
    coverage: float  # share of the words, special tokens left out, that have a vector of their own


@dataclass(frozen=True, eq=False, repr=False)
class Vectors:
    """Words and their vectors. Methods are called as in gensim's `KeyedVectors`, and mean the same.

    Cosines are those of vectors at unit length; a zero vector has cosine 0 with every other. They
    are taken in float32, or in float64 with float64 vectors where jax has 64-bit numbers enabled.
    Where gensim gives NaN or leaves an unknown word out unseen, this does not: every word that is
    not there is an InputError which names it and words of similar spelling.

    Attributes:
      words: distinct, most frequent first where that is known.
      vectors: float32 or float64 [V, D], finite; read-only.
      counts: None, or int64 [V], how often each word was seen; it never rises.

    Raises:
      ValueError: arrays of other shapes or dtypes, words twice, vectors that are not finite, counts
        that rise.
    """

    words: tuple[str, ...]
    vectors: np.ndarray
    counts: np.ndarray | None = None

    def __post_init__(self):
        """Holds the attributes to what they are documented to be."""
        words, vectors = tuple(self.words), np.asarray(self.vectors)
        if vectors.ndim != 2 or len(vectors) != len(words) or not vectors.size:
            raise ValueError(
                f"vectors must be [V, D] with a row for each of {len(words)} words, "
                f"got {list(vectors.shape)}"
            )
        if vectors.dtype not in (np.float32, np.float64):
            raise ValueError(f"vectors must be float32 or float64, got {vectors.dtype}")
        object.__setattr__(self, "words", words)
        if len(self._index) != len(words):
            repeated = next(word for i, word in enumerate(words) if self._index[word] != i)
            raise ValueError(f"words must be distinct, {repeated[:40]!r} is not")
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            word = words[int(np.argmin(finite))]
            raise ValueError(f"vectors must be finite, that of {word[:40]!r} is not")
        object.__setattr__(self, "vectors", _read_only(vectors))
        if self.counts is not None:
            counts = np.asarray(self.counts, np.int64)
            if counts.shape != (len(words),) or np.any(np.diff(counts) > 0):
                raise ValueError("counts must be one for each word, the most frequent word first")
            object.__setattr__(self, "counts", _read_only(counts))

    def __repr__(self) -> str:
        return f"Vectors({len(self)} words, {self.vector_size} dimensions, {self.vectors.dtype})"

    def __len__(self) -> int:
        """V, the number of words."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        """Whether a word has a vector."""
        return word in self._index

    def __getitem__(self, word: str | Iterable[str]) -> np.ndarray:
        """The vector of a word, [D], or those of several, [N, D]."""
        if isinstance(word, str):
            return self.vectors[self.index(word)]
        return self.vectors[[self.index(each) for each in word]]

    @property
    def vector_size(self) -> int:
        """D, the number of dimensions."""
        return self.vectors.shape[1]

    @cached_property
    def units(self) -> np.ndarray:
        """The vectors at unit length, [V, D]; read-only."""
        units = unit(self.vectors)
        units.flags.writeable = False
        return units

    def index(self, word: str) -> int:
        """The row of a word.

        Raises:
          InputError: a word that has none; it names words of similar spelling.
        """
        found = self._index.get(word)
        if found is None:
            close = difflib.get_close_matches(str(word), self.words[:SPELLED_AMONG])
            near = ", ".join(repr(each) for each in close) or "none"
            raise InputError(f"unknown word {str(word)[:40]!r}; words of similar spelling: {near}")
        return found

    def neighbours(
        self,
        queries: np.ndarray | Array,
        topn: int = 10,
        *,
        exclude: np.ndarray | None = None,
        restrict_vocab: int | None = None,
    ) -> Neighbours:
        """The nearest words of many vectors at once.

        Args:
          queries: [N, D], finite.
          topn: K, how many, at most as many as are searched.
          exclude: None, or [N, E], rows that are no answer to a query; -1 is none.
          restrict_vocab: None, or how many of the first words are searched.

        Returns:
          Neighbours(indices [N, K], scores [N, K]), greatest cosine first.

        Raises:
          ValueError: queries of another width or not finite, a `topn` or `restrict_vocab` below 1.
        """
        queries = np.asarray(queries, self.vectors.dtype)
        if queries.ndim != 2 or queries.shape[1] != self.vector_size:
            raise ValueError(f"queries must be [N, {self.vector_size}], got {list(queries.shape)}")
        if not np.isfinite(queries).all():
            raise ValueError("queries must be finite")
        for name, value in (("topn", topn), ("restrict_vocab", restrict_vocab)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        return nearest(self._searched, queries, topn, exclude=exclude, limit=restrict_vocab)

    def most_similar(
        self,
        positive: Terms = (),
        negative: Terms = (),
        topn: int | None = 10,
        *,
        restrict_vocab: int | None = None,
    ) -> Any:
        """The words nearest to a weighted sum of words' unit vectors (3CosAdd).

            argmax_w cos(w, sum_i a_i v_i / |v_i|)

        Args:
          positive: words, or (word, weight), weight 1 where none is given; or vectors in place of
            words, which are added as they are.
          negative: likewise, weight -1. No word of either list is an answer.
          topn: how many.
          restrict_vocab: None, or how many of the first words are searched.

        Returns:
          [(word, cosine)], nearest first; with `topn` None the cosines of all words, [V].

        Raises:
          InputError: no word at all, or one that is not there.

        References: Mikolov, Yih and Zweig, 2013.
        """
        plus, minus = _terms(positive, 1.0), _terms(negative, -1.0)
        parts = [
            weight * (self.units[self.index(term)] if isinstance(term, str) else self._vector(term))
            for term, weight in plus + minus
        ]
        if not parts:
            raise InputError("most_similar: give a word, in positive or negative")
        query = np.sum(parts, axis=0, keepdims=True).astype(self.vectors.dtype)
        if topn is None:
            return cosines(self._searched, query, restrict_vocab)[0]
        if topn < 1:
            return []
        exclude = self._rows_of(plus + minus)
        found = self.neighbours(query, topn, exclude=exclude[None], restrict_vocab=restrict_vocab)
        return self._named(found)

    def most_similar_cosmul(
        self,
        positive: Terms = (),
        negative: Terms = (),
        topn: int | None = 10,
        *,
        restrict_vocab: int | None = None,
    ) -> Any:
        """The words of greatest product of similarities (3CosMul).

            argmax_w  prod_{+} (1 + cos(w, v)) / 2  /  (prod_{-} (1 + cos(w, v)) / 2 + 1e-6)

        The arguments and what comes back are those of `most_similar`, without weights; vectors in
        place of words are brought to unit length.

        Raises:
          InputError: no positive word, a weight, or a word that is not there.

        References: Levy and Goldberg, 2014, equation 4.
        """
        plus, minus = _terms(positive, None), _terms(negative, None)
        if not plus or any(weight is not None for _, weight in plus + minus):
            raise InputError("most_similar_cosmul: give one positive word or more, without weights")
        terms = np.stack([self._vector(term) for term, _ in plus + minus])
        signs = np.repeat([1, -1], [len(plus), len(minus)])
        if topn is None:
            return products(self._searched, terms, signs, restrict_vocab)
        if topn < 1:
            return []
        exclude = self._rows_of(plus + minus)
        return self._named(
            nearest_by_product(
                self._searched, terms, signs, topn, exclude=exclude, limit=restrict_vocab
            )
        )

    def similar_by_word(
        self, word: str, topn: int | None = 10, *, restrict_vocab: int | None = None
    ) -> Any:
        """`most_similar` of one word."""
        return self.most_similar([word], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_vector(
        self, vector: np.ndarray, topn: int | None = 10, *, restrict_vocab: int | None = None
    ) -> Any:
        """`most_similar` of one vector [D]; every word may be an answer."""
        return self.most_similar([np.asarray(vector)], topn=topn, restrict_vocab=restrict_vocab)

    def similarity(self, word_1: str, word_2: str) -> float:
        """Cosine of two words."""
        return float(np.dot(self.units[self.index(word_1)], self.units[self.index(word_2)]))

    def distance(self, word_1: str, word_2: str) -> float:
        """1 - cosine of two words."""
        return 1.0 - self.similarity(word_1, word_2)

    def distances(
        self, word_or_vector: str | np.ndarray, other_words: Sequence[str] = ()
    ) -> np.ndarray:
        """1 - cosine with each of `other_words`, or with all words, [N].

        Raises:
          InputError: a word that is not there.
          ValueError: a vector of another size.
        """
        query = unit(self._vector(word_or_vector))[None]
        if not len(other_words):
            return 1 - cosines(self._searched, query)[0]
        return 1 - self.units[[self.index(word) for word in other_words]] @ query[0]

    def n_similarity(self, words_1: Sequence[str], words_2: Sequence[str]) -> float:
        """Cosine of the mean vectors of two lists of words.

        Raises:
          InputError: an empty list, or a word that is not there.
        """
        if isinstance(words_1, str) or isinstance(words_2, str) or not words_1 or not words_2:
            raise InputError("n_similarity: give two lists of one word or more")
        return float(unit(self[words_1].mean(axis=0)) @ unit(self[words_2].mean(axis=0)))

    def doesnt_match(self, words: Sequence[str]) -> str:
        """The word with the least cosine with the mean of all their unit vectors.

        Raises:
          InputError: no list of words, or a word that is not there.
        """
        if isinstance(words, str) or not words:
            raise InputError("doesnt_match: give a list of words")
        units = self.units[[self.index(word) for word in words]]
        return words[int(np.argmin(units @ unit(units.mean(axis=0))))]

    def closer_than(self, word_1: str, word_2: str) -> list[str]:
        """The words that are nearer to the first word than the second is, but for the first."""
        first, second = self.index(word_1), self.index(word_2)
        scores = cosines(self._searched, self.units[first][None])[0]
        closer = np.flatnonzero(scores > scores[second])
        return [self.words[i] for i in closer if i != first]

    def rank(self, word_1: str, word_2: str) -> int:
        """Place of the second word among the neighbours of the first, from 1."""
        return len(self.closer_than(word_1, word_2)) + 1

    def evaluate_word_analogies(
        self,
        path: Path | str,
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> evaluation.AnalogyScores:
        """Share of the questions a : b = c : ? of a file that are answered right by 3CosAdd.

        Args:
          path: four words a line, in sections that begin with ": name"; may be gzip (".gz").
          restrict_vocab: a question with a word that is not among so many first ones is skipped,
            and only these are searched; None for all.
          case_insensitive: whether words are compared in upper case; of words that differ in case
            alone the first one counts, and none of a question's own is an answer.
          dummy4unknown: whether a skipped question counts as answered wrong in the accuracy.

        Raises:
          InputError: a file that cannot be read, naming the line at fault.
        """
        return evaluation.score_analogies(
            self, Path(path), restrict_vocab, case_insensitive, dummy4unknown
        )

    def evaluate_word_pairs(
        self,
        path: Path | str,
        delimiter: str = "\t",
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> evaluation.PairScores:
        """Correlation of cosines with people's judgements of how alike two words are.

        Args:
          path: lines of word, word, score; "#" begins a comment line; may be gzip (".gz").
          delimiter: what stands between them.
          restrict_vocab, case_insensitive: see `evaluate_word_analogies`.
          dummy4unknown: whether a pair with an unknown word counts as one of cosine 0.

        Raises:
          InputError: a file that cannot be read, naming the line at fault.
        """
        return evaluation.score_pairs(
            self, Path(path), delimiter, restrict_vocab, case_insensitive, dummy4unknown
        )

    def matrix(
        self,
        words: Vocabulary | Sequence[str],
        *,
        seed: int = 0,
        scale: float | None = None,
        unknown: Literal["noise", "mean"] = "noise",
    ) -> Embedding:
        """An embedding for a model: the vectors of its words, by its ids.

        Args:
          words: V' of them, or a vocabulary: its tokens by id, of which PAD's row is zeros.
          seed: of the noise.
          scale: standard deviation of the noise; that of all entries of `vectors` if None, so that
            unknown words begin as large as known ones.
          unknown: what a word without a vector gets, "noise" or the "mean" of all vectors.

        Raises:
          InputError: `unknown` is neither.

        References: Kim, 2014, section 3.2 (noise of the vectors' own variance).
        """
        if unknown not in ("noise", "mean"):
            raise InputError(f"unknown={unknown!r}: expected one of noise, mean")
        is_vocabulary = isinstance(words, Vocabulary)
        tokens = words.tokens if is_vocabulary else words
        rows = np.array([self._index.get(token, -1) for token in tokens], np.int64)
        if unknown == "mean":
            matrix = np.tile(self.vectors.mean(axis=0, dtype=np.float64), (len(rows), 1))
        else:
            scale = float(self.vectors.std(dtype=np.float64)) if scale is None else scale
            noise = np.random.default_rng(seed).normal(size=(len(rows), self.vector_size))
            matrix = scale * noise
        matrix = matrix.astype(np.float32)
        matrix[rows >= 0] = self.vectors[rows[rows >= 0]]
        counted = rows
        if is_vocabulary:
            matrix[PAD] = 0.0
            counted = rows[len(SPECIALS) :]
        return Embedding(matrix, float(np.mean(counted >= 0)) if len(counted) else float("nan"))

    @cached_property
    def _index(self) -> dict[str, int]:
        """Row of each word, the last one of equals."""
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _searched(self) -> Array:
        """The units, on the device that searches them."""
        return jnp.asarray(self.units)

    def _vector(self, term: str | np.ndarray) -> np.ndarray:
        if isinstance(term, str):
            return self.vectors[self.index(term)]
        if np.shape(term) != (self.vector_size,):
            raise ValueError(f"a vector must be [{self.vector_size}], got {list(np.shape(term))}")
        return np.asarray(term, self.vectors.dtype)

    def _rows_of(self, terms) -> np.ndarray:
        return np.array([self.index(term) for term, _ in terms if isinstance(term, str)], np.int32)

    def _named(self, found: Neighbours) -> list[tuple[str, float]]:
        pairs = zip(found.indices[0].tolist(), found.scores[0].tolist(), strict=True)
        return [(self.words[i], score) for i, score in pairs if i >= 0]


def _terms(given: Terms, weight: float | None) -> list[tuple[Any, float | None]]:
    """(word or vector, weight) of everything given."""
    if isinstance(given, str) or (hasattr(given, "ndim") and given.ndim == 1):
        given = [given]
    return [term if isinstance(term, tuple) else (term, weight) for term in given]


def _read_only(array: np.ndarray) -> np.ndarray:
    """The array, or a copy where someone else could still write to it."""
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array
