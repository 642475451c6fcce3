"""One-to-many: an image is seen, a sentence is written; with and without attention over a grid.

    python -m experiments.captioning                            # made-up scenes, nothing fetched
    python -m experiments.captioning --compare                  # with attention and without
    python -m experiments.captioning --dataset flickr8k         # photographs, five captions each
    python -m experiments.captioning --dataset flickr8k --images FOLDER
    python -m experiments.captioning --images FOLDER --captions FILE
    python -m experiments.captioning --from-run RUN --predict photo.jpg
    echo 12 | python -m experiments.captioning --from-run RUN --predict -

Three convolutions, trained here with the rest, make a grid of 8x8 cells of an image of 64x64
pixels; `--num-mixed` layers above them tell a cell what lies beside it (`seqlab.models.captioner`):
one for scenes, where without it 63 % of the relations are right instead of 80. `--context
attention` (the default) looks at the grid at every step; `state` knows the mean of its cells by the
first state alone, `every` is given it at each step. `--compare` trains all three.

* scenes (`seqlab.data.scenes`): one to three coloured shapes and where they lie, in words. Every
  sentence of the grammar that is true and complete is a reference, so that an exact match is a
  right answer; beside it the share of right counts, sizes, colours, shapes and relations, and the
  same for test_new, whose scenes have combinations of colour and shape that were never seen.
* flickr8k (`seqlab.data.flickr`), or a folder and a file of captions of your own
  (`seqlab.data.captions`).

A run is kept as it was after the epoch of the least validation loss, and only then asked about the
test part. Sentences are written freely, `--beam-size` at a time; BLEU and chrF are sacrebleu's with
its signature, of words as they were cut; perplexity is of true sentences. Beside them the BLEU of
the sentence of the nearest training image, by pixels and by the net's own features, and of the
commonest training sentence. Two figures tell a net that does not look: how often the commonest
sentence was written, and the perplexity of sentences beside the images of others.

In `--predict` a line is the path of an image or the number of a test image, from 0; an image file
itself is read as one. `--beam-size`, `--num-best` and `--length-penalty` count.

Figures: training; BLEU-1 to BLEU-4 beside the baselines; of scenes, what was right by kind, and how
much of attention and of the exact gradient at the pixels falls on the object that a word names;
images with what was written of them; attention and gradient of each word over two images.
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, cast

import jax
import numpy as np
import optax

from seqlab import metrics, plots, translations
from seqlab.asking import asked, best_state
from seqlab.captions import CaptionPlan, Describer, Pictures
from seqlab.cells.lookup import lookup
from seqlab.cli import config_of, main
from seqlab.data.batching import Feed
from seqlab.data.captions import IMAGE_SIZE, Captioned, load_captioned, read_image
from seqlab.data.checks import check_at_least, check_known, check_positive, check_share
from seqlab.data.flickr import load_flickr
from seqlab.data.scenes import (
    KINDS,
    Scenes,
    agreement,
    load_scenes,
    pixels_of,
    read_sentence,
)
from seqlab.data.scenes import SIZES as SCENES
from seqlab.data.vocabulary import learn_vocabulary, vocabulary_from_json
from seqlab.devices import Devices, local
from seqlab.errors import InputError
from seqlab.files import name_of, whole_file
from seqlab.models.attention import KINDS as ATTENTION
from seqlab.models.captioner import STRIDE
from seqlab.models.decoding import CONTEXTS, QUERIES
from seqlab.runlog import SUMMARY, RunLog, read_run
from seqlab.session import Session
from seqlab.train import learning_rate_schedule
from seqlab.translations import mean_nats
from seqlab.translator import label

DATASETS = ("scenes", "flickr8k")
COMPARED = ("attention", "every", "state")
BASELINES = ("nearest by pixels", "nearest by features", "commonest sentence")
SAME = 0.25  # share of the commonest caption from which on a net is said to repeat itself
NUM_WATCHED = 200  # validation images that are described after every epoch
MARGIN = 4  # words that a sentence may have beyond the longest seen
SHOWN = 6  # images of each of the two rows that are shown
MAPPED = (2, 8, 14)  # images with maps; the fewest and the most words of their sentences
KEPT = 20  # sentences that the run directory shows
COARSE = 4  # pixels a side whose mean is compared in the nearest image
PICTURES = "pictures.npz"
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FILES = ("vocabulary", "max_length")

DEFAULTS: dict[str, dict[str, Any]] = {
    "scenes": {
        "attention": "additive", "embed_size": 32, "hidden_size": 128, "channels": (16, 48, 128),
        "batch_size": 32, "num_epochs": 6, "patience": 6, "learning_rate": 2e-3,
        "drop_cells": 0.0, "drop_inputs": 0.0, "drop_features": 0.0, "smoothing": 0.0,
        "per_image": 2, "min_count": 1, "num_buckets": 3, "beam_size": 1,
        "length_penalty": 0.0, "tied": False, "num_mixed": 1,
    },
    "flickr8k": {
        "attention": "additive", "embed_size": 128, "hidden_size": 128, "channels": (16, 48, 128),
        "batch_size": 64, "num_epochs": 20, "patience": 4, "learning_rate": 2e-3,
        "drop_cells": 0.3, "drop_inputs": 0.3, "drop_features": 0.5, "smoothing": 0.1,
        "per_image": 5, "min_count": 3, "num_buckets": 3, "beam_size": 5,
        "length_penalty": 1.0, "tied": True, "num_mixed": 0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Captions: BLEU beside baselines, what is right of a scene, gradients at the image."""

    may_change: ClassVar = ("save_every", "num_devices")
    may_ask: ClassVar = ("beam_size", "num_best", "length_penalty")

    dataset: str = "scenes"
    """scenes or flickr8k"""
    images: Path | None = None
    """folder of images: Flickr8k's photographs, or of your own with --captions"""
    captions: Path | None = None
    """file of captions of your own, a line each: name of the image, tab, caption"""
    num_train: int | None = None
    """images to train on: the first so many, None: all; scenes: so many are made, None: 20000"""
    per_image: int | None = None
    """sentences of each image that are learned, drawn once; None: 2 of scenes, 5"""
    compare: bool = False
    """train attention, every and state, one after the other"""
    cell: str = "gru-after"
    """name of a cell, or package.module:Class"""
    context: str = "attention"
    """what of the image the decoder knows: state, every or attention"""
    attention: str | None = None
    """additive, concat, dot, general, location or local-p; None: additive"""
    query: str = "current"
    """whether the previous or the current state of the decoder asks"""
    input_feeding: bool | None = None
    """the attentional state is part of the next input; None: with --query current"""
    bridge: str = "linear"
    """the decoder's first state from the mean of the grid: linear or none"""
    channels: tuple[int, int, int] | None = None
    """features after each convolution, M last; None: 16 48 128"""
    num_mixed: int | None = None
    """layers above them that tell each cell what is on its sides; None: 1 for scenes, 0"""
    num_layers: int = 1
    """of the decoder"""
    hidden_size: int | None = None
    """H, units a layer; None: 128"""
    embed_size: int | None = None
    """D, width of an embedding; None: 32, 128 for photographs"""
    tied: bool | None = None
    """the head's matrix is the embedding; None: of photographs"""
    drop_cells: float | None = None
    """dropout of the grid; None: 0, 0.3 for photographs"""
    drop_inputs: float | None = None
    """of embeddings; None: likewise"""
    dropout: float = 0.0
    """between layers"""
    drop_features: float | None = None
    """of what the head reads; None: 0, 0.5 for photographs"""
    smoothing: float | None = None
    """share of the label that all words get; None: 0, 0.1 for photographs"""
    min_count: int | None = None
    """words seen less often are <unk>; None: 1, 3 for photographs"""
    batch_size: int | None = None
    """B; None: 32 scenes, 64"""
    num_buckets: int | None = None
    """shapes that a batch may have; None: 3"""
    num_epochs: int | None = None
    """None: 6, 20 for photographs"""
    patience: int | None = None
    """epochs without a better validation loss after which to stop; None: 6, 4 for photographs"""
    learning_rate: float | None = None
    """of Adam, falling along half a cosine; None: 0.002"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    beam_size: int | None = None
    """sentences that are followed at once; None: 1, 5 for photographs"""
    num_best: int = 1
    """sentences of each image in --predict"""
    length_penalty: float | None = None
    """exponent of ((5 + length) / 6); None: 0, 1 for photographs"""
    num_probed: int = 64
    """test images whose gradients are measured"""
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
        if self.captions is not None and (self.images is None or self.dataset != "scenes"):
            raise InputError(
                "captions go with --images, the folder of what they describe, and no --dataset"
            )
        if self.images is not None and self.is_made_up:
            raise InputError("images go with --captions, or with --dataset flickr8k")
        for field, known in (
            ("context", CONTEXTS), ("attention", ATTENTION), ("query", QUERIES),
            ("bridge", ("linear", "none")),
        ):  # fmt: skip
            if getattr(self, field) is not None:
                check_known(getattr(self, field), known, field)
        for field in ("num_train", "per_image", "num_layers", "hidden_size", "embed_size",
                      "min_count", "batch_size", "num_buckets", "num_epochs", "patience",
                      "beam_size", "num_best", "num_probed", "log_every",
                      "save_every", "num_devices"):  # fmt: skip
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        for width in self.channels or ():
            check_at_least(width, 1, "channels")
        for field in ("num_mixed", "seed"):
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 0, field)
        for field in ("learning_rate", "clip_norm"):
            if getattr(self, field) is not None:
                check_positive(getattr(self, field), field)
        for field in ("drop_cells", "drop_inputs", "dropout", "drop_features", "smoothing"):
            if getattr(self, field) is not None:
                check_share(getattr(self, field), field)
        if self.length_penalty is not None and not 0.0 <= self.length_penalty < math.inf:
            raise InputError(f"length_penalty must be 0 or more, got {self.length_penalty}")
        if self.dropout and self.num_layers == 1:
            raise InputError("dropout acts between layers and there is one: add a layer")
        is_current = self.context == "attention" and self.query == "current"
        if self.input_feeding and not is_current:
            raise InputError("input_feeding goes with context attention and query current")
        lookup(self.cell)

    @property
    def is_made_up(self) -> bool:
        """Whether the images are scenes."""
        return self.dataset == "scenes" and self.captions is None

    def filled(self) -> "Config":
        """The same with what suits the images in place of None."""
        values = DEFAULTS["scenes" if self.is_made_up else "flickr8k"]
        values = {
            **values,
            "input_feeding": self.context == "attention" and self.query == "current",
        }
        return replace(
            self, **{name: value for name, value in values.items() if getattr(self, name) is None}
        )

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            num_train=200, channels=(4, 8, 8), embed_size=8, hidden_size=16, batch_size=50,
            num_epochs=2, num_buckets=1, num_probed=4,
        )  # fmt: skip


def load(config: Config) -> Captioned:
    """The images with their sentences."""
    if config.is_made_up:
        return load_scenes(sizes_of(config), config.seed)
    if config.captions is not None:
        data = load_captioned(cast(Path, config.images), config.captions)
    else:
        data = load_flickr(config.images)
    return data if config.num_train is None else data.with_few(config.num_train)


def sizes_of(config: Config) -> dict[str, int]:
    """Scenes of each part."""
    if config.num_train is None:
        return SCENES
    few = max(20, config.num_train // 10)
    return {part: min(size, few) for part, size in SCENES.items()} | {"train": config.num_train}


# Training.


def describer_of(config: Config, files) -> Describer:
    """The model of a run with its vocabulary."""
    plan = CaptionPlan.of(config.filled(), IMAGE_SIZE)
    return Describer(plan, vocabulary_from_json(files["vocabulary"]))


def build(config: Config, files, num_steps: int = 1_000_000_000):
    """The training step and the state before the first; `seqlab.replay` needs no `num_steps`."""
    config = config.filled()
    rate = learning_rate_schedule(
        "cosine", cast(float, config.learning_rate), num_steps=num_steps, final=0.02
    )
    return describer_of(config, files).training(
        optax.adam(rate), smoothing=cast(float, config.smoothing), clip_norm=config.clip_norm,
        seed=config.seed,
    )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Trains one model, or all three, and looks inside."""
    data = load(config)
    if config.compare:
        compare(config, log, data)
    else:
        train(config, log, data)


def pictures(
    describer: Describer, data: Captioned, part: str, config: Config, *, every: bool = False,
    seed: int | None = None,
) -> Pictures:  # fmt: skip
    """Batches of a part's images with sentences, `per_image` of each or every one."""
    rng = np.random.default_rng([config.seed, 1])
    members, texts = [], []
    for number, own in enumerate(data.sentences[part]):
        count = len(own) if every else min(cast(int, config.per_image), len(own))
        members += [number] * count
        texts += own if every else [own[i] for i in rng.permutation(len(own))[:count]]
    return Pictures(
        data.images[part], members, describer.targets(texts), seed=seed,
        batch_size=config.batch_size, num_buckets=cast(int, config.num_buckets),
    )  # fmt: skip


def train(config: Config, log: RunLog, data: Captioned) -> None:
    """One run of one model."""
    config = config.filled()
    texts = [text for own in data.sentences["train"] for text in own]
    vocabulary = learn_vocabulary("\n".join(texts), "word", min_count=cast(int, config.min_count))
    longest = max(len(text.split()) for text in texts)
    files = {"vocabulary": vocabulary.to_json(), "max_length": longest + 1 + MARGIN}
    describer = describer_of(config, files)
    seen = pictures(describer, data, "train", config, seed=config.seed)
    valid = pictures(describer, data, "valid", config)
    per_epoch = seen.batches_per_epoch
    num_steps = cast(int, config.num_epochs) * per_epoch
    train_step, state = build(config, files, num_steps)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log.write(
        step=0, dataset=data.name, digest=data.digest, vocab_size=len(vocabulary),
        num_parameters=num_parameters, longest=longest, notes=list(data.notes),
        shapes=[list(each) for each in seen.shapes],
        **{f"num_{part}": len(images) for part, images in data.images.items()},
    )  # fmt: skip
    for note in data.notes:
        log.note(f"{data.name}: {note}")
    log.note(
        f"{len(data.images['train'])} images, {len(texts)} sentences, {len(vocabulary)} words, "
        f"{num_parameters} parameters"
    )
    with (
        Feed(seen) as feed,
        Session(
            log, state, feed, num_steps=num_steps, save_every=config.save_every,
            patience=config.patience, files=files,
            devices=Devices.sharing(cast(int, config.batch_size), config.num_devices),
        ) as session,
    ):  # fmt: skip
        for step, state, values in session.steps(train_step):
            if step % config.log_every == 0:
                log.write(step=step, split="train", **values)
            if step % per_epoch:
                continue
            epoch, params = step // per_epoch, local(state.params)
            nats = mean_nats(describer.forced(params, valid)[0])
            outputs = write(describer, params, data.images["valid"][:NUM_WATCHED], files)
            found = translations.scores(
                outputs, data.sentences["valid"][:NUM_WATCHED], tokenize="none"
            )
            log.write(step=step, split="valid", epoch=epoch, loss=nats, bleu=found["bleu"],
                      exact_match=found["exact_match"])  # fmt: skip
            log.note(
                f"epoch {epoch}: validation perplexity {math.exp(min(nats, 700)):.3f}, greedy "
                f"BLEU {found['bleu']:.1f}, exact {found['exact_match']:.1%}"
            )
            session.report(step, nats)
        params = jax.device_get(local(session.best_state().params))
    outputs, figures = judge(config, describer, params, data, files, log)
    look_inside(config, describer, params, data, outputs, log)
    own = session.figures()
    rate = own["steps_per_s"]
    figures |= {
        "parameters": num_parameters,
        "dataset": data.name,
        "train_pairs_per_s": rate and rate * config.batch_size,
    }
    tables(log, data.name, {label(config): figures})
    log.finish(**own, **figures)


def write(describer: Describer, params, images: np.ndarray, files, **how: Any) -> list[str]:
    """The best sentence for each image."""
    found = describer.write(params, list(images), max_length=files["max_length"], **how)
    return [own[0].text for own in found]


# What came out.


def judge(config, describer, params, data: Captioned, files, log):
    """(sentences of the test images, figures); what the baselines say, and what is right."""
    search = {"beam_size": config.beam_size, "length_penalty": config.length_penalty}
    figures: dict[str, Any] = {}
    written: list[str] = []
    for part in (part for part in data.images if part not in ("train", "valid")):
        images, answers = data.images[part], data.sentences[part]
        write(describer, params, images, files, **search)  # compiled before the clock
        start = perf_counter()
        outputs = write(describer, params, images, files, **search)
        seconds = perf_counter() - start
        found = translations.scores(outputs, answers, tokenize="none")
        fed = pictures(describer, data, part, config, every=True)
        nats = mean_nats(describer.forced(params, fed)[0])
        figures |= {
            f"{part}_bleu": found["bleu"],
            f"{part}_chrf": found["chrf"],
            f"{part}_perplexity": math.exp(min(nats, 700)),
        }
        if isinstance(data, Scenes):
            prefix = "" if part == "test" else f"{part}_"
            figures |= {
                f"{prefix}right_{kind}": share
                for kind, share in by_kind(part, outputs, answers, log).items()
            }
        if part != "test":
            figures[f"{part}_exact_match"] = found["exact_match"]
            continue
        written = outputs
        others = replace_images(data, part, np.roll(np.arange(len(images)), 1))
        fed = pictures(describer, others, part, config, every=True)
        blind = mean_nats(describer.forced(params, fed)[0])
        figures |= {
            "exact_match": found["exact_match"],
            "bleu_signature": found["bleu_signature"],
            "chrf_signature": found["chrf_signature"],
            "other_image_perplexity": math.exp(min(blind, 700)),
            "sentences_per_s": len(images) / seconds,
            "num_test": len(images),
            **repetition(outputs, answers, log),
        }
        systems = {label(config): outputs, **baselines(describer, params, data)}
        figures |= by_order(systems, answers, log)
        for place in range(min(KEPT, len(outputs))):
            log.write(step=0, result="output", image=data.names[part][place],
                      output=outputs[place], reference=answers[place][0])  # fmt: skip
    return written, figures


def replace_images(data: Captioned, part: str, order: np.ndarray) -> Captioned:
    """The same sentences beside other images of their part."""
    return replace(data, images={part: data.images[part][order]})


def by_kind(part: str, outputs, answers, log) -> dict[str, float]:
    """Share of what there is to say of scenes that was said right, by kind."""
    right, count = Counter(), Counter()
    for text, own in zip(outputs, answers, strict=True):
        for kind, (hits, all_) in agreement(text, own).items():
            right[kind] += hits
            count[kind] += all_
    shares = {}
    for kind in KINDS:
        share = metrics.wilson(right[kind], count[kind])
        shares[kind] = float(share.middle)
        log.write(step=0, result="agreement", part=part, kind=kind, share=share.middle,
                  low=share.low, high=share.high, count=count[kind])  # fmt: skip
    return shares


def repetition(outputs, answers, log) -> dict[str, Any]:
    """How often a net says the same, beside how often the references do; a warning if it does."""
    found = translations.sameness(outputs)
    truth = translations.sameness([own[0] for own in answers])
    if is_same := found.commonest_share >= max(SAME, 2 * truth.commonest_share):
        log.note(
            f"warning: the same caption for everything? {found.commonest_share:.0%} of the test "
            f"images are described as {found.commonest!r}"
        )
    return {
        "distinct_share": found.distinct_share,
        "distinct_share_of_references": truth.distinct_share,
        "same_caption": found.commonest_share,
        "same_caption_of_references": truth.commonest_share,
        "commonest_caption": found.commonest,
        "repeats_itself": is_same,
    }


def baselines(describer: Describer, params, data: Captioned) -> dict[str, list[str]]:
    """What is said of the test images without a decoder: by name, a sentence each."""
    first = [own[0] for own in data.sentences["train"]]
    counts = Counter(text for own in data.sentences["train"] for text in own)
    spaces = (
        [coarse(data.images[part]) for part in ("train", "test")],
        [describer.features(params, data.images[part]) for part in ("train", "test")],
    )
    found = [[first[i] for i in nearest(*space)] for space in spaces]
    found.append([counts.most_common(1)[0][0]] * len(data.images["test"]))
    return dict(zip(BASELINES, found, strict=True))


def coarse(images: np.ndarray) -> np.ndarray:
    """Images as means of 4x4 pixels, [N, 16 * 16 * 3]."""
    count, size = len(images), images.shape[1] // COARSE
    blocks = images.reshape(count, size, COARSE, size, COARSE, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)


def nearest(known: np.ndarray, asked_: np.ndarray) -> np.ndarray:
    """Of each row of what is asked, [N, D], the row of the known, [M, D], at the least distance."""
    squares = np.sum(np.square(known), axis=1)
    return np.argmin(squares - 2 * asked_ @ known.T, axis=1)


def by_order(systems: dict[str, list[str]], answers, log) -> dict[str, Any]:
    """BLEU-1 to BLEU-4 of each of some systems, the net first."""
    figures: dict[str, Any] = {}
    for place, (name, outputs) in enumerate(systems.items()):
        prefix = f"{name.replace(' ', '_')}_" if place else ""
        scores = translations.bleu_by_order(outputs, answers, tokenize="none")
        for order, score in enumerate(scores, start=1):
            figures[f"{prefix}bleu_{order}"] = float(score.middle)
            log.write(step=0, result="bleu", system=name, order=order, score=score.middle,
                      low=score.low, high=score.high)  # fmt: skip
        if place:
            exact = translations.exact(outputs, answers)
            figures[f"{prefix}exact_match"] = float(exact.mean())
    return figures


# Looking inside.


def look_inside(config, describer: Describer, params, data: Captioned, outputs, log) -> None:
    """Gradients at the pixels of test images, and attention; images with what was written."""
    images, answers = data.images["test"], data.sentences["test"]
    rows = range(min(config.num_probed, len(images)))
    targets = describer.targets(outputs[: len(rows)])
    looks = describer.looks(params, images[: len(rows)], targets)
    weights = {"gradient": shares_of(looks.log_norms)}
    if looks.attention is not None:
        weights["attention"] = looks.attention
    if isinstance(data, Scenes):
        on_objects(weights, data, outputs, log)
    shown: list[int] = []
    sizes = looks.label_mask.sum(axis=1)
    # The first whose sentences are neither very short nor too long to be drawn.
    order = sorted(rows, key=lambda row: (not MAPPED[1] <= sizes[row] <= MAPPED[2], row))
    for row in order[: MAPPED[0]]:
        size = min(int(sizes[row]), MAPPED[2])
        log.write(
            step=0, result="map", place=len(shown), image=data.names["test"][row],
            words=[*outputs[row].split(), "<eos>"][:size],
            **{name: own[row, :size] for name, own in weights.items()},
        )  # fmt: skip
        shown.append(row)
    scores = np.array([
        translations.scores([text], [own], tokenize="none")["chrf"]
        for text, own in zip(outputs, answers, strict=True)
    ])  # fmt: skip
    rng = np.random.default_rng([config.seed, 2])
    chosen = {
        "best by chrF": np.argsort(-scores, kind="stable")[:SHOWN],
        "drawn at random": rng.permutation(len(images))[:SHOWN],
    }
    for how, places in chosen.items():
        for row in places.tolist():
            log.write(
                step=0, result="picture", place=len(shown), chosen=how, output=outputs[row],
                is_exact=outputs[row] in answers[row],
                reference=max(answers[row], key=lambda own: overlap(own, outputs[row])),
            )  # fmt: skip
            shown.append(row)
    if log.writes:
        with whole_file(log.path / PICTURES) as file:
            np.savez_compressed(file, images=images[shown])


def shares_of(log_norms: np.ndarray) -> np.ndarray:
    """Norms as shares of their sum over the last axis; equal ones where there is no gradient."""
    top = log_norms.max(axis=-1, keepdims=True)
    norms = np.where(np.isfinite(top), np.exp(log_norms - np.where(np.isfinite(top), top, 0.0)), 1)
    return norms / norms.sum(axis=-1, keepdims=True)


def overlap(one: str, other: str) -> int:
    """Places at which two sentences have the same word."""
    return sum(a == b for a, b in zip(one.split(), other.split(), strict=False))


def on_objects(weights: dict[str, np.ndarray], data: Scenes, outputs, log) -> None:
    """Share of each map that lies on the object which a word names, and the share of its cells.

    Words are the size, colour and shape of objects that are in the scene as they were named.
    """
    grid = IMAGE_SIZE // STRIDE
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in ("size", "colour", "shape")}
    for row, own in enumerate(next(iter(weights.values()))):
        things = {thing[:3]: thing for thing in data.things["test"][row]}
        claim, words = read_sentence(outputs[row]), outputs[row].split()
        starts = [i + 1 for i, word in enumerate(words) if word == "a"]
        for named, start in zip(claim.things if claim else (), starts, strict=False):
            if named not in things or start + 3 > len(own):
                continue
            inside = pixels_of(things[named]).reshape(grid, STRIDE, grid, STRIDE)
            cells = inside.any(axis=(1, 3)).ravel()
            for place, kind in enumerate(found):
                shares = {name: each[row, start + place, cells].sum()
                          for name, each in weights.items()}  # fmt: skip
                found[kind].append({**shares, "even": cells.mean()})
    for kind, each in found.items():
        if not each:
            continue
        fields = {}
        for name in each[0]:
            values = np.array([own[name] for own in each])
            fields[name], fields[f"{name}_low"], fields[f"{name}_high"] = metrics.bootstrap(
                values, np.mean
            )
        log.write(step=0, result="where", kind=kind, count=len(each), **fields)


def tables(log: RunLog, dataset: str, models: dict[str, dict[str, Any]]) -> None:
    """Scores of models and baselines, those by features with the first's; what was said right."""
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "BLEU-1 / 2 / 3 / 4": orders(own, ""),
            "chrF": f"{own['test_chrf']:.1f}",
            "exact, %": f"{100 * own['exact_match']:.1f}",
            "perplexity": f"{own['test_perplexity']:.2f}",
            "distinct, %": f"{100 * own['distinct_share']:.1f}",
            "parameters": own["parameters"],
        }
        for name, own in models.items()
    ]
    first = next(iter(models.values()))
    for name in BASELINES:
        prefix = f"{name.replace(' ', '_')}_"
        exact = f"{100 * first[f'{prefix}exact_match']:.1f}"
        rows.append({"model": name, "BLEU-1 / 2 / 3 / 4": orders(first, prefix), "exact, %": exact})
    log.table(f"{dataset}, test", rows)
    if "right_count" in first:
        log.table(f"{dataset}: right, %", [
            {"model": name, "part": part.removesuffix("_") or "test",
             **{kind: f"{100 * own[f'{part}right_{kind}']:.1f}" for kind in KINDS}}
            for name, own in models.items() for part in ("", "test_new_")
        ])  # fmt: skip


def orders(figures: dict[str, Any], prefix: str) -> str:
    """BLEU-1 to BLEU-4 as a table shows them."""
    return " / ".join(f"{figures[f'{prefix}bleu_{n}']:.1f}" for n in (1, 2, 3, 4))


def compare(config: Config, log: RunLog, data: Captioned) -> None:
    """Each context in a run of its own within this one; then all beside each other."""
    summaries = {}
    for context in COMPARED:
        own = replace(config, context=context, compare=False)
        if not (log.path / context / SUMMARY).exists():
            with log.inside(context, own) as inner:
                train(own, inner, data)
        if log.writes:
            plot(log.path / context)
        summaries[context] = read_run(log.path / context).summary
    names = {c: label(replace(config, context=c).filled()) for c in summaries}
    tables(log, data.name, {names[context]: own for context, own in summaries.items()})
    log.finish(models=summaries, dataset=data.name)


# New images.


def predict(
    path: Path, source: Path, *, beam_size: int | None, num_best: int, length_penalty: float | None
) -> None:
    """Prints what is written of an image, or of each image that a line of a file names."""
    config = config_of(Config, read_run(path).record, path)
    if config.compare:
        raise InputError(f"{path} has several models; name one of {', '.join(COMPARED)} in it")
    state, files = best_state(path, FILES, lambda files: build(config, files)[1])
    describer, config = describer_of(config, files), config.filled()
    width = beam_size or cast(int, config.beam_size)
    if num_best > width:
        raise InputError(f"num_best is {num_best}, beam_size {width}: make it wider")
    penalty = config.length_penalty if length_penalty is None else length_penalty
    is_image = source.suffix.lower() in IMAGES
    tested: list[np.ndarray] = []  # test images, read once and only where a number asks for one
    for before, lines in [(0, [str(source)])] if is_image else asked(source):
        for number, line in enumerate(lines, start=before + 1):
            where = "" if is_image else f"{name_of(source)}, line {number}: "
            image = image_of(line.strip(), config, tested, where)
            (found,) = describer.write(
                state.params, [image], beam_size=width, num_best=num_best,
                length_penalty=cast(float, penalty), max_length=files["max_length"],
            )  # fmt: skip
            for output in found:
                score = f"{output.score:.4f}\t" if num_best > 1 else ""
                sys.stdout.write(f"{score}{output.text}\n")
            sys.stdout.flush()


def image_of(line: str, config: Config, tested: list[np.ndarray], where: str) -> np.ndarray:
    """The image that a line names: a file, or the number of a test image."""
    if not line:
        raise InputError(f"{where}expected the path of an image or the number of a test image")
    if not (line.isascii() and line.isdigit()):
        try:
            return read_image(Path(line))
        except InputError as error:
            raise InputError(f"{where}{error}") from error
    if not tested:
        if config.is_made_up:  # whose test part does not depend on the sizes of these
            sizes = {**sizes_of(config), "train": 1, "valid": 1}
            tested.append(load_scenes(sizes, config.seed).images["test"])
        else:
            tested.append(load(config).images["test"])
    (images,) = tested
    if int(line) >= len(images):
        raise InputError(f"{where}test images have numbers from 0 to {len(images) - 1}, got {line}")
    return images[int(line)]


# Figures.


def plot(path: Path) -> None:
    """Draws every figure from the files of a run."""
    found = read_run(path)
    config = config_of(Config, found.record, path)
    figures = path / "figures"
    name = label(config.filled())
    models = {name: found}
    if config.compare:
        models = {
            label(replace(config, context=context).filled()): read_run(path / context)
            for context in COMPARED
        }
    dataset = found.summary["dataset"]
    select = lambda run, **fields: plots.pick(run.metrics, **fields)  # noqa: E731
    # The nets' lines, and of the baselines those of the first.
    scores = [row for run in models.values() for row in select(run, result="bleu")]
    plots.save(
        plots.caption_scores(
            {own: [row for row in scores if row["system"] == own][:4]
             for own in (*models, *BASELINES)},
            title=f"{dataset}, test part",
        ),
        figures / "bleu.png",
    )  # fmt: skip
    if config.is_made_up:
        plots.save(
            plots.caption_agreement(
                {own: select(run, result="agreement") for own, run in models.items()},
                title=f"{dataset}: what was said right",
            ),
            figures / "agreement.png",
        )  # fmt: skip
        where = {own: select(run, result="where") for own, run in models.items()}
        if any(where.values()):
            plots.save(
                plots.caption_objects(
                    where, title=f"{dataset}: share that lies on the object which the word names"
                ),
                figures / "objects.png",
            )
    if config.compare:
        return
    plots.save(
        plots.translator_training(
            select(found, split="train"), select(found, split="valid"),
            title=f"{dataset}, {name}", written_for="validation images",
        ),
        figures / "training.png",
    )  # fmt: skip
    with np.load(path / PICTURES) as content:
        images = content["images"]
    plots.save(
        plots.captioned_images(
            images, select(found, result="picture"), title=f"{dataset}, {name}: test images"
        ),
        figures / "pictures.png",
    )
    for number, row in enumerate(select(found, result="map")):
        plots.save(
            plots.caption_maps(images[row["place"]], row, title=f"{dataset}, {name}"),
            figures / f"map_{number + 1}.png",
        )


if __name__ == "__main__":
    main(Config, run, plot, predict=predict)
