import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data.vocabulary import PAD, SPECIALS, UNK, Characters, Words
from seqlab.embeddings import Vectors, nearest, neighbour_overlap
from seqlab.errors import InputError

V, D = 300, 12


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=(V, 1)))  # lengths differ, so that units matter
    return Vectors([f"w{i}" for i in range(V)], (scale * rng.normal(size=(V, D))).astype("f4"))


def gensim_of(vectors):
    keyed = pytest.importorskip("gensim.models.keyedvectors")
    peer = keyed.KeyedVectors(vectors.vector_size, dtype=vectors.vectors.dtype)
    peer.add_vectors(list(vectors.words), vectors.vectors.copy())
    return peer


def failure(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_answers(found, expected):
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)


# The record


def test_a_record_knows_its_words(vectors):
    assert len(vectors) == V
    assert "w7" in vectors
    assert "W7" not in vectors
    assert vectors.index("w7") == 7
    np.testing.assert_array_equal(vectors["w7"], vectors.vectors[7])
    np.testing.assert_array_equal(vectors[["w7", "w2"]], vectors.vectors[[7, 2]])
    assert repr(vectors) == "Vectors(300 words, 12 dimensions, float32)"
    np.testing.assert_allclose(np.linalg.norm(vectors.units, axis=1), 1.0, rtol=1e-6)


def test_nothing_in_a_record_can_be_written_to():
    array, counts = np.ones((2, 3), np.float32), np.array([4, 2])
    vectors = Vectors(("a", "b"), array, counts)
    array[0], counts[0] = 7, 1
    np.testing.assert_array_equal(vectors.vectors, np.ones((2, 3)))
    np.testing.assert_array_equal(vectors.counts, [4, 2])
    for mine in (vectors.vectors, vectors["a"], vectors.counts, vectors.units):
        with pytest.raises(ValueError, match="read-only"):
            mine[0] = 1


@pytest.mark.parametrize(
    ("words", "array", "counts", "complaint"),
    [
        (["a", "a"], np.ones((2, 3)), None, "'a' is not"),
        (["a"], np.ones((2, 3)), None, "row for each of 1 words"),
        ([], np.ones((0, 3)), None, "row for each"),
        (["a"], np.ones((1, 0)), None, "row for each"),
        (["a"], np.ones((1, 3), int), None, "float32 or float64"),
        (["a", "b"], np.array([[1.0], [np.nan]]), None, "'b' is not"),
        (["a", "b"], np.ones((2, 3)), [1, 2], "most frequent"),
        (["a", "b"], np.ones((2, 3)), [1], "one for each"),
    ],
)
def test_what_makes_no_record_is_refused(words, array, counts, complaint):
    with pytest.raises(ValueError, match=complaint):
        Vectors(words, array, counts)


def test_an_unknown_word_is_named_with_words_of_similar_spelling():
    vectors = Vectors(("king", "queen", "cat"), np.eye(3, dtype=np.float32))
    calls = {
        "index": ["kign"],
        "similarity": ["cat", "kign"],
        "most_similar": [["kign"]],
        "most_similar_cosmul": [["kign"]],
        "doesnt_match": [["kign", "cat"]],
        "n_similarity": [["cat"], ["kign"]],
        "rank": ["kign", "cat"],
        "distances": ["cat", ["kign"]],
        "__getitem__": ["kign"],
    }
    for name, arguments in calls.items():
        message = failure(getattr(vectors, name), *arguments)
        assert "'kign'" in message, name
        assert "'king'" in message, name
    assert "none" in failure(vectors.index, "zz\n" * 99)


# Answers, by hand


def test_neighbours_are_those_of_all_cosines(vectors):
    queries = np.random.default_rng(1).normal(size=(37, D)).astype(np.float32)
    exclude = np.full((37, 3), -1)
    exclude[:, 1] = np.arange(37)
    cosines = queries.astype(float) @ vectors.units.astype(float).T
    cosines /= np.linalg.norm(queries, axis=1, keepdims=True)
    cosines[np.arange(37), np.arange(37)] = -2
    for limit in (None, 40, 64, 299):
        found = vectors.neighbours(queries, 7, exclude=exclude, restrict_vocab=limit)
        searched = cosines[:, :limit]
        np.testing.assert_array_equal(found.indices, np.argsort(-searched)[:, :7])
        np.testing.assert_allclose(found.scores, -np.sort(-searched)[:, :7], atol=1e-6)
        assert found.indices.dtype == np.int32


def test_neighbours_do_not_depend_on_the_blocks(vectors, monkeypatch):
    queries = np.random.default_rng(1).normal(size=(37, D)).astype(np.float32)
    whole = vectors.neighbours(queries, 5)
    for scores in (1, 300 * 8):
        monkeypatch.setattr(nearest, "BLOCK_SCORES", scores)
        parts = vectors.neighbours(queries, 5)
        np.testing.assert_array_equal(parts.indices, whole.indices)
        np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)


def test_no_more_neighbours_than_there_are(vectors):
    few = Vectors(vectors.words[:5], vectors.vectors[:5])
    found = few.neighbours(few.vectors[:1], 9, exclude=np.array([[0, 3]]))
    assert sorted(found.indices[0, :3].tolist()) == [1, 2, 4]
    np.testing.assert_array_equal(found.indices[0, 3:], [-1, -1])
    assert np.isneginf(found.scores[0, 3:]).all()
    assert len(few.most_similar("w0", topn=100)) == 4
    assert few.neighbours(np.empty((0, D)), 3).indices.shape == (0, 3)


def test_of_equals_the_first_comes_first():
    vectors = Vectors("abcd", np.array([[1, 0], [0, 1], [2, 0], [3, 0]], np.float32))
    found = vectors.neighbours(np.array([[3, 4]]), 4)  # whole numbers are numbers too
    np.testing.assert_allclose(found.scores, [[0.8, 0.6, 0.6, 0.6]], rtol=1e-6)
    np.testing.assert_array_equal(found.indices, [[1, 0, 2, 3]])
    assert vectors.most_similar(np.array([1, 0])) == [("a", 1), ("c", 1), ("d", 1), ("b", 0)]


def test_a_zero_vector_has_cosine_0_with_all():
    vectors = Vectors("abc", np.array([[0, 0], [1, 0], [0, 2]], np.float32))
    assert vectors.most_similar("a") == [("b", 0), ("c", 0)]
    assert vectors.most_similar("b") == [("a", 0), ("c", 0)]
    assert vectors.most_similar(["b", "c"], ["b", "c"])[0] == ("a", 0)
    assert vectors.similarity("a", "b") == vectors.similarity("a", "a") == 0
    assert vectors.n_similarity(["a"], ["b"]) == 0
    np.testing.assert_array_equal(vectors.distances("a"), [1, 1, 1])
    assert vectors.doesnt_match(["b", "a"]) == "a"
    assert vectors.rank("a", "b") == 1
    assert all(np.isfinite(score) for _, score in vectors.most_similar_cosmul("a", "b"))


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float32, 1e30), (np.float32, 1e-35), (np.float64, 1e200)]
)
def test_units_do_not_overflow(dtype, size):
    vectors = Vectors("ab", np.array([[3, 4], [4, 3]], dtype) * dtype(size))
    np.testing.assert_allclose(vectors.units, [[0.6, 0.8], [0.8, 0.6]], rtol=1e-6)
    assert vectors.most_similar("a")[0][1] == pytest.approx(0.96, rel=1e-6)


def test_float64_is_searched_in_float64_where_jax_has_it(x64):
    array = np.array([[1, 0], [1, 1e-9], [1, 2e-9]])
    found = Vectors("abc", array).neighbours(np.array([[1, 3e-9]]), 3)
    assert found.scores.dtype == np.float64
    # 1 - cos is 2e-18 here: not even float64 tells them apart by cosine, but the angle to -y does.
    turned = Vectors("abc", array).neighbours(np.array([[0.0, 1.0]]), 3)
    np.testing.assert_array_equal(turned.indices, [[2, 1, 0]])
    np.testing.assert_allclose(turned.scores, [[2e-9, 1e-9, 0]], rtol=1e-12)


def test_topn_none_gives_all_and_zero_gives_none(vectors):
    scores = vectors.most_similar("w3", topn=None)
    np.testing.assert_allclose(scores, vectors.units @ vectors.units[3], atol=1e-6)
    assert vectors.most_similar("w3", topn=None, restrict_vocab=20).shape == (20,)
    assert vectors.most_similar_cosmul("w3", topn=None, restrict_vocab=20).shape == (20,)
    assert vectors.most_similar("w3", topn=0) == vectors.most_similar_cosmul("w3", topn=0) == []


def test_what_is_asked_wrongly_is_refused(vectors):
    assert "give a word" in failure(vectors.most_similar)
    assert "positive word" in failure(vectors.most_similar_cosmul, [], ["w1"])
    assert "without weights" in failure(vectors.most_similar_cosmul, [("w1", 2.0)])
    assert "list of words" in failure(vectors.doesnt_match, "w1 w2")
    assert "two lists" in failure(vectors.n_similarity, ["w1"], [])
    with pytest.raises(ValueError, match=r"\[12\], got \[3\]"):
        vectors.most_similar(np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        vectors.similar_by_vector(np.full(D, np.nan))
    with pytest.raises(ValueError, match=r"\[N, 12\]"):
        vectors.neighbours(np.ones((2, 3)))
    for options in ({"topn": 0}, {"restrict_vocab": 0}):
        with pytest.raises(ValueError, match="1 or more"):
            vectors.neighbours(np.ones((2, D)), **options)


def test_one_program_serves_all_numbers_of_queries_and_neighbours(vectors):
    queries = np.ones((64, D), np.float32)
    vectors.neighbours(queries, 16)
    compiled = nearest._nearest._cache_size()
    for num_queries, topn in itertools.product((33, 50, 64), (9, 12, 16)):
        vectors.neighbours(queries[:num_queries], topn)
    assert nearest._nearest._cache_size() == compiled


# Answers, by gensim


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Call to deprecated `init_sims`")
def test_all_answers_are_those_of_gensim(vectors):
    peer = gensim_of(vectors)
    queries = [
        {"positive": ["w1"]},
        {"positive": ["w5", "w9"], "negative": ["w2"]},
        {"positive": [("w5", 2.0), "w9"], "negative": [("w2", -0.3)], "topn": 25},
        {"positive": [vectors.vectors[4], "w9"]},
        {"positive": ["w1"], "restrict_vocab": 33},
        {"negative": ["w1"]},
        {"positive": "w8"},
    ]
    for query in queries:
        assert_same_answers(vectors.most_similar(**query), peer.most_similar(**query))
    for query in (queries[0], queries[1], {"positive": ["w1", "w2", "w3"], "negative": ["w7"]}):
        found = vectors.most_similar_cosmul(**query)
        assert_same_answers(found, peer.most_similar_cosmul(**query))
    assert_same_answers(vectors.similar_by_word("w3"), peer.similar_by_word("w3"))
    vector = vectors.vectors[0] + vectors.vectors[1]
    assert_same_answers(vectors.similar_by_vector(vector), peer.similar_by_vector(vector))
    for i in range(1, 20):
        pair = "w0", f"w{i}"
        assert vectors.similarity(*pair) == pytest.approx(peer.similarity(*pair), abs=1e-6)
        assert vectors.distance(*pair) == pytest.approx(peer.distance(*pair), abs=1e-6)
        assert vectors.rank(*pair) == peer.rank(*pair)
        assert vectors.closer_than(*pair) == peer.closer_than(*pair)
        words = [f"w{j}" for j in range(i, i + 6)]
        assert vectors.doesnt_match(words) == peer.doesnt_match(words)
        assert vectors.n_similarity(pair, words) == pytest.approx(
            peer.n_similarity(pair, words), abs=1e-6
        )
        np.testing.assert_allclose(
            vectors.distances("w0", words), peer.distances("w0", words), atol=1e-6
        )
    np.testing.assert_allclose(vectors.distances("w2"), peer.distances("w2"), atol=1e-6)
    np.testing.assert_allclose(vectors.distances(vector), peer.distances(vector), atol=1e-6)


# Stability


def test_equal_trainings_have_all_neighbours_in_common_turned_ones_too(vectors):
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))
    many = np.stack([vectors.vectors, 3 * vectors.vectors, (vectors.vectors @ turn).astype("f4")])
    overlap = neighbour_overlap(many)
    assert overlap.shape == (3, V)
    np.testing.assert_array_equal(overlap[0], 1)
    assert overlap.mean() > 0.999  # turned, two neighbours may be as near as rounding


def test_independent_trainings_have_as_many_in_common_as_chance_has_it():
    many = np.random.default_rng(0).normal(size=(4, 500, 50)).astype(np.float32)
    overlap = neighbour_overlap(many, 10)
    assert overlap.shape == (6, 500)
    assert overlap.mean() == pytest.approx(10 / 499, rel=0.1)


def test_overlap_is_counted_per_pair_and_word():
    # Of word 0 the neighbours are 1 and 2, then 1 and 3, then 3 and 4.
    rows = np.eye(5, 6, dtype=np.float32)
    many = np.stack([rows, rows, rows])
    for seed, near in enumerate([(1, 2), (1, 3), (3, 4)]):
        many[seed, 0] = sum(rows[i] for i in near)
    np.testing.assert_allclose(neighbour_overlap(many, 2, words=[0]), [[0.5], [0], [0.5]])
    np.testing.assert_array_equal(
        neighbour_overlap(many, 2, words=[0]), neighbour_overlap(jnp.asarray(many), 2)[:, :1]
    )


@pytest.mark.parametrize(("shape", "topn"), [((3, 4), 1), ((1, 4, 2), 1), ((2, 4, 2), 4)])
def test_overlap_needs_two_trainings_and_enough_words(shape, topn):
    with pytest.raises(ValueError, match="must be"):
        neighbour_overlap(np.ones(shape), topn)


# Embeddings for models


def test_a_vocabulary_gets_its_own_words_vectors(vectors):
    vocabulary = Words(("w3", "unheard", "w1", "w0"))
    matrix, coverage = vectors.matrix(vocabulary, seed=1)
    assert matrix.dtype == np.float32
    assert coverage == 3 / 4
    ids = vocabulary.encode("w1 w3 w0")
    np.testing.assert_array_equal(matrix[ids], vectors[["w1", "w3", "w0"]])
    np.testing.assert_array_equal(matrix[PAD], 0)
    again, _ = vectors.matrix(vocabulary, seed=1)
    other, _ = vectors.matrix(vocabulary, seed=2)
    np.testing.assert_array_equal(matrix, again)
    rest = vocabulary.encode("unheard")
    assert (matrix[rest] != other[rest]).all()
    assert (matrix[UNK] != other[UNK]).all()


def test_unknown_words_begin_as_large_as_known_ones_or_at_the_mean(vectors):
    words = [f"x{i}" for i in range(2000)]
    matrix, coverage = vectors.matrix(words)
    assert coverage == 0
    assert matrix.std() == pytest.approx(vectors.vectors.std(), rel=0.02)
    assert vectors.matrix(words, scale=0.1).matrix.std() == pytest.approx(0.1, rel=0.02)
    mean, _ = vectors.matrix(words[:3], unknown="mean")
    np.testing.assert_allclose(mean, np.tile(vectors.vectors.mean(axis=0), (3, 1)), atol=1e-6)
    assert "unknown='zeros'" in failure(vectors.matrix, words, unknown="zeros")


def test_vectors_of_special_tokens_are_used_but_for_padding():
    vectors = Vectors(("<unk>", "<pad>", "b"), np.eye(3, dtype=np.float32))
    matrix, coverage = vectors.matrix(Characters("ab"), scale=0.0)
    assert coverage == 1 / 2
    expected = np.zeros((len(SPECIALS) + 2, 3))
    expected[UNK, 0] = expected[-1, 2] = 1
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(vectors.matrix(["<pad>"]).matrix, [[0, 1, 0]])


@given(st.lists(st.sampled_from([0, -1, 1, 0.3, 1e-45, 3e38, -3e38]), min_size=8, max_size=8))
def test_answers_hold_no_nan_whatever_the_vectors(numbers):
    vectors = Vectors("abcd", np.array(numbers, np.float32).reshape(4, 2))
    for found in (vectors.most_similar("a", "b"), vectors.most_similar_cosmul("a", "b")):
        assert sorted(word for word, _ in found) == ["c", "d"]
        assert all(np.isfinite(score) for _, score in found)
    assert np.isfinite(vectors.similarity("a", "c"))
    assert np.isfinite(vectors.distances("b")).all()
