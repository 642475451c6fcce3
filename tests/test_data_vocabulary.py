import dataclasses
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqlab.data.text import load_text
from seqlab.data.vocabulary import (
    EOS,
    PAD,
    SOS,
    SPECIALS,
    UNK,
    BytePairs,
    Characters,
    Words,
    load_vocabulary,
    vocabulary_from_json,
)
from seqlab.errors import InputError

try:
    import tokenizers
except ModuleNotFoundError:
    tokenizers = None

needs_tokenizers = pytest.mark.skipif(
    tokenizers is None, reason="no tokenizers: pip install 'seqlab[subword]'"
)
ANY_CHARACTER = st.characters(codec=None, exclude_categories=())  # lone surrogates, NUL, all
ANY_TEXT = st.text(ANY_CHARACTER)
SOME_TEXT = st.text(ANY_CHARACTER, min_size=1)
WORDS = st.lists(
    SOME_TEXT.filter(lambda word: word.split() == [word] and word not in SPECIALS),
    min_size=1,
    unique=True,
)
ENGLISH = (
    "he says the cat sat on the mat and the other cat sat there, then the rest of them came. " * 4
)


def split_high_low():
    """Two code points that JSON would read back as one."""
    return "\ud800" + "\udc00"


def failure(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def through_json(vocabulary):
    written = json.dumps(vocabulary.to_json(), ensure_ascii=False, allow_nan=False)
    return vocabulary_from_json(json.loads(written.encode("utf-8")))


# Special tokens


def test_special_tokens_have_the_first_ids_of_every_vocabulary():
    assert (PAD, UNK, SOS, EOS) == (0, 1, 2, 3)
    for vocabulary in (Characters("ab"), Words(("a", "b")), BytePairs(())):
        assert vocabulary.tokens[:4] == ("<pad>", "<unk>", "<sos>", "<eos>")
        assert [vocabulary.token(i) for i in range(len(vocabulary))] == list(vocabulary.tokens)
        with pytest.raises(ValueError, match=r"0 \.\. "):
            vocabulary.token(len(vocabulary))
        with pytest.raises(ValueError, match=r"0 \.\. "):
            vocabulary.token(-1)


@pytest.mark.parametrize("vocabulary", [Characters(" ab"), Words(("a", "ab"))])
def test_sos_and_eos_stand_where_asked_and_are_not_decoded(vocabulary):
    plain = vocabulary.encode("a ab").tolist()
    assert vocabulary.encode("a ab", sos=True).tolist() == [SOS, *plain]
    assert vocabulary.encode("a ab", eos=True).tolist() == [*plain, EOS]
    assert vocabulary.encode("", sos=True, eos=True).tolist() == [SOS, EOS]
    assert vocabulary.encode("").dtype == np.int32
    assert vocabulary.decode([PAD, SOS, *plain, EOS, PAD]) == "a ab"


def test_no_text_spells_a_special_token():
    text = " <pad> <sos> <eos> <unk> "
    assert Words.of("a " + text).words == ("a",)
    assert Words.of("a").encode(text).tolist() == [UNK] * 4
    ids = Characters.of(text).encode(text)
    assert len(ids) == len(text)
    assert ids.min() > EOS


@needs_tokenizers
def test_no_text_teaches_byte_pairs_a_special_token():
    text = "<pad> <eos> " * 50
    vocabulary = BytePairs.of(text, size=300)
    assert "pad" in vocabulary.tokens
    ids = vocabulary.encode(text)
    assert ids.min() > EOS
    assert vocabulary.decode(ids) == text


def test_lines_end_with_eos():
    vocabulary = Words(("a", "b"))
    assert vocabulary.encode_lines(" a b \n\nc\n").tolist() == [4, 5, EOS, EOS, UNK, EOS]
    assert vocabulary.encode_lines("a").tolist() == [4, EOS]
    assert vocabulary.encode_lines("").tolist() == []
    assert vocabulary.encode_lines("").dtype == np.int32
    assert vocabulary.decode_lines([4, EOS, PAD, EOS, SOS, 5]) == "a\n\nb"


@given(ANY_TEXT)
@example("\n")
@example("a\x0bb\u2028c\rd")  # line ends to str.splitlines, not to us
def test_lines_round_trip(text):
    vocabulary = Characters.of("x" + text.replace("\n", ""))
    ids = vocabulary.encode_lines(text)
    assert np.sum(ids == EOS) == text.count("\n") + (text != "" and not text.endswith("\n"))
    expected = text if text == "" or text.endswith("\n") else text + "\n"
    assert vocabulary.decode_lines(ids) == expected


# Characters


@given(SOME_TEXT)
def test_characters_round_trip_any_unicode(text):
    vocabulary = Characters.of(text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32
    assert vocabulary.decode(ids) == text
    assert len(vocabulary) == len(set(text)) + 4 == len(vocabulary.tokens)
    assert [vocabulary.token(i) for i in ids] == list(text)
    every_id = np.arange(4, len(vocabulary))
    np.testing.assert_array_equal(vocabulary.encode(vocabulary.decode(every_id)), every_id)


@given(ANY_TEXT, ANY_TEXT)
def test_unknown_characters_keep_their_place(known, text):
    vocabulary = Characters("".join(sorted(set(known))))
    ids = vocabulary.encode(text)
    assert [i == UNK for i in ids] == [char not in known for char in text]
    expected = "".join(char if char in known else "\ufffd" for char in text)
    assert vocabulary.decode(ids) == expected


def test_characters_by_hand():
    vocabulary = Characters.of("hello")
    assert vocabulary == Characters("ehlo")
    assert len(vocabulary) == 8
    assert vocabulary.encode("oh, hell").tolist() == [7, 5, UNK, UNK, 5, 4, 6, 6]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_korean_syllables_and_jamo_stay_what_they_are(form):
    text = unicodedata.normalize(form, "안녕하세요 세계")
    vocabulary = Characters.of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert len(vocabulary) == 4 + len(set(text))
    assert Words.of(text).words == tuple(sorted(text.split()))


@pytest.mark.parametrize("symbols", ["ba", "aa"])
def test_characters_must_be_sorted_and_distinct(symbols):
    with pytest.raises(ValueError, match="sorted and distinct"):
        Characters(symbols)


# Words


@given(WORDS, st.data())
def test_words_round_trip_what_they_know(words, data):
    vocabulary = Words(tuple(words))
    blanks = st.sampled_from([" ", "\n", "  \t", "\u3000"])
    drawn = data.draw(st.lists(st.sampled_from(words)))
    text = "".join(word + data.draw(blanks) for word in drawn)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32
    assert vocabulary.decode(ids) == " ".join(text.split())
    np.testing.assert_array_equal(vocabulary.encode(vocabulary.decode(ids)), ids)


def test_words_come_by_count_and_ties_by_code_point():
    text = "b a c b ä a Z d d d <unk> <unk> <unk> <unk>"
    assert Words.of(text).words == ("d", "a", "b", "Z", "c", "ä")
    assert Words.of(text, min_count=2).words == ("d", "a", "b")
    assert Words.of(text, max_size=6).words == ("d", "a")
    assert len(Words.of(text, max_size=6)) == 6
    assert Words.of(text, max_size=100) == Words.of(text)


def test_unknown_words_are_shown_and_read_as_unknown():
    vocabulary = Words(("a",))
    assert vocabulary.encode("a b <unk> A").tolist() == [4, UNK, UNK, UNK]
    assert vocabulary.decode([4, UNK]) == "a <unk>"
    np.testing.assert_array_equal(vocabulary.encode(vocabulary.decode([UNK, 4])), [UNK, 4])


@pytest.mark.parametrize("words", [("a", "a"), ("a b",), ("",), ("<eos>",), ("a\n",)])
def test_what_is_no_word_is_refused(words):
    with pytest.raises(ValueError, match="words must"):
        Words(words)


def test_penn_treebank_as_words(monkeypatch):
    beside = Path(__file__).parents[2] / "shared" / "data"
    mirror = Path(os.environ.get("SEQLAB_DATA_MIRROR") or beside)
    if not (mirror / "ptb").is_dir():
        pytest.skip(f"no {mirror / 'ptb'}: set SEQLAB_DATA_MIRROR to a folder with ptb/ in it")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(mirror))
    text = load_text("ptb")
    vocabulary = Words.of(text)
    assert len(vocabulary) == 10_000 + 2  # with <unk> and <eos> as published; <pad> and <sos>
    ids = vocabulary.encode_lines(text)
    assert len(ids) == 929_589
    assert np.sum(ids == EOS) == 42_068
    assert np.sum(ids == UNK) == text.split().count("<unk>") == 45_020
    assert vocabulary.words[:3] == ("the", "N", "of")
    assert vocabulary.decode(ids) == " ".join(text.split())


# Byte pairs


@needs_tokenizers
@settings(max_examples=50)
@given(SOME_TEXT, ANY_TEXT)
@example("a\u2581b\x00", "\u2581 \u2581\x00")
@example("x", split_high_low() + "a\udfff")
def test_byte_pairs_round_trip_any_unicode(learnt, text):
    for vocabulary in (BytePairs.of(ENGLISH, size=300), BytePairs.of(learnt, size=280)):
        ids = vocabulary.encode(text)
        assert ids.dtype == np.int32
        assert not ids.size or EOS < ids.min() <= ids.max() < len(vocabulary)
        assert vocabulary.decode(ids) == text
        np.testing.assert_array_equal(vocabulary.encode(vocabulary.decode(ids)), ids)


def joined_by_hand(vocabulary, word):
    """Byte pair encoding as defined: the earliest merge first, wherever it stands."""
    pieces = [bytes([byte]) for byte in word.encode()]
    for left, right in vocabulary.merges:
        pair = (vocabulary._pieces[left], vocabulary._pieces[right])
        at = 0
        while at + 1 < len(pieces):
            if (pieces[at], pieces[at + 1]) == pair:
                pieces[at : at + 2] = [b"".join(pair)]
            at += 1
    return [vocabulary._pieces.index(piece, 4) for piece in pieces]


@needs_tokenizers
def test_byte_pairs_are_joined_in_the_order_of_their_merges():
    vocabulary = BytePairs.of(ENGLISH, size=280)
    assert len(vocabulary) == 280
    assert vocabulary.merges[0] == (4 + ord("h"), 4 + ord("e"))  # the most frequent pair
    assert vocabulary.token(260) == "he"
    for word in ("the", "other", "thethe", "mattress", "caté"):
        assert vocabulary.encode(word).tolist() == joined_by_hand(vocabulary, word)
    assert len(vocabulary.encode(ENGLISH)) < 0.6 * len(ENGLISH)


@needs_tokenizers
def test_byte_pairs_of_a_text_are_the_same_in_every_process():
    code = (
        "from seqlab.data.text import embedded_text\n"
        "from seqlab.data.vocabulary import BytePairs\n"
        "print(BytePairs.of(embedded_text()[:60_000], size=600).digest)"
    )
    digests = set()
    for threads, hash_seed in (("1", "1"), ("4", "2"), ("4", "3")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


@needs_tokenizers
def test_a_short_text_gives_fewer_byte_pairs_than_asked():
    vocabulary = BytePairs.of("abab", size=1000)
    assert vocabulary.merges == ((4 + ord("a"), 4 + ord("b")),)
    assert len(vocabulary) == 261


def test_bytes_that_are_no_text_are_decoded_as_what_cannot_be_read():
    vocabulary = BytePairs(())
    assert vocabulary.decode([4 + 0xEA, 4 + ord("a"), UNK]) == "\ufffda\ufffd"
    assert vocabulary.token(4 + 0xEA) == "\\xea"


def test_two_merges_to_the_same_bytes_are_one_token():
    a = 4 + ord("a")
    vocabulary = BytePairs(((a, a), (a, 260), (260, a)))
    assert len(vocabulary) == 262
    assert vocabulary.tokens[260:] == ("aa", "aaa")


@pytest.mark.parametrize("merges", [((4, 260),), ((0, 5),), ((5, 5), (5, 5))])
def test_merges_that_cannot_be_are_refused(merges):
    with pytest.raises(ValueError, match="merge"):
        BytePairs(merges)


def test_without_tokenizers_there_is_one_line_and_decoding(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "pip install 'seqlab[subword]'" in failure(BytePairs.of, "text", size=300)
    vocabulary = BytePairs(())
    assert "pip install" in failure(vocabulary.encode, "text")
    assert vocabulary.decode([4 + ord("a")]) == "a"


# What every kind has in common


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Characters.of(""), "text is empty"),
        (lambda: Words.of(" \n"), "text has no words"),
        (lambda: Words.of("<unk> <unk>"), "text has no words"),
        (lambda: Words.of("a b b", min_count=3), "min_count 3 leaves no word.* seen 2 times"),
        (lambda: Words.of("a", min_count=0), "min_count must be 1 or more"),
        (lambda: Words.of("a", max_size=4), "max_size must be 5 or more"),
        (lambda: BytePairs.of("a", size=259), "size must be 260 or more"),
        (lambda: BytePairs.of("", size=300), "text is empty"),
    ],
)
def test_what_makes_no_vocabulary_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("vocabulary", [Characters("ab"), Words(("a", "b")), BytePairs(())])
def test_decode_refuses_what_are_no_ids(vocabulary):
    for ids in ([len(vocabulary)], [-1]):
        with pytest.raises(ValueError, match=rf"0 \.\. {len(vocabulary) - 1}"):
            vocabulary.decode(np.array(ids))
    for ids in ([[4]], [4.0], 4):
        with pytest.raises(ValueError, match="one axis of whole numbers"):
            vocabulary.decode(np.array(ids))
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize(
    ("one", "equal", "other"),
    [
        (Characters("ab"), Characters.of("abba"), Characters("abc")),
        (Words(("a", "b")), Words.of("a b a"), Words(("b", "a"))),
        (BytePairs(((4, 4),)), BytePairs(((4, 4),)), BytePairs(())),
    ],
)
def test_vocabularies_are_values(one, equal, other):
    assert one == equal
    assert hash(one) == hash(equal)
    assert one.digest == equal.digest
    assert one != other
    assert one.digest != other.digest
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, dataclasses.fields(one)[0].name, "")


def test_digests_do_not_change_between_versions():
    assert Characters("ab").digest[:16] == "f43accc4e4ac3bf5"
    assert Words(("a", "b")).digest[:16] == "6daa0129759a01b9"
    assert BytePairs(((4, 4),)).digest[:16] == "1e8376abcdc2443e"


@given(SOME_TEXT, WORDS, st.lists(st.tuples(st.integers(4, 259), st.integers(4, 259)), unique=True))
@example(split_high_low(), [split_high_low()], [])
def test_json_round_trip_of_any_vocabulary(text, words, merges):
    for vocabulary in (Characters.of(text), Words(tuple(words)), BytePairs(tuple(merges))):
        assert through_json(vocabulary) == vocabulary


@settings(max_examples=30)
@given(SOME_TEXT, WORDS)
@example(split_high_low(), [split_high_low(), "\x00"])
def test_file_round_trip(tmp_path, text, words):
    for vocabulary in (Characters.of(text), Words(tuple(words)), BytePairs(((4, 4),))):
        vocabulary.save(tmp_path / "vocabulary.json")
        assert load_vocabulary(tmp_path / "vocabulary.json") == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


@pytest.mark.parametrize("change", ["cut", "letter", "kind", "other", "list", "latin-1", "empty"])
def test_damaged_files_are_refused(tmp_path, change):
    path = tmp_path / "vocabulary.json"
    Words(("alpha", "beta")).save(path)
    content = path.read_bytes()
    damaged = {
        "cut": content[:-10],
        "letter": content.replace(b"beta", b"bete"),
        "kind": content.replace(b'"words",', b'"wards",'),
        "other": b"{}",
        "list": b"[1]",
        "latin-1": content.replace(b"beta", b"b\xeate"),
        "empty": b"",
    }[change]
    assert damaged != content
    path.write_bytes(damaged)
    assert str(path) in failure(load_vocabulary, path)


def test_missing_file_and_missing_folder(tmp_path):
    path = tmp_path / "nowhere" / "vocabulary.json"
    assert str(path) in failure(load_vocabulary, path)
    assert str(path) in failure(Characters("a").save, path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "vocabulary.json"
    Characters("a").save(path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    assert "No space left" in failure(Characters("ab").save, path)
    assert load_vocabulary(path) == Characters("a")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"kind": "letters"},
        {"kind": "characters"},
        {"kind": "characters", "symbols": "ba"},
        {"kind": "characters", "symbols": [97.0]},
        {"kind": "characters", "symbols": [2**40]},
        {"kind": "words", "words": "ab"},
        {"kind": "words", "words": ["a", "a"]},
        {"kind": "words", "words": [None]},
        {"kind": "byte-pairs", "merges": [[4, 4, 4]]},
        {"kind": "byte-pairs", "merges": [4]},
        {"kind": "byte-pairs", "merges": [[4, 999]]},
        {"kind": "byte-pairs", "merges": [[4, True]]},
    ],
)
def test_json_that_is_no_vocabulary_is_refused(value):
    assert "not a vocabulary" in failure(vocabulary_from_json, value)


def test_importing_brings_in_nothing_heavy():
    code = (
        "import sys, seqlab.data.vocabulary, seqlab.data.batching\n"
        "print(*{'jax', 'grain', 'tokenizers', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_utf8_steps_allow_exactly_what_python_can_decode():
    vocabulary = BytePairs.of("안녕하세요, 친구들. 좋은 아침입니다! 좋은 친구들 😀😀 é", size=290)
    steps = vocabulary.utf8_steps
    assert steps.shape == (8, len(vocabulary))
    assert (steps[:, :4] == -1).all()  # special tokens
    rng = np.random.default_rng(0)

    def whole(ids):
        state = 0
        for i in ids:
            state = int(steps[state, i]) if state >= 0 else -1
        return state

    for text in ("안녕 é 😀", "ascii", "\U0010ffff\ud7ff\ue000\u0800\x80"):
        assert whole(vocabulary.encode(text)) == 0
    # Every two bytes, and bytes at random where every limit of the encoding is near.
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC,
             0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]  # fmt: skip
    tried = [bytes([a, b]) for a in range(256) for b in range(256)]
    tried += [bytes(rng.choice(edges, size=rng.integers(1, 6))) for _ in range(5000)]
    for content in tried:
        state = whole([4 + byte for byte in content])
        try:
            content.decode()
            assert state == 0, content
        except UnicodeDecodeError as error:
            unfinished = "unexpected end" in str(error)
            assert (state > 0) == unfinished, content
            assert state != 0, content
