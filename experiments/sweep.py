"""Runs an experiment at every point of a grid, over seeds, several runs at a time.

    python -m experiments.sweep vanishing_gradients --grid hidden_size=32,64 cells=rnn,lstm
    python -m experiments.sweep exploding_gradients --grid activation=tanh,relu --seeds 5 -- --quick
    python -m experiments.sweep --table runs/sweep/vanishing_gradients-20261123-180000

Commas part the values of a field, `+` the entries of one value: `cells=rnn+lstm,gru` is two points,
("rnn", "lstm") and ("gru",); write 1e3 for 1e+3 there, True or False for a switch. What follows
`--` goes to every run, `--seed` being the first of the seeds. All of it is checked before anything
starts.

A study whose config has `num_seeds` trains its seeds in one compiled program: one run a point. Any
other is run once a seed. Each run is an ordinary one in DIR/<point>/seed-<s>, its output beside it
in seed-<s>.log, and a failed one does not stop the rest. Ctrl-C lets the runs in hand save; the
same command with `--out DIR` goes on, keeps what is finished, and may ask for more points or seeds.

DIR/sweep.json says what was asked, DIR/summary.json what came out: mean and sample standard
deviation over the runs of a point, of each figure in their summary.json.

`--engine submitit` gives the same commands to Slurm, or with `--cluster local` to workers on this
machine. submitit is two small packages over sbatch, which labs have, and needs no daemon; Ray would
bring a scheduler and a runtime of its own to do what Slurm does already.

A run keeps all of its threads and flags, so that it computes what the same command computes alone;
half as many runs as cores are started at once. Runs on one GPU or TPU would fight for its memory:
there it is one at a time, unless `--jobs` says otherwise.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import itertools
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
import types
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from rich.console import Console
from rich.table import Table

from seqlab.cli import parse
from seqlab.data.checks import check_at_least, check_known
from seqlab.errors import InputError
from seqlab.files import read_object, to_json, write_whole
from seqlab.progress import is_live, tqdm
from seqlab.runlog import CONFIG, SECONDS_BETWEEN_LINES, SUMMARY, config_values, read_record

SWEEP = "sweep.json"
SECONDS_BETWEEN_LOOKS = 0.1
OWN_FLAGS = ("out", "plot_only", "resume", "no_resume")  # of a run, but the sweep gives them
HEADER_WIDTH = 18  # characters of a table's column; longer names are folded


@dataclass(frozen=True)
class Config:
    """What to run, where and how."""

    experiment: tyro.conf.Positional[
        Annotated[str, tyro.conf.arg(metavar="EXPERIMENT", help_behavior_hint="")]
    ] = ""
    """name in experiments/, or a module of your own that ends in main(Config, run)"""
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE,VALUE ...")] = ()
    """fields of its config with the values to try; every combination is a point"""
    seeds: int | None = None
    """seeds a point; without it, as many as the study has by itself"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """directory of the sweep, new or of an earlier one to go on with.
    Default: runs/sweep/<experiment>-<time>."""
    jobs: int | None = None
    """runs at a time; default: half of the cores, one where there is a GPU or TPU, all on Slurm"""
    engine: Literal["processes", "submitit"] = "processes"
    """subprocesses on this machine, or jobs of submitit"""
    cluster: Literal["slurm", "local"] = "slurm"
    """where submitit runs them"""
    resources: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """for submitit: timeout_min=600 gpus_per_node=1 slurm_partition=gpu; one day if not said"""
    table: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """print the table of an earlier sweep; nothing is run"""
    flags: tyro.conf.Suppress[tuple[str, ...]] = ()


class Member(NamedTuple):
    """One run of the sweep; two are equal only if they are the same."""

    point: dict[str, Any]  # the grid's fields, JSON values
    seed: int
    folder: Path
    config: Any
    command: list[str]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs or shows a sweep; the exit code.

    0: every run is finished; 1: some failed; 2: the user's mistake, nothing was started; 130 and
    143: stopped by Ctrl-C and by SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    config = tyro.cli(
        Config, args=words[:cut], prog="python -m experiments.sweep", description=__doc__
    )
    config = dataclasses.replace(config, flags=tuple(words[cut + 1 :]))
    try:
        if config.table is None:
            return run(config)
        if config != Config(table=config.table):
            raise InputError("--table prints a sweep as it is: it takes no other flag")
        show(summarize(config.table))
        return 0
    except InputError as error:
        sys.stderr.write("error: " + " ".join(str(error).splitlines()) + "\n")
        return 2


def run(config: Config) -> int:
    """Runs what is not finished yet, then writes and prints the table; the exit code."""
    module = load_study(config.experiment)
    name = module.__name__.rpartition(".")[2]
    out = config.out or Path("runs") / "sweep" / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    members = plan(config, module, out)
    check_directory(out, name)
    for member in members:
        check_member(member, name)
    jobs = default_jobs(config, len(members)) if config.jobs is None else config.jobs
    check_at_least(jobs, 1, "jobs")
    start = start_process if config.engine == "processes" else submitter(config, out)
    write_json(
        out / SWEEP,
        {
            "experiment": name,
            "module": module.__name__,
            "grid": list(config.grid),
            "seeds": config.seeds,
            "seeds_in_one_run": config.seeds is not None and has_field(module, "num_seeds"),
            "flags": list(config.flags),
            "members": [
                {
                    "point": member.point,
                    "seed": member.seed,
                    "folder": member.folder.relative_to(out).as_posix(),
                }
                for member in members
            ],
        },
    )
    failed, stopped_by = run_members(members, start, jobs)
    summary = summarize(out)
    write_json(out / SUMMARY, summary)
    if stopped_by:
        again = ["python", "-m", "experiments.sweep", *again_with(config, out)]
        sys.stderr.write(
            f"stopped: {summary['finished']} of {summary['asked']} runs are finished; go on with: "
            f"{shlex.join(again)}\n"
        )
        return 128 + stopped_by
    show(summary)
    print(f"results in {out / SUMMARY}")
    return 1 if failed else 0


# What is to be run, checked before anything is.


def load_study(name: str) -> types.ModuleType:
    """The module of an experiment, by its name in experiments/ or its own dotted name."""
    here = Path(__file__).parent
    files = (path.relative_to(here).with_suffix("") for path in here.rglob("*.py"))
    known = {".".join(path.parts) for path in files} - {"sweep"}
    known = sorted(each for each in known if not each.endswith("__init__"))
    if not name:
        raise InputError(f"name an experiment: {', '.join(known)}, or a module of your own")
    if name in known:
        name = f"experiments.{name}"
    elif "." not in name and importlib.util.find_spec(name) is None:
        check_known(name, known, "experiment")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"{name}: there is no module {error.name}") from error
    if not dataclasses.is_dataclass(getattr(module, "Config", None)):
        raise InputError(f"{name} is no experiment: it has no dataclass Config")
    return module


def plan(config: Config, module: types.ModuleType, out: Path) -> list[Member]:
    """Every run of the sweep, its config built and so checked."""
    if config.seeds is not None:
        check_at_least(config.seeds, 1, "seeds")
    grid = read_grid(config, module)
    check_flags(config, grid)
    base = parse(module.Config, list(config.flags), module.__name__).config
    in_one = config.seeds is not None and has_field(module, "num_seeds")
    count = 1 if config.seeds is None or in_one else config.seeds
    more = {"num_seeds": config.seeds} if in_one else {}
    members = []
    for texts in itertools.product(*grid.values()):
        point = dict(zip(grid, texts, strict=True))
        label = " ".join(f"{field}={text}" for field, (text, _) in point.items())
        values = {field: value for field, (_, value) in point.items()}
        for seed in range(base.seed, base.seed + count):
            try:
                built = dataclasses.replace(base, **values, **more, seed=seed)
            except InputError as error:
                raise InputError(f"{label}: {error}" if label else str(error)) from error
            folder = out / folder_name(point) / f"seed-{seed}"
            command = [sys.executable, "-m", module.__name__, *config.flags]
            for field, (text, value) in point.items():
                command += flag_words(module, field, text, value)
            if in_one:
                command += ["--num-seeds", str(config.seeds)]
            command += ["--seed", str(seed), "--out", str(folder)]
            written = config_values(built)
            members.append(
                Member({field: written[field] for field in grid}, seed, folder, built, command)
            )
    return members


def read_grid(config: Config, module: types.ModuleType) -> dict[str, list[tuple[str, Any]]]:
    """Field -> the values to try, each as its text and as what it means; in the config's order."""
    hints = get_type_hints(module.Config, include_extras=True)
    fields = [field.name for field in dataclasses.fields(module.Config) if field.init]
    grid = {}
    for entry in config.grid:
        name, equals, values = entry.partition("=")
        field = name.removeprefix("--").replace("-", "_")
        if not equals:
            raise InputError(f"--grid {entry}: expected FIELD=VALUE,VALUE")
        check_known(field, fields, f"field of {module.Config.__module__}.Config in --grid")
        if field == "seed" or (field == "num_seeds" and config.seeds is not None):
            raise InputError(f"--grid {field}: seeds are asked for by --seeds, the first after --")
        if field in grid:
            raise InputError(f"--grid names {field} twice")
        texts = values.split(",")
        if len(set(texts)) != len(texts):
            raise InputError(f"--grid {entry}: a value is there twice")
        grid[field] = [(text, value_of(hints[field], field, text)) for text in texts]
    return {field: grid[field] for field in fields if field in grid}


def value_of(hint: Any, field: str, text: str) -> Any:
    """What a text means for a field, as the experiment's own command line reads it."""
    words = text.split("+") if is_sequence(hint) else [text]
    if not all(words):
        raise InputError(f"--grid {field}: an empty value")
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
            return tyro.cli(hint, args=words)
    except SystemExit:
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise InputError(f"--grid {field}: {text!r} is no {wanted}") from None


def flag_words(module: types.ModuleType, field: str, text: str, value: Any) -> list[str]:
    """The words that give a run this value of the field."""
    hint = get_type_hints(module.Config, include_extras=True)[field]
    flag = field.replace("_", "-")
    if plain(hint) is bool:
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *(text.split("+") if is_sequence(hint) else [text])]


def plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def is_sequence(hint: Any) -> bool:
    """Whether a field takes several words: a tuple or list, or one of these or None."""
    hint = plain(hint)
    parts = get_args(hint) if get_origin(hint) not in (tuple, list) else (hint,)
    return any(get_origin(part) in (tuple, list) for part in parts)


def has_field(module: types.ModuleType, name: str) -> bool:
    return name in {field.name for field in dataclasses.fields(module.Config)}


def check_flags(config: Config, grid: dict[str, Any]) -> None:
    """Refuses a flag after `--` that the sweep gives itself."""
    for word in config.flags:
        if not word.startswith("--"):
            continue
        name = word[2:].partition("=")[0].replace("-", "_")
        if name in OWN_FLAGS:
            raise InputError(f"{word} after --: every run gets its own place from the sweep")
        if name.removeprefix("no_") in grid or name in grid:
            raise InputError(f"{word} is in --grid and after --: give it once")
        if name == "num_seeds" and config.seeds is not None:
            raise InputError(f"{word} after -- and --seeds say the same: give one")


def folder_name(point: dict[str, tuple[str, Any]]) -> str:
    """A point as the name of a folder, as it reads where file systems and shells allow that."""
    label = ",".join(f"{field}={text}" for field, (text, _) in point.items()) or "all"
    name = re.sub(r"[^\w.=,+-]", "_", label)
    if name == label and len(name) <= 120:
        return name
    return f"{name[:110]}-{zlib.crc32(label.encode()):08x}"  # two points may look alike now


def default_jobs(config: Config, num_members: int) -> int:
    if config.engine == "submitit" and config.cluster == "slurm":
        return num_members
    devices = (*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("accel[0-9]*"))
    if devices and os.environ.get("JAX_PLATFORMS") != "cpu":
        return 1
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, cores // 2)


def check_directory(out: Path, name: str) -> None:
    """Refuses a directory that holds anything but a sweep of this experiment."""
    if (out / SWEEP).exists():
        before = read_object(out / SWEEP).get("experiment")
        if before != name:
            raise InputError(f"{out} holds a sweep of {before}, not of {name}: name another --out")
    elif out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} holds something else than a sweep: name a new --out")


def check_member(member: Member, name: str) -> None:
    """Refuses to keep or go on with a run of another config, by the name of the first field."""
    if not (member.folder / CONFIG).exists():
        return
    record = read_record(member.folder)
    if record.get("experiment") != name:
        raise InputError(f"{member.folder} is a run of {record.get('experiment')}, not of {name}")
    finished = (member.folder / SUMMARY).exists()
    may_change = () if finished else getattr(member.config, "may_change", ())
    for field, value in config_values(member.config).items():
        before = record["config"].get(field, value)
        if value != before and field not in may_change:
            raise InputError(
                f"{field} is {value!r}, the {'finished' if finished else 'unfinished'} run in "
                f"{member.folder} has {before!r}: leave it as it was, or name a new --out"
            )


def again_with(config: Config, out: Path) -> list[str]:
    """The flags that go on with this sweep."""
    words = [config.experiment]
    for field in dataclasses.fields(config):
        value = out if field.name == "out" else getattr(config, field.name)
        if field.name in ("experiment", "flags") or value == field.default:
            continue
        words += [f"--{field.name}", *map(str, value if isinstance(value, tuple) else [value])]
    return [*words, "--", *config.flags] if config.flags else words


# Running it.


class Started(Protocol):
    """A member that runs."""

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        ...

    def stop(self) -> None:
        """Asks it to save and end; a second time, to end at once."""
        ...

    def last_words(self) -> str:
        """What is known of a failure that left nothing in the log."""
        ...


def run_members(
    members: Sequence[Member], start: Callable[[Member], Started], jobs: int
) -> tuple[list[Member], int]:
    """Runs the unfinished ones; those that failed, and the signal that stopped it all, or 0."""
    waiting = deque(member for member in members if not is_finished(member))
    running: dict[int, tuple[Member, Started]] = {}
    failed: list[Member] = []
    live = is_live()
    bar = tqdm(
        total=len(members),
        initial=len(members) - len(waiting),
        desc="sweep",
        unit="run",
        file=sys.stderr,
        mininterval=0.1 if live else SECONDS_BETWEEN_LINES,
        dynamic_ncols=live,
    )
    numbers = itertools.count()
    told = 0
    with received_signals() as received, bar:
        try:
            while waiting or running:
                if len(received) > told:
                    told = len(received)
                    waiting.clear()
                    tqdm.write(
                        f"stopping: {len(running)} runs save and end; again to stop at once",
                        file=sys.stderr,
                    )
                    for _, started in running.values():
                        started.stop()
                while waiting and len(running) < jobs:
                    member = waiting.popleft()
                    member.log.parent.mkdir(parents=True, exist_ok=True)
                    running[next(numbers)] = (member, start(member))
                for number, (member, started) in list(running.items()):
                    code = started.poll()
                    if code is None:
                        continue
                    del running[number]
                    if is_finished(member):
                        bar.update()
                    elif not received:
                        failed.append(member)
                        tqdm.write(
                            f"failed: {member.name} (exit code {code}): "
                            f"{last_line(member.log) or started.last_words()}; log: {member.log}",
                            file=sys.stderr,
                        )
                bar.set_postfix_str(f"{len(running)} running, {len(failed)} failed", refresh=live)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            for _, started in running.values():  # left over by an error in this loop only
                started.stop()
    return failed, received[0] if received else 0


def is_finished(member: Member) -> bool:
    return (member.folder / SUMMARY).exists()


@contextlib.contextmanager
def received_signals() -> Iterator[list[int]]:
    """The numbers of the signals to stop that came in; a handler only adds to it."""
    received: list[int] = []
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    numbers = [each for each in numbers if signal.getsignal(each) != signal.SIG_IGN]  # nohup
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in numbers
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def start_command(command: Sequence[str], log: str | Path) -> subprocess.Popen:
    """A run as a process, its output at the end of its log.

    In a session of its own, so that a Ctrl-C at the terminal reaches it once, through the sweep.
    """
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Process:
    """A member as a subprocess of this one."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def last_words(self) -> str:
        return "no word of why"


def start_process(member: Member) -> Process:
    return Process(start_command(member.command, member.log))


def last_line(log: Path) -> str:
    """The last line of a run's output; empty if there was none since it was started."""
    if not log.exists():
        return ""
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace").strip())
    return "" if lines[-1].startswith("$ ") else lines[-1].strip()


# By submitit.


@dataclass
class Task:
    """What a worker of submitit does: the run's command, told to stop by a file.

    The file has one byte the first time, two the second. A file, because a signal from Slurm may
    reach the run, the worker or both, and a second one would end the run before it has saved. When
    Slurm takes the machine back, the run saves, and goes on as the job does.
    """

    command: list[str]
    log: str
    stop: str

    def __call__(self) -> int:
        if Path(self.stop).exists():
            return -signal.SIGTERM
        # Slurm's warning goes to the worker, which passes it on as SIGTERM.
        with blocked_signals(signal.SIGUSR1, signal.SIGUSR2):
            self.process = start_command(self.command, self.log)
        told = 0
        while True:
            with contextlib.suppress(FileNotFoundError):
                if Path(self.stop).stat().st_size > told:
                    told += 1
                    self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=0.5)

    def checkpoint(self) -> Any:
        """Called by submitit before the job is put back in the queue."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        self.process.wait()
        return DelayedSubmission(Task(self.command, self.log, self.stop))


class Job:
    """A member as a job of submitit."""

    def __init__(self, job: Any, stop: Path):
        self._job, self._stop, self._told = job, stop, 0

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        error = self._job.exception()
        return 1 if error is not None else self._job.result()

    def stop(self) -> None:
        if self._job.state == "PENDING":
            self._job.cancel(check=False)
        self._told += 1
        self._stop.write_text("x" * self._told)

    def last_words(self) -> str:
        lines = (self._job.stderr() or "").strip().splitlines()
        return lines[-1] if lines else f"job {self._job.job_id} left no word of why"


def submitter(config: Config, out: Path) -> Callable[[Member], Job]:
    """Makes an executor; what starts a member by it."""
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            'submitit is not installed: pip install "seqlab[sweep]", or leave out --engine'
        ) from error

    folder = out.resolve() / "submitit"
    parameters: dict[str, Any] = {"timeout_min": 24 * 60, "name": config.experiment}
    for entry in config.resources:
        name, equals, text = entry.partition("=")
        if not equals:
            raise InputError(f"--resources {entry}: expected NAME=VALUE")
        parameters[name] = int(text) if re.fullmatch(r"-?\d+", text) else text
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=config.cluster)
        executor.update_parameters(**parameters)
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"submitit: {error}") from error
    stop = folder / "stop"
    stop.unlink(missing_ok=True)

    def start(member: Member) -> Job:
        task = Task(member.command, str(member.log.resolve()), str(stop))
        with blocked_signals(signal.SIGINT):  # a local worker would take the terminal's Ctrl-C
            return Job(executor.submit(task), stop)

    return start


@contextlib.contextmanager
def blocked_signals(*numbers: int) -> Iterator[None]:
    """Signals that a process started in here does not get."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What came out.


def summarize(out: Path) -> dict[str, Any]:
    """What `summary.json` of a sweep holds, from what its runs have written by now."""
    if not (out / SWEEP).exists():
        raise InputError(f"{out} is not a sweep's directory: it has no {SWEEP}")
    asked = read_object(out / SWEEP)
    points: dict[str, dict[str, Any]] = {}
    for member in asked["members"]:
        path = out / member["folder"] / SUMMARY
        point = points.setdefault(
            str(Path(member["folder"]).parent),
            {"point": member["point"], "asked": 0, "missing": [], "figures": {}},
        )
        point["asked"] += 1
        if not path.exists():
            point["missing"].append(member["folder"])
            continue
        for name, value in scalars(read_object(path)):
            point["figures"].setdefault(name, []).append(value)
    for point in points.values():
        point["figures"] = {name: spread(values) for name, values in point["figures"].items()}
    num_missing = sum(len(point["missing"]) for point in points.values())
    return {
        "experiment": asked["experiment"],
        "seeds": asked["seeds"],
        "seeds_in_one_run": asked["seeds_in_one_run"],
        "asked": len(asked["members"]),
        "finished": len(asked["members"]) - num_missing,
        "points": list(points.values()),
    }


def scalars(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested figures, by dotted name."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, value


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one run) and number of runs."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "n": len(values), "values": values}


def show(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints the table, one row a point; columns that do not fit stand in a further table."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, 120)
    rows = []
    for point in summary["points"]:
        num_finished = point["asked"] - len(point["missing"])
        missing = " missing" if point["missing"] else ""
        head = {field: as_text(value) for field, value in point["point"].items()}
        head["runs"] = f"{num_finished}/{point['asked']}{missing}"
        figures = {
            general_name(name, point["point"]): figure_text(figure, num_finished)
            for name, figure in point["figures"].items()
        }
        rows.append((head, figures))
    heads = list(rows[0][0])
    columns = list(dict.fromkeys(name for _, figures in rows for name in figures))
    title = f"{summary['experiment']}: {summary['finished']} of {summary['asked']} runs"
    if summary["seeds_in_one_run"]:
        title += f", {summary['seeds']} seeds inside each"
    elif summary["asked"] > len(summary["points"]):
        title += ", mean ± standard deviation over runs"
    console.print(title, markup=False, highlight=False)
    for block in blocks(heads, columns, rows, console.width):
        table = Table()
        for name in heads:
            table.add_column(folded(name))
        for name in block:
            table.add_column(folded(name), justify="right", overflow="fold")
        for head, figures in rows:
            table.add_row(*head.values(), *(figures.get(name, "-") for name in block))
        console.print(table)


def blocks(heads: list[str], columns: list[str], rows: list, width: int) -> list[list[str]]:
    """The columns in groups that fit on the page beside the point; at least one in each."""

    def size(name: str, part: int) -> int:
        texts = [row[part].get(name, "-") for row in rows]
        return 3 + max(len(text) for text in (*folded(name).split("\n"), *texts))

    room = width - 1 - sum(size(name, 0) for name in heads)
    found: list[list[str]] = [[]]
    used = 0
    for name in columns:
        used += size(name, 1)
        if used > room and found[-1]:
            found.append([])
            used = size(name, 1)
        found[-1].append(name)
    return found


def general_name(name: str, point: dict[str, Any]) -> str:
    """`cells.rnn.loss` at a point with cells=rnn is `cells.{cells}.loss`: one column for all."""
    fields = {as_text(value): f"{{{field}}}" for field, value in point.items()}
    return ".".join(fields.get(part, part) for part in name.split("."))


def figure_text(figure: dict[str, Any], num_finished: int) -> str:
    text = f"{figure['mean']:.4g}"
    if figure["std"] is not None:
        text += f" ± {figure['std']:.2g}"
    return text if figure["n"] == num_finished else f"{text} (n={figure['n']})"


def as_text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def folded(name: str) -> str:
    """A long name on several lines, broken after dots and underscores."""
    lines = [""]
    for part in re.findall(r"[^._]*[._]?", name):
        if lines[-1] and len(lines[-1] + part) > HEADER_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a file that is there whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(value))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
