"""What does training cost beside its step: the input pipeline, the norms, and the start?

    SEQLAB_DATA_MIRROR=... python -m experiments.benchmarks.training

The net is the 2-layer LSTM-200 of Zaremba et al. (2014) on Penn Treebank, B = 20, T = 35. Measured
in one process, variants interleaved with the order turned every other round: batches a second that
the pipeline alone hands out, against steps a second that training consumes; the step with norms by
group never, every tenth and every step. Then, in processes of their own with an empty cache of
compiled programs and with the cache that the first one filled: seconds from the start of Python to
the first training step. Medians over rounds; run it alone on the machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.cells.lstm import LSTM
from seqlab.cli import main
from seqlab.data.batching import Buckets, Feed, Streams
from seqlab.data.checks import check_at_least
from seqlab.data.text import text_parts
from seqlab.data.vocabulary import Words
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.runlog import RunLog
from seqlab.timing import time_variants
from seqlab.train import init_state, make_train_step


@dataclass(frozen=True)
class Config:
    """Input pipeline, norms and start, against the training step."""

    dataset: str = "ptb"
    """ptb, tinyshakespeare or embedded, as words"""
    hidden_size: int = 200
    num_layers: int = 2
    batch_size: int = 20
    seq_len: int = 35
    steps: int = 10
    """training steps a round"""
    batches: int = 500
    """batches that the pipeline alone hands out, a round"""
    rounds: int = 25
    """timed rounds after one of warm-up"""
    starts: int = 3
    """pairs of cold and warm starts"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("hidden_size", "num_layers", "batch_size", "seq_len", "steps", "batches",
                      "rounds", "starts"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            dataset="embedded", hidden_size=8, num_layers=1, batch_size=4, seq_len=10, steps=2,
            batches=20, rounds=1, starts=1,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Measures all three."""
    text = text_parts(config.dataset)["train"]
    vocabulary = Words.of(text)
    ids = vocabulary.encode_lines(text)
    sentences = [vocabulary.encode(line, eos=True) for line in text.splitlines() if line.strip()]
    streams = Streams(ids, config.batch_size, config.seq_len)
    sources = {
        "streams": streams,
        "buckets": Buckets(
            sentences, "next", batch_size=config.batch_size, num_buckets=8, seed=config.seed
        ),
    }
    pipeline = {
        f"pipeline: {name}": lambda source=source: hand_out(source, config.batches)
        for name, source in sources.items()
    }
    training = {
        f"step, norms {label}": trainer(config, len(vocabulary), streams, every)
        for label, every in (
            ("never", None),
            ("never, again", None),
            ("every 10th", 10),
            ("every step", 1),
        )  # the second tells the noise from the cost
    }
    seconds = time_variants(training | pipeline, config.rounds)
    step_s = statistics.median(seconds["step, norms never"]) / config.steps
    rows = []
    for name, times in seconds.items():
        count = config.steps if name in training else config.batches
        each = statistics.median(times) / count
        row = {"variant": name, "median_ms": each * 1e3, "least_ms": min(times) / count * 1e3}
        row |= {"x_step": each / step_s, "per_s": 1 / each}
        rows.append(row)
        log.write(step=0, variant=name, rounds=len(times))
    log.table(
        f"{config.dataset}: {config.num_layers} x LSTM-{config.hidden_size}, "
        f"B={config.batch_size} T={config.seq_len}, V={len(vocabulary)}",
        rows,
    )
    # Side by side, round by round: the ratio's own median, not that of two medians.
    ratio = {
        name: statistics.median(
            a / b for a, b in zip(seconds[name], seconds["step, norms never"], strict=True)
        )
        for name in training
    }
    starts = time_starts(config.starts)
    log.table("from the start of Python to the first training step, s", [starts])
    log.finish(
        rows=rows,
        pipeline_x_step={name: step_s / (1 / row["per_s"]) for name, row in
                         ((row["variant"], row) for row in rows) if name in pipeline},
        norms_x_step=ratio,
        **{f"first_step_{name}_s": value for name, value in starts.items()},
    )  # fmt: skip


def hand_out(source, count):
    """Takes `count` batches from a feed, as training would."""
    with Feed(source) as feed:
        for _ in range(count):
            next(feed)


def trainer(config, vocab_size, streams, norms_every):
    """A call that takes `config.steps` training steps on batches that are there already."""
    model = functional(
        ManyToMany,
        LSTM(config.hidden_size),
        input_size=config.hidden_size,
        output_size=vocab_size,
        vocab_size=vocab_size,
        num_layers=config.num_layers,
    )
    optimizer = optax.sgd(1.0)

    def loss_fn(params, batch, key):
        del key
        logits = model.apply(params, batch["xs"]).logits
        return jnp.mean(cross_entropy(logits, batch["targets"])), {}

    step = jax.jit(make_train_step(loss_fn, optimizer, clip_norm=5.0, norms_every=norms_every))
    state = init_state(model.init(jax.random.key(config.seed)), optimizer, jax.random.key(1))
    batches = [streams.batch(k % streams.batches_per_epoch) for k in range(config.steps)]
    batches = [{name: batch[name] for name in ("xs", "targets")} for batch in batches]

    def call():
        now = state.replace(key=jax.random.clone(state.key))
        for batch in batches:
            now, metrics = step(now, batch)
        jax.block_until_ready((now, metrics))

    return call


def time_starts(count):
    """Medians of seconds to the first step, with an empty cache and with a filled one."""
    seconds = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(count):
            cache = Path(folder) / f"compiled-{k}"
            for name in seconds:
                out = Path(folder) / f"{name}-{k}"
                seconds[name].append(first_step_s(out, cache))
    return {name: float(np.median(values)) for name, values in seconds.items()}


def first_step_s(out, cache):
    """Seconds until a run of the language model has written its first training step."""
    command = [sys.executable, "-m", "experiments.rnn_lm", "--quick", "--log-every", "1"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = out / "metrics.jsonl"
    try:
        while not (metrics.exists() and b'"train"' in metrics.read_bytes()):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended before its first step")
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(Config, run)
