"""The command line of an experiment is its config: one flag a field, by tyro."""

import dataclasses
import enum
import os
import shlex
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from rich.console import Console

from seqlab.data.sources import cache_folder
from seqlab.errors import InputError
from seqlab.runlog import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    SUMMARY,
    RunLog,
    config_values,
    read_record,
    read_run,
)
from seqlab.writers import Kind

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Command(Generic[C]):
    """Flags that every experiment has, beside its own config."""

    config: Annotated[C, tyro.conf.OmitArgPrefixes]
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Start from the small preset; other flags still count."""
    full: tyro.conf.FlagCreatePairsOff[bool] = False
    """Start from the preset at the scale of a paper, if there is one; other flags still count."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Start from a named preset, if there are any; other flags still count."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run directory: new, empty, or an unfinished run's to go on with it.
    Default: runs/<experiment>/<time>-<seed>."""
    resume: bool = True
    """Go on with the unfinished run in --out, from its newest good checkpoint."""
    from_run: Annotated[Path | None, tyro.conf.arg(metavar="RUN_DIR")] = None
    """Start from the config of an earlier run; other flags still count."""
    predict: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Answer what is in a file, or on standard input for -, with the model of the finished run in
    --from-run. Answers go to standard output; nothing is trained."""
    track: Kind = "none"
    """Also show the metrics on a dashboard; its files are in the run directory."""
    plot_only: Annotated[Path | None, tyro.conf.arg(metavar="RUN_DIR")] = None
    """Redraw the figures of a finished run from its files; nothing is computed."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the main thread stands."""


def main(
    config_class: type[C],
    run: Callable[[C, RunLog], object],
    plot: Callable[[Path], object] | None = None,
    argv: Sequence[str] | None = None,
    *,
    predict: Callable[..., object] | None = None,
) -> Path:
    """Runs an experiment from the command line and says where its results are.

    The flags are the fields of `config_class` (`--seq-len 400`, `--cells rnn lstm`) and those of
    `Command`. The config is made, and so checked, before the run directory is. A user's mistake
    (`InputError`, an unknown flag) is one message on standard error and exit code 2; Ctrl-C and
    SIGTERM save where the experiment saves, say how to go on, and exit with 130 and 143.

    With `--out` at an unfinished run, its config is the starting one, and it must stay as it is but
    for the fields that the config class names in `may_change` (a class variable).

    Args:
      config_class: a frozen dataclass with a default for every field, a `seed`, and a classmethod
        `quick`, perhaps one called `full` and one called `presets` (name -> config for
        `--preset`); its `__post_init__` may raise `InputError`.
      run: does the work, `run(config, log)`; where it does not call `log.finish`, this does.
      plot: draws figures from a run directory's files, `plot(run_dir)`.
      argv: the flags; the process's own if None.
      predict: prints what the model of a finished run answers, `predict(run_dir, source)`, where
        the source is the file that was named, or "-"; fields that the config class names in
        `may_ask` may be given on the command line, and are handed over by name.

    Returns:
      The run directory.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    module = config_class.__module__
    try:
        command = parse(config_class, argv, module)
        if command.plot_only is not None:
            return _plot_only(command, plot, module, config_class())
        if command.predict is not None:
            return _predict(command, predict, module)
        return _run(command, run, plot, module, argv)
    except InputError as error:
        _exit(f"error: {error}", 2)


def _run(
    command: Command, run: Callable, plot: Callable | None, module: str, argv: list[str]
) -> Path:
    log = None
    _keep_compiled_programs()
    with _signals_stop(lambda: log):
        try:
            said = _use_all_cores(command.config)
            resume, writes = _join_processes(command)
            log = RunLog(
                command.config,
                experiment=_experiment(module),
                module=_module_name(module),
                out=command.out,
                resume=resume,
                writes=writes,
                track=_track(command),
                command=shlex.join([*_program(module), *argv]),
                source=Path(getattr(sys.modules[module], "__file__", __file__)).resolve(),
            )
            with log, _single_threaded_lapack():
                if said:
                    log.note(said)
                run(command.config, log)
                if not log.finished:
                    log.finish()
                if plot is not None and log.writes:
                    plot(log.path)
        except InputError as error:
            if log is None or log.finished or log.abandon():
                raise
            raise InputError(f"{error} (unfinished run left in {log.path})") from error
        except KeyboardInterrupt as stop:
            word, code = ("terminated", 143) if isinstance(stop, _Terminated) else ("stopped", 130)
            if log is None:
                _exit(f"{word}: nothing was written", code)
            if log.finished:
                again = shlex.join([*_program(module), "--plot-only", str(log.path)])
                _exit(f"{word}: {log.path} is finished, its figures are not: {again}", code)
            again = shlex.join([*_program(module), "--out", str(log.path)])
            where = f" after step {stop.args[0]}, which is saved" if stop.args else ""
            verb = "go on" if (log.path / CHECKPOINTS).is_dir() else "start again"
            _exit(f"{word}{where}: the run in {log.path} is unfinished; {verb} with: {again}", code)
    if log.writes:
        log.console.print(f"results in {log.path}", soft_wrap=True, markup=False, highlight=False)
    return log.path


def _use_all_cores(config: Any) -> str | None:
    """One device a core for an experiment that shares out batches; what was set, in one line."""
    if not hasattr(config, "num_devices"):
        return None
    from seqlab import devices

    return devices.make_one_per_core(config.num_devices)


def _join_processes(command: Command) -> tuple[bool, bool]:
    """Joins the processes that train together, if there are several.

    Returns:
      Whether an unfinished run is to be gone on with, as the first process sees it, and whether
      this process writes.
    """
    from seqlab import devices

    if devices.join() and command.out is None:
        raise InputError("several processes write one run: name its directory with --out")
    return bool(devices.agree(_unfinished(command) is not None)), devices.is_first()


def _track(command: Command) -> Kind:
    """The dashboard that is asked for; that of the run that is gone on with if none is."""
    record = _unfinished(command)
    return command.track if record is None or command.track != "none" else record["track"]


def _unfinished(command: Command) -> dict[str, Any] | None:
    """The record of the unfinished run that is to be gone on with, or None."""
    if not command.resume or command.out is None:
        return None
    return _unfinished_record(command.out)


def _unfinished_record(path: Path | str) -> dict[str, Any] | None:
    path = Path(path)
    if (path / SUMMARY).exists() or not (path / CONFIG).exists():
        return None
    return read_record(path)


def _keep_compiled_programs() -> None:
    """Lets a second run find the programs that the first one compiled.

    They go to the user's cache folder, or where `JAX_COMPILATION_CACHE_DIR` says.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _single_threaded_lapack():
    """One thread for LAPACK, which takes the small decompositions; XLA keeps all of its own.

    On a CPU that is busy with anything else, the threads of a small QR wait for each other: 256 of
    a 128 x 128 matrix took 20 s instead of 0.2.
    """
    import scipy.linalg  # noqa: F401  # the LAPACK that jax calls; the limit is set on what is loaded
    import threadpoolctl

    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def _plot_only(command: Command, plot: Callable | None, module: str, full: Any) -> Path:
    path, experiment = command.plot_only, _experiment(module)
    assert path is not None
    if dataclasses.replace(command, plot_only=None) != Command(full):
        raise InputError("--plot-only redraws a run as it is: it takes no other flag")
    if plot is None:
        raise InputError(f"{experiment} draws no figures")
    _check_experiment(path, read_run(path).record, experiment)
    plot(path)
    Console().print(f"figures in {path / FIGURES}", soft_wrap=True, markup=False, highlight=False)
    return path


def _predict(command: Command, predict: Callable | None, module: str) -> Path:
    path, experiment = command.from_run, _experiment(module)
    if predict is None:
        raise InputError(f"{experiment} has no --predict")
    if path is None:
        raise InputError("--predict answers with the model of a run: name it with --from-run")
    record = read_run(path).record
    _check_experiment(path, record, experiment)
    config = config_of(type(command.config), record, path)
    names = getattr(config, "may_ask", ())
    asked = {name: getattr(command.config, name) for name in names}
    changed = dataclasses.replace(config, **asked)
    if dataclasses.replace(command, predict=None, from_run=None) != Command(changed):
        flags = ["--from-run", *(f"--{name.replace('_', '-')}" for name in names)]
        raise InputError(
            f"--predict asks a model as it is: it takes {', '.join(flags)} and no other flag"
        )
    _keep_compiled_programs()
    predict(path, command.predict, **asked)
    return path


def parse(config_class: type[C], argv: list[str], module: str) -> Command[C]:
    """The command that flags ask for, with its config checked.

    Raises:
      InputError: a config that its class refuses, or a run that cannot be resumed.
    """
    # tyro would show an InputError of __post_init__ as its own: the checks wait until it is done.
    # tyro finds the comments beside the fields by the place of the class in its file.
    place = ("__module__", "__qualname__", "__doc__", "__firstlineno__")
    members = {name: getattr(config_class, name) for name in place if hasattr(config_class, name)}
    members["__post_init__"] = lambda self: None
    unchecked = type(config_class.__name__, (config_class,), members)
    start = _starting_config(config_class, argv, _experiment(module))
    command = tyro.cli(
        cast(Any, Command[unchecked]),
        args=argv,
        default=Command(unchecked(**_field_values(start))),
        prog=shlex.join(_program(module)),
        description=sys.modules[module].__doc__ or config_class.__doc__,
    )
    command = dataclasses.replace(command, config=config_class(**_field_values(command.config)))
    _check_resumable(command, argv, _experiment(module))
    return command


def _check_resumable(command: Command, argv: list[str], experiment: str) -> None:
    """Refuses to go on with a run of another config, by the name of the first field."""
    record = _unfinished(command)
    if record is None:
        if "--resume" not in argv:
            return
        if command.out is None:
            raise InputError("--resume goes on with a run: name its directory with --out")
        raise InputError(f"{command.out} holds no unfinished run to go on with")
    assert command.out is not None
    _check_experiment(command.out, record, experiment)
    may_change = getattr(command.config, "may_change", ())
    for name, value in config_values(command.config).items():
        before = record["config"].get(name, value)
        if value != before and name not in may_change:
            raise InputError(
                f"{name} is {value!r}, the unfinished run in {command.out} has {before!r}: leave "
                "it as it was, or name a new directory"
            )


def _starting_config(config_class: type[C], argv: list[str], experiment: str) -> C:
    """The config that the other flags change: the default, a preset, or an earlier run's."""
    directory = _flag_value("--from-run", argv)
    out = _flag_value("--out", argv)
    named = _flag_value("--preset", argv)
    presets = [flag for flag in ("--quick", "--full") if flag in argv]
    presets += ["--preset"] if named is not None else []
    if directory is None and not presets and "--no-resume" not in argv and out:
        directory = out if _unfinished_record(out) else None
    if directory is not None:
        presets.append("--from-run")
    if len(presets) > 1:
        raise InputError(f"{' and '.join(presets)} both name a config to start from: give one")
    if directory is None and named is not None:
        known = config_class.presets() if hasattr(config_class, "presets") else {}  # type: ignore[attr-defined]
        if named not in known:
            raise InputError(
                f"{experiment} has no preset {named!r}; known: {', '.join(known) or 'none'}"
            )
        return known[named]
    if directory is None:
        preset = presets[0].removeprefix("--") if presets else None
        if preset and not hasattr(config_class, preset):
            raise InputError(f"{experiment} has no preset {presets[0]}: defaults are all it has")
        return cast(Any, config_class if preset is None else getattr(config_class, preset))()
    record = read_record(directory)
    _check_experiment(directory, record, experiment)
    return config_of(config_class, record, directory)


def config_of(config_class: type[C], record: dict[str, Any], directory: Path | str) -> C:
    """The config that a run was made with, from its record.

    Raises:
      InputError: a field that the config class does not have, or a value that it cannot hold.
    """
    hints = get_type_hints(config_class, include_extras=True)
    values = {}
    for name, value in record["config"].items():
        if name not in hints:
            raise InputError(f"{directory}: {record['experiment']} has no {name} any more")
        try:
            values[name] = _from_json(hints[name], value)
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"{directory}: {name} cannot be {value!r}") from error
    return config_class(**values)


def _flag_value(flag: str, argv: list[str]) -> str | None:
    for word, following in zip_longest(argv, argv[1:]):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else following
    return None


def _check_experiment(path: Path | str, record: dict[str, Any], experiment: str) -> None:
    if record.get("experiment") != experiment:
        raise InputError(f"{path} is a run of {record.get('experiment')}, not of {experiment}")


def _from_json(hint: Any, value: Any) -> Any:
    """A value of type `hint` from what `runlog.config_values` made of it."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _from_json(parts[0], value)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        for part in parts:
            try:
                return _from_json(part, value)
            except (TypeError, ValueError, KeyError):
                continue
        raise TypeError(f"{value!r} is none of {parts}")
    if origin is Literal and value not in parts:
        raise ValueError(f"{value!r} is none of {parts}")
    if origin is tuple and parts[1:] != (...,):
        return tuple(_from_json(part, each) for part, each in zip(parts, value, strict=True))
    if origin in (tuple, list):
        return origin(_from_json(parts[0], each) for each in value)
    if not isinstance(hint, type):
        return value
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return hint(**{name: _from_json(hints[name], each) for name, each in value.items()})
    if issubclass(hint, enum.Enum):
        return hint[value]
    if hint is float or issubclass(hint, Path):
        return hint(value)
    if not isinstance(value, hint):
        raise TypeError(f"{value!r} is no {hint.__name__}")
    return value


def _field_values(config: Any) -> dict[str, Any]:
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.init
    }


def _module_name(module: str) -> str | None:
    """The importable name of a module; None for a script run by its path."""
    if module != "__main__":
        return module
    spec = sys.modules[module].__spec__
    return None if spec is None else spec.name


def _program(module: str) -> list[str]:
    name = _module_name(module)
    return ["python", sys.argv[0]] if name is None else ["python", "-m", name]


def _experiment(module: str) -> str:
    name = _module_name(module)
    return Path(sys.argv[0]).stem if name is None else name.rpartition(".")[2]


@contextmanager
def _signals_stop(log_of: Callable[[], RunLog | None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run: after the step in hand where it saves, else at once.

    A second signal does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number: int, frame: object) -> None:
        del frame
        asked = _Terminated if number == signal.SIGTERM else KeyboardInterrupt
        log = log_of()
        while log is not None and log.inner is not None:
            log = log.inner
        if log is None or not log.waits or log.stop is not None:
            raise asked
        log.stop = asked
        log.note("stopping after this step; again to stop at once")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _exit(message: str, code: int) -> NoReturn:
    sys.stderr.write(" ".join(message.splitlines()) + "\n")
    devices = sys.modules.get("seqlab.devices")
    if devices is not None and devices.are_several():
        sys.stderr.flush()
        os._exit(code)  # an orderly end would wait for the other processes, which wait for this one
    sys.exit(code)
