import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest

from seqlab.embeddings import Section, Vectors
from seqlab.errors import InputError

QUESTIONS = """: capital
paris france rome italy
paris france oslo norway
: gram1-plural
cat cats dog dogs
cat cats rat rats

: family
man woman king queen
man woman king Queen
"""
PLACES = {
    # One direction for each relation, one for each thing.
    "paris": (1, 0, 0, 0, 0, 0),
    "rome": (0, 1, 0, 0, 0, 0),
    "france": (1, 0, 1, 0, 0, 0),
    "italy": (0, 1, 1, 0, 0, 0),
    "cat": (0, 0, 0, 1, 0, 0),
    "dog": (0, 0, 0, 0, 1, 0),
    "cats": (0, 0, 0, 1, 0, 1),
    "dogs": (0, 0, 0, 0, 1, -1),  # learned the wrong way round
    "lion": (0, 0, 0, 0, 1, 1),
    "rat": (0, 0, 0, 0, 0, 2),
}


@pytest.fixture
def places():
    return Vectors(tuple(PLACES), np.array(list(PLACES.values()), np.float32))


@pytest.fixture
def mirror():
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEQLAB_DATA_MIRROR") or beside) / "word_similarity"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set SEQLAB_DATA_MIRROR to a folder with word_similarity/ in it")
    return folder


def gensim_of(vectors):
    keyed = pytest.importorskip("gensim.models.keyedvectors")
    peer = keyed.KeyedVectors(vectors.vector_size)
    peer.add_vectors(list(vectors.words), vectors.vectors.copy())
    return peer


def failure(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# By hand


@pytest.mark.parametrize("name", ["q.txt", "q.txt.gz"])
def test_analogies_are_counted_by_section(tmp_path, places, name):
    content = QUESTIONS.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    scores = places.evaluate_word_analogies(tmp_path / name)
    assert scores.sections == (
        Section("capital", 1, 0, 1),
        Section("gram1-plural", 0, 1, 1),
        Section("family", 0, 0, 2),
    )
    assert scores.accuracy == 1 / 2
    assert scores.coverage == 2 / 6
    assert scores.total == Section("total", 1, 1, 4)
    assert scores.semantic == Section("semantic", 1, 0, 3)
    assert scores.syntactic == Section("syntactic", 0, 1, 1)
    assert (scores.semantic.accuracy, scores.semantic.coverage) == (1, 1 / 4)
    assert math.isnan(scores.sections[2].accuracy)
    assert scores.sections[2].coverage == 0
    severe = places.evaluate_word_analogies(tmp_path / name, dummy4unknown=True)
    assert severe.accuracy == 1 / 6
    assert severe.coverage == 2 / 6
    assert severe.sections == scores.sections


def test_only_the_first_words_are_asked_for_and_searched(tmp_path, places):
    file = tmp_path / "q.txt"
    file.write_text(": all\nparis france rome italy\ncat cats dog lion\n")
    assert places.evaluate_word_analogies(file, None).total == Section("total", 2, 0, 0)
    assert places.evaluate_word_analogies(file, 9).total == Section("total", 2, 0, 0)
    assert places.evaluate_word_analogies(file, 8).total == Section("total", 1, 0, 1)
    assert places.evaluate_word_analogies(file, 3).coverage == 0


def test_case_is_looked_at_or_not(tmp_path):
    # What is nearest to b - a + c is c in another spelling, then d in another one.
    words = ("a", "b", "c", "C", "D", "d", "x")
    rows = [(1, 0, 0), (1, 1, 0), (0, 0, 2), (0, 1, 2), (0, 1, 1.9), (0, -1, 0), (9, 0, 9)]
    vectors = Vectors(words, np.array(rows, np.float32))
    file = tmp_path / "q.txt"
    file.write_text(": all\na b c d\nA B C D\n")
    assert vectors.evaluate_word_analogies(file).total == Section("total", 2, 0, 0)
    exact = vectors.evaluate_word_analogies(file, case_insensitive=False)
    assert exact.total == Section("total", 0, 1, 1)


def test_pairs_are_correlated_by_value_and_by_rank(tmp_path):
    angles = np.array([0.0, 0.1, 0.4, 0.9, 1.5])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [2], [3], [4], [5]]
    vectors = Vectors("zabcd", rows)
    file = tmp_path / "pairs.tsv"
    file.write_text("# judged\nz\ta\t10\nz\tb\t8\n\nZ\tC\t9\nz\td\t1\nz\tnobody\t5\n")
    scores = vectors.evaluate_word_pairs(file)
    assert scores.spearman == pytest.approx(0.8)  # ranks 4 2 3 1 against 4 3 2 1
    expected = np.corrcoef([10, 8, 9, 1], np.cos(angles[1:]))[0, 1]
    assert scores.pearson == pytest.approx(expected, abs=1e-6)
    assert scores[2:] == (1 / 5, 4, 5)
    dummy = vectors.evaluate_word_pairs(file, dummy4unknown=True)
    expected = np.corrcoef([10, 8, 9, 1, 5], [*np.cos(angles[1:]), 0])[0, 1]
    assert dummy.pearson == pytest.approx(expected, abs=1e-6)
    assert dummy[2:] == (1 / 5, 5, 5)
    exact = vectors.evaluate_word_pairs(file, case_insensitive=False)
    assert exact[2:] == (2 / 5, 3, 5)
    assert vectors.evaluate_word_pairs(file, restrict_vocab=4).num_used == 3


@pytest.mark.parametrize("lines", ["a,b,1\n", "a,b,1\na,b,1\n", "x,y,1\n", "a,b,1\na,c,1\n"])
def test_what_does_not_vary_has_no_correlation(tmp_path, lines):
    (tmp_path / "pairs").write_text(lines)
    scores = Vectors("abc", np.eye(3)).evaluate_word_pairs(tmp_path / "pairs", delimiter=",")
    assert math.isnan(scores.spearman)
    assert math.isnan(scores.pearson)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b": a\na b c d\na b c\n", ":3: expected four words, got 3"),
        (b": a\na b c d e\n", ":2: expected four words, got 5"),
        (b"a b c d\n", ":1: a question before the first section"),
        (b": a\n\xff b c d\n", ":2: not UTF-8"),
        (b"", "holds no questions"),
        (None, "cannot read"),
    ],
)
def test_a_damaged_file_of_analogies_is_refused(tmp_path, places, content, complaint):
    if content is not None:
        (tmp_path / "q.txt").write_bytes(content)
    message = failure(places.evaluate_word_analogies, tmp_path / "q.txt")
    assert str(tmp_path / "q.txt") in message
    assert complaint in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            b"a\tb\t1\na\tb\n",
            ":2: expected word, word, score with '\\t' between them, got 2 fields",
        ),
        (b"a b 1\n", ":1: expected word, word, score"),
        (b"a\tb\tc\n", ":1: score 'c' is no number"),
        (b"a\tb\tnan\n", ":1: score 'nan' is no number"),
        (b"# none\n", "holds no pairs"),
        (b"a\t\xff\t1\n", ":1: not UTF-8"),
    ],
)
def test_a_damaged_file_of_pairs_is_refused(tmp_path, places, content, complaint):
    (tmp_path / "p.txt").write_bytes(content)
    message = failure(places.evaluate_word_pairs, tmp_path / "p.txt")
    assert str(tmp_path / "p.txt") in message
    assert complaint in message


def test_lines_end_nowhere_else(tmp_path):
    words = ("a\u0085b", "c\u2028d", "e\u00a0f", "g")
    vectors = Vectors(words, np.array([[1, 0], [1, 1], [0, 1], [0, 2]], np.float32))
    file = tmp_path / "q.txt"
    file.write_bytes(("\ufeff: \u0085\r\n" + " ".join(words) + "\r\n").encode())
    assert vectors.evaluate_word_analogies(file).total == Section("total", 1, 0, 0)
    file.write_bytes(f"\ufeff{words[0]}\t{words[1]}\t1\r\n{words[0]}\tg\t0\n".encode())
    assert vectors.evaluate_word_pairs(file).spearman == pytest.approx(1)


# By gensim


def counted(scores, peer_sections, dummy=False):
    """Ours and gensim's counts by section, right and wrong."""
    ours = {s.name: (s.correct, s.incorrect + dummy * s.skipped) for s in scores.sections}
    theirs = {s["section"]: (len(s["correct"]), len(s["incorrect"])) for s in peer_sections[:-1]}
    return ours, theirs


@pytest.mark.peers
@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("dummy", [True, False])
@pytest.mark.parametrize("restrict_vocab", [300_000, 700, 400])
def test_analogies_are_gensims(tmp_path, case_insensitive, dummy, restrict_vocab):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 8))
    relation = rng.normal(size=8)
    rows = [base, base + relation + 0.3 * rng.normal(size=base.shape), rng.normal(size=(200, 8))]
    words = [f"a{i}" for i in range(300)] + [f"b{i}" for i in range(300)]
    words += [f"A{i}" for i in range(100)] + [f"B{i}" for i in range(100)]
    order = rng.permutation(800)
    vectors = Vectors([words[i] for i in order], np.concatenate(rows)[order].astype(np.float32))
    lines = []
    for section in ("one", "gram-two"):
        lines.append(f": {section}")
        for _ in range(150):
            i, j = rng.integers(320, size=2)  # 20 of them unknown
            lines.append(f"a{i} b{i} a{j} b{j}")
    file = tmp_path / "q.txt"
    file.write_text("\n".join(lines) + "\n")
    options = {
        "restrict_vocab": restrict_vocab,
        "case_insensitive": case_insensitive,
        "dummy4unknown": dummy,
    }
    scores = vectors.evaluate_word_analogies(file, **options)
    accuracy, sections = gensim_of(vectors).evaluate_word_analogies(str(file), **options)
    ours, theirs = counted(scores, sections, dummy)
    assert ours == theirs
    assert scores.accuracy == pytest.approx(accuracy)
    if restrict_vocab == 300_000:
        assert 0.2 < scores.total.accuracy < 0.95


@pytest.mark.peers
@pytest.mark.parametrize("dummy", [True, False])
@pytest.mark.parametrize(
    ("name", "num_pairs"),
    [
        ("EN-WS-353-ALL", 353),
        ("EN-WS-353-SIM", 203),
        ("EN-WS-353-REL", 252),
        ("EN-SIMLEX-999", 999),
        ("EN-RG-65", 65),
        ("EN-MC-30", 30),
    ],
)
def test_pairs_of_the_real_files_are_gensims(mirror, name, num_pairs, dummy):
    file = mirror / f"{name}.txt"
    lines = file.read_text(encoding="utf-8").split("\n")
    words = sorted({word.lower() for line in lines for word in line.split("\t")[:2] if word})
    del words[::4]
    rows = np.random.default_rng(0).normal(size=(len(words), 10)).astype(np.float32)
    vectors = Vectors(words, rows)
    scores = vectors.evaluate_word_pairs(file, dummy4unknown=dummy)
    pearson, spearman, oov = gensim_of(vectors).evaluate_word_pairs(file, dummy4unknown=dummy)
    assert scores.pearson == pytest.approx(pearson[0], abs=1e-6)
    assert scores.spearman == pytest.approx(spearman[0], abs=1e-6)
    assert scores.oov_rate == pytest.approx(oov / 100)
    assert 0.2 < scores.oov_rate < 0.9
    assert scores.num_pairs == num_pairs


@pytest.mark.peers
@pytest.mark.slow
def test_the_real_analogies_are_gensims(mirror):
    file = mirror / "questions-words.txt"
    questions = [
        line.split() for line in file.read_text(encoding="utf-8").split("\n") if line[:1] != ":"
    ]
    known = dict.fromkeys(word for question in questions[::40] for word in question)
    words = (*known, "PARIS", "Man")
    # A shared direction of each pair, so that some questions are answered right.
    rng = np.random.default_rng(0)
    row = {word: rng.normal(size=20) for word in words}
    for a, b, c, d in questions[::40]:
        row[b] = 0.5 * row[b] + row[a]
        row[d] = 0.5 * row[d] + row[c]
    vectors = Vectors(words, np.array([row[word] for word in words], np.float32))
    scores = vectors.evaluate_word_analogies(file)
    accuracy, sections = gensim_of(vectors).evaluate_word_analogies(str(file))
    ours, theirs = counted(scores, sections)
    assert ours == theirs
    assert scores.accuracy == pytest.approx(accuracy)
    assert sum(scores.total[1:]) == 19_544
    assert sum(scores.semantic[1:]) == 8_869
    assert sum(scores.syntactic[1:]) == 10_675
    assert 0.02 < scores.coverage < 1
    assert 0.02 < scores.accuracy < 1
