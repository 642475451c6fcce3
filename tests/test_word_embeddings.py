"""The study of word vectors: every method, a stopped run, seeds, and what cannot be had."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import word_embeddings
from experiments.word_embeddings import Config, plan, plot, run
from seqlab.cli import main
from seqlab.embeddings.corpus import encode, sentences
from seqlab.embeddings.files import load_word2vec
from seqlab.embeddings.glove import GloVe
from seqlab.errors import InputError
from seqlab.runlog import read_run

SMALL = ["--vector-size", "8", "--min-count", "2", "--path", "jax", "--num-epochs", "2"]


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A language of two topics; nothing is fetched, and the cache is a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "no mirror"))
    (tmp_path / "no mirror").mkdir()
    rng = np.random.default_rng(0)
    topics = ["man woman king queen boy girl".split(), "one two three four five six".split()]
    lines = [" ".join(rng.choice(topics[rng.integers(2)], 12)) for _ in range(400)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def walk(out, *flags):
    return read_run(main(Config, run, plot, [*flags, "--out", str(out)]))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["skipgram", "cbow", "glove"])
def test_words_of_a_topic_become_neighbours(text, tmp_path, method):
    flags = [*SMALL[:-1], "30" if method == "glove" else "12", "--x-max", "20"]
    rate = [] if method == "glove" else ["--learning-rate", "0.1"]
    found = walk(tmp_path / "run", "--corpus", str(text), "--method", method, *flags, *rate)
    vectors = load_word2vec(found.path / f"vectors-{method}-0.bin", binary=True)
    near = {word for word, _ in vectors.most_similar("king", topn=5)}
    assert near == {"man", "woman", "queen", "boy", "girl"}
    losses = [row["loss"] for row in found.metrics if "epoch" in row]
    assert losses[-1] < losses[0]
    assert found.summary["loss_per_example"] == losses[-1]
    for name in ("analogy_accuracy", "analogy_coverage", "ws353_spearman", "simlex999_spearman"):
        assert found.summary[name] is None  # no evaluation set is at hand
    assert found.summary["words_per_s"] > 0
    drawn = {path.name for path in (found.path / "figures").iterdir()}
    assert drawn == {f"map_{method}-0.png", f"training_{method}.png", f"analogies_{method}-0.png"}


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bytes(text, tmp_path, monkeypatch):
    flags = ["--corpus", str(text), "--compare", *SMALL]
    whole = walk(tmp_path / "whole", *flags)
    written, calls = word_embeddings.RunLog.write, []
    num_epochs = sum(training["num_epochs"] for training in whole.summary["trainings"])
    stops = {1, num_epochs - 1}

    def write(self, **fields):
        written(self, **fields)
        if "epoch" in fields:
            calls.append(fields)
            if len(calls) in stops:
                os.kill(os.getpid(), 2)

    with monkeypatch.context() as patched:
        patched.setattr(word_embeddings.RunLog, "write", write)
        for _ in stops:
            with pytest.raises(SystemExit) as stopped:
                walk(tmp_path / "cut", *flags)
            assert stopped.value.code == 130
    rest = walk(tmp_path / "cut", *flags)
    assert len(calls) == num_epochs - 1
    name = "metrics.jsonl"
    assert (rest.path / name).read_bytes() == (whole.path / name).read_bytes()
    files = list(whole.path.glob("vectors-*.bin"))
    assert len(files) == 3
    for file in files:
        assert file.read_bytes() == (rest.path / file.name).read_bytes()
    for one, other in zip(whole.summary["trainings"], rest.summary["trainings"], strict=True):
        assert {**one, "words_per_s": 0} == {**other, "words_per_s": 0}


@pytest.mark.slow
def test_seeds_are_compared_by_their_neighbours(text, tmp_path):
    found = walk(tmp_path / "run", "--corpus", str(text), "--num-seeds", "3", *SMALL)
    overlap = found.summary["neighbour_overlap"]["skipgram"]
    assert 0 < overlap["low"] <= overlap["mean"] <= overlap["high"] <= 1
    files = sorted(path.name for path in found.path.glob("vectors-*.bin"))
    assert files == [f"vectors-skipgram-{seed}.bin" for seed in range(3)]
    assert (found.path / "figures" / "stability.png").exists()


def test_compared_methods_cost_the_same(text, tmp_path):
    config = Config(compare=True, corpus=text, min_count=2, num_epochs=8)
    corpus = encode(sentences(corpus=text), tmp_path / "text.ids", min_count=2)
    jobs = plan(config, corpus)
    spent = {job.method: job.num_epochs * word_embeddings.cost(config, corpus, job.method)
             for job in jobs}  # fmt: skip
    assert [job.method for job in jobs] == ["skipgram", "cbow", "glove"]
    for method in ("cbow", "glove"):
        one = word_embeddings.cost(config, corpus, method)
        assert abs(spent[method] - spent["skipgram"]) <= one


def test_glove_takes_what_suits_the_text(monkeypatch):
    monkeypatch.setattr(word_embeddings, "cooccurrences", lambda config, corpus: None)
    job = word_embeddings.Job("glove", 0, 1)

    def settings(num_words, **fields):
        corpus = SimpleNamespace(words=["a", "b"], num_words=num_words)
        trainer = word_embeddings.GloVeTrainer(Config(**fields), job, corpus, None, 0)
        return trainer.settings

    assert settings(10**8 - 1).x_max == 10
    assert settings(10**8).x_max == 100
    assert settings(10**8, x_max=30.0).x_max == 30
    assert settings(1) == replace(GloVe(), x_max=10.0)
    slow = settings(1, learning_rate=0.01)
    assert slow.learning_rate / np.sqrt(slow.accumulators) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"method": "lsa"}, "method"),
        ({"dataset": "brown"}, "dataset"),
        ({"dataset": "imdb", "corpus": Path("x")}, "not both"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"x_max": 0.0}, "x_max"),
    ],
)
def test_what_cannot_be_run_is_refused(fields, says):
    with pytest.raises(InputError, match=says):
        Config(**fields)


def test_a_text_without_frequent_words_says_what_to_do(text, tmp_path, capsys):
    text.write_text("each word once only here", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        walk(tmp_path / "run", "--corpus", str(text))
    assert caught.value.code == 2
    assert "lower it" in capsys.readouterr().err


def test_the_summary_of_a_run_is_json(text, tmp_path):
    found = walk(tmp_path / "run", "--corpus", str(text), *SMALL)
    assert json.loads((found.path / "summary.json").read_text())["trainings"]
