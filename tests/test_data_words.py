import os
import random
import re
import unicodedata
from pathlib import Path

import pytest

from seqlab.data.words import CUTS, cut_words, letters
from seqlab.errors import InputError


def cut(text, rule="words"):
    return " ".join(cut_words(text, rule))


def test_blanks_change_nothing():
    assert cut_words("  A\x85b,c \u00a0 D\u2019s\n", "blanks") == ["A", "b,c", "D\u2019s"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A gorgeous, witty film!", "a gorgeous , witty film !"),
        ("It's WELL-made... \u201cRight\u201d?", 'it\'s well-made . . . " right " ?'),
        ("don\u2019t 'quote' kids'", "don't ' quote ' kids '"),
        ("3.5 of 1,000 on 9/11, 1990.", "3.5 of 1,000 on 9/11 , 1990 ."),
        ("so--really -- yes", "so -- really -- yes"),
        ("재미없어요!! 최고의 영화다.", "재미없어요 ! ! 최고의 영화다 ."),
        ("हिन्दी में", "हिन्दी में"),
        ("\u200b", "\u200b"),
        ("", ""),
    ],
)
def test_words(text, expected):
    assert cut(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't think he'll, we've it's", "i do n't think he 'll , we 've it 's"),
        ('"Good" (so "they" say)', "`` good '' -lrb- so `` they '' say -rrb-"),
        ("Mr. Lee's U.S. debut...", "mr. lee 's u.s. debut ..."),
        ("o'fallon is well-made--really", "o'fallon is well-made -- really"),
        ("cast in a war. a", "cast in a war . a"),
        ("they'mean n'til", "they'mean n'til"),
    ],
)
def test_treebank(text, expected):
    assert cut(text, "treebank") == expected
    assert cut(text.upper(), "treebank") == expected
    assert cut(expected, "treebank") == expected  # what is cut already stays so


def test_treebank_cased_is_the_same_with_its_case():
    text = 'Who said "I\'ll be back" in the U.S. ?'
    assert cut(text, "treebank-cased") == "Who said `` I 'll be back '' in the U.S. ?"
    assert cut(text, "treebank-cased").lower() == cut(text, "treebank")


@pytest.mark.parametrize("rule", CUTS[1:])
def test_both_ways_to_write_a_syllable_are_one(rule):
    text = "정말 café"
    apart = unicodedata.normalize("NFD", text)
    assert apart != text
    assert cut(apart, rule) == cut(text, rule) == text


def test_runs_of_letters_are_those_of_the_plain_definition():
    marks = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code))[0] == "M"]
    plain = re.compile(rf"[\w{''.join(marks)}\u200c\u200d]+")
    draw = random.Random(0)
    letters_and_signs = ["ab9._ '-é", "हमกิ한\u200c\u200d\u0301", "\U0001d7d8\U00011000\u200b"]
    for _ in range(2000):
        text = "".join(draw.choice(draw.choice(letters_and_signs)) for _ in range(40))
        assert re.findall(letters(), text) == plain.findall(text)


def test_an_unknown_rule():
    with pytest.raises(InputError, match="did you mean 'treebank'"):
        cut_words("a", "treebanks")


@pytest.mark.parametrize(
    ("rule", "path", "encoding", "first", "share"),
    [
        ("words", "rt_polarity/rt-polarity.pos", "latin-1", 0, 0.90),
        ("treebank", "sst5/stsa.fine.test", "utf-8", 1, 0.98),
        ("treebank-cased", "trec/TREC.test.raw", "utf-8", 1, 0.99),
    ],
)
def test_real_sets_stay_as_they_were_cut(rule, path, encoding, first, share):
    beside = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("SEQLAB_DATA_MIRROR") or beside) / path
    if not file.is_file():
        pytest.skip(f"no {file}: set SEQLAB_DATA_MIRROR to a folder that holds {path}")
    lines = file.read_bytes().decode(encoding).split("\n")[:-1]
    texts = [line.split(" ", first)[-1] for line in lines]
    kept = [cut_words(text, rule) == text.split() for text in texts]
    assert sum(kept) / len(kept) >= share
