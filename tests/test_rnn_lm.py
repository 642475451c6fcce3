"""The study of recurrent language models: its figures, presets, resume, and what it refuses."""

import json
import math
from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rnn_lm as study
from seqlab.cli import main
from seqlab.data.text import text_parts
from seqlab.data.vocabulary import EOS, UNK, encode_text
from seqlab.models.language import uniform
from seqlab.runlog import config_values, read_run
from seqlab.scoring import load_scores
from tests.tiny_training import stopped_after

# At this rate the third epoch is worse than the second: averaging begins after it.
TINY = ("--level", "word", "--max-vocabulary", "12", "--hidden-size", "4", "--embed-size", "4",
        "--tied", "--seq-len", "5", "--batch-size", "4", "--num-epochs", "5", "--log-every", "10",
        "--num-devices", "1", "--write", "5", "--save-every", "1000")  # fmt: skip
ASGD = ("--optimizer", "asgd", "--nonmonotone", "1", "--schedule", "constant",
        "--learning-rate", "2", "--drop-inputs", "0.2")  # fmt: skip
CHANGES = ("wall_s", "peak_rss_mb", "compile_s", "steps_per_s", "tokens_per_s", "resumed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = np.array([f"w{k}" for k in range(12)])
    weights = 1 / np.arange(1, 13)
    lines = [" ".join(rng.choice(words, 6, p=weights / weights.sum())) for _ in range(120)]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(out, *flags, at=None):
    """A run; with `at`, stopped after that step as by SIGTERM."""
    return main(study.Config, stopped_after(study.run, at), argv=["--out", str(out), *flags])


def fails(capsys, *flags):
    """The one message of a command that must fail."""
    with pytest.raises(SystemExit) as stop:
        main(study.Config, study.run, argv=list(flags))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    return run(tmp_path_factory.mktemp("rnn_lm") / "run", "--corpus", str(corpus), *TINY, *ASGD)


def test_the_summary_has_the_promised_figures_and_the_score_files_agree(trained, corpus):
    summary = read_run(trained).summary
    scores = {part: load_scores(trained / f"scores-{part}.npz") for part in ("valid", "test")}
    test = scores["test"]
    assert summary["valid_perplexity"] == scores["valid"].perplexity
    assert summary["test_perplexity"] == test.perplexity
    assert summary["test_perplexity_without_unknown"] == test.perplexity_without_unknown
    assert summary["unknown_rate"] == test.unknown_rate
    assert 0 < test.unknown_rate < 1  # twelve words, eight ids
    assert summary["bits_per_character"] is None  # unknown words have lost theirs
    assert summary["tokens_per_s"] == pytest.approx(summary["steps_per_s"] * 4 * 5)
    # Tied: V (D + 1) beside four gates of (D + H + 1) H.
    assert summary["parameters"] == 12 * 5 + 4 * (4 + 4 + 1) * 4
    text = text_parts("embedded", corpus)["test"]
    assert len(test) == len(text.split()) + len(text.splitlines())  # ends of lines count
    assert np.sum(test.tokens == EOS) == len(text.splitlines())
    np.testing.assert_array_equal(test.unknown, test.tokens == UNK)


def test_scoring_in_one_walk_is_scoring_token_by_token(trained, monkeypatch):
    _, model, params, vocabulary = study.load(trained)
    tokens = load_scores(trained / "scores-test.npz").tokens
    params = uniform(jax.random.key(0), params, 2.0)  # all of the past is felt in every logit
    found = study.score_tokens(
        model, study.adder(model), params, tokens, vocabulary, num_characters=None
    )
    assert found.vocabulary == vocabulary.digest
    carry, expected, before = None, [], EOS
    step = jax.jit(model.apply)
    for token in tokens:
        output = step(params, jnp.array([[before]]), carry=carry)
        expected.append(jax.nn.log_softmax(output.logits[0, 0])[token])
        carry, before = study.last(output), token
    np.testing.assert_allclose(found.log_probs, expected, rtol=1e-5, atol=1e-5)
    # However it is cut in windows.
    monkeypatch.setattr(study, "SCORE_STEPS", 7)
    again = study.score_tokens(
        model, study.adder(model), params, tokens, vocabulary, num_characters=None
    )
    np.testing.assert_allclose(again.log_probs, found.log_probs, rtol=1e-5, atol=1e-5)


def test_the_run_scores_the_best_epoch_by_that_walk(trained, corpus):
    _, model, params, vocabulary = study.load(trained)
    texts = text_parts("embedded", corpus)
    for part in ("valid", "test"):
        found = study.score_tokens(
            model, study.adder(model), params, encode_text(vocabulary, texts[part]), vocabulary,
            num_characters=None,
        )  # fmt: skip
        kept = load_scores(trained / f"scores-{part}.npz")
        np.testing.assert_allclose(found.log_probs, kept.log_probs, rtol=1e-5)
        np.testing.assert_array_equal(found.tokens, kept.tokens)


def test_characters_are_scored_in_bits(corpus, tmp_path):
    flags = ("--hidden-size", "4", "--embed-size", "3", "--seq-len", "20", "--batch-size", "4",
             "--num-epochs", "1", "--num-devices", "1", "--write", "9", "--top-k", "3")  # fmt: skip
    path = run(tmp_path / "run", "--corpus", str(corpus), *flags)
    summary, test = read_run(path).summary, load_scores(path / "scores-test.npz")
    assert len(test) == len(text_parts("embedded", corpus)["test"])
    assert summary["bits_per_character"] == pytest.approx(test.nats_per_token / math.log(2))
    assert summary["unknown_rate"] == 0
    assert len((path / "written.txt").read_text()) == 9 + 1


def averaged_epoch(path):
    """The epoch after which averaging began, by the rule and the metrics."""
    best, waited = math.inf, 0
    for row in read_run(path).metrics:
        if row.get("split") == "valid":
            waited = 0 if row["loss"] < best else waited + 1
            best = min(best, row["loss"])
            if waited >= 1:
                return row["epoch"]
    return None


def test_averaging_begins_where_validation_stops_to_improve(trained, corpus, tmp_path, capsys):
    epoch = averaged_epoch(trained)
    assert epoch is not None
    assert epoch < 5
    # Up to there the run is that of plain SGD, validation included; after it the figures part.
    capsys.readouterr()
    flags = [word if word != "asgd" else "sgd" for word in (*TINY, *ASGD)]
    plain = run(tmp_path / "run", "--corpus", str(corpus), *flags)
    valid = [
        [row["loss"] for row in read_run(path).metrics if row.get("split") == "valid"]
        for path in (trained, plain)
    ]
    np.testing.assert_allclose(valid[0][:epoch], valid[1][:epoch], rtol=1e-6)
    assert np.all(np.abs(np.subtract(*valid))[epoch:] > 1e-4)
    train = [
        [row["loss"] for row in read_run(path).metrics if row.get("split") == "train"]
        for path in (trained, plain)
    ]
    np.testing.assert_allclose(train[0], train[1], rtol=1e-6)  # the updates are SGD's own


@pytest.mark.slow
@pytest.mark.parametrize("where", ["within an epoch", "just after averaging began"])
def test_a_stopped_run_goes_on_to_the_same_numbers(trained, corpus, tmp_path, where):
    steps = [row["step"] for row in read_run(trained).metrics if row.get("split") == "valid"]
    begun = steps[averaged_epoch(trained) - 1]
    logged = [row["step"] for row in read_run(trained).metrics if row.get("split") == "train"]
    at = begun if where != "within an epoch" else next(step for step in logged if step > begun)
    flags = ("--corpus", str(corpus), *TINY, *ASGD)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "parts", *flags, at=at)
    assert stop.value.code == 130
    parts = run(tmp_path / "parts", *flags)
    assert (parts / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    found = [json.loads((path / "summary.json").read_text()) for path in (trained, parts)]
    assert found[1]["resumed"] == 1
    assert len({json.dumps({k: v for k, v in each.items() if k not in CHANGES})
                for each in found}) == 1  # fmt: skip
    assert (parts / "written.txt").read_text() == (trained / "written.txt").read_text()


def test_writing_from_a_run(trained, tmp_path, capsys):
    flags = ("--write-from", str(trained), "--write", "6", "--prime", "w1 w0")
    texts = [
        (run(tmp_path / name, *flags, "--seed", seed) / "written.txt").read_text()
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[0].startswith("w1 w0 ")
    capsys.readouterr()
    flags = ("--write-from", str(trained), "--out", str(tmp_path / "d"), "--prime")
    message = fails(capsys, *flags, "w1 cat w0 dog <unk>")
    assert "prime: the model has never seen 'cat', 'dog'" in message
    main(study.Config, study.run, argv=[*flags, "w1 <unk>"])  # which it has


def test_a_prime_is_refused_before_the_training(corpus, tmp_path, capsys):
    flags = ("--corpus", str(corpus), "--out", str(tmp_path / "run"), "--prime", "Who are you?")
    assert "never seen 'Who', 'are', 'you?'" in fails(capsys, *TINY, *flags)
    message = fails(capsys, *flags, "--num-epochs", "1000000")  # of characters
    assert "prime: the model has never seen 'W', 'h', 'o', 'a', 'r'" in message
    assert not (tmp_path / "run").exists()


def test_perplexities_of_the_figure_are_those_of_the_metrics(trained):
    metrics, summary = read_run(trained).metrics, read_run(trained).summary
    train = [row for row in metrics if row.get("split") == "train"]
    valid = [row for row in metrics if row.get("split") == "valid"]
    curves, points, levels = study.perplexities(read_run(trained), train, valid)
    assert set(curves) == {"training, with dropout", "validation"}
    epochs, values = curves["validation"]
    assert epochs == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(values, [math.exp(row["loss"]) for row in valid])
    epochs, values = curves["training, with dropout"]
    end = [0] + [row["step"] for row in valid]
    for epoch, value in zip(epochs, values, strict=True):
        own = [row["loss"] for row in train if end[epoch - 1] < row["step"] <= end[epoch]]
        assert value == pytest.approx(math.exp(np.mean(own)))
    best = 1 + int(np.argmin([row["loss"] for row in valid]))
    assert points == {"test, best epoch": (best, summary["test_perplexity"])}
    assert levels == {}  # no paper has this net


def test_a_published_level_is_of_those_very_settings():
    presets = study.Config.presets()

    class Found:
        record: ClassVar = {"experiment": "rnn_lm"}
        path = "run"

    def level(config):
        Found.record["config"] = json.loads(json.dumps(config_values(config)))
        return study.published(Found)

    small = presets["zaremba_small"]
    assert level(small) == {"Zaremba et al., 2014, test": 114.5}
    assert level(replace(small, seed=7, write=0, save_every=5)) == level(small)
    assert level(replace(small, hidden_size=100)) == {}
    assert level(presets["awd"]) == {"Merity et al., 2018, test": 58.8}
    assert level(presets["char_small"]) == {}


# Published settings


@pytest.mark.parametrize(
    ("name", "units", "steps", "reach", "dropout", "clip", "epochs", "full_epochs", "factor"),
    [  # section 4.1 of the paper; the learning rate is 1
        ("zaremba_small", 200, 20, 0.1, 0.0, 5.0, 13, 4, 2.0),
        ("zaremba_medium", 650, 35, 0.05, 0.5, 5.0, 39, 6, 1.2),
        ("zaremba_large", 1500, 35, 0.04, 0.65, 10.0, 55, 14, 1.15),
    ],
)
def test_presets_are_the_published_ones(
    name, units, steps, reach, dropout, clip, epochs, full_epochs, factor
):
    config = study.Config.presets()[name]
    assert (config.dataset, config.level, config.cell) == ("ptb", "word", "lstm")
    assert (config.num_layers, config.hidden_size, config.embed_size) == (2, units, units)
    assert (config.seq_len, config.batch_size, config.init_range) == (steps, 20, reach)
    assert (config.drop_inputs, config.drop_between, config.drop_outputs) == (dropout,) * 3
    assert not config.variational
    assert not config.tied
    assert config.optimizer == "sgd"
    # An update of the paper, of the loss summed over steps, from its gradient g: ours, of the mean.
    for g in (0.3, 4.9, 5.1, 30.0):  # its length
        theirs = 1.0 * g * min(1.0, clip / g)
        mean = g / steps
        ours = config.learning_rate * mean * min(1.0, config.clip_norm / mean)
        assert ours == pytest.approx(theirs, rel=1e-12)
    rate = study.learning_rate(config, epochs * 1327)
    assert config.num_epochs == epochs
    for epoch in range(1, epochs + 1):
        expected = steps / factor ** max(epoch - full_epochs, 0)
        for step in ((epoch - 1) * 1327, epoch * 1327 - 1):  # its first and its last
            assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_the_small_net_halves_after_four_epochs():
    config = study.Config.presets()["zaremba_small"]
    assert (config.learning_rate, config.clip_norm) == (20.0, 0.25)
    rate = study.learning_rate(config, 13 * 100)
    assert [float(rate(100 * k + 50)) for k in range(8)] == [20, 20, 20, 20, 10, 5, 2.5, 1.25]


def test_awd_is_the_published_one():
    config = study.Config.presets()["awd"]  # of the mean loss already
    published = {
        "num_layers": 3, "hidden_size": 1150, "embed_size": 400, "tied": True, "seq_len": 70,
        "batch_size": 20, "drop_words": 0.1, "drop_inputs": 0.4, "drop_between": 0.25,
        "drop_outputs": 0.4, "drop_weights": 0.5, "drop_recurrent": 0.0, "variational": True,
        "ar": 2.0, "tar": 1.0, "learning_rate": 30.0, "weight_decay": 1.2e-6, "clip_norm": 0.25,
        "nonmonotone": 5, "optimizer": "asgd", "schedule": "constant",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    model = study.make_model(config, 10_000)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # 24 M in the paper; torch's two biases a gate are one here.
    sizes = ((400, 1150), (1150, 1150), (1150, 400))
    assert count == 10_000 * 401 + sum(4 * h * (d + h + 1) for d, h in sizes)
    assert round(count / 1e6) == 24


# What is refused


def test_mistakes_are_one_message(trained, corpus, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Füße\n".encode("latin-1") * 30)
    for flags, words in (
        (("--drop-between", "0.5"), "drop_between acts between layers and there is one"),
        (("--drop-inputs", "1"), "drop inputs must be a probability below 1"),
        (("--tied", "--hidden-size", "8", "--embed-size", "4", "--cell", "gru",
          "--max-vocabulary", "12"), "max_vocabulary is for --level word"),
        (("--accumulate", "3"), "accumulate is 3"),
        (("--decay-after", "0"), "decay_after"),
        (("--schedule", "epochs", "--decay", "0"), "decay"),
        (("--corpus", str(tmp_path / "empty.txt")), "empty.txt is empty"),
        (("--corpus", str(tmp_path / "latin.txt")), "is not UTF-8: byte 0xfc"),
        (("--corpus", str(tmp_path / "none.txt")), "none.txt does not exist"),
        (("--corpus", str(corpus), "--dataset", "ptb"), "not both"),
        (("--write-from", str(tmp_path)), "no config.json"),
        (("--write-from", str(trained), "--write", "0"), "num_tokens must be 1 or more"),
        (("--preset", "zaremba"), "known: zaremba_small, zaremba_medium, zaremba_large, awd"),
    ):  # fmt: skip
        assert words in fails(capsys, *flags, "--out", str(tmp_path / "run")), flags
        assert not (tmp_path / "run").exists(), flags


def test_a_run_of_another_experiment_cannot_write(trained, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "metrics.jsonl", "summary.json"):
        text = (trained / name).read_text().replace('"rnn_lm"', '"ngram_lm"')
        (other / name).write_text(text)
    message = fails(capsys, "--write-from", str(other), "--out", str(tmp_path / "run"))
    assert "other is a run of ngram_lm, not of rnn_lm" in message
    assert not (tmp_path / "run").exists()


def test_tied_layers_of_another_width_take_the_embeddings():
    config = study.Config(tied=True, hidden_size=8, embed_size=3, num_layers=2)
    params = study.make_model(config, 9).init(jax.random.key(0))
    layers = params["rnn"]["weights"]
    assert [layers[name]["i"]["W_h"].shape for name in layers] == [(8, 8), (3, 3)]
    assert set(params["head"]) == {"bias"}
