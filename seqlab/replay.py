"""Replays the training step of a run that was not finite, and says where it went wrong.

    python -m seqlab.replay runs/rnn_lm/20261123-101500-0
    python -m seqlab.replay RUN --step 120

The step is made again by the experiment's `build(config, files)`: a change to the code can so be
tried on the very inputs that were kept.
"""

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from seqlab.checkpoint import Checkpoints
from seqlab.cli import config_of
from seqlab.errors import InputError
from seqlab.recorder import FOLDER, REPORT, Origin, locate_step
from seqlab.runlog import read_record


@dataclass(frozen=True)
class Replay:
    """Replays a step that was not finite."""

    run: tyro.conf.Positional[Path]
    """the run directory"""
    step: Annotated[int | None, tyro.conf.arg(metavar="STEP")] = None
    """which of the recorded steps; the first by default"""


def replay(run: Path, step: int | None = None) -> tuple[dict[str, Any], Origin | None]:
    """The report that was kept of a step, and what is found now.

    Raises:
      InputError: no such run or step, or an experiment that cannot make its step again.
    """
    record = read_record(run)
    names = [path.parent.name.removeprefix("step_") for path in run.glob(f"{FOLDER}/*/{REPORT}")]
    recorded = sorted(int(name) for name in names if name.isdecimal())
    if not recorded:
        raise InputError(f"{run} has no record of a step that was not finite")
    step = recorded[0] if step is None else step
    if step not in recorded:
        known = ", ".join(map(str, recorded))
        raise InputError(f"{run} has no record of step {step}; there are: {known}")
    folder = run / FOLDER / f"step_{step}"
    try:
        report = json.loads((folder / REPORT).read_bytes())
    except ValueError as error:
        raise InputError(f"{folder / REPORT} is damaged: {error}") from error
    module = _module(record, run)
    inputs = Checkpoints(folder / "inputs", writes=False)
    if fault := inputs.fault(step):
        raise InputError(f"{folder}: {fault}")
    files = {name: inputs.read_file(step, name) for name in inputs.file_names(step)}
    config = config_of(module.Config, record, run)
    train_step, state = module.build(config, files)
    batch = _empty_batch(inputs.leaves(step))
    found = inputs.restore(step, {"state": state, "batch": batch})
    return report, locate_step(train_step, found.state["state"], found.state["batch"])


def _module(record: dict[str, Any], run: Path) -> Any:
    name = record.get("module")
    if name is None:
        raise InputError(f"{run} was made by a script run by its path: start it with python -m")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{run}: its experiment cannot be imported: {error}") from error
    if not hasattr(module, "build"):
        raise InputError(f"{name} has no build(config, files) to make its training step again")
    return module


def _empty_batch(leaves: list[list[Any]]) -> dict[str, Any]:
    """A batch of zeros with the names, shapes and dtypes that were kept: dicts in dicts."""
    batch: dict[str, Any] = {}
    for name, shape, dtype in leaves:
        top, *path = name.split(".")
        if top == "batch":
            inner = batch
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = np.zeros(shape, jnp.dtype(dtype))
    return batch


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    asked = tyro.cli(Replay, args=argv, prog="python -m seqlab.replay", description=__doc__)
    console = Console()
    try:
        report, origin = replay(asked.run, asked.step)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    then, now = report["found"], "everything is finite" if origin is None else str(origin)
    console.print(f"step {report['step']} of {asked.run}", soft_wrap=True, markup=False)
    console.print(f"batch ids: {report['batch_ids']}", soft_wrap=True, markup=False)
    console.print(f"then: {then}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"now:  {now}", soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    main()
