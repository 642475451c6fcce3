"""Classifying texts: folds and seeds in one program, what is chosen, new texts, refusals."""

import io
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import text_classification as study
from seqlab.cli import main
from seqlab.data.vocabulary import SPECIALS, UNK
from seqlab.embeddings.files import save_word2vec
from seqlab.embeddings.vectors import Vectors
from seqlab.errors import InputError
from seqlab.runlog import read_run
from tests.tiny_training import goes_on_alike, stopped_after

GOOD, BAD = ("fine", "great", "lovely"), ("awful", "dull", "silly")
SMALL = (
    "--embed-size",
    "6",
    "--min-count",
    "1",
    "--num-buckets",
    "1",
    "--num-devices",
    "1",
    "--num-shown",
    "2",
)
CNN = ("--model", "cnn", "--num-maps", "4", "--widths", "2", "3", "--batch-size", "16")
GRU = ("--model", "bigru", "--hidden-size", "5", "--pooling", "attention", "--num-seeds", "2",
       "--batch-size", "16")  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixty texts of two classes that a word tells apart; each has a word of its own."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "reviews.csv"
    with path.open("w") as file:
        file.write("label,text\n")
        for k in range(60):
            words = ["the", "film", "was", "rather"][: 1 + int(rng.integers(4))]
            words += [f"own{k}", str(rng.choice(GOOD if k % 2 else BAD))]
            file.write(f"{'pos' if k % 2 else 'neg'},{' '.join(words)}\n")
    return path


def run(out, *flags, at=None):
    path = main(
        study.Config, stopped_after(study.run, at), study.plot, [*flags, "--out", str(out)],
        predict=study.predict,
    )  # fmt: skip
    return read_run(path)


@pytest.fixture(scope="module")
def folds(corpus, tmp_path_factory):
    flags = ("--corpus", str(corpus), "--folds", "yes", *CNN, *SMALL, "--num-epochs", "8",
             "--learning-rate", "0.05", "--optimizer", "adam")  # fmt: skip
    return run(tmp_path_factory.mktemp("folds") / "run", *flags)


@pytest.fixture(scope="module")
def seeds(corpus, tmp_path_factory):
    flags = ("--corpus", str(corpus), *GRU, *SMALL, "--num-epochs", "3",
             "--save-every", "2", "--log-every", "1")  # fmt: skip
    return run(tmp_path_factory.mktemp("seeds") / "run", *flags)


def test_folds_test_every_text_once_and_learn(folds, corpus):
    summary = folds.summary
    keys = {"test_accuracy", "test_accuracy_low", "test_accuracy_high", "macro_f1",
            "majority_accuracy", "bag_of_words_accuracy", "examples_per_s", "parameters",
            "compiled_shapes"}  # fmt: skip
    assert keys <= set(summary)
    assert summary["num_test"] == 60
    assert len(summary["test_accuracy_of_nets"]) == 10
    assert summary["bag_of_words_accuracy"] > 0.9
    assert summary["test_accuracy"] > 0.75
    assert summary["test_accuracy_low"] <= summary["test_accuracy"] <= summary["test_accuracy_high"]
    with np.load(folds.path / study.PREDICTIONS) as file:
        assert file["rows"].tolist() == list(range(60))
        assert file["labels"].tolist() == [0, 1] * 30
        probabilities = file["probabilities"]
    assert probabilities.shape == (1, 60, 2)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, rtol=1e-6)
    right = probabilities[0].argmax(axis=1) == np.array([0, 1] * 30)
    assert right.mean() == pytest.approx(summary["test_accuracy"])
    assert summary["majority_accuracy"] == pytest.approx(0.5, abs=0.05)


def test_a_net_knows_no_word_that_only_its_test_texts_have(corpus):
    config = study.Config(corpus=corpus, folds="yes", batch_size=16, min_count=1).filled()
    texts = study.load_texts(config)
    assert texts.are_folds
    tokens = np.array(texts.vocabulary.tokens)
    tested = []
    for net, known in zip(texts.nets, texts.known, strict=True):
        train = {word for row in net.rows["train"] for word in texts.data.texts[row].split()}
        assert set(tokens[known]) == train | set(tokens[: len(SPECIALS)])
        tested += net.rows["test"].tolist()
    assert sorted(tested) == list(range(60))
    reading = texts.reading("test", shuffled=False, batch_size=16, num_buckets=6)
    batch = reading.batch(0)
    is_own = batch["mask"] & (batch["xs"] == UNK)
    assert (is_own.sum(axis=-1) >= batch["is_real"]).all()  # the word of its own, at least


def test_new_texts_get_the_mean_of_all_nets_alone_or_together(seeds, folds):
    lines = ["the film was great", "rather dull", "", "qwerty uiop", "great great great " * 5]
    for found in (seeds, folds):
        classes, together = study.classify(found.path, lines)
        assert classes == ["neg", "pos"]
        np.testing.assert_allclose(together.sum(axis=1), 1.0, rtol=1e-6)
        order = [4, 2, 0, 3, 1]
        _, turned = study.classify(found.path, [lines[k] for k in order])
        np.testing.assert_allclose(turned, together[order], atol=1e-6)
    _, alone = study.classify(folds.path, lines[:1])
    np.testing.assert_allclose(alone[0], together[0], atol=1e-6)
    assert together[0, 1] > 0.5 > together[1, 1]


def test_predict_prints_a_line_for_each_line(folds, tmp_path, monkeypatch, capsys):
    ask = ["--from-run", str(folds.path), "--predict"]
    content = "the film was lovely\nan awful film\n"
    (tmp_path / "new.txt").write_text(content)
    main(study.Config, study.run, study.plot, [*ask, str(tmp_path / "new.txt")],
         predict=study.predict)  # fmt: skip
    printed = capsys.readouterr().out
    labels, probabilities, lines = zip(
        *(line.split("\t") for line in printed.splitlines()), strict=True
    )
    assert labels == ("pos", "neg")
    assert all(0.5 <= float(p) <= 1.0 for p in probabilities)
    assert "\n".join(lines) + "\n" == content
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    main(study.Config, study.run, study.plot, [*ask, "-"], predict=study.predict)
    assert capsys.readouterr().out == printed
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"fine\n\xff\n")))
    with pytest.raises(SystemExit) as stop:
        main(study.Config, study.run, study.plot, [*ask, "-"], predict=study.predict)
    assert stop.value.code == 2
    assert "standard input is not UTF-8: byte 0xff at offset 5, line 2" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_same_numbers(seeds, corpus, tmp_path):
    flags = ("--corpus", str(corpus), *GRU, *SMALL, "--num-epochs", "3",
             "--save-every", "2", "--log-every", "1")  # fmt: skip
    again = goes_on_alike(run, tmp_path / "run", flags, 3, seeds)
    with np.load(again.path / study.PREDICTIONS) as a, np.load(seeds.path / study.PREDICTIONS) as b:
        np.testing.assert_array_equal(a["probabilities"], b["probabilities"])


def test_what_is_seen_inside(seeds):
    words = [row for row in seeds.metrics if row.get("result") == "words"]
    assert words
    for row in words:
        for name in (*study.ATTRIBUTIONS, "attention"):
            assert len(row[name]) == len(row["tokens"])
        assert sum(row["attention"]) == pytest.approx(1.0, abs=1e-5)
    gradients = [row for row in seeds.metrics if row.get("result") == "gradient"]
    assert {row["leaf"] for row in gradients} == {"layer_0 forward", "layer_0 backward"}
    lengths = [row for row in seeds.metrics if row.get("result") == "length"]
    assert sum(row["num_texts"] for row in lengths) == seeds.summary["num_test"]
    drawn = {path.name for path in (seeds.path / "figures").iterdir()}
    assert drawn == {"training.png", "confusion.png", "lengths.png", "gradient.png", "words.png"}


def test_the_parameters_kept_are_those_of_the_best_epoch(seeds):
    valid = [row for row in seeds.metrics if row.get("split") == "valid"]
    for net, epoch in enumerate(seeds.summary["best_epochs"]):
        figures = [(row["accuracy"][net], -row["loss"][net]) for row in valid]
        assert figures.index(max(figures)) + 1 == epoch


@pytest.mark.parametrize("mode", ["static", "non-static", "multichannel"])
def test_vectors_begin_and_stay_or_are_trained(mode, corpus, tmp_path):
    words = ("the", "film", "was", "great", "awful")
    vectors = Vectors(words, np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32))
    save_word2vec(tmp_path / "own.txt", vectors)
    config = study.Config(
        corpus=corpus, vectors=tmp_path / "own.txt", mode=mode, model="cnn", num_maps=3,
        num_seeds=2, batch_size=8, num_buckets=1, optimizer="adam",
    ).filled()  # fmt: skip
    texts = study.load_texts(config, vectors)
    matrix = vectors.matrix(texts.vocabulary).matrix
    files = {"vocabulary": texts.vocabulary.to_json(), "classes": ["neg", "pos"], "num_nets": 2,
             "embed_size": 6}  # fmt: skip
    step, state = study.build(config, files, matrix)
    batch = texts.reading("train", shuffled=True, batch_size=8, num_buckets=1).batch(0)
    new, _ = jax.jit(step)(state, batch)
    begun = state.params["cnn"]["embed"]["embedding"]
    np.testing.assert_array_equal(begun, np.stack([matrix, matrix]))
    is_moved = not np.array_equal(new.params["cnn"]["embed"]["embedding"], begun)
    assert is_moved == (mode != "static")
    if mode == "multichannel":
        np.testing.assert_array_equal(new.params["cnn"]["static"]["embedding"], begun)


def test_two_runs_are_compared_on_the_same_texts_only(seeds, folds, tmp_path):
    log = SimpleNamespace(table=lambda title, rows: None)
    same = study.against(seeds.path, seeds.path, log)
    assert (same["first_only"], same["second_only"], same["p_value"]) == (0, 0, 1.0)
    with pytest.raises(InputError, match="other texts"):
        study.against(seeds.path, folds.path, log)
    with pytest.raises(InputError, match="no predictions"):
        study.against(seeds.path, tmp_path, log)
    whole = (seeds.path / study.PREDICTIONS).read_bytes()
    (tmp_path / study.PREDICTIONS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no predictions"):
        study.against(seeds.path, tmp_path, log)


@pytest.mark.slow
def test_a_comparison_holds_a_run_for_each_model_and_judges_the_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "COMPARED", ("cnn", "rnn", "lstm", "gru"))
    flags = ("--quick", "--compare", "--max-distance", "4", "--num-epochs", "1", "--num-shown", "0")
    found = run(tmp_path / "run", *flags)
    assert list(found.summary["models"]) == ["cnn", "rnn", "lstm", "gru"]
    assert len(found.summary["mcnemar"]) == 6
    checks = {check["name"]: check["passed"] for check in found.summary["checks"]}
    assert not checks["gru, 4 words between"]  # one epoch is too little
    assert {path.name for path in (found.path / "figures").iterdir()} == {
        "models.png", "lengths.png", "distances.png",
    }  # fmt: skip
    alone = run(tmp_path / "alone", *flags[:1], "--model", "gru", *flags[2:])
    assert (alone.path / "metrics.jsonl").read_bytes() == (
        found.path / "gru" / "metrics.jsonl"
    ).read_bytes()
    with pytest.raises(InputError, match="name one of cnn, rnn"):
        study.load(found.path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "nothing"], "model nothing: neither cnn nor a cell"),
        (["--model", "bilstmm"], "neither cnn nor a cell"),
        (["--folds", "yes"], "negation has a test part of its own"),
        (["--drop-inputs", "1.0"], "drop_inputs must be a probability below 1"),
        (["--pooling", "sum"], "pooling"),
        (["--vectors", "v.txt", "--level", "char"], "vectors are of words"),
        (["--vectors", "v.txt", "--mode", "multichannel"], "is of model cnn"),
        (["--vectors", "nowhere.txt"], "nowhere.txt"),
        (["--corpus", "ONE"], "every text is of class"),
        (["--corpus", "reviews.csv", "--text-column", "words"], "words"),
        (["--predict", "-"], "name it with --from-run"),
    ],
)
def test_a_mistake_is_one_message(flags, words, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    (tmp_path / "one.csv").write_text("text,label\n" + "fine,pos\n" * 30)
    flags = [str(tmp_path / "one.csv") if flag == "ONE" else flag for flag in flags]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", *flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_published_figures_are_of_sets_that_there_are():
    from seqlab.data.labelled import DATASETS

    assert {row.dataset for row in study.PUBLISHED} <= set(DATASETS)
    figures = {"majority_accuracy": 0.2, "bag_of_words_accuracy": 0.8, "test_accuracy": 0.9,
               "test_accuracy_low": 0.88, "test_accuracy_high": 0.92, "macro_f1": 0.9,
               "calibration_error": 0.1, "parameters": 7, "examples_per_s": None}  # fmt: skip
    rows = study.table("trec", {"cnn": figures})
    assert [row["model"] for row in rows[:3]] == [
        "most frequent class", "bag of words, logistic regression", "cnn",
    ]  # fmt: skip
    assert json.dumps(rows).count("held out") == 3
