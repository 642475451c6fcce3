"""What does truncated back-propagation through time get wrong, and does it matter?

    python -m experiments.truncation_bias
    python -m experiments.truncation_bias --cells lstm --datasets temporal-order --seq-len 96

The gradient that reaches back k steps against the full one, per k, at initialisation and trained:
the angle between them, the ratio of their norms, and how far the loss falls along each. On text
every step has a loss and the sequence is cut into chunks of k steps, as is usual, or each loss is
given a reach of k steps of its own, TBPTT(1, k). On the adding and the temporal-order task the loss
is at the end and k steps before it are kept. Then nets are trained with each k, equally long. A
linear net, where the bias has a closed form, is measured by the same code.

`--full` is T = 128, H = 64, three to four times the updates, and temporal order too: some two hours
on two cores (measured: of the nine trainings, three of 2000 and six of 4000 updates, that of the
tanh net on text takes 6:22 minutes, of the LSTM some 7).
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.lookup import make_cell
from seqlab.cells.rnn import RNN
from seqlab.cli import main
from seqlab.data import synthetic
from seqlab.data.checks import check_at_least, check_distinct, check_known, check_positive
from seqlab.data.problems import TEXTS, Problem, load_problem
from seqlab.ensemble import stacked, train_nets
from seqlab.errors import InputError
from seqlab.gradflow import theory
from seqlab.gradflow.truncation import chunk_borders, truncated_gradient
from seqlab.losses import cross_entropy, squared_error
from seqlab.metrics import bootstrap, check, with_intervals
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.recurrence import unroll, using
from seqlab.runlog import RunLog, read_run
from seqlab.train import fresh_state, global_norm, make_train_step

DATASETS = (*TEXTS, "adding", "temporal-order")
BASELINES = {  # losses of the best answer that has read nothing
    "adding": synthetic.adding_baseline(),
    "temporal-order": float(-np.log(synthetic.temporal_order_chance())),
}
LENGTHS = tuple(np.geomspace(1e-5, 3.0, 23).tolist())  # of a step, in the search for the best one
NUM_TEST = 512  # held-out sequences of the loss after training
DECAYS = (0.5, 0.9, 0.98)  # of the linear net
BLOCK = 50  # updates between two lines of the log


@dataclass(frozen=True)
class Config:
    """Truncated against full gradients, and training with each."""

    cells: tuple[str, ...] = ("rnn", "lstm", "gru")
    """names of cells, or package.module:Class"""
    datasets: tuple[str, ...] = ("embedded", "adding")
    """texts (embedded, tinyshakespeare, ptb) and tasks (adding, temporal-order)"""
    seq_len: int = 64
    """T, steps"""
    reaches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """k, steps that the gradient reaches back; T is always among them"""
    train_reaches: tuple[int, ...] = (1, 4, 16)
    """k of the nets that are trained, T beside them"""
    hidden_size: int = 32
    """H, units"""
    embed_size: int = 16
    """D, width of a character's embedding"""
    num_seeds: int = 6
    """nets a cell and k, trained side by side"""
    text_updates: int = 500
    """training steps on a text"""
    task_updates: int = 1500
    """training steps on a task"""
    batch_size: int = 16
    """sequences a step"""
    learning_rate: float = 1e-2
    """of Adam"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    num_sequences: int = 128
    """sequences of which a gradient is measured, a net"""
    num_sliding: int = 16
    """the first of them, under TBPTT(1, k), which costs T backward passes"""
    num_devices: int | None = None
    """devices that share out the nets; None for as many as there are cores with equal shares"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("cells", "datasets"):
            check_distinct(getattr(self, field), field)
        for name in self.datasets:
            check_known(name, DATASETS, "datasets")
        for name in self.cells:
            make_cell(name, self.hidden_size)
        smallest = {"seq_len": 2, "seed": 0}
        for field in ("seq_len", "hidden_size", "embed_size", "num_seeds", "text_updates",
                      "task_updates", "batch_size", "num_sliding", "seed"):  # fmt: skip
            check_at_least(getattr(self, field), smallest.get(field, 1), field)
        check_at_least(self.num_sequences, self.num_sliding, "num_sequences", "num_sliding of them")
        if self.num_sequences % self.batch_size or self.num_sequences == self.batch_size:
            raise InputError(
                f"num_sequences must be two or more times batch_size ({self.batch_size}), "
                f"got {self.num_sequences}"
            )
        for field in ("learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)
        for field in ("reaches", "train_reaches"):
            for reach in getattr(self, field):
                if not 1 <= reach <= self.seq_len:
                    raise InputError(f"{field} must be 1 to seq_len ({self.seq_len}), got {reach}")

    @classmethod
    def quick(cls):
        """Seconds, nearly all of them spent compiling."""
        return cls(
            cells=("rnn",), seq_len=16, reaches=(1, 4), train_reaches=(1,), hidden_size=8,
            embed_size=4, num_seeds=2, text_updates=20, task_updates=20, batch_size=8,
            num_sequences=16, num_sliding=4,
        )  # fmt: skip

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(
            datasets=("embedded", "adding", "temporal-order"), seq_len=128,
            reaches=(1, 2, 4, 8, 16, 32, 64), train_reaches=(1, 4, 16, 64), hidden_size=64,
            text_updates=2000, task_updates=4000,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """The linear net, then every cell on every data set."""
    checks = [linear_net(config, log)]
    found = {}
    for dataset in config.datasets:
        problem = load_problem(dataset, seq_len=config.seq_len, every_step=dataset in TEXTS)
        log.write(step=0, dataset=dataset, digest=problem.digest)
        found[dataset] = {}
        for name in config.cells:
            found[dataset][name], largest = study(name, config, problem, log)
            checks.append(check(f"{dataset}, {name}: k = T against the plain gradient, relative",
                                largest, 0.0, 1e-5))  # fmt: skip
        log.table(f"{dataset}, {config.seq_len} steps: median over nets", rows(found[dataset]))
    log.table("checks", checks)
    log.finish(datasets=found, checks=checks)


def study(name: str, config: Config, problem: Problem, log: RunLog) -> tuple[dict, float]:
    """One cell on one data set: its part of the summary, and the largest error at k = T."""
    cell = make_cell(name, config.hidden_size)
    model = functional(
        ManyToMany if problem.every_step else ManyToOne, cell,
        input_size=problem.input_size or config.embed_size, vocab_size=problem.vocab_size,
        output_size=problem.output_size, head="softmax" if problem.answers == "class" else "linear",
    )  # fmt: skip
    reaches = sorted({*config.reaches, config.seq_len})
    kept = sorted({*config.train_reaches, config.seq_len})
    optimizer = optax.adam(config.learning_rate)
    seeds, where = config.num_seeds, {"dataset": problem.name, "cell": name}

    def losses(output, batch):
        error = cross_entropy if problem.answers == "class" else squared_error
        return error(output.logits, batch["targets"])

    def mean_loss(params, batch, key=None):
        del key  # nothing here is random
        cut = borders(problem, batch["reach"], batch["xs"])
        return jnp.mean(losses(model.apply(params, batch["xs"], cut=cut), batch)), {}

    def draw(rng, count, is_test):
        batch = problem.sample(rng, count, is_test)  # nothing is masked in these problems
        return {"xs": batch.xs, "targets": batch.targets}

    def start(key):
        return fresh_state(model.init, optimizer, key)

    # Nets of one seed begin alike and read the same sequences, whatever their k.
    keys = jax.random.split(jax.random.key(config.seed), seeds)
    state = jax.vmap(start)(keys[np.tile(np.arange(seeds), len(kept))])
    per_net = np.repeat(kept, seeds).astype(np.int32)
    streams = [np.random.default_rng([config.seed, 1, net]) for net in range(seeds)]
    num_updates = config.text_updates if problem.every_step else config.task_updates

    def batches():
        for _ in range(num_updates):
            one = stacked([draw(rng, config.batch_size, False) for rng in streams])
            tiled = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(kept)), one)
            yield {**tiled, "reach": per_net}

    def held_out(stream, count):
        return stacked(
            [draw(np.random.default_rng([config.seed, stream, i]), count, True)
             for i in range(seeds)]
        )  # fmt: skip

    probed, tested = held_out(2, config.num_sequences), held_out(3, NUM_TEST)

    def plain_loss(params, batch):
        return jnp.mean(losses(model.apply(params, batch["xs"]), batch))

    def measure(params, batch):
        # A mini-batch errs too, without bias: its angle is what truncation is to be seen beside.
        # Each is held against the mean of the others, or it would be part of what it is held to.
        parts = jax.tree.map(
            lambda leaf: leaf.reshape(-1, config.batch_size, *leaf.shape[1:]), batch
        )
        here, noisy = jax.lax.map(lambda part: jax.value_and_grad(plain_loss)(params, part), parts)
        here, full = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), (here, noisy))

        def gradient(reach):
            # Part by part as well: another order of the sum would differ by its rounding.
            cut = jax.lax.map(
                lambda part: jax.grad(lambda p: mean_loss(p, {**part, "reach": reach})[0])(params),
                parts,
            )
            return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), cut)

        def along(reach):
            grads = gradient(reach)
            inner = grads["rnn"]["weights"]
            length = global_norm(inner)
            direction = jax.tree.map(lambda g: g / jnp.where(length > 0, length, 1.0), inner)

            def fall(size):
                weights = params["rnn"]["weights"]
                moved = jax.tree.map(lambda w, d: w - size * d, weights, direction)
                return here - plain_loss({**params, "rnn": {"weights": moved}}, batch)

            falls = jax.lax.map(fall, jnp.array(LENGTHS))
            return {
                **compare(inner, full["rnn"]["weights"]),
                "cosine_all": compare(grads, full)["cosine"],
                "fall": jnp.maximum(jnp.max(falls), 0.0),
            }

        found = jax.lax.map(along, jnp.array(reaches))
        num_parts = config.num_sequences // config.batch_size

        def against_others(part):
            others = jax.tree.map(lambda f, p: (num_parts * f - p) / (num_parts - 1), full, part)
            return compare(part["rnn"]["weights"], others["rnn"]["weights"])

        noise = jax.vmap(against_others)(noisy)
        return found, jnp.mean(noise["cosine"])

    def slide(params, batch):
        batch = jax.tree.map(lambda leaf: leaf[: config.num_sliding], batch)

        def at(reach):
            sliding = truncated_gradient(
                model.apply, lambda out: losses(out, batch) / batch["targets"].size, params,
                batch["xs"], every=1, back=reach,
            )  # fmt: skip
            chunks = jax.grad(lambda p: mean_loss(p, {**batch, "reach": reach})[0])(params)
            return {"chunks": chunks["rnn"]["weights"], "sliding": sliding["rnn"]["weights"]}

        found = jax.lax.map(at, jnp.array(reaches))
        full = jax.tree.map(lambda leaf: leaf[-1], found["chunks"])  # k = T
        return {
            scheme: jax.vmap(lambda one: compare(one, full))(grads)
            for scheme, grads in found.items()
        }

    # The plain loop: it compiles faster, and these programs run twice.
    measure, slide = (plain_loop(jax.jit(jax.vmap(each))) for each in (measure, slide))
    summary, largest = {}, 0.0

    def probe(moment, step, params):
        nonlocal largest
        # From the host: where the nets lie after training would be another program.
        params = jax.tree.map(np.asarray, params)
        found, noise = jax.tree.map(np.asarray, measure(params, probed))
        best = found["fall"][:, -1:]  # 0 where the full gradient leads nowhere, within rounding
        share = np.where(best > 0, found["fall"] / np.where(best > 0, best, 1.0), np.nan)
        log.write(
            step=step, study="bias", moment=moment, **where, reaches=reaches,
            angle_deg=degrees(found["cosine"]), norm_ratio=found["norm_ratio"], fall_share=share,
            angle_all_deg=degrees(found["cosine_all"]), minibatch_angle_deg=degrees(noise),
        )  # fmt: skip
        largest = max(largest, float(np.max(found["error"][:, -1])))
        medians = {
            "angle_deg": np.median(degrees(found["cosine"]), axis=0),
            "norm_ratio": np.median(found["norm_ratio"], axis=0),
            "fall_share": np.nanmedian(share, axis=0),
        }
        summary[moment] = {
            key: {str(k): float(v) for k, v in zip(reaches, values, strict=True)}
            for key, values in medians.items()
        } | {"minibatch_angle_deg": float(np.median(degrees(noise)))}
        if problem.every_step:
            for scheme, values in slide(params, probed).items():
                log.write(
                    step=step, study="scheme", scheme=scheme, moment=moment, **where,
                    reaches=reaches, angle_deg=degrees(values["cosine"]),
                    norm_ratio=values["norm_ratio"],
                )  # fmt: skip

    probe("at initialisation", 0, jax.tree.map(lambda leaf: leaf[:seeds], state.params))
    train_step = make_train_step(mean_loss, optimizer, clip_norm=config.clip_norm)
    bar = log.progress(total=num_updates, description=f"{problem.name}, {name}")
    every = min(BLOCK, max(1, num_updates // 2))
    nets = train_nets(train_step, state, batches(), every=every, num_devices=config.num_devices)
    for step, now, metrics in nets:
        state = now
        bar.update(len(metrics["loss"]))
        mean = np.asarray(metrics["loss"]).mean(axis=0).reshape(len(kept), seeds)
        log.write(step=step, study="training", **where, reaches=kept, loss=mean.T)
    by_net = jax.jit(jax.vmap(jax.vmap(plain_loss), in_axes=(0, None)))
    params = jax.tree.map(
        lambda leaf: leaf.reshape(len(kept), seeds, *leaf.shape[1:]), state.params
    )
    after = np.asarray(by_net(params, tested))
    baseline = {"baseline": BASELINES[problem.name]} if problem.name in BASELINES else {}
    log.write(step=num_updates, study="trained", **where, reaches=kept, loss=after.T, **baseline)
    summary["loss"] = {
        str(k): dict(zip(("median", "low", "high"), map(float, bootstrap(each)), strict=True))
        for k, each in zip(kept, after, strict=True)
    }
    probe("trained", num_updates, jax.tree.map(lambda leaf: leaf[-1], params))
    return summary, largest


def plain_loop(function):
    """The function, with `jax.lax.scan` in every `unroll`."""

    def call(*arguments):
        with using("scan"):
            return function(*arguments)

    return call


def borders(problem, reach, xs):
    """Where the gradient is cut: chunks of k steps, or k steps before a loss at the end."""
    shape = xs.shape[:2]
    if problem.every_step:
        return chunk_borders(reach, shape)
    place = jnp.arange(shape[-1])
    return jnp.broadcast_to((place == shape[-1] - reach) & (place > 0), shape)


def compare(found, full):
    """Cosine, ratio of norms and relative distance of two gradients."""
    norms = global_norm(found), global_norm(full)
    safe = [jnp.where(norm > 0, norm, 1.0) for norm in norms]
    dot = sum(
        jnp.sum((a / safe[0]) * (b / safe[1]))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(full), strict=True)
    )
    return {
        "cosine": dot,
        "norm_ratio": norms[0] / safe[1],
        "error": global_norm(jax.tree.map(jnp.subtract, found, full)) / safe[1],
    }


def degrees(cosine):
    """The angle of a cosine."""
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def linear_net(config: Config, log: RunLog) -> dict:
    """The bias of one linear unit, measured and by its closed form: the check of the two."""
    num_steps = config.seq_len
    reaches = sorted({*config.reaches, num_steps})
    cell, symbols = RNN(1, "identity"), jnp.eye(num_steps)
    t, s = np.indices((num_steps, num_steps))  # of a loss, and of a step that it may reach

    @jax.jit
    def gradients(decay, cut):
        """d h_t / d W_x for all t, [T losses, T symbols]; a loss a row, with borders of its own."""
        rows = jnp.broadcast_to(symbols, (num_steps, num_steps, num_steps))
        params = {"W_h": decay[None, None], "b": jnp.zeros(1)}

        def states(weights):
            found = unroll(cell, params | {"W_x": weights}, rows, cut=cut, form="scan")
            return jnp.diagonal(found.ys[..., 0])

        return jax.jacrev(states)(jnp.ones((num_steps, 1)))[..., 0]

    def measure(decay, scheme, reach):
        """(the kept gradient, the full one, which steps are reached)."""
        if scheme == "chunks of k":
            cut, reached = (s % reach == 0) & (s > 0), s // reach == t // reach
        else:
            cut, reached = (s == t + 1 - reach) & (s > 0), s > t - reach
        found = [gradients(jnp.float32(decay), each) for each in (cut, np.zeros_like(cut))]
        if scheme == "loss at the end":
            return *(each[-1:] for each in found), reached
        return *found, reached

    largest = 0.0
    for decay in DECAYS:
        for scheme in ("loss at the end", "chunks of k", "k steps from each loss"):
            found, expected = [], []
            for reach in reaches:
                kept, full, reached = measure(decay, scheme, reach)
                measured = jax.tree.map(float, compare(kept, full))
                found.append([measured["norm_ratio"], measured["cosine"]])
                expected.append(
                    float(theory.truncated_share(decay, reach, num_steps))
                    if scheme == "loss at the end"
                    else theory.truncated_share_every_step(decay, reached)
                )
            ratio, cosine = np.transpose(found)
            log.write(step=0, study="linear", decay=decay, scheme=scheme, reaches=reaches,
                      norm_ratio=ratio, cosine=cosine, expected=expected)  # fmt: skip
            gap = np.maximum(np.abs(ratio - expected), np.abs(cosine - expected))
            largest = max(largest, float(gap.max()))
    return check("linear net: norm ratio and cosine against the closed form", largest, 0.0, 1e-5)


def rows(by_cell):
    """The table of a data set."""
    return [
        {
            "cell": cell,
            "when": moment,
            "k": k,
            "angle, deg": figures[moment]["angle_deg"][k],
            "norm ratio": figures[moment]["norm_ratio"][k],
            "share of the best fall": figures[moment]["fall_share"][k],
            "loss trained with k": figures["loss"].get(k, {}).get("median"),
        }
        for cell, figures in by_cell.items()
        for moment in ("at initialisation", "trained")
        for k in figures[moment]["angle_deg"]
    ]


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"

    def pick(study, *names):
        return with_intervals(
            plots.pick(finished.metrics, study=study), *names, statistic=np.nanmedian
        )

    bias = pick("bias", "angle_deg", "norm_ratio", "fall_share", "minibatch_angle_deg")
    plots.save(plots.truncation_bias(bias), figures / "bias.png")
    schemes = plots.truncation_schemes(pick("linear"), pick("scheme", "angle_deg"))
    plots.save(schemes, figures / "schemes.png")
    training = plots.truncated_training(pick("training", "loss"), pick("trained", "loss"))
    plots.save(training, figures / "training.png")


if __name__ == "__main__":
    main(Config, run, plot)
