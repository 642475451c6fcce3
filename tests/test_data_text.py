import hashlib
import itertools
import os
import string
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from seqlab.data import sources
from seqlab.data.sources import File
from seqlab.data.text import embedded_text, load_text, sample_windows, text_digest, text_parts
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


def use_mirror(tmp_path, monkeypatch, set_name, name, content):
    """A mirror that holds one file, made up and registered as what it is."""
    (tmp_path / set_name).mkdir()
    (tmp_path / set_name / name).write_bytes(content)
    entry = File(name, "", len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(sources.SOURCES, set_name, (entry,))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path))


def check_pairs_in_parts(parts, pairs):
    """All pairs are there, once, and no line is in two parts."""
    lines = {part: text.split("\n") for part, text in parts.items()}
    assert all(each.pop() == "" for each in lines.values())
    found = [pair for each in lines.values() for pair in zip(each[0::2], each[1::2], strict=True)]
    assert sorted(found) == sorted(pairs)
    for one, other in itertools.combinations(lines.values(), 2):
        assert not set(one) & set(other)
    return {part: len(each) // 2 for part, each in lines.items()}


def test_korean_is_questions_and_answers_composed_and_no_line_in_two_parts(tmp_path, monkeypatch):
    decomposed = unicodedata.normalize("NFD", "좋은 아침, 친구")
    rows = [(f"질문 {k}", f"답 {k // 3}") for k in range(120)]  # one answer for three questions
    rows += [(f"질문 {k}", f"또 답 {k}") for k in range(0, 120, 4)]  # and questions asked twice
    content = "Q,A,label\r\n" + "".join(f"{q},{a},0\r\n" for q, a in rows)
    content += f'"{decomposed}"," 네,  좋은 아침! ","2   "\r\n'
    use_mirror(tmp_path, monkeypatch, "korean_chatbot", "ChatbotData.csv", content.encode())
    parts = text_parts("korean")
    sizes = check_pairs_in_parts(parts, [*rows, ("좋은 아침, 친구", "네, 좋은 아침!")])
    assert sizes["valid"] >= 3
    assert sizes["test"] >= 3
    assert sizes["train"] > 0.8 * sum(sizes.values())
    assert load_text("korean") == parts["train"]
    assert text_parts("korean") == parts
    # The order of the file's rows is not what parts are cut by.
    assert parts["train"] != "".join(f"{q}\n{a}\n" for q, a in rows)[: len(parts["train"])]


def test_bilingual_is_a_sentence_and_its_translation_together(tmp_path, monkeypatch):
    rows = [(f"Sentence {k % 90}.", f"문장 {k}.") for k in range(100)]
    content = "".join(f"{en}\t{ko}\tCC-BY 2.0 (France) #{k}\n" for k, (en, ko) in enumerate(rows))
    use_mirror(tmp_path, monkeypatch, "tatoeba_en_ko", "kor.txt", content.encode())
    parts = text_parts("bilingual")
    check_pairs_in_parts(parts, rows)
    assert "CC-BY" not in "".join(parts.values())


@pytest.mark.parametrize("name", ["wikitext-2", "wikitext-103"])
def test_wikitext_is_the_three_files_of_its_archive(name, tmp_path, monkeypatch):
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("train", "valid", "test"):
            archive.writestr(f"{name}/wiki.{part}.tokens", f" \n = {part} = \n un@-@seen <unk> \n")
    use_mirror(tmp_path, monkeypatch, name, f"{name}-v1.zip", path.read_bytes())
    parts = text_parts(name)
    assert list(parts) == ["train", "valid", "test"]
    assert parts["valid"] == " \n = valid = \n un@-@seen <unk> \n"
    assert load_text(name) == parts["train"]


@pytest.mark.parametrize(
    ("name", "set_name", "pairs"),
    [("korean", "korean_chatbot", 11_823), ("bilingual", "tatoeba_en_ko", 3_318)],
)
def test_real_pairs_keep_to_their_parts(name, set_name, pairs, monkeypatch):
    use_real(set_name, monkeypatch)
    parts = text_parts(name)
    lines = {part: text.split("\n")[:-1] for part, text in parts.items()}
    assert sum(map(len, lines.values())) == 2 * pairs
    assert not set(lines["train"]) & {*lines["valid"], *lines["test"]}
    assert not set(lines["valid"]) & set(lines["test"])
    assert all(len(lines[part]) > 0.04 * 2 * pairs for part in lines)
    text = "".join(parts.values())
    assert unicodedata.is_normalized("NFC", text)
    assert any("가" <= char <= "힣" for char in text)
    if name == "bilingual":  # one line is English, the next Korean
        assert not any("가" <= char <= "힣" for line in lines["test"][0::2] for char in line)
    first = {"korean": "수면제 먹고 다섯시간이나 잤네",
             "bilingual": "You need good equipment to climb that mountain."}  # fmt: skip
    assert lines["test"][0] == first[name]  # the parts are those of every earlier run
