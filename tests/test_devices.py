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


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["loss"] for row in rows if row.get("split") == "train"])


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):  # of the module: `nothing_is_left_running` comes after it
    run = tmp_path_factory.mktemp("devices") / "one"
    finish(start(run))
    assert len(losses(run)) == 20
    return run


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_more_devices_give_the_same_curve(on_one, count, tmp_path):
    finish(start(tmp_path / "run", "--num-devices", str(count), **FORCED))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(on_one), rtol=1e-5)


@pytest.mark.slow
def test_turns_of_accumulation_give_the_same_curve(on_one, tmp_path):
    """Without dropout, whose masks each turn draws for itself."""
    flags = ("--dropout", "0")
    for name, more in {"whole": (), "turns": ("--accumulate", "4", "--num-devices", "2")}.items():
        finish(start(tmp_path / name, *flags, *more, **FORCED))
    np.testing.assert_allclose(losses(tmp_path / "turns"), losses(tmp_path / "whole"), rtol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(on_one, tmp_path):
    run = tmp_path / "run"
    finish(start(run, "--num-devices", "8", "--num-steps", "10", **FORCED))
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

    # Killed half way, both go on from the step that the first process finds good.
    again = tmp_path / "again"
    for process in two_processes(again, "--num-steps", "10"):
        finish(process)
    (again / "summary.json").unlink()
    shutil.rmtree(again / "checkpoints" / "10" / "state")
    for process in two_processes(again, "--num-steps", "20"):
        finish(process)
    assert (again / "metrics.jsonl").read_bytes() == whole


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
def test_variables_that_make_no_sense_are_refused(variables, words, tmp_path):
    process = start(tmp_path / "run", **variables)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert words in err
    assert "Traceback" not in err
