"""Both language models on Korean and on two languages, by characters and by sub-words."""

import hashlib
import importlib

import numpy as np
import pytest

from seqlab.cli import main
from seqlab.data import sources
from seqlab.data.sources import File
from seqlab.data.text import text_parts
from seqlab.runlog import read_run
from seqlab.scoring import check_same_tokens, load_scores

SMALL = {
    "experiments.ngram_lm": ("--order", "3", "--compare", "witten-bell", "--sample-tokens", "80"),
    "experiments.rnn_lm": ("--hidden-size", "8", "--embed-size", "8", "--num-epochs", "1",
                           "--seq-len", "16", "--batch-size", "16", "--write", "80",
                           "--num-devices", "1"),
}  # fmt: skip


def run(study, out, *flags):
    module = importlib.import_module(study)
    return read_run(main(module.Config, module.run, module.plot, argv=[*flags, "--out", str(out)]))


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Made-up files of both sets in a mirror."""
    rng = np.random.default_rng(0)
    syllables = [chr(0xAC00 + int(code)) for code in rng.choice(11_172, size=60, replace=False)]
    words = ["".join(rng.choice(syllables, size=rng.integers(1, 4))) for _ in range(80)]
    english = ["tom", "is", "here", "we", "see", "it", "now", "the", "sea"]

    def sentence(words):
        return " ".join(rng.choice(words, size=rng.integers(2, 6)))

    chats = "Q,A,label\n" + "".join(
        f"{sentence(words)} {k},{sentence(words)} {k},0\n" for k in range(300)
    )
    pairs = "".join(f"{sentence(english)} {k}.\t{sentence(words)} {k}.\t-\n" for k in range(300))
    for name, file, content in (("korean_chatbot", "ChatbotData.csv", chats.encode()),
                                ("tatoeba_en_ko", "kor.txt", pairs.encode())):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(content)
        entry = File(file, "", len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(sources.SOURCES, name, (entry,))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["korean", "bilingual"])
@pytest.mark.parametrize("level", ["char", "subword"])
def test_both_models_read_score_and_write_it(dataset, level, texts, tmp_path):
    flags = ("--dataset", dataset, "--level", level)
    if level == "subword":
        flags += ("--max-vocabulary", "300")
    scores, characters = [], len(text_parts(dataset)["test"])
    for study, small in SMALL.items():
        found = run(study, tmp_path / study, *flags, *small)
        (own,) = (load_scores(found.path / "scores-test.npz"),)
        bits = -own.log_probs.sum() / np.log(2) / characters
        assert found.summary["bits_per_character"] == pytest.approx(bits)
        assert 0 < bits < 12
        if level == "subword":
            assert found.summary["unknown_rate"] == 0
        written = found.summary.get("sample") or (found.path / "written.txt").read_text("utf-8")
        assert any("가" <= char <= "힣" for char in written)
        assert "\N{REPLACEMENT CHARACTER}" not in written
        scores.append(own)
    check_same_tokens(scores)  # so that one can stand beside the other


def test_ngram_reads_the_scores_that_rnn_lm_has_saved(texts, tmp_path):
    flags = ("--dataset", "bilingual", "--level", "char")
    rnn = run("experiments.rnn_lm", tmp_path / "rnn", *flags, *SMALL["experiments.rnn_lm"])
    ngram = run("experiments.ngram_lm", tmp_path / "ngram", *flags,
                *SMALL["experiments.ngram_lm"], "--beside", str(rnn.path))  # fmt: skip
    assert ngram.summary["test_perplexity_beside_alone"] == pytest.approx(
        rnn.summary["test_perplexity"]
    )
    assert ngram.summary["test_perplexity_with_beside"] < ngram.summary["test_perplexity"] + 1e-6
