"""Checkpoints that are there whole or not at all, and are read only after their hashes agree.

One folder a step. It is written under another name, hashed file by file into `manifest.json`, and
renamed when everything is on disk, so that a folder with a number for a name is a finished save:

    checkpoints/120/state/          parameters, optimiser, key, carry: written by Orbax
    checkpoints/120/run.json        step, data position, place in the metrics, early stopping, ...
    checkpoints/120/vocabulary.json what else belongs to the run, a file each
    checkpoints/120/manifest.json   size and sha256 of all of these

This is the only module that imports Orbax, whose own folders can be damaged without its noticing.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.errors import InputError
from seqlab.files import sha256

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

STATE, RUN, MANIFEST = "state", "run.json", "manifest.json"
PARTIAL, DAMAGED = ".partial", ".damaged"


class Restored(NamedTuple):
    """One good step, read back.

    Attributes:
      step: its number.
      state: a tree like the one it was asked for.
      record: the JSON values saved with it.
    """

    step: int
    state: Any
    record: dict[str, Any]


class Checkpoints:
    """The saved steps of one run.

    `save` returns as soon as the state is copied to the host; a thread of its own writes, hashes
    and renames. Kept are the newest `keep` steps and the best one; older ones go only after a newer
    one is there whole.

    Attributes:
      folder: where they are.
      damaged: (step, what is wrong with it) of the steps that `newest_good` passed over.
    """

    def __init__(self, folder: Path | str, *, keep: int = 2, writes: bool = True):
        """Opens the folder and, if it `writes`, clears what a killed save left behind.

        Args:
          folder: made at the first save.
          keep: how many of the newest steps are kept, beside the best.
          writes: False to read only; of several processes that train together one writes.

        Raises:
          ValueError: `keep` below 1.
        """
        if keep < 1:
            raise ValueError(f"keep={keep}, expected 1 or more")
        self.folder = Path(folder)
        self.keep = keep
        self.writes = writes
        self.damaged: list[tuple[int, str]] = []
        self._best: int | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        if writes:
            for leftover in self.folder.glob(f"*{PARTIAL}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:  # what went wrong first is what counts
            self._worker.shutdown()

    def steps(self) -> list[int]:
        """Numbers of all step folders, good or not, in order."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def save(
        self,
        step: int,
        state: Any,
        record: Mapping[str, Any],
        *,
        files: Mapping[str, Any] | None = None,
        best: bool = False,
        wait: bool = False,
        finite: bool = True,
    ) -> None:
        """Saves a step, in the background unless `wait`.

        Args:
          step: its number, 0 or more.
          state: a tree of arrays; typed random keys are kept.
          record: JSON values that belong to it, kept in `run.json`.
          files: name -> JSON value, each kept in a file of its own, `<name>.json`.
          best: this is the best step so far: it is kept until a better one comes.
          wait: return when it is on disk.
          finite: refuse a state that holds a NaN or an infinity.

        Raises:
          InputError: this save, or the one before it, could not be written; or the state holds a
            NaN or an infinity, which must not take the place of good steps.
        """
        self.wait()
        host = _to_host(state)  # by every process: parts of it may have to be gathered
        if finite and (bad := first_nonfinite_leaf(host)):
            raise InputError(f"step {step} is not saved: {bad} holds a number that is not finite")
        if best:
            self._best = step
        if not self.writes:
            return
        run = {**record, "step": step, "best_step": self._best, "leaves": _leaves(host)}
        values = {RUN: run} | {f"{name}.json": value for name, value in (files or {}).items()}
        texts = {name: json.dumps(value, allow_nan=False) for name, value in values.items()}
        self._pending = self._worker.submit(self._write, step, host, texts, self._best)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
          InputError: the save could not be written.
        """
        pending, self._pending = self._pending, None
        error = None if pending is None else pending.exception()
        if error is None:
            return
        if not isinstance(error, OSError | ValueError | RuntimeError):
            raise error
        good = next((step for step in reversed(self.steps()) if not self.fault(step)), None)
        left = "nothing is saved yet" if good is None else f"the newest good step is {good}"
        raise InputError(f"cannot save in {self.folder}: {_reason(error)}; {left}") from error

    def close(self) -> None:
        """Waits for the last save; call it before the process ends."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def fault(self, step: int) -> str:
        """What is wrong with a saved step; empty if every file is as it was written."""
        folder = self.folder / str(step)
        try:
            listed = json.loads((folder / MANIFEST).read_bytes())["files"]
            expected = {str(name): (int(size), str(sha)) for name, (size, sha) in listed.items()}
        except FileNotFoundError:
            return f"it has no {MANIFEST}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{MANIFEST} cannot be read"
        if RUN not in expected:
            return f"{MANIFEST} lacks {RUN}"
        found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        for name, (size, digest) in expected.items():
            if name not in found:
                return f"{name} is missing"
            if found[name].stat().st_size != size:
                return f"{name} has {found[name].stat().st_size} bytes, expected {size}"
            if sha256(found[name]) != digest:
                return f"{name} has changed since it was written"
        if extra := sorted(set(found) - set(expected)):
            return f"{extra[0]} does not belong to it"
        return ""

    def newest_good(self, objection: Callable[[dict], str] = lambda record: "") -> int | None:
        """The newest step whose every byte is as it was written, or None if nothing was saved.

        The best step that it knows of has to be good too.

        Args:
          objection: says what else is wrong with a step, from the values saved with it.

        Raises:
          InputError: there are steps, and none is good.
        """
        self.wait()
        self.damaged = []
        for step in reversed(self.steps()):
            fault = self.fault(step)
            if not fault:
                record = json.loads((self.folder / str(step) / RUN).read_bytes())
                best = record["best_step"]
                if best is not None and (worse := self.fault(best)):
                    fault = f"its best step, {best}, is damaged: {worse}"
                fault = fault or objection(record)
            if not fault:
                return step
            self.damaged.append((step, fault))
        if self.damaged:
            faults = "; ".join(f"step {step}: {fault}" for step, fault in self.damaged)
            raise InputError(
                f"no saved step in {self.folder} is good ({faults}); start again in a new directory"
            )
        return None

    def set_aside(self) -> None:
        """Renames the damaged steps that `newest_good` passed over: they will be saved anew."""
        for step, _ in self.damaged if self.writes else ():
            aside = self.folder / f"{step}{DAMAGED}"
            if aside.exists():
                shutil.rmtree(aside)
            os.replace(self.folder / str(step), aside)

    def best_good(self) -> tuple[int | None, str]:
        """The best step so far, None where there is none, and what is wrong with it."""
        self.wait()
        return self._best, "" if self._best is None else self.fault(self._best)

    def restore(self, step: int, like: Any) -> Restored:
        """A step, whose files are to be known as good.

        Args:
          step: its number.
          like: a tree with the structure, shapes and dtypes to expect.

        Raises:
          InputError: it holds other arrays than `like`, by the name of the first.
        """
        folder = self.folder / str(step)
        record = json.loads((folder / RUN).read_bytes())
        host = jax.tree.map(_host_like, like)
        _check_leaves(record.pop("leaves"), _leaves(host), folder)
        import orbax.checkpoint as ocp

        with _orbax() as orbax:
            found = orbax.restore(
                (folder / STATE).absolute(),
                args=ocp.args.StandardRestore(host),  # type: ignore[call-arg]
            )
        if self._best is None:
            self._best = record["best_step"]
        return Restored(step, jax.tree.map(_from_host, found, like), record)

    def leaves(self, step: int) -> list[list[Any]]:
        """Name, shape and dtype of every array of a step."""
        return json.loads((self.folder / str(step) / RUN).read_bytes())["leaves"]

    def file_names(self, step: int) -> list[str]:
        """Names of the `files` that were given to `save`."""
        own = (RUN, MANIFEST)
        paths = (self.folder / str(step)).glob("*.json")
        return sorted(path.stem for path in paths if path.name not in own)

    def read_file(self, step: int, name: str) -> Any:
        """What was given to `save` as `files[name]`; None if there is no such file."""
        path = self.folder / str(step) / f"{name}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def _write(self, step: int, host: Any, texts: dict[str, str], best: int | None) -> None:
        """The whole save, in the thread."""
        import orbax.checkpoint as ocp

        final = self.folder / str(step)
        partial = self.folder / f"{step}{PARTIAL}"
        try:
            partial.mkdir(parents=True)
            _reserve(partial / "room", sum(leaf.nbytes for leaf in jax.tree.leaves(host)))
            with _quiet_orbax(), _orbax() as orbax:
                orbax.save(
                    (partial / STATE).absolute(),
                    args=ocp.args.StandardSave(host),  # type: ignore[call-arg]
                )
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
            manifest = {
                path.relative_to(partial).as_posix(): [path.stat().st_size, sha256(path)]
                for path in _files(partial)
            }
            (partial / MANIFEST).write_text(json.dumps({"files": manifest}), encoding="utf-8")
            for path in [*_files(partial), partial / MANIFEST, partial]:
                _to_disk(path)
            os.replace(partial, final)
            _to_disk(self.folder)
        finally:
            if partial.exists():
                shutil.rmtree(partial, ignore_errors=True)
        self._discard(keep={*self.steps()[-self.keep :], step, best})

    def _discard(self, keep: set[int | None]) -> None:
        """Deletes the other steps, each under a name that is cleared if this is cut short.

        What was the best when a kept step was saved stays too: that step may be gone back to.
        """
        paths = [self.folder / str(step) / RUN for step in keep if step is not None]
        records = [json.loads(path.read_bytes()) for path in paths if path.exists()]
        keep = keep | {record["best_step"] for record in records}
        for step in set(self.steps()) - keep:
            doomed = self.folder / f"{step}{PARTIAL}"
            os.replace(self.folder / str(step), doomed)
            shutil.rmtree(doomed)


def _orbax() -> "ocp.Checkpointer":
    """Orbax within this process: it would wait for the others, which do not write."""
    import orbax.checkpoint as ocp  # a fifth of the start of every command

    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _to_host(tree: Any) -> Any:
    """Every leaf as a numpy array of its own; typed random keys as their bits."""

    def leaf_to_host(leaf):
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                from jax.experimental import multihost_utils

                return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.array(leaf)

    return jax.tree.map(leaf_to_host, tree)


def local_copy(tree: Any) -> Any:
    """The same values in arrays of this process alone; every process has to ask for it."""
    return jax.tree.map(_from_host, _to_host(tree), tree)


def first_nonfinite_leaf(tree: Any) -> str | None:
    """Name of the first leaf that holds a NaN or an infinity, such as "params.rnn.W_h"."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.all(np.isfinite(np.asarray(leaf))):
            return jax.tree_util.keystr(path, simple=True, separator=".")
    return None


def _host_like(leaf: Any) -> np.ndarray:
    """Zeros of the shape and dtype that `_to_host` would give, without fetching anything."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return np.zeros(leaf.shape, leaf.dtype)


def _from_host(found: Any, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(like))
    return jnp.asarray(found)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(tree: Any) -> list[list[Any]]:
    """Name, shape and dtype of every leaf."""
    return [
        [jax.tree_util.keystr(path, simple=True, separator="."), list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _check_leaves(saved: list[list[Any]], expected: list[list[Any]], folder: Path) -> None:
    """Refuses saved arrays that are not the expected ones, by the name of the first."""
    if saved == expected:
        return
    old = {name: (shape, dtype) for name, shape, dtype in saved}
    new = {name: (shape, dtype) for name, shape, dtype in expected}
    for name in [*new, *old]:
        if name not in old:
            raise InputError(f"{folder} holds no {name}: this run has another model or optimiser")
        if name not in new:
            raise InputError(f"{folder} holds {name}, which this run does not have")
        if old[name] != new[name]:
            raise InputError(
                f"{folder}: {name} has shape {tuple(old[name][0])} and dtype {old[name][1]}, "
                f"this run has {tuple(new[name][0])} and {new[name][1]}"
            )


def _files(folder: Path) -> list[Path]:
    """All files below a folder but its manifest."""
    top = folder / MANIFEST
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != top)


def _reserve(path: Path, size: int) -> None:
    """Fails at once where a file of `size` bytes has no room: Orbax would fail with much noise."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size + 1)
    path.unlink()


def _to_disk(path: Path) -> None:
    """Returns when a file's content, or a folder's names, would survive a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: BaseException) -> str:
    """Why a save failed, in a few words: the system's own where it has any."""
    text = " ".join(str(error).split())
    if "[os_error_code='" in text:
        return os.strerror(int(text.rpartition("[os_error_code='")[2].partition("'")[0]))
    return getattr(error, "strerror", None) or text


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Without Orbax's pages of traceback: a failed save is reported once, in one line."""
    logger = logging.getLogger("absl")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
