"""Sorted rows of whole numbers, in memory or on disk: made, merged and searched.

A row is a key, a count and a suffix. Rows stand in the order of their keys, and no key twice.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

BITS = 63  # of an int64 that is not negative
COLUMNS = ("keys", "counts", "suffixes")


class Rows:
    """Rows as three columns, int64 [3, n]; a file a column where there is a path.

    Files are read by the piece and not mapped: pages of a mapped file count as memory in use until
    the system wants them back.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.num_rows = 0
        self._blocks: list[np.ndarray] = []

    def __len__(self) -> int:
        """n."""
        return self.num_rows

    def append(self, block: np.ndarray) -> None:
        """Adds rows [3, m] behind what is there."""
        self.num_rows += block.shape[1]
        if self.path is None:
            self._blocks.append(block)
            return
        for name, column in zip(COLUMNS, block, strict=True):
            with self._file(name).open("ab") as file:
                file.write(np.ascontiguousarray(column).data)

    def read(self, start: int, stop: int, columns: Sequence[str] = COLUMNS) -> np.ndarray:
        """Some rows of some columns, [columns, stop - start]."""
        if self.path is None:
            chosen = [COLUMNS.index(name) for name in columns]
            return self._whole()[chosen, start:stop]
        found = [
            np.fromfile(self._file(name), np.int64, max(stop - start, 0), offset=8 * start)
            for name in columns
        ]
        return np.stack(found)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, counts and suffixes, [n] each; mapped from the files if there are any."""
        if self.path is None:
            keys, counts, suffixes = self._whole()
        elif not len(self):
            keys, counts, suffixes = np.zeros((3, 0), np.int64)
        else:
            keys, counts, suffixes = (
                np.memmap(self._file(name), np.int64, "r") for name in COLUMNS
            )
        return keys, counts, suffixes

    def remove(self) -> None:
        """Deletes what there is."""
        self.num_rows = 0
        self._blocks = []
        if self.path is not None:
            for name in COLUMNS:
                self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}-{name}.i64")

    def _whole(self) -> np.ndarray:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.zeros((3, 0), np.int64), *self._blocks], axis=1)]
        return self._blocks[0]


def sort_with(
    keys: np.ndarray, places: np.ndarray, key_bound: int, place_bound: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keys in order, each with its place; equal keys in the order of their places.

    NumPy sorts numbers several times faster than it finds the order of numbers, so key and place
    travel as one number where 63 bits hold both.

    Args:
      keys: int64 [n] in 0 .. key_bound - 1.
      places: int64 [n] in 0 .. place_bound - 1, rising.
      key_bound, place_bound: what both are below.
    """
    shift = (place_bound - 1).bit_length()
    if (key_bound - 1).bit_length() + shift > BITS:
        order = np.argsort(keys, kind="stable")
        return keys[order], places[order]
    packed = (keys << shift) | places
    packed.sort()
    places = packed & ((1 << shift) - 1)
    packed >>= shift
    return packed, places


def firsts(sorted_keys: np.ndarray) -> np.ndarray:
    """Whether each of the sorted keys is the first of its kind, bool [n]."""
    is_first = np.ones(len(sorted_keys), bool)
    np.not_equal(sorted_keys[1:], sorted_keys[:-1], out=is_first[1:])
    return is_first


def find(sorted_keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Place of each wanted key in a sorted array, -1 where it is not there; [n]."""
    if not len(sorted_keys):
        return np.full(len(wanted), -1)
    # In order, since a search that jumps about a large array waits for memory at every step.
    order = np.argsort(wanted)
    places = np.empty(len(wanted), np.int64)
    places[order] = np.searchsorted(sorted_keys, wanted[order])
    places[places == len(sorted_keys)] = 0
    return np.where(sorted_keys[places] == wanted, places, -1)


def merge(runs: list[Rows], into: Rows, max_rows: int) -> None:
    """Appends the rows of all runs in order, the counts of equal keys added up.

    No more than about `max_rows` rows are held at a time.
    """
    done = [0] * len(runs)
    length = max(1, max_rows // max(1, len(runs)))
    while any(at < len(run) for at, run in zip(done, runs, strict=True)):
        blocks = [
            run.read(at, min(at + length, len(run))) for run, at in zip(runs, done, strict=True)
        ]
        # Up to the least of the blocks' ends every run is in memory.
        end = min(block[0, -1] for block in blocks if block.size)
        parts = []
        for k, block in enumerate(blocks):
            count = int(np.searchsorted(block[0], end, side="right"))
            parts.append(block[:, :count])
            done[k] += count
        into.append(_summed(np.concatenate(parts, axis=1)))


def places_in(table: Rows, sorted_keys: np.ndarray, max_rows: int) -> np.ndarray:
    """Place of each of the sorted keys in a table that has them all, [n]."""
    places = np.empty(len(sorted_keys), np.int64)
    done = 0
    for start in range(0, len(table), max_rows):
        (keys,) = table.read(start, min(start + max_rows, len(table)), ("keys",))
        until = int(np.searchsorted(sorted_keys, keys[-1], side="right"))
        places[done:until] = start + np.searchsorted(keys, sorted_keys[done:until])
        done = until
    return places


def _summed(rows: np.ndarray) -> np.ndarray:
    """Rows [3, n] in order, each key once: counts are added, and equal keys have equal suffixes."""
    order = np.argsort(rows[0], kind="stable")  # a merge sort, quick on sorted stretches
    keys, counts, suffixes = rows[:, order]
    starts = np.flatnonzero(firsts(keys))
    return np.stack([keys[starts], np.add.reduceat(counts, starts), suffixes[starts]])
