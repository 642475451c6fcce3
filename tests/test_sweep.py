"""Sweeps: what is run is what was asked, once each; failures, stops and restarts lose nothing."""

import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments import sweep
from experiments.sweep import Config, Member, Task, main, plan, run_members
from seqlab.cli import parse
from seqlab.runlog import read_run

ROOT = Path(__file__).parents[1]
STUDY = '''
"""Fails at 13 unless there is a file `lucky`; waits a minute unless there is a file `hurry`."""
import dataclasses, os, time
from pathlib import Path
from typing import Literal
from seqlab.cli import main
from seqlab.errors import InputError

@dataclasses.dataclass(frozen=True)
class Config:
    """A study of nothing."""
    cells: tuple[str, ...] = ("rnn", "lstm")
    gains: tuple[float, ...] | None = None
    scale: float = 1.0
    loss: Literal["last", "all"] = "last"
    use_bias: bool = True
    limit: int | None = None
    corpus: Path | None = None
    seed: int = 0

    def __post_init__(self):
        if self.scale < 0:
            raise InputError(f"scale must be 0 or more, got {self.scale}")

    @classmethod
    def quick(cls):
        return cls(limit=1)

def run(config, log):
    log.write(step=0, loss=config.scale, pid=os.getpid())
    if config.scale == 13 and not Path("lucky").exists():
        raise InputError("thirteen is unlucky")
    end = time.monotonic() + 60
    while config.scale == 60 and time.monotonic() < end and not Path("hurry").exists():
        time.sleep(0.05)
    nested = {cell: {"loss": config.scale + config.seed} for cell in config.cells}
    log.finish(cells=nested, gap=None if config.seed else 3, whole=True, name="x")

if __name__ == "__main__":
    main(Config, run)
'''
MANY = STUDY.replace("    seed: int = 0\n", "    num_seeds: int = 3\n    seed: int = 0\n")


@pytest.fixture(autouse=True, scope="module")
def studies(tmp_path_factory):
    """Two studies as modules of a user's own, importable here and by what is started here."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "sweepstudy.py").write_text(STUDY)
    (folder / "sweepmany.py").write_text(MANY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
        yield


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planned(*words, study="sweepstudy", flags=(), **fields):
    config = Config(study, grid=words, flags=flags, **fields)
    return plan(config, sweep.load_study(study), Path("d"))


def test_every_combination_is_a_run_of_every_seed():
    members = planned("scale=2,3", "cells=gru+rnn,lstm", seeds=2, flags=("--seed", "7"))
    found = [(m.config.cells, m.config.scale, m.config.seed, m.folder.as_posix()) for m in members]
    assert found == [
        (("gru", "rnn"), 2.0, 7, "d/cells=gru+rnn,scale=2/seed-7"),
        (("gru", "rnn"), 2.0, 8, "d/cells=gru+rnn,scale=2/seed-8"),
        (("gru", "rnn"), 3.0, 7, "d/cells=gru+rnn,scale=3/seed-7"),
        (("gru", "rnn"), 3.0, 8, "d/cells=gru+rnn,scale=3/seed-8"),
        (("lstm",), 2.0, 7, "d/cells=lstm,scale=2/seed-7"),
        (("lstm",), 2.0, 8, "d/cells=lstm,scale=2/seed-8"),
        (("lstm",), 3.0, 7, "d/cells=lstm,scale=3/seed-7"),
        (("lstm",), 3.0, 8, "d/cells=lstm,scale=3/seed-8"),
    ]
    assert members[0].point == {"cells": ["gru", "rnn"], "scale": 2.0}


@pytest.mark.parametrize(
    ("grid", "values"),
    [
        ("cells=a+b,mycells:MGU", [("a", "b"), ("mycells:MGU",)]),
        ("gains=None,0.5+-1,1e3", [None, (0.5, -1.0), (1000.0,)]),
        ("scale=1,2.5,1e-3", [1.0, 2.5, 0.001]),
        ("loss=all,last", ["all", "last"]),
        ("use-bias=False,True", [False, True]),
        ("--limit=None,3", [None, 3]),
        ("corpus=a/b.txt,a b+c.txt", [Path("a/b.txt"), Path("a b+c.txt")]),
    ],
)
def test_a_run_reads_its_command_as_the_sweep_did(grid, values):
    members = planned(grid, flags=("--quick",))
    field = grid.removeprefix("--").partition("=")[0].replace("-", "_")
    assert [getattr(member.config, field) for member in members] == values
    for member in members:
        python, dash_m, module, *flags = member.command
        assert (python, dash_m, module) == (sys.executable, "-m", "sweepstudy")
        command = parse(type(member.config), flags, module)
        assert command.config == member.config
        assert command.out == member.folder
        assert command.config.limit == (1 if field != "limit" else member.config.limit)
    assert len({member.folder for member in members}) == len(values)


def test_no_grid_is_one_point_and_no_seeds_is_one_run():
    (member,) = planned()
    assert member.folder.as_posix() == "d/all/seed-0"
    assert member.point == {}


def test_points_that_look_alike_have_folders_of_their_own():
    first, second, third = (m.folder.parent.name for m in planned("corpus=a/b,a:b,a_b"))
    assert third == "corpus=a_b"
    assert len({first, second, third}) == 3
    assert all(re.fullmatch(r"corpus=a_b-[0-9a-f]{8}", name) for name in (first, second))
    (long,) = planned("cells=" + "+".join(["a" * 50] * 6))
    assert len(long.folder.parent.name) < 130


def test_a_study_with_num_seeds_runs_them_in_one_program():
    members = planned("scale=1,2", study="sweepmany", seeds=5)
    assert [(m.config.scale, m.config.num_seeds, m.seed) for m in members] == [
        (1.0, 5, 0),
        (2.0, 5, 0),
    ]
    assert shlex.join(members[0].command[-6:-2]) == "--num-seeds 5 --seed 0"
    (member,) = planned(study="sweepmany")
    assert member.config.num_seeds == 3
    assert "--num-seeds" not in member.command


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "name an experiment: "),
        (["vanishing_gradient"], "did you mean 'vanishing_gradients'?"),
        (["nowhere.study"], "nowhere.study: there is no module nowhere"),
        (["seqlab.errors"], "seqlab.errors is no experiment: it has no dataclass Config"),
        (["sweepstudy", "--grid", "scael=1"], "did you mean 'scale'?"),
        (["sweepstudy", "--grid", "scale"], "--grid scale: expected FIELD=VALUE,VALUE"),
        (["sweepstudy", "--grid", "scale=1,x"], "--grid scale: 'x' is no float"),
        (["sweepstudy", "--grid", "scale=1,"], "--grid scale: an empty value"),
        (["sweepstudy", "--grid", "cells=a++b"], "--grid cells: an empty value"),
        (["sweepstudy", "--grid", "loss=al"], "'al' is no Literal['last', 'all']"),
        (["sweepstudy", "--grid", "use_bias=yes"], "--grid use_bias: 'yes' is no bool"),
        (["sweepstudy", "--grid", "scale=1,-2"], "scale=-2: scale must be 0 or more, got -2.0"),
        (["sweepstudy", "--grid", "scale=1,1"], "--grid scale=1,1: a value is there twice"),
        (["sweepstudy", "--grid", "scale=1", "scale=2"], "--grid names scale twice"),
        (["sweepstudy", "--grid", "seed=1,2"], "seeds are asked for by --seeds"),
        (["sweepmany", "--seeds", "2", "--grid", "num_seeds=1"], "asked for by --seeds"),
        (["sweepmany", "--seeds", "2", "--", "--num-seeds", "1"], "and --seeds say the same"),
        (["sweepstudy", "--seeds", "0"], "seeds must be 1 or more, got 0"),
        (["sweepstudy", "--jobs", "0"], "jobs must be 1 or more, got 0"),
        (["sweepstudy", "--grid", "scale=1", "--", "--scale=2"], "is in --grid and after --"),
        (["sweepstudy", "--grid", "use_bias=True", "--", "--no-use-bias"], "in --grid and after"),
        (["sweepstudy", "--", "--out", "x"], "--out after --: every run gets its own place"),
        (["sweepstudy", "--", "--scale", "-1"], "scale must be 0 or more, got -1.0"),
        (["sweepstudy", "--out", "."], ". holds something else than a sweep"),
        (["--table", "nowhere"], "nowhere is not a sweep's directory: it has no sweep.json"),
        (["--table", ".", "--jobs", "2"], "--table prints a sweep as it is"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(capsys, argv, says):
    Path("some file").write_text("")
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert says in message
    assert [path.name for path in Path().iterdir()] == ["some file"]


def test_an_unknown_flag_after_the_dashes_is_the_studys_own_message(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweepstudy", "--", "--scael", "2"])
    assert stop.value.code == 2
    assert "--scael" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def started(path):
    """Each run of a sweep, and how often it was gone on with."""
    found = {}
    for config in sorted(path.glob("*/*/config.json")):
        record = json.loads(config.read_text())
        found[f"{config.parent.parent.name}/{config.parent.name}"] = len(record.get("resumed", []))
    return found


@pytest.mark.slow
def test_a_failed_run_stops_no_other_and_the_same_command_goes_on(capsys):
    argv = ["sweepstudy", "--grid", "scale=1,13", "--out", "d", "--jobs", "2"]
    flags = ["--", "--cells", "gru", "--seed", "4"]
    assert main([*argv, "--seeds", "2", *flags]) == 1
    out, err = capsys.readouterr()
    for seed in (4, 5):
        reason = f"thirteen is unlucky (unfinished run left in d/scale=13/seed-{seed})"
        assert f"failed: scale=13/seed-{seed} (exit code 2): error: {reason}" in err
    assert "sweepstudy: 2 of 4 runs" in out
    assert re.search(r"1\.0 +│ 2/2 +│ +5\.5 ± 0\.71 │", out)
    assert re.search(r"13\.0 +│ 0/2 missing +│ +- │", out)
    log = Path("d/scale=1/seed-5.log").read_text().splitlines()
    assert log[0].endswith(
        "-m sweepstudy --cells gru --seed 4 --scale 1 --seed 5 --out "
        + log[-1].removeprefix("results in ")
    )
    assert read_run("d/scale=1/seed-5").config["seed"] == 5

    summary = json.loads(Path("d/summary.json").read_text())
    assert (summary["asked"], summary["finished"]) == (4, 2)
    good, bad = summary["points"]
    assert good["figures"]["cells.gru.loss"] == {
        "mean": 5.5,
        "std": statistics.stdev([5.0, 6.0]),
        "n": 2,
        "values": [5.0, 6.0],
    }
    assert {"wall_s", "peak_rss_mb"} <= set(good["figures"])
    assert not {"whole", "name", "gap", "device"} & set(good["figures"])
    assert (bad["missing"], bad["figures"]) == (["scale=13/seed-4", "scale=13/seed-5"], {})

    before = Path("d/scale=1/seed-4/summary.json").stat().st_mtime_ns
    Path("lucky").write_text("")
    assert main([*argv, "--seeds", "3", *flags]) == 0  # and one seed more
    assert Path("d/scale=1/seed-4/summary.json").stat().st_mtime_ns == before
    assert started(Path("d")) == {
        "scale=1/seed-4": 0,
        "scale=1/seed-5": 0,
        "scale=1/seed-6": 0,
        "scale=13/seed-4": 1,
        "scale=13/seed-5": 1,
        "scale=13/seed-6": 0,
    }
    shown = capsys.readouterr().out
    assert "6 of 6 runs" in shown
    assert main(["--table", "d"]) == 0
    assert shown == capsys.readouterr().out + "results in d/summary.json\n"

    assert main([*argv, "--seeds", "3", "--", "--cells", "rnn", "--seed", "4"]) == 2
    message = "cells is ['rnn'], the finished run in d/scale=1/seed-4 has ['gru']: leave it as it"
    assert message in capsys.readouterr().err
    assert main(["sweepmany", "--out", "d"]) == 2
    assert "d holds a sweep of sweepstudy, not of sweepmany" in capsys.readouterr().err


def wait_for(what, process):
    deadline = time.monotonic() + 60
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "sent", "code"),
    [
        ("processes", signal.SIGINT, 130),
        ("processes", signal.SIGTERM, 143),
        ("submitit", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_every_run_and_the_printed_command_goes_on(tmp_path, engine, sent, code):
    how = []
    if engine == "submitit":
        pytest.importorskip("submitit")
        how = ["--engine", "submitit", "--cluster", "local"]
    command = ["python", "-m", "experiments.sweep", "sweepstudy", "--grid", "scale=60,61"]
    command += ["--seeds", "2", "--jobs", "2", "--out", "d", *how, "--", "--cells", "rnn"]
    process = subprocess.Popen(
        [sys.executable, *command[1:]],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    files = [tmp_path / f"d/scale=60/seed-{seed}/metrics.jsonl" for seed in (0, 1)]
    try:
        wait_for(lambda: all(file.exists() and file.read_bytes() for file in files), process)
        os.killpg(process.pid, sent)  # as a terminal does: to the sweep and all of its group
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert "stopping: 2 runs save and end" in err
    again = re.search(r"stopped: 0 of 4 runs are finished; go on with: (.*)\n", err)
    assert sorted(shlex.split(again[1])) == sorted(command)
    assert not (tmp_path / "d/scale=61").exists()
    for file in files:
        assert not is_alive(json.loads(file.read_bytes())["pid"])
        log = file.parent.with_name(file.parent.name + ".log").read_text()
        assert "terminated: the run in d/scale=60/seed-" in log

    Path("hurry").write_text("")
    words = shlex.split(again[1])
    end = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert "4 of 4 runs" in end.stdout
    assert started(tmp_path / "d") == {
        "scale=60/seed-0": 1,
        "scale=60/seed-1": 1,
        "scale=61/seed-0": 0,
        "scale=61/seed-1": 0,
    }


@pytest.mark.slow
def test_submitit_runs_the_same_commands(capsys):
    pytest.importorskip("submitit")
    argv = ["sweepstudy", "--grid", "scale=1,13", "--out", "d", "--engine", "submitit"]
    argv += ["--cluster", "local", "--resources", "timeout_min=5", "--jobs", "2"]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert "failed: scale=13/seed-0 (exit code 2): error: thirteen is unlucky" in err
    assert "1 of 2 runs" in out
    assert read_run("d/scale=1/seed-0").summary["cells"]["rnn"]["loss"] == 1.0
    assert "-m sweepstudy --scale 1 --seed 0 --out d/" in Path("d/scale=1/seed-0.log").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--cluster", "local", "--resources", "timeout"], "--resources timeout: expected NAME="),
        (["--cluster", "local", "--resources", "nonsense=1"], "submitit: "),
        (["--cluster", "slurm"], "submitit: "),  # no srun here
    ],
)
def test_what_submitit_refuses_is_one_line(capsys, monkeypatch, more, says):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    assert main(["sweepstudy", "--engine", "submitit", *more]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"error: {says}")


def test_submitit_is_named_where_it_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["sweepstudy", "--engine", "submitit"]) == 2
    assert 'submitit is not installed: pip install "seqlab[sweep]"' in capsys.readouterr().err


WAITS = """
import signal, sys, time
print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True)
def save(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_job_that_slurm_takes_back_saves_and_is_put_back(tmp_path):
    pytest.importorskip("submitit")
    task = Task([sys.executable, "-c", WAITS], str(tmp_path / "log"), str(tmp_path / "stop"))
    codes = []
    worker = threading.Thread(target=lambda: codes.append(task()))
    worker.start()
    deadline = time.monotonic() + 30
    while not (Path("log").exists() and "ready" in Path("log").read_text().splitlines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = task.checkpoint()
    worker.join(timeout=30)
    assert codes == [143]
    assert again.function == Task(task.command, task.log, task.stop)
    log = Path("log").read_text().splitlines()
    assert log[-1] == "saved"
    blocked = next(line for line in log if line.startswith("[<"))
    assert "SIGUSR2" in blocked  # Slurm's warning, which would kill the run
    assert "SIGTERM" not in blocked
    Path("stop").write_text("x")
    assert task() == -signal.SIGTERM  # a job that was still in the queue
    assert Path("log").read_text().splitlines() == log


class Fake:
    """A run that takes some looks, and finishes or not."""

    def __init__(self, member, looks, running):
        self.member, self.looks, self.running, self.told = member, looks, running, 0
        running.append(self)

    def poll(self):
        self.looks -= 1
        if self.looks > 0 and not self.told:
            return None
        self.running.remove(self)
        if not self.told:
            self.member.folder.mkdir(parents=True)
            (self.member.folder / "summary.json").write_text("{}")
        return 0

    def stop(self):
        self.told += 1

    def last_words(self):
        return "no word"


@pytest.mark.parametrize("jobs", [1, 3, 10])
def test_no_more_runs_than_jobs_at_a_time(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr(sweep, "SECONDS_BETWEEN_LOOKS", 0.0)
    members = [Member({}, seed, tmp_path / f"seed-{seed}", None, []) for seed in range(7)]
    members[2].folder.mkdir()
    (members[2].folder / "summary.json").write_text("{}")
    running, seen, order = [], [], []

    def start(member):
        order.append(member.seed)
        fake = Fake(member, 2 + member.seed % 3, running)
        seen.append(len(running))
        return fake

    assert run_members(members, start, jobs) == ([], 0)
    assert order == [0, 1, 3, 4, 5, 6]
    assert max(seen) == min(jobs, 6)


def test_runs_are_stopped_where_the_sweep_itself_breaks(tmp_path):
    members = [Member({}, seed, tmp_path / f"seed-{seed}", None, []) for seed in range(2)]
    running = []

    def start(member):
        if member.seed == 1:
            raise OSError("no more processes")
        return Fake(member, 5, running)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="no more processes"):
        run_members(members, start, 2)
    assert [fake.told for fake in running] == [1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_module_that_runs_nothing_is_a_failure(tmp_path, monkeypatch, capsys):
    (tmp_path / "nomain.py").write_text(STUDY.partition("if __name__")[0])
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["nomain", "--out", "d"]) == 1
    assert "failed: all/seed-0 (exit code 0): no word of why; log: d/all" in capsys.readouterr().err


def fill(folder, points):
    """A sweep's directory with these summaries of its runs, None for a missing one."""
    members = []
    for number, (point, summaries) in enumerate(points):
        for seed, summary in enumerate(summaries):
            run = folder / f"p{number}" / f"seed-{seed}"
            run.mkdir(parents=True)
            members.append(
                {"point": point, "seed": seed, "folder": run.relative_to(folder).as_posix()}
            )
            if summary is not None:
                (run / "summary.json").write_text(json.dumps(summary))
    asked = {"experiment": "x", "seeds": 3, "seeds_in_one_run": False, "members": members}
    (folder / "sweep.json").write_text(json.dumps(asked))


def test_the_table_has_one_column_for_what_differs_by_the_grid_only(tmp_path, capsys):
    points = [
        ({"cells": ["rnn"]}, [{"cells": {"rnn": {"loss": loss}}, "gap": gap} for loss, gap in
                              ((1.0, 2), (2.0, None), (6.0, 4))]),
        ({"cells": ["lstm"]}, [{"cells": {"lstm": {"loss": 5}}}, None, None]),
        ({"cells": ["gru"]}, [None, None, None]),
    ]  # fmt: skip
    fill(tmp_path, points)
    assert main(["--table", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "x: 4 of 9 runs, mean ± standard deviation over runs"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [
        ["rnn", "3/3", "3 ± 2.6", "3 ± 1.4 (n=2)"],
        ["lstm", "1/3 missing", "5", "-"],
        ["gru", "0/3 missing", "-", "-"],
    ]
    assert any("cells.{cells}.loss" in line for line in lines)


def test_columns_that_do_not_fit_stand_in_a_further_table(tmp_path, capsys):
    figures = {f"quite_a_long_name_of_figure_{number}": number for number in range(20)}
    fill(tmp_path, [({"scale": 1.5}, [figures])])
    assert main(["--table", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert len(rows) > 1
    assert all(row[:2] == ["1.5", "1/1"] for row in rows)
    assert [cell for row in rows for cell in row[2:]] == [str(number) for number in range(20)]
    assert "".join(lines).count("of_figure_") == 20


def test_a_damaged_summary_is_named(tmp_path, capsys):
    fill(tmp_path, [({}, [{"loss": 1}])])
    (tmp_path / "p0/seed-0/summary.json").write_text('{"loss": ')
    assert main(["--table", str(tmp_path)]) == 2
    assert "p0/seed-0/summary.json: not JSON" in capsys.readouterr().err


def test_folded_names_break_after_dots_and_underscores():
    name = "cells.{cells}.slope_nats_per_step"
    assert sweep.folded(name) == "cells.{cells}.\nslope_nats_per_\nstep"
    assert sweep.folded("loss") == "loss"


def test_half_of_the_cores_and_one_run_on_a_gpu(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert sweep.default_jobs(Config(), 9) == max(1, cores // 2)  # JAX_PLATFORMS=cpu in the tests
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert sweep.default_jobs(Config(), 9) == 4
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([self / "nvidia0"]))
    assert sweep.default_jobs(Config(), 9) == 1
    assert sweep.default_jobs(Config(engine="submitit"), 9) == 9
    assert sweep.default_jobs(Config(engine="submitit", cluster="local"), 9) == 1


@pytest.mark.slow
def test_the_flagship_is_swept(capsys):
    argv = ["vanishing_gradients", "--grid", "cells=rnn,gru", "--seeds", "2", "--out", "d"]
    assert main([*argv, "--jobs", "2", "--", "--quick", "--num-updates", "2"]) == 0
    out = capsys.readouterr().out
    assert "vanishing_gradients: 2 of 2 runs, 2 seeds inside each" in out
    for cell in ("rnn", "gru"):
        found = read_run(f"d/cells={cell}/seed-0")
        assert found.config["num_seeds"] == 2
        summary = json.loads(Path("d/summary.json").read_text())
        (point,) = [each for each in summary["points"] if each["point"] == {"cells": [cell]}]
        loss = found.summary["cells"][cell]["final_loss_nats"]
        figure = point["figures"][f"cells.{cell}.final_loss_nats"]
        assert figure == {"mean": loss, "std": None, "n": 1, "values": [loss]}
