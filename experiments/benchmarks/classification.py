"""How many sentences a second does a recurrent classifier train on, next to the same in PyTorch?

    python -m experiments.benchmarks.classification --dataset rt_polarity
    python -m experiments.benchmarks.classification --cells gru --pooling mean

A bidirectional LSTM of 128 units reads sentences of film reviews (MR, `--dataset rt_polarity`), or
made-up ones that need no download, with lengths like theirs (21 tokens in the mean, 60 at most) and
words drawn from a Zipf vocabulary as large as theirs; B = 64, through an embedding of 300 that is
trained, and answers one of two classes. One update is forward, backward
and Adam, float32, no dropout. Batches come from `Buckets`: each has its bucket's length, and the
step is compiled once for each. Ours is `make_train_step` as a session runs it, the batch shared out
over one XLA device a core where that is told. PyTorch's is `nn.Embedding`, `nn.LSTM` or `nn.GRU` on
`pack_padded_sequence`, `nn.Linear`, `cross_entropy` and `Adam`, with as many threads as there are
cores; it is given real sentences alone, cut to the longest of the batch.

Both take the same batches in turn in one process, the order turned every other round, one epoch of
`num_sentences` a round. The rate is of the median round, the ratio the median of the rounds' own;
the loss after all rounds, on the same sentences over and over, tells that both learn alike. Without
torch (extra `peers`) its rows are absent. Run it alone on the machine.
"""

import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.cells.lookup import lookup
from seqlab.cli import main
from seqlab.data.batching import Buckets
from seqlab.data.checks import check_at_least, check_distinct, check_known
from seqlab.data.labelled import class_vocabulary, encode_texts, load_labelled
from seqlab.data.vocabulary import SPECIALS
from seqlab.devices import Devices, num_cores
from seqlab.losses import cross_entropy, masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.runlog import RunLog, processor
from seqlab.session import compile_step
from seqlab.timing import time_variants
from seqlab.train import init_state, make_train_step

CELLS = ("lstm", "gru")
MEAN_LENGTH, SHAPE, LONGEST = 21.0, 4.5, 60  # of MR's lengths, nearly a gamma distribution


@dataclass(frozen=True)
class Config:
    """Training throughput of a bidirectional classifier, next to PyTorch with packed sequences."""

    dataset: Literal["made-up", "rt_polarity"] = "made-up"
    """what is read"""
    cells: tuple[str, ...] = CELLS
    """of lstm, gru"""
    pooling: str = "last"
    """last or mean"""
    hidden_size: int = 128
    """H, of each direction"""
    embed_size: int = 300
    """width of the embedding"""
    vocab_size: int = 18_765
    """words, of which rt_polarity's are the most frequent ones"""
    batch_size: int = 64
    """sentences in a batch"""
    num_sentences: int = 1280
    """trained on in a round"""
    num_buckets: int = 8
    """lengths that a batch may be padded to"""
    rounds: int = 11
    """timed rounds"""
    num_devices: int | None = 1
    """XLA devices that share out a batch; every one of them updates the whole embedding"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_distinct(self.cells, "cells")
        for name in self.cells:
            check_known(name, CELLS, "cell")
        check_known(self.pooling, ("last", "mean"), "pooling")
        for field in ("hidden_size", "embed_size", "vocab_size", "batch_size", "num_sentences",
                      "num_buckets", "rounds"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        if self.num_devices is not None:
            check_at_least(self.num_devices, 1, "num_devices")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            cells=("gru",), hidden_size=4, embed_size=5, vocab_size=50, batch_size=8,
            num_sentences=20, num_buckets=2, rounds=3,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Times every cell, ours and PyTorch's."""
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        log.note("torch: left out, not installed: pip install -e '.[peers]'")
    buckets = sentences(config)
    batches = [buckets.batch(number) for number in range(buckets.batches_per_epoch)]
    num_tokens = sum(int(batch["mask"].sum()) for batch in batches)
    rows, ratios = [], {}
    for name in config.cells:
        calls: dict[str, Callable[[], float]] = {"seqlab": ours(config, name, batches)}
        if has_torch:
            calls["torch, packed"] = theirs(config, name, batches)
        seconds = time_variants(calls, config.rounds)
        if has_torch:
            pairs = zip(seconds["torch, packed"], seconds["seqlab"], strict=True)
            ratios[name] = statistics.median(torch_s / own_s for torch_s, own_s in pairs)
        for label, times in seconds.items():
            epoch_s = statistics.median(times)
            log.write(step=0, cell=name, variant=label, rounds=config.rounds)
            rows.append(
                {
                    "cell": name, "variant": label,
                    "sentences_per_s": config.num_sentences / epoch_s,
                    "tokens_per_s": num_tokens / epoch_s,
                    "median_ms": epoch_s / len(batches) * 1e3,
                    "least_ms": min(times) / len(batches) * 1e3, "final_loss": calls[label](),
                    "x_torch": ratios.get(name) if label == "seqlab" else None,
                }
            )  # fmt: skip
    log.table(
        f"bi-{'/'.join(config.cells)}, H={config.hidden_size}, B={config.batch_size}, "
        f"{len(buckets.shapes)} shapes, {buckets.padding:.0%} padding: a training step",
        rows,
    )
    log.finish(
        rows=rows, x_torch=ratios, padding=buckets.padding, compiled_shapes=len(buckets.shapes),
        mean_length=num_tokens / config.num_sentences, machine=machine(config, has_torch),
    )  # fmt: skip


def sentences(config: Config) -> Buckets:
    """Batches of sentences by length; of made-up ones the first word tells the class."""
    rng = np.random.default_rng(config.seed)
    if config.dataset == "rt_polarity":
        data = load_labelled(config.dataset)
        chosen = rng.permutation(data.rows["train"])[: config.num_sentences]
        vocabulary = class_vocabulary(data, max_size=config.vocab_size)
        texts = encode_texts(vocabulary, [data.texts[row] for row in chosen.tolist()], data.cut)
        return _buckets(config, texts, data.labels[chosen])
    lengths = rng.gamma(SHAPE, MEAN_LENGTH / SHAPE, config.num_sentences).round()
    lengths = np.clip(lengths, 1, LONGEST).astype(int)
    weights = np.cumsum(1 / (np.arange(config.vocab_size) + 2.7))
    words = np.searchsorted(weights, rng.random(lengths.sum()) * weights[-1])
    texts = np.split(words.astype(np.int32) + len(SPECIALS), np.cumsum(lengths)[:-1])
    labels = np.array([int(text[0]) % 2 for text in texts])
    return _buckets(config, texts, labels)


def _buckets(config, texts, labels):
    return Buckets(
        texts, labels, batch_size=config.batch_size, num_buckets=config.num_buckets,
        seed=config.seed,
    )  # fmt: skip


def ours(config, name, batches):
    """A call that takes an update a batch as a `Session` does, and goes on where it ended."""
    model = functional(
        ManyToOne,
        lookup(name)(hidden_size=config.hidden_size),
        input_size=config.embed_size,
        output_size=2,
        vocab_size=config.vocab_size + len(SPECIALS),
        bidirectional=True,
        pooling=config.pooling,
    )
    optimizer = optax.adam(1e-3)

    def loss_fn(params, batch, key):
        logits = model.apply(params, batch["xs"], batch["mask"], key=key).logits
        loss = masked_mean(cross_entropy(logits, batch["targets"]), batch["is_real"])
        return loss, {"weight": jnp.sum(batch["is_real"])}

    params = model.init(jax.random.key(config.seed))
    state = init_state(params, optimizer, jax.random.key(config.seed + 1))
    shared = Devices.sharing(config.batch_size, config.num_devices)
    state = state if shared is None else shared.put_state(state)
    compiled = compile_step(make_train_step(loss_fn, optimizer), state, shared)
    names = ("xs", "mask", "targets", "is_real")
    batches = [{name: batch[name] for name in names} for batch in batches]

    def call():
        nonlocal state
        losses = []
        for batch in batches:
            state, metrics = compiled(state, batch if shared is None else shared.put_batch(batch))
            losses.append(metrics["loss"])
        return float(jnp.mean(jnp.stack(losses)))

    return call


def theirs(config, name, batches):
    """The same by PyTorch; its packed sequences have no row without a token."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.manual_seed(config.seed)
    torch.set_num_threads(num_cores())
    embed = torch.nn.Embedding(config.vocab_size + len(SPECIALS), config.embed_size)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name]
    rnn = layer(config.embed_size, config.hidden_size, batch_first=True, bidirectional=True)
    head = torch.nn.Linear(2 * config.hidden_size, 2)
    weights = [*embed.parameters(), *rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    parts = []
    for batch in batches:
        real = batch["is_real"]
        lengths = batch["mask"][real].sum(axis=1)
        xs = batch["xs"][real, : lengths.max()]
        parts.append([torch.from_numpy(array).long() for array in
                      (xs, lengths, batch["targets"][real])])  # fmt: skip

    def features(xs, lengths):
        packed = pack_padded_sequence(embed(xs), lengths, batch_first=True, enforce_sorted=False)
        ys, last = rnn(packed)
        if config.pooling == "mean":
            ys, _ = pad_packed_sequence(ys, batch_first=True)
            return ys.sum(dim=1) / lengths[:, None]
        last = last[0] if name == "lstm" else last
        return torch.cat([last[0], last[1]], dim=-1)

    def call():
        losses = []
        for xs, lengths, targets in parts:
            loss = torch.nn.functional.cross_entropy(head(features(xs, lengths)), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return call


def machine(config, has_torch):
    """One line: processor, devices, threads and versions."""
    shared = Devices.sharing(config.batch_size, config.num_devices)
    parts = [processor(), f"{num_cores()} cores", f"{shared.count if shared else 1} XLA device(s)",
             f"jax {jax.__version__}"]  # fmt: skip
    if has_torch:
        import torch

        parts += [f"torch {torch.__version__}", f"{torch.get_num_threads()} torch threads"]
    return ", ".join(parts)


if __name__ == "__main__":
    main(Config, run)
