"""The run directory: what it holds, that it repeats, that nothing half written passes."""

import dataclasses
import enum
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from seqlab import runlog
from seqlab.errors import InputError
from seqlab.runlog import RunLog, config_values, read_record, read_run


class Reset(enum.Enum):
    BEFORE = 1
    AFTER = 2


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Config:
    cells: tuple[str, ...] = ("rnn", "lstm")
    learning_rate: float = 1e-3
    clip_norm: float = math.inf
    corpus: Path | None = None
    reset: Reset = Reset.AFTER
    inner: Inner = Inner()
    seed: int = 7


@pytest.fixture
def log(tmp_path):
    with RunLog(Config(), experiment="study", out=tmp_path / "run") as log:
        yield log


def lines(log):
    return [json.loads(line) for line in (log.path / "metrics.jsonl").read_text().splitlines()]


def test_config_json_is_there_before_any_work(log):
    record = json.loads((log.path / "config.json").read_text())
    assert record["config"] == {
        "cells": ["rnn", "lstm"],
        "learning_rate": 1e-3,
        "clip_norm": "inf",
        "corpus": None,
        "reset": "AFTER",
        "inner": {"width": 3},
        "seed": 7,
    }
    assert record["experiment"] == "study"
    assert record["versions"]["jax"] == jax.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["device"].startswith("cpu (")
    assert {"seqlab", "flax"} <= set(record["versions"])
    assert {"git_commit", "git_modified", "command", "started_utc"} <= set(record)
    assert log.figures.is_dir()
    assert (log.path / "metrics.jsonl").read_text() == ""
    assert not (log.path / "summary.json").exists()


def test_default_directory_is_named_by_experiment_time_and_seed(tmp_path):
    logs = [RunLog(Config(), experiment="study", root=tmp_path) for _ in range(3)]
    assert len({log.path for log in logs}) == 3  # in one second, too
    for log in logs:
        log.close()
        assert log.path.parent == tmp_path / "study"
        date, time, seed, *_ = log.path.name.split("-")
        assert (len(date), len(time), seed) == (8, 6, "7")


def test_every_kind_of_number_is_written(log):
    log.write(
        step=np.int64(3),
        loss=jnp.float32(0.1),
        count=np.int32(4),
        done=np.bool_(True),
        name="lstm",
        label=np.str_("x"),
        curve=jnp.arange(3.0),
        half=jnp.ones(2, jnp.bfloat16),
        table=np.ones((2, 2)),
        mixed=[1, jnp.float32(2.0), (3.0, "a")],
        nested={"h": np.float64(0.1)},
    )
    (row,) = lines(log)
    assert list(row)[:2] == ["step", "loss"]
    assert row == {
        "step": 3,
        "loss": float(np.float32(0.1)),
        "count": 4,
        "done": True,
        "name": "lstm",
        "label": "x",
        "curve": [0.0, 1.0, 2.0],
        "half": [1.0, 1.0],
        "table": [[1.0, 1.0], [1.0, 1.0]],
        "mixed": [1, 2.0, [3.0, "a"]],
        "nested": {"h": 0.1},
    }


def test_float64_keeps_every_digit(log, x64):
    value = jnp.float64(1) / 3
    log.write(step=0, value=value, values=value[None])
    (row,) = lines(log)
    assert row["value"] == row["values"][0] == 1 / 3


def test_nonfinite_numbers_become_null_and_are_counted(log):
    log.write(step=0, loss=math.nan, curve=jnp.array([1.0, jnp.inf, -jnp.inf]), x=np.float32("nan"))
    log.write(step=1, loss=1.0)
    text = (log.path / "metrics.jsonl").read_text()
    assert (
        text.splitlines()[0] == '{"step": 0, "loss": null, "curve": [1.0, null, null], "x": null}'
    )
    assert log.nonfinite_written == 4
    log.finish(worst=math.inf, half_life_steps=None)
    run = read_run(log.path)
    assert run.summary["nonfinite_written"] == 5
    assert run.summary["worst"] is None
    assert math.isnan(run.metrics[0]["loss"])
    np.testing.assert_array_equal(run.metrics[0]["curve"], [1.0, np.nan, np.nan])
    assert run.metrics[1]["loss"] == 1.0


def test_a_line_is_on_disk_as_soon_as_it_is_written(log):
    for step in range(3):
        log.write(step=step)
        assert [row["step"] for row in lines(log)] == list(range(step + 1))


@pytest.mark.parametrize(
    "value",
    [object(), 1j, np.array([1j]), {1, 2}, b"bytes", np.array([object()]), jax.random.key(0)],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused_by_name_and_leaves_no_line(log, value):
    with pytest.raises(TypeError):
        log.write(step=0, fine=1, odd=value)
    assert lines(log) == []


def test_unwritable_field_is_named(log):
    with pytest.raises(TypeError, match="odd: complex"):
        log.write(step=0, odd=1j)


def test_none_and_fractional_steps_are_refused(log):
    with pytest.raises(ValueError, match="metric loss is None"):
        log.write(step=0, loss=None)
    with pytest.raises(TypeError):
        log.write(step=0.5, loss=1.0)


def test_equal_writes_make_equal_bytes(tmp_path):
    def one(name):
        with RunLog(Config(), experiment="study", out=tmp_path / name) as log:
            values = jax.random.normal(jax.random.key(0), (20,))
            for step, value in enumerate(values):
                log.write(step=step, loss=value, curve=values)
            log.finish(loss=value)
        return (log.path / "metrics.jsonl").read_bytes()

    assert one("a") == one("b")


def test_summary_holds_figures_and_what_they_were_made_with(log):
    log.write(step=0, loss=1.0)
    assert not log.finished
    log.finish(test_perplexity=jnp.float32(2.0), lstm={"slope_nats_per_step": -0.1})
    assert log.finished
    summary = json.loads((log.path / "summary.json").read_text())
    assert summary["test_perplexity"] == 2.0
    assert summary["lstm"] == {"slope_nats_per_step": -0.1}
    assert 0 <= summary["wall_s"] < 60
    assert 20 < summary["peak_rss_mb"] < 100_000
    assert summary["device"].startswith("cpu")
    assert summary["metrics_lines"] == 1
    assert summary["nonfinite_written"] == 0
    assert sorted(path.name for path in log.path.iterdir()) == [
        "config.json",
        "figures",
        "metrics.jsonl",
        "summary.json",
    ]


def test_peak_memory_is_this_programs_own():
    ballast = np.ones(40_000_000)  # 320 MB in the parent, none in the child
    code = "from seqlab.runlog import _peak_rss_mb; print(_peak_rss_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(child.stdout) < ballast.nbytes / 1e6
    assert runlog._peak_rss_mb() > ballast.nbytes / 1e6


def test_peak_memory_falls_back_to_getrusage(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert 20 < runlog._peak_rss_mb() < 100_000


def test_finish_is_the_last_word(log):
    log.finish()
    with pytest.raises(RuntimeError, match="finished"):
        log.finish()
    with pytest.raises(RuntimeError, match="finished"):
        log.write(step=0)


def test_own_figures_cannot_be_overwritten(log):
    with pytest.raises(ValueError, match="device, wall_s"):
        log.finish(wall_s=1.0, device="mine")
    assert not (log.path / "summary.json").exists()


def test_a_summary_cut_short_is_no_summary(log, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        log.finish(loss=1.0)
    assert sorted(path.name for path in log.path.iterdir()) == [
        "config.json",
        "figures",
        "metrics.jsonl",
    ]
    with pytest.raises(InputError, match="unfinished"):
        read_run(log.path)


def test_an_empty_directory_is_taken(tmp_path):
    with RunLog(Config(), experiment="study", out=tmp_path) as log:
        assert log.path == tmp_path


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty: name a new run directory, or empty this"):
        RunLog(Config(), experiment="study", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("where", ["out", "root"])
def test_an_unwritable_place_is_one_line(tmp_path, where):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cannot write .*file.*: Not a directory$") as caught:
        RunLog(Config(), experiment="study", **{where: tmp_path / "file" / "below"})
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        RunLog(Config(), experiment="study", out=tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_place_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        RunLog(Config(), experiment="study", out=tmp_path / "run")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is Linux's to give")
def test_a_full_disk_is_one_line(log):
    log._metrics.close()
    log._metrics = open("/dev/full", "wb", buffering=0)
    with pytest.raises(InputError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        log.write(step=0)
    log.close()


def test_a_config_that_json_cannot_hold_makes_no_directory(tmp_path):
    @dataclasses.dataclass
    class Odd:
        function: object = len

    with pytest.raises(TypeError, match="function"):
        RunLog(Odd(), experiment="study", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_nothing_recorded_can_be_taken_back(tmp_path):
    log = RunLog(Config(), experiment="study", out=tmp_path / "run")
    assert log.abandon()
    assert list(tmp_path.iterdir()) == []
    log = RunLog(Config(), experiment="study", out=tmp_path)
    assert log.abandon()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", ["line", "figure", "file"])
def test_a_run_with_a_result_is_not_taken_back(log, kept):
    if kept == "line":
        log.write(step=0)
    if kept == "figure":
        (log.figures / "a.png").write_bytes(b"")
    if kept == "file":
        (log.path / "weights").write_bytes(b"")
    before = sorted(log.path.rglob("*"))
    assert not log.abandon()
    assert sorted(log.path.rglob("*")) == before


def finished(log):
    for step in range(3):
        log.write(step=step, loss=1.0)
    log.finish(final_loss_nats=1.0)
    return log.path


def test_read_run_gives_back_what_was_written(log):
    run = read_run(str(finished(log)))
    assert run.path == log.path
    assert run.config == config_values(Config())
    assert run.record["experiment"] == "study"
    assert run.metrics == [{"step": step, "loss": 1.0} for step in range(3)]
    assert run.summary["final_loss_nats"] == 1.0


def test_read_run_refuses_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such run directory"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"not a run directory: it has no config\.json"):
        read_run(tmp_path)


def test_read_run_refuses_an_unfinished_run(log):
    log.write(step=0)
    with pytest.raises(InputError, match=r"unfinished run: it has no summary\.json"):
        read_run(log.path)
    assert read_record(log.path)["config"]["seed"] == 7


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("metrics.jsonl", lambda b: b.replace(b'"step": 1', b'"step" 1'), "line 2: not JSON"),
        ("metrics.jsonl", lambda b: b.replace(b'"step": 2', b'"stop": 2'), "line 3: not an obj"),
        ("metrics.jsonl", lambda b: b.replace(b"1.0", b"NaN", 1), "line 1: not JSON .NaN"),
        ("metrics.jsonl", lambda b: b.replace(b"loss", b"l\xffss", 1), "line 1: not JSON"),
        ("metrics.jsonl", lambda b: b[:-9], "line 3: cut short"),
        ("metrics.jsonl", lambda b: b[:-1], "line 3: cut short"),
        ("metrics.jsonl", lambda b: b + b"\n", "has 4 lines, summary.json counts 3"),
        ("metrics.jsonl", lambda b: b.partition(b"\n")[2], "has 2 lines, summary.json counts 3"),
        ("summary.json", lambda b: b[:20], "summary.json: not JSON"),
        ("summary.json", lambda b: b"[]", "summary.json: not a JSON object"),
        ("config.json", lambda b: b"", "config.json: not JSON"),
        ("config.json", lambda b: b"{}", "config.json holds no config"),
    ],
)
def test_read_run_names_the_damage(log, name, damage, complaint):
    path = finished(log) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=complaint) as caught:
        read_run(log.path)
    assert "\n" not in str(caught.value)


def test_read_run_without_metrics_is_one_line(log):
    (finished(log) / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"cannot read .*metrics\.jsonl: No such file"):
        read_run(log.path)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_commit_is_that_of_the_code_that_runs(tmp_path):
    source = tmp_path / "study.py"
    source.write_text("1")
    assert runlog._git_state(source) == (None, None)  # outside git
    git(tmp_path, "init")
    assert runlog._git_state(source) == (None, None)  # not tracked
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "a")
    commit, modified = runlog._git_state(source)
    assert commit is not None
    assert len(commit) == 40
    assert modified is False
    source.write_text("2")
    assert runlog._git_state(source) == (commit, True)


def test_no_git_program_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runlog._git_state(Path(__file__)) == (None, None)


def test_progress_gives_every_item_and_shows_the_count(log, capsys):
    assert list(log.progress(range(5), description="training")) == list(range(5))
    shown = capsys.readouterr().err
    assert "training: 100%" in shown
    assert "5/5" in shown
    assert "it/s" in shown


def test_progress_off_a_terminal_is_quiet(log, capsys):
    for _ in log.progress(iter(range(10_000)), total=10_000):
        pass
    assert capsys.readouterr().err.count("\r") <= 3


def test_a_bar_left_open_ends_with_the_run(log, capsys):
    bar = iter(log.progress(range(5)))
    next(bar)
    log.close()
    assert capsys.readouterr().err.endswith("\n")


def test_note_goes_to_standard_error(log, capsys):
    log.note("compiled in 2 s")
    assert capsys.readouterr() == ("", "compiled in 2 s\n")


def test_table_shows_every_row_and_column(tmp_path):
    console = Console(file=io.StringIO())
    with RunLog(Config(), experiment="study", out=tmp_path / "run", console=console) as log:
        log.table("Slopes", [{"cell": "rnn", "slope": -0.123456}, {"cell": "lstm", "lag": None}])
    shown = console.file.getvalue()
    for text in ("Slopes", "cell", "slope", "lag", "rnn", "lstm", "-0.1235", "-"):
        assert text in shown


def test_a_wide_table_is_not_cut_off_a_terminal(log, capsys):
    log.table("Wide", [{f"a_long_column_{k}": k * 1111 for k in range(6)}])
    shown = capsys.readouterr().out
    assert all(f"a_long_column_{k}" in shown for k in range(6))


def test_a_run_inside_another_has_a_folder_of_its_own_and_is_gone_on_with(tmp_path):
    with RunLog(Config(), experiment="study", out=tmp_path / "run") as log:
        with log.inside("part", Config()) as inner:
            assert log.inner is inner
            inner.write(step=1, loss=2.0)
        assert log.inner is None
        with log.inside("part", Config()) as inner:
            assert inner.resumed == 1
            inner.write(step=1, loss=3.0)
            inner.finish(loss=3.0)
        log.finish()
    found = read_run(tmp_path / "run" / "part")
    assert found.metrics == [{"step": 1, "loss": 3.0}]
    assert found.record["experiment"] == "study"
    assert read_run(tmp_path / "run").metrics == []
