"""ARPA files: read back to the last bit, read by KenLM, and told by the line where broken."""

import gzip

import numpy as np
import pytest

from seqlab.data.vocabulary import Characters, Words
from seqlab.errors import InputError
from seqlab.ngram import count_ngrams, fit, read_arpa, write_arpa

TEXT = "a b a c\nb a\n\na b b a c a b\nc c a b a\nb\na b a c b\né 한국 b\n"
CHARACTERS = "ab a\tb<0x20>\u3000\N{NO-BREAK SPACE}x\nba<s> </s>\ud800\n"
WRITABLE = ["modified-kneser-ney", "kneser-ney", "absolute", "witten-bell"]


def words_model(order=3, smoothing=WRITABLE[0]):
    vocabulary = Words.of(TEXT)
    return fit(count_ngrams(vocabulary.encode_lines(TEXT), order, vocabulary), smoothing)


def assert_same(one, two):
    assert one.vocabulary == two.vocabulary
    for a, b in zip(one.levels, two.levels, strict=True):
        for name in ("keys", "log10_probs", "log10_weights"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("smoothing", WRITABLE)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_words_are_read_back_to_the_last_bit(order, smoothing, tmp_path):
    model = words_model(order, smoothing)
    write_arpa(tmp_path / "a.arpa", model)
    for given in (None, model.vocabulary):
        again = read_arpa(tmp_path / "a.arpa", given)
        assert_same(again, model)
        write_arpa(tmp_path / "b.arpa", again)
        assert (tmp_path / "b.arpa").read_bytes() == (tmp_path / "a.arpa").read_bytes()
    ids = model.vocabulary.encode_lines("a b zebra c\nb\n")
    np.testing.assert_array_equal(
        again.score_tokens(ids).log_probs, model.score_tokens(ids).log_probs
    )
    (tmp_path / "a.arpa.gz").write_bytes(gzip.compress((tmp_path / "a.arpa").read_bytes()))
    assert_same(read_arpa(tmp_path / "a.arpa.gz"), model)


@pytest.mark.parametrize("encode", ["encode", "encode_lines"])
def test_characters_that_are_white_space_are_read_back(encode, tmp_path):
    vocabulary = Characters.of(CHARACTERS)
    ids = getattr(vocabulary, encode)(CHARACTERS)
    model = fit(count_ngrams(ids, 3, vocabulary))
    write_arpa(tmp_path / "a.arpa", model)
    assert_same(read_arpa(tmp_path / "a.arpa"), model)
    assert_same(read_arpa(tmp_path / "a.arpa", vocabulary), model)


@pytest.mark.parametrize("smoothing", WRITABLE)
def test_kenlm_reads_it_and_agrees(smoothing, tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed")
    model = words_model(4, smoothing)
    path = tmp_path / "a.arpa"
    write_arpa(path, model)
    theirs = kenlm.Model(str(path))
    assert theirs.order == 4
    for line in [*TEXT.split("\n"), "zebra a b", "b b b b b", "c zebra"]:
        found = model.score_tokens(model.vocabulary.encode_lines(f"{line}\n"))
        expected = list(theirs.full_scores(line))
        np.testing.assert_allclose(
            found.log_probs / np.log(10), [score for score, _, _ in expected], atol=1e-6
        )
        assert found.unknown.tolist() == [is_unknown for _, _, is_unknown in expected]


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    for smoothing, reason in {
        "stupid-backoff": "no ARPA form",
        "add-k": "no ARPA form",
        "maximum-likelihood": "probability 0",
    }.items():
        with pytest.raises(InputError, match=reason):
            write_arpa(tmp_path / "a.arpa", words_model(2, smoothing))
    with pytest.raises(InputError, match="cannot write"):
        write_arpa(tmp_path / "nowhere" / "a.arpa", words_model())
    assert not list(tmp_path.iterdir())


GOOD = """a comment
\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-99\t<s>\t-0.3
-0.6\t</s>
-0.7\t<unk>\t0
-0.5\ta\t-0.2
-0.4\tb

\\2-grams:
-0.1\t<s> a
-0.2\ta b

\\end\\
"""


def test_another_tools_file(tmp_path):
    (tmp_path / "a.arpa").write_text(GOOD)
    model = read_arpa(tmp_path / "a.arpa")
    assert model.vocabulary == Words(("a", "b"))
    found = model.score_tokens(model.vocabulary.encode_lines("a b a z\n"))
    expected = [-0.1, -0.2, -0.5, -0.2 - 0.7, -0.6]
    np.testing.assert_allclose(found.log_probs / np.log(10), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("\\data\\", "data"), r"ends after line 17: expected \\data"),
        (("ngram 2=2", "ngram 3=2"), ":4: expected 'ngram 2=<number>'"),
        (("ngram 2=2", "ngram 2=two"), ":4: expected 'ngram 2=<number>'"),
        (("ngram 2=2", "ngram 2=3"), ":17: 2 2-grams, and the header says 3"),
        (("\\1-grams:", "\\1-gram:"), r":6: expected \\1-grams:, got"),
        (("-0.5\ta\t-0.2", "-0.5\ta\t-0.2\tx"), ":10: expected log10 p, 1 words, perhaps a weight"),
        (("-0.5\ta", "half\ta"), ":10: log10 p and weight must be numbers"),
        (("-0.5\ta", "0.5\ta"), ":10: log10 p is 0.5, expected 0 or less"),
        (("-0.5\ta", "nan\ta"), ":10: log10 p is nan"),
        (("a\t-0.2", "a\tinf"), ":10: weight is inf"),
        (("-0.2\ta b", "-0.2\ta c"), ":15: the word 'c' is not among the unigrams"),
        (("-0.2\ta b", "-0.2\t<s> a"), ":15: its words are those of line 14"),
        (("-0.4\tb", "-0.4\ta"), "make no vocabulary"),
        (("-0.4\tb", "-0.4\t\udcff"), ":11: .* is not UTF-8"),
        (("-0.2\ta b\n", "-0.2\ta b\t-0.1\n"), ":15: expected log10 p, 2 words, got"),
        (("\\end\\", ""), r"ends after line 17: expected \\end"),
        (("\\end\\", "\\3-grams:"), r":17: expected \\end"),
        ((GOOD, ""), "ends after line 0"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_by_its_line(change, words, tmp_path):
    path = tmp_path / "broken.arpa"
    assert change[0] in GOOD
    path.write_bytes(GOOD.replace(*change, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=words) as error:
        read_arpa(path)
    assert "broken.arpa" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_context_that_is_missing_is_told_by_its_line(tmp_path):
    path = tmp_path / "broken.arpa"
    text = GOOD.replace("ngram 2=2", "ngram 2=2\nngram 3=1")
    path.write_text(text.replace("\\end\\", "\\3-grams:\n-0.1\tb a b\n\n\\end\\"))
    with pytest.raises(InputError, match=r"arpa:19: its first 2 words are not among the 2-grams"):
        read_arpa(path)


def test_another_vocabulary_is_told(tmp_path):
    path = tmp_path / "a.arpa"
    path.write_text(GOOD)
    with pytest.raises(InputError, match="lacks 1 words of the vocabulary, 'c' the first"):
        read_arpa(path, Words(("a", "b", "c")))
    with pytest.raises(InputError, match=":11: the word 'b' is not among the vocabulary"):
        read_arpa(path, Words(("a",)))
    with pytest.raises(InputError, match="cannot read"):
        read_arpa(tmp_path / "missing.arpa")
