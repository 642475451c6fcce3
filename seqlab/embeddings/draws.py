"""Random draws of word2vec that depend on the seed and the place in the corpus alone.

The draw number n of a stream is a hash of (seed, stream, n), SplitMix64 of Steele et al., 2014: no
state is carried, so any part of a corpus can be drawn for at any time, by any number of threads, in
numpy or compiled, to the same bits, and a run goes on where it stopped.
"""

from typing import NamedTuple

import numpy as np

SUBSAMPLE, RADIUS, NEGATIVE = range(3)  # streams
GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = (1 << 64) - 1


def stream_key(seed: int, epoch: int, stream: int) -> int:
    """The key of one stream of draws, a 64-bit integer."""
    key = 0
    for part in (seed, epoch, stream):
        key = int(hashed(key, np.asarray([part & WORD], np.uint64))[0])
    return key


def hashed(key: int, counters: np.ndarray) -> np.ndarray:
    """64 random bits for each counter, uint64."""
    bits = (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA) + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(SECOND)
    return bits ^ (bits >> np.uint64(31))


def uniform(key: int, counters: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) for each counter, float64."""
    return (hashed(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Noise(NamedTuple):
    """A distribution over words from which a draw takes two look-ups (Walker, 1977; Vose, 1991).

    Attributes:
      keep: uint32 [V], the chance to stay with a word that was hit, times 2^32.
      alias: int32 [V], the word that is taken otherwise.
    """

    keep: np.ndarray
    alias: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray) -> "Noise":
        """The table of a distribution, exact to 2^-32 of a word's share.

        Raises:
          ValueError: a negative or no probability at all.
        """
        weights = np.asarray(probabilities, np.float64)
        if not (weights.size and np.all(weights >= 0) and 0 < weights.sum() < np.inf):
            raise ValueError("noise needs probabilities, at least one of them positive")
        scaled = weights * (len(weights) / weights.sum())
        alias = np.arange(len(weights), dtype=np.int32)
        small = [int(i) for i in np.flatnonzero(scaled < 1.0)]
        large = [int(i) for i in np.flatnonzero(scaled >= 1.0)]
        keep = scaled.copy()
        while small and large:
            poor, rich = small.pop(), large[-1]
            alias[poor] = rich
            keep[rich] -= 1.0 - keep[poor]
            if keep[rich] < 1.0:
                small.append(large.pop())
        for rest in (*small, *large):  # 1 but for rounding
            keep[rest] = 1.0
        return cls(np.minimum(keep * 2.0**32, 2.0**32 - 1).astype(np.uint32), alias)

    def draw(self, key: int, counters: np.ndarray) -> np.ndarray:
        """A word for each counter, int32."""
        bits = hashed(key, counters)
        high = bits >> np.uint64(32)
        hit = (high * np.uint64(len(self.keep)) >> np.uint64(32)).astype(np.int64)
        low = (bits & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        return np.where(low < self.keep[hit], hit, self.alias[hit]).astype(np.int32)
