"""Dashboards: what they are given, read back from the files; nothing is there twice."""

import json
import os
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest

from seqlab import writers
from seqlab.errors import InputError
from seqlab.writers import TensorBoard, WandB, open_writer

ROOT = Path(__file__).parents[1]
RECORD = {
    "experiment": "study",
    "config": {"cells": ["rnn", "lstm"], "seed": 3},
    "command": "python -m study",
    "started_utc": "2026-11-23T20:00:00+00:00",
}
ROWS = [
    {"step": 0, "dataset": "digits", "digest": "af01"},
    {"step": 0, "cell": "rnn", "split": "train", "loss": 2.5, "steps": 7},
    {"step": 5, "cell": "rnn", "split": "train", "loss": 2.0, "steps": 8},
    {"step": 0, "cell": "lstm", "probe": "carry", "log_norm": [1.0, 2.0]},
    {"step": 0, "cell": "lstm", "split": "train", "loss": 2.25, "norms": {"W_h": 0.5, "b": None}},
    {"step": 5, "cell": "lstm", "split": "train", "loss": None},
]
POINTS = [
    ("rnn/train/loss", 0, 2.5),
    ("rnn/train/steps", 0, 7.0),
    ("rnn/train/loss", 5, 2.0),
    ("rnn/train/steps", 5, 8.0),
    ("lstm/train/loss", 0, 2.25),
    ("lstm/train/norms/W_h", 0, 0.5),
]


def events(folder):
    """Every event in a folder's files; TFRecord: length, its crc, content, its crc."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        start = 0
        while start < len(content):
            (size,) = struct.unpack_from("<Q", content, start)
            yield event_pb2.Event.FromString(content[start + 12 : start + 12 + size])
            start += 16 + size


def points(folder):
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def fill(writer, rows):
    for row in rows:
        writer.write(row["step"], row)
    writer.close()


def test_tensorboard_has_every_number_under_its_texts(tmp_path):
    pytest.importorskip("tensorboardX")
    fill(TensorBoard(tmp_path), ROWS)
    assert points(tmp_path) == POINTS


@pytest.mark.parametrize("num_kept", [0, 3, len(ROWS)])
def test_a_resumed_run_has_each_point_once_in_tensorboard(tmp_path, num_kept):
    """Also the cell that was finished, whose steps are past those of the cell in hand."""
    pytest.importorskip("tensorboardX")
    late = {"step": 5, "cell": "lstm", "split": "train", "loss": 9.0}
    fill(TensorBoard(tmp_path), [*ROWS, late])
    (old,) = tmp_path.iterdir()  # named by the second it was made in
    old.rename(old.with_name("events.out.tfevents.1000000000.host"))
    fill(TensorBoard(tmp_path, kept=iter(ROWS[:num_kept])), ROWS[num_kept:])
    assert points(tmp_path) == POINTS
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [0]  # an open TensorBoard forgets all points from there on


def test_open_writer_chooses_and_says_what_it_has(tmp_path):
    pytest.importorskip("tensorboardX")
    assert open_writer("none", tmp_path, RECORD) is None
    assert list(tmp_path.iterdir()) == []
    fill(open_writer("tensorboard", tmp_path, RECORD), ROWS)
    assert points(tmp_path / "tensorboard") == POINTS
    fill(open_writer("tensorboard", tmp_path, RECORD, ROWS[:4]), ROWS[4:])
    assert points(tmp_path / "tensorboard") == POINTS
    with pytest.raises(InputError, match="unknown writer 'visdom'; known: none, tensorboard"):
        open_writer("visdom", tmp_path, RECORD)


@pytest.mark.parametrize(("kind", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"pip install {package}, or \"seqlab\[track\]\""):
        open_writer(kind, tmp_path, RECORD)
    assert list(tmp_path.iterdir()) == []


class FakeRun:
    """A wandb run whose server has the lines before `starting_step`."""

    def __init__(self, starting_step):
        self.starting_step = starting_step
        self.logged, self.metrics, self.is_finished = [], [], False

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def fake_wandb(monkeypatch):
    wandb = types.ModuleType("wandb")
    wandb.Error = type("Error", (Exception,), {})
    wandb.runs, wandb.asked, wandb.starting_step = [], [], 0

    def init(**asked):
        wandb.asked.append(asked)
        wandb.runs.append(FakeRun(wandb.starting_step))
        return wandb.runs[-1]

    wandb.init = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return wandb


LOGGED = [
    (1, {"step": 0, "rnn/train/loss": 2.5, "rnn/train/steps": 7}),
    (2, {"step": 5, "rnn/train/loss": 2.0, "rnn/train/steps": 8}),
    (4, {"step": 0, "lstm/train/loss": 2.25, "lstm/train/norms/W_h": 0.5}),
]


def test_wandb_gets_the_config_and_the_rows_by_line(tmp_path, fake_wandb):
    fill(open_writer("wandb", tmp_path / "runs" / "a", RECORD), ROWS)
    (run,), (asked,) = fake_wandb.runs, fake_wandb.asked
    assert run.logged == LOGGED
    assert run.metrics == [("*", "step")]
    assert run.is_finished
    assert asked["config"] == RECORD["config"]
    assert (asked["project"], asked["name"]) == ("study", "runs/a")
    assert asked["dir"] == str(tmp_path / "runs" / "a")


@pytest.mark.parametrize("num_sent", range(len(ROWS) + 1))
def test_a_resumed_run_sends_what_the_server_lacks(tmp_path, fake_wandb, num_sent):
    WandB(tmp_path, RECORD)
    fake_wandb.starting_step = num_sent
    fill(WandB(tmp_path, {**RECORD, "resumed": [{}]}, kept=ROWS[:2]), ROWS[2:])
    first, again = fake_wandb.asked
    assert first["id"] == again["id"]
    assert again["resume"] == "allow"
    expected = [each for each in LOGGED if each[0] >= max(num_sent, 2)]
    assert fake_wandb.runs[1].logged == expected


def test_another_run_has_another_id(tmp_path, fake_wandb):
    WandB(tmp_path, RECORD)
    WandB(tmp_path, {**RECORD, "config": {**RECORD["config"], "seed": 4}})
    first, second = fake_wandb.asked
    assert first["id"] != second["id"]


def test_wandb_that_refuses_is_one_message(tmp_path, fake_wandb):
    def init(**asked):
        raise fake_wandb.Error("api_key not configured")

    fake_wandb.init = init
    with pytest.raises(InputError, match="api_key not configured; wandb login, or WANDB_MODE=off"):
        WandB(tmp_path, RECORD)


def wandb_records(path):
    """Every record of a small .wandb file: a LevelDB log of protocol buffers, one block of it."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert len(content) < 1 << 15
    start = 7  # its own header
    while start < len(content):
        _crc, size, kind = struct.unpack_from("<IHB", content, start)
        assert kind == 1  # a whole record
        yield wandb_internal_pb2.Record.FromString(content[start + 7 : start + 7 + size])
        start += 7 + size


OFFLINE = """
import json, sys
from pathlib import Path
from seqlab.writers import open_writer

rows = json.loads(sys.argv[2])
record = {"experiment": "study", "config": {"seed": 3}}
for kept, new in ((None, rows[:4]), (rows[:2], rows[2:])):
    writer = open_writer("wandb", Path(sys.argv[1]), record, kept)
    for row in new:
        writer.write(row["step"], row)
    writer.close()
"""


def test_wandb_itself_offline(tmp_path, monkeypatch):
    """Two parts of one run leave two folders with the same id, and every point between them."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-c", OFFLINE, str(run), json.dumps(ROWS)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    found, ids = [], set()
    for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        ids.add(path.stem)
        for record in wandb_records(path):
            if record.HasField("history"):
                items = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                line = record.history.step.num
                numbers = {key: items[key] for key in items if not key.startswith("_")}
                found.append((line, numbers))
    assert len(ids) == 1
    # What followed the checkpoint, line 2, is in both parts under one line number.
    assert found == [*LOGGED[:2], *LOGGED[1:]]


def test_writers_need_nothing_until_they_are_opened():
    code = "import sys, seqlab.writers; print(*{'jax', 'tensorboardX', 'wandb'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == ""
    assert writers.Kind.__args__ == ("none", "tensorboard", "wandb")
