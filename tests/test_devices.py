"""One device or eight, one process or two: the same global batch gives the same curve."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqlab.cli import main
from tests import tiny_training

ROOT = Path(__file__).parents[1]
FLAGS = ("--num-steps", "20", "--report-every", "5", "--save-every", "5")
EIGHT = "--xla_force_host_platform_device_count=8"
FORCED = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {EIGHT}"}


STARTED = []


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


def start(out, *flags, **variables):
    command = [sys.executable, "-m", "tests.tiny_training", "--out", str(out), *FLAGS, *flags]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


def here(out, *flags):
    """A run on the one device of this process, which spares the start of another."""
    argv = ["--out", str(out), *FLAGS, *flags]
    return main(tiny_training.Config, tiny_training.run, argv=argv)


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["loss"] for row in rows if row.get("split") == "train"])


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    run = here(tmp_path_factory.mktemp("devices") / "one")
    assert len(losses(run)) == 20
    return run


@pytest.mark.slow
def test_turns_of_accumulation_give_the_same_curve(tmp_path):
    """Without dropout, whose masks each turn draws for itself."""
    whole, turns = here(tmp_path / "whole", "--dropout", "0"), tmp_path / "turns"
    flags = ("--dropout", "0", "--accumulate", "4", "--num-devices", "2")
    finish(start(turns, *flags, **FORCED))
    np.testing.assert_allclose(losses(turns), losses(whole), rtol=1e-5)


@pytest.mark.slow
def test_eight_devices_and_two_that_go_on_give_the_same_curve(on_one, tmp_path):
    run = tmp_path / "run"
    finish(start(run, "--num-devices", "8", "--num-steps", "10", **FORCED))
    np.testing.assert_allclose(losses(run), losses(on_one)[:10], rtol=1e-5)
    (run / "summary.json").unlink()
    _, err = finish(start(run, "--num-devices", "2", "--num-steps", "20", **FORCED))
    assert "saved with 8 devices, going on with 2" in err
    np.testing.assert_allclose(losses(run), losses(on_one), rtol=1e-5)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    process = start(tmp_path / "run", "--num-devices", "3", **FORCED)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "a batch of 8 rows cannot be shared out over 3 devices" in err
    assert "Traceback" not in err


def two_processes(out, *flags):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            out,
            *flags,
            SEQLAB_COORDINATOR=address,
            SEQLAB_NUM_PROCESSES="2",
            SEQLAB_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]


@pytest.mark.slow
def test_two_processes_give_the_same_curve_and_resume(on_one, tmp_path):
    run = tmp_path / "run"
    for process in two_processes(run):
        finish(process)
    np.testing.assert_allclose(losses(run), losses(on_one), rtol=1e-5)
    whole = (run / "metrics.jsonl").read_bytes()

    # Killed at the end, both go on from the step that the first process finds good.
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "20" / "state")
    said = [finish(process)[1] for process in two_processes(run)]
    assert "going on after step 15" in said[0]
    assert (run / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SEQLAB_COORDINATOR": "127.0.0.1:1"}, "SEQLAB_NUM_PROCESSES must be a number"),
        (
            {
                "SEQLAB_COORDINATOR": "127.0.0.1:1",
                "SEQLAB_NUM_PROCESSES": "2",
                "SEQLAB_PROCESS_ID": "2",
            },
            "SEQLAB_PROCESS_ID must be from 0",
        ),
    ],
    ids=["missing", "out of range"],
)
def test_variables_that_make_no_sense_are_refused(variables, words, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        here(tmp_path / "run")
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
