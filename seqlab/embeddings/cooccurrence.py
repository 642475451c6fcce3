"""Co-occurrence counts of a corpus of any length: X[i, j], how near and how often j stands by i.

Counts are added up as whole numbers, so they depend on neither the chunks that the corpus comes in
nor on what was held in memory, to the last bit. The file is a header of 4096 bytes (JSON, blanks,
a line end) and the records after it, sorted by i, then j.
"""

import hashlib
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from seqlab.data.checks import check_at_least, check_known
from seqlab.errors import InputError

RECORD = np.dtype([("i", "<i4"), ("j", "<i4"), ("count", "<f8")])
KIND = "seqlab co-occurrences 1"
WEIGHTINGS = ("distance", "flat")
_HEADER_BYTES = 4096
_LARGEST_SCALE = 2**31
_RECORDS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Cooccurrences:
    """Non-zero counts of word pairs, sorted by i, then j, each pair once.

    Attributes:
      records: [N] of dtype RECORD; mapped from the file, not read, where they come from one.
      vocab_size: V; i and j are in 0 .. V - 1.
      total: the sum of all counts.
      settings: window, weighting and so on, as they were counted; empty if they were given.
    """

    records: np.ndarray
    vocab_size: int
    total: float
    settings: dict[str, Any]

    def __len__(self) -> int:
        """N, the number of pairs with a count."""
        return len(self.records)

    @classmethod
    def of(cls, matrix: Any) -> "Cooccurrences":
        """Counts from a square matrix [V, V], dense or scipy's sparse; zeros are no entries.

        Raises:
          InputError: not square, without an entry, or with one that is negative or not finite.
        """
        found: Any = sparse.coo_array(matrix)
        if len(found.shape) != 2 or found.shape[0] != found.shape[1]:
            raise InputError(f"counts must be a square matrix, got {list(found.shape)}")
        found.sum_duplicates()
        order = np.lexsort((found.col, found.row))
        order = order[found.data[order] != 0]
        if not len(order):
            raise InputError("counts are all 0: there is nothing to learn from")
        records = np.empty(len(order), RECORD)
        records["i"], records["j"] = found.row[order], found.col[order]
        records["count"] = found.data[order]
        bad = np.flatnonzero(~(np.isfinite(records["count"]) & (records["count"] > 0)))
        if len(bad):
            i, j, count = records[bad[0]]
            raise InputError(f"counts[{i}, {j}] is {count}: a count is above 0 and finite")
        return cls(records, found.shape[0], math.fsum(records["count"]), {})

    @classmethod
    def open(cls, path: Path | str, *, check_hash: bool = True) -> "Cooccurrences":
        """Counts from a file of `count_cooccurrences`.

        Args:
          path: the file.
          check_hash: whether all of it is read once, to hold it to the sha256 in its header; size
            and header are always checked.

        Raises:
          InputError: a file that cannot be read, is of another kind or length, or was changed.
        """
        path = Path(path)
        header = _read_header(path)
        expected = _HEADER_BYTES + header["num_records"] * RECORD.itemsize
        found = path.stat().st_size
        if found != expected:
            what = "is truncated" if found < expected else "has grown"
            raise InputError(
                f"{path} {what}: {found} bytes, {expected} expected for {header['num_records']} "
                "records; count again"
            )
        if check_hash and _records_sha256(path) != header["sha256"]:
            raise InputError(f"{path}: the records are not those of its header; count again")
        records = np.memmap(path, RECORD, "r", offset=_HEADER_BYTES)
        settings = {key: header[key] for key in ("window", "weighting", "symmetric", "num_words")}
        return cls(records, header["vocab_size"], header["total"], settings)

    def matrix(self) -> sparse.csr_array:
        """All counts as a sparse matrix [V, V] of float64, in memory."""
        places = (self.records["i"], self.records["j"])
        shape = (self.vocab_size, self.vocab_size)
        return sparse.coo_array((self.records["count"], places), shape).tocsr()


def count_cooccurrences(
    chunks: Iterable[np.ndarray],
    path: Path | str,
    *,
    vocab_size: int,
    window: int = 10,
    weighting: str = "distance",
    symmetric: bool = True,
    max_entries: int = 2**24,
    folder: Path | str | None = None,
) -> Cooccurrences:
    """Counts a corpus into a file that is there whole or not at all, and opens it.

        X[i, j] = sum over places s of i and t of j in one sentence with 1 <= s - t <= window
                  of 1 / (s - t), or of 1 where flat

    is what stands to the left; where symmetric, what stands to the right is added, so that X is its
    own transpose and a word beside itself counts from both sides. A weight 1 / d is taken as the
    whole number scale / d with scale = lcm(1 .. window), exact up to window 22; above that scale is
    2^31 and a weight is off by 2^-32 at most. The counts are the float64 nearest to sum / scale.

    Memory: 16 bytes for each of `max_entries` pairs, and several times that for a moment where they
    are put in order. Above it sorted runs go to a temporary folder and are merged at the end.

    Args:
      chunks: int32 [n] each, word ids in 0 .. vocab_size - 1, -1 where a sentence ends. A sentence
        may go on in the next chunk.
      path: the file to be made.
      vocab_size: V.
      window: the farthest distance that counts, in words.
      weighting: "distance" (1 / d) or "flat".
      symmetric: whether the words to the right count as those to the left.
      max_entries: pairs held in memory, at least 2 * window.
      folder: where the runs go; None for the folder of `path`.

    Raises:
      InputError: an argument or id out of range, no pair at all, a corpus whose sums leave int64,
        or files that cannot be written.

    References: Pennington et al., 2014, sections 3 and 4.2.
    """
    check_at_least(vocab_size, 1, "vocab_size")
    check_at_least(window, 1, "window")
    check_at_least(max_entries, 2 * window, "max_entries", "2 * window")
    check_known(weighting, WEIGHTINGS, "weighting")
    if vocab_size**2 > np.iinfo(np.int64).max // window:
        raise InputError(f"vocab_size {vocab_size} is too large: pairs must fit in 63 bits")
    path = Path(path)
    weights, scale = _weights(window, weighting)
    num_words = [0]
    try:
        with tempfile.TemporaryDirectory(prefix="runs-", dir=folder or path.parent) as runs:
            table = _Table(Path(runs), max_entries)
            pieces = _pieces(chunks, vocab_size, window, max_entries, num_words)
            for ids, first in pieces:
                table.add(*_pairs_of(ids, first, vocab_size, weights, symmetric))
            header = {
                "kind": KIND, "vocab_size": vocab_size, "window": window, "weighting": weighting,
                "symmetric": symmetric, "num_words": num_words[0],
                "total": table.total / scale,
            }  # fmt: skip
            if not table.total:
                raise InputError(
                    f"{num_words[0]} words, and no two in one sentence: nothing to count"
                )
            _write(path, header, table.merged(), vocab_size, scale)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or path}: {error.strerror}") from error
    return Cooccurrences.open(path, check_hash=False)


def _weights(window: int, weighting: str) -> tuple[np.ndarray, int]:
    """Whole-number weights of distances 1 .. window, [window], and what 1 is among them."""
    if weighting == "flat":
        return np.ones(window, np.int64), 1
    scale = min(math.lcm(*range(1, window + 1)), _LARGEST_SCALE)
    return np.array([round(scale / d) for d in range(1, window + 1)], np.int64), scale


def _pieces(
    chunks: Iterable[np.ndarray], vocab_size: int, window: int, max_entries: int, num_words: list
) -> Iterator[tuple[np.ndarray, int]]:
    """(ids, first): the corpus in pieces; the ids before `first` are the last of the piece before.

    A piece is short enough to have no more pairs than may be held.
    """
    length = max(1, min(max_entries // (2 * window), _RECORDS_AT_ONCE // window))
    before = np.zeros(0, np.int64)
    start = 0
    for number, chunk in enumerate(chunks):
        chunk = np.asarray(chunk)
        if chunk.ndim != 1 or chunk.dtype.kind not in "iu":
            raise InputError(
                f"chunk {number} must be one axis of whole numbers, got {chunk.dtype} "
                f"{list(chunk.shape)}"
            )
        bad = np.flatnonzero((chunk < -1) | (chunk >= vocab_size))
        if len(bad):
            raise InputError(
                f"id {start + bad[0]} of the corpus is {chunk[bad[0]]}: ids are in "
                f"0 .. {vocab_size - 1}, or -1 where a sentence ends"
            )
        start += len(chunk)
        num_words[0] += int(np.count_nonzero(chunk >= 0))
        for begin in range(0, len(chunk), length):
            piece = chunk[begin : begin + length].astype(np.int64)
            ids = np.concatenate([before, piece])
            yield ids, len(before)
            before = ids[-window:]


def _pairs_of(
    ids: np.ndarray, first: int, vocab_size: int, weights: np.ndarray, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted pairs i * V + j of a piece and the sums of their weights, both int64."""
    window = len(weights)
    sentence = np.cumsum(ids < 0)
    found = []
    for d in range(1, window + 1):
        # The right-hand word lies in this piece: what lies before it was counted with the last one.
        right = np.arange(max(first, d), len(ids))
        left = right - d
        together = (ids[right] >= 0) & (ids[left] >= 0) & (sentence[left] == sentence[right])
        here, there = ids[right[together]], ids[left[together]]
        # The distance rides below the pair, so that one sort of numbers puts both in order.
        found.append((here * vocab_size + there) * window + (d - 1))
        if symmetric:
            found.append((there * vocab_size + here) * window + (d - 1))
    packed = np.sort(np.concatenate(found))
    pairs = packed // window
    return _summed(pairs, weights[packed - pairs * window])


def _summed(pairs: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of the sorted pairs once, with the sum of what stood at it."""
    if not len(pairs):
        return pairs, sums
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    return pairs[starts], np.add.reduceat(sums, starts)


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Several sorted tables as one."""
    pairs = np.concatenate([pairs for pairs, _ in parts])
    sums = np.concatenate([sums for _, sums in parts])
    order = np.argsort(pairs, kind="stable")  # a merge sort, quick on sorted stretches
    return _summed(pairs[order], sums[order])


class _Table:
    """Sums by pair: sorted parts in memory, and on disk the runs for which there was no room."""

    def __init__(self, folder: Path, max_entries: int):
        self.folder, self.max_entries = folder, max_entries
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []
        self.runs: list[Path] = []
        self.total = 0  # of Python's numbers, which have no end

    def add(self, pairs: np.ndarray, sums: np.ndarray) -> None:
        """Takes sorted pairs, none twice, no more than `max_entries` of them."""
        self.total += int(sums.sum())
        if self.total > np.iinfo(np.int64).max:
            raise InputError("the corpus is too large for exact sums: choose a smaller window")
        if self._held() + len(pairs) > self.max_entries:
            self.parts = [_merge(self.parts)]
            # Half full of distinct pairs, it would soon be merged again and to little gain.
            if self._held() + len(pairs) > self.max_entries or 2 * self._held() > self.max_entries:
                self._spill()
        self.parts.append((pairs, sums))

    def merged(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All pairs in order, in blocks of sorted pairs and sums."""
        if not self.runs:
            yield _merge(self.parts)
            return
        self.parts = [_merge(self.parts)]
        self._spill()
        runs = [np.load(path, mmap_mode="r") for path in self.runs]
        places = [0] * len(runs)
        length = max(1, self.max_entries // len(runs))
        while any(place < run.shape[1] for run, place in zip(runs, places, strict=True)):
            blocks = [
                np.asarray(run[:, place : place + length])
                for run, place in zip(runs, places, strict=True)
            ]
            # Up to the least of the blocks' ends every run is in memory.
            end = min(block[0, -1] for block in blocks if block.size)
            parts = []
            for k, block in enumerate(blocks):
                count = int(np.searchsorted(block[0], end, side="right"))
                parts.append((block[0, :count], block[1, :count]))
                places[k] += count
            yield _merge(parts)

    def _held(self) -> int:
        return sum(len(pairs) for pairs, _ in self.parts)

    def _spill(self) -> None:
        path = self.folder / f"{len(self.runs)}.npy"
        np.save(path, np.stack(self.parts[0]))
        self.runs.append(path)
        self.parts = []


def _write(
    path: Path,
    header: dict[str, Any],
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    vocab_size: int,
    scale: int,
) -> None:
    """Writes header and records under another name, then gives the file its own."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    digest, count = hashlib.sha256(), 0
    try:
        with partial.open("xb") as file:
            file.write(b" " * _HEADER_BYTES)
            for pairs, sums in blocks:
                for at in range(0, len(pairs), _RECORDS_AT_ONCE):
                    some = slice(at, at + _RECORDS_AT_ONCE)
                    records = np.empty(len(pairs[some]), RECORD)
                    records["i"], records["j"] = np.divmod(pairs[some], vocab_size)
                    records["count"] = sums[some] / scale
                    digest.update(records.data)
                    file.write(records.data)
                    count += len(records)
            text = json.dumps({**header, "num_records": count, "sha256": digest.hexdigest()})
            file.seek(0)
            file.write(text.ljust(_HEADER_BYTES - 1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            line = file.read(_HEADER_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    other = InputError(f"{path}: not a file of co-occurrences, or its first {_HEADER_BYTES} bytes "
                       "are damaged; count again")  # fmt: skip
    try:
        header = json.loads(line)
    except ValueError:
        raise other from None
    if len(line) != _HEADER_BYTES or not isinstance(header, dict) or header.get("kind") != KIND:
        raise other
    return header


def _records_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(_HEADER_BYTES)
        while block := file.read(_RECORDS_AT_ONCE * RECORD.itemsize):
            digest.update(block)
    return digest.hexdigest()
