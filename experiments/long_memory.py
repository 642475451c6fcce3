"""How long can a recurrent net remember, and what helps it to?

    python -m experiments.long_memory                         # adding problem
    python -m experiments.long_memory --task copy-memory
    python -m experiments.long_memory --task temporal-order-3bit --cells lstm gru mycells:MGU
    python -m experiments.long_memory --task adding-hs97      # beside the figures of 1997
    python -m experiments.long_memory --study remedies        # figure 7 of Pascanu et al., 2013

`--study cells` trains nets of each cell at each length until all meet the task's criterion at four
looks in a row, or `max_updates` are over: share of nets that succeed, sequences that it takes, and
what is left of it on sequences far longer than those trained on. "lstm-chrono" and "gru-chrono"
begin with memories as long as the task; in copy memory, where all of it is asked for at the end,
1.5 times as long.

`--study remedies` is the study of temporal order by plain SGD: initialisations of a vanilla
net (50 units, batch 20, learning rate 0.01), each without help, with clipping, and with clipping
and the Omega regulariser. `--shortest 50 --lengths 200` trains on lengths from 50 to 200.

`--full` goes to T = 400 with up to 50,000 updates: some two and a half hours on two cores for
the adding problem, nearly all of them for nets that do not learn it (measured: 50,000 updates at
T = 50 take 3:16 minutes of the tanh nets and 3:28 of the ReLU nets, at 400 eight times that). At
the scale of Pascanu et al., days on a CPU, in runs that each save when they are done:

    python -m experiments.sweep long_memory --grid lengths=50,100,150,200,250 -- \
        --study remedies --max-updates 5000000 --num-test 10000
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.lookup import make_cell
from seqlab.cells.rnn import PreactivationRNN
from seqlab.cli import main
from seqlab.data import synthetic
from seqlab.data.checks import check_at_least, check_distinct, check_known, check_positive
from seqlab.ensemble import stacked, train_nets
from seqlab.errors import InputError
from seqlab.gradflow.omega import norm_preservation
from seqlab.gradflow.taps import carry_gradients
from seqlab.losses import cross_entropy, masked_mean, squared_error
from seqlab.metrics import bootstrap
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.runlog import RunLog, read_run
from seqlab.train import fresh_state, learning_rate_schedule, make_train_step

CELLS = ("rnn", "irnn", "lstm", "lstm-chrono", "gru", "gru-chrono")
UNGATED = ("rnn", "irnn")
METHODS = ("sgd", "sgd + clip", "sgd + clip + Omega")
INITS = {  # activation, std of W_x and of the head, std of W_h; Pascanu et al., 2013, section 4.1
    "sigmoid": ("sigmoid", 0.01, 0.01),
    "basic-tanh": ("tanh", 0.1, 0.1),
    "smart-tanh": ("tanh", 0.01, 0.01),  # 15 connections a unit, spectral radius 0.95
}
FARTHER = (1, 2, 4, 8)  # times the trained length, for what is left of it there
REMEDY_LENGTHS = (50, 100, 200, 500, 1000, 2000, 5000)  # the paper's, after training on 50 to 200
LASTING = 4  # looks in a row at which all nets meet the criterion, after which training ends
NUM_FAR = 100  # sequences of each such length


class Task(NamedTuple):
    """What is to be remembered, and when it counts as remembered.

    Attributes:
      make: (rng, count, length) -> sequences.
      input_size, output_size: D, and classes or width of the answer.
      lengths: the default ones.
      baseline: length -> loss of the best answer without memory.
      is_solved: (losses [B], correct [B], length) -> whether a net has met the criterion.
      near: length -> training loss below which it is worth while to test for that.
      criterion: in words.
      published: length -> training sequences to the criterion in 1997.
      every_step, is_value: whether each step is answered; whether the answer is a number.
      is_strict: whether classes count as in 1997, each output within 0.3.
      varies: whether lengths differ within a batch.
      memory: length -> T_max of cells with "-chrono"; their memories are drawn from 1 to it, so
        that where all of it has to be carried to the end, it is well beyond the length.
    """

    make: Callable[..., synthetic.Task]
    input_size: int
    output_size: int
    lengths: tuple[int, ...]
    baseline: Callable[[int], float]
    is_solved: Callable[[np.ndarray, np.ndarray, int], bool]
    near: Callable[[int], float]
    criterion: str
    published: Mapping[int, int] = MappingProxyType({})
    every_step: bool = False
    is_value: bool = False
    is_strict: bool = False
    varies: bool = False
    memory: Callable[[int], int] = lambda length: length


def order(version: str, input_size: int, lengths: tuple[int, ...], **more: Any) -> Task:
    """A temporal order task."""
    classes = synthetic.TEMPORAL_ORDER_CLASSES[version]
    is_1997 = version.startswith("hs97")
    return Task(
        partial(synthetic.temporal_order, version=version),
        input_size,
        classes,
        lengths,
        lambda length: float(np.log(classes)),
        (lambda losses, correct, length: correct.all())
        if is_1997
        else (lambda losses, correct, length: np.mean(~correct) < 0.01),
        lambda length: 0.02 if is_1997 else 0.1,
        "every output of every test sequence within 0.3" if is_1997 else "below 1 % errors",
        is_strict=is_1997,
        varies=is_1997,
        **more,
    )


TASKS = {
    "adding": Task(
        synthetic.adding,
        2,
        1,
        (50, 200),
        lambda length: synthetic.adding_baseline(),
        lambda losses, correct, length: losses.mean() < 0.01,
        lambda length: 0.012,
        "mean squared error below 0.01",
        is_value=True,
    ),
    "adding-hs97": Task(
        partial(synthetic.adding, version="hs97"),
        2,
        1,
        (100,),
        lambda length: synthetic.adding_baseline("hs97", length),
        lambda losses, correct, length: correct.all(),
        lambda length: 5e-4,
        "every test sequence within 0.04",
        published={100: 74_000, 500: 209_000, 1000: 853_000},
        is_value=True,
        varies=True,
    ),
    "copy-memory": Task(
        synthetic.copy_memory,
        10,
        9,
        (100,),
        synthetic.copy_memory_baseline,
        lambda losses, correct, length: losses.mean() < synthetic.copy_memory_baseline(length) / 10,
        lambda length: 0.12 * synthetic.copy_memory_baseline(length),
        "a tenth of the loss without memory",
        every_step=True,
        memory=lambda length: 3 * (length + 20) // 2,
    ),
    "temporal-order": order("pascanu", 6, (50, 100, 200)),
    "temporal-order-3bit": order("pascanu_3bit", 6, (50, 100, 200)),
    "temporal-order-hs97-6a": order("hs97_6a", 8, (100,), published={100: 31_390}),
    "temporal-order-hs97-6b": order("hs97_6b", 8, (100,), published={100: 571_100}),
}


@dataclass(frozen=True)
class Config:
    """Success against length, for cells or for remedies."""

    study: Literal["cells", "remedies"] = "cells"
    """which question"""
    task: str | None = None
    """adding, adding-hs97, copy-memory, temporal-order, temporal-order-3bit,
    temporal-order-hs97-6a or -6b; None: adding for cells, temporal-order for remedies"""
    cells: tuple[str, ...] | None = None
    """names of cells, or package.module:Class; with -chrono at the end for long memories at the
    start; None: by task"""
    inits: tuple[str, ...] = ("basic-tanh", "smart-tanh")
    """of the remedies: sigmoid (which hardly learns by SGD), basic-tanh, smart-tanh"""
    lengths: tuple[int, ...] | None = None
    """T of the task, steps; None: the task's own"""
    shortest: int | None = None
    """train on lengths from this to each of `lengths`; None: on that alone"""
    max_updates: int | None = None
    """updates after which a net has failed; None: by task and study"""
    check_every: int = 50
    """updates between two looks"""
    num_test: int = 1000
    """fresh sequences on which the criterion is tested"""
    hidden_size: int | None = None
    """H, units; None: 64, 128 for copy-memory, 50 for remedies"""
    batch_size: int | None = None
    """sequences an update; None: 32, 16 for copy-memory, 20 for remedies"""
    learning_rate: float | None = None
    """of Adam, None: 0.005, 0.01 for copy-memory; of SGD for remedies, None: 0.01"""
    ungated_learning_rate: float | None = None
    """the same for rnn and irnn; None: 0.001 for copy-memory, whose rate throws them about, else
    that of the others"""
    final_rate: float | None = None
    """share of the learning rate that is left after `max_updates`, to which it falls along half a
    cosine; None: 1, 0.1 for copy-memory"""
    clip_norm: float | None = None
    """largest global gradient norm let through, where there is clipping; None: 1, 0.02 for
    copy-memory, whose loss is a mean over steps of which few count: at 0.1 now and then a gradient
    ten times the usual one throws a net back to the start"""
    omega_weight: float = 4.0
    """of the Omega regulariser"""
    num_seeds: int = 6
    """nets of each kind, trained side by side"""
    seed: int = 0
    num_devices: int | None = None
    """devices that share out the nets; None: as many as can have equal shares"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        if self.task is not None:
            check_known(self.task, TASKS, "task")
        chosen = filled(self)
        task = TASKS[chosen.task]
        if self.study == "remedies" and self.cells is not None:
            raise InputError("cells are chosen by --inits in the study of remedies, not by --cells")
        if self.study == "remedies" and chosen.task not in (
            "temporal-order",
            "temporal-order-3bit",
        ):
            raise InputError(
                f"remedies are studied on temporal-order or temporal-order-3bit, not on {self.task}"
            )
        for field in ("lengths", "cells", "inits"):
            check_distinct(getattr(chosen, field), field)
        for field in ("max_updates", "check_every", "num_test", "hidden_size", "batch_size",
                      "num_seeds"):  # fmt: skip
            check_at_least(getattr(chosen, field), 1, field)
        check_at_least(self.seed, 0, "seed")
        for field in ("learning_rate", "ungated_learning_rate", "clip_norm", "omega_weight",
                      "final_rate"):  # fmt: skip
            check_positive(getattr(chosen, field), field)
        for length in chosen.lengths:
            task.make(np.random.default_rng(0), 1, length)
        if self.shortest is not None:
            if task.varies:
                raise InputError(f"shortest: {chosen.task} has lengths of its own")
            task.make(np.random.default_rng(0), 1, self.shortest)
            if self.shortest > min(chosen.lengths):
                raise InputError(f"shortest is {self.shortest}, above {min(chosen.lengths)}")
        for name in self.inits:
            check_known(name, INITS, "inits")
        for name in chosen.cells:
            make_cell(name, chosen.hidden_size, max(chosen.lengths))

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            cells=("rnn", "gru"), task="temporal-order", lengths=(10,), hidden_size=16,
            batch_size=16, max_updates=40, check_every=20, num_test=100, num_seeds=2,
        )  # fmt: skip

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(lengths=(50, 100, 200, 400), max_updates=50_000, num_test=10_000)


def filled(config: Config) -> Any:
    """The config's values with those that are None chosen by task and study."""
    is_remedies = config.study == "remedies"
    name = config.task or ("temporal-order" if is_remedies else "adding")
    task = TASKS[name]
    chosen = {
        "task": name,
        "cells": ("rnn", "lstm", "lstm-chrono", "gru-chrono") if task.every_step else CELLS,
        "lengths": (30, 50) if is_remedies else task.lengths,
        "max_updates": 15_000 if is_remedies else 5000 if task.every_step else 2000,
        "hidden_size": 50 if is_remedies else 128 if task.every_step else 64,
        "batch_size": 20 if is_remedies else 16 if task.every_step else 32,
        "learning_rate": 0.01 if is_remedies or task.every_step else 5e-3,
        "clip_norm": 0.02 if task.every_step else 1.0,
        "final_rate": 0.1 if task.every_step else 1.0,
    }
    others = config.learning_rate or chosen["learning_rate"]
    chosen["ungated_learning_rate"] = 1e-3 if task.every_step else others
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return SimpleNamespace(
        **{field: chosen.get(field) if value is None else value for field, value in given.items()}
    )


class Kind(NamedTuple):
    """Nets of one kind, as they are trained.

    Attributes:
      name: of the cell, or of the remedy.
      init: of a vanilla net under study of remedies, else "".
      cell: it.
      clip_norm, omega_weight: None and 0 where there is none.
      learning_rate: its own.
    """

    name: str
    init: str
    cell: Any
    clip_norm: float | None
    omega_weight: float
    learning_rate: float


def run(config: Config, log: RunLog) -> None:
    """Trains every kind of net at every length."""
    config = filled(config)
    log.write(step=0, settings=vars(config))
    task = TASKS[config.task]
    found = []
    for length in config.lengths:
        log.write(step=0, length=length, baseline=task.baseline(length))
        for kind in kinds(config, length):
            found.append(train(kind, task, length, config, log))
    rows = [
        {
            "length": row["length"],
            "net": row["name"],
            **({"init": row["init"]} if row["init"] else {}),
            "nets that succeed": f"{sum(row['solved'])} of {len(row['solved'])}",
            "sequences, median": row["sequences_to_criterion_median"],
            **({"in 1997": task.published.get(row["length"])} if task.published else {}),
            "loss, median": row["test_loss_median"],
            "without memory": task.baseline(row["length"]),
            "right": row["share_correct_median"],
        }
        for row in found
    ]
    log.table(f"{config.task}: {task.criterion}, within {config.max_updates} updates", rows)
    checks = judge(config, found, task)
    if checks:
        log.table("checks", checks)
    log.finish(task=config.task, criterion=task.criterion, nets=found, checks=checks)


def kinds(config: Any, length: int) -> list[Kind]:
    """What is compared."""
    if config.study == "cells":
        return [
            Kind(
                name,
                "",
                make_cell(name, config.hidden_size, TASKS[config.task].memory(length)),
                config.clip_norm,
                0.0,
                config.ungated_learning_rate if name in UNGATED else config.learning_rate,
            )
            for name in config.cells
        ]
    return [
        Kind(
            method,
            init,
            PreactivationRNN(config.hidden_size, INITS[init][0]),
            config.clip_norm if "clip" in method else None,
            config.omega_weight if "Omega" in method else 0.0,
            config.learning_rate,
        )
        for init in config.inits
        for method in METHODS
    ]


def build(kind: Kind, task: Task) -> Any:
    """The model of a task, as pure functions."""
    shape = ManyToMany if task.every_step else ManyToOne
    return functional(shape, kind.cell, input_size=task.input_size, output_size=task.output_size)


def train(kind: Kind, task: Task, length: int, config: Any, log: RunLog) -> dict[str, Any]:
    """Trains `num_seeds` nets until all meet the criterion and keep to it; what became of them."""
    model = build(kind, task)
    is_sgd = config.study == "remedies"
    rate = kind.learning_rate
    if config.final_rate != 1.0:
        rate = learning_rate_schedule(
            "cosine", rate, num_steps=config.max_updates, final=config.final_rate
        )
    optimizer = (optax.sgd if is_sgd else optax.adam)(rate)
    has_mask = task.varies or config.shortest is not None

    def loss_fn(params, batch, key):
        del key  # nothing here is random

        def mean_loss(output):
            losses, _ = measure(output.logits, batch, task)
            return jnp.mean(losses)

        mask = batch.mask if has_mask else None
        output = model.apply(params, batch.xs, mask)
        loss = mean_loss(output)
        if not kind.omega_weight:
            return loss, {}
        fixed = jax.lax.stop_gradient(params)
        errors = carry_gradients(model.apply, mean_loss, fixed, batch.xs, mask)["rnn"]
        omega = norm_preservation(
            kind.cell, params["rnn"]["weights"], batch.xs, output.carries["rnn"], errors, mask=mask
        )
        return loss + kind.omega_weight * omega, {"omega": omega}

    @jax.jit
    def test(params, batch):
        def one(params):
            return measure(model.apply(params, batch.xs, batch.mask).logits, batch, task)

        return jax.vmap(one)(params)

    def start(key, params):
        return fresh_state(model.init if params is None else lambda _: params, optimizer, key)

    # Nets of one number read the same sequences whatever the cell or the remedy, and begin alike
    # where their first weights are drawn here.
    where = [config.seed, length, list(INITS).index(kind.init) if kind.init else len(INITS)]
    streams = [np.random.default_rng([*where, net]) for net in range(config.num_seeds)]
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    params = None
    if kind.init:
        drawn = [pascanu_params(rng, kind.init, task, config.hidden_size) for rng in streams]
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    state = jax.vmap(start)(keys, params)

    def batches():
        for _ in range(config.max_updates):
            yield stacked([sample(task, rng, config.batch_size, length, config) for rng in streams])

    fields = {"cell": kind.name, "init": kind.init, "length": length}
    # One for each look while training, and one for the figures at the end.
    looked_at, examined = (
        exam(task, np.random.default_rng([*where, config.num_seeds + k]), length, config)
        for k in range(2)
    )
    solved_at, num_looks = np.full(config.num_seeds, -1), 0
    progress = log.progress(
        train_nets(
            make_train_step(loss_fn, optimizer, clip_norm=kind.clip_norm),
            state,
            batches(),
            every=config.check_every,
            num_devices=config.num_devices,
        ),
        total=-(-config.max_updates // config.check_every),
        description=" ".join(str(value) for value in fields.values() if value),
    )
    for step, state, metrics in progress:
        loss = np.mean(metrics["loss"], axis=0)
        if "omega" in metrics:
            omega = np.mean(metrics["omega"], axis=0)
            loss = loss - kind.omega_weight * omega
            log.write(step=step, **fields, omega=omega)
        log.write(
            step=step, **fields, loss=loss, clipped=np.mean(metrics["clipped"], axis=0),
            skipped=np.sum(metrics["skipped"], axis=0),
        )  # fmt: skip
        is_there = np.array(loss) < task.near(length)
        if is_there.any():
            losses, correct = map(np.asarray, test(state.params, looked_at))
            for net in np.flatnonzero(is_there):
                is_there[net] = task.is_solved(losses[net], correct[net], length)
        solved_at = np.where((solved_at < 0) & is_there, step, solved_at)
        num_looks = num_looks + 1 if is_there.all() else 0  # all at once: a net can fall back
        if num_looks == LASTING:
            break

    losses, correct = map(np.asarray, test(state.params, examined))
    farther(test, state.params, task, length, config, log, fields)
    solved = solved_at > 0
    sequences = np.where(solved, solved_at * config.batch_size, np.inf)
    middle = float(np.median(sequences))
    result = {
        "name": kind.name,
        "init": kind.init,
        "length": length,
        "solved": solved.tolist(),
        "share_solved": float(solved.mean()),
        "sequences_to_criterion": [int(n) if np.isfinite(n) else None for n in sequences],
        "sequences_to_criterion_median": int(middle) if np.isfinite(middle) else None,
        "test_loss": losses.mean(axis=1).tolist(),
        "test_loss_median": float(np.median(losses.mean(axis=1))),
        "share_correct_median": float(np.median(correct.mean(axis=1))),
        "updates": int(step),
    }
    log.write(step=step, result="test", **fields, solved=solved, solved_at=solved_at,
              test_loss=result["test_loss"], share_correct=correct.mean(axis=1))  # fmt: skip
    return result


def measure(logits, batch, task):
    """Loss of each sequence [B], nats or squared error, and whether, or how far, it is right."""
    if task.is_value:
        errors = squared_error(logits, batch.targets)
        return errors, jnp.sqrt(errors) < 0.04
    losses = cross_entropy(logits, batch.targets)
    if not task.every_step:
        if task.is_strict:
            wanted = jax.nn.one_hot(batch.targets, task.output_size)
            errors = jnp.abs(jax.nn.softmax(logits) - wanted)
            return losses, jnp.all(errors < 0.3, axis=-1)
        return losses, jnp.argmax(logits, axis=-1) == batch.targets
    losses = jax.vmap(masked_mean)(losses, batch.mask)
    is_recalled = jnp.argmax(logits, axis=-1) == batch.targets
    is_asked = batch.mask & (batch.targets != synthetic.COPY_BLANK)
    return losses, jax.vmap(masked_mean)(is_recalled.astype(losses.dtype), is_asked)


def sample(task, rng, count, length, config):
    """A batch; with `shortest`, all of one length drawn for it, padded to `length`."""
    if config.shortest is None:
        return task.make(rng, count, length)
    drawn = int(rng.integers(config.shortest, length, endpoint=True))
    return padded(task.make(rng, count, drawn), task.make(rng, 1, length).xs.shape[1])


def exam(task, rng, length, config):
    """`num_test` sequences; with `shortest`, of ten lengths from it to `length`."""
    if config.shortest is None:
        return task.make(rng, config.num_test, length)
    lengths = np.linspace(config.shortest, length, 10).round().astype(int)
    counts = np.diff(np.linspace(0, config.num_test, 11).astype(int))
    parts = [
        padded(task.make(rng, int(count), int(each)), task.make(rng, 1, length).xs.shape[1])
        for count, each in zip(counts, lengths, strict=True)
        if count
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def padded(batch, num_steps):
    """The batch with its steps filled up to `num_steps`."""
    missing = num_steps - batch.xs.shape[1]

    def fill(leaf, axes):
        return np.pad(leaf, [(0, missing if axis == 1 else 0) for axis in range(axes)])

    targets = batch.targets
    if targets.ndim == 2 and targets.shape[1] == batch.xs.shape[1]:
        targets = fill(targets, 2)
    return synthetic.Task(fill(batch.xs, 3), targets, fill(batch.mask, 2))


def farther(test, params, task, length, config, log, fields):
    """Tests trained nets on longer sequences, all lengths in one padded batch."""
    if length != max(config.lengths) or task.is_strict:  # those of 1997 have their lengths
        return
    lengths = [factor * length for factor in FARTHER]
    if config.study == "remedies" and config.shortest is not None:
        lengths = list(REMEDY_LENGTHS)
    rng = np.random.default_rng([config.seed, 7])
    parts = [task.make(rng, NUM_FAR, each) for each in lengths]
    longest = max(part.xs.shape[1] for part in parts)
    batch = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *[padded(part, longest) for part in parts]
    )
    losses, correct = (
        np.asarray(values).reshape(config.num_seeds, len(lengths), NUM_FAR).mean(axis=-1)
        for values in test(params, batch)
    )
    log.write(step=0, result="farther", **fields, lengths=lengths, test_loss=losses,
              share_correct=correct)  # fmt: skip


def pascanu_params(rng, init, task, hidden_size):
    """Parameters of a vanilla net as Pascanu et al. begin."""
    _, outer, recurrent = INITS[init]

    def normal(*shape, std):
        return rng.normal(scale=std, size=shape)

    matrix = normal(hidden_size, hidden_size, std=recurrent)
    if init == "smart-tanh":
        keep = min(15, hidden_size)
        for unit in range(hidden_size):
            matrix[rng.permutation(hidden_size)[keep:], unit] = 0.0
        matrix *= 0.95 / np.max(np.abs(np.linalg.eigvals(matrix)))
    weights = {
        "W_x": normal(task.input_size, hidden_size, std=outer),
        "W_h": matrix,
        "b": np.zeros(hidden_size),
    }
    head = {
        "kernel": normal(hidden_size, task.output_size, std=outer),
        "bias": np.zeros(task.output_size),
    }
    return jax.tree.map(jnp.float32, {"rnn": {"weights": weights}, "head": head})


def judge(config, found, task):
    """What the run says of published claims, where its sizes are those of the claims."""
    checks = []

    def add(name, value, expected, passed):
        checks.append({"name": name, "found": value, "expected": expected, "tolerance": 0.0,
                       "passed": passed if passed is None else bool(passed)})  # fmt: skip

    if config.study == "remedies":
        share = {
            method: float(np.mean([row["share_solved"] for row in found if row["name"] == method]))
            for method in METHODS
        }
        for less, more in pairwise(METHODS):
            # Where all or none succeed, the updates are too few or the lengths too short to tell.
            is_told = len({share[less], share[more], 0.0}) > 1 and min(share[less], share[more]) < 1
            add(f"{more} solves more often than {less}", share[more], f"> {share[less]:.3f}",
                share[more] > share[less] if is_told else None)  # fmt: skip
        return checks
    at = {(row["name"], row["length"]): row for row in found}
    for (name, length), row in at.items():
        losses, base = np.array(row["test_loss"]), task.baseline(length)
        if config.task == "adding" and length >= 200 and name in ("lstm", "gru"):
            add(f"{name}, T={length}: squared error", float(losses.max()), "< 0.01",
                losses.max() < 0.01)  # fmt: skip
        if config.task == "copy-memory" and length >= 100 and name in ("lstm-chrono", "gru-chrono"):
            add(f"{name}, T={length}: nats", float(losses.max()), f"< {base / 10:.4f}",
                losses.max() < base / 10)  # fmt: skip
        is_long = config.task == "adding" and length >= 200
        is_long |= config.task == "copy-memory" and length >= 100
        if is_long and name == "rnn":
            # Told only where some other net has learned it in as many updates.
            others = [row["share_solved"] for key, row in at.items() if key[1] == length]
            add(f"rnn, T={length}: stays without memory", float(losses.min()),
                f"> {0.95 * base:.4f}",
                losses.min() > 0.95 * base if max(others) == 1.0 else None)  # fmt: skip
    return checks


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    metrics = finished.metrics
    config = metrics[0]["settings"]
    figures = directory / "figures"
    task = TASKS[config["task"]]
    is_remedies = config["study"] == "remedies"
    results = plots.pick(metrics, result="test")
    batch_size = config["batch_size"]

    def group(rows):
        """init -> net -> rows; one init, "", for the study of cells."""
        return {
            init: {
                name: [row for row in rows if row["cell"] == name and row["init"] == init]
                for name in dict.fromkeys(row["cell"] for row in rows)
            }
            for init in dict.fromkeys(row["init"] for row in rows)
        }

    shares, sequences = {}, {}
    for init, nets in group(results).items():
        shares[init] = {
            name: [(row["length"], bootstrap(row["solved"], np.mean)) for row in rows]
            for name, rows in nets.items()
        }
        sequences[init] = {
            name: [
                (row["length"], [at * batch_size for at in row["solved_at"] if at > 0])
                for row in rows
            ]
            for name, rows in nets.items()
        }
    title = f"{config['task']}, {config['max_updates']} updates of {batch_size} at most"
    plots.save(
        plots.success_against_length(shares, sequences, task.published, title=title),
        figures / "success_against_length.png",
    )

    longest = max(config["lengths"])
    curves = [row for row in plots.pick(metrics, length=longest) if "loss" in row]
    panels = {
        init or "": {
            name: ([row["step"] for row in rows],
                   bootstrap(np.array([row["loss"] for row in rows]).T))
            for name, rows in nets.items()
        }
        for init, nets in group(curves).items()
    }  # fmt: skip
    unit = "squared error" if task.is_value else "nats"
    plots.save(
        plots.learning_curves(
            panels, {"without memory": task.baseline(longest)},
            title=f"{config['task']}, T = {longest}: median over nets, band 95 % bootstrap",
            ylabel=f"training loss, {unit}",
        ),
        figures / "learning_curves.png",
    )  # fmt: skip

    far = plots.pick(metrics, result="farther")
    if far:
        trained = (config["shortest"] or longest, longest)
        panels = {
            init: {
                name: (rows[0]["lengths"], bootstrap(rows[0]["share_correct"], np.mean))
                for name, rows in nets.items()
            }
            for init, nets in group(far).items()
        }
        what = "of ten symbols recalled" if task.every_step else "of sequences right"
        plots.save(
            plots.beyond_trained_length(
                panels, trained, chance=None if task.is_value else chance_of(config["task"]),
                title=f"{config['task']}: mean over nets, band 95 % bootstrap; trained: shaded",
                ylabel=f"share {what}" + (", within 0.04" if task.is_value else ""),
            ),
            figures / "beyond_trained_length.png",
        )  # fmt: skip
    if is_remedies:
        rows = [row for row in plots.pick(metrics, length=longest) if "omega" in row]
        if rows:
            panels = {
                init: {
                    name: ([row["step"] for row in part],
                           bootstrap(np.array([row["omega"] for row in part]).T))
                    for name, part in nets.items() if part
                }
                for init, nets in group(rows).items()
            }  # fmt: skip
            plots.save(
                plots.learning_curves(
                    panels,
                    {},
                    title=f"T = {longest}: does each step keep the error's length? "
                    "mean, band 95 % bootstrap",
                    ylabel=r"$\Omega$, mean over steps",
                ),
                figures / "omega.png",
            )


def chance_of(task: str) -> float:
    """Share that is right by guessing."""
    return 1 / 8 if task == "copy-memory" else 1 / TASKS[task].output_size


if __name__ == "__main__":
    main(Config, run, plot)
