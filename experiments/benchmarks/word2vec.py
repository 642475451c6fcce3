"""How many words a second, next to gensim, and are the vectors as good?

    python -m experiments.benchmarks.word2vec
    python -m experiments.benchmarks.word2vec --quality              # whole text, three seeds
    python -m experiments.benchmarks.word2vec --dataset imdb --method cbow

Skip-gram or CBOW with negative sampling, the same sentences, vocabulary, epochs and settings:
gensim on as many workers as there are cores, the compiled path, and the XLA path. Words are those
of the raw text. Reading, counting and compiling come before the clock starts; gensim's own cutting
of sentences into jobs is in it, as is our subsampling. Variants take turns; the ratio is the median
of the rounds' own. Run it alone on the machine.

`--quality` trains each on the whole text with several seeds and scores the vectors: what counts is
whether ours are as good as gensim's within its standard error over seeds.

Without gensim (extra `peers`) or numba (extra `fast`) their rows are absent.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqlab.cli import main
from seqlab.data import sources
from seqlab.data.checks import check_at_least, check_known
from seqlab.embeddings.corpus import DATASETS, Corpus, encode, sentences
from seqlab.embeddings.vectors import Vectors
from seqlab.embeddings.word2vec import LEARNING_RATES, Training, Word2Vec
from seqlab.errors import InputError
from seqlab.runlog import RunLog
from seqlab.timing import time_variants


@dataclass(frozen=True)
class Config:
    """Speed and quality beside gensim's."""

    method: Literal["skipgram", "cbow"] = "skipgram"
    """how vectors are trained"""
    dataset: str = "embedded"
    """embedded, imdb, ptb, text8 or tinyshakespeare"""
    num_words: int = 2_000_000
    """of the text, for the clock"""
    vector_size: int = 100
    """D"""
    num_epochs: int = 5
    """of the vectors that are scored"""
    num_seeds: int = 3
    """trainings of each, of the vectors that are scored"""
    quality: bool = False
    """score vectors of the whole text, instead of timing a part"""
    rounds: int = 9
    """timed calls, an epoch each"""
    paths: tuple[Literal["gensim", "numba", "jax"], ...] = ("gensim", "numba", "jax")
    """what is compared"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.dataset, DATASETS, "dataset")
        for field in ("num_words", "vector_size", "num_epochs", "num_seeds", "rounds"):
            check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(num_words=3000, vector_size=8, rounds=2, paths=("jax",))


def run(config: Config, log: RunLog) -> None:
    """Times, or scores, every path that can be had."""
    there = {"gensim": "gensim", "numba": "numba", "jax": "jax"}
    paths = []
    for path in config.paths:
        if importlib.util.find_spec(there[path]) is None:
            log.note(f"{path} is not installed: its row is absent")
        else:
            paths.append(path)
    log.write(step=0, paths=paths, cores=os.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        text = sentences(config.dataset)
        some = text if config.quality else first_words(text, config.num_words)
        corpus = encode(some, Path(folder) / "corpus.ids")
        if config.quality:
            rows = scored(config, corpus, paths, log)
        else:
            rows = timed(config, corpus, paths)
        log.table(f"{config.method}, {config.dataset}, {corpus.num_words:,} words", rows)
        log.finish(rows=rows, num_words=corpus.num_words, vocab_size=len(corpus.words))


def first_words(text: Any, num_words: int) -> Iterator[list[str]]:
    """Sentences until so many words have been read."""
    read = 0

    def is_within(sentence: list[str]) -> bool:
        nonlocal read
        read += len(sentence)
        return read - len(sentence) < num_words

    return takewhile(is_within, text)


def settings(config: Config) -> Word2Vec:
    """Of ours; gensim's are the same."""
    return Word2Vec(method=config.method, vector_size=config.vector_size)


def gensim_model(config: Config, words: list[list[str]], seed: int) -> Any:
    """A model of gensim's with its vocabulary."""
    from gensim.models import Word2Vec as Gensim

    model = Gensim(
        sg=int(config.method == "skipgram"), vector_size=config.vector_size, window=5, negative=5,
        sample=1e-3, min_count=5, alpha=LEARNING_RATES[config.method], seed=seed + 1,
        workers=os.cpu_count() or 1,
    )  # fmt: skip
    model.build_vocab(words)
    return model


def timed(config: Config, corpus: Corpus, paths: list[str]) -> list[dict[str, Any]]:
    """Words a second of each path, and the ratio to gensim's."""
    calls: dict[str, Callable[[], object]] = {}
    for path in paths:
        if path == "gensim":
            words = list(corpus)
            model = gensim_model(config, words, config.seed)
            calls[path] = lambda model=model, words=words: model.train(
                words, total_examples=len(words), epochs=1
            )
        else:
            calls[path] = lambda path=path: list(
                Training(settings(config), corpus, num_epochs=1, path=path)
            )
        calls[path]()  # compiles
    seconds = {
        path: np.asarray(times) for path, times in time_variants(calls, config.rounds).items()
    }
    return [
        {
            "path": path,
            "words_per_s": corpus.num_words / float(np.median(times)),
            "x_gensim": float(np.median(seconds["gensim"] / times))
            if "gensim" in seconds
            else None,
        }
        for path, times in seconds.items()
    ]


def scored(config: Config, corpus: Corpus, paths: list[str], log: RunLog) -> list[dict[str, Any]]:
    """Scores of each path over seeds: mean, and standard error of the mean."""
    try:
        sets = sources.fetch("word_similarity")
    except InputError as error:
        raise InputError(f"--quality needs the evaluation sets: {error}") from error
    words = list(corpus) if "gensim" in paths else []
    rows = []
    for path in paths:
        found: dict[str, list[float]] = {}
        for seed in range(config.seed, config.seed + config.num_seeds):
            if path == "gensim":
                model = gensim_model(config, words, seed)
                model.train(words, total_examples=len(words), epochs=config.num_epochs)
                matrix = np.stack([model.wv[word] for word in corpus.words])
            else:
                training = Training(
                    settings(config), corpus, num_epochs=config.num_epochs, seed=seed, path=path
                )
                losses = [(progress.loss, progress.examples) for progress in training]
                log.note(f"{path}, seed {seed}: {len(losses)} stretches")
                matrix = training.state().inputs
            vectors = Vectors(corpus.words, matrix, corpus.counts)
            analogies = vectors.evaluate_word_analogies(sets["questions-words.txt"], 30_000)
            scores = {
                "analogies": analogies.accuracy,
                "ws353": vectors.evaluate_word_pairs(sets["EN-WS-353-ALL.txt"]).spearman,
                "simlex999": vectors.evaluate_word_pairs(sets["EN-SIMLEX-999.txt"]).spearman,
                "rg65": vectors.evaluate_word_pairs(sets["EN-RG-65.txt"]).spearman,
            }
            log.write(step=seed, path=path, **scores)
            for name, score in scores.items():
                found.setdefault(name, []).append(score)
        row: dict[str, Any] = {"path": path}
        for name, scores in found.items():
            row[name] = float(np.mean(scores))
            spread = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.nan
            row[f"{name}_error"] = None if np.isnan(spread) else float(spread)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main(Config, run)
