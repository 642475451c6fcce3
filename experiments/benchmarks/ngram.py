"""How many tokens a second do n-grams take, next to NLTK, and how much memory a long text?

    python -m experiments.benchmarks.ngram
    python -m experiments.benchmarks.ngram --parts stream --stream-tokens 100000000

Three parts:

    nltk      counting, Kneser-Ney training and perplexity of one text, here and in NLTK; and how
              far the probabilities of the two differ where they define the same model
    large     counting and training of order 5 in memory
    stream    counting of order 3 with pieces on disk, in a process of its own, and its peak memory

The text is generated: phrases of Zipf words, themselves drawn by a Zipf law, so that n-grams come
again as in a real text. NLTK is timed once, on the same tokens; of the unseen text it scores
`nltk_scored` only, at some 70 ms each, for its `fit` counts and no more: what Kneser-Ney needs of
the counts it works out at every score. Ours is the median of the rounds. Without nltk (extra
`peers`) that part is absent. 100 million tokens take about 25 GB in the temporary folder. Run it
alone on the machine.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_distinct
from seqlab.data.synthetic import zipf_phrases
from seqlab.data.vocabulary import EOS, Words
from seqlab.ngram import Counts, count_ngrams, fit
from seqlab.runlog import RunLog
from seqlab.timing import time_variants

NLTK_DISCOUNT = 0.1


@dataclass(frozen=True)
class Config:
    """n-gram counting, training and scoring, timed."""

    parts: tuple[Literal["nltk", "large", "stream"], ...] = ("nltk", "large", "stream")
    """what is timed"""
    vocab_size: int = 10_000
    """words"""
    num_tokens: int = 1_000_000
    """of the text that NLTK reads too"""
    order: int = 3
    """N, beside NLTK and of the stream"""
    num_scored: int = 80_000
    """tokens of unseen text that ours scores"""
    nltk_scored: int = 200
    """tokens of it that NLTK scores"""
    large_tokens: int = 10_000_000
    large_order: int = 5
    stream_tokens: int = 10_000_000
    stream_piece: int = 4_000_000
    """tokens that are taken at a time"""
    rounds: int = 7
    """timed calls"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_distinct(self.parts, "parts")
        for field in ("vocab_size", "num_tokens", "num_scored", "nltk_scored", "large_tokens",
                      "stream_tokens", "stream_piece", "rounds"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            vocab_size=300, num_tokens=3000, num_scored=300, nltk_scored=20, large_tokens=20_000,
            stream_tokens=20_000, stream_piece=4000, rounds=1,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Times every part that can be had."""
    rows = []
    vocabulary = Words(tuple(f"w{i}" for i in range(config.vocab_size)))
    if "nltk" in config.parts:
        if importlib.util.find_spec("nltk") is None:
            log.note("nltk is not installed: its rows are absent")
        rows += beside_nltk(config, vocabulary, log)
    if "large" in config.parts:
        rows += large(config, vocabulary)
    if "stream" in config.parts:
        rows += stream(config)
    log.write(step=0, what=[row["what"] for row in rows])
    log.table("n-grams", rows)
    log.finish(rows=rows)


def beside_nltk(config: Config, vocabulary: Words, log: RunLog) -> list[dict[str, object]]:
    """Tokens a second of each step, ours and NLTK's, and the largest difference of probability."""
    ids = np.concatenate(
        [*zipf_phrases(config.num_tokens + config.num_scored, config.vocab_size, config.seed)]
    )
    train, unseen = np.split(ids, [config.num_tokens // 20 * 20])
    counts = count_ngrams(train, config.order, vocabulary)
    model = same_as_nltk(counts)
    times = time_variants(
        {
            "counting": lambda: count_ngrams(train, config.order, vocabulary),
            "Kneser-Ney training": lambda: same_as_nltk(
                count_ngrams(train, config.order, vocabulary)
            ),
            "Kneser-Ney perplexity": lambda: model.score_tokens(unseen).perplexity_without_unknown,
        },
        config.rounds,
    )
    num_tokens = {"counting": len(train), "Kneser-Ney training": len(train),
                  "Kneser-Ney perplexity": len(unseen)}  # fmt: skip
    rates = {what: num_tokens[what] / float(np.median(each)) for what, each in times.items()}
    theirs, difference = nltk_rates(config, train, unseen, model)
    log.note(f"largest difference of probability from NLTK's: {difference}")
    return [
        {
            "what": what, "order": config.order, "tokens": num_tokens[what], "tokens_per_s": rate,
            "nltk_tokens_per_s": theirs.get(what),
            "x_nltk": rate / theirs[what] if what in theirs else None,
            "largest_difference": difference if what == "Kneser-Ney perplexity" else None,
        }
        for what, rate in rates.items()
    ]  # fmt: skip


def same_as_nltk(counts: Counts):
    """NLTK's Kneser-Ney: one discount for everything, unigrams as ratios."""
    return fit(counts, "kneser-ney", discount=NLTK_DISCOUNT, interpolate_unigrams=False)


def sentences(ids: np.ndarray) -> list[list[str]]:
    """The text as NLTK takes it, one <s> and one </s> a sentence."""
    ends = np.flatnonzero(ids == EOS) + 1
    lines = np.split(ids, ends)
    return [["<s>", *map(str, line[:-1].tolist()), "</s>"] for line in lines if len(line)]


def nltk_rates(config, train, unseen, model) -> tuple[dict[str, float], float | None]:
    """Tokens a second of NLTK, on the same n-grams, and the largest difference from ours."""
    if importlib.util.find_spec("nltk") is None:
        return {}, None
    from nltk.lm import MLE, KneserNeyInterpolated
    from nltk.util import everygrams

    lines = sentences(train)
    words = [word for line in lines for word in line[1:]]

    def fitted(kind, **options):
        lm = kind(order=config.order, **options)
        # What ends in <s> is no n-gram of ours: only the unigram does.
        grams = ([g for g in everygrams(line, max_len=config.order) if g != ("<s>",)]
                 for line in lines)  # fmt: skip
        clock = time.perf_counter()
        lm.fit(grams, words)
        return lm, len(train) / (time.perf_counter() - clock)

    rates = {}
    _, rates["counting"] = fitted(MLE)
    lm, rates["Kneser-Ney training"] = fitted(KneserNeyInterpolated, discount=NLTK_DISCOUNT)
    done, spent, difference = 0, 0.0, 0.0
    for line in sentences(unseen):
        for i in range(config.order, len(line)):  # <s> in no context: there the models differ
            context = tuple(line[i - config.order + 1 : i])
            if any(word not in lm.vocab for word in context):
                continue  # after a word that training has not seen, NLTK divides by zero
            clock = time.perf_counter()
            theirs = lm.score(line[i], context)
            spent += time.perf_counter() - clock
            ids = [EOS if word == "</s>" else int(word) for word in (*context, line[i])]
            ours = model.next_distribution(ids[:-1])[ids[-1]]
            difference = max(difference, abs(float(ours) - theirs))
            done += 1
        if done >= config.nltk_scored:
            break
    rates["Kneser-Ney perplexity"] = done / max(spent, 1e-9)
    return rates, difference


def large(config: Config, vocabulary: Words) -> list[dict[str, object]]:
    """A text of millions of tokens in memory, once."""
    ids = np.concatenate([*zipf_phrases(config.large_tokens, config.vocab_size, config.seed)])
    clock = time.perf_counter()
    counts = count_ngrams(ids, config.large_order, vocabulary)
    counted = time.perf_counter()
    fit(counts)
    done = time.perf_counter()
    return [
        {
            "what": what, "order": config.large_order, "tokens": len(ids), "s": seconds,
            "tokens_per_s": len(ids) / seconds, "ngrams": sum(counts.num_distinct),
        }
        for what, seconds in (
            ("counting, in memory", counted - clock),
            ("modified Kneser-Ney from the counts", done - counted),
        )
    ]  # fmt: skip


STREAM = """
import json, sys, time
from pathlib import Path
from seqlab.data.synthetic import zipf_phrases
from seqlab.data.vocabulary import Words
from seqlab.ngram import count_ngrams

tokens, vocab_size, seed, order, piece = map(int, sys.argv[2:])
vocabulary = Words(tuple(f"w{i}" for i in range(vocab_size)))
clock = time.perf_counter()
counts = count_ngrams(
    zipf_phrases(tokens, vocab_size, seed), order, vocabulary, folder=sys.argv[1], max_tokens=piece
)
seconds = time.perf_counter() - clock
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
found = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
peak = found[0] if found else None
print(json.dumps({"s": seconds, "peak_rss_mb": peak, "ngrams": sum(counts.num_distinct)}))
"""


def stream(config: Config) -> list[dict[str, object]]:
    """A text that is made as it is counted, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = (config.stream_tokens, config.vocab_size, config.seed, config.order,
                   config.stream_piece)  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", STREAM, folder, *map(str, numbers)],
            check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    found = json.loads(done.stdout)
    return [
        {
            "what": "counting, pieces on disk", "order": config.order,
            "tokens": config.stream_tokens, "tokens_per_s": config.stream_tokens / found["s"],
            **found,
        }
    ]  # fmt: skip


if __name__ == "__main__":
    main(Config, run)
