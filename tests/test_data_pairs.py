import gzip
import hashlib
import io
import os
import sys
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data import sources
from seqlab.data.pairs import (
    DATASETS,
    SIZES,
    STRING_TASKS,
    as_read,
    as_shown,
    load_pairs,
    load_pairs_of,
    string_pairs,
)
from seqlab.data.sources import File, StandIn
from seqlab.errors import InputError

ROOT = Path(__file__).parents[1]
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or ROOT.parent / "shared" / "data")
PARTS = ("train", "valid", "test")
SMALL = {"train": 200, "valid": 30, "test": 40}


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


def describe(name, content):
    return File(name, "", len(content), hashlib.sha256(content).hexdigest())


def put(tmp_path, name, contents):
    """A set whose files, of its own names, hold these bytes."""
    folder = tmp_path / "mirror" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, content in contents.items():
        (folder / file_name).write_bytes(content)
    sources.SOURCES[name] = tuple(describe(*each) for each in contents.items())
    return folder


def sizes(data):
    return {part: len(data.sources[part]) for part in data.sources}


def pairs_of(data, part):
    return list(zip(data.sources[part], data.targets[part], strict=True))


def assert_parts_are_apart(data, targets_too=False):
    for texts in (data.sources, data.targets)[: 1 + targets_too]:
        one, two, three = (set(texts[part]) for part in PARTS)
        assert not one & two | one & three | two & three
    for part in PARTS:
        pairs = pairs_of(data, part)
        assert len(set(pairs)) == len(pairs)
        assert all(source and target for source, target in pairs)


def failure(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rng(seed=0):
    return np.random.default_rng(seed)


# --- made up ---


def answer(task, source):
    if task == "addition":
        one, other = source.split("+")
        return str(int(one) + int(other))
    letters = {"copy": list, "reverse": reversed, "sort": sorted}[task](source)
    return "".join(letters)


@pytest.mark.parametrize("name", ["dates", *STRING_TASKS])
def test_made_up_sets_have_their_sizes_and_share_no_source(name):
    data = load_pairs(name)
    assert sizes(data) == SIZES == {"train": 20_000, "valid": 1_000, "test": 1_000}
    assert (data.name, data.source_level, data.target_level) == (name, "char", "char")
    assert_parts_are_apart(data, targets_too=name == "dates")
    assert all(len(set(data.sources[part])) == SIZES[part] for part in PARTS)
    assert data.notes == ("generated",)
    if name != "dates":
        assert all(
            answer(name, one) == other for part in PARTS for one, other in pairs_of(data, part)
        )


@pytest.mark.parametrize("name", ["dates", *STRING_TASKS])
def test_made_up_sets_are_those_of_the_seed(name):
    first, again, other = (load_pairs(name, sizes=SMALL, seed=seed) for seed in (1, 1, 2))
    assert sizes(first) == SMALL
    assert first == again != other
    assert first.digest == again.digest != other.digest
    assert load_pairs(name, sizes=SMALL).digest == load_pairs(name, sizes=SMALL, seed=0).digest


def test_lengths_are_uniform_and_short_strings_are_in_every_part():
    data = load_pairs("reverse")
    counts = Counter(map(len, data.sources["train"]))
    assert set(counts) == set(range(1, 21))
    assert all(abs(counts[n] - 20_000 / 19) < 200 for n in range(3, 21))
    assert 15 <= counts[1] <= 26
    assert max(map(len, load_pairs("copy", longest=7, sizes=SMALL).sources["train"])) == 7
    longest = [max(map(len, each.split("+"))) for each in load_pairs("addition").sources["train"]]
    assert set(longest) == {1, 2, 3, 4}


@given(
    task=st.sampled_from(STRING_TASKS),
    seed=st.integers(0, 5),
    shortest=st.integers(1, 40),
    more=st.integers(0, 10),
)
def test_strings_of_given_lengths(task, seed, shortest, more):
    found, answers = string_pairs(task, 50, rng(seed), shortest, shortest + more)
    assert len(found) == len(answers) == 50
    assert [answer(task, source) for source in found] == answers
    pieces = [piece for source in found for piece in source.split("+")]
    assert all(shortest <= len(piece) <= shortest + more for piece in pieces)
    assert all(piece == "0" or piece[0] != "0" for piece in pieces)
    assert {len(source.split("+")) for source in found} == {2 if task == "addition" else 1}
    assert string_pairs(task, 50, rng(seed), shortest, shortest + more) == (found, answers)


def test_every_letter_digit_and_length_is_drawn():
    found, _ = string_pairs("copy", 4000, rng(), 5, 40)
    assert set(map(len, found)) == set(range(5, 41))
    assert set("".join(found)) == set("abcdefghijklmnopqrstuvwxyz")
    numbers = "+".join(string_pairs("addition", 4000, rng(), 1, 2)[0]).split("+")
    assert set(numbers) == set(map(str, range(100)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "sorted"}, "did you mean 'sort'"),
        ({"count": 0}, "count must be 1 or more"),
        ({"shortest": 0}, "shortest must be 1 or more"),
        ({"longest": 4}, "longest must be 5 or more (shortest is 5), got 4"),
    ],
)
def test_strings_that_cannot_be(options, words):
    options = {"task": "copy", "count": 5, "rng": rng(), "shortest": 5, "longest": 9} | options
    assert words in failure(string_pairs, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "date"}, "did you mean 'dates'"),
        (
            {"name": "copy", "longest": 2},
            "longest 2 allows 702 sources, too few for sizes of 22000",
        ),
        ({"name": "copy", "longest": 0}, "longest must be 1 or more"),
        ({"name": "copy", "sizes": {"train": 5}}, "sizes are of train, expected train valid test"),
        ({"name": "copy", "sizes": SMALL | {"test": 0}}, "size of test must be 1 or more"),
        ({"name": "dates", "longest": 9}, "longest says nothing of dates: leave it out"),
        ({"name": "copy", "korean": "jamo"}, "korean says nothing of copy"),
        ({"name": "copy", "levels": ("word", "word")}, "levels says nothing of copy"),
        ({"name": "multi30k_de_en", "seed": 1}, "seed says nothing of multi30k_de_en"),
        ({"name": "tatoeba_en_fr", "korean": "char"}, "korean says nothing of tatoeba_en_fr"),
        (
            {"name": "korean_chatbot", "korean": "word"},
            "unknown korean 'word'; did you mean 'subword'?",
        ),
        ({"name": "copy", "corpus": ("a", "b")}, "either dataset (copy) or corpus (a ...)"),
        ({"corpus": ("a", "b"), "sizes": SMALL}, "sizes says nothing of a corpus"),
    ],
)
def test_sets_that_cannot_be(options, words):
    assert words in failure(load_pairs, **options)


# --- forms ---


def test_forms_of_a_text():
    assert as_read("Ein  Mädchen läuft, „sag\u2019s“.", "words") == (
        "ein mädchen läuft , „ sag's \" ."
    )
    assert as_read("Va\u202f! \u00abOui\u00a0\u00bb\n", "text") == "Va ! «Oui »"
    assert as_read(unicodedata.normalize("NFD", " 한국  말"), "text") == "한국 말"
    assert as_read("한", "jamo") == "\u1112\u1161\u11ab"
    assert as_shown(as_read("한국 말.", "jamo")) == "한국 말."
    assert "unknown form 'word'" in failure(as_read, "a", "word")


@given(st.text())
def test_forms_change_nothing_the_second_time(text):
    for form in ("text", "jamo"):
        once = as_read(text, form)
        assert as_read(once, form) == once
        assert as_shown(once) == as_read(text, "text")


# --- real sets, made small ---

MULTI30K = {
    "train": ["Zwei Männer.", "Ein Hund!"] * 15,
    "val": ["Ein Hund!", "Zwei Frauen."],
    "test_2016_flickr": ["Kein Hund."],
    "test_2017_flickr": ["Noch  ein Hund."],
}


def test_multi30k_has_its_own_parts(tmp_path):
    contents = {}
    for part, lines in MULTI30K.items():
        for language, tail in (("de", ""), ("en", " It's")):
            text = "".join(f"{line}{tail}\n" for line in lines)
            contents[f"{part}.{language}.gz"] = gzip.compress(text.encode())
    put(tmp_path, "multi30k_en_de", contents)
    data = load_pairs("multi30k_de_en")
    assert sizes(data) == {"train": 30, "valid": 2, "test": 1, "test_2017": 1}
    assert pairs_of(data, "test") == [("kein hund .", "kein hund . it's")]
    assert pairs_of(data, "test_2017") == [("noch ein hund .", "noch ein hund . it's")]
    assert (data.source_level, data.source_form) == ("word", "words")
    assert data.notes == ("1 of 2 sources of valid are in train too, as published",)
    turned = load_pairs("multi30k_en_de")
    assert (turned.sources, turned.targets) == (data.targets, data.sources)


def french_rows():
    rows = [(f"Number {i}.", f"Numéro\u202f{i}\u202f!") for i in range(300)]
    rows += [(f"Number {i}.", f"Le {i}.") for i in range(0, 300, 3)]  # several translations
    rows += [(f"The {i}.", f"le {i} .") for i in range(0, 300, 9)]  # one of several
    return [*rows, rows[0], ("number 0.", "numéro 0!")]


@pytest.mark.parametrize("is_packed", [True, False], ids=["stand-in", "official"])
def test_tatoeba_is_cut_by_groups_and_alike_in_both_directions(tmp_path, is_packed):
    text = "".join(f"{english}\t{french}\n" for english, french in french_rows()).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("_about.txt", "")
        file.writestr("fra.txt", text)
    if is_packed:
        packed = gzip.compress(text)
        put(tmp_path, "tatoeba_en_fr", {"fra.txt.gz": packed})
        stand_in = StandIn("fra.txt.gz", len(packed), hashlib.sha256(packed).hexdigest())
        sources.SOURCES["tatoeba_en_fr"] = (File("fra-eng.zip", "", 1, "", (stand_in,)),)
    else:
        put(tmp_path, "tatoeba_en_fr", {"fra-eng.zip": archive.getvalue()})
    data = load_pairs("tatoeba_en_fr")
    assert_parts_are_apart(data, targets_too=True)
    assert sum(sizes(data).values()) == len(french_rows()) - 2
    assert ("number 7 .", "numéro 7 !") in [pair for part in PARTS for pair in pairs_of(data, part)]
    assert sizes(data)["train"] > 8 * sizes(data)["valid"]
    turned = load_pairs("tatoeba_fr_en")
    assert (turned.sources, turned.targets) == (data.targets, data.sources)


def put_korean(tmp_path):
    rows = "".join(f"It's {i}.\t그건  {i}야.\tby somebody\n" for i in range(100))
    put(tmp_path, "tatoeba_en_ko", {"kor.txt": unicodedata.normalize("NFD", rows).encode()})


@pytest.mark.parametrize("korean", ["char", "jamo", "subword"])
def test_korean_as_the_caller_says(tmp_path, korean):
    put_korean(tmp_path)
    data = load_pairs("tatoeba_en_ko", korean=korean)
    assert sizes(data) == {"train": 90, "valid": 5, "test": 5}
    assert_parts_are_apart(data, targets_too=True)
    source, target = pairs_of(data, "train")[0]
    number = source.split()[1]
    assert source == f"it's {number} ."
    assert as_shown(target) == f"그건 {number}야."
    assert unicodedata.is_normalized("NFD" if korean == "jamo" else "NFC", target)
    assert data.target_level == ("subword" if korean == "subword" else "char")
    assert as_read(as_shown(target), data.target_form) == target
    assert data.sources == load_pairs("tatoeba_en_ko").sources  # the parts do not depend on it
    turned = load_pairs("tatoeba_ko_en", korean=korean)
    assert (turned.sources, turned.targets) == (data.targets, data.sources)
    assert (turned.source_form, turned.source_level) == (data.target_form, data.target_level)


def test_questions_with_one_answer_stay_together(tmp_path):
    rows = "".join(f"질문 {i},답 {i // 4},0\n" for i in range(400)) + "질문 0,답 0,1\n"
    put(tmp_path, "korean_chatbot", {"ChatbotData.csv": f"Q,A,label\n{rows}".encode()})
    data = load_pairs("korean_chatbot")
    assert sizes(data) == {"train": 360, "valid": 20, "test": 20}
    assert_parts_are_apart(data, targets_too=True)
    assert (data.source_level, data.target_level) == ("char", "char")
    jamo = load_pairs("korean_chatbot", korean="jamo")
    assert [as_shown(text) for text in jamo.targets["test"]] == data.targets["test"]


# --- the user's own ---


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def own(tmp_path, ones, others):
    return tuple(
        write(tmp_path, name, "".join(f"{line}\n" for line in lines))
        for name, lines in (("mine.de", ones), ("mine.en", others))
    )


def test_two_files_of_ones_own(tmp_path):
    ones = [f"Wort {i // 2}!" for i in range(200)]
    files = own(tmp_path, ["", *ones, ones[0]], [" ", *(f"W {i}." for i in range(200)), "w 0."])
    data = load_pairs_of(*files)
    assert data.name == "mine.de mine.en"
    assert sizes(data) == {"train": 180, "valid": 10, "test": 10}
    assert_parts_are_apart(data)
    assert ("wort 3 !", "w 6 .") in [pair for part in PARTS for pair in pairs_of(data, part)]
    assert data.notes[1] == "1 pairs are there twice, and are left out"
    assert (data.source_level, data.target_form) == ("word", "words")
    assert load_pairs(corpus=files) == data
    assert load_pairs_of(*map(str, files)).digest == data.digest


def test_a_corpus_by_characters_stays_as_it_is(tmp_path):
    files = own(tmp_path, [f"C1=CC{i}" for i in range(30)], [f"Benzol,  {i}" for i in range(30)])
    data = load_pairs(corpus=files, levels=("char", "subword"))
    assert (data.source_level, data.target_level) == ("char", "subword")
    found = dict(pair for part in PARTS for pair in pairs_of(data, part))
    assert found["C1=CC7"] == "Benzol, 7"
    mixed = load_pairs_of(*files, target_level="word", source_level="char")
    assert (mixed.source_form, mixed.target_form) == ("text", "words")


@given(seeds=st.lists(st.integers(0, 60), min_size=60, max_size=120))
def test_no_source_of_a_corpus_is_in_two_parts(tmp_path, seeds):
    lines = [*seeds, *range(100, 120)]
    data = load_pairs_of(*own(tmp_path, [f"q {n}" for n in lines], [f"a {n % 7}" for n in lines]))
    assert_parts_are_apart(data)
    assert sum(sizes(data).values()) == len(set(lines))
    assert min(sizes(data).values()) >= 1


LINES = [f"line {i}" for i in range(30)]


@pytest.mark.parametrize(
    ("ones", "others", "words"),
    [
        (
            LINES,
            LINES[:28],
            "mine.de has 30 lines and mine.en has 28: line 29 of mine.de has no partner in mine.en",
        ),
        (
            LINES[:10],
            LINES,
            "mine.de has 10 lines and mine.en has 30: line 11 of mine.en has no partner in mine.de",
        ),
        (
            [*LINES[:4], " ", *LINES[5:]],
            LINES,
            "mine.de, line 5 is empty, but line 5 of mine.en is not; fill it in",
        ),
        (
            [*LINES[:5], "", "x"],
            [*LINES[:6], ""],
            "mine.de, line 6 is empty, but line 6 of mine.en",
        ),
        (LINES, [*LINES[:29], "\t"], "mine.en, line 30 is empty, but line 30 of mine.de is not"),
        (LINES[:19], LINES[:19], "mine.de: number of distinct lines must be 20 or more"),
        (["a"] * 30, LINES, "number of distinct lines must be 20 or more (for three parts), got 1"),
    ],
)
def test_files_that_do_not_fit(tmp_path, ones, others, words):
    message = failure(load_pairs_of, *own(tmp_path, ones, others))
    assert words in message.replace(f"{tmp_path}{os.sep}", "")


def test_files_that_cannot_be_read(tmp_path):
    good = write(tmp_path, "good", "a\n" * 30)
    assert "missing does not exist" in failure(load_pairs_of, good, tmp_path / "missing")
    assert "bad is not UTF-8" in failure(load_pairs_of, write(tmp_path, "bad", b"a\n\xff\n"), good)
    assert "void is empty" in failure(load_pairs_of, write(tmp_path, "void", "\n"), good)
    assert "unknown source_level" in failure(load_pairs_of, good, good, source_level="words")


# --- real sets ---


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("multi30k_de_en", "multi30k_en_de", (29_000, 1_014, 1_000, 1_000)),
        ("tatoeba_en_fr", "tatoeba_en_fr", (128_413, 7_084, 7_099)),
        ("tatoeba_en_ko", "tatoeba_en_ko", (2_994, 162, 162)),
        ("korean_chatbot", "korean_chatbot", (10_603, 596, 551)),
    ],
)
def test_real_sets(name, folder, expected, monkeypatch):
    use_real(folder, monkeypatch)
    data = load_pairs(name)
    assert tuple(sizes(data).values()) == expected
    texts = [text for each in (data.sources, data.targets) for part in PARTS for text in each[part]]
    assert all(texts)
    assert not {"\u202f", "\u00a0", "\t", "\n"} & set("".join(texts))
    if folder == "multi30k_en_de":
        assert data.notes[0] == "1 of 1014 sources of valid are in train too, as published"
        assert pairs_of(data, "test")[0] == (
            "ein mann mit einem orangefarbenen hut , der etwas anstarrt .",
            "a man in an orange hat starring at something .",
        )
    else:
        assert_parts_are_apart(data, targets_too=True)


@pytest.mark.parametrize("name", ["multi30k_en_de", "multi30k_de_en"])
def test_sacrebleu_cuts_the_test_targets_no_further(name, monkeypatch):
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    use_real("multi30k_en_de", monkeypatch)
    targets = load_pairs(name).targets["test"]
    assert [tokenizer(text) for text in targets] == targets


def test_every_set_has_a_name():
    assert len(set(DATASETS)) == len(DATASETS) == 12
