import csv
import hashlib
import os
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data import sources
from seqlab.data.labelled import (
    DATASETS,
    Labelled,
    class_vocabulary,
    encode_texts,
    folds,
    load_labelled,
    read_corpus,
)
from seqlab.data.negation import window_ceiling
from seqlab.data.sources import File
from seqlab.data.vocabulary import UNK
from seqlab.errors import InputError

ROOT = Path(__file__).parents[1]
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or ROOT.parent / "shared" / "data")
PARTS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, no_network):
    """Own cache, mirror and registry; no network, no TensorFlow."""
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    yield
    assert "tensorflow" not in sys.modules


def use_real(name, monkeypatch):
    if not (REAL_MIRROR / name).is_dir():
        pytest.skip(
            f"no {REAL_MIRROR / name}: set SEQLAB_DATA_MIRROR to a folder with {name}/ in it"
        )
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))


def put(tmp_path, name, contents):
    """A set whose files, of its own names, hold these bytes."""
    files = []
    for file_name, content in contents.items():
        path = tmp_path / "mirror" / name / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files.append(File(file_name, "", len(content), hashlib.sha256(content).hexdigest()))
    sources.SOURCES[name] = tuple(files)


def table(tmp_path, content, name="mine.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sizes(data):
    return tuple(len(data.rows[part]) for part in PARTS)


def assert_parts_are_apart(data, whole=True):
    rows = np.concatenate([data.rows[part] for part in PARTS])
    assert len(set(rows.tolist())) == len(rows)
    if whole:
        assert sorted(rows) == list(range(len(data.texts)))
    texts = [set(" ".join(text.split()) for text in data.part(part)[0]) for part in PARTS]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert data.labels.dtype == np.int32
    assert set(data.part("train")[1]) == set(range(len(data.classes)))


def failure(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- folds ---


@given(
    labels=st.lists(st.integers(0, 3), min_size=10, max_size=80),
    num_folds=st.integers(2, 10),
    seed=st.integers(0, 5),
)
def test_folds_are_even_in_size_and_in_each_class(labels, num_folds, seed):
    labels = np.array(labels)
    found = folds(labels, num_folds, seed)
    counts = np.bincount(found, minlength=num_folds)
    assert counts.max() - counts.min() <= 1
    for label in set(labels.tolist()):
        counts = np.bincount(found[labels == label], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(found, folds(labels, num_folds, seed))


def test_folds_are_shuffled_by_the_seed_and_never_change():
    labels = np.repeat([0, 1], 10)
    assert folds(labels, 5, 0).tolist() != folds(labels, 5, 1).tolist()
    assert folds(labels, 5, 0)[:10].tolist() != sorted(folds(labels, 5, 0)[:10].tolist())
    digest = hashlib.sha256(folds(np.arange(1000) % 3, 10, 7).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "2902fc3921631f3f"


def test_examples_with_one_key_stay_together():
    labels = np.array([0, 1] * 20)
    keys = [number // 4 for number in range(40)]
    found = folds(labels, 5, 0, keys)
    assert all(len(set(found[i : i + 4].tolist())) == 1 for i in range(0, 40, 4))
    assert set(np.bincount(found)) == {8}


def test_too_few_folds_or_examples():
    assert "num_folds must be 2 or more" in failure(folds, [0, 1], 1, 0)
    assert "10 folds" in failure(folds, [0, 1] * 4, 10, 0)
    assert "got 1" in failure(folds, [0, 1] * 4, 2, 0, ["same"] * 8)


# --- the made-up language ---


def test_the_default_is_the_made_up_language():
    data = load_labelled()
    assert (data.name, data.classes, data.cut) == ("negation", ("neg", "pos"), "blanks")
    assert sizes(data) == (8400, 1008, 4200)
    assert data.distances is not None
    for part in PARTS:
        rows = data.rows[part]
        counts = Counter(data.distances[rows].tolist())
        if part == "train":  # near ones more often
            total = sum(1 / (k + 1) for k in range(21))
            assert all(abs(counts[k] - 8400 / (k + 1) / total) <= 4 for k in range(21))
        else:
            assert set(counts.values()) == {len(rows) // 21}
        assert data.labels[rows].mean() == 0.5
    assert load_labelled().digest == data.digest
    assert load_labelled(seed=1).digest != data.digest
    ceiling = window_ceiling(data.distances[data.rows["test"]], 5).mean()
    assert ceiling == pytest.approx(0.5 + 0.5 * 4 / 21)


def test_chosen_distances():
    data = load_labelled(distances=[2, 30])
    assert sizes(data) == (800, 96, 400)
    assert set(data.distances.tolist()) == {2, 30}


# --- sets ---


def lines(*texts):
    return "".join(f"{text}\n" for text in texts).encode("latin-1")


def test_a_set_without_parts_comes_in_ten_folds(tmp_path):
    contents = {
        f"rt-polarity.{name}": lines(*(f"{name} \x85 {i} ." for i in range(60)))
        for name in ("neg", "pos")
    }
    put(tmp_path, "rt_polarity", contents)
    data = load_labelled("rt_polarity")
    assert (data.num_folds, data.cut, data.new_cut) == (10, "blanks", "words")
    assert sizes(data) == (97, 11, 12)
    assert "fold 0 of 10" in data.notes[0]
    tested = []
    for number in range(10):
        fold = data.fold(number)
        assert fold.texts is data.texts
        assert_parts_are_apart(fold)
        assert np.bincount(fold.part("test")[1]).tolist() == [6, 6]
        tested += fold.rows["test"].tolist()
    assert sorted(tested) == list(range(120))
    assert data.fold(0).digest == data.digest != data.fold(1).digest
    assert data.digest == load_labelled("rt_polarity").digest
    assert data.digest != load_labelled("rt_polarity", seed=1).digest
    assert "has no fold 10" in failure(data.fold, 10)
    assert "has no fold -1" in failure(data.fold, -1)


def put_trec(tmp_path):
    train = [f"NUM:dist How far is {i} ?" for i in range(40)]
    train += [f"LOC:city Where is {i} ?" for i in range(40)]
    test = ["NUM:dist How far is 3 ?", "LOC:city Where is it ?", "LOC:other Where is  7 ?"]
    put(tmp_path, "trec", {"TREC.train": lines(*train), "TREC.test": lines(*test)})


def test_what_train_shares_with_test_is_left_out_and_said(tmp_path):
    put_trec(tmp_path)
    data = load_labelled("trec")
    assert sizes(data) == (70, 8, 3)
    assert data.num_folds == 0
    assert data.notes[0] == "2 texts of train are in test too, and are left out in train"
    assert "a tenth of train is valid" in data.notes[1]
    seen = {" ".join(text.split()) for part in ("train", "valid") for text in data.part(part)[0]}
    assert not seen & {" ".join(text.split()) for text in data.part("test")[0]}
    kept = load_labelled("trec", keep_shared=True)
    assert sizes(kept) == (72, 8, 3)
    assert kept.notes[0] == "2 texts of train are in test too, and are kept in train"
    assert "it has a test part" in failure(data.fold, 0)


def test_fine_classes(tmp_path):
    put_trec(tmp_path)
    fine, coarse = load_labelled("trec_fine"), load_labelled("trec")
    assert len(fine.classes) == 50
    assert fine.texts == coarse.texts
    for k, j in zip(fine.labels, coarse.labels, strict=True):
        assert fine.classes[k].partition(":")[0] == coarse.classes[j]
    assert (coarse.cut, coarse.new_cut) == ("blanks", "treebank-cased")


def test_the_parts_of_sst_are_its_own(tmp_path):
    contents = {"stsa.binary.train": "0 a b\n1 c d\n1 e\n", "stsa.binary.dev": "1 e\n0 q\n"}
    contents["stsa.binary.test"] = "1 f\n0 é\n0 a b\n"
    put(tmp_path, "sst2", {name: text.encode() for name, text in contents.items()})
    data = load_labelled("sst2")
    assert data.part("train")[0] == ["c d"]
    assert [data.part(part)[0] for part in ("valid", "test")] == [["e", "q"], ["f", "é", "a b"]]
    assert data.part("test")[1].tolist() == [1, 0, 0]
    assert data.notes == ("2 texts of train are in valid or test too, and are left out in train",)
    assert sizes(load_labelled("sst2", keep_shared=True)) == (3, 2, 3)


def test_korean_questions(tmp_path):
    rows = [f'"질문 {i}, 정말?",답,{i % 3}{"  " * (i == 4)}' for i in range(90)]
    content = "\n".join(["Q,A,label", *rows, "질문 5,답,2"]) + "\n"
    put(tmp_path, "korean_chatbot", {"ChatbotData.csv": content.encode()})
    data = load_labelled("korean")
    assert data.classes == ("daily", "parting", "love")
    assert data.texts[4] == "질문 4, 정말?"
    assert data.labels[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert_parts_are_apart(data)
    assert "질문" in class_vocabulary(data).tokens


# --- the user's own ---

OWN = [(f"text number {i}, so", "good" if i % 2 else "bad") for i in range(40)]


def own_csv(rows=OWN, header="text,label"):
    body = "".join(f'"{text}",{name}\n' for text, name in rows)
    return f"{header}\n{body}" if header else body


def test_a_table_of_ones_own(tmp_path):
    path = table(tmp_path, own_csv())
    data = load_labelled(corpus=path)
    assert isinstance(data, Labelled)
    assert (data.name, data.classes) == ("mine.csv", ("bad", "good"))
    assert (data.cut, data.new_cut, data.num_folds) == ("words", "words", 10)
    assert data.texts == tuple(text for text, _ in OWN)
    assert [data.classes[k] for k in data.labels] == [name for _, name in OWN]
    assert sizes(data) == (32, 4, 4)
    assert_parts_are_apart(data)
    assert load_labelled(corpus=str(path)).digest == data.digest


def test_a_csv_as_spreadsheets_write_it(tmp_path):
    content = '\ufeffid,Review,Stars\r\n1,"He said ""no"",\r\nthen left",5\r\n\r\n2, plain ,10 \r\n'
    found = read_corpus(table(tmp_path, content), "Review", "Stars")
    assert found == (['He said "no",\nthen left', "plain"], ["5", "10"])


def test_in_a_tsv_quotes_are_quotes(tmp_path):
    content = 'id\tdocument\tlabel\n1\t"괜찮아, 정말\t1\n2\t별로"\t0\n'
    expected = (['"괜찮아, 정말', '별로"'], ["1", "0"])
    for name in ("a.tsv", "ratings.txt"):
        assert read_corpus(table(tmp_path, content, name), "document") == expected


def test_a_name_that_ends_in_csv_or_tsv_says_how_columns_are_separated(tmp_path):
    content = "te\txt,label\na,x\nb,y\n"
    assert read_corpus(table(tmp_path, content, "a.CSV"), "te\txt")[0] == ["a", "b"]
    assert read_corpus(table(tmp_path, content.replace("\t", ""), "a.txt"))[0] == ["a", "b"]
    assert "known: te, xt,label" in failure(read_corpus, table(tmp_path, content, "a.tsv"))


def test_columns_by_number_where_there_is_no_header(tmp_path):
    path = table(tmp_path, own_csv(header="").replace(",good", ",1").replace(",bad", ",0"))
    texts, names = read_corpus(path, "1", "2")
    assert texts == [text for text, _ in OWN]
    assert names[:2] == ["0", "1"]
    assert load_labelled(corpus=path, text_column="1", label_column="2").classes == ("0", "1")


def test_classes_that_are_numbers_come_by_size(tmp_path):
    rows = [(f"t{i}", str(i % 11)) for i in range(66)]
    data = load_labelled(corpus=table(tmp_path, own_csv(rows)))
    assert data.classes == tuple(map(str, range(11)))


def test_a_field_longer_than_pythons_limit(tmp_path):
    rows = [("x " * 100_000 + str(i), name) for i, (_, name) in enumerate(OWN[:2])]
    limit = csv.field_size_limit()
    assert len(read_corpus(table(tmp_path, own_csv(rows)))[0][0]) > 200_000
    assert csv.field_size_limit() == limit


def test_same_texts_stay_in_one_part(tmp_path):
    rows = [(f"same  {i // 3}" if i % 2 else f"same {i // 3}", f"c{i // 60}") for i in range(120)]
    data = load_labelled(corpus=table(tmp_path, own_csv(rows)))
    assert_parts_are_apart(data)
    for number in range(10):
        assert_parts_are_apart(data.fold(number))


def test_a_folder_with_a_folder_for_each_class(tmp_path):
    root = tmp_path / "mine"
    for name in ("나쁨", "좋음"):
        (root / name).mkdir(parents=True)
        for i in range(12):
            (root / name / f"{i:02}.txt").write_text(f"{name} {i}\n둘째 줄\n", encoding="utf-8")
    (root / ".DS_Store").write_bytes(b"\x00\xff")
    (root / "좋음" / ".hidden").write_bytes(b"\xff")
    data = load_labelled(corpus=root)
    assert data.classes == tuple(sorted(("나쁨", "좋음")))
    assert len(data.texts) == 24
    assert data.texts[0] == "나쁨 0\n둘째 줄\n"
    assert "has no columns" in failure(load_labelled, corpus=root, text_column="text")
    (root / "좋음" / "12.txt").write_bytes(b"ok\n\xff\n")
    message = failure(read_corpus, root)
    assert str(root / "좋음" / "12.txt") in message
    assert "line 2" in message


def folder_with(tmp_path, *names):
    for name in names:
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if not path.suffix else path.write_text("a")
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/1.txt", "b"], "b holds no text"),
        (["a/1.txt", "2.txt"], "2.txt is a file"),
        (["a/1.txt", "b/c"], "c is a folder, expected a text file"),
        (["a/1.txt"], "every text is of class 'a'"),
        ([""], "mine is empty"),
    ],
)
def test_folders_that_will_not_do(tmp_path, names, words):
    assert words in failure(read_corpus, folder_with(tmp_path, *names))


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("text,label\na,x\nb,y\n", ("txt", None), "did you mean 'text'? known: text, label"),
        ("text,label\na,x\nb,y\n", ("text", "3"), "give names or numbers for both"),
        ("a,x\nb,y\n", ("1", "3"), "unknown column of PATH '3'; known: 1, 2"),
        ("text,label\na,x\nb,y\n", ("text", "text"), "are both text"),
        ("text,text,label\na,b,x\n", (None, None), "2 columns have the name text"),
        ("text,label\na,x\n\nb, \n", (None, None), "PATH, line 4, column label: no class"),
        ("text,label\na,x\n  ,y\n", (None, None), "PATH, line 3, column text: no text"),
        ('text,label\n"a\nb",x\n"",y\n', (None, None), "PATH, line 4, column text: no text"),
        ("x,\n", ("1", "2"), "PATH, line 1, column 2: no class"),
        ("text,label\na,x\nb,so,y\n", (None, None), "PATH, line 3: 3 columns, but line 1 has 2"),
        ("text,label\na,x\nb\n", (None, None), "PATH, line 3: 1 columns"),
        ('text,label\na,x\n"b,y\nc,x\n', (None, None), "PATH, line 3: unexpected end of data"),
        ('text,label\na,x\n"b"c,y\n', (None, None), "PATH, line 3: ',' expected after '\"'"),
        ("text,label\n", (None, None), "no row below"),
        ("text,label\na,x\nb,x\n", (None, None), "every text is of class 'x'"),
        (b"text,label\na,x\nb\xff,y\n", (None, None), "PATH is not UTF-8: byte 0xff"),
        (b"text,label\na,x\nb\xff,y\n", (None, None), "line 3"),
        ("", (None, None), "PATH is empty"),
    ],
)
def test_tables_that_will_not_do(tmp_path, content, columns, words):
    path = table(tmp_path, content)
    assert words.replace("PATH", str(path)) in failure(read_corpus, path, *columns)


def test_a_tsv_names_its_lines_too(tmp_path):
    path = table(tmp_path, "text\tlabel\na\tx\n\nb\tc\ty\n", "a.tsv")
    assert f"{path}, line 4: 3 columns" in failure(read_corpus, path)


def test_a_header_taken_for_a_text_is_noticed(tmp_path):
    path = table(tmp_path, own_csv())
    message = failure(load_labelled, corpus=path, text_column="1", label_column="2")
    assert "class 'label' has 1 distinct texts, 3 or more are needed" in message
    assert "give names, not numbers" in message


def test_too_few_texts(tmp_path):
    message = failure(load_labelled, corpus=table(tmp_path, own_csv(OWN[:12])))
    assert "number of distinct texts must be 20 or more, got 12" in message


def test_a_missing_file(tmp_path):
    assert "does not exist" in failure(load_labelled, corpus=tmp_path / "no.csv")


def test_what_cannot_be_given_together(tmp_path):
    path = table(tmp_path, own_csv())
    assert "not both" in failure(load_labelled, "sst2", corpus=path)
    assert "are of a corpus" in failure(load_labelled, "negation", text_column="text")
    assert "did you mean 'trec'" in failure(load_labelled, "trecs")
    data = load_labelled(corpus=path)
    assert "did you mean 'valid'" in failure(data.part, "valids")
    assert "unknown level 'bytes'" in failure(class_vocabulary, data, "bytes")


# --- tokens ---


def test_words_are_those_of_train_alone(tmp_path):
    rows = [(f"Word{i}, IT'S!", name) for i, (_, name) in enumerate(OWN)]
    data = load_labelled(corpus=table(tmp_path, own_csv(rows)))
    vocabulary = class_vocabulary(data)
    known = {f"word{row}" for row in data.rows["train"].tolist()}
    assert set(vocabulary.tokens[4:]) == known | {",", "it's", "!"}
    ids = encode_texts(vocabulary, data.texts, data.cut)
    assert ids[data.rows["train"][0]].dtype == np.int32
    assert UNK not in ids[data.rows["train"][0]]
    assert ids[data.rows["test"][0]][0] == UNK
    assert [
        vocabulary.decode(each) for each in encode_texts(vocabulary, ["IT\u2019S"], "words")
    ] == ["it's"]
    assert len(class_vocabulary(data, max_size=6)) == 6
    assert len(class_vocabulary(data, min_count=2)) == 4 + 3


@pytest.mark.parametrize("level", ["char", "subword"])
def test_characters_and_byte_pairs_keep_the_text(tmp_path, level):
    if level == "subword":
        pytest.importorskip("tokenizers")
    rows = [(f"정말 Good {i}!", name) for i, (_, name) in enumerate(OWN)]
    data = load_labelled(corpus=table(tmp_path, own_csv(rows)))
    vocabulary = class_vocabulary(data, level)
    apart = unicodedata.normalize("NFD", " 정말 Good 1! ")
    first, again, none = encode_texts(vocabulary, ["정말 Good 1!", apart, " \n"], data.new_cut)
    assert vocabulary.decode(first) == "정말 Good 1!"
    np.testing.assert_array_equal(first, again)
    assert none.shape == (0,)


# --- the real sets ---

REAL = {
    "rt_polarity": ((8635, 960, 1067), "rt_polarity"),
    "sst2": ((6917, 872, 1821), "sst2"),
    "sst5": ((8540, 1101, 2210), "sst5"),
    "trec": ((4900, 542, 500), "trec"),
    "trec_fine": ((4896, 546, 500), "trec"),
    "korean": ((9571, 1073, 1179), "korean_chatbot"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets_have_their_parts(name, monkeypatch):
    expected, folder = REAL[name]
    use_real(folder, monkeypatch)
    data = load_labelled(name)
    assert sizes(data) == expected
    assert_parts_are_apart(data, whole=name in ("rt_polarity", "korean"))
    vocabulary = class_vocabulary(data)
    tokens = encode_texts(vocabulary, data.part("test")[0], data.cut)
    share = np.mean(np.concatenate(tokens) == UNK)
    assert 0.005 < share < 0.35
    assert min(map(len, tokens)) >= 1


@pytest.mark.slow
def test_real_imdb_is_kept_apart(monkeypatch):
    use_real("imdb", monkeypatch)
    data = load_labelled("imdb")
    assert sizes(data) == (22_388, 2_489, 25_000)  # 123 of train are in test too
    assert_parts_are_apart(data, whole=False)
    assert np.bincount(data.part("test")[1]).tolist() == [12_500, 12_500]
    assert "<br" not in "".join(data.texts[:100])


def test_the_example_in_the_docs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "texts_to_classify.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    table(tmp_path, own_csv(header="review,stars"), "reviews.csv")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(code, namespace)
    assert capsys.readouterr().out.startswith("('bad', 'good') [32, 4, 4]")
    assert len(namespace["ids"]) == len(namespace["labels"]) == 32


def test_every_name_is_a_set():
    assert set(DATASETS) == {"negation", "imdb", *REAL}
