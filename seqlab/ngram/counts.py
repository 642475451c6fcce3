"""Counts of n-grams of every order up to N, in a text that may be larger than memory.

The n-grams of one order are a sorted array of whole numbers. The words before the last of an n-gram
are an n-gram of the order below, so a place in that order's array and a word say which one it is:

    key(w_1 .. w_n) = place(w_1 .. w_{n-1}) * size + w_n       place: index of a key in its array

63 bits hold it whatever the order. Counting is N - 1 sorts of whole numbers, after each of which
every place of the text knows which n-gram ends there: the contexts of the next order.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqlab.data.checks import check_at_least
from seqlab.data.vocabulary import EOS, PAD, SOS, Vocabulary
from seqlab.errors import InputError
from seqlab.ngram.sorting import Rows, find, firsts, merge, places_in, sort_with

LARGEST_ORDER = 7


@dataclass(frozen=True, eq=False)
class Table:
    """The distinct n-grams of one order, sorted.

    Attributes:
      keys: int64 [n]; of unigrams 0, 1, .. size - 1, seen or not.
      counts: how often each occurs, int64 [n].
      suffixes: where each stands without its first word in the table below, int64 [n].
    """

    keys: np.ndarray
    counts: np.ndarray
    suffixes: np.ndarray

    def __len__(self) -> int:
        """n."""
        return len(self.keys)


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each n-gram of orders 1 .. N occurs, within sentences.

    Every sentence is read as `<sos> w_1 .. w_m <eos>`, with one `<sos>` that is never predicted
    and never counted as a unigram. A text without `<eos>`, as of characters, is one long sentence.

    Attributes:
      vocabulary: of the words.
      tables: one an order; mapped from files where counting was asked to be on disk.
      num_tokens: of the text, `<eos>` included.
    """

    vocabulary: Vocabulary
    tables: tuple[Table, ...]
    num_tokens: int

    @property
    def order(self) -> int:
        """N."""
        return len(self.tables)

    @property
    def predictable(self) -> np.ndarray:
        """Which ids may be predicted, [size]: all but PAD, SOS and an EOS that never occurs."""
        may = np.ones(len(self.vocabulary), bool)
        may[[PAD, SOS]] = False
        may[EOS] = self.tables[0].counts[EOS] > 0
        return may

    @property
    def num_distinct(self) -> tuple[int, ...]:
        """Distinct n-grams of each order that occur, from unigrams up."""
        first, *rest = self.tables
        return (int(np.count_nonzero(first.counts)), *map(len, rest))

    def up_to(self, order: int) -> "Counts":
        """The same counts for a model of a smaller order.

        Raises:
          InputError: an order that was not counted.
        """
        if not 1 <= order <= self.order:
            raise InputError(f"order must be in 1 .. {self.order}, as counted, got {order}")
        return Counts(self.vocabulary, self.tables[:order], self.num_tokens)

    def of(self, *ngram: int) -> int:
        """How often an n-gram occurs, given by its ids; it may begin with SOS.

        Raises:
          InputError: more ids than the order.
        """
        if len(ngram) > self.order:
            raise InputError(f"counted up to order {self.order}, asked for {len(ngram)} words")
        size, place = len(self.vocabulary), ngram[0]
        for word, table in zip(ngram[1:], self.tables[1:], strict=False):
            (place,) = find(table.keys, np.array([place * size + word]))
            if place < 0:
                return 0
        return int(self.tables[len(ngram) - 1].counts[place])


def count_ngrams(
    ids: np.ndarray | Iterable[np.ndarray],
    order: int,
    vocabulary: Vocabulary,
    *,
    folder: Path | str | None = None,
    max_tokens: int = 2**22,
) -> Counts:
    """Counts every n-gram of orders 1 .. N of a text.

    In memory: about 100 bytes a token while it counts, 24 for each distinct n-gram after. With
    `folder`, the text is taken by `max_tokens` tokens and memory is about 150 bytes for each of
    them, however long it is: what is known of a piece waits in files, and each order's sorted runs
    are merged. The tables are files in `folder` too, with the same numbers.

    Args:
      ids: the text, [N], as `encode_lines` or `encode` gives it; or pieces of it, cut anywhere.
      order: N, 1 .. 7.
      vocabulary: of the ids.
      folder: None for memory, or where to count; files of an earlier count are replaced.
      max_tokens: of a piece.

    Raises:
      InputError: an order or id out of range, an empty text, an order that is larger than every
        sentence, or a folder that cannot be written.
    """
    if not 1 <= order <= LARGEST_ORDER:
        raise InputError(f"order must be in 1 .. {LARGEST_ORDER}, got {order}")
    check_at_least(max_tokens, 1, "max_tokens")
    chunks = [ids] if isinstance(ids, np.ndarray) else ids
    if folder is None:
        whole = np.concatenate([np.zeros(0, np.int32), *chunks])
        return _Counting(vocabulary, order, None, None, max(1, len(whole))).count([whole])
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="runs-", dir=folder) as runs:
            return _Counting(vocabulary, order, folder, Path(runs), max_tokens).count(chunks)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or folder}: {error.strerror}") from error


class _Counting:
    """One count: order by order, and in each order piece by piece."""

    def __init__(
        self, vocabulary: Vocabulary, order: int, folder: Path | None, scratch: Path | None,
        max_tokens: int,
    ):  # fmt: skip
        self.vocabulary, self.order, self.max_tokens = vocabulary, order, max_tokens
        self.size = len(vocabulary)
        self.folder, self.scratch = folder, scratch
        self.num_pieces = 0
        self.shelf: dict[str, np.ndarray] = {}

    def count(self, chunks: Iterable[np.ndarray]) -> Counts:
        tables = [self._unigrams(chunks)]
        num_tokens = int(tables[0].counts.sum())
        if not num_tokens:
            raise InputError("text is empty: there is no n-gram to count")
        for n in range(2, self.order + 1):
            rows = self._ngrams(n)
            if not len(rows):
                raise InputError(
                    f"order {self.order} is larger than any sentence: none has {n} words, <sos> "
                    f"and <eos> counted; choose an order of {n - 1} or less"
                )
            tables.append(Table(*rows.arrays()))
        return Counts(self.vocabulary, tuple(tables), num_tokens)

    def _unigrams(self, chunks: Iterable[np.ndarray]) -> Table:
        """Puts the text away in pieces; every place's unigram is its word."""
        counts = np.zeros(self.size, np.int64)
        for piece, words in enumerate(_pieces(chunks, self.size, self.max_tokens)):
            counts += np.bincount(words, minlength=self.size)
            self._put(f"words-{piece}", words)
            self._put(f"places-{piece}", words)
            self.num_pieces = piece + 1
        counts[SOS] = 0
        return Table(np.arange(self.size), counts, np.zeros(self.size, np.int64))

    def _ngrams(self, n: int) -> Rows:
        """The n-grams of one order; `places-*` go from the order below to this one."""
        runs, last = [], -1
        for piece in range(self.num_pieces):
            words, below = self._get(f"words-{piece}"), self._get(f"places-{piece}")
            run = Rows(self.scratch and self.scratch / f"run-{piece}")
            before = np.empty_like(below)
            before[0], before[1:], last = last, below[:-1], below[-1]
            block, rows = _run_of(words, before, below, self.size, is_last=n == self.order)
            run.append(block)
            runs.append(run)
            self._put(f"places-{piece}", rows)  # rows of the run, for now
        if self.folder is None:
            return runs[0]  # in memory there is one piece
        table = Rows(self.folder / f"order-{n}")
        table.remove()
        merge(runs, table, self.max_tokens)
        for piece, run in enumerate(runs):
            if n < self.order:
                rows = self._get(f"places-{piece}")
                (keys,) = run.read(0, len(run), ("keys",))
                place_of = np.append(places_in(table, keys, self.max_tokens), -1)
                self._put(f"places-{piece}", place_of[rows])  # -1 stays -1
            run.remove()
        return table

    def _put(self, name: str, array: np.ndarray) -> None:
        if self.scratch is None:
            self.shelf[name] = array
        else:
            np.save(self.scratch / f"{name}.npy", array)

    def _get(self, name: str) -> np.ndarray:
        return self.shelf[name] if self.scratch is None else np.load(self.scratch / f"{name}.npy")


def with_starts(ids: np.ndarray, *, at_start: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A text with SOS before each of its sentences, and where its own tokens then stand.

    Args:
      ids: [N].
      at_start: whether the first token begins a sentence.

    Returns:
      int64 [N + number of sentences that begin], and int64 [N].
    """
    begins = np.empty(len(ids), bool)
    begins[:1] = at_start
    begins[1:] = ids[:-1] == EOS
    places = np.arange(len(ids)) + np.cumsum(begins)
    words = np.full(len(ids) + np.count_nonzero(begins), SOS, np.int64)
    words[places] = ids
    return words, places


def check_ids(ids: np.ndarray, size: int) -> None:
    """Refuses what is no text [N] of a vocabulary of `size` ids.

    Raises:
      InputError: not one axis of whole numbers in 0 .. size - 1, or with PAD or SOS among them.
    """
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(
            f"ids must be one axis of whole numbers, got {ids.dtype} {list(ids.shape)}"
        )
    bad = np.flatnonzero((ids < 0) | (ids >= size) | (ids == PAD) | (ids == SOS))
    if len(bad):
        raise InputError(
            f"id {bad[0]} of the text is {ids[bad[0]]}: ids are in 0 .. {size - 1}, and <pad> (0) "
            "and <sos> (2) are no part of a text"
        )


def _pieces(chunks: Iterable[np.ndarray], size: int, max_tokens: int) -> Iterator[np.ndarray]:
    """The text in pieces of `max_tokens` tokens at the most, with SOS before each sentence."""
    at_start = True
    for chunk in chunks:
        check_ids(chunk, size)
        for begin in range(0, len(chunk), max_tokens):
            piece = chunk[begin : begin + max_tokens]
            yield with_starts(piece, at_start=at_start)[0]
            at_start = piece[-1] == EOS


def _run_of(
    words: np.ndarray, before: np.ndarray, below: np.ndarray, size: int, *, is_last: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-grams of a piece, and which of them ends at each place.

    Args:
      words: int64 [m].
      before: place of the (n-1)-gram that ends one word earlier, [m]; -1 for none.
      below: place of the (n-1)-gram that ends here, [m].
      size: of the vocabulary.
      is_last: whether nothing is counted after this order.

    Returns:
      Rows [3, number of n-grams], and [m], -1 where an n-gram would begin before its sentence
      (empty if `is_last`).
    """
    ends = np.flatnonzero((before >= 0) & (words != SOS))
    bound = (int(before.max(initial=0)) + 1) * size
    keys, ends = sort_with(before[ends] * size + words[ends], ends, bound, len(words))
    is_first = firsts(keys)
    starts = np.flatnonzero(is_first)
    block = np.stack([keys[starts], np.diff(starts, append=len(keys)), below[ends[starts]]])
    if is_last:
        return block, np.zeros(0, np.int64)
    rows = np.full(len(words), -1)
    rows[ends] = np.cumsum(is_first) - 1
    return block, rows
