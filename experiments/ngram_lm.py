"""n-gram language models: how far does a window of a few words go, and what does it cost?

    python -m experiments.ngram_lm
    python -m experiments.ngram_lm --dataset ptb --order 6
    python -m experiments.ngram_lm --dataset tinyshakespeare --level char --order 7
    python -m experiments.ngram_lm --dataset korean --level subword    # or bilingual; or char
    python -m experiments.ngram_lm --corpus my.txt --min-count 2 --prime "The"
    python -m experiments.ngram_lm --dataset ptb --beside runs/rnn_lm/...    # mixed with that model

Every order up to `--order` is scored under every smoothing. Three mixtures, their weights found by
EM on the validation part: maximum likelihood of all orders, the model with a cache of recent words,
and, `--beside` a finished run that has scored the same tokens, both together. Penn Treebank, order
5, modified Kneser-Ney: test perplexity 141.2, in seconds.

In the run directory: `scores-valid.npz` and `scores-test.npz`, the log probability of every token
(`seqlab.scoring.load_scores`), `vocabulary.json`, and with `--arpa` the model for other tools.
Figures: perplexity against order, memory against order beside V^n, surprise on a passage.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from seqlab import plots
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_distinct, check_known, check_positive
from seqlab.data.text import text_digest, text_parts
from seqlab.data.vocabulary import (
    EOS,
    UNK,
    UNKNOWN_CHARACTER,
    BytePairs,
    Characters,
    encode_text,
    learn_vocabulary,
)
from seqlab.errors import InputError
from seqlab.ngram import SMOOTHINGS, count_ngrams, fit, write_arpa
from seqlab.ngram.counts import LARGEST_ORDER
from seqlab.ngram.model import encode_prime
from seqlab.runlog import RunLog, read_run
from seqlab.scoring import (
    PARTS,
    cache_scores,
    em_weights,
    interpolate,
    load_scores,
    score_file,
    summary,
)

PASSAGE = {"word": 28, "subword": 36, "char": 60}  # tokens that are shown


@dataclass(frozen=True)
class Config:
    """n-gram models of one text."""

    dataset: str = "embedded"
    """embedded, tinyshakespeare, ptb, korean, bilingual (English and Korean), wikitext-2 or
    wikitext-103"""
    corpus: Path | None = None
    """a UTF-8 text file of your own instead"""
    level: Literal["char", "word", "subword"] = "word"
    """what a token is; subwords are byte pairs"""
    min_count: int = 1
    """words seen less often become <unk>"""
    max_vocabulary: int | None = None
    """largest number of words, of which rarer ones become <unk>, or of byte pairs"""
    order: int = 5
    """N, the largest; all below it are looked at too"""
    smoothing: str = "modified-kneser-ney"
    """of the model that is saved, sampled and mixed"""
    compare: tuple[str, ...] = SMOOTHINGS[:-1]
    """smoothings whose perplexity is drawn against order"""
    k: float = 1.0
    """of add-k"""
    cache_decay: float = 0.995
    """what a word in the cache keeps of its weight with every token"""
    beside: Path | None = None
    """a finished run that has saved its scores of the same tokens, such as of rnn_lm"""
    arpa: bool = False
    """write model.arpa, which KenLM reads"""
    prime: str = ""
    """what the sample goes on from"""
    sample_tokens: int = 60
    """length of the sample"""
    temperature: float = 1.0
    """of the sample; below 1 the probable gains"""
    top_k: int | None = None
    """of the sample: draw among so many"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        if not 1 <= self.order <= LARGEST_ORDER:
            raise InputError(f"order must be in 1 .. {LARGEST_ORDER}, got {self.order}")
        check_distinct(self.compare, "compare")
        for name in (self.smoothing, *self.compare):
            check_known(name, SMOOTHINGS, "smoothing")
        if "stupid-backoff" in (self.smoothing, *self.compare):
            raise InputError("stupid-backoff gives scores, not probabilities: it has no perplexity")
        for field in ("min_count", "sample_tokens"):
            check_at_least(getattr(self, field), 1, field)
        for field in ("k", "temperature"):
            check_positive(getattr(self, field), field)
        if self.top_k is not None:
            check_at_least(self.top_k, 1, "top_k")
        if not 0 < self.cache_decay < 1:
            raise InputError(f"cache_decay must be between 0 and 1, got {self.cache_decay}")
        if self.level != "word" and self.min_count > 1:
            raise InputError("min_count is for --level word")
        if self.max_vocabulary is not None:
            if self.level == "char":
                raise InputError("max_vocabulary is for --level word and subword")
            check_at_least(self.max_vocabulary, 5, "max_vocabulary")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(order=3, compare=("modified-kneser-ney", "witten-bell"))


def run(config: Config, log: RunLog) -> None:
    """Counts once, fits and scores everything, and mixes."""
    parts = text_parts(config.dataset, config.corpus)
    vocabulary = learn_vocabulary(
        parts["train"], config.level, min_count=config.min_count, max_size=config.max_vocabulary
    )
    ids = {name: encode_text(vocabulary, text) for name, text in parts.items()}
    prime = encode_prime(vocabulary, config.prime)
    clock = time.perf_counter()
    counts = count_ngrams(ids["train"], config.order, vocabulary)
    model = fit(counts, config.smoothing, k=config.k)
    train_s = time.perf_counter() - clock
    vocabulary.save(log.path / "vocabulary.json")
    log.write(
        step=0, digest=text_digest(parts["train"]), vocabulary=vocabulary.digest,
        vocab_size=len(vocabulary), predictable=model.num_predictable,
        discounts=model.discounts, fallback_orders=model.fallback_orders,
        **{f"{name}_tokens": len(tokens) for name, tokens in ids.items()},
    )  # fmt: skip
    log.note(f"{counts.num_tokens:,} tokens, V = {model.num_predictable:,}, {train_s:.2f} s")
    look_at_memory(model, counts, log)

    def scored(model):
        return {
            part: model.score_tokens(ids[part], num_characters=characters(config, parts[part]))
            for part in PARTS
        }

    by_order = look_at_orders(config, counts, scored, log)
    clock = time.perf_counter()
    own = scored(model)
    score_s = time.perf_counter() - clock
    for part in PARTS:
        own[part].save(score_file(log.path, part))
    mixtures = mix(config, counts, scored, own, model.num_predictable, log)
    look_at_passage(config, vocabulary, own, by_order, mixtures, log)
    drawn = model.sample(
        config.sample_tokens, seed=config.seed, temperature=config.temperature,
        top_k=config.top_k, prime=prime, steps=writable(vocabulary),
    )  # fmt: skip
    log.write(step=config.order, look="sample", text=config.prime, goes_on=shown(vocabulary, drawn))
    if config.arpa:
        write_arpa(log.path / "model.arpa", model)
    log.finish(
        **summary(own["valid"], own["test"]),
        **{
            f"test_perplexity_{name.replace(' ', '_')}": mixed["test"].perplexity
            for name, mixed in mixtures.items()
        },
        test_perplexity_by_order=[found["test"].perplexity for found in by_order.values()],
        tokens_per_s=counts.num_tokens / train_s,
        scored_tokens_per_s=sum(map(len, own.values())) / score_s,
        parameters=model.num_parameters,
        ngrams_by_order=counts.num_distinct,
        bytes_by_order=model.bytes_by_order,
        full_bytes_by_order=[float(size) for size in model.full_bytes_by_order],
        sample=shown(vocabulary, drawn),
    )


def characters(config, text):
    """What bits per character are counted by; unknown words do not say what they cost."""
    return None if config.level == "word" else len(text)


def writable(vocabulary):
    """What a sample may go on with, see `NGram.sample`: whole characters that can be shown."""
    if isinstance(vocabulary, BytePairs):
        return vocabulary.utf8_steps
    known = np.arange(len(vocabulary)) != UNK
    return np.where(known, 0, -1)[None] if isinstance(vocabulary, Characters) else None


def shown(vocabulary, ids):
    """Ids as text, <eos> as a line end; without a last character that is not whole."""
    text = vocabulary.decode_lines(ids)
    return text.rstrip(UNKNOWN_CHARACTER) if isinstance(vocabulary, BytePairs) else text


def look_at_memory(model, counts, log):
    """What each order takes, and what all its possible n-grams would."""
    for n in range(1, model.order + 1):
        log.write(
            step=n, look="memory", ngrams=counts.num_distinct[n - 1],
            stored_bytes=model.bytes_by_order[n - 1],
            full_bytes=float(model.full_bytes_by_order[n - 1]),
        )  # fmt: skip


def look_at_orders(config, counts, scored, log):
    """Perplexity of every order and smoothing; the scores of the main one by order."""
    kept, rows = {}, []
    for smoothing in dict.fromkeys((config.smoothing, *config.compare)):
        row = {"test perplexity": smoothing}
        for n in range(1, config.order + 1):
            found = scored(fit(counts.up_to(n), smoothing, k=config.k))
            figures = {f"{part}_perplexity": found[part].perplexity for part in PARTS}
            log.write(
                step=n, look="order", smoothing=smoothing, **figures,
                test_perplexity_without_unknown=found["test"].perplexity_without_unknown,
            )  # fmt: skip
            row[f"order {n}"] = figures["test_perplexity"]
            if smoothing == config.smoothing:
                kept[n] = found
        rows.append(row)
    log.table("perplexity of what was not seen", rows)
    return kept


def mix(config, counts, scored, own, num_predictable, log):
    """Mixtures with weights from the validation part: name -> scores by part."""
    ratios = [
        scored(fit(counts.up_to(n), "maximum-likelihood")) for n in range(1, config.order + 1)
    ]
    ratios.insert(0, scored(fit(counts.up_to(1), "add-k")))  # gives every word something
    cache = {part: cache_scores(own[part], num_predictable, decay=config.cache_decay)
             for part in PARTS}  # fmt: skip
    members = {"ratios of all orders": ratios, "with cache": [own, cache]}
    if config.beside is not None:
        other = {part: load_scores(score_file(config.beside, part)) for part in PARTS}
        members |= {"beside alone": [other], "with beside": [own, other],
                    "with beside and cache": [own, other, cache]}  # fmt: skip
    mixtures, rows = {}, []
    for name, each in members.items():
        found = em_weights([scores["valid"] for scores in each])
        mixed = {part: interpolate([scores[part] for scores in each], found.weights)
                 for part in PARTS}  # fmt: skip
        log.write(
            step=config.order, look="mixture", mixture=name, weights=found.weights,
            em_steps=len(found.nats_per_token) - 1,
            **{f"{part}_perplexity": mixed[part].perplexity for part in PARTS},
        )  # fmt: skip
        weights = " ".join(f"{weight:.3f}" for weight in found.weights)
        rows.append({"mixture": name, "weights": weights, "test": mixed["test"].perplexity})
        mixtures[name] = mixed
    log.table("mixtures", rows)
    return mixtures


def look_at_passage(config, vocabulary, own, by_order, mixtures, log):
    """Surprise of every token of a passage from the middle of the test part, by model."""
    tokens = own["test"].tokens
    start = len(tokens) // 2
    if config.level == "word":  # at the beginning of a sentence
        ends = np.flatnonzero(tokens[:start] == EOS)
        start = int(ends[-1]) + 1 if len(ends) else 0
    some = slice(start, start + PASSAGE[config.level])
    orders = sorted({1, 2, config.order} & set(by_order))
    models = {f"order {n}": by_order[n]["test"] for n in orders}
    models |= {name: mixtures[name]["test"] for name in ("with cache", "beside alone")
               if name in mixtures}  # fmt: skip
    log.write(
        step=config.order, look="passage",
        tokens=[vocabulary.token(int(token)) for token in tokens[some]],
        bits={name: -scores.log_probs[some] / math.log(2) for name, scores in models.items()},
    )  # fmt: skip


def plot(path: Path) -> None:
    """Draws the figures of a run from its files."""
    metrics = read_run(path).metrics
    figures = path / "figures"
    lines = plots.pick(metrics, look="order")
    curves = {}
    for smoothing in dict.fromkeys(row["smoothing"] for row in lines):
        rows = [row for row in lines if row["smoothing"] == smoothing]
        curves[smoothing] = [row["step"] for row in rows], [row["test_perplexity"] for row in rows]
    levels = {row["mixture"]: row["test_perplexity"] for row in plots.pick(metrics, look="mixture")}
    plots.save(plots.perplexity_by_order(curves, levels), figures / "perplexity_by_order.png")
    rows = plots.pick(metrics, look="memory")
    columns = ([row[name] for row in rows] for name in ("step", "stored_bytes", "full_bytes"))
    plots.save(plots.memory_by_order(*columns), figures / "memory_by_order.png")
    (passage,) = plots.pick(metrics, look="passage")
    plots.save(plots.token_surprise(passage["tokens"], passage["bits"]), figures / "surprise.png")


if __name__ == "__main__":
    main(Config, run, plot)
