"""What a language model keeps of its past: cuts, shuffles, units, gradients, refused runs."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import language_memory as study
from seqlab.cells.lookup import lookup
from seqlab.cli import main
from seqlab.data.vocabulary import EOS
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.language import LanguageModel
from seqlab.runlog import read_run
from seqlab.scoring import load_scores

V, H = 9, 6


@pytest.fixture
def net():
    """A two-layer model, its parameters scaled up so that its past matters, and a stream."""
    model = functional(
        LanguageModel, [lookup("lstm")(hidden_size=H)] * 2, vocab_size=V, embed_size=5
    )
    params = jax.tree.map(lambda leaf: 2.0 * leaf, model.init(jax.random.key(0)))
    stream = np.random.default_rng(1).integers(0, V, 61).astype(np.int32)
    stream[0] = EOS
    return model, params, stream


def whole_walk(model, params, stream):
    """Nats of every token after the first, in one walk."""
    logits = jax.jit(model.apply)(params, jnp.asarray(stream[None, :-1])).logits
    return np.asarray(cross_entropy(logits, jnp.asarray(stream[None, 1:])))[0]


def test_a_cut_that_covers_everything_is_the_whole_walk_and_a_shorter_one_is_not(net):
    model, params, stream = net
    scorer, positions = study.last_scorer(model), np.arange(60)
    full = whole_walk(model, params, stream)
    covers = study.cut_nats(scorer, params, stream, positions, 60)  # most reach before the text
    np.testing.assert_allclose(covers, full, atol=2e-5)
    for k in (1, 3):
        cut = study.cut_nats(scorer, params, stream, positions, k)
        np.testing.assert_allclose(cut[:k], full[:k], atol=2e-5)
        assert np.abs(cut[k:] - full[k:]).max() > 1e-2
        alone = [whole_walk(model, params, stream[p + 1 - k : p + 2])[-1] for p in (k - 1, 20, 59)]
        np.testing.assert_allclose(cut[[k - 1, 20, 59]], alone, atol=2e-5)


def test_rows_that_fill_no_group_are_scored_and_those_added_left_out(net, monkeypatch):
    model, params, stream = net
    positions = np.array([5, 17, 30, 44, 58])
    scorer = study.last_scorer(model)
    together = study.cut_nats(scorer, params, stream, positions, 4)
    monkeypatch.setattr(study, "ROWS", 2)
    in_groups = study.cut_nats(scorer, params, stream, positions, 4)
    assert in_groups.shape == (5,)
    np.testing.assert_allclose(in_groups, together, atol=1e-6)


def test_a_shuffle_beyond_all_that_is_read_changes_nothing_and_one_within_does(net):
    model, params, stream = net
    scorer, positions = study.last_scorer(model), np.arange(19, 60)
    plain = study.cut_nats(scorer, params, stream, positions, 20)
    for k in (20, 25):
        mixed = study.shuffled_nats(scorer, params, stream, positions, k, 20, seed=0)
        np.testing.assert_array_equal(mixed, plain)
    mixed = study.shuffled_nats(scorer, params, stream, positions, 2, 20, seed=0)
    assert np.abs(mixed - plain).max() > 1e-3
    again = study.shuffled_nats(scorer, params, stream, positions, 2, 20, seed=0)
    np.testing.assert_array_equal(mixed, again)


def test_a_shuffle_keeps_the_last_tokens_and_all_the_others(net, monkeypatch):
    _, _, stream = net
    seen = {}
    monkeypatch.setattr(
        study, "nats_of", lambda scorer, params, xs, mask, targets: seen.update(xs=xs)
    )
    positions = np.arange(19, 60)
    study.shuffled_nats(None, None, stream, positions, 5, 20, seed=3)
    plain, _ = study.windows(stream, positions, 20)
    np.testing.assert_array_equal(seen["xs"][:, -5:], plain[:, -5:])
    np.testing.assert_array_equal(np.sort(seen["xs"][:, :-5]), np.sort(plain[:, :-5]))
    assert (seen["xs"][:, :-5] != plain[:, :-5]).any()


def test_reach_is_the_gradient_by_a_carry_that_is_put_in():
    model = functional(LanguageModel, [lookup("lstm")(hidden_size=H)], vocab_size=V, embed_size=5)
    params = jax.tree.map(lambda leaf: 2.0 * leaf, model.init(jax.random.key(0)))
    xs, targets = jax.random.randint(jax.random.key(1), (2, 21), 0, V)[:, :20], jnp.array([4, 7])
    found = jax.jit(lambda params: study.reach_norms(model, params, xs, targets, 7))(params)
    for k in (1, 4, 7):
        carry = study.last(jax.jit(model.apply)(params, xs[:, : 20 - k]))

        def surprise(carry, k=k):
            logits = model.apply(params, xs[:, 20 - k :], carry=carry).logits[:, -1]
            return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(2), targets])

        grads = jax.jit(jax.grad(surprise))(carry)["layer_0"]
        for part in ("h", "c"):
            norms = np.linalg.norm(np.asarray(getattr(grads, part)), axis=-1)
            np.testing.assert_allclose(found[part][:, 7 - k], np.log(norms), atol=1e-4)
    assert np.isneginf(found["c"][:, -1]).all()  # the loss reads h at the last step


def test_half_life_is_that_of_a_straight_line():
    line = np.arange(30) * math.log(2) / 5 - 3.0
    assert study.half_life(line) == pytest.approx(5.0)
    assert study.half_life(np.append(line, np.nan)) == pytest.approx(5.0)
    assert study.half_life(-line) == math.inf


def test_criteria_of_characters_are_as_a_reader_sees_them():
    text = '\nab (c"d e)"\n  F9 (x\ny z ("q") a\n  1 "b" c'
    found = study.criteria(list(text), "char")

    def where(name):
        return "".join("x" if value else "." for value in found[name])

    assert where("inside brackets")[:14] == "....xxxxxx...."
    assert where("inside quotes")[:14] == "......xxxxx..."
    assert found["position in the line"][:5].tolist() == [0, 1, 2, 3, 4]
    assert found["letters of the word so far"][:4].tolist() == [0, 1, 2, 0]
    second = text.index("F") - 2
    assert found["indentation of the line"][second : second + 4].tolist() == [1, 2, 2, 2]
    assert found["inside brackets"][text.index("y")] == 0  # a line end closes what is open


def test_units_are_chosen_on_one_half_and_judged_on_the_other():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 400).astype(float)
    array = rng.normal(size=(400, 5))
    array[:, 3] = -values  # follows it everywhere
    array[:200, 1] = values[:200] + 0.1 * rng.normal(size=200)
    ((name, site, unit, chosen, judged),) = study.best_units({"h": array}, {"q": values}, 200)
    assert (name, site, unit) == ("q", "h", 3)
    assert (chosen, judged) == pytest.approx((-1.0, -1.0))
    array[:, 3] = 0.0  # never changes: no correlation
    ((_, _, unit, chosen, judged),) = study.best_units({"h": array}, {"q": values}, 200)
    assert unit == 1
    assert chosen > 0.95
    assert abs(judged) < 0.2


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A recurrent model and n-grams of one text, and n-grams of another."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for name in ("one", "other"):
        words = rng.choice(["sea", "sky", "is", "(so)", "here", "we"], (500, 5))
        text = "\n".join(" ".join(line) for line in words) + "\n"
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    tiny = ("--hidden-size", "6", "--embed-size", "4", "--num-epochs", "1", "--seq-len", "16",
            "--write", "0", "--num-devices", "1", "--corpus", str(root / "one.txt"))  # fmt: skip
    rnn = importlib.import_module("experiments.rnn_lm")
    main(rnn.Config, rnn.run, argv=["--out", str(root / "rnn"), *tiny])
    ngram = importlib.import_module("experiments.ngram_lm")
    for name in ("one", "other"):
        flags = ("--level", "char", "--order", "2", "--compare", "witten-bell")
        corpus = ("--corpus", str(root / f"{name}.txt"), "--out", str(root / f"ngram-{name}"))
        main(ngram.Config, ngram.run, argv=[*flags, *corpus])
    return root


def test_a_run_beside_n_grams_has_the_promised_figures(runs, tmp_path):
    flags = ("--contexts", "1", "5", "--longest", "12", "--num-positions", "40", "--reach", "6",
             "--num-gradients", "6", "--text-tokens", "300", "--num-units", "2")  # fmt: skip
    beside = ("--run", str(runs / "rnn"), "--ngram", str(runs / "ngram-one"))
    argv = ["--out", str(tmp_path / "run"), *flags, *beside]
    found = read_run(main(study.Config, study.run, study.plot, argv=argv))
    own = load_scores(runs / "rnn" / "scores-test.npz")
    assert found.summary["test_perplexity_recurrent"] == pytest.approx(own.perplexity)
    rows = [row for row in found.metrics if row.get("look") == "context"]
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in
               ("full", "cut", "shuffled", "n-gram")}  # fmt: skip
    assert [len(each) for each in by_kind.values()] == [1, 2, 2, 2]
    assert [row["step"] for row in by_kind["n-gram"]] == [0, 1]
    (full,) = by_kind["full"]
    assert full["nats"] == pytest.approx(own.nats_per_token)
    for row in by_kind["cut"]:
        assert row["difference"] == pytest.approx(row["sampled_nats"] - full["sampled_nats"])
    (passage,) = [row for row in found.metrics if row.get("look") == "passage"]
    assert set(passage["bits"]) == {"recurrent", "n-gram"}
    alone = min(found.summary[f"test_perplexity_{name}"] for name in ("recurrent", "ngram"))
    mixed = found.summary["test_perplexity_with_ngram"]
    assert found.summary["margin_with_ngram"] == pytest.approx(alone - mixed)
    assert {path.name for path in (found.path / "figures").iterdir()} == {
        "context.png", "surprise.png", "activations.png", "gradient_reach.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ngram", "ngram-other"), "of different texts"),
        (("--ngram", "rnn"), "is a run of rnn_lm, not of ngram_lm"),
        (("--longest", "100000"), "test text of"),
        (("--contexts", "1", "--longest", "0"), "longest"),
    ],
    ids=["other tokens", "no n-grams", "short text", "no context"],
)
def test_mistakes_are_one_message(runs, flags, words, tmp_path, capsys):
    flags = [str(runs / flag) if (runs / flag).is_dir() and flag else flag for flag in flags]
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(study.Config, study.run,
             argv=["--out", str(out), "--run", str(runs / "rnn"), *flags])  # fmt: skip
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "\n" not in message
    assert not out.exists()
