"""Answers to questions: a story and a question are read, the answer is written word by word.

    python -m experiments.question_answering                    # a made-up world, nothing fetched
    python -m experiments.question_answering --compare          # with attention and without
    python -m experiments.question_answering --dataset babi     # 20 tasks, a model for each
    python -m experiments.question_answering --dataset babi --tasks 1 2 6 --joint
    python -m experiments.question_answering --dataset korean_chatbot
    echo "mary went to the garden . john took the milk . where is mary ?" | \
        python -m experiments.question_answering --from-run RUN --predict -

An encoder-decoder (`seqlab.translator`) whose source is the story with the question behind it,
read both ways, and whose target is the answer. `--context attention` (the default) looks at the
source at every step; `state` knows it by its first state alone, `every` is given the encoder's last
output at each step; `--compare` trains all three. Nothing is cut: stories of any length are read
whole, batched with others of like length.

* world (`seqlab.data.worlds`): where people and things are, by one fact or two; accuracy against
  how far back the oldest of them lies.
* babi (`seqlab.data.babi`): as published a model for each task and 1,000 questions to learn it
  from, a tenth of them here for validation; all tasks in one model by `--joint`. The vocabulary is
  that of all twenty in either case, so that a task's result does not depend on the others.
* korean_chatbot: free generation, scored as it writes by BLEU of characters, chrF and exact
  matches; beside them how many different answers there are, against one that says the same to
  everything.

A run is kept as it was after the epoch of the best validation accuracy (of the chatbot, loss), and
only then asked about the test part, once. Accuracy is the share of answers with every word right
and no more, with Wilson's 95 % interval; beside it that of the most frequent answer.

Figures: accuracy by task or kind, and by distance; training; how much of the gradient of the
answer's loss, and of attention, falls on the sentences that the answer rests on, in questions that
were answered right and wrong; two stories, sentence by sentence; how often the same answer comes.
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import jax
import numpy as np
import optax

from seqlab import metrics, plots, translations
from seqlab.asking import asked, best_state, checked
from seqlab.cells.lookup import lookup
from seqlab.cli import config_of, main
from seqlab.data.babi import NAMES, TASKS, load_babi
from seqlab.data.batching import Feed
from seqlab.data.checks import (
    check_at_least,
    check_distinct,
    check_known,
    check_positive,
    check_share,
)
from seqlab.data.pairs import KOREAN, Pairs, as_shown, load_pairs
from seqlab.data.stories import Question, places, story_pairs
from seqlab.data.worlds import world_questions
from seqlab.devices import Devices, local
from seqlab.errors import InputError
from seqlab.files import name_of
from seqlab.models.attention import KINDS
from seqlab.models.seq2seq import BRIDGES, CONTEXTS, QUERIES
from seqlab.runlog import SUMMARY, RunLog, read_run
from seqlab.session import Session
from seqlab.train import TrainStep, init_state, learning_rate_schedule
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

DATASETS = ("world", "babi", "korean_chatbot")
COMPARED = ("attention", "every", "state")
SOLVED = 0.95  # accuracy at which a task of bAbI counts as solved
NUM_VALID, NUM_TEST = 1_000, 2_600  # questions about the world
NUM_PROBED = 128  # test questions of a kind whose gradients are measured
LONGEST_PROBED = 384  # tokens of their sources
SHOWN = (4, 14)  # sentences of a story that is shown
MARGIN = 2  # tokens that an answer may have beyond the longest seen
KEPT = 20  # answers of a kind that the run directory shows
FILES = ("vocabularies", "forms", "max_source", "max_length")

DEFAULTS: dict[str, dict[str, Any]] = {
    "world": {
        "embed_size": 32, "hidden_size": 64, "batch_size": 64, "num_epochs": 8, "patience": 8,
        "learning_rate": 3e-3, "drop_inputs": 0.0, "drop_features": 0.0, "smoothing": 0.0,
        "num_buckets": 3,
    },
    "babi": {
        "embed_size": 32, "hidden_size": 64, "batch_size": 32, "num_epochs": 30, "patience": 10,
        "learning_rate": 3e-3, "drop_inputs": 0.1, "drop_features": 0.1, "smoothing": 0.0,
        "num_buckets": 4,
    },
    "korean_chatbot": {
        "embed_size": 128, "hidden_size": 256, "batch_size": 64, "num_epochs": 15, "patience": 3,
        "learning_rate": 2e-3, "drop_inputs": 0.3, "drop_features": 0.3, "smoothing": 0.1,
        "num_buckets": 4,
    },
}  # fmt: skip
# Test accuracy of the LSTM, percent, weakly supervised, 1,000 questions a task: Weston et al. 2015,
# table 3; the same row stands in the documentation of Keras's babi_rnn.
PUBLISHED = dict(
    zip(
        TASKS,
        (50, 20, 20, 61, 70, 48, 49, 45, 64, 44, 72, 74, 94, 27, 21, 23, 51, 52, 8, 91),
        strict=True,
    )
)


@dataclass(frozen=True)
class Config:
    """Questions about stories, and in Korean, answered by an encoder-decoder."""

    may_change: ClassVar = ("save_every", "num_devices")
    may_ask: ClassVar = ("beam_size",)

    dataset: str = "world"
    """world, babi or korean_chatbot"""
    tasks: tuple[int, ...] | None = None
    """of babi, from 1 to 20; None: all"""
    joint: bool = False
    """of babi: one model for all tasks, not one for each"""
    max_distance: int | None = None
    """of the world, sentences between the oldest fact and the question; None: 12"""
    num_train: int | None = None
    """questions about the world to train on; None: 30000"""
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
    """the encoder reads both ways: the way back knows the question when it comes to the story"""
    reverse_source: bool = False
    """the encoder reads from the end"""
    num_layers: int = 1
    """of encoder and decoder"""
    hidden_size: int | None = None
    """H, units a layer; None: 64, 256 for Korean"""
    embed_size: int | None = None
    """D, width of an embedding; None: 32, 128 for Korean"""
    tied: bool = False
    """the head's matrix is the target's embedding"""
    drop_inputs: float | None = None
    """dropout of embeddings; None: 0 for the world, 0.1 for babi, 0.3 for Korean"""
    dropout: float = 0.0
    """between layers"""
    drop_features: float | None = None
    """of what the head reads; None: as drop_inputs"""
    smoothing: float | None = None
    """share of the label that all words get; None: 0, 0.1 for Korean"""
    batch_size: int | None = None
    """B; None: 64, 32 for babi"""
    num_buckets: int | None = None
    """shapes that a batch may have; None: 4, 3 for the world"""
    num_epochs: int | None = None
    """None: 8 for the world, 30 for babi, 15 for Korean"""
    patience: int | None = None
    """epochs without a better validation figure after which to stop; None: 8, 10 for babi, 3 for
    Korean"""
    learning_rate: float | None = None
    """of Adam; falls along half a cosine but for babi; None: 0.003, 0.002 for Korean"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    beam_size: int = 1
    """answers that are followed at once"""
    log_every: int = 20
    """updates between lines of the log"""
    save_every: int = 1000
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
        for field, dataset in (
            ("tasks", "babi"), ("joint", "babi"), ("max_distance", "world"), ("num_train", "world"),
            ("korean", "korean_chatbot"),
        ):  # fmt: skip
            if getattr(self, field) not in (None, False) and self.dataset != dataset:
                raise InputError(f"{field} says nothing of {self.dataset}: it is of {dataset}")
        if self.tasks is not None:
            check_distinct(self.tasks, "tasks")
            for task in self.tasks:
                if task not in TASKS:
                    raise InputError(f"tasks are numbers from 1 to 20, got {task}")
        for field in ("num_layers", "hidden_size", "embed_size", "num_train", "batch_size",
                      "num_buckets", "num_epochs", "patience", "beam_size", "log_every",
                      "save_every", "num_devices", "max_distance"):  # fmt: skip
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seed, 0, "seed")
        for field in ("learning_rate", "clip_norm"):
            if getattr(self, field) is not None:
                check_positive(getattr(self, field), field)
        for field in ("drop_inputs", "dropout", "drop_features", "smoothing"):
            if getattr(self, field) is not None:
                check_share(getattr(self, field), field)
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout acts between layers and there is one: add a layer")
        is_current = self.context == "attention" and self.query == "current"
        if self.input_feeding and not is_current:
            raise InputError("input_feeding goes with context attention and query current")
        if self.bridge == "copy" and self.bidirectional:
            raise InputError("bridge copy takes one direction: add --no-bidirectional")
        lookup(self.cell)

    def filled(self) -> "Config":
        """The same with what suits the data in place of None."""
        values = DEFAULTS[self.dataset]
        return replace(
            self, **{name: value for name, value in values.items() if getattr(self, name) is None}
        )

    @property
    def are_many(self) -> bool:
        """Whether there is a model for each of several tasks."""
        return self.dataset == "babi" and not self.joint and len(self.tasks or TASKS) > 1

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            max_distance=3, num_train=400, embed_size=8, hidden_size=16, batch_size=50,
            num_epochs=2, num_buckets=1,
        )  # fmt: skip


class Data(NamedTuple):
    """What is asked.

    Attributes:
      pairs: sources and answers as texts.
      questions: of each part, where they are about stories; else empty.
      learned: sources and targets that the vocabularies are learned from.
    """

    pairs: Pairs
    questions: dict[str, list[Question]]
    learned: tuple[list[str], list[str]]


def load(config: Config) -> Data:
    """The questions and answers of a config."""
    if config.dataset == "korean_chatbot":
        pairs = load_pairs("korean_chatbot", korean=config.korean)
        return Data(pairs, {}, (pairs.sources["train"], pairs.targets["train"]))
    if config.dataset == "babi":
        parts = load_babi(TASKS)
        return of_tasks(parts, story_pairs("babi", parts), config.tasks or TASKS)
    sizes = {"train": config.num_train or 30_000, "valid": NUM_VALID, "test": NUM_TEST}
    if config.num_train is not None:
        few = max(50, config.num_train // 10)
        sizes |= {"valid": min(NUM_VALID, few), "test": min(NUM_TEST, 2 * few)}
    rng = np.random.default_rng(config.seed)
    distances = range((config.max_distance or 12) + 1)
    found = world_questions(rng, sum(sizes.values()), distances)
    ends = np.cumsum(list(sizes.values())).tolist()
    parts = {part: found[end - sizes[part] : end] for part, end in zip(sizes, ends, strict=True)}
    pairs = story_pairs("world", parts, ("generated",))
    return Data(pairs, parts, (pairs.sources["train"], pairs.targets["train"]))


def of_tasks(parts: dict[str, list[Question]], whole: Pairs, tasks: tuple[int, ...]) -> Data:
    """Some tasks of bAbI, with the vocabulary of all."""
    kinds = {str(task) for task in tasks}
    own = {part: [each for each in all_ if each.kind in kinds] for part, all_ in parts.items()}
    trained = {each.source for each in own["train"]}
    shared = sum(each.source in trained for each in own["test"])
    notes = ["a tenth of the stories of train is for validation"]
    if shared:
        notes.append(f"{shared} of {len(own['test'])} sources of test are in train, as published")
    pairs = story_pairs("babi", own, notes)
    return Data(pairs, own, (whole.sources["train"], whole.targets["train"]))


# Training.


def translator_of(config: Config, files) -> Translator:
    """The model of a run with its vocabularies."""
    return Translator(plan_of(config, files), sides_from_json(files["vocabularies"]))


def plan_of(config: Config, files) -> Plan:
    """What the model is."""
    values = {**vars(config.filled()), "max_source": files["max_source"]}
    return Plan(**{name: values[name] for name in Plan.__dataclass_fields__})


def build(config: Config, files, num_steps: int = 1_000_000_000):
    """The training step and the state before the first; `seqlab.replay` needs no `num_steps`."""
    return begin(config, translator_of(config, files), num_steps)


def begin(config: Config, translator: Translator, num_steps: int):
    """The training step of a translator and the state before the first."""
    config = config.filled()
    # Without an end to fall to, tasks of different sizes have one program.
    kind = "constant" if config.dataset == "babi" else "cosine"
    rate = learning_rate_schedule(
        kind, cast(float, config.learning_rate), num_steps=num_steps, final=0.02
    )
    return translator.training(
        optax.adam(rate), smoothing=cast(float, config.smoothing), clip_norm=config.clip_norm,
        seed=config.seed,
    )  # fmt: skip


class Ready(NamedTuple):
    """A model of bAbI and its step as they begin, for the next task too: compiled once."""

    translator: Translator
    step: TrainStep


def run(config: Config, log: RunLog) -> None:
    """Trains one model, or all that are asked for, and looks inside."""
    walk(config, log, load(config), {})


def walk(config: Config, log: RunLog, data: Data, ready: dict[Plan, Ready]) -> None:
    """One model here, or each in a run of its own within this one."""
    if config.compare:
        compare(config, log, data, ready)
    elif config.are_many:
        each_task(config, log, data, ready)
    else:
        train(config, log, data, ready)


def files_of(config: Config, data: Data) -> dict[str, Any]:
    """What belongs to a run beside its parameters."""
    levels = data.pairs.source_level, data.pairs.target_level
    sides = learn_sides(*data.learned, levels, min_count=1, max_size=None)
    longest = [
        max(len(side.encode(text)) for text in texts) + 1
        for side, texts in zip(sides, data.learned, strict=True)
    ]
    return {
        "vocabularies": sides_to_json(sides),
        "forms": [data.pairs.source_form, data.pairs.target_form],
        "max_source": 2 * longest[0],
        "max_length": longest[1] + MARGIN,
    }


def train(config: Config, log: RunLog, data: Data, ready: dict[Plan, Ready]) -> None:
    """One run of one model."""
    config, pairs = config.filled(), data.pairs
    files = files_of(config, data)
    plan = plan_of(config, files)
    translator = ready[plan].translator if plan in ready else translator_of(config, files)
    shape: dict[str, Any] = {"batch_size": config.batch_size, "num_buckets": config.num_buckets}
    is_rounded = config.dataset == "babi"
    seen = translator.buckets(
        pairs.sources["train"], pairs.targets["train"], seed=config.seed, **shape
    )
    per_epoch = seen.batches_per_epoch
    num_steps = cast(int, config.num_epochs) * per_epoch
    valid = Fed(
        translator.buckets(pairs.sources["valid"], pairs.targets["valid"], seed=None, **shape),
        rounded=is_rounded,
    )
    train_step, state = begin(config, translator, num_steps)
    if config.dataset == "babi":
        train_step = ready.setdefault(plan, Ready(translator, train_step)).step
        state = init_state(state.params, train_step.optimizer, state.key)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.write(
        step=0, dataset=pairs.name, digest=pairs.digest, num_parameters=num_parameters,
        vocab_sizes=[len(side) for side in translator.sides], notes=list(pairs.notes),
        **{f"num_{part}": len(texts) for part, texts in pairs.sources.items()},
    )  # fmt: skip
    for note in pairs.notes:
        log.note(f"{pairs.name}: {note}")
    with (
        Feed(Fed(seen, rounded=is_rounded)) as feed,
        Session(
            log, state, feed, num_steps=num_steps, save_every=config.save_every,
            patience=config.patience, files=files, keep=1,
            devices=Devices.sharing(cast(int, config.batch_size), config.num_devices),
        ) as session,
    ):  # fmt: skip
        for step, state, values in session.steps(train_step):
            if step % config.log_every == 0:
                log.write(step=step, split="train", **values)
            if step % per_epoch:
                continue
            epoch = step // per_epoch
            each, hits = translator.forced(local(state.params), valid)
            nats, accuracy = mean_nats(each), float(np.mean([own.all() for own in hits]))
            log.write(step=step, split="valid", epoch=epoch, loss=nats, accuracy=accuracy)
            log.note(f"epoch {epoch}: validation loss {nats:.3f}, right {accuracy:.1%}")
            # Of equally many right answers the smaller loss is the better.
            is_free = not data.questions
            session.report(step, nats if is_free else 1 - accuracy + 1e-4 * nats / (1 + nats))
        params = jax.device_get(local(session.best_state().params))
    figures: dict[str, Any] = {"dataset": pairs.name, "parameters": num_parameters}
    if data.questions:
        figures |= judge(config, translator, params, data, files, log)
    else:
        figures |= judge_free(config, translator, params, pairs, files, log)
    own = session.figures()
    rate = own["steps_per_s"]
    figures["examples_per_s"] = rate and rate * len(pairs.sources["train"]) / per_epoch
    log.table(f"{pairs.name}, test", table({label(config): figures}))
    log.finish(**own, **figures)


def each_task(config: Config, log: RunLog, data: Data, ready: dict[Plan, Ready]) -> None:
    """A model for each task, each in a run of its own within this one."""
    parts, tasks = data.questions, config.tasks or TASKS
    found: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for task in tasks:
        inner_config = replace(config, tasks=(task,))
        path = log.path / f"task_{task}"
        if not (path / SUMMARY).exists():
            log.note(f"task {task}: {NAMES[task].replace('-', ' ')}")
            own = of_tasks(parts, data.pairs, (task,))._replace(learned=data.learned)
            with log.inside(path.name, inner_config) as inner:
                train(inner_config, inner, own, ready)
        summary = read_run(path).summary
        found |= summary["tasks"]
    figures = over_tasks(found)
    log.table("babi, test", table({label(config): figures}))
    log.finish(**figures, dataset="babi", parameters=summary["parameters"])


def compare(config: Config, log: RunLog, data: Data, ready: dict[Plan, Ready]) -> None:
    """Each context in a run of its own within this one; then all beside each other."""
    summaries = {}
    for context in COMPARED:
        own = replace(config, context=context, compare=False)
        if not (log.path / context / SUMMARY).exists():
            with log.inside(context, own) as inner:
                walk(own, inner, data, ready)
        if log.writes:
            plot(log.path / context)
        summaries[context] = read_run(log.path / context).summary
    names = {context: label(replace(config, context=context)) for context in summaries}
    log.table(f"{data.pairs.name}, test", table({names[c]: own for c, own in summaries.items()}))
    log.finish(models=summaries, dataset=data.pairs.name)


# What came out.


def write(translator: Translator, params, texts: list[str], files, beam_size: int) -> list[str]:
    """An answer to each text."""
    outputs = translator.write(params, texts, beam_size=beam_size, max_length=files["max_length"])
    return [own[0].text for own in outputs]


def judge(config, translator, params, data: Data, files, log) -> dict[str, Any]:
    """Accuracy by kind, and by distance where that was chosen; what the answers rest on."""
    asked_ = data.questions["test"]
    outputs = write(translator, params, [q.source for q in asked_], files, config.beam_size)
    is_right = np.array([text == q.answer for text, q in zip(outputs, asked_, strict=True)])
    kinds = np.array([q.kind for q in asked_])
    found = {}
    for kind in sorted(set(kinds.tolist()), key=lambda kind: (len(kind), kind)):
        rows = np.flatnonzero(kinds == kind)
        share = metrics.wilson(int(is_right[rows].sum()), len(rows))
        trained = Counter(q.answer for q in data.questions["train"] if q.kind == kind)
        usual = trained.most_common(1)[0][0]
        found[kind] = {
            "accuracy": float(share.middle), "low": float(share.low), "high": float(share.high),
            "majority_accuracy": float(np.mean([asked_[i].answer == usual for i in rows])),
            "num_test": len(rows), "num_right": int(is_right[rows].sum()),
        }  # fmt: skip
        for i in rows[:KEPT].tolist():
            log.write(step=0, result="answer", kind=kind, source=asked_[i].source,
                      output=outputs[i], reference=asked_[i].answer)  # fmt: skip
        if config.dataset == "world":
            by_distance(kind, [asked_[i] for i in rows], is_right[rows], log)
    rest_on(config, translator, params, asked_, outputs, log)
    return over_tasks(found)


def over_tasks(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of a run from those of its kinds of questions."""
    right, count = (sum(own[name] for own in found.values()) for name in ("num_right", "num_test"))
    share = metrics.wilson(right, count)
    mean = [own["accuracy"] for own in found.values()]
    floor = [own["majority_accuracy"] for own in found.values()]
    return {
        "test_accuracy": float(share.middle),
        "test_accuracy_low": float(share.low),
        "test_accuracy_high": float(share.high),
        "mean_accuracy": float(np.mean(mean)),
        "majority_accuracy": float(np.mean(floor)),
        "num_solved": int(np.sum(np.array(mean) >= SOLVED)),
        "num_test": count,
        "tasks": found,
    }


def by_distance(kind: str, questions: list[Question], is_right: np.ndarray, log) -> None:
    """Accuracy in questions whose oldest fact is equally far away."""
    distances = np.array([q.distance for q in questions])
    for distance in np.unique(distances).tolist():
        rows = distances == distance
        share = metrics.wilson(int(is_right[rows].sum()), int(rows.sum()))
        log.write(step=0, result="distance", kind=kind, distance=distance, accuracy=share.middle,
                  low=share.low, high=share.high, count=int(rows.sum()))  # fmt: skip


def judge_free(config, translator, params, pairs: Pairs, files, log) -> dict[str, Any]:
    """Scores of answers for which there is no single right one, and how various they are."""
    truth = translations.references(pairs.sources["test"], pairs.targets["test"])
    outputs = write(translator, params, truth.sources, files, config.beam_size)
    outputs = [as_shown(text) for text in outputs]
    answers = [[as_shown(text) for text in own] for own in truth.answers]
    trained = Counter(as_shown(text) for text in pairs.targets["train"])
    usual = trained.most_common(1)[0][0]
    found = translations.scores(outputs, answers, tokenize="char")
    floor = translations.scores([usual] * len(outputs), answers, tokenize="char")
    valid = Fed(translator.buckets(pairs.sources["test"], pairs.targets["test"], seed=None,
                                   batch_size=config.batch_size))  # fmt: skip
    nats = mean_nats(translator.forced(params, valid)[0])
    for place in range(min(3 * KEPT, len(outputs))):
        log.write(step=0, result="answer", kind="korean", source=as_shown(truth.sources[place]),
                  output=outputs[place], reference=answers[place][0])  # fmt: skip
    said, true = Counter(outputs), Counter(own[0] for own in answers)
    for name, counts in (("said by the net", said), ("true answers", true)):
        log.write(step=0, result="repetition", of=name,
                  counts=[count for _, count in counts.most_common()])  # fmt: skip
    same = translations.sameness(outputs)
    times = said[same.commonest]
    log.note(f"said most often, {times} of {len(outputs)} times: {same.commonest}")
    return {
        "test_bleu": found["bleu"],
        "bleu_signature": found["bleu_signature"],
        "test_chrf": found["chrf"],
        "chrf_signature": found["chrf_signature"],
        "exact_match": found["exact_match"],
        "test_perplexity": math.exp(min(nats, 700)),
        "usual_answer_bleu": floor["bleu"],
        "usual_answer_chrf": floor["chrf"],
        "usual_answer_exact_match": floor["exact_match"],
        "distinct_share": same.distinct_share,
        "distinct_share_of_truth": len(true) / len(outputs),
        "most_frequent_output": same.commonest,
        "most_frequent_output_share": same.commonest_share,
        "known_answer_share": float(np.mean([text in trained for text in outputs])),
        "num_test": len(outputs),
    }


# Looking inside.


def rest_on(config, translator, params, questions, outputs, log) -> None:
    """Which sentences the first word of an answer depends on, and looks at."""
    sizes = np.array([len(each) for each in translator.sources([q.source for q in questions])])
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(sizes <= LONGEST_PROBED).tolist():
        own = rows_of.setdefault(questions[row].kind, [])
        if len(own) < NUM_PROBED:
            own.append(row)
    shown: dict[bool, dict[str, Any]] = {}
    for kind, rows in sorted(rows_of.items(), key=lambda item: (len(item[0]), item[0])):
        chosen = [questions[row] for row in rows]
        looks = translator.looks(
            params, [q.source for q in chosen], [q.answer for q in chosen], max_targets=1
        )
        weights = {
            "gradient": np.exp(looks.log_norms - looks.log_norms.max(axis=-1, keepdims=True))
        }
        if looks.attention is not None:
            weights["attention"] = looks.attention
        shares: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
        for place, (row, question) in enumerate(zip(rows, chosen, strict=True)):
            where = places(question)[:: -1 if config.reverse_source else 1]
            facts, size = sorted(set(question.facts)), len(question.sentences)
            is_right = outputs[row] == question.answer
            parts = {
                name: np.bincount(where, own[place, 0, : len(where)], size + 1)
                for name, own in weights.items()
            }
            own = {name: part[facts].sum() / part[:size].sum() for name, part in parts.items()}
            for name, share in {**own, "even": len(facts) / size}.items():
                shares[is_right].setdefault(name, []).append(float(share))
            if SHOWN[0] <= size <= SHOWN[1] and is_right not in shown:
                shown[is_right] = {
                    "sentences": [*question.sentences, question.question], "facts": facts,
                    "answer": question.answer, "said": outputs[row], "is_right": is_right,
                    **{name: part / part.sum() for name, part in parts.items()},
                }  # fmt: skip
        for is_right, own in shares.items():
            if not own:
                continue
            fields = {}
            for name, values in own.items():
                fields[name], fields[f"{name}_low"], fields[f"{name}_high"] = metrics.bootstrap(
                    np.array(values), np.mean
                )
            log.write(step=0, result="facts", kind=kind, is_right=is_right,
                      count=len(own["even"]), **fields)  # fmt: skip
    for _, row in sorted(shown.items(), reverse=True):
        log.write(step=0, result="story", **row)


def table(models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a run's table: tasks or kinds down, models across; of free answers, scores."""
    first = next(iter(models.values()))
    if "tasks" not in first:
        rows = [
            {"model": name, "BLEU": f"{own['test_bleu']:.1f}", "chrF": f"{own['test_chrf']:.1f}",
             "exact, %": f"{100 * own['exact_match']:.1f}",
             "distinct, %": f"{100 * own['distinct_share']:.1f}",
             "perplexity": f"{own['test_perplexity']:.2f}", "parameters": own["parameters"]}
            for name, own in models.items()
        ]  # fmt: skip
        usual = {
            "model": "most frequent answer",
            "BLEU": f"{first['usual_answer_bleu']:.1f}",
            "chrF": f"{first['usual_answer_chrf']:.1f}",
            "exact, %": f"{100 * first['usual_answer_exact_match']:.1f}",
            "distinct, %": f"{100 / first['num_test']:.1f}",
        }
        return [*rows, usual]
    rows = []
    for kind, floor in first["tasks"].items():
        row: dict[str, Any] = {"task": f"{kind} {NAMES[int(kind)]}" if kind.isdigit() else kind}
        for name, own in models.items():
            found = own["tasks"][kind]
            row[name] = "{:.1f} ({:.1f}-{:.1f})".format(
                *(100 * found[key] for key in ("accuracy", "low", "high"))
            )
        row["most frequent answer"] = f"{100 * floor['majority_accuracy']:.1f}"
        if kind.isdigit():
            row["LSTM, Weston et al. 2015"] = PUBLISHED[int(kind)]
        rows.append(row)
    last: dict[str, Any] = {"task": "mean"}
    last |= {name: f"{100 * own['mean_accuracy']:.1f}" for name, own in models.items()}
    last["most frequent answer"] = f"{100 * first['majority_accuracy']:.1f}"
    if all(kind.isdigit() for kind in first["tasks"]):
        own = [PUBLISHED[int(kind)] for kind in first["tasks"]]
        last["LSTM, Weston et al. 2015"] = f"{np.mean(own):.1f}"
    solved: dict[str, Any] = {"task": f"at {SOLVED:.0%} or more"}
    solved |= {name: own["num_solved"] for name, own in models.items()}
    return [*rows, last, solved]


# New questions.


def predict(path: Path, source: Path, *, beam_size: int) -> None:
    """Prints an answer to each line of a file, or of standard input: a story and a question."""
    config = config_of(Config, read_run(path).record, path)
    if config.compare or config.are_many:
        inner = COMPARED if config.compare else [f"task_{task}" for task in config.tasks or TASKS]
        raise InputError(f"{path} has several models; name one of {', '.join(inner)} in it")
    state, files = best_state(path, FILES, lambda files: build(config, files)[1])
    translator = translator_of(config, files)
    for before, lines in asked(source):
        texts = checked(
            lines, translator, files["forms"][0], files["max_source"], name_of(source), before,
            wanted="answer",
        )  # fmt: skip
        for answer in write(translator, state.params, texts, files, beam_size):
            sys.stdout.write(f"{as_shown(answer)}\n")
        sys.stdout.flush()


# Figures.


def plot(path: Path) -> None:
    """Draws every figure from the files of a run."""
    found = read_run(path)
    config = config_of(Config, found.record, path).filled()
    figures = path / "figures"
    models = {label(config): found}
    if config.compare:
        models = {
            label(replace(config, context=context)): read_run(path / context)
            for context in COMPARED
        }
    dataset = found.summary["dataset"]
    tasks = [f"task_{task}" for task in config.tasks or TASKS] if config.are_many else [""]
    # Of each model, its lines: of a run for each task those of all.
    lines = {
        name: {task: read_run(run.path / task).metrics for task in tasks}
        for name, run in models.items()
    }

    def select(name: str, **fields: Any) -> list[Any]:
        return [row for own in lines[name].values() for row in plots.pick(own, **fields)]

    if dataset == "korean_chatbot":
        plots.save(
            plots.answer_repetition(
                {**{name: select(name, result="repetition", of="said by the net")[0]["counts"]
                    for name in models},
                 "true answers": select(next(iter(models)), result="repetition",
                                        of="true answers")[0]["counts"]},
                title=f"{dataset}, test part",
            ),
            figures / "answers.png",
        )  # fmt: skip
    else:
        plots.save(
            plots.answer_accuracy(
                {name: run.summary["tasks"] for name, run in models.items()},
                {str(task): percent / 100 for task, percent in PUBLISHED.items()}
                if dataset == "babi" else {},
                published_name="LSTM, Weston et al. 2015", title=f"{dataset}, test part",
            ),
            figures / "accuracy.png",
        )  # fmt: skip
        plots.save(
            plots.supporting_facts(
                {name: select(name, result="facts") for name in models},
                title=f"{dataset}: share that falls on the supporting facts",
            ),
            figures / "facts.png",
        )
    if dataset == "world":
        plots.save(
            plots.answers_by_distance(
                {name: select(name, result="distance") for name in models},
                title="world, test part",
            ),
            figures / "distance.png",
        )
    if config.compare:
        return
    (name,) = models
    plots.save(
        plots.answer_training(
            {task.removeprefix("task_"): plots.pick(own, split="valid")
             for task, own in lines[name].items()},
            {task.removeprefix("task_"): plots.pick(own, split="train")
             for task, own in lines[name].items()},
            title=f"{dataset}, {name}",
        ),
        figures / "training.png",
    )  # fmt: skip
    if config.are_many:
        return
    for number, row in enumerate(select(name, result="story")):
        plots.save(
            plots.story_sentences(row, title=f"{dataset}, {name}"),
            figures / f"story_{number + 1}.png",
        )


if __name__ == "__main__":
    main(Config, run, plot, predict=predict)
