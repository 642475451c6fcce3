"""GloVe: word vectors whose inner products are the logarithms of co-occurrence counts.

    J = sum over entries with X_ij > 0 of f(X_ij) (w_i . c_j + b_i + b~_j - log X_ij)^2
    f(x) = min(1, (x / x_max)^alpha)

The loss that is reported is J / N, N entries. What is descended is J / 2, as in the program of the
authors: the gradient by w_i of an entry is f diff c_j. Every entry makes its own AdaGrad step:

    w -= learning_rate g / sqrt(G)     then     G += g^2     for w_i, b_i, c_j, b~_j alike

The paper says AdaGrad of rate 0.05; its authors' program keeps squares of 0.05 g, from 1. That is
learning_rate 1 and accumulators from 1 / 0.05^2, the defaults here. Squares of g itself, from 1,
are `GloVe(learning_rate=0.05, accumulators=1.0)`: its steps begin alike and shrink sooner, and its
vectors of IMDB's text are poorer after as many epochs.
Here nothing is clipped; later versions of it clip g to +-100 and leave the learning rate out of the
steps of the biases.

Two forms walk the entries. "numba" (extra `fast`) is a compiled loop, entry by entry, on the cores
of a processor. "jax" takes batches, whose entries all see the tables as they were before it and
whose steps are added up; of batches of one entry it is the same algorithm. It runs on one device.
On a processor its scatters make it several times slower; on a GPU their order, and with it the last
bits, may differ from run to run unless XLA is told --xla_gpu_deterministic_ops.

References: Pennington et al., 2014, section 3; Duchi et al., 2011 (AdaGrad).
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.embeddings.cooccurrence import Cooccurrences
from seqlab.errors import InputError
from seqlab.types import Array

ENTRY = np.dtype([("i", "<i4"), ("j", "<i4"), ("log", "<f4"), ("weight", "<f4")])
PATHS = ("auto", "numba", "jax")
SIDES = ("sum", "word", "context", "both")
_PAGE = 4096  # neighbouring records that stay together where a corpus is read in blocks
_SCAN = 2**20  # entries of one compiled call, about


class State(NamedTuple):
    """All that training goes on from; float32, [V, D + 1], the bias in the last column."""

    word: np.ndarray
    context: np.ndarray
    word_squares: np.ndarray  # accumulators of AdaGrad
    context_squares: np.ndarray
    epochs: int  # passes made

    def vectors(self, side: str = "sum") -> np.ndarray:
        """Word vectors, float32 [V, D], without biases.

        Args:
          side: "sum" (w + c, as the paper takes), "word" (w), "context" (c), or "both" beside each
            other, [V, 2 D].

        Raises:
          InputError: another side.
        """
        check_known(side, SIDES, "side")
        w, c = self.word[:, :-1], self.context[:, :-1]
        if side == "both":
            return np.concatenate([w, c], axis=1)
        return w + c if side == "sum" else (w if side == "word" else c).copy()


class Epoch(NamedTuple):
    """One pass over all entries."""

    number: int  # from 1
    loss: float  # J / N, every entry's cost as it was met, added up in float64
    state: State
    path: str  # which form made it: "numba" or "jax"


@dataclass(frozen=True)
class GloVe:
    """What is trained, and how. Equal settings, seed and counts give equal bytes.

    Attributes:
      vector_size: D, length of a vector.
      x_max, alpha: of the weight f.
      learning_rate: of AdaGrad, before it is divided by the root of the accumulators.
      accumulators: what AdaGrad's sums of squares begin with: the first step is learning_rate /
        sqrt(accumulators) times the gradient, by default 0.05 of it.
      path: "numba", "jax", or "auto": numba where it is installed and jax has no accelerator.
      batch_size: entries of a batch of "jax"; None for 8192, or a quarter of V if that is less:
        the more often a word comes in a batch, the longer its step on one and the same gradient.
      block_entries: entries in memory, 16 bytes each. Up to so many are shuffled as one. More are
        read every epoch in blocks of pages of 4096 neighbouring records: the pages are shuffled
        over the whole file, then the entries within the block. ("numba" shuffles in steps, see
        `glove_compiled`.)
      num_threads: of "numba"; None for one a core. The result does not depend on it.
      seed: of the first vectors, and with the number of the epoch of its order.
    """

    vector_size: int = 100
    x_max: float = 100.0
    alpha: float = 0.75
    learning_rate: float = 1.0
    accumulators: float = 0.05**-2
    path: str = "auto"
    batch_size: int | None = None
    block_entries: int = 2**24
    num_threads: int | None = None
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for a setting out of range."""
        check_known(self.path, PATHS, "path")
        check_at_least(self.vector_size, 1, "vector_size")
        check_at_least(self.block_entries, _PAGE, "block_entries", "a page of records")
        check_at_least(self.seed, 0, "seed")
        for field in ("x_max", "learning_rate", "accumulators"):
            check_positive(getattr(self, field), field)
        if not 0 <= self.alpha < float("inf"):
            raise InputError(f"alpha must be 0 or more, got {self.alpha}")
        for field in ("batch_size", "num_threads"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)

    def init(self, vocab_size: int) -> State:
        """Vectors and biases from U(-1/2, 1/2) / D, as the authors' program draws them."""
        rng = np.random.default_rng(self.seed)
        shape = (vocab_size, self.vector_size + 1)
        word, context = (
            ((rng.random(shape, np.float32) - np.float32(0.5)) / np.float32(self.vector_size))
            for _ in range(2)
        )
        squares = np.full(shape, self.accumulators, np.float32)
        return State(word, context, squares, squares.copy(), 0)

    def train(
        self, counts: Cooccurrences, *, num_epochs: int, state: State | None = None
    ) -> Iterator[Epoch]:
        """Makes passes over the counts, one at each step of the iterator.

        Args:
          counts: at least one entry.
          num_epochs: passes to be made now.
          state: what to go on from, as if there had been no stop; None for a fresh one.

        Raises:
          InputError: no entries, a state of other sizes, numba asked for and not installed, or a
            cost that is not finite, naming the epoch and the entry.
        """
        check_at_least(num_epochs, 1, "num_epochs")
        if not len(counts):
            raise InputError("counts are empty: there is nothing to learn from")
        state = self.init(counts.vocab_size) if state is None else state
        expected = (counts.vocab_size, self.vector_size + 1)
        if state.word.shape != expected:
            raise InputError(f"state is of {list(state.word.shape)}, expected {list(expected)}")
        return self._epochs(counts, num_epochs, state)

    def _epochs(self, counts: Cooccurrences, num_epochs: int, state: State) -> Iterator[Epoch]:
        path = which_path(self.path)
        form: Any
        if path == "numba":
            from seqlab.embeddings.glove_compiled import Compiled

            form = Compiled(self, counts, state)
        else:
            form = Scanned(self, counts, state)
        is_whole = len(counts) <= self.block_entries
        whole = form.prepare(entries(counts.records, self)) if is_whole else None
        for epoch in range(state.epochs, state.epochs + num_epochs):
            rng = np.random.default_rng([self.seed, epoch])
            total = 0.0
            for block in [whole] if is_whole else self._blocks(counts, form, rng):
                cost, bad = form.walk(block, rng)
                total += cost
                if bad is not None:
                    raise InputError(
                        f"epoch {epoch + 1}: the cost of entry ({bad['i']}, {bad['j']}), log X = "
                        f"{bad['log']:.6g}, is not finite; choose a smaller learning_rate"
                    )
            yield Epoch(epoch + 1, total / len(counts), form.state(epoch + 1), path)

    def _blocks(self, counts: Cooccurrences, form: Any, rng: np.random.Generator) -> Iterator[Any]:
        """The file in blocks of pages from all over it."""
        starts = rng.permutation(-(-len(counts) // _PAGE)) * _PAGE
        pages = self.block_entries // _PAGE
        for first in range(0, len(starts), pages):
            # In the file's order, which the disk likes, and after which a block is sorted by i.
            some = [
                counts.records[at : at + _PAGE] for at in np.sort(starts[first : first + pages])
            ]
            yield form.prepare(entries(np.concatenate(some), self))


def which_path(path: str) -> Literal["numba", "jax"]:
    """The form that `path` means here, "numba" or "jax".

    Raises:
      InputError: numba asked for and not installed.
    """
    is_installed = importlib.util.find_spec("numba") is not None
    if path == "numba" and not is_installed:
        raise InputError("path numba needs numba: pip install 'seqlab[fast]'")
    if path == "auto" and is_installed and jax.default_backend() == "cpu":
        return "numba"
    return "numba" if path == "numba" else "jax"


def entries(records: np.ndarray, settings: GloVe) -> np.ndarray:
    """Records as the loops read them: i, j, log X and f(X), [N] of dtype ENTRY."""
    found = np.empty(len(records), ENTRY)
    count = records["count"]
    found["i"], found["j"] = records["i"], records["j"]
    found["log"] = np.log(count)
    found["weight"] = np.minimum(1.0, (count / settings.x_max) ** settings.alpha)
    return found


def cost(word: Array, context: Array, i: Array, j: Array, log: Array, weight: Array) -> Array:
    """f diff^2 of each entry, [N]; J is their sum.

    Args:
      word, context: [V, D + 1], the bias in the last column.
      i, j, log, weight: [N] each, the entries.
    """
    w, c = word[i], context[j]
    diff = jnp.sum(w[:, :-1] * c[:, :-1], axis=-1) + w[:, -1] + c[:, -1] - log
    return weight * diff**2


def gradients(w: Array, c: Array, log: Array, weight: Array) -> tuple[Array, Array, Array]:
    """(cost, by w, by c): f diff^2 [N], and the derivatives of its half, [N, D + 1] each.

    Args:
      w, c: [N, D + 1], the rows of each entry.
      log, weight: [N].
    """
    diff = jnp.sum(w[:, :-1] * c[:, :-1], axis=-1) + w[:, -1] + c[:, -1] - log
    pull = (weight * diff)[:, None]
    by_w = jnp.concatenate([pull * c[:, :-1], pull], axis=-1)
    by_c = jnp.concatenate([pull * w[:, :-1], pull], axis=-1)
    return weight * diff**2, by_w, by_c


class Scanned:
    """The form in jax: a scan over batches, whose steps are scattered into the tables."""

    def __init__(self, settings: GloVe, counts: Cooccurrences, state: State):
        self.batch_size = settings.batch_size or min(8192, max(1, counts.vocab_size // 4))
        self.learning_rate = settings.learning_rate
        self.device = jax.local_devices()[0]  # one, so that results do not hang on their number
        self.tables = tuple(jax.device_put(np.array(table), self.device) for table in state[:4])

    def prepare(self, block: np.ndarray) -> np.ndarray:
        """A block as `walk` takes it."""
        return block

    def walk(self, block: np.ndarray, rng: np.random.Generator) -> tuple[float, np.ndarray | None]:
        """Walks a block in random order: its cost, and the first entry of a cost not finite."""
        order = rng.permutation(len(block))
        length = -(-_SCAN // self.batch_size) * self.batch_size
        total = 0.0
        for start in range(0, len(block), length):
            taken = block[order[start : start + length]]
            # Entries of weight 0 fill the last batch; they move nothing.
            filled = np.zeros(-(-len(taken) // self.batch_size) * self.batch_size, ENTRY)
            filled[: len(taken)] = taken
            batches = {
                name: jax.device_put(
                    np.ascontiguousarray(filled[name]).reshape(-1, self.batch_size), self.device
                )
                for name in ENTRY.names or ()
            }
            self.tables, costs = _scan(self.tables, batches, self.learning_rate)
            costs = np.asarray(costs, np.float64).ravel()[: len(taken)]
            total += float(costs.sum())
            if not np.isfinite(total):
                return total, taken[np.argmin(np.isfinite(costs))]
        return total, None

    def state(self, epochs: int) -> State:
        """The tables as they are now."""
        word, context, word_squares, context_squares = (np.array(table) for table in self.tables)
        return State(word, context, word_squares, context_squares, epochs)


@partial(jax.jit, donate_argnums=0)
def _scan(tables, batches, learning_rate):
    def step(tables, batch):
        word, context, word_squares, context_squares = tables
        i, j = batch["i"], batch["j"]
        costs, by_w, by_c = gradients(word[i], context[j], batch["log"], batch["weight"])
        w_step = learning_rate * by_w / jnp.sqrt(word_squares[i])
        c_step = learning_rate * by_c / jnp.sqrt(context_squares[j])
        tables = (
            word.at[i].add(-w_step),
            context.at[j].add(-c_step),
            word_squares.at[i].add(by_w**2),
            context_squares.at[j].add(by_c**2),
        )
        return tables, costs

    return jax.lax.scan(step, tables, batches)
