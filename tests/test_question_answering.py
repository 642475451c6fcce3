"""The study of answers: a small run, resumed, asked; tasks each in a run of its own; refusals."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import question_answering as study
from seqlab.cli import main
from seqlab.data.pairs import Pairs
from seqlab.data.stories import Question
from seqlab.errors import InputError
from seqlab.runlog import read_run
from seqlab.translator import rounded_up
from tests.tiny_training import goes_on_alike, stopped_after

SIZES = ("--embed-size", "6", "--hidden-size", "8", "--num-buckets", "1", "--num-devices", "1")
SIMPLE = ("--cell", "rnn", "--no-bidirectional")  # sooner compiled
WORLD = (*SIZES, *SIMPLE, "--max-distance", "1", "--num-train", "300", "--batch-size", "50",
         "--num-epochs", "2", "--save-every", "4", "--log-every", "3",
         "--learning-rate", "0.02")  # fmt: skip


def run(out, *flags, at=None, plot=None):
    path = main(
        study.Config, stopped_after(study.run, at), plot, [*flags, "--out", str(out)],
        predict=study.predict,
    )  # fmt: skip
    return read_run(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("world") / "run", *WORLD, plot=study.plot)


def test_a_run_says_what_it_is(trained):
    summary = trained.summary
    assert {"test_accuracy", "mean_accuracy", "majority_accuracy", "num_solved", "parameters",
            "compiled_shapes", "examples_per_s", "tasks"} <= set(summary)  # fmt: skip
    assert list(summary["tasks"]) == ["one", "two"]
    own = summary["tasks"]["one"]
    assert own["low"] <= own["accuracy"] + 1e-9 <= own["high"]
    right = sum(each["num_right"] for each in summary["tasks"].values())
    assert summary["test_accuracy"] == pytest.approx(right / summary["num_test"])
    losses = [row["loss"] for row in trained.metrics if row.get("split") == "valid"]
    assert losses[-1] < losses[0]
    facts = [row for row in trained.metrics if row.get("result") == "facts"]
    assert all(0 <= row[key] <= 1 for row in facts for key in ("gradient", "attention", "even"))
    (story, *_) = (row for row in trained.metrics if row.get("result") == "story")
    assert math.isclose(sum(story["gradient"]), 1.0, rel_tol=1e-5)
    assert len(story["attention"]) == len(story["sentences"])
    drawn = {path.name for path in (trained.path / "figures").iterdir()}
    assert {"accuracy.png", "distance.png", "facts.png", "training.png", "story_1.png"} <= drawn


def test_a_stopped_run_goes_on_to_the_same_numbers(trained, tmp_path):
    goes_on_alike(run, tmp_path / "again", WORLD, 9, trained)


def ask(path, monkeypatch, content):
    stdin = SimpleNamespace(buffer=io.BytesIO(content.encode()), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    main(study.Config, study.run, study.plot, ["--from-run", str(path), "--predict", "-"],
         predict=study.predict)  # fmt: skip


def test_a_question_is_answered(trained, monkeypatch, capsys):
    # What the run itself has said to these of its test questions.
    rows = [row for row in trained.metrics if row.get("result") == "answer"][:4]
    ask(trained.path, monkeypatch, "".join(f"{row['source'].upper()}\n" for row in rows))
    assert capsys.readouterr().out.splitlines() == [row["output"] for row in rows]


def test_a_line_without_a_question_is_named(trained, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        ask(trained.path, monkeypatch, "Where is Mary?\n\n")
    assert stop.value.code == 2
    assert "standard input, line 2 is empty: nothing to answer" in capsys.readouterr().err


def tiny_babi(tasks):
    """Two tasks whose answer is in the only sentence; task 1 has longer ones."""
    parts = {}
    for number, (part, count) in enumerate((("train", 40), ("valid", 8), ("test", 8))):
        parts[part] = []
        rng = np.random.default_rng(number)
        for task in (1, 6):
            for i in range(count):
                word = ("garden", "kitchen")[rng.integers(2)]
                story = (f"mary is in the {word} .", *["it rains ."] * (3 if task == 1 else 1))
                parts[part].append(Question(story, "where is mary ?", word, (0,), str(task), i))
    return parts


def test_each_task_has_a_run_of_its_own_that_does_not_depend_on_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "load_babi", tiny_babi)
    flags = (*SIZES, *SIMPLE, "--dataset", "babi", "--num-epochs", "2", "--batch-size", "20",
             "--learning-rate", "0.05")  # fmt: skip
    both = run(tmp_path / "both", *flags, "--tasks", "1", "6", plot=study.plot)
    assert list(both.summary["tasks"]) == ["1", "6"]
    mean = np.mean([own["accuracy"] for own in both.summary["tasks"].values()])
    assert both.summary["mean_accuracy"] == pytest.approx(mean)
    assert both.summary["num_test"] == 16
    alone = run(tmp_path / "alone", *flags, "--tasks", "6")
    inner = read_run(both.path / "task_6")
    assert alone.metrics == inner.metrics
    with pytest.raises(InputError, match="task_1, task_6 in it"):
        study.predict(both.path, study.Path("-"), beam_size=1)
    rows = study.table({"net": both.summary})
    assert [row.get("LSTM, Weston et al. 2015") for row in rows] == [50, 48, "49.0", None]


def test_free_answers_are_scored_and_sameness_is_seen(monkeypatch, tmp_path):
    texts = ["안녕", "누구야", "뭐해", "배고파"]
    parts = {part: [texts[i % 4] for i in range(20)] for part in ("train", "valid", "test")}
    pairs = Pairs("korean_chatbot", parts, {part: ["네"] * 20 for part in parts})
    monkeypatch.setattr(study, "load_pairs", lambda *args, **how: pairs)
    found = run(tmp_path / "run", *SIZES, *SIMPLE, "--dataset", "korean_chatbot",
                "--num-epochs", "3", "--batch-size", "10", "--learning-rate", "0.05",
                "--drop-inputs", "0", "--drop-features", "0", plot=study.plot)  # fmt: skip
    summary = found.summary
    assert summary["num_test"] == 4  # distinct questions
    assert summary["most_frequent_output_share"] == 1.0
    assert summary["distinct_share"] == summary["distinct_share_of_truth"] == 0.25
    assert summary["exact_match"] == summary["usual_answer_exact_match"] == 1.0
    assert (found.path / "figures" / "answers.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "baby"}, "did you mean 'babi'"),
        ({"tasks": (1,)}, "tasks says nothing of world: it is of babi"),
        ({"dataset": "babi", "tasks": (0,)}, "numbers from 1 to 20, got 0"),
        ({"dataset": "babi", "tasks": (2, 2)}, "tasks names one twice"),
        ({"dataset": "babi", "max_distance": 3}, "max_distance says nothing of babi"),
        ({"joint": True}, "joint says nothing of world"),
        ({"korean": "jamo"}, "korean says nothing of world"),
        ({"hidden_size": 0}, "hidden_size must be 1 or more"),
        ({"drop_inputs": 1.0}, "drop_inputs must be a share below 1"),
        ({"cell": "gruu"}, "gru"),
    ],
)
def test_what_cannot_be_run_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        study.Config(**fields)


def test_lengths_are_rounded_up_to_few():
    assert [rounded_up(n) for n in (1, 8, 9, 12, 13, 24, 25, 33, 49, 97)] == [
        6, 8, 12, 12, 16, 24, 32, 48, 64, 128,
    ]  # fmt: skip
