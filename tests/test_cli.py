"""The command line: flags from the config, one clear message for a mistake, clean endings."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from seqlab.cli import main
from seqlab.errors import InputError
from seqlab.runlog import read_run

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Config:
    """A study of nothing.

    Attributes:
      cells: names of the cells to compare.
    """

    cells: tuple[str, ...] = ("rnn", "lstm")
    seq_len: int = 200  # steps walked
    loss: Literal["last", "all"] = "last"
    clip_norm: float | None = None
    use_bias: bool = True
    corpus: Path | None = None
    seed: int = 0

    def __post_init__(self):
        if self.seq_len < 1:
            raise InputError(f"--seq-len must be at least 1, it is {self.seq_len}")

    @classmethod
    def quick(cls):
        return cls(cells=("rnn",), seq_len=20)


def run(config, log):
    if "gpu" in config.cells:
        raise InputError("no cell is called gpu: choose from rnn, lstm")
    for step in range(3):
        log.write(step=step, loss=config.seq_len * step)
    if "late" in config.cells:
        raise InputError("too late")


def plot(path):
    assert read_run(path).metrics
    (path / "figures" / "curve.txt").write_text(f"{len(read_run(path).metrics)} points")


def config_of(path):
    return json.loads((path / "config.json").read_text())["config"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *argv, code=2, plot=plot):
    """The one message on standard error of a command that must fail."""
    with pytest.raises(SystemExit) as caught:
        main(Config, run, plot, argv)
    assert caught.value.code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_a_run_writes_its_directory_draws_and_says_where(capsys):
    path = main(Config, run, plot, [])
    assert path.parent == Path("runs/test_cli")
    assert read_run(path).record["experiment"] == "test_cli"
    assert (path / "figures" / "curve.txt").read_text() == "3 points"
    assert capsys.readouterr().out == f"results in {path}\n"


def test_flags_are_the_fields(tmp_path):
    argv = "--cells gru rnn --seq-len 400 --loss all --clip-norm 1 --no-use-bias --seed 3".split()
    path = main(Config, run, plot, [*argv, "--corpus", "a b.txt", "--out", str(tmp_path / "x")])
    assert path == tmp_path / "x"
    assert config_of(path) == {
        "cells": ["gru", "rnn"],
        "seq_len": 400,
        "loss": "all",
        "clip_norm": 1.0,
        "use_bias": False,
        "corpus": "a b.txt",
        "seed": 3,
    }
    command = json.loads((path / "config.json").read_text())["command"]
    assert command.startswith("python -m test_cli --cells gru rnn --seq-len 400")
    assert "--corpus 'a b.txt'" in command


def test_run_may_finish_by_itself_and_plots_are_optional():
    path = main(Config, lambda config, log: log.finish(loss=1.5), argv=[])
    assert read_run(path).summary["loss"] == 1.5


@pytest.mark.parametrize(
    ("argv", "cells", "seq_len"),
    [
        ([], ["rnn", "lstm"], 200),
        (["--quick"], ["rnn"], 20),
        (["--quick", "--seq-len", "7"], ["rnn"], 7),
        (["--seq-len", "7", "--quick"], ["rnn"], 7),
        (["--cells", "gru", "--quick"], ["gru"], 20),
    ],
)
def test_quick_is_where_the_other_flags_start(argv, cells, seq_len):
    config = config_of(main(Config, run, plot, argv))
    assert (config["cells"], config["seq_len"]) == (cells, seq_len)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--sequence-length", "4"], "--sequence-length"),
        (["--seq-le", "4"], "--seq-le"),
        (["--no-quick"], "--no-quick"),
        (["stray"], "stray"),
        (["--loss", "none"], "--loss"),
        (["--seq-len", "many"], "--seq-len"),
        (["--seq-len", "4.5"], "--seq-len"),
        (["--seq-len"], "--seq-len"),
        (["--out"], "--out"),
        (["--from-run"], "--from-run"),
    ],
)
def test_a_wrong_flag_is_one_message_and_makes_nothing(capsys, tmp_path, argv, says):
    assert says in fails(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [["--seq-len", "0"], ["--quick", "--seq-len", "0"]])
def test_the_config_checks_itself_before_the_directory_is_made(capsys, tmp_path, argv):
    assert fails(capsys, *argv) == "error: --seq-len must be at least 1, it is 0\n"
    assert list(tmp_path.iterdir()) == []


def test_input_error_of_the_run_leaves_no_empty_run(capsys, tmp_path):
    message = "error: no cell is called gpu: choose from rnn, lstm\n"
    assert fails(capsys, "--cells", "gpu", "--out", "x") == message
    assert list(tmp_path.iterdir()) == []


def test_input_error_after_results_names_the_unfinished_run(capsys, tmp_path):
    message = fails(capsys, "--cells", "late", "--out", "x")
    assert message == "error: too late (unfinished run left in x)\n"
    assert (tmp_path / "x" / "metrics.jsonl").read_text().count("\n") == 3
    with pytest.raises(InputError, match="unfinished"):
        read_run("x")


def test_a_message_stays_on_one_line(capsys):
    def wrong(config, log):
        raise InputError("first\nsecond " + "long " * 60)

    with pytest.raises(SystemExit):
        main(Config, wrong, argv=[])
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_traceback_and_the_run_is_unfinished(tmp_path):
    def broken(config, log):
        log.write(step=0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main(Config, broken, plot, ["--out", "x"])
    with pytest.raises(InputError, match="unfinished"):
        read_run("x")


def test_a_directory_in_use_is_refused(capsys, tmp_path):
    main(Config, run, plot, ["--out", "x"])
    before = (tmp_path / "x" / "config.json").read_bytes()
    capsys.readouterr()
    message = "error: x holds a finished run: name a new run directory\n"
    assert fails(capsys, "--out", "x") == message
    assert (tmp_path / "x" / "config.json").read_bytes() == before


def test_an_unwritable_directory_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    message = "error: cannot write file/x: Not a directory\n"
    assert fails(capsys, "--out", "file/x") == message


def test_help_shows_the_study_and_its_fields(capsys):
    with pytest.raises(SystemExit) as caught:
        main(Config, run, plot, ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        "The command line: flags from the config",
        "names of the cells to compare.",
        "steps walked",
        "(default: 200)",
        "--quick",
        "--out DIR",
        "--plot-only RUN_DIR",
        "--from-run RUN_DIR",
    ):
        assert text in shown


def test_help_with_quick_shows_the_small_preset(capsys):
    with pytest.raises(SystemExit):
        main(Config, run, plot, ["--quick", "--help"])
    assert "(default: 20)" in capsys.readouterr().out


def never(config, log):
    raise AssertionError("nothing may be computed")


@pytest.mark.parametrize("form", [["--plot-only", "x"], ["--plot-only=x"]])
def test_plot_only_redraws_without_computing(tmp_path, form):
    main(Config, run, plot, ["--seq-len", "9", "--out", "x"])
    figure = tmp_path / "x" / "figures" / "curve.txt"
    figure.unlink()
    before = (tmp_path / "x" / "summary.json").read_bytes()
    assert main(Config, never, plot, form) == Path("x")
    assert figure.exists()
    assert (tmp_path / "x" / "summary.json").read_bytes() == before


def test_plot_only_refuses_an_unfinished_run(capsys, tmp_path):
    main(Config, run, plot, ["--out", "x"])
    capsys.readouterr()
    (tmp_path / "x" / "summary.json").unlink()
    message = "error: x is an unfinished run: it has no summary.json; go on with it\n"
    assert fails(capsys, "--plot-only", "x") == message


def test_plot_only_refuses_what_is_no_run_of_this_study(capsys, tmp_path):
    assert fails(capsys, "--plot-only", "x") == "error: x: no such run directory\n"
    path = main(Config, run, None, ["--out", "x"])
    capsys.readouterr()
    assert fails(capsys, "--plot-only", "x", plot=None) == "error: test_cli draws no figures\n"
    text = (path / "config.json").read_text().replace('"test_cli"', '"other"')
    (path / "config.json").write_text(text)
    message = "error: x is a run of other, not of test_cli\n"
    assert fails(capsys, "--plot-only", "x") == message
    assert fails(capsys, "--from-run", "x") == message


@pytest.mark.parametrize("other", [["--quick"], ["--seq-len", "3"], ["--out", "y"]])
def test_plot_only_takes_no_other_flag(capsys, other):
    main(Config, run, plot, ["--out", "x"])
    capsys.readouterr()
    assert "takes no other flag" in fails(capsys, "--plot-only", "x", *other)


@pytest.mark.parametrize("form", [["--from-run", "x"], ["--from-run=x"], ["--from_run", "x"]])
def test_from_run_starts_from_an_earlier_config(form):
    flags = "--cells gru --loss all --clip-norm inf --no-use-bias --corpus a.txt --seed 3".split()
    main(Config, run, plot, [*flags, "--out", "x"])
    (Path("x") / "summary.json").unlink()  # an unfinished run will do
    assert config_of(main(Config, run, plot, form)) == config_of(Path("x"))
    again = config_of(main(Config, run, plot, [*form, "--seq-len", "5"]))
    assert again == {**config_of(Path("x")), "seq_len": 5}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"seq_len": 200', '"seq_len": "many"', "x: seq_len cannot be 'many'"),
        ('"loss": "last"', '"loss": "none"', "x: loss cannot be 'none'"),
        ('"seed": 0', '"sead": 0', "x: test_cli has no sead any more"),
        ('"seq_len": 200', '"seq_len": 0', "--seq-len must be at least 1"),
    ],
)
def test_from_run_with_a_value_that_no_longer_fits(capsys, old, new, says):
    path = main(Config, run, plot, ["--out", "x"]) / "config.json"
    capsys.readouterr()
    path.write_text(path.read_text().replace(old, new))
    assert fails(capsys, "--from-run", "x").startswith(f"error: {says}")


@pytest.mark.parametrize("flags", [["--quick"], ["--full"], ["--quick", "--full"]])
def test_presets_and_an_earlier_config_exclude_each_other(capsys, flags):
    main(Config, run, plot, ["--out", "x"])
    capsys.readouterr()
    assert "give one" in fails(capsys, "--from-run", "x", *flags)


def test_full_is_a_preset_of_those_that_have_it(capsys):
    assert fails(capsys, "--full") == (
        "error: test_cli has no preset --full: defaults are all it has\n"
    )

    class Large(Config):
        @classmethod
        def full(cls):
            return cls(seq_len=4000)

    config = config_of(main(Large, run, plot, ["--full", "--loss", "all"]))
    assert (config["seq_len"], config["loss"]) == (4000, "all")
    with pytest.raises(SystemExit):
        main(Config, run, plot, ["--quick", "--full"])
    assert "--quick and --full both name a config" in capsys.readouterr().err


class Published(Config):
    @classmethod
    def presets(cls):
        return {"small": cls(seq_len=20), "large_2014": cls(seq_len=4000, loss="all")}


@pytest.mark.parametrize(
    ("argv", "seq_len", "loss"),
    [
        (["--preset", "small"], 20, "last"),
        (["--preset=large_2014"], 4000, "all"),
        (["--preset", "large_2014", "--seq-len", "7"], 7, "all"),
        (["--seq-len", "7", "--preset", "large_2014"], 7, "all"),
        (["--preset", "large_2014", "--seq-len", "200", "--loss", "last"], 200, "last"),
    ],
)
def test_a_named_preset_is_where_the_other_flags_start(argv, seq_len, loss):
    config = config_of(main(Published, run, plot, argv))
    assert (config["seq_len"], config["loss"]) == (seq_len, loss)


def test_an_unknown_preset_names_those_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        main(Published, run, plot, ["--preset", "smal"])
    assert stop.value.code == 2
    message = "error: test_cli has no preset 'smal'; known: small, large_2014\n"
    assert capsys.readouterr().err == message
    message = "error: test_cli has no preset 'small'; known: none\n"
    assert fails(capsys, "--preset", "small") == message
    assert not Path("runs").exists()


@pytest.mark.parametrize("other", [["--quick"], ["--full"], ["--from-run", "x"]])
def test_a_named_preset_is_the_only_place_to_start(capsys, other):
    main(Published, run, plot, ["--out", "x"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(Published, run, plot, ["--preset", "small", *other])
    assert "both name a config to start from: give one" in capsys.readouterr().err


def test_a_run_from_a_preset_keeps_its_config_and_is_gone_on_with(capsys):
    path = main(Published, run, plot, ["--preset", "small", "--out", "x"])
    (path / "summary.json").unlink()
    with pytest.raises(SystemExit):
        main(Published, run, plot, ["--preset", "large_2014", "--out", "x"])
    assert "seq_len is 4000, the unfinished run in x has 20" in capsys.readouterr().err
    assert config_of(main(Published, run, plot, ["--preset", "small", "--out", "x"])) == config_of(
        path
    )


def test_the_same_config_twice_gives_the_same_metrics():
    first, second = (main(Config, run, plot, ["--quick"]) for _ in range(2))
    assert first != second
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()


SLEEPER = '''
"""Sleeps."""
import dataclasses, time
from seqlab.cli import main

@dataclasses.dataclass(frozen=True)
class Config:
    """A study that does not end."""
    seed: int = 0

def run(config, log):
    for step in log.progress(range(1000), description="sleeping"):
        log.write(step=step)
        time.sleep(60)

def plot(path):
    raise AssertionError("an unfinished run has no figures")

if __name__ == "__main__":
    main(Config, run, plot)
'''


def sleeper(tmp_path, *argv):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return subprocess.Popen(
        [sys.executable, "-m", "sleeper", *argv],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("sent", "word", "code"),
    [(signal.SIGINT, "stopped", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_ends_the_run_and_names_its_directory(tmp_path, sent, word, code):
    process = sleeper(tmp_path, "--out", "x")
    metrics = tmp_path / "x" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == ""
    assert err.endswith(
        f"\n{word}: the run in x is unfinished; start again with: python -m sleeper --out x\n"
    )
    assert "Traceback" not in err
    assert json.loads((tmp_path / "x" / "config.json").read_text())["experiment"] == "sleeper"
    with pytest.raises(InputError, match="unfinished"):
        read_run(tmp_path / "x")


def test_an_unknown_flag_of_a_module_run_as_a_program(tmp_path):
    process = sleeper(tmp_path, "--sed", "1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "--sed" in err
    assert "python -m sleeper --help" in err
    assert not (tmp_path / "runs").exists()


def test_a_signal_while_drawing_says_that_the_run_is_finished(capsys):
    def stop(path):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        main(Config, run, stop, ["--out", "x"])
    assert caught.value.code == 130
    again = f"python -m {__name__} --plot-only x"
    said = f"stopped: x is finished, its figures are not: {again}\n"
    assert capsys.readouterr().err == said
    assert read_run("x").metrics


def test_the_old_signal_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    main(Config, run, plot, [])
    assert signal.getsignal(signal.SIGTERM) is before


def answer(path, source):
    print(f"{path} asked about {source}")


def test_predict_asks_the_model_of_a_finished_run_and_writes_nothing(capsys, tmp_path):
    main(Config, run, plot, ["--seq-len", "9", "--out", "x"])
    capsys.readouterr()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    argv = ["--from-run", "x", "--predict", "new.txt"]
    assert main(Config, never, plot, argv, predict=answer) == Path("x")
    assert capsys.readouterr().out == "x asked about new.txt\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--predict", "-"], "name it with --from-run"),
        (["--from-run", "x", "--predict", "-", "--seq-len", "3"], "no other flag"),
        (["--from-run", "nowhere", "--predict", "-"], "no such run directory"),
    ],
)
def test_predict_refuses_what_it_cannot_do(argv, words, capsys):
    main(Config, run, plot, ["--out", "x"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(Config, never, plot, argv, predict=answer)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(Config, never, plot, ["--from-run", "x", "--predict", "-"])
    assert "has no --predict" in capsys.readouterr().err
