"""The study of the encoder-decoder: a small run, resumed, asked; refusals."""

import io
from itertools import product
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import translation as study
from seqlab.cli import main
from seqlab.data.batching import Buckets
from seqlab.data.vocabulary import EOS, SOS, UNK
from seqlab.runlog import read_run
from seqlab.translator import Fed, Translator, learn_sides
from tests.tiny_training import goes_on_alike, stopped_after

ASK = ("--predict", "-")
TINY = (
    *("--embed-size", "12", "--hidden-size", "24", "--num-epochs", "5", "--num-buckets", "1"),
    *("--levels", "char", "char", "--num-devices", "1", "--batch-size", "16"),
    *("--drop-inputs", "0", "--drop-features", "0", "--smoothing", "0", "--learning-rate", "0.02"),
    *("--save-every", "4", "--log-every", "2", "--beam-size", "2"),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """400 strings of three letters, to be written in capitals."""
    folder = tmp_path_factory.mktemp("corpus")
    every = ["".join(letters) for letters in product("abcdefgh", repeat=3)]
    lines = np.random.default_rng(0).permutation(every)[:400].tolist()
    (folder / "small.txt").write_text("\n".join(lines) + "\n")
    (folder / "capital.txt").write_text("\n".join(lines).upper() + "\n")
    return folder


def run(out, *flags, at=None):
    path = main(
        study.Config, stopped_after(study.run, at), study.plot, [*flags, "--out", str(out)],
        predict=study.predict,
    )  # fmt: skip
    return read_run(path)


@pytest.fixture(scope="module")
def flags(corpus):
    return ("--corpus", str(corpus / "small.txt"), str(corpus / "capital.txt"), *TINY)


@pytest.fixture(scope="module")
def trained(flags, tmp_path_factory):
    return run(tmp_path_factory.mktemp("trained") / "run", *flags)


def test_a_run_learns_and_says_what_it_is(trained):
    summary = trained.summary
    keys = {"test_bleu", "bleu_signature", "test_chrf", "exact_match", "test_perplexity",
            "sentences_per_s", "parameters", "compiled_shapes"}  # fmt: skip
    assert keys <= set(summary)
    assert summary["compiled_shapes"] == 1
    losses = [row["loss"] for row in trained.metrics if row.get("split") == "valid"]
    assert losses[-1] < 0.5 * losses[0]
    assert summary["exact_match"] > 0.5
    assert "tok:char" in summary["bleu_signature"]
    assert {path.name for path in (trained.path / "figures").iterdir()} == {
        "training.png", "lengths.png", "positions.png", "reach.png", "map_1.png", "map_2.png",
    }  # fmt: skip


def test_maps_have_a_row_for_each_target_and_a_column_for_each_source(trained):
    maps = [row for row in trained.metrics if row.get("result") == "map"]
    for row in maps:
        shape = len(row["target"]), len(row["source"])
        assert row["target"][-1] == row["source"][-1] == "<eos>"
        assert np.shape(row["log_norm"]) == np.shape(row["attention"]) == shape
        np.testing.assert_allclose(np.sum(row["attention"], axis=1), 1.0, atol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_numbers(trained, flags, tmp_path):
    goes_on_alike(run, tmp_path / "run", flags, 6, trained)


def test_lines_are_answered_line_by_line(trained, monkeypatch, capsys, tmp_path):
    def ask(content, *more):
        (tmp_path / "lines.txt").write_text(content)
        arguments = ["--from-run", str(trained.path), "--predict", str(tmp_path / "lines.txt")]
        main(study.Config, study.run, study.plot, [*arguments, *more], predict=study.predict)
        return capsys.readouterr()

    said = ask("abc\nhgf\n").out.splitlines()
    assert len(said) == 2
    assert said == [line.upper() for line in ("abc", "hgf")]
    best = ask("abc\n", "--num-best", "2").out.splitlines()
    scores = [float(line.split("\t")[0]) for line in best]
    assert best[0].endswith("\tABC")
    assert scores == sorted(scores, reverse=True)
    # Two equal nets write together what each writes alone.
    assert ask("abc\n", "--beside", str(trained.path)).out == "ABC\n"
    assert ask("abc\n", "--temperature", "0").out == "ABC\n"
    assert "line 1: unknown x, read as <unk>" in ask("abx\n").err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(
        isatty=lambda: True, readline=iter(["abc\n", "cba\n", ""]).__next__))  # fmt: skip
    main(study.Config, study.run, study.plot,
         study.spelled(["--from-run", str(trained.path), "--interactive"]),
         predict=study.predict)  # fmt: skip
    assert capsys.readouterr().out == "ABC\nCBA\n"
    assert study.spelled(["--translate", "my.txt", "--seed", "1"]) == [
        "--predict", "my.txt", "--seed", "1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("abc\n\n", "line 2 is empty: nothing to translate"),
        ("abc\n" + "a" * 30 + "\n", "line 2 has 30 tokens, the model reads 7 at most"),
        ("xyz\n", "line 1: the model knows nothing of it (x y z)"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(content, words, trained, monkeypatch, capsys):
    stdin = SimpleNamespace(buffer=io.BytesIO(content.encode()), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(SystemExit) as stop:
        main(
            study.Config, study.run, study.plot, ["--from-run", str(trained.path), *ASK],
            predict=study.predict,
        )  # fmt: skip
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--context", "none"], "context"),
        (["--attention", "sum"], "attention"),
        (["--input-feeding"], "input_feeding goes with context attention and query current"),
        (["--bridge", "copy"], "add --no-bidirectional"),
        (["--dropout", "0.2"], "add a layer"),
        (["--beam-size", "2", "--num-best", "3"], "make it wider"),
        (["--teacher-forcing", "1.5"], "teacher_forcing must be a share"),
        (["--smoothing", "1"], "smoothing must be a share below 1"),
        (["--max-source", "2"], "source 1 has 4 tokens, max_source is 2"),
        (["--predict", "-"], "name it with --from-run"),
        (["--cell", "gruu"], "did you mean"),
    ],
)
def test_a_mistake_is_one_message(more, words, flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", *flags, *more)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_another_vocabulary_cannot_write_together(trained, corpus, tmp_path, capsys):
    lines = (corpus / "small.txt").read_text()
    (tmp_path / "digits.txt").write_text(lines.translate(str.maketrans("abcdefgh", "12345678")))
    other = run(
        tmp_path / "other", "--corpus", str(tmp_path / "digits.txt"),
        str(corpus / "capital.txt"), *TINY, "--num-epochs", "1",
    )  # fmt: skip
    with pytest.raises(SystemExit):
        main(study.Config, study.run, study.plot,
             ["--from-run", str(trained.path), "--predict", "-", "--beside", str(other.path)],
             predict=study.predict)  # fmt: skip
    assert "has other vocabularies" in capsys.readouterr().err


def buckets(count=30, **how):
    rng = np.random.default_rng(1)
    sources = [rng.integers(4, 9, n).astype(np.int32) for n in rng.integers(1, 6, count)]
    targets = [np.concatenate([[SOS], each, [EOS]]) for each in sources]
    return Buckets(sources, targets, seed=0, batch_size=8, num_buckets=2, **how)


def test_a_batch_is_fed_what_it_is_asked_for_one_step_later():
    batch = Fed(buckets()).batch(0)
    np.testing.assert_array_equal(batch["fed"][:, 1:], batch["labels"][:, :-1])
    assert (batch["fed"][batch["is_real"], 0] == SOS).all()
    ends = batch["fed_mask"].sum(axis=1) - 1
    rows = np.flatnonzero(batch["is_real"])
    assert (batch["labels"][rows, ends[rows]] == EOS).all()  # <eos> counts, <pad> does not
    assert not batch["fed_mask"][~batch["is_real"]].any()
    assert "truth" not in batch


def test_the_share_of_truth_falls_in_a_line():
    fed = Fed(buckets(2000), share=0.2, num_batches=100, seed=3)
    shares = {number: fed.batch(number)["truth"][:, 1:].mean() for number in (0, 50, 100, 400)}
    assert shares[0] == 1.0
    assert shares[50] == pytest.approx(0.6, abs=0.2)
    assert 0.0 < np.mean([fed.batch(n)["truth"][:, 1:].mean() for n in range(100, 140)]) < 0.27
    assert fed.batch(100)["truth"][:, 0].all()
    again = Fed(buckets(2000), share=0.2, num_batches=100, seed=3)
    np.testing.assert_array_equal(again.batch(70)["truth"], fed.batch(70)["truth"])


@pytest.fixture(scope="module")
def translator():
    plan = study.Plan.of(study.replace(
        study.Config(hidden_size=6, embed_size=4, reverse_source=True).filled(), max_source=20,
    ))  # fmt: skip
    sides = learn_sides(["ab", "abc"], ["x y", "y z"], ("char", "word"), min_count=1, max_size=None)
    return Translator(plan, sides)


def test_sources_end_and_may_be_turned_round(translator):
    (ids,) = translator.sources(["abc"])
    assert translator.sides[0].decode(ids[:-1]) == "cba"
    assert ids[-1] == EOS


def test_outputs_do_not_depend_on_what_else_is_written(translator):
    params = translator.model.init(jax.random.key(0))
    texts = ["abc", "a", "", "cabcab", "bb"]
    how = {"max_length": 6, "beam_size": 3, "num_best": 2}
    together = translator.write(params, texts, **how)
    for place, text in enumerate(texts):
        (alone,) = translator.write(params, [text], **how)
        assert [each.text for each in alone] == [each.text for each in together[place]]
        log_probs = [[each.log_prob for each in own] for own in (alone, together[place])]
        np.testing.assert_allclose(*log_probs, atol=1e-5)
    assert all(UNK not in each.ids for own in together for each in own)


def test_what_a_vocabulary_lacks_is_named(translator):
    assert translator.unknown("abq?q") == ["q", "?"]
    assert translator.unknown("abc") == []
