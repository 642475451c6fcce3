"""How well word vectors do on files of analogies and of pairs that people have judged."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seqlab.errors import InputError
from seqlab.files import numbered_lines

if TYPE_CHECKING:
    from seqlab.embeddings.vectors import Vectors


class Section(NamedTuple):
    """The questions of one section of a file of analogies."""

    name: str
    correct: int
    incorrect: int
    skipped: int  # one of the four words is unknown

    @property
    def coverage(self) -> float:
        """Share of the questions that are answered, right or wrong; NaN of no questions."""
        return _share(self.correct + self.incorrect, self.skipped)

    @property
    def accuracy(self) -> float:
        """Share of the answered questions that are answered right; NaN where none is."""
        return _share(self.correct, self.incorrect)


@dataclass(frozen=True)
class AnalogyScores:
    """What came of a file of analogies.

    Attributes:
      sections: in the file's order.
      dummy4unknown: whether a skipped question counts as answered wrong in the accuracy.
    """

    sections: tuple[Section, ...]
    dummy4unknown: bool = False

    @property
    def total(self) -> Section:
        """All sections together."""
        return self.group("total", [section.name for section in self.sections])

    @property
    def semantic(self) -> Section:
        """All sections that are not syntactic."""
        return self.group("semantic", [s.name for s in self.sections if not _is_syntactic(s)])

    @property
    def syntactic(self) -> Section:
        """The sections about grammar: those whose name begins with "gram", as in Google's file."""
        return self.group("syntactic", [s.name for s in self.sections if _is_syntactic(s)])

    @property
    def accuracy(self) -> float:
        """Share of questions answered right, of those answered; of all with `dummy4unknown`."""
        total = self.total
        return _share(total.correct, total.incorrect + self.dummy4unknown * total.skipped)

    @property
    def coverage(self) -> float:
        """Share of the questions whose four words are known."""
        return self.total.coverage

    def group(self, name: str, names: list[str]) -> Section:
        """Some sections as one."""
        chosen = [section for section in self.sections if section.name in names]
        return Section(
            name,
            sum(section.correct for section in chosen),
            sum(section.incorrect for section in chosen),
            sum(section.skipped for section in chosen),
        )


class PairScores(NamedTuple):
    """What came of a file of judged pairs; correlations are NaN where a side does not vary."""

    spearman: float  # of ranks
    pearson: float
    oov_rate: float  # share of the pairs with a word that is unknown
    num_used: int  # pairs that the correlations are over
    num_pairs: int  # pairs in the file


def score_analogies(
    vectors: "Vectors",
    path: Path,
    restrict_vocab: int | None,
    case_insensitive: bool,
    dummy4unknown: bool,
) -> AnalogyScores:
    """See `Vectors.evaluate_word_analogies`.

    A question a : b = c : d is right if d is the nearest word to b - a + c (unit vectors) that is
    none of a, b and c.

    Raises:
      InputError: a file that cannot be read or is no file of questions, with the line.

    References: Mikolov et al., 2013 (the questions); Levy and Goldberg, 2014 (3CosAdd).
    """
    rows_of = _rows_of(vectors, restrict_vocab, case_insensitive)
    names, questions, sections = [], [], []
    for section, words in _read_analogies(path):
        if section not in names:
            names.append(section)
        known = [rows_of.get(_folded(word, case_insensitive), ()) for word in words]
        questions.append(known)
        sections.append(names.index(section))
    answered = [question for question in questions if all(question)]
    is_correct = _answer(vectors, answered, restrict_vocab) if answered else np.empty(0, bool)
    counts = np.zeros((len(names), 3), int)
    outcomes = iter(is_correct.tolist())
    for section, question in zip(sections, questions, strict=True):
        outcome = (0 if next(outcomes) else 1) if all(question) else 2
        counts[section, outcome] += 1
    rows = zip(names, counts.tolist(), strict=True)
    return AnalogyScores(tuple(Section(name, *row) for name, row in rows), dummy4unknown)


def score_pairs(
    vectors: "Vectors",
    path: Path,
    delimiter: str,
    restrict_vocab: int | None,
    case_insensitive: bool,
    dummy4unknown: bool,
) -> PairScores:
    """See `Vectors.evaluate_word_pairs`.

    Raises:
      InputError: a file that holds no pairs, or a line of it that is none.
    """
    rows_of = _rows_of(vectors, restrict_vocab, case_insensitive)
    judged, found, num_pairs, num_unknown = [], [], 0, 0
    for word_1, word_2, score in _read_pairs(path, delimiter):
        rows = [rows_of.get(_folded(word, case_insensitive)) for word in (word_1, word_2)]
        num_pairs += 1
        num_unknown += None in rows
        if None not in rows:
            first, second = (vectors.units[row[0]] for row in rows if row)
            judged.append(score)
            found.append(float(first @ second))
        elif dummy4unknown:
            judged.append(score)
            found.append(0.0)
    if num_pairs == 0:
        raise InputError(f"{path} holds no pairs: expected lines of word, word, score")
    spearman = pearson = math.nan
    if len(set(judged)) > 1 and len(set(found)) > 1:
        from scipy import stats

        spearman = float(stats.spearmanr(judged, found)[0])  # type: ignore
        pearson = float(stats.pearsonr(judged, found)[0])  # type: ignore
    return PairScores(spearman, pearson, num_unknown / num_pairs, len(judged), num_pairs)


def _answer(vectors, questions, restrict_vocab):
    """Whether each question is answered right, bool [N].

    A question is the rows of its four words, each with those of its other spellings.
    """
    first = np.array([[word[0] for word in question[:3]] for question in questions])
    a, b, c = (vectors.units[rows] for rows in first.T)
    width = max(sum(map(len, question[:3])) for question in questions)
    exclude = np.full((len(questions), width), -1, np.int32)
    for out, question in zip(exclude, questions, strict=True):
        rows = sum(question[:3], ())
        out[: len(rows)] = rows
    found = vectors.neighbours(b - a + c, 1, exclude=exclude, restrict_vocab=restrict_vocab)
    answers = found.indices[:, 0].tolist()
    return np.array([row in question[3] for row, question in zip(answers, questions, strict=True)])


def _rows_of(vectors, restrict_vocab, case_insensitive) -> dict[str, tuple[int, ...]]:
    """Rows of every word; of several that differ in case alone, the first one's row comes first."""
    rows: dict[str, tuple[int, ...]] = {}
    for row, word in enumerate(vectors.words[:restrict_vocab]):
        word = _folded(word, case_insensitive)
        rows[word] = (*rows.get(word, ()), row)
    return rows


def _folded(word: str, case_insensitive: bool) -> str:
    return word.upper() if case_insensitive else word


def _read_analogies(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(section, its four words) of every question."""
    section = None
    for number, line in _text_lines(path):
        if line.startswith(": "):
            section = line[2:].strip()
            continue
        words = re.split("[ \t]+", line.strip(" \t"))
        if section is None:
            raise InputError(f"{path}:{number}: a question before the first section, ': name'")
        if len(words) != 4:
            raise InputError(f"{path}:{number}: expected four words, got {len(words)}")
        yield section, words
    if section is None:
        raise InputError(f"{path} holds no questions: expected sections, ': name', of four words")


def _read_pairs(path: Path, delimiter: str) -> Iterator[tuple[str, str, float]]:
    for number, line in _text_lines(path):
        if line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(delimiter)]
        if len(fields) != 3:
            raise InputError(
                f"{path}:{number}: expected word, word, score with {delimiter!r} between them, "
                f"got {len(fields)} fields"
            )
        try:
            score = float(fields[2])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(f"{path}:{number}: score {fields[2][:40]!r} is no number")
        yield fields[0], fields[1], score


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank, without a byte order mark."""
    for number, line in numbered_lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not UTF-8 ({error.reason})") from error
        if text.strip():
            yield number, text


def _is_syntactic(section: Section) -> bool:
    return section.name.startswith("gram")


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else math.nan
