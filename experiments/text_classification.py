"""Many-to-one: what is a text about, or how does it judge? A convolution and recurrent encoders.

    python -m experiments.text_classification --model lstm
    python -m experiments.text_classification --compare            # all models, one table
    python -m experiments.text_classification --dataset trec --model cnn
    python -m experiments.text_classification --dataset rt_polarity --model cnn    # ten folds
    python -m experiments.text_classification --corpus reviews.csv --label-column stars
    echo "a gorgeous , witty film" | python -m experiments.text_classification \
        --from-run RUN --predict -

A model is cnn (Kim, 2014), the name of a cell, or bi and the name of a cell. The default texts are
made up: sentences whose negator is k words away from the opinion that it turns round (see
`seqlab.data.negation`), the near ones more often in training, so that one can see how far a model
reads. Real sets are those of `seqlab.data.labelled`, and a table or folder of your own.

A run trains several nets side by side in one program: by seed, or one for each of ten folds where
the set has no test part of its own (rt_polarity; `--folds yes` for others). Each net is kept as it
was in the epoch in which it had most of its validation texts right, and only then asked about the
test texts. Accuracies are means over nets, with the 95 % bootstrap interval over texts. Always
beside them: the most frequent class, and logistic regression on a bag of words.

`predictions.npz` in the run directory holds the probabilities of every test text; `--against RUN`
tests the difference to another run on the same texts by McNemar's exact test. Killed or stopped,
the same command with the same `--out` goes on to the same numbers.

Figures: accuracy over epochs; who is taken for whom, and how well probabilities are calibrated;
accuracy by length and, of the made-up texts, by distance; how far the loss's gradient reaches back
in texts that were answered right and wrong; texts coloured by what each word says to the answer.
"""

import math
import re
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import metrics, plots
from seqlab.baselines import bag_of_words
from seqlab.cells.lookup import make_cell
from seqlab.checkpoint import Checkpoints
from seqlab.cli import config_of, main
from seqlab.data.batching import Feed, pad_tokens
from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.data.labelled import DATASETS, encode_texts, load_labelled
from seqlab.data.negation import window_ceiling
from seqlab.data.reading import Reading, Texts, read_texts
from seqlab.data.text import read_utf8
from seqlab.data.vocabulary import PAD, UNK, Words, vocabulary_from_json
from seqlab.data.words import cut_words
from seqlab.devices import Devices, local
from seqlab.embeddings.files import load_vectors
from seqlab.embeddings.pretrained import with_vectors
from seqlab.ensemble import SideBySide, remember, remembering
from seqlab.errors import InputError
from seqlab.files import whole_file
from seqlab.gradflow.attribution import (
    gradient_times_input,
    integrated_gradients,
    leave_one_out,
    log_odds,
)
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time, named_leaves
from seqlab.losses import cross_entropy, label_accuracy, masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import POOLINGS, AttentionOutput, ManyToOne
from seqlab.models.text_cnn import TextCNN
from seqlab.runlog import CHECKPOINTS, SUMMARY, RunLog, read_run
from seqlab.session import Session
from seqlab.train import make_train_step, max_norm
from seqlab.types import Model

COMPARED = ("cnn", "rnn", "lstm", "gru", "bilstm", "bigru")
PREDICTIONS = "predictions.npz"
CROSS_VALIDATED = ("rt_polarity",)  # in ten folds, as everybody does
NUM_LENGTHS = 5  # groups of texts by length
LONGEST_SHOWN = 40  # words of a text that is shown coloured
NUM_PROBED = 256  # test texts whose gradients are measured
MARGIN = 0.02  # of accuracy, that lies between one model and another that is said to be worse
KEEPS = 0.9  # least accuracy at the largest distance of a cell that is said to remember
ATTRIBUTIONS = {
    "gradient x input": gradient_times_input,
    "integrated gradients": integrated_gradients,
    "leave one out": leave_one_out,
}
DEFAULTS = {
    "cnn": {
        "embed_size": 300, "embed_scale": 1.0, "drop_inputs": 0.0, "drop_features": 0.5,
        "max_norm": 3.0, "learning_rate": 1e-3,
    },
    "recurrent": {
        "embed_size": 100, "embed_scale": 0.1, "drop_inputs": 0.5, "drop_features": 0.5,
        "max_norm": 0.0, "learning_rate": 2e-3,
    },
}  # fmt: skip
REAL = {
    "min_count": 2, "hidden_size": 128, "num_maps": 100, "batch_size": 50, "num_epochs": 15,
    "patience": 3, "num_seeds": 3,
}  # fmt: skip
MADE_UP = {
    "min_count": 1, "learning_rate": 3e-3, "embed_size": 32, "embed_scale": 1.0, "hidden_size": 48,
    "num_maps": 32, "batch_size": 128, "drop_inputs": 0.0, "drop_features": 0.0, "max_norm": 0.0,
    "num_epochs": 6, "patience": 6, "num_seeds": 6,
}  # fmt: skip
LONGEST = {"imdb": 400}  # words of a text that are read, where not all of them


class Published(NamedTuple):
    """A published test accuracy.

    Attributes:
      dataset: of `seqlab.data.labelled`.
      model: what was trained.
      percent: accuracy.
      source: where it was published.
      differs: what is other there than here, "" for nothing that matters.
    """

    dataset: str
    model: str
    percent: float
    source: str
    differs: str = ""


_PHRASES = "trained on labelled phrases too, here on sentences"
_TREC = "trained on all of train, here a tenth is held out"
PUBLISHED = (
    Published("rt_polarity", "CNN-rand", 76.1, "Kim 2014"),
    Published("rt_polarity", "CNN-static", 81.0, "Kim 2014", "word2vec of Google News"),
    Published("rt_polarity", "CNN-non-static", 81.5, "Kim 2014", "word2vec of Google News"),
    Published("sst2", "CNN-rand", 82.7, "Kim 2014", _PHRASES),
    Published("sst2", "CNN-non-static", 87.2, "Kim 2014", _PHRASES),
    Published("sst2", "LSTM", 84.9, "Tai et al. 2015", f"{_PHRASES}; GloVe"),
    Published("sst5", "CNN-rand", 45.0, "Kim 2014", _PHRASES),
    Published("sst5", "CNN-non-static", 48.0, "Kim 2014", _PHRASES),
    Published("trec", "CNN-rand", 91.2, "Kim 2014", _TREC),
    Published("trec", "CNN-static", 92.8, "Kim 2014", f"{_TREC}; word2vec of Google News"),
    Published("trec", "CNN-non-static", 93.6, "Kim 2014", f"{_TREC}; word2vec of Google News"),
)


@dataclass(frozen=True)
class Config:
    """Accuracy of many-to-one models on texts, beside a bag of words."""

    may_change: ClassVar = ("save_every", "num_devices")

    model: str = "gru"
    """cnn, a cell's name (rnn, lstm, gru, ..., package.module:Class), or bi and a cell's name"""
    compare: bool = False
    """train cnn, rnn, lstm, gru, bilstm and bigru, one after the other"""
    dataset: str = "negation"
    """negation, rt_polarity, sst2, sst5, trec, trec_fine, imdb or korean"""
    corpus: Path | None = None
    """a table or folder of your own instead, see docs/texts_to_classify.md"""
    text_column: str | None = None
    """of a table: its name, or its number from 1; None: text"""
    label_column: str | None = None
    """likewise; None: label"""
    max_distance: int = 20
    """k, of the made-up texts: from 0 to it"""
    level: Literal["word", "char", "subword"] = "word"
    """what a token is"""
    min_count: int | None = None
    """words seen less often in training are <unk>; None: 2, 1 for made-up texts"""
    max_vocabulary: int | None = None
    """largest number of words, or of byte pairs"""
    max_length: int | None = None
    """tokens that are read of a text, from its beginning; None: all, 400 of imdb"""
    folds: Literal["auto", "yes", "no"] = "auto"
    """whether a set without a test part is tested in ten folds; auto: rt_polarity is"""
    vectors: Path | None = None
    """word vectors to begin with, a file of word2vec or GloVe"""
    mode: Literal["static", "non-static", "multichannel"] = "non-static"
    """what training does with them; multichannel is of cnn"""
    embed_size: int | None = None
    """D, without vectors; None: 300 for cnn, 100 for cells, 32 for made-up texts"""
    hidden_size: int | None = None
    """H of a cell; None: 128, 48 for made-up texts"""
    num_layers: int = 1
    """of cells"""
    pooling: str = "last"
    """what of the steps of a cell is read: last, mean, max or attention"""
    widths: tuple[int, ...] = (3, 4, 5)
    """h, words that a filter of cnn sees"""
    num_maps: int | None = None
    """filters of each width; None: 100, 32 for made-up texts"""
    embed_scale: float | None = None
    """factor of the vectors that begin at random, U(-0.25, 0.25) of cnn, N(0, 1) of cells; None: 1,
    0.1 for cells"""
    drop_words: float = 0.0
    """share of the words that are read as <unk> in training"""
    drop_inputs: float | None = None
    """dropout of what a cell reads; None: 0.5, 0 for made-up texts"""
    drop_features: float | None = None
    """dropout of what the answer is read from; None: 0.5, 0 for made-up texts"""
    max_norm: float | None = None
    """largest norm of a class's weights, 0 for any; None: 3 for cnn, else 0"""
    optimizer: Literal["adam", "adadelta"] = "adam"
    """adadelta is Kim's"""
    learning_rate: float | None = None
    """None: 1 of adadelta; of adam 0.001, 0.002 for cells, 0.003 for made-up texts"""
    clip_norm: float = 5.0
    """largest global gradient norm let through"""
    batch_size: int | None = None
    """B; None: 50, 128 for made-up texts"""
    num_buckets: int = 6
    """lengths that a batch may be padded to"""
    num_epochs: int | None = None
    """the most; None: 15, 6 for made-up texts, in which a cell with gates has
    learned them and a vanilla net is still at it"""
    patience: int | None = None
    """epochs in which no net gets better at validation, after which training ends; None: 3, 6 for
    made-up texts"""
    num_seeds: int | None = None
    """nets that differ in their seed, where there are no folds; None: 3, 6 for made-up texts"""
    num_shown: int = 6
    """texts that are shown coloured"""
    against: Path | None = None
    """a finished run on the same texts, to be compared with by McNemar's test"""
    log_every: int = 20
    """updates between lines of the log"""
    save_every: int = 1000
    """updates between checkpoints"""
    seed: int = 0
    num_devices: int | None = 1
    """how many share out each batch, each of which updates all vectors of words; on two cores a
    cnn of three nets takes 165 ms an update with 2, 124 ms with 1"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.dataset, DATASETS, "dataset")
        check_known(self.pooling, POOLINGS, "pooling")
        for field in ("min_count", "hidden_size", "num_layers", "num_maps", "num_buckets",
                      "num_seeds", "log_every", "save_every", "embed_size", "batch_size",
                      "num_epochs", "patience", "max_vocabulary", "max_length",
                      "num_devices"):  # fmt: skip
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        for field in ("seed", "max_distance", "num_shown"):
            check_at_least(getattr(self, field), 0, field)
        for field in ("learning_rate", "clip_norm", "embed_scale"):
            if getattr(self, field) is not None:
                check_positive(getattr(self, field), field)
        for field in ("drop_words", "drop_inputs", "drop_features"):
            rate = getattr(self, field)
            if rate is not None and not 0.0 <= rate < 1.0:
                raise InputError(f"{field} must be a probability below 1, got {rate}")
        if self.max_norm is not None and not 0.0 <= self.max_norm < math.inf:
            raise InputError(f"max_norm must be 0 or more, got {self.max_norm}")
        if self.vectors is not None and self.level != "word":
            raise InputError(f"vectors are of words, level is {self.level}")
        if self.vectors is not None and self.embed_size is not None:
            raise InputError("vectors have a size of their own: leave out embed_size")
        if self.vectors is not None and self.mode == "multichannel" and self.model != "cnn":
            raise InputError(f"mode multichannel is of model cnn, not of {self.model}")
        if self.compare and self.against is not None:
            raise InputError("compare tests its own models; give either compare or against")
        if self.model != "cnn":
            cell_of(self.model, self.hidden_size or 8)

    def filled(self) -> "Config":
        """The same with what suits the model and the texts in place of None."""
        defaults: dict[str, Any] = DEFAULTS["cnn" if self.model == "cnn" else "recurrent"] | REAL
        if self.dataset == "negation" and self.corpus is None:
            defaults |= MADE_UP
        if self.optimizer == "adadelta":
            defaults["learning_rate"] = 1.0
        if self.vectors is not None:
            del defaults["embed_size"]
        defaults["max_length"] = LONGEST.get(self.dataset)
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            max_distance=2, embed_size=8, hidden_size=12, num_epochs=2, num_seeds=2, num_shown=2,
            num_buckets=1, num_maps=8,
        )  # fmt: skip


def load_texts(config: Config, vectors=None) -> Texts:
    """The set, what each net reads of it, and the vocabulary."""
    data = load_labelled(
        config.dataset,
        corpus=config.corpus,
        text_column=config.text_column,
        label_column=config.label_column,
        distances=range(config.max_distance + 1),
    )
    return read_texts(
        data,
        folds=config.folds == "yes" or (config.folds == "auto" and data.name in CROSS_VALIDATED),
        num_seeds=cast(int, config.num_seeds),
        seed=config.seed,
        level=config.level,
        min_count=cast(int, config.min_count),
        max_size=config.max_vocabulary,
        max_length=config.max_length,
        vectors=vectors,
    )


# Models and training.


def cell_of(model: str, hidden_size: int):
    """The cell of a model, and whether there are two directions.

    Raises:
      InputError: no model is called so.
    """
    names = [(model, False)] + [(model[2:], True)] * model.startswith("bi")
    for name, bidirectional in names:
        try:
            return make_cell(name, hidden_size), bidirectional
        except InputError as error:
            reason = error
    raise InputError(f"model {model}: neither cnn nor a cell: {reason}") from reason


def make_model(config: Config, files: dict[str, Any]) -> Model:
    """Tokens in, a class out."""
    sizes = {
        "input_size": files["embed_size"],
        "output_size": len(files["classes"]),
        "vocab_size": vocab_size_of(files),
        "head": "softmax",
    }
    if config.model == "cnn":
        return functional(
            TextCNN,
            **sizes,
            widths=config.widths,
            num_maps=config.num_maps,
            drop_features=config.drop_features,
            multichannel=is_multichannel(config),
        )
    cell, bidirectional = cell_of(config.model, cast(int, config.hidden_size))
    return functional(
        ManyToOne,
        cell,
        **sizes,
        pooling=config.pooling,
        num_layers=config.num_layers,
        bidirectional=bidirectional,
        drop_inputs=config.drop_inputs,
        drop_features=config.drop_features,
    )


def vocab_size_of(files: dict[str, Any]) -> int:
    """V."""
    return len(vocabulary_from_json(files["vocabulary"]))


def is_multichannel(config: Config) -> bool:
    """Whether the model has two tables of vectors."""
    return config.vectors is not None and config.mode == "multichannel"


def build(config: Config, files: dict[str, Any], matrix: np.ndarray | None = None):
    """The training step of all nets, and the state before the first.

    Without the vectors' `matrix` the state has the shape that it has with it.
    """
    config = config.filled()
    model = make_model(config, files)
    rate = cast(float, config.learning_rate)
    optimizer = optax.adam(rate) if config.optimizer == "adam" else optax.adadelta(rate)
    if config.max_norm:
        optimizer = optax.chain(optimizer, max_norm(config.max_norm, "head.kernel"))
    if config.vectors is None:
        begun = scaled(model, config.embed_scale)
    else:
        if matrix is None:
            shape = vocab_size_of(files), files["embed_size"]
            matrix = np.zeros(shape, np.float32)
        begun, optimizer = with_vectors(model, optimizer, config.mode, matrix)

    def loss_fn(params, batch, key):
        key_words, key = jax.random.split(key)
        xs = batch["xs"]
        if config.drop_words:
            xs = jnp.where(jax.random.bernoulli(key_words, config.drop_words, xs.shape), UNK, xs)
        logits = begun.apply(params, xs, batch["mask"], key=key).logits
        is_real = batch["is_real"]
        loss = masked_mean(cross_entropy(logits, batch["targets"]), is_real)
        accuracy = label_accuracy(logits, batch["targets"], is_real)
        return loss, {"weight": jnp.sum(is_real), "accuracy": accuracy}

    one = make_train_step(loss_fn, remembering(optimizer), clip_norm=config.clip_norm)
    step = SideBySide(((config.model, one),))
    key_params, key_steps = jax.random.split(jax.random.key(config.seed))
    keys = jax.random.split(key_params, files["num_nets"])
    return step, step.init({config.model: jax.jit(jax.vmap(begun.init))(keys)}, key_steps)


def scaled(model: Model, factor: float) -> Model:
    """A model whose vectors begin `factor` times as large, those of no word at zero."""

    def init(key):
        params = model.init(key)
        table = factor * params["embed"]["embedding"]
        table = table.at[jnp.array([PAD, UNK])].set(0.0)
        return {**params, "embed": {"embedding": table}}

    return model._replace(init=init)


def answerer(model: Model, devices: Devices | None):
    """(params, part) -> probabilities [M, C] of each net's texts, in their order, and mean nats."""

    def answer_batch(params, batch):
        def one(params, xs, mask, targets):
            logits = model.apply(params, xs, mask).logits
            return jax.nn.softmax(logits), cross_entropy(logits, targets)

        return jax.vmap(one, in_axes=(0, 1, 1, 1), out_axes=1)(
            params, batch["xs"], batch["mask"], batch["targets"]
        )

    compiled = jax.jit(answer_batch if devices is None else devices.share_rows(answer_batch))

    def answer(params, reading):
        found = []
        for number in range(reading.batches_per_epoch):
            batch = reading.batch(number)
            parts = {name: batch[name] for name in ("xs", "mask", "targets")}
            found.append((batch["ids"], *map(np.asarray, compiled(params, parts))))
        ids, probabilities, nats = (np.concatenate(each) for each in zip(*found, strict=True))
        results = []
        for net in range(ids.shape[1]):
            places = np.flatnonzero(ids[:, net] >= 0)
            places = places[np.argsort(ids[places, net])]
            results.append((probabilities[places, net], float(nats[places, net].mean())))
        return results

    return answer


def run(config: Config, log: RunLog) -> None:
    """Trains one model, or all of them, and puts them beside what is simpler."""
    vectors = None if config.vectors is None else load_vectors(config.vectors)
    texts = load_texts(config.filled(), vectors)  # the same for every model
    floor = baselines(texts)
    if config.compare:
        compare(config, log, texts, vectors, floor)
    else:
        train(config, log, texts, vectors, floor)


def train(config: Config, log: RunLog, texts: Texts, vectors, floor) -> None:
    """One run of one model."""
    config = config.filled()
    data, name = texts.data, config.model
    matrix = None
    if vectors is not None:
        found = vectors.matrix(texts.vocabulary, seed=config.seed)
        matrix = found.matrix
        log.note(f"{found.coverage:.1%} of {len(texts.vocabulary)} words have a vector")
    files = {
        "vocabulary": texts.vocabulary.to_json(),
        "classes": list(data.classes),
        "num_nets": len(texts.nets),
        "embed_size": config.embed_size if matrix is None else matrix.shape[1],
        "new_cut": data.new_cut,
        "unknown": [np.flatnonzero(~known).tolist() for known in texts.known]
        if texts.are_folds
        else [],
    }
    sizes = {"batch_size": config.batch_size, "num_buckets": config.num_buckets}
    reading = texts.reading("train", shuffled=True, **sizes)
    parts = {part: texts.reading(part, shuffled=False, **sizes) for part in ("valid", "test")}
    per_epoch = reading.batches_per_epoch
    train_step, state = build(config, files, matrix)
    num_parameters = sum(leaf[0].size for leaf in jax.tree.leaves(state.params))
    log.write(
        step=0, dataset=data.name, digest=data.digest, vocabulary=texts.vocabulary.digest,
        vocab_size=len(texts.vocabulary), num_nets=len(texts.nets), num_cut=texts.num_cut,
        num_parameters=num_parameters, notes=list(data.notes),
        **{f"num_{part}": len(rows) for part, rows in texts.nets[0].rows.items()},
    )  # fmt: skip
    for note in data.notes:
        log.note(f"{data.name}: {note}")
    log.write(step=0, baselines=floor)
    devices = Devices.sharing(cast(int, config.batch_size), config.num_devices)
    answer = answerer(make_model(config, files), devices)
    with (
        Feed(reading) as feed,
        Session(
            log,
            state,
            feed,
            num_steps=cast(int, config.num_epochs) * per_epoch,
            save_every=config.save_every,
            patience=config.patience,
            on_nonfinite="skip",
            files=files,
            devices=devices,
            keep=1,
            description=name,
        ) as session,
    ):
        # Of each net: validation accuracy, then loss, and epoch.
        best = session.memory.setdefault("best", [[-1.0, 0.0, 0]] * len(texts.nets))
        for step, state, values in session.steps(train_step):
            if step % config.log_every == 0:
                log.write(step=step, split="updates", **values[name])
            if step % per_epoch:
                continue
            epoch = step // per_epoch
            answers = answer(local(state.params[name]), parts["valid"])
            shares = [each.mean() for each in which_are_right(answers, texts.labels("valid"))]
            nats = [nats for _, nats in answers]
            log.write(step=step, split="valid", epoch=epoch, accuracy=shares, loss=nats)
            now = [[float(share), loss, epoch] for share, loss in zip(shares, nats, strict=True)]
            pairs = list(zip(now, best, strict=True))
            is_better = [(new[0], -new[1]) > (old[0], -old[1]) for new, old in pairs]
            best[:] = [new if b else old for b, (new, old) in zip(is_better, pairs, strict=True)]
            session.state = remember(session.state, {name: np.array(is_better)})
            session.report(step, 1.0 - float(np.mean([each[0] for each in best])))
        params = jax.device_get(local(session.state.opt_state[name].best))
    tested = answer(params, parts["test"])
    figures = {
        **judge(texts, tested, log),
        "valid_accuracy": float(np.mean([each[0] for each in best])),
        "best_epochs": [each[2] for each in best],
        "parameters": num_parameters,
        **floor,
    }
    own = session.figures()
    steps_per_s = own["steps_per_s"]
    figures["examples_per_s"] = steps_per_s and steps_per_s * reading.num_real / per_epoch
    if log.writes:
        save_predictions(log.path / PREDICTIONS, texts, tested)
    if config.against is not None:
        figures["mcnemar"] = against(log.path, config.against, log)
    look_inside(config, files, texts, params, tested, log)
    log.table(f"{data.name}, test", table(data.name, {name: figures}))
    log.finish(**own, **figures, dataset=data.name, classes=list(data.classes))


def which_are_right(answers, labels):
    """Of each net, whether it has each text of a part right."""
    return [
        probabilities.argmax(axis=1) == truth
        for (probabilities, _), truth in zip(answers, labels, strict=True)
    ]


# What came out.


def baselines(texts: Texts) -> dict[str, float]:
    """Accuracy of the most frequent class and of a bag of words, on the same test texts."""
    data = texts.data
    words = [cut_words(text, data.cut) for text in data.texts]
    right: dict[str, list[float]] = {"majority": [], "bag_of_words": []}
    for net in texts.testers:
        parts = {
            part: ([words[row] for row in rows.tolist()], data.labels[rows])
            for part, rows in net.rows.items()
        }
        labels = parts["test"][1]
        share = metrics.majority_accuracy(parts["train"][1], labels)
        right["majority"].append(share * len(labels))
        bag = bag_of_words(
            parts["train"], parts["valid"], parts["test"], num_classes=len(data.classes)
        )
        right["bag_of_words"].append(bag.accuracy * len(labels))
    total = len(texts.tested_rows)
    return {f"{name}_accuracy": sum(counts) / total for name, counts in right.items()}


def judge(texts: Texts, tested, log: RunLog) -> dict[str, Any]:
    """Figures of the test part."""
    labels = texts.labels("test")
    right = which_are_right(tested, labels)
    by_text = texts.over_nets(right)
    middle, low, high = map(float, metrics.bootstrap(by_text, np.mean, num_draws=2000))
    counts = sum(
        metrics.confusion(truth, probabilities.argmax(axis=1), len(texts.data.classes))
        for truth, (probabilities, _) in zip(labels, tested, strict=True)
    )
    curve = metrics.calibration(
        np.concatenate([each for each, _ in tested]), np.concatenate(labels)
    )
    log.write(step=0, result="confusion", counts=counts)
    log.write(step=0, result="calibration", counts=curve.counts,
              confidence=curve.confidence, accuracy=curve.accuracy)  # fmt: skip
    return {
        "test_accuracy": middle,
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "test_accuracy_of_nets": [float(each.mean()) for each in right],
        "macro_f1": float(metrics.macro_f1(np.asarray(counts))),
        "calibration_error": curve.error,
        "num_test": len(by_text),
    }


def save_predictions(path: Path, texts: Texts, tested) -> None:
    """Probabilities of the classes for every test text, [K, M, C]; K is 1 for folds."""
    each = [probabilities for probabilities, _ in tested]
    probabilities = np.concatenate(each)[None] if texts.are_folds else np.stack(each)
    order = np.argsort(texts.tested_rows)
    rows = texts.tested_rows[order]
    with whole_file(path) as file:
        np.savez_compressed(
            file, rows=rows, labels=texts.data.labels[rows], digest=texts.data.digest,
            probabilities=probabilities[:, order],
        )  # fmt: skip


def load_right(path: Path) -> tuple[Any, np.ndarray]:
    """Which texts a run was tested on, and which of them its first net had right."""
    try:
        # Opened here: where it is no archive, np.load would leave it open.
        with (path / PREDICTIONS).open("rb") as content, np.load(content) as file:
            said = file["probabilities"][0].argmax(axis=1)
            return (str(file["digest"]), file["rows"].tolist()), said == file["labels"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no {PREDICTIONS} of a text classification: {error}") from error


def against(own: Path, other: Path, log: RunLog) -> dict[str, Any]:
    """McNemar's test of the first nets of two runs.

    Raises:
      InputError: the other run was tested on other texts.
    """
    (texts, right), (other_texts, other_right) = load_right(own), load_right(other)
    if texts != other_texts:
        raise InputError(f"{other} was tested on other texts than {own}")
    found = metrics.mcnemar(right, other_right)
    row = {"against": str(other), "first_only": found.first_only,
           "second_only": found.second_only, "p_value": found.p_value}  # fmt: skip
    log.table("McNemar's exact test, first net of each run", [row])
    return row


def table(dataset: str, models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a run's table: baselines, models, published figures."""
    any_model = next(iter(models.values()))
    rows: list[dict[str, Any]] = [
        {"model": label, "accuracy, %": f"{100 * any_model[key]:.1f}"}
        for label, key in (("most frequent class", "majority_accuracy"),
                           ("bag of words, logistic regression", "bag_of_words_accuracy"))
    ]  # fmt: skip
    for name, figures in models.items():
        rate = figures["examples_per_s"]
        rows.append(
            {
                "model": name,
                "accuracy, %": f"{100 * figures['test_accuracy']:.1f}",
                "from": f"{100 * figures['test_accuracy_low']:.1f}",
                "to": f"{100 * figures['test_accuracy_high']:.1f}",
                "macro F1": f"{figures['macro_f1']:.3f}",
                "calibration error": f"{figures['calibration_error']:.3f}",
                "parameters": figures["parameters"],
                "texts/s": None if rate is None else round(rate),
            }
        )
    for row in PUBLISHED:
        if row.dataset == dataset:
            where = f"{row.source}: {row.differs}" if row.differs else row.source
            rows.append({"model": row.model, "accuracy, %": f"{row.percent:.1f}", "where": where})
    return rows


def compare(config: Config, log: RunLog, texts: Texts, vectors, floor) -> None:
    """Every model in a run of its own within this one; then all of them beside each other."""
    summaries: dict[str, dict[str, Any]] = {}
    for name in COMPARED:
        own = replace(config, model=name, compare=False)
        if not (log.path / name / SUMMARY).exists():
            with log.inside(name, own) as inner:
                train(own, inner, texts, vectors, floor)
        if log.writes:
            plot(log.path / name)
        summaries[name] = read_run(log.path / name).summary
    pairs = []
    rights = {name: load_right(log.path / name)[1] for name in COMPARED}
    for k, first in enumerate(COMPARED):
        for second in COMPARED[k + 1 :]:
            found = metrics.mcnemar(rights[first], rights[second])
            pairs.append({"first": first, "second": second, **found._asdict()})
    dataset = summaries[COMPARED[0]]["dataset"]
    checks = reach(log.path) if dataset == "negation" else []
    log.write(step=0, mcnemar=pairs)
    log.table(f"{dataset}, test", table(dataset, summaries))
    log.table("McNemar's exact test, first net of each model", [
        {**pair, "p_value": f"{pair['p_value']:.2g}"} for pair in pairs
    ])  # fmt: skip
    if checks:
        log.table("checks", checks)
    kept = ("test_accuracy", "test_accuracy_low", "test_accuracy_high", "macro_f1", "parameters",
            "calibration_error", "examples_per_s", "compiled_shapes", "wall_s")  # fmt: skip
    shared = {key: summaries[COMPARED[0]][key]
              for key in ("majority_accuracy", "bag_of_words_accuracy", "dataset")}  # fmt: skip
    log.finish(
        models={name: {key: each[key] for key in kept} for name, each in summaries.items()},
        mcnemar=pairs, checks=checks, **shared,
    )  # fmt: skip


def reach(path: Path) -> list[dict[str, Any]]:
    """What the runs say of the claims about negation at a distance."""
    runs = {name: read_run(path / name) for name in COMPARED}
    found = {
        name: {
            row["distance"]: row["of_nets"] for row in plots.pick(own.metrics, result="distance")
        }
        for name, own in runs.items()
    }
    window = max(runs["cnn"].config["widths"])
    far = max(found["cnn"])
    beyond = [k for k in found["cnn"] if k + 2 > window]
    if not beyond:
        return []
    checks = []
    right = np.array([found["cnn"][k] for k in beyond])  # [distances, nets]
    middle, low, high = metrics.bootstrap(right.T.mean(axis=1), np.mean)
    allowed = max(MARGIN, high - middle)
    checks.append({"name": f"cnn, more than {window - 2} words between: at chance",
                   "found": f"{middle:.3f} ({low:.3f} to {high:.3f})",
                   "expected": f"0.5, within {allowed:.3f}",
                   "passed": bool(abs(middle - 0.5) <= allowed)})  # fmt: skip
    at_far = {name: float(np.mean(each[far])) for name, each in found.items()}
    for name in ("lstm", "gru"):
        checks.append({"name": f"{name}, {far} words between", "found": f"{at_far[name]:.3f}",
                       "expected": f">= {KEEPS}", "passed": at_far[name] >= KEEPS})  # fmt: skip
    gated = min(np.mean([np.mean(found[name][k]) for k in beyond]) for name in ("lstm", "gru"))
    rnn = float(np.mean([np.mean(found["rnn"][k]) for k in beyond]))
    checks.append({"name": "tanh rnn beyond the window of cnn", "found": f"{rnn:.3f}",
                   "expected": f"between chance and {gated:.3f}, by {MARGIN} each",
                   "passed": bool(0.5 + MARGIN < rnn < gated - MARGIN)})  # fmt: skip
    return checks


# Looking inside.


def look_inside(config: Config, files, texts: Texts, params, tested, log: RunLog) -> None:
    """Accuracy by length and distance, of all nets; gradients and words, of the first."""
    look_at_lengths(texts, tested, log)
    if texts.data.distances is not None:
        look_at_distances(texts, tested, log)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    model = make_model(config, files)
    rows = texts.nets[0].rows["test"]
    probabilities = tested[0][0]
    ids = [np.where(texts.known[0, texts.ids[row]], texts.ids[row], UNK) for row in rows.tolist()]
    if config.model != "cnn":
        look_at_gradients(model, first, ids, texts.data.labels[rows], probabilities, log)
    look_at_words(config, model, first, texts, rows, ids, probabilities, log)


def look_at_lengths(texts: Texts, tested, log: RunLog) -> None:
    """Accuracy by the length of a text, in groups of equally many."""
    by_text = texts.over_nets(which_are_right(tested, texts.labels("test")))
    lengths = np.array([len(texts.ids[row]) for row in texts.tested_rows.tolist()])
    borders = np.unique(np.quantile(lengths, np.linspace(0, 1, NUM_LENGTHS + 1)).astype(int))
    borders[-1] += 1
    for shortest, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        is_in = (lengths >= shortest) & (lengths < end)
        if is_in.any():
            share = metrics.bootstrap(by_text[is_in], np.mean)
            log.write(step=0, result="length", shortest=shortest, longest=end - 1,
                      mean_length=lengths[is_in].mean(), num_texts=is_in.sum(),
                      accuracy=share.middle, low=share.low, high=share.high)  # fmt: skip


def look_at_distances(texts: Texts, tested, log: RunLog) -> None:
    """Accuracy of every net by the distance of the negator."""
    distances = cast(np.ndarray, texts.data.distances)
    own = distances[texts.tested_rows]
    right = np.stack(which_are_right(tested, texts.labels("test")))
    for distance in np.unique(own).tolist():
        of_nets = right[:, own == distance].mean(axis=1)
        log.write(step=0, result="distance", distance=distance, of_nets=of_nets)


def look_at_gradients(model, params, ids, labels, probabilities, log: RunLog) -> None:
    """Norm of dL/dh_t over the last steps of texts answered right and wrong; L of each text."""
    lengths = np.array([len(each) for each in ids])
    num_steps = max(2, int(np.median(lengths)))
    chosen = np.flatnonzero(lengths >= num_steps)[:NUM_PROBED]
    if not len(chosen):
        return
    xs, mask = pad_tokens([ids[row] for row in chosen.tolist()], int(lengths[chosen].max()))

    @jax.jit
    def measure(params, xs, mask, labels):
        def loss(output):
            return jnp.sum(cross_entropy(output.logits, labels))

        grads = carry_gradients(model.apply, loss, params, xs, mask)["rnn"]
        return {leaf: log_norm_over_time(values) for leaf, values in named_leaves(grads).items()}

    norms = measure(params, xs, mask, labels[chosen])
    last = lengths[chosen, None] - num_steps + np.arange(num_steps)
    is_right = probabilities[chosen].argmax(axis=1) == labels[chosen]
    for leaf, values in norms.items():
        own = np.take_along_axis(np.asarray(values), last, axis=1)
        for answer, which in (("right", is_right), ("wrong", ~is_right)):
            if which.any():
                low, middle, high = np.quantile(
                    own[which], (0.1, 0.5, 0.9), axis=0, method="inverted_cdf"
                )
                log.write(step=0, result="gradient", leaf=re.sub(r"\W+", " ", leaf).strip(),
                          answer=answer, num_texts=which.sum(), log_norm=middle,
                          low=low, high=high)  # fmt: skip


def look_at_words(config, model, params, texts, rows, ids, probabilities, log) -> None:
    """What each word of some texts says to the answer, by several methods."""
    labels, said = texts.data.labels[rows], probabilities.argmax(axis=1)
    fits = np.array([1 < len(each) <= LONGEST_SHOWN for each in ids])
    shown: list[int] = []
    for is_right in (True, False):
        found = np.flatnonzero(fits & ((said == labels) == is_right))
        places = np.linspace(0, len(found) - 1, (config.num_shown + is_right) // 2).astype(int)
        shown += found[places].tolist() if len(found) else []
    if not shown:
        return
    read = [ids[row] for row in shown]
    xs, mask = pad_tokens(read, max(map(len, read)))
    tables = {"tables": ("embed", "static")} if is_multichannel(config) else {}
    score = log_odds(jnp.asarray(said[shown]))
    values = {
        name: jax.jit(
            lambda params, method=method, own=tables if method is not leave_one_out else {}: method(
                model.apply, score, params, xs, mask, **own
            )
        )(params)
        for name, method in ATTRIBUTIONS.items()
    }
    output = jax.jit(model.apply)(params, xs, mask)
    if isinstance(output, AttentionOutput):
        values["attention"] = output.attention
    for place, row in enumerate(shown):
        length = len(ids[row])
        log.write(
            step=0, result="words", text=int(rows[row]),
            tokens=as_read(texts, int(rows[row]), ids[row]),
            label=texts.data.classes[labels[row]], said=texts.data.classes[said[row]],
            probability=probabilities[row, said[row]],
            **{name: np.asarray(each)[place, :length] for name, each in values.items()},
        )  # fmt: skip


def as_read(texts: Texts, row: int, ids: np.ndarray) -> list[str]:
    """Tokens of a text; in angle brackets a word that the net does not know."""
    tokens = texts.vocabulary.tokens
    if not isinstance(texts.vocabulary, Words):
        return [tokens[i] for i in ids.tolist()]
    words = cut_words(texts.data.texts[row], texts.data.cut)
    pairs = zip(words, ids.tolist(), strict=False)  # of a text that is cut, the first
    return [f"<{word}>" if i == UNK else word for word, i in pairs]


# New texts.


def load(path: Path):
    """Config, model, parameters of all nets and files of a finished run of one model.

    Raises:
      InputError: a run of several models, or one whose checkpoint is damaged.
    """
    record = read_run(path).record
    config = config_of(Config, record, path).filled()
    if config.compare:
        raise InputError(f"{path} has several models; name one of {', '.join(COMPARED)} in it")
    with Checkpoints(path / CHECKPOINTS, writes=False) as checkpoints:
        newest = checkpoints.newest_good()
        if newest is None:
            raise InputError(f"{path} has no good checkpoint")
        names = ("vocabulary", "classes", "num_nets", "embed_size", "new_cut", "unknown")
        files = {name: checkpoints.read_file(newest, name) for name in names}
        state = checkpoints.restore(newest, build(config, files)[1]).state
    return config, make_model(config, files), state.opt_state[config.model].best, files


def classify(path: Path, lines: list[str]) -> tuple[list[str], np.ndarray]:
    """Classes of a run, and their probabilities for new texts [M, C]: the mean over its nets."""
    config, model, params, files = load(path)
    vocabulary = vocabulary_from_json(files["vocabulary"])
    ids = [each[: config.max_length] for each in encode_texts(vocabulary, lines, files["new_cut"])]
    known = np.ones((files["num_nets"], len(vocabulary)), bool)
    for net, unknown in enumerate(files["unknown"]):
        known[net, unknown] = False
    reading = Reading(
        ids,
        np.zeros(len(lines), np.int32),  # nobody has said their classes
        [np.arange(len(lines))] * files["num_nets"],
        known,
        seeds=None,
        batch_size=min(cast(int, config.batch_size), len(lines)),
        num_buckets=config.num_buckets,
    )
    answers = answerer(model, None)(params, reading)
    return files["classes"], np.mean([each for each, _ in answers], axis=0)


def predict(path: Path, source: Path) -> None:
    """Prints a line for each line of a file, or of standard input: class, probability, text."""
    lines = read_utf8(source).removesuffix("\n").split("\n")
    classes, probabilities = classify(path, lines)
    for line, row in zip(lines, probabilities, strict=True):
        sys.stdout.write(f"{classes[row.argmax()]}\t{row.max():.4f}\t{line}\n")


# Figures.


def plot(path: Path) -> None:
    """Draws every figure from the files of a run."""
    found = read_run(path)
    figures = path / "figures"
    config = config_of(Config, found.record, path).filled()
    if config.compare:
        plot_comparison(path, found, config)
        return
    summary, name = found.summary, config.model
    select = lambda **fields: plots.pick(found.metrics, **fields)  # noqa: E731
    num_nets = len(summary["test_accuracy_of_nets"])
    title = f"{summary['dataset']}, {name}"
    plots.save(
        plots.classifier_training(
            [(row["step"], row["loss"], row["accuracy"]) for row in select(split="updates")],
            [(row["step"], row["loss"], row["accuracy"]) for row in select(split="valid")],
            levels={"most frequent class, test": summary["majority_accuracy"],
                    "bag of words, test": summary["bag_of_words_accuracy"]},
            title=f"{title}: median and range of {num_nets} nets",
        ),
        figures / "training.png",
    )  # fmt: skip
    (table,), (curve,) = select(result="confusion"), select(result="calibration")
    plots.save(
        plots.confusion_and_calibration(
            np.array(table["counts"]), summary["classes"], curve, summary["calibration_error"],
            title=f"{title}: {summary['num_test']} test texts",
        ),
        figures / "confusion.png",
    )  # fmt: skip
    plots.save(
        plots.accuracy_by_length({name: select(result="length")}, title=title),
        figures / "lengths.png",
    )
    distances = {name: select(result="distance")}
    if distances[name]:
        plots.save(by_distance(distances, config), figures / "distances.png")
    gradients = select(result="gradient")
    if gradients:
        leaves = list(dict.fromkeys(row["leaf"] for row in gradients))
        figure, panels = plots.new_figure(len(leaves), width=1.0 + 4.0 * len(leaves), height=3.6)
        for axes, leaf in zip(panels, leaves, strict=True):
            curves = [
                plots.Curve(
                    f"{row['num_texts']} texts answered {row['answer']}: median, 10-90 %",
                    np.array(row["log_norm"]), np.array(row["low"]), np.array(row["high"]),
                )
                for row in gradients if row["leaf"] == leaf
            ]  # fmt: skip
            plots.gradient_curves(curves, axes, f"d loss / d {leaf}", before="the last word")
        figure.suptitle(f"{title}: first net", fontsize=10)
        plots.save(figure, figures / "gradient.png")
    words = select(result="words")
    if words:
        plots.save(coloured(words), figures / "words.png")


def coloured(rows):
    """Texts by what their words say, a panel a text and method; a panel's largest is 1."""
    panels = {}
    for row in rows:
        for name in (*ATTRIBUTIONS, "attention"):
            if name not in row:
                continue
            values = np.array(row[name], float)
            truth = "right" if row["said"] == row["label"] else f"wrong, it is {row['label']}"
            title = (f"text {row['text']}: {row['said']}, {row['probability']:.2f} ({truth})"
                     f": {name}")  # fmt: skip
            panels[title] = row["tokens"], values / max(np.abs(values).max(), 1e-30)
    label = "for (+) or against (-) the answer, share of the largest; <word>: unknown to the net"
    return plots.activations_over_text(panels, label=label)


def by_distance(distances, config):
    """Accuracy over the distance, with what windows allow."""
    bands = {
        name: (
            [row["distance"] for row in rows],
            np.array([metrics.bootstrap(np.array(row["of_nets"]), np.mean) for row in rows]).T,
        )
        for name, rows in distances.items()
    }
    num_nets = len(next(iter(distances.values()))[0]["of_nets"])
    ks = np.arange(config.max_distance + 1)
    window = max(config.widths)
    theory = {f"the most that windows of {window} words allow": (ks, window_ceiling(ks, window))}
    if "cnn" not in bands:
        theory = {}
    return plots.accuracy_by_distance(
        bands, theory, title=f"negation at a distance: mean of {num_nets} nets, band: 95 % "
        "bootstrap over nets",
    )  # fmt: skip


def plot_comparison(path: Path, found, config) -> None:
    """All models of a comparison beside each other."""
    summary = found.summary
    inner = {name: read_run(path / name) for name in COMPARED}
    points = [
        plots.Point(name, 100 * each["test_accuracy"],
                    (100 * each["test_accuracy_low"], 100 * each["test_accuracy_high"]))
        for name, each in summary["models"].items()
    ]  # fmt: skip
    points += [
        plots.Point("bag of words, logistic regression", 100 * summary["bag_of_words_accuracy"]),
        plots.Point("most frequent class", 100 * summary["majority_accuracy"]),
    ]
    published = [
        plots.Point(f"{row.model} ({row.source}{': ' if row.differs else ''}{row.differs})",
                    row.percent)
        for row in PUBLISHED if row.dataset == summary["dataset"]
    ]  # fmt: skip
    figures = path / "figures"
    plots.save(
        plots.accuracies_beside(
            points, published, ours_title=f"this run: {summary['dataset']}, 95 % interval",
            published_title="published",
        ),
        figures / "models.png",
    )  # fmt: skip
    lengths = {name: plots.pick(run.metrics, result="length") for name, run in inner.items()}
    plots.save(plots.accuracy_by_length(lengths, title=summary["dataset"]), figures / "lengths.png")
    distances = {name: plots.pick(run.metrics, result="distance") for name, run in inner.items()}
    if any(distances.values()):
        plots.save(by_distance(distances, config), figures / "distances.png")


if __name__ == "__main__":
    main(Config, run, plot, predict=predict)
