"""A run's numbers on a dashboard as well: TensorBoard or Weights & Biases.

`metrics.jsonl` is the record, a dashboard a view of it. A writer takes the same rows: a number's
tag is the row's texts and its own name, `{"cell": "lstm", "split": "train", "loss": 1.9}` being
`lstm/train/loss`; vectors stay in the file. When a run is gone on with, what the view holds past
the lines that were kept would be there twice, and a step says too little about where that is: a
study of several cells counts from 0 for each. So a writer is given the kept rows, not a step.
"""

import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from seqlab.errors import InputError

Kind = Literal["none", "tensorboard", "wandb"]
SECONDS_TO_DISK = 10  # at most, so that a curve can be watched


class Writer(Protocol):
    """Takes rows of metrics until it is closed."""

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds the numbers of a row of JSON values; its own entry `step` is left out."""
        ...

    def close(self) -> None:
        """Writes what is still held back; nothing can be added after it."""
        ...


class TensorBoard:
    """Writes a folder that `tensorboard --logdir` shows, by tensorboardX: no TensorFlow."""

    def __init__(self, folder: Path | str, kept: Iterable[Mapping[str, Any]] | None = None):
        """Opens the folder; with `kept`, its files are replaced by one that begins with these.

        Raises:
          InputError: tensorboardX is not installed.
        """
        tensorboard = _optional("tensorboardX")
        for old in Path(folder).glob("events.out.tfevents.*") if kept is not None else ():
            old.unlink()
        # A TensorBoard that is open now keeps the old points, unless it is told to forget them.
        purge = None if kept is None else 0
        self._writer = tensorboard.SummaryWriter(
            os.fspath(folder), purge_step=purge, flush_secs=SECONDS_TO_DISK
        )
        for row in kept or ():
            self.write(row["step"], row)

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        for tag, number in _numbers(row):
            self._writer.add_scalar(tag, number, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Writes to Weights & Biases, in the mode that `WANDB_MODE` says: online, offline, disabled.

    A run gone on with is the same run there, and its history is counted in lines of
    `metrics.jsonl`. What the server has already is not sent again; as the lines are equal, byte for
    byte, it is what would be sent. Offline nobody knows what was sent: the part since the last
    checkpoint is then in both of the folders to sync, under the same line numbers.
    """

    def __init__(
        self,
        folder: Path | str,
        record: Mapping[str, Any],
        kept: Iterable[Mapping[str, Any]] | None = None,
    ):
        """Starts the run, or with `kept` goes on with it.

        Args:
          folder: the run directory; wandb makes a folder of its name in it.
          record: what the run's `config.json` holds.

        Raises:
          InputError: wandb is not installed, or not logged in.
        """
        wandb = _optional("wandb")
        first = {name: value for name, value in record.items() if name != "resumed"}
        try:
            self._run = wandb.init(
                project=record["experiment"],
                name="/".join(Path(folder).resolve().parts[-2:]),
                id=hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:16],
                resume="allow",
                config=dict(record["config"]),
                dir=os.fspath(folder),
            )
        except wandb.Error as error:
            raise InputError(f"wandb: {error}; wandb login, or WANDB_MODE=offline") from error
        self._run.define_metric("*", step_metric="step")
        self._line = sum(1 for _ in kept or ())
        self._sent = self._run.starting_step  # lines that the server has

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        numbers = dict(_numbers(row))
        if numbers and self._line >= self._sent:
            self._run.log({"step": step, **numbers}, step=self._line)
        self._line += 1

    def close(self) -> None:
        self._run.finish()


def open_writer(
    kind: Kind,
    folder: Path | str,
    record: Mapping[str, Any],
    kept: Iterable[Mapping[str, Any]] | None = None,
) -> Writer | None:
    """A writer of that kind, or None for "none".

    Args:
      folder: the run directory; the files go to a folder in it, `tensorboard` or `wandb`.
      record: what the run's `config.json` holds.
      kept: None for a new run; for one gone on with, the rows of `metrics.jsonl` that stand, as
        JSON has them. `write` takes the rows after these.

    Raises:
      InputError: the package is not installed, wandb is not logged in, an unknown kind.
    """
    if kind == "none":
        return None
    if kind == "tensorboard":
        return TensorBoard(Path(folder) / "tensorboard", kept)
    if kind == "wandb":
        return WandB(folder, record, kept)
    raise InputError(f"unknown writer {kind!r}; known: none, tensorboard, wandb")


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Tag and value of each number of a row, dicts inside it included."""
    texts = [value for value in row.values() if isinstance(value, str)]
    prefix = "/".join([prefix, *texts]) if prefix else "/".join(texts)
    for name, value in row.items():
        tag = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _numbers(value, tag)
        elif isinstance(value, int | float) and name != "step":  # null: a NaN, which leaves a gap
            yield tag, value


def _optional(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f'{package} is not installed: pip install {package}, or "seqlab[track]" for all'
        ) from error
