"""Nets that answer at every step of long sequences: training, answers, looks into the past.

    forecaster = Forecaster(functional(ManyToMany, cell, ...), head, window=None)
    params = train_forecaster(log, forecaster, plan, {"train": ..., "valid": ...}, files).params
    forecaster.predict(params, test)          # what all nets together say
    params, files = load_forecaster(run_dir, forecaster, plan, names)

Many-to-many nets walk a whole sequence; many-to-one nets read the window of steps up to each.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.checkpoint import Checkpoints
from seqlab.data.batching import Feed
from seqlab.data.windows import Answered, NetBatches
from seqlab.ensemble import SideBySide, remember, remembering
from seqlab.errors import InputError
from seqlab.forecasts import Prediction
from seqlab.gradflow.taps import log_norm_over_time, zero_taps
from seqlab.heads import Head
from seqlab.losses import masked_mean
from seqlab.runlog import CHECKPOINTS, RunLog
from seqlab.session import Session
from seqlab.train import TrainState, TrainStep, learning_rate_schedule, make_train_step
from seqlab.types import Array, Model, Params

NETS = "nets"  # the kind of net in the training state
WINDOWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Plan:
    """How N nets are trained.

    Attributes:
      num_nets: N.
      num_epochs: times that every sequence or window is read.
      batch_size: of them, an update of each net.
      crop: steps of a sequence that are read at once, where nets do not read windows.
      learning_rate: of Adam, falling along a cosine to a hundredth.
      clip_norm: largest global gradient norm let through.
      log_every, save_every: updates between lines of the log, and between checkpoints.
      seed: of weights, orders and dropout.
    """

    num_nets: int
    num_epochs: int
    batch_size: int
    crop: int
    learning_rate: float
    clip_norm: float
    log_every: int
    save_every: int
    seed: int

    @classmethod
    def of(cls, config: Any, **other: Any) -> "Plan":
        """The plan that an experiment's config holds, by the names of its fields."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)} | other)


@dataclass(frozen=True)
class Forecaster:
    """One architecture, of which there may be several nets.

    Attributes:
      model: inputs [..., T, D] to logits, at every step or, of a window, after the last.
      head: what the logits say of the answers.
      window: steps that a net reads before it answers; None for all there are.
    """

    model: Model
    head: Head
    window: int | None = None

    def loss(self, params: Params, batch: Mapping[str, Array], key: Array | None) -> Array:
        """Mean loss of the head over what is known, a scalar; in the unit of the head's losses."""
        logits = self.model.apply(params, batch["xs"], batch["mask"], key=key).logits
        return masked_mean(self.head.losses(logits, batch["targets"]), batch["is_known"])

    def logits(self, params: Params, data: Answered) -> np.ndarray:
        """Logits of N nets at every step, [N, M, T, W]; without meaning where there is no step."""
        if self.window is None:
            return np.asarray(self._apply(params, data.xs, data.is_real))
        rows = np.argwhere(data.is_real)
        found = [
            np.asarray(self._apply(params, *data.windows(some, self.window)))
            for some in np.array_split(rows, -(-len(rows) // WINDOWS_AT_ONCE))
        ]
        found = np.concatenate(found, axis=1)
        logits = np.zeros((len(found), *data.is_real.shape, found.shape[-1]), np.float32)
        logits[:, rows[:, 0], rows[:, 1]] = found
        return logits

    def predict(self, params: Params, data: Answered) -> Prediction:
        """What N nets together say at every step of the K scaled answers, [M, T, K]."""
        return self.head.predict(self.logits(params, data))

    def scores(self, params: Params, data: Answered) -> list[float]:
        """Mean CRPS of each net over what is known, in the scaled unit; lower is better."""
        at = data.is_known
        return [
            float(np.mean(self.head.predict(own[None]).crps(data.targets)[at]))
            for own in self.logits(params, data)
        ]

    def last(self, params: Params, xs: Array, mask: Array | None = None, *, taps=None) -> Array:
        """Logits of one net after the last step of windows [..., W]."""
        logits = self.model.apply(params, xs, mask, taps=taps).logits
        return logits[..., -1, :] if self.window is None else logits

    @cached_property
    def _apply(self):
        def one(params, xs, mask):
            return self.model.apply(params, xs, mask).logits

        return jax.jit(jax.vmap(one, (0, None, None)))


class Trained(NamedTuple):
    """Nets after their training.

    Attributes:
      params: of each as it was after its best epoch, leaves [N, ...].
      figures: of the training, for `summary.json`.
    """

    params: Params
    figures: dict[str, Any]


def build(
    forecaster: Forecaster, plan: Plan, num_steps: int | None = None
) -> tuple[SideBySide, TrainState]:
    """The training step of all nets and the state before the first; `num_steps` is of the rate."""
    rate = learning_rate_schedule(
        "cosine", plan.learning_rate, num_steps=num_steps or 1, final=0.01
    )

    def loss_fn(params, batch, key):
        return forecaster.loss(params, batch, key), {}

    one = make_train_step(loss_fn, remembering(optax.adam(rate)), clip_norm=plan.clip_norm)
    step = SideBySide(((NETS, one),))
    key_params, key_steps = jax.random.split(jax.random.key(plan.seed))
    keys = jax.random.split(key_params, plan.num_nets)
    params = jax.jit(jax.vmap(forecaster.model.init))(keys)
    return step, step.init({NETS: params}, key_steps)


def train_forecaster(
    log: RunLog,
    forecaster: Forecaster,
    plan: Plan,
    parts: Mapping[str, Answered],
    files: Mapping[str, Any],
) -> Trained:
    """Trains nets side by side, each kept as it was after its best epoch in validation.

    The run is saved and resumed by a `Session`; the best epoch is that of the lowest CRPS. The log
    gets the loss and gradient norm of each net's batches, and its CRPS after every epoch.

    Args:
      log: of the run.
      forecaster: of the nets.
      plan: of the training.
      parts: "train" and "valid".
      files: JSON values that belong to the run, such as its scales.
    """
    length = {"crop": plan.crop} if forecaster.window is None else {"window": forecaster.window}
    reading = NetBatches(
        parts["train"], plan.batch_size, num_nets=plan.num_nets, seed=plan.seed, **length
    )
    per_epoch = reading.batches_per_epoch
    num_steps = plan.num_epochs * per_epoch
    train_step, state = build(forecaster, plan, num_steps)
    with (
        Feed(reading) as feed,
        Session(
            log, state, feed, num_steps=num_steps, save_every=plan.save_every, keep=1, files=files,
            description=f"{plan.num_nets} nets",
        ) as session,
    ):  # fmt: skip
        best = session.memory.setdefault("best", [[None, 0]] * plan.num_nets)  # CRPS, epoch
        for step, state, values in session.steps(cast(TrainStep, train_step)):
            if step % plan.log_every == 0:
                log.write(step=step, split="updates", epoch=step / per_epoch, **values[NETS])
            if step % per_epoch:
                continue
            epoch = step // per_epoch
            scores = forecaster.scores(state.params[NETS], parts["valid"])
            log.write(step=step, split="valid", epoch=epoch, crps=scores)
            pairs = list(zip(scores, best, strict=True))
            is_better = [old is None or new < old for new, (old, _) in pairs]
            for net in np.flatnonzero(is_better).tolist():
                best[net] = [scores[net], epoch]
            session.state = remember(session.state, {NETS: np.array(is_better)})
        params = jax.device_get(session.state.opt_state[NETS].best)
    return Trained(params, {**session.figures(), "best_epochs": [epoch for _, epoch in best]})


def load_forecaster(
    path: Path, forecaster: Forecaster, plan: Plan, names: Iterable[str]
) -> tuple[Params, dict[str, Any]]:
    """The nets of a finished run at their best, and some of its files by name.

    Raises:
      InputError: no good checkpoint, or one of other nets.
    """
    with Checkpoints(path / CHECKPOINTS, writes=False) as checkpoints:
        newest = checkpoints.newest_good()
        if newest is None:
            raise InputError(f"{path} has no good checkpoint")
        files = {name: checkpoints.read_file(newest, name) for name in names}
        state = checkpoints.restore(newest, build(forecaster, plan)[1]).state
    return state.opt_state[NETS].best, files


def look_back(
    log: RunLog,
    forecaster: Forecaster,
    params: Params,
    windows: np.ndarray,
    answers: np.ndarray,
    *,
    columns: slice,
    is_constant: np.ndarray,
    groups: Mapping[str, Iterable[int]],
    **fields: Any,
) -> None:
    """Writes dL/dcarry_t and dL/dx_t, L the squared error of the answer after the last step.

    Three kinds of lines: "carry" and "input" hold the log norm over the steps, the median and the
    10-90 % band over nets and windows; "group" holds the median norm by kind of input.

    Args:
      log: of the run.
      forecaster: of the nets.
      params: of N nets, leaves [N, ...].
      windows: whole ones, float32 [M, L, D].
      answers: the scaled truths, [M, K'].
      columns: which of the head's answers they are.
      is_constant: inputs that never changed in training, bool [D]: they tell a net nothing, though
        it has weights for them, and are left out.
      groups: columns of the input by kind.
      **fields: for every line.
    """
    xs, truth = jnp.asarray(windows), jnp.asarray(answers)

    @jax.jit
    @jax.vmap
    def gradients(params):
        def loss(taps, xs):
            said = forecaster.head.best(forecaster.last(params, xs, taps=taps))[..., columns]
            return jnp.sum(jnp.square(said - truth))

        taps = zero_taps(forecaster.model.apply, params, xs)
        carries, inputs = jax.grad(loss, argnums=(0, 1))(taps, xs)
        return log_norm_over_time(carries["rnn"]), inputs

    carries, inputs = map(np.asarray, gradients(params))
    inputs = inputs * ~is_constant
    with np.errstate(divide="ignore"):
        norms = {"carry": carries, "input": np.log(np.linalg.norm(inputs, axis=-1))}
    for probe, values in norms.items():
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=(0, 1), method="inverted_cdf")
        log.write(step=0, probe=probe, log_norm_median=middle, log_norm_p10=low,
                  log_norm_p90=high, **fields)  # fmt: skip
    for name, members in groups.items():
        size = np.median(np.linalg.norm(inputs[..., list(members)], axis=-1), axis=(0, 1))
        log.write(step=0, probe="group", group=name, norm=size, **fields)
