"""A small training run that saves and resumes: `python -m tests.tiny_training --out DIR`."""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.cells.lstm import LSTM
from seqlab.cli import main
from seqlab.devices import Devices
from seqlab.losses import cross_entropy, masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany
from seqlab.session import Session
from seqlab.train import init_state, make_train_step

VOCABULARY = 7


@dataclass(frozen=True)
class Config:
    """Learns to say a symbol two steps later."""

    may_change: ClassVar = ("num_steps", "save_every", "pause_s", "num_devices")
    num_steps: int = 60
    save_every: int = 5
    report_every: int = 10
    patience: int | None = None
    batch_size: int = 8
    hidden_size: int = 8
    num_layers: int = 2
    learning_rate: float = 0.01
    dropout: float = 0.1
    num_devices: int = 1
    accumulate: int = 1
    pause_s: float = 0.0
    """of each step, so that there is time to be killed in"""
    nan_at_step: int | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    worsening: bool = False
    """report a validation figure that only gets worse"""
    vocabulary: str = "abcdefg"
    seed: int = 0

    @classmethod
    def quick(cls):
        return cls(num_steps=10)


class Feed:
    """Batches that are a pure function of their number."""

    def __init__(self, config):
        self.config, self.position = config, 0

    def restore(self, position):
        self.position = position

    def __next__(self):
        config = self.config
        rng = np.random.default_rng([config.seed, self.position])
        self.position += 1
        xs = rng.integers(VOCABULARY, size=(config.batch_size, 6))
        targets = np.roll(xs, 2, axis=1)
        scale = np.ones(config.batch_size, np.float32)
        if self.position == config.nan_at_step:
            scale[3] = np.inf
        ids = 1000 * self.position + np.arange(config.batch_size)
        return {"xs": xs, "targets": targets, "scale": scale, "ids": ids}


def parts(config):
    optimizer = optax.adam(config.learning_rate)
    model = functional(
        ManyToMany,
        LSTM(config.hidden_size),
        input_size=4,
        output_size=VOCABULARY,
        vocab_size=VOCABULARY,
        num_layers=config.num_layers,
        dropout=config.dropout,
    )

    def loss_fn(params, batch, key, carry):
        out = model.apply(params, batch["xs"], key=key, carry=carry)
        errors = cross_entropy(out.logits, batch["targets"]) * batch["scale"][:, None]
        last = jax.tree.map(lambda leaf: leaf[:, -1], out.carries["rnn"])
        return masked_mean(errors[:, 2:]), ({}, jax.lax.stop_gradient(last))

    step = make_train_step(
        loss_fn,
        optimizer,
        clip_norm=1.0,
        accumulate=config.accumulate,
        stateful=True,
        norms_every=5,
    )
    return model, optimizer, step


def build(config, files):
    assert files["vocabulary"] == config.vocabulary
    model, optimizer, step = parts(config)
    key_params, key_steps = jax.random.split(jax.random.key(config.seed))
    params = model.init(key_params)
    xs = jnp.zeros((config.batch_size, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: model.apply(params, xs)).carries["rnn"]
    carry = jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0], *leaf.shape[2:])), shapes)
    return step, init_state(params, optimizer, key_steps, carry)


def stopped_after(run, at):
    """A study's `run` that stops after step `at`, None for never, as by SIGTERM."""

    def stopping(config, log):
        write = log.write

        def write_and_stop(*, step, **fields):
            write(step=step, **fields)
            if step == at and log.waits:
                log.stop = KeyboardInterrupt

        log.write = write_and_stop
        run(config, log)

    return stopping


def goes_on_alike(run, out, flags, at, whole):
    """Stops a run after update `at`, goes on with it, and asserts that it ends as `whole` did.

    Args:
      run: (out, *flags, at=None) -> what `read_run` says of the run.
      whole: of the same flags, undisturbed.
    """
    import pytest  # not where this file is run, over and over

    with pytest.raises(SystemExit) as stop:
        run(out, *flags, at=at)
    assert stop.value.code == 130
    again = run(out)
    lines, expected = ((each.path / "metrics.jsonl").read_bytes() for each in (again, whole))
    assert lines == expected
    changes = {name for name, value in whole.summary.items() if again.summary[name] != value}
    assert changes <= {"wall_s", "peak_rss_mb", "compile_s", "steps_per_s", "examples_per_s",
                       "sentences_per_s", "train_pairs_per_s",
                       "resumed"}  # fmt: skip
    assert again.summary["resumed"] == 1
    return again


def run(config, log):
    log.write(step=0, vocabulary=config.vocabulary)
    devices = Devices(jax.devices()[: config.num_devices]) if config.num_devices > 1 else None
    if jax.process_count() > 1:
        devices = Devices()
    files = {"vocabulary": config.vocabulary}
    train_step, state = build(config, files)
    with Session(
        log,
        state,
        Feed(config),
        num_steps=config.num_steps,
        save_every=config.save_every,
        patience=config.patience,
        on_nonfinite=config.on_nonfinite,
        files=files,
        devices=devices,
    ) as session:
        for step, _, metrics in session.steps(train_step):
            session.memory["total"] = session.memory.get("total", 0.0) + float(metrics["loss"])
            log.write(step=step, split="train", **metrics)
            if step % config.report_every == 0:
                mean = session.memory.pop("total") / config.report_every
                log.write(step=step, split="mean", loss=mean)
                session.report(step, step if config.worsening else mean)
            time.sleep(config.pause_s)
        best = session.best_state()
    weights = float(sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(best.params)))
    log.write(step=session.step, best_weights=weights)
    log.finish(**session.figures(), best_weights=weights)


if __name__ == "__main__":
    main(Config, run)
