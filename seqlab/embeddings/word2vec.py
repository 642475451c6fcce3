"""word2vec: vectors of words, trained to tell which words stand near each other.

Two methods (Mikolov et al., 2013a) of one set of pairs, words at most m apart within a sentence and
never a word with itself (j = 0 is no pair):

    Skip-gram   max sum_t sum_{-m <= j <= m, j != 0} log p(w_{t+j} | w_t)
    CBOW        max sum_t log p(w_t | bag_t),   bag_t = mean (or sum) of the v of the words around

with one vector v as input and one, u, as output per word, and three objectives in place of log p:

    softmax       log p(o | c) = u_o . v_c - log sum_w exp(u_w . v_c)
    negative      log sigma(u_o . v_c) + sum_{i=1..K} E_{n ~ P} log sigma(-u_n . v_c), with
                  P ~ count^0.75 (Mikolov et al., 2013b); at its optimum u_o . v_c = log(p(o | c) /
                  P(o)) - log K, which is PMI(o, c) - log K (Levy and Goldberg, 2014) if P ~ count
                  and n may be o itself. Here it may not, which adds -log(1 - p(o | c))
    hierarchical  log p(o | c) = the sum of log sigma(+-u_node . v_c) over inner nodes on the way
                  to o in a Huffman tree; here the word of the window predicts the centre, so that
                  a centre's way is looked up once. The pairs are the same ones.

Conventions. A word of relative frequency f is kept with probability (sqrt(f/s) + 1) s / f, as in
the C tool (the paper drops it with 1 - sqrt(s/f)). The window of each centre is drawn from 1..m.
The learning rate falls linearly with the tokens read. A drawn negative that is the pair's own word
is left out. CBOW's mean passes 1/n of its gradient to each of its n words, which is what the
likelihood says; the C tool and gensim pass all of it to each.

S negatives are drawn for a group of 16 centres (Skip-gram, compiled), a tile of 64 (XLA) or each
centre (CBOW, compiled) and shared by all their pairs, each with weight K / S: the same objective,
with more words to tell apart for each centre than K of its own, by products of matrices. Updates
of a block of `block_size` tokens are added up before the next one sees them, which is why the
result depends on neither threads nor devices.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.embeddings import draws, tiles
from seqlab.embeddings.corpus import Corpus
from seqlab.embeddings.glove import PATHS, which_path
from seqlab.embeddings.huffman import huffman_paths
from seqlab.errors import InputError

TILE = 64  # centres whose pairs are one small matrix product
CHUNK = 1 << 17  # tokens between two reports
DRAWN = 64  # words drawn for centres that share them
CALL = 32  # blocks a compiled call
LEARNING_RATES = {"skipgram": 0.025, "cbow": 0.05}


@dataclass(frozen=True)
class Word2Vec:
    """How word vectors are trained; every default is the C tool's.

    Attributes:
      method: "skipgram" or "cbow".
      objective: "negative", "hierarchical" or "softmax".
      vector_size: D.
      window: m, the farthest that a pair's words stand apart.
      num_negatives: K.
      noise_power: of the counts, in the distribution of negatives.
      sample: s of the subsampling; None keeps every word.
      shrink_window: whether each centre's window is drawn from 1..m, or is m.
      cbow_mean: whether a bag is the mean of its vectors, or their sum.
      learning_rate: at the start; None for 0.025 (Skip-gram) and 0.05 (CBOW).
      last_rate: at the end, as a share of it.
      num_drawn: S, negatives that a group's pairs share; None for 64 (K where that is more), and
        for K a centre of CBOW, compiled.
      block_size: tokens whose updates are added up; None for what `block_size_for` says, at most
        512 compiled and 1024 in XLA.
    """

    method: Literal["skipgram", "cbow"] = "skipgram"
    objective: Literal["negative", "hierarchical", "softmax"] = "negative"
    vector_size: int = 100
    window: int = 5
    num_negatives: int = 5
    noise_power: float = 0.75
    sample: float | None = 1e-3
    shrink_window: bool = True
    cbow_mean: bool = True
    learning_rate: float | None = None
    last_rate: float = 1e-4
    num_drawn: int | None = None
    block_size: int | None = None

    def __post_init__(self):
        """Raises `InputError` for what cannot be trained."""
        check_known(self.method, ("skipgram", "cbow"), "method")
        check_known(self.objective, ("negative", "hierarchical", "softmax"), "objective")
        for field in ("vector_size", "window", "num_negatives"):
            check_at_least(getattr(self, field), 1, field)
        for field in ("num_drawn", "block_size"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        for field in ("sample", "learning_rate"):
            if getattr(self, field) is not None:
                check_positive(getattr(self, field), field)
        if not 0.0 <= self.last_rate <= 1.0:
            raise InputError(f"last_rate must be from 0 to 1, got {self.last_rate}")


class State(NamedTuple):
    """Where training stands.

    Attributes:
      inputs: v, float32 [V, D]: the word vectors.
      outputs: u, float32 [V, D], or [V - 1, D] of the inner nodes of a tree.
    """

    inputs: np.ndarray
    outputs: np.ndarray


class Progress(NamedTuple):
    """A stretch of training.

    Attributes:
      epoch: the one it belongs to, from 0.
      tokens: of the corpus read so far in all epochs, sentence ends included.
      total: of them when all is done.
      loss: sum of the losses of its examples, nats, each as its step met it.
      examples: their number: pairs of Skip-gram, centres of CBOW.
      learning_rate: at its end.
      seconds: that it took.
    """

    epoch: int
    tokens: int
    total: int
    loss: float
    examples: int
    learning_rate: float
    seconds: float


def init_state(config: Word2Vec, vocab_size: int, seed: int = 0) -> State:
    """First vectors: v uniform in (-1/2, 1/2) / D, u zero (the C tool's).

    Raises:
      InputError: fewer than two words.
    """
    check_at_least(vocab_size, 2, "number of words in the corpus")
    rng = np.random.default_rng([seed, 0])
    size = config.vector_size
    inputs = ((rng.random((vocab_size, size), np.float32) - 0.5) / size).astype(np.float32)
    nodes = vocab_size - 1 if config.objective == "hierarchical" else vocab_size
    return State(inputs, np.zeros((nodes, size), np.float32))


class Training:
    """Trains vectors over a corpus: iterating over it does a stretch of tokens at a time.

        training = Training(Word2Vec(), corpus, num_epochs=5)
        for progress in training:
            print(progress.tokens, progress.loss / progress.examples)
        vectors = training.state().inputs

    Same seed, same bytes on the same machine, whatever the number of threads and devices.
    """

    def __init__(
        self,
        config: Word2Vec,
        corpus: Corpus,
        *,
        num_epochs: int = 5,
        seed: int = 0,
        state: State | None = None,
        first_token: int = 0,
        path: Literal["auto", "numba", "jax"] = "auto",
        num_threads: int | None = None,
    ):
        """Makes the first vectors.

        Args:
          num_epochs: times that the corpus is read; the learning rate falls over all of them.
          seed: of first vectors and all draws.
          state: vectors to go on from: a stopped run's, with `first_token`, or trained ones, at the
            full learning rate again.
          first_token: `tokens` of the last `Progress` of a stopped run.
          path: "numba" (compiled, negative sampling on a processor), "jax", or "auto": numba where
            it is installed and can.
          num_threads: of numba; None for all cores.

        Raises:
          InputError: an empty vocabulary, vectors of another shape, or a path that cannot be had.
        """
        check_at_least(num_epochs, 1, "num_epochs")
        start = init_state(config, len(corpus.words), seed)
        state = start if state is None else state
        for name, wanted, given in zip(State._fields, start, state, strict=True):
            if given.shape != wanted.shape:
                raise InputError(
                    f"state.{name} has shape {given.shape}, the corpus asks for {wanted.shape}"
                )
        self.path = choose_path(config, path)
        self.config, self.corpus, self.num_epochs, self.seed = config, corpus, num_epochs, seed
        self._first_token = first_token
        walker = _Compiled if self.path == "numba" else _Tiled
        self._walker = walker(config, corpus, state, num_threads)

    @property
    def block_size(self) -> int:
        """Tokens of a step."""
        return self._walker.block_size

    def state(self) -> State:
        """Where training stands, a copy."""
        return self._walker.state()

    def __iter__(self) -> Iterator[Progress]:
        """Each stretch, when it is done.

        Raises:
          InputError: a loss that is not finite, with the place where it arose.
        """
        config, corpus = self.config, self.corpus
        length = len(corpus.ids)
        total = self.num_epochs * length
        keep = np.ones(len(corpus.words) + 1)  # the last one is that of -1, the end of a sentence
        if config.sample is not None:
            keep[:-1] = corpus.keep_probability(config.sample)
        rate = config.learning_rate or LEARNING_RATES[config.method]
        size, done = self.block_size, 0
        for epoch in range(self.num_epochs):
            keys = [draws.stream_key(self.seed, epoch, stream) for stream in range(3)]
            for chunk in corpus.chunks(CHUNK):
                begin, done = done, done + len(chunk)
                if begin < self._first_token:
                    continue
                clock = time.perf_counter()
                places = np.arange(begin - epoch * length, done - epoch * length)
                kept = draws.uniform(keys[draws.SUBSAMPLE], places) < keep[chunk]
                ids, places = chunk[kept], places[kept]
                if config.shrink_window:
                    reach = draws.uniform(keys[draws.RADIUS], places)
                    radii = 1 + (reach * config.window).astype(np.int32)
                else:
                    radii = np.full(len(ids), config.window, np.int32)
                read = (epoch * length + places[::size]) / total
                rates = np.maximum(1.0 - read, config.last_rate) * rate
                losses, counts = self._walker.walk(ids, places, radii, rates, keys[draws.NEGATIVE])
                if not np.all(np.isfinite(losses)):
                    block = int(np.argmin(np.isfinite(losses)))
                    raise InputError(
                        f"epoch {epoch + 1}, tokens from {places[block * size]}: the loss is "
                        f"{losses[block]}; a smaller learning_rate ({rate:g}) or block_size "
                        f"({size}) helps"
                    )
                yield Progress(
                    epoch, done, total, float(np.sum(losses, dtype=np.float64)),
                    int(np.sum(counts, dtype=np.int64)), float(rates[-1]) if len(rates) else rate,
                    time.perf_counter() - clock,
                )  # fmt: skip


def choose_path(config: Word2Vec, path: str = "auto") -> Literal["numba", "jax"]:
    """The path that `train` takes.

    Raises:
      InputError: numba is asked for, and not there or of no use for this objective.
    """
    check_known(path, PATHS, "path")
    if config.objective == "negative":
        return which_path(path)
    if path == "numba":
        raise InputError(f"path numba knows negative sampling alone, not {config.objective}")
    return "jax"


class _Compiled:
    """Blocks by `compiled`."""

    def __init__(self, config: Word2Vec, corpus: Corpus, state: State, num_threads: int | None):
        from seqlab.embeddings import compiled

        self.config, self.compiled = config, compiled
        compiled.set_threads(num_threads)
        self.tables = State(*(np.array(table, np.float32, order="C") for table in state))
        self.block_size = config.block_size or block_size_for(config, corpus, 512)
        self.num_drawn = config.num_drawn or (
            max(DRAWN, config.num_negatives)
            if config.method == "skipgram"
            else config.num_negatives
        )
        self.noise = draws.Noise.of(corpus.noise_distribution(config.noise_power))

    def state(self) -> State:
        return State(*(table.copy() for table in self.tables))

    def walk(self, ids, places, radii, rates, key):
        losses = np.empty(len(rates), np.float64)
        counts = np.empty(len(rates), np.int64)
        config = self.config
        weight = config.num_negatives / self.num_drawn
        getattr(self.compiled, config.method)(
            tuple(self.tables), ids, places, radii, rates.astype(np.float32), self.block_size,
            tuple(self.noise), losses, counts,
            (config.window, self.num_drawn, weight, np.uint64(key), config.cbow_mean),
        )  # fmt: skip
        return losses, counts


class _Tiled:
    """Blocks by `tiles`, on one device."""

    def __init__(self, config: Word2Vec, corpus: Corpus, state: State, num_threads: int | None):
        del num_threads
        tile = max(TILE, -(-2 * config.window // 16) * 16)
        most = config.block_size or block_size_for(config, corpus, 1024)
        tile = min(tile, max(most, 2 * config.window))
        self.block_size = -(-most // tile) * tile
        is_sampled = config.objective == "negative"
        self.num_drawn = (config.num_drawn or max(DRAWN, config.num_negatives)) if is_sampled else 0
        self.layout = tiles.Layout(
            config.method, config.objective, config.window, tile,
            config.num_negatives / self.num_drawn if is_sampled else 0.0, config.cbow_mean,
        )  # fmt: skip
        self.noise = draws.Noise.of(corpus.noise_distribution(config.noise_power))
        self.paths = None
        if config.objective == "hierarchical":
            self.paths = tiles.Paths(*map(jnp.asarray, huffman_paths(corpus.counts)))
        self.tables = {name: jnp.array(table) for name, table in state._asdict().items()}

    def state(self) -> State:
        return State(*(np.array(self.tables[name]) for name in State._fields))

    def walk(self, ids, places, radii, rates, key):
        size, tile = self.block_size, self.layout.tile
        per_block = size // tile
        counters = np.zeros(len(rates) * per_block, np.int64)
        firsts = places[::tile]
        counters[: len(firsts)] = firsts
        drawn = self.noise.draw(
            key, (counters[:, None] * self.num_drawn + np.arange(self.num_drawn)).ravel()
        ).reshape(len(rates), per_block, self.num_drawn)
        blocks = tiles.cut(ids, radii, drawn, rates, self.layout, size)
        losses, counts = [], []
        for begin in range(0, len(rates), CALL):
            part = jax.tree.map(
                lambda leaf, begin=begin: filled(leaf[begin : begin + CALL]), blocks
            )
            self.tables, (loss, count) = tiles.walk(
                self.tables, part, self.paths, layout=self.layout
            )
            num = min(CALL, len(rates) - begin)
            losses.append(np.asarray(loss)[:num])
            counts.append(np.asarray(count)[:num])
        if not losses:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(losses), np.concatenate(counts)


def filled(leaf: np.ndarray) -> np.ndarray:
    """Blocks of a call, with empty ones (no word) behind them where they are fewer."""
    missing = CALL - len(leaf)
    if not missing:
        return leaf
    empty = -1 if leaf.ndim == 2 else 0
    return np.concatenate([leaf, np.full((missing, *leaf.shape[1:]), empty, leaf.dtype)])


def block_size_for(config: Word2Vec, corpus: Corpus, largest: int) -> int:
    """Tokens of a block, from 8 to `largest`.

    Gradients of a block are summed at the point where it began. The learning rate times the pairs
    that the most frequent word is expected to have in it is kept at 1: at some times that, steps
    of logistic regression overshoot, which in a small vocabulary ends in NaN.
    """
    kept = corpus.counts.astype(np.float64)
    if config.sample is not None:
        kept *= corpus.keep_probability(config.sample)
    reach = (1 + config.window) / 2 if config.shrink_window else config.window
    is_mean = config.method == "cbow" and config.cbow_mean
    pairs = 1.0 if is_mean else 2.0 * reach
    rate = config.learning_rate or LEARNING_RATES[config.method]
    return int(np.clip(kept.sum() / (kept.max() * pairs * rate), 8, largest))
