"""Can a recurrent net tell which digit it has read, pixel by pixel?

    python -m experiments.sequential_images
    python -m experiments.sequential_images --dataset permuted-digits
    python -m experiments.sequential_images --dataset mnist --cells lstm --out runs/smnist-lstm

A net reads an image one grey level a step, and names the digit after the last: 64 steps for the 8x8
digits that come with scikit-learn, 784 for MNIST, in scan-line order or in one random order for all
images. Every training image is read once an epoch, in an order of the net's own. Killed or stopped,
the same command with the same `--out` goes on to the same numbers.

Measured on digits by default, 30 epochs, median of six nets: LSTM 96.5 %, chrono LSTM 96.8 %, GRU
97.9 %, tanh RNN 93.6 %, ReLU RNN 91.9 % of test images (5 minutes on two cores). Without gates the
rate has to be lower: at that of the others the tanh RNN had 62 %.

On MNIST, 5 epochs, 64 units (`--dataset mnist --hidden-size 64 --cells lstm`, and `rnn`; 10 and 4
minutes): LSTM 47.6 %, tanh RNN 41.7 %, where 87.7 and 23.0 were published for 5 epochs, of a width
that our source does not say. At the LSTM's rate (`--ungated-learning-rate 1e-3`) the tanh RNN had
33 % after an epoch and 11 % after five. The LSTM's gradient falls by 17 powers of ten over the
image at the start and by 12 after training: it has not found the way yet. `--full` is MNIST, 5
epochs, 128 units, all five cells: some hundred minutes, estimated from updates of 0.70 s (LSTM),
0.46 s (GRU) and 0.06 s (tanh).

Figures: accuracy over epochs; beside published figures, which are for MNIST; gradient norm over the
steps before and after training; images with the gradient at each pixel; who is taken for whom.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.lookup import make_cell
from seqlab.cli import main
from seqlab.data.batching import Examples, Feed
from seqlab.data.checks import check_at_least, check_distinct, check_positive
from seqlab.data.digits import Labelled, load_images
from seqlab.devices import Devices
from seqlab.ensemble import SideBySide
from seqlab.errors import InputError
from seqlab.gradflow.taps import log_norm_over_time, named_leaves, zero_taps
from seqlab.losses import cross_entropy, label_accuracy, masked_mean
from seqlab.metrics import bootstrap
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.runlog import RunLog, read_run
from seqlab.session import Session
from seqlab.train import learning_rate_schedule, make_train_step

NUM_CLASSES = 10
SHOWN = (2, 2)  # images of a cell in the figure of gradients: named right, named wrong
GOAL = 95.0  # %, of gated cells on digits in scan-line order
DEFAULTS = {
    "digits": {
        "hidden_size": 64, "num_epochs": 30, "batch_size": 16, "learning_rate": 1e-2,
        "ungated_learning_rate": 2e-3, "num_seeds": 6,
    },
    "mnist": {
        "hidden_size": 128, "num_epochs": 5, "batch_size": 100, "learning_rate": 1e-3,
        "ungated_learning_rate": 2e-4, "num_seeds": 1,
    },
}  # fmt: skip


class Published(NamedTuple):
    """A published test accuracy on sequential MNIST, 784 steps.

    Attributes:
      model: what was trained.
      units: its width, None where our source does not say.
      epochs: likewise.
      scan, permuted: accuracy in %, by the order of the pixels; None where there is none.
      source: where it was published; None where who quotes it does not say.
      was_read: whether the source itself was read, or only another that quotes it.
    """

    model: str
    units: int | None
    epochs: int | None
    scan: float | None
    permuted: float | None
    source: str | None
    was_read: bool

    @property
    def credit(self) -> str:
        """The source, and whether it was only quoted."""
        second_hand = [] if self.was_read else ["second hand"]
        return ", ".join([*([self.source] if self.source else []), *second_hand])


# What was read in a source, or in one that quotes it; nothing from memory. Each paper has a
# permutation of its own.
PUBLISHED = (
    Published("tanh RNN", None, None, 35.0, 35.0, "Le et al. 2015", False),
    Published("IRNN", None, None, 97.0, 82.0, "Le et al. 2015", False),
    Published("uRNN", None, None, 95.1, 91.4, "Arjovsky et al. 2016", False),
    Published("sTANH-RNN", None, None, 98.1, 94.0, None, False),
    Published("LSTM, identity start", 100, None, 98.9, 90.2, "Cooijmans et al. 2017", True),
    Published("LSTM, batch norm", 100, None, 99.0, 95.4, "Cooijmans et al. 2017", True),
    Published("LSTM", None, None, 97.8, 91.3, "Wisdom et al. 2016", False),
    Published("scoRNN", None, None, 98.5, 96.6, None, False),
    Published("LSTM", 116, None, None, 91.8, "arXiv 2203.05483", True),
    Published("LSTM", 170, None, None, 92.0, "arXiv 2203.05483", True),
    Published("LSTM", 360, None, None, 92.9, "arXiv 2203.05483", True),
    Published("LSTM", 512, None, None, 92.0, "arXiv 2203.05483", True),
    Published("expRNN", 170, None, None, 94.9, "Lezcano-Casado et al. 2019", False),
    Published("expRNN", 360, None, None, 96.2, "Lezcano-Casado et al. 2019", False),
    Published("expRNN", 512, None, None, 96.6, "Lezcano-Casado et al. 2019", False),
    Published("projUNN-D, k=1", 512, None, None, 97.0, "arXiv 2203.05483", True),
    Published("LSTM, best validation", 512, None, None, 95.4, "Tallec and Ollivier 2018", True),
    Published("LSTM, chrono, best val.", 512, None, None, 96.3, "Tallec and Ollivier 2018", True),
    Published("GRU", None, 600, 96.8, None, None, False),
    Published("LMU", None, None, None, 97.15, "Voelker et al. 2019", False),
    Published("LSTM", None, None, None, 89.86, "Voelker et al. 2019", False),
    Published("coRNN", None, None, 99.4, 97.3, "its authors' README", True),
    Published("UnICORNN", None, None, None, 98.4, "its authors' README", True),
    Published("vanilla RNN", None, 5, 23.0, None, None, False),
    Published("LSTM", None, 5, 87.7, None, None, False),
)


@dataclass(frozen=True)
class Config:
    """Accuracy on images read pixel by pixel, for cells, beside published figures."""

    may_change: ClassVar = ("save_every", "num_devices")

    dataset: Literal["digits", "permuted-digits", "mnist", "permuted-mnist"] = "digits"
    """which images; None below stands for what suits them: digits, mnist"""
    permutation_seed: int = 0
    """of the order of the pixels of permuted images"""
    cells: tuple[str, ...] = ("rnn", "rnn-relu", "lstm", "lstm-chrono", "gru")
    """names of cells, or package.module:Class; with -chrono at the end for memories as long as the
    image at the start"""
    hidden_size: int | None = None
    """H, units; None: 64, 128"""
    num_epochs: int | None = None
    """times that every training image is read; None: 30, 5"""
    batch_size: int | None = None
    """B, images an update; None: 16, 100"""
    learning_rate: float | None = None
    """of Adam, falling along a cosine to a hundredth; None: 0.01, 0.001"""
    ungated_learning_rate: float | None = None
    """the same for cells without gates; None: 0.002, 0.001"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    num_seeds: int | None = None
    """nets a cell, trained side by side; None: 6, 1"""
    num_valid: int | None = None
    """training images held out for validation; None: a twelfth"""
    num_sequences: int = 32
    """test images under the probe of gradients"""
    log_every: int = 20
    """updates between lines of the log"""
    save_every: int = 500
    """updates between checkpoints"""
    seed: int = 0
    num_devices: int | None = None
    """how many share out each batch; by default all, of a processor one a core that gets 8 rows"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_distinct(self.cells, "cells")
        for field in ("hidden_size", "num_epochs", "batch_size", "num_seeds", "num_valid",
                      "num_devices", "log_every", "save_every"):  # fmt: skip
            if getattr(self, field) is not None:
                check_at_least(getattr(self, field), 1, field)
        check_at_least(self.num_sequences, sum(SHOWN), "num_sequences")
        for field in ("seed", "permutation_seed"):
            check_at_least(getattr(self, field), 0, field)
        for field in ("learning_rate", "ungated_learning_rate", "clip_norm"):
            if getattr(self, field) is not None:
                check_positive(getattr(self, field), field)
        for name in self.cells:
            make_cell(name, self.hidden_size or 8, num_steps=64)

    @property
    def is_mnist(self) -> bool:
        """Whether the images are the large ones."""
        return self.dataset.endswith("mnist")

    def filled(self) -> "Config":
        """The same with what suits the data set in place of None."""
        defaults = DEFAULTS["mnist" if self.is_mnist else "digits"]
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            cells=("rnn", "gru"), hidden_size=12, num_epochs=2, batch_size=128, num_seeds=2,
            num_sequences=8,
        )  # fmt: skip

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(dataset="mnist")


def run(config: Config, log: RunLog) -> None:
    """Trains all cells at once, looks at them after every epoch, and measures their gradients."""
    config = config.filled()
    parts = load_parts(config)
    num_steps = parts["test"].xs.shape[1]
    batches = epochs_of(parts["train"], config)
    per_epoch = batches.batches_per_epoch
    num_updates = config.num_epochs * per_epoch
    files = {"images": {"num_steps": num_steps, "num_updates": num_updates}}
    train_step, state = build(config, files)
    num_parameters = {
        name: sum(leaf[0].size for leaf in jax.tree.leaves(params))
        for name, params in state.params.items()
    }
    log.write(
        step=0, dataset=config.dataset, num_steps=num_steps, num_parameters=num_parameters,
        **{f"num_{name}": len(part.labels) for name, part in parts.items()},
    )  # fmt: skip
    devices = Devices.sharing(config.batch_size, config.num_devices)
    answer = answerer(config, num_steps, devices)
    probes, falls = make_probes(config, num_steps), {}

    def look(step, params):
        """How many images every net names; of those to train on, as many as there are to test."""
        found = {}
        for part, images in parts.items():
            images = Labelled(*(array[: len(parts["test"].labels)] for array in images))
            for name, (answers, nats) in answer(params, images).items():
                right = found[name, part] = count_right(answers, images.labels)
                log.write(step=step, epoch=step // per_epoch, cell=name, split=part, correct=right,
                          total=len(images.labels), loss=np.mean(nats, axis=0))  # fmt: skip
        return found

    def probe(step, params, when):
        test = Labelled(*(array[: config.num_sequences] for array in parts["test"]))
        for name, program in probes.items():
            norms, _ = program(params[name], test.xs, test.labels)
            for leaf, values in norms.items():
                middle = write_band(log, values, step=step, cell=name, probe="carry", leaf=leaf)
                fall = float(middle[0] - middle[-2]) / np.log(10.0)  # no loss reads the last c
                falls.setdefault(name, {})[f"gradient_log10_fall_{leaf}_{when}"] = fall

    first = jax.device_get(state.params)
    compile_together(probes, first, parts["test"], config)
    look(0, first)
    probe(0, first, "at_init")
    with (
        Feed(batches) as feed,
        Session(
            log,
            state,
            feed,
            num_steps=num_updates,
            save_every=config.save_every,
            on_nonfinite="skip",
            files=files,
            devices=devices,
        ) as session,
    ):
        for step, state, metrics in session.steps(train_step):
            if step % config.log_every == 0:
                for name in config.cells:
                    log.write(step=step, cell=name, split="updates", **metrics[name])
            if step % per_epoch == 0:
                seen = session.memory.setdefault("right", {})
                for (name, part), right in look(step, state.params).items():
                    seen.setdefault(name, {}).setdefault(part, []).append(right)
        params = jax.device_get(session.state.params)
    probe(num_updates, params, "trained")
    # Once more, for the answers: a run that was killed after its last epoch has only their count.
    answers = answer(params, parts["test"])
    for name, program in probes.items():
        table = confusion(answers[name][0], parts["test"].labels)
        log.write(step=num_updates, cell=name, result="confusion", counts=table)
        show(name, program, params[name], answers[name][0], parts["test"], config, log)
    totals = {
        name: min(len(part.labels), len(parts["test"].labels)) for name, part in parts.items()
    }
    figures = {
        name: {
            "num_parameters": num_parameters[name],
            **figures_of(session.memory["right"][name], totals),
            **falls[name],
        }
        for name in config.cells
    }
    checks = judge(config, num_steps, figures)
    log.table(f"{config.dataset} and published figures", beside(config, num_steps, figures))
    if checks:
        log.table("checks", checks)
    log.finish(
        **session.figures(),
        cells=figures,
        checks=checks,
        dataset=config.dataset,
        num_steps=num_steps,
        num_epochs=config.num_epochs,
        published=[{**row._asdict(), "credit": row.credit} for row in PUBLISHED],
    )


def load_parts(config):
    """Images to train on, to validate with and to test with, by name."""
    train, test = load_images(config.dataset, config.permutation_seed)
    count = len(train.labels) // 12 if config.num_valid is None else config.num_valid
    if count >= len(train.labels):
        raise InputError(f"num_valid is {count}, there are {len(train.labels)} training images")
    valid = Labelled(*(array[-count:] for array in train))
    return {"train": Labelled(*(array[:-count] for array in train)), "valid": valid, "test": test}


class Epochs:
    """Batches [B, N, ...] of N nets, each with all images once an epoch in an order of its own."""

    def __init__(self, images: Labelled, batch_size: int, seeds: Sequence[int | None]):
        def collate(rows):
            return {"xs": images.xs[rows], "targets": images.labels[rows]}

        rows = range(len(images.labels))
        self._nets = [Examples(rows, batch_size, seed=seed, collate=collate) for seed in seeds]
        self.batches_per_epoch = self._nets[0].batches_per_epoch

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Batch `number` of every net."""
        nets = [net.batch(number) for net in self._nets]
        return {name: np.stack([net[name] for net in nets], axis=1) for name in nets[0]}


def epochs_of(images, config):
    """What is trained on."""
    seeds = [config.num_seeds * config.seed + net for net in range(config.num_seeds)]
    return Epochs(images, config.batch_size, seeds)


def is_gated(cell: Any) -> bool:
    """Whether a cell has gates: it names its routes, or its gates."""
    return bool(getattr(cell, "routes", ())) or callable(getattr(cell, "gates", None))


def make_models(config, num_steps):
    """The model of each cell, as pure functions."""
    return {
        name: functional(
            ManyToOne,
            make_cell(name, config.hidden_size, num_steps),
            input_size=1,
            output_size=NUM_CLASSES,
            head="softmax",
        )
        for name in config.cells
    }


def build(config, files):
    """The training step of all nets, and the state before the first."""
    config = config.filled()
    models = make_models(config, files["images"]["num_steps"])

    def train_step(name, model):
        cell = make_cell(name, config.hidden_size, files["images"]["num_steps"])
        base = config.learning_rate if is_gated(cell) else config.ungated_learning_rate
        num_updates = files["images"]["num_updates"]
        rate = learning_rate_schedule("cosine", base, num_steps=num_updates, final=0.01)

        def loss_fn(params, batch, key):
            del key  # nothing here is random
            logits = model.apply(params, batch["xs"]).logits
            is_real = batch["is_real"]
            loss = masked_mean(cross_entropy(logits, batch["targets"]), is_real)
            accuracy = label_accuracy(logits, batch["targets"], is_real)
            return loss, {"weight": jnp.sum(is_real), "accuracy": accuracy}

        return make_train_step(loss_fn, optax.adam(rate), clip_norm=config.clip_norm)

    step = SideBySide(tuple((name, train_step(name, model)) for name, model in models.items()))
    key_params, key_steps = jax.random.split(jax.random.key(config.seed))
    # The same keys for all cells: a cell's nets do not depend on which others are trained.
    init = jax.jit(
        lambda keys: {name: jax.vmap(model.init)(keys) for name, model in models.items()}
    )
    params = init(jax.random.split(key_params, config.num_seeds))
    return step, step.init(params, key_steps)


def answerer(config, num_steps, devices):
    """(params, images) -> cell -> (answers [M, N], nats [M, N]) of N nets about M images."""
    models = make_models(config, num_steps)
    rows = config.batch_size * max(1, 128 // config.batch_size)  # shared out as evenly as a batch

    def answer_batch(params, batch):
        found = {}
        for name, model in models.items():
            logits = jax.vmap(lambda net, apply=model.apply: apply(net, batch["xs"]).logits)(
                params[name]
            )
            nats = jax.vmap(lambda each: cross_entropy(each, batch["targets"]))(logits)
            found[name] = jnp.argmax(logits, axis=-1).T, nats.T
        return found

    compiled = jax.jit(answer_batch if devices is None else devices.share_rows(answer_batch))

    def answer(params, images):
        batches = Epochs(images, rows, [None])
        found = []
        for number in range(batches.batches_per_epoch):
            batch = batches.batch(number)
            is_real = batch["is_real"][:, 0]
            each = compiled(params, {"xs": batch["xs"][:, 0], "targets": batch["targets"][:, 0]})
            found.append(jax.tree.map(lambda rows, keep=is_real: np.asarray(rows)[keep], each))
        return jax.tree.map(lambda *rows: np.concatenate(rows), *found)

    return answer


def make_probes(config, num_steps):
    """Cell -> program: (params, xs, labels) -> log norms of dL/dcarry_t and of dL/dx_t, [N, M, T].

    L is an image's own loss, in nats; the norms of the carry come by leaf.
    """

    def make(model):
        def measure(params, xs, labels):
            def loss(taps, xs):
                logits = model.apply(params, xs, taps=taps).logits
                return jnp.sum(cross_entropy(logits, labels))

            taps, pixels = jax.grad(loss, argnums=(0, 1))(zero_taps(model.apply, params, xs), xs)
            norms = {
                leaf: log_norm_over_time(values)
                for leaf, values in named_leaves(taps["rnn"]).items()
            }
            return norms, log_norm_over_time(pixels)

        return jax.jit(jax.vmap(measure, in_axes=(0, None, None)))

    return {name: make(model) for name, model in make_models(config, num_steps).items()}


def compile_together(probes, params, test, config):
    """Compiles the probes side by side; they are called again."""
    count = config.num_sequences
    with ThreadPoolExecutor() as pool:
        for name, program in probes.items():
            pool.submit(program, params[name], test.xs[:count], test.labels[:count])


def write_band(log, values, **fields):
    """Writes median and 10-90 % band of [nets, images, T] over nets and images; the median."""
    # Without interpolation: a gradient that is zero in its precision has a norm of -inf.
    low, median, high = np.quantile(
        np.asarray(values), (0.1, 0.5, 0.9), axis=(0, 1), method="inverted_cdf"
    )
    log.write(**fields, log_norm_median=median, log_norm_p10=low, log_norm_p90=high)
    return median


def confusion(answers, labels):
    """How often each digit (row) was named as each (column) by all nets: [10, 10]."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(counts, (np.broadcast_to(labels[:, None], answers.shape), answers), 1)
    return counts


def show(name, program, params, answers, test, config, log):
    """Writes some images that the first net named right and wrong, with their gradients."""
    is_right = answers[:, 0] == test.labels
    rows = [*np.flatnonzero(is_right)[: SHOWN[0]], *np.flatnonzero(~is_right)[: SHOWN[1]]]
    filled = np.resize(rows, config.num_sequences)  # as many as the program was compiled for
    _, norms = program(params, test.xs[filled], test.labels[filled])
    for row, norm in zip(rows, np.asarray(norms[0]), strict=False):
        log.write(
            step=0, cell=name, result="image", image=row, pixels=test.xs[row, :, 0],
            log_norm=norm, label=test.labels[row], answer=answers[row, 0],
        )  # fmt: skip


def count_right(answers, labels):
    """How many of M images each of N nets names: [N], from answers [M, N]."""
    return np.sum(answers == labels[:, None], axis=0).tolist()


def accuracy(right, total):
    """Accuracy in % with its 95 % interval, from the number of images that each net names.

    Of several nets the median, over draws of nets; of one net the mean, over draws of images.
    """
    if len(right) > 1:
        return bootstrap(100.0 * np.array(right) / total, np.median)
    (count,) = right  # which of the images they are makes no difference
    return bootstrap(np.repeat([100.0, 0.0], [count, total - count]), np.mean)


def figures_of(right, totals):
    """A cell's line of the summary, from part -> numbers of images named [epochs, N]."""
    last = {part: accuracy(counts[-1], totals[part]) for part, counts in right.items()}
    # Each net at the epoch at which it did best in validation, the first of equals.
    best = np.argmax(right["valid"], axis=0)
    chosen = [right["test"][epoch][net] for net, epoch in enumerate(best)]
    return {
        **{f"{part}_accuracy_percent": float(interval.middle) for part, interval in last.items()},
        "test_accuracy_low_percent": float(last["test"].low),
        "test_accuracy_high_percent": float(last["test"].high),
        "test_accuracy_at_best_valid_percent": float(accuracy(chosen, totals["test"]).middle),
        "test_accuracy_of_nets_percent": [100.0 * n / totals["test"] for n in right["test"][-1]],
    }


def judge(config, num_steps, figures):
    """What the run says of the claim that all gated cells exceed 95 % on digits."""
    if config.dataset != "digits":
        return []
    sizes = ("hidden_size", "num_epochs", "num_seeds")
    small = [name for name in sizes if getattr(config, name) < DEFAULTS["digits"][name]]
    checks = []
    for name, figure in figures.items():
        if not is_gated(make_cell(name, config.hidden_size, num_steps)):
            continue
        found = figure["test_accuracy_percent"]
        check = {"name": f"{name}: test accuracy on digits, %", "found": found,
                 "expected": f"> {GOAL:g}", "tolerance": 0.0, "passed": found > GOAL}  # fmt: skip
        if small:
            check |= {"passed": None, "reason": f"{', '.join(small)} below the default"}
        checks.append(check)
    return checks


def is_permuted(config):
    """Whether pixels come in an order at random."""
    return config.dataset.startswith("permuted")


def beside(config, num_steps, figures):
    """Rows of a table: this run's cells, then what was published for the same order of pixels."""
    rows = [
        {
            "net": name,
            "steps": num_steps,
            "units": config.hidden_size,
            "parameters": figure["num_parameters"],
            "epochs": config.num_epochs,
            "accuracy, %": f"{figure['test_accuracy_percent']:.1f}",
            "from": f"{figure['test_accuracy_low_percent']:.1f}",
            "to": f"{figure['test_accuracy_high_percent']:.1f}",
            "where": f"this run, {config.dataset}",
        }
        for name, figure in figures.items()
    ]
    for row in PUBLISHED:
        percent = row.permuted if is_permuted(config) else row.scan
        if percent is not None:
            rows.append(
                {
                    "net": row.model,
                    "steps": 784,
                    "units": row.units,
                    "epochs": row.epochs,
                    "accuracy, %": f"{percent:g}",
                    "where": f"MNIST: {row.credit}",
                }
            )
    return rows


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"
    summary, cells = finished.summary, finished.config["cells"]
    select = lambda **fields: plots.pick(finished.metrics, **fields)  # noqa: E731
    config = Config(**{**finished.config, "cells": tuple(cells)}).filled()
    last = select(cell=cells[0], probe="carry")[-1]["step"]
    over = "nets" if config.num_seeds > 1 else "test images"
    steps = f"{config.dataset}, {summary['num_steps']} steps"
    epochs = "1 epoch" if config.num_epochs == 1 else f"{config.num_epochs} epochs"

    curves = {}
    for name in cells:
        curves[name] = {}
        for part in ("train", "test"):
            rows = select(cell=name, split=part)
            bands = np.array([accuracy(row["correct"], row["total"]) for row in rows]).T
            curves[name][part] = [row["epoch"] for row in rows], bands
    nets = f"median of {config.num_seeds} nets" if config.num_seeds > 1 else "one net"
    plots.save(
        plots.accuracy_curves(
            curves,
            chance=100.0 / NUM_CLASSES,
            title=f"{steps}: {nets}, band: 95 % bootstrap over {over}",
        ),
        figures / "accuracy.png",
    )

    ours = [
        plots.Point(
            f"{name}, {config.hidden_size} units, {figure['num_parameters']:,} parameters",
            figure["test_accuracy_percent"],
            (figure["test_accuracy_low_percent"], figure["test_accuracy_high_percent"]),
        )
        for name, figure in summary["cells"].items()
    ]
    published = []
    for row in summary["published"]:
        percent = row["permuted" if is_permuted(config) else "scan"]
        if percent is not None:
            parts = [row["model"]]
            parts += [f"{row['units']} units"] if row["units"] else []
            parts += [f"{row['epochs']} epochs"] if row["epochs"] else []
            published.append(plots.Point(f"{', '.join(parts)} ({row['credit']})", percent))
    published_set = "permuted-mnist" if is_permuted(config) else "mnist"
    task = "" if config.is_mnist else ": another task, not to be compared number by number"
    plots.save(
        plots.accuracies_beside(
            ours,
            published,
            ours_title=f"this run: {steps}, {epochs}, {nets}, 95 % interval",
            published_title=f"published: {published_set}, 784 steps{task}",
        ),
        figures / "published.png",
    )

    figure, panels = plots.new_figure(2, width=9.6, height=3.9)
    titles = ("at initialisation", f"after {epochs}")
    for axes, step, title in zip(panels, (0, last), titles, strict=True):
        shown = []
        for name in cells:
            rows = {row["leaf"]: row for row in select(cell=name, probe="carry", step=step)}
            row = rows.get("h", next(iter(rows.values())))
            bands = (row[f"log_norm_{edge}"] for edge in ("median", "p10", "p90"))
            shown.append(plots.Curve(name, *map(np.array, bands)))
        plots.gradient_curves(shown, axes, title)
    figure.suptitle(
        rf"{steps}: $\|dL/dh_t\|$, median and 10-90 % over {config.num_sequences} test images "
        "and nets, as far as float32 goes"
    )
    plots.save(figure, figures / "gradient_over_time.png")

    images = {name: select(cell=name, result="image") for name in cells}
    plots.save(
        plots.pixel_gradients(
            images,
            title=f"{steps}: images in the order of reading, and the gradient at each pixel",
        ),
        figures / "pixel_gradients.png",
    )
    tables = {row["cell"]: np.array(row["counts"]) for row in select(result="confusion")}
    plots.save(
        plots.confusions(tables, title=f"{steps}: which digit is named as which, all nets"),
        figures / "confusions.png",
    )


if __name__ == "__main__":
    main(Config, run, plot)
