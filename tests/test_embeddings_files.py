import contextlib
import gzip
import math
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqlab.embeddings import Vectors, load_glove, load_word2vec, save_glove, save_word2vec
from seqlab.errors import InputError

WORD = st.text(st.characters(codec="utf-8", exclude_characters=" \n"), min_size=1, max_size=12)
FLOATS = {
    np.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    np.float64: st.floats(allow_nan=False, allow_infinity=False),
}
# What cuts lines or words for Python, or is lost by it, and is not to be here.
TRAPS = (
    "a\u0085b",  # NEL
    "\u2028",
    "\u2029x",
    "\ufeffbom",
    "\ufeff",
    "e\u0301",  # combining
    "\u0301",
    "\U0001f600\u200d",  # non-BMP
    "\u00a0",
    "\u3000",
    "a\tb",
    "\r",
    "x\r",
    "\x0b\x0c",
    "\x1c\x1d\x1e\x1f",
    "\x00",
    "\x1a",
    "#",
    '"',
    "3",
    "é",
    "한국어",
)


gensim_leaves_files_open = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def traps():
    return Vectors(TRAPS, drawn(len(TRAPS), 3).vectors)


def drawn(num_words, size, seed=0):
    rng = np.random.default_rng(seed)
    words = tuple(f"w{i}" for i in range(num_words))
    return Vectors(words, rng.normal(size=(num_words, size)).astype(np.float32))


@st.composite
def some_vectors(draw, dtype=np.float32):
    words = draw(st.lists(WORD, min_size=1, max_size=8, unique=True))
    size = draw(st.integers(1, 5))
    row = st.lists(FLOATS[dtype], min_size=size, max_size=size)
    rows = draw(st.lists(row, min_size=len(words), max_size=len(words)))
    return Vectors(tuple(words), np.array(rows, dtype))


def assert_same(found, expected):
    assert found.words == expected.words
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(
        found.vectors.view(np.int32), expected.vectors.astype(np.float32).view(np.int32)
    )


def failure(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def gensim_keyed_vectors():
    return pytest.importorskip("gensim.models.keyedvectors").KeyedVectors


# Round trips


@settings(max_examples=50)
@given(some_vectors())
@example(traps())
@example(Vectors(("a",), np.array([[-0.0, 1e-45, 3.4028235e38, 1.1754944e-38]], np.float32)))
def test_what_is_written_is_read(tmp_path, vectors):
    for name in ("v", "v.gz"):
        for binary in (False, True):
            save_word2vec(tmp_path / name, vectors, binary=binary)
            assert_same(load_word2vec(tmp_path / name, binary), vectors)
        save_glove(tmp_path / name, vectors)
        assert_same(load_glove(tmp_path / name), vectors)


@given(some_vectors(np.float64))
def test_text_holds_float64_exactly(tmp_path, vectors):
    save_glove(tmp_path / "v", vectors)
    lines = (tmp_path / "v").read_bytes().split(b"\n")
    rows = [list(map(float, line.rsplit(b" ", vectors.vector_size)[1:])) for line in lines[:-1]]
    np.testing.assert_array_equal(np.array(rows), vectors.vectors)


@pytest.mark.parametrize("size", [1, 2, 3, 50, 300])
def test_text_and_binary_are_told_apart(tmp_path, size):
    for seed in range(20):
        vectors = drawn(5, size, seed)
        for name, binary in (("v", False), ("v", True), ("v.gz", False), ("v.gz", True)):
            save_word2vec(tmp_path / name, vectors, binary=binary)
            assert_same(load_word2vec(tmp_path / name), vectors)


def test_many_rows_are_read_as_few_are(tmp_path):
    vectors = drawn(3000, 50)  # more than a block, and than a chunk, is
    for binary in (False, True):
        save_word2vec(tmp_path / "v", vectors, binary=binary)
        assert_same(load_word2vec(tmp_path / "v"), vectors)
        content = (tmp_path / "v").read_bytes().replace(b"w2500 ", b"w1234 ")
        (tmp_path / "v").write_bytes(content)
        place = "row 2501" if binary else "v:2502"
        assert place in failure(load_word2vec, tmp_path / "v")
        assert load_word2vec(tmp_path / "v", limit=2500).words == vectors.words[:2500]


def test_equal_vectors_give_equal_bytes(tmp_path):
    for name in ("a.gz", "b.gz"):
        save_word2vec(tmp_path / name, traps())
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_the_first_rows_alone_can_be_read(tmp_path):
    vectors, first = traps(), Vectors(TRAPS[:4], traps().vectors[:4])
    for binary in (False, True):
        save_word2vec(tmp_path / "v", vectors, binary=binary)
        assert_same(load_word2vec(tmp_path / "v", limit=4), first)
        assert_same(load_word2vec(tmp_path / "v", limit=99), vectors)
        assert "limit" in failure(load_word2vec, tmp_path / "v", limit=0)
    save_glove(tmp_path / "v", vectors)
    assert_same(load_glove(tmp_path / "v", limit=4), first)


def test_rows_are_read_as_other_tools_write_them(tmp_path):
    expected = Vectors(("a", "é"), np.array([[1, -2.5], [0, 1e-3]], np.float32))
    numbers = [struct.pack("<2f", *row) for row in expected.vectors]
    forms = {
        "blanks at the end, as word2vec.c": b"2 2\na 1.000000 -2.5 \n\xc3\xa9 0 1e-3 \n",
        "carriage returns": b"2 2\r\na 1 -2.5\r\n\xc3\xa9 0 .001\r\n",
        "binary, as word2vec.c": b"2 2\na %s\n\xc3\xa9 %s\n" % tuple(numbers),
        "binary, as gensim": b"2 2\na %s\xc3\xa9 %s" % tuple(numbers),
    }
    for form, content in forms.items():
        (tmp_path / "v").write_bytes(content)
        found = load_word2vec(tmp_path / "v", form.startswith("binary"))
        assert_same(found, expected)
        if not form.startswith("binary"):
            (tmp_path / "v").write_bytes(content.partition(b"\n")[2])
            assert_same(load_glove(tmp_path / "v"), expected)


def test_words_with_blanks_are_read_where_the_dimension_is_given(tmp_path):
    expected = Vectors((". . .", "at name@domain.com", "a"), np.eye(3, 2, dtype=np.float32))
    rows = b". . . 1 0\nat name@domain.com 0 1\na 0 0\n"
    (tmp_path / "glove").write_bytes(rows)
    (tmp_path / "word2vec").write_bytes(b"3 2\n" + rows)
    assert_same(load_glove(tmp_path / "glove", dimension=2), expected)
    assert_same(load_word2vec(tmp_path / "word2vec", dimension=2), expected)
    message = failure(load_word2vec, tmp_path / "word2vec", binary=False)
    assert "word2vec:2: expected a word and 2 numbers, got 5 fields" in message
    assert "dimension=2" in message
    assert "2 dimensions, expected 3" in failure(load_word2vec, tmp_path / "word2vec", dimension=3)


def test_words_that_are_not_utf_8(tmp_path):
    row = struct.pack("<f", 1)
    for binary, content in (
        (False, b"2 1\na\xff 1\nb\xfe 1\n"),
        (True, b"2 1\na\xff %s\nb\xfe %s\n" % (row, row)),
    ):
        (tmp_path / "v").write_bytes(content)
        place = "row 1" if binary else "v:2"
        message = failure(load_word2vec, tmp_path / "v", binary)
        assert place in message
        assert "errors='replace'" in message
        assert load_word2vec(tmp_path / "v", binary, errors="replace").words == (
            "a\ufffd",
            "b\ufffd",
        )
        kept = load_word2vec(tmp_path / "v", binary, errors="surrogateescape")
        assert kept.words == ("a\udcff", "b\udcfe")
        assert "not UTF-8" in failure(save_glove, tmp_path / "w", kept)
    (tmp_path / "v").write_bytes(b"a\xff 1\na\xfe 1\n")
    assert "surrogateescape" in failure(load_glove, tmp_path / "v", errors="replace")
    assert "errors" in failure(load_glove, tmp_path / "v", errors="ignore")


# What cannot be written


@pytest.mark.parametrize("word", ["", " ", "a b", "a\nb", "\n", "\ud800"])
@pytest.mark.parametrize("how", ["text", "binary", "glove"])
def test_a_word_that_the_format_cannot_hold_is_refused(tmp_path, word, how):
    vectors = Vectors(("fine", word), np.ones((2, 2), np.float32))
    file = tmp_path / "v.txt"
    file.write_text("before")
    if how == "glove":
        message = failure(save_glove, file, vectors)
    else:
        message = failure(save_word2vec, file, vectors, binary=how == "binary")
    assert repr(word) in message
    assert [each.name for each in tmp_path.iterdir()] == ["v.txt"]
    assert file.read_text() == "before"


def test_what_float32_cannot_hold_is_refused_in_binary(tmp_path):
    vectors = Vectors(("a", "b"), np.array([[1.0], [1e39]]))
    message = failure(save_word2vec, tmp_path / "v", vectors, binary=True)
    assert "'b'" in message
    assert not list(tmp_path.iterdir())
    save_word2vec(tmp_path / "v", vectors)
    assert "v:3: entry 1 of 'b' is inf in float32" in failure(load_word2vec, tmp_path / "v")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "nowhere" / "v"
    assert str(path) in failure(save_glove, path, traps())
    assert str(path) in failure(load_glove, path)
    assert str(path) in failure(load_word2vec, path)
    assert str(tmp_path) in failure(load_word2vec, tmp_path)


# What cannot be read


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", ":1: expected a header of two numbers, words and dimensions, got ''"),
        (b"a 1 2\n", "a file without one is GloVe's, see load_glove"),
        (b"2\n", ":1: expected a header"),
        (b"2 2 2\n", ":1: expected a header"),
        (b"2 -2\n", ":1: expected a header"),
        (b"0 2\n", ":1: expected a header"),
        (b"2 0\n", ":1: expected a header"),
        (b"2.0 2\n", ":1: expected a header"),
        (b"9" * 5000 + b" 2\n", ":1: expected a header"),
        (b"\xef\xbb\xbf2 2\n", ":1: expected a header"),
        (b"\xff\xfe \x00", ":1: expected a header"),
        (b"3 2\na 1 2\nb 1 2\n", ":3: the file ends after 2 of the 3 words of its header"),
        (b"3 2\n", ":1: the file ends after 0 of the 3"),
        (b"99999999999999 9\na 1 2 3 4 5 6 7 8 9\n", ":2: the file ends after 1 of the 999"),
        (b"1 2\na 1 2\nb 1 2\n", ":3: a line too many, the header says 1 words"),
        (b"1 2\na 1 2\n\n", ":3: a line too many"),
        (b"2 2\na 1 2\nb 1\n", ":3: expected a word and 2 numbers, got 2 fields; is the file cut"),
        (b"3 2\na 1 2\n\nb 1 2\n", ":3: expected a word and 2 numbers, got 0 fields"),
        (b"2 2\na 1 2\nb 1 2 3\n", ":3: expected a word and 2 numbers, got 4 fields; if words"),
        (b"2 2\na 1 2\nb 1  2\n", ":3: expected a word and 2 numbers, got 4 fields"),
        (b"2 2\na 1 2\nb 1\t2\n", ":3: expected a word and 2 numbers, got 2 fields"),
        (b"2 2\na 1 2\nb 1 2", ":3: the last line has no end; is the file cut short?"),
        (b"2 2\na 1 2\nb 1 x\n", ":3: entry 2 is no number: 'x'"),
        (b"2 2\na 1 2\nb 1_0 2\n", ":3: entry 1 is no number: '1_0'"),
        (b"2 2\na 1 2\nb 1 \xd9\xa1\n", ":3: entry 2 is no number"),
        (b"2 2\na 1 2\nb \t 2\n", ":3: entry 1 is no number"),
        (b"2 1\na 1\nb \t\n", ":3: entry 1 is no number"),
        (b"2 2\na 1 2\nb 1,0 2\n", ":3: entry 1 is no number"),
        (b"2 2\na 1 2\nb 1 nan\n", ":3: entry 2 of 'b' is nan"),
        (b"2 2\na 1 2\nb -inf 2\n", ":3: entry 1 of 'b' is -inf"),
        (b"2 2\na 1 2\nb 1e39 2\n", ":3: entry 1 of 'b' is inf in float32"),
        (b"2 2\na 1 2\na 3 4\n", ":3: the word 'a' is there already, at "),
        (b"2 2\na 1 2\n 3 4\n", ":3: the word is empty"),
        (b"2 2\na 1 2\n\xff 3 4\n", ":3: the word b'\\xff' is not UTF-8"),
    ],
)
def test_a_damaged_text_is_refused_with_its_line(tmp_path, content, complaint):
    (tmp_path / "v.txt").write_bytes(content)
    message = failure(load_word2vec, tmp_path / "v.txt", binary=False)
    assert str(tmp_path / "v.txt") in message
    assert complaint in message
    (tmp_path / "v.gz").write_bytes(gzip.compress(content))
    assert complaint in failure(load_word2vec, tmp_path / "v.gz", binary=False)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"a\n", ":1: expected a word and its vector"),
        (b"\n", ":1: expected a word and its vector"),
        (b"2 2\na 1 2\n", ":2: expected a word and 1 numbers, got 3 fields; if the first line is"),
        (b"a 1 2\nb 1\n", ":2: expected a word and 2 numbers, got 2 fields"),
        (b"a 1 2\n. . 1 2\n", ":2: expected a word and 2 numbers, got 4 fields; if words may hold"),
        (b"a 1 2\na 1 2\n", ":2: the word 'a' is there already"),
        (b"a 1 2\nb 1 2", ":2: the last line has no end"),
    ],
)
def test_a_damaged_glove_file_is_refused_with_its_line(tmp_path, content, complaint):
    (tmp_path / "v.txt").write_bytes(content)
    assert complaint in failure(load_glove, tmp_path / "v.txt")


def binary_file(*rows, header=None):
    rows = [b"%s %s\n" % (word, struct.pack("<2f", *row)) for word, row in rows]
    return (header or b"%d 2\n" % len(rows)) + b"".join(rows)


A, B = (b"a", (1, 2)), (b"b", (3, 4))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (binary_file(A, B)[:-3], "row 2: the file ends within it, its header says 2 rows"),
        (binary_file(A, B)[:-10], "row 2: the file ends within it"),
        (binary_file(A, header=b"2 2\n"), "row 2: the file ends within it"),
        (binary_file(header=b"2 2\n"), "row 1: the file ends within it"),
        (binary_file(A, B, header=b"1 2\n"), "row 2: a row too many, its header says 1"),
        (binary_file(A) + b"x", "row 2: a row too many"),
        (binary_file(A, A), "row 2: the word 'a' is there already, at "),
        (binary_file(A, (b"b", (1, math.nan))), "row 2: entry 2 of 'b' is nan"),
        (binary_file(A, (b"b", (math.inf, 1))), "row 2: entry 1 of 'b' is inf"),
        (binary_file(A, (b"", (1, 2))), "row 2: the word is empty"),
        (binary_file(A, (b"\xff", (1, 2))), "row 2: the word b'\\xff' is not UTF-8"),
        (b"2 2\n" + b"x" * 3_000_000, "row 1: a word has no end; is it text?"),
        (b"9 9999999\na 1", "row 1: the file ends within it"),
    ],
)
def test_a_damaged_binary_is_refused_with_its_row(tmp_path, content, complaint):
    (tmp_path / "v.bin").write_bytes(content)
    message = failure(load_word2vec, tmp_path / "v.bin", binary=True)
    assert str(tmp_path / "v.bin") in message
    assert complaint in message


@pytest.mark.parametrize("binary", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path, binary):
    vectors = Vectors(("a", "ä", "b"), np.random.default_rng(0).normal(size=(3, 2)).astype("f4"))
    save_word2vec(tmp_path / "v", vectors, binary=binary)
    content = (tmp_path / "v").read_bytes()
    whole = len(content) - binary  # the last line end of a binary file need not be there
    for length in range(whole):
        (tmp_path / "v").write_bytes(content[:length])
        assert str(tmp_path) in failure(load_word2vec, tmp_path / "v", binary)


@pytest.mark.parametrize("binary", [False, True])
def test_a_packed_file_cut_or_changed_anywhere_is_refused(tmp_path, binary):
    vectors = Vectors(("a", "b"), np.random.default_rng(0).normal(size=(2, 300)).astype("f4"))
    path = tmp_path / "v.gz"
    save_word2vec(path, vectors, binary=binary)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        assert str(path) in failure(load_word2vec, path, binary)
        changed = bytearray(content)
        changed[length] ^= 0x55
        path.write_bytes(changed)
        with contextlib.suppress(InputError):
            assert_same(load_word2vec(path, binary), vectors)  # a byte that gzip does not read
    path.write_bytes(b"no gzip")
    assert str(path) in failure(load_word2vec, path)


# gensim


@pytest.mark.peers
@gensim_leaves_files_open
@settings(max_examples=50)
@given(some_vectors())
@example(traps())
def test_gensim_reads_what_is_written(tmp_path, vectors):
    load = gensim_keyed_vectors().load_word2vec_format
    path = tmp_path / "v"
    for binary in (False, True):
        save_word2vec(path, vectors, binary=binary)
        assert_equal_to_gensim(vectors, load(path, binary=binary))
    save_glove(path, vectors)
    assert_equal_to_gensim(vectors, load(path, binary=False, no_header=True))


@pytest.mark.peers
@settings(max_examples=50)
@given(some_vectors())
@example(traps())
def test_what_gensim_writes_is_read(tmp_path, vectors):
    peer = gensim_keyed_vectors()(vectors.vector_size)
    peer.add_vectors(list(vectors.words), vectors.vectors.copy())
    path = tmp_path / "v"
    for binary in (False, True):
        peer.save_word2vec_format(path, binary=binary)
        assert_same(load_word2vec(path, binary), vectors)
    peer.save_word2vec_format(path, write_header=False)
    assert_same(load_glove(path), vectors)


def assert_equal_to_gensim(vectors, peer):
    assert peer.index_to_key == list(vectors.words)
    np.testing.assert_array_equal(peer.vectors, vectors.vectors)


@pytest.mark.peers
@gensim_leaves_files_open
@pytest.mark.parametrize("how", ["text", "binary", "glove", "text.gz", "binary.gz", "glove.gz"])
def test_neighbours_and_scores_are_gensims_after_either_has_written(tmp_path, how):
    keyed = gensim_keyed_vectors()
    vectors = drawn(500, 20)
    words = vectors.words
    peer = keyed(20)
    peer.add_vectors(list(words), vectors.vectors.copy())
    ours, theirs = tmp_path / f"ours-{how}", tmp_path / f"theirs-{how}"
    binary, header = how.startswith("binary"), not how.startswith("glove")
    peer.save_word2vec_format(str(theirs), binary=binary, write_header=header)
    if header:
        save_word2vec(ours, vectors, binary=binary)
        mine = load_word2vec(theirs)
    else:
        save_glove(ours, vectors)
        mine = load_glove(theirs)
    yours = keyed.load_word2vec_format(str(ours), binary=binary, no_header=not header)
    for word in words[:20]:
        found, expected = mine.most_similar(word), yours.most_similar(word)
        assert [w for w, _ in found] == [w for w, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)
