"""How many co-occurrence entries a second, next to a compiled loop on two threads?

    python -m experiments.benchmarks.glove

The reference is the loop that the authors' program runs, compiled by numba: two threads, each with
half of the entries, AdaGrad entry by entry in tables that both write without locks. Beside it the
two forms of `seqlab.embeddings.glove`, "numba" and "jax", from the same first vectors over the same
entries: drawn by frequencies like those of words, with a logarithm of low rank. A timed call is one
epoch, shuffled where the form shuffles; the reference's order was shuffled once. Variants take
turns, and the ratio is the median of the rounds' own, with its quartiles. Processor time is of all
threads together, an entry; a busy machine disturbs it less. The loss is that of all entries after
`epochs` epochs.

Without numba (extra `fast`) there is no reference and no form of its name: their rows are absent.
Run it alone on the machine.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from seqlab.cli import main
from seqlab.data.checks import check_at_least
from seqlab.embeddings.cooccurrence import Cooccurrences
from seqlab.embeddings.glove import GloVe, State, entries
from seqlab.errors import InputError
from seqlab.runlog import RunLog
from seqlab.timing import time_variants

REFERENCE = "reference"


@dataclass(frozen=True)
class Config:
    """The forms of GloVe against a compiled loop."""

    vocab_sizes: tuple[int, ...] = (20_000, 50_000)
    """V, words, a size each"""
    draws: tuple[int, ...] = (1_500_000, 3_000_000)
    """pairs drawn at each size; those drawn twice are one entry"""
    dims: tuple[int, ...] = (100, 50)
    """D at each size"""
    epochs: int = 3
    """before the loss is taken"""
    rounds: int = 9
    """timed calls"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        if not len(self.vocab_sizes) == len(self.draws) == len(self.dims) >= 1:
            raise InputError("vocab_sizes, draws and dims must be as many, and at least one")
        for field in ("vocab_sizes", "draws", "dims"):
            for value in getattr(self, field):
                check_at_least(value, 1, field)
        check_at_least(self.epochs, 1, "epochs")
        check_at_least(self.rounds, 1, "rounds")
        check_at_least(self.seed, 0, "seed")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls((50,), (500,), (4,), epochs=2, rounds=2)


def run(config: Config, log: RunLog) -> None:
    """Times every form at every size."""
    has_numba = importlib.util.find_spec("numba") is not None
    if not has_numba:
        log.note("numba is not installed (extra fast): the jax form alone")
    rows = []
    for vocab_size, draws, dim in zip(config.vocab_sizes, config.draws, config.dims, strict=True):
        counts = synthetic(vocab_size, draws, config.seed)
        found = measure(counts, dim, config, has_numba)
        size = {"vocab_size": vocab_size, "dim": dim, "entries": len(counts)}
        for row in found:
            # The reference's threads race: its loss is no number of a seed.
            is_fixed = row["variant"] != REFERENCE
            log.write(
                step=0,
                **size,
                variant=row["variant"],
                **({"loss": row["loss"]} if is_fixed else {}),
            )
        rows += [{**size, **row} for row in found]
    log.table(f"entries a second; loss after {config.epochs} epochs", rows)
    checks = [
        {"name": f"V={row['vocab_size']}, D={row['dim']}: numba, x of the reference",
         "found": row["x_reference"], "expected": ">= 1", "tolerance": 0.0,
         "passed": row["x_reference"] >= 1 if row["entries"] >= 100_000 else None}
        for row in rows if row["variant"] == "numba"
    ]  # fmt: skip
    if checks:
        log.table("checks", checks)
    log.finish(rows=rows, checks=checks)


def synthetic(vocab_size: int, draws: int, seed: int) -> Cooccurrences:
    """Entries where frequent words meet, with counts whose logarithm is of low rank."""
    rng = np.random.default_rng(seed)
    frequency = 1 / (np.arange(vocab_size) + 2.7)
    frequency /= frequency.sum()
    i, j = (rng.choice(vocab_size, draws, p=frequency) for _ in range(2))
    pairs = np.unique(i * vocab_size + j)
    i, j = np.divmod(pairs, vocab_size)
    left, right = 0.5 * rng.standard_normal((2, vocab_size, 8), np.float32)
    log = np.sum(left[i] * right[j], axis=1) + np.log1p(frequency[i] * frequency[j] * 2 * draws)
    shape = (vocab_size, vocab_size)
    return Cooccurrences.of(sparse.coo_array((np.exp(np.clip(log, 0, 8)), (i, j)), shape))


def measure(
    counts: Cooccurrences, dim: int, config: Config, has_numba: bool
) -> list[dict[str, Any]]:
    """One row a variant."""
    makers = {"jax": lambda: form("jax", counts, dim, config)}
    if has_numba:
        makers = {
            REFERENCE: lambda: hogwild(counts, dim, config),
            "numba": lambda: form("numba", counts, dim, config),
            **makers,
        }
    losses, calls, processor = {}, {}, {}
    all_entries = entries(counts.records, GloVe(vector_size=dim))
    for label, make in makers.items():
        epoch = make()
        for _ in range(config.epochs):
            state = epoch()
        losses[label] = mean_cost(state, all_entries)
        processor[label] = []
        calls[label] = counted(make(), processor[label])
    seconds = time_variants(calls, config.rounds)
    found = []
    for label, times in seconds.items():
        row = {
            "variant": label,
            "entries_per_s": len(counts) / float(np.median(times)),
            "most_per_s": len(counts) / min(times),
            "processor_ns": 1e9 * float(np.median(processor[label])) / len(counts),
            "loss": losses[label],
        }
        if has_numba:
            ratios = np.array(seconds[REFERENCE]) / np.array(times)
            row["x_reference"] = float(np.median(ratios))
            row["x_first_quartile"], row["x_third_quartile"] = (
                float(each) for each in np.quantile(ratios, [0.25, 0.75])
            )
        found.append(row)
    return found


def counted(call: Callable[[], object], seconds: list[float]) -> Callable[[], object]:
    """The call, that also puts down what the processor spent on it."""

    def timed():
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
        return result

    return timed


def form(path: str, counts: Cooccurrences, dim: int, config: Config) -> Callable[[], State]:
    """A call that trains one epoch more."""
    settings = GloVe(vector_size=dim, path=path, seed=config.seed)
    epochs = settings.train(counts, num_epochs=config.epochs + 2 * config.rounds + 1)
    return lambda: next(epochs).state


def hogwild(counts: Cooccurrences, dim: int, config: Config) -> Callable[[], State]:
    """A call that makes the reference's next epoch."""
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def epoch(W, C, GW, GC, I, J, logs, weights, rate, threads):  # noqa: E741
        count, size = len(I), W.shape[1] - 1
        for thread in numba.prange(threads):
            for e in range(thread * count // threads, (thread + 1) * count // threads):
                i, j = I[e], J[e]
                diff = W[i, size] + C[j, size] - logs[e]
                for k in range(size):
                    diff += W[i, k] * C[j, k]
                pull = weights[e] * diff
                for k in range(size):
                    by_w, by_c = pull * C[j, k], pull * W[i, k]
                    W[i, k] -= rate * by_w / np.sqrt(GW[i, k])
                    C[j, k] -= rate * by_c / np.sqrt(GC[j, k])
                    GW[i, k] += by_w * by_w
                    GC[j, k] += by_c * by_c
                W[i, size] -= rate * pull / np.sqrt(GW[i, size])
                C[j, size] -= rate * pull / np.sqrt(GC[j, size])
                GW[i, size] += pull * pull
                GC[j, size] += pull * pull

    settings = GloVe(vector_size=dim, seed=config.seed)
    state = settings.init(counts.vocab_size)
    order = np.random.default_rng(config.seed).permutation(len(counts))
    shuffled = entries(counts.records, settings)[order]
    columns = [np.ascontiguousarray(shuffled[name]) for name in shuffled.dtype.names or ()]
    threads = min(2, numba.config.NUMBA_NUM_THREADS)

    def call() -> State:
        epoch(*state[:4], *columns, np.float32(settings.learning_rate), threads)
        return state

    return call


def mean_cost(state: State, found: np.ndarray) -> float:
    """J / N of the tables as they stand, in float64."""
    total = 0.0
    for start in range(0, len(found), 2**18):
        some = found[start : start + 2**18]
        w, c = state.word[some["i"]], state.context[some["j"]]
        diff = np.einsum("nd,nd->n", w[:, :-1], c[:, :-1]) + w[:, -1] + c[:, -1] - some["log"]
        total += float(np.sum(some["weight"] * diff.astype(np.float64) ** 2))
    return total / len(found)


if __name__ == "__main__":
    main(Config, run)
