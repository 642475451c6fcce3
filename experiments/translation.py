"""Encoder-decoder: one text in, another out, from `<sos>` to `<eos>`; with and without attention.

    python -m experiments.translation                           # dates of 30 languages to ISO 8601
    python -m experiments.translation --dataset reverse --compare
    python -m experiments.translation --dataset multi30k_de_en
    python -m experiments.translation --dataset tatoeba_en_ko --korean jamo
    python -m experiments.translation --corpus my.de my.en --levels word word
    echo "7 mars 2024" | python -m experiments.translation --from-run RUN --translate -
    python -m experiments.translation --from-run RUN --interactive

`--context attention` (the default) looks at the source at every step; `state` knows it by its first
state alone, `every` is given the encoder's last output at each step. `--compare` trains all three.

A run is kept as it was after the epoch of the least validation loss, and only then asked for the
test part. Texts are written freely, `--beam-size` outputs at a time; scores are BLEU and chrF of
sacrebleu, with their signatures, and the share of exact matches; perplexity is of true targets.
Sources with several targets are one source with several references. `--translate` is this
experiment's name for `--predict`, and `--interactive` is `--predict -`. There the flags
`--beam-size`, `--num-best`, `--length-penalty`, `--coverage-penalty`, `--temperature` and
`--beside` count: a line is answered by a line, or by `--num-best` lines of score and text; on a
terminal it asks and answers line by line. `--beside RUN ...` lets several runs write together.

Figures: loss, perplexity and matches over epochs; score by the length of the source; accuracy by
position, after the true tokens and after the net's own (exposure bias); how the loss at each step
of a target depends on each step of its source, exactly, beside the map of attention, and against
the distance between the two.
"""

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import averaging, plots, translations
from seqlab.asking import asked, best_state, checked
from seqlab.cells.lookup import lookup
from seqlab.cli import config_of, main
from seqlab.data.batching import Feed
from seqlab.data.checks import check_at_least, check_known, check_positive, check_share
from seqlab.data.pairs import (
    DATASETS,
    KOREAN,
    STRING_TASKS,
    Pairs,
    as_shown,
    load_pairs,
    string_pairs,
)
from seqlab.devices import Devices, local
from seqlab.errors import InputError
from seqlab.files import name_of
from seqlab.models.attention import KINDS
from seqlab.models.seq2seq import BRIDGES, CONTEXTS, QUERIES
from seqlab.runlog import SUMMARY, RunLog, read_run
from seqlab.session import Session
from seqlab.train import learning_rate_schedule
from seqlab.translations import mean_nats
from seqlab.translator import (
    Fed,
    Plan,
    Translator,
    label,
    learn_sides,
    sides_from_json,
    sides_to_json,
)

MADE_UP = ("dates", *STRING_TASKS)
NUM_WATCHED = 200  # validation sources that are written after every epoch
NUM_LENGTHS = 6  # groups of sources by length
FARTHER = (5, 10, 15, 20, 25, 30, 35, 40)  # letters, after training on 20 or fewer
NUM_FAR = 200  # strings of each such length
NUM_PROBED = 64  # test pairs whose gradients are measured
MARGIN = 10  # tokens that an output may have beyond the longest target seen
KEPT = 20  # outputs that the run directory shows

SMALL = {
    "embed_size": 64, "hidden_size": 128, "batch_size": 64, "num_epochs": 8, "patience": 8,
    "learning_rate": 2e-3, "drop_inputs": 0.0, "drop_features": 0.0, "smoothing": 0.0,
    "beam_size": 1, "length_penalty": 0.0, "min_count": 1, "num_buckets": 2, "tied": False,
}  # fmt: skip
OWN = {  # of made-up sets, where it differs
    "dates": {"num_epochs": 3, "learning_rate": 5e-3},
    "reverse": {"num_train": 50_000, "num_epochs": 5},
    "addition": {"num_train": 100_000, "num_epochs": 4},
}
LARGE = {
    "embed_size": 256, "hidden_size": 256, "batch_size": 64, "num_epochs": 12, "patience": 3,
    "learning_rate": 2e-3, "drop_inputs": 0.3, "drop_features": 0.3, "smoothing": 0.1,
    "beam_size": 5, "length_penalty": 1.0, "min_count": 2, "num_buckets": 8, "tied": True,
}  # fmt: skip


class Published(NamedTuple):
    """A published test score.

    Attributes:
      dataset: of `seqlab.data.pairs`.
      model: what was trained.
      bleu: test BLEU.
      perplexity: of the test part.
      source: where it was published.
    """

    dataset: str
    model: str
    bleu: float
    perplexity: float
    source: str


_TUTORIAL = "Trevett's tutorials, 10 epochs, H 512"
PUBLISHED = (
    Published("multi30k_de_en", "2-layer LSTM, fixed vector", 13.8, 43.8, _TUTORIAL),
    Published("multi30k_de_en", "GRU, fixed vector at every step", 20.6, 37.5, _TUTORIAL),
    Published("multi30k_de_en", "GRU, additive attention", 28.3, 25.6, _TUTORIAL),
)


@dataclass(frozen=True)
class Config:
    """Translation by an encoder-decoder: BLEU, exact match, gradients through the pair."""

    may_change: ClassVar = ("save_every", "num_devices")
    may_ask: ClassVar = (
        "beam_size", "num_best", "length_penalty", "coverage_penalty", "temperature", "beside",
    )  # fmt: skip

    dataset: str = "dates"
    """dates, copy, reverse, sort, addition, multi30k_de_en (or en_de), tatoeba_en_fr (fr_en),
    tatoeba_en_ko (ko_en) or korean_chatbot"""
    corpus: tuple[Path, Path] | None = None
    """two text files of your own instead, source and target, line by line"""
    levels: tuple[Literal["word", "char", "subword"], Literal["word", "char", "subword"]] | None = (
        None
    )
    """of a corpus: what a token of sources and of targets is; None: word word"""
    korean: str | None = None
    """what a token of Korean is: char, jamo or subword; None: char"""
    compare: bool = False
    """train attention, every and state, one after the other"""
    cell: str = "gru-after"
    """name of a cell, or package.module:Class"""
    context: str = "attention"
    """what of the source the decoder knows: state, every or attention"""
    attention: str = "additive"
    """additive, concat, dot, general, location or local-p"""
    query: str = "previous"
    """whether the previous or the current state of the decoder asks"""
    input_feeding: bool = False
    """the attentional state is part of the next input; with --query current"""
    bridge: str = "linear"
    """the decoder's first state: linear, copy or none"""
    bidirectional: bool = True
    """the encoder reads both ways"""
    reverse_source: bool = False
    """the encoder reads from the end"""
    num_layers: int = 1
    """of encoder and decoder"""
    hidden_size: int | None = None
    """H, units a layer; None: 128, 256 for real sets"""
    embed_size: int | None = None
    """D, width of an embedding; None: 64, 256 for real sets"""
    tied: bool | None = None
    """the head's matrix is the target's embedding; None: of real sets"""
    drop_inputs: float | None = None
    """dropout of embeddings; None: 0, 0.3 for real sets"""
    dropout: float = 0.0
    """between layers"""
    drop_features: float | None = None
    """of what the head reads; None: 0, 0.3 for real sets"""
    smoothing: float | None = None
    """share of the label that all words get; None: 0, 0.1 for real sets"""
    teacher_forcing: float = 1.0
    """share of steps that are fed the truth, else the net's own last word"""
    sampling: Literal["falling", "constant"] = "falling"
    """whether that share falls to it in a line over training, or is it from the beginning"""
    min_count: int | None = None
    """words seen less often are <unk>; None: 1, 2 for real sets"""
    max_vocabulary: int | None = None
    """of each side, words or byte pairs at most"""
    max_source: int | None = None
    """longest source that is read, in tokens; None: twice the longest of the training part"""
    num_train: int | None = None
    """pairs of a made-up set to train on; None: 20000, 50000 to reverse, 100000 to add"""
    longest: int | None = None
    """letters of a string, or digits of a number; None: 20, 4 for addition"""
    batch_size: int | None = None
    """B; None: 64"""
    num_buckets: int | None = None
    """shapes that a batch may have; None: 2, 8 for real sets"""
    num_epochs: int | None = None
    """None: 8, 3 for dates, 5 to reverse, 4 to add, 12 for real sets"""
    patience: int | None = None
    """epochs without a better validation loss after which to stop; None: 8, 3 for real sets"""
    average_from: int | None = None
    """epoch after which the model is the mean of all later updates' parameters; None: never"""
    learning_rate: float | None = None
    """of Adam, falling along half a cosine; None: 0.002, 0.005 for dates"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    beam_size: int | None = None
    """outputs that are followed at once; None: 1, 5 for real sets"""
    num_best: int = 1
    """outputs of each line in --predict"""
    length_penalty: float | None = None
    """exponent of ((5 + length) / 6); None: 0, 1 for real sets"""
    coverage_penalty: float = 0.0
    """weight of what attention has left out of the source"""
    temperature: float | None = None
    """in --predict: draw outputs, at this temperature; None: search"""
    beside: tuple[Path, ...] = ()
    """in --predict: other runs that write together with this one"""
    log_every: int = 20
    """updates between lines of the log"""
    save_every: int = 500
    """updates between checkpoints"""
    seed: int = 0
    num_devices: int | None = None
    """how many share out each batch; by default all, of a processor one a core that gets 8 rows"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.dataset, DATASETS, "dataset")
        for field, known in (
            ("context", CONTEXTS), ("attention", KINDS), ("query", QUERIES), ("bridge", BRIDGES),
        ):  # fmt: skip
            check_known(getattr(self, field), known, field)
        if self.korean is not None:
            check_known(self.korean, KOREAN, "korean")
        for field in ("num_layers", "hidden_size", "embed_size", "min_count", "max_vocabulary",
                      "max_source", "num_train", "longest", "batch_size", "num_buckets",
                      "num_epochs", "patience", "average_from", "beam_size", "num_best",
                      "log_every", "save_every", "num_devices"):  # fmt: skip
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seed, 0, "seed")
        for field in ("learning_rate", "clip_norm"):
            if getattr(self, field) is not None:
                check_positive(getattr(self, field), field)
        for field in ("drop_inputs", "dropout", "drop_features", "smoothing"):
            if getattr(self, field) is not None:
                check_share(getattr(self, field), field)
        if not 0.0 <= self.teacher_forcing <= 1.0:
            raise InputError(f"teacher_forcing must be a share, got {self.teacher_forcing}")
        for field in ("length_penalty", "coverage_penalty", "temperature"):
            value = getattr(self, field)
            if value is not None and not 0.0 <= value < math.inf:
                raise InputError(f"{field} must be 0 or more, got {value}")
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout acts between layers and there is one: add a layer")
        is_current = self.context == "attention" and self.query == "current"
        if self.input_feeding and not is_current:
            raise InputError("input_feeding goes with context attention and query current")
        if self.bridge == "copy" and self.bidirectional:
            raise InputError("bridge copy takes one direction: add --no-bidirectional")
        if self.num_best > (self.beam_size or 5):
            raise InputError(
                f"num_best is {self.num_best}, beam_size {self.beam_size}: make it wider"
            )
        lookup(self.cell)

    def filled(self) -> "Config":
        """The same with what suits the texts in place of None."""
        is_small = self.dataset in MADE_UP and self.corpus is None
        values: dict[str, Any] = SMALL | OWN.get(self.dataset, {}) if is_small else LARGE
        return replace(
            self, **{name: value for name, value in values.items() if getattr(self, name) is None}
        )

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            dataset="reverse", longest=4, num_train=400, embed_size=8, hidden_size=16,
            batch_size=50, num_epochs=2, num_buckets=1,
        )  # fmt: skip


def load(config: Config) -> Pairs:
    """The pairs."""
    made_up = {}
    if config.dataset in MADE_UP and config.corpus is None:
        sizes = {"train": 20_000, "valid": 1_000, "test": 1_000}
        if config.num_train is not None:
            few = max(20, min(1_000, config.num_train // 10))
            sizes = {"train": config.num_train, "valid": few, "test": few}
        made_up = {"seed": config.seed, "sizes": sizes}
    return load_pairs(
        config.dataset, corpus=config.corpus, levels=config.levels, longest=config.longest,
        korean=config.korean, **made_up,
    )  # fmt: skip


def tokenizer_of(files) -> str:
    """How sacrebleu cuts texts: those of words are cut already, others into characters."""
    return "none" if files["forms"][1] == "words" else "char"


def is_exact(config: Config) -> bool:
    """Whether there is one right answer, so that exact matches are what counts."""
    return config.dataset in MADE_UP and config.corpus is None


# Training.


def translator_of(config: Config, files, nets: int = 1) -> Translator:
    """The model of a run with its vocabularies."""
    filled = replace(config.filled(), max_source=files["max_source"])
    return Translator(Plan.of(filled), sides_from_json(files["vocabularies"]), nets)


def build(config: Config, files, num_steps: int = 1_000_000_000):
    """The training step and the state before the first; `seqlab.replay` needs no `num_steps`."""
    config = config.filled()
    translator = translator_of(config, files)
    rate = learning_rate_schedule(
        "cosine", cast(float, config.learning_rate), num_steps=num_steps, final=0.02
    )
    optimizer = optax.adam(rate)
    if config.average_from is not None:
        optimizer = averaging.averaged(optimizer)
    return translator.training(
        optimizer, smoothing=cast(float, config.smoothing), clip_norm=config.clip_norm,
        seed=config.seed,
    )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Trains one model, or all three, and looks inside."""
    data = load(config.filled())
    if config.compare:
        compare(config, log, data)
    else:
        train(config, log, data)


def train(config: Config, log: RunLog, data: Pairs) -> None:
    """One run of one model."""
    config = config.filled()
    sides = learn_sides(
        data.sources["train"], data.targets["train"], (data.source_level, data.target_level),
        min_count=cast(int, config.min_count), max_size=config.max_vocabulary,
    )  # fmt: skip
    lengths = {
        part: [[len(side.encode(text)) + 1 for text in texts[part]]
               for side, texts in zip(sides, (data.sources, data.targets), strict=True)]
        for part in data.sources
    }  # fmt: skip
    longest = [max(each) for each in lengths["train"]]
    max_source = config.max_source or 2 * longest[0]
    for part, (own, _) in lengths.items():
        if max(own) > max_source:
            raise InputError(
                f"{data.name}, {part}: source {int(np.argmax(own)) + 1} has {max(own)} tokens, "
                f"max_source is {max_source}: raise it or cut the text"
            )
    files = {
        "vocabularies": sides_to_json(sides),
        "forms": [data.source_form, data.target_form],
        "max_source": max_source,
        "max_length": longest[1] + MARGIN,
    }
    translator = translator_of(config, files)
    shape: dict[str, Any] = {"batch_size": config.batch_size, "num_buckets": config.num_buckets}
    train_pairs = translator.buckets(
        data.sources["train"], data.targets["train"], seed=config.seed, **shape
    )
    per_epoch = train_pairs.batches_per_epoch
    num_steps = cast(int, config.num_epochs) * per_epoch
    fed = Fed(
        train_pairs, share=config.teacher_forcing, falls=config.sampling == "falling",
        num_batches=num_steps, seed=config.seed,
    )  # fmt: skip
    parts = {
        part: Fed(translator.buckets(data.sources[part], data.targets[part], seed=None, **shape))
        for part in data.sources
        if part != "train"
    }
    train_step, state = build(config, files, num_steps)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.write(
        step=0, dataset=data.name, digest=data.digest, vocab_sizes=[len(side) for side in sides],
        num_parameters=num_parameters, longest=longest, notes=list(data.notes),
        shapes=[list(each) for each in train_pairs.shapes],
        **{f"num_{part}": len(texts) for part, texts in data.sources.items()},
    )  # fmt: skip
    for note in data.notes:
        log.note(f"{data.name}: {note}")
    log.note(f"{len(data.sources['train'])} pairs, {num_parameters} parameters")
    watched = translations.references(
        data.sources["valid"][:NUM_WATCHED], data.targets["valid"][:NUM_WATCHED]
    )
    with (
        Feed(fed) as feed,
        Session(
            log, state, feed, num_steps=num_steps, save_every=config.save_every,
            patience=config.patience, files=files,
            devices=Devices.sharing(cast(int, config.batch_size), config.num_devices),
        ) as session,
    ):  # fmt: skip
        for step, state, metrics in session.steps(train_step):
            if step % config.log_every == 0:
                log.write(step=step, split="train", **metrics)
            if step % per_epoch:
                continue
            epoch = step // per_epoch
            params = local(averaging.model_params(state))
            nats = mean_nats(translator.forced(params, parts["valid"])[0])
            outputs = write(translator, params, watched.sources, files, beam_size=1)
            found = translations.scores(outputs, watched.answers, tokenize=tokenizer_of(files))
            log.write(step=step, split="valid", epoch=epoch, loss=nats, bleu=found["bleu"],
                      exact_match=found["exact_match"])  # fmt: skip
            log.note(
                f"epoch {epoch}: validation perplexity {math.exp(min(nats, 700)):.3f}, greedy "
                f"BLEU {found['bleu']:.1f}, exact {found['exact_match']:.1%}"
            )
            session.report(step, nats)
            if epoch == config.average_from:
                session.state = averaging.start(state)
        params = jax.device_get(local(averaging.model_params(session.best_state())))
    figures = {
        **judge(config, translator, params, data, parts, files, log),
        "parameters": num_parameters,
        "dataset": data.name,
        "source_tokens_seen": longest[0],
    }
    look_inside(config, translator, params, data, files, log)
    own = session.figures()
    rate = own["steps_per_s"]
    figures["train_pairs_per_s"] = rate and rate * len(data.sources["train"]) / per_epoch
    log.table(f"{data.name}, test", table(data.name, {label(config): figures}))
    log.finish(**own, **figures)


def write(translator: Translator, params, texts: list[str], files, **how: Any) -> list[str]:
    """The best output for each text, as the references are."""
    how.setdefault("max_length", files["max_length"])
    return [own[0].text for own in translator.write(params, texts, **how)]


# What came out.


def judge(config, translator, params, data, parts, files, log) -> dict[str, Any]:
    """Scores of the test parts; those by length and by position go to the log."""
    tokenize = tokenizer_of(files)
    search = {
        "beam_size": config.beam_size,
        "length_penalty": config.length_penalty,
        "coverage_penalty": config.coverage_penalty,
    }
    figures: dict[str, Any] = {}
    for part in parts:
        if part == "valid":
            continue
        nats, hits = translator.forced(params, parts[part])
        truth = translations.references(data.sources[part], data.targets[part])
        write(translator, params, truth.sources, files, **search)  # compiled before the clock
        start = time.perf_counter()
        outputs = write(translator, params, truth.sources, files, **search)
        seconds = time.perf_counter() - start
        found = translations.scores(outputs, truth.answers, tokenize=tokenize)
        own = {
            f"{part}_bleu": found["bleu"],
            f"{part}_chrf": found["chrf"],
            f"{part}_perplexity": math.exp(min(mean_nats(nats), 700)),
        }
        figures |= own
        if part != "test":
            continue
        figures |= {
            "exact_match": found["exact_match"],
            "bleu_signature": found["bleu_signature"],
            "chrf_signature": found["chrf_signature"],
            "sentences_per_s": len(truth.sources) / seconds,
            "num_test": len(truth.sources),
        }
        for place in range(min(KEPT, len(outputs))):
            log.write(step=0, result="output", source=as_shown(truth.sources[place]),
                      output=as_shown(outputs[place]),
                      reference=as_shown(truth.answers[place][0]))  # fmt: skip
        by_length(config, translator, truth, outputs, tokenize, log)
        exposure_bias(translator, params, data, hits, files, log)
    if config.dataset in ("copy", "reverse", "sort") and config.corpus is None:
        farther(config, translator, params, files, log)
    return figures


def by_length(config, translator, truth, outputs, tokenize, log) -> None:
    """Score in groups of equally many sources of like length."""
    lengths = np.array([len(each) - 1 for each in translator.sources(truth.sources)])
    borders = np.unique(np.quantile(lengths, np.linspace(0, 1, NUM_LENGTHS + 1)).astype(int))
    borders[-1] += 1
    for shortest, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        rows = np.flatnonzero((lengths >= shortest) & (lengths < end)).tolist()
        if not rows:
            continue
        own = [outputs[i] for i in rows]
        answers = [truth.answers[i] for i in rows]
        if is_exact(config):
            share = translations.exact_interval(own, answers)
        else:
            share = translations.bleu_interval(own, answers, tokenize=tokenize)
        log.write(step=0, result="length", mean_length=lengths[rows].mean(), shortest=shortest,
                  longest=end - 1, num_texts=len(rows), score=share.middle, low=share.low,
                  high=share.high)  # fmt: skip


def farther(config, translator, params, files, log) -> None:
    """Exact matches on strings of one length each, most of them longer than any seen."""
    rng = np.random.default_rng([config.seed, 1])
    for length in FARTHER:
        if length + 1 > files["max_source"]:
            continue
        sources, targets = string_pairs(config.dataset, NUM_FAR, rng, length, length)
        outputs = write(translator, params, sources, files, max_length=length + MARGIN)
        share = translations.exact_interval(outputs, [[each] for each in targets])
        log.write(step=0, result="farther", length=length, score=share.middle, low=share.low,
                  high=share.high, num_texts=NUM_FAR)  # fmt: skip


def exposure_bias(translator, params, data, hits, files, log) -> None:
    """Share of right tokens by position: after the true ones, and after the net's own."""
    written = translator.write(params, data.sources["test"], max_length=files["max_length"])
    truths = [ids[1:] for ids in translator.targets(data.targets["test"])]
    free = [
        translations.agrees(own[0].ids.tolist() + [int(truth[-1])] * own[0].is_ended, truth)
        for own, truth in zip(written, truths, strict=True)
    ]
    longest = int(np.quantile([len(each) for each in truths], 0.9))
    for mode, each in (("teacher forcing", hits), ("free running", free)):
        shares, counts = translations.position_accuracy(each, longest)
        log.write(step=0, result="position", mode=mode, accuracy=shares, counts=counts)


# Looking inside.


def look_inside(config, translator, params, data, files, log) -> None:
    """Gradients through the pair: one map, and norms by the distance between its two steps."""
    sources, targets = data.sources["test"], data.targets["test"]
    own = np.array([len(each) for each in translator.sources(sources)])
    middle = np.argsort(np.abs(own - np.median(own)), kind="stable")[:NUM_PROBED]
    chosen = np.sort(middle).tolist()
    looks = translator.looks(params, [sources[i] for i in chosen], [targets[i] for i in chosen])
    norms, attention, xs, mask, labels, fed_mask = looks
    step = -1 if config.reverse_source else 1
    for row in range(min(2, len(chosen))):
        size = int(mask[row].sum())
        order = [*np.arange(size - 1)[::step].tolist(), size - 1]  # <eos> is read last
        names = [translator.sides[0].token(i) for i in xs[row, :size].tolist()]
        fields: dict[str, Any] = {"log_norm": norms[row, : int(fed_mask[row].sum())][:, order]}
        if attention is not None:
            own_map = attention[row, : int(fed_mask[row].sum())]
            fields["attention"] = own_map[:, order]
        log.write(
            step=0, result="map", source=[names[i] for i in order],
            target=[translator.sides[1].token(i) for i in labels[row][fed_mask[row]].tolist()],
            **fields,
        )  # fmt: skip
    # The steps between a source's token and the first word of the target.
    first = norms[:, 0, :]
    sizes = mask.sum(axis=1)
    longest = int(sizes.min())
    ago = np.stack([first[row, sizes[row] - longest : sizes[row]] for row in range(len(sizes))])
    low, mid, high = np.quantile(ago, (0.1, 0.5, 0.9), axis=0, method="inverted_cdf")
    log.write(step=0, result="reach", log_norm=mid, low=low, high=high, num_pairs=len(sizes))


def table(dataset: str, models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a run's table, published scores behind ours."""
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "BLEU": f"{own['test_bleu']:.1f}",
            "chrF": f"{own['test_chrf']:.1f}",
            "exact, %": f"{100 * own['exact_match']:.1f}",
            "perplexity": f"{own['test_perplexity']:.2f}",
            "parameters": own["parameters"],
            "sentences/s": round(own["sentences_per_s"]),
        }
        for name, own in models.items()
    ]
    rows += [
        {"model": row.model, "BLEU": f"{row.bleu:.1f}", "perplexity": f"{row.perplexity:.2f}",
         "where": row.source}
        for row in PUBLISHED if row.dataset == dataset
    ]  # fmt: skip
    return rows


def compare(config: Config, log: RunLog, data: Pairs) -> None:
    """Each context in a run of its own within this one; then all beside each other."""
    summaries = {}
    for context in ("attention", "every", "state"):
        own = replace(config, context=context, compare=False)
        if not (log.path / context / SUMMARY).exists():
            with log.inside(context, own) as inner:
                train(own, inner, data)
        if log.writes:
            plot(log.path / context)
        summaries[context] = read_run(log.path / context).summary
    names = {context: label(replace(config, context=context)) for context in summaries}
    log.table(f"{data.name}, test",
              table(data.name, {names[c]: each for c, each in summaries.items()}))  # fmt: skip
    log.finish(models=summaries, dataset=data.name)


# New texts.


def load_run(path: Path):
    """Config, translator, parameters and files of a finished run of one model.

    Raises:
      InputError: a run of several models, or one whose checkpoint is damaged.
    """
    config = config_of(Config, read_run(path).record, path)
    if config.compare:
        raise InputError(f"{path} has several models; name one of {', '.join(CONTEXTS)} in it")
    names = ("vocabularies", "forms", "max_source", "max_length")
    state, files = best_state(path, names, lambda files: build(config, files)[1])
    return config.filled(), averaging.model_params(state), files


def predict(
    path: Path, source: Path, *, beam_size: int | None, num_best: int,
    length_penalty: float | None, coverage_penalty: float, temperature: float | None,
    beside: tuple[Path, ...],
) -> None:  # fmt: skip
    """Prints what is written for each line of a file, or of standard input."""
    config, params, files = load_run(path)
    nets = [params]
    for other in beside:
        other_config, other_params, other_files = load_run(other)
        if other_files["vocabularies"] != files["vocabularies"]:
            raise InputError(
                f"{other} has other vocabularies than {path}: they cannot write together"
            )
        if Plan.of(replace(other_config, max_source=1)) != Plan.of(replace(config, max_source=1)):
            raise InputError(f"{other} is another kind of model than {path}: runs that write "
                             "together differ in their seed alone")  # fmt: skip
        nets.append(other_params)
    if len(nets) > 1:
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    translator = translator_of(config, files, len(nets))
    how: dict[str, Any] = {
        "beam_size": beam_size or config.beam_size, "num_best": num_best,
        "length_penalty": config.length_penalty if length_penalty is None else length_penalty,
        "coverage_penalty": coverage_penalty, "max_length": files["max_length"],
    }  # fmt: skip
    if temperature is not None:
        how = {"how": "sample", "temperature": temperature, "max_length": files["max_length"]}
    for before, lines in asked(source):
        texts = checked(lines, translator, files["forms"][0], files["max_source"],
                        name_of(source), before)  # fmt: skip
        for own in translator.write(params, texts, **how):
            for output in own:
                score = f"{output.score:.4f}\t" if num_best > 1 else ""
                sys.stdout.write(f"{score}{as_shown(output.text)}\n")
        sys.stdout.flush()


# Figures.


def plot(path: Path) -> None:
    """Draws every figure from the files of a run."""
    found = read_run(path)
    config = config_of(Config, found.record, path).filled()
    figures = path / "figures"
    inner = {label(config): found}
    if config.compare:
        inner = {
            label(replace(config, context=context)): read_run(path / context)
            for context in ("attention", "every", "state")
        }
    dataset = found.summary["dataset"]
    select = lambda run, **fields: plots.pick(run.metrics, **fields)  # noqa: E731
    measure = "exact match, %" if is_exact(config) else "BLEU"
    plots.save(
        plots.score_by_length(
            {name: select(run, result="length") for name, run in inner.items()},
            measure=measure, title=f"{dataset}, test part",
        ),
        figures / "lengths.png",
    )  # fmt: skip
    far = {name: select(run, result="farther") for name, run in inner.items()}
    if any(far.values()):
        plots.save(
            plots.score_by_length(
                {name: [{**row, "mean_length": row["length"]} for row in rows]
                 for name, rows in far.items()},
                measure=measure, title=f"{dataset}, strings of one length",
                trained=next(iter(inner.values())).summary["source_tokens_seen"] - 1,
            ),
            figures / "farther.png",
        )  # fmt: skip
    plots.save(
        plots.pair_reach(
            {name: select(run, result="reach")[0] for name, run in inner.items()},
            title=f"{dataset}: loss of the first token of the target",
        ),
        figures / "reach.png",
    )  # fmt: skip
    if config.compare:
        return
    plots.save(
        plots.translator_training(
            select(found, split="train"), select(found, split="valid"),
            title=f"{dataset}, {label(config)}",
        ),
        figures / "training.png",
    )  # fmt: skip
    plots.save(
        plots.exposure_bias(
            {row["mode"]: row for row in select(found, result="position")},
            title=f"{dataset}, {label(config)}: test part",
        ),
        figures / "positions.png",
    )  # fmt: skip
    for number, row in enumerate(select(found, result="map")):
        plots.save(
            plots.pair_maps(row, title=f"{dataset}, {label(config)}"),
            figures / f"map_{number + 1}.png",
        )


def spelled(words: list[str]) -> list[str]:
    """The command line with the flags that every experiment has in place of this one's names."""
    known = {"--translate": ["--predict"], "--interactive": ["--predict", "-"]}
    return [flag for word in words for flag in known.get(word, [word])]


if __name__ == "__main__":
    main(Config, run, plot, spelled(sys.argv[1:]), predict=predict)
