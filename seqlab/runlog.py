"""One run, one directory: what was asked, what was measured, what came out."""

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import math
import operator
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from seqlab.errors import InputError
from seqlab.files import read_object, to_json, write_whole
from seqlab.progress import is_live, tqdm
from seqlab.runview import run_html
from seqlab.writers import Kind, Writer, open_writer

CONFIG, METRICS, SUMMARY, FIGURES = "config.json", "metrics.jsonl", "summary.json", "figures"
CHECKPOINTS = "checkpoints"
PACKAGES = ("seqlab", "jax", "jaxlib", "flax", "optax", "numpy", "llvmlite")
OWN_FIGURES = (
    "wall_s", "peak_rss_mb", "device", "metrics_lines", "nonfinite_written", "resumed"
)  # fmt: skip
SECONDS_BETWEEN_LINES = 10.0  # of a progress bar that no one watches live


class RunLog:
    """Writes the directory of one run.

    | file | when | what |
    |---|---|---|
    | `config.json` | at once | config values, versions, device, git commit, command line |
    | `metrics.jsonl` | by `write`, on disk line by line | one JSON object a line |
    | `figures/` | empty at first | for the experiment's plots |
    | `summary.json` | by `finish`, whole or not at all | the final figures |

    The clock is read for `config.json` and `summary.json` only: the same config and seed give a
    `metrics.jsonl` equal byte for byte. A directory without `summary.json` is an unfinished run,
    and `read_run` says so; with `resume` it is gone on with.

    Attributes:
      path: the run directory.
      resumed: how often the run was gone on with, 0 for a new one.
      writes: False where another process writes for this one; every call then does nothing.
      waits: True while a signal to stop is answered after the step in hand, by `stop`.
      stop: None, or the exception that such a signal asks for.
      inner: None, or the run within this one that is being made, see `inside`.
      figures: the folder for figures, there from the start.
      finished: True once `finish` has written `summary.json`.
      nonfinite_written: how many NaN or infinite numbers became null so far.
      console: where tables go.
    """

    def __init__(
        self,
        config: Any,
        *,
        experiment: str,
        module: str | None = None,
        out: Path | str | None = None,
        root: Path | str = "runs",
        resume: bool = False,
        writes: bool = True,
        track: Kind = "none",
        command: str | None = None,
        source: Path | str = __file__,
        console: Console | None = None,
    ):
        """Makes the directory and writes `config.json`.

        Args:
          config: a dataclass of what JSON can hold: numbers, texts, paths, tuples, dataclasses.
          experiment: the experiment's name; the directory is `root/experiment/<time>-<seed>`.
          module: the importable module that holds it.
          out: another directory instead; it must be empty or not exist.
          root: the folder of all runs.
          resume: `out` holds an unfinished run to go on with. What is written before `rewind` has
            been written by that run already, and is compared.
          writes: False where another process writes the same run.
          track: where the metrics go beside the file, see `seqlab.writers`.
          command: the command line to note; this process's own if None.
          source: a file of the code that runs; its git commit is noted.
          console: where tables go; standard output if None.

        Raises:
          InputError: the directory is not empty, cannot be written, or another process writes it.
        """
        self._started = time.perf_counter()
        self._wall_before = 0.0
        commit, modified = _git_state(Path(source))
        record = {
            "experiment": experiment,
            "module": module,
            "config": config_values(config),
            "command": shlex.join(sys.argv) if command is None else command,
            "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
            "device": _device(),
            "processor": processor(),
            "native": os.environ.get("SEQLAB_NATIVE") != "0",  # loops, see `seqlab.unroll`
            "track": track,
            "git_commit": commit,
            "git_modified": modified,
        }
        if console is None:
            console = Console()
            if not console.is_terminal:
                console.width = max(console.width, 120)
        self.console = console
        self.finished = False
        self.nonfinite_written = 0
        self.resumed = 0
        self.writes = writes
        self.waits = False
        self.stop: type[BaseException] | None = None
        self.inner: RunLog | None = None
        self._experiment, self._module, self._source = experiment, module, source
        self._lines = 0
        self._hash = hashlib.sha256()  # of all metrics so far
        self._bars: list[tqdm] = []
        self._track: Kind = track
        self._writer: Writer | None = None
        self._replayed: list[bytes] | None = None  # lines of a resumed run, until `rewind`
        if not writes:
            assert out is not None, "a run of several processes needs one directory for all"
            self.path, self._made = Path(out), False
            self.figures = self.path / FIGURES
            self.resumed = int(resume)
            return
        if resume:
            assert out is not None
            self.path, self._made = Path(out), False
        elif out is None:
            name = f"{datetime.now():%Y%m%d-%H%M%S}-{getattr(config, 'seed', 0)}"
            self.path, self._made = _fresh_directory(Path(root) / experiment, name), True
        else:
            self.path, self._made = _empty_directory(Path(out))
        self.figures = self.path / FIGURES
        with _writing(self.path):
            if resume:
                self._reopen(record)
            else:
                # The config first: from here on the run can be resumed.
                write_whole(self.path / CONFIG, to_json(record))
                self._metrics = (self.path / METRICS).open("xb", buffering=0)
                _lock(self._metrics, self.path)
                self.figures.mkdir()
                self._open_writer()

    def _open_writer(self, kept: int | None = None) -> None:
        """Opens the dashboard's writer; a resumed run's with the first `kept` bytes of metrics."""
        if self._track == "none":
            return
        rows = None
        if kept is not None:
            content = (self.path / METRICS).read_bytes()[:kept]
            rows = [json.loads(line) for line in content.splitlines()]
        self._writer = open_writer(self._track, self.path, read_record(self.path), rows)

    def _reopen(self, record: dict[str, Any]) -> None:
        """Goes on with an unfinished run; `record` says when, by which command and versions."""
        (self.path / METRICS).touch()
        self._metrics = (self.path / METRICS).open("r+b", buffering=0)
        _lock(self._metrics, self.path)
        before = read_record(self.path)
        again = {key: record[key] for key in record if key not in ("experiment", "config")}
        before["resumed"] = [*before.get("resumed", []), again]
        before["config"] = record["config"]  # what may change on resume may have changed
        self.resumed = len(before["resumed"])
        write_whole(self.path / CONFIG, to_json(before))
        self.figures.mkdir(exist_ok=True)
        if (self.path / CHECKPOINTS).is_dir():
            self._replayed = []
        else:
            self._metrics.truncate(0)  # nothing was saved: from the beginning, to the same numbers
            self._open_writer(kept=0)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, *, step: int, **fields: Any) -> None:
        """Adds one line to `metrics.jsonl`.

        Args:
          step: the training step, 0 before training.
          **fields: scalars, texts, arrays of numpy or jax, lists and dicts of these. A NaN or an
            infinite number is written as null and counted. None is refused, so that null always
            means such a number. Leave out what the clock says: it differs from run to run.

        Raises:
          TypeError: a field that JSON cannot hold, by name.
          ValueError: a field that is None.
          RuntimeError: after `finish`.
        """
        if self.finished:
            raise RuntimeError(f"{self.path} is finished: write metrics before `finish`")
        row: dict[str, Any] = {"step": operator.index(step)}
        for name, value in fields.items():
            if value is None:
                raise ValueError(f"metric {name} is None: leave the field out")
            row[name] = _to_json(value, name, self._null)
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        self._lines += 1
        if self._replayed is not None:
            self._replayed.append(line)
        elif self.writes:
            self._append(line)
            if self._writer is not None:
                self._writer.write(row["step"], row)

    def _append(self, line: bytes) -> None:
        self._hash.update(line)
        with _writing(self.path / METRICS):
            while line:  # an unbuffered write may take a part
                line = line[self._metrics.write(line) :]

    def mark(self) -> dict[str, Any]:
        """The place in the metrics that has been reached, for `rewind`: JSON values.

        What was written up to it is on disk when this returns.
        """
        if self.writes:
            os.fsync(self._metrics.fileno())
        return {
            "bytes": self._metrics.tell() if self.writes else 0,
            "sha256": self._hash.hexdigest(),
            "lines": self._lines,
            "nonfinite": self.nonfinite_written,
            "wall_s": self._wall_s(),
        }

    def objection(self, mark: Mapping[str, Any]) -> str:
        """Why a resumed run cannot be taken back to a place; empty if it can.

        Raises:
          InputError: the metrics file cannot be read.
        """
        if not self.writes:
            return ""
        with _reading(self.path / METRICS):
            self._metrics.seek(0)
            content = self._metrics.read(mark["bytes"])
        if len(content) < mark["bytes"]:
            return f"{METRICS} has {len(content)} bytes, expected {mark['bytes']} or more"
        if hashlib.sha256(content).hexdigest() != mark["sha256"]:
            return f"{METRICS} has changed since it was written"
        return ""

    def rewind(self, mark: Mapping[str, Any] | None) -> None:
        """Takes a resumed run back to a place that `mark` told, or with None to its beginning.

        What was written since is cut off; it will be written again, to the same bytes.

        Raises:
          InputError: the metrics file is not what it was then (`objection`), or begins otherwise
            than what this run has written so far: the data or the code has changed.
          RuntimeError: the run was not resumed, or is rewound already.
        """
        written, self._replayed = self._replayed, None
        if mark is not None:
            self._lines, self.nonfinite_written = mark["lines"], mark["nonfinite"]
            self._wall_before = mark["wall_s"]
        if not self.writes:
            return
        if written is None:
            if mark is None and self.resumed:
                return  # it had no checkpoints and began anew when it was opened
            raise RuntimeError(f"{self.path}: only a resumed run can be rewound, and once")
        with _writing(self.path / METRICS):
            if mark is None:
                self._metrics.truncate(0)
                self._metrics.seek(0)
                for line in written:
                    self._append(line)
                self._open_writer(kept=sum(map(len, written)))
                return
            if objection := self.objection(mark):
                raise InputError(f"{self.path}: {objection}; start again in a new directory")
            self._metrics.seek(0)
            self._hash = hashlib.sha256(self._metrics.read(mark["bytes"]))
            self._metrics.seek(0)
            for number, line in enumerate(written, start=1):
                if self._metrics.read(len(line)) != line:
                    raise InputError(
                        f"{self.path / METRICS}, line {number} was otherwise when the run began: "
                        "the data or the code has changed; start again in a new directory"
                    )
            self._metrics.truncate(mark["bytes"])
            self._metrics.seek(mark["bytes"])
            self._open_writer(kept=mark["bytes"])

    def _wall_s(self) -> float:
        return round(self._wall_before + time.perf_counter() - self._started, 3)

    def finish(self, **figures: Any) -> None:
        """Writes `summary.json`: the run's final figures, and what they were made with.

        Args:
          **figures: figures under stable names with units in them (`test_perplexity`,
            `track_error_24h_km`); None or null for one that does not exist. `wall_s`,
            `peak_rss_mb`, `device`, `metrics_lines`, `nonfinite_written` and `resumed` are added;
            a resumed run's `wall_s` counts its earlier parts too.

        Raises:
          ValueError: a figure under a name that is the run log's own.
          RuntimeError: a second time.
        """
        if self.finished:
            raise RuntimeError(f"{self.path} is finished already")
        if taken := sorted(set(figures) & set(OWN_FIGURES)):
            raise ValueError(f"summary figures {', '.join(taken)} are the run log's own")
        summary = {name: _to_json(value, name, self._null) for name, value in figures.items()}
        if self._replayed is not None:
            self.rewind(None)  # it had checkpoints and asked for none
        summary["wall_s"] = self._wall_s()
        summary["peak_rss_mb"] = _peak_rss_mb()
        summary["device"] = _device()
        summary["metrics_lines"] = self._lines
        summary["nonfinite_written"] = self.nonfinite_written
        summary["resumed"] = self.resumed
        self.close()
        if self.writes:
            with _writing(self.path / SUMMARY):
                write_whole(self.path / SUMMARY, to_json(summary))
        self.finished = True

    def close(self) -> None:
        """Ends progress bars and closes the metrics file; the run stays unfinished."""
        for bar in self._bars:
            bar.close()
        self._bars.clear()
        if self.writes:
            self._metrics.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @contextmanager
    def inside(self, name: str, config: Any, module: Any = None) -> Iterator["RunLog"]:
        """A run in the folder `name` of this one, gone on with if it is there.

        A signal to stop is answered by the inner run, so that it saves what it has.

        Args:
          name: of the folder, which may hold an unfinished run and no finished one.
          config: of the inner run.
          module: the experiment that it is a run of; this one's own if None.
        """
        path = self.path / name
        experiment, module_name, source = self._experiment, self._module, self._source
        if module is not None:
            module_name = module.__name__
            experiment, source = module_name.rpartition(".")[2], Path(module.__file__).resolve()
        self.inner = RunLog(
            config,
            experiment=experiment,
            module=module_name,
            out=path,
            resume=(path / CONFIG).exists(),
            writes=self.writes,
            track=self._track,
            source=source,
            console=self.console,
        )
        try:
            with self.inner:
                yield self.inner
        finally:
            self.inner = None

    def abandon(self) -> bool:
        """Takes back a run that has recorded nothing yet, so that its place is free again.

        Returns:
          False, with every file left where it is, if there is a result to lose.

        Raises:
          InputError: a file that cannot be taken back.
        """
        self.close()
        if self.resumed or not self.writes:
            return False
        own = {self.path / CONFIG, self.path / METRICS, self.figures}
        with _writing(self.path):
            if self._lines or set(self.path.iterdir()) != own or any(self.figures.iterdir()):
                return False
            self.figures.rmdir()
            (self.path / METRICS).unlink()
            (self.path / CONFIG).unlink()
            if self._made:
                self.path.rmdir()
        return True

    def progress(
        self,
        iterable: Iterable[Any] | None = None,
        total: int | None = None,
        description: str | None = None,
        initial: int = 0,
    ) -> tqdm:
        """`iterable` itself, with count, rate and time left shown on standard error as it is used.

        Live on a terminal; elsewhere at most one update in ten seconds. Without an iterable, the
        caller calls `update`; `initial` is what was done by an earlier part of the run.
        """
        live = is_live()
        bar = tqdm(
            iterable,
            total=total,
            desc=description,
            initial=initial,
            disable=not self.writes,
            file=sys.stderr,
            mininterval=0.1 if live else SECONDS_BETWEEN_LINES,
            maxinterval=SECONDS_BETWEEN_LINES,
            dynamic_ncols=live,
        )
        self._bars.append(bar)
        return bar

    def note(self, text: str) -> None:
        """Shows one line on standard error, above any progress bar."""
        if self.writes:
            tqdm.write(text, file=sys.stderr)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Shows rows as a table; columns are their keys, in order of first appearance."""
        if not self.writes:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = Table(title=title, title_justify="left")
        for name in columns:
            is_text = any(isinstance(row.get(name), str) for row in rows)
            table.add_column(name, justify="left" if is_text else "right", overflow="fold")
        for row in rows:
            table.add_row(*(_cell_text(row.get(name)) for name in columns))
        self.console.print(table)

    def _null(self, number: float) -> None:
        del number  # JSON has no name for it
        self.nonfinite_written += 1


class Run(NamedTuple):
    """A finished run, read back from its directory.

    Attributes:
      path: the run directory.
      config: the config's values, by field name.
      record: all of `config.json`: also experiment, command, versions, device, git commit.
      metrics: one dict a line of `metrics.jsonl`, null read back as NaN.
      summary: the final figures.
    """

    path: Path
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]

    def __repr__(self) -> str:
        return f"<run of {self.record.get('experiment')} in {self.path}>"

    def _repr_html_(self) -> str:
        """Command, final figures and pictures, for a notebook."""
        return run_html(self.path, self.record, self.summary)


def read_run(directory: Path | str) -> Run:
    """A finished run from its directory.

    Raises:
      InputError: no such run, an unfinished one, or a damaged file, with the line number.
    """
    path = Path(directory)
    record = read_record(path)
    if not (path / SUMMARY).exists():
        raise InputError(f"{path} is an unfinished run: it has no {SUMMARY}; go on with it")
    summary = read_object(path / SUMMARY)
    with _reading(path / METRICS):
        *lines, rest = (path / METRICS).read_bytes().split(b"\n")
    if rest:
        raise InputError(f"{path / METRICS}, line {len(lines) + 1}: cut short")
    if len(lines) != summary.get("metrics_lines"):
        raise InputError(
            f"{path / METRICS} has {len(lines)} lines, {SUMMARY} counts "
            f"{summary.get('metrics_lines')}: it was changed after the run"
        )
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:  # bad JSON or bad UTF-8
            raise InputError(f"{path / METRICS}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or "step" not in row:
            raise InputError(f"{path / METRICS}, line {number}: not an object with a step")
        metrics.append(_null_to_nan(row))
    return Run(path, record["config"], record, metrics, summary)


def read_record(directory: Path | str) -> dict[str, Any]:
    """All of a run's `config.json`, whether the run is finished or not.

    Raises:
      InputError: not a run directory, or a damaged file.
    """
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"{path}: no such run directory")
    if not (path / CONFIG).exists():
        raise InputError(f"{path} is not a run directory: it has no {CONFIG}")
    record = read_object(path / CONFIG)
    if not isinstance(record.get("config"), dict):
        raise InputError(f"{path / CONFIG} holds no config values")
    return record


def config_values(config: Any) -> dict[str, Any]:
    """A config's values by field name, in JSON types; infinities and NaN become texts.

    Raises:
      TypeError: a value that JSON cannot hold, by its field.
    """
    return {
        field.name: _to_json(getattr(config, field.name), field.name, str)
        for field in dataclasses.fields(config)
    }


def _to_json(value: Any, name: str, nonfinite: Callable[[float], Any]) -> Any:
    """`value` in JSON types, with `nonfinite(number)` in place of a NaN or an infinity."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else nonfinite(float(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _to_json(part, name, nonfinite) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(part, name, nonfinite) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _to_json(parts, name, nonfinite)
    if hasattr(value, "__array__"):  # numpy's scalars and arrays, jax's arrays
        array = np.asarray(value)
        if array.dtype.kind == "V":  # bfloat16 and its like, unknown to numpy
            array = array.astype(np.float64)
        if array.dtype.kind in "biufU":
            return _to_json(array.tolist(), name, nonfinite)
    raise TypeError(f"{name}: {type(value).__name__} cannot be written as JSON")


def _null_to_nan(value: Any) -> Any:
    if value is None:
        return math.nan
    if isinstance(value, list):
        return [_null_to_nan(part) for part in value]
    if isinstance(value, dict):
        return {name: _null_to_nan(part) for name, part in value.items()}
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _lock(file: IO[bytes], path: Path) -> None:
    """Keeps a second process from writing the same run; a killed process's lock goes with it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(f"{path} is being written by another process") from error


def _empty_directory(path: Path) -> tuple[Path, bool]:
    """The directory, made if need be; and whether it was made."""
    with _writing(path):
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        is_empty = not any(path.iterdir())
    if (path / SUMMARY).exists():
        raise InputError(f"{path} holds a finished run: name a new run directory")
    if not is_empty:
        raise InputError(f"{path} is not empty: name a new run directory, or empty this one")
    return path, made


def _fresh_directory(parent: Path, name: str) -> Path:
    """`parent/name`, or `name-2`, `name-3`, ... where another run of this second has it."""
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        with _writing(path):
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                if not path.is_dir():
                    raise
        number += 1


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _cell_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _device() -> str:
    """What computes: jax's devices where jax is in use, else the processor."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax = sys.modules.get("jax")
    if jax is None:
        return f"cpu ({cores} cores)"
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise InputError(f"jax finds no device: {str(error).splitlines()[0]}") from error
    if devices[0].platform == "cpu":
        return f"cpu ({cores} cores)"
    return f"{devices[0].platform}: {len(devices)} x {devices[0].device_kind}"


def processor() -> str:
    """The model's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _peak_rss_mb() -> float | None:
    """Largest resident memory so far, in 1e6 bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory from before this program began
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def _git_state(source: Path) -> tuple[str | None, bool | None]:
    """The commit of a file under git, and whether tracked files differ from it; else Nones."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=source.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
