import collections
import gzip
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data import sources
from seqlab.data.text import embedded_text
from seqlab.embeddings import corpus as corpus_module
from seqlab.embeddings.corpus import END, Corpus, Sentences, encode, sentences
from seqlab.errors import InputError

ROOT = Path(__file__).parents[2]
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or ROOT.parent / "shared" / "data")
TOY = [["b", "a", "c"], [], ["a", "rare"], ["lone"], ["b", "a", "c", "b"]]

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda word: word.split() == [word]
)
texts = st.lists(st.lists(st.one_of(st.sampled_from("abcd"), words), max_size=8), max_size=20)


def failure(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def written(tmp_path, content, name="text.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def kept(text, known):
    """Sentences without the words that are not known, and without those that are then empty."""
    short = ([word for word in sentence if word in known] for sentence in text)
    return [sentence for sentence in short if sentence]


def test_a_toy_text_by_hand(tmp_path):
    corpus = encode(TOY, tmp_path / "toy", min_count=2)
    assert corpus.words == ("a", "b", "c")  # a and b are there three times, c twice
    assert corpus.counts.tolist() == [3, 3, 2]
    assert corpus.ids.tolist() == [1, 0, 2, END, 0, END, 1, 0, 2, 1, END]
    assert (corpus.ids.dtype, corpus.counts.dtype) == (np.int32, np.int64)
    assert corpus.num_words == 10
    assert corpus.id_of == {"a": 0, "b": 1, "c": 2}
    assert list(corpus) == [["b", "a", "c"], ["a"], ["b", "a", "c", "b"]]


@given(text=texts, min_count=st.integers(1, 3), max_vocab=st.none() | st.integers(1, 5))
def test_what_is_decoded_is_what_was_encoded(tmp_path_factory, text, min_count, max_vocab):
    path = tmp_path_factory.mktemp("corpus") / "ids"
    counts = collections.Counter(itertools.chain.from_iterable(text))
    frequent = [word for word in counts if counts[word] >= min_count]
    expected = sorted(frequent, key=lambda word: (-counts[word], word))[:max_vocab]
    if not expected:
        failure(encode, text, path, min_count=min_count)
        assert list(path.parent.iterdir()) == []
        return
    corpus = encode(text, path, min_count=min_count, max_vocab=max_vocab)
    assert corpus.words == tuple(expected)
    assert corpus.counts.tolist() == [counts[word] for word in expected]
    assert corpus.num_words == counts.total()
    assert list(corpus) == kept(text, set(expected))
    again = Corpus.open(path)
    assert (again.words, again.num_words) == (corpus.words, corpus.num_words)
    np.testing.assert_array_equal(again.ids, corpus.ids)
    np.testing.assert_array_equal(again.counts, corpus.counts)
    assert {file.name for file in path.parent.iterdir()} == {"ids", "ids.json"}


def test_small_batches_and_chunks_give_the_same_file(tmp_path, monkeypatch):
    rng = random.Random(0)
    text = [[f"w{rng.randrange(30)}" for _ in range(rng.randrange(9))] for _ in range(200)]
    whole = encode(text, tmp_path / "whole", min_count=30)
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(corpus_module, "_BATCH_WORDS", size)
        monkeypatch.setattr(corpus_module, "_CHUNK_IDS", size)
        parts = encode(text, tmp_path / f"parts{size}", min_count=30)
        assert parts.path.read_bytes() == whole.path.read_bytes()
        assert parts.words == whole.words
        assert list(parts) == list(whole) == kept(text, set(whole.words))
    assert 0 < len(whole.words) < 30
    assert len(list(whole)) < 200


@given(text=texts, num_tokens=st.integers(1, 12))
def test_chunks_are_the_ids_and_end_with_a_sentence(tmp_path_factory, text, num_tokens):
    text = [*text, ["a"]]
    corpus = encode(text, tmp_path_factory.mktemp("corpus") / "ids", min_count=1)
    chunks = list(corpus.chunks(num_tokens))
    np.testing.assert_array_equal(np.concatenate(chunks), corpus.ids)
    longest = max(map(len, text)) + 1
    for chunk, after in itertools.pairwise([*chunks, np.array([END])]):
        assert 1 <= len(chunk) <= num_tokens
        assert chunk.dtype == np.int32
        if chunk[-1] != END:
            assert END not in chunk
            assert len(chunk) == num_tokens < longest
        elif len(after) < num_tokens and END in after[:-1]:
            # The sentence that follows would not have gone into this chunk.
            assert len(chunk) + int(np.argmax(after == END)) + 1 > num_tokens


def test_a_chunk_takes_as_many_sentences_as_fit(tmp_path):
    corpus = encode([["a"], ["a", "a"], ["a"] * 6, ["a"]], tmp_path / "ids", min_count=1)
    assert [chunk.tolist() for chunk in corpus.chunks(5)] == [
        [0, END, 0, 0, END],
        [0, 0, 0, 0, 0],
        [0, END, 0, END],
    ]
    assert "num_tokens must be 1 or more" in failure(list, corpus.chunks(0))


def test_any_iterable_will_do_and_is_read_once(tmp_path):
    times = []

    def once():
        times.append(1)
        yield from ((word for word in sentence) for sentence in TOY)

    corpus = encode(once(), tmp_path / "ids", min_count=1)
    assert corpus.num_words == 10
    assert corpus.source is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["a sentence"], "must be a list of words, got 'a sentence'"),
        ([["a", None]], "must be a str, got None"),
        ([["a", 3]], "must be a str, got 3"),
        ([["a", ""]], "must neither be empty nor hold white space, got ''"),
        ([["New York"]], "got 'New York'"),
        ([["\ud800"]], "UTF-8"),
    ],
)
def test_mistakes_of_the_caller(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        encode(text, tmp_path / "ids", min_count=1)
    assert not isinstance(caught.value, InputError)
    assert list(tmp_path.iterdir()) == []


def test_text_that_leaves_no_word(tmp_path):
    path = tmp_path / "ids"
    assert "no sentence" in failure(encode, [], path)
    assert "no word is seen min_count = 1" in failure(encode, [[], []], path, min_count=1)
    message = failure(encode, TOY, path)
    assert "min_count = 5 times (the most frequent of 5 is there 3 times): lower it" in message
    assert "min_count must be 1 or more" in failure(encode, TOY, path, min_count=0)
    assert "max_vocab must be 1 or more" in failure(encode, TOY, path, max_vocab=0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def counted(tmp_path):
    """Sentences that can be told apart by their source, and how often they were read."""
    reads = []

    def make(source):
        def read():
            reads.append(source)
            yield from TOY

        return Sentences({"sha256": source}, read)

    return make, reads


def test_what_is_there_is_not_encoded_again(tmp_path, counted):
    make, reads = counted
    path = tmp_path / "ids"
    first = encode(make("x"), path, min_count=2)
    assert encode(make("x"), path, min_count=2).words == first.words
    assert reads == ["x"]
    encode(make("y"), path, min_count=2)
    encode(make("y"), path, min_count=1)
    encode(make("y"), path, min_count=1, max_vocab=2)
    assert encode(make("y"), path, min_count=1, max_vocab=2).words == ("a", "b")
    assert reads == ["x", "y", "y", "y"]
    encode(TOY, path, min_count=1)
    assert Corpus.open(path).source is None
    assert encode(make("y"), path, min_count=1).source == {"sha256": "y"}


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_damage_is_named_and_mended(tmp_path, counted):
    make, reads = counted
    path = tmp_path / "ids"
    encode(make("x"), path, min_count=2)
    flip(path, 5)
    assert f"{path} is damaged" in failure(Corpus.open, path)
    assert encode(make("x"), path, min_count=2).words == ("a", "b", "c")
    path.write_bytes(path.read_bytes()[:-4])
    assert f"{path} has 40 bytes, expected 44" in failure(Corpus.open, path)
    encode(make("x"), path, min_count=2)
    path.unlink()
    assert f"cannot read {path}" in failure(Corpus.open, path)
    encode(make("x"), path, min_count=2)
    assert reads == ["x"] * 4
    assert Corpus.open(path).num_words == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "is not of a corpus: kind None"),
        (b'{"kind": "seqlab corpus 0"}', "kind 'seqlab corpus 0'"),
        (b'{"kind": "seqlab corpus 1"}', "is damaged"),
    ],
)
def test_a_foreign_sidecar_is_refused_and_left_alone(tmp_path, content, message):
    path, sidecar = tmp_path / "ids", written(tmp_path, content, "ids.json")
    assert message in failure(Corpus.open, path)
    assert message in failure(encode, TOY, path, min_count=1)
    assert (sidecar.read_bytes(), path.exists()) == (content, False)


def test_a_changed_sidecar_is_damaged(tmp_path):
    encode(TOY, tmp_path / "ids", min_count=1)
    sidecar = tmp_path / "ids.json"
    sidecar.write_text(sidecar.read_text().replace('"num_words": 10', '"num_words": 11'))
    assert "ids.json is damaged: remove it and ids" in failure(Corpus.open, tmp_path / "ids")
    sidecar.write_text(sidecar.read_text()[:-20])
    assert "not JSON" in failure(Corpus.open, tmp_path / "ids")


def test_a_file_of_the_user_is_never_overwritten(tmp_path):
    path = written(tmp_path, "my only copy\n")
    for call in (encode, lambda *args: Corpus.open(args[1])):
        assert "is no corpus: text.txt.json is not beside it" in failure(call, TOY, path)
    assert path.read_text() == "my only copy\n"


@pytest.mark.parametrize("failing", [KeyboardInterrupt, InputError])
def test_stopped_while_reading_leaves_what_was_there(tmp_path, failing):
    def stopping():
        yield ["new"]
        raise failing("stopped here")

    with pytest.raises(failing):
        encode(stopping(), tmp_path / "ids", min_count=1)
    assert list(tmp_path.iterdir()) == []
    encode(TOY, tmp_path / "ids", min_count=1)
    with pytest.raises(failing):
        encode(stopping(), tmp_path / "ids", min_count=1)
    assert list(Corpus.open(tmp_path / "ids")) == kept(TOY, {"a", "b", "c", "rare", "lone"})


def test_a_death_between_the_two_files_is_mended(tmp_path, monkeypatch, counted):
    make, _ = counted

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        patch.setattr(corpus_module, "write_whole", lambda path, text: path.write_text(text))
        with pytest.raises(KeyboardInterrupt):
            encode(make("x"), tmp_path / "ids", min_count=2)
    assert {path.name for path in tmp_path.iterdir()} == {"ids.json"}
    failure(Corpus.open, tmp_path / "ids")
    assert encode(make("x"), tmp_path / "ids", min_count=2).words == ("a", "b", "c")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    assert "cannot write" in failure(encode, TOY, tmp_path / "no" / "ids", min_count=1)


# ---------------------------------------------------------------- what probabilities there are


def zipfian(tmp_path, num_words=50):
    text = [[f"w{rank:02}"] * (2000 // (rank + 1)) for rank in range(num_words)]
    return encode(text, tmp_path / "ids", min_count=1)


@pytest.mark.parametrize("sample", [1e-4, 1e-3, 0.05])
def test_words_are_kept_by_the_formula(tmp_path, sample):
    corpus = zipfian(tmp_path)
    total = int(corpus.counts.sum())
    found = corpus.keep_probability(sample)
    for probability, count in zip(found, corpus.counts.tolist(), strict=True):
        share = count / total
        expected = ((share / sample) ** 0.5 + 1) * sample / share
        assert probability == pytest.approx(min(1, expected), rel=1e-12)
    assert found[0] < 1
    assert (np.diff(found) >= 0).all()
    assert (corpus.keep_probability(0) == 1).all()
    for wrong in (-1e-3, np.nan, np.inf):
        assert "sample must be 0 or more" in failure(corpus.keep_probability, wrong)


def test_noise_is_counts_to_the_power(tmp_path):
    corpus = zipfian(tmp_path)
    noise = corpus.noise_distribution()
    assert noise.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(noise / noise[-1], (corpus.counts / corpus.counts[-1]) ** 0.75)
    shares = corpus.counts / corpus.counts.sum()
    np.testing.assert_allclose(corpus.noise_distribution(1), shares, rtol=1e-12)
    np.testing.assert_allclose(corpus.noise_distribution(0), 1 / len(shares), rtol=1e-12)


@pytest.mark.peers
def test_probabilities_and_vocabulary_are_gensims(tmp_path):
    word2vec = pytest.importorskip("gensim.models.word2vec")
    corpus = encode(sentences("embedded"), tmp_path / "ids", min_count=5)
    theirs = word2vec.Word2Vec(min_count=5, sample=1e-3, negative=5)
    theirs.build_vocab(sentences("embedded"))
    vectors = theirs.wv
    assert set(corpus.words) == set(vectors.index_to_key)
    assert theirs.corpus_total_words == corpus.num_words
    order = [vectors.key_to_index[word] for word in corpus.words]
    assert [vectors.get_vecattr(word, "count") for word in corpus.words] == corpus.counts.tolist()
    kept = np.array([vectors.get_vecattr(word, "sample_int") for word in corpus.words])
    np.testing.assert_allclose(corpus.keep_probability(1e-3), kept / (2**32 - 1), atol=1e-9)
    theirs.make_cum_table()
    noise = np.diff(theirs.cum_table.astype(np.int64), prepend=0) / int(theirs.cum_table[-1])
    np.testing.assert_allclose(corpus.noise_distribution(), noise[order], atol=2e-9)
    again = word2vec.Word2Vec(min_count=1)
    again.build_vocab(corpus)  # a corpus is itself what gensim trains on
    assert again.corpus_total_words == corpus.counts.sum()


# ---------------------------------------------------------------- how text is cut


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("The cat's 2 hats, 'quoted' -- isn\u2019t it?", "the|cat's|2|hats|quoted|isn\u2019t|it"),
        ("snake_case x1 3.5", "snake_case|x1|3|5"),
        ("나는 학교에 갔다. ÜBER-raschung", "나는|학교에|갔다|über|raschung"),
        ("नमस्ते दुनिया ภาษาไทย", "नमस्ते|दुनिया|ภาษาไทย"),
        ("cafe\u0301 İstanbul ΟΔΟΣ", "cafe\u0301|i\u0307stanbul|οδος"),
        ("", ""),
        (" \t .!? ", ""),
    ],
)
def test_words_of_a_corpus(tmp_path, line, expected):
    found = list(sentences(corpus=written(tmp_path, line + "\n")))
    assert found == ([expected.split("|")] if expected else [])


def test_options_of_a_corpus(tmp_path):
    path = written(tmp_path, "Don't STOP, now!\r\n\n한국어 (띄어쓰기)")
    assert list(sentences(corpus=path, lower=False)) == [
        ["Don't", "STOP", "now"],
        ["한국어", "띄어쓰기"],
    ]
    assert list(sentences(corpus=path, lower=False, blanks_only=True)) == [
        ["Don't", "STOP,", "now!"],
        ["한국어", "(띄어쓰기)"],
    ]
    assert next(iter(sentences(corpus=path, blanks_only=True))) == ["don't", "stop,", "now!"]


def test_a_stream_can_be_read_again_and_by_two_at_once(tmp_path):
    text = sentences(corpus=written(tmp_path, "a b\nc\n"))
    assert list(text) == list(text) == [["a", "b"], ["c"]]
    assert list(zip(text, text, strict=True)) == [(["a", "b"], ["a", "b"]), (["c"], ["c"])]


def test_packed_and_several_files(tmp_path):
    plain = written(tmp_path, "\ufeffa b\nc")
    packed = written(tmp_path, gzip.compress(b"d\ne"), "more.txt.gz")
    archive = tmp_path / "last.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside", "f g\n")
    expected = [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"]]
    assert list(sentences(corpus=[plain, str(packed), archive])) == expected
    assert list(sentences(corpus=str(packed))) == [["d"], ["e"]]


def test_the_source_tells_texts_and_options_apart(tmp_path):
    one, same = written(tmp_path, "a\n"), written(tmp_path, "a\n", "same.txt")
    other = written(tmp_path, "b\n", "other.txt")
    source = sentences(corpus=one).source
    assert source == sentences(corpus=same).source
    different = [
        sentences(corpus=other),
        sentences(corpus=[one, same]),
        sentences(corpus=one, lower=False),
        sentences(corpus=one, blanks_only=True),
        sentences("embedded"),
    ]
    assert len({json.dumps(each.source) for each in different} | {json.dumps(source)}) == 6


@given(data=st.data())
def test_blocks_do_not_show(tmp_path_factory, data):
    alphabet = st.sampled_from("aΣ́é나😀'_ \n\t\u2028\u3000")
    text = data.draw(st.text(alphabet, max_size=80))
    path = written(tmp_path_factory.mktemp("text"), text)
    length, limit = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    cut = corpus_module._cutter(lower=True, blanks_only=False)
    expected = []
    for found in map(cut, text.split("\n")):
        expected += [found[i : i + limit] for i in range(0, len(found), limit)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "_BLOCK_BYTES", length)
        patch.setattr(corpus_module, "SENTENCE_WORDS", limit)
        longest = max(map(len, re.split(r"\s", text)), default=0)
        try:
            found = list(sentences(corpus=path))
        except InputError:
            assert longest > length  # of a line that is longer than a block, no word may be
        else:
            assert found == expected
            assert longest <= 3 * length + 1


@pytest.mark.parametrize("form", ["one line", "lines", "gz"])
def test_memory_is_bounded(tmp_path, form):
    path = tmp_path / ("text.txt.gz" if form == "gz" else "text.txt")
    line = b"the quick brown fox jumps over the lazy dog " * 20
    line += b"" if form == "one line" else b"\n"
    with gzip.open(path, "wb", 1) if form == "gz" else path.open("wb") as file:
        for _ in range(7_000):
            file.write(line)
    text = sentences(corpus=path)
    tracemalloc.start()
    corpus = encode(text, tmp_path / "ids")
    num_ids = sum(len(chunk) for chunk in corpus.chunks(100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert corpus.num_words == 7_000 * 20 * 9
    assert num_ids == len(corpus.ids) > corpus.num_words
    # Held are the words of a block and of a batch, and some arrays of one chunk of ids; the words
    # of the whole text as a list would be 70 MB.
    assert peak < 25e6


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"fine\nna\xefve\n", "byte 0xef at offset 7, line 2"),
        (b"\xff", "byte 0xff at offset 0, line 1"),
        (b"x" * 70 + b"\n" * 200 + b"\xea\xb0", "byte 0xea at offset 270, line 201"),
        (b"a\n" * 100 + b"\x80", "byte 0x80 at offset 200, line 101"),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 64, 1 << 18])
def test_what_is_not_utf_8_is_named_by_line(tmp_path, monkeypatch, content, place, block):
    monkeypatch.setattr(corpus_module, "_BLOCK_BYTES", block)
    monkeypatch.setattr(corpus_module, "_up_to_last_blank", lambda text: (text, ""))
    path = written(tmp_path, content)
    message = failure(encode, sentences(corpus=path), tmp_path / "ids")
    assert f"{path} is not UTF-8: {place}; save it as UTF-8" == message
    assert not (tmp_path / "ids").exists()


def test_a_word_without_end_is_named_by_line(tmp_path):
    path = written(tmp_path, b"a b\nc " + b"x" * 600_000)
    message = failure(list, sentences(corpus=path))
    assert f"{path}, line 2: a word of more than 262144 characters" in message
    path = written(tmp_path, b"a b\nc " + b"x" * 100_000)
    assert [len(sentence) for sentence in sentences(corpus=path)] == [2, 2]


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    assert f"cannot read {tmp_path / 'no'}" in failure(sentences, corpus=tmp_path / "no")
    assert f"cannot read {tmp_path}" in failure(sentences, corpus=tmp_path)
    assert "names no file" in failure(sentences, corpus=[])
    plain = written(tmp_path, "text\n" * 100)
    packed = gzip.compress(os.urandom(1000))
    for name, content in {
        "plain.gz": b"text\n" * 100,
        "cut.gz": packed[:-500],
        "changed.gz": packed[:100] + b"???" + packed[103:],
        "plain.zip": b"text\n" * 100,
    }.items():
        path = written(tmp_path, content, name)
        message = failure(list, sentences(corpus=path))
        assert f"{path} is no {path.suffix} file, or damaged" in message or "not UTF-8" in message
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.write(plain, "one")
        file.write(plain, "two")
    assert "holds 2 files, expected one" in failure(list, sentences(corpus=tmp_path / "two.zip"))


def test_choices_that_do_not_go_together(tmp_path):
    path = written(tmp_path, "a\n")
    assert "give either dataset (ptb) or corpus" in failure(sentences, "ptb", path)
    assert "did you mean 'text8'?" in failure(sentences, "text9")
    for option in ({"lower": False}, {"blanks_only": True}):
        assert "dataset embedded has its own words" in failure(sentences, **option)


@pytest.mark.peers
@pytest.mark.parametrize("num_words", [9_999, 10_000, 10_001, 64_123])
def test_one_long_line_is_cut_as_gensim_does(tmp_path, num_words):
    word2vec = pytest.importorskip("gensim.models.word2vec")
    path = written(tmp_path, " " + " ".join(f"w{i % 997}" for i in range(num_words)))
    theirs = list(word2vec.Text8Corpus(str(path)))
    assert list(sentences(corpus=path, blanks_only=True, lower=False)) == theirs


# ---------------------------------------------------------------- real text


def test_the_embedded_text_is_paragraphs():
    found = list(sentences())
    text = embedded_text()
    expected = corpus_module._cutter(lower=True, blanks_only=False)(text)
    assert list(itertools.chain.from_iterable(found)) == expected
    assert sum(map(len, found)) > 50_000
    assert 10 < np.mean([len(sentence) for sentence in found]) < 60


@pytest.fixture
def mirror(monkeypatch):
    if not (REAL_MIRROR / "imdb").is_dir():
        pytest.skip(f"no {REAL_MIRROR / 'imdb'}: set SEQLAB_DATA_MIRROR to a folder with imdb/")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))


def test_real_ptb_and_tinyshakespeare(mirror):
    ptb = list(sentences("ptb"))
    assert (len(ptb), sum(map(len, ptb))) == (42_068, 887_521)
    assert len(set(itertools.chain.from_iterable(ptb))) == 9_999
    speeches = list(sentences("tinyshakespeare"))
    assert speeches[1] == "all speak speak".split()
    assert len(speeches) == 7_222


@pytest.mark.slow
def test_real_imdb(mirror, tmp_path):
    corpus = encode(sentences("imdb"), tmp_path / "imdb", min_count=1)
    assert (corpus.num_words, len(corpus.words)) == (17_561_175, 149_882)
    assert (corpus.counts >= 5).sum() == 51_929
    assert (corpus.ids == END).sum() == 75_000
    # By bytes, those of no word as blanks: fast, and nothing of the regular expression.
    kept = b"abcdefghijklmnopqrstuvwxyz0123456789'"
    blanks = bytes(byte if byte in kept else 32 for byte in range(256))
    counts = collections.Counter()
    for name in ("train_neg", "train_pos", "train_unsup"):
        with gzip.open(REAL_MIRROR / "imdb" / f"{name}.tsv.gz", "rt", encoding="utf-8") as file:
            for line in file:
                text = line.split("\t")[2].lower().replace("<br />", " ")
                counts.update(text.encode().translate(blanks).split())
    found = zip(corpus.words, corpus.counts.tolist(), strict=True)
    assert {word.encode(): count for word, count in found} == counts


def test_text8_comes_from_its_archive(tmp_path, monkeypatch):
    (tmp_path / "text8").mkdir()
    with zipfile.ZipFile(tmp_path / "text8" / "text8.zip", "w") as file:
        file.writestr("text8", " anarchism originated" * 12_345)
    content = (tmp_path / "text8" / "text8.zip").read_bytes()
    digest = sources.hashlib.sha256(content).hexdigest()
    entry = sources.File("text8.zip", "", len(content), digest)
    monkeypatch.setitem(sources.SOURCES, "text8", (entry,))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path))
    assert [len(sentence) for sentence in sentences("text8")] == [10_000, 10_000, 4_690]


def test_jax_is_not_imported():
    code = "import sys, seqlab.embeddings.corpus; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
