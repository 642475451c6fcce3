"""A run that is killed, damaged or stopped goes on to the same numbers, or says why it cannot."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.gru import GRU
from seqlab.checkpoint import Checkpoints
from seqlab.cli import main
from seqlab.data.batching import Buckets, Feed
from seqlab.errors import InputError
from seqlab.losses import cross_entropy, masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.session import Session, Stopping
from seqlab.train import init_state, make_train_step
from tests import tiny_training

ROOT = Path(__file__).parents[1]
SMALL = ("--num-layers", "1", "--hidden-size", "4", "--dropout", "0")
CHANGES = ("wall_s", "peak_rss_mb", "compile_s", "steps_per_s", "resumed")  # from run to run


def train(out, *flags):
    return main(tiny_training.Config, tiny_training.run, argv=["--out", str(out), *SMALL, *flags])


def child(out, *flags):
    """In a process of its own, to be killed; what it says goes to a file."""
    with Path(f"{out}.err").open("w") as err:
        os.dup2(err.fileno(), 2)
    os.environ["JAX_PLATFORMS"] = "cpu"
    train(out, *flags)


@pytest.fixture(scope="module")
def spawn():
    """Starts `child` from a process that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiny_training", "tests.test_session"])

    def start(*args):
        process = context.Process(target=child, args=args)
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed") / "run")


def metrics(run):
    return (Path(run) / "metrics.jsonl").read_bytes()


def figures(run):
    summary = json.loads((Path(run) / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in CHANGES}


def saved(run):
    return Checkpoints(Path(run) / "checkpoints", writes=False).steps()


def stopped_at(out, step, *flags):
    """A run that was stopped after a step, as by SIGTERM."""
    run = tiny_training.stopped_after(tiny_training.run, step)
    with pytest.raises(SystemExit) as stop:
        main(tiny_training.Config, run, argv=["--out", str(out), *SMALL, *flags])
    assert stop.value.code == 130
    return Path(out)


@pytest.mark.slow
def test_sigkill_at_thirty_moments_changes_nothing(spawn, undisturbed, tmp_path):
    """Every other kill falls into a save; every step is saved, so there is much of that."""
    rng, run = random.Random(0), tmp_path / "run"
    lost, in_saves = [], 0
    for attempt in range(30):
        before = len(metrics(run).splitlines()) if (run / "metrics.jsonl").exists() else 0
        at_least = max([*saved(run), 0])
        process = spawn(run, "--pause-s", "0.04", "--save-every", "1", "--num-steps", "60")
        deadline = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            steps = saved(run)
            if (steps and steps[-1] > at_least) or (before == 0 and rng.random() < 0.02):
                break
            time.sleep(0.005)
        if attempt % 2:
            while process.is_alive() and not list(run.glob("checkpoints/*.partial")):
                pass
            in_saves += process.is_alive()
        else:
            time.sleep(rng.uniform(0.0, 0.1))
        if not process.is_alive():
            break  # it reached the end
        process.kill()
        process.join()
        lines = metrics(run).splitlines() if (run / "metrics.jsonl").exists() else []
        seen = [json.loads(line)["step"] for line in lines[1:-1]]
        if seen and saved(run):
            lost.append(max(seen) - max(saved(run)))
    assert attempt == 29, "the run was over before it was killed thirty times"
    assert in_saves >= 10
    assert max(lost) <= 2  # one save, of every step, was under way, and one step since
    train(run, "--save-every", "5", "--pause-s", "0")
    assert metrics(run) == metrics(undisturbed)
    assert figures(run) == figures(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "word", "code"),
    [(signal.SIGINT, "stopped", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_saves_and_says_how_to_go_on(undisturbed, tmp_path, sent, word, code):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.tiny_training", "--out", str(run), *SMALL]
    process = subprocess.Popen(
        [*command, "--pause-s", "0.1", "--save-every", "1000"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (run / "metrics.jsonl").exists() or len(metrics(run).splitlines()) < 8:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    (step,) = saved(run)  # save_every is out of reach: the signal saved it
    assert f"{word} after step {step}, which is saved" in err
    again = err.strip().rpartition("go on with: ")[2]
    subprocess.run(
        [sys.executable, *again.split()[1:], "--pause-s", "0", "--save-every", "5"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    assert metrics(run) == metrics(undisturbed)
    assert figures(run) == figures(undisturbed)


def test_two_runs_without_a_stop_are_equal(undisturbed, tmp_path):
    again = train(tmp_path / "again", "--save-every", "7")
    assert metrics(again) == metrics(undisturbed)
    assert figures(again) == figures(undisturbed)


def test_a_resumed_run_is_recorded_as_such(undisturbed, tmp_path):
    run = stopped_at(tmp_path / "run", 23)
    assert saved(run)[-1] == 23
    train(run)
    assert metrics(run) == metrics(undisturbed)
    assert figures(run) == figures(undisturbed)
    assert json.loads((run / "summary.json").read_text())["resumed"] == 1
    record = json.loads((run / "config.json").read_text())
    assert len(record["resumed"]) == 1
    assert "versions" in record["resumed"][0]


@pytest.mark.parametrize("stop", [None, 17])
def test_buckets_compile_one_program_a_shape(tmp_path, stop):
    """Counted in the summary; and where the feed ends, so does training."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, size=100)
    sentences = [rng.integers(4, tiny_training.VOCABULARY, size=n) for n in lengths]
    labels = rng.integers(2, size=100)
    buckets = Buckets(sentences, labels, batch_size=8, num_buckets=3, seed=0)
    model = functional(ManyToOne, GRU(3), input_size=2, output_size=2, vocab_size=9)
    optimizer = optax.sgd(0.1)
    traced = []

    def loss_fn(params, batch, key):
        traced.append(batch["xs"].shape)
        out = model.apply(params, batch["xs"], batch["mask"])
        return masked_mean(cross_entropy(out.logits, batch["targets"]), batch["is_real"]), {}

    def run(config, log):
        state = init_state(model.init(jax.random.key(0)), optimizer, jax.random.key(1))
        step = make_train_step(loss_fn, optimizer)
        with (
            Feed(buckets, stop=stop) as feed,
            Session(log, state, feed, num_steps=30, save_every=100) as session,
        ):
            for _ in session.steps(step):
                pass
        log.finish(**session.figures())

    summary = figures(main(tiny_training.Config, run, argv=["--out", str(tmp_path / "run")]))
    assert summary["steps"] == (stop or 30)
    assert summary["compiled_shapes"] == len(traced) == len(set(traced)) == 3
    assert set(traced) == set(buckets.shapes)


# Damage


def largest(step_folder):
    files = [path for path in step_folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for i in range(max(0, middle - 32), min(len(content), middle + 32)):
        content[i] ^= 0xFF
    path.write_bytes(content)


DAMAGE = {
    "flipped": (lambda step: flip(largest(step)), "has changed since it was written"),
    "truncated": (lambda step: os.truncate(largest(step), 10), "has 10 bytes, expected"),
    "deleted": (lambda step: largest(step).unlink(), "is missing"),
    "metadata": (lambda step: (step / "state" / "_METADATA").unlink(), "_METADATA is missing"),
    "record": (lambda step: flip(step / "run.json"), "run.json has changed"),
    "manifest": (lambda step: (step / "manifest.json").unlink(), "it has no manifest.json"),
    "garbled": (lambda step: flip(step / "manifest.json"), "manifest.json cannot be read"),
    "stray file": (lambda step: (step / "x").write_text("x"), "x does not belong to it"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return stopped_at(tmp_path_factory.mktemp("stopped") / "run", 23)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_step_is_passed_over_and_named(kind, stopped, undisturbed, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    damage, words = DAMAGE[kind]
    damage(run / "checkpoints" / "23")
    train(run)
    said = capsys.readouterr().err
    assert "checkpoint of step 23 is passed over: " in said
    assert words in said
    assert "going on after step 20" in said
    assert metrics(run) == metrics(undisturbed)
    assert (run / "checkpoints" / "23.damaged").is_dir()  # left to be looked at


def test_a_stray_empty_step_is_passed_over(stopped, undisturbed, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    (run / "checkpoints" / "99").mkdir()
    train(run)
    said = capsys.readouterr().err
    assert "checkpoint of step 99 is passed over: it has no manifest.json" in said
    assert "going on after step 23" in said
    assert metrics(run) == metrics(undisturbed)


def test_without_a_good_step_it_stops_in_one_line(stopped, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    for step in saved(run):
        flip(largest(run / "checkpoints" / str(step)))
    before = metrics(run)
    with pytest.raises(SystemExit) as stop:
        train(run)
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is good (step 23: " in message
    assert "new directory" in message
    assert metrics(run) == before  # nothing was lost by trying
    assert saved(run) == saved(stopped)


def test_metrics_that_lost_lines_are_no_place_to_go_on_from(stopped, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    os.truncate(run / "metrics.jsonl", 200)
    with pytest.raises(SystemExit):
        train(run)
    assert "metrics.jsonl has 200 bytes, expected " in capsys.readouterr().err


def test_metrics_that_lost_the_newest_lines_are_gone_back_with(
    stopped, undisturbed, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    os.truncate(run / "metrics.jsonl", len(metrics(run)) - 1)
    train(run)
    assert "going on after step 20" in capsys.readouterr().err
    assert metrics(run) == metrics(undisturbed)


def test_metrics_that_were_changed_are_found(stopped, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    flip(run / "metrics.jsonl")
    with pytest.raises(SystemExit):
        train(run)
    assert "metrics.jsonl has changed since it was written" in capsys.readouterr().err


def test_a_damaged_best_step_is_not_passed_off(tmp_path, capsys):
    """The newest is whole, but what it calls the best cannot be given back."""
    run = stopped_at(tmp_path / "run", 43, "--worsening")
    assert saved(run) == [10, 40, 43]
    flip(largest(run / "checkpoints" / "10"))
    with pytest.raises(SystemExit) as stop:
        train(run, "--worsening")
    assert stop.value.code == 2
    assert "its best step, 10, is damaged: " in capsys.readouterr().err


def full_disk(folder, *flags):
    """A child whose files cannot grow beyond 100 kB, as on a disk that is full."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    child(folder, *flags)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits on Windows")
def test_a_disk_that_fills_up_stops_in_one_line(tmp_path):
    """The metrics would fit, the checkpoint does not."""
    flags = ("--hidden-size", "64")
    whole = train(tmp_path / "whole", *flags)
    assert len(metrics(whole)) < 100_000
    run = stopped_at(tmp_path / "run", 23, *flags)
    code = f"from tests.test_session import full_disk; full_disk({str(run)!r}, *{flags!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    said = Path(f"{run}.err").read_text().strip().splitlines()
    assert said[-1].startswith("error: cannot save in ")
    assert re.search(r"File too large; the newest good step is \d+ \(unfinished run", said[-1])
    assert "Traceback" not in "\n".join(said)
    assert not list(run.glob("checkpoints/*.partial"))
    train(run, *flags)
    assert metrics(run) == metrics(whole)


# Keeping


def test_worsening_figures_leave_the_best_and_the_newest(tmp_path):
    run = train(tmp_path / "run", "--worsening", "--save-every", "10")
    assert saved(run) == [10, 50, 60]  # the best was the first; the newest two are there too


def test_early_stopping_and_its_resume(tmp_path):
    flags = ("--worsening", "--patience", "3")
    run = train(tmp_path / "run", *flags)
    summary = figures(run)
    assert summary["stopped_early"]
    assert (summary["steps"], summary["best_step"]) == (40, 10)
    other = stopped_at(tmp_path / "other", 33, *flags)
    train(other)
    assert metrics(other) == metrics(run)
    assert figures(other) == summary


def test_leaving_the_loop_saves_what_was_reached(tmp_path):
    """By `break`, with the best just reported; and a signal that came then is answered."""

    def run(config, log):
        train_step, state = tiny_training.build(config, {"vocabulary": config.vocabulary})
        feed = tiny_training.Feed(config)
        with Session(log, state, feed, num_steps=60, save_every=5) as session:
            for step, _, _ in session.steps(train_step):
                log.write(step=step)
                if step == 12:
                    session.report(step, 1.0)
                    log.stop = KeyboardInterrupt
                    break

    with pytest.raises(SystemExit) as stop:
        main(tiny_training.Config, run, argv=["--out", str(tmp_path / "run"), *SMALL])
    assert stop.value.code == 130
    assert saved(tmp_path / "run") == [10, 12]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """The update itself left the numbers: good steps stay, the run says what is wrong."""
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(2)}, {}, wait=True)
        with pytest.raises(InputError, match="step 2 is not saved: w holds"):
            checkpoints.save(2, {"w": jnp.asarray([1.0, jnp.inf])}, {})
        assert checkpoints.steps() == [1]


def test_numbers_that_make_no_sense_are_refused(tmp_path, capsys):
    for field in ("patience", "save-every"):
        with pytest.raises(SystemExit):
            train(tmp_path / field, f"--{field}", "0")
        assert f"{field.replace('-', '_')} must be 1 or more, got 0" in capsys.readouterr().err


def test_stopping_by_hand():
    stopping = Stopping(patience=2)
    assert [stopping.report(step, x) for step, x in enumerate([3.0, 2.0, 2.0], 1)] == [1, 1, 0]
    assert not stopping.is_over
    assert not stopping.report(4, float("nan"))
    assert stopping.is_over
    assert (stopping.best, stopping.best_step) == (2.0, 2)
    assert not Stopping(None, waited=1000).is_over


# Going on otherwise than one began


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--learning-rate", "0.5"), "learning_rate is 0.5, the unfinished run in"),
        (("--hidden-size", "6"), "hidden_size is 6"),
        (("--vocabulary", "abcdefx"), "vocabulary is 'abcdefx'"),
        (("--no-resume",), "is not empty"),
    ],
)
def test_another_config_is_refused_by_field(flags, words, stopped, capsys):
    before = metrics(stopped)
    with pytest.raises(SystemExit) as stop:
        train(stopped, *flags)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert metrics(stopped) == before


def test_a_longer_run_is_no_other_config(undisturbed, tmp_path):
    run = stopped_at(tmp_path / "run", 33, "--num-steps", "40")
    train(run, "--num-steps", "60")
    assert metrics(run) == metrics(undisturbed)


def test_another_vocabulary_is_refused(stopped, tmp_path, capsys, monkeypatch):
    """Not by the config, which says the same, but by what was saved."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    original = tiny_training.Session

    def session(*args, files, **options):
        return original(*args, files={"vocabulary": "gfedcba"}, **options)

    monkeypatch.setattr(tiny_training, "Session", session)
    with pytest.raises(SystemExit):
        train(run)
    assert "vocabulary: " in capsys.readouterr().err


def test_another_model_is_refused_by_leaf(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"rnn": {"W_h": jnp.ones((3, 3))}}, {}, wait=True)
        with pytest.raises(InputError, match=r"rnn.W_h has shape \(3, 3\).* this run has \(4, 4\)"):
            checkpoints.restore(1, {"rnn": {"W_h": jnp.ones((4, 4))}})
        with pytest.raises(InputError, match="holds no head"):
            checkpoints.restore(1, {"rnn": {"W_h": jnp.ones((3, 3))}, "head": jnp.ones(1)})
        with pytest.raises(InputError, match=r"holds rnn.W_h, which"):
            checkpoints.restore(1, {"rnn": {}})


def test_changed_data_is_found_before_the_first_new_step(stopped, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)

    def other_data(config, log):
        log.write(step=0, vocabulary="another digest")
        tiny_training.run(config, log)

    with pytest.raises(SystemExit):
        main(tiny_training.Config, other_data, argv=["--out", str(run), *SMALL])
    assert "line 1 was otherwise when the run began" in capsys.readouterr().err


def test_one_run_is_not_written_by_two_processes(spawn, tmp_path, capsys):
    run = tmp_path / "run"
    process = spawn(run, "--pause-s", "0.3")
    while not (run / "metrics.jsonl").exists() or len(metrics(run).splitlines()) < 3:
        assert process.is_alive()
        time.sleep(0.02)
    with pytest.raises(SystemExit):
        train(run)
    process.kill()
    process.join()
    assert "is being written by another process" in capsys.readouterr().err


def test_resume_asked_for_where_there_is_nothing(tmp_path, capsys, undisturbed):
    for flags in (("--out", str(tmp_path / "none")), (), ("--out", str(undisturbed))):
        with pytest.raises(SystemExit) as stop:
            main(tiny_training.Config, tiny_training.run, argv=["--resume", *flags])
        assert stop.value.code == 2
        assert "goes on with a run" in capsys.readouterr().err or flags


# Numbers that are not finite


def test_a_step_that_is_not_finite_stops_with_a_report(tmp_path, capsys):
    run = tmp_path / "run"
    for _ in range(2):  # resumed, it comes to the same step
        with pytest.raises(SystemExit) as stop:
            train(run, "--nan-at-step", "20", "--save-every", "20")
        assert stop.value.code == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "step 20, batch ids 20000 " in message
        assert "example 20003" in message
        assert "batch.scale[3] = inf came in" in message
        assert "python -m seqlab.replay" in message
    assert saved(run) == [10]  # the best so far; nothing is saved past what went wrong


def test_it_can_be_skipped_instead(tmp_path, capsys):
    flags = ("--nan-at-step", "20", "--on-nonfinite", "skip")
    run = train(tmp_path / "run", *flags)
    assert "its update is left out" in capsys.readouterr().err
    assert figures(run)["updates_skipped"] == 1
    assert figures(run)["nonfinite_written"] > 0
    report = json.loads((run / "nonfinite" / "step_20" / "report.json").read_text())
    assert report["example_id"] == 20003
    other = stopped_at(tmp_path / "other", 23, *flags)
    train(other)
    assert metrics(other) == metrics(run)


def test_it_can_be_replayed(tmp_path, capsys):
    from seqlab import replay

    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        train(run, "--nan-at-step", "7")
    capsys.readouterr()
    record = json.loads((run / "config.json").read_text())
    assert record["module"] == "tests.tiny_training"
    replay.main([str(run)])
    said = capsys.readouterr().out
    assert "then: batch.scale[3] = inf came in" in said
    assert "now:  batch.scale[3] = inf came in" in said
    for arguments, words in (
        ([str(run), "--step", "8"], "there are: 7"),
        ([str(tmp_path)], "is not a run directory"),
    ):
        with pytest.raises(SystemExit) as stop:
            replay.main(arguments)
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
