"""What does each gate of the LSTM cost, and what does it buy?

    python -m experiments.lstm_gate_by_gate
    python -m experiments.lstm_gate_by_gate --equal parameters
    python -m experiments.lstm_gate_by_gate --rungs ladder --dataset temporal-order \\
        --num-updates 500

From the tanh RNN to the LSTM a part at a time, then the eight variants of Greff et al., 2017, each
of which changes one thing in the LSTM with peepholes:

    rnn       h' = tanh(W x + U h + b)
    additive  c' = c + g, h' = tanh(c')          i = f = o = 1
    forget    c' = f * c + g                     + forget gate
    input     c' = f * c + i * g                 + input gate
    output    h' = o * tanh(c')                  + output gate: the LSTM
    vanilla   gates that see c                   + peepholes
    nig nfg nog, niaf noaf, np, cifg, fgr        vanilla without, or with, one thing

The output activation, tanh(c'), belongs to every rung from "additive" on: what is added above it is
a gate and nothing else. What it does is the question of "noaf". "np" is the cell of "output" and
trained once.

Every rung has the same task, data, updates and clipping, and the learning rate of `learning_rates`
at which its own validation loss is least; nets of one number have the same first weights in the
gates that they share and read the same sequences, so differences are taken net by net.
`--equal parameters` gives every rung the width at which its live parameters (idle ones of clamped
gates do not count) are as many as the LSTM's.

What one sees by default (adding problem, T = 60, H = 32, 1000 updates, six nets a rung, 7 minutes
on two cores; 1/6 is the squared error without memory). The step is the input gate: 0.17 without
it, 0.0015 with it, in the median over pairs of nets a factor of 115. The tanh RNN has 0.15. A cell
that can only add, with or without forgetting, begins with a gradient that neither fades nor grows
by more than a few hundredths a step, and learns nothing; at its end the additive cell's gradient
is exactly zero on half the sequences or more, for tanh(c_T) is 1 in float32. What the output gate
adds six nets cannot tell. Of the variants NIG (21 times the error of vanilla, 95 % interval 5.9 to
68) and FGR (2.4, 1.7 to 11) are worse, and CIFG (0.26, 0.20 to 0.48) is better with fewer
parameters. NFG and NOAF, which Greff et al. found worse on all three of their data sets, end level
with vanilla here; NFG gets there later, below a tenth of 1/6 in training 125 updates later in the
median (25 to 225).

With equal parameters (H from 65 down to 32), and in temporal order, the step is the input gate too.

`--full` is T = 200, H = 64, 3000 updates and three learning rates: about an hour on two
cores (measured: of 13 rungs the tanh RNN takes 2:55 minutes, the additive cell 4:00).
"""

import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells import lstm
from seqlab.cells.affine import scale_recurrent
from seqlab.cells.lstm import LSTM, LSTMCarry
from seqlab.cells.rnn import RNN
from seqlab.cli import main
from seqlab.data import synthetic
from seqlab.data.checks import check_at_least, check_distinct, check_known, check_positive
from seqlab.data.problems import Problem, load_problem
from seqlab.ensemble import stacked, train_nets
from seqlab.gradflow import theory
from seqlab.gradflow.gates import gate_activations, saturation
from seqlab.gradflow.taps import carry_gradients, log_norm_over_time, named_leaves, zero_taps
from seqlab.losses import cross_entropy, squared_error
from seqlab.metrics import bootstrap, check, fitted_slope
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog, read_run
from seqlab.train import fresh_state, make_train_step

HALF_LIVES = {0.0: "1.00", 1.0: "2.213", 2.0: "5.461", 5.0: "103.2"}  # forget bias -> steps
BAND = ("median", "p10", "p90")
LEARNED = 0.1  # share of the loss without memory below which a net counts as on its way
WRONG_BY = 0.04  # from which on a value counts as wrong; the limit of 1997


class Rung(NamedTuple):
    """One net of the comparison.

    Attributes:
      label: in figures.
      make: `hidden_size=` -> cell.
      beside: the rung that it differs from in one thing, or None.
    """

    label: str
    make: Callable[..., Any]
    beside: str | None


LADDER = {
    "rnn": Rung("tanh RNN", RNN, None),
    "additive": Rung(
        "additive cell", partial(LSTM, input_gate=1.0, forget_gate=1.0, output_gate=1.0), "rnn"
    ),
    "forget": Rung("+ forget gate", partial(LSTM, input_gate=1.0, output_gate=1.0), "additive"),
    "input": Rung("+ input gate", partial(LSTM, output_gate=1.0), "forget"),
    "output": Rung("+ output gate", LSTM, "input"),
}
VARIANTS = {
    "vanilla": Rung("+ peepholes", lstm.Vanilla, "output"),
    "nig": Rung("NIG: i = 1", lstm.NIG, "vanilla"),
    "nfg": Rung("NFG: f = 1", lstm.NFG, "vanilla"),
    "nog": Rung("NOG: o = 1", lstm.NOG, "vanilla"),
    "niaf": Rung("NIAF: g linear", lstm.NIAF, "vanilla"),
    "noaf": Rung("NOAF: h = o c", lstm.NOAF, "vanilla"),
    "np": Rung("NP: no peepholes", lstm.NP, "vanilla"),
    "cifg": Rung("CIFG: f = 1 - i", lstm.CIFG, "vanilla"),
    "fgr": Rung("FGR: gates see gates", lstm.FGR, "vanilla"),
}
RUNGS = LADDER | VARIANTS
GROUPS = {"ladder": LADDER, "variants": VARIANTS}


@dataclass(frozen=True)
class Config:
    """The LSTM gate by gate: task, gradient over time and gate activations, a rung at a time."""

    rungs: tuple[str, ...] = ("ladder", "variants")
    """ladder, variants, or names: rnn, additive, forget, input, output, vanilla, nig, nfg, nog,
    niaf, noaf, np, cifg, fgr"""
    dataset: Literal["adding", "temporal-order", "copy-memory", "embedded"] = "adding"
    """the task; embedded is a text, the next character at every step"""
    equal: Literal["hidden-size", "parameters"] = "hidden-size"
    """what all rungs have alike"""
    hidden_size: int = 32
    """H, units; with equal parameters, of the LSTM"""
    seq_len: int = 60
    """T, steps"""
    learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    """of Adam; each rung has the best of them by validation loss"""
    num_updates: int = 1000
    """training steps"""
    batch_size: int = 32
    """sequences a step"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    embed_size: int = 16
    """D, width of a character's embedding"""
    num_seeds: int = 6
    """nets a rung and learning rate, all trained side by side"""
    num_test: int = 1000
    """sequences that choose the learning rate, and as many that test"""
    num_sequences: int = 32
    """sequences under the probe, a net"""
    look_every: int = 50
    """updates between two points of a learning curve"""
    seed: int = 0
    num_devices: int | None = None
    """devices that share out the nets; None: as many as can have equal shares"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("rungs", "learning_rates"):
            check_distinct(getattr(self, field), field)
        for name in self.rungs:
            check_known(name, (*GROUPS, *RUNGS), "rungs")
        for rate in self.learning_rates:
            check_positive(rate, "learning_rates")
        check_positive(self.clip_norm, "clip_norm")
        for field in ("hidden_size", "num_updates", "batch_size", "embed_size", "num_seeds",
                      "num_test", "num_sequences", "look_every"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seq_len, 4, "seq_len")
        check_at_least(self.seed, 0, "seed")
        load_problem(self.dataset, seq_len=self.seq_len, every_step=is_every_step(self.dataset))

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            rungs=("additive", "forget"), hidden_size=8, seq_len=20, num_updates=20, batch_size=8,
            num_seeds=2, num_test=50, num_sequences=8, look_every=10,
        )  # fmt: skip

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(seq_len=200, hidden_size=64, num_updates=3000, learning_rates=(1e-3, 3e-3, 1e-2))


def is_every_step(dataset: str) -> bool:
    """Whether a task is answered at every step."""
    return dataset in ("embedded", "copy-memory")


class Study(NamedTuple):
    """What all rungs share.

    Attributes:
      config: the run's.
      problem: the task.
      validation, test: sequences that choose the learning rate, and that test.
      probed: sequences under the probe, a net's own, leaves [S, ...].
      baseline: loss without memory.
    """

    config: Config
    problem: Problem
    validation: Any
    test: Any
    probed: Any
    baseline: float


class Found(NamedTuple):
    """What became of the nets of one cell.

    Attributes:
      rows: (step, fields) for the metrics.
      summary: of the rung.
      test_loss: [S], a number a net.
      updates: [S], until the training loss was a tenth of that without memory; infinite if never.
    """

    rows: list[tuple[int, dict[str, Any]]]
    summary: dict[str, Any]
    test_loss: np.ndarray
    updates: np.ndarray


def run(config: Config, log: RunLog) -> None:
    """Trains and measures every rung."""
    problem = load_problem(
        config.dataset, seq_len=config.seq_len, every_step=is_every_step(config.dataset)
    )

    def draw(stream, count):
        return problem.sample(np.random.default_rng([config.seed, stream]), count, True)

    validation, test = draw(1, config.num_test), draw(2, config.num_test)
    probed = by_net([draw(10 + net, config.num_sequences) for net in range(config.num_seeds)])
    baseline, chance = without_memory(config, problem, test)
    study = Study(config, problem, validation, test, probed, baseline)
    log.write(step=0, dataset=problem.name, digest=problem.digest, baseline=baseline, chance=chance)

    checks = preservation_checks()
    names = list(dict.fromkeys(n for name in config.rungs for n in GROUPS.get(name, [name])))
    cells = {name: sized(name, study) for name in names}
    looks = -(-config.num_updates // config.look_every)
    bar = log.progress(total=looks * len(set(cells.values())))
    trained: dict[Any, Found] = {}
    for name, cell in cells.items():
        if cell not in trained:
            bar.set_description(name)
            trained[cell] = train(cell, study, bar)
        for step, fields in trained[cell].rows:
            log.write(step=step, rung=name, **fields)
    bar.close()
    found = {name: trained[cell] for name, cell in cells.items()}
    steps = differences(found)
    for name, step in steps.items():
        log.write(step=config.num_updates, rung=name, result="beside", **step)
    checks += ladder_checks(config, found, baseline)
    unit = "nats" if problem.answers == "class" else "squared error"
    log.table(
        f"{problem.name}, {problem.num_steps} steps, {config.num_updates} updates; test loss in "
        f"{unit}, without memory {baseline:.4g}; share right by chance {chance:.3g}; updates until "
        "a tenth of that without memory in training, and how much later than the rung beside",
        [
            {
                "rung": RUNGS[name].label,
                "H": each.summary["hidden_size"],
                "live parameters": each.summary["live_parameters"],
                "learning rate": each.summary["learning_rate"],
                "test loss": each.summary["test_loss_median"],
                "95 %": interval_text(each.summary["test_loss_interval"]),
                "right": each.summary["share_right_median"],
                "loss / rung beside": steps.get(name, {}).get("loss_ratio"),
                "95 % ": interval_text(steps.get(name, {}).get("loss_ratio_interval")),
                "updates": each.summary["updates_to_tenth_of_baseline_median"],
                "later by, 95 %": interval_text(steps.get(name, {}).get("updates_later_interval")),
            }
            for name, each in found.items()
        ],
    )
    log.table(
        "slope of log |dL/dc_t| (|dL/dh_t| of the tanh RNN), nats per step back, and on the direct "
        "path, before and after training; trained gates: % of values below 0.1 | above 0.9",
        [
            {
                "rung": RUNGS[name].label,
                **{
                    column: each.summary.get(f"{path}slope_nats_per_step_{when}")
                    for column, path, when in (
                        ("slope before", "", "at_init"),
                        ("after", "", "trained"),
                        ("direct before", "direct_path_", "at_init"),
                        ("direct after", "direct_path_", "trained"),
                    )
                },
                **{
                    gate: f"{100 * shares['share_shut']:.0f} | {100 * shares['share_open']:.0f}"
                    for gate, shares in each.summary["gates_trained"].items()
                },
            }
            for name, each in found.items()
        ],
    )
    log.table("checks", checks)
    log.finish(
        dataset=problem.name,
        baseline_loss=baseline,
        chance_share_right=chance,
        rungs={name: each.summary for name, each in found.items()},
        beside=steps,
        checks=checks,
    )


def interval_text(interval):
    """Two numbers as a range; nothing of None."""
    return "" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def by_net(batches):
    """Batches as one, with an axis of nets in front; what is real everywhere has no mask."""
    return stacked(batches)._replace(mask=None)


def without_memory(config, problem, test):
    """Loss of the best answer without memory, and the share that is right by guessing."""
    if problem.answers == "value":
        right = np.abs(test.targets - 1.0) < WRONG_BY
        return synthetic.adding_baseline(), float(right.mean())
    if problem.name == "copy-memory":
        return synthetic.copy_memory_baseline(problem.num_steps - 2 * synthetic.COPY_LENGTH), 1 / 8
    if problem.name == "temporal-order":
        chance = synthetic.temporal_order_chance()
        return float(-np.log(chance)), chance
    # A text: what the last character alone says of the next, by counts.
    seen = problem.sample(np.random.default_rng([config.seed, 3]), config.num_test, False)
    counts = np.ones((problem.vocab_size, problem.output_size))

    def last(batch):
        xs = np.asarray(batch.xs)
        return xs if problem.every_step else xs[:, -1]

    np.add.at(counts, (last(seen), np.asarray(seen.targets)), 1.0)
    log_shares = np.log(counts / counts.sum(axis=1, keepdims=True))
    right = counts.argmax(axis=1)[last(test)] == test.targets
    return float(-log_shares[last(test), test.targets].mean()), float(right.mean())


def live_parameters(cell: Any, input_size: int) -> int:
    """How many parameters a step of the cell depends on; those of clamped gates stand idle."""
    params, carry, x = jax.eval_shape(
        lambda key: (
            (params := cell.init(key, input_size)),
            cell.initial_carry(params),
            jnp.zeros(input_size),
        ),
        jax.random.key(0),
    )
    jaxpr = jax.make_jaxpr(cell.step)(params, carry, x).jaxpr
    needed = {id(out) for out in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(out) in needed for out in equation.outvars):
            needed.update(map(id, equation.invars))
    leaves = jax.tree.leaves(params)
    return sum(
        leaf.size
        for leaf, var in zip(leaves, jaxpr.invars[: len(leaves)], strict=True)
        if id(var) in needed
    )


def parameters_of(cell: Any, study: Study) -> int:
    """Live parameters of the whole net: embedding, cell and head."""
    problem, width = study.problem, input_size(study)
    embedding = 0 if problem.vocab_size is None else problem.vocab_size * width
    head = (cell.hidden_size + 1) * problem.output_size
    return embedding + live_parameters(cell, width) + head


def sized(name: str, study: Study) -> Any:
    """The cell of a rung, as wide as `equal` asks for."""
    config, make = study.config, RUNGS[name].make
    if config.equal == "hidden-size":
        return make(hidden_size=config.hidden_size)
    wanted = parameters_of(LSTM(config.hidden_size), study)

    def excess(size):
        return parameters_of(make(hidden_size=size), study) - wanted

    above = bisect.bisect_left(range(1, 4 * config.hidden_size + 4), 0, key=excess) + 1
    return make(hidden_size=min((size for size in (above - 1, above) if size), key=lambda size:
                                abs(excess(size))))  # fmt: skip


def input_size(study: Study) -> int:
    """D, width of what the recurrence reads."""
    return study.problem.input_size or study.config.embed_size


def build(cell: Any, study: Study) -> Any:
    """The model of a rung, as pure functions."""
    problem = study.problem
    return functional(
        ManyToMany if problem.every_step else ManyToOne,
        cell,
        input_size=input_size(study),
        vocab_size=problem.vocab_size,
        output_size=problem.output_size,
    )


def measure(logits, targets, problem):
    """Losses, and which answers are right: [B], or [B, T] where every step is asked."""
    if problem.answers == "value":
        errors = squared_error(logits, targets)
        return errors, jnp.sqrt(errors) < WRONG_BY
    right = jnp.argmax(logits, axis=-1) == targets
    if problem.name == "copy-memory":  # blanks are no feat
        right = right[..., -synthetic.COPY_LENGTH :]
    return cross_entropy(logits, targets), right


def train(cell: Any, study: Study, bar: Any) -> Found:
    """Trains nets of a cell at every learning rate, and measures those at the best."""
    config, problem = study.config, study.problem
    num_rates, num_seeds = len(config.learning_rates), config.num_seeds
    model = build(cell, study)
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    def mean_loss(params, batch):
        losses, right = measure(model.apply(params, batch.xs).logits, batch.targets, problem)
        return jnp.mean(losses), jnp.mean(right)

    def loss_fn(params, batch, key):
        del key  # nothing here is random
        loss, right = mean_loss(params, batch)
        return loss, {"right": right}

    def start(key, learning_rate):
        state = fresh_state(model.init, optimizer, key)
        state.opt_state.hyperparams["learning_rate"] = learning_rate
        return state

    keys = jax.random.split(jax.random.key(config.seed), num_seeds)
    over_seeds = jax.vmap(start, in_axes=(0, None))
    state = jax.vmap(over_seeds, in_axes=(None, 0))(keys, jnp.asarray(config.learning_rates))
    first = jax.tree.map(lambda leaf: leaf[0], state.params)  # the same at every learning rate
    state = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), state)
    streams = [np.random.default_rng([config.seed, 4, net]) for net in range(num_seeds)]

    def batches():
        for _ in range(config.num_updates):
            yield by_net(
                [problem.sample(rng, config.batch_size, False) for rng in streams] * num_rates
            )

    def by_rate(leaf):
        return np.asarray(leaf).reshape(num_rates, num_seeds, *leaf.shape[1:])

    looks = []
    blocks = train_nets(
        make_train_step(loss_fn, optimizer, clip_norm=config.clip_norm),
        state,
        batches(),
        every=config.look_every,
        num_devices=config.num_devices,
    )
    for step, after, metrics in blocks:
        state = after
        looks.append((step, jax.tree.map(lambda leaf: by_rate(np.mean(leaf, axis=0)), metrics)))
        bar.update()

    test = jax.jit(jax.vmap(mean_loss, in_axes=(0, None)))
    validation, test_batch = (batch._replace(mask=None) for batch in (study.validation, study.test))
    trained = jax.tree.map(by_rate, state.params)
    chosen = [jax.tree.map(lambda leaf, k=k: leaf[k], trained) for k in range(num_rates)]
    validated = np.stack([np.asarray(test(params, validation)[0]) for params in chosen])
    medians = np.median(validated, axis=1)
    best = int(np.argmin(np.where(np.isnan(medians), np.inf, medians)))
    losses, right = map(np.asarray, test(chosen[best], test_batch))

    rows = [
        (step, {"loss": metrics["loss"][best], "right": metrics["right"][best]})
        for step, metrics in looks
    ]
    slopes, gates = [], {}
    examined = jax.jit(jax.vmap(lambda params, batch: examine(model, cell, params, batch, problem)))
    for step, params in ((0, first), (config.num_updates, chosen[best])):
        probed = examined(params, study.probed)
        fields = list(probe_rows(probed))
        rows += [(step, row) for row in fields]
        gates = {
            row["gate"]: {name: row[name] for name in ("share_shut", "share_open")}
            for row in fields
            if row["probe"] == "gate"
        }
        curve = "c" if "c" in probed["norms"] else "h"
        slopes.append({
            path: fitted_slope(np.median(values, axis=(0, 1)))
            for path, values in (("total", probed["norms"][curve]),
                                 ("direct", probed["norms"].get("direct")))
            if values is not None
        })  # fmt: skip
    settings = {
        "hidden_size": cell.hidden_size,
        "live_parameters": parameters_of(cell, study),
        "learning_rate": config.learning_rates[best],
    }
    rows.append((config.num_updates, {"result": "test", **settings, "validation_loss": validated,
                                      "test_loss": losses, "right": right}))  # fmt: skip
    curve = np.stack([metrics["loss"][best] for _, metrics in looks])
    is_below = curve < LEARNED * study.baseline
    first_below = np.array([step for step, _ in looks])[np.argmax(is_below, axis=0)]
    updates = np.where(is_below.any(axis=0), first_below, np.inf)
    interval = bootstrap(losses)
    summary = {
        **settings,
        "validation_loss_median": dict(
            zip(map(str, config.learning_rates), np.median(validated, axis=1), strict=True)
        ),
        "test_loss": losses,
        "test_loss_median": float(interval.middle),
        "test_loss_interval": [float(interval.low), float(interval.high)],
        "share_right_median": float(np.median(right)),
        "updates_to_tenth_of_baseline": [finite(each) for each in updates],
        "updates_to_tenth_of_baseline_median": finite(np.median(updates)),
        "gates_trained": gates,
    }
    for when, found in zip(("at_init", "trained"), slopes, strict=True):
        for path, slope in found.items():
            name = "" if path == "total" else "direct_path_"
            summary[f"{name}slope_nats_per_step_{when}"] = slope
            summary[f"{name}half_life_steps_{when}"] = (
                theory.half_life(slope) if slope < 0 else None
            )
    return Found(rows, summary, losses, updates)


def finite(number):
    """The number, or None for an infinite one."""
    return float(number) if np.isfinite(number) else None


def examine(model, cell, params, batch, problem):
    """Log norms of dL/dcarry_t, [B, T] a leaf and on the direct path; the gates, [B, T, H].

    L is the loss of the last step, also where every step has one.
    """

    def last_loss(output):
        losses, _ = measure(output.logits, batch.targets, problem)
        return jnp.sum(losses[:, -1] if problem.every_step else losses)

    grads = named_leaves(carry_gradients(model.apply, last_loss, params, batch.xs)["rnn"])
    norms = {leaf: log_norm_over_time(grads[leaf]) for leaf in ("h", "c") if leaf in grads}
    if "c" not in norms:
        return {"norms": norms, "gates": {}}
    direct, *_ = cell.routes
    taps = zero_taps(model.apply, params, batch.xs)
    along = jax.grad(
        lambda taps: last_loss(model.apply(params, batch.xs, taps=taps, routes={direct: None}))
    )(taps)["rnn"]
    norms["direct"] = log_norm_over_time(along.c)
    xs = params["embed"]["embedding"][batch.xs] if "embed" in params else batch.xs
    return {"norms": norms, "gates": gate_activations(cell, params["rnn"]["weights"], xs)}


def probe_rows(probed):
    """Fields of the metrics from what `examine` found of all nets, [S, B, T] and [S, B, T, H]."""
    for curve, values in probed["norms"].items():
        # Without interpolation: a gradient that is zero in its precision has a norm of -inf.
        low, median, high = np.quantile(
            np.asarray(values), (0.1, 0.5, 0.9), axis=(0, 1), method="inverted_cdf"
        )
        yield {"probe": "gradient", "curve": curve, "log_norm_median": median,
               "log_norm_p10": low, "log_norm_p90": high}  # fmt: skip
    for gate, values in probed["gates"].items():
        low, high = np.quantile(np.asarray(values), (0.1, 0.9), axis=(0, 1, 3))
        shut, is_open = (float(jnp.mean(share)) for share in saturation(values))
        yield {"probe": "gate", "gate": gate, "mean": np.mean(values, axis=(0, 1, 3)),
               "p10": low, "p90": high, "share_shut": shut, "share_open": is_open}  # fmt: skip


def differences(found: Mapping[str, Found]) -> dict[str, dict[str, Any]]:
    """Each rung against the one beside it, where both were trained: net by net, with intervals."""
    steps = {}
    for name, each in found.items():
        beside = RUNGS[name].beside
        if beside is None or beside not in found:
            continue
        ratios = np.log10(each.test_loss) - np.log10(found[beside].test_loss)
        middle, low, high = (10.0 ** float(part) for part in bootstrap(ratios))
        steps[name] = {
            "beside": beside,
            "loss_ratio": middle,
            "loss_ratio_interval": [low, high],
            "live_parameters_added": each.summary["live_parameters"]
            - found[beside].summary["live_parameters"],
        }
        if np.isfinite([each.updates, found[beside].updates]).all():
            later = bootstrap(each.updates - found[beside].updates)
            steps[name]["updates_later"] = float(later.middle)
            steps[name]["updates_later_interval"] = [float(later.low), float(later.high)]
    return steps


def preservation_checks(num_steps: int = 1000, size: int = 16) -> list[dict[str, Any]]:
    """What a cell keeps, exactly: f = 1, i = 0; a constant forget gate; one that is its bias."""
    cell = LSTM(size, forget_gate=1.0, input_gate=0.0)
    keys = jax.random.split(jax.random.key(0), 4)
    params = cell.init(keys[0], 3)
    xs = jax.random.normal(keys[1], (num_steps, 3))
    h, c = jax.random.normal(keys[2], (2, size))

    @jax.jit
    def keep(c):
        last, pull = jax.vjp(
            lambda c: unroll(cell, params, xs, carry=LSTMCarry(h=h, c=c)).carry.c, c
        )
        return last, jax.vmap(lambda row: pull(row)[0])(jnp.eye(size))

    last, jacobian = keep(c)
    checks = [
        check(f"f = 1, i = 0: units of c that differ after {num_steps} steps, float32",
              int(jnp.sum(last != c)), 0, 0),
        check(f"f = 1, i = 0: largest |dc_T/dc_0 - I| after {num_steps} steps, float32",
              float(jnp.max(jnp.abs(jacobian - jnp.eye(size)))), 0.0, 0.0),
    ]  # fmt: skip
    with jax.enable_x64(True):
        cell = LSTM(4, forget_gate=0.9)
        params = scale_recurrent(cell.init(jax.random.key(0), 3), 0.0)
        (slope,) = cell_slopes(cell, jax.tree.map(lambda leaf: leaf[None], params))
        checks.append(check("f = 0.9, U = 0: slope of log |dL/dc_t|, nats per step",
                            slope, float(np.log(0.9)), 1e-12))  # fmt: skip
        fresh = [LSTM(4, forget_bias=bias).init(jax.random.key(0), 3) for bias in HALF_LIVES]
        nets = [
            {
                gate: {name: leaf if name == "b" else 0.0 * leaf for name, leaf in part.items()}
                for gate, part in params.items()
            }
            for params in fresh
        ]
        slopes = cell_slopes(LSTM(4), jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets))
        for (bias, text), slope in zip(HALF_LIVES.items(), slopes, strict=True):
            name = f"forget bias {bias:g}, weights 0: half-life of dL/dc_t, steps"
            digits = len(text.partition(".")[2])
            half_life = theory.half_life(slope)
            checks.append(check(name, half_life, float(text), 0.5 * 10.0**-digits))
    return checks


def cell_slopes(cell, params, num_steps=100):
    """Slope of log |dL/dc_t| over lag for each of the nets, end to end; L is the sum of c_T."""
    xs = jax.random.normal(jax.random.key(1), (num_steps, 3))

    def slope(params):
        taps = jax.tree.map(
            lambda leaf: jnp.zeros((num_steps, *leaf.shape), leaf.dtype), cell.initial_carry(params)
        )
        grads = jax.grad(lambda taps: jnp.sum(unroll(cell, params, xs, taps=taps).carry.c))(taps)
        log_norm = log_norm_over_time(grads.c)
        return (log_norm[0] - log_norm[-1]) / (num_steps - 1)

    return np.asarray(jax.jit(jax.vmap(slope))(params)).tolist()


def ladder_checks(
    config: Config, found: Mapping[str, Found], baseline: float
) -> list[dict[str, Any]]:
    """What the trained rungs are held to, where it can be expected."""
    checks = []
    for name in ("additive", "nfg"):
        if name not in found:
            continue
        for when in ("at_init", "trained"):
            slope = found[name].summary[f"direct_path_slope_nats_per_step_{when}"]
            row = check(f"{name}: f = 1, slope of the direct path {when}, nats", slope, 0.0, 1e-6)
            if not np.isfinite(slope):  # there is none left to have a slope
                row |= {"passed": None, "reason": "the gradient is 0: tanh(c_T) is 1 in float32"}
            checks.append(row)
    if config.dataset != "adding":
        return checks

    def add(name, what, edge, expected, passed, shortest):
        is_large = config.seq_len >= shortest and config.num_updates >= 1000
        reason = {} if is_large else {"reason": f"said of T >= {shortest}, 1000 updates"}
        checks.append({"name": f"{name}: test squared error, {what}", "found": edge,
                       "expected": expected, "tolerance": 0.0,
                       "passed": passed if is_large else None, **reason})  # fmt: skip

    if "rnn" in found:
        low, _ = found["rnn"].summary["test_loss_interval"]
        limit = 0.95 * baseline
        add("rnn", "low end of its interval", low, f"above {limit:.4g}", bool(low > limit), 200)
    if "output" in found:
        _, high = found["output"].summary["test_loss_interval"]
        add("output", "high end of its interval", high, "below 0.01", bool(high < 0.01), 60)
    return checks


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    metrics, config, summary = finished.metrics, finished.config, finished.summary
    figures = directory / "figures"
    names = list(summary["rungs"])
    groups = {
        title: [name for name in names if name in members]
        for title, members in (("ladder", LADDER), ("variants", VARIANTS))
    }
    groups = {title: members for title, members in groups.items() if members}
    label = {name: RUNGS[name].label for name in names}
    unit = "squared error" if config["dataset"] == "adding" else "nats"
    task = f"{config['dataset']}, T = {config['seq_len']}"
    results = {row["rung"]: row for row in plots.pick(metrics, result="test")}
    means = "median over nets with its 95 % bootstrap interval"

    plots.save(
        plots.rung_results(
            {label[name]: row["test_loss"] for name, row in results.items()},
            {label[name]: bootstrap(row["test_loss"]) for name, row in results.items()},
            baseline=summary["baseline_loss"],
            title=f"{task}: each net a dot, {means}",
            xlabel=f"test loss ({unit})",
        ),
        figures / "task_results.png",
    )
    curves = {
        title: {
            label[name]: {
                what: bootstrap(np.array([row[what] for row in rows]).T)
                for what in ("loss", "right")
            }
            | {"step": [row["step"] for row in rows]}
            for name in members
            for rows in [[row for row in plots.pick(metrics, rung=name) if "loss" in row]]
        }
        for title, members in groups.items()
    }
    plots.save(
        plots.rung_curves(
            curves,
            {"loss": summary["baseline_loss"], "right": summary["chance_share_right"]},
            {"loss": f"training loss ({unit})", "right": "share of answers right"},
            title=f"{task}: {means}",
        ),
        figures / "learning_curves.png",
    )
    last = config["num_updates"]
    for title, members in groups.items():
        gradients = {
            label[name]: [
                {
                    row["curve"]: [np.array(row[f"log_norm_{part}"]) for part in BAND]
                    for row in plots.pick(metrics, rung=name, probe="gradient", step=step)
                }
                for step in (0, last)
            ]
            for name in members
        }
        plots.save(
            plots.rung_gradients(
                gradients, ("at initialisation", f"after {last} updates"),
                title=f"{task}: gradient of the last step's loss, median and 10-90 % over "
                "sequences and nets",
            ),
            figures / f"gradients_{title}.png",
        )  # fmt: skip
        gates = {
            label[name]: [
                {
                    row["gate"]: row
                    for row in plots.pick(metrics, rung=name, probe="gate", step=step)
                }
                for step in (0, last)
            ]
            for name in members
            if name != "rnn"
        }
        if gates:
            plots.save(
                plots.rung_gates(
                    gates, ("at initialisation", f"after {last} updates"),
                    title=f"{task}: gates, mean and 10-90 % over units, sequences and nets",
                ),
                figures / f"gates_{title}.png",
            )  # fmt: skip
    beside = summary["beside"]
    if beside:
        plots.save(
            plots.rung_differences(
                {
                    f"{label[name]}  (from {RUNGS[step['beside']].label})": {
                        "loss_ratio": (step["loss_ratio"], *step["loss_ratio_interval"]),
                        "updates_later": (
                            (step["updates_later"], *step["updates_later_interval"])
                            if "updates_later" in step
                            else None
                        ),
                        "parameters": [summary["rungs"][each]["live_parameters"]
                                       for each in (step["beside"], name)],
                        "slopes": {
                            path: [
                                summary["rungs"][name][f"{prefix}slope_nats_per_step_{when}"]
                                for when in ("at_init", "trained")
                            ]
                            for path, prefix in (("total", ""), ("direct", "direct_path_"))
                        },
                    }
                    for name, step in beside.items()
                },
                title=f"{task}: what each part buys and costs",
            ),
            figures / "gains_and_costs.png",
        )  # fmt: skip


if __name__ == "__main__":
    main(Config, run, plot)
