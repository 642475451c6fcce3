"""Word vectors from text: word2vec and GloVe, what they know, and how they look.

    python -m experiments.word_embeddings
    python -m experiments.word_embeddings --method cbow --corpus my.txt
    python -m experiments.word_embeddings --dataset imdb --num-epochs 5
    python -m experiments.word_embeddings --dataset imdb --compare      # all three at equal cost
    python -m experiments.word_embeddings --num-seeds 5                 # how stable neighbours are

The embedded text is the documentation that every Python carries; of its size (some 160,000 words)
vectors know which words go together, and no analogies: for those take imdb, text8 or a text of
millions of words. The evaluation sets (Google analogies, WS-353, SimLex-999, RG-65, MEN) are
fetched once, or read from a mirror; where they cannot be had, the run says so and goes on.

`vectors-<method>-<seed>.bin` in the run directory is a word2vec file that gensim reads too. Killed
or stopped, the same command with the same `--out` goes on to the same numbers.

Figures: words in the plane, pairs of analogies as arrows, loss and scores over the epochs, and with
several seeds the overlap of neighbours.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from seqlab import plots
from seqlab.checkpoint import Checkpoints
from seqlab.cli import main
from seqlab.data import sources
from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.embeddings import word2vec
from seqlab.embeddings.cooccurrence import Cooccurrences, count_cooccurrences
from seqlab.embeddings.corpus import DATASETS, Corpus, encode, sentences
from seqlab.embeddings.evaluation import AnalogyScores
from seqlab.embeddings.files import load_word2vec, save_word2vec
from seqlab.embeddings.glove import GloVe, which_path
from seqlab.embeddings.glove import State as GloVeState
from seqlab.embeddings.nearest import neighbour_overlap
from seqlab.embeddings.vectors import Vectors
from seqlab.embeddings.word2vec import Training, Word2Vec
from seqlab.errors import InputError
from seqlab.runlog import RunLog, read_run

METHODS = ("skipgram", "cbow", "glove")
PAIRS = {
    "ws353": "EN-WS-353-ALL.txt",
    "simlex999": "EN-SIMLEX-999.txt",
    "rg65": "EN-RG-65.txt",
    "men": "EN-MEN-TR-3k.txt",
}
ANALOGIES = "questions-words.txt"
SCORES = ("analogy_accuracy", "analogy_coverage", *(f"{name}_spearman" for name in PAIRS))
EPOCHS = {"skipgram": 5, "cbow": 5, "glove": 25}
SMALL = 10**6  # words; a text below it is read more often
LARGE = 10**8  # words; below it glove's x_max is 10
SHOWN = 8  # words whose neighbours are listed
NUM_MAPPED = 400  # words of the map
TOPN = 10
FEWEST = 10  # pairs that a rank correlation is told of

# Words to look at, by what they have in common: films and opinions, then what manuals speak of.
GROUPS = {
    "people": "man woman boy girl king queen father mother son daughter brother sister".split(),
    "opinions": "good bad great terrible excellent awful wonderful horrible boring funny".split(),
    "places": "england france germany japan italy london paris berlin tokyo rome".split(),
    "numbers": "one two three four five six seven eight nine ten".split(),
    "program text": "class function method module object string list tuple dictionary file".split(),
}
RELATIONS = {
    "man to woman": (
        "man woman", "king queen", "boy girl", "father mother", "son daughter", "brother sister",
        "actor actress", "husband wife",
    ),
    "country to capital": (
        "england london", "france paris", "germany berlin", "japan tokyo", "italy rome",
        "russia moscow", "spain madrid", "china beijing",
    ),
    "comparative": (
        "good better", "bad worse", "big bigger", "long longer", "strong stronger", "old older",
        "large larger", "small smaller", "short shorter", "fast faster",
    ),
    "present to past": (
        "go went", "see saw", "make made", "take took", "write wrote", "is was", "has had",
        "says said", "give gave", "do did",
    ),
    "one to many": (
        "man men", "woman women", "child children", "film films", "movie movies",
        "function functions", "method methods", "object objects", "file files", "value values",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Word vectors: text, method, and how they are trained."""

    may_change: ClassVar = ("num_threads",)

    method: Literal["skipgram", "cbow", "glove"] = "skipgram"
    """how vectors are trained"""
    compare: bool = False
    """train all three, CBOW and GloVe for as many epochs as cost what Skip-gram's cost"""
    dataset: str | None = None
    """embedded (the default), imdb, ptb, text8 or tinyshakespeare"""
    corpus: Path | None = None
    """a text of your own instead: UTF-8, a sentence a line; may be .gz"""
    objective: Literal["negative", "hierarchical", "softmax"] = "negative"
    """of Skip-gram and CBOW; softmax is for small vocabularies"""
    vector_size: int = 100
    """D"""
    window: int | None = None
    """m, words to each side; None: 5, 10 for glove"""
    min_count: int = 5
    """words seen less often are left out"""
    max_vocab: int | None = None
    """the most frequent words that are kept; None for all"""
    sample: float = 1e-3
    """of the subsampling of frequent words; 0 keeps every word"""
    num_negatives: int = 5
    """K, of negative sampling"""
    num_epochs: int | None = None
    """times that the text, or all co-occurrences, are read; None: 5, 25 for glove, four times that
    of a text of less than a million words"""
    learning_rate: float | None = None
    """at the start; None: 0.025 for skipgram, 0.05 for cbow and glove (its program's -eta)"""
    x_max: float | None = None
    """count from which co-occurrences weigh alike in glove; None: 10, as in its authors' demo, for
    a text of fewer than 100 million words, else 100"""
    alpha: float = 0.75
    """power of the count below it"""
    path: Literal["auto", "numba", "jax"] = "auto"
    """compiled loops or XLA; auto: numba on a processor where it is installed"""
    analogy_vocab: int = 30_000
    """the most frequent words, to which analogies are restricted, as in the standard tool"""
    num_seeds: int = 1
    """trainings that differ in the seed alone; from 2 on their neighbours are compared"""
    num_threads: int | None = None
    """of the compiled loops; None for all cores; it has no say in the numbers"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.method, METHODS, "method")
        if self.dataset is not None:
            check_known(self.dataset, DATASETS, "dataset")
            if self.corpus is not None:
                raise InputError("give --dataset or --corpus, not both")
        for field in ("vector_size", "min_count", "num_negatives", "analogy_vocab", "num_seeds"):
            check_at_least(getattr(self, field), 1, field)
        for field in ("window", "max_vocab", "num_epochs", "num_threads"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seed, 0, "seed")
        if self.x_max is not None:
            check_positive(self.x_max, "x_max")
        if self.learning_rate is not None:
            check_positive(self.learning_rate, "learning_rate")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(vector_size=16, num_epochs=1, min_count=20, path="jax")


class Job(NamedTuple):
    """One training."""

    method: str
    seed: int
    num_epochs: int

    @property
    def name(self) -> str:
        """Of its file and its lines."""
        return f"{self.method}-{self.seed}"


class Stretch(NamedTuple):
    """What a training reports.

    Attributes:
      epoch: the one that has just ended, from 1; None in the middle of one.
      loss: sum over its examples.
      examples: of this stretch.
      words: of the text that it stands for.
      seconds: that it took.
    """

    epoch: int | None
    loss: float
    examples: int
    words: float
    seconds: float


def run(config: Config, log: RunLog) -> None:
    """Trains, evaluates after every epoch, and looks at the vectors."""
    corpus = read_corpus(config, log)
    sets = evaluation_sets(log)
    jobs = plan(config, corpus)
    log.write(
        step=0, source=corpus.source, vocab_size=len(corpus.words), num_words=corpus.num_words,
        kept_words=int(corpus.counts.sum()), evaluations=sorted(sets),
        jobs=[job._asdict() for job in jobs],
    )  # fmt: skip
    trained, rows = train_all(config, jobs, corpus, sets, log)
    first = [job for job in jobs if job.seed == config.seed]
    for job in first:
        look(trained[job.name], job, log)
    overlap = {}
    if config.num_seeds > 1:
        for method in dict.fromkeys(job.method for job in jobs):
            same = [trained[job.name].vectors for job in jobs if job.method == method]
            overlap[method] = stability(np.stack(same), method, log)
    log.table("word vectors", [{"method": row["method"], "seed": row["seed"], **shown(row)}
                               for row in rows])  # fmt: skip
    main_row = rows[0]
    figures = {key: main_row[key] for key in main_row if key not in ("method", "seed")}
    log.finish(**figures, trainings=rows, neighbour_overlap=overlap or None)


def read_corpus(config: Config, log: RunLog) -> Corpus:
    """The text as word ids, from the cache where it has been read before."""
    text = sentences(config.dataset, config.corpus)
    digest = text.source["sha256"]
    name = config.dataset or (config.corpus.stem if config.corpus else "embedded")
    head = (digest if isinstance(digest, str) else digest[0])[:12]
    folder = sources.cache_folder() / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    size = f"-max{config.max_vocab}" if config.max_vocab else ""
    path = folder / f"{name}-{head}-min{config.min_count}{size}.ids"
    clock = time.perf_counter()
    corpus = encode(text, path, min_count=config.min_count, max_vocab=config.max_vocab)
    log.note(
        f"{corpus.num_words:,} words, {len(corpus.words):,} of them at least {config.min_count} "
        f"times ({time.perf_counter() - clock:.1f} s)"
    )
    return corpus


def evaluation_sets(log: RunLog) -> dict[str, Path]:
    """Name -> file, of those that can be had."""
    found: dict[str, Path] = {}
    for group, names in (("word_similarity", ("analogies", "ws353", "simlex999", "rg65")),
                         ("men", ("men",))):  # fmt: skip
        try:
            files = sources.fetch(group)
        except InputError as error:
            log.note(f"not evaluated on {', '.join(names)}: {error}")
            continue
        for name in names:
            found[name] = files[ANALOGIES if name == "analogies" else PAIRS[name]]
    return found


def plan(config: Config, corpus: Corpus) -> list[Job]:
    """What is trained, in order."""
    longer = 4 if corpus.num_words < SMALL else 1
    methods = METHODS if config.compare else (config.method,)
    jobs = []
    for method in methods:
        num_epochs = config.num_epochs or longer * EPOCHS[method]
        if config.compare and method != "skipgram":
            first = config.num_epochs or longer * EPOCHS["skipgram"]
            num_epochs = max(1, round(first * cost(config, corpus, "skipgram")
                                      / cost(config, corpus, method)))  # fmt: skip
        jobs += [Job(method, config.seed + k, num_epochs) for k in range(config.num_seeds)]
    return jobs


def cost(config: Config, corpus: Corpus, method: str) -> float:
    """Vectors read and changed in one epoch, on average: what an epoch costs on any machine."""
    window = window_of(config, method)
    if method == "glove":
        return 2.0 * len(cooccurrences(config, corpus))
    keep = corpus.keep_probability(config.sample)
    tokens = float(np.sum(keep * corpus.counts))
    around = window + 1.0  # twice the mean of 1..m
    if method == "cbow":
        return tokens * (around + 1 + config.num_negatives)
    return tokens * (1 + around + 2 * config.num_negatives)


def window_of(config: Config, method: str) -> int:
    """m of a method."""
    return config.window or (10 if method == "glove" else 5)


def cooccurrences(config: Config, corpus: Corpus) -> Cooccurrences:
    """Counts of a corpus, beside it in the cache."""
    window = window_of(config, "glove")
    path = corpus.path.with_suffix(f".window{window}.pairs")
    if path.exists():
        try:
            found = Cooccurrences.open(path)
            if found.vocab_size == len(corpus.words):
                return found
        except InputError:
            pass  # damaged: it is counted again
    return count_cooccurrences(
        corpus.chunks(1 << 17), path, vocab_size=len(corpus.words), window=window
    )


def train_all(config, jobs, corpus, sets, log):
    """Every job in order: vectors by name and a row of figures each; saved on the way."""
    trained: dict[str, Vectors] = {}
    with Checkpoints(log.path / "checkpoints", writes=log.writes) as checkpoints:
        memory, state = resumed(config, jobs, corpus, checkpoints, log)
        for number, job in enumerate(jobs):
            if number < memory["number"]:
                trained[job.name] = saved(log, job, corpus)
                continue
            trainer = TRAINERS[job.method](config, job, corpus, state, memory["tokens"])
            log.note(f"{job.name}: {job.num_epochs} epochs by {trainer.path}")
            vectors = train(trainer, job, corpus, sets, config, memory, checkpoints, log)
            save_word2vec(vectors_file(log, job), vectors, binary=True)
            trained[job.name] = vectors
            memory["rows"].append({
                "method": job.method, "seed": job.seed, "num_epochs": job.num_epochs,
                "path": trainer.path, **memory["last"],
                "words_per_s": memory["words"] / max(memory["seconds"], 1e-9),
            })  # fmt: skip
            memory |= {"number": number + 1, **FRESH}
            state = None
    return trained, memory["rows"]


FRESH = {"tokens": 0, "loss": 0.0, "examples": 0, "words": 0.0, "seconds": 0.0, "last": None}


def train(trainer, job, corpus, sets, config, memory, checkpoints, log) -> Vectors:
    """Walks one training to its end, saving after every epoch and when asked to stop."""
    bar = log.progress(total=1000, initial=int(1000 * trainer.done), description=job.name)
    log.waits = True
    try:
        for stretch in trainer:
            memory["step"] += 1
            memory["tokens"] = trainer.tokens
            for field in ("loss", "examples", "words", "seconds"):
                memory[field] += getattr(stretch, field)
            mean = memory["loss"] / max(memory["examples"], 1)
            bar.update(int(1000 * trainer.done) - bar.n)
            rate = memory["words"] / max(memory["seconds"], 1e-9)
            bar.set_postfix_str(f"{rate:,.0f} words/s, loss {mean:.4f}")
            if stretch.epoch is not None:
                vectors = Vectors(corpus.words, trainer.vectors(), corpus.counts)
                found = evaluate(vectors, sets, config)
                scores = {name: found[name] for name in SCORES if found[name] is not None}
                log.write(step=memory["step"], training=job.name, epoch=stretch.epoch, loss=mean,
                          examples=memory["examples"], **scores)  # fmt: skip
                memory |= {"loss": 0.0, "examples": 0, "last": {"loss_per_example": mean, **found}}
            if stretch.epoch is not None or log.stop is not None:
                record = {"mark": log.mark(), "memory": memory}
                checkpoints.save(memory["step"], trainer.state(), record)
            if log.stop is not None:
                checkpoints.wait()
                stop, log.stop, log.waits = log.stop, None, False
                raise stop(memory["step"])
    finally:
        log.waits = False
        bar.close()
    return Vectors(corpus.words, trainer.vectors(), corpus.counts)


def resumed(config, jobs, corpus, checkpoints, log):
    """What a stopped run remembers, and the state of the job that it was in."""
    memory = {"number": 0, "step": 0, "rows": [], **FRESH}
    if not log.resumed:
        return memory, None
    newest = checkpoints.newest_good(lambda record: log.objection(record["mark"]))
    for step, fault in checkpoints.damaged:
        log.note(f"checkpoint of step {step} is passed over: {fault}")
    if newest is None:
        log.rewind(None)
        return memory, None
    memory = checkpoints.read_file(newest, "run")["memory"]
    job = jobs[memory["number"]]
    like = TRAINERS[job.method](config, job, corpus, None, 0).state()
    found = checkpoints.restore(newest, like)
    log.rewind(found.record["mark"])
    log.note(f"going on with {job.name} after step {newest}")
    return memory, found.state


def vectors_file(log: RunLog, job: Job) -> Path:
    """Where the vectors of a training are."""
    return log.path / f"vectors-{job.name}.bin"


def saved(log: RunLog, job: Job, corpus: Corpus) -> Vectors:
    """Vectors of a training that an earlier part of this run has finished."""
    found = load_word2vec(vectors_file(log, job), binary=True)
    return Vectors(found.words, found.vectors, corpus.counts)


class Word2VecTrainer:
    """Skip-gram or CBOW, a stretch of text at a time."""

    def __init__(self, config: Config, job: Job, corpus: Corpus, state: Any, tokens: int):
        settings = Word2Vec(
            method=job.method, objective=config.objective, vector_size=config.vector_size,
            window=window_of(config, job.method), num_negatives=config.num_negatives,
            sample=config.sample or None, learning_rate=config.learning_rate,
        )  # fmt: skip
        self.training = Training(
            settings, corpus, num_epochs=job.num_epochs, seed=job.seed, first_token=tokens,
            state=None if state is None else word2vec.State(**state), path=config.path,
            num_threads=config.num_threads,
        )  # fmt: skip
        self.path = self.training.path
        self.tokens, self.done = tokens, tokens / (job.num_epochs * len(corpus.ids))
        self.words_per_token = corpus.num_words / len(corpus.ids)

    def __iter__(self) -> Iterator[Stretch]:
        for progress in self.training:
            read, self.tokens = progress.tokens - self.tokens, progress.tokens
            self.done = progress.tokens / progress.total
            ended = progress.tokens % (progress.total // self.training.num_epochs) == 0
            yield Stretch(
                progress.epoch + 1 if ended else None, progress.loss, progress.examples,
                read * self.words_per_token, progress.seconds,
            )  # fmt: skip

    def vectors(self) -> np.ndarray:
        return self.training.state().inputs

    def state(self) -> dict[str, np.ndarray]:
        return self.training.state()._asdict()


class GloVeTrainer:
    """GloVe, an epoch at a time; `tokens` counts its epochs."""

    def __init__(self, config: Config, job: Job, corpus: Corpus, state: Any, tokens: int):
        self.settings = GloVe(
            vector_size=config.vector_size, alpha=config.alpha, seed=job.seed,
            x_max=config.x_max or (100.0 if corpus.num_words >= LARGE else 10.0),
            path=config.path, num_threads=config.num_threads,
        )  # fmt: skip
        if config.learning_rate is not None:  # of the first steps, as with the other methods
            self.settings = replace(self.settings, accumulators=config.learning_rate**-2)
        self.path = which_path(config.path)
        self.counts = cooccurrences(config, corpus)
        self.current = self.settings.init(len(corpus.words))
        if state is not None:
            self.current = GloVeState(**state, epochs=tokens)
        self.num_epochs, self.num_words = job.num_epochs, corpus.num_words
        self.tokens, self.done = tokens, tokens / job.num_epochs

    def __iter__(self) -> Iterator[Stretch]:
        left = self.num_epochs - self.tokens
        clock = time.perf_counter()
        for epoch in self.settings.train(self.counts, num_epochs=left, state=self.current):
            self.current, self.tokens = epoch.state, epoch.number
            self.done = epoch.number / self.num_epochs
            now = time.perf_counter()
            yield Stretch(epoch.number, epoch.loss * len(self.counts), len(self.counts),
                          float(self.num_words), now - clock)  # fmt: skip
            clock = time.perf_counter()

    def vectors(self) -> np.ndarray:
        return self.current.vectors()

    def state(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in self.current._asdict().items() if name != "epochs"}


TRAINERS = {"skipgram": Word2VecTrainer, "cbow": Word2VecTrainer, "glove": GloVeTrainer}


def evaluate(vectors: Vectors, sets: dict[str, Path], config: Config) -> dict[str, Any]:
    """Scores on the sets at hand; None for those that are not, and where nothing can be told."""
    figures: dict[str, Any] = {}
    found: AnalogyScores | None = None
    if "analogies" in sets:
        found = vectors.evaluate_word_analogies(sets["analogies"], config.analogy_vocab)
    figures["analogy_accuracy"] = finite(found and found.accuracy)
    figures["analogy_coverage"] = finite(found and found.coverage)
    for name in PAIRS:
        pairs = vectors.evaluate_word_pairs(sets[name]) if name in sets else None
        told = pairs is not None and pairs.num_used >= FEWEST
        figures[f"{name}_spearman"] = finite(pairs.spearman) if told else None
        figures[f"{name}_pairs"] = pairs and pairs.num_used
    if found is not None:
        figures["analogy_semantic_accuracy"] = finite(found.semantic.accuracy)
        figures["analogy_syntactic_accuracy"] = finite(found.syntactic.accuracy)
    return figures


def finite(value: float | None) -> float | None:
    """A figure, None in place of NaN: no pair or question was covered."""
    return None if value is None or math.isnan(value) else float(value)


def look(vectors: Vectors, job: Job, log: RunLog) -> None:
    """Writes what the figures need: neighbours, the plane, and the arrows of each relation."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    known = {group: [word for word in words if word in vectors] for group, words in GROUPS.items()}
    asked = [words[0] for words in known.values() if words]
    asked += [word for word in vectors.words if word not in asked][: SHOWN - len(asked)]
    neighbours = {
        word: vectors.most_similar(word, topn=min(TOPN, len(vectors) - 1)) for word in asked[:SHOWN]
    }
    rows = [
        {"word": word, "neighbours": ", ".join(f"{near} {c:.2f}" for near, c in found[:6])}
        for word, found in neighbours.items()
    ]
    log.table(f"nearest neighbours, {job.name}", rows)
    chosen = list(dict.fromkeys([*chain(*known.values()), *vectors.words[:NUM_MAPPED]]))
    units = vectors.units[[vectors.index(word) for word in chosen]]
    plane = PCA(2, svd_solver="full").fit(units)
    maps = {f"PCA ({100 * plane.explained_variance_ratio_.sum():.0f} % of variance)":
            plane.transform(units)}  # fmt: skip
    if len(chosen) > 30:
        tsne = TSNE(2, perplexity=15, init="pca", random_state=job.seed, metric="cosine")
        maps["t-SNE (perplexity 15)"] = tsne.fit_transform(units)
    log.write(
        step=0, training=job.name, look="maps", groups=known, words=chosen,
        maps={name: places.astype(float) for name, places in maps.items()},
    )  # fmt: skip
    for relation, lines in RELATIONS.items():
        pairs = [line.split() for line in lines]
        pairs = [pair for pair in pairs if all(word in vectors for word in pair)]
        if len(pairs) < 3:
            continue
        words = list(dict.fromkeys(chain(*pairs)))
        rows = vectors.units[[vectors.index(word) for word in words]].astype(np.float64)
        flat = PCA(2, svd_solver="full").fit(rows)
        arrows = np.stack([rows[words.index(b)] - rows[words.index(a)] for a, b in pairs])
        mean = arrows.mean(axis=0)
        cosines = arrows @ mean / (np.linalg.norm(arrows, axis=1) * np.linalg.norm(mean))
        log.write(
            step=0, training=job.name, look="relation", relation=relation, pairs=pairs, words=words,
            places=flat.transform(rows), explained=float(flat.explained_variance_ratio_.sum()),
            cosine=float(cosines.mean()),
        )  # fmt: skip
    log.write(step=0, training=job.name, look="neighbours",
              neighbours={word: [[near, float(cosine)] for near, cosine in found]
                          for word, found in neighbours.items()})  # fmt: skip


def stability(many: np.ndarray, method: str, log: RunLog) -> dict[str, float]:
    """Overlap of nearest neighbours over seeds, by bins of frequency, and over all ranks.

    The words are spaced evenly in the logarithm of their rank, or the many rare ones would be all.
    """
    num_words = many.shape[1]
    topn = min(TOPN, num_words - 1)
    chosen = np.unique(np.geomspace(1, num_words, min(num_words, 2000)).astype(int) - 1)
    overlap = neighbour_overlap(many, topn, chosen)  # [pairs, words]
    edges = np.unique(np.geomspace(1, num_words + 1, 9).astype(int))
    bins = [(chosen + 1 >= low) & (chosen + 1 < high) for low, high in pairwise(edges)]
    ranks = [float(np.sqrt(low * high)) for low, high in pairwise(edges)]
    per_bin = np.stack([overlap[:, each].mean(axis=1) for each in bins], axis=1)  # [pairs, bins]
    log.write(step=0, look="stability", method=method, ranks=ranks, overlap=per_bin, topn=topn)
    means = overlap.mean(axis=1)
    return {"mean": float(means.mean()), "low": float(means.min()), "high": float(means.max())}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Columns of the printed table."""
    names = ("num_epochs", "loss_per_example", *SCORES, "words_per_s")
    return {name: row[name] for name in names}


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    metrics = read_run(directory).metrics
    figures = directory / "figures"
    for row in plots.pick(metrics, look="maps"):
        maps = {
            name: dict(zip(row["words"], places, strict=True))
            for name, places in row["maps"].items()
        }
        plots.save(plots.word_maps(maps, row["groups"]), figures / f"map_{row['training']}.png")
    for name in dict.fromkeys(row["training"] for row in plots.pick(metrics, look="relation")):
        panels = {
            row["relation"]: {
                "pairs": row["pairs"], "explained": row["explained"], "cosine": row["cosine"],
                "places": dict(zip(row["words"], row["places"], strict=True)),
            }
            for row in plots.pick(metrics, look="relation", training=name)
        }  # fmt: skip
        plots.save(plots.analogy_parallelograms(panels), figures / f"analogies_{name}.png")
    epochs = [row for row in metrics if "epoch" in row]
    for method in METHODS:
        lines = [row for row in epochs if row["training"].startswith(method)]
        names = list(dict.fromkeys(row["training"] for row in lines))
        if not names:
            continue
        losses = {name: series(lines, name, "loss") for name in names}
        fields = ["analogy_accuracy", *(f"{name}_spearman" for name in PAIRS)]
        titles = ["analogies", "WS-353", "SimLex-999", "RG-65", "MEN"]
        scores = {
            title: series(lines, names[0], field)
            for title, field in zip(titles, fields, strict=True)
            if field in lines[0]
        }
        label = "mean cost of an entry" if method == "glove" else "nats per example"
        figure = plots.embedding_training(losses, scores, loss_label=label)
        plots.save(figure, figures / f"training_{method}.png")
    stable = plots.pick(metrics, look="stability")
    if stable:
        overlap = {
            row["method"]: {
                "mean": np.mean(row["overlap"], axis=0), "low": np.min(row["overlap"], axis=0),
                "high": np.max(row["overlap"], axis=0),
            }
            for row in stable
        }  # fmt: skip
        figure = plots.neighbour_overlaps(stable[0]["ranks"], overlap, stable[0]["topn"])
        plots.save(figure, figures / "stability.png")


def series(lines, name, field):
    """Epochs and values of one training."""
    chosen = [row for row in lines if row["training"] == name and field in row]
    return [row["epoch"] for row in chosen], [row[field] for row in chosen]


if __name__ == "__main__":
    main(Config, run, plot)
