"""What does clipping do to a gradient, and to training where gradients explode?

    python -m experiments.clipping
    python -m experiments.clipping --train-gain 3 --learning-rate 1

Three parts. The direction: the angle between a raw gradient and the same clipped by value, by norm,
or unit by unit (adaptive gradient clipping), over thresholds, beside the closed form for a Gaussian
gradient. Training: a tanh net of gain 2.5 on text by plain SGD, without clipping, with each kind,
with a quantile of the norms seen so far (AutoClip), and with fixed norms of 0.5 to 10 times the
average norm that a first run has met. The wall: one sigmoid unit whose error surface has a cliff,
with the curves on which it stands, and the paths of gradient descent that start before it.

With the defaults (1.5 minutes on two cores): the unclipped nets meet norms of 2e6, are thrown away
by one step and end at 2.75 nats; clipped at 1 they end at 2.45, at 10 times the average norm at
2.29 with 1.5 % of updates clipped, and at half of it they do not leave the steep ground (4.96).
How a net fares that meets such norms is chaotic: machines that round differently give other nets,
and in the middle of that range other losses. A quantile of the norms seen so far ends like no
clipping: its first step has no norm to compare with. Value clipping at 0.02 ends at 2.32, 15
degrees off on average. On the wall one step of length 238 ends the unclipped descent; of 441
starts 51 % arrive without clipping, 83 % with the norm clipped. `--full` is H = 128, 3000 updates
and a finer wall: a third of an hour on two cores (measured: 2150 of twice 3000 updates take 5:52
minutes).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.affine import Init
from seqlab.cells.rnn import RNN
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.data.problems import TEXTS, load_problem
from seqlab.ensemble import stacked, train_nets
from seqlab.errors import InputError
from seqlab.gradflow import theory
from seqlab.losses import cross_entropy
from seqlab.metrics import bootstrap, check, with_intervals
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.recurrence import unroll
from seqlab.runlog import RunLog, read_run
from seqlab.train import fresh_state, global_norm, make_train_step, shortened

KINDS = ("none", "value", "norm", "unit-wise", "quantile")
EVERY = 10  # updates between two lines of the log
WALL_STEPS, WALL_START, WALL_TARGET = 50, 0.5, 0.7  # Pascanu et al., 2013, section 2.3 and figure 6
WALL_W, WALL_B = (3.0, 7.0), (-3.4, -1.0)
DOYA_W = 5.0  # of the bifurcation diagram, their figure 3
DOYA_B = (-2.655610, -2.344390)  # where it has its saddle-node points
FALLEN = 0.01  # error below which a descent counts as arrived


@dataclass(frozen=True)
class Config:
    """Clipping: direction, training, and the error wall."""

    dataset: str = "embedded"
    """a text: embedded, tinyshakespeare or ptb"""
    hidden_size: int = 64
    """H, units"""
    seq_len: int = 100
    """T, steps"""
    train_gain: float = 2.5
    """gain of the Gaussian W_h; gradients explode above about 1.9"""
    num_seeds: int = 6
    """nets a kind of clipping, trained side by side"""
    num_updates: int = 300
    """training steps"""
    batch_size: int = 16
    """sequences a step"""
    learning_rate: float = 0.5
    """of plain SGD"""
    clip_norm: float = 1.0
    """largest global norm let through, in the first run"""
    clip_value: float = 0.02
    """largest entry let through"""
    clip_ratio: float = 0.02
    """largest norm let through over that of the weights, by unit"""
    clip_quantile: float = 0.1
    """share of the norms seen so far below the one let through"""
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0)
    """fixed norms of the second run, over the average norm met in the first"""
    wall_points: int = 201
    """points along each side of the error surface"""
    wall_updates: int = 150
    """steps of gradient descent on it"""
    wall_learning_rate: float = 0.5
    """of these"""
    wall_norm: float = 0.2
    """largest norm, and largest entry, let through there"""
    wall_start: tuple[float, float] = (5.5, -2.0)
    """w and b where the drawn descents start; others start all over the surface"""
    num_devices: int | None = None
    """devices that share out the nets; None for as many as there are cores with equal shares"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_known(self.dataset, TEXTS, "dataset")
        for field in ("hidden_size", "seq_len", "num_seeds", "num_updates", "batch_size",
                      "wall_updates"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.wall_points, 2, "wall_points")
        check_at_least(self.seed, 0, "seed")
        for field in ("train_gain", "learning_rate", "clip_norm", "clip_value", "clip_ratio",
                      "wall_learning_rate", "wall_norm"):  # fmt: skip
            check_positive(getattr(self, field), field)
        if not 0.0 <= self.clip_quantile <= 1.0:
            raise InputError(f"clip_quantile must be from 0 to 1, got {self.clip_quantile}")
        if len(self.multiples) != len(KINDS):
            raise InputError(f"multiples must be {len(KINDS)} numbers, got {self.multiples}")
        for multiple in self.multiples:
            check_positive(multiple, "multiples")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            hidden_size=16, seq_len=32, num_seeds=2, num_updates=20, batch_size=4, wall_points=41
        )

    @classmethod
    def full(cls):
        """The scale of a paper: see above for what it takes."""
        return cls(hidden_size=128, num_updates=3000, wall_points=401)


class ClipState(NamedTuple):
    """What a clipped net carries from update to update."""

    kind: jax.Array  # place in KINDS
    threshold: jax.Array
    norms: jax.Array  # before clipping, [updates]; NaN where not yet
    count: jax.Array  # updates so far
    clipped: jax.Array  # of them, those that were changed
    angle: jax.Array  # sum of the angles between raw and clipped, radians


def run(config: Config, log: RunLog) -> None:
    """The three parts; the second run of training takes its norms from the first."""
    train = Training(config, log)
    checks = directions(config, train, log)
    thresholds = (1.0, config.clip_value, config.clip_norm, config.clip_ratio, config.clip_quantile)
    labels = ["none", f"value {config.clip_value:g}", f"norm {config.clip_norm:g}",
              f"unit-wise {config.clip_ratio:g}", f"quantile {config.clip_quantile:g}"]  # fmt: skip
    training, norms = train(labels, range(len(KINDS)), thresholds)
    average = float(np.nanmean(norms[KINDS.index("norm"), :, config.num_updates // 2 :]))
    second, _ = train(
        [f"norm, {multiple:g} x average" for multiple in config.multiples],
        [KINDS.index("norm")] * len(KINDS),
        [multiple * average for multiple in config.multiples],
    )
    training |= second
    largest = max(abs(training[name]["angle_deg"]) for name in training if name.startswith("norm"))
    checks.append(check("norm clipping: mean angle to the raw gradient, deg", largest, 0.0, 0.05))
    wall, wall_checks = error_wall(config, log)
    checks += wall_checks
    log.table(f"training at gain {config.train_gain}, median over {config.num_seeds} nets",
              [{"clipping": name, **figures} for name, figures in training.items()])  # fmt: skip
    log.table(f"descents from {wall['starts']} starts", [
        {"clipping": name, **figures} for name, figures in wall["descents"].items()])  # fmt: skip
    log.table("checks", checks)
    log.finish(training=training, average_norm=average, wall=wall, checks=checks)


def clip(kind, grads, params, threshold, norms):
    """The gradient clipped by the rule at `kind` of `KINDS`, which may be traced."""
    norm = global_norm(grads)

    def to_norm(largest):
        return shortened(grads, norm, largest, norm > largest)

    found = (
        grads,
        optax.clip(threshold).update(grads, optax.EmptyState())[0],
        to_norm(threshold),
        optax.adaptive_grad_clip(threshold).update(grads, optax.EmptyState(), params)[0],
        to_norm(jnp.nanquantile(norms, jnp.clip(threshold, 0.0, 1.0))),
    )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[kind], *found)


def angle(one, other):
    """Between two trees, in radians; by the distance of unit vectors, which is sharp near 0."""
    lengths = global_norm(one), global_norm(other)
    apart = jax.tree.map(lambda a, b: a / lengths[0] - b / lengths[1], one, other)
    return 2.0 * jnp.arcsin(jnp.minimum(global_norm(apart) / 2.0, 1.0))


def clipped_sgd(learning_rate: float, num_updates: int) -> optax.GradientTransformation:
    """SGD whose kind of clipping is in its state, so that nets of all kinds share a program."""

    def init(params):
        del params
        zero = jnp.zeros(())
        return ClipState(
            jnp.zeros((), int), zero, jnp.full(num_updates, jnp.nan), jnp.zeros((), int), zero, zero
        )

    def update(grads, state, params=None):
        norms = state.norms.at[state.count].set(global_norm(grads))
        clipped = clip(state.kind, grads, params, state.threshold, norms)
        changed = [
            jnp.any(a != b)
            for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(clipped), strict=True)
        ]
        is_clipped = jnp.any(jnp.stack(changed))
        turned = jnp.where(is_clipped, angle(grads, clipped), 0.0)
        new = state._replace(
            norms=norms,
            count=state.count + 1,
            clipped=state.clipped + is_clipped,
            angle=state.angle + turned,
        )
        return jax.tree.map(lambda g: -learning_rate * g, clipped), new

    return optax.GradientTransformation(init, update)


class Training:
    """Nets of gain `train_gain` that learn to predict the next character at every step."""

    def __init__(self, config: Config, log: RunLog):
        """The data, the model and the first states."""
        self.config, self.log = config, log
        self.problem = load_problem(config.dataset, seq_len=config.seq_len, every_step=True)
        log.write(step=0, dataset=self.problem.name, digest=self.problem.digest)
        cell = RNN(
            config.hidden_size, weight_init=Init(recurrent="gaussian", gain=config.train_gain)
        )
        model = functional(
            ManyToMany, cell, input_size=config.hidden_size, vocab_size=self.problem.vocab_size,
            output_size=self.problem.output_size, head="softmax",
        )  # fmt: skip

        def loss_fn(params, batch, key):
            del key  # nothing here is random
            return jnp.mean(cross_entropy(model.apply(params, batch[0]).logits, batch[1])), {}

        self.optimizer = clipped_sgd(config.learning_rate, config.num_updates)
        self.train_step = make_train_step(loss_fn, self.optimizer)

        def start(key):
            return fresh_state(model.init, self.optimizer, key)

        keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
        self.first = jax.jit(jax.vmap(start))(keys)
        self.gradient = jax.jit(jax.vmap(jax.grad(lambda p, b: loss_fn(p, b, None)[0])))

    def draw(self, streams):
        """(xs, targets) of each seed, [seeds, B, T]."""
        return stacked(
            [self.problem.sample(rng, self.config.batch_size, False)[:2] for rng in streams]
        )

    def streams(self):
        """Sources of sequences, one a seed; every kind of clipping reads the same."""
        return [
            np.random.default_rng([self.config.seed, net]) for net in range(self.config.num_seeds)
        ]

    def __call__(self, labels, kinds, thresholds):
        """Trains nets of each kind: label -> figures, and norms before clipping [kinds, N, U]."""
        config, count = self.config, len(labels)
        seeds = config.num_seeds
        tile = lambda leaf: jnp.concatenate([leaf] * count)  # noqa: E731
        key = self.first.key
        state = jax.tree.map(tile, self.first.replace(key=jax.random.key_data(key)))
        state = state.replace(key=jax.random.wrap_key_data(state.key))
        per_net = lambda values, kind: jnp.repeat(jnp.array(values, kind), seeds)  # noqa: E731
        state = state.replace(
            opt_state=state.opt_state._replace(
                kind=per_net(list(kinds), int), threshold=per_net(list(thresholds), float)
            )
        )
        streams = self.streams()

        def batches():
            for _ in range(config.num_updates):
                yield jax.tree.map(lambda leaf: np.concatenate([leaf] * count), self.draw(streams))

        every = min(EVERY, config.num_updates)
        nets = train_nets(
            self.train_step, state, batches(), every=every, num_devices=config.num_devices
        )
        bar = self.log.progress(total=config.num_updates, description="training")
        losses, before = [], np.zeros((2, count * seeds))
        for step, now, metrics in nets:
            state, passed = now, len(metrics["loss"])
            bar.update(passed)
            sums = np.array([now.opt_state.clipped, now.opt_state.angle])
            rate, turned = (sums - before).reshape(2, count, seeds) / passed
            before = sums
            losses.append(np.asarray(metrics["loss"]).reshape(passed, count, seeds))
            norms = np.asarray(metrics["grad_norm"]).reshape(passed, count, seeds)
            for i, label in enumerate(labels):
                self.log.write(
                    step=step, study="training", updates=label, loss=losses[-1][:, i].mean(axis=0),
                    grad_norm=norms[:, i].max(axis=0), clip_rate=rate[i],
                    angle_deg=np.degrees(turned[i]),
                )  # fmt: skip
        tail = np.concatenate(losses)[-max(1, config.num_updates // 10) :].mean(axis=0)
        final = state.opt_state
        norms = np.asarray(final.norms).reshape(count, seeds, -1)
        rate = np.asarray(final.clipped).reshape(count, seeds) / config.num_updates
        turned = np.asarray(final.angle).reshape(count, seeds) / config.num_updates
        skipped = np.asarray(state.skipped).reshape(count, seeds)
        figures = {}
        for i, label in enumerate(labels):
            loss = bootstrap(tail[i])
            figures[label] = {
                "threshold": float(thresholds[i]),
                "loss_nats": float(loss.middle),
                "loss_low": float(loss.low),
                "loss_high": float(loss.high),
                "clip_rate": float(np.median(rate[i])),
                "angle_deg": float(np.degrees(np.median(turned[i]))),
                "largest_grad_norm": float(np.nanmax(norms[i])),
                "updates_skipped": int(skipped[i].sum()),
            }
        return figures, norms


def directions(config: Config, train: Training, log: RunLog) -> list[dict]:
    """Angle between raw and clipped gradient over thresholds, in units of what is clipped."""
    grads = train.gradient(train.first.params, train.draw(train.streams()))
    key = jax.random.key(config.seed + 1)
    noise = {"all": jax.random.normal(key, (config.num_seeds, 100_000))}
    ratios = np.geomspace(0.001, 30.0, 19)

    def sweep(grads, params, kind):
        flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(grads)])
        rms = global_norm(grads) / flat.size**0.5
        # Value: over the entries' root mean square. Norm: over the norm. Unit-wise: as it is.
        unit = {1: rms, 2: global_norm(grads), 3: 1.0}[kind]
        return jax.lax.map(
            lambda ratio: angle(grads, clip(kind, grads, params, ratio * unit, rms[None])),
            jnp.array(ratios, jnp.float32),
        )

    found = {}
    for label, tree, params, kind in (
        ("value, gradient at initialisation", grads, train.first.params, 1),
        ("value, Gaussian noise", noise, noise, 1),
        ("norm, gradient at initialisation", grads, train.first.params, 2),
        ("unit-wise, gradient at initialisation", grads, train.first.params, 3),
    ):
        over_nets = jax.jit(jax.vmap(lambda g, p, kind=kind: sweep(g, p, kind)))
        found[label] = np.degrees(over_nets(tree, params))
        log.write(step=0, study="direction", clipping=label, ratios=ratios, angle_deg=found[label])
    expected = np.degrees(np.arccos(np.minimum(theory.value_clip_cosine(ratios), 1.0)))
    log.write(step=0, study="direction theory", ratios=ratios, angle_deg=expected)
    largest = float(np.max(np.abs(found["value, Gaussian noise"].mean(axis=0) - expected)))
    # The smallest threshold leaves little but signs, whose cosine is ||g||_1 / (sqrt(n) ||g||_2).
    signs = found["value, Gaussian noise"][:, 0]
    return [
        check("value clipping of Gaussian noise: angle against the closed form, deg, largest gap",
              largest, 0.0, 0.3),
        check("vector of signs of Gaussian noise: angle, deg", float(np.mean(signs)),
              float(np.degrees(np.arccos(np.sqrt(2.0 / np.pi)))), 0.1),
    ]  # fmt: skip


def error_wall(config: Config, log: RunLog) -> tuple[dict, list[dict]]:
    """Error and gradient of one sigmoid unit over its two weights, and descents on it.

    x_t = w sigmoid(x_{t-1}) + b, x_0 = 0.5, error (sigmoid(x_50) - 0.7)^2. With h = sigmoid(x), it
    is the vanilla cell h_t = sigmoid(w h_{t-1} + b) of one unit without input.
    """
    cell, silence = RNN(1, "sigmoid"), jnp.zeros((WALL_STEPS, 1))
    first = jax.nn.sigmoid(jnp.array([WALL_START]))

    def error(at):
        params = {"W_x": jnp.zeros((1, 1)), "W_h": at[:1, None], "b": at[1:]}
        last = unroll(cell, params, silence, carry=first, form="scan").carry[0]
        return jnp.square(last - WALL_TARGET)

    def descend(kind, start):
        def body(at, _):
            value, grads = jax.value_and_grad(error)(at)
            step = clip(kind, grads, at, config.wall_norm, jnp.ones(1))
            return at - config.wall_learning_rate * step, (at, value)

        last, (path, values) = jax.lax.scan(body, start, length=config.wall_updates)
        return jnp.concatenate([path, last[None]]), jnp.append(values, error(last))

    ws = np.linspace(*WALL_W, config.wall_points)
    bs = np.linspace(*WALL_B, config.wall_points)
    grid = jnp.asarray(np.stack(np.meshgrid(ws, bs), axis=-1), jnp.float32)  # [b, w, 2]
    errors, slopes = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(error))))(grid)
    log.write(step=0, study="wall", w=ws, b=bs, error=errors,
              grad_norm=jnp.linalg.norm(slopes, axis=-1))  # fmt: skip
    # Fixed points appear or vanish where the slope w s (1 - s) of the map is 1 at x = logit(s).
    w = np.linspace(4.0, WALL_W[1], 400)
    low, high = np.transpose([theory.sigmoid_saddle_nodes(each) for each in w])
    log.write(step=0, study="border", name="fixed points appear",
              w=np.concatenate([w[::-1], w]), b=np.concatenate([low[::-1], high]))  # fmt: skip
    # Where x_0 is the unstable one of them, the start changes sides.
    s = 1.0 / (1.0 + np.exp(-WALL_START))
    w = np.linspace(1.0 / (s * (1.0 - s)), WALL_W[1], 2)
    log.write(step=0, study="border", name="$x_0$ changes basin", w=w, b=WALL_START - w * s)
    points = theory.sigmoid_saddle_nodes(DOYA_W)
    log.write(step=0, study="saddle nodes", w=DOYA_W, b=points)

    sparse = grid[:: max(1, len(bs) // 20), :: max(1, len(ws) // 20)].reshape(-1, 2)
    starts = jnp.concatenate([jnp.array([config.wall_start]), sparse])
    summary = {"starts": len(sparse), "descents": {}}
    everywhere = jax.jit(jax.vmap(descend, in_axes=(None, 0)))
    for kind in ("none", "value", "norm"):
        path, values = map(np.asarray, everywhere(KINDS.index(kind), starts))
        log.write(step=0, study="descent", clipping=kind, w=path[0, :, 0], b=path[0, :, 1],
                  error=values[0])  # fmt: skip
        log.write(step=0, study="descents", clipping=kind, final_error=values[1:, -1])
        jumps = np.linalg.norm(np.diff(path, axis=1), axis=-1)
        summary["descents"][kind] = {
            "longest_step_of_the_drawn": float(jumps[0].max()),
            "final_error_of_the_drawn": float(values[0, -1]),
            "longest_step": float(jumps[1:].max()),
            f"share_below_{FALLEN:g}": float(np.mean(values[1:, -1] < FALLEN)),
        }
    return summary, [
        check(
            f"saddle node at w = {DOYA_W:g}, b = {expected:.6f}, published", found, expected, 1e-6
        )
        for found, expected in zip(points, DOYA_B, strict=True)
    ]


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures = directory / "figures"

    def pick(study, *names):
        """The rows of a study, the named values [nets, ...] as (middle, low, high) over nets."""
        return with_intervals(
            plots.pick(finished.metrics, study=study), *names, statistic=np.nanmedian
        )

    angles = plots.clip_angles(pick("direction", "angle_deg"), pick("direction theory")[0])
    plots.save(angles, figures / "angle.png")
    training = plots.clipping(pick("training", "loss", "grad_norm"), finished.summary["training"])
    plots.save(training, figures / "training.png")
    borders = {row["name"]: row for row in pick("border")}
    nodes = pick("saddle nodes")[0]
    wall = plots.error_wall(pick("wall")[0], borders, pick("descent"), pick("descents"), nodes)
    plots.save(wall, figures / "error_wall.png")


if __name__ == "__main__":
    main(Config, run, plot)
