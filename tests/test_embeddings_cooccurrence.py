"""Co-occurrences are those of a double loop, exactly, whatever the chunks and the memory."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.embeddings.cooccurrence import RECORD, Cooccurrences, count_cooccurrences
from seqlab.errors import InputError

V = 6


def brute_force(ids, window, weighting, symmetric):
    """The definition, word by word, in exact fractions."""
    counts = {}
    for s, i in enumerate(ids):
        for t, j in enumerate(ids):
            d = s - t
            is_near = (1 <= d <= window) or (symmetric and 1 <= -d <= window)
            if i < 0 or j < 0 or not is_near or -1 in ids[min(s, t) : max(s, t)]:
                continue
            weight = Fraction(1, abs(d)) if weighting == "distance" else Fraction(1)
            counts[i, j] = counts.get((i, j), 0) + weight
    return counts


def as_dict(found):
    return {(int(i), int(j)): float(count) for i, j, count in found.records}


def cut(ids, cuts):
    return np.split(np.array(ids, np.int32), sorted(cut % (len(ids) + 1) for cut in cuts))


corpora = st.lists(st.integers(-1, V - 1), min_size=2, max_size=60)


@given(
    ids=corpora,
    cuts=st.lists(st.integers(0, 60), max_size=5),
    window=st.integers(1, 7),
    weighting=st.sampled_from(["distance", "flat"]),
    symmetric=st.booleans(),
    room=st.integers(0, 30),
)
def test_counts_are_those_of_a_double_loop(tmp_path, ids, cuts, window, weighting, symmetric, room):
    expected = brute_force(ids, window, weighting, symmetric)
    options = {
        "vocab_size": V, "window": window, "weighting": weighting, "symmetric": symmetric,
        "max_entries": 2 * window + room,
    }  # fmt: skip
    if not expected:
        with pytest.raises(InputError, match="nothing to count"):
            count_cooccurrences(cut(ids, cuts), tmp_path / "none", **options)
        assert not (tmp_path / "none").exists()
        return
    found = count_cooccurrences(cut(ids, cuts), tmp_path / "counts", **options)
    assert as_dict(found) == {pair: float(count) for pair, count in expected.items()}
    pairs = found.records["i"].astype(int) * V + found.records["j"]
    assert np.all(np.diff(pairs) > 0)
    assert found.total == float(sum(expected.values()))
    assert found.settings["num_words"] == sum(i >= 0 for i in ids)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    ids = (rng.pareto(0.7, 20_000) * 3).astype(np.int64) % 500
    ids[rng.random(len(ids)) < 0.05] = -1
    return ids.astype(np.int32)


def test_bytes_depend_on_neither_chunks_nor_memory(tmp_path, corpus):
    files = []
    for number, (length, room) in enumerate([(20_000, 2**24), (777, 5_000), (20_000, 1_000)]):
        chunks = np.split(corpus, range(length, len(corpus), length))
        path = tmp_path / str(number)
        count_cooccurrences(chunks, path, vocab_size=500, max_entries=room)
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_runs_are_spilled_where_there_is_no_room(tmp_path, corpus, monkeypatch):
    saved = []
    save = np.save
    monkeypatch.setattr(np, "save", lambda path, table: (saved.append(table), save(path, table)))
    found = count_cooccurrences([corpus], tmp_path / "a", vocab_size=500, max_entries=5_000)
    assert len(saved) > 3
    assert len(found) > 5_000
    assert max(table.shape[1] for table in saved) <= 5_000


def test_symmetric_counts_are_their_own_transpose(tmp_path, corpus):
    both = count_cooccurrences([corpus], tmp_path / "both", vocab_size=500).matrix().toarray()
    left = count_cooccurrences([corpus], tmp_path / "left", vocab_size=500, symmetric=False)
    np.testing.assert_array_equal(both, both.T)
    np.testing.assert_allclose(
        both, left.matrix().toarray() + left.matrix().toarray().T, rtol=1e-15
    )


def test_no_window_reaches_over_the_end_of_a_sentence(tmp_path):
    ids = np.array([0, 1, -1, 2, 3, -1], np.int32)
    found = count_cooccurrences([ids], tmp_path / "a", vocab_size=4, window=5)
    assert as_dict(found) == {(0, 1): 1.0, (1, 0): 1.0, (2, 3): 1.0, (3, 2): 1.0}


def test_wide_windows_are_right_to_their_stated_error(tmp_path):
    ids = list(np.random.default_rng(1).integers(0, V, 100))
    found = count_cooccurrences([np.array(ids)], tmp_path / "a", vocab_size=V, window=40)
    expected = brute_force(ids, 40, "distance", True)
    assert as_dict(found) == pytest.approx(
        {pair: float(count) for pair, count in expected.items()}, abs=100 * 40 * 2**-32
    )


def test_a_file_opens_again_to_the_same(tmp_path, corpus):
    made = count_cooccurrences([corpus], tmp_path / "a", vocab_size=500, window=3)
    again = Cooccurrences.open(tmp_path / "a")
    np.testing.assert_array_equal(made.records, again.records)
    assert (made.vocab_size, made.total, made.settings) == (
        again.vocab_size, again.total, again.settings,
    )  # fmt: skip
    assert again.settings["window"] == 3
    assert isinstance(again.records, np.memmap)
    assert again.total == pytest.approx(again.records["count"].sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda whole: whole[:-1], "truncated"),
        (lambda whole: whole[:4200], "truncated"),
        (lambda whole: whole + b"x", "has grown"),
        (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "not those of its header"),
        (lambda whole: whole[:100], "not a file of co-occurrences"),
        (lambda whole: b"", "not a file of co-occurrences"),
        (lambda whole: b"[]" + b" " * 5000, "not a file of co-occurrences"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, words):
    path = tmp_path / "counts"
    count_cooccurrences([np.arange(6)], path, vocab_size=6)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=words) as error:
        Cooccurrences.open(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("ids", "options", "words"),
    [
        (np.array([0, 7]), {}, "id 1 of the corpus is 7"),
        (np.array([0, -2]), {}, "id 1 of the corpus is -2"),
        (np.array([0.0, 1.0]), {}, "chunk 0 must be one axis of whole numbers, got float64"),
        (np.zeros((2, 2), int), {}, "chunk 0"),
        (np.array([0, 1]), {"window": 0}, "window"),
        (np.array([0, 1]), {"weighting": "distanc"}, "did you mean 'distance'"),
        (np.array([0, 1]), {"max_entries": 5, "window": 3}, "max_entries must be 6 or more"),
        (np.array([0, 1]), {"folder": "/nowhere/at/all"}, "cannot write"),
        (np.array([0, 1]), {"vocab_size": 2**31}, "too large"),
    ],
)
def test_a_users_mistake_is_named_and_leaves_nothing(tmp_path, ids, options, words):
    with pytest.raises(InputError, match=words):
        count_cooccurrences([ids], tmp_path / "a", **{"vocab_size": V, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "counts"
    count_cooccurrences([np.arange(6)], path, vocab_size=6)
    before = path.read_bytes()

    def chunks():
        yield np.arange(6)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        count_cooccurrences(chunks(), path, vocab_size=6)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["counts"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere"):
        Cooccurrences.open(tmp_path / "nowhere")


def test_counts_of_a_matrix():
    dense = np.array([[0.0, 2.0], [0.5, 1.0]])
    found = Cooccurrences.of(dense)
    assert found.records.dtype == RECORD
    assert as_dict(found) == {(0, 1): 2.0, (1, 0): 0.5, (1, 1): 1.0}
    assert found.total == 3.5
    np.testing.assert_array_equal(found.matrix().toarray(), dense)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros((2, 2)), "all 0"),
        (np.ones((2, 3)), "square"),
        (np.array([[1.0, -1.0], [0, 0]]), r"counts\[0, 1\] is -1"),
        (np.array([[1.0, np.nan], [0, 0]]), r"counts\[0, 1\] is nan"),
    ],
)
def test_a_matrix_that_holds_no_counts_is_refused(matrix, words):
    with pytest.raises(InputError, match=words):
        Cooccurrences.of(matrix)
