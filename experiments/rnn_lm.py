"""A recurrent language model: trained on one long text, scored by the perplexity of unseen text.

    python -m experiments.rnn_lm
    python -m experiments.rnn_lm --dataset ptb --level word --num-layers 2 --hidden-size 200
    python -m experiments.rnn_lm --corpus my.txt --cell gru --out runs/mine

The text is read as parallel streams, and the carry goes from batch to batch; gradients reach back
`seq_len` steps. Killed or stopped, the same command with the same `--out` goes on to the same
numbers. Figure: loss and norms of gradient, parameters and update over training.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from seqlab import plots
from seqlab.cells.lookup import lookup
from seqlab.cli import main
from seqlab.data.batching import Feed, Streams
from seqlab.data.checks import check_at_least, check_positive
from seqlab.data.text import text_digest, text_parts
from seqlab.data.vocabulary import Characters, Words, vocabulary_from_json
from seqlab.devices import Devices, local
from seqlab.errors import InputError
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.runlog import RunLog, read_run
from seqlab.session import Session
from seqlab.train import init_state, learning_rate_schedule, make_train_step


@dataclass(frozen=True)
class Config:
    """Recurrent language model with streams, resume, early stopping and data parallelism."""

    may_change: ClassVar = ("save_every", "patience", "num_devices", "on_nonfinite")

    dataset: str = "embedded"
    """embedded, tinyshakespeare or ptb"""
    corpus: Path | None = None
    """a UTF-8 text file of your own instead"""
    level: Literal["char", "word"] = "char"
    """what a token is"""
    max_vocabulary: int | None = None
    """largest number of words; rarer ones become <unk>"""
    cell: str = "lstm"
    """name of a cell, or package.module:Class"""
    num_layers: int = 1
    hidden_size: int = 128
    """H, units a layer"""
    embed_size: int = 64
    """D, width of a token's embedding"""
    dropout: float = 0.0
    """between layers"""
    seq_len: int = 64
    """T, steps that gradients reach back"""
    batch_size: int = 32
    """B, streams"""
    accumulate: int = 1
    """turns in which a batch is taken"""
    num_epochs: int = 4
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 3e-3
    schedule: Literal["constant", "linear", "cosine", "exponential"] = "cosine"
    """of the learning rate, over all epochs"""
    warmup_steps: int = 0
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    patience: int | None = None
    """epochs without a better validation figure after which to stop"""
    save_every: int = 200
    """steps between checkpoints"""
    log_every: int = 10
    """steps between lines of the log"""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """what a step that is not finite does"""
    num_devices: int | None = None
    """how many share out each batch; by default all, of a processor one a core that gets 8 rows"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("num_layers", "hidden_size", "embed_size", "seq_len", "batch_size",
                      "accumulate", "num_epochs", "save_every", "log_every"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        for field in ("patience", "num_devices"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        for field in ("learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must be a probability below 1, got {self.dropout}")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate is {self.accumulate}: choose a multiple of it for batch_size, which "
                f"is {self.batch_size}"
            )
        if self.max_vocabulary is not None:
            if self.level == "char":
                raise InputError("max_vocabulary is for --level word")
            check_at_least(self.max_vocabulary, 5, "max_vocabulary")
        lookup(self.cell)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            hidden_size=16, embed_size=8, seq_len=32, batch_size=64, num_epochs=1, save_every=50
        )


def run(config: Config, log: RunLog) -> None:
    """Trains, validates after every epoch, and scores the best model."""
    parts = text_parts(config.dataset, config.corpus)
    vocabulary = learn(config, parts["train"])
    ids = {name: encode(vocabulary, text) for name, text in parts.items()}
    streams = Streams(ids["train"], config.batch_size, config.seq_len)
    per_epoch = streams.batches_per_epoch
    num_steps = config.num_epochs * per_epoch
    files = {"vocabulary": vocabulary.to_json()}
    train_step, state = build(config, files, num_steps)
    score = scorer(config, len(vocabulary))
    shared = Devices.sharing(config.batch_size // config.accumulate, config.num_devices)
    log.write(
        step=0,
        digest=text_digest(parts["train"]),
        vocabulary=vocabulary.digest,
        vocab_size=len(vocabulary),
        **{f"{name}_tokens": len(tokens) for name, tokens in ids.items()},
    )
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.note(f"{len(ids['train'])} tokens, V = {len(vocabulary)}, {num_parameters} parameters")
    rate = learning_rate(config, num_steps)

    def nats_per_token(params, part):
        return score(local(params), Streams(ids[part], config.batch_size, config.seq_len))

    with (
        Feed(streams) as feed,
        Session(
            log,
            state,
            feed,
            num_steps=num_steps,
            save_every=config.save_every,
            patience=config.patience,
            on_nonfinite=config.on_nonfinite,
            files=files,
            devices=shared,
        ) as session,
    ):
        for step, state, metrics in session.steps(train_step):
            if step % config.log_every == 0:
                log.write(step=step, split="train", learning_rate=rate(step - 1), **metrics)
            if step % per_epoch == 0:
                nats = nats_per_token(state.params, "valid")
                log.write(step=step, split="valid", loss=nats, epoch=step // per_epoch)
                session.report(step, nats)
        best = session.best_state()
    figures = {}
    for part in ("valid", "test"):
        nats = nats_per_token(best.params, part)
        log.write(step=session.step, split=f"{part} of the best", loss=nats)
        figures |= {f"{part}_nats_per_token": nats, f"{part}_perplexity": math.exp(min(nats, 700))}
    tokens = config.batch_size * config.seq_len
    speed = session.figures()["steps_per_s"]
    figures["train_tokens_per_s"] = speed and speed * tokens
    log.table(f"{config.dataset}, {config.level}s, {config.cell}", [figures])
    log.finish(**session.figures(), **figures, num_parameters=num_parameters)


def learn(config, text):
    """The vocabulary of a text."""
    if config.level == "char":
        return Characters.of(text)
    return Words.of(text, max_size=config.max_vocabulary)


def encode(vocabulary, text):
    """Ids of a text; of words, with <eos> at the end of each line."""
    is_words = isinstance(vocabulary, Words)
    return vocabulary.encode_lines(text) if is_words else vocabulary.encode(text)


def make_model(config, vocab_size):
    """Token by token: embedding, layers, and the next token's logits."""
    return functional(
        ManyToMany,
        lookup(config.cell)(hidden_size=config.hidden_size),
        input_size=config.embed_size,
        output_size=vocab_size,
        vocab_size=vocab_size,
        head="softmax",
        num_layers=config.num_layers,
        dropout=config.dropout,
    )


def build(config, files, num_steps=1_000_000_000):
    """The training step and the state before the first; `seqlab.replay` needs no `num_steps`."""
    vocab_size = len(vocabulary_from_json(files["vocabulary"]))
    model = make_model(config, vocab_size)
    kinds = {"adam": optax.adam, "sgd": optax.sgd}
    optimizer = kinds[config.optimizer](learning_rate(config, num_steps))

    def loss_fn(params, batch, key, carry):
        nats, carry = walk(model, params, batch, carry, key)
        count = jnp.sum(batch["mask"])
        return jnp.sum(nats) / jnp.maximum(count, 1), ({"weight": count}, carry)

    train_step = make_train_step(
        loss_fn,
        optimizer,
        clip_norm=config.clip_norm,
        accumulate=config.accumulate,
        stateful=True,
        norms_every=config.log_every,
    )
    key_params, key_steps = jax.random.split(jax.random.key(config.seed))
    params = model.init(key_params)
    carry = first_carry(model, params, config.batch_size)
    return train_step, init_state(params, optimizer, key_steps, carry)


def learning_rate(config, num_steps):
    """Learning rate by step, down to a hundredth at the end."""
    return learning_rate_schedule(
        config.schedule,
        config.learning_rate,
        num_steps=num_steps,
        warmup_steps=config.warmup_steps,
        final=0.01,
    )


def first_carry(model, params, batch_size):
    """Zeros shaped like the carry after a batch; the first batch resets every row."""
    xs = jnp.zeros((batch_size, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: last(model.apply(params, xs)))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def last(output):
    """The carry after a batch."""
    return jax.tree.map(lambda leaf: leaf[:, -1], output.carries["rnn"])


def walk(model, params, batch, carry, key=None):
    """Nats of every real target [B, T], zero elsewhere, and the carry after the batch."""
    reset = jnp.zeros(batch["xs"].shape, bool).at[:, 0].set(batch["reset"])
    mask = batch["mask"]
    output = model.apply(params, batch["xs"], mask, key=key, carry=carry, reset=reset)
    nats = jnp.where(mask, cross_entropy(output.logits, batch["targets"]), 0.0)
    return nats, jax.lax.stop_gradient(last(output))


def scorer(config, vocab_size):
    """(params, streams) -> mean nats per token, the carry kept from batch to batch."""
    model = make_model(config, vocab_size)

    @jax.jit
    def add(total, params, carry, batch):
        nats, carry = walk(model, params, batch, carry)
        return total + jnp.sum(nats), carry

    def score(params, streams):
        total, carry = jnp.zeros(()), first_carry(model, params, config.batch_size)
        with Feed(streams, stop=streams.batches_per_epoch) as feed:
            for batch in feed:
                total, carry = add(total, params, carry, batch)
        return float(total) / streams.num_targets

    return score


def plot(path: Path) -> None:
    """Draws the figure of a run from its files."""
    metrics = read_run(path).metrics
    train = [row for row in metrics if row.get("split") == "train"]
    valid = [row for row in metrics if row.get("split") == "valid"]
    figure = plots.training_curves(
        {
            name: ([row["step"] for row in rows], [row["loss"] for row in rows])
            for name, rows in (("train", train), ("valid", valid))
        },
        [row["step"] for row in train],
        [row["norms"] for row in train],
    )
    plots.save(figure, path / "figures" / "training.png")


if __name__ == "__main__":
    main(Config, run, plot)
