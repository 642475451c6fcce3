"""Tasks made to ask for memory over many steps: adding, copy memory, temporal order; and a text.

Each has several published versions that are not comparable; the name of the version belongs beside
every result. Positions count from 0; T/2 and T/10 are rounded down where they are not whole.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from seqlab.data.checks import check_at_least, check_known
from seqlab.data.vocabulary import EOS, SPECIALS
from seqlab.errors import InputError

PIECE_TOKENS = 1 << 20  # of a generated text, at a time
COPY_LENGTH = 10  # symbols to be copied
COPY_BLANK = 0
COPY_DELIMITER = 9

ADDING_VERSIONS = ("arjovsky", "hs97", "pascanu")
TEMPORAL_ORDER_CLASSES = {"pascanu": 4, "pascanu_3bit": 8, "hs97_6a": 4, "hs97_6b": 8}
PASCANU_MARKS = {  # tenths of the length at which each mark's tenth begins
    "pascanu": (1, 5),
    "pascanu_3bit": (1, 3, 6),
}
HS97_LENGTHS = (100, 110)  # shortest and longest sequence of the temporal order task
HS97_MARKS = {  # first and last possible position of each mark
    "hs97_6a": ((10, 20), (50, 60)),
    "hs97_6b": ((10, 20), (33, 43), (66, 76)),
}


class Task(NamedTuple):
    """A batch of sequences.

    Attributes:
      xs: inputs, float32 [B, T, D]; zero where masked.
      targets: what is to be answered; see the function that made it.
      mask: [B, T] bool, True where real. Padding comes after the end.
    """

    xs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


def adding(
    rng: np.random.Generator, batch_size: int, num_steps: int, version: str = "arjovsky"
) -> Task:
    """Adding problem: the sum of the two marked numbers, to be given at the end.

    The inputs are a value and a marker, D = 2 in this order for every version (Pascanu's code has
    them the other way round). The targets are float32 [B, 1].

    * "arjovsky", today's standard: values U[0, 1); one mark in the first half, one in the second,
      each uniform; target x1 + x2; length T.
    * "hs97": values U[-1, 1); marker -1 on the first and the last pair. X1 is marked among the
      first 10 pairs, X2 among the first T/2 - 1 pairs that are then unmarked, both with marker 1;
      target 0.5 + (X1 + X2)/4; length uniform in T .. T + T/10, padded to the longest. A mark that
      falls on the first pair, which keeps its marker -1, makes that pair's value 0 (the paper says
      so of X1): the target is then still a function of the input.
    * "pascanu": values U[0, 1); of each row's own length l, one mark in the first l/10 and one in
      l/10 .. l/2; target (x1 + x2)/2; length uniform in T .. T + T/10 - 1, padded to the longest
      (the authors' code draws one length a batch).

    Args:
      rng: source of the numbers.
      batch_size: B.
      num_steps: T above; at least 2 ("arjovsky"), 11 ("hs97"), 10 ("pascanu").
      version: one of `ADDING_VERSIONS`.

    Raises:
      InputError: unknown version, empty batch, or T too small for the version.

    References: Hochreiter and Schmidhuber, 1997, experiment 4; Pascanu et al., 2013, and
      `addition.py` of their code; Arjovsky et al., 2016, and `adding_problem.py` of theirs.
    """
    check_known(version, ADDING_VERSIONS, "version")
    check_at_least(batch_size, 1, "batch_size")
    shortest = {"arjovsky": 2, "hs97": 11, "pascanu": 10}[version]
    check_at_least(num_steps, shortest, "num_steps", f"adding problem, version {version}")
    if version == "hs97":
        return _adding_hs97(rng, batch_size, num_steps)
    if version == "pascanu":
        return _adding_pascanu(rng, batch_size, num_steps)
    values = rng.random((batch_size, num_steps))
    lengths = np.full(batch_size, num_steps)
    first = rng.integers(num_steps // 2, size=batch_size)
    second = rng.integers(num_steps // 2, num_steps, size=batch_size)
    marks = _marks(values.shape, first, second)
    return _adding_task(values, marks, lengths, np.sum(values * marks, axis=1))


def adding_baseline(version: str = "arjovsky", num_steps: int | None = None) -> float:
    """Mean squared error of the best constant answer: 1/6 ("arjovsky") or 1/24 (the others).

    The constant is 1 ("arjovsky") or 0.5, and the error is the variance of the target.

    Args:
      version: one of `ADDING_VERSIONS`.
      num_steps: T. With it, "hs97" takes into account that a mark on the first pair counts as 0,
        which makes the variance (2 - 1/10 - 0.9/(T/2 - 1))/48, 0.0392 at T = 100.

    Raises:
      InputError: an unknown version, or too few steps for it.

    References: as of `adding`.
    """
    check_known(version, ADDING_VERSIONS, "version")
    if version == "arjovsky":
        return 1 / 6
    if version == "hs97" and num_steps is not None:
        check_at_least(num_steps, 11, "num_steps", "adding problem, version hs97")
        return (2 - 0.1 - 0.9 / (num_steps // 2 - 1)) / 48
    return 1 / 24


def adding_correct(predictions: np.ndarray, targets: np.ndarray, criterion: str) -> np.ndarray:
    """Which sequences count as solved, bool [...], from predictions and targets [...].

    "hs97": |error| < 0.04. "pascanu": error^2 <= 0.04, five times as wide. The best constant answer
    fails on 84.64 % and 36 % of sequences with two values that count (hs97 with its values at 0: a
    little less). Published for targets of variance 1/24; name the criterion beside the result.

    Raises:
      InputError: an unknown criterion.
      ValueError: predictions and targets of different shapes.

    References: Hochreiter and Schmidhuber, 1997 ("hs97"); Pascanu et al., 2013 ("pascanu").
    """
    check_known(criterion, ("hs97", "pascanu"), "criterion")
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    if predictions.shape != targets.shape:
        raise ValueError(f"predictions have shape {predictions.shape}, targets {targets.shape}")
    errors = predictions - targets
    return np.abs(errors) < 0.04 if criterion == "hs97" else np.square(errors) <= 0.04


def copy_memory(rng: np.random.Generator, batch_size: int, delay: int) -> Task:
    """Copy memory: say ten symbols again, T steps later.

    Inputs, one-hot with D = 10 over T + 20 steps: 10 symbols out of 1 .. 8, T - 1 blanks (0), one
    delimiter (9), 10 blanks. Targets, int32 [B, T + 20], classes 0 .. 8: T + 10 blanks, then the 10
    symbols. The loss is the mean cross-entropy over all steps; report the accuracy on the last
    `COPY_LENGTH` steps too (chance 1/8), since the mean flatters a long T.

    Args:
      rng: source of the symbols.
      batch_size: B.
      delay: T above, from the last symbol to the delimiter; at least 1.

    Raises:
      InputError: an empty batch or no delay.

    References: Arjovsky et al., 2016, section 5, and `memory_problem.py` of their code.
    """
    check_at_least(batch_size, 1, "batch_size")
    check_at_least(delay, 1, "delay", "copy memory")
    symbols = rng.integers(1, COPY_DELIMITER, size=(batch_size, COPY_LENGTH))
    inputs = np.full((batch_size, delay + 2 * COPY_LENGTH), COPY_BLANK)
    targets = np.full_like(inputs, COPY_BLANK, dtype=np.int32)
    inputs[:, :COPY_LENGTH] = symbols
    inputs[:, COPY_LENGTH + delay - 1] = COPY_DELIMITER
    targets[:, -COPY_LENGTH:] = symbols
    return Task(_one_hot(inputs, 10), targets, np.ones(inputs.shape, dtype=bool))


def copy_memory_baseline(delay: int) -> float:
    """Mean cross-entropy in nats of the best answer without memory: 10 ln 8/(T + 20).

    It says blank until the delimiter and then each of the 8 symbols with equal probability.

    References: Arjovsky et al., 2016, section 5.
    """
    return COPY_LENGTH * math.log(8) / (delay + 2 * COPY_LENGTH)


def temporal_order(
    rng: np.random.Generator,
    batch_size: int,
    num_steps: int | None = None,
    version: str = "pascanu",
) -> Task:
    """Temporal order: which of two symbols stood at each of the marked places, in which order.

    Inputs are one-hot, targets int32 [B], a class.

    * "pascanu": symbols A B c d e f, D = 6; A or B at a place in L/10 .. 2L/10 - 1 and at one in
      L/2 .. L/2 + L/10 - 1, elsewhere one of c d e f; class v0 + 2 v1 with A = 0, B = 1; length L.
    * "pascanu_3bit": the same with three marks, each in the tenth of L that begins at L/10, 3L/10
      and 6L/10; class v0 + 2 v1 + 4 v2.
    * "hs97_6a": symbols E a b c d X Y B, D = 8; E at 0, B at the end, X or Y at t1 in 10 .. 20 and
      t2 in 50 .. 60, elsewhere one of a b c d; classes XX XY YX YY; length 100 .. 110.
    * "hs97_6b": the same with t1 in 10 .. 20, t2 in 33 .. 43, t3 in 66 .. 76; classes XXX XXY XYX
      XYY YXX YXY YYX YYY.

    Those of 1997 are padded to 110 steps.

    Args:
      rng: source of the symbols.
      batch_size: B.
      num_steps: L, at least 10; those of 1997 have their lengths by definition: None or 100. None
        is 100.
      version: a key of `TEMPORAL_ORDER_CLASSES`.

    Raises:
      InputError: unknown version, empty batch, or a length the version does not have.

    References: Hochreiter and Schmidhuber, 1997, experiments 6a and 6b; Pascanu et al., 2013, and
      `tempOrder.py` and `tempOrder3bit.py` of their code.
    """
    check_known(version, TEMPORAL_ORDER_CLASSES, "version")
    check_at_least(batch_size, 1, "batch_size")
    num_steps = HS97_LENGTHS[0] if num_steps is None else num_steps
    if version in HS97_MARKS:
        if num_steps != HS97_LENGTHS[0]:
            raise InputError(
                f"num_steps must be {HS97_LENGTHS[0]} (temporal order, version {version}, has "
                f"lengths {HS97_LENGTHS[0]} to {HS97_LENGTHS[1]} by definition), got {num_steps}"
            )
        return _temporal_order_hs97(rng, batch_size, HS97_MARKS[version])
    check_at_least(num_steps, 10, "num_steps", f"temporal order, version {version}")
    tenths = PASCANU_MARKS[version]
    tenth, rows = num_steps // 10, np.arange(batch_size)
    symbols = rng.integers(2, 6, size=(batch_size, num_steps))
    marks = rng.integers(2, size=(batch_size, len(tenths)))
    for k, start in enumerate(tenths):
        first = start * num_steps // 10
        symbols[rows, rng.integers(first, first + tenth, size=batch_size)] = marks[:, k]
    targets = (marks @ (1 << np.arange(len(tenths)))).astype(np.int32)
    return Task(_one_hot(symbols, 6), targets, np.ones(symbols.shape, dtype=bool))


def temporal_order_chance(version: str = "pascanu") -> float:
    """Accuracy of a guess: 1/4, or 1/8 with three marks.

    Raises:
      InputError: an unknown version.

    References: as of `temporal_order`.
    """
    check_known(version, TEMPORAL_ORDER_CLASSES, "version")
    return 1 / TEMPORAL_ORDER_CLASSES[version]


def temporal_order_correct(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which sequences count as solved in the sense of 1997: every |output error| < 0.3; bool [B].

    Args:
      outputs: one output in 0 .. 1 a class, [B, C].
      targets: classes, [B].

    Raises:
      ValueError: outputs that are not one a class for every target.

    References: Hochreiter and Schmidhuber, 1997, experiments 6a and 6b.
    """
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if outputs.shape[:-1] != targets.shape:
        raise ValueError(f"outputs have shape {outputs.shape}, targets {targets.shape}")
    errors = outputs - _one_hot(targets, outputs.shape[-1])
    return np.all(np.abs(errors) < 0.3, axis=-1)


def zipf_phrases(num_tokens: int, vocab_size: int, seed: int) -> Iterator[np.ndarray]:
    """A text of word ids, int32, in pieces [N] of a million, that is made as it is read.

    4 V phrases of two to six words stand in a row. Words within phrases, and phrases within the
    text, are drawn by p(rank r) proportional to 1 / (r + 2.7): n-grams come again as in a real
    text. Every twentieth token of a piece, and its last, is <eos>.

    References: Mandelbrot, 1953 (the law of ranks).
    """
    rng = np.random.default_rng(seed)

    def zipf(count, size):
        weights = np.cumsum(1 / (np.arange(size) + 2.7))
        return np.searchsorted(weights, rng.random(count) * weights[-1])

    num_phrases = 4 * vocab_size
    bank = zipf(6 * num_phrases, vocab_size).reshape(num_phrases, 6) + len(SPECIALS)
    lengths = rng.integers(2, 7, num_phrases)
    is_word = np.arange(6) < lengths[:, None]
    while num_tokens > 0:
        chosen = zipf(PIECE_TOKENS // 4, num_phrases)
        words = bank[chosen][is_word[chosen]][: min(num_tokens, PIECE_TOKENS)]
        words[19::20] = EOS
        words[-1] = EOS
        num_tokens -= len(words)
        yield words.astype(np.int32)


def _adding_hs97(rng, batch_size, num_steps):
    """`adding` of 1997."""
    longest = num_steps + num_steps // 10
    values = rng.uniform(-1.0, 1.0, (batch_size, longest))
    lengths = rng.integers(num_steps, longest, size=batch_size, endpoint=True)
    first = rng.integers(10, size=batch_size)
    second = rng.integers(num_steps // 2 - 1, size=batch_size)
    second = second + (second >= first)  # the pairs then unmarked, counted past the marked one
    values[(first == 0) | (second == 0), 0] = 0.0
    marks = _marks(values.shape, first, second)
    targets = 0.5 + np.sum(values * marks, axis=1) / 4
    marks[:, 0] = -1.0
    marks[np.arange(batch_size), lengths - 1] = -1.0
    return _adding_task(values, marks, lengths, targets)


def _adding_pascanu(rng, batch_size, num_steps):
    """`adding` of Pascanu et al."""
    longest = num_steps + num_steps // 10 - 1
    values = rng.random((batch_size, longest))
    lengths = rng.integers(num_steps, longest, size=batch_size, endpoint=True)
    first = rng.integers(lengths // 10)
    second = lengths // 10 + rng.integers(4 * lengths // 10)
    marks = _marks(values.shape, first, second)
    return _adding_task(values, marks, lengths, np.sum(values * marks, axis=1) / 2)


def _marks(shape, first, second):
    """Ones at two places of every row, [B, T], zero elsewhere."""
    rows, marks = np.arange(shape[0]), np.zeros(shape)
    marks[rows, first] = 1.0
    marks[rows, second] = 1.0
    return marks


def _adding_task(values, marks, lengths, targets):
    """Joins values and markers [B, T], cuts rows off at their lengths [B], and casts."""
    mask = np.arange(values.shape[1]) < lengths[:, None]
    xs = np.where(mask[..., None], np.stack([values, marks], axis=-1), 0.0)
    return Task(xs.astype(np.float32), targets[:, None].astype(np.float32), mask)


def _temporal_order_hs97(rng, batch_size, mark_ranges):
    """`temporal_order` of 1997: symbols E a b c d X Y B are 0 .. 7."""
    shortest, longest = HS97_LENGTHS
    rows = np.arange(batch_size)
    lengths = rng.integers(shortest, longest, size=batch_size, endpoint=True)
    symbols = rng.integers(1, 5, size=(batch_size, longest))
    targets = np.zeros(batch_size, dtype=np.int32)
    for low, high in mark_ranges:
        marks = rng.integers(2, size=batch_size)
        symbols[rows, rng.integers(low, high, size=batch_size, endpoint=True)] = 5 + marks
        targets = 2 * targets + marks.astype(np.int32)
    symbols[:, 0] = 0
    symbols[rows, lengths - 1] = 7
    mask = np.arange(longest) < lengths[:, None]
    return Task(_one_hot(symbols, 8) * mask[..., None].astype(np.float32), targets, mask)


def _one_hot(ids, size):
    """One-hot rows, float32 [..., size]."""
    return np.eye(size, dtype=np.float32)[ids]
