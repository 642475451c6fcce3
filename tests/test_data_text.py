import hashlib
import os
import string
import sys
from pathlib import Path

import numpy as np
import pytest

from seqlab.data.text import embedded_text, load_text, sample_windows, text_digest
from seqlab.errors import InputError


def use_real(set_name, monkeypatch):
    """Reads the real files, from SEQLAB_DATA_MIRROR or the folder beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    mirror = Path(os.environ.get("SEQLAB_DATA_MIRROR") or beside)
    if not (mirror / set_name).is_dir():
        pytest.skip(
            f"no {mirror / set_name}: set SEQLAB_DATA_MIRROR to a folder with {set_name}/ in it"
        )
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(mirror))


def corpus(tmp_path, content):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    return path


def failure(dataset=None, corpus=None):
    with pytest.raises(InputError) as caught:
        load_text(dataset, corpus)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_embedded_text_is_prose_of_the_stated_length():
    text = embedded_text()
    assert 55_000 < len(text.split()) < 80_000
    assert 80 <= len(set(text)) < 200
    assert text == embedded_text()
    words = text.lower().split()
    assert words.count("the") / len(words) > 0.04
    assert not set(string.ascii_letters) - set(text)


def test_embedded_text_is_cleaned_of_rules_and_blank_runs():
    text = embedded_text()
    assert "\n\n\n" not in text
    assert all(line == line.rstrip() for line in text.split("\n"))
    assert not any(len(line) > 3 and set(line) <= set("*=-+ ") for line in text.split("\n"))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_embedded_text_has_every_topic_in_the_order_of_their_names():
    from pydoc_data.topics import topics

    def words(text):
        return " ".join(word for word in text.split() if word.strip("*=-~^+|"))

    assert words(embedded_text()) == " ".join(words(topics[name]) for name in sorted(topics))


def test_embedded_text_without_pydoc_data_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert "pydoc_data" in failure("embedded")


def test_embedded_is_the_default():
    assert load_text() == load_text("embedded") == embedded_text()


def test_text_digest_is_the_sha256_of_the_utf8_bytes():
    assert text_digest("häßlich\n") == hashlib.sha256("häßlich\n".encode()).hexdigest()
    assert text_digest("a") != text_digest("b")


def test_corpus_is_read_with_python_line_ends_and_without_its_mark(tmp_path):
    path = corpus(tmp_path, b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe\r\nzweite\rdritte\n")
    assert load_text(corpus=path) == "Grüße\nzweite\ndritte\n"
    assert load_text(corpus=str(path)) == "Grüße\nzweite\ndritte\n"


def test_missing_corpus(tmp_path):
    assert failure(corpus=tmp_path / "nope.txt") == f"{tmp_path / 'nope.txt'} does not exist"


def test_folder_as_corpus(tmp_path):
    assert failure(corpus=tmp_path) == f"{tmp_path} is a folder, expected a text file"


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"])
def test_empty_corpus(tmp_path, content):
    path = corpus(tmp_path, content)
    assert failure(corpus=path) == f"{path} is empty"


@pytest.mark.parametrize(
    ("content", "byte", "offset", "line"),
    [
        (b"one\ntwo\nna\xefve\n", "0xef", 10, 3),
        ("naïve".encode("utf-16"), "0xff", 0, 1),
        (b"\xef\xbb\xbfab\xff", "0xff", 5, 1),
        (b"a\nb\n\xe2\x82", "0xe2", 4, 3),
    ],
    ids=["latin-1", "utf-16", "after a mark", "cut off"],
)
def test_corpus_that_is_not_utf8_names_byte_and_line(tmp_path, content, byte, offset, line):
    path = corpus(tmp_path, content)
    message = failure(corpus=path)
    assert str(path) in message
    assert f"byte {byte} at offset {offset}, line {line};" in message


def test_dataset_and_corpus_together(tmp_path):
    message = failure("ptb", tmp_path / "mine.txt")
    assert "ptb" in message
    assert "mine.txt" in message


def test_unknown_dataset():
    message = failure("tinyshakespere")
    assert "did you mean 'tinyshakespeare'?" in message
    assert "embedded" in message


def test_penn_treebank_has_the_published_counts(monkeypatch):
    use_real("ptb", monkeypatch)
    text = load_text("ptb")
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 42_068
    tokens = text.replace("\n", " <eos> ").split()
    assert len(tokens) == 929_589
    assert len(set(tokens)) == 10_000


def test_tiny_shakespeare_has_the_published_counts(monkeypatch):
    use_real("tinyshakespeare", monkeypatch)
    text = load_text("tinyshakespeare")
    assert len(text) == 1_115_394
    assert text.startswith("First Citizen:\n")
    assert len(set(text)) == 65


def test_windows_are_stretches_of_the_text_and_reach_both_ends():
    ids = np.arange(100, 130, dtype=np.int32)
    windows = sample_windows(ids, np.random.default_rng(0), count=500, length=7)
    assert windows.shape == (500, 7)
    assert windows.dtype == np.int32
    assert (np.diff(windows, axis=1) == 1).all()
    assert set(windows[:, 0]) == set(range(100, 124))


def test_windows_are_those_of_the_seed():
    ids = np.arange(50)
    first, again, other = (
        sample_windows(ids, np.random.default_rng(seed), 8, 5) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_window_as_long_as_the_text():
    windows = sample_windows(np.arange(5), np.random.default_rng(0), 3, 5)
    np.testing.assert_array_equal(windows, np.tile(np.arange(5), (3, 1)))


def test_text_shorter_than_a_window_says_both_lengths():
    with pytest.raises(InputError, match=r"length 4 .* length 5$"):
        sample_windows(np.arange(4), np.random.default_rng(0), 3, 5)


@pytest.mark.parametrize(("count", "length"), [(0, 3), (3, 0)])
def test_no_windows_or_empty_ones_are_refused(count, length):
    with pytest.raises(InputError, match="1 or more, got 0"):
        sample_windows(np.arange(4), np.random.default_rng(0), count, length)
