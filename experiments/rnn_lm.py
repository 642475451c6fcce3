"""A recurrent language model: trained on one long text, scored by the perplexity of unseen text.

    python -m experiments.rnn_lm
    python -m experiments.rnn_lm --preset zaremba_small        # Penn Treebank, about an hour
    python -m experiments.rnn_lm --dataset korean --level subword    # or bilingual, or --level char
    python -m experiments.rnn_lm --corpus my.txt --cell gru --out runs/mine
    python -m experiments.rnn_lm --write-from runs/mine --prime "The " --temperature 0.8

The text is read as parallel streams, and the carry goes from batch to batch; gradients reach back
`seq_len` steps. Killed or stopped, the same command with the same `--out` goes on to the same
numbers. In the end the best model of all epochs is scored: every token of the validation and the
test text, ends of sentences too, in one walk that keeps its carry throughout; the scores of the
tokens are files of the run, `scores-valid.npz` and `scores-test.npz`, as those of
`experiments.ngram_lm` are. Figures: loss and norms over training; perplexity over epochs.

Presets: zaremba_small, zaremba_medium and zaremba_large are those of Zaremba et al. (2014), awd
that of Merity et al. (2018) with windows of constant length and without fine-tuning, char_small the
size at which char-rnn starts. Learning rates and clipping are of the mean loss a token: the papers'
1 and 5, of the loss summed over 20 steps, are 20 and 0.25 here.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import averaging, plots
from seqlab.cells.lookup import lookup
from seqlab.checkpoint import Checkpoints
from seqlab.cli import config_of, main
from seqlab.data.batching import Feed, Streams
from seqlab.data.checks import check_at_least, check_positive
from seqlab.data.text import text_digest, text_parts
from seqlab.data.vocabulary import (
    EOS,
    PAD,
    SOS,
    UNK,
    UNKNOWN_CHARACTER,
    BytePairs,
    Words,
    encode_text,
    learn_vocabulary,
    vocabulary_from_json,
)
from seqlab.devices import Devices, local
from seqlab.errors import InputError
from seqlab.losses import cross_entropy
from seqlab.models import language
from seqlab.models.functional import functional
from seqlab.runlog import CHECKPOINTS, RunLog, read_run
from seqlab.scoring import PARTS, TokenScores, score_file, summary
from seqlab.session import Session
from seqlab.train import init_state, learning_rate_schedule, make_train_step

SCORE_STEPS = 256  # steps of a window in the walk over the text that is scored
DROPS = ("words", "inputs", "between", "outputs", "recurrent", "weights")
PUBLISHED = {  # test perplexity by preset, of one net, without fine-tuning
    "zaremba_small": ("Zaremba et al., 2014", 114.5),
    "zaremba_medium": ("Zaremba et al., 2014", 82.7),
    "zaremba_large": ("Zaremba et al., 2014", 78.4),
    "awd": ("Merity et al., 2018", 58.8),
}
# Fields that leave a model and its training what they are.
BESIDE = (*("save_every", "log_every", "on_nonfinite", "num_devices", "accumulate", "seed"),
          *("write", "prime", "temperature", "top_k", "top_p"))  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Recurrent language model with streams, resume, early stopping and data parallelism."""

    may_change: ClassVar = ("save_every", "patience", "num_devices", "on_nonfinite")

    dataset: str = "embedded"
    """embedded, tinyshakespeare, ptb, korean, bilingual (English and Korean), wikitext-2 or
    wikitext-103"""
    corpus: Path | None = None
    """a UTF-8 text file of your own instead"""
    level: Literal["char", "word", "subword"] = "char"
    """what a token is"""
    max_vocabulary: int | None = None
    """largest number of words, of which rarer ones become <unk>, or of byte pairs"""
    cell: str = "lstm"
    """name of a cell, or package.module:Class"""
    num_layers: int = 1
    hidden_size: int = 128
    """H, units a layer"""
    embed_size: int = 64
    """D, width of a token's embedding; of a tied model also of the last layer"""
    tied: bool = False
    """the head's matrix is the embedding's"""
    drop_words: float = 0.0
    """dropout of a word's embedding, once a batch"""
    drop_inputs: float = 0.0
    """dropout of what the first layer reads"""
    drop_between: float = 0.0
    """dropout between layers"""
    drop_outputs: float = 0.0
    """dropout of what the head reads"""
    drop_recurrent: float = 0.0
    """dropout of h on its way into its own layer, one mask a window"""
    drop_weights: float = 0.0
    """dropout of entries of the recurrent matrices, once a batch"""
    variational: bool = False
    """one mask a window at inputs, between and outputs, not one a step"""
    ar: float = 0.0
    """weight of the mean square of what the head reads"""
    tar: float = 0.0
    """weight of the mean square of a step's change of h"""
    init_range: float | None = None
    """all parameters are drawn from U[-r, r] instead of as the cells say"""
    seq_len: int = 64
    """T, steps that gradients reach back"""
    batch_size: int = 32
    """B, streams"""
    accumulate: int = 1
    """turns in which a batch is taken"""
    num_epochs: int = 4
    optimizer: Literal["adam", "sgd", "asgd"] = "adam"
    """asgd: sgd whose iterates are averaged once validation has stopped to improve"""
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    """share of the parameters that an update takes off, times the learning rate"""
    schedule: Literal["constant", "linear", "cosine", "exponential", "epochs"] = "cosine"
    """of the learning rate, over all epochs"""
    decay_after: int = 4
    """schedule epochs: epochs at the full rate"""
    decay: float = 0.5
    """schedule epochs: factor of every later epoch"""
    warmup_steps: int = 0
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    nonmonotone: int = 5
    """asgd: epochs without a better validation figure after which averaging begins"""
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
    write: int = 300
    """tokens that the trained model writes, 0 for none"""
    write_from: Path | None = None
    """only write, with the model of this run"""
    prime: str = ""
    """what the written text goes on from; nothing: a new line"""
    temperature: float = 1.0
    """0 always takes the likeliest token"""
    top_k: int | None = None
    """only the likeliest tokens are drawn"""
    top_p: float | None = None
    """only the fewest tokens that reach this probability together"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("num_layers", "hidden_size", "embed_size", "seq_len", "batch_size",
                      "accumulate", "num_epochs", "save_every", "log_every",
                      "nonmonotone", "decay_after"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        for field in ("patience", "num_devices", "top_k"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        check_at_least(self.write, 0, "write")
        for field in ("learning_rate", "clip_norm", "decay"):
            check_positive(getattr(self, field), field)
        if self.init_range is not None:
            check_positive(self.init_range, "init_range")
        for field in ("ar", "tar", "weight_decay", "temperature"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise InputError(f"{field} must be 0 or more, got {getattr(self, field)}")
        if self.drop.between and self.num_layers == 1:
            raise InputError("drop_between acts between layers and there is one: add a layer")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate is {self.accumulate}: choose a multiple of it for batch_size, which "
                f"is {self.batch_size}"
            )
        if self.max_vocabulary is not None:
            if self.level == "char":
                raise InputError("max_vocabulary is for --level word and subword")
            check_at_least(self.max_vocabulary, 5, "max_vocabulary")
        lookup(self.cell)

    @property
    def drop(self):
        """What is dropped in training."""
        return language.Drop(
            **{name: getattr(self, f"drop_{name}") for name in DROPS}, variational=self.variational
        )

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            hidden_size=16, embed_size=8, seq_len=32, batch_size=64, num_epochs=1, save_every=50,
            write=50,
        )  # fmt: skip

    @classmethod
    def presets(cls):
        """Published settings by name; rates and clipping are of the mean loss, see the module."""
        zaremba = cls(
            dataset="ptb", level="word", num_layers=2, batch_size=20, optimizer="sgd",
            schedule="epochs", save_every=2000, log_every=100, write=60,
        )  # fmt: skip
        medium = replace(
            zaremba, hidden_size=650, embed_size=650, seq_len=35, init_range=0.05,
            drop_inputs=0.5, drop_between=0.5, drop_outputs=0.5, learning_rate=35.0,
            clip_norm=5 / 35, num_epochs=39, decay_after=6, decay=1 / 1.2,
        )  # fmt: skip
        return {
            "zaremba_small": replace(
                zaremba, hidden_size=200, embed_size=200, seq_len=20, init_range=0.1,
                learning_rate=20.0, clip_norm=5 / 20, num_epochs=13, decay_after=4, decay=0.5,
            ),
            "zaremba_medium": medium,
            "zaremba_large": replace(
                medium, hidden_size=1500, embed_size=1500, init_range=0.04,
                drop_inputs=0.65, drop_between=0.65, drop_outputs=0.65, clip_norm=10 / 35,
                num_epochs=55, decay_after=14, decay=1 / 1.15,
            ),
            "awd": replace(
                zaremba, hidden_size=1150, embed_size=400, num_layers=3, tied=True, seq_len=70,
                drop_words=0.1, drop_inputs=0.4, drop_between=0.25, drop_outputs=0.4,
                drop_weights=0.5, variational=True, ar=2.0, tar=1.0, optimizer="asgd",
                learning_rate=30.0, weight_decay=1.2e-6,
                schedule="constant", clip_norm=0.25, num_epochs=500,
            ),
            "char_small": cls(
                num_layers=2, seq_len=50, batch_size=50, num_epochs=50, learning_rate=2e-3,
                schedule="epochs", decay_after=10, decay=0.97, clip_norm=5.0,
            ),
        }  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Trains, validates after every epoch, scores the best model, and lets it write."""
    if config.write_from is not None:
        write_from(config, log)
        return
    parts = text_parts(config.dataset, config.corpus)
    vocabulary = learn_vocabulary(parts["train"], config.level, max_size=config.max_vocabulary)
    if config.write:
        prime_ids(config, vocabulary)  # refused now, not after the training
    ids = {name: encode_text(vocabulary, text) for name, text in parts.items()}
    streams = Streams(ids["train"], config.batch_size, config.seq_len)
    per_epoch = streams.batches_per_epoch
    num_steps = config.num_epochs * per_epoch
    files = {"vocabulary": vocabulary.to_json()}
    train_step, state = build(config, files, num_steps)
    model = make_model(config, len(vocabulary))
    add = adder(model)
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
                epoch = step // per_epoch
                params = local(averaging.model_params(state))
                nats = nats_per_token(model, add, params, ids["valid"], config)
                log.write(step=step, split="valid", loss=nats, epoch=epoch)
                log.note(f"epoch {epoch}: validation perplexity {math.exp(min(nats, 700)):.2f}")
                if session.report(step, nats) or config.optimizer != "asgd":
                    continue
                if session.stopping.waited >= config.nonmonotone and not state.opt_state.count:
                    log.note(f"averaging begins after epoch {epoch}")
                    session.state = averaging.start(state)
        params = local(averaging.model_params(session.best_state()))
    scores = {
        part: score_tokens(
            model, add, params, ids[part], vocabulary,
            num_characters=None if config.level == "word" else len(parts[part]),
        )
        for part in PARTS
    }  # fmt: skip
    if log.writes:
        for part, each in scores.items():
            each.save(score_file(log.path, part))
    figures = summary(scores["valid"], scores["test"])
    steps_per_s = session.figures()["steps_per_s"]
    figures["tokens_per_s"] = steps_per_s and steps_per_s * config.batch_size * config.seq_len
    figures["parameters"] = num_parameters
    log.table(f"{config.dataset}, {config.level}s, {config.cell}", [figures])
    if config.write:
        write(config, log, model, params, vocabulary)
    log.finish(**session.figures(), **figures)


def make_model(config, vocab_size):
    """Token by token: embedding, layers, and the next token's logits."""
    sizes = [config.hidden_size] * config.num_layers
    if config.tied:
        sizes[-1] = config.embed_size
    return functional(
        language.LanguageModel,
        [lookup(config.cell)(hidden_size=size) for size in sizes],
        vocab_size=vocab_size,
        embed_size=config.embed_size,
        tied=config.tied,
        drop=config.drop,
    )


def build(config, files, num_steps=1_000_000_000):
    """The training step and the state before the first; `seqlab.replay` needs no `num_steps`."""
    vocab_size = len(vocabulary_from_json(files["vocabulary"]))
    model = make_model(config, vocab_size)
    optimizer = make_optimizer(config, num_steps)

    def loss_fn(params, batch, key, carry):
        output, nats, carry = walk(model, params, batch, carry, key)
        count = jnp.sum(batch["mask"])
        loss = jnp.sum(nats) / jnp.maximum(count, 1)
        extra = {"weight": count}
        if config.ar or config.tar:
            extra["nats"] = loss
            own = cast(language.LanguageOutput, output)
            loss += language.activation_penalty(own, batch["mask"], config.ar, config.tar)
        return loss, (extra, carry)

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
    if config.init_range is not None:
        params = language.uniform(key_params, params, config.init_range)
    carry = first_carry(model, params, config.batch_size)
    return train_step, init_state(params, optimizer, key_steps, carry)


def make_optimizer(config, num_steps):
    """As the config says."""
    rate = learning_rate(config, num_steps)
    plain = optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate)
    if config.weight_decay and config.optimizer == "adam":
        plain = optax.adamw(rate, weight_decay=config.weight_decay)
    elif config.weight_decay:
        plain = optax.chain(optax.add_decayed_weights(config.weight_decay), plain)
    return averaging.averaged(plain) if config.optimizer == "asgd" else plain


def learning_rate(config, num_steps):
    """Learning rate by step; of all schedules but the constant and by epochs, to a hundredth."""
    if config.schedule == "epochs":
        per_epoch = num_steps // config.num_epochs
        begin = (config.decay_after - 1) * per_epoch
        return optax.exponential_decay(
            config.learning_rate, per_epoch, config.decay, begin, staircase=True
        )
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
    """Output, nats of every real target [B, T], zero elsewhere, and the carry after the batch."""
    reset = jnp.zeros(batch["xs"].shape, bool).at[:, 0].set(batch["reset"])
    mask = batch["mask"]
    output = model.apply(params, batch["xs"], mask, key=key, carry=carry, reset=reset)
    nats = jnp.where(mask, cross_entropy(output.logits, batch["targets"]), 0.0)
    return output, nats, jax.lax.stop_gradient(last(output))


def adder(model):
    """(params, carry, batch) -> nats of the batch's targets [B, T], and the carry after it."""
    return jax.jit(lambda params, carry, batch: walk(model, params, batch, carry)[1:])


def nats_by_batch(model, add, params, streams):
    """Nats [B, T] and mask of every batch of an epoch, the carry kept from batch to batch."""
    carry = first_carry(model, params, streams.batch_size)
    with Feed(streams, stop=streams.batches_per_epoch) as feed:
        for batch in feed:
            nats, carry = add(params, carry, batch)
            yield nats, batch["mask"]


def nats_per_token(model, add, params, ids, config):
    """Mean nats of a text read as the training text is."""
    streams = Streams(ids, config.batch_size, config.seq_len)
    sums = [jnp.sum(nats) for nats, _ in nats_by_batch(model, add, params, streams)]
    return float(np.sum(np.asarray(sums, np.float64))) / streams.num_targets


def score_tokens(model, add, params, ids, vocabulary, *, num_characters) -> TokenScores:
    """Scores of a text's tokens, all of them, in one walk that begins after an <eos>."""
    streams = Streams(np.concatenate([[EOS], ids]), 1, SCORE_STEPS)
    parts = [np.asarray(nats)[mask] for nats, mask in nats_by_batch(model, add, params, streams)]
    return TokenScores(
        ids,
        -np.concatenate(parts).astype(np.float64),
        ids == UNK,
        "the whole stream",
        vocabulary.digest,
        num_characters,
    )


def prime_ids(config, vocabulary):
    """What the written text goes on from: the end of a line, then the prime.

    Raises:
      InputError: a prime with what the model has never seen.
    """
    is_words = isinstance(vocabulary, Words)
    prime = vocabulary.encode(config.prime)
    if UNK in prime:
        spelt = config.prime.split() if is_words else config.prime
        unknown = [token for token, one in zip(spelt, prime, strict=True) if one == UNK]
        if set(unknown) - {"<unk>"}:
            raise InputError(f"prime: the model has never seen {', '.join(map(repr, unknown[:5]))}")
    end = [EOS] if is_words else vocabulary.encode("\n")
    return np.concatenate([end, prime]).astype(np.int32)


def write(config, log, model, params, vocabulary):
    """Lets a model write: to the screen, and to `written.txt`."""
    is_words = isinstance(vocabulary, Words)
    words = language.sample(
        model,
        params,
        jnp.asarray(prime_ids(config, vocabulary)),
        config.write,
        jax.random.key(config.seed),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        banned=(PAD, SOS) if is_words else (PAD, UNK, SOS, EOS),
        steps=getattr(vocabulary, "utf8_steps", None),
    )
    text = config.prime + " " * (is_words and bool(config.prime))
    written = vocabulary.decode_lines(np.asarray(words))
    if isinstance(vocabulary, BytePairs):
        written = written.rstrip(UNKNOWN_CHARACTER)  # a character whose last byte did not fit
    text += written
    if log.writes:
        (log.path / "written.txt").write_text(text + "\n", encoding="utf-8", errors="replace")
        log.console.print(text, markup=False, highlight=False, soft_wrap=True)


def write_from(config, log):
    """Writes with the best model of an earlier run."""
    _, model, params, vocabulary = load(config.write_from)
    write(config, log, model, params, vocabulary)  # first: refused, it leaves no run behind
    log.write(step=0, vocabulary=vocabulary.digest)


def load(path: Path):
    """Config, model, parameters and vocabulary of the best epoch of a run.

    Raises:
      InputError: a run that has not saved anything good, or not of this experiment.
    """
    record = read_run(path).record
    if record.get("experiment") != "rnn_lm":
        raise InputError(f"{path} is a run of {record.get('experiment')}, not of rnn_lm")
    config = config_of(Config, record, path)
    with Checkpoints(path / CHECKPOINTS, writes=False) as checkpoints:
        newest = checkpoints.newest_good()
        if newest is None:
            raise InputError(f"{path} has no good checkpoint")
        files = {"vocabulary": checkpoints.read_file(newest, "vocabulary")}
        _, state = build(config, files)
        found = checkpoints.restore(newest, state)
        best, fault = checkpoints.best_good()
        if fault:
            raise InputError(f"{path}: the best step, {best}, is damaged: {fault}")
        if best not in (None, newest):
            found = checkpoints.restore(best, state)
    vocabulary = vocabulary_from_json(files["vocabulary"])
    model = make_model(config, len(vocabulary))
    return config, model, averaging.model_params(found.state), vocabulary


def plot(path: Path) -> None:
    """Draws the figures of a run from its files."""
    found = read_run(path)
    train = [row for row in found.metrics if row.get("split") == "train"]
    valid = [row for row in found.metrics if row.get("split") == "valid"]
    if not train:
        return
    figure = plots.training_curves(
        {
            name: ([row["step"] for row in rows], [row["loss"] for row in rows])
            for name, rows in (("train", train), ("valid", valid))
        },
        [row["step"] for row in train],
        [row["norms"] for row in train],
    )
    plots.save(figure, path / "figures" / "training.png")
    if valid:
        figure = plots.perplexity_over_epochs(*perplexities(found, train, valid))
        plots.save(figure, path / "figures" / "perplexity.png")


def perplexities(found, train, valid):
    """By epoch, of the training text as it was seen and of the other; of the test; as published."""
    epochs, ends = [row["epoch"] for row in valid], [row["step"] for row in valid]
    which = np.searchsorted(ends, [row["step"] for row in train])  # of what epoch a row is
    nats = np.array([row.get("nats", row["loss"]) for row in train], float)
    seen = [k for k in range(len(epochs)) if np.any(which == k)]
    is_dropping = any(found.record["config"].get(f"drop_{name}") for name in DROPS)
    curves = {
        "training, with dropout" if is_dropping else "training": (
            [epochs[k] for k in seen],
            [perplexity(np.mean(nats[which == k])) for k in seen],
        ),
        "validation": (epochs, [perplexity(row["loss"]) for row in valid]),
    }
    losses = np.array([row["loss"] for row in valid], float)
    points, test = {}, found.summary.get("test_perplexity")
    if test is not None and np.isfinite(losses).any():
        points["test, best epoch"] = epochs[int(np.nanargmin(losses))], test
    return curves, points, published(found)


def perplexity(nats):
    """exp, infinite where that is out of reach."""
    return math.exp(nats) if nats is not None and nats < 700 else math.inf


def published(found):
    """Source -> the test perplexity that a run of these settings had in its paper."""
    try:
        config = config_of(Config, found.record, found.path)
    except InputError:  # of an earlier version of this study
        return {}
    beside = {name: getattr(config, name) for name in BESIDE}
    for name, preset in Config.presets().items():
        if name in PUBLISHED and replace(preset, **beside) == config:
            source, level = PUBLISHED[name]
            return {f"{source}, test": level}
    return {}


if __name__ == "__main__":
    main(Config, run, plot)
