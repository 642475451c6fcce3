"""The tree of the hierarchical softmax: frequent words have short ways (Huffman, 1952)."""

import heapq

import numpy as np


def huffman_paths(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The way from the root to every word.

    The sum of count times length over the words is the least that any binary tree has. Ties are
    broken by the order of words, then of joins.

    Args:
      counts: [V], V >= 2.

    Returns:
      (nodes, signs): int32 [V, P] inner nodes from the root, 0 to V - 2 with the root last; float32
      [V, P], 1 and -1 for the two ways out of each, 0 past the end. P is the longest way.

    Raises:
      ValueError: fewer than two words.
    """
    size = len(counts)
    if size < 2:
        raise ValueError(f"a tree needs at least two words, got {size}")
    heap = [(int(count), word) for word, count in enumerate(counts)]
    heapq.heapify(heap)
    above = np.zeros(2 * size - 1, np.int64)
    side = np.zeros(2 * size - 1, np.float32)
    for node in range(size, 2 * size - 1):
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        above[left] = above[right] = node
        side[left], side[right] = 1.0, -1.0
        heapq.heappush(heap, (first + second, node))
    ways = []
    for word in range(size):
        way, at = [], word
        while at != 2 * size - 2:
            way.append((above[at] - size, side[at]))
            at = above[at]
        ways.append(way[::-1])
    longest = max(map(len, ways))
    nodes = np.zeros((size, longest), np.int32)
    signs = np.zeros((size, longest), np.float32)
    for word, way in enumerate(ways):
        nodes[word, : len(way)] = [node for node, _ in way]
        signs[word, : len(way)] = [sign for _, sign in way]
    return nodes, signs
