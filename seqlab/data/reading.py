"""Labelled texts as several nets read them, trained side by side: by seed, or by fold."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from seqlab.data.batching import NetBuckets
from seqlab.data.labelled import Labelled, class_vocabulary, encode_texts
from seqlab.data.vocabulary import SPECIALS, UNK, Vocabulary
from seqlab.errors import InputError


class Net(NamedTuple):
    """One of the nets.

    Attributes:
      rows: which texts it reads in each part, in increasing order.
      seed: of their order in training.
    """

    rows: dict[str, np.ndarray]
    seed: int


class Reading:
    """Batches [B, N, ...] of `NetBuckets`, in which each net knows words of its own."""

    def __init__(
        self,
        ids: Sequence[np.ndarray],
        labels: np.ndarray,
        rows: Sequence[np.ndarray],
        known: np.ndarray,
        **buckets: Any,
    ):
        """Batches of texts.

        Args:
          ids, labels, rows, **buckets: see `NetBuckets`.
          known: [N, V] bool, which tokens each net knows; it reads the others as <unk>.
        """
        self._known = known
        self._buckets = NetBuckets(ids, labels, rows, **buckets)
        self.batches_per_epoch = self._buckets.batches_per_epoch
        self.num_real = self._buckets.num_real

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Batch `number`."""
        batch = self._buckets.batch(number)
        nets = np.arange(len(self._known))[:, None]
        batch["xs"] = np.where(self._known[nets, batch["xs"]], batch["xs"], np.int32(UNK))
        return batch


@dataclass(frozen=True, eq=False)
class Texts:
    """A set as N nets read it.

    Attributes:
      data: the set.
      nets: which of its texts each net reads in each part.
      are_folds: whether every text is tested by one net, and not by all.
      vocabulary: of all that any net knows.
      ids: tokens of every text, int32 [T] each.
      known: [N, V] bool, which tokens a net knows; it reads the others as <unk>.
      num_cut: texts that are longer than what is read of them.
    """

    data: Labelled
    nets: list[Net]
    are_folds: bool
    vocabulary: Vocabulary
    ids: list[np.ndarray]
    known: np.ndarray
    num_cut: int

    @property
    def testers(self) -> list[Net]:
        """The nets whose test parts together hold every tested text once."""
        return self.nets if self.are_folds else self.nets[:1]

    @property
    def tested_rows(self) -> np.ndarray:
        """The texts that are tested, [M]."""
        return np.concatenate([net.rows["test"] for net in self.testers])

    def labels(self, part: str) -> list[np.ndarray]:
        """Labels of the texts that each net reads in a part, [N] each."""
        return [self.data.labels[net.rows[part]] for net in self.nets]

    def over_nets(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One number for each of `tested_rows`, [M]: its net's, or the mean of all nets'.

        Args:
          values: of each net, a number for each text of its test part.
        """
        return np.concatenate(values) if self.are_folds else np.mean(values, axis=0)

    def reading(self, part: str, *, shuffled: bool, **buckets: Any) -> Reading:
        """Batches of a part; `buckets` are the sizes of `NetBuckets`."""
        return Reading(
            self.ids,
            self.data.labels,
            [net.rows[part] for net in self.nets],
            self.known,
            seeds=[net.seed for net in self.nets] if shuffled else None,
            **buckets,
        )


def read_texts(
    data: Labelled,
    *,
    folds: bool,
    num_seeds: int,
    seed: int,
    level: str = "word",
    min_count: int = 1,
    max_size: int | None = None,
    max_length: int | None = None,
    vectors: Container[str] | None = None,
) -> Texts:
    """What each net reads of a set, and the vocabulary.

    A net knows what its own training texts hold `min_count` times, and whatever has a vector.

    Args:
      data: the set.
      folds: a net for each fold of the set, or `num_seeds` nets for its own parts.
      num_seeds: number of nets where there are no folds.
      seed: of the first net; the others have those that follow.
      level, max_size: see `class_vocabulary`.
      min_count: tokens seen less often in training are unknown.
      max_length: tokens that are read of a text, from its beginning; None for all.
      vectors: words that have a vector.

    Raises:
      InputError: folds of a set that has a test part; what `class_vocabulary` raises.
    """
    if folds and not data.num_folds:
        raise InputError(f"{data.name} has a test part of its own: it is not tested in folds")
    if folds:
        nets = [Net(data.fold(k).rows, seed + k) for k in range(data.num_folds)]
    else:
        nets = [Net(data.rows, seed + k) for k in range(num_seeds)]
    if vectors is None:
        rows = np.unique(np.concatenate([net.rows["train"] for net in nets]))
        options: dict[str, Any] = {"min_count": min_count, "max_size": max_size}
    else:
        # A word with a vector is known, wherever it stands: nothing is learnt from the other parts.
        rows, options = np.arange(len(data.texts)), {}
    vocabulary = class_vocabulary(replace(data, rows={"train": rows}), level, **options)
    ids = encode_texts(vocabulary, data.texts, data.cut)
    num_cut = 0 if max_length is None else sum(len(each) > max_length for each in ids)
    ids = [each[:max_length] for each in ids]
    always = np.arange(len(vocabulary)) < len(SPECIALS)
    if vectors is not None:
        always |= np.array([token in vectors for token in vocabulary.tokens])

    def known(net: Net) -> np.ndarray:
        seen = np.concatenate([ids[row] for row in net.rows["train"].tolist()])
        return always | (np.bincount(seen, minlength=len(vocabulary)) >= min_count)

    found = [known(net) for net in nets] if folds else [known(nets[0])] * len(nets)
    return Texts(data, nets, folds, vocabulary, ids, np.stack(found), num_cut)
