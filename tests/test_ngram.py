"""n-gram models: the published figures, the definitions, another library's numbers, odd texts."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data.text import text_blocks, text_parts
from seqlab.data.vocabulary import EOS, PAD, SOS, UNK, BytePairs, Characters, Words
from seqlab.errors import InputError
from seqlab.ngram import SMOOTHINGS, count_ngrams, fit
from seqlab.ngram.sorting import find, sort_with

PROBABILITIES = [name for name in SMOOTHINGS if name != "stupid-backoff"]
SMOOTH = [name for name in PROBABILITIES if name != "maximum-likelihood"]
ABC = Words(("a", "b", "c", "d"))
TEXT = "a b a c\nb a\n\na b b a c a b\nc c a b a\nb\na b a c b\n"


def model_of(text, order, smoothing=SMOOTHINGS[0], vocabulary=ABC, **options):
    return fit(count_ngrams(vocabulary.encode_lines(text), order, vocabulary), smoothing, **options)


# --- the published figures

PTB = {  # order: distinct n-grams, valid, test, test with a single discount
    2: (264_990, 199.02, 185.70, 186.80),
    3: (586_558, 157.77, 148.28, 150.60),
    4: (717_733, 149.90, 142.72, 145.10),
    5: (737_952, 148.01, 141.19, 143.51),
    6: (720_648, 147.36, 140.84, 143.13),
}


@pytest.fixture(scope="module")
def ptb():
    """Counts of Penn Treebank up to order 6, and the ids of its parts."""
    try:
        parts = text_parts("ptb")
    except InputError as error:
        pytest.skip(f"Penn Treebank is not at hand: {error}")
    vocabulary = Words.of(parts["train"])
    ids = {name: vocabulary.encode_lines(text) for name, text in parts.items()}
    return count_ngrams(ids["train"], 6, vocabulary), ids


@pytest.mark.slow
@pytest.mark.parametrize("order", PTB)
def test_penn_treebank_as_published(ptb, order):
    counts, ids = ptb
    distinct, valid, test, single = PTB[order]
    assert counts.num_tokens == 929_589
    assert counts.num_distinct[order - 1] == distinct
    model = fit(counts.up_to(order))
    assert model.num_predictable == 10_000
    assert model.score_tokens(ids["valid"]).perplexity == pytest.approx(valid, abs=0.005)
    scores = model.score_tokens(ids["test"])
    assert len(scores) == 82_430
    assert scores.perplexity == pytest.approx(test, abs=0.005)
    plain = fit(counts.up_to(order), "kneser-ney")
    assert plain.score_tokens(ids["test"]).perplexity == pytest.approx(single, abs=0.005)
    assert model.fallback_orders == ()


@pytest.mark.slow
def test_discounts_of_penn_treebank_as_published(ptb):
    expected = [
        (0.2566, 0.8289, 1.2623), (0.7278, 1.0988, 1.4713), (0.8689, 1.2546, 1.4482),
        (0.9428, 1.3831, 1.4317), (0.9597, 1.3879, 1.2417),
    ]  # fmt: skip
    np.testing.assert_allclose(fit(ptb[0].up_to(5)).discounts, expected, atol=5e-5)


# --- the definitions


def test_modified_kneser_ney_by_hand():
    """Two sentences, "a b" and "a"; too few for discounts of their own: 1/2, 1 and 3/2."""
    words = Words(("a", "b"))
    model = model_of("a b\na\n", 2, vocabulary=words)
    assert model.fallback_orders == (1, 2)
    assert model.discounts == ((0.5, 1.0, 1.5),) * 2
    a, b = 4, 5
    # Different words before: a 1 (<sos>), b 1 (a), <eos> 2 (a, b); of 4 in all. V = 4 with <unk>.
    # gamma = (1/2 + 1/2 + 1) / 4 = 1/2, a quarter of it for each word: 1/8.
    unigrams = {a: 1 / 8 + 1 / 8, b: 1 / 8 + 1 / 8, EOS: 1 / 4 + 1 / 8, UNK: 1 / 8}
    expected = {
        (): unigrams,
        # c(a b) = 1, c(a <eos>) = 1, gamma(a) = (1/2 + 1/2) / 2 = 1/2.
        (a,): {a: 1 / 8, b: 1 / 4 + 1 / 8, EOS: 1 / 4 + 3 / 16, UNK: 1 / 16},
        # c(<sos> a) = 2, gamma(<sos>) = 1 / 2.
        (SOS,): {a: 1 / 2 + 1 / 8, b: 1 / 8, EOS: 3 / 16, UNK: 1 / 16},
        # c(b <eos>) = 1, gamma(b) = 1/2.
        (b,): {a: 1 / 8, b: 1 / 8, EOS: 1 / 2 + 3 / 16, UNK: 1 / 16},
        (UNK,): unigrams,  # never seen
    }
    for context, probs in expected.items():
        found = model.next_distribution(context)
        assert found[[PAD, SOS]].tolist() == [0, 0]
        for word, p in probs.items():
            assert found[word] == pytest.approx(p, abs=1e-15)
    scores = model.score_tokens(words.encode_lines("b a\n"))
    np.testing.assert_allclose(np.exp(scores.log_probs), [1 / 8, 1 / 8, 7 / 16], rtol=1e-14)


def by_the_recipe(sentences, order, context, word, vocab_size):
    """Interpolated modified Kneser-Ney, step by step as written, in fractions."""
    padded = [(SOS, *sentence, EOS) for sentence in sentences]
    raw = Counter(
        line[i - n : i] for line in padded for n in range(1, order + 1)
        for i in range(n, len(line) + 1) if line[i - n : i] != (SOS,)
    )  # fmt: skip

    def adjusted(n):
        grams = [gram for gram in raw if len(gram) == n]
        if n == order:
            return {gram: raw[gram] for gram in grams}
        before = Counter(gram[1:] for gram in raw if len(gram) == n + 1)
        return {gram: raw[gram] if gram[0] == SOS else before[gram] for gram in grams}

    def p(word, context):
        n = len(context) + 1
        below = Fraction(1, vocab_size) if n == 1 else p(word, context[1:])
        a = adjusted(n)
        n1, n2, n3, n4 = (sum(count == r for count in a.values()) for r in range(1, 5))
        d = [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2)]
        if n1 and n2 and n3 and n4:
            y = Fraction(n1, n1 + 2 * n2)
            own = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            d = own if all(0 < own[r] <= r for r in (1, 2, 3)) else d
        after = {gram[-1]: count for gram, count in a.items() if gram[:-1] == context}
        total = sum(after.values())
        if not total:
            return below
        gamma = sum(d[min(count, 3)] for count in after.values()) / Fraction(total)
        count = after.get(word, 0)
        return max(count - d[min(count, 3)], 0) / Fraction(total) + gamma * below

    return p(word, context)


sentences = st.lists(st.lists(st.integers(4, 6), max_size=9), min_size=1, max_size=12)


def ids_of(lines):
    return np.concatenate([[*line, EOS] for line in lines]).astype(np.int64)


@given(sentences, st.integers(1, 4), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_modified_kneser_ney_is_the_recipe(lines, order, test):
    order = min(order, max(map(len, lines)) + 2)
    model = fit(count_ngrams(ids_of(lines), order, ABC))
    test = [UNK if word in (SOS, EOS) else word for word in test]
    history = (SOS, *test[:-1])[-(order - 1) :] if order > 1 else ()
    expected = by_the_recipe(lines, order, history, test[-1], 6)
    found = model.score_tokens(np.array(test)).log_probs[-1]
    assert math.exp(found) == pytest.approx(float(expected), rel=1e-12)


@given(
    sentences, st.integers(1, 7), st.sampled_from(PROBABILITIES),
    st.lists(st.integers(1, 7), max_size=7), st.booleans(),
)  # fmt: skip
def test_every_distribution_sums_to_one_and_is_what_scoring_says(
    lines, order, smoothing, context, interpolate_unigrams
):
    order = min(order, max(map(len, lines)) + 2)
    model = fit(
        count_ngrams(ids_of(lines), order, ABC),
        smoothing,
        interpolate_unigrams=interpolate_unigrams,
    )
    found = model.next_distribution([SOS, *context])
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert model.next_distribution(context).sum() == pytest.approx(1, abs=1e-9)
    assert found[[PAD, SOS]].tolist() == [0, 0]
    text = np.array([UNK if word == SOS else word for word in context], np.int64)
    for word in (UNK, EOS, 4, 7):
        scored = model.score_tokens(np.append(text, word)).log_probs[-1]
        assert math.exp(scored) == pytest.approx(
            model.next_distribution([SOS, *text])[word], rel=1e-12
        )


@given(sentences, st.integers(1, 5), st.sampled_from(SMOOTH), sentences)
def test_no_perplexity_is_infinite(lines, order, smoothing, test):
    order = min(order, max(map(len, lines)) + 2)
    scores = fit(count_ngrams(ids_of(lines), order, ABC), smoothing).score_tokens(
        np.append(ids_of(test), UNK)
    )
    assert 1 <= scores.perplexity < 1e6
    assert scores.unknown.tolist() == [False] * (len(scores) - 1) + [True]


def test_maximum_likelihood_is_the_lectures_ratios():
    model = model_of("a b a\na b b\n", 3, "maximum-likelihood")
    a, b = 4, 5
    assert model.next_distribution()[a] == pytest.approx(3 / 8)  # c(a) / N, with two <eos>
    assert model.next_distribution([a])[b] == pytest.approx(2 / 3)  # c(a b) / c(a)
    assert model.next_distribution([a, b])[a] == pytest.approx(1 / 2)  # c(a b a) / c(a b)
    assert model.next_distribution([SOS])[a] == 1
    assert model.score_tokens(ABC.encode_lines("b\n")).perplexity == math.inf


def test_stupid_backoff_gives_scores_and_says_so():
    model = model_of("a b a\na b b\n", 3, "stupid-backoff")
    ids = ABC.encode_lines("a b b\na a\n")
    with pytest.raises(InputError, match="scores, not probabilities"):
        model.score_tokens(ids)
    found = np.exp(model.score_tokens(ids, unnormalised=True).log_probs)
    a_after_a = 0.4 * 0.4 * 3 / 8  # neither "<sos> a a" nor "a a" was seen
    end_after_aa = 0.4 * 1 / 3  # "a a" never, "a <eos>" once after three a
    np.testing.assert_allclose(found, [1, 1, 1 / 2, 1, 1, a_after_a, end_after_aa], rtol=1e-12)
    assert model.next_distribution([4, 4])[EOS] == pytest.approx(end_after_aa)


# --- another library's numbers


def nltk_model(kind, order, lines, *arguments, **options):
    """NLTK's model of the same n-grams: one <s>, never predicted, and one </s>."""
    lm = pytest.importorskip("nltk.lm", reason="nltk is not installed")
    padded = [["<s>", *line.split(), "</s>"] for line in lines]
    grams = [
        [
            tuple(line[i - n : i])
            for n in range(1, order + 1)
            for i in range(max(n, 2), len(line) + 1)
        ]
        for line in padded
    ]
    model = getattr(lm, kind)(*arguments, order, **options)
    # NLTK adds its <UNK>, which <s> is then looked up as: a context like any other.
    model.fit(grams, [word for line in padded for word in line[1:]])
    return model


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("smoothing", "kind", "arguments", "options"),
    [
        ("maximum-likelihood", "MLE", (), {}),
        ("add-k", "Lidstone", (0.3,), {"k": 0.3}),
        ("add-k", "Laplace", (), {"k": 1.0}),
        ("witten-bell", "WittenBellInterpolated", (), {}),
        ("absolute", "AbsoluteDiscountingInterpolated", (), {"discount": 0.75}),
        ("kneser-ney", "KneserNeyInterpolated", (), {"discount": 0.1}),
        ("stupid-backoff", "StupidBackoff", (0.4,), {}),
    ],
)
def test_nltk_agrees_where_it_defines_the_same_model(order, smoothing, kind, arguments, options):
    """Its unigrams are ratios (`interpolate_unigrams=False`).

    Kneser-Ney: its lower orders know no n-gram that begins a sentence, which is why contexts within
    a sentence alone are compared, of a text that is one sentence. Maximum likelihood: it gives 0
    after contexts that were never seen, and to be compared they have to be seen.
    """
    if kind == "KneserNeyInterpolated" and order == 1:
        pytest.skip("its unigrams are of bigrams, which a model of order 1 has not")
    text = TEXT.replace("\n", " ") if kind == "KneserNeyInterpolated" else TEXT
    lines = text.strip().split("\n")
    theirs = nltk_model(kind, order, lines, *arguments)
    ours = model_of(
        "\n".join(lines), order, smoothing, vocabulary=Words(("a", "b", "c")), **options,
        interpolate_unigrams=smoothing == "add-k",
    )  # fmt: skip
    compared = 0
    tokens = {"a": 4, "b": 5, "c": 6, "</s>": EOS}
    for line in [*lines, "a a b", "c b b a c"]:
        words = ["<s>", *line.split(), "</s>"]
        for i in range(1, len(words)):
            context = tuple(words[max(0, i - order + 1) : i])
            if kind == "KneserNeyInterpolated" and (len(context) < order - 1 or "<s>" in context):
                continue
            if kind == "MLE" and not theirs.context_counts(theirs.vocab.lookup(context)):
                continue
            ids = [SOS if word == "<s>" else tokens[word] for word in context]
            distribution = ours.next_distribution(ids)
            for word, token in tokens.items():
                assert distribution[token] == pytest.approx(theirs.score(word, context), abs=1e-12)
                compared += 1
    assert compared > 50


# --- counting


def test_counts_by_hand():
    counts = count_ngrams(ABC.encode_lines("a b a\na b b\n"), 3, ABC)
    a, b = 4, 5
    assert counts.num_tokens == 8
    assert counts.num_distinct == (3, 6, 5)
    for ngram, expected in {
        (a,): 3, (b,): 3, (EOS,): 2, (SOS,): 0, (a, b): 2, (SOS, a): 2, (b, EOS): 1, (a, a): 0,
        (SOS, a, b): 2, (a, b, a): 1, (a, EOS, a): 0, (b, b, EOS): 1, (a, a, a): 0,
    }.items():  # fmt: skip
        assert counts.of(*ngram) == expected
    with pytest.raises(InputError, match="order 3"):
        counts.of(a, b, a, b)
    with pytest.raises(InputError, match=r"1 \.\. 3"):
        counts.up_to(4)


@given(
    sentences, st.integers(1, 5), st.integers(1, 30),
    st.lists(st.integers(0, 60), max_size=4),
)  # fmt: skip
def test_counts_on_disk_are_those_in_memory(tmp_path, lines, order, max_tokens, cuts):
    ids = ids_of(lines)
    order = min(order, max(map(len, lines)) + 2)
    expected = count_ngrams(ids, order, ABC)
    chunks = np.split(ids, sorted(cut % (len(ids) + 1) for cut in cuts))
    found = count_ngrams(iter(chunks), order, ABC, folder=tmp_path, max_tokens=max_tokens)
    assert found.num_tokens == expected.num_tokens
    for one, two in zip(found.tables, expected.tables, strict=True):
        for name in ("keys", "counts", "suffixes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("runs-")]


def test_a_file_is_counted_by_the_block(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode() * 5)
    vocabulary = Words.of(text_blocks(path, 10))
    assert vocabulary == Words.of(TEXT * 5)
    blocks = list(text_blocks(path, 10))
    assert len(blocks) > 10
    assert "".join(blocks) == TEXT * 5
    ids = (vocabulary.encode_lines(block) for block in blocks)
    found = count_ngrams(ids, 3, vocabulary, folder=tmp_path / "counts", max_tokens=7)
    whole = fit(count_ngrams(vocabulary.encode_lines(TEXT * 5), 3, vocabulary))
    for one, two in zip(fit(found).levels, whole.levels, strict=True):
        np.testing.assert_array_equal(one.log10_probs, two.log10_probs)


def test_a_file_that_cannot_be_read_by_the_block(tmp_path):
    path = tmp_path / "text.txt"
    for content, words in (
        (b"", "is empty"), (b" \n\n", "is empty"), (b"a\nb\xff", "byte 0xff, line 2"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            list(text_blocks(path, 1))
    with pytest.raises(InputError, match="cannot read"):
        list(text_blocks(tmp_path / "missing.txt"))


@given(st.lists(st.integers(0, 2**40), max_size=30), st.sampled_from([2**5, 2**30]))
def test_sorting_with_places_is_a_stable_argsort(keys, place_bound):
    keys, places = np.array(keys, np.int64), np.arange(len(keys))
    order = np.argsort(keys, kind="stable")
    found = sort_with(keys, places, 2**40 + 1, place_bound)  # 41 + 5 bits are few, 41 + 30 many
    np.testing.assert_array_equal(found[0], keys[order])
    np.testing.assert_array_equal(found[1], order)


def test_find_tells_what_is_not_there():
    keys = np.array([2, 3, 7])
    np.testing.assert_array_equal(find(keys, np.array([7, 1, 3, 9, -1, 2])), [2, -1, 1, -1, -1, 0])
    np.testing.assert_array_equal(find(keys[:0], np.array([7, 1])), [-1, -1])


def test_memory_is_told_beside_that_of_a_full_table():
    model = model_of(TEXT, 3)
    assert model.full_bytes_by_order == (8 * 6, 8 * 36, 8 * 216)
    assert model.bytes_by_order[1] == 24 * len(model.levels[1])
    assert model.bytes_by_order[2] == 16 * len(model.levels[2])
    assert model.num_parameters == sum(
        len(level) * (2 if n < 2 else 1) for n, level in enumerate(model.levels)
    )


# --- texts of other kinds

KOREAN = "나는 학교에 간다\n나는 집에 간다\n너는 학교에 온다\n우리는 집에 온다\n나는 너를 본다\n"


@pytest.mark.parametrize("kind", ["characters", "words", "byte pairs"])
def test_korean(kind):
    if kind == "byte pairs":
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
        vocabulary = BytePairs.of(KOREAN, size=300)
    else:
        vocabulary = (Characters if kind == "characters" else Words).of(KOREAN)
    encode = vocabulary.encode_lines if kind == "words" else vocabulary.encode
    model = fit(count_ngrams(encode(KOREAN), 3, vocabulary))
    unseen = "너는 집에 간다\n"
    scores = model.score_tokens(encode(unseen), num_characters=len(unseen))
    assert scores.unknown_rate == 0
    uniform = math.log2(model.num_predictable) * len(scores) / len(unseen)
    assert scores.bits_per_character < 0.8 * uniform
    jumbled = "다집 는너에간\n" if kind != "words" else "간다 너는 집에\n"
    assert model.score_tokens(encode(jumbled)).perplexity > 1.2 * scores.perplexity
    assert set(model.generate(40, prime="나는 ", seed=1, top_k=3)) <= set(KOREAN) | {
        "\N{REPLACEMENT CHARACTER}"
    }
    assert ("sentence" in scores.carry) == (kind == "words")
    missing = {"characters": "character 'x'", "words": "word '나는x'"}.get(kind)
    if missing:
        with pytest.raises(InputError, match=missing):
            model.generate(5, prime="나는x")


def test_characters_see_across_lines():
    vocabulary = Characters.of("ab\n")
    model = fit(count_ngrams(vocabulary.encode("ab\nab\nab\n"), 4, vocabulary), "witten-bell")
    a = vocabulary.encode("a")[0]
    assert model.next_distribution(vocabulary.encode("b\n"))[a] > 0.5
    assert model.num_predictable == 4  # three characters and <unk>; nothing ends
    assert model.next_distribution()[EOS] == 0
    with pytest.raises(InputError, match="trained on a text without"):
        model.score_tokens(vocabulary.encode_lines("ab\n"))


# --- samples


def test_samples_follow_the_distribution_and_the_seed():
    model = model_of(TEXT, 2)
    one, two = (model.sample(4000, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (model.sample(50, seed=4) != one[:50]).any()
    after_a = one[1:][one[:-1] == 4]
    found = np.bincount(after_a, minlength=8) / len(after_a)
    np.testing.assert_allclose(found, model.next_distribution([4]), atol=0.04)


def test_temperature_and_top_k_narrow_a_sample():
    model = model_of(TEXT, 2)
    best = int(np.argmax(model.next_distribution([SOS])))
    for narrow in ({"top_k": 1}, {"temperature": 1e-3}):
        assert {int(model.sample(1, seed=seed, **narrow)[0]) for seed in range(20)} == {best}
    probs = model.next_distribution([SOS])
    drawn = [int(model.sample(1, seed=seed, top_k=2)[0]) for seed in range(100)]
    assert set(drawn) == set(np.argsort(-probs, kind="stable")[:2].tolist())
    hot = [int(model.sample(1, seed=seed, temperature=1e6)[0]) for seed in range(600)]
    assert np.bincount(hot, minlength=8)[[UNK, EOS, 4, 5, 6, 7]].min() > 60  # nearly uniform


def test_a_prime_is_gone_on_with():
    words = Words.of("the cat sat\nthe dog ran\n")
    model = fit(count_ngrams(words.encode_lines("the cat sat\nthe dog ran\n"), 3, words))
    assert model.generate(1, prime="the cat", top_k=1) == "sat"
    assert model.generate(2, prime="the dog ran\nthe cat", top_k=1) == "sat\n"
    with pytest.raises(InputError, match="the word 'cow' is not in the vocabulary"):
        model.generate(1, prime="the cow")
    assert model.generate(1, prime="the <unk>")  # spelled as the vocabulary spells it
    with pytest.raises(InputError, match="temperature"):
        model.generate(1, temperature=0)
    with pytest.raises(InputError, match="top_k"):
        model.generate(1, top_k=0)


# --- what cannot be used


@pytest.mark.parametrize(
    ("ids", "order", "words"),
    [
        ([], 2, "text is empty"),
        ([4, EOS], 0, r"order must be in 1 \.\. 7, got 0"),
        ([4, EOS], 8, r"order must be in 1 \.\. 7, got 8"),
        ([4, EOS, 5, 4, EOS], 5, "order 5 is larger than any sentence.*order of 4 or less"),
        ([4, 9, EOS], 2, r"id 1 of the text is 9: ids are in 0 \.\. 7"),
        ([4, PAD, EOS], 2, "id 1 of the text is 0"),
        ([SOS, 4, EOS], 2, "id 0 of the text is 2"),
        ([4.5, 3.0], 2, "whole numbers"),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_counted(ids, order, words, tmp_path):
    ids = np.array(ids, None if ids else np.int64)
    for folder in (None, tmp_path / "counts"):
        with pytest.raises(InputError, match=words):
            count_ngrams(ids, order, ABC, folder=folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        count_ngrams(np.array([4, EOS]), 2, ABC, folder=tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smoothing": "kneser-nay"}, "did you mean 'kneser-ney'"),
        ({"smoothing": "add-k", "k": 0}, "k must be above 0"),
        ({"discount": 1.5}, "discount of a count of 1"),
        ({"discount": (0.5, 0.5)}, "one number, or"),
        ({"smoothing": "stupid-backoff", "backoff": -1}, "backoff"),
    ],
)
def test_a_smoothing_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        model_of(TEXT, 2, **options)


def test_a_text_that_cannot_be_scored():
    model = model_of(TEXT, 2)
    for ids, words in (([4, 9], "id 1 of the text is 9"), ([SOS, 4], "id 0"), ([], "empty")):
        with pytest.raises(InputError, match=words):
            model.score_tokens(np.array(ids, np.int64))
    with pytest.raises(InputError, match="context"):
        model.next_distribution([4, 99])
