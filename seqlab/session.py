"""A training run that can be killed anywhere and goes on to the same numbers.

    with Session(log, state, feed, num_steps=1000, save_every=100) as session:
        for step, state, metrics in session.steps(train_step):
            log.write(step=step, split="train", **metrics)
            if step % 200 == 0:
                session.report(step, validation_loss(state.params))
    log.finish(**session.figures())

The end of the loop's body is the border between steps: there it is saved when that is due, stopped
when a signal or the validation figure asks for it, and there a resumed run goes on.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

import jax
import numpy as np

from seqlab.checkpoint import Checkpoints
from seqlab.devices import Devices, agree, any_process
from seqlab.errors import InputError
from seqlab.progress import is_live
from seqlab.recorder import record_nonfinite
from seqlab.runlog import CHECKPOINTS, RunLog
from seqlab.train import TrainState, TrainStep

SIGNAL_EVERY = 10  # steps between the processes' asking each other whether to stop


class BatchFeed(Protocol):
    """Batches in an order of their own, and the place in it."""

    @property
    def position(self) -> int:
        """How many batches were handed out."""
        ...

    def restore(self, position: int) -> None:
        """Goes to a place."""
        ...

    def __next__(self) -> Any:
        """The next batch, a tree of numpy arrays."""
        ...


@dataclasses.dataclass
class Stopping:
    """Early stopping: the best validation figure so far, lower is better, and how long ago it was.

    Attributes:
      patience: None, or after how many reports without a new best training ends.
      best: the best figure.
      best_step: its step; 0 before the first report.
      waited: reports since.
    """

    patience: int | None = None
    best: float = math.inf
    best_step: int = 0
    waited: int = 0

    def report(self, step: int, figure: float) -> bool:
        """Takes a figure; whether it is the best so far. NaN never is."""
        if figure < self.best:
            self.best, self.best_step, self.waited = figure, step, 0
            return True
        self.waited += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether training should end."""
        return self.patience is not None and self.waited >= self.patience


@dataclasses.dataclass
class _Count:
    """What the summary tells of a run, over all its parts."""

    steps: int = 0
    train_s: float = 0.0
    compile_s: float = 0.0
    shapes: list[str] = dataclasses.field(default_factory=list)


def compile_step(train_step: TrainStep, state: TrainState, devices: Devices | None) -> Any:
    """The step as a session calls it: jitted, and shared out where there are devices.

    Args:
      train_step: of `make_train_step`.
      state: where it starts, for its shape.
      devices: that share out each batch; None for one.
    """
    if devices is None:
        return jax.jit(train_step)
    return jax.jit(
        dataclasses.replace(train_step, mesh=devices.mesh),
        out_shardings=(devices.state_shardings(state), devices.copied),
        compiler_options=devices.compiler_options,
    )


class Session:
    """Trains, saves and resumes one run; see the module's text.

    Attributes:
      state: the newest training state.
      step: its number, of the whole run.
      memory: JSON values that the experiment itself has to remember; saved and restored.
      stopping: the state of early stopping.
    """

    def __init__(
        self,
        log: RunLog,
        state: TrainState,
        feed: BatchFeed,
        *,
        num_steps: int,
        save_every: int,
        keep: int = 2,
        patience: int | None = None,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        files: Mapping[str, Any] | None = None,
        devices: Devices | None = None,
        description: str = "train",
    ):
        """Starts, or goes on where the newest good checkpoint of the run's directory was made.

        Args:
          log: of the run.
          state: before the first step; also says what to expect in a checkpoint.
          feed: the batches; taken back to where the checkpoint was made.
          num_steps: how many steps the whole run has.
          save_every: steps from one checkpoint to the next.
          keep: how many of the newest are kept, beside the best.
          patience: None, or after how many reports without a new best training ends.
          on_nonfinite: whether the first loss or gradient that is not finite ends the run, or its
            update is left out; either way it is reported in the run directory, see
            `seqlab.recorder`.
          files: name -> JSON value that belongs to the run, such as its vocabulary; saved with
            every step, and compared on resume.
          devices: None for one device, or those that share out each batch.
          description: of the progress bar.

        Raises:
          InputError: no checkpoint of the run is good; or one of other arrays or `files`.
        """
        for name, value in (("save_every", save_every), ("patience", patience)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, got {value}")
        self.log = log
        self.feed = feed
        self.num_steps = num_steps
        self.save_every = save_every
        self.on_nonfinite = on_nonfinite
        self.files = dict(files or {})
        self.devices = devices
        self.description = description
        self.memory: dict[str, Any] = {}
        self.stopping = Stopping(patience)
        self.step = 0
        self._is_best = False
        self._saved: int | None = None
        self._last: tuple | None = None  # step, train_step, state before, batch, metrics
        self._recorded = False
        self._compiled: set[str] = set()  # shapes of batches, in this process
        self._count = _Count()
        self._checkpoints = Checkpoints(log.path / CHECKPOINTS, keep=keep, writes=log.writes)
        self.state = self._resume(state) if log.resumed else state
        if devices is not None:
            self.state = devices.put_state(self.state)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.log.waits = False
        if kind is None:
            self._finish()
        self._checkpoints.__exit__(kind, *rest)

    def steps(self, train_step: TrainStep) -> Iterator[tuple[int, TrainState, dict[str, Any]]]:
        """Trains a batch at a time: (step, state, metrics) after each, to the end of the run.

        Raises:
          InputError: a step that is not finite, where that ends the run; a checkpoint that cannot
            be written.
        """
        compiled = compile_step(train_step, self.state, self.devices)
        bar = self.log.progress(
            total=self.num_steps, initial=self.step, description=self.description
        )
        self.log.waits = True
        try:
            while self.step < self.num_steps and not self.stopping.is_over:
                batch = next(self.feed, None)
                if batch is None:  # a feed with an end
                    break
                started = time.perf_counter()
                before = self.state
                self.state, metrics = self._call(compiled, before, batch, bar)
                self.step += 1
                self._check()  # the step before, while this one is being computed
                self._last = self.step, train_step, before, batch, metrics
                yield self.step, self.state, metrics
                self._count.train_s += time.perf_counter() - started
                self._count.steps += 1
                bar.update()
                self._border()
        finally:
            self.log.waits = False
        self._finish()

    def report(self, step: int, figure: float) -> bool:
        """Takes a validation figure, lower is better; whether it is the best so far."""
        is_best = self.stopping.report(step, float(figure))
        self._is_best |= is_best
        return is_best

    def best_state(self) -> TrainState:
        """The state of the best validation figure so far; the newest if none was reported.

        Raises:
          InputError: the best one is damaged.
        """
        self._finish()
        best, fault = self._checkpoints.best_good() if self.log.writes else (None, "")
        if fault:
            raise InputError(f"{self.log.path}: the best step, {best}, is damaged: {fault}")
        best = int(agree(-1 if best is None else best))
        if best < 0:
            return self.state
        found = self._checkpoints.restore(best, self.state)
        return found.state if self.devices is None else self.devices.put_state(found.state)

    def figures(self) -> dict[str, Any]:
        """For `summary.json`, of the whole run, its earlier parts included.

        The rate counts all that the loop's body does, validation too, but not the compiling of the
        training step.
        """
        count = self._count
        return {
            "steps": self.step,
            "best_step": self.stopping.best_step or None,
            "stopped_early": self.stopping.is_over,
            "updates_skipped": int(self.state.skipped),
            "compiled_shapes": len(count.shapes),
            "compile_s": round(count.compile_s, 3),
            "steps_per_s": count.steps / count.train_s if count.train_s else None,
        }

    def _call(self, compiled, state, batch, bar):
        """One step; the time of a first call with new shapes is compiling, told apart."""
        batch = jax.tree.map(np.asarray, batch)
        shapes = str([(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(batch)])
        placed = batch if self.devices is None else self.devices.put_batch(batch)
        if shapes in self._compiled:
            return compiled(state, placed)
        self._compiled.add(shapes)
        if shapes not in self._count.shapes:
            self._count.shapes.append(shapes)
        bar.set_postfix_str("compiling", refresh=is_live())
        start = time.perf_counter()
        result = compiled(state, placed)
        seconds = time.perf_counter() - start
        self._count.compile_s += seconds
        self._count.train_s -= seconds
        bar.set_postfix_str(f"compiled in {self._count.compile_s:.1f} s", refresh=False)
        if not bar.disable:  # so that rate and time left are those of training
            bar.start_t += seconds
            bar.last_print_t += seconds
        return result

    def _check(self) -> None:
        """Looks whether the last step was finite; reports the first that was not."""
        if self._last is None:
            return
        (step, train_step, before, batch, metrics), self._last = self._last, None
        if not np.any(metrics["skipped"]) or (self._recorded and self.on_nonfinite == "skip"):
            return
        self._recorded = True
        report = record_nonfinite(
            self.log.path, step, train_step, before, batch, files=self.files, writes=self.log.writes
        )
        if self.on_nonfinite == "stop":
            raise InputError(report)
        self.log.note(f"{report}; its update is left out")

    def _border(self) -> None:
        """Between two steps: saves when it is due, and answers a signal."""
        self._save_if(self.step % self.save_every == 0)
        if jax.process_count() == 1 or self.step % SIGNAL_EVERY == 0:
            self._answer()

    def _finish(self) -> None:
        """After the last step, however it came to be the last: all is saved."""
        self._check()
        self._save_if(self._saved != self.step)
        self._checkpoints.wait()
        self._answer()

    def _save_if(self, due: bool) -> None:
        if due or self._is_best:
            self._save(best=self._is_best)
        self._is_best = False

    def _answer(self) -> None:
        """Ends the run where a signal has asked for it, in any of the processes."""
        stop = self.log.stop
        if any_process(stop is not None):
            self.log.stop, self.log.waits = None, False
            self._save_if(self._saved != self.step)
            self._checkpoints.wait()
            raise (stop or KeyboardInterrupt)(self.step)

    def _save(self, best: bool = False) -> None:
        self._check()  # nothing is saved past a step that ends the run
        record = {
            "position": self.feed.position,
            "mark": self.log.mark(),
            "stopping": {
                "best": self.stopping.best if math.isfinite(self.stopping.best) else None,
                "best_step": self.stopping.best_step,
                "waited": self.stopping.waited,
            },
            "memory": self.memory,
            "devices": 1 if self.devices is None else self.devices.count,
            "recorded": self._recorded,
            "count": dataclasses.asdict(self._count),
        }
        self._checkpoints.save(self.step, self.state, record, files=self.files, best=best)
        self._saved = self.step

    def _resume(self, state: TrainState) -> TrainState:
        """The state of the newest good checkpoint, everything else taken back to it."""
        newest = self._newest()
        for step, fault in self._checkpoints.damaged:
            self.log.note(f"checkpoint of step {step} is passed over: {fault}")
        if newest < 0:
            self.log.rewind(None)
            self.log.note("no checkpoint yet: starting from the beginning")
            return state
        found = self._checkpoints.restore(newest, state)
        for name, value in self.files.items():
            if value != self._checkpoints.read_file(found.step, name):
                raise InputError(
                    f"{name}: {self.log.path} was made with another {name}; use that one, or name "
                    "a new directory"
                )
        record = found.record
        count = 1 if self.devices is None else self.devices.count
        if record["devices"] != count:
            self.log.note(
                f"saved with {record['devices']} devices, going on with {count}: figures agree to "
                "rounding, not to the last bit"
            )
        self.log.rewind(record["mark"])
        self.feed.restore(record["position"])
        stopping = record["stopping"]
        best = math.inf if stopping["best"] is None else stopping["best"]
        self.stopping = Stopping(
            self.stopping.patience, best, stopping["best_step"], stopping["waited"]
        )
        self.memory = record["memory"]
        self._recorded = record["recorded"]
        self._count = _Count(**record["count"])
        self._checkpoints.set_aside()
        self.step = self._saved = found.step
        self.log.note(f"going on after step {found.step}")
        return found.state

    def _newest(self) -> int:
        """The step to go on from, as the first process finds it; -1 where there is none."""
        failure = None
        newest = None
        if self.log.writes:
            try:
                newest = self._checkpoints.newest_good(
                    lambda record: self.log.objection(record["mark"])
                )
            except InputError as error:
                failure = error
        newest = int(agree(-2 if failure else -1 if newest is None else newest))
        if newest == -2:
            raise failure or InputError(f"{self.log.path}: the first process cannot go on with it")
        return newest
