"""Sets of pairs: a text to read and the text to answer with, for an encoder and a decoder.

| data set | source -> target | level, form | parts |
|---|---|---|---|
| dates (the default) | as people write them in 30 languages -> ISO 8601 | char, text | by date |
| copy, reverse, sort | letters -> the same, backwards, sorted | char, text | distinct strings |
| addition | 123+45678 -> 45801 | char, text | distinct sums |
| multi30k_de_en, multi30k_en_de | captions of images | word, words | its own, and test_2017 |
| tatoeba_en_fr, tatoeba_fr_en | sentences | word, words | by groups |
| tatoeba_en_ko, tatoeba_ko_en | sentences; Korean as the caller says | word, words | by groups |
| korean_chatbot | question -> answer; as the caller says | char, text | by groups |
| a corpus | two files of the user's own, line by line | as the caller says | by source |

One source may have several targets, which are then pairs of one part.

"By date": no date of valid or test is in train, in any language (`seqlab.data.dates`). "By groups":
pairs that have a source or a target in common stay together, so no sentence is in two parts and
both directions are cut alike. "By source": pairs with the same source stay together. Groups and
sources are cut at 90 and 95 % in the order of a hash, which depends on nothing but the texts.

The texts of a `Pairs` are as a model reads and writes them; the form says what was done.

* "words" cuts by the rule "words" of `cut_words`: lower case, words and signs with blanks between.
  That is for the targets too. So scores by words are of lower-cased tokens, with the references cut
  in the same way and no further (sacrebleu's `tokenize="none"`; its "13a" finds nothing more to cut
  in Multi30k's test targets). Say so beside the figure.
* "text" composes characters (NFC) and makes any white space, narrow no-break spaces too, a blank.
* "jamo" is "text" with Hangul syllables taken apart (NFD): 한 is three characters.

`as_read` does this to a text that somebody types; `as_shown` is the way back as far as there is
one: it composes syllables again.
"""

import gzip
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqlab.data import sources as files
from seqlab.data.checks import check_at_least, check_known
from seqlab.data.dates import date_pairs
from seqlab.data.text import (
    PARTS,
    chatbot_rows,
    composed_line,
    pairs_in_parts,
    part_cuts,
    read_utf8,
    text_digest,
)
from seqlab.data.words import cut_words
from seqlab.errors import InputError

SIZES = {"train": 20_000, "valid": 1_000, "test": 1_000}  # of a made-up set
STRING_TASKS = ("copy", "reverse", "sort", "addition")
LONGEST = {"copy": 20, "reverse": 20, "sort": 20, "addition": 4}  # letters, or digits of a number
LEVELS = ("word", "char", "subword")
KOREAN = ("char", "jamo", "subword")
FORMS = ("words", "text", "jamo")
FEWEST_SOURCES = 20  # of a corpus: one each to choose by and to test on

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
_DIGITS = np.frombuffer(b"0123456789", np.uint8)


class Pairs(NamedTuple):
    """Sources and targets of each part.

    Attributes:
      name: of the data set, or of the user's files.
      sources: part -> texts. The parts are "train", "valid" and "test"; Multi30k has "test_2017".
      targets: part -> texts, as many.
      source_level: what a token of the sources is by default: "word", "char" or "subword".
      target_level: likewise of the targets.
      source_form: what `as_read` makes of a new source, one of `FORMS`.
      target_form: likewise of a target.
      notes: what has to be said beside a result.
    """

    name: str
    sources: dict[str, list[str]]
    targets: dict[str, list[str]]
    source_level: str = "char"
    target_level: str = "char"
    source_form: str = "text"
    target_form: str = "text"
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Which pairs these are and in which part: a sha256, hexadecimal."""
        return text_digest(
            "\n".join(
                f"{part}\t{source}\t{target}"
                for part in self.sources
                for source, target in zip(self.sources[part], self.targets[part], strict=True)
            )
        )


def load_pairs(
    name: str = "dates",
    *,
    corpus: tuple[Path | str, Path | str] | None = None,
    levels: tuple[str, str] | None = None,
    seed: int | None = None,
    sizes: Mapping[str, int] | None = None,
    longest: int | None = None,
    korean: str | None = None,
) -> Pairs:
    """A set of pairs; the module says which there are and how they are cut.

    Args:
      name: one of `DATASETS`; the last seven are fetched, or read from a mirror.
      corpus: the user's own source and target file instead, see `load_pairs_of`.
      levels: of a corpus, what a token of its sources and of its targets is: "word" (the default),
        "char" or "subword".
      seed: of a made-up set, 0 by default.
      sizes: of a made-up set, pairs of each of its three parts; `SIZES` by default.
      longest: of copy, reverse and sort the most letters, and of addition the most digits of a
        number; see `LONGEST` for the default.
      korean: Korean by "char", a syllable each (the default), by "jamo" or by "subword".

    Raises:
      InputError: unknown set; both a name and a corpus; an argument that the set has no use for;
        sizes that are not those of the three parts, or more than half of the strings that there
        are; what `load_pairs_of` or `sources.fetch` raises.
    """
    if corpus is not None:
        if name != "dates":
            raise InputError(f"give either dataset ({name}) or corpus ({corpus[0]} ...), not both")
        name = "a corpus"
    else:
        check_known(name, DATASETS, "dataset")
    is_made_up = name == "dates" or name in STRING_TASKS
    for field, value, is_used in (
        ("levels", levels, corpus is not None),
        ("seed", seed, is_made_up),
        ("sizes", sizes, is_made_up),
        ("longest", longest, name in STRING_TASKS),
        ("korean", korean, name in ("tatoeba_en_ko", "tatoeba_ko_en", "korean_chatbot")),
    ):
        if value is not None and not is_used:
            raise InputError(f"{field} says nothing of {name}: leave it out")
    if corpus is not None:
        source_level, target_level = ("word", "word") if levels is None else levels
        return load_pairs_of(*corpus, source_level=source_level, target_level=target_level)
    if is_made_up:
        sizes = _checked_sizes(SIZES if sizes is None else sizes)
        seed = 0 if seed is None else seed
        if name == "dates":
            return _dates(sizes, seed)
        return _strings(name, sizes, seed, LONGEST[name] if longest is None else longest)
    korean = "char" if korean is None else korean
    check_known(korean, KOREAN, "korean")
    if name == "korean_chatbot":
        return _chatbot(korean)
    family, first, second = name.rsplit("_", 2)
    if family == "multi30k":
        return _multi30k(first, second)
    return _tatoeba(first, second, korean)


def load_pairs_of(
    source_file: Path | str,
    target_file: Path | str,
    *,
    source_level: str = "word",
    target_level: str = "word",
) -> Pairs:
    """The user's pairs: line n of one UTF-8 file and line n of the other.

    Lines that are empty in both files are passed over, and of the same pair only one is kept.

    Args:
      source_file: what is read, a text a line.
      target_file: what is answered, in as many lines.
      source_level: "word" for texts cut into lower-cased words, else "char" or "subword" for texts
        as they are.
      target_level: likewise.

    Raises:
      InputError: naming the file, and the line where there is one: a file that cannot be read or is
        not UTF-8; one with fewer lines than the other; a line that is empty in one of them; fewer
        than 20 distinct sources; an unknown level.
    """
    check_known(source_level, LEVELS, "source_level")
    check_known(target_level, LEVELS, "target_level")
    levels = source_level, target_level
    forms = _form_of(source_level), _form_of(target_level)
    one, other = Path(source_file), Path(target_file)
    rows = _aligned(one, other)
    pairs = _distinct((as_read(a, forms[0]), as_read(b, forms[1])) for a, b in rows)
    by_source: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        by_source.setdefault(pair[0], []).append(pair)
    check_at_least(
        len(by_source), FEWEST_SOURCES, f"{one}: number of distinct lines", "for three parts"
    )
    order = sorted(by_source, key=text_digest)
    cuts = part_cuts(len(order))
    parts = {
        part: [pair for source in order[a:b] for pair in by_source[source]]
        for part, a, b in zip(PARTS, cuts[:-1], cuts[1:], strict=True)
    }
    notes = ["no parts of its own: 90, 5 and 5 % of the distinct sources"]
    if len(pairs) < len(rows):
        notes.append(f"{len(rows) - len(pairs)} pairs are there twice, and are left out")
    return _made(f"{one.name} {other.name}", parts, levels, forms, tuple(notes))


def string_pairs(
    task: str, count: int, rng: np.random.Generator, shortest: int, longest: int
) -> tuple[list[str], list[str]]:
    """Sources and targets of a made-up task, `count` each; the same one may come again.

    * "copy", "reverse", "sort": letters of a to z; the length is uniform in shortest .. longest,
      and so is each letter.
    * "addition": "123+45678" and its sum, "45801"; the digits of each number are as many, uniform
      and without a zero in front.

    Args:
      task: one of `STRING_TASKS`.
      count: number of pairs.
      rng: source of the lengths and letters.
      shortest, longest: letters of a string, or digits of a number; equal for one length only.

    Raises:
      InputError: unknown task, no pair, or no such length.
    """
    check_known(task, STRING_TASKS, "task")
    check_at_least(count, 1, "count")
    check_at_least(shortest, 1, "shortest")
    check_at_least(longest, shortest, "longest", f"shortest is {shortest}")
    if task == "addition":
        one, other = (_numbers(rng, count, shortest, longest) for _ in range(2))
        sums = [str(int(a) + int(b)) for a, b in zip(one, other, strict=True)]
        return [f"{a}+{b}" for a, b in zip(one, other, strict=True)], sums
    lengths = rng.integers(shortest, longest, size=count, endpoint=True)
    letters = _LETTERS[rng.integers(len(_LETTERS), size=lengths.sum())]
    strings = _cut(letters, lengths)
    return strings, [_ANSWERS[task](string) for string in strings]


def as_read(text: str, form: str) -> str:
    """A text in the form that a set's texts have, for one that somebody types.

    Args:
      text: of one line or more; a line end counts as a blank.
      form: one of `FORMS`, such as `Pairs.source_form`; the module says what they are.

    Raises:
      InputError: an unknown form.
    """
    check_known(form, FORMS, "form")
    if form == "words":
        return " ".join(cut_words(text, "words"))
    line = composed_line(text)
    return unicodedata.normalize("NFD", line) if form == "jamo" else line


def as_shown(text: str) -> str:
    """A text that a model has written, with its syllables and accents composed (NFC)."""
    return composed_line(text)


def _made(
    name: str,
    parts: Mapping[str, Sequence[tuple[str, str]]],
    levels: tuple[str, str] = ("char", "char"),
    forms: tuple[str, str] = ("text", "text"),
    notes: tuple[str, ...] = (),
) -> Pairs:
    """Parts of pairs as a set."""
    return Pairs(
        name=name,
        sources={part: [source for source, _ in pairs] for part, pairs in parts.items()},
        targets={part: [target for _, target in pairs] for part, pairs in parts.items()},
        source_level=levels[0],
        target_level=levels[1],
        source_form=forms[0],
        target_form=forms[1],
        notes=notes,
    )


def _distinct(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each pair once, at its first place."""
    return list(dict.fromkeys(pairs))


# --- made up ---


def _checked_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    if set(sizes) != set(PARTS):
        raise InputError(f"sizes are of {' '.join(sizes)}, expected {' '.join(PARTS)}")
    for part in PARTS:
        check_at_least(sizes[part], 1, f"size of {part}")
    return {part: sizes[part] for part in PARTS}


def _draw_distinct(
    count: int, draw: Callable[[int], tuple[list[str], list[str]]]
) -> list[tuple[str, str]]:
    """Pairs until `count` sources are distinct; `draw` gives as many pairs as it is told."""
    found: dict[str, str] = {}
    while len(found) < count:
        for source, target in zip(*draw(count - len(found)), strict=True):
            if found.setdefault(source, target) != target:
                raise ValueError(f"{source!r} means both {found[source]} and {target}")
    return list(found.items())


def _dates(sizes: dict[str, int], seed: int) -> Pairs:
    parts = {}
    for number, (part, size) in enumerate(sizes.items()):
        rng = np.random.default_rng([seed, number])
        parts[part] = _draw_distinct(size, lambda n, rng=rng, p=part: date_pairs(n, rng, part=p))
    return _made("dates", parts, notes=("generated",))


def _strings(task: str, sizes: dict[str, int], seed: int, longest: int) -> Pairs:
    """Distinct strings, shuffled before they are cut: the few short ones come to all parts."""
    check_at_least(longest, 1, "longest")
    known = (10**longest) ** 2 if task == "addition" else sum(26**n for n in range(1, longest + 1))
    count = sum(sizes.values())
    if count > known // 2:
        raise InputError(
            f"longest {longest} allows {known} sources, too few for sizes of {count} in all: half "
            "of them is the most; make longest larger or the sizes smaller"
        )
    rng = np.random.default_rng(seed)
    pairs = _draw_distinct(count, lambda n: string_pairs(task, n, rng, 1, longest))
    pairs = [pairs[place] for place in rng.permutation(count).tolist()]
    ends = np.cumsum(list(sizes.values())).tolist()
    parts = {part: pairs[end - sizes[part] : end] for part, end in zip(sizes, ends, strict=True)}
    return _made(task, parts, notes=("generated",))


def _numbers(rng: np.random.Generator, count: int, shortest: int, longest: int) -> list[str]:
    """Whole numbers of so many digits; 0 has one."""
    lengths = rng.integers(shortest, longest, size=count, endpoint=True)
    digits = rng.integers(10, size=lengths.sum())
    starts = np.cumsum(lengths) - lengths
    leads = rng.integers(1, 10, size=count)
    digits[starts] = np.where(lengths > 1, leads, digits[starts])
    return _cut(_DIGITS[digits], lengths)


def _cut(characters: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Texts of the given lengths, one after the other; ASCII codes."""
    text = characters.tobytes().decode("ascii")
    ends = np.cumsum(lengths).tolist()
    return [text[end - n : end] for n, end in zip(lengths.tolist(), ends, strict=True)]


_ANSWERS: dict[str, Callable[[str], str]] = {
    "copy": str,
    "reverse": lambda string: string[::-1],
    "sort": lambda string: "".join(sorted(string)),
}


# --- from files ---


def _multi30k(source: str, target: str) -> Pairs:
    """Its own parts, whole. A caption of valid is in train too; `notes` tell how many."""
    found = files.fetch("multi30k_en_de")

    def read(part: str, language: str) -> list[str]:
        text = gzip.decompress(found[f"{part}.{language}.gz"].read_bytes()).decode("utf-8")
        return [as_read(line, "words") for line in text.removesuffix("\n").split("\n")]

    parts = {
        part: list(zip(read(file, source), read(file, target), strict=True))
        for part, file in _MULTI30K_FILES.items()
    }
    trained = {source for source, _ in parts["train"]}
    notes = [
        f"{shared} of {len(pairs)} sources of {part} are in train too, as published"
        for part, pairs in parts.items()
        if part != "train" and (shared := sum(source in trained for source, _ in pairs))
    ]
    name = f"multi30k_{source}_{target}"
    return _made(name, parts, ("word", "word"), ("words", "words"), tuple(notes))


def _tatoeba(source: str, target: str, korean: str) -> Pairs:
    """Sentences in groups, cut alike in both directions."""
    is_korean = "ko" in (source, target)
    text = _tatoeba_korean() if is_korean else _tatoeba_french()
    level, form = _korean_level(korean) if is_korean else ("word", "words")
    rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    # Syllables are taken apart only afterwards: the parts do not depend on it.
    whole = "text" if is_korean else "words"
    pairs = _distinct((as_read(row[0], "words"), as_read(row[1], whole)) for row in rows)
    parts = pairs_in_parts(pairs)
    if form != whole:
        parts = {
            part: [(english, as_read(korean, form)) for english, korean in pairs]
            for part, pairs in parts.items()
        }
    name = f"tatoeba_{source}_{target}"
    data = _made(name, parts, ("word", level), ("words", form), (_GROUPS_NOTE,))
    return data if source == "en" else _turned(data)


def _turned(data: Pairs) -> Pairs:
    """The other direction."""
    return data._replace(
        sources=data.targets,
        targets=data.sources,
        source_level=data.target_level,
        target_level=data.source_level,
        source_form=data.target_form,
        target_form=data.source_form,
    )


def _tatoeba_french() -> str:
    path = files.fetch("tatoeba_en_fr")["fra-eng.zip"]
    if path.suffix == ".gz":  # the stand-in
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    with zipfile.ZipFile(path) as archive:
        return archive.read("fra.txt").decode("utf-8")


def _tatoeba_korean() -> str:
    return read_utf8(files.fetch("tatoeba_en_ko")["kor.txt"])


def _chatbot(korean: str) -> Pairs:
    parts = pairs_in_parts(_distinct((row["Q"], row["A"]) for row in chatbot_rows()))
    level, form = _korean_level(korean)
    parts = {
        part: _distinct((as_read(one, form), as_read(other, form)) for one, other in pairs)
        for part, pairs in parts.items()
    }
    return _made("korean_chatbot", parts, (level, level), (form, form), (_GROUPS_NOTE,))


def _form_of(level: str) -> str:
    """How a corpus is read whose tokens are of a level."""
    return "words" if level == "word" else "text"


def _korean_level(korean: str) -> tuple[str, str]:
    """Level and form of Korean text."""
    return ("char" if korean == "jamo" else korean, "jamo" if korean == "jamo" else "text")


def _aligned(one: Path, other: Path) -> list[tuple[str, str]]:
    """Lines of two files that belong together."""
    lines = [read_utf8(path).removesuffix("\n").split("\n") for path in (one, other)]
    counts = [len(each) for each in lines]
    if counts[0] != counts[1]:
        longer, shorter = (one, other) if counts[0] > counts[1] else (other, one)
        raise InputError(
            f"{one} has {counts[0]} lines and {other} has {counts[1]}: line {min(counts) + 1} of "
            f"{longer} has no partner in {shorter}; both need a line for each pair"
        )
    rows = []
    for number, (source, target) in enumerate(zip(*lines, strict=True), start=1):
        is_there = bool(source.strip()), bool(target.strip())
        if not any(is_there):
            continue
        if not all(is_there):
            empty, full = (other, one) if is_there[0] else (one, other)
            raise InputError(
                f"{empty}, line {number} is empty, but line {number} of {full} is not; fill it in, "
                "or take the line out of both files"
            )
        rows.append((source, target))
    return rows


_MULTI30K_FILES = {
    "train": "train",
    "valid": "val",
    "test": "test_2016_flickr",
    "test_2017": "test_2017_flickr",
}
_GROUPS_NOTE = "no parts of its own: 90, 5 and 5 % of the groups of pairs with a text in common"
DATASETS = (
    "dates", *STRING_TASKS, "multi30k_de_en", "multi30k_en_de", "tatoeba_en_fr", "tatoeba_fr_en",
    "tatoeba_en_ko", "tatoeba_ko_en", "korean_chatbot",
)  # fmt: skip
