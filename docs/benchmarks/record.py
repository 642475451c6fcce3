"""Keeps benchmark runs in this folder and writes ../benchmarks.md from all that are kept.

python docs/benchmarks/record.py RUN_DIR...
"""

import json
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Each table is from one run, kept as a file in [benchmarks/](benchmarks/) and written by
`python docs/benchmarks/record.py RUN_DIR...`. Medians; a ratio compares medians of the same run.
"""
ABOUT = {
    "recurrence": """## A training step of one recurrent layer

Sizes are sequences x steps x input width x units. "seqlab per core" shares the batch out over one
XLA device a core, which training does by itself where a batch is large enough ("as trained" in the
means). `x_jax_peer` is against the fastest of Flax nnx, Flax linen, Haiku, Equinox and Keras at
that size; `x_limit_sequential` against the bare matrix products, step after step, by PyTorch. The
least time is beside each median; where they are far apart the row is marked noisy.

![Time of a training step as a multiple of PyTorch's](benchmarks/recurrence.png)
""",
    "probes": """## Gradient probes

`x_first` is against the first row of the same cell: the plain training step, the hand-written
scan, the QR decomposition at every step. `error` is the largest difference of an exponent from that
row's, in nats per step: a frame that is orthonormalised too rarely gives wrong small exponents,
which is why `lyapunov_exponents` chooses and checks.
""",
    "memory": """## Long sequences

One LSTM, each variant in a process of its own: XLA's temporary memory, and the peak of resident
memory above what was there before the first step.
""",
    "ensemble": """## 64 nets side by side

Adding problem, Adam, clipping, T = 50, 8 sequences a net, by `ensemble.train_nets`; everything as a
multiple of 64 times one net. `x_one`: an update, of one net trained as a run trains it;
`x_one_scanned`: of one net in `train_nets`, without a host round trip a step; `x_first`: the first
updates with tracing and compiling; `x_run`: a run of 1000 updates, which is both. A single update
of a net of 64 units fills two cores by itself, so there is less to gain there.
""",
    "language_models": """## A training step of a language model

The nets of Zaremba et al. (2014), B = 20, beside the same update in PyTorch on the same batches:
forward, backward, clipping and SGD, dropout included, the carry kept. `x_torch` is how many times
as many tokens a second, the median over rounds of the rounds' own ratios.
""",
    "classification": """## A training step of a sentence classifier

A bidirectional net of 128 units over sentences of movie reviews (MR), B = 64, Adam, beside
the same update in PyTorch with packed sequences on the same sentences. Ours come in buckets of like
length, one compiled step each; `x_torch` is the median over rounds of the rounds' own ratios.
""",
    "decoding": """## Beam search

A beam of 5 over the test part of Multi30k, German to English, by the net with attention of README's
table, beside the same search written for PyTorch with the same weights. `same`: the share of
sentences of which both wrote the same; `compiled`: programs that were compiled for all batches.
`x_torch` is the median over rounds of the rounds' own ratios.
""",
    "ngram": """## n-grams beside NLTK, and in bounded memory

A generated text: phrases of Zipf words, themselves drawn by a Zipf law. `x_nltk` is how many times
as many tokens a second as NLTK's, timed once, on the same tokens but for scoring: there NLTK has
200 of them, for its `fit` counts only and leaves the rest to every score. `largest_difference` of
their probabilities from NLTK's, where both define the same model. With pieces on disk the peak of
resident memory is of a process of its own, Python and all.
""",
    "word2vec": """## word2vec beside gensim

Skip-gram with 5 negatives, 100 dimensions, window 5, one epoch of the first words of the text;
`x_gensim` is the median over rounds.
""",
    "word2vec_cbow": """## CBOW beside gensim

As above, by CBOW with the mean of the context.
""",
    "word2vec_quality": """## Vectors beside gensim's

Skip-gram on the whole text with the same settings, five epochs; Spearman's correlation on WS-353,
SimLex-999 and RG-65 and the share of right analogies among those of known words: mean over seeds,
and its standard error.
""",
    "glove": """## GloVe beside a compiled loop

Entries a second of AdaGrad epochs; the reference is a two-thread loop without locks.
""",
    "training": """## What training costs beside its step

Two layers of 200 LSTM units on Penn Treebank, B = 20, T = 35: the step with norms by group of
parameters never (twice, which tells the noise), at every tenth step and at every step; and the
batches that the input pipeline hands out when nobody trains on them. `x_step` is against the step
without norms.
""",
    "startup": """## Start

Whole processes, from start to end.
""",
}


def table(rows):
    """A table in Markdown; numbers to three digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(text(row.get(name)) for name in names) + " |")
    return "\n".join(lines)


def text(value):
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def name_of(record):
    """What a run is kept as: another method, and what does not time, are tables of their own."""
    config = record["config"]
    method = "_cbow" if config.get("method") == "cbow" else ""
    return record["experiment"] + method + ("_quality" if config.get("quality") else "")


def section(kept):
    """A benchmark's part of the page."""
    record, summary = kept["record"], kept["summary"]
    command = re.sub(r" --out \S+", "", record["command"])
    parts = [ABOUT[name_of(record)], f"```bash\n{command}\n```\n"]
    parts.append(summary.get("machine") or f"{summary['device']}, jax {record['versions']['jax']}")
    if "means" in summary:
        parts += ["\n### Geometric means over sizes\n", table(summary["means"]), "\n### Every size"]
    return "\n".join([*parts, "", table(summary["rows"]), ""])


def main():
    for path in map(Path, sys.argv[1:]):
        record = json.loads((path / "config.json").read_text())
        kept = {"record": record, "summary": json.loads((path / "summary.json").read_text())}
        (HERE / f"{name_of(record)}.json").write_text(json.dumps(kept, indent=1) + "\n")
        for figure in (path / "figures").glob("*.png"):
            shutil.copy(figure, HERE)
    found = [HERE / f"{name}.json" for name in ABOUT]
    sections = [section(json.loads(path.read_text())) for path in found if path.exists()]
    (HERE.parent / "benchmarks.md").write_text("\n".join([HEAD, *sections]))


if __name__ == "__main__":
    main()
